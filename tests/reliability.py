"""What the log promises, put to the test with real processes, real kills and a real server that goes away.

    python tests/reliability.py --kill               kill -9 in the middle of 200 streams, on SQLite
    python tests/reliability.py --away 60            PostgreSQL away for a minute under load
    python tests/reliability.py --cost               what a row costs: `put`, and rows per second into the database

`tests/test_store_reliability.py` runs the same with shorter times. Figures are printed, never asserted.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import func, select

from servers import postgres_server
from streamfold.store import LogRow, LogStore
from streamfold.store.row import FINAL, RECOVERED, STARTED
from streamfold.store.schema import request_log

STREAMS = 200
CREATED = "2026-01-01T00:00:00.000Z"
BODY = "x" * 4_000
"""About what the record of a short chat takes."""


# ---------------------------------------------------------------------- a process that writes


def write_streams(url: str, name: str, finish: int | None) -> None:
    """Keeps 200 streams going: begins them, stores checkpoints, ends them, begins others, for ever or until `finish`
    have ended. Says on standard output what was put, each time after `put` has returned."""
    chance = random.Random(name)
    with LogStore.open(url) as store:
        live: dict[str, int] = {}
        begun = ended = 0
        while finish is None or ended < finish or live:
            if len(live) < STREAMS and (finish is None or begun < finish):
                id, revision = f"{name}-{begun}", STARTED
                begun += 1
            else:
                id = chance.choice(list(live))
                revision = FINAL if chance.random() < 0.2 else live[id] + 1
            row = LogRow(id=id, created=CREATED, revision=revision, status="processing", record=record(id, revision))
            if revision == FINAL:
                row.status = "success"
                ended += 1
            assert store.put(row)
            os.write(1, f"{id} {revision}\n".encode())
            live[id] = revision
            if revision == FINAL:
                del live[id]
        assert store.flush(120)
        assert store.dropped == 0


def record(id: str, revision: int) -> str:
    return f'{{"of":"{id} {revision}","body":"{BODY}"}}'


class Child:
    """A process that runs `write_streams`, and what it has said so far."""

    def __init__(self, url: str, name: str, finish: int | None = None) -> None:
        arguments = [sys.executable, __file__, "--child", url, name, str(finish or 0)]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
        self.put: dict[str, int] = {}
        self.lines = 0
        self._enough = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            id, revision = line.split()
            with self._enough:
                self.put[id.decode()] = int(revision)
                self.lines += 1
                self._enough.notify_all()

    def wait_for(self, lines: int) -> None:
        with self._enough:
            assert self._enough.wait_for(lambda: self.lines >= lines, 120)

    def kill(self) -> None:
        self._process.kill()
        self.join()

    def join(self) -> int:
        code = self._process.wait(120)
        self._reader.join(10)
        return code


# ---------------------------------------------------------------------- kill -9


@dataclass
class Found:
    """What is in the log, against what was put."""

    rows: int
    """Rows in the database, repeats included."""
    finished: int
    abandoned: int
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def look(store: LogStore, put: dict[str, int], *, left: str = "abandoned") -> Found:
    """Compares. A row that is newer than what was said is right: its `put` may have returned just before the end."""
    columns = (request_log.c.id, request_log.c.revision, request_log.c.status, request_log.c.record)
    with store.connect() as connection:
        total = connection.scalar(select(func.count()).select_from(request_log)) or 0
        there = {row.id: row for row in connection.execute(select(*columns))}
    found = Found(total, 0, 0)
    for id, revision in put.items():
        row = there.get(id)
        if row is None:
            found.lost.append(id)
            continue
        found.finished += row.status == "success"
        found.abandoned += row.status == "abandoned"
        stored = row.record.split('"')[3].split()
        right = stored[0] == id and int(stored[1]) >= revision
        if row.status == "success":
            right = right and row.revision == FINAL
        else:
            right = right and row.status == left and revision != FINAL
            right = right and (row.revision == RECOVERED or left != "abandoned")
        if not right:
            found.wrong.append(f"{id} put {revision} found {row.revision} {row.status} {stored}")
    return found


def kill_nine(url: str, lines: int) -> tuple[dict[str, int], Found, LogStore]:
    """Kills a writing process after so many puts, opens the log again, and looks. The store is still open."""
    child = Child(url, "k")
    child.wait_for(lines)
    child.kill()
    store = LogStore.open(url)
    assert store.flush(120)
    return child.put, look(store, child.put), store


# ---------------------------------------------------------------------- a database that is away


@dataclass
class Load:
    """Puts rows from some threads at a steady rate, and keeps how long each `put` took."""

    store: LogStore
    rate: int
    threads: int = 4
    put: int = 0
    refused: int = 0
    times: dict[str, list[float]] = field(default_factory=dict)
    phase: str = "before"
    _stop: threading.Event = field(default_factory=threading.Event)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.threads)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _run(self, thread: int) -> None:
        number = 0
        while not self._stop.wait(self.threads / self.rate):
            row = LogRow(id=f"{thread}-{number}", created=CREATED, status="success", record=BODY)
            number += 1
            began = time.perf_counter()
            taken = self.store.put(row)
            took = time.perf_counter() - began
            with self._guard:
                self.times.setdefault(self.phase, []).append(took)
                self.put += taken
                self.refused += not taken


@dataclass
class Away:
    """How it went while the database was away."""

    put: int
    refused: int
    dropped: int
    rows: int
    ids: int
    most_waiting: int
    most_bytes: int
    drained: float
    """Seconds from the return of the database until nothing waited any more."""
    times: dict[str, list[float]]


def away(url: str, stop: Callable[[], None], start: Callable[[], None], seconds: float, rate: int = 300) -> Away:
    """Takes the database away under load and brings it back."""
    with LogStore.open(url) as store:
        load = Load(store, rate)
        with load.running():
            time.sleep(min(seconds, 5))
            stop()
            load.phase = "away"
            time.sleep(seconds)
            most_waiting, most_bytes = store.waiting, store.spilled_bytes
            start()
            back = time.monotonic()
            load.phase = "back"
            time.sleep(min(seconds, 5))
        assert store.flush(120)
        drained = time.monotonic() - back
        with store.connect() as connection:
            ids = func.count(request_log.c.id.distinct())
            rows, distinct = connection.execute(select(func.count(), ids).select_from(request_log)).one()
        return Away(
            load.put, load.refused, store.dropped, rows, distinct, most_waiting, most_bytes, drained, load.times
        )


# ---------------------------------------------------------------------- figures


def quantiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    median, high = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return f"median {median * 1e6:.0f} µs, 99 % {high * 1e6:.0f} µs, most {ordered[-1] * 1e3:.1f} ms, of {len(ordered)}"


def cost(url: str, rows: int = 20_000) -> None:
    """Prints what `put` takes, and how many rows a second reach the database."""
    made = [LogRow(id=f"{n}", created=CREATED, status="success", model="m", record=BODY) for n in range(rows)]
    with LogStore.open(url) as store:
        assert store.flush(30)
        times = []
        began = time.perf_counter()
        for row in made:
            at = time.perf_counter()
            store.put(row)
            times.append(time.perf_counter() - at)
        assert store.flush(600)
        took = time.perf_counter() - began
        print(f"{store.dialect}: put {quantiles(times)}; {rows / took:.0f} rows/s into the database")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--away", type=float, metavar="SECONDS")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        url, name, finish = asked.child
        write_streams(url, name, int(finish) or None)
        return
    with tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_STATE_HOME"] = directory
        sqlite = str(Path(directory) / "log.db")
        if asked.kill:
            put, found, store = kill_nine(sqlite, 20_000)
            store.close()
            print(
                f"kill -9 after 20000 puts: {len(put)} requests, {found.finished} finished, {found.abandoned} abandoned"
            )
            print(f"  {len(found.lost)} lost, {found.rows - len(put)} more rows than requests said, {found.wrong=}")
        if asked.cost:
            cost(sqlite)
            with postgres_server() as server:
                cost(server.database())
            cost(f"chdb://{directory}/chdb")
        if asked.away:
            with postgres_server() as server:
                result = away(server.database(), server.stop, server.start, asked.away)
            print(f"away for {asked.away:.0f} s: {result.put} rows put, {result.refused + result.dropped} refused")
            print(f"  {result.rows} rows of {result.ids} ids in the database: lost {result.put - result.ids}")
            print(f"  waited at most {result.most_waiting} rows, {result.most_bytes / 1e6:.1f} MB")
            print(f"  nothing waited {result.drained:.1f} s after the return, of which 5 s under load")
            for phase, times in result.times.items():
                print(f"  put, {phase}: {quantiles(times)}")


if __name__ == "__main__":
    main()
