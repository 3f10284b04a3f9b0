"""The message of an OpenAI chat completion: how it grows from deltas, and how a whole one is read.

Source: `ChoiceDelta` and `ChatCompletionMessage` of OpenAI's API reference. The hard part is the tool calls, because
servers disagree about what names a call; `ToolCalls` says how that is settled. The other fields are declared in
`MESSAGE`: text is joined, the role is said once, annotations are a set, audio is joined as bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from streamfold.growth import (
    Bare,
    Base64,
    Cell,
    Extend,
    Fields,
    First,
    Identity,
    Indexed,
    Latest,
    Merge,
    Record,
    Skip,
    Text,
    Union,
    Word,
    index_of,
    is_empty,
    json_text,
    merged,
)
from streamfold.types import JSON, ChatMessage, FunctionCall, MessageAudio, ToolCall
from streamfold.wire.fold import CONTENT, OUTPUT

__all__ = [
    "LOGPROBS",
    "MESSAGE",
    "OF_A_DELTA",
    "Content",
    "ToolCalls",
    "Whole",
    "brings",
    "chat_message",
    "growing_text",
    "is_complete_json",
    "nameless_calls",
    "objects",
    "resent_arguments",
    "snowflake_delta",
    "tool_call",
]


class Name:
    """A tool's name. Some servers split it, others repeat the whole of it on every delta.

    A fragment is joined only while no argument has arrived and it differs from the whole name so far. Streams share
    the name: an application has few tools.
    """

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: str | None = None

    def add(self, value: Any, *, arguments_begun: bool = False) -> None:
        if not isinstance(value, str):
            return
        if not self._value:
            self._value = Word.grow(None, value)
        elif not arguments_begun and value != self._value:
            self._value += value

    def value(self) -> str | None:
        return self._value

    def close(self) -> None:
        pass


class Echo:
    """Text that comes in fragments from some servers and whole, again and again, from others: repeats are dropped."""

    __slots__ = ("_whole",)

    def __init__(self) -> None:
        self._whole: Any = None

    def add(self, value: Any) -> None:
        self._whole = _echoed(self._whole, value)

    def value(self) -> Any:
        return self._whole

    def close(self) -> None:
        pass


DEEPEST_ECHO = 16
"""Levels at which the fragments of an object's text are still joined."""


def _echoed(old: Any, new: Any, depth: int = DEEPEST_ECHO) -> Any:
    if new is None or (isinstance(new, str) and new == old):
        return old
    if isinstance(old, str) and isinstance(new, str):
        return old + new
    if isinstance(old, dict) and isinstance(new, dict) and depth:
        return {**old, **{key: _echoed(old.get(key), value, depth - 1) for key, value in new.items()}}
    return new


class ToolInput(Text):
    """What a tool is given. A server that sends an object instead of its text has sent it whole."""

    __slots__ = ("whole",)

    def __init__(self) -> None:
        super().__init__()
        self.whole: JSON | None = None
        """The object, while it is all that has come. Its text is that of the tool all the same."""

    def add(self, value: Any) -> None:
        if value is None or value == "" or self._shut:
            super().add(value)
            return
        self.whole = value if isinstance(value, dict) and not self else None
        super().add(value)

    def spelled(self, value: Any) -> str:
        return json_text(value)


PIECES_OF_A_KIND = 2
"""Pieces of arguments after which it is known whether each brings the next stretch or all of them so far."""


class Arguments(ToolInput):
    """The argument text of a call.

    Some servers send all of it so far with every delta (DeepSeek on Qianfan), or with the last one (vLLM). That is
    taken for what it is only where it is proved: the text so far begins the new one, which is longer, and the two, one
    after the other, could not be JSON.
    """

    __slots__ = ("_pieces", "resent")

    def __init__(self) -> None:
        super().__init__()
        self._pieces = 0
        self.resent = False
        """Whether a delta has brought all the text so far."""

    @property
    def is_settled(self) -> bool:
        """Whether the next piece is sure to be the next stretch."""
        return self._pieces >= PIECES_OF_A_KIND and not self.resent

    def add(self, value: Any) -> None:
        if not isinstance(value, str) or not value or self._shut:
            super().add(value)
            return
        if self._bytes and value[0] == "{" and self._is_all_so_far(value):
            self._bytes[:] = value.encode("utf-8", "surrogatepass")
            self.resent = True
            return
        self._pieces = min(self._pieces + 1, PIECES_OF_A_KIND)
        super().add(value)

    def _is_all_so_far(self, value: str) -> bool:
        assert self._bytes is not None
        size = len(self._bytes)
        if 4 * len(value) < size:
            return False
        whole = value.encode("utf-8", "surrogatepass")
        if not whole.startswith(self._bytes):
            return False
        if self.resent:
            return True
        return len(whole) > size and _begins_json(whole) and not _begins_json(bytes(self._bytes) + whole)


