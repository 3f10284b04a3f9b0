"""`streamfold demo`: the gateway, an upstream that plays scenes, and a client, so that rows appear without any key.

Nothing is special about this gateway: it is the one that `serve` runs, and the client speaks to it over real HTTP.
Only the upstreams are scripted.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp

from streamfold.errors import UsageError
from streamfold.gateway.config import Config, load_config
from streamfold.gateway.scenes import play_all
from streamfold.gateway.scripted import ScriptedUpstream
from streamfold.gateway.server import listen, running, stop_on_signal
from streamfold.store.log_store import LogStore
from streamfold.store.row import LogRow

__all__ = ["demo"]

PACE: Final = 0.04
PATIENCE: Final = 10.0
"""Seconds to wait for a row after its answer."""

Say = Callable[[str], None]


class Visit(NamedTuple):
    """One request of the demo's client. `leave_after` pieces it hangs up; 0: it stays."""

    what: str
    path: str
    body: dict[str, Any]
    leave_after: int = 0


TOOLS: Final = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
ASK: Final = [{"role": "user", "content": "What is a stream?"}]
GEMINI: Final = {"contents": [{"role": "user", "parts": [{"text": "What is a stream?"}]}]}
CHAT: Final = {"model": "gpt-4o-mini", "messages": ASK}
CLAUDE: Final = {"model": "claude-sonnet-5", "max_tokens": 100, "messages": ASK, "stream": True}

VISITS: Final = (
    Visit("chat, streamed", "/openai/v1/chat/completions", {**CHAT, "stream": True}),
    Visit("chat, unstreamed", "/openai/v1/chat/completions", CHAT),
    Visit("chat, a tool call", "/openai/v1/chat/completions", {**CHAT, "stream": True, "tools": TOOLS}),
    Visit("responses", "/openai/v1/responses", {"model": "gpt-4o-mini", "input": "What is a stream?", "stream": True}),
    Visit("completions", "/openai/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "A", "stream": True}),
    Visit("messages", "/anthropic/v1/messages", CLAUDE),
    Visit("messages, a tool call", "/anthropic/v1/messages", {**CLAUDE, "tools": [{"name": "get_weather"}]}),
    Visit("gemini, SSE", "/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", GEMINI),
    Visit("gemini, JSON array", "/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent", GEMINI),
    Visit(
        "the upstream breaks off",
        "/openai/v1/chat/completions",
        {**CHAT, "stream": True, "messages": [{"role": "user", "content": "Be cut off"}]},
    ),
    Visit("the client leaves", "/openai/v1/chat/completions", {**CHAT, "stream": True}, leave_after=5),
    Visit("an error", "/openai/v1/no/such/path", {}),
)


async def demo(*, port: int | None, db: str | None, once: bool, pace: float | None, say: Say) -> None:
    """Plays the round; then, unless `once`, serves until a signal comes."""
    with tempfile.TemporaryDirectory(prefix="streamfold-demo-") as scratch:
        path = db or str(Path(scratch) / "demo.db")
        store = LogStore.open(path)
        try:
            await _play(store, port, once, PACE if pace is None else pace, say)
        finally:
            await asyncio.to_thread(store.close)


async def _play(store: LogStore, port: int | None, once: bool, pace: float, say: Say) -> None:
    upstream = ScriptedUpstream()
    play_all(upstream, pace)
    with stop_on_signal() as stop:
        async with upstream:
            config = load_config(upstreams=dict.fromkeys(("openai", "anthropic", "gemini"), upstream.url))
            async with running(config, store, _socket(config, port)) as address:
                say(f"page {address}/, gateway {address}, scripted upstream {upstream.url}, log {store.name}\n")
                round_ = asyncio.ensure_future(_round(address, store, say))
                await _first(round_, stop)
                if not once and not stop.is_set():
                    say(_invitation(address, store))
                    await stop.wait()


def _socket(config: Config, port: int | None) -> Any:
    """The usual port, or any that is free if nobody asked for a certain one."""
    if port is not None:
        return listen(config.host, port)
    try:
        return listen(config.host, config.port)
    except UsageError:
        return listen(config.host, 0)


async def _first(round_: asyncio.Future[None], stop: asyncio.Event) -> None:
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((round_, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if round_.done():
        round_.result()
    round_.cancel()


async def _round(address: str, store: LogStore, say: Say) -> None:
    """The client's requests, one after the other, each with the row it left."""
    say(LINE.format(*HEADINGS))
    seen: set[str] = set()
    async with aiohttp.ClientSession() as session:
        for visit in VISITS:
            await _visit(session, address, visit)
            row = await _row_after(store, seen)
            say(_line(visit, row))


async def _visit(session: aiohttp.ClientSession, address: str, visit: Visit) -> None:
    pieces = 0
    try:
        async with session.post(address + visit.path, json=visit.body) as response:
            async for _ in response.content.iter_any():
                pieces += 1
                if pieces == visit.leave_after:
                    response.close()
                    return
    except aiohttp.ClientError:
        pass  # the scene in which the upstream breaks off


async def _row_after(store: LogStore, seen: set[str]) -> LogRow:
    """The row of the last request. It is written after the client has its last byte, so it may need a moment."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while loop.time() < until:
        for row in await asyncio.to_thread(store.rows, 5):
            if row.id not in seen and row.ended:
                seen.add(row.id)
                return row
        await asyncio.sleep(0.01)
    raise UsageError("a request of the demo left no row; please report this")


HEADINGS: Final = ("what", "format", "stream", "status", "finish", "tokens", "chunks", "first token", "whole")
LINE: Final = "{:<24} {:<19} {:<6} {:<10} {:<11} {:>8} {:>6} {:>11} {:>9}"


def _line(visit: Visit, row: LogRow) -> str:
    tokens = f"{_or_dash(row.prompt_tokens)}/{_or_dash(row.completion_tokens)}"
    return LINE.format(
        visit.what,
        _or_dash(row.format),
        "yes" if row.stream else "no",
        row.status,
        _or_dash(row.finish_reason),
        tokens,
        row.chunks,
        _ms(row.time_to_first_token_ms),
        _ms(row.latency_ms),
    )


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _invitation(address: str, store: LogStore) -> str:
    return f"""
The gateway goes on until Ctrl-C. In another terminal:
  curl -N {address}/openai/v1/chat/completions -H 'content-type: application/json' \\
       -d '{{"model": "gpt-4o-mini", "stream": true, "messages": [{{"role": "user", "content": "Hi"}}]}}'
  streamfold logs list --db {store.name}
  curl '{address}/logs?limit=5'
"""
