"""The fold's own, decompressed copy of a compressed body. What the client gets stays compressed.

Only gzip and deflate: they are in the standard library and what the SDKs ask for. For any other coding `readable` is
false, and the row says so. The pieces are bounded, so a small body that decompresses to a huge one never lies in
memory whole.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final, Protocol

__all__ = ["Decompressor", "as_it_is", "decompressor"]

PIECE: Final = 256 * 1024
GZIP: Final = 16 + zlib.MAX_WBITS


class Decompressor(Protocol):
    """Compressed bytes in, plain pieces out. Raises `zlib.error` when the bytes are damaged."""

    def __call__(self, data: bytes, /) -> Iterator[bytes]: ...


def decompressor(codings: str | None) -> Decompressor | None:
    """What reads a body of this `Content-Encoding`; None if nothing here can."""
    names = [name.strip().lower() for name in (codings or "").split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return as_it_is
    # Codings on top of each other do not occur in this trade; saying "unreadable" is honest and enough.
    kind = _KINDS.get(names[0]) if len(names) == 1 else None
    return kind() if kind is not None else None


def as_it_is(data: bytes) -> Iterator[bytes]:
    """Reads a body that is not compressed."""
    yield data


class _Gzip:
    """Also several members one after the other, which RFC 1952 allows."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(GZIP)

    def __call__(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member.eof:
                self._member = zlib.decompressobj(GZIP)
            yield from _inflate(self._member, data)
            data = self._member.unused_data


class _Deflate:
    """With the zlib wrapper, as RFC 9110 says, or without, as some servers do."""

    def __init__(self) -> None:
        self._body = zlib.decompressobj()
        self._begun: bytes | None = b""

    def __call__(self, data: bytes) -> Iterator[bytes]:
        if self._begun is not None:
            self._begun += data
            if len(self._begun) < 2:
                return
            data, self._begun = self._begun, None
            if not _has_zlib_header(data):
                self._body = zlib.decompressobj(-zlib.MAX_WBITS)
        yield from _inflate(self._body, data)


def _has_zlib_header(data: bytes) -> bool:
    return data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0


def _inflate(body: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    piece = body.decompress(data, PIECE)
    while piece:
        yield piece
        piece = body.decompress(body.unconsumed_tail, PIECE)


_KINDS: Final[dict[str, type[_Gzip] | type[_Deflate]]] = {"gzip": _Gzip, "x-gzip": _Gzip, "deflate": _Deflate}
