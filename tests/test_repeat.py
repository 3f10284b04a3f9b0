"""The short cut for frames that repeat: it folds what decoding each frame would fold, and nothing else."""

import gc
import json
import tracemalloc
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfold.growth import Text
from streamfold.stream import StreamAccumulator
from streamfold.testing import fold_pieces
from streamfold.wire.anthropic_messages import AnthropicMessages
from streamfold.wire.openai_chat import OpenAIChat
from streamfold.wire.openai_responses import OpenAIResponses
from streamfold.wire.repeat import cut
from streamfold.wire.surrogates import without_surrogates
from work import memory, work

pytestmark = pytest.mark.usefixtures("frame_reader")

PATH = ("choices", 0, "delta", "content")


def frame(text, *, body=None, **top):
    """One chunk's payload; `body` is the raw JSON string body in the place of the text."""
    event = {"id": "c1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **top}
    payload = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    return payload if body is None else payload.replace(json.dumps(text).encode(), b'"' + body + b'"', 1)


def pattern(payload, path=PATH):
    text = Text()
    return cut(payload, json.loads(payload), path, text, 6), text


def run(repeat, *payloads):
    """How many of the frames the pattern takes."""
    return repeat.run(list(payloads), 0)[0]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"plain", "plain"),
        (b"", None),
        (b'say \\"hi\\"', 'say "hi"'),
        (b'ends in a quote\\"', 'ends in a quote"'),
        (b"ends in a backslash\\\\", "ends in a backslash\\"),
        (b'\\"},\\"finish_reason\\":null}]}', '"},"finish_reason":null}]}'),
        (b"\\ud83d\\udea2 \\u00e9 \\n", "🚢 é \n"),
        ("né 🚢 \u00a0".encode(), "né 🚢 \u00a0"),
        (b"\x7f", "\x7f"),
    ],
)
def test_takes_every_string_body(body, text):
    """Whatever a JSON string can hold is appended as the decoder reads it."""
    repeat, cell = pattern(frame("first"))
    assert run(repeat, frame("x", body=body)) == 1
    assert (cell.value() or None) == text


OTHERS = [
    frame("x", body=b"open quote\\"),
    frame("x", body=b'a","b":"c'),
    frame("x", body=b"tab\there"),
    frame("x", body=b"nul\x00"),
    frame("x", body=b"bad utf-8 \xff"),
    frame("x", body=b"cut utf-8 \xc3"),
    frame("x", body=b"\\x41"),
    frame("x", body=b"\\ud83d"),
    frame("x", id="c2"),
    frame("x", late=1),
    frame("x")[:-1],
    frame("x")[1:],
    frame("x") + b" ",
    frame("").replace(b'""', b'"'),
    frame("x").replace(b"null", b'"stop"'),
    b"",
    b"[DONE]",
]
"""Frames that are not the one that repeats, or no JSON."""


@pytest.mark.parametrize("payload", OTHERS)
def test_leaves_all_else_to_the_decoder(payload):
    """A frame that differs anywhere else, or whose hole holds no valid string, is not taken and leaves no trace."""
    repeat, cell = pattern(frame("first"))
    assert repeat.run([payload], 0) == (0, 0)
    assert repeat.hits == 0
    assert not cell.value()


@pytest.mark.parametrize("end", [b"\n", b"\r"])
@pytest.mark.parametrize("top", [{}, {"obfuscation": "p"}], ids=["one hole", "two"])
def test_a_line_end_in_the_frame_ends_the_line_on_the_wire(end, top):
    """A frame that has line ends between its values is taken as a payload, but never where they end a `data` line."""
    payload = frame("first", **top).replace(b",", b"," + end)
    repeat, cell = pattern(payload)
    assert repeat.skim(b"data: " + payload + b"\n\n", 0, b"data: ") == (0, 0)
    assert repeat.one(b"data: " + payload + b"\n\n") is None
    assert repeat.payload(payload) == 6
    assert run(repeat, payload, payload) == 2
    assert cell.value() == "first" * 3


