"""What a request asked, in Maxim's words: messages of a role and a text, and parameters whose values are strings.

Where the conversation stands is told by `request_messages`; here its contents become text. What is not known is shown
as JSON. Pictures, sound and files become a word in brackets: the SDK would upload them.
"""

from __future__ import annotations

import json
from typing import Any, Final

from streamfold.plugins.request_messages import (
    CONVERSATION,
    INSTRUCTIONS,
    content_of,
    instructions_in,
    role_of,
    turns_in,
)
from streamfold.types import JSON

__all__ = ["last_question", "messages_of", "parameters_of"]

NESTED: Final = ("generationConfig", "generation_config", "inferenceConfig", "textGenerationConfig", "options")
"""Objects whose fields are parameters."""
NO_PARAMETERS: Final = frozenset(
    {*INSTRUCTIONS, *CONVERSATION, "model", "stream", "file", "image", "mask", "audio", "suffix"}
)
MEDIA: Final = ("image", "audio", "video", "file", "document")
DEEPEST: Final = 20


def messages_of(request: Any) -> list[JSON]:
    """The conversation of a request body; empty for a body that has none."""
    if not isinstance(request, dict):
        return []
    system = [text for said in instructions_in(request) if (text := _text(said))]
    messages = [{"role": "system", "content": text} for text in system]
    return messages + [_turn(turn) for _, turn in turns_in(request)]


def last_question(messages: list[JSON]) -> str | None:
    """What the user said last."""
    return next((each["content"] for each in reversed(messages) if each["role"] == "user"), None)


def parameters_of(request: Any) -> dict[str, str]:
    """How the request wanted it done: everything but the conversation and the model."""
    if not isinstance(request, dict):
        return {}
    said = {key: value for key, value in request.items() if key not in NO_PARAMETERS and key not in NESTED}
    for key in NESTED:
        if isinstance(request.get(key), dict):
            said |= request[key]
    return {key: _string(value) for key, value in said.items() if value is not None}


def _turn(turn: str | JSON) -> JSON:
    if isinstance(turn, str):
        return {"role": "user", "content": turn}
    role = role_of(turn)
    if role is None:
        return _item(turn)
    message: JSON = {"role": "system" if role == "developer" else role, "content": _text(content_of(turn))}
    if isinstance(turn.get("tool_calls"), list):
        message["tool_calls"] = turn["tool_calls"]
    return message


def _item(item: JSON) -> JSON:
    """An item of the Responses API that is no message, or a part without a turn around it."""
    kind = str(item.get("type") or "")
    if kind.endswith("_output"):
        return {"role": "tool", "content": _text(item.get("output"))}
    made_by_model = kind.endswith("_call") or kind == "reasoning"
    return {"role": "assistant" if made_by_model else "user", "content": _text(item)}


def _text(value: Any, deep: int = DEEPEST) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if deep == 0:
        return "[nested too deeply]"
    if isinstance(value, list):
        return "\n".join(text for each in value if (text := _text(each, deep - 1)))
    return _part(value, deep) if isinstance(value, dict) else _string(value)


def _part(part: JSON, deep: int) -> str:
    """One part of a message: text, a call, a call's result, or something that is not text."""
    for key in ("text", "refusal", "thinking"):
        if isinstance(part.get(key), str):
            return str(part[key])
    for key in ("toolUse", "functionCall", "function_call"):
        if isinstance(part.get(key), dict):
            return _call(part[key])
    kind = str(part.get("type") or "")
    if kind in ("tool_use", "server_tool_use") or kind.endswith("_call"):
        return _call(part)
    for media in MEDIA:
        if media in kind or media in part or (media == "file" and ("inlineData" in part or "fileData" in part)):
            return f"[{media}]"
    for key in ("content", "parts", "summary", "output", "toolResult", "functionResponse", "response"):
        if part.get(key) is not None:
            return _text(part[key], deep - 1)
    return _string(part)


def _call(call: JSON) -> str:
    arguments = next((call[key] for key in ("arguments", "input", "args") if call.get(key) is not None), "")
    return f"[{call.get('name') or call.get('type') or 'call'}({_string(arguments)})]"


def _string(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