def _begins_json(text: bytes) -> bool:
    """Whether a text is JSON, or the beginning of some."""
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        return "truncated" in str(error)
    except (UnicodeDecodeError, RecursionError):
        return True  # as far as can be told
    return True


class Prose(Text):
    """Text that some servers wrap in objects, or in lists of them (`{"content": "..."}`)."""

    __slots__ = ()

    def spelled(self, value: Any) -> str:
        return "".join(_texts(value)) if isinstance(value, dict | list) else super().spelled(value)


DEEPEST_TEXT = 16
"""Levels at which text is looked for."""

TEXT_KEYS = ("text", "content", "thinking", "summary")
"""Where an object that wraps a text has it."""


def _texts(value: Any, depth: int = DEEPEST_TEXT) -> Iterator[str]:
    """The strings of a text that is wrapped in objects and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth:
        for item in value:
            yield from _texts(item, depth - 1)
    elif isinstance(value, dict) and depth:
        for key in TEXT_KEYS:
            yield from _texts(value.get(key), depth - 1)


class Reasoning(Prose):
    """The model's reasoning. A server that wraps it in objects may say more there than text, such as a signature
    (Envoy on Bedrock); then it stays an object.
    """

    __slots__ = ("_beside",)

    def __init__(self) -> None:
        super().__init__()
        self._beside: JSON | None = None

    def add(self, value: Any) -> None:
        if isinstance(value, dict) and not self._shut:
            beside = {key: item for key, item in value.items() if key not in TEXT_KEYS and not is_empty(item)}
            self._beside = merged(self._beside, beside or None)
        super().add(value)

    def value(self) -> Any:
        text = super().value()
        return text if self._beside is None else {"text": text, **self._beside}


class FunctionPart(Fields):
    """A `function`, `custom` or `function_call` object. Whether a name is joined depends on its arguments."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(FUNCTION)

    def add(self, value: Any) -> None:
        if not isinstance(value, dict):
            return
        if "name" not in value:
            super().add(value)
            return
        begun = bool(self.text)
        for key, item in value.items():
            cell = self.get(key)
            if isinstance(cell, Name):
                cell.add(item, arguments_begun=begun)
            elif cell is not None:
                cell.add(item)
            else:
                self.begin(key, item)

    def value(self) -> JSON | None:
        out = super().value()
        for key in ("arguments", "input"):
            cell = self.get(key)
            if out is not None and isinstance(cell, ToolInput) and cell.whole is not None:
                out[key] = cell.whole  # unstreamed, such a server sends it as an object too (GigaChat)
        return out

    @property
    def text(self) -> Text | None:
        """The cell of the arguments (of a function) or the input (of a custom tool)."""
        for key in ("arguments", "input"):
            cell = self.get(key)
            if isinstance(cell, Text):
                return cell
        return None


FUNCTION = Record(name=Name, arguments=Arguments, input=ToolInput)
TOOL_CALL = Record(
    index=Skip,  # names the call while it streams; a whole call has none
    id=First,
    type=Word,
    function=FunctionPart,
    custom=FunctionPart,
    extra_content=Echo,
)


LATELY = 128
"""Calls among which an id without an index is looked for."""


