"""What becomes of content before it is stored: binary as a digest, secrets struck out, length limited.

A value goes through three steps, and their order matters.

1. *Walk.* Sound, pictures and long base64 become size and digest; then what a configured pattern matches becomes
   `[redacted]`. Text by text, because a pattern that is let loose on JSON breaks it, but all texts of a value at once,
   because patterns are tried in another process (`patterns.py`). Most values have neither, and a look at their encoded
   text tells (`_may_hold_binary`): they are not walked, and stay as they came, byte for byte.
2. *Credentials* of the request itself are struck out of the encoded text (`ctx.redact` knows how JSON spells them).
3. *Cut.* Last, because half a secret would not be recognised any more.

A pattern cannot see what is told in pieces. So where patterns are configured, log probabilities (which spell the
answer token by token) and tapes (which hold it delta by delta) are not stored.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from streamfold.plugins.logging.patterns import STRUCK_OUT, Patterns
from streamfold.plugins.logging.shorten import shortened, utf8_size
from streamfold.wire.fold import decode
from streamfold.wire.surrogates import without_surrogates

__all__ = ["Cleaner", "Redact", "encoded", "struck_out"]

Redact = Callable[[str], str]

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
OPAQUE_KEYS: Final = frozenset(
    ("signature", "thought_signature", "thoughtSignature", "encrypted_content", "encrypted_index")
)
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
    """Makes content fit to be stored. Safe to use from any thread; where patterns are configured, it waits for them."""

    def __init__(self, patterns: Patterns, binary: str, max_bytes: int) -> None:
        self.patterns = patterns
        self.max_bytes = max_bytes
        self._digests = binary == "digest"

    # ------------------------------------------------------------------ whole columns

    def column(self, text: str, redact: Redact | None) -> str:
        """A JSON text after steps 2 and 3: without this request's credentials, and no longer than allowed."""
        if redact is not None:
            text = struck_out(text, redact)
        if len(text) > self.max_bytes or utf8_size(text) > self.max_bytes:
            text = encoded(shortened(without_surrogates(decode(text.encode())), self.max_bytes))
        return text

    def broken(self, text: str, redact: Redact | None) -> str:
        """A JSON string that quotes a text which should have been JSON and is not."""
        if self._digests:
            text = _BASE64_IN_TEXT.sub(lambda found: _in_words(None, found[0]), text)
        text = self.patterns.strike([text])[0]
        text = redact(text) if redact is not None else text
        return self.column(encoded(text), None)

    def texts(self, texts: Sequence[str]) -> list[str]:
        """The texts without embedded pictures and without what the patterns match."""
        return self.patterns.strike([self._without_pictures(text) for text in texts])

    # ------------------------------------------------------------------ the walk

    def must_walk(self, text: str) -> bool:
        """Whether the value whose JSON is `text` may hold anything for `walk`."""
        return bool(self.patterns) or (self._digests and _may_hold_binary(text))

    def walk(self, value: Any) -> Any:
        """The value after step 1; the value itself if nothing was to be done. Never changes what it is given."""
        return self.walk_each([(value, True)])[0]

    def walk_each(self, values: Sequence[tuple[Any, bool]]) -> list[Any]:
        """Some values after step 1, each with whether patterns apply to its numbers as well."""
        if self._digests:
            values = [(self.digested(value), numbers) for value, numbers in values]
        if not self.patterns:
            return [value for value, _ in values]
        wanted: dict[str, str] = {}
        for value, numbers in values:
            _struck(value, lambda text: wanted.setdefault(text, text), numbers, 0)
        struck = dict(zip(wanted, self.patterns.strike(list(wanted)), strict=True))
        return [_struck(value, struck.__getitem__, numbers, 0) for value, numbers in values]

    def digested(self, value: Any, *, shortest: int = LONG_BINARY, depth: int = 0) -> Any:
        """The value with digests in the place of binary. A string of `shortest` characters is taken for binary if it
        looks like it."""
        kind = type(value)
        if kind is str:
            return self._string(value, "", {}, shortest)
        if kind is dict:
            return self._dict(value, shortest, depth)
        if kind is list:
            if depth > MAX_DEPTH:
                return TOO_DEEP
            items = [self.digested(item, shortest=shortest, depth=depth + 1) for item in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        return _digest((value,), None) if kind is bytes else value

    def _dict(self, value: dict[str, Any], shortest: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            return TOO_DEEP
        out = None
        for key, item in value.items():
            kind = type(item)
            if kind is str:
                new = self._string(item, key, value, shortest)
            elif kind is bytes:
                new = _digest((item,), _media_type(value))
            else:
                new = self.digested(item, shortest=shortest, depth=depth + 1)
            if new is not item:
                out = dict(value) if out is None else out
                out[key] = new
        return out or value

    def _string(self, text: str, key: str, parent: Mapping[str, Any], shortest: int) -> Any:
        if len(text) < SHORT:
            return text
        found = _digest_of(text, key, parent, shortest) if key not in OPAQUE_KEYS else None
        return found if found is not None else self._without_pictures(text)

    def _without_pictures(self, text: str) -> str:
        if not self._digests or len(text) < SHORT_BINARY or ";base64," not in text:
            return text
        return _DATA_URL.sub(lambda found: _in_words(found[1], found[2]), text)


class _Digest(dict[str, Any]):
    """What stands in the place of binary. Nobody said it, so patterns leave it alone."""


def _struck(value: Any, strike: Redact, numbers: bool, depth: int) -> Any:
    """The value with each of its texts as `strike` has it; the value itself if that leaves all of them alone."""
    kind = type(value)
    if kind is str:
        return strike(value)
    if kind is list:
        if depth > MAX_DEPTH:
            return TOO_DEEP
        items = [_struck(item, strike, numbers, depth + 1) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if kind is dict:
        return _struck_dict(value, strike, numbers, depth)
    if numbers and (kind is int or kind is float):
        said = str(value)
        return value if strike(said) == said else STRUCK_OUT
    return value


def _struck_dict(value: dict[str, Any], strike: Redact, numbers: bool, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return TOO_DEEP
    out: dict[str, Any] = {}
    same = True
    for key, item in value.items():
        told_in_pieces = key in LOGPROBS and type(item) in (dict, list)
        new = None if told_in_pieces else _struck(item, strike, numbers, depth + 1)
        name = struck = strike(key)
        while name in out:
            name = f"{struck} {len(out)}"
        out[name] = new
        same = same and new is item and name == key
    return value if same else out


def encoded(value: Any) -> str:
    """The JSON of a value, in text that every database takes."""
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=str)
        return msgspec.json.encode(without_surrogates(plain)).decode()


def struck_out(text: str, redact: Redact) -> str:
    """A JSON text of our own spelling after step 2."""
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
    told = _Digest(size=size, sha256=sha256.hexdigest())
    if media_type:
        told["media_type"] = media_type
    return told


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
