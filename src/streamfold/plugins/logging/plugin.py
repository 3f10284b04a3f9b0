"""The hooks of the logging plugin.

A request's row is stored when it begins (`processing`), again and again while a long stream goes on, and once when it
has ended. Whatever happens in here stays in here: if a row cannot be made as it should be, a plainer one is, for a
request without a row is worse than a row without content.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final, Protocol

import msgspec

from streamfold.hooks import Plugin, RequestContext
from streamfold.plugins.logging.config import LoggingConfig
from streamfold.plugins.logging.rows import Asked, RowMaker, lighter, without_content
from streamfold.plugins.logging.upkeep import Flight, Flights, Upkeep
from streamfold.processed import ProcessedStreamResponse
from streamfold.store.log_store import LogStore
from streamfold.store.row import FINAL, STARTED, LogRow, row_of
from streamfold.timestamps import utc
from streamfold.types import AccumulatedData

__all__ = ["LoggingPlugin"]

log = logging.getLogger("streamfold.plugins.logging")

CLOSE_SECONDS: Final = 5.0
RETENTION_SECONDS: Final = 3600.0
LARGE: Final = 64 * 1024
"""A row larger than this is tried again in a lighter form if the store has no room for it."""
LIGHTER: Final = 2 * 1024
"""Bytes of each content column in that form."""


LARGE_TRAFFIC: Final = 64 * 1024
"""Bytes of a request or response beyond which its row is made beside the traffic, not in it."""
MAX_LARGE: Final = 100
"""How many of them may wait; others have to be made at once."""
MAX_REDACTED: Final = 1000
"""How many rows may wait for the expressions of `redact`; others are stored without content."""
_DONE: Final = object()
"""What a context notes of a request whose final row has been made."""


class _Limits(Protocol):
    """What the plugin asks a `ModelCatalog` for."""

    def limits(self, model: str, provider: str | None = None) -> Any: ...


class LoggingPlugin(Plugin):
    """Writes one row of the log for each request.

    `store` is where to; without it the plugin opens the one that the configuration names, and closes it in the end.
    `catalog` (a `ModelCatalog`) bounds estimated tokens by what the model can give. Raises `UsageError` when the
    store cannot be opened. Its hooks never raise, never wait for the database, and may be called from any thread.
    """

    name: ClassVar[str] = "logging"
    Config: ClassVar[type[msgspec.Struct] | None] = LoggingConfig
    inline: ClassVar[bool] = True
    inline_response: ClassVar[bool] = True

    def __init__(
        self, config: LoggingConfig | None = None, *, store: LogStore | None = None, catalog: _Limits | None = None
    ) -> None:
        self._config = config = config if config is not None else LoggingConfig()
        self._maker = RowMaker(config)
        self._catalog = catalog
        self._owns_store = store is None
        self.store = store if store is not None else LogStore.open(config.url, **config.queue())
        self._flights = Flights(config.checkpoint_s, self._store_checkpoint)
        self._upkeep = Upkeep(self._flights.round if config.checkpoint_s else None, min(1.0, config.checkpoint_s))
        # By itself, because it may take a while.
        self._janitor = Upkeep(self._apply_retention, RETENTION_SECONDS) if config.retention is not None else None
        self._key = f"{self.name} {id(self)}"  # there may be two, one with and one without content
        self._said: set[str] = set()
        self._closed = False
        self.lost = 0
        """Rows that the store had no room for, in no form. The store counts them as well."""
        if self._janitor is not None:
            self._janitor.later(partial(self._apply_retention, 0.0))

    @property
    def withheld(self) -> int:
        """Texts that are not stored, because the expressions of `redact` took too long for them."""
        return self._maker.withheld

    # ------------------------------------------------------------------ hooks

    def pre_llm_hook(self, ctx: RequestContext, request: Any) -> None:
        """Stores that the request has begun."""
        work = partial(self._started, ctx, request)
        self._do(ctx, work, instead=partial(self._started_plainly, ctx))

    def on_response(self, ctx: RequestContext, processed: ProcessedStreamResponse) -> None:
        """Stores how the request ended. The second time for the same request, it does nothing."""
        work = partial(self._ended, ctx, processed)
        self._do(ctx, work, instead=partial(self._ended_plainly, ctx, processed))

    def _do(self, ctx: RequestContext, work: Callable[[], object], *, instead: Callable[[], object]) -> None:
        """Makes a row, beside the traffic if that may take long; there it is done in order, the beginning of a
        request before its end. `instead` makes the one that takes no time."""
        large, slow = _is_large(ctx), self._maker.waits
        beside = (large or slow) and self._upkeep.later(work, MAX_LARGE if large else MAX_REDACTED, instead)
        if not beside:
            instead() if slow else work()

    def look(self, ctx: RequestContext, *, arrivals: bool = False) -> LogRow | None:
        """The row of a request under way as it would be stored now, content rules and all; None if it has none.

        It is for showing: nothing is stored. `arrivals` adds when the reads came, which takes as long as all the rest
        of a small answer. May be called from any thread.
        """
        flight, snapshot = ctx.state.get(self._key), ctx.snapshot
        if not isinstance(flight, Flight) or flight.done or snapshot is None:
            return None
        came = ctx.arrivals() if arrivals and ctx.arrivals is not None else None
        return self._maker.checkpoint(ctx, flight.asked, snapshot(), self.store.instance, flight.revision, came)

    def flush(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Waits until everything is in the database. Returns whether it was in time."""
        until = time.monotonic() + timeout
        drained = all(upkeep.drain(max(0.0, until - time.monotonic())) for upkeep in self._threads())
        return drained and self.store.flush(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Writes what waits, and closes the store if the plugin has opened it."""
        if self._closed:
            return
        self._closed = True
        for upkeep in self._threads():
            upkeep.close(CLOSE_SECONDS)
        self._maker.close()
        if self._owns_store:
            self.store.close()

    # ------------------------------------------------------------------ rows

    def _threads(self) -> list[Upkeep]:
        return [self._upkeep, self._janitor] if self._janitor is not None else [self._upkeep]

    def _started(self, ctx: RequestContext, request: Any) -> None:
        try:
            flight = self._begin(ctx, request)
            if flight is None:
                return
            self._put(self._maker.started(ctx, flight.asked, self.store.instance))
            if self._config.checkpoint_s and ctx.stream is not False:
                self._flights.add(flight)
                self._upkeep.start()
        except Exception as error:
            self._say("pre_llm_hook", error)

    def _started_plainly(self, ctx: RequestContext) -> None:
        if ctx.state.get(self._key) is None:
            self._put(_plain_start(ctx, self.store.instance))

    def _ended(self, ctx: RequestContext, processed: ProcessedStreamResponse) -> None:
        data = processed.data
        if data is None:  # a DELTA: it has not ended
            return
        later: Callable[[], object] | None = None
        try:
            flight = self._begin(ctx, None)
            if flight is None:
                return
            self._land(flight)
            row = self._maker.final(ctx, flight.asked, data, processed.arrivals)
            if self._config.estimate and _wants_estimate(data):
                later = partial(self._estimate, ctx, flight.asked, data, row)
        except Exception as error:
            self._say("on_response", error)
            row = _plain_row(ctx, data)
        ctx.state[self._key] = _DONE  # and the context no longer holds what holds it
        self._put(row)
        if later is not None:
            self._upkeep.later(later)

    def _ended_plainly(self, ctx: RequestContext, processed: ProcessedStreamResponse) -> None:
        noted = ctx.state.get(self._key)
        if processed.data is None or noted is _DONE:
            return
        ctx.state[self._key] = _DONE
        if isinstance(noted, Flight):
            self._land(noted)
        self._put(_plain_row(ctx, processed.data))

    def _begin(self, ctx: RequestContext, request: Any) -> Flight | None:
        """What is known of the request, read when it is first needed; None if its end is stored already."""
        noted = ctx.state.get(self._key)
        if noted is None:
            flight = Flight(ctx, self._maker.ask(ctx, request), time.monotonic() + self._config.checkpoint_s)
            noted = ctx.state.setdefault(self._key, flight)  # its end may have come meanwhile, on another thread
        return noted if isinstance(noted, Flight) else None

    def _land(self, flight: Flight) -> None:
        flight.done = True
        self._flights.remove(flight.ctx.request_id)

    def _store_checkpoint(self, flight: Flight, data: AccumulatedData) -> int:
        ctx, read = flight.ctx, flight.ctx.arrivals
        came = read() if read is not None else None
        row = self._maker.checkpoint(ctx, flight.asked, data, self.store.instance, flight.revision, came)
        self._put(row)
        return row.size

    def _estimate(self, ctx: RequestContext, asked: Asked, data: AccumulatedData, row: LogRow) -> None:
        """Adds guessed tokens to a row that is stored already: a guess reads the whole text, and takes its time."""
        from streamfold.catalog.estimate import estimate_usage

        model = data.response_model or data.model
        limits = self._catalog.limits(model, data.provider) if self._catalog is not None and model else None
        request = ctx.request if isinstance(ctx.request, dict) else None
        guess = estimate_usage(data, request, limits)
        if guess is None:
            return
        known = msgspec.structs.replace(data, estimated_usage=guess)
        self._put(
            msgspec.structs.replace(
                row,
                revision=FINAL + 1,
                record=self._maker.record(ctx, asked, known),
                estimated_prompt_tokens=guess.prompt_tokens,
                estimated_completion_tokens=guess.completion_tokens,
            )
        )

    def _put(self, row: LogRow) -> None:
        """Stores a row, in a lighter form if it is too large for the room there is."""
        if self.store.put(row) or (row.size > LARGE and self.store.put(lighter(row, LIGHTER))):
            return
        self.lost += 1

    def _apply_retention(self, now: float) -> None:
        from streamfold.store.retention import apply

        assert self._config.retention is not None
        apply(self.store, self._config.retention)

    def _say(self, where: str, error: Exception) -> None:
        kind = f"{where}: {type(error).__name__}"
        if kind not in self._said:
            self._said.add(kind)
            # Not its text: that may quote what passed by.
            log.error("the logging plugin made a plainer row than it should (%s); said once", kind)


def _is_large(ctx: RequestContext) -> bool:
    try:
        return max(len(ctx.request_body or b""), ctx.response_bytes or 0) > LARGE_TRAFFIC
    except TypeError:
        return False


def _wants_estimate(data: AccumulatedData) -> bool:
    """Whether a guess may be needed: nothing was said, or the stream broke off before it was."""
    usage = data.token_usage
    return data.estimated_usage is None and (usage is None or usage.source == "missing" or data.status != "success")


def _plain_start(ctx: RequestContext, instance: str | None) -> LogRow:
    """That a request has begun, and nothing that it said."""
    id, created = str(ctx.request_id), utc(time.time())
    return LogRow(id=id, created=created, revision=STARTED, instance=instance, status="processing")


def _plain_row(ctx: RequestContext, data: AccumulatedData) -> LogRow:
    """What is left when everything else fails: that the request was, and how it ended. It quotes nobody."""
    id, created = str(ctx.request_id), utc(time.time())
    try:
        row = row_of(without_content(data), record="null")
        row.id, row.created, row.record = id, created, None
        row.response_id = row.tool_names = row.error_type = row.error_code = None
        return msgspec.convert(msgspec.to_builtins(row), LogRow)
    except Exception:
        return LogRow(id=id, created=created, status=str(data.status))
