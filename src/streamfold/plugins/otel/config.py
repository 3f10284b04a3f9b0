"""The settings of `[plugins.otel]`, and what the environment says where they are silent."""

from __future__ import annotations

import logging
import os
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from streamfold.errors import UsageError

__all__ = ["Capture", "OtelConfig", "capture", "check", "endpoint_of", "headers"]

logger = logging.getLogger("streamfold.plugins.otel")

Capture = Literal["none", "span", "event", "both"]
Signal = Literal["traces", "metrics", "logs"]

CAPTURE_VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
CAPTURE_WORDS: Final[dict[str, Capture]] = {
    "no_content": "none",
    "span_only": "span",
    "event_only": "event",
    "span_and_event": "both",
}


class OtelConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What the plugin can be told. Sizes in bytes, times in seconds."""

    endpoint: str | None = None
    """The collector's base URL, such as `http://127.0.0.1:4318`. `/v1/traces` and so on are added."""
    headers: dict[str, str] = {}
    """Headers for the collector. A value `env.NAME` is read from the environment variable NAME."""
    service_name: str | None = None
    """What spans and metrics call this service; by default what OpenTelemetry's own variables say."""
    profile: Literal["released", "main"] = "released"
    """The names of attributes: of the released conventions, or of their main branch."""
    metrics: bool = True
    """Whether metrics are sent besides spans."""
    chunk_metrics: bool = False
    """Whether to record the time of each chunk. Off, because the SDK takes about 20 µs for each record."""
    capture_content: Capture | None = None
    """Where to send what was said: nowhere, on spans, as events, or both. By default the environment decides."""
    max_content_bytes: int = 32 * 1024
    """The limit for each content attribute."""
    openinference: bool = False
    """Whether spans carry OpenInference's attributes as well."""
    compression: Literal["gzip", "none"] = "gzip"
    """How what is sent is compressed."""
    timeout_s: float = 10.0
    """For one export, retries included."""
    max_waiting_spans: int = 2048
    """Spans that may wait for a slow collector; what comes beyond is dropped and counted."""
    export_interval_s: float = 5.0
    """How long spans are gathered before they are sent."""
    metric_interval_s: float = 60.0
    """How often metrics are sent."""
    shutdown_s: float = 4.0
    """How long `close` waits for what is still to be sent."""


def check(config: OtelConfig) -> None:
    """Raises `UsageError`, with the key and the fix, for settings that cannot be."""
    for name in ("timeout_s", "export_interval_s", "metric_interval_s", "max_waiting_spans"):
        if getattr(config, name) <= 0:
            raise UsageError(f'"plugins.otel.{name}" must be more than 0')
    for name in ("max_content_bytes", "shutdown_s"):
        if getattr(config, name) < 0:
            raise UsageError(f'"plugins.otel.{name}" is negative; it must be 0 or more')
    if config.endpoint is not None:
        _check_url(config.endpoint, '"plugins.otel.endpoint"')


def _check_url(url: str, key: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise UsageError(f"{key} must be an http or https URL, such as http://127.0.0.1:4318")
    if "@" in parts.netloc:
        raise UsageError(f'{key} carries a user name or password; put them into "plugins.otel.headers"')
    if parts.query or parts.fragment:
        raise UsageError(f"{key} must end with its path; take out what follows ? or #")
    if parts.path.rstrip("/").endswith(("/v1/traces", "/v1/metrics", "/v1/logs")):
        raise UsageError(f"{key} must be the collector's base URL; take out {parts.path[parts.path.index('/v1/') :]}")


def endpoint_of(signal: Signal, config: OtelConfig) -> str | None:
    """The URL to which a signal goes, by the settings or else OpenTelemetry's own variables; None if none names one.

    The exporter would fall back to localhost; here nothing is sent where nobody said so.
    """
    if config.endpoint is not None:
        return f"{config.endpoint.rstrip('/')}/v1/{signal}"
    url = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    if not url:
        base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        url = f"{base.rstrip('/')}/v1/{signal}" if base else None
    if url and os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf") == "grpc":
        raise UsageError(
            "OTEL_EXPORTER_OTLP_PROTOCOL is grpc, which this plugin does not speak; "
            'set "plugins.otel.endpoint" to the collector\'s HTTP port, such as http://127.0.0.1:4318'
        )
    return url


def headers(config: OtelConfig) -> dict[str, str]:
    """The headers with their `env.NAME` values filled in. Raises `UsageError` for a variable that is not set."""
    filled = {}
    for name, value in config.headers.items():
        if value.startswith("env."):
            variable = value.removeprefix("env.")
            if variable not in os.environ:
                raise UsageError(f'"plugins.otel.headers.{name}": the environment variable {variable} is not set')
            value = os.environ[variable]
        filled[name] = value
    return filled


def capture(config: OtelConfig) -> Capture:
    """Where content goes: what the settings say, else the variable that all GenAI instrumentations share."""
    if config.capture_content is not None:
        return config.capture_content
    word = os.environ.get(CAPTURE_VARIABLE, "").strip().lower()
    if word and word not in CAPTURE_WORDS:
        known = ", ".join(CAPTURE_WORDS).upper()
        logger.warning(
            "%s is %s, which says nothing here; known are %s: no content is sent", CAPTURE_VARIABLE, word, known
        )
    return CAPTURE_WORDS.get(word, "none")
