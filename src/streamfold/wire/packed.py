"""A document that is seldom looked at, held small.

What a stream's first event says of the response (id, model, settings, usage) is not touched again until its end. As
dicts it would cost every live stream about a kilobyte; packed it costs what its text costs.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from streamfold.types import JSON

__all__ = ["Packed", "pack", "unpack"]

Packed: TypeAlias = JSON | bytes

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def pack(document: JSON) -> Packed:
    """The document as bytes, or as it is when it holds what cannot be packed (half a character, a huge number)."""
    try:
        return _encode(document)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return document


def unpack(held: Packed) -> JSON:
    """The document again."""
    if not isinstance(held, bytes):
        return held
    document: JSON = _decode(held)
    return document
