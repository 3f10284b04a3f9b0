"""Chat completions: whatever dialect a server speaks, its chunks fold into the response it would have sent whole."""

import copy
import json
import random
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat._completions import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import streamfold
from streamfold.testing import cuts, fold_pieces, sse, stable
from streamfold.types import AccumulatedData
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.openai_chat import OpenAIChat, finish_reason
from streamfold.wire.openai_message import is_complete_json
from streamfold.wire.usage import count, is_consistent, openai_usage, provider_cost

FIXTURES = Path(__file__).parent / "fixtures" / "openai-chat"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.sse"))
FAILED = ("openrouter_error", "vllm_error")
COMPLETE = [name for name in NAMES if name not in (*FAILED, "cut_tool")]


def fixture(name):
    return streamfold.fold((FIXTURES / f"{name}.sse").read_bytes(), format="openai-chat")


def events(name):
    """The decoded frames of a fixture."""
    lines = (FIXTURES / f"{name}.sse").read_text().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def folded(*chunks, name=None):
    """The fold after these decoded chunks."""
    fold = OpenAIChat()
    for chunk in chunks:
        fold.add_decoded(chunk, name)
    assert "accumulator_error" not in fold.anomalies
    return fold


def viewed(response):
    data = AccumulatedData()
    OpenAIChat.view(response, data)
    return data


def delta(fields, finish=None, **choice):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish, **choice}]}


def call(arguments=None, *, name=None, **fields):
    """A delta with one fragment of a tool call."""
    function = {key: item for key, item in (("name", name), ("arguments", arguments)) if item is not None}
    return delta({"tool_calls": [{**fields, "function": function}]})


def message(*chunks):
    return folded(*chunks).response()["choices"][0]["message"]


def calls(*chunks):
    """The tool calls that these chunks make: (id, name, arguments)."""
    data = viewed(folded(*chunks).response())
    return [(each.id, each.function.name, each.function.arguments) for each in data.tool_calls or []]


# ---------------------------------------------------------------------- whole streams


@pytest.mark.parametrize("name", NAMES)
def test_cut_anywhere(name):
    """The record of a stream does not depend on how its bytes were cut."""
    body = (FIXTURES / f"{name}.sse").read_bytes()
    rng = random.Random(name)
    records = [stable(fold_pieces(pieces, "openai-chat")) for pieces in cuts(body, rng, bytewise=8192)]
    assert all(record == records[0] for record in records)


@pytest.mark.parametrize("name", NAMES)
def test_decoded_chunks_give_the_same(name):
    """Chunks that somebody else decoded fold to the same response as the bytes, and are left as they were."""
    chunks = events(name)
    before = copy.deepcopy(chunks)
    assert folded(*chunks).response() == fixture(name).data.response
    assert chunks == before


@pytest.mark.parametrize("name", COMPLETE)
def test_complete_streams_are_openai_completions(name):
    """A complete stream succeeds, and its whole response is one that OpenAI's SDK reads."""
    done = fixture(name)
    assert done.data.status == "success"
    completion = ChatCompletion.model_validate(done.to_response())
    assert completion.object == "chat.completion"
    assert completion.choices[0].finish_reason == done.data.finish_reason
    assert completion.usage.total_tokens == done.data.token_usage.total_tokens


@pytest.mark.parametrize("name", ["text", "two_choices", "tools", "refusal", "logprobs"])
def test_agrees_with_the_sdk(name):
    """On streams of OpenAI itself the response is the one that the SDK's own accumulator makes."""
    state = ChatCompletionStreamState()
    for event in events(name):
        state.handle_chunk(ChatCompletionChunk.model_validate(event))
    theirs = state.current_completion_snapshot.model_dump(mode="json", exclude_unset=True)
    mine = ChatCompletion.model_validate(fixture(name).data.response).model_dump(mode="json", exclude_unset=True)
    assert mine["usage"] == theirs["usage"]
    for my_choice, their_choice in zip(mine["choices"], theirs["choices"], strict=True):
        for key in ("index", "finish_reason"):
            assert my_choice[key] == their_choice[key]
        assert my_choice["logprobs"] == their_choice.get("logprobs")
        assert (my_choice["message"]["content"] or None) == (their_choice["message"].get("content") or None)
        assert (my_choice["message"].get("refusal") or None) == (their_choice["message"].get("refusal") or None)
        wanted = [
            (each["id"], each["function"]["name"], each["function"]["arguments"])
            for each in their_choice["message"].get("tool_calls") or []
        ]
        got = [
            (each["id"], each["function"]["name"], each["function"]["arguments"])
            for each in my_choice["message"].get("tool_calls") or []
        ]
        assert got == wanted


def test_text():
    """An ordinary stream: joined text, one finish reason, the late usage, and none of the padding."""
    done = fixture("text")
    response = done.data.response
    assert list(response)[:3] == ["id", "object", "created"]
    assert response["object"] == "chat.completion"
    assert response["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": 'The lighthouse at Møn stands on chalk 🐚;\n "white" as a tooth\\.',
                "refusal": None,
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert "obfuscation" not in response
    data = done.data
    assert (data.service_tier, data.system_fingerprint) == ("default", "fp_7e2c41d09a")
    assert (data.finish_reason, data.raw_finish_reason) == ("stop", "stop")
    assert (data.token_usage.source, data.token_usage.total_tokens) == ("provider", 38)
    assert (data.integrity.anomalies, data.integrity.end_marker, data.choices) == ([], True, None)


def test_the_tier_that_stands_in_the_usage():
    """Mistral says the service tier beside the counts; what stands at the top is believed before it."""
    counted = {"id": "a", "choices": [], "usage": {"total_tokens": 3, "service_tier": "standard"}}
    for top, tier in ((None, "standard"), ("flex", "flex")):
        events = [{"id": "a", "choices": [{"index": 0, "delta": {"content": "x"}}], "service_tier": top}, counted]
        body = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events)
        assert streamfold.fold(body, format="openai-chat").data.service_tier == tier


def test_choices():
    """With n > 1 every choice has its own text and finish reason, sorted by index."""
    data = fixture("two_choices").data
    said = [(choice.index, choice.message.content, choice.finish_reason) for choice in data.choices]
    assert said == [(0, "Blue sails at dusk", "length"), (1, "Red wine", "stop")]
    assert (data.output_message.content, data.finish_reason) == ("Blue sails at dusk", "length")


def test_cut_off_tool_call():
    """A call that was cut off is kept as it came and flagged; nothing is closed for the model."""
    data = fixture("cut_tool").data
    assert data.status == "truncated"
    assert data.tool_calls[0].function.arguments == '{"line":"all well'
    assert (data.arguments_complete, data.tool_calls[0].arguments_complete) == (False, False)
    assert (data.finish_reason, data.token_usage.source) == (None, "missing")


def test_azure():
    """Azure's empty opening chunk and its late filter chunk add their verdicts and erase nothing."""
    data = fixture("azure_filters").data
    choice = data.response["choices"][0]
    assert (data.response_id, data.response_model) == ("chatcmpl-BhP0azure7QeWnTzLm3", "gpt-4o-2024-11-20")
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Boil the water first.", "stop")
    assert choice["content_filter_results"]["hate"] == {"filtered": False, "severity": "safe"}
    assert data.response["prompt_filter_results"][0]["prompt_index"] == 0


def test_reasoning_content():
    """DeepSeek's reasoning is the message's reasoning, and its cache hits are cached tokens."""
    data = fixture("reasoning_content").data
    assert data.output_message.reasoning == "Nine is three times three."
    assert data.output_message.content == "It is not prime."
    assert data.token_usage.prompt_tokens_details.cached_read_tokens == 16
    assert data.token_usage.completion_tokens_details.reasoning_tokens == 7


def test_openrouter():
    """Reasoning details are joined with the signature last, and the router's own price is the cost."""
    data = fixture("openrouter").data
    assert data.output_message.reasoning == "A gull is not a buoy."
    assert data.output_message.reasoning_details == [
        {
            "type": "reasoning.text",
            "text": "A gull is not a buoy.",
            "format": "anthropic-claude-v1",
            "index": 0,
            "signature": "EqMBCkYIBxgCKkD3",
        }
    ]
    assert data.output_message.annotations[0]["url_citation"]["title"] == "Gulls"
    assert (data.cost.total_cost, data.cost.source, data.cost.complete) == (0.000501, "provider", True)
    assert data.response["provider"] == "Anthropic"


def test_groq():
    """Groq's tools are merged by index, and the usage in its envelope is the usage."""
    data = fixture("groq").data
    assert data.response["choices"][0]["message"]["executed_tools"] == [
        {"index": 0, "type": "search", "arguments": '{"query": "tide Esbjerg"}', "output": "High water 14:20"}
    ]
    assert data.response["x_groq"]["id"] == "req_01k9example7h2"
    assert data.response["usage"]["total_tokens"] == data.token_usage.total_tokens == 204


