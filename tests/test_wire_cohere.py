"""Cohere: the events of versions 2 and 1 of the chat API fold into the response of the same request unstreamed."""

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfold
from streamfold.testing import cuts, fold_pieces, sse, stable
from streamfold.types import AccumulatedData
from streamfold.wire.cohere_chat import HANDLERS, CohereChat

FIXTURES = Path(__file__).parent / "fixtures" / "cohere"


def folded(*events, names=None):
    fold = CohereChat()
    fold.add_all([msgspec.json.encode(event) for event in events], names)
    return fold


def viewed(response):
    data = AccumulatedData()
    CohereChat.view(response, data)
    return data


def fixture(name):
    return streamfold.fold((FIXTURES / name).read_bytes(), format="cohere").data


def events_of(name, kind=None):
    lines = (FIXTURES / name).read_bytes().splitlines()
    payloads = [line.removeprefix(b"data: ") for line in lines if line.startswith((b"data: {", b"{"))]
    events = [msgspec.json.decode(payload) for payload in payloads]
    return [event for event in events if kind in (None, event.get("type"))]


def event(kind, key=None, value=None, index=None, **more):
    place = {} if index is None else {"index": index}
    delta = {} if key is None else {"delta": {"message": {key: value}}}
    return {"type": kind, **place, **delta, **more}


def end(reason="COMPLETE", usage=None, **more):
    return {"type": "message-end", "delta": {"finish_reason": reason, **({"usage": usage} if usage else {}), **more}}


def counted(prompt, completion):
    return {"input_tokens": prompt, "output_tokens": completion}


def arguments(value, index=None):
    return event("tool-call-delta", "tool_calls", {"function": {"arguments": value}}, index)


def text(value, index=0):
    return event("content-delta", "content", {"text": value}, index)


def v1(kind, **fields):
    return {"event_type": kind, "is_finished": kind == "stream-end", **fields}


START = {
    "type": "message-start",
    "id": "m",
    "delta": {"message": {"role": "assistant", "content": [], "citations": []}},
}
OPEN_TEXT = event("content-start", "content", {"type": "text", "text": ""}, 0)


# ---------------------------------------------------------------------- version 2


def test_a_cited_answer_is_the_unstreamed_response():
    """Thinking, text and citations stand in the message as the unstreamed response has them."""
    data = fixture("cited.sse")
    assert data.response["message"] == {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "The document names two lakes."},
            {"type": "text", "text": "Zürich lies on the Zürichsee."},
        ],
        "citations": [each["delta"]["message"]["citations"] for each in events_of("cited.sse", "citation-start")],
    }
    assert data.response.keys() == {"id", "message", "finish_reason", "usage"}
    message = data.output_message
    assert (message.content, message.reasoning) == ("Zürich lies on the Zürichsee.", "The document names two lakes.")
    assert [cited["text"] for cited in message.annotations] == ["Zürich", "Zürichsee"]
    assert (data.status, data.finish_reason, data.raw_finish_reason) == ("success", "stop", "COMPLETE")


def test_tool_calls_keep_their_argument_text():
    """Calls grow by index, their arguments as the text that was sent, and a call without any stays without."""
    data = fixture("tools.sse")
    assert data.response["message"] == {
        "role": "assistant",
        "tool_plan": "I will ask for the weather and the time.",
        "tool_calls": [
            {
                "id": "weather_k2v0a8x1c9d3",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Zürich"}'},
            },
            {"id": "clock_p7m4s1q8w2e5", "type": "function", "function": {"name": "clock", "arguments": ""}},
        ],
    }
    assert data.output_message.content is None
    assert data.output_message.reasoning == "I will ask for the weather and the time."
    assert (data.finish_reason, data.arguments_complete) == ("tool_calls", True)


def test_a_cut_stream_is_cut():
    """Without `message-end` the stream is truncated, and a broken call stays as broken as it came."""
    data = fixture("cut.sse")
    assert (data.status, data.finish_reason, data.token_usage.source) == ("truncated", None, "missing")
    assert [call.arguments_complete for call in data.tool_calls] == [False]
    assert "finish_reason" not in data.response


