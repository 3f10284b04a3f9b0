"""One live stream: ends, timings, snapshots, limits and what is never raised."""

import json
import random
import threading
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamfold
from streamfold import StreamAccumulator, UsageError, WireError
from streamfold.testing import cuts, fold_pieces, shuffled, sse, stable
from streamfold.types import Cost


def chunk(text=None, *, index=0, finish=None, **top):
    delta = {} if text is None else {"content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1755300000,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
        **top,
    }


USAGE = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1755300000,
    "model": "gpt-4o-2024-08-06",
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}
HELLO = [chunk(""), chunk("Hel"), chunk("lo "), chunk("there"), chunk(finish="stop"), USAGE]


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.now = 5_000_000_000

    def __call__(self):
        return self.now

    def go(self, ms):
        self.now += int(ms * 1e6)


def test_fold_gives_the_whole_response():
    """The three-line use: bytes in, neutral record and native response out."""
    done = streamfold.fold(sse(HELLO, done=True), format="openai-chat")
    assert done.data.output_message.content == "Hello there"
    assert done.data.token_usage.total_tokens == 10
    assert done.data.status == "success"
    assert done.data.response == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1755300000,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "message": {"content": "Hello there"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
    assert done.data.integrity == streamfold.stream.Integrity(end_marker=True)


BODY = sse(HELLO, done=True)
NO_DONE = sse(HELLO)
CUT = sse(HELLO[:3])
FAILED = CUT + sse([{"error": {"message": "overloaded", "type": "server_error", "code": 503}}])


@pytest.mark.parametrize(
    ("body", "told", "status", "end_marker", "anomalies"),
    [
        (BODY, None, "success", True, []),
        (BODY, "cancelled", "success", True, []),
        (BODY, "truncated", "success", True, []),
        (NO_DONE, None, "success", False, ["missing_done"]),
        (NO_DONE, "cancelled", "cancelled", False, []),
        (NO_DONE, "truncated", "truncated", False, []),
        (CUT, None, "truncated", False, []),
        (CUT, "cancelled", "cancelled", False, []),
        (CUT, "timeout", "timeout", False, []),
        (CUT, "abandoned", "abandoned", False, []),
        (CUT, "error", "error", False, []),
        (FAILED, None, "error", False, []),
        (FAILED, "cancelled", "error", False, []),
        (b"", None, "empty", False, []),
        (b": keep-alive\n\n", None, "empty", False, []),
        (b"data: [DONE]\n\n", None, "empty", True, []),
        (b"", "cancelled", "cancelled", False, []),
    ],
)
def test_every_end_is_told_apart(body, told, status, end_marker, anomalies):
    """The outcome table: what the protocol said goes before what the transport saw."""
    stream = StreamAccumulator("openai-chat")
    stream.feed(body)
    data = stream.finish(told).data
    assert (data.status, data.integrity.end_marker, data.integrity.anomalies) == (status, end_marker, anomalies)


def test_with_two_choices_both_must_have_finished():
    """Bytes that end while one of two choices goes on are a truncated stream, though the other said its reason."""
    half = [chunk("a"), chunk("b", index=1), chunk(finish="stop")]
    assert streamfold.fold(sse(half), "openai-chat").data.status == "truncated"
    assert streamfold.fold(sse([*half, chunk(index=1, finish="stop")]), "openai-chat").data.status == "success"


class Prices:
    """A catalog as a user might write it; one that fails if asked to."""

    def __init__(self, cost=None):
        self.cost = cost

    def cost_of(self, data, request=None):
        if self.cost is None:
            raise KeyError(data.response_model)
        return self.cost, None


def test_the_catalog_prices_a_stream_and_cannot_break_it():
    """A catalog's cost is in the record; one that fails leaves null and a reason; without one there is a reason too."""
    cost = Cost(0.5)
    assert streamfold.fold(BODY, "openai-chat", catalog=Prices(cost)).data.cost == cost
    failed = streamfold.fold(BODY, "openai-chat", catalog=Prices()).data
    assert (failed.cost, failed.cost_reason) == (None, "the catalog failed: KeyError")
    assert streamfold.fold(BODY, "openai-chat").data.cost_reason == "no catalog"


@pytest.mark.parametrize("body", [CUT, FAILED])
def test_an_end_never_erases(body):
    """Text that arrived stays, however the stream ended."""
    for told in (None, "cancelled", "timeout", "abandoned", "error"):
        stream = StreamAccumulator("openai-chat")
        stream.feed(body)
        assert stream.finish(told).data.output_message.content == "Hello "


def test_an_error_from_the_transport_is_kept_with_the_text():
    """An exception that the caller saw is the error of the record, and what had arrived is beside it."""
    stream = StreamAccumulator("openai-chat")
    stream.feed(CUT)
    data = stream.finish("truncated", ConnectionResetError("reset by peer")).data
    assert data.status == "truncated"
    assert data.error_details.type == "ConnectionResetError"
    assert data.output_message.content == "Hello "


def test_an_http_error_body_is_an_error_with_its_status():
    """A body that came with HTTP 429 is an error that may be retried."""
    body = json.dumps({"error": {"message": "slow down", "type": "rate_limit_error", "code": "rate_limited"}})
    data = streamfold.read(body.encode(), "openai-chat", status_code=429).data
    assert data.status == "error"
    assert (data.error_details.status_code, data.error_details.retryable) == (429, True)
    assert data.error_details.message == "slow down"
    assert data.stream is False


def test_the_http_status_of_an_answer_beats_what_its_error_type_suggests():
    """A server_error that came with 503 is a 503."""
    body = b'{"error":{"message":"x","type":"server_error"}}'
    error = streamfold.read(body, "openai-chat", status_code=503).data.error_details
    assert (error.type, error.status_code, error.retryable) == ("server_error", 503, True)


def test_finish_is_idempotent():
    """All who ask get the same object, and nothing that comes later changes it."""
    stream = StreamAccumulator("openai-chat")
    stream.feed(CUT)
    first = stream.finish()
    before = msgspec.json.encode(first.data)
    stream.feed(BODY)
    assert stream.add(chunk("more")) is False
    assert stream.finish("error", "late") is first
    assert msgspec.json.encode(first.data) == before
    assert stream.late == 2


def test_snapshots_disturb_nothing_and_do_not_change():
    """A snapshot after every read shows the text so far, stays as it was, and the final is the same without it."""
    stream = StreamAccumulator("openai-chat")
    seen = []
    for event in HELLO:
        stream.feed(sse([event]))
        seen.append(stream.snapshot())
    texts = [data.output_message.content for data in seen]
    assert texts == ["", "Hel", "Hello ", "Hello there", "Hello there", "Hello there"]
    assert {data.status for data in seen} == {"processing"}
    assert seen[0].latency_ms is None
    stream.feed(b"data: [DONE]\n\n")
    assert stable(stream.finish()) == stable(streamfold.fold(BODY, "openai-chat"))
    assert [data.output_message.content for data in seen] == texts


def test_timings_come_from_the_clock_that_was_given():
    """First chunk, first output, first content, longest gap and time per token are four different numbers."""
    clock = Clock()
    stream = StreamAccumulator("openai-chat", clock=clock, wall=lambda: 1_700_000_000.0)
    clock.go(80)
    stream.feed(b": ping\n\n")
    clock.go(20)
    stream.feed(sse([chunk("")]))  # a role-only chunk
    clock.go(200)
    stream.feed(sse([{"choices": [{"index": 0, "delta": {"reasoning_content": "h"}}]}]))
    clock.go(600)
    stream.feed(sse([chunk("Hi")]))
    clock.go(50)
    stream.feed(sse([chunk(finish="stop"), USAGE]))
    clock.go(50)
    data = stream.finish().data
    assert data.time_to_first_chunk_ms == pytest.approx(100)
    assert data.time_to_first_token_ms == pytest.approx(300)
    assert data.time_to_first_content_ms == pytest.approx(900)
    assert data.max_gap_ms == pytest.approx(600)
    assert data.time_per_output_token_ms == pytest.approx(600 / 2)
    assert data.latency_ms == pytest.approx(1000)
    assert data.chunks == 5
    assert data.start_timestamp == "2023-11-14T22:13:20.000Z"
    assert data.end_timestamp == "2023-11-14T22:13:21.000Z"


@pytest.mark.parametrize("kind", [bytes, memoryview], ids=["short cut", "complete way"])
def test_times_that_go_back(kind):
    """A read that is said to have come before the last one makes no gap, whichever way it is folded."""
    stream = StreamAccumulator("openai-chat", max_arrivals=9)
    start = stream._start
    for ms in (10, 20, 30, 15, 40):
        stream.feed(kind(sse([chunk("la ")])), at=start + ms * 1_000_000)
    assert list(stream.arrivals) == [ms * 1_000_000 for ms in (10, 20, 30, 40)]
    assert stream.snapshot().max_gap_ms == 10


def test_no_output_means_no_time_to_first_token():
    """Null when there was none: never 0 and never the latency."""
    data = streamfold.fold(sse([chunk(""), chunk(finish="stop")], done=True), "openai-chat").data
    assert data.time_to_first_chunk_ms is not None
    assert data.time_to_first_token_ms is None
    assert data.time_to_first_content_ms is None
    assert data.time_per_output_token_ms is None


def test_an_earlier_start_is_counted():
    """The latency is counted from when the request was sent, if the caller knows it."""
    clock = Clock()
    sent = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    wall = sent.timestamp() + 0.25
    stream = StreamAccumulator("openai-chat", start_timestamp=sent, clock=clock, wall=lambda: wall)
    stream.feed(sse([chunk("Hi")]))
    data = stream.finish().data
    assert data.start_timestamp == "2026-01-02T03:04:05.000Z"
    assert data.time_to_first_token_ms == pytest.approx(250, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_the_record_does_not_depend_on_the_cuts(seed):
    """Whole, byte by byte and cut at random give the same record."""
    rng = random.Random(seed)
    body = b"\xef\xbb\xbf" + BODY.replace(b"there", "😀 é".encode()).replace(b"\n", [b"\n", b"\r\n", b"\r"][seed])
    records = [stable(fold_pieces(pieces, "openai-chat")) for pieces in cuts(body, rng)]
    assert records[0]["output_message"]["content"] == "Hello 😀 é"
    assert all(record == records[0] for record in records)


PAYLOADS = [msgspec.json.encode(event) for event in HELLO] + [b"[DONE]"]


@given(st.randoms(use_true_random=False), st.integers(0, 12))
@settings(max_examples=60)
def test_any_order_with_repeats_gives_the_same_response(rng, repeats):
    """Numbered chunks may come in any order and any number of times."""
    stream = StreamAccumulator("openai-chat")
    for index, payload in shuffled(PAYLOADS, rng, repeats=repeats):
        stream.add(payload, chunk_index=index)
    data = stream.finish().data
    assert data.status == "success"
    assert data.response == streamfold.fold(BODY, "openai-chat").data.response
    assert data.integrity.missing == []
    assert data.integrity.duplicates == repeats


@given(st.integers(1, len(PAYLOADS) - 2), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_a_missing_chunk_is_listed_and_the_rest_is_kept(gone, rng):
    """A numbered chunk that never came is listed, and a stream with a gap is not a success."""
    stream = StreamAccumulator("openai-chat")
    for index, payload in shuffled(PAYLOADS, rng):
        if index != gone:
            stream.add(payload, chunk_index=index)
    data = stream.finish().data
    assert data.integrity.missing == [gone]
    assert data.status == "truncated"


def test_chunks_of_every_kind_are_taken():
    """Bytes, text, mappings, Structs and the OpenAI SDK's objects all fold to the same response."""
    from openai.types.chat import ChatCompletionChunk

    class Loose(msgspec.Struct):
        id: str
        object: str
        created: int
        model: str
        choices: list
        usage: dict | None = None

    kinds = {
        "bytes": msgspec.json.encode,
        "str": json.dumps,
        "dict": lambda event: event,
        "struct": lambda event: msgspec.convert(event, Loose),
        "pydantic": ChatCompletionChunk.model_validate,
    }
    responses = {}
    for kind, make in kinds.items():
        stream = StreamAccumulator("openai-chat")
        for event in HELLO:
            stream.add(make(event))
        responses[kind] = stream.finish().data.response
    responses["struct"].pop("usage") if responses["struct"]["usage"] is None else None
    assert all(response == responses["dict"] for response in responses.values())


def test_the_callers_chunk_is_never_changed():
    """A chunk that was handed over is the same afterwards, and later growth does not reach into it."""
    events = [chunk("Hi", usage=None), {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "a"}]}}]}]
    before = json.dumps(events)
    stream = StreamAccumulator("openai-chat")
    for event in events * 2:
        stream.add(event)
    stream.finish()
    assert json.dumps(events) == before


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (None, None, None)])
def test_what_the_caller_does_to_a_chunk_afterwards_is_not_seen(order):
    """A chunk is taken as it is when it is handed over, also one that waits: its owner may go on to use it."""
    said = {"finish": "stop", "usage": {"total_tokens": 3}}
    chunks = [chunk("Hi"), chunk("!"), chunk(**said)]
    chunks[0]["choices"][0]["delta"]["annotations"] = [{"type": "url_citation", "url_citation": {"url": "https://a"}}]
    chunks[1]["choices"][0]["logprobs"] = {"content": ({"token": "!", "logprob": -0.5},)}
    untouched = fold_pieces([sse(chunks)], "openai-chat").data.response
    stream = StreamAccumulator("openai-chat")
    for place in order if None not in order else range(3):
        stream.add(chunks[place], None if None in order else place)
        choice = (chunks[place]["choices"] or [{}])[0]
        choice["delta"].get("annotations", [{}])[0]["url_citation"] = None
        choice.get("logprobs", {}).get("content", [{}])[0]["token"] = "changed"
        chunks[place].get("usage", {})["total_tokens"] = 0
        choice["delta"].clear()
    assert stream.finish().data.response == untouched


