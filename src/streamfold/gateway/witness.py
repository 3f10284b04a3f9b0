"""What watches one exchange and tells how it ended.

The witness stands beside the traffic. It is told what went by (after it went on) and answers nothing; whatever goes
wrong in here is its own affair: it is logged, marked in the record, and the bytes flow on. In the end it makes exactly
one complete response, however the exchange ended.

An answer is folded when the path named a format and the body can be read. Otherwise the record tells what HTTP told.
Times are those at which the bytes arrived, not those at which we got round to folding them: the accumulator's clock is
the time of the last arrival.
"""

from __future__ import annotations

import logging
import time
import uuid
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Final
from urllib.parse import urlsplit

import msgspec

from streamfold.errors import UsageError
from streamfold.gateway.coding import Decompressor, as_it_is, decompressor
from streamfold.gateway.config import Limits
from streamfold.gateway.headers import Headers, Redactor, header, told_by
from streamfold.gateway.routes import ENDINGS, Route, format_of, model_in
from streamfold.hooks import RequestContext
from streamfold.processed import ProcessedStreamResponse, ResponseType
from streamfold.stream import Catalog, StreamAccumulator
from streamfold.types import AccumulatedData, ErrorDetails, Integrity, Outcome, StreamType
from streamfold.wire import Fold, fold_class
from streamfold.wire.errors import error_details, error_of

__all__ = ["Witness", "load_folds"]

log = logging.getLogger("streamfold.gateway")

STREAM_TYPES: Final = ("text/event-stream", "application/x-ndjson", "application/vnd.amazon.eventstream")
STREAM_METHOD: Final = ":streamGenerateContent"
EXCERPT: Final = 8192
"""Bytes of an error answer that are kept for its message."""


