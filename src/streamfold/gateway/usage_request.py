"""Asks an OpenAI stream for its usage in the client's place, and takes the answer out again.

Without `stream_options.include_usage` a chat or completion stream never says what it cost. With it, a chunk without
choices comes before `[DONE]`. Some clients trip over that chunk, and none of them asked for it; so the fold reads it
and the client does not get it. All other bytes pass on as they are. (OpenAI also writes `"usage":null` in the other
chunks then; every client reads that as what it is.)

A client that says `include_usage` itself, be it true or false, gets what it asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from streamfold.gateway.delivery import EventCutter

__all__ = ["FORMATS", "UsageFilter", "asking_for_usage", "is_extra", "with_model"]

FORMATS: Final = ("openai-chat", "openai-completions")

_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def asking_for_usage(body: bytes) -> bytes | None:
    """The request with the question in it; None if it must not be asked. Every other value keeps its spelling."""

    def ask(fields: dict[str, msgspec.Raw]) -> bool:
        if fields.get("stream") != msgspec.Raw(b"true"):
            return False
        options = msgspec.json.decode(fields.get("stream_options", b"null"), type=dict[str, Any] | None) or {}
        if options.get("include_usage") is not None:
            return False
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**options, "include_usage": True}))
        return True

    return _changed(body, ask)


def with_model(body: bytes, model: str) -> bytes | None:
    """The request with another model; None if it is no JSON object."""

    def name(fields: dict[str, msgspec.Raw]) -> bool:
        fields["model"] = msgspec.Raw(msgspec.json.encode(model))
        return True

    return _changed(body, name)


def is_extra(payload: bytes) -> bool:
    """Whether an event is the one that the question adds: usage, and no choice."""
    if not _USAGE.search(payload):
        return False
    try:
        event = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeError):
        return False
    return isinstance(event, dict) and isinstance(event.get("usage"), dict) and event.get("choices") == []


class UsageFilter:
    """Takes the extra event out of an SSE body. Events are passed on when they are whole."""

    def __init__(self) -> None:
        self._cutter = EventCutter()

    def feed(self, data: bytes) -> bytes:
        """What of the events that these bytes complete goes on."""
        whole = self._cutter.whole(data)
        if not _USAGE.search(whole):
            return whole
        events = EventCutter().cut(whole)
        return b"".join(event.raw for event in events if event.payload is None or not is_extra(event.payload))

    def rest(self) -> bytes:
        """What came after the last whole event."""
        return self._cutter.rest()


def _changed(body: bytes, change: Callable[[dict[str, msgspec.Raw]], bool]) -> bytes | None:
    try:
        fields = _FIELDS.decode(body)
        return msgspec.json.encode(fields) if change(fields) else None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeError, RecursionError):
        return None
