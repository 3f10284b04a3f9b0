"""The message of an OpenAI chat completion: how it grows from deltas, and how a whole one is read.

Source: `ChoiceDelta` and `ChatCompletionMessage` of OpenAI's API reference. The hard part is the tool calls, because
servers disagree about what names a call; `ToolCalls` says how that is settled. The other fields are declared in
`MESSAGE`: text is joined, the role is said once, annotations are a set, audio is joined as bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from streamfold.growth import (
    Base64,
    Cell,
    Extend,
    Fields,
    First,
    Indexed,
    Latest,
    Merge,
    Record,
    Text,
    Union,
    is_empty,
)
from streamfold.types import JSON, ChatMessage, FunctionCall, MessageAudio, ToolCall
from streamfold.wire.fold import CONTENT, OUTPUT

__all__ = [
    "LOGPROBS",
    "MESSAGE",
    "Content",
    "ToolCalls",
    "brings",
    "chat_message",
    "growing_text",
    "is_complete_json",
    "tool_call",
]


class Name:
    """A tool's name. Some servers split it, others repeat the whole of it on every delta.

    A fragment is joined only while no argument has arrived and it differs from the whole name so far.
    """

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: str | None = None

    def add(self, value: Any, *, arguments_begun: bool = False) -> None:
        if value is None:
            return
        if not self._value:
            self._value = value
        elif not arguments_begun and value != self._value:
            self._value += value

    def value(self) -> str | None:
        return self._value

    def close(self) -> None:
        pass


class Echo:
    """Text that comes in fragments from some servers and whole, again and again, from others: repeats are dropped."""

    __slots__ = ("_text", "_whole")

    def __init__(self) -> None:
        self._whole: Any = None

    def add(self, value: Any) -> None:
        self._whole = _echoed(self._whole, value)

    def value(self) -> Any:
        return self._whole

    def close(self) -> None:
        pass


def _echoed(old: Any, new: Any) -> Any:
    if new is None or new == old:
        return old
    if isinstance(old, str) and isinstance(new, str):
        return old + new
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _echoed(old.get(key), value) for key, value in new.items()}}
    return new


class Arguments(Text):
    """The argument text of a call. A server that sends an object instead of its text has sent it whole."""

    __slots__ = ()

    def add(self, value: Any) -> None:
        super().add(msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value)


FUNCTION = Record(name=Name, arguments=Arguments)
CUSTOM = Record(name=Name, input=Text)
TOOL_CALL = Record(id=First, type=First, function=FUNCTION, custom=CUSTOM, extra_content=Echo)


class ToolCalls:
    """The tool calls of one message.

    What names a call, in order: its `index` (an identity, not a position: it may start at 1), within an index its
    `id` together with a function name (servers that send whole calls give all of them index 0), and for entries
    without an index the id, else the call that was open last. An id that changes without a name belongs to the same
    call. Empty strings name nothing.
    """

    __slots__ = ("_calls", "_last", "_null", "_open", "_shut")

    def __init__(self) -> None:
        self._calls: list[tuple[int, Fields]] = []
        self._open: dict[int, Fields] = {}  # by index, the call that an entry without an id continues
        self._last: Fields | None = None
        self._null = True
        self._shut = False

    def add(self, value: Any) -> None:
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list | tuple):
            return
        for entry in value:
            if isinstance(entry, dict):
                self._null = False
                self._add_entry(entry)

    def _add_entry(self, entry: Mapping[str, Any]) -> None:
        index = entry.get("index")
        if not isinstance(index, int):
            index = None
        call = self._call_of(entry, index)
        if call is None:
            if self._shut:
                return
            call = self._begin(index)
        self._last = call
        for key, item in entry.items():
            if key == "index":
                continue
            if key in ("function", "custom") and isinstance(item, dict):
                _add_named(call.cell(key), item)
            else:
                call.cell(key).add(item)

    def _call_of(self, entry: Mapping[str, Any], index: int | None) -> Fields | None:
        """The call that the entry continues, or None if it opens one."""
        current = self._open.get(index) if index is not None else self._last
        identity = entry.get("id")
        if not identity:
            if index is None and current is not None and _opens_nameless(entry, current):
                return None
            return current
        if index is None:
            for _, call in self._calls:
                if _said(call, "id") == identity:
                    return call
        if current is None:
            return None
        said = _said(current, "id")
        if not said or said == identity:
            return current
        return None if _name_in(entry) else current

    def _begin(self, index: int | None) -> Fields:
        if index is None:
            index = max((i for i, _ in self._calls), default=-1) + 1
        call = TOOL_CALL()
        if self._shut:
            call.close()
        self._calls.append((index, call))
        self._open[index] = call
        return call

    def value(self) -> list[JSON] | None:
        if self._null:
            return None
        return [call.value() or {} for _, call in sorted(self._calls, key=lambda pair: pair[0])]

    def close(self) -> None:
        self._shut = True
        for _, call in self._calls:
            call.close()

    def arguments(self, entry: Mapping[str, Any]) -> Text | None:
        """Where the arguments of the entry just added go."""
        function = self._last.get("function") if self._last is not None else None
        cell = function.get("arguments") if isinstance(function, Fields) else None
        return cell if isinstance(cell, Text) else None


def _said(call: Fields, key: str) -> Any:
    cell = call.get(key)
    return cell.value() if cell is not None else None


def _name_in(entry: Mapping[str, Any]) -> str | None:
    for key in ("function", "custom"):
        part = entry.get(key)
        if isinstance(part, dict) and part.get("name"):
            return str(part["name"])
    return None


def _opens_nameless(entry: Mapping[str, Any], current: Fields) -> bool:
    """Whether an entry without index and id opens a call: it has a name, and the open call has its arguments."""
    if not _name_in(entry):
        return False
    function = current.get("function")
    arguments = function.get("arguments") if isinstance(function, Fields) else None
    return isinstance(arguments, Text) and bool(arguments)


def _add_named(cell: Cell, part: Mapping[str, Any]) -> None:
    """Adds a `function` or `custom` part; the name's rule looks at whether its arguments have begun."""
    if not isinstance(cell, Fields):
        return
    body = cell.get("arguments") or cell.get("input")
    begun = isinstance(body, Text) and bool(body)
    cell.add({key: item for key, item in part.items() if key != "name"})
    if "name" in part:
        name = cell.cell("name")
        if isinstance(name, Name):
            name.add(part["name"], arguments_begun=begun)


