"""The journal and the writer behind it: what was taken is written, once the database takes it, and counted if not."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfold.store import LogRow, journal
from streamfold.store.database import UnwritableError
from streamfold.store.journal import Journal
from streamfold.store.writer import Writer


def row(id: str = "a", **columns: object) -> LogRow:
    return LogRow(id=id, created="2026-01-01T00:00:00.000Z", **columns)  # type: ignore[arg-type]


def line(id: str, **columns: object) -> bytes:
    return msgspec.json.encode(row(id, **columns)) + b"\n"


def made(directory: Path, **limits: int) -> Journal:
    return Journal(directory, **{"max_bytes": 10**9, "memory_rows": 100, "memory_bytes": 10**9} | limits)


def taken(journal: Journal, rows: int = 7, size: int = 1000) -> list[bytes]:
    """Everything in a journal, taken out in batches."""
    lines = []
    while batch := journal.head(rows, size):
        lines += batch.lines
        journal.done(batch)
    return lines


class Disk:
    """Takes rows, or refuses them, as told."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.away = False
        self.poison: set[str] = set()
        self.tried = threading.Event()

    def write(self, rows: Sequence[LogRow]) -> None:
        self.tried.set()
        if self.away:
            raise UnwritableError("the database is away")
        if any(each.id in self.poison for each in rows):
            raise ValueError("bad row")
        self.rows += [each.id for each in rows]


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Callable[..., tuple[Disk, Writer]]]:
    writers: list[Writer] = []

    def start(**limits: int) -> tuple[Disk, Writer]:
        disk = Disk()
        writers.append(Writer(made(tmp_path / "queue", **limits), disk.write))
        return disk, writers[-1]

    yield start
    for writer in writers:
        writer.close(0)


Writing = Callable[..., tuple[Disk, Writer]]


# ---------------------------------------------------------------------- the journal


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=300).map(lambda text: text.replace(b"\n", b"\r") + b"\n"), max_size=40),
    rows=st.integers(1, 9),
    size=st.integers(1, 500),
    segment=st.integers(1, 2000),
)
def test_lines_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], rows: int, size: int, segment: int
) -> None:
    """Whatever the sizes of lines, batches and segments: every line comes out, whole, in order; no file is left."""
    directory = tmp_path_factory.mktemp("journal") / "queue"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "SEGMENT_BYTES", segment)
        queue = made(directory)
        assert all(queue.add(each) for each in lines)
        assert (queue.rows, queue.size) == (len(lines), sum(map(len, lines)))
        assert b"".join(taken(queue, rows, size)) == b"".join(lines)
        assert (queue.rows, queue.size) == (0, 0)
        queue.close(forget=True)
    assert not directory.exists()


def test_what_was_taken_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files hold what waits, not what was ever put, also when they are never quite empty."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 5_000)
    queue = made(tmp_path)
    for number in range(200):
        queue.add(line(f"{number}"))
        if number >= 10:
            batch = queue.head(1, 1)
            assert batch is not None
            queue.done(batch)
    assert queue.rows == 10
    assert sum(path.stat().st_size for path in tmp_path.glob("*.rows")) < 30_000


def test_files_are_private(tmp_path: Path) -> None:
    """Nobody else may read what waits."""
    queue = made(tmp_path / "queue")
    queue.add(line("a"))
    queue.bad.add(b"bad")
    paths = [queue.directory, *queue.directory.iterdir()]
    assert len(paths) == 4
    assert {path.stat().st_mode & 0o077 for path in paths} == {0}


def bad_files(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.glob("*.bad")}


