"""The Responses API: typed events fold into the `Response` of an unstreamed request, whatever the last one omits."""

import copy
import json
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

import streamfold
from streamfold.testing import cuts, fold_pieces, sse, stable
from streamfold.types import AccumulatedData
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT
from streamfold.wire.openai_responses import _DELTAS, _HANDLERS, OpenAIResponses

FIXTURES = Path(__file__).parent / "fixtures" / "openai-responses"
WHOLE = ["text", "reasoning_tools", "incomplete", "shell_and_patch", "open_reasoning"]
"""Fixtures whose last event holds the whole output."""

ENDS = ("response.completed", "response.incomplete", "response.failed")


def events_of(name):
    lines = (FIXTURES / f"{name}.sse").read_text().splitlines()
    return [json.loads(line[5:]) for line in lines if line.startswith("data: {")]


def last_response(events):
    return next(event["response"] for event in reversed(events) if event["type"] in ENDS)


def folded(events):
    fold = OpenAIResponses()
    fold.add_all([msgspec.json.encode(event) for event in events], None)
    return fold


def read(name):
    return streamfold.fold((FIXTURES / f"{name}.sse").read_bytes(), format="openai-responses").data


def viewed(response):
    data = AccumulatedData()
    OpenAIResponses.view(response, data)
    return data


def without_output(events):
    """The same stream, as servers send it that leave the last output empty."""
    return [
        {**event, "response": {**event["response"], "output": []}} if event["type"] in ENDS else event
        for event in events
    ]


def created(**fields):
    response = {"id": "resp_1", "object": "response", "status": "in_progress", "model": "gpt-5", "output": [], **fields}
    return {"type": "response.created", "response": response}


def completed(output=(), **fields):
    response = {"id": "resp_1", "object": "response", "status": "completed", "output": list(output), **fields}
    return {"type": "response.completed", "response": response}


def added(item, index=0):
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(item, index=0):
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def text_delta(delta, index=0, part=0, item="msg_1", **more):
    names = {"item_id": item, "output_index": index, "content_index": part}
    return {"type": "response.output_text.delta", **names, "delta": delta, **more}


def message(text, identity="msg_1", **more):
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": identity, "type": "message", "status": "completed", "role": "assistant", "content": [part], **more}


def texts(response):
    return [part.get("text") for item in response["output"] for part in item.get("content") or []]


# ---------------------------------------------------------------------- whole streams


@pytest.mark.parametrize("name", WHOLE)
def test_the_response_is_that_of_the_last_event(name):
    """A complete stream folds into the very `Response` of its last event, and nothing about it is odd."""
    events = events_of(name)
    fold = folded(events)
    assert fold.response() == last_response(events)
    assert list(fold.response()) == list(last_response(events))
    assert fold.anomalies == []
    assert fold.ended
    assert fold.finished
    Response.model_validate(fold.response())


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("drop", [[], ["output_item.done"], [".done"]], ids=["all", "no item.done", "deltas only"])
def test_the_output_is_rebuilt_from_the_items(name, drop):
    """When the last event comes without output, the items tell it; without `.done` events, their deltas do."""

    def substance(output):
        out = copy.deepcopy(output)
        for item in out:
            item.pop("encrypted_content", None)
            item.pop("status", None)
            item.get("action", {}).pop("max_output_length", None)
            for each in item.get("output", []):  # an exit code is not streamed
                for key in [key for key, value in each.items() if key == "outcome" or value == ""]:
                    del each[key]
        return out

    events = events_of(name)
    kept = [event for event in without_output(events) if not any(event["type"].endswith(end) for end in drop)]
    assert substance(folded(kept).response()["output"]) == substance(last_response(events)["output"])


@pytest.mark.parametrize("name", ["text", "reasoning_tools"])
def test_a_live_stream_holds_what_the_sdk_holds(name):
    """At every moment the text and arguments so far are those of the OpenAI SDK's own accumulator."""
    state = ResponseStreamState(input_tools=omit, text_format=omit)
    adapter = TypeAdapter(ResponseStreamEvent)
    fold = OpenAIResponses()
    for event in events_of(name):
        fold.add_all([msgspec.json.encode(event)], None)
        if event["type"] in ENDS:
            state.accumulate_event(adapter.validate_python(event))
            theirs = state._completed_response.to_dict(mode="json", warnings=False)
        else:
            state.handle_event(adapter.validate_python(event))
            theirs = state._ResponseStreamState__current_snapshot.to_dict(mode="json", warnings=False)
        ours = fold.response()
        assert texts(ours) == texts(theirs)
        assert [item.get("arguments") for item in ours["output"]] == [
            item.get("arguments") for item in theirs["output"]
        ]


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.sse")), ids=lambda path: path.stem)
def test_cuts_do_not_matter(path):
    """The record is the same however the bytes were cut, and for decoded events as for bytes."""
    body = path.read_bytes()
    records = [stable(fold_pieces(pieces, "openai-responses")) for pieces in cuts(body, random.Random(3))]
    assert all(record == records[0] for record in records)
    fold = OpenAIResponses()
    for event in events_of(path.stem):
        before = copy.deepcopy(event)
        fold.add_decoded(event)
        assert event == before
    assert fold.response() == records[0]["response"]


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.sse")), ids=lambda path: path.stem)
def test_snapshots_disturb_nothing(path):
    """A response read in the middle never changes afterwards, and reading it changes nothing."""
    events = events_of(path.stem)
    fold = OpenAIResponses()
    seen = []
    for event in events:
        fold.add_all([msgspec.json.encode(event)], None)
        response = fold.response()
        seen.append((response, msgspec.json.encode(response)))
        if response is not None:
            viewed(response)
    assert all(msgspec.json.encode(response) == before for response, before in seen)
    assert fold.response() == folded(events).response()


@pytest.mark.parametrize("name", WHOLE)
def test_an_unstreamed_response_folds_to_itself(name):
    """A body that is a whole response is its own fold, ended, and reads as the folded stream does."""
    response = last_response(events_of(name))
    fold = OpenAIResponses()
    fold.add_all([msgspec.json.encode(response)], None)
    assert fold.response() == response
    assert list(fold.response()) == list(response)
    assert (fold.ended, fold.finished, fold.anomalies) == (True, True, [])
    streamed, unstreamed = read(name), streamfold.read(response, format="openai-responses").data
    for field in ("output_message", "tool_calls", "finish_reason", "raw_finish_reason", "token_usage", "logprobs"):
        assert getattr(streamed, field) == getattr(unstreamed, field)


@pytest.mark.parametrize("form", ["type", "event name", "event name, bare response"])
def test_where_the_type_stands(form):
    """The type may stand in the event or only in the SSE event name, where the response may come bare."""
    events = events_of("text")
    fold = OpenAIResponses()
    for event in events:
        bare = {key: value for key, value in event.items() if key != "type"}
        if form == "type":
            fold.add_all([msgspec.json.encode(event)], ["message"])
        elif "response" in event and form.endswith("bare response"):
            fold.add_all([msgspec.json.encode(event["response"])], [event["type"]])
        else:
            fold.add_all([msgspec.json.encode(bare)], [event["type"]])
    assert fold.response() == last_response(events)
    assert fold.ended


