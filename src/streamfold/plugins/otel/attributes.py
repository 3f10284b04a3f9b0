"""What a span says of a request, without what was said in it.

All of it is read from the finished record and the request's own parameters. The rules of the record hold: a count that
nobody told is no attribute, and what we estimated stands under a name of its own.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from streamfold.hooks import RequestContext
from streamfold.plugins.otel.content import INT64, clean_text
from streamfold.plugins.otel.names import (
    OPERATION,
    PARAMETER_GROUPS,
    PARAMETERS,
    PROVIDER_OF_FORMAT,
    PROVIDERS,
    Profile,
)
from streamfold.types import AccumulatedData, TokenUsage

__all__ = ["Attributes", "Call", "call_of", "error_message", "parameters", "result", "usage_counts"]

Attributes = dict[str, Any]

MAX_TEXT: Final = 1024
MAX_METADATA: Final = 32
MAX_ITEMS: Final = 32
CODE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
"""What can be an error's class. Anything else (a sentence, say) is of too many values to count by."""

OPENAI: Final = frozenset({"openai", "azure.ai.openai"})
"""Providers whose spans have `openai.*` attributes."""


class Call(NamedTuple):
    """What identifies a request in both spans and metrics."""

    operation: str
    provider: str
    model: str | None
    response_model: str | None
    address: str | None
    port: int | None
    error_type: str | None

    @property
    def name(self) -> str:
        """The span's name."""
        return f"{self.operation} {self.model}" if self.model else self.operation

    @property
    def is_inference(self) -> bool:
        """Whether a model was asked for an answer."""
        return self.operation not in ("embeddings", "passthrough")

    @property
    def attributes(self) -> Attributes:
        """The attributes that a sampler may decide by, hence those that a span begins with."""
        out: Attributes = {}
        put(out, "gen_ai.operation.name", self.operation)
        put(out, "gen_ai.provider.name", self.provider)
        put(out, "gen_ai.request.model", self.model)
        put(out, "server.address", self.address)
        put(out, "server.port", self.port if self.address else None)
        return out


def call_of(ctx: RequestContext, data: AccumulatedData) -> Call:
    """Reads off what kind of request this was and how it failed, if it did."""
    wire_format = data.format or ctx.format or ""
    model = ctx.model or data.model
    if model is None and isinstance(ctx.request, dict) and isinstance(ctx.request.get("model"), str):
        model = ctx.request["model"]
    return Call(
        operation=_operation(wire_format, data, ctx.path),
        provider=_provider(ctx.provider or data.provider, wire_format, ctx.server_address),
        model=_short(model),
        response_model=_short(data.response_model),
        address=ctx.server_address,
        port=ctx.server_port,
        error_type=_error_type(data),
    )


def put(into: Attributes, name: str, value: Any) -> None:
    """Sets an attribute, if there is a value, and one that the exporter can encode."""
    if value is None:
        return
    if isinstance(value, str):
        value = clean_text(value[:MAX_TEXT])
    elif isinstance(value, int) and abs(value) > INT64:
        return
    into[name] = value


def _short(model: Any) -> str | None:
    return clean_text(model[:256]) if isinstance(model, str) and model else None


def _operation(wire_format: str, data: AccumulatedData, path: str | None) -> str:
    if wire_format == "gemini":
        return "generate_content"
    if data.stream_type == "passthrough" and path is not None and path.rstrip("/").endswith("/embeddings"):
        return "embeddings"
    return OPERATION[data.stream_type]


def _provider(said: str | None, wire_format: str, address: str | None) -> str:
    if address is not None and address.endswith("aiplatform.googleapis.com"):
        return "gcp.vertex_ai"  # the same API as Gemini's, of another provider to the conventions
    if said:
        return PROVIDERS.get(said.lower().replace("_", "-"), said)
    return PROVIDER_OF_FORMAT.get(wire_format.partition("-")[0], "unknown")


def _error_type(data: AccumulatedData) -> str | None:
    """The class of the failure; None for what is none.

    That our own caller went away is not a failure of the call: the conventions want neither status nor `error.type`
    for an intended cancellation.
    """
    if data.status in ("success", "cancelled"):
        return None
    if data.status != "error":
        return data.status
    error = data.error_details
    if error is None:
        return "_OTHER"
    for said in (error.code, error.type):
        if isinstance(said, str) and CODE.fullmatch(said):
            return said
    return str(error.status_code) if error.status_code is not None else "_OTHER"


