"""What could not become a row waits in `.bad` files for a human, who may never come.

So the files of a queue directory, those of dead processes among them, have room for so many bytes and are so many; the
oldest go first, and what was set aside last stays. A process writes into `ID.bad`; when that has a quarter of the room
it becomes `ID.000001.bad`, and a new one is begun.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["BAD_BYTES", "BAD_FILES", "BadLines"]

log = logging.getLogger("streamfold.store")

BAD_BYTES: Final = 64 * 1024 * 1024
BAD_FILES: Final = 20
PARTS: Final = 4


class BadLines:
    """The `.bad` files of a directory, as one of its processes writes them. Never raises."""

    def __init__(self, directory: Path, instance: str, *, max_bytes: int, max_files: int) -> None:
        self._directory = directory
        self._own = directory / f"{instance}.bad"
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._number = 0
        self.removed = 0
        """Files that had to go."""
        self._make_room(0, 0)

    def add(self, line: bytes) -> None:
        """Keeps a line, if it is no longer than all the room there is."""
        line = line if line.endswith(b"\n") else line + b"\n"
        if len(line) > self._max_bytes:
            return
        with suppress(OSError):  # it is counted as dropped all the same
            size = self._own.stat().st_size if self._own.exists() else 0
            if not size or size + len(line) > self._max_bytes // PARTS:
                if size:
                    self._number += 1
                    self._own.rename(self._own.with_suffix(f".{self._number:06}.bad"))
                self._make_room(max(len(line), self._max_bytes // PARTS), 1)
            with open(self._own, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(line)

    def _make_room(self, size: int, files: int) -> None:
        """Removes the oldest files until there is room for so many more bytes and files."""
        found = []
        for path in self._directory.glob("*.bad"):
            with suppress(OSError):  # another process was quicker
                told = path.stat()
                found.append((told.st_mtime_ns, path.name, told.st_size, path))
        for _, _, bytes_of_it, path in sorted(found, reverse=True):
            size, files = size + bytes_of_it, files + 1
            if size <= self._max_bytes and files <= self._max_files:
                continue
            with suppress(OSError):
                path.unlink()
                self.removed += 1
                log.warning(
                    "removed %s: lines that could not be stored may take %d bytes in %d files",
                    path,
                    self._max_bytes,
                    self._max_files,
                )
