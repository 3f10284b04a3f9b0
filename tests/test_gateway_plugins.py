"""Plugins in the gateway: what they see, what they may change, and that what they do wrong reaches nobody."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from maxim_endpoint import maxim_endpoint
from otlp_receiver import attributes, receiver
from scripted import PATIENCE, Reply, Rig, ask, conversation, decoded, rig
from streamfold.framing import SSE
from streamfold.gateway.config import Limits
from streamfold.gateway.delivery import EventCutter, LineCutter
from streamfold.gateway.scenes import ANSWER, play_all
from streamfold.gateway.scripted import HANG_UP, Script
from streamfold.hooks import DROP, RequestContext, ShortCircuit
from streamfold.processed import ProcessedStreamResponse
from streamfold.types import ErrorDetails

PATH = "/v1/chat/completions"
JSON = [("content-type", "application/json")]
ASK: list[dict[str, Any]] = [{"role": "user", "content": "What is a stream?"}]
CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": ASK, "stream": True}
QUICK = Limits(hook_timeout_s=0.05)


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return encoded({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


ONE = chunk({"role": "assistant", "content": "Grüße, "})
TWO = chunk({"content": "Welt"})
LAST = chunk({}, "stop")
DONE = b"[DONE]"
BODY = b"".join(b"data: " + payload + b"\n\n" for payload in (ONE, TWO, LAST, DONE))
WHOLE = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Grüße, Welt"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
}
UNSTREAMED = Script([encoded(WHOLE)], headers=[("content-type", "application/json")], framing="length")


# ---------------------------------------------------------------------- how a test plugs something in

_numbers = itertools.count()
Sections = dict[str, dict[str, Any]]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sections]:
    """Makes a plugin of hooks, and gives the section of the configuration that loads it by its import path."""

    def made(*, inline: bool = False, name: str = "made", **hooks: Callable[..., Any]) -> Sections:
        plain = {hook: staticmethod(function) for hook, function in hooks.items()}
        path = f"Made{next(_numbers)}"
        kind = type(path, (), {"name": name, "inline": inline, **plain})
        monkeypatch.setattr(sys.modules[__name__], path, kind, raising=False)
        return {f"{__name__}:{path}": {}}

    return made


def as_async(hook: Callable[..., Any]) -> Callable[..., Any]:
    async def waiting(*what: Any) -> Any:
        await asyncio.sleep(0)
        return hook(*what)

    return waiting


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


async def asked(gateway: Rig, prompt: dict[str, Any] = CHAT, headers: list[tuple[str, str]] = JSON) -> Reply:
    return await ask(gateway.address, "POST", "/openai" + PATH, headers, encoded(prompt))


async def answered(
    directory: Path, script: Script, plugins: Sections, prompt: dict[str, Any] = CHAT, **flags: Any
) -> tuple[Reply, dict[str, Any], Rig]:
    """One request through a gateway with plugins: what the client got, and the record."""
    directory.mkdir(exist_ok=True)
    async with rig(directory, plugins=plugins, **flags) as gateway:
        gateway.upstream.route("POST", PATH, script)
        reply = await asked(gateway, prompt)
        return reply, await gateway.record(), gateway


# ---------------------------------------------------------------------- before the request


async def test_pre_hook_sees_the_request(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """The hook gets the decoded body and a context that knows the request, before the upstream does."""
    seen: list[Any] = []

    def pre(ctx: RequestContext, request: Any) -> None:
        seen.append((request, ctx, len(gateway.upstream.requests)))

    def end(ctx: RequestContext, processed: ProcessedStreamResponse) -> None:
        seen.append((processed, ctx, threading.current_thread().name))

    async with rig(tmp_path, plugins=plug(pre_llm_hook=pre, on_response=end)) as gateway:
        play_all(gateway.upstream, 0)
        async with openai.AsyncOpenAI(api_key="sk-test-secret", base_url=gateway.address + "/openai/v1") as client:
            stream = await client.chat.completions.create(model="gpt-4o-mini", messages=ASK, stream=True)  # type: ignore[call-overload]
            text = "".join([each.choices[0].delta.content or "" async for each in stream if each.choices])
        row = await gateway.row()

    (request, ctx, before), (processed, same, thread) = seen
    assert (request["messages"], before, text) == (ASK, 0, ANSWER)
    assert (ctx.request_id, ctx.model, ctx.stream, ctx.method, ctx.path) == (row.id, "gpt-4o-mini", True, "POST", PATH)
    assert (ctx.upstream, ctx.provider, ctx.format, ctx.http_status) == ("openai", "openai", "openai-chat", 200)
    assert (ctx.server_address, f"http://127.0.0.1:{ctx.server_port}") == ("127.0.0.1", gateway.upstream.url)
    assert "authorization" not in ctx.request_headers
    assert "sk-test-secret" not in str(msgspec.to_builtins(ctx, enc_hook=str))
    assert same is ctx
    assert thread != threading.main_thread().name
    assert processed.data is not None
    assert processed.data.output_message is not None
    assert (processed.data.status, processed.data.output_message.content) == ("success", ANSWER)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_short_circuit_unstreamed(tmp_path: Path, plug: Callable[..., Sections], asynchronous: bool) -> None:
    """An answer of a plugin reaches the SDK like one of the provider, is logged like one, and nothing goes out."""

    def pre(ctx: RequestContext, request: Any) -> ShortCircuit:
        return ShortCircuit(response=WHOLE)

    plugins = plug(pre_llm_hook=as_async(pre) if asynchronous else pre)
    async with rig(tmp_path, plugins=plugins) as gateway:
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=gateway.address + "/openai/v1") as client:
            whole = await client.chat.completions.create(model="gpt-4o-mini", messages=ASK)  # type: ignore[arg-type]
        row = await gateway.row()

    assert whole.choices[0].message.content == "Grüße, Welt"
    assert gateway.upstream.requests == []
    assert (row.status, row.http_status, row.total_tokens, row.stream) == ("success", 200, 13, False)


async def test_short_circuit_streamed(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """The bytes of a stream, given by a plugin, are a stream to the SDK and in the row."""
    plugins = plug(pre_llm_hook=lambda ctx, request: ShortCircuit(response=BODY))
    async with rig(tmp_path, plugins=plugins) as gateway:
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=gateway.address + "/openai/v1") as client:
            stream = await client.chat.completions.create(model="gpt-4o-mini", messages=ASK, stream=True)  # type: ignore[call-overload]
            text = "".join([each.choices[0].delta.content or "" async for each in stream])
        row = await gateway.row()

    assert text == "Grüße, Welt"
    assert gateway.upstream.requests == []
    assert (row.status, row.stream, row.finish_reason, row.chunks) == ("success", True, "stop", 3)
    assert decoded(row)["output_message"]["content"] == "Grüße, Welt"


REFUSED = ErrorDetails(type="policy", message="not on a Sunday")
LIMITED = ErrorDetails(type="too_many", message="later", status_code=429)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("short", "status", "of_openai", "of_anthropic"),
    [
        (ShortCircuit(error=REFUSED), 403, openai.PermissionDeniedError, anthropic.PermissionDeniedError),
        (ShortCircuit(error=LIMITED), 429, openai.RateLimitError, anthropic.RateLimitError),
        (ShortCircuit(error=REFUSED, status_code=400), 400, openai.BadRequestError, anthropic.BadRequestError),
    ],
    ids=["refused", "its own status", "another status"],
)
async def test_short_circuit_with_an_error(
    tmp_path: Path,
    plug: Callable[..., Sections],
    stream: bool,
    short: ShortCircuit,
    status: int,
    of_openai: type[openai.APIStatusError],
    of_anthropic: type[anthropic.APIStatusError],
) -> None:
    """A refusal is a proper API error to both SDKs, with the plugin's words, and an error in the log."""
    assert short.error is not None
    async with rig(tmp_path, plugins=plug(pre_llm_hook=lambda ctx, request: short)) as gateway:
        base = gateway.address + "/openai/v1"
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=base, max_retries=0) as client:
            with pytest.raises(of_openai, match=short.error.message or "") as told:
                await client.chat.completions.create(model="gpt-4o-mini", messages=ASK, stream=stream)  # type: ignore[call-overload]
        base = gateway.address + "/anthropic"
        async with anthropic.AsyncAnthropic(api_key="sk-ant-test", base_url=base, max_retries=0) as other:
            with pytest.raises(of_anthropic, match=short.error.message or ""):
                await other.messages.create(model="claude-sonnet-5", max_tokens=9, messages=ASK, stream=stream)  # type: ignore[call-overload]
        rows = await gateway.rows(2)

    assert (told.value.status_code, told.value.type) == (status, short.error.type)
    assert gateway.upstream.requests == []
    for row in rows:
        assert (row.status, row.http_status, row.error_type) == ("error", status, short.error.type)
        assert row.error_message == short.error.message


