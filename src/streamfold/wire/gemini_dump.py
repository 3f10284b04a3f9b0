"""A chunk of Gemini's as Google's Python clients dump it, spelled back as it stood on the wire.

Who logs or hands on `chunk.model_dump()`, `chunk.to_json_dict()` or `type(chunk).to_dict(chunk)` has the same chunk in
other spelling: names with underscores, a null for each field that was not there, enums as members, bytes as bytes or in
the URL's base64 alphabet, and beside it what only the client knows (HTTP headers, its own parse of the answer). On the
wire none of these names has an underscore and nothing is of the client's own, so one look tells such a chunk. What a
tool takes or gives is free JSON, whose names and nulls are the user's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec

from streamfold.types import JSON

__all__ = ["CLIENT_ONLY", "as_on_wire", "is_dump"]

CLIENT_ONLY: Final = ("sdkHttpResponse", "automaticFunctionCallingHistory", "parsed")
"""Fields of the client's objects that no response has. The headers may hold cookies."""

RESPELLED: Final = frozenset({
    "usage_metadata", "prompt_feedback", "model_version", "response_id", "create_time", "sdk_http_response",
    "finish_reason", "finish_message", "safety_ratings", "grounding_metadata", "citation_metadata", "token_count",
    "url_context_metadata", "avg_logprobs", "logprobs_result",
    "function_call", "function_response", "inline_data", "file_data", "thought_signature", "executable_code",
    "code_execution_result", "tool_call", "tool_response", "video_metadata", "audio_transcription",
    "continuation_token",
})  # fmt: skip
"""Names of a chunk, a candidate or a part that have an underscore in a dump only."""

FREE: Final = frozenset({"args", "response", "partMetadata"})
"""Fields of a part whose value is anybody's JSON."""

BINARY: Final = frozenset({"thoughtSignature", "data", "continuationToken", "sdkBlob"})
"""Fields that are bytes."""

STANDARD: Final = str.maketrans("-_", "+/")

_UNDERSCORE = re.compile(r"_([a-z0-9])")


def is_dump(chunk: Mapping[str, Any]) -> bool:
    """Whether a chunk is spelled as a client dumps it."""
    if _is_respelled(chunk) or any(key in chunk for key in CLIENT_ONLY):
        return True
    candidates = chunk.get("candidates")
    for candidate in candidates if isinstance(candidates, list | tuple) else ():
        if not isinstance(candidate, Mapping):
            continue
        if _is_respelled(candidate):
            return True
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, Mapping) else None
        for part in parts if isinstance(parts, list | tuple) else ():
            if isinstance(part, Mapping) and _is_respelled(part):
                return True
    return False


def _is_respelled(fields: Mapping[str, Any]) -> bool:
    return not RESPELLED.isdisjoint(fields)


def as_on_wire(chunk: JSON) -> JSON:
    """The same chunk in the names of the wire, without what was not said. Leaves the given one as it is."""
    # Something of the user's own may be among the arguments; the names can be put right all the same.
    with suppress(TypeError, ValueError, RecursionError):
        chunk = msgspec.to_builtins(chunk)  # bytes, enums, times
    respelled: JSON = _respelled(chunk)
    return {key: value for key, value in respelled.items() if key not in CLIENT_ONLY}


def _respelled(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_respelled(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    out: JSON = {}
    for key, item in value.items():
        if item is None and (key != "nullValue" or "stringValue" in value):
            continue  # an argument that is null says so alone
        name = _UNDERSCORE.sub(lambda match: match[1].upper(), key)
        if name in BINARY and isinstance(item, str):
            out[name] = item.translate(STANDARD)
        else:
            out[name] = item if name in FREE else _respelled(item)
    return out