@pytest.mark.parametrize(
    ("reason", "word", "status"),
    [
        ("COMPLETE", "stop", "success"),
        ("STOP_SEQUENCE", "stop", "success"),
        ("MAX_TOKENS", "length", "success"),
        ("ERROR_LIMIT", "length", "success"),
        ("TOOL_CALL", "tool_calls", "success"),
        ("ERROR_TOXIC", "content_filter", "success"),
        ("ERROR", None, "error"),
        ("TIMEOUT", None, "error"),
        ("USER_CANCEL", None, "success"),
        ("TOMORROWS", None, "success"),
    ],
)
def test_finish_reasons(reason, word, status):
    """Each finish reason has its OpenAI word, or none, and two of them are failures."""
    data = streamfold.fold(sse([START, OPEN_TEXT, text("a"), end(reason)], named=True), format="cohere").data
    assert (data.status, data.finish_reason, data.raw_finish_reason) == (status, word, reason)
    assert data.output_message.content == "a"


@pytest.mark.parametrize(
    ("frame", "kind", "message"),
    [
        (end("ERROR", error="out of service"), "ERROR", "out of service"),
        (end("TIMEOUT"), "TIMEOUT", None),
        (end("ERROR", error={"message": "no", "code": 500}), None, "no"),
        ({"message": "too many tokens", "id": "e"}, None, "too many tokens"),
        ({"error": {"message": "no", "type": "internal"}}, "internal", "no"),
    ],
)
def test_errors(frame, kind, message):
    """A failure may be told in `message-end`, or as Cohere's error body, and what came before it is kept."""
    data = streamfold.fold(sse([START, OPEN_TEXT, text("a"), frame]), format="cohere").data
    assert (data.status, data.error_details.type, data.error_details.message) == ("error", kind, message)
    assert data.output_message.content == "a"


@pytest.mark.parametrize(
    ("usage", "counts", "source"),
    [
        ({"tokens": counted(70, 9), "billed_units": counted(5, 7)}, (70, 9, 79), "derived"),
        ({"billed_units": counted(5.0, 7.0)}, (5, 7, 12), "derived"),
        ({"tokens": {"output_tokens": 9}}, (None, 9, None), "provider"),
        ({"tokens": counted(0, 0)}, (0, 0, 0), "derived"),
        ({"billed_units": {"search_units": 1}}, (None, None, None), "missing"),
        (None, (None, None, None), "missing"),
    ],
)
def test_usage(usage, counts, source):
    """Tokens count; billed units stand in only where there are none; both stay in the native response."""
    response = folded(START, end(usage=usage)).response()
    found = viewed(response).token_usage
    assert (found.prompt_tokens, found.completion_tokens, found.total_tokens, found.source) == (*counts, source)
    assert response.get("usage") == usage


def test_cached_tokens_are_part_of_the_prompt():
    """`cached_tokens` are cache reads, and searches are kept as what the server did."""
    usage = {"tokens": {"input_tokens": 9, "output_tokens": 1}, "cached_tokens": 8, "billed_units": {"search_units": 2}}
    found = viewed(folded(end(usage=usage)).response()).token_usage
    assert found.prompt_tokens_details.cached_read_tokens == 8
    assert found.server_tool_use == {"search_units": 2}


def test_reasoning_tokens_are_part_of_the_output():
    """Cohere counts the thinking among the tokens of the output, and says how many of them it was."""
    usage = {"tokens": {"input_tokens": 9, "output_tokens": 34, "reasoning_tokens": 30}, "cached_tokens": 8}
    found = viewed(folded(end(usage=usage)).response()).token_usage
    assert (found.completion_tokens, found.completion_tokens_details.reasoning_tokens) == (34, 30)


