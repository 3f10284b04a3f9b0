"""Questions to the log: on every engine the answer is what plain Python makes of the same rows."""

from __future__ import annotations

import random
import statistics as reference
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, inspect

from servers import fresh_chdb
from streamfold.errors import UsageError
from streamfold.store import LogRow, LogStore
from streamfold.store import query as queries
from streamfold.store.expressions import interpolated
from streamfold.store.filters import MEASURES, SORTS, STATUSES, Cursor, timestamp
from streamfold.store.query import (
    GROUPS,
    LogQuery,
    Spread,
    count,
    find,
    grouped,
    histogram,
    series,
    sessions,
    statistics,
    walk,
)
from streamfold.store.schema import FIGURE_COLUMNS

MODELS = ("gpt-5", "gpt-5-mini", "claude-opus", "Claude[1]", "a%b_c", None)
TEXTS = ("What is 100% of _this_?", "it's a \\ back\"slash", "HELLO World", "zürich", None)
METADATA = ({"team": "red"}, {"team": "blue", 'odd"key.$': "ü"}, {"team": ""}, {"teams": "red"}, None)
START = datetime(2026, 1, 1, tzinfo=UTC)


def moment(seconds: float) -> str:
    return timestamp("t", (START + timedelta(seconds=seconds)).isoformat())


def some_rows(number: int = 90) -> list[LogRow]:
    """Rows with every kind of gap, always the same."""
    chance = random.Random(4)

    def maybe(value: Any) -> Any:
        return value if chance.random() < 0.7 else None

    return [
        LogRow(
            id=f"{chance.randrange(16**6):06x}{index:03x}",
            created=moment(chance.randrange(0, 7200) + chance.choice((0, 0.001, 0.999))),
            http_status=maybe(chance.choice((200, 429, 500))),
            upstream=maybe(chance.choice(("openai", "local"))),
            provider=maybe(chance.choice(("openai", "anthropic", "OpenAI"))),
            model=chance.choice(MODELS),
            response_model=chance.choice(MODELS),
            format=maybe("openai-chat"),
            stream_type=maybe(chance.choice(("chat.completion", "responses"))),
            status=chance.choice(STATUSES),
            finish_reason=maybe(chance.choice(("stop", "length"))),
            stream=chance.random() < 0.5,
            client=maybe(chance.choice(("ann", "bob"))),
            session_id=maybe(chance.choice(("s1", "s2"))),
            parent_id=maybe("p"),
            attempt=chance.choice((0, 0, 1)),
            trace_id=maybe("t"),
            tool_names=chance.choice((None, "search", "search,fetch", "research")),
            cache_hit=chance.choice((None, None, "direct")),
            prompt_tokens=maybe(chance.randrange(2000)),
            completion_tokens=maybe(chance.randrange(5) * 100),
            total_tokens=maybe(chance.randrange(5000)),
            cost=maybe(chance.choice((0.0, 0.1, chance.random() / 100))),
            cost_complete=chance.choice((None, True, False)),
            latency_ms=maybe(round(chance.random() * 1000, 3)),
            time_to_first_token_ms=maybe(chance.choice((10.0, 20.5, chance.random() * 100))),
            time_per_output_token_ms=maybe(chance.random()),
            chunks=chance.randrange(4),
            anomalies=chance.choice((0, 0, 2)),
            error_type=maybe("rate_limit"),
            error_code=maybe("slow_down"),
            error_message=chance.choice((None, "Hello, too MANY requests")),
            metadata=text_of(chance.choice(METADATA)),
            search_text=chance.choice(TEXTS),
            request=chance.choice((None, '{"deep":"needle"}')),
            record=chance.choice((None, '{"deep":"Needle two"}')),
        )
        for index in range(number)
    ]


