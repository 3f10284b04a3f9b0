"""The gateway's configuration: one TOML file, over which flags win.

    host = "127.0.0.1"
    port = 8787
    db = "streamfold.db"

    [upstreams]
    groq = "https://api.groq.com/openai"
    azure = { url = "https://example.openai.azure.com", provider = "azure-openai" }

    [limits]
    connect_timeout_s = 10

A mistake must not be guessed around: it stops the start with a sentence that names the key and the fix.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from streamfold.errors import UsageError
from streamfold.gateway.routes import Upstream

__all__ = ["DEFAULT_UPSTREAMS", "Config", "Limits", "UpstreamSettings", "is_loopback", "load_config", "upstream_flag"]

DEFAULT_UPSTREAMS: Final[Mapping[str, str]] = {
    "openai": "https://api.openai.com",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}
TAKEN: Final = ("healthz", "logs")
"""Paths of the gateway's own, which no upstream can be called."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class UpstreamSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One upstream. `provider` is what rows call it, by default its name."""

    url: str
    provider: str | None = None


class Limits(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Bounds. Sizes in bytes, times in seconds."""

    request_bytes: int = 8 * 1024 * 1024
    """How much of a request body is looked at (for the model and the stream flag). All of it is passed on."""
    stored_request_bytes: int = 1024 * 1024
    """How much of it a row keeps."""
    connect_timeout_s: float = 10.0
    shutdown_grace_s: float = 5.0
    """How long open streams may go on after a signal to stop."""
    waiting_rows: int = 10_000
    """Rows that may wait in memory while the database is slow or gone."""


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Everything that `streamfold serve` can be told."""

    host: str = "127.0.0.1"
    port: int = 8787
    db: str = "streamfold.db"
    upstreams: dict[str, str | UpstreamSettings] = {}
    limits: Limits = msgspec.field(default_factory=Limits)

    def routes(self) -> dict[str, Upstream]:
        """The upstreams by name, those of the configuration over the usual ones."""
        merged: dict[str, str | UpstreamSettings] = {**DEFAULT_UPSTREAMS, **self.upstreams}
        return {name: _upstream(name, settings) for name, settings in merged.items()}


def load_config(path: Path | None = None, **flags: Any) -> Config:
    """The configuration of a file and flags; a flag that is None was not given. Raises `UsageError` on any mistake."""
    where = f"{path}: " if path is not None else ""
    settings = _read(path) if path is not None else {}
    _reject_unknown(settings, Config, where)
    try:
        config = msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        raise UsageError(where + _in_words(error)) from None
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


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"cannot read the configuration {path}: {reason.lower()}; check --config") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None


def _reject_unknown(settings: Any, kind: type[msgspec.Struct], where: str, at: str = "") -> None:
    """msgspec would refuse an unknown key as well, but it cannot say which one was meant."""
    if not isinstance(settings, dict):
        return
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key, value in settings.items():
        if key not in fields:
            raise UsageError(f'{where}unknown key "{at}{key}"; {_meant(key, list(fields))}')
        if key == "limits":
            _reject_unknown(value, Limits, where, "limits.")
        elif key == "upstreams" and isinstance(value, dict):
            for name, each in value.items():
                _reject_unknown(each, UpstreamSettings, where, f"upstreams.{name}.")


def _meant(key: str, known: list[str]) -> str:
    alike = get_close_matches(key, known, n=1)
    return f'did you mean "{alike[0]}"?' if alike else f"known here are {', '.join(known)}"


def _in_words(error: msgspec.ValidationError) -> str:
    """`port must be int, not str`, out of msgspec's "Expected `int`, got `str` - at `$.port`"."""
    told, _, at = str(error).partition(" - at `$")
    key = at.rstrip("`").lstrip(".").replace("[...]", ".*") or "the configuration"
    match = re.fullmatch(r"Expected `(.+)`, got `(.+)`", told)
    if match is not None:
        return f'"{key}" must be {match[1]}, not {match[2]}'
    return f'"{key}": {told}'


def _check(config: Config, where: str) -> None:
    if not 0 <= config.port <= 65535:
        raise UsageError(f'{where}"port" is {config.port}; choose one from 0 to 65535 (0 takes any that is free)')
    for field in msgspec.structs.fields(Limits):
        if getattr(config.limits, field.name) < 0:
            raise UsageError(f'{where}"limits.{field.name}" is negative; it must be 0 or more')
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
