"""The log: one row per request, in one schema, on SQLite.

Needs SQLAlchemy: `pip install "streamfold[store]"`.
"""

from streamfold.store.log_store import LogStore
from streamfold.store.row import LogRow, row_of

__all__ = ["LogRow", "LogStore", "row_of"]