def text_of(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


ROWS = some_rows()


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "clickhouse"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogStore]:
    """A log with `ROWS`, on each engine; tests only read it."""
    path = tmp_path_factory.mktemp("query")
    urls: dict[str, Callable[[], str]] = {
        "sqlite": lambda: str(path / "log.db"),
        "postgresql": lambda: request.getfixturevalue("postgres").database(),
        "clickhouse": lambda: fresh_chdb(request.getfixturevalue("chdb_directory")),
    }
    with LogStore.open(urls[request.param](), spill_dir=path / "queue") as opened:
        opened.write(ROWS)
        yield opened


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[LogStore]:
    """An empty log."""
    with LogStore.open(str(tmp_path / "log.db")) as opened:
        yield opened


def everything(store: LogStore, query: LogQuery) -> list[LogRow]:
    """All pages of a query."""
    rows: list[LogRow] = []
    while True:
        page = find(store, query)
        rows += page.rows
        if page.next_cursor is None:
            return rows
        query = msgspec.structs.replace(query, cursor=page.next_cursor)


def ids(rows: list[LogRow]) -> list[str]:
    return [row.id for row in rows]


# ---------------------------------------------------------------------- filters

ONE_OF: dict[str, tuple[Any, ...]] = {
    "provider": ("openai", "anthropic", "nobody"),
    "upstream": ("openai", "local"),
    "format": ("openai-chat",),
    "stream_type": ("chat.completion", "responses"),
    "status": STATUSES,
    "finish_reason": ("stop", "length"),
    "http_status": (200, 429),
    "client": ("ann", "bob"),
    "session_id": ("s1", "s2"),
    "parent_id": ("p",),
    "trace_id": ("t", "none"),
}
RANGES = st.dictionaries(
    st.sampled_from(MEASURES), st.sampled_from((0.0, 0.1, 2.0, 20.5, 100.0, 500.0, 1500.0)), max_size=2
)
FILTERS: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.lists(st.sampled_from(words), min_size=1, max_size=3).map(tuple) for name, words in ONE_OF.items()},
    "since": st.integers(0, 7200).map(moment),
    "until": st.integers(0, 7200).map(moment),
    "model": st.sampled_from(
        (("gpt-5",), ("gpt-*", "a%b_c"), ("*mini",), ("Claude[1*",), ("claude*",), ("a*c",), ("?",))
    ),
    "error_type": st.sampled_from((("rate_limit",), ("slow_down", "other"))),
    "stream": st.booleans(),
    "anomalies": st.booleans(),
    "tool": st.sampled_from((("search",), ("fetch", "research"), ("sear",))),
    "minimum": RANGES,
    "maximum": RANGES,
    "missing_cost": st.booleans(),
    "text": st.sampled_from(("hello", "100%", "_this_", "it's", '\\ back"', "ZÜR", "needle", "e")),
    "everywhere": st.booleans(),
    "metadata": st.sampled_from(({"team": "red"}, {"team": "blue", 'odd"key.$': "ü"}, {"team": ""}, {"none": "red"})),
}


@st.composite
def some_filters(draw: Any) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(FILTERS)), unique=True, max_size=4))
    return {name: draw(FILTERS[name]) for name in names}


def fits(row: LogRow, query: LogQuery) -> bool:
    """What `LogQuery` says in words, in Python."""
    texts = [row.search_text, row.error_message, *((row.request, row.record) if query.everywhere else ())]
    said = msgspec.json.decode(row.metadata or "{}")
    models = [model for model in (row.model, row.response_model) if model is not None]
    tests = (
        query.since is None or row.created >= query.since,
        query.until is None or row.created < query.until,
        *(not getattr(query, name) or getattr(row, name) in getattr(query, name) for name in ONE_OF),
        not query.model or any(fnmatchcase(model, _only_stars(name)) for name in query.model for model in models),
        not query.error_type or row.error_type in query.error_type or row.error_code in query.error_type,
        query.stream is None or row.stream == query.stream,
        query.anomalies is None or (row.anomalies > 0) == query.anomalies,
        not query.tool or bool({*(row.tool_names or "").split(",")} & {*query.tool}),
        all((value := getattr(row, name)) is not None and value >= least for name, least in query.minimum.items()),
        all((value := getattr(row, name)) is not None and value <= most for name, most in query.maximum.items()),
        not query.missing_cost or (row.cost is None and row.status != "processing"),
        query.text is None or any(query.text.lower() in (text or "").lower() for text in texts),
        all(said.get(key) == value for key, value in query.metadata.items()),
    )
    return all(tests)


