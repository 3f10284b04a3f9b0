"""The gateway as an ASGI application.

The life of a request, all of it in `_exchange`:

    client ──► receive() ──► Inbound ──► upstream
    client ◄── send()    ◄── pieces  ◄── upstream
                               └► Witness (after the piece went on) ──► one complete response ──► plugins

Plugins that want to see the request are asked before it goes out; only if one of them wants to see chunks, a stream is
cut into events on its way (`delivery`), else pieces go on as they came. The log is a plugin as well.

Two things run side by side: the transfer, and a look-out for the client's leaving (ASGI tells that only to whoever
asks). Whichever ends first ends the other. Every way out of there leads through `_close`, which tells the plugins:

| what happened | client sees | outcome |
|---|---|---|
| the answer came to its end | all of it | what the protocol says |
| no answer came | 502 and a sentence | `error` |
| the answer broke off | the same bytes, then a broken connection | `truncated`, unless the protocol had ended |
| the client left | – | `cancelled`; the upstream connection is closed at once |
| the gateway stops | a broken connection | `abandoned` |

A broken answer must not look whole to the client, so its last ASGI message is withheld: the server then closes the
connection without the end mark of the body.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec

from streamfold.gateway.config import Config, is_loopback
from streamfold.gateway.delivery import cutter_for, encoded
from streamfold.gateway.headers import Headers, end_to_end, header, request_headers
from streamfold.gateway.routes import Route, find_route
from streamfold.gateway.upstream import Answer, Body, UpstreamBrokeError, UpstreamClient, UpstreamUnreachableError
from streamfold.gateway.witness import Witness, load_folds
from streamfold.hooks import DROP, RequestContext, ShortCircuit
from streamfold.pipeline import Pipeline
from streamfold.store.log_store import LogStore
from streamfold.store.row import HEAVY, LogRow
from streamfold.stream import Catalog
from streamfold.types import AccumulatedData, ErrorDetails, Outcome

__all__ = ["Gateway"]

log = logging.getLogger("streamfold.gateway")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PIECES_AHEAD: Final = 4
"""Pieces of a request body that may wait for a slow upstream."""
MOST_ROWS: Final = 1000
BODILESS: Final = (204, 304)


class Gateway:
    """Passes requests on to the configured upstreams and tells the plugins of each.

    `store` is what `/logs` shows, `metrics` what `/metrics` does: the wanted type in, the text and its type out.
    """

    def __init__(
        self,
        config: Config,
        client: UpstreamClient,
        pipeline: Pipeline,
        store: LogStore,
        *,
        catalog: Catalog | None = None,
        metrics: Callable[[str | None], tuple[bytes, str]] | None = None,
    ) -> None:
        self._config = config
        self._upstreams = config.routes()
        self._client = client
        self._pipeline = pipeline
        self._store = store
        self._catalog = catalog
        self._metrics = metrics
        self._open: set[asyncio.Task[Any]] = set()
        load_folds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        kind = scope["type"]
        if kind == "lifespan":
            await _lifespan(receive, send)
        elif kind == "websocket":
            await _refuse_websocket(scope, receive, send)
        elif _wants_websocket(scope):
            await _reply_error(send, 501, "websocket_not_supported", NO_WEBSOCKET)
        else:
            await self._http(scope, receive, send)

    async def close(self) -> None:
        """Ends the exchanges that are still open, each with its row."""
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    # ------------------------------------------------------------------ our own pages

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _raw_path(scope)
        route = find_route(self._upstreams, path)
        if route is not None:
            await self._exchange(scope, receive, send, route)
        elif path == "/healthz":
            await _reply(send, 200, self._health())
        elif path == "/metrics" and self._metrics is not None:
            text, kind = await asyncio.to_thread(self._metrics, header(scope["headers"], b"accept"))
            await _reply_bytes(send, 200, text, kind.encode())
        elif path == "/logs" or path.startswith("/logs/"):
            await self._logs(scope, send, path.removeprefix("/logs").removeprefix("/"))
        else:
            names = ", ".join(f"/{name}/" for name in sorted(self._upstreams))
            await _reply_error(send, 404, "not_found", f"no upstream is called that; paths begin with {names}")

    async def _logs(self, scope: Scope, send: Send, id: str) -> None:
        """The last rows, or one row. For this machine only, since rows hold what people wrote."""
        if not self._is_local(scope):
            await _reply_error(send, 403, "forbidden", "the log is shown on the gateway's own machine only")
            return
        try:
            if id:
                row = await asyncio.to_thread(self._store.get, id)
                found: Any = _light(row, heavy=True) if row is not None else None
            else:
                limit = _limit(scope["query_string"])
                found = [_light(row) for row in await asyncio.to_thread(self._store.rows, limit)]
        except Exception as error:
            log.error("the log database cannot be read: %s", type(error).__name__)
            await _reply_error(send, 503, "log_unreadable", "the log database cannot be read now")
            return
        if found is None:
            await _reply_error(send, 404, "not_found", "there is no row of that id")
        else:
            await _reply(send, 200, found)

    def _is_local(self, scope: Scope) -> bool:
        # The Host header too: a web page must not reach the log by naming this address as its own (DNS rebinding).
        client = scope.get("client")
        host = (header(scope["headers"], b"host") or "").rpartition(":")
        named = host[0] if host[1] and not host[2].endswith("]") else host[2]
        return is_loopback(self._config.host) and client is not None and is_loopback(client[0]) and is_loopback(named)

    def _health(self) -> dict[str, Any]:
        return {
            "status": "ok",
            "waiting_rows": self._store.waiting,
            "dropped": self._store.dropped,
            "plugins": self._pipeline.status(),
        }

    # ------------------------------------------------------------------ the exchange

    async def _exchange(self, scope: Scope, receive: Receive, send: Send, route: Route) -> None:
        headers: Headers = list(scope["headers"])
        query: bytes = scope["query_string"]
        witness = Witness(route, scope["method"], headers, query, limits=self._config.limits, catalog=self._catalog)
        this = asyncio.current_task()
        assert this is not None
        self._open.add(this)
        outcome: Outcome | None = Outcome.ABANDONED
        error: ErrorDetails | None = None
        try:
            outcome, error = await self._transfer_or_leave(witness, route.target(query), headers, receive, send)
        except asyncio.CancelledError:
            # The server stops. Returning (and not raising) lets it close the connection without a fuss.
            log.info("request %s was cut off by the shutdown", witness.ctx.request_id)
        except Exception as failure:
            log.exception("request %s failed inside the gateway", witness.ctx.request_id)
            outcome, error = Outcome.ERROR, ErrorDetails(type="gateway_error", message=type(failure).__name__)
        finally:
            self._open.discard(this)
            self._close(witness, outcome, error)

    async def _transfer_or_leave(
        self, witness: Witness, url: str, headers: Headers, receive: Receive, send: Send
    ) -> tuple[Outcome | None, ErrorDetails | None]:
        """Runs the transfer until it is done or the client is gone. Returns how it ended."""
        inbound = Inbound(receive, witness)
        body = await inbound.begin(self._looked_at(headers))
        if inbound.gone:
            return Outcome.CANCELLED, None
        if isinstance(body, bytes | None):
            witness.asked()
        if isinstance(body, bytes) and header(headers, b"content-length") is None:
            body = _once(body)  # it came without a length, and goes on without one
        transfer = asyncio.create_task(self._transfer(witness, url, headers, body, send))
        gone = asyncio.create_task(inbound.until_gone())
        try:
            await asyncio.wait((transfer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not transfer.done():
                return Outcome.CANCELLED, None
            return transfer.result()
        finally:
            for task in (transfer, gone):
                task.cancel()
            await asyncio.gather(transfer, gone, return_exceptions=True)

    def _looked_at(self, headers: Headers) -> int:
        """How much of a body is waited for before it goes out, so that plugins see it: JSON of a bearable size."""
        if not self._pipeline.watches_requests or "json" not in (header(headers, b"content-type") or "").lower():
            return 0
        limit, length = self._config.limits.request_bytes, header(headers, b"content-length")
        return limit if length is None or (length.isascii() and length.isdigit() and int(length) <= limit) else 0

    async def _transfer(
        self, witness: Witness, url: str, headers: Headers, body: Body, send: Send
    ) -> tuple[Outcome | None, ErrorDetails | None]:
        ctx = witness.ctx
        short = await self._pipeline.before(ctx, ctx.request)
        if short is not None:
            return await self._answer_short(witness, short, send)
        upstream_headers = request_headers(headers)
        if self._pipeline.watches_chunks:
            # What is compressed cannot be changed.
            upstream_headers = [pair for pair in upstream_headers if pair[0] != b"accept-encoding"]
        error: ErrorDetails | None = None
        try:
            async with self._client.stream(ctx.method or "GET", url, upstream_headers, body) as answer:
                witness.answered(answer.status, answer.headers)
                if self._pipeline.watches_chunks:
                    await self._deliver_watched(witness, answer, send)
                else:
                    await self._deliver(witness, answer, send)
        except UpstreamUnreachableError as failure:
            message = f'no answer from the upstream "{witness.upstream.name}": {failure}'
            await _reply_error(send, 502, "upstream_unreachable", message)
            error = ErrorDetails(type="upstream_unreachable", message=message, retryable=True)
            return Outcome.ERROR, error
        except UpstreamBrokeError as failure:
            message = f'the upstream "{witness.upstream.name}" broke off: {failure}'
            error = ErrorDetails(type="upstream_disconnected", message=message, retryable=True)
            ctx.outcome = Outcome.TRUNCATED
            return Outcome.TRUNCATED, error
        except asyncio.CancelledError:
            ctx.outcome = Outcome.CANCELLED
            raise
        finally:
            await self._end_of_chunks(ctx, error)
        # Told before the client is: what was said to be whole is in the log, whatever happens next.
        self._conclude(witness, None, None)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None, None

    async def _deliver(self, witness: Witness, answer: Answer, send: Send) -> None:
        """Passes an answer on as it comes."""
        await send(_start(answer.status, end_to_end(answer.headers)))
        async for piece in answer.pieces:
            at = time.monotonic_ns()
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            witness.piece(piece, at)

    async def _deliver_watched(self, witness: Witness, answer: Answer, send: Send) -> None:
        """Passes an answer on event by event, as plugins want it."""
        ctx = witness.ctx
        cutter = cutter_for(header(answer.headers, b"content-type") or "") if ctx.stream else None
        if header(answer.headers, b"content-encoding") not in (None, "identity"):
            return await self._deliver(witness, answer, send)
        if cutter is None:
            if ctx.stream or witness.format is None:
                return await self._deliver(witness, answer, send)
            return await self._deliver_whole(witness, answer, send)
        headers = [pair for pair in end_to_end(answer.headers) if pair[0] != b"content-length"]
        await send(_start(answer.status, headers))
        index = 0
        async for piece in answer.pieces:
            witness.piece(piece, time.monotonic_ns())
            out = bytearray()
            for event in cutter.cut(piece):
                if event.payload is None:
                    out += event.raw
                    continue
                ctx.chunk_index, index = index, index + 1
                chunk = await self._pipeline.chunk(ctx, event.payload)
                if chunk is event.payload:
                    out += event.raw
                elif chunk is not DROP:
                    out += event.replaced(chunk)
            if out:
                await send({"type": "http.response.body", "body": bytes(out), "more_body": True})
        if rest := cutter.rest():
            await send({"type": "http.response.body", "body": rest, "more_body": True})
        return None

    async def _deliver_whole(self, witness: Witness, answer: Answer, send: Send) -> None:
        """Passes an unstreamed answer on, as plugins want it. One that is too long is passed on unseen."""
        body, limit = bytearray(), self._config.limits.response_bytes
        headers = end_to_end(answer.headers)
        begun = False
        async for piece in answer.pieces:
            witness.piece(piece, time.monotonic_ns())
            body += piece
            if len(body) > limit and not begun:
                begun = True
                await send(_start(answer.status, headers))
            if begun:
                await send({"type": "http.response.body", "body": bytes(body), "more_body": True})
                body.clear()
        if begun:
            return
        whole = bytes(body)
        witness.ctx.chunk_index = 0
        chunk = await self._pipeline.chunk(witness.ctx, whole)
        if chunk is not whole:
            whole = b"" if chunk is DROP else encoded(chunk)
            headers = [pair for pair in headers if pair[0] != b"content-length"]
            headers.append((b"content-length", str(len(whole)).encode()))
        await send(_start(answer.status, headers))
        await send({"type": "http.response.body", "body": whole, "more_body": True})

    async def _end_of_chunks(self, ctx: RequestContext, error: ErrorDetails | None) -> None:
        """Tells plugins that watch chunks that none will come."""
        if self._pipeline.watches_chunks:
            ctx.stream_end = True
            ctx.chunk_index = None
            await self._pipeline.chunk(ctx, None, error)

    async def _answer_short(
        self, witness: Witness, short: ShortCircuit, send: Send
    ) -> tuple[Outcome | None, ErrorDetails | None]:
        """Answers in an upstream's place. The answer is folded as one of theirs would be."""
        status = short.status_code or (200 if short.error is None else short.error.status_code or 403)
        if short.error is not None:
            body = _error_body(short.error.type or "refused", short.error.message or "a plugin refused the request")
        else:
            body = encoded(short.response)
        kind = b"text/event-stream" if body.startswith((b"data:", b"event:", b":")) else b"application/json"
        witness.answered(status, [(b"content-type", kind)])
        witness.piece(body, time.monotonic_ns())
        self._conclude(witness, None, short.error)
        await _reply_bytes(send, status, body, kind)
        return None, short.error

    def _close(self, witness: Witness, outcome: Outcome | None, error: ErrorDetails | None) -> None:
        """The one way out: the plugins are told, unless they have been. Never raises."""
        try:
            self._conclude(witness, outcome, error)
        except Exception:
            log.exception("request %s left no row", witness.ctx.request_id)

    def _conclude(self, witness: Witness, outcome: Outcome | None, error: ErrorDetails | None) -> None:
        if witness.concluded:
            return
        witness.concluded = True
        done = witness.ended(outcome, error)
        self._pipeline.finished(witness.ctx, done)
        if done.data is not None:
            _say(witness.ctx, done.data)


