"""Ends an attempt that takes too long.

There are many pieces and few timeouts, so no timer is set for a piece. One timer looks, now and then, how long what is
going on has been going on, and sets itself for the moment at which that would be too long. It never sleeps longer than
the shortest timeout there is, so nothing that begins meanwhile can be overlooked.

What the client or a plugin takes is not the upstream's silence: `pause` and `resume` tell who is waited for.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from streamfold.errors import WireError
from streamfold.gateway.upstreams import Patience

__all__ = ["TookTooLongError", "Watchdog"]

WHY: Final = {
    "header": "no answer within {0:g} s",
    "first_token": "no output within {0:g} s",
    "chunk": "nothing came for {0:g} s",
    "total": "the request took longer than {0:g} s",
}


class TookTooLongError(WireError):
    """An upstream was waited for too long. `which` names the timeout."""

    def __init__(self, which: str, seconds: float) -> None:
        super().__init__(WHY[which].format(seconds))
        self.which = which


class Watchdog:
    """Cancels the task that its `with` block runs in, and turns that into a `TookTooLongError`.

    `began` is when the whole request began, in seconds of the event loop's clock.
    """

    def __init__(self, patience: Patience, began: float) -> None:
        self._patience = patience
        self._total_at = began + patience.total if patience.total else None
        self._limits = [seconds for seconds in patience[1:] if seconds]
        self.watches = bool(self._limits)
        """Whether there is any timeout, so that `pause` and `resume` need be called."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._missed: TookTooLongError | None = None
        self._began = self._loop.time()
        self._waiting_for = "header"
        self._since: float | None = self._began
        self._spoken = False

    def __enter__(self) -> Self:
        if self.watches:
            self._task = asyncio.current_task()
            self._look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._missed is None:
            return
        assert self._task is not None
        # If somebody else cancelled the task as well, theirs counts.
        if self._task.uncancel() == 0 and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._missed from None

    def answered(self) -> None:
        """The status line came."""
        self._waiting_for = "chunk"
        self._since = self._loop.time()

    def pause(self) -> None:
        """The upstream is not waited for now."""
        self._since = None

    def resume(self, spoken: bool) -> None:
        """It is waited for again. `spoken` is whether the model has said anything yet."""
        self._spoken = spoken
        self._since = self._loop.time()

    def _look(self) -> None:
        now = self._loop.time()
        until, which = self._earliest()
        if until <= now:
            self._missed = TookTooLongError(which, getattr(self._patience, which))
            assert self._task is not None
            self._task.cancel()
            return
        self._timer = self._loop.call_at(min(until, now + min(self._limits)), self._look)

    def _earliest(self) -> tuple[float, str]:
        """When the first of the timeouts would be over, and which it is."""
        patience, found = self._patience, []
        if self._total_at is not None:
            found.append((self._total_at, "total"))
        if self._since is not None:
            seconds = getattr(patience, self._waiting_for)
            if seconds:
                found.append((self._since + seconds, self._waiting_for))
            if patience.first_token and not self._spoken:
                found.append((self._began + patience.first_token, "first_token"))
        return min(found, default=(float("inf"), "total"))
