"""Cohere's chat API: version 2 and, as its streams are still recorded, version 1.

Source: the `V2ChatStreamResponse` and `V2ChatResponse`, `StreamedChatResponse` and `NonStreamedChatResponse` of
Cohere's API reference. The two versions share nothing but the finish reasons and the way tokens are counted.

**Version 2** (`type`) tells one message in order: `message-start` gives the id; a `-start` opens the content block,
tool call or citation of an `index`, a `-delta` grows it, an `-end` says nothing new; `message-end` has the finish
reason and the usage. Every delta is a sparse copy of the message, so the rules of a message's fields are the fold.
Each of the three kinds has indexes of its own. The lists of `message-start` are empty placeholders, which the
unstreamed message leaves out; only what something was put into is part of the folded one.

**Version 1** (`event_type`) ends with the whole response in `stream-end`, and that is authoritative. What was streamed
completes it where it is silent, and stands in for it when the stream is cut. The older `/v1/generate` speaks the same
events, and once spoke them without their name; it may tell several texts, each under its `index`, and its response is
a list of `generations` and none of the fields that were streamed.

Usage is told twice: `tokens` is what the model read and wrote, `billed_units` what is paid for (without Cohere's own
preamble, and rounded by other rules). The native response keeps both. The view counts `tokens`, as the convention of
`TokenUsage` is about the context; billed units stand in only where no tokens were said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Final

import msgspec

from streamfold.growth import Cell, Extend, Fields, First, Identity, Latest, Merge, Record, Skip, Text, Union, Word
from streamfold.growth import index_of as number
from streamfold.types import (
    JSON,
    AccumulatedData,
    ChatMessage,
    Choice,
    CompletionTokensDetails,
    PromptTokensDetails,
    StreamType,
    TokenUsage,
)
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.openai_message import objects, tool_call
from streamfold.wire.pings import is_ping
from streamfold.wire.usage import count

__all__ = ["CohereChat"]

BLOCK = Record(type=Word, text=Text, thinking=Text)
CALL = Record(id=First, type=Word, function=Record(name=First, arguments=Text))

RESPONSE = Record(id=Identity, finish_reason=Latest, message=Skip, usage=Merge, logprobs=Extend, error=Latest)
MESSAGE = Record(role=Word, content=Skip, tool_plan=Text, tool_calls=Skip, citations=Skip)

GENERATION = Record(index=First, text=Text)

CALL_V1 = Record(name=First, index=Skip, parameters=Text, text=Skip)
RESPONSE_V1 = Record(
    event_type=Skip,
    is_finished=Skip,
    generation_id=First,
    text=Text,
    citations=Extend,
    documents=Union,
    search_queries=Union,
    search_results=Union,
    tool_calls=Skip,
    tool_call_delta=Skip,
    finish_reason=Latest,
    error=Latest,
)

FINISH_REASONS: Final = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "ERROR_LIMIT": "length",  # the context was full
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}

OPENERS: Final = (
    "message-start", "message-end", "content-start", "content-delta",
    "tool-plan-delta", "tool-call-start", "tool-call-delta", "citation-start",
)  # fmt: skip
"""Types of version 2 that no other API has; all but the first only if the beginning was lost."""

FAILURES: Final = frozenset({"ERROR", "TIMEOUT"})
"""Finish reasons that are no end of an answer."""


class Indexed:
    """A list of the message whose entries are opened and grown under an `index`.

    The index is an identity, not a position. An entry that is opened again under its index is another entry: a
    server that numbers all of them 0 loses none.
    """

    __slots__ = ("_entries", "_newest", "_record", "_shut")

    def __init__(self, record: Callable[[], Cell]) -> None:
        self._record = record
        self._entries: list[tuple[int, Cell]] = []
        self._newest: dict[int, Cell] = {}
        self._shut = False

    def __len__(self) -> int:
        return len(self._entries)

    def open(self, index: int) -> Cell | None:
        """Begins an entry; None when the message has stopped growing."""
        if self._shut:
            return None
        cell = self._record()
        self._entries.append((index, cell))
        self._newest[index] = cell
        return cell

    def at(self, index: int) -> Cell | None:
        return self._newest.get(index)

    @property
    def last(self) -> int:
        """The index of the entry opened last."""
        return self._entries[-1][0] if self._entries else 0

    def value(self) -> list[Any]:
        return [cell.value() for _, cell in sorted(self._entries, key=lambda entry: entry[0])]

    def close(self) -> None:
        self._shut = True
        for _, cell in self._entries:
            cell.close()


class CohereChat(Fold):
    """Folds the events of `/v2/chat` into a `V2ChatResponse`, those of `/v1/chat` into a `NonStreamedChatResponse`."""

    __slots__ = ("_calls_v1", "_generations", "_lists", "_message", "_said_v1", "_top", "_v1", "_whole")

    format: ClassVar[str] = "cohere"
    stream_type: ClassVar[StreamType] = StreamType.CHAT_COMPLETION

    def __init__(self) -> None:
        super().__init__()
        self._top: Fields = RESPONSE()
        self._message: Fields = MESSAGE()
        self._lists: dict[str, Indexed] = {}
        self._v1: Fields | None = None
        self._calls_v1: dict[int, Fields] | None = None
        self._generations: dict[int, Fields] = {}
        """The texts of `/v1/generate`, if it was asked for several."""
        self._said_v1: JSON = {}
        """What version 1 said as a whole, and is believed over what was streamed."""
        self._whole: JSON | None = None

    def add_event(self, event: JSON, name: str | None = None) -> int:
        kind = event.get("type") or event.get("event_type") or _unnamed_v1(event)
        handler = _handler(kind) or (_handler(name) if kind is None and not _is_whole(event) else None)
        if handler is not None:
            return handler(self, event)
        if is_ping(event, name):
            return 0
        error = error_of(event, name) or (event if _is_error(event) else None)
        if error is not None:
            return self._fail(error)
        if kind is None and _is_whole(event):
            return self._take_whole(event)
        self.keep_unknown(event)
        return CHUNK

    def _fail(self, error: Any) -> int:
        if self.error is None:
            self.error = error_details(error)
        (self._v1 or self._top).add({"error": error})
        return CHUNK

    def _finish(self, reason: Any, error: Any) -> None:
        """Takes the finish reason, which may be that of a failure, and what was said about the failure."""
        self.finished = self.finished or bool(reason)
        failed = isinstance(reason, str) and reason in FAILURES
        if failed or (error and not (isinstance(reason, str) and reason in FINISH_REASONS)):
            said = {"type": reason if failed else None, "message": error}
            self.error = error_details(error if isinstance(error, dict) else said)

    # ------------------------------------------------------------------ version 2

    def _start_message(self, event: JSON) -> int:
        self._put_rest(event)
        delta = _object(event, "delta")
        message = delta.get("message")
        self._top.add({key: value for key, value in delta.items() if key != "message"})
        return CHUNK | (self._whole_message(message) if isinstance(message, dict) else 0)

    def _whole_message(self, message: JSON) -> int:
        """A message that comes with something in it; its empty fields are placeholders."""
        flags = 0
        self._message.add({key: value for key, value in message.items() if value or key not in EMPTY})
        for key in LISTS:
            items = message.get(key)
            if items and not isinstance(items, list):
                self.flag("unexpected_shape")
            for index, item in enumerate(items if isinstance(items, list) else ()):
                flags |= self._open(key, index, item)
        return flags | (OUTPUT if message.get("tool_plan") else 0)

    def _add_plan(self, event: JSON) -> int:
        self._put_rest(event)
        message = _message_in(event)
        if message is None:
            self.flag("unexpected_shape")
            return CHUNK
        plan = message.get("tool_plan")
        self._message.add({key: value for key, value in message.items() if key not in LISTS})
        cell = self._message.get("tool_plan")
        if self._seeking and isinstance(plan, str) and isinstance(cell, Text) and _is_sparse(event, message):
            self._plain = (("delta", "message", "tool_plan"), cell)
        return CHUNK | (OUTPUT if plan else 0)

    def _start(self, event: JSON) -> int:
        key, value = self._entry(event)
        if key is None:
            return CHUNK
        entries = self._list(key)
        index = self._index(event, len(entries))
        if entries.at(index) is not None:
            self.flag("block_index_reused")
        flags = CHUNK
        for place, each in enumerate(value if isinstance(value, list) else (value,)):
            # Several citations share the place of one. What grows later must be told apart.
            flags |= self._open(key, index if key == "citations" else index + place, each)
        return flags

    def _open(self, key: str, index: int, value: Any) -> int:
        if not isinstance(value, dict):
            self.flag("unexpected_shape")
            return 0
        entries = self._list(key)
        cell = entries.open(index)
        if cell is not None:
            cell.add(value)
        return _brings(key, value)

    def _grow(self, event: JSON) -> int:
        key, value = self._entry(event)
        if key is None:
            return CHUNK
        if not isinstance(value, dict):
            self.flag("unexpected_shape")
            return CHUNK
        entries = self._list(key)
        index = self._index(event, entries.last)
        cell = entries.at(index)
        if cell is None:
            # Its start was lost. What comes without it is kept, with the fields that were said.
            self.flag("missing_block_start")
            cell = entries.open(index)
        if cell is None:
            return CHUNK
        cell.add(value)
        flags = _brings(key, value)
        if self._seeking and flags and isinstance(cell, Fields) and event["delta"]["message"][key] is value:
            self._look_for_plain(event, key, value, cell)
        return CHUNK | flags

    def _look_for_plain(self, event: JSON, key: str, value: JSON, cell: Fields) -> None:
        """Marks a delta whose whole effect is one string appended. See `repeat.py`."""
        path: tuple[str | int, ...] = ("delta", "message", key)
        if key == "tool_calls":
            function, grown = value.get("function"), cell.get("function")
            if len(value) != 1 or not isinstance(function, dict) or not isinstance(grown, Fields):
                return
            value, cell, path = function, grown, (*path, "function")
        if len(value) != 1 or not _is_sparse(event, event["delta"]["message"]):
            return
        ((field, text),) = value.items()
        target = cell.get(field)
        if isinstance(text, str) and isinstance(target, Text):
            self._plain = ((*path, field), target)

    def _end(self, event: JSON) -> int:
        self._put_rest(event)
        return CHUNK

    def _end_message(self, event: JSON) -> int:
        self.ended = True
        self._put_rest(event)
        delta = _object(event, "delta")
        self._top.add({key: value for key, value in delta.items() if key != "message"})
        self._finish(delta.get("finish_reason"), delta.get("error"))
        return CHUNK

    def _debug(self, event: JSON) -> int:
        """The prompt as the model saw it, if the request asked for it. Both versions have this event."""
        return self._end(event) if "type" in event else self._add_v1(event)

    def _entry(self, event: JSON) -> tuple[str | None, Any]:
        """The list that an event speaks of, and what it says about an entry of it."""
        self._put_rest(event)
        message = _message_in(event)
        if message is not None:
            for key in LISTS:
                if key in message:
                    value = message[key]
                    if isinstance(value, list) and len(value) == 1:
                        value = value[0]
                    return key, {"text": value} if key == "content" and isinstance(value, str) else value
        self.flag("unexpected_shape")
        return None, None

    def _index(self, event: JSON, default: int) -> int:
        index = number(event.get("index"))
        if index is None:
            self.flag("missing_index")
            return default
        return index

    def _list(self, key: str) -> Indexed:
        if key not in self._lists:
            self._lists[key] = Indexed(LISTS[key])
            if self.full:
                self._lists[key].close()
        return self._lists[key]

    def _put_rest(self, event: JSON) -> None:
        """Fields beside the delta of an event are fields of the response (`id`, `logprobs`, a debug `prompt`)."""
        for key in event:
            if key not in ADDRESS:
                self._top.add({key: event[key]})

    # ------------------------------------------------------------------ version 1

    def _add_v1(self, event: JSON) -> int:
        flags = 0
        if event.get("text") or event.get("citations"):
            flags = OUTPUT | CONTENT if event.get("text") else OUTPUT
        index = number(event.get("index"))
        if index is not None and isinstance(event.get("text"), str):
            return CHUNK | (flags if self._add_generation(index, event["text"]) else 0)
        top = self._top_v1()
        top.add(event)
        if event.get("is_finished") is True:
            self.ended = True
        text = top.get("text")
        if (
            self._seeking
            and isinstance(event.get("text"), str)
            and isinstance(text, Text)
            and not event.keys() - TEXT_V1
        ):
            self._plain = (("text",), text)
        return CHUNK | flags

    def _add_generation(self, index: int, text: str) -> bool:
        """Grows one of several texts; False when it would be a new one of a full stream."""
        self._top_v1()
        cell = self._generations.get(index)
        if cell is None:
            if self.full:
                return False
            cell = self._generations[index] = GENERATION()
        cell.add({"index": index, "text": text})
        return True

    def _chunk_call_v1(self, event: JSON) -> int:
        """A stretch of a tool call, or of the text in which the model plans the calls."""
        delta = _object(event, "tool_call_delta")
        plan = event.get("text") or delta.get("text")
        self._top_v1().add({**event, "text": plan} if plan else {k: v for k, v in event.items() if k != "text"})
        if "name" not in delta and "parameters" not in delta:
            return CHUNK | (OUTPUT | CONTENT if plan else 0)
        if self._calls_v1 is None:
            self._calls_v1 = {}
        index = number(delta.get("index"))
        if index is None:
            index = max(self._calls_v1, default=0)
        cell = self._calls_v1.get(index)
        if cell is None:
            if self.full:
                return CHUNK
            cell = self._calls_v1[index] = CALL_V1()
        cell.add(delta)
        target = cell.get("parameters")
        said = {key for key in delta if delta[key] is not None}
        text = delta.get("parameters")
        if self._seeking and not plan and said == {"index", "parameters"} and isinstance(text, str):
            self._plain = (("tool_call_delta", "parameters"), target) if isinstance(target, Text) else None
        return CHUNK | (OUTPUT | CONTENT if plan else OUTPUT)

    def _whole_calls_v1(self, event: JSON) -> int:
        """All calls of a turn, whole. The text beside them was streamed, or comes only here."""
        top = self._top_v1()
        streamed = top.get("text")
        top.add({key: value for key, value in event.items() if key != "text" or not streamed})
        if event.get("tool_calls"):
            self._said_v1["tool_calls"] = event["tool_calls"]
        return CHUNK | (OUTPUT if event.get("tool_calls") or event.get("text") else 0)

    def _end_v1(self, event: JSON) -> int:
        self.ended = True
        top = self._top_v1()
        response = _object(event, "response")
        streamed = (top.get("text") or Text()).value()
        if streamed and isinstance(response.get("text"), str) and response["text"] != streamed:
            self.flag("done_differs_from_deltas")
        self._said_v1.update(response)
        top.add({key: value for key, value in event.items() if key != "response"})
        self._finish(event.get("finish_reason") or response.get("finish_reason"), event.get("error"))
        return CHUNK

    def _top_v1(self) -> Fields:
        if self._v1 is None:
            self._v1 = RESPONSE_V1()
            if self.full:
                self._v1.close()
        return self._v1

    def _response_v1(self, top: Fields) -> JSON:
        said = top.value() or {}
        generates = self._generations or isinstance(self._said_v1.get("generations"), list)
        unsaid = UNSAID_V1 | STREAMED_GENERATION if generates else UNSAID_V1
        out = {key: value for key, value in said.items() if key not in unsaid}
        if self._generations:
            out["generations"] = [self._generations[index].value() for index in sorted(self._generations)]
        if self._calls_v1:
            out["tool_calls"] = [_call_v1(self._calls_v1[index]) for index in sorted(self._calls_v1)]
        return {**out, **{key: value for key, value in self._said_v1.items() if value is not None or key not in out}}

    # ------------------------------------------------------------------ both

    def _take_whole(self, event: JSON) -> int:
        """A whole response where a stream was expected."""
        self.ended = True
        self._whole = event
        self._finish(event.get("finish_reason"), event.get("error"))
        message = _message(event["message"]) if isinstance(event.get("message"), dict) else _message_v1(event)
        if message is None or not (message.content or message.reasoning or message.tool_calls):
            return CHUNK
        return CHUNK | (OUTPUT | CONTENT if message.content else OUTPUT)

    def response(self) -> JSON | None:
        if self._whole is not None:
            return {**self._whole, **self.unknown_events}
        if self._v1 is not None:
            return {**self._response_v1(self._v1), **self.unknown_events}
        top, message = self._top.value(), self._message.value()
        lists = {key: entries.value() for key, entries in self._lists.items() if len(entries)}
        if top is None and message is None and not lists:
            return self.unknown_events or None
        out = dict(top or {})
        out.pop("message", None)
        if message is not None or lists:
            kept = {key: value for key, value in (message or {}).items() if key not in LISTS}
            out["message"] = {**kept, **lists}
        return {**out, **self.unknown_events}

    def envelope(self) -> Fields:
        return self._top

    def close(self) -> None:
        super().close()
        v1 = (*(self._calls_v1 or {}).values(), *self._generations.values())
        for cell in (self._top, self._message, self._v1, *self._lists.values(), *v1):
            if cell is not None:
                cell.close()

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        if event.get("type") in OPENERS:
            return isinstance(event.get("delta"), dict)
        if isinstance(event.get("event_type"), str):
            return event["event_type"] in OURS_V1
        if "type" in event:
            return False
        if _unnamed_v1(event) is not None:
            return isinstance(event.get("text"), str) or isinstance(event.get("response"), dict)
        if not _is_whole(event):
            return False
        return not isinstance(event.get("message"), dict) or _counts(event.get("usage"))

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        message = response.get("message")
        generations = objects(response.get("generations"))
        first = generations[0] if generations else response
        data.output_message = _message(message) if isinstance(message, dict) else _message_v1(first)
        if data.output_message is not None:
            data.tool_calls = data.output_message.tool_calls
        data.raw_finish_reason = _text(first.get("finish_reason"))
        data.finish_reason = FINISH_REASONS.get(data.raw_finish_reason or "")
        if generations:
            data.stream_type = StreamType.TEXT_COMPLETION
        if len(generations) > 1:
            data.choices = [_choice(item, place) for place, item in enumerate(generations)]
        if data.finish_reason == "stop" and data.tool_calls:
            data.finish_reason = "tool_calls"  # version 1 says COMPLETE there too
        data.response_id = _text(response.get("id") or response.get("response_id") or response.get("generation_id"))
        usage = response.get("usage")
        data.token_usage = _usage(usage if usage is not None else response.get("meta"))


LISTS: Final[dict[str, Callable[[], Cell]]] = {"content": BLOCK, "tool_calls": CALL, "citations": Latest}
EMPTY: Final = frozenset({*LISTS, "tool_plan"})
ADDRESS: Final = frozenset({"type", "index", "delta"})
TEXT_V1: Final = frozenset({"event_type", "is_finished", "text"})
STREAMED_GENERATION: Final = frozenset({"text", "index", "finish_reason"})
"""What the stream of `/v1/generate` says at its top, and its response only in the texts."""
UNSAID_V1: Final = frozenset({"event_type", "is_finished", "tool_calls", "tool_call_delta"})

_V1_EVENTS: Final[dict[str, Callable[[CohereChat, JSON], int]]] = {
    "stream-start": CohereChat._add_v1,
    "search-queries-generation": CohereChat._add_v1,
    "search-results": CohereChat._add_v1,
    "text-generation": CohereChat._add_v1,
    "citation-generation": CohereChat._add_v1,
    "tool-calls-chunk": CohereChat._chunk_call_v1,
    "tool-calls-generation": CohereChat._whole_calls_v1,
    "stream-end": CohereChat._end_v1,
}
OURS_V1: Final = frozenset(_V1_EVENTS)

HANDLERS: Final[dict[str, Callable[[CohereChat, JSON], int]]] = {
    "message-start": CohereChat._start_message,
    "content-start": CohereChat._start,
    "content-delta": CohereChat._grow,
    "content-end": CohereChat._end,
    "tool-plan-delta": CohereChat._add_plan,
    "tool-call-start": CohereChat._start,
    "tool-call-delta": CohereChat._grow,
    "tool-call-end": CohereChat._end,
    "citation-start": CohereChat._start,
    "citation-end": CohereChat._end,
    "message-end": CohereChat._end_message,
    "debug": CohereChat._debug,
    **_V1_EVENTS,
}


def _handler(kind: Any) -> Callable[[CohereChat, JSON], int] | None:
    return HANDLERS.get(kind) if isinstance(kind, str) else None


def _unnamed_v1(event: Mapping[str, Any]) -> str | None:
    """The name of an event that `/v1/generate` sent before its events had names."""
    finished = event.get("is_finished")
    return ("stream-end" if finished else "text-generation") if isinstance(finished, bool) else None


def _object(event: Mapping[str, Any], key: str) -> JSON:
    value = event.get(key)
    return value if isinstance(value, dict) else {}


def _message_in(event: Mapping[str, Any]) -> JSON | None:
    message = _object(event, "delta").get("message")
    return message if isinstance(message, dict) else None


def _is_sparse(event: Mapping[str, Any], message: Mapping[str, Any]) -> bool:
    """Whether an event names nothing but one field of the message, so that nothing else can have grown."""
    return len(message) == 1 and len(event["delta"]) == 1 and not event.keys() - ADDRESS


def _brings(key: str, value: Mapping[str, Any]) -> int:
    if key != "content":
        return OUTPUT
    if value.get("text"):
        return OUTPUT | CONTENT
    return OUTPUT if value.get("thinking") else 0


def _is_error(event: Mapping[str, Any]) -> bool:
    """Cohere's error body: a message, and an id at most."""
    return isinstance(event.get("message"), str) and not event.keys() - {"message", "id", "data", "status_code"}


