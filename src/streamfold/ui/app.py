"""The page as an ASGI application, mounted by the gateway below `/`, `/ui/` and `/api/`.

It only reads, hence knows GET and HEAD and nothing else. Questions to the log run on a few threads of their own: they
never hold up the event loop that streams run in, only so many run at once, and an answer is waited for only so long.

Who may ask is the gateway's rule and not decided here. What the browser may do is decided here, by headers on every
answer: scripts and styles from this address only, nothing inline, no frame around it. Three things are allowed beyond
that, for plotly.js: the empty style element that it fills through the CSSOM (allowed by the hash of nothing), pictures
from `data:`, and nothing else; where it would do more, it is refused by the policy and draws as well without.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import msgspec

from streamfold.errors import UsageError
from streamfold.hooks import RequestContext
from streamfold.store.log_store import LogStore
from streamfold.store.row import LogRow
from streamfold.ui.answers import as_whole_row
from streamfold.ui.api import QUESTIONS, row
from streamfold.ui.assets import Asset, asset
from streamfold.ui.live import LIVE, Feed
from streamfold.ui.sights import Ask, InFlight, Look, OwnSight

__all__ = ["PREFIXES", "Page"]

log = logging.getLogger("streamfold.ui")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PREFIXES: Final = ("/ui/", "/api/")
"""What is the page's, besides `/`."""
THREADS: Final = 4
MOST_WAITING: Final = 32
"""Questions that may wait for a thread."""
PATIENCE: Final = 20.0
"""Seconds that an answer of the log is waited for."""
ROW: Final = "row"
"""The question that workers ask each other for one row."""
MOST_WATCHERS: Final = 32
MOST_QUERY: Final = 8192
NOTHING: Final = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
"""The hash of an empty inline style."""

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' {NOTHING}",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Final = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def _nothing(ctx: RequestContext, /, *, arrivals: bool = False) -> LogRow | None:
    return None


