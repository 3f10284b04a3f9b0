"""Sends every request to Maxim (getmaxim.ai) as a trace with one generation, through the official SDK.

    [plugins.maxim]
    repository_id = "..."        # or the environment variable MAXIM_LOG_REPO_ID

The key is read from the environment variable MAXIM_API_KEY, or the one that `api_key_env` names. What is sent when,
and what a caller can say about it, is in `docs/maxim.md`.

Of the SDK this uses what knows Maxim's protocol: traces and generations, which check and write the lines, and the
client of its API. It does not use the `Maxim` object, of which a process can have only one (the program may want it
for itself), nor the SDK's writer; why is said in `sender`.
"""

from __future__ import annotations

import atexit
import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import httpx
import msgspec
from maxim.apis import MaximAPI  # type: ignore[import-untyped]
from maxim.logger import Trace  # type: ignore[import-untyped]
from maxim.logger.components.types import CommitLog  # type: ignore[import-untyped]

from streamfold.errors import UsageError
from streamfold.hooks import Plugin, RequestContext
from streamfold.plugins.maxim.requests import last_question, messages_of, parameters_of
from streamfold.plugins.maxim.results import error_of, has_output, metrics_of, output_text, result_of
from streamfold.plugins.maxim.sender import Sender
from streamfold.plugins.maxim.texts import clean, cut, valid_id
from streamfold.processed import ProcessedStreamResponse
from streamfold.types import AccumulatedData, StreamType

__all__ = ["MaximConfig", "MaximPlugin"]

LINE: Final = 400_000
"""Bytes of the messages, and of the result, that are sent; a line takes 900,000."""
TEXT: Final = 50_000
"""Characters of a trace's input and output."""
LABEL: Final = 500
"""Characters of a tag or name."""
OWN: Final = "maxim-"
"""Metadata whose names begin so is addressed to this plugin."""
TAG: Final = "maxim-tag-"
PROVIDERS: Final = {
    "openai": "openai",
    "azure": "azure",
    "anthropic": "anthropic",
    "huggingface": "huggingface",
    "together": "together",
    "google": "google",
    "gemini": "google",
    "vertex": "google",
    "gcp": "google",
    "groq": "groq",
    "bedrock": "bedrock",
    "aws": "bedrock",
    "cohere": "cohere",
    "fireworks": "fireworks",
    "elevenlabs": "elevenlabs",
}
"""Maxim's providers, by the first word of ours (`azure-openai`, `gcp.vertex_ai`). It knows no others."""


class MaximConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `[plugins.maxim]` can say. Times in seconds."""

    repository_id: str | None = None
    """The log repository; by default what the environment variable MAXIM_LOG_REPO_ID says."""
    api_key_env: str = "MAXIM_API_KEY"
    """The environment variable that holds the key."""
    base_url: str = "https://app.getmaxim.ai"
    """Where Maxim is."""
    content: bool = True
    """False: no texts, only names, metrics, usage and cost. A request can only ask for less."""
    flush_interval_s: float = 1.0
    """How long requests are gathered before they are sent."""
    timeout_s: float = 10.0
    """For one exchange with Maxim."""
    close_timeout_s: float = 3.0
    """How long the shutdown waits for what is not sent yet."""
    max_waiting_bytes: int = 32 * 1024 * 1024
    """What may wait while Maxim is slow or away; what comes on top is dropped and counted."""


class MaximPlugin(Plugin):
    """Sends each finished request, once. Raises `UsageError` for a setting that cannot be."""

    name = "maxim"
    Config: ClassVar[type[msgspec.Struct] | None] = MaximConfig

    @staticmethod
    def check(config: MaximConfig) -> None:
        """Raises `UsageError` for settings that cannot be, or a key that is not there."""
        _checked(config)

    def __init__(self, config: MaximConfig | None = None) -> None:
        config = config or MaximConfig()
        repository, key = _checked(config)
        self._content = config.content
        self._close_timeout = config.close_timeout_s
        self._api = _api(config, key)
        self._sender = Sender(
            lambda lines: self._api.push_logs(repository, lines),
            max_bytes=config.max_waiting_bytes,
            linger=config.flush_interval_s,
        )
        atexit.register(self.close)

    @property
    def waiting(self) -> int:
        """Requests that are not sent yet."""
        return self._sender.waiting

    @property
    def dropped(self) -> int:
        """Requests that were not sent and never will be."""
        return self._sender.dropped

    @property
    def sent(self) -> int:
        """Requests that Maxim has taken."""
        return self._sender.sent

    def on_response(self, ctx: RequestContext, processed: ProcessedStreamResponse) -> None:
        """Queues the lines of the request, once."""
        data = processed.data
        mark = object()
        if data is None or not _is_generation(data) or ctx.state.setdefault(self.name, mark) is not mark:
            return
        self._sender.put(_Entry(ctx, data, self._content and ctx.log_content).lines())

    def flush(self, timeout: float = 5.0) -> bool:
        """Waits until everything is sent. Returns whether that was so in time."""
        return self._sender.flush(timeout)

    def close(self) -> None:
        """Sends what waits, for at most `close_timeout_s`, and lets go of the connection."""
        atexit.unregister(self.close)
        self._sender.close(self._close_timeout)
        self._api.connection_pool.client.close()


class _Writer:
    """What the SDK's objects write to: here, a list of lines.

    Attachments are left out: they would be read and uploaded from another thread, to another host.
    """

    raise_exceptions = True

    def __init__(self) -> None:
        self.lines: list[str] = []

    def commit(self, entry: CommitLog) -> None:
        if entry.action != "upload-attachment":
            self.lines.append(entry.serialize())


class _Entry:
    """One request as Maxim sees it."""

    def __init__(self, ctx: RequestContext, data: AccumulatedData, content: bool) -> None:
        self._ctx = ctx
        self._data = data
        self._content = content
        self._writer = _Writer()
        self._said = ctx.metadata
        self._messages = messages_of(ctx.request) if content else []
        self._started = datetime.fromtimestamp(ctx.started_at, UTC)
        self._ended = self._started + timedelta(milliseconds=data.latency_ms or 0)

    def lines(self) -> str:
        """The lines that say it all, in order."""
        joined = self._said.get("maxim-trace-id")
        trace_id = valid_id(joined or self._ctx.request_id)
        if not joined:
            self._begin_trace(trace_id)
        self._generation(trace_id)
        if not joined:
            self._end_trace(trace_id)
        return "\n".join(self._writer.lines)

    def _begin_trace(self, trace_id: str) -> None:
        question = last_question(self._messages)
        session = self._said.get("maxim-session-id") or self._ctx.session_id
        trace = Trace(
            {
                "id": trace_id,
                "name": self._label(self._said.get("maxim-trace-name") or self._ctx.path) or "request",
                "session_id": valid_id(session) if session else None,
                "tags": self._tags(),
                "input": self._text(question),
                "start_timestamp": self._started,
            },
            self._writer,
        )
        other = {key: value for key, value in self._said.items() if not key.startswith(OWN)}
        if other and self._content:
            trace.add_metadata(clean(other, LINE, self._ctx.redact) or {})

    def _generation(self, trace_id: str) -> None:
        ctx, data = self._ctx, self._data
        generation = Trace.generation_(
            self._writer,
            trace_id,
            {
                "id": valid_id(self._said.get("maxim-generation-id") or f"{ctx.request_id}-generation"),
                "name": self._label(self._said.get("maxim-generation-name")),
                "provider": _provider(data.provider or ctx.provider),
                "model": self._label(data.model or ctx.model or data.response_model) or "unknown",
                "messages": clean(self._messages, LINE, ctx.redact) or [],
                "model_parameters": self._parameters(),
                "tags": self._tags(),
                "start_timestamp": self._started,
            },
        )
        self._result(generation)
        if data.cost is not None:
            parts = {"input": data.cost.input_cost, "output": data.cost.output_cost, "total": data.cost.total_cost}
            generation.add_cost({name: value for name, value in parts.items() if value is not None})
        for name, value in metrics_of(data).items():
            generation.add_metric(name, value)
        generation.set_end_timestamp(self._ended)

    def _result(self, generation: Any) -> None:
        error = error_of(self._data, content=self._content)
        if error is not None and not has_output(self._data):
            generation.error(clean(error, LINE, self._ctx.redact))
            return
        result = clean(result_of(self._ctx, self._data, content=self._content), LINE, self._ctx.redact)
        if result is None:
            result = result_of(self._ctx, self._data, content=False)
        generation.result(result)

    def _end_trace(self, trace_id: str) -> None:
        output = self._text(output_text(self._data)) if self._content else None
        if output:
            Trace.set_output_(self._writer, trace_id, output)
        Trace.end_(self._writer, trace_id, {"endTimestamp": self._ended})

    def _parameters(self) -> dict[str, str]:
        if not self._content:
            return {}
        return clean(parameters_of(self._ctx.request), LINE // 2, self._ctx.redact) or {}

    def _tags(self) -> dict[str, str]:
        ctx, data = self._ctx, self._data
        tags: dict[str, Any] = {
            key.removeprefix(TAG): value for key, value in self._said.items() if key.startswith(TAG) and key != TAG
        }
        tags |= {
            "outcome": data.status,
            "provider": data.provider or ctx.provider,
            "upstream": ctx.upstream,
            "stream": "true" if data.stream else "false",
            "finish_reason": data.finish_reason,
            "client": ctx.client,
            "attempt": str(ctx.attempt) if ctx.attempt else None,
            "parent_id": ctx.parent_id,
        }
        return {key[:LABEL]: label for key, value in tags.items() if (label := self._label(value))}

    def _label(self, text: str | None) -> str | None:
        return self._redacted(text)[:LABEL] if text else None

    def _text(self, text: str | None) -> str | None:
        return cut(self._redacted(text), TEXT) if text else None

    def _redacted(self, text: str) -> str:
        return self._ctx.redact(text) if self._ctx.redact is not None else text


def _is_generation(data: AccumulatedData) -> bool:
    """Whether a model was asked: a list of models or a file upload, which passed through, is no generation."""
    return data.stream_type is not StreamType.PASSTHROUGH or bool(data.model or data.token_usage)


def _provider(name: str | None) -> str:
    first = re.split(r"[^a-z]", (name or "").lower(), maxsplit=1)[0]
    return PROVIDERS.get(first, "unknown")


def _api(config: MaximConfig, key: str) -> MaximAPI:
    api = MaximAPI(config.base_url.rstrip("/"), key)
    # The sender tries again, and can be told to stop; the SDK would sleep.
    api.max_retries = 0
    api.connection_pool.client.timeout = httpx.Timeout(config.timeout_s)
    # The key is in a header that would go along to wherever the answer points.
    api.connection_pool.client.follow_redirects = False
    return api


def _checked(config: MaximConfig) -> tuple[str, str]:
    """The repository and the key."""
    parts = urlsplit(config.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise UsageError('"plugins.maxim.base_url" must be a plain URL such as https://app.getmaxim.ai')
    for field in ("flush_interval_s", "timeout_s", "close_timeout_s", "max_waiting_bytes"):
        if getattr(config, field) < 0:
            raise UsageError(f'"plugins.maxim.{field}" is negative; it must be 0 or more')
    repository = config.repository_id or os.environ.get("MAXIM_LOG_REPO_ID", "")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", repository):
        raise UsageError('"plugins.maxim.repository_id" is missing or no id; take it from the repository\'s page')
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise UsageError(f'there is no key for Maxim: set {config.api_key_env}, or name another in "api_key_env"')
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"the key in {config.api_key_env} has characters that no key has; copy it again")
    return repository, key
