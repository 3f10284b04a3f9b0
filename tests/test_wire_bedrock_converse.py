"""Bedrock Converse: `ConverseStream` events fold into the response of `Converse`.

The fixtures hold one event a line, wrapped in its name; the tests make AWS frames of them.
"""

import json
import random
from pathlib import Path

import msgspec
import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import EventStreamJSONParser
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

import streamfold
from streamfold.framing.aws_eventstream import encode
from streamfold.testing import cuts, fold_pieces, stable
from streamfold.types import AccumulatedData
from streamfold.wire.bedrock_converse import BedrockConverse
from streamfold.wire.bedrock_view import converse_usage

FORMAT = "bedrock-converse"
FIXTURES = Path(__file__).parent / "fixtures" / FORMAT
NAMES = sorted(path.stem for path in FIXTURES.glob("*.jsonl"))
PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def events_of(name):
    return [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]


def twin_of(name):
    return json.loads((FIXTURES / f"{name}.json").read_text())


def frame(name, payload, kind="event"):
    headers = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    return encode(json.dumps(payload).encode(), headers)


def frames(events, *, padded=True):
    """The events as Bedrock sends them: named, bare, and with padding of any length."""
    out = []
    for at, event in enumerate(events):
        ((name, payload),) = event.items()
        if name.endswith("Exception"):
            out.append(frame(name, payload, "exception"))
        else:
            out.append(frame(name, {**payload, "p": PADDING[: at * 7 % 60 + 1]} if padded else payload))
    return b"".join(out)


def done_of(events, **options):
    return streamfold.fold(frames(events), format=FORMAT, **options).data


def start():
    return {"messageStart": {"role": "assistant"}}


def opened(index, **kind):
    return {"contentBlockStart": {"contentBlockIndex": index, "start": kind}}


def delta(index, **kind):
    return {"contentBlockDelta": {"contentBlockIndex": index, "delta": kind}}


def stopped(index):
    return {"contentBlockStop": {"contentBlockIndex": index}}


def stop(reason="end_turn", **more):
    return {"messageStop": {"stopReason": reason, **more}}


def metadata(**more):
    usage = {"inputTokens": 30, "outputTokens": 5, "totalTokens": 35}
    return {"metadata": {"usage": usage, "metrics": {"latencyMs": 812}, **more}}


def said(text, index=0):
    return [delta(index, text=text), stopped(index)]


def tool(index, *inputs, use_id="t1", name="f"):
    fragments = [delta(index, toolUse={"input": each}) for each in inputs]
    return [opened(index, toolUse={"toolUseId": use_id, "name": name}), *fragments, stopped(index)]


def blocks_of(data):
    return data.response["output"]["message"]["content"]


# ---------------------------------------------------------------------------------------------- whole streams


@pytest.mark.parametrize("name", NAMES)
def test_folds_to_the_unstreamed_response(name):
    """A stream of AWS frames folds to exactly what `Converse` returns, without padding and without anomalies."""
    data = done_of(events_of(name))
    assert data.response == twin_of(name)
    assert (data.status, data.integrity.anomalies, data.integrity.end_marker) == ("success", [], True)


def test_a_recorded_body():
    """The bytes of a recorded stream fold without being told anything."""
    assert streamfold.fold((FIXTURES / "tools.bin").read_bytes()).data.response == twin_of("tools")


@pytest.fixture(scope="module")
def botocore_model():
    return ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"))


def decoded_by_botocore(body, model):
    """What boto3 hands to its user, event by event."""
    shape = model.operation_model("ConverseStream").get_event_stream_output()
    buffer = EventStreamBuffer()
    buffer.add_data(body)
    return [EventStreamJSONParser().parse(message.to_response_dict(), shape) for message in buffer]


@pytest.mark.parametrize("name", NAMES)
def test_what_boto3_decodes_folds_the_same(name, botocore_model):
    """The events that botocore makes of the same bytes (wrapped, binary decoded) fold to the same record."""
    body = frames(events_of(name))
    stream = streamfold.StreamAccumulator(FORMAT)
    for event in decoded_by_botocore(body, botocore_model):
        stream.add(event)
    assert stable(stream.finish()) == stable(streamfold.fold(body, format=FORMAT))