def _only_stars(pattern: str) -> str:
    return pattern.replace("[", "[[]").replace("?", "[?]")


def test_filters_find_what_plain_python_finds(store: LogStore) -> None:
    """Any combination of filters finds, counts and sums up exactly the rows for which all of them hold."""

    @settings(max_examples=120, deadline=None)
    @given(some_filters())
    def check(filters: dict[str, Any]) -> None:
        query = LogQuery(**filters, limit=1000)
        wanted = {row.id for row in ROWS if fits(row, query)}
        assert set(ids(find(store, query).rows)) == wanted
        assert count(store, query) == len(wanted)

    check()


@pytest.mark.parametrize("wanted", [("cost",), ("by_status", "latency_ms", "first"), queries.FIGURES])
def test_figures_that_are_wanted_are_those_of_all(store: LogStore, wanted: tuple[str, ...]) -> None:
    """Asked for by name, figures are what they are among all of them, and the others are left out."""
    whole, part = statistics(store, LogQuery()), statistics(store, LogQuery(), figures=wanted)
    groups = grouped(store, LogQuery(), ["status"], figures=wanted)
    told = [each.statistics for each in series(store, LogQuery(), interval="1d", figures=wanted)]

    assert {name: getattr(part, name) for name in wanted} == {name: getattr(whole, name) for name in wanted}
    assert part.requests == sum(each.requests for each in groups) == sum(each.requests for each in told)
    assert part.success_rate == (whole.success_rate if "by_status" in wanted else None)
    assert "models" in wanted or part.models == 0


def test_figures_have_names(sqlite: LogStore) -> None:
    """A figure that is none is named, with what there is."""
    with pytest.raises(UsageError, match='figures: unknown "costs"; did you mean'):
        statistics(sqlite, LogQuery(), figures=["costs"])


def plans(store: LogStore, ask: Callable[[], object]) -> list[str]:
    """How SQLite goes about each statement of a question."""
    asked: list[tuple[str, Any]] = []
    here = threading.get_ident()
    with store.connect() as connection:
        engine = connection.engine

    def spy(*about: Any) -> None:
        if threading.get_ident() == here:  # the store's own thread asks too
            asked.append((about[2], about[3]))

    event.listen(engine, "before_cursor_execute", spy)
    ask()
    event.remove(engine, "before_cursor_execute", spy)
    with store.connect() as connection:
        queries.prepare_reading(connection)
        return [
            " | ".join(step[3] for step in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, values))
            for statement, values in asked
        ]


USUAL = [
    LogQuery(),
    LogQuery(since="30d", provider=("openai",), model=("m*",), stream=True),
    LogQuery(status=("error",)),
    LogQuery(status=("success",), since="30d"),
    LogQuery(status=("error", "timeout"), model=("m",), provider=("openai",), since="30d", until="1d"),
]


@pytest.mark.parametrize("query", USUAL, ids=range(len(USUAL)))
def test_figures_touch_no_bodies_on_sqlite(sqlite: LogStore, query: LogQuery) -> None:
    """What the overview asks for is computed from an index alone, also with the usual filters and any time."""

    def ask() -> None:
        statistics(sqlite, query)
        grouped(sqlite, query, ["model"])
        grouped(sqlite, query, ["status"])
        series(sqlite, query)
        histogram(sqlite, query)
        count(sqlite, query)

    found = plans(sqlite, ask)
    assert len(found) >= 6
    assert [plan for plan in found if "COVERING INDEX" not in plan] == []


