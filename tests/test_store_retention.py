"""Retention and repricing: what goes, what stays, and what a new price changes, on every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfold.errors import UsageError
from streamfold.store import LogRow, LogStore, retention, row_of
from streamfold.store.query import LogQuery, walk
from streamfold.store.reprice import Repriced, reprice
from streamfold.store.retention import ROW_BYTES, Removed, Retention, apply, bytes_of, size_of
from streamfold.store.row import FINAL, HEAVY, STARTED, repriced, stripped
from streamfold.types import JSON, AccumulatedData, Cost, StreamType, TokenUsage

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def store(database_url: str) -> Iterator[LogStore]:
    """An empty log, on each engine."""
    with LogStore.open(database_url) as opened:
        yield opened


def aged(days: int, **columns: Any) -> LogRow:
    """A row of `days` ago with 100 bytes of content."""
    created = (NOW - timedelta(days=days, seconds=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said = {"id": f"d{days:02}", "status": "success", "record": "r" * 60, "request": "q" * 38 + "ü", "cost": 1.0}
    return LogRow(created=created, **(said | columns))


def whole(store: LogStore) -> dict[str, LogRow]:
    return {row.id: row for rows in walk(store, LogQuery(), whole=True) for row in rows}


def with_content(store: LogStore) -> list[str]:
    return sorted(id for id, row in whole(store).items() if any(getattr(row, name) is not None for name in HEAVY))


def names(*days: int) -> list[str]:
    return [f"d{day:02}" for day in days]


RULES = [
    (Retention(), [0, 1, 5, 9, 20], [0, 1, 5, 9, 20]),
    (Retention(max_age="9d"), [0, 1, 5], [0, 1, 5]),
    (Retention(content_max_age="5d"), [0, 1, 5, 9, 20], [0, 1]),
    (Retention(max_age="2w", content_max_age="24h"), [0, 1, 5, 9], [0]),
    (Retention(max_bytes=3 * (ROW_BYTES + 100)), [0, 1, 5], [0, 1, 5]),
    (Retention(max_bytes=3 * (ROW_BYTES + 100) - 1), [0, 1], [0, 1]),
    (Retention(content_max_bytes=250), [0, 1, 5, 9, 20], [0, 1]),
    (Retention(max_bytes="4KB", content_max_bytes=0), [0, 1, 5], []),
    (Retention(max_age="19d", max_bytes="1GiB", content_max_bytes="200B"), [0, 1, 5, 9], [0, 1]),
    (Retention(max_age="0s"), [], []),
]


@pytest.mark.parametrize(("rules", "stay", "keep"), RULES, ids=[str(rules)[10:-1] for rules, *_ in RULES])
def test_oldest_go_first(
    store: LogStore, rules: Retention, stay: list[int], keep: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rule removes the oldest rows, or their content, and no more than it says; a dry run says the same."""
    monkeypatch.setattr(retention, "BATCH", 2)
    monkeypatch.setattr(retention, "CLICKHOUSE_BATCH", 2)
    days = [0, 1, 5, 9, 20]
    store.write([aged(day) for day in days])
    wanted = Removed(rows=len(days) - len(stay), contents=len(stay) - len(keep))

    assert apply(store, rules, now=NOW, dry_run=True) == wanted
    assert len(whole(store)) == len(days)
    assert apply(store, rules, now=NOW) == wanted
    assert sorted(whole(store)) == names(*stay)
    assert with_content(store) == names(*keep)
    assert all(row.cost == 1.0 for row in whole(store).values())
    assert apply(store, rules, now=NOW) == Removed()


def test_requests_under_way_stay(store: LogStore) -> None:
    """A row in `processing` keeps its place and its content, however old it is."""
    store.write([aged(30, id="live", status="processing", revision=STARTED), aged(30)])
    rules = Retention(max_age="1d", content_max_age="1h", max_bytes=0, content_max_bytes=0)

    assert apply(store, rules, now=NOW) == Removed(rows=1)
    assert with_content(store) == ["live"]


def test_size_is_counted_alike(store: LogStore) -> None:
    """The size of a log is the bytes of its content and a fixed number for each finished row."""
    store.write([aged(1), aged(2, record=None), aged(3, request="ü" * 10), aged(4, status="processing")])
    assert size_of(store) == 3 * ROW_BYTES + 100 + 40 + 80


def test_a_newer_row_wins(store: LogStore) -> None:
    """Content that was removed does not come back with the row's old revision, but a later one replaces it."""
    store.write([aged(9)])
    apply(store, Retention(content_max_age="1d"), now=NOW)
    store.write([aged(9)])
    assert with_content(store) == []
    store.write([aged(9, revision=FINAL + 5)])
    assert with_content(store) == names(9)