def test_a_chunk_of_an_unreadable_kind_is_a_usage_error():
    """A chunk that is no chunk at all is the caller's mistake and says what is taken."""
    for index in (None, 3):  # one that has to wait is refused at once too, not when the stream ends
        stream = StreamAccumulator("openai-chat")
        with pytest.raises(UsageError, match="cannot read a chunk of type int"):
            stream.add(5, chunk_index=index)
        assert stream.finish().data.status == "empty"


def test_unknown_names_are_usage_errors():
    """An unknown format or outcome is named, with those that are known."""
    with pytest.raises(UsageError, match=r"unknown format 'opanai'.*openai-chat"):
        StreamAccumulator("opanai")
    with pytest.raises(UsageError, match=r"unknown outcome 'done'.*cancelled"):
        StreamAccumulator("openai-chat").finish("done")


MALFORMED = (
    sse([chunk("a")]) + b'data: {"choices":[{"index":0,"delta":{"con\n\n' + sse([chunk("b", finish="stop")], done=True)
)


def test_a_malformed_frame_does_not_break_the_stream():
    """One broken event among good ones is counted, and the good ones are folded."""
    data = streamfold.fold(MALFORMED, "openai-chat").data
    assert data.output_message.content == "ab"
    assert data.integrity.malformed == 1
    assert data.integrity.anomalies == ["malformed_json"]
    assert data.status == "success"


