"""How a field grows while a stream arrives.

A streamed response is a JSON document sent in pieces, and every field of it follows one of a few rules: text is
joined, an id is said once, a usage count is replaced by a later one, a list is addressed by index. A wire format
declares, once and where the field is named, which rule holds; the code that applies the rules is here.

    MESSAGE = Record(role=First, content=Text, tool_calls=Many(...))

A *rule* is a class (or a `Record`/`Indexed` declaration) that makes a *cell*; a cell takes values with `add` and
gives the value so far with `value`, any number of times and without disturbing what comes. Two things hold for all:

* null and absent differ: a cell that only ever saw null answers null, a field never sent has no cell at all;
* a value that was handed in is never changed, so a caller may keep (or reuse) the chunk it gave us.

`close()` stops a cell from growing: that is how a stream over its size limit keeps what it has and costs no more.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, Protocol

__all__ = [
    "Base64",
    "Cell",
    "Extend",
    "Fields",
    "First",
    "Identity",
    "Indexed",
    "Latest",
    "Merge",
    "Record",
    "Rule",
    "Skip",
    "Text",
    "Union",
    "is_empty",
    "merged",
]

COLLAPSE = 64
"""Fragments joined at a time. A str in a list costs about 60 bytes; joined by 64 it costs what its text costs."""


class Cell(Protocol):
    """Something that grows."""

    def add(self, value: Any) -> None: ...
    def value(self) -> Any: ...
    def close(self) -> None: ...


Rule = Callable[[], Cell]


def is_empty(value: Any) -> bool:
    """Whether a provider uses this to say nothing: null, or the empty string that some send in its place."""
    return value is None or value == ""


class First:
    """Said once: the first non-empty value stays (`id`, `role`, `created`)."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: Any = None

    def add(self, value: Any) -> None:
        if not self._value and value is not None:
            self._value = value

    def value(self) -> Any:
        return self._value

    def close(self) -> None:
        pass


class Identity(First):
    """`First` that notices when a later value disagrees (`id`, `model`)."""

    __slots__ = ("changed",)

    def __init__(self) -> None:
        super().__init__()
        self.changed = False

    def add(self, value: Any) -> None:
        if value and value != self._value:
            if self._value:
                self.changed = True
            else:
                self._value = value


class Skip:
    """Not part of the response, or put into it by other means."""

    __slots__ = ()

    def add(self, value: Any) -> None:
        pass

    def value(self) -> Any:
        return None

    def close(self) -> None:
        pass


class Latest:
    """Replaced: the newest non-empty value stays, null and `""` never erase one (`finish_reason`, `service_tier`)."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: Any = None

    def add(self, value: Any) -> None:
        if not is_empty(value) or self._value is None:
            self._value = value

    def value(self) -> Any:
        return self._value

    def close(self) -> None:
        pass


class Text:
    """Joined: text fragments in order.

    Append when written, join when read. `parts` is the open list, which a format's hot loop may append to directly
    as long as it calls `collapse` once it is long; joined stretches are never copied again, so growth is linear.
    """

    __slots__ = ("_joined", "_shut", "parts")

    def __init__(self) -> None:
        self.parts: list[str] | None = None  # None: nothing but null so far
        self._joined: list[str] | None = None
        self._shut = False

    def add(self, value: Any) -> None:
        if value is None or self._shut:
            return
        parts = self.open()
        parts.append(value if isinstance(value, str) else str(value))
        if len(parts) >= COLLAPSE:
            self.collapse()

    def open(self) -> list[str]:
        """The list that fragments are appended to. It stays the same object for as long as the cell lives."""
        if self.parts is None:
            self.parts = []
        return self.parts

    def collapse(self) -> None:
        """Joins the open fragments into one."""
        if not self.parts:
            return
        if self._joined is None:
            self._joined = []
        self._joined.append("".join(self.parts))
        self.parts.clear()
        if len(self._joined) >= COLLAPSE * COLLAPSE:
            self._joined = ["".join(self._joined)]

    def value(self) -> str | None:
        if self.parts is None:
            return None
        if self._joined is None:
            return "".join(self.parts)
        return "".join(self._joined) + "".join(self.parts)

    def close(self) -> None:
        self._shut = True

    def __bool__(self) -> bool:
        """Whether any character has arrived."""
        return bool(self._joined) or any(self.parts or ())


class Base64:
    """Binary in base64 pieces: joined as bytes, since each piece may carry padding of its own.

    The pieces are kept as sent when none but the last is padded (then the join is itself base64); otherwise each is
    decoded and the whole encoded again. A piece that is not base64 is kept as text and makes the join textual.
    """

    __slots__ = ("_text",)

    def __init__(self) -> None:
        self._text: list[str] | None = None

    def add(self, value: Any) -> None:
        if value is None:
            return
        if self._text is None:
            self._text = []
        if value:
            self._text.append(value)

    def value(self) -> str | None:
        pieces = self._text
        if pieces is None:
            return None
        if all(len(piece) % 4 == 0 and not piece.endswith("=") for piece in pieces[:-1]):
            return "".join(pieces)
        try:
            whole = b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
        except (binascii.Error, ValueError):
            return "".join(pieces)
        return base64.b64encode(whole).decode("ascii")

    def close(self) -> None:
        pass


class Extend:
    """Lists that are sent in stretches (`logprobs.content`, `annotations`): appended in order of arrival."""

    __slots__ = ("_items", "_shut")

    def __init__(self) -> None:
        self._items: list[Any] | None = None
        self._shut = False

    def add(self, value: Any) -> None:
        if value is None or self._shut:
            return
        if self._items is None:
            self._items = []
        if isinstance(value, list | tuple):
            self._items.extend(value)
        else:
            self._items.append(value)

    def value(self) -> list[Any] | None:
        return None if self._items is None else list(self._items)

    def close(self) -> None:
        self._shut = True


class Union:
    """Like `Extend`, but an item equal to one that is there already is a repeat (`annotations`, `citations`)."""

    __slots__ = ("_items", "_seen", "_shut")

    def __init__(self) -> None:
        self._items: list[Any] | None = None
        self._seen: set[str] = set()
        self._shut = False

    def add(self, value: Any) -> None:
        if value is None or self._shut:
            return
        if self._items is None:
            self._items = []
        for item in value if isinstance(value, list | tuple) else (value,):
            key = repr(item)
            if key not in self._seen:
                self._seen.add(key)
                self._items.append(item)

    def value(self) -> list[Any] | None:
        return None if self._items is None else list(self._items)

    def close(self) -> None:
        self._shut = True


class Merge:
    """Objects whose later copies complete the earlier ones (`usage`): each leaf is `Latest`, a list is replaced."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: Any = None

    def add(self, value: Any) -> None:
        self._value = merged(self._value, value)

    def value(self) -> Any:
        return self._value

    def close(self) -> None:
        pass


