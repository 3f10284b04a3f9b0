"""The log in ClickHouse: a server by `clickhouse://host:port/db`, or embedded by `chdb:///directory`.

ClickHouse has no unique key. Rows are appended, and the table's engine, `ReplacingMergeTree(revision)`, keeps of each
id the row of the highest revision when it merges. Readers do not wait for that: every connection has the setting
`final`, with which a query sees merged rows only. Of rows with the same id *and* revision the one written last stays;
the other engines keep the first. (Rows that are written again after a crash are the same, so it makes no difference.)

`final` merges while it reads, and the table is ordered by id, because nothing else makes a row replace another.

Needs `pip install "streamfold[clickhouse]"`; `chdb://` also needs the package `chdb`, which is one engine per process.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, create_engine, func, insert, null, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, IntegrityError

from streamfold.errors import UsageError
from streamfold.store.database import Database
from streamfold.store.schema import instances, request_log

__all__ = ["ClickHouseDatabase", "open_engine"]

CONNECT_SECONDS: Final = 5


class ClickHouseDatabase(Database):
    dialect = "clickhouse"
    bad_row = (DataError, IntegrityError)
    # Every write makes a part that the server must merge: few and large ones are what it is made for.
    linger = 0.5

    def __init__(self, url: URL, *, writable: bool) -> None:
        super().__init__(url, writable=writable)
        # The driver logs what a failing server said, statement and content included; we say it, shortened.
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
        embedded = url.drivername == "chdb"
        arguments: dict[str, Any] = {"ch_final": 1}
        if embedded:
            self.path = _directory(url, writable=writable)
            arguments["dsn"] = f"chdb://{self.path.absolute()}"
            target = URL.create("clickhousedb")
        else:
            arguments |= {"connect_timeout": CONNECT_SECONDS}
            target = url.set(drivername="clickhousedb")
        try:
            self.engine = create_engine(target, connect_args=arguments, hide_parameters=True)
            if embedded:
                __import__("chdb")
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) or "NoSuchModule" in type(error).__name__:
                package = "chdb clickhouse-connect" if embedded else '"streamfold[clickhouse]"'
                raise UsageError(f"this log needs a package that is not installed: pip install {package}") from None
            raise

    def insert(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        connection.execute(insert(request_log), rows)

    def change(self, connection: Connection, where: ColumnElement[bool], values: dict[str, Any]) -> None:
        # A mutation would write whole parts again; another revision is a row like any other.
        names = [column.name for column in request_log.columns]
        now = {column.name: column for column in request_log.columns} | values
        columns = [null() if value is None else value for value in now.values()]
        connection.execute(insert(request_log).from_select(names, select(*columns).where(where)))

    def beat(self, connection: Connection, instance: dict[str, str]) -> None:
        connection.execute(insert(instances), [instance])

    def begins(self, column: ColumnElement[str], text: str) -> ColumnElement[bool]:
        return func.startsWith(column, text) == 1  # its `substr` counts bytes

    def fix(self, reason: str) -> str:
        if self.path is not None:
            return "another program may use it (chdb is one engine per process), or --db names no directory for it"
        if "UNKNOWN_DATABASE" in reason or "does not exist" in reason:
            return "make the database with CREATE DATABASE, or name another one with --db"
        if "AUTHENTICATION" in reason or "password" in reason:
            return "check the user and the password in --db"
        return "start the server, or check host and port in --db"


def _directory(url: URL, *, writable: bool) -> Path:
    if not url.database:
        raise UsageError("--db must name a directory, such as chdb:///var/lib/streamfold")
    # chdb:///a/b is an absolute path, as everywhere with ClickHouse; SQLAlchemy drops the first slash.
    path = Path("/" + url.database.lstrip("/"))
    if not writable and not path.exists():
        raise UsageError(f"there is no log database {path}: start `streamfold serve` first, or name it with --db")
    return path


def open_engine(url: URL, *, writable: bool) -> ClickHouseDatabase:
    """The ClickHouse database that a URL names."""
    return ClickHouseDatabase(url, writable=writable)
