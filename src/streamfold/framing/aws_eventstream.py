"""`application/vnd.amazon.eventstream`: the binary framing of Amazon Bedrock.

A message, all numbers big-endian:

    total length   4  |  these eight bytes, and their CRC32,
    headers length 4  |  are the *prelude*
    prelude CRC    4  |
    headers           name length 1, name, value type 1, value; again until the length is used up
    payload           total length - headers length - 16
    message CRC    4  CRC32 of everything before it

The prelude has its own checksum so that a length can be trusted before the message is there. That is also what recovery
rests on: if only the message is damaged, its length still tells where the next one begins. If the prelude is damaged,
nothing does, and the framer looks for the next offset where twelve bytes make a valid prelude; a wrong guess has
one chance in four thousand million.

The kind of a message is in its headers: `:message-type` is `event` (named by `:event-type`), `exception` (named by
`:exception-type`) or `error` (`:error-code` and `:error-message`, and an empty payload). The last is what a service
says when it cannot say anything modelled; it becomes a payload `{"message": ...}` under the code's name, which is the
shape of an exception.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

from streamfold.framing.framer import (
    CORRUPT_FRAME,
    DEFAULT_MAX_FRAME_BYTES,
    OVERSIZED_EVENT,
    TRUNCATED_FRAME,
    Frames,
    Readable,
    Tally,
)

__all__ = ["AWSEventStream", "HeaderValue", "decode_headers", "encode", "is_prelude"]

HeaderValue: TypeAlias = bool | int | bytes | str | datetime | UUID

PRELUDE: Final = struct.Struct(">III")
UINT16: Final = struct.Struct(">H")
UINT32: Final = struct.Struct(">I")
PRELUDE_SIZE: Final = 12
SMALLEST: Final = 16  # a prelude and a message CRC
STRING_TYPE: Final = 7

# Value types by number. 0 and 1 are the value themselves; these have a fixed width; 6 and 7 carry a length.
FIXED_WIDTH: Final = {2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
LONGEST_VALUE: Final = 0x7FFF
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class AWSEventStream(Tally):
    """AWS event stream messages, cut anywhere, to payloads and event names.

    Both checksums are checked. Errors: none is raised; `anomalies` may come to hold `corrupt_frame`,
    `oversized_event` and `truncated_frame`. Source: AWS, "Event stream encoding" (Amazon Transcribe, Smithy
    `eventStream` specification).
    """

    __slots__ = ("_held", "_last_headers", "_last_name", "_lost", "_max", "_to_skip", "_wanted")

    def __init__(self, *, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        super().__init__()
        self._max = max_frame_bytes
        self._held: bytes | bytearray = b""
        self._wanted = PRELUDE_SIZE  # with fewer bytes than this there is nothing to look at
        self._to_skip = 0  # bytes of a message that is too long, still to come
        self._lost = False  # looking for a prelude
        # Most messages of a stream have the same headers, byte for byte: they are decoded once.
        self._last_headers = b""
        self._last_name: str | None = None

    @property
    def pending(self) -> int:
        return len(self._held)

    def feed(self, data: Readable) -> Frames:
        """Takes bytes as read and returns the messages that they complete."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if self._to_skip:
            data = self._skipped(data)
        buffer: bytes | bytearray = data
        if self._held:
            if isinstance(self._held, bytes):
                self._held = bytearray(self._held)
            self._held += data
            buffer = self._held
        if len(buffer) < self._wanted:
            self._held = buffer
            return [], None
        payloads: list[bytes] = []
        names: list[str | None] = []
        self._keep(buffer, self._messages(buffer, payloads, names))
        return payloads, names if any(names) else None

    def close(self) -> Frames:
        """Nothing can be made of half a message: it is counted, with the code `truncated_frame`."""
        if self._held:
            self.dropped_bytes += len(self._held)
            if not self._lost:
                self._note(TRUNCATED_FRAME)
        self._held = b""
        return [], None

    def _messages(self, buffer: bytes | bytearray, payloads: list[bytes], names: list[str | None]) -> int:
        """Takes whole messages from the front; returns where the first unfinished one begins."""
        at = 0
        size = len(buffer)
        while True:
            self._wanted = PRELUDE_SIZE
            if size - at < PRELUDE_SIZE:
                return at
            total, headers_length, prelude_crc = PRELUDE.unpack_from(buffer, at)
            if not lengths_fit(total, headers_length) or zlib.crc32(buffer[at : at + 8]) != prelude_crc:
                at = self._next_prelude(buffer, at)
                continue
            self._lost = False
            if total > self._max:
                self._drop(OVERSIZED_EVENT, min(total, size - at))
                self._to_skip = max(0, total - (size - at))
                at = min(at + total, size)
                continue
            if size - at < total:
                self._wanted = total
                return at
            self._message(bytes(buffer[at : at + total]), headers_length, payloads, names)
            at += total

    def _message(self, message: bytes, headers_length: int, payloads: list[bytes], names: list[str | None]) -> None:
        """Checks and opens one message."""
        if zlib.crc32(message[:-4]) != UINT32.unpack_from(message, len(message) - 4)[0]:
            self._drop(CORRUPT_FRAME, len(message))
            return
        headers_end = PRELUDE_SIZE + headers_length
        headers = message[PRELUDE_SIZE:headers_end]
        payload = message[headers_end:-4]
        if headers != self._last_headers:
            try:
                decoded = decode_headers(headers)
            except ValueError:
                self._drop(CORRUPT_FRAME, len(message))
                return
            if decoded.get(":message-type") == "error":
                payloads.append(error_payload(decoded))
                names.append(text(decoded.get(":error-code")) or "error")
                return
            self._last_headers = headers
            self._last_name = name_of(decoded)
        payloads.append(payload)
        names.append(self._last_name)

    def _next_prelude(self, buffer: bytes | bytearray, at: int) -> int:
        """Drops bytes up to the next valid prelude, or up to the last eleven, which may be the start of one."""
        if not self._lost:
            self._lost = True
            self._drop(CORRUPT_FRAME, 0)
        end = len(buffer) - PRELUDE_SIZE + 1
        here = at + 1
        while here < end and not is_prelude(buffer, here):
            here += 1
        self.dropped_bytes += here - at
        return here

    def _skipped(self, data: bytes) -> bytes:
        dropped = min(self._to_skip, len(data))
        self._to_skip -= dropped
        self.dropped_bytes += dropped
        return data[dropped:]

    def _keep(self, buffer: bytes | bytearray, at: int) -> None:
        if at == len(buffer):
            self._held = b""
        elif isinstance(buffer, bytes):
            self._held = buffer[at:]
        else:
            del buffer[:at]