ODD = {
    "a delta whose start was lost": ([START, text("a"), text("b")], "content", [{"text": "ab"}], "missing_block_start"),
    "blocks out of order": (
        [event("content-start", "content", {"type": "text", "text": "b"}, 3), OPEN_TEXT, text("a"), text("c", 3)],
        "content",
        [{"type": "text", "text": "a"}, {"type": "text", "text": "bc"}],
        None,
    ),
    "an index used again": (
        [event("citation-start", "citations", {"start": n}, 0) for n in (1, 2)],
        "citations",
        [{"start": 1}, {"start": 2}],
        "block_index_reused",
    ),
    "several citations at once": (
        [
            event("citation-start", "citations", [{"start": 1}, {"start": 2}, {"start": 3}], 0),
            event("citation-end", index=0),
            event("citation-start", "citations", [{"start": 4}], 1),
        ],
        "citations",
        [{"start": 1}, {"start": 2}, {"start": 3}, {"start": 4}],
        None,
    ),
    "several calls at once": (
        [event("tool-call-start", "tool_calls", [{"id": "a"}, {"id": "b"}], 0), arguments("1", 1), arguments("2", 0)],
        "tool_calls",
        [{"id": "a", "function": {"arguments": "2"}}, {"id": "b", "function": {"arguments": "1"}}],
        None,
    ),
    "no index": (
        [event("tool-call-start", "tool_calls", {"id": "a"}), arguments("{}")],
        "tool_calls",
        [{"id": "a", "function": {"arguments": "{}"}}],
        "missing_index",
    ),
    "a list of one": ([event("tool-call-start", "tool_calls", [{"id": "a"}], 0)], "tool_calls", [{"id": "a"}], None),
    "bare text": (
        [OPEN_TEXT, *[event("content-delta", "content", "a", 0)] * 3],
        "content",
        [{"type": "text", "text": "aaa"}],
        None,
    ),
    "an unknown field": (
        [event("content-start", "content", {"type": "text", "text": "", "new": 1}, 0)],
        "content",
        [{"type": "text", "text": "", "new": 1}],
        None,
    ),
    "content in the start": (
        [{"type": "message-start", "delta": {"message": {"content": [{"type": "text", "text": "a"}]}}}, text("b")],
        "content",
        [{"type": "text", "text": "ab"}],
        None,
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_oddities(name):
    """What servers do beyond the protocol loses nothing, and is said where it is doubtful."""
    events, key, wanted, code = ODD[name]
    fold = folded(*events)
    assert fold.response()["message"][key] == wanted
    assert fold.anomalies == ([code] if code else [])


def test_the_type_in_the_data_counts_and_the_event_name_stands_in():
    """The `type` of the data is authoritative; where it is missing, the SSE event's name is the type."""
    nameless = {key: value for key, value in text("b").items() if key != "type"}
    fold = folded(START, OPEN_TEXT, text("a"), nameless, names=["message-start", None, "message-end", "content-delta"])
    assert fold.response()["message"]["content"][0]["text"] == "ab"
    assert not fold.ended


def test_logprobs_and_prompt_belong_to_the_response():
    """Fields beside a delta are fields of the response: log probabilities in order, a debug event's prompt."""
    first, second = ({"text": value, "token_ids": [1], "logprobs": [-0.5]} for value in "ab")
    events = [START, {"type": "debug", "prompt": "<|START|>"}, OPEN_TEXT]
    fold = folded(*events, {**text("a"), "logprobs": first}, {**text("b"), "logprobs": second})
    assert fold.response()["logprobs"] == [first, second]
    assert fold.response()["prompt"] == "<|START|>"


def test_unknown_events_are_kept():
    """An event of tomorrow is kept in the native response and noted."""
    fold = folded(START, {"type": "plan-b", "x": 1})
    assert fold.response()["unknown_events"] == [{"type": "plan-b", "x": 1}]
    assert fold.anomalies == ["unknown_event"]


# ---------------------------------------------------------------------- version 1


@pytest.mark.parametrize("name", ["v1_search.jsonl", "v1_tools.jsonl"])
def test_the_end_of_a_version_1_stream_is_the_response(name):
    """`stream-end` has the whole response, and the fold returns just that."""
    data = fixture(name)
    assert data.response == events_of(name)[-1]["response"]
    assert (data.status, data.raw_finish_reason, data.integrity.anomalies) == ("success", "COMPLETE", [])


@pytest.mark.parametrize("name", ["v1_search.jsonl", "v1_tools.jsonl"])
def test_a_cut_version_1_stream_has_what_was_streamed(name):
    """Without its end, a stream of version 1 gives the same fields from what was streamed."""
    whole = events_of(name)[-1]["response"]
    streamed = folded(*events_of(name)[:-1]).response()
    assert streamed == {key: whole[key] for key in streamed}
    assert {"text", "generation_id"} <= streamed.keys()


def test_version_1_calls_from_their_chunks():
    """Calls are put together from chunks; only whole parameters become an object, broken ones stay text."""
    chunks = [{"index": 0, "name": "f"}, {"index": 0, "parameters": '{"a":'}, {"index": 0, "parameters": "1}"}]
    chunks += [{"index": 1, "name": "g", "parameters": '{"b":'}]
    fold = folded(v1("stream-start", generation_id="g"), *(v1("tool-calls-chunk", tool_call_delta=c) for c in chunks))
    assert fold.response() == {
        "generation_id": "g",
        "tool_calls": [{"name": "f", "parameters": {"a": 1}}, {"name": "g", "parameters": '{"b":'}],
    }
    calls = viewed(fold.response()).tool_calls
    assert [call.function.arguments for call in calls] == ['{"a":1}', '{"b":']
    assert [call.arguments_complete for call in calls] == [True, False]


def test_version_1_view():
    """Version 1 has its usage in `meta`, its own finish reason for calls, and ids of its own."""
    data = fixture("v1_tools.jsonl")
    assert (data.finish_reason, data.raw_finish_reason, data.response_id) == ("tool_calls", "COMPLETE", "r1")
    assert (data.token_usage.prompt_tokens, data.token_usage.completion_tokens) == (700, 20)
    assert data.output_message.tool_calls[0].function.arguments == '{"city":"Zürich"}'
    searched = fixture("v1_search.jsonl")
    assert searched.token_usage.server_tool_use == {"search_units": 1}
    assert [cited["text"] for cited in searched.output_message.annotations] == ["Zürichsee"]


def test_an_end_that_says_otherwise_is_believed_and_noted():
    """Where `stream-end` differs from the deltas it counts, and the difference is noted."""
    fold = folded(
        v1("text-generation", text="ab"), v1("stream-end", finish_reason="COMPLETE", response={"text": "abc"})
    )
    assert fold.response()["text"] == "abc"
    assert fold.anomalies == ["done_differs_from_deltas"]


GENERATED = {"id": "r", "generations": [{"id": "g", "text": " Hi.", "finish_reason": "COMPLETE"}], "prompt": "Hello"}


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_a_generated_text(named):
    """`/v1/generate` ends with its whole response, which has no field of the stream; its events once had no names."""
    ending = {"finish_reason": "COMPLETE", "response": GENERATED}
    events = [v1("text-generation", text=" Hi"), v1("text-generation", text="."), v1("stream-end", **ending)]
    if not named:
        events = [{key: value for key, value in each.items() if key != "event_type"} for each in events]
    body = b"".join(msgspec.json.encode(each) + b"\n" for each in events)
    run = streamfold.fold(body)
    assert (run.format, run.data.response, run.data.stream_type) == ("cohere", GENERATED, "text.completion")
    assert (run.data.status, run.data.finish_reason, run.data.output_message.content) == ("success", "stop", " Hi.")
    assert run.data.integrity.anomalies == []
    cut = streamfold.fold(body[: body.rindex(b'{"', 0, body.index(b"COMPLETE") - 20)])
    assert (cut.data.status, cut.data.response) == ("truncated", {"text": " Hi."})


def test_several_generated_texts():
    """Several texts of `/v1/generate` come under their indexes, and a cut stream keeps them apart."""
    told = [(1, "Ah"), (0, "Hel"), (1, "oy"), (0, "lo")]
    events = [v1("text-generation", index=index, text=text) for index, text in told]
    texts = [{"index": 0, "text": "Hello"}, {"index": 1, "text": "Ahoy"}]
    assert folded(*events).response() == {"generations": texts}
    whole = {"id": "r", "generations": [{**text, "id": "g", "finish_reason": "MAX_TOKENS"} for text in texts]}
    fold = folded(*events, v1("stream-end", finish_reason="MAX_TOKENS", response=whole))
    assert (fold.response(), fold.ended, fold.anomalies) == (whole, True, [])
    data = viewed(whole)
    assert (data.output_message.content, data.finish_reason) == ("Hello", "length")
    assert [(each.index, each.message.content) for each in data.choices] == [(0, "Hello"), (1, "Ahoy")]


# ---------------------------------------------------------------------- both


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.iterdir()))
def test_cuts_do_not_matter(name):
    """However a body is cut, the record is the same, and `auto` knows the format."""
    body = (FIXTURES / name).read_bytes()
    records = [stable(fold_pieces(pieces, "cohere")) for pieces in cuts(body, random.Random(3))]
    assert all(record == records[0] for record in records)
    assert streamfold.fold(body).format == "cohere"


