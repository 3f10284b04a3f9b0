"""What the gateway itself says to a client, and the shapes of ASGI that this takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec

from streamfold.gateway.headers import Headers, header

__all__ = [
    "NO_WEBSOCKET",
    "STRAIGHT",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "Straight",
    "answer_lifespan",
    "error_body",
    "raw_path",
    "refuse_websocket",
    "reply",
    "reply_bytes",
    "reply_error",
    "start",
    "wants_websocket",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Straight = Callable[[bytes], bool]
"""Writes a piece of a body to the client's connection, or says that it has to go through `Send`."""

STRAIGHT: Final = "streamfold.straight"
"""Where in the scope a `Straight` may be."""

NO_WEBSOCKET: Final = "WebSocket is not supported by this gateway; use HTTP (streaming over SSE works)"
BODILESS: Final = (204, 304)


def start(status: int, headers: Headers) -> Message:
    """The message that begins an answer."""
    if status in BODILESS:
        # These have no body, and servers take a length for a promise of one.
        headers = [(name, value) for name, value in headers if name != b"content-length"]
    return {"type": "http.response.start", "status": status, "headers": headers}


async def reply(send: Send, status: int, body: Any) -> None:
    """Answers with JSON."""
    await reply_bytes(send, status, msgspec.json.encode(body), b"application/json")


async def reply_bytes(send: Send, status: int, body: bytes, kind: bytes) -> None:
    """Answers with a body of a content type."""
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def reply_error(send: Send, status: int, kind: str, message: str) -> None:
    """Answers with an error of the gateway's own."""
    await reply_bytes(send, status, error_body(kind, f"streamfold: {message}"), b"application/json")


def error_body(kind: str, message: str) -> bytes:
    """An error in the shape that the OpenAI, Anthropic and Gemini SDKs all read."""
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "code": kind, "message": message}})


def raw_path(scope: Scope) -> str:
    """The path of a request as it was spelled."""
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"]
    return raw.decode("latin-1") if raw is not None else path


def wants_websocket(scope: Scope) -> bool:
    """Whether a plain HTTP request asks to become a WebSocket."""
    return (header(scope["headers"], b"upgrade") or "").lower() == "websocket"


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Turns a WebSocket away, with the reason if the server can tell it."""
    await receive()
    if "websocket.http.response" in scope.get("extensions", {}):
        head = {"type": "websocket.http.response.start", "status": 501, "headers": [(b"content-type", b"text/plain")]}
        await send(head)
        await send({"type": "websocket.http.response.body", "body": NO_WEBSOCKET.encode()})
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": NO_WEBSOCKET})


async def answer_lifespan(receive: Receive, send: Send) -> None:
    """Says yes to the server's start and stop, for which nothing is to be done here."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
