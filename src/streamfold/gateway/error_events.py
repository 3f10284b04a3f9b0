"""How each format tells an error inside a stream that has begun.

For the ends that are the gateway's own doing (a timeout, a gate): then it may speak, and a client learns more from an
error in its own format than from a broken connection. A break of the upstream's is passed on as the break that it is.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from streamfold.types import ErrorDetails

__all__ = ["error_event"]


_SEQUENCE: Final = re.compile(rb'"sequence_number"\s*:\s*(\d+)')

GEMINI_STATUS: Final = {"timeout": (504, "DEADLINE_EXCEEDED")}


def error_event(format: str, content_type: str, error: ErrorDetails, last: bytes = b"") -> bytes | None:
    """An error as a stream of this format tells it; None if it has no way to, or not after half an event.

    `content_type` is the stream's, `last` what of it was sent last.
    """
    kind = content_type.partition(";")[0].strip().lower()
    write = EVENTS.get(kind, {}).get(format)
    if write is None or (last and not _ends_whole(kind, last)):
        return None
    return write(error.type or "error", error.message or "the stream was ended", error, last)


def _ends_whole(kind: str, last: bytes) -> bool:
    if kind == "text/event-stream":
        return last.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
    if kind == "application/x-ndjson":
        return last.endswith(b"\n")
    at = 0  # AWS event stream: frames of a length each, if it begins with one at all
    while at + 12 <= len(last) and zlib.crc32(last[at : at + 8]) == int.from_bytes(last[at + 8 : at + 12], "big"):
        at += int.from_bytes(last[at : at + 4], "big")
    return at == len(last)


Writer = Callable[[str, str, ErrorDetails, bytes], bytes]


def _openai(kind: str, message: str, error: ErrorDetails, last: bytes) -> bytes:
    return _data({"error": {"message": message, "type": kind, "param": error.param, "code": error.code}})


def _openai_event(kind: str, message: str, error: ErrorDetails, last: bytes) -> bytes:
    told = {"type": kind, "code": error.code, "message": message, "param": error.param}
    return _named("error", {"type": "error", "error": told})


def _responses(kind: str, message: str, error: ErrorDetails, last: bytes) -> bytes:
    seen = _SEQUENCE.findall(last)
    number = int(seen[-1]) + 1 if seen else 0
    told = {"type": "error", "code": error.code or kind, "message": message, "param": error.param}
    return _named("error", {**told, "sequence_number": number})


def _anthropic(kind: str, message: str, error: ErrorDetails, last: bytes) -> bytes:
    return _named("error", {"type": "error", "error": {"type": kind, "message": message}})


def _gemini(kind: str, message: str, error: ErrorDetails, last: bytes) -> bytes:
    code, status = GEMINI_STATUS.get(kind, (error.status_code or 500, "INTERNAL"))
    return (
        b"data: " + msgspec.json.encode({"error": {"code": code, "message": message, "status": status}}) + b"\r\n\r\n"
    )


def _cohere(kind: str, message: str, error: ErrorDetails, last: bytes) -> bytes:
    return _named("message-end", {"type": "message-end", "delta": {"finish_reason": "ERROR", "error": message}})


def _mistral(kind: str, message: str, error: ErrorDetails, last: bytes) -> bytes:
    if b"conversation.response" in last or b'"type":' in last[:64]:
        name = "conversation.response.error"
        return _named(name, {"type": name, "message": message, "code": error.status_code or 500})
    return _openai(kind, message, error, last)


def _ollama(kind: str, message: str, error: ErrorDetails, last: bytes) -> bytes:
    return msgspec.json.encode({"error": message}) + b"\n"


def _bedrock(kind: str, message: str, error: ErrorDetails, last: bytes) -> bytes:
    name = "modelTimeoutException" if kind == "timeout" else "modelStreamErrorException"
    headers = b"".join(
        bytes([len(key)]) + key + b"\x07" + len(value).to_bytes(2, "big") + value
        for key, value in (
            (b":message-type", b"exception"),
            (b":exception-type", name.encode()),
            (b":content-type", b"application/json"),
        )
    )
    body = msgspec.json.encode({"message": message})
    prelude = (16 + len(headers) + len(body)).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    frame = prelude + zlib.crc32(prelude).to_bytes(4, "big") + headers + body
    return frame + zlib.crc32(frame).to_bytes(4, "big")


def _data(event: Any) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _named(name: str, event: Any) -> bytes:
    return b"event: " + name.encode() + b"\n" + _data(event)


EVENTS: Final[Mapping[str, Mapping[str, Writer]]] = {
    "text/event-stream": {
        "openai-chat": _openai,
        "openai-completions": _openai,
        "openai-responses": _responses,
        "openai-speech": _openai_event,
        "openai-transcription": _openai_event,
        "openai-images": _openai_event,
        "anthropic-messages": _anthropic,
        "gemini": _gemini,
        "cohere": _cohere,
        "mistral": _mistral,
    },
    "application/x-ndjson": {"ollama": _ollama},
    "application/vnd.amazon.eventstream": {"bedrock-converse": _bedrock, "bedrock-invoke": _bedrock},
}
"""Content type -> wire format -> how it writes an error. JSON arrays and bare sound have no way to."""
