"""The bytes pass through untouched, and the row says what they said."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import h11
import msgspec
import openai
import pytest

from scripted import Rig, ask, conversation, decoded, rig
from streamfold.gateway.scenes import ANSWER, play_all
from streamfold.gateway.scripted import Script

ASK: list[dict[str, Any]] = [{"role": "user", "content": "What is a stream?"}]
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
]
CHAT = {"model": "gpt-4o-mini", "messages": ASK, "stream": True}
GEMINI = {"contents": [{"parts": [{"text": "Hi"}]}]}
PROMPTS: list[tuple[str, str, dict[str, Any]]] = [
    ("openai", "/v1/chat/completions", CHAT),
    ("openai", "/v1/chat/completions", {**CHAT, "stream": False}),
    ("openai", "/v1/chat/completions", {**CHAT, "tools": TOOLS}),
    ("openai", "/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "A", "stream": True}),
    ("openai", "/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "A"}),
    ("openai", "/v1/responses", {"model": "gpt-4o-mini", "input": "A", "stream": True}),
    ("openai", "/v1/responses", {"model": "gpt-4o-mini", "input": "A"}),
    ("anthropic", "/v1/messages", {"model": "claude-sonnet-5", "messages": ASK, "stream": True}),
    ("anthropic", "/v1/messages", {"model": "claude-sonnet-5", "messages": ASK, "stream": True, "tools": [{}]}),
    ("anthropic", "/v1/messages", {"model": "claude-sonnet-5", "messages": ASK}),
    ("gemini", "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", GEMINI),
    ("gemini", "/v1beta/models/gemini-2.5-flash:streamGenerateContent", GEMINI),
    ("gemini", "/v1beta/models/gemini-2.5-flash:generateContent", GEMINI),
]
FORMATS = {
    "/v1/chat/completions": "openai-chat",
    "/v1/completions": "openai-completions",
    "/v1/responses": "openai-responses",
    "/v1/messages": "anthropic-messages",
}
EVENTS = Script(
    [
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
        b'{"role":"assistant","content":"Gr\xc3\xbc\xc3\x9fe, "},"finish_reason":null}]}\n\n',
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
        b'{"content":"\xe4\xb8\x96\xe7\x95\x8c"},"finish_reason":"stop"}]}\r\n\r\n',
        b": comment\n\ndata: [DONE]\n\n",
    ]
)
TEXT = "Grüße, 世界"
PATH = "/v1/chat/completions"
JSON = [("content-type", "application/json")]


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


# ---------------------------------------------------------------------- real SDKs


@pytest.mark.parametrize("extra", [{}, {"tools": TOOLS}], ids=["text", "tool call"])
async def test_openai_sdk_chat_stream(tmp_path: Path, extra: dict[str, Any]) -> None:
    """The OpenAI SDK sees the same chunks through the gateway as without it, and the row says what it saw."""

    async def chunks(base_url: str) -> list[dict[str, Any]]:
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=base_url) as client:
            stream = await client.chat.completions.create(model="gpt-4o-mini", messages=ASK, stream=True, **extra)  # type: ignore[call-overload]
            return [chunk.model_dump() async for chunk in stream]

    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        direct = await chunks(gateway.upstream.url + "/v1")
        through = await chunks(gateway.address + "/openai/v1")
        record = await gateway.record()

    assert through == direct
    message = record["output_message"]
    deltas = [chunk["choices"][0]["delta"] for chunk in direct if chunk["choices"]]
    assert (message["content"] or "") == "".join(delta["content"] or "" for delta in deltas)
    arguments = [call["function"]["arguments"] for delta in deltas for call in delta["tool_calls"] or ()]
    assert [call["function"]["arguments"] for call in message["tool_calls"] or ()] == ["".join(arguments)] * bool(extra)
    assert record["status"] == "success"
    assert record["model"] == "gpt-4o-mini"
    assert record["response_model"] == "gpt-4o-mini-2024-07-18"
    assert record["token_usage"]["total_tokens"] == 39
    assert record["chunks"] == sum(1 for _ in direct)


async def test_sync_openai_sdk(tmp_path: Path) -> None:
    """The synchronous OpenAI SDK receives the same bytes, streamed and not."""

    def both(base_url: str) -> tuple[bytes, str | None]:
        with openai.OpenAI(api_key="sk-test", base_url=base_url) as client:
            streaming = client.chat.completions.with_streaming_response
            with streaming.create(model="gpt-4o-mini", messages=ASK, stream=True) as response:  # type: ignore[arg-type]
                body = b"".join(response.iter_bytes())
            whole = client.chat.completions.create(model="gpt-4o-mini", messages=ASK)  # type: ignore[arg-type]
            return body, whole.choices[0].message.content

    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        direct = await asyncio.to_thread(both, gateway.upstream.url + "/v1")
        through = await asyncio.to_thread(both, gateway.address + "/openai/v1")
        rows = await gateway.rows(2)

    assert through == direct
    assert [(row.stream, row.status) for row in rows] == [(True, "success"), (False, "success")]
    assert [decoded(row)["output_message"]["content"] for row in rows] == [ANSWER, ANSWER]


async def test_openai_sdk_completions_and_responses(tmp_path: Path) -> None:
    """Text completions and the Responses API stream through the OpenAI SDK unchanged."""

    async def events(base_url: str) -> tuple[list[Any], list[Any]]:
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=base_url) as client:
            old = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt="A", stream=True)
            texts = [chunk.model_dump() async for chunk in old]
            new = await client.responses.create(model="gpt-4o-mini", input="A", stream=True)
            return texts, [event.model_dump() async for event in new]

    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        direct = await events(gateway.upstream.url + "/v1")
        through = await events(gateway.address + "/openai/v1")
        rows = await gateway.rows(2)

    assert through == direct
    assert [row.format for row in rows] == ["openai-completions", "openai-responses"]
    assert [decoded(row)["output_message"]["content"] for row in rows] == [ANSWER, ANSWER]
    assert decoded(rows[1])["response"]["output"][0]["content"][0]["text"] == ANSWER


async def test_anthropic_sdk_stream(tmp_path: Path) -> None:
    """The Anthropic SDK's accumulated message is the same through the gateway, and the row holds it."""

    async def message(base_url: str) -> dict[str, Any]:
        async with anthropic.AsyncAnthropic(api_key="sk-ant-test", base_url=base_url) as client:
            tools: Any = [{"name": "get_weather", "input_schema": {"type": "object"}}]
            asked: Any = {"model": "claude-sonnet-5", "max_tokens": 100, "messages": ASK, "tools": tools}
            async with client.messages.stream(**asked) as stream:
                return (await stream.get_final_message()).model_dump()

    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        direct = await message(gateway.upstream.url)
        through = await message(gateway.address + "/anthropic")
        row = await gateway.row()

    assert through == direct
    record = decoded(row)
    assert record["output_message"]["content"] == direct["content"][0]["text"]
    (call,) = record["output_message"]["tool_calls"]
    assert msgspec.json.decode(call["function"]["arguments"]) == direct["content"][1]["input"]
    assert (row.provider, row.finish_reason, row.completion_tokens) == ("anthropic", "tool_calls", 42)


