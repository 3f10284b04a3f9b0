"""What is sent away: without credentials, without binary data, and of a size that Maxim takes.

Maxim drops a line over 900 KB. The SDK would carry such a line to a storage service instead, at an address that
Maxim's answer names; that is a host which nobody configured, so texts are cut here, the longest first.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, Final

__all__ = ["clean", "cut", "valid_id"]

STEPS: Final = ((100_000, 10_000), (10_000, 2_000), (1_000, 200), (100, 20))
"""(characters of a string, items of a list or object) that are kept, tried in this order."""
DEEPEST: Final = 40
BINARY: Final = re.compile(r"(?:data:[\w/+.-]*;base64,)?[A-Za-z0-9+/_-]{2000,}={0,2}")
ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def clean(value: Any, limit: int, redact: Callable[[str], str] | None = None) -> Any:
    """A copy of a JSON value whose text has at most `limit` bytes; None if it cannot be made that small."""
    value = _redacted(value, redact, DEEPEST)
    for characters, items in STEPS:
        fitted = _fitted(value, characters, items)
        if len(json.dumps(fitted)) <= limit:
            return fitted
    return None


def cut(text: str, characters: int) -> str:
    """The beginning of a text, and how long the rest was."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]} [{len(text) - characters} more characters]"


def valid_id(text: str) -> str:
    """An id as Maxim takes it: the text itself if it is one, else one that always comes out the same for this text."""
    if ID.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{re.sub(r'[^a-zA-Z0-9_-]', '-', text[:64])}-{digest}"


def _redacted(value: Any, redact: Callable[[str], str] | None, deep: int) -> Any:
    """A copy without credentials and binary data. Struck out before anything is cut: half a key is not known as one."""
    if isinstance(value, str):
        if BINARY.fullmatch(value):
            return f"[{len(value)} characters of base64]"
        return redact(value) if redact is not None else value
    if isinstance(value, bytes):
        return f"[{len(value)} bytes]"
    if not isinstance(value, dict | list | tuple):
        return value
    if deep == 0:
        return "[nested too deeply]"
    if isinstance(value, dict):
        return {str(key): _redacted(each, redact, deep - 1) for key, each in value.items()}
    return [_redacted(each, redact, deep - 1) for each in value]


def _fitted(value: Any, characters: int, items: int) -> Any:
    if isinstance(value, str):
        return cut(value, characters)
    if isinstance(value, dict):
        kept = list(value.items())[:items]
        return {cut(key, characters): _fitted(each, characters, items) for key, each in kept}
    if isinstance(value, list):
        return [_fitted(each, characters, items) for each in value[-items:]]  # of a conversation, the end
    return value