@pytest.mark.parametrize("name", NAMES)
def test_is_a_response_of_the_service_model(name, botocore_model):
    """The folded response has the shape that AWS's own model gives the output of `Converse`."""
    shape = botocore_model.operation_model("Converse").output_shape
    report = ParamValidator().validate(_without_json_values(done_of(events_of(name)).response), shape)
    assert not report.has_errors(), report.generate_report()


def _without_json_values(response):
    response = json.loads(json.dumps(response))
    response.pop("additionalModelResponseFields", None)  # any JSON; botocore refuses null in it
    return response


@pytest.mark.parametrize("name", NAMES)
def test_the_three_spellings_are_one(name):
    """Frames with and without padding and lines of wrapped events fold to the same record."""
    events = events_of(name)
    lines = b"\n".join(json.dumps(event).encode() for event in events)
    whole = stable(streamfold.fold(frames(events), format=FORMAT))
    assert stable(streamfold.fold(frames(events, padded=False), format=FORMAT)) == whole
    assert stable(streamfold.fold(lines, format=FORMAT)) == whole


@pytest.mark.parametrize("name", NAMES)
def test_server_sent_events_fold_the_same(name):
    """A gateway that turns the frames into server-sent events, named or wrapped, changes nothing."""
    events = events_of(name)
    padded = [(key, {**event[key], "p": "abc"}) for event in events for key in event]
    named = b"".join(f"event: {key}\ndata: {json.dumps(payload)}\n\n".encode() for key, payload in padded)
    wrapped = b"".join(f"data: {json.dumps({key: payload})}\n\n".encode() for key, payload in padded)
    for body in (named, wrapped):
        for pieces in cuts(body, random.Random(3)):
            assert fold_pieces(pieces, FORMAT).data.response == twin_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_cuts_do_not_matter(name):
    """However the bytes are cut, the record is the same."""
    body = frames(events_of(name))
    records = [stable(fold_pieces(pieces, FORMAT)) for pieces in cuts(body, random.Random(5))]
    assert all(record == records[0] for record in records)


@pytest.mark.parametrize("name", NAMES)
def test_an_unstreamed_response_reads_the_same(name):
    """The same view reads a whole response of `Converse`, which folds to itself."""
    streamed, read = done_of(events_of(name)), streamfold.read(twin_of(name), format=FORMAT).data
    assert read.response == twin_of(name)
    assert (read.status, read.integrity.anomalies) == ("success", [])
    for field in ("finish_reason", "raw_finish_reason", "token_usage", "response_model", "service_tier"):
        assert getattr(read, field) == getattr(streamed, field)
    assert read.output_message.content == streamed.output_message.content
    assert read.output_message.reasoning_details == streamed.output_message.reasoning_details
    for mine, theirs in zip(read.tool_calls or [], streamed.tool_calls or [], strict=True):
        assert json.loads(mine.function.arguments) == json.loads(theirs.function.arguments)


@pytest.mark.parametrize("name", NAMES)
def test_is_recognised(name):
    """A stream (in frames or lines) and a whole response are recognised without being told the format."""
    events = events_of(name)
    assert streamfold.fold(frames(events)).format == FORMAT
    assert streamfold.fold(b"\n".join(json.dumps(event).encode() for event in events)).format == FORMAT
    assert streamfold.read(twin_of(name)).format == FORMAT


def test_an_exception_alone_is_recognised():
    """A stream that is nothing but an exception is an error in this format, in a frame and as boto3 gives it."""
    event = {"throttlingException": {"message": "Too many requests."}}
    for body in (frames([event]), json.dumps(event).encode()):
        data = streamfold.fold(body).data
        assert (data.format, data.status, data.response) == (FORMAT, "error", event)
        assert data.error_details.status_code == 429


# ---------------------------------------------------------------------------------------------- the neutral view


def test_the_view_of_text():
    """Text, tier, reasons and usage are read; the prompt includes what was read from and written to the cache."""
    data = done_of(events_of("text"))
    assert data.output_message.role == "assistant"
    assert data.output_message.content == 'The lighthouse is "lit" 🌊\nat dusk.'
    assert (data.finish_reason, data.raw_finish_reason, data.service_tier) == ("stop", "end_turn", "flex")
    usage = data.token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (112, 9, 121)
    assert usage.source == "provider"
    details = usage.prompt_tokens_details
    assert (details.cached_read_tokens, details.cached_write_tokens) == (80, 20)
    assert (details.cached_write_5m_tokens, details.cached_write_1h_tokens) == (15, 5)


