"""Faults put in on purpose: what the client sees of each, and what the row says."""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h11
import msgspec
import pytest

from many_streams import crowd
from scripted import PATIENCE, ask, conversation, decoded, rig
from servers import postgres_server
from streamfold.gateway.config import Drain, Timeouts
from streamfold.gateway.scripted import HANG_UP, RESET, Script

PATH = "/v1/chat/completions"
VIA = "/openai" + PATH
JSON = [("content-type", "application/json")]
BODY = msgspec.json.encode({"model": "m", "stream": True, "messages": []})
NEVER = 3600.0


def delta(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + msgspec.json.encode({"id": "c", "choices": [choice]}) + b"\n\n"


START, REST = delta("Half of "), delta("it", "stop") + b"data: [DONE]\n\n"
NOISE = random.Random(5).randbytes(5000).replace(b"\n", b"x")
LONG = "x" * 10_000_000
LOGGED = 100_000
"""Characters of a text that the log keeps in any case; it shortens longer ones."""


class Fault(NamedTuple):
    """What the upstream does; what the client gets, and whether it looks whole; what the row says."""

    steps: list[Any]
    got: bytes
    whole: bool
    status: str
    text: str | None = "Half of "
    anomalies: tuple[str, ...] = ()


FAULTS = {
    "reset": Fault([START, RESET], START, False, "truncated"),
    "hang-up": Fault([START, HANG_UP], START, False, "truncated"),
    "reset in the middle of an event": Fault([START, REST[:30], RESET], START + REST[:30], False, "truncated"),
    "body ends without its end": Fault([START], START, True, "truncated"),
    "body ends in half an event": Fault([START, REST[:30]], START + REST[:30], True, "truncated"),
    "no body at all": Fault([], b"", True, "empty", None),
    "error after 200": Fault(
        [START, b'data: {"error":{"message":"oh","type":"server_error"}}\n\n'],
        START + b'data: {"error":{"message":"oh","type":"server_error"}}\n\n',
        True,
        "error",
    ),
    "garbage between events": Fault(
        [START, b"data: " + NOISE + b"\n\n", REST],
        START + b"data: " + NOISE + b"\n\n" + REST,
        True,
        "success",
        "Half of it",
        ("malformed_json",),
    ),
    "garbage and nothing else": Fault([NOISE], NOISE, True, "empty", None),
    "a line of 10 MB": Fault(
        [START, delta(LONG), REST], START + delta(LONG) + REST, True, "success", f"Half of {LONG}it"
    ),
    "a line of 10 MB of garbage": Fault(
        [START, b"data: " + LONG.encode() + b"\n\n", REST],
        START + b"data: " + LONG.encode() + b"\n\n" + REST,
        True,
        "success",
        "Half of it",
        ("malformed_json",),
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_fault_of_the_upstream(tmp_path: Path, fault: Fault) -> None:
    """The client sees what the upstream did, no more and no less; the row keeps what came and says how it ended."""
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, Script(fault.steps))
        reply = await ask(gateway.address, "POST", VIA, JSON, BODY)
        row = await gateway.row()

    record = decoded(row)
    # A reset may overtake what was sent before it, without a gateway as well as with one.
    assert fault.got.startswith(reply.body) if RESET in fault.steps else reply.body == fault.got
    assert (reply.status, reply.whole) == (200, fault.whole)
    assert (row.status, row.http_status) == (fault.status, 200)
    if RESET not in fault.steps:
        content = (record["output_message"] or {}).get("content")
        assert (content[:LOGGED] if content else content) == (fault.text[:LOGGED] if fault.text else None)
    assert set(fault.anomalies) <= set(record["integrity"]["anomalies"])


async def test_stall(tmp_path: Path) -> None:
    """A stalled upstream is left after the timeout; the client reads an error event, the row says timeout."""
    async with rig(tmp_path, timeouts=Timeouts(chunk_s=0.15)) as gateway:
        gateway.upstream.route("POST", PATH, Script([START, NEVER]))
        reply = await ask(gateway.address, "POST", VIA, JSON, BODY)
        row = await gateway.row()

    assert reply.body.startswith(START + b'data: {"error":')
    assert (reply.whole, row.status, decoded(row)["output_message"]["content"]) == (True, "timeout", "Half of ")


async def test_slow_reader_holds_the_upstream_back(tmp_path: Path) -> None:
    """A client that reads slowly slows the upstream: what lies between them is bounded, and nothing is lost."""
    piece, count, lead = delta("y" * 60_000), 400, []
    sent = 0

    class Counted(list[Any]):
        """Counts the pieces as the upstream takes them."""

        def __iter__(self) -> Iterator[Any]:
            nonlocal sent
            for each in super().__iter__():
                yield each
                sent += len(each)

    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, Script(Counted([piece] * count + [REST])))
        async with conversation(gateway.address, "POST", VIA, JSON, BODY) as talk:
            received = 0
            await talk.receive()
            while isinstance(event := await talk.receive(), h11.Data):
                received += len(event.data)
                lead.append(sent - received)
                await asyncio.sleep(0)
        row = await gateway.row()

    assert received == len(piece) * count + len(REST)
    assert max(lead) < 16_000_000 < received
    assert (row.status, row.chunks) == ("success", count + 1)


async def test_client_that_never_reads(tmp_path: Path) -> None:
    """A client that does not read stops the upstream too; when it leaves, the row says cancelled."""
    piece = delta("y" * 60_000)
    sent = 0

    class Endless(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            nonlocal sent
            while True:
                sent += len(piece)
                yield piece

    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, Script(Endless()))
        _, writer = await asyncio.open_connection("127.0.0.1", int(gateway.address.rpartition(":")[2]), limit=1024)
        head = b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % (VIA.encode(), len(BODY)) + BODY)
        before = 0
        while sent == 0 or sent != before:  # until the upstream itself is stuck
            before = sent
            await asyncio.sleep(0.2)
        writer.transport.abort()
        row = await gateway.row()

    assert 0 < sent < 32_000_000
    assert row.status == "cancelled"


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_full_disk(tmp_path: Path) -> None:
    """While neither database nor journal can grow, clients are served; when there is room again, the row is written."""
    script = Script([delta("z" * 400_000), REST])
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, script)
        await ask(gateway.address, "POST", VIA, JSON, BODY)
        await gateway.row()
        sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
        with full_disk(max(sizes)):
            replies = [await ask(gateway.address, "POST", VIA, JSON, BODY) for _ in range(5)]
            async with asyncio.timeout(PATIENCE):
                while not (waiting := gateway.store.waiting):  # large rows are made beside the traffic
                    await asyncio.sleep(0.005)
        rows = await gateway.rows(6)

    assert [(reply.status, reply.body == script.body, reply.whole) for reply in replies] == [(200, True, True)] * 5
    assert [row.status for row in rows] == ["success"] * 6
    assert waiting > 0
    assert gateway.store.dropped == 0