def test_perplexity():
    """A whole message beside the deltas is not joined to them, cumulative usage is not summed."""
    data = fixture("perplexity").data
    assert data.output_message.content == "Spring tides follow the full moon.[1]"
    assert data.response["citations"] == ["https://example.org/a", "https://example.org/b"]
    assert data.token_usage.total_tokens == 14
    assert data.cost.total_cost == 0.005018


def test_typed_parts():
    """Content in typed parts keeps its order, and reads as text and reasoning."""
    data = fixture("content_parts").data
    assert data.response["choices"][0]["message"]["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Two tides a day."}]},
        {"type": "text", "text": "Twice daily."},
        {"type": "reference", "reference_ids": [3]},
    ]
    assert (data.output_message.content, data.output_message.reasoning) == ("Twice daily.", "Two tides a day.")


def test_the_mark_that_thinking_is_over_is_no_part():
    """A stretch of thinking without a thought begins no part, and does not part the text around it."""
    over = {"type": "thinking", "thinking": []}
    response = folded(delta({"content": "a"}), delta({"content": [over, {"type": "text", "text": "b"}]})).response()
    assert response["choices"][0]["message"]["content"] == [{"type": "text", "text": "ab"}]


def test_audio():
    """Base64 pieces with padding of their own are one audio."""
    audio = fixture("audio").data.output_message.audio
    assert (audio.data, audio.transcript) == ("AAECAwQFBgcICQoLDA0ODxAREhM=", "Land ahoy.")
    assert (audio.id, audio.expires_at) == ("audio_69b7f1c24d", 1762206911)


def test_usage_in_a_choice():
    """Moonshot's usage is found inside the choice, and stands where the unstreamed response has it."""
    data = fixture("usage_in_choice").data
    assert data.token_usage.prompt_tokens_details.cached_read_tokens == 16
    assert data.response["usage"]["total_tokens"] == 22


def test_failures_keep_what_came():
    """An error after HTTP 200 ends the stream as an error; text and usage from before it stay."""
    router, engine = fixture("openrouter_error").data, fixture("vllm_error").data
    assert (router.status, router.output_message.content) == ("error", "Half an answer")
    assert (router.error_details.message, router.error_details.status_code) == ("Provider returned error", 502)
    assert (router.finish_reason, router.raw_finish_reason) == (None, "error")
    assert (engine.status, engine.output_message.content) == ("error", "One,")
    assert (engine.error_details.type, engine.error_details.retryable) == ("InternalServerError", True)
    assert engine.token_usage.total_tokens == 13
    assert engine.response["error"]["message"] == "EngineCore encountered an issue."


# ---------------------------------------------------------------------- tool calls

WHOLE = '{"a":1}'

CALLS = [
    (
        "whole calls, all of index 0",
        [call(WHOLE, name="f", id="x", index=0), call("{}", name="f", id="y", index=0)],
        [("x", "f", WHOLE), ("y", "f", "{}")],
    ),
    ("no index", [call(WHOLE, name="f", id="x"), call("{}", name="g", id="y")], [("x", "f", WHOLE), ("y", "g", "{}")]),
    ("no index, then fragments", [call('{"a"', name="f", id="x"), call(":1}")], [("x", "f", WHOLE)]),
    ("no index, the id again", [call('{"a"', name="f", id="x"), call(":1}", id="x")], [("x", "f", WHOLE)]),
    ("index null", [call('{"a"', name="f", id="x", index=None), call(":1}", index=None)], [("x", "f", WHOLE)]),
    ("index a string", [call('{"a"', name="f", id="x", index="0"), call(":1}", index=0)], [("x", "f", WHOLE)]),
    ("index a float", [call('{"a"', name="f", id="x", index=0.0), call(":1}", index=0)], [("x", "f", WHOLE)]),
    ("index only later", [call('{"a"', name="f", id="x"), call(":1}", index=0)], [("x", "f", WHOLE)]),
    ("neither index nor id", [call(WHOLE, name="f"), call("{}", name="g")], [(None, "f", WHOLE), (None, "g", "{}")]),
    (
        "neither, both in one chunk",
        [delta({"tool_calls": [{"function": {"name": "f"}}, {"function": {"name": "g", "arguments": "{}"}}]})],
        [(None, "f", None), (None, "g", "{}")],
    ),
    (
        "nothing but their places in the chunk",
        [
            delta({"tool_calls": [{"id": "x", "function": {"name": "f"}}, {"id": "y", "function": {"name": "g"}}]}),
            delta({"tool_calls": [{"function": {"arguments": '{"a"'}}, {"function": {"arguments": "{"}}]}),
            delta({"tool_calls": [{"function": {"arguments": ":1}"}}, {"function": {"arguments": "}"}}]}),
        ],
        [("x", "f", WHOLE), ("y", "g", "{}")],
    ),
    ("starts at 1", [call("", name="f", id="x", index=1), call(WHOLE, index=1)], [("x", "f", WHOLE)]),
    (
        "2 before 1",
        [call("{}", name="f", id="x", index=2), call(WHOLE, name="g", id="y", index=1)],
        [("y", "g", WHOLE), ("x", "f", "{}")],
    ),
    (
        "the same index twice in a chunk",
        [
            delta(
                {
                    "tool_calls": [
                        {"index": 0, "id": "x", "function": {"name": "f"}},
                        {"index": 0, "function": {"arguments": WHOLE}},
                    ]
                }
            )
        ],
        [("x", "f", WHOLE)],
    ),
    ("id late", [call('{"a"', name="f", index=0), call(":1}", id="x", index=0)], [("x", "f", WHOLE)]),
    (
        "id changes, no name",
        [call('{"a"', name="f", id="x", index=0), call(":1}", id="z", index=0)],
        [("x", "f", WHOLE)],
    ),
    ("empty id again", [call('{"a"', name="f", id="x", index=0), call(":1}", id="", index=0)], [("x", "f", WHOLE)]),
    (
        "name again and again",
        [call('{"a"', name="f", id="x", index=0), call(":1}", name="f", index=0)],
        [("x", "f", WHOLE)],
    ),
    (
        "name split",
        [call("", name="ge", id="x", index=0), call("", name="t", index=0), call(WHOLE, index=0)],
        [("x", "get", WHOLE)],
    ),
    (
        "another name after the arguments",
        [call('{"a"', name="f", id="x", index=0), call(":1}", name="g", index=0)],
        [("x", "f", WHOLE)],
    ),
    ("empty name again", [call('{"a"', name="f", id="x", index=0), call(":1}", name="", index=0)], [("x", "f", WHOLE)]),
    (
        "arguments null",
        [
            delta({"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": None}}]}),
            call("{}", index=0),
        ],
        [("x", "f", "{}")],
    ),
    (
        "neither id nor other index, but whole",
        [call(WHOLE, name="f", index=0), call('{"b":2}', name="f", index=0)],
        [(None, "f", WHOLE), (None, "f", '{"b":2}')],
    ),
    (
        "empty ids, one index, but whole",
        [call(WHOLE, name="f", id="", index=0), call("{}", name="g", id="", index=0)],
        [("", "f", WHOLE), ("", "g", "{}")],
    ),
    (
        "name again inside an object",
        [call('{"a":', name="f", index=0), call("{}", name="f", index=0), call("}", name="f", index=0)],
        [(None, "f", '{"a":{}}')],
    ),
    (
        "a new id with every fragment",
        [call('{"a"', name="f", id="x", index=0), call(":1}", name="f", id="y", index=0)],
        [("x", "f", WHOLE)],
    ),
    (
        "another call with the same name",
        [call("", name="f", id="x", index=0), call("", name="f", id="y", index=0), call(WHOLE, index=0)],
        [("x", "f", ""), ("y", "f", WHOLE)],
    ),
    ("arguments an object", [call({"a": 1}, name="f", id="x", index=0)], [("x", "f", WHOLE)]),
    ("arguments an empty object", [call({}, name="f", id="x", index=0)], [("x", "f", "{}")]),
    (
        "replayed at the end is not guessed",
        [call(WHOLE, name="f", id="x", index=0), call(WHOLE, id="x", index=0)],
        [("x", "f", WHOLE * 2)],
    ),
    (
        "function null",
        [delta({"tool_calls": [{"index": 0, "id": "x", "function": None}]}), call(WHOLE, name="f", index=0)],
        [("x", "f", WHOLE)],
    ),
    (
        "one call in the place of the list",
        [delta({"tool_calls": {"index": 0, "id": "x", "function": {"name": "f", "arguments": WHOLE}}})],
        [("x", "f", WHOLE)],
    ),
    ("none", [delta({"tool_calls": []}), delta({"tool_calls": None}), delta({"tool_calls": [None, "x"]})], []),
]


@pytest.mark.parametrize(("chunks", "wanted"), [each[1:] for each in CALLS], ids=[each[0] for each in CALLS])
def test_what_names_a_call(chunks, wanted):
    """However a server names its calls, each call gets its own id, name and arguments."""
    assert calls(*chunks) == wanted


DEEP = '{"a":{"b":"}{","c":[1,2]},"query":"x"}'

