"""Who writes, who has died, and what becomes of the requests that the dead left in flight.

A row of status `processing` belongs to an instance. As long as that lives, nobody else touches the row. Two things tell
whether it lives:

* its lock in the journal's directory (see `journal.py`), if it has one there. A lock that is held is proof of life,
  one that was free is proof of death;
* otherwise (another machine, another directory) its heartbeat in the table `instances`. It counts as dead when the
  heartbeat has not moved for a minute *by our own clock*: clocks of two machines are never compared.

A row of a dead instance becomes `abandoned`, and keeps what was stored last. Should its end come after all (a machine
that slept), the end has the higher revision and replaces it.
"""

from __future__ import annotations

import socket
import time
from functools import partial
from typing import Final

import msgspec
from sqlalchemy import Connection, delete, select

from streamfold.store.database import Database
from streamfold.store.journal import Journal
from streamfold.store.row import RECOVERED, LogRow
from streamfold.store.schema import instances, request_log
from streamfold.timestamps import utc

__all__ = ["SILENCE", "Roll"]

SILENCE: Final = 60.0
"""Seconds without a heartbeat after which an instance without a lock counts as dead."""
_AT_ONCE: Final = 200
_MESSAGE: Final = "the process that handled this request ended before the request did"


class Roll:
    """The roll of the instances, called by one of them. Not thread-safe."""

    def __init__(self, database: Database, journal: Journal, *, silence: float = SILENCE) -> None:
        self._database = database
        self._journal = journal
        self._silence = silence
        self._me = {"id": journal.instance, "host": socket.gethostname(), "started": utc(time.time())}
        self._last: dict[str, tuple[str | None, float]] = {}
        self._unknown: set[str] | None = None

    def keep(self) -> None:
        """Says that this instance lives, adopts the journals of dead ones, closes their requests."""
        self._journal.settle_again()
        self._journal.adopt()
        self._database.run(lambda connection: self._database.beat(connection, self._me | {"seen": utc(time.time())}))
        self.recover()

    def recover(self) -> int:
        """Closes the requests of dead instances as `abandoned`. Returns how many."""
        seen = self._seen()
        drained = set(self._journal.drained())
        closed = 0
        for instance in sorted({*seen, *drained, *(self._unknown or ())} - {self._journal.instance}):
            if self._is_dead(instance, seen.get(instance), drained):
                closed += self._bury(instance, seen.get(instance))
        return closed

    def sign_off(self) -> bool:
        """Closes what this instance itself left in flight, and takes it off the roll."""
        self._bury(self._journal.instance, utc(time.time()))
        return True

    def _seen(self) -> dict[str, str]:
        """The last heartbeat of every instance on the roll."""

        def read(connection: Connection) -> dict[str, str]:
            if self._unknown is None:
                # Rows of instances that are not on the roll (somebody emptied it): looked for once, at the start.
                owners = select(request_log.c.instance).where(request_log.c.status == "processing").distinct()
                self._unknown = {str(owner) for owner in connection.scalars(owners) if owner is not None}
            return {row.id: row.seen for row in connection.execute(select(instances.c.id, instances.c.seen))}

        return self._database.run(read)

    def _is_dead(self, instance: str, seen: str | None, drained: set[str]) -> bool:
        alive = self._journal.is_alive(instance)
        if alive is not None:
            # Its rows that still wait in the journal come first: its requests may have ended there.
            return not alive and instance in drained
        known, since = self._last.get(instance, ("", 0.0))
        if instance not in self._last or known != seen:
            self._last[instance] = (seen, time.monotonic())
            return False
        return time.monotonic() - since >= self._silence

    def _bury(self, instance: str, seen: str | None) -> int:
        after, closed = "", 0
        while rows := self._database.run(partial(_in_flight, instance=instance, after=after)):
            self._database.write([_abandoned(row, seen) for row in rows])
            after = rows[-1].id
            closed += len(rows)
        self._database.run(lambda connection: connection.execute(delete(instances).where(instances.c.id == instance)))
        self._journal.release(instance)
        self._last.pop(instance, None)
        if self._unknown:
            self._unknown.discard(instance)
        return closed


def _in_flight(connection: Connection, instance: str, after: str) -> list[LogRow]:
    log = request_log.c
    wanted = (log.status == "processing") & (log.instance == instance) & (log.id > after)
    query = select(request_log).where(wanted).order_by(log.id).limit(_AT_ONCE)
    return [LogRow(**row) for row in connection.execute(query).mappings()]


def _abandoned(row: LogRow, seen: str | None) -> LogRow:
    """The row as it was stored last, ended when its process was last known to live."""
    return msgspec.structs.replace(
        row,
        status="abandoned",
        revision=RECOVERED,
        ended=max(row.created, seen) if seen else utc(time.time()),
        error_type="abandoned",
        error_message=_MESSAGE,
    )
