"""Databases for tests: real ones, started here, each stopped and removed at the end.

`postgres` gives a PostgreSQL server of its own on a free port; `database_urls` the URLs of one fresh log per engine.
"""

from __future__ import annotations

import contextlib
import glob
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sqlalchemy import Connection

SUPERUSER = "streamfold"


class Postgres:
    """A PostgreSQL server that can be stopped and started again; its data and port stay."""

    def __init__(self, binaries: Path, root: Path) -> None:
        self._binaries = binaries
        self._data = root / "data"
        self._log = root / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _other_user() if os.geteuid() == 0 else None
        self.port = _port_to_keep()
        self._root = root
        if self._user:
            shutil.chown(root, self._user)
        self._run("initdb", "-D", str(self._data), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql://{SUPERUSER}:secret@127.0.0.1:{self.port}/postgres"

    def database(self) -> str:
        """The URL of a new empty database."""
        import psycopg

        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url.rsplit("/", 1)[0] + "/" + name

    def start(self) -> None:
        settings = ("fsync=off", "listen_addresses=127.0.0.1", f"unix_socket_directories={self._root}")
        arguments = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        for setting in settings:
            arguments += ["-c", setting]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self._as_user(), *arguments], stdout=log, stderr=log, cwd=self._root)
        until = time.monotonic() + 60
        while self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-q", check=False):
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends every connection and the server."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        command = [*self._as_user(), str(self._binaries / program), *arguments]
        return subprocess.run(command, check=check, stdout=subprocess.DEVNULL, cwd=self._root).returncode

    def _as_user(self) -> list[str]:
        # PostgreSQL refuses to run as root.
        return ["setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--clear-groups"] if self._user else []


def _port_to_keep() -> int:
    """A free port below those that the system hands out: nobody is given it while the server is stopped."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def _other_user() -> str:
    import pwd

    names = {entry.pw_name: entry.pw_gid for entry in pwd.getpwall()}
    if "postgres" in names:
        return "postgres"
    return "nobody"


def _postgres_binaries() -> Path | None:
    installed = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), reverse=True)
    candidates = [shutil.which("postgres"), "/usr/local/bin/postgres", *installed]
    for candidate in candidates:
        if candidate and (Path(candidate).resolve().parent / "initdb").exists():
            return Path(candidate).resolve().parent
    return None


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A running server; skips the test if PostgreSQL is not installed."""
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    # Below /tmp, since the other user must reach it, and since the path of a Unix socket has little room.
    root = Path(tempfile.mkdtemp(prefix="streamfold-pg-", dir="/tmp"))
    server = Postgres(binaries, root)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL server for all tests."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def chdb_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The one directory of this process's embedded ClickHouse: chDB is one engine per process."""
    pytest.importorskip("chdb", reason="chdb is not installed")
    yield str(tmp_path_factory.mktemp("chdb") / "data")
    release_chdb()


@pytest.fixture(params=["sqlite", "postgresql", "clickhouse"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a fresh, empty log, once for every engine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if request.param == "sqlite":
        return str(tmp_path / "log.db")
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        return server.database()
    return fresh_chdb(request.getfixturevalue("chdb_directory"))


_held: list[Connection] = []
"""A connection that keeps the embedded ClickHouse running between tests: it stops with its last one, and to start it
costs more than most tests."""


def fresh_chdb(directory: str) -> str:
    """The URL of the embedded ClickHouse, emptied."""
    from sqlalchemy import create_engine, text

    if not _held:
        _held.append(create_engine("clickhousedb://", connect_args={"dsn": f"chdb://{directory}"}).connect())
    for (name,) in _held[0].execute(text("SHOW TABLES")).all():
        _held[0].execute(text(f"DROP TABLE {name}"))
    return f"chdb://{directory}"


def release_chdb() -> None:
    """Stops the embedded ClickHouse when nobody uses it any more, so that another process can have its directory."""
    while _held:
        connection = _held.pop()
        connection.close()
        connection.engine.dispose()
