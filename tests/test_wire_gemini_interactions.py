"""The Interactions API: its events fold into the interaction that the same request gives unstreamed."""

import json
from pathlib import Path

import pytest
from google.genai import interactions

import streamfold
from streamfold.types import AccumulatedData
from streamfold.wire.gemini import Gemini

FIXTURE = Path(__file__).parent / "fixtures" / "gemini" / "interaction.sse"
CREATED = {
    "event_type": "interaction.created",
    "interaction": {"id": "v1_a", "object": "interaction", "model": "gemini-3-flash", "status": "in_progress"},
}


def step(index, **fields):
    return {"event_type": "step.start", "index": index, "step": fields}


def delta(index, **fields):
    return {"event_type": "step.delta", "index": index, "delta": fields}


def text(words, index=0):
    return delta(index, type="text", text=words)


def completed(status="completed", **fields):
    interaction = {"id": "v1_a", "object": "interaction", "status": status, **fields}
    return {"event_type": "interaction.completed", "interaction": interaction}


def body_of(*events):
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def done_of(*events, format="gemini"):
    """The record of these events, which no way of handing them over changes."""
    data = streamfold.fold(body_of(*events), format).data
    stream = streamfold.StreamAccumulator(format)
    for event in events:
        stream.add(event)
    assert stream.finish().data.response == data.response
    assert "accumulator_error" not in data.integrity.anomalies
    return data


def steps(*events):
    return done_of(CREATED, *events, completed()).response["steps"]


# ---------------------------------------------------------------------- whole streams


@pytest.mark.parametrize("format", ["gemini", "auto"])
def test_steps_make_the_interaction(format):
    """Thoughts, text, its sources and a call with its arguments stand in the steps as in an unstreamed interaction."""
    data = streamfold.fold(FIXTURE.read_bytes(), format).data
    note = {"type": "url_citation", "url": "https://tides.example/sm", "start_index": 26, "end_index": 36}
    assert data.response["steps"] == [
        {
            "type": "thought",
            "signature": "c2lnbmVk",
            "summary": [{"type": "text", "text": "Which harbour do they mean?"}],
        },
        {
            "type": "model_output",
            "content": [{"type": "text", "text": "I will ask for the tide at Saint-Malo ⚓.", "annotations": [note]}],
        },
        {"type": "function_call", "id": "call_tide", "name": "tide", "arguments": {"harbour": "Saint-Malo"}},
    ]
    assert interactions.Interaction.model_validate(data.response).steps[2].arguments == {"harbour": "Saint-Malo"}
    assert (data.status, data.finish_reason, data.raw_finish_reason) == ("success", "tool_calls", "requires_action")
    assert (data.format, data.response_id, data.response_model) == ("gemini", "v1_harbour", "gemini-3-flash")
    assert (data.service_tier, data.integrity.end_marker, data.integrity.anomalies) == ("standard", True, [])


def test_its_view():
    """The record has the text, the reasoning, and the arguments of calls as the text that was sent."""
    data = streamfold.fold(FIXTURE.read_bytes(), "gemini").data
    message = data.output_message
    assert (message.role, message.content) == ("assistant", "I will ask for the tide at Saint-Malo ⚓.")
    assert message.reasoning == "Which harbour do they mean?"
    assert [each["url"] for each in message.annotations] == ["https://tides.example/sm"]
    (call,) = data.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_tide", "tide", '{"harbour": "Saint-Malo"}')
    assert data.output_messages == data.response["steps"]


def test_thoughts_are_part_of_the_output():
    """Google counts thoughts beside the answer; the record counts them in, and the cache as part of the prompt."""
    usage = streamfold.fold(FIXTURE.read_bytes(), "gemini").data.token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (40, 91, 131)
    assert usage.completion_tokens_details.reasoning_tokens == 60
    assert (usage.prompt_tokens_details.cached_read_tokens, usage.prompt_tokens_details.text_tokens) == (16, 40)
    assert usage.source == "provider"


def test_searches_are_counted():
    """Searches that Google made for the answer are billed beside the tokens."""
    counted = {"total_tokens": 3, "grounding_tool_count": [{"type": "google_search", "count": 2}, {"type": "x"}]}
    assert done_of(CREATED, completed(usage=counted)).token_usage.server_tool_use == {"web_search_requests": 2}


