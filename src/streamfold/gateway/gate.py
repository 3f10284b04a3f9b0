"""Delivers an answer event by event, as plugins want it: changed, dropped, held back, ended.

What a plugin holds back waits here, in order, and is bounded in bytes and in time. Beyond the bounds a gate that is
`closed` ends the stream, since whoever put it there meant to look before anything passes; one that is `open` lets go.
The same holds for a stream that comes to its end while a plugin holds it and does not release it when asked.

The witness reads every piece before the plugins see its events, so `ctx.snapshot()` has at least what they were shown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from streamfold.errors import WireError
from streamfold.gateway.config import Gate
from streamfold.gateway.delivery import Event, EventCutter, LineCutter
from streamfold.gateway.outbound import Outbound
from streamfold.gateway.patience import Watchdog
from streamfold.gateway.usage_request import is_extra
from streamfold.gateway.witness import Witness
from streamfold.hooks import DROP, End, Replace
from streamfold.pipeline import Pipeline
from streamfold.types import ErrorDetails

__all__ = ["EndedError", "GatedDelivery"]

HELD_TOO_LONG = "a plugin held the stream back and did not release it"


class EndedError(WireError):
    """A plugin, or a bound of the gate, ended the answer."""

    def __init__(self, error: ErrorDetails) -> None:
        super().__init__(error.message or "the answer was ended by a plugin")
        self.error = error


class GatedDelivery:
    """One answer on its way through the plugins. `drops_usage`: the usage event is ours, and not for the client."""

    def __init__(self, pipeline: Pipeline, witness: Witness, out: Outbound, bounds: Gate, *, drops_usage: bool) -> None:
        self._pipeline = pipeline
        self._witness, self._ctx = witness, witness.ctx
        self._out = out
        self._bounds = bounds
        self._drops_usage = drops_usage
        self._held = bytearray()
        self._ready = 0
        """Bytes at the front of what is held that are free to go; the rest waits for a plugin."""
        self._held_since: float | None = None
        self._like = Event(b"", None)
        self._index = 0
        self._over = False

    async def stream(
        self, pieces: AsyncIterator[bytes], cutter: EventCutter | LineCutter, early: list[bytes], watch: Watchdog
    ) -> None:
        """Delivers a stream. `early` are pieces that the witness has read already. Raises `EndedError`."""
        for each in early:
            await self._events(cutter.cut(each))
        while (piece := await self._next(pieces)) is not None:
            watch.pause()
            self._witness.piece(piece, time.monotonic_ns())
            await self._events(cutter.cut(piece))
            watch.resume(self._witness.has_output)
        watch.pause()
        if rest := cutter.rest():
            await self._pass(rest)
        await self._at_the_end()

    async def whole(self, body: bytes) -> bytes:
        """An unstreamed answer as plugins want it. Raises `EndedError`."""
        self._ctx.chunk_index = 0
        answer = await self._pipeline.chunk(self._ctx, body)
        given = self._given(answer, body)
        last = await self._ask_last()  # before the client has it all and leaves
        if self._ctx.held_by:
            given = self._given(last, given)
            if self._ctx.held_by and self._bounds.when_exceeded == "closed":
                raise self._held_too_long()
        return given

    async def over(self, error: ErrorDetails | None = None) -> None:
        """Tells plugins that no chunk will come any more, if they do not know."""
        if not self._over:
            await self._ask_last(error)

    # ------------------------------------------------------------------ events

    async def _events(self, events: list[Event]) -> None:
        for event in events:
            if event.payload is None:
                await self._pass(event.raw, wait=True)
                continue
            self._like = event
            self._ctx.chunk_index, self._index = self._index, self._index + 1
            answer = await self._pipeline.chunk(self._ctx, event.payload)
            if isinstance(answer, End):
                await self._flush()
                raise EndedError(answer.error)
            if isinstance(answer, Replace):
                self._let_go()
                await self._pass(b"".join(event.beside(chunk) for chunk in answer.chunks), wait=True)
            elif answer is not DROP and not (self._drops_usage and is_extra(event.payload)):
                await self._pass(event.raw if answer is event.payload else event.replaced(answer), wait=True)
        await self._flush()

    async def _pass(self, data: bytes, wait: bool = False) -> None:
        """Delivers bytes, or holds them. With `wait` they go out with what follows, at the next `_flush`."""
        self._held += data
        if not self._ctx.held_by:
            self._ready = len(self._held)
            self._held_since = None
        elif self._held_since is None:
            self._held_since = time.monotonic()
        if self._held_since is not None and len(self._held) - self._ready > self._bounds.hold_bytes:
            await self._exceeded()
        if not wait:
            await self._flush()

    def _let_go(self) -> None:
        """Forgets what waits."""
        del self._held[self._ready :]
        self._held_since = None

    async def _flush(self) -> None:
        """Sends what is free to go."""
        if not self._ready:
            return
        data = bytes(self._held[: self._ready])
        del self._held[: self._ready]
        self._ready = 0
        if not self._out.at_once(data):
            await self._out.piece(data)

    async def _next(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        """The next piece, None at the end. While a plugin holds the stream, it may not take for ever."""
        if self._held_since is None:
            return await anext(pieces, None)
        coming = asyncio.ensure_future(_anext(pieces))
        try:
            left = self._held_since + self._bounds.hold_s - time.monotonic()
            await asyncio.wait((coming,), timeout=max(0.0, left))
            if not coming.done():
                await self._exceeded()
                await self._flush()
            return await coming
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    # ------------------------------------------------------------------ bounds and the end

    async def _exceeded(self) -> None:
        self._witness.note("gate_exceeded")
        if self._bounds.when_exceeded == "closed":
            await self._flush()
            raise self._held_too_long()
        self._ctx.held_by.clear()
        self._ready = len(self._held)
        self._held_since = None

    async def _at_the_end(self) -> None:
        await self._flush()
        answer = await self._ask_last()
        if isinstance(answer, End):
            raise EndedError(answer.error)
        if isinstance(answer, Replace):
            self._let_go()
            await self._pass(b"".join(self._like.beside(chunk) for chunk in answer.chunks))
        if self._ctx.held_by and self._held:
            await self._exceeded()
        await self._pass(b"")

    async def _ask_last(self, error: ErrorDetails | None = None) -> object:
        self._over = True
        self._ctx.stream_end = True
        self._ctx.chunk_index = None
        # A client that leaves meanwhile must not keep some of the plugins from hearing it.
        return await asyncio.shield(self._pipeline.chunk(self._ctx, None, error))

    def _given(self, answer: object, body: bytes) -> bytes:
        """What becomes of a whole body."""
        if isinstance(answer, End):
            raise EndedError(answer.error)
        if isinstance(answer, Replace):
            return b"".join(answer.chunks)
        if answer is DROP:
            return b""
        return answer if isinstance(answer, bytes) else body

    def _held_too_long(self) -> EndedError:
        return EndedError(ErrorDetails(type="gate_closed", code="gate_closed", message=HELD_TOO_LONG))


async def _anext(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)
