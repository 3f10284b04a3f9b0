"""The OpenTelemetry plugin, against a collector that decodes what the real exporter sends."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import streamfold
from otlp_receiver import Receiver, attributes, receiver
from streamfold.errors import UsageError
from streamfold.hooks import RequestContext
from streamfold.pipeline import Pipeline
from streamfold.plugins import load_plugin
from streamfold.plugins.otel import OtelConfig, OtelPlugin
from streamfold.plugins.otel.names import DURATION_BUCKETS, TOKEN_BUCKETS
from streamfold.processed import ProcessedStreamResponse
from streamfold.types import Cost

FIXTURES = Path(__file__).parent / "fixtures"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
UNSTREAMED = (
    b'{"id":"c1","object":"chat.completion","created":1,"model":"gpt-4o-2024","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}'
)
REFUSED = b'{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded","param":null}}'


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tester's own environment says of OpenTelemetry must not matter."""
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiver() as got:
        yield got


def stream(
    fixture: str, *, part: float = 1.0, outcome: str | None = None, error: Any = None, **options: Any
) -> ProcessedStreamResponse:
    """A recorded stream, fed event by event, whole or the first `part` of it."""
    body = (FIXTURES / fixture).read_bytes()
    accumulator = streamfold.StreamAccumulator(fixture.split("/")[0], max_arrivals=1000, **options)
    events = body.split(b"\n\n")
    for event in events[: int(len(events) * part)]:
        accumulator.feed(event + b"\n\n")
    return accumulator.finish(outcome, error)


def request(**about: Any) -> RequestContext:
    settings: dict[str, Any] = {
        "request_id": "r1",
        "provider": "openai",
        "model": "gpt-4o",
        "server_address": "api.openai.com",
        "server_port": 443,
        **about,
    }
    return RequestContext(**settings)


def passes(plugin: OtelPlugin, ctx: RequestContext, processed: ProcessedStreamResponse) -> None:
    """One request, as the pipeline handles it: the response in another thread."""
    plugin.pre_llm_hook(ctx, ctx.request)
    thread = threading.Thread(target=plugin.on_response, args=(ctx, processed))
    thread.start()
    thread.join()


def sent(
    collector: Receiver, ctx: RequestContext, processed: ProcessedStreamResponse, **settings: Any
) -> dict[str, Any]:
    """Handles one request, and gives the attributes of the one span that arrives."""
    plugin = OtelPlugin(OtelConfig(endpoint=collector.url, **settings))
    passes(plugin, ctx, processed)
    plugin.close()
    (span,) = collector.spans
    return attributes(span)


# ---------------------------------------------------------------------- every end


