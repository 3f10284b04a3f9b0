"""The gateway's configuration: one TOML file, over which flags win.

    host = "127.0.0.1"
    port = 8787
    db = "streamfold.db"

    [upstreams]
    groq = "https://api.groq.com/openai"
    azure = { url = "https://example.openai.azure.com", provider = "azure-openai" }

    [limits]
    connect_timeout_s = 10

    [plugins.otel]
    endpoint = "http://127.0.0.1:4318"

A mistake must not be guessed around: it stops the start with a sentence that names the key and the fix.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from streamfold.errors import UsageError
from streamfold.gateway.routes import Upstream
from streamfold.settings import read_settings, read_toml

__all__ = ["DEFAULT_UPSTREAMS", "Config", "Limits", "UpstreamSettings", "is_loopback", "load_config", "upstream_flag"]

DEFAULT_UPSTREAMS: Final[Mapping[str, str]] = {
    "openai": "https://api.openai.com",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}
TAKEN: Final = ("healthz", "logs", "metrics")
"""Paths of the gateway's own, which no upstream can be called."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class UpstreamSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One upstream. `provider` is what rows call it, by default its name."""

    url: str
    provider: str | None = None


class Limits(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Bounds. Sizes in bytes, times in seconds."""

    request_bytes: int = 8 * 1024 * 1024
    """How much of a request body is looked at (by plugins, for the model and for the log). All of it is passed on."""
    response_bytes: int = 64 * 1024 * 1024
    """How much of a response is folded. All of it is passed on."""
    arrivals: int = 2000
    """How many times of arrival are kept of a stream, for its gaps and its plot (8 bytes each)."""
    connect_timeout_s: float = 10.0
    shutdown_grace_s: float = 5.0
    """How long open streams may go on after a signal to stop."""
    hook_timeout_s: float = 1.0
    """How long a request or chunk waits for a plugin's hook."""
    waiting_responses: int = 10_000
    """How many complete responses may wait for each slow plugin."""


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Everything that `streamfold serve` can be told."""

    host: str = "127.0.0.1"
    port: int = 8787
    db: str = "streamfold.db"
    prices: str | None = None
    """A file of your own prices, which win over the data set's; see docs/prices.md."""
    upstreams: dict[str, str | UpstreamSettings] = {}
    limits: Limits = msgspec.field(default_factory=Limits)
    plugins: dict[str, dict[str, Any]] = {}
    """The plugins, by name or import path, with their settings; `logging` is always there."""

    def routes(self) -> dict[str, Upstream]:
        """The upstreams by name, those of the configuration over the usual ones."""
        merged: dict[str, str | UpstreamSettings] = {**DEFAULT_UPSTREAMS, **self.upstreams}
        return {name: _upstream(name, settings) for name, settings in merged.items()}


def load_config(path: Path | None = None, **flags: Any) -> Config:
    """The configuration of a file and flags; a flag that is None was not given. Raises `UsageError` on any mistake."""
    where = f"{path}: " if path is not None else ""
    settings = read_toml(path, "--config") if path is not None else {}
    config = read_settings(settings, Config, where=where)
    given = {key: value for key, value in flags.items() if value is not None}
    given["upstreams"] = {**config.upstreams, **given.get("upstreams", {})}
    config = msgspec.structs.replace(config, **given)
    _check(config, where)
    return config


def upstream_flag(flags: Sequence[str]) -> dict[str, str]:
    """The upstreams of `--upstream NAME=URL` flags."""
    named = {}
    for flag in flags:
        name, equals, url = flag.partition("=")
        if not equals or not name or not url:
            raise UsageError(f"--upstream {flag}: write it as NAME=URL, such as groq=https://api.groq.com/openai")
        named[name] = url
    return named


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check(config: Config, where: str) -> None:
    if not 0 <= config.port <= 65535:
        raise UsageError(f'{where}"port" is {config.port}; choose one from 0 to 65535 (0 takes any that is free)')
    for field in msgspec.structs.fields(Limits):
        if getattr(config.limits, field.name) < 0:
            raise UsageError(f'{where}"limits.{field.name}" is negative; it must be 0 or more')
    if "url" in config.plugins.get("logging", {}):
        raise UsageError(f'{where}"plugins.logging.url": the gateway\'s log database is "db"; move it there')
    for name, settings in config.upstreams.items():
        _check_upstream(name, settings if isinstance(settings, str) else settings.url, where)


def _check_upstream(name: str, url: str, where: str) -> None:
    key = f'{where}"upstreams.{name}"'
    if name in TAKEN or not NAME.fullmatch(name):
        raise UsageError(f"{key}: an upstream cannot be called that; use letters, digits, - and _, not {TAKEN}")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UsageError(f"{key} is not a URL; write it such as https://api.example.com") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"{key} must be an http or https URL, such as https://api.example.com")
    if "@" in parts.netloc:
        raise UsageError(f"{key} carries a user name or password; take it out: clients send their own keys")
    if parts.query or parts.fragment:
        raise UsageError(f"{key} must end with its path; take out what follows ? or #")


def _upstream(name: str, settings: str | UpstreamSettings) -> Upstream:
    if isinstance(settings, str):
        settings = UpstreamSettings(settings)
    return Upstream(name, settings.url.rstrip("/"), settings.provider or name)
