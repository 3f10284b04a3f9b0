"""The logging plugin: one row for each request, from its beginning to its end, in a real store."""

import gc
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import msgspec
import pytest
from openai.types.chat import ChatCompletionChunk

import streamfold
from streamfold import Accumulator, Outcome, StreamAccumulator, UsageError
from streamfold.hooks import RequestContext
from streamfold.plugins import load_plugin
from streamfold.plugins.logging import LoggingConfig, LoggingPlugin
from streamfold.plugins.logging.request import last_words, parameters, tools
from streamfold.plugins.logging.rows import ARRIVALS, arrivals_text
from streamfold.processed import ProcessedStreamResponse, ResponseType
from streamfold.store.log_store import LogStore
from streamfold.store.retention import Retention
from streamfold.store.row import FINAL, STARTED
from streamfold.types import AccumulatedData, StreamType

WAIT = 60.0
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ASKED = {
    "model": "gpt-4o",
    "stream": True,
    "temperature": 0.2,
    "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "How is Zürich?"}],
    "tools": [{"type": "function", "function": {"name": "weather", "description": "The sky now."}}],
}


def chunk(delta, finish=None, **more):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-2024",
        "choices": [choice],
        **more,
    }


USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
CHUNKS = [
    chunk({"role": "assistant", "content": "Sunny"}),
    chunk({"content": " today"}),
    chunk({}, "stop"),
    {**chunk({}), "choices": [], "usage": USAGE},
]


def sse(chunks, end=b"data: [DONE]\n\n"):
    return b"".join(b"data: " + msgspec.json.encode(each) + b"\n\n" for each in chunks) + end


def context(request=ASKED, **about):
    body = msgspec.json.encode(request) if request is not None else None
    about = {"request_id": "r1", "request": request, "request_body": body, **about}
    return RequestContext(**about)


@pytest.fixture
def store(tmp_path):
    with LogStore.open(str(tmp_path / "log.db")) as opened:
        yield opened


@pytest.fixture
def plugin_for(store):
    made = []

    def make(**settings):
        made.append(LoggingPlugin(LoggingConfig(**settings), store=store))
        return made[-1]

    yield make
    for plugin in made:
        plugin.close()


def logged(plugin, ctx, processed, before=True):
    """The row of one request."""
    if before:
        plugin.pre_llm_hook(ctx, ctx.request)
    plugin.on_response(ctx, processed)
    assert plugin.flush(WAIT)
    return plugin.store.get(ctx.request_id)


def test_a_row_tells_the_request_and_the_response(plugin_for):
    """Every column that the context and the response know is filled, and the record is the whole response."""
    plugin = plugin_for(headers=["X-Team"], metadata={"env": "test", "team": "none"})
    ctx = context(
        upstream="openai",
        method="POST",
        path="/v1/chat/completions",
        http_status=200,
        request_bytes=321,
        response_bytes=654,
        client="alice",
        session_id="s1",
        parent_id="r0",
        attempt=2,
        traceparent=f"00-{TRACE}-00f067aa0ba902b7-01",
        request_headers={"user-agent": "curl/8", "x-team": "search", "x-other": "not kept"},
        metadata={"team": "search"},
    )
    done = streamfold.fold(sse(CHUNKS), "openai-chat", request_id="r1", max_arrivals=10)
    row = logged(plugin, ctx, done)
    assert {
        "revision": row.revision,
        "status": row.status,
        "instance": row.instance,
        "http_status": row.http_status,
        "request_bytes": row.request_bytes,
        "response_bytes": row.response_bytes,
        "client": row.client,
        "session_id": row.session_id,
        "parent_id": row.parent_id,
        "attempt": row.attempt,
        "trace_id": row.trace_id,
        "user_agent": row.user_agent,
        "total_tokens": row.total_tokens,
        "usage_source": row.usage_source,
    } == {
        "revision": FINAL,
        "status": "success",
        "instance": None,
        "http_status": 200,
        "request_bytes": 321,
        "response_bytes": 654,
        "client": "alice",
        "session_id": "s1",
        "parent_id": "r0",
        "attempt": 2,
        "trace_id": TRACE,
        "user_agent": "curl/8",
        "total_tokens": 11,
        "usage_source": "provider",
    }
    assert (row.model, row.response_model, row.finish_reason) == ("gpt-4o", "gpt-4o-2024", "stop")
    assert msgspec.json.decode(row.params) == {"temperature": 0.2}
    assert msgspec.json.decode(row.tools) == ASKED["tools"]
    assert msgspec.json.decode(row.headers) == {"x-team": "search"}
    assert msgspec.json.decode(row.metadata) == {"env": "test", "team": "search"}
    assert row.request.encode() == ctx.request_body
    assert row.search_text == "How is Zürich?\nSunny today"
    assert len(msgspec.json.decode(row.arrivals)) == len(done.arrivals) > 0
    assert msgspec.json.decode(row.record) == msgspec.json.decode(msgspec.json.encode(done.data))


