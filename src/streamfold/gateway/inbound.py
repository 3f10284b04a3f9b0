"""The client's side of an exchange: its body, and the news of its leaving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from streamfold.gateway.replies import Receive
from streamfold.gateway.upstream import Body

__all__ = ["Inbound", "once"]

PIECES_AHEAD: Final = 4
"""Pieces of a request body that may wait for a slow upstream."""


class Inbound:
    """What a client sends. `seen` is told each piece of the body as it comes.

    A body that came in one piece (nearly all do) is passed as it is. A longer one goes piece by piece through a short
    queue, filled by `until_gone`, because ASGI delivers body and departure through the same `receive`.
    """

    def __init__(self, receive: Receive, seen: Callable[[bytes], None]) -> None:
        self._receive = receive
        self._seen = seen
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(PIECES_AHEAD)
        self._more = True
        self.gone = False
        """Whether the client is known to have left."""

    async def begin(self, wait_for: int = 0) -> Body:
        """The body to send up: bytes, or pieces to come, or None. The first `wait_for` bytes are waited for."""
        first = await self._next()
        if self._more and wait_for:
            gathered = bytearray(first)
            while self._more and len(gathered) < wait_for:
                gathered += await self._next()
            first = bytes(gathered)
        if not self._more:
            return first or None
        self._pieces.put_nowait(first)
        return self._rest()

    async def until_gone(self) -> None:
        """Returns when the client has left."""
        while not self.gone:
            piece = await self._next()
            if self.gone:
                return
            await self._pieces.put(piece)
            if not self._more:
                await self._pieces.put(None)

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone, self._more = True, False
            return b""
        self._more = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        self._seen(piece)
        return piece

    async def _rest(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            if piece:
                yield piece


async def once(body: bytes) -> AsyncIterator[bytes]:
    """A body that is known whole, sent without a length."""
    yield body
