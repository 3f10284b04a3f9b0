"""The queue before the database is a file.

A row that was `put` must survive `kill -9`, and a database that is away for an hour must not cost memory. So a row is
one line of JSON, appended with one write to a file of this process, and what the kernel has taken a dying process
cannot lose. (A dying machine can: nothing here waits for the disk.)

One directory belongs to one database; any number of processes may share it. In it each process, an *instance*, has

* `ID.lock`, which it holds locked as long as it lives. A lock that is free tells that its instance is dead;
* `ID.000001.rows` and so on, the segments. Rows are appended to the newest and taken from the oldest; a segment is
  removed once all its rows are in the database. Where in a segment the taking has got to is not noted anywhere:
  whoever comes after a crash writes the segment again from its beginning, which changes nothing, because the
  database keeps the highest revision of a row;
* `ID.bad`, lines that nobody could read or no database would take, and the line that a kill cut off in the middle of
  its writing (see `bad_lines.py`).

`adopt` takes over the segments of dead instances. If the disk itself is full, rows wait in memory, up to a limit.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

from streamfold.store.bad_lines import BAD_BYTES, BAD_FILES, BadLines
from streamfold.store.locks import try_lock

__all__ = ["Batch", "Journal"]

SEGMENT_BYTES: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024


@dataclass(eq=False, slots=True)
class _Segment:
    """A file of lines. `taken` and `size` are byte offsets: the lines between them wait."""

    path: Path
    owner: str
    size: int = 0
    taken: int = 0
    rows: int = 0
    fd: int = -1

    def open(self, flags: int = os.O_RDWR) -> int:
        if self.fd < 0:
            self.fd = os.open(self.path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)
        return self.fd

    def close(self, *, remove: bool) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if remove:
            self.path.unlink(missing_ok=True)


@dataclass(slots=True)
class Batch:
    """The oldest lines of the journal, and how to tell that they are done."""

    lines: list[bytes]
    segment: _Segment | None = None
    """None: they waited in memory."""
    end: int = 0
    lost: int = 0
    """Rows that the file does not hold any more, because somebody cut or removed it."""


@dataclass(slots=True)
class _Limits:
    file_bytes: int
    memory_rows: int
    memory_bytes: int


@dataclass(slots=True)
class _Memory:
    """Where rows wait when no file takes them."""

    lines: deque[bytes] = field(default_factory=deque)
    size: int = 0


class Journal:
    """The rows on their way to the database. `add` may be called by any thread, all else by one.

    Raises `OSError` when the directory cannot be made or written at the start; never later.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        memory_rows: int,
        memory_bytes: int,
        bad_bytes: int = BAD_BYTES,
        bad_files: int = BAD_FILES,
    ) -> None:
        self.directory = directory
        self._limits = _Limits(max_bytes, memory_rows, memory_bytes)
        self._guard = Lock()
        self._segments: deque[_Segment] = deque()
        self._active: _Segment | None = None
        self._memory = _Memory()
        self._number = 0
        self._adopted: dict[str, int] = {}
        self.instance, self._lock = self._settle()
        self.bad = BadLines(directory, self.instance, max_bytes=bad_bytes, max_files=bad_files)

    # ------------------------------------------------------------------ rows in

    @property
    def rows(self) -> int:
        """Rows that are not in the database yet, those of dead instances among them."""
        return sum(segment.rows for segment in tuple(self._segments)) + len(self._memory.lines)

    @property
    def size(self) -> int:
        """Bytes of the files that these rows wait in."""
        return sum(segment.size - segment.taken for segment in tuple(self._segments))

    @property
    def in_memory(self) -> int:
        """Rows that wait in memory, because no file took them."""
        return len(self._memory.lines)

    def add(self, line: bytes) -> bool:
        """Appends a line (with its newline). Returns whether there was room for it."""
        with self._guard:
            try:
                waiting = self.size
                if waiting and waiting + len(line) > self._limits.file_bytes:
                    return False
                self._append(line)
            except OSError:
                return self._remember(line)
            return True

    def _append(self, line: bytes) -> None:
        active = self._active
        if active is None or (active.size and active.size + len(line) > SEGMENT_BYTES):
            active = self._start_segment()
        written = _write_at(active.open(), line, active.size)
        if written != len(line):
            # The disk is full. The next line overwrites the piece; cut it off as well, in case there is no next one.
            os.ftruncate(active.open(), active.size)
            raise OSError(errno.ENOSPC, "no space left")
        active.size += written
        active.rows += 1

    def _start_segment(self) -> _Segment:
        self._number += 1
        made = _Segment(self.directory / f"{self.instance}.{self._number:06}.rows", self.instance)
        made.open(os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._segments.append(made)
        self._active = made
        return made

    def _remember(self, line: bytes) -> bool:
        memory = self._memory
        # One row always fits, however large: otherwise it could never be written at all.
        if memory.lines and (
            len(memory.lines) >= self._limits.memory_rows or memory.size + len(line) > self._limits.memory_bytes
        ):
            return False
        memory.lines.append(line)
        memory.size += len(line)
        return True

    # ------------------------------------------------------------------ rows out

    def head(self, max_rows: int, max_bytes: int) -> Batch | None:
        """The oldest lines, as many as the limits allow, but at least one; None when there are none.

        They stay here until `done`. Raises `OSError` if their file cannot be read now.
        """
        if self._memory.lines:
            return Batch([self._memory.lines[at] for at in range(min(len(self._memory.lines), max_rows))])
        with self._guard:
            segment = next((each for each in self._segments if each.taken < each.size), None)
            size = segment.size if segment is not None else 0
        if segment is None:
            return None
        try:
            text = _read(segment.open(), segment.taken, size, max_bytes)
        except FileNotFoundError:
            text = b""
        if not text:
            return Batch([], segment, size, lost=segment.rows)
        lines = text.splitlines(keepends=True)[:max_rows]
        return Batch(lines, segment, segment.taken + sum(map(len, lines)))

    def done(self, batch: Batch) -> None:
        """Forgets lines that are in the database or set aside."""
        with self._guard:
            segment = batch.segment
            if segment is None:
                for _ in batch.lines:
                    self._memory.size -= len(self._memory.lines.popleft())
                return
            segment.taken = batch.end
            segment.rows = max(segment.rows - len(batch.lines), 0)
            if segment.taken < segment.size:
                return
            segment.rows = 0
            if segment is self._active and segment.size < SEGMENT_BYTES:
                os.ftruncate(segment.open(), 0)
                segment.size = segment.taken = 0
                return
            self._forget(segment)

    def _forget(self, segment: _Segment) -> None:
        self._segments.remove(segment)
        if segment is self._active:
            self._active = None
        segment.close(remove=True)

    # ------------------------------------------------------------------ other instances

    def adopt(self) -> None:
        """Takes over what dead instances left in this directory."""
        for instance in self._others():
            if instance in self._adopted:
                continue
            lock = self._take_lock(instance)
            if lock is None:
                continue
            try:
                found = sorted(self.directory.glob(f"{instance}.*.rows"))
                segments = [self._adopted_segment(path, instance) for path in found]
            except OSError:
                os.close(lock)
                raise
            with self._guard:
                self._adopted[instance] = lock
                for segment in reversed(segments):
                    if segment.size:
                        self._segments.appendleft(segment)
                    else:
                        segment.close(remove=True)

    def _adopted_segment(self, path: Path, instance: str) -> _Segment:
        rows, end = _lines_in(path)
        with path.open("rb") as file:
            file.seek(end)
            torn = file.read()
        if torn:
            # The kill came in the middle of the write: that `put` never returned.
            self.bad.add(torn)
        return _Segment(path, instance, end, rows=rows)

    def is_alive(self, instance: str) -> bool | None:
        """Whether an instance lives, as far as its lock in this directory tells; None if it has none here."""
        if instance == self.instance:
            return True
        if instance in self._adopted:
            return False
        return True if (self.directory / f"{instance}.lock").exists() else None

    def drained(self) -> list[str]:
        """The adopted instances of which no row waits any more."""
        waiting = {segment.owner for segment in self._segments}
        return [instance for instance in self._adopted if instance not in waiting]

    def release(self, instance: str) -> None:
        """Removes the last trace of an adopted instance: nobody needs to look after it again."""
        lock = self._adopted.pop(instance, None)
        if lock is not None:
            self._remove_lock(instance, lock)

    def settle_again(self) -> None:
        """Makes directory, lock and segment anew if somebody removed them; costs a look otherwise."""
        if os.fstat(self._lock).st_nlink and (self._active is None or os.fstat(self._active.open()).st_nlink):
            return
        with self._guard:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = self._take_lock(self.instance)
            if lock is not None:
                os.close(self._lock)
                self._lock = lock
            self._active = None

    def close(self, *, forget: bool) -> int:
        """Ends this instance. Returns how many rows in memory are lost.

        Files with rows stay for whoever comes next, and so does the lock unless `forget` says that the database holds
        nothing of this instance that would need looking after.
        """
        with self._guard:
            for segment in self._segments:
                waits = segment.taken < segment.size
                forget = forget and not (waits and segment.owner == self.instance)
                segment.close(remove=not waits)
            for lock in self._adopted.values():
                os.close(lock)
            if forget:
                self._remove_lock(self.instance, self._lock)
            else:
                os.close(self._lock)
            self._segments.clear()
            self._adopted.clear()
            self._active = None
            lost = len(self._memory.lines)
            self._memory = _Memory()
        with suppress(OSError):  # others are in it, or something waits there
            self.directory.rmdir()
        return lost

    def _others(self) -> set[str]:
        names = (entry.name for entry in os.scandir(self.directory) if entry.name.endswith((".lock", ".rows")))
        return {name.split(".", 1)[0] for name in names} - {self.instance}

    def _settle(self) -> tuple[str, int]:
        """A new instance: its id, and its lock."""
        for _ in range(100):
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            instance = f"{os.getpid()}-{secrets.token_hex(6)}"
            with suppress(FileNotFoundError):  # whoever was the last in the directory has just removed it
                lock = self._take_lock(instance)
                if lock is not None:
                    return instance, lock
        raise OSError(errno.ENOLCK, "no lock can be had")

    def _take_lock(self, instance: str) -> int | None:
        """The lock of an instance if it is free, else None."""
        path = self.directory / f"{instance}.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            # Between opening and locking, another process may have found the lock free and removed it: then what we
            # hold is a file that nobody else can see.
            if try_lock(lock) and os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except OSError:
            pass
        os.close(lock)
        return None

    def _remove_lock(self, instance: str, lock: int) -> None:
        (self.directory / f"{instance}.lock").unlink(missing_ok=True)
        os.close(lock)


def _write_at(fd: int, line: bytes, at: int) -> int:
    # One system call: a process that is killed before it has put nothing, after it everything.
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, line, at)
    os.lseek(fd, at, os.SEEK_SET)
    return os.write(fd, line)


def _read_at(fd: int, size: int, at: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, size, at)
    os.lseek(fd, at, os.SEEK_SET)
    return os.read(fd, size)


def _read(fd: int, start: int, end: int, max_bytes: int) -> bytes:
    """Whole lines from `start` on, up to about `max_bytes`, but at least one."""
    text = b""
    while start < end:
        piece = _read_at(fd, min(max_bytes, end - start), start)
        if not piece:
            break
        start += len(piece)
        newline = piece.rfind(b"\n")
        if newline >= 0 and start < end:
            return text + piece[: newline + 1]
        text += piece
    return text


def _lines_in(path: Path) -> tuple[int, int]:
    """How many lines a file has, and where the last of them ends."""
    lines = end = at = 0
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            lines += piece.count(b"\n")
            end = at + piece.rfind(b"\n") + 1 if b"\n" in piece else end
            at += len(piece)
    return lines, end
