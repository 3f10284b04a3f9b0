"""One live stream: bytes or chunks go in, one complete response comes out.

`StreamAccumulator` puts the parts together: a framer cuts the bytes into frames, a `Sequence` orders numbered chunks,
a `Fold` grows the native response, and `finish` decides how the stream ended, reads the response into the record and
hands out one FINAL that never changes again.

It does no I/O and never sleeps; the clock is an argument, read once per call. It may be fed from any thread: one lock
per stream, taken once per call. Nothing here raises into the caller's stream (unless `strict`): what cannot be read
is counted in `Integrity`.

How a stream ends (`OUTCOMES`) is a table, read from the top: the first line that holds is the outcome. Two facts
shape it. A finish reason is not the end, since usage may follow; the end is the protocol's own marker. And what the
transport saw (a hang-up, a reset) only counts if the protocol had not ended by then.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from threading import Lock
from typing import Any, NamedTuple, Protocol, Self

import msgspec

from streamfold.errors import UsageError
from streamfold.framing import SSE, AutoFramer, Framer, framer_of
from streamfold.processed import ProcessedStreamResponse, ResponseType
from streamfold.sequence import Sequence
from streamfold.tape import Tape
from streamfold.timestamps import utc
from streamfold.types import (
    JSON,
    AccumulatedData,
    CacheDebug,
    Cost,
    ErrorDetails,
    Integrity,
    Outcome,
    StreamChunk,
    StreamType,
)
from streamfold.wire import Fold, fold_class, recognise
from streamfold.wire.errors import error_details, error_of, retryable
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, decode
from streamfold.wire.foreign import foreign_api
from streamfold.wire.joined import documents
from streamfold.wire.pings import is_ping
from streamfold.wire.repeat import Repeat
from streamfold.wire.surrogates import without_surrogates
from streamfold.wire.usage import provider_cost

__all__ = ["Catalog", "StreamAccumulator", "builtin", "fold", "read"]

MAX_BYTES = 64 * 1024 * 1024
"""Default limit on what one stream may feed before its response stops growing."""

MAX_UNRECOGNISED = 32
"""Frames that `format="auto"` looks at before it gives up."""

MOST_ALONE = 16
"""Events folded one by one before many are cut off at a time."""

BETWEEN_RUNS = 512
READ_SIZE = 24 * 1024
"""Bytes that are framed before a run of events that repeat is looked for again, at first and at most."""

LONG = 16 * 1024
"""Bytes of a read that are not copied for the few that are held from the read before."""

STRETCH = 64 * 1024
"""Bytes framed at once at most, after which the stream is asked whether it has become too large."""

NESTED = (dict, list, tuple)
"""Types of the values of a decoded chunk that may hold others."""

CR = 13
BLANK_LINE = b"\n\n"


class Catalog(Protocol):
    """Prices a usage. Answers the cost, or None with the reason why there is none.

    `request` is the JSON that was sent, where it is known: speech by the character needs it, and pictures by size.
    """

    def cost_of(self, data: AccumulatedData, request: JSON | None = None) -> tuple[Cost | None, str | None]: ...


_Waiting = tuple[Any, str | None, int, int | None]
"""A numbered chunk in wait: the chunk, its event name, when it came, its index."""


class _End(NamedTuple):
    """What is known when a stream ends."""

    told: Outcome | None
    ended: bool
    finished: bool
    failed: bool
    gaps: bool
    chunks: int
    marker_due: bool


OUTCOMES: tuple[tuple[Callable[[_End], bool], Callable[[_End], Outcome]], ...] = (
    (lambda end: end.failed, lambda end: Outcome.ERROR),
    (lambda end: end.ended and end.chunks > 0 and not end.gaps, lambda end: Outcome.SUCCESS),
    (lambda end: end.told is not None and end.told is not Outcome.SUCCESS, lambda end: end.told or Outcome.ERROR),
    (lambda end: end.chunks == 0, lambda end: Outcome.EMPTY),
    (lambda end: end.gaps, lambda end: Outcome.TRUNCATED),
    (lambda end: end.finished and not end.marker_due, lambda end: Outcome.SUCCESS),
    (lambda end: True, lambda end: Outcome.TRUNCATED),
)
"""The outcome table: (condition, outcome), first match wins."""


class StreamAccumulator:
    """One stream of one wire format.

    `format` is a name of `format_names()` or `auto`. `start_timestamp` is when the request was sent (a datetime, or
    seconds since the epoch); by default now. `clock` is monotonic nanoseconds, `wall` seconds since the epoch.
    `max_bytes` limits what the response may grow from, `tape_bytes` is how much of the raw frames to keep (0: none),
    `max_arrivals` how many times of arrival to keep (0: none; 8 bytes each), `first_chunk_index` the lowest index of
    numbered chunks. `strict=True` raises `WireError` for a frame that is not JSON. `raw_request` is what was asked:
    it is handed on, and its prices may depend on it. Raises `UsageError` for an unknown format.
    """

    __slots__ = (
        "__weakref__",
        "_again",
        "_arrivals",
        "_bytes",
        "_cache_debug",
        "_catalog",
        "_clock",
        "_dropped",
        "_final",
        "_first_chunk",
        "_first_chunk_index",
        "_first_content",
        "_first_output",
        "_fold",
        "_foreign",
        "_framer",
        "_http",
        "_last_chunk",
        "_last_index",
        "_last_output",
        "_late",
        "_lock",
        "_max_arrivals",
        "_max_bytes",
        "_max_gap",
        "_max_waiting",
        "_raw_request",
        "_request_id",
        "_sequence",
        "_start",
        "_started_at",
        "_stream",
        "_strict",
        "_tape",
        "_unrecognised",
        "model",
        "provider",
    )

    def __init__(
        self,
        format: str = "auto",
        *,
        request_id: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        stream: bool = True,
        start_timestamp: datetime | float | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], float] = time.time,
        strict: bool = False,
        max_bytes: int = MAX_BYTES,
        max_waiting: int = 4096,
        first_chunk_index: int = 0,
        tape_bytes: int = 0,
        max_arrivals: int = 0,
        catalog: Catalog | None = None,
        raw_request: Any = None,
    ) -> None:
        self._lock = Lock()
        self._request_id = request_id
        self.provider = provider
        self.model = model
        self._stream = stream
        self._clock = clock
        self._start = clock()
        self._started_at = wall()
        if start_timestamp is not None:
            asked = start_timestamp.timestamp() if isinstance(start_timestamp, datetime) else float(start_timestamp)
            self._start -= int((self._started_at - asked) * 1e9)
            self._started_at = asked
        self._strict = strict
        self._max_bytes = max_bytes
        self._max_waiting = max_waiting
        self._first_chunk_index = first_chunk_index
        self._catalog = catalog
        self._raw_request = raw_request
        self._framer: Framer | None = None
        self._sequence: Sequence[_Waiting] | None = None
        self._tape = Tape(tape_bytes) if tape_bytes > 0 else None
        self._arrivals = array("q") if max_arrivals > 0 else None
        self._max_arrivals = max_arrivals
        self._again: Repeat | None = None
        """Set while the next read may be one event like the last, with nothing of another one held."""
        self._fold: Fold | None = None
        self._foreign: str | None = None
        self._http: tuple[int | None, Mapping[str, str] | None] | None = None
        self._unrecognised: list[tuple[JSON | bytes, str | None]] | None = None
        if format == "auto":
            self._unrecognised = []
        else:
            self._begin(fold_class(format))
        self._bytes = 0
        self._dropped = 0
        self._first_chunk = self._first_output = self._first_content = self._last_output = self._last_chunk = 0
        self._max_gap = 0
        self._late = 0
        self._last_index = -1
        self._cache_debug: CacheDebug | None = None
        self._final: ProcessedStreamResponse | None = None

    # ------------------------------------------------------------------ feeding

    def feed(self, data: bytes | bytearray | memoryview, at: int | None = None) -> None:
        """Takes bytes exactly as read from the wire, cut anywhere.

        `at` is when they came, by the stream's clock; by default now. Bytes after the end are counted (`late`) and
        change nothing.
        """
        lock = self._lock
        lock.acquire()  # not `with`: this is called for every read, and it costs half
        try:
            again = self._again
            if again is not None and self._fold.repeat is again and type(data) is bytes:  # type: ignore[union-attr]
                flags = again.one(data)
                if flags is not None:
                    self._stamp_again(flags, len(data), self._clock() if at is None else at)
                    return
            if self._final is not None:
                self._late += 1
                return
            now = self._clock() if at is None else at
            if type(data) is not bytes:
                data = bytes(data)
            self._take(data, now)
        finally:
            lock.release()

    def _take(self, data: bytes, now: int) -> None:
        framer = self._framer
        if framer is None:
            framer = self._fold.framer() if self._fold is not None else AutoFramer()
            framer = self._framer = framer_of(data) if type(framer) is AutoFramer else framer
        at, held = 0, framer.pending
        if held > LONG and type(framer) is SSE and framer.grow(data):
            self._bytes += len(data)
            self._watch_size()
            return
        if held and max(held, len(data)) > LONG and (end := data.find(BLANK_LINE)) >= 0:
            at = end + len(BLANK_LINE)
            self._read(framer, data[:at], 0, now)
        self._read(framer, data, at, now)

    def _read(self, framer: Framer, data: bytes, at: int, now: int) -> None:
        self._again = None
        walks = self._tape is None and CR not in data
        step = BETWEEN_RUNS
        complete = -1  # where the last complete event ends; not known yet
        while at < len(data):
            if walks and type(framer) is SSE and (begun := framer.begun(data)) is not None:
                if begun:
                    data, at, complete = begun + data[at:], 0, -1
                    self._bytes -= len(begun)
                if complete < 0:
                    end = data.rfind(BLANK_LINE, at)
                    complete = end + len(BLANK_LINE) if end >= 0 else at
                at, ran = self._walk(framer, data, at, complete, now)
                if at >= complete:
                    framer.hold(data[at:])
                    self._bytes += len(data) - at
                    break
                # Where there are no runs, frames are cut off many at a time; more each time in vain.
                step = BETWEEN_RUNS if ran else min(2 * step, READ_SIZE)
            stop = self._stop(framer, data, at, step) if walks else min(len(data), at + STRETCH)
            self._bytes += stop - at
            payloads, names = framer.feed(data[at:stop])
            if payloads:
                self._add_frames(payloads, names, now)
            if type(framer) is AutoFramer and framer.inner is not None:
                framer = self._framer = framer.inner
            self._watch_size()
            at = stop
        self._watch_size()

    def _stop(self, framer: Framer, data: bytes, at: int, step: int) -> int:
        """How far to frame at once: about a step, where runs may come again.

        Events are not torn, if they are not too long: the beginning of one would be held, and copied with all the rest.
        """
        stop = min(len(data), at + STRETCH)
        if type(framer) not in (SSE, AutoFramer):
            return stop
        hopeful = self._fold is None or self._fold.hopeful
        end = data.find(BLANK_LINE, at + step, stop) if hopeful else -1
        if end < 0 and stop < len(data):
            end = data.rfind(BLANK_LINE, at, stop)
        return end + len(BLANK_LINE) if end >= 0 else stop

    def _walk(self, framer: SSE, data: bytes, at: int, complete: int, now: int) -> tuple[int, bool]:
        """Folds a read event by event, and at one go what need not even be cut into events: most of a stream.

        From `at` to `complete` events are complete. Returns how far it came, and whether it met any run of events
        that repeat.
        """
        fold = self._fold
        start = at
        room = start + self._max_bytes - self._bytes
        flags = alone = 0
        ran = False
        try:
            while fold is not None and at < complete and at <= room:
                again = fold.repeat
                if again is not None:
                    used, brought = again.skim(data, at, framer.head)
                    if used:
                        at += used
                        flags |= brought | CHUNK
                        alone, ran = 0, True
                        self._again = again if at == len(data) else None
                        continue
                if alone == MOST_ALONE or not fold.hopeful or (event := framer.cut(data, at)) is None:
                    break
                at, payload, name = event
                flags |= fold.add(payload, name)
                alone += 1
        finally:  # a strict stream has taken what came before the event that it raises for
            self._bytes += at - start
            if flags:
                self._stamp(flags, now)
        return at, ran

    def add(self, chunk: Any, chunk_index: int | None = None, *, name: str | None = None) -> bool:
        """Takes one chunk that somebody else framed.

        `chunk` is a payload (bytes or str of JSON, or `[DONE]`), a mapping, a msgspec Struct, or an SDK's pydantic
        object. With `chunk_index` each index counts once and chunks are put in order. `name` is its event name.
        Returns whether anything was folded now (false for a repeat, a chunk that has to wait, one after the end).
        Raises `UsageError` for a chunk of a type that cannot be read.
        """
        lock = self._lock
        lock.acquire()  # as in `feed`
        try:
            fold = self._fold
            again = fold.repeat if fold is not None and self._tape is None and name in (None, fold.named) else None
            if again is not None and chunk_index is None and self._final is None:
                # A decoded chunk that is like the one before is not copied and walked through: its bytes say enough.
                payload = chunk if type(chunk) is bytes else _encoded(chunk) if type(chunk) is dict else b""
                flags = again.payload(payload)
                if flags is not None:
                    self._stamp_again(flags, len(payload), self._clock())
                    return True
            return self._add(chunk, chunk_index, name)
        finally:
            lock.release()

    def _add(self, chunk: Any, index: int | None, name: str | None) -> bool:
        if self._final is not None:
            self._late += 1
            return False
        now = self._clock()
        if isinstance(chunk, bytearray | memoryview):
            chunk = bytes(chunk)
        elif not isinstance(chunk, bytes | str):
            chunk = builtin(chunk)
        if index is None:
            self._add_chunk(chunk, name, now, None)
            return True
        self._last_index = max(self._last_index, index)
        if self._sequence is None:
            self._sequence = Sequence(first=self._first_chunk_index, max_waiting=self._max_waiting)
        weight = len(chunk) if isinstance(chunk, bytes | str) else 0
        reordered = self._sequence.reordered
        released = self._sequence.offer(index, (chunk, name, now, index), weight)
        if self._sequence.reordered != reordered:
            self._stamp(CHUNK, now)  # it waits, but it came
        for each in released:
            self._add_chunk(*each)
        return bool(released)

    def add_many(self, payloads: list[bytes], names: list[str | None] | None = None) -> None:
        """Takes payloads that somebody else framed, in order; quicker than one `add` each."""
        with self._lock:
            if self._final is not None:
                self._late += len(payloads)
                return
            self._bytes += sum(map(len, payloads))
            self._add_frames(list(payloads), names, self._clock())  # native code takes nothing else
            self._watch_size()

    def note_cache(self, cache_debug: CacheDebug) -> None:
        """Notes what a semantic cache in front of the provider said of this answer."""
        self._cache_debug = cache_debug

    def note_http(self, status_code: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Notes what HTTP said before the body. `headers` may be kept in the record: leave out what is secret."""
        with self._lock:
            self._http = (status_code, headers)
            if self._fold is not None:
                self._fold.note_http(status_code, headers)

    # ------------------------------------------------------------------ reading

    @property
    def request_id(self) -> str:
        """The id given by the caller, or one made up when it is first asked for."""
        if self._request_id is None:
            self._request_id = os.urandom(16).hex()
        return self._request_id

    @property
    def format(self) -> str | None:
        """The wire format, or None while `auto` has not recognised it."""
        return self._fold.format if self._fold is not None else None

    @property
    def stream_type(self) -> StreamType | None:
        """What the stream makes, or None while `auto` has not recognised its format."""
        return self._fold.stream_type if self._fold is not None else None

    @property
    def why_unrecognised(self) -> str:
        """A sentence on why `auto` names no format."""
        if self._foreign is not None:
            return f"this is a stream of {self._foreign}, which is not folded here"
        return "could not recognise the format; name it with format="

    def take_format(self, name: str) -> None:
        """Names the format of a stream opened with `auto`, if it has not been recognised yet."""
        with self._lock:
            if self._fold is None and self._unrecognised is not None and self._final is None:
                self._adopt(fold_class(name), self._clock())

    @property
    def is_finished(self) -> bool:
        """Whether `finish` has been called."""
        return self._final is not None

    @property
    def has_ended(self) -> bool:
        """Whether the protocol's own end was seen, with nothing missing before it."""
        fold, sequence = self._fold, self._sequence
        return fold is not None and (fold.ended or fold.error is not None) and not (sequence and sequence.waiting)

    @property
    def has_output(self) -> bool:
        """Whether any output of the model has come: text, reasoning, a tool call, audio, an image."""
        return self._first_output != 0

    @property
    def last_index(self) -> int:
        """The highest chunk index so far, -1 if no chunk was numbered."""
        return self._last_index

    def has_seen(self, chunk_index: int) -> bool:
        """Whether a chunk of this number has come."""
        return self._sequence is not None and self._sequence.has_seen(chunk_index)

    @property
    def late(self) -> int:
        """Chunks and reads that came after the end."""
        return self._late

    @property
    def chunks_seen(self) -> int:
        """Chunks folded so far."""
        return self._fold.chunks if self._fold is not None else 0

    @property
    def arrivals(self) -> array[int] | None:
        """When reads that brought chunks came so far, in nanoseconds since the start; null if that is not kept."""
        return self._arrivals

    def snapshot(self) -> AccumulatedData:
        """The record so far, with status `processing`; after the end, the final record. Disturbs nothing."""
        with self._lock:
            if self._final is not None:
                assert self._final.data is not None
                return self._final.data
            return self._record(self._clock(), None)

    def chunks(self) -> Iterator[StreamChunk]:
        """The tape as typed chunk records, each read on its own. Nothing when no tape is kept."""
        if self._tape is None or self._fold is None:
            return iter(())
        return self._tape.chunks(type(self._fold), self._started_at)

    # ------------------------------------------------------------------ ending

    def finish(
        self, outcome: Outcome | str | None = None, error: Any = None, *, status_code: int | None = None
    ) -> ProcessedStreamResponse:
        """Ends the stream and returns its one FINAL; called again, the same object.

        `outcome` is what the transport saw (`cancelled`, `timeout`, `truncated`, `abandoned`, `error`); without it
        the bytes have simply ended. It gives way to the protocol's own end, if that was seen. `error` is an
        exception, an error object of the provider or an `ErrorDetails`; `status_code` the HTTP status of the answer.
        """
        told = _outcome(outcome)
        with self._lock:
            if self._final is None:
                self._final = self._finish(told, error, status_code)
            return self._final

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            self.finish()
        elif issubclass(kind, Exception):
            self.finish(Outcome.ERROR, error)
        else:  # GeneratorExit, CancelledError, KeyboardInterrupt: our own side left
            self.finish(Outcome.CANCELLED)

    def _finish(self, told: Outcome | None, error: Any, status_code: int | None) -> ProcessedStreamResponse:
        now = self._clock()
        if self._sequence is not None:
            for each in self._sequence.drain():
                self._add_chunk(*each)
        if self._framer is not None:
            payloads, names = self._framer.close()
            if payloads:
                self._add_frames(payloads, names, now)
        if self._fold is not None and (flags := self._fold.end_of_body()):
            self._stamp(flags, now)
        unclaimed = self._unclaimed_error()
        if unclaimed is not None:
            told = Outcome.ERROR
        data = self._record(now, self._decide(told, error, status_code))
        data.error_details = data.error_details or unclaimed
        if error is not None or (status_code or 0) >= 400:
            data.error_details = self._told_error(data.error_details, error, status_code)
        # A cost that the provider states is the cost, but not once more when a cache replays the answer.
        if data.cost is None or (self._catalog is not None and data.cache_debug is not None):
            self._price(data)
        self._framer = self._sequence = self._again = None
        return ProcessedStreamResponse(
            type=ResponseType.FINAL,
            request_id=self.request_id,
            stream_type=data.stream_type,
            format=data.format,
            provider=self.provider,
            requested_model=self.model,
            resolved_model=data.response_model,
            data=data,
            raw_request=self._raw_request,
            arrivals=self._arrivals,
        )

    def _unclaimed_error(self) -> ErrorDetails | None:
        """The error in the frames of a stream whose format was never recognised; an error looks alike in many."""
        for event, name in self._unrecognised or ():
            if isinstance(event, dict) and (found := error_of(event, name)) is not None:
                said: ErrorDetails = without_surrogates(error_details(found, beside=event))
                return said
        return None

    def _price(self, data: AccumulatedData) -> None:
        if self._catalog is None:
            data.cost_reason = "no catalog"
            return
        try:
            request = self._raw_request if isinstance(self._raw_request, dict) else None
            data.cost, data.cost_reason = self._catalog.cost_of(data, request)
        except Exception as fault:
            data.cost_reason = f"the catalog failed: {type(fault).__name__}"

    def _decide(self, told: Outcome | None, error: Any, status_code: int | None) -> Outcome:
        fold = self._fold
        end = _End(
            told=told,
            ended=fold is not None and (fold.ended or (fold.ends_with_finish and fold.is_complete())),
            finished=fold is not None and fold.is_complete(),
            failed=told is Outcome.ERROR
            or (status_code or 0) >= 400
            or (error is not None and told is None)
            or (fold is not None and fold.error is not None),
            gaps=bool(self._sequence and self._sequence.missing),
            chunks=self.chunks_seen + (fold.malformed if fold is not None else 0),
            marker_due=fold is not None and fold.end_required,
        )
        outcome = next(result(end) for holds, result in OUTCOMES if holds(end))
        if fold is not None and outcome is Outcome.SUCCESS and fold.has_end_marker and not fold.ended:
            fold.flag("missing_done")
        return outcome

    def _told_error(self, said: ErrorDetails | None, error: Any, status_code: int | None) -> ErrorDetails:
        """The error as told by the caller, unless the stream itself said more. The answer's HTTP status is a fact."""
        if said is None:
            said = without_surrogates(error_details(error if error is not None else {}, status=status_code))
        if status_code is not None and status_code >= 400:
            said = msgspec.structs.replace(said, status_code=status_code, retryable=retryable(status_code))
        return said

    # ------------------------------------------------------------------ folding

    def _begin(self, kind: type[Fold]) -> Fold:
        fold = self._fold = kind()
        fold.strict = self._strict
        if self._http is not None:
            fold.note_http(*self._http)
        return fold

    def _add_frames(self, payloads: list[bytes], names: list[str | None] | None, now: int) -> None:
        if self._tape is not None:
            self._tape.record(payloads, names, now - self._start)
        fold = self._fold
        if fold is None:
            for payload, name in zip(payloads, names or [None] * len(payloads), strict=True):
                self._add_unrecognised(payload, name, now)
            return
        flags = fold.add_all(payloads, names)
        if flags:
            self._stamp(flags, now)

    def _add_chunk(self, chunk: Any, name: str | None, now: int, index: int | None) -> None:
        if isinstance(chunk, str):
            chunk = chunk.encode("utf-8", "surrogatepass")
        if isinstance(chunk, bytes):
            self._bytes += len(chunk)
            self._add_frames([chunk], [name] if name else None, now)
            self._watch_size()
            return
        encoded = _encoded(chunk)
        self._bytes += len(encoded)
        if self._tape is not None:
            self._tape.record([encoded], [name], now - self._start, index)
        if self._fold is None:
            self._recognise(chunk, name, now)
            return
        flags = self._fold.add_decoded(chunk, name, encoded)
        if flags:
            self._stamp(flags, now)
        self._watch_size()

    def _watch_size(self) -> None:
        fold = self._fold
        if self._bytes <= self._max_bytes or fold is None or fold.full:
            return
        fold.close()
        fold.flag("size_limit")
        self._dropped = self._bytes

    def _stamp(self, flags: int, now: int) -> None:
        """Takes the timings of one read from what its frames brought."""
        if now < self._last_chunk:
            self._stamp_waited(flags, now)
            return
        if flags & CHUNK:
            if not self._first_chunk:
                self._first_chunk = now
            elif now - self._last_chunk > self._max_gap:
                self._max_gap = now - self._last_chunk
            self._last_chunk = now
            if self._arrivals is not None and len(self._arrivals) < self._max_arrivals:
                self._note_arrival(self._arrivals, now - self._start)
        if flags & OUTPUT:
            if not self._first_output:
                self._first_output = now
            self._last_output = now
        if flags & CONTENT and not self._first_content:
            self._first_content = now

    @staticmethod
    def _note_arrival(arrivals: array[int], at: int) -> None:
        """Notes when a read came; one read may be folded in several stretches."""
        if not arrivals or arrivals[-1] != at:
            arrivals.append(at)

    def _stamp_again(self, flags: int, size: int, now: int) -> None:
        """The same for an event like the one before: what could be first has been, long ago."""
        if now < self._last_chunk:
            self._stamp_waited(flags, now)
        else:
            if now - self._last_chunk > self._max_gap:
                self._max_gap = now - self._last_chunk
            self._last_chunk = now
            if flags:
                self._last_output = now
            if self._arrivals is not None and len(self._arrivals) < self._max_arrivals:
                self._arrivals.append(now - self._start)
        self._bytes += size
        if self._bytes > self._max_bytes:
            self._watch_size()

    def _stamp_waited(self, flags: int, now: int) -> None:
        """The same for a chunk that had to wait for another: its coming has been noted, what it brought has not."""
        if flags & OUTPUT:
            self._first_output = min(now, self._first_output or now)
            self._last_output = max(now, self._last_output)
        if flags & CONTENT:
            self._first_content = min(now, self._first_content or now)

    def _add_unrecognised(self, payload: bytes, name: str | None, now: int) -> None:
        if self._fold is not None:
            if flags := self._fold.add_all([payload], [name]):
                self._stamp(flags, now)
            return
        try:
            event = decode(payload)
        except (ValueError, RecursionError):
            event = documents(payload)[0]  # several in one frame, or none
        if isinstance(event, dict):
            self._recognise(event, name, now)
        elif self._unrecognised is not None:
            self._recognise_inside(payload, event, name, now)

    def _recognise(self, event: JSON, name: str | None, now: int) -> None:
        """Tries to name the format; what came before it was recognised is folded then."""
        pending = self._unrecognised
        if pending is None or is_ping(event, name):
            return
        pending.append((event, name))
        self._foreign = foreign_api(event)
        if self._foreign is not None:
            self._unrecognised = None
            return
        kind = recognise(event, name)
        if kind is not None:
            self._adopt(kind, now)
        elif len(pending) >= MAX_UNRECOGNISED:
            self._unrecognised = None

    def _recognise_inside(self, payload: bytes, found: Any, name: str | None, now: int) -> None:
        """The same for a frame that is no object. The format, once known, reads it, and counts it if it cannot."""
        assert self._unrecognised is not None
        self._unrecognised.append((payload, name))
        events = [event for event in found if isinstance(event, dict)] if isinstance(found, list) else []
        kind = next((kind for event in events if (kind := recognise(event, name)) is not None), None)
        if kind is not None:
            self._adopt(kind, now)
        elif len(self._unrecognised) >= MAX_UNRECOGNISED:
            self._unrecognised = None

    def _adopt(self, kind: type[Fold], now: int) -> None:
        fold = self._begin(kind)
        flags = 0
        for event, name in self._unrecognised or ():
            flags |= fold.add(event, name) if isinstance(event, bytes) else fold.add_decoded(event, name)
        self._unrecognised = None
        if flags:
            self._stamp(flags, now)

    # ------------------------------------------------------------------ the record

    def _record(self, now: int, status: Outcome | None) -> AccumulatedData:
        fold = self._fold
        data = AccumulatedData(
            request_id=self.request_id,
            provider=self.provider,
            model=self.model,
            stream=self._stream,
            status=status.value if status is not None else "processing",
            start_timestamp=utc(self._started_at),
            cache_debug=self._cache_debug,
        )
        if fold is not None:
            data.format = fold.format
            data.stream_type = fold.stream_type
            data.chunks = fold.chunks
            data.error_details = without_surrogates(fold.error)
            self._view(fold, data)
        # After the view: reading the whole response may show what no single frame did.
        data.integrity = self._integrity(data.integrity.anomalies)
        if status is not None:
            data.end_timestamp = utc(self._started_at + (now - self._start) / 1e9)
            data.latency_ms = _ms(now - self._start)
        self._add_timings(data)
        if self._tape is not None:
            data.raw_response = self._tape.as_json()
        return data

    def _view(self, fold: Fold, data: AccumulatedData) -> None:
        try:
            response = fold.response()
            if response is None:
                return
            data.response = response = without_surrogates(response)
            fold.view(response, data)
            fold.finish_view(data)
            if data.cost is None:
                data.cost = provider_cost(response.get("usage"))
        except Exception:
            fold.flag("accumulator_error")
        if data.output_message is not None and data.tool_calls is None:
            data.tool_calls = data.output_message.tool_calls
        if data.tool_calls:
            data.arguments_complete = all(call.arguments_complete for call in data.tool_calls)

    def _add_timings(self, data: AccumulatedData) -> None:
        if not self._stream:
            return
        data.time_to_first_chunk_ms = self._since_start(self._first_chunk)
        data.time_to_first_token_ms = self._since_start(self._first_output)
        data.time_to_first_content_ms = self._since_start(self._first_content)
        if self._max_gap:
            data.max_gap_ms = _ms(self._max_gap)
        tokens = data.token_usage.completion_tokens if data.token_usage is not None else None
        span = self._last_output - self._first_output
        if tokens is not None and tokens > 1 and span > 0:
            data.time_per_output_token_ms = _ms(span) / (tokens - 1)

    def _since_start(self, at: int) -> float | None:
        return _ms(at - self._start) if at else None

    def _integrity(self, viewed: list[str]) -> Integrity:
        """What was wrong with the stream; `viewed` are the anomalies that the view found."""
        fold, framer, sequence = self._fold, self._framer, self._sequence
        anomalies = list(fold.anomalies) if fold is not None else []
        if fold is None and self._bytes:
            anomalies.append("unknown_format" if self._foreign is None else "foreign_api")
        if framer is not None:
            anomalies += sorted(framer.anomalies - set(anomalies))
        if viewed:
            anomalies += [code for code in viewed if code not in anomalies]
        return Integrity(
            missing=sequence.missing if sequence is not None else [],
            duplicates=sequence.duplicates if sequence is not None else 0,
            reordered=sequence.reordered if sequence is not None else 0,
            late=sequence.late if sequence is not None else 0,
            malformed=(fold.malformed if fold is not None else 0) + (framer.malformed if framer is not None else 0),
            anomalies=anomalies,
            dropped_bytes=(framer.dropped_bytes if framer is not None else 0) + self._over(),
            end_marker=fold is not None and fold.ended,
        )

    def _over(self) -> int:
        """Bytes that came after the size limit was reached."""
        return self._bytes - self._dropped if self._dropped else 0


