"""Anthropic Messages: a folded stream is the message that the same request returns unstreamed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anthropic.lib.streaming._beta_messages import accumulate_event
from anthropic.types import Message
from hypothesis import given, settings
from hypothesis import strategies as st

import streamfold
from streamfold.testing import sse
from streamfold.types import AccumulatedData, StreamType
from streamfold.wire.anthropic_messages import AnthropicMessages, anthropic_usage
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT

FIXTURES = Path(__file__).parent / "fixtures" / "anthropic-messages"
BODIES = {path.stem: path.read_bytes() for path in sorted(FIXTURES.glob("*.sse"))}

JSON = dict[str, Any]


def folded(name: str) -> AccumulatedData:
    return data_of(BODIES[name])


def data_of(body: bytes) -> AccumulatedData:
    data = streamfold.fold(body, format="anthropic-messages").data
    assert data is not None
    return data


def events_of(body: bytes) -> list[JSON]:
    return [json.loads(line[5:]) for line in body.splitlines() if line.startswith(b"data:")]


def fold_of(events: list[JSON]) -> AnthropicMessages:
    fold = AnthropicMessages()
    fold.add_all([json.dumps(event).encode() for event in events], None)
    assert "accumulator_error" not in fold.anomalies
    return fold


def response_of(events: list[JSON]) -> JSON:
    response = fold_of(events).response()
    assert response is not None
    return response


def begin(**extra: Any) -> JSON:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": []}
    usage = {"input_tokens": 25, "output_tokens": 1}
    return {"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage, **extra}}


def opened(index: int, **block: Any) -> JSON:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **fields: Any) -> JSON:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def stopped(index: int) -> JSON:
    return {"type": "content_block_stop", "index": index}


def end(reason: str | None, usage: JSON | None = None, **top: Any) -> JSON:
    event: JSON = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, **top}
    return event if usage is None else {**event, "usage": usage}


def text(index: int, *parts: str) -> list[JSON]:
    deltas = [delta(index, "text_delta", text=part) for part in parts]
    return [opened(index, type="text", text=""), *deltas, stopped(index)]


STOP: JSON = {"type": "message_stop"}
TOOL: JSON = {"type": "tool_use", "id": "toolu_1", "name": "w", "input": {}}


# ---------------------------------------------------------------------------------------------- whole streams


@pytest.mark.parametrize("name", ["text", "thinking_tools", "web_search", "container", "compaction"])
def test_folds_what_the_sdk_accumulates(name: str) -> None:
    """The native response equals what Anthropic's own SDK puts together from the same events."""
    message: Any = None
    buffers: dict[int, bytes] = {}
    for event in events_of(BODIES[name]):
        if event["type"] != "ping":
            message = accumulate_event(
                event=event,  # type: ignore[arg-type]
                current_snapshot=message,
                json_bufs=buffers,
                request_headers={},  # type: ignore[arg-type]
            )
    assert message is not None
    assert folded(name).response == message.to_dict(mode="json", exclude_unset=True)


@pytest.mark.parametrize("name", ["text", "thinking_tools", "web_search", "container"])
def test_is_a_message_of_the_sdk(name: str) -> None:
    """The native response of a complete stream is a valid `Message` by the SDK's own types."""
    data = folded(name)
    assert data.status == "success"
    assert data.integrity.anomalies == []
    assert Message.model_validate(data.response).stop_reason == data.raw_finish_reason


@pytest.mark.parametrize("name", BODIES)
def test_cuts_do_not_matter(name: str) -> None:
    """A stream fed byte by byte gives the response and the view of the same stream fed whole."""
    stream = streamfold.StreamAccumulator(format="anthropic-messages")
    for byte in BODIES[name]:
        stream.feed(bytes([byte]))
    data, whole = stream.finish().data, folded(name)
    assert data is not None
    for field in ("response", "output_message", "token_usage", "integrity", "finish_reason", "status", "chunks"):
        assert getattr(data, field) == getattr(whole, field)


@pytest.mark.parametrize("name", BODIES)
def test_an_unstreamed_body_reads_the_same(name: str) -> None:
    """A whole native response folds to itself and has the view of the stream that it was folded from."""
    data = folded(name)
    read = streamfold.read(data.response or {}, format="anthropic-messages").data
    assert read is not None
    if name == "overloaded":  # only a stream knows that its output tokens were never counted
        assert (data.token_usage.completion_tokens, read.token_usage.completion_tokens) == (None, 1)  # type: ignore[union-attr]
        return
    assert read.response == data.response
    assert (read.finish_reason, read.token_usage) == (data.finish_reason, data.token_usage)
    assert read.output_message is not None
    assert data.output_message is not None
    assert read.output_message.content == data.output_message.content
    assert [call.id for call in read.tool_calls or ()] == [call.id for call in data.tool_calls or ()]


