"""What came back, in one of the two shapes that Maxim takes: a chat completion, or an object of the Responses API.

The SDK checks a result and, if it does not like it, logs that and sends neither it nor the generation's end. So what
is made here has every field it asks for, in the type it asks for. Nothing is filled in that was not said: token
counts are sent when all three are known (the SDK wants all or none; the known ones are metrics as well), and a result
of speech, transcription or images is a message that says what was made, since Maxim has no shape for those.

A response that ended badly keeps what had come, and says with `error` how it ended.
"""

from __future__ import annotations

from typing import Any, Final

from streamfold.hooks import RequestContext
from streamfold.types import JSON, AccumulatedData, ChatMessage, Choice, StreamType, ToolCall

__all__ = ["error_of", "has_output", "metrics_of", "output_text", "result_of"]

ENDS: Final = {
    "error": "the request failed",
    "cancelled": "the caller went away before the end",
    "truncated": "the response broke off before its end",
    "timeout": "the caller gave up waiting",
    "abandoned": "nobody finished the response",
    "empty": "the response was empty",
}
"""What is said of an end for which nobody gave a message."""


def result_of(ctx: RequestContext, data: AccumulatedData, *, content: bool) -> JSON:
    """The result of a generation. Without `content` it has no word of what was said."""
    if content and data.stream_type is StreamType.RESPONSES and data.response:
        result = _responses(ctx, data)
    else:
        result = _chat(ctx, data, content)
    error = error_of(data, content=content)
    if error is not None and not result.get("error"):
        result["error"] = error
    return result


def error_of(data: AccumulatedData, *, content: bool) -> dict[str, str] | None:
    """How a response ended that was no success."""
    if data.status == "success":
        return None
    said = data.error_details
    message = (said.message if said is not None and content else None) or ENDS.get(data.status, data.status)
    code = (said.code or said.status_code) if said is not None else None
    kind = said.type if said is not None else None
    return {"message": message, "code": str(code or ""), "type": kind or data.status}


def has_output(data: AccumulatedData) -> bool:
    """Whether anything came that a result can show."""
    made = data.audio_output or data.transcription_output or data.image_generation_output or data.passthrough_output
    said = data.output_message or data.choices or data.output_messages
    return bool(made or said or (data.token_usage is not None and data.token_usage.source != "missing"))


def output_text(data: AccumulatedData) -> str | None:
    """What the response says, as text."""
    message = data.output_message or (data.choices[0].message if data.choices else None)
    if message is None:
        return _made(data)
    spoken = message.audio.transcript if message.audio is not None else None
    return message.content or message.refusal or spoken