def test_the_view_of_tools():
    """Arguments are the text exactly as it was streamed; a tool without any has an empty object."""
    data = done_of(events_of("tools"))
    calls = [(call.index, call.id, call.function.name, call.function.arguments) for call in data.tool_calls]
    assert calls == [
        (0, "tooluse_tide01", "tide_table", '{"harbour": "Brest", "days": 2.0}'),
        (1, "tooluse_now02", "now", "{}"),
    ]
    assert (data.finish_reason, data.arguments_complete) == ("tool_calls", True)


def test_the_view_of_reasoning():
    """Reasoning text is read, its details keep signature and redacted bytes, and a router's choice is the model."""
    data = done_of(events_of("reasoning"))
    assert data.output_message.reasoning == "Count the masts: three."
    assert data.output_message.reasoning_details == [
        {"reasoningText": {"text": "Count the masts: three.", "signature": "EqMBCkgIBRAB"}},
        {"redactedContent": "c2VjcmV0IHRob3VnaHQ="},
    ]
    assert data.output_message.content == "Three masts."
    assert data.finish_reason == "length"
    assert data.response_model.endswith("us.anthropic.claude-sonnet-4-v1:0")


def test_the_view_of_what_bedrock_ran_itself():
    """A tool that Bedrock runs is no call for the client; cited text is content; images are data URLs."""
    message = done_of(events_of("server_tool")).output_message
    assert message.tool_calls is None
    assert message.content == "It is 42."
    assert [citation["title"] for citation in message.annotations] == ["Sums"]
    assert message.images == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAA=="}}]


REASONS = [
    ("end_turn", "stop"),
    ("stop_sequence", "stop"),
    ("tool_use", "tool_calls"),
    ("max_tokens", "length"),
    ("model_context_window_exceeded", "length"),
    ("guardrail_intervened", "content_filter"),
    ("content_filtered", "content_filter"),
    ("malformed_model_output", None),
    ("malformed_tool_use", None),
    ("a_word_of_tomorrow", None),
]


@pytest.mark.parametrize(("raw", "word"), REASONS)
def test_stop_reasons(raw, word):
    """Each stop reason has OpenAI's word, or none where there is no such word, and keeps the partial text."""
    data = done_of([start(), *said("Hi"), stop(raw), metadata()])
    assert (data.status, data.finish_reason, data.raw_finish_reason) == ("success", word, raw)
    assert data.output_message.content == "Hi"


# ---------------------------------------------------------------------------------------------- how streams end


def test_the_stream_goes_on_after_message_stop():
    """`messageStop` is not the end: usage and latency that come after it are in the record."""
    stream = streamfold.StreamAccumulator(FORMAT)
    stream.feed(frames([start(), *said("Hi"), stop()]))
    assert not stream.has_ended
    stream.feed(frames([metadata()]))
    assert stream.has_ended
    data = stream.finish().data
    assert data.token_usage.total_tokens == 35
    assert data.response["metrics"] == {"latencyMs": 812}


def test_a_model_that_counts_nothing():
    """Without metadata the stream is whole, its usage is missing and never 0, and the record says so."""
    data = done_of([start(), *said("Hi"), stop()])
    assert (data.status, data.finish_reason) == ("success", "stop")
    assert data.token_usage.source == "missing"
    assert data.token_usage.total_tokens is None
    assert data.integrity.anomalies == ["missing_done"]
    assert "usage" not in data.response


@pytest.mark.parametrize("events", [[start()], [start(), delta(0, text="Hi")], [start(), *said("Hi")]], ids=len)
def test_a_stream_without_message_stop_is_cut(events):
    """A stream that stops before `messageStop` is truncated and invents no reason."""
    data = done_of(events)
    assert (data.status, data.finish_reason) == ("truncated", None)
    assert "stopReason" not in data.response


def test_metadata_may_come_first():
    """Metadata before `messageStop` does not end the stream."""
    assert done_of([start(), *said("Hi"), metadata()]).status == "truncated"
    data = done_of([start(), *said("Hi"), metadata(), stop()])
    assert (data.status, data.integrity.anomalies) == ("success", [])