async def test_google_sdk_stream(tmp_path: Path) -> None:
    """google-genai streams through the gateway unchanged."""
    genai = pytest.importorskip("google.genai")

    async def texts(base_url: str) -> list[str | None]:
        client = genai.Client(api_key="AIza-test", http_options={"base_url": base_url, "api_version": "v1beta"})
        stream = await client.aio.models.generate_content_stream(model="gemini-2.5-flash", contents="Hi")
        found = [chunk.text async for chunk in stream]
        await client.aio.aclose()
        return found

    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        direct = await texts(gateway.upstream.url)
        through = await texts(gateway.address + "/gemini")
        row = await gateway.row()

    assert through == direct
    assert decoded(row)["output_message"]["content"] == "".join(text or "" for text in direct)
    assert (row.format, row.model, row.status) == ("gemini", "gemini-2.5-flash", "success")


# ---------------------------------------------------------------------- bytes


@pytest.mark.parametrize(("upstream", "path", "prompt"), PROMPTS)
async def test_same_answer_as_without_gateway(tmp_path: Path, upstream: str, path: str, prompt: dict[str, Any]) -> None:
    """Status, headers and body of every kind of answer are those that the upstream gives directly."""
    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        direct = await ask(gateway.upstream.url, "POST", path, JSON, encoded(prompt))
        through = await ask(gateway.address, "POST", f"/{upstream}{path}", JSON, encoded(prompt))
        row = await gateway.row()

    assert through.status == direct.status == 200
    assert sorted(through.headers) == sorted(direct.headers)
    assert (through.body, through.whole) == (direct.body, True)
    assert row.status == "success"
    assert row.format == FORMATS.get(path, "gemini")
    assert row.stream == ("stream" in path or bool(prompt.get("stream")))
    assert row.path == path.partition("?")[0]
    assert row.request == encoded(prompt).decode()
    asked, received = gateway.upstream.requests
    assert (received.method, received.target, received.body) == (asked.method, asked.target, asked.body)


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
async def test_any_cut_gives_the_same(tmp_path: Path, size: int) -> None:
    """However the upstream cuts its body, inside characters too, the bytes and the row are the same."""
    body = EVENTS.body
    cut = Script([body[at : at + size] for at in range(0, len(body), size)])
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, cut)
        reply = await ask(gateway.address, "POST", "/openai" + PATH, JSON, encoded(CHAT))
        record = await gateway.record()

    assert (reply.body, reply.whole) == (body, True)
    assert (record["status"], record["output_message"]["content"], record["chunks"]) == ("success", TEXT, 2)


