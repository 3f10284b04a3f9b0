"""How a response of Bedrock reads: exceptions, stop reasons, usage, and the message of the Converse API."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Final

from streamfold.growth import json_text
from streamfold.types import (
    JSON,
    ChatMessage,
    ErrorDetails,
    FunctionCall,
    PromptTokensDetails,
    TokenUsage,
    ToolCall,
)
from streamfold.wire.anthropic_messages import parsed_input
from streamfold.wire.errors import retryable
from streamfold.wire.surrogates import without_surrogates
from streamfold.wire.usage import count

__all__ = [
    "EXCEPTIONS",
    "chat_message",
    "converse_finish_reason",
    "converse_usage",
    "exception_details",
    "is_call",
    "is_exception",
    "is_refusal",
    "refusal_in",
]

EXCEPTIONS: Final = {
    "accessDeniedException": (403, False),
    "internalServerException": (500, True),
    "modelErrorException": (424, False),
    "modelNotReadyException": (429, True),
    "modelStreamErrorException": (424, True),  # "An error occurred while streaming the response. Retry your request."
    "modelTimeoutException": (408, True),
    "resourceNotFoundException": (404, False),
    "serviceQuotaExceededException": (400, False),
    "serviceUnavailableException": (503, True),
    "throttlingException": (429, True),
    "validationException": (400, False),
}
"""HTTP status of an exception by the service model, and whether to try again."""

EXCEPTION_FIELDS: Final = frozenset(
    {"message", "Message", "__type", "originalStatusCode", "originalMessage", "resourceName"}
)

COULD_NOT_DISPATCH: Final = frozenset({"Output", "Version"})
"""Fields of what AWS answers where it knows no such operation. The exception is the first."""


def is_refusal(event: Mapping[str, Any]) -> bool:
    """Whether an object is the body of an exception."""
    if event.keys() == COULD_NOT_DISPATCH:
        return "__type" in _mapping(event["Output"])
    return ("message" in event or "Message" in event) and event.keys() <= EXCEPTION_FIELDS


def refusal_in(headers: Mapping[str, str] | None) -> str | None:
    """The name of the exception in the headers of a refused request (`ThrottlingException:http://...`)."""
    for name, value in (headers or {}).items():
        if name.lower() == "x-amzn-errortype":
            return value.partition(":")[0].strip() or None
    return None


def is_exception(name: str) -> bool:
    """Whether an event's name is that of an exception."""
    return name.endswith("Exception")


def exception_details(name: str | None, said: Any) -> ErrorDetails:
    """An exception of Bedrock, from an event or from the body of a refused request, which is named by a header."""
    fields = said if isinstance(said, Mapping) else {"message": said}
    if fields.keys() == COULD_NOT_DISPATCH:
        fields = _mapping(fields["Output"])
    kind = name or (_text(fields.get("__type")) or "").rpartition("#")[2] or None
    status, again = EXCEPTIONS.get(kind[0].lower() + kind[1:], (None, None)) if kind else (None, None)
    original = fields.get("originalStatusCode")
    if status is None and isinstance(original, int) and 100 <= original <= 599:
        status = original
    message = fields.get("message") or fields.get("Message") or fields.get("originalMessage")
    return ErrorDetails(
        type=kind,
        code=kind,
        message=message if message is None or isinstance(message, str) else json_text(message),
        status_code=status,
        retryable=retryable(status) if again is None else again,
    )


FINISH_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


def converse_finish_reason(raw: Any) -> tuple[str | None, str | None]:
    """OpenAI's word for a stop reason, and the provider's own. Output that is malformed has no word there."""
    if not isinstance(raw, str) or not raw:
        return None, None
    return FINISH_REASONS.get(raw), raw


def converse_usage(usage: Any, model: str | None = None) -> tuple[TokenUsage, str | None]:
    """Bedrock's `usage` in the neutral convention, and the code of what is odd about it.

    By the documentation the prompt is `inputTokens` and what was read from and written to the cache, and the total is
    that and the output. OpenAI's models count the cache into `inputTokens` as well, and their total counts it twice:
    the sums agree, so only the name of the model tells; where it is unknown and this may be so, the code says it.
    """
    if not isinstance(usage, Mapping):
        return TokenUsage(source="missing"), None
    read = _count(usage, "cacheReadInputTokens", "cacheReadInputTokenCount")
    write = _count(usage, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
    given, completion, total = (_count(usage, key) for key in ("inputTokens", "outputTokens", "totalTokens"))
    by_ttl = _written_by_ttl(usage.get("cacheDetails"))
    cached = (read or 0) + (write or 0)
    prompt = given + cached if given is not None else None
    found = TokenUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total, source="provider")
    inputs = PromptTokensDetails(
        cached_read_tokens=read,
        cached_write_tokens=write,
        cached_write_5m_tokens=by_ttl.get("5m"),
        cached_write_1h_tokens=by_ttl.get("1h"),
    )
    found.prompt_tokens_details = inputs if inputs != PromptTokensDetails() else None
    tools = usage.get("serverToolUsage")
    found.server_tool_use = dict(tools) if isinstance(tools, Mapping) and tools else None
    if given is None or completion is None:
        if given is None and completion is None and total is None:
            found.source = "missing"
        return found, None
    return found, _settle_total(found, given, cached, completion, model or "")