def test_a_request_on_its_way_has_a_row(plugin_for, store):
    """From the pre hook on there is a row `processing` with what was asked; the final one has the same `created`."""
    plugin, ctx = plugin_for(), context()
    plugin.pre_llm_hook(ctx, ctx.request)
    assert plugin.flush(WAIT)
    begun = store.get("r1")
    assert (begun.status, begun.revision, begun.instance) == ("processing", STARTED, store.instance)
    assert (begun.model, begun.stream, begun.search_text) == ("gpt-4o", True, "How is Zürich?")
    assert (begun.usage_source, begun.record, begun.error_message) == ("missing", None, None)
    row = logged(plugin, ctx, streamfold.fold(sse(CHUNKS), "openai-chat"), before=False)
    assert (row.status, row.created) == ("success", begun.created)


ENDS = {
    "success": lambda stream: stream.finish(),
    "error": lambda stream: stream.finish(Outcome.ERROR, {"message": "no", "type": "server_error"}, status_code=500),
    "cancelled": lambda stream: stream.finish(Outcome.CANCELLED),
    "truncated": lambda stream: stream.finish(Outcome.TRUNCATED),
    "timeout": lambda stream: stream.finish(Outcome.TIMEOUT),
    "abandoned": lambda stream: stream.finish(Outcome.ABANDONED),
}


@pytest.mark.parametrize("before", [True, False], ids=["with the pre hook", "without"])
@pytest.mark.parametrize("status", ENDS)
def test_one_row_for_each_end(plugin_for, store, status, before):
    """However a stream ends, and whether or not the beginning was seen, it has one row with that end."""
    plugin = plugin_for()
    stream = StreamAccumulator("openai-chat", request_id="r1")
    stream.feed(sse(CHUNKS if status == "success" else CHUNKS[:2], b""))
    ctx, done = context(), ENDS[status](stream)
    row = logged(plugin, ctx, done, before)
    assert (row.status, row.revision >= FINAL) == (status, True)
    assert "Sunny today" in row.search_text
    plugin.on_response(ctx, ProcessedStreamResponse(type=ResponseType.FINAL, request_id="r1", data=AccumulatedData()))
    assert plugin.flush(WAIT)
    assert len(store.rows()) == 1
    assert store.get("r1").status == status


def test_a_delta_is_no_end(plugin_for, store):
    """A DELTA that is handed over by mistake makes no row."""
    plugin = plugin_for()
    plugin.on_response(context(), ProcessedStreamResponse(type=ResponseType.DELTA, request_id="r1"))
    assert plugin.flush(WAIT)
    assert store.rows() == []


def test_an_unstreamed_response_has_a_row_too(plugin_for):
    """A whole response is logged like a stream, without the times of a stream."""
    body = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    done = streamfold.read(body, "openai-chat")
    row = logged(plugin_for(), context(), done)
    assert (row.stream, row.status, row.arrivals, row.search_text) == (False, "success", None, "How is Zürich?\nHi")