def test_an_error_event_in_plain_words_is_an_error():
    """A proxy that ends a stream with `event: error` and a sentence is believed, and the partial text stays."""
    body = CUT + b"event: error\ndata: upstream connect timeout\n\n"
    data = streamfold.fold(body, "openai-chat").data
    assert (data.status, data.error_details.message) == ("error", "upstream connect timeout")
    assert data.output_message.content == "Hello "


def test_strict_raises_for_a_malformed_frame():
    """With strict=True the same frame raises, and the error quotes it."""
    with pytest.raises(WireError, match=r"openai-chat: a frame is not JSON.*delta"):
        streamfold.fold(MALFORMED, "openai-chat", strict=True)


def test_what_came_before_a_malformed_frame_counts_also_if_that_raises():
    """A strict stream has taken the events before the one that it raised for, with their times and their size."""
    stream = StreamAccumulator("openai-chat", strict=True, max_bytes=10_000)
    for _ in range(3):
        with pytest.raises(WireError):
            stream.feed(sse([chunk("word ")] * 20) + b"data: {\n\n")
    stream.feed(sse([chunk("last")]))
    assert stream.has_output
    assert stream.snapshot().time_to_first_chunk_ms is not None
    assert "size_limit" in stream.snapshot().integrity.anomalies


def test_a_fault_of_ours_is_flagged_and_does_not_reach_the_caller(monkeypatch):
    """If the fold itself fails, the caller's stream goes on and the record says so."""
    from streamfold.wire.openai_chat import OpenAIChat

    def broken(self, event, name=None):
        raise ZeroDivisionError

    monkeypatch.setattr(OpenAIChat, "add_event", broken)
    stream = StreamAccumulator("openai-chat")
    stream.feed(BODY)
    assert "accumulator_error" in stream.finish().data.integrity.anomalies


