"""Damaged streams against every framing and every format: nothing may be raised, and nothing may grow without bound.

    python tests/fuzz.py --seconds 60 [--target gemini] [--seed 7]

Each case takes one of our own hand-written streams (tests/fixtures), damages it as networks, proxies and buggy servers
do (bytes flipped, cut, repeated, spliced from another stream; JSON values replaced), cuts it at random and feeds it.
The targets `ways:…` fold streams that repeat themselves in several ways, which all must say the same.
A failure prints the seed and the bytes that show it again.
"""

from __future__ import annotations

import argparse
import functools
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from streamfold import StreamAccumulator, format_names
from streamfold.bench.workloads import anthropic, chat_text, chat_tools, responses
from streamfold.framing import FRAMINGS, AutoFramer, detect

FIXTURES = Path(__file__).parent / "fixtures"

TOKENS = [
    b"null", b"true", b"0", b"-1", b"1e999", b"[]", b"{}", b'""', b'"\\ud83d"', b"[[[[", b"}}}}", b"\r\n\r\n", b"\n\n",
    b"data: ", b"event: error\n", b"[DONE]", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"9" * 21,
    b'"error":{"message":"x"}', b"NaN", b'"index":1e3', b'"index":-5', b'"index":"0"', b"\\u0000", b'\\"', b",", b":",
]  # fmt: skip

PAYLOAD_FACTOR = 60
"""A record may be this many times as long as the bytes that made it (one small field opens a whole message)."""


@functools.cache
def seeds(format: str) -> tuple[bytes, ...]:
    """The streams of a format to start from; those of all formats for one that has none of its own."""
    if format.startswith("ways:"):
        return (STREAMS[format.removeprefix("ways:")]().body,)
    own = [path.read_bytes() for path in sorted((FIXTURES / format).glob("*")) if path.is_file()]
    return tuple(own) or tuple(path.read_bytes() for path in sorted(FIXTURES.glob("*/*")) if path.is_file())


def damaged(body: bytes, other: bytes, rng: random.Random) -> bytes:
    """The body with a few faults."""
    out = bytearray(body)
    for _ in range(rng.choice((0, 1, 1, 2, 4, 12))):
        at = rng.randrange(len(out) + 1)
        to = min(len(out), at + rng.choice((0, 1, 1, 3, 20, 300)))
        match rng.randrange(6):
            case 0:
                out[at:to] = bytes(rng.randrange(256) for _ in range(to - at))
            case 1:
                del out[at:to]
            case 2:
                out[at:at] = out[at:to] * rng.choice((1, 2, 10))
            case 3:
                start = rng.randrange(len(other) + 1)
                out[at:to] = other[start : start + rng.randrange(200)]
            case 4:
                out[at:to] = rng.choice(TOKENS)
            case 5:
                replace_value(out, rng)
    return bytes(out)


def replace_value(out: bytearray, rng: random.Random) -> None:
    """Puts another value behind some colon, so that the JSON stays JSON more often than not."""
    colon = out.find(b":", rng.randrange(len(out) + 1))
    if colon < 0:
        return
    ends = [end for mark in (b",", b"}", b"]") if (end := out.find(mark, colon)) > 0]
    if ends:
        out[colon + 1 : min(ends)] = rng.choice(TOKENS)


def pieces(body: bytes, rng: random.Random) -> list[bytes]:
    """The body cut in a few places."""
    marks = sorted(rng.randrange(len(body) + 1) for _ in range(rng.choice((0, 1, 5, 40))))
    return [body[start:end] for start, end in zip([0, *marks], [*marks, len(body)], strict=True)]


def fuzz_format(format: str, body: bytes, rng: random.Random) -> None:
    """Feeds one damaged stream; raises AssertionError (or whatever got out) if it is not taken as it should be."""
    stream = StreamAccumulator(format, max_bytes=rng.choice((2_000, 1 << 26)), tape_bytes=rng.choice((0, 5_000)))
    for piece in pieces(body, rng):
        stream.feed(piece)
        if rng.random() < 0.1:
            msgspec.json.encode(stream.snapshot())
    done = stream.finish(rng.choice((None, None, "cancelled", "truncated")))
    record = msgspec.json.encode(done.data)
    list(stream.chunks())
    msgspec.json.encode(done.to_response())
    assert "accumulator_error" not in done.data.integrity.anomalies, "a fault of ours"
    assert len(record) <= 20_000 + PAYLOAD_FACTOR * len(body), f"{len(record)} bytes of record from {len(body)}"