def test_pretty_printed_events():
    """Of events spread over several `data` lines, one with a line that is none is not taken as like them."""
    payloads = [frame(f"w{number} ").replace(b",", b",\n") for number in range(8)]
    events = [b"data: " + payload.replace(b"\n", b"\ndata: ") + b"\n\n" for payload in payloads]
    events[5] = b"data: " + payloads[5] + b"\n\n"
    for reads in (events, [b"".join(events)]):
        record = fold_pieces(reads, "openai-chat").data
        assert record.output_message.content == "w0 w1 w2 w3 w4 w6 w7 "
        assert record.integrity.malformed == 1


def test_a_payload_without_its_lead_is_no_event():
    """After a payload that came alone, the next read of the wire has to have what leads to a payload there."""
    event = b"data: " + frame("b") + b"\n\n"
    stream = StreamAccumulator("openai-chat")
    for read in (b"data: " + frame("a") + b"\n\n", event, event):
        stream.feed(read)
    stream.add(frame("c"))
    stream.feed(frame("d"))
    assert stream.snapshot().output_message.content == "abbc"
    stream.add(frame("e"))
    stream.feed(b"\n\n" + event)
    assert stream.snapshot().output_message.content == "abbcedb"


def test_an_empty_frame_makes_no_pattern():
    """What a frame without text brought is not what those with text bring, so none is cut around an empty string."""
    payload = frame("")
    assert cut(payload, json.loads(payload), PATH, Text(), 6) is None
    parts = [frame("").replace(b'""', b'[{"type":"text","text":"%b"}]' % text) for text in (b"", b"a", b"b")]
    stream = StreamAccumulator("mistral", clock=iter(range(1, 100)).__next__, start_timestamp=0.0, wall=lambda: 0.0)
    for at, payload in enumerate(parts, 2):
        stream.feed(b"data: " + payload + b"\n\n", at * 1_000_001)
    record = stream.snapshot()
    assert record.output_message.content == "ab"
    assert record.time_to_first_content_ms == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize("top", [{}, {"obfuscation": "p"}], ids=["one hole", "two"])
def test_long_frames_are_let_go(top):
    """What streams share for good are short stretches: no frame of megabytes outlives its stream."""

    def streams(numbers):
        for number in numbers:
            repeat, _ = pattern(frame("a", note=f"{number}" + "x" * 50_000, **top))
            repeat.skim(b"", 0, b"data: ")

    streams(range(20))
    tracemalloc.start()
    try:
        streams(range(20, 40))
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


def folded(repeat, payloads):
    """How many of the frames the pattern takes, window by window."""
    at = 0
    while True:
        stopped, _ = repeat.run(payloads, at)
        if stopped == at:
            return at
        at = stopped


def test_takes_a_window_at_a_time():
    """One run may end after a window of frames, and the next goes on where it stopped."""
    repeat, cell = pattern(frame("first"))
    assert folded(repeat, [frame("a")] * 300) == 300
    assert repeat.hits == 300
    assert cell.value() == "a" * 300


@pytest.mark.parametrize("before", [1, 7, 8, 40])
@pytest.mark.parametrize("payload", OTHERS)
def test_stops_at_another_frame(payload, before):
    """In a long run the frames before another one are taken, each once, and that one is left to the decoder."""
    repeat, cell = pattern(frame("first"))
    texts = [f"w{number}\\n" for number in range(before)]
    payloads = [frame("x", body=text.encode()) for text in texts]
    assert folded(repeat, [*payloads, payload, *payloads]) == before
    assert repeat.hits == before
    assert cell.value() == "".join(texts).replace("\\n", "\n")


@pytest.mark.parametrize("top", [{}, {"obfuscation": "p0"}, {"sequence_number": 0}])
@pytest.mark.parametrize(
    "body",
    [rb"\u007f", b"\x7f", rb"\u0001", rb"\u0002\u0003", rb"\"", rb"\\", rb"\n", "\u2028é🚢".encode(), rb"\"},\"", b""],
)
def test_odd_text_in_a_long_run(body, top):
    """Text that spells whatever a run may be cut or joined by is folded as the text it is."""

    def numbered(number, body):
        own = {**top, "sequence_number": number} if "sequence_number" in top else top
        return frame("x", body=body, **own)

    payloads = [numbered(number, body if number == 20 else b"a") for number in range(1, 41)]
    quick, slow = OpenAIChat(), OpenAIChat()
    quick.add_all([numbered(0, b"a"), *payloads], None)
    for payload in [numbered(0, b"a"), *payloads]:
        slow.add_decoded(json.loads(payload))
    assert quick.response() == slow.response()
    assert quick.chunks == 41


