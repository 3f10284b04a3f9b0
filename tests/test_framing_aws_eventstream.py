"""AWS event stream: messages as botocore reads them, and no damage that stops the framer."""

import itertools
import json
import struct
import uuid
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfold.framing import AWSEventStream
from streamfold.framing.aws_eventstream import decode_headers, encode

BIG = 1 << 30
EVENT = {":message-type": "event", ":event-type": "contentBlockDelta", ":content-type": "application/json"}
FIRST = encode(b'{"n":1}', EVENT)
SECOND = encode(b'{"n":22}', EVENT)
THIRD = encode(b'{"n":333}', {":message-type": "event", ":event-type": "messageStop"})
BODY = FIRST + SECOND + THIRD


def answer(parts: Iterable[bytes], limit: int = BIG) -> tuple[list[tuple[bytes, str | None]], set[str], int, int]:
    """Everything that the framer says about a body fed in these parts."""
    framer = AWSEventStream(max_frame_bytes=limit)
    frames: list[tuple[bytes, str | None]] = []
    for part in parts:
        payloads, names = framer.feed(part)
        frames += zip(payloads, names or [None] * len(payloads), strict=True)
    assert framer.close() == ([], None)
    assert framer.pending == 0
    return frames, framer.anomalies, framer.malformed, framer.dropped_bytes


def cut(body: bytes, places: Iterable[int]) -> Iterator[bytes]:
    for start, end in itertools.pairwise([0, *sorted(places), len(body)]):
        yield body[start:end]


def bytewise(body: bytes) -> list[bytes]:
    return [body[i : i + 1] for i in range(len(body))]


def flipped(body: bytes, at: int, mask: int = 0xFF) -> bytes:
    return body[:at] + bytes([body[at] ^ mask]) + body[at + 1 :]


def raw_message(headers: bytes, payload: bytes = b"{}") -> bytes:
    """A message with right checksums around any header bytes."""
    lengths = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


ONE = (b'{"n":1}', "contentBlockDelta")
TWO = (b'{"n":22}', "contentBlockDelta")
THREE = (b'{"n":333}', "messageStop")
EXCEPTION = {":message-type": "exception", ":exception-type": "throttlingException"}
ERROR = {":message-type": "error", ":error-code": "InternalError", ":error-message": "so »sorry«"}
BAD_HEADERS = raw_message(b"\x01a\x63")
IMPOSSIBLE = struct.pack(">II", 8, 0)
LYING = struct.pack(">II", 20, 10)

CASES: list[tuple[str, bytes, int, list[tuple[bytes, str | None]], set[str], int, int]] = [
    # claim, body, limit, frames, anomalies, malformed, dropped bytes
    ("nothing", b"", BIG, [], set(), 0, 0),
    ("three", BODY, BIG, [ONE, TWO, THREE], set(), 0, 0),
    ("an exception has its type's name", encode(b"{}", EXCEPTION), BIG, [(b"{}", "throttlingException")], set(), 0, 0),
    ("an error becomes a payload", encode(b"", ERROR), BIG,
     [('{"message": "so »sorry«"}'.encode(), "InternalError")], set(), 0, 0),
    ("an error may say nothing", encode(b"", {":message-type": "error"}), BIG,
     [(b'{"message": null}', "error")], set(), 0, 0),
    ("no message type is an event", encode(b"1", {":event-type": "a"}), BIG, [(b"1", "a")], set(), 0, 0),
    ("no headers, no name", encode(b"1", {}) + FIRST + encode(b"2", {}), BIG,
     [(b"1", None), ONE, (b"2", None)], set(), 0, 0),
    ("initial-response is handed on", encode(b"{}", {":event-type": "initial-response"}), BIG,
     [(b"{}", "initial-response")], set(), 0, 0),
    ("no payload", encode(b"", EVENT), BIG, [(b"", "contentBlockDelta")], set(), 0, 0),
    ("a damaged payload", flipped(BODY, len(FIRST) - 6), BIG, [TWO, THREE], {"corrupt_frame"}, 1, len(FIRST)),
    ("a damaged length", flipped(BODY, len(FIRST) + 3), BIG, [ONE, THREE], {"corrupt_frame"}, 1, len(SECOND)),
    ("a damaged last length", flipped(BODY, len(FIRST + SECOND)), BIG, [ONE, TWO], {"corrupt_frame"}, 1, len(THIRD)),
    ("two damaged lengths in a row", flipped(flipped(BODY, 0), len(FIRST)), BIG,
     [THREE], {"corrupt_frame"}, 1, len(FIRST + SECOND)),
    ("bytes between", FIRST + b"hello" + SECOND, BIG, [ONE, TWO], {"corrupt_frame"}, 1, 5),
    ("an impossible total", FIRST + IMPOSSIBLE + struct.pack(">I", zlib.crc32(IMPOSSIBLE)) + SECOND, BIG,
     [ONE, TWO], {"corrupt_frame"}, 1, 12),
    ("headers longer than the message", LYING + struct.pack(">I", zlib.crc32(LYING)) + SECOND, BIG,
     [TWO], {"corrupt_frame"}, 1, 12),
    ("a header type that is none", BAD_HEADERS + FIRST, BIG, [ONE], {"corrupt_frame"}, 1, len(BAD_HEADERS)),
    ("cut in the payload", BODY[:-7], BIG, [ONE, TWO], {"truncated_frame"}, 0, len(THIRD) - 7),
    ("cut in the prelude", FIRST + SECOND[:5], BIG, [ONE], {"truncated_frame"}, 0, 5),
    ("text is no message", b"<html>not found</html>", BIG, [], {"corrupt_frame"}, 1, 22),
    ("too long", FIRST + SECOND + FIRST, len(FIRST), [ONE, ONE], {"oversized_event"}, 1, len(SECOND)),
    ("too long and cut", FIRST + SECOND[:-3], len(FIRST), [ONE], {"oversized_event"}, 1, len(SECOND) - 3),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_every_case_is_answered_alike_however_it_is_cut(case: Any) -> None:
    """A body gives the frames of the table whole, byte by byte, and in two parts."""
    _, body, limit, *expected = case

    assert tuple(expected) == answer([body], limit)
    assert tuple(expected) == answer(bytewise(body), limit)
    for place in range(len(body)):
        assert tuple(expected) == answer([body[:place], b"", body[place:]], limit)


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80])
def test_no_damaged_byte_raises_or_loses_another_message(mask: int) -> None:
    """Whichever byte of three messages is damaged: the other two arrive, and every lost byte is counted."""
    places = range(len(BODY))
    ends = [len(FIRST), len(FIRST + SECOND), len(BODY)]
    sizes = [len(FIRST), len(SECOND), len(THIRD)]
    for at in places:
        hit = next(i for i, end in enumerate(ends) if at < end)
        expected = [frame for i, frame in enumerate([ONE, TWO, THREE]) if i != hit]
        body = flipped(BODY, at, mask)

        assert (expected, {"corrupt_frame"}, 1, sizes[hit]) == answer([body])
        assert answer([body]) == answer(bytewise(body))


