"""Nothing is lost and nothing is written twice: processes are killed, databases stopped, files locked."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from reliability import Child, away, kill_nine, look
from servers import postgres_server, release_chdb
from streamfold.store import LogRow, LogStore
from streamfold.store.database import database_of
from streamfold.store.instances import Roll
from streamfold.store.journal import Journal
from streamfold.store.row import FINAL, RECOVERED, STARTED
from streamfold.store.schema import instances

CREATED = "2026-01-01T00:00:00.000Z"


def row(id: str, revision: int = FINAL, **columns: object) -> LogRow:
    return LogRow(id=id, created=CREATED, revision=revision, **columns)  # type: ignore[arg-type]


@pytest.mark.parametrize("lines", [1500, 4000])
def test_kill_in_the_middle_of_200_streams(database_url: str, lines: int) -> None:
    """After kill -9 every row whose `put` returned is there, once; streams in flight are closed as stored."""
    release_chdb()
    put, found, store = kill_nine(database_url, lines)
    with store:
        assert (found.lost, found.wrong) == ([], [])
        assert found.finished + found.abandoned == len(put)
        assert found.abandoned >= 190
        # One more put may have returned before the child could say so.
        assert found.rows - len(put) in (0, 1)
        assert (store.waiting, store.spilled_bytes, store.dropped) == (0, 0, 0)
        with store.connect() as connection:
            assert connection.scalars(select(instances.c.id)).all() == [store.instance]


def test_killed_while_the_database_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waited for an absent database when the process was killed is written by the next one."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with postgres_server() as server:
        url = server.database()
        child = Child(url, "c")
        child.wait_for(500)
        server.stop()
        child.wait_for(child.lines + 1500)
        child.kill()
        server.start()
        with LogStore.open(url) as store:
            assert store.flush(60)
            found = look(store, child.put)
            assert (found.lost, found.wrong, store.waiting) == ([], [], 0)


def test_database_away_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL goes away under load and comes back: no row is lost, none doubled, none refused."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with postgres_server() as server:
        result = away(server.database(), server.stop, server.start, 2)
    assert result.most_waiting > 0
    assert (result.refused, result.dropped) == (0, 0)
    assert result.rows == result.ids == result.put


def test_file_locked_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the SQLite file, rows wait; afterwards they are there, once."""
    monkeypatch.setattr("streamfold.store.engine_sqlite.BUSY_SECONDS", 0.05)
    path = tmp_path / "log.db"
    with LogStore.open(str(path)) as store:
        code = (
            "import sqlite3, sys\n"
            f"held = sqlite3.connect({str(path)!r}, isolation_level=None)\n"
            "held.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.read()\n"
        )
        holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert all(store.put(row(f"{number}")) for number in range(1000))
        assert not store.flush(0.3)
        assert store.waiting == 1000
        holder.communicate()
        assert store.flush(60)
        assert (len(store.rows(2000)), store.dropped) == (1000, 0)


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_two_processes_write_into_one_log(database_url: str) -> None:
    """Two processes write at once; all rows of both are there, once, and neither closes the other's requests."""
    children = [Child(database_url, name, finish=600) for name in ("one", "two")]
    assert [child.join() for child in children] == [0, 0]
    with LogStore.open(database_url) as store:
        assert store.flush(60)
        for child in children:
            found = look(store, child.put)
            assert (found.lost, found.wrong, found.finished, found.abandoned) == ([], [], 600, 0)
            assert found.rows == 1200


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_living_sibling_keeps_its_requests(database_url: str) -> None:
    """What another process has in flight stays so while it lives, and is closed once it is killed."""
    child = Child(database_url, "sibling")
    child.wait_for(1000)
    with LogStore.open(database_url) as store:
        assert store.flush(60)
        assert store._roll is not None
        with store.connect() as connection:
            assert len(connection.scalars(select(instances.c.id)).all()) == 2
        assert not store.rows(status="abandoned")
        child.kill()
    with LogStore.open(database_url) as store:
        assert store.flush(60)
        found = look(store, child.put)
        assert (found.lost, found.wrong) == ([], [])
        assert found.abandoned >= 190


def test_heartbeat_tells_of_other_machines(database_url: str, tmp_path: Path) -> None:
    """Without a common directory the heartbeat decides: requests stay while it moves, and are closed when it stops."""
    database = database_of(database_url, writable=True)
    database.prepare()
    limits = {"max_bytes": 10**9, "memory_rows": 10, "memory_bytes": 10**9}
    there = Roll(database, Journal(tmp_path / "there", **limits))
    here = Roll(database, Journal(tmp_path / "here", **limits), silence=0.0)
    owner = there._journal.instance
    there.keep()
    database.write([row("flight", STARTED + 3, status="processing", instance=owner, record="so far"), row("done")])
    for _ in range(3):
        here.keep()
        time.sleep(0.002)  # heartbeats count milliseconds
        there.keep()
    with LogStore.open_existing(database_url) as store:
        assert [found.id for found in store.rows(status="processing")] == ["flight"]
        here.keep()
        here.keep()
        flight = store.get("flight")
        assert flight is not None
        assert (flight.status, flight.revision, flight.error_type) == ("abandoned", RECOVERED, "abandoned")
        assert flight.record == "so far"
        assert (flight.ended or "") > CREATED

        database.write([row("flight", FINAL, status="success", record="all of it", instance=owner)])
        flight = store.get("flight")
        assert flight is not None
        assert (flight.status, flight.record) == ("success", "all of it")
    database.close()


def test_closing_ends_what_was_in_flight(database_url: str) -> None:
    """A process that ends properly leaves no request in flight, and no trace of itself."""
    with LogStore.open(database_url) as store:
        store.put(row("a", STARTED, status="processing"))
    with LogStore.open_existing(database_url) as store, store.connect() as connection:
        found = store.get("a")
        assert found is not None
        assert found.status == "abandoned"
        assert connection.scalars(select(instances.c.id)).all() == []


def test_instance_that_is_on_no_roll(database_url: str, tmp_path: Path) -> None:
    """Requests of a process that nobody has heard of are closed after the silence, not at once."""
    database = database_of(database_url, writable=True)
    database.prepare()
    database.write([row("a", STARTED, status="processing", instance="unheard-of")])
    journal = Journal(tmp_path / "q", max_bytes=10**9, memory_rows=10, memory_bytes=10**9)
    roll = Roll(database, journal, silence=0.0)
    roll.keep()
    with LogStore.open_existing(database_url) as store:
        assert store.rows()[0].status == "processing"
        roll.keep()
        assert store.rows()[0].status == "abandoned"
    database.close()


def test_queue_belongs_to_the_database(tmp_path: Path) -> None:
    """The queue directory depends on server and database, not on user and password."""
    first, second = (database_of(f"postgresql://{who}@127.0.0.1:5432/x", writable=True) for who in ("a:secret", "b"))
    other = database_of("postgresql://a@127.0.0.1:5432/y", writable=True)
    assert first.queue_directory(tmp_path) == second.queue_directory(tmp_path) != other.queue_directory(tmp_path)


def test_sqlite_queue_is_beside_the_file(tmp_path: Path) -> None:
    """A killed process leaves its queue beside the file, where the next one finds it, wherever both were moved."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    child = Child(str(first / "log.db"), "c")
    child.wait_for(1000)
    child.kill()
    with sqlite3.connect(first / "log.db") as connection:
        connection.execute("PRAGMA wal_checkpoint")
    first.rename(second)
    with LogStore.open(str(second / "log.db")) as store:
        assert store.flush(60)
        found = look(store, child.put)
        assert (found.lost, found.wrong) == ([], [])