async def test_hooks_run_in_order(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """Requests pass the plugins as they are configured, chunks the other way; none behind a short circuit is asked."""
    log: list[str] = []

    def noting(name: str) -> Sections:
        return plug(
            name=name,
            pre_llm_hook=lambda ctx, request: log.append(name),
            post_llm_hook=lambda ctx, payload, error: log.append(name.upper()),
        )

    script = Script([b"data: " + LAST + b"\n\n"])
    await answered(tmp_path / "1", script, noting("a") | noting("b") | noting("c"))
    assert "".join(log) == "abc" + "CBA" + "CBA"  # one chunk, and the end

    log.clear()
    stop = plug(name="stop", pre_llm_hook=lambda ctx, request: ShortCircuit(error=REFUSED))
    await answered(tmp_path / "2", script, noting("a") | stop | noting("c"))
    # The one that saw the request hears that it is over, and can clean up.
    assert "".join(log) == "aA"


# ---------------------------------------------------------------------- chunks


def edited(ctx: RequestContext, payload: bytes | None, error: ErrorDetails | None) -> Any:
    """Replaces the first chunk by an object, drops the second, leaves the rest."""
    if payload is not None and "Grüße".encode() in payload:
        return {**msgspec.json.decode(payload), "model": "replaced"}
    return DROP if payload == TWO else None


NEW = encoded({**msgspec.json.decode(ONE), "model": "replaced"})


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
@pytest.mark.parametrize(
    ("body", "wanted", "kind"),
    [
        (BODY, b"data: %b\n\ndata: %b\n\ndata: [DONE]\n\n" % (NEW, LAST), "text/event-stream"),
        (
            b": hello\r\n\r\nevent: a\r\ndata: %b\r\nid: 7\r\n\r\ndata: %b\r\n\r\n: ping\r\n\r\ndata:%b\r\n\r\n"
            % (ONE, TWO, LAST),
            b": hello\r\n\r\nevent: a\r\nid: 7\r\ndata: %b\r\n\r\n: ping\r\n\r\ndata:%b\r\n\r\n" % (NEW, LAST),
            "text/event-stream; charset=utf-8",
        ),
        (
            b"event: a\ndata:%b\n\nretry: 1\n\n\n\ndata: %b\n\ndata: %b\n\nevent: rest\ndata: cut" % (ONE, TWO, LAST),
            b"event: a\ndata: %b\n\nretry: 1\n\n\n\ndata: %b\n\nevent: rest\ndata: cut" % (NEW, LAST),
            "text/event-stream",
        ),
        (
            ONE + b"\n" + TWO + b"\r\n\n" + LAST + b"\r\n" + b'{"rest":',
            NEW + b"\n" + b"\n" + LAST + b"\r\n" + b'{"rest":',
            "application/x-ndjson",
        ),
    ],
    ids=["LF", "CRLF, comments, names and ids", "no space, odd lines, no end", "NDJSON"],
)
async def test_chunks_are_replaced_and_dropped(
    tmp_path: Path, plug: Callable[..., Sections], size: int, body: bytes, wanted: bytes, kind: str
) -> None:
    """What the hook replaces or drops is replaced or dropped, and every other byte is as it came, however it is cut."""
    script = Script(cut(body, size), headers=[("content-type", kind)])
    reply, _, _ = await answered(tmp_path, script, plug(post_llm_hook=edited))

    assert (reply.body, reply.whole) == (wanted, True)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("text/event-stream", b"data: a\ndata: b\ndata: c\ndata: \ndata: d\ndata: \n\n"),
        ("application/x-ndjson", b"a b  c  d \n"),
    ],
)
async def test_line_ends_in_a_payload_start_no_event(
    tmp_path: Path, plug: Callable[..., Sections], kind: str, wanted: bytes
) -> None:
    """Whatever ends a line for a reader of the stream, in what a plugin puts into it, is no end of the event."""
    payload = b"a\rb\r\nc\n\rd\r"
    script = Script([ONE + b"\n" if "nd" in kind else b"data: %b\n\n" % ONE], headers=[("content-type", kind)])
    reply, _, _ = await answered(tmp_path, script, plug(post_llm_hook=lambda ctx, chunk, error: chunk and payload))

    assert reply.body == wanted


