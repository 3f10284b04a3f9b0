"""The one thread that writes, behind the journal.

Traffic must never wait for the log. So `put` only appends to the journal (see `journal.py`) and wakes the thread. The
thread takes batches; a batch that cannot be written now stays at the head of the journal and is tried again with
growing pauses. What does not fit is dropped, counted and said aloud: the count is honest, because rows can only leave
in two ways (written, or counted in `dropped`).

A finished row waits a moment for company; one of a request that has just begun waits longer, because the row of its
end often overtakes it, and then only that one is written.

Whether a failure is worth another try is the database's knowledge: `write` raises `UnwritableError` for "not now".
Anything else means that some row itself is bad; then the batch is halved until that one is alone, and only it is lost
(to a `.bad` file, see `bad_lines.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import Final

import msgspec

from streamfold.store.database import UnwritableError
from streamfold.store.journal import Batch, Journal
from streamfold.store.row import LogRow

__all__ = ["Writer"]

log = logging.getLogger("streamfold.store")

BATCH_ROWS: Final = 500
BATCH_BYTES: Final = 8 * 1024 * 1024
LONG_LINGER: Final = 0.25
"""Seconds that a row in flight waits for its end to overtake it."""
UPKEEP: Final = 5.0
"""Seconds between two heartbeats."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
SAY_AGAIN: Final = 10.0
"""Seconds between two complaints of the same kind."""
_NEVER: Final = float("inf")


