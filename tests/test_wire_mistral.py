"""Mistral: chats, conversations and audio fold into what the same request returns unstreamed."""

import base64
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfold
from streamfold.testing import cuts, fold_pieces, sse, stable
from streamfold.types import AccumulatedData
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT
from streamfold.wire.mistral_chat import HANDLERS, MistralChat

FIXTURES = Path(__file__).parent / "fixtures" / "mistral"


def folded(*events, names=None):
    fold = MistralChat()
    fold.add_all([msgspec.json.encode(event) for event in events], names)
    return fold


def viewed(response):
    data = AccumulatedData()
    MistralChat.view(response, data)
    return data


def fixture(name):
    return streamfold.fold((FIXTURES / f"{name}.sse").read_bytes(), format="mistral").data


def chunk(finish=None, usage=None, **delta):
    more = {} if usage is None else {"usage": usage}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def message_of(*events):
    return folded(*events).response()["choices"][0]["message"]


def thinking(text, **more):
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}], **more}


def call(arguments, name="f", **more):
    return {"function": {"name": name, "arguments": arguments}, **more}


def said(content, **more):
    return {"type": "message.output.delta", "id": "m", "output_index": 0, "content": content, **more}


STARTED = {"type": "conversation.response.started", "conversation_id": "c"}
DONE = {"type": "conversation.response.done", "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}}


def outputs_of(*events):
    return folded(STARTED, *events).response()["outputs"]


# ---------------------------------------------------------------------- chat


def test_thoughts_and_text_are_parts():
    """A reasoning model's content is a list of parts, in order, and the padding of the chunks is no part of it."""
    data = fixture("thinking")
    assert data.response == {
        "id": "3c9d1f4be2a74a0f8b65d7e8f9a0b1c2",
        "object": "chat.completion",
        "created": 1784570000,
        "model": "magistral-medium-latest",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": [
                        thinking("The user asks about the lake.", closed=True),
                        {"type": "text", "text": "It is the Zürichsee"},
                        {"type": "reference", "reference_ids": [1]},
                        {"type": "text", "text": "."},
                    ],
                },
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 21,
            "total_tokens": 58,
            "completion_tokens": 37,
            "prompt_tokens_details": {"cached_tokens": 16},
        },
    }
    message = data.output_message
    assert (message.content, message.reasoning) == ("It is the Zürichsee.", "The user asks about the lake.")
    assert (data.status, data.finish_reason) == ("success", "stop")
    assert data.token_usage.prompt_tokens_details.cached_read_tokens == 16


def test_calls_keep_their_index():
    """An unstreamed tool call of Mistral's has its index, so the folded one has."""
    data = fixture("tools")
    calls = data.response["choices"][0]["message"]["tool_calls"]
    assert [(call["index"], call["id"], call["function"]["name"]) for call in calls] == [
        (0, "q1W2e3R4t", "weather"),
        (1, "a5S6d7F8g", "clock"),
    ]
    assert [call.function.arguments for call in data.tool_calls] == ['{"city": "Zürich"}', "{}"]


