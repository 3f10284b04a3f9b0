"""How a field grows while a stream arrives.

A streamed response is a JSON document sent in pieces, and every field of it follows one of a few rules: text is
joined, an id is said once, a usage count is replaced by a later one, a list is addressed by index. A wire format
declares, once and where the field is named, which rule holds; the code that applies the rules is here.

    MESSAGE = Record(role=First, content=Text, tool_calls=Many(...))

A *rule* is a class (or a `Record`/`Indexed` declaration) that makes a *cell*; a cell takes values with `add` and
gives the value so far with `value`, any number of times and without disturbing what comes. Two things hold for all:

* null and absent differ: a cell that only ever saw null answers null, a field never sent is not there at all;
* a value that was handed in is never changed, so a caller may keep (or reuse) the chunk it gave us.

`close()` stops a cell from growing: that is how a stream over its size limit keeps what it has and costs no more.

A process may hold ten thousand live streams, and what one holds beside its text is mostly a handful of objects of a few
fields each. So little is kept for a field. The value of a scalar rule stands in its record *bare*, without a cell; a
field that only ever was null has no cell either; and a record keeps no dict but a list of values, of which a `Layout`
says which field has which place. Streams of one server send the same fields in the same order, so they share their
layouts (as objects of JavaScript share their "shapes"), and the fields still come out in the order of their coming.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from sys import intern
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

__all__ = [
    "Bare",
    "Base64",
    "ByIndex",
    "Cell",
    "Extend",
    "Fields",
    "First",
    "Identity",
    "Indexed",
    "Label",
    "Latest",
    "Merge",
    "Model",
    "Record",
    "Rule",
    "Scalar",
    "Skip",
    "Text",
    "Union",
    "Word",
    "index_of",
    "is_empty",
    "json_text",
    "merged",
]

DEEPEST_MERGE = 64
"""Levels at which objects are still completed by later copies; below that a later copy replaces the earlier one."""

LONGEST_WORD = 128
"""Characters of a string that is worth sharing between streams."""


class Cell(Protocol):
    """Something that grows."""

    def add(self, value: Any) -> None: ...
    def value(self) -> Any: ...
    def close(self) -> None: ...


Rule = Callable[[], Cell]
Grow = Callable[[Any, Any], Any]
Entry = TypeVar("Entry")


def is_empty(value: Any) -> bool:
    """Whether a provider uses this to say nothing: null, or the empty string that some send in its place."""
    return value is None or value == ""


def index_of(value: Any) -> int | None:
    """The number in an `index` field, or None if it names none. Some servers send `0.0` or `"0"`."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) <= 9 and value.isascii() and value.isdigit():
        return int(value)
    return None


def json_text(value: Any) -> str:
    """A JSON value as text. Takes what the fast encoder does not (lone surrogates, integers of any length)."""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    try:
        return json.dumps(value, separators=(",", ":"), default=repr)
    except (ValueError, RecursionError):
        return "null"


class Scalar:
    """What the cells of single values share. Their rule is a function of the value so far and the new one (`grow`).

    A record keeps such values bare, without a cell for each: most fields are of this kind.
    """

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: Any = None

    @staticmethod
    def grow(old: Any, new: Any) -> Any:
        """The value after `new` has come on top of `old`; `old` is None at first."""
        raise NotImplementedError

    def add(self, value: Any) -> None:
        self._value = self.grow(self._value, value)

    def value(self) -> Any:
        return self._value

    def close(self) -> None:
        pass


class First(Scalar):
    """Said once: the first non-empty value stays (`id`, `role`, `created`)."""

    __slots__ = ()

    @staticmethod
    def grow(old: Any, new: Any) -> Any:
        return old if old or new is None else new


class Word(Scalar):
    """`First` for one of few words (`object`, `role`, `type`): streams share the string."""

    __slots__ = ()

    @staticmethod
    def grow(old: Any, new: Any) -> Any:
        return old if old or new is None else _shared(new)


def _shared(value: Any) -> Any:
    return intern(value) if type(value) is str and len(value) <= LONGEST_WORD else value


