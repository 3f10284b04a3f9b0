"""An upstream that does exactly what a script says: for the demo, for tests, and for users' own tests.

    upstream = ScriptedUpstream()
    upstream.route("POST", "/v1/chat/completions", Script([b'data: {...}\\n\\n', 0.05, b"data: [DONE]\\n\\n"]))
    async with upstream:
        ...  # ask upstream.url

It is written on bare streams and not on a web framework, because a test must be able to do what frameworks prevent:
break off in the middle of a body, reset the connection, cut pieces anywhere, wait for an event of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, Literal, Self

import msgspec

__all__ = ["HANG_UP", "RESET", "Received", "Script", "ScriptedUpstream", "Stop"]

Framing = Literal["chunked", "length", "close"]
SSE: Final = [("content-type", "text/event-stream; charset=utf-8")]
MAX_HEAD: Final = 1024 * 1024


class Stop(msgspec.Struct, frozen=True):
    """A step that ends the connection before the body's end: by a reset, or as if it were over."""

    reset: bool


RESET: Final = Stop(reset=True)
HANG_UP: Final = Stop(reset=False)

Step = bytes | float | asyncio.Event | Stop
"""A piece of the body in one write; seconds to wait; an event to wait for; or the end of it all."""


class Script(msgspec.Struct):
    """How to answer. `framing` says how the body's end is told: chunked coding, a length, or closing."""

    steps: Sequence[Step]
    status: int = 200
    headers: list[tuple[str, str]] = msgspec.field(default_factory=lambda: list(SSE))
    framing: Framing = "chunked"
    answers: bool = True
    """False: takes the request and closes the connection without a word."""

    @property
    def body(self) -> bytes:
        """All of the body's bytes."""
        return b"".join(step for step in self.steps if isinstance(step, bytes))


class Received(msgspec.Struct):
    """A request as it came. `target` has its query; names of headers are in lower case."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    gone: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Set when the connection that the request came on is closed by the other side."""

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for each, value in self.headers if each == name), None)


Answer = Script | Callable[[Received], Script]


class ScriptedUpstream:
    """A server on a free loopback port while its `async with` block runs."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self._routes: dict[tuple[str, str], Answer] = {}
        self._server: asyncio.Server | None = None
        self._port = 0
        self._busy: set[asyncio.Task[None]] = set()
        self._arrival = asyncio.Condition()

    def route(self, method: str, path: str, answer: Answer) -> None:
        """Answers requests for a path (without query) by a script, or by one chosen when the request is known."""
        self._routes[method, path] = answer

    @property
    def url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:40123`."""
        return f"http://127.0.0.1:{self._port}"

    async def received(self, count: int = 1) -> Received:
        """Waits for the request of that number (from 1) and returns it."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, "127.0.0.1", 0, backlog=2048)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)
        await self._server.wait_closed()

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(_Reader(), self._connected)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _Reader)
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            while (request := await _read_request(reader)) is not None:
                async with self._arrival:
                    self.requests.append(request)
                    self._arrival.notify_all()
                if not await self._answer(request, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side left, or the test is over
        finally:
            self._busy.discard(task)
            writer.close()

    async def _answer(self, request: Received, reader: _Reader, writer: asyncio.StreamWriter) -> bool:
        """Plays the script. Returns whether the connection may take another request."""
        request.gone = reader.gone
        answer = self._routes.get((request.method, request.target.partition("?")[0]), NOT_FOUND)
        script = answer(request) if callable(answer) else answer
        if not script.answers:
            return False
        writer.write(_head(script))
        for step in script.steps:
            if isinstance(step, Stop):
                await _stop(writer, step)
                return False
            await _play(step, script.framing, reader, writer)
        if script.framing == "chunked":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return script.framing != "close"


class _Reader(asyncio.StreamReader):
    """A reader that tells at once when the other side has left, even while nobody reads."""

    def __init__(self) -> None:
        super().__init__(limit=MAX_HEAD)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


async def _play(
    step: bytes | float | asyncio.Event, framing: Framing, reader: _Reader, writer: asyncio.StreamWriter
) -> None:
    if isinstance(step, bytes):
        writer.write(b"%x\r\n%b\r\n" % (len(step), step) if framing == "chunked" else step)
        await writer.drain()
    else:
        await _wait(step, reader.gone)
    if reader.gone.is_set():
        raise ConnectionResetError("the client left")


async def _wait(step: float | asyncio.Event, gone: asyncio.Event) -> None:
    """Waits as the script says, but not for a client that has left."""
    waits = [asyncio.ensure_future(gone.wait())]
    if isinstance(step, asyncio.Event):
        waits.append(asyncio.ensure_future(step.wait()))
    timeout = None if isinstance(step, asyncio.Event) else step
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()


async def _stop(writer: asyncio.StreamWriter, stop: Stop) -> None:
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    if stop.reset:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def _head(script: Script) -> bytes:
    headers = list(script.headers)
    if script.framing == "chunked":
        headers.append(("transfer-encoding", "chunked"))
    elif script.framing == "length":
        headers.append(("content-length", str(len(script.body))))
    else:
        headers.append(("connection", "close"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {script.status} Scripted\r\n{lines}\r\n".encode("latin-1")


async def _read_request(reader: _Reader) -> Received | None:
    """The next request of a connection; None when there is none."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    line, *rest = head.rstrip("\r\n").split("\r\n")
    method, target, _ = line.split(" ", 2)
    fields = [field.partition(":") for field in rest]
    request = Received(method, target, [(name.lower(), value.strip()) for name, _, value in fields])
    if (request.header("transfer-encoding") or "").lower() == "chunked":
        request.body = await _read_chunks(reader)
    else:
        request.body = await reader.readexactly(int(request.header("content-length") or 0))
    return request


async def _read_chunks(reader: _Reader) -> bytes:
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


NOT_FOUND: Final = Script(
    [b'{"error":{"message":"the script has no such route","type":"not_found_error"}}'],
    status=404,
    headers=[("content-type", "application/json")],
    framing="length",
)
