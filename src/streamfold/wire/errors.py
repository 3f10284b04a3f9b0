"""Errors that arrive where a response was expected, in all their spellings.

A provider that has said HTTP 200 can only report a failure inside the stream, and each does it in its own way:
`{"error": {...}}` (OpenAI, Anthropic, Gemini), `{"error": "text"}` (Ollama), `{"error": "text", "error_type": ...}`
(TGI), `{"object": "error", "message": ...}` (vLLM), `{"detail": ...}` (a Python server), `{"base_resp":
{"status_code": 1008, "status_msg": ...}}` (MiniMax, where the code is its own and 0 is none), `{"errors": [{...}]}`
(watsonx, Cloudflare), `{"error_code": ..., "message": ...}` (Databricks, ERNIE, FastChat), an SSE event named `error`
with anything in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamfold.growth import json_text
from streamfold.types import ErrorDetails

__all__ = ["error_details", "error_of", "retryable"]

_STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""HTTP status of the error types that OpenAI's and Anthropic's documents give one for."""


_STATUS_OF_TGI = {
    "overloaded": 429,
    "validation": 422,
    "template_error": 422,
    "missing_template_variable": 422,
    "tool_error": 422,
    "generation": 424,
    "incomplete_generation": 500,
}
"""HTTP status that TGI (and servers that grew from it) answer with for an `error_type`."""


BARE = frozenset(
    {"message", "code", "type", "status", "status_code", "param", "request_id", "requestId", "detail"}
    | {"msg", "sid", "success", "data"}  # Zhipu, Spark and SiliconFlow
    | {"reason", "metadata", "statusCode", "__type"}  # Novita, Azure's gateway, AWS
    | {"title", "instance"}  # RFC 9457 (Replicate)
)
"""Fields of an error that stands in the place of a response without an envelope."""

AROUND_ERRORS = frozenset({"errors", "trace", "status_code", "success", "messages", "result"})
"""Fields of an object that is a list of errors; beside other fields such a list may tell of parts that failed."""

MESSAGES = ("message", "detail", "error", "msg", "status_msg", "error_msg", "error_message", "text")
"""Where errors say what happened; the last is FastChat's."""


def error_of(event: Mapping[str, Any], name: str | None = None) -> Any:
    """The error inside a frame, or None. `name` is the frame's SSE event name."""
    error = event.get("error")
    if error and not _is_blank(error):
        # Anthropic (and gateways that copy it) name the request beside the error.
        return event if error is True else error
    if isinstance(outcome := event.get("base_resp"), dict) and outcome.get("status_code"):
        return outcome
    if event.get("object") == "error" or event.get("type") == "error" or name == "error":
        return event
    if event.keys() <= BARE and (event.get("detail") or _is_bare(event)):
        return event
    if event.get("error_code") and "choices" not in event and any(isinstance(event.get(key), str) for key in MESSAGES):
        return event
    if event.keys() <= AROUND_ERRORS and not event.get("result") and _listed(event):
        return event
    return None


def _listed(error: Mapping[str, Any]) -> Any:
    """The first of several errors, if these are several."""
    errors = error.get("errors")
    return errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else None


def _is_blank(error: Any) -> bool:
    """Whether an error object says nothing in any field, as some gateways have it on every frame."""
    return isinstance(error, dict) and not any(error.values())


def _is_bare(event: Mapping[str, Any]) -> bool:
    """Whether an object is an error without an envelope: a message and a code, and nothing of a response."""
    if event.get("data") or event.get("success") is True:
        return False
    says_code = any(event.get(key) for key in CODES)
    message = event.get("message") or event.get("msg")
    return bool(says_code and isinstance(message, str) and message)


CODES = ("code", "error_code", "__type", "status", "status_code", "statusCode")
"""Where errors have their code or the HTTP status; the third is AWS's."""

NESTED = 8
"""Levels at which an error inside an error is looked for."""


