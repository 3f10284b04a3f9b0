"""Every engine holds the same rows by the same rules: SQLite, PostgreSQL, ClickHouse (embedded)."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, inspect, select, text

from servers import Postgres
from streamfold.errors import UsageError
from streamfold.store import LogRow, LogStore, migrations
from streamfold.store.database import UnwritableError, database_of, newest
from streamfold.store.row import FINAL, RECOVERED, STARTED
from streamfold.store.schema import instances, metadata, request_log


def row(id: str = "a", revision: int = FINAL, **columns: object) -> LogRow:
    return LogRow(id=id, created="2026-01-01T00:00:00.000Z", revision=revision, **columns)  # type: ignore[arg-type]


FULL = msgspec.convert(
    {
        name: {"str": f"{name} ü \u2028 \\ % ' \" {{}}", "int": 2**62, "float": 0.1 + 0.2, "bool": True}[
            next(kind for kind in ("str", "int", "float", "bool") if str(annotation).startswith(kind))
        ]
        for name, annotation in LogRow.__annotations__.items()
    }
    | {"id": "full", "created": "2026-01-01T00:00:00.000Z"},
    LogRow,
)
"""A row with something in every column."""


def test_every_column_comes_back(database_url: str) -> None:
    """A row with every column filled, and one with none, come back as they were put."""
    empty = row("empty")
    with LogStore.open(database_url) as store:
        assert store.put(FULL)
        assert store.put(empty)
        assert store.flush(30)
        assert (store.get("full"), store.get("empty")) == (FULL, empty)
        assert store.dropped == 0


def test_tables_are_as_the_schema_says(database_url: str) -> None:
    """What the migrations make has the columns of `LogRow`, no more and no less, and says where it stands."""
    with LogStore.open(database_url) as store, store.connect() as connection:
        for table in metadata.sorted_tables:
            made = {column["name"] for column in inspect(connection).get_columns(table.name)}
            assert made == set(table.columns.keys())
        assert migrations.version_of(connection) == migrations.HEAD
        if store.dialect != "clickhouse":
            found = {column["name"]: column["nullable"] for column in inspect(connection).get_columns("request_log")}
            assert found == {column.name: column.nullable for column in request_log.columns}
            names = {index["name"] for index in inspect(connection).get_indexes("request_log")}
            assert names == {index.name for index in request_log.indexes}


def test_head_is_the_newest_step() -> None:
    """`HEAD` names the last file of the migrations."""
    steps = Path(migrations.__file__).parent / "versions"
    assert max(path.name for path in steps.glob("[0-9]*.py")).startswith(migrations.HEAD)


def test_opening_twice_changes_nothing(database_url: str) -> None:
    """A log that is up to date is opened again, for writing and for reading."""
    with LogStore.open(database_url) as store:
        store.put(row())
    with LogStore.open(database_url) as store:
        assert store.get("a") is not None
    with LogStore.open_existing(database_url) as store:
        assert [found.id for found in store.rows()] == ["a"]
        assert not store.put(row("b"))


REVISIONS = (STARTED, STARTED + 1, STARTED + 2, RECOVERED, FINAL, FINAL + 1)


def test_the_highest_revision_stays(database_url: str) -> None:
    """In whatever order and how often the revisions of a row are written, in one batch or many, the highest stays."""
    orders = [list(order) for order in itertools.permutations(REVISIONS)]
    random.Random(4).shuffle(orders)
    with LogStore.open(database_url) as store:
        for at in range(len(REVISIONS)):
            store.write([row(f"{number}", order[at], model=f"m{order[at]}") for number, order in enumerate(orders)])
        with store.connect() as connection:
            log = request_log.c
            found = connection.execute(select(log.revision, log.model, func.count()).group_by(log.revision, log.model))
            assert [tuple(each) for each in found] == [(FINAL + 1, f"m{FINAL + 1}", len(orders))]


SOME_WRITES = st.lists(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(REVISIONS)), min_size=1, max_size=5), max_size=6
)


def test_any_writes_in_any_order(database_url: str) -> None:
    """After any writes, with repeats, each id is there once, with the highest revision that was written."""

    @settings(max_examples=30)
    @given(writes=SOME_WRITES)
    def check(writes: list[list[tuple[str, int]]]) -> None:
        with store.connect() as connection:
            before = {found.id: found.revision for found in connection.execute(select(request_log))}
        wanted = dict(before)
        for batch in writes:
            store.write([row(id, revision) for id, revision in batch])
            for id, revision in batch:
                wanted[id] = max(wanted.get(id, -1), revision)
        with store.connect() as connection:
            found = connection.execute(select(request_log.c.id, request_log.c.revision)).all()
        assert sorted(map(tuple, found)) == sorted(wanted.items())

    with LogStore.open(database_url) as store:
        check()


def test_newest_of_a_batch() -> None:
    """Of the rows of one id only the newest is written."""
    rows = [row("a", STARTED), row("b"), row("a", FINAL, model="end"), row("a", RECOVERED)]
    assert [(each.id, each.model) for each in newest(rows)] == [("a", "end"), ("b", None)]


def test_get_by_beginning(database_url: str) -> None:
    """The beginning of an id finds its row if it is the only one; wildcards are no wildcards."""
    with LogStore.open(database_url) as store:
        store.write([row(id) for id in ("abc1", "abd2", "abd", "Ü%", "a_c")])
        found = {key: getattr(store.get(key), "id", None) for key in ("abc", "abd", "ab", "%", "x", "Ü", "a_")}

    assert found == {"abc": "abc1", "abd": "abd", "ab": None, "%": None, "x": None, "Ü": "Ü%", "a_": "a_c"}


def test_newer_schema_is_refused(database_url: str) -> None:
    """A log of a newer streamfold is neither written to nor read."""
    with LogStore.open(database_url) as store, store.connect() as connection:
        if store.dialect == "clickhouse":
            connection.execute(text("TRUNCATE TABLE alembic_version"))
            connection.execute(text("INSERT INTO alembic_version (version_num) VALUES ('9999')"))
        else:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.commit()

    for open_log in (LogStore.open, LogStore.open_existing):
        with pytest.raises(UsageError, match=r"was written by a newer streamfold \(schema 9999"):
            open_log(database_url)


def test_no_log_is_said_so(database_url: str) -> None:
    """Reading a database without a log says so."""
    with pytest.raises(UsageError, match=r"not a log of this streamfold|there is no log database"):
        LogStore.open_existing(database_url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://root:hunter2@host/db", "known are sqlite:///path, postgresql://host/db"),
        ("sqlite://", "must name a file"),
        ("chdb://", "must name a directory"),
        ("not a url://hunter2", "neither a path nor a URL"),
        ("postgresql://u:hunter2@127.0.0.1:1/db", "cannot use the log database postgresql://u:***@127.0.0.1:1/db: "),
        ("postgresql://u@127.0.0.1:1/db?password=hunter2", "start the server, or check host and port in --db"),
        ("clickhouse://u:hunter2@127.0.0.1:1/db", "cannot use the log database clickhouse://u:***@127.0.0.1:1/db: "),
    ],
)
def test_urls_that_lead_nowhere(url: str, sentence: str) -> None:
    """A wrong URL is refused with the fix, and its password is not shown."""
    for open_log in (LogStore.open, LogStore.open_existing):
        with pytest.raises(UsageError) as caught:
            open_log(url)
        assert sentence in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_password_is_in_no_name(postgres: Postgres, tmp_path: Path) -> None:
    """The name and the representation of a store hide the password."""
    with LogStore.open(postgres.database(), spill_dir=tmp_path) as store:
        assert "secret" not in f"{store.name} {store._database!r} {store._database.engine!r}"
        assert store.name.startswith("postgresql://streamfold:***@127.0.0.1")


def test_missing_database_is_said(postgres: Postgres) -> None:
    """A database that does not exist is named with its fix."""
    missing = postgres.url.replace("/postgres", "/nowhere")
    with pytest.raises(UsageError, match="make it with `createdb`"):
        LogStore.open(missing)


BAD_ROWS = [
    ("sqlite", {"attempt": 2**70}),
    ("postgresql", {"attempt": 2**70}),
    ("postgresql", {"model": "nul \0 byte"}),
]


@pytest.mark.parametrize(("database_url", "bad"), BAD_ROWS, indirect=["database_url"])
def test_a_bad_row_goes_alone(database_url: str, bad: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    """A row that the database does not take is set aside and counted; its neighbours are written."""
    with LogStore.open(database_url) as store:
        for number in range(20):
            store.put(row(f"{number}", **(bad if number == 7 else {})))
        assert store.flush(30)
        assert {found.id for found in store.rows(100)} == {str(number) for number in range(20)} - {"7"}
        assert (store.dropped, store.waiting) == (1, 0)
    assert "row 7 cannot be written and is set aside" in caplog.text


def test_tables_that_vanish_are_made_again(database_url: str) -> None:
    """Somebody drops the tables: the next rows wait for new ones, and are in them."""
    with LogStore.open(database_url) as store:
        store.put(row("before"))
        assert store.flush(30)
        with store.connect() as connection:
            for name in (request_log.name, instances.name, "alembic_version"):
                connection.execute(text(f"DROP TABLE {name}"))
            if store.dialect == "sqlite":
                connection.execute(text("DROP TABLE schema_version"))
            connection.commit()
        store.put(row("after"))
        assert store.flush(30)
        assert [found.id for found in store.rows()] == ["after"]
        assert store.dropped == 0


def test_unwritable_is_told_apart(postgres: Postgres) -> None:
    """A database that is away raises `UnwritableError` from `write`."""
    database = database_of("postgresql://127.0.0.1:1/x", writable=True)
    with pytest.raises(UnwritableError):
        database.write([row()])