def merged(old: Any, new: Any) -> Any:
    """`old` completed by `new`; neither is changed. Null never erases a value, an explicit 0 does."""
    if new is None:
        return old
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    out = dict(old)
    for key, value in new.items():
        out[key] = merged(out.get(key), value)
    return out


class Fields:
    """A cell for an object whose fields grow by rules of their own. Made by a `Record`."""

    __slots__ = ("_cells", "_null", "_record", "_shut")

    def __init__(self, record: Record) -> None:
        self._record = record
        self._cells: dict[str, Cell] = {}
        self._null = True
        self._shut = False

    def add(self, value: Any) -> None:
        if value is None:
            return
        self._null = False
        if not isinstance(value, dict):
            return
        cells = self._cells
        for key, item in value.items():
            cell = cells.get(key)
            if cell is None:
                if self._shut:
                    continue
                cell = cells[key] = self._record.rule(key)()
            cell.add(item)

    def cell(self, key: str) -> Cell:
        """The cell of one field, made if need be."""
        self._null = False
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._record.rule(key)()
            if self._shut:
                cell.close()
        return cell

    def get(self, key: str) -> Cell | None:
        """The cell of one field, if the stream has ever named it."""
        return self._cells.get(key)

    def value(self) -> dict[str, Any] | None:
        if self._null:
            return None
        return {key: cell.value() for key, cell in self._cells.items()}

    def close(self) -> None:
        self._shut = True
        for cell in self._cells.values():
            cell.close()


class Record:
    """Declares an object: a rule per known field, and one for the fields that nobody told us of."""

    __slots__ = ("_rules", "_unknown")

    def __init__(self, unknown: Rule = Latest, /, **rules: Rule) -> None:
        self._rules = rules
        self._unknown = unknown

    def rule(self, key: str) -> Rule:
        """The rule for the field `key`."""
        return self._rules.get(key, self._unknown)

    def __call__(self) -> Fields:
        return Fields(self)


class IndexedCells:
    """A cell for a list whose entries are named by an `index` field. Made by an `Indexed`.

    The index is an identity, not a position: 3 may come before 1, and 0 may never come. An entry without one
    continues the entry at its own place in the chunk.
    """

    __slots__ = ("_entry", "_items", "_null", "_shut")

    def __init__(self, entry: Rule) -> None:
        self._entry = entry
        self._items: dict[int, Cell] = {}
        self._null = True
        self._shut = False

    def add(self, value: Any) -> None:
        if not isinstance(value, list | tuple):
            return
        self._null = False
        for place, item in enumerate(value):
            index = item.get("index") if isinstance(item, dict) else None
            self._at(index if isinstance(index, int) else place).add(item)

    def _at(self, index: int) -> Cell:
        cell = self._items.get(index)
        if cell is None:
            cell = self._entry()
            if self._shut:
                cell.close()
            self._items[index] = cell
        return cell

    def value(self) -> list[Any] | None:
        if self._null:
            return None
        return [self._items[index].value() for index in sorted(self._items)]

    def close(self) -> None:
        self._shut = True
        for cell in self._items.values():
            cell.close()


class Indexed:
    """Declares a list of entries addressed by their `index` field."""

    __slots__ = ("_entry",)

    def __init__(self, entry: Rule) -> None:
        self._entry = entry

    def __call__(self) -> IndexedCells:
        return IndexedCells(self._entry)