BY_TIME = "SEARCH request_log USING INDEX request_log_created (created"
IN_TIME = "SCAN request_log USING INDEX request_log_created"
BY_STATUS = "SEARCH request_log USING INDEX request_log_status (status=?"
LISTS = [
    (LogQuery(), IN_TIME, BY_TIME + "<?)"),
    (LogQuery(sort="created"), IN_TIME, BY_TIME + ">?)"),
    (LogQuery(since="30d"), BY_TIME + ">?)", BY_TIME + ">? AND created<?)"),
    (LogQuery(provider=("openai",), model=("gpt-*",)), IN_TIME, BY_TIME + "<?)"),
    (LogQuery(status=("success",)), BY_STATUS + ")", BY_STATUS + " AND created<?)"),
    (
        LogQuery(status=("success",), since="30d"),
        BY_STATUS + " AND created>?)",
        BY_STATUS + " AND created>? AND created<?)",
    ),
    (LogQuery(status=("success", "error")), IN_TIME, BY_TIME + "<?)"),
]


@pytest.mark.parametrize(("query", "first", "second"), LISTS, ids=range(len(LISTS)))
def test_lists_are_read_in_order_on_sqlite(sqlite: LogStore, query: LogQuery, first: str, second: str) -> None:
    """A page of a list is read in its order from an index, and the next one from its cursor on: nothing is sorted."""
    sqlite.write([LogRow(id=str(n), created=timestamp("t", f"{n + 1}h"), status="success") for n in range(3)])
    cursor = str(Cursor(query.sort, moment(1), "1", query.since, query.until))
    pages = [query, msgspec.structs.replace(query, cursor=cursor)]
    found = [plans(sqlite, lambda page=page: find(sqlite, page))[0] for page in pages]

    # Rows of the same millisecond are sorted by id among themselves, which is what the second part says.
    rest = " | USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"
    assert found == [first + rest, second + rest]


def test_the_index_of_figures_is_what_is_thought(sqlite: LogStore) -> None:
    """The columns that a question may be about without a look at the rows are those of the index."""
    with sqlite.connect() as connection:
        (index,) = [each for each in inspect(connection).get_indexes("request_log") if len(each["column_names"]) > 2]

    assert index["name"] == "request_log_created"
    assert set(index["column_names"]) == FIGURE_COLUMNS


@pytest.mark.parametrize("sort", [sign + name for name in SORTS for sign in ("", "-")])
def test_pages_follow_the_order(store: LogStore, sort: str) -> None:
    """Pages put together are the sorted list, each row once; rows without the number come last either way."""
    found = everything(store, LogQuery(sort=sort, limit=7))

    name, sign = sort.removeprefix("-"), -1 if sort.startswith("-") else 1
    known = [row for row in ROWS if getattr(row, name) is not None]
    known.sort(key=lambda row: (getattr(row, name), row.id), reverse=sign < 0)
    unknown = sorted((row for row in ROWS if getattr(row, name) is None), key=lambda row: row.id, reverse=sign < 0)
    assert ids(found) == ids([*known, *unknown])


def test_last_hour_stays_the_last_hour(sqlite: LogStore) -> None:
    """A cursor keeps the time range of its first page, so the last rows do not fall out while somebody reads."""
    sqlite.write([LogRow(id=f"r{index}", created=moment(index)) for index in range(4)])
    query = LogQuery(since="1h", limit=2).fixed(START + timedelta(hours=1))
    page = find(sqlite, query)
    again = LogQuery(since="1h", limit=2, cursor=page.next_cursor)

    assert ids(page.rows) == ["r3", "r2"]
    assert ids(find(sqlite, again).rows) == ["r1", "r0"]