@pytest.mark.parametrize("name", ["cited.sse", "tools.sse", "v1_search.jsonl", "v1_tools.jsonl"])
def test_an_unstreamed_response_is_read_alike(name):
    """The folded response, read as an unstreamed one, gives the same view and stays as it is."""
    data = fixture(name)
    read = streamfold.read(data.response)
    assert (read.format, read.data.response, read.data.status) == ("cohere", data.response, "success")
    for field in ("output_message", "token_usage", "finish_reason", "response_id", "tool_calls"):
        assert getattr(read.data, field) == getattr(data, field)


REPEATING = {
    "text": [START, OPEN_TEXT, text("a")],
    "thinking": [
        event("content-start", "content", {"type": "thinking"}, 0),
        event("content-delta", "content", {"thinking": "a"}, 0),
    ],
    "plan": [event("tool-plan-delta", "tool_plan", "a")],
    "arguments": [
        event("tool-call-start", "tool_calls", {"id": "c", "function": {"name": "f", "arguments": ""}}, 0),
        arguments("a", 0),
    ],
    "version 1 text": [v1("text-generation", text="a")],
    "version 1 parameters": [v1("tool-calls-chunk", tool_call_delta={"index": 0, "parameters": "a"})],
}


@pytest.mark.parametrize("kind", REPEATING)
def test_repeating_deltas_are_folded_without_decoding(kind):
    """Deltas that differ only in their text take the short cut, with the result of the long way."""
    *opening, delta = REPEATING[kind]
    events = opening + [delta] * 50
    fold = folded(*events)
    assert fold.repeat is not None
    assert fold.repeat.hits >= 48
    slow = CohereChat()
    for each in events:
        slow.add_decoded(each)
    assert fold.response() == slow.response()
    assert fold.chunks == slow.chunks == len(events)