@pytest.mark.parametrize("name", BODIES)
def test_recognised(name: str) -> None:
    """The first event of a stream and an unstreamed response are recognised as this format's."""
    assert AnthropicMessages.recognises(events_of(BODIES[name])[0], None)
    assert AnthropicMessages.recognises(folded(name).response or {}, None)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"type": "ping"},
        {"type": "response.created", "response": {}},
        {"type": "error", "sequence_number": 3, "error": {"type": "server_error"}},
        {"type": "message", "role": "assistant", "content": []},
        {"choices": []},
    ],
)
def test_not_recognised(event: JSON) -> None:
    """Events that another format has, or could have, are not taken for this format's."""
    assert not AnthropicMessages.recognises(event, None)


def test_snapshots_do_not_disturb() -> None:
    """Reading the response after every event changes nothing of the final one."""
    for body in BODIES.values():
        fold, events = AnthropicMessages(), events_of(body)
        for event in events:
            fold.add(json.dumps(event).encode())
            fold.response()
        assert fold.response() == response_of(events)


# ------------------------------------------------------------------------------------------------------- view


def test_view_of_text() -> None:
    """Text, cache counts and the stop sequence reach the neutral record, cache reads and writes in the prompt."""
    data = folded("text")
    assert data.output_message is not None
    assert data.output_message.content == "Two larks — “up”\nand \\ away 🐦."
    assert (data.finish_reason, data.raw_finish_reason) == ("stop", "stop_sequence")
    assert data.response is not None
    assert data.response["stop_sequence"] == "END"
    usage = data.token_usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (12 + 310 + 2048, 19, 2389)
    details = usage.prompt_tokens_details
    assert details is not None
    assert (details.cached_read_tokens, details.cached_write_tokens) == (2048, 310)
    assert (details.cached_write_5m_tokens, details.cached_write_1h_tokens) == (300, 10)
    assert (usage.source, data.service_tier, data.response_id) == ("provider", "standard", "msg_01Lark")


def test_view_of_thinking_and_tools() -> None:
    """Thinking, redacted thinking and client tools reach the view, arguments exactly as they were sent."""
    data = folded("thinking_tools")
    message = data.output_message
    assert message is not None
    assert message.reasoning == "Two cities, so two calls."
    assert [block["type"] for block in message.reasoning_details or ()] == ["thinking", "redacted_thinking"]
    assert message.content == "I'll look both up."
    assert [(call.index, call.id, call.function.arguments) for call in data.tool_calls or () if call.function] == [
        (0, "toolu_01Oslo", '{"port": "Oslo", "days": 3}'),
        (1, "toolu_01Bergen", '{"port":"Bergen","datum":1.50}'),
        (2, "toolu_01Now", "{}"),
    ]
    assert data.arguments_complete is True
    assert data.finish_reason == "tool_calls"
    assert data.token_usage is not None
    assert data.token_usage.completion_tokens_details is not None
    assert data.token_usage.completion_tokens_details.reasoning_tokens == 41


def test_view_of_server_tools() -> None:
    """Tools that the provider ran are blocks of the response and no calls for the client; citations are annotations."""
    data = folded("web_search")
    assert data.tool_calls is None
    assert data.output_message is not None
    assert data.output_message.content == "Tonight there is a comet in the west."
    assert [note["cited_text"] for note in data.output_message.annotations or ()] == ["A comet is up.", "Look west."]
    assert data.response is not None
    assert data.response["content"][0]["input"] == {"query": "comet tonight"}
    assert "partial_json" not in data.response["content"][0]
    assert data.token_usage is not None
    assert data.token_usage.server_tool_use == {"web_search_requests": 1, "web_fetch_requests": 0}


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("compaction", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("stop", "stop"),
        ("something_new", None),
    ],
)
def test_finish_reasons(said: str, word: str | None) -> None:
    """Each stop reason has OpenAI's word, and the provider's own is kept."""
    data = data_of(sse([begin(), *text(0, "Hi"), end(said, {"output_tokens": 2}), STOP]))
    assert (data.finish_reason, data.raw_finish_reason, data.status) == (word, said, "success")


def test_refusal_details_are_kept() -> None:
    """The details of a refusal stay in the native response."""
    details = {"type": "refusal", "category": "cyber", "explanation": "no"}
    event = {"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": details}}
    assert response_of([begin(stop_details=None), event, STOP])["stop_details"] == details


# ------------------------------------------------------------------------------------------------------ usage