class ToolCalls:
    """The tool calls of one message.

    What names a call, in order: its `index` (an identity, not a position: it may start at 1), within an index its
    `id` together with a function name (servers that send whole calls give all of them index 0), and for entries
    without an index the id, else the call that was open last. An id that changes without a name belongs to the same
    call. Several entries of one chunk that have none of this are of the calls at their places. Empty strings name
    nothing; where all that is left to tell two calls apart is that both are whole, that does.
    """

    __slots__ = ("_calls", "_last", "_next", "_open", "_shut")

    def __init__(self) -> None:
        self._calls: list[tuple[int, Fields]] | None = None  # None: no call so far
        self._open: dict[int, Fields] | None = None  # by index, the open call, once there are several
        self._last: Fields | None = None
        self._next = 0
        self._shut = False

    def add(self, value: Any) -> None:
        if isinstance(value, dict):
            value = (value,)
        if not isinstance(value, list | tuple):
            return
        if len(value) > 1 and self._add_side_by_side(value):
            return
        fresh: Fields | None = None  # the call that this very chunk has spoken of last
        for entry in value:
            if isinstance(entry, dict):
                fresh = self._add_entry(entry, fresh)

    def _add_side_by_side(self, entries: Sequence[Any]) -> bool:
        """Takes entries that nothing names but their places in the chunk: each goes on with the call at its place."""
        calls = self._calls
        if calls is None or len(entries) > len(calls) or not all(_is_nameless(entry) for entry in entries):
            return False
        for (_, call), entry in zip(calls, entries, strict=False):
            call.add(entry)
            self._last = call
        return True

    def _add_entry(self, entry: Mapping[str, Any], fresh: Fields | None) -> Fields | None:
        index = index_of(entry.get("index"))
        call = self._call_of(entry, index, fresh)
        if call is None:
            if self._shut:
                return None
            call = self._begin(index)
        self._last = call
        call.add(entry)
        return call

    def _call_of(self, entry: Mapping[str, Any], index: int | None, fresh: Fields | None) -> Fields | None:
        """The call that the entry continues, or None if it opens one."""
        current = self._last if index is None else self._at(index)
        identity = entry.get("id")
        if not identity:
            if current is None:
                return None
            opens = _opens_nameless(entry, current, fresh) if index is None else _is_a_call_of_its_own(entry, current)
            return None if opens else current
        if index is None:
            for _, call in reversed((self._calls or [])[-LATELY:]):
                if call.said("id") == identity:
                    return call
        if current is None:
            return None
        said = current.said("id")
        if not said or said == identity:
            return current
        return None if _name_in(entry) and not _goes_on(entry, current) else current

    def _at(self, index: int) -> Fields | None:
        """The call that is open at an index."""
        if self._open is not None:
            return self._open.get(index)
        return self._last if self._calls and self._calls[0][0] == index else None

    def _begin(self, index: int | None) -> Fields:
        if index is None:
            index = self._next
        self._next = max(self._next, index + 1)
        call = TOOL_CALL()
        if self._calls is None:
            self._calls = [(index, call)]
            return call
        if self._open is None:
            self._open = dict(self._calls)
        self._calls.append((index, call))
        self._open[index] = call
        return call

    def calls(self) -> list[Fields]:
        """The calls in the order of their indexes."""
        return [call for _, call in sorted(self._calls or (), key=lambda pair: pair[0])]

    def value(self) -> list[JSON] | None:
        if self._calls is None:
            return None
        return [_whole_call(call) for call in self.calls()]

    def close(self) -> None:
        self._shut = True
        for _, call in self._calls or ():
            call.close()

    def arguments(self) -> Text | None:
        """Where the arguments of the entry just added went."""
        return _arguments_of(self._last)

    def has_said(self, value: Any) -> bool:
        """Whether an entry about to be added brings all the arguments again that its call has already."""
        for entry in objects(value):
            function, index = entry.get("function"), index_of(entry.get("index"))
            text = _arguments_of(self._last if index is None else self._at(index))
            if text is not None and isinstance(function, dict) and is_same_text(text, function.get("arguments")):
                return True
        return False


def _whole_call(call: Fields) -> JSON:
    value = call.value() or {}
    value.pop("index", None)
    return value


def _arguments_of(call: Fields | None) -> Text | None:
    function = call.get("function") if call is not None else None
    return function.text if isinstance(function, FunctionPart) else None


def is_same_text(text: Text, again: Any) -> bool:
    """Whether a string is all of a text that has more than one character, without reading the text in vain."""
    return (
        isinstance(again, str) and 1 < len(text) <= 4 * len(again) and len(text) >= len(again) and text.value() == again
    )


def _name_in(entry: Mapping[str, Any]) -> Any:
    for key in ("function", "custom"):
        part = entry.get(key)
        if isinstance(part, dict) and part.get("name"):
            return part["name"]
    return None


