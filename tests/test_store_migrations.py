"""An SQLite file of the first streamfold becomes one of today's, with its rows."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from streamfold.errors import UsageError
from streamfold.store import LogStore
from streamfold.store.row import FINAL

FIRST = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE request_log (
    id TEXT NOT NULL, created TEXT NOT NULL, upstream TEXT, method TEXT, path TEXT, http_status INTEGER,
    stream BOOLEAN NOT NULL, format TEXT, stream_type TEXT, provider TEXT, model TEXT, response_model TEXT,
    status TEXT NOT NULL, finish_reason TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, total_tokens INTEGER,
    cached_tokens INTEGER, reasoning_tokens INTEGER, cost FLOAT, latency_ms FLOAT, time_to_first_chunk_ms FLOAT,
    time_to_first_token_ms FLOAT, time_to_first_content_ms FLOAT, chunks INTEGER NOT NULL, error_type TEXT,
    error_message TEXT, request_bytes INTEGER, record TEXT, request TEXT, PRIMARY KEY (id)
);
CREATE INDEX request_log_created ON request_log (created);
INSERT INTO schema_version VALUES (1);
"""

RECORD = {
    "request_id": "whole",
    "end_timestamp": "2026-01-01T00:00:02.000Z",
    "response_id": "chatcmpl-1",
    "service_tier": "flex",
    "raw_finish_reason": "end_turn",
    "token_usage": {"prompt_tokens": 3, "source": "provider"},
    "time_per_output_token_ms": 12.5,
    "integrity": {"anomalies": ["usage_changed", "late_chunk"]},
}


def first_file(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(FIRST)
        columns = "id, created, stream, status, chunks, model, cost, record, request"
        rows = [
            (
                "whole",
                "2026-01-01T00:00:00.000Z",
                1,
                "success",
                9,
                "m",
                0.25,
                msgspec.json.encode(RECORD).decode(),
                "{}",
            ),
            ("bare", "2026-01-02T00:00:00.000Z", 0, "error", 0, None, None, None, None),
            ("odd", "2026-01-03T00:00:00.000Z", 0, "empty", 0, None, None, "{not json", None),
        ]
        connection.executemany(f"INSERT INTO request_log ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    connection.close()


def test_first_file_is_migrated_in_place(tmp_path: Path) -> None:
    """Every row is there with all it had; what only its record knew is in the new columns."""
    path = tmp_path / "log.db"
    first_file(path)
    with LogStore.open(str(path)) as store:
        whole, bare, odd = (store.get(id) for id in ("whole", "bare", "odd"))
        assert [found.id for found in store.rows()] == ["odd", "bare", "whole"]

    assert whole is not None
    assert bare is not None
    assert odd is not None
    assert (whole.created, whole.stream, whole.status, whole.chunks) == ("2026-01-01T00:00:00.000Z", True, "success", 9)
    assert (whole.model, whole.cost, whole.request, whole.revision) == ("m", 0.25, "{}", FINAL)
    assert msgspec.json.decode(whole.record or "") == RECORD
    assert (whole.ended, whole.response_id, whole.service_tier) == (RECORD["end_timestamp"], "chatcmpl-1", "flex")
    assert (whole.raw_finish_reason, whole.usage_source) == ("end_turn", "provider")
    assert (whole.time_per_output_token_ms, whole.max_gap_ms, whole.anomalies) == (12.5, None, 2)
    assert (bare.record, bare.ended, bare.attempt, bare.anomalies) == (None, None, 0, 0)
    assert (odd.record, odd.ended, odd.anomalies) == ("{not json", None, 0)


def test_first_file_is_migrated_once(tmp_path: Path) -> None:
    """A second opening finds nothing to do; the first streamfold would refuse the file now."""
    path = tmp_path / "log.db"
    first_file(path)
    LogStore.open(str(path)).close()
    LogStore.open(str(path)).close()
    with LogStore.open_existing(str(path)) as store:
        assert len(store.rows()) == 3
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(2,)]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"schema_version", "alembic_version", "request_log", "instances"}


def test_reading_a_first_file_says_what_to_do(tmp_path: Path) -> None:
    """Reading changes nothing; it says how the file is migrated."""
    path = tmp_path / "log.db"
    first_file(path)
    with pytest.raises(UsageError, match="start `streamfold serve` with it once"):
        LogStore.open_existing(str(path))


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """All steps are one transaction: a crash or a full disk in the middle costs nothing."""
    path = tmp_path / "log.db"
    first_file(path)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE instances (something_else TEXT)")
    with pytest.raises(UsageError, match="cannot use the log database"):
        LogStore.open(str(path))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM request_log").fetchone() == (3,)
        assert connection.execute("SELECT version FROM schema_version").fetchone() == (1,)