def test_whole_rows_come_in_bounded_batches(store: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Walking reads every row once and whole, and holds few heavy columns at a time."""
    monkeypatch.setattr(queries, "WALK_ROWS", 20)
    monkeypatch.setattr(queries, "WALK_BYTES", 200)
    batches = list(walk(store, LogQuery(sort="created"), whole=True))
    held = [sum(row.size - 1024 for row in rows) for rows in batches]
    limited = [row for rows in walk(store, LogQuery(sort="created", limit=33)) for row in rows]

    assert [row for rows in batches for row in rows] == sorted(ROWS, key=lambda row: (row.created, row.id))
    assert all(size <= 200 or len(rows) == 1 for size, rows in zip(held, batches, strict=True))
    assert len(limited) == 33


# ---------------------------------------------------------------------- figures


def spread(values: list[float]) -> Spread:
    """The reference: the standard library's percentiles."""
    if not values:
        return Spread()
    if len(values) == 1:
        return Spread(*values * 5)
    cuts = reference.quantiles(values, n=100, method="inclusive")
    return Spread(reference.fmean(values), *(cuts[index - 1] for index in (50, 90, 95, 99)))


def close(one: Spread, other: Spread) -> bool:
    pairs = zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)
    return all(a is b is None or a == pytest.approx(b, rel=1e-12) for a, b in pairs)


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=50), st.integers(1, 99))
def test_percentiles_are_the_text_books(values: list[float], percent: int) -> None:
    """A percentile is that of `statistics.quantiles(method="inclusive")`."""
    wanted = reference.quantiles(values, n=100, method="inclusive")[percent - 1]
    assert interpolated(sorted(values), percent / 100) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def check_figures(found: queries.Statistics, rows: list[LogRow]) -> None:
    finished = [row for row in rows if row.status != "processing"]
    assert found.requests == len(rows)
    assert found.by_status == {s: n for s in STATUSES if (n := sum(row.status == s for row in rows))}
    good = sum(row.status == "success" for row in rows)
    assert found.success_rate == (pytest.approx(good / len(finished)) if finished else None)
    assert found.streamed == sum(row.stream for row in rows)
    assert found.retries == sum(row.attempt > 0 for row in rows)
    assert found.cache_hits == sum(row.cache_hit is not None for row in rows)
    assert found.with_anomalies == sum(row.anomalies > 0 for row in rows)
    assert found.models == len({row.model or row.response_model for row in rows} - {None})
    for name in ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost"):
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        assert getattr(found, name) == (pytest.approx(sum(values)) if values else None)
    tokens = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert found.without_usage == sum(all(getattr(row, name) is None for name in tokens) for row in finished)
    assert found.without_cost == sum(row.cost is None for row in finished)
    assert found.incomplete_cost == sum(row.cost_complete is False for row in rows)
    for name in ("latency_ms", "time_to_first_token_ms", "time_per_output_token_ms"):
        assert close(getattr(found, name), spread([v for row in rows if (v := getattr(row, name)) is not None]))
    assert (found.first, found.last) == (
        (min(row.created for row in rows), max(row.created for row in rows)) if rows else (None, None)
    )


def test_statistics(store: LogStore) -> None:
    """Every figure is what plain Python computes, for all rows, for few, for one and for none."""
    for query in (LogQuery(), LogQuery(model="gpt-*"), LogQuery(tool="fetch", client="ann"), LogQuery(client="nobody")):
        check_figures(statistics(store, query), [row for row in ROWS if fits(row, query)])
    for row in ROWS[:5]:
        check_figures(
            statistics(store, LogQuery(since=row.created, until=moment_after(row))),
            [each for each in ROWS if each.created == row.created],
        )


def moment_after(row: LogRow) -> str:
    return timestamp("t", (datetime.fromisoformat(row.created) + timedelta(milliseconds=1)).isoformat())


