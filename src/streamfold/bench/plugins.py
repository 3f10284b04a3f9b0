"""What the plugins cost: the gateway with none, and with all of ours, in turns.

The gateway is called as its server calls it, in this process and without sockets: an upstream of our own hands it the
pieces of streams (one event each), what it would send to the client goes nowhere. Many streams take turns in one event
loop. What the plugins send out (OTLP, Maxim) goes over loopback to a process of its own, the log to an SQLite file.

A stream costs something for each chunk and something once, and the two are measured apart: all streams wait for each
other before their first chunk and after their last. Time is the processor time of this process with all its threads;
that of the requests lasts until the last row is written and the last span is sent, so nothing is put off beyond it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import msgspec

from streamfold.bench.measure import quiet
from streamfold.bench.report import Row
from streamfold.bench.workloads import chat_text, events_of
from streamfold.catalog import ModelCatalog
from streamfold.gateway.app import Gateway
from streamfold.gateway.config import load_config
from streamfold.gateway.upstream import Answer
from streamfold.hooks import Plugin, RequestContext
from streamfold.pipeline import Pipeline
from streamfold.plugins import BUILT_IN, load_plugin
from streamfold.plugins.logging import LoggingConfig, LoggingPlugin
from streamfold.store.log_store import LogStore

__all__ = ["BUDGET", "PluginLoad", "plugins"]

BUDGET: Final = 1.10
PATIENCE: Final = 60.0
KEY: Final = "STREAMFOLD_BENCH_KEY"
SINK: Final = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"success": true}' if "log" in self.path else b""
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
"""A collector that takes everything."""


class PluginLoad(NamedTuple):
    """How much: `streams` at once, of `chunks` each, in so many rounds."""

    streams: int
    chunks: int
    rounds: int


class _Costs(NamedTuple):
    """Microseconds: of a chunk, of a request without its chunks, and of a chunk when all is spread over the chunks."""

    chunk: float
    request: float
    whole: float


class _Crowd:
    """Where streams wait for each other."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self.complete, self.released = asyncio.Event(), asyncio.Event()

    async def join(self) -> None:
        self._missing -= 1
        if not self._missing:
            self.complete.set()
        await self.released.wait()


class _Upstream:
    """Answers every request with the same stream, one event at a time, and lets the others have a turn between two."""

    def __init__(self, events: list[bytes], streams: int) -> None:
        self._events = events
        self.before, self.after = _Crowd(streams), _Crowd(streams)

    @asynccontextmanager
    async def stream(self, *_: Any, **__: Any) -> AsyncGenerator[Answer, None]:
        yield Answer(200, [(b"content-type", b"text/event-stream")], self._pieces())

    async def close(self) -> None:
        """There is nothing to close."""

    async def _pieces(self) -> AsyncIterator[bytes]:
        await self.before.join()
        for event in self._events:
            await asyncio.sleep(0)
            yield event
        await self.after.join()


class _InlineHook(Plugin):
    """Looks at every chunk where the traffic runs."""

    name = "inline"
    inline = True

    def post_llm_hook(self, ctx: RequestContext, chunk: Any, error: Any) -> None:
        """Has no opinion."""


class _ThreadedHook(_InlineHook):
    """Looks at every chunk on a thread, as hooks do unless they say otherwise."""

    name = "threaded"
    inline = False


class _Setting:
    """What both gateways need: the log, the prices, and where spans and traces go."""

    def __init__(self, store: LogStore, sink: str) -> None:
        self.store = store
        self.catalog = ModelCatalog()
        self.catalog.warm()
        self._sink = sink

    def plugins(self) -> list[Any]:
        """All of ours, in the order in which the gateway has them."""
        sections = {
            "prometheus": {},
            "otel": {"endpoint": self._sink},
            "maxim": {"repository_id": "bench", "api_key_env": KEY, "base_url": self._sink},
        }
        assert {"logging", *sections} == set(BUILT_IN)
        log = LoggingPlugin(LoggingConfig(), store=self.store, catalog=self.catalog)
        return [log, *(load_plugin(name, settings) for name, settings in sections.items())]

    def costs(self, load: PluginLoad, plugins: list[Any]) -> _Costs:
        """The streams through a new gateway, until nothing of them waits any more."""
        begun = time.process_time_ns()
        chunks = asyncio.run(self._run(load, plugins)) / 1000
        whole = (time.process_time_ns() - begun) / 1000
        count = load.streams * load.chunks
        return _Costs(chunks / count, (whole - chunks) / load.streams, whole / count)

    async def _run(self, load: PluginLoad, plugins: list[Any]) -> int:
        """Nanoseconds of all chunks."""
        events = events_of(chat_text(load.chunks).body)
        upstream, pipeline = _Upstream(events, load.streams), Pipeline(plugins)
        gateway = Gateway(load_config(), upstream, pipeline, self.store, catalog=self.catalog)
        asked = asyncio.gather(*(_ask(gateway) for _ in range(load.streams)))
        await upstream.before.complete.wait()
        await asyncio.to_thread(self.store.flush, PATIENCE)
        begun = time.process_time_ns()
        upstream.before.released.set()
        await upstream.after.complete.wait()
        chunks = time.process_time_ns() - begun
        upstream.after.released.set()
        received = await asked
        await pipeline.close(PATIENCE)
        assert await asyncio.to_thread(self.store.flush, PATIENCE)
        assert set(received) == {sum(map(len, events))}
        assert not any(status.errors or status.dropped for status in pipeline.status())
        return chunks


