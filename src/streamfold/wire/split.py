"""Frames that repeat, read without native code: by splitting, joining and the JSON decoder, many frames at a time.

`_scan.c` does the same byte by byte and is several times quicker; this is for where it could not be built. In Python a
look at each frame is what costs, so a run of frames is cut apart at what is always the same, in one go, and its holes
are judged and joined together (`_text`). Given unframed bytes, that even spares the framing (`skim`). One frame at a
time (`_body`) is for what the other way cannot settle: the frames before one that is odd. Holes that all stand at one
level have a quicker way still (`flat.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat, takewhile
from operator import itemgetter, methodcaller
from typing import Any, Final, NamedTuple

import msgspec

from streamfold.growth import Text
from streamfold.wire.flat import Flat

__all__ = ["NUMBER", "PADDING", "SPACES", "TEXT", "NoisySplit", "SpacedSplit", "Split", "all_once", "once", "utf8"]

TEXT: Final = 0
PADDING: Final = 1
NUMBER: Final = 2
SPACES: Final = 3
"""Kinds of holes."""

LF: Final = 10
CR: Final = 13
QUOTE: Final = 34
BACKSLASH: Final = 92
BLANK_LINE: Final = b"\n\n"

NEEDLE: Final = 12
"""Bytes that are searched for where a longer stretch is meant: enough to be rare, few enough to be quick."""

FEW: Final = 64
WINDOW: Final = 256
"""Frames folded together, at first and at most. Few at first, because one that differs spoils the stretch;
never too many, so that their bytes stay in the processor's cache."""

MARK: Final = b"\x7f"
"""Stands between two string bodies."""

END_MARK: Final = b"\x01"
INNER_MARKS: Final = (b"\x02", b"\x03", b"\x04")
NO_MARKS: Final = bytes(byte for byte in range(256) if not 1 <= byte <= 4)
ONE_MARK: Final = bytes(1 if 1 <= byte <= 4 else byte for byte in range(256))
"""Marks for the end of a frame and for the literals within. JSON text holds no such byte: one that is there shows as
one too many."""


LONGEST_SHARED: Final = 1024
"""Bytes of a frame that are worth sharing. What is shared outlives its streams, and a frame may be of megabytes."""


@lru_cache(maxsize=1024)
def _shared(value: Any) -> Any:
    return value


def once(literal: bytes) -> bytes:
    """The bytes, held once for all streams that have them: frames of one provider differ little behind their holes."""
    return _shared(literal) if len(literal) <= LONGEST_SHARED else literal