@pytest.mark.parametrize(
    ("first", "then", "whole"),
    [
        ({"input_tokens": 25, "output_tokens": 1}, {"output_tokens": 9}, {"input_tokens": 25, "output_tokens": 9}),
        (
            {"input_tokens": 25, "output_tokens": 1, "cache_read_input_tokens": 7},
            {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0},
            {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0},
        ),
        (
            {"input_tokens": 25, "output_tokens": 1, "service_tier": "priority", "speed": "fast"},
            {"input_tokens": None, "output_tokens": 3, "service_tier": None},
            {"input_tokens": 25, "output_tokens": 3, "service_tier": "priority", "speed": "fast"},
        ),
        (
            {"output_tokens": 1, "server_tool_use": {"web_search_requests": 1}, "iterations": [{"a": 1}, {"a": 2}]},
            {"output_tokens": 2, "server_tool_use": {"web_fetch_requests": 4}, "iterations": [{"a": 3}]},
            {
                "output_tokens": 2,
                "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 4},
                "iterations": [{"a": 3}],
            },
        ),
    ],
    ids=["placeholder", "explicit zero", "null and absent", "nested"],
)
def test_usage_is_cumulative(first: JSON, then: JSON, whole: JSON) -> None:
    """A later count replaces an earlier one field by field; null and absent erase nothing, 0 does."""
    assert response_of([begin(usage=first), end("end_turn", then), STOP])["usage"] == whole


@pytest.mark.parametrize(
    ("events", "counts"),
    [
        ([begin(), *text(0, "par")], (25, None, None)),
        ([begin(), end("end_turn"), STOP], (25, None, None)),
        ([begin(), end("end_turn", {"output_tokens": 0}), STOP], (25, 0, 25)),
        ([begin(stop_reason="tool_use", usage={"input_tokens": 0, "output_tokens": 0}), STOP], (0, 0, 0)),
        ([begin(usage=None), STOP], (None, None, None)),
    ],
    ids=["cut off", "never counted", "counted as zero", "finished from the start", "nothing said"],
)
def test_a_placeholder_is_not_a_count(events: list[JSON], counts: tuple[int | None, ...]) -> None:
    """The output tokens of `message_start` count only if the message was finished there."""
    usage = data_of(sse(events)).token_usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == counts
    assert usage.source == ("missing" if counts[0] is None else "provider")


def test_cache_writes_from_their_parts() -> None:
    """Cache writes that are only said per lifetime are summed; a usage without input has no prompt total."""
    split = {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 2}
    usage = anthropic_usage({"input_tokens": 3, "output_tokens": 1, "cache_creation": split})
    assert (usage.prompt_tokens, usage.total_tokens) == (10, 11)
    assert anthropic_usage({"output_tokens": 1}).total_tokens is None


# ------------------------------------------------------------------------------------------------- tool input


@pytest.mark.parametrize(
    ("start", "fragments", "whole"),
    [
        ({}, ["", '{"ci', 'ty":"Paris"}'], {"city": "Paris"}),
        ({}, [""], {}),
        ({}, [], {}),
        ("", [""], {}),
        (None, [""], {}),
        (..., [], {}),
        (..., ['{"face":5}'], {"face": 5}),
        ({"face": 4}, [], {"face": 4}),
        ({"face": 4}, ['{"face":5}'], {"face": 5}),
        ({}, ['{"half":"\\ud83d"}'], {"half": "\ufffd"}),
        ({}, ["[1,2]"], [1, 2]),
    ],
    ids=[
        *["fragments", "empty", "none", "string", "null", "no field", "no field at first"],
        *["in the start", "said again", "half a character", "no object"],
    ],
)
def test_whole_tool_input(start: Any, fragments: list[str], whole: Any) -> None:
    """Input that arrived whole is the object it spells, with nothing beside it; no text at all is no parameters."""
    deltas = [delta(0, "input_json_delta", partial_json=part) for part in fragments]
    call = {**TOOL, "input": start}
    if start is ...:  # llama.cpp leaves the field out
        del call["input"]
    data = data_of(sse([begin(), opened(0, **call), *deltas, stopped(0), end("tool_use"), STOP]))
    assert data.response is not None
    assert data.response["content"] == [{**TOOL, "input": whole}]
    assert data.arguments_complete is True
    assert data.integrity.anomalies == []


@pytest.mark.parametrize(
    ("fragments", "rest", "code"),
    [
        (['{"path":"a",', '"body":"lin'], [stopped(0), end("max_tokens"), STOP], "incomplete_tool_json"),
        (['{"path":"a",', '"body":"lin'], [], "incomplete_tool_json"),
        (['{"city": INVALID}'], [stopped(0), end("tool_use"), STOP], "invalid_tool_json"),
        (['{"n": NaN}'], [stopped(0), end("tool_use"), STOP], "invalid_tool_json"),
        (['{"a":1}{"a":1}'], [stopped(0), end("tool_use"), STOP], "invalid_tool_json"),
    ],
)
def test_broken_tool_input_is_not_repaired(fragments: list[str], rest: list[JSON], code: str) -> None:
    """Text that is no whole JSON document is kept as text, its object is null, and the call is not complete."""
    deltas = [delta(0, "input_json_delta", partial_json=part) for part in fragments]
    data = data_of(sse([begin(), opened(0, **TOOL), *deltas, *rest]))
    raw = "".join(fragments)
    assert data.response is not None
    assert data.response["content"] == [{**TOOL, "input": None, "partial_json": raw}]
    assert data.tool_calls is not None
    assert data.tool_calls[0].function is not None
    assert data.tool_calls[0].function.arguments == raw
    assert data.tool_calls[0].arguments_complete is False
    assert data.arguments_complete is False
    assert code in data.integrity.anomalies


