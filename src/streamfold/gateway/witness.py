"""What watches one exchange and writes its row.

The witness stands beside the traffic. It is told what went by (after it went on) and answers nothing; whatever goes
wrong in here is its own affair: it is logged, marked in the row, and the bytes flow on. In the end it makes exactly
one row, however the exchange ended.

An answer is folded when the path named a format and the body can be read. Otherwise the row tells what HTTP told.
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
from typing import Any, Final

import msgspec

from streamfold.errors import UsageError
from streamfold.gateway.coding import Decompressor, as_it_is, decompressor
from streamfold.gateway.config import Limits
from streamfold.gateway.headers import Headers, Redactor, header
from streamfold.gateway.routes import ENDINGS, Route, format_of, model_in
from streamfold.store.row import LogRow, row_of
from streamfold.stream import StreamAccumulator
from streamfold.types import AccumulatedData, ErrorDetails, Integrity, Outcome, StreamType
from streamfold.wire import Fold, fold_class
from streamfold.wire.errors import error_details, error_of

__all__ = ["Witness", "load_folds"]

log = logging.getLogger("streamfold.gateway")

STREAM_TYPES: Final = ("text/event-stream", "application/x-ndjson", "application/vnd.amazon.eventstream")
STREAM_METHOD: Final = ":streamGenerateContent"
EXCERPT: Final = 8192
"""Bytes of an error answer that are kept for its message."""


class _Asked(msgspec.Struct):
    """What a request body tells about the answer to come. Everything else in it is not our concern."""

    model: Any = None
    stream: Any = None


class Witness:
    """One request and its answer, as seen from beside."""

    def __init__(
        self, route: Route, method: str, *, redact: Redactor, limits: Limits, request_coding: str | None = None
    ) -> None:
        self.request_id = uuid.uuid4().hex
        self.method = method
        self.path = route.path
        self.upstream = route.upstream
        self.status_code: int | None = None
        self._redact = redact
        self._limits = limits
        self._started = self._now = time.monotonic_ns()
        self._started_at = time.time()
        self._kind = _fold_of(format_of(method, route.path))
        self._request = bytearray()
        self._request_bytes = 0
        self._request_coding = request_coding
        self._stream: bool | None = None
        self._fold: StreamAccumulator | None = None
        self._plain: Decompressor | None = None
        self._take: Callable[[bytes], None] = self._pass_over
        self._excerpt = b""
        self._unread = 0
        self._anomalies: list[str] = []
        self._first_piece: int | None = None

    # ------------------------------------------------------------------ what went by

    def request_piece(self, data: bytes) -> None:
        """A piece of the request body went up."""
        self._request_bytes += len(data)
        room = self._limits.request_bytes - len(self._request)
        if room > 0:
            self._request += data[:room]

    def answered(self, status: int, headers: Headers) -> None:
        """The status line and headers of the answer came."""
        self.status_code = status
        self._now = time.monotonic_ns()
        self._stream = self._is_stream(status, header(headers, b"content-type") or "")
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
        if self._first_piece is None:
            self._first_piece = at
        try:
            self._take(data)
        except zlib.error:
            self._give_up("corrupt_encoding")
        except Exception:
            log.exception("request %s: the fold failed; its bytes pass on", self.request_id)
            self._give_up("accumulator_error")

    def ended(self, outcome: Outcome | None = None, error: ErrorDetails | None = None) -> LogRow:
        """The exchange is over. `outcome` is what the transport saw; None: the body came to its end."""
        self._now = time.monotonic_ns()
        body = self._request_body()
        model, stream = self._asked(body)
        if self._stream is None:
            self._stream = stream
        try:
            data = self._finished(outcome, error, model)
        except Exception:
            log.exception("request %s: the fold failed at its end", self.request_id)
            self._give_up("accumulator_error")
            data = self._unfolded(outcome, error, model)
        return self._row(data, body)

    # ------------------------------------------------------------------ reading

    def _is_stream(self, status: int, content_type: str) -> bool:
        kind = content_type.partition(";")[0].strip().lower()
        # Gemini without alt=sse streams a JSON array.
        return kind in STREAM_TYPES or (status < 400 and self.path.endswith(STREAM_METHOD))

    def _accumulator(self, format: str) -> StreamAccumulator:
        now, self._now = self._now, self._started
        accumulator = StreamAccumulator(
            format,
            request_id=self.request_id,
            provider=self.upstream.provider,
            stream=bool(self._stream),
            clock=lambda: self._now,
            wall=lambda: self._started_at,
        )
        self._now = now
        return accumulator

    def _read(self, data: bytes) -> None:
        assert self._plain is not None
        for plain in self._plain(data):
            if (self.status_code or 0) >= 400:
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

    def _asked(self, body: bytes) -> tuple[str | None, bool]:
        """The model and whether a stream was asked for, from the request body or the path."""
        try:
            asked = msgspec.json.decode(body or b"{}", type=_Asked)
        except (msgspec.DecodeError, UnicodeError):
            asked = _Asked()
        model = asked.model if isinstance(asked.model, str) else model_in(self.path)
        return model, asked.stream is True or self.path.endswith(STREAM_METHOD)

    # ------------------------------------------------------------------ the end

    def _finished(self, outcome: Outcome | None, error: ErrorDetails | None, model: str | None) -> AccumulatedData:
        if self._fold is None:
            return self._unfolded(outcome, error, model)
        self._fold.model = model
        told = None if self._fold.has_ended else error or self._error_in_body()
        data = self._fold.finish(outcome, told, status_code=self.status_code).data
        assert data is not None
        data.integrity.anomalies += self._anomalies
        data.integrity.dropped_bytes += self._unread
        return data

    def _unfolded(self, outcome: Outcome | None, error: ErrorDetails | None, model: str | None) -> AccumulatedData:
        """The record of an answer that nobody could read: it says what HTTP said."""
        error = error or self._error_in_body()
        status = outcome or (Outcome.ERROR if error is not None else Outcome.SUCCESS)
        return AccumulatedData(
            request_id=self.request_id,
            stream_type=self._kind.stream_type if self._kind is not None else StreamType.PASSTHROUGH,
            format=self._kind.format if self._kind is not None else None,
            provider=self.upstream.provider,
            model=model,
            stream=bool(self._stream),
            status=status.value,
            latency_ms=_ms(self._now - self._started),
            time_to_first_chunk_ms=_ms(self._first_piece - self._started) if self._first_piece else None,
            start_timestamp=_utc(self._started_at),
            end_timestamp=_utc(self._started_at + (self._now - self._started) / 1e9),
            error_details=error,
            integrity=Integrity(anomalies=list(self._anomalies), dropped_bytes=self._unread),
            cost_reason="no usage",
        )

    def _error_in_body(self) -> ErrorDetails | None:
        """What an answer of 400 and above says for itself, JSON or not."""
        if (self.status_code or 0) < 400:
            return None
        text = self._excerpt.decode("utf-8", "replace").strip()
        try:
            body = msgspec.json.decode(self._excerpt)
        except (msgspec.DecodeError, UnicodeError):
            body = None
        if isinstance(body, list) and body:
            body = body[0]
        told = (error_of(body) or body) if isinstance(body, dict) else {"message": text or None}
        return error_details(told, status=self.status_code)

    def _row(self, data: AccumulatedData, body: bytes) -> LogRow:
        kept = body[: self._limits.stored_request_bytes].decode("utf-8", "ignore")
        row = row_of(
            data,
            upstream=self.upstream.name,
            method=self.method,
            path=self.path,
            http_status=self.status_code,
            request_bytes=self._request_bytes,
            request=kept or None,
        )
        for name in row.__struct_fields__:
            value = getattr(row, name)
            if type(value) is str:
                setattr(row, name, self._redact(value))
        return row


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
