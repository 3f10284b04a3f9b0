"""Ollama: the lines of `/api/chat` and `/api/generate` fold into the one object of `stream: false`."""

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfold
from streamfold.testing import cuts, fold_pieces, stable
from streamfold.types import AccumulatedData
from streamfold.wire.ollama_chat import OllamaChat

FIXTURES = Path(__file__).parent / "fixtures" / "ollama"


def folded(*events):
    fold = OllamaChat()
    fold.add_all([msgspec.json.encode(event) for event in events], None)
    return fold


def viewed(response):
    data = AccumulatedData()
    OllamaChat.view(response, data)
    return data


def lines(*events):
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events)


def recorded(name):
    return [msgspec.json.decode(line) for line in (FIXTURES / name).read_bytes().splitlines()]


def fixture(name):
    return streamfold.fold((FIXTURES / name).read_bytes(), format="ollama").data


def joined(parts):
    """The texts and lists of several objects, joined."""
    out = {}
    for key in ("content", "thinking", "response", "tool_calls", "logprobs"):
        values = [part[key] for part in parts if key in part]
        if values and isinstance(values[0], str):
            out[key] = "".join(values)
        elif values:
            out[key] = [item for value in values for item in value]
    return out


def said(content=None, at=0, done=False, **message):
    text = {} if content is None else {"content": content}
    return {"model": "m", "created_at": f"t{at}", "message": {"role": "assistant", **text, **message}, "done": done}


def last(at=9, reason="stop", **counts):
    return {**said("", at, done=True), "done_reason": reason, **counts}


# ---------------------------------------------------------------------- whole streams


@pytest.mark.parametrize("name", ["thinking.jsonl", "tools.jsonl", "generate.jsonl"])
def test_the_whole_is_the_last_line_with_all_that_was_joined(name):
    """The response has the fields of the last line; its texts and lists are those of all lines, joined."""
    data, events = fixture(name), recorded(name)
    wanted = {**events[-1]}
    if "message" in wanted:
        wanted["message"] = {"role": "assistant", **joined([event["message"] for event in events])}
    else:
        wanted |= joined(events)
    assert data.response == wanted
    assert (data.status, data.response_model, data.integrity.anomalies) == ("success", "qwen3:8b", [])


def test_thinking_and_content_are_two_texts():
    """Thinking grows beside empty content, and is the reasoning of the message."""
    data = fixture("thinking.jsonl")
    assert (data.output_message.content, data.output_message.reasoning) == (
        "It is the Zürichsee.",
        "The user asks about a lake.",
    )
    assert (data.finish_reason, data.raw_finish_reason) == ("stop", "stop")


def test_calls_are_whole_objects():
    """Calls come whole, one after the other; their arguments are viewed as JSON text, and they are why it stopped."""
    data = fixture("tools.jsonl")
    assert [(call.index, call.id, call.function.name, call.function.arguments) for call in data.tool_calls] == [
        (0, "call_a1b2c3d4", "weather", '{"city":"Zürich"}'),
        (1, "call_e5f6g7h8", "clock", "{}"),
    ]
    assert data.response["message"]["tool_calls"][0]["function"]["arguments"] == {"city": "Zürich"}
    assert (data.finish_reason, data.raw_finish_reason) == ("tool_calls", "stop")


def test_generate_is_a_text_completion():
    """`/api/generate` gives a text completion, with the context of the last line and the log probabilities of all."""
    data = fixture("generate.jsonl")
    assert (data.stream_type, data.output_message.content) == ("text.completion", "Once upon a time")
    assert (data.finish_reason, data.response["context"]) == ("length", [1, 2, 3, 4, 5, 6])
    assert [entry["token"] for entry in data.logprobs["content"]] == ["Once", " upon", " a", " time"]


def test_a_cut_stream_is_cut():
    """Without the line that is `done` the stream is truncated; the time is that of its first line."""
    data = fixture("cut.jsonl")
    assert (data.status, data.finish_reason, data.token_usage.source) == ("truncated", None, "missing")
    assert data.response["created_at"] == recorded("cut.jsonl")[0]["created_at"]
    assert (data.response["done"], data.output_message.content) == (False, "It is the")


