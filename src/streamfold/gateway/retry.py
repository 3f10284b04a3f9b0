"""Which upstream is tried when, before anything of an answer has gone to the client.

The same upstream is tried `retries` more times, with growing pauses; then each of its `fallback`, in order, with its
own retries. A fallback's own fallbacks are not followed. An upstream that says `Retry-After` is waited for as long as
it says, up to a cap; beyond the cap it is given up, since the client would not wait for it either.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from streamfold.gateway.config import Retry
from streamfold.gateway.headers import header
from streamfold.gateway.upstreams import Upstream

__all__ = ["Plan", "Step", "retry_after"]


class Step(NamedTuple):
    """One try: where, and how many seconds from now. `again` counts the tries there before this one."""

    upstream: Upstream
    again: int
    pause: float


class Plan:
    """The tries of one request."""

    def __init__(self, upstream: Upstream, upstreams: Mapping[str, Upstream], settings: Retry) -> None:
        self._settings = settings
        places = [upstream, *(upstreams[name] for name in upstream.fallback)]
        self._tries = [(each, again) for each in places for again in range(1 + each.retries)]
        self._at = 0

    @classmethod
    def single(cls, upstream: Upstream, settings: Retry) -> Plan:
        """One try, and no more: for a request that cannot be sent again."""
        return cls(upstream._replace(retries=0, fallback=()), {}, settings)

    @property
    def tries(self) -> int:
        """How many tries there are at most."""
        return len(self._tries)

    def has_next(self, asked: float | None = None) -> bool:
        """Whether another try follows a failure now. `asked` is the upstream's `Retry-After`, in seconds."""
        return self._next(asked) is not None

    def advance(self, asked: float | None = None) -> Step | None:
        """Goes on to the next try; None if there is none."""
        at = self._next(asked)
        if at is None:
            return None
        self._at = at
        upstream, again = self._tries[at]
        return Step(upstream, again, self._pause(again, asked))

    def _next(self, asked: float | None) -> int | None:
        here = self._tries[self._at][0]
        given_up = asked is not None and asked > self._settings.retry_after_cap_s
        for at in range(self._at + 1, len(self._tries)):
            if not (given_up and self._tries[at][0] is here):
                return at
        return None

    def _pause(self, again: int, asked: float | None) -> float:
        if again == 0:
            return 0.0
        own = min(self._settings.pause_cap_s, self._settings.pause_s * 2.0 ** (again - 1))
        # Clients that failed together must not come back together.
        return max(asked or 0.0, own * random.uniform(0.5, 1.0))


def retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """How many seconds an answer asks to be left alone: `Retry-After` (RFC 9110, 10.2.3), or OpenAI's finer one."""
    headers = list(headers)
    told = header(headers, b"retry-after-ms")
    if told is not None and told.isascii() and told.isdigit():
        return int(told) / 1000
    told = header(headers, b"retry-after")
    if told is None:
        return None
    if told.isascii() and told.isdigit():
        return float(told)
    try:
        then = parsedate_to_datetime(told).timestamp()
    except ValueError:
        return None
    return max(0.0, float(then) - time.time())
