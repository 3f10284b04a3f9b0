"""The parts of a Gemini answer: text, function calls (whole or argument by argument) and everything else.

The theory is at the head of `gemini.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from streamfold.growth import Base64, Extend, First, Record, Skip, Text
from streamfold.types import (
    JSON,
)

__all__ = ["Call", "Parts", "is_raw_sound", "is_text"]

MAX_DEPTH: Final = 64
"""Steps of a JSON path that are followed; arguments of a real tool are not nested deeper."""

_STEP = re.compile(
    r"""\.(?P<name>[^.\[\]'"]+)            # .city
      | \[(?P<index>\d{1,9})\]             # [0]
      | \[(?P<quote>['"])(?P<quoted>(?:\\.|(?!(?P=quote)).)*)(?P=quote)\]   # ['a key']
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _steps(path: str) -> list[str | int] | None:
    """The steps of a JSON path that names one place (RFC 9535), or None if it does not."""
    if not path.startswith("$"):
        return None
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None or len(steps) == MAX_DEPTH:
            return None
        at = step.end()
        if step["index"] is not None:
            steps.append(int(step["index"]))
        elif step["name"] is not None:
            steps.append(step["name"])
        else:
            steps.append(_ESCAPED.sub(_unescape, step["quoted"]))
    return steps or None


def _unescape(match: re.Match[str]) -> str:
    escape = match[1]
    return chr(int(escape[1:], 16)) if len(escape) == 5 else _ESCAPES.get(escape, escape)


class Leaf:
    """One argument value: text that may come in pieces, or anything else, said once."""

    __slots__ = ("text", "value")

    def __init__(self) -> None:
        self.text: Text | None = None
        self.value: Any = None


Branch = dict[str | int, Any]
"""Values (`Leaf` or `Branch`) by name, or by position. Sparse, so that a position costs nothing before it is named."""


class Arguments:
    """The arguments of one streamed call, built place by place."""

    __slots__ = ("_leaves", "_root", "_shut")

    def __init__(self) -> None:
        self._root: Branch = {}
        self._leaves: dict[str, Leaf] = {}  # by path as spelled: a string in 100,000 pieces is looked up, not walked to
        self._shut = False

    def add(self, partial: Any) -> bool:
        """Takes one entry of `partialArgs`. False when it cannot be placed or brings a value of no known kind."""
        if not isinstance(partial, Mapping) or not isinstance(path := partial.get("jsonPath"), str):
            return False
        kind, value = _partial_value(partial)
        if kind is None:
            return False
        if self._shut or not kind:
            return True
        leaf = self._leaf(path)
        if leaf is None:
            return False
        if kind != "stringValue":
            leaf.text, leaf.value = None, value
            return True
        if leaf.text is None:
            leaf.text = Text()
        leaf.text.add(value)
        return True

    def put_all(self, args: Mapping[str, Any]) -> None:
        """Takes arguments that came whole."""
        for name, value in args.items():
            if not self._shut:
                leaf = self._root[name] = Leaf()
                leaf.value = value
        self._leaves.clear()

    def text_at(self, path: Any) -> Text | None:
        """The text that was last added to at this spelling of a path."""
        leaf = self._leaves.get(path) if isinstance(path, str) else None
        return leaf.text if leaf is not None else None

    def _leaf(self, path: str) -> Leaf | None:
        """The leaf at a path, made if need be; None for a path that names no place."""
        leaf = self._leaves.get(path)
        if leaf is not None:
            return leaf
        steps = _steps(path)
        if steps is None:
            return None
        node = self._root
        for step in steps[:-1]:
            child = node.get(step)
            if not isinstance(child, dict):
                if child is not None:
                    self._leaves.clear()  # a value turns out to have parts; its leaf is no longer in the tree
                child = node[step] = {}
            node = child
        leaf = node.get(steps[-1])
        if not isinstance(leaf, Leaf):
            if leaf is not None:
                self._leaves.clear()
            leaf = node[steps[-1]] = Leaf()
        self._leaves[path] = leaf
        return leaf

    def value(self) -> JSON | None:
        """The arguments so far; None when none have come (which is not `{}`)."""
        if not self._root:
            return None
        return {str(step): _tree_value(child) for step, child in self._root.items()}

    def close(self) -> None:
        self._shut = True
        _close_tree(self._root)


PARTIAL_ARG: Final = frozenset({"jsonPath", "willContinue", "stringValue", "numberValue", "boolValue", "nullValue"})


def _partial_value(partial: Mapping[str, Any]) -> tuple[str | None, Any]:
    """The kind and the value of a partial argument; kind `""` when it brings none, None when nobody knows it."""
    for kind in ("stringValue", "numberValue", "boolValue"):
        value = partial.get(kind)
        if value is not None:
            return (kind, value) if kind != "stringValue" or isinstance(value, str) else (None, None)
    if "nullValue" in partial:
        return "nullValue", None
    return (None, None) if partial.keys() - PARTIAL_ARG else ("", None)


def _tree_value(node: Leaf | Branch) -> Any:
    if isinstance(node, Leaf):
        return node.text.value() if node.text is not None else node.value
    if all(isinstance(step, int) for step in node):
        # Positions that never came are not filled up: what stood there is not known, not even that it was null.
        return [_tree_value(node[step]) for step in sorted(node)]
    return {str(step): _tree_value(child) for step, child in node.items()}


def _close_tree(node: Leaf | Branch) -> None:
    if isinstance(node, Leaf):
        if node.text is not None:
            node.text.close()
        return
    for child in node.values():
        _close_tree(child)


# ---------------------------------------------------------------------- parts


class TextPart:
    """Consecutive text of one kind, the answer's or a thought's."""

    __slots__ = ("_head", "text", "thought")

    def __init__(self, part: Mapping[str, Any]) -> None:
        self._head = {**part, "text": ""}
        self.thought = bool(part.get("thought"))
        self.text = Text()

    def value(self) -> JSON:
        return {**self._head, "text": self.text.value() or ""}

    def close(self) -> None:
        self.text.close()


RAW_SOUND: Final = ("audio/l16", "audio/pcm", "audio/alaw", "audio/mulaw")
"""Beginnings of the types of sound that has no header, so that any stretch of it can follow any other."""


def is_raw_sound(mime: Any) -> bool:
    """Whether a type is one of bare samples."""
    return isinstance(mime, str) and mime.lower().startswith(RAW_SOUND)


class SoundPart:
    """Consecutive stretches of bare samples of one type."""

    __slots__ = ("_data", "mime")

    def __init__(self, mime: str) -> None:
        self.mime = mime
        self._data = Base64()

    def add(self, data: str) -> None:
        self._data.add(data)

    def value(self) -> JSON:
        return {"inlineData": {"mimeType": self.mime, "data": self._data.value() or ""}}

    def close(self) -> None:
        self._data.close()


def _samples(part: Mapping[str, Any]) -> tuple[str, str] | None:
    """Type and base64 of a part that is bare samples and nothing else."""
    blob = part.get("inlineData")
    if len(part) != 1 or not isinstance(blob, Mapping) or blob.keys() != {"mimeType", "data"}:
        return None
    mime, data = blob["mimeType"], blob["data"]
    return (mime, data) if is_raw_sound(mime) and isinstance(data, str) and data else None


PART = Record(functionCall=Skip, thoughtSignature=First)
CALL = Record(name=First, id=First, partialArgs=Skip, args=Skip, willContinue=Skip)


class Call:
    """A function call that comes in pieces."""

    __slots__ = ("_fields", "_part", "_unplaced", "args", "open")

    def __init__(self) -> None:
        self._part = PART()
        self._fields = CALL()
        self._unplaced = Extend()
        self.args = Arguments()
        self.open = True

    def add(self, part: Mapping[str, Any], call: Mapping[str, Any]) -> bool:
        """Takes a piece. False when something in it could not be placed, and is kept as it came."""
        self.open = bool(call.get("willContinue"))
        self._part.add(part)
        self._fields.add(call)
        placed = True
        if isinstance(args := call.get("args"), Mapping):
            self.args.put_all(args)
        partials = call.get("partialArgs")
        for partial in partials if isinstance(partials, list | tuple) else ():
            if not self.args.add(partial):
                self._unplaced.add([partial])
                placed = False
        return placed

    def said(self, key: str) -> Any:
        cell = self._fields.get(key)
        return cell.value() if cell is not None else None

    def value(self) -> JSON:
        call = {key: value for key, value in (self._fields.value() or {}).items() if key not in _STREAMING}
        args = self.args.value()
        if args is not None:
            call["args"] = args
        unplaced = self._unplaced.value()
        if unplaced is not None:
            call["partialArgs"] = unplaced
        if self.open:
            call["willContinue"] = True
        return {**(self._part.value() or {}), "functionCall": call}

    def close(self) -> None:
        self.args.close()
        self._unplaced.close()


_STREAMING = frozenset({"args", "partialArgs", "willContinue"})


class Parts:
    """`content.parts`: the stretches of a chunk follow what came before."""

    __slots__ = ("_blank", "_by_id", "_items", "_null", "_open", "_shut", "_whole", "last_call", "late_call", "odd")

    def __init__(self) -> None:
        self._items: list[TextPart | SoundPart | Call | Any] = []
        self._blank: JSON | None = None
        self._by_id: dict[str, Call] = {}
        self._whole: dict[str, JSON] = {}  # parts with a call that came in one piece, by its id
        self._open: dict[int, Call] = {}  # calls that go on, the one spoken of last at the end
        self._null = True
        self._shut = False
        self.last_call: Call | None = None
        """The streamed call that was spoken of last."""
        self.odd = False
        """Something had a shape that the format does not know; it is kept as it came."""
        self.late_call = False
        """A piece came for a call that had said it was whole."""

    def add(self, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, list | tuple):
            self.odd = True
            return
        self._null = False
        for part in value:
            if not isinstance(part, Mapping):
                self.odd = True
                self._append(part)
            elif is_text(part):
                self._add_text(part)
            elif isinstance(call := part.get("functionCall"), Mapping):
                self._add_call(part, call)
            elif (samples := _samples(part)) is not None:
                self._add_sound(*samples)
            else:
                self._append(dict(part))

    def _append(self, item: Any) -> None:
        if not self._shut:
            self._items.append(item)

    def _add_text(self, part: Mapping[str, Any]) -> None:
        if not part["text"]:
            if self._blank is None:
                self._blank = dict(part)
            return
        last = self.last_text()
        if last is None or last.thought != bool(part.get("thought")):
            last = TextPart(part)
            self._append(last)
        if not self._shut:
            last.text.add(part["text"])

    def _add_sound(self, mime: str, data: str) -> None:
        last = self._items[-1] if self._items else None
        if not isinstance(last, SoundPart) or last.mime != mime:
            last = SoundPart(mime)
            self._append(last)
        if not self._shut:
            last.add(data)

    def last_text(self) -> TextPart | None:
        """The part that more text of its kind would be added to."""
        last = self._items[-1] if self._items else None
        return last if isinstance(last, TextPart) else None

    def _add_call(self, part: Mapping[str, Any], call: Mapping[str, Any]) -> None:
        current = self._call_of(call)
        if current is None:
            if _is_whole(call):
                self._add_whole_call(part, call)
                return
            if not call:  # the end of a call that is not known to have begun
                if len(part) > 1:
                    self._append(dict(part))
                return
            if self._shut:
                return
            current = Call()
            self._append(current)
            self.odd = self.odd or not call.get("name")
        elif call and not current.open:
            self.late_call = True
        if not current.add(part, call):
            self.odd = True
        self._note_call(current)

    def _add_whole_call(self, part: Mapping[str, Any], call: Mapping[str, Any]) -> None:
        """A call in one piece. Said again under its id it is the same call, though perhaps without its signature."""
        kept = dict(part)
        if isinstance(identity := call.get("id"), str) and identity and not self._shut:
            known = self._whole.setdefault(identity, kept)
            if known is not kept and known["functionCall"] == call:
                self.late_call = True
                for key, value in part.items():
                    known.setdefault(key, value)
                return
        self._append(kept)

    def _note_call(self, call: Call) -> None:
        self.last_call = call
        self._open.pop(id(call), None)
        if call.open:
            self._open[id(call)] = call
        if isinstance(identity := call.said("id"), str) and identity:
            self._by_id[identity] = call

    def _call_of(self, call: Mapping[str, Any]) -> Call | None:
        """The call that a piece continues, or None if it opens one.

        A piece without a name continues: the call of its id, else the open one, else the last one. One with a name
        opens a call, unless it repeats the id of a call that is still open, or brings arguments and repeats the name
        of one that is.
        """
        name, identity = call.get("name"), call.get("id")
        known = self._by_id.get(identity) if isinstance(identity, str) else None
        if known is not None and (known.open or not name):
            return known
        current = next(reversed(self._open.values()), self.last_call)
        if current is None or (identity and current.said("id")):
            return None
        if not name:
            return current
        return current if current.open and call.get("partialArgs") and current.said("name") == name else None

    def value(self) -> list[Any] | None:
        if self._null:
            return None
        if not self._items and self._blank is not None:
            return [dict(self._blank)]
        return [item.value() if isinstance(item, GROWING) else item for item in self._items]

    def close(self) -> None:
        self._shut = True
        for item in self._items:
            if isinstance(item, GROWING):
                item.close()


GROWING: Final = (TextPart, SoundPart, Call)
"""Parts of which more may come."""


def _is_whole(call: Mapping[str, Any]) -> bool:
    """Whether a call came in one piece."""
    return bool(call.get("name")) and not call.get("willContinue") and not call.get("partialArgs")


def is_text(part: Mapping[str, Any]) -> bool:
    """Whether a part is text and nothing else, so that it may be joined with its neighbour."""
    if not isinstance(part.get("text"), str):
        return False
    return len(part) == 1 or (len(part) == 2 and "thought" in part)
