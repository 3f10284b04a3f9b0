"""Bedrock `InvokeModelWithResponseStream`: chunks of any model fold into the body that `InvokeModel` returns.

The fixtures hold one payload of the model a line; the tests put them into AWS frames.
"""

import base64
import json
import random
from pathlib import Path

import msgspec
import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import EventStreamJSONParser
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion

import streamfold
from streamfold.framing.aws_eventstream import encode
from streamfold.testing import cuts, fold_pieces, stable
from streamfold.types import AccumulatedData
from streamfold.wire.bedrock_invoke import BedrockInvoke

FORMAT = "bedrock-invoke"
FIXTURES = Path(__file__).parent / "fixtures" / FORMAT
NAMES = sorted(path.stem for path in FIXTURES.glob("*.jsonl"))
PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
METRICS = "amazon-bedrock-invocationMetrics"


def payloads_of(name):
    return [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]


def twin_of(name):
    return json.loads((FIXTURES / f"{name}.json").read_text())


def chunk(payload, padding="abc"):
    return {"bytes": base64.b64encode(json.dumps(payload).encode()).decode(), "p": padding}


def frame(name, payload, kind="event"):
    headers = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    return encode(json.dumps(payload).encode(), headers)


def frames(payloads):
    """The payloads as Bedrock sends them: base64 in `chunk` frames, with padding of any length."""
    return b"".join(frame("chunk", chunk(each, PADDING[: at * 7 % 60])) for at, each in enumerate(payloads))


def done_of(payloads, **options):
    return streamfold.fold(frames(payloads), format=FORMAT, **options).data


def text_delta(text):
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


# ---------------------------------------------------------------------------------------------- whole streams


@pytest.mark.parametrize("name", NAMES)
def test_folds_to_the_unstreamed_body(name):
    """The chunks of each family fold to the body that the model returns unstreamed, with Bedrock's fields beside it."""
    data = done_of(payloads_of(name))
    assert data.response == twin_of(name)
    assert (data.status, data.integrity.anomalies) == ("success", [])


def test_a_recorded_body():
    """The bytes of a recorded stream fold without being told anything."""
    assert streamfold.fold((FIXTURES / "nova.bin").read_bytes()).data.response == twin_of("nova")


@pytest.mark.parametrize("name", NAMES)
def test_what_boto3_decodes_folds_the_same(name):
    """The events that botocore makes of the same bytes (wrapped, with real bytes) fold to the same record."""
    model = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"))
    shape = model.operation_model("InvokeModelWithResponseStream").get_event_stream_output()
    body = frames(payloads_of(name))
    buffer = EventStreamBuffer()
    buffer.add_data(body)
    stream = streamfold.StreamAccumulator(FORMAT)
    for message in buffer:
        event = EventStreamJSONParser().parse(message.to_response_dict(), shape)
        assert isinstance(event["chunk"]["bytes"], bytes)
        stream.add(event)
    assert stable(stream.finish()) == stable(streamfold.fold(body, format=FORMAT))


@pytest.mark.parametrize("name", NAMES)
def test_the_spellings_are_one(name):
    """Frames, lines of wrapped or bare chunks, and lines of the model's own payloads fold to the same response."""
    payloads = payloads_of(name)
    whole = done_of(payloads).response
    spellings = [
        [{"chunk": chunk(each)} for each in payloads],
        [{"bytes": json.dumps(each)} for each in payloads],
        payloads,
    ]
    for lines in spellings:
        body = b"\n".join(json.dumps(line).encode() for line in lines)
        assert streamfold.fold(body, format=FORMAT).data.response == whole


@pytest.mark.parametrize("name", NAMES)
def test_cuts_do_not_matter(name):
    """However the bytes are cut, the record is the same."""
    body = frames(payloads_of(name))
    records = [stable(fold_pieces(pieces, FORMAT)) for pieces in cuts(body, random.Random(5), times=2, bytewise=4096)]
    assert all(record == records[0] for record in records)


@pytest.mark.parametrize("name", NAMES)
def test_an_unstreamed_body_reads_the_same(name):
    """The same view reads the body of `InvokeModel`, which folds to itself."""
    streamed, read = done_of(payloads_of(name)), streamfold.read(twin_of(name), format=FORMAT).data
    assert read.response == twin_of(name)
    assert (read.status, read.integrity.anomalies) == ("success", [])
    for field in ("finish_reason", "raw_finish_reason", "stream_type", "response_model", "response_id", "choices"):
        assert getattr(read, field) == getattr(streamed, field)
    assert read.token_usage == streamed.token_usage
    assert read.output_message.content == streamed.output_message.content


