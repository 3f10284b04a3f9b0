"""The plugins that come with streamfold, and how any plugin is loaded.

A plugin is named in the configuration, in one of three ways:

    [plugins.otel]                      # one of ours, or one that a package offers as an entry point
    [plugins."acme.tracing:Tracer"]     # a class by its import path

An entry point is of the group `streamfold.plugins`; its name is the plugin's. Only what is named is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

import msgspec

from streamfold.errors import UsageError
from streamfold.settings import did_you_mean, key_of, read_settings

__all__ = ["BUILT_IN", "check_plugin", "load_plugin", "load_plugins", "settings_of"]

GROUP: Final = "streamfold.plugins"
BUILT_IN: Final[Mapping[str, str]] = {
    "logging": "streamfold.plugins.logging:LoggingPlugin",
    "otel": "streamfold.plugins.otel:OtelPlugin",
    "maxim": "streamfold.plugins.maxim:MaximPlugin",
    "prometheus": "streamfold.plugins.prometheus:PrometheusPlugin",
}
"""Our own plugins, by name. Each is imported when it is named, with the libraries that it needs."""


def load_plugins(sections: Mapping[str, Mapping[str, Any]], *, where: str = "") -> list[Any]:
    """The plugins of `[plugins.*]` sections, in their order; those with `enabled = false` are left out."""
    loaded = []
    for name, section in sections.items():
        settings = dict(section)
        if settings.pop("enabled", True):
            loaded.append(load_plugin(name, settings, where=where))
    return loaded


def load_plugin(name: str, settings: Mapping[str, Any] | None = None, *, where: str = "") -> Any:
    """One plugin, built with its settings. Raises `UsageError` with the key and the fix when that cannot be done."""
    kind, config = _read(name, settings or {}, where)
    return kind(config) if config is not None else kind()


def check_plugin(name: str, section: Mapping[str, Any], *, where: str = "") -> None:
    """Raises `UsageError` for a section that `load_plugins` would refuse, as far as that can be told without building
    the plugin: a class may have a `check(config)` for what its settings' types cannot say."""
    settings = dict(section)
    if not settings.pop("enabled", True):
        return
    kind, config = _read(name, settings, where)
    check = getattr(kind, "check", None)
    if config is None or check is None:
        return
    try:
        check(config)
    except UsageError as error:
        raise UsageError(f"{where}{error}") from None


def settings_of(name: str) -> type[msgspec.Struct] | None:
    """The type of a plugin's settings; None if it takes none. Raises `UsageError` if it cannot be imported."""
    kind: type[msgspec.Struct] | None = getattr(_find(name, "", _key(name)), "Config", None)
    return kind


def _read(name: str, settings: Mapping[str, Any], where: str) -> tuple[Any, msgspec.Struct | None]:
    """A plugin's class and its settings."""
    key = _key(name)
    kind = _find(name, where, key)
    config_type = getattr(kind, "Config", None)
    if config_type is not None:
        return kind, read_settings(dict(settings), config_type, where=where, at=f"{key}.")
    if settings:
        raise UsageError(f'{where}"{key}" takes no settings; take out {", ".join(settings)}')
    return kind, None


def _key(name: str) -> str:
    return f"plugins.{key_of(name)}"


def _find(name: str, where: str, key: str) -> Any:
    path = BUILT_IN.get(name) or _entry_point(name)
    if path is None and ":" in name:
        path = name
    if path is None:
        known = did_you_mean(name, [*BUILT_IN, *(each.name for each in entry_points(group=GROUP))])
        path_of = 'or give the import path of a class: [plugins."package.module:Class"]'
        raise UsageError(f'{where}there is no plugin "{name}"; {known} ({path_of})')
    module, _, attribute = path.partition(":")
    try:
        found: Any = getattr(import_module(module), attribute)
    except ImportError as error:
        extra = "; is it installed, or its directory in PYTHONPATH?"
        if name in BUILT_IN:
            extra = f'; install it with pip install "streamfold[{name}]"'
        raise UsageError(f'{where}"{key}" cannot be imported: {error}{extra}') from None
    except AttributeError:
        raise UsageError(f'{where}"{key}": the module {module} has no {attribute}') from None
    return found


def _entry_point(name: str) -> str | None:
    return next((each.value for each in entry_points(group=GROUP, name=name)), None)
