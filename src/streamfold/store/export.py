"""The log as files: one JSON object per line, or a Parquet file.

Both read the log some rows at a time (`walk`), so a log of any size needs the memory of one batch. Nothing is lost
on the way: the columns that hold JSON are JSON in the lines and text in Parquet, whose other columns are typed.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from streamfold.errors import UsageError
from streamfold.store.log_store import LogStore
from streamfold.store.query import LogQuery, walk
from streamfold.store.row import LogRow

__all__ = ["JSON_COLUMNS", "as_line", "export_jsonl", "export_parquet", "written_whole"]

JSON_COLUMNS: Final = ("metadata", "arrivals", "headers", "params", "tools", "request", "record")
"""The columns that hold JSON as text."""
_TIMES: Final = ("created", "ended")


def export_jsonl(store: LogStore, query: LogQuery, out: IO[bytes]) -> int:
    """Writes each row that fits as a line of JSON, all columns included. Returns how many there were."""
    lines = 0
    for rows in walk(store, query, whole=True):
        out.writelines(as_line(row) + b"\n" for row in rows)
        lines += len(rows)
    return lines


def as_line(row: LogRow) -> bytes:
    """The row as a JSON object, in which the columns that hold JSON are values and not text."""
    shown = msgspec.structs.asdict(row)
    for name in JSON_COLUMNS:
        if (text := shown[name]) is not None:
            shown[name] = _as_json(text)
    return msgspec.json.encode(shown)


def export_parquet(store: LogStore, query: LogQuery, path: str | Path) -> int:
    """Writes the rows that fit to a Parquet file, one row group per batch. Returns how many there were.

    Timestamps are UTC with milliseconds; a moment that the log has in another form becomes null. The file is whole or
    not there at all. Needs `pyarrow`: raises `UsageError` with the command that installs it.
    """
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise UsageError('Parquet needs an extra: pip install "streamfold[parquet]"') from None
    schema = pa.schema([(name, _arrow_type(pa, name, kind)) for name, kind in _columns()])
    lines = 0
    with written_whole(Path(path)) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        for rows in walk(store, query, whole=True):
            columns = {name: [_cell(name, getattr(row, name)) for row in rows] for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))
            lines += len(rows)
    return lines


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Another path to write to, which takes the place of `path` once everything is written, and only then."""
    unfinished = path.with_name(path.name + ".part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _as_json(text: str) -> Any:
    """The text as it is where it is JSON (numbers keep all their digits), else as a string."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError:
        return text
    return msgspec.Raw(text.encode())


def _columns() -> Iterator[tuple[str, type]]:
    """The columns of a row and the type of their values."""
    for name, annotation in typing.get_type_hints(LogRow).items():
        said = typing.get_args(annotation) or (annotation,)
        yield name, next(each for each in said if each is not types.NoneType)


def _arrow_type(pa: Any, name: str, kind: type) -> Any:
    if name in _TIMES:
        return pa.timestamp("ms", tz="UTC")
    return {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[kind]


def _cell(name: str, value: Any) -> Any:
    if name not in _TIMES or value is None:
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None