ENDS: dict[str, tuple[Callable[[], ProcessedStreamResponse], bool, str | None, int | None, list[str] | None]] = {
    "success": (lambda: stream("openai-chat/text.sse"), False, None, 21, ["stop"]),
    "error": (lambda: stream("anthropic-messages/overloaded.sse"), True, "overloaded_error", 25, ["error"]),
    "truncated": (lambda: stream("anthropic-messages/text.sse", part=0.5), True, "truncated", 2370, ["error"]),
    "cancelled": (
        lambda: stream("anthropic-messages/text.sse", part=0.5, outcome="cancelled"),
        False,
        None,
        2370,
        ["error"],
    ),
    "timeout": (
        lambda: stream("anthropic-messages/text.sse", part=0.5, outcome="timeout", error=TimeoutError("too slow")),
        True,
        "timeout",
        2370,
        ["error"],
    ),
    "abandoned": (
        lambda: stream("anthropic-messages/text.sse", part=0.5, outcome="abandoned"),
        True,
        "abandoned",
        2370,
        ["error"],
    ),
    "empty": (lambda: stream("openai-chat/text.sse", part=0), True, "empty", None, ["error"]),
    "unstreamed": (lambda: streamfold.read(UNSTREAMED, "openai-chat"), False, None, 3, ["stop"]),
    "unstreamed error": (
        lambda: streamfold.read(REFUSED, "openai-chat", status_code=429),
        True,
        "rate_limit_exceeded",
        None,
        ["error"],
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_every_end_is_one_span(collector: Receiver, end: str) -> None:
    """However a request ends, it is one span, ended once, with its status and the usage that had come by then."""
    make, failed, error_type, input_tokens, finish_reasons = ENDS[end]
    processed = make()
    plugin = OtelPlugin(OtelConfig(endpoint=collector.url))
    ctx = request()
    passes(plugin, ctx, processed)
    plugin.on_response(ctx, processed)  # said twice, it is still one
    plugin.close()

    (span,) = collector.spans
    said = attributes(span)
    assert processed.data is not None
    assert said["streamfold.outcome"] == processed.data.status == (end.removeprefix("unstreamed").strip() or "success")
    assert span.kind == Span.SPAN_KIND_CLIENT
    assert span.name == "chat gpt-4o"
    assert span.status.code == (Status.STATUS_CODE_ERROR if failed else Status.STATUS_CODE_UNSET)
    assert said.get("error.type") == error_type
    assert said.get("gen_ai.usage.input_tokens") == input_tokens
    assert said.get("gen_ai.response.finish_reasons") == finish_reasons
    assert span.start_time_unix_nano == int(ctx.started_at * 1e9)
    assert processed.data.latency_ms is not None
    assert span.end_time_unix_nano - span.start_time_unix_nano == int(processed.data.latency_ms * 1e6)
    counts = plugin.spans
    assert counts is not None
    assert (counts.ended, counts.exported, counts.failed, counts.dropped) == (1, 1, 0, 0)


def test_error_tells_what_the_provider_said(collector: Receiver) -> None:
    """The status of a failed span is the provider's own sentence, without credentials."""
    ctx = request(redact=lambda text: text.replace("slow", "[redacted]"))
    plugin = OtelPlugin(OtelConfig(endpoint=collector.url))
    passes(plugin, ctx, streamfold.read(REFUSED, "openai-chat", status_code=429))
    plugin.close()
    assert collector.spans[0].status.message == "[redacted] down"


def test_span_can_be_unbounded_in_kinds_but_not_in_error_types(collector: Receiver) -> None:
    """A provider that puts a sentence where its code should be does not make a new class of error of each."""
    body = b'{"error":{"message":"no","type":"you asked for 17 things","code":null}}'
    said = sent(collector, request(), streamfold.read(body, "openai-chat", status_code=400))
    assert said["error.type"] == "400"


# ---------------------------------------------------------------------- attributes


def test_chat_attributes(collector: Receiver) -> None:
    """A streamed chat has the attributes of the conventions, with our own under our prefix."""
    ctx = request(
        session_id="s1",
        http_status=200,
        metadata={"team": "blue"},
        request={
            "model": "gpt-4o",
            "temperature": 1,
            "top_p": 0.5,
            "max_completion_tokens": 99,
            "stop": "END",
            "seed": 7,
            "n": 1,
            "reasoning_effort": "low",
            "service_tier": "flex",
            "response_format": {"type": "json_object"},
        },
    )
    said = sent(collector, ctx, stream("openai-chat/text.sse"))
    first_chunk = said.pop("gen_ai.response.time_to_first_chunk")
    assert 0 < first_chunk < 60
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.max_tokens": 99,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.request.seed": 7,
        "gen_ai.request.reasoning.level": "low",
        "gen_ai.request.stream": True,
        "gen_ai.output.type": "json",
        "gen_ai.conversation.id": "s1",
        "gen_ai.response.id": "chatcmpl-CqT7wXr1nEo0Zb2Lk9fVhYs4DaUg6",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 17,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "openai.api.type": "chat_completions",
        "openai.request.service_tier": "flex",
        "openai.response.service_tier": "default",
        "openai.response.system_fingerprint": "fp_7e2c41d09a",
        "server.address": "api.openai.com",
        "server.port": 443,
        "http.response.status_code": 200,
        "streamfold.request.id": "r1",
        "streamfold.outcome": "success",
        "streamfold.metadata.team": "blue",
    }
    assert {key: said.get(key) for key in wanted} == wanted
    assert "gen_ai.request.choice.count" not in said


PARAMETERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "anthropic": (
        {"max_tokens": 5, "top_k": 3, "stop_sequences": ["a", "b"], "output_config": {"effort": "high"}},
        {"max_tokens": 5, "top_k": 3, "stop_sequences": ["a", "b"], "reasoning.level": "high"},
    ),
    "gemini": (
        {
            "generationConfig": {
                "temperature": 0.5,
                "topP": 0.25,
                "topK": 4.0,
                "maxOutputTokens": 6,
                "stopSequences": ["x"],
                "candidateCount": 2,
                "thinkingConfig": {"thinkingLevel": "low"},
            }
        },
        {
            "temperature": 0.5,
            "top_p": 0.25,
            "top_k": 4,
            "max_tokens": 6,
            "stop_sequences": ["x"],
            "choice.count": 2,
            "reasoning.level": "low",
        },
    ),
    "responses": (
        {"max_output_tokens": 8, "reasoning": {"effort": "medium"}, "previous_response_id": "resp_1"},
        {"max_tokens": 8, "reasoning.level": "medium", "previous_response.id": "resp_1"},
    ),
    "bedrock": (
        {"inferenceConfig": {"maxTokens": 9, "topP": 0.5, "stopSequences": ["z"]}},
        {"max_tokens": 9, "top_p": 0.5, "stop_sequences": ["z"]},
    ),
    "cohere": ({"p": 0.5, "k": 2, "frequency_penalty": 0.25}, {"top_p": 0.5, "top_k": 2, "frequency_penalty": 0.25}),
    "ollama": ({"options": {"num_predict": 3, "seed": 1}}, {"max_tokens": 3, "seed": 1}),
    "nonsense": (
        {
            "temperature": "hot",
            "max_tokens": True,
            "top_k": 1.5,
            "stop": {"a": 1},
            "seed": 2**80,
            "n": None,
            "top_p": 10**400,
        },
        {},
    ),
}