def test_estimates_have_columns_of_their_own(plugin_for):
    """A stream that broke off before its usage gets guessed tokens, in columns and in the record, and no said ones."""
    estimate = pytest.importorskip("streamfold.catalog.estimate", reason="the catalog is not there")
    stream = StreamAccumulator("openai-chat", request_id="r1")
    stream.feed(sse(CHUNKS[:2], b""))
    done = stream.finish(Outcome.CANCELLED)
    row = logged(plugin_for(), context(), done)
    guess = estimate.estimate_usage(done.data, ASKED, None)
    assert (row.prompt_tokens, row.completion_tokens, row.usage_source) == (None, None, "missing")
    assert (row.estimated_prompt_tokens, row.estimated_completion_tokens) == (
        guess.prompt_tokens,
        guess.completion_tokens,
    )
    assert msgspec.json.decode(row.record)["estimated_usage"]["source"] == "estimated"
    assert done.data.estimated_usage is None
    row = logged(plugin_for(estimate=False), context(request_id="r2"), done)
    assert row.estimated_completion_tokens is None


# ---------------------------------------------------------------------- checkpoints


class Looked:
    """A snapshot that tells when it was taken."""

    def __init__(self, stream):
        self.stream = stream
        self.times = 0
        self.taken = threading.Condition()

    def __call__(self):
        data = self.stream.snapshot()
        with self.taken:
            self.times += 1
            self.taken.notify_all()
        return data

    def again(self, times=2):
        """Waits until that many more snapshots were taken. The first of two may be under way; then it is stored."""
        with self.taken:
            wanted = self.times + times
            assert self.taken.wait_for(lambda: self.times >= wanted, WAIT)


def test_checkpoints_keep_what_has_come(plugin_for, store):
    """A long stream's row grows with it; without news it is not written again; the end replaces it."""
    plugin = plugin_for(checkpoint_s=0.01)
    stream = StreamAccumulator("openai-chat", request_id="r1")
    look = Looked(stream)
    ctx = context(snapshot=look, arrivals=lambda: [1_500_000], stream=True)
    plugin.pre_llm_hook(ctx, ASKED)
    stream.feed(sse(CHUNKS[:1], b""))
    look.again()
    assert plugin.flush(WAIT)
    first = store.get("r1")
    assert (first.status, first.revision, first.instance) == ("processing", 1, store.instance)
    assert first.arrivals == "[1.5]"
    assert "Sunny" in first.record
    look.again(4)
    stream.feed(sse(CHUNKS[1:2], b""))
    look.again()
    assert plugin.flush(WAIT)
    second = store.get("r1")
    assert second.revision == 2
    assert second.search_text == "How is Zürich?\nSunny today"
    stream.feed(sse(CHUNKS[2:]))
    assert logged(plugin, ctx, stream.finish(), before=False).status == "success"


def test_a_failing_snapshot_harms_no_other(plugin_for, store):
    """A snapshot that raises costs its own stream's checkpoint and nobody else's."""
    plugin = plugin_for(checkpoint_s=0.01)
    bad = context(request_id="bad", snapshot=lambda: 1 / 0)
    stream = StreamAccumulator("openai-chat", request_id="r1")
    stream.feed(sse(CHUNKS[:2], b""))
    look = Looked(stream)
    plugin.pre_llm_hook(bad, ASKED)
    plugin.pre_llm_hook(context(snapshot=look), ASKED)
    look.again()
    assert plugin.flush(WAIT)
    assert store.get("r1").revision == 1
    assert store.get("bad").revision == STARTED


