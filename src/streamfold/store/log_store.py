"""The log store: rows in, rows out, on one SQLite file.

The file is opened, made and written to once at the start, so that a wrong path stops the program with a sentence
instead of losing rows later. After that nothing here raises into the traffic: `put` never waits (see `writer.py`), and
a database that fails later makes rows wait. SQLite runs in WAL mode, so another process (`streamfold logs`) may read
while the gateway writes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError

from streamfold.errors import UsageError
from streamfold.store.row import LogRow
from streamfold.store.schema import LIGHT_COLUMNS, prepare, request_log, version_of
from streamfold.store.writer import BatchWriter, UnwritableError

__all__ = ["DEFAULT_DB", "LogStore"]

DEFAULT_DB: Final = "streamfold.db"
T = TypeVar("T")

BUSY_SECONDS: Final = 5
CLOSE_SECONDS: Final = 5.0
MAX_WAITING_ROWS: Final = 10_000
MAX_WAITING_BYTES: Final = 256 * 1024 * 1024
_BAD_ROW: Final = (DataError, IntegrityError, InterfaceError, ProgrammingError)
"""Failures that another try cannot mend: the row is at fault, not the database."""


class LogStore:
    """The rows of one log file. Safe to use from any thread; open it with `LogStore.open`."""

    def __init__(self, engine: Engine, path: Path, writer: BatchWriter | None) -> None:
        self.path = path
        self._engine = engine
        self._writer = writer

    @classmethod
    def open(
        cls,
        url: str = DEFAULT_DB,
        *,
        max_waiting: int = MAX_WAITING_ROWS,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> Self:
        """Opens the file for writing, makes it if need be. `url` is a path or `sqlite:///path`.

        Raises `UsageError` with the path and the fix if it cannot be written, or is of a newer streamfold.
        """
        path = _path(url)
        engine = _engine(path, writable=True)
        _attempt(path, engine, lambda connection: _first_write(connection, path))
        writer = BatchWriter(
            lambda rows: _write(engine, path, rows),
            max_rows=max_waiting,
            max_bytes=max_waiting_bytes,
        )
        return cls(engine, path, writer)

    @classmethod
    def open_existing(cls, url: str = DEFAULT_DB) -> Self:
        """Opens a log for reading only. Raises `UsageError` if there is none."""
        path = _path(url)
        if not path.exists():
            raise UsageError(f"there is no log database {path}: start `streamfold serve` first, or name it with --db")
        engine = _engine(path, writable=False)
        version = _attempt(path, engine, version_of)
        if version is None:
            raise UsageError(f"{path} is a database, but not a log of streamfold; name another file with --db")
        return cls(engine, path, None)

    @property
    def waiting(self) -> int:
        """Rows that are not in the database yet."""
        return self._writer.waiting if self._writer is not None else 0

    @property
    def dropped(self) -> int:
        """Rows that were lost, because the queue was full or they could not be written."""
        return self._writer.dropped if self._writer is not None else 0

    def put(self, row: LogRow) -> bool:
        """Queues a row; never waits and never raises. A row of an id that is already there changes nothing."""
        return self._writer is not None and self._writer.put(row)

    def flush(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Waits until all rows are in the database. Returns whether they were in time."""
        return self._writer is None or self._writer.flush(timeout)

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Writes what waits and closes the file."""
        if self._writer is not None:
            self._writer.close(timeout)
        self._engine.dispose()

    def rows(
        self, limit: int = 50, *, status: str | None = None, model: str | None = None, upstream: str | None = None
    ) -> list[LogRow]:
        """The newest rows, newest first, without `record` and `request`."""
        query = select(*LIGHT_COLUMNS).order_by(request_log.c.created.desc()).limit(limit)
        for column, wanted in ((request_log.c.status, status), (request_log.c.upstream, upstream)):
            if wanted is not None:
                query = query.where(column == wanted)
        if model is not None:
            query = query.where((request_log.c.model == model) | (request_log.c.response_model == model))
        with self._engine.connect() as connection:
            return [LogRow(**row) for row in connection.execute(query).mappings()]

    def get(self, id: str) -> LogRow | None:
        """The whole row of an id, or of the beginning of one if it is unique."""
        exact = select(request_log).where(request_log.c.id == id)
        alike = select(request_log).where(request_log.c.id.startswith(id, autoescape=True)).limit(2)
        with self._engine.connect() as connection:
            found = connection.execute(exact).mappings().all() or connection.execute(alike).mappings().all()
        return LogRow(**found[0]) if len(found) == 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _path(url: str) -> Path:
    """The file that a path or an SQLite URL names."""
    if "://" not in url:
        return Path(url).expanduser()
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UsageError("--db is neither a path nor a URL such as sqlite:///streamfold.db") from None
    if parsed.get_backend_name() != "sqlite":
        raise UsageError(f"--db names a {parsed.get_backend_name()} database; only sqlite:///path is known so far")
    if not parsed.database or parsed.database == ":memory:":
        raise UsageError("--db must name a file, such as sqlite:///streamfold.db")
    return Path(parsed.database)


def _engine(path: Path, *, writable: bool) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        if writable:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        else:
            connection.execute("PRAGMA query_only=ON")

    return engine


def _first_write(connection: Connection, path: Path) -> None:
    # IMMEDIATE takes the write lock at once: it is the test that the file can be written, and it keeps two processes
    # that start together from both making the tables.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    prepare(connection, str(path))


def _attempt(path: Path, engine: Engine, step: Callable[[Connection], T]) -> T:
    """Runs a first step on the database. Raises `UsageError` with the reason and the fix when it fails."""
    try:
        with engine.begin() as connection:
            return step(connection)
    except (DBAPIError, sqlite3.Error) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        engine.dispose()
        raise UsageError(f"cannot use the log database {path}: {reason}; {_fix(path, str(reason))}") from None
    except UsageError:
        engine.dispose()
        raise


def _fix(path: Path, reason: str) -> str:
    if path.is_dir():
        return "it is a directory: name a file with --db"
    if not path.parent.is_dir():
        return f"the directory {path.parent} does not exist: make it, or name another file with --db"
    if "not a database" in reason:
        return "the file is something else: name another one with --db"
    if "locked" in reason:
        return "another program holds it: stop that, or name another file with --db"
    return "make the file and its directory writable, or name another file with --db"


def _write(engine: Engine, path: Path, rows: Sequence[LogRow]) -> None:
    """One transaction. A row that is already there stays as it is."""
    values = [{name: getattr(row, name) for name in LogRow.__struct_fields__} for row in rows]
    try:
        if not path.exists():
            # Somebody removed the file. The open connection would go on writing to what nobody can read any more.
            engine.dispose()
            with engine.begin() as connection:
                _first_write(connection, path)
        with engine.begin() as connection:
            connection.execute(insert(request_log).on_conflict_do_nothing(index_elements=["id"]), values)
    except _BAD_ROW:
        raise
    except (DBAPIError, sqlite3.Error) as error:
        raise UnwritableError(str(error.orig if isinstance(error, DBAPIError) else error)) from error
