"""The table of all options, made from the settings' own types: their fields, defaults and docstrings.

A field's docstring is the text below it, which Python forgets; so it is read from the source. `streamfold serve
--help-config` prints the table, `docs/configuration.md` holds it, and a test compares the two.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from streamfold.errors import UsageError
from streamfold.gateway.config import Config
from streamfold.plugins import BUILT_IN, settings_of

__all__ = ["Option", "markdown", "options"]

NOT_HERE: Final = frozenset((("plugins.logging", "url"),))
"""Keys of a plugin that the gateway sets itself."""
UNITS: Final = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


class Option(msgspec.Struct, frozen=True):
    """One key of the configuration. `default` is as TOML writes it; empty if there is none."""

    section: str
    key: str
    default: str
    meaning: str
    about: str
    """What the section is for."""


def options() -> Iterator[Option]:
    """All options of the gateway and of our own plugins, section by section."""
    yield from _of(Config, "")
    for name in BUILT_IN:
        try:
            kind = settings_of(name)
        except UsageError:  # its library is not installed
            continue
        if kind is not None:
            yield from _of(kind, f"plugins.{name}")


def markdown() -> str:
    """The options as tables, one to a section."""
    lines: list[str] = []
    section = None
    for option in options():
        if option.section != section:
            section = option.section
            head = f"### `[{section}]`" if section else "### At the top of the file"
            lines += ["", head, "", *_about(option.about), "| key | default | meaning |", "|---|---|---|"]
        default = f"`{option.default}`" if option.default else "–"
        size = _human(option.default) if "bytes" in option.key else ""
        lines.append(f"| `{option.key}` | {default}{size} | {option.meaning} |".replace(" |  |", " | |"))
    return "\n".join(lines).strip() + "\n"


def _of(kind: type[msgspec.Struct], section: str) -> Iterator[Option]:
    """The options of a section, then those of the sections in it."""
    inner = []
    meanings = docstrings(kind)
    for field in msgspec.structs.fields(kind):
        place = f"{section}.{field.encode_name}".lstrip(".")
        struct, is_table = _section_in(field.type)
        if struct is not None:
            inner.append((struct, f"{place}.NAME" if is_table else place))
        if struct is not None and not is_table and field.default is msgspec.NODEFAULT:
            continue
        if (section, field.encode_name) in NOT_HERE:
            continue
        meaning = re.sub(r" Default: [^.]*\.$", "", " ".join(meanings.get(field.name, "").split()))
        about = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
        yield Option(section, field.encode_name, _default(field), meaning + _choices(field.type), about)
    for struct, place in inner:
        yield from _of(struct, place)


def _section_in(annotation: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The struct that is a section of its own below a field, and whether there is one for each name."""
    is_table = get_origin(annotation) is dict
    for each in get_args(annotation) or (annotation,):
        if isinstance(each, type) and issubclass(each, msgspec.Struct):
            return each, is_table
        struct, _ = _section_in(each) if get_args(each) else (None, False)
        if struct is not None:
            return struct, is_table
    return None, is_table


def _about(text: str) -> list[str]:
    return [text, ""] if text else []


def _choices(annotation: Any) -> str:
    """The values that a field may have, if they are few."""
    for each in (annotation, *get_args(annotation)):
        if get_origin(each) is Literal:
            return " One of " + ", ".join(f"`{choice}`" for choice in get_args(each)) + "."
    return ""


@cache
def docstrings(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The text below each field of a class."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(found, ast.ClassDef)
    told: dict[str, str] = {}
    for field, after in zip(found.body, [*found.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            told[field.target.id] = after.value.value
    return told


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default
    if value is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if value is msgspec.NODEFAULT or value is None:
        return ""
    return _toml(msgspec.to_builtins(value))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{}" if not value else "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _human(default: str) -> str:
    if not default.isdigit():
        return ""
    number = int(default)
    return next((f" ({number // size} {unit})" for size, unit in UNITS if number and number % size == 0), "")