EXCEPTIONS = [
    ("throttlingException", 429, True),
    ("validationException", 400, False),
    ("modelStreamErrorException", 424, True),
    ("internalServerException", 500, True),
    ("serviceUnavailableException", 503, True),
    ("modelTimeoutException", 408, True),
    ("ThrottlingException", 429, True),
    ("exceptionOfTomorrowException", None, None),
]


@pytest.mark.parametrize(("name", "status", "again"), EXCEPTIONS)
@pytest.mark.parametrize("wrapped", [False, True], ids=["frame", "boto3"])
def test_exceptions(name, status, again, wrapped):
    """An exception, as a frame or decoded by an SDK, is an error with its status, and what came before is kept."""
    events = [start(), delta(0, text="Hi"), {name: {"message": "Too many requests"}}]
    body = b"\n".join(json.dumps(event).encode() for event in events) if wrapped else frames(events)
    data = streamfold.fold(body, format=FORMAT).data
    error = data.error_details
    assert data.status == "error"
    assert (error.type, error.code, error.status_code, error.retryable) == (name, name, status, again)
    assert error.message == "Too many requests"
    assert data.output_message.content == "Hi"
    assert data.response[name] == {"message": "Too many requests"}


def test_the_status_of_the_model_behind():
    """A model's own failure is Bedrock's 424, and the response keeps the original status and message."""
    told = {"message": "x", "originalStatusCode": 500, "originalMessage": "y"}
    data = done_of([start(), *said("Hi"), {"modelStreamErrorException": told}])
    assert (data.error_details.status_code, data.error_details.message) == (424, "x")
    assert data.response["modelStreamErrorException"] == told


def test_an_error_frame_without_a_model():
    """A frame of the message type `error` is an error under its own code."""
    body = frames([start(), *said("Hi")]) + encode(
        b"", {":message-type": "error", ":error-code": "InternalFailure", ":error-message": "lost"}
    )
    data = streamfold.fold(body, format=FORMAT).data
    assert (data.status, data.error_details.code, data.error_details.message) == ("error", "InternalFailure", "lost")


def test_a_refused_request():
    """The body of a refused request is an error with the HTTP status that the caller tells."""
    data = streamfold.read({"message": "The model is not ready"}, format=FORMAT, status_code=429).data
    assert (data.status, data.error_details.status_code) == ("error", 429)
    assert data.error_details.message == "The model is not ready"
    assert data.output_message is None


def test_an_operation_that_does_not_exist():
    """What AWS answers where it could not tell the operation is an error too."""
    said = {"Output": {"__type": "com.amazon.coral.service#UnknownOperationException"}, "Version": "1.0"}
    for format in (FORMAT, "bedrock-invoke"):
        data = streamfold.read(said, format=format, status_code=404).data
        assert (data.status, data.error_details.type) == ("error", "UnknownOperationException")
        assert (data.error_details.status_code, data.response) == (404, said)


def test_an_exception_is_read_from_a_response():
    """A response that was folded from a failed stream reads as failed again."""
    failed = done_of([start(), *said("Hi"), {"throttlingException": {"message": "slow"}}])
    again = streamfold.read(failed.response, format=FORMAT).data
    assert (again.status, again.error_details) == ("error", failed.error_details)


def test_a_damaged_frame():
    """A frame whose checksum is wrong is dropped and reported, and its bytes never become text."""
    body = bytearray(frames([start(), *said("good"), stop(), metadata()]))
    bad = bytearray(frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "evil"}}))
    bad[-6] ^= 1
    first = len(frames([start()]))
    data = streamfold.fold(bytes(body[:first] + bad + body[first:]), format=FORMAT).data
    assert data.output_message.content == "good"
    assert "corrupt_frame" in data.integrity.anomalies


# ---------------------------------------------------------------------------------------------- tool input


INPUTS = [
    # fragments, whether the block stops, input, partial_json, anomaly
    (['{"a": 1', "}"], True, {"a": 1}, None, None),
    ([""], True, {}, None, None),
    ([], True, {}, None, None),
    (['{"a": "cut'], True, None, '{"a": "cut', "incomplete_tool_json"),
    (["{'a': 1}"], True, None, "{'a': 1}", "invalid_tool_json"),
    (['{"a": "\\ud83d', '\\ude00"}'], True, {"a": "😀"}, None, None),
    (["[1, 2]"], True, [1, 2], None, None),
]


