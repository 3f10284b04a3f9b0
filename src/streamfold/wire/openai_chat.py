"""OpenAI chat completions, and the many servers that speak its dialects.

Source: the `ChatCompletionChunk` and `ChatCompletion` objects of OpenAI's API reference. A chunk is the response with
`message` spelled `delta` and every field optional; what each field does when chunks are put together is declared in
the records below, and the folded whole is their picture.

The message itself is `openai_message.py`. The dialects of this API need no names of providers: an empty string says
nothing (Azure, Ollama); `choices` may be missing, null or empty (usage chunks); usage may come on any chunk, be
cumulative, and stand at the top, in `x_groq` or inside a choice; a whole `message` beside the deltas is believed only
for what the deltas did not say (Perplexity).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from streamfold.growth import Extend, Fields, First, Identity, Latest, Merge, Record, Skip, Text, is_empty, merged
from streamfold.types import JSON, AccumulatedData, Choice, StreamType
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.openai_message import LOGPROBS, MESSAGE, Content, brings, chat_message, growing_text
from streamfold.wire.usage import openai_usage

__all__ = ["OpenAIChat", "chat_choice", "finish_reason"]


CHOICE = Record(
    index=First,
    delta=MESSAGE,
    message=Latest,
    finish_reason=Latest,
    logprobs=LOGPROBS,
    token_ids=Extend,
    content_filter_results=Merge,
    content_filter_result=Merge,
    usage=Merge,
)

CHUNK_RECORD = Record(
    id=Identity,
    object=First,
    created=First,
    model=Identity,
    choices=Skip,  # folded by index, see `_add_choice`
    obfuscation=Skip,  # padding against traffic analysis
    error=Skip,
    usage=Merge,
    x_groq=Merge,
    prompt_filter_results=Latest,
    timings=Merge,
)


class OpenAIChat(Fold):
    """Folds `chat.completion.chunk` objects into a `chat.completion`."""

    __slots__ = ("_choices", "_finishes", "_top")

    format: ClassVar[str] = "openai-chat"
    stream_type: ClassVar[StreamType] = StreamType.CHAT_COMPLETION

    def __init__(self) -> None:
        super().__init__()
        self._top = CHUNK_RECORD()
        self._choices: dict[int, Fields] | None = None
        self._finishes: set[int] = set()

    def add_event(self, event: JSON, name: str | None = None) -> int:
        choices = event.get("choices")
        error = error_of(event, name)
        if error is not None:
            self.error = error_details(error)
        self._top.add(event)
        if event.get("object") == "chat.completion":
            self.ended = True  # a whole response where a stream was expected
        if isinstance(choices, dict):
            choices = [choices]
        if not isinstance(choices, list | tuple):
            return CHUNK
        if self._choices is None:
            self._choices = {}
        flags = CHUNK
        for place, choice in enumerate(choices):
            if isinstance(choice, dict):
                flags |= self._add_choice(choice, place)
        if self._seeking and len(choices) == 1 and flags & OUTPUT and not self._finishes:
            self._look_for_plain(choices[0])
        return flags

    def _add_choice(self, choice: Mapping[str, Any], place: int) -> int:
        index = choice.get("index")
        if not isinstance(index, int):
            index = place
        assert self._choices is not None
        cell = self._choices.get(index)
        if cell is None:
            if self.full:
                return 0
            cell = self._choices[index] = CHOICE()
            cell.cell("index").add(index)
        delta = choice.get("delta")
        flags = brings(delta) if isinstance(delta, dict) else 0
        if self._finishes and flags & CONTENT and index in self._finishes:
            self.flag("content_after_finish")
        if choice.get("finish_reason"):
            self._note_replay(cell, delta)
            self._finishes.add(index)
            self.finished = True
        if not flags and isinstance(choice.get("message"), dict) and cell.get("delta") is None:
            flags = brings(choice["message"])
        if choice.get("error"):
            self.error = error_details(choice["error"])
        cell.add(choice)
        return flags

    def _note_replay(self, cell: Fields, delta: Any) -> None:
        """Notes a last delta that holds the whole answer again; the protocol says to append it all the same."""
        text = delta.get("content") if isinstance(delta, dict) else None
        message = cell.get("delta")
        content = message.get("content") if isinstance(message, Fields) else None
        if isinstance(text, str) and len(text) > 1 and isinstance(content, Content) and content.text.value() == text:
            self.flag("terminal_delta_equals_accumulated")

    def _look_for_plain(self, choice: Mapping[str, Any]) -> None:
        """Marks the frame as one whose whole effect is one string appended, if it is. See `repeat.py`."""
        delta = choice.get("delta")
        index = choice.get("index")
        if not isinstance(delta, dict):
            return
        if choice.get("logprobs") or choice.get("token_ids") or choice.get("message"):
            return
        assert self._choices is not None
        message = self._choices[index if isinstance(index, int) else 0].get("delta")
        if not isinstance(message, Fields):
            return
        leaf: tuple[tuple[str | int, ...], Text] | None = None
        for key, value in delta.items():
            if is_empty(value) or key == "role":
                continue
            if leaf is not None:
                return
            leaf = growing_text(key, value, message)
            if leaf is None:
                return
        if leaf is not None:
            path, target = leaf
            self._plain = (("choices", 0, "delta", *path), target)

    def response(self) -> JSON | None:
        top = self._top.value()
        if top is None:
            return None
        top.pop("obfuscation", None)
        top.pop("error", None)
        if top.get("object") == "chat.completion.chunk":
            top["object"] = "chat.completion"
        if self._choices is not None:
            top["choices"] = [_choice_value(self._choices[index]) for index in sorted(self._choices)]
        return top

    @property
    def anomalies(self) -> list[str]:
        for key in ("id", "model"):
            cell = self._top.get(key)
            if isinstance(cell, Identity) and cell.changed:
                self.flag(f"{key}_changed")
        return super().anomalies

    def close(self) -> None:
        super().close()
        for choice in (self._choices or {}).values():
            choice.close()

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        if str(event.get("object", "")).startswith("chat.completion"):
            return True
        choices = event.get("choices")
        if not isinstance(choices, list):
            return False
        first = choices[0] if choices else None
        return first is None or (isinstance(first, dict) and ("delta" in first or "message" in first))

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        choices = [chat_choice(choice, place) for place, choice in enumerate(_choices_of(response))]
        if choices:
            first = min(choices, key=lambda choice: choice.index)
            data.output_message = first.message
            data.tool_calls = first.message.tool_calls
            data.raw_finish_reason = first.finish_reason
            data.logprobs = first.logprobs
            for choice in choices:
                choice.finish_reason = finish_reason(choice.finish_reason)
            data.finish_reason = first.finish_reason
            if len(choices) > 1:
                data.choices = choices
        data.response_model = response.get("model") or None
        data.response_id = response.get("id") or None
        data.system_fingerprint = response.get("system_fingerprint") or None
        data.service_tier = response.get("service_tier") or None
        data.token_usage = openai_usage(_usage_of(response))


def _choice_value(cell: Fields) -> JSON:
    """A choice as the unstreamed response has it: `delta` becomes `message`."""
    out: JSON = {}
    for key, value in (cell.value() or {}).items():
        if key == "delta":
            out["message"] = value if value is not None else {}
        elif key != "message":
            out[key] = value
    whole = (cell.get("message") or Latest()).value()
    if isinstance(whole, dict):
        said = out.get("message") or {}
        out["message"] = {**whole, **{key: item for key, item in said.items() if not is_empty(item) and item != []}}
    return out


def _choices_of(response: JSON) -> list[Mapping[str, Any]]:
    choices = response.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _usage_of(response: JSON) -> Any:
    """Where the usage stands: at the top, in Groq's envelope, or inside a choice (Moonshot)."""
    usage = response.get("usage")
    if usage is None and isinstance(response.get("x_groq"), dict):
        usage = response["x_groq"].get("usage")
    if usage is None:
        for choice in _choices_of(response):
            usage = merged(usage, choice.get("usage"))
    return usage


FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "function_call",
    # Words of other servers behind this API.
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "sensitive": "content_filter",
    "safety": "content_filter",
    "refusal": "content_filter",
}


def finish_reason(raw: str | None) -> str | None:
    """OpenAI's word for a finish reason, or None for a word that has no counterpart there."""
    return FINISH_REASONS.get(raw.lower()) if raw else None


def chat_choice(choice: Mapping[str, Any], place: int) -> Choice:
    """A native choice (streamed and folded, or as it came) as a neutral one."""
    index = choice.get("index")
    logprobs = choice.get("logprobs")
    return Choice(
        index=index if isinstance(index, int) else place,
        message=chat_message(choice.get("message") or choice.get("delta") or {}),
        finish_reason=str(choice["finish_reason"]) if choice.get("finish_reason") else None,
        logprobs=logprobs if isinstance(logprobs, dict) else None,
    )
