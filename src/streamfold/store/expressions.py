"""What the engines spell differently, and nothing else: the questions are asked once, in `query.py`.

Each expression here means the same on SQLite, PostgreSQL and ClickHouse. Percentiles are the hard one. A percentile p
of n values in order is the value at the place p (n - 1), counted from 0, and on the straight line between its two
neighbours where that is no whole number. PostgreSQL calls this `percentile_cont`, ClickHouse `quantilesExactInclusive`,
the statistics books type 7, Python `statistics.quantiles(method="inclusive")`. SQLite has no percentiles: it gives the
values of the column in one text (about 20 bytes each), and the percentiles are computed from that. An aggregate
function written in Python takes as long, but takes the interpreter from the streams that pass, once for every value.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Boolean, ColumnElement, Connection, Text, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = [
    "PERCENTILES",
    "contains",
    "interpolated",
    "like",
    "metadata_value",
    "octets",
    "percentiles",
    "percentiles_of",
    "place",
    "prepare_reading",
    "time_bucket",
    "unindexed",
]

PERCENTILES: Final = (0.5, 0.9, 0.95, 0.99)
_LOWER: Final = "streamfold_lower"


def prepare_reading(connection: Connection) -> None:
    """Gives an SQLite connection the functions that the other engines have."""
    if connection.dialect.name != "sqlite":
        return
    driver: Any = connection.connection.driver_connection
    driver.create_function(_LOWER, 1, lambda text: text.lower() if text is not None else None, deterministic=True)


def _each(element: FunctionElement[Any], compiler: Any, kw: dict[str, Any]) -> list[str]:
    return [compiler.process(clause, **kw) for clause in element.clauses]


# ---------------------------------------------------------------------- percentiles


class percentiles(FunctionElement[Any]):  # noqa: N801 (reads like the SQL functions beside it)
    """`PERCENTILES` of a column's values that are not null; read the result with `percentiles_of`."""

    inherit_cache = True
    name = "percentiles"


@compiles(percentiles)
def _percentiles_sqlite(element: percentiles, compiler: Any, **kw: Any) -> str:
    return f"group_concat({compiler.process(element.clauses, **kw)})"


@compiles(percentiles, "postgresql")
def _percentiles_postgresql(element: percentiles, compiler: Any, **kw: Any) -> str:
    wanted = ", ".join(map(str, PERCENTILES))
    column = compiler.process(element.clauses, **kw)
    return f"percentile_cont(ARRAY[{wanted}]::float8[]) WITHIN GROUP (ORDER BY {column})"


@compiles(percentiles, "clickhousedb")
def _percentiles_clickhouse(element: percentiles, compiler: Any, **kw: Any) -> str:
    return f"quantilesExactInclusive({', '.join(map(str, PERCENTILES))})({compiler.process(element.clauses, **kw)})"


def percentiles_of(result: Any) -> list[float | None]:
    """The percentiles out of what an engine answered: None each if there was no value."""
    if not result:
        return [None] * len(PERCENTILES)
    if isinstance(result, str):
        ordered = sorted(_numbers(result))
        return [interpolated(ordered, p) for p in PERCENTILES]
    return [None if value is None or isnan(value) else float(value) for value in result]


def _numbers(text: str) -> list[float]:
    """The numbers of SQLite's `group_concat`."""
    try:
        return msgspec.json.decode(f"[{text}]", type=list[float])
    except msgspec.DecodeError:  # JSON has no infinity
        return [float(each) for each in text.split(",")]


def interpolated(values: Sequence[float], p: float) -> float:
    """The percentile `p` (0 to 1) of values in ascending order, as this page's first lines define it."""
    place = p * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


class unindexed(FunctionElement[Any]):  # noqa: N801 (reads like the SQL functions beside it)
    """A column by which SQLite does not look rows up. The other engines know better than we do."""

    inherit_cache = True
    name = "unindexed"


@compiles(unindexed)
def _unindexed_sqlite(element: unindexed, compiler: Any, **kw: Any) -> str:
    return f"+{compiler.process(element.clauses, **kw)}"


@compiles(unindexed, "postgresql")
@compiles(unindexed, "clickhousedb")
def _unindexed_others(element: unindexed, compiler: Any, **kw: Any) -> str:
    return str(compiler.process(element.clauses, **kw))


# ---------------------------------------------------------------------- text


class _Contains(FunctionElement[bool]):
    """(text, part): whether the part is in the text, letter for letter."""

    inherit_cache = True
    name = "contains"
    type = Boolean()


class _ContainsFolded(_Contains):
    """The same, whatever the case of the letters."""

    inherit_cache = True
    name = "contains_folded"


def contains(text: ColumnElement[Any], part: str, *, fold: bool = False) -> ColumnElement[Any]:
    """Whether `part` is in the text; with `fold` in capitals or not. No character is a wildcard.

    SQLite and ClickHouse fold the letters of Unicode, PostgreSQL those that its locale knows (in "C": a to z).
    """
    return (_ContainsFolded if fold else _Contains)(text, bindparam(None, part, Text()))


@compiles(_Contains)
def _contains_sqlite(element: _Contains, compiler: Any, **kw: Any) -> str:
    text, part = _each(element, compiler, kw)
    return f"(instr({text}, {part}) > 0)"


@compiles(_Contains, "postgresql")
def _contains_postgresql(element: _Contains, compiler: Any, **kw: Any) -> str:
    text, part = _each(element, compiler, kw)
    return f"(strpos({text}, {part}) > 0)"


@compiles(_Contains, "clickhousedb")
def _contains_clickhouse(element: _Contains, compiler: Any, **kw: Any) -> str:
    text, part = _each(element, compiler, kw)
    return f"(position({text}, {part}) > 0)"