def left_behind(directory: Path, name: str, size: int, age: int) -> None:
    path = directory / name
    path.write_bytes(b"x" * size)
    os.utime(path, (10**9 - age, 10**9 - age))


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"bad_bytes": 10**6, "bad_files": 10}, {"1-a.bad", "2-b.bad", "3-c.bad"}),
        ({"bad_bytes": 10**6, "bad_files": 2}, {"2-b.bad", "3-c.bad"}),
        ({"bad_bytes": 2500, "bad_files": 10}, {"2-b.bad", "3-c.bad"}),
        ({"bad_bytes": 1999, "bad_files": 10}, {"3-c.bad"}),
    ],
)
def test_bad_files_of_the_dead_are_bounded(
    tmp_path: Path, limits: dict[str, int], kept: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Of the `.bad` files that dead processes left, the newest stay; each that goes is counted and named."""
    for place, name in enumerate(("3-c.bad", "2-b.bad", "1-a.bad")):
        left_behind(tmp_path, name, 1000, place)
    queue = made(tmp_path, **limits)
    assert bad_files(tmp_path).keys() == kept
    assert queue.bad.removed == 3 - len(kept)
    assert caplog.text.count("removed ") == 3 - len(kept)


def test_bad_lines_keep_the_newest(tmp_path: Path) -> None:
    """However many lines are set aside, their files keep to the limits, and the last line is in them."""
    left_behind(tmp_path, "1-old.bad", 100, 0)
    queue = made(tmp_path, bad_bytes=4000, bad_files=3)
    for number in range(200):
        queue.bad.add(b"%d " % number + b"x" * 90)
        found = bad_files(tmp_path)
        assert sum(found.values()) <= 4000
        assert len(found) <= 3
        assert (tmp_path / f"{queue.instance}.bad").read_bytes().splitlines()[-1].startswith(b"%d " % number)
    assert "1-old.bad" not in bad_files(tmp_path)
    assert queue.bad.removed > 5


def test_a_bad_line_larger_than_all_the_room(tmp_path: Path) -> None:
    """A line that there can be no room for costs the others nothing; one that fills all of it is kept alone."""
    queue = made(tmp_path, bad_bytes=1000, bad_files=3)
    queue.bad.add(b"a")
    queue.bad.add(b"b" * 1000)
    assert bad_files(tmp_path) == {f"{queue.instance}.bad": 2}
    queue.bad.add(b"c" * 999)
    assert bad_files(tmp_path) == {f"{queue.instance}.bad": 1000}


def test_full_files_refuse(tmp_path: Path) -> None:
    """The files hold what they may and no more; one row always fits."""
    queue = made(tmp_path, max_bytes=2000)
    assert [queue.add(b"x" * 900 + b"\n") for _ in range(4)] == [True, True, False, False]
    assert len(taken(queue)) == 2
    assert queue.add(b"x" * 5000 + b"\n")


def test_adopting(tmp_path: Path) -> None:
    """The rows of a dead process are taken over, by one of the living; those of a living one are not."""
    first, second = made(tmp_path), made(tmp_path)
    first.add(line("a"))
    dead = first.instance
    second.adopt()
    assert second.rows == 0
    assert second.is_alive(dead) is True

    os.close(first._lock)  # as the kernel does when a process dies
    second.adopt()
    third = made(tmp_path)
    third.adopt()
    assert (second.rows, third.rows) == (1, 0)
    assert second.is_alive(dead) is False
    assert third.is_alive(dead) is True
    assert second.drained() == []
    assert taken(second) == [line("a")]
    assert second.drained() == [dead]
    second.release(dead)
    third.adopt()
    assert third.is_alive(dead) is None


def test_closed_with_rows_is_adopted(tmp_path: Path) -> None:
    """What waits when a process ends is there for the next one."""
    first = made(tmp_path)
    first.add(line("a"))
    assert first.close(forget=True) == 0
    second = made(tmp_path)
    second.adopt()
    assert taken(second) == [line("a")]


def test_removed_directory_is_made_again(tmp_path: Path) -> None:
    """Somebody removes the directory: what waits in it is still written, later rows go to a new one."""
    queue = made(tmp_path / "queue")
    queue.add(line("a"))
    for path in queue.directory.iterdir():
        path.unlink()
    queue.directory.rmdir()
    queue.settle_again()
    queue.add(line("b"))
    assert sorted(path.suffix for path in queue.directory.iterdir()) == [".lock", ".rows"]
    assert taken(queue) == [line("a"), line("b")]
    other = made(tmp_path / "queue")
    other.adopt()
    assert other.is_alive(queue.instance) is True


class FullDisk:
    """Stands in for `os.pwrite` on a disk that is full after some bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, fd: int, text: bytes, at: int) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = min(self.room, len(text))
        self.room -= count
        os.lseek(fd, at, os.SEEK_SET)
        return os.write(fd, text[:count])


@pytest.mark.parametrize("room", [0, 1, 500, 1500])
def test_full_disk(tmp_path: Path, room: int) -> None:
    """On a full disk no half line stays in a file, and rows wait in memory, up to the limit."""
    with pytest.MonkeyPatch.context() as patch:
        queue = made(tmp_path, memory_rows=3)
        patch.setattr(os, "pwrite", FullDisk(room))
        kept = [queue.add(line(str(number))) for number in range(10)]
    on_disk = room // len(line("0"))
    assert kept == [number < on_disk + 3 for number in range(10)]
    assert queue.in_memory == 3
    assert all(path.stat().st_size == on_disk * len(line("0")) for path in tmp_path.glob("*.rows"))

    assert queue.add(line("a"))
    assert sorted(taken(queue)) == sorted([line(str(number)) for number in range(on_disk + 3)] + [line("a")])


# ---------------------------------------------------------------------- the writer


def test_rows_wait_while_the_database_is_away(writing: Writing, caplog: pytest.LogCaptureFixture) -> None:
    """Rows that cannot be written wait, and are written, once and in order, when the database is back."""
    disk, writer = writing()
    disk.away = True
    for number in range(1200):
        assert writer.put(row(str(number)))
    assert disk.tried.wait(60)
    assert not writer.flush(0.2)
    assert (writer.waiting, disk.rows) == (1200, [])
    disk.away = False
    assert writer.flush(30)
    assert disk.rows == [str(number) for number in range(1200)]
    assert (writer.waiting, writer.dropped) == (0, 0)
    assert "cannot write the log database (the database is away); " in caplog.text


