"""What browsers are told of the requests under way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripted import conversation, rig
from streamfold.gateway.scripted import Script
from streamfold.hooks import RequestContext
from streamfold.store import LogRow, LogStore
from streamfold.ui import live as live_module
from streamfold.ui import sights as sights_module
from streamfold.ui.answers import Live
from streamfold.ui.live import Feed, View, _news
from streamfold.ui.sights import TAIL, OwnSight, Seen, Told, seen_of


def record(text: str) -> str:
    return msgspec.json.encode({"output_message": {"content": text}}).decode()


def row(id: str, text: str = "", **about: Any) -> LogRow:
    usual = {"created": "2026-01-01T00:00:00.000Z", "status": "processing", "record": record(text)}
    return LogRow(id=id, **{**usual, **about})


class Reader:
    """A browser: it puts together what it is told."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.told = 0

    def take(self, news: Live) -> None:
        for id in news.gone:
            self.texts.pop(id, None)
        for sight in news.streams:
            for part in sight.parts.values():
                self.told += len(part.text)
                before = self.texts.get(sight.id, "") if part.more else ""
                self.texts[sight.id] = before + part.text


@given(st.lists(st.one_of(st.text(max_size=20), st.integers(1, 6000)), max_size=20), st.booleans())
def test_what_is_told_adds_up_to_the_text(pieces: list[str | int], rewrites: bool) -> None:
    """However a text grows, by little or by more than is shown, or is changed, its end is what a browser has."""
    reader, told, text = Reader(), None, ""
    for number, piece in enumerate(pieces):
        text += piece if isinstance(piece, str) else "ab" * piece
        if rewrites and number % 3 == 2:
            text = text.replace("a", "[redacted]")[: len(text) * 2]
        view = View({"r": seen_of(row("r", text))}, 1, str(number), None)
        reader.take(_news(told, view))
        told = view
        assert reader.texts.get("r", "").endswith(text[-TAIL:])


def test_only_what_is_new_is_told() -> None:
    """Of a text that grows its new end is told, of what did not change nothing, of what is over its id."""
    reader, told = Reader(), None
    for number in range(1, 51):
        view = View({"r": seen_of(row("r", "word " * number)), "same": seen_of(row("same", "x"))}, 2, "", None)
        news = _news(told, view)
        assert [sight.id for sight in news.streams] == (["r"] if told else ["r", "same"])
        reader.take(news)
        told = view
    assert reader.told == 50 * len("word ") + 1
    assert _news(told, View({}, 0, "", None)).gone == ["r", "same"]


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[]",
        "{",
        '{"output_message": 5}',
        '{"output_message": {"content": {"size": 5}}}',
        '{"tool_calls": [{}]}',
    ],
)
def test_a_record_of_any_shape_is_borne(text: str) -> None:
    """A record without text that can be read has no text, and is no trouble."""
    assert seen_of(row("r", record=text)).texts == {}


class Flight:
    """A request under way, made up."""

    def __init__(self, id: str) -> None:
        self.ctx = RequestContext(request_id=id)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LogStore]:
    """An empty log."""
    with LogStore.open(str(tmp_path / "log.db")) as opened:
        yield opened


async def first(feed: Feed) -> Live:
    async with asyncio.timeout(60):
        async for event in feed.events():
            if event.startswith(b"event: live\ndata: "):
                return msgspec.json.decode(event.split(b"data: ", 1)[1], type=Live)
    raise AssertionError


async def test_of_very_many_requests_the_newest_are_looked_at(store: LogStore) -> None:
    """How much is looked at does not grow with how much is under way; all are counted."""
    looked: list[str] = []

    def look(ctx: RequestContext) -> LogRow:
        looked.append(ctx.request_id or "")
        return row(ctx.request_id or "", "Hi")

    with ThreadPoolExecutor(1) as threads:
        feed = Feed(store, OwnSight("here", {f"r{n}": Flight(f"r{n}") for n in range(2000)}, look), threads)
        news = await first(feed)
        feed.close()
    assert news.under_way == 2000
    assert {sight.id for sight in news.streams} == {f"r{n}" for n in range(1976, 2000)} == set(looked)


async def test_a_look_that_fails_costs_one_request_only(store: LogStore) -> None:
    """A request that cannot be looked at is left out; the others are told of."""

    def look(ctx: RequestContext) -> LogRow | None:
        if ctx.request_id == "bad":
            raise RuntimeError("no snapshot now")
        return row("good", "Hi") if ctx.request_id == "good" else None

    with ThreadPoolExecutor(1) as threads:
        feed = Feed(store, OwnSight("here", {id: Flight(id) for id in ("bad", "good", "none")}, look), threads)
        assert [sight.id for sight in (await first(feed)).streams] == ["good"]
        feed.close()


