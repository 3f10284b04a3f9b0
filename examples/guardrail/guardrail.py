"""A guardrail: sentences pass when they are complete and hold nothing forbidden; otherwise the stream ends.

    [plugins."guardrail:Guardrail"]
    forbidden = ["(?i)project bluebird", "\\\\b\\\\d{3}-\\\\d{2}-\\\\d{4}\\\\b"]

Start the gateway where Python finds this file: `PYTHONPATH=examples/guardrail streamfold serve --config gateway.toml`.

What is looked at is the text so far, tool calls included, so a word that comes in two pieces, or a secret that begins
in one sentence and ends in the next, is found all the same. Nothing is delivered before it was looked at. A pattern
that is longer than what has come is found when it is complete; the sentences before it have gone out by then.

Each look reads the whole text again. For answers of a few pages that is nothing; for more, look at the end of it only.
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
    """`forbidden` are regular expressions."""

    forbidden: list[str]
    message: str = "this answer was stopped by a guardrail"


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
        """Looks at the text so far, whatever the chunk."""
        text = said(ctx.snapshot()) if ctx.snapshot is not None else ""
        if any(pattern.search(text) for pattern in self._forbidden):
            return End(ErrorDetails(type="content_blocked", code="content_blocked", message=self._config.message))
        complete = chunk is None or text.rstrip(" ").endswith(SENTENCE_ENDS)
        return RELEASE if complete else HOLD


def said(data: AccumulatedData) -> str:
    """All that the model says: text, refusal, arguments of tool calls."""
    parts = []
    for message in (choice.message for choice in data.choices or ()):
        if message is not None:
            parts += [message.content, message.refusal]
            parts += [call.function.arguments for call in message.tool_calls or () if call.function is not None]
    if not parts and data.output_message is not None:
        parts = [data.output_message.content, data.output_message.refusal]
    return "\n".join(part for part in parts if isinstance(part, str) and part)