def test_no_checkpoints_when_they_are_off(plugin_for):
    """With `checkpoint_s = 0` nothing is watched and there is no thread."""
    before = {thread.ident for thread in threading.enumerate()}
    plugin = plugin_for(checkpoint_s=0)
    plugin.pre_llm_hook(context(), ASKED)
    assert len(plugin._flights) == 0
    assert not {thread.name for thread in threading.enumerate() if thread.ident not in before} & {"streamfold-logging"}


def test_nothing_is_held_after_the_end(plugin_for):
    """After its end a request is held by nobody, without the help of the garbage collector."""

    class Request(dict):
        pass

    plugin = plugin_for(estimate=False)
    request = Request(ASKED)
    ctx, gone = context(request=request), weakref.ref(request)
    gc.disable()
    try:
        logged(plugin, ctx, streamfold.fold(sse(CHUNKS), "openai-chat"))
        del ctx, request
        assert gone() is None
    finally:
        gc.enable()


# ---------------------------------------------------------------------- requests

USER = "What now?"
SHAPES = {
    "openai-chat": {"messages": [{"role": "user", "content": [{"type": "text", "text": USER}]}]},
    "openai-completions": {"prompt": USER, "suffix": "…"},
    "openai-responses": {"input": [{"role": "user", "content": [{"type": "input_text", "text": USER}]}]},
    "openai-responses, text": {"input": USER, "instructions": "Be kind."},
    "openai-images": {"prompt": USER},
    "openai-speech": {"input": USER},
    "anthropic-messages": {
        "system": "Be kind.",
        "messages": [
            {"role": "user", "content": USER},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "42"}]},
        ],
    },
    "gemini": {"contents": [{"parts": [{"text": USER}]}], "systemInstruction": {"parts": [{"text": "Be kind."}]}},
    "bedrock-converse": {"messages": [{"role": "user", "content": [{"text": USER}]}], "system": [{"text": "x"}]},
    "bedrock-invoke, titan": {"inputText": USER},
    "cohere, v1": {"message": USER, "chat_history": [{"role": "USER", "message": "before"}]},
    "mistral, conversation": {"inputs": USER},
    "ollama, generate": {"prompt": USER, "images": [], "context": [1, 2]},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_requests_are_split(shape):
    """The last words of the user are found, and the parameters are everything that is not content."""
    request = {"model": "m", "stream": True, **SHAPES[shape], "temperature": 1}
    assert last_words(request) == USER
    assert parameters(request) == {"temperature": 1}
    assert tools(request) is None


@pytest.mark.parametrize(
    ("request_body", "wanted"),
    [
        ({"messages": [], "tools": [{"name": "f"}]}, [{"name": "f"}]),
        ({"messages": [], "functions": [{"name": "f"}]}, [{"name": "f"}]),
        (
            {"messages": [], "toolConfig": {"tools": [{"toolSpec": {"name": "f"}}], "toolChoice": {"auto": {}}}},
            [{"toolSpec": {"name": "f"}}],
        ),
    ],
    ids=["tools", "functions", "toolConfig"],
)
def test_tools_are_found(request_body, wanted):
    """The tools that a request offers are found wherever its API puts them."""
    assert tools(request_body) == wanted
    assert "tools" not in msgspec.json.encode(parameters(request_body)).decode()


@pytest.mark.parametrize("request_body", [{"question": "Why?"}, ["a", "b"], "text", 5, {}])
def test_an_unknown_shape_is_kept_whole(plugin_for, request_body):
    """A request of a shape that nobody told us is kept as it is, and not split."""
    row = logged(plugin_for(), context(request_body), streamfold.fold(sse(CHUNKS), "openai-chat"))
    assert msgspec.json.decode(row.request) == request_body
    assert (row.params, row.tools, row.search_text) == (None, None, "Sunny today")


def test_a_body_that_was_cut_is_quoted(plugin_for):
    """A body that is no whole JSON is stored as a JSON string, so that the column is JSON."""
    cut = b'{"messages":[{"role":"user","content":"How are'
    ctx = RequestContext(request_id="r1", request_body=cut)
    row = logged(plugin_for(), ctx, streamfold.fold(sse(CHUNKS), "openai-chat"))
    assert msgspec.json.decode(row.request) == cut.decode()