@pytest.mark.parametrize("name", NAMES)
def test_is_recognised(name):
    """A stream in frames is recognised without being told the format."""
    assert streamfold.fold(frames(payloads_of(name))).format == FORMAT


@pytest.mark.parametrize("name", NAMES)
def test_is_a_response_of_openai(name):
    """The OpenAI-shaped response of every family is valid by OpenAI's own types."""
    done = streamfold.fold(frames(payloads_of(name)), format=FORMAT, model="some.model")
    body = done.to_response()
    kind = Completion if body["object"] == "text_completion" else ChatCompletion
    body["choices"] = [{**choice, "finish_reason": choice["finish_reason"] or "stop"} for choice in body["choices"]]
    assert kind.model_validate(body).choices


VIEWS = [
    # fixture, content, finish reason, raw one, (prompt, completion, total), source
    ("anthropic", 'High water at "six" 🌊.', "tool_calls", "tool_use", (31, 44, 75), "provider"),
    ("anthropic_legacy", " Low water.", "stop", "stop_sequence", (25, 4, 29), "derived"),
    ("nova", "Neap tide.", "tool_calls", "tool_use", (17, 13, 30), "derived"),
    ("titan", "\nSpring tide tonight.", "stop", "FINISH", (13, 7, 20), "derived"),
    ("titan_blocked", "I cannot answer that.", "content_filter", "INTERVENED", (6, 5, 11), "derived"),
    ("llama", "\n\nEbb.", "length", "length", (10, 3, 13), "derived"),
    ("mistral_text", " Slack water.", "stop", "stop", (9, 4, 13), "derived"),
    ("mistral_chat", "Rip current", "length", "length", (9, 2, 11), "derived"),
    ("openai_chat", "Flood tide.", "stop", "stop", (70, 4, 74), "provider"),
    ("deepseek", "King tide.", "stop", "stop", (8, 3, 11), "derived"),
    ("cohere_text", " Red buoy", "length", "MAX_TOKENS", (40, 4, 44), "derived"),
    ("cohere_chat", "Mind the buoy.", "stop", "COMPLETE", (11, 5, 16), "derived"),
]


def test_every_fixture_has_a_view():
    """No family is forgotten below."""
    assert sorted(view[0] for view in VIEWS) == NAMES


@pytest.mark.parametrize(("name", "content", "word", "raw", "counts", "source"), VIEWS)
def test_the_view_of_each_family(name, content, word, raw, counts, source):
    """Text, reasons and usage are read; Bedrock's metrics count where the model itself does not."""
    data = done_of(payloads_of(name))
    assert data.output_message.content == content
    assert (data.finish_reason, data.raw_finish_reason) == (word, raw)
    usage = data.token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == counts
    assert usage.source == source


def test_several_texts():
    """Each text of a Cohere answer is a choice with the reason that the last chunk gave for all."""
    data = done_of(payloads_of("cohere_text"))
    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in data.choices] == [
        (0, " Red buoy", "length"),
        (1, " Green buoy", "length"),
    ]


PEGASUS = [
    ([{"message": "A harbour"}, {"message": " at night."}, {"message": "", "finishReason": "stop"}], "in pieces"),
    ([{"delta": "A harbour"}, {"delta": " at night.", "finishReason": "stop"}], "as deltas"),
    ([{"delta": "A harbour"}, {"message": "A harbour at night.", "finishReason": "stop"}], "said again at the end"),
    ([{"message": "A harbour at night.", "finishReason": "stop"}], "whole"),
]


@pytest.mark.parametrize("payloads", [case[0] for case in PEGASUS], ids=[case[1] for case in PEGASUS])
def test_pegasus(payloads):
    """TwelveLabs' chunks hold a bare message, which is text there and no refused request."""
    metrics = {METRICS: {"inputTokenCount": 9, "outputTokenCount": 4}}
    data = done_of([*payloads[:-1], {**payloads[-1], **metrics}])
    assert data.response == {"message": "A harbour at night.", "finishReason": "stop", **metrics}
    assert (data.status, data.integrity.anomalies) == ("success", [])
    assert (data.output_message.content, data.finish_reason) == ("A harbour at night.", "stop")
    assert (data.token_usage.total_tokens, data.stream_type) == (13, "text.completion")
    assert streamfold.read({"message": "A harbour.", "finishReason": "length"}, FORMAT).data.finish_reason == "length"


def test_pegasus_that_is_cut():
    """Text without a reason is a truncated answer; a bare message outside a chunk is still a refused request."""
    data = done_of([{"message": "A harbour"}])
    assert (data.status, data.output_message.content, data.finish_reason) == ("truncated", "A harbour", None)
    assert streamfold.fold(b'{"message":"Too many tokens."}', format=FORMAT).data.status == "error"


