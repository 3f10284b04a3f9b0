"""From a request and its response to the row that is stored.

What is known of the request is prepared once (`Asked`), when the request begins, and used for every revision of its
row: the one that says it has begun, the checkpoints, the final one. All that becomes of content on the way is in
`content.py`; here is decided what is content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import sub
from typing import Any, Final

import msgspec

from streamfold.hooks import RequestContext
from streamfold.plugins.logging import request as asked
from streamfold.plugins.logging.config import LoggingConfig
from streamfold.plugins.logging.content import SHORT, Cleaner, Redact, encoded, struck_out
from streamfold.plugins.logging.patterns import Patterns
from streamfold.plugins.logging.shorten import fitting
from streamfold.store.row import FINAL, HEAVY, STARTED, LogRow, row_of
from streamfold.timestamps import utc
from streamfold.types import AccumulatedData, Cost, ErrorDetails, FunctionCall, ToolCall
from streamfold.wire.fold import decode

__all__ = ["Asked", "RowMaker", "arrivals_text", "lighter", "without_content"]

SEARCH_BYTES: Final = 32 * 1024
"""Bytes of `search_text`: one half for the question, the other for the answer."""
LIGHT_BYTES: Final = 8 * 1024
"""Bytes of any column that lists show."""
ARRIVALS: Final = 500
_INT64: Final = 2**63 - 1

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_NOT_OURS_TO_TOUCH: Final = frozenset((*HEAVY, "created", "ended", "instance"))
_LIGHT_TEXTS: Final = tuple(
    field.name
    for field in msgspec.structs.fields(LogRow)
    if field.type in (str, str | None) and field.name not in _NOT_OURS_TO_TOUCH
)
_OTHERS: Final = tuple(
    (field.name, kind, None if field.default is None else kind())
    for field in msgspec.structs.fields(LogRow)
    for kind in (int, float, bool)
    if field.type in (kind, kind | None)
)
"""The columns that are no texts: name, type, and what they hold in place of a value of another type."""
_QUOTING: Final = (
    "error_type",
    "error_code",
    "error_message",
    "user_agent",
    "session_id",
    "path",
    "tool_names",
)
"""The columns of lists that may quote what somebody said; patterns apply to them."""

_AS_SAID: Final = frozenset(
    (
        "request_id", "stream_type", "format", "provider", "model", "response_model", "status", "start_timestamp",
        "end_timestamp", "token_usage", "estimated_usage", "cost", "cost_reason", "integrity", "cache_debug",
    )
)  # fmt: skip
"""Fields of the record that hold no content and are not touched."""
_OPEN: Final = frozenset(("response", "output_messages", "transcription_output", "image_generation_output"))
"""Fields of the record that are JSON of the provider, where a number may be content too."""


class Asked(msgspec.Struct):
    """What is stored of a request, ready for the row."""

    created: str
    columns: dict[str, Any]
    words: str | None = None
    """The last words of the user, for the search."""
    as_it_came: bool = False
    """Whether the body is stored byte for byte: then it is not held here a second time."""
    with_content: bool = True
    model: str | None = None
    stream: bool = False


class RowMaker:
    """Makes rows by one configuration. Safe to use from any thread."""

    def __init__(self, config: LoggingConfig) -> None:
        self._content = config.content
        self._headers = tuple(name.lower() for name in config.headers)
        self._labels = config.metadata
        self._patterns = Patterns(config.redact)
        self._cleaner = Cleaner(self._patterns, config.binary, config.max_content_bytes)
        self._drops_pieces = self.waits
        self._digests = config.binary == "digest"

    @property
    def waits(self) -> bool:
        """Whether a row may take long to make: then not where the traffic runs."""
        return bool(self._patterns)

    @property
    def withheld(self) -> int:
        """Texts that are not stored, because the patterns took too long for them."""
        return self._patterns.withheld

    def close(self) -> None:
        """Ends what the patterns run in."""
        self._patterns.close()

    # ------------------------------------------------------------------ the request

    def ask(self, ctx: RequestContext, request: Any = None) -> Asked:
        """Reads the request. `request` is what the hook was given, `ctx.request` if that is None."""
        found = Asked(
            created=utc(ctx.started_at), columns={}, with_content=self._content and ctx.log_content is not False
        )
        request = request if request is not None else ctx.request
        body = ctx.request_body
        if body is None and request is not None:
            body = encoded(request).encode()
            request = None  # what is not JSON in it has become JSON now
        if request is None and body is not None:
            request = _decoded(body)
        if isinstance(request, dict):
            found.model = request["model"] if isinstance(request.get("model"), str) else None
            found.stream = request.get("stream") is True
        if body is not None:
            self._add_request(found, ctx, body, request)
        self._add_labels(found, ctx)
        return found

    def _add_request(self, found: Asked, ctx: RequestContext, body: bytes, request: Any) -> None:
        cleaner, redact, columns = self._cleaner, ctx.redact, found.columns
        if not found.with_content:
            columns["params"] = self._json(asked.plain_parameters(request), redact)
            columns["tools"] = self._json(asked.tool_names(request), redact)
            return
        text = body.decode("utf-8", "replace")
        if request is None:
            columns["request"] = cleaner.broken(text, redact)
            return
        strict = _is_strict(body)
        if not strict:
            text = encoded(request)
        clean = cleaner.walk(request) if cleaner.must_walk(text) else request
        kept = cleaner.column(text if clean is request else encoded(clean), redact)
        found.as_it_came = strict and body is ctx.request_body and kept == text
        if not found.as_it_came:
            columns["request"] = kept
        columns["params"] = self._json(asked.parameters(clean), redact)
        columns["tools"] = self._json(asked.tools(clean), redact)
        found.words = asked.last_words(clean)

    def _add_labels(self, found: Asked, ctx: RequestContext) -> None:
        headers = {name: ctx.request_headers[name] for name in self._headers if name in ctx.request_headers}
        if headers:
            found.columns["headers"] = self._json(self._texts(headers), ctx.redact)
        labels = {**self._labels, **(ctx.metadata or {})}
        if labels:
            # Databases look into this one, and not all of their JSON knows NUL.
            clean = {_clean(str(name)): _clean(str(value)) for name, value in labels.items()}
            found.columns["metadata"] = self._json(self._texts(clean), ctx.redact)

    def _texts(self, values: dict[str, Any]) -> dict[str, str]:
        texts = self._patterns.strike([str(text) for item in values.items() for text in item])
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def _json(self, value: Any, redact: Redact | None) -> str | None:
        return self._cleaner.column(encoded(value), redact) if value is not None else None

    # ------------------------------------------------------------------ rows

    def started(self, ctx: RequestContext, found: Asked, instance: str | None) -> LogRow:
        """The row of a request that has begun."""
        row = LogRow(
            id=str(ctx.request_id),
            created=found.created,
            revision=STARTED,
            instance=instance,
            status="processing",
            stream=ctx.stream if ctx.stream is not None else found.stream,
            format=ctx.format,
            provider=ctx.provider,
            model=ctx.model or found.model,
            usage_source="missing",
            search_text=self._search(ctx, found, None),
            **_columns(ctx, found),
        )
        return self._told(row, ctx)

    def checkpoint(
        self,
        ctx: RequestContext,
        found: Asked,
        data: AccumulatedData,
        instance: str | None,
        revision: int,
        arrivals: Sequence[int] | None = None,
    ) -> LogRow:
        """The row of a stream under way, with the answer so far."""
        row = self._row(ctx, found, data, arrivals)
        row.status, row.instance, row.revision = "processing", instance, revision
        return row

    def final(
        self, ctx: RequestContext, found: Asked, data: AccumulatedData, arrivals: Sequence[int] | None = None
    ) -> LogRow:
        """The row of a response that has ended."""
        row = self._row(ctx, found, data, arrivals)
        row.revision = FINAL
        return row

    def record(self, ctx: RequestContext, found: Asked, data: AccumulatedData) -> str:
        """The record as it is stored."""
        if not found.with_content:
            return self._cleaner.column(encoded(without_content(data)), ctx.redact)
        text = encoded(data)
        binary = data.audio_output is not None or data.passthrough_output is not None
        taped = data.raw_response is not None
        if self._drops_pieces or (self._digests and binary) or taped or self._cleaner.must_walk(text):
            text = encoded(self._clean_record(data, ctx.redact))
        return self._cleaner.column(text, ctx.redact)

    def _clean_record(self, data: AccumulatedData, redact: Redact | None) -> dict[str, Any]:
        tree: dict[str, Any] = msgspec.to_builtins(data, builtin_types=(bytes,), str_keys=True, enc_hook=str)
        tape = tree.pop("raw_response", None)
        if self._drops_pieces:
            tree["logprobs"] = None
        names = [name for name, value in tree.items() if value is not None and name not in _AS_SAID]
        clean = self._cleaner.walk_each([(tree[name], name in _OPEN) for name in names])
        tree.update(zip(names, clean, strict=True))
        return {**tree, "raw_response": self._clean_tape(tape, redact)} if tape is not None else tree

    def _clean_tape(self, tape: str, redact: Redact | None) -> str | None:
        """The frames, each JSON. Binary comes in crumbs there, hence the shorter limit.

        Credentials are struck out here, where the tape is JSON as we spell it: in the record it is JSON in JSON, and
        the provider may spell a character in other ways.
        """
        if self._drops_pieces:
            return None
        frames = _decoded(tape.encode("utf-8", "replace"))
        if frames is None:
            return None
        text = encoded(self._cleaner.digested(frames, shortest=SHORT) if self._digests else frames)
        return struck_out(text, redact) if redact is not None else text

    def _row(self, ctx: RequestContext, found: Asked, data: AccumulatedData, arrivals: Sequence[int] | None) -> LogRow:
        shown = data if found.with_content else without_content(data)
        row = row_of(shown, record=self.record(ctx, found, data), **_columns(ctx, found))
        row.id, row.created = str(ctx.request_id), found.created
        row.search_text = self._search(ctx, found, shown)
        row.arrivals = arrivals_text(arrivals)
        row.model = row.model or ctx.model or found.model
        row.provider = row.provider or ctx.provider
        guess = data.estimated_usage
        if guess is not None:
            row.estimated_prompt_tokens, row.estimated_completion_tokens = guess.prompt_tokens, guess.completion_tokens
        return self._told(row, ctx)

    def _told(self, row: LogRow, ctx: RequestContext) -> LogRow:
        """Adds what only the context knows, and makes every short column fit to be stored."""
        row.upstream, row.method, row.path, row.client = ctx.upstream, ctx.method, ctx.path, ctx.client
        row.http_status, row.request_bytes, row.response_bytes = ctx.http_status, ctx.request_bytes, ctx.response_bytes
        row.parent_id, row.attempt, row.session_id = ctx.parent_id, ctx.attempt, ctx.session_id
        row.user_agent = ctx.request_headers.get("user-agent")
        trace = _TRACEPARENT.fullmatch(ctx.traceparent) if ctx.traceparent else None
        row.trace_id = trace[1] if trace is not None else None
        self._fit_short_columns(row, ctx.redact)
        return row

    def _fit_short_columns(self, row: LogRow, redact: Redact | None) -> None:
        said = {name: value for name in _LIGHT_TEXTS if (value := getattr(row, name)) is not None}
        texts = {name: value if type(value) is str else str(value) for name, value in said.items()}
        quoting = [name for name in _QUOTING if name in texts]
        texts.update(zip(quoting, self._patterns.strike([texts[name] for name in quoting]), strict=True))
        if redact is not None:
            together = "\0".join(texts.values())
            if redact(together) != together:  # seldom, and one look is much cheaper than one for each column
                texts = {name: text if name == "id" else redact(text) for name, text in texts.items()}
        for name, text in texts.items():
            if len(text) > LIGHT_BYTES:
                text = self._cleaner.column(text, None) if name == "metadata" else fitting(text, LIGHT_BYTES)
            text = _clean(text)
            if text is not said[name]:
                setattr(row, name, text)
        for name, kind, instead in _OTHERS:
            value = getattr(row, name)
            if value is not instead and not _fits(value, kind):
                setattr(row, name, instead)

    def _search(self, ctx: RequestContext, found: Asked, data: AccumulatedData | None) -> str | None:
        if not found.with_content:
            return None
        said = [found.words, _answer(data) if data is not None else None]
        texts = []
        for text in self._cleaner.texts([text for text in said if text]):
            text = ctx.redact(text) if ctx.redact is not None else text
            texts.append(_clean(fitting(text, min(SEARCH_BYTES, self._cleaner.max_bytes) // 2 - 1)))
        return "\n".join(texts) or None


def _columns(ctx: RequestContext, found: Asked) -> dict[str, Any]:
    if not found.as_it_came or ctx.request_body is None:
        return found.columns
    return {**found.columns, "request": ctx.request_body.decode("utf-8", "replace")}


def lighter(row: LogRow, size: int) -> LogRow:
    """The same row with content columns of no more than `size` bytes each; without them if it is 0."""
    cleaner = Cleaner(Patterns([]), "keep", size)
    slim: dict[str, str | None] = dict.fromkeys(HEAVY)
    for name in HEAVY if size else ():
        text = getattr(row, name)
        if text is not None:
            slim[name] = fitting(text, size) if name == "search_text" else cleaner.column(text, None)
    return msgspec.structs.replace(row, **slim)


def without_content(data: AccumulatedData) -> AccumulatedData:
    """The record with figures, names and codes, and nothing that anybody said."""
    error, cost, usage = data.error_details, data.cost, data.token_usage
    return AccumulatedData(
        request_id=data.request_id,
        stream_type=data.stream_type,
        format=data.format,
        provider=data.provider,
        model=data.model,
        response_model=_word(data.response_model),
        stream=data.stream,
        status=data.status,
        tool_calls=[_name_only(call) for call in data.tool_calls] if data.tool_calls is not None else None,
        arguments_complete=data.arguments_complete,
        finish_reason=_word(data.finish_reason),
        raw_finish_reason=_word(data.raw_finish_reason),
        token_usage=msgspec.structs.replace(usage, server_tool_use=_figures(usage.server_tool_use)) if usage else None,
        cost=_cost_only(cost) if cost is not None else None,
        cost_reason=data.cost_reason,
        estimated_usage=data.estimated_usage,
        latency_ms=data.latency_ms,
        time_to_first_chunk_ms=data.time_to_first_chunk_ms,
        time_to_first_token_ms=data.time_to_first_token_ms,
        time_to_first_content_ms=data.time_to_first_content_ms,
        time_per_output_token_ms=data.time_per_output_token_ms,
        max_gap_ms=data.max_gap_ms,
        chunks=data.chunks,
        start_timestamp=data.start_timestamp,
        end_timestamp=data.end_timestamp,
        error_details=_kind_only(error) if error is not None else None,
        cache_debug=data.cache_debug,
        service_tier=_word(data.service_tier),
        response_id=_word(data.response_id),
        system_fingerprint=_word(data.system_fingerprint),
        integrity=data.integrity,
    )


def _word(value: Any) -> str | None:
    return value if asked.is_word(value) else None


def _name_only(call: ToolCall) -> ToolCall:
    name = _word(call.function.name) if call.function is not None else None
    return ToolCall(
        index=call.index,
        type=_word(call.type),
        function=FunctionCall(name=name) if name else None,
        arguments_complete=call.arguments_complete,
    )


def _kind_only(error: ErrorDetails) -> ErrorDetails:
    return msgspec.structs.replace(error, type=_word(error.type), code=_word(error.code), message=None, param=None)


def _cost_only(cost: Cost) -> Cost:
    return cost if cost.source == "catalog" else msgspec.structs.replace(cost, details=_figures(cost.details))


def _figures(value: Any) -> Any:
    """The numbers of a JSON object."""
    if isinstance(value, dict):
        kept = {key: _figures(item) for key, item in value.items() if asked.is_word(key)}
        return {key: item for key, item in kept.items() if item is not None or value[key] is None}
    return value if isinstance(value, int | float) else None


def _answer(data: AccumulatedData) -> str | None:
    """The text of an answer, the visible part first."""
    texts: list[Any] = []
    message = data.output_message
    if message is not None:
        audio = message.audio
        texts = [message.content, message.refusal, audio.transcript if audio is not None else None, message.reasoning]
    if isinstance(data.transcription_output, dict):
        texts.append(data.transcription_output.get("text"))
    return "\n".join(text for text in texts if isinstance(text, str) and text) or None


def arrivals_text(arrivals: Sequence[int] | None) -> str | None:
    """Nanoseconds since the start as a JSON array of milliseconds: the first, the last, and those around the longest
    gaps, in order, `ARRIVALS` of them at most."""
    if not arrivals:
        return None
    kept: Sequence[int] = arrivals
    if len(arrivals) > ARRIVALS:
        gaps = list(map(sub, arrivals[1:], arrivals))
        places = {0, len(arrivals) - 1}
        for at in sorted(range(len(gaps)), key=gaps.__getitem__, reverse=True):
            if len(places) > ARRIVALS - 2:
                break
            places.add(at)
            places.add(at + 1)
        kept = [arrivals[at] for at in sorted(places)]
    # Whole numbers are rounded, for this is done for every chunk of every stream, and `round` takes five times as long.
    return encoded([(at + 50_000) // 100_000 / 10 for at in kept])


def _decoded(body: bytes) -> Any:
    try:
        return decode(body)
    except (ValueError, RecursionError):
        return None


def _fits(value: Any, kind: type) -> bool:
    """Whether a column of this type can hold a value. Callers and providers put all kinds of things everywhere."""
    if kind is int:
        return type(value) is int and abs(value) <= _INT64
    return type(value) is kind or (kind is float and type(value) is int and abs(value) <= _INT64)


def _is_strict(body: bytes) -> bool:
    """Whether a body is JSON for everybody: Python also takes NaN and halves of characters for it."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
        if b"\\ud" in body or b"\\uD" in body:
            msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return False
    return True


def _clean(text: str) -> str:
    """A text that is text in every database: no NUL, no half of a character."""
    if text.isascii() and "\0" not in text:
        return text
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
