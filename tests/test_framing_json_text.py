"""JSON texts: values in a row or in an array, the same for every cut."""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfold.framing import NDJSON, JSONText

BIG = 1 << 30


def answer(parts: Iterable[bytes], limit: int = BIG) -> tuple[list[bytes], set[str], int, int]:
    """Everything that the framer says about a body fed in these parts."""
    framer = JSONText(max_frame_bytes=limit)
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


PRETTY = b'{\n  "error": {\n    "code": 429,\n    "status": "a } \\" ] b\\\\"\n  }\n}'
DEEP = b"[" * 30 + b'"]"' + b"]" * 30

CASES: list[tuple[str, bytes, int, list[bytes], set[str], int, int]] = [
    # claim, body, limit, payloads, anomalies, malformed, dropped bytes
    ("nothing", b"", BIG, [], set(), 0, 0),
    ("an array's elements", b'[{"a":1}\n,\r\n{"b":[2]}]\n', BIG, [b'{"a":1}', b'{"b":[2]}'], set(), 0, 0),
    ("an empty array", b" [ ] ", BIG, [], set(), 0, 0),
    ("a pretty document", PRETTY + b"\n", BIG, [PRETTY], set(), 0, 0),
    ("a pretty document in an array", b"[" + PRETTY + b"]", BIG, [PRETTY], set(), 0, 0),
    ("values in a row", b'{}{}\n{} ["x"] "y"', BIG, [b"{}", b"{}", b"{}", b'"x"', b'"y"'], set(), 0, 0),
    ("every kind of value", b'["a",1,-2.5e3,true,false,null,[],[[1]],{}]', BIG,
     [b'"a"', b"1", b"-2.5e3", b"true", b"false", b"null", b"[]", b"[[1]]", b"{}"], set(), 0, 0),
    ("brackets in strings", b'[{"a":"}]{["},"]","\\"","\\\\"]', BIG,
     [b'{"a":"}]{["}', b'"]"', b'"\\""', b'"\\\\"'], set(), 0, 0),
    ("many levels", b"[" + DEEP + b"]", BIG, [DEEP], set(), 0, 0),
    ("a byte order mark", b"\xef\xbb\xbf[{}]", BIG, [b"{}"], set(), 0, 0),
    ("half a mark is junk", b"\xef\xbb", BIG, [], {"junk_line"}, 0, 2),
    ("a number at the end", b"{} 12", BIG, [b"{}", b"12"], set(), 0, 0),
    ("words are junk", b"{} hello nul {} tru", BIG, [b"{}", b"{}"], {"junk_line"}, 0, 11),
    ("the end marker", b'{}{"a":1}[DONE]\n', BIG, [b"{}", b'{"a":1}', b"[DONE]"], set(), 0, 0),
    ("no end marker", b"{}[DOE]{}DONE\n", BIG, [b"{}", b"{}"], {"junk_line"}, 0, 7),
    ("brackets too many", b"{}]}{}", BIG, [b"{}", b"{}"], {"junk_line"}, 0, 2),
    ("brackets of the wrong kind are for the decoder", b'[{"a":1],{}]', BIG, [b'{"a":1]', b"{}"], set(), 0, 0),
    ("cut in an element", b'[{}, {"a": "x\\', BIG,
     [b"{}", b'{"a": "x\\'], {"truncated_frame", "unterminated_array"}, 0, 0),
    ("cut in a document", b'{"a": {} ', BIG, [b'{"a": {} '], {"truncated_frame"}, 0, 0),
    ("cut in a string", b'"abc', BIG, [b'"abc'], {"truncated_frame"}, 0, 0),
    ("cut between elements", b"[{}\n,\r\n", BIG, [b"{}"], {"unterminated_array"}, 0, 0),
    ("the limit fits", b'[{"a":12},"345678"]', 8, [b'{"a":12}', b'"345678"'], set(), 0, 0),
    ("one more does not", b'[{"a":123},{},"3456789",{}]', 8, [b"{}", b"{}"], {"oversized_event"}, 2, 18),
    ("long junk", b"[abcdefghijk,{}]", 8, [b"{}"], {"oversized_event"}, 1, 11),
    ("long and cut", b'[{},{"a":"34567\\', 8, [b"{}"], {"oversized_event", "unterminated_array"}, 1, 12),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_every_case_is_answered_alike_however_it_is_cut(case: Any) -> None:
    """A body gives the frames of the table whole, byte by byte, and in two parts."""
    _, body, limit, *expected = case

    assert tuple(expected) == answer([body], limit)
    assert tuple(expected) == answer(bytewise(body), limit)
    for place in range(len(body)):
        assert tuple(expected) == answer([body[:place], b"", body[place:]], limit)


PIECES = [
    b"[", b"]", b"{", b"}", b'"', b"\\", b'\\"', b",", b" ", b"\n", b"1", b"-", b"true", b"x", b'{"a": "b"}', b"[1]",
    b'"c"', b'{"a": {"b": [{"c": "}"}]}}', b"\xef\xbb\xbf",
]  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join), st.sampled_from([BIG, 4, 8, 12]), st.data())
def test_no_cut_changes_anything(body: bytes, limit: int, data: st.DataObject) -> None:
    """Any body, JSON or not, cut anywhere, with any limit, gives what the whole body gives."""
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    expected = answer([body], limit)

    assert expected == answer(cut(body, places), limit)
    assert expected == answer(bytewise(body), limit)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 0, 2]), st.booleans(), st.data())
