"""The log in one SQLite file, in WAL mode: other processes may read while one writes, and several may write in turn."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, ProgrammingError

from streamfold.errors import UsageError
from streamfold.store.engine_upsert import UpsertDatabase

__all__ = ["SQLiteDatabase", "open_engine"]

BUSY_SECONDS: Final = 5.0


class SQLiteDatabase(UpsertDatabase):
    dialect = "sqlite"
    insert_into = staticmethod(insert)
    # A program that misuses SQLite does not come here twice; a value that SQLite cannot bind does.
    bad_row = (DataError, IntegrityError, InterfaceError, ProgrammingError)

    def __init__(self, url: URL, path: Path, *, writable: bool) -> None:
        super().__init__(url, writable=writable)
        self.path: Path = path
        self.name = str(path)
        if not writable and not path.exists():
            raise UsageError(f"there is no log database {path}: start `streamfold serve` first, or name it with --db")
        self.engine = create_engine(
            URL.create("sqlite", database=str(path)),
            connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
            hide_parameters=True,
        )
        event.listen(self.engine, "connect", self._connected)

    def _connected(self, connection: sqlite3.Connection, _: Any) -> None:
        if self.writable:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a new file: retention gives space back
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        else:
            connection.execute("PRAGMA query_only=ON")

    def lock(self, connection: Connection) -> None:
        # IMMEDIATE takes the write lock at once: it is the test that the file can be written, and it keeps two
        # processes that start together from both making the tables.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def forgets_file(self) -> bool:
        # Somebody removed the file. The open connection would go on writing to what nobody can read any more.
        return not self.path.exists()

    def queue_directory(self, root: Path | None) -> Path:
        # Beside the file, and named after it, so that both move together.
        return super().queue_directory(root) if root else self.path.with_name(self.path.name + ".queue")

    def fix(self, reason: str) -> str:
        path = self.path
        if path.is_dir():
            return "it is a directory: name a file with --db"
        if not path.parent.is_dir():
            return f"the directory {path.parent} does not exist: make it, or name another file with --db"
        if "not a database" in reason:
            return "the file is something else: name another one with --db"
        if "locked" in reason:
            return "another program holds it: stop that, or name another file with --db"
        return "make the file and its directory writable, or name another file with --db"


def open_engine(url: URL, *, writable: bool) -> SQLiteDatabase:
    """The SQLite file that a URL names."""
    if not url.database or url.database == ":memory:":
        raise UsageError("--db must name a file, such as sqlite:///streamfold.db")
    return SQLiteDatabase(url, Path(url.database), writable=writable)