@pytest.mark.parametrize("dialect", PARAMETERS)
def test_parameters_of_all_dialects(collector: Receiver, dialect: str) -> None:
    """Request parameters are found however the format spells and nests them; what is no such value is left out."""
    body, wanted = PARAMETERS[dialect]
    said = sent(collector, request(request=body), streamfold.read(UNSTREAMED, "openai-chat"))
    found = {key.removeprefix("gen_ai.request."): said[key] for key in said if key.startswith("gen_ai.request.")}
    assert found == {"model": "gpt-4o", **wanted}


@pytest.mark.parametrize(
    ("fixture", "about", "operation", "provider", "output_type"),
    [
        ("gemini/thinking.sse", {"provider": "gemini"}, "generate_content", "gcp.gemini", None),
        (
            "gemini/thinking.sse",
            {"provider": "gemini", "server_address": "europe-west1-aiplatform.googleapis.com"},
            "generate_content",
            "gcp.vertex_ai",
            None,
        ),
        ("anthropic-messages/text.sse", {"provider": None}, "chat", "anthropic", None),
        ("bedrock-converse/text.jsonl", {"provider": None}, "chat", "aws.bedrock", None),
        ("openai-responses/text.sse", {"provider": "azure_openai"}, "chat", "azure.ai.openai", None),
        ("openai-completions/text.sse", {"provider": "my-own"}, "text_completion", "my-own", None),
        ("openai-speech/chunks.sse", {}, "speech", "openai", "speech"),
        ("openai-transcription/logprobs.sse", {}, "transcription", "openai", None),
        ("openai-images/generation.sse", {}, "image_generation", "openai", "image"),
        ("passthrough/embeddings.json", {"path": "/v1/embeddings"}, "embeddings", "openai", None),
    ],
)
def test_operations_and_providers(
    collector: Receiver, fixture: str, about: dict[str, Any], operation: str, provider: str, output_type: str | None
) -> None:
    """Operation, provider and output type have the words of the conventions, where they have one."""
    processed = streamfold.fold((FIXTURES / fixture).read_bytes(), fixture.split("/")[0])
    said = sent(collector, request(**about), processed)
    assert (said["gen_ai.operation.name"], said["gen_ai.provider.name"]) == (operation, provider)
    assert said.get("gen_ai.output.type") == output_type
    assert collector.spans[0].name == f"{operation} gpt-4o"


@pytest.mark.parametrize(
    ("profile", "name"),
    [("released", "gen_ai.usage.cache_creation.input_tokens"), ("main", "gen_ai.usage.cache_write.input_tokens")],
)
def test_cache_tokens_are_part_of_the_input(collector: Receiver, profile: Any, name: str) -> None:
    """Input tokens include what was read from a cache and written to it; the latter's name is the profile's."""
    said = sent(collector, request(), stream("anthropic-messages/text.sse"), profile=profile)
    assert said["gen_ai.usage.input_tokens"] == 12 + 310 + 2048
    assert said["gen_ai.usage.cache_read.input_tokens"] == 2048
    assert {key for key in said if "cache_creation" in key or "cache_write" in key} == {name}
    assert said[name] == 310


