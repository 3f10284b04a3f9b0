"""`streamfold replay`: logged tapes folded again with today's code, or one of them played back at its pace."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from streamfold.cli_logs import DEFAULT, AsJson, Database, asked, filtered, plain, reading
from streamfold.cli_output import complain, fail, need, print_line, say
from streamfold.errors import UsageError

if TYPE_CHECKING:
    from streamfold.store.log_store import LogStore
    from streamfold.store.replay import Replayed
    from streamfold.store.row import LogRow

__all__ = ["replay"]


@filtered
def replay(
    filters: Any,
    id: Annotated[str | None, typer.Argument(metavar="ID", help="A request id, or its beginning.")] = None,
    db: Database = DEFAULT,
    limit: Annotated[int | None, typer.Option(min=1, help="How many rows.", show_default="all")] = None,
    as_json: AsJson = False,
    play: Annotated[bool, typer.Option("--play", help="Write the frames of ID as an SSE body, at their pace.")] = False,
    speed: Annotated[
        float | None, typer.Option(help="How many times as fast to play; 0: without waiting.", show_default="1")
    ] = None,
) -> None:
    """Fold the tapes in the log again, and say what comes out different today.

    Tapes are kept by a gateway with limits.tape_bytes. Exit 0: what could be replayed is the same; 1: not all of it
    is, or nothing could be replayed.

    With --play, the frames of one request go to standard output, each when it came: at the times of the reads in the
    log, spread over the frames in proportion where these are not as many.
    """
    _check_use(id, filters, limit, as_json, play, speed)
    need("sqlalchemy")
    query = asked(filters, limit=limit)
    with reading(db) as store:
        if play:
            row = _the_row(store, id or "")
        else:
            _replay_all([_the_row(store, id)] if id is not None else _found(store, query), as_json)
            return
    _play(row, 1.0 if speed is None else speed)


def _check_use(
    id: str | None, filters: list[tuple[str, str]], limit: int | None, as_json: bool, play: bool, speed: float | None
) -> None:
    if id is not None and (filters or limit is not None):
        raise UsageError("an ID means one request; take out the ID, or the filters")
    if play and id is None:
        raise UsageError("--play needs the ID of one request; find it with: streamfold logs list")
    if play and as_json:
        raise UsageError("--play writes frames; take out --json")
    if speed is not None and not play:
        raise UsageError("--speed belongs to --play")
    if speed is not None and not (speed >= 0 and math.isfinite(speed)):
        raise UsageError(f"--speed {speed}: give 0 or more, such as 2 for twice as fast")


def _the_row(store: LogStore, id: str) -> LogRow:
    row = store.get(id)
    if row is None:
        fail(f"{store.name} has no row whose id is, or alone begins with, {id}", 1)
    return row


def _found(store: LogStore, query: Any) -> Iterator[LogRow]:
    """The rows that fit, the newest first, a few of them in memory at a time."""
    from streamfold.store.query import walk

    for rows in walk(store, query, whole=True):
        yield from rows


# ---------------------------------------------------------------------- folding again


def _replay_all(rows: Iterable[LogRow], as_json: bool) -> None:
    """Says of each row what became of it, sums up, and ends with 1 if that is not that all is the same."""
    from streamfold.store.replay import replayed

    results, reasons = Counter[str](), Counter[str]()
    for row in rows:
        done = replayed(row)
        results[done.result] += 1
        if done.why is not None:
            reasons[done.why.partition(",")[0]] += 1
        print_line(msgspec.json.encode(done) if as_json else _as_text(done))
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    say(
        f"{results['same']} same, {results['differs']} different, {results['not replayed']} not replayed"
        + (f" ({why})" if why else "")
    )
    if results["differs"] or not results["same"]:
        raise typer.Exit(1)


def _as_text(done: Replayed) -> bytes:
    verdict = done.result if done.why is None else f"not replayed: {done.why}"
    if done.differs:
        verdict = f"differs: {', '.join(done.differs)}"
    words = (done.created[:19], done.id[:8], done.format or "-", done.model or "-", verdict)
    return plain("  ".join(words)).encode("utf-8", "replace")


# ---------------------------------------------------------------------- playing back


def _play(row: LogRow, speed: float) -> None:
    from streamfold.store.replay import UnreplayableError, as_sse, offsets, paced, recording

    try:
        found = recording(row)
    except UnreplayableError as reason:
        fail(plain(f"{row.id} cannot be played: {reason}"), 1)
    times = offsets(row, len(found.frames))
    say(plain(f"{len(found.frames)} frames; to fold them: streamfold fold --format {row.format} -"))
    if found.dropped:
        complain(f"the tape was full: the last {found.dropped} frames are missing")
    if found.has_digests:
        complain("binary is stored as digests, so frames are not as they came")
    if speed and not times:
        complain("no times are stored: nothing to wait for")
    try:
        for frame in paced(found.frames, times, speed):
            _write(as_sse(frame, row.format))
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # Whoever read it has enough. What is still buffered must not be tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(event: bytes) -> None:
    if sys.stdout.isatty():
        event = "".join(plain(line) + "\n" for line in event.decode("utf-8", "replace").splitlines()).encode()
    sys.stdout.buffer.write(event)
    sys.stdout.buffer.flush()