def _is_nameless(entry: Any) -> bool:
    """Whether nothing in an entry says which call it is of."""
    return isinstance(entry, dict) and not (
        entry.get("id") or index_of(entry.get("index")) is not None or _name_in(entry)
    )


def _opens_nameless(entry: Mapping[str, Any], current: Fields, fresh: Fields | None) -> bool:
    """Whether an entry without index and id opens a call.

    It does if it has a name and the open call has its arguments already, or was named in the same chunk.
    """
    if not _name_in(entry):
        return False
    if current is fresh:
        return True
    parts = (current.get("function"), current.get("custom"))
    return any(isinstance(part, FunctionPart) and part.text for part in parts)


LONGEST_WHOLE = 16 * 1024
"""Bytes of arguments that are looked at to tell whether they are whole; so a server that repeats names costs little."""


def _is_a_call_of_its_own(entry: Mapping[str, Any], current: Fields) -> bool:
    """Whether an entry without id, under the index of the open call, opens a call.

    It does if it has a name, and begins an object where the open call has a whole one: the two cannot be one text.
    """
    function = entry.get("function")
    if not isinstance(function, dict) or not function.get("name"):
        return False
    begins, text = function.get("arguments"), _arguments_of(current)
    if not isinstance(begins, str) or not begins.startswith("{") or text is None or len(text) > LONGEST_WHOLE:
        return False
    so_far = text.value() or ""
    return so_far.startswith("{") and so_far.endswith("}") and is_complete_json(so_far)


def _goes_on(entry: Mapping[str, Any], current: Fields) -> bool:
    """Whether an entry with another id goes on with the arguments of the open call.

    Some servers make a new id for every delta. The name is then the same, and arguments do not begin in the middle.
    """
    function, open_part = entry.get("function"), current.get("function")
    if not isinstance(function, dict) or not isinstance(open_part, FunctionPart) or not open_part.text:
        return False
    if function.get("name") != open_part.said("name"):
        return False
    arguments = function.get("arguments")
    if not isinstance(arguments, str) or arguments == "" or arguments.startswith(("{", "[", "null")):
        return False
    # What is whole already, such as a number, does not go on.
    return len(open_part.text) > LONGEST_WHOLE or not is_complete_json(open_part.text.value() or "")


def nameless_calls(message: Cell | None) -> bool:
    """Whether some tool call of a growing message was never named (what a server sends that splits a call wrongly)."""
    calls = message.get("tool_calls") if isinstance(message, Fields) else None
    if not isinstance(calls, ToolCalls):
        return False
    for call in calls.calls():
        parts = (call.get("function"), call.get("custom"))
        if not any(isinstance(part, FunctionPart) and part.said("name") for part in parts):
            return True
    return False


def resent_arguments(message: Cell | None) -> bool:
    """Whether the arguments of some tool call came as a whole again and again."""
    calls = message.get("tool_calls") if isinstance(message, Fields) else None
    if not isinstance(calls, ToolCalls):
        return False
    texts = (_arguments_of(call) for call in calls.calls())
    return any(isinstance(text, Arguments) and text.resent for text in texts)


