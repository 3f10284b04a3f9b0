"""Text completions: chunks of `text_completion` fold into the one `text_completion` of an unstreamed request."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

import streamfold
from streamfold.testing import sse
from streamfold.types import AccumulatedData
from streamfold.wire.openai_completions import OpenAICompletions

FIXTURES = Path(__file__).parent / "fixtures" / "openai-completions"


def folded(*events):
    """The fold after these frames; a `str` is a frame that is no JSON."""
    fold = OpenAICompletions()
    fold.add_all([event.encode() if isinstance(event, str) else msgspec.json.encode(event) for event in events], None)
    return fold


def viewed(response):
    data = AccumulatedData()
    OpenAICompletions.view(response, data)
    return data


def chunk(text=None, index=0, finish=None, **choice):
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1761000123,
        "model": "davinci-002",
        "choices": [{"text": text, "index": index, "finish_reason": finish, **choice}],
    }


def test_text_usage_and_finish():
    """A recorded-style stream gives OpenAI's own `Completion`: joined text, the finish reason, the late usage."""
    done = streamfold.fold((FIXTURES / "text.sse").read_bytes(), format="openai-completions")
    assert done.data.status == "success"
    assert done.data.integrity.end_marker
    completion = Completion.model_validate(done.data.response)
    assert completion.choices[0].text == "\n\nThe harbour was café-quiet 🚢."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == 20
    assert completion.model_dump(exclude_unset=True) == done.data.response
    assert done.data.output_message.content == completion.choices[0].text
    assert done.data.output_message.role is None
    assert (done.data.finish_reason, done.data.raw_finish_reason) == ("stop", "stop")
    assert done.data.token_usage.source == "provider"
    assert done.data.choices is None


def test_choices_by_index():
    """With n > 1 each choice grows by its index, whatever the order of arrival, and the record lists them all."""
    data = streamfold.fold((FIXTURES / "two_choices.sse").read_bytes(), format="openai-completions").data
    assert [(choice["index"], choice["text"]) for choice in data.response["choices"]] == [
        (0, " blue sky"),
        (1, " red wine"),
    ]
    assert [(choice.index, choice.finish_reason) for choice in data.choices] == [(0, "length"), (1, "stop")]
    assert data.output_message.content == " blue sky"
    assert data.finish_reason == "length"


def test_logprobs_stay_aligned():
    """The arrays of logprobs are appended, and the null of a first echoed token is an entry like any other."""
    data = streamfold.fold((FIXTURES / "logprobs.sse").read_bytes(), format="openai-completions").data
    # `construct`, as the SDK does: its declared types leave out the null that the API sends.
    logprobs = Completion.construct(**data.response).choices[0].logprobs
    assert logprobs.tokens == ["Once", " upon", " a", " time"]
    assert data.logprobs["token_logprobs"] == [None, -0.01, -0.002, -0.0003]
    assert data.logprobs["top_logprobs"][0] is None
    assert logprobs.text_offset == [0, 4, 9, 11]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"tokens": ["a"], "top_logprobs": None}, {"tokens": ["b"], "top_logprobs": [{"b": -1}]}, [None, {"b": -1}]),
        ({"tokens": ["a"], "top_logprobs": [{"a": -1}]}, {"tokens": ["b"], "top_logprobs": None}, [{"a": -1}, None]),
        ({"tokens": ["a"], "top_logprobs": None}, {"tokens": ["b"], "top_logprobs": None}, None),
    ],
)
def test_logprobs_array_missing_in_a_chunk(first, second, expected):
    """An array that one chunk leaves out gets nulls there; one that is null throughout stays null."""
    response = folded(chunk("a", logprobs=first), chunk("b", logprobs=second)).response()
    logprobs = response["choices"][0]["logprobs"]
    assert logprobs == {"tokens": ["a", "b"], "top_logprobs": expected}


def test_logprobs_as_chat_has_them():
    """llama.cpp and Fireworks send logprobs as entries of one list, which is appended."""
    entries = [{"token": "a", "logprob": -1.5}, {"token": "b", "logprob": -0.5}]
    response = folded(*[chunk("x", logprobs={"content": [entry]}) for entry in entries]).response()
    assert response["choices"][0]["logprobs"]["content"] == entries


def test_reasoning_beside_the_text():
    """Reasoning is joined like text, is no text, and is the message's reasoning."""
    events = [chunk("", reasoning=each) for each in ("Th", "ink", "ing")]
    response = folded(*events, chunk("Hi", finish="stop")).response()
    assert response["choices"][0]["reasoning"] == "Thinking"
    message = viewed(response).output_message
    assert (message.reasoning, message.content) == ("Thinking", "Hi")


@pytest.mark.parametrize("beside", [True, False])
def test_deltas_of_chats(beside):
    """A chat's delta beside the text (Together) is dropped, and one in the place of the text is read."""
    events = [chunk(text, delta={"role": "assistant", "content": text}) for text in ("He", "llo", "!")]
    for event in events if not beside else ():
        del event["choices"][0]["text"]
    choice = folded(*events).response()["choices"][0]
    assert choice["text"] == "Hello!"
    assert "delta" not in choice


