"""What stands between the traffic and Maxim: a bounded queue and the one thread that empties it.

The SDK has a writer of its own. It is not used, because of what it does when the service is slow or away: it writes
the waiting lines (prompts and answers, in plain text) into files below the system's temporary directory, without a
limit, readable by every user of the machine, and nobody sends them after the process has ended; its workers retry for
minutes and hold up the end of the program as long. Here lines wait in memory up to a limit. What does not fit is
dropped, counted and said aloud: the log store is what keeps everything, this is a copy for reading.

A request's lines are one unit: they are sent together and in order, or not at all. A unit is sent again after a
failure, so that one whose answer was lost may arrive twice; its ids are the same both times.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Final

import httpx

__all__ = ["Sender"]

log = logging.getLogger("streamfold.plugins.maxim")

BATCH_BYTES: Final = 4 * 1024 * 1024
BATCH: Final = 100
"""Requests that are sent in one go."""
FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 30.0
SAY_AGAIN: Final = 60.0
"""Seconds between two complaints of the same kind."""
REFUSED: Final = frozenset({400, 413, 422})
"""HTTP statuses that say the lines themselves are wrong. Any other failure is worth another try."""


class _UnavailableError(Exception):
    """Maxim does not take lines now; later it may."""


class Sender:
    """Hands units of lines to `push`, joined, from a thread of its own. `linger` is how long a first one waits."""

    def __init__(self, push: Callable[[str], None], *, max_bytes: int, linger: float) -> None:
        self._push = push
        self._max_bytes = max_bytes
        self._linger = linger
        self._units: deque[str] = deque()
        self._bytes = 0
        self._changed = Condition()
        self._hurry = 0
        self._deadline: float | None = None
        self._said: dict[str, float] = {}
        self._thread: Thread | None = None
        self.dropped = 0
        """Requests that were never sent and never will be."""
        self.sent = 0
        """Requests that Maxim has taken."""

    @property
    def waiting(self) -> int:
        """Requests that are not sent yet."""
        return len(self._units)

    def put(self, unit: str) -> bool:
        """Takes the lines of a request; never waits. Returns whether there was room."""
        with self._changed:
            full = bool(self._units) and self._bytes + len(unit) > self._max_bytes
            if full or self._deadline is not None:
                self.dropped += 1
                self._complain("full", "Maxim does not keep up: %d requests dropped so far", self.dropped)
                return False
            self._units.append(unit)
            self._bytes += len(unit)
            if self._thread is None:
                # A daemon: a send that hangs must not keep the program from ending.
                self._thread = Thread(target=self._run, name="streamfold-maxim-sender", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def flush(self, timeout: float) -> bool:
        """Waits until everything is sent. Returns whether that was so in time."""
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._units, timeout)
            finally:
                self._hurry -= 1

    def close(self, timeout: float) -> None:
        """Takes no more, sends what waits, and ends the thread. What cannot be sent in time is dropped."""
        with self._changed:
            if self._deadline is not None:
                return
            self._deadline = time.monotonic() + timeout
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        with self._changed:
            if self._units:
                self.dropped += len(self._units)
                log.error("closed with %d requests not sent to Maxim; they are dropped", len(self._units))
                self._units.clear()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while batch := self._next_batch():
            try:
                self._deliver(batch)
                pause = FIRST_PAUSE
            except _UnavailableError as error:
                self._complain("away", "cannot send to Maxim (%s); %d requests wait", error, self.waiting)
                if not self._rest(pause):
                    return
                pause = min(pause * 2, LONGEST_PAUSE)

    def _next_batch(self) -> list[str]:
        """The oldest units; empty when there are none and none will come. They stay in the queue until sent."""
        with self._changed:
            self._changed.wait_for(lambda: self._units or self._deadline is not None)
            self._changed.wait_for(self._should_go, self._linger)
            batch: list[str] = []
            size = 0
            for unit in self._units:
                size += len(unit)
                if batch and (size > BATCH_BYTES or len(batch) == BATCH):
                    break
                batch.append(unit)
            return batch

    def _should_go(self) -> bool:
        big = len(self._units) >= BATCH or self._bytes >= BATCH_BYTES
        return big or self._hurry > 0 or self._deadline is not None

    def _deliver(self, batch: list[str]) -> None:
        """Sends the units and takes them off the queue. Raises `_UnavailableError`; what is not sent stays."""
        try:
            self._push("\n".join(batch))
        except Exception as error:
            reason, refused = _reason(error)
            if not refused:
                raise _UnavailableError(reason) from None
            if len(batch) > 1:  # one of them is bad; the others must not go with it
                half = len(batch) // 2
                self._deliver(batch[:half])
                self._deliver(batch[half:])
                return
            self._complain("refused", "Maxim refused the lines of a request (%s); they are dropped", reason)
            self._forget(1, sent=False)
        else:
            self._forget(len(batch), sent=True)

    def _forget(self, count: int, *, sent: bool) -> None:
        with self._changed:
            for _ in range(min(count, len(self._units))):  # closing may have been quicker
                self._bytes -= len(self._units.popleft())
                if sent:
                    self.sent += 1
                else:
                    self.dropped += 1
            self._changed.notify_all()

    def _rest(self, pause: float) -> bool:
        """Waits before another try; not long when somebody waits for the end. False when there is no time for one."""
        until = time.monotonic() + pause
        with self._changed:
            while (left := until - time.monotonic()) > 0:
                if self._deadline is not None:
                    left = min(left, FIRST_PAUSE)
                    if time.monotonic() + left > self._deadline:
                        return False
                    self._changed.wait(left)
                    return True
                self._changed.wait(left)
        return True

    def _complain(self, kind: str, message: str, *values: object) -> None:
        now = time.monotonic()
        if now - self._said.get(kind, -SAY_AGAIN) >= SAY_AGAIN:
            self._said[kind] = now
            log.error(message, *values)


def _reason(error: BaseException | None) -> tuple[str, bool]:
    """Why a push failed, in words that quote nothing, and whether the lines themselves are to blame.

    The SDK wraps every failure into a bare `Exception`, some of them twice; the cause is what it began with.
    """
    while error is not None:
        if isinstance(error, httpx.HTTPStatusError):
            status = error.response.status_code
            return f"HTTP {status}", status in REFUSED
        if isinstance(error, httpx.HTTPError | OSError):
            return type(error).__name__, False
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            return "its answer is no JSON; check base_url", False
        if error.__cause__ is None:
            break
        error = error.__cause__
    # The SDK raises an error that Maxim's answer tells as it is; one that is told oddly, it stumbles over.
    refused = type(error) is Exception or isinstance(error, KeyError | TypeError)
    return "its answer was an error" if refused else type(error).__name__, refused
