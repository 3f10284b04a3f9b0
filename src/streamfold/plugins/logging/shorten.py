"""Makes a JSON value small enough, such that it stays JSON and tells the most.

Every part of a value gets its share of the room. Parts that need less than an equal share keep all of it, and what
they leave is shared among the others; so a long document in a chat is cut while the short questions around it, and all
figures, stay whole. A text that is cut keeps its beginning, a list that has too many items its first and last ones;
each cut is marked with how much was left out.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

__all__ = ["fitting", "left_out", "shortened", "utf8_size"]

MARK: Final = 48
"""Bytes that a mark takes, at most."""
ITEM: Final = 64
"""Bytes for an item of a list below which it is better to have fewer items."""


def utf8_size(text: str) -> int:
    """The bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def left_out(count: int, what: str = "bytes") -> str:
    """The mark that stands where something was cut."""
    return f"[… {count} {what} left out]"


def fitting(text: str, size: int) -> str:
    """The text, or as much of its beginning as fits into `size` bytes together with the mark."""
    if len(text) <= size and utf8_size(text) <= size:
        return text
    kept = text[: max(0, size - MARK)].encode("utf-8", "replace")[: max(0, size - MARK)].decode("utf-8", "ignore")
    return kept + left_out(utf8_size(text) - utf8_size(kept))


def shortened(value: Any, size: int) -> Any:
    """A JSON value like `value` whose compact encoding has no more than `size` bytes."""
    room = size
    for _ in range(4):
        short = _fit(value, room)
        over = _size(short) - size
        if over <= 0:
            return short
        room -= over + room // 4
    return left_out(_size(value))


def _fit(value: Any, room: int) -> Any:
    size = _size(value)
    if size <= room:
        return value
    if isinstance(value, str):
        return _fit_text(value, size, room)
    if isinstance(value, list):
        return _fit_list(value, room)
    if isinstance(value, dict):
        return _fit_dict(value, room)
    return value


def _fit_text(value: str, size: int, room: int) -> str:
    """Cuts by the length in JSON, where a character may be an escape of six."""
    keep = max(0, room - MARK) * len(value) // size
    return value[:keep] + left_out(utf8_size(value) - utf8_size(value[:keep])) if keep < len(value) else value


def _fit_list(items: list[Any], room: int) -> list[Any]:
    most = max(2, room // ITEM)
    if len(items) > most:
        first, last = most // 2, most - most // 2
        gone = left_out(len(items) - most, "items")
        items = [*items[:first], gone, *items[-last:]]
    shares = _shares([_size(item) + 1 for item in items], room - 2)
    return [_fit(item, share - 1) for item, share in zip(items, shares, strict=True)]


def _fit_dict(value: dict[str, Any], room: int) -> dict[str, Any]:
    most = max(2, room // ITEM)
    named = list(value.items())
    if len(named) > most:
        named = [*named[:most], ("…", left_out(len(named) - most, "items"))]
    names = [fitting(name, room // 4) for name, _ in named]
    keys = [_size(name) + 2 for name in names]
    shares = _shares([_size(item) + key for (_, item), key in zip(named, keys, strict=True)], room - 2)
    return {
        name: _fit(item, share - key) for name, (_, item), key, share in zip(names, named, keys, shares, strict=True)
    }


def _shares(needs: list[int], room: int) -> list[int]:
    """What each part gets of the room: all it needs, or the same as all others that need more."""
    level, left, parts = 0, room, len(needs)
    for need in sorted(needs):
        level = left // parts
        if need > level:
            break
        left -= need
        parts -= 1
    else:
        return needs
    return [min(need, level) for need in needs]


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))
