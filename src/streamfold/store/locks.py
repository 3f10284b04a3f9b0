"""A lock on a file that the kernel gives back when its holder dies, however it dies."""

from __future__ import annotations

import sys

__all__ = ["try_lock"]

if sys.platform == "win32":
    import msvcrt

    def try_lock(fd: int) -> bool:
        """Locks an open file if it is free. Returns whether it was."""
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(fd: int) -> bool:
        """Locks an open file if it is free. Returns whether it was."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
