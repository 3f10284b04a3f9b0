"""A guardrail: sentences pass when they are complete and hold nothing forbidden; otherwise the stream ends.

    [plugins."guardrail:Guardrail"]
    forbidden = ["(?i)project bluebird", "\\\\b\\\\d{3}-\\\\d{2}-\\\\d{4}\\\\b"]

Start the gateway where Python finds this file: `PYTHONPATH=examples/guardrail streamfold serve --config gateway.toml`.

What is looked at is the text so far, tool calls included, so a word that comes in two pieces, or a secret that begins
in one sentence and ends in the next, is found all the same. Nothing is delivered before it was looked at. A pattern
that is longer than what has come is found when it is complete; the sentences before it have gone out by then.

Each look reads what is new and `look_back` characters before it, so a long answer costs no more per chunk than a short
one. What a pattern matches can be longer than that only if it comes in one piece.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from streamfold.errors import UsageError
from streamfold.hooks import HOLD, RELEASE, End, Plugin, RequestContext
from streamfold.types import AccumulatedData, ErrorDetails

SENTENCE_ENDS = (".", "!", "?", "\n", "。", "！", "？")


class GuardrailConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`forbidden` are regular expressions; `look_back` is how long a match may be that comes in pieces."""

    forbidden: list[str]
    message: str = "this answer was stopped by a guardrail"
    look_back: int = 1000


class Guardrail(Plugin):
    """Holds until a sentence is complete; ends the stream when a forbidden pattern appears."""

    name = "guardrail"
    Config = GuardrailConfig

    def __init__(self, config: GuardrailConfig) -> None:
        self._config = config
        try:
            self._forbidden = [re.compile(pattern) for pattern in config.forbidden]
        except re.error as error:
            raise UsageError(f'"plugins.guardrail.forbidden": {error.pattern!r} is no regular expression') from None

    def post_llm_hook(self, ctx: RequestContext, chunk: Any, error: Any) -> Any:
        """Looks at what has come since the last look, whatever the chunk."""
        texts = said(ctx.snapshot()) if ctx.snapshot is not None else {}
        seen: dict[str, int] = ctx.state.setdefault(self.name, {})
        for name, text in texts.items():
            begin = max(0, seen.get(name, 0) - self._config.look_back)
            # Not a slice: with a place to begin at, `^` and `\b` still know what stands before it.
            if any(pattern.search(text, begin) for pattern in self._forbidden):
                return End(ErrorDetails(type="content_blocked", code="content_blocked", message=self._config.message))
            seen[name] = len(text)
        complete = bool(texts) and all(text[-80:].rstrip(" ").endswith(SENTENCE_ENDS) for text in texts.values())
        return RELEASE if complete or chunk is None else HOLD


def said(data: AccumulatedData) -> dict[str, str]:
    """All that the model says, by what it is: text, refusal, arguments of tool calls; of each choice."""
    messages = [(choice.index, choice.message) for choice in data.choices or ()]
    found: dict[str, Any] = {}
    for index, message in messages or [(0, data.output_message)]:
        if message is not None:
            found |= {f"{index} text": message.content, f"{index} refusal": message.refusal}
            for call in message.tool_calls or ():
                found[f"{index} call {call.index}"] = call.function.arguments if call.function is not None else None
    return {name: text for name, text in found.items() if isinstance(text, str) and text}