def _is_whole(event: Mapping[str, Any]) -> bool:
    """Whether this is an unstreamed response of version 2 or 1."""
    if isinstance(event.get("message"), dict):
        usage = event.get("usage")
        return isinstance(event.get("finish_reason"), str) and (usage is None or _counts(usage))
    return isinstance(event.get("text"), str) and isinstance(
        event.get("generation_id") or event.get("meta"), str | dict
    )


def _counts(usage: Any) -> bool:
    return isinstance(usage, dict) and ("billed_units" in usage or "tokens" in usage)


def _call_v1(call: Fields) -> JSON:
    """A tool call of version 1. Only a whole document becomes the object; text that is cut off stays text."""
    value = {key: item for key, item in (call.value() or {}).items() if key not in ("index", "text")}
    text = value.get("parameters")
    if isinstance(text, str):
        with suppress(msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            value["parameters"] = msgspec.json.decode(text)
    return value


def _message(message: Mapping[str, Any]) -> ChatMessage:
    blocks = message.get("content")
    text = blocks if isinstance(blocks, str) else _joined(objects(blocks), "text")
    calls = [tool_call(call, place) for place, call in enumerate(objects(message.get("tool_calls")))]
    return ChatMessage(
        role=_text(message.get("role")),
        content=text,
        # The plan is what models without thinking blocks put out of their reasoning.
        reasoning=_joined(objects(blocks), "thinking") or _text(message.get("tool_plan")),
        tool_calls=calls or None,
        annotations=objects(message.get("citations")) or None,
    )


def _message_v1(response: Mapping[str, Any]) -> ChatMessage | None:
    text, calls = response.get("text"), objects(response.get("tool_calls"))
    if not isinstance(text, str) and not calls:
        return None
    functions: Iterator[JSON] = ({"name": call.get("name"), "arguments": call.get("parameters")} for call in calls)
    return ChatMessage(
        content=text if isinstance(text, str) else None,
        tool_calls=[tool_call({"function": function}, place) for place, function in enumerate(functions)] or None,
        annotations=objects(response.get("citations")) or None,
    )


def _choice(generation: Mapping[str, Any], place: int) -> Choice:
    index = number(generation.get("index"))
    reason = FINISH_REASONS.get(_text(generation.get("finish_reason")) or "")
    message = _message_v1(generation) or ChatMessage()
    return Choice(place if index is None else index, message, finish_reason=reason)


def _joined(blocks: list[JSON], key: str) -> str | None:
    texts = [block[key] for block in blocks if isinstance(block.get(key), str)]
    return "".join(texts) if texts else None


def _usage(usage: Any) -> TokenUsage:
    """The tokens, or where there are none the billed units, of `usage` (version 2) or `meta` (version 1)."""
    if not isinstance(usage, dict):
        return TokenUsage(source="missing")
    tokens, billed = _object(usage, "tokens"), _object(usage, "billed_units")
    prompt, completion = count(tokens.get("input_tokens")), count(tokens.get("output_tokens"))
    if prompt is None and completion is None:
        prompt, completion = count(billed.get("input_tokens")), count(billed.get("output_tokens"))
    if prompt is None and completion is None:
        return TokenUsage(source="missing")
    cached = count(usage.get("cached_tokens"))
    thought = count(tokens.get("reasoning_tokens"))
    searches = {key: billed[key] for key in ("search_units", "classifications") if billed.get(key)}
    whole = prompt is not None and completion is not None
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion if prompt is not None and completion is not None else None,
        prompt_tokens_details=PromptTokensDetails(cached_read_tokens=cached) if cached is not None else None,
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=thought) if thought is not None else None,
        server_tool_use=searches or None,
        source="derived" if whole else "provider",
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
