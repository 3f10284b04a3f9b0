"""What the accumulator hands to a plugin, and the whole response in OpenAI's shape.

A `ProcessedStreamResponse` is a DELTA (one chunk of a live stream) or the FINAL (everything, made once, shared by all
who ask). `to_response` turns a FINAL into the response object that OpenAI's API would have sent unstreamed for that
stream type, whoever the provider was, with the gateway's `extra_fields` beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from streamfold.errors import UsageError
from streamfold.types import JSON, AccumulatedData, ChatMessage, Choice, StreamType, TokenUsage

__all__ = ["ProcessedStreamResponse", "ResponseType"]


class ResponseType(StrEnum):
    """Which of its two forms a `ProcessedStreamResponse` has."""

    DELTA = "delta"
    FINAL = "final"


class ProcessedStreamResponse(msgspec.Struct, frozen=True, eq=False):
    """One step of a stream, as a plugin sees it.

    `data` is null for a DELTA, where `delta` says what this chunk alone brought (read when asked for, so that chunks
    nobody looks at cost nothing).
    """

    type: ResponseType
    request_id: str
    stream_type: StreamType | None = None
    format: str | None = None
    provider: str | None = None
    requested_model: str | None = None
    resolved_model: str | None = None
    data: AccumulatedData | None = None
    raw_request: Any = None
    read_delta: Callable[[], AccumulatedData | None] | None = None

    @property
    def is_final(self) -> bool:
        """Whether this is the one complete response."""
        return self.type is ResponseType.FINAL

    @property
    def delta(self) -> AccumulatedData | None:
        """What this chunk alone brought; null for a FINAL and for a chunk that was a repeat or had to wait."""
        return self.read_delta() if self.read_delta is not None else None

    def to_response(self) -> JSON:
        """The whole response in OpenAI's shape, with `extra_fields`.

        Raises `UsageError` on a DELTA, which is not whole.
        """
        if self.data is None:
            raise UsageError("to_response() needs the final response of a stream; this is a delta")
        body = _BODY.get(self.data.stream_type, _native)(self.data)
        body["extra_fields"] = {
            "request_type": _REQUEST_TYPE[self.data.stream_type],
            "provider": self.provider,
            "original_model_requested": self.requested_model,
            "resolved_model_used": self.resolved_model,
            "latency": self.data.latency_ms,
            "raw_request": self.raw_request,
            "raw_response": self.data.raw_response,
            "cache_debug": msgspec.to_builtins(self.data.cache_debug),
        }
        return body


_REQUEST_TYPE = {
    StreamType.TEXT_COMPLETION: "text_completion",
    StreamType.CHAT_COMPLETION: "chat_completion",
    StreamType.RESPONSES: "responses",
    StreamType.AUDIO_SPEECH: "speech",
    StreamType.AUDIO_TRANSCRIPTION: "transcription",
    StreamType.IMAGE_GENERATION: "image_generation",
    StreamType.PASSTHROUGH: "passthrough",
}
"""The unstreamed request type of each stream type, in the gateway's words."""


def _native(data: AccumulatedData) -> JSON:
    return dict(data.response or {})


def _envelope(data: AccumulatedData, kind: str) -> JSON:
    """What all of OpenAI's completion objects begin with. The provider's own id and creation time survive."""
    native = data.response or {}
    created = native.get("created")
    if not isinstance(created, int) and data.start_timestamp:
        created = int(datetime.fromisoformat(data.start_timestamp).timestamp())
    return {
        "id": data.response_id or data.request_id,
        "object": kind,
        "created": created,
        "model": data.response_model or data.model,
    }


def _tail(data: AccumulatedData) -> JSON:
    said = {
        "usage": _usage(data.token_usage),
        "service_tier": data.service_tier,
        "system_fingerprint": data.system_fingerprint,
    }
    return {key: value for key, value in said.items() if value is not None}


def _chat(data: AccumulatedData) -> JSON:
    native = _native(data) if data.format == "openai-chat" else {}
    native.pop("choices", None)
    choices = data.choices or _only_choice(data)
    return {
        **native,
        **_envelope(data, "chat.completion"),
        "choices": [_chat_choice(choice) for choice in choices],
        **_tail(data),
    }


def _only_choice(data: AccumulatedData) -> list[Choice]:
    if data.output_message is None:
        return []
    return [Choice(0, data.output_message, data.finish_reason, data.logprobs)]


def _chat_choice(choice: Choice) -> JSON:
    return {
        "index": choice.index,
        "message": _message(choice.message),
        "logprobs": choice.logprobs,
        "finish_reason": choice.finish_reason,
    }


def _message(message: ChatMessage) -> JSON:
    said = {key: value for key, value in msgspec.to_builtins(message).items() if value is not None}
    for call in said.get("tool_calls", ()):
        for key in ("index", "arguments_complete"):
            call.pop(key)
        for key in [key for key, value in call.items() if value is None]:
            del call[key]
        call.setdefault("type", "custom" if "custom" in call else "function")
    return {"role": "assistant", "content": None, "refusal": None, **said}


def _text(data: AccumulatedData) -> JSON:
    native = _native(data) if data.format == "openai-completions" else {}
    native.pop("choices", None)
    choices = data.choices or _only_choice(data)
    return {
        **native,
        **_envelope(data, "text_completion"),
        "choices": [
            {
                "index": choice.index,
                "text": choice.message.content or "",
                "logprobs": choice.logprobs,
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ],
        **_tail(data),
    }


def _usage(usage: TokenUsage | None) -> JSON | None:
    """The counts in OpenAI's words; None when nothing was said."""
    if usage is None or usage.source == "missing":
        return None
    out: JSON = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    if prompt is not None:
        out["prompt_tokens_details"] = {
            "cached_tokens": prompt.cached_read_tokens,
            "cache_write_tokens": prompt.cached_write_tokens,
            "audio_tokens": prompt.audio_tokens,
        }
    if completion is not None:
        out["completion_tokens_details"] = {
            "reasoning_tokens": completion.reasoning_tokens,
            "audio_tokens": completion.audio_tokens,
            "accepted_prediction_tokens": completion.accepted_prediction_tokens,
            "rejected_prediction_tokens": completion.rejected_prediction_tokens,
        }
    return out


_BODY: dict[StreamType, Callable[[AccumulatedData], JSON]] = {
    StreamType.CHAT_COMPLETION: _chat,
    StreamType.TEXT_COMPLETION: _text,
    StreamType.RESPONSES: _native,
}
