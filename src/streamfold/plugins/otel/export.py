"""Where spans, metrics and events go: the providers of the process, or else our own.

A provider that the program has set globally is its owner's: we use it and never shut it down. Without one, and with an
endpoint named, we build our own out of the official SDK and its OTLP/HTTP exporters. Without either a signal goes
nowhere: nothing is ever sent to a host that nobody named.

A collector that is slow or dead costs memory up to a bound, and nothing else. The SDK's batch processor sheds the
oldest spans without telling how many, so the bound is kept, and counted, one step before it.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from opentelemetry import metrics, trace
from opentelemetry._logs import LoggerProvider, get_logger_provider
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from streamfold.errors import UsageError
from streamfold.plugins.otel.config import OtelConfig, endpoint_of, headers

__all__ = ["Destinations", "SpanCounts", "require_destination"]

P = TypeVar("P")

logger = logging.getLogger("streamfold.plugins.otel")

SERVICE_NAME: Final = "streamfold"
"""Of our own providers, if neither the settings nor the environment name the service."""

NOWHERE: Final = (
    'the plugin "otel" has nowhere to send to: set "plugins.otel.endpoint" to the base URL of an OTLP/HTTP collector, '
    "such as http://127.0.0.1:4318, or OTEL_EXPORTER_OTLP_ENDPOINT, "
    "or set the program's own tracer provider before the plugin is made"
)


def require_destination(config: OtelConfig) -> None:
    """Raises `UsageError` if neither the program, the settings nor the environment say where spans or metrics go."""
    spans = _set(trace.get_tracer_provider()) is not None or endpoint_of("traces", config) is not None
    figures = _set(metrics.get_meter_provider()) is not None or endpoint_of("metrics", config) is not None
    if not spans and not (config.metrics and figures):
        raise UsageError(NOWHERE)


class Destinations:
    """The three providers, None for a signal that goes nowhere, and what became of the spans.

    Raises `UsageError` when there is none for spans nor for metrics.
    """

    def __init__(
        self,
        config: OtelConfig,
        *,
        events: bool,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> None:
        self._config = config
        self._own: list[Any] = []
        self._exporters: list[Any] = []
        self._lock = threading.Lock()
        self.spans: SpanCounts | None = None
        """Counts of our own span exporter; None while spans go to the program's own provider."""
        self.tracer_provider = tracer_provider or _set(trace.get_tracer_provider()) or self._own_tracer_provider()
        self.meter_provider: metrics.MeterProvider | None = None
        if config.metrics:
            self.meter_provider = meter_provider or _set(metrics.get_meter_provider()) or self._own_meter_provider()
        self.logger_provider: LoggerProvider | None = None
        if events:
            self.logger_provider = logger_provider or _set(get_logger_provider()) or self._own_logger_provider()
        if self.tracer_provider is None and self.meter_provider is None:
            raise UsageError(NOWHERE)
        if config.endpoint is not None and self.spans is None:
            logger.warning(
                'the program has its own tracer provider, so spans go there and not to "plugins.otel.endpoint"'
            )
        if events and self.logger_provider is None:
            logger.warning(
                "content was asked for as events, but there is no logger provider and no endpoint to send them to"
            )
        if self._own:
            atexit.register(self.close)

    def close(self) -> None:
        """Sends what is waiting and shuts down what is our own, within `shutdown_s`. Harmless when said twice."""
        with self._lock:
            own, self._own = self._own, []
        if not own:
            return
        atexit.unregister(self.close)

        def shut_down() -> None:
            for each in own:
                each.shutdown()

        worker = threading.Thread(target=shut_down, name="streamfold-otel-close", daemon=True)
        try:
            worker.start()
        except RuntimeError:  # the interpreter is ending and starts no more threads
            shut_down()
            return
        worker.join(self._config.shutdown_s)
        if worker.is_alive():
            logger.warning("the OTLP collector does not answer; what it has not taken is lost")
            for exporter in self._exporters:
                exporter.shutdown()  # ends the waiting between its retries

    def _arguments(self, endpoint: str) -> dict[str, Any]:
        return {
            "endpoint": endpoint,
            "headers": headers(self._config),
            "timeout": self._config.timeout_s,
            "compression": Compression.Gzip if self._config.compression == "gzip" else Compression.NoCompression,
        }

    def _own_tracer_provider(self) -> trace.TracerProvider | None:
        endpoint = endpoint_of("traces", self._config)
        if endpoint is None:
            return None
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider

        self.spans = SpanCounts()
        exporter = _CountingExporter(OTLPSpanExporter(**self._arguments(endpoint)), self.spans)
        provider = TracerProvider(resource=_resource(self._config), shutdown_on_exit=False)
        provider.add_span_processor(_BoundedProcessor(exporter, self.spans, self._config))
        return self._keep(provider, exporter)

    def _own_meter_provider(self) -> metrics.MeterProvider | None:
        endpoint = endpoint_of("metrics", self._config)
        if endpoint is None:
            return None
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        exporter = OTLPMetricExporter(**self._arguments(endpoint))
        reader = PeriodicExportingMetricReader(
            exporter,
            export_interval_millis=self._config.metric_interval_s * 1000,
            export_timeout_millis=self._config.timeout_s * 1000,
        )
        return self._keep(MeterProvider([reader], resource=_resource(self._config), shutdown_on_exit=False), exporter)

    def _own_logger_provider(self) -> LoggerProvider | None:
        endpoint = endpoint_of("logs", self._config)
        if endpoint is None:
            return None
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider as OwnLoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

        exporter = OTLPLogExporter(**self._arguments(endpoint))
        provider = OwnLoggerProvider(resource=_resource(self._config), shutdown_on_exit=False)
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        return self._keep(provider, exporter)

    def _keep(self, provider: P, exporter: Any) -> P:
        self._own.append(provider)
        self._exporters.append(exporter)
        return provider


