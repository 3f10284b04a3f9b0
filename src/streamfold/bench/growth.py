"""Growth: whether a long stream costs more per chunk than a short one, and what reading it costs at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, Final

import msgspec

from streamfold.bench.measure import quiet, sample
from streamfold.bench.report import Row, skipped
from streamfold.bench.speed import answer_of, cut
from streamfold.bench.workloads import Workload, anthropic, chat_text, chat_tools, events_of, responses
from streamfold.stream import StreamAccumulator, fold
from streamfold.types import JSON

__all__ = ["LINEAR", "ends", "growth", "large"]

LINEAR: Final = 2.2
"""What twice the length may cost."""

FINISH: Final = {100: 10.0, 1000: 30.0}
"""Microseconds that ending a stream of so many chunks may take."""

IMAGE: Final = 5 * 1024 * 1024
CRUMB: Final = 1024

SERIES: Final[dict[str, Callable[[int], Workload]]] = {
    "chat text": chat_text,
    "chat text, padded": lambda chunks: chat_text(chunks, padded=True),
    "chat, one tool call": lambda chunks: chat_tools(1, chunks),
    "responses text": responses,
    "anthropic, one tool call": lambda chunks: anthropic(1, 1, chunks),
}


def _feed(format: str, reads: list[bytes]) -> StreamAccumulator:
    stream = StreamAccumulator(format)
    for data in reads:
        stream.feed(data)
    return stream


def _doubling(half: Callable[[], object], whole: Callable[[], object], rounds: int) -> float:
    """time(2n)/time(n): the two take turns, and the median of the pairs counts."""
    return median(1 / (sample(half).cpu / sample(whole).cpu) for _ in range(rounds))


def growth(chunks: int, *, rounds: int) -> list[Row]:
    """Nanoseconds a chunk at lengths up to `chunks`, one event a read, and what the last doubling cost."""
    return [_growth_of(name, make, chunks, rounds) for name, make in SERIES.items()]


def _growth_of(name: str, make: Callable[[int], Workload], chunks: int, rounds: int) -> Row:
    title = f"{name}: {chunks:,} chunks over half as many"
    try:
        done = fold(make(100).body, make(100).format)
    except ImportError as problem:
        return skipped("growth", title, str(problem))
    lengths = [length for length in (1000, 10_000, 100_000) if length <= chunks]
    costs: dict[int, float] = {}
    runs = {}
    correct = answer_of(done) == make(100).answer
    for length in sorted({*lengths, chunks // 2}):
        load = make(length)
        reads = events_of(load.body)
        run = _finished(load.format, reads)
        correct = correct and answer_of(run()) == load.answer
        with quiet():
            costs[length] = min(sample(run).cpu for _ in range(rounds)) / len(reads)
        runs[length] = run
    with quiet():
        ratio = _doubling(runs[chunks // 2], runs[chunks], rounds)
    detail = "  ".join(f"{cost:,.0f} ns at {length:,}" for length, cost in costs.items())
    extra: JSON = {f"ns_per_chunk_{length}": cost for length, cost in costs.items()}
    return Row(
        section="growth", name=title, figure=ratio, unit="x", budget=LINEAR, detail=detail, correct=correct, extra=extra
    )


def _finished(format: str, reads: list[bytes]) -> Callable[[], Any]:
    return lambda: _feed(format, reads).finish()


# Large values


def large(*, rounds: int) -> list[Row]:
    """A picture of 5 MiB in base64: as one event in small reads, and as many small deltas."""
    return [
        _large_row("5 MiB image in one event, 1-KiB reads", _image_reads, _image_of, rounds),
        _large_row("5 MiB audio in 1-KiB deltas", _audio_reads, _audio_of, rounds),
    ]


def _large_row(
    name: str, make: Callable[[int], list[bytes]], read: Callable[[JSON], str], rounds: int, whole: int = IMAGE
) -> Row:
    half, full, double = (_finished("openai-chat", make(size)) for size in (whole // 2, whole, 2 * whole))
    # A larger one goes first: until it has seen one as large, glibc takes such memory from the system for each use, and
    # page faults of the longer run would pass for growth of ours.
    correct = read(double().data.response) == "A" * (2 * whole)
    with quiet():
        ratio = _doubling(half, full, rounds)
        cost = min(sample(full).cpu for _ in range(rounds)) / 1e6
    detail = f"{cost:.1f} ms, {whole / cost / 1e3:,.0f} MB/s"
    return Row(
        section="large",
        name=name,
        figure=ratio,
        unit="x",
        budget=LINEAR,
        detail=detail,
        correct=correct,
        extra={"ms": cost},
    )


def _chunk(delta: JSON, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _image_reads(size: int) -> list[bytes]:
    images = [{"type": "image_url", "index": 0, "image_url": {"url": "A" * size}}]
    body = _chunk({"role": "assistant", "images": images}) + _chunk({}, "stop") + b"data: [DONE]\n\n"
    return cut(body, CRUMB)


def _image_of(response: JSON) -> str:
    return str(response["choices"][0]["message"]["images"][0]["image_url"]["url"])


def _audio_reads(size: int) -> list[bytes]:
    deltas = [_chunk({"audio": {"id": "audio_1", "data": "A" * CRUMB}}) for _ in range(size // CRUMB)]
    return [*deltas, _chunk({}, "stop"), b"data: [DONE]\n\n"]


def _audio_of(response: JSON) -> str:
    return str(response["choices"][0]["message"]["audio"]["data"])


# Reading a stream


def ends(*, rounds: int) -> list[Row]:
    """What ending a stream costs, and what looking at it without ending it does."""
    with quiet():
        return list(_ends(rounds))


def _ends(rounds: int) -> Iterator[Row]:
    for chunks, budget in FINISH.items():
        load = chat_text(chunks)
        streams = [_feed(load.format, [load.body]) for _ in range(2 * rounds)]
        correct = answer_of(_feed(load.format, [load.body]).finish()) == load.answer
        looked = [sample(stream.snapshot).cpu / 1000 for stream in streams[:rounds]]
        ended = [sample(stream.finish).cpu / 1000 for stream in streams[rounds:]]
        for name, costs, limit in (("finish", ended, budget), ("snapshot", looked, None)):
            yield Row(
                section="ends",
                name=f"{name} of {chunks:,} chunks",
                figure=median(costs),
                unit="us",
                budget=limit,
                detail=f"least {min(costs):.1f} us",
                correct=correct,
            )