@compiles(_ContainsFolded)
def _contains_folded_sqlite(element: _ContainsFolded, compiler: Any, **kw: Any) -> str:
    text, part = _each(element, compiler, kw)
    return f"(instr({_LOWER}({text}), {_LOWER}({part})) > 0)"


@compiles(_ContainsFolded, "postgresql")
def _contains_folded_postgresql(element: _ContainsFolded, compiler: Any, **kw: Any) -> str:
    text, part = _each(element, compiler, kw)
    return f"(strpos(lower({text}), lower({part})) > 0)"


@compiles(_ContainsFolded, "clickhousedb")
def _contains_folded_clickhouse(element: _ContainsFolded, compiler: Any, **kw: Any) -> str:
    text, part = _each(element, compiler, kw)
    return f"(positionCaseInsensitiveUTF8({text}, {part}) > 0)"


class _Like(FunctionElement[bool]):
    """(text, pattern of GLOB, pattern of LIKE): GLOB heeds capitals where SQLite's LIKE does not."""

    inherit_cache = True
    name = "like"
    type = Boolean()


def like(text: ColumnElement[Any], pattern: str) -> ColumnElement[Any]:
    """Whether the whole text fits a pattern in which `*` stands for any characters. Capitals count."""
    glob = pattern.replace("[", "[[]").replace("?", "[?]")
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")
    return _Like(text, bindparam(None, glob, Text()), bindparam(None, escaped, Text()))


@compiles(_Like)
def _like_sqlite(element: _Like, compiler: Any, **kw: Any) -> str:
    text, glob, _ = element.clauses
    return f"({compiler.process(text, **kw)} GLOB {compiler.process(glob, **kw)})"


@compiles(_Like, "postgresql")
@compiles(_Like, "clickhousedb")
def _like_others(element: _Like, compiler: Any, **kw: Any) -> str:
    text, _, escaped = element.clauses
    return f"({compiler.process(text, **kw)} LIKE {compiler.process(escaped, **kw)})"


class metadata_value(FunctionElement[str]):  # noqa: N801
    """(JSON object as text, key): the string at that key, or null."""

    inherit_cache = True
    name = "metadata_value"
    type = Text()


@compiles(metadata_value)
def _metadata_sqlite(element: metadata_value, compiler: Any, **kw: Any) -> str:
    # Not json_extract: its path language has no way to name a key with a quote in it.
    text, key = _each(element, compiler, kw)
    return f"(SELECT value FROM json_each({text}) WHERE key = {key})"


@compiles(metadata_value, "postgresql")
def _metadata_postgresql(element: metadata_value, compiler: Any, **kw: Any) -> str:
    text, key = _each(element, compiler, kw)
    return f"(CAST({text} AS json) ->> {key})"


@compiles(metadata_value, "clickhousedb")
def _metadata_clickhouse(element: metadata_value, compiler: Any, **kw: Any) -> str:
    text, key = _each(element, compiler, kw)
    return f"if(JSONHas(ifNull({text}, ''), {key}), JSONExtractString(ifNull({text}, ''), {key}), NULL)"


# ---------------------------------------------------------------------- numbers


class octets(FunctionElement[int]):  # noqa: N801
    """The size of a text in bytes of UTF-8, or null."""

    inherit_cache = True
    name = "octets"
    type = BigInteger()


@compiles(octets)
def _octets_sqlite(element: octets, compiler: Any, **kw: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **kw)} AS BLOB))"


@compiles(octets, "postgresql")
def _octets_postgresql(element: octets, compiler: Any, **kw: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **kw)})"


@compiles(octets, "clickhousedb")
def _octets_clickhouse(element: octets, compiler: Any, **kw: Any) -> str:
    return f"length({compiler.process(element.clauses, **kw)})"


class time_bucket(FunctionElement[int]):  # noqa: N801
    """(timestamp as text, seconds): the start of its bucket, a multiple of `seconds` since 1970."""

    inherit_cache = True
    name = "time_bucket"
    type = BigInteger()


@compiles(time_bucket)
def _bucket_sqlite(element: time_bucket, compiler: Any, **kw: Any) -> str:
    when, seconds = _each(element, compiler, kw)
    return f"(CAST(strftime('%s', {when}) AS INTEGER) / {seconds} * {seconds})"


@compiles(time_bucket, "postgresql")
def _bucket_postgresql(element: time_bucket, compiler: Any, **kw: Any) -> str:
    when, seconds = _each(element, compiler, kw)
    return f"(CAST(floor(extract(epoch FROM CAST({when} AS timestamptz))) AS bigint) / {seconds} * {seconds})"


@compiles(time_bucket, "clickhousedb")
def _bucket_clickhouse(element: time_bucket, compiler: Any, **kw: Any) -> str:
    when, seconds = _each(element, compiler, kw)
    return f"(intDiv(toUnixTimestamp(parseDateTimeBestEffort({when}, 'UTC')), {seconds}) * {seconds})"


class place(FunctionElement[int]):  # noqa: N801
    """(number, lowest, width): in which bin of that width the number falls, counted from 0."""

    inherit_cache = True
    name = "place"
    type = BigInteger()


@compiles(place)
def _place_sqlite(element: place, compiler: Any, **kw: Any) -> str:
    number, lowest, width = _each(element, compiler, kw)
    return f"CAST(({number} - {lowest}) / {width} AS BIGINT)"


@compiles(place, "postgresql")
@compiles(place, "clickhousedb")
def _place_others(element: place, compiler: Any, **kw: Any) -> str:
    # A cast rounds on PostgreSQL where it cuts off on SQLite; floor is the same for what is not below the lowest.
    number, lowest, width = _each(element, compiler, kw)
    return f"floor(({number} - {lowest}) / {width})"
