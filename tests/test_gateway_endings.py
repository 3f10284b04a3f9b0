"""However an exchange ends, the client sees what the upstream did, and there is one row that says how it ended."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import h11
import msgspec
import pytest

from scripted import PATIENCE, ask, conversation, dead_address, decoded, rig, said
from streamfold.gateway.config import Limits
from streamfold.gateway.scenes import play_all
from streamfold.gateway.scripted import HANG_UP, RESET, Script, Stop
from streamfold.stream import StreamAccumulator

PATH = "/v1/chat/completions"
VIA = "/openai" + PATH
JSON = [("content-type", "application/json")]
CHAT = msgspec.json.encode({"model": "gpt-4o-mini", "stream": True, "messages": []})
START = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"Half of "}}]}\n\n'
DONE = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


async def test_unreachable_upstream(tmp_path: Path) -> None:
    """Without an upstream the client gets 502 and a sentence that names it, and the row says error."""
    with dead_address() as url:
        async with rig(tmp_path, url=url) as gateway:
            reply = await ask(gateway.address, "POST", VIA, JSON, CHAT)
            row = await gateway.row()

    error = msgspec.json.decode(reply.body)["error"]
    assert reply.status == 502
    assert error["type"] == "upstream_unreachable"
    assert error["message"] == 'streamfold: no answer from the upstream "openai": the connection was refused'
    assert (row.status, row.error_type, row.http_status) == ("error", "upstream_unreachable", None)
    assert (row.format, row.model, row.stream) == ("openai-chat", "gpt-4o-mini", True)
    assert '"openai"' in (row.error_message or "")


async def test_upstream_name_that_does_not_resolve(tmp_path: Path) -> None:
    """A host name that does not exist is told as such."""
    async with rig(tmp_path, url="http://no-such-host.invalid") as gateway:
        reply = await ask(gateway.address, "POST", VIA, JSON, CHAT)

    assert reply.status == 502
    assert b"cannot be resolved" in reply.body


@pytest.mark.parametrize("garbage", [None, b"SSH-2.0-nonsense\r\n\r\n"])
async def test_upstream_without_an_http_answer(tmp_path: Path, garbage: bytes | None) -> None:
    """An upstream that closes at once, or speaks something else, gives 502 and a row."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if garbage is not None:
            writer.write(garbage)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, rig(tmp_path, url=f"http://{host}:{port}") as gateway:
        reply = await ask(gateway.address, "POST", VIA, JSON, CHAT)
        row = await gateway.row()

    assert reply.status == 502
    assert (row.status, row.error_type) == ("error", "upstream_unreachable")


@pytest.mark.parametrize("end", [RESET, HANG_UP], ids=["reset", "hang-up"])
async def test_upstream_breaks_off(tmp_path: Path, end: Stop) -> None:
    """What came before the break is with the client and in the row, and neither takes it for the whole."""
    breaks = asyncio.Event()
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, Script([START, breaks, end]))
        async with conversation(gateway.address, "POST", VIA, JSON, CHAT) as talk:
            await talk.receive()
            first = await talk.receive()
            breaks.set()
            with pytest.raises((h11.RemoteProtocolError, ConnectionResetError)):
                await talk.receive()
        row = await gateway.row()

    record = decoded(row)
    assert bytes(first.data) == START
    assert row.status == "truncated"
    assert record["output_message"]["content"] == "Half of "
    assert record["error_details"]["type"] == "upstream_disconnected"


async def test_break_after_the_end_is_no_break(tmp_path: Path) -> None:
    """A connection that breaks after the stream's own end marker leaves a success."""
    breaks = asyncio.Event()
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, Script([START, DONE, breaks, RESET]))
        async with conversation(gateway.address, "POST", VIA, JSON, CHAT) as talk:
            await talk.receive()
            received = b""
            while not received.endswith(DONE):
                received += (await talk.receive()).data
            breaks.set()
            row = await gateway.row()

    assert (row.status, row.finish_reason, row.error_type) == ("success", "stop", None)


