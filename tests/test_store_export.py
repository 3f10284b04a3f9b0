"""Exports: what is written to a file is what is in the log, whatever its size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamfold.errors import UsageError
from streamfold.store import LogRow, LogStore
from streamfold.store import query as queries
from streamfold.store.export import JSON_COLUMNS, export_jsonl, export_parquet
from streamfold.store.query import LogQuery
from test_store_query import ROWS

OLDEST_FIRST = sorted(ROWS, key=lambda row: (row.created, row.id))
QUERY = LogQuery(sort="created")


@pytest.fixture
def store(database_url: str) -> Iterator[LogStore]:
    """A log with `ROWS`, on each engine."""
    with LogStore.open(database_url) as opened:
        opened.write(ROWS)
        yield opened


def plain(row: LogRow) -> dict[str, Any]:
    """The row with its JSON columns decoded."""
    shown = msgspec.structs.asdict(row)
    return shown | {name: msgspec.json.decode(text) for name in JSON_COLUMNS if (text := shown[name]) is not None}


def test_jsonl_reads_back_equal(store: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is a row with its JSON columns as values, in the order asked for, also over many batches."""
    monkeypatch.setattr(queries, "WALK_ROWS", 13)
    monkeypatch.setattr(queries, "WALK_BYTES", 100)
    out = io.BytesIO()

    assert export_jsonl(store, QUERY, out) == len(ROWS)
    assert [msgspec.json.decode(line) for line in out.getvalue().splitlines()] == [plain(row) for row in OLDEST_FIRST]


def test_parquet_reads_back_equal(store: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has a row group per batch, typed columns, and the same values."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    monkeypatch.setattr(queries, "WALK_ROWS", 40)
    path = tmp_path / "log.parquet"

    assert export_parquet(store, QUERY, path) == len(ROWS)
    found = parquet.ParquetFile(path)
    rows = found.read().to_pylist()
    for row in rows:
        row["created"] = row["created"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert [LogRow(**row) for row in rows] == OLDEST_FIRST
    assert found.metadata.num_row_groups == 3
    types = {field.name: str(field.type) for field in found.schema_arrow}
    assert (types["created"], types["cost"], types["chunks"], types["stream"], types["record"]) == (
        *("timestamp[ms, tz=UTC]", "double"),
        *("int64", "bool", "string"),
    )
    assert [each.name for each in tmp_path.glob("log.parquet*")] == ["log.parquet"]


def test_only_what_was_asked_for(store: LogStore) -> None:
    """Filters and a limit hold for exports."""
    out = io.BytesIO()
    wanted = [row.id for row in OLDEST_FIRST if row.client == "ann"][:5]

    assert export_jsonl(store, LogQuery(sort="created", client=("ann",), limit=5), out) == 5
    assert [msgspec.json.decode(line)["id"] for line in out.getvalue().splitlines()] == wanted


def test_json_stays_letter_for_letter(tmp_path: Path) -> None:
    """Numbers keep their digits, and what is no JSON after all is a string."""
    out = io.BytesIO()
    with LogStore.open(str(tmp_path / "log.db")) as store:
        store.write([LogRow(id="a", created="t", record='{"big":123456789012345678901234567890.10}', request="{cut")])
        export_jsonl(store, QUERY, out)

    assert b'"record":{"big":123456789012345678901234567890.10}' in out.getvalue()
    assert b'"request":"{cut"' in out.getvalue()


def test_parquet_of_an_odd_log(tmp_path: Path) -> None:
    """No row at all is a file without rows; a timestamp in no known form is null."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    with LogStore.open(str(tmp_path / "log.db")) as store:
        assert export_parquet(store, QUERY, tmp_path / "none.parquet") == 0
        store.write([LogRow(id="a", created="once", ended="2026-01-01T00:00:00.123Z")])
        assert export_parquet(store, QUERY, tmp_path / "one.parquet") == 1

    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0
    (row,) = parquet.read_table(tmp_path / "one.parquet").to_pylist()
    assert (row["created"], row["ended"].microsecond) == (None, 123_000)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its package, the export says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with (
        LogStore.open(str(tmp_path / "log.db")) as store,
        pytest.raises(UsageError, match=r"pip install .streamfold\[parquet\]"),
    ):
        export_parquet(store, QUERY, tmp_path / "x.parquet")
