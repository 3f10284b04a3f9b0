"""No framing at all: what was read is what is handed on (speech, and anything that is only passed through)."""

from streamfold.framing.framer import DEFAULT_MAX_FRAME_BYTES, Frames, Readable, Tally

__all__ = ["Raw"]


class Raw(Tally):
    """Every feed is one frame, unchanged; an empty feed is none.

    The only framer whose frames depend on the cuts: their concatenation does not. Holds nothing, so `max_frame_bytes`
    is accepted for the sake of the others and has nothing to limit. Errors: none.
    """

    __slots__ = ()

    def __init__(self, *, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        super().__init__()

    @property
    def pending(self) -> int:
        return 0

    def feed(self, data: Readable) -> Frames:
        """Hands the bytes on."""
        return ([bytes(data)], None) if data else ([], None)

    def close(self) -> Frames:
        """Nothing is ever held."""
        return [], None
