"""The requests under way, told as they go on.

One loop looks and all browsers that watch hear of it; nobody watching, nothing is looked at. A look costs as much as
the answers are long, so only the newest requests are looked at, on a thread, and the time between two looks grows with
the time that a look took.

What is shown of a request of this process is the row that the logging plugin would store of it at this moment, so what
is kept out of the log (secrets, what callers do not want logged) is kept off the page by the same rule. Requests of
other processes that share the log are shown as their last checkpoint in the store tells them.

Each browser is told of changes only. A text grows at its end, so what is sent is what was added; where it does not
(a pattern struck out what it now sees whole), the end of the text is sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from streamfold.hooks import RequestContext
from streamfold.store.log_store import LogStore
from streamfold.store.query import LogQuery, count, find
from streamfold.store.row import LogRow
from streamfold.ui.answers import Live, Part, Sight, as_row

__all__ = ["Feed", "InFlight", "Look"]

MOST_SHOWN: Final = 24
"""Requests that are told of, of this process and of others each."""
TAIL: Final = 4096
"""Characters of each text that are told of: the page shows the end of it, and the whole in the detail."""
EVERY: Final = 0.25
EVERY_STORE: Final = 1.0
REST: Final = 4.0
"""How many times as long as a look took is waited before the next."""
PING: Final = 15.0
NEWEST: Final = LogQuery(limit=100)
UNDER_WAY: Final = LogQuery(status=("processing",), limit=MOST_SHOWN * 2)


class InFlight(Protocol):
    """A request on its way, as the gateway holds it."""

    @property
    def ctx(self) -> RequestContext:
        """What is known of it."""
        ...


Look = Callable[[RequestContext], LogRow | None]
"""The row of a request as it would be stored now; None if there is none to be had."""


class Seen(NamedTuple):
    """One request at one look: its row, and the end of each of its texts with the place where that end begins."""

    row: Any
    texts: dict[str, tuple[int, str]]


class View(NamedTuple):
    """All that one look saw."""

    seen: dict[str, Seen]
    under_way: int
    log: str
    trouble: str | None


class Feed:
    """Looks at the requests under way for all who watch. Belongs to one event loop."""

    def __init__(self, store: LogStore, live: Mapping[str, InFlight], look: Look, threads: Executor) -> None:
        self._store = store
        self._live = live
        self._look = look
        self._threads = threads
        self._view: View | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._store_seen = StoreSeen(store)
        self.watchers = 0

    async def events(self) -> AsyncIterator[bytes]:
        """What one browser is told, as server-sent events, until the feed is closed."""
        self.watchers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        told: View | None = None
        try:
            while not self._closed:
                view, changed = self._view, self._changed
                if view is not None and view is not told:
                    yield b"event: live\ndata: " + msgspec.json.encode(_news(told, view)) + b"\n\n"
                    told = view
                try:
                    await asyncio.wait_for(changed.wait(), PING)
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            self.watchers -= 1

    def close(self) -> None:
        """Ends all that is told, so that the server can stop."""
        self._closed = True
        self._changed.set()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self.watchers and not self._closed:
            begun = time.monotonic()
            flights = list(self._live.values())
            view = await loop.run_in_executor(self._threads, self._see, flights)
            if view != self._view:
                self._view = view
                self._changed.set()
                self._changed = asyncio.Event()
            await asyncio.sleep(max(EVERY, REST * (time.monotonic() - begun)))
        self._view = None

    def _see(self, flights: list[InFlight]) -> View:
        """One look. Runs on a thread."""
        self._store_seen.refresh(len(flights))
        seen = dict(self._store_seen.elsewhere)
        for flight in reversed(flights[-MOST_SHOWN:]):
            # A request that ends while it is looked at has no row any more, or one that cannot be made.
            try:
                row = self._look(flight.ctx)
            except Exception:
                continue
            if row is not None:
                seen[row.id] = _seen(row)
        under_way = len(flights) + self._store_seen.count
        return View(seen, under_way, self._store_seen.version, self._store_seen.trouble)


class StoreSeen:
    """What the log tells: the requests of other processes, and whether there is anything new."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._next = 0.0
        self._revisions: dict[str, int] = {}
        self.elsewhere: dict[str, Seen] = {}
        self.count = 0
        self.version = ""
        self.trouble: str | None = None

    def refresh(self, ours: int) -> None:
        """Asks the log again, if the last time is long enough ago. `ours`: how many this process has. Never raises."""
        begun = time.monotonic()
        if begun < self._next:
            return
        try:
            self._ask(ours)
            self.trouble = None
        except Exception as error:
            self.trouble = f"the log database cannot be read now ({type(error).__name__})"
        self._next = time.monotonic() + max(EVERY_STORE, REST * (time.monotonic() - begun))

    def _ask(self, ours: int) -> None:
        newest = find(self._store, NEWEST).rows
        self.version = format(hash(tuple((row.id, row.revision) for row in newest)) & 0xFFFFFFFFFFFFFFFF, "x")
        page = find(self._store, UNDER_WAY)
        found = [row for row in page.rows if row.instance != self._store.instance]
        self.count = len(found)
        if page.next_cursor is not None:
            self.count = max(self.count, count(self._store, UNDER_WAY) - ours)
        shown = found[:MOST_SHOWN]
        seen = {}
        for row in shown:
            known = self.elsewhere.get(row.id)
            if known is None or self._revisions.get(row.id) != row.revision:
                whole = self._store.get(row.id)
                known = _seen(whole if whole is not None else row)
            seen[row.id] = known
        self.elsewhere = seen
        self._revisions = {row.id: row.revision for row in shown}


