"""The log store: what is put in comes out, once, and a failing database loses nothing that fits in memory."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

import streamfold
from streamfold.errors import UsageError
from streamfold.store import LogRow, LogStore, row_of
from streamfold.store.schema import SCHEMA_VERSION
from streamfold.store.writer import BatchWriter, UnwritableError
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


def test_get_by_beginning(tmp_path: Path) -> None:
    """The beginning of an id finds its row if it is the only one; wildcards are no wildcards."""
    with LogStore.open(str(tmp_path / "log.db")) as store:
        for id in ("abc1", "abd2", "abd"):
            store.put(row(id))
        store.flush()
        found = {key: getattr(store.get(key), "id", None) for key in ("abc", "abd", "ab", "%", "x")}

    assert found == {"abc": "abc1", "abd": "abd", "ab": None, "%": None, "x": None}


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


def test_schema_has_a_version(tmp_path: Path) -> None:
    """The file says its schema version in a table of one row, and is in WAL mode."""
    path = tmp_path / "log.db"
    LogStore.open(str(path)).close()
    LogStore.open(str(path)).close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(SCHEMA_VERSION,)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A log of a newer streamfold is not written to."""
    path = tmp_path / "log.db"
    LogStore.open(str(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_version SET version = 99")

    with pytest.raises(UsageError, match=r"log\.db was written by a newer streamfold \(schema 99"):
        LogStore.open(str(path))


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


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://host/db", "only sqlite:///path is known so far"),
        ("sqlite://", "must name a file"),
        ("not a url://", "neither a path nor a URL"),
    ],
)
def test_urls_that_name_no_file(url: str, sentence: str) -> None:
    """Only paths and SQLite URLs with a file are taken."""
    with pytest.raises(UsageError, match=sentence):
        LogStore.open(url)


def test_reading_needs_a_log(tmp_path: Path) -> None:
    """Reading makes no file, and refuses a database that is no log."""
    with pytest.raises(UsageError, match="there is no log database"):
        LogStore.open_existing(str(tmp_path / "log.db"))
    assert not (tmp_path / "log.db").exists()
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(UsageError, match="not a log of streamfold"):
        LogStore.open_existing(str(tmp_path / "other.db"))


def test_database_that_is_locked_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program holds the database, rows wait; afterwards they are all there."""
    monkeypatch.setattr("streamfold.store.log_store.BUSY_SECONDS", 0.01)
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

        assert store.flush(10)
        assert len(store.rows()) == 10
        assert (store.waiting, store.dropped) == (0, 0)


def test_removed_file_is_made_again(tmp_path: Path) -> None:
    """When somebody removes the file, later rows go to a new one, not into the void."""
    path = tmp_path / "log.db"
    with LogStore.open(str(path)) as store:
        store.put(row("before"))
        assert store.flush()
        for each in tmp_path.iterdir():
            each.unlink()
        store.put(row("after"))
        assert store.flush()

    with LogStore.open_existing(str(path)) as again:
        assert [found.id for found in again.rows()] == ["after"]


# ---------------------------------------------------------------------- the writer alone


class Disk:
    """Takes rows, or refuses them, as told."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.full = False
        self.poison: set[str] = set()
        self.tried = threading.Event()

    def write(self, rows: Sequence[LogRow]) -> None:
        self.tried.set()
        if self.full:
            raise UnwritableError("disk full")
        if any(each.id in self.poison for each in rows):
            raise ValueError("bad row")
        self.rows += [each.id for each in rows]


def test_full_queue_drops_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """What does not fit is counted, row by row, and told loudly; what fits is written once the disk is back."""
    disk = Disk()
    disk.full = True
    writer = BatchWriter(disk.write, max_rows=3, max_bytes=10**9)
    taken = [writer.put(row(str(number))) for number in range(5)]

    assert taken == [True, True, True, False, False]
    assert (writer.waiting, writer.dropped) == (3, 2)
    assert "the log cannot keep up: 1 rows dropped so far" in caplog.text
    disk.full = False
    assert writer.flush(10)
    assert disk.rows == ["0", "1", "2"]
    writer.close(1)


def test_queue_is_bounded_in_bytes() -> None:
    """Large rows fill the queue before many do, but one row always fits."""
    disk = Disk()
    disk.full = True
    writer = BatchWriter(disk.write, max_rows=100, max_bytes=5000)

    assert [writer.put(row(str(number), record="x" * 9000)) for number in range(2)] == [True, False]
    writer.close(0)
    assert writer.dropped == 2


def test_bad_row_goes_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A row that no database takes is dropped and counted; its neighbours are written."""
    disk = Disk()
    disk.poison = {"1"}
    writer = BatchWriter(disk.write, max_rows=100, max_bytes=10**9)
    for number in range(3):
        writer.put(row(str(number)))

    assert writer.flush(10)
    writer.close(1)
    assert (disk.rows, writer.dropped) == (["0", "2"], 1)
    assert "row 1 cannot be written" in caplog.text


def test_close_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """Closing on a dead disk gives up in time and says how many rows are lost."""
    caplog.set_level(logging.ERROR)
    disk = Disk()
    disk.full = True
    writer = BatchWriter(disk.write, max_rows=100, max_bytes=10**9)
    writer.put(row())
    assert disk.tried.wait(10)
    writer.close(0.2)

    assert writer.dropped == 1
    assert "closed with 1 rows unwritten" in caplog.text


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
        store.flush(10)

        assert len(store.rows(1000)) == 800
