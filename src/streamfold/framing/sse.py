"""Server-sent events: the framing of nearly every provider.

The rules (WHATWG HTML 9.2): one byte order mark may lead. Lines end in LF, CR or CRLF. A blank line ends the event. A
line is `field: value`, with exactly one optional space after the colon; a line without a colon is a field with an empty
value; a line that begins with a colon is a comment. `data` lines are joined with LF, the last `event` line names the
event, `id` and `retry` are of no use to a fold, other fields are ignored. An event without data is not an event, so
comments and keep-alives yield nothing.

Where this differs from the letter, on purpose:

* An event whose data is the empty string (a lone `data:`) is not handed on: the letter fires it, but there is nothing
  in it to fold.
* The last event of a body that ends too early is handed on by `close`, with a code; the letter throws it away.
* A block that begins with `{` is handed on as it is: somebody on the way wrote an error between the events.
* An `error` field with an object is an event of that name: so did llama.cpp tell of failures until late in 2025.
* Any other line that is not even a field (HTML of an error page) is dropped as the letter says, but counted.

How it goes fast. Line ends become LF at the door, which loses nothing since a line cannot hold a CR; after that an
event is a *block* between blank lines. Providers write nearly every block with the same bytes before the payload, its
*head*: `data: `, or `event: content_block_delta\\ndata: `. So the framer remembers the last head and splits a read at
`\\n\\n` + head, which is one call into C for any number of events and leaves exactly the payloads. That is right if
and only if no piece holds a LF (else it is another event, or one with several lines), none is empty, and none begins
with a space that the head did not take. Whatever fails that test goes block by block (`_each`), and what has an
unusual shape there goes line by line (`_lines`), which is the specification spelled out. All three agree; the tests
see to it.

Most events need not be cut off at all: `StreamAccumulator` folds them in the bytes as they were read (see
`wire/repeat.py`). It takes over what is held here (`begun`), cuts off single events between runs (`cut`), and gives
back what is left of the read (`hold`), or feeds what is not so simple.

What must be changed together: `_head`, `_name`, `_separator` and `_spaced` describe one head. `_unusual` is true while
any of `_at_start`, `_after_cr`, `_skipping` is, so that the usual feed makes one test instead of three.
"""

import re
from functools import lru_cache
from typing import Final

from streamfold.framing.framer import (
    BOM,
    DEFAULT_MAX_FRAME_BYTES,
    OVERSIZED_EVENT,
    UNTERMINATED_EVENT,
    Frames,
    Readable,
    Tally,
    after_bom,
)

__all__ = ["SSE"]

LF: Final = 10  # int needles: `10 in data` is a memchr, `b"\n" in data` is ten times slower on short data
CR: Final = 13

# Held bytes that may be joined to every read anew. A long event in crumbs must be copied once, not again and again.
SHORT: Final = 2048

# Bytes before a payload that are worth keeping; a longer head is somebody's mistake.
LONGEST_HEAD: Final = 256

# Below this a region is a handful of events, and looking for its commonest head would cost more than it saves.
WORTH_A_SAMPLE: Final = 2048

# A payload that sorts after this is not empty and does not begin with a space: one comparison for two questions.
BEFORE_ANY_PAYLOAD: Final = b"!"

# What a field we do not know may look like: the letter ignores it, and so do we. Anything else is junk.
SOME_FIELD: Final = re.compile(rb"[A-Za-z][A-Za-z0-9_-]*:")


