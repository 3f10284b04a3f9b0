"""The log store: rows in, rows out, on the database that a URL names.

The database is opened, made or migrated and written to once at the start, so that a wrong URL stops the program with a
sentence instead of losing rows later. After that nothing here raises into the traffic: `put` never waits for the
database (see `writer.py` and `journal.py`), and a database that fails later makes rows wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import ColumnElement, Connection, select

from streamfold.errors import UsageError
from streamfold.store.bad_lines import BAD_BYTES, BAD_FILES
from streamfold.store.database import Database, database_of
from streamfold.store.instances import Roll
from streamfold.store.journal import Journal
from streamfold.store.row import LogRow
from streamfold.store.schema import LIGHT_COLUMNS, request_log
from streamfold.store.writer import Writer

__all__ = ["DEFAULT_DB", "LogStore"]

DEFAULT_DB: Final = "streamfold.db"

CLOSE_SECONDS: Final = 5.0
SPILL_BYTES: Final = 1024**3
MAX_WAITING_ROWS: Final = 10_000
MAX_WAITING_BYTES: Final = 256 * 1024 * 1024


class LogStore:
    """The rows of one log. Safe to use from any thread; open it with `LogStore.open`."""

    def __init__(self, database: Database, journal: Journal | None) -> None:
        self._database = database
        self._journal = journal
        self._writer: Writer | None = None
        self._roll: Roll | None = None
        if journal is not None:
            self._roll = Roll(database, journal)
            self._writer = Writer(
                journal,
                database.write,
                linger=database.linger,
                upkeep=self._roll.keep,
                farewell=self._roll.sign_off,
            )

    @classmethod
    def open(
        cls,
        url: str = DEFAULT_DB,
        *,
        spill_dir: str | Path | None = None,
        spill_bytes: int = SPILL_BYTES,
        bad_bytes: int = BAD_BYTES,
        bad_files: int = BAD_FILES,
        max_waiting: int = MAX_WAITING_ROWS,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> Self:
        """Opens a log for writing, makes it if need be, migrates an older one.

        `url` is a path or `sqlite:///path`, `postgresql://…`, `clickhouse://…` or `chdb:///path`. Rows wait for the
        database in files below `spill_dir` (by default beside the SQLite file, else in the user's state directory), up
        to `spill_bytes`; if these cannot be written, in memory, up to `max_waiting` rows and `max_waiting_bytes`.
        What can never be written is set aside there, up to `bad_bytes` in `bad_files` files; the oldest of them go.

        Raises `UsageError` with the name and the fix if it cannot be written, or is of a newer streamfold.
        """
        database = database_of(url, writable=True)
        database.prepare()
        directory = database.queue_directory(Path(spill_dir).expanduser() if spill_dir else None)
        try:
            journal = Journal(
                directory,
                max_bytes=spill_bytes,
                memory_rows=max_waiting,
                memory_bytes=max_waiting_bytes,
                bad_bytes=bad_bytes,
                bad_files=bad_files,
            )
        except OSError as error:
            database.close()
            raise UsageError(
                f"cannot keep waiting rows in {directory}: {error.strerror}; make it writable, or name another "
                "directory as spill_dir"
            ) from None
        return cls(database, journal)

    @classmethod
    def open_existing(cls, url: str = DEFAULT_DB) -> Self:
        """Opens a log for reading only. Raises `UsageError` if there is none."""
        database = database_of(url, writable=False)
        database.check()
        return cls(database, None)

    @property
    def name(self) -> str:
        """The path or URL of the log, without password."""
        return self._database.name

    @property
    def path(self) -> Path | None:
        """The file or directory of the log; None if a server keeps it."""
        return self._database.path

    @property
    def dialect(self) -> str:
        """`sqlite`, `postgresql` or `clickhouse`."""
        return self._database.dialect

    @property
    def instance(self) -> str | None:
        """The id of this process among those that write into the log; None when it only reads."""
        return self._journal.instance if self._journal is not None else None

    @property
    def waiting(self) -> int:
        """Rows that are not in the database yet, those of dead processes that this one has taken over among them."""
        return self._writer.waiting if self._writer is not None else 0

    @property
    def spilled_bytes(self) -> int:
        """Bytes of the files that these rows wait in."""
        return self._journal.size if self._journal is not None else 0

    @property
    def dropped(self) -> int:
        """Rows that were lost, because there was no room for them or they could not be written."""
        return self._writer.dropped if self._writer is not None else 0

    @property
    def bad_files_removed(self) -> int:
        """Files of lines that were set aside, which had to make room for newer ones."""
        return self._journal.bad.removed if self._journal is not None else 0

    def said(self, error: BaseException) -> str:
        """What the database's driver said, in one line, without the password of the URL."""
        return self._database.said(error)

    def put(self, row: LogRow) -> bool:
        """Queues a row; never waits for the database and never raises. Returns whether there was room for it.

        The row belongs to the store from now on. It replaces the row of its id if its revision is higher.
        """
        return self._writer is not None and self._writer.put(row)

    def write(self, rows: Sequence[LogRow]) -> None:
        """Writes rows at once, by the same rule as `put`, and waits for it.

        Raises `UnwritableError` if the database cannot take them now, else what the driver raises.
        """
        if rows:
            self._database.write(rows)

    def change(self, where: ColumnElement[bool], values: dict[str, Any]) -> None:
        """Changes columns of the rows that fit, in one statement. `revision` has to be one of them.

        Raises `UnwritableError` if the database cannot take it now, else what the driver raises.
        """
        self._database.run(lambda connection: self._database.change(connection, where, values))

    def flush(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Waits until all rows are in the database. Returns whether they were in time."""
        return self._writer is None or self._writer.flush(timeout)

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Writes what waits and closes the log. What cannot be written in time is written by the next start."""
        if self._writer is not None:
            self._writer.close(timeout)
        self._database.close()

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection for reading: `with store.connect() as connection: …`."""
        with self._database.engine.connect() as connection:
            yield connection

    def rows(
        self, limit: int = 50, *, status: str | None = None, model: str | None = None, upstream: str | None = None
    ) -> list[LogRow]:
        """The newest rows, newest first, without bodies and the other heavy columns."""
        query = select(*LIGHT_COLUMNS).order_by(request_log.c.created.desc()).limit(limit)
        for column, wanted in ((request_log.c.status, status), (request_log.c.upstream, upstream)):
            if wanted is not None:
                query = query.where(column == wanted)
        if model is not None:
            query = query.where((request_log.c.model == model) | (request_log.c.response_model == model))
        with self.connect() as connection:
            return [LogRow(**row) for row in connection.execute(query).mappings()]

    def get(self, id: str) -> LogRow | None:
        """The whole row of an id, or of the beginning of one if it is unique."""
        exact = select(request_log).where(request_log.c.id == id)
        alike = select(request_log).where(self._database.begins(request_log.c.id, id)).limit(2)
        with self.connect() as connection:
            found = connection.execute(exact).mappings().all() or connection.execute(alike).mappings().all()
        return LogRow(**found[0]) if len(found) == 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
