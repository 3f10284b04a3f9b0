"""For tests of folds and of what uses them: streams cut every way, shuffled and repeated.

What holds for one way of cutting must hold for all of them; these make the ways.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from streamfold.processed import ProcessedStreamResponse
from streamfold.stream import StreamAccumulator

__all__ = ["VOLATILE", "cuts", "fold_pieces", "shuffled", "sse", "stable"]

T = TypeVar("T")

VOLATILE = (
    "request_id",
    "latency_ms",
    "time_to_first_chunk_ms",
    "time_to_first_token_ms",
    "time_to_first_content_ms",
    "time_per_output_token_ms",
    "max_gap_ms",
    "start_timestamp",
    "end_timestamp",
    "raw_response",
)
"""Fields of a record that differ between two runs over the same stream."""


def sse(events: Iterable[Any], *, named: bool = False, done: bool = False) -> bytes:
    """A server-sent event body of JSON events. `named` adds each event's `type` as its `event:` line."""
    out = []
    for event in events:
        if named:
            out.append(b"event: " + str(event["type"]).encode() + b"\n")
        out.append(b"data: " + msgspec.json.encode(event) + b"\n\n")
    if done:
        out.append(b"data: [DONE]\n\n")
    return b"".join(out)


def cuts(body: bytes, rng: random.Random, *, times: int = 3, bytewise: int = 16_384) -> Iterator[list[bytes]]:
    """Ways of cutting a body: whole, byte by byte (if it is no longer than `bytewise`), and `times` at random."""
    yield [body]
    if len(body) <= bytewise:
        yield [body[at : at + 1] for at in range(len(body))]
    for _ in range(times):
        marks = sorted(rng.randrange(len(body) + 1) for _ in range(min(40, len(body))))
        yield [body[start:end] for start, end in zip([0, *marks], [*marks, len(body)], strict=True)]


def shuffled(chunks: Sequence[T], rng: random.Random, *, repeats: int = 0) -> list[tuple[int, T]]:
    """The chunks with their indexes in another order, `repeats` of them once more."""
    numbered = list(enumerate(chunks))
    numbered += [rng.choice(numbered) for _ in range(repeats)] if numbered else []
    rng.shuffle(numbered)
    return numbered


def fold_pieces(pieces: Iterable[bytes], format: str, **options: Any) -> ProcessedStreamResponse:
    """Feeds the pieces one by one and finishes."""
    stream = StreamAccumulator(format, **options)
    for piece in pieces:
        stream.feed(piece)
    return stream.finish()


def stable(done: ProcessedStreamResponse) -> dict[str, Any]:
    """The record of a finished stream without what differs between two runs."""
    record: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(done.data))
    return {key: value for key, value in record.items() if key not in VOLATILE}
