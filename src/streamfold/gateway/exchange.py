"""One request and its answer, from the first byte to the row.

    client ──► receive() ──► Inbound  ──► upstream
    client ◄── send()    ◄── Outbound ◄── upstream
                                └► Witness (after the piece went on) ──► one complete response ──► plugins

Plugins that want to see the request are asked before it goes out; only if one of them wants to see chunks, a stream is
cut into events on its way (`gate`), else pieces go on as they came. The log is a plugin as well.

Usually there is one attempt. Where the configuration says so, and nothing of an answer has gone to the client, there
are more (`retry`), each with a witness and a row of its own; the later ones name the first as their `parent_id`.

Two things run side by side: the attempts, and a look-out for the client's leaving (ASGI tells that only to whoever
asks). Whichever ends first ends the other. Every way out of there leads through `_close`, which tells the plugins:

| what happened | client sees | outcome |
|---|---|---|
| the answer came to its end | all of it | what the protocol says |
| no answer came | 502 and a sentence | `error` |
| an upstream took too long, nothing sent yet | 504 and a sentence | `timeout` |
| … in mid-stream | an error in the stream's format, else a broken connection | `timeout`, unless it had ended |
| the answer broke off | the same bytes, then a broken connection | `truncated`, unless it had ended |
| a plugin ended it | an error in the stream's format, else a broken connection; 403 if nothing was sent | `error` |
| the client left | – | `cancelled`; the upstream connection is closed at once |
| … and answers are drained | – | `cancelled`, with all that came within the bounds |
| the gateway stops | a broken connection | `abandoned` |
"""

from __future__ import annotations

import asyncio
import logging

from streamfold.gateway.access import CLIENT
from streamfold.gateway.attempt import Attempt, Exchanges, Failure
from streamfold.gateway.headers import Headers, header
from streamfold.gateway.inbound import Inbound
from streamfold.gateway.outbound import Outbound
from streamfold.gateway.replies import STRAIGHT, Receive, Scope, Send
from streamfold.gateway.retry import Plan, Step
from streamfold.gateway.routes import Route
from streamfold.gateway.upstream import Body
from streamfold.gateway.upstreams import Upstream, without_credentials
from streamfold.gateway.usage_request import with_model
from streamfold.gateway.witness import Witness
from streamfold.types import ErrorDetails, Outcome

__all__ = ["Exchange", "Exchanges"]

log = logging.getLogger("streamfold.gateway")