def test_equal_frames_with_other_event_names_go_elsewhere():
    """Where only the event name tells the type, two equal frames of different names are two different things."""
    payload = msgspec.json.encode({"output_index": 0, "delta": "x"})
    fold = OpenAIResponses()
    fold.add_all([payload] * 4, ["response.custom_tool_call_input.delta"] * 3 + ["response.refusal.delta"])
    assert fold.response()["output"][0]["input"] == "xxx"
    assert fold.response()["output"][0]["content"] == [{"type": "refusal", "refusal": "x"}]


# ---------------------------------------------------------------------- output items


def test_hosted_tools():
    """Every built-in tool's item comes out as its last event told it, with an empty output in the last event."""
    data = read("hosted_tools")
    events = events_of("hosted_tools")
    told = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    by_type = {item["type"]: item for item in data.output_messages}
    # The call failed, which only its status event said.
    assert by_type["mcp_call"].pop("status") == "failed"
    assert data.output_messages == told
    assert "status" not in by_type["mcp_list_tools"]
    assert data.integrity.anomalies == []
    assert [note["type"] for note in data.output_message.annotations] == ["url_citation", "file_citation"]
    assert data.output_message.images == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAAAD"}}
    ]
    assert data.token_usage.server_tool_use == {"web_search": {"num_requests": 1}}


def test_previews_are_not_the_image():
    """A stream cut off after previews has no image; their settings are known, their pixels are not its result."""
    events = events_of("hosted_tools")
    cut = next(i for i, event in enumerate(events) if event.get("partial_image_index") == 1) + 1
    fold = folded(events[:cut])
    item = fold.response()["output"][5]
    assert (item["result"], item["status"], item["size"]) == (None, "generating", "1024x1024")
    assert viewed(fold.response()).output_message.images is None
    assert fold.add_event(events[cut - 1]) == CHUNK | OUTPUT | CONTENT


def test_reasoning_and_parallel_calls():
    """Summary parts stay apart, the flat view joins them with a blank line, and every call keeps its own arguments."""
    data = read("reasoning_tools")
    assert [part["text"] for part in data.response["output"][0]["summary"]] == [
        "**Looking for trains**\n\nThe user asks.",
        "**Two cities**",
    ]
    assert data.output_message.reasoning == "**Looking for trains**\n\nThe user asks.\n\n**Two cities**"
    assert [(call.id, call.function.name, call.function.arguments) for call in data.tool_calls] == [
        ("call_Pq3vR8", "find_train", '{"from":"Bern","to":"Zürich"}'),
        ("call_Xw1kT5", "weather", '{"city":"Zürich"}'),
    ]
    assert (data.finish_reason, data.raw_finish_reason) == ("tool_calls", "completed")
    assert data.token_usage.completion_tokens_details.reasoning_tokens == 40
    assert data.token_usage.prompt_tokens_details.cached_read_tokens == 128


def test_open_reasoning_and_logprobs():
    """Reasoning that the model shows is its content, not a summary, and log probabilities are joined."""
    data = read("open_reasoning")
    assert data.output_message.reasoning == "Add the two."
    assert data.output_message.content == "It is 5"
    assert [entry["token"] for entry in data.logprobs["content"]] == ["It", " is", " 5"]
    deltas = [event for event in events_of("open_reasoning") if event["type"].endswith(".delta")]
    assert viewed(folded(deltas).response()).logprobs == data.logprobs


def test_shell_and_patch():
    """Commands have no item id and are told by index; what they wrote is one entry each; a patch grows its diff."""
    call, output, patch = read("shell_and_patch").response["output"]
    assert call["action"]["commands"] == ["ls -la", "cat notes.txt"]
    assert [entry["outcome"]["exit_code"] for entry in output["output"]] == [0, 1]
    assert patch["operation"] == {"type": "create_file", "diff": "+# Todo\n+- milk\n", "path": "todo.md"}


def test_ids_that_change_on_every_event():
    """Items are named by their index: ids that change from event to event (Copilot) make no second item."""
    events = events_of("rotating_ids")
    fold = folded(events)
    assert fold.response()["output"] == last_response(events)["output"]
    assert fold.anomalies == []
    assert fold.response()["copilot_usage"] == {"total_nano_aiu": 150325000}
    rebuilt = folded(without_output(events)).response()["output"]
    assert [item["type"] for item in rebuilt] == ["reasoning", "message"]
    assert texts({"output": rebuilt}) == ["There are three."]


@pytest.mark.parametrize(
    ("events", "output"),
    [
        pytest.param(
            [
                added({"id": "a", "type": "message", "content": []}),
                added({"id": "b", "type": "message", "content": []}),
                text_delta("1", item="a"),
                text_delta("2", item="b"),
                text_delta("3", item="a"),
            ],
            [["13"], ["2"]],
            id="all items at index 0",
        ),
        pytest.param(
            [text_delta("x", index=1, item="m"), text_delta("y", index=1, item="m")],
            [["xy"]],
            id="never introduced",
        ),
        pytest.param(
            [text_delta("c", part=2), text_delta("a", part=0), text_delta("c", part=2)],
            [["a", "cc"]],
            id="parts with gaps",
        ),
        pytest.param(
            [text_delta("late", index=4), text_delta("early", index=1, item="msg_0")],
            [["early"], ["late"]],
            id="indexes are an order",
        ),
        pytest.param(
            [
                added(None),
                added({"id": "m", "type": "message", "content": None}, 2),
                text_delta("x", index=2, item="m"),
            ],
            [["x"]],
            id="an item that never comes",
        ),
        pytest.param(
            [
                added({"id": "m", "type": "message", "content": []}, None),
                {"type": "response.output_text.delta", "item_id": "m", "delta": "no"},
                {"type": "response.output_text.delta", "item_id": "m", "delta": " index"},
            ],
            [["no index"]],
            id="ids only",
        ),
        pytest.param(
            [
                text_delta("before", item="m"),
                added({"id": "m", "type": "message", "status": "in_progress", "content": []}),
            ],
            [["before"]],
            id="delta before its item",
        ),
        pytest.param(
            [done(message("one", "a")), done(message("two", "b"))],
            [["one"], ["two"]],
            id="finished items at one index",
        ),
        pytest.param(
            [done(message("one", None), None), done(message("two", None), None), done(message("two", None), None)],
            [["one"], ["two"]],
            id="finished items without names, the last one twice",
        ),
        pytest.param(
            [
                done(message("one", None), None),
                added({"type": "message", "content": []}, None),
                {"type": "response.output_text.delta", "delta": "two"},
            ],
            [["one"], ["two"]],
            id="an item without a name after a finished one",
        ),
    ],
)
def test_what_names_an_item(events, output):
    """Items are told apart by index and id, whichever of them a server gets right; nothing goes to \"the last\" one."""
    response = folded([created(), *events]).response()
    assert [[part["text"] for part in item["content"]] for item in response["output"]] == output


