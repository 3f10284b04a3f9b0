"""Maxim: the real SDK speaks to an endpoint on loopback, which reads its lines."""

import json
import logging
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from maxim.logger.parsers.generation_parser import parse_result

import streamfold
from maxim_endpoint import maxim_endpoint
from scripted import dead_address
from streamfold.errors import UsageError
from streamfold.hooks import RequestContext
from streamfold.pipeline import Pipeline
from streamfold.plugins import load_plugin
from streamfold.plugins.maxim import MaximConfig, MaximPlugin
from streamfold.plugins.maxim.requests import messages_of, parameters_of
from streamfold.plugins.maxim.results import ENDS, result_of
from streamfold.plugins.maxim.texts import ID, clean, valid_id
from streamfold.processed import ProcessedStreamResponse, ResponseType
from streamfold.types import (
    AccumulatedData,
    ChatMessage,
    Choice,
    Cost,
    ErrorDetails,
    FunctionCall,
    MessageAudio,
    Outcome,
    StreamType,
    TokenUsage,
    ToolCall,
)

FIXTURES = Path(__file__).parent / "fixtures"
KEY = "mx-sesame-7d1f"
REQUEST = {
    "model": "gpt-4o",
    "stream": True,
    "temperature": 0.2,
    "max_tokens": 64,
    "stop": ["END"],
    "tools": [{"type": "function", "function": {"name": "weather"}}],
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How is the weather?"}],
}


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("MAXIM_API_KEY", KEY)
    monkeypatch.setenv("MAXIM_LOG_REPO_ID", "repo-1")


@pytest.fixture
def endpoint():
    with maxim_endpoint() as running:
        yield running


@pytest.fixture
def plugin(endpoint):
    running = MaximPlugin(MaximConfig(base_url=endpoint.url, flush_interval_s=0.01, close_timeout_s=5))
    yield running
    running.close()


def context(**known):
    known = {"request_id": "r-1", "provider": "openai", "model": "gpt-4o", "request": REQUEST, **known}
    return RequestContext(**known)


def folded(format, name):
    (path,) = (FIXTURES / format).glob(f"{name}.*")
    return streamfold.fold(path.read_bytes(), format=format)


def processed(**said):
    data = AccumulatedData(**{"request_id": "r-1", "status": "success", "model": "gpt-4o", **said})
    return ProcessedStreamResponse(type=ResponseType.FINAL, request_id="r-1", data=data)


def told(plugin, ctx, done):
    plugin.on_response(ctx, done)
    assert plugin.flush(60)


def test_a_stream_becomes_a_trace_with_one_generation(endpoint, plugin):
    """Trace, generation, result, cost, metrics and both ends arrive once, in order, with what the request said."""
    data = folded("openai-chat", "text").data
    cost = Cost(total_cost=0.003, input_cost=0.001, output_cost=0.002)
    done = processed(**{**msgspec.structs.asdict(data), "cost": cost, "model": "gpt-4o", "provider": "openai"})
    told(plugin, context(session_id="s-9", path="/openai/v1/chat/completions", client="team"), done)

    assert [f"{line.entity} {line.action}" for line in endpoint.lines if line.action != "update"] == [
        "trace create",
        "trace add-generation",
        "generation result",
        "generation end",
        "generation add-cost",
        "trace end",
    ]
    begun = endpoint.only("trace", "create")
    assert (begun.id, begun.data["sessionId"], begun.data["input"]) == ("r-1", "s-9", "How is the weather?")
    assert begun.data["tags"]["client"] == "team"
    assert begun.data["tags"]["outcome"] == "success"
    generation = endpoint.generation
    assert (generation["provider"], generation["model"]) == ("openai", "gpt-4o")
    assert generation["messages"] == REQUEST["messages"]
    assert generation["modelParameters"] == {
        "temperature": "0.2",
        "max_tokens": "64",
        "stop": '["END"]',
        "tools": '[{"type": "function", "function": {"name": "weather"}}]',
    }
    assert endpoint.result["choices"][0]["message"]["content"] == data.output_message.content
    assert endpoint.result["usage"]["total_tokens"] == data.token_usage.total_tokens
    assert endpoint.only("generation", "add-cost").data["cost"] == {"input": 0.001, "output": 0.002, "total": 0.003}
    assert endpoint.metrics["ttft_ms"] == data.time_to_first_token_ms
    outputs = [line.data["output"] for line in endpoint.of("trace", "update") if "output" in line.data]
    assert outputs == [data.output_message.content]
    assert endpoint.repositories == {"repo-1"}
    assert endpoint.headers[0]["x-maxim-api-key"] == KEY