def test_full_queue_drops_and_says_so(writing: Writing, caplog: pytest.LogCaptureFixture) -> None:
    """What does not fit is counted, row by row, and told loudly; what fits is written once the database is back."""
    size = len(line("0"))
    disk, writer = writing(max_bytes=3 * size)
    disk.away = True
    kept = [writer.put(row(str(number))) for number in range(5)]

    assert kept == [True, True, True, False, False]
    assert (writer.waiting, writer.dropped) == (3, 2)
    assert "the log cannot keep up: 1 rows dropped so far" in caplog.text
    disk.away = False
    assert writer.flush(30)
    assert disk.rows == ["0", "1", "2"]


def test_bad_row_goes_alone(writing: Writing, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A row that no database takes is set aside and counted; its neighbours are written."""
    disk, writer = writing()
    disk.poison = {"3", "11"}
    for number in range(20):
        writer.put(row(str(number)))

    assert writer.flush(30)
    assert disk.rows == [str(number) for number in range(20) if number not in {3, 11}]
    assert writer.dropped == 2
    assert "row 3 cannot be written" in caplog.text
    (bad,) = (tmp_path / "queue").glob("*.bad")
    assert [msgspec.json.decode(each)["id"] for each in bad.read_bytes().splitlines()] == ["3", "11"]


def test_row_that_is_no_text(writing: Writing) -> None:
    """A row that cannot be encoded is counted, and disturbs nobody."""
    disk, writer = writing()
    assert not writer.put(row("a", model="\ud800"))
    assert writer.put(row("b"))
    assert writer.flush(30)
    assert (disk.rows, writer.dropped) == (["b"], 1)


@pytest.mark.parametrize(
    "damage",
    [b"not json\n", b'{"id": 5}\n', b"\0" * 5000 + b"\n", b"\xff\xfe\n", b"\n", b'{"id":"cut off'],
    ids=["no JSON", "no row", "zeros", "no text", "empty", "cut off"],
)
def test_damaged_line(tmp_path: Path, damage: bytes) -> None:
    """A damaged line of a dead process is set aside and counted, one cut off not counted; the others are written."""
    dead = tmp_path / "queue" / "1-dead.000001.rows"
    dead.parent.mkdir()
    dead.write_bytes(line("a") + (damage + line("b") if damage.endswith(b"\n") else line("b") + damage))
    queue, disk = made(tmp_path / "queue"), Disk()
    writer = Writer(queue, disk.write, upkeep=queue.adopt)

    assert writer.flush(30)
    writer.close(10)
    assert disk.rows == ["a", "b"]
    assert writer.dropped == damage.endswith(b"\n")  # a line cut off at the end was never put
    (bad,) = dead.parent.glob("*.bad")
    assert bad.read_bytes().rstrip(b"\n") == damage.rstrip(b"\n")
    assert not dead.exists()


def test_file_that_somebody_removed(tmp_path: Path) -> None:
    """Rows that somebody removed under our hands are counted as lost."""
    dead = tmp_path / "1-dead.000001.rows"
    dead.write_bytes(line("a") + line("b"))
    queue, disk = made(tmp_path), Disk()
    queue.adopt()
    dead.unlink()
    writer = Writer(queue, disk.write)
    writer.put(row("c"))
    assert writer.flush(30)
    writer.close(10)
    assert (disk.rows, writer.dropped) == (["c"], 2)


def test_close_does_not_wait_for_ever(writing: Writing, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Closing on a dead database gives up in time; the rows are written by the next process."""
    disk, writer = writing()
    disk.away = True
    writer.put(row())
    assert disk.tried.wait(60)
    writer.close(0.2)

    assert writer.dropped == 0
    assert "1 rows wait in " in caplog.text
    assert not writer.put(row("late"))
    queue, other = made(tmp_path / "queue"), Disk()
    again = Writer(queue, other.write, upkeep=queue.adopt)
    assert again.flush(30)
    again.close(10)
    assert other.rows == ["a"]


def test_upkeep_that_fails_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An upkeep that raises is told, and rows are written all the same."""

    def upkeep() -> None:
        raise PermissionError("no such luck")

    disk = Disk()
    writer = Writer(made(tmp_path), disk.write, upkeep=upkeep)
    writer.put(row())
    assert writer.flush(30)
    writer.close(10)
    assert disk.rows == ["a"]
    assert "the log's upkeep failed: PermissionError: no such luck" in caplog.text


def test_row_in_flight_names_its_process(tmp_path: Path) -> None:
    """A row in flight is given the id of the process that has it, so that it is found if that dies."""
    disk = Disk()
    written: list[LogRow] = []
    writer = Writer(made(tmp_path), lambda rows: (written.extend(rows), disk.write(rows))[1], linger=0.0)
    assert writer.flush(30)
    begun = row("a", status="processing", revision=0)
    writer.put(begun)
    writer.put(row("a", status="success"))
    assert writer.flush(30)
    writer.close(10)
    assert [each.instance is not None for each in written] == [True, False]
    assert [each.status for each in written] == ["processing", "success"]
    assert disk.rows == ["a", "a"]
