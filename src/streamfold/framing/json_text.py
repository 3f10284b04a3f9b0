"""JSON texts without any framing: an array whose elements arrive one by one, or whole documents.

Gemini without `alt=sse` streams one JSON array, pretty-printed, and never a line per element. An unstreamed response
or an error body is one document over many lines. Some proxies write documents one after the other. All three are
sequences of JSON values (RFC 8259), and a value ends where its brackets close; so the framer finds ends of values,
and decodes nothing.

The rules: outside of values, white space and commas separate. A `[` there opens an array of frames and a `]` closes
it. An object, a string, a number, `true`, `false` or `null` is a frame; so is an array inside the array, and OpenAI's
end marker `[DONE]`, which looks like an array of a word. Brackets of both kinds are only counted: whether `{]` is JSON
is the decoder's business. Anything else is junk.

How it stays linear: the regular expressions are written so that they never go back (possessive). One tries for a
whole value at once; most values come whole, and it is the quickest. If that fails, which can happen once a value,
another runs over strings and everything else up to the next bracket; if it stops at a quote, that string is not
finished yet, and from then on the next read is searched for the closing quote only. `_position` says how far the held
bytes have been looked at; it only grows. At most the last byte is looked at twice: a backslash whose partner has not
come.

What must be changed together: `_kind`, `_depth`, `_in_string` and `_position` describe the value that begins at
offset 0 of `_held`.
"""

import re
from typing import Final, Literal, TypeAlias

from streamfold.framing.framer import (
    DEFAULT_MAX_FRAME_BYTES,
    OVERSIZED_EVENT,
    TRUNCATED_FRAME,
    UNTERMINATED_ARRAY,
    Frames,
    Readable,
    Tally,
    after_bom,
)

__all__ = ["JSONText"]

QUOTE: Final = 0x22
DONE: Final = b"DONE"
OPENING: Final = frozenset(b"[{")

SEPARATORS: Final = re.compile(rb"[ \t\r\n,]*+")
WORD: Final = re.compile(rb'[^ \t\r\n,\[\]{}"]*+')
SCALAR: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")

# The rest of a string up to its quote, and anything up to a bracket. Loops are unrolled (plain, then special and plain
# again, any number of times), which halves the time of `(?:plain|special)*`.
IN_STRING: Final = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
BETWEEN: Final = rb'[^"\[\]{}]*+(?:"' + IN_STRING + rb'"[^"\[\]{}]*+)*+'
TO_QUOTE: Final = re.compile(IN_STRING, re.DOTALL)
TO_BRACKET: Final = re.compile(BETWEEN, re.DOTALL)
LEVELS: Final = 8  # a Gemini function call has seven


def nested(levels: int) -> bytes:
    """A pattern for a bracketed value with so many levels of brackets inside."""
    inside = BETWEEN
    for _ in range(levels):
        inside = BETWEEN + rb"(?:[\[{]" + inside + rb"[\]}]" + BETWEEN + rb")*+"
    return rb"[\[{]" + inside + rb"[\]}]"


WHOLE_VALUE: Final = re.compile(nested(LEVELS), re.DOTALL)

Kind: TypeAlias = Literal["", "nested", "string", "word"]
Bytes: TypeAlias = bytes | bytearray