class SpanCounts:
    """What became of the spans. `taken` were handed to the exporter, and are then `exported` or `failed`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ended = self.dropped = self.taken = self.exported = self.failed = 0

    @property
    def waiting(self) -> int:
        """Spans in the queue."""
        return self.ended - self.dropped - self.taken


class _CountingExporter(SpanExporter):
    def __init__(self, inner: SpanExporter, counts: SpanCounts) -> None:
        self._inner = inner
        self._counts = counts

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._counts.lock:
            self._counts.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            with self._counts.lock:
                if result is SpanExportResult.SUCCESS:
                    self._counts.exported += len(spans)
                else:
                    self._counts.failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


class _BoundedProcessor(BatchSpanProcessor):
    """The SDK's batch processor behind a bound that counts."""

    def __init__(self, exporter: SpanExporter, counts: SpanCounts, config: OtelConfig) -> None:
        self._counts = counts
        self._limit = config.max_waiting_spans
        super().__init__(
            exporter,
            max_queue_size=config.max_waiting_spans,
            schedule_delay_millis=config.export_interval_s * 1000,
            max_export_batch_size=min(512, config.max_waiting_spans),
        )

    def on_end(self, span: ReadableSpan) -> None:
        if not span.context.trace_flags.sampled:
            return
        with self._counts.lock:
            self._counts.ended += 1
            if self._counts.waiting > self._limit:
                self._counts.dropped += 1
                if self._counts.dropped & (self._counts.dropped - 1) == 0:  # the 1st, 2nd, 4th, 8th …
                    logger.warning("the OTLP collector cannot keep up: %d spans dropped so far", self._counts.dropped)
                return
        super().on_end(span)


def _set(provider: P) -> P | None:
    """The provider, if the program has set it. Before that the API hands out a stand-in, whose class is not public."""
    return None if "Proxy" in type(provider).__name__ else provider


def _resource(config: OtelConfig) -> Resource:
    """OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME are read by the SDK; a name in the settings wins over them."""
    named = {"service.name": config.service_name} if config.service_name is not None else {}
    resource = Resource.create(named)
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": SERVICE_NAME}))
    return resource
