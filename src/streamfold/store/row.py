"""One row of the log: what a list or a chart asks for in columns, everything else in `record`.

`record` is the whole `AccumulatedData` as JSON, so that no question is impossible later; the columns repeat what is
asked often. They are read from the record and nothing else, hence never say more than it does.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamfold.types import AccumulatedData

__all__ = ["HEAVY", "LogRow", "row_of"]

HEAVY: Final = ("record", "request")
"""The columns that lists leave out."""

_INT64: Final = 2**63 - 1


class LogRow(msgspec.Struct, kw_only=True):
    """One request and how it ended, streamed or not. `created` is RFC 3339 UTC, durations milliseconds, cost USD."""

    id: str
    created: str
    upstream: str | None = None
    method: str | None = None
    path: str | None = None
    http_status: int | None = None
    stream: bool = False
    format: str | None = None
    stream_type: str | None = None
    provider: str | None = None
    model: str | None = None
    response_model: str | None = None
    status: str = "error"
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: float | None = None
    latency_ms: float | None = None
    time_to_first_chunk_ms: float | None = None
    time_to_first_token_ms: float | None = None
    time_to_first_content_ms: float | None = None
    chunks: int = 0
    error_type: str | None = None
    error_message: str | None = None
    request_bytes: int | None = None
    """Size of the whole request body; `request` may hold less of it."""
    record: str | None = None
    """The `AccumulatedData` as JSON."""
    request: str | None = None
    """The request body, if it was JSON, up to a limit."""

    @property
    def size(self) -> int:
        """About how many bytes the row holds while it waits to be written."""
        return 1024 + len(self.record or "") + len(self.request or "")


def row_of(data: AccumulatedData, **about: Any) -> LogRow:
    """The row of a finished response. `about` gives the columns that the response does not know, such as `path`."""
    usage, error = data.token_usage, data.error_details
    prompt = usage.prompt_tokens_details if usage is not None else None
    completion = usage.completion_tokens_details if usage is not None else None
    return LogRow(
        id=data.request_id or "",
        created=data.start_timestamp or "",
        stream=data.stream,
        format=_text(data.format),
        stream_type=_text(data.stream_type),
        provider=_text(data.provider),
        model=_text(data.model),
        response_model=_text(data.response_model),
        status=data.status,
        finish_reason=_text(data.finish_reason),
        prompt_tokens=_int(usage and usage.prompt_tokens),
        completion_tokens=_int(usage and usage.completion_tokens),
        total_tokens=_int(usage and usage.total_tokens),
        cached_tokens=_int(prompt and prompt.cached_read_tokens),
        reasoning_tokens=_int(completion and completion.reasoning_tokens),
        cost=data.cost.total_cost if data.cost is not None else None,
        latency_ms=data.latency_ms,
        time_to_first_chunk_ms=data.time_to_first_chunk_ms,
        time_to_first_token_ms=data.time_to_first_token_ms,
        time_to_first_content_ms=data.time_to_first_content_ms,
        chunks=data.chunks,
        error_type=_text(error and (error.type or error.code)),
        error_message=_text(error and error.message),
        record=msgspec.json.encode(data).decode(),
        **about,
    )


def _text(value: Any) -> str | None:
    """What a text column can hold. Providers put numbers and objects where their own documents promise a string."""
    if value is None:
        return None
    return str(value).encode("utf-8", "replace").decode()


def _int(value: Any) -> int | None:
    """What an integer column can hold; the record keeps the number as it was said."""
    return value if isinstance(value, int) and abs(value) <= _INT64 else None
