"""Server-sent events: the same frames for every cut, and the frames that the specification wants."""

import importlib.util
import itertools
import random
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfold.framing import SSE, sse

BIG = 1 << 30


CUTTABLE = [
    b"data: 1\n\n",
    b'data: {"a": "data: "}\n\n',
    b"event: x\ndata: 2\n\n",
    b"event: data: \ndata: 3\n\n",
    b"event:\ndata: 3\n\n",
    b"data:4\n\n",
    b"data:  5\n\n",
    b"data: 6\ndata: 7\n\n",
    b"data: \n\n",
    b"data:\n\n",
    b": data: 8\n\n",
    b"id: 1\ndata: 9\n\n",
    b'{"error": "data: "}\n\n',
    b'error: {"data: ": 1}\n\n',
    b"<html> data: 1\n\n",
    b"\n",
    b"\n\n",
]
"""Blocks of all shapes, usual and not."""


def answer(parts: Iterable[bytes], limit: int = BIG) -> dict[str, Any]:
    """Everything that a framer says about a body fed in these parts; names as a list with an entry per frame."""
    framer = SSE(max_frame_bytes=limit)
    payloads: list[bytes] = []
    names: list[str | None] = []
    for frames in itertools.chain((framer.feed(part) for part in parts), (framer.close() for _ in range(1))):
        assert frames[1] is None or any(name is not None for name in frames[1])
        payloads += frames[0]
        names += frames[1] or [None] * len(frames[0])
    assert framer.pending == 0
    return {
        "payloads": payloads,
        "names": names,
        "anomalies": framer.anomalies,
        "malformed": framer.malformed,
        "dropped": framer.dropped_bytes,
    }


def cut(body: bytes, places: Iterable[int]) -> Iterator[bytes]:
    for start, end in itertools.pairwise([0, *sorted(places), len(body)]):
        yield body[start:end]


def bytewise(body: bytes) -> list[bytes]:
    return [body[i : i + 1] for i in range(len(body))]


def oracle(body: bytes, limit: int = BIG) -> dict[str, Any]:
    """The specification, line by line and without any haste, with our five declared differences."""
    text = body.removeprefix(b"\xef\xbb\xbf")
    lines: list[bytes] = []
    line = bytearray()
    at = 0
    while at < len(text):
        byte = text[at : at + 1]
        if byte in (b"\r", b"\n"):
            lines.append(bytes(line))
            line.clear()
            at += 2 if text[at : at + 2] == b"\r\n" else 1
        else:
            line += byte
            at += 1
    lines += [bytes(line)] if line else []
    said: dict[str, Any] = {"payloads": [], "names": [], "anomalies": set(), "malformed": 0, "dropped": 0}
    event: list[bytes] = []
    for each in lines:
        if each:
            event.append(each)
        else:
            dispatch(event, limit, said)
            event = []
    before = len(said["payloads"])
    dispatch(event, limit, said)
    if len(said["payloads"]) > before:
        said["anomalies"].add("unterminated_event")
    return said


def dispatch(event: list[bytes], limit: int, said: dict[str, Any]) -> None:
    size = len(b"\n".join(event))
    if size > limit:
        said["anomalies"].add("oversized_event")
        said["malformed"] += 1
        said["dropped"] += size
        return
    if event and event[0].startswith(b"{"):
        said["payloads"].append(b"\n".join(event))
        said["names"].append(None)
        return
    data = None
    name = b""
    for line in event:
        field, colon, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if field == b"data":
            data = value if data is None else data + b"\n" + value
        elif field == b"event":
            name = value
        elif field == b"error" and value.startswith(b"{"):
            data, name = value, b"error"
        elif line[:1] == b":" or field in (b"id", b"retry"):
            pass
        elif not (colon and field[:1].isalpha() and field.replace(b"-", b"").replace(b"_", b"").isalnum()):
            said["anomalies"].add("junk_line")
            said["dropped"] += len(line)
    if data:
        said["payloads"].append(data)
        said["names"].append(name.decode("utf-8", "replace") or None)


