"""What stands beside the parts of a Gemini answer and comes in pieces of its own: grounding, citations, usage.

The theory is at the head of `gemini.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from streamfold.growth import merged
from streamfold.types import (
    JSON,
)
from streamfold.wire.usage import count

__all__ = ["Gathered", "Grounding", "Usage", "object_in", "objects_in"]


def object_in(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def objects_in(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


class Entries:
    """A list that comes in parts, or again and again with more at its end."""

    __slots__ = ("_items", "_places")

    def __init__(self) -> None:
        self._items: list[Any] | None = None
        self._places: dict[str, int] = {}  # by what the entry says

    def add(self, items: Sequence[Any]) -> Sequence[int]:
        """Adds the entries that are not there yet. Answers where each of `items` stands in the whole list."""
        if self._items is None:
            self._items = []
        size = len(self._items)
        if size <= len(items) and list(items[:size]) == self._items:
            for item in items[size:]:
                self._append(item)
            return range(len(items))
        places = []
        for item in items:
            place = self._places.get(repr(item))
            places.append(self._append(item) if place is None else place)
        return places

    def _append(self, item: Any) -> int:
        assert self._items is not None
        self._items.append(item)
        return self._places.setdefault(repr(item), len(self._items) - 1)

    def value(self) -> list[Any]:
        return list(self._items or ())


class Gathered:
    """Metadata about an answer: lists are united, objects completed, and of other values the newest stays."""

    __slots__ = ("_fields", "_null", "_shut")

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._null = True
        self._shut = False

    def add(self, value: Any) -> None:
        if not isinstance(value, Mapping):
            return
        self._null = False
        if self._shut:
            return
        for key, item in value.items():
            if isinstance(item, list | tuple):
                self.entries(key).add(item)
            elif not isinstance(self._fields.get(key), Entries):
                self._fields[key] = merged(self._fields.get(key), item)

    def entries(self, key: str) -> Entries:
        """The list of that name; a value of another kind gives way to it."""
        known = self._fields.get(key)
        if isinstance(known, Entries):
            return known
        made = self._fields[key] = Entries()
        return made

    def value(self) -> JSON | None:
        if self._null:
            return None
        return {key: item.value() if isinstance(item, Entries) else item for key, item in self._fields.items()}

    def close(self) -> None:
        self._shut = True


class Grounding(Gathered):
    """`groundingMetadata`, whose supports point at its chunks by position."""

    __slots__ = ()

    def add(self, value: Any) -> None:
        if isinstance(value, Mapping) and not self._shut:
            chunks, supports = value.get("groundingChunks"), value.get("groundingSupports")
            if isinstance(chunks, list | tuple) and isinstance(supports, list | tuple):
                places = self.entries("groundingChunks").add(chunks)
                if not isinstance(places, range):
                    value = {**value, "groundingSupports": [_moved(support, places) for support in supports]}
        super().add(value)


def _moved(support: Any, places: Sequence[int]) -> Any:
    """A grounding support whose chunks now stand at `places`. A position beyond them is one of the whole list."""
    indices = support.get("groundingChunkIndices") if isinstance(support, Mapping) else None
    if not isinstance(indices, list | tuple):
        return support
    moved = [places[i] if isinstance(i, int) and 0 <= i < len(places) else i for i in indices]
    return {**support, "groundingChunkIndices": moved}


ADDENDS: Final = {
    "promptTokenCount": "promptTokensDetails",
    "candidatesTokenCount": "candidatesTokensDetails",
    "thoughtsTokenCount": "thoughtsTokensDetails",
    "toolUsePromptTokenCount": "toolUsePromptTokensDetails",
}
"""The counts that `totalTokenCount` is the sum of, with the lists of what each is made of."""


class Usage:
    """`usageMetadata`: each chunk's account completes the one before.

    An account whose own counts add up to its own total leaves no room for the others: they are zero now, and what
    an earlier account said of them (between two turns of a server-side tool, say) no longer holds.
    """

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: Any = None

    def add(self, value: Any) -> None:
        old = self._value
        if isinstance(old, dict) and isinstance(value, dict) and not old.keys() <= value.keys() and _adds_up(value):
            gone = {name for pair in ADDENDS.items() if pair[0] not in value for name in pair}
            old = {key: item for key, item in old.items() if key not in gone}
        self._value = merged(old, value)

    def value(self) -> Any:
        return self._value

    def close(self) -> None:
        pass


def _adds_up(usage: Mapping[str, Any]) -> bool:
    total = count(usage.get("totalTokenCount"))
    return bool(total) and total == sum(count(usage.get(key)) or 0 for key in ADDENDS)