class Entries:
    """Reasoning in typed entries: a fragment continues the last entry of its index while it is of the same kind.

    Some servers number every entry 0, or number none, so a change of type or of a stated id opens a new one. So does
    text after a signature, which ends its entry, or another signature: of thoughts that are not shown there is nothing
    but that. What is redacted comes whole.
    """

    __slots__ = ("_entries", "_open", "_shut")

    entry: ClassVar[Record]
    """How an entry grows."""
    place: ClassVar[str] = "index"
    """The field that says which entry is meant."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, Fields]] | None = None  # None: nothing but null so far
        self._open: dict[int, Fields] = {}
        self._shut = False

    def add(self, value: Any) -> None:
        if isinstance(value, dict):
            value = (value,)
        if not isinstance(value, list | tuple):
            return
        if self._entries is None:
            self._entries = []
        for entry in value:
            if isinstance(entry, dict):
                self._add_entry(self._entries, entry)

    def _add_entry(self, entries: list[tuple[int, Fields]], entry: Mapping[str, Any]) -> None:
        index = index_of(entry.get(self.place)) or 0
        current = self._open.get(index)
        if current is None or not _continues(entry, current):
            if self._shut:
                return
            current = self.entry()
            entries.append((index, current))
            self._open[index] = current
        current.add(entry)

    def value(self) -> list[JSON] | None:
        if self._entries is None:
            return None
        return [entry.value() or {} for _, entry in sorted(self._entries, key=lambda pair: pair[0])]

    def close(self) -> None:
        self._shut = True
        for _, entry in self._entries or ():
            entry.close()


Entries.entry = Record(type=Word, index=First, id=First, text=Prose, summary=Prose, thinking=Prose, data=Echo)


class ExtraContent(Entries):
    """`tensorzero_extra_content`: thoughts, each with its place among all that the model said.

    A stretch is named by an id, and one of a summary by another; the unstreamed response has neither.
    """

    __slots__ = ()

    entry = Record(type=Word, insert_index=First, text=Prose, summary=Entries)
    place = "insert_index"

    def _add_entry(self, entries: list[tuple[int, Fields]], entry: Mapping[str, Any]) -> None:
        said = {key: item for key, item in entry.items() if key not in ("id", "summary_id", "summary_text")}
        if entry.get("summary_text"):
            part = {"type": "summary_text", "id": entry.get("summary_id"), "text": entry["summary_text"]}
            said["summary"] = [part]
        super()._add_entry(entries, said)

    def value(self) -> list[JSON] | None:
        entries = super().value()
        for entry in entries or ():
            for part in objects(entry.get("summary")):
                part.pop("id", None)
        return entries


class Blocks:
    """`content_blocks` (Portkey): Anthropic's blocks beside the text of them, each delta with the index of its block.

    The deltas have lost their types, which the blocks of an unstreamed response have.
    """

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        self._cells = BLOCKS()

    def add(self, value: Any) -> None:
        if isinstance(value, list):
            # An empty delta opens or closes a block that is told elsewhere, as a tool call.
            self._cells.add([block for block in objects(value) if block.get("delta", block)])

    def value(self) -> list[JSON] | None:
        blocks = self._cells.value()
        return [_whole_block(block) for block in blocks] if blocks is not None else None

    def close(self) -> None:
        self._cells.close()


BLOCKS = Indexed(
    Record(
        index=First,
        delta=Record(text=Text, thinking=Text, signature=Text, data=Text, citations=Union, citation=Union),
    )
)

KINDS_OF_BLOCK = {"thinking": "thinking", "data": "redacted_thinking", "text": "text"}
"""Types of Anthropic's blocks, by the field that only they have."""


def _whole_block(block: JSON) -> JSON:
    if not isinstance(said := block.get("delta"), dict):
        return block
    block = {key: item for key, item in block.items() if key not in ("index", "delta")}
    if citations := said.pop("citation", None):
        said["citations"] = [*(said.get("citations") or ()), *citations]
    kind = next((KINDS_OF_BLOCK[key] for key in said if key in KINDS_OF_BLOCK), None)
    return {**({"type": kind} if kind else {}), **block, **said}


def _continues(entry: Mapping[str, Any], current: Fields) -> bool:
    for key in ("type", "id"):
        new, old = entry.get(key), current.said(key)
        if new and old and new != old:
            return False
    if entry.get("type") == "redacted_thinking" and current.said("data") not in (None, entry.get("data")):
        return False
    signature = current.said("signature")
    if not signature or entry.get("signature") == signature:
        return True
    return not (entry.get("signature") or entry.get("text") or entry.get("thinking"))


GROWING_PARTS = ("text", "thinking", "reasoning")
"""Types of the parts of a content that come in stretches."""


