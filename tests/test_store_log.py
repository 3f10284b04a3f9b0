"""The log store: what is put in comes out, once, and a failing database loses nothing that fits in memory."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import msgspec
import pytest

import streamfold
from streamfold.errors import UsageError
from streamfold.store import LogRow, LogStore, row_of
from streamfold.types import AccumulatedData, CompletionTokensDetails, Cost, ErrorDetails, TokenUsage

BODY = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"gpt-x","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}'
)


def row(id: str = "a", created: str = "2026-01-01T00:00:00.000Z", **columns: object) -> LogRow:
    return LogRow(id=id, created=created, **columns)  # type: ignore[arg-type]


def test_row_tells_what_the_record_tells(tmp_path: Path) -> None:
    """The columns are read from the record, and the record comes back whole."""
    data = streamfold.read(BODY, "openai-chat", request_id="r1", provider="openai", model="gpt").data
    assert data is not None
    with LogStore.open(str(tmp_path / "log.db")) as store:
        store.put(row_of(data, upstream="openai", method="POST", path="/v1/chat/completions", http_status=200))
        assert store.flush()
        found = store.get("r1")

    assert found is not None
    assert (found.model, found.response_model, found.status, found.finish_reason) == ("gpt", "gpt-x", "success", "stop")
    assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (3, 4, 7)
    assert msgspec.json.decode(found.record or "", type=AccumulatedData) == data


def test_row_of_odd_values() -> None:
    """What a provider says in the wrong type, or too large, never keeps a row from being written."""
    usage = TokenUsage(prompt_tokens=2**70, completion_tokens_details=CompletionTokensDetails(reasoning_tokens=5))
    data = AccumulatedData(
        request_id="r",
        start_timestamp="t",
        response_model=5,  # type: ignore[arg-type]
        model="\ud800",
        token_usage=usage,
        cost=Cost(0.5),
        error_details=ErrorDetails(code="x", message="m"),
    )
    data = msgspec.structs.replace(data, model=None)
    made = row_of(data)

    assert (made.prompt_tokens, made.reasoning_tokens, made.cost) == (None, 5, 0.5)
    assert (made.response_model, made.error_type, made.error_message) == ("5", "x", "m")


def test_same_id_is_written_once(tmp_path: Path) -> None:
    """A second row of the same id changes nothing."""
    with LogStore.open(str(tmp_path / "log.db")) as store:
        store.put(row(status="success"))
        store.flush()
        store.put(row(status="error"))
        store.put(row("b"))
        store.flush()

        assert [found.status for found in store.rows(status="success")] == ["success"]
        assert len(store.rows()) == 2


def test_newest_first_and_filters(tmp_path: Path) -> None:
    """Lists show the newest first, without bodies, and by status, model and upstream."""
    with LogStore.open(str(tmp_path / "log.db")) as store:
        for number in range(5):
            columns = {"model": f"m{number % 2}", "upstream": "u", "record": "{}", "request": "{}"}
            store.put(row(f"id{number}", f"2026-01-0{number + 1}T00:00:00.000Z", **columns))
        store.flush()

        assert [found.id for found in store.rows(2)] == ["id4", "id3"]
        assert [found.id for found in store.rows(model="m1", upstream="u")] == ["id3", "id1"]
        assert {found.record for found in store.rows()} == {None}


def test_close_writes_what_waits(tmp_path: Path) -> None:
    """Closing writes every waiting row, also more than one batch."""
    store = LogStore.open(f"sqlite:///{tmp_path / 'log.db'}")
    for number in range(1234):
        store.put(row(str(number)))
    store.close()

    with LogStore.open_existing(str(tmp_path / "log.db")) as again:
        assert len(again.rows(5000)) == 1234
    assert store.dropped == 0
    assert not store.put(row("late"))
    assert not (tmp_path / "log.db.queue").exists()


def test_file_is_in_wal_mode(tmp_path: Path) -> None:
    """The file is in WAL mode, so that others may read while one writes."""
    path = tmp_path / "log.db"
    LogStore.open(str(path)).close()
    LogStore.open(str(path)).close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def _directory(path: Path) -> None:
    path.mkdir()


def _other_file(path: Path) -> None:
    path.write_bytes(b"This is certainly not a database. " * 100)


def _locked_directory(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    path.parent.chmod(0o500)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_directory, "it is a directory: name a file with --db"),
        (_other_file, "the file is something else: name another one with --db"),
        (_locked_directory, "make the file and its directory writable"),
    ],
)
def test_unwritable_database(tmp_path: Path, make: object, sentence: str) -> None:
    """A database that cannot be written stops the start, with its path and the fix."""
    path = tmp_path / "log.db"
    make(path)  # type: ignore[operator]

    with pytest.raises(UsageError) as caught:
        LogStore.open(str(path))
    assert f"cannot use the log database {path}" in str(caught.value)
    assert sentence in str(caught.value)


def test_database_in_no_directory(tmp_path: Path) -> None:
    """A directory that does not exist is named."""
    with pytest.raises(UsageError, match=r"the directory .*nowhere does not exist"):
        LogStore.open(str(tmp_path / "nowhere" / "log.db"))


def test_reading_needs_a_log(tmp_path: Path) -> None:
    """Reading makes no file, and refuses a database that is no log."""
    with pytest.raises(UsageError, match="there is no log database"):
        LogStore.open_existing(str(tmp_path / "log.db"))
    assert not (tmp_path / "log.db").exists()
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(UsageError, match="not a log of this streamfold"):
        LogStore.open_existing(str(tmp_path / "other.db"))


def test_database_that_is_locked_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program holds the database, rows wait; afterwards they are all there."""
    monkeypatch.setattr("streamfold.store.engine_sqlite.BUSY_SECONDS", 0.01)
    path = tmp_path / "log.db"
    with LogStore.open(str(path)) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        for number in range(10):
            assert store.put(row(str(number)))
        assert not store.flush(0.1)
        assert store.waiting == 10
        holder.execute("COMMIT")
        holder.close()

        assert store.flush(60)
        assert len(store.rows()) == 10
        assert (store.waiting, store.dropped) == (0, 0)


def test_removed_file_is_made_again(tmp_path: Path) -> None:
    """When somebody removes the file, later rows go to a new one, not into the void."""
    path = tmp_path / "log.db"
    with LogStore.open(str(path)) as store:
        store.put(row("before"))
        assert store.flush()
        for each in tmp_path.glob("log.db*"):
            if each.is_file():
                each.unlink()
        store.put(row("after"))
        assert store.flush()

    with LogStore.open_existing(str(path)) as again:
        assert [found.id for found in again.rows()] == ["after"]


def test_many_threads_put(tmp_path: Path) -> None:
    """Rows put by many threads at once are all there, each once."""
    with LogStore.open(str(tmp_path / "log.db")) as store:

        def put(thread: int) -> None:
            for number in range(100):
                store.put(row(f"{thread}-{number}"))

        threads = [threading.Thread(target=put, args=(thread,)) for thread in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert store.flush(60)

        assert len(store.rows(1000)) == 800