@pytest.mark.parametrize("outcome", [each for each in Outcome if each is not Outcome.SUCCESS], ids=str)
def test_every_bad_end_keeps_what_came_and_says_how_it_ended(endpoint, plugin, outcome):
    """Partial text, usage and an error arrive with every end; one trace, one generation."""
    usage = TokenUsage(prompt_tokens=5, completion_tokens=2, total_tokens=7, source="provider")
    done = processed(status=outcome.value, output_message=ChatMessage(content="Half an"), token_usage=usage)
    told(plugin, context(), done)
    assert endpoint.result["choices"][0]["message"]["content"] == "Half an"
    assert endpoint.result["usage"]["total_tokens"] == 7
    assert endpoint.result["error"] == {"message": ENDS[outcome.value], "code": "", "type": outcome.value}
    for entity, action in (("trace", "create"), ("trace", "add-generation"), ("generation", "end"), ("trace", "end")):
        assert len(endpoint.of(entity, action)) == 1


def test_an_error_without_content_is_an_error_of_the_generation(endpoint, plugin):
    """The provider's words, code and type arrive as the generation's error."""
    error = ErrorDetails(type="rate_limit_error", code="slow", message="Too fast.", status_code=429)
    told(plugin, context(), processed(status="error", error_details=error))
    assert endpoint.result["error"] == {"message": "Too fast.", "code": "slow", "type": "rate_limit_error"}
    assert len(endpoint.of("generation", "end")) == 1


STREAMS = [path for path in sorted(FIXTURES.glob("*/*.*")) if path.parent.name != "passthrough"]


def test_the_sdk_takes_the_result_of_every_stream_type(endpoint, plugin):
    """Every recorded stream of every format becomes a result that the SDK accepts, and nothing is left out."""
    for number, path in enumerate(STREAMS):
        done = streamfold.fold(path.read_bytes(), format=path.parent.name)
        plugin.on_response(context(request_id=f"r-{number}"), done)
    assert plugin.flush(30)
    for entity, action in (("trace", "create"), ("generation", "result"), ("generation", "end"), ("trace", "end")):
        assert len(endpoint.of(entity, action)) == len(STREAMS)


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: f"{path.parent.name}-{path.name}")
@pytest.mark.parametrize("content", [True, False], ids=["content", "no content"])
def test_results_have_the_shape_that_the_sdk_checks(path, content):
    """The SDK's own check passes, with and without content."""
    data = streamfold.fold(path.read_bytes(), format=path.parent.name).data
    parse_result(clean(result_of(context(), data, content=content), 400_000))


MADE = [
    ("openai-speech", "chunks", "[audio: wav, 112 bytes]"),
    ("openai-transcription", "vllm", " One two three."),
    ("openai-images", "several", "[image: https://images.example.com/a.jpeg]"),
    ("openai-completions", "text", None),
]


@pytest.mark.parametrize(("format", "name", "start"), MADE)
def test_what_is_no_conversation_is_told_in_a_message(endpoint, plugin, format, name, start):
    """Speech, transcription, images and text completions say what was made; never the bytes."""
    done = folded(format, name)
    told(plugin, context(), done)
    content = endpoint.result["choices"][0]["message"]["content"]
    assert content.startswith(start or done.data.output_message.content)


