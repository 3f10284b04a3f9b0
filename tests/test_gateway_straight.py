"""The short way of a piece to the client's connection: what is on the wire is what the long way would have put there.

Nothing on the wire tells which way a piece went, so these tests also watch the way itself (`taken`).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import re
import socket
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import msgspec
import pytest
import uvicorn

from scripted import PATIENCE, Rig, ask, rig
from streamfold.gateway import connection
from streamfold.gateway.app import Gateway
from streamfold.gateway.assembly import assemble
from streamfold.gateway.config import Drain, Limits, UpstreamSettings, load_config
from streamfold.gateway.connection import _straight_to
from streamfold.gateway.door import Door
from streamfold.gateway.health import Health
from streamfold.gateway.replies import Straight
from streamfold.gateway.scripted import Script, ScriptedUpstream
from streamfold.gateway.server import listen
from streamfold.gateway.upstream import AiohttpClient
from streamfold.gateway.witness import Witness
from streamfold.hooks import Plugin, RequestContext
from streamfold.store import LogStore

CHAT = "/v1/chat/completions"
FILE = "/v1/files/f/content"
PLAIN = [("content-type", "application/octet-stream")]
HIGH_WATER: Final = 64 * 1024
"""How much may wait for a client before it is waited for."""


Test = Callable[..., Coroutine[Any, Any, None]]


def on_both_loops(test: Test) -> Callable[..., None]:
    """Runs a test on both event loops that the gateway runs on: their connections buffer in different ways."""

    @wraps(test)
    def run(*, loop: str, **fixtures: Any) -> None:
        new = asyncio.new_event_loop if loop == "asyncio" else _uvloop().new_event_loop
        with asyncio.Runner(loop_factory=new) as runner:
            runner.run(test(**fixtures))

    own = inspect.signature(test)
    added = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), added])  # type: ignore[attr-defined]
    marked: Callable[..., None] = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])(run)
    return marked


def _uvloop() -> Any:
    return pytest.importorskip("uvloop", reason="uvloop is not installed")


class Piece(NamedTuple):
    """A piece that was offered to the short way."""

    data: bytes
    went: bool
    waits: int
    """Bytes that wait for the client afterwards."""


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Piece]:
    """Every piece that was offered to the short way."""
    pieces: list[Piece] = []

    def watched(cycle: Any) -> Straight:
        straight = _straight_to(cycle)
        assert straight is not None

        def pass_on(data: bytes) -> bool:
            went = straight(data)
            pieces.append(Piece(data, went, cycle.transport.get_write_buffer_size()))
            return went

        return pass_on

    monkeypatch.setattr(connection, "_straight_to", watched)
    return pieces


def went(pieces: Sequence[Piece]) -> bytes:
    """What the short way carried."""
    return b"".join(piece.data for piece in pieces if piece.went)


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + msgspec.json.encode({"id": "c", "choices": [choice]}) + b"\n\n"


DONE = b"data: [DONE]\n\n"

# ---------------------------------------------------------------------- a client that sees every byte


def request(method: str, path: str, version: str = "1.1", body: bytes = b"", *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *more]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def post(body: Any, path: str = CHAT, version: str = "1.1", *more: str) -> bytes:
    return request("POST", "/openai" + path, version, msgspec.json.encode(body), *more)


STREAM = {"model": "m", "stream": True, "messages": []}


@asynccontextmanager
async def wire(address: str) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    """A bare connection to a gateway."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
    try:
        async with asyncio.timeout(PATIENCE):
            yield reader, writer
    finally:
        writer.transport.abort()