class Content:
    """`content`: text, or a list of typed parts (Mistral's reasoning models), or first the one and then the other.

    A part continues the one before it when both are text, both thinking (Mistral) or both reasoning (Databricks).
    """

    __slots__ = ("_parts", "_shut", "text")

    part: ClassVar[Record]
    """How a part of text or thinking grows."""

    def __init__(self) -> None:
        self.text = Text()
        """The text, for as long as `is_text`."""
        self._parts: list[Cell] | None = None  # once a list has come
        self._shut = False

    @property
    def is_text(self) -> bool:
        """Whether nothing but text has come."""
        return self._parts is None

    def add(self, value: Any) -> None:
        if self._parts is None and not isinstance(value, list | tuple | dict):
            self.text.add(value)
        elif value and not self._shut:
            for part in value if isinstance(value, list | tuple) else (value,):
                self._add_part(part)

    def _add_part(self, part: Any) -> None:
        if self._parts is None:
            self._parts = []
            if self.text:
                self._add_part(self.text.value())
        if not isinstance(part, dict):
            if part is None or part == "":
                return
            part = {"type": "text", "text": part}
        last = self._parts[-1] if self._parts else None
        kind = part.get("type")
        grows = kind in GROWING_PARTS and not isinstance(part.get("summary"), str)
        if grows and isinstance(last, Fields) and last.said("type") == kind:
            last.add(part)
        elif kind != "thinking" or part.get(kind):  # without a thought it is the mark that thinking is over (Mistral)
            cell = (self.part if grows else Latest)()
            cell.add(part)
            self._parts.append(cell)

    def value(self) -> str | list[Any] | None:
        if self._parts is None:
            return self.text.value()
        return [part.value() for part in self._parts]

    def close(self) -> None:
        self._shut = True
        self.text.close()


class ToolUse(Fields):
    """A tool call among the parts of `content_list` (Snowflake): its id and name first, its input in stretches."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(TOOL_USE)

    def value(self) -> JSON | None:
        said = super().value() or {}
        text = said.get("input")
        if isinstance(text, str) and is_complete_json(text):
            said["input"] = msgspec.json.decode(text) if text else {}
        return {"type": "tool_use", "tool_use": said}


TOOL_USE = Record(tool_use_id=First, name=First, input=ToolInput)


class ContentList(Content):
    """`content_list`: parts of text, and tool calls in stretches that only the unstreamed response wraps."""

    __slots__ = ()

    def _add_part(self, part: Any) -> None:
        if not isinstance(part, dict) or "tool_use" in part or part.keys().isdisjoint(TOOL_USE_KEYS):
            super()._add_part(part)
            return
        if self._parts is None:
            self._parts = []
        last = self._parts[-1] if self._parts else None
        identity = part.get("tool_use_id")
        if not isinstance(last, ToolUse) or (identity and identity != last.said("tool_use_id")):
            last = ToolUse()
            self._parts.append(last)
        last.add({key: item for key, item in part.items() if key != "type"})


TOOL_USE_KEYS = ("tool_use_id", "input")
"""Fields that only a stretch of a tool call has; the first one has the id, the others some input."""


def snowflake_delta(delta: JSON) -> JSON:
    """A delta of Snowflake's without what it says of itself: its type, and a second copy of its part of a tool call."""
    said = {key: item for key, item in delta.items() if key not in OF_A_TOOL_USE}
    if delta.get("type") == "tool_use" and not delta.get("content_list"):
        said["content_list"] = [{key: delta[key] for key in OF_A_TOOL_USE if key in delta}]
    return said


OF_A_TOOL_USE = ("type", "tool_use_id", "name", "input")


class Thinking(Content):
    """`thinking` of a part: text, or parts of its own, which hold no further ones."""

    __slots__ = ()

    part = Record(type=Word, text=Text)


Content.part = Record(type=Word, text=Text, thinking=Thinking, summary=Entries)


REASONING_KEYS = (
    "reasoning",
    "reasoning_content",
    "reasoning_text",
    "thinking",
    "thinking_content",
    "thoughts",
    "reasoning_summary",
    "reasoning_summary_text",
)
"""Where servers put the model's reasoning: OpenRouter and vLLM, DeepSeek, Copilot, others."""

MESSAGE = Record(
    role=Word,
    token_id=Skip,  # of one token (Together): a message has many
    channel=Skip,  # of the model, in which one delta was said (Groq)
    content=Content,
    content_list=ContentList,  # the same as parts, and as `text` once more (Snowflake)
    text=Text,
    refusal=Text,
    **dict.fromkeys(REASONING_KEYS, Reasoning),
    cot_summary=Text,
    reasoning_details=Entries,
    reasoning_steps=Union,
    tool_calls=ToolCalls,
    function_call=FunctionPart,
    audio=Record(id=First, data=Base64, transcript=Text, expires_at=Latest),
    audio_content=Text,  # in hexadecimal digits (MiniMax)
    annotations=Union,
    citations=Union,
    images=Union,
    executed_tools=Indexed(Record()),
    thinking_blocks=Entries,
    content_blocks=Blocks,
    tensorzero_extra_content=ExtraContent,
    tensorzero_extra_content_experimental=ExtraContent,
    extra_content=Merge,
    provider_specific_fields=Record(  # LiteLLM
        Merge,
        refusal=Text,
        reasoning=Text,
        reasoning_content=Text,
        thinking_blocks=Entries,
        thought_signatures=Union,
        citations=Union,
        citation=Union,
    ),
)