def metrics_of(data: AccumulatedData) -> dict[str, float]:
    """The figures of a response; durations in milliseconds. What is not known is left out."""
    usage, estimated = data.token_usage, data.estimated_usage
    prompt = usage.prompt_tokens_details if usage is not None else None
    completion = usage.completion_tokens_details if usage is not None else None
    per_token = data.time_per_output_token_ms
    figures = {
        "latency_ms": data.latency_ms,
        "ttft_ms": data.time_to_first_token_ms,
        "time_to_first_chunk_ms": data.time_to_first_chunk_ms,
        "time_to_first_content_ms": data.time_to_first_content_ms,
        "time_per_output_token_ms": per_token,
        "tokens_per_second": 1000 / per_token if per_token else None,
        "max_gap_ms": data.max_gap_ms,
        "chunks": data.chunks or None,
        "prompt_tokens": usage.prompt_tokens if usage is not None else None,
        "completion_tokens": usage.completion_tokens if usage is not None else None,
        "cached_read_tokens": prompt.cached_read_tokens if prompt is not None else None,
        "cached_write_tokens": prompt.cached_write_tokens if prompt is not None else None,
        "reasoning_tokens": completion.reasoning_tokens if completion is not None else None,
        "estimated_prompt_tokens": estimated.prompt_tokens if estimated is not None else None,
        "estimated_completion_tokens": estimated.completion_tokens if estimated is not None else None,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _responses(ctx: RequestContext, data: AccumulatedData) -> JSON:
    native = dict(data.response or {})
    native.pop("unknown_events", None)
    created, output, usage = native.get("created_at"), native.get("output"), native.get("usage")
    return {
        **native,
        "id": data.response_id or ctx.request_id,
        "object": "response",
        "created_at": created if isinstance(created, int | float) else int(ctx.started_at),
        "status": native["status"] if isinstance(native.get("status"), str) else "incomplete",
        "output": output if isinstance(output, list) else [],
        "usage": usage if isinstance(usage, dict) else {},
    }


def _chat(ctx: RequestContext, data: AccumulatedData, content: bool) -> JSON:
    created = (data.response or {}).get("created")
    result: JSON = {
        "id": data.response_id or ctx.request_id,
        "object": "chat.completion",
        "created": created if isinstance(created, int) else int(ctx.started_at),
        "model": data.response_model or data.model or ctx.model,
        "choices": [_choice(choice, content) for choice in _choices(data)],
        "usage": _usage(data),
    }
    return {key: value for key, value in result.items() if value is not None}


def _choices(data: AccumulatedData) -> list[Choice]:
    if data.choices:
        return data.choices
    message = data.output_message or ChatMessage(content=_made(data))
    return [Choice(0, message, data.finish_reason, data.logprobs)]


def _choice(choice: Choice, content: bool) -> JSON:
    return {
        "index": choice.index,
        "message": _message(choice.message) if content else {"role": "assistant", "content": None},
        "finish_reason": choice.finish_reason,
        "logprobs": choice.logprobs if content else None,
    }


def _message(message: ChatMessage) -> JSON:
    said: JSON = {"role": message.role or "assistant", "content": message.content}
    if message.content is None and message.audio is not None and message.audio.transcript is not None:
        said["content"] = [{"type": "audio", "transcript": message.audio.transcript}]
    elif message.content is None and message.images:
        said["content"] = f"[{len(message.images)} images]"
    for key in ("refusal", "reasoning"):
        if getattr(message, key) is not None:
            said[key] = getattr(message, key)
    if message.tool_calls:
        said["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if message.function_call is not None:
        said["function_call"] = _function(message.function_call.name, message.function_call.arguments)
    return said


def _tool_call(call: ToolCall) -> JSON:
    """A call as the SDK takes it: it knows functions only, and every field must be a string."""
    custom = call.custom or {}
    if call.function is None:
        function = _function(custom.get("name"), custom.get("input"))
    else:
        function = _function(call.function.name, call.function.arguments)
    return {"id": call.id or f"call_{call.index}", "type": call.type or "function", "function": function}


def _function(name: Any, arguments: Any) -> dict[str, str]:
    return {"name": str(name or ""), "arguments": arguments if isinstance(arguments, str) else ""}


def _usage(data: AccumulatedData) -> JSON | None:
    usage = data.token_usage
    if usage is None:
        return None
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    if None in counts:
        return {"input_audio_duration": float(usage.seconds)} if usage.seconds is not None else None
    said: JSON = dict(zip(("prompt_tokens", "completion_tokens", "total_tokens"), counts, strict=True))
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    if prompt is not None and prompt.cached_read_tokens is not None:
        said["prompt_tokens_details"] = {"cached_tokens": prompt.cached_read_tokens}
    if completion is not None and completion.reasoning_tokens is not None:
        said["completion_tokens_details"] = {"reasoning_tokens": completion.reasoning_tokens}
    return said


def _made(data: AccumulatedData) -> str | None:
    """What a response that is no conversation made, in words."""
    if data.transcription_output is not None:
        text = data.transcription_output.get("text")
        return text if isinstance(text, str) else None
    if data.audio_output is not None:
        return f"[audio: {data.audio_output.format or 'unknown format'}, {len(data.audio_output.data or b'')} bytes]"
    if data.image_generation_output is not None:
        return "\n".join(_image(image) for image in data.image_generation_output.get("images") or ()) or None
    if data.passthrough_output is not None and data.passthrough_output.body is not None:
        return data.passthrough_output.body.decode("utf-8", "replace")
    return None


def _image(image: Any) -> str:
    if not isinstance(image, dict):
        return "[image]"
    if isinstance(image.get("url"), str):
        return f"[image: {image['url']}]"
    if image.get("error"):
        return "[no image: the provider reported an error]"
    return f"[image: {len(str(image.get('b64_json') or ''))} characters of base64]"