def test_indexes_as_text():
    """Choices whose index is spelled as text are told apart all the same."""
    response = folded(chunk("a", index="0"), chunk("b", index="1"), chunk("c", index="0")).response()
    assert [choice["text"] for choice in response["choices"]] == ["ac", "b"]


def test_a_finish_reason_that_is_a_failure():
    """A server that could not finish may say no more than that."""
    error = folded(chunk("a"), chunk("", finish="insufficient_system_resource")).error
    assert (error.type, error.code) == ("error", "insufficient_system_resource")
    assert folded(chunk("", finish="error")).error.code is None


def test_empty_strings_say_nothing():
    """An empty finish reason, id or model never stands for one, and never erases one."""
    first = chunk("a", finish="") | {"id": "", "model": ""}
    fold = folded(first, chunk("b", finish="stop"), chunk("", finish=""), "[DONE]")
    response = fold.response()
    assert (response["id"], response["model"]) == ("cmpl-1", "davinci-002")
    assert response["choices"][0]["finish_reason"] == "stop"
    assert fold.ended
    assert fold.finished


def test_finish_reason_is_not_the_end():
    """Only the end marker ends a stream, although chunk and whole response share their `object`."""
    fold = folded(chunk("a", finish="stop"))
    assert not fold.ended
    assert fold.finished
    fold.add(b"[DONE]")
    assert fold.ended


def test_usage_is_completed_field_by_field():
    """A later usage without details keeps those of an earlier one, and null erases nothing."""
    details = {"cached_tokens": 3}
    early = chunk("a") | {"usage": {"prompt_tokens": 5, "prompt_tokens_details": details}}
    late = {"id": "cmpl-1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}}
    response = folded(early, chunk("b") | {"usage": None}, late).response()
    assert response["usage"] == {
        "prompt_tokens": 5, "prompt_tokens_details": details, "completion_tokens": 0, "total_tokens": 5,
    }  # fmt: skip
    assert viewed(response).token_usage.completion_tokens == 0


def test_unknown_fields_are_kept():
    """Fields that OpenAI does not have (vLLM's `stop_reason`, a gateway's `provider`) stay where they were."""
    response = folded(
        chunk("a", stop_reason=None) | {"provider": "x"}, chunk("b", finish="stop", stop_reason=7)
    ).response()
    assert response["provider"] == "x"
    assert response["choices"][0]["stop_reason"] == 7


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"status": "queued"}, "unknown_event"),
        (chunk({"odd": 1}), "unexpected_shape"),
        ({"id": "cmpl-1", "choices": "none"}, "unexpected_shape"),
        (chunk("a") | {"id": "cmpl-2"}, "id_changed"),
        (chunk("a") | {"model": "other"}, "model_changed"),
    ],
)
def test_oddities_are_flagged(event, code):
    """What does not fit is flagged and never disturbs the text."""
    fold = folded(chunk("x"), event, chunk("y"))
    assert code in fold.anomalies
    assert fold.response()["choices"][0]["text"].replace("a", "") == "xy"


def test_content_after_finish_is_kept_and_flagged():
    """Text after a finish reason belongs to the answer, and says that the server broke the protocol."""
    fold = folded(chunk("a", finish="stop"), chunk("b"))
    assert fold.response()["choices"][0]["text"] == "ab"
    assert fold.anomalies == ["content_after_finish"]


def test_unknown_events_are_kept():
    """Events that nobody knows are kept beside the response, up to a bound."""
    fold = folded(chunk("a"), *({"status": i} for i in range(100)))
    assert fold.response()["unknown_events"] == [{"status": i} for i in range(64)]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"error": {"message": "overloaded", "type": "server_error", "code": 503}}, "overloaded"),
        ({"object": "error", "message": "bad prompt", "type": "BadRequestError", "code": 400}, "bad prompt"),
    ],
)
def test_error_inside_the_stream(event, message):
    """An error after some text is an error, and the text stays."""
    fold = folded(chunk("half"), event)
    assert fold.error.message == message
    assert fold.response() == chunk("half")
    fold.add_decoded({"error": {"message": "gone"}})
    assert fold.error.message == message  # what follows the first error is its consequence


def test_a_finish_reason_that_is_none():
    """The word `null` in the place of a finish reason (DashScope) ends nothing and is no reason."""
    fold = folded(chunk("a", finish="null"), chunk("b", finish="null"))
    assert (fold.finished, fold.response()["choices"][0]["finish_reason"]) == (False, None)
    fold.add_decoded(chunk("", finish="stop"))
    assert (fold.finished, fold.anomalies) == (True, [])
    assert fold.response()["choices"] == [{"text": "ab", "index": 0, "finish_reason": "stop"}]


def test_padding_is_no_part():
    """What Cloudflare pads its chunks with is not in the response, however often it changes."""
    fold = OpenAICompletions()
    fold.add_all([msgspec.json.encode({**chunk("a"), "p": "abcdefgh"[: n % 8]}) for n in range(40)], None)
    assert fold.response() == chunk("a" * 40)
    assert fold.repeat is not None


