"""Which framing a body has, told from its first bytes, and a framer that finds out by itself.

A body of one framing can hardly be taken for another, since they begin differently: binary messages with a length (so
a NUL), arrays with `[`, objects with `{`, events with a field name or a colon. Two need a longer look. `[` may be the
`[DONE]` line of a recording with one payload per line. And `{` may begin a line (NDJSON) or a pretty-printed
document: a first line that ends in `}` is a line, else it is a document. A body of one object on one line is both,
and both framers give the same frames, so nothing is lost by waiting for only so long.

What is odd: the answer must not depend on how the body was cut. So the rules look at positions in the body (its first
line, its first `WINDOW` bytes), never at how much happens to be here; undecided bytes wait.
"""

from typing import Final

from streamfold.framing.aws_eventstream import PRELUDE_SIZE, AWSEventStream, lengths_fit
from streamfold.framing.framer import DEFAULT_MAX_FRAME_BYTES, Framer, Frames, Readable, after_bom
from streamfold.framing.json_text import JSONText
from streamfold.framing.ndjson import NDJSON
from streamfold.framing.raw import Raw
from streamfold.framing.sse import SSE

__all__ = ["FRAMINGS", "AutoFramer", "detect", "framer_of"]

FRAMINGS: Final[dict[str, type[SSE] | type[NDJSON] | type[JSONText] | type[AWSEventStream] | type[Raw]]] = {
    "sse": SSE,
    "ndjson": NDJSON,
    "json": JSONText,
    "aws-eventstream": AWSEventStream,
    "raw": Raw,
}

WINDOW: Final = 64 * 1024
WHITE_SPACE: Final = b" \t\r\n"
DONE: Final = b"[DONE]"
FEW: Final = 32  # longer than this, an undecided body is waiting for its first line end


def detect(first: bytes, at_end: bool = False) -> str | None:
    """The name of the framing of a body that begins with these bytes; `None` if more of them are needed.

    Only the first 64 KiB count. With `at_end` the bytes are the whole body, and only an empty one gives `None`.
    Errors: none. Source: the framings' own specifications, and what providers send.
    """
    window = first[:WINDOW]
    full = len(window) == WINDOW
    unmarked = after_bom(window)
    body = (window if unmarked is None else unmarked).lstrip(WHITE_SPACE)
    if unmarked is None and not at_end:
        return None
    if not body:
        return "sse" if full else None
    if first.startswith(b"\0"):
        return detect_binary(window, at_end)
    if body.startswith(b"["):
        return detect_array(body, full or at_end)
    if body.startswith(b"{"):
        return detect_object(body, full, at_end)
    return "sse" if begins_text(body) else "raw"


def framer_of(first: bytes) -> Framer:
    """The framer of a body that begins with these bytes; one that goes on looking when they do not tell."""
    framing = detect(first)
    return FRAMINGS[framing]() if framing is not None else AutoFramer()


def detect_binary(window: bytes, at_end: bool) -> str | None:
    """A NUL: a message under 16 MiB, if its lengths are possible. The checksum is not asked: it may be the damage."""
    if len(window) < PRELUDE_SIZE:
        return "aws-eventstream" if at_end else None
    total, headers_length = int.from_bytes(window[:4], "big"), int.from_bytes(window[4:8], "big")
    return "aws-eventstream" if lengths_fit(total, headers_length) else "raw"


def detect_array(body: bytes, decide: bool) -> str | None:
    if body.startswith(DONE):
        return "ndjson"
    return None if DONE.startswith(body) and not decide else "json"


def detect_object(body: bytes, full: bool, at_end: bool) -> str | None:
    line, line_end, _ = body.replace(b"\r", b"\n").partition(b"\n")
    if not line_end:
        # One object on one line so far. The document framer is right either way; the line framer only at a line's end.
        return "json" if full else None if not at_end else "ndjson" if ends_object(line) else "json"
    return "ndjson" if ends_object(line) else "json"


def ends_object(line: bytes) -> bool:
    return line.rstrip(WHITE_SPACE).endswith(b"}")


def begins_text(body: bytes) -> bool:
    """Whether UTF-8 text may begin so: no control character, and no byte that cannot lead a character."""
    return 0x20 <= body[0] < 0x7F or 0xC2 <= body[0] <= 0xF4


class AutoFramer:
    """Holds bytes back until `detect` knows the framing, then hands everything to the framer of that name.

    From then on `inner` is that framer and `framing` its name; whoever feeds a hot loop may take `inner` and leave this
    object out. Errors: none. Source: see `detect`.
    """

    __slots__ = ("_held", "_max", "framing", "inner")

    def __init__(self, *, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        self.framing: str | None = None
        self.inner: Framer | None = None
        self._max = max_frame_bytes
        self._held = bytearray()

    @property
    def pending(self) -> int:
        return len(self._held) if self.inner is None else self.inner.pending

    @property
    def malformed(self) -> int:
        return 0 if self.inner is None else self.inner.malformed

    @property
    def dropped_bytes(self) -> int:
        return 0 if self.inner is None else self.inner.dropped_bytes

    @property
    def anomalies(self) -> set[str]:
        return set() if self.inner is None else self.inner.anomalies

    def feed(self, data: Readable) -> Frames:
        """Takes bytes as read and returns the frames that they complete, once it is known what a frame is."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if self.inner is not None:
            return self.inner.feed(data)
        undecided = len(self._held)
        self._held += data
        # Without this a long first line, a byte at a time, would be looked at from its start each time.
        if undecided > FEW and b"\n" not in data and b"\r" not in data and len(self._held) < WINDOW:
            return [], None
        return self._decided(detect(bytes(self._held)))

    def close(self) -> Frames:
        """The body is over: decides with what there is, and closes the framer."""
        if self.inner is not None:
            return self.inner.close()
        payloads, names = self._decided(detect(bytes(self._held), at_end=True))
        if self.inner is None:
            self._held.clear()  # white space, or nothing at all
            return [], None
        more, more_names = self.inner.close()
        if names is not None or more_names is not None:
            names = (names or [None] * len(payloads)) + (more_names or [None] * len(more))
        return payloads + more, names

    def _decided(self, framing: str | None) -> Frames:
        if framing is None:
            return [], None
        held, self._held = bytes(self._held), bytearray()
        self.framing = framing
        self.inner = FRAMINGS[framing](max_frame_bytes=self._max)
        return self.inner.feed(held)
