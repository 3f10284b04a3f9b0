"""The tables `request_log` and `instances`; rows of the first streamfold's SQLite files are taken along.

Those files had no steps, but a table `schema_version` that says 1. It stays and says 2, so that an old streamfold
refuses the file instead of writing half rows into it.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateTable

revision = "0001"
down_revision = None

_TEXT: Final = (
    *("ended", "instance", "upstream", "method", "path", "client", "user_agent", "parent_id", "session_id"),
    *("trace_id", "format", "stream_type", "provider", "model", "response_model", "response_id", "service_tier"),
    *("finish_reason", "raw_finish_reason", "tool_names", "cache_hit", "usage_source", "cost_source", "cost_reason"),
    *("error_type", "error_code", "error_message", "metadata"),
)
_INTEGER: Final = (
    *("http_status", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cached_write_tokens"),
    *("reasoning_tokens", "estimated_prompt_tokens", "estimated_completion_tokens", "request_bytes", "response_bytes"),
)
_FLOAT: Final = (
    *("cost", "input_cost", "output_cost", "additional_cost", "latency_ms", "time_to_first_chunk_ms"),
    *("time_to_first_token_ms", "time_to_first_content_ms", "time_per_output_token_ms", "max_gap_ms"),
)
_BODIES: Final = ("search_text", "arrivals", "headers", "params", "tools", "request", "record")
"""Last, so that a scan of the others does not read them."""

_FROM_RECORD: Final = {
    "ended": "$.end_timestamp",
    "response_id": "$.response_id",
    "service_tier": "$.service_tier",
    "raw_finish_reason": "$.raw_finish_reason",
    "usage_source": "$.token_usage.source",
    "time_per_output_token_ms": "$.time_per_output_token_ms",
    "max_gap_ms": "$.max_gap_ms",
    "error_code": "$.error_details.code",
}
"""Columns that the first files did not have, but their records."""


def upgrade() -> None:
    connection = op.get_bind()
    old = sa.inspect(connection).has_table("schema_version")
    if old:
        op.execute("ALTER TABLE request_log RENAME TO request_log_1")
        op.execute("DROP INDEX IF EXISTS request_log_created")
    for table in _tables(connection.dialect.name):
        op.execute(CreateTable(table))
    if connection.dialect.name != "clickhousedb":
        op.create_index("request_log_created", "request_log", ["created"])
        op.create_index("request_log_status", "request_log", ["status", "created"])
    if old:
        _take_along(connection)
        op.execute("DROP TABLE request_log_1")
        op.execute("UPDATE schema_version SET version = 2")
    elif connection.dialect.name == "sqlite":
        op.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        op.execute("INSERT INTO schema_version VALUES (2)")


def _tables(dialect: str) -> tuple[sa.Table, sa.Table]:
    typed = _clickhouse if dialect == "clickhousedb" else _column
    log = (
        typed("id", "key"),
        typed("created", "key"),
        typed("revision", "int"),
        typed("status", "text"),
        typed("stream", "bool"),
        *(typed(name, "int") for name in ("attempt", "chunks", "anomalies")),
        typed("cost_complete", "bool", nullable=True),
        *(typed(name, "int", nullable=True) for name in _INTEGER),
        *(typed(name, "float", nullable=True) for name in _FLOAT),
        *(typed(name, "text", nullable=True) for name in (*_TEXT, *_BODIES)),
    )
    roll = tuple(typed(name, "key" if name == "id" else "text") for name in ("id", "host", "started", "seen"))
    metadata = sa.MetaData()
    if dialect == "clickhousedb":
        from clickhouse_connect.cc_sqlalchemy.ddl.tableengine import ReplacingMergeTree

        # A row replaces another if it has the same ORDER BY: so that can be nothing but the id.
        return (
            sa.Table("request_log", metadata, *log, ReplacingMergeTree(ver="revision", order_by="id")),
            sa.Table("instances", metadata, *roll, ReplacingMergeTree(order_by="id")),
        )
    return (
        sa.Table("request_log", metadata, *log, sa.PrimaryKeyConstraint("id")),
        sa.Table("instances", metadata, *roll, sa.PrimaryKeyConstraint("id")),
    )


def _column(name: str, kind: str, *, nullable: bool = False) -> sa.Column[Any]:
    # Ids and timestamps are ordered byte by byte, whatever language the PostgreSQL database was made for.
    types: dict[str, Any] = {
        "key": sa.Text().with_variant(sa.Text(collation="C"), "postgresql"),
        "text": sa.Text(),
        "int": sa.BigInteger(),
        "float": sa.Double(),
        "bool": sa.Boolean(),
    }
    return sa.Column(name, types[kind], nullable=nullable)


def _clickhouse(name: str, kind: str, *, nullable: bool = False) -> sa.Column[Any]:
    from clickhouse_connect.cc_sqlalchemy.datatypes import sqltypes as ch

    types: dict[str, Any] = {"key": ch.String, "text": ch.String, "int": ch.Int64, "float": ch.Float64, "bool": ch.Bool}
    return sa.Column(name, ch.Nullable(types[kind]) if nullable else types[kind]())


def _take_along(connection: sa.Connection) -> None:
    """Copies the rows of a first file. What only their records know goes into its column now."""
    old = [column["name"] for column in sa.inspect(connection).get_columns("request_log_1")]
    filled = {name: name for name in old}
    filled |= {"revision": "2000000", "attempt": "0"}
    filled |= {name: _from_record("json_extract(record, '" + path + "')") for name, path in _FROM_RECORD.items()}
    count = _from_record("json_array_length(record, '$.integrity.anomalies')")
    filled["anomalies"] = f"coalesce({count}, 0)"
    op.execute(f"INSERT INTO request_log ({', '.join(filled)}) SELECT {', '.join(filled.values())} FROM request_log_1")


def _from_record(expression: str) -> str:
    return f"CASE WHEN json_valid(record) THEN {expression} END"
