"""Speed: one stream at a time, each way in, as a multiple of the floor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from streamfold.bench.floor import FLOORS, Floor
from streamfold.bench.measure import Timing, race
from streamfold.bench.peers import PEERS, MissingError, Way
from streamfold.bench.report import Row, skipped
from streamfold.bench.workloads import Answer, Workload, events_of
from streamfold.framing.sse import SSE
from streamfold.processed import ProcessedStreamResponse
from streamfold.stream import StreamAccumulator

__all__ = ["FROM_BYTES", "FROM_DICTS", "FROM_PAYLOADS", "answer_of", "cut", "speed"]

FROM_BYTES: Final = 2.0
FROM_PAYLOADS: Final = 1.4
FROM_DICTS: Final = 0.5

Entry = tuple[str, float | None, Way | str]
"""A row to come: its name, its budget, and the way or the reason why there is none."""


def cut(body: bytes, size: int) -> list[bytes]:
    """A body in reads of one size."""
    return [body[at : at + size] for at in range(0, len(body), size)]


def answer_of(done: ProcessedStreamResponse) -> Answer:
    """What our own fold says, read from the native response."""
    assert done.data is not None
    assert done.format is not None
    if done.data.status != "success" or done.data.integrity.anomalies:
        raise AssertionError(f"{done.data.status} {done.data.integrity.anomalies}")
    return READ[done.format](done.data.response or {})


def _read_chat(response: dict[str, Any]) -> Answer:
    message = response["choices"][0]["message"]
    calls = message.get("tool_calls") or ()
    arguments = (msgspec.json.decode(call["function"]["arguments"]) for call in calls)
    return Answer(message.get("content") or "", "", tuple(arguments))


def _read_response(response: dict[str, Any]) -> Answer:
    parts = [part for item in response["output"] for part in item["content"]]
    return Answer("".join(part["text"] for part in parts), "", ())


def _read_message(response: dict[str, Any]) -> Answer:
    blocks = response["content"]
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    thoughts = "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    return Answer(text, thoughts, tuple(block["input"] for block in blocks if block["type"] == "tool_use"))


READ: Final = {"openai-chat": _read_chat, "openai-responses": _read_response, "anthropic-messages": _read_message}


def _fed(load: Workload, reads: list[bytes]) -> Way:
    def run() -> ProcessedStreamResponse:
        stream = StreamAccumulator(load.format)
        for data in reads:
            stream.feed(data)
        return stream.finish()

    return Way(run, answer_of)


def _added(load: Workload, chunks: list[Any]) -> Way:
    def run() -> ProcessedStreamResponse:
        stream = StreamAccumulator(load.format)
        for chunk in chunks:
            stream.add(chunk)
        return stream.finish()

    return Way(run, answer_of)


def _added_at_once(load: Workload) -> Way:
    def run() -> ProcessedStreamResponse:
        stream = StreamAccumulator(load.format)
        stream.add_many(load.frames)
        return stream.finish()

    return Way(run, answer_of)


def _framed(load: Workload, reads: list[bytes]) -> Way:
    """Only the framing, to see its share."""

    def run() -> int:
        framer = SSE()
        count = sum(len(framer.feed(data)[0]) for data in reads)
        return count + len(framer.close()[0])

    return Way(run, lambda count: load.answer if count == len(load.frames) else Answer("", "", ()))


def _ours(load: Workload) -> Iterator[Entry]:
    """Each way into our own fold."""
    events = events_of(load.body)
    decoded: list[Any] = [msgspec.json.decode(payload) for payload in load.payloads]
    yield "SSE bytes, whole body", FROM_BYTES, _fed(load, [load.body])
    yield "SSE bytes, 64 KiB a read", FROM_BYTES, _fed(load, cut(load.body, 65536))
    yield "SSE bytes, 4 KiB a read", FROM_BYTES, _fed(load, cut(load.body, 4096))
    yield "SSE bytes, one event a read", FROM_BYTES, _fed(load, events)
    yield "payloads, all at once", FROM_PAYLOADS, _added_at_once(load)
    yield "payloads, one by one", FROM_PAYLOADS, _added(load, load.frames)
    yield "decoded dicts, one by one", FROM_DICTS, _added(load, [*decoded, *load.frames[len(decoded) :]])
    yield "SSE framing alone, whole body", None, _framed(load, [load.body])
    yield "SSE framing alone, one event a read", None, _framed(load, events)


def _peers(load: Workload) -> Iterator[Entry]:
    """Each peer that knows the format."""
    for peer in PEERS:
        if load.format in peer.formats:
            try:
                yield peer.name, None, peer.way(load)
            except MissingError as reason:
                yield peer.name, None, str(reason)


def speed(load: Workload, *, rounds: int, patience: float) -> list[Row]:
    """Every way for one stream, in the order of the table. A way that answers wrong is not timed."""
    floor = FLOORS[load.format]
    folded = Way(lambda: floor.answer(load.payloads), lambda answer: answer)
    entries: list[Entry] = [("floor, and folded by hand", None, folded), *_ours(load), *_peers(load)]
    faults = {name: _fault(way, load.answer) for name, _, way in entries if isinstance(way, Way)}
    runs = {name: way.run for name, _, way in entries if isinstance(way, Way) and faults[name] is None}
    timings = race(lambda: floor.read(load.payloads), runs, rounds=rounds, patience=patience)
    rows = [_floor_row(load, floor, rounds)]
    for name, budget, way in entries:
        if isinstance(way, str):
            rows.append(skipped(load.name, name, way))
        elif (fault := faults[name]) is not None:
            rows.append(Row(section=load.name, name=name, detail=fault, correct=False))
        else:
            rows.append(_row(load, name, budget, timings[name]))
    return rows


def _fault(way: Way, meant: Answer) -> str | None:
    """What is wrong with the answer of a way, if anything is."""
    try:
        answer = way.answer(way.run())
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    wrong = [field for field in Answer._fields if getattr(answer, field) != getattr(meant, field)]
    return f"wrong {', '.join(wrong)}" if wrong else None


def _floor_row(load: Workload, floor: Floor, rounds: int) -> Row:
    read = "floor: every payload into typed Structs"
    timing = race(lambda: None, {read: lambda: floor.read(load.payloads)}, rounds=rounds, patience=1.0)[read]
    return _row(load, read, None, timing._replace(ratio=1.0, least=1.0))


def _row(load: Workload, name: str, budget: float | None, timing: Timing) -> Row:
    events = len(load.payloads)
    cpu, wall = timing.cpu / events / 1000, timing.wall / events / 1000
    detail = (
        f"{cpu:8.3f} us/event cpu  {wall:8.3f} wall  least {timing.least:.2f}  {timing.kept}/{timing.taken} samples"
    )
    extra = {"cpu_us_per_event": cpu, "wall_us_per_event": wall, "least": timing.least, "samples": timing.kept}
    return Row(
        section=load.name, name=name, figure=timing.ratio, unit="x", budget=budget, detail=detail, extra=dict(extra)
    )
