"""Mistral's conversations, and the content of its messages.

Source: the `ConversationEvents` and `ConversationResponse` of Mistral's API reference. A conversation has no message
but a list of entries: what the model said, the functions it calls, the tools that ran on Mistral's side, the agents
that took over. An event names its entry by `id` and its place by `output_index`; its fields are the entry's, and its
text is appended. The unstreamed `completed_at` of an entry is said by no event, so the folded entry has none.

`Parts` is what `content` is in both of Mistral's text APIs: text, or a list of typed parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from streamfold.growth import (
    Cell,
    Fields,
    First,
    Identity,
    Latest,
    Merge,
    Model,
    Record,
    Skip,
    Text,
    Word,
    index_of,
    is_empty,
)
from streamfold.types import JSON, AccumulatedData, ChatMessage, ToolCall
from streamfold.wire.fold import CONTENT, OUTPUT
from streamfold.wire.openai_message import chat_message, objects, tool_call

__all__ = ["ENTRIES", "Conversation", "Parts", "content_brings", "said", "view_conversation"]

Place = tuple[tuple[str | int, ...], Text]
"""The path of a string in a frame, and where it went."""


class Parts:
    """`content` or `thinking`: text, or a list of typed parts, or first the one and then the other.

    A stretch of text continues the last part if that is text; a stretch of thinking likewise, unless the part was
    signed. `closed` is said of many a stretch in the middle of one thought, and the unstreamed part says it once: it
    parts two thoughts only if both came in one list. A stretch without a thought is the mark that thinking is over,
    and begins no part.
    """

    __slots__ = ("_parts", "_shut", "_text")

    part: ClassVar[Record]
    """How a part of text or thinking grows."""

    def __init__(self) -> None:
        self._text = Text()
        self._parts: list[Cell] | None = None  # once a part with a type has come
        self._shut = False

    def add(self, value: Any) -> None:
        if self._parts is None and not isinstance(value, list | tuple | dict):
            self._text.add(value)
        elif value and not self._shut:
            for place, part in enumerate(value if isinstance(value, list | tuple) else (value,)):
                self._add_part(part, together=place > 0)

    def _add_part(self, part: Any, *, together: bool = False) -> None:
        if self._parts is None:
            self._parts = []
            if self._text:
                self._add_part(self._text.value())
        if is_empty(part):
            return
        if not isinstance(part, dict):
            part = {"type": "text", "text": part}
        kind = part.get("type")
        last = self._parts[-1] if self._parts else None
        if kind in GROWING and isinstance(last, Fields) and _goes_on(last, kind, together):
            last.add(part)
            return
        if kind == "thinking" and not part.get(kind) and not part.get("signature"):
            return
        cell: Cell = self.part() if kind in GROWING else Latest()
        cell.add(part)
        self._parts.append(cell)

    def place(self, value: Any) -> Place | None:
        """Where the one string of a value that was just added went; None if the value was more than a string."""
        if isinstance(value, str):
            return self._place_of("text", ()) if self._parts is not None else ((), self._text)
        if isinstance(value, list):
            found = self.place(value[0]) if len(value) == 1 and isinstance(value[0], dict) else None
            return ((0, *found[0]), found[1]) if found is not None else None
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in GROWING or value.keys() != {"type", kind}:
            return None
        last = self._parts[-1] if self._parts else None
        inner = last.get(kind) if isinstance(last, Fields) else None
        if isinstance(inner, Parts):
            found = inner.place(value[kind])
            return ((kind, *found[0]), found[1]) if found is not None else None
        return self._place_of(kind, (kind,)) if isinstance(value[kind], str) else None

    def _place_of(self, key: str, path: tuple[str | int, ...]) -> Place | None:
        last = self._parts[-1] if self._parts else None
        text = last.get(key) if isinstance(last, Fields) else None
        return (path, text) if isinstance(text, Text) else None

    def value(self) -> str | list[Any] | None:
        if self._parts is None:
            return self._text.value()
        return [part.value() for part in self._parts]

    def close(self) -> None:
        self._shut = True
        self._text.close()
        for part in self._parts or ():
            part.close()


GROWING: Final = ("text", "thinking")
"""The types of the parts that come in stretches, which are also the names of what grows in them."""


def said(cell: Fields, key: str) -> Any:
    found = cell.get(key)
    return found.value() if found is not None else None


def _goes_on(part: Fields, kind: str, together: bool) -> bool:
    """Whether a stretch of that kind continues the part; `together` if they came in one list."""
    if said(part, "type") != kind or said(part, "signature"):
        return False
    return not (together and said(part, "closed") is True)


class Thinking(Parts):
    """`thinking` of a part: text, or parts of its own, which hold no further ones."""

    __slots__ = ()

    part = Record(type=Word, text=Text, thinking=Text)


Parts.part = Record(type=Word, text=Text, thinking=Thinking, signature=Latest, closed=Latest)


ENTRIES: Final = {
    "message.output.delta": "message.output",
    "function.call.delta": "function.call",
    "tool.execution.started": "tool.execution",
    "tool.execution.delta": "tool.execution",
    "tool.execution.done": "tool.execution",
    "agent.handoff.started": "agent.handoff",
    "agent.handoff.done": "agent.handoff",
}
"""The kind of entry that each event grows."""

CONVERSATION = Record(
    type=Skip, created_at=Skip, conversation_id=Identity, guardrails=Latest, usage=Merge, error=Latest
)

ENTRY = Record(
    type=Skip,
    output_index=Skip,
    content_index=Skip,
    content=Skip,
    id=First,
    created_at=First,
    model=Model,
    agent_id=First,
    role=Word,
    name=First,
    function=First,
    tool_call_id=First,
    arguments=Text,
    confirmation_status=Latest,
    info=Merge,
)

UNSAID: Final = frozenset({"type", "created_at"})
"""Fields of a conversation's event that no unstreamed response has."""