REASONING_DETAIL = Record(type=First, index=First, id=First, text=Text, summary=Text, data=Echo)


class ReasoningDetails:
    """OpenRouter's `reasoning_details`: a fragment continues the last entry of its index while its type is the same.

    Some servers number every entry 0, so a change of type (or of a stated id) opens a new one.
    """

    __slots__ = ("_entries", "_null", "_open", "_shut")

    def __init__(self) -> None:
        self._entries: list[tuple[int, Fields]] = []
        self._open: dict[int, Fields] = {}
        self._null = True
        self._shut = False

    def add(self, value: Any) -> None:
        if not isinstance(value, list | tuple):
            return
        self._null = False
        for entry in value:
            if isinstance(entry, dict):
                self._add_entry(entry)

    def _add_entry(self, entry: Mapping[str, Any]) -> None:
        index = entry.get("index")
        if not isinstance(index, int):
            index = 0
        current = self._open.get(index)
        if current is None or not _continues(entry, current):
            if self._shut:
                return
            current = REASONING_DETAIL()
            self._entries.append((index, current))
            self._open[index] = current
        current.add(entry)

    def value(self) -> list[JSON] | None:
        if self._null:
            return None
        return [entry.value() or {} for _, entry in sorted(self._entries, key=lambda pair: pair[0])]

    def close(self) -> None:
        self._shut = True
        for _, entry in self._entries:
            entry.close()


def _continues(entry: Mapping[str, Any], current: Fields) -> bool:
    for key in ("type", "id"):
        new, old = entry.get(key), _said(current, key)
        if new and old and new != old:
            return False
    return True


class Content:
    """`content`: text, or a list of typed parts (Mistral's reasoning models), or first the one and then the other."""

    __slots__ = ("_parts", "_shut", "text")

    def __init__(self) -> None:
        self.text = Text()
        self._parts: list[JSON | Text] | None = None  # once a list has come: parts, and open stretches of plain text
        self._shut = False

    def add(self, value: Any) -> None:
        if self._shut:
            return
        if isinstance(value, list | tuple):
            if self._parts is None:
                self._parts = [self.text] if self.text else []
            self._parts.extend(
                dict(part) if isinstance(part, dict) else {"type": "text", "text": str(part)} for part in value
            )
        elif self._parts is None:
            self.text.add(value)
        elif value:
            if not self._parts or not isinstance(self._parts[-1], Text):
                self._parts.append(Text())
            self._parts[-1].add(value)  # type: ignore[union-attr]

    def value(self) -> str | list[JSON] | None:
        if self._parts is None:
            return self.text.value()
        joined: list[JSON] = []
        for part in self._parts:
            _join_part(joined, {"type": "text", "text": part.value()} if isinstance(part, Text) else part)
        return joined

    def close(self) -> None:
        self._shut = True
        self.text.close()


def _join_part(joined: list[JSON], part: JSON) -> None:
    """Adds a typed part, joining it to the one before when both are text (or thinking) of the same kind."""
    last = joined[-1] if joined else None
    if last is None or last.get("type") != part.get("type"):
        joined.append(part)
    elif part.get("type") == "text":
        joined[-1] = {**last, "text": (last.get("text") or "") + (part.get("text") or "")}
    elif part.get("type") == "thinking":
        joined[-1] = {**last, **part, "thinking": _join_parts(last.get("thinking"), part.get("thinking"))}
    else:
        joined.append(part)


def _join_parts(old: Any, new: Any) -> Any:
    if not isinstance(old, list) or not isinstance(new, list):
        return new if is_empty(old) else old if is_empty(new) else f"{old}{new}"
    joined = list(old)
    for part in new:
        _join_part(joined, part)
    return joined


