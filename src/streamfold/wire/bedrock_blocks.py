"""The content blocks of Bedrock's Converse API, as they grow: from the streamed words to the unstreamed ones.

A block holds one kind of content, and a delta names the kind (`KINDS`). What differs from the unstreamed block: a text
with citations becomes `citationsContent`; reasoning text and its signature become `reasoningText`; a tool's input is an
object that travels as JSON text, and only a whole document becomes the object. Text that is cut off or broken stays
text: `input` is then null and the text stands beside it as `partial_json`. Nova 2 streams its reasoning in the
unstreamed words, by Amazon's own examples.
"""

from __future__ import annotations

import base64
from typing import Any, Final, NamedTuple

from streamfold.growth import Base64, Cell, Extend, Fields, First, Merge, Record, Rule, Text, Word, json_text, merged
from streamfold.types import JSON
from streamfold.wire.anthropic_messages import parsed_input
from streamfold.wire.bedrock_view import is_call
from streamfold.wire.fold import CONTENT, OUTPUT

__all__ = ["KINDS", "PADDING", "Block"]

PADDING: Final = "p"
"""Random letters that hide the length of the text from who watches the encrypted traffic."""


class Blob(Base64):
    """Binary: base64 on the wire, bytes from an SDK that has decoded it."""

    __slots__ = ()

    def add(self, value: Any) -> None:
        super().add(base64.b64encode(value).decode() if isinstance(value, bytes | bytearray) else value)


class ToolInput(Text):
    """A tool's input as JSON text. A server may send the object itself."""

    __slots__ = ()

    def spelled(self, value: Any) -> str:
        return json_text(value)


class ToolResult:
    """A tool's result: the start has its fields, each delta a list of entries.

    A text that begins a delta goes on with the text that ended the one before.
    """

    __slots__ = ("_entries", "_fields", "_open", "_shut")

    def __init__(self) -> None:
        self._fields: JSON | None = None
        self._entries: list[Any] | None = None
        self._open: Text | None = None  # the last entry, while it is text
        self._shut = False

    def add(self, value: Any) -> None:
        if isinstance(value, dict):
            self._fields = merged(self._fields, value)
        elif isinstance(value, list) and not self._shut:
            self._extend(value)

    def _extend(self, entries: list[Any]) -> None:
        if self._entries is None:
            self._entries = []
        for place, entry in enumerate(entries):
            text = entry.get("text") if isinstance(entry, dict) and len(entry) == 1 else None
            if not isinstance(text, str):
                self._entries.append(entry)
                self._open = None
                continue
            if place or self._open is None:
                self._entries.append(cell := Text())
                self._open = cell
            self._open.add(text)

    def value(self) -> JSON:
        out = dict(self._fields or {})
        if self._entries is not None:
            out["content"] = [{"text": e.value()} if isinstance(e, Text) else e for e in self._entries]
        return out

    def close(self) -> None:
        self._shut = True


class Leaf:
    """A value that nobody told us how to grow: text is appended, of anything else the latest stays."""

    __slots__ = ("_shut", "_value")

    def __init__(self) -> None:
        self._value: Any = None
        self._shut = False

    def add(self, value: Any) -> None:
        if self._shut or value is None:
            return
        if not isinstance(value, str):
            self._value = value
            return
        if not isinstance(self._value, Text):
            self._value = Text()
        self._value.add(value)

    def value(self) -> Any:
        return self._value.value() if isinstance(self._value, Text | Fields) else self._value

    def close(self) -> None:
        self._shut = True


class Loose(Leaf):
    """`Leaf`, or an object of such."""

    __slots__ = ()

    def add(self, value: Any) -> None:
        if not isinstance(value, dict) or self._shut:
            super().add(value)
            return
        if not isinstance(self._value, Fields):
            self._value = LEAVES()
        self._value.add(value)


LEAVES = Record(Leaf)
REASONING = Record(text=Text, signature=Text, redactedContent=Blob)


