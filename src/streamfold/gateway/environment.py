"""Settings from environment variables: `STREAMFOLD_LIMITS__CONNECT_TIMEOUT_S=3` is `limits.connect_timeout_s = 3`.

The name of a variable is the path of its key, in capitals, with two underscores between the parts. An environment
knows only text, so each value is read by the type of its key: a number, `true` or `false`, and for lists and tables
TOML (`["a", "b"]`, `{ url = "https://…" }`). A variable that is empty counts as not set.

A variable whose value makes no sense stops the start. One that belongs to no key is only told: containers are given
variables that nobody asked for (Kubernetes announces a service called `streamfold` as `STREAMFOLD_SERVICE_HOST`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from streamfold.errors import UsageError
from streamfold.settings import did_you_mean

__all__ = ["PREFIX", "Environment", "read_environment", "variable_of"]

PREFIX: Final = "STREAMFOLD_"
BETWEEN: Final = "__"
OTHERS: Final = frozenset(("STREAMFOLD_CONFIG", "STREAMFOLD_DEBUG", "STREAMFOLD_NO_EXTENSIONS"))
"""Variables that are no keys of the configuration."""

Settings = dict[str, Any]
PluginKind = Callable[[str], Any]
"""The type of a plugin's settings, by its name. Raises `UsageError` if there is no such plugin."""


class Environment(msgspec.Struct):
    """What the environment says: settings as a file would have them, and which variable each key came from."""

    settings: Settings = {}
    origins: dict[str, str] = {}
    mistakes: list[str] = []
    notes: list[str] = []


class _UnknownKeyError(UsageError):
    pass


def variable_of(key: str) -> str:
    """The variable for a key such as `limits.streams`."""
    return PREFIX + re.sub(r"[^A-Z0-9.]", "_", key.upper()).replace(".", BETWEEN)


def read_environment(
    environ: Mapping[str, str], kind: type[msgspec.Struct], settings: Mapping[str, Any], plugin_kind: PluginKind
) -> Environment:
    """Reads all variables of ours. `settings` are those of the file: names in it are found again, however spelled."""
    read = Environment()
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in OTHERS or not environ[variable]:
            continue
        try:
            path, wanted = _place(variable, kind, settings, plugin_kind)
            value = _value(environ[variable], wanted)
        except _UnknownKeyError as error:
            read.notes.append(f"{variable} is no setting and is left aside; {error}")
        except UsageError as error:
            read.mistakes.append(f"{variable}: {_fix(variable, environ[variable], str(error))}")
        else:
            _put(read.settings, path, value)
            read.origins[".".join(path)] = variable
    return read


def _place(
    variable: str, kind: type[msgspec.Struct], settings: Mapping[str, Any], plugin_kind: PluginKind
) -> tuple[list[str], Any]:
    """The path of a variable's key, and the type of its value."""
    path: list[str] = []
    wanted: Any = kind
    known: Any = settings
    for part in variable.removeprefix(PREFIX).split(BETWEEN):
        options = _parts(wanted)
        struct = next((each for each in options if isinstance(each, type) and issubclass(each, msgspec.Struct)), None)
        table = next((each for each in options if get_origin(each) is dict), None)
        if path[:1] == ["plugins"] and len(path) == 2:
            struct, table = plugin_kind(path[1]), None
            if part == "ENABLED":
                return [*path, "enabled"], bool
        if struct is not None:
            fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
            key = part.lower()
            if key not in fields:
                named = [variable_of(".".join([*path, name])) for name in fields]
                raise _UnknownKeyError(did_you_mean(variable, named))
            wanted = fields[key]
        elif table is not None:
            key = _spelled(part, known)
            wanted = get_args(table)[1]
        else:
            raise _UnknownKeyError(f"{variable_of('.'.join(path))} has no parts")
        path.append(key)
        known = known.get(key) if isinstance(known, Mapping) else None
    return path, wanted


def _parts(annotation: Any) -> tuple[Any, ...]:
    """A type, or the members of a union."""
    if get_origin(annotation) is None or get_origin(annotation) in (dict, list, tuple, Literal):
        return (annotation,)
    return get_args(annotation)


def _spelled(part: str, known: Any) -> str:
    """The name that the file has for it: an environment knows no small letters and no dashes."""
    names = list(known) if isinstance(known, Mapping) else []
    return next((name for name in names if re.sub(r"[^A-Z0-9]", "_", name.upper()) == part), part.lower())


def _value(text: str, wanted: Any) -> Any:
    """The value of a key. Raises `UsageError` if the text is none; it does not repeat it, for it may be secret."""
    options = _parts(wanted)
    lists = [each for each in options if get_origin(each) in (list, tuple)]
    tables = [
        each
        for each in options
        if get_origin(each) is dict or (isinstance(each, type) and issubclass(each, msgspec.Struct))
    ]
    if (tables and text.lstrip().startswith("{")) or (lists and text.lstrip().startswith("[")):
        try:
            return tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"not valid TOML: {error}") from None
    if lists:
        return _value_of([part.strip() for part in text.split(",")], wanted)
    if tables and str not in options:
        raise UsageError('must be a table as TOML writes it, such as { name = "value" }')
    return _value_of(text, str if str in options else wanted)


def _value_of(text: Any, wanted: Any) -> Any:
    try:
        return msgspec.to_builtins(msgspec.convert(text, wanted, strict=False))
    except msgspec.ValidationError:
        raise UsageError(f"must be {_described(wanted)}") from None


def _described(wanted: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    for each in _parts(wanted):
        if get_origin(each) is Literal:
            return "one of " + ", ".join(map(str, get_args(each)))
        if each in words:
            return words[each]
    return "values of the right type, separated by commas"


def _fix(variable: str, text: str, told: str) -> str:
    if text.startswith("tcp://"):
        return (
            f"{told}; Kubernetes sets it for a service called streamfold: "
            "give the service another name, or the pod enableServiceLinks: false"
        )
    return told


def _put(settings: Settings, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = settings.setdefault(part, {})
        if not isinstance(inner, dict):
            # NAME=URL and NAME__KEY_ENV=… of the same upstream: the first stands for the table's url.
            inner = settings[part] = {"url": inner}
        settings = inner
    settings[path[-1]] = value