# ---------------------------------------------------------------------- ends and counts


@pytest.mark.parametrize(
    ("line", "status", "finish"),
    [
        (last(reason="stop"), "success", "stop"),
        (last(reason="length"), "success", "length"),
        (last(reason="load"), "success", None),
        ({**said("", done=True)}, "success", None),
        (said("b"), "truncated", None),
    ],
)
def test_ends(line, status, finish):
    """`done: true` is the end, whatever reason it gives, or none."""
    data = streamfold.fold(lines(said("a"), line), format="ollama").data
    assert (data.status, data.finish_reason, data.raw_finish_reason) == (status, finish, line.get("done_reason"))


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        ({"error": "model runner has unexpectedly stopped"}, "model runner has unexpectedly stopped", None),
        ({"error": "unauthorized", "status": 401}, "unauthorized", 401),
        ({"error": {"message": "no", "type": "api_error"}}, "no", 500),
    ],
)
def test_errors(error, message, code):
    """A line with an error ends the stream badly; what came before it is kept beside the error."""
    data = streamfold.fold(lines(said("a"), error), format="ollama").data
    assert (data.status, data.error_details.message, data.error_details.status_code) == ("error", message, code)
    assert (data.output_message.content, data.response["error"]) == ("a", error["error"])
    assert "status" not in data.response


@pytest.mark.parametrize(
    ("counts", "wanted", "source"),
    [
        ({"prompt_eval_count": 3, "eval_count": 4}, (3, 4, 7), "derived"),
        ({"eval_count": 4}, (None, 4, None), "provider"),
        ({"prompt_eval_count": 0, "eval_count": 0}, (0, 0, 0), "derived"),
        ({}, (None, None, None), "missing"),
        ({"eval_count": [4]}, (None, None, None), "missing"),
    ],
)
def test_usage(counts, wanted, source):
    """The counts are the provider's, the total is ours; a count that was left out is not 0."""
    usage = viewed(folded(last(**counts)).response()).token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.source) == (*wanted, source)


@pytest.mark.parametrize(("said", "cached"), [(16, 16), (0, 0), (None, None), ("x", None)])
def test_what_was_cached(said, cached):
    """Tokens of the prompt that were in the cache are told, and stay part of the prompt's count."""
    counts = {"prompt_eval_count": 20, "prompt_eval_cached_count": said, "eval_count": 4}
    data = streamfold.fold(lines(last(**counts)), "ollama").data
    details = data.token_usage.prompt_tokens_details
    assert (details and details.cached_read_tokens, data.token_usage.prompt_tokens) == (cached, 20)
    assert data.response["prompt_eval_cached_count"] == said


# ---------------------------------------------------------------------- oddities


def test_fields_that_only_the_last_line_may_say():
    """The time and the progress of an image are the last line's: what it does not repeat is gone."""
    steps = [{"model": "m", "created_at": f"t{n}", "completed": n, "total": 2, "done": False} for n in (1, 2)]
    final = {"model": "m", "created_at": "t3", "image": "aGk=", "done": True, "done_reason": "stop"}
    assert folded(*steps).response() == steps[0]
    fold = folded(*steps, final)
    assert fold.response() == final
    assert viewed(fold.response()).output_message.images == [{"type": "image", "data": "aGk="}]


def test_unknown_fields_are_kept():
    """Fields nobody told us of are in the response, in the message as well as at the top."""
    fold = folded(said("a", new=1), {**last(), "remote_host": "h"})
    assert fold.response()["remote_host"] == "h"
    assert fold.response()["message"]["new"] == 1


def test_content_after_the_end_is_appended_and_noted():
    """A line after the last one is an anomaly, not a loss."""
    fold = folded(said("a"), last(), said("b"))
    assert fold.response()["message"]["content"] == "ab"
    assert fold.anomalies == ["content_after_finish"]