async def test_unstreamed_answer_cut_short(tmp_path: Path) -> None:
    """A JSON body shorter than its Content-Length is truncated, for the client and in the row."""
    short = Script([b'{"id":"c","choices":[', HANG_UP], headers=[*JSON, ("content-length", "500")], framing="close")
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, short)
        reply = await ask(gateway.address, "POST", VIA, JSON, b'{"model":"m"}')
        row = await gateway.row()

    assert (reply.body, reply.whole) == (b'{"id":"c","choices":[', False)
    assert (row.status, row.stream) == ("truncated", False)


async def test_client_leaves_in_mid_stream(tmp_path: Path) -> None:
    """When the client leaves, the upstream connection is closed at once and the row says cancelled."""
    never = asyncio.Event()
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, Script([START, never, DONE]))
        async with conversation(gateway.address, "POST", VIA, JSON, CHAT) as talk:
            await talk.receive()
            await talk.receive()
            received = await gateway.upstream.received()
            talk.leave()
            async with asyncio.timeout(PATIENCE):
                await received.gone.wait()
        row = await gateway.row()

    assert (row.status, row.http_status) == ("cancelled", 200)
    assert decoded(row)["output_message"]["content"] == "Half of "


async def test_client_leaves_before_the_answer(tmp_path: Path) -> None:
    """A client that leaves while nothing has come leaves a row too, and no upstream request goes on."""
    arrived, closed = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await reader.read()
        closed.set()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, rig(tmp_path, url=f"http://127.0.0.1:{port}") as gateway:
        async with conversation(gateway.address, "POST", VIA, JSON, CHAT) as talk:
            await arrived.wait()
            talk.leave()
            await closed.wait()
        row = await gateway.row()

    assert (row.status, row.http_status, row.model) == ("cancelled", None, "gpt-4o-mini")


async def test_rate_limit_passes_through(tmp_path: Path) -> None:
    """A 429 reaches the client as it is, and the row has its details."""
    body = b'{"error":{"message":"Slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}'
    limited = Script([body], status=429, headers=[*JSON, ("retry-after", "7")], framing="length")
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, limited)
        reply = await ask(gateway.address, "POST", VIA, JSON, CHAT)
        row = await gateway.row()

    details = decoded(row)["error_details"]
    assert (reply.status, reply.body, reply.header(b"retry-after")) == (429, body, b"7")
    assert (row.status, row.http_status, row.error_message) == ("error", 429, "Slow down")
    assert (details["code"], details["status_code"], details["retryable"]) == ("rate_limit_exceeded", 429, True)


@pytest.mark.parametrize("path", [PATH, "/v1/embeddings"])
@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("text/html", b"<h1>Bad gateway</h1>", "<h1>Bad gateway</h1>"),
        ("application/json", b'{"error":{"message":"Overloaded","type":"server_error"}}', "Overloaded"),
        ("application/json", b"", None),
    ],
)
async def test_server_error(tmp_path: Path, path: str, kind: str, body: bytes, message: str | None) -> None:
    """A 503 in any dress and on any path is an error row with what it said."""
    script = Script([body] if body else [], status=503, headers=[("content-type", kind)], framing="length")
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", path, script)
        reply = await ask(gateway.address, "POST", "/openai" + path, JSON, CHAT)
        row = await gateway.row()

    assert (reply.status, reply.body) == (503, body)
    assert (row.status, row.http_status, row.error_message) == ("error", 503, message)


async def test_error_inside_a_stream(tmp_path: Path) -> None:
    """An error after HTTP 200 makes the row an error and keeps the text before it."""
    failed = Script([START, b'data: {"error":{"message":"The server had an error","type":"server_error"}}\n\n'])
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, failed)
        await ask(gateway.address, "POST", VIA, JSON, CHAT)
        row = await gateway.row()

    assert (row.status, row.http_status, row.error_message) == ("error", 200, "The server had an error")
    assert decoded(row)["output_message"]["content"] == "Half of "


async def test_malformed_stream(tmp_path: Path) -> None:
    """Frames that are no JSON pass through, and the row counts them and keeps the rest."""
    broken = Script([START, b"data: {oh no\n\n", DONE])
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, broken)
        reply = await ask(gateway.address, "POST", VIA, JSON, CHAT)
        record = await gateway.record()

    assert reply.body == broken.body
    assert record["integrity"]["malformed"] == 1
    assert record["output_message"]["content"] == "Half of "


