"""Usage that a server tells with every chunk, where each chunk is of one of several choices.

vLLM's `continuous_usage_stats` count the tokens which the choice of the chunk has put out so far; only the last chunk
of all, which has no choice, counts everything. Where that one never came, the prompt was read once, and the completion
is the sum of the choices.

Other servers count all choices in every chunk. Their numbers grow with each piece of output, whichever choice it is of;
so a piece whose number is no larger than the one before it, told with another choice, is what shows the first kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamfold.types import TokenUsage
from streamfold.wire.usage import count

__all__ = ["RunningUsage"]


class RunningUsage:
    """What was told so far, by choice."""

    __slots__ = ("_by_choice", "_is_apart", "_newest")

    def __init__(self) -> None:
        self._by_choice: dict[int, int] = {}
        self._newest = (-1, -1)
        self._is_apart = False

    def add(self, choice: int, usage: Mapping[str, Any], *, output: bool) -> None:
        """Takes the usage that came with a choice; `output` says whether that chunk brought any."""
        tokens = count(usage.get("completion_tokens"))
        if tokens is None:
            return
        other, before = self._newest
        if output and choice != other and tokens <= before:
            self._is_apart = True
        self._newest = choice, tokens
        self._by_choice[choice] = tokens

    def complete(self, usage: TokenUsage) -> None:
        """Puts the sum of the choices into the usage that was told last, if it is of one of them."""
        if not self._is_apart:
            return
        usage.completion_tokens = sum(self._by_choice.values())
        usage.completion_tokens_details = None  # of one choice
        usage.source = "derived"
        if usage.prompt_tokens is not None:
            usage.total_tokens = usage.prompt_tokens + usage.completion_tokens
