"""Each chunk once, in order.

A socket delivers in order, but a gateway that numbers its chunks and hands them to several observers may repeat and
reorder them. The theory is that of a TCP receive window: `_next` is the index that is due; what comes early waits;
what is due is released together with all that waited for it; what is below the mark was seen before. So a stream in
good order costs one comparison a chunk and keeps nothing, and a set of indexes exists only from the first gap on.

What waits is bounded. When the bound is reached, or the stream ends, the gap is given up: its indexes are `missing`,
and a chunk of them that still comes is counted as `late` and not folded, because its place in the text has passed.
Nothing of this is hidden: see `Integrity`.
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["Sequence"]

T = TypeVar("T")

MAX_MISSING = 10_000
"""Missing indexes listed one by one. A hostile index of 2**60 must not make a list of that length."""


class Sequence(Generic[T]):
    """Puts numbered chunks in order.

    `max_waiting` is how many chunks may wait for a gap, `max_bytes` how many bytes (as the caller weighs them).
    """

    __slots__ = (
        "_max_bytes",
        "_max_waiting",
        "_missing",
        "_next",
        "_waiting",
        "_weight",
        "duplicates",
        "late",
        "reordered",
    )

    def __init__(self, *, first: int = 0, max_waiting: int = 4096, max_bytes: int = 16 * 1024 * 1024) -> None:
        self._next = first
        self._waiting: dict[int, tuple[T, int]] = {}
        self._weight = 0
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._missing: set[int] | None = None
        self.duplicates = 0
        """Chunks that had been seen before."""
        self.reordered = 0
        """Chunks that came before one with a lower index."""
        self.late = 0
        """Chunks that came after their gap had been given up."""

    def offer(self, index: int, chunk: T, weight: int = 0) -> list[T]:
        """Takes one chunk and returns those whose turn has come, in order."""
        if index == self._next:
            self._next += 1
            if not self._waiting:
                return [chunk]
            return [chunk, *self._released()]
        if index < self._next:
            if self._missing is not None and index in self._missing:
                self.late += 1
            else:
                self.duplicates += 1
            return []
        if index in self._waiting:
            self.duplicates += 1
            return []
        self.reordered += 1
        self._waiting[index] = (chunk, weight)
        self._weight += weight
        if len(self._waiting) > self._max_waiting or self._weight > self._max_bytes:
            return self._give_up()
        return []

    def has_seen(self, index: int) -> bool:
        """Whether a chunk of this index has come (a gap that was given up has not)."""
        if index >= self._next:
            return index in self._waiting
        return self._missing is None or index not in self._missing

    def drain(self) -> list[T]:
        """Gives up every gap and returns all that waited, in order. For the end of the stream."""
        released: list[T] = []
        for index in sorted(self._waiting):
            self._skip_to(index)
            released.append(self._waiting[index][0])
            self._next = index + 1
        self._waiting.clear()
        self._weight = 0
        return released

    @property
    def waiting(self) -> list[T]:
        """What waits for a gap, in order; a snapshot may look at it without ending the wait."""
        return [self._waiting[index][0] for index in sorted(self._waiting)]

    @property
    def missing(self) -> list[int]:
        """The indexes given up so far."""
        return sorted(self._missing or ())

    def _released(self) -> list[T]:
        released = []
        while (found := self._waiting.pop(self._next, None)) is not None:
            chunk, weight = found
            released.append(chunk)
            self._weight -= weight
            self._next += 1
        return released

    def _give_up(self) -> list[T]:
        """Gives up the first gap."""
        self._skip_to(min(self._waiting))
        return self._released()

    def _skip_to(self, index: int) -> None:
        if index == self._next:
            return
        if self._missing is None:
            self._missing = set()
        room = max(0, MAX_MISSING - len(self._missing))
        self._missing.update(range(self._next, min(index, self._next + room)))
        self._next = index