@pytest.mark.parametrize(("inputs", "stops", "value", "partial", "anomaly"), INPUTS)
def test_tool_input(inputs, stops, value, partial, anomaly):
    """A whole document becomes the input; anything else stays the text that was sent, never repaired."""
    data = done_of([start(), *tool(0, *inputs), stop("tool_use"), metadata()])
    use = blocks_of(data)[0]["toolUse"]
    assert use["input"] == value
    assert use.get("partial_json") == partial
    assert data.integrity.anomalies == ([anomaly] if anomaly else [])
    assert data.tool_calls[0].function.arguments == ("".join(inputs) or "{}")
    assert data.arguments_complete == (partial is None)


def test_tool_input_that_was_cut_off():
    """A stream that ends inside a tool's input keeps the text as it came and says that it is incomplete."""
    data = done_of([start(), *tool(0, '{"city": "Br')[:-1]])
    assert blocks_of(data) == [
        {"toolUse": {"toolUseId": "t1", "name": "f", "input": None, "partial_json": '{"city": "Br'}}
    ]
    assert data.tool_calls[0].function.arguments == '{"city": "Br'
    assert (data.status, data.arguments_complete) == ("truncated", False)
    assert "incomplete_tool_json" in data.integrity.anomalies


def test_a_snapshot_disturbs_nothing():
    """A snapshot after every frame shows the parts so far and changes nothing of the end."""
    events = events_of("tools")
    stream = streamfold.StreamAccumulator(FORMAT)
    for event in events:
        stream.feed(frames([event]))
        seen = stream.snapshot()
        assert seen.status == "processing"
        assert seen.integrity.anomalies == []
    assert stable(stream.finish()) == stable(streamfold.fold(frames(events), format=FORMAT))


def test_input_that_is_an_object_already():
    """A server that sends the input as an object instead of text is understood."""
    data = done_of([start(), *tool(0, {"a": [1]}), stop("tool_use"), metadata()])
    assert blocks_of(data)[0]["toolUse"]["input"] == {"a": [1]}


def test_an_empty_input_in_the_start_is_no_text():
    """A start with an empty input, as servers of Anthropic's format open tools, does not spoil the text."""
    begun = opened(0, toolUse={"toolUseId": "t1", "name": "f", "input": {}})
    data = done_of([start(), begun, delta(0, toolUse={"input": '{"a":1}'}), stopped(0), stop("tool_use"), metadata()])
    assert blocks_of(data) == [{"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": 1}}}]


# ---------------------------------------------------------------------------------------------- odd blocks


