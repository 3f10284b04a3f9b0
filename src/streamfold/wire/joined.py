r"""Several JSON documents in one frame.

Some servers end an event with one newline instead of two, or write documents one after the other with a comma or
nothing between them. By the rules of the framing that is one frame, and it is no JSON:

    data: {"choices": ...}\ndata: {"choices": ...}\n\n   ->   {"choices": ...}\n{"choices": ...}

No JSON document can be read as two, so such a frame can be taken apart without a guess. Only frames that could not be
decoded are looked at, so that this costs nothing where it is not needed.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

__all__ = ["DONE", "documents"]

DONE: Final = "[DONE]"
"""The end marker of OpenAI's protocol, which stands between documents though it is none."""

_BETWEEN = re.compile(r"(?:[\s,]|data:)*+")

_read = json.JSONDecoder().raw_decode


def documents(payload: bytes) -> tuple[list[Any], bytes]:
    """The objects (and end markers) that a frame begins with, and what is left of it after them.

    Empty when the frame is not of this kind. Errors: none.
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return [], payload
    found: list[Any] = []
    at = _end_of_gap(text, 0)
    while at < len(text):
        if text.startswith(DONE, at):
            found.append(DONE)
            at = _end_of_gap(text, at + len(DONE))
            continue
        try:
            value, end = _read(text, at)
        except (ValueError, RecursionError):
            break
        if not isinstance(value, dict):
            break
        found.append(value)
        at = _end_of_gap(text, end)
    return found, text[at:].encode()


def _end_of_gap(text: str, at: int) -> int:
    gap = _BETWEEN.match(text, at)
    return at if gap is None else gap.end()
