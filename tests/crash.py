"""Kill -9 in the middle of many streams: what the clients saw, against what the log says after the next start.

    python tests/crash.py --streams 200

The gateway is `streamfold serve` in a process of its own, between clients and an upstream that are in this one. Some
streams are held half-way until the end; all others come at a pace of their own and are anywhere when the kill comes.
Just before it the log's database is locked, so that the last rows are in the journal only; so that there are such rows
on a slow machine too, some streams do not end before.
`tests/test_gateway_crash.py` asserts what is printed here.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import h11
import msgspec
from sqlalchemy import func, select

from scripted import ask, conversation, decoded
from streamfold.gateway.scripted import Received, Script, ScriptedUpstream
from streamfold.store import LogRow, LogStore
from streamfold.store.schema import request_log

PATH = "/v1/chat/completions"
PATIENCE = 120.0
EVENTS = 60
HELD = 10
"""One stream of so many is held half-way, and another ends only when the log cannot be written any more."""
CONFIG = "[plugins.logging]\ncheckpoint_s = 0.2\n"


@dataclass
class Client:
    """One stream, as its client saw it."""

    number: int
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    body: bytes = b""
    whole: bool = False
    """Whether it has seen the end."""

    @property
    def is_held(self) -> bool:
        return self.number % HELD == 0

    @property
    def is_late(self) -> bool:
        return self.number % HELD == 1

    @property
    def words(self) -> list[str]:
        return [f"{self.number}.{place} " for place in range(EVENTS)]


@dataclass
class Aftermath:
    """What was found after the next start."""

    streams: int
    ended: int = 0
    """Streams whose clients had seen the end."""
    finished: int = 0
    abandoned: int = 0
    with_text: int = 0
    """Abandoned rows that hold a part of the answer."""
    lost: list[int] = field(default_factory=list)
    doubled: int = 0
    wrong: list[str] = field(default_factory=list)
    journal_at_kill: int = 0
    """Bytes in the files of the queue when the process was dead."""
    journal_after: int = 0
    recovered_s: float = 0.0
    """From the second start until nothing waited and nothing was left open."""


async def crash(directory: Path, streams: int) -> Aftermath:
    """Kills a gateway in the middle of its streams, starts it again, and looks."""
    (directory / "g.toml").write_text(CONFIG)
    clients = [Client(number) for number in range(streams)]
    result = Aftermath(streams)
    locked = asyncio.Event()
    async with ScriptedUpstream() as upstream:
        upstream.route("POST", PATH, partial(_answer, locked=locked))
        flags = ["--config", "g.toml", "--upstream", f"openai={upstream.url}", "--db", "log.db"]
        async with serving(directory, *flags) as (process, address):
            await _until_in_the_middle(directory, address, clients, process, locked)
        result.journal_at_kill = _queued(directory)
        began = time.monotonic()
        async with serving(directory, *flags) as (process, address):
            await _until_recovered(directory, address)
            result.recovered_s = time.monotonic() - began
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.communicate(), PATIENCE)
    result.journal_after = _queued(directory)
    with LogStore.open_existing(str(directory / "log.db")) as store:
        _compare(store, clients, result)
    return result


@asynccontextmanager
async def serving(directory: Path, *flags: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str], None]:
    """`streamfold serve` on a free port, and its address. At the end of the block it is killed, if it still runs."""
    command = [sys.executable, "-m", "streamfold", "serve", "--port", "0", *flags]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=directory, stdout=pipe, stderr=pipe)
    assert process.stderr is not None
    try:
        said = (await asyncio.wait_for(process.stderr.readline(), PATIENCE)).decode()
        found = re.search(r"http://\S+:\d+", said)
        assert found is not None, said
        yield process, found[0]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# ---------------------------------------------------------------------- both ends of the streams


def _answer(request: Received, locked: asyncio.Event) -> Script:
    """The stream of a number: held half-way, or at a pace of its own; a late one waits for the lock before its end."""
    client = Client(int(request.header("x-number") or 0))
    chance = random.Random(client.number)
    pace = chance.uniform(0.0, 0.15)
    steps: list[bytes | float | asyncio.Event] = []
    for place, word in enumerate(client.words):
        if client.is_late and place == EVENTS - 1:
            steps.append(locked)
        steps.append(_event({"content": word}, "stop" if place == EVENTS - 1 else None))
        steps.append(chance.uniform(0.0, pace))
        if client.is_held and place == EVENTS // 2:
            steps.append(asyncio.Event())
    return Script([*steps, b"data: [DONE]\n\n"])


def _event(delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


async def _stream(address: str, client: Client) -> None:
    """Reads a stream to its end, or to where the gateway dies."""
    asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": f"number {client.number}"}]}
    number = str(client.number)
    headers = [("content-type", "application/json"), ("x-number", number), ("x-streamfold-meta-number", number)]
    with suppress(h11.RemoteProtocolError, ConnectionError, TimeoutError):
        async with conversation(address, "POST", "/openai" + PATH, headers, msgspec.json.encode(asked)) as talk:
            while not client.whole:
                event = await talk.receive()
                client.body += event.data if isinstance(event, h11.Data) else b""
                client.whole = isinstance(event, h11.EndOfMessage)
                if client.body:
                    client.begun.set()


async def _until_in_the_middle(
    directory: Path,
    address: str,
    clients: list[Client],
    process: asyncio.subprocess.Process,
    locked: asyncio.Event,
) -> None:
    """Begins all streams; kills the gateway when half of them have ended, the last of them while the log was locked."""
    late = [client for client in clients if client.is_late]
    tasks = [asyncio.create_task(_stream(address, client)) for client in clients]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(client.begun.wait() for client in clients))
        while not await asyncio.to_thread(_has_checkpoints, directory, clients):
            await asyncio.sleep(0.01)
        with _locked(directory):
            locked.set()
            while not (_ended(late) >= len(late) // 2 and _ended(clients) >= len(clients) // 2):
                await asyncio.sleep(0.001)
            process.kill()
            await process.wait()
        await asyncio.gather(*tasks)


def _ended(clients: list[Client]) -> int:
    """How many of them have seen the end."""
    return sum(client.whole for client in clients)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Nobody else can write into the log while the block runs, so what ends now waits in the journal."""
    with closing(sqlite3.connect(directory / "log.db", timeout=PATIENCE, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def _has_checkpoints(directory: Path, clients: list[Client]) -> bool:
    """Whether the log holds the first half of each held stream."""
    with LogStore.open_existing(str(directory / "log.db")) as store:
        found = {number for number, row in _rows(store) if row.record and f"{number}.{EVENTS // 2} " in row.record}
    return found >= {client.number for client in clients if client.is_held}


async def _until_recovered(directory: Path, address: str) -> None:
    """Until nothing waits and no row of the dead process is left open."""
    async with asyncio.timeout(PATIENCE):
        while True:
            metrics = (await ask(address, "GET", "/metrics")).body
            with LogStore.open_existing(str(directory / "log.db")) as store:
                if b"\nstreamfold_log_rows_waiting 0.0\n" in metrics and not store.rows(1, status="processing"):
                    return
            await asyncio.sleep(0.02)


# ---------------------------------------------------------------------- looking


def _rows(store: LogStore) -> list[tuple[int, LogRow]]:
    with store.connect() as connection:
        rows = [LogRow(**row) for row in connection.execute(select(request_log)).mappings()]
    return [(int(msgspec.json.decode(row.metadata or "{}")["number"]), row) for row in rows]


def _queued(directory: Path) -> int:
    return sum(path.stat().st_size for path in (directory / "log.db.queue").rglob("*.rows"))


def _compare(store: LogStore, clients: list[Client], result: Aftermath) -> None:
    rows = _rows(store)
    of = dict(rows)
    with store.connect() as connection:
        result.doubled = (connection.scalar(select(func.count()).select_from(request_log)) or 0) - len(of)
    for client in clients:
        result.ended += client.whole
        row = of.get(client.number)
        if row is None:
            result.lost.append(client.number)
            continue
        text = ((decoded(row) or {}).get("output_message") or {}).get("content") or ""
        result.finished += row.status == "success"
        result.abandoned += row.status == "abandoned"
        result.with_text += row.status == "abandoned" and bool(text)
        if not _is_right(client, row, text):
            result.wrong.append(f"{client} is {row.status} with {text!r}")


def _is_right(client: Client, row: LogRow, text: str) -> bool:
    """The row of a stream says what its client saw; of one in flight, no more than there was, and that it is over."""
    whole = "".join(client.words)
    asked = f"number {client.number}" in (row.request or "") and row.ended is not None
    if row.status == "success":  # also where the kill came between the row and the client's last read
        return asked and text == whole and row.finish_reason == "stop"
    half = "".join(client.words[: EVENTS // 2 + 1])
    return (
        asked
        and not client.whole
        and row.status == "abandoned"
        and whole.startswith(text)
        and (text == half or not client.is_held)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = asyncio.run(crash(Path(directory), asked.streams))
    print(f"kill -9 in the middle of {result.streams} streams, {result.ended} of them ended for their clients")
    print(f"  rows: {result.finished} finished, {result.abandoned} abandoned ({result.with_text} with partial text)")
    print(f"  lost {len(result.lost)}, doubled {result.doubled}, wrong {len(result.wrong)}")
    print(f"  journal: {result.journal_at_kill:,} bytes at the kill, {result.journal_after:,} after the next start")
    print(f"  recovered {result.recovered_s:.1f} s after the command to start")


if __name__ == "__main__":
    main()
