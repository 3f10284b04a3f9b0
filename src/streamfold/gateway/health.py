"""Whether the gateway lives (`/healthz`) and whether it should be sent requests (`/readyz`).

Live: the event loop answers. Nothing else, because the cure for "not live" is a restart, and that mends no database.

Ready: it listens, is not told to stop, and no row of the log is being lost. A database that is away does not make it
unready, as long as rows can wait in their files. Nor does a plugin that loses responses (a collector that is away):
that is said in the answer, but all gateways have the same collector, and none would be left to serve.

Both are for everybody, so they name no address, no database and no key.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from streamfold.gateway.replies import Send, reply
from streamfold.pipeline import Pipeline
from streamfold.store.log_store import LogStore

__all__ = ["Health"]

RECENTLY: Final = 60.0
"""Seconds for which a loss counts as going on."""
BACKLOG: Final = 1000
"""Rows: when more wait, the database is away or too slow."""


class _Losses:
    """Whether a count of losses has risen lately."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._seen = 0
        self._until = 0.0

    def going_on(self) -> bool:
        count, now = self._count(), time.monotonic()
        if count > self._seen:
            self._seen, self._until = count, now + RECENTLY
        return now < self._until


class Health:
    """What the two paths answer. Set `listening` when the gateway does, and unset it when it is told to stop."""

    def __init__(self, store: LogStore, pipeline: Pipeline) -> None:
        self.listening = False
        self._store = store
        self._log = _Losses(lambda: store.dropped)
        self._plugins = {
            status.name: _Losses(lambda place=place: pipeline.status()[place].dropped)  # type: ignore[misc]
            for place, status in enumerate(pipeline.status())
        }

    async def answer(self, path: str, send: Send) -> None:
        """Answers a request for `/healthz` or `/readyz`."""
        if path == "/healthz":
            await reply(send, 200, {"status": "ok"})
            return
        told = self.readiness()
        await reply(send, 200 if told["status"] == "ready" else 503, told)

    def readiness(self) -> dict[str, Any]:
        """The answer of `/readyz`."""
        losing = self._log.going_on()
        log = "losing rows" if losing else "waiting for the database" if self._store.waiting > BACKLOG else "ok"
        plugins = {name: "losing responses" if losses.going_on() else "ok" for name, losses in self._plugins.items()}
        status = "not listening" if not self.listening else "losing rows" if losing else "ready"
        return {"status": status, "log": log, "plugins": plugins}
