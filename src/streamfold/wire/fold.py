"""What every wire format's fold is, and the way of a frame into it.

A fold takes the frames of one stream and holds the growing native response. A format writes `add_event` (one decoded
frame), `response` (the native response so far) and a `view` (native response -> `AccumulatedData`), and inherits the
rest: decoding, the end marker, malformed frames, and the short cut for frames that repeat (`repeat.py`).

`add_event` answers with flags that say what the frame brought, from which the stream takes its timings:

    CHUNK    a chunk of the response (a ping is not)
    OUTPUT   the model's output of any kind: text, reasoning, a tool call, audio, an image
    CONTENT  output that the reader sees: text, refusal, audio, an image
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec

from streamfold.errors import WireError
from streamfold.framing import AutoFramer, Framer
from streamfold.growth import Fields, Identity, Text
from streamfold.types import JSON, AccumulatedData, ErrorDetails, StreamType
from streamfold.wire.joined import DONE, documents
from streamfold.wire.repeat import Repeat, cut

__all__ = ["CHUNK", "CONTENT", "OUTPUT", "Fold", "decode"]

CHUNK: Final = 1
OUTPUT: Final = 2
CONTENT: Final = 4

LEARNING: Final = 12
"""Patterns a stream may try in vain before it gives up looking for one (each try costs about two frames)."""

UNKNOWN_EVENTS: Final = 64
"""Events of unknown kinds that a response keeps; tomorrow's stream must not fill today's memory."""

SAMPLE: Final = 200
"""Characters of a malformed frame that a strict stream quotes."""

DONE_MARKER: Final = b"[DONE]"
"""The payload that ends a stream of OpenAI's chat API, and of many servers that speak it."""

_decode = msgspec.json.Decoder().decode


def decode(payload: bytes) -> Any:
    """One JSON document. Takes what the standard library takes (NaN, lone surrogates) where the fast decoder does not.

    Raises `ValueError` when it is no JSON at all.
    """
    try:
        return _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return json.loads(payload)


