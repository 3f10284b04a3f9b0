"""OpenInference attributes (Phoenix, Arize), beside those of OpenTelemetry.

Lists are flattened into numbered attributes there, so a conversation takes many. The SDK keeps 128 attributes of a
span and sheds the first ones set, which are those that matter most; hence the budget: the newest messages that fit.
`input.value` and `output.value` have the whole, up to the limit for content.
"""

from __future__ import annotations

from typing import Any, Final

from streamfold.hooks import RequestContext
from streamfold.plugins.otel.attributes import Attributes, Call, put
from streamfold.plugins.otel.content import clean_text, encoded
from streamfold.types import JSON, AccumulatedData

__all__ = ["content_attributes", "plain_attributes"]

MAX_ATTRIBUTES: Final = 120
"""Of a span in all; a few less than the SDK keeps."""

PROVIDERS: Final = {
    "aws.bedrock": "aws",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistralai",
    "x_ai": "xai",
}
"""`llm.provider` where its word is another than that of OpenTelemetry."""


def plain_attributes(ctx: RequestContext, data: AccumulatedData, call: Call, said: Attributes) -> Attributes:
    """All but content. `said` are the OpenTelemetry attributes, of which the parameters are taken."""
    out: Attributes = {"openinference.span.kind": "EMBEDDING" if call.operation == "embeddings" else "LLM"}
    put(out, "llm.model_name", call.response_model or call.model)
    put(out, "llm.provider", PROVIDERS.get(call.provider, call.provider))
    prefix = "gen_ai.request."
    given = {key.removeprefix(prefix): value for key, value in said.items() if key.startswith(prefix)}
    if given:
        out["llm.invocation_parameters"] = encoded(given)
    put(out, "llm.finish_reason", data.finish_reason)
    put(out, "session.id", ctx.session_id)
    if ctx.metadata:
        put(out, "metadata", clean_text(encoded(ctx.metadata), ctx.redact))
    _tokens(out, data)
    if data.cost is not None:
        put(out, "llm.cost.total", data.cost.total_cost)
        put(out, "llm.cost.prompt", data.cost.input_cost)
        put(out, "llm.cost.completion", data.cost.output_cost)
    return out


def _tokens(out: Attributes, data: AccumulatedData) -> None:
    usage = data.token_usage
    if usage is None or usage.source == "missing":
        return
    put(out, "llm.token_count.prompt", usage.prompt_tokens)
    put(out, "llm.token_count.completion", usage.completion_tokens)
    put(out, "llm.token_count.total", usage.total_tokens)
    if (prompt := usage.prompt_tokens_details) is not None:
        put(out, "llm.token_count.prompt_details.cache_read", prompt.cached_read_tokens)
        put(out, "llm.token_count.prompt_details.cache_write", prompt.cached_write_tokens)
        put(out, "llm.token_count.prompt_details.audio", prompt.audio_tokens)
    if (completion := usage.completion_tokens_details) is not None:
        put(out, "llm.token_count.completion_details.reasoning", completion.reasoning_tokens)
        put(out, "llm.token_count.completion_details.audio", completion.audio_tokens)


def content_attributes(
    instructions: list[JSON], inputs: list[JSON], outputs: list[JSON], tools: list[JSON], *, taken: int
) -> Attributes:
    """What was said, out of parts that are already clean and cut. `taken` is how many attributes the span has."""
    asked = [{"role": "system", "parts": instructions}, *inputs] if instructions else inputs
    out: Attributes = {}
    if asked:
        out["input.value"] = encoded(asked)
        out["input.mime_type"] = "application/json"
    if outputs:
        out.update(_output_value(outputs))
    left = MAX_ATTRIBUTES - taken - len(out)
    for prefix, messages in (("llm.output_messages", outputs), ("llm.input_messages", asked)):
        flat = _newest(prefix, messages, left)
        left -= len(flat)
        out.update(flat)
    for at, tool in enumerate(tools[: max(left, 0)]):
        out[f"llm.tools.{at}.tool.json_schema"] = encoded(tool)
    return out


def _output_value(outputs: list[JSON]) -> Attributes:
    parts = outputs[0]["parts"]
    if len(outputs) == 1 and len(parts) == 1 and parts[0]["type"] == "text":
        return {"output.value": parts[0]["content"], "output.mime_type": "text/plain"}
    return {"output.value": encoded(outputs), "output.mime_type": "application/json"}


def _newest(prefix: str, messages: list[JSON], budget: int) -> Attributes:
    """The last messages whose attributes fit into the budget, each whole and under its own number."""
    out: Attributes = {}
    for at in range(len(messages) - 1, -1, -1):
        flat = {f"{prefix}.{at}.message.{key}": value for key, value in _message(messages[at]).items()}
        if len(out) + len(flat) > budget:
            break
        out.update(flat)
    return out


def _message(message: JSON) -> Attributes:
    out: Attributes = {"role": message["role"]}
    contents: list[Attributes] = []
    calls = 0
    for part in message["parts"]:
        kind = part.get("type")
        if kind == "tool_call":
            out.update({f"tool_calls.{calls}.tool_call.{key}": value for key, value in _tool_call(part).items()})
            calls += 1
        elif kind == "tool_call_response":
            if "id" in part:
                out["tool_call_id"] = part["id"]
            response = part.get("response")
            contents.append({"type": "text", "text": response if isinstance(response, str) else encoded(response)})
        elif kind == "uri" and part.get("modality") == "image":
            contents.append({"type": "image", "image.image.url": part["uri"]})
        elif kind in ("text", "reasoning", "refusal"):
            contents.append({"type": "reasoning" if kind == "reasoning" else "text", "text": part["content"]})
        else:
            contents.append({"type": "text", "text": encoded(part)})
    if len(contents) == 1 and contents[0]["type"] == "text":
        out["content"] = contents[0]["text"]
        return out
    for at, content in enumerate(contents):
        out.update({f"contents.{at}.message_content.{key}": value for key, value in content.items()})
    return out


def _tool_call(part: JSON) -> Attributes:
    out: Attributes = {"function.name": part["name"]}
    if "id" in part:
        out["id"] = part["id"]
    given: Any = part.get("arguments")
    if given is not None:
        out["function.arguments"] = given if isinstance(given, str) else encoded(given)
    return out