async def read_head(reader: asyncio.StreamReader) -> tuple[bytes, dict[bytes, bytes]]:
    """The status line and the headers."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    return first, {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines)}


async def read_chunks(reader: asyncio.StreamReader) -> list[bytes]:
    """The chunks up to the last one, to the letter of RFC 9112, 7.1: no leading zeros, no extensions, no trailers."""
    chunks: list[bytes] = []
    while True:
        line = await reader.readuntil(b"\r\n")
        assert re.fullmatch(rb"(0|[1-9a-f][0-9a-f]*)\r\n", line), line
        size = int(line, 16)
        data = await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
        if not size:
            return chunks
        chunks.append(data)


async def said(address: str, sent: bytes) -> bytes:
    """All that comes back until the gateway closes."""
    async with wire(address) as (reader, writer):
        writer.write(sent)
        return await reader.read()


# ---------------------------------------------------------------------- the framing

RANDOM = random.Random(4)
BODIES = {
    "one": [b"x"],
    "tiny": [b"%d," % number for number in range(3000)],
    "lines that look like framing": [b"\r\n0\r\n\r\n", b"5\r\n", b"\r\n"],
    "at the high-water mark": [bytes(size) for size in (HIGH_WATER - 1, HIGH_WATER, HIGH_WATER + 1)],
    "long": [RANDOM.randbytes(size) for size in (300_000, 1, 1_000_000, 15, 16, 255, 256)],
    "of all lengths": [RANDOM.randbytes(RANDOM.choice((1, 9, 80, 4000, 70_000))) for _ in range(200)],
}


@pytest.mark.parametrize("pieces", BODIES.values(), ids=BODIES.keys())
@on_both_loops
async def test_framing_is_exact_and_the_connection_goes_on(
    tmp_path: Path, pieces: Sequence[bytes], taken: list[Piece]
) -> None:
    """Every byte of a body comes, in chunks that are right to the letter, twice on one connection, and nothing else."""
    body = b"".join(pieces)
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("GET", FILE, Script(list(pieces), headers=PLAIN))
        async with wire(gateway.address) as (reader, writer):
            for last in (False, True):
                writer.write(request("GET", "/openai" + FILE, "1.1", b"", *(["Connection: close"] if last else [])))
                first, headers = await read_head(reader)
                assert (first, headers[b"transfer-encoding"]) == (b"HTTP/1.1 200 OK", b"chunked")
                assert b"".join(await read_chunks(reader)) == body
            assert await reader.read() == b""
        rows = await gateway.rows(2)

    assert [(row.status, row.response_bytes) for row in rows] == [("success", len(body))] * 2
    # What did not go the short way had to wait, which only a client that is slower than its upstream makes it do.
    assert went(taken)
    assert sum(len(piece.data) for piece in taken) == 2 * len(body)


@on_both_loops
async def test_each_piece_goes_at_once(tmp_path: Path, taken: list[Piece]) -> None:
    """Pieces that come one by one go out one by one, each as a chunk of its own, while the stream is still open."""
    steps = [asyncio.Event() for _ in range(5)]
    script: list[Any] = [part for number, step in enumerate(steps) for part in (event(str(number)), step)]
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", CHAT, Script([*script, DONE]))
        async with wire(gateway.address) as (reader, writer):
            writer.write(post(STREAM))
            await read_head(reader)
            for number, step in enumerate(steps):
                expected = event(str(number))
                wanted = b"%x\r\n%b\r\n" % (len(expected), expected)
                assert await reader.readexactly(len(wanted)) == wanted
                step.set()
            assert await read_chunks(reader) == [DONE]

    assert [(piece.data, piece.went) for piece in taken] == [*((event(str(n)), True) for n in range(5)), (DONE, True)]


# ---------------------------------------------------------------------- who takes the ordinary way


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_with_a_length(tmp_path: Path, taken: list[Piece], version: str) -> None:
    """A body whose length is told is sent as it is, without chunks."""
    body = b"x" * 200_000
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("GET", FILE, Script([body], headers=PLAIN, framing="length"))
        answer = await said(gateway.address, request("GET", "/openai" + FILE, version, b"", "Connection: close"))

    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"content-length: 200000" in head
    assert b"transfer-encoding" not in head
    assert rest == body
    assert went(taken) == b""


@pytest.mark.parametrize("keep", [(), ("Connection: keep-alive",)], ids=["close", "keep-alive"])
@on_both_loops
async def test_http_1_0_knows_no_chunks(tmp_path: Path, taken: list[Piece], keep: Sequence[str]) -> None:
    """A client of HTTP/1.0 gets the bare bytes of a stream and then the end of the connection (RFC 9112, 6.1)."""
    pieces = [event(str(number)) for number in range(20)]
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", CHAT, Script([*pieces, DONE]))
        answer = await said(gateway.address, post(STREAM, CHAT, "1.0", *keep))
        row = await gateway.row()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"".join(pieces) + DONE
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert went(taken) == b""
    assert (row.status, row.chunks) == ("success", 20)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)], ids=["head", "no content", "not modified"]
)
async def test_answers_without_a_body(
    tmp_path: Path, taken: list[Piece], method: str, status: int, version: str
) -> None:
    """An answer that has no body is a head, and not a byte more."""
    async with rig(tmp_path) as gateway:
        gateway.upstream.route(method, FILE, Script([], status=status, headers=PLAIN, framing="close"))
        answer = await said(gateway.address, request(method, "/openai" + FILE, version, b"", "Connection: close"))

    head, end, rest = answer.partition(b"\r\n\r\n")
    assert (int(head.split()[1]), end, rest) == (status, b"\r\n\r\n", b"")
    assert b"transfer-encoding" not in head.lower()
    assert went(taken) == b""


# ---------------------------------------------------------------------- slow clients, and those that leave

TOTAL: Final = 48 * 1024 * 1024
STEP: Final = 32 * 1024
KERNEL: Final = 24 * 1024 * 1024
"""More than the socket buffers of both connections hold, as Linux lets them grow (4 and 6 MiB each)."""

READ_AHEAD: Final = 2 * 1024 * 1024
"""More than the gateway's client reads ahead of an upstream."""