@pytest.mark.parametrize(
    "top",
    [
        {"note": {"content": "decoy"}},
        {"content": "decoy"},
        {"note": '"content":"decoy"'},
        {"delta": [{"content": "first"}]},
    ],
)
def test_the_key_may_stand_elsewhere(top):
    """The hole is the string at the path, however often its key occurs in the frame."""
    payload = json.dumps({**top, **json.loads(frame("first"))}, separators=(",", ":")).encode()
    repeat, cell = pattern(payload)
    second = json.dumps({**top, **json.loads(frame("second"))}, separators=(",", ":")).encode()
    assert run(repeat, second) == 1
    assert cell.value() == "second"


@pytest.mark.parametrize(
    "payload",
    [
        frame("first").replace(b'"content"', b'"con\\u0074ent"'),
        frame("first").replace(b'"content":', b'"content"\n:\t'),
        frame("first").replace(b'"content":', b'"content": '),
        b"\n " + frame("first") + b" \r\n",
    ],
)
def test_unusual_spelling_is_cut_rightly_or_not_at_all(payload):
    """Where the key is spelled in a way that cannot be found, or the frame has white space, nothing wrong is cut."""
    repeat, cell = pattern(payload)
    if repeat is not None:
        assert run(repeat, payload.replace(b"first", b"other")) == 1
        assert cell.value() == "other"


def test_a_duplicated_key_is_cut_at_the_one_that_counts():
    """Of two equal keys the decoder takes the last, and so does the cut."""
    payload = frame("first").replace(b'"content":"first"', b'"content":"early","content":"first"')
    repeat, cell = pattern(payload)
    assert run(repeat, payload.replace(b"first", b"last"), payload.replace(b"early", b"other")) == 1
    assert cell.value() == "last"


def test_padding_and_numbers_are_holes_too():
    """Obfuscation may change freely and a sequence number has to count on; anything else is not taken."""
    repeat, cell = pattern(frame("a", obfuscation="x1", sequence_number=9))
    good = [frame("b", obfuscation="yy", sequence_number=10), frame('q"\\', obfuscation="z", sequence_number=11)]
    assert run(repeat, *good) == 2
    for bad in (
        frame("c", obfuscation="p", sequence_number=13),
        frame("c", obfuscation="p", sequence_number=11),
        frame("c", obfuscation="p", sequence_number=12).replace(b":12", b":012"),
        frame("c", obfuscation="a b", sequence_number=12),
        frame("c", obfuscation='a","d":"', sequence_number=12),
        frame("c", sequence_number=12),
        frame("c", obfuscation="p", sequence_number="12"),
    ):
        assert run(repeat, bad) == 0, bad
    assert run(repeat, frame("d", obfuscation="p", sequence_number=12)) == 1
    assert cell.value() == 'bq"\\d'


def ordered(*keys, **top):
    """A chunk's payload with its fields in this order."""
    event = json.loads(frame(**top))
    return json.dumps({key: event[key] for key in keys}, separators=(",", ":")).encode()


@pytest.mark.parametrize("keys", [("obfuscation", "choices"), ("choices", "obfuscation")])
def test_holes_in_any_order(keys):
    """Padding before or after the text: like frames are taken, and what only looks alike is left to the decoder."""
    repeat, cell = pattern(ordered(*keys, text="first", obfuscation="p"))
    assert run(repeat, ordered(*keys, text="plain", obfuscation="q7"), ordered(*keys, text="", obfuscation="r")) == 2
    for bad in (
        ordered(*keys, text="x", obfuscation="q 7"),
        ordered(*keys, text="x", obfuscation='q","p":"'),
        ordered(*keys, text="x", obfuscation="q").replace(b'"index":0', b'"index":1'),
        ordered(*keys, text="x", obfuscation="q").replace(b'"finish_reason":null', b'"finish_reason":"stop"'),
        ordered(*keys, text="", obfuscation="").replace(b'""', b'"'),
        ordered(*keys, text="", obfuscation="q").replace(b'""', b'"'),
        ordered(*keys, text='"},"finish_reason":null}],"obfuscation":"', obfuscation='"'),
    ):
        assert run(repeat, bad) == 0, bad
    assert cell.value() == "plain"


