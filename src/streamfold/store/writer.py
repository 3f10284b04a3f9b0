"""The one thread that writes, and the bounded queue before it.

Traffic must never wait for the log, and memory must not grow while the disk is full. So `put` only appends under a
short lock. The thread takes batches; a batch that cannot be written now stays at the head of the queue and is tried
again with growing pauses. What does not fit is dropped, counted and said aloud: the count is honest, because rows can
only leave in two ways (written, or counted in `dropped`).

Whether a failure is worth another try is the caller's knowledge: `write` raises `UnwritableError` for "not now".
Anything else means that some row itself is bad; then the batch goes row by row and only the bad one is lost.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from threading import Condition, Thread
from typing import Final

from streamfold.store.row import LogRow

__all__ = ["BatchWriter", "UnwritableError"]

log = logging.getLogger("streamfold.store")

BATCH: Final = 500
LINGER: Final = 0.02
"""Seconds that a first row waits for company."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
SAY_AGAIN: Final = 10.0
"""Seconds between two complaints of the same kind."""


class UnwritableError(Exception):
    """The database cannot take rows now; later it may."""


class BatchWriter:
    """Hands rows to `write` in batches, in the order they came, from a thread of its own."""

    def __init__(self, write: Callable[[Sequence[LogRow]], None], *, max_rows: int, max_bytes: int) -> None:
        self._write = write
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._rows: deque[LogRow] = deque()
        self._bytes = 0
        self._changed = Condition()
        self._hurry = 0
        self._deadline: float | None = None
        self._said: dict[str, float] = {}
        self.dropped = 0
        """Rows that were never written and never will be."""
        self._thread = Thread(target=self._run, name="streamfold-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that are not written yet."""
        return len(self._rows)

    def put(self, row: LogRow) -> bool:
        """Takes a row; never waits. Returns whether there was room for it."""
        with self._changed:
            size = row.size
            if self._deadline is not None or self._is_full(size):
                self.dropped += 1
                self._complain("full", "the log cannot keep up: %d rows dropped so far", self.dropped)
                return False
            self._rows.append(row)
            self._bytes += size
            self._changed.notify_all()
            return True

    def flush(self, timeout: float) -> bool:
        """Waits until every row is written. Returns whether that was so in time."""
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._rows, timeout)
            finally:
                self._hurry -= 1

    def close(self, timeout: float) -> None:
        """Takes no more rows, writes what waits, and ends the thread. What cannot be written in time is dropped."""
        with self._changed:
            if self._deadline is None:
                self._deadline = time.monotonic() + timeout
            self._changed.notify_all()
        self._thread.join(timeout + 1)
        with self._changed:
            if self._rows:
                self.dropped += len(self._rows)
                log.critical("the log was closed with %d rows unwritten; they are lost", len(self._rows))
                self._rows.clear()

    def _is_full(self, size: int) -> bool:
        # One row always fits, however large: otherwise it could never be written at all.
        return len(self._rows) >= self._max_rows or (bool(self._rows) and self._bytes + size > self._max_bytes)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while batch := self._next_batch():
            try:
                self._write_batch(batch)
                pause = FIRST_PAUSE
            except UnwritableError as error:
                self._complain("unwritable", "cannot write the log database (%s); %d rows wait", error, self.waiting)
                if not self._rest(pause):
                    return
                pause = min(pause * 2, LONGEST_PAUSE)

    def _next_batch(self) -> list[LogRow]:
        """The oldest rows; empty when there are none and none will come. They stay in the queue until written."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._deadline is not None)
            self._changed.wait_for(self._should_go, LINGER)
            return list(islice(self._rows, BATCH))

    def _should_go(self) -> bool:
        return len(self._rows) >= BATCH or self._hurry > 0 or self._deadline is not None

    def _rest(self, pause: float) -> bool:
        """Waits before another try. Returns false when there is no time for one."""
        until = time.monotonic() + pause
        with self._changed:
            while (left := until - time.monotonic()) > 0:
                if self._deadline is not None and time.monotonic() + FIRST_PAUSE > self._deadline:
                    return False
                self._changed.wait(min(left, FIRST_PAUSE))
        return True

    def _write_batch(self, batch: list[LogRow]) -> None:
        """Writes the rows and takes them off the queue. Raises `UnwritableError`; what is not written stays."""
        try:
            self._write(batch)
        except UnwritableError:
            raise
        except Exception:
            for row in batch:
                self._write_one(row)
        else:
            self._forget(len(batch))

    def _write_one(self, row: LogRow) -> None:
        try:
            self._write([row])
        except UnwritableError:
            raise
        except Exception as error:
            log.error("row %s cannot be written and is dropped: %s", row.id, type(error).__name__)
            with self._changed:
                self.dropped += 1
        self._forget(1)

    def _forget(self, count: int) -> None:
        with self._changed:
            for _ in range(count):
                self._bytes -= self._rows.popleft().size
            self._changed.notify_all()

    def _complain(self, kind: str, message: str, *values: object) -> None:
        now = time.monotonic()
        if now - self._said.get(kind, -SAY_AGAIN) >= SAY_AGAIN:
            self._said[kind] = now
            log.error(message, *values)