MESSAGES = st.builds(
    encode,
    st.binary(max_size=40),
    st.sampled_from([EVENT, EXCEPTION, ERROR, {}, {":event-type": "a"}, {"x": "y" * 300}]),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(MESSAGES | st.binary(max_size=20), max_size=8).map(b"".join), st.sampled_from([BIG, 60, 130]), st.data()
)
def test_no_cut_changes_anything(body: bytes, limit: int, data: st.DataObject) -> None:
    """Any mixture of messages and rubbish, cut anywhere, gives what the whole body gives."""
    if body and data.draw(st.booleans()):
        body = flipped(body, data.draw(st.integers(0, len(body) - 1)))
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    expected = answer([body], limit)

    assert expected == answer(cut(body, places), limit)
    assert expected == answer(bytewise(body), limit)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(max_size=40), st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=9))),
        max_size=6,
    )
)
def test_botocore_agrees(messages: list[tuple[bytes, dict[str, str]]]) -> None:
    """botocore reads from `encode` what went in, and the framer gives the payloads that botocore gives."""
    eventstream = pytest.importorskip("botocore.eventstream")
    body = b"".join(encode(payload, headers) for payload, headers in messages)
    buffer = eventstream.EventStreamBuffer()
    buffer.add_data(body)
    theirs = [(event.payload, event.headers) for event in buffer]

    assert messages == theirs
    assert [payload for payload, _ in theirs] == [payload for payload, _ in answer([body])[0]]


def test_every_header_type_is_read_as_botocore_reads_it() -> None:
    """All ten value types are decoded, and none of them disturbs the name after it."""
    eventstream = pytest.importorskip("botocore.eventstream")
    unique = uuid.UUID("12345678-1234-5678-1234-567812345678")
    values: list[tuple[int, bytes, Any]] = [
        (0, b"", True),
        (1, b"", False),
        (2, b"\xfe", -2),
        (3, b"\xff\xfe", -2),
        (4, b"\xff\xff\xff\xfe", -2),
        (5, b"\xff" * 7 + b"\xfe", -2),
        (6, b"\x00\x02\x00\xff", b"\x00\xff"),
        (7, b"\x00\x02hi", "hi"),
        (8, struct.pack(">q", 1_700_000_000_123), datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC)),
        (9, unique.bytes, unique),
    ]
    block = b"".join(b"\x02h%d" % kind + bytes([kind]) + value for kind, value, _ in values)
    event = b"\x0b:event-type\x07\x00\x01a"
    buffer = eventstream.EventStreamBuffer()
    buffer.add_data(raw_message(block))
    theirs = next(iter(buffer)).headers
    ours = decode_headers(block)

    assert {f"h{kind}": value for kind, _, value in values} == ours
    # botocore leaves the two last ones raw: milliseconds, and bytes.
    assert theirs == {**ours, "h8": 1_700_000_000_123, "h9": unique.bytes}
    assert ([(b"{}", "a")], set(), 0, 0) == answer([raw_message(block + event)])


def test_a_moment_beyond_the_calendar_stays_a_number() -> None:
    """A timestamp that Python cannot hold does not raise."""
    assert decode_headers(b"\x01t\x08" + struct.pack(">q", 2**62)) == {"t": 2**62}


@pytest.mark.parametrize(
    "block", [b"\x05ab", b"\x01a", b"\x01a\x07\x00", b"\x01a\x07\x00\x05x", b"\x01a\x09abc", b"\x01a\x0a"]
)
def test_headers_that_cannot_be_are_refused(block: bytes) -> None:
    """Every length that points outside of the headers, and every unknown type, is a ValueError."""
    with pytest.raises(ValueError, match="header"):
        decode_headers(block)


@pytest.mark.parametrize("headers", [{"n" * 256: "v"}, {"n": "v" * 32768}])
def test_headers_that_do_not_fit_are_not_written(headers: dict[str, str]) -> None:
    """`encode` refuses what the format has no room for."""
    with pytest.raises(ValueError, match="does not fit"):
        encode(b"", headers)


def test_an_error_message_is_json() -> None:
    """Quotes and line ends in an error message survive."""
    frames, *_ = answer([encode(b"", {":message-type": "error", ":error-code": "E", ":error-message": 'a "b"\n'})])

    assert json.loads(frames[0][0]) == {"message": 'a "b"\n'}