def test_input_that_may_still_come_is_not_empty() -> None:
    """A call cut off before its first fragment is not shown as a call without parameters."""
    for call in (TOOL, {key: value for key, value in TOOL.items() if key != "input"}):
        data = data_of(sse([begin(), opened(0, **call)]))
        assert data.response is not None
        assert data.response["content"] == [{**TOOL, "input": None, "partial_json": ""}]
        assert data.arguments_complete is False


# ----------------------------------------------------------------------------------------------------- blocks


def test_signatures_stay_in_their_block() -> None:
    """A signature sent in pieces is joined inside its own block; one that was never sent stays as the start had it."""
    thinking: JSON = {"type": "thinking", "thinking": "", "signature": ""}
    events = [begin()]
    for index, pieces in ((0, ["S1", "x"]), (1, []), (2, ["S2"])):
        events += [opened(index, **thinking), delta(index, "thinking_delta", thinking=f"t{index}")]
        events += [delta(index, "signature_delta", signature=piece) for piece in pieces] + [stopped(index)]
    blocks = response_of([*events, end("end_turn"), STOP])["content"]
    assert [(block["thinking"], block["signature"]) for block in blocks] == [("t0", "S1x"), ("t1", ""), ("t2", "S2")]


def test_progress_hints_are_no_part_of_the_block() -> None:
    """The estimated token count of a thinking delta is a display hint that no unstreamed block has."""
    events = [begin(), opened(0, type="thinking", thinking="")]
    events += [delta(0, "thinking_delta", thinking="a", estimated_tokens=hint) for hint in (None, 50, None)]
    assert response_of(events)["content"] == [{"type": "thinking", "thinking": "aaa"}]


def test_connector_text_grows_like_text() -> None:
    """What the model says between calls may come in blocks of their own, which are signed as thinking is."""
    deltas = [delta(0, "connector_text_delta", connector_text=piece) for piece in ("Let me ", "look.")]
    events = [begin(), opened(0, type="connector_text", connector_text=""), *deltas]
    fold = fold_of([*events, delta(0, "signature_delta", signature="S"), stopped(0), end("end_turn"), STOP])
    block = {"type": "connector_text", "connector_text": "Let me look.", "signature": "S"}
    assert (fold.response() or {})["content"] == [block]
    assert fold.anomalies == []


@pytest.mark.parametrize("said", [{}, {"citations": None}, {"citations": []}, {"citations": [{"n": 0}]}])
def test_citations_are_appended(said: JSON) -> None:
    """Citations follow those of the block's start, whether that had none, null or some."""
    events = [begin(), opened(0, type="text", text="", **said)]
    events += [delta(0, "citations_delta", citation={"n": n}) for n in (1, 2)]
    citations = response_of(events)["content"][0]["citations"]
    assert citations == [*(said.get("citations") or ()), {"n": 1}, {"n": 2}]


def test_index_is_an_identity() -> None:
    """Blocks are told apart and ordered by index, whatever the order and the gaps they arrive in."""
    events = [begin(), opened(7, type="text", text=""), opened(2, type="text", text="")]
    events += [delta(index, "text_delta", text=part) for index, part in ((7, "c"), (2, "a"), (7, "d"), (2, "b"))]
    assert [block["text"] for block in response_of(events)["content"]] == ["ab", "cd"]


@pytest.mark.parametrize("before", [0, 20], ids=["few blocks", "many blocks"])
def test_a_block_opened_under_the_number_of_the_one_before(before: int) -> None:
    """The block after a server tool's result was opened under that result's number, and grown under its own."""
    found: JSON = {"type": "bash_code_execution_tool_result", "tool_use_id": "s_1", "content": {"stdout": "4"}}
    call = {"type": "server_tool_use", "id": "s_2", "name": "bash_code_execution"}
    start = [event for index in range(before) for event in text(index, "x")]
    events = [
        *[opened(before, **found), stopped(before), opened(before, type="text", text="")],
        *[delta(before + 1, "text_delta", text=part) for part in ("No", "w")],
        stopped(before + 1),
        *[opened(before + 2, **found), stopped(before + 2), opened(before + 2, **call, input={})],
        *[delta(before + 3, "input_json_delta", partial_json=part) for part in ("", '{"command"', ':"ls"}')],
        stopped(before + 3),
        *[opened(before + 4, **found), stopped(before + 4), opened(before + 4, type="text", text="")],
        stopped(before + 5),
        *text(before + 6, "Done."),
        *[end("end_turn"), STOP],
    ]
    fold = fold_of([begin(), *start, *events])
    content = (fold.response() or {})["content"][before:]
    assert content == [
        *[found, {"type": "text", "text": "Now"}, found, {**call, "input": {"command": "ls"}}, found],
        *[{"type": "text", "text": ""}, {"type": "text", "text": "Done."}],
    ]
    assert fold.anomalies == ["block_index_reused", "missing_block_start"]


