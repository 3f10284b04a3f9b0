"""One row of the log: what a list or a chart asks for in columns, everything else in `record`.

`record` is the whole `AccumulatedData` as JSON, so that no question is impossible later; the columns repeat what is
asked often. They are read from the record and nothing else, hence never say more than it does.

A request has one row at any time, and the row has a `revision`: a later revision replaces an earlier one, an earlier
one never replaces a later one, whatever the order in which they reach the database. So a row may be sent again (after
a crash, by two writers) without harm, and a stream that was given up for dead and then ends after all gets its real
end.

A finished row may change twice more: it gets another price, its content is removed. Whoever does that has read the row
before, and another may do so at the same time; so the two never write the same revision (`repriced` gives even ones,
`stripped` odd ones), and of two that began with the same row the one without content is the higher.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamfold.types import AccumulatedData

__all__ = ["FINAL", "HEAVY", "RECOVERED", "STARTED", "LogRow", "repriced", "row_of", "stripped"]

STARTED: Final = 0
"""The revision of a row whose request has begun (status `processing`). Checkpoints count up from it."""
RECOVERED: Final = 1_000_000
"""The revision of a row that was closed as `abandoned` because its writer died."""
FINAL: Final = 2_000_000
"""The revision of a finished row. The next one is the same with guessed tokens; later changes count up from there."""

HEAVY: Final = ("search_text", "arrivals", "headers", "params", "tools", "request", "record")
"""The columns that lists leave out."""

_INT64: Final = 2**63 - 1


class LogRow(msgspec.Struct, kw_only=True):
    """One request and how it ended, streamed or not.

    Timestamps are RFC 3339 UTC with milliseconds, durations milliseconds, costs USD. `status` is an outcome, or
    `processing` while the request is under way. Columns that are null were not said by anybody.
    """

    id: str
    created: str
    revision: int = FINAL
    ended: str | None = None
    instance: str | None = None
    """The process that writes this row, as long as it is not finished."""

    upstream: str | None = None
    method: str | None = None
    path: str | None = None
    http_status: int | None = None
    client: str | None = None
    """The name of the access key that the caller used."""
    user_agent: str | None = None
    parent_id: str | None = None
    """The request that this one is a retry or fallback of."""
    attempt: int = 0
    session_id: str | None = None
    trace_id: str | None = None

    stream: bool = False
    format: str | None = None
    stream_type: str | None = None
    provider: str | None = None
    model: str | None = None
    response_model: str | None = None
    response_id: str | None = None
    service_tier: str | None = None
    status: str = "error"
    finish_reason: str | None = None
    raw_finish_reason: str | None = None
    tool_names: str | None = None
    """The names of the tools that the model called, in order, separated by commas."""
    cache_hit: str | None = None
    """The kind of a semantic cache's hit."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    cached_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_source: str | None = None
    estimated_prompt_tokens: int | None = None
    estimated_completion_tokens: int | None = None
    """Guesses for a stream that ended before its usage came; never mixed with what was said."""
    cost: float | None = None
    input_cost: float | None = None
    output_cost: float | None = None
    additional_cost: float | None = None
    cost_source: str | None = None
    cost_complete: bool | None = None
    cost_reason: str | None = None

    latency_ms: float | None = None
    time_to_first_chunk_ms: float | None = None
    time_to_first_token_ms: float | None = None
    time_to_first_content_ms: float | None = None
    time_per_output_token_ms: float | None = None
    max_gap_ms: float | None = None
    chunks: int = 0
    anomalies: int = 0
    """How many things `integrity` has to tell."""

    error_type: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    request_bytes: int | None = None
    """Size of the whole request body; `request` may hold less of it."""
    response_bytes: int | None = None
    metadata: str | None = None
    """A JSON object of strings that the caller attached."""

    search_text: str | None = None
    """What text search looks at: the last words of the user and the answer, up to a limit."""
    arrivals: str | None = None
    """When the pieces of the answer came: a JSON array of milliseconds since the start, thinned out to a limit."""
    headers: str | None = None
    """The request headers on the allow list, as a JSON object."""
    params: str | None = None
    """The request's parameters (temperature and so on), as a JSON object."""
    tools: str | None = None
    """The tools that the request offered, as JSON."""
    request: str | None = None
    """The request body, if it was JSON, up to a limit."""
    record: str | None = None
    """The `AccumulatedData` as JSON."""

    @property
    def size(self) -> int:
        """About how many bytes the row holds while it waits to be written."""
        return 1024 + sum(len(getattr(self, name) or "") for name in HEAVY)