@pytest.mark.parametrize("line", [{"message": "text", "done": False}, {"message": {}, "done": "yes"}])
def test_unexpected_shapes(line):
    """A message that is no object, or a `done` that is no boolean, is noted and ends nothing."""
    fold = folded(said("a"), line)
    assert (fold.anomalies, fold.ended) == (["unexpected_shape"], False)
    assert fold.response()["message"]["content"] == "a"


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.iterdir()))
def test_cuts_do_not_matter(name):
    """However a body is cut, the record is the same, and `auto` knows the format."""
    body = (FIXTURES / name).read_bytes()
    records = [stable(fold_pieces(pieces, "ollama")) for pieces in cuts(body, random.Random(3))]
    assert all(record == records[0] for record in records)
    assert streamfold.fold(body).format == "ollama"


@pytest.mark.parametrize("name", ["thinking.jsonl", "tools.jsonl", "generate.jsonl"])
def test_an_unstreamed_response_is_read_alike(name):
    """The folded response, read as an unstreamed one, gives the same view and stays as it is."""
    data = fixture(name)
    read = streamfold.read(data.response)
    assert (read.format, read.data.response, read.data.status) == ("ollama", data.response, "success")
    for field in ("output_message", "token_usage", "finish_reason", "stream_type", "logprobs"):
        assert getattr(read.data, field) == getattr(data, field)


@pytest.mark.parametrize(
    "line",
    [
        said("a"),
        said("", thinking="a"),
        {"model": "m", "response": "a", "done": False},
        {"thinking": "a", "response": ""},
    ],
)
def test_repeating_lines_are_folded_without_decoding(line):
    """Lines that differ only in their text take the short cut, with the result of the long way."""
    fold = folded(*[line] * 50, last())
    assert fold.chunks == 51
    hot = folded(*[line] * 50)
    assert hot.repeat is not None
    assert hot.repeat.hits >= 48
    slow = OllamaChat()
    for each in [line] * 50:
        slow.add_decoded(each)
    assert hot.response() == slow.response()


def test_lists_never_take_the_short_cut():
    """A line with a call or log probabilities is added each time it comes, even if it comes again unchanged."""
    call = {"function": {"name": "f", "arguments": {}}}
    fold = folded(*[said("a", tool_calls=[call])] * 4, *[{**said("b"), "logprobs": [{"token": "b"}]}] * 4)
    assert len(fold.response()["message"]["tool_calls"]) == len(fold.response()["logprobs"]) == 4


def test_what_was_folded_stays_when_the_fold_is_full():
    """After `close` no text grows, while the end, its reason and the counts are still taken."""
    fold = folded(said("a"))
    fold.close()
    for each in (said("b"), last(reason="length", eval_count=2)):
        fold.add(msgspec.json.encode(each))
    assert fold.response()["message"]["content"] == "a"
    assert (fold.ended, fold.response()["done_reason"], fold.response()["eval_count"]) == (True, "length", 2)


def test_snapshots_disturb_nothing():
    """A response read at every line leaves the stream, and the earlier responses, as they were."""
    fold, snapshots = OllamaChat(), []
    for each in recorded("tools.jsonl"):
        fold.add_decoded(each)
        snapshots.append((fold.response(), msgspec.json.encode(fold.response())))
    assert all(msgspec.json.encode(snapshot) == taken for snapshot, taken in snapshots)
    assert fold.response() == fixture("tools.jsonl").response


WORDS = """model created_at message role content thinking tool_calls images image response done done_reason context
logprobs error status function name arguments prompt_eval_count eval_count completed total"""
KEYS = st.sampled_from(WORDS.split())
SCALARS = st.none() | st.booleans() | st.integers(-1, 3) | st.floats(allow_nan=False) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=6), max_size=6), st.booleans())
def test_nothing_is_raised(events, full):
    """Any JSON objects fold, unchanged, and whatever became of them is viewed, without an exception."""
    fold = OllamaChat()
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


def test_servers_that_copy_the_api():
    """Lines without a time or a model are recognised, and OpenAI's word for the end is one here too."""
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    lines = [
        {
            "message": {"role": "assistant", "content": "", "tool_calls": [call]},
            "done": False,
            "done_reason": "tool_calls",
        },
        {"message": {}, "done": True, "done_reason": "tool_calls"},
    ]
    data = streamfold.fold(b"\n".join(msgspec.json.encode(line) for line in lines)).data
    assert (data.format, data.status, data.finish_reason) == ("ollama", "success", "tool_calls")
    assert data.tool_calls[0].function.arguments == '{"a":1}'
