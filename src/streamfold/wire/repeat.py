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

* The cut is proved, not guessed: the frame with probes in its holes must decode to the same document with the probes.
* The hole must hold a valid string body. Without backslash, quote or control character that is seen at once; with
  one, the JSON decoder judges. Anything doubtful is a miss, and a miss takes the complete way.
* Some frames carry more that changes and means nothing to the answer: OpenAI's `obfuscation` (padding against traffic
  analysis), the `sequence_number` of the Responses API, and what a format calls its `noise` (Ollama's `created_at`).
  They are holes as well; so are the spaces that Anthropic pads with.
* Any other frame in between ends the pattern: it may have changed what the pattern takes as unchanged.

Frames that repeat mostly come in runs, and a run is folded without a look at each of its frames: cut apart at what is
always the same, its holes are judged and joined together (`_text`). Given unframed bytes, that even spares the framing
(`skim`). One frame at a time (`_body`) is for what the other way cannot settle: the frames before one that is odd.
Holes that all stand at one level have a quicker way still (`flat.py`). And a format whose frames name no stream may
know beforehand how they are spelled, and make a pattern of the first one undecoded (`anthropic_messages.py`).

A pattern lives as long as its stream, so it holds no more than the frame's own bytes.
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
from streamfold.wire.flat import Flat, Holes, shared_flat

__all__ = ["NoisyRepeat", "Repeat", "SpacedRepeat", "cut", "utf8"]

TEXT: Final = 0
PADDING: Final = 1
NUMBER: Final = 2
"""Kinds of holes."""

LF: Final = 10
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


@lru_cache(maxsize=1024)
def _once(value: Any) -> Any:
    """The value, held once for all streams that have it: frames of one provider differ little behind their holes."""
    return value


CANDIDATES: Final = 4
"""Places looked at for a key that occurs again and again in a frame; far down is not worth the search."""

_BODY = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_DIGITS = re.compile(rb"\d*")
_is_noise = re.compile(rb"[0-9A-Za-z:.+_-]+").fullmatch
"""Padding and timestamps: none of it ends, or has to be escaped in, a JSON string."""
HOLES: Final = {
    TEXT: rb'([^"\\\x00-\x1f]*+(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*+)*+)',
    PADDING: rb"([0-9A-Za-z:.+_-]++)",
    NUMBER: rb"(\d++)",
}
"""What each kind of hole looks like. Possessive, so that a frame that does not fit costs no more than its length."""
_PROBE = b"\\u0001probe"
_PROBE_TEXT = "\x01probe"
_PROBE_NUMBER = b"9007199254740991"
_string = msgspec.json.Decoder(str).decode
_integers = msgspec.json.Decoder(list[int]).decode


class Repeat:
    """One frame cut around its one hole, and where its text goes.

    What stands between prefix and suffix is the frame's *body*; here it is the hole's string itself.
    """

    __slots__ = ("_begin", "_end", "_flags", "_lead", "_sink", "_window", "hits")

    def __init__(self, prefix: bytes, suffix: bytes, target: Text, flags: int) -> None:
        # The prefix after what leads to it on the wire, the suffix before what ends it there; see `skim`.
        self._lead = b""
        self._begin = prefix
        self._end = suffix
        self._sink = target.open()  # it has text already, for the frame that is repeated brought some
        self._flags = flags
        self._window = FEW
        self.hits = 0
        """Frames folded this way so far."""

    def skim(self, data: bytes, at: int, lead: bytes) -> tuple[int, int]:
        """Folds the events of an SSE body, from `at` on, that repeat this frame: each `lead`, payload, blank line.

        Returns how many bytes they were, and the flags of what was folded. A window of them at most.
        """
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
        self._lead, self._begin, self._end = lead, lead + self._prefix, _once(end)

    def payload(self, payload: bytes) -> int | None:
        """Folds a payload that came alone; None if it does not repeat this frame."""
        if self._lead:
            self._follow(b"")
        return self.one(payload)

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


class SpacedRepeat(Repeat):
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


class NoisyRepeat(Repeat):
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
        self._kinds: tuple[int, ...] = _once(tuple(kinds))
        self._between: tuple[bytes, ...] = _once(tuple(literals[1:-1]))
        self._number = number
        self._follow(b"")

    @property
    def number(self) -> int:
        """The number of the last frame, where frames are numbered."""
        return self._number

    def _follow(self, lead: bytes) -> None:
        super()._follow(lead)
        self._after: tuple[bytes, ...] = _once((*self._between, self._end))
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
        start = 0
        between = self._between
        for at, kind in enumerate(self._kinds):
            if at < len(between):
                literal = between[at]
                # Searching one byte is several times quicker than searching the literal that begins with it.
                end = body.find(literal[0], start)
                hole = body[start:end]
                start = end + len(literal)
                if body[end:start] != literal:
                    return self._body_searched(body, place)
            else:
                hole = body[start:]
            if kind == TEXT:
                text = utf8(hole)
                if text is None:
                    return None
            elif not self._means_nothing(kind, hole, place):
                return None
        return text

    def _body_searched(self, body: bytes, place: int) -> bytes | None:
        """The same for a body in whose text a literal seems to begin (an escaped quote)."""
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


def cut(
    payload: bytes,
    event: dict[str, Any],
    path: tuple[str | int, ...],
    target: Text,
    flags: int,
    *,
    numbered: bool = True,
    noise: Sequence[str] = (),
) -> Repeat | None:
    """Cuts a folded frame around the string at `path`; None when that cannot be proved to be right.

    `event` is the decoded `payload`. Top-level `obfuscation` and `noise` become holes too, and `sequence_number` where
    events are `numbered` (some servers give all of them the same number).
    """
    wanted: list[tuple[tuple[str | int, ...], int]] = [(path, TEXT)]
    wanted += [((key,), PADDING) for key in ("obfuscation", *noise) if isinstance(event.get(key), str)]
    number = event.get("sequence_number")
    if numbered and isinstance(number, int):
        wanted.append((("sequence_number",), NUMBER))
    try:
        spans = _holes(payload, event, wanted)
    except RecursionError:  # nested too deeply to be compared
        return None
    if spans is None:
        return None
    literals: list[bytes] = []
    kinds: list[int] = []
    at = 0
    for start, end, kind in sorted(spans):
        literals.append(payload[at:start])
        kinds.append(kind)
        at = end
    literals.append(payload[at:])
    if not all(literals[1:]):
        return None
    if len(kinds) == 1:
        return Repeat(literals[0], literals[1], target, flags)
    reader = None
    if len(path) == 1:
        body = payload[len(literals[0]) : len(payload) - len(literals[-1])]
        padding = tuple(str(where[0]) for where, kind in wanted if kind == PADDING)
        holes = Holes(str(path[0]), "sequence_number" if NUMBER in kinds else None, padding)
        reader = shared_flat(tuple(kinds), tuple(literals[1:-1]), body, event, holes)
    return NoisyRepeat(literals, kinds, target, flags, number if isinstance(number, int) else 0, reader)


Wanted = tuple[tuple[str | int, ...], int]
"""Where in a document a hole is meant to be, and its kind."""

Span = tuple[int, int, int]
"""Where in a payload a hole begins and ends, and its kind."""


def _holes(payload: bytes, event: dict[str, Any], wanted: list[Wanted]) -> list[Span] | None:
    """Where in the payload the values stand, proved by probes; None if one of them cannot be found.

    As a rule each key occurs once, so all are proved at once. If not, each hole is sought for itself.
    """
    first = [(*next(_candidates(payload, str(path[-1]), kind), (0, 0)), kind) for path, kind in wanted]
    if _proved(payload, event, wanted, first):
        return first
    found: list[Span] = []
    for each in wanted:
        path, kind = each
        spans = ((start, end, kind) for start, end in _candidates(payload, str(path[-1]), kind))
        span = next((span for span in spans if _proved(payload, event, [each], [span])), None)
        if span is None:
            return None
        found.append(span)
    return found


def _proved(payload: bytes, event: dict[str, Any], wanted: list[Wanted], spans: list[Span]) -> bool:
    """Whether the payload with probes in these places is the event with the same probes as the wanted values."""
    pieces: list[bytes] = []
    at = 0
    for start, end, kind in sorted(spans):
        if start < at:
            return False
        pieces += payload[at:start], _PROBE_NUMBER if kind == NUMBER else _PROBE
        at = end
    probed = _decoded(b"".join((*pieces, payload[at:])))
    parents = []
    for path, _ in wanted:
        parent: Any = event
        for step in path[:-1]:
            parent = parent[step]
        parents.append((parent, path[-1], parent[path[-1]]))
    try:
        for (parent, key, _), (_, kind) in zip(parents, wanted, strict=True):
            parent[key] = int(_PROBE_NUMBER) if kind == NUMBER else _PROBE_TEXT
        return bool(probed == event)
    finally:
        for parent, key, original in parents:
            parent[key] = original


def _candidates(payload: bytes, key: str, kind: int) -> Iterator[tuple[int, int]]:
    """Where a value of this key may stand: the key can occur elsewhere in the frame, or inside a string of it."""
    body = _DIGITS if kind == NUMBER else _BODY
    for colon in (b'":', b'": '):
        needle = b'"' + key.encode() + colon + (b"" if kind == NUMBER else b'"')
        start = 0
        for _ in range(CANDIDATES):
            at = payload.find(needle, start)
            if at < 0:
                break
            start = at + len(needle)
            found = body.match(payload, start)
            yield start, found.end() if found else start


def _decoded(payload: bytes) -> Any:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