class Witness:
    """One request and its answer, as seen from beside. `ctx` is what the plugins get to know of it."""

    def __init__(
        self,
        route: Route,
        method: str,
        headers: Headers,
        query: bytes,
        *,
        limits: Limits,
        catalog: Catalog | None = None,
    ) -> None:
        self.upstream = route.upstream
        self._limits = limits
        self._catalog = catalog
        self._kind = _fold_of(format_of(method, route.path))
        self._request = bytearray()
        self._request_coding = header(headers, b"content-encoding")
        self._fold: StreamAccumulator | None = None
        self._plain: Decompressor | None = None
        self._take: Callable[[bytes], None] = self._pass_over
        self._excerpt = b""
        self._received = 0
        self._unread = 0
        self._anomalies: list[str] = []
        self._first_piece: int | None = None
        self.concluded = False
        """Whether the plugins have been told of the end."""
        self.ctx = _context(route, method, headers, query, self._kind)
        self.ctx.snapshot = self._snapshot
        self._now = self.ctx.started_ns

    @property
    def format(self) -> str | None:
        """The wire format of the answer, as far as it is known."""
        return self.ctx.format

    # ------------------------------------------------------------------ what went by

    def request_piece(self, data: bytes) -> None:
        """A piece of the request body went up."""
        self.ctx.request_bytes = (self.ctx.request_bytes or 0) + len(data)
        room = self._limits.request_bytes - len(self._request)
        if room > 0:
            self._request += data[:room]

    def asked(self) -> None:
        """The request body is known, as far as it is looked at: takes from it what the answer's record needs."""
        ctx = self.ctx
        body = self._request_body()
        self._request = bytearray()
        ctx.request_body = body or None
        try:
            ctx.request = msgspec.json.decode(body) if body else None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            ctx.request = None
        asked = ctx.request if isinstance(ctx.request, dict) else {}
        model = asked.get("model")
        ctx.model = model if isinstance(model, str) else model_in(ctx.path or "")
        if ctx.stream is None:
            ctx.stream = asked.get("stream") is True or (ctx.path or "").endswith(STREAM_METHOD)

    def answered(self, status: int, headers: Headers) -> None:
        """The status line and headers of the answer came."""
        self.ctx.http_status = status
        self._now = time.monotonic_ns()
        self.ctx.stream = self._is_stream(status, header(headers, b"content-type") or "")
        coding = header(headers, b"content-encoding")
        self._plain = decompressor(coding)
        if self._plain is None:
            self._give_up("unreadable_encoding")
        elif self._kind is not None:
            self._fold = self._accumulator(self._kind.format)
            # The usual case, without a step between: this runs for each piece of each stream.
            self._take = self._fold.feed if self._plain is as_it_is and status < 400 else self._read
        elif status >= 400:
            self._take = self._read

    def piece(self, data: bytes, at: int) -> None:
        """A piece of the answer's body arrived `at` (monotonic nanoseconds) and has been passed on. Never raises."""
        self._now = at
        self._received += len(data)
        if self._first_piece is None:
            self._first_piece = at
        try:
            self._take(data)
        except zlib.error:
            self._give_up("corrupt_encoding")
        except Exception:
            log.exception("request %s: the fold failed; its bytes pass on", self.ctx.request_id)
            self._give_up("accumulator_error")

    def ended(self, outcome: Outcome | None = None, error: ErrorDetails | None = None) -> ProcessedStreamResponse:
        """The exchange is over. `outcome` is what the transport saw; None: the body came to its end."""
        self._now = time.monotonic_ns()
        if self._request:  # its end was not told before, because it was passed on piece by piece
            self.asked()
        self.ctx.snapshot = None
        self.ctx.response_bytes = self._received
        try:
            return self._finished(outcome, error)
        except Exception:
            log.exception("request %s: the fold failed at its end", self.ctx.request_id)
            self._give_up("accumulator_error")
            return self._unfolded(outcome, error)

    # ------------------------------------------------------------------ reading

    def _is_stream(self, status: int, content_type: str) -> bool:
        kind = content_type.partition(";")[0].strip().lower()
        # Gemini without alt=sse streams a JSON array.
        return kind in STREAM_TYPES or (status < 400 and (self.ctx.path or "").endswith(STREAM_METHOD))

    def _accumulator(self, format: str) -> StreamAccumulator:
        ctx = self.ctx
        now, self._now = self._now, ctx.started_ns
        accumulator = StreamAccumulator(
            format,
            request_id=ctx.request_id,
            provider=self.upstream.provider,
            model=ctx.model,
            stream=bool(ctx.stream),
            clock=lambda: self._now,
            wall=lambda: ctx.started_at,
            max_bytes=self._limits.response_bytes,
            max_arrivals=self._limits.arrivals,
            catalog=self._catalog,
            raw_request=ctx.request,
        )
        self._now = now
        return accumulator

    def _snapshot(self) -> AccumulatedData:
        fold = self._fold
        return fold.snapshot() if fold is not None else self._known(Outcome.ABANDONED, None, status="processing")

    def _read(self, data: bytes) -> None:
        assert self._plain is not None
        for plain in self._plain(data):
            if (self.ctx.http_status or 0) >= 400:
                self._excerpt += plain[: EXCERPT - len(self._excerpt)]
            if self._fold is not None:
                self._fold.feed(plain)

    def _give_up(self, code: str) -> None:
        """Reads no further. What was folded so far is kept."""
        self._anomalies.append(code)
        self._take = self._count_unread

    def _count_unread(self, data: bytes) -> None:
        self._unread += len(data)

    def _pass_over(self, data: bytes) -> None:
        """A body that nobody asked to be read."""

    def _request_body(self) -> bytes:
        """The request body, if it is JSON by its first character; as much of it as was looked at."""
        plain = decompressor(self._request_coding)
        body = bytearray()
        try:
            for piece in plain(bytes(self._request)) if plain is not None else ():
                body += piece
                if len(body) > self._limits.request_bytes:
                    break
        except zlib.error:
            return b""
        return bytes(body) if body[:64].lstrip().startswith((b"{", b"[")) else b""

    # ------------------------------------------------------------------ the end

    def _finished(self, outcome: Outcome | None, error: ErrorDetails | None) -> ProcessedStreamResponse:
        if self._fold is None:
            return self._unfolded(outcome, error)
        self._fold.model = self.ctx.model
        told = None if self._fold.has_ended else error or self._error_in_body()
        done = self._fold.finish(outcome, told, status_code=self.ctx.http_status)
        assert done.data is not None
        done.data.integrity.anomalies += self._anomalies
        done.data.integrity.dropped_bytes += self._unread
        return done

    def _unfolded(self, outcome: Outcome | None, error: ErrorDetails | None) -> ProcessedStreamResponse:
        """The record of an answer that nobody could read: it says what HTTP said."""
        error = error or self._error_in_body()
        data = self._known(outcome or (Outcome.ERROR if error is not None else Outcome.SUCCESS), error)
        return ProcessedStreamResponse(
            type=ResponseType.FINAL,
            request_id=self.ctx.request_id,
            stream_type=data.stream_type,
            format=data.format,
            provider=data.provider,
            requested_model=data.model,
            data=data,
            raw_request=self.ctx.request,
        )

    def _known(self, outcome: Outcome, error: ErrorDetails | None, status: str | None = None) -> AccumulatedData:
        ctx = self.ctx
        return AccumulatedData(
            request_id=ctx.request_id,
            stream_type=self._kind.stream_type if self._kind is not None else StreamType.PASSTHROUGH,
            format=ctx.format,
            provider=ctx.provider,
            model=ctx.model,
            stream=bool(ctx.stream),
            status=status or outcome.value,  # type: ignore[arg-type]
            latency_ms=_ms(self._now - ctx.started_ns),
            time_to_first_chunk_ms=_ms(self._first_piece - ctx.started_ns) if self._first_piece else None,
            start_timestamp=_utc(ctx.started_at),
            end_timestamp=_utc(ctx.started_at + (self._now - ctx.started_ns) / 1e9),
            error_details=error,
            integrity=Integrity(anomalies=list(self._anomalies), dropped_bytes=self._unread),
            cost_reason="no usage",
        )

    def _error_in_body(self) -> ErrorDetails | None:
        """What an answer of 400 and above says for itself, JSON or not."""
        status = self.ctx.http_status or 0
        if status < 400:
            return None
        text = self._excerpt.decode("utf-8", "replace").strip()
        try:
            body = msgspec.json.decode(self._excerpt)
        except (msgspec.DecodeError, UnicodeError):
            body = None
        if isinstance(body, list) and body:
            body = body[0]
        told = (error_of(body) or body) if isinstance(body, dict) else {"message": text or None}
        return error_details(told, status=status)


def _context(route: Route, method: str, headers: Headers, query: bytes, kind: type[Fold] | None) -> RequestContext:
    told = told_by(headers)
    server = urlsplit(route.upstream.url)
    return RequestContext(
        request_id=uuid.uuid4().hex,
        format=kind.format if kind is not None else None,
        provider=route.upstream.provider,
        upstream=route.upstream.name,
        method=method,
        path=route.path,
        request_headers=told.shown,
        session_id=told.session_id,
        metadata=told.metadata,
        log_content=told.log_content,
        traceparent=told.shown.get("traceparent"),
        tracestate=told.shown.get("tracestate"),
        server_address=server.hostname,
        server_port=server.port or (443 if server.scheme == "https" else 80),
        redact=Redactor(headers, query),
    )


def load_folds() -> None:
    """Imports the folds now, so that no request has to wait for it."""
    for _, format in ENDINGS:
        _fold_of(format)


@cache
def _fold_of(format: str | None) -> type[Fold] | None:
    """The fold of a format, or None if this version has none for it."""
    try:
        return fold_class(format) if format is not None else None
    except UsageError:
        return None


def _ms(nanoseconds: int) -> float:
    return nanoseconds / 1e6


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
