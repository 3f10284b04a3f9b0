"""How long rows stay, and how long what was said in them.

A log grows by its content: the request and the answer are a hundred times the size of the figures about them. So
there are two clocks and two limits. Content goes first (the heavy columns become null, the row stays and counts), the
rows themselves go later. The oldest go first. A request that is still under way is never touched.

Work is done in small batches, each its own transaction, so that a writer waits for one batch at most. A row
whose content is removed gets a later revision (`row.stripped`), hence a writer that knows more wins, and a ClickHouse
needs no mutation. Size is counted in the rows (`ROW_BYTES` for the columns, plus the content), since that is the same
number on every engine; a file is larger by its indexes, or smaller where the engine compresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, delete, func, literal_column, or_, select

from streamfold.errors import UsageError
from streamfold.store.expressions import prepare_reading
from streamfold.store.filters import seconds_of, timestamp
from streamfold.store.log_store import LogStore
from streamfold.store.query import content_size
from streamfold.store.row import HEAVY, stripped
from streamfold.store.schema import request_log

__all__ = ["ROW_BYTES", "Removed", "Retention", "apply", "bytes_of", "size_of"]

ROW_BYTES: Final = 1024
"""What a row without content counts for."""
BATCH: Final = 500
CLICKHOUSE_BATCH: Final = 10_000
"""Each deletion there is a new version of the parts it touches: few large ones are cheaper."""
VACUUM_PAGES: Final = 1000
_UNITS: Final = {
    "": 1,
    **{unit: 1000**power for power, unit in enumerate("kmgt", 1)},
    **{unit + "i": 1024**power for power, unit in enumerate("kmgt", 1)},
}
_COLUMNS: Final = request_log.c
_ENDED: Final = _COLUMNS.status != "processing"
_HAS_CONTENT: Final = or_(*(_COLUMNS[name].is_not(None) for name in HEAVY))


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules. Each may be left out; none of them removes anything by default.

    Ages are counted from the start of a request and written `12h`, `7d`, `4w`; sizes are bytes, or written `500MB`,
    `2GiB`. Raises `UsageError` with the name of the rule that cannot be read.
    """

    max_age: str | None = None
    """Older rows go."""
    content_max_age: str | None = None
    """The content of older rows goes; their figures stay."""
    max_bytes: int | str | None = None
    """The oldest rows go until the log is no larger."""
    content_max_bytes: int | str | None = None
    """The oldest content goes until all content together is no larger."""

    def __post_init__(self) -> None:
        for name in ("max_age", "content_max_age"):
            if (age := getattr(self, name)) is not None:
                seconds_of(name, age)
        for name in ("max_bytes", "content_max_bytes"):
            if (size := getattr(self, name)) is not None:
                bytes_of(name, size)


class Removed(msgspec.Struct):
    """What a run removed (or would remove): whole rows, and the content of rows that stay."""

    rows: int = 0
    contents: int = 0


def apply(store: LogStore, rules: Retention, *, now: datetime | None = None, dry_run: bool = False) -> Removed:
    """Applies the rules once. A dry run counts and changes nothing.

    An SQLite file that was made for it (`auto_vacuum`) gives the free space back; another one keeps it for later rows.
    ClickHouse drops what was replaced when it merges its parts.
    """
    now = now or datetime.now(UTC)
    batch = CLICKHOUSE_BATCH if store.dialect == "clickhouse" else BATCH
    removed = Removed()
    last: _Place | None = None
    if rules.max_age is not None or rules.max_bytes is not None:
        walk = _Walk(store, _ENDED, ROW_BYTES + content_size(), None, batch)
        for chosen in walk.beyond(_before(rules.max_age, now), _limit("max_bytes", rules.max_bytes)):
            removed.rows += len(chosen)
            if not dry_run:
                _delete(store, chosen)
        last = walk.last
    if rules.content_max_age is not None or rules.content_max_bytes is not None:
        walk = _Walk(store, _ENDED & _HAS_CONTENT, content_size(), last, batch)
        limit = _limit("content_max_bytes", rules.content_max_bytes)
        for chosen in walk.beyond(_before(rules.content_max_age, now), limit):
            removed.contents += len(chosen)
            if not dry_run:
                _strip(store, chosen)
    if not dry_run and (removed.rows or removed.contents):
        _give_back_space(store)
    return removed


