"""How a Gemini response is read into the neutral record, streamed and folded or as it came."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from streamfold.growth import Base64
from streamfold.types import (
    JSON,
    AccumulatedData,
    ChatMessage,
    Choice,
    CompletionTokensDetails,
    FunctionCall,
    MessageAudio,
    PromptTokensDetails,
    TokenUsage,
    ToolCall,
)
from streamfold.wire.gemini_metadata import object_in, objects_in
from streamfold.wire.gemini_parts import is_raw_sound
from streamfold.wire.usage import count

__all__ = ["BLOCK_REASONS", "FINISH_REASONS", "enum_name", "text_of", "token_usage", "view_response"]

FINISH_REASONS: Final = (
    "", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII",
    "MALFORMED_FUNCTION_CALL",
)  # fmt: skip
"""Finish reasons by number, as Vertex AI has them: its clients are the ones that write numbers."""

BLOCK_REASONS: Final = ("", "SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT")
"""Vertex AI's block reasons by number."""

MODALITIES: Final = ("", "TEXT", "IMAGE", "VIDEO", "AUDIO", "DOCUMENT")
"""Modalities by number."""

FILTERED: Final = frozenset({
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "IMAGE_RECITATION",
    "IMAGE_PROHIBITED_CONTENT", "MODEL_ARMOR", "JAILBREAK", "ESCALATION",
})  # fmt: skip

FINISHES: Final = {"STOP": "stop", "MAX_TOKENS": "length", **dict.fromkeys(FILTERED, "content_filter")}
"""OpenAI's word for a finish reason. Failures (a malformed call, `OTHER`) have none there."""


def view_response(response: JSON, data: AccumulatedData) -> None:
    """Reads an unwrapped response into the record."""
    candidates = objects_in(response.get("candidates"))
    choices = [_choice(candidate, place) for place, candidate in enumerate(candidates)]
    if choices:
        place = min(range(len(choices)), key=lambda i: choices[i].index)
        first = choices[place]
        data.output_message = first.message
        data.tool_calls = first.message.tool_calls
        data.finish_reason = first.finish_reason
        data.raw_finish_reason = enum_name(candidates[place].get("finishReason"), FINISH_REASONS)
        data.logprobs = first.logprobs
        if len(choices) > 1:
            data.choices = choices
    blocked = enum_name(object_in(response.get("promptFeedback")).get("blockReason"), BLOCK_REASONS)
    if blocked and data.raw_finish_reason is None:
        data.finish_reason, data.raw_finish_reason = "content_filter", blocked
    data.response_model = response.get("modelVersion") or None
    data.response_id = response.get("responseId") or None
    usage = response.get("usageMetadata")
    data.service_tier = _service_tier(object_in(usage))
    data.token_usage = token_usage(usage)
    data.token_usage.server_tool_use = _searches(candidates)


def enum_name(value: Any, names: Sequence[str]) -> str | None:
    """The name of an enum value that is spelled as its name or as its number; None for the one that says nothing."""
    if isinstance(value, bool) or not value or not isinstance(value, int | str):
        return None
    if isinstance(value, int):
        return names[value] if 0 < value < len(names) else str(value)
    return None if value.endswith("_UNSPECIFIED") else value


def _choice(candidate: Mapping[str, Any], place: int) -> Choice:
    index = candidate.get("index")
    message = _message(candidate)
    reason = FINISHES.get(enum_name(candidate.get("finishReason"), FINISH_REASONS) or "")
    if reason == "stop" and message.tool_calls:
        reason = "tool_calls"  # Google says STOP there too
    return Choice(
        index=index if isinstance(index, int) else place,
        message=message,
        finish_reason=reason,
        logprobs=_logprobs(candidate.get("logprobsResult")),
    )


