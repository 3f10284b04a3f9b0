"""What a feed costs in a live event loop, where a hundred streams take turns and every cache is cold.

This process is a minimal aiohttp pass-through that folds what it passes on; `load.py`, in a process of its own, is
both the provider and the clients. The pass-through runs twice, without folding and with it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from statistics import mean, quantiles
from typing import Final, NamedTuple

import aiohttp
from aiohttp import web

from streamfold.bench.load import AT_ONCE, HOST, loads, serve
from streamfold.bench.report import Row
from streamfold.bench.speed import answer_of
from streamfold.bench.workloads import Workload
from streamfold.stream import StreamAccumulator, fold

__all__ = ["in_loop"]

PER_EVENT: Final = 10.0
SHARE: Final = 12.0
WORST: Final = 50.0


class PassThrough:
    """Every request goes to the provider, every read goes on as it came, and then to the fold."""

    def __init__(self, client: aiohttp.ClientSession, provider: int, kinds: dict[str, Workload], folding: bool) -> None:
        self._client = client
        self._provider = provider
        self._kinds = kinds
        self._folding = folding
        self.events = 0
        self.wrong = 0
        self.feeds: list[float] = []
        """Microseconds an event, read by read."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        load = self._kinds[request.match_info["name"]]
        stream = StreamAccumulator(load.format) if self._folding else None
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        async with self._client.get(f"http://{HOST}:{self._provider}/{load.name}") as answer:
            async for data in answer.content.iter_any():
                await out.write(data)
                self._take(stream, data)
        if stream is not None and answer_of(stream.finish()) != load.answer:
            self.wrong += 1
        return out

    def _take(self, stream: StreamAccumulator | None, data: bytes) -> None:
        count = max(1, data.count(b"\n\n"))
        self.events += count
        begun = time.perf_counter_ns()
        if stream is not None:
            stream.feed(data)
        self.feeds.append((time.perf_counter_ns() - begun) / 1000 / count)


class Ran(NamedTuple):
    """One run of the pass-through."""

    cpu: float
    """Microseconds of this process per event."""
    events: int
    feeds: list[float]
    wrong: int


async def _run(seconds: float, *, folding: bool) -> Ran:
    kinds = loads(seconds)
    for load in kinds.values():
        fold(load.body, load.format)  # what a process does once, it has done
    command = f"from streamfold.bench.load import main; main({seconds})"
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", command, stdin=PIPE, stdout=PIPE)
    assert other.stdout is not None
    provider = int(await other.stdout.readline())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        through = PassThrough(client, provider, kinds, folding)
        runner, port = await serve(through.handle)
        cpu = time.process_time_ns()
        wrong = await _until_done(other, port)
        cpu = time.process_time_ns() - cpu
        await runner.cleanup()
    return Ran(cpu / 1000 / max(1, through.events), through.events, through.feeds, through.wrong + wrong)


async def _until_done(load: Process, port: int) -> int:
    """Tells the load where to ask; returns how many of its answers were not what was sent."""
    assert load.stdin is not None
    assert load.stdout is not None
    load.stdin.write(b"%d\n" % port)
    await load.stdin.drain()
    said = await load.stdout.readline()
    await load.wait()
    return int(said) if said.strip() else AT_ONCE


def in_loop(seconds: float) -> list[Row]:
    """The rows: what a feed takes of the time of an event, and of the pass-through.

    The share is told within the run that folds, because the machine may have another speed in the other.
    """
    plain = asyncio.run(_run(seconds, folding=False))
    folding = asyncio.run(_run(seconds, folding=True))
    cuts = quantiles(folding.feeds, n=100)
    cost = mean(folding.feeds)
    correct = plain.wrong == 0 and folding.wrong == 0
    timer = f"the timer alone {mean(plain.feeds):.2f} us"
    whole = f"{plain.cpu:.1f} us cpu an event without folding, {folding.cpu:.1f} with"
    reads = f"{folding.events:,} events in {len(folding.feeds):,} reads"
    figures = (
        ("feed, mean per event", cost, "us", PER_EVENT, timer),
        ("feed, median per event", cuts[49], "us", None, reads),
        ("feed, 99th percentile", cuts[98], "us", WORST, "wall time, so it holds what the system did meanwhile"),
        ("feed, share of the pass-through", 100 * cost / (folding.cpu - cost), "%", SHARE, whole),
    )
    return [
        Row(section="in-loop", name=name, figure=figure, unit=unit, budget=budget, detail=detail, correct=correct)
        for name, figure, unit, budget, detail in figures
    ]