RESENT = [
    ("by character", [DEEP[:end] for end in range(1, len(DEEP) + 1)], DEEP, True),
    ("by word, the last one twice", [DEEP[:9], DEEP[:20], DEEP, DEEP], DEEP, True),
    ("fragments, and all of it at the end", [*DEEP[:-2], DEEP], DEEP, True),
    ("fragments", list(DEEP), DEEP, False),
    ("an object in an object", ['{"query":', '{"query":"x"}}'], '{"query":{"query":"x"}}', False),
    ("braces in a string", ['{"a":"', "{", '{"b"', '"}'], '{"a":"{{"b""}', False),
    ("the same twice", [WHOLE, WHOLE], WHOLE * 2, False),
    ("no object", ["[1", "[1,2]"], "[1[1,2]", False),
]


@pytest.mark.parametrize(
    ("pieces", "wanted", "resent"), [each[1:] for each in RESENT], ids=[each[0] for each in RESENT]
)
def test_arguments_that_are_all_so_far(pieces, wanted, resent):
    """Deltas that bring all the arguments so far replace them, where nothing else can be; also in equal frames."""
    chunks = [call("", name="f", id="x", index=0), *[call(piece, index=0) for piece in pieces[:-1]]]
    chunks.append(call(pieces[-1], index=0, id=None))
    frames = OpenAIChat()
    frames.add_all([msgspec.json.encode(chunk) for chunk in chunks], None)
    for fold in (folded(*chunks), frames):
        assert viewed(fold.response()).tool_calls[0].function.arguments == wanted
        assert ("resent_arguments" in fold.anomalies) is resent


def test_tool_calls_of_an_unstreamed_response_have_no_index():
    """The native calls are those of an unstreamed response: no index, and only the fields that were sent."""
    said = message(call("", name="f", id="x", index=0, type="function"), call("{}", index=0))
    assert said["tool_calls"] == [{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def test_nameless_call():
    """A call that never got a name is kept as it came and flagged, and so are the arguments that it tore apart."""
    fold = folded(call('{"a":1', name="f", id="x", index=0), call("}", index=1))
    assert "nameless_tool_call" in fold.anomalies
    data = viewed(fold.response())
    assert [each.function.arguments for each in data.tool_calls] == ['{"a":1', "}"]
    assert [each.arguments_complete for each in data.tool_calls] == [False, False]


def test_a_name_may_come_late():
    """A snapshot that finds a call without its name does not hold it against the finished stream."""
    fold = folded(call("", id="x", index=0))
    assert fold.anomalies == ["nameless_tool_call"]
    fold.add_decoded(call("{}", name="f", index=0))
    assert fold.anomalies == []


def test_custom_tools_and_function_calls():
    """Custom tools grow by their input, and the older `function_call` like a function."""
    custom = message(
        delta({"tool_calls": [{"index": 0, "id": "x", "type": "custom", "custom": {"name": "sql", "input": "sel"}}]}),
        delta({"tool_calls": [{"index": 0, "custom": {"input": "ect 1"}}]}),
    )
    assert custom["tool_calls"][0]["custom"] == {"name": "sql", "input": "select 1"}
    older = [
        delta({"function_call": {"name": "f", "arguments": '{"a"'}}),
        delta({"function_call": {"arguments": ":1}"}}),
    ]
    assert message(*older)["function_call"] == {"name": "f", "arguments": WHOLE}
    assert viewed(folded(*older).response()).output_message.function_call.name == "f"


def test_extra_content_of_a_call():
    """A signature beside a call is kept: fragments are joined, repeats of the whole are not."""

    def signed(text):
        return call(id="x", index=0, extra_content={"google": {"thought_signature": text}})

    assert message(signed("ab"), signed("cd"))["tool_calls"][0]["extra_content"] == {
        "google": {"thought_signature": "abcd"}
    }
    assert message(signed("ab"), signed("ab"))["tool_calls"][0]["extra_content"] == {
        "google": {"thought_signature": "ab"}
    }


@pytest.mark.parametrize(
    ("arguments", "complete"),
    [
        (None, True),
        ("", True),
        ("{}", True),
        ("null", True),
        ("{", False),
        ("{}{}", False),
        ("}", False),
        ("[" * 5000, False),
    ],
)
def test_is_complete_json(arguments, complete):
    """Arguments are complete when they are one JSON document, or nothing at all."""
    assert is_complete_json(arguments) is complete


# ---------------------------------------------------------------------- messages

MESSAGES = [
    ("nulls only", [{"role": "assistant", "content": None}, {"content": None}], {"role": "assistant", "content": None}),
    (
        "role again and again",
        [{"role": "assistant", "content": "a"}, {"role": "assistant"}],
        {"role": "assistant", "content": "a"},
    ),
    ("role late", [{"role": "", "content": "a"}, {"role": "assistant"}], {"role": "assistant", "content": "a"}),
    ("both reasonings", [{"reasoning": "x", "reasoning_content": "x"}], {"reasoning": "x", "reasoning_content": "x"}),
    ("reasoning in an object", [{"reasoning": {"content": "x"}}, {"reasoning": {"text": "y"}}], {"reasoning": "xy"}),
    (
        "reasoning and content in a chunk",
        [{"reasoning_content": "x", "content": "a"}],
        {"reasoning_content": "x", "content": "a"},
    ),
    ("inline thinking stays", [{"content": "<thi"}, {"content": "nk>x</think>y"}], {"content": "<think>x</think>y"}),
    ("half a character a chunk", [{"content": "\ud83d"}, {"content": "\udea2"}], {"content": "\ud83d\udea2"}),
    (
        "parts after text",
        [{"content": "a"}, {"content": [{"type": "text", "text": "b"}]}, {"content": "c"}],
        {"content": [{"type": "text", "text": "abc"}]},
    ),
    (
        "a part in the place of the list",
        [{"content": {"type": "text", "text": "a"}}],
        {"content": [{"type": "text", "text": "a"}]},
    ),
    (
        "Databricks' reasoning",
        [
            {
                "content": [
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Tide", "signature": ""}]}
                ]
            },
            {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "s?", "signature": ""}]}]},
            {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "", "signature": "Ux"}]}]},
            {"content": [{"type": "text", "text": "Lo"}]},
            {"content": [{"type": "text", "text": "w."}]},
        ],
        {
            "content": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Tides?", "signature": "Ux"}]},
                {"type": "text", "text": "Low."},
            ]
        },
    ),
    (
        "reasoning parts without a list",
        [{"content": [{"type": "reasoning", "summary": "a"}]}, {"content": [{"type": "reasoning", "summary": "b"}]}],
        {"content": [{"type": "reasoning", "summary": "a"}, {"type": "reasoning", "summary": "b"}]},
    ),
    (
        "Snowflake's three copies",
        [{"content": each, "content_list": [{"type": "text", "text": each}], "text": each} for each in ("An", "swer")],
        {"content": "Answer", "content_list": [{"type": "text", "text": "Answer"}], "text": "Answer"},
    ),
    (
        "Snowflake's tool calls",
        [
            {"type": "text", "content": "Lo", "content_list": [{"type": "text", "text": "Lo"}]},
            {"type": "tool_use", "tool_use_id": "a", "content_list": [{"tool_use_id": "a", "name": "f"}]},
            {"type": "tool_use", "input": '{"a"', "content_list": [{"input": '{"a"'}]},
            {"type": "tool_use", "input": ": 1}", "content_list": [{"input": ": 1}"}]},
            {"type": "tool_use", "tool_use_id": "b", "name": "g"},
            {"type": "tool_use", "input": '{"b"'},
        ],
        {
            "content": "Lo",
            "content_list": [
                {"type": "text", "text": "Lo"},
                {"type": "tool_use", "tool_use": {"tool_use_id": "a", "name": "f", "input": {"a": 1}}},
                {"type": "tool_use", "tool_use": {"tool_use_id": "b", "name": "g", "input": '{"b"'}},
            ],
        },
    ),
    ("an empty list is no part", [{"content": "a"}, {"content": []}], {"content": "a"}),
    (
        "details by type",
        [
            {"reasoning_details": [{"type": "reasoning.summary", "summary": "A", "index": 0}]},
            {"reasoning_details": [{"type": "reasoning.summary", "summary": "B", "index": 0}]},
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "ZW5j", "index": 0}]},
        ],
        {
            "reasoning_details": [
                {"type": "reasoning.summary", "summary": "AB", "index": 0},
                {"type": "reasoning.encrypted", "data": "ZW5j", "index": 0},
            ]
        },
    ),
    (
        "a signature ends a thought",
        [
            {"thinking_blocks": [{"type": "thinking", "thinking": "a", "signature": None}]},
            {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]},
            {"thinking_blocks": [{"type": "thinking", "thinking": "b"}]},
        ],
        {
            "thinking_blocks": [
                {"type": "thinking", "thinking": "a", "signature": "s"},
                {"type": "thinking", "thinking": "b"},
            ]
        },
    ),
    (
        "thoughts that are not shown",
        [{"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": each}]} for each in ("s", "t", "t")],
        {
            "thinking_blocks": [
                {"type": "thinking", "thinking": "", "signature": "s"},
                {"type": "thinking", "thinking": "", "signature": "t"},
            ]
        },
    ),
    (
        "redacted thoughts",
        [{"thinking_blocks": [{"type": "redacted_thinking", "data": each}]} for each in ("eA", "eB", "eB")],
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "eA"}, {"type": "redacted_thinking", "data": "eB"}]},
    ),
    (
        "LiteLLM's second copies",
        [
            {"provider_specific_fields": {"refusal": None, "thinking_blocks": [{"type": "thinking", **each}]}}
            for each in ({"thinking": "Ti"}, {"thinking": "des?"}, {"thinking": "", "signature": "s"})
        ],
        {
            "provider_specific_fields": {
                "refusal": None,
                "thinking_blocks": [{"type": "thinking", "thinking": "Tides?", "signature": "s"}],
            }
        },
    ),
    (
        "LiteLLM's lists",
        [
            {"provider_specific_fields": {"citation": {"cited_text": "a"}, "thought_signatures": ["s"], "x": 1}},
            {"provider_specific_fields": {"citation": {"cited_text": "b"}, "thought_signatures": ["t"], "x": 2}},
        ],
        {
            "provider_specific_fields": {
                "citation": [{"cited_text": "a"}, {"cited_text": "b"}],
                "thought_signatures": ["s", "t"],
                "x": 2,
            }
        },
    ),
    (
        "Portkey's blocks",
        [
            {"content_blocks": [{"index": 0, "delta": {"thinking": "", "signature": ""}}]},
            {"content_blocks": [{"index": 0, "delta": {"thinking": "Ti"}}]},
            {"content_blocks": [{"index": 0, "delta": {"thinking": "des?"}}]},
            {"content_blocks": [{"index": 0, "delta": {"signature": "Ux"}}]},
            {"content_blocks": [{"index": 1, "delta": {"data": "eA"}}]},
            {"content": "", "content_blocks": [{"index": 2, "delta": {"text": "", "citations": []}}]},
            {"content": "Lo", "content_blocks": [{"index": 2, "delta": {"text": "Lo"}}]},
            {"content": "w.", "content_blocks": [{"index": 2, "delta": {"text": "w."}}]},
            {"content_blocks": [{"index": 2, "delta": {"citation": {"cited_text": "low"}}}]},
            {"content_blocks": [{"index": 3, "delta": {}}]},
        ],
        {
            "content_blocks": [
                {"type": "thinking", "thinking": "Tides?", "signature": "Ux"},
                {"type": "redacted_thinking", "data": "eA"},
                {"type": "text", "text": "Low.", "citations": [{"cited_text": "low"}]},
            ],
            "content": "Low.",
        },
    ),
    (
        "blocks that are no deltas",
        [{"content_blocks": [{"type": "text", "text": "a"}]}, {"content_blocks": [{"type": "text", "text": "ab"}]}],
        {"content_blocks": [{"type": "text", "text": "ab"}]},
    ),
    (
        "TensorZero's extra content",
        [
            {"tensorzero_extra_content": [{"type": "thought", "insert_index": 0, "id": "0", **each}]}
            for each in (
                {"summary_id": "0", "summary_text": "Ti"},
                {"summary_id": "0", "summary_text": "des"},
                {"summary_id": "1", "summary_text": "Sea"},
                {"text": "Low?"},
                {"text": "", "signature": "s"},
            )
        ]
        + [{"tensorzero_extra_content": [{"type": "unknown", "insert_index": 2, "data": {"a": 1}}]}],
        {
            "tensorzero_extra_content": [
                {
                    "type": "thought",
                    "insert_index": 0,
                    "summary": [{"type": "summary_text", "text": "Tides"}, {"type": "summary_text", "text": "Sea"}],
                    "text": "Low?",
                    "signature": "s",
                },
                {"type": "unknown", "insert_index": 2, "data": {"a": 1}},
            ]
        },
    ),
    (
        "a signature beside the reasoning",
        [
            {"reasoning_content": {"text": "Ti"}},
            {"reasoning_content": {"text": "des?", "signature": ""}},
            {"reasoning_content": {"text": "", "signature": "s"}},
        ],
        {"reasoning_content": {"text": "Tides?", "signature": "s"}},
    ),
    (
        "reasoning by other names",
        [
            {"thinking_content": "a", "thoughts": "c", "reasoning_summary": "e", "cot_summary": "g"},
            {"thinking_content": "b", "thoughts": "d", "reasoning_summary": "f", "cot_summary": "h"},
        ],
        {"thinking_content": "ab", "thoughts": "cd", "reasoning_summary": "ef", "cot_summary": "gh"},
    ),
    (
        "Gemini's marks on a message",
        [
            {"content": "a", "extra_content": {"google": {"thought": True}}},
            {"content": "b", "extra_content": {"google": {"thought_signature": "s"}}},
        ],
        {"content": "ab", "extra_content": {"google": {"thought": True, "thought_signature": "s"}}},
    ),
    (
        "citations of a delta",
        [{"citations": [{"u": 1}]}, {"citations": [{"u": 2}]}, {"citations": [{"u": 2}]}],
        {"citations": [{"u": 1}, {"u": 2}]},
    ),
    ("sound in hexadecimal", [{"audio_content": "4944"}, {"audio_content": "33"}], {"audio_content": "494433"}),
    (
        "arguments that are an object",
        [{"function_call": {"name": "f", "arguments": {"a": 1}}}],
        {"function_call": {"name": "f", "arguments": {"a": 1}}},
    ),
    (
        "an object, then text",
        [{"function_call": {"name": "f", "arguments": {"a": 1}}}, {"function_call": {"arguments": " "}}],
        {"function_call": {"name": "f", "arguments": '{"a":1} '}},
    ),
    (
        "annotations again",
        [{"annotations": [{"u": 1}]}, {"annotations": [{"u": 1}, {"u": 2}]}],
        {"annotations": [{"u": 1}, {"u": 2}]},
    ),
    (
        "images",
        [
            {"images": [{"image_url": {"url": "data:,a"}, "index": 0}]},
            {"images": [{"image_url": {"url": "data:,b"}, "index": 1}]},
        ],
        {"images": [{"image_url": {"url": "data:,a"}, "index": 0}, {"image_url": {"url": "data:,b"}, "index": 1}]},
    ),
    ("unknown fields", [{"x": 1, "y": {"a": 1}}, {"x": 2, "y": None}], {"x": 2, "y": {"a": 1}}),
    ("token ids of a token", [{"content": "a", "token_id": 1}, {"content": "b", "token_id": 2}], {"content": "ab"}),
    ("nothing", [{}], {}),
    ("null", [None], {}),
]


