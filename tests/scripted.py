"""What the gateway's tests share: a gateway before a scripted upstream, and a client that shows the bytes.

The client is h11, which is no part of the gateway, so that it cannot share the gateway's mistakes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import h11
import msgspec

from streamfold.gateway.config import Limits, UpstreamSettings, load_config
from streamfold.gateway.scripted import ScriptedUpstream
from streamfold.gateway.server import listen, running
from streamfold.store import LogRow, LogStore

PATIENCE = 60.0
"""Seconds after which what has not happened never will, on a machine however busy."""
JSON_TYPE = [("content-type", "application/json")]
USUAL = ("openai", "anthropic", "gemini")


class Rig(NamedTuple):
    """A running gateway, the upstream behind it, its log."""

    address: str
    upstream: ScriptedUpstream
    store: LogStore

    async def rows(self, count: int = 1) -> list[LogRow]:
        """Waits for that many rows of requests that have ended, and gives them whole, oldest first."""
        async with asyncio.timeout(PATIENCE):
            while len(found := [row for row in await asyncio.to_thread(self.store.rows) if row.ended]) < count:
                await asyncio.sleep(0.005)
        whole = [self.store.get(row.id) for row in reversed(found)]
        return [row for row in whole if row is not None]

    async def row(self) -> LogRow:
        """Waits for the one row."""
        (row,) = await self.rows()
        return row

    async def record(self) -> dict[str, Any]:
        """The record of the one row."""
        row = await self.row()
        return decoded(row)


@contextmanager
def dead_address() -> Iterator[str]:
    """An address that refuses connections while the block runs: its port is taken, and nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def decoded(row: LogRow) -> dict[str, Any]:
    """The record of a row."""
    record: dict[str, Any] = msgspec.json.decode(row.record or "null")
    return record


@asynccontextmanager
async def rig(
    directory: Path,
    *,
    upstreams: Sequence[str] = ("openai", "anthropic", "gemini"),
    url: str | None = None,
    settings: Mapping[str, Any] | None = None,
    others: Mapping[str, UpstreamSettings] | None = None,
    log: str | None = None,
    **flags: Any,
) -> AsyncGenerator[Rig, None]:
    """A gateway all of whose upstreams are one scripted server, or `url`, with the same `settings`; and `others`.

    `log` is the URL of its log, by default an SQLite file. Plugins have time, unless the test says otherwise.
    """
    flags = {"limits": Limits(hook_timeout_s=PATIENCE), **flags}
    async with ScriptedUpstream() as upstream:
        every = UpstreamSettings(url or upstream.url, **(settings or {}))
        config = load_config(upstreams={**dict.fromkeys(upstreams, every), **(others or {})}, **flags)
        store = LogStore.open(log or _empty_log(directory))
        try:
            async with running(config, store, listen("127.0.0.1", 0)) as address:
                yield Rig(address, upstream, store)
        finally:
            await asyncio.to_thread(store.close)


def _empty_log(directory: Path) -> str:
    """The path of an SQLite log; a copy of one that was made once, unless it is there already."""
    path = directory / "log.db"
    if not path.exists():
        path.write_bytes(_made_once())
    return str(path)


@cache
def _made_once() -> bytes:
    """The file of an empty log. To make one, tables and all, costs more than most of what is tested through it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log.db"
        LogStore.open(str(path)).close()
        return path.read_bytes()


class Reply(NamedTuple):
    """An answer as its bytes said. `whole`: its end was marked."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    whole: bool

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header."""
        return next((value for each, value in self.headers if each == name), None)


class Conversation:
    """One request over one connection, read piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT)

    async def send(self, event: Any) -> None:
        """Sends a part of the request."""
        self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def receive(self) -> Any:
        """The next part of the answer; `h11.RemoteProtocolError` if the connection broke before its end."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(65536))
        return event

    def leave(self) -> None:
        """Closes the connection, whatever is still to come."""
        self._writer.transport.abort()


@asynccontextmanager
async def conversation(
    address: str,
    method: str,
    path: str,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    patience: float = PATIENCE,
) -> AsyncGenerator[Conversation, None]:
    """A connection on which a request has been sent."""
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    talk = Conversation(reader, writer)
    try:
        async with asyncio.timeout(patience):
            sizes = [("content-length", str(len(body)))] if body and "transfer-encoding" not in dict(headers) else []
            await talk.send(h11.Request(method=method, target=path, headers=[("host", parts.netloc), *headers, *sizes]))
            if body:
                await talk.send(h11.Data(data=body))
            await talk.send(h11.EndOfMessage())
            yield talk
    finally:
        writer.close()


async def ask(
    address: str, method: str, path: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
) -> Reply:
    """Sends a request and reads the answer to its end, or to where it breaks off."""
    async with conversation(address, method, path, headers, body) as talk:
        start = await talk.receive()
        while isinstance(start, h11.InformationalResponse):
            start = await talk.receive()
        received, whole = b"", False
        try:
            while not whole:
                event = await talk.receive()
                whole = isinstance(event, h11.EndOfMessage)
                received += event.data if isinstance(event, h11.Data) else b""
        except (h11.RemoteProtocolError, ConnectionResetError):
            pass
        return Reply(start.status_code, list(start.headers), received, whole)


def said(caplog_records: Sequence[logging.LogRecord]) -> str:
    """Everything that was logged, as a reader of the log would see it."""
    shown = logging.Formatter("%(name)s %(message)s")
    return "\n".join(shown.format(record) for record in caplog_records)
