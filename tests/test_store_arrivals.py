"""Reading while rows arrive and change, on every engine."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest

from streamfold.store import LogRow, LogStore
from streamfold.store.follow import Follower
from streamfold.store.query import LogQuery, count, find
from test_store_query import ROWS, START, ids, moment


@pytest.fixture
def store(database_url: str) -> Iterator[LogStore]:
    """A log with `ROWS`, on each engine."""
    with LogStore.open(database_url) as opened:
        opened.write(ROWS)
        yield opened


@pytest.mark.parametrize("sort", ["-created", "created", "-cost"])
def test_pages_while_rows_arrive(store: LogStore, sort: str) -> None:
    """Rows that are written between two pages make no other row appear twice or not at all."""
    seen: list[str] = []
    query = LogQuery(sort=sort, limit=11)
    for turn in range(100):
        page = find(store, query)
        seen += ids(page.rows)
        if page.next_cursor is None:
            break
        query = msgspec.structs.replace(query, cursor=page.next_cursor)
        store.write([LogRow(id=f"new{turn}{each}", created=moment(each * 600), cost=each / 100) for each in range(9)])

    assert len(seen) == len(set(seen))
    assert {row.id for row in ROWS} <= set(seen)


def test_one_row_of_each_id(store: LogStore) -> None:
    """A row whose later revision was written is found once, as it is now."""
    store.write([LogRow(id="again", created=moment(0), revision=0, status="processing")])
    store.write([LogRow(id="again", created=moment(0), status="success", cost=1.0)])
    query = LogQuery(since=moment(0), minimum={"cost": 1})

    assert [(row.id, row.status) for row in find(store, query).rows] == [("again", "success")]
    assert count(store, LogQuery()) == len(ROWS) + 1


def test_follower_tells_each_request_twice(store: LogStore) -> None:
    """A request is told when it begins and when it ends, also if it began long before or its row came late."""
    now = START + timedelta(days=1)
    follower = Follower(store, LogQuery(upstream="x"), now=now)
    day = 86_400

    def began(id: str, second: float) -> LogRow:
        return LogRow(id=id, created=moment(day + second), upstream="x", status="processing", revision=0)

    def ended(id: str, first: float, last: float) -> LogRow:
        return LogRow(id=id, created=moment(day + first), ended=moment(day + last), upstream="x", status="success")

    def told(second: float) -> list[tuple[str, str]]:
        return [(row.id, row.status) for row in follower.look(now + timedelta(seconds=second))]

    assert told(0) == []
    store.write([began("a", 1), LogRow(id="other", created=moment(day + 1), upstream="y")])
    assert told(1) == [("a", "processing")]
    assert told(2) == []
    store.write([ended("before", -500, 2), ended("b", 2, 3)])
    assert told(3) == [("before", "success"), ("b", "success")]
    store.write([ended("late", 1, 2)])
    assert told(40) == [("late", "success")]
    store.write([ended("a", 1, 300)])
    assert told(300) == [("a", "success")]
    assert told(301) == []