@pytest.mark.parametrize(
    "by", [(name,) for name in GROUPS] + [("model", "status"), ("client", "http_status", "format")]
)
def test_groups(store: LogStore, by: tuple[str, ...]) -> None:
    """Groups have their own figures, the largest come first, and rows without a value are a group of their own."""
    found = grouped(store, LogQuery(), by, limit=1000)

    def key(row: LogRow) -> tuple[Any, ...]:
        return tuple(row.model or row.response_model if name == "model" else getattr(row, name) for name in by)

    assert {tuple(each.group.values()) for each in found} == {key(row) for row in ROWS}
    assert [each.requests for each in found] == sorted((each.requests for each in found), reverse=True)
    for each in found:
        assert tuple(each.group) == by
        check_figures(each, [row for row in ROWS if key(row) == tuple(each.group.values())])
    assert len(grouped(store, LogQuery(), by, limit=1)) == 1


def test_sessions(store: LogStore) -> None:
    """A session is summed up, the one with the latest request first; requests without one are left out."""
    found = sessions(store, LogQuery(stream=True))

    assert {each.group["session_id"] for each in found} == {"s1", "s2"}
    assert [each.last or "" for each in found] == sorted((each.last or "" for each in found), reverse=True)
    for each in found:
        check_figures(each, [row for row in ROWS if row.stream and row.session_id == each.group["session_id"]])


@pytest.mark.parametrize("of", MEASURES)
def test_histogram(store: LogStore, of: str) -> None:
    """Bins hold the values from their low to their high end, and all of them together every value."""
    found = histogram(store, LogQuery(upstream="openai"), of, 7)
    values = [getattr(row, of) for row in ROWS if row.upstream == "openai"]
    known = [float(value) for value in values if value is not None]

    assert (found.count, found.missing) == (len(known), len(values) - len(known))
    if not known:
        assert found.bins == []
        return
    assert (found.bins[0].low, found.bins[-1].high) == (min(known), max(known))
    width = (max(known) - min(known)) / 7
    places = [min(int((value - min(known)) / width), 6) for value in known]
    assert [each.count for each in found.bins] == [places.count(index) for index in range(7)]
    assert all(one.high == two.low for one, two in pairwise(found.bins))


def test_histogram_of_one_value(store: LogStore) -> None:
    """Values that are all the same are one bin; no row, none."""
    same = histogram(store, LogQuery(minimum={"cost": 0.1}, maximum={"cost": 0.1}), "cost")

    assert [(each.low, each.high) for each in same.bins] == [(0.1, 0.1)]
    assert same.count == same.bins[0].count == sum(row.cost == 0.1 for row in ROWS)
    assert histogram(store, LogQuery(client="nobody")).bins == []


@pytest.mark.parametrize(("interval", "buckets"), [("10m", 60), ("7s", 60), ("1d", 60), (None, 8), (None, 1)])
def test_series(store: LogStore, interval: str | None, buckets: int) -> None:
    """Buckets follow each other without a hole, and hold the figures of the requests that began in them."""
    query = LogQuery(since=moment(300), until=moment(6000))
    found = series(store, query, interval=interval, buckets=buckets)

    assert found[0].start <= moment(300)
    assert found[-1].end >= moment(6000)
    assert all(one.end == two.start for one, two in pairwise(found))
    if interval is None:
        assert len(found) <= buckets + 1
    for each in found:
        check_figures(
            each.statistics, [row for row in ROWS if fits(row, query) and each.start <= row.created < each.end]
        )
    assert sum(each.statistics.requests for each in found) == count(store, query)


def test_series_without_a_range(store: LogStore) -> None:
    """Without a range, a series goes from the first request to now, and holds all of them."""
    found = series(store, LogQuery(), interval="1h", now=START + timedelta(hours=3))

    assert (found[0].start, found[-1].end) == (moment(0), moment(3 * 3600))
    assert sum(each.statistics.requests for each in found) == len(ROWS)
    assert series(store, LogQuery(client="nobody")) == []


# ---------------------------------------------------------------------- mistakes