class JSONText(Tally):
    """JSON values in a row or in an array, cut anywhere, to one payload per value.

    Errors: none is raised; `anomalies` may come to hold `truncated_frame`, `unterminated_array`, `oversized_event` and
    `junk_line`. Source: RFC 8259.
    """

    __slots__ = ("_at_start", "_depth", "_held", "_in_array", "_in_string", "_kind", "_max", "_position", "_skipping")

    def __init__(self, *, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        super().__init__()
        self._max = max_frame_bytes
        self._held: Bytes = b""  # the unfinished value; a bytearray once there is one
        self._position = 0  # how far `_held` has been looked at
        self._kind: Kind = ""  # of the unfinished value; "" between values
        self._depth = 0
        self._in_string = False
        self._in_array = False
        self._skipping = False  # inside a value that is too long
        self._at_start = True

    @property
    def pending(self) -> int:
        return len(self._held)

    def feed(self, data: Readable) -> Frames:
        """Takes bytes as read and returns the values that they complete."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if self._at_start:
            data = self._started(data)
            if self._at_start:
                return [], None
        text: Bytes = data
        if self._held:
            if isinstance(self._held, bytes):
                self._held = bytearray(self._held)
            self._held += data
            text = self._held
        payloads: list[bytes] = []
        start = 0  # of the current value in `text`
        while True:
            if not self._kind:
                start = self._next(text, start)
                if start == len(text):
                    break
            end = self._end(text)
            if end < 0:
                break
            self._finish(bytes(text[start:end]), payloads)
            start = end
        self._keep(text, start)
        return payloads, None

    def close(self) -> Frames:
        """Returns an unfinished value as it is, with the code `truncated_frame`, so that nothing is lost."""
        payloads: list[bytes] = []
        rest = bytes(self._held)
        if self._in_array:
            self._note(UNTERMINATED_ARRAY)
        if self._kind == "word" or (rest and self._skipping):
            self._finish(rest, payloads)
        elif self._kind and rest:
            payloads.append(rest)
            self._note(TRUNCATED_FRAME)
        elif rest:
            self._junk(len(rest))  # half a byte order mark
        self._held = b""
        self._kind = ""
        self._in_array = False
        return payloads, None

    def _started(self, data: bytes) -> bytes:
        start = bytes(self._held) + data
        started = after_bom(start)
        if started is None:
            self._held = start
            return b""
        self._held = b""
        self._at_start = False
        return started

    def _next(self, text: Bytes, at: int) -> int:
        """Where the next value begins, and of which kind it is; the end of the text if there is none yet."""
        while True:
            at = match_end(SEPARATORS, text, at)
            if at == len(text):
                return at
            byte = text[at : at + 1]
            if byte == b"[" and not self._in_array:
                self._in_array = True
            elif byte == b"]" and self._in_array:
                self._in_array = False
            elif byte in (b"]", b"}"):
                self._junk(1)
            else:
                self._kind = "nested" if text[at] in OPENING else "string" if text[at] == QUOTE else "word"
                self._in_string = False
                self._depth = 0
                self._position = at
                return at
            at += 1

    def _end(self, text: Bytes) -> int:
        """Where the current value ends; -1 if it goes on beyond the text."""
        if self._kind == "nested":
            return self._nested_end(text)
        if self._kind == "string":
            return self._string_end(text)
        self._position = match_end(WORD, text, self._position)
        return self._position if self._position < len(text) else -1

    def _string_end(self, text: Bytes) -> int:
        if not self._in_string:
            self._in_string = True
            self._position += 1  # the opening quote
        at = match_end(TO_QUOTE, text, self._position)
        self._position = at
        if at == len(text) or text[at] != QUOTE:
            return -1
        self._in_string = False
        self._position = at + 1
        return at + 1

    def _nested_end(self, text: Bytes) -> int:
        size = len(text)
        at = self._position
        depth = self._depth
        if depth == 0:
            end = match_end(WHOLE_VALUE, text, at)
            if end > at:
                return end
        if self._in_string:
            at = self._string_end(text)
            if at < 0:
                return -1
        while True:
            at = match_end(TO_BRACKET, text, at)
            if at == size:
                break
            byte = text[at]
            if byte == QUOTE:
                self._position = at
                self._depth = depth
                self._string_end(text)
                return -1
            depth += 1 if byte in OPENING else -1
            at += 1
            if depth == 0:
                return at
        self._position = at
        self._depth = depth
        return -1

    def _finish(self, value: bytes, payloads: list[bytes]) -> None:
        """Hands on a complete value, or counts it."""
        kind, self._kind = self._kind, ""
        if self._skipping:
            self._skipping = False
            self.dropped_bytes += len(value)
        elif len(value) > self._max:
            self._drop(OVERSIZED_EVENT, len(value))
        elif kind == "word" and value == DONE and self._in_array:
            payloads.append(b"[DONE]")
        elif kind == "word" and not SCALAR.fullmatch(value):
            self._junk(len(value))
        else:
            payloads.append(value)

    def _keep(self, text: Bytes, start: int) -> None:
        """Holds the unfinished value from `start` on; or counts it, once it is too long."""
        if self._skipping or len(text) - start > self._max:
            # Only what has not been looked at is still needed: nothing, or one backslash.
            if not self._skipping:
                self._drop(OVERSIZED_EVENT, 0)
                self._skipping = True
            self.dropped_bytes += self._position - start
            start = self._position
        if start == len(text):
            self._held = b""
        elif isinstance(text, bytes):
            self._held = text[start:]
        else:
            del text[:start]
        self._position -= start


def match_end(pattern: re.Pattern[bytes], text: Bytes, at: int) -> int:
    """How far a pattern reaches that may match nothing. No match object outlives the call: it would lock the text."""
    match = pattern.match(text, at)
    return at if match is None else match.end()