def _message(candidate: Mapping[str, Any]) -> ChatMessage:
    content = object_in(candidate.get("content"))
    parts = objects_in(content.get("parts"))
    role = content.get("role")
    calls = [(part, call) for part in parts if isinstance(call := part.get("functionCall"), Mapping)]
    return ChatMessage(
        role="assistant" if role == "model" else role if isinstance(role, str) else None,
        content=_joined(text_of(part) for part in parts if not part.get("thought")),
        reasoning=_joined(text_of(part) for part in parts if part.get("thought")),
        audio=_audio(parts),
        tool_calls=[_tool_call(part, call, place) for place, (part, call) in enumerate(calls)] or None,
        annotations=_annotations(candidate) or None,
        images=_images(parts) or None,
    )


def text_of(part: Mapping[str, Any]) -> str | None:
    """The text of a part. A transcript has it beside it, or only in it."""
    text = part.get("text")
    if not text and isinstance(heard := object_in(part.get("audioTranscription")).get("text"), str):
        return heard
    return text if isinstance(text, str) else None


def _joined(texts: Iterable[str | None]) -> str | None:
    """The texts as one, or None if there were none (which is not an empty text)."""
    found = [text for text in texts if text is not None]
    return "".join(found) if found else None


def _tool_call(part: Mapping[str, Any], call: Mapping[str, Any], place: int) -> ToolCall:
    args, signature = call.get("args"), part.get("thoughtSignature")
    complete = not call.get("willContinue")
    return ToolCall(
        index=place,
        id=call.get("id") or None,
        type="function",
        # A whole call without `args` has no parameters: an empty object is not written.
        function=FunctionCall(call.get("name"), _json_text({} if args is None and complete else args)),
        extra_content={"google": {"thought_signature": signature}} if signature else None,
        arguments_complete=complete,
    )


def _json_text(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError):
        # Half a character or a number that only the standard library writes.
        return json.dumps(value, separators=(",", ":"), default=str)