@pytest.mark.parametrize("index", [None, 0])
@pytest.mark.parametrize("kind", ["function_call", "function_call_output", "custom_tool_call"])
def test_calls_without_ids(kind, index):
    """Items that have only a call's id are told apart by it (Databricks sends the outputs of tools so)."""
    items = [{"type": kind, "call_id": each, "name": "f"} for each in ("a", "b", "c")]
    assert folded([created(), *[done(item, index) for item in items], completed()]).response()["output"] == items


def test_parallel_calls_that_only_their_call_ids_name():
    """The deltas of a call may name it by its call id, if it has no other name (llama.cpp), and several may be open."""
    calls = [{"type": "function_call", "call_id": f"fc_{each}", "name": each, "status": "in_progress"} for each in "ab"]
    pieces = [("fc_a", '{"x"'), ("fc_b", "{"), ("fc_a", ":1}"), ("fc_b", "}")]
    grow = {"type": "response.function_call_arguments.delta"}
    deltas = [{**grow, "item_id": item, "delta": delta} for item, delta in pieces]
    whole = [{**call, "arguments": text} for call, text in zip(calls, ('{"x":1}', "{}"), strict=True)]
    ends = [{**call, "status": "completed"} for call in whole]
    begun = [created(), *[added({**call, "arguments": ""}, None) for call in calls], *deltas]
    assert folded(begun).response()["output"] == whole
    for end in (completed(), completed(ends)):
        fold = folded([*begun, *[done(call, None) for call in ends], end])
        assert fold.response()["output"] == ends
        assert fold.anomalies == []


@pytest.mark.parametrize("announced", [None, "call_id", "id"])
def test_events_that_only_a_call_id_names(announced):
    """Gateways whose events of a call have neither item nor index, but the call's id, mix up no calls."""
    grow = {"type": "response.function_call_arguments.delta"}
    end = {"type": "response.function_call_arguments.done", "arguments": '{"x":1}'}
    calls = [{"type": "function_call", "call_id": f"call_{name}", "name": name, "arguments": ""} for name in "ab"]
    if announced == "id":
        begun = [added({**call, "id": f"fc_{index}"}, index) for index, call in enumerate(calls)]
    else:
        begun = [added(call, None) for call in calls if announced]
    events = [
        *begun,
        {**grow, "call_id": "call_a", "delta": '{"x"'},
        {**grow, "call_id": "call_b", "delta": "{"},
        {**end, "call_id": "call_a", "name": "a"},
        {**grow, "call_id": "call_b", "delta": "}"},
    ]
    output = folded([created(), *events]).response()["output"]
    assert [(call["call_id"], call["arguments"]) for call in output] == [("call_a", '{"x":1}'), ("call_b", "{}")]
    assert output[0]["name"] == "a"


def reasoning_delta(delta, item):
    names = {"item_id": item, "output_index": 0, "summary_index": 0}
    return {"type": "response.reasoning_summary_text.delta", **names, "delta": delta}


OPENED = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([reasoning_delta("A", "r1"), reasoning_delta("B", "r2"), added(OPENED)], id="before the message"),
        pytest.param([added(OPENED), reasoning_delta("A", "r1"), reasoning_delta("B", "r2")], id="after it was opened"),
        pytest.param([added(OPENED), reasoning_delta("A", "msg_1"), reasoning_delta("B", "msg_1")], id="under its id"),
        pytest.param([reasoning_delta("A", "r"), added(OPENED), reasoning_delta("B", "r")], id="around its opening"),
        pytest.param(
            [
                added(OPENED),
                reasoning_delta("A", "r"),
                reasoning_delta("B", "r"),
                done({"id": "r", "type": "reasoning", "summary": [{"type": "summary_text", "text": "AB"}]}),
            ],
            id="finished under its index",
        ),
    ],
)
def test_reasoning_under_the_names_of_a_message(events):
    """LiteLLM numbers reasoning as the message it comes before; neither becomes a part of the other."""
    tail = [text_delta("H"), text_delta("i"), done(message("Hi")), completed()]
    fold = folded([created(), *events, *tail])
    reasoning, said = fold.response()["output"]
    assert (reasoning["type"], [part["text"] for part in reasoning["summary"]]) == ("reasoning", ["AB"])
    assert said == message("Hi")
    assert fold.anomalies == []


THOUGHT = {"type": "reasoning", "id": "a", "summary": [], "status": "completed"} | {
    "content": [{"type": "reasoning_text", "text": "Let me see."}]
}


def grow(family, deltas, index, item, *, at=0, counted=False):
    """Deltas of a text; `counted`: each under a number of its own, from `at` on."""
    kind = f"response.{family}.delta"
    names = {"type": kind, "item_id": item, "output_index": index}
    return [
        {**names, "content_index": at + place if counted else at, "delta": delta} for place, delta in enumerate(deltas)
    ]


def told(kind, index, item, at=0, **whole):
    """An event that tells all of a text, or announces a part."""
    return {"type": f"response.{kind}", "item_id": item, "output_index": index, "content_index": at, **whole}


def part(text):
    return {"type": "output_text", "text": text, "annotations": []}


def ends(index, item, *parts):
    """The last events of a message, whose parts some servers count on in."""
    return [
        told("output_text.done", index, item, parts[0], text="Four of them."),
        told("content_part.done", index, item, parts[1], part=part("Four of them.")),
        done(message("Four of them.", item), index),
    ]


def announced(kind, index, item):
    more = {"summary": []} if kind == "reasoning" else {"role": "assistant", "content": []}
    return added({"type": kind, "id": item, "status": "in_progress", **more}, index)


COUNTED = [
    announced("message", 0, "m"),
    told("content_part.added", 0, "m", part=part("")),
    *grow("output_text", ["Four ", "of ", "them."], 0, "m", at=1, counted=True),
    *ends(0, "m", 4, 5),
]
"""vLLM counts the index of the content on with every event of one text."""

TAKEN_OVER = [
    announced("reasoning", 0, "a"),
    told("content_part.added", 0, "a", part=part("")),
    *grow("reasoning_text", ["Let ", "me ", "see."], 0, "a", at=1, counted=True),
    told("reasoning_text.done", 0, "a", 4, text="Let me see."),
    done(THOUGHT, 0),
    announced("message", 0, "a"),
    told("content_part.added", 1, "m", part=part("")),
    *grow("output_text", ["Four ", "of ", "them."], 1, "m", at=1, counted=True),
    *ends(1, "m", 4, 5),
]
"""vLLM announces the message after its reasoning under the names of the reasoning, and goes on under others."""


def ended_late(thought, said):
    """gpt-oss in vLLM ends each item under the index of the next one; in TensorRT-LLM the items have no ids either."""
    return [
        announced("reasoning", 1, thought),
        told("reasoning_part.added", 1, thought, part={"type": "reasoning_text", "text": ""}),
        *grow("reasoning_text", ["Let ", "me ", "see."], 1, thought),
        told("reasoning_text.done", 2, thought, text="Let me see."),
        told("reasoning_part.done", 2, thought, part=THOUGHT["content"][0]),
        done({**THOUGHT, "id": thought}, 2),
        announced("message", 2, said),
        told("content_part.added", 2, said, 1, part=part("")),
        *grow("output_text", ["Four ", "of ", "them."], 2, said, at=1),
        *ends(3, said, 1, 1),
    ]


