"""What becomes of content before it is stored: binary as a digest, secrets struck out, length limited.

A value goes through three steps, and their order matters.

1. *Walk.* Sound, pictures and long base64 become size and digest; what a configured pattern matches becomes
   `[redacted]`. Text by text, because a pattern that is let loose on JSON breaks it. Most values have neither, and
   a look at their encoded text tells (`_may_hold_binary`): they are not walked, and stay as they came, byte for byte.
2. *Credentials* of the request itself are struck out of the encoded text (`ctx.redact` knows how JSON spells them).
3. *Cut.* Last, because half a secret would not be recognised any more.

A pattern cannot see what is told in pieces. So where patterns are configured, log probabilities (which spell the
answer token by token) and tapes (which hold it delta by delta) are not stored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from streamfold.plugins.logging.shorten import shortened, utf8_size
from streamfold.wire.fold import decode
from streamfold.wire.surrogates import without_surrogates

__all__ = ["STRUCK_OUT", "Cleaner", "Redact", "encoded"]

Redact = Callable[[str], str]

STRUCK_OUT: Final = "[redacted]"
TOO_DEEP: Final = "[nested too deeply]"
MAX_DEPTH: Final = 100

SHORT: Final = 64
"""Characters below which no string is taken for binary."""
SHORT_BINARY: Final = 128
"""The same for the keys that are known to hold it."""
LONG_BINARY: Final = 512
"""The same for all other keys."""
STRETCH: Final = 256 * 1024
BINARY_KEYS: Final = frozenset(
    ("audio", "audio_data", "b64_json", "bytes", "data", "file_data", "image", "partial_image_b64")
)
OPAQUE_KEYS: Final = frozenset(("signature", "thought_signature", "thoughtSignature", "encrypted_content"))
"""They look like binary, but are what a conversation needs to be continued."""
MEDIA_KEYS: Final = ("mime_type", "mimeType", "media_type", "mediaType")
LOGPROBS: Final = frozenset(("logprobs", "top_logprobs", "logprobs_result", "logprobsResult"))

_BEGINS_LIKE_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\\-]{128}")
_DATA_URL_HEAD: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[\w.+;=-]*;base64,")
_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[\w.+;=-]*;base64,([A-Za-z0-9+/=_-]{64,})")
_BASE64_IN_TEXT: Final = re.compile(r"[A-Za-z0-9+/_-]{512,}={0,2}")
_ALPHABET: Final = (string.ascii_letters + string.digits + "+/-_").encode()
_URLSAFE: Final = bytes.maketrans(b"-_", b"+/")


class Cleaner:
    """Makes content fit to be stored. Safe to use from any thread."""

    def __init__(self, patterns: tuple[re.Pattern[str], ...], binary: str, max_bytes: int) -> None:
        self.patterns = patterns
        self.max_bytes = max_bytes
        self._digests = binary == "digest"

    # ------------------------------------------------------------------ whole columns

    def column(self, text: str, redact: Redact | None) -> str:
        """A JSON text after steps 2 and 3: without this request's credentials, and no longer than allowed."""
        if redact is not None:
            text = _struck_out(text, redact)
        if len(text) > self.max_bytes or utf8_size(text) > self.max_bytes:
            text = encoded(shortened(without_surrogates(decode(text.encode())), self.max_bytes))
        return text

    def broken(self, text: str, redact: Redact | None) -> str:
        """A JSON string that quotes a text which should have been JSON and is not."""
        if self._digests:
            text = _BASE64_IN_TEXT.sub(lambda found: _in_words(None, found[0]), text)
        text = self.strike(text)
        text = redact(text) if redact is not None else text
        return self.column(encoded(text), None)

    def strike(self, text: str) -> str:
        """A text without what the patterns match."""
        for pattern in self.patterns:
            text = pattern.sub(STRUCK_OUT, text)
        return text

    def text(self, text: str) -> str:
        """A text without embedded pictures and without what the patterns match."""
        if self._digests and len(text) >= SHORT_BINARY and ";base64," in text:
            text = _DATA_URL.sub(lambda found: _in_words(found[1], found[2]), text)
        return self.strike(text) if self.patterns else text

    # ------------------------------------------------------------------ the walk

    def must_walk(self, text: str) -> bool:
        """Whether the value whose JSON is `text` may hold anything for `walk`."""
        return bool(self.patterns) or (self._digests and _may_hold_binary(text))

    def walk(self, value: Any, *, numbers: bool = True, shortest: int = LONG_BINARY, depth: int = 0) -> Any:
        """The value after step 1; the value itself if nothing was to be done. Never changes what it is given.

        `numbers` says whether patterns apply to numbers as well; `shortest` from how many characters on a string is
        taken for binary if it looks like it.
        """
        kind = type(value)
        if kind is str:
            return self._string(value, "", {}, shortest)
        if kind is dict:
            return self._dict(value, numbers, shortest, depth)
        if kind is list:
            if depth > MAX_DEPTH:
                return TOO_DEEP
            items = [self.walk(item, numbers=numbers, shortest=shortest, depth=depth + 1) for item in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if kind is bytes:
            return self._bytes(value, {})
        if numbers and self.patterns and (kind is int or kind is float):
            said = str(value)
            return STRUCK_OUT if any(pattern.search(said) for pattern in self.patterns) else value
        return value

    def _dict(self, value: dict[str, Any], numbers: bool, shortest: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            return TOO_DEEP
        out = None
        for key, item in value.items():
            kind = type(item)
            if kind is str:
                new = self._string(item, key, value, shortest)
            elif kind is bytes:
                new = self._bytes(item, value)
            elif self.patterns and key in LOGPROBS and (kind is dict or kind is list):
                new = None
            else:
                new = self.walk(item, numbers=numbers, shortest=shortest, depth=depth + 1)
            if new is not item:
                out = dict(value) if out is None else out
                out[key] = new
        return self._without_struck_keys(value if out is None else out) if self.patterns else out or value

    def _without_struck_keys(self, value: dict[str, Any]) -> dict[str, Any]:
        if all(self.strike(key) == key for key in value):
            return value
        out: dict[str, Any] = {}
        for key, item in value.items():
            name = struck = self.strike(key)
            while name in out:
                name = f"{struck} {len(out)}"
            out[name] = item
        return out

    def _string(self, text: str, key: str, parent: Mapping[str, Any], shortest: int) -> Any:
        if len(text) < SHORT:
            return self.strike(text) if self.patterns else text
        if self._digests and key not in OPAQUE_KEYS:
            found = _digest_of(text, key, parent, shortest)
            if found is not None:
                return found
        clean = self.text(text)
        return text if clean == text else clean

    def _bytes(self, value: bytes, parent: Mapping[str, Any]) -> Any:
        if self._digests:
            return _digest((value,), _media_type(parent))
        return base64.b64encode(value).decode()


def encoded(value: Any) -> str:
    """The JSON of a value, in text that every database takes."""
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=str)
        return msgspec.json.encode(without_surrogates(plain)).decode()


def _struck_out(text: str, redact: Redact) -> str:
    struck = redact(text)
    if struck == text:
        return text
    try:
        msgspec.json.decode(struck)
    except (msgspec.DecodeError, RecursionError):
        # What was struck out reaches over a quote. Text by text, then.
        return encoded(_mapped(decode(text.encode()), redact))
    return struck


def _mapped(value: Any, redact: Redact) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_mapped(item, redact) for item in value]
    if isinstance(value, dict):
        return {redact(key): _mapped(item, redact) for key, item in value.items()}
    return value