class Reasoning(Fields):
    """`reasoningContent`, with its text and signature bare or inside `reasoningText`."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(REASONING)

    def add(self, value: Any) -> None:
        inner = value.get("reasoningText") if isinstance(value, dict) else None
        if isinstance(inner, dict):
            value = {**{key: value[key] for key in value if key != "reasoningText"}, **inner}
        super().add(value)


TOOL_USE = Record(toolUseId=First, name=First, type=Word, input=ToolInput)
IMAGE = Record(format=Word, source=Record(bytes=Blob, s3Location=Merge), error=Merge)


class Kind(NamedTuple):
    """A kind of delta."""

    rule: Rule
    brings: int
    starts: bool
    """Whether a block of the kind is announced by a `contentBlockStart`."""


KINDS: Final = {
    "text": Kind(Text, OUTPUT | CONTENT, starts=False),
    "reasoningContent": Kind(Reasoning, OUTPUT, starts=False),
    "citation": Kind(Extend, OUTPUT, starts=False),
    "toolUse": Kind(TOOL_USE, OUTPUT, starts=True),
    "toolResult": Kind(ToolResult, OUTPUT, starts=True),
    "image": Kind(IMAGE, OUTPUT | CONTENT, starts=True),
}

CITED: Final = frozenset({"text", "citation"})
"""The two kinds of delta that grow one block."""


class Block:
    """One content block: a cell for its kind (two for a text with citations), or as it came in a whole message."""

    __slots__ = ("_cells", "given", "index", "kind", "opened", "shut", "stopped")

    def __init__(self, index: int, kind: str | None = None) -> None:
        self.index = index
        self.kind = kind
        self.given: Any = None
        self.opened = False
        """Its start has come."""
        self.stopped = False
        self.shut = False
        self._cells: dict[str, Cell] | None = None

    def takes(self, kind: str) -> bool:
        """Whether a delta of this kind belongs here."""
        return self.kind in (None, kind) or (self.kind in CITED and kind in CITED)

    def cell(self, kind: str) -> Cell:
        if self._cells is None:
            self._cells = {}
        cell = self._cells.get(kind)
        if cell is None:
            known = KINDS.get(kind)
            cell = self._cells[kind] = known.rule() if known is not None else Loose()
            if self.shut:
                cell.close()
            if self.kind is None:
                self.kind = kind
        return cell

    def get(self, kind: str) -> Cell | None:
        return self._cells.get(kind) if self._cells is not None else None

    def close(self) -> None:
        self.shut = True
        for cell in (self._cells or {}).values():
            cell.close()

    @property
    def tool_use_id(self) -> Any:
        cell = self.get(self.kind or "")
        fields = cell.value() if isinstance(cell, Fields | ToolResult) else None
        return fields.get("toolUseId") if fields else None

    @property
    def is_call(self) -> bool:
        """Whether it is a call for the client to make."""
        if self._cells is None:
            return is_call(self.given)
        use = self.get("toolUse")
        return isinstance(use, Fields) and is_call({"toolUse": use.value()})

    def raw_input(self) -> str:
        """A tool's input as the text that was sent; empty when none was."""
        use = self.get("toolUse")
        cell = use.get("input") if isinstance(use, Fields) else None
        return (cell.value() or "") if cell is not None else ""

    def fault(self) -> str | None:
        """The code of what is wrong with a tool's input text, if anything is."""
        raw = self.raw_input() if self.kind == "toolUse" else ""
        return parsed_input(raw)[1] if raw else None

    def value(self, *, ended: bool) -> Any:
        """The block as the unstreamed message has it. `ended`: the message is, so no more can come for the block."""
        if self._cells is None:
            return self.given
        if self.kind in CITED:
            return self._cited()
        out: JSON = {}
        for kind, cell in self._cells.items():
            value = cell.value()
            if kind == "reasoningContent":
                value = _reasoning(value or {})
            elif kind == "toolUse":
                value = self._tool_use(value or {}, closed=self.stopped or ended)
            out[kind] = value
        return out

    def _cited(self) -> JSON:
        text, citations = (
            cell.value() if (cell := self.get(kind)) is not None else None for kind in ("text", "citation")
        )
        if citations is None:
            return {"text": text}
        return {"citationsContent": {**({} if text is None else {"content": [{"text": text}]}), "citations": citations}}

    def _tool_use(self, use: JSON, *, closed: bool) -> JSON:
        raw = self.raw_input()
        if not raw:
            # No text of it at all is a tool without parameters, once nothing more can come.
            return {**use, "input": {}} if closed else {**use, "input": None, "partial_json": ""}
        found, fault = parsed_input(raw)
        if fault is None and (closed or isinstance(found, dict | list)):
            return {**use, "input": found}
        return {**use, "input": None, "partial_json": raw}


def _reasoning(said: JSON) -> JSON:
    """Reasoning in the unstreamed words, with what was said beside them."""
    text = {key: said[key] for key in ("text", "signature") if key in said}
    rest = {key: value for key, value in said.items() if key not in text}
    return {**({"reasoningText": text} if text else {}), **rest}
