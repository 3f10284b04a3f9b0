"""What SQLite and PostgreSQL have in common: `INSERT … ON CONFLICT (id) DO UPDATE`, only by a higher revision."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import Connection

from streamfold.store.database import Database
from streamfold.store.schema import instances, request_log

__all__ = ["UpsertDatabase"]


class UpsertDatabase(Database):
    """A database with unique keys. A subclass gives its dialect's `insert` as `insert_into`."""

    insert_into: Any

    @cached_property
    def _upsert(self) -> Any:
        statement = self.insert_into(request_log)
        new = statement.excluded
        return statement.on_conflict_do_update(
            index_elements=["id"],
            set_={column.name: new[column.name] for column in request_log.columns if not column.primary_key},
            where=new.revision > request_log.c.revision,
        )

    def insert(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        # Writers that lock rows in the same order cannot lock each other out.
        connection.execute(self._upsert, sorted(rows, key=lambda row: str(row["id"])))

    def beat(self, connection: Connection, instance: dict[str, str]) -> None:
        statement = self.insert_into(instances).values(instance)
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"seen": instance["seen"]}))