@pytest.mark.parametrize(("deltas", "whole"), [each[1:] for each in MESSAGES], ids=[each[0] for each in MESSAGES])
def test_messages(deltas, whole):
    """Deltas make this message; what was null stays null and what was not sent stays away."""
    assert message(*[delta(fields) for fields in deltas]) == whole


def test_reasoning_is_said_once():
    """Two spellings of one reasoning are one, and reasoning told only in details is read from there."""
    twice = message(delta({"reasoning": "Th", "reasoning_content": "Th"}))
    assert viewed({"choices": [{"message": twice}]}).output_message.reasoning == "Th"
    details = {
        "reasoning_details": [{"type": "reasoning.text", "text": "Th"}, {"type": "reasoning.encrypted", "data": "x"}]
    }
    assert viewed({"choices": [{"message": details}]}).output_message.reasoning == "Th"
    part = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Th"}]}
    parts = viewed({"choices": [{"message": {"content": [part, {"type": "text", "text": "a"}]}}]}).output_message
    assert (parts.reasoning, parts.content) == ("Th", "a")


@pytest.mark.parametrize(
    "told",
    [
        {"content_blocks": [{"type": "thinking", "thinking": "Th"}, {"type": "text", "text": "a"}]},
        {"tensorzero_extra_content": [{"type": "thought", "insert_index": 0, "text": "Th"}]},
        {"reasoning_content": {"text": "Th", "signature": "s"}},
        {"thinking_content": "Th"},
        {"cot_summary": "Th"},
    ],
    ids=lambda told: next(iter(told)),
)
def test_reasoning_is_found_wherever_it_is_told(told):
    """The record says the reasoning, and no other text, however a server names or wraps it."""
    assert viewed({"choices": [{"message": told}]}).output_message.reasoning == "Th"


def test_calls_in_a_content_list_are_read():
    """Snowflake lists a tool call among the parts of the content; the record has it like any other."""
    part = {"type": "tool_use", "tool_use": {"tool_use_id": "x", "name": "f", "input": {"a": 1}}}
    (found,) = viewed({"choices": [{"message": {"content_list": [{"type": "text"}, part]}}]}).tool_calls
    assert (found.id, found.function.name, found.function.arguments) == ("x", "f", WHOLE)
    assert found.arguments_complete