class Identity(Scalar):
    """`First` that notices when a later value disagrees (`id`, `model`).

    In a record the value is bare until that happens; from then on an `Identity` that has `changed` stands there.
    """

    __slots__ = ("changed",)

    def __init__(self, value: Any = None, *, changed: bool = False) -> None:
        self._value = value
        self.changed = changed

    @staticmethod
    def grow(old: Any, new: Any) -> Any:
        if not new or new == old or isinstance(old, Identity):
            return new if old is None else old
        return Identity(old, changed=True) if old else new

    def add(self, value: Any) -> None:
        grown = self.grow(self._value, value)
        if isinstance(grown, Identity):
            self.changed = True
        else:
            self._value = grown


class Model(Identity):
    """`Identity` for one of few words: streams share the string."""

    __slots__ = ()

    @staticmethod
    def grow(old: Any, new: Any) -> Any:
        return Identity.grow(old, _shared(new))


class Skip(Scalar):
    """Not part of the response, or put into it by other means."""

    __slots__ = ()

    @staticmethod
    def grow(old: Any, new: Any) -> Any:
        return None


class Latest(Scalar):
    """Replaced: the newest value that says anything stays (`finish_reason`, `service_tier`).

    Null, `""`, `[]` and `{}` never erase a value; an explicit 0 or false does.
    """

    __slots__ = ()

    @staticmethod
    def grow(old: Any, new: Any) -> Any:
        return new if new or old is None or new == 0 else old


class Label(Scalar):
    """`Latest` for one of few words (`finish_reason`, `service_tier`): streams share the string."""

    __slots__ = ()

    @staticmethod
    def grow(old: Any, new: Any) -> Any:
        return _shared(new) if new or old is None or new == 0 else old


class Text:
    """Joined: text fragments in order.

    Held as UTF-8 in one buffer that grows, so that a hundred thousand fragments cost what their text costs. Halves of
    characters (see `wire/surrogates.py`) are kept until both are there. What is not a string but says something is
    kept as its JSON text.
    """

    __slots__ = ("_bytes", "_shut")

    def __init__(self) -> None:
        self._bytes: bytearray | None = None  # None: nothing but null so far
        self._shut = False

    def add(self, value: Any) -> None:
        if value is None or self._shut:
            return
        if not isinstance(value, str):
            value = self.spelled(value)
        if self._bytes is None:
            self._bytes = bytearray()
        try:
            self._bytes += value.encode()
        except UnicodeEncodeError:
            self._bytes += value.encode("utf-8", "surrogatepass")

    def spelled(self, value: Any) -> str:
        """The text of a value that should have been a string."""
        return json_text(value) if value or (value == 0 and value is not False) else ""

    def open(self) -> bytearray:
        """The buffer, for a hot loop that appends valid UTF-8 to it; the same object for as long as the cell lives."""
        if self._bytes is None:
            self._bytes = bytearray()
        return self._bytes

    def value(self) -> str | None:
        return None if self._bytes is None else self._bytes.decode("utf-8", "surrogatepass")

    def close(self) -> None:
        self._shut = True

    def __len__(self) -> int:
        """Bytes of text so far. A cell without any is falsy."""
        return len(self._bytes) if self._bytes is not None else 0


