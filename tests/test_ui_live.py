"""What browsers are told of the requests under way."""

from __future__ import annotations

import asyncio
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
from streamfold.ui.answers import Live
from streamfold.ui.live import TAIL, Feed, Seen, View, _news, _seen


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
        view = View({"r": _seen(row("r", text))}, 1, str(number), None)
        reader.take(_news(told, view))
        told = view
        assert reader.texts.get("r", "").endswith(text[-TAIL:])


def test_only_what_is_new_is_told() -> None:
    """Of a text that grows its new end is told, of what did not change nothing, of what is over its id."""
    reader, told = Reader(), None
    for number in range(1, 51):
        view = View({"r": _seen(row("r", "word " * number)), "same": _seen(row("same", "x"))}, 2, "", None)
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
    assert _seen(row("r", record=text)).texts == {}


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
    async with asyncio.timeout(20):
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
        feed = Feed(store, {f"r{n}": Flight(f"r{n}") for n in range(2000)}, look, threads)
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
        feed = Feed(store, {id: Flight(id) for id in ("bad", "good", "none")}, look, threads)
        assert [sight.id for sight in (await first(feed)).streams] == ["good"]
        feed.close()


async def test_nobody_watching_nothing_is_looked_at(store: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The looking ends with the last who watches, and begins again with the next."""
    monkeypatch.setattr(live_module, "EVERY", 0.0)
    with ThreadPoolExecutor(1) as threads:
        feed = Feed(store, {}, lambda ctx: None, threads)
        for _ in range(2):
            events = feed.events()
            await anext(events)
            assert feed.watchers == 1
            await events.aclose()  # type: ignore[attr-defined]
            assert feed.watchers == 0
            async with asyncio.timeout(20):
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
            while b'"content"' not in told:
                told += (await watching.receive()).data
            assert b"mail [redacted] key [redacted]" in told
            assert b"jane" not in told
            assert b"sk-planted" not in told
            gate.set()


def test_seen_is_a_value() -> None:
    """Two looks at the same thing are equal, so that nothing is told of what did not change."""
    assert _seen(row("r", "x")) == _seen(row("r", "x")) != _seen(row("r", "y"))
    assert isinstance(_seen(row("r")), Seen)
