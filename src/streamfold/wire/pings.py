"""Signs of life: frames that say no more than that the connection is still open.

Servers and the gateways before them send them while a model thinks or paints. They stand in no response, whichever API
the stream is of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["is_ping"]

PINGS: Final = frozenset({"ping", "keepalive", "keep-alive", "keep_alive", "heartbeat", "response.keepalive"})


def is_ping(event: Mapping[str, Any], name: str | None = None) -> bool:
    """Whether a frame is a sign of life. `name` is its SSE event name, which counts where the frame says no kind."""
    kind = event.get("type", event.get("event"))
    return (kind if isinstance(kind, str) else name) in PINGS