def size_of(store: LogStore) -> int:
    """The size of all finished rows, as the rules count it."""
    return _Walk(store, _ENDED, ROW_BYTES + content_size(), None, BATCH).total()


def bytes_of(name: str, size: int | str) -> int:
    """The bytes of a size such as `500MB` or `2GiB`. Raises `UsageError` that names `name`."""
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", str(size).strip().lower())
    if found is None:
        raise UsageError(f"{name}: {size!r} is no size; write bytes, or a size such as 500MB or 2GiB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


class _Place(NamedTuple):
    """A row in the order of age, and how large it is."""

    created: str
    id: str
    size: int


class _Walk:
    """Goes from the oldest row of a kind to newer ones, one batch at a time, beginning behind `after`."""

    def __init__(
        self, store: LogStore, kind: ColumnElement[bool], size: ColumnElement[int], after: _Place | None, batch: int
    ) -> None:
        self._store, self._kind, self._size, self._batch = store, kind, size, batch
        self.last = after
        """The youngest row that was chosen."""

    def beyond(self, before: str | None, limit: int | None) -> Iterator[list[str]]:
        """The ids of rows that are older than `before`, or too much for `limit` bytes in all."""
        total = self.total() if limit is not None else 0
        if limit is None:
            self._size = literal_column("0")  # measuring means reading
        while rows := self._next():
            chosen: list[str] = []
            for row in rows:
                is_old = before is not None and row.created < before
                is_much = limit is not None and total > limit
                if not is_old and not is_much:
                    break
                chosen.append(row.id)
                total -= row.size
                self.last = row
            if chosen:
                yield chosen
            if len(chosen) < len(rows):
                return

    def total(self) -> int:
        """The bytes of all rows from here on."""
        statement = select(func.coalesce(func.sum(self._size), 0)).where(self._kind, *self._behind())
        with self._store.connect() as connection:
            prepare_reading(connection)
            return int(connection.scalar(statement) or 0)

    def _next(self) -> list[_Place]:
        statement = (
            select(_COLUMNS.created, _COLUMNS.id, self._size.label("size"))
            .where(self._kind, *self._behind())
            .order_by(_COLUMNS.created, _COLUMNS.id)
            .limit(self._batch)
        )
        with self._store.connect() as connection:
            prepare_reading(connection)
            return [_Place(*row) for row in connection.execute(statement)]

    def _behind(self) -> list[ColumnElement[bool]]:
        if self.last is None:
            return []
        created, id, _ = self.last
        return [_COLUMNS.created >= created, or_(_COLUMNS.created > created, _COLUMNS.id > id)]


def _before(age: str | None, now: datetime) -> str | None:
    return timestamp("max_age", age, now) if age is not None else None


def _limit(name: str, size: int | str | None) -> int | None:
    return bytes_of(name, size) if size is not None else None


def _delete(store: LogStore, ids: Sequence[str]) -> None:
    with store.connect() as connection:
        connection.execute(delete(request_log).where(_COLUMNS.id.in_(ids), _ENDED))
        connection.commit()


def _strip(store: LogStore, ids: Sequence[str]) -> None:
    """Removes the content of rows."""
    gone = dict.fromkeys(HEAVY) | {"revision": stripped(_COLUMNS.revision)}
    store.change(_COLUMNS.id.in_(ids) & _ENDED, gone)


def _give_back_space(store: LogStore) -> None:
    """Shortens an SQLite file by its free pages, some at a time; does nothing to one made without `auto_vacuum`."""
    if store.dialect != "sqlite":
        return
    with store.connect() as connection:
        driver: Any = connection.connection.driver_connection
        free = driver.execute("PRAGMA freelist_count").fetchone()[0]
        while free:
            # A statement that frees a page in each step: only executescript takes all of them.
            driver.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
            before, free = free, driver.execute("PRAGMA freelist_count").fetchone()[0]
            if free >= before:
                break
        driver.executescript("PRAGMA wal_checkpoint(PASSIVE)")
