"""What the gateway knows of an upstream: where it is, and how it is to be treated."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from streamfold.errors import UsageError
from streamfold.gateway.headers import Headers

if TYPE_CHECKING:
    from streamfold.gateway.config import Config, UpstreamSettings

__all__ = ["Key", "Patience", "Upstream", "upstreams_of", "without_credentials"]

KEY_HEADERS: Final = (
    ("anthropic", "x-api-key"),
    ("gemini", "x-goog-api-key"),
    ("google", "x-goog-api-key"),
    ("azure", "api-key"),
)
"""What a provider's name holds -> the header of its keys. All others take `Authorization: Bearer`."""

CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"cookie"))
KEYS_IN_QUERY: Final = frozenset((b"key", b"api_key", b"api-key", b"access_token"))
"""Where clients put the credentials of an upstream."""

HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Key:
    """A key of the gateway's own for an upstream. It is shown to nobody else: its repr is `[redacted]`."""

    __slots__ = ("_header",)

    def __init__(self, header: str, secret: str) -> None:
        name = header.lower().encode("ascii")
        self._header = name, (b"Bearer " if name == b"authorization" else b"") + secret.encode("latin-1")

    @property
    def header(self) -> tuple[bytes, bytes]:
        """The header that carries it."""
        return self._header

    def __repr__(self) -> str:
        return "[redacted]"


class Patience(NamedTuple):
    """How long an upstream is waited for: seconds, 0 for no end. What each means is told at `config.Timeouts`."""

    connect: float = 0.0
    header: float = 0.0
    first_token: float = 0.0
    chunk: float = 0.0
    total: float = 0.0


class Upstream(NamedTuple):
    """A server that requests may go to. `url` has no slash at its end; the rest is as in `UpstreamSettings`."""

    name: str
    url: str
    provider: str
    key: Key | None = None
    include_usage: bool = False
    retries: int = 0
    fallback: tuple[str, ...] = ()
    models: Mapping[str, str] = {}
    patience: Patience = Patience()


def upstreams_of(settings: Mapping[str, str | UpstreamSettings], config: Config) -> dict[str, Upstream]:
    """The upstreams by name. Raises `UsageError` for a key that is not there or a fallback that nobody is called."""
    found = {name: _upstream(name, each, config) for name, each in settings.items()}
    for upstream in found.values():
        for other in upstream.fallback:
            if other not in found or other == upstream.name:
                known = ", ".join(sorted(found.keys() - {upstream.name}))
                key = f'"upstreams.{upstream.name}.fallback"'
                raise UsageError(f"{key}: there is no other upstream called {other!r}; choose from {known}")
    return found


def without_credentials(headers: Iterable[tuple[bytes, bytes]], query: bytes) -> tuple[Headers, bytes]:
    """Headers and query without the client's credentials for an upstream."""
    kept = [(name, value) for name, value in headers if name not in CREDENTIALS]
    pairs = query.split(b"&")
    return kept, b"&".join(pair for pair in pairs if pair.partition(b"=")[0].lower() not in KEYS_IN_QUERY)


def _upstream(name: str, settings: str | UpstreamSettings, config: Config) -> Upstream:
    if isinstance(settings, str):
        return Upstream(name, settings.rstrip("/"), name, patience=_patience(None, config))
    provider = settings.provider or name
    if settings.retries < 0:
        raise UsageError(f'"upstreams.{name}.retries" is {settings.retries}; it must be 0 or more')
    return Upstream(
        name,
        settings.url.rstrip("/"),
        provider,
        key=_key(name, provider, settings),
        include_usage=settings.include_usage,
        retries=settings.retries,
        fallback=tuple(settings.fallback),
        models=settings.models,
        patience=_patience(settings, config),
    )


def _key(name: str, provider: str, settings: UpstreamSettings) -> Key | None:
    at = f'"upstreams.{name}'
    header = settings.key_header or next((each for part, each in KEY_HEADERS if part in provider.lower()), None)
    if settings.key_header is not None and not HEADER_NAME.fullmatch(settings.key_header):
        raise UsageError(f'{at}.key_header" is no name of a header; write it such as "x-api-key"')
    if settings.key_env is None:
        return None
    if not VARIABLE.fullmatch(settings.key_env):  # not quoted: it may well be the key
        hint = f'write key_env = "{name.upper().replace("-", "_")}_API_KEY" and set that variable to the key'
        raise UsageError(f'{at}.key_env" is the name of an environment variable, not the key itself; {hint}')
    secret = os.environ.get(settings.key_env, "").strip()
    if not secret:
        # A key of letters and digits would pass for a name; what is written as variables are is quoted, and no more.
        named = settings.key_env if settings.key_env.isupper() else "of that name"
        raise UsageError(f'{at}.key_env": the environment variable {named} is not set; set it to the key')
    if not secret.isascii() or not secret.isprintable():
        raise UsageError(f'{at}.key_env": the value of {settings.key_env} is no key; it holds control characters')
    return Key(header or "authorization", secret)


def _patience(settings: UpstreamSettings | None, config: Config) -> Patience:
    """The upstream's own timeouts where it has them, else those of all."""
    connect = config.limits.connect_timeout_s
    own = settings.timeouts if settings is not None else config.timeouts
    found = []
    for name in Patience._fields:
        value = getattr(own, f"{name}_s")
        value = getattr(config.timeouts, f"{name}_s") if value is None else value
        value = (connect if name == "connect" else 0.0) if value is None else value
        if value < 0:
            raise UsageError(f'"timeouts.{name}_s" is negative; it must be 0 (no end) or more')
        found.append(value)
    return Patience(*found)
