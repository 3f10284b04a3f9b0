"""NDJSON: a payload a line, the same for every cut."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfold.framing import NDJSON

BIG = 1 << 30


def answer(parts: Iterable[bytes], limit: int = BIG) -> tuple[list[bytes], set[str], int, int]:
    """Everything that the framer says about a body fed in these parts."""
    framer = NDJSON(max_frame_bytes=limit)
    payloads: list[bytes] = []
    for part in parts:
        more, names = framer.feed(part)
        assert names is None
        payloads += more
    payloads += framer.close()[0]
    assert framer.pending == 0
    return payloads, framer.anomalies, framer.malformed, framer.dropped_bytes


def cut(body: bytes, places: Iterable[int]) -> Iterator[bytes]:
    for start, end in itertools.pairwise([0, *sorted(places), len(body)]):
        yield body[start:end]


def bytewise(body: bytes) -> list[bytes]:
    return [body[i : i + 1] for i in range(len(body))]


CASES: list[tuple[str, bytes, int, list[bytes], set[str], int, int]] = [
    # claim, body, limit, payloads, anomalies, malformed, dropped bytes
    ("nothing", b"", BIG, [], set(), 0, 0),
    ("lines", b'{"a":1}\n{"a":2}\n', BIG, [b'{"a":1}', b'{"a":2}'], set(), 0, 0),
    ("CRLF and CR", b"{}\r\n[]\r1\r\n", BIG, [b"{}", b"[]", b"1"], set(), 0, 0),
    ("blank lines", b"\n\n{}\n \t \n\r\n{}\n\n", BIG, [b"{}", b"{}"], set(), 0, 0),
    ("a byte order mark", b"\xef\xbb\xbf{}\n", BIG, [b"{}"], set(), 0, 0),
    ("half a mark is a line", b"\xef\xbb", BIG, [b"\xef\xbb"], {"unterminated_event"}, 0, 0),
    ("a whole last line", b"{}\n{}", BIG, [b"{}", b"{}"], set(), 0, 0),
    ("a whole last line and spaces", b'{}\n{"a":[]} ', BIG, [b"{}", b'{"a":[]} '], set(), 0, 0),
    ("a cut last line", b'{}\n{"a": 1', BIG, [b"{}", b'{"a": 1'], {"unterminated_event"}, 0, 0),
    ("[DONE]", b"{}\n[DONE]\n", BIG, [b"{}", b"[DONE]"], set(), 0, 0),
    ("[DONE] at the end", b"{}\n[DONE]", BIG, [b"{}", b"[DONE]"], set(), 0, 0),
    ("broken JSON is for the decoder", b"{\nhello\n", BIG, [b"{", b"hello"], set(), 0, 0),
    ("half SSE", b"data: {}\n\ndata:[]\n{}\ndata:\ndata: [DONE]\n", BIG, [b"{}", b"[]", b"{}", b"[DONE]"], set(), 0, 0),
    ("SSE's other lines are junk", b": x\nevent: a\nid: 1\nretry: 2\n{}\n", BIG, [b"{}"], {"junk_line"}, 0, 24),
    ("the limit fits", b'"345678"\n"345678"', 8, [b'"345678"'] * 2, set(), 0, 0),
    ("one more does not", b'"3456789"\r\n{}\n', 8, [b"{}"], {"oversized_event"}, 1, 9),
    ("in the middle and at the end", b'{}\n"34567890"\n{}\n"3456789"', 8, [b"{}", b"{}"], {"oversized_event"}, 2, 19),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_every_case_is_answered_alike_however_it_is_cut(case: Any) -> None:
    """A body gives the frames of the table whole, byte by byte, and in two parts."""
    _, body, limit, *expected = case

    assert tuple(expected) == answer([body], limit)
    assert tuple(expected) == answer(bytewise(body), limit)
    for place in range(len(body)):
        assert tuple(expected) == answer([body[:place], b"", body[place:]], limit)


PIECES = [
    b"\n", b"\r", b"\r\n", b"{}", b'{"a": 1}\n', b"data: ", b"data:", b":", b"event: a\n", b" ", b"x", b"[DONE]",
    b"\xef\xbb\xbf",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join), st.sampled_from([BIG, 4, 8, 12]), st.data())
def test_no_cut_changes_anything(body: bytes, limit: int, data: st.DataObject) -> None:
    """Any body, cut anywhere, with any limit, gives what the whole body gives."""
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    expected = answer([body], limit)

    assert expected == answer(cut(body, places), limit)
    assert expected == answer(bytewise(body), limit)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"{}", b'{"a": "b"}', b"[1]", b"", b" "]), max_size=20))
def test_lines_come_back(lines: list[bytes]) -> None:
    """What was joined with line ends comes back without the blank lines."""
    expected = [line for line in lines if line.strip()]

    assert (expected, set(), 0, 0) == answer([b"\n".join(lines)])


def test_memory_stays_within_the_limit() -> None:
    """An endless line is not kept, and the next one is read; bytearray and memoryview are taken."""
    framer = NDJSON(max_frame_bytes=1000)
    for _ in range(100):
        framer.feed(bytearray(b"x" * 99))
        assert framer.pending <= 1000

    assert framer.feed(memoryview(b"\n{}\n")) == ([b"{}"], None)
    assert (framer.malformed, framer.dropped_bytes) == (1, 9900)