MISTAKES: tuple[tuple[Callable[[], Any], str], ...] = (
    (lambda: LogQuery(status="erorr"), 'status: unknown "erorr"; did you mean "error"?'),
    (lambda: LogQuery(stream_type=("response",)), 'stream_type: unknown "response"; did you mean "responses"?'),
    (lambda: LogQuery(sort="-latency"), 'sort: unknown "latency"; did you mean "latency_ms"?'),
    (lambda: LogQuery(minimum={"price": 1}), 'minimum: unknown "price"; known here are latency_ms'),
    (lambda: LogQuery(limit=0), "limit must be at least 1, not 0"),
    (lambda: LogQuery(since="yesterday"), "since: 'yesterday' is no time; write RFC 3339, such as"),
    (lambda: LogQuery(until="2026-13-01"), "until: '2026-13-01' is no time"),
    (lambda: LogQuery(cursor="no cursor"), "cursor is none that a page gave; begin without one"),
    (lambda: LogQuery.parse([("modle", "x")]), 'unknown filter "modle"; did you mean "model"?'),
    (lambda: LogQuery.parse([("min_cost", "much")]), "min_cost: 'much' is no number; write one such as"),
    (lambda: LogQuery.parse([("limit", "few")]), "limit: expected `int`, got `str`"),
    (lambda: LogQuery.parse([("since", "1h"), ("since", "2h")]), "since is given twice; give it once"),
)


@pytest.mark.parametrize(("make", "sentence"), MISTAKES, ids=[sentence[:30] for _, sentence in MISTAKES])
def test_mistakes_name_the_key(make: Callable[[], Any], sentence: str) -> None:
    """A filter that makes no sense is refused at once, with its name and the fix."""
    with pytest.raises(UsageError) as told:
        make()
    assert sentence in str(told.value)


def test_mistakes_of_figures(sqlite: LogStore) -> None:
    """Unknown columns, impossible bins and intervals are refused with a sentence; so is a cursor of another order."""
    sqlite.write([LogRow(id=str(index), created=moment(index)) for index in range(3)])
    cursor = find(sqlite, LogQuery(limit=1)).next_cursor
    asked: tuple[tuple[Callable[[], Any], str], ...] = (
        (lambda: grouped(sqlite, LogQuery(), ["modl"]), 'cannot group by "modl"; did you mean "model"?'),
        (lambda: grouped(sqlite, LogQuery(), []), "by names no column"),
        (lambda: histogram(sqlite, LogQuery(), "latency"), 'of: unknown "latency"'),
        (lambda: histogram(sqlite, LogQuery(), bins=0), "bins must be 1 to 1000"),
        (lambda: series(sqlite, LogQuery(), interval="1s"), "interval: 1s makes more than 10000 buckets"),
        (lambda: series(sqlite, LogQuery(), interval="often"), "interval: 'often' is no duration"),
        (lambda: series(sqlite, LogQuery(), interval="0.5s"), "interval: 0.5s is not a whole number of seconds"),
        (lambda: LogQuery(sort="cost", cursor=cursor), "cursor belongs to a list sorted by -created"),
    )
    for ask, sentence in asked:
        with pytest.raises(UsageError, match=sentence.replace("?", "[?]")):
            ask()


def test_query_from_text() -> None:
    """Keys and values in text, as a URL has them, make the same query as Python does."""
    pairs = [
        *(("status", "error"), ("status", "timeout"), ("model", "gpt-*"), ("http_status", "429"), ("stream", "true")),
        *(("min_latency_ms", "500"), ("max_cost", "0.5"), ("metadata.team", "red"), ("sort", "-cost"), ("limit", "5")),
    ]
    assert LogQuery.parse(pairs) == LogQuery(
        status=("error", "timeout"),
        model="gpt-*",  # type: ignore[arg-type]  # one word is taken as it is
        http_status=(429,),
        stream=True,
        minimum={"latency_ms": 500},
        maximum={"cost": 0.5},
        metadata={"team": "red"},
        sort="-cost",
        limit=5,
    )
