"""The bodies of the models behind Bedrock's `InvokeModel`, one fold for each family.

Source: the "inference parameters" pages of the Bedrock user guide. `InvokeModel` hands a model's own JSON through, so
there are as many formats as vendors. Most are formats of this library; some differ a little on Bedrock and are
adapted here (`Nova`, `Chat`, `Completions`). The rest are small formats of a prompt in and a text out:

    Titan         {"outputText": "...", "index": 0, "inputTextTokenCount": 5, "completionReason": null, ...}
    Llama         {"generation": "...", "prompt_token_count": 5, "generation_token_count": 1, "stop_reason": null}
    MistralText   {"outputs": [{"text": "...", "stop_reason": null}]}
    CohereText    {"text": "...", "index": 0, "is_finished": false}
    Pegasus       {"message": "...", "finishReason": "stop"}

None of these has an end marker, and a stream of them is over when it says why it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, NamedTuple

from streamfold.growth import Extend, Fields, Record, Text, index_of, is_empty
from streamfold.types import JSON, AccumulatedData, ChatMessage, Choice, StreamType, TokenUsage
from streamfold.wire.anthropic_messages import AnthropicMessages
from streamfold.wire.bedrock_blocks import Block
from streamfold.wire.bedrock_converse import BedrockConverse
from streamfold.wire.cohere_chat import CohereChat
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.openai_chat import OpenAIChat
from streamfold.wire.openai_chat import finish_reason as openai_finish_reason
from streamfold.wire.openai_completions import OpenAICompletions
from streamfold.wire.usage import count

__all__ = ["FORMAT", "family_of", "family_of_chunk"]

FORMAT: Final = "bedrock-invoke"


# ---------------------------------------------------------------------------------------------- adapted formats


class Nova(BedrockConverse):
    """Amazon Nova: the events of Converse.

    Every stretch of text comes as a block of its own, where the unstreamed message has one block: text that follows
    text goes on with it. The metadata brings empty objects where the unstreamed response has nothing.
    """

    __slots__ = ()

    format: ClassVar[str] = FORMAT

    def _block_of(self, index: int | None, kind: str) -> Block | None:
        if kind == "text" and index is not None and index not in self._newest:
            self._go_on(index)
        return super()._block_of(index, kind)

    def _go_on(self, index: int) -> None:
        """Calls the text block that stands last by a new index. Nothing is kept of the one it had."""
        last = self._last
        if last is not None and last.kind == "text" and index > last.index:
            self._newest.pop(last.index, None)
            last.index, last.stopped = index, False
            self._newest[index] = last

    def _put(self, event: JSON) -> None:
        super()._put({key: value for key, value in event.items() if value != {}})


class Chat(OpenAIChat):
    """OpenAI's chat chunks, as gpt-oss, Qwen, Jamba and many others send them.

    Mistral spells `delta` as `message` and `finish_reason` as `stop_reason`. There is no `[DONE]` on Bedrock.
    """

    __slots__ = ()

    format: ClassVar[str] = FORMAT
    has_end_marker: ClassVar[bool] = False

    def add_event(self, event: JSON, name: str | None = None) -> int:
        adapted = _with_deltas(event)
        flags = super().add_event(adapted, name)
        if adapted is not event:
            self._plain = None  # its path is that of the adapted event
        self.finished = self.finished or _stopped(event)
        return flags

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        OpenAIChat.view(_with_finish_reasons(response), data)


class Completions(OpenAICompletions):
    """OpenAI's text chunks, as DeepSeek R1 sends them, with `stop_reason` for `finish_reason`."""

    __slots__ = ()

    format: ClassVar[str] = FORMAT
    has_end_marker: ClassVar[bool] = False

    def add_event(self, event: JSON, name: str | None = None) -> int:
        flags = super().add_event(event, name)
        if _stopped(event):
            self.finished = True
            self._plain = None
        return flags

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        OpenAICompletions.view(_with_finish_reasons(response), data)


def _stopped(event: JSON) -> bool:
    return any(not is_empty(choice.get("stop_reason")) for choice in _objects(event.get("choices")))


def _with_deltas(event: JSON) -> JSON:
    """The event with `message` spelled `delta`, where a choice has no delta; the event itself if none is so."""
    choices = event.get("choices")
    if event.get("object") == "chat.completion" or not isinstance(choices, list):
        return event
    if not any(isinstance(c, dict) and isinstance(c.get("message"), dict) and "delta" not in c for c in choices):
        return event
    return {**event, "choices": [_with_delta(choice) for choice in choices]}