def test_tool_calls_and_several_choices(collector: Receiver) -> None:
    """Finish reasons are the convention's words, one for each choice."""
    said = sent(collector, request(), stream("openai-chat/two_choices.sse"))
    assert len(said["gen_ai.response.finish_reasons"]) == 2
    collector.messages["/v1/traces"].clear()
    said = sent(collector, request(), stream("openai-chat/tools.sse"))
    assert said["gen_ai.response.finish_reasons"] == ["tool_call"]


def test_cost_stands_under_our_prefix(collector: Receiver) -> None:
    """There is no convention for cost, so it is ours, and a counter sums it up."""

    class Prices:
        def cost_of(self, data: Any, request: Any = None) -> tuple[Cost, None]:
            return Cost(total_cost=0.5, input_cost=0.2, output_cost=0.3), None

    said = sent(collector, request(), stream("openai-chat/text.sse", catalog=Prices()))
    assert said["streamfold.usage.cost"] == 0.5
    assert (said["streamfold.usage.cost_source"], said["streamfold.usage.cost_complete"]) == ("catalog", True)
    (point,) = collector.metrics["streamfold.usage.cost"].sum.data_points
    assert point.as_double == 0.5


def test_values_that_cannot_be_encoded_cost_only_themselves(collector: Receiver) -> None:
    """Half a surrogate pair or a huge integer in one request does not lose the spans of others."""
    plugin = OtelPlugin(OtelConfig(endpoint=collector.url, capture_content="both"))
    body = {"seed": 2**70, "messages": [{"role": "user", "content": "\ud800", "tool_calls": [{"id": 2**70}]}], "n": "x"}
    bad = UNSTREAMED.replace(b'"prompt_tokens":3', b'"prompt_tokens":99999999999999999999')
    passes(plugin, request(request_id="\ud800", request=body), streamfold.read(bad, "openai-chat"))
    passes(plugin, request(request_id="good"), streamfold.read(UNSTREAMED, "openai-chat"))
    plugin.close()
    assert {attributes(span)["streamfold.request.id"] for span in collector.spans} == {"?", "good"}
    assert len(collector.logs) == 2


def test_resource(collector: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resource is the environment's, but a service name in the settings wins; without either it is streamfold."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=theirs")
    sent(collector, request(), stream("openai-chat/text.sse"), service_name="ours")
    assert collector.resource()["service.name"] == "ours"
    assert collector.resource("/v1/metrics")["deployment.environment.name"] == "test"
    collector.messages["/v1/traces"].clear()
    sent(collector, request(), stream("openai-chat/text.sse"))
    assert collector.resource()["service.name"] == "theirs"
    collector.messages["/v1/traces"].clear()
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES")
    sent(collector, request(), stream("openai-chat/text.sse"))
    assert collector.resource()["service.name"] == "streamfold"


# ---------------------------------------------------------------------- parents


def test_parent_from_the_headers(collector: Receiver) -> None:
    """The span belongs to the trace that came with the request."""
    ctx = request(traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=1")
    sent(collector, ctx, stream("openai-chat/text.sse"))
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, PARENT, "vendor=1")


def test_unsampled_trace_is_not_sent(collector: Receiver) -> None:
    """A caller that does not sample its trace gets no span, but is counted in the metrics."""
    plugin = OtelPlugin(OtelConfig(endpoint=collector.url))
    passes(plugin, request(traceparent=f"00-{TRACE}-{PARENT}-00"), stream("openai-chat/text.sse"))
    plugin.close()
    assert collector.spans == []
    assert "gen_ai.client.operation.duration" in collector.metrics


@pytest.mark.parametrize("header", ["", "rubbish", f"00-{'0' * 32}-{PARENT}-01"])
def test_header_that_is_none_makes_a_new_trace(collector: Receiver, header: str) -> None:
    """A traceparent that cannot be read is no parent."""
    sent(collector, request(traceparent=header), stream("openai-chat/text.sse"))
    assert collector.spans[0].parent_span_id == b""


@pytest.mark.parametrize("own_trace", [False, True])
def test_parent_in_the_program(own_trace: bool) -> None:
    """The span that is current where the request is made is the parent, also if it has taken up the headers itself."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    plugin = OtelPlugin(OtelConfig(), tracer_provider=provider, meter_provider=MeterProvider())
    with provider.get_tracer("user").start_as_current_span("user's own") as outer:
        within = outer.get_span_context()
        header = f"00-{within.trace_id:032x}-{PARENT}-01" if own_trace else None
        passes(plugin, request(traceparent=header), stream("openai-chat/text.sse"))
    plugin.close()
    inner = next(span for span in exporter.get_finished_spans() if span.name == "chat gpt-4o")
    assert inner.parent is not None
    assert (inner.parent.trace_id, inner.parent.span_id) == (within.trace_id, within.span_id)
    assert plugin.spans is None
    with provider.get_tracer("user").start_as_current_span("later"):
        pass
    assert exporter.get_finished_spans()[-1].name == "later"  # close() left the user's provider alone


def test_response_without_a_pre_hook(collector: Receiver) -> None:
    """A request whose pre hook was never called still has its parent from the headers."""
    plugin = OtelPlugin(OtelConfig(endpoint=collector.url))
    plugin.on_response(request(traceparent=f"00-{TRACE}-{PARENT}-01"), stream("openai-chat/text.sse"))
    plugin.close()
    assert collector.spans[0].parent_span_id.hex() == PARENT


def test_in_process_providers_are_found_globally() -> None:
    """A provider that the program has set globally is used, even with an endpoint in the settings, and none is made."""
    code = """
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)

        import streamfold
        from streamfold.hooks import RequestContext
        from streamfold.plugins.otel import OtelConfig, OtelPlugin
        plugin = OtelPlugin(OtelConfig(endpoint="http://127.0.0.1:1", metrics=False))
        ctx = RequestContext(request_id="r", model="m")
        plugin.pre_llm_hook(ctx, None)
        plugin.on_response(ctx, streamfold.StreamAccumulator("openai-chat").finish())
        plugin.close()
        print([span.name for span in exporter.get_finished_spans()], plugin.spans)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "['chat m'] None"
    assert 'not to "plugins.otel.endpoint"' in done.stderr


