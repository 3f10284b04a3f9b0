"""What the configuration says of an upstream: a key of its own, usage asked for in the client's place."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import h11
import msgspec
import openai
import pytest

from scripted import ask, conversation, decoded, rig, said
from streamfold.errors import UsageError
from streamfold.gateway.config import Limits, UpstreamSettings, load_config
from streamfold.gateway.scripted import Received, Script
from streamfold.gateway.usage_request import UsageFilter, asking_for_usage, is_extra

PATH = "/v1/chat/completions"
JSON = [("content-type", "application/json")]
SECRET = "sk-of-the-house-1234567890"


def _chunk(text: str | None, usage: Any = None, **more: Any) -> bytes:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    event = {"id": "c", "object": "chat.completion.chunk", "choices": choices, "usage": usage, **more}
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
TEXT = [_chunk("Hel"), _chunk("lo")]
EXTRA = _chunk(None, USAGE)
DONE = b"data: [DONE]\n\n"


def as_asked(request: Received) -> Script:
    """What OpenAI does: usage only when asked for."""
    options = msgspec.json.decode(request.body).get("stream_options") or {}
    return Script([*TEXT, *([EXTRA] if options.get("include_usage") else []), DONE])


# ---------------------------------------------------------------------- a key of the gateway's own


KEYS = [
    ("openai", {}, ("authorization", f"Bearer {SECRET}")),
    ("anthropic", {}, ("x-api-key", SECRET)),
    ("gemini", {}, ("x-goog-api-key", SECRET)),
    ("openai", {"provider": "azure-openai"}, ("api-key", SECRET)),
    ("openai", {"key_header": "X-House-Pass"}, ("x-house-pass", SECRET)),
]


@pytest.mark.parametrize(("name", "more", "header"), KEYS)
async def test_key_takes_the_place_of_the_clients(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    more: dict[str, Any],
    header: tuple[str, str],
) -> None:
    """The configured key goes out as the provider wants it, the client's does not, and neither is stored or logged."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HOUSE_KEY", SECRET)
    mine = [("authorization", "Bearer sk-mine-777777"), ("x-api-key", "sk-mine-777777"), ("cookie", "a=sk-mine-777777")]
    echo = Script([msgspec.json.encode({"error": {"message": f"bad key {SECRET}"}})], status=401, headers=JSON)
    async with rig(tmp_path, upstreams=[name], settings={"key_env": "HOUSE_KEY", **more}) as gateway:
        gateway.upstream.route("POST", "/v1/x", echo)
        await ask(gateway.address, "POST", f"/{name}/v1/x?alt=sse&key=sk-mine-777777&b=1", [*JSON, *mine], b"{}")
        received = await gateway.upstream.received()
        row = await gateway.row()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    assert received.header(header[0]) == header[1]
    assert "sk-mine-777777" not in str(received)
    assert received.target == "/v1/x?alt=sse&b=1"
    assert row.error_message == "bad key [redacted]"
    assert SECRET.encode() not in stored
    assert SECRET not in said(caplog.records)


def test_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever prints the upstreams sees no key."""
    monkeypatch.setenv("HOUSE_KEY_SHOWN", SECRET)
    upstreams = load_config(upstreams={"a": UpstreamSettings("http://h", key_env="HOUSE_KEY_SHOWN")}).routes()
    assert SECRET not in repr(upstreams)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key_env": "NO_SUCH_VARIABLE_HERE"}, "NO_SUCH_VARIABLE_HERE is not set"),
        ({"key_header": "not a name"}, "no name of a header"),
        ({"fallback": ["nobody"]}, "no other upstream called 'nobody'"),
        ({"fallback": ["a"]}, "no other upstream called 'a'"),
        ({"retries": -1}, "0 or more"),
    ],
)
def test_mistakes_stop_the_start(settings: dict[str, Any], message: str) -> None:
    """A key that is not there, or a fallback to nobody, is told by its name."""
    with pytest.raises(UsageError, match=r"upstreams\.a") as raised:
        load_config(upstreams={"a": UpstreamSettings("http://h", **settings)}).routes()
    assert message in str(raised.value)


# ---------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("options", "sees", "asked"),
    [
        (None, False, True),
        ({}, False, True),
        ({"include_obfuscation": False}, False, True),
        ({"include_usage": True}, True, True),
        ({"include_usage": False}, False, False),
    ],
)
@pytest.mark.parametrize("size", [3, 50, 10_000])
async def test_usage_is_asked_for_and_taken_out(
    tmp_path: Path, options: dict[str, Any] | None, sees: bool, asked: bool, size: int
) -> None:
    """The row has the usage, the client the bytes it would have got without us; a client's own word is respected."""

    def cut(request: Received) -> Script:
        body = as_asked(request).body
        return Script([body[at : at + size] for at in range(0, len(body), size)])

    said = {"stream_options": options} if options is not None else {}
    body = msgspec.json.encode({"model": "m", "messages": [], "stream": True, "seed": 12345678901234567890, **said})
    async with rig(tmp_path, upstreams=["openai"], settings={"include_usage": True}) as gateway:
        gateway.upstream.route("POST", PATH, cut)
        reply = await ask(gateway.address, "POST", "/openai" + PATH, JSON, body)
        row = await gateway.row()
        received = await gateway.upstream.received()

    sent = msgspec.json.decode(received.body)
    assert (reply.body, reply.whole) == (b"".join([*TEXT, *([EXTRA] if sees else []), DONE]), True)
    assert row.prompt_tokens == (7 if asked else None)
    assert sent["seed"] == 12345678901234567890
    assert {name: sent[name] for name in ("model", "messages", "stream")} == {
        "model": "m",
        "messages": [],
        "stream": True,
    }
    assert (row.request or "") == body.decode()
    for name, value in (options or {}).items():
        assert sent["stream_options"][name] == value


