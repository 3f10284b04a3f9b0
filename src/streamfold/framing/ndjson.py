"""NDJSON: one JSON text per line (Ollama, Cohere v1, recordings with one payload per line).

The rules: UTF-8, lines end in LF, CRLF is tolerated, blank lines may be ignored. JSON allows no raw CR or LF inside a
string, so a line end is always a frame end, and a CR can be read as a LF: the blank line that a CRLF then leaves is
skipped like any other.

What is odd: recordings are often half SSE. A line `data: {...}` gives its value; a comment, `event:`, `id:` or
`retry:` line is no JSON text and is dropped as junk. Every other line is handed on as it is, `[DONE]` and broken JSON
too: whether it can be decoded is the decoder's business. The last line needs no line end if it looks complete.
"""

from typing import Final

from streamfold.framing.framer import (
    DEFAULT_MAX_FRAME_BYTES,
    OVERSIZED_EVENT,
    UNTERMINATED_EVENT,
    Frames,
    Readable,
    Tally,
    after_bom,
)

__all__ = ["NDJSON"]

LF: Final = 10
CR: Final = 13

# How a JSON text may end that cannot have been cut: a number or a word might have been longer.
COMPLETE_ENDS: Final = (b"}", b"]", b'"')
SSE_JUNK: Final = (b":", b"event:", b"id:", b"retry:")


class NDJSON(Tally):
    """Newline-delimited JSON, cut anywhere, to one payload per line.

    Errors: none is raised; `anomalies` may come to hold `unterminated_event`, `oversized_event` and `junk_line`.
    Source: the NDJSON specification (ndjson-spec 1.0), JSON Lines.
    """

    __slots__ = ("_at_start", "_max", "_skipping", "_tail")

    def __init__(self, *, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        super().__init__()
        self._max = max_frame_bytes
        self._tail: bytes | bytearray = b""  # since the last line end; a bytearray once it grows in crumbs
        self._at_start = True
        self._skipping = False  # inside a line that is too long

    @property
    def pending(self) -> int:
        return len(self._tail)

    def feed(self, data: Readable) -> Frames:
        """Takes bytes as read and returns the lines that they complete."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if self._at_start:
            data = self._started(data)
        if CR in data:
            data = data.replace(b"\r", b"\n")
        end = data.rfind(b"\n")
        if end < 0:
            self._hold(data)
            return [], None
        lines = data[:end].split(b"\n")
        if self._tail or self._skipping:
            lines[0] = self._finished(lines[0])
        payloads: list[bytes] = []
        for line in lines:
            # The usual line, without the call.
            if line.startswith(b"{") and len(line) <= self._max:
                payloads.append(line)
            else:
                self._line(line, payloads)
        rest = data[end + 1 :]
        if rest:
            self._hold(rest)
        return payloads, None

    def close(self) -> Frames:
        """Returns a last line without a line end; `unterminated_event` if it does not look complete."""
        payloads: list[bytes] = []
        self._line(self._finished(b""), payloads)
        if payloads and not payloads[0].rstrip().endswith(COMPLETE_ENDS):
            self._note(UNTERMINATED_EVENT)
        return payloads, None

    def _started(self, data: bytes) -> bytes:
        start = bytes(self._tail) + data
        started = after_bom(start)
        if started is None:
            self._tail = start
            return b""
        self._tail = b""
        self._at_start = False
        return started

    def _hold(self, data: bytes) -> None:
        """Keeps the start of a line; or counts it, once the line is too long."""
        if self._skipping:
            self.dropped_bytes += len(data)
            return
        if not self._tail:
            self._tail = data
        elif data:
            if isinstance(self._tail, bytes):
                self._tail = bytearray(self._tail)
            self._tail += data
        if len(self._tail) > self._max:
            self._drop(OVERSIZED_EVENT, len(self._tail))
            self._tail = b""
            self._skipping = True

    def _finished(self, rest: bytes) -> bytes:
        """The held line with its rest; nothing, if the line was too long."""
        if self._skipping:
            self._skipping = False
            self.dropped_bytes += len(rest)
            return b""
        line = b"".join((self._tail, rest)) if self._tail else rest
        self._tail = b""
        return line

    def _line(self, line: bytes, payloads: list[bytes]) -> None:
        if len(line) > self._max:
            self._drop(OVERSIZED_EVENT, len(line))
            return
        if line.startswith(SSE_JUNK):
            self._junk(len(line))
            return
        payload = line.removeprefix(b"data:").removeprefix(b" ") if line.startswith(b"data:") else line
        if payload and not payload.isspace():
            payloads.append(payload)