@pytest.mark.parametrize("count", [0, 1, 2, ARRIVALS, ARRIVALS + 1, 20_000])
def test_arrivals_are_thinned(count):
    """No more points than allowed; the first, the last and both sides of the longest stalls are among them."""
    times, at = [], 0
    for place in range(count):
        at += 9_000_000_000 if place in (7000, 12_345) else 1_000_000 + place % 7
        times.append(at)
    text = arrivals_text(times)
    if not count:
        assert text is None
        return
    kept = msgspec.json.decode(text)
    assert kept == sorted(kept)
    assert len(kept) == count if count <= ARRIVALS else ARRIVALS - 1 <= len(kept) <= ARRIVALS
    needed = [times[0], times[-1], *(times[place] for place in (6999, 7000, 12_344, 12_345) if count > 20_000 - 1)]
    assert {round(each / 1e6, 1) for each in needed} <= set(kept)


# ---------------------------------------------------------------------- without the gateway


def test_with_the_openai_sdk_and_an_accumulator(tmp_path):
    """A program without the gateway: the SDK's chunk objects, an accumulator, a context, and the plugin."""
    accumulator = Accumulator()
    with_store = LoggingPlugin(LoggingConfig(url=str(tmp_path / "log.db")))
    ctx = RequestContext(
        request_id="mine", format="openai-chat", provider="openai", model="gpt-4o", metadata={"a": "b"}
    )
    ctx.snapshot = accumulator.create_stream_accumulator(ctx.request_id, format="openai-chat", owner="app").snapshot
    with_store.pre_llm_hook(ctx, ASKED)
    for each in CHUNKS:
        accumulator.process_streaming_response(ctx, ChatCompletionChunk.model_validate(each))
    ctx.stream_end = True
    with_store.on_response(ctx, accumulator.process_streaming_response(ctx, None))
    accumulator.cleanup_stream_accumulator(ctx.request_id, owner="app")
    with_store.close()
    with LogStore.open_existing(str(tmp_path / "log.db")) as found:
        row = found.get("mine")
    assert (row.status, row.provider, row.model, row.total_tokens) == ("success", "openai", "gpt-4o", 11)
    assert msgspec.json.decode(row.record)["output_message"]["content"] == "Sunny today"
    assert msgspec.json.decode(row.request) == ASKED


class Ported:
    """A plugin in the pattern of the original gateway, which logs through ours."""

    name = "ported"

    def __init__(self, accumulator, plugin):
        self.accumulator, self.plugin = accumulator, plugin

    def pre_llm_hook(self, ctx, request):
        self.accumulator.create_stream_accumulator(
            ctx.request_id, ctx.started_at, format="openai-chat", owner=self.name
        )
        self.plugin.pre_llm_hook(ctx, request)

    def post_llm_hook(self, ctx, chunk, error):
        done = self.accumulator.process_streaming_response(ctx, chunk, error)
        if done is not None and done.is_final:
            self.plugin.on_response(ctx, done)
            self.accumulator.cleanup_stream_accumulator(ctx.request_id, owner=self.name)