def _images(parts: list[Mapping[str, Any]]) -> list[JSON]:
    found = []
    for mime, data in _inline(parts):
        if mime.startswith("image/"):
            found.append({"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}})
    return found


def _audio(parts: list[Mapping[str, Any]]) -> MessageAudio | None:
    """Spoken output. Pieces of raw samples are one recording; of two files with a header the first is kept."""
    found = [(mime, data) for mime, data in _inline(parts) if mime.startswith("audio/")]
    if not found:
        return None
    mime = found[0][0]
    if not is_raw_sound(mime):
        return MessageAudio(data=found[0][1])
    whole = Base64()
    for other, data in found:
        if other == mime:
            whole.add(data)
    return MessageAudio(data=whole.value())


def _inline(parts: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Type and base64 of the binary parts of the answer."""
    found = []
    for part in parts:
        blob = object_in(part.get("inlineData"))
        mime, data = blob.get("mimeType"), blob.get("data")
        if isinstance(mime, str) and isinstance(data, str) and not part.get("thought"):
            found.append((mime, data))
    return found


def _annotations(candidate: Mapping[str, Any]) -> list[JSON]:
    """Sources as OpenAI's URL citations: the pages an answer is grounded on, then the texts it recites."""
    found: list[JSON] = []
    for chunk in objects_in(object_in(candidate.get("groundingMetadata")).get("groundingChunks")):
        for kind in ("web", "retrievedContext", "maps"):
            source = object_in(chunk.get(kind))
            if source.get("uri"):
                found.append(_citation(source, ()))
        picture = object_in(chunk.get("image"))
        if picture.get("sourceUri"):
            found.append(_citation({**picture, "uri": picture["sourceUri"]}, ()))
    metadata = object_in(candidate.get("citationMetadata"))
    for source in objects_in(metadata.get("citationSources")) + objects_in(metadata.get("citations")):
        found.append(_citation(source, (("startIndex", "start_index"), ("endIndex", "end_index"))))
    return found


def _citation(source: Mapping[str, Any], positions: tuple[tuple[str, str], ...]) -> JSON:
    names = (("uri", "url"), ("title", "title"), *positions)
    return {"type": "url_citation", "url_citation": {new: source[old] for old, new in names if old in source}}


def _logprobs(result: Any) -> JSON | None:
    """Log probabilities as OpenAI has them: an entry for each token, with its alternatives."""
    chosen = object_in(result).get("chosenCandidates")
    if not isinstance(chosen, list):
        return None
    tops = object_in(result).get("topCandidates")
    content = []
    for place, token in enumerate(objects_in(chosen)):
        top = tops[place] if isinstance(tops, list) and place < len(tops) else None
        alternatives = [_token(other) for other in objects_in(object_in(top).get("candidates"))]
        content.append({**_token(token), "top_logprobs": alternatives})
    return {"content": content}


def _token(token: Mapping[str, Any]) -> JSON:
    return {"token": token.get("token"), "logprob": token.get("logProbability")}


def _service_tier(usage: Mapping[str, Any]) -> str | None:
    """The tier that was served: in words on the Gemini API, on Vertex AI as part of the kind of traffic."""
    tier, traffic = usage.get("serviceTier"), usage.get("trafficType")
    if isinstance(tier, str) and tier:
        return tier
    if isinstance(traffic, str) and traffic.startswith("ON_DEMAND_"):
        return traffic.removeprefix("ON_DEMAND_").lower()
    return None


def _searches(candidates: list[Mapping[str, Any]]) -> JSON | None:
    """Web searches that were made for the answer; they are billed beside the tokens."""
    queries = 0
    for candidate in candidates:
        listed = object_in(candidate.get("groundingMetadata")).get("webSearchQueries")
        queries += sum(1 for query in listed if query) if isinstance(listed, list) else 0
    return {"web_search_requests": queries} if queries else None


def token_usage(usage: Any) -> TokenUsage:
    """Google counts thoughts beside the answer and a tool's results beside the prompt, and its total is their sum.

    A count that is not written is zero if the total proves it, and unknown otherwise.
    """
    if not isinstance(usage, Mapping):
        return TokenUsage(source="missing")
    prompt = _sum(usage, "promptTokenCount", "toolUsePromptTokenCount")
    completion = _sum(usage, "candidatesTokenCount", "thoughtsTokenCount")
    total = count(usage.get("totalTokenCount"))
    if prompt is None and completion is None and total is None:
        return TokenUsage(source="missing")
    derived = False
    if total is None and prompt is not None and completion is not None:
        total, derived = prompt + completion, True
    elif total is not None and prompt is not None and completion is None and total >= prompt:
        completion, derived = total - prompt, True
    elif total is not None and completion is not None and prompt is None and total >= completion:
        prompt, derived = total - completion, True
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total,
        prompt_tokens_details=_prompt_details(usage),
        completion_tokens_details=_completion_details(usage),
        source="derived" if derived else "provider",
    )


def _sum(usage: Mapping[str, Any], *keys: str) -> int | None:
    said = [number for key in keys if (number := count(usage.get(key))) is not None]
    return sum(said) if said else None


def _prompt_details(usage: Mapping[str, Any]) -> PromptTokensDetails | None:
    kinds = _by_modality(usage, "promptTokensDetails", "toolUsePromptTokensDetails")
    found = PromptTokensDetails(
        cached_read_tokens=count(usage.get("cachedContentTokenCount")),
        text_tokens=kinds.get("TEXT"),
        audio_tokens=kinds.get("AUDIO"),
        image_tokens=kinds.get("IMAGE"),
    )
    return found if found != PromptTokensDetails() else None


def _completion_details(usage: Mapping[str, Any]) -> CompletionTokensDetails | None:
    kinds = _by_modality(usage, "candidatesTokensDetails")
    found = CompletionTokensDetails(
        reasoning_tokens=count(usage.get("thoughtsTokenCount")),
        text_tokens=kinds.get("TEXT"),
        audio_tokens=kinds.get("AUDIO"),
        image_tokens=kinds.get("IMAGE"),
    )
    return found if found != CompletionTokensDetails() else None


def _by_modality(usage: Mapping[str, Any], *keys: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for key in keys:
        for entry in objects_in(usage.get(key)):
            kind, tokens = enum_name(entry.get("modality"), MODALITIES), count(entry.get("tokenCount"))
            if kind and tokens is not None:
                found[kind] = found.get(kind, 0) + tokens
    return found