def test_a_number_before_the_text_counts_on():
    """A sequence number that stands before the text is held to its count as well."""
    keys = ("sequence_number", "choices")
    repeat, cell = pattern(ordered(*keys, text="a", sequence_number=4))
    assert run(repeat, ordered(*keys, text="x", sequence_number=6)) == 0
    assert run(repeat, ordered(*keys, text="b", sequence_number=5), ordered(*keys, text="c", sequence_number=6)) == 2
    assert run(repeat, ordered(*keys, text="x", sequence_number=6)) == 0
    assert cell.value() == "bc"


def test_a_deep_frame_is_left_alone():
    """A frame nested too deeply to be compared makes no pattern and no exception."""
    for depth in range(500, 1000):
        payload = frame("first", deep=0).replace(b'"deep":0', b'"deep":' + b"[" * depth + b"]" * depth)
        fold = OpenAIChat()
        fold.add_all([payload, payload], None)
        if fold.malformed:
            break
        assert fold.response()["choices"][0]["message"]["content"] == "firstfirst"
        assert fold.anomalies == []


def test_caller_sees_no_probe():
    """Cutting a frame leaves the decoded frame as it was."""
    payload = frame("first", obfuscation="p", sequence_number=1)
    event = json.loads(payload)
    assert cut(payload, event, PATH, Text(), 6) is not None
    assert event == json.loads(payload)


