"""What `streamfold serve --check` says: the configuration as it would be used. Nothing is opened or contacted."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from streamfold.gateway.config import Config, UpstreamSettings, is_loopback

__all__ = ["report"]


def report(config: Config) -> Iterator[str]:
    """Lines for a person."""
    workers = f", {config.workers} workers" if config.workers > 1 else ""
    yield f"listen   {config.host}:{config.port}{workers}"
    yield f"log      {_without_password(config.db)}"
    for name, upstream in sorted(config.routes().items()):
        yield f"upstream /{name}/ -> {upstream.url}{_key(config, name)}"
    yield f"access   {_access(config)}"
    named = {"logging": {}, **config.plugins}
    plugins = [name for name, section in named.items() if section.get("enabled", True)]
    yield f"plugins  {', '.join(plugins)}"
    yield "The configuration is in order."


def _key(config: Config, name: str) -> str:
    settings = config.upstreams.get(name)
    if isinstance(settings, UpstreamSettings) and settings.key_env is not None:
        return f", with the key in {settings.key_env}"
    return ""


def _access(config: Config) -> str:
    clients = ", ".join(sorted(config.access.clients))
    if not config.access.open:
        return f"by token: {clients}"
    whom = "everybody on this machine" if is_loopback(config.host) else "everybody who reaches the port"
    return f"{whom}, no token needed" + (f"; by name: {clients}" if clients else "")


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.password is None:
            return url
        return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")).geturl()
    except ValueError:
        return "a database URL that cannot be read"
