"""The frame that repeats: how most of a stream is folded without decoding it.

Nearly every frame of a stream is the frame before it with another few characters of text. Decoding all of it again
(id, model, fingerprint, nulls) costs several times what the text costs. So, once a frame has been folded the complete
way and the fold says that its whole effect was "append this one string there", the frame is cut around that string:

    {"id":"x","choices":[{"index":0,"delta":{"content":"   Hel   "},"finish_reason":null}]}
    '--------------------- prefix ---------------------' hole '----------- suffix ------------'

A later frame with the same prefix and suffix is the same JSON document but for the string in the hole, because
whether a byte stands inside a string depends only on what precedes it. All else in it has been folded once and adding
it again would change nothing (the fold vouches for that), so appending the string is the whole fold.

What must be right, and why it is:

* The cut is proved, not guessed: the frame with probes in its holes must decode to the same document with the probes.
* The hole must hold a valid string body. Without backslash, quote or control character that is seen at once; with
  one, the JSON decoder judges. Anything doubtful is a miss, and a miss takes the complete way.
* Some frames carry more that changes and means nothing to the answer: OpenAI's `obfuscation` (padding against traffic
  analysis), the `sequence_number` of the Responses API, and what a format calls its `noise` (Ollama's `created_at`).
  They are holes as well; so are the spaces that Anthropic pads with.
* Any other frame in between ends the pattern: it may have changed what the pattern takes as unchanged.

Frames that repeat mostly come in runs, and given unframed bytes a whole run is folded without framing it (`skim`). What
reads them is native code, byte by byte (`_scan.c`), or where that is not to be had, what Python is quick at
(`split.py`). Neither takes a frame that the complete way would fold otherwise. And a format whose frames name no stream
may know beforehand how they are spelled, and make a pattern of the first one undecoded (`anthropic_messages.py`).

A pattern lives as long as its stream, so it holds no more than the frame's own bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from streamfold.growth import Text
from streamfold.wire.flat import Holes, shared_flat
from streamfold.wire.split import NUMBER, PADDING, SPACES, TEXT, NoisySplit, SpacedSplit, Split, once

if TYPE_CHECKING:
    from streamfold.wire._scan import Scanned

__all__ = ["NATIVE", "Repeat", "cut", "usual"]


def _native() -> type[Scanned] | None:
    """The native reader of frames; None where it could not be built, or is not wanted."""
    if os.environ.get("STREAMFOLD_NO_EXTENSIONS"):
        return None
    try:
        from streamfold.wire._scan import Scanned
    except ImportError:
        return None
    return Scanned


NATIVE: Final = _native()
"""What reads frames that repeat; None for the way without native code."""

MOST_SCANNED: Final = 10**17
"""The highest number of a frame that native code goes on from."""

CANDIDATES: Final = 4
"""Places looked at for a key that occurs again and again in a frame; far down is not worth the search."""

_BODY = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_DIGITS = re.compile(rb"\d*")
_PROBE = b"\\u0001probe"
_PROBE_TEXT = "\x01probe"
_PROBE_NUMBER = b"9007199254740991"


class Repeat(Protocol):
    """One frame cut around its holes, and where its text goes."""

    @property
    def hits(self) -> int:
        """Frames folded this way so far."""

    @property
    def number(self) -> int | None:
        """The number of the last frame, where frames are numbered."""

    def skim(self, data: bytes, at: int, lead: bytes) -> tuple[int, int]:
        """Folds the events of an SSE body, from `at` on, that repeat this frame: each `lead`, payload, blank line.

        Returns how many bytes they were, and the flags of what was folded. A few hundred of them at most.
        """

    def one(self, data: bytes) -> int | None:
        """Folds bytes that are just one more event, as a paced stream has in each read; None if they are not.

        `skim` must have been here before, so that what leads to the payload is known.
        """

    def payload(self, payload: bytes) -> int | None:
        """Folds a payload that came alone; None if it does not repeat this frame."""

    def run(self, payloads: list[bytes], at: int) -> tuple[int, int]:
        """Folds the frames from `at` on while they repeat this one. Returns where it stopped, and their flags."""


def usual(literals: Sequence[bytes], target: Text, flags: int) -> Repeat:
    """A frame known beforehand to have its text between the first two literals; before a third there may be spaces."""
    kinds = (TEXT, SPACES)[: len(literals) - 1]
    scanned = _scanned(literals, kinds, target, flags)
    if scanned is not None:
        return scanned
    if len(kinds) == 1:
        return Split(literals[0], literals[1], target, flags)
    return SpacedSplit(literals[0], literals[1], literals[2], target, flags)


def _scanned(
    literals: Sequence[bytes], kinds: Sequence[int], target: Text, flags: int, number: int = 0
) -> Repeat | None:
    """The frame with such holes between these literals for native code, where that is to be had."""
    if NATIVE is None or not 0 <= number <= MOST_SCANNED:
        return None
    return NATIVE((literals[0], *map(once, literals[1:])), once(bytes(kinds)), target.open(), flags, number)


def cut(
    payload: bytes,
    event: dict[str, Any],
    path: tuple[str | int, ...],
    target: Text,
    flags: int,
    *,
    numbered: bool = True,
    noise: Sequence[str] = (),
) -> Repeat | None:
    """Cuts a folded frame around the string at `path`; None when that cannot be proved to be right.

    `event` is the decoded `payload`. Top-level `obfuscation` and `noise` become holes too, and `sequence_number` where
    events are `numbered` (some servers give all of them the same number).
    """
    value: Any = event
    for step in path:
        value = value[step]
    if not value:  # its flags are those of a frame without text
        return None
    wanted: list[tuple[tuple[str | int, ...], int]] = [(path, TEXT)]
    wanted += [((key,), PADDING) for key in ("obfuscation", *noise) if isinstance(event.get(key), str)]
    number = event.get("sequence_number")
    if numbered and isinstance(number, int):
        wanted.append((("sequence_number",), NUMBER))
    try:
        spans = _holes(payload, event, wanted)
    except RecursionError:  # nested too deeply to be compared
        return None
    if spans is None:
        return None
    literals: list[bytes] = []
    kinds: list[int] = []
    at = 0
    for start, end, kind in sorted(spans):
        literals.append(payload[at:start])
        kinds.append(kind)
        at = end
    literals.append(payload[at:])
    if not all(literals[1:]):
        return None
    last = number if isinstance(number, int) and NUMBER in kinds else 0
    scanned = _scanned(literals, kinds, target, flags, last)
    if scanned is not None:
        return scanned
    if len(kinds) == 1:
        return Split(literals[0], literals[1], target, flags)
    reader = None
    if len(path) == 1:
        body = payload[len(literals[0]) : len(payload) - len(literals[-1])]
        padding = tuple(str(where[0]) for where, kind in wanted if kind == PADDING)
        holes = Holes(str(path[0]), "sequence_number" if NUMBER in kinds else None, padding)
        reader = shared_flat(tuple(kinds), tuple(literals[1:-1]), body, event, holes)
    return NoisySplit(literals, kinds, target, flags, last, reader)


Wanted = tuple[tuple[str | int, ...], int]
"""Where in a document a hole is meant to be, and its kind."""

Span = tuple[int, int, int]
"""Where in a payload a hole begins and ends, and its kind."""


def _holes(payload: bytes, event: dict[str, Any], wanted: list[Wanted]) -> list[Span] | None:
    """Where in the payload the values stand, proved by probes; None if one of them cannot be found.

    As a rule each key occurs once, so all are proved at once. If not, each hole is sought for itself.
    """
    first = [(*next(_candidates(payload, str(path[-1]), kind), (0, 0)), kind) for path, kind in wanted]
    if _proved(payload, event, wanted, first):
        return first
    found: list[Span] = []
    for each in wanted:
        path, kind = each
        spans = ((start, end, kind) for start, end in _candidates(payload, str(path[-1]), kind))
        span = next((span for span in spans if _proved(payload, event, [each], [span])), None)
        if span is None:
            return None
        found.append(span)
    return found


def _proved(payload: bytes, event: dict[str, Any], wanted: list[Wanted], spans: list[Span]) -> bool:
    """Whether the payload with probes in these places is the event with the same probes as the wanted values."""
    pieces: list[bytes] = []
    at = 0
    for start, end, kind in sorted(spans):
        if start < at:
            return False
        pieces += payload[at:start], _PROBE_NUMBER if kind == NUMBER else _PROBE
        at = end
    probed = _decoded(b"".join((*pieces, payload[at:])))
    parents = []
    for path, _ in wanted:
        parent: Any = event
        for step in path[:-1]:
            parent = parent[step]
        parents.append((parent, path[-1], parent[path[-1]]))
    try:
        for (parent, key, _), (_, kind) in zip(parents, wanted, strict=True):
            parent[key] = int(_PROBE_NUMBER) if kind == NUMBER else _PROBE_TEXT
        return bool(probed == event)
    finally:
        for parent, key, original in parents:
            parent[key] = original


def _candidates(payload: bytes, key: str, kind: int) -> Iterator[tuple[int, int]]:
    """Where a value of this key may stand: the key can occur elsewhere in the frame, or inside a string of it."""
    body = _DIGITS if kind == NUMBER else _BODY
    for colon in (b'":', b'": '):
        needle = b'"' + key.encode() + colon + (b"" if kind == NUMBER else b'"')
        start = 0
        for _ in range(CANDIDATES):
            at = payload.find(needle, start)
            if at < 0:
                break
            start = at + len(needle)
            found = body.match(payload, start)
            yield start, found.end() if found else start


def _decoded(payload: bytes) -> Any:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
