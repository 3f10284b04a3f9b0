"""What every framing has in common: the shape of its answers, and how it counts what went wrong.

A framer takes the bytes of a body exactly as they were read, cut anywhere, and gives back *frames*: the payloads, and
beside them the event names if the framing has names. Four rules hold for all of them:

* **The cuts do not matter.** The frames, their names, the codes and the counts are a function of the body alone.
  (`Raw`, which has no frames, is the one exception.) So a rule may depend on what the bytes say, never on where a
  read ended.
* **Nothing raises.** What breaks the framing is counted and given a code; the framer goes on at the next frame.
* **Memory is bounded.** A frame that outgrows `max_frame_bytes` is thrown away up to its end. The test is written so
  that it answers the same for a frame seen whole and for one seen a byte at a time: a prefix is never longer than the
  whole.
* **Idle is tiny.** There is one framer per live stream, so nothing is allocated until there is something to put in it.

The codes, all of them:

| code | means |
|---|---|
| `unterminated_event` | the body ended before the last event or line did; what there was of it is handed on |
| `truncated_frame` | the body ended inside a JSON value (handed on) or a binary message (useless, so dropped) |
| `unterminated_array` | the body ended before the `]` of an array of frames |
| `corrupt_frame` | a checksum or a length cannot be right; the bytes are dropped |
| `oversized_event` | a frame longer than `max_frame_bytes` was dropped |
| `junk_line` | text that belongs to no frame was dropped |
"""

from typing import Final, Protocol, TypeAlias

__all__ = [
    "BOM",
    "CORRUPT_FRAME",
    "DEFAULT_MAX_FRAME_BYTES",
    "JUNK_LINE",
    "OVERSIZED_EVENT",
    "TRUNCATED_FRAME",
    "UNTERMINATED_ARRAY",
    "UNTERMINATED_EVENT",
    "Framer",
    "Frames",
    "Readable",
    "Tally",
    "after_bom",
]

Frames: TypeAlias = tuple[list[bytes], list[str | None] | None]
"""Payloads, and the parallel list of event names; `None` in its place when no frame of this feed has a name."""

Readable: TypeAlias = bytes | bytearray | memoryview

UNTERMINATED_EVENT: Final = "unterminated_event"
TRUNCATED_FRAME: Final = "truncated_frame"
UNTERMINATED_ARRAY: Final = "unterminated_array"
CORRUPT_FRAME: Final = "corrupt_frame"
OVERSIZED_EVENT: Final = "oversized_event"
JUNK_LINE: Final = "junk_line"

DEFAULT_MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""A 4K image in base64 is about 20 MB; AWS allows 24 MB a message. Beyond this it is an attack or a bug."""

BOM: Final = b"\xef\xbb\xbf"


class Framer(Protocol):
    """Bytes in, frames out. One object per body; not thread-safe, and not to be used again after `close`."""

    def feed(self, data: bytes, /) -> Frames:
        """Takes the next bytes of the body and returns the frames that they complete. Never raises on bad content."""

    def close(self) -> Frames:
        """The body is over: returns what was still held, leniently, and says so with a code."""

    @property
    def pending(self) -> int:
        """Bytes held back right now, waiting for the rest of their frame."""

    @property
    def malformed(self) -> int:
        """Frames that broke the framing: bad checksum, impossible length, too long."""

    @property
    def dropped_bytes(self) -> int:
        """Bytes that could not become part of a frame and were thrown away. Separators and comments are not counted."""

    @property
    def anomalies(self) -> set[str]:
        """The codes seen so far."""


class Tally:
    """The counts that every framer keeps. The set of codes is made when it is needed: most bodies have none."""

    __slots__ = ("_codes", "dropped_bytes", "malformed")

    def __init__(self) -> None:
        self.malformed = 0
        self.dropped_bytes = 0
        self._codes: set[str] | None = None

    @property
    def anomalies(self) -> set[str]:
        return set() if self._codes is None else self._codes

    def _note(self, code: str) -> None:
        if self._codes is None:
            self._codes = set()
        self._codes.add(code)

    def _drop(self, code: str, size: int) -> None:
        """Counts `size` bytes of a frame that broke the framing."""
        self._note(code)
        self.malformed += 1
        self.dropped_bytes += size

    def _junk(self, size: int) -> None:
        """Counts `size` bytes that are no part of any frame."""
        self._note(JUNK_LINE)
        self.dropped_bytes += size


def after_bom(start: bytes) -> bytes | None:
    """The start of a text without its byte order mark; `None` while it could still turn out to be one."""
    if len(start) < len(BOM) and BOM.startswith(start):
        return None
    return start.removeprefix(BOM)