def error_message(ctx: RequestContext, data: AccumulatedData) -> str | None:
    """What the provider said of the failure, without credentials. None if the caller wants nothing kept."""
    if not ctx.log_content or data.error_details is None or data.error_details.message is None:
        return None
    return clean_text(str(data.error_details.message), ctx.redact)[:MAX_TEXT]


# ---------------------------------------------------------------------- the request


def parameters(request: Any) -> Attributes:
    """The request's parameters, however its format spells and nests them."""
    groups = _groups(request)
    out: Attributes = {}
    for name, (kind, spellings) in PARAMETERS.items():
        said = next((group[each] for each in spellings for group in groups if group.get(each) is not None), None)
        put(out, name, _as(kind, said))
    if out.get("gen_ai.request.choice.count") == 1:
        del out["gen_ai.request.choice.count"]
    return out


def _groups(request: Any) -> list[dict[str, Any]]:
    """The request and the objects of parameters in it, the outermost first."""
    groups = [request] if isinstance(request, dict) else []
    for group in groups:  # it grows on the way: Gemini nests one in another
        groups += [group[key] for key in PARAMETER_GROUPS if isinstance(group.get(key), dict)]
        if len(groups) > MAX_ITEMS:
            break
    return groups


def _as(kind: type, value: Any) -> Any:
    """The value as an attribute of that type; None if it is not one."""
    if kind is list:
        items = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        return [clean_text(each[:256]) for each in items[:MAX_ITEMS] if isinstance(each, str)] or None
    if kind is str:
        return value if isinstance(value, str) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind is float:
        return float(value) if abs(value) < 1e300 else None
    return int(value) if value == value // 1 else None


def _output_type(request: Any, data: AccumulatedData) -> str | None:
    """The kind of content that the client asked for; None if it did not say."""
    if data.stream_type == "audio.speech":
        return "speech"
    if data.stream_type == "image.generation":
        return "image"
    for group in _groups(request):
        for key in ("modalities", "responseModalities", "response_modalities"):
            wanted = {str(each).lower() for each in group.get(key) or () if isinstance(group.get(key), list)}
            if "image" in wanted:
                return "image"
            if "audio" in wanted:
                return "speech"
        mime_type = group.get("responseMimeType") or group.get("response_mime_type")
        if isinstance(mime_type, str):
            return "json" if mime_type.endswith("json") else "text"
        for said in (group.get("response_format"), _inside(group, "text", "format"), group.get("format")):
            kind = said.get("type") if isinstance(said, dict) else None
            if isinstance(kind, str):
                return "json" if kind.startswith("json") or kind == "object" else kind
    return None


def _inside(holder: Any, *keys: str) -> Any:
    for key in keys:
        holder = holder.get(key) if isinstance(holder, dict) else None
    return holder


def _conversation(ctx: RequestContext) -> str | None:
    if ctx.session_id is not None:
        return ctx.session_id
    said = ctx.request.get("conversation") if isinstance(ctx.request, dict) else None
    said = said.get("id") if isinstance(said, dict) else said
    return said if isinstance(said, str) else None


# ---------------------------------------------------------------------- the response


def result(ctx: RequestContext, data: AccumulatedData, call: Call, profile: Profile) -> Attributes:
    """Everything that is known at the end, but for the attributes that the span began with, and for content."""
    out = parameters(ctx.request)
    put(out, "gen_ai.request.stream", True if data.stream else None)
    put(out, "gen_ai.output.type", _output_type(ctx.request, data))
    put(out, "gen_ai.conversation.id", _conversation(ctx))
    put(out, "gen_ai.response.id", data.response_id)
    put(out, "gen_ai.response.model", call.response_model)
    put(out, "gen_ai.response.finish_reasons", _finish_reasons(data) if call.is_inference else None)
    if data.stream:
        put(out, "gen_ai.response.time_to_first_chunk", _seconds(data.time_to_first_chunk_ms))
    for name, count in usage_counts(data.token_usage, profile).items():
        put(out, name, count)
    put(out, "error.type", call.error_type)
    put(out, "http.response.status_code", ctx.http_status)
    if call.provider in OPENAI:
        _openai(out, ctx.request, data)
    _ours(out, ctx, data)
    return out


def _finish_reasons(data: AccumulatedData) -> list[str] | None:
    """One for each answer; `error` for an answer that ended without one because the call failed."""
    told = [choice.finish_reason for choice in data.choices or ()] or [data.finish_reason]
    said = [_finish_reason(each, data) for each in told]
    return [reason for reason in said if reason is not None] or None


