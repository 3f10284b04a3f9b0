"""What the OpenTelemetry plugin sends of what was said: nothing, unless it is asked to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import streamfold
from otlp_receiver import Receiver, attributes
from streamfold.plugins.otel import OtelConfig, OtelPlugin
from streamfold.plugins.otel.content import clean, encoded, fit
from streamfold.plugins.otel.messages import asked, outputs
from streamfold.types import JSON
from test_plugin_otel import UNSTREAMED, collector, no_environment, passes, request, sent, stream

__all__ = ["collector", "no_environment"]

MARKER = "xyzzy-7f3a"
ASKING: dict[str, Any] = {
    "model": "gpt-4o",
    "instructions": f"Be brief. {MARKER}",
    "messages": [
        {"role": "system", "content": f"You know {MARKER}."},
        {"role": "user", "content": [{"type": "text", "text": f"What is {MARKER}?"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "look", "arguments": f'{{"word":"{MARKER}"}}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": f"{MARKER} is a word"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "look", "description": MARKER, "parameters": {"type": "object"}}}
    ],
}
ANSWER = UNSTREAMED.replace(b"Hello", MARKER.encode())


def answer() -> Any:
    return streamfold.read(ANSWER, "openai-chat")


# ---------------------------------------------------------------------- only when asked


@pytest.mark.parametrize("settings", [{}, {"openinference": True}, {"capture_content": "none"}])
def test_no_content_by_default(collector: Receiver, settings: dict[str, Any]) -> None:
    """Unless asked for, not a byte of what was said reaches the collector."""
    sent(collector, request(request=ASKING), answer(), **settings)
    assert collector.bodies
    assert not any(MARKER.encode() in body for body in collector.bodies)


@pytest.mark.parametrize("capture", ["span", "event", "both"])
def test_caller_can_forbid_content(collector: Receiver, capture: Any) -> None:
    """A request whose caller wants nothing kept has no content, whatever the settings, nor the provider's sentence."""
    refused = streamfold.read({"error": {"message": f"no {MARKER}", "type": "bad"}}, "openai-chat", status_code=400)
    plugin = OtelPlugin(OtelConfig(endpoint=collector.url, capture_content=capture, openinference=True))
    passes(plugin, request(request=ASKING, log_content=False), answer())
    passes(plugin, request(request=ASKING, log_content=False), refused)
    plugin.close()
    assert len(collector.spans) == 2
    assert not any(MARKER.encode() in body for body in collector.bodies)


@pytest.mark.parametrize(("capture", "on_span", "as_event"), [("span", 1, 0), ("event", 0, 1), ("both", 1, 1)])
def test_content_where_it_was_asked_for(collector: Receiver, capture: Any, on_span: int, as_event: int) -> None:
    """Content goes on spans as JSON and into events as structure, each on request."""
    said = sent(collector, request(request=ASKING), answer(), capture_content=capture)
    assert ("gen_ai.input.messages" in said) == bool(on_span)
    assert len(collector.logs) == as_event
    for record in collector.logs:
        assert record.event_name == "gen_ai.client.inference.operation.details"
        assert record.span_id == collector.spans[0].span_id
        told = attributes(record)
        assert told["gen_ai.operation.name"] == "chat"
        assert told["gen_ai.output.messages"] == [
            {"role": "assistant", "parts": [{"type": "text", "content": MARKER}], "finish_reason": "stop"}
        ]
    if on_span:
        assert msgspec.json.decode(said["gen_ai.output.messages"])[0]["parts"][0]["content"] == MARKER


@pytest.mark.parametrize(
    ("word", "setting", "on_span"),
    [
        ("SPAN_ONLY", None, True),
        ("span_and_event", None, True),
        ("EVENT_ONLY", None, False),
        ("NO_CONTENT", None, False),
        ("yes please", None, False),
        ("SPAN_ONLY", "none", False),
    ],
)
def test_variable_of_the_conventions(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, word: str, setting: Any, on_span: bool
) -> None:
    """The variable that all GenAI instrumentations share is the default; the setting wins, nonsense means no."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", word)
    said = sent(collector, request(request=ASKING), answer(), capture_content=setting)
    assert ("gen_ai.input.messages" in said) == on_span


def test_credentials_are_struck_out(collector: Receiver) -> None:
    """What is sent has gone through the request's own redaction, wherever in the content it stood."""
    ctx = request(request=ASKING, metadata={"note": MARKER}, redact=lambda text: text.replace(MARKER, "[redacted]"))
    said = sent(collector, ctx, answer(), capture_content="both", openinference=True)
    assert "[redacted]" in said["gen_ai.input.messages"]
    assert not any(MARKER.encode() in body for body in collector.bodies)