def test_a_response_of_the_responses_api_is_sent_as_one(endpoint, plugin):
    """Items, status and usage are the provider's; the shared record is not changed by the SDK."""
    done = folded("openai-responses", "reasoning_tools")
    before = msgspec.json.encode(done.data.response)
    told(plugin, context(request={"input": "Trains?", "instructions": "Be brief."}), done)
    assert endpoint.result["object"] == "response"
    assert [item["type"] for item in endpoint.result["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert endpoint.generation["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Trains?"},
    ]
    assert msgspec.json.encode(done.data.response) == before


def test_tool_calls_arrive_as_the_sdk_takes_them(endpoint, plugin):
    """Names and raw arguments are kept, a custom call's input too, and an id is there even if none was said."""
    calls = [
        ToolCall(0, "call_a", "function", FunctionCall("weather", '{"city":"Zür'), arguments_complete=False),
        ToolCall(1, None, "custom", None, custom={"name": "shell", "input": "ls"}),
    ]
    message = ChatMessage(role="assistant", tool_calls=calls)
    told(plugin, context(), processed(output_message=message, finish_reason="tool_calls"))
    assert endpoint.result["choices"][0]["message"]["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Zür'}},
        {"id": "call_1", "type": "custom", "function": {"name": "shell", "arguments": "ls"}},
    ]


def test_metadata_addressed_to_maxim_names_and_tags(endpoint, plugin):
    """Names, tags, ids and the session come from `maxim-…` metadata; the rest is the trace's metadata."""
    said = {
        "maxim-trace-name": "support",
        "maxim-generation-name": "answer",
        "maxim-generation-id": "g-7",
        "maxim-session-id": "s-2",
        "maxim-tag-team": "red",
        "maxim-tag-outcome": "spoofed",
        "ticket": "4711",
    }
    told(plugin, context(metadata=said, session_id="s-1"), folded("openai-chat", "text"))
    trace = endpoint.only("trace", "create").data
    assert (trace["name"], trace["sessionId"], trace["tags"]["team"]) == ("support", "s-2", "red")
    assert trace["tags"]["outcome"] == "success"
    assert (endpoint.generation["name"], endpoint.generation["id"]) == ("answer", "g-7")
    metadata = [line.data["metadata"] for line in endpoint.of("trace", "update") if "metadata" in line.data]
    assert metadata == [{"ticket": "4711"}]


def test_a_generation_joins_the_trace_that_the_caller_names(endpoint, plugin):
    """A named trace is the caller's: it is neither begun nor ended here."""
    told(plugin, context(metadata={"maxim-trace-id": "their-trace"}), folded("openai-chat", "text"))
    assert {line.id for line in endpoint.of("trace")} == {"their-trace"}
    assert {line.action for line in endpoint.of("trace")} == {"add-generation"}


@pytest.mark.parametrize("switch", ["request", "plugin"])
def test_without_content_only_figures_go_out(endpoint, switch):
    """No text of request, response, error or metadata is sent; usage, cost, metrics and outcome are."""
    plugin = MaximPlugin(MaximConfig(base_url=endpoint.url, content=switch != "plugin", flush_interval_s=0.01))
    secret = "wombat"
    request = {
        "messages": [{"role": "user", "content": secret}],
        "temperature": 1,
        "user": secret,
        "tools": [{"name": secret}],
    }
    message = ChatMessage(content=secret, refusal=secret, reasoning=secret, tool_calls=[ToolCall(0, secret)])
    done = processed(
        status="error",
        output_message=message,
        logprobs={"content": [{"token": secret}]},
        token_usage=TokenUsage(1, 2, 3, source="provider"),
        error_details=ErrorDetails(type="server_error", message=f"bad: {secret}"),
        cost=Cost(total_cost=0.5),
        response={"id": "x", "secret": secret},
        latency_ms=5.0,
    )
    ctx = context(request=request, log_content=switch != "request", metadata={"note": secret})
    told(plugin, ctx, done)
    plugin.close()
    assert secret not in "".join(endpoint.bodies)
    assert endpoint.result["usage"]["total_tokens"] == 3
    assert endpoint.result["error"]["type"] == "server_error"
    assert endpoint.only("generation", "add-cost").data["cost"] == {"total": 0.5}
    assert endpoint.metrics["latency_ms"] == 5.0


def test_credentials_are_struck_out_everywhere(endpoint, plugin):
    """What `redact` knows is in no line: messages, parameters, result, error, tags, names, metadata."""
    secret = "sk-opensesame"
    request = {"messages": [{"role": "user", "content": f"key {secret}"}], "user": secret}
    message = ChatMessage(content=secret, tool_calls=[ToolCall(0, "c", "function", FunctionCall("f", secret))])
    done = processed(
        status="error", output_message=message, error_details=ErrorDetails(message=f"bad {secret}"), model=secret
    )
    metadata = {"maxim-tag-x": secret, "maxim-trace-name": secret, "maxim-generation-name": secret, "k": secret}
    ctx = context(request=request, metadata=metadata, redact=lambda text: text.replace(secret, "***"), path=secret)
    told(plugin, ctx, done)
    assert secret not in "".join(endpoint.bodies)
    assert "***" in endpoint.result["error"]["message"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("openai", "openai"),
        ("azure-openai", "azure"),
        ("gcp.vertex_ai", "google"),
        ("Gemini", "google"),
        ("aws.bedrock", "bedrock"),
        ("together_ai", "together"),
        ("mistral", "unknown"),
        (None, "unknown"),
    ],
)
def test_providers_are_those_that_maxim_knows(endpoint, plugin, ours, theirs):
    """A provider that Maxim does not know is `unknown`, and the tag has its name."""
    told(plugin, context(provider=ours), processed(output_message=ChatMessage(content="x")))
    assert endpoint.generation["provider"] == theirs
    assert endpoint.generation["tags"].get("provider") == ours


