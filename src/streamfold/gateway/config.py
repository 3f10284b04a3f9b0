"""The gateway's configuration: one TOML file, environment variables over it, flags over both.

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

A mistake must not be guessed around: it stops the start with a sentence that names the key (or the variable, or the
flag) and the fix. All that can be found are told at once.

The docstrings of the fields are what a user reads of them: `docs/configuration.md` is made from this file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from streamfold.catalog.overrides import read_overrides
from streamfold.errors import UsageError
from streamfold.gateway.environment import Environment, read_environment
from streamfold.gateway.mistakes import mistakes_in
from streamfold.gateway.upstreams import Upstream, upstreams_of
from streamfold.plugins import check_plugin, settings_of
from streamfold.settings import read_settings, read_toml
from streamfold.store.database import database_of

__all__ = [
    "DEFAULT_UPSTREAMS",
    "Access",
    "ClientSettings",
    "Config",
    "Drain",
    "Examined",
    "Gate",
    "Limits",
    "Retry",
    "Timeouts",
    "UpstreamSettings",
    "examine",
    "is_loopback",
    "load_config",
    "upstream_flag",
]

DEFAULT_UPSTREAMS: Final[Mapping[str, str]] = {
    "openai": "https://api.openai.com",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}
TAKEN: Final = ("api", "healthz", "login", "logs", "metrics", "readyz", "ui")
"""Paths of the gateway's own, which no upstream can be called."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
KEY_IN_SENTENCE: Final = re.compile(r'"(plugins\.[^"]+)"')
TOKEN_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")


class Timeouts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How long an upstream may take. Seconds; 0 for no end. An upstream's own win over those of `timeouts`."""

    connect_s: float | None = None
    """Until it is reached; by default `limits.connect_timeout_s`."""
    header_s: float | None = None
    """From sending a request until the status line of its answer; no end by default, as for those that follow."""
    first_token_s: float | None = None
    """From sending a request until the model's first output; for an unstreamed answer until its first byte."""
    chunk_s: float | None = None
    """Without a byte, once an answer has begun. Pings are bytes."""
    total_s: float | None = None
    """From the first byte of a request to the end of its answer, retries included."""


class UpstreamSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One upstream. Instead of a table it can be its URL alone."""

    url: str
    """The base URL; requests go to no other host. May be left out for `openai`, `anthropic` and `gemini`."""
    provider: str | None = None
    """What rows call it; by default its name."""
    key_env: str | None = None
    """The environment variable that holds a key for it. The key takes the place of the clients' credentials."""
    key_header: str | None = None
    """The header that the key goes in. By default `x-api-key` for Anthropic, `x-goog-api-key` for Gemini, `api-key`
    for Azure, told by `provider`; otherwise `authorization`, as `Bearer KEY`."""
    include_usage: bool = False
    """Whether OpenAI chat and completion streams are asked for their usage where the client said nothing of it. The
    chunk that this adds is taken out again before the client sees it. A client's own `false` is respected."""
    retries: int = 0
    """How many more times a request is tried here when it failed; see `retry`."""
    fallback: list[str] = []
    """Other upstreams of the same format, tried in this order when this one has failed; see `retry`."""
    models: dict[str, str] = {}
    """What models are called here, for requests that fall back to this upstream: `{ "asked" = "here" }`."""
    timeouts: Timeouts = msgspec.field(default_factory=Timeouts)
    """Its own timeouts."""