@pytest.mark.parametrize(
    ("events", "kinds"),
    [
        pytest.param(COUNTED, ["message"], id="counted parts"),
        pytest.param(TAKEN_OVER, ["reasoning", "message"], id="names taken over"),
        pytest.param(ended_late("a", "m"), ["reasoning", "message"], id="ended under the next index"),
        pytest.param(ended_late("x", "x"), ["reasoning", "message"], id="ended under the next index, one id for all"),
        pytest.param(ended_late("", ""), ["reasoning", "message"], id="ended under the next index, no ids"),
    ],
)
def test_servers_that_misnumber_their_items(events, kinds):
    """However vLLM and its like number what they send, each item is there once, as the unstreamed response has it.

    That holds wherever the stream is cut off, with the final output (which has other ids) and without.
    """
    whole = [{**THOUGHT, "id": "rs_9"}, message("Four of them.", "msg_9")][-len(kinds) :]
    fold = folded([created(), *events, completed(whole)])
    assert fold.response()["output"] == whole
    assert fold.anomalies == []
    for cut in range(1, len(events) + 1):
        response = folded([created(), *events[:cut]]).response()
        assert [item["type"] for item in response["output"]] == kinds[: len(response["output"])]
        seen = viewed(response).output_message
        assert "Four of them.".startswith(seen.content or "")
        assert "Let me see.".startswith(seen.reasoning or "")
    assert texts(response)[-1] == "Four of them."


def test_parts_that_are_announced_are_parts():
    """An index that is announced, or that comes after a part that has ended, is a part of its own."""
    start = [announced("message", 0, "m"), told("content_part.added", 0, "m", part=part("")), text_delta("A", item="m")]
    second = text_delta("B", part=1, item="m")
    for between in (told("content_part.added", 0, "m", 1, part=part("")), told("output_text.done", 0, "m", text="A")):
        assert texts(folded([created(), *start, between, second, {**second, "delta": "C"}]).response()) == ["A", "BC"]
    refused = {"type": "response.refusal.delta", "item_id": "m", "output_index": 0, "content_index": 1, "delta": "No"}
    parts = folded([created(), *start, refused]).response()["output"][0]["content"]
    assert [part["type"] for part in parts] == ["output_text", "refusal"]


def test_many_counted_parts_are_one():
    """A text whose every delta has a number of its own is one text, in one read and byte by byte."""
    deltas = grow("output_text", [f"{n} " for n in range(200)], 0, "m", at=1, counted=True)
    body = sse([created(), announced("message", 0, "m"), told("content_part.added", 0, "m", part=part("")), *deltas])
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        response = fold_pieces(pieces, format="openai-responses").data.response
        assert texts(response) == ["".join(event["delta"] for event in deltas)]


def test_a_call_that_ends_in_the_words_of_its_event():
    """vLLM ended a call as an object of the call and its event in one; the call has neither index nor number."""
    call = {"type": "function_call", "name": "f", "call_id": "c_2", "arguments": "{}", "status": "completed"}
    events = [
        added({**call, "id": "fc", "call_id": "c_1", "arguments": "", "status": "in_progress"}, 1),
        {"type": "response.function_call_arguments.delta", "item_id": "fc", "output_index": 1, "delta": "{}"},
        {"type": "response.function_call_arguments.done", "item_id": "fc", "output_index": 2, "arguments": "{}"},
        done({**call, "item_id": "fc", "output_index": 2, "sequence_number": -1}, 2),
    ]
    assert folded([created(), *events]).response()["output"] == [{**call, "id": "fc"}]


def test_reasoning_that_ends_the_text_of_a_message():
    """LiteLLM ends a message's text with the reasoning before it, which has been told as an item of its own."""
    reasoning = {"id": "r", "type": "reasoning", "summary": [{"type": "summary_text", "text": "AB"}]}
    events = [
        added({**reasoning, "summary": None}),
        *[reasoning_delta("A", "r"), reasoning_delta("B", "r"), done(reasoning)],
        *[text_delta("H"), text_delta("i")],
        told("output_text.done", 0, "msg_1", text="Hi"),
        told("content_part.done", 0, "msg_1", part={"type": "reasoning_text", "reasoning": "AB"}),
        done(message("Hi")),
    ]
    for end in (completed([reasoning, message("Hi")]), completed()):
        fold = folded([created(), *events, end])
        assert fold.response()["output"] == [reasoning, message("Hi")]
        assert fold.anomalies == []


def test_a_message_without_a_word_that_the_last_event_leaves_out():
    """LiteLLM ends a message in every stream, also if there only is a call; an unstreamed response has none."""
    call = {"id": "c", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"}
    events = [created(), done(call, 1), told("output_text.done", 0, "msg_1", text=""), done(message(""))]
    fold = folded([*events, completed([call])])
    assert fold.response()["output"] == [call]
    assert fold.anomalies == []
    assert folded([*events, completed()]).response()["output"] == [message(""), call]


def test_a_husk_finishes_an_item_and_leaves_it_what_it_is():
    """A gateway that finishes reasoning as an empty message, and leaves it out at the end, has still sent reasoning."""
    events = [
        created(),
        added({"id": "r", "type": "reasoning", "summary": []}),
        reasoning_delta("Why?", "r"),
        {**reasoning_delta("", "r"), "type": "response.reasoning_summary_text.done", "text": ""},
        done({"id": "r", "type": "message", "status": "completed", "role": "assistant", "content": []}),
        done(message("Hi"), 1),
        completed([message("Hi")]),
    ]
    part = {"type": "summary_text", "text": "Why?"}
    reasoning = {"id": "r", "type": "reasoning", "summary": [part], "status": "completed"}
    assert folded(events).response()["output"] == [reasoning, message("Hi")]


def test_an_item_without_content_that_was_never_introduced():
    """What finishes an item that no event told of is the item, also if nothing stands in it."""
    item = {"id": "rs_1", "type": "reasoning", "summary": []}
    assert folded([created(), done(item), completed()]).response()["output"] == [item]


def test_annotations_that_are_all_numbered_0():
    """Annotations under one number are all kept; one that comes again is not taken twice."""
    notes = [{**ANNOTATION, "start_index": each} for each in range(3)]
    event = {"type": "response.output_text.annotation.added", "output_index": 0, "annotation_index": 0}
    events = [{**event, "annotation": note} for note in (notes[0], *notes)]
    assert folded(events).response()["output"][0]["content"][0]["annotations"] == notes


def test_a_name_in_the_last_event_of_arguments():
    """A resumed stream may tell the name of a call only with all its arguments."""
    event = {"type": "response.function_call_arguments.done", "output_index": 3, "item_id": "fc", "arguments": "{}"}
    call = folded([{**event, "name": "f"}]).response()["output"][0]
    assert call == {"id": "fc", "type": "function_call", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize("content", ["Hi", [{"type": "text", "text": "Hi"}]])
def test_text_by_other_names(content):
    """Servers that put bare text, or parts of chat completions, into a message are read all the same."""
    item = {"type": "message", "role": "assistant", "content": content}
    assert viewed({"status": "completed", "output": [item]}).output_message.content == "Hi"


def test_items_that_were_never_introduced_are_named():
    """An item known only by its deltas has the type of its events and the id they state, and no more is invented."""
    response = folded(
        [
            text_delta("Hi", index=1),
            {"type": "response.function_call_arguments.delta", "output_index": 2, "item_id": "fc", "delta": "{"},
            {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 1, "delta": "why"},
        ]
    ).response()
    assert response == {
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "why"}]},
            {"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
            {"id": "fc", "type": "function_call", "arguments": "{"},
        ]
    }