CONTENTS = {
    "text stays text": (["a", "b"], "ab"),
    "text and then parts": (["a", [{"type": "text", "text": "b"}], "c"], [{"type": "text", "text": "abc"}]),
    "an empty string makes no part": (["", [thinking("a")], "", "b"], [thinking("a"), {"type": "text", "text": "b"}]),
    "thoughts grow": ([[thinking("a")], [thinking("b")]], [thinking("ab")]),
    "bare thoughts grow": (
        [[{"type": "thinking", "thinking": "a"}], [{"type": "thinking", "thinking": "b"}]],
        [{"type": "thinking", "thinking": "ab"}],
    ),
    "closed thoughts do": (
        ["", [thinking("a")], [thinking("b", closed=True)], [thinking("c")], [thinking("d", closed=True)], "e"],
        [thinking("abcd", closed=True), {"type": "text", "text": "e"}],
    ),
    "closed thoughts in one list do not": (
        [[thinking("a", closed=True), thinking("b")]],
        [thinking("a", closed=True), thinking("b")],
    ),
    "the end of a thought is no part": (
        [[thinking("a", closed=True)], [{"type": "thinking", "thinking": []}], "b"],
        [thinking("a", closed=True), {"type": "text", "text": "b"}],
    ),
    "nor the end of none": (
        ["a", [{"type": "thinking", "thinking": []}, {"type": "text", "text": "b"}]],
        [{"type": "text", "text": "ab"}],
    ),
    "open ones do": ([[thinking("a", closed=False)], [thinking("b")]], [thinking("ab", closed=False)]),
    "signed thoughts do not": (
        [[thinking("a", signature="s")], [thinking("b")]],
        [thinking("a", signature="s"), thinking("b")],
    ),
    "references within thoughts": (
        [[thinking("a")], [{"type": "thinking", "thinking": [{"type": "reference", "reference_ids": [0]}]}]],
        [
            {
                "type": "thinking",
                "thinking": [{"type": "text", "text": "a"}, {"type": "reference", "reference_ids": [0]}],
            }
        ],
    ),
    "parts that do not grow": (
        [[{"type": "image_url", "image_url": "u"}]] * 2,
        [{"type": "image_url", "image_url": "u"}] * 2,
    ),
    "two parts in a chunk": (
        [[thinking("a"), {"type": "text", "text": "b"}]],
        [thinking("a"), {"type": "text", "text": "b"}],
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_contents(name):
    """Content is text until a part comes; parts grow while they are of one kind."""
    pieces, wanted = CONTENTS[name]
    assert message_of(*[chunk(content=piece) for piece in pieces])["content"] == wanted


CALLS = {
    "no index, one chunk": ([[call("1", id="a"), call("2", id="b")]], [("a", "1"), ("b", "2")]),
    "no index, no id": ([[call("1"), call("2")]], [(None, "1"), (None, "2")]),
    "null for no id": ([[call("1", id="null", index=0)], [call("2", name="", id="null", index=0)]], [(None, "12")]),
    "null ids apart": ([[call("1", id="null"), call("2", id="null")]], [(None, "1"), (None, "2")]),
    "all of index 0": ([[call("1", id="a", index=0), call("2", id="b", index=0)]], [("a", "1"), ("b", "2")]),
    "in fragments": ([[call("1", id="a", index=0)], [call("2", name="", index=0)]], [("a", "12")]),
    "an object": ([[call({"a": 1}, id="a")]], [("a", '{"a":1}')]),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    """Calls are told apart by index and id, of which Mistral's servers may send either, none, or `"null"`."""
    chunks, wanted = CALLS[name]
    response = folded(*[chunk(tool_calls=calls) for calls in chunks]).response()
    assert [(call.id, call.function.arguments) for call in viewed(response).tool_calls] == wanted


def test_several_messages_of_a_choice():
    """Deltas of several indexes are several messages, as the unstreamed choice has them."""
    fold = folded(
        chunk(role="assistant", index=0, tool_calls=[call("{}", id="a")]),
        chunk(role="tool", index=1, tool_call_id="a", content="42"),
        chunk(role="assistant", index=2, content="It is"),
        chunk(index=2, content=" 42"),
        chunk("stop", index=2, content="."),
    )
    choice = fold.response()["choices"][0]
    assert "message" not in choice
    assert [(each["role"], each.get("content")) for each in choice["messages"]] == [
        ("assistant", None),
        ("tool", "42"),
        ("assistant", "It is 42."),
    ]
    data = viewed(fold.response())
    assert (data.output_message.content, data.finish_reason) == ("It is 42.", "stop")
    assert data.output_messages == choice["messages"]


@pytest.mark.parametrize(
    ("finish", "word", "status"),
    [("stop", "stop", "success"), ("length", "length", "success"), ("model_length", "length", "success"),
     ("tool_calls", "tool_calls", "success"), ("error", None, "error")],
)  # fmt: skip
def test_finish_reasons(finish, word, status):
    """Mistral's finish reasons are OpenAI's, and two more."""
    data = streamfold.fold(sse([chunk(content="a"), chunk(finish)], done=True), format="mistral").data
    assert (data.finish_reason, data.raw_finish_reason, data.status) == (word, finish, status)


def test_a_changed_id_is_noted():
    """The first id stays, and the change is an anomaly."""
    fold = folded(chunk(content="a"), {**chunk(content="b"), "id": "y"})
    assert (fold.response()["id"], fold.anomalies) == ("x", ["id_changed"])


def test_audio_beside_the_prompt_is_part_of_it():
    """Where Mistral's total shows that audio was counted beside the prompt, it is counted in."""
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 379, "prompt_audio_seconds": 20,
             "prompt_tokens_details": {"audio_tokens": 375}, "service_tier": "standard"}  # fmt: skip
    data = viewed(folded(chunk("stop", usage=usage)).response())
    counted = data.token_usage
    assert (counted.prompt_tokens, counted.completion_tokens, counted.total_tokens, counted.seconds) == (
        378,
        1,
        379,
        20,
    )
    assert data.service_tier == "standard"


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("a", OUTPUT | CONTENT),
        ("", 0),
        ([thinking("a")], OUTPUT),
        ([], 0),
        ([{"type": "text", "text": "a"}], OUTPUT | CONTENT),
    ],
)
def test_what_is_seen(content, flags):
    """Thoughts are output that the reader does not see."""
    assert MistralChat().add_event(chunk(content=content)) == CHUNK | flags