REASONING_KEYS = ("reasoning", "reasoning_content", "reasoning_text", "thinking")
"""Where servers put the model's reasoning: OpenRouter and vLLM, DeepSeek, Copilot, others."""

MESSAGE = Record(
    role=First,
    content=Content,
    refusal=Text,
    reasoning=Text,
    reasoning_content=Text,
    reasoning_text=Text,
    thinking=Text,
    reasoning_details=ReasoningDetails,
    tool_calls=ToolCalls,
    function_call=FUNCTION,
    audio=Record(id=First, data=Base64, transcript=Text, expires_at=Latest),
    annotations=Union,
    images=Union,
    executed_tools=Indexed(Record()),
    thinking_blocks=Extend,
    provider_specific_fields=Merge,
)

LOGPROBS = Record(
    content=Extend, refusal=Extend, tokens=Extend, token_logprobs=Extend, top_logprobs=Extend, text_offset=Extend
)


def growing_text(key: str, value: Any, message: Fields) -> tuple[tuple[str | int, ...], Text] | None:
    """The path of a delta's one growing string, and its cell."""
    cell = message.get(key)
    if isinstance(value, str):
        if isinstance(cell, Content):
            return ((key,), cell.text) if isinstance(cell.value(), str) else None
        return ((key,), cell) if type(cell) is Text else None
    if not isinstance(cell, ToolCalls) or not isinstance(value, list) or len(value) != 1:
        return None
    entry = value[0]
    function = entry.get("function") if isinstance(entry, dict) else None
    if not isinstance(function, dict) or not function.get("arguments") or function.get("name"):
        return None
    if not isinstance(function["arguments"], str) or entry.keys() - {"index", "id", "type", "function"}:
        return None
    target = cell.arguments(entry)
    return (("tool_calls", 0, "function", "arguments"), target) if target is not None else None


def brings(delta: Mapping[str, Any]) -> int:
    """What the model put out in a delta."""
    if delta.get("content") or delta.get("refusal") or delta.get("images"):
        return OUTPUT | CONTENT
    audio = delta.get("audio")
    if isinstance(audio, dict) and (audio.get("data") or audio.get("transcript")):
        return OUTPUT | CONTENT
    if delta.get("tool_calls") or delta.get("function_call") or delta.get("reasoning_details"):
        return OUTPUT
    if any(delta.get(key) for key in REASONING_KEYS):
        return OUTPUT
    return 0


def chat_message(message: Mapping[str, Any]) -> ChatMessage:
    """A native OpenAI message as a neutral one."""
    content, reasoning = _content_of(message.get("content"))
    spelled = [value for key in REASONING_KEYS if isinstance(value := message.get(key), str) and value]
    audio = message.get("audio")
    calls = message.get("tool_calls")
    function = message.get("function_call")
    return ChatMessage(
        role=message.get("role"),
        content=content,
        refusal=message.get("refusal"),
        # Two spellings of the same reasoning are the same reasoning.
        reasoning=max(spelled, key=len) if spelled else reasoning,
        reasoning_details=message.get("reasoning_details") or None,
        audio=_audio(audio) if isinstance(audio, dict) else None,
        tool_calls=[tool_call(call, place) for place, call in enumerate(calls)] if calls else None,
        function_call=FunctionCall(function.get("name"), function.get("arguments"))
        if isinstance(function, dict)
        else None,
        annotations=message.get("annotations") or None,
        images=message.get("images") or None,
    )


def _audio(audio: Mapping[str, Any]) -> MessageAudio:
    return MessageAudio(audio.get("id"), audio.get("data"), audio.get("transcript"), audio.get("expires_at"))


def _content_of(content: Any) -> tuple[str | None, str | None]:
    """The text and the reasoning of a `content` that is a string or a list of typed parts."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None, None
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        if not isinstance(part, dict):
            continue
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        thinking = part.get("thinking")
        if isinstance(thinking, list):
            thoughts.extend(
                item["text"] for item in thinking if isinstance(item, dict) and isinstance(item.get("text"), str)
            )
        elif isinstance(thinking, str):
            thoughts.append(thinking)
    return "".join(texts) if texts else None, "".join(thoughts) if thoughts else None


def tool_call(call: Mapping[str, Any], place: int) -> ToolCall:
    """A native tool call as a neutral one, with the verdict on its arguments."""
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if isinstance(arguments, dict | list):
        arguments = msgspec.json.encode(arguments).decode()
    return ToolCall(
        index=place,
        id=call.get("id"),
        type=call.get("type"),
        function=FunctionCall(function.get("name"), arguments) if isinstance(function, dict) else None,
        custom=call.get("custom"),
        extra_content=call.get("extra_content"),
        arguments_complete=is_complete_json(arguments),
    )


def is_complete_json(arguments: str | None) -> bool:
    """Whether a call's argument text is a whole JSON document; nothing at all is a call without parameters."""
    if not arguments:
        return True
    try:
        msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
    return True