OF_A_DELTA = ("token_id", "channel")
"""Fields of a delta that no message has."""

LOGPROBS = Record(
    content=Extend,
    refusal=Extend,
    reasoning_content=Extend,
    tokens=Extend,
    token_ids=Extend,
    token_logprobs=Extend,
    top_logprobs=Extend,
    text_offset=Extend,
)


def of_one_token(logprob: float, token: Any, text: Any = None) -> JSON | None:
    """A bare log probability as a stretch of the lists that the unstreamed response has in its place (Together).

    `token` is the delta that it came with, `text` what stands outside of that. None if nothing was said to be likely.
    """
    token = token if isinstance(token, Mapping) else {}
    spelled = (text, token.get("content"), *(token.get(key) for key in REASONING_KEYS))
    said = next((each for each in spelled if each and isinstance(each, str)), "")
    if not said and token.get("token_id") is None:
        return None
    ids = {"token_ids": [token["token_id"]]} if "token_id" in token else {}
    return {**ids, "tokens": [said], "token_logprobs": [logprob]}


class Whole:
    """A whole `message` in the place of a delta, sent again and again as it grows.

    Some servers call their deltas that: content which does not begin with the content before it is joined to it.
    """

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: JSON | None = None

    def add(self, value: Any) -> None:
        if not isinstance(value, dict):
            return
        old = self._value or {}
        said, content = old.get("content"), value.get("content")
        self._value = {**old, **{key: item for key, item in value.items() if key not in old or not _is_nothing(item)}}
        if isinstance(said, str) and isinstance(content, str) and not content.startswith(said):
            self._value["content"] = said + content

    def value(self) -> JSON | None:
        return self._value

    def close(self) -> None:
        pass


def _is_nothing(value: Any) -> bool:
    return value is None or value == "" or value == []


SETTLED = (Bare, Identity, Union)
"""Cells that stay as they are when the same value is added again."""


def growing_text(delta: Mapping[str, Any], message: Fields) -> tuple[tuple[str | int, ...], Text] | None:
    """The path of the one string that a delta has just added to a message, and its cell.

    None if the delta did more than that: the same delta with another string would not be the same again.
    """
    found: tuple[tuple[str | int, ...], Text] | None = None
    for key, value in delta.items():
        cell = message.get(key)
        if _is_nothing(value) or type(cell) in SETTLED:
            continue
        if type(value) is dict and all(map(_is_nothing, value.values())):
            continue
        if found is not None:
            return None
        if isinstance(cell, ToolCalls):
            found = _growing_arguments(value, cell)
        elif isinstance(value, str):
            text = cell.text if isinstance(cell, Content) and cell.is_text else cell
            found = ((key,), text) if isinstance(text, Text) else None
        if found is None:
            return None
    return found


def _growing_arguments(value: Any, calls: ToolCalls) -> tuple[tuple[str | int, ...], Text] | None:
    entry = value[0] if isinstance(value, list) and len(value) == 1 else None
    if not isinstance(entry, dict) or entry.keys() - {"index", "id", "type", "function"}:
        return None
    function = entry.get("function")
    if not isinstance(function, dict) or function.get("name") or function.keys() - {"name", "arguments"}:
        return None
    text = calls.arguments()
    if not isinstance(text, Arguments) or not text.is_settled or not isinstance(function.get("arguments"), str):
        return None
    return ("tool_calls", 0, "function", "arguments"), text


_BRINGS = dict.fromkeys(("content", "refusal", "images", "audio_content"), OUTPUT | CONTENT) | dict.fromkeys(
    (
        *REASONING_KEYS,
        "tool_calls",
        "content_list",
        "function_call",
        "reasoning_details",
        "reasoning_steps",
        "thinking_blocks",
        "content_blocks",
        "tensorzero_extra_content",
        "tensorzero_extra_content_experimental",
        "cot_summary",
        "executed_tools",
    ),
    OUTPUT,
)
"""What a field of a delta shows, if it holds anything."""