async def test_the_record_tells_what_the_provider_said(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """What plugins change is what the client sees; the record holds the answer as it came."""
    reply, record, _ = await answered(tmp_path, Script([BODY]), plug(post_llm_hook=edited))

    assert b"Welt" not in reply.body
    assert (record["output_message"]["content"], record["response_model"]) == ("Grüße, Welt", "m")


async def test_sdk_reads_replaced_chunks(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """The Anthropic SDK builds its message from the events that a plugin has rewritten: event names are kept."""

    def loud(ctx: RequestContext, payload: bytes | None, error: ErrorDetails | None) -> Any:
        event = msgspec.json.decode(payload) if payload is not None else {}
        if event.get("delta", {}).get("type") != "text_delta":
            return None
        event["delta"]["text"] = event["delta"]["text"].upper()
        return event

    async with rig(tmp_path, plugins=plug(post_llm_hook=as_async(loud))) as gateway:
        play_all(gateway.upstream, 0)
        base = gateway.address + "/anthropic"
        async with anthropic.AsyncAnthropic(api_key="sk-ant-test", base_url=base) as client:
            asking: Any = {"model": "claude-sonnet-5", "max_tokens": 100, "messages": ASK}
            async with client.messages.stream(**asking) as stream:
                message = await stream.get_final_message()
        record = await gateway.record()

    assert message.content[0].text == ANSWER.upper()  # type: ignore[union-attr]
    assert record["output_message"]["content"] == ANSWER


async def test_a_guard_reads_the_answer_so_far(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """`ctx.snapshot()` in a chunk hook holds everything up to this chunk, so a guard can stop what was begun."""
    texts: list[str | None] = []

    def guard(ctx: RequestContext, payload: Any, error: Any) -> Any:
        if payload is None or ctx.snapshot is None:
            return None
        message = ctx.snapshot().output_message
        texts.append(message.content if message is not None else None)
        return DROP if "Welt" in (texts[-1] or "") else None

    events = [b"data: " + payload + b"\n\n" for payload in (ONE, TWO, LAST, DONE)]
    go_on = [asyncio.Event() for _ in events]
    steps = [step for pair in zip(events, go_on, strict=True) for step in pair]
    async with rig(tmp_path, plugins=plug(post_llm_hook=guard, inline=True)) as gateway:
        gateway.upstream.route("POST", PATH, Script(steps))
        async with conversation(gateway.address, "POST", "/openai" + PATH, JSON, encoded(CHAT)) as talk:
            await talk.receive()
            first = bytes((await talk.receive()).data)
            for event in go_on:
                event.set()
            rest = await talk.receive()
        await gateway.row()

    assert first == events[0]
    assert not getattr(rest, "data", b"")
    assert texts[0] == "Grüße, "
    assert set(texts[1:]) == {"Grüße, Welt"}


async def test_chunk_hook_is_told_of_the_end(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """After the last chunk the hook is called with none; with the error, if the answer broke off."""
    ends: list[Any] = []

    def post(ctx: RequestContext, payload: Any, error: Any) -> None:
        ends.append((ctx.chunk_index, payload, ctx.stream_end, error.type if error is not None else None))

    two = BODY[: BODY.index(LAST) - 6]
    await answered(tmp_path / "1", Script([BODY]), plug(post_llm_hook=post))
    whole, ends[:] = list(ends), []
    await answered(tmp_path / "2", Script([two, HANG_UP]), plug(post_llm_hook=post))

    chunks = [(place, payload, False, None) for place, payload in enumerate((ONE, TWO, LAST, DONE))]
    assert whole == [*chunks, (None, None, True, None)]
    assert ends == [(0, ONE, False, None), (1, TWO, False, None), (None, None, True, "upstream_disconnected")]


NOT_TOUCHED: Any = st.sampled_from(
    [ONE, b'{"a":"b"}', DONE, b": ping", b"event: x", b"id: 1", b"data", b"data:", b"data: x", b"data:y", b"\xff\xfe"]
)
ENDS: Any = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r", b""])
LINES: Any = st.lists(st.tuples(NOT_TOUCHED, ENDS))


@given(LINES, st.lists(st.integers(0, 2000)), st.sampled_from([EventCutter, LineCutter]))
def test_untouched_events_keep_every_byte(
    lines: list[tuple[bytes, bytes]], places: list[int], kind: type[EventCutter | LineCutter]
) -> None:
    """However a body is cut, its events put together are the body; and they are the same events however it is cut."""
    body = b"".join(text + end for text, end in lines)
    ordered = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    cutter, alone = kind(), kind()
    events = [event for at, to in itertools.pairwise(ordered) for event in cutter.cut(body[at:to])]

    assert b"".join(event.raw for event in events) + cutter.rest() == body
    assert [*events] == alone.cut(body)
    if kind is EventCutter:
        whole = b"".join(event.raw for event in events)
        payloads = [payload for payload in SSE().feed(whole)[0] if payload]
        assert [event.payload for event in events if event.payload] == payloads


# ---------------------------------------------------------------------- unstreamed answers


OTHER = {**WHOLE, "model": "other"}


@pytest.mark.parametrize("replacement", [OTHER, encoded(OTHER), "text", DROP], ids=["object", "bytes", "text", "drop"])
async def test_unstreamed_answer_is_replaced(tmp_path: Path, plug: Callable[..., Sections], replacement: Any) -> None:
    """The hook gets an unstreamed body once and may replace it; the length that is told is that of what is sent."""
    seen: list[Any] = []

    def post(ctx: RequestContext, payload: Any, error: Any) -> Any:
        seen.append(payload)
        return replacement if payload is not None else None

    reply, record, _ = await answered(tmp_path, UNSTREAMED, plug(post_llm_hook=post), {**CHAT, "stream": False})
    wanted = encoded(replacement) if isinstance(replacement, dict) else replacement
    wanted = {DROP: b"", "text": b"text"}.get(wanted, wanted)

    assert seen == [encoded(WHOLE), None]
    assert (reply.status, reply.body, reply.whole) == (200, wanted, True)
    assert [value for name, value in reply.headers if name == b"content-length"] == [str(len(wanted)).encode()]
    assert record["output_message"]["content"] == "Grüße, Welt"


async def test_unstreamed_answer_with_a_slow_end(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """A client that leaves as soon as it has the length that was told has left nothing unfinished."""

    def post(ctx: RequestContext, payload: Any, error: Any) -> None:
        if payload is None:
            time.sleep(0.2)  # long enough for the client's leaving to be noticed meanwhile

    async with rig(tmp_path, plugins=plug(post_llm_hook=post)) as gateway:
        gateway.upstream.route("POST", PATH, UNSTREAMED)
        reply = await asked(gateway, {**CHAT, "stream": False})
        row = await gateway.row()

    assert reply.body == encoded(WHOLE)
    assert (row.status, row.total_tokens) == ("success", 13)


async def test_unstreamed_answer_too_long_to_hold(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """A body beyond the limit passes unseen and whole; it is never held back to its end."""
    plugins = plug(post_llm_hook=lambda ctx, payload, error: DROP)
    body = encoded({"text": "x" * 50_000})
    script = Script(cut(body, 7000), headers=UNSTREAMED.headers)
    limits = Limits(response_bytes=20_000)
    reply, _, _ = await answered(tmp_path, script, plugins, {**CHAT, "stream": False}, limits=limits)

    assert (reply.body, reply.whole) == (body, True)


# ---------------------------------------------------------------------- what passes unseen


async def test_without_chunk_hooks_nothing_is_touched(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """Plugins that only watch requests and responses leave compression and every byte as they are."""
    body = gzip.compress(BODY)
    script = Script(cut(body, 10), headers=[("content-type", "text/event-stream"), ("content-encoding", "gzip")])
    plugins = plug(pre_llm_hook=lambda ctx, request: None, on_response=lambda ctx, processed: None)
    async with rig(tmp_path, plugins=plugins) as gateway:
        gateway.upstream.route("POST", PATH, script)
        reply = await asked(gateway, headers=[*JSON, ("accept-encoding", "gzip, br")])
        record = await gateway.record()

    assert reply.body == body
    assert gateway.upstream.requests[0].header("accept-encoding") == "gzip, br"
    assert record["output_message"]["content"] == "Grüße, Welt"


async def test_chunk_hooks_ask_for_plain_bodies(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """With a chunk hook the upstream is not asked to compress; what it compresses all the same passes unseen."""
    body = gzip.compress(BODY)
    script = Script([body], headers=[("content-type", "text/event-stream"), ("content-encoding", "gzip")])
    plugins = plug(post_llm_hook=lambda ctx, payload, error: DROP)
    async with rig(tmp_path, plugins=plugins) as gateway:
        gateway.upstream.route("POST", PATH, script)
        reply = await asked(gateway, headers=[*JSON, ("accept-encoding", "gzip, br")])
        record = await gateway.record()

    assert reply.body == body
    assert gateway.upstream.requests[0].header("accept-encoding") is None
    assert record["output_message"]["content"] == "Grüße, Welt"


# ---------------------------------------------------------------------- words to the gateway


async def test_headers_for_the_gateway(tmp_path: Path, plug: Callable[..., Sections]) -> None:
    """Session and labels reach the row and the plugins, `log: off` keeps content out of the row; none goes further."""
    contexts: list[RequestContext] = []
    told = [
        ("x-streamfold-session", "s-1"),
        ("X-Streamfold-Meta-Team", "search"),
        ("x-streamfold-meta-env", "test"),
        ("x-streamfold-log", "off"),
    ]
    async with rig(tmp_path, plugins=plug(pre_llm_hook=lambda ctx, request: contexts.append(ctx))) as gateway:
        gateway.upstream.route("POST", PATH, Script([BODY]))
        await asked(gateway, headers=[*JSON, *told, ("x-else", "1")])
        row = await gateway.row()

    (ctx,) = contexts
    assert (ctx.session_id, ctx.metadata, ctx.log_content) == ("s-1", {"team": "search", "env": "test"}, False)
    assert (row.session_id, msgspec.json.decode(row.metadata or "")) == ("s-1", {"team": "search", "env": "test"})
    assert row.request is None
    assert "Welt" not in str(row)
    assert row.finish_reason == "stop"
    (received,) = gateway.upstream.requests
    assert [name for name, _ in received.headers if "streamfold" in name] == []
    assert received.header("x-else") == "1"


async def test_traceparent_reaches_the_otel_plugin(tmp_path: Path) -> None:
    """The span of a request is a child of the caller's, and the header goes on to the upstream."""
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with receiver() as collector:
        async with rig(tmp_path, plugins={"otel": {"endpoint": collector.url}}) as gateway:
            gateway.upstream.route("POST", PATH, Script([BODY]))
            await asked(gateway, headers=[*JSON, ("traceparent", f"00-{trace}-{parent}-01")])
            row = await gateway.row()
        (span,) = collector.spans

    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, parent)
    assert attributes(span)["gen_ai.request.model"] == "gpt-4o-mini"
    assert row.trace_id == trace
    assert trace in (gateway.upstream.requests[0].header("traceparent") or "")


async def test_metrics_are_readable(tmp_path: Path) -> None:
    """`/metrics` is there without a word of configuration, and the official parser reads it."""
    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        await asked(gateway)
        await gateway.row()
        reply = await ask(gateway.address, "GET", "/metrics")

    families = {family.name: family for family in text_string_to_metric_families(reply.body.decode())}
    assert reply.status == 200
    assert (reply.header(b"content-type") or b"").startswith(b"text/plain")
    (done,) = [s for s in families["streamfold_requests"].samples if s.name == "streamfold_requests_total"]
    assert done.value == 1.0
    assert "streamfold_log_rows_waiting" in families
    plugins = {sample.labels["plugin"] for sample in families["streamfold_plugin_errors"].samples}
    assert plugins >= {"logging", "prometheus"}


# ---------------------------------------------------------------------- plugins that misbehave


class Misbehaviour:
    """Ways to be a bad plugin. Those that block do so until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def raises(self, *_: Any) -> None:
        raise RuntimeError("SECRET WORDS")

    def exits(self, *_: Any) -> None:
        raise SystemExit(3)

    def interrupts(self, *_: Any) -> None:
        raise KeyboardInterrupt

    def cancels(self, *_: Any) -> None:
        raise asyncio.CancelledError

    def blocks(self, *_: Any) -> None:
        self.over.wait(PATIENCE)

    def answers_nonsense(self, *_: Any) -> Any:
        return object()

    async def waits(self, *_: Any) -> None:
        await asyncio.to_thread(self.over.wait, PATIENCE)

    async def dies(self, *_: Any) -> None:
        raise SystemExit(3)


@pytest.fixture
def bad() -> Iterator[Misbehaviour]:
    behaviour = Misbehaviour()
    yield behaviour
    behaviour.over.set()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
@pytest.mark.parametrize("how", [name for name in vars(Misbehaviour) if not name.startswith("_")])
@pytest.mark.parametrize("hook", ["pre_llm_hook", "post_llm_hook", "on_response", "close"])
async def test_a_bad_plugin_touches_nothing(
    tmp_path: Path,
    plug: Callable[..., Sections],
    bad: Misbehaviour,
    hook: str,
    how: str,
    stream: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever a plugin does wrong in whichever hook, the client gets every byte and the row is there."""
    plugins = plug(**{hook: getattr(bad, how)})
    script = Script(cut(BODY, 40)) if stream else UNSTREAMED
    async with rig(tmp_path, plugins=plugins, limits=QUICK) as gateway:
        gateway.upstream.route("POST", PATH, script)
        replies = [await asked(gateway, {**CHAT, "stream": stream}) for _ in range(2)]
        rows = await gateway.rows(2)
        metrics = (await ask(gateway.address, "GET", "/metrics")).body.decode()
        bad.over.set()

    assert [(reply.status, reply.body, reply.whole) for reply in replies] == [(200, script.body, True)] * 2
    assert [row.status for row in rows] == ["success"] * 2
    assert [decoded(row)["output_message"]["content"] for row in rows] == ["Grüße, Welt"] * 2
    if hook in ("pre_llm_hook", "post_llm_hook"):
        families = {family.name: family for family in text_string_to_metric_families(metrics)}
        errors = {each.labels["plugin"]: each.value for each in families["streamfold_plugin_errors"].samples}
        assert errors.pop("made") > 0
        assert set(errors.values()) == {0.0}
    assert "SECRET WORDS" not in caplog.text


WRONG: Any = "text"


@pytest.mark.parametrize(
    "nonsense",
    [
        ShortCircuit(),
        ShortCircuit(response=object()),
        ShortCircuit(response={"a": object()}),
        ShortCircuit(response=WHOLE, status_code=99),
        ShortCircuit(response=WHOLE, status_code=WRONG),
        ShortCircuit(error=WRONG),
        ShortCircuit(error=ErrorDetails(message=[WRONG])),  # type: ignore[arg-type]
        ShortCircuit(error=ErrorDetails(message="no", status_code=7)),
    ],
)
async def test_short_circuit_that_cannot_be_sent(
    tmp_path: Path, plug: Callable[..., Sections], nonsense: ShortCircuit
) -> None:
    """A short circuit that is none is counted against its plugin, and the request goes out."""
    reply, record, _ = await answered(tmp_path, Script([BODY]), plug(pre_llm_hook=lambda *_: nonsense))

    assert (reply.status, reply.body, reply.whole) == (200, BODY, True)
    assert record["status"] == "success"


async def test_a_bad_plugin_does_not_harm_its_neighbours(
    tmp_path: Path, plug: Callable[..., Sections], bad: Misbehaviour
) -> None:
    """Beside a plugin that blocks in every hook, the others see every request, chunk and response."""
    seen: list[str] = []
    good = plug(
        name="good",
        pre_llm_hook=lambda ctx, request: seen.append("pre"),
        post_llm_hook=lambda ctx, payload, error: seen.append("post"),
        on_response=lambda ctx, processed: seen.append("response"),
    )
    hooks = dict.fromkeys(("pre_llm_hook", "post_llm_hook", "on_response"), bad.blocks)
    # Long enough that no hook of the good one is late on a busy machine.
    async with rig(tmp_path, plugins=plug(name="bad", **hooks) | good, limits=Limits(hook_timeout_s=2)) as gateway:
        gateway.upstream.route("POST", PATH, Script([BODY]))
        reply = await asked(gateway)
        await gateway.row()
        bad.over.set()

    assert reply.body == BODY
    assert seen == ["pre", *["post"] * 5, "response"]


# ---------------------------------------------------------------------- all of ours


@asynccontextmanager
async def all_four(directory: Path) -> Any:
    """A gateway with every plugin of ours, and what stands behind them."""
    with receiver() as collector, maxim_endpoint() as maxim:
        plugins = {
            "logging": {"checkpoint_s": 0.05},
            "otel": {"endpoint": collector.url, "chunk_metrics": True},
            "maxim": {"repository_id": "repo-1", "base_url": maxim.url},
            "prometheus": {},
        }
        async with rig(directory, plugins=plugins) as gateway:
            yield gateway, collector, maxim


async def test_all_plugins_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all four of our plugins together the bytes are the same, and each tells the whole story."""
    monkeypatch.setenv("MAXIM_API_KEY", "mx-key")
    async with all_four(tmp_path) as (gateway, collector, maxim):
        play_all(gateway.upstream, 0)
        direct = await ask(gateway.upstream.url, "POST", PATH, JSON, encoded(CHAT))
        replies = await asyncio.gather(*(asked(gateway) for _ in range(10)))
        whole = await asked(gateway, {**CHAT, "stream": False})
        rows = await gateway.rows(11)
        metrics = (await ask(gateway.address, "GET", "/metrics")).body.decode()

    assert {reply.body for reply in replies} == {direct.body}
    assert whole.status == 200
    assert [row.status for row in rows] == ["success"] * 11
    assert len({row.id for row in rows}) == 11
    assert len(collector.spans) == 11
    assert {attributes(span)["gen_ai.response.model"] for span in collector.spans} == {"gpt-4o-mini-2024-07-18"}
    assert len(maxim.of("generation", "result")) == 11
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    finished = {
        sample.labels["stream"]: sample.value for sample in samples if sample.name == "streamfold_requests_total"
    }
    assert finished == {"true": 10.0, "false": 1.0}
    assert {sample.value for sample in samples if sample.name == "streamfold_requests_in_flight"} == {0.0}