def test_an_unstreamed_interaction_reads_the_same():
    """The interaction that the stream gave reads like the stream, but for the spelling of the arguments."""
    folded = streamfold.fold(FIXTURE.read_bytes(), "gemini").data
    for format in ("gemini", "auto"):
        whole = streamfold.read(folded.response, format).data
        assert (whole.status, whole.response) == ("success", folded.response)
        assert whole.output_message.content == folded.output_message.content
        assert whole.token_usage == folded.token_usage
        assert json.loads(whole.tool_calls[0].function.arguments) == {"harbour": "Saint-Malo"}


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_an_interaction_in_the_background(status):
    """The answer to a request that goes on in the background is whole, though the interaction is not."""
    answer = {"id": "v1_a", "object": "interaction", "status": status, "agent": "deep-research"}
    data = streamfold.read(answer, "gemini").data
    assert (data.status, data.raw_finish_reason, data.response) == ("success", None, answer)
    created = {"event_type": "interaction.created", "interaction": answer}
    assert done_of(created).status == "truncated"


def test_the_first_version_of_the_api():
    """Before there were steps, contents came by themselves and are the interaction's outputs."""
    data = done_of(
        {"event_type": "interaction.start", "interaction": {"id": "i", "role": "model"}},
        {"event_type": "content.start", "index": 0, "content": {"type": "thought"}},
        {"event_type": "content.delta", "index": 0, "delta": {"type": "thought_summary", "content": {"text": "Hm"}}},
        {"event_type": "content.delta", "index": 0, "delta": {"type": "thought_signature", "signature": "s"}},
        {"event_type": "content.start", "index": 1, "content": {"type": "text", "text": "Low"}},
        {"event_type": "content.delta", "index": 1, "delta": {"type": "text", "text": " tide"}},
        {"event_type": "content.stop", "index": 1},
        {
            "event_type": "content.delta",
            "index": 2,
            "delta": {"type": "function_call", "id": "f", "name": "tide", "arguments": {"at": 6}},
        },
        {"event_type": "interaction.complete", "interaction": {"id": "i", "status": "completed"}},
        format="auto",
    )
    assert data.response["outputs"] == [
        {"type": "thought", "summary": [{"text": "Hm"}], "signature": "s"},
        {"type": "text", "text": "Low tide"},
        {"type": "function_call", "id": "f", "name": "tide", "arguments": {"at": 6}},
    ]
    assert (data.output_message.content, data.output_message.reasoning) == ("Low tide", "Hm")
    assert (data.status, data.finish_reason, data.tool_calls[0].function.arguments) == (
        "success",
        "tool_calls",
        '{"at":6}',
    )


# ---------------------------------------------------------------------- steps

STEPS = {
    "text whose start was lost": (
        [text("a", 3), text("b", 3)],
        [{"type": "model_output", "content": [{"type": "text", "text": "ab"}]}],
    ),
    "text, a picture, text": (
        [
            step(0, type="model_output", content=[{"type": "text", "text": "Look"}]),
            text(": "),
            delta(0, type="image", mime_type="image/png", data="AAEC"),
            delta(0, type="image", mime_type="image/png", data="AwQF"),
            text("two."),
        ],
        [
            {
                "type": "model_output",
                "content": [
                    {"type": "text", "text": "Look: "},
                    {"type": "image", "mime_type": "image/png", "data": "AAEC"},
                    {"type": "image", "mime_type": "image/png", "data": "AwQF"},
                    {"type": "text", "text": "two."},
                ],
            }
        ],
    ),
    "a picture from a proxy": (
        [
            step(0, type="model_output"),
            delta(0, type="content", content={"type": "image", "mime_type": "image/jpeg", "data": "AAEC"}),
        ],
        [{"type": "model_output", "content": [{"type": "image", "mime_type": "image/jpeg", "data": "AAEC"}]}],
    ),
    "sound in pieces": (
        [delta(0, type="audio", mime_type="audio/l16", data=data) for data in ("AAE=", "AgM=")],
        [{"type": "model_output", "content": [{"type": "audio", "mime_type": "audio/l16", "data": "AAECAw=="}]}],
    ),
    "a search of Google's own": (
        [
            step(0, type="google_search_call", id="s", arguments={}),
            delta(0, type="google_search_call", arguments={"queries": ["tide"]}, signature="x"),
        ],
        [{"type": "google_search_call", "id": "s", "arguments": {"queries": ["tide"]}, "signature": "x"}],
    ),
    "steps out of order": (
        [text("b", 1), text("a", 0)],
        [{"type": "model_output", "content": [{"type": "text", "text": each}]} for each in "ab"],
    ),
    "a step that is not signed": (
        [
            step(0, type="code_execution_result", call_id="c", signature=""),
            delta(0, type="code_execution_result", result="1", is_error=False),
        ],
        [{"type": "code_execution_result", "call_id": "c", "result": "1", "is_error": False}],
    ),
    "sources by the other name": (
        [text("a"), delta(0, type="text_annotation", annotations=[{"type": "url_citation", "url": "u"}])],
        [
            {
                "type": "model_output",
                "content": [{"type": "text", "text": "a", "annotations": [{"type": "url_citation", "url": "u"}]}],
            }
        ],
    ),
    "a call without arguments": (
        [step(0, type="function_call", id="c", name="now", arguments={})],
        [{"type": "function_call", "id": "c", "name": "now", "arguments": {}}],
    ),
    "a kind of tomorrow": (
        [step(0, type="dream", depth=1), delta(0, type="dream", depth=2)],
        [{"type": "dream", "depth": 2}],
    ),
}