def _with_delta(choice: Any) -> Any:
    if not isinstance(choice, dict) or "delta" in choice:
        return choice
    return {"delta" if key == "message" else key: value for key, value in choice.items()}


def _with_finish_reasons(response: JSON) -> JSON:
    """The response with `stop_reason` where a choice has no `finish_reason`, for the view of OpenAI's formats."""
    if not _stopped(response):
        return response
    choices = [
        {**choice, "finish_reason": choice.get("finish_reason") or choice.get("stop_reason")}
        for choice in _objects(response.get("choices"))
    ]
    return {**response, "choices": choices}


# ---------------------------------------------------------------------------------------------- text models


class Spelling(NamedTuple):
    """How a text model spells its texts."""

    items: str
    """The list of texts in the unstreamed response; empty if there is one text, at the top."""
    text: str
    reason: str


class TextModel(Fold):
    """A model that answers a prompt with one text or several."""

    __slots__ = ("_items", "_top")

    format: ClassVar[str] = FORMAT
    stream_type: ClassVar[StreamType] = StreamType.TEXT_COMPLETION
    has_end_marker: ClassVar[bool] = False

    spelling: ClassVar[Spelling]
    top: ClassVar[Record]
    item: ClassVar[Record]

    def __init__(self) -> None:
        super().__init__()
        self._top = self.top()
        self._items: dict[int, Fields] = {}

    def _take(self, index: int, item: JSON) -> int:
        """Adds what a chunk says of one text."""
        cell = self._item(index)
        if cell is None:
            return 0
        said = item.get(self.spelling.text)
        if said is not None and not isinstance(said, str):
            self.flag("unexpected_shape")
            item = {key: value for key, value in item.items() if key != self.spelling.text}
        cell.add(item)
        self._note_end(item)
        return OUTPUT | CONTENT if isinstance(said, str) and said else 0

    def _item(self, index: int) -> Fields | None:
        """The text of that index, opened if need be; None when it would be a new one of a full stream."""
        cell = self._items.get(index)
        if cell is None and not self.full:
            cell = self._items[index] = self.item()
        return cell

    def _note_end(self, item: JSON) -> None:
        self.finished = self.finished or not is_empty(item.get(self.spelling.reason))

    def _mark(self, path: tuple[str | int, ...], index: int) -> None:
        """Marks the frame as one whose whole effect is its text appended. See `wire/repeat.py`."""
        cell = self._items.get(index)
        text = cell.get(self.spelling.text) if cell is not None else None
        if isinstance(text, Text) and not self.finished:
            self._plain = (path, text)

    def _take_list(self, event: JSON) -> int:
        """Adds a chunk that has the list of the unstreamed response, or is that response."""
        key = self.spelling.items
        items = event.get(key)
        self._top.add({key: value for key, value in event.items() if key != self.spelling.items})
        if not isinstance(items, list):
            self.flag("unexpected_shape")
            return CHUNK
        flags = CHUNK
        for place, item in enumerate(items):
            if isinstance(item, dict):
                flags |= self._take(_index(item, place), item)
            else:
                self.flag("unexpected_shape")
        if len(items) == 1 and flags & OUTPUT and event.keys() == {key}:
            self._mark((key, 0, self.spelling.text), _index(items[0], 0))
        return flags

    def close(self) -> None:
        super().close()
        for item in self._items.values():
            item.close()

    def response(self) -> JSON | None:
        out = self._top.value() or {}
        if self._items:
            out[self.spelling.items] = [self._items[index].value() or {} for index in sorted(self._items)]
        return {**out, **self.unknown_events} or None


class Titan(TextModel):
    """Amazon Titan Text. The unstreamed `tokenCount` is the total that the last chunk tells."""

    __slots__ = ()

    spelling = Spelling("results", "outputText", "completionReason")
    top = Record()
    item = Record(outputText=Text)

    def add_event(self, event: JSON, name: str | None = None) -> int:
        if "results" in event:  # a whole body
            self.ended = True
            return self._take_list(event)
        index = _index(event, 0)
        item = {ITEM_OF_TITAN[key]: value for key, value in event.items() if key in ITEM_OF_TITAN}
        self._top.add({key: value for key, value in event.items() if key not in ITEM_OF_TITAN and key != "index"})
        flags = CHUNK | self._take(index, item)
        if event.get("totalOutputTextTokenCount") is not None:
            self.finished = True  # a guardrail that blocks gives no reason, but its chunk has the total
        elif flags & OUTPUT and event.keys() <= TITAN_CHUNK:
            self._mark(("outputText",), index)
        return flags

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        results = _objects(response.get("results"))
        counts = [tokens for item in results if (tokens := count(item.get("tokenCount"))) is not None]
        _view_texts(results, Titan.spelling, data)
        data.token_usage = _usage(count(response.get("inputTextTokenCount")), sum(counts) if counts else None)


