"""What the log needs of a database, and which class does it for a URL.

Everything that differs between engines is in one module per engine (`engine_sqlite`, `engine_postgres`,
`engine_clickhouse`); the rest of the store, and its queries, speak SQLAlchemy's common language.

A URL may hold a password. It is shown nowhere: what names a database to people is `name`, and what a driver says when
it fails passes `said`.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, func, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from streamfold.errors import UsageError
from streamfold.store import migrations
from streamfold.store.row import LogRow
from streamfold.store.schema import request_log

__all__ = ["Database", "UnwritableError", "database_of", "newest"]

T = TypeVar("T")

_ENGINES: Final = {
    "sqlite": "sqlite",
    "postgresql": "postgres",
    "postgres": "postgres",
    "clickhouse": "clickhouse",
    "clickhousedb": "clickhouse",
    "chdb": "clickhouse",
}


class UnwritableError(Exception):
    """The database cannot take rows now; later it may."""


class Database(ABC):
    """One database of the log. `engine` connects when it is first used."""

    dialect: ClassVar[str]
    """`sqlite`, `postgresql` or `clickhouse`."""
    bad_row: ClassVar[tuple[type[Exception], ...]]
    """Failures that another try cannot mend: the row is at fault, not the database."""
    linger: ClassVar[float] = 0.02
    """Seconds that a first finished row waits for company."""

    engine: Engine
    path: Path | None = None
    """The file or directory of an embedded database."""

    def __init__(self, url: URL, *, writable: bool) -> None:
        self._url = url
        self.writable = writable
        self._in_doubt = False
        self.name = url.set(query={}).render_as_string(hide_password=True)

    @abstractmethod
    def insert(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Writes rows of distinct ids into `request_log`. A row that is there stays unless its revision is lower."""

    def change(self, connection: Connection, where: ColumnElement[bool], values: dict[str, Any]) -> None:
        """Changes columns of the rows that fit, in one statement, so that nobody writes them between its two halves."""
        connection.execute(update(request_log).where(where).values(values))

    @abstractmethod
    def beat(self, connection: Connection, instance: dict[str, str]) -> None:
        """Writes or replaces a row of `instances`."""

    @abstractmethod
    def fix(self, reason: str) -> str:
        """What to do when the database cannot be used, for a person."""

    def lock(self, connection: Connection) -> None:  # noqa: B027  an engine without locks has nothing to do
        """Keeps other processes from making the tables at the same time, until the transaction ends."""

    def begins(self, column: ColumnElement[str], text: str) -> ColumnElement[bool]:
        """The condition that a column begins with a text. Not LIKE, to which some letters mean something else."""
        return (column >= text) & (func.substr(column, 1, len(text)) == text)

    def forgets_file(self) -> bool:
        """Whether the database is gone from under its connections, so that it must be made again."""
        return False

    def queue_directory(self, root: Path | None) -> Path:
        """Where rows wait for this database. A directory that the user names may serve several databases."""
        where = f"{self._url.host}:{self._url.port}/{self._url.database}"
        digest = hashlib.sha256(where.encode()).hexdigest()[:12]
        return (root or _state_directory() / "queue") / f"{self.dialect}-{digest}"

    def prepare(self) -> None:
        """Makes or migrates the tables. Raises `UsageError` with the name and the fix when that fails."""
        self.attempt(self._prepare)

    def check(self) -> None:
        """Raises `UsageError` if this is no log that can be read."""
        version = self.attempt(migrations.version_of)
        if version is None:
            raise UsageError(
                f"{self.name} is a database, but not a log of this streamfold: name another one with --db, "
                "or, if it is the log of an older streamfold, start `streamfold serve` with it once"
            )
        self._refuse_newer(version)

    def attempt(self, step: Callable[[Connection], T]) -> T:
        """Runs a first step on the database. Raises `UsageError` with the reason and the fix when it fails."""
        try:
            with self.engine.begin() as connection:
                return step(connection)
        except UsageError:
            self.engine.dispose()
            raise
        except Exception as error:
            self.engine.dispose()
            reason = self.said(error)
            raise UsageError(f"cannot use the log database {self.name}: {reason}; {self.fix(reason)}") from None

    def write(self, rows: Sequence[LogRow]) -> None:
        """Writes rows in one transaction: of each id the newest, unless the database has a newer one.

        Raises `UnwritableError` when the database cannot take rows now, anything else when a row is at fault.
        """
        values = [msgspec.structs.asdict(row) for row in newest(rows)]
        self.run(lambda connection: self.insert(connection, values))

    def run(self, step: Callable[[Connection], T]) -> T:
        """Runs a step in one transaction. Raises `UnwritableError` when the database is away, as `write` does."""
        if self._in_doubt or self.forgets_file():
            self._make_again()
        try:
            with self.engine.begin() as connection:
                return step(connection)
        except self.bad_row:
            raise
        except (DBAPIError, sqlite3.Error, OSError) as error:
            self._in_doubt = True
            raise UnwritableError(self.said(error)) from None

    def _make_again(self) -> None:
        """Makes the tables where they are missing: what came back may be another database than what went away."""
        try:
            self.engine.dispose()
            with self.engine.begin() as connection:
                self._prepare(connection)
        except Exception as error:
            raise UnwritableError(self.said(error)) from None
        self._in_doubt = False

    def said(self, error: BaseException) -> str:
        """What a driver said, in one line, without the password."""
        reason = str(error.orig if isinstance(error, DBAPIError) else error).strip() or type(error).__name__
        line = reason.splitlines()[0][:300]
        password = self._url.password
        return line.replace(str(password), "***") if password else line

    def close(self) -> None:
        """Closes the connections."""
        self.engine.dispose()

    def _prepare(self, connection: Connection) -> None:
        self.lock(connection)
        version = migrations.version_of(connection)
        if version is not None:
            self._refuse_newer(version)
        migrations.upgrade(connection)

    def _refuse_newer(self, version: str) -> None:
        if version > migrations.HEAD:
            raise UsageError(
                f"the log database {self.name} was written by a newer streamfold "
                f"(schema {version}; this one knows {migrations.HEAD}): upgrade streamfold, "
                "or name another database with --db"
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def newest(rows: Sequence[LogRow]) -> list[LogRow]:
    """Of each id the row of the highest revision; the first of equals."""
    kept: dict[str, LogRow] = {}
    for row in rows:
        other = kept.get(row.id)
        if other is None or row.revision > other.revision:
            kept[row.id] = row
    return list(kept.values())


def database_of(url: str, *, writable: bool) -> Database:
    """The database that a path or URL names. Nothing is opened yet. Raises `UsageError` if it names none."""
    try:
        parsed = make_url(url) if "://" in url else URL.create("sqlite", database=str(Path(url).expanduser()))
    except ArgumentError:
        # The URL is not quoted: it may hold a password.
        raise UsageError("--db is neither a path nor a URL such as sqlite:///streamfold.db") from None
    scheme = parsed.drivername.split("+", 1)[0]
    engine = _ENGINES.get(scheme)
    if engine is None:
        raise UsageError(
            f"--db names a {scheme} database; known are sqlite:///path, postgresql://host/db, "
            "clickhouse://host:port/db and chdb:///path"
        )
    made: Database = import_module(f"streamfold.store.engine_{engine}").open_engine(parsed, writable=writable)
    return made


def _state_directory() -> Path:
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "streamfold"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "streamfold"
