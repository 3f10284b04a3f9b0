"""The gateway as an ASGI application: whose a request is, and which requests are under way.

What begins with an upstream's name is an exchange with that upstream (`exchange`); everything else is a page of our own
(`own_pages`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from streamfold.gateway.config import Config
from streamfold.gateway.exchange import Exchange, Exchanges
from streamfold.gateway.own_pages import Metrics, OwnPages
from streamfold.gateway.replies import (
    NO_WEBSOCKET,
    Receive,
    Scope,
    Send,
    answer_lifespan,
    raw_path,
    refuse_websocket,
    reply_error,
    wants_websocket,
)
from streamfold.gateway.routes import find_route
from streamfold.gateway.upstream import UpstreamClient
from streamfold.gateway.witness import Witness, load_folds
from streamfold.pipeline import Pipeline
from streamfold.store.log_store import LogStore
from streamfold.stream import Catalog
from streamfold.ui import Ask, Page

__all__ = ["Gateway"]


class Gateway:
    """Passes requests on to the configured upstreams and tells the plugins of each.

    `store` is what `/logs` shows, `metrics` what `/metrics` does: the wanted type in, the text and its type out. `ask`
    asks the other workers, when this is one of several.
    """

    def __init__(
        self,
        config: Config,
        client: UpstreamClient,
        pipeline: Pipeline,
        store: LogStore,
        *,
        catalog: Catalog | None = None,
        metrics: Metrics | None = None,
        ask: Ask | None = None,
    ) -> None:
        self._upstreams = config.routes()
        self.live: dict[str, Witness] = {}
        """The exchanges that are under way, by request id."""
        # The log's plugin knows what of a request may be shown; without it the page shows what is stored.
        looks = [plugin.look for plugin in pipeline.plugins if hasattr(plugin, "look")]
        self.page = Page(store, self.live, next(iter(looks), None), ask)
        self._own_pages = OwnPages(config, store, metrics, self.page)
        self._exchanges = Exchanges(config, client, pipeline, catalog, self.live)
        self._open: set[asyncio.Task[Any]] = set()
        load_folds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        kind = scope["type"]
        if kind == "lifespan":
            await answer_lifespan(receive, send)
        elif kind == "websocket":
            await refuse_websocket(scope, receive, send)
        elif wants_websocket(scope):
            await reply_error(send, 501, "websocket_not_supported", NO_WEBSOCKET)
        else:
            await self._http(scope, receive, send)

    async def close(self) -> None:
        """Ends the exchanges that are still open, each with its row."""
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = raw_path(scope)
        route = find_route(self._upstreams, path)
        if route is None:
            await self._own_pages(scope, receive, send, path)
            return
        this = asyncio.current_task()
        assert this is not None
        self._open.add(this)
        try:
            await Exchange(self._exchanges, self._upstreams, scope, receive, send, route).run()
        finally:
            self._open.discard(this)
