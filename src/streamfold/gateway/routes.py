"""Where a request goes, and which wire format its path stands for.

`/openai/v1/chat/completions` goes to the upstream named `openai`, path `/v1/chat/completions`. The rest of the path is
passed on as it was spelled, never decoded and encoded again. The format is told by the end of the path, whatever the
upstream: an OpenAI-compatible server behind any name, with any prefix, is folded as well. What the path does not tell
is folded as `passthrough`, which looks at the body.

The path promises a format, the answer's content type may break the promise: a picture or a web page is no chat. Then
the answer is a `passthrough` too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from streamfold.gateway.upstreams import Upstream

__all__ = [
    "ENDINGS",
    "PASSTHROUGH",
    "Route",
    "Upstream",
    "find_route",
    "format_of",
    "is_readable_as",
    "is_stream_path",
    "model_in",
]

PASSTHROUGH: Final = "passthrough"

ENDINGS: Final = (
    # Mistral's own, before what they end with.
    ("/fim/completions", "mistral"),
    ("/agents/completions", "mistral"),
    ("/v1/conversations", "mistral"),
    # OpenAI, and whoever speaks as they do: Azure's deployments, Vertex' OpenAI door, vLLM, ...
    ("/chat/completions", "openai-chat"),
    ("/completions", "openai-completions"),
    ("/responses", "openai-responses"),
    ("/audio/speech", "openai-speech"),
    ("/audio/transcriptions", "openai-transcription"),
    ("/audio/translations", "openai-transcription"),
    ("/images/generations", "openai-images"),
    ("/images/edits", "openai-images"),
    ("/images/variations", "openai-images"),
    # Anthropic; the last two as Vertex spells them.
    ("/v1/messages", "anthropic-messages"),
    (":streamRawPredict", "anthropic-messages"),
    (":rawPredict", "anthropic-messages"),
    # Gemini, at Google's or Vertex' door.
    (":streamGenerateContent", "gemini"),
    (":generateContent", "gemini"),
    ("/interactions", "gemini"),
    # Bedrock.
    ("/converse", "bedrock-converse"),
    ("/converse-stream", "bedrock-converse"),
    ("/invoke", "bedrock-invoke"),
    ("/invoke-with-response-stream", "bedrock-invoke"),
    # Cohere, two versions.
    ("/v2/chat", "cohere"),
    ("/v1/chat", "cohere"),
    # Ollama.
    ("/api/chat", "ollama"),
    ("/api/generate", "ollama"),
)
"""End of the path -> wire format of the answer to a POST. The first that fits counts."""

STREAM_ENDINGS: Final = (
    ":streamGenerateContent",
    ":streamRawPredict",
    "/converse-stream",
    "/invoke-with-response-stream",
)

WITH_ID: Final = (
    ("GET", re.compile(r"/responses/[^/]+"), "openai-responses"),
    ("POST", re.compile(r"/responses/[^/]+/cancel"), "openai-responses"),
    ("POST", re.compile(r"/v1/conversations/[^/]+(/restart)?"), "mistral"),
)
"""Method, end of the path with an id in it, wire format."""

OTHER_SPELLING: Final = {("mistral", "openai-chat"): "mistral"}
"""Whose provider spells a format in a way of its own: (provider, format) -> format."""

UNREADABLE: Final = re.compile(r"(text/html|image/|video/|font/|application/(pdf|zip))", re.IGNORECASE)
"""Content types that no format has, with a success status."""

IN_PATH: Final = re.compile(r"/(?:models|deployments)/([^/:]+)|/model/([^/]+)/(?:converse|invoke)")
"""The model that a path names: `/models/M:verb` (Gemini, Vertex), `/deployments/D/` (Azure), `/model/M/` (Bedrock)."""


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


def format_of(method: str, path: str, provider: str | None = None) -> str:
    """The wire format that a path promises; `passthrough` if it promises none."""
    path = unquote(path)
    for of_method, pattern, name in WITH_ID:
        if method == of_method and (found := pattern.search(path)) and found.end() == len(path):
            return name
    if method != "POST":
        return PASSTHROUGH
    format = next((name for ending, name in ENDINGS if path.endswith(ending)), PASSTHROUGH)
    return OTHER_SPELLING.get((provider or "", format), format)


def is_stream_path(path: str) -> bool:
    """Whether a path asks for a stream by itself, whatever the body says."""
    return path.endswith(STREAM_ENDINGS)


def is_readable_as(format: str, status: int, content_type: str) -> bool:
    """Whether an answer of this content type may keep the promise of its path. Errors may come in any dress."""
    return status >= 400 or format == PASSTHROUGH or UNREADABLE.match(content_type) is None


def model_in(path: str) -> str | None:
    """The model that a path names, if it does."""
    found = IN_PATH.search(path)
    return unquote(found[1] or found[2]) if found is not None else None