class Fold(ABC):
    """One live stream of one wire format."""

    __slots__ = (
        "_anomalies",
        "_chunks",
        "_credit",
        "_plain",
        "_seeking",
        "_unknown",
        "ended",
        "error",
        "finished",
        "full",
        "malformed",
        "named",
        "repeat",
        "strict",
    )

    format: ClassVar[str]
    """The wire format's name, as in `--format`."""
    stream_type: ClassVar[StreamType]
    has_end_marker: ClassVar[bool] = True
    """Whether the protocol has a frame that ends the stream. Where it has none, a finish reason is the end."""
    end_required: ClassVar[bool] = False
    """Whether a stream without its end marker is cut off even though a finish reason was said."""
    ends_with_finish: bool = False
    """Whether all has been said with the finish reason, so that what the transport saw after it does not count."""
    identity_keys: ClassVar[tuple[str, str]] = ("id", "model")
    """What the format calls the response's id and its model."""
    noise: ClassVar[tuple[str, ...]] = ()
    """Top-level strings of a frame that change all the time and mean nothing to the answer. See `repeat.py`."""

    def __init__(self) -> None:
        self._chunks = 0
        self.malformed = 0
        self.ended = False
        """The protocol's own end marker was seen."""
        self.finished = False
        """A finish reason was said (usage may still follow)."""
        self.error: ErrorDetails | None = None
        self.full = False
        self.strict = False
        self._anomalies: dict[str, None] | None = None
        self._credit = LEARNING
        self.repeat: Repeat | None = None
        """The last frame, if it is one of a kind that repeats."""
        self.named: str | None = None
        """The name of that frame's event."""
        self._plain: tuple[tuple[str | int, ...], Text] | None = None
        """Set by `add_event` when all that the frame did was to append one string: its path, and where it went."""
        self._unknown: list[JSON] | None = None
        self._seeking = False
        """Whether anybody asks for `_plain`."""

    @abstractmethod
    def add_event(self, event: JSON, name: str | None = None) -> int:
        """Folds one decoded frame; `name` is the SSE or event-stream event name. Never changes `event`."""

    @abstractmethod
    def response(self) -> JSON | None:
        """The native response so far, or None if nothing of it has come. Does not disturb the stream."""

    @staticmethod
    @abstractmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        """Reads a native response, streamed or not, into the neutral record."""

    def finish_view(self, data: AccumulatedData) -> None:  # noqa: B027 (most formats have nothing to add)
        """Adds to the viewed response what only the stream knew, such as argument text exactly as it was sent."""

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        """Whether a first frame (or a whole response) can only be of this format. For `format="auto"`."""
        return False

    @classmethod
    def framer(cls) -> Framer:
        """What cuts a body of this format into frames. By default the body's first bytes say which framing it has."""
        return AutoFramer()

    def note_http(self, status_code: int | None, headers: Mapping[str, str] | None) -> None:  # noqa: B027
        """Takes what HTTP said before the body. Most formats say everything in the body."""

    def end_of_body(self) -> int:
        """The last frame has come: folds what a format held back until it knew. Returns flags, as `add_event` does."""
        return 0

    def close(self) -> None:
        """Stops the response from growing; ends, usage and finish reasons are still taken. See `Text.close`."""
        self.full = True
        self.repeat = None

    @property
    def chunks(self) -> int:
        """Chunks of the response so far; pings and frames that could not be read are not counted."""
        return self._chunks + (self.repeat.hits if self.repeat is not None else 0)

    def is_complete(self) -> bool:
        """Whether all that the stream began has said its finish reason; with n > 1 that is every choice."""
        return self.finished

    def envelope(self) -> Fields | None:
        """The fields that name the response and its model, if the format holds them so; see `identity_keys`."""
        return None

    @property
    def anomalies(self) -> list[str]:
        """Codes of what was odd, in order of first sight."""
        fields = self.envelope()
        if fields is not None:
            for key, code in zip(self.identity_keys, ("id_changed", "model_changed"), strict=True):
                cell = fields.get(key)
                if isinstance(cell, Identity) and cell.changed:
                    self.flag(code)
        return list(self._anomalies or ())

    def keep_unknown(self, event: JSON) -> int:
        """Keeps an event of an unknown kind, which `unknown_events` hands to the response; the first of them only."""
        self.flag("unknown_event")
        if self._unknown is None:
            self._unknown = []
        if len(self._unknown) < UNKNOWN_EVENTS and not self.full:
            self._unknown.append(event)
        return CHUNK

    @property
    def unknown_events(self) -> JSON:
        """What `keep_unknown` kept, as a field for the native response; empty if there was none."""
        return {"unknown_events": list(self._unknown)} if self._unknown else {}

    def flag(self, code: str) -> None:
        """Notes an oddity once."""
        if self._anomalies is None:
            self._anomalies = {}
        self._anomalies[code] = None

    def add_all(self, payloads: list[bytes], names: Sequence[str | None] | None) -> int:
        """Folds the frames of one read. Returns the flags of all of them together."""
        if names and names.count(names[0]) != len(names):
            return self._add_each(payloads, names)
        name = names[0] if names else None
        flags = at = 0
        end = len(payloads)
        while at < end:
            if self.repeat is not None and name in (None, self.named):
                begun = at
                at, seen = self.repeat.run(payloads, at)
                if at != begun:
                    flags |= seen | CHUNK
                    continue
            flags |= self.add(payloads[at], name)
            at += 1
        return flags

    def _add_each(self, payloads: list[bytes], names: Sequence[str | None]) -> int:
        """The same for frames of several names: what one name means, the same bytes do not under another."""
        flags = 0
        for payload, name in zip(payloads, names, strict=True):
            seen = self.repeat.payload(payload) if self.repeat is not None and name in (None, self.named) else None
            flags |= self.add(payload, name) if seen is None else seen | CHUNK
        return flags

    @property
    def hopeful(self) -> bool:
        """Whether frames that repeat may still be found."""
        return self._credit > 0 and not self.full

    def add(self, payload: bytes, name: str | None = None) -> int:
        """Folds one frame the complete way."""
        self._settle()
        if payload == DONE_MARKER:  # known to be no JSON; two decoders need not find out
            return self._undecodable(payload, name, ValueError("an end marker"))
        try:
            event = decode(payload)
        except (ValueError, RecursionError) as error:
            return self._undecodable(payload, name, error)
        if isinstance(event, dict):
            return self._add_and_learn(event, name, payload)
        return self.add_value(event, name)

    def add_value(self, value: Any, name: str | None) -> int:
        """A decoded frame that is no object: a list of objects is taken one by one, anything else is odd."""
        flags = 0
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for item in value:
                flags |= self.add_decoded(item, name)
            return flags
        self.malformed += 1
        self.flag("unexpected_json")
        return 0

    def add_decoded(self, event: JSON, name: str | None = None, payload: bytes | None = None) -> int:
        """Folds one frame that somebody else decoded; `payload` is what it would be on the wire, if that is known."""
        self._settle()
        if payload is None:
            self._seeking = False
            return self._add_event(event, name)
        return self._add_and_learn(event, name, payload)

    def _add_and_learn(self, event: JSON, name: str | None, payload: bytes) -> int:
        self._plain = None
        self._seeking = self.hopeful
        self.named = name
        flags = self._add_event(event, name)
        if self._seeking and self._plain is not None and flags & OUTPUT:
            self._learn(payload, event, flags)
        return flags

    def _add_event(self, event: JSON, name: str | None) -> int:
        try:
            flags = self.add_event(event, name)
        except Exception:
            # A fault of ours must not reach the traffic, and not hide either.
            self.flag("accumulator_error")
            flags = CHUNK
        self._chunks += flags & CHUNK
        return flags

    def _undecodable(self, payload: bytes, name: str | None, error: Exception) -> int:
        text = payload.strip()
        if text == DONE_MARKER:
            self.ended = True
            return 0
        if not text:
            return 0
        if name == "error" and self.error is None:
            # A proxy says in plain words why the stream ends.
            self.error = ErrorDetails(type="error", message=text.decode("utf-8", "replace"))
            return CHUNK
        if not self.strict and (found := documents(text)) and (found[0] or not found[1]):
            return self._add_joined(*found, name)
        self.malformed += 1
        self.flag("malformed_json")
        if self.strict:
            sample = payload[:SAMPLE].decode("utf-8", "replace")
            raise WireError(f"{self.format}: a frame is not JSON ({error}): {sample!r}") from error
        return 0

    def _add_joined(self, found: list[Any], rest: bytes, name: str | None) -> int:
        """Folds the documents of a frame that holds several; see `joined.py`."""
        flags = 0
        for event in found:
            if event == DONE:
                self.ended = True
            else:
                flags |= self.add_decoded(event, name)
        if found:
            self.flag("joined_events")
        if rest:
            self.malformed += 1
            self.flag("malformed_json")
        return flags

    def _learn(self, payload: bytes, event: JSON, flags: int) -> None:
        path, target = self._plain  # type: ignore[misc]
        self._plain = None  # not to be held for as long as the stream
        self._credit -= 1
        try:
            self.repeat = cut(payload, event, path, target, flags, noise=self.noise)
        except (KeyError, IndexError, TypeError):
            self.flag("accumulator_error")  # the format named a place that is not there

    def _settle(self) -> None:
        """Takes the account of a pattern that another frame has ended."""
        repeat = self.repeat
        if repeat is None:
            return
        self.repeat = None
        if repeat.hits:
            self._chunks += repeat.hits
            self._credit = min(LEARNING, self._credit + 1)