def test_arguments_are_the_text_that_was_sent():
    """What only the inner stream knew, a tool's arguments as streamed, reaches the record."""
    data = done_of(payloads_of("anthropic"))
    assert [call.function.arguments for call in data.tool_calls] == ['{"harbour": "Brest"}']


# ---------------------------------------------------------------------------------------------- frames


def test_other_frames_yield_nothing():
    """A frame that is no chunk never yields the chunk before it again."""
    body = b"".join(
        [
            frames([{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}]),
            frames([text_delta("Hi")]),
            frame("initial-response", {}),
            frames([text_delta("!")]),
            frame("heartbeat", {"at": 1}),
        ]
    )
    data = streamfold.fold(body, format=FORMAT).data
    assert data.output_message.content == "Hi!"
    assert data.response["unknown_events"] == [{"at": 1}]


EXCEPTIONS = [
    ("throttlingException", 429, True),
    ("validationException", 400, False),
    ("modelStreamErrorException", 424, True),
    ("internalServerException", 500, True),
    ("serviceUnavailableException", 503, True),
    ("modelTimeoutException", 408, True),
]


@pytest.mark.parametrize(("name", "status", "again"), EXCEPTIONS)
@pytest.mark.parametrize("wrapped", [False, True], ids=["frame", "boto3"])
def test_exceptions(name, status, again, wrapped):
    """An exception, as a frame or decoded by an SDK, is an error with its status, and what came before is kept."""
    told = {"message": "no luck"}
    stream = streamfold.StreamAccumulator(FORMAT)
    stream.feed(frames([text_delta("Hi")]))
    if wrapped:
        stream.add({name: told})
    else:
        stream.feed(frame(name, {**told, "p": "abc"}, "exception"))
    data = stream.finish().data
    error = data.error_details
    assert (data.status, error.code, error.status_code, error.retryable) == ("error", name, status, again)
    assert data.output_message.content == "Hi"
    assert data.response[name] == told


def test_an_error_of_the_model():
    """An error that the model's own API reports inside a chunk is the error of the stream."""
    failure = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    data = done_of([text_delta("Hi"), failure])
    assert (data.status, data.error_details.status_code) == ("error", 529)
    assert data.output_message.content == "Hi"


def test_a_refused_request():
    """The body of a refused request is an error with the HTTP status that the caller tells."""
    data = streamfold.read({"message": "Malformed input request"}, format=FORMAT, status_code=400).data
    assert (data.status, data.error_details.status_code) == ("error", 400)
    assert data.error_details.message == "Malformed input request"


def test_what_http_told():
    """The headers name a refusal, and count the tokens of a body that counts none."""
    refused = BedrockInvoke()
    refused.note_http(429, {"X-Amzn-ErrorType": "ThrottlingException:http://internal.amazon.com/coral/"})
    refused.add_event({"message": "slow down"})
    assert (refused.error.code, refused.error.status_code) == ("ThrottlingException", 429)
    answered = BedrockInvoke()
    answered.note_http(200, {"X-Amzn-Bedrock-Input-Token-Count": "9", "X-Amzn-Bedrock-Output-Token-Count": "4"})
    answered.add_event({"outputs": [{"text": "Slack water.", "stop_reason": "stop"}]})
    data = AccumulatedData(response=answered.response())
    answered.view(data.response, data)
    answered.finish_view(data)
    assert data.token_usage.total_tokens == 13
    assert METRICS not in data.response


def test_a_failed_body_reads_as_failed_again():
    """A response that was folded from a failed stream reads as the same failure with the same text."""
    failed = streamfold.fold(
        frames([{"generation": "Ebb"}]) + frame("throttlingException", {"message": "slow"}, "exception"), format=FORMAT
    ).data
    again = streamfold.read(failed.response, format=FORMAT).data
    assert (again.status, again.error_details) == ("error", failed.error_details)
    assert again.output_message.content == "Ebb"
    assert again.response == failed.response


def test_a_model_that_nobody_told_us_of():
    """Payloads of an unknown model are kept as they are, and no text is guessed from them."""
    payloads = [
        {"chant": "la", "n": 1},
        {"chant": "la", "n": 2, METRICS: {"inputTokenCount": 3, "outputTokenCount": 2}},
    ]
    data = done_of(payloads)
    assert data.output_message is None
    assert data.response["unknown_events"] == [{"chant": "la", "n": 1}, {"chant": "la", "n": 2}]
    assert data.token_usage.total_tokens == 5
    assert (data.status, data.integrity.anomalies) == ("success", ["unknown_event"])


