"""`/metrics` of several workers: the figures of all, each with the label `worker`.

They are not added up: each worker counts from zero when it starts, and Prometheus can only tell a restart from a loss
if the series stay apart (`sum without (worker) (rate(…))` adds them up afterwards). The families of all workers are
put together by name, so that the text has each of them once, as the format demands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from streamfold.gateway.siblings import Siblings

__all__ = ["FIGURES", "exposition_of_all", "figures_of"]

FIGURES: Final = "figures"
"""The question that workers ask each other for this."""


class _Family(msgspec.Struct, array_like=True):
    name: str
    documentation: str
    type: str
    samples: list[tuple[str, dict[str, str], float]]


def figures_of(prometheus: Any) -> bytes:
    """The figures of one worker, for another."""
    families = [
        _Family(
            each.name, each.documentation, each.type, [(line.name, line.labels, line.value) for line in each.samples]
        )
        for each in prometheus.registry.collect()
    ]
    return msgspec.msgpack.encode(families)


def exposition_of_all(prometheus: Any, siblings: Siblings) -> Callable[[str | None], tuple[bytes, str]]:
    """What answers `/metrics` for all workers: the wanted type in, the text and its type out."""
    from prometheus_client.exposition import choose_encoder

    def exposition(accept: str | None) -> tuple[bytes, str]:
        told = [figures_of(prometheus), *siblings.ask(FIGURES)]
        try:
            encode, content_type = choose_encoder(accept or "")
        except (ValueError, TypeError):  # it names a version that is none
            encode, content_type = choose_encoder("")
        return encode(_All(told)), content_type

    return exposition


class _All:
    """The figures of several workers as one registry."""

    def __init__(self, told: list[bytes]) -> None:
        self._told = told

    def collect(self) -> Iterable[Any]:
        from prometheus_client.metrics_core import GaugeMetricFamily, Metric

        workers = 0
        found: dict[str, Any] = {}
        for each in self._told:
            try:
                families = msgspec.msgpack.decode(each, type=list[_Family])
            except msgspec.DecodeError:  # it died while it answered
                continue
            workers += 1
            for family in families:
                metric = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for name, labels, value in family.samples:
                    metric.add_sample(name, labels, value)
        yield GaugeMetricFamily("streamfold_workers", "Worker processes whose figures these are", value=workers)
        yield from found.values()
