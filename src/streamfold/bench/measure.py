"""How to time things on a machine that does not hold still.

A shared core drifts between a quick mode and one that is about twice as slow, for seconds at a time. So no absolute
time means much, and two programs timed one after the other cannot be compared. What can: the floor is timed right
before and right after every sample, and the sample is told as a multiple of the two. Where these two differ by more
than `STEADY`, the machine changed its mind in between and the sample is dropped (unless too few are left). Programs
take turns, round by round, and the median of a program's ratios is its figure. Time is the processor time of this
process; wall time stands beside it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import mean, median
from typing import Final, NamedTuple

__all__ = ["Timing", "probe", "quiet", "race", "sample", "seconds_of"]

STEADY: Final = 1.18
ENOUGH: Final = 3

Run = Callable[[], object]


LONG_ENOUGH: Final = 5_000_000
"""Nanoseconds that a sample should last. A run of half a millisecond between strangers would mostly show how long the
processor takes to get warm; a busy server is."""


class Sample(NamedTuple):
    """Nanoseconds that one run took."""

    cpu: float
    wall: float


class Timing(NamedTuple):
    """What the samples of one program say."""

    ratio: float
    """Median of its times over the floor's."""
    least: float
    cpu: float
    """Median nanoseconds of processor time."""
    wall: float
    kept: int
    taken: int


def sample(run: Run, times: int = 1) -> Sample:
    """Times one run, as the mean of several if asked."""
    wall = time.perf_counter_ns()
    cpu = time.process_time_ns()
    for _ in range(times):
        run()
    cpu = time.process_time_ns() - cpu
    return Sample(max(cpu, 1) / times, (time.perf_counter_ns() - wall) / times)


def _times(run: Run) -> int:
    """How often a run must be repeated for a sample that lasts. The first run of all is not asked: it is cold."""
    run()
    return max(1, int(LONG_ENOUGH / sample(run).cpu))


def race(floor: Run, runs: Mapping[str, Run], *, rounds: int, patience: float) -> dict[str, Timing]:
    """Times the runs in turns, each against the floor beside it.

    `patience` is how many seconds one program may take in all; a slow one takes part in fewer rounds, at least one.
    """
    laps: dict[str, list[tuple[Sample, Sample, Sample]]] = {name: [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    often = {name: _times(run) for name, run in runs.items()}
    floors = _times(floor)
    for _ in range(rounds):
        before = sample(floor, floors)
        for name, run in runs.items():
            if spent[name] > patience:
                continue
            taken = sample(run, often[name])
            after = sample(floor, floors)
            laps[name].append((before, taken, after))
            spent[name] += taken.wall * often[name] / 1e9
            before = after
    return {name: _timing(of) for name, of in laps.items()}


def _timing(laps: list[tuple[Sample, Sample, Sample]]) -> Timing:
    steady = [lap for lap in laps if max(lap[0].cpu, lap[2].cpu) <= STEADY * min(lap[0].cpu, lap[2].cpu)]
    kept = steady if len(steady) >= ENOUGH else laps
    ratios = [taken.cpu / mean((before.cpu, after.cpu)) for before, taken, after in kept]
    cpu = median(taken.cpu for _, taken, _ in kept)
    wall = median(taken.wall for _, taken, _ in kept)
    return Timing(median(ratios), min(ratios), cpu, wall, len(kept), len(laps))


def seconds_of(run: Run, *, times: int) -> float:
    """The least processor time of some runs, in seconds."""
    return min(sample(run).cpu for _ in range(times)) / 1e9


def probe() -> float:
    """How quick the machine is right now: microseconds for a fixed piece of Python."""

    def work() -> int:
        total = 0
        for number in range(3000):
            total += number & 7
        return total

    return sample(work).cpu / 1000


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what exists already out of the garbage collector's sight, so that it costs no program anything."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
