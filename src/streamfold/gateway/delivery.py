"""Cuts a stream into events that plugins may change, without touching a byte of those they leave alone.

An event is passed on in the bytes it came in. Only when a plugin answers with another payload is its `data:` rewritten,
and its other lines (`event:`, `id:`, comments) stay as they were. Events without data (pings, comments) are passed on
unseen. For SSE and NDJSON; the frames of other framings carry lengths and check sums, so they are passed on unseen too.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import msgspec

from streamfold.framing import SSE

__all__ = ["Event", "EventCutter", "LineCutter", "cutter_for"]

MAX_EVENT: Final = 16 * 1024 * 1024
"""An event that is longer than this is passed on unseen, in pieces."""

_LINE_END: Final = rb"(?:\r\n|\n|\r(?!\n))"
_EVENT_END: Final = re.compile(_LINE_END + _LINE_END)
_LINES: Final = re.compile(_LINE_END)


class Event(NamedTuple):
    """One event: the bytes that it came in, and the payload that plugins see, if it has one."""

    raw: bytes
    payload: bytes | None

    def replaced(self, payload: Any) -> bytes:
        """The event with another payload: bytes, text, or what can be written as JSON."""
        return _with_data(self.raw, encoded(payload))

    def beside(self, payload: Any) -> bytes:
        """Another event for the same stream. Where events have names, it is called as its payload's `type`."""
        data = encoded(payload)
        return (_name_of(data) if b"event:" in self.raw else b"") + _with_data(b"", data)


class EventCutter:
    """SSE. `cut` gives the events that are whole, `rest` what came after the last of them."""

    def __init__(self) -> None:
        self._held = bytearray()

    def cut(self, data: bytes) -> list[Event]:
        """The events that these bytes complete."""
        events, at = [], 0
        whole, ends = self._take(data)
        for end in ends:
            events.append(_sse(whole[at:end]))
            at = end
        if len(self._held) > MAX_EVENT:
            events.append(Event(self.rest(), None))
        return events

    def whole(self, data: bytes) -> bytes:
        """The same in one piece."""
        whole, _ = self._take(data)
        return whole if len(self._held) <= MAX_EVENT else whole + self.rest()

    def _take(self, data: bytes) -> tuple[bytes, list[int]]:
        """The bytes of the events that are whole now, and where each ends."""
        held = self._held
        begin = max(0, len(held) - 3)  # an end may have begun in what is held; the rest of it was searched before
        held += data
        ends = [match.end() for match in _EVENT_END.finditer(held, begin)]
        # A CR at the very end may be half of a CRLF.
        if ends and ends[-1] == len(held) and held.endswith(b"\r"):
            ends.pop()
        cut = ends[-1] if ends else 0
        whole = bytes(held[:cut])
        del held[:cut]
        return whole, ends

    def rest(self) -> bytes:
        """The bytes of an event whose end never came."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


class LineCutter:
    """NDJSON: each line is an event."""

    def __init__(self) -> None:
        self._held = bytearray()

    def cut(self, data: bytes) -> list[Event]:
        """The lines that these bytes complete."""
        held = self._held
        held += data
        last = data.rfind(b"\n")
        if last < 0 and len(held) <= MAX_EVENT:
            return []
        cut = len(held) - len(data) + last + 1 if last >= 0 else len(held)
        whole = bytes(held[:cut])
        del held[:cut]
        return [_Line(line, line.strip() or None) for line in whole.splitlines(keepends=True)]

    def rest(self) -> bytes:
        """The bytes of a line whose end never came."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


class _Line(Event):
    __slots__ = ()

    def replaced(self, payload: Any) -> bytes:
        return encoded(payload).replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"

    beside = replaced


def cutter_for(content_type: str) -> EventCutter | LineCutter | None:
    """What cuts a body of this type into events; None if its frames cannot be changed."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return EventCutter()
    if kind in ("application/x-ndjson", "application/ndjson", "application/jsonl"):
        return LineCutter()
    return None


def encoded(payload: Any) -> bytes:
    """A payload as a plugin may give it, in bytes. Raises `TypeError` for what is no JSON."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode("utf-8", "replace")
    dump = getattr(type(payload), "model_dump_json", None)
    return dump(payload, exclude_unset=True).encode() if dump is not None else msgspec.json.encode(payload)


def _name_of(payload: bytes) -> bytes:
    try:
        name = msgspec.json.decode(payload, type=_Typed).type
    except (msgspec.DecodeError, UnicodeError):
        return b""
    return b"event: " + name.encode() + b"\n" if name.isprintable() else b""


class _Typed(msgspec.Struct):
    type: str


def _sse(raw: bytes) -> Event:
    framer = SSE()
    payloads, _ = framer.feed(raw)
    return Event(raw, payloads[0] if len(payloads) == 1 else None)


def _with_data(raw: bytes, payload: bytes) -> bytes:
    end = b"\r\n" if b"\r\n" in raw else b"\n"
    kept = [line for line in _LINES.split(raw) if line and line != b"data" and not line.startswith(b"data:")]
    return end.join([*kept, *(b"data: " + line for line in _LINES.split(payload)), b"", b""])