async def test_database_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While PostgreSQL is away clients are served; when it is back, the rows are there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with postgres_server() as server:
        async with rig(tmp_path, log=server.database()) as gateway:
            gateway.upstream.route("POST", PATH, Script([START, REST]))
            await ask(gateway.address, "POST", VIA, JSON, BODY)
            await gateway.row()
            await asyncio.to_thread(server.stop)
            replies = [await ask(gateway.address, "POST", VIA, JSON, BODY) for _ in range(5)]
            waiting = gateway.store.waiting
            await asyncio.to_thread(server.start)
            assert await asyncio.to_thread(gateway.store.flush, 60)
            rows = await gateway.rows(6)

    assert [(reply.body, reply.whole) for reply in replies] == [(START + REST, True)] * 5
    assert [row.status for row in rows] == ["success"] * 6
    assert waiting > 0


@pytest.mark.parametrize("drain", [Drain(), Drain(seconds=5)])
async def test_many_streams(tmp_path: Path, drain: Drain) -> None:
    """A crowd of slow streams at once: none is lost, each client has its own bytes, each has its row."""
    seen = await crowd(tmp_path, streams=200, events=5, pace=0.02, drain=drain)

    assert (seen.whole, seen.rows, seen.right, seen.dropped) == (200, 200, 200, 0)
