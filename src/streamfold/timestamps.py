"""How a moment is written, in records and in the log: RFC 3339, UTC, milliseconds. So texts sort as times do."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache

__all__ = ["utc", "written"]


def utc(seconds: float) -> str:
    """A time in seconds since the epoch. Raises `ValueError`, `OverflowError` or `OSError` for one that is none."""
    fraction, whole = math.modf(seconds)
    second, microsecond = divmod(int(whole) * 1_000_000 + round(fraction * 1e6), 1_000_000)
    return f"{_second(second)}.{microsecond // 1000:03d}Z"


def written(moment: datetime) -> str:
    """A moment that knows it is in UTC."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@lru_cache(maxsize=16)
def _second(second: int) -> str:
    """A whole second. Most times that are written are of the same few: the last ones."""
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds").removesuffix("+00:00")