def _gzipped(body: bytes) -> bytes:
    half = len(body) // 2
    return gzip.compress(body[:half]) + gzip.compress(body[half:])


def _raw_deflated(body: bytes) -> bytes:
    squeezed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeezed.compress(body) + squeezed.flush()


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("gzip", _gzipped), ("deflate", zlib.compress), ("deflate", _raw_deflated)],
)
@pytest.mark.parametrize("size", [1, 50])
async def test_compressed_body(tmp_path: Path, coding: str, compress: Callable[[bytes], bytes], size: int) -> None:
    """A compressed body stays compressed on its way and is read for the row all the same."""
    body = compress(EVENTS.body)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    script = Script(pieces, headers=[*EVENTS.headers, ("content-encoding", coding)])
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, script)
        reply = await ask(gateway.address, "POST", "/openai" + PATH, JSON, encoded(CHAT))
        record = await gateway.record()

    assert reply.body == body
    assert reply.header(b"content-encoding") == coding.encode()
    assert (record["status"], record["output_message"]["content"]) == ("success", TEXT)


@pytest.mark.parametrize(
    ("coding", "body", "code"),
    [("x-unheard-of", b"\x0b\x02\x80", "unreadable_encoding"), ("gzip", b"this is not gzip", "corrupt_encoding")],
)
async def test_body_nobody_can_read(tmp_path: Path, coding: str, body: bytes, code: str) -> None:
    """A body in an unknown or broken coding passes all the same, and the row says why it has no content."""
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, Script([body], headers=[*EVENTS.headers, ("content-encoding", coding)]))
        reply = await ask(gateway.address, "POST", "/openai" + PATH, JSON, encoded(CHAT))
        record = await gateway.record()

    assert (reply.body, reply.whole) == (body, True)
    assert code in record["integrity"]["anomalies"]
    assert record["output_message"] is None
    assert record["format"] == "openai-chat"


async def test_piece_arrives_while_upstream_waits(tmp_path: Path) -> None:
    """The first piece is with the client before the upstream has the second."""
    go_on = asyncio.Event()
    script = Script([EVENTS.steps[0], go_on, *EVENTS.steps[1:]])
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, script)
        async with conversation(gateway.address, "POST", "/openai" + PATH, JSON, encoded(CHAT)) as talk:
            await talk.receive()
            first = await talk.receive()
            assert bytes(first.data) == EVENTS.steps[0]
            assert not [row for row in gateway.store.rows() if row.ended]
            go_on.set()
            rest = b""
            while isinstance(event := await talk.receive(), h11.Data):
                rest += event.data
        record = await gateway.record()

    assert bytes(first.data) + rest == EVENTS.body
    assert record["output_message"]["content"] == TEXT
    assert record["time_to_first_token_ms"] < record["latency_ms"]