ITEM_OF_TITAN: Final = {
    "totalOutputTextTokenCount": "tokenCount",
    "outputText": "outputText",
    "completionReason": "completionReason",
}
TITAN_CHUNK: Final = frozenset({*ITEM_OF_TITAN, "index", "inputTextTokenCount"})


class Llama(TextModel):
    """Meta Llama, and what is imported in its place. Both counts are cumulative; null says nothing.

    An imported model may say how probable its tokens were: `logprobs` has an entry for each token of its chunk.
    """

    __slots__ = ()

    spelling = Spelling("", "generation", "stop_reason")
    top = Record(generation=Text, logprobs=Extend)
    item = Record()

    def add_event(self, event: JSON, name: str | None = None) -> int:
        said = event.get("generation")
        if said is not None and not isinstance(said, str):
            self.flag("unexpected_shape")
            event = {key: value for key, value in event.items() if key != "generation"}
        if self.full and "logprobs" in event:
            event = {key: value for key, value in event.items() if key != "logprobs"}
        self._top.add(event)
        self._note_end(event)
        return CHUNK | OUTPUT | CONTENT if isinstance(said, str) and said else CHUNK

    def close(self) -> None:
        super().close()
        self._top.cell("generation").close()

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        _view_texts([response], Llama.spelling, data)
        data.token_usage = _usage(
            count(response.get("prompt_token_count")), count(response.get("generation_token_count"))
        )


class MistralText(TextModel):
    """Mistral's models that are given a prompt."""

    __slots__ = ()

    spelling = Spelling("outputs", "text", "stop_reason")
    top = Record()
    item = Record(text=Text)

    def add_event(self, event: JSON, name: str | None = None) -> int:
        return self._take_list(event)

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        _view_texts(_objects(response.get("outputs")), MistralText.spelling, data)


class CohereText(TextModel):
    """Cohere Command, the models that generate. Texts come one after the other, by `index`.

    The last chunk has no index: its reason is that of every text which gave none.
    """

    __slots__ = ()

    spelling = Spelling("generations", "text", "finish_reason")
    top = Record()
    item = Record(text=Text)

    def add_event(self, event: JSON, name: str | None = None) -> int:
        if "generations" in event:  # a whole body
            self.ended = True
            return self._take_list(event)
        if event.get("is_finished") and "index" not in event and "text" not in event:
            return self._end(event)
        index = _index(event, 0)
        item = {key: value for key, value in event.items() if key not in ("index", "is_finished")}
        flags = CHUNK | self._take(index, item)
        if flags & OUTPUT and event.keys() <= COHERE_CHUNK and not event.get("is_finished"):
            self._mark(("text",), index)
        return flags

    def _end(self, event: JSON) -> int:
        self.finished = True
        self._top.add({key: value for key, value in event.items() if key not in COHERE_END})
        whole = event.get("response")
        if isinstance(whole, dict) and "generations" in whole:
            if not self._items:
                return self._take_list(whole)
            self._complete(whole)
        if not self._items:
            self._item(0)
        for item in self._items.values():
            reason = item.get("finish_reason")
            if reason is None or is_empty(reason.value()):
                item.add({"finish_reason": event.get("finish_reason")})
        return CHUNK

    def _complete(self, whole: JSON) -> None:
        """Takes from the whole response what was not streamed: ids, the prompt, likelihoods."""
        self._top.add({key: value for key, value in whole.items() if key != "generations"})
        for place, item in enumerate(_objects(whole["generations"])):
            cell = self._items.get(_index(item, place))
            if cell is not None:
                cell.add({key: value for key, value in item.items() if key not in ("index", "text")})

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        _view_texts(_objects(response.get("generations")), CohereText.spelling, data)
        data.response_id = _text(response.get("id"))


class Pegasus(TextModel):
    """TwelveLabs Pegasus. A stretch of its text is in `message` or `delta`; the last may say the whole text again."""

    __slots__ = ()

    spelling = Spelling("", "message", "finishReason")
    top = Record(message=Text)
    item = Record()

    def add_event(self, event: JSON, name: str | None = None) -> int:
        said = event["delta"] if "delta" in event else event.get("message")
        if said is not None and not isinstance(said, str):
            self.flag("unexpected_shape")
            said = None
        if said and event.get("finishReason") and "delta" not in event:
            said = said.removeprefix(self._top.cell("message").value() or "")
        if said is not None:
            self._top.add({"message": said})
        self._top.add({key: value for key, value in event.items() if key not in ("message", "delta")})
        self._note_end(event)
        return CHUNK | OUTPUT | CONTENT if said else CHUNK

    def close(self) -> None:
        super().close()
        self._top.cell("message").close()

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        _view_texts([response], Pegasus.spelling, data)
        data.token_usage = TokenUsage(source="missing")


