"""One span for each request, made when the request is over.

Why not when it begins: a span that is open while a stream runs must be ended on every one of its many ends, and the
ways in which tracers leak spans (a broken loop, a cancelled task, a generator that nobody closes) are all of this kind.
The pipeline hands over exactly one complete response on every end, so the span is started and ended there, with
explicit times, and is never open. A sampler still sees the attributes it may decide by, since they are given when the
span is created. The price: while a request runs, its span is not the current one. In a gateway nothing of the user's
runs below it; in a program, spans made while reading a stream become its siblings.

What must be caught when the request begins is its parent, because the response is handled in another thread: the W3C
headers that came with the request, or the span that is current where the request is made.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry._logs import LoggerProvider
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streamfold.hooks import Plugin, RequestContext
from streamfold.plugins.otel import messages, openinference
from streamfold.plugins.otel.attributes import Attributes, Call, call_of, error_message, result
from streamfold.plugins.otel.config import OtelConfig, capture, check
from streamfold.plugins.otel.content import clean, encoded, fit
from streamfold.plugins.otel.export import Destinations, SpanCounts, require_destination
from streamfold.plugins.otel.metrics import Metrics
from streamfold.plugins.otel.names import DETAILS_EVENT, PROFILES
from streamfold.processed import ProcessedStreamResponse
from streamfold.types import AccumulatedData

__all__ = ["OtelPlugin"]

SCOPE: Final = "streamfold"
PROPAGATOR: Final = TraceContextTextMapPropagator()


class OtelPlugin(Plugin):
    """Sends a span and metrics for each request to the program's own providers, or else to an OTLP/HTTP collector.

    The providers may be given; otherwise those that the program has set globally are used, otherwise our own are made
    from the settings. Raises `UsageError` when there is nowhere to send to, and for settings that cannot be.
    """

    name: ClassVar[str] = "otel"
    Config = OtelConfig
    inline: ClassVar[bool] = True  # the pre hook must see the caller's own context
    inline_response: ClassVar[bool] = False

    @staticmethod
    def check(config: OtelConfig) -> None:
        """Raises `UsageError` for settings that cannot be, and if nothing says where to send to."""
        check(config)
        require_destination(config)

    def __init__(
        self,
        config: OtelConfig | None = None,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> None:
        self._config = config = config or OtelConfig()
        check(config)
        self._profile = PROFILES[config.profile]
        where = capture(config)
        self._on_span = where in ("span", "both")
        self._as_event = where in ("event", "both")
        self._to = Destinations(
            config,
            events=self._as_event,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            logger_provider=logger_provider,
        )
        to = self._to
        version = _version()
        self._tracer = to.tracer_provider.get_tracer(SCOPE, version) if to.tracer_provider is not None else None
        self._logger = to.logger_provider.get_logger(SCOPE, version) if to.logger_provider is not None else None
        self._metrics = None
        if to.meter_provider is not None:
            meter = to.meter_provider.get_meter(SCOPE, version)
            self._metrics = Metrics(meter, self._profile, chunks=config.chunk_metrics)

    @property
    def spans(self) -> SpanCounts | None:
        """What became of the spans that we export ourselves; None if the program's own provider has them."""
        return self._to.spans

    def pre_llm_hook(self, ctx: RequestContext, request: Any) -> None:
        """Notes the request's parent."""
        ctx.state[self.name] = _parent(ctx, contexts.get_current())

    def on_response(self, ctx: RequestContext, processed: ProcessedStreamResponse) -> None:
        """Makes the span, the metrics and the event of a finished request; once, however often it is called."""
        data = processed.data
        if data is None:
            return
        parent = ctx.state.get(self.name)
        if parent is _DONE:
            return
        ctx.state[self.name] = _DONE
        if not isinstance(parent, Context):
            parent = _parent(ctx, Context())
        call = call_of(ctx, data)
        context = parent
        if self._tracer is not None:
            context = self._trace(self._tracer, ctx, data, call, parent)
        if self._metrics is not None:
            self._metrics.record(call, data, processed.arrivals, context)

    def close(self) -> None:
        """Sends what is waiting. Providers that are not our own are left alone."""
        self._to.close()

    def _trace(
        self, tracer: trace.Tracer, ctx: RequestContext, data: AccumulatedData, call: Call, parent: Context
    ) -> Context:
        start = int(ctx.started_at * 1e9)
        end = start + int(data.latency_ms * 1e6) if data.latency_ms is not None else max(start, time.time_ns())
        span = tracer.start_span(
            call.name, context=parent, kind=SpanKind.CLIENT, attributes=call.attributes, start_time=start
        )
        context = trace.set_span_in_context(span, parent)
        try:
            if span.is_recording():
                self._describe(span, ctx, data, call, context, end)
        finally:
            span.end(end)
        return context

    def _describe(
        self, span: Span, ctx: RequestContext, data: AccumulatedData, call: Call, context: Context, end: int
    ) -> None:
        said = result(ctx, data, call, self._profile)
        if self._config.openinference:
            said.update(openinference.plain_attributes(ctx, data, call, said))
        span.set_attributes(said)
        if call.error_type is not None:
            span.set_status(Status(StatusCode.ERROR, error_message(ctx, data)))
        if not ctx.log_content or not (self._on_span or self._as_event):
            return
        content = self._content(ctx, data)
        if self._on_span:
            taken = len(said) + len(call.attributes)
            span.set_attributes(self._span_content(content, taken))
        if self._as_event and self._logger is not None:
            attributes = {**call.attributes, **said, **content}
            self._logger.emit(event_name=DETAILS_EVENT, timestamp=end, context=context, attributes=attributes)

    def _content(self, ctx: RequestContext, data: AccumulatedData) -> Attributes:
        """What was said, redacted and cut, as the structured values of its attributes."""
        out: Attributes = {}
        asked, answered = messages.Asked([], [], []), []
        try:
            asked = messages.asked(ctx.request)
            answered = messages.outputs(data, with_finish_reason=self._profile.finish_reason_in_messages)
        except Exception:  # a request's body is anybody's; one that no API would take must not cost us its span
            out["streamfold.content.unreadable"] = True
        for name, items in (
            ("gen_ai.system_instructions", asked.instructions),
            ("gen_ai.input.messages", asked.messages),
            ("gen_ai.output.messages", answered),
            ("gen_ai.tool.definitions", asked.tools),
        ):
            newest_first = name == "gen_ai.input.messages"
            kept, whole = fit(clean(items, ctx.redact), self._config.max_content_bytes, newest_first=newest_first)
            if kept:
                out[name] = kept
            if not whole:
                out["streamfold.content.truncated"] = True
        return out

    def _span_content(self, content: Attributes, taken: int) -> Attributes:
        """Spans hold no structured values yet, so it is JSON there."""
        out = {name: encoded(value) if isinstance(value, list) else value for name, value in content.items()}
        if not self._config.openinference:
            return out
        flat = openinference.content_attributes(
            content.get("gen_ai.system_instructions", []),
            content.get("gen_ai.input.messages", []),
            content.get("gen_ai.output.messages", []),
            content.get("gen_ai.tool.definitions", []),
            taken=taken + len(out),
        )
        return {**out, **flat}


_DONE: Final = object()


def _parent(ctx: RequestContext, current: Context) -> Context:
    """The context in which the request's span belongs.

    The headers win over the current span, unless that is of the same trace: then the program's own instrumentation
    has read the headers already, and its span is the nearer parent.
    """
    if not ctx.traceparent:
        return current
    carrier = {"traceparent": ctx.traceparent}
    if ctx.tracestate:
        carrier["tracestate"] = ctx.tracestate
    told = PROPAGATOR.extract(carrier, context=Context())
    remote = trace.get_current_span(told).get_span_context()
    near = trace.get_current_span(current).get_span_context()
    return current if not remote.is_valid or near.trace_id == remote.trace_id else told


def _version() -> str:
    import streamfold

    return streamfold.__version__