def error_details(error: Any, *, status: int | None = None, beside: Mapping[str, Any] | None = None) -> ErrorDetails:
    """An error in any spelling as the record has it. Nothing is invented: what was not said stays null.

    `beside` is the object that the error was a field of: where the error is a mere text, its type stands there (TGI).
    So may the HTTP status.
    """
    if isinstance(error, ErrorDetails):
        return error
    if isinstance(error, BaseException):
        return _raised(error, status)
    for _ in range(NESTED):
        if not isinstance(error, dict) or not isinstance(error.get("error"), dict):
            break
        status = status if status is not None else _int(error.get("status_code"))
        error = error["error"]
    if not isinstance(error, dict):
        beside = beside or {}
        kind, code = _text(beside.get("error_type")), beside.get("code")
        if status is None:
            status = _STATUS_OF_TGI.get(kind or "") or _status_in(beside)
        return ErrorDetails(
            type=kind,
            code=_text(code) if _http(code) is None else None,  # xAI says it in words there
            message=_message(error),
            status_code=status,
            retryable=retryable(status),
        )
    if "message" not in error and (first := _listed(error)) is not None:
        status = status if status is not None else _int(error.get("status_code"))
        error = first
    kind = _text(error.get("type")) or _text(error.get("status"))
    code = next((code for key in ("code", "error_code", "__type") if (code := _text(error.get(key)))), None)
    if code is None and "status_msg" in error:
        code = _text(error.get("status_code"))
    if status is None:
        for name in ("status_code", "raw_status_code", "http_status_code"):  # the latter are Mistral's and TGI's
            status = status or _int(error.get(name))
        status = status or _status_in(error)
    if status is None:
        status = _STATUS_OF.get(code or "") or _STATUS_OF.get(kind or "") or _status_in(beside or {})
    said = (error.get(key) for key in MESSAGES)
    return ErrorDetails(
        type=kind,
        code=code,
        message=_message(next((each for each in said if each), None)),
        status_code=status,
        param=_text(error.get("param")),
        retryable=retryable(status),
    )


def _raised(error: BaseException, status: int | None) -> ErrorDetails:
    """An exception, and what providers' clients hang on it: the status and the body of the answer.

    `status_code` and `body` are OpenAI's and Anthropic's, `code` and `details` Google's, `response` is botocore's.
    """
    for name in ("status_code", "code"):
        status = status if status is not None else _int(getattr(error, name, None))
    said = ErrorDetails()
    response = getattr(error, "response", None)
    if isinstance(response, dict) and isinstance(response.get("Error"), dict):
        told, metadata = response["Error"], response.get("ResponseMetadata")
        status = status if status is not None else _int((metadata or {}).get("HTTPStatusCode"))
        said = error_details({"code": told.get("Code"), "message": told.get("Message")}, status=status)
    for name in ("body", "details"):
        body = getattr(error, name, None)
        if isinstance(body, dict) and body:
            said = error_details(body, status=status)
            break
    status = said.status_code if said.status_code is not None else status
    return ErrorDetails(
        type=said.type or type(error).__name__,
        code=said.code,
        message=said.message or str(error) or None,
        status_code=status,
        param=said.param,
        retryable=retryable(status),
    )


def retryable(status: int | None) -> bool | None:
    """Whether the same request may succeed later, as far as the status tells; None when there is no status."""
    if status is None:
        return None
    return status in (408, 409, 425, 429) or status >= 500


def _message(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json_text(value)


def _text(value: Any) -> str | None:
    if value is None or value in ("", "None") or isinstance(value, dict | list):  # LiteLLM writes its nulls that way
        return None
    return str(value)


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 999 else None


def _status_in(fields: Mapping[str, Any]) -> int | None:
    """The first code that is an HTTP status."""
    return next((status for key in CODES if (status := _http(fields.get(key))) is not None), None)


def _http(value: Any) -> int | None:
    """A code that is an HTTP status (OpenRouter and Gemini put it there)."""
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599 else None