async def test_long_and_chunked_upload(tmp_path: Path) -> None:
    """A request body of many pieces goes up whole, and the row keeps its beginning and its size."""
    body = encoded({"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "x" * 3_000_000}]})
    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        sized = await ask(gateway.address, "POST", "/openai" + PATH, JSON, body)
        chunked = await ask(gateway.address, "POST", "/openai" + PATH, [*JSON, ("transfer-encoding", "chunked")], body)
        rows = await gateway.rows(2)

    assert sized.body == chunked.body
    assert [received.body == body for received in gateway.upstream.requests] == [True, True]
    assert [received.header("content-length") for received in gateway.upstream.requests] == [str(len(body)), None]
    assert [(row.request_bytes, row.model) for row in rows] == [(len(body), "gpt-4o-mini")] * 2
    for row in rows:
        assert 1024 * 1000 < len(row.request or "") <= 1024 * 1024
        assert msgspec.json.decode(row.request or "")["messages"][0]["content"].startswith("xxx")


async def test_headers_of_one_hop_stay_there(tmp_path: Path) -> None:
    """Hop-by-hop headers, and those that Connection names, go no further; all others do, in both directions."""
    answer = Script(
        [b"{}"],
        headers=[
            ("Content-Type", "application/json"),
            ("Connection", "x-private"),
            ("X-Private", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authenticate", "Basic"),
            ("X-RateLimit-Remaining", "7"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
        ],
        framing="length",
    )
    asked = [
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "1"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic QQ=="),
        ("user-agent", "me/1.0"),
        ("x-forwarded-for", "10.0.0.1"),
        ("authorization", "Bearer sk-something"),
    ]
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("GET", "/v1/models", answer)
        reply = await ask(gateway.address, "GET", "/openai/v1/models", asked)
        received = await gateway.upstream.received()

    assert reply.headers == [
        (b"content-type", b"application/json"),
        (b"x-ratelimit-remaining", b"7"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"content-length", b"2"),
    ]
    assert sorted(received.headers) == [
        ("authorization", "Bearer sk-something"),
        ("host", gateway.upstream.url.removeprefix("http://")),
        ("user-agent", "me/1.0"),
        ("x-forwarded-for", "10.0.0.1"),
    ]


@pytest.mark.parametrize(
    "target", ["/v1/files/a%2Fb%20c?x=%5B1%5D&y=a+b", "/v1//double/../dots", "/v1/%C3%BC?q=1?2", "//evil.example/x", ""]
)
async def test_path_passes_as_spelled(tmp_path: Path, target: str) -> None:
    """Path and query reach the upstream exactly as the client spelled them."""
    async with rig(tmp_path) as gateway:
        await ask(gateway.address, "GET", "/openai" + target)
        received = await gateway.upstream.received()

    assert received.target == (target or "/")


async def test_no_redirect_is_followed(tmp_path: Path) -> None:
    """A redirect is the client's affair: the gateway goes to no host but the configured ones."""
    async with rig(tmp_path) as gateway:
        redirect = Script([], status=307, headers=[("location", gateway.upstream.url + "/v1/models")], framing="length")
        gateway.upstream.route("GET", "/v1/old", redirect)
        reply = await ask(gateway.address, "GET", "/openai/v1/old")

    assert reply.status == 307
    assert reply.header(b"location") == (gateway.upstream.url + "/v1/models").encode()
    assert len(gateway.upstream.requests) == 1


async def test_answers_without_body(tmp_path: Path) -> None:
    """HEAD, 204 and 304 pass, and their rows are successes without content."""
    async with rig(tmp_path) as gateway:
        sized = [("content-type", "text/plain"), ("content-length", "1234")]
        gateway.upstream.route("DELETE", "/v1/x", Script([], status=204, headers=[], framing="close"))
        gateway.upstream.route("GET", "/v1/x", Script([], status=304, headers=sized, framing="close"))
        gateway.upstream.route("HEAD", "/v1/x", Script([], headers=sized, framing="close"))
        statuses = [(await ask(gateway.address, method, "/openai/v1/x")).status for method in ("DELETE", "GET", "HEAD")]
        rows = await gateway.rows(3)

    assert statuses == [204, 304, 200]
    assert [(row.status, row.format, row.response_bytes) for row in rows] == [("success", "passthrough", 0)] * 3


async def test_further_upstreams_and_their_base_paths(tmp_path: Path) -> None:
    """An upstream of any name with any base path is folded by the end of its paths."""
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", "/api" + PATH, EVENTS)
        async with rig(_sub(tmp_path), upstreams=["router"], url=gateway.upstream.url + "/api/") as other:
            reply = await ask(other.address, "POST", "/router" + PATH, JSON, encoded(CHAT))
            row = await other.row()

    assert reply.body == EVENTS.body
    assert (row.upstream, row.provider, row.format, row.status) == ("router", "router", "openai-chat", "success")


async def test_many_at_once_stay_apart(tmp_path: Path) -> None:
    """Fifty streams at once give fifty rows, each with its own words."""

    def own(request: Any) -> Script:
        return Script([piece.replace(b'"Gr', b'"' + request.body[-6:-2] + b"Gr") for piece in EVENTS.steps])  # type: ignore[union-attr, arg-type]

    async def one(gateway: Rig, number: int) -> bytes:
        body = encoded({"model": f"m{number}", "user": f"{number:04}"})
        return (await ask(gateway.address, "POST", "/openai" + PATH, JSON, body)).body

    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, own)
        await asyncio.gather(*(one(gateway, number) for number in range(50)))
        rows = await gateway.rows(50)

    said = {row.model: decoded(row)["output_message"]["content"] for row in rows}
    assert said == {f"m{number}": f"{number:04}{TEXT}" for number in range(50)}


def _sub(directory: Path) -> Path:
    made = directory / "other"
    made.mkdir()
    return made