def test_elements_come_back(values: list[Any], indent: int | None, ascii_only: bool, data: st.DataObject) -> None:
    """The elements of an array, written in any style and cut anywhere, are the values that went in."""
    body = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    payloads, *faults = answer(cut(body, places))

    assert values == [json.loads(payload) for payload in payloads]
    assert [set(), 0, 0] == faults


def test_each_element_comes_as_soon_as_its_bracket() -> None:
    """An element does not wait for the comma, nor for the end of the array."""
    framer = JSONText()

    assert framer.feed(b'[{"a":1}') == ([b'{"a":1}'], None)
    assert framer.feed(b',{"a":"}') == ([], None)
    assert framer.feed(b'"}') == ([b'{"a":"}"}'], None)


def test_one_object_on_one_line_is_the_same_to_ndjson() -> None:
    """Where detection cannot tell the two apart it does not matter."""
    body = b'{"a": {"b": "}"}}'
    framer = NDJSON()

    assert framer.feed(body) == ([], None)
    assert answer([body])[0] == framer.close()[0]


def test_a_value_in_crumbs_costs_a_fixed_number_of_calls_a_crumb() -> None:
    """A value does not get dearer as it grows, in a string or outside of one."""
    for start, crumb in ((b'{"a":"', b"x"), (b'{"a":"', b'\\"'), (b"[[", b"1,"), (b"[[", b'"",')):
        first, second, third = (calls([start, *[crumb] * n]) for n in (1000, 2000, 3000))

        assert second - first == third - second


def calls(parts: list[bytes]) -> int:
    """How many functions, Python's and C's, are called: a measure that no busy machine disturbs."""
    count = 0

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    framer = JSONText()
    sys.setprofile(profile)
    for part in parts:
        framer.feed(part)
    sys.setprofile(None)
    return count


def test_memory_stays_within_the_limit() -> None:
    """An endless value is not kept, and the next one is read; bytearray and memoryview are taken."""
    framer = JSONText(max_frame_bytes=1000)
    framer.feed(b'[{"a":"')
    for _ in range(100):
        framer.feed(bytearray(b"\\" * 99))
        assert framer.pending <= 1000

    assert framer.feed(memoryview(b'"},{}')) == ([b"{}"], None)
    assert (framer.malformed, framer.dropped_bytes) == (1, 9908)
