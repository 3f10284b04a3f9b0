"""How a moment is written, in records and in the log: RFC 3339, UTC, milliseconds. So texts sort as times do."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["utc", "written"]


def utc(seconds: float) -> str:
    """A time in seconds since the epoch. Raises `ValueError`, `OverflowError` or `OSError` for one that is none."""
    return written(datetime.fromtimestamp(seconds, UTC))


def written(moment: datetime) -> str:
    """A moment that knows it is in UTC."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
