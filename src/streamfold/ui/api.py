"""The questions that the page asks, each a function from a query string to an answer.

The filters of a query string are those of `LogQuery`, by the same names, so that what the page shows, the command line
and Python can ask for as well. What an answer may cost is bounded here: rows of a page, buckets, bins, groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from streamfold.errors import UsageError
from streamfold.store.log_store import LogStore
from streamfold.store.query import LogQuery, count, find, grouped, histogram, series, statistics
from streamfold.ui.answers import Count, Rows, as_row, as_whole_row, schema

__all__ = ["PATHS", "QUESTIONS", "row", "rows"]

Pairs = list[tuple[str, str]]

MOST_ROWS: Final = 500
MOST_BUCKETS: Final = 500
MOST_BINS: Final = 200
MOST_GROUPS: Final = 100

PATHS: Final = {
    "/api/rows": "Rows: one page of the log; query: the filters, sort, limit and cursor of LogQuery",
    "/api/rows/{id}": "WholeRow: one row with what was asked and answered",
    "/api/count": "Count: how many rows fit",
    "/api/statistics": "Statistics over all rows that fit; with by=model,status (and top=20) one per group; "
    "figures=requests,cost computes these only",
    "/api/series": "list of Bucket: figures over time; interval=5m, or about buckets=60 of them; "
    "figures=latency_ms computes these only",
    "/api/histogram": "Histogram of a number (of=latency_ms) in bins=20",
    "/api/live": "server-sent events; the data of each event named live is a Live",
    "/api/schema": "Schema: this description",
}


def rows(store: LogStore, pairs: Pairs) -> Rows:
    """A page of the list."""
    query = LogQuery.parse(pairs)
    if query.limit is not None and query.limit > MOST_ROWS:
        raise UsageError(f"limit must be at most {MOST_ROWS}, not {query.limit}; page on with the cursor")
    page = find(store, query)
    return Rows([as_row(each) for each in page.rows], page.next_cursor)


def row(store: LogStore, id: str) -> Any:
    """One whole row, or None."""
    found = store.get(id)
    return as_whole_row(found) if found is not None else None


def _count(store: LogStore, pairs: Pairs) -> Count:
    return Count(count(store, _taken(pairs)[1]))


def _statistics(store: LogStore, pairs: Pairs) -> Any:
    said, query = _taken(pairs, "by", "top", "figures")
    if "by" not in said:
        return statistics(store, query, figures=_figures(said))
    top = _number("top", said.get("top", "20"), MOST_GROUPS)
    return grouped(store, query, said["by"].split(","), limit=top, figures=_figures(said))


def _series(store: LogStore, pairs: Pairs) -> Any:
    said, query = _taken(pairs, "interval", "buckets", "figures")
    found = series(
        store,
        query,
        interval=said.get("interval"),
        buckets=_number("buckets", said.get("buckets", "60"), MOST_BUCKETS),
        figures=_figures(said),
    )
    if len(found) > 2 * MOST_BUCKETS:
        raise UsageError(f"interval: makes {len(found)} buckets; make it longer, or since later")
    return found


def _histogram(store: LogStore, pairs: Pairs) -> Any:
    said, query = _taken(pairs, "of", "bins")
    return histogram(store, query, said.get("of", "latency_ms"), _number("bins", said.get("bins", "20"), MOST_BINS))


def _schema(store: LogStore, pairs: Pairs) -> Any:
    return schema(PATHS)


QUESTIONS: Final[dict[str, Callable[[LogStore, Pairs], Any]]] = {
    "rows": rows,
    "count": _count,
    "statistics": _statistics,
    "series": _series,
    "histogram": _histogram,
    "schema": _schema,
}
"""What is asked below `/api/`, by its name. All of them may take their time and belong on a thread."""


def _taken(pairs: Iterable[tuple[str, str]], *names: str) -> tuple[dict[str, str], LogQuery]:
    """The values of a question's own keys, and the query that the others make."""
    said: dict[str, str] = {}
    rest: Pairs = []
    for key, value in pairs:
        if key in ("limit", "cursor", "sort"):
            raise UsageError(f"{key} belongs to /api/rows, and has no meaning here; leave it out")
        if key in names:
            said[key] = value
        else:
            rest.append((key, value))
    return said, LogQuery.parse(rest)


def _figures(said: dict[str, str]) -> list[str] | None:
    return said["figures"].split(",") if "figures" in said else None


def _number(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise UsageError(f"{name} must be 1 to {most}, not {text}")
    return int(text)