def test_the_pattern_of_the_original_gateway(plugin_for, store):
    """Create in the pre hook, process in the post hook, clean up at the end: rows for 50 interleaved streams."""
    accumulator = Accumulator()
    ported = Ported(accumulator, plugin_for())
    contexts = [context(request_id=f"r{place}") for place in range(50)]
    for ctx in contexts:
        ported.pre_llm_hook(ctx, ctx.request)
    for index, each in enumerate(CHUNKS[:2]):
        for ctx in contexts:
            ctx.chunk_index = index
            ported.post_llm_hook(ctx, each, None)
    for place, ctx in enumerate(contexts):
        if place % 2:
            ported.post_llm_hook(ctx, None, {"message": "overloaded", "type": "overloaded_error"})
            continue
        for index, each in enumerate(CHUNKS[2:], start=2):
            ctx.chunk_index, ctx.stream_end = index, index == len(CHUNKS) - 1
            ported.post_llm_hook(ctx, each, None)
    assert ported.plugin.flush(WAIT)
    rows = store.rows(limit=100)
    assert sorted(row.status for row in rows) == ["error"] * 25 + ["success"] * 25
    assert {row.error_type for row in rows if row.status == "error"} == {"overloaded_error"}
    assert all("Sunny today" in store.get(row.id).record for row in rows)
    assert len(accumulator) == 0


# ---------------------------------------------------------------------- configuration and life


def test_it_opens_and_closes_its_own_store(tmp_path):
    """Loaded by name, the plugin opens the store of its configuration, and closes it with everything written."""
    plugin = load_plugin("logging", {"url": str(tmp_path / "log.db"), "metadata": {"env": "x"}})
    for place in range(20):
        plugin.on_response(context(request_id=f"r{place}"), streamfold.fold(sse(CHUNKS), "openai-chat"))
    plugin.close()
    plugin.close()
    with LogStore.open_existing(str(tmp_path / "log.db")) as found:
        assert len(found.rows()) == 20


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"redact": ["("]}, '"plugins.logging.redact[0]" is no regular expression'),
        ({"redact": ["ok", "x*"]}, '"plugins.logging.redact[1]" matches the empty text'),
        ({"redacted": []}, 'unknown key "plugins.logging.redacted"; did you mean "redact"?'),
        ({"checkpoint_s": -1}, '"plugins.logging.checkpoint_s" is -1'),
        ({"checkpoint_s": "5"}, '"plugins.logging.checkpoint_s" must be a number, not text'),
        ({"max_content_bytes": 10}, '"plugins.logging.max_content_bytes" is 10; give at least 1024'),
        ({"spill_bytes": 0}, '"plugins.logging.spill_bytes" is 0'),
        ({"retention": {"max_ag": "30d"}}, 'unknown key "plugins.logging.retention.max_ag"; did you mean "max_age"?'),
        ({"retention": {"max_age": "soon"}}, "plugins.logging.retention.max_age: 'soon' is no duration"),
        ({"retention": {"max_bytes": "big"}}, "plugins.logging.retention.max_bytes: 'big' is no size"),
        ({"binary": "drop"}, '"plugins.logging.binary" cannot be "drop"; choose one of '),
    ],
)
def test_mistakes_name_the_key(settings, told):
    """A mistake in the configuration is refused with a sentence that names the key."""
    with pytest.raises(UsageError) as refused:
        load_plugin("logging", settings)
    assert told in str(refused.value)


def test_retention_is_applied(plugin_for, store):
    """What the configuration says of retention is done by the plugin, without being asked."""
    plugin = plugin_for()
    old = context(request_id="old", started_at=1_600_000_000.0)
    logged(plugin, old, streamfold.fold(sse(CHUNKS), "openai-chat"))
    logged(plugin, context(request_id="new"), streamfold.fold(sse(CHUNKS), "openai-chat"))
    assert plugin_for(retention=Retention(max_age="30d")).flush(WAIT)
    assert [row.id for row in store.rows()] == ["new"]


