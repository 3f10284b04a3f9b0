"""Many live streams, by request id.

The registry that a gateway's plugins share: one plugin opens a stream before the request, every plugin shows it each
chunk, and all of them get the same FINAL. What it must get right is lifetime:

* Owners are names. A stream stays while an owner holds it; a clean-up said twice is harmless, and a leak report says
  who holds what (`owners`).
* A stream ends exactly once. What nobody finished is finished when it goes, as `abandoned`, and handed to
  `on_abandoned`: by its last owner's clean-up, by the idle sweep, by the limit on streams, by shutdown.
* A closed stream stays closed. A chunk for it is refused and counted (`refused`) and never brings it back; that is
  what the last `max_closed` ids are remembered for.

There is no thread here. The sweep runs in the course of other calls, and whenever the caller calls `sweep`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from threading import Lock
from typing import Any

import msgspec

from streamfold.errors import UsageError
from streamfold.processed import ProcessedStreamResponse, ResponseType
from streamfold.stream import MAX_BYTES, Catalog, StreamAccumulator, builtin
from streamfold.types import JSON, AccumulatedData, CacheDebug, Outcome
from streamfold.wire import fold_class

__all__ = ["Accumulator", "StreamContext"]

FORMAT_OF_REQUEST = {
    "text_completion_stream": "openai-completions",
    "chat_completion_stream": "openai-chat",
    "responses_stream": "openai-responses",
    "responses_retrieve_stream": "openai-responses",
}
"""The wire format in which the original gateway hands over the chunks of each request type."""


class StreamContext(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a plugin knows of the chunk it hands over.

    `request_id` names the stream. `stream_end` says that this chunk is the last, for protocols without an end of
    their own. `chunk_index` numbers the chunk from 0, so that repeats and disorder are noticed; without it chunks are
    taken as they come. The rest is what the gateway knows of the request.
    """

    request_id: str
    stream_end: bool = False
    chunk_index: int | None = None
    format: str | None = None
    provider: str | None = None
    model: str | None = None
    outcome: str | None = None
    raw_request: Any = None


class _Live:
    __slots__ = ("last_seen", "owners", "stream")

    def __init__(self, stream: StreamAccumulator, now: float) -> None:
        self.stream = stream
        self.owners: set[str] = set()
        self.last_seen = now


