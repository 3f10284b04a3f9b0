"""OpenAI text completions (`/v1/completions`), and the servers that still speak them.

Source: the `Completion` object of OpenAI's API reference. A stream chunk and the unstreamed response are the same
object with the same name (`text_completion`), so the whole is the chunks laid over each other: text joined, the rest
said once or last. Only `[DONE]` ends a stream; a finish reason does not, since usage may follow.

The hard part is `logprobs`, four arrays that belong together by position: entry i of each is about token i. A server
may leave one of them out of a chunk (vLLM says `top_logprobs` null where none were asked for), and a first echoed
token has no probability at all, so nulls are entries and an array that missed a chunk is made up for (`TokenLogprobs`).

Writer's older endpoint streams bare `{"value": "text"}` objects, which are text of the only choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from streamfold.growth import Extend, Fields, First, Identity, Latest, Merge, Record, Skip, Text, index_of
from streamfold.types import JSON, AccumulatedData, ChatMessage, Choice, ErrorDetails, StreamType
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.openai_chat import FAILURES, GOES_ON, finish_reason
from streamfold.wire.openai_message import of_one_token
from streamfold.wire.pings import is_ping
from streamfold.wire.running_usage import RunningUsage
from streamfold.wire.usage import openai_usage

__all__ = ["OpenAICompletions"]

PER_TOKEN = ("tokens", "token_ids", "token_logprobs", "top_logprobs", "text_offset")
"""The arrays of `logprobs` with one entry for each token."""

OTHER_LOGPROBS = Record(content=Extend, refusal=Extend)
"""The others are as in chat completions (llama.cpp, Fireworks)."""


class TokenLogprobs:
    """`logprobs` of one choice. An array that is null in some chunk gets nulls there, so that positions agree."""

    __slots__ = ("_arrays", "_null", "_others", "_shut", "_tokens")

    def __init__(self) -> None:
        self._arrays: dict[str, list[Any] | None] = {}  # None: only ever null
        self._others = OTHER_LOGPROBS()
        self._tokens = 0
        self._null = True
        self._shut = False

    def add(self, value: Any) -> None:
        if not isinstance(value, Mapping) or self._shut:
            return
        self._null = False
        before = self._tokens
        for key, item in value.items():
            if key in PER_TOKEN and (item is None or isinstance(item, list | tuple)):
                self._extend(key, item, before)
            else:
                self._others.cell(key).add(item)

    def _extend(self, key: str, items: Any, before: int) -> None:
        array = self._arrays.setdefault(key, None)
        if items is None:
            return
        if array is None:
            array = self._arrays[key] = []
        array.extend([None] * (before - len(array)))
        array.extend(items)
        self._tokens = max(self._tokens, len(array))

    def value(self) -> JSON | None:
        if self._null:
            return None
        out: JSON = {}
        for key, array in self._arrays.items():
            out[key] = None if array is None else [*array, *[None] * (self._tokens - len(array))]
        return {**out, **(self._others.value() or {})}

    def close(self) -> None:
        self._shut = True


REASONING_KEYS = ("reasoning", "reasoning_content")
"""Where servers put the reasoning of a model that is asked this way all the same (OpenRouter)."""

CHOICE = Record(
    index=First,
    text=Text,
    reasoning=Text,
    reasoning_content=Text,
    finish_reason=Latest,
    logprobs=TokenLogprobs,
    token_ids=Extend,
    content_filter_results=Merge,
)

COMPLETION = Record(
    id=Identity,
    object=First,
    created=First,
    model=Identity,
    choices=Skip,  # folded by index, see `_add_choice`
    obfuscation=Skip,  # padding against traffic analysis
    p=Skip,  # the same, of Cloudflare
    sequence_number=Skip,  # of one chunk: a response has none
    error=Skip,
    error_type=Skip,
    usage=Merge,
)

KNOWN = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "error"})
"""Fields of which a chunk of this API has at least one."""


class OpenAICompletions(Fold):
    """Folds `text_completion` chunks into one `text_completion`."""

    __slots__ = ("_choices", "_finishes", "_running", "_top")

    format: ClassVar[str] = "openai-completions"
    stream_type: ClassVar[StreamType] = StreamType.TEXT_COMPLETION
    noise: ClassVar[tuple[str, ...]] = ("p",)

    def __init__(self) -> None:
        super().__init__()
        self._top = COMPLETION()
        self._choices: dict[int, Fields] | None = None
        self._finishes: set[int] = set()
        self._running: RunningUsage | None = None

    def add_event(self, event: JSON, name: str | None = None) -> int:
        if "choices" not in event and is_ping(event, name):
            return 0
        error = error_of(event, name)
        if error is not None:
            self._fail(error, event)
            if error is event and self._choices is not None and "choices" not in event:
                return CHUNK  # its fields are none of the response's
        elif event and event.keys().isdisjoint(KNOWN):
            return self._add_value(event) if isinstance(event.get("value"), str) else self.keep_unknown(event)
        self._top.add(event)
        choices = event.get("choices")
        if not isinstance(choices, list | tuple):
            if choices is not None:
                self.flag("unexpected_shape")
            return CHUNK
        if self._choices is None:
            self._choices = {}
        flags = CHUNK
        for place, choice in enumerate(choices):
            if isinstance(choice, Mapping):
                flags |= self._add_choice(choice, place)
            else:
                self.flag("unexpected_shape")
        usage = event.get("usage")
        if usage and isinstance(usage, dict):
            self._note_usage(choices, usage, flags)
        if len(choices) == 1 and flags & OUTPUT and not self._finishes:
            self._look_for_plain(choices[0])
        return flags

    def _add_choice(self, choice: Mapping[str, Any], place: int) -> int:
        named = index_of(choice.get("index"))
        index = place if named is None else named
        cell = self._choice(index)
        if cell is None:
            return 0
        choice = _as_completion(choice)
        text = choice.get("text")
        flags = OUTPUT | CONTENT if isinstance(text, str) and text else 0
        if any(choice.get(key) for key in REASONING_KEYS):
            flags |= OUTPUT
        reason = choice.get("finish_reason")
        if reason == GOES_ON:
            choice, reason = {**choice, "finish_reason": None}, None
        if flags & CONTENT and index in self._finishes and not reason:
            self.flag("content_after_finish")
        if reason:
            self._finishes.add(index)
            self.finished = True
        if choice.get("error"):
            self._fail(choice["error"])
        elif reason and reason in FAILURES and self.error is None:
            self.error = ErrorDetails(type="error", code=reason if reason != "error" else None)
        for key, value in choice.items():
            if key == "text" and value is not None and not isinstance(value, str):
                self.flag("unexpected_shape")
            else:
                cell.cell(key).add(value)
        return flags

    def _fail(self, error: Any, beside: JSON | None = None) -> None:
        """Takes an error. The first one that says anything stays: what follows it is its consequence."""
        if self.error is None or not self.error.message:
            self.error = error_details(error, beside=beside)

    def _note_usage(self, choices: Sequence[Any], usage: JSON, flags: int) -> None:
        if not choices:
            self._running = None  # usage without a choice is that of all
        elif len(choices) == 1 and isinstance(choices[0], Mapping):
            if self._running is None:
                self._running = RunningUsage()
            self._running.add(index_of(choices[0].get("index")) or 0, usage, output=bool(flags & OUTPUT))

    def finish_view(self, data: AccumulatedData) -> None:
        if self._running is not None and data.token_usage is not None:
            self._running.complete(data.token_usage)

    def _choice(self, index: int) -> Fields | None:
        """The choice of that index, opened if need be; None when it would be a new one of a full stream."""
        if self._choices is None:
            self._choices = {}
        cell = self._choices.get(index)
        if cell is None and not self.full:
            cell = self._choices[index] = CHOICE()
        return cell

    def _add_value(self, event: JSON) -> int:
        cell = self._choice(0)
        if cell is None:
            return CHUNK
        text = cell.cell("text")
        text.add(event["value"])
        if not event["value"]:
            return CHUNK
        if isinstance(text, Text) and len(event) == 1:
            self._plain = (("value",), text)
        return CHUNK | OUTPUT | CONTENT

    def _look_for_plain(self, choice: Mapping[str, Any]) -> None:
        """Marks the frame as one whose whole effect is its text appended, if it is. See `repeat.py`."""
        if choice.get("logprobs") or choice.get("token_ids") or choice.get("error") or self.error is not None:
            return
        if choice.get("logprobs") == 0:  # a certain token
            return
        if choice.get("delta") or any(choice.get(key) for key in REASONING_KEYS):
            return
        cell = self._choice(index_of(choice.get("index")) or 0)
        text = cell.get("text") if cell is not None else None
        if isinstance(text, Text):
            self._plain = (("choices", 0, "text"), text)

    def is_complete(self) -> bool:
        return self.finished and self._finishes >= (self._choices or {}).keys()

    def response(self) -> JSON | None:
        out = self._top.value()
        unknown = self.unknown_events
        if out is None and self._choices is None and not unknown:
            return None
        out = out or {}
        out.pop("obfuscation", None)
        out.pop("p", None)
        out.pop("error", None)
        out.pop("error_type", None)
        if out.get("object") == "completion.chunk":
            out["object"] = "text.completion"  # which Together, unlike others, calls by two names
        if self._choices is not None:
            out["choices"] = [self._choices[index].value() or {} for index in sorted(self._choices)]
        return {**out, **unknown}

    def envelope(self) -> Fields:
        return self._top

    def close(self) -> None:
        super().close()
        for choice in (self._choices or {}).values():
            choice.close()

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        if event.get("object") == "text_completion" or (event.keys() == {"value"} and isinstance(event["value"], str)):
            return True
        choices = event.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        return isinstance(first, Mapping) and isinstance(first.get("text"), str)

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        listed = response.get("choices")
        choices = [
            _neutral_choice(choice, place)
            for place, choice in enumerate(listed if isinstance(listed, list) else ())
            if isinstance(choice, Mapping)
        ]
        if choices:
            first = min(choices, key=lambda choice: choice.index)
            data.output_message = first.message
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
        data.token_usage = openai_usage(response.get("usage"))


def _as_completion(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """A choice without the `delta` that some servers put beside the text (Together), or in its place."""
    logprob = choice.get("logprobs")
    if not isinstance(logprob, int | float) or isinstance(logprob, bool):
        logprob = None
    if "delta" not in choice and logprob is None:
        return choice
    delta = choice.get("delta")
    out = {key: value for key, value in choice.items() if key != "delta"}
    if logprob is not None:
        out["logprobs"] = of_one_token(logprob, delta, choice.get("text"))
    if "text" not in out and isinstance(delta, Mapping) and "content" in delta:
        out["text"] = delta["content"]
    return out


def _neutral_choice(choice: Mapping[str, Any], place: int) -> Choice:
    """A native choice as a neutral one. Nobody said who speaks, so the message has no role."""
    index, text, logprobs, reason = (choice.get(key) for key in ("index", "text", "logprobs", "finish_reason"))
    thoughts = (choice.get(key) for key in REASONING_KEYS)
    return Choice(
        index=index if isinstance(index, int) else place,
        message=ChatMessage(
            content=text if isinstance(text, str) else None,
            reasoning=next((thought for thought in thoughts if thought and isinstance(thought, str)), None),
        ),
        finish_reason=str(reason) if reason else None,
        logprobs=logprobs if isinstance(logprobs, dict) else None,
    )
