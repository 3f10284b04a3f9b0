"""The door before the gateway: who may come in, how many, and how much each may bring.

Everything that is refused is refused here, before a request becomes an exchange: it reaches no upstream, leaves no
row, and is counted by its reason. What the door lets in carries the client's name in the scope (`CLIENT`).

The body is measured while it passes: by its announced length at once, otherwise when it has grown too long, or when
the client lets wait for it too long. Then the exchange is told that the client has left, which ends it the usual way,
and the client is told why if its answer has not begun.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qs

from streamfold.gateway.access import CLIENT, COOKIE, Access, Refusal
from streamfold.gateway.config import Config
from streamfold.gateway.headers import Headers, header
from streamfold.gateway.health import Health
from streamfold.gateway.replies import Message, Receive, Scope, Send, error_body, raw_path, reply_error
from streamfold.gateway.routes import find_route

__all__ = ["Door"]

App = Callable[[Scope, Receive, Send], Awaitable[None]]

SLOWEST: Final = 1000
"""Bytes a second: a body that comes slower runs out of time."""
LOGIN_BYTES: Final = 1024
RETRY_AFTER_S: Final = 1

PAGE: Final = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>streamfold</title>
<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}
body{font:16px system-ui;max-width:24rem;margin:20vh auto;padding:0 1rem}
input,button{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;margin:.3rem 0}</style>
<h1>streamfold</h1><form method="post" action="/login"><label>Access token
<input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button>Show the page</button></form>"""
PAGE_HEADERS: Final = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-length", str(len(PAGE)).encode()),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
    ),
)


class Door:
    """An ASGI application before another one. `refused` counts by reason."""

    def __init__(self, app: App, config: Config, health: Health, refused: Counter[str]) -> None:
        self._app = app
        self._health = health
        self._access = Access(config)
        self._routes = config.routes()
        self._limits = config.limits
        self._under_way = 0
        self.refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = raw_path(scope)
        if _head_size(scope) > self._limits.header_bytes:
            message = f"the request's line and headers are longer than {self._limits.header_bytes} bytes"
            await self._refuse(send, Refusal(431, "headers_too_large", message))
            return
        if path in ("/healthz", "/readyz"):
            await self._health.answer(path, send)
            return
        if path == "/login":
            await self._login(scope, receive, send)
            return
        client = self._access.check(scope)
        if isinstance(client, Refusal):
            await self._turn_away(scope, send, client)
            return
        scope[CLIENT] = client.name
        if find_route(self._routes, path) is None:
            await self._app(scope, receive, send)
        else:
            await self._to_upstream(scope, receive, send)

    async def _to_upstream(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limits.request_total_bytes
        length = header(scope["headers"], b"content-length")
        if length is not None and length.isascii() and length.isdigit() and int(length) > limit:
            await self._refuse(send, _too_long(limit))
            return
        if self._under_way >= self._limits.streams:
            refusal = Refusal(503, "too_many_streams", "too many requests are under way here; try again in a moment")
            await self._refuse(send, refusal, [(b"retry-after", str(RETRY_AFTER_S).encode())])
            return
        self._under_way += 1
        body = _Body(receive, limit, self._limits.body_timeout_s)
        answer = _Answer(send)
        try:
            await self._app(scope, body, answer)
        finally:
            self._under_way -= 1
        if body.refusal is not None:
            self.refused[body.refusal.kind] += 1
            if not answer.begun:
                await _say(send, body.refusal, [(b"connection", b"close")])

    # ------------------------------------------------------------------ saying no

    async def _turn_away(self, scope: Scope, send: Send, refusal: Refusal) -> None:
        wants_page = "text/html" in (header(scope["headers"], b"accept") or "")
        if refusal.status == 401 and wants_page and scope["method"] == "GET":
            self.refused[refusal.kind] += 1
            await _send_login(send, 401)
            return
        challenge = [(b"www-authenticate", b'Bearer realm="streamfold"')] if refusal.status == 401 else []
        await self._refuse(send, refusal, challenge)

    async def _refuse(self, send: Send, refusal: Refusal, headers: Headers | None = None) -> None:
        self.refused[refusal.kind] += 1
        await _say(send, refusal, headers or [])

    # ------------------------------------------------------------------ the form

    async def _login(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Takes a token out of a form and puts it into a cookie that no script and no other site can use."""
        if scope["method"] == "GET":
            await _send_login(send, 200)
            return
        if scope["method"] != "POST":
            await reply_error(send, 405, "method_not_allowed", "use GET or POST")
            return
        token = _token_of(await _small_body(receive, self._limits.body_timeout_s))
        if self._access.name_of(token) is None:
            self.refused["token_unknown"] += 1
            await _send_login(send, 401)
            return
        cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
        if header(scope["headers"], b"x-forwarded-proto") == "https":
            cookie += "; Secure"
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Answer:
    """The way to the client; knows whether an answer has begun."""

    __slots__ = ("_send", "begun")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    def __call__(self, message: Message) -> Awaitable[None]:
        self.begun = True
        return self._send(message)


class _Body:
    """A request's body, measured. When it is refused the reader is told that the client has left."""

    __slots__ = ("_limit", "_more", "_receive", "_received", "_time", "_waited", "refusal")

    def __init__(self, receive: Receive, limit: int, time: float) -> None:
        self._receive, self._limit, self._time = receive, limit, time
        self._received = 0
        self._waited = 0.0
        self._more = True
        self.refusal: Refusal | None = None

    async def __call__(self) -> Message:
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        if not self._more:
            return await self._receive()
        try:
            message = await self._in_time()
        except TimeoutError:
            self.refusal = Refusal(408, "body_timeout", "the request's body did not come in time")
            return {"type": "http.disconnect"}
        self._received += len(message.get("body", b""))
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        if self._received > self._limit:
            self.refusal = _too_long(self._limit)
            return {"type": "http.disconnect"}
        return message

    async def _in_time(self) -> Message:
        """The next piece. Only the time that we wait for the client counts, not that for which it waits for us."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        async with asyncio.timeout(self._time + self._received / SLOWEST - self._waited):
            message = await self._receive()
        self._waited += clock() - begun
        return message


def _head_size(scope: Scope) -> int:
    size = len(scope["query_string"]) + len(scope["path"])
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
    return size


def _too_long(limit: int) -> Refusal:
    return Refusal(413, "request_too_large", f"the request's body is longer than {limit} bytes")


async def _say(send: Send, refusal: Refusal, headers: Headers) -> None:
    body = error_body(refusal.kind, f"streamfold: {refusal.message}")
    told = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": told})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_login(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(PAGE_HEADERS)})
    await send({"type": "http.response.body", "body": PAGE, "more_body": False})


async def _small_body(receive: Receive, time: float) -> bytes:
    body, more = b"", True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(time):
            while more and len(body) <= LOGIN_BYTES:
                message = await receive()
                body += message.get("body", b"")
                more = message["type"] == "http.request" and message.get("more_body", False)
    return body


def _token_of(form: bytes) -> str:
    return parse_qs(form.decode("latin-1")).get("token", [""])[0].strip()