def test_long_content_is_cut(collector: Receiver) -> None:
    """Each attribute keeps to its limit, is whole JSON still, keeps the newest messages, and says that it was cut."""
    body = {"messages": [{"role": "user", "content": f"{number} " + "ä" * 300} for number in range(100)]}
    said = sent(collector, request(request=body), answer(), capture_content="span", max_content_bytes=2000)
    text = said["gen_ai.input.messages"]
    kept = msgspec.json.decode(text)
    assert len(text.encode()) <= 2000
    assert kept[-1]["parts"][0]["content"].startswith("99 ")
    assert 1 < len(kept) < 100
    assert said["streamfold.content.truncated"] is True
    assert msgspec.json.decode(said["gen_ai.output.messages"])[0]["parts"][0]["content"] == MARKER


# ---------------------------------------------------------------------- shapes


def text(content: str) -> JSON:
    return {"type": "text", "content": content}


CALL = {"type": "tool_call", "name": "look", "id": "c1", "arguments": {"a": 1}}
PNG = {"type": "blob", "modality": "image", "content": "", "omitted_bytes": 6, "mime_type": "image/png"}
SHAPES: dict[str, tuple[JSON, list[JSON], list[JSON]]] = {
    "openai chat": (
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Look:"},
                        {"type": "image_url", "image_url": {"url": "https://host/cat.png"}},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAABBBB"}},
                        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                        {"type": "file", "file": {"file_id": "file-1"}},
                    ],
                },
                {
                    "role": "assistant",
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "found"},
            ]
        },
        [],
        [
            {"role": "developer", "parts": [text("Be brief.")]},
            {
                "role": "user",
                "parts": [
                    text("Look:"),
                    {"type": "uri", "modality": "image", "uri": "https://host/cat.png"},
                    PNG,
                    {"type": "blob", "modality": "audio", "content": "", "omitted_bytes": 3, "mime_type": "audio/wav"},
                    {"type": "file", "modality": "document", "file_id": "file-1"},
                ],
            },
            {"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}, CALL]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "found"}]},
        ],
    ),
    "openai responses": (
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ho"}]},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'},
                {"type": "function_call_output", "call_id": "c1", "output": "found"},
                {"type": "item_reference", "id": "i1"},
            ],
        },
        [text("Be brief.")],
        [
            {"role": "user", "parts": [text("Hi")]},
            {"role": "assistant", "parts": [text("Ho")]},
            {"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}]},
            {"role": "assistant", "parts": [CALL]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "found"}]},
            {"role": "assistant", "parts": [{"type": "item_reference", "id": "i1"}]},
        ],
    ),
    "responses, plain": ({"input": "Hi"}, [], [{"role": "user", "parts": [text("Hi")]}]),
    "completions": ({"prompt": ["a", "b"]}, [], [{"role": "user", "parts": [text(each)]} for each in "ab"]),
    "anthropic": (
        {
            "system": [{"type": "text", "text": "Be brief."}],
            "messages": [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
                        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
                        {"type": "tool_use", "id": "c1", "name": "look", "input": {"a": 1}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "found"}]},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAABBBB"}},
                        {"type": "document", "source": {"type": "url", "url": "https://host/a.pdf"}},
                    ],
                },
            ],
        },
        [text("Be brief.")],
        [
            {"role": "user", "parts": [text("Hi")]},
            {
                "role": "assistant",
                "parts": [
                    {"type": "reasoning", "content": "hm"},
                    {
                        "type": "server_tool_call",
                        "id": "s1",
                        "name": "web_search",
                        "server_tool_call": {"type": "web_search", "input": {"query": "q"}},
                    },
                    {
                        "type": "server_tool_call_response",
                        "id": "s1",
                        "server_tool_call_response": {"type": "web_search_tool_result", "content": []},
                    },
                    CALL,
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"type": "tool_call_response", "id": "c1", "response": [text("found")]},
                    PNG,
                    {"type": "uri", "modality": "document", "uri": "https://host/a.pdf"},
                ],
            },
        ],
    ),
    "gemini": (
        {
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [
                {
                    "role": "user",
                    "parts": [{"text": "Hi"}, {"inlineData": {"mimeType": "image/png", "data": "AAAABBBB"}}],
                },
                {
                    "role": "model",
                    "parts": [
                        {"text": "hm", "thought": True},
                        {"functionCall": {"id": "c1", "name": "look", "args": {"a": 1}}},
                    ],
                },
                {"role": "user", "parts": [{"functionResponse": {"id": "c1", "name": "look", "response": {"b": 2}}}]},
                {"role": "user", "parts": [{"fileData": {"mimeType": "video/mp4", "fileUri": "gs://v"}}]},
            ],
        },
        [text("Be brief.")],
        [
            {"role": "user", "parts": [text("Hi"), PNG]},
            {"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}, CALL]},
            {"role": "user", "parts": [{"type": "tool_call_response", "id": "c1", "response": {"b": 2}}]},
            {
                "role": "user",
                "parts": [{"type": "uri", "modality": "video", "uri": "gs://v", "mime_type": "video/mp4"}],
            },
        ],
    ),
    "bedrock converse": (
        {
            "system": [{"text": "Be brief."}],
            "messages": [
                {"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": "AAAABBBB"}}}]},
                {
                    "role": "assistant",
                    "content": [
                        {"reasoningContent": {"reasoningText": {"text": "hm"}}},
                        {"toolUse": {"toolUseId": "c1", "name": "look", "input": {"a": 1}}},
                    ],
                },
                {"role": "user", "content": [{"toolResult": {"toolUseId": "c1", "content": [{"text": "found"}]}}]},
            ],
        },
        [text("Be brief.")],
        [
            {"role": "user", "parts": [PNG]},
            {"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}, CALL]},
            {"role": "user", "parts": [{"type": "tool_call_response", "id": "c1", "response": [text("found")]}]},
        ],
    ),
    "nothing": ({"model": "m"}, [], []),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_requests_of_all_shapes(shape: str) -> None:
    """Messages of every dialect become messages of the conventions, in order; binary data are measured and left out."""
    body, instructions, messages = SHAPES[shape]
    found = asked(body)
    assert found.instructions == instructions
    assert found.messages == messages


