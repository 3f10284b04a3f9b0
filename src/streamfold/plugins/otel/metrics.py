"""The GenAI client metrics, recorded once per finished request.

The SDK takes about 20 µs for a record, which is as much as several chunks cost; so nothing is recorded while a
stream runs, and the time of each single chunk only when asked for.

Labels come from outside (a client may ask for any model it likes), so each label takes a bounded number of values;
the rest is counted as `_OTHER`. A token count that nobody told is not recorded, not even as the 0 that the newer
conventions suggest: it would stand in the histograms as a measured request without tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from threading import Lock
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.metrics import Meter

from streamfold.plugins.otel.attributes import Call
from streamfold.plugins.otel.names import DURATION_BUCKETS, OTHER_DURATION, TOKEN_BUCKETS, Profile
from streamfold.types import AccumulatedData, TokenUsage

__all__ = ["Metrics"]

MAX_VALUES: Final = 200
"""Values that one label takes."""


class Metrics:
    """The instruments of a profile."""

    def __init__(self, meter: Meter, profile: Profile, *, chunks: bool) -> None:
        self._profile = profile
        self._labels = _Labels()
        self._duration = _histogram(meter, profile.duration, "s", "Duration of a request to a model.")
        self._other_duration = self._duration
        if profile.duration != OTHER_DURATION:
            self._other_duration = _histogram(meter, OTHER_DURATION, "s", "Duration of a request that is no inference.")
        self._first_chunk = _histogram(meter, profile.time_to_first_chunk, "s", "Time to the first chunk of a stream.")
        self._per_chunk = None
        if chunks:
            told = "Time from one chunk of a stream to the next."
            self._per_chunk = _histogram(meter, profile.time_per_output_chunk, "s", told)
        input_name, output_name = profile.token_histograms
        self._input = _histogram(meter, input_name, "{token}", "Tokens of a request.")
        self._output = self._input
        if input_name != output_name:
            self._output = _histogram(meter, output_name, "{token}", "Tokens of an answer.")
        self._counters = _counters(meter) if profile.token_counters else {}
        self._cost = meter.create_counter(
            "streamfold.usage.cost", "{USD}", "What requests cost, where a price is known."
        )

    def record(self, call: Call, data: AccumulatedData, arrivals: Sequence[int] | None, context: Context) -> None:
        """Records one finished request. `context` holds its span, for exemplars."""
        if call.operation == "passthrough":
            return
        labels = self._labels.of(call)
        failed = (
            {**labels, "error.type": self._labels.bounded("error.type", call.error_type)} if call.error_type else labels
        )
        if data.latency_ms is not None:
            duration = self._duration if call.is_inference else self._other_duration
            duration.record(data.latency_ms / 1000, failed, context=context)
        if data.cost is not None and data.cost.total_cost > 0:
            self._cost.add(data.cost.total_cost, labels)
        if not call.is_inference:
            return
        if data.stream and data.time_to_first_chunk_ms is not None:
            self._first_chunk.record(data.time_to_first_chunk_ms / 1000, labels, context=context)
        if self._per_chunk is not None and data.stream and arrivals is not None:
            for before, after in pairwise(arrivals):
                self._per_chunk.record((after - before) / 1e9, labels)
        if data.token_usage is not None and data.token_usage.source != "missing":
            self._record_tokens(data.token_usage, labels, failed)

    def _record_tokens(self, usage: TokenUsage, labels: dict[str, Any], failed: dict[str, Any]) -> None:
        one = self._input is self._output
        for histogram, kind, count in (
            (self._input, "input", usage.prompt_tokens),
            (self._output, "output", usage.completion_tokens),
        ):
            if count is not None and count >= 0:
                histogram.record(count, {**labels, "gen_ai.token.type": kind} if one else failed)
        for name, modality, count in _by_modality(usage) if self._counters else ():
            self._counters[name].add(count, {**labels, "gen_ai.token.modality": modality})


def _histogram(meter: Meter, name: str, unit: str, told: str) -> Any:
    buckets = DURATION_BUCKETS if unit == "s" else TOKEN_BUCKETS
    return meter.create_histogram(name, unit, told, explicit_bucket_boundaries_advisory=buckets)


def _counters(meter: Meter) -> dict[str, Any]:
    told = {
        "input_tokens": "Tokens of requests, those from a cache included.",
        "output_tokens": "Tokens of answers, reasoning included.",
        "cache_read.input_tokens": "Input tokens that were read from a cache.",
        "cache_write.input_tokens": "Input tokens that were written to a cache.",
        "reasoning.output_tokens": "Output tokens of reasoning.",
    }
    prefix = "gen_ai.client.inference.usage."
    return {name: meter.create_counter(prefix + name, "{token}", what) for name, what in told.items()}


def _by_modality(usage: TokenUsage) -> list[tuple[str, str, int]]:
    """(counter, modality, count). What the provider did not break down is `unknown`."""
    out: list[tuple[str, str, int]] = []
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    for name, total, details in (
        ("input_tokens", usage.prompt_tokens, prompt),
        ("output_tokens", usage.completion_tokens, completion),
    ):
        if total is None or total < 0:
            continue
        parts = {
            modality: count
            for modality in ("text", "audio", "image")
            if (count := getattr(details, f"{modality}_tokens", None)) is not None and count > 0
        }
        if sum(parts.values()) > total:  # they contradict each other; the total is what is billed
            parts = {}
        out += [(name, modality, count) for modality, count in parts.items()]
        if (rest := total - sum(parts.values())) or not parts:
            out.append((name, "unknown", rest))
    for name, count in (
        ("cache_read.input_tokens", prompt and prompt.cached_read_tokens),
        ("cache_write.input_tokens", prompt and prompt.cached_write_tokens),
        ("reasoning.output_tokens", completion and completion.reasoning_tokens),
    ):
        if isinstance(count, int) and count >= 0:
            out.append((name, "unknown", count))
    return out


class _Labels:
    """The labels of a request, each of them of so many values at most."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen: dict[str, set[str]] = {}

    def of(self, call: Call) -> dict[str, Any]:
        labels: dict[str, Any] = {"gen_ai.operation.name": call.operation}
        for name, value in (
            ("gen_ai.provider.name", call.provider),
            ("gen_ai.request.model", call.model),
            ("gen_ai.response.model", call.response_model),
            ("server.address", call.address),
        ):
            if value:
                labels[name] = self.bounded(name, value)
        if call.address and call.port is not None:
            labels["server.port"] = call.port
        return labels

    def bounded(self, name: str, value: str) -> str:
        value = value[:128]
        with self._lock:
            seen = self._seen.setdefault(name, set())
            if value not in seen:
                if len(seen) >= MAX_VALUES:
                    return "_OTHER"
                seen.add(value)
        return value
