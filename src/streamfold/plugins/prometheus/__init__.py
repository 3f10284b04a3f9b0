"""Prometheus metrics of every request: how many, how they ended, tokens, cost, times, what is under way.

    [plugins.prometheus]
    port = 9464                  # only for programs without the gateway, which serves /metrics itself

Each response is counted once, whole, from its final record: a scrape never sees half of one. Counting costs some
microseconds, so it is done where the traffic runs and needs no queue. The names, labels and useful queries are in
`docs/prometheus.md`; how the number of series is kept in bounds is in `series`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from itertools import islice, pairwise
from operator import sub
from threading import Lock
from typing import Any, ClassVar, Final

import msgspec
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from streamfold.errors import UsageError
from streamfold.hooks import Plugin, RequestContext
from streamfold.plugins.prometheus.series import Counts, Labels, Spread, Words, printable
from streamfold.processed import ProcessedStreamResponse
from streamfold.types import AccumulatedData, TokenUsage

__all__ = ["PrometheusConfig", "PrometheusPlugin"]

log = logging.getLogger("streamfold.plugins.prometheus")

NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
ALL: Final = ("provider", "model", "upstream", "format", "stream")
"""The labels of every figure about responses."""
CODES: Final = 300
"""Distinct codes of anomalies. They are this library's words; the limit is for formats that others bring along."""


class PrometheusConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `[plugins.prometheus]` can say. Buckets are upper bounds, ascending; durations in seconds."""

    port: int | None = None
    """Serves the metrics on this port of the loopback interface (0: any that is free)."""
    labels: dict[str, str] = {}
    """Labels that every series gets, such as `worker = "3"` where several processes share one address."""
    max_label_values: int = 100
    """Distinct values of one label; later ones are counted as `other`."""
    max_series: int = 1000
    """Distinct combinations of label values of one metric; later ones are counted as `other`."""
    duration_buckets: tuple[float, ...] = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
    """The upper bounds of the histogram of durations."""
    first_token_buckets: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
    """Also those of the time to the first chunk."""
    gap_buckets: tuple[float, ...] = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.5, 5, 15)
    """Also those of the time per output token."""
    speed_buckets: tuple[float, ...] = (1, 2.5, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)
    """Tokens per second."""


class PrometheusPlugin(Plugin):
    """Counts every response in a registry of its own (`registry`). Raises `UsageError` for a setting that cannot be."""

    name = "prometheus"
    Config: ClassVar[type[msgspec.Struct] | None] = PrometheusConfig
    inline = True
    inline_response = True

    @staticmethod
    def check(config: PrometheusConfig) -> None:
        """Raises `UsageError` for settings that cannot be."""
        _check(config)

    def __init__(self, config: PrometheusConfig | None = None) -> None:
        config = config or PrometheusConfig()
        _check(config)
        self._lock = Lock()
        self._fixed = {name: printable(value) for name, value in config.labels.items()}
        self._words = {label: Words(config.max_label_values) for label in (*ALL, "type")}
        self._words["code"] = Words(CODES)
        self._make_metrics(config)
        self._watched: dict[str, tuple[str, dict[Labels, tuple[dict[str, str], Callable[[], float]]]]] = {}
        self._failed: set[str] = set()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._server = _serve(config.port, self.registry) if config.port is not None else None

    def _make_metrics(self, config: PrometheusConfig) -> None:
        def counts(name: str, help: str, *more: str) -> Counts:
            return Counts(f"streamfold_{name}", help, (*ALL, *more), config.max_series)

        def spread(name: str, help: str, bounds: tuple[float, ...], *more: str) -> Spread:
            return Spread(f"streamfold_{name}", help, (*ALL, *more), config.max_series, bounds)

        self._requests = counts("requests", "Finished requests", "outcome")
        self._errors = counts("errors", "Finished requests that were no success", "outcome", "type")
        self._tokens = counts("tokens", "Tokens as the provider counted them; see docs for what contains what", "kind")
        self._without_usage = counts("responses_without_usage", "Responses that came without token counts", "outcome")
        self._cost = counts("cost_usd", "Cost in US dollars, of the responses whose cost is known")
        self._without_cost = counts("responses_without_cost", "Responses whose cost is not known", "outcome")
        self._partly_priced = counts("responses_partly_priced", "Responses whose cost lacks a part")
        self._request_bytes = counts("request_bytes", "Bytes of request bodies")
        self._response_bytes = counts("response_bytes", "Bytes of response bodies")
        self._anomalies = counts("anomalies", "Responses in which an anomaly was seen", "code")
        self._in_flight = Counts(
            "streamfold_requests_in_flight",
            "Requests that are under way",
            ("provider", "upstream", "stream"),
            config.max_series,
            gauge=True,
        )
        first = config.first_token_buckets
        self._duration = spread(
            "request_duration_seconds",
            "From the request to the end of its response",
            config.duration_buckets,
            "outcome",
        )
        self._first_chunk = spread("time_to_first_chunk_seconds", "From the request to a stream's first chunk", first)
        self._first_token = spread("time_to_first_token_seconds", "From the request to a stream's first output", first)
        self._gaps = spread("inter_chunk_gap_seconds", "From one chunk of a stream to the next", config.gap_buckets)
        self._per_token = spread(
            "time_per_output_token_seconds", "Mean time between the output tokens of a stream", config.gap_buckets
        )
        self._speed = spread(
            "output_tokens_per_second", "Output tokens of a response by its whole duration", config.speed_buckets
        )
        self._metrics: tuple[Counts | Spread, ...] = tuple(
            each for each in vars(self).values() if isinstance(each, Counts | Spread)
        )

    # ------------------------------------------------------------------ hooks

    def pre_llm_hook(self, ctx: RequestContext, request: Any) -> None:
        """Counts the request as under way, once."""
        with self._lock:
            if self.name in ctx.state:
                return
            labels = (
                self._words["provider"].word(ctx.provider),
                self._words["upstream"].word(ctx.upstream),
                _yes_no(ctx.stream),
            )
            ctx.state[self.name] = self._in_flight.add(labels)

    def on_response(self, ctx: RequestContext, processed: ProcessedStreamResponse) -> None:
        """Counts the response, once."""
        data = processed.data
        if data is None:
            return
        with self._lock:
            begun = ctx.state.get(self.name, ())
            if begun is None:
                return
            ctx.state[self.name] = None
            if begun:
                self._in_flight.add(begun, -1)
            labels = self._labels(ctx, data)
            self._count_end(labels, ctx, data)
            self._count_usage(labels, data)
            self._count_times(labels, data, processed)

    def _labels(self, ctx: RequestContext, data: AccumulatedData) -> Labels:
        usage = data.token_usage
        answered = data.status == "success" or data.response_model is not None or _is_said(usage)
        return (
            self._words["provider"].word(data.provider or ctx.provider),
            self._words["model"].word(data.model or ctx.model or data.response_model, answered=answered),
            self._words["upstream"].word(ctx.upstream),
            self._words["format"].word(data.format or ctx.format),
            _yes_no(data.stream),
        )

    def _count_end(self, labels: Labels, ctx: RequestContext, data: AccumulatedData) -> None:
        self._requests.add((*labels, data.status))
        if data.status != "success":
            self._errors.add((*labels, data.status, self._words["type"].word(_error_type(data))))
        for code in data.integrity.anomalies:
            self._anomalies.add((*labels, self._words["code"].word(code)))
        if ctx.request_bytes:
            self._request_bytes.add(labels, ctx.request_bytes)
        if ctx.response_bytes:
            self._response_bytes.add(labels, ctx.response_bytes)

    def _count_usage(self, labels: Labels, data: AccumulatedData) -> None:
        usage = data.token_usage
        if not _is_said(usage):
            self._without_usage.add((*labels, data.status))
        for kind, count in _tokens(usage, data.estimated_usage):
            if count:
                self._tokens.add((*labels, kind), count)
        if data.cost is None:
            self._without_cost.add((*labels, data.status))
            return
        if data.cost.total_cost > 0:  # a counter must not fall, and a provider may say what it likes
            self._cost.add(labels, data.cost.total_cost)
        if not data.cost.complete:
            self._partly_priced.add(labels)

    def _count_times(self, labels: Labels, data: AccumulatedData, processed: ProcessedStreamResponse) -> None:
        if data.latency_ms is not None:
            self._duration.add((*labels, data.status), data.latency_ms / 1e3)
            made = data.token_usage.completion_tokens if data.token_usage is not None else None
            if made and data.latency_ms > 0:
                self._speed.add(labels, made / data.latency_ms * 1e3)
        if not data.stream:
            return
        if data.time_to_first_chunk_ms is not None:
            self._first_chunk.add(labels, data.time_to_first_chunk_ms / 1e3)
        if data.time_to_first_token_ms is not None:
            self._first_token.add(labels, data.time_to_first_token_ms / 1e3)
        if data.time_per_output_token_ms is not None:
            self._per_token.add(labels, data.time_per_output_token_ms / 1e3)
        arrivals = processed.arrivals
        if arrivals is not None and len(arrivals) > 1:
            gaps = sorted(map(sub, islice(arrivals, 1, None), arrivals))
            self._gaps.add_sorted_nanoseconds(labels, gaps, arrivals[-1] - arrivals[0])

    # ---------------------------------------------------------------- reading

    def watch(self, name: str, help: str, read: Callable[[], float], **labels: str) -> None:
        """Adds a figure that is read at each scrape: a counter if its name ends in `_total`, else a gauge.

        The same name may be watched again with other values of the same labels. A `read` that raises leaves its
        figure out of that scrape. Raises `UsageError` for a name that cannot be or is taken.
        """
        taken = {metric.name for metric in self._metrics}
        if not NAME.fullmatch(name) or name.removesuffix("_total") in taken:
            raise UsageError(f"cannot watch {name!r}: choose a name of letters, digits and _ that is not taken")
        if not all(map(LABEL.fullmatch, labels)) or labels.keys() & self._fixed.keys():
            raise UsageError(f"cannot watch {name!r}: labels are letters, digits and _, and not those of the settings")
        values = tuple(printable(value) for value in labels.values())
        with self._lock:
            _, reads = self._watched.setdefault(name, (help, {}))
            if values in reads or any(seen.keys() != labels.keys() for seen, _ in reads.values()):
                raise UsageError(f"cannot watch {name!r} again: give it other values of the same labels")
            reads[values] = (labels, read)

    def exposition(self, accept: str | None = None) -> tuple[bytes, str]:
        """All figures, and the content type they are written in: the text format, or OpenMetrics if `accept` asks."""
        try:
            encode, content_type = choose_encoder(accept or "")
        except (ValueError, TypeError):  # it names a version that is none
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def collect(self) -> Iterable[Metric]:
        """The figures as metric families; what a registry of the client library calls."""
        with self._lock:
            # Copied in one go, so that the figures are of one moment, and written out when nobody has to wait.
            families = [metric.snapshot(self._fixed) for metric in self._metrics]
            watched = [(name, help, list(reads.items())) for name, (help, reads) in self._watched.items()]
        for family in families:
            yield family()
        for name, help, reads in watched:
            yield self._read(name, help, reads)

    def _read(
        self, name: str, help: str, reads: list[tuple[Labels, tuple[dict[str, str], Callable[[], float]]]]
    ) -> Metric:
        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        family = kind(name, help, labels=[*reads[0][1][0], *self._fixed])
        for values, (_, read) in reads:
            try:
                family.add_metric([*values, *self._fixed.values()], float(read()))
            except Exception as error:
                if name not in self._failed:
                    self._failed.add(name)
                    log.error("%s cannot be read (%s); it is left out", name, type(error).__name__)
        return family

    # ---------------------------------------------------------------- serving

    @property
    def port(self) -> int | None:
        """The port that the metrics are served on, if they are."""
        return self._server.server_port if self._server is not None else None

    def close(self) -> None:
        """Stops serving. What was counted can still be read."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


