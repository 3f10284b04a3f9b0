"""The tables of the log, and which version of them a file has.

`schema_version` has one row. A file of a newer version is refused: writing to it could lose what this code does not
know of. The narrow columns come before the two heavy ones, so a list never reads a body.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    insert,
    inspect,
    select,
)

from streamfold.errors import UsageError
from streamfold.store.row import HEAVY

__all__ = ["LIGHT_COLUMNS", "SCHEMA_VERSION", "prepare", "request_log", "schema_version", "version_of"]

SCHEMA_VERSION: Final = 1

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

request_log = Table(
    "request_log",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created", Text, nullable=False),
    Column("upstream", Text),
    Column("method", Text),
    Column("path", Text),
    Column("http_status", Integer),
    Column("stream", Boolean, nullable=False),
    Column("format", Text),
    Column("stream_type", Text),
    Column("provider", Text),
    Column("model", Text),
    Column("response_model", Text),
    Column("status", Text, nullable=False),
    Column("finish_reason", Text),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("total_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("reasoning_tokens", Integer),
    Column("cost", Float),
    Column("latency_ms", Float),
    Column("time_to_first_chunk_ms", Float),
    Column("time_to_first_token_ms", Float),
    Column("time_to_first_content_ms", Float),
    Column("chunks", Integer, nullable=False),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("request_bytes", Integer),
    Column("record", Text),
    Column("request", Text),
    Index("request_log_created", "created"),
)

LIGHT_COLUMNS: Final = [column for column in request_log.columns if column.name not in HEAVY]


def version_of(connection: Connection) -> int | None:
    """The version of the schema in this database; None when it has none yet."""
    if not inspect(connection).has_table(schema_version.name):
        return None
    found: int | None = connection.scalar(select(schema_version.c.version))
    return found


def prepare(connection: Connection, name: str) -> None:
    """Makes the tables where they are missing. Raises `UsageError` if the database `name` is of a newer streamfold."""
    found = version_of(connection)
    if found is not None and found > SCHEMA_VERSION:
        raise UsageError(
            f"the log database {name} was written by a newer streamfold "
            f"(schema {found}; this one knows {SCHEMA_VERSION}): upgrade streamfold, or name another file with --db"
        )
    metadata.create_all(connection)
    if found is None:
        connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
