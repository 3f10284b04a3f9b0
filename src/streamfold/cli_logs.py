"""The commands under `streamfold logs`: what can be asked of the log, and what can be done to it.

Most commands take the same filters. They are written down once, as the parameters of `_query`, and `filtered` hands
them on; their values go through `LogQuery.parse`, so a mistake is told in the same words everywhere.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from typer.core import TyperGroup

from streamfold.cli_output import fail, need, print_line, say
from streamfold.errors import UsageError

if TYPE_CHECKING:
    from streamfold.store.log_store import LogStore
    from streamfold.store.query import Histogram, Statistics
    from streamfold.store.row import LogRow

__all__ = ["DEFAULT", "AsJson", "Database", "asked", "filtered", "logs", "plain", "reading"]

WIDTH_OF_PIPE: Final = 180
BAR: Final = 40


class _LogsGroup(TyperGroup):
    """Says what has to be installed."""

    def invoke(self, ctx: Any) -> Any:
        need("sqlalchemy", "rich")
        return super().invoke(ctx)


logs = typer.Typer(cls=_LogsGroup, help="Read the log that `serve` writes.", no_args_is_help=True)


class ExportFormat(StrEnum):
    """What `export` writes."""

    JSONL = "jsonl"
    PARQUET = "parquet"


Database = Annotated[
    str,
    typer.Option("--db", metavar="URL", envvar="STREAMFOLD_DB", help="Log database: a path, or a database's URL."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
DEFAULT: Final = "streamfold.db"
Words = list[str] | None


def _option(help: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel="Filters")


def _query(
    since: Annotated[str | None, _option("Not before: RFC 3339, or how long ago.", metavar="2h|7d|TIME")] = None,
    until: Annotated[str | None, _option("Before this time.", metavar="2h|7d|TIME")] = None,
    model: Annotated[Words, _option("As asked or as served; * stands for anything.", metavar="NAME")] = None,
    provider: Annotated[Words, _option("Provider.", metavar="NAME")] = None,
    upstream: Annotated[Words, _option("Upstream of the gateway.", metavar="NAME")] = None,
    format: Annotated[Words, _option("Wire format.", "--wire-format", metavar="NAME")] = None,
    stream_type: Annotated[Words, _option("What is made, such as chat.completion.", metavar="NAME")] = None,
    status: Annotated[Words, _option("Outcome, or processing.", metavar="NAME")] = None,
    finish_reason: Annotated[Words, _option("Finish reason.", metavar="NAME")] = None,
    error_type: Annotated[Words, _option("Type or code of the error.", metavar="NAME")] = None,
    http_status: Annotated[Words, _option("HTTP status.", metavar="CODE")] = None,
    stream: Annotated[bool | None, _option("Streamed, or not.", "--stream/--no-stream")] = None,
    client: Annotated[Words, _option("Name of the caller's access key.", metavar="NAME")] = None,
    session_id: Annotated[Words, _option("Session.", "--session", metavar="ID")] = None,
    parent_id: Annotated[Words, _option("Attempts at this request.", "--parent", metavar="ID")] = None,
    trace_id: Annotated[Words, _option("Trace.", "--trace", metavar="ID")] = None,
    tool: Annotated[Words, _option("Tool that the model called.", metavar="NAME")] = None,
    minimum: Annotated[Words, _option("Least value, such as latency_ms=500.", "--min", metavar="NUMBER=N")] = None,
    maximum: Annotated[Words, _option("Greatest value, such as cost=0.1.", "--max", metavar="NUMBER=N")] = None,
    missing_cost: Annotated[bool, _option("Finished requests without a cost.", "--missing-cost")] = False,
    anomalies: Annotated[bool | None, _option("Odd streams, or the others.", "--anomalies/--no-anomalies")] = None,
    text: Annotated[str | None, _option("In question, answer or error.", metavar="TEXT")] = None,
    everywhere: Annotated[bool, _option("Look for --text in whole requests and records.", "--everywhere")] = False,
    metadata: Annotated[Words, _option("Metadata.", "--meta", metavar="KEY=VALUE")] = None,
) -> list[tuple[str, str]]:
    """The filters that were given, as `LogQuery.parse` takes them."""
    given = dict(locals())
    pairs = [(f"min_{name}", value) for name, value in _assignments("--min", given.pop("minimum"))]
    pairs += [(f"max_{name}", value) for name, value in _assignments("--max", given.pop("maximum"))]
    pairs += [(f"metadata.{name}", value) for name, value in _assignments("--meta", given.pop("metadata"))]
    for name, value in given.items():
        if isinstance(value, list):
            pairs += [(name, each) for each in value]
        elif isinstance(value, bool) and (value or name in ("stream", "anomalies")):
            pairs.append((name, str(value).lower()))
        elif isinstance(value, str):
            pairs.append((name, value))
    return pairs


def _assignments(flag: str, said: Words) -> Iterator[tuple[str, str]]:
    for each in said or ():
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise UsageError(f"{flag} {each}: write it as NAME=VALUE")
        yield name, value


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the filters as flags; it gets their pairs as `filters`."""
    shared = inspect.signature(_query, eval_str=True).parameters
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "filters"]
    flags = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shared.values()]

    @wraps(command)
    def run(**given: Any) -> None:
        filters = _query(**{name: given.pop(name) for name in shared})
        command(filters=filters, **given)

    run.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *flags)}
    return run


