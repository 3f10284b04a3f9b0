"""What of a message's headers goes on to the next hop (RFC 9110, 7.6.1), and what in a request is secret.

Everything goes on except what belongs to one connection only: the hop-by-hop names and those that `Connection` lists.
Secrets go on too, for the upstream needs them, but nowhere else: no header and no query is ever stored or logged, and
should an upstream quote a key in an answer, `Redactor` takes it out of what is stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

__all__ = ["Headers", "Redactor", "Told", "end_to_end", "header", "request_headers", "told_by"]

Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""

HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings")
)
ANSWERED_HERE: Final = frozenset((b"host", b"expect"))
"""Request headers that this hop has answered or rewrites: `Host`, and `Expect` (the server said 100 by reading)."""

OURS: Final = b"x-streamfold-"
"""What begins so is a word to the gateway, and goes no further."""
SESSION, META, LOG = OURS + b"session", OURS + b"meta-", OURS + b"log"
MOST_TOLD: Final = 64
"""How many labels one request may carry, and a thousand characters each: they end in rows and on spans."""

CREDENTIAL: Final = re.compile(r"auth|key|token|secret|cookie|credential|signature|password", re.IGNORECASE)
"""Names of headers and query parameters whose values are treated as secret."""
SHORTEST_SECRET: Final = 8
"""Shorter values are no keys, and striking them out would damage ordinary text."""
STRUCK_OUT: Final = "[redacted]"


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The value of a header; several of one name are joined by commas, as RFC 9110 allows."""
    found = None
    for each, value in headers:
        if each.lower() == name:
            text = value.decode("latin-1")
            found = text if found is None else f"{found}, {text}"
    return found


@lru_cache(4096)
def _is_credential(name: bytes) -> bool:
    """Whether a header is a secret, by its name."""
    return CREDENTIAL.search(name.decode("latin-1")) is not None


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers without those of this one connection."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = header(lowered, b"connection") or ""
    ours = HOP_BY_HOP | {name.strip().lower().encode("latin-1") for name in named.split(",")} if named else HOP_BY_HOP
    return [(name, value) for name, value in lowered if name not in ours and not name.startswith(b"proxy-")]


def request_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What of a client's headers goes to the upstream."""
    return [
        (name, value) for name, value in end_to_end(headers) if name not in ANSWERED_HERE and not name.startswith(OURS)
    ]


class Told(NamedTuple):
    """What a client's headers tell the gateway itself. `shown` are the headers that may be shown: no credentials."""

    shown: dict[str, str]
    session_id: str | None
    metadata: dict[str, str]
    log_content: bool


def told_by(headers: Iterable[tuple[bytes, bytes]]) -> Told:
    """Reads the `x-streamfold-` headers: `session`, `meta-NAME`, and `log: off` (keep nothing of what was said)."""
    shown: dict[str, str] = {}
    metadata: dict[str, str] = {}
    session_id, log_content = None, True
    for raw, value in headers:
        name, text = raw.lower(), value.decode("latin-1")
        if name == SESSION:
            session_id = text[:1000] or None
        elif name == LOG:
            log_content = text.strip().lower() not in ("off", "false", "0", "no")
        elif name.startswith(META):
            if len(metadata) < MOST_TOLD:
                metadata[name.removeprefix(META).decode("latin-1")] = text[:1000]
        elif not _is_credential(name):
            readable = name.decode("latin-1")
            shown[readable] = f"{shown[readable]}, {text}" if readable in shown else text
    return Told(shown, session_id, metadata, log_content)


class Redactor:
    """Strikes the credentials of one request out of any text."""

    __slots__ = ("_secrets",)

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> None:
        values = [value.decode("latin-1") for name, value in headers if _is_credential(name)]
        # "Bearer sk-..." may be quoted without its scheme, a cookie without its name.
        found = {
            part for value in values for cut in (r"[\s;,]+", r"[\s;,=]+") for part in (value, *re.split(cut, value))
        }
        for pair in query.decode("latin-1").split("&") if query else ():
            name, _, value = pair.partition("=")
            if CREDENTIAL.search(name):
                found |= {value, unquote_plus(value)}
        spelled = {spelling for each in found for spelling in (each, json.dumps(each)[1:-1])}
        # A number is no key, and striking it out of JSON would break a number there.
        secret = (each for each in spelled if len(each) >= SHORTEST_SECRET and not each.isdigit())
        self._secrets = sorted(secret, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, STRUCK_OUT)
        return text
