"""What the plugin does beside the traffic, on a thread of its own: checkpoints, estimates, large rows, retention.

A checkpoint costs as much as the answer is long, so three things bound it: each round takes only so many streams,
those that have waited longest; a stream that got nothing new is passed over; and a long answer is stored less often,
such that one stream writes no more than `PACE` bytes in the time between two checkpoints.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Any, Final

from streamfold.hooks import RequestContext
from streamfold.plugins.logging.rows import Asked
from streamfold.types import AccumulatedData

__all__ = ["Flight", "Flights", "Upkeep"]

log = logging.getLogger("streamfold.plugins.logging")

MAX_FLIGHTS: Final = 100_000
"""Requests that are watched; of more than these the oldest have no checkpoints."""
PER_ROUND: Final = 32
PACE: Final = 256 * 1024
MAX_WAITING: Final = 10_000
"""Pieces of work that may wait; more are left undone."""


class Flight:
    """One request on its way."""

    __slots__ = ("asked", "chunks", "ctx", "done", "due", "revision")

    def __init__(self, ctx: RequestContext, asked: Asked, due: float) -> None:
        self.ctx = ctx
        self.asked = asked
        self.due = due
        self.chunks = 0
        self.revision = 0
        self.done = False


class Flights:
    """The requests on their way, and which of them need a checkpoint. `store` writes one and returns its size."""

    def __init__(self, every: float, store: Callable[[Flight, AccumulatedData], int]) -> None:
        self._every = every
        self._store = store
        self._flights: dict[str, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def add(self, flight: Flight) -> None:
        """Watches a request from now on."""
        self._flights[flight.ctx.request_id] = flight
        if flight.done:  # it ended on another thread meanwhile
            self.remove(flight.ctx.request_id)
        if len(self._flights) > MAX_FLIGHTS:
            oldest = next(iter(self._flights), None)
            self._flights.pop(oldest, None) if oldest is not None else None

    def remove(self, request_id: str) -> None:
        """Watches it no longer."""
        self._flights.pop(request_id, None)

    def round(self, now: float) -> int:
        """Stores the streams that are due, the longest overdue first. Returns how many were looked at."""
        due = [
            flight for flight in list(self._flights.values()) if flight.due <= now and flight.ctx.snapshot is not None
        ]
        due.sort(key=lambda flight: flight.due)
        for flight in due[:PER_ROUND]:
            flight.due = now + self._every
            try:
                self._look_at(flight, now)
            except Exception as error:
                # Such as a snapshot of a stream that another thread is opening; it comes round again.
                log.debug("no checkpoint this time: %s", type(error).__name__)
        return min(len(due), PER_ROUND)

    def _look_at(self, flight: Flight, now: float) -> None:
        snapshot = flight.ctx.snapshot
        data = snapshot() if snapshot is not None else None
        if data is None or flight.done or data.chunks <= flight.chunks:
            return
        flight.chunks = data.chunks
        flight.revision += 1
        size = self._store(flight, data)
        flight.due = now + self._every * max(1.0, size / PACE)


class Upkeep:
    """A thread that does what it is given, and `rounds` (if any) every so many seconds.

    It starts with the first need of it and ends with `close`.
    """

    def __init__(self, rounds: Callable[[float], object] | None, every: float) -> None:
        self._rounds = rounds
        self._every = every
        self._work: deque[tuple[Callable[[], object], Callable[[], object] | None]] = deque()
        self._changed = Condition()
        self._closed = False
        self._busy = False
        self._said: set[str] = set()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Makes sure that the thread runs."""
        if self._thread is not None:
            return
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = Thread(target=self._run, name="streamfold-logging", daemon=True)
                self._thread.start()

    def later(
        self, work: Callable[[], object], most: int = MAX_WAITING, instead: Callable[[], object] | None = None
    ) -> bool:
        """Does a piece of work soon, after what waits already. Returns whether fewer than `most` pieces waited.

        `instead` is done in its place if `close` has no time for it.
        """
        with self._changed:
            if self._closed or len(self._work) >= most:
                return False
            self._work.append((work, instead))
            self._changed.notify_all()
        self.start()
        return True

    def drain(self, timeout: float) -> bool:
        """Waits until all work is done that was given so far. Returns whether it was in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._work and not self._busy, timeout)

    def close(self, timeout: float) -> None:
        """Does what waits, and ends the thread."""
        if self._thread is None:
            self._closed = True
            return
        self.drain(timeout)
        with self._changed:
            self._closed = True
            undone = list(self._work)
            self._work.clear()
            self._changed.notify_all()
        if undone:
            log.error("the logging plugin was closed before it had stored %d things as it should", len(undone))
        for _, instead in undone:
            if instead is not None:
                self._safely(instead)
        self._thread.join(timeout)

    def _run(self) -> None:
        next_round = time.monotonic() + self._every
        while True:
            with self._changed:
                left = next_round - time.monotonic() if self._rounds is not None else None
                self._changed.wait_for(lambda: self._work or self._closed, left)
                if self._closed:
                    return
                task = self._work.popleft() if self._work else None
                self._busy = task is not None
            if task is not None:
                self._safely(task[0])
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
            now = time.monotonic()
            if self._rounds is not None and now >= next_round:
                next_round = now + self._every
                self._safely(self._rounds, now)

    def _safely(self, work: Callable[..., object], *what: Any) -> None:
        try:
            work(*what)
        except Exception as error:
            kind = type(error).__name__
            if kind not in self._said:
                self._said.add(kind)
                # Not its text: that may quote what passed by.
                log.error("the logging plugin's upkeep failed: %s; said once, it goes on", kind)