# ---------------------------------------------------------------------- what was said so far


class _Function(msgspec.Struct):
    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct):
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: Any = None
    reasoning: Any = None
    refusal: Any = None
    audio: Any = None


class _Record(msgspec.Struct):
    output_message: _Message | None = None
    tool_calls: list[_Call] | None = None
    transcription_output: Any = None


_RECORD: Final = msgspec.json.Decoder(_Record)


def _seen(row: LogRow) -> Seen:
    texts = {name: text for name, text in _texts(row.record).items() if text}
    ends = {name: (max(0, len(text) - TAIL), text[-TAIL:]) for name, text in texts.items()}
    return Seen(as_row(row), ends)


def _texts(record: str | None) -> dict[str, str]:
    """The texts of a record: content may be a digest, and then is none."""
    try:
        found = _RECORD.decode(record or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {}
    message = found.output_message or _Message()
    spoken = message.audio.get("transcript") if isinstance(message.audio, dict) else None
    heard = found.transcription_output.get("text") if isinstance(found.transcription_output, dict) else None
    calls = [call.function for call in found.tool_calls or () if call.function is not None]
    return {
        "reasoning": _text(message.reasoning),
        "content": "\n".join(filter(None, map(_text, (message.content, message.refusal, spoken, heard)))),
        "tools": "\n".join(f"{_text(call.name)}({_text(call.arguments)}" for call in calls),
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


# ---------------------------------------------------------------------- what is new


def _news(told: View | None, view: View) -> Live:
    before = told.seen if told is not None else {}
    streams = [
        Sight(id, seen.row, _parts(before[id].texts if id in before else {}, seen.texts))
        for id, seen in view.seen.items()
        if before.get(id) != seen
    ]
    gone = [id for id in before if id not in view.seen]
    return Live(view.under_way, view.log, streams, gone, view.trouble)


def _parts(before: dict[str, tuple[int, str]], now: dict[str, tuple[int, str]]) -> dict[str, Part]:
    return {name: _part(before.get(name), *end) for name, end in now.items() if before.get(name) != end}


def _part(before: tuple[int, str] | None, at: int, text: str) -> Part:
    """What to tell of a text of which `text` is the end from place `at` on, to one who was told of `before`."""
    if before is not None:
        told_to = before[0] + len(before[1])
        both = told_to - at
        if before[0] <= at and 0 <= both <= len(text) and before[1].endswith(text[:both]):
            return Part(told_to, text[both:], more=True)
    return Part(at, text)