@pytest.mark.parametrize(("events", "whole"), STEPS.values(), ids=STEPS)
def test_steps(events, whole):
    """Deltas grow the step of their index by their type."""
    assert steps(*events) == whole


def test_repeated_frames_give_their_text():
    """Deltas that are told apart by nothing, not even by their text, are all in the answer."""
    data = done_of(CREATED, *[text("ha ")] * 40, *[text("é") for _ in range(40)], text("!"), completed())
    assert data.output_message.content == "ha " * 40 + "é" * 40 + "!"
    assert data.chunks == 83


def test_arguments_that_were_cut_off():
    """Arguments that are no whole document stay the text that came, and are flagged."""
    call = step(0, type="function_call", id="c", name="tide", arguments={})
    data = done_of(CREATED, call, delta(0, type="arguments_delta", arguments='{"at'))
    assert data.response["steps"][0]["arguments"] == '{"at'
    assert (data.status, data.tool_calls[0].function.arguments, data.arguments_complete) == ("truncated", '{"at', False)


def test_whole_steps_of_the_last_event_win():
    """Where the last event has the steps, they are believed, even if it says no status."""
    whole = [{"type": "model_output", "content": [{"type": "text", "text": "Whole"}]}]
    data = done_of(CREATED, text("Whol"), completed(steps=whole))
    assert (data.response["steps"], data.output_message.content) == (whole, "Whole")
    bare = {"event_type": "interaction.completed", "interaction": {"id": "v1_a", "steps": whole}}
    assert done_of(CREATED, bare).output_message.content == "Whole"


# ---------------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("status", "outcome", "word"),
    [
        ("completed", "success", "stop"),
        ("incomplete", "success", "length"),
        ("requires_action", "success", "tool_calls"),
        ("budget_exceeded", "success", "length"),
        ("requires_continuation", "success", None),
        ("cancelled", "success", None),
        ("failed", "error", None),
    ],
)
def test_statuses(status, outcome, word):
    """The last status is the finish reason, and the word of the provider is kept."""
    data = done_of(CREATED, text("a"), completed(status))
    assert (data.status, data.finish_reason, data.raw_finish_reason) == (outcome, word, status)
    assert data.output_message.content == "a"


def test_a_last_event_that_says_little():
    """The last event ends the interaction even where it names no status."""
    for event in ({"event_type": "interaction.completed"}, {"event_type": "interaction.complete", "interaction": {}}):
        assert done_of(CREATED, text("a"), event).status == "success"
    assert done_of(CREATED, text("a"), completed("in_progress")).status == "truncated"


def test_a_step_that_failed():
    """A failed interaction that does not say why failed as its newest step that did."""
    failed = {"code": 8, "message": "Out of quota"}
    events = [CREATED, text("a"), step(1, type="model_output", error=failed)]
    data = done_of(*events, completed("failed"))
    assert (data.status, data.error_details.message) == ("error", "Out of quota")
    assert data.response["steps"][1] == {"type": "model_output", "error": failed}
    own = [{"code": "500", "message": "Broken"}]
    assert done_of(*events, completed("failed", errors=own)).error_details.message == "Broken"