def test_space_is_given_back(tmp_path: Path) -> None:
    """An SQLite file is smaller after its content went."""
    path = tmp_path / "log.db"
    with LogStore.open(str(path)) as store:
        store.write([aged(day, record="x" * 100_000) for day in range(50)])
    before = path.stat().st_size
    with LogStore.open(str(path)) as store:
        apply(store, Retention(content_max_age="1h"), now=NOW)

    assert before > 5_000_000
    assert path.stat().st_size < before / 5


@pytest.mark.parametrize(
    ("said", "size"), [(5, 5), ("5", 5), ("2k", 2000), ("1.5MB", 1_500_000), ("2 GiB", 2 * 1024**3), ("1TiB", 1024**4)]
)
def test_sizes(said: int | str, size: int) -> None:
    """Sizes are bytes, or have a unit of 1000 or 1024."""
    assert bytes_of("max_bytes", said) == size


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"max_age": "soon"}, "max_age: 'soon' is no duration; write one such as"),
        ({"content_max_age": "3"}, "content_max_age: '3' is no duration"),
        ({"max_bytes": "big"}, "max_bytes: 'big' is no size; write bytes, or a size such as 500MB or 2GiB"),
        ({"content_max_bytes": -1}, "content_max_bytes: -1 is no size"),
    ],
)
def test_mistakes_name_the_rule(rule: dict[str, Any], sentence: str) -> None:
    """A rule that cannot be read is refused with its name."""
    with pytest.raises(UsageError, match=sentence):
        Retention(**rule)


# ---------------------------------------------------------------------- prices


class TinyCatalog:
    """A dollar a prompt token, two a completion token; knows one model."""

    def cost_of(self, data: AccumulatedData, request: JSON | None = None) -> tuple[Cost | None, str | None]:
        usage = data.token_usage
        if data.model != "known" or usage is None:
            return None, f"no price for {data.model}"
        prompt, completion = float(usage.prompt_tokens or 0), 2.0 * (usage.completion_tokens or 0)
        return Cost(prompt + completion, input_cost=prompt, output_cost=completion), None


def priced(id: str, model: str = "known", cost: Cost | None = None, **columns: Any) -> LogRow:
    usage = TokenUsage(10, 5, 15, source="provider")
    data = AccumulatedData(
        *(id,),
        model=model,
        status="success",
        start_timestamp="2026-01-01T00:00:00.000Z",
        token_usage=usage,
        cost=cost,
        cost_reason=None if cost else "unknown model",
        response={"id": "x", "odd": 1.50},
    )
    return msgspec.structs.replace(row_of(data), request="{}", **columns)


def some_prices() -> list[LogRow]:
    billed = Cost(7.0, source="provider")
    return [
        priced("missing"),
        priced("old", cost=Cost(1.0)),
        priced("same", cost=Cost(20.0, input_cost=10.0, output_cost=10.0)),
        priced("billed", cost=billed),
        priced("strange", "unheard-of"),
        priced("strange but priced", "unheard-of", cost=Cost(3.0)),
        priced("no record", record=None),
        priced("broken", record="{"),
        priced("live", status="processing", revision=STARTED),
    ]


def test_reprice(store: LogStore) -> None:
    """Costs are computed again where there is a price and a record; all else stays, and everything is counted."""
    before = {row.id: row for row in some_prices()}
    store.write(list(before.values()))
    wanted = Repriced(
        changed=2,
        unchanged=1,
        unpriceable=2,
        billed=1,
        without_record=2,
        reasons={"no price for unheard-of": 2},
        before=1.0 + 20.0 + 7.0 + 3.0,
        after=20.0 * 3 + 7.0 + 3.0,
    )

    assert reprice(store, LogQuery(sort="-cost"), TinyCatalog(), dry_run=True) == wanted
    assert whole(store) == before
    assert reprice(store, LogQuery(sort="-cost"), TinyCatalog()) == wanted
    after = whole(store)
    assert {id for id in before if before[id] != after[id]} == {"missing", "old"}
    for id in ("missing", "old"):
        row, record = after[id], msgspec.json.decode(after[id].record or "")
        assert (row.cost, row.input_cost, row.output_cost, row.cost_source) == (20.0, 10.0, 10.0, "catalog")
        assert (row.cost_complete, row.cost_reason, row.revision, row.request) == (True, None, repriced(FINAL), "{}")
        assert (record["cost"]["total_cost"], record["cost_reason"]) == (20.0, None)
        old = msgspec.json.decode(before[id].record or "")
        assert {**record, "cost": None, "cost_reason": None} == {**old, "cost": None, "cost_reason": None}
    again = reprice(store, LogQuery(), TinyCatalog())
    assert (again.changed, again.unchanged) == (0, 3)


def test_reprice_only_what_was_asked_for(store: LogStore) -> None:
    """Filters hold, and what the provider billed is priced again only if that is asked for."""
    store.write(some_prices())

    missing = reprice(store, LogQuery(missing_cost=True), TinyCatalog())
    assert (missing.changed, missing.unpriceable, missing.without_record) == (1, 1, 2)
    billed = reprice(store, LogQuery(minimum={"cost": 7}, maximum={"cost": 7}), TinyCatalog(), billed_too=True)
    assert (billed.changed, billed.before, billed.after) == (1, 7.0, 20.0)
    assert whole(store)["billed"].cost_source == "catalog"