def answer(instance: str, *rows: LogRow, under_way: int | None = None) -> bytes:
    """What another worker says."""
    return msgspec.json.encode(Told(instance, under_way or len(rows), [seen_of(each) for each in rows]))


async def test_the_newest_of_all_workers_are_told_of(store: LogStore) -> None:
    """Whichever worker has a request, its newest text is told, not its checkpoint's; those of all of them count."""
    other = "2026-01-01T00:00:01.000Z"
    store.write([row("b1", "old", instance="b"), row("c1", "checkpoint", instance="c")])

    def ask(question: str, argument: str) -> list[bytes]:
        fresh = row("b1", "new", instance="b", created=other, metadata='{"team":"a"}')
        return [answer("b", fresh, under_way=40), b"", b'["d",1,[[{"id"', b"null"]

    with ThreadPoolExecutor(2) as threads:
        own = OwnSight("a", {f"r{n}": Flight(f"r{n}") for n in range(30)}, lambda ctx: row(ctx.request_id or "", "Hi"))
        feed = Feed(store, own, threads, ask)
        reader = Reader()
        async with asyncio.timeout(60):
            async for event in feed.events():
                if event.startswith(b"event: live"):
                    news = msgspec.json.decode(event.split(b"data: ", 1)[1], type=Live)
                    reader.take(news)
                    if reader.texts.get("b1") == "new" and "c1" in reader.texts:
                        break
        feed.close()
    assert news.under_way == 30 + 40 + 1
    assert reader.texts["c1"] == "checkpoint"
    assert len(reader.texts) == 24 + 1


async def test_a_worker_that_hangs_holds_up_nothing(store: LogStore) -> None:
    """While another worker does not answer, the requests here are told of and its own by their checkpoints."""
    store.write([row("b1", "checkpoint", instance="b")])
    hanging = threading.Event()

    def ask(question: str, argument: str) -> list[bytes]:
        hanging.wait(20)
        return []

    with ThreadPoolExecutor(2) as threads:
        feed = Feed(store, OwnSight("a", {"r": Flight("r")}, lambda ctx: row("r", "Hi")), threads, ask)
        news = await first(feed)
        hanging.set()
        feed.close()
    assert {sight.id: sight.parts["content"].text for sight in news.streams} == {"r": "Hi", "b1": "checkpoint"}


def test_one_look_serves_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks while another's look is fresh gets that one, so that more who ask cost no more looks."""
    monkeypatch.setattr(sights_module, "FRESH", 3600.0)
    looked: list[str] = []

    def look(ctx: RequestContext) -> LogRow:
        looked.append(ctx.request_id or "")
        return row("r", "Hi")

    own = OwnSight("a", {"r": Flight("r")}, look)
    assert own.see() == own.see()
    assert looked == ["r"]


async def test_nobody_watching_nothing_is_looked_at(store: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The looking ends with the last who watches, and begins again with the next."""
    monkeypatch.setattr(live_module, "EVERY", 0.0)
    with ThreadPoolExecutor(1) as threads:
        feed = Feed(store, OwnSight("here", {}, lambda ctx: None), threads)
        for _ in range(2):
            events = feed.events()
            await anext(events)
            assert feed.watchers == 1
            await events.aclose()  # type: ignore[attr-defined]
            assert feed.watchers == 0
            async with asyncio.timeout(60):
                assert feed._task is not None
                await feed._task
        feed.close()


async def test_what_is_not_logged_is_not_shown(tmp_path: Path) -> None:
    """Secrets and what the configuration keeps out of the log are not told of a stream under way either."""
    gate = asyncio.Event()
    said = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"mail jane@example.com key sk-planted-1"}}]}\n\n'
    plugins = {"logging": {"redact": [r"[\w.]+@[\w.]+"]}}
    async with rig(tmp_path, plugins=plugins) as running:
        running.upstream.route("POST", "/v1/chat/completions", Script([said, gate, b"data: [DONE]\n\n"]))
        headers = [("authorization", "Bearer sk-planted-1"), ("content-type", "application/json")]
        asked = conversation(
            running.address, "POST", "/openai/v1/chat/completions", headers, b'{"model":"m","stream":true}'
        )
        async with asked as talk, conversation(running.address, "GET", "/api/live") as watching:
            await talk.receive()
            await talk.receive()
            await watching.receive()
            told = b""
            while b"key " not in told or not told.endswith(b"\n\n"):  # an event may come in pieces
                told += (await watching.receive()).data
            assert b"mail [redacted] key [redacted]" in told
            assert b"jane" not in told
            assert b"sk-planted" not in told
            gate.set()


def test_seen_is_a_value() -> None:
    """Two looks at the same thing are equal, so that nothing is told of what did not change."""
    assert seen_of(row("r", "x")) == seen_of(row("r", "x")) != seen_of(row("r", "y"))
    assert isinstance(seen_of(row("r")), Seen)