# ---------------------------------------------------------------------- metrics


def test_released_metrics(collector: Receiver) -> None:
    """The released profile has the four client metrics with the buckets of the conventions."""
    processed = stream("openai-chat/text.sse")
    sent(collector, request(), processed, chunk_metrics=True)
    found = collector.metrics
    assert set(found) == {
        "gen_ai.client.operation.duration",
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.operation.time_per_output_chunk",
        "gen_ai.client.token.usage",
    }
    for name, metric in found.items():
        tokens = name.endswith("usage")
        assert metric.unit == ("{token}" if tokens else "s")
        for point in metric.histogram.data_points:
            assert tuple(point.explicit_bounds) == (TOKEN_BUCKETS if tokens else DURATION_BUCKETS)
    labels = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "server.address": "api.openai.com",
        "server.port": 443,
    }
    (duration,) = found["gen_ai.client.operation.duration"].histogram.data_points
    assert processed.data is not None
    assert processed.data.latency_ms is not None
    assert attributes(duration) == labels
    assert duration.sum == pytest.approx(processed.data.latency_ms / 1000)
    usage = {
        attributes(point)["gen_ai.token.type"]: (point.count, point.sum)
        for point in found["gen_ai.client.token.usage"].histogram.data_points
    }
    assert usage == {"input": (1, 21), "output": (1, 17)}
    (gaps,) = found["gen_ai.client.operation.time_per_output_chunk"].histogram.data_points
    assert processed.arrivals is not None
    assert gaps.count == len(processed.arrivals) - 1 > 10
    assert gaps.sum == pytest.approx((processed.arrivals[-1] - processed.arrivals[0]) / 1e9)


def test_main_metrics(collector: Receiver) -> None:
    """The main profile has the renamed metrics, and counters of tokens by modality that add up to the total."""
    processed = streamfold.fold((FIXTURES / "openai-transcription/logprobs.sse").read_bytes(), "openai-transcription")
    sent(collector, request(), processed, profile="main")
    found = collector.metrics
    assert {name for name in found if "operation.duration" in name or "token.usage" in name} == set()
    assert "gen_ai.client.inference.duration" in found
    (point,) = found["gen_ai.client.inference.operation.input_tokens"].histogram.data_points
    assert (point.sum, tuple(point.explicit_bounds)) == (44, TOKEN_BUCKETS)
    counter = found["gen_ai.client.inference.usage.input_tokens"].sum
    assert counter.is_monotonic
    by_modality = {attributes(each)["gen_ai.token.modality"]: each.as_int for each in counter.data_points}
    assert by_modality == {"text": 4, "audio": 40}
    (output,) = found["gen_ai.client.inference.usage.output_tokens"].sum.data_points
    assert (attributes(output)["gen_ai.token.modality"], output.as_int) == ("unknown", 7)


