"""The log: one row per request, in one schema, on SQLite, PostgreSQL or ClickHouse.

Needs SQLAlchemy: `pip install "streamfold[store]"`; see `docs/log-store.md`.
"""

from streamfold.store.log_store import LogStore
from streamfold.store.row import LogRow, row_of

__all__ = ["LogRow", "LogStore", "row_of"]
