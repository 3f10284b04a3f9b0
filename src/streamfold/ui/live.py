"""The requests under way, told as they go on.

One loop looks and all browsers that watch hear of it; nobody watching, nothing is looked at (`sights` says what is to
be seen, and what a look may cost). Another one asks the other workers, so that one who does not answer holds up
nothing: until it does, its requests are shown by their checkpoints.

Each browser is told of changes only. A text grows at its end, so what is sent is what was added; where it does not
(a pattern struck out what it now sees whole), the end of the text is sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Executor
from typing import Final, NamedTuple

import msgspec

from streamfold.store.log_store import LogStore
from streamfold.ui.answers import Live, Part, Sight
from streamfold.ui.sights import MOST_SHOWN, REST, Ask, OwnSight, Seen, StoreSeen, Told, told

__all__ = ["LIVE", "Feed"]

LIVE: Final = "live"
"""The question that workers ask each other for this."""
EVERY: Final = 0.25
PING: Final = 15.0


class View(NamedTuple):
    """All that one look saw."""

    seen: dict[str, Seen]
    under_way: int
    log: str
    trouble: str | None


class Feed:
    """Looks at the requests under way for all who watch. Belongs to one event loop.

    `ask` asks the other workers, if there are any. It needs a thread of `threads` for itself then.
    """

    def __init__(self, store: LogStore, own: OwnSight, threads: Executor, ask: Ask | None = None) -> None:
        self._own = own
        self._ask = ask
        self._threads = threads
        self._seen_here: Told | None = None
        self._told_elsewhere: list[Told] = []
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
        before: View | None = None
        try:
            while not self._closed:
                view, changed = self._view, self._changed
                if view is not None and view is not before:
                    yield b"event: live\ndata: " + msgspec.json.encode(_news(before, view)) + b"\n\n"
                    before = view
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
        hearing = asyncio.create_task(self._hear(self._ask)) if self._ask is not None else None
        try:
            while self.watchers and not self._closed:
                begun = time.monotonic()
                self._seen_here = await loop.run_in_executor(self._threads, self._see)
                self._show()
                await asyncio.sleep(max(EVERY, REST * (time.monotonic() - begun)))
        finally:
            self._view, self._told_elsewhere = None, []
            if hearing is not None:
                hearing.cancel()

    def _see(self) -> Told:
        """One look at what is here. Runs on a thread."""
        here = self._own.see()
        self._store_seen.refresh(_counts((here, *self._told_elsewhere)))
        return here

    async def _hear(self, ask: Ask) -> None:
        loop = asyncio.get_running_loop()
        while True:
            answers = await loop.run_in_executor(self._threads, ask, LIVE, "")
            self._told_elsewhere = [each for each in map(told, answers) if each is not None]
            self._show()
            await asyncio.sleep(EVERY)

    def _show(self) -> None:
        """Puts together what is known, for all who watch."""
        if self._seen_here is None:
            return
        telling = (self._seen_here, *self._told_elsewhere)
        known = _counts(telling)
        ours = [seen for each in telling for seen in each.seen]
        newest = sorted(ours, key=lambda seen: str(seen.row.created), reverse=True)[:MOST_SHOWN]
        others = [seen for seen in self._store_seen.elsewhere.values() if seen.row.instance not in known]
        under_way = sum(known.values()) + self._store_seen.beside(known)
        seen = {each.row.id: each for each in (*others, *newest)}
        view = View(seen, under_way, self._store_seen.version, self._store_seen.trouble)
        if view != self._view:
            self._view = view
            self._changed.set()
            self._changed = asyncio.Event()


def _counts(telling: Iterable[Told]) -> dict[str, int]:
    return {each.instance: each.under_way for each in telling}


# ---------------------------------------------------------------------- what is new


def _news(last: View | None, view: View) -> Live:
    before = last.seen if last is not None else {}
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
