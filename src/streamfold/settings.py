"""Typed settings out of TOML or JSON, with mistakes told in the user's words.

A mistake in a configuration must not be guessed around: it stops the start with a sentence that names the key and the
fix. msgspec checks the types; what it cannot say (which known key an unknown one was meant to be) is said here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec

from streamfold.errors import UsageError

__all__ = ["did_you_mean", "key_of", "read_settings", "read_toml"]

S = TypeVar("S", bound=msgspec.Struct)

WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
"""What msgspec calls the types, in the words of people who write TOML."""
UNQUOTED: Final = {"int", "float", "bool"}


def read_toml(path: Path, flag: str) -> dict[str, Any]:
    """The settings in a TOML file. Raises `UsageError` with the path; `flag` is where the user named it."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"cannot read the configuration {path}: {reason.lower()}; check {flag}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None


def read_settings(settings: Any, kind: type[S], *, where: str = "", at: str = "") -> S:
    """The settings as a `kind`. Raises `UsageError` for a key that is unknown or of the wrong type.

    `where` begins the sentence (a file's name, say); `at` is the path of the settings in it, such as `plugins.otel.`.
    """
    _reject_unknown(settings, kind, where, at)
    _check_parts(settings, kind, where, at)
    try:
        return msgspec.convert(settings, kind)
    except msgspec.ValidationError as error:
        raise UsageError(where + _in_words(error, kind, at)) from None


def key_of(name: str) -> str:
    """A name as a part of a dotted key, such that it can be pasted into TOML: in quotes if it must have some. They are
    the single ones, because keys are told within double ones."""
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) or "'" in name else f"'{name}'"


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """The end of a sentence that refuses `key`."""
    known = list(known)
    alike = get_close_matches(key, known, n=1) or [each for each in known if _words(each) & _words(key)]
    if alike:
        return "did you mean " + " or ".join(f'"{each}"' for each in alike) + "?"
    return f"known here are {', '.join(known)}"


def _words(key: str) -> set[str]:
    """`api_key` and `key_env` have one in common."""
    return {word for word in key.split("_") if len(word) > 2}


def _reject_unknown(settings: Any, kind: type[msgspec.Struct], where: str, at: str) -> None:
    """msgspec would refuse an unknown key as well, but it cannot say which one was meant."""
    if not isinstance(settings, Mapping):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in settings.items():
        if key not in fields:
            raise UsageError(f'{where}unknown key "{at}{key_of(key)}"; {did_you_mean(key, fields)}')
        inner = _struct_in(fields[key])
        if inner is None or not isinstance(value, Mapping):
            continue
        if _is_table_of(fields[key]):
            for name, each in value.items():
                _reject_unknown(each, inner, where, f"{at}{key}.{key_of(name)}.")
        else:
            _reject_unknown(value, inner, where, f"{at}{key}.")


def _check_parts(settings: Any, kind: type[msgspec.Struct], where: str, at: str) -> None:
    """Lets the structs inside say what they do not like. They do not know where they stand; that is put before it."""
    if not isinstance(settings, Mapping):
        return
    for field in msgspec.structs.fields(kind):
        inner, value = _struct_in(field.type), settings.get(field.encode_name)
        if inner is None or not isinstance(value, Mapping) or _is_table_of(field.type):
            continue
        try:
            with suppress(msgspec.ValidationError):  # told with its whole path, when all is read
                msgspec.convert(value, inner)
        except UsageError as error:
            raise UsageError(f"{where}{at}{field.encode_name}.{error}") from None


def _struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    """The struct that a field of this type holds, itself or by name."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    return next((found for each in get_args(annotation) if (found := _struct_in(each)) is not None), None)


def _is_table_of(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict


def _in_words(error: msgspec.ValidationError, kind: type[msgspec.Struct], at: str) -> str:
    """`port must be a whole number, not text`, out of msgspec's "Expected `int`, got `str` - at `$.port`"."""
    told, _, place = str(error).partition(" - at `$")
    key = (at + place.rstrip("`").lstrip(".").replace("[...]", ".*")).rstrip(".")
    match = re.fullmatch(r"Expected `(.+)`, got `(.+)`", told)
    if match is not None:
        quoted = "; write it without the quotes" if match[2] == "str" and set(match[1].split(" | ")) & UNQUOTED else ""
        return f'"{key or "the configuration"}" must be {_types(match[1])}, not {_types(match[2])}{quoted}'
    missing = re.fullmatch(r"Object missing required field `(.+)`", told)
    if missing is not None:
        return f'"{key}.{missing[1]}" is missing; give it a value'.replace('".', '"')
    choices = _choices(kind, place.rstrip("`").lstrip(".").split("."))
    if told.startswith("Invalid enum value") and choices:
        value = told.removeprefix("Invalid enum value ").strip("'")
        return f'"{key}" cannot be "{value}"; choose one of {", ".join(choices)}'
    return f'"{key or "the configuration"}": {told}'


def _types(names: str) -> str:
    """`str | object` as `text or a table`."""
    return " or ".join(WORDS.get(name, name) for name in names.split(" | "))


def _choices(kind: type[msgspec.Struct], path: list[str]) -> list[str]:
    """The words that a setting may be, if there are just some; `path` is where it stands."""
    annotation: Any = kind
    for name in path:
        inner = _struct_in(annotation)
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(inner)} if inner is not None else {}
        if name not in fields:
            return []
        annotation = fields[name]
    literals = [each for each in (annotation, *get_args(annotation)) if get_origin(each) is Literal]
    return [str(word) for each in literals for word in get_args(each)]
