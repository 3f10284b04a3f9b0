"""Halves of characters.

JSON spells a character beyond the basic plane as a pair of `\\uXXXX` escapes, and some servers cut between the two, so
that each delta holds half an emoji. Python keeps such halves in a str, but nothing can encode them. Joined text puts
the halves together again; a half that stays alone becomes U+FFFD, since no UTF-8 text can hold it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

__all__ = ["without_surrogates"]

_encode = msgspec.msgpack.Encoder().encode
"""The quickest way to find out whether all text in a value can be encoded; JSON would have to escape it as well."""

_HALF = re.compile("[\ud800-\udfff]")


def without_surrogates(value: Any) -> Any:
    """The value with all halves joined or replaced; the value itself when it has none."""
    try:
        _encode(value)
    except (UnicodeEncodeError, OverflowError):  # the latter for an integer longer than MessagePack has them
        return _clean(value)
    return value


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _HALF.search(value) else value
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return type(value)(**_clean(msgspec.structs.asdict(value)))
    return value