COHERE_CHUNK: Final = frozenset({"text", "index", "is_finished"})
COHERE_END: Final = frozenset({"is_finished", "finish_reason", "response"})

REASONS: Final = {
    "FINISH": "stop",
    "FINISHED": "stop",
    "STOP_CRITERIA_MET": "stop",
    "COMPLETE": "stop",
    "LENGTH": "length",
    "MAX_TOKENS": "length",
    "CONTENT_FILTERED": "content_filter",
    "ERROR_TOXIC": "content_filter",
}
"""Words of Titan and Cohere. Llama and Mistral have OpenAI's."""


def _view_texts(items: list[JSON], spelling: Spelling, data: AccumulatedData) -> None:
    data.stream_type = StreamType.TEXT_COMPLETION
    choices: list[Choice] = []
    for place, item in enumerate(items):
        raw = _text(item.get(spelling.reason)) or None
        if not choices:
            data.raw_finish_reason = raw
        # Nobody said who speaks, so the message has no role.
        message = ChatMessage(content=_text(item.get(spelling.text)))
        reason = REASONS.get(raw or "") or openai_finish_reason(raw)
        choices.append(Choice(_index(item, place), message, finish_reason=reason))
    if choices:
        data.output_message, data.finish_reason = choices[0].message, choices[0].finish_reason
    if len(choices) > 1:
        data.choices = choices


def _usage(prompt: int | None, completion: int | None) -> TokenUsage:
    if prompt is None and completion is None:
        return TokenUsage(source="missing")
    total = prompt + completion if prompt is not None and completion is not None else None
    return TokenUsage(prompt, completion, total, source="provider" if total is None else "derived")


def _objects(items: Any) -> list[JSON]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _index(item: Mapping[str, Any], default: int) -> int:
    index = index_of(item.get("index"))
    return default if index is None else index


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


# ---------------------------------------------------------------------------------------------- which family


def _is_anthropic(event: JSON) -> bool:
    return (
        isinstance(event.get("completion"), str)
        or event.get("type") in ("message", "ping")
        or AnthropicMessages.recognises(event, None)
        or (isinstance(event.get("content"), list) and "stop_reason" in event)
    )


def _is_nova(event: JSON) -> bool:
    output = event.get("output")
    return BedrockConverse.recognises(event, None) or (isinstance(output, dict) and "message" in output)


def _has(event: JSON, key: str, field: str) -> bool:
    """Whether the first object of a list has a field."""
    return field in next(iter(_objects(event.get(key))), {})


FAMILIES: Final[tuple[tuple[Callable[[JSON], bool], type[Fold]], ...]] = (
    (_is_anthropic, AnthropicMessages),
    (_is_nova, Nova),
    (lambda event: "outputText" in event or _has(event, "results", "outputText"), Titan),
    (lambda event: "generation" in event, Llama),
    (lambda event: isinstance(event.get("outputs"), list), MistralText),
    (lambda event: "event_type" in event, CohereChat),
    (lambda event: "is_finished" in event or isinstance(event.get("generations"), list), CohereText),
    (lambda event: CohereChat.recognises(event, None), CohereChat),
    (lambda event: isinstance(event.get("message"), str) and "finishReason" in event, Pegasus),
    (lambda event: _has(event, "choices", "text"), Completions),
    (lambda event: isinstance(event.get("choices"), list), Chat),
)
"""Whose body this is, for a chunk and for a whole body. The first that holds is taken."""


def family_of(body: JSON) -> type[Fold] | None:
    """The fold for the models that send such a chunk or body; None for one that is not known here."""
    return next((fold for holds, fold in FAMILIES if holds(body)), None)


def family_of_chunk(payload: JSON) -> type[Fold] | None:
    """The same for a payload that came in a `chunk` frame, where a bare message is text and no refused request."""
    family = family_of(payload)
    said = payload.get("message", payload.get("delta"))
    return Pegasus if family is None and isinstance(said, str) and payload.keys() <= PEGASUS_CHUNK else family


PEGASUS_CHUNK: Final = frozenset({"message", "delta", "finishReason"})