def _serve(port: int, registry: CollectorRegistry) -> Any:
    try:
        server, _ = start_http_server(port, addr="127.0.0.1", registry=registry)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f'"plugins.prometheus.port": cannot serve on {port}: {reason}; choose another, or 0') from None
    return server


def _check(config: PrometheusConfig) -> None:
    for field in ("duration_buckets", "first_token_buckets", "gap_buckets", "speed_buckets"):
        bounds = getattr(config, field)
        rising = all(low < high for low, high in pairwise(bounds))
        if not bounds or not rising or not 0 < bounds[0] <= bounds[-1] < float("inf"):
            raise UsageError(f'"plugins.prometheus.{field}" must be numbers above 0 that rise, such as [0.1, 0.5, 1]')
    for limit in ("max_label_values", "max_series"):
        if getattr(config, limit) < 2:
            raise UsageError(f'"plugins.prometheus.{limit}" must be 2 or more')
    taken = {*ALL, "outcome", "type", "kind", "code", "le", "plugin"}
    for name in config.labels:
        if not LABEL.fullmatch(name) or name in taken:
            raise UsageError(f'"plugins.prometheus.labels.{name}": choose a name of letters that is not taken')


def _yes_no(said: bool | None) -> str:
    return "unknown" if said is None else "true" if said else "false"


def _is_said(usage: TokenUsage | None) -> bool:
    return usage is not None and usage.source != "missing"


def _error_type(data: AccumulatedData) -> str:
    """What went wrong, in a word: the provider's, else the HTTP status, else the outcome."""
    error = data.error_details
    if error is None:
        return data.status
    return error.type or error.code or (f"http_{error.status_code}" if error.status_code else data.status)


def _tokens(usage: TokenUsage | None, estimated: TokenUsage | None) -> Iterable[tuple[str, int | None]]:
    if usage is not None:
        yield "prompt", usage.prompt_tokens
        yield "completion", usage.completion_tokens
        if usage.prompt_tokens_details is not None:
            yield "cached_read", usage.prompt_tokens_details.cached_read_tokens
            yield "cached_write", usage.prompt_tokens_details.cached_write_tokens
        if usage.completion_tokens_details is not None:
            yield "reasoning", usage.completion_tokens_details.reasoning_tokens
    if estimated is not None:
        yield "estimated_prompt", estimated.prompt_tokens
        yield "estimated_completion", estimated.completion_tokens