def test_the_token_to_go_on_with():
    """It comes while the stream goes on, lest it be cut; an interaction that has ended has that of its end, if any."""

    def update(token):
        status = {"event_type": "interaction.status_update", "interaction_id": "v1_a", "status": "in_progress"}
        return {**status, "continuation_token": token}

    events = [CREATED, text("a"), update("t1"), text("b"), update("t2")]
    assert done_of(*events).response["continuation_token"] == "t2"
    assert "continuation_token" not in done_of(*events, completed()).response
    ended = done_of(*events, completed("requires_continuation", continuation_token="t3"))
    assert (ended.response["continuation_token"], ended.output_message.content) == ("t3", "ab")


def test_an_error_event():
    """An error inside the stream is an error, and what came before it stays."""
    failed = {"event_type": "error", "error": {"code": "503", "message": "Overloaded"}}
    data = done_of(CREATED, text("a"), failed)
    assert (data.status, data.error_details.message, data.error_details.status_code) == ("error", "Overloaded", 503)
    assert data.output_message.content == "a"


def test_a_stream_that_is_cut():
    """Without the last event the interaction is truncated; its id is known from the first."""
    data = done_of(CREATED, text("a"))
    assert (data.status, data.response_id, data.finish_reason) == ("truncated", "v1_a", None)
    assert done_of(CREATED).response_id == "v1_a"


def test_an_interaction_that_is_not_stored():
    """It has no id: the events say an empty one, the unstreamed interaction none."""
    created = {"event_type": "interaction.created", "interaction": {"id": "", "object": "interaction"}}
    update = {"event_type": "interaction.status_update", "interaction_id": "", "status": "in_progress"}
    ended = {"event_type": "interaction.completed", "interaction": {"id": "", "status": "completed"}}
    data = done_of(created, update, text("a"), ended)
    assert data.response == {
        "object": "interaction",
        "status": "completed",
        "steps": [{"type": "model_output", "content": [{"type": "text", "text": "a"}]}],
    }
    assert (data.response_id, data.status, data.integrity.anomalies) == (None, "success", [])


COUNTED = {"total_input_tokens": 8, "total_output_tokens": 3, "total_tokens": 11}


@pytest.mark.parametrize(
    "beside", [{"metadata": {"total_usage": COUNTED}}, {"usage": COUNTED, "step_usage": {"total_tokens": 2}}]
)
def test_the_usage_so_far(beside):
    """A stream that is cut has the usage that came beside its last event; a whole one has that of its end."""
    counted = COUNTED
    stop = {"event_type": "step.stop", "index": 0, **beside}
    cut = done_of(CREATED, text("a"), stop)
    assert (cut.response["usage"], cut.token_usage.total_tokens, cut.status) == (counted, 11, "truncated")
    whole = done_of(CREATED, text("a"), stop, completed(usage={"total_tokens": 12}))
    assert whole.response["usage"] == {"total_tokens": 12}


def test_the_size_limit():
    """Past the limit no step grows or is opened; the end and the usage are still taken."""
    stream = streamfold.StreamAccumulator("gemini", max_bytes=600)
    events = [CREATED, *[text("word ")] * 20, text("late", 1), completed(usage={"total_tokens": 7})]
    for event in events:
        stream.feed(body_of(event))
    data = stream.finish().data
    assert "size_limit" in data.integrity.anomalies
    assert (data.status, data.token_usage.total_tokens, len(data.response["steps"])) == ("success", 7, 1)


def test_odd_events_are_survived():
    """Fields of the wrong type break nothing."""
    odd = [None, 1, "x", [], {}, [None]]
    events = [
        {"event_type": kind, "index": value, "step": value, "delta": value, "interaction": value, "error": value}
        for kind in ("interaction.created", "step.start", "step.delta", "step.stop", "content.delta", "error", "step.")
        for value in odd
    ]
    events += [delta(0, type=kind, content=value, text=value) for kind in ("text", "thought_summary") for value in odd]
    fold = Gemini()
    for event in events:
        fold.add_decoded(event)
    assert "accumulator_error" not in fold.anomalies
    data = AccumulatedData()
    Gemini.view(fold.response(), data)
