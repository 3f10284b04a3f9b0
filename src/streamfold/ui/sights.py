"""What is to be seen of the requests under way: of this process, of other workers, of whoever else writes the log.

What is shown of a request of this process is the row that the logging plugin would store of it at this moment, so what
is kept out of the log (secrets, what callers do not want logged) is kept off the page by the same rule. The other
workers of this gateway say the same of theirs when they are asked. Requests of processes that nobody can ask, since
they only share the log, are shown as their last checkpoint in the store tells them.

A look costs as much as the answers are long. So only the newest requests are looked at, and once for all who ask at
about the same time; the time between two looks grows with the time that a look took.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from streamfold.hooks import RequestContext
from streamfold.store.log_store import LogStore
from streamfold.store.query import LogQuery, count, find
from streamfold.store.row import LogRow
from streamfold.ui.answers import Row, as_row

__all__ = ["MOST_SHOWN", "REST", "Ask", "InFlight", "Look", "OwnSight", "Seen", "StoreSeen", "Told", "seen_of", "told"]

MOST_SHOWN: Final = 24
"""Requests that are told of: of this gateway, and of others that share its log, each."""
TAIL: Final = 4096
"""Characters of each text that are told of: the page shows the end of it, and the whole in the detail."""
FRESH: Final = 0.1
"""Seconds for which a look is as good as a new one."""
EVERY_STORE: Final = 1.0
REST: Final = 4.0
"""How many times as long as a look took is waited before the next."""
NEWEST: Final = LogQuery(limit=100)
UNDER_WAY: Final = LogQuery(status=("processing",), limit=MOST_SHOWN * 2)


class InFlight(Protocol):
    """A request on its way, as the gateway holds it."""

    @property
    def ctx(self) -> RequestContext:
        """What is known of it."""
        ...


Ask = Callable[[str, str], list[bytes]]
"""Asks the other workers of this gateway a question about something; gives what those say that answer. Waits."""


class Look(Protocol):
    """Makes the row of a request as it would be stored now, with `arrivals` only if asked; None if there is none."""

    def __call__(self, ctx: RequestContext, /, *, arrivals: bool = False) -> LogRow | None:
        """See the class."""
        ...


class Seen(NamedTuple):
    """One request at one look: its row, and the end of each of its texts with the place where that end begins."""

    row: Row
    texts: dict[str, tuple[int, str]]


class Told(NamedTuple):
    """What one process tells of its requests: the newest ones, the newest first, and how many there are."""

    instance: str
    under_way: int
    seen: list[Seen]


def told(answer: bytes) -> Told | None:
    """What another worker answered; None if that is cut off, because it died meanwhile."""
    try:
        return msgspec.json.decode(answer, type=Told)
    except msgspec.DecodeError:
        return None


class OwnSight:
    """The requests of this process. May be asked from any thread."""

    def __init__(self, instance: str, live: Mapping[str, InFlight], look: Look) -> None:
        self._instance = instance
        self._live = live
        self._look = look
        self._one_at_a_time = threading.Lock()
        self._until = 0.0
        self._last = Told(instance, 0, [])

    def see(self) -> Told:
        """The requests as they are now, or were a moment ago."""
        with self._one_at_a_time:
            begun = time.monotonic()
            if begun >= self._until:
                self._last = self._see()
                now = time.monotonic()
                self._until = now + max(FRESH, REST * (now - begun))
            return self._last

    def _see(self) -> Told:
        flights = list(self._live.values())  # in one step: the event loop changes it meanwhile
        seen = []
        for flight in reversed(flights[-MOST_SHOWN:]):
            # A request that ends while it is looked at has no row any more, or one that cannot be made.
            try:
                row = self._look(flight.ctx)
            except Exception:
                continue
            if row is not None:
                seen.append(seen_of(row))
        return Told(self._instance, len(flights), seen)


class StoreSeen:
    """What the log tells: the requests of processes that nobody else tells of, and whether there is anything new."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._next = 0.0
        self._revisions: dict[str, int] = {}
        self._counted: Counter[str | None] = Counter()
        self._all: int | None = None
        self.elsewhere: dict[str, Seen] = {}
        self.version = ""
        self.trouble: str | None = None

    def beside(self, told: Mapping[str, int]) -> int:
        """How many requests there are besides those that are told of."""
        counted = sum(number for instance, number in self._counted.items() if instance not in told)
        return counted if self._all is None else max(counted, self._all - sum(told.values()))

    def refresh(self, told: Mapping[str, int]) -> None:
        """Asks the log again, if the last time is long enough ago. Never raises.

        `told` are the processes that tell of their requests themselves, and how many each has.
        """
        begun = time.monotonic()
        if begun < self._next:
            return
        try:
            self._ask(told)
            self.trouble = None
        except Exception as error:
            self.trouble = f"the log database cannot be read now ({type(error).__name__})"
        self._next = time.monotonic() + max(EVERY_STORE, REST * (time.monotonic() - begun))

    def _ask(self, told: Mapping[str, int]) -> None:
        newest = find(self._store, NEWEST).rows
        self.version = format(hash(tuple((row.id, row.revision) for row in newest)) & 0xFFFFFFFFFFFFFFFF, "x")
        page = find(self._store, UNDER_WAY)
        found = [row for row in page.rows if row.instance not in told]
        self._counted = Counter(row.instance for row in page.rows)
        self._all = count(self._store, UNDER_WAY) if page.next_cursor is not None else None
        shown = found[:MOST_SHOWN]
        seen = {}
        for row in shown:
            known = self.elsewhere.get(row.id)
            if known is None or self._revisions.get(row.id) != row.revision:
                whole = self._store.get(row.id)
                known = seen_of(whole if whole is not None else row)
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


def seen_of(row: LogRow) -> Seen:
    """What is to be seen of a request whose row is `row`."""
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
