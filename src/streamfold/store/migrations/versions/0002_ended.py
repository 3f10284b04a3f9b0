"""An index on `ended`: whoever follows the log asks again and again for what has just ended."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    if op.get_bind().dialect.name != "clickhousedb":
        op.create_index("request_log_ended", "request_log", ["ended"])
