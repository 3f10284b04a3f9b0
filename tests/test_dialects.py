"""Servers that speak OpenAI's chat API in their own way: no rule needs the name of one."""

import pytest

import streamfold
from streamfold.testing import sse


def chunk(delta, **choice):
    return {"choices": [{"index": 0, "delta": delta, **choice}]}


def call(**part):
    return chunk({"tool_calls": [part]})


def turn(index, delta, **more):
    return {"choices": [{"index": 0, "messages": [{"index": index, "delta": delta, "end_turn": False, **more}]}]}


STOP = chunk({}, finish_reason="stop")
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35}


@pytest.mark.parametrize(
    ("chunks", "read", "expected"),
    [
        pytest.param(
            [
                chunk({"content": "a"}),
                STOP,
                {"choices": [], "usage": {**USAGE, "completion_tokens_details": {"reasoning_tokens": 20}}},
            ],
            lambda data: (data.token_usage.completion_tokens, data.token_usage.total_tokens),
            (25, 35),
            id="xAI counts reasoning outside the completion tokens",
        ),
        pytest.param(
            [call(index=0, id="c1", function={"name": "w", "arguments": text}) for text in ("", '{"a"', ":1}")],
            lambda data: (data.tool_calls[0].function.name, data.tool_calls[0].function.arguments),
            ("w", '{"a":1}'),
            id="llama.cpp repeats id and name on every delta",
        ),
        pytest.param(
            [
                chunk({"content": "He"}, message={"role": "assistant", "content": "He"}),
                chunk({"content": "y"}, message={"role": "assistant", "content": "Hey"}, finish_reason="stop"),
            ],
            lambda data: data.output_message.content,
            "Hey",
            id="Perplexity sends the whole message so far beside each delta",
        ),
        pytest.param(
            [chunk({"content": "a"}), chunk({}, finish_reason="stop", usage=USAGE)],
            lambda data: data.token_usage.prompt_tokens,
            10,
            id="Moonshot puts the usage inside the choice",
        ),
        pytest.param(
            [
                chunk({"tool_calls": [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in "ab"]}),
                STOP,
            ],
            lambda data: [each.id for each in data.tool_calls],
            ["a", "b"],
            id="Gemini's OpenAI mode gives calls no index",
        ),
        pytest.param(
            [chunk({"content": "a"}, finish_reason=""), chunk({"content": "b"}, finish_reason=""), STOP],
            lambda data: (data.output_message.content, data.finish_reason, data.integrity.anomalies),
            ("ab", "stop", []),
            id="Ollama says an empty finish reason on every chunk",
        ),
        pytest.param(
            [
                {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
                chunk({"content": "a"}),
                STOP,
            ],
            lambda data: (data.output_message.content, data.response["prompt_filter_results"]),
            ("a", [{"prompt_index": 0}]),
            id="Azure opens with the verdict on the prompt",
        ),
        pytest.param(
            [{"object": "extensions.chat.completion.chunk", **chunk({"content": "a"})}, STOP],
            lambda data: (data.response["object"], data.output_message.content),
            ("extensions.chat.completion", "a"),
            id="Azure names the chunks of its extensions after them",
        ),
        pytest.param(
            [
                turn(0, {"role": "tool", "content": '{"citations": []}'}),
                turn(1, {"role": "assistant"}),
                turn(1, {"content": "High "}),
                turn(1, {"content": "water"}),
                turn(1, {"content": "[DONE]"}, end_turn=True),
            ],
            lambda data: (
                data.output_message.content,
                data.response["choices"][0]["messages"],
                data.integrity.end_marker,
                data.integrity.anomalies,
            ),
            (
                "High water",
                [
                    {"index": 0, "end_turn": False, "role": "tool", "content": '{"citations": []}'},
                    {"index": 1, "end_turn": True, "role": "assistant", "content": "High water"},
                ],
                True,
                [],
            ),
            id="Azure's first preview has a list of messages in a choice",
        ),
        pytest.param(
            [chunk({"content": "a"}), STOP, {"choices": [], "usage": {**USAGE, "cached_input_tokens": 4}}],
            lambda data: data.token_usage.prompt_tokens_details.cached_read_tokens,
            4,
            id="Inception says beside the totals what was in its cache",
        ),
        pytest.param(
            [chunk({"content": "a"}), STOP, {"choices": [], "usage": {**USAGE, "estimated_cost": 0.25}}],
            lambda data: (data.cost.total_cost, data.cost.source),
            (0.25, "provider"),
            id="DeepInfra tells what the answer will cost",
        ),
    ],
)
def test_a_dialect_is_folded_as_it_is_meant(chunks, read, expected):
    """What a server says in its own way means the same as what OpenAI would have said."""
    assert read(streamfold.fold(sse(chunks, done=True), "openai-chat").data) == expected


@pytest.mark.parametrize("kind", ["", "text_completion"])
def test_a_verdict_on_the_prompt_does_not_name_the_format(kind):
    """Azure opens chats and text completions with the same frame, so the next one tells which of them it is."""
    verdict = {"id": "", "object": kind, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    texts = [{"object": "text_completion", "choices": [{"index": 0, "text": text}]} for text in ("High", " water")]
    data = streamfold.fold(sse([verdict, *texts], done=True)).data
    assert (data.format, data.output_message.content) == ("openai-completions", "High water")
    assert data.response["prompt_filter_results"] == [{"prompt_index": 0}]


def test_a_chat_that_calls_itself_a_text_completion_is_a_chat():
    """An older TGI names the chunks of its chats `text_completion`; what they hold decides."""
    data = streamfold.fold(sse([{"object": "text_completion", **chunk({"content": "a"})}, STOP], done=True)).data
    assert (data.format, data.output_message.content) == ("openai-chat", "a")


def test_the_messages_of_a_whole_choice_are_read():
    """An unstreamed answer of Azure's first preview has the text of its last message."""
    turns = [{"index": 0, "role": "tool", "content": "{}"}, {"index": 1, "role": "assistant", "content": "High water"}]
    data = streamfold.read({"object": "chat.completion", "choices": [{"index": 0, "messages": turns}]}).data
    assert data.output_message.content == "High water"


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([{"object": "chat.completion", "result": "High", "is_end": False}] * 2, id="ERNIE's own API"),
        pytest.param(['event: error\ndata: {"detail": "boom"}\n\n'], id="an error of anybody"),
    ],
)
def test_what_is_not_of_openai_is_not_taken_for_it(frames):
    """A stream that only borrows a word of OpenAI's is of no format, rather than of one that loses its text."""
    body = "".join(frames).encode() if isinstance(frames[0], str) else sse(frames)
    stream = streamfold.StreamAccumulator(format="auto")
    stream.feed(body)
    data = stream.finish().data
    assert (data.format, data.integrity.anomalies) == (None, ["unknown_format"])
