"""The files that the page is made of: our own from this package, plotly.js from the wheel that carries it.

plotly (the extra `ui`) is never imported, only found: its Python part is not needed. Without it the page works and says
what its plots lack. It is 4.6 MB, so it is compressed once, at the first request for it, and asked for by the page only
when there is a plot to draw.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Asset", "asset", "plotly"]

KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PLOTLY: Final = "plotly.min.js"


class Asset(NamedTuple):
    """A file as it is sent."""

    kind: str
    body: bytes
    zipped: bytes
    etag: str


def asset(name: str) -> Asset | None:
    """A file of the page by its name; None if there is none. May take a moment the first time."""
    if name == PLOTLY:
        return plotly()
    return _own().get(name)


@cache
def _own() -> dict[str, Asset]:
    # A list of what is there, not a path made of what was asked for.
    found = {}
    for each in files(__package__).joinpath("static").iterdir():
        kind = KINDS.get(Path(each.name).suffix)
        if kind is not None:
            found[each.name] = _made(kind, each.read_bytes())
    return found


@cache
def plotly() -> Asset | None:
    """plotly.js, or None where the extra `ui` is not installed."""
    spec = find_spec("plotly")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(place, "package_data", PLOTLY)
        if path.is_file():
            return _made(KINDS[".js"], path.read_bytes())
    return None


def _made(kind: str, body: bytes) -> Asset:
    digest = hashlib.sha256(body).hexdigest()[:32]
    return Asset(kind, body, gzip.compress(body, 6, mtime=0), f'"{digest}"')
