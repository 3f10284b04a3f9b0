"""A guess at the tokens of the pictures in a request, from their real size.

Providers count a picture by its pixels, after they have made it smaller, and each says how:

* OpenAI (`detail` low: 85 tokens): fit into 2048 x 2048, the shorter side to 768, then 170 for each tile of 512 and 85
  once. Source: "Calculating costs" in its guide to images. Its newer models count otherwise, though not far from it.
* Anthropic: at most 1568 on the longer side, then width x height / 750, about 1,600 at most. Source: its guide to
  vision.
* Gemini: 258 up to 384 x 384, then 258 for each tile of 768. Source: "Understand and count tokens".

Who it is shows in how the picture is put into the request. The size stands in the first bytes of the file, so only
those are looked at. A picture that is somewhere else (a URL, a file at the provider), or of a kind that is not read
here, makes the whole sum unknown: a constant in its place would look like knowledge.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

__all__ = ["picture_tokens"]

HEAD: Final = 256 * 1024
"""Bytes in which the size is sought: a camera may put a preview before it."""

LOW_DETAIL: Final = 85
PER_TILE: Final = 170
PER_GEMINI_TILE: Final = 258
ANTHROPIC_PIXELS: Final = 750
ANTHROPIC_SIDE: Final = 1568
ANTHROPIC_MOST: Final = 1600


class Picture(NamedTuple):
    """A picture in a request."""

    api: str
    """Whose way of counting it is: `openai`, `anthropic` or `gemini`; `ollama` has none."""
    data: str | None
    """Base64; None if it is not in the request."""
    detail: str | None = None


def picture_tokens(request: Any) -> int | None:
    """The tokens of all pictures in a request, or in a part of one: 0 without any, None if one has no known size."""
    total = 0
    for picture in _pictures(request):
        tokens = _tokens(picture)
        if tokens is None:
            return None
        total += tokens
    return total


def _pictures(request: Any) -> Iterator[Picture]:
    waiting = [request]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, Mapping):
            picture = _picture(each)
            if picture is None:
                waiting += each.values()
            else:
                yield picture


def _picture(part: Mapping[str, Any]) -> Picture | None:
    """The picture that a part of a message is."""
    kind = part.get("type")
    if kind in ("image_url", "input_image"):
        said = part.get("image_url")
        url = said.get("url") if isinstance(said, Mapping) else said
        detail = said.get("detail") if isinstance(said, Mapping) else part.get("detail")
        return Picture("openai", _inline(url), detail if isinstance(detail, str) else None)
    if kind == "image" and isinstance(source := part.get("source"), Mapping):
        return Picture("anthropic", _text(source.get("data")))
    image = part.get("image")  # Bedrock
    if isinstance(image, Mapping) and isinstance(source := image.get("source"), Mapping):
        return Picture("anthropic", _text(source.get("bytes")))
    inline = part.get("inlineData", part.get("inline_data"))
    if isinstance(inline, Mapping) and _is_image(inline):
        return Picture("gemini", _text(inline.get("data")))
    file = part.get("fileData", part.get("file_data"))
    if isinstance(file, Mapping) and _is_image(file):
        return Picture("gemini", None)
    images = part.get("images")  # Ollama's, bare base64; nobody says how its models count them
    bare = isinstance(images, list) and any(isinstance(each, str) for each in images)
    return Picture("ollama", None) if bare else None


def _inline(url: Any) -> str | None:
    """The data of a `data:` URL."""
    if not isinstance(url, str) or not url.startswith("data:"):
        return None
    return url.partition(";base64,")[2] or None


def _is_image(part: Mapping[str, Any]) -> bool:
    return str(part.get("mimeType", part.get("mime_type"))).startswith("image/")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


# ---------------------------------------------------------------------- counting


def _tokens(picture: Picture) -> int | None:
    if picture.api == "openai" and picture.detail == "low":
        return LOW_DETAIL
    size = _size(_head(picture.data)) if picture.data else None
    if size is None or not all(size):
        return None
    return COUNTED[picture.api](*size)


def _openai(width: int, height: int) -> int:
    scale = min(1, 2048 / max(width, height))
    scale *= min(1, 768 / (min(width, height) * scale))
    tiles = math.ceil(round(width * scale, 3) / 512) * math.ceil(round(height * scale, 3) / 512)
    return LOW_DETAIL + PER_TILE * tiles


def _anthropic(width: int, height: int) -> int:
    scale = min(1, ANTHROPIC_SIDE / max(width, height))
    return min(ANTHROPIC_MOST, math.ceil(width * scale * height * scale / ANTHROPIC_PIXELS))


def _gemini(width: int, height: int) -> int:
    if max(width, height) <= 384:
        return PER_GEMINI_TILE
    return PER_GEMINI_TILE * math.ceil(width / 768) * math.ceil(height / 768)


COUNTED: Final = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}


# ---------------------------------------------------------------------- reading sizes


def _head(data: str) -> bytes:
    """The first bytes of a file in base64."""
    try:
        return base64.b64decode(data[: HEAD * 4 // 3 // 4 * 4])
    except (binascii.Error, ValueError):
        return b""


def _size(head: bytes) -> tuple[int, int] | None:
    """Width and height, from the first bytes of a PNG, GIF, WebP or JPEG."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _pair(head, 16, 4, "big")
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _pair(head, 6, 2, "little")
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp_size(head)
    return _jpeg_size(head) if head.startswith(b"\xff\xd8") else None


def _pair(head: bytes, at: int, length: int, order: Any) -> tuple[int, int] | None:
    if len(head) < at + 2 * length:
        return None
    return int.from_bytes(head[at : at + length], order), int.from_bytes(head[at + length : at + 2 * length], order)


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Source: RFC 9649. Each of its three kinds says the size in bits of its own."""
    kind = head[12:16]
    if kind == b"VP8X":
        found = _pair(head, 24, 3, "little")
        return (found[0] + 1, found[1] + 1) if found is not None else None
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    found = _pair(head, 26, 2, "little") if kind == b"VP8 " else None
    return (found[0] & 0x3FFF, found[1] & 0x3FFF) if found is not None else None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Source: ITU T.81, B.2.2. Segments until the one that begins the frame, which holds height and width."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            found = _pair(head, at + 5, 2, "big")
            return (found[1], found[0]) if found is not None else None
        at += 1 if marker == 0xFF else 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None
