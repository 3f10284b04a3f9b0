"""The gateway's own pages: the page, the log, the figures. Everything else is some upstream's.

Who may see them was asked at the door (`access`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from streamfold.gateway.config import Config
from streamfold.gateway.headers import header
from streamfold.gateway.replies import Receive, Scope, Send, reply, reply_bytes, reply_error
from streamfold.store.log_store import LogStore
from streamfold.store.row import HEAVY, LogRow
from streamfold.ui import PREFIXES, Page

__all__ = ["Metrics", "OwnPages"]

log = logging.getLogger("streamfold.gateway")

Metrics = Callable[[str | None], tuple[bytes, str]]
"""The wanted content type in; the text and its type out."""

MOST_ROWS: Final = 1000


class OwnPages:
    """Answers requests for what is the gateway's own."""

    def __init__(self, config: Config, store: LogStore, metrics: Metrics | None, page: Page) -> None:
        self._store = store
        self._metrics = metrics
        self._page = page
        self._names = ", ".join(f"/{name}/" for name in sorted(config.routes()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        """The one place where our own paths are told apart; what is none of them is not found."""
        if path == "/metrics" and self._metrics is not None:
            text, kind = await asyncio.to_thread(self._metrics, header(scope["headers"], b"accept"))
            await reply_bytes(send, 200, text, kind.encode())
        elif path == "/logs" or path.startswith("/logs/"):
            await self._logs(scope, send, path.removeprefix("/logs").removeprefix("/"))
        elif path == "/" or path.startswith(PREFIXES):
            await self._page(scope, receive, send)
        else:
            await reply_error(send, 404, "not_found", f"no upstream is called that; paths begin with {self._names}")

    async def _logs(self, scope: Scope, send: Send, id: str) -> None:
        """The last rows, or one row."""
        try:
            if id:
                row = await asyncio.to_thread(self._store.get, id)
                found: Any = _light(row, heavy=True) if row is not None else None
            else:
                limit = _limit(scope["query_string"])
                found = [_light(row) for row in await asyncio.to_thread(self._store.rows, limit)]
        except Exception as error:
            log.error("the log database cannot be read: %s", type(error).__name__)
            await reply_error(send, 503, "log_unreadable", "the log database cannot be read now")
            return
        if found is None:
            await reply_error(send, 404, "not_found", "there is no row of that id")
        else:
            await reply(send, 200, found)


def _limit(query: bytes) -> int:
    for pair in query.decode("latin-1").split("&"):
        name, _, value = pair.partition("=")
        if name == "limit" and value.isascii() and value.isdigit():
            return min(int(value), MOST_ROWS)
    return 50


def _light(row: LogRow, heavy: bool = False) -> dict[str, Any]:
    """A row as JSON; with `heavy`, its record as an object too."""
    shown: dict[str, Any] = msgspec.structs.asdict(row)
    for name in HEAVY:
        value = shown.pop(name)
        if heavy:
            shown[name] = value
    if heavy and row.record is not None:
        shown["record"] = msgspec.Raw(row.record.encode())
    return shown