def all_once(literals: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The same for the bytes between several holes."""
    return _shared(literals) if sum(map(len, literals)) <= LONGEST_SHARED else literals


_is_noise = re.compile(rb"[0-9A-Za-z:.+_-]+").fullmatch
"""Padding and timestamps: none of it ends, or has to be escaped in, a JSON string."""
HOLES: Final = {
    TEXT: rb'([^"\\\x00-\x1f]*+(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*+)*+)',
    PADDING: rb"([0-9A-Za-z:.+_-]++)",
    NUMBER: rb"(\d++)",
}
"""What each kind of hole looks like. Possessive, so that a frame that does not fit costs no more than its length."""
_string = msgspec.json.Decoder(str).decode
_integers = msgspec.json.Decoder(list[int]).decode


class Split:
    """One frame cut around its one hole, and where its text goes.

    What stands between prefix and suffix is the frame's *body*; here it is the hole's string itself.
    """

    __slots__ = ("_begin", "_end", "_flags", "_in_lines", "_lead", "_sink", "_window", "hits")

    def __init__(self, prefix: bytes, suffix: bytes, target: Text, flags: int) -> None:
        # The prefix after what leads to it on the wire, the suffix before what ends it there; see `skim`.
        self._lead = b""
        self._begin = prefix
        self._end = suffix
        # It has a line end between its holes: on the wire that would end the `data` line.
        self._in_lines = has_line_end(prefix) or has_line_end(suffix)
        self._sink = target.open()  # it has text already, for the frame that is repeated brought some
        self._flags = flags
        self._window = FEW
        self.hits = 0
        """Frames folded this way so far."""

    @property
    def number(self) -> int | None:
        """The number of the last frame, where frames are numbered."""
        return None

    def skim(self, data: bytes, at: int, lead: bytes) -> tuple[int, int]:
        """Folds the events of an SSE body, from `at` on, that repeat this frame: each `lead`, payload, blank line.

        Returns how many bytes they were, and the flags of what was folded. A window of them at most.
        """
        if self._in_lines:
            return 0, 0
        if lead is not self._lead:
            self._follow(lead)
        if not data.startswith(self._begin, at):
            return 0, 0
        if at == 0 and len(data) < 2 * len(self._begin):
            flags = self.one(data)
            if flags is not None:
                return len(data), flags
        return self._skim_many(data, at)

    def _follow(self, lead: bytes) -> None:
        """Takes note of what leads to the payload on the wire: nothing where payloads come without any framing."""
        end = self._suffix + BLANK_LINE if lead else self._suffix
        self._lead, self._begin, self._end = lead, lead + self._prefix, once(end)

    def payload(self, payload: bytes) -> int | None:
        """Folds a payload that came alone; None if it does not repeat this frame."""
        lead = self._lead
        if not lead:
            return self.one(payload)
        self._follow(b"")
        flags = self.one(payload)
        self._follow(lead)  # or the next read, which may begin as this payload does, would be taken without its lead
        return flags

    def one(self, data: bytes) -> int | None:
        """Folds bytes that are just one more event, as a paced stream has in each read; None if they are not.

        `skim` must have been here before, so that what leads to the payload is known.
        """
        begin, end = self._begin, self._end
        if not data.startswith(begin) or not data.endswith(end):
            return None
        stop = len(data) - len(end)
        if stop < len(begin):
            return None  # the two overlap, and where they do it is not JSON
        body = data[len(begin) : stop]
        # What `_body` and `take` do, without calling them: a paced stream comes here for each event, when little of
        # us is in the processor's cache.
        try:
            plain = BACKSLASH not in body and QUOTE not in body and body.decode().isprintable()
        except UnicodeDecodeError:
            return None
        text = body if plain else utf8(body)
        if text is None:
            return None
        self.hits += 1
        self._sink += text
        return self._flags if text else 0

    def _skim_many(self, data: bytes, at: int) -> tuple[int, int]:
        """From hole to hole the bytes are always the same, so one split finds all bodies.

        It splits at the end of what is the same, since searching many bytes is slow. That the rest of it was there too
        shows in the length of what is left when it is taken off.
        """
        begin, end = self._begin, self._end
        between, needle = end + begin, begin[-NEEDLE:]
        tail = between[: -len(needle)]
        at += len(begin)
        stretch = data[at : at + self._window * len(between)]
        pieces = stretch.split(needle)
        last = pieces.pop()
        bodies = list(map(bytes.removesuffix, pieces, repeat(tail)))
        cut_off = len(stretch) - len(last) - len(b"".join(bodies))
        if cut_off != len(pieces) * len(between):
            alike = sum(1 for _ in takewhile(methodcaller("endswith", tail), pieces))
            bodies, last = bodies[:alike], pieces[alike]
        elif len(stretch) < len(data) - at:
            self._window = min(WINDOW, 2 * self._window)
        final, found, _ = last.partition(end)
        if found:
            bodies.append(final)
        if not bodies:
            return 0, 0
        inner = b"".join(bodies)
        # A line end is white space to JSON, but ends the `data` line here.
        text = self._text(bodies) if LF not in inner else None
        if text is None:
            bodies, text = self._readable(bodies)
            inner = b"".join(bodies)
            if not bodies:
                return 0, 0
        return len(inner) + len(bodies) * len(between), self.take(text, len(bodies))

    @property
    def _prefix(self) -> bytes:
        return self._begin[len(self._lead) :]

    @property
    def _suffix(self) -> bytes:
        return self._end[: -len(BLANK_LINE)] if self._lead else self._end

    def run(self, payloads: Sequence[bytes], at: int) -> tuple[int, int]:
        """Folds the frames from `at` on while they repeat this one, a window of them at most.

        Returns where it stopped, and the flags of what it folded.
        """
        prefix, suffix = self._prefix, self._suffix
        window = payloads[at : at + self._window]
        if window and not window[-1].startswith(prefix):
            window = list(takewhile(methodcaller("startswith", prefix), window))
        elif len(window) == self._window:
            self._window = min(WINDOW, 2 * self._window)
        bodies = _bodies(window, prefix, suffix) or []
        text = self._text(bodies) if bodies else None
        if text is None:
            bodies, text = self._readable(_bodies_before_another(window, prefix, suffix))
        return at + len(bodies), self.take(text, len(bodies)) if bodies else 0

    def take(self, text: bytes, frames: int) -> int:
        """Appends the text of so many frames that are read; returns its flags."""
        self.hits += frames
        self._sink += text
        return self._flags if text else 0

    def _text(self, bodies: list[bytes]) -> bytes | None:
        """The text of frames with these bodies, without a look at each; None if one of them is another frame."""
        return _strings(bodies)

    def _readable(self, bodies: Iterable[bytes]) -> tuple[list[bytes], bytes]:
        """The bodies before the first that is of another frame, and their text."""
        readable: list[bytes] = []
        text = b""
        for body in bodies:
            one = self._body(body, len(readable))
            if one is None:
                break
            readable.append(body)
            text += one
        return readable, text

    def _body(self, body: bytes, place: int) -> bytes | None:
        """The text of one body, the `place`-th that is looked at now."""
        return utf8(body)


class SpacedSplit(Split):
    """A frame with spaces before its suffix, as Anthropic pads against traffic analysis.

    Its body is the text, what always follows the text (`ending`), and the spaces.
    """

    __slots__ = ("_ending",)

    def __init__(self, prefix: bytes, ending: bytes, suffix: bytes, target: Text, flags: int) -> None:
        super().__init__(prefix, suffix, target, flags)
        self._ending = ending

    def one(self, data: bytes) -> int | None:
        body = _body_of(data, self._begin, self._end)
        text = self._body(body, 0) if body is not None else None
        return self.take(text, 1) if text is not None else None

    def _body(self, body: bytes, place: int) -> bytes | None:
        body = body.rstrip(b" ")
        return utf8(body.removesuffix(self._ending)) if body.endswith(self._ending) else None

    def _text(self, bodies: list[bytes]) -> bytes | None:
        bare = list(map(bytes.rstrip, bodies, repeat(b" ")))
        texts = list(map(bytes.removesuffix, bare, repeat(self._ending)))
        if len(b"".join(bare)) - len(b"".join(texts)) != len(bodies) * len(self._ending):
            return None
        return _strings(texts)


class NoisySplit(Split):
    """A frame with several holes, of which one is text that counts. Its body is the holes and what is between them."""

    __slots__ = ("_after", "_between", "_flat", "_kinds", "_number", "_shape")

    def __init__(
        self,
        literals: list[bytes],
        kinds: list[int],
        target: Text,
        flags: int,
        number: int = 0,
        flat: Flat | None = None,
    ) -> None:
        super().__init__(literals[0], literals[-1], target, flags)
        self._flat = flat
        self._kinds: tuple[int, ...] = _shared(tuple(kinds))
        self._between = all_once(tuple(literals[1:-1]))
        self._number = number
        self._in_lines = self._in_lines or any(map(has_line_end, self._between))
        self._follow(b"")

    @property
    def number(self) -> int | None:
        return self._number if NUMBER in self._kinds else None

    def _follow(self, lead: bytes) -> None:
        super()._follow(lead)
        self._after = all_once((*self._between, self._end))
        self._shape: Shape | None = None

    def one(self, data: bytes) -> int | None:
        begin, shape = self._begin, self._shape
        if shape is None:  # made only now: many streams never come in single events
            shape = self._shape = _shape(self._kinds, tuple(map(len, self._after)))
        match, text_at, number_at = shape
        found = match(data, len(begin)) if data.startswith(begin) else None
        if found is None:
            return None
        groups = found.groups()
        number = self._number + 1
        if groups[1::2] != self._after or (number_at is not None and groups[number_at] != b"%d" % number):
            return None
        body = groups[text_at]
        text = body if BACKSLASH not in body and body.isascii() else utf8(body)
        if text is None:
            return None
        self._number = number
        self.hits += 1
        self._sink += text
        return self._flags if text else 0

    def take(self, text: bytes, frames: int) -> int:
        self._number += frames
        return super().take(text, frames)

    def _body(self, body: bytes, place: int) -> bytes | None:
        text = None
        for at, kind in enumerate(self._kinds):
            hole, found, rest = body.partition(self._between[at]) if at < len(self._between) else (body, b"", b"")
            if not found and at < len(self._between):
                return None
            body = rest
            if kind == TEXT:
                text = utf8(hole)
                if text is None:
                    return None
            elif not self._means_nothing(kind, hole, place):
                return None
        return text

    def _means_nothing(self, kind: int, hole: bytes, place: int) -> bool:
        """Whether a hole holds padding as expected, or the number that is due; others are for the complete way."""
        if kind == PADDING:
            return hole.isalnum() or _is_noise(hole) is not None
        return hole == b"%d" % (self._number + place + 1)

    def _text(self, bodies: list[bytes]) -> bytes | None:
        if self._flat is not None:
            return self._flat.read(bodies, self._number + 1)
        marked = END_MARK.join(bodies)
        # Each literal becomes a mark of its own; the marks alone then show whether all are there and in order.
        for literal, mark in zip(self._between, INNER_MARKS, strict=False):
            marked = mark.join(marked.split(literal))  # half the time of replace, which searches twice
        inner = b"".join(INNER_MARKS[: len(self._between)])
        if marked.translate(None, NO_MARKS) != (inner + END_MARK) * (len(bodies) - 1) + inner:
            return None
        holes = marked.translate(ONE_MARK).split(END_MARK)
        text = None
        for place, kind in enumerate(self._kinds):
            column = holes[place :: len(self._kinds)]
            if kind == TEXT:
                text = _strings(column)
            elif kind == PADDING:
                if not _is_noise(b"".join(column)):
                    return None
            elif _numbers(column) != list(range(self._number + 1, self._number + 1 + len(bodies))):
                return None
        return text


class Shape(NamedTuple):
    """How to read a frame whose holes are of certain kinds."""

    match: Callable[[bytes, int], re.Match[bytes] | None]
    """Groups are the holes, and the bytes after each."""
    text: int
    number: int | None
    """Which groups hold the text and the number."""


@lru_cache(maxsize=256)
def _shape(kinds: tuple[int, ...], lengths: tuple[int, ...]) -> Shape:
    """The shape of frames with holes of these kinds, and so many bytes after each.

    Which bytes they are is not in the pattern: they may name the stream, and a pattern is dear to make.
    """
    parts = (HOLES[kind] + b"(.{%d})" % length for kind, length in zip(kinds, lengths, strict=True))
    match = re.compile(b"".join(parts), re.DOTALL).fullmatch
    return Shape(match, 2 * kinds.index(TEXT), 2 * kinds.index(NUMBER) if NUMBER in kinds else None)


def has_line_end(literal: bytes) -> bool:
    """Whether what stands between holes has a line end, which on the wire would end the `data` line."""
    return LF in literal or CR in literal


def _bodies(window: Sequence[bytes], prefix: bytes, suffix: bytes) -> list[bytes] | None:
    """What stands between prefix and suffix in each frame; None if some frame has others.

    All are cut unseen; whether the cuts were right shows when the window is put together again.
    """
    bodies = list(map(itemgetter(slice(len(prefix), -len(suffix))), window))
    if prefix + (suffix + b"\n" + prefix).join(bodies) + suffix != b"\n".join(window):
        return None
    return bodies


def _bodies_before_another(window: Sequence[bytes], prefix: bytes, suffix: bytes) -> Iterator[bytes]:
    """The same, one by one, up to a frame that has others."""
    for payload in window:
        body = _body_of(payload, prefix, suffix)
        if body is None:
            return
        yield body


def _body_of(payload: bytes, prefix: bytes, suffix: bytes) -> bytes | None:
    """What stands between prefix and suffix in one frame; None if it has others."""
    if not payload.startswith(prefix) or not payload.endswith(suffix):
        return None
    stop = len(payload) - len(suffix)
    # Where the two overlap it is not JSON.
    return payload[len(prefix) : stop] if stop >= len(prefix) else None


def _numbers(digits: list[bytes]) -> list[int] | None:
    """The integers that these bytes spell in JSON, or None when one of them is none."""
    try:
        return _integers(b"[" + b",".join(digits) + b"]")
    except msgspec.DecodeError:
        return None


def _strings(bodies: list[bytes]) -> bytes | None:
    """The strings that JSON string bodies spell, as one piece of UTF-8, or None when one of them is not one.

    They are joined by a character that JSON allows in a string but in no escape and in no other character, so that
    nothing that is cut apart between two of them can pass.
    """
    marked = MARK.join(bodies)
    if marked.count(MARK) != len(bodies) - 1:
        return None
    try:
        text = _string(b'"' + marked + b'"')
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    utf8 = text.encode()
    # An escape may spell the mark: then it is text, and cannot be told from the others.
    return utf8.replace(MARK, b"") if utf8.count(MARK) == len(bodies) - 1 else None


def utf8(body: bytes) -> bytes | None:
    """The string that a JSON string body spells, as UTF-8, or None when it is not one."""
    if BACKSLASH not in body and QUOTE not in body:
        try:
            if body.decode().isprintable():
                return body
        except UnicodeDecodeError:
            return None
        # A control character is not allowed in a JSON string; what is not printable is left to the decoder.
    try:
        return _string(b'"' + body + b'"').encode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