class Inbound:
    """The client's side of an exchange: its body, and the news of its leaving.

    A body that came in one piece (nearly all do) is passed as it is. A longer one goes piece by piece through a short
    queue, filled by `until_gone`, because ASGI delivers body and departure through the same `receive`.
    """

    def __init__(self, receive: Receive, witness: Witness) -> None:
        self._receive = receive
        self._witness = witness
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
        self._witness.request_piece(piece)
        return piece

    async def _rest(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            if piece:
                yield piece


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


NO_WEBSOCKET: Final = "WebSocket is not supported by this gateway; use HTTP (streaming over SSE works)"


def _raw_path(scope: Scope) -> str:
    """The path as it was spelled."""
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"]
    return raw.decode("latin-1") if raw is not None else path


def _wants_websocket(scope: Scope) -> bool:
    return (header(scope["headers"], b"upgrade") or "").lower() == "websocket"


def _start(status: int, headers: Headers) -> Message:
    if status in BODILESS:
        # These have no body, and servers take a length for a promise of one.
        headers = [(name, value) for name, value in headers if name != b"content-length"]
    return {"type": "http.response.start", "status": status, "headers": headers}


async def _reply(send: Send, status: int, body: Any) -> None:
    await _reply_bytes(send, status, msgspec.json.encode(body), b"application/json")


async def _reply_bytes(send: Send, status: int, body: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _reply_error(send: Send, status: int, kind: str, message: str) -> None:
    await _reply_bytes(send, status, _error_body(kind, f"streamfold: {message}"), b"application/json")


def _error_body(kind: str, message: str) -> bytes:
    """An error in the shape that the OpenAI, Anthropic and Gemini SDKs all read."""
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "code": kind, "message": message}})


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if "websocket.http.response" in scope.get("extensions", {}):
        start = {"type": "websocket.http.response.start", "status": 501, "headers": [(b"content-type", b"text/plain")]}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": NO_WEBSOCKET.encode()})
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": NO_WEBSOCKET})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _limit(query: bytes) -> int:
    for pair in query.decode("latin-1").split("&"):
        name, _, value = pair.partition("=")
        if name == "limit" and value.isascii() and value.isdigit():
            return min(int(value), MOST_ROWS)
    return 50


def _light(row: LogRow, heavy: bool = False) -> dict[str, Any]:
    """A row as JSON; with `heavy`, its record as an object too."""
    shown: dict[str, Any] = msgspec.structs.asdict(row)
    for name in HEAVY:
        value = shown.pop(name)
        if heavy:
            shown[name] = value
    if heavy and row.record is not None:
        shown["record"] = msgspec.Raw(row.record.encode())
    return shown


def _say(ctx: RequestContext, data: AccumulatedData) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    kind = data.error_details.type or data.error_details.code if data.error_details is not None else None
    log.info(
        "%s /%s%s -> %s %s, %d chunks, %.0f ms%s",
        ctx.method,
        ctx.upstream,
        ctx.path,
        ctx.http_status or "no answer",
        data.status,
        data.chunks,
        data.latency_ms or 0,
        f" ({ctx.redact(str(kind)) if ctx.redact is not None else kind})" if kind else "",
    )
