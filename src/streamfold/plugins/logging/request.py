"""What a request body says: its parameters, the tools it offers, the last words of the user.

The APIs disagree on names, not on the idea: some keys hold what is said, one holds the tools, and all others are
parameters. So there is one list of the keys that hold content, for all of them, and a body that has none of the keys
by which an API takes its input is of a shape nobody told us: it is kept whole and not split.

Without content only parameters on a list are kept, because any other key may hold what somebody said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, TypeGuard

__all__ = ["is_word", "last_words", "parameters", "plain_parameters", "tool_names", "tools"]

INPUT: Final = frozenset(
    ("messages", "input", "inputs", "prompt", "contents", "message", "inputText", "query", "texts", "content")
)
"""The keys by which an API takes what is said."""
BESIDE: Final = frozenset(
    (
        "system", "instructions", "system_instruction", "systemInstruction", "preamble", "chat_history", "documents",
        "tool_results", "tools", "functions", "toolConfig", "suffix", "prediction", "image", "images", "mask", "file",
        "files", "template", "context", "model", "stream",
    )
)  # fmt: skip
"""Other keys that are no parameters: content, tools, and what has a column of its own."""

PLAIN: Final = frozenset(
    (
        "temperature", "top_p", "topP", "p", "top_k", "topK", "k", "min_p", "typical_p", "n", "seed", "random_seed",
        "best_of", "max_tokens", "maxTokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens",
        "max_gen_len", "maxTokenCount", "max_tool_calls", "num_predict", "num_ctx", "num_gpu", "keep_alive",
        "min_tokens", "presence_penalty", "presencePenalty", "frequency_penalty", "frequencyPenalty",
        "repetition_penalty", "repeat_penalty", "reasoning", "reasoning_effort", "effort", "thinking", "think", "type",
        "budget_tokens", "thinkingConfig", "thinkingBudget", "thinkingLevel", "includeThoughts", "thinking_config",
        "thinking_budget", "include_thoughts", "enable_thinking", "verbosity", "service_tier", "serviceTier",
        "performanceConfig", "latency", "speed", "logprobs", "top_logprobs", "responseLogprobs", "echo",
        "parallel_tool_calls", "tool_choice", "toolChoice", "disable_parallel_tool_use", "store", "background",
        "truncation", "stream_options", "include_usage", "include_obfuscation", "stream_format", "options",
        "generationConfig", "generation_config", "inferenceConfig", "textGenerationConfig", "candidateCount",
        "response_format", "responseMimeType", "responseModalities", "modalities", "text", "format", "safe_mode",
        "safe_prompt", "prompt_mode", "raw", "size", "quality", "output_format", "output_compression", "moderation",
        "partial_images", "input_fidelity", "style", "voice", "audio", "dimensions", "encoding_format",
        "timestamp_granularities", "language", "web_search_options", "search_context_size", "anthropic_version",
        "prompt_cache_retention",
    )
)  # fmt: skip
"""Parameters whose values are numbers, switches or words of an API's own vocabulary."""

NESTED: Final = frozenset(("text", "audio"))
"""Those of them that are objects of parameters in one API, and what is said in another."""

_WORD: Final = re.compile(r"[\w.:/@+-]{1,128}", re.ASCII)


def is_word(value: Any) -> TypeGuard[str]:
    """Whether a value can be a name or a code: short, and without a space."""
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def parameters(request: Any) -> dict[str, Any] | None:
    """What the request asks for besides what it says; None for a body of unknown shape."""
    if not _is_known(request):
        return None
    found = {key: value for key, value in request.items() if key not in INPUT and key not in BESIDE}
    config = request.get("toolConfig")
    if isinstance(config, dict) and (rest := {key: value for key, value in config.items() if key != "tools"}):
        found["toolConfig"] = rest
    return found


def plain_parameters(request: Any) -> dict[str, Any] | None:
    """The parameters that cannot hold what anybody said."""
    found = parameters(request)
    return _plain(found, 0) if found is not None else None


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, dict) and depth < 4:
        plain = {key: item for key, item in value.items() if key in PLAIN and (key not in NESTED or type(item) is dict)}
        kept = {key: _plain(item, depth + 1) for key, item in plain.items()}
        return {key: item for key, item in kept.items() if item is not None}
    if isinstance(value, list) and len(value) <= 16:
        kept_items = [item for item in value if is_word(item)]
        return kept_items or None
    return value if isinstance(value, bool | int | float) or is_word(value) else None


def tools(request: Any) -> list[Any] | None:
    """The tools that the request offers, as it spells them."""
    if not isinstance(request, dict):
        return None
    config = request.get("toolConfig")
    nested = config.get("tools") if isinstance(config, dict) else None
    offered = request.get("tools") or request.get("functions") or nested
    return offered if isinstance(offered, list) and offered else None


def tool_names(request: Any) -> list[dict[str, str]] | None:
    """The names of the tools that the request offers, without what they are said to do."""
    names = [{"name": name} for tool in tools(request) or () for name in _names(tool)]
    return names or None


def _names(tool: Any) -> Iterator[str]:
    if not isinstance(tool, dict):
        return
    declared = tool.get("functionDeclarations") or tool.get("function_declarations")
    if isinstance(declared, list):
        for each in declared:
            yield from _names(each)
        return
    for holder in (tool, tool.get("function"), tool.get("toolSpec"), tool.get("custom")):
        if isinstance(holder, dict) and is_word(name := holder.get("name")):
            yield name
            return
    if is_word(kind := tool.get("type")):
        yield kind


def last_words(request: Any) -> str | None:
    """What the user said last, as text; None if nothing was, or the shape is unknown."""
    if not isinstance(request, dict):
        return None
    for key in ("messages", "contents", "input", "inputs", "message", "prompt", "inputText", "query"):
        said = request.get(key)
        turns = said if isinstance(said, list) and any(isinstance(turn, dict) for turn in said) else None
        words = _last_of_user(turns) if turns is not None else _words(said)
        if words:
            return words
    return None


def _is_known(request: Any) -> bool:
    return isinstance(request, dict) and not INPUT.isdisjoint(request)


def _last_of_user(turns: list[Any]) -> str | None:
    for turn in reversed(turns):
        if not isinstance(turn, dict) or str(turn.get("role") or "user").lower() != "user":
            continue
        words = _words(turn.get("content")) or _words(turn.get("parts")) or _words(turn.get("text"))
        if words:
            return words
    return None


def _words(said: Any) -> str | None:
    """The text of a content: a text, or a list of parts of which some have one."""
    if isinstance(said, str):
        return said
    if not isinstance(said, list):
        return None
    texts = [part if isinstance(part, str) else part.get("text") for part in said if isinstance(part, str | dict)]
    return "\n".join(text for text in texts if isinstance(text, str)) or None