FUNCTION = {"type": "function", "name": "look", "description": "Looks.", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    ("body", "tools"),
    [
        (
            {
                "tools": [
                    {"type": "function", "function": {key: value for key, value in FUNCTION.items() if key != "type"}},
                    FUNCTION,
                    {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}},
                    {"functionDeclarations": [{key: value for key, value in FUNCTION.items() if key != "type"}]},
                ]
            },
            [FUNCTION] * 4,
        ),
        (
            {
                "toolConfig": {
                    "tools": [
                        {
                            "toolSpec": {
                                "name": "look",
                                "description": "Looks.",
                                "inputSchema": {"json": {"type": "object"}},
                            }
                        }
                    ]
                }
            },
            [FUNCTION],
        ),
        (
            {
                "tools": [
                    {"type": "web_search_20250305", "name": "web_search"},
                    {"googleSearch": {}},
                    {"type": "file_search"},
                ]
            },
            [
                {"type": "web_search_20250305", "name": "web_search"},
                {"type": "googleSearch", "name": "googleSearch"},
                {"type": "file_search", "name": "file_search"},
            ],
        ),
    ],
)
def test_tools_of_all_shapes(body: JSON, tools: list[JSON]) -> None:
    """Tools of every dialect become tool definitions of the conventions."""
    assert asked(body).tools == tools


def test_streamed_answer_equals_unstreamed_answer() -> None:
    """An answer with reasoning and tool calls is one message, with arguments as the objects that they are."""
    done = stream("anthropic-messages/thinking_tools.sse")
    assert done.data is not None
    (message,) = outputs(done.data, with_finish_reason=False)
    assert done.data.response is not None
    whole = streamfold.read(done.data.response, "anthropic-messages")
    assert whole.data is not None
    assert outputs(whole.data, with_finish_reason=False) == [message]
    assert [part["type"] for part in message["parts"]] == ["reasoning", "text", "tool_call", "tool_call", "tool_call"]
    assert message["parts"][2]["arguments"] == {"port": "Oslo", "days": 3}


@pytest.mark.parametrize(
    ("fixture", "types"),
    [
        ("openai-chat/cut_tool.sse", ["tool_call"]),
        ("openai-chat/refusal.sse", ["refusal"]),
        ("openai-chat/audio.sse", ["blob"]),
        ("openai-transcription/logprobs.sse", ["text"]),
        ("openai-images/generation.sse", ["blob"]),
        ("openai-speech/chunks.sse", ["blob"]),
    ],
)
def test_answers_of_other_kinds(fixture: str, types: list[str]) -> None:
    """What is no text is a part of its own kind; arguments that were cut off stay the text that came."""
    done = stream(fixture)
    assert done.data is not None
    (message,) = outputs(done.data, with_finish_reason=True)
    assert [part["type"] for part in message["parts"]] == types
    if types == ["tool_call"]:
        assert isinstance(message["parts"][0]["arguments"], str)