ODD = [
    (
        "blocks are put in the order of their indexes",
        [*said("b", 1), *said("a", 0)],
        [{"text": "a"}, {"text": "b"}],
        [],
    ),
    (
        "blocks may be told in turns",
        [delta(0, text="a"), delta(1, reasoningContent={"text": "x"}), delta(0, text="b"), stopped(0), stopped(1)],
        [{"text": "ab"}, {"reasoningContent": {"reasoningText": {"text": "x"}}}],
        [],
    ),
    (
        "a signature may come alone",
        [delta(0, reasoningContent={"signature": "S"}), stopped(0)],
        [{"reasoningContent": {"reasoningText": {"signature": "S"}}}],
        [],
    ),
    (
        "reasoning may be streamed in the unstreamed words",
        [
            delta(0, reasoningContent={"reasoningText": {"text": "Count "}}),
            delta(0, reasoningContent={"reasoningText": {"text": "the masts."}}),
            delta(0, reasoningContent={"reasoningText": {"text": "", "signature": "S"}}),
            stopped(0),
        ],
        [{"reasoningContent": {"reasoningText": {"text": "Count the masts.", "signature": "S"}}}],
        [],
    ),
    (
        "an empty text is a text",
        [*said("", 0), *said("a", 1)],
        [{"text": ""}, {"text": "a"}],
        [],
    ),
    (
        "a block without anything is none",
        [stopped(0), *said("a", 1)],
        [{"text": "a"}],
        [],
    ),
    (
        "a tool without a start is kept without an id",
        [delta(0, toolUse={"input": "{}"}), stopped(0)],
        [{"toolUse": {"input": {}}}],
        ["missing_block_start"],
    ),
    (
        "an index that is used again names another block",
        [*tool(0, "{}"), opened(0, toolResult={"toolUseId": "t1"}), delta(0, toolResult=[{"text": "ok"}]), stopped(0)],
        [
            {"toolUse": {"toolUseId": "t1", "name": "f", "input": {}}},
            {"toolResult": {"toolUseId": "t1", "content": [{"text": "ok"}]}},
        ],
        ["block_index_reused"],
    ),
    (
        "a result that is started twice under one index is two results if it names another tool",
        [
            opened(0, toolResult={"toolUseId": "t1"}),
            delta(0, toolResult=[{"text": "a"}]),
            stopped(0),
            opened(0, toolResult={"toolUseId": "t2"}),
            delta(0, toolResult=[{"text": "b"}]),
            stopped(0),
        ],
        [
            {"toolResult": {"toolUseId": "t1", "content": [{"text": "a"}]}},
            {"toolResult": {"toolUseId": "t2", "content": [{"text": "b"}]}},
        ],
        ["block_index_reused"],
    ),
    (
        "a start that is sent again changes nothing",
        [*tool(0, "{}")[:1], *tool(0, "{}")],
        [{"toolUse": {"toolUseId": "t1", "name": "f", "input": {}}}],
        ["repeated_block_start"],
    ),
    (
        "a delta of another kind begins another block",
        [delta(0, reasoningContent={"text": "x"}), delta(0, text="a"), stopped(0)],
        [{"reasoningContent": {"reasoningText": {"text": "x"}}}, {"text": "a"}],
        ["delta_mismatch", "missing_block_stop"],
    ),
    (
        "text after its stop is text all the same",
        [*said("a"), delta(0, text="b")],
        [{"text": "ab"}],
        ["delta_after_stop"],
    ),
    (
        "a stop that is missing is noted",
        [delta(0, text="a")],
        [{"text": "a"}],
        ["missing_block_stop"],
    ),
    (
        "an index that is missing means the block at hand",
        [delta(0, text="a"), {"contentBlockDelta": {"delta": {"text": "b"}}}, stopped(0)],
        [{"text": "ab"}],
        ["missing_index"],
    ),
    (
        "a kind of tomorrow is kept and joined",
        [
            opened(0, audio={"format": "wav"}),
            delta(0, audio={"bytes": "UklG"}),
            delta(0, audio={"bytes": "RgAA"}),
            stopped(0),
        ],
        [{"audio": {"format": "wav", "bytes": "UklGRgAA"}}],
        ["unknown_delta"],
    ),
    (
        "what is not text does not become text",
        [delta(0, text=5), delta(0, reasoningContent="x"), delta(0, toolResult={"a": 1}), *said("a")],
        [{"text": "a"}],
        ["unexpected_shape"],
    ),
    (
        "null says nothing",
        [delta(0, text=None), *said("a")],
        [{"text": "a"}],
        [],
    ),
]


@pytest.mark.parametrize(("claim", "events", "blocks", "anomalies"), ODD, ids=[each[0] for each in ODD])
def test_odd_blocks(claim, events, blocks, anomalies):
    """What servers do to blocks loses nothing, and is noted where it is odd."""
    data = done_of([start(), *events, stop(), metadata()])
    assert blocks_of(data) == blocks
    assert data.integrity.anomalies == anomalies


def test_events_that_nobody_told_us_of():
    """Unknown events and an SDK's mark for them are kept and noted; `initial-response` says nothing."""
    body = frame("initial-response", {}) + frames([start()]) + frame("heartbeat", {"at": 1, "p": "ab"})
    data = streamfold.fold(body + frames([*said("a"), stop(), metadata()]), format=FORMAT).data
    assert data.response["unknown_events"] == [{"at": 1, "p": "ab"}]
    assert data.integrity.anomalies == ["unknown_event"]
    stream = streamfold.StreamAccumulator(FORMAT)
    stream.add({"SDK_UNKNOWN_MEMBER": {"name": "heartbeat"}})
    assert stream.finish().data.response == {"unknown_events": [{"SDK_UNKNOWN_MEMBER": {"name": "heartbeat"}}]}


