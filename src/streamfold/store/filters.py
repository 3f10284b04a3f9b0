"""Which rows are meant: `LogQuery`, the one description that Python, the command line and the page share.

A query is a value; nothing happens before it is asked. It becomes a list of SQL conditions here and nowhere else.

Pages are cut by key, not by number: a cursor holds the sort value and the id of the last row that was shown, and the
next page begins behind it. So rows that arrive in between neither repeat a row nor hide one. The cursor holds the time
range too, since "the last hour" would otherwise move from page to page.
"""

from __future__ import annotations

import base64
import re
import typing
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Self

import msgspec
from sqlalchemy import ColumnElement, and_, func, or_

from streamfold.errors import UsageError
from streamfold.settings import did_you_mean
from streamfold.store.expressions import contains, like, metadata_value, unindexed
from streamfold.store.schema import request_log
from streamfold.timestamps import written
from streamfold.types import Status, StreamType

__all__ = ["MEASURES", "SORTS", "STATUSES", "Cursor", "LogQuery", "conditions", "model_name", "seconds_of", "timestamp"]

STATUSES: Final[tuple[str, ...]] = typing.get_args(Status)
MEASURES: Final = (
    "latency_ms",
    "time_to_first_token_ms",
    "time_per_output_token_ms",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cost",
    "chunks",
)
"""The numbers that a range may limit and a histogram may show."""
SORTS: Final = ("created", "latency_ms", "time_to_first_token_ms", "total_tokens", "cost", "chunks")

_ONE_OF: Final = (
    *("provider", "upstream", "format", "stream_type", "status", "finish_reason", "http_status"),
    *("client", "session_id", "parent_id", "trace_id"),
)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_COLUMNS: Final = request_log.c


class LogQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Filters, order and page of a list of requests. Each field narrows; those left out do not.

    Where a field takes several values, a row needs one of them; a single string may be given as it is. A mistake
    raises `UsageError` with the field's name and the fix, at once.
    """

    since: str | None = None
    """The earliest start of a request: RFC 3339, or how long ago (`30s`, `15m`, `2h`, `7d`, `4w`)."""
    until: str | None = None
    """The first moment that is too late, written the same way."""
    provider: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    """As asked or as served; `*` stands for any characters (`gpt-5*`)."""
    upstream: tuple[str, ...] = ()
    format: tuple[str, ...] = ()
    stream_type: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    finish_reason: tuple[str, ...] = ()
    error_type: tuple[str, ...] = ()
    """The type or the code of the error, as the provider words it."""
    http_status: tuple[int, ...] = ()
    stream: bool | None = None
    client: tuple[str, ...] = ()
    session_id: tuple[str, ...] = ()
    parent_id: tuple[str, ...] = ()
    trace_id: tuple[str, ...] = ()
    tool: tuple[str, ...] = ()
    """Names of tools that the model called."""
    minimum: dict[str, float] = {}
    """The least a number may be, by its column (`{"latency_ms": 500}`); one of `MEASURES`."""
    maximum: dict[str, float] = {}
    missing_cost: bool = False
    """Only finished requests that have no cost."""
    anomalies: bool | None = None
    """Only requests about whose stream `integrity` has something to tell, or only those without."""
    text: str | None = None
    """A piece of the question, the answer or the error, in capitals or not."""
    everywhere: bool = False
    """Look for `text` in the whole stored request and record too, which is slow."""
    metadata: dict[str, str] = {}
    """Keys that the caller attached, with the value that each must have."""
    sort: str = "-created"
    """One of `SORTS`, with a minus for the largest first. Rows without the number come last."""
    limit: int | None = None
    """How many rows a page has."""
    cursor: str | None = None
    """`next_cursor` of the page before, to go on behind it."""

    def __post_init__(self) -> None:
        for name, value in msgspec.structs.asdict(self).items():
            if isinstance(value, str | int) and not isinstance(value, bool) and _is_tuple(name):
                msgspec.structs.force_setattr(self, name, (value,))
        _check_words("status", self.status, STATUSES)
        _check_words("stream_type", self.stream_type, [str(each) for each in StreamType])
        _check_words("minimum", self.minimum, MEASURES)
        _check_words("maximum", self.maximum, MEASURES)
        _check_words("sort", [self.sort.removeprefix("-")], SORTS)
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit must be at least 1, not {self.limit}")
        for name in ("since", "until"):
            if (said := getattr(self, name)) is not None:
                timestamp(name, said)
        if self.cursor is not None:
            Cursor.read(self.cursor, self.sort)

    @classmethod
    def parse(cls, pairs: Iterable[tuple[str, str]]) -> Self:
        """The query that keys and values in text describe, as a URL or a command line has them.

        A key that takes several values may come again. A range is `min_latency_ms` or `max_cost`, a piece of metadata
        `metadata.team`.
        """
        said: dict[str, Any] = {}
        for key, value in pairs:
            side, _, measure = key.partition("_")
            if key.startswith("metadata."):
                said.setdefault("metadata", {})[key.removeprefix("metadata.")] = value
            elif side in ("min", "max") and measure:
                said.setdefault(side + "imum", {})[measure] = _number(key, value)
            elif key not in cls.__struct_fields__:
                raise UsageError(f'unknown filter "{key}"; {did_you_mean(key, cls.__struct_fields__)}')
            elif _is_tuple(key):
                said.setdefault(key, []).append(value)
            elif key in said:
                raise UsageError(f"{key} is given twice; give it once")
            else:
                said[key] = value
        try:
            return msgspec.convert(said, cls, strict=False)
        except msgspec.ValidationError as error:
            told, _, place = str(error).replace(" | null", "").partition(" - at `$.")
            raise UsageError(f"{place.rstrip('`') or 'the query'}: {told[0].lower()}{told[1:]}") from None

    @property
    def column(self) -> str:
        """The column that the rows are sorted by."""
        return self.sort.removeprefix("-")

    @property
    def descending(self) -> bool:
        """Whether the largest come first."""
        return self.sort.startswith("-")

    def fixed(self, now: datetime | None = None) -> Self:
        """The same query with the times of its cursor, or its relative times counted from `now`."""
        now = now or datetime.now(UTC)
        since, until = (said and timestamp(name, said, now) for name, said in self._range())
        return msgspec.structs.replace(self, since=since, until=until)

    def _range(self) -> tuple[tuple[str, str | None], tuple[str, str | None]]:
        if self.cursor is None:
            return ("since", self.since), ("until", self.until)
        cursor = Cursor.read(self.cursor, self.sort)
        return ("since", cursor.since), ("until", cursor.until)


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{key}: {text!r} is no number; write one such as 500 or 0.1") from None


class Cursor(NamedTuple):
    """Where a page ended."""

    sort: str
    value: str | float | None
    id: str
    since: str | None
    until: str | None

    @classmethod
    def read(cls, text: str, sort: str) -> Cursor:
        """The cursor in a text. Raises `UsageError` if it is none, or of a list in another order."""
        try:
            found = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=Cursor)
        except (ValueError, msgspec.MsgspecError):
            raise UsageError("cursor is none that a page gave; begin without one") from None
        if found.sort != sort:
            raise UsageError(f"cursor belongs to a list sorted by {found.sort}; keep the sort, or begin without one")
        return found

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()


def seconds_of(name: str, text: str) -> float:
    """The seconds of a duration such as `90s`, `15m`, `2h`, `7d` or `4w`. Raises `UsageError` that names `name`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    if found is None:
        raise UsageError(f"{name}: {text!r} is no duration; write one such as 90s, 15m, 2h, 7d or 4w")
    return float(found[1]) * _SECONDS[found[2]]