class Limits(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Bounds. Sizes in bytes, times in seconds. What is beyond is counted in `/metrics` and answered with an error."""

    request_bytes: int = 8 * 1024 * 1024
    """How much of a request body is looked at (by plugins, for the model and for the log). All of it is passed on."""
    response_bytes: int = 64 * 1024 * 1024
    """How much of a response is folded. All of it is passed on."""
    arrivals: int = 2000
    """How many times of arrival are kept of a stream, for its gaps and its plot (8 bytes each)."""
    tape_bytes: int = 0
    """How much of each stream's frames is kept for `streamfold replay`, as they came; 0 for none. See docs/logs.md."""
    connect_timeout_s: float = 10.0
    """How long reaching an upstream may take."""
    upstream_connections: int = 4096
    """Connections to one upstream; a request that finds none free waits for one, up to the connect timeout."""
    shutdown_grace_s: float = 5.0
    """How long open streams may go on after a signal to stop."""
    hook_timeout_s: float = 1.0
    """How long a request or chunk waits for a plugin's hook."""
    waiting_responses: int = 10_000
    """How many complete responses may wait for each slow plugin."""
    request_total_bytes: int = 1024 * 1024 * 1024
    """The longest request body that is passed on; a longer one is answered with 413."""
    header_bytes: int = 64 * 1024
    """The longest request line and headers; longer ones are answered with 431."""
    streams: int = 10_000
    """Requests under way at one time, in each worker; one more is answered with 503 and `Retry-After`."""
    connections: int = 20_000
    """Open connections of clients, in each worker; one more is closed at once."""
    header_timeout_s: float = 30.0
    """How long a client may take for the head of a request, from its first byte or the opening of the connection."""
    body_timeout_s: float = 60.0
    """How long a client may let wait for the body of a request, plus one second for each 1000 bytes that came."""
    client_stall_timeout_s: float = 120.0
    """How long a client may take nothing of its answer while more waits for it; then its connection is cut."""


class Retry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """When a request is tried again, for upstreams with `retries` or a `fallback`. Only while nothing of an answer has
    gone to the client: when no answer came, when its status is one of `statuses`, or when a stream failed, broke off
    or timed out before the model's first output."""

    statuses: tuple[int, ...] = (408, 429, 500, 502, 503, 504, 529)
    """The HTTP statuses of failures that may pass."""
    pause_s: float = 0.5
    """How long to wait before the second try at one upstream, twice as long before each further one; up to half of it
    is left out at random. A fallback is tried at once."""
    pause_cap_s: float = 8.0
    """The longest pause of our own."""
    retry_after_cap_s: float = 30.0
    """The longest pause that an upstream may ask for with `Retry-After`; one that asks for more is given up."""
    body_bytes: int = 8 * 1024 * 1024
    """The longest request body that is kept to be sent again; requests with longer ones are tried once."""


class Drain(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What becomes of an answer whose client has left. By default it is cancelled at once: nothing more is billed."""

    seconds: float = 0.0
    """How long it is still read, to learn its true usage."""
    bytes: int = 4 * 1024 * 1024
    """How much of it is read then."""


class Gate(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Bounds for plugins that hold a stream back."""

    hold_bytes: int = 1024 * 1024
    """How much of a stream may be held back."""
    hold_s: float = 30.0
    """How long."""
    when_exceeded: Literal["closed", "open"] = "closed"
    """What happens beyond that: `closed` ends the stream with an error, `open` lets go what was held."""


class ClientSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One client, by its name in rows. `streamfold token NAME` makes its token and this section."""

    token_hash: str
    """`sha256:` and the SHA-256 of its token."""
    page: bool = True
    """Whether it may also see the page, the log and `/metrics`, that is, what everybody wrote."""


class Access(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Who may use the gateway. See docs/security.md."""

    allow_anonymous: bool = False
    """Whether requests without a token are served although clients are named here or others reach the port."""
    hosts: list[str] = []
    """Names by which browsers reach the page, besides addresses and `localhost`."""
    clients: dict[str, ClientSettings] = {}
    """The clients by name; once there is one, everybody needs a token."""

    @property
    def open(self) -> bool:
        """Whether requests without a token are served."""
        return self.allow_anonymous or not self.clients


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Everything that `streamfold serve` can be told."""

    host: str = "127.0.0.1"
    """The address to listen on. Any but this machine's own needs `access.clients`."""
    port: int = 8787
    """The port to listen on; 0 takes any that is free."""
    workers: int = 1
    """How many processes serve; they share the port, the log and the page."""
    db: str = "streamfold.db"
    """The log: a path, or a URL of SQLite, PostgreSQL or ClickHouse; see docs/log-store.md."""
    prices: str | None = None
    """A file of your own prices, which win over the data set's; see docs/prices.md."""
    log_format: Literal["text", "json"] = "text"
    """How lines are written to standard error: for people, or one JSON object each."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least serious lines that are written."""
    log_requests: bool = True
    """Whether each request gets a line when it ends: its names, figures and outcome, nothing of what was said."""
    upstreams: dict[str, str | UpstreamSettings] = {}
    """Upstreams by name, the first part of the path. `openai`, `anthropic` and `gemini` are known."""
    limits: Limits = msgspec.field(default_factory=Limits)
    timeouts: Timeouts = msgspec.field(default_factory=Timeouts)
    retry: Retry = msgspec.field(default_factory=Retry)
    drain: Drain = msgspec.field(default_factory=Drain)
    gate: Gate = msgspec.field(default_factory=Gate)
    access: Access = msgspec.field(default_factory=Access)
    plugins: dict[str, dict[str, Any]] = {}
    """The plugins, by name or import path, with their settings; `logging` is always there."""

    def routes(self) -> dict[str, Upstream]:
        """The upstreams by name, those of the configuration over the usual ones."""
        merged: dict[str, str | UpstreamSettings] = {**DEFAULT_UPSTREAMS, **self.upstreams}
        return upstreams_of(merged, self)


class Examined(msgspec.Struct):
    """A configuration, or all that is wrong with it; and what is odd but no mistake."""

    config: Config | None
    mistakes: list[str]
    notes: list[str]


def load_config(path: Path | None = None, *, environ: Mapping[str, str] | None = None, **flags: Any) -> Config:
    """The configuration of a file, an environment and flags; a flag that is None was not given.

    Raises `UsageError` with every mistake that can be found, one to a line.
    """
    examined = examine(path, environ=environ, **flags)
    if examined.config is None:
        raise UsageError("\n".join(examined.mistakes))
    return examined.config


def examine(path: Path | None = None, *, environ: Mapping[str, str] | None = None, **flags: Any) -> Examined:
    """Reads everything and opens nothing."""
    file = f"{path}: " if path is not None else ""
    try:
        settings = read_toml(path, "--config") if path is not None else {}
    except UsageError as error:
        return Examined(None, [str(error)], [])
    found = read_environment(environ or {}, Config, settings, settings_of)
    given = {key: value for key, value in flags.items() if value is not None}
    where = _where(found, given, file)
    settings = _with_known_urls(_over(settings, found.settings))
    mistakes = mistakes_in(settings, Config, where)
    if mistakes:
        return Examined(None, found.mistakes + mistakes, found.notes)
    config = read_settings(settings, Config, where=file)
    upstreams = {**config.upstreams, **given.get("upstreams", {})}
    config = msgspec.structs.replace(config, **{**given, "upstreams": upstreams})
    mistakes = found.mistakes + _mistakes(config, where)
    return Examined(None if mistakes else config, mistakes, found.notes + _notes(config, where))


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


# ---------------------------------------------------------------------- putting the sources together


def _where(found: Environment, flags: Mapping[str, Any], file: str) -> Callable[[str], str]:
    """What begins the sentence about a key: the variable or flag that it came from, else the file."""

    def where(key: str) -> str:
        parts = key.split(".")
        if parts[0] == "upstreams" and ".".join(parts[1:]) in flags.get("upstreams", {}):
            return "--upstream: "
        if parts[0] != "upstreams" and parts[0] in flags:
            return f"--{parts[0]}: "
        for length in range(len(parts), 0, -1):
            variable = found.origins.get(".".join(parts[:length]))
            if variable is not None:
                return f"{variable}: "
        return file

    return where


def _over(settings: Mapping[str, Any], winning: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of settings as one."""
    merged = dict(settings)
    for key, value in winning.items():
        under = merged.get(key)
        if isinstance(value, dict) and isinstance(under, str):
            under = {"url": under}  # an upstream that is its URL alone
        merged[key] = _over(under, value) if isinstance(value, dict) and isinstance(under, Mapping) else value
    return merged


def _with_known_urls(settings: dict[str, Any]) -> dict[str, Any]:
    """The URLs of the usual upstreams need not be written again when something else of them is set."""
    upstreams = settings.get("upstreams")
    if not isinstance(upstreams, Mapping):
        return settings
    known = {
        name: {"url": DEFAULT_UPSTREAMS[name], **each}
        for name, each in upstreams.items()
        if isinstance(each, Mapping) and name in DEFAULT_UPSTREAMS
    }
    return {**settings, "upstreams": {**upstreams, **known}}


# ---------------------------------------------------------------------- what types cannot say


def _mistakes(config: Config, where: Callable[[str], str]) -> list[str]:
    told = [*_about_sockets(config), *_below_zero(config, ""), *_about_access(config)]
    for name, settings in config.upstreams.items():
        told += _about_upstream(name, settings if isinstance(settings, str) else settings.url)
    if "url" in config.plugins.get("logging", {}):
        told.append(("plugins.logging.url", 'the gateway\'s log database is "db"; move it there'))
    sentences = [f'{where(key)}"{key}"{sentence}' for key, sentence in told]
    for name, section in config.plugins.items():
        try:
            check_plugin(name, section)
        except UsageError as error:
            key = KEY_IN_SENTENCE.search(str(error))
            sentences.append(where(key[1] if key is not None else f"plugins.{name}") + str(error))
    sentences += _about_files(config, where)
    if not sentences:
        try:
            config.routes()
        except UsageError as error:
            sentences.append(f"{where('upstreams')}{error}")
    return sentences


def _about_files(config: Config, where: Callable[[str], str]) -> list[str]:
    """What the log and the prices say of their names, before either is opened."""
    sentences = []
    try:
        database_of(config.db, writable=True)
    except UsageError as error:
        at = where("db")
        sentences.append(at + str(error).replace("--db", '"db"') if at != "--db: " else str(error))
    try:
        read_overrides(config.prices)
    except UsageError as error:
        sentences.append(f'{where("prices")}"prices": {error}')
    return sentences


def _notes(config: Config, where: Callable[[str], str]) -> list[str]:
    """What is likely not meant, though it can be."""
    notes = []
    for name in DEFAULT_UPSTREAMS:
        settings = config.upstreams.get(name)
        url = settings.url if isinstance(settings, UpstreamSettings) else settings or ""
        version = url.rstrip("/").rpartition("/")[2]
        if re.fullmatch(r"v\d\w*", version):
            key = f"upstreams.{name}"
            notes.append(
                f'{where(key)}"{key}" ends in /{version}, which SDKs send as well; take it out, or leave it out there'
            )
    logging = config.plugins.get("logging", {})
    if config.limits.tape_bytes and (logging.get("redact") or logging.get("content") is False):
        key = "limits.tape_bytes"
        notes.append(f'{where(key)}"{key}": the log keeps no tapes with "redact" or without content; take one out')
    return notes


Told = list[tuple[str, str]]
"""Keys, and the rest of the sentence about each."""


def _about_sockets(config: Config) -> Told:
    told = []
    if not 0 <= config.port <= 65535:
        told.append(("port", f" is {config.port}; choose one from 0 to 65535 (0 takes any that is free)"))
    if config.workers < 1:
        told.append(("workers", f" is {config.workers}; it must be 1 or more"))
    if config.workers > 1 and "port" in config.plugins.get("prometheus", {}):
        told.append(("plugins.prometheus.port", " cannot be shared by workers; take it out, /metrics has all of them"))
    return told


def _below_zero(settings: Any, at: str) -> Told:
    """No size, time or count of ours may be negative (or no number at all, as TOML's `nan`)."""
    told: Told = []
    for field in msgspec.structs.fields(settings):
        value, key = getattr(settings, field.name), f"{at}{field.name}"
        if isinstance(value, msgspec.Struct):
            told += _below_zero(value, f"{key}.")
        elif isinstance(value, dict) and at == "" and field.name != "plugins":
            for name, each in value.items():
                told += _below_zero(each, f"{key}.{name}.") if isinstance(each, msgspec.Struct) else []
        elif isinstance(value, int | float) and key not in ("port", "workers") and not value >= 0:
            told.append((key, " is negative; it must be 0 or more"))
    return told


def _about_access(config: Config) -> Told:
    told = []
    access = config.access
    for name, client in access.clients.items():
        key = f"access.clients.{name}"
        if not NAME.fullmatch(name):
            told.append((key, ": a client cannot be called that; use letters, digits, - and _"))
        if not TOKEN_HASH.fullmatch(client.token_hash):
            told.append((f"{key}.token_hash", f" is no hash; make a token and its hash with: streamfold token {name}"))
    if not is_loopback(config.host) and not access.clients and not access.allow_anonymous:
        told.append(
            (
                "host",
                f" is {config.host}, which other machines may reach, and nobody is asked for a token; "
                "make one with: streamfold token NAME (or set access.allow_anonymous = true)",
            )
        )
    return told


def _about_upstream(name: str, url: str) -> Told:
    key = f"upstreams.{name}"
    if name in TAKEN or not NAME.fullmatch(name):
        taken = ", ".join(TAKEN)
        return [(key, f": an upstream cannot be called that; use letters, digits, - and _, and none of {taken}")]
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return [(key, " is not a URL; write it such as https://api.example.com")]
    if parts.scheme not in ("http", "https") or not host:
        return [(key, " must be an http or https URL, such as https://api.example.com")]
    if "@" in parts.netloc:
        return [(key, " carries a user name or password; take it out: clients send their own keys")]
    if parts.query or parts.fragment:
        return [(key, " must end with its path; take out what follows ? or #")]
    return []