ANNOTATION = {"type": "url_citation", "url": "https://e.example"}


@pytest.mark.parametrize(
    ("events", "path", "value"),
    [
        (
            [{"type": "response.refusal.done", "output_index": 0, "content_index": 0, "refusal": "No."}],
            ("content", 0),
            {"type": "refusal", "refusal": "No."},
        ),
        (
            [
                text_delta("x"),
                {"type": "response.output_text.annotation.added", "output_index": 0, "content_index": 0}
                | {"annotation_index": 0, "annotation": ANNOTATION},
            ],
            ("content", 0, "annotations"),
            [ANNOTATION],
        ),
        (
            [
                {"type": "response.custom_tool_call_input.delta", "output_index": 0, "delta": "select"},
                {"type": "response.custom_tool_call_input.done", "output_index": 0, "input": "select 1"},
            ],
            ("input",),
            "select 1",
        ),
        (
            [
                {"type": "response.shell_call_output_content.delta", "output_index": 0, "command_index": 0}
                | {"delta": {"stdout": "a"}},
                {"type": "response.shell_call_output_content.delta", "output_index": 0, "command_index": 0}
                | {"delta": {"stdout": "b", "stderr": "c"}},
            ],
            ("output",),
            [{"stdout": "ab", "stderr": "c"}],
        ),
        (
            [
                {"type": "response.audio.transcript.delta", "delta": "Hel"},
                {"type": "response.audio.delta", "delta": "AAEC"},
                {"type": "response.audio.transcript.delta", "delta": "lo"},
                {"type": "response.audio.delta", "delta": "AwQF"},
            ],
            ("content", 0),
            {"type": "output_audio", "transcript": "Hello", "data": "AAECAwQF"},
        ),
        ([{"type": "response.web_search_call.searching", "output_index": 0}], ("status",), "searching"),
        # The names of these events in OpenAI's first documents.
        (
            [
                {"type": "response.mcp_call.arguments.delta", "output_index": 0, "delta": '{"a"'},
                {"type": "response.mcp_call.arguments.delta", "output_index": 0, "delta": ":1}"},
            ],
            ("arguments",),
            '{"a":1}',
        ),
        (
            [
                {"type": "response.code_interpreter_call.code.delta", "output_index": 0, "delta": "1 "},
                {"type": "response.code_interpreter_call.code.done", "output_index": 0, "code": "1 + 1"},
            ],
            ("code",),
            "1 + 1",
        ),
        (
            [
                text_delta("x"),
                {"type": "response.output_text_annotation.added", "output_index": 0, "content_index": 0}
                | {"annotation_index": 0, "annotation": ANNOTATION},
            ],
            ("content", 0, "annotations"),
            [ANNOTATION],
        ),
    ],
)
def test_families_of_events(events, path, value):
    """Each family of events grows the field of the item that the unstreamed response has it in."""
    node = folded([created(), *events, completed()]).response()["output"][0]
    for step in path:
        node = node[step]
    assert node == value


def test_the_status_of_a_tool_that_nobody_knows():
    """An event that only says how far a tool has come sets the status of its item, and is no unknown event."""
    item = {"id": "t_1", "type": "weather_call", "status": "in_progress"}
    progress = {"type": "response.weather_call.reading", "item_id": "t_1", "output_index": 0, "sequence_number": 2}
    fold = folded([created(), added(item), progress])
    assert fold.response()["output"] == [{**item, "status": "reading"}]
    # An item of another type than the event names keeps its status: xAI runs a search as a custom call.
    call = {"id": "t_1", "type": "custom_tool_call", "call_id": "c", "name": "x_search", "status": "in_progress"}
    other = folded([created(), added(call), {**progress, "type": "response.x_search_call.completed"}])
    assert other.response()["output"][0]["status"] == "in_progress"
    assert fold.anomalies == other.anomalies == []
    more = folded([created(), added(item), {**progress, "found": 3}])
    assert more.anomalies == ["unknown_event"]


def test_a_call_that_ends_as_what_it_found():
    """Perplexity announces a call of its own tool, tells of it, and ends it as another item: none of it is odd."""
    call = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "search_web", "arguments": "{}"}
    found = {"type": "search_results", "queries": ["tides"], "results": [{"id": 1, "url": "https://tides.example"}]}
    events = [
        created(),
        {"type": "response.reasoning.started", "thought": "Let me see."},
        added({**call, "status": "completed"}),
        {"type": "response.reasoning.search_queries", "call_id": "c", "queries": ["tides"], "thought": "Searching"},
        {"type": "response.reasoning.search_results", "call_id": "c", "results": found["results"]},
        done(found),
        {"type": "response.reasoning.stopped"},
        added({**message(""), "content": None}, 1),
        text_delta("At six.", 1),
        done(message("At six."), 1),
    ]
    for end in (completed([found, message("At six.")]), completed()):
        fold = folded([*events, end])
        assert fold.response()["output"] == [found, message("At six.")]
        assert "unknown_events" not in fold.response()
        assert fold.anomalies == []
    assert viewed(fold.response()).tool_calls is None


@pytest.mark.parametrize(
    "event",
    [
        {"type": "codex.rate_limits", "plan_type": "pro", "rate_limits": {"primary": {"used_percent": 40.0}}},
        {"type": "responsesapi.websocket_timing", "timing_metrics": {}},
        {"type": "response.steer.accepted", "steer": {"id": "s_1"}},
        {"type": "response.fusion_call.panel.delta", "item_id": "t_1", "model": "m", "delta": "x"},
        {"type": "response.debug", "debug": {"echo_upstream_body": {}}},
        {"type": "response.weather_call.reading", "item_id": "t_1", "output_index": 1, "stream_id": "lane"},
    ],
)
def test_events_beside_the_response(event):
    """What tells of the account, the connection or a tool's doings has no place in the response, and is known."""
    fold = folded([created(), event, text_delta("Hi"), completed()])
    assert texts(fold.response()) == ["Hi"]
    assert "unknown_events" not in fold.response()
    assert fold.anomalies == []


def test_the_lane_and_the_agent_of_an_event_are_not_the_response():
    """Events of one WebSocket name their lane, those of several agents their agent; the response has neither."""
    names = {"stream_id": "lane", "agent": {"agent_name": "/root"}}
    item = {**message("Hi"), "agent": {"agent_name": "/root"}}
    events = [created(), added({**item, "content": []}), text_delta("H"), text_delta("i"), done(item)]
    events.append(completed([item]))
    assert folded([{**event, **names} for event in events]).response() == folded(events).response()