def numbered(place: int) -> bytes:
    return b"%032d" % place * (STEP // 32)


@on_both_loops
async def test_a_slow_client_holds_up_the_upstream(tmp_path: Path, taken: list[Piece]) -> None:
    """While a client does not read, little waits for it and its upstream is held up; then it gets all, in order."""
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\nconnection: close\r\n\r\n")
        for place in range(TOTAL // STEP):
            writer.write(numbered(place))
            await writer.drain()
            sent += STEP
        writer.close()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    # Nobody is cut for reading slowly here: how slow is this machine's affair.
    limits = Limits(hook_timeout_s=PATIENCE, client_stall_timeout_s=PATIENCE)
    async with server, rig(tmp_path, url=url, limits=limits) as gateway:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", int(gateway.address.rpartition(":")[2])))
        reader, writer = await asyncio.open_connection(sock=sock, limit=STEP)
        async with asyncio.timeout(PATIENCE):
            writer.write(request("GET", "/openai" + FILE, "1.1", b"", "Connection: close"))
            before = -1
            while before < sent or not sent:  # until it does not go on; if that is judged too soon, less is asserted
                before = sent
                await asyncio.sleep(0.2)
            held_at = sent
            await read_head(reader)
            body = b"".join(await read_chunks(reader))
        writer.close()
        row = await gateway.row()

    assert held_at < KERNEL
    assert body == b"".join(map(numbered, range(TOTAL // STEP)))
    assert (row.status, row.response_bytes) == ("success", TOTAL)
    longest = max(len(piece.data) for piece in taken)
    assert max(piece.waits for piece in taken) <= HIGH_WATER + longest + 16
    assert longest <= READ_AHEAD
    # Both ways were taken, and in turns.
    assert {piece.went for piece in taken} == {True, False}


@pytest.fixture
def noticed(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when the gateway has noticed that its client left."""
    seen, client_left = asyncio.Event(), Witness.client_left

    def notice(self: Witness) -> None:
        client_left(self)
        seen.set()

    monkeypatch.setattr(Witness, "client_left", notice)
    return seen


@pytest.mark.parametrize("drained", [False, True], ids=["let go", "drained"])
@on_both_loops
async def test_a_client_that_hangs_up(
    tmp_path: Path, taken: list[Piece], noticed: asyncio.Event, caplog: pytest.LogCaptureFixture, drained: bool
) -> None:
    """A client that leaves in mid-stream ends it as cancelled; what still comes is written to nobody."""
    caplog.set_level(logging.WARNING)
    first, rest = event("One "), [event(f"{number} ") for number in range(50)]
    never = asyncio.Event()
    steps: list[Any] = [first, noticed, *rest, DONE] if drained else [first, never]
    drain = Drain(seconds=PATIENCE) if drained else Drain()
    async with rig(tmp_path, drain=drain) as gateway:
        gateway.upstream.route("POST", CHAT, Script(steps))
        async with wire(gateway.address) as (reader, writer):
            writer.write(post(STREAM))
            await reader.readuntil(b"One ")
        asked = await gateway.upstream.received()
        if not drained:
            async with asyncio.timeout(PATIENCE):
                await asked.gone.wait()
        row = await gateway.row()

    assert row.status == "cancelled"
    assert row.response_bytes == len(b"".join([first, *rest, DONE]) if drained else first)
    assert [(piece.data, piece.went) for piece in taken] == [(first, True)]
    assert [record.message for record in caplog.records] == []


# ---------------------------------------------------------------------- what changes, holds back or comes first


class Shouting(Plugin):
    """Makes of every text capitals."""

    name = "shouting"
    inline = True

    def post_llm_hook(self, ctx: RequestContext, chunk: Any, error: Any) -> Any:
        return chunk.upper() if isinstance(chunk, bytes) and b"delta" in chunk else chunk


def shouted(piece: bytes) -> bytes:
    return b"data: " + piece.removeprefix(b"data: ").upper()


@on_both_loops
async def test_what_a_plugin_made_of_it(tmp_path: Path, taken: list[Piece]) -> None:
    """A plugin's pieces go the same way, in exact chunks of their new lengths."""
    pieces = [event("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n"), event("x" * 100_000), event("end", "stop")]
    async with rig(tmp_path, plugins={f"{__name__}:Shouting": {}}) as gateway:
        gateway.upstream.route("POST", CHAT, Script([*pieces, DONE]))
        async with wire(gateway.address) as (reader, writer):
            writer.write(post(STREAM))
            await read_head(reader)
            body = b"".join(await read_chunks(reader))

    # Bytes know the capitals of ASCII only, as the plugin does.
    assert body == b"".join(map(shouted, pieces)) + DONE
    assert went(taken)


@on_both_loops
async def test_early_pieces_keep_their_place(tmp_path: Path, taken: list[Piece]) -> None:
    """What was waited for before the first output goes the ordinary way, what follows straight on: in order."""
    role = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
    more = asyncio.Event()
    rest = [event(f"{number} ") for number in range(30)]
    async with rig(tmp_path, settings={"retries": 1}) as gateway:
        gateway.upstream.route("POST", CHAT, Script([role, event("first"), more, *rest, DONE]))
        async with wire(gateway.address) as (reader, writer):
            writer.write(post(STREAM))
            await read_head(reader)
            start = await reader.readuntil(b"first")
            more.set()
            body = start + await reader.readuntil(b"\r\n0\r\n\r\n")

    again = asyncio.StreamReader()
    again.feed_data(body)
    whole = b"".join(await read_chunks(again))
    assert whole == role + event("first") + b"".join(rest) + DONE
    assert went(taken) == b"".join(rest) + DONE


# ---------------------------------------------------------------------- other servers


@asynccontextmanager
async def under_plain_uvicorn(directory: Path, http: Any) -> AsyncGenerator[Rig, None]:
    """The gateway's application under uvicorn as it comes."""
    async with ScriptedUpstream() as upstream:
        config = load_config(upstreams={"openai": UpstreamSettings(upstream.url)})
        store = LogStore.open(str(directory / "log.db"))
        parts = assemble(config, store)
        client = AiohttpClient()
        gateway = Gateway(config, client, parts.pipeline, store, catalog=parts.catalog)
        door = Door(gateway, config, Health(store, parts.pipeline), Counter())
        sock = listen("127.0.0.1", 0)
        settings = uvicorn.Config(door, http=http, lifespan="off", ws="none", log_config=None, access_log=False)
        server = uvicorn.Server(settings)
        task = asyncio.create_task(server._serve(sockets=[sock]))
        try:
            yield Rig(f"http://127.0.0.1:{sock.getsockname()[1]}", upstream, store)
        finally:
            server.should_exit = True
            await task
            await gateway.close()
            await client.close()
            await parts.pipeline.close()
            store.close()


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_another_server(tmp_path: Path, http: str, taken: list[Piece]) -> None:
    """Under a server that knows nothing of the short way the application does without."""
    pieces = [event(f"{number} ") for number in range(50)]
    async with under_plain_uvicorn(tmp_path, http) as gateway:
        gateway.upstream.route("POST", CHAT, Script([*pieces, DONE]))
        reply = await ask(gateway.address, "POST", "/openai" + CHAT, PLAIN, msgspec.json.encode(STREAM))
        row = await gateway.row()

    assert (reply.body, reply.whole) == (b"".join(pieces) + DONE, True)
    assert row.status == "success"
    assert taken == []


FIELDS = ("transport", "flow", "chunked_encoding", "disconnected", "response_complete")


class Book(SimpleNamespace):
    """uvicorn's books of one answer, with what was written."""

    def __init__(self, **changed: Any) -> None:
        self.written: list[bytes] = []
        flow = SimpleNamespace(write_paused=changed.pop("write_paused", False))
        transport = SimpleNamespace(write=self.written.append)
        usual = {"chunked_encoding": True, "disconnected": False, "response_complete": False}
        super().__init__(**{"flow": flow, "transport": transport, **usual, **changed})


@pytest.mark.parametrize("missing", [*FIELDS, "write_paused"])
def test_a_uvicorn_that_keeps_other_books(missing: str) -> None:
    """Without one of the fields that the short way reads there is no short way."""
    book = Book()
    delattr(book.flow if missing == "write_paused" else book, missing)

    assert _straight_to(book) is None


async def test_the_gateway_does_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own server streams too where there is no short way."""
    monkeypatch.setattr(connection, "_straight_to", lambda cycle: None)
    pieces = [event(f"{number} ") for number in range(50)]
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", CHAT, Script([*pieces, DONE]))
        async with wire(gateway.address) as (reader, writer):
            writer.write(post(STREAM))
            await read_head(reader)
            assert b"".join(await read_chunks(reader)) == b"".join(pieces) + DONE


SHUT: list[tuple[str, dict[str, Any], bytes]] = [
    ("the client reads slowly", {"write_paused": True}, b"x"),
    ("the client left", {"disconnected": True}, b"x"),
    ("the answer is over", {"response_complete": True}, b"x"),
    ("a body with a length", {"chunked_encoding": False}, b"x"),
    ("nothing has begun", {"chunked_encoding": None}, b"x"),
    ("an empty piece, which would be the end mark", {}, b""),
]


@pytest.mark.parametrize(("state", "data"), [each[1:] for each in SHUT], ids=[each[0] for each in SHUT])
def test_when_it_is_shut(state: dict[str, Any], data: bytes) -> None:
    """Where a piece cannot go as it is, the short way says so and writes nothing."""
    book = Book(**state)
    straight = _straight_to(book)

    assert straight is not None
    assert straight(data) is False
    assert book.written == []


# ---------------------------------------------------------------------- the garbage collector

COUNTING: Final = """
    import gc
    import sys

    from streamfold.gateway.config import UpstreamSettings, load_config
    from streamfold.gateway.server import start
    from streamfold.hooks import Plugin

    class Counting(Plugin):
        name = "counting"

        def on_response(self, ctx, processed):
            print("frozen", gc.get_freeze_count(), flush=True)

    if __name__ == "__main__":
        upstreams = {"openai": UpstreamSettings(sys.argv[1])}
        plugins = {"counting:Counting": {}}
        config = load_config(upstreams=upstreams, db="log.db", port=0, workers=int(sys.argv[2]), plugins=plugins)
        start(config, lambda line: print(line, flush=True))
"""
"""A gateway with a plugin that tells how many objects the collector passes over."""
MODULES: Final = 10_000
"""Fewer objects than the modules of any gateway are."""


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_stays_is_settled_once(tmp_path: Path, workers: int) -> None:
    """The collector passes over what was there at the start, in each process that serves, and over no request's own."""
    program = tmp_path / "counting.py"
    program.write_text(textwrap.dedent(COUNTING))
    async with ScriptedUpstream() as upstream:
        upstream.route("POST", CHAT, Script([event("x" * 1000), DONE]))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(program), upstream.url, str(workers)),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE):
                address = await _found(process.stdout, r"http://127\S+:\d+")
                counts = []
                for _ in range(6):
                    await ask(address, "POST", "/openai" + CHAT, PLAIN, msgspec.json.encode(STREAM))
                    counts.append(int(await _found(process.stdout, r"(?<=frozen )\d+")))
        finally:
            process.terminate()
            await process.wait()

    assert min(counts) > MODULES
    # Freezing again would add what was made since; all that may happen is that something of the start goes.
    if workers == 1:
        assert counts == sorted(counts, reverse=True)


async def _found(stream: asyncio.StreamReader, pattern: str) -> str:
    """What fits in the next line that has it."""
    while line := (await stream.readline()).decode():
        if match := re.search(pattern, line):
            return match[0]
    raise AssertionError("the program ended")
