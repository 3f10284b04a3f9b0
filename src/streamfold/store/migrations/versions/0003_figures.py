"""On SQLite, the index on `created` holds what the figures are computed from, and the columns mostly filtered by.

There a row's narrow columns lie on the same pages as the beginning of its bodies, so that reading a number of 100,000
rows is reading hundreds of megabytes. With this index it is reading 20. (PostgreSQL moves large bodies elsewhere, and
ClickHouse keeps columns apart.)
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0003"
down_revision = "0002"

_COLUMNS: Final = (
    *("created", "status", "stream", "provider", "upstream", "client", "format", "model", "response_model"),
    *("cache_hit", "attempt", "anomalies", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"),
    *("cached_write_tokens", "reasoning_tokens", "cost", "input_cost", "output_cost", "additional_cost"),
    *("cost_complete", "latency_ms", "time_to_first_token_ms", "time_per_output_token_ms"),
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("request_log_created", "request_log")
        op.create_index("request_log_created", "request_log", list(_COLUMNS))