@given(st.text(min_size=1))
def test_any_id_becomes_one_that_maxim_takes(text):
    """The id is valid, the same each time, and the text itself if that is valid."""
    made = valid_id(text)
    assert ID.fullmatch(made)
    assert made == valid_id(text)
    assert (made == text) == bool(ID.fullmatch(text))


def test_ids_that_differ_stay_different():
    """Ids that only differ in what Maxim does not take are not thrown together."""
    assert len({valid_id(text) for text in ("a/b", "a.b", "a b", "a-b", "a\n", "a" * 200, "a" * 201)}) == 7


MESSAGES = [
    ("openai", {"messages": [{"role": "developer", "content": "S"}, {"role": "user", "content": [
        {"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}]}]},
     [("system", "S"), ("user", "Look\n[image]")]),
    ("responses", {"instructions": "S", "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "output": "42"}]},
     [("system", "S"), ("user", "Hi"), ("assistant", "[f({})]"), ("tool", "42")]),
    ("anthropic", {"system": [{"type": "text", "text": "S"}], "messages": [{"role": "assistant", "content": [
        {"type": "thinking", "thinking": "Hm"}, {"type": "tool_use", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "R"}]}]}]},
     [("system", "S"), ("assistant", 'Hm\n[f({"a": 1})]'), ("user", "R")]),
    ("gemini", {"systemInstruction": {"parts": [{"text": "S"}]}, "contents": [
        {"role": "user", "parts": [{"text": "Hi"}, {"inlineData": {"data": "AAAA"}}]},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}]},
     [("system", "S"), ("user", "Hi\n[file]"), ("assistant", "[f({})]")]),
    ("bedrock", {"system": [{"text": "S"}], "messages": [{"role": "user", "content": [
        {"text": "Hi"}, {"image": {"format": "png"}},
        {"toolResult": {"toolUseId": "t", "content": [{"text": "R"}]}}]}]},
     [("system", "S"), ("user", "Hi\n[image]\nR")]),
    ("cohere", {"preamble": "S", "chat_history": [{"role": "CHATBOT", "message": "Yes?"}], "message": "Hi"},
     [("system", "S"), ("assistant", "Yes?"), ("user", "Hi")]),
    ("completions", {"prompt": ["One", "Two"]}, [("user", "One"), ("user", "Two")]),
    ("speech", {"input": "Say this", "voice": "alloy"}, [("user", "Say this")]),
    ("none", None, []),
    ("odd", {"messages": [None, 3, {"role": 5, "content": {"x": 1}}]}, [("user", '{"x": 1}')]),
]  # fmt: skip


@pytest.mark.parametrize(("request_body", "wanted"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES])
def test_conversations_of_every_api_are_messages(request_body, wanted):
    """Each API's spelling of a conversation becomes roles and texts."""
    assert [(each["role"], each["content"]) for each in messages_of(request_body)] == wanted


def test_parameters_are_strings():
    """Values are strings, those in a nested object come up, conversation and model stay out."""
    request = {"model": "m", "contents": [], "generationConfig": {"temperature": 0.5}, "safe": None, "voice": "a"}
    assert parameters_of(request) == {"temperature": "0.5", "voice": "a"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "messages", "input", "tool_calls", "parts", "arguments"]
            )
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(json_values, json_values)
def test_no_request_or_response_is_too_odd(endpoint, plugin, request_body, response):
    """Whatever JSON a caller or provider sent, the request is there with its result and both ends."""
    endpoint.lines.clear()
    native = response if isinstance(response, dict) else {"output": response}
    for kind in (StreamType.RESPONSES, StreamType.CHAT_COMPLETION):
        plugin.on_response(context(request=request_body), processed(stream_type=kind, response=native))
    assert plugin.flush(60)
    for entity, action in (("trace", "create"), ("generation", "result"), ("generation", "end"), ("trace", "end")):
        assert len(endpoint.of(entity, action)) == 2


def test_large_requests_are_cut_to_what_maxim_takes(endpoint, plugin):
    """Megabytes of text, of turns and of base64 go out in lines that Maxim takes, the end of the talk kept."""
    turns = [{"role": "user", "content": f"turn {number} " + "\u00fc" * 2000} for number in range(3000)]
    picture = {"type": "image_generation_call", "result": "A" * 3_000_000}
    done = processed(
        stream_type=StreamType.RESPONSES,
        response={"id": "r", "output": [picture], "usage": {}},
        output_message=ChatMessage(content="long " * 1_000_000),
    )
    told(plugin, context(request={"messages": turns, "a": "b c" * 1_000_000}), done)
    assert endpoint.generation["messages"][-1]["content"].startswith("turn 2999 ")
    assert endpoint.result["output"][0]["result"] == "[3000000 characters of base64]"


def test_hooks_that_are_repeated_send_once(endpoint, plugin):
    """A response that is handed over again is not sent again."""
    ctx, done = context(), folded("openai-chat", "text")
    for _ in range(3):
        told(plugin, ctx, done)
    assert len(endpoint.of("trace", "create")) == 1


def test_what_asked_no_model_is_not_sent(endpoint, plugin):
    """A list of models, say, that passed through is no generation."""
    told(plugin, context(model=None), processed(stream_type=StreamType.PASSTHROUGH, model=None))
    assert endpoint.lines == []


def test_two_hundred_requests_at_once_arrive_once_each(endpoint, plugin):
    """From many threads at once, every trace and generation is begun and ended exactly once."""
    done = folded("openai-chat", "tools")
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: plugin.on_response(context(request_id=f"r-{number}"), done), range(200)))
    assert plugin.flush(60)
    for entity, action in (("trace", "create"), ("trace", "add-generation"), ("trace", "end"), ("generation", "end")):
        ids = [line.id for line in endpoint.of(entity, action)]
        assert len(ids) == len(set(ids)) == 200
    assert (plugin.sent, plugin.dropped, plugin.waiting) == (200, 0, 0)