DAMAGED = [
    ({"bytes": "!!!!"}, "malformed_base64"),
    ({"bytes": base64.b64encode(b"{no json").decode()}, "malformed_json"),
    ({"bytes": base64.b64encode(b"7").decode()}, "unexpected_json"),
    ({"bytes": 7}, "unexpected_shape"),
]


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize(("payload", "code"), DAMAGED)
def test_damaged_chunks(payload, code, first):
    """A chunk that cannot be opened is noted, wherever it comes, and the rest of the stream is folded."""
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    good = [frames([start]), frames([text_delta("Hi")])]
    good.insert(0 if first else 1, frame("chunk", payload))
    data = streamfold.fold(b"".join(good), format=FORMAT).data
    assert data.output_message.content == "Hi"
    assert code in data.integrity.anomalies


def test_the_chunks_of_agents_are_not_taken():
    """Bedrock's agents send chunks of plain text under the same names; they are not recognised as this format."""
    event = {"bytes": base64.b64encode(b"The tide is out.").decode()}
    assert not BedrockInvoke.recognises(event, "chunk")
    assert not BedrockInvoke.recognises({"chunk": event}, None)


# ---------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize("name", [name for name in NAMES if name != "titan_blocked"])
def test_a_stream_that_is_cut(name):
    """Without its last frames a stream of any family is truncated, and no reason and no count are invented."""
    data = done_of(payloads_of(name)[:2])
    assert (data.status, data.finish_reason, data.raw_finish_reason) == ("truncated", None, None)
    assert METRICS not in data.response
    assert data.token_usage.completion_tokens is None or name == "llama"


def test_the_metrics_end_the_stream():
    """The frame with Bedrock's metrics is the last one, whatever the model."""
    stream = streamfold.StreamAccumulator(FORMAT)
    for payload in payloads_of("mistral_text"):
        assert not stream.has_ended
        stream.feed(frames([payload]))
    assert stream.has_ended


def test_an_end_that_the_model_has_and_did_not_say():
    """A stream of Anthropic's that says why it stopped but never says that it did is whole, with a note."""
    data = done_of(payloads_of("anthropic")[:-1])
    assert (data.status, data.finish_reason) == ("success", "tool_calls")
    assert data.integrity.anomalies == ["missing_done"]
    assert done_of([*payloads_of("llama")[:-1], {"generation": ".", "stop_reason": "stop"}]).integrity.anomalies == []


def test_the_probabilities_of_an_imported_model_are_those_of_all_its_tokens():
    """Every chunk has an entry for each of its tokens, the prompt's come once; a full stream takes no more of them."""
    said = {"prompt_token_count": 2, "prompt_logprobs": [None, {"791": -3.5}]}
    payloads = [
        {"generation": "Ebb", **said, "generation_token_count": 1, "stop_reason": None, "logprobs": [{"36": -0.5}]},
        {"generation": " tide", "generation_token_count": 3, "logprobs": [{"17": -0.25}, {"5": -1.5}]},
        {"generation": "", "generation_token_count": 4, "stop_reason": "stop", "logprobs": [{"9": -0.125}]},
    ]
    assert done_of(payloads).response == {
        "generation": "Ebb tide",
        **said,
        "generation_token_count": 4,
        "stop_reason": "stop",
        "logprobs": [{"36": -0.5}, {"17": -0.25}, {"5": -1.5}, {"9": -0.125}],
    }
    fold = BedrockInvoke()
    fold.add(json.dumps(chunk(payloads[0])).encode(), "chunk")
    fold.close()
    for payload in payloads[1:]:
        fold.add(json.dumps(chunk(payload)).encode(), "chunk")
    full = fold.response()
    assert (full["generation"], full["logprobs"], full["stop_reason"]) == ("Ebb", [{"36": -0.5}], "stop")


def test_the_guardrail_of_a_stream_that_went_on():
    """Where the model gives its own reason that stands, and the guardrail's word stays in the response."""
    payloads = payloads_of("titan")
    payloads[-1]["amazon-bedrock-guardrailAction"] = "INTERVENED"
    data = done_of(payloads)
    assert (data.finish_reason, data.raw_finish_reason) == ("stop", "FINISH")
    assert data.response["amazon-bedrock-guardrailAction"] == "INTERVENED"


# ---------------------------------------------------------------------------------------------- cost and robustness