def brings(delta: Mapping[str, Any]) -> int:
    """What the model put out in a delta."""
    flags = 0
    for key, value in delta.items():
        if value:
            flags |= _BRINGS.get(key, 0)
    audio = delta.get("audio")
    if isinstance(audio, dict) and (audio.get("data") or audio.get("transcript")):
        flags |= OUTPUT | CONTENT
    return flags


def chat_message(message: Any) -> ChatMessage:
    """A native OpenAI message as a neutral one."""
    if not isinstance(message, dict):
        return ChatMessage(content=message if isinstance(message, str) else None)
    content, reasoning = _content_of(message.get("content"))
    spelled = ["".join(_texts(message.get(key))) for key in REASONING_KEYS]
    audio, function = message.get("audio"), message.get("function_call")
    native = objects(message.get("tool_calls")) or _listed_calls(message.get("content_list"))
    calls = [tool_call(call, place) for place, call in enumerate(native)]
    return ChatMessage(
        role=message.get("role"),
        content=content,
        refusal=message.get("refusal"),
        # Two spellings of the same reasoning are the same reasoning.
        reasoning=max(spelled, key=len) or reasoning or _detailed_reasoning(message),
        reasoning_details=objects(message.get("reasoning_details")) or None,
        audio=_audio(audio) if isinstance(audio, dict) else None,
        tool_calls=calls or None,
        function_call=_function(function) if isinstance(function, dict) else None,
        annotations=objects(message.get("annotations")) or None,
        images=objects(message.get("images")) or None,
    )


def _listed_calls(parts: Any) -> list[JSON]:
    """The tool calls among the parts of a `content_list` (Snowflake), as OpenAI spells them."""
    uses = [part["tool_use"] for part in objects(parts) if isinstance(part.get("tool_use"), dict)]
    return [
        {
            "id": use.get("tool_use_id"),
            "type": "function",
            "function": {"name": use.get("name"), "arguments": use.get("input")},
        }
        for use in uses
    ]


def objects(value: Any) -> list[JSON]:
    """The objects of what should be a list of objects."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list | tuple) else []


DETAILS = (
    "reasoning_details",
    "thinking_blocks",
    "tensorzero_extra_content",
    "tensorzero_extra_content_experimental",
)
"""Where servers put reasoning in entries."""


def _detailed_reasoning(message: Mapping[str, Any]) -> str | None:
    """The reasoning of a message that tells it in entries only."""
    for key in DETAILS:
        text = "".join(_texts([{**entry, "content": None} for entry in objects(message.get(key))]))
        if text:
            return text
    thoughts = [block.get("thinking") for block in objects(message.get("content_blocks"))]
    return "".join(_texts(thoughts)) or "".join(_texts(message.get("cot_summary"))) or None


def _function(part: Mapping[str, Any]) -> FunctionCall:
    arguments = part.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        arguments = json_text(arguments)
    return FunctionCall(part.get("name"), arguments)


def _audio(audio: Mapping[str, Any]) -> MessageAudio:
    return MessageAudio(audio.get("id"), audio.get("data"), audio.get("transcript"), audio.get("expires_at"))


def _content_of(content: Any) -> tuple[str | None, str | None]:
    """The text and the reasoning of a `content` that is a string or a list of typed parts."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None, None
    thoughts: list[str] = []
    texts: list[str] = []
    for part in objects(content):
        if part.get("type") == "reasoning":
            thoughts.extend(_texts(part))
            continue
        thoughts.extend(_texts(part.get("thinking")))
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
    return "".join(texts) if texts else None, "".join(thoughts) if thoughts else None


def tool_call(call: Mapping[str, Any], place: int) -> ToolCall:
    """A native tool call as a neutral one, with the verdict on its arguments."""
    part, custom = call.get("function"), call.get("custom")
    function = _function(part) if isinstance(part, dict) else None
    extra = call.get("extra_content")
    return ToolCall(
        index=place,
        id=call.get("id"),
        type=call.get("type"),
        function=function,
        custom=custom if isinstance(custom, dict) else None,
        extra_content=extra if isinstance(extra, dict) else None,
        arguments_complete=is_complete_json(function.arguments if function is not None else None),
    )


def is_complete_json(arguments: str | None) -> bool:
    """Whether a call's argument text is a whole JSON document; nothing at all is a call without parameters."""
    if not arguments:
        return True
    try:
        msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True
