"""One connection of a client, bounded before anything of it becomes a request.

uvicorn's connection trusts its client in four ways that a stranger can use: it lets wait for the head of a request for
ever, and lets it grow for ever; it takes any number of connections; and it waits for ever for a client that does not
read what it asked for. Here each has a limit (`Limits`), each cut is counted by its reason, and nothing is added to
the way of a piece: the timers are set where uvicorn is told about the connection anyway.

Whoever reads slowly but steadily is not cut: what counts is that nothing left the buffer in all that time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from streamfold.gateway.config import Limits
from streamfold.gateway.replies import STRAIGHT, Message, Send, Straight, error_body

__all__ = ["bounded"]

UNREAD: Final = 16 * 1024 * 1024
"""Bytes of a body that are read and thrown away after the answer, so that a client that is still sending gets it."""


def bounded(limits: Limits, refused: Counter[str]) -> type[asyncio.Protocol]:
    """The protocol of connections with these limits. `refused` counts those that were cut, by reason."""

    class Connection(HttpToolsProtocol):
        _in_head = True
        _begun = False
        _head_bytes = 0
        _thrown_away = 0
        _head_timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None
        _unsent = 0

        # -------------------------------------------------------------- the head

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                refused["too_many_connections"] += 1
                transport.abort()
                return
            self._await_head()

        def data_received(self, data: bytes) -> None:
            if self._in_head:
                if self._head_timer is None:
                    self._await_head()
                self._head_bytes += len(data)
            super().data_received(data)
            # A head that is complete is measured at the door, where it can be answered properly.
            if self._in_head and self._head_bytes > limits.header_bytes:
                self._cut(431, b"Request Header Fields Too Large", "headers_too_large", "the headers are too long")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head = self._begun = True
            self._thrown_away = 0

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._in_head:  # what comes after the body are trailers, which nobody here reads
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._head_bytes = 0
            self._stop(self._head_timer)
            self._head_timer = None
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._in_head, self._begun = True, False
            self._head_bytes = 0
            self._stop(self._head_timer)
            self._head_timer = None

        def on_body(self, body: bytes) -> None:
            if self.cycle.response_complete:
                self._thrown_away += len(body)
                if self._thrown_away > UNREAD:
                    self.transport.abort()
                return
            super().on_body(body)

        def _await_head(self) -> None:
            self._head_timer = self.loop.call_later(limits.header_timeout_s, self._head_is_late)

        def _head_is_late(self) -> None:
            self._head_timer = None
            if self._begun:
                self._cut(408, b"Request Timeout", "header_timeout", "the request's head did not come in time")
            elif self.cycle is None or self.cycle.response_complete:
                self.transport.close()

        def _cut(self, status: int, phrase: bytes, kind: str, message: str) -> None:
            refused[kind] += 1
            if self.transport.is_closing():
                return
            if self.cycle is None or self.cycle.response_complete:
                body = error_body(kind, f"streamfold: {message}")
                self.transport.write(
                    b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                    b"connection: close\r\n\r\n%b" % (status, phrase, len(body), body)
                )
            self._close_soon()

        # -------------------------------------------------------------- the answer

        def pause_writing(self) -> None:
            super().pause_writing()
            self._await_reading()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop(self._write_timer)
            self._write_timer = None

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self._in_head:  # refused before its body had come
                self._stop(self._head_timer)
                self._head_timer = self.loop.call_later(limits.body_timeout_s, self.transport.abort)

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._await_reading()

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            async def then_look(scope: Any, receive: Any, send: Any) -> None:
                try:
                    await app(scope, receive, _unchunked(cycle, send) if scope["http_version"] == "1.0" else send)
                finally:
                    self.loop.call_soon(self._look_after_end)

            straight = _straight_to(cycle)
            if straight is not None:
                cycle.scope[STRAIGHT] = straight
            super()._start_asgi_task(cycle, then_look)

        def _look_after_end(self) -> None:
            """An answer that broke off is closed without its end; what of it waits for the client may wait for ever."""
            if self.transport.is_closing():
                self._await_reading()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop(self._head_timer)
            self._stop(self._write_timer)
            self._head_timer = self._write_timer = None
            super().connection_lost(exc)

        def _close_soon(self) -> None:
            self.transport.close()
            self._await_reading()

        def _await_reading(self) -> None:
            """Gives the client its time to take what waits for it."""
            self._stop(self._write_timer)
            self._unsent = self.transport.get_write_buffer_size()
            if self._unsent:
                self._write_timer = self.loop.call_later(limits.client_stall_timeout_s, self._look_again)

        def _look_again(self) -> None:
            self._write_timer = None
            if self.transport.get_write_buffer_size() < self._unsent:
                self._await_reading()
                return
            refused["client_stalled"] += 1
            self.transport.abort()

        @staticmethod
        def _stop(timer: asyncio.TimerHandle | None) -> None:
            if timer is not None:
                timer.cancel()

    return Connection


def _straight_to(cycle: Any) -> Straight | None:
    """The shorter way for the pieces of a body: what uvicorn's `send` does with one, without its three steps.

    It is open while the client reads and the body goes out in chunks, as that of every stream does. None with a
    uvicorn that keeps its state elsewhere: these attributes are its own affair, and it may change them.
    """
    try:
        write, flow = cycle.transport.write, cycle.flow
        _ = cycle.chunked_encoding, cycle.disconnected, cycle.response_complete, flow.write_paused
    except AttributeError:
        return None

    def pass_on(data: bytes) -> bool:
        if not cycle.chunked_encoding or flow.write_paused or cycle.disconnected or cycle.response_complete or not data:
            return False
        write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    return pass_on


def _unchunked(cycle: Any, send: Send) -> Send:
    """`send` for a client of HTTP/1.0, to which uvicorn would send the chunks that it cannot know of.

    A body without a length ends with its connection there.
    """
    measured = False

    async def pass_on(message: Message) -> None:
        nonlocal measured
        if message["type"] == "http.response.start":
            measured = any(name == b"content-length" for name, _ in message.get("headers", ()))
            if not measured:
                cycle.chunked_encoding = False
        elif not measured:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    return pass_on