def test_failed_requests_in_metrics(collector: Receiver) -> None:
    """A failure has its class on the duration, and tokens that nobody told are no 0."""
    sent(collector, request(), streamfold.read(REFUSED, "openai-chat", status_code=429))
    (duration,) = collector.metrics["gen_ai.client.operation.duration"].histogram.data_points
    assert attributes(duration)["error.type"] == "rate_limit_exceeded"
    assert set(collector.metrics) == {"gen_ai.client.operation.duration"}


def test_no_chunk_metrics_by_default(collector: Receiver) -> None:
    """The metric that costs a record per chunk has to be asked for."""
    sent(collector, request(), stream("openai-chat/text.sse"))
    assert "gen_ai.client.operation.time_per_output_chunk" not in collector.metrics


def test_labels_are_bounded() -> None:
    """A caller that asks for ever new models does not fill the memory of the metrics."""
    reader = InMemoryMetricReader()
    plugin = OtelPlugin(OtelConfig(), tracer_provider=TracerProvider(), meter_provider=MeterProvider([reader]))
    processed = streamfold.read(UNSTREAMED, "openai-chat")
    for number in range(300):
        plugin.on_response(request(model=f"model-{number}"), processed)
    report = reader.get_metrics_data()
    assert report is not None
    (duration,) = (
        metric
        for metric in report.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "gen_ai.client.operation.duration"
    )
    points: Any = duration.data.data_points
    counts = {point.attributes["gen_ai.request.model"]: point.count for point in points}
    assert (len(counts), counts["_OTHER"]) == (201, 100)


# ---------------------------------------------------------------------- exporting