def test_a_delta_of_another_type_is_not_for_the_block_opened_last() -> None:
    """A block without a start is a block of its own, if the one that was opened last cannot be meant."""
    events = [begin(), opened(0, **TOOL), delta(1, "text_delta", text="Hi"), delta(2, "text_delta", text="Bye")]
    blocks = response_of(events)["content"]
    assert [block.get("text") for block in blocks] == [None, "Hi", "Bye"]


@pytest.mark.parametrize("said", [{}, {"content": None}])
def test_a_compaction_that_failed_has_no_summary(said: JSON) -> None:
    """The summary of a failed compaction is null, as it is unstreamed, and so is what was encrypted of it."""
    nothing = {"content": None, "encrypted_content": None}
    events = [begin(), opened(0, type="compaction", **said), delta(0, "compaction_delta", **nothing), stopped(0)]
    assert response_of(events)["content"] == [{"type": "compaction", **nothing}]


@pytest.mark.parametrize(
    ("deltas", "block"),
    [
        ([delta(0, "text_delta", text="Hi")], {"type": "text", "text": "Hi"}),
        ([delta(0, "thinking_delta", thinking="hm")], {"type": "thinking", "thinking": "hm"}),
        (
            [delta(0, "input_json_delta", partial_json='{"a":1}'), stopped(0)],
            {"type": "tool_use", "input": {"a": 1}},
        ),
        ([delta(0, "text_delta", text="H"), opened(0, type="text", text=""), delta(0, "text_delta", text="i")], None),
    ],
)
def test_a_block_without_start_is_made_of_its_deltas(deltas: list[JSON], block: JSON | None) -> None:
    """A gateway that never opens its blocks loses no text, and no id is invented; a late start is joined to it."""
    fold = fold_of([begin(), *deltas])
    assert fold.response()["content"] == [block or {"type": "text", "text": "Hi"}]  # type: ignore[index]
    assert fold.anomalies == ["missing_block_start"]