def _settle_total(usage: TokenUsage, given: int, cached: int, completion: int, model: str) -> str | None:
    """Decides what the total says about the parts. Returns the code of what is odd."""
    summed = given + cached + completion
    may_include = 0 < cached <= given
    if usage.total_tokens is None:
        usage.total_tokens, usage.source = summed, "derived"
        return None
    if may_include and usage.total_tokens == given + completion:
        usage.prompt_tokens = given
        return "usage_total_mismatch"
    if usage.total_tokens != summed:
        if usage.total_tokens == given + completion:  # the total leaves the cache out
            usage.total_tokens, usage.source = summed, "derived"
        return "usage_total_mismatch"
    if not may_include or "anthropic." in model:
        return None
    if "openai." not in model:
        return "usage_cache_ambiguous"
    usage.prompt_tokens, usage.total_tokens, usage.source = given, given + completion, "derived"
    return "usage_cache_counted_twice"


def _count(usage: Mapping[str, Any], *keys: str) -> int | None:
    return next((found for key in keys if (found := count(usage.get(key))) is not None), None)


def _written_by_ttl(details: Any) -> dict[str, int]:
    """Tokens written to the cache by how long they live there."""
    out: dict[str, int] = {}
    for detail in _objects(details):
        ttl, tokens = detail.get("ttl"), count(detail.get("inputTokens"))
        if isinstance(ttl, str) and tokens is not None:
            out[ttl] = out.get(ttl, 0) + tokens
    return out


def chat_message(message: JSON) -> ChatMessage:
    content = message.get("content")
    blocks = list(_objects(content))
    texts = [text for block in blocks for text in _texts_of(block)]
    reasoning = [dict(said) for block in blocks if isinstance(said := block.get("reasoningContent"), dict)]
    # Each block is a train of thought of its own, as each summary part of a Responses item is.
    thoughts = [thought for said in reasoning if (thought := _text(_mapping(said.get("reasoningText")).get("text")))]
    citations = [_mapping(block.get("citationsContent")).get("citations") for block in blocks]
    calls = [_tool_call(block["toolUse"], place) for place, block in enumerate(b for b in blocks if is_call(b))]
    return ChatMessage(
        role=_text(message.get("role")),
        content="".join(texts) if texts else _text(content),
        reasoning="\n\n".join(thoughts) if thoughts else None,
        reasoning_details=reasoning or None,
        tool_calls=calls or None,
        annotations=[citation for each in citations for citation in _objects(each)] or None,
        images=[image for block in blocks if (image := _image(block.get("image"))) is not None] or None,
    )


def _texts_of(block: JSON) -> Iterator[str]:
    for part in (block, *_objects(_mapping(block.get("citationsContent")).get("content"))):
        if isinstance(part.get("text"), str):
            yield part["text"]


def is_call(block: Any) -> bool:
    """Whether a block is a call for the client to make. Bedrock makes those of its own tools itself."""
    use = block.get("toolUse") if isinstance(block, dict) else None
    return isinstance(use, dict) and use.get("type") != "server_tool_use"


def _tool_call(use: JSON, place: int) -> ToolCall:
    arguments, partial = use.get("input"), _text(use.get("partial_json"))
    complete = partial is None
    if partial is not None:
        arguments = partial
    elif isinstance(arguments, str):
        complete = not arguments or parsed_input(arguments)[1] is None
    elif arguments is not None:
        arguments = json_text(without_surrogates(arguments))
    return ToolCall(
        index=place,
        id=_text(use.get("toolUseId")),
        type="function",
        function=FunctionCall(_text(use.get("name")), arguments),
        arguments_complete=complete,
    )


def _image(image: Any) -> JSON | None:
    source = _mapping(_mapping(image).get("source"))
    data, uri = source.get("bytes"), _mapping(source.get("s3Location")).get("uri")
    if isinstance(data, bytes):
        data = base64.b64encode(data).decode()
    if isinstance(data, str) and data:
        kind = image.get("format")
        uri = f"data:image/{kind};base64,{data}" if kind else f"data:application/octet-stream;base64,{data}"
    return {"type": "image_url", "image_url": {"url": uri}} if isinstance(uri, str) else None


def _objects(items: Any) -> Iterator[JSON]:
    return (item for item in items if isinstance(item, dict)) if isinstance(items, list) else iter(())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