class Base64:
    """Binary in base64 pieces, each of which may be a document of its own (with padding) or a stretch of one.

    Padding ends a document. Pieces of one document are joined as text; several documents are decoded, and the whole
    is encoded again. What cannot be decoded is joined as text.
    """

    __slots__ = ("_documents", "_padded", "_shut")

    def __init__(self) -> None:
        self._documents: list[Text] | None = None
        self._padded = False
        self._shut = False

    def add(self, value: Any) -> None:
        if not isinstance(value, str) or self._shut:
            return
        if self._documents is None:
            self._documents = [Text()]
        if self._padded and value.strip("="):
            self._documents.append(Text())
            self._padded = False
        self._documents[-1].add(value)
        self._padded = self._padded or value.endswith("=")

    def value(self) -> str | None:
        if self._documents is None:
            return None
        documents = [document.value() or "" for document in self._documents]
        if len(documents) == 1:
            return documents[0]
        try:
            whole = b"".join(base64.b64decode(document, validate=True) for document in documents)
        except (binascii.Error, ValueError):
            return "".join(documents)
        return base64.b64encode(whole).decode("ascii")

    def close(self) -> None:
        self._shut = True


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
        self._seen: set[int] | None = None  # hashes, so that a large image is not held twice
        self._shut = False

    def add(self, value: Any) -> None:
        if value is None or self._shut:
            return
        if self._items is None:
            self._items = []
        for item in value if isinstance(value, list | tuple) else (value,):
            self._add_item(self._items, item)

    def _add_item(self, items: list[Any], item: Any) -> None:
        if self._seen is None and items:
            self._seen = set()
            self._repeats([], items[0])
        # The first is not looked at: mostly it stays the only one, and it may be a picture of many megabytes.
        if not items or not self._repeats(items, item):
            items.append(item)

    def _repeats(self, items: list[Any], item: Any) -> bool:
        """Whether an item equal to this one is there; it is known from now on."""
        assert self._seen is not None
        try:
            key = hash(repr(item))
            if key in self._seen:
                return item in items
        except RecursionError:  # nested too deeply to be compared
            return False
        self._seen.add(key)
        return False

    def value(self) -> list[Any] | None:
        return None if self._items is None else list(self._items)

    def close(self) -> None:
        self._shut = True


class Merge(Scalar):
    """Objects whose later copies complete the earlier ones (`usage`): each leaf is `Latest`, a list is replaced."""

    __slots__ = ()

    @staticmethod
    def grow(old: Any, new: Any) -> Any:
        return merged(old, new)


def merged(old: Any, new: Any, _depth: int = DEEPEST_MERGE) -> Any:
    """`old` completed by `new`; neither is changed. Null and `""` never erase a value, an explicit 0 does."""
    if new is None or (new == "" and old is not None):
        return old
    if not isinstance(old, dict) or not isinstance(new, dict) or not _depth:
        return new
    out = dict(old)
    for key, value in new.items():
        out[key] = merged(out.get(key), value, _depth - 1)
    return out


class Layout:
    """Which fields an object has so far, in the order of their coming: the place of each one's value, and how it grows.

    Objects of one kind nearly always get the same fields in the same order, so they share their layouts: each leads to
    those with one field more. Shared layouts never change, and there are not many (`MOST_LAYOUTS`, `MOST_SHARED`): an
    object that has no like gets a layout of its own, which grows with it.
    """

    __slots__ = ("_longer", "grows", "places", "record")

    def __init__(self, record: Record, places: dict[str, int], grows: list[Grow | None], *, shared: bool) -> None:
        self.record = record
        self._longer: dict[str, Layout] | None = {} if shared else None
        """The shared layouts with one field more, by its name; None for an object's own layout."""
        self.places = places
        self.grows = grows
        """By place: how the value grows if it is kept bare; None for a field with a cell."""

    def longer(self, key: str) -> Layout:
        """The layout with one field more, in the next place."""
        if self._longer is None:
            self.places[key] = len(self.grows)
            self.grows.append(self.record.grow(key))
            return self
        found = self._longer.get(key)
        if found is not None:
            return found
        shared = len(self.grows) < MOST_SHARED and len(key) <= LONGEST_WORD and self.record.count_layout()
        grows = [*self.grows, self.record.grow(key)]
        longer = Layout(self.record, {**self.places, key: len(self.grows)}, grows, shared=shared)
        return self._longer.setdefault(key, longer) if shared else longer


MOST_LAYOUTS: Final = 256
"""Layouts of one record that are shared; so many come together where every dialect of an API is spoken."""

MOST_SHARED: Final = 32
"""Fields of a layout that is shared."""