async def test_the_pipeline_runs_it(endpoint):
    """Loaded by name and run by the pipeline, everything that waits is sent by the time it is closed."""
    plugin = load_plugin("maxim", {"base_url": endpoint.url, "flush_interval_s": 60})
    pipeline = Pipeline([plugin])
    await pipeline.before(ctx := context(), REQUEST)
    pipeline.finished(ctx, folded("openai-chat", "text"))
    await pipeline.close(10)
    assert len(endpoint.of("trace", "end")) == 1
    assert pipeline.status()[0].errors == {}


# ------------------------------------------------------------------------------- Maxim is slow, away, or says no


@pytest.mark.parametrize(
    "answer",
    [(500, b"{}"), (429, b"{}"), (401, b'{"error": {"message": "no"}}'), (200, b"<html>"), (307, b"")],
    ids=["500", "429", "401", "no JSON", "redirect"],
)
def test_what_could_not_be_sent_is_sent_later(endpoint, plugin, answer):
    """After failures that are not the lines' fault they are sent again, and arrive."""
    endpoint.answers = [answer, answer]
    told(plugin, context(), folded("openai-chat", "text"))
    assert len(endpoint.of("trace", "create")) == 1
    assert len(endpoint.paths) == 3


def test_a_redirect_is_not_followed(endpoint, plugin):
    """The key and the texts go to the configured host and to no other."""
    with maxim_endpoint() as elsewhere:
        endpoint.location, endpoint.answers = f"{elsewhere.url}/api/sdk/v3/log?id=x", [(307, b"")]
        told(plugin, context(), folded("openai-chat", "text"))
        assert elsewhere.paths == []
    assert len(endpoint.of("trace", "create")) == 1