TEXTS = st.text(max_size=6) | st.sampled_from(
    ["", '"', "\\", '\\"', '"}}]}', '","obfuscation":"x"', "\n", "\u2028", "🚢", "\x7f", "é", '"content":"', "{}"]
)
DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, TEXTS),
    st.builds(lambda text: {"role": "assistant", "content": text, "tool_calls": []}, TEXTS),
    st.builds(lambda text: {"reasoning_content": text, "content": None}, TEXTS),
    st.builds(lambda text: {"reasoning": text, "reasoning_content": text}, TEXTS),
    st.builds(lambda text: {"refusal": text}, TEXTS),
    st.builds(
        lambda text, at: {"tool_calls": [{"index": at, "function": {"arguments": text}}]}, TEXTS, st.integers(0, 1)
    ),
    st.builds(lambda text: {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": text}}]}, TEXTS),
    st.builds(lambda text: {"content": [{"type": "text", "text": text}]}, TEXTS),
    st.just({}),
)
EXTRAS = st.fixed_dictionaries(
    {},
    optional={
        "obfuscation": st.sampled_from(["", "a1", "b2c", "x y", '"']),
        "sequence_number": st.integers(0, 3),
        "usage": st.sampled_from([None, {"total_tokens": 1}, {"total_tokens": 2}]),
        "model": st.sampled_from(["m", "n"]),
    },
)
CHOICES = st.fixed_dictionaries(
    {"index": st.sampled_from([0, 0, 0, 1]), "delta": DELTAS},
    optional={
        "finish_reason": st.sampled_from([None, None, None, "stop"]),
        "logprobs": st.sampled_from([None, {"content": [{"token": "a"}]}]),
        "text": st.sampled_from(["", "t"]),
    },
)


@st.composite
def streams(draw):
    """Payloads as servers write them: runs of like chunks, in one spelling of JSON or another."""
    payloads = []
    for _ in range(draw(st.integers(1, 6))):
        choice, extra = draw(CHOICES), draw(EXTRAS)
        ascii_only, separators = draw(st.booleans()), draw(st.sampled_from([(",", ":"), (", ", ": ")]))
        for number in range(draw(st.integers(1, 6) | st.integers(8, 40))):
            if number:
                choice = {**choice, "delta": _with(choice["delta"], draw(TEXTS))}
            if "sequence_number" in extra:
                extra = {**extra, "sequence_number": extra["sequence_number"] + draw(st.sampled_from([1, 1, 1, 0, 2]))}
            event = {"id": "c1", "choices": [choice], **extra}
            payloads.append(json.dumps(event, ensure_ascii=ascii_only, separators=separators).encode())
    return payloads


def _with(delta, text):
    """The delta with another text in the same place."""
    if isinstance(delta, dict):
        return {
            key: item if key in ("role", "id", "name", "type") else _with(item, text) for key, item in delta.items()
        }
    if isinstance(delta, list):
        return [_with(item, text) for item in delta]
    return text if isinstance(delta, str) else delta


@settings(max_examples=600, deadline=None)
@given(streams(), st.data())
def test_short_cut_equals_the_complete_way(payloads, data):
    """A stream folded in reads of any size gives what one folded chunk by chunk does."""
    quick, slow = OpenAIChat(), OpenAIChat()
    flags_quick = flags_slow = at = 0
    while at < len(payloads):
        size = data.draw(st.integers(1, len(payloads) - at))
        flags_quick |= quick.add_all(payloads[at : at + size], None)
        at += size
    for payload in payloads:
        flags_slow |= slow.add_decoded(json.loads(payload))
    assert quick.response() == slow.response()
    assert (quick.chunks, quick.anomalies, flags_quick) == (slow.chunks, slow.anomalies, flags_slow)


class Counting(OpenAIChat):
    """Counts the frames that are decoded."""

    decoded = 0

    def add(self, payload, name=None):
        self.decoded += 1
        return super().add(payload, name)


@settings(max_examples=300, deadline=None)
@given(streams(), st.data())
def test_bytes_equal_the_complete_way(payloads, data):
    """The same holds from the bytes on, cut anywhere, one event a read, one payload or dict a call, and for a mix."""
    events = [b"data: " + payload + b"\n\n" for payload in payloads]
    body = b"".join(events)
    cut, paced, single, dicts, mixed = (StreamAccumulator("openai-chat") for _ in range(5))
    at = 0
    while at < len(body):
        size = data.draw(st.integers(1, 3000))
        cut.feed(body[at : at + size])
        at += size
    slow = OpenAIChat()
    for event, payload in zip(events, payloads, strict=True):
        paced.feed(event)
        single.add(payload)
        dicts.add(json.loads(payload))
        ways = [(mixed.feed, event), (mixed.add, payload), (mixed.add, json.loads(payload))]
        way, chunk = data.draw(st.sampled_from(ways))
        way(chunk)
        slow.add_decoded(json.loads(payload))
    for stream in (cut, paced, single, dicts, mixed):
        record = stream.snapshot()
        assert record.response == slow.response()
        assert (record.chunks, record.integrity.anomalies) == (slow.chunks, slow.anomalies)


def test_most_frames_take_the_short_cut():
    """An ordinary stream decodes a handful of its frames, whichever of its fields is the one that grows."""
    deltas = [
        lambda text: {"content": text},
        lambda text: {"content": text, "tool_calls": []},
        lambda text: {"content": None, "reasoning_content": text},
        lambda text: {"channel": "final", "content": text},
        lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]},
    ]
    for delta in deltas:
        fold = Counting()
        chunks = [{"id": "c", "choices": [{"index": 0, "delta": delta(f"w{i}")}]} for i in range(500)]
        fold.add_all([json.dumps(chunk).encode() for chunk in chunks], None)
        assert fold.decoded <= 3
        assert fold.chunks == 500


@pytest.mark.parametrize("names", [["chunk"] * 6, ["chunk", "chunk", "error", "chunk", "chunk", "chunk"], [None] * 6])
def test_the_same_bytes_under_another_name(names):
    """A frame that repeats the one before under another event name takes the complete way, for the name may count."""
    payloads = [frame(f"w{number} ") for number in range(6)]
    quick, single, slow = OpenAIChat(), StreamAccumulator("openai-chat"), OpenAIChat()
    quick.add_all(payloads, names)
    for payload, name in zip(payloads, names, strict=True):
        single.add(payload, name=name)
        slow.add_decoded(json.loads(payload), name)
    assert (quick.response(), quick.error, quick.chunks) == (slow.response(), slow.error, slow.chunks)
    assert single.snapshot().response == slow.response()
    assert (slow.error is not None) == ("error" in names)