def encode(payload: bytes, headers: Mapping[str, str]) -> bytes:
    """One message with string headers, as a service would send it.

    Raises `ValueError` for a header name over 255 bytes or a value over 32767. Source: as `AWSEventStream`.
    """
    block = b"".join(encode_header(name, value) for name, value in headers.items())
    lengths = struct.pack(">II", SMALLEST + len(block) + len(payload), len(block))
    message = b"".join((lengths, UINT32.pack(zlib.crc32(lengths)), block, payload))
    return message + UINT32.pack(zlib.crc32(message))


def encode_header(name: str, value: str) -> bytes:
    name_bytes = name.encode()
    value_bytes = value.encode()
    if len(name_bytes) > 0xFF or len(value_bytes) > LONGEST_VALUE:
        raise ValueError(f"header {name[:40]!r} does not fit: names have 255 bytes at most, values {LONGEST_VALUE}")
    length = UINT16.pack(len(value_bytes))
    return b"".join((bytes([len(name_bytes)]), name_bytes, bytes([STRING_TYPE]), length, value_bytes))


def decode_headers(block: bytes) -> dict[str, HeaderValue]:
    """The headers of one message, each value type (0 to 9) in its Python form; of a name given twice the last counts.

    Raises `ValueError` if a length points outside of the block or a value type does not exist. Source: as
    `AWSEventStream`.
    """
    headers: dict[str, HeaderValue] = {}
    at = 0
    while at < len(block):
        name_end = at + 1 + block[at]
        name = block[at + 1 : name_end].decode("utf-8", "replace")
        if name_end >= len(block):
            raise ValueError("a header name goes beyond the headers")
        kind = block[name_end]
        at, width = value_place(block, name_end + 1, kind)
        value = block[at : at + width]
        if len(value) < width:
            raise ValueError("a header value goes beyond the headers")
        headers[name] = decode_value(kind, value)
        at += width
    return headers


def value_place(block: bytes, at: int, kind: int) -> tuple[int, int]:
    """Where the bytes of a value begin, and how many there are."""
    if kind in (0, 1):
        return at, 0
    if kind in FIXED_WIDTH:
        return at, FIXED_WIDTH[kind]
    if kind not in (6, STRING_TYPE):
        raise ValueError(f"there is no header value type {kind}")
    if len(block) - at < UINT16.size:
        raise ValueError("a header value has no length")
    return at + UINT16.size, UINT16.unpack_from(block, at)[0]


def decode_value(kind: int, value: bytes) -> HeaderValue:
    if kind in (0, 1):
        return kind == 0  # 0 means true
    if kind == 6:
        return value
    if kind == STRING_TYPE:
        return value.decode("utf-8", "replace")
    if kind == 9:
        return UUID(bytes=value)
    number = int.from_bytes(value, "big", signed=True)
    return timestamp(number) if kind == 8 else number


def timestamp(milliseconds: int) -> HeaderValue:
    """A moment in UTC; or the bare number, for one that the calendar does not reach."""
    try:
        return EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return milliseconds


def is_prelude(buffer: bytes | bytearray, at: int = 0) -> bool:
    """Whether twelve bytes at this offset are a prelude: possible lengths, right checksum."""
    total, headers_length, crc = PRELUDE.unpack_from(buffer, at)
    return lengths_fit(total, headers_length) and zlib.crc32(buffer[at : at + 8]) == crc


def lengths_fit(total: int, headers_length: int) -> bool:
    # Written without a sum: 2**32 - 1 is a length that a damaged prelude may well claim.
    return total >= SMALLEST and headers_length <= total - SMALLEST


def name_of(headers: Mapping[str, HeaderValue]) -> str | None:
    """The name of an event or exception. Without a `:message-type` it is taken for an event."""
    key = ":exception-type" if headers.get(":message-type") == "exception" else ":event-type"
    return text(headers.get(key))


def text(value: HeaderValue | None) -> str | None:
    return value if isinstance(value, str) and value else None


def error_payload(headers: Mapping[str, HeaderValue]) -> bytes:
    message = text(headers.get(":error-message"))
    return json.dumps({"message": message}, ensure_ascii=False).encode("utf-8", "replace")
