"""Token counts of the OpenAI family in the neutral convention.

OpenAI counts cache reads into the prompt tokens and reasoning into the completion tokens, which is also the
convention of `TokenUsage`. Servers that speak the API but count otherwise (xAI puts reasoning outside the completion
tokens, Portkey Claude's cache outside the prompt tokens) give themselves away by their own total.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from streamfold.types import CompletionTokensDetails, Cost, PromptTokensDetails, TokenUsage

__all__ = ["count", "is_consistent", "openai_usage", "provider_cost"]

MOST_TOKENS = 10**15
"""More than any response has; a larger number is no count."""


TICKS = 10**10
"""xAI's ticks in a dollar."""


def count(value: Any) -> int | None:
    """A token count, or None for anything that is not one (a negative number, NaN, a word)."""
    if value is None:  # as most are that are asked for
        return None
    if isinstance(value, str) and len(value) <= 15 and value.isascii() and value.isdigit():
        return int(value)  # as protobuf spells 64-bit numbers in JSON
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS else None


def openai_usage(usage: Any) -> TokenUsage:
    """The `usage` of a chat completion, a text completion, a Responses response or an image, all of one family."""
    if not isinstance(usage, dict):
        return TokenUsage(source="missing")
    prompt, completion, total, reasoning = _totals(usage)
    source: Literal["provider", "derived", "missing"] = "provider"
    if completion is not None and _is_reasoning_apart(prompt, completion, total, reasoning):
        completion += reasoning or 0
    apart = _cache_apart(usage, prompt, completion, total)
    if prompt is not None:
        prompt += apart
    if total is None and prompt is not None and completion is not None:
        total, source = prompt + completion, "derived"
    if prompt is None and completion is None and total is None:
        source = "missing"
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total,
        prompt_tokens_details=_prompt_details(usage, apart),
        completion_tokens_details=_completion_details(_details(usage, *OUTPUTS), reasoning),
        source=source,
    )


def is_consistent(usage: Any) -> bool:
    """Whether the totals of a usage add up, as far as they were said."""
    if not isinstance(usage, dict):
        return True
    prompt, completion, total, reasoning = _totals(usage)
    if (
        prompt is None
        or completion is None
        or total is None
        or _is_reasoning_apart(prompt, completion, total, reasoning)
    ):
        return True
    return prompt + _cache_apart(usage, prompt, completion, total) + completion == total


def provider_cost(usage: Any) -> Cost | None:
    """The price of a response in its provider's own words, or None if it named none in dollars.

    OpenRouter, Perplexity, DeepInfra and xAI name it in the usage, Venice as an object with a sum for each of its
    currencies.
    """
    if not isinstance(usage, dict):
        return None
    cost: Any = usage.get("cost", usage.get("estimated_cost"))
    details: Any = usage.get("cost_details")
    if isinstance(cost, dict):
        cost, details = cost.get("total_cost", cost.get("usd")), cost
    total = _dollars(cost)
    if total is None and (ticks := count(usage.get("cost_in_usd_ticks"))) is not None:
        total = ticks / TICKS
    if total is None:
        return None
    return Cost(
        total_cost=total,
        details=details if isinstance(details, dict) else None,
        source="provider",
        # With a key of one's own this is the router's fee; the model's price is on another bill.
        complete=usage.get("is_byok") is not True,
    )


INPUTS = ("prompt_tokens_details", "input_tokens_details", "input_token_details", "prompt_token_details")
OUTPUTS = ("completion_tokens_details", "output_tokens_details", "output_token_details", "completion_token_details")


def _totals(usage: Mapping[str, Any]) -> tuple[int | None, int | None, int | None, int | None]:
    """Prompt, completion, total and reasoning tokens as said."""
    reasoning = _first(_details(usage, *OUTPUTS), "reasoning_tokens")
    if reasoning is None:
        reasoning = count(usage.get("reasoning_tokens"))
    return (
        _first(usage, "prompt_tokens", "input_tokens"),
        _first(usage, "completion_tokens", "output_tokens"),
        count(usage.get("total_tokens")),
        reasoning,
    )


def _is_reasoning_apart(prompt: int | None, completion: int, total: int | None, reasoning: int | None) -> bool:
    """Whether reasoning was not counted into the completion tokens: the total shows it, or that it exceeds them."""
    if not reasoning:
        return False
    if total is None:
        return reasoning > completion
    return prompt is not None and prompt + completion + reasoning == total


def _cache_apart(usage: Mapping[str, Any], prompt: int | None, completion: int | None, total: int | None) -> int:
    """The tokens read from and written to a cache that were not counted into the prompt, as the total shows."""
    if prompt is None or completion is None or total is None or prompt + completion >= total:
        return 0
    cached, written = _cache_in_any_words(usage)
    cache = (cached or 0) + (written or 0)
    return cache if prompt + cache + completion == total else 0


def _dollars(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        return None
    return float(value)


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


def _prompt_details(usage: Mapping[str, Any], apart: int) -> PromptTokensDetails | None:
    """The details of the prompt tokens; `apart` is what `_cache_apart` says of them."""
    details = _details(usage, *INPUTS)
    cached, written = _cache(usage)
    if cached is None or written is None:
        # Anthropic's words beside OpenAI's totals (gateways before Claude) count if the prompt holds what they say.
        read, made = _cache_in_any_words(usage)
        if (read or 0) + (made or 0) <= (count(usage.get("prompt_tokens")) or 0) + apart:
            cached, written = read, made
    found = PromptTokensDetails(
        cached_read_tokens=cached,
        cached_write_tokens=written,
        text_tokens=count(details.get("text_tokens")),
        audio_tokens=count(details.get("audio_tokens")),
        image_tokens=count(details.get("image_tokens")),
    )
    return found if found != PromptTokensDetails() else None


def _cache(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Cache reads and writes."""
    details = _details(usage, *INPUTS)
    cached = _first(details, "cached_tokens", "cached_read_tokens")
    if cached is None:
        # Moonshot says it beside the totals, DeepSeek, Mistral and Inception in words of their own.
        cached = _first(usage, "cached_tokens", "prompt_cache_hit_tokens", "num_cached_tokens", "cached_input_tokens")
    written = _first(
        details, "cache_write_tokens", "cached_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens"
    )
    return cached, written


def _cache_in_any_words(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Cache reads and writes, in Anthropic's words if not in others."""
    cached, written = _cache(usage)
    if cached is None:
        cached = count(usage.get("cache_read_input_tokens"))
    if written is None:
        written = count(usage.get("cache_creation_input_tokens"))
    return cached, written


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