async def test_usage_is_not_asked_for_by_default(tmp_path: Path) -> None:
    """Without the option the request goes up byte for byte."""
    body = b'{ "stream":true,\n "model" : "m" }'
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, as_asked)
        await ask(gateway.address, "POST", "/openai" + PATH, JSON, body)
        received = await gateway.upstream.received()

    assert received.body == body


async def test_openai_sdk_without_the_extra_chunk(tmp_path: Path) -> None:
    """The OpenAI SDK gets the chunks it would have got, and the row has what they cost."""
    async with rig(tmp_path, settings={"include_usage": True}) as gateway:
        gateway.upstream.route("POST", PATH, as_asked)
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=gateway.address + "/openai/v1") as client:
            stream = await client.chat.completions.create(model="m", messages=[], stream=True)
            chunks = [chunk async for chunk in stream]
        row = await gateway.row()

    assert [len(chunk.choices) for chunk in chunks] == [1, 1]
    assert (row.total_tokens, decoded(row)["token_usage"]["source"]) == (9, "provider")


@pytest.mark.parametrize(
    "body",
    [b"", b"[1]", b"no json", b'{"stream":false}', b'{"stream":"true"}', b'{"stream":true,"stream_options":3}'],
)
def test_requests_that_are_left_alone(body: bytes) -> None:
    """What is no stream, or no request at all, is not touched."""
    assert asking_for_usage(body) is None


@pytest.mark.parametrize(
    ("payload", "extra"),
    [
        (EXTRA[6:], True),
        (_chunk("x", USAGE)[6:], False),
        (_chunk(None, None)[6:], False),
        (b'{"choices":[],"usage":{}', False),
        (b'{"usage":{"a":1}}', False),
    ],
)
def test_extra_event(payload: bytes, extra: bool) -> None:
    """Only usage without a choice is the event that the question adds."""
    assert is_extra(payload.strip()) is extra


def test_filter_leaves_half_an_event_at_the_end() -> None:
    """What comes after the last whole event is given at the end as it came."""
    filter = UsageFilter()
    assert filter.feed(TEXT[0] + EXTRA + b"data: {half") == TEXT[0]
    assert filter.rest() == b"data: {half"


async def test_connections_are_kept_and_bounded(tmp_path: Path) -> None:
    """Requests share the connections there may be: the second waits for the first, and takes over its connection."""
    go_on = asyncio.Event()
    script = Script([TEXT[0], go_on, DONE])
    async with rig(tmp_path, limits=Limits(upstream_connections=1)) as gateway:
        gateway.upstream.route("POST", PATH, script)
        body = b'{"stream":true}'
        async with conversation(gateway.address, "POST", "/openai" + PATH, JSON, body) as talk:
            await talk.receive()
            await talk.receive()
            second = asyncio.ensure_future(ask(gateway.address, "POST", "/openai" + PATH, JSON, body))
            await asyncio.sleep(0.1)  # nothing can be awaited: that nothing happens is the point
            assert len(gateway.upstream.requests) == 1
            go_on.set()
            while isinstance(await talk.receive(), h11.Data):
                pass
            reply = await second
        rows = await gateway.rows(2)

    assert (reply.status, reply.whole, len(gateway.upstream.requests)) == (200, True, 2)
    assert len({request.gone for request in gateway.upstream.requests}) == 1
    assert len(rows) == 2
