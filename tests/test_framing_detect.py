"""Detection: the framing is told from the body, never from the cuts."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfold.framing import FRAMINGS, AutoFramer, Raw, detect
from streamfold.framing.aws_eventstream import encode

MESSAGE = encode(b"{}", {":event-type": "a"})
WINDOW = 64 * 1024
LONG = b'{"a":"' + b"x" * 70_000 + b'"}'

CASES: list[tuple[str, bytes, str | None, list[bytes]]] = [
    # claim, body, framing, payloads
    ("an event", b"data: {}\n\n", "sse", [b"{}"]),
    ("a named event", b"event: a\ndata: {}\n\n", "sse", [b"{}"]),
    ("an id first", b"id: 1\ndata: {}\n\n", "sse", [b"{}"]),
    ("a comment first", b": ping\n\ndata: {}\n\n", "sse", [b"{}"]),
    ("blank lines first", b"\r\n\r\n data: {}\r\n\r\ndata: {}\r\n\r\n", "sse", [b"{}"]),
    ("a mark first", b"\xef\xbb\xbfdata: {}\n\n", "sse", [b"{}"]),
    ("some text", b"hello", "sse", []),
    ("a page", b"<html></html>", "sse", []),
    ("lines", b'{"a":1}\n{"a":2}\n', "ndjson", [b'{"a":1}', b'{"a":2}']),
    ("lines with CRLF", b'{"a":1}\r\n{"a":2}\r\n', "ndjson", [b'{"a":1}', b'{"a":2}']),
    ("lines with a mark and blanks", b'\xef\xbb\xbf\n{"a":1} \n', "ndjson", [b'{"a":1} ']),
    ("[DONE] alone", b"[DONE]\n", "ndjson", [b"[DONE]"]),
    ("one object and no line end", b'{"a":1}', "ndjson", [b'{"a":1}']),
    ("one object cut short", b'{"a":1', "json", [b'{"a":1']),
    ("a pretty document", b'{\n  "a": 1\n}\n', "json", [b'{\n  "a": 1\n}']),
    ("a less pretty document", b'{"a":\n1}\n', "json", [b'{"a":\n1}']),
    ("an array", b'[{"a":1},\n{"a":2}]', "json", [b'{"a":1}', b'{"a":2}']),
    ("an array after blanks", b"\n [{}]", "json", [b"{}"]),
    ("an array that begins like [DONE]", b"[D", "json", []),
    ("an empty array", b"[]", "json", []),
    ("half an array", b"[", "json", []),
    ("a long object", LONG, "json", [LONG]),
    ("a long line", LONG + b"\n{}\n", "json", [LONG, b"{}"]),
    ("messages", MESSAGE * 2, "aws-eventstream", [b"{}", b"{}"]),
    ("half a prelude", MESSAGE[:7], "aws-eventstream", []),
    ("a damaged first message", MESSAGE[:9] + b"?" + MESSAGE[10:] + MESSAGE, "aws-eventstream", [b"{}"]),
    ("nothing", b"", None, []),
    ("blanks", b" \r\n\t", None, []),
    ("many blanks", b" " * (WINDOW + 1), "sse", []),
    ("an object after many blanks", b" " * 100 + b"{}\n{}\n", "ndjson", [b" " * 100 + b"{}", b"{}"]),
]


def bytewise(body: bytes) -> list[bytes]:
    return [body[i : i + 1] for i in range(len(body))]


def cut(body: bytes, places: Iterable[int]) -> Iterator[bytes]:
    for start, end in itertools.pairwise([0, *sorted(places), len(body)]):
        yield body[start:end]


def answer(parts: Iterable[bytes]) -> tuple[Any, ...]:
    """The framing that was found, and everything that its framer says."""
    framer = AutoFramer()
    payloads: list[bytes] = []
    names: list[str | None] = []
    for part in parts:
        more, more_names = framer.feed(part)
        payloads += more
        names += more_names or [None] * len(more)
    more, more_names = framer.close()
    payloads += more
    names += more_names or [None] * len(more)
    assert framer.pending == 0
    return framer.framing, payloads, names, framer.anomalies, framer.malformed, framer.dropped_bytes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_every_case_is_found_however_it_is_cut(case: Any) -> None:
    """A body has the framing of the table and gives its frames whole, byte by byte, and in two parts."""
    _, body, framing, payloads = case
    expected = answer([body])

    assert (framing, payloads) == expected[:2]
    assert expected == answer(bytewise(body))
    for place in range(0, len(body), 1 + len(body) // 50):
        assert expected == answer([body[:place], b"", body[place:]])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_decision_once_made_is_not_changed_by_more_bytes(case: Any) -> None:
    """Every prefix of a body is either undecided or decided as the body is."""
    _, body, framing, _ = case
    for place in range(0, len(body), 1 + len(body) // 200):
        assert detect(body[:place]) in (None, framing)

    assert framing == detect(body, at_end=True)


@pytest.mark.parametrize(
    "body", [b"\x00" * 12, b"\x00\x00\x00\x01" + b"\xff" * 20, b"\xff\xfb\x90", b"\x01", b"\x80abc"]
)
def test_what_no_text_begins_with_is_raw(body: bytes) -> None:
    """Binary that is no message (speech) is handed on, not searched for lines."""
    assert detect(body) == "raw"
    assert ([body], None) == AutoFramer().feed(body)


PIECES = [
    b"data: {}\n\n", b"event: a\n", b"{", b"}", b"{}", b'{"a":1}\n', b"[", b"]", b"[DONE]", b"[D", b"\n", b"\r", b" ",
    b"\xef\xbb\xbf", b"\xef", b":", b"x", MESSAGE, b"\0\0",
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join), st.data())
def test_no_cut_changes_anything(body: bytes, data: st.DataObject) -> None:
    """Any body, cut anywhere, has one framing and one set of frames."""
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    expected = answer([body])
    if expected[0] == "raw":
        assert answer(cut(body, places))[0] == "raw"
        return

    assert expected == answer(cut(body, places))
    assert expected == answer(bytewise(body))


def test_names_survive_the_wait() -> None:
    """Frames that the decision releases and those that close releases come with their names, in one list."""
    framer = AutoFramer()

    assert framer.feed(b"event: a\ndata: 1\n\nda") == ([b"1"], ["a"])
    assert framer.framing == "sse"
    assert framer.inner is not None
    assert framer.inner.feed(b"ta: 2\n\n") == ([b"2"], None)


def test_before_the_decision_there_is_nothing_to_report() -> None:
    """An undecided framer counts what it holds, and no faults."""
    framer = AutoFramer(max_frame_bytes=4)

    assert framer.feed(memoryview(b'{"a":')) == ([], None)
    assert (5, 0, 0, set()) == (framer.pending, framer.malformed, framer.dropped_bytes, framer.anomalies)
    assert framer.inner is None

    assert framer.feed(bytearray(b"1}\n")) == ([], None)
    assert (0, 1, 7, {"oversized_event"}) == (framer.pending, framer.malformed, framer.dropped_bytes, framer.anomalies)


def test_a_long_line_does_not_wait_for_its_end() -> None:
    """What is held back before the decision is bounded, also when it comes in crumbs."""
    framer = AutoFramer(max_frame_bytes=1000)
    framer.feed(b'{"a":"')
    for _ in range(WINDOW // 64):
        framer.feed(b"x" * 64)

    assert framer.framing == "json"
    assert framer.pending <= 1000


def test_the_limit_is_handed_on() -> None:
    """Every framing takes the limit, and gives an empty answer to an empty body."""
    for make in FRAMINGS.values():
        framer = make(max_frame_bytes=10)

        assert framer.feed(b"") == ([], None)
        assert framer.close() == ([], None)


def test_raw_hands_on_what_it_is_given() -> None:
    """Every read is a frame, and an empty read is none."""
    framer = Raw()

    assert framer.feed(bytearray(b"\x00data: 1\n\n")) == ([b"\x00data: 1\n\n"], None)
    assert framer.feed(b"") == ([], None)
    assert (0, 0, 0, set()) == (framer.pending, framer.malformed, framer.dropped_bytes, framer.anomalies)
    assert framer.close() == ([], None)