@pytest.mark.parametrize(
    ("events", "content", "anomalies"),
    [
        (
            [*text(0, "Hi"), opened(0, **TOOL), delta(0, "input_json_delta", partial_json="{}"), stopped(0)],
            [{"type": "text", "text": "Hi"}, TOOL],
            ["block_index_reused"],
        ),
        (
            [opened(0, **TOOL), opened(0, **TOOL), delta(0, "input_json_delta", partial_json="{}"), stopped(0)],
            [TOOL],
            ["repeated_block_start"],
        ),
        (
            [*text(0, "H"), delta(0, "text_delta", text="i")],
            [{"type": "text", "text": "Hi"}],
            ["delta_after_stop"],
        ),
        (
            [
                opened(0, **TOOL),
                delta(0, "input_json_delta", partial_json="{"),
                delta(0, "text_delta", text="H"),
                delta(0, "input_json_delta", partial_json="}"),
                delta(0, "thinking_delta", thinking="Hm"),
                delta(0, "text_delta", text="i"),
                stopped(0),
            ],
            [TOOL, {"type": "text", "text": "Hi"}, {"type": "thinking", "thinking": "Hm"}],
            ["delta_mismatch"],
        ),
        (
            [
                opened(0, type="thinking", thinking="", signature=""),
                delta(0, "thinking_delta", thinking="Hm"),
                *[delta(0, "text_delta", text=t) for t in "Hello there"],
                stopped(0),
                *text(1, "Bye"),
            ],
            [
                {"type": "thinking", "thinking": "Hm", "signature": ""},
                {"type": "text", "text": "Hello there"},
                {"type": "text", "text": "Bye"},
            ],
            ["delta_mismatch"],
        ),
        (
            [
                opened(0, **TOOL),
                delta(0, "signature_delta", signature="Eq"),
                delta(0, "input_json_delta", partial_json="{}"),
                stopped(0),
            ],
            [{**TOOL, "signature": "Eq"}],
            [],
        ),
        (
            [opened(0, type="poem", verse=""), *[delta(0, "verse_delta", verse=v, meter=4) for v in ("a", "b")]],
            [{"type": "poem", "verse": "ab", "meter": 4}],
            ["unknown_delta"],
        ),
        (
            [{"type": "content_block_start", "content_block": {"type": "text", "text": ""}}]
            + [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": t}} for t in ("H", "i")],
            [{"type": "text", "text": "Hi"}],
            ["missing_index"],
        ),
        ([stopped(3)], [], ["missing_block_start"]),
    ],
    ids=[
        "reused index",
        "repeated start",
        "after stop",
        "wrong block",
        "text in thinking",
        "signed call",
        "unknown delta",
        "no index",
        "stop only",
    ],
)
def test_odd_blocks_lose_nothing(events: list[JSON], content: list[JSON], anomalies: list[str]) -> None:
    """What breaks the order of blocks is kept as far as it can be read, and flagged."""
    fold = fold_of([begin(), *events])
    assert fold.response()["content"] == content  # type: ignore[index]
    assert fold.anomalies == anomalies


def test_fallback_names_the_model() -> None:
    """After a server-side fallback the message is the serving model's, as in the unstreamed response."""
    hop = {"type": "fallback", "from": {"model": "claude-x"}, "to": {"model": "claude-y"}, "trigger": {}}
    response = response_of([begin(), opened(0, **hop), stopped(0), *text(1, "Hi")])
    assert response["model"] == "claude-y"
    assert response["content"][0] == hop


# ---------------------------------------------------------------------------------------------------- message


def test_content_in_message_start() -> None:
    """A message that is whole at its start folds to itself, and blocks that follow join those it had."""
    call = {**TOOL, "input": {"player": 2}}
    event = begin(content=[call], stop_reason="tool_use", container={"id": "c"})
    data = data_of(sse([event, STOP]))
    assert data.response == event["message"]
    assert (data.status, data.finish_reason) == ("success", "tool_calls")
    assert [block["type"] for block in response_of([event, *text(1, "Hi")])["content"]] == ["tool_use", "text"]


def test_fields_beside_the_delta_are_fields_of_the_message() -> None:
    """Top-level fields of the last events stand where the unstreamed message has them."""
    metrics = {"inputTokenCount": 3}
    events = [
        begin(),
        end("end_turn", {"output_tokens": 1}, context_management={"applied_edits": []}),
        {**STOP, "amazon-bedrock-invocationMetrics": metrics},
    ]
    response = response_of(events)
    assert response["context_management"] == {"applied_edits": []}
    assert response["amazon-bedrock-invocationMetrics"] == metrics
    assert response["type"] == "message"


def test_null_and_empty_erase_nothing() -> None:
    """A null or empty value never erases one that was said, and a field that was only ever null stays null."""
    events = [begin(container={"id": "c"}), end("tool_use"), end(None), end("")]
    events.append({"type": "message_delta", "delta": {"container": None, "new": None}})
    response = response_of(events)
    assert (response["stop_reason"], response["container"], response["new"]) == ("tool_use", {"id": "c"}, None)


def test_a_second_message_start_is_flagged() -> None:
    """A message that is started again keeps its first identity and its text."""
    fold = fold_of([begin(), *text(0, "Hi"), begin(id="msg_2", content=[{"type": "text", "text": "no"}])])
    assert fold.response()["id"] == "msg_1"  # type: ignore[index]
    assert fold.response()["content"] == [{"type": "text", "text": "Hi"}]  # type: ignore[index]
    assert fold.anomalies == ["repeated_message_start"]


# ----------------------------------------------------------------------------------------------- other events


def test_pings_are_no_chunks() -> None:
    """A ping anywhere counts for nothing and changes nothing."""
    ping = {"type": "ping"}
    events = [begin(), *text(0, "H", "i"), end("end_turn", {"output_tokens": 2}), STOP]
    pinged = [ping, *(each for event in events for each in (event, ping))]
    assert AnthropicMessages().add_event(ping) == 0
    assert fold_of(pinged).chunks == fold_of(events).chunks == len(events)
    assert response_of(pinged) == response_of(events)


@pytest.mark.parametrize(
    ("event", "flags"),
    [
        (begin(), CHUNK),
        (opened(1, type="text", text=""), CHUNK),
        (opened(1, type="thinking", thinking="", signature=""), CHUNK),
        (opened(1, **TOOL), CHUNK | OUTPUT),
        (delta(0, "text_delta", text=""), CHUNK),
        (delta(0, "text_delta", text="Hi"), CHUNK | OUTPUT | CONTENT),
        (delta(0, "thinking_delta", thinking="hm"), CHUNK | OUTPUT),
        (delta(0, "input_json_delta", partial_json="{"), CHUNK | OUTPUT),
        (stopped(0), CHUNK),
        (end("end_turn"), CHUNK),
        ({"type": "completion", "completion": " A"}, CHUNK | OUTPUT | CONTENT),
    ],
)
def test_what_an_event_brings(event: JSON, flags: int) -> None:
    """Only text that a reader sees is content; thinking and tool calls are output; the rest are chunks."""
    assert AnthropicMessages().add_event(event) == flags


def test_error_keeps_what_came() -> None:
    """After an error event the partial text, the input tokens and the request id are kept; no output is counted."""
    data = folded("overloaded")
    assert data.status == "error"
    assert data.error_details is not None
    assert (data.error_details.type, data.error_details.message) == ("overloaded_error", "Overloaded")
    assert (data.error_details.status_code, data.error_details.retryable) == (529, True)
    assert data.output_message is not None
    assert data.output_message.content == "Half an ans"
    assert data.finish_reason is None
    assert data.response is not None
    assert data.response["request_id"] == "req_01Half"
    assert "error" not in data.response


@pytest.mark.parametrize(
    "body",
    [
        b'event: error\ndata: {"error":{"type":"api_error","message":"boom"}}\n\n',
        b'data: {"type":"error","error":{"type":"api_error","message":"boom"}}\n\n',
        b'data: {"error":{"type":"api_error","message":"boom"}}\n\n',
        b'event: message_start\ndata: {"type":"error","error":{"type":"api_error","message":"boom"}}\n\n',
        b'{"type":"error","error":{"type":"api_error","message":"boom"},"request_id":"req_1"}',
    ],
)
def test_an_error_alone(body: bytes) -> None:
    """An error in any spelling ends the stream as an error, and alone it is the native response."""
    data = data_of(body)
    assert data.status == "error"
    assert data.error_details is not None
    assert (data.error_details.type, data.error_details.message, data.error_details.status_code) == (
        "api_error",
        "boom",
        500,
    )
    assert data.response is not None
    assert data.response["error"] == {"type": "api_error", "message": "boom"}


def test_type_is_authoritative() -> None:
    """The event's own type decides; the SSE event name only where there is none."""
    fold = AnthropicMessages()
    fold.add(json.dumps(begin()).encode(), "error")
    assert fold.error is None
    assert fold.add(b"{}", "ping") == 0
    fold.add(b'{"delta":{"stop_reason":"end_turn"}}', "message_delta")
    fold.add(b"{}", "message_stop")
    assert fold.finished
    assert fold.ended
    assert fold.anomalies == []


def test_unknown_events_are_kept() -> None:
    """An event of an unknown kind is kept as it came, flagged, and bounded in number."""
    event = {"type": "weather_report", "sky": ["blue"]}
    fold = fold_of([begin(), event])
    assert fold.response()["unknown_events"] == [event]  # type: ignore[index]
    assert fold.anomalies == ["unknown_event"]
    assert len(fold_of([event] * 100).response()["unknown_events"]) == 64  # type: ignore[index]


def test_an_sdks_own_events_say_nothing_new() -> None:
    """The events that Anthropic's SDK derives from the raw ones may be fed along with them."""
    events = [begin(), *text(0, "Hi"), end("end_turn", {"output_tokens": 2}), STOP]
    derived = [
        *events[:3],
        {"type": "text", "text": "Hi", "snapshot": "Hi"},
        {**events[3], "content_block": {"type": "text", "text": "Hi"}},
        {"type": "signature", "signature": "S"},
        {"type": "compaction", "content": "S", "encrypted_content": None},
        events[4],
        {**STOP, "message": {"id": "msg_1"}},
    ]
    assert response_of(derived) == response_of(events)
    assert fold_of(derived).anomalies == []


# ------------------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("tail", "status", "reason", "anomalies"),
    [
        (sse([end("end_turn", {"output_tokens": 2}), STOP]), "success", "end_turn", []),
        (
            sse([end("end_turn", {"output_tokens": 2})], done=True),
            "success",
            "end_turn",
            ["missing_message_stop"],
        ),
        (sse([end("end_turn", {"output_tokens": 2}), STOP], done=True), "success", "end_turn", []),
        (sse([end("end_turn", {"output_tokens": 2})]), "success", "end_turn", ["missing_done"]),
        (b"", "truncated", None, []),
    ],
    ids=["message_stop", "[DONE]", "both", "neither", "cut off"],
)
def test_ends(tail: bytes, status: str, reason: str | None, anomalies: list[str]) -> None:
    """`message_stop` ends a stream; a stop reason without it is an end too, but flagged; without either it was cut."""
    data = data_of(sse([begin(), *text(0, "par")]) + tail)
    assert (data.status, data.raw_finish_reason, data.integrity.anomalies) == (status, reason, anomalies)
    assert data.output_message is not None
    assert data.output_message.content == "par"


