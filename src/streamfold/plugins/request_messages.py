"""Where a request keeps its conversation, whatever its API: the instructions, the turns, and whose turn it is.

Every API spells a conversation differently, but they all mean turns of a role and a content. So a body is read by the
names of its fields and not by the name of its format: `contents` is Gemini's, `messages` everybody's, `input` the
Responses API's; Cohere keeps what went before in `chat_history` and asks in `message`. What a turn's content becomes
is the business of whoever asks.
"""

from __future__ import annotations

from typing import Any, Final

from streamfold.types import JSON

__all__ = ["CONVERSATION", "INSTRUCTIONS", "content_of", "instructions_in", "role_of", "turns_in"]

INSTRUCTIONS: Final = ("instructions", "system", "systemInstruction", "system_instruction", "preamble")
"""The keys of instructions that stand apart from the turns."""
CONVERSATION: Final = ("messages", "contents", "chat_history", "input", "prompt", "message", "inputText", "inputs")
"""The keys of turns, what was said before what is asked."""
_CONTENT: Final = ("content", "parts", "message")
_ROLES: Final = {"model": "assistant", "chatbot": "assistant", "bot": "assistant", "function": "tool"}


def instructions_in(request: JSON) -> list[Any]:
    """The instructions as the request spells them: texts, lists of parts, whole messages."""
    return [request[key] for key in INSTRUCTIONS if request.get(key) is not None]


def turns_in(request: JSON) -> list[tuple[str, str | JSON]]:
    """The turns, each with the key that it stands under: a text, or an object. What can be neither is left out."""
    found = []
    for key in CONVERSATION:
        said = request.get(key)
        # An object that is no message is something else, such as the template that `prompt` may name.
        alone = isinstance(said, str) or (isinstance(said, dict) and any(name in said for name in _CONTENT))
        turns = [said] if alone else said if isinstance(said, list) else []
        found += [(key, turn) for turn in turns if isinstance(turn, str | dict)]
    return found


def role_of(turn: JSON) -> str | None:
    """Whose turn it is, in the words `system`, `developer`, `user`, `assistant`, `tool` where it is one of these."""
    said = turn.get("role")
    if not isinstance(said, str):
        return None
    role = said.lower()
    return _ROLES.get(role, role)


def content_of(turn: JSON) -> Any:
    """What is said in a turn, as the request spells it."""
    return next((turn[key] for key in _CONTENT if turn.get(key) is not None), None)
