"""The command: which sections, how thoroughly, and in which form."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from streamfold.bench import growth, memory
from streamfold.bench.measure import probe, quiet
from streamfold.bench.report import Row, as_json, as_table, skipped
from streamfold.bench.speed import speed
from streamfold.bench.workloads import STREAMS
from streamfold.errors import UsageError
from streamfold.types import JSON
from streamfold.wire import fold_class
from streamfold.wire.repeat import NATIVE

__all__ = ["SECTIONS", "main"]


class Effort(NamedTuple):
    """How thoroughly to measure."""

    rounds: int
    patience: float
    """Seconds that one slow peer may take in one section."""
    chunks: int
    """Length of the longest stream of the growth section."""
    live: int
    """Streams alive at once whose allocations are traced."""
    crowd: int
    """Streams alive at once whose process is weighed."""
    seconds: float
    """Length of one run in a live event loop."""
    streams: int
    """Streams at once in the gateway with plugins."""


THOROUGH: Final = Effort(rounds=21, patience=3.0, chunks=100_000, live=1000, crowd=10_000, seconds=4.0, streams=50)
QUICK: Final = Effort(rounds=5, patience=0.5, chunks=10_000, live=200, crowd=2000, seconds=2.0, streams=10)

Section = Callable[[Effort], list[Row]]


def _speed_of(name: str) -> Section:
    def section(effort: Effort) -> list[Row]:
        load = STREAMS[name]()
        try:
            fold_class(load.format)
        except ImportError as problem:
            return [skipped(name, "all", str(problem))]
        with quiet():
            return speed(load, rounds=effort.rounds, patience=effort.patience)

    return section


def _in_loop(effort: Effort) -> list[Row]:
    try:
        from streamfold.bench.in_loop import in_loop
    except ImportError as problem:  # aiohttp belongs to the gateway
        return [skipped("in-loop", "all", str(problem))]
    return in_loop(effort.seconds)


def _plugins(effort: Effort) -> list[Row]:
    try:
        from streamfold.bench.plugins import PluginLoad, plugins
    except ImportError as problem:  # they need the gateway, the store and the libraries of the plugins
        return [skipped("plugins", "all", str(problem))]
    try:
        return plugins(PluginLoad(streams=effort.streams, chunks=300, rounds=max(1, effort.rounds // 2)))
    except UsageError as problem:
        return [skipped("plugins", "all", str(problem))]


ON_DEMAND: Final = ("in-loop", "plugins")
SECTIONS: Final[dict[str, Section]] = {
    **{name: _speed_of(name) for name in STREAMS},
    "growth": lambda effort: growth.growth(effort.chunks, rounds=min(effort.rounds, 5)),
    "large": lambda effort: growth.large(rounds=min(effort.rounds, 5)),
    "ends": lambda effort: growth.ends(rounds=effort.rounds),
    "memory": lambda effort: memory.memory(effort.live, effort.crowd),
    "gc": lambda effort: memory.collections(effort.chunks),
    "in-loop": _in_loop,
    "plugins": _plugins,
}
"""What can be measured, by the name that `--only` takes. Those of `ON_DEMAND` run only when asked for."""


def main(argv: list[str]) -> int:
    """Measures, prints, and returns 1 if any answer was wrong, else 0."""
    asked = _parser().parse_args(argv)
    effort = QUICK if asked.quick else THOROUGH
    if asked.rounds is not None:
        effort = effort._replace(rounds=asked.rounds, patience=0.0)
    names = asked.only or ([] if asked.plugins else [name for name in SECTIONS if name not in ON_DEMAND])
    names += [name for name, wanted in zip(ON_DEMAND, (asked.in_loop, asked.plugins), strict=True) if wanted]
    rows: list[Row] = []
    speeds = [probe() for _ in range(5)]
    for name in dict.fromkeys(names):
        if not asked.json:
            print(f"measuring {name}", file=sys.stderr, flush=True)
        rows += SECTIONS[name](effort)
        speeds.append(probe())
    render = as_json if asked.json else as_table
    print(render(rows, _machine(speeds)))
    return 1 if any(not row.correct for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="streamfold bench", description="Measures this library against its floor and its peers, on this machine."
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), metavar="NAME", help=", ".join(SECTIONS))
    parser.add_argument("--in-loop", action="store_true", help="also measure inside a live event loop")
    parser.add_argument("--plugins", action="store_true", help="measure what the gateway's plugins cost, and no more")
    parser.add_argument("--rounds", type=int, help="samples of each program; every peer gets one")
    return parser


def _machine(speeds: list[float]) -> JSON:
    """What the figures depend on. `probe` is a fixed piece of work: its spread says how steady the machine was."""
    return {
        "python": platform.python_version(),
        "msgspec": msgspec.__version__,
        "machine": platform.machine(),
        "scan": "native" if NATIVE is not None else "python",
        "probe": f"{min(speeds):.0f}..{max(speeds):.0f} us",
    }
