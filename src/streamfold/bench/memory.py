"""Memory: what many live streams hold, and whether folding makes the garbage collector run.

Chunks come as fresh bytes, turn by turn over all streams, as sockets bring them: that is what shows a fold that keeps
more of a chunk than its text.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

from streamfold.bench.report import Row, skipped
from streamfold.bench.speed import answer_of
from streamfold.bench.workloads import Workload, anthropic, chat_text, chat_tools, events_of, responses
from streamfold.stream import StreamAccumulator, fold

__all__ = ["collections", "memory"]

PER_STREAM: Final = 3 * 1024
PER_CROWD: Final = 45.0 / 10_000
"""Megabytes of process memory for one of ten thousand streams, text included."""
CHUNKS: Final = 100
OPENING: Final = 12
"""Events after which every kind of stream has opened what its text goes into."""

KINDS: Final[dict[str, Callable[[], Workload]]] = {
    "chat text": lambda: chat_text(CHUNKS),
    "chat text, padded": lambda: chat_text(CHUNKS, padded=True),
    "chat tools": lambda: chat_tools(1, CHUNKS),
    "responses text": lambda: responses(CHUNKS),
    "anthropic text": lambda: anthropic(1, CHUNKS - 8, 1),
}


def _live_part(load: Workload) -> list[bytes]:
    """The events of a stream without its end: what a live one has seen."""
    events = events_of(load.body)
    return events[: min(len(events) - 3, CHUNKS)]


def _fresh(event: bytes, identity: bytes, number: int) -> bytes:
    """A copy of the event, with an id of its own."""
    return bytes(bytearray(event.replace(identity, b"%0*d" % (len(identity), number))))


def _crowd(load: Workload, size: int) -> list[StreamAccumulator]:
    """`size` streams of one kind, fed by turns."""
    streams = [StreamAccumulator(load.format) for _ in range(size)]
    for event in _live_part(load):
        for number, stream in enumerate(streams):
            stream.feed(_fresh(event, load.identity, number))
    return streams


def memory(live: int, crowd: int) -> list[Row]:
    """Bytes per live stream beside its text, kind by kind; and the weight of a process full of streams."""
    return [*(_held(name, make, live) for name, make in KINDS.items()), _weighed(crowd)]


def _held(name: str, make: Callable[[], Workload], live: int) -> Row:
    load = make()
    title = f"one of {live:,} live streams of {CHUNKS} chunks, {name}"
    try:
        correct = answer_of(fold(load.body, load.format)) == load.answer
    except ImportError as problem:
        return skipped("memory", title, str(problem))
    _crowd(load, 2)  # what is made once is made now
    gc.collect()
    tracemalloc.start()
    try:
        streams = _crowd(load, live)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] / live
    finally:
        tracemalloc.stop()
    text = _text_of(streams[0])
    return Row(
        section="memory",
        name=title,
        figure=held - text,
        unit="B",
        budget=PER_STREAM,
        detail=f"beside {text} B of text",
        correct=correct,
    )


def _text_of(stream: StreamAccumulator) -> int:
    """Bytes of text that the stream has gathered."""
    return _letters(stream.snapshot().response or {})


def _letters(value: Any, key: str = "") -> int:
    if isinstance(value, dict):
        return sum(_letters(item, name) for name, item in value.items())
    if isinstance(value, list):
        return sum(_letters(item, key) for item in value)
    grows = key in ("content", "arguments", "text", "thinking", "partial_json")
    return len(value.encode()) if isinstance(value, str) and grows else 0


def _weighed(crowd: int) -> Row:
    """The memory of a process of its own, since one that has run a while hides new memory in old."""
    command = [sys.executable, "-c", f"from streamfold.bench.memory import weigh; weigh({crowd})"]
    title = f"process with {crowd:,} live streams of {CHUNKS} chunks, all kinds"
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if ran.returncode != 0:
        return skipped("memory", title, ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else "no answer")
    megabytes = float(ran.stdout)
    detail = f"{megabytes * 1e6 / crowd:,.0f} B a stream"
    return Row(
        section="memory", name=title, figure=megabytes, unit="MB", budget=PER_CROWD * crowd, detail=detail, extra={}
    )


def weigh(crowd: int) -> None:
    """In a process of its own: prints the megabytes that a crowd adds to it."""
    loads = [load for load in (make() for make in KINDS.values()) if _is_known(load.format)]
    for load in loads:
        _crowd(load, 2)
    gc.collect()
    before = _resident()
    streams = [_crowd(load, crowd // len(loads)) for load in loads]
    print((_resident() - before) / 1e6)
    del streams


def _is_known(format: str) -> bool:
    try:
        StreamAccumulator(format)
    except ImportError:
        return False
    return True


def _resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# The garbage collector


def collections(chunks: int) -> list[Row]:
    """How often the collector ran because of what folding left behind. Opening streams is not counted."""
    return [_collected(name, make, chunks) for name, make in KINDS.items()]


def _collected(name: str, make: Callable[[], Workload], chunks: int) -> Row:
    load = make()
    live = max(1, chunks // CHUNKS)
    title = f"collections in {chunks:,} chunks over {live:,} streams, {name}"
    try:
        correct = answer_of(fold(load.body, load.format)) == load.answer
    except ImportError as problem:
        return skipped("gc", title, str(problem))
    events = _live_part(load)
    opening, rest = events[:OPENING], events[OPENING:]
    streams = [StreamAccumulator(load.format) for _ in range(live)]
    for event in opening:
        for stream in streams:
            stream.feed(event)
    counted = _count_collections(streams, rest)
    return Row(section="gc", name=title, figure=float(counted), budget=0.0, correct=correct)


def _count_collections(streams: list[StreamAccumulator], events: list[bytes]) -> int:
    phases: list[str] = []

    def note(phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            phases.append(phase)

    gc.collect()
    gc.callbacks.append(note)
    try:
        for event in events:
            for stream in streams:
                stream.feed(event)
    finally:
        gc.callbacks.remove(note)
    return len(phases)