def test_spoken_output_is_audio_of_the_message():
    """Audio and its transcript are the message's audio."""
    data = viewed(folded([{"type": "response.audio.delta", "delta": "AAEC"}]).response())
    assert data.output_message.audio.data == "AAEC"


# ---------------------------------------------------------------------- who is right


WHOLE_PART = {"type": "output_text", "text": "Hello"}


@pytest.mark.parametrize(
    ("events", "text", "codes"),
    [
        ([text_delta("Hel"), text_delta("lo")], "Hello", []),
        (
            [text_delta("Hel"), {**text_delta(""), "type": "response.output_text.done", "text": "Hello"}],
            "Hello",
            ["done_differs_from_deltas"],
        ),
        (
            [text_delta("Hello"), {**text_delta(""), "type": "response.output_text.done", "text": ""}],
            "Hello",
            ["done_differs_from_deltas"],
        ),
        (
            [text_delta("Hel"), {**text_delta(""), "type": "response.content_part.done", "part": WHOLE_PART}],
            "Hello",
            ["done_differs_from_deltas"],
        ),
        ([text_delta("Hel"), done(message("Hello"))], "Hello", ["done_differs_from_deltas"]),
        ([text_delta("Hello"), done({**message(""), "content": []})], "Hello", ["done_differs_from_deltas"]),
        ([done(message("Hello")), text_delta("lo")], "Hello", ["delta_after_done"]),
        ([text_delta("Hel"), completed([message("Hello")])], "Hello", ["terminal_differs_from_items"]),
        ([completed([message("Hello")])], "Hello", ["terminal_differs_from_items"]),
        ([done(message("Hello")), completed([message("Hello")])], "Hello", []),
        (
            [done(message("Hello")), completed([{**message(""), "content": []}])],
            "Hello",
            ["terminal_differs_from_items"],
        ),
    ],
)  # fmt: skip
def test_the_later_and_larger_document_is_right(events, text, codes):
    """A `.done` beats deltas, the last event beats both, silence beats nothing, and a contradiction is flagged."""
    fold = folded([created(), *events])
    assert texts(fold.response()) == [text]
    assert fold.anomalies == codes


def test_nothing_is_lost_when_the_last_event_leaves_something_out():
    """Items and fields that only the stream told of stay, in their place; the last event's items and order stand."""
    reasoning = {"id": "rs", "type": "reasoning", "summary": [], "encrypted_content": "ENC"}
    call = {"id": "fc", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"}
    final = [{"id": "rs", "type": "reasoning", "summary": []}, message("Hi", "other_id")]
    fold = folded([created(), done(reasoning, 0), done(call, 1), done(message("Hi"), 2), completed(final)])
    assert fold.response()["output"] == [reasoning, call, message("Hi", "other_id")]
    assert fold.anomalies == ["terminal_differs_from_items"]


def test_sources_told_anew_are_no_contradiction():
    """The last event of xAI gives each search the sources of all of them, in another order; they stand, unflagged."""

    def search(number, *urls):
        action = {"type": "search", "query": f"q{number}", "sources": [{"type": "url", "url": url} for url in urls]}
        return {"id": f"ws_{number}", "type": "web_search_call", "status": "completed", "action": action}

    final = [search(0, "c", "a", "b"), search(1, "c", "a", "b"), search(2)]
    fold = folded(
        [
            created(),
            added({**search(0), "status": "in_progress"}, 0),
            done(search(0, "a", "b"), 0),
            done(search(1, "b", "c", "a"), 1),
            done(search(2), 2),
            completed(final),
        ]
    )
    assert fold.response()["output"] == final
    assert fold.anomalies == []


def test_a_status_under_way_is_not_kept():
    """A finished item without a status has none: "in_progress" is over; a status that an event told stays."""
    call = {"id": "m", "type": "mcp_call", "name": "q", "arguments": ""}
    events = [added({**call, "status": "in_progress"}), done({**call, "error": "no"})]
    assert folded(events).response()["output"] == [{**call, "error": "no"}]
    failed = {"type": "response.mcp_call.failed", "output_index": 0, "item_id": "m"}
    assert folded([added(call), failed, events[1]]).response()["output"][0]["status"] == "failed"


def test_an_item_that_starts_again():
    """A resumed stream that plays an item again from its start does not double it."""
    events = events_of("text")
    cut = next(i for i, event in enumerate(events) if event.get("delta") == " coat")
    fold = folded(events[:cut] + events[2:])
    assert fold.response() == last_response(events)
    assert texts(folded(events[:cut] + events[2 : cut + 1]).response()) == ["".join(
        event["delta"] for event in events[: cut + 1] if "delta" in event
    )]  # fmt: skip
    assert fold.anomalies == ["sequence_repeated", "item_added_again"]


def test_the_envelope_is_merged_field_by_field():
    """The last event wins, what only the first one said stays, null usage erases none, late events change nothing."""
    late = {"type": "response.in_progress", "response": {"status": "in_progress", "late": 1}}
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    fold = folded(
        [
            created(service_tier="auto", instructions="Be brief", usage=usage),
            completed(service_tier="flex", usage=None),
            late,
        ]
    )
    first = {"id": "resp_1", "object": "response", "status": "completed", "model": "gpt-5", "output": []}
    rest = {"service_tier": "flex", "instructions": "Be brief", "usage": usage, "late": 1}
    assert fold.response() == {**first, **rest}


def test_fields_nobody_knows_are_kept():
    """Fields of the response and of items that no document names are in the folded response."""
    item = message("Hi", x_item=[1])
    response = folded([created(citations=["u"]), done(item), completed(search_results=[{"url": "u"}])]).response()
    assert (response["citations"], response["search_results"]) == (["u"], [{"url": "u"}])
    assert response["output"] == [item]


def test_a_lifecycle_event_may_bring_items():
    """Items in the response of a lifecycle event (a background response taken up again) are the output so far."""
    fold = folded([created(output=[message("Hel", status="in_progress")]), text_delta("lo")])
    assert texts(fold.response()) == ["Hello"]


# ---------------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("name", "status", "finish", "raw"),
    [
        ("text", "success", "stop", "completed"),
        ("reasoning_tools", "success", "tool_calls", "completed"),
        ("hosted_tools", "success", "stop", "completed"),
        ("incomplete", "success", "length", "max_output_tokens"),
        ("failed", "error", None, "failed"),
    ],
)
def test_how_streams_end(name, status, finish, raw):
    """Each end of a response is an outcome, with OpenAI's word where there is one and the provider's own beside it."""
    data = read(name)
    assert (data.status, data.finish_reason, data.raw_finish_reason) == (status, finish, raw)
    assert data.integrity.end_marker
    assert data.token_usage.source == "provider"


def test_a_failure_keeps_what_came():
    """Text and usage of a failed response stay; the bare error and the failed response are one error."""
    data = read("failed")
    assert data.output_message.content == "Half an ans"
    assert data.response["output"][0]["status"] == "in_progress"
    assert data.token_usage.total_tokens == 23
    assert (data.error_details.type, data.error_details.code) == ("server_error", "server_error")
    assert data.error_details.retryable


