"""Token counts of the OpenAI family in the neutral convention.

OpenAI counts cache reads into the prompt tokens and reasoning into the completion tokens, which is also the
convention of `TokenUsage`. Servers that speak the API but count otherwise (xAI puts reasoning outside the completion
tokens) give themselves away by their own total.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from streamfold.types import CompletionTokensDetails, PromptTokensDetails, TokenUsage

__all__ = ["count", "openai_usage"]


def count(value: Any) -> int | None:
    """A token count, or None for anything that is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value)


def openai_usage(usage: Any) -> TokenUsage:
    """The `usage` of a chat completion, a text completion, a Responses response or an image, all of one family."""
    if not isinstance(usage, dict):
        return TokenUsage(source="missing")
    prompt = _first(usage, "prompt_tokens", "input_tokens")
    completion = _first(usage, "completion_tokens", "output_tokens")
    total = count(usage.get("total_tokens"))
    inputs = _details(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    outputs = _details(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
    reasoning = _first(outputs, "reasoning_tokens")
    if reasoning is None:
        reasoning = count(usage.get("reasoning_tokens"))
    if None not in (prompt, completion, total, reasoning) and prompt + completion + reasoning == total and reasoning:  # type: ignore[operator]
        # The total shows that reasoning was not counted into the completion tokens.
        completion += reasoning  # type: ignore[operator]
    source: Literal["provider", "derived", "missing"] = "provider"
    if total is None and prompt is not None and completion is not None:
        total, source = prompt + completion, "derived"
    if prompt is None and completion is None and total is None:
        source = "missing"
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total,
        prompt_tokens_details=_prompt_details(usage, inputs),
        completion_tokens_details=_completion_details(outputs, reasoning),
        source=source,
    )


def _first(mapping: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = count(mapping.get(key))
        if value is not None:
            return value
    return None


def _details(usage: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        if isinstance(usage.get(key), dict):
            return usage[key]  # type: ignore[no-any-return]
    return {}


def _prompt_details(usage: Mapping[str, Any], details: Mapping[str, Any]) -> PromptTokensDetails | None:
    cached = _first(details, "cached_tokens", "cached_read_tokens")
    if cached is None:
        # Moonshot says it beside the totals, DeepSeek in its own words.
        cached = _first(usage, "cached_tokens", "prompt_cache_hit_tokens")
    found = PromptTokensDetails(
        cached_read_tokens=cached,
        cached_write_tokens=_first(details, "cache_write_tokens", "cached_write_tokens", "cache_creation_tokens"),
        text_tokens=count(details.get("text_tokens")),
        audio_tokens=count(details.get("audio_tokens")),
        image_tokens=count(details.get("image_tokens")),
    )
    return found if found != PromptTokensDetails() else None


def _completion_details(details: Mapping[str, Any], reasoning: int | None) -> CompletionTokensDetails | None:
    found = CompletionTokensDetails(
        reasoning_tokens=reasoning,
        text_tokens=count(details.get("text_tokens")),
        audio_tokens=count(details.get("audio_tokens")),
        image_tokens=count(details.get("image_tokens")),
        accepted_prediction_tokens=count(details.get("accepted_prediction_tokens")),
        rejected_prediction_tokens=count(details.get("rejected_prediction_tokens")),
    )
    return found if found != CompletionTokensDetails() else None
