"""The client's side of an exchange: what of an answer it has got.

A broken answer must not look whole to the client, so then its last ASGI message is withheld: the server closes the
connection without the end mark of the body.
"""

from __future__ import annotations

from typing import Any

from streamfold.errors import WireError
from streamfold.gateway.headers import Headers
from streamfold.gateway.replies import Message, Send, Straight, start

__all__ = ["DrainedError", "Outbound"]


class DrainedError(WireError):
    """As much has been read of an answer that nobody waits for as may be."""


class Outbound:
    """What goes to the client: `start`, pieces, `end`. `straight` is a shorter way for pieces, where there is one."""

    def __init__(self, send: Send, straight: Straight | None = None) -> None:
        self._send = send
        self._straight = straight
        self._last = b""
        self._room = 0
        self.begun = False
        """Whether anything has been sent."""
        self.gone = False
        """Whether the client has left."""

    async def start(self, status: int, headers: Headers) -> None:
        """Sends the status line and headers."""
        self.begun = True
        await self._send(start(status, headers))

    def at_once(self, data: bytes) -> bool:
        """Sends a piece if that takes no waiting. Returns whether it did; `piece` is for those that it did not."""
        if self._straight is None or not self._straight(data):
            return False
        self._last = data
        return True

    async def piece(self, data: bytes) -> None:
        """Sends a piece of the body. Waits while the client is slower than the upstream."""
        self._last = data
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Sends the end mark of the body."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def reply(self, status: int, body: bytes, kind: bytes) -> None:
        """Sends a whole answer of our own."""
        await self.start(status, [(b"content-type", kind), (b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    @property
    def last(self) -> bytes:
        """The last piece that was sent."""
        return self._last

    def client_left(self, room: int) -> None:
        """Nothing is sent from now on, and not more than `room` bytes are taken."""
        self.gone = True
        self._room = room
        self._send, self._straight = self._swallow, None

    async def _swallow(self, message: Message) -> None:
        body: Any = message.get("body", b"")
        self._room -= len(body)
        if self._room < 0:
            raise DrainedError("enough has been read of an answer whose client left")
