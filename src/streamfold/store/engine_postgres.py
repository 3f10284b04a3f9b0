"""The log in PostgreSQL, through psycopg. Needs `pip install "streamfold[postgres]"`."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, IntegrityError

from streamfold.errors import UsageError
from streamfold.store.engine_upsert import UpsertDatabase

__all__ = ["PostgresDatabase", "open_engine"]

CONNECT_SECONDS: Final = 5
_LOCK: Final = 0x5F01D
"""Any number will do, as long as all streamfolds take the same."""


class PostgresDatabase(UpsertDatabase):
    dialect = "postgresql"
    insert_into = staticmethod(insert)
    # A ProgrammingError is a missing table or permission here, which somebody may mend: rows wait for it.
    bad_row = (DataError, IntegrityError)

    def __init__(self, url: URL, *, writable: bool) -> None:
        super().__init__(url, writable=writable)
        try:
            self.engine = create_engine(
                url.set(drivername="postgresql+psycopg"),
                connect_args={"connect_timeout": CONNECT_SECONDS, "application_name": "streamfold"},
                pool_pre_ping=True,  # after a restart of the server, the first query does not fail
                hide_parameters=True,
            )
        except ModuleNotFoundError:
            raise UsageError('a postgresql:// log needs psycopg: pip install "streamfold[postgres]"') from None

    def lock(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})

    def fix(self, reason: str) -> str:
        if "password" in reason or "authentication" in reason or "role" in reason:
            return "check the user and the password in --db"
        if "database" in reason and "does not exist" in reason:
            return "make it with `createdb`, or name another one with --db"
        if "permission" in reason:
            return "let the user of --db create tables in it"
        return "start the server, or check host and port in --db"


def open_engine(url: URL, *, writable: bool) -> PostgresDatabase:
    """The PostgreSQL database that a URL names."""
    return PostgresDatabase(url, writable=writable)
