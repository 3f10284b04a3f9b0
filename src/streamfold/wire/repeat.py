"""The frame that repeats: how most of a stream is folded without decoding it.

Nearly every frame of a stream is the frame before it with another few characters of text. Decoding all of it again
(id, model, fingerprint, nulls) costs several times what the text costs. So, once a frame has been folded the complete
way and the fold says that its whole effect was "append this one string there", the frame is cut around that string:

    {"id":"x","choices":[{"index":0,"delta":{"content":"   Hel   "},"finish_reason":null}]}
    '--------------------- prefix ---------------------' hole '----------- suffix ------------'

A later frame with the same prefix and suffix is the same JSON document but for the string in the hole, because
whether a byte stands inside a string depends only on what precedes it. All else in it has been folded once and adding
it again would change nothing (the fold vouches for that), so appending the string is the whole fold.

What must be right, and why it is:

* The cut is proved, not guessed: the frame with a probe in its holes must decode to the same document with the probe.
* The hole must hold a valid string body. Without backslash, quote or control character that is seen at once; with
  one, the JSON decoder judges. Anything doubtful is a miss, and a miss takes the complete way.
* Some frames carry more that changes and means nothing to the answer: OpenAI's `obfuscation` (padding against traffic
  analysis) and the `sequence_number` of the Responses API. They are holes as well.
* Any other frame in between ends the pattern: it may have changed what the pattern takes as unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from streamfold.growth import COLLAPSE, Text

__all__ = ["Repeat", "cut"]

TEXT: Final = 0
PADDING: Final = 1
NUMBER: Final = 2

WINDOW: Final = 256
"""Frames looked at in one run: a slice of that size costs nothing, one of a whole long body would, at every miss."""

_BODY = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_DIGITS = re.compile(rb"\d*")
_PROBE = b"\\u0001probe"
_PROBE_TEXT = "\x01probe"
_PROBE_NUMBER = b"9007199254740991"
_string = msgspec.json.Decoder(str).decode


class Repeat:
    """One frame cut around its one hole, and where its text goes."""

    __slots__ = ("_append", "_flags", "_prefix", "_start", "_stop", "_suffix", "_target", "hits")

    def __init__(self, prefix: bytes, suffix: bytes, target: Text, flags: int) -> None:
        self._prefix = prefix
        self._suffix = suffix
        self._start = len(prefix)
        self._stop = -len(suffix)
        self._target = target
        self._append = target.open().append
        self._flags = flags
        self.hits = 0
        """Frames folded this way so far."""

    def run(self, payloads: Sequence[bytes], at: int) -> tuple[int, int]:
        """Folds the frames from `at` on for as long as they repeat this one, a window of them at most.

        Returns where it stopped, and the flags of what it folded.
        """
        prefix, suffix, start, stop, append = self._prefix, self._suffix, self._start, self._stop, self._append
        begun = at
        flags = 0
        for payload in payloads[at : at + WINDOW]:
            if not payload.startswith(prefix) or not payload.endswith(suffix):
                break
            body = payload[start:stop]
            text = None
            if 92 not in body and 34 not in body:
                try:
                    text = body.decode()
                except UnicodeDecodeError:
                    break
                if not text.isprintable():
                    text = None
            if text is None:
                text = _text(body)
                if text is None:
                    break
            if text:
                append(text)
                flags = self._flags
            at += 1
        self._count(at - begun)
        return at, flags

    def _count(self, hits: int) -> None:
        self.hits += hits
        if len(self._target.open()) >= COLLAPSE:
            self._target.collapse()

    def settle(self) -> int:
        """Ends the pattern; returns how many frames it folded."""
        self._target.collapse()
        return self.hits


class NoisyRepeat(Repeat):
    """A frame with several holes, of which one is text that counts."""

    __slots__ = ("_inner", "_last", "_number")

    def __init__(self, literals: list[bytes], kinds: list[int], target: Text, flags: int, number: int) -> None:
        super().__init__(literals[0], literals[-1], target, flags)
        # Each hole but the last with the literal that ends it, and that literal's first byte and length.
        self._inner = tuple(
            (kind, literal[0], literal, len(literal)) for kind, literal in zip(kinds[:-1], literals[1:-1], strict=True)
        )
        self._last = kinds[-1]
        self._number = number

    def run(self, payloads: Sequence[bytes], at: int) -> tuple[int, int]:
        prefix, start, suffix, stop = self._prefix, self._start, self._suffix, self._stop
        inner, last, append, number = self._inner, self._last, self._append, self._number
        begun = at
        flags = 0
        body = b""
        for payload in payloads[at : at + WINDOW]:
            if payload[:start] != prefix or not payload.endswith(suffix):
                break
            place = start
            for kind, first, literal, width in inner:
                # Searching one byte is several times quicker than searching the literal that begins with it.
                end = payload.find(first, place)
                if payload[end : end + width] != literal:
                    end = payload.find(literal, place)
                    if end < 0:
                        break
                hole = payload[place:end]
                place = end + width
                if kind == TEXT:
                    body = hole
                elif kind == NUMBER:
                    if not hole.isdigit() or int(hole) != number + 1:
                        break  # out of order: for the complete way to judge
                elif not hole.isalnum():
                    break
            else:
                hole = payload[place:stop]
                if last == PADDING:
                    if not hole.isalnum():
                        break
                elif last == TEXT:
                    if place > len(payload) + stop:
                        break
                    body = hole
                elif not hole.isdigit() or int(hole) != number + 1:
                    break
                text = _text(body)
                if text is None:
                    break
                number += 1
                if text:
                    append(text)
                    flags = self._flags
                at += 1
                continue
            break
        self._number = number
        self._count(at - begun)
        return at, flags


def _text(body: bytes) -> str | None:
    """The string that a JSON string body spells, or None when it is not one."""
    if 92 not in body and 34 not in body:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return None
        # A control character is not allowed in a JSON string; what is not printable is left to the decoder.
        if text.isprintable():
            return text
    try:
        return _string(b'"' + body + b'"')
    except msgspec.DecodeError:
        return None


def cut(payload: bytes, event: dict[str, Any], path: tuple[str | int, ...], target: Text, flags: int) -> Repeat | None:
    """Cuts a folded frame around the string at `path`; None when that cannot be proved to be right.

    `event` is the decoded `payload`. Top-level `obfuscation` and `sequence_number` become holes too.
    """
    holes = [_hole(payload, event, path, TEXT)]
    if isinstance(event.get("obfuscation"), str):
        holes.append(_hole(payload, event, ("obfuscation",), PADDING))
    number = event.get("sequence_number")
    if isinstance(number, int):
        holes.append(_hole(payload, event, ("sequence_number",), NUMBER))
    spans = sorted(hole for hole in holes if hole is not None)
    if len(spans) != len(holes):
        return None
    literals, kinds, at = [], [], 0
    for start, end, kind in spans:
        if start < at:
            return None
        literals.append(payload[at:start])
        kinds.append(kind)
        at = end
    literals.append(payload[at:])
    if not all(literals[1:]):
        return None
    if len(kinds) == 1:
        return Repeat(literals[0], literals[1], target, flags)
    return NoisyRepeat(literals, kinds, target, flags, number if isinstance(number, int) else 0)


def _hole(payload: bytes, event: dict[str, Any], path: tuple[str | int, ...], kind: int) -> tuple[int, int, int] | None:
    """Where in the payload the value at `path` stands: (start, end, kind), proved by a probe."""
    parent: Any = event
    for step in path[:-1]:
        parent = parent[step]
    key = path[-1]
    quote = b"" if kind == NUMBER else b'"'
    probe, meant = (_PROBE_NUMBER, int(_PROBE_NUMBER)) if kind == NUMBER else (_PROBE, _PROBE_TEXT)
    body = _DIGITS if kind == NUMBER else _BODY
    original = parent[key]
    for colon in (b'":', b'": '):
        needle = b'"' + str(key).encode() + colon + quote
        at = payload.find(needle)
        for _ in range(4):  # the key may also stand elsewhere in the frame; far down is not worth the search
            if at < 0:
                break
            start = at + len(needle)
            found = body.match(payload, start)
            end = found.end() if found else start
            try:
                probed = msgspec.json.decode(payload[:start] + probe + payload[end:])
            except (msgspec.DecodeError, UnicodeDecodeError):
                probed = None
            parent[key] = meant
            same = probed == event
            parent[key] = original
            if same:
                return start, end, kind
            at = payload.find(needle, start)
    return None