def test_a_block_left_open_is_flagged() -> None:
    """Thinking that was cut by the token limit keeps its empty signature, and the open block is flagged."""
    events = [begin(), opened(0, type="thinking", thinking="", signature=""), delta(0, "thinking_delta", thinking="hm")]
    fold = fold_of([*events, end("max_tokens", {"output_tokens": 9}), STOP])
    assert fold.response()["content"] == [{"type": "thinking", "thinking": "hm", "signature": ""}]  # type: ignore[index]
    assert fold.anomalies == ["missing_block_stop"]


def test_legacy_completion() -> None:
    """Events of `/v1/complete` fold to the text completion that the API returns unstreamed."""
    data = folded("completion")
    assert data.response == {
        "type": "completion",
        "id": "compl_01Kite",
        "completion": " A kite flies.",
        "stop_reason": "stop_sequence",
        "model": "claude-2.1",
        "stop": "\n\nHuman:",
        "log_id": "compl_01Kite",
    }
    assert (data.status, data.finish_reason, data.stream_type) == ("success", "stop", StreamType.TEXT_COMPLETION)
    assert data.output_message is not None
    assert data.output_message.content == " A kite flies."
    assert data.token_usage is not None
    assert data.token_usage.source == "missing"


# ------------------------------------------------------------------------------------------- limits and speed