@pytest.mark.parametrize("told_as", ["status", "answer", "odd answer"])
def test_only_what_is_refused_is_lost(endpoint, plugin, told_as, caplog):
    """A bad line costs its own request, which is counted; the others of the batch arrive."""
    endpoint.hold = threading.Event()
    plugin.on_response(context(request_id="first"), folded("openai-chat", "text"))
    assert endpoint.arrived.wait(60)
    for number in range(9):
        plugin.on_response(context(request_id=f"r-{number}"), folded("openai-chat", "text"))
    endpoint.refuse = "r-5"
    if told_as != "status":
        odd = b'{"error": {"message": "bad line"}}' if told_as == "answer" else b'{"error": "bad line"}'
        endpoint.take = _answering_200(endpoint.take, odd)
    endpoint.hold.set()
    assert plugin.flush(60)
    assert {line.id for line in endpoint.of("trace", "create")} == {"first"} | {
        f"r-{number}" for number in range(9) if number != 5
    }
    assert (plugin.sent, plugin.dropped) == (9, 1)
    assert "refused" in caplog.text


def _answering_200(take, body):
    def answer(*request):
        status, said = take(*request)
        return (200, body) if status == 400 else (status, said)

    return answer


def test_a_dead_endpoint_blocks_nobody_and_is_counted(tmp_path, monkeypatch, caplog):
    """With nobody listening, requests are taken at once, memory stays bounded, and the log names no key."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with dead_address() as url, caplog.at_level(logging.DEBUG):
        config = MaximConfig(base_url=url, max_waiting_bytes=50_000, flush_interval_s=0, close_timeout_s=1)
        plugin = MaximPlugin(config)
        for number in range(200):
            plugin.on_response(context(request_id=f"r-{number}"), folded("openai-chat", "text"))
        assert plugin.waiting + plugin.dropped == 200
        assert 0 < plugin.waiting < 50
        plugin.close()
    assert (plugin.dropped, plugin.sent) == (200, 0)
    assert "cannot send to Maxim (ConnectError)" in caplog.text
    assert KEY not in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_closing_does_not_wait_for_an_endpoint_that_hangs(endpoint):
    """A send that never ends is left behind at the deadline, and what it carried is counted as dropped."""
    endpoint.hold = threading.Event()
    plugin = MaximPlugin(MaximConfig(base_url=endpoint.url, flush_interval_s=0, close_timeout_s=0.2))
    plugin.on_response(context(), folded("openai-chat", "text"))
    assert endpoint.arrived.wait(60)
    plugin.close()
    plugin.close()
    assert (plugin.waiting, plugin.dropped) == (0, 1)
    plugin.on_response(context(), folded("openai-chat", "text"))
    assert plugin.dropped == 2


@pytest.mark.parametrize("hangs", [False, True], ids=["up", "hanging"])
def test_a_program_that_ends_without_closing(endpoint, hangs):
    """What waits is sent as the program ends; an endpoint that hangs cannot hold the program up."""
    endpoint.hold = threading.Event() if hangs else None
    code = f"""
