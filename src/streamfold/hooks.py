"""The plugin interface, on one page. `pipeline` runs it, `plugins` are written to it.

A plugin is any object with a `name` and one or more of these methods, each plain or `async`:

* `pre_llm_hook(ctx, request)` is called before the request goes out, in order of registration. It answers None, or a
  `ShortCircuit`.
* `post_llm_hook(ctx, chunk, error)` is called for each chunk, and once more at the end with `chunk=None`, in reverse
  order. It answers None (leave it as it is), another chunk, or `DROP`; or it works the gate, see below.
* `on_response(ctx, processed)` is called once per request with the complete response, however it ended.
* `close()` is called at shutdown.

A plugin without `post_llm_hook` costs nothing per chunk. `request` is the decoded JSON body, or None for a body that
is no JSON; `chunk` is what the transport has: payload bytes in the gateway, an SDK's object in a program; for an
unstreamed response its body, once. `ctx` is one object for the whole life of a request, and can be handed to
`Accumulator.process_streaming_response` as it is.

**The gate.** `HOLD` keeps this chunk and those that follow from being delivered. They wait, in order, until the plugin
answers `RELEASE` (all of it goes on), `Replace` (something else goes on in its place) or `End` (the stream ends with
an error in its own format, and the upstream is left). Meanwhile it is asked for each chunk, and `ctx.snapshot()` tells
what was said so far. The call with `chunk=None` is the last chance to release. How much may be held, how long, and what
happens to what nobody released, is the gateway's configuration.

What a plugin does wrong stays with the plugin: whatever it raises is counted and logged, what takes too long is left
behind, and the traffic goes on (see `pipeline`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import msgspec

from streamfold.accumulator import StreamContext
from streamfold.types import AccumulatedData, ErrorDetails

__all__ = ["DROP", "HOLD", "RELEASE", "End", "Plugin", "Replace", "RequestContext", "ShortCircuit"]


class RequestContext(StreamContext, kw_only=True):
    """One request, as far as it is known. A plugin may read all of it, and keep notes in `state` under its own name.

    `request_headers` are without credentials, names in lower case. `started_ns` is monotonic nanoseconds, `started_at`
    seconds since the epoch. `traceparent` and `tracestate` are the W3C headers that came with the request.
    """

    upstream: str | None = None
    method: str | None = None
    path: str | None = None
    stream: bool | None = None
    http_status: int | None = None
    request: Any = None
    request_body: bytes | None = None
    """The body as it came, if it is JSON, up to the gateway's limit."""
    request_bytes: int | None = None
    response_bytes: int | None = None
    request_headers: dict[str, str] = msgspec.field(default_factory=dict)
    client: str | None = None
    """The name of the access key that the caller used."""
    session_id: str | None = None
    parent_id: str | None = None
    """The request that this one is a retry or fallback of."""
    attempt: int = 0
    traceparent: str | None = None
    tracestate: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    """What the caller attached to the request."""
    log_content: bool = True
    """False when the caller asked that what was said is not kept."""
    server_address: str | None = None
    server_port: int | None = None
    started_ns: int = msgspec.field(default_factory=time.monotonic_ns)
    started_at: float = msgspec.field(default_factory=time.time)
    snapshot: Callable[[], AccumulatedData] | None = None
    """The response so far, while it is under way."""
    arrivals: Callable[[], Sequence[int] | None] | None = None
    """When its reads that brought chunks came so far, in nanoseconds since the start; null if that is not kept."""
    redact: Callable[[str], str] | None = None
    """Strikes the credentials of this request out of a text; what is stored or sent away must go through it."""
    state: dict[str, Any] = msgspec.field(default_factory=dict)
    depth: int = 0
    """How many plugins have seen the request: those, and no others, see what follows."""
    held_by: set[str] = msgspec.field(default_factory=set)
    """The plugins that hold the stream back."""


class ShortCircuit(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of a `pre_llm_hook` that does not want the request to go out.

    Either a `response` (a JSON object, or the bytes of a body) or an `error`. `status_code` is the HTTP status, by
    default 200 for a response and the error's own, else 403, for an error.
    """

    response: Any = None
    error: ErrorDetails | None = None
    status_code: int | None = None


class Replace(msgspec.Struct, frozen=True):
    """The answer of a `post_llm_hook` that lets something else go on: chunks, in place of this one and what is held."""

    chunks: Sequence[Any]


class End(msgspec.Struct, frozen=True):
    """The answer of a `post_llm_hook` that ends the stream. What is held is not delivered."""

    error: ErrorDetails


class _Word:
    def __init__(self, word: str) -> None:
        self._word = word

    def __repr__(self) -> str:
        return self._word


DROP: Final = _Word("DROP")
"""The answer of a `post_llm_hook` that wants a chunk not to be delivered."""
HOLD: Final = _Word("HOLD")
"""The answer of a `post_llm_hook` that wants this chunk and all that follow to wait."""
RELEASE: Final = _Word("RELEASE")
"""The answer of a `post_llm_hook` that wants this chunk and all that waits to go on."""


class Plugin:
    """A convenient base; a plugin need not derive from it.

    A plugin's class may name a msgspec Struct as its `Config`: then it is built with one, read from the section
    `[plugins.NAME]` of the configuration. A mistake there is told with the key.
    """

    name: ClassVar[str]
    Config: ClassVar[type[msgspec.Struct] | None] = None
    inline: ClassVar[bool] = False
    """True for a plugin whose `pre_llm_hook` and `post_llm_hook` never wait: they are called where the traffic runs,
    without the detour over a thread that protects the traffic from all others."""
    inline_response: ClassVar[bool] = False
    """True for a plugin whose `on_response` never waits: it is called before the client is told the end. All others
    get the response from a bounded queue."""