class SSE(Tally):
    """Server-sent events, cut anywhere, to payloads and event names.

    Errors: none is raised; `anomalies` may come to hold `unterminated_event`, `oversized_event` and `junk_line`.
    Sizes are counted after line ends have become one byte each. Source: WHATWG HTML, section 9.2.
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_head",
        "_max",
        "_name",
        "_separator",
        "_skipping",
        "_spaced",
        "_tail",
        "_unusual",
    )

    def __init__(self, *, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        super().__init__()
        self._max = max_frame_bytes
        self._tail: bytes | bytearray = b""  # since the last blank line; a bytearray once it grows in crumbs
        self._at_start = True  # a byte order mark may still come
        self._after_cr = False  # the last byte was a CR: a LF right after it is the same line end
        self._skipping = False  # inside an event that is too long
        self._unusual = True  # any of the three above
        self._head = b"data: "
        self._name: str | None = None
        self._separator = b"\n\ndata: "
        self._spaced = True

    @property
    def pending(self) -> int:
        return len(self._tail)

    @property
    def head(self) -> bytes:
        """What stood before the payload of the last event."""
        return self._head

    def begun(self, data: bytes) -> bytes | None:
        """Hands over the held bytes, for a caller that puts them before `data` and uses `cut` on both.

        What it does not cut is to be fed again, or held if no blank line is in it. None when that would not be right
        or not be cheap: between CR and LF, in a long event, where a byte order mark may be.
        """
        if self._at_start and not self._tail and data and not data.startswith(BOM[:1]):
            self._at_start = False
            self._unusual = self._after_cr or self._skipping
        tail = self._tail
        if self._unusual or len(tail) > SHORT:
            return None
        self._tail = b""
        return bytes(tail)

    def grow(self, more: bytes) -> bool:
        """Holds more of a long event. False if these bytes may be anything else than the middle of a line."""
        if self._unusual or not isinstance(self._tail, bytearray) or LF in more or CR in more:
            return False
        self._tail += more
        self._hold(self._tail)
        return True

    def hold(self, rest: bytes) -> None:
        """Takes back what such a caller has left over: the beginning of an event."""
        rest = rest.lstrip(b"\n")
        if rest:
            self._hold(rest)

    def cut(self, data: bytes, at: int) -> tuple[int, bytes, str | None] | None:
        """Takes one event off a text without CRs: where it ends, its payload and its name.

        None if the next event is not complete, or not of the usual shape; then it is for `feed`.
        """
        start = data.find(b"data:", at, at + LONGEST_HEAD) + len(b"data:")
        if data.startswith(b" ", start):
            start += 1
        known = usual(data[at:start]) if start > at else None
        end = data.find(b"\n", start)  # one byte is sought much quicker than two
        if known is None or not start < end <= at + self._max or not data.startswith(b"\n", end + 1):
            return None
        self._head, self._name, self._separator, self._spaced = known
        return end + 2, data[start:end], self._name

    def feed(self, data: Readable) -> Frames:
        """Takes bytes as read and returns the events that they complete."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if self._unusual or CR in data:
            data = self._plain(data)
        if self._tail:
            data = self._joined(data)
        # One event per read, of the same head as the last: what a paced stream is made of.
        head = self._head
        if data.startswith(head) and data.endswith(b"\n\n") and len(data) <= self._max:
            payload = data[len(head) : -2]
            if payload > BEFORE_ANY_PAYLOAD and LF not in payload:
                return [payload], None if self._name is None else [self._name]
        return self._blocks(data)

    def close(self) -> Frames:
        """Returns the last event if its blank line never came, with the code `unterminated_event`."""
        payloads: list[bytes] = []
        names: list[str | None] = []
        if self._tail and not self._skipping:
            self._each(bytes(self._tail), payloads, names)
        if payloads:
            self._note(UNTERMINATED_EVENT)
        self._tail = b""
        return payloads, named(names)

    # -- from bytes to blocks

    def _plain(self, data: bytes) -> bytes:
        """Takes away what the rest of this file need not know of: the mark, CRs, events that are too long."""
        if self._at_start:
            start = bytes(self._tail) + data
            started = after_bom(start)
            self._tail = start if started is None else b""
            if started is None:
                return b""
            self._at_start = False
            data = started
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if CR in data:
            self._after_cr = data[-1] == CR
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._skipping:
            data = self._skipped(data)
        self._unusual = self._after_cr or self._skipping
        return data

    def _joined(self, data: bytes) -> bytes:
        """The held bytes and the new ones, if together they end an event; otherwise nothing, and they are held.

        Only the new bytes are looked at, and the held ones are copied once: a line of 10 MB in crumbs stays linear.
        """
        if not data:
            return b""
        tail = self._tail
        if LF in data and (b"\n\n" in data or (data[0] == LF and tail[-1] == LF)):
            self._tail = b""
            return b"".join((tail, data))
        if isinstance(tail, bytes):
            tail = bytearray(tail)
        tail += data
        self._hold(tail)
        return b""

    def _hold(self, tail: bytes | bytearray) -> None:
        """Keeps the bytes of an unfinished event, unless it is certain that the event will be too long.

        One more than the limit is not certain: the last byte may be the LF of the last line, which is not counted.
        """
        if len(tail) <= self._max + 1:
            self._tail = tail
            return
        last = b"\n" if tail[-1] == LF else b""
        self._drop(OVERSIZED_EVENT, len(tail) - len(last))
        self._tail = last
        self._skipping = self._unusual = True

    def _skipped(self, data: bytes) -> bytes:
        """Throws away up to the blank line, and returns what follows. A last LF is kept: it may be half of it."""
        data = bytes(self._tail) + data
        end = data.find(b"\n\n")
        if end >= 0:
            self.dropped_bytes += end
            self._tail = b""
            self._skipping = False
            return data[end + 2 :]
        self._tail = b"\n" if data.endswith(b"\n") else b""
        self.dropped_bytes += len(data) - len(self._tail)
        return b""

    def _blocks(self, data: bytes) -> Frames:
        """Cuts off the unfinished end and splits the rest, of which every block is complete."""
        # Blank lines before an event mean nothing. They go now, so that a block's length does not depend on the cuts.
        if data.startswith(b"\n"):
            data = data.lstrip(b"\n")
        if not data:
            return [], None
        end = data.rfind(b"\n\n")
        if end < 0:
            self._hold(data)
            return [], None
        if end + 2 < len(data):
            self._hold(data[end + 2 :])
        if data.startswith(self._head) and end <= self._max:
            payloads = [data[len(self._head) : end]]
            if LF in payloads[0]:  # one byte is sought much quicker than several: a picture is one event of megabytes
                payloads = payloads[0].split(self._separator)
            if self._are_plain(payloads):
                return payloads, None if self._name is None else [self._name] * len(payloads)
        return self._mixed(data[:end])

    def _are_plain(self, payloads: list[bytes]) -> bool:
        """Whether splitting at the head has left exactly the payloads."""
        # To join and search is two passes in C; to ask each would be a loop in Python.
        if LF in b"".join(payloads):
            return False
        return all(payloads) if self._spaced else min(payloads) > BEFORE_ANY_PAYLOAD

    # -- from blocks to events

    def _mixed(self, region: bytes) -> Frames:
        """Complete blocks of several heads, or of a head not seen before."""
        payloads: list[bytes] = []
        names: list[str | None] = []
        if len(region) < WORTH_A_SAMPLE:
            self._each(region, payloads, names)
            return payloads, named(names)
        self._sample(region)
        head, name = self._head, self._name
        before, *pieces = (b"\n\n" + region).split(self._separator)
        if before:
            self._each(before, payloads, names)
        for piece in pieces:
            if LF not in piece and piece > BEFORE_ANY_PAYLOAD and len(head) + len(piece) <= self._max:
                payloads.append(piece)
                names.append(name)
            else:
                self._each(head + piece, payloads, names)
        if pieces and LF not in pieces[-1]:
            self._remember(head, name)
        return payloads, named(names)

    def _sample(self, region: bytes) -> None:
        """Takes the head of the block in the middle: streams differ at their ends and are alike between."""
        start = region.find(b"\n\n", len(region) // 2) + 2
        if start < 2:
            return
        end = region.find(b"\n\n", start)
        block = region[start:] if end < 0 else region[start:end]
        shape = shape_of(block)
        if shape is not None:
            self._remember(block[: shape[0]], shape[1])

    def _each(self, region: bytes, payloads: list[bytes], names: list[str | None]) -> None:
        """Block by block; the head of the last one is remembered for the next read."""
        for block in region.split(b"\n\n"):
            block = block.strip(b"\n")
            shape = shape_of(block)
            if len(block) > self._max:
                self._drop(OVERSIZED_EVENT, len(block))
            elif shape is None:
                self._lines(block, payloads, names)
            elif shape[0] < len(block):
                payloads.append(block[shape[0] :])
                names.append(shape[1])
        if shape is not None:
            self._remember(block[: shape[0]], shape[1])

    def _remember(self, head: bytes, name: str | None) -> None:
        self._head, self._name, self._separator, self._spaced = described(head, name)

    def _lines(self, block: bytes, payloads: list[bytes], names: list[str | None]) -> None:
        """Line by line, as the specification has it. The block holds no blank line: one event at most."""
        if block.startswith(b"{"):  # an error that somebody on the way wrote into the stream as it was
            payloads.append(block)
            names.append(None)
            return
        data: list[bytes] = []
        name = b""
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
            elif field == b"error" and value.startswith(b"{"):
                data, name = [value], b"error"
            elif not known(field) and not SOME_FIELD.match(line):
                self._junk(len(line))
        payload = b"\n".join(data)
        if payload:
            payloads.append(payload)
            names.append(text_or_none(name))


@lru_cache(maxsize=512)
def described(head: bytes, name: str | None) -> tuple[bytes, str | None, bytes, bool]:
    """All that belongs to a head. Streams of one provider share these, so that each is held once."""
    return head, name, b"\n\n" + head, head.endswith(b" ")


@lru_cache(maxsize=512)
def usual(head: bytes) -> tuple[bytes, str | None, bytes, bool] | None:
    """What belongs to the head of a usual block; None if it is none."""
    shape = shape_of(head + b"x")
    return described(head, shape[1]) if shape is not None and shape[0] == len(head) else None


def known(field: bytes) -> bool:
    """Fields that mean nothing to us: comments (no name at all), `id`, `retry`."""
    return field in (b"", b"id", b"retry")


def shape_of(block: bytes) -> tuple[int, str | None] | None:
    """Where the payload of a usual block begins, and its event name; `None` for a block of any other shape.

    Usual is one `data` line, alone or after one `event` line.
    """
    last_line = block.rfind(b"\n") + 1
    if not block.startswith(b"data:", last_line):
        return None
    start = last_line + len(b"data:")
    if block.startswith(b" ", start):
        start += 1
    if last_line == 0:
        return start, None
    first = block[: last_line - 1]
    if LF in first or not first.startswith(b"event:"):
        return None
    return start, text_or_none(first.removeprefix(b"event:").removeprefix(b" "))


def text_or_none(name: bytes) -> str | None:
    """An event name as text. The specification decodes UTF-8 leniently; an empty name is no name."""
    return name.decode("utf-8", "replace") or None


def named(names: list[str | None]) -> list[str | None] | None:
    """The list of names, or `None` if nobody has one."""
    return names if any(names) else None