class Fields:
    """A cell for an object whose fields grow by rules of their own. Made by a `Record`."""

    __slots__ = ("_layout", "_shut", "_values")

    def __init__(self, record: Record) -> None:
        self._layout = record.layout
        # By place: bare values of scalar rules, cells of the others, None where nothing but null has come.
        self._values: list[Any] | None = None  # None: nothing but null so far
        self._shut = False

    def add(self, value: Any) -> None:
        if not isinstance(value, dict):
            return
        values = self._values
        if values is None:
            values = self._values = []
        layout = self._layout
        places, grows = layout.places, layout.grows
        for key, item in value.items():
            place = places.get(key)
            if place is None:
                self.begin(key, item)
                layout = self._layout
                places, grows = layout.places, layout.grows
            elif item is not None:
                grow = grows[place]
                old = values[place]
                if grow is None:
                    (self._made(key, place) if old is None else old).add(item)
                elif grow is not _skip and (item != old if type(item) in PLAIN else item is not old):
                    values[place] = grow(old, item)

    def begin(self, key: str, value: Any) -> None:
        """Takes the first value of a field. After `close`, only of one that has a rule of its own."""
        if self._shut and not self._layout.record.knows(key):
            return
        values, place = self._place(key)
        if value is None:
            return
        grow = self._layout.grows[place]
        if grow is not None:
            values[place] = grow(values[place], value)
        else:
            self._made(key, place).add(value)

    def _place(self, key: str) -> tuple[list[Any], int]:
        """Where the value of a field stands; behind the others, if the field is new."""
        values = self._values
        if values is None:
            values = self._values = []
        place = self._layout.places.get(key)
        if place is None:
            self._layout = self._layout.longer(key)
            place = len(values)
            values.append(None)
        return values, place

    def _made(self, key: str, place: int) -> Cell:
        """A new cell, for a field that says something for the first time."""
        cell = self._layout.record.rule(key)()
        if self._shut:
            cell.close()
        self._values[place] = cell  # type: ignore[index]
        return cell

    def cell(self, key: str) -> Cell:
        """The cell of one field, made if need be."""
        _, place = self._place(key)
        cell = self._cell_at(place)
        return cell if cell is not None else self._made(key, place)

    def get(self, key: str) -> Cell | None:
        """The cell of one field, if there is one: a field that only ever was null needs none."""
        place = self._layout.places.get(key)
        return self._cell_at(place) if place is not None else None

    def _cell_at(self, place: int) -> Cell | None:
        """The cell in a place: a bare value is lent one."""
        values = self._values
        assert values is not None
        grow, value = self._layout.grows[place], values[place]
        if grow is not None and not isinstance(value, Identity):
            return Bare(values, place, grow)
        cell: Cell | None = value
        return cell

    def said(self, key: str) -> Any:
        """The value of one field so far; None also if the stream has never named it."""
        place = self._layout.places.get(key)
        if place is None or self._values is None:
            return None
        return _said(self._values[place], self._layout.grows[place])

    def value(self) -> dict[str, Any] | None:
        if self._values is None:
            return None
        layout = self._layout
        said = map(_said, self._values, layout.grows)
        return dict(zip(layout.places, said, strict=True))

    def close(self) -> None:
        """Stops growth. A field that has a rule and comes only now (a finish reason) is still taken."""
        self._shut = True
        for grow, value in zip(self._layout.grows, self._values or (), strict=True):
            if grow is None and value is not None:
                value.close()


def _said(value: Any, grow: Grow | None) -> Any:
    """What stands in the place of a field says: a bare value itself, a cell what it holds."""
    if value is None or (grow is not None and not isinstance(value, Identity)):
        return value
    return value.value()


PLAIN: Final = frozenset({str, int})
"""Types of the values that come again and again, and are quickly compared."""

_skip: Final = Skip.grow


class Bare:
    """The cell of a bare value: a hand on it, made when asked for."""

    __slots__ = ("_grow", "_place", "_values")

    def __init__(self, values: list[Any], place: int, grow: Grow) -> None:
        self._values = values
        self._place = place
        self._grow = grow

    def add(self, value: Any) -> None:
        self._values[self._place] = self._grow(self._values[self._place], value)

    def value(self) -> Any:
        return _said(self._values[self._place], self._grow)

    def close(self) -> None:
        pass