def fold(body: bytes | Iterable[bytes], format: str = "auto", **options: Any) -> ProcessedStreamResponse:
    """Folds a whole recorded stream: its bytes, or its pieces in order. `options` are those of `StreamAccumulator`.

    Raises `UsageError` when `format` is unknown, or is `auto` and the stream is of no format known here.
    """
    stream = StreamAccumulator(format, **options)
    for piece in (body,) if isinstance(body, bytes | bytearray | memoryview) else body:
        stream.feed(bytes(piece))
    done = stream.finish()
    if format == "auto" and done.format is None and stream._bytes:
        raise UsageError(stream.why_unrecognised)
    return done


def read(body: bytes | JSON, format: str = "auto", **options: Any) -> ProcessedStreamResponse:
    """Reads an unstreamed response (or error body) through the same view as a folded stream.

    `options` are those of `StreamAccumulator`, and `status_code`, the HTTP status of the answer.
    Raises `UsageError` when `format` is unknown, or is `auto` and the body is of no format known here.
    """
    status_code = options.pop("status_code", None)
    stream = StreamAccumulator(format, stream=False, **options)
    if isinstance(body, dict):
        stream.add(body)
    else:
        stream.feed(body)
    done = stream.finish(status_code=status_code)
    if format == "auto" and done.format is None:
        raise UsageError(stream.why_unrecognised)
    return done


