"""The tables of the log. The columns of `request_log` are the fields of `LogRow`: written down once, there.

The narrow columns come before the heavy ones, so a list never reads a body. How a database comes to have these tables
is told in `migrations/`; a test holds both against each other.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, MetaData, Table, Text

from streamfold.store.row import HEAVY, LogRow

__all__ = ["FIGURE_COLUMNS", "LIGHT_COLUMNS", "instances", "metadata", "request_log"]

metadata = MetaData()

_TYPES: Final = {str: Text, int: BigInteger, float: Double, bool: Boolean}


def _column(name: str, annotation: Any) -> Column[Any]:
    said = typing.get_args(annotation) or (annotation,)
    kind = next(each for each in said if each is not types.NoneType)
    return Column(name, _TYPES[kind](), primary_key=name == "id", nullable=types.NoneType in said)


request_log = Table(
    "request_log",
    metadata,
    *(_column(name, annotation) for name, annotation in typing.get_type_hints(LogRow).items()),
    Index("request_log_created", "created"),  # on SQLite it holds `FIGURE_COLUMNS` (0003)
    Index("request_log_status", "status", "created"),
    Index("request_log_ended", "ended"),
)

LIGHT_COLUMNS: Final = [column for column in request_log.columns if column.name not in HEAVY]

FIGURE_COLUMNS: Final = frozenset(
    (
        *("created", "status", "stream", "provider", "upstream", "client", "format", "model", "response_model"),
        *("cache_hit", "attempt", "anomalies", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"),
        *("cached_write_tokens", "reasoning_tokens", "cost", "input_cost", "output_cost", "additional_cost"),
        *("cost_complete", "latency_ms", "time_to_first_token_ms", "time_per_output_token_ms"),
    )
)
"""What SQLite computes figures from without reading rows; the steps have made it so, and a test holds it to them."""

instances = Table(
    "instances",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("started", Text, nullable=False),
    Column("seen", Text, nullable=False),
)
"""The processes that write, and when each was last alive."""
