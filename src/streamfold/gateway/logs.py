"""What the gateway writes to standard error: lines for people, or one JSON object each (`log_format`).

The traffic never waits for whoever reads these lines: they go through a bounded queue to a thread of their own, and
what does not fit is dropped and counted.

Every line, whoever wrote it (uvicorn, a plugin, a traceback), goes through one place that strikes out secrets: the
values that the configuration names, and whatever looks like a key. That is the last line of defence, not the first:
what knows a request's own credentials (`Redactor`) strikes them out before.

With `log_requests` each request gets a line when it ends: names and figures, nothing of what was said.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from logging.handlers import QueueHandler, QueueListener
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import msgspec

from streamfold.gateway.config import Config
from streamfold.gateway.headers import SHORTEST_SECRET, STRUCK_OUT
from streamfold.hooks import Plugin, RequestContext
from streamfold.processed import ProcessedStreamResponse
from streamfold.timestamps import utc

__all__ = ["RequestLog", "Strike", "secrets_of", "set_up_logs"]

requests: Final = logging.getLogger("streamfold.requests")

FIELDS: Final = "streamfold_fields"
"""The attribute of a record that holds its figures."""
SHOWN: Final = ("error", "client", "model", "prompt_tokens", "completion_tokens", "cost_usd", "id")
"""What a line of text has of them besides the sentence."""
WAITING_LINES: Final = 10_000
GATHER_S: Final = 0.05
"""Seconds between two rounds of writing."""
SHAPES: Final = re.compile(
    r"(?i:(?<=bearer )[^\s\"',;]{8,})"  # Authorization: Bearer …
    r"|\b(?:sf|sk|pk|rk|gsk|xai|hf)[-_][A-Za-z0-9_\-]{16,}"  # ours, and those of most providers
    r"|\bAIza[A-Za-z0-9_\-]{20,}"
    r"|(?i:(?<=[?&]key=)|(?<=[?&]api_key=)|(?<=[?&]access_token=))[^&\s\"']{8,}"
    r"|(?<=://)[^/\s:@\"']+:[^/\s@\"']+(?=@)"  # user:password@ in a URL
)


class Strike:
    """Strikes secrets out of any text: given ones, and what looks like one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted({each for each in secrets if len(each) >= SHORTEST_SECRET}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, STRUCK_OUT)
        return SHAPES.sub(STRUCK_OUT, text)


def secrets_of(config: Config, environ: Mapping[str, str]) -> list[str]:
    """The secrets that a configuration names: variables (`key_env = "NAME"`, `"env.NAME"`), the database's password."""
    found = [environ[name] for name in _variables_in(msgspec.to_builtins(config)) if name in environ]
    try:
        password = urlsplit(config.db).password
    except ValueError:
        password = None
    return [*found, password] if password else found


def _variables_in(settings: Any, key: str = "") -> Iterator[str]:
    if isinstance(settings, dict):
        for name, value in settings.items():
            yield from _variables_in(value, str(name))
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _variables_in(value, key)
    elif isinstance(settings, str):
        if key.endswith("_env"):
            yield settings
        elif settings.startswith("env."):
            yield settings.removeprefix("env.")


def set_up_logs(config: Config, *, worker: int | None = None) -> None:
    """Makes standard error the place for all lines of this process, in the configured format."""
    strike = Strike(secrets_of(config, os.environ))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(strike, worker) if config.log_format == "json" else _Text(strike, worker))
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(WAITING_LINES)
    listener = _Listener(waiting, handler)
    listener.start()
    atexit.register(listener.stop)
    root = logging.getLogger()
    root.handlers[:] = [_Background(waiting)]
    root.setLevel(config.log_level.upper())


class _Listener(QueueListener):
    """The writing thread. Once it has nothing to do it lets lines gather for a moment: to be woken for each costs the
    traffic more than to write it does."""

    def __init__(self, waiting: queue.Queue[logging.LogRecord], handler: logging.Handler) -> None:
        super().__init__(waiting, handler)
        self._lines = waiting

    def dequeue(self, block: bool) -> logging.LogRecord:
        """The next line."""
        if block and self._lines.empty():
            time.sleep(GATHER_S)
        return self._lines.get(block)


class _Background(QueueHandler):
    """Hands records to the writing thread as they are; drops them when it cannot keep up."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1
            return
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            logging.getLogger("streamfold").warning(
                "%d lines of this log were dropped: nobody reads them in time", lost
            )


class _Text(logging.Formatter):
    def __init__(self, strike: Strike, worker: int | None) -> None:
        who = "" if worker is None else f" [worker {worker}]"
        super().__init__(f"%(asctime)s %(levelname)s{who} %(name)s: %(message)s")
        self._strike = strike

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        fields = getattr(record, FIELDS, None)
        if fields:
            told = ((name, fields.get(name)) for name in SHOWN)
            text += "".join(f" {name}={_plain(value)}" for name, value in told if value is not None)
        return self._strike(text)


class _Json(logging.Formatter):
    """`{"time": …, "level": …, "logger": …, "message": …}`, and the figures of a request beside them."""

    def __init__(self, strike: Strike, worker: int | None) -> None:
        super().__init__()
        self._strike = strike
        self._always = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": utc(record.created), "level": record.levelname.lower()}
        line |= {"logger": record.name, **self._always}
        line["message"] = self._strike(record.getMessage())
        if record.exc_info:
            line["traceback"] = self._strike(self.formatException(record.exc_info))
        for name, value in getattr(record, FIELDS, {}).items():
            line[name] = self._strike(value) if isinstance(value, str) else value
        return msgspec.json.encode(line).decode()


def _plain(value: Any) -> str:
    """A value on a line of text: whatever could end the line or the value is escaped."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if re.fullmatch(r"[^\s\"=\x00-\x1f]+", text) else msgspec.json.encode(text).decode()


class RequestLog(Plugin):
    """One line for each request, when it ends."""

    name: ClassVar[str] = "request-log"
    inline_response: ClassVar[bool] = True

    def on_response(self, ctx: RequestContext, processed: ProcessedStreamResponse) -> None:
        """Writes the line."""
        data = processed.data
        if data is None or not requests.isEnabledFor(logging.INFO):
            return
        usage = data.token_usage
        error = data.error_details
        kind = error.type or error.code if error is not None else None
        fields = {
            "id": ctx.request_id,
            "client": ctx.client,
            "upstream": ctx.upstream,
            "method": ctx.method,
            "path": _redacted(ctx, ctx.path or ""),
            "status": ctx.http_status,
            "outcome": data.status,
            "error": _redacted(ctx, kind) if kind else None,
            "model": data.model,
            "stream": data.stream,
            "chunks": data.chunks,
            "latency_ms": data.latency_ms,
            "time_to_first_token_ms": data.time_to_first_token_ms,
            "prompt_tokens": usage.prompt_tokens if usage is not None else None,
            "completion_tokens": usage.completion_tokens if usage is not None else None,
            "cost_usd": data.cost.total_cost if data.cost is not None else None,
        }
        requests.info(
            "%s /%s%s -> %s %s, %d %s, %.0f ms",
            ctx.method,
            ctx.upstream,
            fields["path"],
            ctx.http_status or "no answer",
            data.status,
            data.chunks,
            "chunk" if data.chunks == 1 else "chunks",
            data.latency_ms or 0,
            extra={FIELDS: fields},
        )


def _redacted(ctx: RequestContext, text: str) -> str:
    return ctx.redact(text) if ctx.redact is not None else text
