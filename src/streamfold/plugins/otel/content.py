"""Makes what was said fit to be sent: redacted, of plain values, and bounded.

One bad value must not cost more than itself: the exporter encodes a batch as a whole, and half of a surrogate pair or
an integer of more than 64 bits in one attribute would lose every span of the batch.

What is too large is cut where it hurts least: of a long conversation the oldest messages go, of a long message the ends
of its texts. What is left is whole JSON of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

__all__ = ["INT64", "clean", "clean_text", "encoded", "fit"]

INT64: Final = 2**63 - 1
MAX_DEPTH: Final = 32
CUT: Final = " … [cut]"
SHORTEST: Final = 16

Redact = Callable[[str], str]


def clean_text(text: str, redact: Redact | None = None) -> str:
    """The text without credentials and without characters that UTF-8 cannot hold."""
    if redact is not None:
        text = redact(text)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def clean(value: Any, redact: Redact | None = None, depth: int = 0) -> Any:
    """A decoded JSON value, made of what an attribute can hold; the value itself is not changed."""
    if isinstance(value, str):
        return clean_text(value, redact)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) <= INT64 else str(value)
    if depth >= MAX_DEPTH:
        return CUT
    if isinstance(value, dict):
        return {clean_text(str(key), redact): clean(each, redact, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [clean(each, redact, depth + 1) for each in value]
    if isinstance(value, msgspec.Struct):
        return clean(msgspec.to_builtins(value), redact, depth)
    return clean_text(str(value), redact)


def encoded(value: Any) -> str:
    """The value as compact JSON."""
    return msgspec.json.encode(value).decode()


def fit(items: list[Any], limit: int, *, newest_first: bool = False) -> tuple[list[Any], bool]:
    """The items that fit into `limit` bytes of JSON, in their order, and whether that is all of them.

    The first that does not fit is shortened, and all after it are left out; `newest_first` begins with the last.
    """
    kept: list[Any] = []
    left = limit - 1  # one bracket; the other goes for the comma that the last item has not
    whole = True
    for item in reversed(items) if newest_first else items:
        size = len(msgspec.json.encode(item)) + 1
        if size > left:
            whole = False
            shorter = _shortened(item, left - 1)
            if shorter is not None:
                kept.append(shorter)
            break
        kept.append(item)
        left -= size
    return (kept[::-1] if newest_first else kept), whole


def _shortened(item: Any, limit: int) -> Any:
    """The item with its longest texts cut until it fits; None if it does not even then."""
    longest = limit
    while longest >= SHORTEST:
        cut = _cut(item, longest)
        if len(msgspec.json.encode(cut)) <= limit:
            return cut
        longest //= 2
    return None


def _cut(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= longest else value[:longest] + CUT
    if isinstance(value, dict):
        return {key: _cut(each, longest) for key, each in value.items()}
    if isinstance(value, list):
        return [_cut(each, longest) for each in value]
    return value
