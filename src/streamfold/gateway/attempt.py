"""One try at one upstream: the request goes out, the answer comes back, the plugins are told how it ended.

An attempt tells what went wrong and does nothing about it: whether it is tried again, or what the client is told, is
the exchange's affair. While another try could follow, nothing goes to the client before the model has said something:
a stream that opens with an error, or with nothing for too long, can still be given up for another.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, NamedTuple

from streamfold.errors import WireError
from streamfold.gateway.config import Config
from streamfold.gateway.delivery import cutter_for, encoded
from streamfold.gateway.error_events import error_event
from streamfold.gateway.gate import EndedError, GatedDelivery
from streamfold.gateway.headers import Headers, end_to_end, header, request_headers
from streamfold.gateway.inbound import once
from streamfold.gateway.outbound import DrainedError, Outbound
from streamfold.gateway.patience import TookTooLongError, Watchdog
from streamfold.gateway.replies import error_body
from streamfold.gateway.retry import Plan, retry_after
from streamfold.gateway.upstream import Answer, Body, UpstreamBrokeError, UpstreamClient, UpstreamUnreachableError
from streamfold.gateway.usage_request import FORMATS, UsageFilter, asking_for_usage
from streamfold.gateway.witness import Witness
from streamfold.hooks import ShortCircuit
from streamfold.pipeline import Pipeline
from streamfold.stream import Catalog
from streamfold.types import ErrorDetails, Outcome

__all__ = ["Attempt", "Exchanges", "Failure"]

MOST_EARLY: Final = 64 * 1024
"""Bytes of a stream that wait for the model's first output while another try could follow."""
REFUSAL_BYTES: Final = 64 * 1024
REFUSAL_S: Final = 2.0
"""How much, and how long, is read of an answer that is given up."""


class Exchanges(NamedTuple):
    """What all exchanges of a gateway have in common. `live` are the attempts under way, by request id."""

    config: Config
    client: UpstreamClient
    pipeline: Pipeline
    catalog: Catalog | None
    live: dict[str, Witness]


class Failure(NamedTuple):
    """How an attempt failed. `status` is what the client is told if it has got nothing yet."""

    outcome: Outcome | None
    error: ErrorDetails | None = None
    status: int = 502
    retryable: bool = True
    retry_after: float | None = None
    ours: bool = False
    """Whether it is the gateway that ends the stream, so that it may say why in the stream."""


class EarlyError(WireError):
    """A stream that began with an error."""

    def __init__(self, error: ErrorDetails) -> None:
        super().__init__(error.message or "the stream began with an error")
        self.error = error