ADDRESS: Final = frozenset({"type", "output_index", "content_index", "content"})


class Entry:
    """One output of a conversation."""

    __slots__ = ("contents", "fields", "index", "kind")

    def __init__(self, kind: str, index: int) -> None:
        self.kind = kind
        self.index = index
        self.fields = ENTRY()
        self.contents: dict[int, Parts] | None = None
        """By `content_index`."""

    def content(self, index: int) -> Parts:
        if self.contents is None:
            self.contents = {}
        if index not in self.contents:
            self.contents[index] = Parts()
        return self.contents[index]

    def value(self) -> JSON:
        said = {key: value for key, value in (self.fields.value() or {}).items() if key not in ADDRESS}
        out: JSON = {"object": "entry", "type": self.kind, **said}
        if self.contents is not None:
            out["content"] = _content(self.contents)
        return out

    def close(self) -> None:
        self.fields.close()
        for parts in (self.contents or {}).values():
            parts.close()


def _content(contents: dict[int, Parts]) -> Any:
    values = [contents[index].value() for index in sorted(contents)]
    if len(values) == 1:
        return values[0]
    parts: list[Any] = []
    for value in values:
        if isinstance(value, list):
            parts += value
        elif value:
            parts.append({"type": "text", "text": value})
    return parts


class Conversation:
    """A growing `ConversationResponse`."""

    __slots__ = ("_by_id", "_entries", "_last", "shut", "top")

    def __init__(self) -> None:
        self.top = CONVERSATION()
        self._entries: list[Entry] = []
        self._by_id: dict[tuple[str, str], Entry] = {}
        self._last: dict[tuple[str, int], Entry] = {}
        """By kind and index, the entry that an event without an id speaks of."""
        self.shut = False

    def entry(self, kind: str, event: Mapping[str, Any]) -> Entry | None:
        """The entry that an event speaks of, made if need be; None when the response has stopped growing."""
        identity, index = event.get("id"), index_of(event.get("output_index")) or 0
        named = isinstance(identity, str) and identity != ""
        found = self._by_id.get((kind, identity)) if isinstance(identity, str) else None
        if found is None and not named:
            found = self._last.get((kind, index))
        if found is None and not self.shut:
            found = Entry(kind, index)
            self._entries.append(found)
            if isinstance(identity, str) and named:
                self._by_id[kind, identity] = found
        if found is not None:
            self._last[kind, index] = found
        return found

    def value(self) -> JSON:
        said = {key: value for key, value in (self.top.value() or {}).items() if key not in UNSAID}
        entries = sorted(self._entries, key=lambda entry: entry.index)
        out: JSON = {"object": "conversation.response"}
        if "conversation_id" in said:
            out["conversation_id"] = said.pop("conversation_id")
        return {**out, "outputs": [entry.value() for entry in entries], **said}

    def close(self) -> None:
        self.shut = True
        for entry in self._entries:
            entry.close()


def content_brings(content: Any) -> int:
    """What a content is of: seen by the reader, or only put out."""
    flags = 0
    for part in content if isinstance(content, list) else [content]:
        if not part:
            continue
        kind = part.get("type") if isinstance(part, dict) else "text"
        seen = kind != "thinking" and (kind != "text" or not isinstance(part, dict) or bool(part.get("text")))
        flags |= OUTPUT | CONTENT if seen else OUTPUT
    return flags


def view_conversation(response: JSON, data: AccumulatedData) -> None:
    outputs = objects(response.get("outputs"))
    data.output_messages = outputs or None
    said = [entry for entry in outputs if entry.get("type") == "message.output"]
    calls = [entry for entry in outputs if entry.get("type") == "function.call"]
    if said or calls:
        parts = [part for entry in said for part in objects(entry.get("content"))]
        sources = [_citation(part) for part in parts if part.get("type") == "tool_reference" and part.get("url")]
        data.output_message = _joined_message([chat_message(entry) for entry in said], calls, sources)
        data.tool_calls = data.output_message.tool_calls
    identity = response.get("conversation_id")
    data.response_id = identity if isinstance(identity, str) and identity else None
    models = [entry["model"] for entry in outputs if isinstance(entry.get("model"), str)]
    data.response_model = models[-1] if models else None


def _citation(part: Mapping[str, Any]) -> JSON:
    """What a tool of Mistral's found, as OpenAI's URL citation."""
    return {"type": "url_citation", "url_citation": {key: part[key] for key in ("url", "title") if part.get(key)}}


def _joined_message(messages: list[ChatMessage], calls: list[JSON], sources: list[JSON]) -> ChatMessage:
    roles = [message.role for message in messages if message.role]
    return ChatMessage(
        role=roles[0] if roles else None,
        content=_joined([message.content for message in messages]),
        reasoning=_joined([message.reasoning for message in messages]),
        tool_calls=[_function_call(call, place) for place, call in enumerate(calls)] or None,
        annotations=sources or None,
    )


def _joined(texts: list[str | None]) -> str | None:
    said = [text for text in texts if text is not None]
    return "".join(said) if said else None


def _function_call(entry: Mapping[str, Any], place: int) -> ToolCall:
    function = {"name": entry.get("name"), "arguments": entry.get("arguments")}
    return tool_call({"id": entry.get("tool_call_id"), "type": "function", "function": function}, place)