@pytest.mark.parametrize("name", NAMES)
def test_many_frames_at_once_are_as_many_one_by_one(name):
    """Frames folded in one go, where payloads are handed on in a row, count and give what they do one by one."""
    events = [chunk(each) for each in payloads_of(name)]
    events[1:1] = events[1:2] * 5
    together, alone = BedrockInvoke(), BedrockInvoke()
    together.add_all([json.dumps(each).encode() for each in events], ["chunk"] * len(events))
    for event in events:
        alone.add_decoded(event, "chunk")
    assert together.response() == alone.response()
    assert (together.chunks, together.anomalies) == (alone.chunks, alone.anomalies)


def test_nova_is_one_text():
    """Nova names a new block with each stretch of text: all of them are one block."""
    count = 2000
    events = [{"messageStart": {"role": "assistant"}}]
    for at in range(count):
        events.append({"contentBlockDelta": {"delta": {"text": "ab"}, "contentBlockIndex": at}})
        events.append({"contentBlockStop": {"contentBlockIndex": at}})
    fold = BedrockInvoke()
    fold.add_all([json.dumps(chunk(event)).encode() for event in events], None)
    assert fold.response()["output"]["message"]["content"] == [{"text": "ab" * count}]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "titan_blocked"])
def test_the_size_limit(name):
    """Over the limit text stops growing, while the end and the metrics are still taken."""
    first, second, *rest = payloads_of(name)
    stream = streamfold.StreamAccumulator(FORMAT, max_bytes=3000)
    for payload in (first, *[second] * 300, *rest):
        stream.feed(frames([payload]))
    data = stream.finish().data
    assert data.status == "success"
    assert METRICS in data.response
    assert "size_limit" in data.integrity.anomalies
    assert len(json.dumps(data.response)) < 4500


def test_a_strict_stream_raises():
    """A strict stream refuses a chunk that holds no JSON."""
    stream = streamfold.StreamAccumulator(FORMAT, strict=True)
    stream.feed(frames([text_delta("Hi")]))
    with pytest.raises(streamfold.WireError):
        stream.feed(frame("chunk", {"bytes": base64.b64encode(b"{no json").decode()}))


WORDS = """
type message_start message content_block_delta delta text index completion outputText results tokenCount index
totalOutputTextTokenCount inputTextTokenCount completionReason generation generation_token_count prompt_token_count
outputs stop_reason choices finish_reason usage is_finished event_type generations finish response messageStart
contentBlockDelta contentBlockIndex messageStop metadata output role content tool_calls error
amazon-bedrock-invocationMetrics amazon-bedrock-guardrailAction inputTokenCount outputTokenCount chunk bytes p
throttlingException
"""
KEYS = st.sampled_from(WORDS.split())
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-2, 3), st.floats(), st.text(max_size=3), KEYS)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=5)


@given(st.lists(st.tuples(st.sampled_from([None, "chunk", "odd"]), OBJECTS, st.booleans()), max_size=8))
def test_any_json_is_survived(events):
    """Whatever objects come, inside chunks or beside them, nothing raises and the record can be written as JSON."""
    stream = streamfold.StreamAccumulator(FORMAT)
    for name, event, inside in events:
        if inside:
            stream.feed(frame("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode()}))
        else:
            stream.add(event, name=name)
        stream.snapshot()
    data = stream.finish().data
    assert "accumulator_error" not in data.integrity.anomalies
    msgspec.json.encode(data)


@given(OBJECTS)
def test_any_response_can_be_viewed(response):
    """The view reads any object without raising."""
    BedrockInvoke.view(response, AccumulatedData())


def test_exception_in_plain_words():
    """An exception whose payload is no JSON is still that exception."""
    headers = {":message-type": "exception", ":exception-type": "modelTimeoutException"}
    body = frames([{"generation": "Hi", "stop_reason": None}]) + encode(b"gone", headers)
    data = streamfold.fold(body, format="bedrock-invoke").data
    assert (data.status, data.output_message.content) == ("error", "Hi")
    assert (data.error_details.code, data.error_details.message) == ("modelTimeoutException", "gone")


def test_cohere_end_completes_what_streamed():
    """Where Cohere's last chunk has the whole response, what was not streamed is taken from it, and the text stays."""
    whole = {"id": "g", "text": " Hey", "finish_reason": "MAX_TOKENS"}
    data = done_of(
        [
            {"text": " He", "is_finished": False},
            {"text": "y", "is_finished": False},
            {
                "is_finished": True,
                "finish_reason": "MAX_TOKENS",
                "response": {"id": "r", "prompt": "p", "generations": [whole]},
            },
        ]
    )
    assert data.response == {"id": "r", "prompt": "p", "generations": [whole]}
    assert (data.response_id, data.finish_reason) == ("r", "length")