def test_a_row_too_large_for_the_journal_is_shortened(tmp_path):
    """While the database is away, a row that the journal has no room for is kept with its content cut to a little."""
    done = streamfold.fold(sse(CHUNKS), "openai-chat")
    path = str(tmp_path / "log.db")
    with LogStore.open(path, spill_bytes=200_000) as store:
        plugin = LoggingPlugin(LoggingConfig(checkpoint_s=0), store=store)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # nobody else can write now
        plugin.on_response(context(request_id="r0"), done)
        request = {**ASKED, "messages": [{"role": "user", "content": "x y " * 60_000}]}
        plugin.on_response(context(request), done)
        plugin._upkeep.drain(WAIT)  # large rows are made on its thread: the row is made while the database is away
        assert (plugin.lost, store.waiting) == (0, 2)
        other.execute("ROLLBACK")
        other.close()
        assert plugin.flush(WAIT)
        row = store.get("r1")
    assert row.status == "success"
    assert "bytes left out" in row.request
    assert msgspec.json.decode(row.request)["model"] == "gpt-4o"
    assert msgspec.json.decode(row.record)["status"] == "success"


def test_stream_types_are_kept(plugin_for):
    """The row says what kind of stream it was."""
    done = streamfold.fold(sse(CHUNKS), "openai-chat")
    assert logged(plugin_for(), context(), done).stream_type == StreamType.CHAT_COMPLETION.value


def test_large_traffic_is_logged_beside_it(plugin_for, store):
    """Rows of large requests are made on another thread; beginning and end keep their order, and both are stored."""
    plugin = plugin_for()
    for place in range(150):  # more than may wait
        request = {**ASKED, "messages": [{"role": "user", "content": "word " * 60_000}]}
        ctx = context(request, request_id=f"r{place}", stream=True)
        plugin.pre_llm_hook(ctx, request)
        plugin.on_response(ctx, streamfold.fold(sse(CHUNKS), "openai-chat"))
        plugin.on_response(ctx, streamfold.fold(sse(CHUNKS), "openai-chat"))
    assert plugin.flush(WAIT)
    rows = store.rows(limit=1000)
    assert [row.status for row in rows] == ["success"] * 150
    assert (len(plugin._flights), store.dropped) == (0, 0)


CRASHING = """
import os, signal, sys, threading
from streamfold import StreamAccumulator
from streamfold.hooks import RequestContext
from streamfold.plugins.logging import LoggingConfig, LoggingPlugin

from test_plugin_logging import ASKED, CHUNKS, Looked, sse
import streamfold

plugin = LoggingPlugin(LoggingConfig(url=sys.argv[1], checkpoint_s=0.01))
looks = []
for place in range(40):
    stream = StreamAccumulator("openai-chat", request_id=f"r{place}")
    looks.append(Looked(stream))
    ctx = RequestContext(request_id=f"r{place}", request=ASKED, snapshot=looks[-1], stream=True)
    plugin.pre_llm_hook(ctx, ASKED)
    if place % 2:
        stream.feed(sse(CHUNKS))
        plugin.on_response(ctx, stream.finish())
    else:
        stream.feed(sse(CHUNKS[:2], b""))
for place in range(0, 40, 2):
    looks[place].again()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_crash_what_was_stored_is_found(tmp_path):
    """Killed in the middle of streams: the finished rows are there, the others are `abandoned` with what had come."""
    url = str(tmp_path / "log.db")
    child = subprocess.run(
        [sys.executable, "-c", CRASHING, url], capture_output=True, timeout=120, cwd=Path(__file__).parent
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    with LogStore.open(url) as store:
        assert store.flush(WAIT)
        rows = {row.id: store.get(row.id) for row in store.rows(limit=1000)}
    assert sorted(rows) == sorted(f"r{place}" for place in range(40))
    for place in range(40):
        row = rows[f"r{place}"]
        assert row.status == ("success" if place % 2 else "abandoned")
        assert msgspec.json.decode(row.record)["output_message"]["content"] == "Sunny today"
        assert msgspec.json.decode(row.request) == ASKED


def test_every_setting_is_documented():
    """The page of the plugin has a line for each setting, and each setting says what it means."""
    page = (Path(__file__).parent.parent / "docs" / "logging-plugin.md").read_text()
    table = page[page.index("## All settings") : page.index("## Without the gateway")]
    assert set(
        re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    ) == set(LoggingConfig.__struct_fields__)