@pytest.mark.parametrize(("last", "completion", "source"), [((), 4, "derived"), ([(3, 9)], 9, "provider")])
def test_running_usage_of_several_choices(last, completion, source):
    """Usage told with every chunk of one of several choices counts them all, also if its sum never came."""

    def counted(tokens):
        return {"usage": {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}}

    chunks = [{**chunk("x", index), **counted(tokens)} for tokens in (1, 2) for index in (0, 1)]
    sums = [{**chunk(), "choices": [], **counted(tokens)} for _, tokens in last]
    usage = streamfold.fold(sse([*chunks, *sums]), format="openai-completions").data.token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.source) == (3, completion, source)
    assert usage.total_tokens == 3 + completion


@pytest.mark.parametrize("beside", [{"delta": {"token_id": 40, "content": "so"}}, {}])
def test_a_bare_logprob_is_that_of_its_token(beside):
    """A number in the place of logprobs (Together) belongs to the text of its chunk, also when it is 0."""
    fold = folded(*[{**chunk("so", logprobs=each, **beside), "object": "completion.chunk"} for each in (-0.5, 0, 0)])
    ids = {"token_ids": [40] * 3} if beside else {}
    lists = {**ids, "tokens": ["so"] * 3, "token_logprobs": [-0.5, 0, 0]}
    assert fold.response()["choices"][0]["logprobs"] == lists
    assert fold.response()["object"] == "text.completion"


def test_value_dialect():
    """Writer's bare `{"value": ...}` objects are the text of the only choice; a finish reason is not made up."""
    fold = folded(*({"value": text} for text in ["Sure", ",", "", " here"]))
    assert fold.response() == {"choices": [{"text": "Sure, here"}]}
    assert not fold.finished
    assert viewed(fold.response()).output_message.content == "Sure, here"
    assert OpenAICompletions.recognises({"value": "Sure"}, None)
    assert not OpenAICompletions.recognises({"value": "Sure", "done": False}, None)
    assert not OpenAICompletions.recognises({"value": 1}, None)


def test_chat_style_last_chunk():
    """A server that closes with an empty chat delta does not leave that delta in the completion."""
    closing = {"id": "cmpl-1", "object": "text_completion", "choices": [{"delta": {}, "finish_reason": "stop"}]}
    response = folded(chunk("a"), closing).response()
    assert response["choices"] == [{"text": "a", "index": 0, "finish_reason": "stop"}]


def test_unstreamed_response_reads_the_same():
    """The view of a folded stream and of the same response sent whole are equal."""
    whole = chunk("ab", finish="stop") | {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
    streamed = folded(chunk("a"), chunk("b", finish="stop"), whole | {"choices": []}).response()
    assert viewed(streamed) == viewed(whole)
    assert folded(whole).response() == whole


def test_snapshot_does_not_disturb():
    """A snapshot is what came so far, stays as it was, and changes nothing of what follows."""
    fold = folded(chunk("a"), chunk("b"))
    snapshot = fold.response()
    fold.add_all([msgspec.json.encode(chunk("c"))], None)
    assert snapshot["choices"][0]["text"] == "ab"
    assert fold.response()["choices"][0]["text"] == "abc"


def test_close_keeps_ends():
    """A closed fold grows no text and opens no choice, but still takes finish reason and usage."""
    fold = folded(chunk("a"))
    fold.close()
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    for event in (chunk("b"), chunk("x", index=1), chunk("", finish="length") | {"usage": usage}):
        fold.add_decoded(event)
    response = fold.response()
    assert response["choices"] == [{"text": "a", "index": 0, "finish_reason": "length"}]
    assert response["usage"] == usage


@pytest.mark.parametrize("make", [chunk, lambda text: {"value": text}])
def test_repeating_frames_take_the_short_way(make):
    """Frames that differ in their text alone are folded without decoding, to the same response."""
    count = 1000
    payloads = [msgspec.json.encode(make(f"t{i} ")) for i in range(count)]
    fold = OpenAICompletions()
    fold.add_all(payloads, None)
    assert fold.repeat is not None
    assert fold.repeat.hits >= count - 2
    assert fold.chunks == count
    assert fold.response()["choices"][0]["text"] == "".join(f"t{i} " for i in range(count))


WORDS = "id object model choices usage error text index finish_reason logprobs tokens value delta detail"
KEYS = st.sampled_from(WORDS.split())
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4)
)
ANY = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@given(st.lists(st.dictionaries(KEYS, ANY, max_size=5), max_size=5))
def test_any_object_folds(events):
    """No JSON object makes the fold or the view raise or changes under it, alone or after any other."""
    before = json.dumps(events)
    fold = OpenAICompletions()
    for event in events:
        fold.add(json.dumps(event).encode())
        fold.add_decoded(event)
    response = fold.response()
    assert json.dumps(events) == before
    assert fold.response() == response
    viewed(response or {})
    for event in events:
        viewed(event)
