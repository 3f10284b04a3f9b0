"""Questions to the log: lists, sums, percentiles, histograms, series. The same on every engine.

All figures are computed by the database from the narrow columns, hence a question costs memory for its answer only
(SQLite holds one column while it computes percentiles). What a figure cannot be computed from is counted beside it:
a sum of costs says how many rows have no cost, a histogram how many have no such number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil
from typing import Any, Final

import msgspec
from sqlalchemy import Column, ColumnElement, Double, Select, case, func, literal, literal_column, or_, select
from sqlalchemy.sql import visitors

from streamfold.errors import UsageError
from streamfold.settings import did_you_mean
from streamfold.store.expressions import (
    octets,
    percentiles,
    percentiles_of,
    place,
    prepare_reading,
    time_bucket,
    unindexed,
)
from streamfold.store.filters import MEASURES, STATUSES, Cursor, LogQuery, conditions, model_name, seconds_of
from streamfold.store.log_store import LogStore
from streamfold.store.row import HEAVY, LogRow
from streamfold.store.schema import FIGURE_COLUMNS, LIGHT_COLUMNS, request_log
from streamfold.timestamps import utc

__all__ = [
    "FIGURES",
    "GROUPS",
    "Bin",
    "Bucket",
    "Histogram",
    "LogQuery",
    "Page",
    "Spread",
    "Statistics",
    "count",
    "find",
    "grouped",
    "histogram",
    "series",
    "sessions",
    "statistics",
    "walk",
]

GROUPS: Final = (
    *("model", "response_model", "provider", "status", "upstream", "client", "session_id", "finish_reason"),
    *("format", "stream_type", "error_type", "http_status"),
)
"""What figures may be grouped by. `model` is the model as asked, or as served where none was asked for."""

PAGE: Final = 50
WALK_ROWS: Final = 1000
WALK_BYTES: Final = 8 * 1024 * 1024
MAX_BINS: Final = 1000
MAX_BUCKETS: Final = 10_000
_INTERVALS: Final = (1, 5, 10, 15, 30, 60, 300, 600, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 604_800)
_SPREADS: Final = ("latency_ms", "time_to_first_token_ms", "time_per_output_token_ms")
_TOKENS: Final = (
    *("prompt_tokens", "completion_tokens", "total_tokens"),
    *("cached_tokens", "cached_write_tokens", "reasoning_tokens"),
)
_COSTS: Final = ("cost", "input_cost", "output_cost", "additional_cost")
_COUNTS: Final = (
    *("requests", "streamed", "cache_hits", "retries", "with_anomalies", "models"),
    *("without_usage", "without_cost", "incomplete_cost"),
)
_COLUMNS: Final = request_log.c


class Page(msgspec.Struct, frozen=True):
    """Some rows of a list, and where the next ones begin (null after the last)."""

    rows: list[LogRow]
    next_cursor: str | None = None


class Spread(msgspec.Struct, frozen=True):
    """How the values of a column lie. All null if there is none.

    A percentile p of n values in ascending order is the value at place p * (n - 1), counted from 0; between two places
    it is interpolated linearly (`statistics.quantiles(..., method="inclusive")`).
    """

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures over the rows of a query, or of one group of them.

    Sums are null if no row has the number. Costs are US dollars, durations milliseconds.
    """

    group: dict[str, Any] = {}
    requests: int = 0
    by_status: dict[str, int] = {}
    success_rate: float | None = None
    """Successes out of the finished requests, 0 to 1."""
    streamed: int = 0
    cache_hits: int = 0
    retries: int = 0
    """Requests that are another attempt at an earlier one."""
    with_anomalies: int = 0
    models: int = 0
    """How many different models were asked for."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    cached_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    without_usage: int = 0
    """Finished requests of which no token count is known."""
    cost: float | None = None
    input_cost: float | None = None
    output_cost: float | None = None
    additional_cost: float | None = None
    without_cost: int = 0
    """Finished requests that have no cost: the sum says nothing about them."""
    incomplete_cost: int = 0
    """Requests of which some part had no price."""

    latency_ms: Spread = Spread()
    time_to_first_token_ms: Spread = Spread()
    time_per_output_token_ms: Spread = Spread()
    first: str | None = None
    last: str | None = None
    """When the first and the last of these requests began."""


FIGURES: Final = tuple(name for name in Statistics.__struct_fields__ if name not in ("group", "success_rate"))
"""What statistics can be asked for by name. The success rate comes with `by_status`."""


class Bin(msgspec.Struct, frozen=True):
    """The values from `low` up to `high`, which belongs to the next bin (to the last one, in the last)."""

    low: float
    high: float
    count: int


class Histogram(msgspec.Struct, frozen=True):
    """How often which values of a column occur; `missing` rows have none."""

    of: str
    count: int
    missing: int
    bins: list[Bin]


class Bucket(msgspec.Struct, frozen=True):
    """The requests that began in one stretch of time."""

    start: str
    end: str
    statistics: Statistics


# ---------------------------------------------------------------------- lists


def find(store: LogStore, query: LogQuery, *, whole: bool = False) -> Page:
    """One page of the rows that fit, 50 unless the query says otherwise. `whole` adds the heavy columns."""
    query = query.fixed()
    limit = query.limit or PAGE
    columns = list(request_log.c) if whole else LIGHT_COLUMNS
    found = _ask(store, _page(query, columns, limit + 1))
    rows = [LogRow(**row) for row in found[:limit]]
    return Page(rows, _cursor(query, rows[-1]) if len(found) > limit else None)


def walk(store: LogStore, query: LogQuery, *, whole: bool = False) -> Iterator[list[LogRow]]:
    """All the rows that fit (or the query's `limit` of them), some at a time.

    With `whole` the heavy columns come too, and a batch holds about 8 MiB of them at most, or a single row.
    """
    query = query.fixed()
    left = query.limit
    while left is None or left > 0:
        size = min(WALK_ROWS, left or WALK_ROWS)
        columns = [*LIGHT_COLUMNS, content_size().label("content_size")] if whole else LIGHT_COLUMNS
        found = [dict(row) for row in _ask(store, _page(query, columns, size))]
        if not found:
            return
        sizes = [row.pop("content_size", 0) for row in found]
        rows = [LogRow(**row) for row in found]
        yield from _whole(store, rows, sizes) if whole else [rows]
        if len(found) < size:
            return
        left = left - size if left is not None else None
        query = msgspec.structs.replace(query, cursor=_cursor(query, rows[-1]))


def count(store: LogStore, query: LogQuery) -> int:
    """How many rows fit."""
    (row,) = _ask(store, select(func.count().label("requests")).select_from(request_log), query)
    return int(row["requests"])


def content_size() -> ColumnElement[int]:
    """The bytes that a row's heavy columns hold."""
    return sum((func.coalesce(octets(_COLUMNS[name]), 0) for name in HEAVY), start=literal_column("0"))


def _whole(store: LogStore, rows: Sequence[LogRow], sizes: Sequence[int]) -> Iterator[list[LogRow]]:
    ids: list[str] = []
    held = 0
    for row, size in zip(rows, sizes, strict=True):
        if ids and held + size > WALK_BYTES:
            yield _by_id(store, ids)
            ids, held = [], 0
        ids.append(row.id)
        held += size
    if ids:
        yield _by_id(store, ids)


def _by_id(store: LogStore, ids: Sequence[str]) -> list[LogRow]:
    """The whole rows, in that order. One that was removed in between is left out."""
    found = {row["id"]: row for row in _ask(store, select(request_log).where(_COLUMNS.id.in_(ids)))}
    return [LogRow(**found[id]) for id in ids if id in found]


def _page(query: LogQuery, columns: Sequence[ColumnElement[Any]], limit: int) -> Select[*tuple[Any, ...]]:
    column = _COLUMNS[query.column]
    orders = [each.desc() if query.descending else each.asc() for each in (column, _COLUMNS.id)]
    if column.nullable:
        orders[0] = orders[0].nulls_last()
    # In the order of time, rows of one status are together in the index; those of several would have to be sorted, all.
    by_status = len(query.status) == 1 or query.column != "created"
    statement = select(*columns).where(*conditions(query, by_status=by_status)).order_by(*orders).limit(limit)
    if query.cursor is not None:
        statement = statement.where(_behind(column, Cursor.read(query.cursor, query.sort), query.descending))
    return statement


def _behind(column: ColumnElement[Any], cursor: Cursor, descending: bool) -> ColumnElement[bool]:
    """What comes after the cursor in the order of the list."""
    id_behind = _COLUMNS.id < cursor.id if descending else _COLUMNS.id > cursor.id
    if cursor.value is None:
        return column.is_(None) & id_behind
    behind = column < cursor.value if descending else column > cursor.value
    if column.nullable:
        return or_(behind, (column == cursor.value) & id_behind, column.is_(None))
    # The first half says nothing new; but it is what lets an index begin at the cursor and not at the first page.
    begun = column <= cursor.value if descending else column >= cursor.value
    return begun & or_(behind, (column == cursor.value) & id_behind)


def _cursor(query: LogQuery, row: LogRow) -> str:
    return str(Cursor(query.sort, getattr(row, query.column), row.id, query.since, query.until))


# ---------------------------------------------------------------------- figures


def statistics(store: LogStore, query: LogQuery, *, figures: Sequence[str] | None = None) -> Statistics:
    """Figures over all rows that fit.

    `figures` names those that are wanted (`FIGURES`), which is quicker than all of them; the others are left as they
    are where nothing is known.
    """
    (row,) = _ask(store, select(*_figures(figures)), query)
    return _statistics(row)


def grouped(
    store: LogStore, query: LogQuery, by: Sequence[str], *, limit: int = 100, figures: Sequence[str] | None = None
) -> list[Statistics]:
    """Figures by the values of one or more columns (`GROUPS`), the `limit` largest groups, the largest first.

    `figures` as in `statistics`.
    """
    for name in by:
        if name not in GROUPS:
            raise UsageError(f'cannot group by "{name}"; {did_you_mean(name, GROUPS)}')
    if not by:
        raise UsageError(f"by names no column to group by; known are {', '.join(GROUPS)}")
    # An alias that is also the name of a column means the alias on ClickHouse and the column on PostgreSQL.
    # On SQLite an index has the groups of `status` in order, which is tempting; but it would have every row read.
    known = {"model": model_name(), "status": unindexed(_COLUMNS.status)}
    keys = [known.get(name, _COLUMNS[name]).label(f"by_{name}") for name in by]
    names: list[ColumnElement[Any]] = [literal_column(f"by_{name}") for name in by]
    statement = select(*keys, *_figures(figures)).group_by(*names)
    statement = statement.order_by(literal_column("requests").desc(), *names).limit(limit)
    return [_statistics(row, {name: row[f"by_{name}"] for name in by}) for row in _ask(store, statement, query)]


def sessions(store: LogStore, query: LogQuery, *, limit: int = 100) -> list[Statistics]:
    """Figures of each session, the one with the latest request first. Requests without a session are left out."""
    statement = (
        select(_COLUMNS.session_id.label("by_session_id"), *_figures())
        .where(_COLUMNS.session_id.is_not(None))
        .group_by(literal_column("by_session_id"))
        .order_by(literal_column("last_created").desc(), literal_column("by_session_id"))
        .limit(limit)
    )
    return [_statistics(row, {"session_id": row["by_session_id"]}) for row in _ask(store, statement, query)]


def series(
    store: LogStore,
    query: LogQuery,
    *,
    interval: str | None = None,
    buckets: int = 60,
    now: datetime | None = None,
    figures: Sequence[str] | None = None,
) -> list[Bucket]:
    """Figures over time: one bucket after the other, also where nothing happened.

    The buckets are `interval` long (`30s`, `5m`, `1h`, `1d`), or as long as it takes for about `buckets` of them.
    They begin at multiples of their length (since 1970, UTC), so the same request is in the same bucket next time.
    The first one holds `since` (or the first request), the last one the moment before `until` (or `now`).
    `figures` as in `statistics`.
    """
    now = now or datetime.now(UTC)
    query = query.fixed(now)
    first = query.since or _ask(store, select(func.min(_COLUMNS.created).label("first")), query)[0]["first"]
    if not first:
        return []
    start, end = _epoch(first), _epoch(query.until) if query.until is not None else now.timestamp()
    length = _interval(interval, buckets, end - start)
    low, high = int(start // length), ceil(end / length)
    if high - low > MAX_BUCKETS:
        raise UsageError(f"interval: {interval} makes more than {MAX_BUCKETS} buckets; make it longer, or since later")
    statement = (
        select(time_bucket(_COLUMNS.created, literal_column(str(length))).label("bucket"), *_figures(figures))
        .where(_COLUMNS.created >= utc(low * length), _COLUMNS.created < utc(high * length))
        .group_by(literal_column("bucket"))
    )
    found = {int(row["bucket"]) // length: _statistics(row) for row in _ask(store, statement, query)}
    return [
        Bucket(utc(each * length), utc((each + 1) * length), found.get(each, Statistics())) for each in range(low, high)
    ]


def histogram(store: LogStore, query: LogQuery, of: str = "latency_ms", bins: int = 20) -> Histogram:
    """How often which values of a column (`MEASURES`) occur, in bins of one width from the least to the greatest."""
    if of not in MEASURES:
        raise UsageError(f'of: unknown "{of}"; {did_you_mean(of, MEASURES)}')
    if not 1 <= bins <= MAX_BINS:
        raise UsageError(f"bins must be 1 to {MAX_BINS}, not {bins}")
    query = query.fixed()
    column = _COLUMNS[of]
    ends: Select[*tuple[Any, ...]] = select(
        func.count().label("requests"),
        func.count(column).label("known"),
        func.min(column).label("low"),
        func.max(column).label("high"),
    )
    (found,) = _ask(store, ends, query)
    known = int(found["known"])
    if not known:
        return Histogram(of, 0, int(found["requests"]), [])
    low, high = float(found["low"]), float(found["high"])
    width = (high - low) / bins
    if width <= 0:
        return Histogram(of, known, int(found["requests"]) - known, [Bin(low, high, known)])
    where = place(column, literal(low, Double()), literal(width, Double())).label("place")
    statement: Select[*tuple[Any, ...]] = select(where, func.count().label("requests")).group_by(
        literal_column("place")
    )
    counts = [0] * bins
    for row in _ask(store, statement.where(column >= low, column <= high), query):
        counts[min(int(row["place"]), bins - 1)] += int(row["requests"])
    edges = [low + index * width for index in range(bins)] + [high]
    cut = [Bin(edges[index], edges[index + 1], each) for index, each in enumerate(counts)]
    return Histogram(of, sum(counts), int(found["requests"]) - known, cut)


def _figures(wanted: Sequence[str] | None = None) -> list[ColumnElement[Any]]:
    """What `_statistics` reads. No label is the name of a column: ClickHouse would put the one for the other."""
    for name in wanted or ():
        if name not in FIGURES:
            raise UsageError(f'figures: unknown "{name}"; {did_you_mean(name, FIGURES)}')
    finished = _COLUMNS.status != "processing"
    found: list[ColumnElement[Any]] = [
        func.count().label("requests"),
        *(_how_many(_COLUMNS.status == status).label(f"status_{status}") for status in STATUSES),
        _how_many(_COLUMNS.stream == literal(True)).label("streamed"),
        _how_many(_COLUMNS.cache_hit.is_not(None)).label("cache_hits"),
        _how_many(_COLUMNS.attempt > 0).label("retries"),
        _how_many(_COLUMNS.anomalies > 0).label("with_anomalies"),
        func.count(model_name().distinct()).label("models"),
        *(func.sum(_COLUMNS[name]).label(f"sum_{name}") for name in (*_TOKENS, *_COSTS)),
        _how_many(finished & func.coalesce(*(_COLUMNS[name] for name in _TOKENS[:3])).is_(None)).label("without_usage"),
        _how_many(finished & _COLUMNS.cost.is_(None)).label("without_cost"),
        _how_many(_COLUMNS.cost_complete == literal(False)).label("incomplete_cost"),
        *(func.avg(_COLUMNS[name]).label(f"mean_{name}") for name in _SPREADS),
        *(percentiles(_COLUMNS[name]).label(f"spread_{name}") for name in _SPREADS),
        func.min(_COLUMNS.created).label("first_created"),
        func.max(_COLUMNS.created).label("last_created"),
    ]
    return [each for each in found if wanted is None or _figure_of(str(each.name)) in ("requests", *wanted)]


def _figure_of(label: str) -> str:
    """The field of `Statistics` that a label is read for."""
    kind, _, name = label.partition("_")
    return {"status": "by_status", "first": "first", "last": "last"}.get(kind) or (
        name if kind in ("sum", "mean", "spread") else label
    )


def _how_many(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((condition, 1), else_=0))


def _statistics(row: Mapping[str, Any], group: Mapping[str, Any] | None = None) -> Statistics:
    by_status = {status: number for status in STATUSES if (number := int(row.get(f"status_{status}") or 0))}
    finished = int(row["requests"]) - by_status.get("processing", 0) if "status_success" in row else 0
    found: dict[str, Any] = {name: int(row.get(name) or 0) for name in _COUNTS}
    found |= {name: None if (total := row.get(f"sum_{name}")) is None else int(total) for name in _TOKENS}
    found |= {name: row.get(f"sum_{name}") for name in _COSTS}
    found |= {name: Spread(row.get(f"mean_{name}"), *percentiles_of(row.get(f"spread_{name}"))) for name in _SPREADS}
    return Statistics(
        group=dict(group or {}),
        by_status=by_status,
        success_rate=by_status.get("success", 0) / finished if finished else None,
        first=row.get("first_created") or None,
        last=row.get("last_created") or None,
        **found,
    )


def _interval(said: str | None, buckets: int, span: float) -> int:
    """The seconds of a bucket."""
    if said is not None:
        seconds = seconds_of("interval", said)
        if seconds < 1 or seconds != int(seconds):
            raise UsageError(f"interval: {said} is not a whole number of seconds; write 1s or more")
        return int(seconds)
    if not 1 <= buckets <= MAX_BUCKETS:
        raise UsageError(f"buckets must be 1 to {MAX_BUCKETS}, not {buckets}")
    day = 86_400
    enough = (each for each in _INTERVALS if each * buckets >= span)
    return next(enough, ceil(span / buckets / day) * day)


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _of(statement: Select[*tuple[Any, ...]], query: LogQuery) -> Select[*tuple[Any, ...]]:
    """The statement, of the rows that fit.

    SQLite takes the index on `status` for the better one whenever a status is asked for. But where the other holds all
    that a question is about, it answers without a look at the rows, of which a status may have nearly all.
    """
    asked = statement.where(*conditions(query))
    about = {each.name for each in visitors.iterate(asked) if isinstance(each, Column) and each.table is request_log}
    if about <= {"status", "created"} or not about <= FIGURE_COLUMNS:
        return asked
    return statement.where(*conditions(query, by_status=False))


def _ask(
    store: LogStore, statement: Select[*tuple[Any, ...]], query: LogQuery | None = None
) -> Sequence[Mapping[str, Any]]:
    """The rows of an answer, by their labels; of the rows of the log that fit `query`, if there is one."""
    if query is not None:
        statement = _of(statement, query.fixed())
    with store.connect() as connection:
        prepare_reading(connection)
        return [dict(row) for row in connection.execute(statement).mappings()]