class Exchange:
    """One request and its answer. `upstreams` are all there are, for fallbacks."""

    def __init__(
        self,
        shared: Exchanges,
        upstreams: dict[str, Upstream],
        scope: Scope,
        receive: Receive,
        send: Send,
        route: Route,
    ) -> None:
        self._shared = shared
        self._upstreams = upstreams
        self._route = route
        self._scope = scope
        self._headers: Headers = list(scope["headers"])
        self._began = asyncio.get_running_loop().time()
        # Taken out of the scope, so that nothing holds the connection longer than the exchange does.
        self._out = Outbound(send, scope.pop(STRAIGHT, None))
        self._attempt = self._new_attempt(route.upstream)
        self._first_id = self._attempt.witness.ctx.request_id
        self._inbound = Inbound(receive, self._attempt.witness.request_piece)

    async def run(self) -> None:
        """Runs it to its end, whichever that is. Never raises."""
        outcome: Outcome | None = Outcome.ABANDONED
        error: ErrorDetails | None = None
        try:
            outcome = await self._transfer_or_leave()
        except asyncio.CancelledError:
            # The server stops. Returning (and not raising) lets it close the connection without a fuss.
            log.info("request %s was cut off by the shutdown", self._first_id)
        except Exception as failure:
            log.exception("request %s failed inside the gateway", self._first_id)
            outcome, error = Outcome.ERROR, ErrorDetails(type="gateway_error", message=type(failure).__name__)
        finally:
            self._close(outcome, error)

    async def _transfer_or_leave(self) -> Outcome | None:
        """Runs the transfer until it is done or the client is gone. Returns how it ended, if nobody knows yet."""
        inbound, drain = self._inbound, self._shared.config.drain
        body = await inbound.begin(self._waits_for())
        if inbound.gone:
            return Outcome.CANCELLED
        if isinstance(body, bytes | None):
            self._attempt.witness.asked()
        transfer = asyncio.create_task(self._transfer(body))
        gone = asyncio.create_task(inbound.until_gone())
        try:
            await asyncio.wait((transfer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not transfer.done() and drain.seconds > 0:
                self._out.client_left(drain.bytes)
                self._attempt.witness.client_left()
                await asyncio.wait((transfer,), timeout=drain.seconds)
            if not transfer.done():
                return Outcome.CANCELLED
            transfer.result()
            return None
        finally:
            gone.cancel()
            if not transfer.done():
                transfer.cancel()
                await asyncio.gather(transfer, gone, return_exceptions=True)

    async def _transfer(self, body: Body) -> None:
        """Tries until something has been said to the client."""
        plan = self._plan(body)
        while (failure := await self._attempt.run(body, plan)) is not None:
            step = self._next_step(failure, plan)
            self._attempt.conclude(failure.outcome, failure.error)
            if step is None:
                await self._attempt.tell(failure)
                return
            await asyncio.sleep(step.pause)
            body = self._try_again(step, body)

    def _close(self, outcome: Outcome | None, error: ErrorDetails | None) -> None:
        """The one way out: the plugins are told, unless they have been. Never raises."""
        try:
            self._attempt.conclude(outcome, error)
        except Exception:
            log.exception("request %s left no row", self._attempt.witness.ctx.request_id)

    # ------------------------------------------------------------------ the body, before it goes out

    def _waits_for(self) -> int:
        """How much of a body is waited for before it goes out: what somebody must see, change or send again."""
        config, upstream = self._shared.config, self._route.upstream
        length = header(self._headers, b"content-length")
        size = int(length) if length is not None and length.isascii() and length.isdigit() else None
        is_json = "json" in (header(self._headers, b"content-type") or "").lower()
        wanted = 0
        if is_json and (self._shared.pipeline.watches_requests or upstream.include_usage):
            wanted = config.limits.request_bytes
        if upstream.retries or upstream.fallback:
            wanted = max(wanted, config.retry.body_bytes)
        return wanted if length is None or (size is not None and size <= wanted) else 0

    def _plan(self, body: Body) -> Plan:
        upstream, settings = self._route.upstream, self._shared.config.retry
        known = body is None or (isinstance(body, bytes) and len(body) <= settings.body_bytes)
        return Plan(upstream, self._upstreams, settings) if known else Plan.single(upstream, settings)

    # ------------------------------------------------------------------ attempts

    def _next_step(self, failure: Failure, plan: Plan) -> Step | None:
        if not failure.retryable or self._out.begun or self._out.gone:
            return None
        return plan.advance(failure.retry_after)

    def _try_again(self, step: Step, body: Body) -> Body:
        """Opens another attempt. Returns the body for it."""
        before = self._attempt.witness.ctx
        model = step.upstream.models.get(before.model or "") if step.upstream is not self._route.upstream else None
        if model is not None and isinstance(body, bytes):
            body = with_model(body, model) or body
        self._attempt = self._new_attempt(step.upstream)
        witness = self._attempt.witness
        witness.ctx.attempt, witness.ctx.parent_id = before.attempt + 1, self._first_id
        if isinstance(body, bytes):
            witness.request_piece(body)
        witness.asked()
        return body

    def _new_attempt(self, upstream: Upstream) -> Attempt:
        route = self._route if upstream is self._route.upstream else Route(upstream, self._route.path)
        headers, query = self._headers, self._scope["query_string"]
        limits, catalog = self._shared.config.limits, self._shared.catalog
        witness = Witness(route, self._scope["method"], headers, query, limits=limits, catalog=catalog)
        witness.ctx.client = self._scope.get(CLIENT)
        if upstream.key is not None or upstream is not self._route.upstream:
            # Credentials that were meant for one upstream must not be shown to another.
            headers, query = without_credentials(headers, query)
        if upstream.key is not None:
            headers = [pair for pair in headers if pair[0] != upstream.key.header[0]]
            headers.append(upstream.key.header)
        return Attempt(self._shared, witness, route.target(query), headers, self._out, began=self._began)
