"""What the accumulator hands to a plugin, and the whole response in OpenAI's shape.

A `ProcessedStreamResponse` is a DELTA (one chunk of a live stream) or the FINAL (everything, made once, shared by all
who ask). `to_response` turns a FINAL into the response object that OpenAI's API would have sent unstreamed for that
stream type, whoever the provider was, with the gateway's `extra_fields` beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    arrivals: Sequence[int] | None = None
    """When the reads that brought chunks came, in nanoseconds since the start of the request; null if not kept."""

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
    return {
        "id": data.response_id or data.request_id,
        "object": kind,
        "created": _created(data),
        "model": data.response_model or data.model,
    }


def _created(data: AccumulatedData) -> Any:
    """When the provider says that the response was made, else when it was asked for."""
    created = (data.response or {}).get("created")
    if not isinstance(created, int) and data.start_timestamp:
        created = int(datetime.fromisoformat(data.start_timestamp).timestamp())
    return created


SERVICE_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})
"""Words that `service_tier` can be; those of other providers (`standard`) are in the record and the native response."""


def _tail(data: AccumulatedData) -> JSON:
    said = {
        "usage": _usage(data.token_usage),
        "service_tier": data.service_tier if data.service_tier in SERVICE_TIERS else None,
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
    if message.tool_calls:
        said["tool_calls"] = [_tool_call(call, place) for place, call in enumerate(said["tool_calls"])]
    if message.annotations:
        ours = [each for each in message.annotations if _is_url_citation(each)]
        others = [each for each in message.annotations if not _is_url_citation(each)]
        said["annotations"] = ours
        if others:
            said["citations"] = others
    return {"role": "assistant", "content": None, "refusal": None, **said}


def _tool_call(call: JSON, place: int) -> JSON:
    """A call as OpenAI has it. There every call has an id, by which it is answered; elsewhere it may be its place."""
    said = {key: value for key, value in call.items() if value is not None}
    for key in ("index", "arguments_complete"):
        said.pop(key, None)
    said.setdefault("id", f"call_{place}")
    said.setdefault("type", "custom" if "custom" in said else "function")
    return said


def _is_url_citation(annotation: JSON) -> bool:
    """Whether an annotation is of the one kind that a chat message has; citations of other kinds stand beside them."""
    citation = annotation.get("url_citation")
    needed = {"url", "title", "start_index", "end_index"}
    return annotation.get("type") == "url_citation" and isinstance(citation, dict) and needed <= citation.keys()


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


def _speech(data: AccumulatedData) -> JSON:
    """Speech has no JSON response; this is the sound (base64) with what came beside it."""
    return {key: value for key, value in _native(data).items() if key != "unknown_events"}


def _transcription(data: AccumulatedData) -> JSON:
    native = _native(data)
    native.pop("unknown_events", None)
    usage = _audio_usage(native.pop("usage", None), data.token_usage)
    text = native.pop("text", None)
    said = {**native, "usage": usage} if usage is not None else native
    return {"text": text if isinstance(text, str) else "", **said}


def _audio_usage(said: Any, usage: TokenUsage | None) -> JSON | None:
    """Usage as a transcription has it: of tokens or of seconds. The provider's own words, if they are OpenAI's."""
    if isinstance(said, dict) and said.get("type") in ("tokens", "duration"):
        return said
    if usage is None:
        return None
    if usage.prompt_tokens is None and usage.completion_tokens is None:
        return {"type": "duration", "seconds": usage.seconds} if usage.seconds is not None else None
    out: JSON = {
        "type": "tokens",
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    details = usage.prompt_tokens_details
    if details is not None and (details.audio_tokens is not None or details.text_tokens is not None):
        out["input_token_details"] = {"audio_tokens": details.audio_tokens, "text_tokens": details.text_tokens}
    return out


_SERVED = {
    "background": ("transparent", "opaque"),
    "output_format": ("png", "webp", "jpeg", "gif", "svg"),
    "quality": ("low", "medium", "high", "xhigh", "max"),
}
"""What an image can have been made with. A stream may repeat what was asked instead (`auto`), which says nothing."""


def _images(data: AccumulatedData) -> JSON:
    native = _native(data)
    for key in ("unknown_events", "usage_per_image"):
        native.pop(key, None)
    for key, words in _SERVED.items():
        if native.get(key) not in words:
            native.pop(key, None)
    images = (data.image_generation_output or {}).get("images", [])
    return {**native, "created": _created(data), "data": images}


def _passthrough(data: AccumulatedData) -> JSON:
    usage = _usage(data.token_usage)
    return {**_native(data), **({"usage": usage} if usage is not None else {})}


_BODY: dict[StreamType, Callable[[AccumulatedData], JSON]] = {
    StreamType.CHAT_COMPLETION: _chat,
    StreamType.TEXT_COMPLETION: _text,
    StreamType.RESPONSES: _native,
    StreamType.AUDIO_SPEECH: _speech,
    StreamType.AUDIO_TRANSCRIPTION: _transcription,
    StreamType.IMAGE_GENERATION: _images,
    StreamType.PASSTHROUGH: _passthrough,
}