async def _ask(gateway: Gateway) -> int:
    """One request; the bytes that came back."""
    scope: MutableMapping[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/openai/v1/chat/completions",
        "raw_path": b"/openai/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"user-agent", b"bench")],
        "client": ("127.0.0.1", 1),
    }
    messages = [{"role": "user", "content": "What is a stream? " * 20}]
    body = msgspec.json.encode({"model": "gpt-4o-mini", "stream": True, "messages": messages})
    asked: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    received = 0

    async def receive() -> MutableMapping[str, Any]:
        if asked:
            return asked.pop()
        await asyncio.Event().wait()  # this client does not leave
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal received
        received += len(message.get("body", b""))

    await gateway(scope, receive, send)
    return received


@contextmanager
def _setting() -> Iterator[_Setting]:
    os.environ[KEY] = "bench"
    sink = subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True)
    assert sink.stdout is not None
    try:
        with tempfile.TemporaryDirectory() as directory, LogStore.open(str(Path(directory) / "log.db")) as store:
            yield _Setting(store, f"http://127.0.0.1:{int(sink.stdout.readline())}")
    finally:
        sink.kill()
        sink.wait()
        sink.stdout.close()
        del os.environ[KEY]


@contextmanager
def _silent() -> Iterator[None]:
    """Without our log while it runs, and as it was afterwards."""
    ours = logging.getLogger("streamfold")
    before = ours.level
    ours.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ours.setLevel(before)


def plugins(load: PluginLoad) -> list[Row]:
    """The rows: none against all, per chunk and per request. Figures are medians of what each round says."""
    few = load._replace(streams=max(1, load.streams // 10))
    with _silent(), _setting() as setting, quiet():

        def a_round() -> tuple[_Costs, _Costs, _Costs, _Costs]:
            none, loaded = setting.costs(load, []), setting.costs(load, setting.plugins())
            return none, loaded, setting.costs(load, [_InlineHook()]), setting.costs(few, [_ThreadedHook()])

        a_round()  # what a process does once, it has done
        rounds = [a_round() for _ in range(load.rounds)]
    none, loaded, inline, threaded = (
        _Costs(*map(median, zip(*each, strict=True))) for each in zip(*rounds, strict=True)
    )
    chunk = median(loaded.chunk / none.chunk for none, loaded, *_ in rounds)
    whole = median(loaded.whole / none.whole for none, loaded, *_ in rounds)
    names, of = ", ".join(BUILT_IN), f"of {load.chunks} chunks"
    return [
        _row("a chunk, all plugins over none", chunk, "x", f"{load.rounds} rounds; {names}", budget=BUDGET),
        _row("a chunk, no plugins", none.chunk, "us", "fold, pass-through and event loop, without sockets"),
        _row("a chunk, all plugins", loaded.chunk, "us", "none of ours has a chunk hook"),
        _row("a chunk, a chunk hook in line", inline.chunk, "us", "the stream is cut into events"),
        _row("a chunk, a chunk hook on a thread", threaded.chunk, "us", "there and back for every chunk"),
        _row(f"a request {of}, no plugins", none.request, "us", "all that is not done while chunks pass"),
        _row(f"a request {of}, all plugins", loaded.request, "us", "until its row is written, span and trace are sent"),
        _row(
            "everything, all plugins over none", whole, "x", f"streams {of}; more of a short stream, less of a long one"
        ),
    ]


def _row(name: str, figure: float, unit: str, detail: str, budget: float | None = None) -> Row:
    return Row(section="plugins", name=name, figure=figure, unit=unit, budget=budget, detail=detail)
