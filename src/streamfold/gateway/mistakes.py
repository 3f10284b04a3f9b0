"""All the mistakes in some settings, not just the first.

A wrong key must not hide the next one, so each key is read by itself, with the same reader and in the same words as
everywhere (`settings`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin

import msgspec

from streamfold.errors import UsageError
from streamfold.settings import key_of, read_settings

__all__ = ["mistakes_in"]

Where = Callable[[str], str]
"""What begins the sentence about a key: the file or the variable that it came from."""


def mistakes_in(settings: Any, kind: type[msgspec.Struct], where: Where, at: str = "") -> list[str]:
    """A sentence for every key that is unknown or has a value that cannot be."""
    if not isinstance(settings, Mapping):
        return _told(settings, kind, where(at.rstrip(".")), at)
    found = []
    types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in settings.items():
        label = where(at + key)
        if key not in types:
            found += _told({key: value}, kind, label, at)
            continue
        inside = _inside(value, types[key], where, f"{at}{key}.")
        found += inside or _told({key: value}, _only(key, types[key]), label, at)
    return found or _told(settings, kind, where(at.rstrip(".")), at)


def _inside(value: Any, annotation: Any, where: Where, at: str) -> list[str]:
    """The mistakes in a table, or in a table of tables."""
    if not isinstance(value, Mapping):
        return []
    if get_origin(annotation) is dict:
        each_kind = get_args(annotation)[1]
        found = []
        for name, each in value.items():
            label, key = where(at + name), key_of(name)
            inside = _inside(each, each_kind, where, f"{at}{key}.")
            found += inside or _told({key: each}, _only(key, each_kind), label, at)
        return found
    struct = _struct_of(annotation)
    return mistakes_in(value, struct, where, at) if struct is not None else []


def _struct_of(annotation: Any) -> type[msgspec.Struct] | None:
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, msgspec.Struct):
            return each
    return None


def _only(key: str, annotation: Any) -> type[msgspec.Struct]:
    """A struct of this one field."""
    return msgspec.defstruct("Only", [("value", annotation)], rename={"value": key}, forbid_unknown_fields=True)


def _told(settings: Any, kind: type[msgspec.Struct], where: str, at: str) -> list[str]:
    try:
        read_settings(settings, kind, where=where, at=at)
    except UsageError as error:
        return [str(error)]
    return []
