"""What watches one exchange and tells how it ended.

The witness stands beside the traffic. It is told what went by (after it went on) and answers nothing; whatever goes
wrong in here is its own affair: it is logged, marked in the record, and the bytes flow on. In the end it makes exactly
one complete response, however the exchange ended.

An answer is folded in the format that its path promises, or as `passthrough` if it promises none. An answer without
a body, or one that cannot be read, is told as HTTP told it.
Times are those at which the bytes arrived, not those at which we got round to folding them.

We get round to it late: a few pieces wait for each other, or for somebody who looks. To fold sixteen small pieces in a
row takes little more than to fold one between two sockets, where everything that it needs has left the processor's
cache. Whoever asks (`has_output`, `ctx.snapshot()` from any thread, the end) gets what has come until then.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from threading import Lock
from typing import Final
from urllib.parse import urlsplit

import msgspec

from streamfold.gateway.coding import DamagedError, Decompressor, as_it_is, decompressor
from streamfold.gateway.config import Limits
from streamfold.gateway.form import form_field
from streamfold.gateway.headers import Headers, Redactor, header, told_by
from streamfold.gateway.routes import (
    ENDINGS,
    PASSTHROUGH,
    Route,
    format_of,
    is_readable_as,
    is_stream_path,
    model_in,
)
from streamfold.hooks import RequestContext
from streamfold.processed import ProcessedStreamResponse, ResponseType
from streamfold.stream import Catalog, StreamAccumulator
from streamfold.timestamps import utc
from streamfold.types import AccumulatedData, ErrorDetails, Integrity, Outcome
from streamfold.wire import Fold, fold_class
from streamfold.wire.errors import error_details, error_of

__all__ = ["Witness", "load_folds"]

log = logging.getLogger("streamfold.gateway")

STREAM_TYPES: Final = ("text/event-stream", "application/x-ndjson", "application/vnd.amazon.eventstream")
EXCERPT: Final = 8192
"""Bytes of an error answer that are kept for its message."""
MOST_WAITING: Final = 16
"""Pieces of an answer that wait to be folded; many streams have that many each."""
LARGE: Final = 4096
"""A piece of so many bytes is worth folding by itself, and too much to keep."""
OTHER_REQUEST: Final = 64 * 1024
"""Bytes of a request body that are looked at when it is no JSON: enough for the first fields of a form."""


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
        self._kind = _fold_of(format_of(method, route.path, route.upstream.provider))
        self._request = bytearray()
        self._request_type = header(headers, b"content-type") or ""
        self._request_room = limits.request_bytes if _is_json(self._request_type) else OTHER_REQUEST
        self._request_coding = header(headers, b"content-encoding")
        self._asked = False
        self._fold: StreamAccumulator | None = None
        self._plain: Decompressor | None = None
        self._take: Callable[[bytes, int], None] = self._pass_over
        self._waiting: deque[tuple[bytes, int]] = deque()
        """Pieces that are not folded yet, and when they came."""
        self._folding = Lock()
        self._spoken = False
        self._excerpt = b""
        self._received = 0
        self._unread = 0
        self._anomalies: list[str] = []
        self._first_piece: int | None = None
        self._left = False
        self._delivered = 0
        """Bytes of the answer that had come when its client left, if it did."""
        self.concluded = False
        """Whether the plugins have been told of the end."""
        self.ctx = _context(route, method, headers, query, self._kind)
        self.ctx.snapshot, self.ctx.arrivals = self._snapshot, self._arrivals
        self._now = self.ctx.started_ns

    @property
    def format(self) -> str:
        """The wire format that the answer is folded in."""
        return self._kind.format

    @property
    def received(self) -> int:
        """Bytes of the answer's body so far."""
        return self._received

    @property
    def has_output(self) -> bool:
        """Whether the model has said anything yet; of an answer that is no stream, whether any byte of it came."""
        fold = self._fold
        if fold is None or not self.ctx.stream or self._kind.format == PASSTHROUGH:
            return self._received > 0
        if not self._spoken:
            self._catch_up()
            self._spoken = fold.has_output
        return self._spoken

    @property
    def error(self) -> ErrorDetails | None:
        """The error that the stream itself told, if it has."""
        return self._fold.snapshot().error_details if self._fold is not None and self.has_ended else None

    @property
    def has_ended(self) -> bool:
        """Whether the protocol's own end has been seen: its end marker, or an error."""
        self._catch_up()
        return self._fold is not None and self._fold.has_ended

    def note(self, code: str) -> None:
        """Marks in the record what was odd about the delivery."""
        self._anomalies.append(code)

    # ------------------------------------------------------------------ what went by

    def request_piece(self, data: bytes) -> None:
        """A piece of the request body went up."""
        self.ctx.request_bytes = (self.ctx.request_bytes or 0) + len(data)
        room = self._request_room - len(self._request)
        if room > 0 and not self._asked:
            self._request += data[:room]

    def asked(self) -> None:
        """The request body is known, as far as it is looked at: takes from it what the answer's record needs."""
        ctx = self.ctx
        self._asked = True
        if not _is_json(self._request_type) and "multipart" in self._request_type:
            self._asked_by_form()
            return
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
            ctx.stream = asked.get("stream") is True or is_stream_path(ctx.path or "")

    def _asked_by_form(self) -> None:
        form, self._request = bytes(self._request), bytearray()
        self.ctx.model = form_field(form, "model")
        if self.ctx.stream is None:
            self.ctx.stream = form_field(form, "stream") == "true"

    def answered(self, status: int, headers: Headers) -> None:
        """The status line and headers of the answer came."""
        self.ctx.http_status = status
        self._now = time.monotonic_ns()
        if self._request:  # its end was not told before, because it was passed on piece by piece
            self.asked()
        content_type = header(headers, b"content-type") or ""
        if not is_readable_as(self._kind.format, status, content_type):
            self._kind = _fold_of(PASSTHROUGH)
            self.ctx.format = self._kind.format
        self.ctx.stream = self._is_stream(status, content_type, header(headers, b"content-length"))
        coding = header(headers, b"content-encoding")
        self._plain = decompressor(coding)
        if self._plain is None:
            self._give_up("unreadable_encoding")
            return
        self._fold = self._accumulator(self._kind.format, self._tape_bytes(content_type))
        self._fold.note_http(status, told_by(headers).shown)
        # The usual case, without a step between: this runs for each piece of each stream.
        self._take = self._fold.feed if self._plain is as_it_is and status < 400 else self._read

    def client_left(self) -> None:
        """The client has gone, and what comes from now on is read for the record only."""
        self._left = not self.has_ended
        self._delivered = self._received

    def piece(self, data: bytes, at: int) -> None:
        """A piece of the answer's body arrived `at` (monotonic nanoseconds) and has been passed on. Never raises."""
        self._received += len(data)
        waiting = self._waiting
        waiting.append((data, at))
        if len(waiting) >= MOST_WAITING or len(data) >= LARGE:
            self._catch_up()

    def ended(self, outcome: Outcome | None = None, error: ErrorDetails | None = None) -> ProcessedStreamResponse:
        """The exchange is over. `outcome` is what the transport saw; None: the body came to its end."""
        self._catch_up()
        self._now = time.monotonic_ns()
        if self._request:
            self.asked()
        self.ctx.snapshot = self.ctx.arrivals = None
        self.ctx.response_bytes = self._received
        try:
            return self._finished(outcome, error)
        except Exception:
            log.exception("request %s: the fold failed at its end", self.ctx.request_id)
            self._give_up("accumulator_error")
            return self._unfolded(outcome, error)

    # ------------------------------------------------------------------ reading

    def _is_stream(self, status: int, content_type: str, length: str | None) -> bool:
        kind = content_type.partition(";")[0].strip().lower()
        if kind in STREAM_TYPES:
            return True
        # Gemini without alt=sse streams a JSON array; sound that comes while it is made has no length yet.
        sound = kind.startswith("audio/") and length is None
        return status < 400 and (sound or is_stream_path(self.ctx.path or ""))

    def _tape_bytes(self, content_type: str) -> int:
        """How much of the frames to keep. Bare sound, and what nobody can read, comes in no frames."""
        framed = self.ctx.stream and self._kind.format != PASSTHROUGH and not content_type.startswith("audio/")
        return self._limits.tape_bytes if framed else 0

    def _accumulator(self, format: str, tape_bytes: int) -> StreamAccumulator:
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
            tape_bytes=tape_bytes,
            catalog=self._catalog,
            raw_request=ctx.request,
        )
        self._now = now
        return accumulator

    def _catch_up(self) -> None:
        """Folds the pieces that wait. Never raises; may be called from any thread."""
        waiting = self._waiting
        with self._folding:  # even if nothing waits: another thread may be at the last piece
            while waiting:
                self._fold_piece(*waiting.popleft())

    def _fold_piece(self, data: bytes, at: int) -> None:
        self._now = at
        if self._first_piece is None:
            self._first_piece = at
        try:
            self._take(data, at)
        except DamagedError:
            self._give_up("corrupt_encoding")
        except Exception:
            log.exception("request %s: the fold failed; its bytes pass on", self.ctx.request_id)
            self._give_up("accumulator_error")

    def _snapshot(self) -> AccumulatedData:
        self._catch_up()
        fold = self._fold
        return fold.snapshot() if fold is not None else self._known(Outcome.ABANDONED, None, status="processing")

    def _arrivals(self) -> Sequence[int] | None:
        self._catch_up()
        arrivals = self._fold.arrivals if self._fold is not None else None
        return arrivals[:] if arrivals is not None else None  # a copy: the loop goes on adding to it

    def _read(self, data: bytes, at: int) -> None:
        assert self._plain is not None
        for plain in self._plain(data):
            if (self.ctx.http_status or 0) >= 400:
                self._excerpt += plain[: EXCERPT - len(self._excerpt)]
            if self._fold is not None:
                self._fold.feed(plain, at)

    def _give_up(self, code: str) -> None:
        """Reads no further. What was folded so far is kept."""
        self._anomalies.append(code)
        self._take = self._count_unread

    def _count_unread(self, data: bytes, at: int) -> None:
        self._unread += len(data)

    def _pass_over(self, data: bytes, at: int) -> None:
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
        except DamagedError:
            return b""
        return bytes(body) if body[:64].lstrip().startswith((b"{", b"[")) else b""

    # ------------------------------------------------------------------ the end

    def _finished(self, outcome: Outcome | None, error: ErrorDetails | None) -> ProcessedStreamResponse:
        if self._fold is None or self._has_no_body(outcome):
            return self._unfolded(outcome, error)
        self._fold.model = self.ctx.model
        told = error or self._error_in_body()
        if self._fold.has_ended and outcome is not Outcome.ERROR:
            told = None  # what happens to the connection after the protocol's own end is nobody's concern
        done = self._fold.finish(outcome, told, status_code=self.ctx.http_status)
        assert done.data is not None
        said = done.data.error_details
        if told is not None and said is not None and said.message is None:
            done.data.error_details = told  # a body that is no JSON says why in plain words
        if self._left and done.data.status == Outcome.SUCCESS.value:
            done.data.status = Outcome.CANCELLED.value  # it is whole, but the client has not got all of it
        if self._left and self._received > self._delivered:
            self._anomalies.append("drained")
        done.data.integrity.anomalies += self._anomalies
        done.data.integrity.dropped_bytes += self._unread
        return done

    def _has_no_body(self, outcome: Outcome | None) -> bool:
        """Whether an answer came to its end, and the end is that it has no body."""
        bodiless = self.ctx.method == "HEAD" or self.ctx.http_status in (204, 304)
        return not self._received and outcome is None and (bodiless or self._kind.format == PASSTHROUGH)

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
            stream_type=self._kind.stream_type,
            format=ctx.format,
            provider=ctx.provider,
            model=ctx.model,
            stream=bool(ctx.stream),
            status=status or outcome.value,  # type: ignore[arg-type]
            latency_ms=_ms(self._now - ctx.started_ns),
            time_to_first_chunk_ms=_ms(self._first_piece - ctx.started_ns) if self._first_piece else None,
            start_timestamp=utc(ctx.started_at),
            end_timestamp=utc(ctx.started_at + (self._now - ctx.started_ns) / 1e9),
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


def _is_json(content_type: str) -> bool:
    """Whether a request may be JSON: it says so, or says nothing, or what careless clients say (curl -d)."""
    return not content_type or "json" in content_type or content_type.startswith("application/x-www-form-urlencoded")


def _context(route: Route, method: str, headers: Headers, query: bytes, kind: type[Fold]) -> RequestContext:
    told = told_by(headers)
    key = route.upstream.key
    secret = [*headers, (b"authorization", key.header[1])] if key is not None else headers
    server = urlsplit(route.upstream.url)
    return RequestContext(
        request_id=uuid.uuid4().hex,
        format=kind.format,
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
        redact=Redactor(secret, query),
    )


def load_folds() -> None:
    """Imports the folds now, so that no request has to wait for it."""
    for _, format in ENDINGS:
        _fold_of(format)


@cache
def _fold_of(format: str) -> type[Fold]:
    """The fold of a format."""
    return fold_class(format)


def _ms(nanoseconds: int) -> float:
    return nanoseconds / 1e6
