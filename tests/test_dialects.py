"""Servers that speak OpenAI's chat API in their own way: no rule needs the name of one."""

import pytest

import streamfold
from streamfold.testing import sse


def chunk(delta, **choice):
    return {"choices": [{"index": 0, "delta": delta, **choice}]}


def call(**part):
    return chunk({"tool_calls": [part]})


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
    ],
)
def test_a_dialect_is_folded_as_it_is_meant(chunks, read, expected):
    """What a server says in its own way means the same as what OpenAI would have said."""
    assert read(streamfold.fold(sse(chunks, done=True), "openai-chat").data) == expected