def test_what_was_folded_stays_when_the_fold_is_full():
    """After `close` no text grows, while the end, the finish reason and the usage are still taken."""
    fold = folded(START, OPEN_TEXT, text("a"))
    fold.close()
    usage = {"tokens": {"input_tokens": 1, "output_tokens": 2}}
    for each in (
        text("b"),
        event("content-start", "content", {"type": "text", "text": "c"}, 1),
        end("MAX_TOKENS", usage),
    ):
        fold.add(msgspec.json.encode(each))
    assert fold.response()["message"]["content"] == [{"type": "text", "text": "a"}]
    assert (fold.ended, fold.response()["finish_reason"], fold.response()["usage"]) == (True, "MAX_TOKENS", usage)


def test_snapshots_disturb_nothing():
    """A response read at every event leaves the stream, and the earlier responses, as they were."""
    fold, events, snapshots = CohereChat(), events_of("cited.sse"), []
    for each in events:
        fold.add_decoded(each)
        snapshots.append((fold.response(), msgspec.json.encode(fold.response())))
    assert all(msgspec.json.encode(snapshot) == taken for snapshot, taken in snapshots)
    assert fold.response() == fixture("cited.sse").response


WORDS = """type event_type index id delta message content text thinking tool_plan tool_calls citations function
arguments name finish_reason error usage tokens billed_units response tool_call_delta parameters is_finished
meta logprobs"""
KEYS = st.sampled_from(WORDS.split())
SCALARS = st.none() | st.booleans() | st.integers(-1, 3) | st.floats(allow_nan=False) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS | st.sampled_from(sorted(HANDLERS)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)
DELTAS = st.builds(
    lambda field, kind, rest, value: {**rest, field: kind, "delta": {"message": value}},
    st.sampled_from(["type", "event_type"]),
    st.sampled_from([*sorted(HANDLERS), "else"]),
    OBJECTS,
    OBJECTS,
)


@given(st.lists(DELTAS | OBJECTS, max_size=6), st.booleans())
def test_nothing_is_raised(events, full):
    """Any JSON objects fold, unchanged, and whatever became of them is viewed, without an exception."""
    fold = CohereChat()
    for place, each in enumerate(events):
        payload = msgspec.json.encode(each)
        for _ in range(2):
            fold.add(payload)
        fold.add_decoded(each)
        assert msgspec.json.encode(each) == payload
        if full and place == 1:
            fold.close()
    response = fold.response()
    if response is not None:
        viewed(response)
    assert "accumulator_error" not in fold.anomalies


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "a"}}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I"}}},
        {"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "boom"}},
    ],
)
def test_recognised_without_its_beginning(event):
    """A stream whose first event was lost is still known for what it is."""
    assert streamfold.fold(b"data: " + msgspec.json.encode(event) + b"\n\n").data.format == "cohere"