def test_an_argument_object_is_read_as_text():
    """What a server sends as an object is one unstreamed too (GigaChat); the record has its text."""
    response = folded(delta({"function_call": {"name": "f", "arguments": {"a": 1}}}, "function_call")).response()
    assert viewed(response).output_message.function_call.arguments == WHOLE
    assert calls(call({"a": 1}, id="x", name="f")) == [("x", "f", WHOLE)]


def test_logprobs():
    """Logprobs are appended, repeats included, also of chunks without text."""
    entry = {"token": "A", "logprob": -1}
    response = folded(
        delta({"role": "assistant"}, logprobs=None),
        delta({"content": "A"}, logprobs={"content": [entry], "refusal": None}),
        delta({"content": "A"}, logprobs={"content": [entry]}),
        delta({}, logprobs={"content": None, "refusal": [entry]}),
    ).response()
    assert response["choices"][0]["logprobs"] == {"content": [entry, entry], "refusal": [entry]}
    assert viewed(response).logprobs["refusal"] == [entry]


@pytest.mark.parametrize("key", ["reasoning_content", "token_ids", "tokens", "token_logprobs"])
def test_logprobs_of_other_servers(key):
    """DeepSeek's logprobs of the reasoning, and Together's arrays, are appended too."""
    response = folded(*[delta({"content": "a"}, logprobs={"content": None, key: [each]}) for each in (1, 2)]).response()
    assert response["choices"][0]["logprobs"][key] == [1, 2]


LONE_LOGPROBS = {
    "Together": (
        [
            delta({"role": "assistant", "content": "Sea", "token_id": 71}, text="Sea", logprobs=-0.25),
            delta({"content": "ls", "token_id": 9}, text="ls", logprobs=0),
            delta({"content": "ls", "token_id": 9}, text="ls", logprobs=0),
            delta({"content": "", "token_id": 2}, "eos", text="", logprobs=-1.5),
        ],
        {"token_ids": [71, 9, 9, 2], "tokens": ["Sea", "ls", "ls", ""], "token_logprobs": [-0.25, 0, 0, -1.5]},
    ),
    "of reasoning": ([delta({"reasoning": "Hm"}, logprobs=-1)], {"tokens": ["Hm"], "token_logprobs": [-1]}),
    "of no token": ([delta({"role": "assistant"}, logprobs=0), delta({}, "stop", logprobs=0)], None),
    "lists, then a number": (
        [
            delta({"content": "a"}, logprobs={"tokens": ["a"], "token_logprobs": [-1]}),
            delta({"content": "b"}, logprobs=0),
        ],
        {"tokens": ["a", "b"], "token_logprobs": [-1, 0]},
    ),
}


@pytest.mark.parametrize(("chunks", "whole"), LONE_LOGPROBS.values(), ids=LONE_LOGPROBS)
def test_a_bare_logprob_is_that_of_its_token(chunks, whole):
    """A number in the place of logprobs belongs to the token of its delta; the whole has the unstreamed lists."""
    assert folded(*chunks).response()["choices"][0]["logprobs"] == whole
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    data = streamfold.fold(body + b"data: [DONE]\n\n", format="openai-chat").data
    assert data.logprobs == whole


def test_the_newest_token_is_none_of_the_response():
    """The token that Together puts beside the choices is of one chunk, and an unstreamed response has none."""
    chunks = [{**delta({"content": each}), "token": {"id": 5, "text": each, "logprob": -1}} for each in "ab"]
    assert "token" not in folded(*chunks).response()


def test_message_in_the_place_of_deltas():
    """Whole messages that grow are taken at their last; fragments that a server calls messages are joined."""

    def whole(text):
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}

    assert message(whole("He"), whole("Hello"))["content"] == "Hello"
    assert message(whole("Hel"), whole("lo"))["content"] == "Hello"
    assert message(delta({"content": "Hello"}), whole("Hello"))["content"] == "Hello"
    assert message(delta({"content": "Hi"}), {"choices": [{"message": {"content": "Hi", "audio": {"id": "a"}}}]}) == {
        "content": "Hi",
        "audio": {"id": "a"},
    }


def test_text_beside_or_instead_of_a_delta():
    """Together's copy of the text is dropped beside a delta, and read where there is no delta."""
    beside = folded(delta({"content": "a"}, text="a"), delta({"content": "b"}, text="b")).response()["choices"][0]
    assert "text" not in beside
    alone = folded({"choices": [{"index": 0, "text": "a"}]}, {"choices": [{"index": 0, "text": "b"}]}).response()
    assert viewed(alone).output_message.content == "ab"


# ---------------------------------------------------------------------- choices and the envelope


@pytest.mark.parametrize(
    "choices",
    [None, [], {}, "x", 7, [None], ["x"], [[]]],
)
def test_chunks_without_choices(choices):
    """A chunk whose choices are missing, empty or nonsense is neither an end nor an error."""
    fold = folded(delta({"content": "a"}), {"choices": choices, "usage": {"total_tokens": 3}}, delta({"content": "b"}))
    assert fold.response()["choices"][0]["message"]["content"] == "ab"
    assert fold.response()["usage"] == {"total_tokens": 3}
    assert (fold.ended, fold.error, fold.anomalies) == (False, None, [])


def test_choices_by_any_name():
    """A choice is named by its index in any spelling, and by its place where it has none."""
    for index in (1, 1.0, "1"):
        response = folded(
            {"choices": [{"index": index, "delta": {"content": "b"}, "finish_reason": "stop"}]}
        ).response()
        assert response["choices"] == [{"index": 1, "message": {"content": "b"}, "finish_reason": "stop"}]
    both = folded({"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}).response()
    assert [(each["index"], each["message"]["content"]) for each in both["choices"]] == [(0, "a"), (1, "b")]
    assert folded({"choices": {"index": 0, "delta": {"content": "a"}}}).response()["choices"][0]["index"] == 0


@pytest.mark.parametrize(
    ("finishes", "wanted"),
    [
        (["", "", "stop"], "stop"),
        ([None, "length", None], "length"),
        (["stop", "stop"], "stop"),
        (["stop", ""], "stop"),
        (["null", "null", "stop"], "stop"),
        (["null"], None),
        ([None], None),
        ([""], ""),
    ],
)
def test_finish_reasons(finishes, wanted):
    """The last finish reason that says anything stays; none is made up."""
    fold = folded(*[delta({"content": "a"}, finish) for finish in finishes])
    assert fold.response()["choices"][0]["finish_reason"] == wanted
    assert viewed(fold.response()).raw_finish_reason == (wanted or None)
    assert fold.finished == bool(wanted)


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("max_tokens", "length"),
        ("eos", "stop"),
        ("sensitive", "content_filter"),
        ("tool_use", "tool_calls"),
        ("tool_call", "tool_calls"),
        ("tool-calls", "tool_calls"),
        ("content-filter", "content_filter"),
        ("COMPLETE", "stop"),
        ("max_output_tokens", "length"),
        ("RECITATION", "content_filter"),
        ("guardrail_intervened", "content_filter"),
        ("error", None),
        ("insufficient_system_resource", None),
        ("", None),
        (None, None),
    ],
)
def test_finish_words(raw, word):
    """Other servers' words have OpenAI's counterpart, or none."""
    assert finish_reason(raw) == word


def test_each_choice_ends_for_itself():
    """A choice that goes on after another has finished is no anomaly."""
    fold = folded(
        {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]},
        {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": None}]},
        {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]},
    )
    assert [each["finish_reason"] for each in fold.response()["choices"]] == ["stop", "length"]
    assert fold.anomalies == []


def test_envelope():
    """Of id, model and creation time the first non-empty value stays, of the rest the last one."""
    fold = folded(
        {"id": "", "object": "", "created": 0, "model": "", "choices": [], "system_fingerprint": None, "provider": "P"},
        {"id": "a", "object": "chat.completion.chunk", "created": 5, "model": "m", "service_tier": None, **delta({})},
        {"id": "a", "created": 6, "system_fingerprint": "fp", "service_tier": "flex", "citations": ["u"]},
        {"id": "", "system_fingerprint": "", "service_tier": None, "citations": [], "sequence_number": 3},
    )
    assert fold.response() == {
        "id": "a",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [{"index": 0, "message": {}, "finish_reason": None}],
        "system_fingerprint": "fp",
        "provider": "P",
        "service_tier": "flex",
        "citations": ["u"],
    }
    assert fold.anomalies == []