class ByTheCharacter:
    """A dollar a character of what was to be spoken."""

    def cost_of(self, data: AccumulatedData, request: JSON | None = None) -> tuple[Cost | None, str | None]:
        if request is None:
            return None, "the request is not known"
        return Cost(float(len(request["input"]))), None


def test_reprice_knows_the_request(store: LogStore) -> None:
    """The catalog gets the stored request; a record in which sound is a digest is priced too, and keeps the digest."""
    digest = {"size": 48213, "sha256": "9f86d0", "media_type": "audio/mpeg"}
    record = {
        "request_id": "spoken",
        "stream_type": StreamType.AUDIO_SPEECH,
        "audio_output": {"data": digest, "format": "mp3"},
        "response": {"audio": digest},
    }
    spoken = LogRow(id="spoken", created="2026-01-01T00:00:00.000Z", status="success")
    spoken.record, spoken.request = msgspec.json.encode(record).decode(), '{"input":"Hello"}'
    unknown = msgspec.structs.replace(spoken, id="unknown", request='"{broken"')
    store.write([spoken, unknown])

    done = reprice(store, LogQuery(), ByTheCharacter())

    assert (done.changed, done.unpriceable, done.without_record) == (1, 1, 0)
    row = whole(store)["spoken"]
    assert row.cost == 5.0
    assert {**msgspec.json.decode(row.record or ""), "cost": None} == {**record, "cost": None, "cost_reason": None}


class Meanwhile(TinyCatalog):
    """A catalog that lets something happen while it is asked for the first price."""

    def __init__(self, *happens: Callable[[], object]) -> None:
        self.happens = list(happens)

    def cost_of(self, data: AccumulatedData, request: Any = None) -> tuple[Cost | None, str | None]:
        while self.happens:
            self.happens.pop()()
        return super().cost_of(data, request)


def test_a_price_and_a_removal_at_the_same_time(store: LogStore) -> None:
    """When content is removed while rows are priced, both are there in the end: the new price, and no content."""
    store.write([priced(f"r{place}", created=f"2026-01-0{place}T00:00:00.000Z") for place in range(1, 6)])
    strip = Retention(content_max_age="1d")
    before = whole(store)
    done = reprice(store, LogQuery(), Meanwhile(lambda: apply(store, strip, now=NOW)))
    rows = whole(store)
    assert done.changed == 5
    assert with_content(store) == []
    assert [row.cost for row in rows.values()] == [done.after / 5] * 5
    # What was read before both and is written late comes too late, on every engine.
    store.write([msgspec.structs.replace(row, revision=repriced(row.revision)) for row in before.values()])
    assert whole(store) == rows


def test_a_removal_after_a_price_keeps_it(store: LogStore) -> None:
    """Content that is removed after a row was priced takes nothing with it but the content."""
    store.write([priced("r1", created="2026-01-01T00:00:00.000Z")])
    assert reprice(store, LogQuery(), TinyCatalog()).changed == 1
    before = whole(store)["r1"]
    assert apply(store, Retention(content_max_age="1d"), now=NOW).contents == 1
    bare = dict.fromkeys(HEAVY) | {"revision": stripped(before.revision)}
    assert whole(store)["r1"] == msgspec.structs.replace(before, **bare)


def test_two_prices_at_the_same_time(store: LogStore) -> None:
    """Of two who price the same rows at once, the one who is done last wins whole: no row is a mix of both."""
    store.write([priced(f"r{place}", created=f"2026-01-0{place}T00:00:00.000Z") for place in range(1, 4)])

    class Dear(TinyCatalog):
        def cost_of(self, data: AccumulatedData, request: Any = None) -> tuple[Cost | None, str | None]:
            return Cost(total_cost=99.0, input_cost=99.0, output_cost=0.0, source="catalog", complete=True), None

    reprice(store, LogQuery(), Meanwhile(lambda: reprice(store, LogQuery(), Dear())))
    assert {row.cost for row in whole(store).values()} != {99.0}
    assert len({row.cost for row in whole(store).values()}) == 1


@given(revision=st.integers(FINAL, FINAL + 100), later=st.integers(0, 100))
def test_no_two_changes_have_the_same_revision(revision: int, later: int) -> None:
    """A later change has a higher revision, two kinds of change never the same, and a removal beats any price that was
    found for the same or an earlier row."""
    assert revision < repriced(revision) < stripped(revision)
    assert repriced(revision) != stripped(revision + later)
    assert repriced(revision) < stripped(revision + later)


def test_writing_nothing(store: LogStore) -> None:
    """No rows are no work for the database."""
    store.write([])
    assert store.rows() == []