class Writer:
    """Hands the rows of a journal to `write` in batches, from a thread of its own.

    `upkeep` is called by that thread at once and then every few seconds, `farewell` when all is written at the end; it
    returns whether nothing of this process needs looking after.
    """

    def __init__(
        self,
        journal: Journal,
        write: Callable[[Sequence[LogRow]], None],
        *,
        linger: float = 0.02,
        upkeep: Callable[[], object] = lambda: None,
        farewell: Callable[[], bool] = lambda: True,
    ) -> None:
        self._journal = journal
        self._write = write
        self._linger = linger
        self._upkeep = upkeep
        self._farewell = farewell
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(LogRow)
        self._changed = Condition()
        self._due = _NEVER
        self._next_upkeep = 0.0
        self._kept_up = False
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
        return self._journal.rows

    def put(self, row: LogRow) -> bool:
        """Takes a row; never waits for the database, never raises. Returns whether there was room for it."""
        in_flight = row.status == "processing"
        if in_flight and row.instance is None:
            row.instance = self._journal.instance
        try:
            line = self._encoder.encode(row) + b"\n"
        except Exception as error:
            self._drop(1, "encode", "row %s cannot be written and is dropped: %s", row.id, type(error).__name__)
            return False
        due = time.monotonic() + (max(self._linger, LONG_LINGER) if in_flight else self._linger)
        with self._changed:
            taken = self._deadline is None and self._journal.add(line)
            if taken and due < self._due:
                self._due = due
                self._changed.notify_all()
        if not taken:
            self._drop(1, "full", "the log cannot keep up: %d rows dropped so far", self.dropped + 1)
        return taken

    def flush(self, timeout: float) -> bool:
        """Waits until every row is written, those of dead processes too. Returns whether that was so in time."""
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._kept_up and not self._journal.rows, timeout)
            finally:
                self._hurry -= 1

    def close(self, timeout: float) -> None:
        """Takes no more rows, writes what waits, and ends the thread.

        What cannot be written in time stays in the journal for the next process; only rows in memory are lost.
        """
        with self._changed:
            if self._deadline is None:
                self._deadline = time.monotonic() + timeout
            self._changed.notify_all()
        self._thread.join(timeout + 1)
        if self._thread.is_alive():
            # It hangs in the database. Its journal must stay as it is; the lock goes when the process does.
            log.error("the log database does not answer; %d rows wait in %s", self.waiting, self._journal.directory)

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while self._wait_for_work():
                try:
                    self._keep_up()
                    self._write_next()
                    if pause > FIRST_PAUSE:
                        log.warning("the log database takes rows again; %d wait", self.waiting)
                    pause = FIRST_PAUSE
                except Exception as error:  # this thread has no second life
                    self._complain("away", "cannot write the log database (%s); %d rows wait", error, self.waiting)
                    if not self._rest(pause):
                        break
                    pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self._end()

    def _wait_for_work(self) -> bool:
        """Waits until there is something to do. Returns false when there is nothing and nothing will come."""
        with self._changed:
            while True:
                now = time.monotonic()
                waiting = self._journal.rows
                if self._deadline is not None:
                    return now < self._deadline and (waiting > 0 or not self._kept_up)
                if now >= min(self._due, self._next_upkeep) or (self._hurry and (waiting or not self._kept_up)):
                    return True
                self._changed.wait(min(self._due, self._next_upkeep) - now)

    def _keep_up(self) -> None:
        """Does the upkeep if it is time for it. Raises `UnwritableError`."""
        if time.monotonic() < self._next_upkeep:
            return
        try:
            self._upkeep()
        except UnwritableError:
            raise
        except Exception as error:
            self._complain("upkeep", "the log's upkeep failed: %s: %s", type(error).__name__, error)
        with self._changed:
            self._next_upkeep = time.monotonic() + UPKEEP
            self._kept_up = True
            if self._journal.rows:
                self._due = 0.0
            self._changed.notify_all()

    def _write_next(self) -> None:
        """Writes one batch, if there is one. Raises `UnwritableError`; what is not written stays."""
        with self._changed:
            self._due = _NEVER
        try:
            batch = self._journal.head(BATCH_ROWS, BATCH_BYTES)
            if batch is None:
                return
            self._write_rows(self._rows_of(batch))
        except BaseException:
            with self._changed:
                self._due = 0.0
            raise
        with self._changed:
            self._journal.done(batch)
            waiting = self._journal.rows
            if waiting:
                self._due = 0.0 if waiting >= BATCH_ROWS else min(self._due, time.monotonic() + self._linger)
            elif self._journal.drained():
                # What a dead process left is written; what it had in flight can be closed now.
                self._next_upkeep, self._kept_up = 0.0, False
            self._changed.notify_all()

    def _rows_of(self, batch: Batch) -> list[LogRow]:
        rows = []
        for line in batch.lines:
            try:
                rows.append(self._decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._journal.bad.add(line)
                self._drop(1, "damaged", "a damaged line is set aside in %s", self._journal.directory)
        if batch.lost:
            self._drop(batch.lost, "lost", "somebody removed %d rows from %s", batch.lost, self._journal.directory)
        return rows

    def _write_rows(self, rows: list[LogRow]) -> None:
        if not rows:
            return
        try:
            self._write(rows)
        except UnwritableError:
            raise
        except Exception as error:
            if len(rows) == 1:
                self._journal.bad.add(self._encoder.encode(rows[0]))
                message = "row %s cannot be written and is set aside: %s"
                self._drop(1, f"row {rows[0].id}", message, rows[0].id, type(error).__name__)
                return
            half = len(rows) // 2
            self._write_rows(rows[:half])
            self._write_rows(rows[half:])

    def _rest(self, pause: float) -> bool:
        """Waits before another try. Returns false when there is no time for one."""
        until = time.monotonic() + pause
        with self._changed:
            while (left := until - time.monotonic()) > 0:
                if self._deadline is not None and time.monotonic() + FIRST_PAUSE > self._deadline:
                    return False
                self._changed.wait(min(left, FIRST_PAUSE))
        return True

    def _end(self) -> None:
        done = False
        kept = self._journal.rows - self._journal.in_memory
        if not self._journal.rows:
            try:
                done = self._farewell()
            except Exception as error:
                log.error("the log could not sign off: %s", error)
        lost = self._journal.close(forget=done)
        if kept:
            log.warning("%d rows wait in %s; the next start writes them", kept, self._journal.directory)
        if lost:
            self._drop(lost, "closed", "the log was closed with %d rows in memory; they are lost", lost)

    def _drop(self, count: int, kind: str, message: str, *values: object) -> None:
        with self._changed:
            self.dropped += count
            self._complain(kind, message, *values)

    def _complain(self, kind: str, message: str, *values: object) -> None:
        now = time.monotonic()
        if now - self._said.get(kind, -SAY_AGAIN) >= SAY_AGAIN:
            self._said[kind] = now
            log.error(message, *values)
