"""The settings of the logging plugin: the section `[plugins.logging]`."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from streamfold.errors import UsageError
from streamfold.store.log_store import DEFAULT_DB
from streamfold.store.retention import Retention

__all__ = ["LoggingConfig"]

_AT: Final = "plugins.logging."
SMALLEST_CAP: Final = 1024


class LoggingConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is kept of a request, where, and for how long.

    Raises `UsageError` with the key when a value makes no sense.
    """

    url: str = DEFAULT_DB
    """The database: a path, or a URL of SQLite, PostgreSQL or ClickHouse. Default: `streamfold.db`."""
    spill_dir: str | None = None
    """The directory in which rows wait for the database. Default: chosen by the store."""
    spill_bytes: int | None = None
    """How many bytes may wait there. Default: chosen by the store."""
    bad_bytes: int | None = None
    """How many bytes of rows that could never be written are kept there. Default: chosen by the store."""
    bad_files: int | None = None
    """In how many files. Default: chosen by the store."""
    content: bool = True
    """Whether what was said is kept. False: only figures and names. Default: true."""
    max_content_bytes: int = 1024 * 1024
    """The most bytes of each content column; what is beyond is left out and the place marked. Default: 1 MiB."""
    redact: list[str] = []
    """Regular expressions; what they match in a text is stored as `[redacted]`. Default: none."""
    headers: list[str] = []
    """The names of request headers to keep. Default: none."""
    binary: Literal["digest", "keep"] = "digest"
    """`digest`: sound, images and long base64 are stored as size and SHA-256. `keep`: as they came. Default: digest."""
    estimate: bool = True
    """Whether tokens are guessed where the provider said none; guesses have columns of their own. Default: true."""
    checkpoint_s: float = 5.0
    """Seconds between two times that an unfinished stream is stored as far as it has come; 0: never. Default: 5."""
    metadata: dict[str, str] = {}
    """Labels for every row; what the caller attached wins over them. Default: none."""
    retention: Retention | None = None
    """How long rows and their content stay; see `Retention`. Default: for ever."""

    def __post_init__(self) -> None:
        if self.max_content_bytes < SMALLEST_CAP:
            raise UsageError(
                f'"{_AT}max_content_bytes" is {self.max_content_bytes}; give at least {SMALLEST_CAP}, '
                "or set content = false to keep none"
            )
        if not 0 <= self.checkpoint_s < float("inf"):
            raise UsageError(f'"{_AT}checkpoint_s" is {self.checkpoint_s:g}; give seconds, or 0 for no checkpoints')
        for name, unit in (("spill_bytes", "bytes"), ("bad_bytes", "bytes"), ("bad_files", "files")):
            if (most := getattr(self, name)) is not None and most < 1:
                raise UsageError(f'"{_AT}{name}" is {most}; give a number of {unit} above 0')
        _check(self.redact)

    def queue(self) -> dict[str, Any]:
        """What the store is to be told of where rows wait: the settings that were given."""
        given = {name: getattr(self, name) for name in ("spill_dir", "spill_bytes", "bad_bytes", "bad_files")}
        return {name: value for name, value in given.items() if value is not None}


def _check(expressions: list[str]) -> None:
    """Raises `UsageError` for an expression that cannot be used."""
    for place, expression in enumerate(expressions):
        key = f'"{_AT}redact[{place}]"'
        try:
            pattern = re.compile(expression)
        except re.error as error:
            raise UsageError(f"{key} is no regular expression: {error}") from None
        if pattern.search(""):
            raise UsageError(f"{key} matches the empty text, hence everywhere; make it ask for a character at least")