def test_dicts_take_it_too():
    """A chunk that somebody decoded is not walked through when it repeats the one before; another one is."""
    stream = StreamAccumulator("openai-chat")
    first, like, other = (json.loads(frame(text, **more)) for text, more in (("a", {}), ("b", {}), ("c", {"late": 1})))
    costs = [work(partial(stream.add, chunk)) for chunk in (first, like, like, other)]
    assert costs[1] == costs[2] < costs[3] / 2
    data = stream.finish().data
    assert (data.output_message.content, data.response["late"], data.chunks) == ("abbc", 1, 4)


@pytest.mark.parametrize("padded", [{}, {"obfuscation": "abc", "sequence_number": 0}], ids=["plain", "padded"])
@pytest.mark.parametrize("other", range(len(OTHERS) + 1))
def test_one_event_per_read_equals_the_whole(other, padded):
    """Reads of one event each, as a paced stream has, fold as the same bytes in one read, whatever comes between."""
    payloads = [frame(f"word {number} ", **padded) for number in range(6)]
    # Here the end of what repeats begins with the quote that its front ends with.
    overlapping = payloads[0].replace(b'"word 0 "', b'"')
    payloads.insert(4, [*OTHERS, overlapping][other])
    events = [b"data: " + payload + b"\n\n" for payload in payloads]
    one_by_one, whole = StreamAccumulator("openai-chat"), StreamAccumulator("openai-chat")
    for event in events:
        one_by_one.feed(event)
    whole.feed(b"".join(events))
    first, second = one_by_one.finish().data, whole.finish().data
    assert first.response == second.response
    assert first.integrity == second.integrity
    assert first.chunks == second.chunks


def test_a_long_event_between_runs():
    """An event much longer than a window, amid runs and in one read with them, is folded like any other."""
    payloads = [frame(f"w{number} ") for number in range(300)]
    payloads.insert(150, frame("x" * 200_000, late=1))
    payloads.append(frame("y" * 100_000))
    body = b"".join(b"data: " + payload + b"\n\n" for payload in payloads)
    for size in (len(body), 65536, 4096, 700):
        stream = StreamAccumulator("openai-chat")
        for at in range(0, len(body), size):
            stream.feed(body[at : at + size])
        data = stream.finish().data
        said = "".join(json.loads(payload)["choices"][0]["delta"]["content"] for payload in payloads)
        assert data.response["choices"][0]["message"]["content"] == said
        assert data.chunks == len(payloads)


def test_a_read_without_any_end_of_an_event():
    """A read of many bytes in which no event ends is held, however much of it there is."""
    stream = StreamAccumulator("openai-chat")
    stream.feed(b"data: " + frame("a") + b"\n\n")
    stream.feed(b"data: " + frame("b" * 60_000)[:50_000])
    stream.feed(frame("b" * 60_000)[50_000:] + b"\n\n")
    assert stream.finish().data.response["choices"][0]["message"]["content"] == "a" + "b" * 60_000


def test_a_long_read_that_ends_within_an_event():
    """What a long read leaves unfinished goes before the next read, though that looks like one more event."""
    events = [b"data: " + frame(f"w{number} ") + b"\n\n" for number in range(6)]
    comment = b": " + b"so much to say " * 2000 + b"\n"
    begun = b"data: 1,\n"  # a second line of data makes no JSON of it
    reads = [b"".join(events[:3]), events[3][:20], events[3][20:] + comment + begun, events[4], events[5]]
    whole, cut = (StreamAccumulator("openai-chat") for _ in range(2))
    whole.feed(b"".join(reads))
    for read in reads:
        cut.feed(read)
    first, second = whole.finish().data, cut.finish().data
    assert first.integrity.malformed == 1
    assert (first.response, first.chunks, first.integrity) == (second.response, second.chunks, second.integrity)