def fuzz_framing(name: str, body: bytes, rng: random.Random) -> None:
    """Cuts one damaged body into frames; the frames hold no more than the body."""
    framer = AutoFramer() if name == "auto" else FRAMINGS[name](max_frame_bytes=rng.choice((100, 1 << 20)))
    size = 0
    for piece in pieces(body, rng):
        payloads, names = framer.feed(piece)
        size += sum(map(len, payloads))
        assert names is None or len(names) == len(payloads)
    payloads, _ = framer.close()
    size += sum(map(len, payloads))
    assert framer.pending == 0, "bytes held after the end"
    assert size + framer.dropped_bytes <= 2 * len(body) + 200, f"{size} bytes of frames from {len(body)}"


STREAMS = {
    "responses": lambda: responses(24),
    "chat-text": lambda: chat_text(24),
    "chat-text-padded": lambda: chat_text(24, padded=True),
    "chat-tools": lambda: chat_tools(2, 9),
    "anthropic": lambda: anthropic(4, 20, 6),
    "anthropic-padded": lambda: anthropic(4, 20, 6, padded=True),
}
"""Streams with runs of events that repeat, which have short cuts of their own."""


def fuzz_ways(name: str, body: bytes, rng: random.Random) -> None:
    """Folds one damaged stream in reads of one event, of any size, all at once, and without any short cut."""
    if detect(body, at_end=True) == "raw":
        return  # what is not framed at all is taken read by read
    events = [event + b"\n\n" for event in body.split(b"\n\n")]
    ways = {"one event a read": events, "any reads": pieces(body, rng), "one read": [body], "no short cut": [body]}
    records = {}
    for way, reads in ways.items():
        stream = StreamAccumulator(STREAMS[name]().format, request_id="r", clock=lambda: 1, wall=lambda: 1.0)
        if way == "no short cut":
            stream._fold._credit = 0  # it has given up looking for frames that repeat
        for read in reads[:-1] if way == "one event a read" else reads:
            stream.feed(read)
        if way == "one event a read":
            stream.feed(events[-1].removesuffix(b"\n\n"))
        records[way] = msgspec.json.decode(msgspec.json.encode(stream.finish().data))
        records[way]["integrity"]["anomalies"].sort()  # what came first in one read is not told
    for way, record in records.items():
        other = records["no short cut"]
        assert record == other, f"{way}: {[key for key in record if record[key] != other[key]]}"


def targets() -> dict[str, Callable[[bytes, random.Random], None]]:
    """Every framing and every format."""
    framings = {f"framing:{name}": functools.partial(fuzz_framing, name) for name in [*FRAMINGS, "auto"]}
    formats = {name: functools.partial(fuzz_format, name) for name in [*format_names(), "auto"]}
    ways = {f"ways:{name}": functools.partial(fuzz_ways, name) for name in STREAMS}
    return {**framings, **formats, **ways}


def run(target: str, seconds: float, seed: int) -> int:
    """Runs one target for so long; returns how many cases it took. Raises for the first that fails."""
    take = targets()[target]
    own, every = seeds(target), seeds("")
    cases = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        rng = random.Random(f"{target}/{seed}/{cases}")
        body = damaged(rng.choice(own), rng.choice(every), rng)
        try:
            take(body, rng)
        except Exception:
            print(f"{target}: seed {seed}, case {cases}, body {body!r}", file=sys.stderr)
            raise
        cases += 1
    return cases


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="for each target")
    parser.add_argument("--target", choices=targets(), action="append")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    args = parser.parse_args()
    for target in args.target or targets():
        print(f"{target:24} {run(target, args.seconds, args.seed):8} cases")


if __name__ == "__main__":
    main()