def test_unknown_fields_are_kept():
    """Fields of tomorrow stay where they belong: in the message, in the response, in the usage."""
    events = [
        {"messageStart": {"role": "assistant", "mood": "calm"}},
        *said("a"),
        stop(stopDetails={"x": 1}),
        metadata(quota={"left": 3}),
    ]
    data = done_of(events)
    assert data.response["output"]["message"]["mood"] == "calm"
    assert (data.response["stopDetails"], data.response["quota"]) == ({"x": 1}, {"left": 3})


def test_events_whose_names_were_lost():
    """Bare payloads without names are told apart by their fields."""
    payloads = [next(iter(event.values())) for event in events_of("tools")]
    lines = b"\n".join(json.dumps(payload).encode() for payload in payloads)
    assert streamfold.fold(lines, format=FORMAT).data.response == twin_of("tools")


# ---------------------------------------------------------------------------------------------- usage

CLAUDE, GPT = "us.anthropic.claude-sonnet-4-v1:0", "openai.gpt-oss-120b-1:0"
USAGE = [
    # model, input, output, total, read, write -> prompt, total, source, code
    (None, 30, 5, 35, None, None, 30, 35, "provider", None),
    (None, 12, 250, 1290, 1028, 0, 1040, 1290, "provider", None),
    (None, 30, 5, None, None, None, 30, 35, "derived", None),
    (None, 30, 5, 99, None, None, 30, 99, "provider", "usage_total_mismatch"),
    (None, 100, 5, 105, 80, None, 100, 105, "provider", "usage_total_mismatch"),  # the cache is inside
    (None, 10, 5, 15, 80, None, 90, 95, "derived", "usage_total_mismatch"),  # the total leaves it out
    (None, 4995, 19, 10007, None, 4993, 9988, 10007, "provider", "usage_cache_ambiguous"),
    (CLAUDE, 4995, 19, 10007, None, 4993, 9988, 10007, "provider", None),
    (GPT, 4995, 19, 10007, None, 4993, 4995, 5014, "derived", "usage_cache_counted_twice"),
    (GPT, 2, 19, 5014, None, 4993, 4995, 5014, "provider", None),
]