class Accumulator:
    """The live streams of one process. All methods may be called from any thread.

    `idle_ttl` is how many seconds a stream may go without a chunk before the sweep ends it; `max_streams` how many
    may live (beyond it the one idle longest is ended); `max_bytes_per_stream` and `tape_bytes` as in
    `StreamAccumulator`. `on_abandoned` gets the FINAL of each stream that nobody finished; what it raises is counted
    in `callback_errors` and goes no further. `clock` is monotonic nanoseconds.
    """

    def __init__(
        self,
        *,
        catalog: Catalog | None = None,
        idle_ttl: float = 600.0,
        max_streams: int = 100_000,
        max_bytes_per_stream: int = MAX_BYTES,
        tape_bytes: int = 0,
        max_closed: int = 10_000,
        on_abandoned: Callable[[ProcessedStreamResponse], None] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if idle_ttl <= 0 or max_streams < 1:
            raise UsageError("idle_ttl must be more than 0 seconds and max_streams at least 1")
        self._catalog = catalog
        self._idle_ttl = idle_ttl
        self._max_streams = max_streams
        self._max_bytes = max_bytes_per_stream
        self._tape_bytes = tape_bytes
        self._max_closed = max_closed
        self._on_abandoned = on_abandoned
        self._clock = clock
        self._wall = wall
        self._lock = Lock()
        # In order of last use, so that the idle ones are at the front.
        self._live: OrderedDict[str, _Live] = OrderedDict()
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._next_sweep = self._seconds() + idle_ttl / 4
        self.refused = 0
        """Chunks that came for a stream after it had gone."""
        self.callback_errors = 0
        """Times that `on_abandoned` raised."""

    def __len__(self) -> int:
        """How many streams live."""
        return len(self._live)

    def create_stream_accumulator(
        self,
        request_id: str,
        start_timestamp: datetime | float | None = None,
        *,
        format: str = "auto",
        owner: str = "default",
        provider: str | None = None,
        model: str | None = None,
        raw_request: Any = None,
    ) -> StreamAccumulator:
        """Opens the stream `request_id`, or joins it if it is open, for `owner`.

        The first call's timestamp and format hold. Raises `UsageError` for an unknown format, and for an id whose
        stream has ended.
        """
        displaced: list[_Live] = []
        with self._lock:
            now = self._seconds()
            live = self._live.get(request_id)
            if live is None:
                if request_id in self._closed:
                    raise UsageError(f"stream {request_id!r} has ended; a new stream needs a new id")
                stream = StreamAccumulator(
                    format,
                    request_id=request_id,
                    provider=provider,
                    model=model,
                    start_timestamp=start_timestamp,
                    clock=self._clock,
                    wall=self._wall,
                    max_bytes=self._max_bytes,
                    tape_bytes=self._tape_bytes,
                    catalog=self._catalog,
                    raw_request=raw_request,
                )
                while len(self._live) >= self._max_streams:
                    displaced.append(self._close(next(iter(self._live))))
                live = self._live[request_id] = _Live(stream, now)
            live.owners.add(owner)
            displaced += self._sweep_if_due(now)
        self._abandon(displaced)
        return live.stream

    def process_streaming_response(
        self, ctx: StreamContext | Mapping[str, Any], chunk: Any, error: Any = None
    ) -> ProcessedStreamResponse | None:
        """Shows one chunk (or the error that ended the stream) to its accumulator.

        Returns a DELTA, or the FINAL once the stream has ended: by the flag in `ctx`, by the protocol's own end with
        nothing missing, or by an error. Every owner that asks after the end gets the same FINAL. None when the
        stream has been cleaned up: such a chunk is refused. Chunks that several observers hand over need an index
        (in `ctx`, or in the chunk's `extra_fields`), or each of them counts.

        Raises `UsageError` for a stream that was never opened, for a context that cannot be read, and when there is
        neither chunk nor error.
        """
        ctx = _context(ctx)
        if chunk is None and error is None and not ctx.stream_end:
            raise UsageError("process_streaming_response needs a chunk or an error")
        with self._lock:
            live = self._live.get(ctx.request_id)
            if live is None:
                if ctx.request_id in self._closed:
                    self.refused += 1
                    return None
                raise UsageError(f"no stream {ctx.request_id!r}; call create_stream_accumulator first")
            now = self._seconds()
            live.last_seen = now
            self._live.move_to_end(ctx.request_id)
            swept = self._sweep_if_due(now)
        self._abandon(swept)
        return _process(live.stream, ctx, chunk, error)

    def cleanup_stream_accumulator(self, request_id: str, *, owner: str = "default") -> bool:
        """Says that `owner` is done with the stream. Returns whether the stream went with it.

        Harmless when said twice, or for an id that is unknown. A stream whose last owner leaves before its end is
        finished as `abandoned`.
        """
        with self._lock:
            live = self._live.get(request_id)
            if live is None or owner not in live.owners:
                return False
            live.owners.discard(owner)
            if live.owners:
                return False
            self._close(request_id)
        self._abandon([live])
        return True

    def sweep(self) -> list[str]:
        """Ends every stream that has been idle for `idle_ttl`; returns their ids."""
        with self._lock:
            swept = self._sweep(self._seconds())
        self._abandon(swept)
        return [live.stream.request_id for live in swept]

    def cleanup(self) -> int:
        """Shuts down: every live stream that nobody finished ends as `abandoned`, once. Returns how many lived."""
        with self._lock:
            streams = [self._close(request_id) for request_id in list(self._live)]
        self._abandon(streams)
        return len(streams)

    def get(self, request_id: str) -> StreamAccumulator | None:
        """The live stream of that id."""
        live = self._live.get(request_id)
        return live.stream if live is not None else None

    def owners(self) -> dict[str, list[str]]:
        """Who holds which stream: the leak report."""
        with self._lock:
            return {request_id: sorted(live.owners) for request_id, live in self._live.items()}

    def _seconds(self) -> float:
        return self._clock() / 1e9

    def _close(self, request_id: str) -> _Live:
        live = self._live.pop(request_id)
        self._closed[request_id] = None
        while len(self._closed) > self._max_closed:
            self._closed.popitem(last=False)
        return live

    def _sweep_if_due(self, now: float) -> list[_Live]:
        return self._sweep(now) if now >= self._next_sweep else []

    def _sweep(self, now: float) -> list[_Live]:
        self._next_sweep = now + self._idle_ttl / 4
        idle = []
        for request_id, live in self._live.items():
            if live.last_seen + self._idle_ttl > now:
                break  # the rest was used later
            idle.append(request_id)
        return [self._close(request_id) for request_id in idle]

    def _abandon(self, streams: list[_Live]) -> None:
        """Finishes what nobody finished, outside the lock, because the callback may take its time."""
        for live in streams:
            if live.stream.is_finished:
                continue
            final = live.stream.finish(Outcome.ABANDONED)
            if self._on_abandoned is None:
                continue
            try:
                self._on_abandoned(final)
            except Exception:
                self.callback_errors += 1


def _context(ctx: StreamContext | Mapping[str, Any]) -> StreamContext:
    if isinstance(ctx, StreamContext):
        return ctx
    try:
        return msgspec.convert(dict(ctx), StreamContext)
    except (msgspec.ValidationError, TypeError, ValueError) as problem:
        raise UsageError(f"cannot read the stream context: {problem}") from None


def _process(stream: StreamAccumulator, ctx: StreamContext, chunk: Any, error: Any) -> ProcessedStreamResponse:
    if ctx.provider is not None:
        stream.provider = ctx.provider
    if ctx.model is not None:
        stream.model = ctx.model
    event = None
    index = ctx.chunk_index
    if chunk is not None:
        event = chunk if isinstance(chunk, bytes | str) else builtin(chunk)
        if isinstance(event, dict) and "extra_fields" in event:
            event, index = _without_extra_fields(stream, event, index)
        if not stream.is_finished:
            if index is not None and ctx.stream_end and index < stream.last_index and stream.has_seen(index):
                # Some gateways number the last chunk anew, or not at all (0). Nobody has shown it yet: it would have
                # ended the stream.
                index = stream.last_index + 1
            stream.add(event, chunk_index=index)
    # A slower observer may still be showing earlier chunks of a stream that another one has brought to its end.
    behind = index is not None and index < stream.last_index
    if ctx.stream_end or error is not None or (not behind and (stream.has_ended or stream.is_finished)):
        outcome = ctx.outcome if ctx.outcome is not None else (Outcome.ERROR if error is not None else None)
        return stream.finish(outcome, error)
    return ProcessedStreamResponse(
        type=ResponseType.DELTA,
        request_id=stream.request_id,
        stream_type=stream.stream_type,
        format=stream.format,
        provider=stream.provider,
        requested_model=stream.model,
        read_delta=lambda: _delta(stream.format, event),
    )


def _without_extra_fields(stream: StreamAccumulator, event: JSON, index: int | None) -> tuple[JSON, int | None]:
    """Takes the gateway's own envelope off a chunk: it is not the provider's word."""
    extra = event["extra_fields"]
    event = {key: value for key, value in event.items() if key != "extra_fields"}
    if not isinstance(extra, dict):
        return event, index
    if index is None and isinstance(extra.get("chunk_index"), int):
        index = extra["chunk_index"]
    stream.provider = stream.provider or extra.get("provider")
    stream.model = stream.model or extra.get("original_model_requested")
    if isinstance(extra.get("cache_debug"), dict):
        known = {key: value for key, value in extra["cache_debug"].items() if key in CacheDebug.__struct_fields__}
        stream.note_cache(CacheDebug(**known))
    wanted = FORMAT_OF_REQUEST.get(str(extra.get("request_type")))
    if wanted is not None:
        stream.take_format(wanted)
    return event, index


def _delta(format: str | None, chunk: Any) -> AccumulatedData | None:
    """What a chunk alone brings: a stream of only this chunk, read by the same fold and view."""
    if format is None or chunk is None:
        return None
    fold = fold_class(format)()
    if isinstance(chunk, str):
        chunk = chunk.encode("utf-8", "surrogatepass")
    if isinstance(chunk, bytes):
        fold.add(chunk)
    else:
        fold.add_decoded(chunk)
    response = fold.response()
    data = AccumulatedData(format=format, stream_type=fold.stream_type, response=response, error_details=fold.error)
    if response is not None:
        fold.view(response, data)
        fold.finish_view(data)
    return data