def test_headers_come_from_the_environment_and_are_not_told(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A header named `env.NAME` is filled in from the environment; the exporter sends it, compressed by default."""
    monkeypatch.setenv("COLLECTOR_KEY", "s3cret-value")
    caplog.set_level(logging.DEBUG)
    sent(collector, request(), stream("openai-chat/text.sse"), headers={"x-key": "env.COLLECTOR_KEY", "x-team": "blue"})
    for headers in collector.headers:
        assert (headers["x-key"], headers["x-team"], headers["content-encoding"]) == ("s3cret-value", "blue", "gzip")
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(("variable", "path"), [("ENDPOINT", ""), ("TRACES_ENDPOINT", "/v1/traces")])
def test_endpoint_of_the_environment(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, variable: str, path: str
) -> None:
    """OpenTelemetry's own variables name the collector too; a signal that no variable names goes nowhere."""
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{variable}", collector.url + path)
    plugin = OtelPlugin(OtelConfig())
    passes(plugin, request(), stream("openai-chat/text.sse"))
    plugin.close()
    assert len(collector.spans) == 1
    assert (collector.metrics == {}) == bool(path)


def test_collector_that_is_down() -> None:
    """Without a collector requests go on, and what is lost is counted."""
    with socket.socket() as held:  # bound but not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        plugin = OtelPlugin(OtelConfig(endpoint=url, timeout_s=0.2, shutdown_s=20, max_waiting_spans=10))
        processed = stream("openai-chat/text.sse")
        for _ in range(100):
            passes(plugin, request(), processed)
        plugin.close()
    counts = plugin.spans
    assert counts is not None
    assert (counts.ended, counts.exported, counts.waiting) == (100, 0, 0)
    assert counts.failed + counts.dropped == 100


def test_collector_that_is_slow(caplog: pytest.LogCaptureFixture) -> None:
    """While the collector takes its time, a bounded number of spans waits, and the rest is dropped and told."""
    with socket.socket() as held:  # it takes connections and never answers
        held.bind(("127.0.0.1", 0))
        held.listen()
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        plugin = OtelPlugin(OtelConfig(endpoint=url, timeout_s=60, shutdown_s=0, max_waiting_spans=10, metrics=False))
        processed = stream("openai-chat/text.sse")
        for _ in range(100):
            passes(plugin, request(), processed)
            assert plugin.spans is not None
            assert plugin.spans.waiting <= 10
        plugin.close()
    counts = plugin.spans
    assert counts is not None
    assert (counts.ended, counts.exported) == (100, 0)
    assert counts.dropped >= 100 - 10 - counts.taken > 0
    assert "cannot keep up" in caplog.text


def test_collector_that_does_not_answer() -> None:
    """A collector that takes the connection and says nothing does not hold up the end of the program."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        plugin = OtelPlugin(OtelConfig(endpoint=url, timeout_s=30, shutdown_s=0.2))
        passes(plugin, request(), stream("openai-chat/text.sse"))
        closing = threading.Thread(target=plugin.close)
        closing.start()
        closing.join(20)
        assert not closing.is_alive()


def test_collector_that_is_full(collector: Receiver) -> None:
    """A collector that refuses makes failed spans, and closing twice is harmless."""
    collector.status = 400
    plugin = OtelPlugin(OtelConfig(endpoint=collector.url, timeout_s=1))
    passes(plugin, request(), stream("openai-chat/text.sse"))
    plugin.close()
    plugin.close()
    counts = plugin.spans
    assert counts is not None
    assert (counts.failed, counts.exported) == (1, 0)


def test_program_that_forgets_to_close(collector: Receiver) -> None:
    """What is waiting when the program ends is still sent."""
    code = f"""
        import streamfold
        from streamfold.hooks import RequestContext
        from streamfold.plugins.otel import OtelConfig, OtelPlugin
        plugin = OtelPlugin(OtelConfig(endpoint={collector.url!r}))
        plugin.on_response(RequestContext(request_id="r"), streamfold.StreamAccumulator("openai-chat").finish())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=120, check=True)
    assert len(collector.spans) == 1


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, 'nowhere to send to: set "plugins.otel.endpoint"'),
        ({"endpoint": "collector:4318"}, '"plugins.otel.endpoint" must be an http or https URL'),
        ({"endpoint": "http://me:secret@host"}, 'put them into "plugins.otel.headers"'),
        ({"endpoint": "http://host/v1/traces"}, "take out /v1/traces"),
        ({"endpoint": "http://host?x=1"}, "must end with its path"),
        (
            {"endpoint": "http://h", "headers": {"x": "env.NOT_THERE"}},
            '"plugins.otel.headers.x": the environment variable',
        ),
        ({"endpoint": "http://h", "timeout_s": 0}, '"plugins.otel.timeout_s" must be more than 0'),
        ({"endpoint": "http://h", "max_content_bytes": -1}, '"plugins.otel.max_content_bytes" is negative'),
        ({"endpont": "http://h"}, 'unknown key "plugins.otel.endpont"; did you mean "endpoint"?'),
        ({"endpoint": "http://h", "profile": "newest"}, "plugins.otel.profile"),
        ({"endpoint": "http://h", "capture_content": True}, "plugins.otel.capture_content"),
    ],
)
def test_mistakes_in_the_settings(settings: dict[str, Any], sentence: str) -> None:
    """A mistake is told with its key and the fix, and without the secret that it may hold."""
    with pytest.raises(UsageError) as caught:
        load_plugin("otel", settings)
    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)


def test_other_protocols_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment set up for gRPC is told so, instead of getting HTTP on its gRPC port."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(UsageError, match="grpc, which this plugin does not speak"):
        OtelPlugin(OtelConfig())


async def test_in_a_pipeline(collector: Receiver) -> None:
    """Loaded by name and run by the pipeline, concurrent requests are a span each, below the span of their own task."""
    plugin = load_plugin("otel", {"endpoint": collector.url})
    pipeline = Pipeline([plugin])
    outer = TracerProvider().get_tracer("user")
    spans = {}
    for number in range(20):
        ctx = request(request_id=str(number))
        with outer.start_as_current_span("user's own") as span:
            spans[str(number)] = span.get_span_context().span_id
            assert await pipeline.before(ctx, None) is None
        pipeline.finished(ctx, stream("openai-chat/text.sse"))
    await pipeline.close()
    assert [status.errors for status in pipeline.status()] == [{}]
    found = {attributes(each)["streamfold.request.id"]: int(each.parent_span_id.hex(), 16) for each in collector.spans}
    assert found == spans
    assert trace.get_current_span() is trace.INVALID_SPAN