@pytest.mark.parametrize(
    ("model", "given", "out", "total", "read", "write", "prompt", "whole", "source", "code"), USAGE
)
def test_usage(model, given, out, total, read, write, prompt, whole, source, code):
    """The total tells whether the cache is inside the input; where it cannot, the name of the model does."""
    usage = {
        "inputTokens": given,
        "outputTokens": out,
        "totalTokens": total,
        "cacheReadInputTokens": read,
        "cacheWriteInputTokens": write,
    }
    usage = {key: value for key, value in usage.items() if value is not None}
    data = done_of(
        [start(), *said("a"), stop(), {"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}}], model=model
    )
    found = data.token_usage
    assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (prompt, out, whole)
    assert found.source == source
    assert data.integrity.anomalies == ([code] if code else [])
    assert data.response["usage"] == usage


def test_usage_that_is_none():
    """What is no usage counts nothing."""
    for usage in (None, {}, [], "5", {"inputTokens": "many"}):
        assert converse_usage(usage)[0].source == "missing"


# ---------------------------------------------------------------------------------------------- cost and robustness


def test_repeated_frames_give_their_text():
    """Thousands of padded deltas in one go are the whole text, and each of them counts."""
    count = 10_000
    body = [
        b'{"contentBlockIndex":0,"delta":{"text":"ab"},"p":"%s"}' % (b"abcdefgh"[: at % 8 + 1]) for at in range(count)
    ]
    fold = BedrockConverse()
    fold.add_all(body, ["contentBlockDelta"] * count)
    assert fold.response()["output"]["message"]["content"] == [{"text": "ab" * count}]
    assert fold.chunks == count


MIXED = [
    {"contentBlockIndex": 0, "delta": {"text": "a"}},
    {"contentBlockIndex": 0, "delta": {"text": "\ud83d"}},
    {"contentBlockIndex": 0, "delta": {"text": "\ude00"}},
    {"contentBlockIndex": 0, "delta": {"text": 'q"\\'}},
    {"contentBlockIndex": 1, "delta": {"text": "b"}},
    {"contentBlockIndex": 1, "delta": {"reasoningContent": {"text": "c"}}},
    {"contentBlockIndex": 2, "delta": {"reasoningContent": {"signature": "d"}}},
    {"contentBlockIndex": 2, "delta": {"toolUse": {"input": "1"}}},
    {"contentBlockIndex": 0.0, "delta": {"text": "e"}},
    {"contentBlockIndex": 0, "delta": {"text": "f"}, "new": 1},
    {"contentBlockIndex": 0, "delta": {"text": None}},
]


@given(st.lists(st.tuples(st.sampled_from(MIXED), st.booleans(), st.integers(1, 4)), max_size=12))
def test_the_short_cut_changes_nothing(picks):
    """Deltas folded in one go, where repeats are short-cut, give what they give one by one."""
    events = [
        {**event, **({"p": "abcd"[:at]} if padded else {})} for event, padded, times in picks for at in range(times)
    ]
    payloads = [json.dumps(event).encode() for event in events]
    together, alone = BedrockConverse(), BedrockConverse()
    together.add_all(payloads, ["contentBlockDelta"] * len(payloads))
    for event in events:
        alone.add_decoded(event, "contentBlockDelta")
    assert together.response() == alone.response()
    assert (together.chunks, together.anomalies) == (alone.chunks, alone.anomalies)


def test_the_size_limit():
    """Over the limit text stops growing, while the end and the usage are still taken."""
    events = [start(), *(delta(0, text="x" * 50) for _ in range(100)), stopped(0), *said("late", 1), stop(), metadata()]
    stream = streamfold.StreamAccumulator(FORMAT, max_bytes=2000)
    for event in events:
        stream.feed(frames([event]))
    data = stream.finish().data
    assert 0 < len(data.output_message.content) < 3000
    assert (data.status, data.token_usage.total_tokens) == ("success", 35)
    assert "size_limit" in data.integrity.anomalies


WORDS = """
messageStart contentBlockStart contentBlockDelta contentBlockStop messageStop metadata throttlingException role start
delta contentBlockIndex stopReason usage metrics trace promptRouter invokedModelId serviceTier type output message
content text toolUse toolUseId name input toolResult reasoningContent reasoningText signature redactedContent citation
citationsContent citations image source bytes format inputTokens totalTokens cacheReadInputTokens cacheDetails ttl p
partial_json
"""
KEYS = st.sampled_from(WORDS.split())
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-2, 3), st.floats(), st.text(max_size=3), st.just('{"a":'))
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
EVENTS = st.lists(st.tuples(st.none() | KEYS, st.dictionaries(KEYS, JSON, max_size=4)), max_size=8)


@given(EVENTS)
def test_any_json_is_survived(events):
    """Whatever objects come, nothing raises, no event is changed, and the record can be written as JSON."""
    stream = streamfold.StreamAccumulator(FORMAT)
    before = msgspec.msgpack.encode(events)
    for name, event in events:
        stream.add(event, name=name)
        stream.snapshot()
    assert msgspec.msgpack.encode(events) == before
    data = stream.finish().data
    assert "accumulator_error" not in data.integrity.anomalies
    msgspec.json.encode(data)


@given(JSON)
def test_any_response_can_be_viewed(response):
    """The view reads any object without raising."""
    if isinstance(response, dict):
        BedrockConverse.view({"output": response, **response}, AccumulatedData())


@pytest.mark.parametrize(
    ("payload", "message"), [(b"Too many tokens", "Too many tokens"), (b"", None), (b"{broken", "{broken")]
)
def test_exception_in_plain_words(payload, message):
    """An exception whose payload is no JSON, or nothing at all, is still that exception."""
    headers = {":message-type": "exception", ":exception-type": "throttlingException"}
    done = streamfold.fold(frames([start(), delta(0, text="Hi")]) + encode(payload, headers), format="bedrock-converse")
    assert (done.data.status, done.data.output_message.content) == ("error", "Hi")
    assert (done.data.error_details.code, done.data.error_details.message) == ("throttlingException", message)
    assert (done.data.error_details.status_code, done.data.error_details.retryable) == (429, True)
    assert done.data.integrity.malformed == 0
