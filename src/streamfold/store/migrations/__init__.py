"""How a database comes to have today's tables: Alembic's numbered steps, for every engine.

ClickHouse takes the same way through the Alembic support of clickhouse-connect: its version table and its plain
statements work. (Its `op.create_table` loses the table's engine on the way; a step there executes `CREATE TABLE`.)

There is no `alembic.ini` and no `env.py`: the log is migrated by opening it, in the transaction of the caller.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, inspect, text

__all__ = ["HEAD", "upgrade", "version_of"]

HEAD: Final = "0003"
"""The newest step. A test holds it against the files."""


def version_of(connection: Connection) -> str | None:
    """The step that a database is at; None when it is no log, or one from before there were steps."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def upgrade(connection: Connection) -> None:
    """Takes the steps that are missing, if any."""
    if version_of(connection) == HEAD:
        return
    # It tells of every plug-in that it loads, between the lines of whoever opens a log.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Alembic costs a third of a second to import; a log that is up to date needs none of it.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "clickhousedb":
        import clickhouse_connect.cc_sqlalchemy.alembic  # noqa: F401  registers the dialect with Alembic

    script = ScriptDirectory(str(Path(__file__).parent))

    def steps(revision: Any, _: Any) -> Any:
        return script._upgrade_revs("head", revision)

    environment = EnvironmentContext(Config(), script, fn=steps)
    with environment:
        environment.configure(connection=connection)
        with environment.begin_transaction():
            environment.run_migrations()