class Attempt:
    """One try. `headers` are what this upstream may see of the client's, `began` is when the whole request began, in
    seconds of the event loop's clock."""

    def __init__(
        self,
        shared: Exchanges,
        witness: Witness,
        url: str,
        headers: Headers,
        out: Outbound,
        *,
        began: float,
    ) -> None:
        self._shared = shared
        self._pipeline = shared.pipeline
        self._url, self._headers = url, headers
        self._out = out
        self._began = began
        self._drops_usage = False
        self._content_type = ""
        self.witness = witness
        shared.live[witness.ctx.request_id] = witness

    async def run(self, body: Body, plan: Plan) -> Failure | None:
        """None: the answer was delivered, or a plugin gave one. Raises only what the task was cancelled with."""
        ctx = self.witness.ctx
        short = await self._pipeline.before(ctx, ctx.request)
        if short is not None:
            await self._answer_short(short)
            return None
        bounds = self._shared.config.gate
        usage = self._asks_for_usage(body)
        self._drops_usage = usage is not None
        gated = GatedDelivery(self._pipeline, self.witness, self._out, bounds, drops_usage=self._drops_usage)
        failure: Failure | None = None
        try:
            failure = await self._ask(usage or body, plan, gated)
        except asyncio.CancelledError:
            ctx.outcome = Outcome.CANCELLED
            raise
        finally:
            if self._pipeline.watches_chunks:
                if failure is not None and failure.outcome is not None:
                    ctx.outcome = failure.outcome
                await gated.over(failure.error if failure is not None else None)
        if failure is None:
            # Told before the client is: what was said to be whole is in the log, whatever happens next.
            self.conclude(None, None)
            await self._out.end()
        return failure

    def conclude(self, outcome: Outcome | None, error: ErrorDetails | None) -> None:
        """Tells the plugins how it ended, once."""
        witness = self.witness
        if witness.concluded:
            return
        witness.concluded = True
        self._shared.live.pop(witness.ctx.request_id, None)
        self._pipeline.finished(witness.ctx, witness.ended(outcome, error))

    async def tell(self, failure: Failure) -> None:
        """Tells the client of a failure that nothing follows: by an answer, by an event, or by a broken connection."""
        out, error = self._out, failure.error or ErrorDetails()
        kind, message = error.type or "error", error.message or "the request failed"
        if not out.begun:
            await out.reply(failure.status, error_body(kind, f"streamfold: {message}"), b"application/json")
        elif failure.ours and self.witness.has_ended and failure.outcome is Outcome.TIMEOUT:
            await out.end()  # all of it had come; only the connection stayed open
        elif failure.ours:
            event = error_event(self.witness.format, self._content_type, error, out.last)
            if event is not None:
                await out.piece(event)
                await out.end()

    # ------------------------------------------------------------------ asking

    def _asks_for_usage(self, body: Body) -> bytes | None:
        witness = self.witness
        if not witness.upstream.include_usage or witness.format not in FORMATS or not isinstance(body, bytes):
            return None
        return None if header(self._headers, b"content-encoding") else asking_for_usage(body)

    async def _ask(self, body: Body, plan: Plan, gated: GatedDelivery) -> Failure | None:
        witness, patience = self.witness, self.witness.upstream.patience
        name = f'the upstream "{witness.upstream.name}"'
        headers = self._upstream_headers(body)
        if isinstance(body, bytes) and header(self._headers, b"content-length") is None:
            body = once(body)  # it came without a length, and goes on without one
        method = witness.ctx.method or "GET"
        try:
            with Watchdog(patience, self._began) as watch:
                asked = self._shared.client.stream(method, self._url, headers, body, connect_timeout=patience.connect)
                async with asked as answer:
                    watch.answered()
                    witness.answered(answer.status, answer.headers)
                    return await self._take(answer, plan, gated, watch)
        except UpstreamUnreachableError as failure:
            message = f"no answer from {name}: {failure}"
            if failure.timed_out:
                return _timeout("connect", message)
            error = ErrorDetails(type="upstream_unreachable", message=message, retryable=True)
            return Failure(Outcome.ERROR, error)
        except TookTooLongError as failure:
            return _timeout(failure.which, f"{name} took too long: {failure}")
        except UpstreamBrokeError as failure:
            error = ErrorDetails(type="upstream_disconnected", message=f"{name} broke off: {failure}", retryable=True)
            return Failure(Outcome.TRUNCATED, error)
        except EarlyError as failure:
            return Failure(Outcome.ERROR, failure.error)
        except EndedError as failure:
            status = failure.error.status_code or 403
            return Failure(Outcome.ERROR, failure.error, status, retryable=False, ours=True)
        except DrainedError:
            return Failure(Outcome.CANCELLED, retryable=False)

    def _upstream_headers(self, body: Body) -> Headers:
        headers = request_headers(self._headers)
        if self._pipeline.watches_chunks or self._drops_usage:
            # What is compressed cannot be changed.
            headers = [pair for pair in headers if pair[0] != b"accept-encoding"]
        if isinstance(body, bytes) and header(headers, b"content-length") is not None:
            headers = _with_length(headers, len(body))
        return headers

    # ------------------------------------------------------------------ the answer

    async def _take(self, answer: Answer, plan: Plan, gated: GatedDelivery, watch: Watchdog) -> Failure | None:
        asked = retry_after(answer.headers)
        may_follow = not self._out.gone
        if may_follow and answer.status in self._shared.config.retry.statuses and plan.has_next(asked):
            await self._read_refusal(answer)
            return Failure(None, retry_after=asked)
        self._content_type = header(answer.headers, b"content-type") or ""
        early: list[bytes] = []
        if may_follow and answer.status < 400 and plan.has_next():
            early = await self._first_output(answer, watch)
        if self._pipeline.watches_chunks and header(answer.headers, b"content-encoding") in (None, "identity"):
            cutter = cutter_for(self._content_type) if self.witness.ctx.stream else None
            if cutter is not None:
                headers = _without_length(end_to_end(answer.headers))
                await self._out.start(answer.status, headers)
                await gated.stream(answer.pieces, cutter, early, watch)
                return None
            if not self.witness.ctx.stream and self.witness.format != "passthrough":
                await self._deliver_whole(answer, gated, early, watch)
                return None
        await self._deliver(answer, early, watch)
        return None

    async def _read_refusal(self, answer: Answer) -> None:
        """Reads what a refused request was told, for the record."""
        try:
            async with asyncio.timeout(REFUSAL_S):
                async for piece in answer.pieces:
                    self.witness.piece(piece, time.monotonic_ns())
                    if self.witness.received > REFUSAL_BYTES:
                        return
        except (TimeoutError, UpstreamBrokeError):
            pass

    async def _first_output(self, answer: Answer, watch: Watchdog) -> list[bytes]:
        """The pieces of an answer until the model has said something. Raises `EarlyError` if that is an error."""
        witness, early = self.witness, []
        async for piece in answer.pieces:
            witness.piece(piece, time.monotonic_ns())
            early.append(piece)
            watch.resume(witness.has_output)
            if witness.has_output or witness.has_ended or witness.received > MOST_EARLY:
                break
        error = witness.error
        if error is not None and not witness.has_output:
            raise EarlyError(error)
        return early

    async def _deliver(self, answer: Answer, early: list[bytes], watch: Watchdog) -> None:
        """Passes an answer on as it comes."""
        witness, out, timed = self.witness, self._out, watch.watches
        strips = self._drops_usage and self._content_type.startswith("text/event-stream")
        if strips and header(answer.headers, b"content-encoding") in (None, "identity"):
            return await self._deliver_filtered(answer, early, watch)
        await out.start(answer.status, end_to_end(answer.headers))
        for piece in early:
            await out.piece(piece)
        if timed:
            watch.resume(witness.has_output)
        async for piece in answer.pieces:
            at = time.monotonic_ns()
            if timed:
                watch.pause()
            if not out.at_once(piece):
                await out.piece(piece)
            witness.piece(piece, at)
            if timed:
                watch.resume(witness.has_output)
        return None

    async def _deliver_filtered(self, answer: Answer, early: list[bytes], watch: Watchdog) -> None:
        """Passes a stream on without the usage that only we asked for."""
        witness, out, usage = self.witness, self._out, UsageFilter()
        await out.start(answer.status, _without_length(end_to_end(answer.headers)))
        for piece in early:
            if rest := usage.feed(piece):
                await out.piece(rest)
        watch.resume(witness.has_output)
        async for piece in answer.pieces:
            at = time.monotonic_ns()
            watch.pause()
            if rest := usage.feed(piece):
                await out.piece(rest)
            witness.piece(piece, at)
            watch.resume(witness.has_output)
        if rest := usage.rest():
            await out.piece(rest)

    async def _deliver_whole(self, answer: Answer, gated: GatedDelivery, early: list[bytes], watch: Watchdog) -> None:
        """Passes an unstreamed answer on, as plugins want it. One that is too long is passed on unseen."""
        witness, out = self.witness, self._out
        limit = self._shared.config.limits.response_bytes
        headers = end_to_end(answer.headers)
        body = bytearray(b"".join(early))
        async for piece in answer.pieces:
            watch.pause()
            witness.piece(piece, time.monotonic_ns())
            body += piece
            if len(body) > limit and not out.begun:
                await out.start(answer.status, headers)
            if out.begun:
                await out.piece(bytes(body))
                body.clear()
            watch.resume(witness.has_output)
        watch.pause()
        if out.begun:
            return
        given = await gated.whole(bytes(body))
        if given != body:
            headers = _with_length(headers, len(given))
        await out.start(answer.status, headers)
        await out.piece(given)

    async def _answer_short(self, short: ShortCircuit) -> None:
        """Answers in an upstream's place. The answer is folded as one of theirs would be."""
        witness = self.witness
        status = short.status_code or (200 if short.error is None else short.error.status_code or 403)
        if short.error is not None:
            body = error_body(short.error.type or "refused", short.error.message or "a plugin refused the request")
        else:
            body = encoded(short.response)
        kind = b"text/event-stream" if body.startswith((b"data:", b"event:", b":")) else b"application/json"
        witness.answered(status, [(b"content-type", kind)])
        witness.piece(body, time.monotonic_ns())
        if self._pipeline.watches_chunks:
            # Those that had seen the request are told that it is over, so that they can clean up. Before the client is
            # told: a client that leaves with its answer, or a gateway that stops then, would end this task first.
            witness.ctx.stream_end = True
            await self._pipeline.chunk(witness.ctx, None, short.error)
        self.conclude(None, short.error)
        await self._out.reply(status, body, kind)


def _timeout(which: str, message: str) -> Failure:
    error = ErrorDetails(type="timeout", code=f"{which}_timeout", message=message, retryable=True)
    return Failure(Outcome.TIMEOUT, error, 504, retryable=which != "total", ours=True)


def _without_length(headers: Headers) -> Headers:
    return [pair for pair in headers if pair[0] != b"content-length"]


def _with_length(headers: Headers, length: int) -> Headers:
    return [*_without_length(headers), (b"content-length", str(length).encode())]