async def test_shutdown_ends_open_streams_with_rows(tmp_path: Path) -> None:
    """A stream that is open when the gateway stops breaks off for the client and is abandoned in the log."""
    never = asyncio.Event()
    limits = Limits(shutdown_grace_s=0.05)
    async with rig(tmp_path, limits=limits) as gateway:
        gateway.upstream.route("POST", PATH, Script([START, never]))
        talk_context = conversation(gateway.address, "POST", VIA, JSON, CHAT)
        talk = await talk_context.__aenter__()
        await talk.receive()
        await talk.receive()
        store = gateway.store
        path = store.path
    with pytest.raises((h11.RemoteProtocolError, ConnectionResetError)):
        await talk.receive()
    await talk_context.__aexit__(None, None, None)

    (row,) = type(store).open_existing(str(path)).rows()
    assert (row.status, row.http_status, row.chunks) == ("abandoned", 200, 1)


async def test_fault_in_the_fold_touches_no_traffic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception beside the traffic leaves the bytes whole, a row, and a line in the log."""

    def fails(self: StreamAccumulator, data: bytes) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(StreamAccumulator, "feed", fails)
    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        reply = await ask(gateway.address, "POST", VIA, JSON, CHAT)
        record = await gateway.record()

    assert reply.whole
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert record["integrity"]["anomalies"] == ["accumulator_error"]
    assert "the fold failed" in said(caplog.records)


async def test_websocket_is_refused(tmp_path: Path) -> None:
    """A WebSocket upgrade gets a clear no, and nothing goes upstream."""
    upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    async with rig(tmp_path) as gateway:
        reply = await ask(gateway.address, "GET", "/openai/v1/realtime", upgrade)

    assert reply.status == 501
    assert b"WebSocket is not supported" in reply.body
    assert not gateway.upstream.requests


async def test_path_of_no_upstream(tmp_path: Path) -> None:
    """A path that begins with no upstream's name is told which names there are."""
    async with rig(tmp_path) as gateway:
        reply = await ask(gateway.address, "POST", "/mistral/v1/chat/completions", JSON, CHAT)

    assert reply.status == 404
    assert b"/anthropic/, /gemini/, /openai/" in reply.body


async def test_health_and_log_pages(tmp_path: Path) -> None:
    """/healthz answers 200; /logs shows the last rows and one whole row to this machine, by its own name only."""
    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        await ask(gateway.address, "POST", VIA, JSON, CHAT)
        row = await gateway.row()
        health = await ask(gateway.address, "GET", "/healthz")
        rows = await ask(gateway.address, "GET", "/logs?limit=1")
        one = await ask(gateway.address, "GET", f"/logs/{row.id}")
        none = await ask(gateway.address, "GET", "/logs/unknown")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.address.rpartition(":")[2]))
        writer.write(b"GET /logs HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        rebound = await reader.read()
        writer.close()

    assert (health.status, msgspec.json.decode(health.body)["status"]) == (200, "ok")
    (listed,) = msgspec.json.decode(rows.body)
    assert (listed["id"], "record" in listed) == (row.id, False)
    assert msgspec.json.decode(one.body)["record"]["request_id"] == row.id
    assert none.status == 404
    assert rebound.startswith(b"HTTP/1.1 403")


async def test_quiet_log_for_expected_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A break that the gateway passes on by intent is no error in its log."""
    caplog.set_level(logging.INFO)
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, Script([START, HANG_UP]))
        await ask(gateway.address, "POST", VIA, JSON, CHAT)
        await gateway.row()

    ours = [
        record
        for record in caplog.records
        if record.name.startswith(("streamfold.gateway", "streamfold.hooks", "uvicorn"))
    ]
    assert [record.message for record in ours if record.levelno >= logging.WARNING] == []
    assert "POST /openai/v1/chat/completions -> 200 truncated, 1 chunk," in said(caplog.records)