# ---------------------------------------------------------------------- OpenInference


def test_openinference(collector: Receiver) -> None:
    """With the option on, the span has OpenInference's attributes beside the others, messages flattened."""
    ctx = request(request={**ASKING, "temperature": 0.5}, session_id="s1", metadata={"team": "blue"})
    said = sent(collector, ctx, answer(), capture_content="span", openinference=True)
    wanted = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "gpt-4o-2024",
        "llm.provider": "openai",
        "llm.token_count.prompt": 3,
        "llm.token_count.completion": 4,
        "llm.token_count.total": 7,
        "session.id": "s1",
        "metadata": '{"team":"blue"}',
        "input.mime_type": "application/json",
        "output.value": MARKER,
        "output.mime_type": "text/plain",
        "llm.input_messages.0.message.role": "system",
        "llm.input_messages.0.message.content": f"Be brief. {MARKER}",
        "llm.input_messages.2.message.content": f"What is {MARKER}?",
        "llm.input_messages.3.message.tool_calls.0.tool_call.id": "call_1",
        "llm.input_messages.3.message.tool_calls.0.tool_call.function.name": "look",
        "llm.input_messages.3.message.tool_calls.0.tool_call.function.arguments": f'{{"word":"{MARKER}"}}',
        "llm.input_messages.4.message.tool_call_id": "call_1",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": MARKER,
        "gen_ai.operation.name": "chat",
    }
    assert {key: said.get(key) for key in wanted} == wanted
    assert msgspec.json.decode(said["llm.invocation_parameters"])["temperature"] == 0.5
    assert msgspec.json.decode(said["llm.tools.0.tool.json_schema"])["name"] == "look"


def test_openinference_never_crowds_out_the_rest(collector: Receiver) -> None:
    """A conversation of many messages does not push the other attributes over the SDK's limit of 128."""
    body = {"messages": [{"role": "user", "content": str(number)} for number in range(500)]}
    said = sent(collector, request(request=body), answer(), capture_content="span", openinference=True)
    assert len(said) <= 128
    assert collector.spans[0].dropped_attributes_count == 0
    assert said["gen_ai.operation.name"] == "chat"
    assert said["llm.input_messages.499.message.content"] == "499"


# ---------------------------------------------------------------------- anything at all


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "parts",
                    "type",
                    "text",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "image",
                    "source",
                    "toolUse",
                    "toolResult",
                    "file",
                    "input_audio",
                    "image_url",
                    "inlineData",
                    "functionCall",
                    "system",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
BODIES = st.dictionaries(
    st.sampled_from(["messages", "contents", "input", "prompt", "system", "instructions", "tools", "toolConfig", "n",
                     "generationConfig", "response_format", "text", "conversation", "stop", "temperature", "options"]),
    JSON_VALUES,
    max_size=5,
)  # fmt: skip


@given(body=BODIES)
@settings(max_examples=200, deadline=None)
def test_any_body_makes_a_span(body: JSON) -> None:
    """Whatever stands in a request, its span is there, and what it holds can be sent."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    config = OtelConfig(capture_content="span", openinference=True, metrics=False)
    plugin = OtelPlugin(config, tracer_provider=provider, meter_provider=MeterProvider(shutdown_on_exit=False))
    plugin.on_response(request(request=body), answer())
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["gen_ai.usage.input_tokens"] == 3
    for value in span.attributes.values():
        if isinstance(value, str):
            value.encode()


@given(items=st.lists(JSON_VALUES, max_size=8), limit=st.integers(0, 400), newest_first=st.booleans())
@settings(deadline=None)
def test_fitting(items: list[Any], limit: int, newest_first: bool) -> None:
    """What is kept fits, is in order, and is all of it exactly when that fits."""
    cleaned = clean(items)
    kept, whole = fit(cleaned, limit, newest_first=newest_first)
    if kept:
        assert len(encoded(kept).encode()) <= limit
    assert whole == (not cleaned or len(encoded(cleaned).encode()) <= limit)
    if whole:
        assert encoded(kept) == encoded(cleaned)
    else:
        untouched = kept[1:] if newest_first else kept[:-1]
        there = cleaned[len(cleaned) - len(untouched) :] if newest_first else cleaned[: len(untouched)]
        assert encoded(there) == encoded(untouched)