ANOMALIES = [
    ("id_changed", [{"id": "a"}, {"id": "b"}]),
    ("model_changed", [{"model": "a"}, {"model": "b"}]),
    ("content_after_finish", [delta({"content": "a"}, "stop"), delta({"content": "b"})]),
    ("terminal_delta_equals_accumulated", [delta({"content": "ab"}), delta({"content": "ab"}, "stop")]),
    (
        "terminal_delta_equals_accumulated",
        [
            call(WHOLE, name="f", id="x", index=0),
            {"choices": [{**call(WHOLE, index=0)["choices"][0], "finish_reason": "stop"}]},
        ],
    ),
    ("nameless_tool_call", [call("}", index=1)]),
    ("usage_inconsistent", [{"usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 11}}]),
]


@pytest.mark.parametrize(("code", "chunks"), ANOMALIES)
def test_anomalies(code, chunks):
    """What a server does against its format is flagged, and folded as the format says."""
    assert folded(*chunks).anomalies == [code]


def test_replays_are_told_from_ordinary_ends():
    """A last delta that happens to be short, or differs, is no replay."""
    assert folded(delta({"content": "a"}), delta({"content": "a"}, "stop")).anomalies == []
    assert folded(delta({"content": "ab"}), delta({"content": "ba"}, "stop")).anomalies == []


def test_perplexity_concise():
    """Perplexity's concise mode names its chunks after what they bring; its steps are joined, and its end is one."""

    def chunk(kind, delta, finish=None, message=None, **top):
        choice = {"index": 0, "finish_reason": finish, "message": message or {"content": ""}, "delta": delta}
        return {"id": "p", "object": kind, "model": "sonar-pro", "choices": [choice], **top}

    steps = [{"type": "web_search", "thought": "When is low tide?"}, {"type": "fetch_url_content", "thought": "Read."}]
    chunks = [
        chunk("chat.reasoning", {"role": "assistant", "content": "", "reasoning_steps": steps[:1]}),
        chunk("chat.reasoning", {"content": "", "reasoning_steps": steps[1:]}),
        chunk("chat.reasoning.done", {"content": ""}, message={"content": "", "reasoning_steps": steps}),
        chunk("chat.completion.chunk", {"content": "At "}),
        chunk("chat.completion.chunk", {"content": "six."}),
        chunk("chat.completion.done", {"content": ""}, "stop", {"content": "At six.", "reasoning_steps": steps}),
    ]
    assert OpenAIChat.recognises(chunks[0], None)
    assert not folded(*chunks[:-1]).ended
    fold = folded(*chunks)
    assert (fold.ended, fold.anomalies) == (True, [])
    assert fold.response()["object"] == "chat.completion"
    assert fold.response()["choices"][0] == {
        "index": 0,
        "message": {"content": "At six.", "role": "assistant", "reasoning_steps": steps},
        "finish_reason": "stop",
    }


def test_moderation_comes_in_two():
    """What was found in the input and what was found in the output stand side by side."""
    told = [{"moderation": {side: {"type": "moderation_results", "results": []}}} for side in ("input", "output")]
    assert folded(*told).response()["moderation"].keys() == {"input", "output"}


def test_a_quoted_end_is_an_end():
    """A proxy that encodes every payload encodes the end marker too."""
    fold = folded(delta({"content": "a"}, "stop"))
    fold.add(b'"[DONE]"')
    assert (fold.ended, fold.malformed) == (True, 0)


def test_chunks_encoded_twice():
    """A proxy that encodes what is JSON already sends chunks as strings; another string is no chunk."""
    fold = OpenAIChat()
    for text in ("Lo", "w."):
        fold.add(msgspec.json.encode(json.dumps(delta({"content": text}))))
    assert fold.response()["choices"][0]["message"] == {"content": "Low."}
    fold.add(b'"{"')
    assert (fold.chunks, fold.malformed, fold.anomalies) == (2, 1, ["unexpected_json"])


def test_whole_responses():
    """A whole response in the place of chunks ends the stream; a chunk that only claims to be whole does not."""
    whole = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}],
    }
    assert folded(whole).ended
    assert folded(whole).response() == whole
    assert not folded({"object": "chat.completion", **delta({"content": "a"})}).ended
    assert not folded({"object": "chat.completion", "choices": []}).ended


# ---------------------------------------------------------------------- usage

TOTALS = [
    ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, (1, 2, 3, "provider")),
    ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (0, 0, 0, "provider")),
    ({"prompt_tokens": 9, "completion_tokens": 2}, (9, 2, 11, "derived")),
    ({"prompt_tokens": 9}, (9, None, None, "provider")),
    (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 45,
            "completion_tokens_details": {"reasoning_tokens": 30},
        },
        (10, 35, 45, "provider"),
    ),
    (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        (10, 5, 15, "provider"),
    ),
    (
        {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 30}},
        (10, 35, 45, "derived"),
    ),
    (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 115,
            "cache_read_input_tokens": 80,
            "cache_creation_input_tokens": 20,
        },
        (110, 5, 115, "provider"),
    ),
    (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 95,
            "prompt_tokens_details": {"cached_tokens": 80},
        },
        (90, 5, 95, "provider"),
    ),
    ({"prompt_tokens": -1, "completion_tokens": float("nan"), "total_tokens": 10**40}, (None, None, None, "missing")),
    ({"prompt_tokens": "12", "completion_tokens": 3.0, "total_tokens": True}, (12, 3, 15, "derived")),
    (
        {"prompt_tokens": None, "prompt_tokens_details": None, "completion_tokens_details": []},
        (None, None, None, "missing"),
    ),
    ({}, (None, None, None, "missing")),
    (None, (None, None, None, "missing")),
    ([1], (None, None, None, "missing")),
]


@pytest.mark.parametrize(("said", "totals"), TOTALS)
def test_usage(said, totals):
    """Totals are the provider's where it gave them, derived where it gave their parts, and never made up."""
    usage = openai_usage(said)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.source) == totals
    assert is_consistent(said)


@pytest.mark.parametrize(
    ("usage", "cached"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 7}}, 7),
        ({"prompt_cache_hit_tokens": 7, "prompt_cache_miss_tokens": 1}, 7),
        ({"cached_tokens": 7}, 7),
        ({"num_cached_tokens": 7}, 7),
        ({"prompt_tokens_details": {"cached_tokens": 0}, "prompt_cache_hit_tokens": 7}, 0),
        ({"prompt_tokens": 9, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 2}, 7),
    ],
)
def test_cached_tokens(usage, cached):
    """Cache reads are found under every name they go by; an explicit 0 counts."""
    assert openai_usage(usage).prompt_tokens_details.cached_read_tokens == cached


@pytest.mark.parametrize(
    ("usage", "written"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 7}}, 7),
        ({"prompt_tokens": 9, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 7}, 7),
        (
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 1}, "cache_creation_input_tokens": 7},
            7,
        ),
        (
            {
                "prompt_tokens": 2,
                "completion_tokens": 1,
                "total_tokens": 13,
                "cache_read_input_tokens": 3,
                "cache_creation_input_tokens": 7,
            },
            7,
        ),
        # Anthropic's own convention, in which the prompt tokens do not hold these.
        ({"prompt_tokens": 9, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 7}, None),
        ({"input_tokens": 9, "cache_creation_input_tokens": 7}, None),
    ],
)
def test_written_tokens(usage, written):
    """Cache writes go by Anthropic's names too, and are only taken where the prompt tokens hold them."""
    details = openai_usage(usage).prompt_tokens_details
    assert (details.cached_write_tokens if details is not None else None) == written


def test_usage_is_laid_over_usage():
    """Later usage completes earlier usage: not summed, and what it leaves out or nulls is kept."""
    first = {
        "prompt_tokens": 100,
        "completion_tokens": 1,
        "total_tokens": 101,
        "prompt_tokens_details": {"cached_tokens": 80},
    }
    last = {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102, "prompt_tokens_details": None}
    response = folded({"usage": None}, {"usage": first}, {"usage": last}, {"usage": None}).response()
    assert response["usage"] == {**last, "prompt_tokens_details": {"cached_tokens": 80}}


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        (0, 0),
        (5, 5),
        (5.0, 5),
        ("5", 5),
        (-1, None),
        (True, None),
        (None, None),
        ("", None),
        ("x", None),
        ("²", None),
        (float("inf"), None),
        (float("nan"), None),
        (10**30, None),
        ("9" * 5000, None),
        ([5], None),
    ],
)
def test_count(value, tokens):
    """A count of tokens is a whole number that is not negative."""
    assert count(value) == tokens


def test_provider_cost():
    """A price that the provider names is the cost; with a key of one's own it is only part of it."""
    assert provider_cost({"cost": 0}).total_cost == 0
    assert not provider_cost({"cost": 0.1, "is_byok": True}).complete
    assert provider_cost({"cost": {"total_cost": 0.5}}).total_cost == 0.5
    assert provider_cost({"cost": {"usd": 0.5, "diem": 0}}).total_cost == 0.5
    for nothing in (None, {}, {"cost": None}, {"cost": "x"}, {"cost": True}, {"cost": float("nan")}, {"cost": {}}):
        assert provider_cost(nothing) is None