CASES: list[tuple[str, bytes, list[bytes], list[str | None], set[str], int]] = [
    # claim, body, payloads, names, anomalies, dropped bytes
    ("nothing is nothing", b"", [], [], set(), 0),
    ("one event", b'data: {"a":1}\n\n', [b'{"a":1}'], [None], set(), 0),
    ("no space after the colon", b"data:{}\n\ndata: {}\n\ndata:[]\n\n", [b"{}", b"{}", b"[]"], [None] * 3, set(), 0),
    ("one space is taken and no more", b"data:  x\n\ndata:x\n\ndata: y\n\n", [b" x", b"x", b"y"], [None] * 3, set(), 0),
    ("an event has a name", b"event: a\ndata: 1\n\ndata: 2\n\n", [b"1", b"2"], ["a", None], set(), 0),
    ("the name may come last", b"data: 1\nevent: a\n\n", [b"1"], ["a"], set(), 0),
    ("the last name counts", b"event: a\nevent: b\ndata: 1\n\n", [b"1"], ["b"], set(), 0),
    ("an empty name is none", b"event: a\nevent:\ndata: 1\n\n", [b"1"], [None], set(), 0),
    ("a name dies with its event", b"event: a\n\ndata: 1\n\n", [b"1"], [None], set(), 0),
    ("a name is read leniently", b"event: \xff\ndata: 1\n\n", [b"1"], ["�"], set(), 0),
    ("data lines are joined", b"data: 1\ndata: 2\ndata\ndata: 3\n\n", [b"1\n2\n\n3"], [None], set(), 0),
    ("no data, no event", b"data:\n\ndata\n\ndata: \n\nid: 1\n\n: ping\n\nretry: 3\n\nevent: a\n\n", [], [], set(), 0),
    ("no data between data", b"data: 1\n\ndata: \n\ndata: 2\n\n", [b"1", b"2"], [None] * 2, set(), 0),
    ("two empty data lines are a line end", b"data\ndata\n\n", [b"\n"], [None], set(), 0),
    ("comments may be anywhere", b": hi\ndata: 1\n:\ndata: 2\n: x\n\n", [b"1\n2"], [None], set(), 0),
    ("CRLF", b"event: a\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n", [b"1", b"2"], ["a", None], set(), 0),
    ("CR", b"event: a\rdata: 1\r\rdata: 2\r\r", [b"1", b"2"], ["a", None], set(), 0),
    (
        "line ends may be mixed",
        b"data: 1\r\n\ndata: 2\n\r\ndata: 3\r\ndata: 4\n\r",
        [b"1", b"2", b"3\n4"],
        [None] * 3,
        set(),
        0,
    ),
    ("a byte order mark leads", b"\xef\xbb\xbfdata: 1\n\n", [b"1"], [None], set(), 0),
    ("a mark inside is junk", b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n", [b"1"], [None], {"junk_line"}, 10),
    ("half a mark is junk", b"\xef\xbb", [], [], {"junk_line"}, 2),
    ("many blank lines", b"\n\n\n\ndata: 1\n\n\n\n\ndata: 2\n\n\n", [b"1", b"2"], [None] * 2, set(), 0),
    ("no last blank line", b"data: 1\n\ndata: 2\n", [b"1", b"2"], [None] * 2, {"unterminated_event"}, 0),
    ("no last line end", b'event: a\ndata: {"a"', [b'{"a"'], ["a"], {"unterminated_event"}, 0),
    ("an unfinished comment is nothing", b"data: 1\n\n: keep-al", [b"1"], [None], set(), 0),
    ("an unfinished name is nothing", b"data: 1\n\nevent: x\nid: 4", [b"1"], [None], set(), 0),
    ("unknown fields are ignored", b"x-foo_1: 1\ndata: 1\nfoo:\n\n", [b"1"], [None], set(), 0),
    (
        "a field of its own for errors",
        b'error: {"code":500}\n\ndata: 1\n\n',
        [b'{"code":500}', b"1"],
        ["error", None],
        set(),
        0,
    ),
    ("such a field without an object is unknown", b"error: no\ndata: 1\n\n", [b"1"], [None], set(), 0),
    ("what is no field is junk", b'<html>\n{"error": 1}\n\ndata: 1\n dat: 2\n\n', [b"1"], [None], {"junk_line"}, 25),
    ("[DONE] is a payload", b"data: {}\n\ndata: [DONE]\n\n", [b"{}", b"[DONE]"], [None] * 2, set(), 0),
    (
        "a payload may begin with anything",
        b"data: !\n\ndata: \t\n\ndata: \x00\n\n",
        [b"!", b"\t", b"\x00"],
        [None] * 3,
        set(),
        0,
    ),
    ("DashScope", b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{}\n\n", [b"{}"], ["result"], set(), 0),
]
LIMITED: list[tuple[str, bytes, int, list[bytes], int, int]] = [
    # claim, body, limit, payloads, malformed, dropped bytes
    ("the limit fits", b"data: 12\n\ndata: 34\n\n", 8, [b"12", b"34"], 0, 0),
    ("one more does not", b"data: 123\n\ndata: 34\n\n", 8, [b"34"], 1, 9),
    ("in the middle", b"data: 12\n\ndata: 345678\n\ndata: 9\n\n", 8, [b"12", b"9"], 1, 12),
    ("over several lines", b"data: 1\ndata: 2\n\ndata: 9\n\n", 8, [b"9"], 1, 15),
    ("at the end", b"data: 12\n\ndata: 345678", 8, [b"12"], 1, 12),
    ("line ends count as one", b"data: 1\r\ndata: 2\r\n\r\ndata: 9\r\n\r\n", 15, [b"1\n2", b"9"], 0, 0),
    ("blank lines before do not count", b"data: 12\n\n\n\n\ndata: 34\n\n\n", 8, [b"12", b"34"], 0, 0),
    ("twice", b"data: 123\n\n\ndata: 345\n\n\n\ndata: 9\n\n", 8, [b"9"], 2, 18),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_every_case_is_answered_alike_whole_and_byte_by_byte_and_in_two(case: Any) -> None:
    """A body gives the frames of the table however it is cut, and the oracle agrees with the table."""
    _, body, payloads, names, anomalies, dropped = case
    expected = {"payloads": payloads, "names": names, "anomalies": anomalies, "malformed": 0, "dropped": dropped}

    assert expected == oracle(body)
    assert expected == answer([body])
    assert expected == answer(bytewise(body))
    for place in range(len(body)):
        assert expected == answer(cut(body, [place]))
        assert expected == answer([body[:place], b"", body[place:]])


@pytest.mark.parametrize("case", LIMITED, ids=lambda case: case[0])
def test_an_event_over_the_limit_is_dropped_up_to_its_end(case: Any) -> None:
    """Too long an event is counted, and the next one is read as if nothing had been."""
    _, body, limit, payloads, malformed, dropped = case
    expected = oracle(body, limit)

    assert (payloads, malformed, dropped) == (expected["payloads"], expected["malformed"], expected["dropped"])
    assert expected == answer([body], limit)
    assert expected == answer(bytewise(body), limit)
    for place in range(len(body)):
        assert expected == answer(cut(body, [place]), limit)


PIECES = [
    b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"data", b"data:", b"data: ", b"data: {}\n\n", b'data: {"a":1}\n\n',
    b"data:{}\n\n", b"data:  {}\n\n", b"event: a\ndata: {}\n\n", b"event: a\ndata: {}\n\n", b"event: b\ndata:{}\n\n",
    b"event: a\n", b"event:\n", b"event", b": ping\n\n", b":", b"id: 1\n", b"retry: 1\n", b" ", b"x", b"{",
    b"foo: 1\n", b"\xef\xbb\xbf", b"\xef", b"!",
]  # fmt: skip

BODIES = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join),
    st.binary(max_size=60),
    st.text("dat: \n\r{}ev", max_size=60).map(str.encode),
)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_no_cut_changes_anything(data: st.DataObject) -> None:
    """Any body, cut anywhere, with any limit and any size worth a sample, gives what the oracle gives."""
    body = data.draw(BODIES) * data.draw(st.sampled_from([1, 1, 1, 30]))
    limit = data.draw(st.sampled_from([BIG, BIG, 5, 8, 12, 20]))
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    expected = oracle(body, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sse, "WORTH_A_SAMPLE", data.draw(st.sampled_from([0, 30, 2048])))
        assert expected == answer([body], limit)
        assert expected == answer(cut(body, places), limit)
        assert expected == answer(bytewise(body), limit)


def well_formed(seed: int, line_end: bytes) -> bytes:
    """A stream as providers send it: no ids, at which both peers' decoders stumble, and no empty data."""
    rng = random.Random(seed)
    out = bytearray()
    for _ in range(rng.randrange(1, 60)):
        if rng.random() < 0.2:
            out += b": ping" + line_end * 2
        if rng.random() < 0.5:
            out += b"event: " + rng.choice([b"a", b"content_block_delta", "ü".encode()]) + line_end
        for _ in range(rng.choice([1, 1, 1, 2])):
            out += b"data: " + rng.choice([b"{}", b'{"text": "x y"}', "é: \u2028 ü".encode(), b"[DONE]"]) + line_end
        out += line_end
    return bytes(out)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("seed", range(20))
def test_openai_decoder_agrees(seed: int, line_end: bytes) -> None:
    """On well-formed streams the OpenAI SDK's decoder gives the same events."""
    decoder = pytest.importorskip("openai._streaming").SSEDecoder()
    body = well_formed(seed, line_end)
    theirs = [(event.data.encode(), event.event) for event in decoder.iter_bytes(iter([body]))]
    ours = answer([body])

    assert theirs == list(zip(ours["payloads"], ours["names"], strict=True))


def httpx_sse_decoders() -> Any:
    """The module with httpx-sse's decoders, without its `__init__`, which wants httpx: the decoders do not."""
    spec = importlib.util.find_spec("httpx_sse")
    if spec is None:
        pytest.skip("httpx-sse is not installed")
    package = types.ModuleType("bare_httpx_sse")
    package.__path__ = list(spec.submodule_search_locations or ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bare_httpx_sse", package)
        return importlib.import_module("bare_httpx_sse._decoders")


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("seed", range(20))
def test_httpx_sse_decoder_agrees(seed: int, line_end: bytes) -> None:
    """On well-formed streams httpx-sse's decoder gives the same events; its word for no name is `message`."""
    decoder = httpx_sse_decoders().SSEDecoder()
    body = well_formed(seed, line_end)
    events = [decoder.decode(line.decode()) for line in body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")]
    theirs = [(event.data.encode(), event.event) for event in events if event is not None]
    ours = answer([body])

    assert theirs == [(data, name or "message") for data, name in zip(ours["payloads"], ours["names"], strict=True)]


def test_any_bytes_like_is_taken() -> None:
    """bytes, bytearray and memoryview are one to the framer, and it keeps no hold on what was lent."""
    lent = bytearray(b"data: 1\n\nda")
    framer = SSE()

    assert framer.feed(lent) == ([b"1"], None)
    lent.clear()
    assert framer.feed(memoryview(b"ta: 2\n\n")) == ([b"2"], None)


def test_a_lone_cr_ends_the_event_at_once() -> None:
    """The blank line's CR is enough: the event does not wait for a LF that may never come."""
    framer = SSE()

    assert framer.feed(b"data: 1\r\n\r") == ([b"1"], None)
    assert framer.feed(b"\n") == ([], None)
    assert framer.pending == 0


def test_names_are_listed_only_if_there_are_any() -> None:
    """The list of names is None unless a frame of that feed has one."""
    framer = SSE()

    assert framer.feed(b"data: 1\n\n") == ([b"1"], None)
    assert framer.feed(b"data: 1\n\nevent: a\ndata: 2\n\n") == ([b"1", b"2"], [None, "a"])
    assert framer.feed(b"event: a\ndata: 3\n\n") == ([b"3"], ["a"])
    assert framer.feed(b"event: a\n") == ([], None)


def calls(parts: list[bytes]) -> int:
    """How many functions, Python's and C's, are called to frame a body: a measure that no busy machine disturbs."""
    count = 0

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    framer = SSE()
    sys.setprofile(profile)
    for part in parts:
        framer.feed(part)
    sys.setprofile(None)
    return count


@pytest.mark.parametrize("event", [b'data: {"a":1}\n\n', b'event: a\ndata: {"a":1}\n\n'])
def test_a_read_of_like_events_costs_the_same_number_of_calls_however_many(event: bytes) -> None:
    """Once the head is known, a read is split in C: no call per event."""
    assert calls([event, event * 10]) == calls([event, event * 10_000])


def test_a_long_line_in_crumbs_costs_a_fixed_number_of_calls_a_crumb() -> None:
    """A line does not get dearer as it grows."""
    first, second = calls([b"data: ", *[b"x"] * 1000]), calls([b"data: ", *[b"x"] * 2000])
    third = calls([b"data: ", *[b"x"] * 3000])

    assert second - first == third - second


def test_an_idle_framer_is_tiny() -> None:
    """10,000 streams between two events: what a framer holds then is itself, and no bytes."""
    framer = SSE()
    framer.feed(b"data: 1\n\n")

    assert sys.getsizeof(framer) < 200
    assert framer.pending == 0


def test_memory_stays_within_the_limit() -> None:
    """An endless line is not kept, and what comes after it is read."""
    framer = SSE(max_frame_bytes=1000)
    for _ in range(100):
        framer.feed(b"x" * 99)
        assert framer.pending <= 1001

    assert framer.feed(b"\n\ndata: 1\n\n") == ([b"1"], None)
    assert (1, 9900, {"oversized_event"}) == (framer.malformed, framer.dropped_bytes, framer.anomalies)


def test_an_object_without_framing():
    """A JSON object that somebody wrote between the events without `data:` is handed on: it mostly is an error."""
    error = b'{\n  "error": {"message": "gone"}\n}'
    said = answer([b"data: {}\n\n" + error + b"\n\ndata: {}\n\n"])
    assert said["payloads"] == [b"{}", error, b"{}"]
    assert not said["anomalies"]


@given(st.lists(st.sampled_from(CUTTABLE), max_size=8).map(b"".join))
def test_events_cut_one_by_one_are_those_of_a_feed(body: bytes) -> None:
    """What `cut` takes off a text is what `feed` would have handed on, and it leaves alone what it is not sure of."""
    framer = SSE()
    framer.feed(b": hello\n\n")
    payloads: list[bytes] = []
    names: list[str | None] = []
    at = 0
    while (event := framer.cut(body, at)) is not None:
        at, payload, name = event
        payloads.append(payload)
        names.append(name)
        assert body[:at].endswith(framer.head + payload + b"\n\n")
    rest, rest_names = framer.feed(body[at:])
    more, more_names = framer.close()
    said = payloads + rest + more
    said_names = names + (rest_names or [None] * len(rest)) + (more_names or [None] * len(more))
    whole = answer([body])
    assert said == whole["payloads"]
    assert said_names == (whole["names"] or [None] * len(said))