def test_the_size_limit_keeps_what_came_and_marks_it():
    """Beyond the limit text no longer grows, end and usage are still taken, and the record says what it lost."""
    stream = StreamAccumulator("openai-chat", max_bytes=20_000)
    for _ in range(1000):
        stream.feed(sse([chunk("word ")]))
    stream.feed(sse([chunk(finish="stop"), USAGE], done=True))
    data = stream.finish().data
    assert data.status == "success"
    assert 0 < len(data.output_message.content) < 1000 * len("word ")
    assert data.output_message.content.startswith("word word ")
    assert data.token_usage.total_tokens == 10
    assert "size_limit" in data.integrity.anomalies
    assert data.integrity.dropped_bytes > 100_000


def test_the_size_limit_holds_for_frames_that_somebody_else_cut():
    """Payloads handed over many at a time count against the limit like bytes do."""
    stream = StreamAccumulator("openai-chat", max_bytes=5_000)
    for _ in range(20):
        stream.add_many([msgspec.json.encode(chunk("word ")) for _ in range(50)])
    data = stream.finish().data
    assert "size_limit" in data.integrity.anomalies
    assert len(data.output_message.content) < 1000 * len("word ")


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_of_every_kind_are_taken(kind):
    """A buffer that the caller goes on using is read like bytes, in the middle of a run too."""
    stream = StreamAccumulator("openai-chat")
    for event in [*HELLO[:2], *[chunk("la ")] * 20, *HELLO[4:]]:
        stream.feed(kind(sse([event])))
    assert stream.finish().data.output_message.content == "Hel" + "la " * 20