def test_closed_fold_still_takes_the_end() -> None:
    """A stream over its size limit stops growing and still takes usage, finish reason and end."""
    fold = fold_of([begin(), opened(0, type="text", text=""), delta(0, "text_delta", text="Hi")])
    fold.close()
    more = [delta(0, "text_delta", text=" there"), *text(1, "no"), delta(2, "text_delta", text="no"), {"type": "odd"}]
    for event in [*more, end("end_turn", {"output_tokens": 5}), STOP]:
        fold.add(json.dumps(event).encode())
    response = fold.response()
    assert response is not None
    assert response["content"] == [{"type": "text", "text": "Hi"}]
    assert (response["usage"]["output_tokens"], response["stop_reason"]) == (5, "end_turn")
    assert fold.ended


@pytest.mark.parametrize("kind", ["text_delta", "thinking_delta", "input_json_delta", "completion"])
def test_deltas_take_the_short_way(kind: str) -> None:
    """Of a run of deltas of one block only the first few are decoded, whatever they grow."""
    decoded = 0

    class Counting(AnthropicMessages):
        __slots__ = ()

        def add_event(self, event: JSON, name: str | None = None) -> int:
            nonlocal decoded
            decoded += 1
            return super().add_event(event, name)

    key = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}.get(kind)
    event = delta(0, kind, **{key: "ab\n"}) if key else {"type": kind, "completion": "ab\n", "stop_reason": None}
    fold = Counting()
    fold.add_all([json.dumps(event).encode()] * 500, None)
    assert decoded <= 3
    assert fold.chunks == 500


# ------------------------------------------------------------------------------------------------------ fuzzing

KINDS = [
    *("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta"),
    *("message_stop", "ping", "error", "message", "completion", "text_delta", "thinking_delta", "signature_delta"),
    *("input_json_delta", "citations_delta", "compaction_delta", "text", "thinking", "tool_use", "fallback", "odd"),
]
KEYS = [
    *("type", "message", "index", "delta", "content_block", "usage", "content", "text", "thinking", "signature"),
    *("partial_json", "citation", "citations", "input", "id", "name", "stop_reason", "output_tokens", "error", "to"),
    *("input_tokens", "cache_creation", "completion", "snapshot", "model", "role", "service_tier", "odd"),
]
SCALARS = st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["", "a", '{"a":', "{}", "\ud83d", *KINDS])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
)
ANY_EVENT = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
BLOCK = st.dictionaries(st.sampled_from(KEYS), SCALARS, max_size=4)
NEAR_EVENT = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(KINDS[:10])}, optional=dict.fromkeys(KEYS[1:8], VALUES)),
    st.fixed_dictionaries({"type": st.just("content_block_delta"), "index": st.integers(0, 1), "delta": BLOCK}),
    st.fixed_dictionaries({"type": st.just("content_block_start"), "index": st.integers(0, 1), "content_block": BLOCK}),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(ANY_EVENT | NEAR_EVENT, max_size=8))
def test_any_json_is_survived(events: list[JSON]) -> None:
    """Whatever objects arrive, nothing raises, no event is changed, and the record can be encoded."""
    before = copy.deepcopy(events)
    fold, stream = AnthropicMessages(), streamfold.StreamAccumulator(format="anthropic-messages")
    for event in events:
        fold.add_event(event)
        response = fold.response()
        if response is not None:
            AnthropicMessages.view(response, AccumulatedData())
        stream.add(event)
    assert events == before
    data = stream.finish().data
    assert data is not None
    assert "accumulator_error" not in data.integrity.anomalies
    msgspec.json.encode(data)


@settings(max_examples=200, deadline=None)
@given(st.lists(NEAR_EVENT.flatmap(lambda event: st.lists(st.just(event), min_size=1, max_size=4)), max_size=5))
def test_the_short_way_is_the_same_way(runs: list[list[JSON]]) -> None:
    """Runs of equal frames, which fold without being decoded, give what folding each one gives."""
    events = [event for run in runs for event in run]
    slow = AnthropicMessages()
    for event in events:
        slow.add_decoded(event)
    quick = AnthropicMessages()
    quick.add_all([json.dumps(event).encode() for event in events], None)
    assert quick.response() == slow.response()
    assert (quick.chunks, quick.anomalies) == (slow.chunks, slow.anomalies)
