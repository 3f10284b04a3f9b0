"""What the API answers: one struct for each kind of answer, and their JSON Schema.

A row of the log is answered as it is stored, except that its columns of JSON become JSON values. The structs of rows
are made from the columns of `LogRow`, so a column that is added there is answered here.
"""

from __future__ import annotations

import typing
from typing import Any, Final

import msgspec

from streamfold.store.query import Bucket, Histogram, Statistics
from streamfold.store.row import HEAVY, LogRow

__all__ = ["Count", "Live", "Part", "Row", "Rows", "Schema", "Sight", "WholeRow", "as_row", "as_whole_row", "schema"]

_JSON_COLUMNS: Final = ("metadata", "arrivals", "headers", "params", "tools", "request", "record")


def _fields(names: typing.Iterable[str]) -> list[tuple[str, Any, Any]]:
    hints = typing.get_type_hints(LogRow)
    defaults = {field.name: field.default for field in msgspec.structs.fields(LogRow)}
    return [(name, Any if name in _JSON_COLUMNS else hints[name], defaults.get(name)) for name in names]


_LIGHT: Final = [name for name in LogRow.__struct_fields__ if name not in HEAVY]

Row: Any = msgspec.defstruct("Row", _fields(_LIGHT), module=__name__, kw_only=True)
"""A row as lists have it: without the columns that hold what was said."""
WholeRow: Any = msgspec.defstruct(
    "WholeRow", [*_fields(LogRow.__struct_fields__), ("live", bool, False)], module=__name__, kw_only=True
)
"""A row with all its columns. `live`: it was made this moment, since the request is under way in this process."""


class Rows(msgspec.Struct, frozen=True):
    """Some rows, and the cursor behind which the next ones begin (null after the last)."""

    rows: list[Row]
    next_cursor: str | None = None


class Count(msgspec.Struct, frozen=True):
    """How many rows fit a query; much cheaper than `Statistics`."""

    requests: int


class Part(msgspec.Struct, frozen=True):
    """A stretch of a text that grows: its characters from place `at` on. With `more` they go behind what was told."""

    at: int
    text: str
    more: bool = False


class Sight(msgspec.Struct, frozen=True):
    """What is new about one request under way. Of `parts` (reasoning, content, tools) only those that changed."""

    id: str
    row: Row
    parts: dict[str, Part] = {}


class Live(msgspec.Struct, frozen=True):
    """What is new about the requests under way; the data of each event `live`."""

    under_way: int
    """How many there are, in all processes that share the log; only the newest of them are told of."""
    log: str
    """Changes when the newest rows of the log do."""
    streams: list[Sight] = []
    gone: list[str] = []
    """Those that are over, or too old to be told of."""
    trouble: str | None = None
    """Why the log cannot be read, as long as it cannot."""


class Schema(msgspec.Struct, frozen=True):
    """Which address answers what (`paths`), and what that looks like (`schemas`, JSON Schema 2020-12)."""

    paths: dict[str, str]
    schemas: dict[str, Any]


def as_row(row: LogRow) -> Any:
    """A row for a list."""
    values = {name: getattr(row, name) for name in _LIGHT}
    return Row(**{**values, "metadata": _json(row.metadata)})


def as_whole_row(row: LogRow, *, live: bool = False) -> Any:
    """A row with everything."""
    values = msgspec.structs.asdict(row)
    return WholeRow(**{**values, **{name: _json(values[name]) for name in _JSON_COLUMNS}}, live=live)


def schema(paths: dict[str, str]) -> Schema:
    """The description of the API."""
    kinds = [Rows, WholeRow, Count, Statistics, list[Statistics], list[Bucket], Histogram, Live]
    _, found = msgspec.json.schema_components(kinds, ref_template="#/schemas/{name}")
    return Schema(paths=paths, schemas=found)


def _json(text: str | None) -> Any:
    """The JSON that a column holds; the text itself where it is none."""
    if text is None:
        return None
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return text
    return msgspec.Raw(text.encode())