@pytest.mark.parametrize(
    ("said", "dollars"),
    [({"usd": 0.25, "diem": 0}, 0.25), ({"diem": 3}, None), ("0.25", None), (0.25, None), (None, None)],
)
def test_cost_beside_the_usage(said, dollars):
    """Venice names its price at the top, once for each currency: dollars are the cost, and no other number is."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    last = {"choices": [], "usage": usage, "cost": said}
    response = folded(delta({"content": "a"}), delta({}, "stop"), last).response()
    assert response["cost"] == said
    cost = viewed(response).cost
    assert (cost.total_cost if cost else None) == dollars


# ---------------------------------------------------------------------- errors

ERRORS = [
    (
        "an object",
        {"error": {"message": "m", "type": "server_error", "code": None}},
        None,
        ("server_error", None, "m", 500),
    ),
    ("a text", {"error": "m"}, None, (None, None, "m", None)),
    ("with a status", {"error": {"message": "m", "code": 429}}, None, (None, "429", "m", 429)),
    ("inside an error", {"error": {"error": {"message": "m"}}}, None, (None, None, "m", None)),
    ("vLLM", {"object": "error", "message": "m", "type": "Bad", "code": 400}, None, ("Bad", "400", "m", 400)),
    (
        "a message in an object",
        {"object": "error", "message": {"detail": "m"}},
        None,
        (None, None, '{"detail":"m"}', None),
    ),
    ("FastAPI", {"detail": "m"}, None, (None, None, "m", None)),
    ("FastAPI, a list", {"detail": [{"msg": "m"}]}, None, (None, None, '[{"msg":"m"}]', None)),
    ("bare", {"message": "m", "code": "Throttled", "request_id": "r"}, None, (None, "Throttled", "m", None)),
    ("SiliconFlow", {"code": 20012, "message": "m", "data": None}, None, (None, "20012", "m", None)),
    ("Zhipu", {"code": 401, "msg": "m", "success": False}, None, (None, "401", "m", 401)),
    ("Spark", {"code": 11200, "message": "m", "sid": "s"}, None, (None, "11200", "m", None)),
    ("an event's name", {"reason": "m"}, "error", (None, None, None, None)),
    ("in a choice", delta({}, error={"message": "m", "code": 502}), None, (None, "502", "m", 502)),
    ("in Groq's envelope", {**delta({}), "x_groq": {"error": "m"}}, None, (None, None, "m", None)),
    ("a finish reason", delta({}, "error", native_finish_reason="MALFORMED"), None, ("error", "MALFORMED", None, None)),
    ("only a finish reason", delta({}, "error"), None, ("error", None, None, None)),
    ("Zhipu's finish reason", delta({}, "network_error"), None, ("error", "network_error", None, None)),
    ("vLLM's finish reason", delta({}, "abort"), None, ("error", "abort", None, None)),
    (
        "MiniMax",
        {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
        None,
        (None, "1008", "insufficient balance", None),
    ),
]


@pytest.mark.parametrize(
    "padding",
    [
        lambda n: {"p": "abcdefghijklmnopqrstuvwxyz"[: 1 + n % 26]},
        lambda n: {"obfuscation": "x" * (1 + n % 7)},
        lambda n: {"sequence_number": n},
        lambda n: {"prompt_progress": {"total": 40, "processed": n}},
        lambda n: {"stream_options": {"include_usage": True}},
        lambda n: {"tensorzero_raw_chunk": f'{{"n":{n}}}'},
    ],
    ids=["Mistral", "OpenAI", "numbers", "llama.cpp", "LiteLLM", "TensorZero"],
)
def test_fields_of_a_chunk_that_no_response_has(padding):
    """What pads, numbers or announces a chunk is no part of the response, however the bytes were cut."""
    chunks = [{"object": "chat.completion.chunk", **delta({"content": f"{n} "}), **padding(n)} for n in range(40)]
    body = sse([*chunks, delta({}, "stop")]) + b"data: [DONE]\n\n"
    whole = streamfold.fold(body, format="openai-chat").data.response
    assert whole.keys() == {"object", "choices"}
    assert whole["choices"][0]["message"]["content"] == "".join(f"{n} " for n in range(40))
    pieces = [body[at : at + 1] for at in range(len(body))]
    assert streamfold.fold(pieces, format="openai-chat").data.response == whole


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
BREAKDOWN = {"models": [{"model": "m", "usage": USAGE}]}
OTHER = {**USAGE, "total_tokens": 9}


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        ({"x_groq": {"id": "r", "usage": USAGE}}, {"usage": USAGE, "x_groq": {"id": "r"}}),
        ({"x_groq": {"id": "r", "usage": USAGE}, "usage": USAGE}, {"usage": USAGE, "x_groq": {"id": "r"}}),
        (
            {"x_groq": {"usage": OTHER, "usage_breakdown": BREAKDOWN}, "usage": USAGE},
            {"usage": USAGE, "x_groq": {"usage": OTHER}, "usage_breakdown": BREAKDOWN},
        ),
        ({"choices": [{"index": 0, "usage": USAGE}]}, {"usage": USAGE}),
        ({"choices": [{"index": 0, "usage": USAGE}], "usage": USAGE}, {"usage": USAGE}),
    ],
    ids=["Groq once", "Groq", "Groq, differing", "Moonshot once", "Moonshot"],
)
def test_usage_is_where_the_unstreamed_response_has_it(last, wanted):
    """Usage in an envelope or a choice is at the top of the whole, and stays where it was only if it differs."""
    last = copy.deepcopy(last)
    before = copy.deepcopy(last)
    response = folded(delta({"content": "a"}, "stop"), last).response()
    assert response.pop("choices") == [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]
    assert response == wanted
    assert last == before


def test_the_channel_of_a_delta_is_not_that_of_the_message():
    """Groq says of each delta in which channel the model said it; a message is of more than one."""
    said = [delta({"channel": "analysis", "reasoning": "Hm."}), delta({"channel": "final", "content": "Six."})]
    assert message(*said) == {"reasoning": "Hm.", "content": "Six."}


@pytest.mark.parametrize(("event", "name", "wanted"), [each[1:] for each in ERRORS], ids=[each[0] for each in ERRORS])
def test_errors(event, name, wanted):
    """An error is found wherever it stands, keeps the provider's words, and leaves what came before it."""
    fold = folded(delta({"content": "a"}))
    fold.add_decoded(event, name)
    error = fold.error
    assert (error.type, error.code, error.message, error.status_code) == wanted
    assert fold.response()["choices"][0]["message"]["content"] == "a"
    assert "message" not in fold.response()


@pytest.mark.parametrize(
    "event",
    [
        {"error": None, **delta({})},
        {"error": "", "choices": []},
        {"choices": [], "detail": "x"},
        {"id": "x", "message": "m", "code": 1},
        {"message": "m"},
        {"code": 1},
        {"code": 200, "msg": "m", "success": True},
        {"code": 1, "message": "m", "data": {"a": 1}},
        {},
        delta({}, error=None),
        {"error": {"message": "", "type": "", "param": "", "code": None}, **delta({})},
        {"choices": [], "base_resp": {"status_code": 0, "status_msg": ""}},
    ],
)
def test_no_errors(event):
    """Empty error fields and unknown frames are not errors."""
    assert folded(event).error is None
    assert event.get("choices") or error_of(event) is None


def test_an_error_in_a_field_of_its_own():
    """llama.cpp told of failures in an SSE field named `error`, until late in 2025."""
    body = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    body += b'error: {"code":500,"message":"context size exceeded","type":"server_error"}\n\n'
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        data = fold_pieces(pieces, "openai-chat").data
        assert data.status == "error"
        assert (data.error_details.message, data.error_details.status_code) == ("context size exceeded", 500)
        assert data.output_message.content == "a"


def test_the_first_error_stays():
    """What follows an error is its consequence; only an error without a message gives way."""
    assert folded({"error": {"message": "first"}}, {"error": {"message": "second"}}).error.message == "first"
    assert folded(delta({}, "error"), {"error": {"message": "why"}}).error.message == "why"


def test_error_details_of_hostile_nesting():
    """An error nested without end is still an error."""
    error = {"message": "m"}
    for _ in range(900):
        error = {"error": error}
    assert error_details(error).status_code is None


# ---------------------------------------------------------------------- any JSON at all

KEYS = [
    "id",
    "object",
    "created",
    "model",
    "choices",
    "index",
    "delta",
    "message",
    "text",
    "finish_reason",
    "native_finish_reason",
    "logprobs",
    "content",
    "refusal",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking",
    "thinking_blocks",
    "signature",
    "type",
    "role",
    "tool_calls",
    "function",
    "custom",
    "name",
    "arguments",
    "input",
    "extra_content",
    "function_call",
    "audio",
    "data",
    "transcript",
    "expires_at",
    "annotations",
    "images",
    "executed_tools",
    "token_ids",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "cached_tokens",
    "reasoning_tokens",
    "cost",
    "cost_details",
    "total_cost",
    "x_groq",
    "error",
    "code",
    "detail",
    "status",
    "status_code",
    "obfuscation",
    "sequence_number",
    "service_tier",
    "system_fingerprint",
    "summary",
    "provider_specific_fields",
    "content_blocks",
    "content_list",
    "tool_use",
    "tool_use_id",
    "tensorzero_extra_content",
    "citations",
    "content_filter_results",
    "unknown",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(
        [
            "",
            "chat.completion.chunk",
            "chat.completion",
            "error",
            "stop",
            "{}",
            "=",
            "QQ==",
            "text",
            "thinking",
            "0",
            "\ud83d",
            "\ude00",
            "²",
        ]
    ),
)