def test_a_long_read_is_not_copied():
    """What is left of a long read is not copied again and again, also where no event repeats the one before."""
    body = b"".join(b"data: " + frame("a", note="x" * (number % 40)) + b"\n\n" for number in range(10_000))
    stream = StreamAccumulator("openai-chat")
    assert memory([lambda: stream.feed(body)]) < len(body) / 2
    assert stream.snapshot().chunks == 10_000


def test_holes_that_are_proved_together_are_proved_rightly():
    """Where a key stands elsewhere first, each hole is sought for itself, and the frame is cut at the right ones."""
    decoy = {"note": {"sequence_number": 4, "obfuscation": "no", "content": "no"}}
    first, second = (
        json.dumps({**decoy, **json.loads(frame(text, obfuscation=pad, sequence_number=number))}).encode()
        for text, pad, number in (("a", "x1", 4), ("b", "y22", 5))
    )
    repeat, cell = pattern(first)
    assert run(repeat, second.replace(b'"no"', b'"na"')) == 0
    assert run(repeat, second) == 1
    assert cell.value() == "b"


DELTA = '{"type":"content_block_delta","index":%s,"delta":{"type":"%s","%s":%s}%s}'
FIELDS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}
STARTS = [
    {"type": "text", "text": ""},
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    {"type": "server_tool_use", "id": "s", "name": "g", "input": {}},
]


@st.composite
def messages(draw):
    """Anthropic payloads: runs of deltas spelled the usual way or nearly so, with blocks that fit them or do not."""
    payloads = [b'{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","content":[]}}']
    for _ in range(draw(st.integers(1, 6))):
        index = draw(st.integers(0, 2))
        if draw(st.integers(0, 3)):
            start = {"type": "content_block_start", "index": index, "content_block": draw(st.sampled_from(STARTS))}
            payloads.append(json.dumps(start, separators=(",", ":")).encode())
        kind = draw(st.sampled_from(sorted(FIELDS)))
        field = draw(st.sampled_from([FIELDS[kind]] * 4 + ["text", "partial_json"]))
        at = draw(st.sampled_from([str(index)] * 6 + ["00", "1.0", "-1", "99999"]))
        rest = draw(
            st.sampled_from(
                [""] * 4 + [" "] * 4 + ["\t", ',"index":1', ',"more":null', ',"delta":{"type":"text_delta"}']
            )
        )
        for _ in range(draw(st.integers(1, 5) | st.integers(8, 30))):
            text = json.dumps(draw(TEXTS), ensure_ascii=draw(st.booleans()))
            if not draw(st.integers(0, 20)):
                text = draw(st.sampled_from(["null", "7", '"a","text":"b"', '"\\ud83d"', '"\t"']))
            rest = rest if rest.strip(" ") or not rest else " " * draw(st.integers(1, 9))
            payloads.append((DELTA % (at, kind, field, text, rest)).encode("utf-8", "surrogatepass"))
        if draw(st.booleans()):
            payloads.append(b'{"type":"content_block_stop","index":%d}' % index)
    return payloads