def _finish_reason(said: str | None, data: AccumulatedData) -> str | None:
    if said is None:
        return None if data.status == "success" else "error"
    if data.raw_finish_reason == "compaction":
        return "compaction"
    return "tool_call" if said in ("tool_calls", "function_call") else clean_text(str(said)[:64])


def usage_counts(usage: TokenUsage | None, profile: Profile) -> dict[str, int | None]:
    """The token counts by the names of their attributes. Input includes what was cached, output the reasoning."""
    if usage is None or usage.source == "missing":
        return {}
    counts = {"gen_ai.usage.input_tokens": usage.prompt_tokens, "gen_ai.usage.output_tokens": usage.completion_tokens}
    if (prompt := usage.prompt_tokens_details) is not None:
        counts["gen_ai.usage.cache_read.input_tokens"] = prompt.cached_read_tokens
        counts[profile.cache_write_tokens] = prompt.cached_write_tokens
        counts["gen_ai.usage.text.input_tokens"] = prompt.text_tokens
        counts["gen_ai.usage.audio.input_tokens"] = prompt.audio_tokens
        counts["gen_ai.usage.image.input_tokens"] = prompt.image_tokens
    if (completion := usage.completion_tokens_details) is not None:
        counts["gen_ai.usage.reasoning.output_tokens"] = completion.reasoning_tokens
        counts["gen_ai.usage.text.output_tokens"] = completion.text_tokens
        counts["gen_ai.usage.audio.output_tokens"] = completion.audio_tokens
        counts["gen_ai.usage.image.output_tokens"] = completion.image_tokens
    return counts


def _openai(out: Attributes, request: Any, data: AccumulatedData) -> None:
    kind = {"openai-chat": "chat_completions", "openai-responses": "responses"}.get(data.format or "")
    put(out, "openai.api.type", kind)
    tier = request.get("service_tier") if isinstance(request, dict) else None
    put(out, "openai.request.service_tier", tier if isinstance(tier, str) and tier != "auto" else None)
    put(out, "openai.response.service_tier", data.service_tier)
    put(out, "openai.response.system_fingerprint", data.system_fingerprint)


def _ours(out: Attributes, ctx: RequestContext, data: AccumulatedData) -> None:
    """What the conventions have no name for."""
    put(out, "streamfold.request.id", ctx.request_id)
    put(out, "streamfold.parent_request.id", ctx.parent_id)
    put(out, "streamfold.attempt", ctx.attempt or None)
    put(out, "streamfold.upstream", ctx.upstream)
    put(out, "streamfold.client", ctx.client)
    put(out, "streamfold.format", data.format)
    put(out, "streamfold.outcome", data.status)
    put(out, "streamfold.finish_reason.raw", _text_or_none(data.raw_finish_reason))
    put(out, "streamfold.chunks", data.chunks if data.stream else None)
    put(out, "streamfold.time_to_first_token", _seconds(data.time_to_first_token_ms))
    put(out, "streamfold.time_per_output_token", _seconds(data.time_per_output_token_ms))
    put(out, "streamfold.max_gap", _seconds(data.max_gap_ms))
    put(out, "streamfold.anomaly.count", len(data.integrity.anomalies) or None)
    put(out, "streamfold.anomaly.codes", data.integrity.anomalies[:MAX_ITEMS] or None)
    put(out, "streamfold.missing_chunks", len(data.integrity.missing) or None)
    put(out, "streamfold.arguments_complete", data.arguments_complete)
    put(out, "streamfold.usage.source", data.token_usage.source if data.token_usage is not None else None)
    if (guess := data.estimated_usage) is not None:
        put(out, "streamfold.estimated.input_tokens", guess.prompt_tokens)
        put(out, "streamfold.estimated.output_tokens", guess.completion_tokens)
    if (cost := data.cost) is not None:
        put(out, "streamfold.usage.cost", cost.total_cost)
        put(out, "streamfold.usage.cost_input", cost.input_cost)
        put(out, "streamfold.usage.cost_output", cost.output_cost)
        put(out, "streamfold.usage.cost_source", cost.source)
        put(out, "streamfold.usage.cost_complete", cost.complete)
    put(out, "streamfold.usage.cost_reason", data.cost_reason)
    put(out, "streamfold.cache_hit", data.cache_debug.cache_hit if data.cache_debug is not None else None)
    for key, value in list(ctx.metadata.items())[:MAX_METADATA]:
        put(out, f"streamfold.metadata.{clean_text(key[:64])}", clean_text(str(value), ctx.redact))


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(milliseconds: float | None) -> float | None:
    return milliseconds / 1000 if milliseconds is not None else None
