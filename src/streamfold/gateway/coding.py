"""The fold's own, decompressed copy of a compressed body. What the client gets stays compressed.

gzip and deflate are in the standard library and what the SDKs ask for. br is read if `brotli` is installed, zstd if
`zstandard` is, or from Python 3.14 on. What cannot be read passes all the same, and the row says so. The pieces are
bounded, so a small body that decompresses to a huge one never lies in memory whole.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Final, Protocol

from streamfold.errors import WireError

__all__ = ["DamagedError", "Decompressor", "as_it_is", "decompressor"]

PIECE: Final = 256 * 1024
GZIP: Final = 16 + zlib.MAX_WBITS
MORSEL: Final = 64
"""Bytes that go at once into a decompressor that cannot be told where to stop: what they grow to is bounded too."""


class DamagedError(WireError):
    """A body is not in the coding that its headers say."""


class Decompressor(Protocol):
    """Compressed bytes in, plain pieces out. Raises `DamagedError` when the bytes are damaged."""

    def __call__(self, data: bytes, /) -> Iterator[bytes]: ...


def decompressor(codings: str | None) -> Decompressor | None:
    """What reads a body of this `Content-Encoding`; None if nothing here can."""
    names = [name.strip().lower() for name in (codings or "").split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return as_it_is
    # Codings on top of each other do not occur in this trade; saying "unreadable" is honest and enough.
    make = _KINDS.get(names[0]) if len(names) == 1 else None
    return make() if make is not None else None


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
    try:
        piece = body.decompress(data, PIECE)
        while piece:
            yield piece
            piece = body.decompress(body.unconsumed_tail, PIECE)
    except zlib.error as error:
        raise DamagedError(str(error)) from error


class _Morsels:
    """A foreign decompressor that gives all it has for what it gets, so it gets little at a time."""

    def __init__(self, decompress: Callable[[bytes], bytes], failure: type[Exception]) -> None:
        self._decompress = decompress
        self._failure = failure

    def __call__(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), MORSEL):
            try:
                piece = self._decompress(data[at : at + MORSEL])
            except self._failure as error:
                raise DamagedError(type(error).__name__) from error
            if piece:
                yield piece


class _Brotli:
    """Brotli from 1.2 on, which can be told where to stop."""

    def __init__(self, body: Any, failure: type[Exception]) -> None:
        self._body = body
        self._failure = failure

    def __call__(self, data: bytes) -> Iterator[bytes]:
        try:
            while piece := self._body.process(data, output_buffer_limit=PIECE):
                yield piece
                data = b""
        except self._failure as error:
            raise DamagedError(type(error).__name__) from error


def _brotli() -> Decompressor | None:
    module = _installed("brotli")
    if module is None:
        return None
    body = module.Decompressor()
    stops = hasattr(body, "can_accept_more_data")
    return _Brotli(body, module.error) if stops else _Morsels(body.process, module.error)


def _zstd() -> Decompressor | None:
    module = _installed("compression.zstd")  # Python 3.14
    if module is not None:
        return _Morsels(module.ZstdDecompressor().decompress, module.ZstdError)
    module = _installed("zstandard")
    return _Morsels(module.ZstdDecompressor().decompressobj().decompress, module.ZstdError) if module else None


def _installed(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


_KINDS: Final[dict[str, Callable[[], Decompressor | None]]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _brotli,
    "zstd": _zstd,
}
