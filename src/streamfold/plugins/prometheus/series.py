"""Counts and histograms by label, whose number cannot grow without end.

Every distinct combination of label values is a series of its own, for ever: in this process, in each scrape, and in
Prometheus' memory. Some values come from callers (a model's name is whatever a client wrote into its request), so
whoever can send requests could make series until something breaks. Two limits stand against that:

* A label has at most so many distinct values (`Words`); what comes later is counted as `other`. Names that no
  provider has answered to may take half of the places, so that made-up names do not keep the real ones out.
* A metric has at most so many combinations (`Counts`, `Spread`); what comes later goes to the one where all is `other`.

The client library's own metric objects take a lock for each single observation, and can only be given one at a time.
Here a response brings hundreds of gaps between chunks at once. So the figures are kept in plain dictionaries under
the plugin's one lock, a sorted batch is counted bucket by bucket, and the library's metric families are made when
somebody asks for them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

__all__ = ["OTHER", "Counts", "Labels", "Spread", "Words", "printable"]

OTHER: Final = "other"
UNKNOWN: Final = "unknown"
MAX_LENGTH: Final = 120
"""Characters of a label value; what is longer is cut."""

Labels = tuple[str, ...]


def printable(text: str) -> str:
    """A text as it may stand in an exposition, which must be valid UTF-8 and is read by people."""
    text = text[:MAX_LENGTH]
    return text if text.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in text)


class Words:
    """The values of one label, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, str] = {}

    def word(self, said: str | None, *, answered: bool = True) -> str:
        """The value for what was said. `answered`: it is certain that this name means something."""
        if not said:
            return UNKNOWN
        said = said[:MAX_LENGTH]
        known = self._known.get(said)
        if known is not None:
            return known
        if len(self._known) >= (self._most if answered else self._most // 2):
            return OTHER
        return self._known.setdefault(said, printable(said))


class _Rows:
    """Rows by their labels, at most `most` and one more."""

    def __init__(self, name: str, help: str, labels: Labels, most: int) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self._most = most
        self._rest = (OTHER,) * len(labels)

    def _place(self, rows: Mapping[Labels, object], labels: Labels) -> Labels:
        return labels if labels in rows or len(rows) < self._most else self._rest


class Counts(_Rows):
    """A counter, or (`gauge=True`) a figure that goes up and down."""

    def __init__(self, name: str, help: str, labels: Labels, most: int, *, gauge: bool = False) -> None:
        super().__init__(name, help, labels, most)
        self._kind = GaugeMetricFamily if gauge else CounterMetricFamily
        self._rows: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1) -> Labels:
        """Adds an amount. Returns the labels it was counted under."""
        labels = self._place(self._rows, labels)
        self._rows[labels] = self._rows.get(labels, 0) + amount
        return labels

    def snapshot(self, fixed: Mapping[str, str]) -> Callable[[], Metric]:
        """Keeps the figures as they stand, and returns what writes them out, each with the `fixed` labels."""
        return partial(self._family, list(self._rows.items()), fixed)

    def _family(self, rows: Sequence[tuple[Labels, float]], fixed: Mapping[str, str]) -> Metric:
        family = self._kind(self.name, self.help, labels=[*self.labels, *fixed])
        for labels, value in rows:
            family.add_metric([*labels, *fixed.values()], value)
        return family


class Spread(_Rows):
    """A histogram. `bounds` are the upper bounds of its buckets, ascending; the last, infinite one is implied."""

    def __init__(self, name: str, help: str, labels: Labels, most: int, bounds: Sequence[float]) -> None:
        super().__init__(name, help, labels, most)
        self._bounds = list(bounds)
        self._nanoseconds = [round(bound * 1e9) for bound in bounds]
        self._named = [*map(floatToGoString, bounds), "+Inf"]
        self._rows: dict[Labels, tuple[list[int], list[float]]] = {}

    def add(self, labels: Labels, value: float) -> None:
        """Adds one value."""
        counts, total = self._row(labels)
        counts[bisect_left(self._bounds, value)] += 1
        total[0] += value

    def add_sorted_nanoseconds(self, labels: Labels, values: Sequence[int], total_ns: int) -> None:
        """Adds many durations, sorted, whose sum is `total_ns`, to a histogram of seconds."""
        counts, total = self._row(labels)
        below = 0
        for place, bound in enumerate(self._nanoseconds):
            upto = bisect_right(values, bound, below)
            counts[place] += upto - below
            below = upto
            if below == len(values):
                break
        counts[-1] += len(values) - below
        total[0] += total_ns / 1e9

    def snapshot(self, fixed: Mapping[str, str]) -> Callable[[], Metric]:
        """Keeps the figures as they stand, and returns what writes them out, each with the `fixed` labels."""
        rows = [(labels, counts.copy(), total[0]) for labels, (counts, total) in self._rows.items()]
        return partial(self._family, rows, fixed)

    def _family(self, rows: Sequence[tuple[Labels, list[int], float]], fixed: Mapping[str, str]) -> Metric:
        family = HistogramMetricFamily(self.name, self.help, labels=[*self.labels, *fixed])
        for labels, counts, total in rows:
            upto, buckets = 0, []
            for named, count in zip(self._named, counts, strict=True):
                upto += count
                buckets.append((named, upto))
            family.add_metric([*labels, *fixed.values()], buckets=buckets, sum_value=total)
        return family

    def _row(self, labels: Labels) -> tuple[list[int], list[float]]:
        labels = self._place(self._rows, labels)
        row = self._rows.get(labels)
        if row is None:
            row = self._rows[labels] = ([0] * len(self._named), [0.0])
        return row