def test_auto_recognises_the_format_and_loses_nothing():
    """format="auto" names the format from the first frames, which are folded too."""
    done = streamfold.fold(b": hi\n\n" + BODY)
    assert done.format == "openai-chat"
    assert done.data.output_message.content == "Hello there"


def test_auto_says_when_it_cannot_tell():
    """A stream of no known format is a usage error of fold(), and a flagged record of a live stream."""
    body = b'data: {"hello":"world"}\n\n'
    with pytest.raises(UsageError, match="could not recognise the format"):
        streamfold.fold(body)
    stream = StreamAccumulator()
    stream.feed(body)
    data = stream.finish().data
    assert data.format is None
    assert "unknown_format" in data.integrity.anomalies


def test_the_tape_is_json_and_is_bounded():
    """raw_response is a JSON array of the frames, with a mark when not all were kept."""
    whole = streamfold.fold(BODY, "openai-chat", tape_bytes=1 << 20).data
    assert json.loads(whole.raw_response) == [*HELLO, "[DONE]"]
    short = json.loads(streamfold.fold(BODY, "openai-chat", tape_bytes=300).data.raw_response)
    assert short[:1] == HELLO[:1]
    assert short[-1]["streamfold"]["truncated"] is True


def test_the_tape_yields_typed_chunk_records():
    """chunks() gives one record per frame: its time, what it alone brought, its raw payload."""
    stream = StreamAccumulator("openai-chat", tape_bytes=1 << 20)
    stream.feed(BODY)
    records = list(stream.chunks())
    assert [record.delta.content if record.delta else None for record in records[:4]] == ["", "Hel", "lo ", "there"]
    assert records[4].finish_reason == "stop"
    assert records[5].token_usage.total_tokens == 10
    assert json.loads(records[1].raw) == HELLO[1]


def test_a_half_emoji_in_each_of_two_deltas_is_joined():
    """A pair of escapes cut between two deltas is one character again; a half that stays alone becomes U+FFFD."""
    body = b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % half
        for half in (rb"a\ud83d", rb"\ude00b", rb"\ud83d")
    )
    assert streamfold.fold(body, "openai-chat").data.output_message.content == "a😀b�"


def test_a_with_block_ends_the_stream_as_it_was_left():
    """Leaving normally is the end of the bytes, an exception is an error, a cancellation is one."""
    with StreamAccumulator("openai-chat") as stream:
        stream.feed(BODY)
    assert stream.finish().data.status == "success"
    with pytest.raises(ValueError, match="boom"), StreamAccumulator("openai-chat") as stream:
        raise ValueError("boom")
    assert stream.finish().data.error_details.message == "boom"
    with pytest.raises(GeneratorExit), StreamAccumulator("openai-chat") as stream:
        raise GeneratorExit
    assert stream.finish().data.status == "cancelled"


def test_one_stream_fed_by_many_threads_gets_every_chunk_once():
    """Eight threads hand over the same numbered chunks in orders of their own, and each chunk counts once."""
    words = [f"w{number} " for number in range(400)]
    payloads = [msgspec.json.encode(chunk(word)) for word in words]
    stream = StreamAccumulator("openai-chat")
    barrier = threading.Barrier(8)

    def observer(seed):
        rng = random.Random(seed)
        numbered = shuffled(payloads, rng)
        barrier.wait()
        for number, (index, payload) in enumerate(numbered):
            stream.add(payload, chunk_index=index)
            if number % 50 == 0:
                stream.snapshot()

    threads = [threading.Thread(target=observer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = stream.finish().data
    assert data.output_message.content == "".join(words)
    assert data.integrity.duplicates == 7 * len(words)
    assert data.integrity.missing == []