class Page:
    """The page of one log.

    `live` holds the requests that are under way in this process, by id, and may change at any time; `look` makes the
    row of one of them (`LoggingPlugin.look`). Without them the page shows what the log knows.

    Where several workers serve one page, `ask` asks the others, and `answers` is what they may ask this one.
    """

    def __init__(
        self,
        store: LogStore,
        live: Mapping[str, InFlight] | None = None,
        look: Look | None = None,
        ask: Ask | None = None,
    ) -> None:
        self._store = store
        self._live = live if live is not None else {}
        self._look = look or _nothing
        self._ask = ask
        self._own = OwnSight(store.instance or "", self._live, self._look)
        self.answers: Mapping[str, Callable[[str], bytes]] = {
            LIVE: lambda _: msgspec.json.encode(self._own.see()),
            ROW: lambda id: _as_json(self._row_here, id) or b"",
        }
        self._threads = ThreadPoolExecutor(THREADS, "streamfold-page")
        self._waiting = 0
        # Threads of its own, to look and to ask: the live view does not wait for somebody's slow question.
        self._eyes = ThreadPoolExecutor(2, "streamfold-live")
        self._feed: Feed | None = None
        self._closed = False

    def close(self) -> None:
        """Ends the event streams. Call it before the server stops, which else would wait for them."""
        self._closed = True
        if self._feed is not None:
            self._feed.close()
        for threads in (self._threads, self._eyes):
            threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry, for HTTP only."""
        answer = Answer(scope, send)
        path: str = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            await answer.error(405, "method_not_allowed", "this only reads; use GET", [(b"allow", b"GET, HEAD")])
        elif path == "/api/live":
            await self._tell(answer, receive)
        elif path.startswith("/api/"):
            await self._answer(answer, path.removeprefix("/api/"), scope["query_string"])
        else:
            await self._file(answer, "index.html" if path == "/" else path.removeprefix("/ui/"))

    # ------------------------------------------------------------------ files

    async def _file(self, answer: Answer, name: str) -> None:
        found = await asyncio.to_thread(asset, name)
        if found is not None:
            await answer.file(found)
        elif name.startswith("plotly"):
            await answer.error(404, "no_plots", 'plots need plotly; install it with pip install "streamfold[ui]"')
        else:
            await answer.error(404, "not_found", "there is no such file")

    # ------------------------------------------------------------------ questions

    async def _answer(self, answer: Answer, what: str, query: bytes) -> None:
        name, slash, id = what.partition("/")
        question = QUESTIONS.get(name)
        if question is None or (slash and (name != "rows" or not id)):
            await answer.error(404, "not_found", "there is no such question; /api/schema lists them")
            return
        if len(query) > MOST_QUERY:
            await answer.error(414, "query_too_long", f"the query is longer than {MOST_QUERY} bytes; use fewer filters")
            return
        try:
            if slash:
                found = await self._on_thread(self._row, unquote(id))
            else:
                pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
                found = await self._on_thread(question, self._store, [pair for pair in pairs if pair[1]])
        except UsageError as mistake:
            await answer.error(400, "bad_query", str(mistake))
        except _BusyError:
            await answer.error(503, "busy", "too many questions wait for the log database; try again in a moment")
        except TimeoutError:
            message = f"the log database took longer than {PATIENCE:.0f} s; ask for less, such as a shorter time"
            await answer.error(503, "log_slow", message)
        except Exception as error:
            log.error("the log database cannot be read: %s", type(error).__name__)
            message = f"the log database cannot be read now ({type(error).__name__}); the gateway goes on"
            await answer.error(503, "log_unreadable", message)
        else:
            if found is None:
                await answer.error(404, "no_such_row", "there is no row of that id")
            else:
                await answer.json(found)

    def _row(self, id: str) -> Any:
        here = self._row_here(id)
        if here is not None:
            return here
        stored = row(self._store, id)
        if stored is not None and stored.status != "processing":
            return stored
        return self._row_elsewhere(id) or stored

    def _row_here(self, id: str) -> Any:
        flight = self._live.get(id)
        now = self._look(flight.ctx, arrivals=True) if flight is not None else None
        return as_whole_row(now, live=True) if now is not None else None

    def _row_elsewhere(self, id: str) -> msgspec.Raw | None:
        """The row of a request that another worker has under way, as it says."""
        for answer in self._ask(ROW, id) if self._ask is not None else ():
            try:
                return msgspec.json.decode(answer, type=msgspec.Raw)
            except msgspec.DecodeError:
                continue  # not there, or it died while it answered
        return None

    async def _on_thread(self, question: Callable[..., Any], *about: Any) -> bytes | None:
        """The answer as JSON. A thread that is too slow goes on until it is done, and holds its place until then."""
        if self._waiting >= THREADS + MOST_WAITING or self._closed:
            raise _BusyError
        self._waiting += 1
        asked = asyncio.get_running_loop().run_in_executor(self._threads, _as_json, question, *about)
        asked.add_done_callback(self._one_less)
        return await asyncio.wait_for(asyncio.shield(asked), PATIENCE)

    def _one_less(self, asked: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not asked.cancelled():
            asked.exception()  # it may come too late for anybody to hear it

    # ------------------------------------------------------------------ live

    async def _tell(self, answer: Answer, receive: Receive) -> None:
        if self._feed is None:
            self._feed = Feed(self._store, self._own, self._eyes, self._ask)
        if self._feed.watchers >= MOST_WATCHERS or self._closed:
            await answer.error(503, "busy", f"{MOST_WATCHERS} pages watch already; close one")
            return
        if answer.head:
            await answer.whole(200, b"", b"text/event-stream")
            return
        telling = asyncio.create_task(self._tell_all(answer, self._feed))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((telling, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (telling, leaving):
                task.cancel()
            await asyncio.gather(telling, leaving, return_exceptions=True)

    async def _tell_all(self, answer: Answer, feed: Feed) -> None:
        await answer.begin_events()
        events = feed.events()
        try:
            async for event in events:
                await answer.more(event)
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        await answer.end()


class _BusyError(Exception):
    """There is no room for another question."""


def _as_json(question: Callable[..., Any], *about: Any) -> bytes | None:
    found = question(*about)
    return msgspec.json.encode(found) if found is not None else None


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Answer:
    """The one way in which anything is answered here."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._asked: dict[bytes, bytes] = dict(scope["headers"])
        self.head = scope["method"] == "HEAD"

    async def whole(
        self, status: int, body: bytes, kind: bytes, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Answers with a body."""
        about = headers or [(b"cache-control", b"no-store")]
        size = [(b"content-type", kind), (b"content-length", str(len(body)).encode())] if status != 304 else []
        await self._send({"type": "http.response.start", "status": status, "headers": [*size, *about, *HEADERS]})
        await self._send({"type": "http.response.body", "body": b"" if self.head else body, "more_body": False})

    async def json(self, body: bytes) -> None:
        """Answers a question."""
        await self.whole(200, body, b"application/json")

    async def error(
        self, status: int, kind: str, message: str, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Says what is wrong, and what to do."""
        body = msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
        await self.whole(status, body, b"application/json", [(b"cache-control", b"no-store"), *(headers or [])])

    async def file(self, found: Asset) -> None:
        """Answers with a file, or with the news that the browser has it already."""
        about = [(b"cache-control", b"no-cache"), (b"etag", found.etag.encode()), (b"vary", b"accept-encoding")]
        if self._asked.get(b"if-none-match", b"").decode("latin-1") == found.etag:
            await self.whole(304, b"", b"", about)
        elif b"gzip" in self._asked.get(b"accept-encoding", b""):
            about.append((b"content-encoding", b"gzip"))
            await self.whole(200, found.zipped, found.kind.encode(), about)
        else:
            await self.whole(200, found.body, found.kind.encode(), about)

    async def begin_events(self) -> None:
        """Begins a stream of events."""
        about = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), *HEADERS]
        await self._send({"type": "http.response.start", "status": 200, "headers": about})

    async def more(self, event: bytes) -> None:
        """Sends an event."""
        await self._send({"type": "http.response.body", "body": event, "more_body": True})

    async def end(self) -> None:
        """Ends the stream of events."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