@settings(max_examples=400, deadline=None)
@given(messages(), st.data())
def test_usual_deltas_equal_the_complete_way(payloads, data):
    """Deltas of Anthropic's usual spelling, which are folded undecoded from the first, fold as if they were decoded."""
    body = b"".join(b"event: content_block_delta\ndata: " + payload + b"\n\n" for payload in payloads)
    quick, framed, slow = StreamAccumulator("anthropic-messages"), AnthropicMessages(), AnthropicMessages()
    at = 0
    while at < len(body):
        size = data.draw(st.integers(1, 4000))
        quick.feed(body[at : at + size])
        at += size
    framed.add_all(payloads, None)
    dicts = StreamAccumulator("anthropic-messages")
    for payload in payloads:
        try:
            event = json.loads(payload)
        except ValueError:
            slow.add(payload)
            dicts.add(payload)
        else:
            slow.add_decoded(event)
            dicts.add(event)
    record = quick.snapshot()
    assert dicts.snapshot().response == record.response
    assert (dicts.snapshot().chunks, dicts.snapshot().integrity.anomalies) == (slow.chunks, slow.anomalies)
    assert record.response == without_surrogates(slow.response())
    assert framed.response() == slow.response()
    assert (record.chunks, framed.chunks) == (slow.chunks, slow.chunks)
    assert framed.anomalies == slow.anomalies
    assert record.integrity.anomalies == slow.anomalies


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=60), st.data())
def test_numbered_events_equal_the_complete_way(texts, data):
    """Deltas of the Responses API in reads of any size: gaps, repeats and odd padding are noted as one by one."""
    order = data.draw(
        st.permutations(["item_id", "output_index", "delta", "logprobs", "obfuscation", "sequence_number"])
    )
    number, events = 0, []
    for text in texts:
        number += data.draw(st.sampled_from([1] * 20 + [0, 2]))
        pad = data.draw(st.sampled_from(["a1", "b2c"] * 8 + ["x y", '"', ""]))
        said = {"item_id": "i", "output_index": 0, "delta": text, "logprobs": [], "obfuscation": pad}
        said = {
            "type": "response.output_text.delta",
            **{key: {**said, "sequence_number": number}[key] for key in order},
        }
        if not data.draw(st.integers(0, 30)):
            said["logprobs"] = [{"token": text, "logprob": -0.5}]
        events.append(said)
    payloads = [json.dumps(event, separators=(",", ":")).encode() for event in events]
    body = b"".join(b"event: response.output_text.delta\ndata: " + payload + b"\n\n" for payload in payloads)
    quick, paced, single, dicts = (StreamAccumulator("openai-responses") for _ in range(4))
    framed, slow = OpenAIResponses(), OpenAIResponses()
    at = 0
    while at < len(body):
        size = data.draw(st.integers(1, 6000))
        quick.feed(body[at : at + size])
        at += size
    framed.add_all(payloads, None)
    for event, payload in zip(events, payloads, strict=True):
        slow.add_decoded(event)
        paced.feed(b"event: response.output_text.delta\ndata: " + payload + b"\n\n")
        single.add(payload)
        dicts.add(event)
    assert framed.response() == slow.response()
    assert (framed.chunks, set(framed.anomalies)) == (slow.chunks, set(slow.anomalies))
    for record in (quick.snapshot(), paced.snapshot(), single.snapshot(), dicts.snapshot()):
        assert record.response == slow.response()
        assert (record.chunks, set(record.integrity.anomalies)) == (slow.chunks, set(slow.anomalies))


@pytest.mark.parametrize("padded", [1, 9])
def test_usual_deltas_are_never_decoded(padded):
    """In an Anthropic stream no delta is decoded, not even the first of a block, be they padded with spaces or not."""

    class Decoding(AnthropicMessages):
        decoded = 0

        def add_event(self, event, name=None):
            self.decoded += event["type"] == "content_block_delta"
            return super().add_event(event, name)

    fold = Decoding()
    for index, start in enumerate(STARTS[:3]):
        kind = ("text_delta", "thinking_delta", "input_json_delta")[index]
        opened = {"type": "content_block_start", "index": index, "content_block": start}
        deltas = [(DELTA % (index, kind, FIELDS[kind], '"w"', " " * (at % padded))).encode() for at in range(50)]
        fold.add_all([json.dumps(opened).encode(), *deltas], None)
    assert fold.decoded == 0
    assert fold.chunks == 153


def test_a_line_end_within_a_run_ends_the_line():
    """A line end is white space to JSON but ends the `data` line of an event, which then repeats no other."""
    events = []
    for number in range(40):
        said = {"type": "response.output_text.delta", "item_id": "i", "delta": f"w{number} ", "logprobs": []}
        events.append(json.dumps({**said, "obfuscation": "ab", "sequence_number": number}, separators=(",", ":")))
    events[30] = events[30].replace('"sequence_number":', '"sequence_number":\n')
    body = "".join(f"event: response.output_text.delta\ndata: {event}\n\n" for event in events).encode()
    record = fold_pieces([body], "openai-responses").data
    assert record.chunks == 39
    assert record.integrity.malformed == 1
    assert "w30" not in record.output_message.content