# ---------------------------------------------------------------------- conversations


def test_a_conversation_is_the_unstreamed_response():
    """Every event grows the entry it names, and the whole is a `conversation.response`."""
    data = fixture("conversation")
    assert data.response == {
        "object": "conversation.response",
        "conversation_id": "conv_1",
        "outputs": [
            {
                "object": "entry",
                "type": "tool.execution",
                "created_at": "2026-07-01T10:00:02.000000Z",
                "model": "mistral-medium-latest",
                "arguments": '{"query": "lake"}',
                "id": "tool_exec_1",
                "name": "web_search",
                "function": "web_search",
                "info": {"hits": 1},
            },
            {
                "object": "entry",
                "type": "message.output",
                "created_at": "2026-07-01T10:00:06.000000Z",
                "id": "msg_1",
                "model": "mistral-medium-latest",
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "The Zürichsee"},
                    {
                        "type": "tool_reference",
                        "tool": "web_search",
                        "title": "Lake",
                        "url": "https://example.org/lake",
                    },
                    {"type": "text", "text": "."},
                ],
            },
            {
                "object": "entry",
                "type": "function.call",
                "created_at": "2026-07-01T10:00:10.000000Z",
                "id": "fc_1",
                "model": "mistral-medium-latest",
                "name": "clock",
                "tool_call_id": "Zx9Yw8Vu7",
                "arguments": '{"zone":"Europe/Zurich"}',
            },
        ],
        "usage": {
            "prompt_tokens": 120,
            "completion_tokens": 22,
            "total_tokens": 150,
            "connector_tokens": 8,
            "connectors": {"web_search": 1},
        },
    }


def test_a_conversation_is_viewed_as_a_message():
    """What the model said is the content, the functions it calls are the tool calls, and all entries are kept."""
    data = fixture("conversation")
    assert (data.status, data.response_id, data.response_model) == ("success", "conv_1", "mistral-medium-latest")
    assert (data.output_message.role, data.output_message.content) == ("assistant", "The Zürichsee.")
    assert [(each.id, each.function.name, each.function.arguments) for each in data.tool_calls] == [
        ("Zx9Yw8Vu7", "clock", '{"zone":"Europe/Zurich"}')
    ]
    assert (data.finish_reason, len(data.output_messages)) == (None, 3)
    source = {"url": "https://example.org/lake", "title": "Lake"}
    assert data.output_message.annotations == [{"type": "url_citation", "url_citation": source}]
    usage = data.token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.source) == (
        120,
        22,
        150,
        "provider",
    )
    assert usage.server_tool_use == {"connectors": {"web_search": 1}, "connector_tokens": 8}


def test_plain_text_of_a_conversation_is_a_string():
    """Content of text alone is a string, as in the unstreamed entry."""
    assert outputs_of(said("H"), said("i"))[0]["content"] == "Hi"


ENTRIES = {
    "content indexes out of order": (
        [said("b", content_index=1), said("a", content_index=0), said("c", content_index=1)],
        [{"type": "text", "text": "a"}, {"type": "text", "text": "bc"}],
    ),
    "one index for all": (
        [said("a"), said({"type": "tool_reference", "title": "t"}), said("b")],
        [{"type": "text", "text": "a"}, {"type": "tool_reference", "title": "t"}, {"type": "text", "text": "b"}],
    ),
    "thoughts": (
        [said(thinking("a")), said(thinking("b")), said("c", content_index=1)],
        [thinking("ab"), {"type": "text", "text": "c"}],
    ),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_contents_of_an_entry(name):
    """Parts of an entry stand in the order of their `content_index`; of one index, in the order they came."""
    events, wanted = ENTRIES[name]
    assert outputs_of(*events)[0]["content"] == wanted


def test_entries_are_named_by_id_and_ordered_by_index():
    """An entry is its id; without one, it is the open one of its kind and index."""
    found = outputs_of(
        said("b", id="y", output_index=1), said("a", id="x", output_index=0), said("c", id="y", output_index=1)
    )
    assert [(entry["id"], entry["content"]) for entry in found] == [("x", "a"), ("y", "bc")]
    nameless = {"type": "message.output.delta", "content": "a"}
    assert [entry["content"] for entry in outputs_of(nameless, nameless)] == ["aa"]


def test_a_handover_is_one_entry():
    """The start of a handover names the agent before, its end the next; together they are the unstreamed entry."""
    found = outputs_of(
        {"type": "agent.handoff.started", "id": "h", "previous_agent_id": "a", "previous_agent_name": "A"},
        {"type": "agent.handoff.done", "id": "h", "next_agent_id": "b", "next_agent_name": "B"},
    )
    assert found == [
        {
            "object": "entry",
            "type": "agent.handoff",
            "id": "h",
            "previous_agent_id": "a",
            "previous_agent_name": "A",
            "next_agent_id": "b",
            "next_agent_name": "B",
        }
    ]


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([STARTED, said("a"), DONE], "success"),
        ([STARTED, said("a")], "truncated"),
        ([STARTED, said("a"), {"type": "conversation.response.error", "message": "no", "code": 500}], "error"),
    ],
)
def test_ends_of_a_conversation(events, status):
    """A conversation ends with `done` or `error`; what was said before is kept."""
    data = streamfold.fold(sse(events, named=True), format="mistral").data
    assert (data.status, data.output_message.content) == (status, "a")
    if status == "error":
        assert (data.error_details.message, data.error_details.status_code) == ("no", 500)


