"""APIs that stream, are known, and are not folded here.

Their events look enough like those of our formats to be taken for them by accident, so they are refused by name. Each
is a session or an agent run that has no unstreamed response to fold to.
"""

from __future__ import annotations

from streamfold.types import JSON

__all__ = ["foreign_api"]

BY_TYPE = {
    "session.": "OpenAI's Realtime API",
    "conversation.item.": "OpenAI's Realtime API",
    "conversation.created": "OpenAI's Realtime API",
    "input_audio_buffer.": "OpenAI's Realtime API",
    "thread.": "OpenAI's Assistants API",
}
"""How the type of an event begins -> whose it is."""

BY_FIELD = {
    "setupComplete": "Google's Live API",
    "serverContent": "Google's Live API",
}


def foreign_api(event: JSON) -> str | None:
    """The name of the API that an event belongs to, if it is one of these."""
    for field in ("type", "event_type", "object"):
        kind = event.get(field)
        if isinstance(kind, str):
            for beginning, name in BY_TYPE.items():
                if kind.startswith(beginning):
                    return name
    return next((name for field, name in BY_FIELD.items() if field in event), None)
