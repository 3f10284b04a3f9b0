"""Frames whose holes all stand at one level, read many at a time.

In the deltas of the Responses API the text, the padding and the number are fields of one flat object, so what stands
from the first hole to the last is the inside of a small JSON object but for its first key:

    {"type":"response.output_text.delta", ... "delta":"  Hi","logprobs":[],"obfuscation":"aZ0","sequence_number":7  }
    '------------------- prefix ------------------' '--------------------------- body ----------------------------'

The bodies of a run are put into one JSON array of such objects and decoded at once, into structs that take nothing
else than what the first frame had in the same places. That is several times quicker than to cut each body apart, and
as strict: a body with another field, or another value where nothing may change, does not fit the struct.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

__all__ = ["Flat", "Holes", "flat", "shared_flat"]

SHARED: Final[dict[tuple[Any, ...], Flat | None]] = {}
MOST_SHARED: Final = 64
LONGEST_SHARED: Final = 512
"""Readers by the holes and the bytes between them. Making one is dear; a provider has one or two shapes, short ones."""


class Holes(NamedTuple):
    """The fields that change from frame to frame: the one that grows, the one that counts, those that mean nothing."""

    text: str
    number: str | None
    padding: tuple[str, ...]

    def types(self) -> dict[str, type]:
        """The type of each."""
        numbers: dict[str, type] = {self.number: int} if self.number is not None else {}
        return {self.text: str, **numbers, **dict.fromkeys(self.padding, str)}


class Flat:
    """Reads bodies of one shape. `first` is the key of the first hole, `quotes` what it and the last one lack."""

    __slots__ = ("_between", "_close", "_numbered", "_open", "_read")

    def __init__(self, first: str, quotes: tuple[bytes, bytes], example: Mapping[str, Any], holes: Holes) -> None:
        begin = b'{"' + first.encode() + b'":' + quotes[0]
        self._open = b"[" + begin
        self._between = quotes[1] + b"}," + begin
        self._close = quotes[1] + b"}]"
        self._numbered = holes.number is not None
        types = holes.types()
        # Names of our own: those of the frame may be none that a struct can have.
        own = {holes.text: "text", holes.number: "number"}
        names = {key: own.get(key, f"field{place}") for place, key in enumerate(example)}
        fields = [(names[key], types[key] if key in types else _only(value)) for key, value in example.items()]
        said = {names[key]: key for key in example}
        row = msgspec.defstruct("Row", fields, rename=said, forbid_unknown_fields=True, gc=False)
        self._read = msgspec.json.Decoder(list[row]).decode  # type: ignore[valid-type]

    def read(self, bodies: list[bytes], number: int) -> bytes | None:
        """The text of these bodies, numbered from `number` on where they are; None if one is of another frame."""
        try:
            rows: list[Any] = self._read(self._open + self._between.join(bodies) + self._close)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if len(rows) != len(bodies):
            return None
        if self._numbered and [row.number for row in rows] != list(range(number, number + len(rows))):
            return None
        return "".join([row.text for row in rows]).encode()


def _only(value: Any) -> Any:
    """The type that takes this value alone. Raises `TypeError` for a value that no type is so narrow for."""
    if value is None:
        return None
    if value == []:
        return tuple[()]
    if type(value) is str or (type(value) is int and abs(value) < 2**63):
        return Literal[value]
    raise TypeError(f"no type is as narrow as {value!r}")


def flat(body: bytes, event: Mapping[str, Any], holes: Holes) -> Flat | None:
    """How to read such bodies, or None when they are not flat. `event` is the decoded frame of this body."""
    for first in holes.types():  # whichever stands first
        for quotes in ((b'"', b'"'), (b'"', b""), (b"", b'"'), (b"", b"")):
            example = _example(b'{"' + first.encode() + b'":' + quotes[0] + body + quotes[1] + b"}")
            if example is not None and _is_part(example, event, holes):
                return _reader(first, quotes, example, holes)
    return None


def _example(document: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _is_part(example: Mapping[str, Any], event: Mapping[str, Any], holes: Holes) -> bool:
    """Whether a body is a stretch of the event's own fields, with all among them that change."""
    if not example.keys() >= holes.types().keys():
        return False
    return all(key in event and event[key] == value for key, value in example.items())


def _reader(first: str, quotes: tuple[bytes, bytes], example: Mapping[str, Any], holes: Holes) -> Flat | None:
    try:
        return Flat(first, quotes, example, holes)
    except (TypeError, ValueError):  # a value too wide, or a name that no field can have
        return None


def shared_flat(
    kinds: tuple[int, ...], between: tuple[bytes, ...], body: bytes, event: Mapping[str, Any], holes: Holes
) -> Flat | None:
    """The same, made once for all frames with holes of these kinds in this order and these bytes between them.

    The fields from the first hole to the last depend on nothing else.
    """
    if sum(map(len, between)) > LONGEST_SHARED:
        return flat(body, event, holes)
    shape = holes, kinds, between
    try:
        return SHARED[shape]
    except KeyError:
        reader = flat(body, event, holes)
    # Not to be read again from here: streams of other threads may displace it at once.
    if len(SHARED) >= MOST_SHARED:
        SHARED.popitem()  # the newest: whoever sends ever new shapes displaces only their own
    SHARED[shape] = reader
    return reader