class Record:
    """Declares an object: a rule per known field, and one for the fields that nobody told us of.

    A record is declared once, for all objects of its kind: it holds the layouts that they share.
    """

    __slots__ = ("_grows", "_layouts", "_rules", "_unknown", "_unknown_grow", "layout")

    def __init__(self, unknown: Rule = Latest, /, **rules: Rule) -> None:
        self._rules = rules
        self._unknown = unknown
        self._grows = {key: _grow_of(rule) for key, rule in rules.items()}
        self._unknown_grow = _grow_of(unknown)
        self._layouts = 0
        self.layout = Layout(self, {}, [], shared=True)
        """The layout of an object without fields."""

    def rule(self, key: str) -> Rule:
        """The rule for the field `key`."""
        return self._rules.get(key, self._unknown)

    def grow(self, key: str) -> Grow | None:
        """How a field grows if its value is kept bare; None for a field with a cell."""
        return self._grows.get(key, self._unknown_grow)

    def knows(self, key: str) -> bool:
        """Whether the field has a rule of its own."""
        return key in self._rules

    def count_layout(self) -> bool:
        """Counts a layout that is to be shared. Returns whether one more may be."""
        self._layouts += 1
        return self._layouts <= MOST_LAYOUTS

    def __call__(self) -> Fields:
        return Fields(self)


def _grow_of(rule: Rule) -> Grow | None:
    """The function of a scalar rule."""
    return rule.grow if isinstance(rule, type) and issubclass(rule, Scalar) else None


class ByIndex(Generic[Entry]):
    """Entries that are found by their index. Nearly always there is one, of index 0: a dict for it would be large."""

    __slots__ = ("_others", "_zero")

    def __init__(self, entries: Iterable[tuple[int, Entry]] = ()) -> None:
        self._zero: Any = MISSING
        self._others: dict[int, Entry] | None = None
        for index, entry in entries:
            self[index] = entry

    def get(self, index: int, default: Any = None) -> Any:
        """The entry of that index."""
        if index == 0:
            return self._zero if self._zero is not MISSING else default
        return self._others.get(index, default) if self._others is not None else default

    def __setitem__(self, index: int, entry: Entry) -> None:
        if index == 0:
            self._zero = entry
        elif self._others is None:
            self._others = {index: entry}
        else:
            self._others[index] = entry

    def __contains__(self, index: int) -> bool:
        return self.get(index, MISSING) is not MISSING

    def __len__(self) -> int:
        return (self._zero is not MISSING) + len(self._others or ())

    def __iter__(self) -> Iterator[int]:
        """The indexes, in no order."""
        if self._zero is not MISSING:
            yield 0
        yield from self._others or ()

    def items(self) -> list[tuple[int, Entry]]:
        """Indexes and entries, in order of the index."""
        return [(index, self.get(index)) for index in sorted(self)]

    def values(self) -> list[Entry]:
        """The entries in order of their index."""
        return [self.get(index) for index in sorted(self)]


MISSING: Final = object()
"""Stands for an entry that is not there."""


class IndexedCells:
    """A cell for a list whose entries are named by an `index` field. Made by an `Indexed`.

    The index is an identity, not a position: 3 may come before 1, and 0 may never come. An entry without one
    continues the entry at its own place in the chunk.
    """

    __slots__ = ("_entry", "_items", "_shut")

    def __init__(self, entry: Rule) -> None:
        self._entry = entry
        self._items: ByIndex[Cell] | None = None  # None: nothing but null so far
        self._shut = False

    def add(self, value: Any) -> None:
        if isinstance(value, dict):
            value = (value,)
        if not isinstance(value, list | tuple):
            return
        if self._items is None:
            if self._shut:
                return
            self._items = ByIndex()
        for place, item in enumerate(value):
            if isinstance(item, dict):
                index = index_of(item.get("index"))
                self._add_item(self._items, place if index is None else index, item)

    def _add_item(self, items: ByIndex[Cell], index: int, item: Mapping[str, Any]) -> None:
        cell = items.get(index)
        if cell is None:
            if self._shut:
                return
            cell = items[index] = self._entry()
        cell.add(item)

    def value(self) -> list[Any] | None:
        return None if self._items is None else [cell.value() for cell in self._items.values()]

    def close(self) -> None:
        self._shut = True
        for cell in self._items.values() if self._items is not None else ():
            cell.close()


class Indexed:
    """Declares a list of entries addressed by their `index` field."""

    __slots__ = ("_entry",)

    def __init__(self, entry: Rule) -> None:
        self._entry = entry

    def __call__(self) -> IndexedCells:
        return IndexedCells(self._entry)