def timestamp(name: str, text: str, now: datetime | None = None) -> str:
    """A moment as the log writes it. Raises `UsageError` that names `name` and says what can be written."""
    try:
        if re.fullmatch(r"[\d.]+\s*[smhdw]", text.strip().lower()):
            moment = (now or datetime.now(UTC)) - timedelta(seconds=seconds_of(name, text))
        else:
            moment = datetime.fromisoformat(text.strip())
        # A time without a zone is UTC, as all times of the log are.
        moment = moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{name}: {text!r} is no time; write RFC 3339, such as 2026-01-31T12:00:00Z, or how long ago, such as 7d"
        ) from None
    return written(moment)


def model_name() -> ColumnElement[Any]:
    """The model as asked, or as served where the request named none."""
    return func.coalesce(_COLUMNS.model, _COLUMNS.response_model)


def conditions(query: LogQuery, *, by_status: bool = True) -> list[ColumnElement[bool]]:
    """What a row must fulfil, all of it. The query's times must be fixed; the cursor is not among the conditions.

    `by_status` False: rows are not to be looked up by their status.
    """
    found: list[ColumnElement[bool]] = []
    if query.since is not None:
        found.append(_COLUMNS.created >= query.since)
    if query.until is not None:
        found.append(_COLUMNS.created < query.until)
    for name in _ONE_OF:
        if wanted := getattr(query, name):
            known = by_status or name != "status"
            found.append((_COLUMNS[name] if known else unindexed(_COLUMNS[name])).in_(wanted))
    if query.model:
        found.append(or_(*(_fits(column, name) for name in query.model for column in _models())))
    if query.error_type:
        found.append(or_(_COLUMNS.error_type.in_(query.error_type), _COLUMNS.error_code.in_(query.error_type)))
    if query.tool:
        called = "," + func.coalesce(_COLUMNS.tool_names, "") + ","
        found.append(or_(*(contains(called, f",{name},") for name in query.tool)))
    if query.stream is not None:
        found.append(_COLUMNS.stream == query.stream)
    if query.anomalies is not None:
        found.append(_COLUMNS.anomalies > 0 if query.anomalies else _COLUMNS.anomalies == 0)
    if query.missing_cost:
        found.append(and_(_COLUMNS.cost.is_(None), _COLUMNS.status != "processing"))
    found += [_COLUMNS[name] >= least for name, least in query.minimum.items()]
    found += [_COLUMNS[name] <= most for name, most in query.maximum.items()]
    found += [metadata_value(_COLUMNS.metadata, key) == value for key, value in query.metadata.items()]
    if query.text is not None:
        found.append(_mentions(query.text, everywhere=query.everywhere))
    return found


def _models() -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    return _COLUMNS.model, _COLUMNS.response_model


def _fits(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    return like(column, name) if "*" in name else column == name


def _mentions(text: str, *, everywhere: bool) -> ColumnElement[bool]:
    names = ("search_text", "error_message") + (("request", "record") if everywhere else ())
    return or_(*(contains(_COLUMNS[name], text, fold=True) for name in names))


def _is_tuple(field: str) -> bool:
    return isinstance(LogQuery.__struct_defaults__[LogQuery.__struct_fields__.index(field)], tuple)


def _check_words(name: str, words: Iterable[str], known: Iterable[str]) -> None:
    for word in words:
        if word not in known:
            raise UsageError(f'{name}: unknown "{word}"; {did_you_mean(word, known)}')