@pytest.mark.parametrize(
    "error",
    [
        {"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "param": None, "sequence_number": 1},
        {"type": "error", "error": {"code": "rate_limit_exceeded", "message": "slow down"}},
        {"error": {"code": "rate_limit_exceeded", "message": "slow down"}},
        {"type": "response.failed", "response": {"status": "failed"}}
        | {"error": {"code": "rate_limit_exceeded", "message": "slow down"}},
    ],
)
def test_errors_in_all_spellings(error):
    """An error inside the stream ends it as one, with code and message, and no completion is invented."""
    data = streamfold.fold(sse([created(), error]), format="openai-responses").data
    assert data.status == "error"
    assert (data.error_details.code, data.error_details.message) == ("rate_limit_exceeded", "slow down")
    assert data.error_details.status_code == 429
    assert data.finish_reason is None


@pytest.mark.parametrize(
    ("response", "finish", "raw"),
    [
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter", None),
        ({"status": "incomplete", "incomplete_details": None}, None, "incomplete"),
        ({"status": "incomplete", "incomplete_details": {"reason": "steered"}}, None, "steered"),
        ({"status": "cancelled"}, None, "cancelled"),
        ({"status": "requires_action", "output": [{"type": "function_call"}]}, "tool_calls", "requires_action"),
        ({"status": "completed", "output": [{"type": "custom_tool_call", "name": "f"}]}, "tool_calls", "completed"),
        # xAI runs its own tools as custom calls and then answers.
        ({"status": "completed", "output": [{"type": "custom_tool_call"}, message("Hi")]}, "stop", "completed"),
        ({"status": "completed", "output": [{"type": "function_call"}, message("Hi")]}, "tool_calls", "completed"),
    ],
)
def test_finish_reasons(response, finish, raw):
    """The finish reason is derived from status, reason and open calls; an unknown word stays the provider's."""
    data = viewed(response)
    assert (data.finish_reason, data.raw_finish_reason) == (finish, raw or finish)


@pytest.mark.parametrize("response", [{"status": "queued"}, {"status": "in_progress"}, {"output": []}, {"status": 3}])
def test_what_has_not_finished_has_no_reason(response):
    """Nothing is invented for a response that has not ended."""
    data = viewed(response)
    assert (data.finish_reason, data.raw_finish_reason) == (None, None)


def test_a_stream_that_stops():
    """Without a last event a stream is truncated; text stays, the item stays in progress, and nothing is finished."""
    events = events_of("text")[:9]
    data = streamfold.fold(sse(events), format="openai-responses").data
    assert (data.status, data.finish_reason) == ("truncated", None)
    assert data.output_message.content == "The ferry leaves at 9:15"
    assert data.response["output"][0]["status"] == "in_progress"
    assert data.response["status"] == "in_progress"
    assert data.token_usage.source == "missing"


def test_a_last_event_without_its_response():
    """A last event that brings no response still ends the stream, with the status that its type means."""
    fold = folded([created(), text_delta("Hi"), {"type": "response.completed", "response": None}])
    assert fold.ended
    assert fold.response()["status"] == "completed"
    assert texts(fold.response()) == ["Hi"]
    assert fold.anomalies == ["unexpected_shape"]


def test_a_last_event_that_is_its_response():
    """The fields of the response may stand in the last event itself; its type and number are none of them."""
    end = {"type": "response.completed", "sequence_number": 3, "output": [message("Hi")], "usage": {"total_tokens": 3}}
    fold = folded([text_delta("Hi"), end])
    assert fold.response() == {"output": [message("Hi")], "usage": {"total_tokens": 3}, "status": "completed"}
    assert (fold.ended, fold.anomalies) == (True, [])


def test_arguments_that_are_not_there_yet():
    """A call without arguments is complete once it is over, and not while it is under way."""
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}
    for status, complete in (("in_progress", False), ("incomplete", False), ("completed", True)):
        data = viewed({"output": [{**call, "status": status}]})
        assert data.tool_calls[0].arguments_complete is complete
    assert not viewed({"output": [{**call, "arguments": '{"a":'}]}).tool_calls[0].arguments_complete


# ---------------------------------------------------------------------- sequence numbers


@pytest.mark.parametrize(
    ("numbers", "codes"),
    [
        ([0, 1, 2, 3, 4, 5], []),
        ([7, 8, 9, 10, 11, 12], []),
        ([None, None, None, None, None, None], []),
        ([0, 0, 0, 0, 0, 0], []),
        ([0, 1, 2, 4, 5, 6], ["sequence_gap"]),
        ([0, 1, 2, 2, 3, 4], ["sequence_repeated"]),
        ([0, 1, 3, 2, 4, 5], ["sequence_reordered"]),
        ([0, 1, 3, 2, 3, 4], ["sequence_reordered", "sequence_repeated"]),
        ([0, 9, 2, 3, 4, 5], ["sequence_reordered", "sequence_gap"]),
        ([0, 90000, 2, 3, 4, 5], ["sequence_gap", "sequence_repeated"]),
    ],
)
def test_sequence_numbers_are_watched_and_not_obeyed(numbers, codes):
    """Gaps, repeats and reorderings are flagged, whether or not frames repeat; the text is that of arrival."""
    letters = ["a", "b", "c", "d", "e", "f"]
    events = [text_delta(letter) for letter in letters]
    for event, number in zip(events, numbers, strict=True):
        if number is not None:
            event["sequence_number"] = number
    payloads = [msgspec.json.encode(event) for event in events]
    together, singly, decoded = OpenAIResponses(), OpenAIResponses(), OpenAIResponses()
    together.add_all(payloads, None)
    for payload, event in zip(payloads, events, strict=True):
        singly.add(payload)
        decoded.add_decoded(event)
    for fold in (together, singly, decoded):
        assert texts(fold.response()) == ["abcdef"]
        assert fold.anomalies == codes
        assert fold.chunks == 6


def test_repeating_deltas_take_the_short_way():
    """Deltas that follow each other are folded without the complete way, and a different one ends that."""
    events = [text_delta(f" {i}", sequence_number=i, logprobs=[], obfuscation="x" * (i % 7)) for i in range(50)]
    payloads = [msgspec.json.encode(event) for event in events]
    calls = []

    class Counted(OpenAIResponses):
        def add_event(self, event, name=None):
            calls.append(event)
            return super().add_event(event, name)

    fold = Counted()
    flags = fold.add_all(payloads, None)
    assert len(calls) == 1
    assert flags == CHUNK | OUTPUT | CONTENT
    assert (fold.chunks, texts(fold.response())) == (50, ["".join(event["delta"] for event in events)])
    others = [
        text_delta("x", sequence_number=50, part=1),
        text_delta("y", sequence_number=51, part=1, item="msg_2"),
        text_delta("z", sequence_number=52, part=1, item="msg_2", logprobs=[{"token": "z", "logprob": -1}]),
        text_delta("\ud83d", sequence_number=53, part=1, item="msg_2"),
        {**text_delta("w", sequence_number=54, part=1, item="msg_2"), "delta": None},
    ]
    fold.add_all([json.dumps(event).encode() for event in others], None)
    assert len(calls) == 6
    assert fold.anomalies == []