def objects_of(inner):
    return st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=2), inner, max_size=5)


VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | objects_of(inner), max_leaves=15)


def shaped(**fields):
    """An object of the format, any of whose fields may be missing or of any type."""
    return st.fixed_dictionaries({}, optional={key: rule | VALUES for key, rule in fields.items()}) | VALUES


CALL = shaped(index=st.integers(0, 2), id=SCALARS, function=shaped(name=SCALARS, arguments=VALUES), custom=VALUES)
DELTA = shaped(
    role=SCALARS,
    content=st.text(max_size=3),
    refusal=VALUES,
    reasoning=VALUES,
    reasoning_details=VALUES,
    thinking_blocks=VALUES,
    content_blocks=VALUES,
    content_list=VALUES,
    type=st.sampled_from(["text", "tool_use"]),
    tensorzero_extra_content=VALUES,
    provider_specific_fields=VALUES,
    audio=shaped(data=VALUES, transcript=VALUES),
    annotations=VALUES,
    images=VALUES,
    function_call=shaped(name=VALUES, arguments=VALUES),
    executed_tools=VALUES,
    tool_calls=st.lists(CALL, max_size=3),
)
CHOICE = shaped(
    index=st.integers(0, 2),
    delta=DELTA,
    message=DELTA,
    finish_reason=VALUES,
    logprobs=VALUES,
    usage=VALUES,
    text=VALUES,
)
CHUNK = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(CHOICE, max_size=3) | VALUES,
        **dict.fromkeys(("id", "object", "model", "usage", "x_groq", "error", "obfuscation", "service_tier"), VALUES),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(CHUNK | objects_of(VALUES), max_size=5), st.sampled_from([None, "error", "x"]), st.booleans())
def test_any_json(chunks, name, full):
    """No JSON object raises, changes the caller's chunk, or disturbs a snapshot; and every response can be written."""
    before = repr(chunks)
    fold, undisturbed = OpenAIChat(), OpenAIChat()
    snapshot = then = None
    for number, chunk in enumerate(chunks):
        fold.add_event(chunk, name)
        undisturbed.add_event(chunk, name)
        if number == len(chunks) // 2:
            snapshot = fold.response()
            viewed(snapshot or {})
            then = repr(snapshot)
            if full:
                fold.close()
                undisturbed.close()
    response = fold.response()
    assert repr(chunks) == before
    assert repr(snapshot) == then or snapshot is None
    assert repr(undisturbed.response()) == repr(response)
    assert "accumulator_error" not in fold.anomalies
    json.dumps(response)
    json.dumps(msgspec.to_builtins(viewed(response or {})))


@settings(max_examples=300, deadline=None)
@given(shaped(choices=st.lists(CHOICE, max_size=3), usage=VALUES, id=VALUES, model=VALUES))
def test_any_json_viewed(response):
    """No unstreamed response raises, whatever the types of its fields, and none is changed by being read."""
    before = repr(response)
    if isinstance(response, dict):
        json.dumps(msgspec.to_builtins(viewed(response)))
    assert repr(response) == before


def test_duplicate_keys_nan_and_halves():
    """NaN, huge numbers, halves of characters and equal keys are read as the standard library reads them."""
    frames = [
        b'{"choices":[{"index":0,"delta":{"content":"x","content":"a \\ud83d"}}],"timings":{"t":NaN}}',
        b'{"choices":[{"index":0,"delta":{"content":"\\ude00 b \\ud83d"}}],"created":123456789012345678901234567890}',
    ]
    data = streamfold.fold(b"".join(b"data: " + frame + b"\n\n" for frame in frames), format="openai-chat").data
    assert data.output_message.content == "a 😀 b �"
    assert data.integrity.anomalies == []
    assert msgspec.json.encode(data)


# ---------------------------------------------------------------------- limits


def calls_made(work):
    """How many calls, of Python and of C, some work makes: a measure of its cost that no clock disturbs."""
    made = 0

    def profile(frame, event, arg):
        nonlocal made
        made += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return made


LINEAR = {
    "content": lambda number: delta({"content": "x"}),
    "reasoning": lambda number: delta({"reasoning": "x", "content": None}),
    "arguments": lambda number: call("x", index=0),
    "calls": lambda number: call("{}", name="f", id=str(number), index=number),
    "calls of one index": lambda number: call("{}", name="f", index=0),
    "names again": lambda number: call("{" if number else '{"', name="f", index=0),
    "calls without index": lambda number: call("{}", name="f", id=str(number)),
    "parts": lambda number: delta({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "x"}]}]}),
    "finish reasons": lambda number: delta({"content": "x"}, "stop"),
    "choices": lambda number: {"choices": [{"index": number, "delta": {"content": "x"}}]},
    "interleaved": lambda number: {"choices": [{"index": number % 2, "delta": {"content": "x"}}]},
}


@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("decoded", [True, False])
def test_linear(kind, decoded):
    """Twice the chunks cost twice the calls, whatever grows."""

    def work(number):
        chunks = [LINEAR[kind](each) for each in range(number)]
        payloads = [msgspec.json.encode(chunk) for chunk in chunks]
        fold = OpenAIChat()

        def run():
            if decoded:
                for chunk in chunks:
                    fold.add_decoded(chunk)
            else:
                fold.add_all(payloads, None)
            fold.response()

        return calls_made(run)

    work(10)
    assert work(4000) <= 2.2 * work(2000)


def test_a_hundred_thousand_deltas():
    """A hundred thousand one-character deltas of text and of arguments give their text."""
    fold = OpenAIChat()
    for chunk in (delta({"content": "x"}), call("y", index=0)):
        fold.add_all([msgspec.json.encode(chunk)] * 100_000, None)
    said = fold.response()["choices"][0]["message"]
    assert said["content"] == "x" * 100_000
    assert said["tool_calls"][0]["function"]["arguments"] == "y" * 100_000


def test_over_its_size_limit():
    """A stream over its limit keeps the text it has and still takes its ends."""
    fold = folded(delta({"content": "a"}))
    fold.close()
    for chunk in (delta({"content": "b", "refusal": "c"}), delta({}, "length"), {"usage": {"total_tokens": 3}}):
        fold.add_decoded(chunk)
    fold.add_decoded({"choices": [{"index": 1, "delta": {"content": "new"}}]})
    response = fold.response()
    assert len(response["choices"]) == 1
    assert response["choices"][0]["message"]["content"] == "a"
    assert response["choices"][0]["finish_reason"] == "length"
    assert response["usage"] == {"total_tokens": 3}


@pytest.mark.parametrize(
    ("event", "ours"),
    [
        ({"object": "chat.completion.chunk"}, True),
        (delta({"content": "a"}), True),
        ({"choices": []}, True),
        ({"choices": [{"text": "a", "index": 0}]}, False),
        ({"type": "message_start"}, False),
        ({"candidates": []}, False),
    ],
)
def test_recognised(event, ours):
    """Chunks of this format are known by their object or their choices."""
    assert OpenAIChat.recognises(event, None) is ours


def running(choice, completion, text=None, finish=None):
    """A chunk that tells the usage so far."""
    usage = {"prompt_tokens": 10, "completion_tokens": completion, "total_tokens": 10 + completion}
    delta = {} if text is None else {"content": text}
    return {"id": "c", "choices": [{"index": choice, "delta": delta, "finish_reason": finish}], "usage": usage}


EACH_ITS_OWN = [running(0, 0, ""), running(1, 0, ""), running(0, 1, "a"), running(1, 1, "b"), running(0, 2, "c")]
ALL_OF_THEM = [running(0, 0, ""), running(1, 0, ""), running(0, 1, "a"), running(1, 2, "b"), running(0, 3, "c")]
ENDS = [running(0, 2, finish="stop"), running(1, 1, finish="stop")]
TOTAL = {"id": "c", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}}
RUNNING = {
    "each choice its own": (EACH_ITS_OWN, 3, "derived"),
    "each its own, to their ends": ([*EACH_ITS_OWN, *ENDS], 3, "derived"),
    "each its own, and the sum at the end": ([*EACH_ITS_OWN, *ENDS, TOTAL], 3, "provider"),
    "all of them": (ALL_OF_THEM, 3, "provider"),
    "all of them, to their ends": ([*ALL_OF_THEM, running(1, 3, finish="stop")], 3, "provider"),
    "one choice": ([running(0, 1, "a"), running(0, 2, "b"), running(0, 2, finish="stop")], 2, "provider"),
}


@pytest.mark.parametrize(("chunks", "completion", "source"), RUNNING.values(), ids=RUNNING)
def test_running_usage_of_several_choices(chunks, completion, source):
    """Usage told with every chunk counts the prompt once and every choice, also if its sum never came."""
    usage = fold_pieces([sse(chunks)], "openai-chat").data.token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, completion, 10 + completion)
    assert usage.source == source