def test_unknown_events_of_a_conversation_are_kept():
    """An event of tomorrow is kept in the native response and noted."""
    fold = folded(STARTED, {"type": "agent.sleep", "x": 1})
    assert fold.response()["unknown_events"] == [{"type": "agent.sleep", "x": 1}]
    assert fold.anomalies == ["unknown_event"]


def test_the_name_of_the_event_stands_in_for_a_missing_type():
    """The `type` in the data is authoritative; where it is missing, the SSE event's name is the type."""
    nameless = {key: value for key, value in said("a").items() if key != "type"}
    fold = folded(STARTED, nameless, said("b"), names=["x", "message.output.delta", "conversation.response.done"])
    assert (fold.response()["outputs"][0]["content"], fold.ended) == ("ab", False)


def test_event_objects_of_the_sdk_are_unwrapped():
    """Mistral's SDK keeps the frame around its payload; both fold alike."""
    wrapped = [{"event": each["type"], "data": each} for each in (STARTED, said("a"), DONE)]
    assert folded(*wrapped).response() == folded(STARTED, said("a"), DONE).response()
    assert folded({"data": chunk(content="a")}).response() == folded(chunk(content="a")).response()


# ---------------------------------------------------------------------- audio


def test_transcriptions():
    """A transcription folds into its unstreamed response, with the stream type of one."""
    usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    done = {
        "type": "transcription.done",
        "model": "m",
        "text": "Grüezi",
        "language": "de",
        "segments": [],
        "usage": usage,
    }
    events = [{"type": "transcription.text.delta", "text": text} for text in ("Grü", "ezi")]
    data = streamfold.fold(sse([*events, done], named=True), format="mistral").data
    assert data.response == {"model": "m", "text": "Grüezi", "language": "de", "segments": [], "usage": usage}
    assert (data.stream_type, data.status, data.transcription_output["text"]) == (
        "audio.transcription",
        "success",
        "Grüezi",
    )
    assert data.token_usage.total_tokens == 6


def test_speech():
    """Speech folds into the object that Mistral returns unstreamed."""
    pieces = [base64.b64encode(piece).decode() for piece in (b"ID3\x04", b"\x00\x01")]
    events = [{"type": "speech.audio.delta", "audio_data": piece} for piece in pieces]
    events += [{"type": "speech.audio.done", "usage": {"total_tokens": 3, "prompt_tokens": 1, "completion_tokens": 2}}]
    data = streamfold.fold(sse(events, named=True), format="mistral").data
    assert (data.stream_type, data.status, data.audio_output.data) == ("audio.speech", "success", b"ID3\x04\x00\x01")
    assert base64.b64decode(data.response["audio_data"]) == b"ID3\x04\x00\x01"
    assert data.token_usage.total_tokens == 3


# ---------------------------------------------------------------------- all


@pytest.mark.parametrize("name", sorted(path.stem for path in FIXTURES.iterdir()))
def test_cuts_do_not_matter(name):
    """However a body is cut, the record is the same."""
    body = (FIXTURES / f"{name}.sse").read_bytes()
    records = [stable(fold_pieces(pieces, "mistral")) for pieces in cuts(body, random.Random(3))]
    assert all(record == records[0] for record in records)


def test_auto_knows_what_is_mistrals_alone():
    """A conversation can only be Mistral's; a chat chunk is taken for the API it speaks."""
    assert streamfold.fold((FIXTURES / "conversation.sse").read_bytes()).format == "mistral"
    assert streamfold.fold((FIXTURES / "tools.sse").read_bytes()).format == "openai-chat"