def _ms(nanoseconds: int) -> float:
    return nanoseconds / 1e6


def _outcome(outcome: Outcome | str | None) -> Outcome | None:
    if outcome is None or isinstance(outcome, Outcome):
        return outcome
    try:
        return Outcome(outcome)
    except ValueError:
        raise UsageError(f"unknown outcome {outcome!r}; known are {', '.join(Outcome)}") from None


def builtin(chunk: Any) -> JSON:
    """A decoded chunk of any kind as a dict of our own: neither side sees what the other does to it from now on."""
    if isinstance(chunk, dict):
        return _own(chunk)
    dump = getattr(type(chunk), "model_dump", None)
    if dump is not None:
        # As it stood on the wire: also its bytes, for which pydantic would take the URL's base64 alphabet.
        mode = "python" if getattr(type(chunk), "model_config", {}).get("ser_json_bytes") == "base64" else "json"
        dumped: JSON = dump(chunk, mode=mode, exclude_unset=True, by_alias=True, warnings=False)
        return dumped if mode == "json" else dict(msgspec.to_builtins(dumped))
    if isinstance(chunk, msgspec.Struct):
        return dict(msgspec.to_builtins(chunk))
    if isinstance(chunk, Mapping):
        return _own(dict(chunk))
    raise UsageError(
        f"cannot read a chunk of type {type(chunk).__name__}; "
        "give bytes, str, a mapping, a msgspec Struct or a pydantic object"
    )


def _own(event: JSON) -> JSON:
    try:
        copied: JSON = _copied(event)
    except RecursionError:  # nested too deeply to be copied
        return event
    return copied


def _copied(value: Any) -> Any:
    """The same value in dicts and lists of its own."""
    if isinstance(value, dict):
        return {key: _copied(item) if isinstance(item, NESTED) else item for key, item in value.items()}
    return [_copied(item) if isinstance(item, NESTED) else item for item in value]


_encode = msgspec.json.Encoder().encode


def _encoded(event: JSON) -> bytes:
    try:
        return _encode(event)
    except (TypeError, ValueError, RecursionError):
        return repr(event).encode("utf-8", "replace")