def asked(filters: list[tuple[str, str]], **more: Any) -> Any:
    """The query of a command: its filters, and what else it was told."""
    from streamfold.store.query import LogQuery

    return LogQuery.parse([*filters, *((name, str(value)) for name, value in more.items() if value is not None)])


# ---------------------------------------------------------------------- reading


@logs.command("list")
@filtered
def list_(
    filters: Any,
    db: Database = DEFAULT,
    limit: Annotated[int, typer.Option(min=1, help="How many rows.")] = 20,
    sort: Annotated[str, typer.Option(help="A column; with a minus, the largest first.")] = "-created",
    cursor: Annotated[str | None, typer.Option(help="Go on where a list ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """List requests, the newest first."""
    from streamfold.store.query import find

    query = asked(filters, limit=limit, sort=sort, cursor=cursor)
    with reading(db) as store:
        page = find(store, query)
    if as_json:
        for row in page.rows:
            print_line(_light(row))
    else:
        _print_rows(page.rows)
    if page.next_cursor is not None:
        say(f"there are more: --cursor {page.next_cursor}")


@logs.command()
def show(
    id: Annotated[str, typer.Argument(help="A request id, or its beginning.")],
    db: Database = DEFAULT,
    text: Annotated[bool, typer.Option("--text", help="Only the text of the answer.")] = False,
) -> None:
    """Show one request with everything that is known of it."""
    from streamfold.store.export import as_line

    with reading(db) as store:
        row = store.get(id)
    if row is None:
        fail(f"{db} has no row whose id is, or alone begins with, {id}", 1)
    if not text:
        print_line(msgspec.json.format(as_line(row), indent=2))
        return
    if row.record is None:
        fail(f"the content of {row.id} is not stored", 1)
    message = msgspec.json.decode(row.record).get("output_message") or {}
    print_line((message.get("content") or "").encode("utf-8", "replace"))


@logs.command()
@filtered
def stats(
    filters: Any,
    db: Database = DEFAULT,
    by: Annotated[list[str] | None, typer.Option(help="Group by a column.", metavar="COLUMN")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many groups, the largest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Sum up: requests, success, tokens, cost, latency and time to first token."""
    from streamfold.store.query import grouped, statistics

    query = asked(filters)
    with reading(db) as store:
        if by is None:
            found = [statistics(store, query)]
        else:
            found = grouped(store, query, [name for each in by for name in each.split(",")], limit=limit)
    if as_json:
        for each in found:
            print_line(msgspec.json.encode(each))
    elif by is None:
        _print_statistics(found[0])
    else:
        _print_groups(found)


@logs.command()
@filtered
def sessions(
    filters: Any,
    db: Database = DEFAULT,
    limit: Annotated[int, typer.Option(min=1, help="How many, the latest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Sum up by session: requests, tokens, cost."""
    from streamfold.store.query import sessions

    query = asked(filters)
    with reading(db) as store:
        found = sessions(store, query, limit=limit)
    if not as_json:
        _print_groups(found)
        return
    for each in found:
        print_line(msgspec.json.encode(each))


@logs.command()
@filtered
def histogram(
    filters: Any,
    db: Database = DEFAULT,
    of: Annotated[str, typer.Option(help="Which number.")] = "latency_ms",
    bins: Annotated[int, typer.Option(min=1, help="How many bins.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show how often which values of a number occur."""
    from streamfold.store.query import histogram

    query = asked(filters)
    with reading(db) as store:
        found = histogram(store, query, of, bins)
    if as_json:
        print_line(msgspec.json.encode(found))
    else:
        _print_histogram(found)


@logs.command()
@filtered
def tail(
    filters: Any,
    db: Database = DEFAULT,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Follow the log: each request when it begins and when it ends. Ctrl-C ends it."""
    from streamfold.store.follow import Follower

    query = asked(filters)
    with reading(db) as store:
        follower = Follower(store, query)
        say(f"following {store.name}; Ctrl-C ends")
        pause = threading.Event()
        try:
            while True:
                for row in follower.look():
                    print_line(_light(row) if as_json else _as_text(row))
                pause.wait(interval)
        except KeyboardInterrupt:
            return


@logs.command()
@filtered
def export(
    filters: Any,
    out: Annotated[str, typer.Argument(metavar="OUT", help="A file; - is standard output.")],
    db: Database = DEFAULT,
    kind: Annotated[ExportFormat, typer.Option("--format", help="Lines of JSON, or Parquet.")] = ExportFormat.JSONL,
    limit: Annotated[int | None, typer.Option(min=1, help="How many rows.", show_default="all")] = None,
    sort: Annotated[str, typer.Option(help="A column; with a minus, the largest first.")] = "created",
) -> None:
    """Write rows with all their content to a file, the oldest first."""
    from streamfold.store.export import export_jsonl

    query = asked(filters, limit=limit, sort=sort)
    if kind is ExportFormat.PARQUET:
        if out == "-":
            raise UsageError("a Parquet file cannot go to standard output; name a file")
        need("pyarrow")
    with reading(db) as store:
        if out == "-":
            lines = export_jsonl(store, query, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            lines = _exported(store, query, Path(out), kind)
    say(f"{lines} rows exported")


def _exported(store: LogStore, query: Any, path: Path, kind: ExportFormat) -> int:
    from streamfold.store.export import export_jsonl, export_parquet, written_whole

    try:
        if kind is ExportFormat.PARQUET:
            return export_parquet(store, query, path)
        with written_whole(path) as unfinished, unfinished.open("wb") as file:
            return export_jsonl(store, query, file)
    except OSError as error:
        fail(f"cannot write {path}: {(error.strerror or type(error).__name__).lower()}", 1)


# ---------------------------------------------------------------------- changing


@logs.command()
@filtered
def reprice(
    filters: Any,
    db: Database = DEFAULT,
    prices: Annotated[Path | None, typer.Option(metavar="FILE", help="Prices of your own, which win.")] = None,
    missing_only: Annotated[bool, typer.Option("--missing-only", help="Only rows that have no cost.")] = False,
    billed_too: Annotated[bool, typer.Option("--billed-too", help="Also rows whose cost the provider stated.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Compute the costs again with today's prices."""
    from streamfold.catalog import ModelCatalog
    from streamfold.store.reprice import reprice

    query = asked(filters, missing_cost="true" if missing_only and ("missing_cost", "true") not in filters else None)
    catalog = ModelCatalog(overrides=prices)
    with _changing(db, dry_run) as store:
        done = reprice(store, query, catalog, billed_too=billed_too, dry_run=dry_run)
    print_line(msgspec.json.format(msgspec.json.encode(done), indent=2))


@logs.command()
def retain(
    db: Database = DEFAULT,
    max_age: Annotated[str | None, typer.Option(metavar="30d", help="Older rows go.")] = None,
    content_max_age: Annotated[str | None, typer.Option(metavar="7d", help="Older content goes.")] = None,
    max_bytes: Annotated[str | None, typer.Option(metavar="5GiB", help="The oldest rows go beyond it.")] = None,
    content_max_bytes: Annotated[str | None, typer.Option(metavar="2GiB", help="The oldest content goes.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Remove old rows, or the content of old rows: requests and answers go, figures stay."""
    from streamfold.store.retention import Retention, apply

    rules = Retention(
        max_age=max_age, content_max_age=content_max_age, max_bytes=max_bytes, content_max_bytes=content_max_bytes
    )
    if rules == Retention():
        raise UsageError("say what is to go: --max-age, --content-max-age, --max-bytes or --content-max-bytes")
    with _changing(db, dry_run) as store:
        removed = apply(store, rules, dry_run=dry_run)
    print_line(msgspec.json.encode(removed))


# ---------------------------------------------------------------------- opening and showing


@contextmanager
def reading(db: str) -> Iterator[LogStore]:
    """The log to read from. If its database fails meanwhile, the command ends with one line."""
    from streamfold.store.log_store import LogStore

    with _telling_failures(LogStore.open_existing(db)) as store:
        yield store


@contextmanager
def _changing(db: str, dry_run: bool) -> Iterator[LogStore]:
    """The log to write to; one that is not there is not made."""
    from streamfold.store.log_store import LogStore

    existing = LogStore.open_existing(db)
    if not dry_run:
        existing.close()
        existing = LogStore.open(db)
    with _telling_failures(existing) as store:
        yield store


@contextmanager
def _telling_failures(store: LogStore) -> Iterator[LogStore]:
    """The log while the block runs. If its database fails, the command ends with one line, without a password in it."""
    from sqlalchemy.exc import SQLAlchemyError

    from streamfold.store.database import UnwritableError

    with store:
        try:
            yield store
        except (SQLAlchemyError, UnwritableError) as error:
            fail(f"the log database failed: {store.said(error)}", 1)


def _light(row: LogRow) -> bytes:
    from streamfold.store.row import HEAVY

    return msgspec.json.encode({name: each for name, each in msgspec.structs.asdict(row).items() if name not in HEAVY})


def _print_rows(rows: list[LogRow]) -> None:
    heads = ("id", "created", "path", "model", "status", "why", "tokens", "cost", "chunks", "first token", "whole")
    _print_table(heads, [_cells(row) for row in rows])


def _cells(row: LogRow) -> tuple[str, ...]:
    return (
        row.id[:8],
        row.created[:19],
        f"/{row.upstream or ''}{row.path or ''}",
        _dash(row.response_model or row.model),
        row.status,
        _dash(row.finish_reason or row.error_code or row.error_type),
        f"{_dash(row.prompt_tokens)}/{_dash(row.completion_tokens)}",
        _money(row.cost),
        str(row.chunks),
        _time(row.time_to_first_token_ms),
        _time(row.latency_ms),
    )


def _as_text(row: LogRow) -> bytes:
    id, created, path, model, status, finish, tokens, cost, _, first, whole = _cells(row)
    words = (created, id, status, path, model, finish, tokens, cost, first, whole)
    return plain("  ".join(words)).encode("utf-8", "replace")


def _print_groups(found: list[Statistics]) -> None:
    figures = (
        "requests",
        "success",
        "tokens in/out",
        "cost",
        "no cost",
        "latency p50",
        "p95",
        "first token p50",
        "p95",
    )
    heads = (*(found[0].group if found else ()), *figures)
    rows = []
    for each in found:
        latency, first = each.latency_ms, each.time_to_first_token_ms
        rows.append(
            (
                *(_dash(value) for value in each.group.values()),
                str(each.requests),
                _share(each.success_rate),
                f"{_dash(each.prompt_tokens)}/{_dash(each.completion_tokens)}",
                _money(each.cost),
                str(each.without_cost),
                *(_time(value) for value in (latency.p50, latency.p95, first.p50, first.p95)),
            )
        )
    _print_table(heads, rows)


def _print_statistics(found: Statistics) -> None:
    rows = [
        ("requests", str(found.requests)),
        *((f"  {status}", str(number)) for status, number in found.by_status.items()),
        ("success rate", _share(found.success_rate)),
        ("streamed", str(found.streamed)),
        ("models", str(found.models)),
        ("prompt tokens", f"{_dash(found.prompt_tokens)} ({_dash(found.cached_tokens)} read from a cache)"),
        ("completion tokens", f"{_dash(found.completion_tokens)} ({_dash(found.reasoning_tokens)} for reasoning)"),
        ("without usage", str(found.without_usage)),
        ("cost", f"{_money(found.cost)} ({found.without_cost} requests have none)"),
    ]
    for name, spread in (
        ("latency", found.latency_ms),
        ("time to first token", found.time_to_first_token_ms),
        ("time per output token", found.time_per_output_token_ms),
    ):
        each = zip(("mean", "p50", "p90", "p95", "p99"), msgspec.structs.astuple(spread), strict=True)
        rows.append((name, ", ".join(f"{word} {_time(value)}" for word, value in each)))
    _print_table(("", ""), rows)


def _print_histogram(found: Histogram) -> None:
    most = max((each.count for each in found.bins), default=0)
    rows = [
        (f"{each.low:.6g}", f"{each.high:.6g}", str(each.count), "█" * round(BAR * each.count / most))
        for each in found.bins
    ]
    _print_table((found.of, "to", "requests", ""), rows)
    if found.missing:
        say(f"{found.missing} requests have no {found.of}")


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads, show_header=any(heads))
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else WIDTH_OF_PIPE).print(table)


def plain(text: str) -> str:
    """What is in the log was said by strangers: no markup, and no sequence that a terminal would obey."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _dash(value: object) -> str:
    return "-" if value is None else str(value)


def _time(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.0f} ms"


def _money(dollars: float | None) -> str:
    if dollars is None:
        return "-"
    if dollars >= 1:
        return f"${dollars:,.2f}"
    written = f"{Decimal(f'{dollars:.4g}'):f}"  # a ten-thousandth of a cent, and still no exponent
    return f"${written}"


def _share(part: float | None) -> str:
    return "-" if part is None else f"{part:.1%}"