# ---------------------------------------------------------------------- timings, limits, oddities


def test_what_events_bring():
    """Output is any word or call of the model, content what a reader sees; a copy of what came is neither."""
    fold = OpenAIResponses()
    item = {"id": "msg_1", "type": "message", "content": []}
    for event, flags in [
        ({"type": "keepalive", "sequence_number": 3}, 0),
        (created(), CHUNK),
        (added({"id": "rs", "type": "reasoning", "summary": []}, 0), CHUNK),
        ({"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "a"}, CHUNK | OUTPUT),
        (added(item, 1), CHUNK),
        (text_delta("", 1), CHUNK),
        (text_delta("a", 1), CHUNK | OUTPUT | CONTENT),
        ({**text_delta("", 1), "type": "response.output_text.done", "text": "a"}, CHUNK),
        (done(message("a"), 1), CHUNK),
        (added({"id": "fc", "type": "function_call", "name": "f", "arguments": ""}, 2), CHUNK | OUTPUT),
        (done(message("whole", "msg_2"), 3), CHUNK | OUTPUT | CONTENT),
        (done({"id": "ig", "type": "image_generation_call", "result": "AA=="}, 4), CHUNK | OUTPUT | CONTENT),
        (completed([message("a")]), CHUNK),
    ]:
        assert fold.add_event(event) == flags, event
    assert OpenAIResponses().add_event(completed([message("a")])) == CHUNK | OUTPUT | CONTENT


def test_a_full_fold_takes_only_the_end():
    """Over the size limit nothing grows any more, but status, usage and the end are still taken."""
    fold = folded([created(), text_delta("kept")])
    fold.close()
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    rest = [
        text_delta(" lost"),
        done(message("lost")),
        added(message("lost"), 5),
        completed([message("lost")], usage=usage),
    ]
    fold.add_all([msgspec.json.encode(event) for event in rest], None)
    assert texts(fold.response()) == ["kept"]
    assert fold.response()["usage"] == usage
    assert fold.ended
    assert fold.finished


def test_unknown_events_are_kept_and_bounded():
    """Events that nobody knows are kept as they came, the first of them, and flagged."""
    event = {"type": "response.telepathy.delta", "delta": "?"}
    fold = folded([created(), *[event] * 100])
    assert fold.response()["unknown_events"] == [event] * 64
    assert fold.anomalies == ["unknown_event"]


def test_it_is_recognised():
    """The first event of a stream, and a whole response, can only be of this format."""
    body = (FIXTURES / "text.sse").read_bytes()
    assert streamfold.fold(body, format="auto").format == "openai-responses"
    assert streamfold.read(last_response(events_of("text")), format="auto").format == "openai-responses"
    assert not OpenAIResponses.recognises({"type": "message_start"}, "message_start")
    assert not OpenAIResponses.recognises({"type": "error"}, "error")
    # Of the APIs whose errors have this type only this one numbers them.
    error = {"type": "error", "error": {"type": "server_error", "message": "m"}, "sequence_number": 2}
    assert streamfold.fold(sse([error]), format="auto").data.error_details.message == "m"


def test_text_under_new_ids_is_one_text():
    """Deltas that all take the complete way, since each names its item anew, are the whole text."""
    count = 1000
    deltas = [text_delta(" word", sequence_number=i, item=f"id_{i}") for i in range(count)]
    assert texts(folded([created(), added(message(""), 0), *deltas]).response()) == [" word" * count]


# ---------------------------------------------------------------------- anything at all

KINDS = [*_HANDLERS, *_DELTAS, "response.unheard_of", "ping", None]
KEYS = [
    *("type", "response", "output_index", "item_id", "content_index", "summary_index", "command_index", "item", "part"),
    *("annotation_index", "sequence_number", "delta", "text", "refusal", "arguments", "input", "code", "command"),
    *("diff", "annotation", "annotations", "logprobs", "id", "content", "summary", "status", "output", "usage"),
    *("action", "commands", "operation", "name", "call_id", "object", "partial_image_b64", "role", "result", "reason"),
    *("incomplete_details", "error"),
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(KINDS)
    | st.just([]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=8,
)
TYPES = st.sampled_from(["message", "reasoning", "function_call", "shell_call", "image_generation_call"])
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
ITEMS = st.fixed_dictionaries(
    {"type": TYPES | VALUES},
    optional={
        "id": st.sampled_from(["a", "b"]) | VALUES,
        "status": st.sampled_from(["in_progress", "completed"]) | VALUES,
        "content": st.lists(OBJECTS, max_size=2) | VALUES,
        **dict.fromkeys(("summary", "action", "output", "arguments", "result", "call_id", "role"), VALUES),
    },
)
RESPONSES = st.fixed_dictionaries(
    {"output": st.lists(ITEMS, max_size=3) | VALUES}, optional=dict.fromkeys(("status", "usage", "error", "id"), VALUES)
)
EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS) | VALUES},
    optional={
        "output_index": st.integers(0, 2) | VALUES,
        "item_id": st.sampled_from(["a", "b", ""]) | VALUES,
        "content_index": st.integers(0, 1) | VALUES,
        "sequence_number": st.integers(0, 5) | VALUES,
        "delta": st.text(max_size=3) | VALUES,
        "item": ITEMS | VALUES,
        "part": OBJECTS | VALUES,
        "response": RESPONSES | VALUES,
        **dict.fromkeys(
            ("text", "refusal", "arguments", "command", "diff", "output", "annotation", "logprobs"), VALUES
        ),
        **dict.fromkeys(("summary_index", "command_index", "annotation_index", "error", "object"), VALUES),
    },
)


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENTS, max_size=12), st.sampled_from([None, "error", "response.completed"]))
def test_no_object_is_too_odd(events, name):
    """Whatever the objects are, adding, reading and viewing them raises nothing, and they are never changed."""
    fold = OpenAIResponses()
    before = copy.deepcopy(events)
    for event in events:
        fold.add_event(event, name)
        response = fold.response()
        if response is not None:
            msgspec.json.encode(viewed(response))
    assert repr(events) == repr(before)
    fold.close()
    for event in events:
        fold.add_event(event, name)
    fold.response()


@settings(max_examples=200, deadline=None)
@given(RESPONSES | OBJECTS)
def test_no_response_is_too_odd(response):
    """Whatever an unstreamed response looks like, viewing it raises nothing."""
    msgspec.json.encode(viewed(response))


def test_deep_nesting_is_survived():
    """JSON nested more deeply than Python recurses costs at most a comparison."""
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    fold = OpenAIResponses()
    for event in (created(), added({"type": "x", "content": deep}), done({"type": "x", "content": [deep]})):
        fold.add_event(event)
    fold.add_event(completed([{"type": "x", "content": [deep, deep]}]))
    assert fold.response()["output"][0]["type"] == "x"