import streamfold
from streamfold.hooks import RequestContext
from streamfold.plugins.maxim import MaximConfig, MaximPlugin
config = MaximConfig(base_url={endpoint.url!r}, flush_interval_s=600, close_timeout_s={0.5 if hangs else 60})
plugin = MaximPlugin(config)
with open({str(FIXTURES / "openai-chat" / "text.sse")!r}, "rb") as body:
    done = streamfold.fold(body.read(), format="openai-chat")
plugin.on_response(RequestContext(request_id="r-1"), done)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert ran.stdout == ""
    assert len(endpoint.of("trace", "end")) == (0 if hangs else 1)


def test_no_thread_is_left_behind(endpoint):
    """After closing, no thread of the plugin runs."""
    before = set(threading.enumerate())
    plugin = MaximPlugin(MaximConfig(base_url=endpoint.url, flush_interval_s=0))
    told(plugin, context(), folded("openai-chat", "text"))
    plugin.close()
    assert not [thread for thread in set(threading.enumerate()) - before if "maxim" in thread.name]


# ---------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("settings_", "environment", "words"),
    [
        ({"base_url": "ftp://x"}, {}, "plugins.maxim.base_url"),
        ({"base_url": "https://user:pw@example.com"}, {}, "plugins.maxim.base_url"),
        ({"timeout_s": -1}, {}, "plugins.maxim.timeout_s"),
        ({"repository_id": "a b"}, {}, "plugins.maxim.repository_id"),
        ({}, {"MAXIM_LOG_REPO_ID": ""}, "plugins.maxim.repository_id"),
        ({}, {"MAXIM_API_KEY": ""}, "set MAXIM_API_KEY"),
        ({"api_key_env": "OTHER_KEY"}, {}, "set OTHER_KEY"),
        ({}, {"MAXIM_API_KEY": "ключ"}, "characters that no key has"),
        ({"api_key": "x"}, {}, 'did you mean "api_key_env"'),
        ({"content": "yes"}, {}, "plugins.maxim.content"),
    ],
)
def test_mistakes_name_the_key(monkeypatch, settings_, environment, words):
    """Every mistake stops the start with the key and the fix, and without the key's value."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words) as raised:
        load_plugin("maxim", settings_)
    assert KEY not in str(raised.value)


def test_the_key_comes_from_the_variable_that_is_named(endpoint, monkeypatch):
    """`api_key_env` names another variable than the SDK's usual one."""
    monkeypatch.setenv("OTHER_KEY", " other-key\n")
    plugin = MaximPlugin(MaximConfig(base_url=endpoint.url, api_key_env="OTHER_KEY", repository_id="elsewhere"))
    told(plugin, context(), folded("openai-chat", "text"))
    plugin.close()
    assert endpoint.headers[0]["x-maxim-api-key"] == "other-key"
    assert endpoint.repositories == {"elsewhere"}


def test_messages_of_several_choices_and_spoken_ones(endpoint, plugin):
    """All choices are sent; a spoken answer is sent by its transcript."""
    spoken = ChatMessage(audio=MessageAudio(data="QUJD", transcript="Hello there"))
    choices = [Choice(0, spoken, "stop"), Choice(1, ChatMessage(content="Hi"), "length")]
    told(plugin, context(), processed(choices=choices, output_message=spoken))
    first, second = endpoint.result["choices"]
    assert first["message"]["content"] == [{"type": "audio", "transcript": "Hello there"}]
    assert (second["message"]["content"], second["finish_reason"]) == ("Hi", "length")
    assert "QUJD" not in json.dumps(endpoint.result)
