"""Many slow streams at once through a gateway: none lost, all rows written, memory bounded.

    python tests/many_streams.py --streams 2000

The upstream, the gateway and the clients share one process and one event loop here, so the figures are upper bounds:
what is printed as memory is all three together, less what they took before. `tests/test_gateway_faults.py` runs the
same with fewer streams. Figures are printed, never asserted. It needs four file descriptors a stream.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from scripted import JSON_TYPE, Rig, conversation, decoded, rig
from streamfold.gateway.scripted import Received, Script

PATH = "/v1/chat/completions"


class Seen(NamedTuple):
    """How it went. `whole` streams came whole and with their own bytes, `right` rows have their own text."""

    whole: int
    rows: int
    right: int
    dropped: int
    seconds: float
    peak_bytes: int


def script_for(name: str, events: int, pace: float) -> Script:
    """A slow stream with words of its own."""
    steps: list[Any] = []
    for number in range(events):
        finish = "stop" if number == events - 1 else None
        choice = {"index": 0, "delta": {"content": f"{name}.{number} "}, "finish_reason": finish}
        steps += [pace, b"data: " + msgspec.json.encode({"id": name, "choices": [choice]}) + b"\n\n"]
    return Script([*steps, b"data: [DONE]\n\n"])


async def crowd(directory: Path, *, streams: int, events: int, pace: float, **flags: Any) -> Seen:
    """Runs so many streams at once, of so many events each, `pace` seconds apart."""

    def answer(request: Received) -> Script:
        return script_for(msgspec.json.decode(request.body)["model"], events, pace)

    async with rig(directory, **flags) as gateway:
        gateway.upstream.route("POST", PATH, answer)
        before, began = _memory(), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_one(gateway, f"s{number}", events)) for number in range(streams)]
        seconds, peak = time.perf_counter() - began, _memory() - before
        await asyncio.to_thread(gateway.store.flush, 120)
        rows = [row for row in await asyncio.to_thread(gateway.store.rows, streams + 1) if row.ended]
        whole = [await asyncio.to_thread(gateway.store.get, row.id) for row in rows]
        dropped = gateway.store.dropped
    wanted = {f"s{number}": "".join(f"s{number}.{event} " for event in range(events)) for number in range(streams)}
    right = sum(
        row is not None
        and row.status == "success"
        and decoded(row)["output_message"]["content"] == wanted.get(row.model or "")
        for row in whole
    )
    return Seen(sum(task.result() for task in tasks), len(rows), right, dropped, seconds, peak)


async def _one(gateway: Rig, name: str, events: int) -> bool:
    body = msgspec.json.encode({"model": name, "stream": True})
    received, whole = b"", False
    async with conversation(gateway.address, "POST", "/openai" + PATH, JSON_TYPE, body, patience=600) as talk:
        await talk.receive()
        while not whole:
            event = await talk.receive()
            data = getattr(event, "data", None)
            whole = data is None
            received += data or b""
    return received == script_for(name, events, 0).body


def _memory() -> int:
    """The process's resident bytes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--events", type=int, default=60)
    parser.add_argument("--pace", type=float, default=0.5, help="seconds between two events")
    args = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as directory:
        began = time.process_time()
        seen = asyncio.run(crowd(Path(directory), streams=args.streams, events=args.events, pace=args.pace))
        cpu = time.process_time() - began
    print(
        f"{args.streams} streams of {args.events} events, {args.pace} s apart: {seen.seconds:.1f} s, {cpu:.1f} s of CPU"
    )
    print(
        f"whole at the client {seen.whole}, rows {seen.rows}, rows with the right text {seen.right}, "
        f"dropped {seen.dropped}"
    )
    print(f"memory (upstream, gateway and clients together): {seen.peak_bytes / 2**20:.0f} MiB")
    sys.exit(not (seen.whole == seen.rows == seen.right == args.streams))


if __name__ == "__main__":
    main()