# ---------------------------------------------------------------------- binary


def _may_hold_binary(text: str) -> bool:
    """Whether some string in a JSON text could be base64. Much quicker than to look at each of them."""
    pieces = text.split('"')
    if max(map(len, pieces)) < SHORT_BINARY:
        return False
    long = [piece for piece in pieces if len(piece) >= SHORT_BINARY]
    # The beginning is enough: one that is walked in vain costs time, and nothing else.
    return any("base64," in piece or _BEGINS_LIKE_BASE64.match(piece) is not None for piece in long)


def _digest_of(text: str, key: str, parent: Mapping[str, Any], shortest: int) -> dict[str, Any] | None:
    """The digest of a string that is base64 or a data URL; None for any other."""
    if text.startswith("data:"):
        head = _DATA_URL_HEAD.match(text, 0, 256)
        return _digest_of_base64(text[head.end() :], head[1]) if head is not None else None
    known = key in BINARY_KEYS or (key == "body" and parent.get("encoding") == "base64")
    if len(text) < (min(SHORT_BINARY, shortest) if known else shortest) or not text.isascii():
        return None
    if not known and not _looks_random(text):
        return None
    if known and "\n" in text:  # base64 as e-mail has it, in lines
        text = text.replace("\r", "").replace("\n", "")
    return _digest_of_base64(text, _media_type(parent))


def _looks_random(text: str) -> bool:
    """Whether a text without a space has capitals, small letters and digits, as binary spelled in base64 has."""
    start = text[:LONG_BINARY]
    return not (start.islower() or start.isupper()) and any(map(str.isdigit, start)) and not start.isdigit()


def _digest_of_base64(text: str, media_type: str | None) -> dict[str, Any] | None:
    """The digest of the bytes that a text spells; None if it spells none."""
    if not text.isascii():
        return None
    spelled = text.encode().rstrip(b"=")
    # Quicker than to let the decoder look: it has no strict mode that knows both alphabets.
    if spelled.translate(None, _ALPHABET) or len(spelled) % 4 == 1:
        return None
    if b"-" in spelled or b"_" in spelled:
        spelled = spelled.translate(_URLSAFE)
    spelled += b"=" * (-len(spelled) % 4)
    # In stretches, so that other threads have their turn between them.
    return _digest(
        (binascii.a2b_base64(spelled[at : at + STRETCH]) for at in range(0, len(spelled), STRETCH)), media_type
    )


def _digest(pieces: Iterable[bytes], media_type: str | None) -> dict[str, Any]:
    size, sha256 = 0, hashlib.sha256()
    for piece in pieces:
        size += len(piece)
        sha256.update(piece)
    told: dict[str, Any] = {"size": size, "sha256": sha256.hexdigest()}
    return {**told, "media_type": media_type} if media_type else told


def _in_words(media_type: str | None, text: str) -> str:
    """The digest of base64 that stands in the middle of a text."""
    found = _digest_of_base64(text, None)
    if found is None:
        return f"[{len(text)} characters of base64]"
    return f"[{media_type or 'binary'}, {found['size']} bytes, sha256 {found['sha256']}]"


def _media_type(parent: Mapping[str, Any]) -> str | None:
    for key in MEDIA_KEYS:
        if isinstance(said := parent.get(key), str):
            return said[:128]
    headers = parent.get("headers")
    if isinstance(headers, dict) and isinstance(said := headers.get("content-type"), str):
        return said[:128]
    return None