def repriced(revision: Any) -> Any:
    """The revision of a row with another price: a number from a number, an SQL expression from a column."""
    return revision - revision % 2 + 2


def stripped(revision: Any) -> Any:
    """The revision of a row without its content; higher than what `repriced` gives for this or any earlier one."""
    return repriced(revision) + 1


def row_of(data: AccumulatedData, *, record: str | None = None, **about: Any) -> LogRow:
    """The row of a finished response.

    `about` gives the columns that the response does not know, such as `path`; `record` the JSON to keep instead of
    the whole of `data`, for a caller that has taken something out of it.
    """
    usage, error, cost = data.token_usage, data.error_details, data.cost
    prompt = usage.prompt_tokens_details if usage is not None else None
    completion = usage.completion_tokens_details if usage is not None else None
    return LogRow(
        id=data.request_id or "",
        created=data.start_timestamp or "",
        ended=data.end_timestamp,
        stream=data.stream,
        format=_text(data.format),
        stream_type=_text(data.stream_type),
        provider=_text(data.provider),
        model=_text(data.model),
        response_model=_text(data.response_model),
        response_id=_text(data.response_id),
        service_tier=_text(data.service_tier),
        status=data.status,
        finish_reason=_text(data.finish_reason),
        raw_finish_reason=_text(data.raw_finish_reason),
        tool_names=_tool_names(data),
        cache_hit=_text(data.cache_debug and data.cache_debug.cache_hit and (data.cache_debug.hit_type or "hit")),
        prompt_tokens=_int(usage and usage.prompt_tokens),
        completion_tokens=_int(usage and usage.completion_tokens),
        total_tokens=_int(usage and usage.total_tokens),
        cached_tokens=_int(prompt and prompt.cached_read_tokens),
        cached_write_tokens=_int(prompt and prompt.cached_write_tokens),
        reasoning_tokens=_int(completion and completion.reasoning_tokens),
        usage_source=usage.source if usage is not None else "missing",
        cost=cost.total_cost if cost is not None else None,
        input_cost=cost.input_cost if cost is not None else None,
        output_cost=cost.output_cost if cost is not None else None,
        additional_cost=cost.additional_cost if cost is not None else None,
        cost_source=cost.source if cost is not None else None,
        cost_complete=cost.complete if cost is not None else None,
        cost_reason=_text(data.cost_reason),
        latency_ms=data.latency_ms,
        time_to_first_chunk_ms=data.time_to_first_chunk_ms,
        time_to_first_token_ms=data.time_to_first_token_ms,
        time_to_first_content_ms=data.time_to_first_content_ms,
        time_per_output_token_ms=data.time_per_output_token_ms,
        max_gap_ms=data.max_gap_ms,
        chunks=data.chunks,
        anomalies=len(data.integrity.anomalies),
        error_type=_text(error and (error.type or error.code)),
        error_code=_text(error and error.code),
        error_message=_text(error and error.message),
        record=record if record is not None else msgspec.json.encode(data).decode(),
        **about,
    )


def _tool_names(data: AccumulatedData) -> str | None:
    names = [call.function.name for call in data.tool_calls or () if call.function and call.function.name]
    return ",".join(str(_text(name)) for name in names) or None


def _text(value: Any) -> str | None:
    """What a text column can hold. Providers put numbers and objects where their own documents promise a string.

    A NUL is no character of a text in PostgreSQL, and half of a surrogate pair is none anywhere.
    """
    if value is None or value is False:
        return None
    return str(value).replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _int(value: Any) -> int | None:
    """What an integer column can hold; the record keeps the number as it was said."""
    return value if isinstance(value, int) and abs(value) <= _INT64 else None
