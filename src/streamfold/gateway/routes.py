"""Where a request goes, and which wire format its path stands for.

`/openai/v1/chat/completions` goes to the upstream named `openai`, path `/v1/chat/completions`. The rest of the path is
passed on as it was spelled, never decoded and encoded again. The format is told by the end of the path, whatever the
upstream: an OpenAI-compatible server behind any name, with any prefix, is folded as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

__all__ = ["ENDINGS", "Route", "Upstream", "find_route", "format_of", "model_in"]

ENDINGS: Final = (
    ("/chat/completions", "openai-chat"),
    ("/completions", "openai-completions"),
    ("/responses", "openai-responses"),
    ("/v1/messages", "anthropic-messages"),
    (":streamGenerateContent", "gemini"),
    (":generateContent", "gemini"),
)
"""End of the path -> wire format of the answer to a POST. The first that fits counts."""


class Upstream(NamedTuple):
    """A server that requests may go to. `url` has no slash at its end."""

    name: str
    url: str
    provider: str


class Route(NamedTuple):
    """What a path means: the upstream, and the path there, as it was spelled."""

    upstream: Upstream
    path: str

    def target(self, query: bytes) -> str:
        """The URL to ask for."""
        return self.upstream.url + self.path + ("?" + query.decode("latin-1") if query else "")


def find_route(upstreams: Mapping[str, Upstream], raw_path: str) -> Route | None:
    """The route of a path such as `/openai/v1/models`; None if it begins with no upstream's name."""
    name, slash, rest = raw_path.removeprefix("/").partition("/")
    upstream = upstreams.get(name)
    return Route(upstream, slash + rest) if upstream is not None else None


def format_of(method: str, path: str) -> str | None:
    """The wire format of the answer, as far as the path tells."""
    if method != "POST":
        return None
    path = unquote(path)
    return next((name for ending, name in ENDINGS if path.endswith(ending)), None)


def model_in(path: str) -> str | None:
    """The model that a Gemini path names: `/v1beta/models/MODEL:generateContent`."""
    head, colon, _ = unquote(path).rpartition(":")
    if not colon or "/models/" not in head:
        return None
    return head.rpartition("/models/")[2] or None