@pytest.mark.parametrize("name", sorted(path.stem for path in FIXTURES.iterdir()))
def test_an_unstreamed_response_is_read_alike(name):
    """The folded response, read as an unstreamed one, gives the same view and stays as it is."""
    data = fixture(name)
    read = streamfold.read(data.response, "mistral").data
    assert (read.response, read.status) == (data.response, "success")
    for field in ("output_message", "output_messages", "token_usage", "finish_reason", "response_id", "tool_calls"):
        assert getattr(read, field) == getattr(data, field)


REPEATING = {
    "text": [chunk(role="assistant", content=""), chunk(content="a")],
    "numbered text": [chunk(content="a", index=0)],
    "parts": [chunk(content=[{"type": "text", "text": "a"}])],
    "thoughts": [chunk(content=[thinking("a")])],
    "bare thoughts": [chunk(content=[{"type": "thinking", "thinking": "a"}])],
    "text after thoughts": [chunk(content=[thinking("t")]), chunk(content="a")],
    "arguments": [chunk(tool_calls=[call("", id="c", index=0)]), chunk(tool_calls=[call("a", name="", index=0)])],
    "a conversation's text": [STARTED, said("a")],
    "a conversation's part": [STARTED, said({"type": "text", "text": "a"})],
    "a conversation's arguments": [{"type": "function.call.delta", "id": "f", "name": "n", "arguments": "a"}],
    "a transcription": [{"type": "transcription.text.delta", "text": "a"}],
}


@pytest.mark.parametrize("kind", REPEATING)
def test_repeating_deltas_are_folded_without_decoding(kind):
    """Deltas that differ only in their text take the short cut, with the result of the long way."""
    *opening, delta = REPEATING[kind]
    events = opening + [delta] * 50
    fold = folded(*events)
    assert fold.repeat is not None
    assert fold.repeat.hits >= 48
    slow = MistralChat()
    for each in events:
        slow.add_decoded(each)
    assert fold.response() == slow.response()
    assert fold.chunks == slow.chunks


@pytest.mark.parametrize(
    ("events", "more"),
    [
        ([chunk(content=[thinking("a")])], [chunk(content=[thinking("b")]), chunk("length")]),
        ([STARTED, said("a")], [said("b"), said("c", id="n"), DONE]),
        ([{"type": "transcription.text.delta", "text": "a"}], [{"type": "transcription.text.delta", "text": "b"}]),
    ],
)
def test_what_was_folded_stays_when_the_fold_is_full(events, more):
    """After `close` no text grows and no entry comes, while finish reasons, usage and ends are still taken."""
    fold = folded(*events)
    before = fold.response()
    fold.close()
    for each in more:
        fold.add(msgspec.json.encode(each))
    after = fold.response()
    if "choices" in before:
        assert after["choices"][0].pop("finish_reason") == "length"
        before["choices"][0].pop("finish_reason")
    if DONE in more:
        assert after.pop("usage") == DONE["usage"]
        assert fold.ended
    assert after == before


def test_snapshots_disturb_nothing():
    """A response read at every event leaves the stream, and the earlier responses, as they were."""
    for events in ([STARTED, said("a"), said("b"), DONE], [chunk(content=[thinking("a")]), chunk(content="b")]):
        fold, snapshots = MistralChat(), []
        for each in events:
            fold.add_decoded(each)
            snapshots.append((fold.response(), msgspec.json.encode(fold.response())))
        assert all(msgspec.json.encode(snapshot) == taken for snapshot, taken in snapshots)
        assert fold.response() == folded(*events).response()


WORDS = """type id index object choices delta message messages content thinking text closed signature tool_calls
function name arguments role finish_reason usage output_index content_index conversation_id outputs info
audio_data segments language data event error logprobs"""
KEYS = st.sampled_from(WORDS.split())
KINDS = st.sampled_from([*sorted(HANDLERS), "transcription.text.delta", "speech.audio.delta", "text", "thinking"])
SCALARS = st.none() | st.booleans() | st.integers(-1, 3) | st.floats(allow_nan=False) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS | KINDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)
CHUNKS = st.builds(lambda delta, rest: {"choices": [{"delta": delta, **rest}]}, OBJECTS, OBJECTS)
EVENTS = st.builds(lambda kind, rest: {**rest, "type": kind}, KINDS, OBJECTS)


@given(st.lists(CHUNKS | EVENTS | OBJECTS, max_size=6), st.booleans())
def test_nothing_is_raised(events, full):
    """Any JSON objects fold, unchanged, and whatever became of them is viewed, without an exception."""
    fold = MistralChat()
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
