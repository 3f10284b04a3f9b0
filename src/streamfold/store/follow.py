"""The log as it grows: what began and what ended since the last look.

Rows do not come in the order of their timestamps: they are written in batches, a long stream ends long after it
began, and a row that waited for the database comes late. So each look goes back some time, and what was already told
(this id in this status) is remembered for as long as a look may see it again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import or_, select

from streamfold.store.expressions import prepare_reading
from streamfold.store.filters import LogQuery, conditions, timestamp
from streamfold.store.log_store import LogStore
from streamfold.store.row import LogRow
from streamfold.store.schema import LIGHT_COLUMNS, request_log

__all__ = ["Follower"]

LOOK_BACK: Final = timedelta(seconds=60)
"""How late a row may come to be told of all the same."""
_COLUMNS: Final = request_log.c


class Follower:
    """Tells of each request twice: when it is first seen under way, and when it has ended."""

    def __init__(self, store: LogStore, query: LogQuery, *, now: datetime | None = None) -> None:
        self._store = store
        self._query = query.fixed(now)
        self._since = _text(now or datetime.now(UTC))
        self._told: dict[tuple[str, str], str] = {}

    def look(self, now: datetime | None = None) -> list[LogRow]:
        """The rows that are news, in the order in which they began; without the heavy columns."""
        edge = max(self._since, _text((now or datetime.now(UTC)) - LOOK_BACK))
        self._told = {key: moment for key, moment in self._told.items() if moment >= edge}
        news: list[LogRow] = []
        for row in self._rows(edge):
            key = (row.id, row.status)
            if key not in self._told:
                news.append(row)
            self._told[key] = max(row.created, row.ended or "")
        return news

    def _rows(self, edge: str) -> list[LogRow]:
        recent = or_(_COLUMNS.created >= edge, _COLUMNS.ended >= edge)
        statement = select(*LIGHT_COLUMNS).where(recent, *conditions(self._query))
        with self._store.connect() as connection:
            prepare_reading(connection)
            rows = [LogRow(**row) for row in connection.execute(statement).mappings()]
        # Sorted here: asked for the order too, SQLite would walk the log by `created` instead of using both indexes.
        return sorted(rows, key=lambda row: (row.created, row.id))


def _text(moment: datetime) -> str:
    return timestamp("now", moment.isoformat())
