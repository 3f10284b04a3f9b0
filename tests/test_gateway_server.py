"""What strangers cannot exhaust, whether the gateway is well, and what it writes about it."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scripted import PATIENCE, Rig, ask, conversation, rig
from streamfold.gateway.config import Config, Limits, load_config
from streamfold.gateway.health import Health
from streamfold.gateway.logs import FIELDS, Strike, _Background, _Json, _Text, secrets_of
from streamfold.gateway.scenes import play_all
from streamfold.gateway.scripted import Script
from streamfold.pipeline import Pipeline
from streamfold.store import LogStore

PATH = "/v1/chat/completions"
VIA = "/openai" + PATH
JSON = [("content-type", "application/json")]
CHAT = msgspec.json.encode({"model": "gpt-4o-mini", "messages": [], "stream": True})
CHUNK = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Half"}}]}\n\n'
SOON = 0.5
"""A time limit that is to be met: short, but longer than what is in time may take on a busy machine."""
HEAD = f"POST {VIA} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()


async def counted(gateway: Rig, reason: str) -> float:
    """How often something was refused for a reason, by /metrics."""
    reply = await ask(gateway.address, "GET", "/metrics")
    line = next(line for line in reply.body.decode().splitlines() if f'refused_total{{reason="{reason}"}}' in line)
    return float(line.rpartition(" ")[2])


async def connect(gateway: Rig) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(gateway.address.rpartition(":")[2]))


async def said(gateway: Rig, *pieces: bytes) -> bytes:
    """Sends pieces as they are, and reads until the gateway closes."""
    reader, writer = await connect(gateway)
    async with asyncio.timeout(PATIENCE):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        answer = await reader.read()
    writer.close()
    return answer


def kind_of(answer: bytes) -> tuple[int, str]:
    """The status and the kind of error of an answer of the gateway's own."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), msgspec.json.decode(body)["error"]["type"]


# ---------------------------------------------------------------------- limits


async def test_a_body_that_is_too_long(tmp_path: Path) -> None:
    """A body longer than allowed is answered with 413, announced or not; nothing of that length goes up whole."""
    async with rig(tmp_path, limits=Limits(request_total_bytes=1000)) as gateway:
        play_all(gateway.upstream, 0)
        announced = await ask(gateway.address, "POST", VIA, JSON, b"x" * 1001)
        chunked = await said(gateway, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"3e9\r\n" + b"x" * 1001 + b"\r\n")
        fits = await ask(gateway.address, "POST", VIA, JSON, CHAT)
        count = await counted(gateway, "request_too_large")
        whole = [request for request in gateway.upstream.requests if len(request.body) > 1000]

    assert announced.status == 413
    assert kind_of(chunked) == (413, "request_too_large")
    assert (fits.status, count, whole) == (200, 2, [])


@pytest.mark.parametrize(
    "pieces",
    [
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 2000 + b"\r\nConnection: close\r\n\r\n",),
        (b"GET /healthz HTTP/1.1\r\nX-Long: ", b"x" * 2000),
        (b"GET /" + b"x" * 2000,),
        (b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 400,),
    ],
    ids=["one header", "no end of a header", "no end of a line", "many headers"],
)
async def test_a_head_that_is_too_long(tmp_path: Path, pieces: Sequence[bytes]) -> None:
    """A head that is too long is answered with 431 as soon as it is, complete or not."""
    async with rig(tmp_path, limits=Limits(header_bytes=1000)) as gateway:
        answer = await said(gateway, *pieces)
        count = await counted(gateway, "headers_too_large")

    assert kind_of(answer) == (431, "headers_too_large")
    assert count == 1


async def test_too_many_streams(tmp_path: Path) -> None:
    """One stream more than allowed is told to come again; when one has ended there is room."""
    go = asyncio.Event()
    async with rig(tmp_path, limits=Limits(streams=1)) as gateway:
        gateway.upstream.route("POST", PATH, Script([CHUNK, go]))
        async with conversation(gateway.address, "POST", VIA, JSON, CHAT) as talk:
            await talk.receive()
            refused = await ask(gateway.address, "POST", VIA, JSON, CHAT)
            go.set()
            await gateway.row()
        again = await ask(gateway.address, "POST", VIA, JSON, CHAT)
        count = await counted(gateway, "too_many_streams")

    assert (refused.status, refused.header(b"retry-after")) == (503, b"1")
    assert (again.status, count) == (200, 1)


async def test_too_many_connections(tmp_path: Path) -> None:
    """One connection more than allowed is closed at once; those that are there go on."""
    async with rig(tmp_path, limits=Limits(connections=1)) as gateway:
        reader, writer = await connect(gateway)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        first = await reader.readuntil(b"\r\n")
        other, closing = await connect(gateway)
        try:
            cut = await other.read()
        except ConnectionResetError:
            cut = b""
        closing.close()
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        rest = await reader.read()
        writer.close()

    assert (first, cut) == (b"HTTP/1.1 200 OK\r\n", b"")
    assert rest.count(b"HTTP/1.1 200 OK") == 1


@pytest.mark.parametrize(
    ("pieces", "limits", "expected", "reason"),
    [
        ((b"GET /healthz HTTP/1.1\r\nHo",), {"header_timeout_s": SOON}, (408, "header_timeout"), "header_timeout"),
        (
            (HEAD + b"Content-Length: 100\r\n\r\n", b"{"),
            {"body_timeout_s": SOON},
            (408, "body_timeout"),
            "body_timeout",
        ),
    ],
    ids=["head", "body"],
)
async def test_slow_senders(
    tmp_path: Path, pieces: Sequence[bytes], limits: dict[str, float], expected: tuple[int, str], reason: str
) -> None:
    """A client that does not finish its request in time is told so and cut."""
    async with rig(tmp_path, limits=Limits(**limits)) as gateway:  # type: ignore[arg-type]
        gateway.upstream.route("POST", PATH, Script([CHUNK]))
        answer = await said(gateway, *pieces)
        count = await counted(gateway, reason)

    assert kind_of(answer) == expected
    assert count == 1


async def test_silent_connections_are_closed(tmp_path: Path) -> None:
    """A connection on which nothing ever comes is closed without a word."""
    async with rig(tmp_path, limits=Limits(header_timeout_s=SOON)) as gateway:
        assert await said(gateway) == b""


async def test_an_open_stream_outlives_the_head_timer(tmp_path: Path) -> None:
    """Stray line ends behind a request, which some clients send, do not cost a client its stream."""
    go = asyncio.Event()
    async with rig(tmp_path, limits=Limits(header_timeout_s=SOON)) as gateway:
        gateway.upstream.route("POST", PATH, Script([CHUNK, go, b"data: [DONE]\n\n"]))
        reader, writer = await connect(gateway)
        writer.write(HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}\r\n")
        await reader.readuntil(b"Half")
        assert await said(gateway) == b""  # as long as the timer takes
        go.set()
        rest = await reader.read()
        writer.close()

    assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_client_that_never_reads(tmp_path: Path) -> None:
    """A client that takes nothing of its answer is cut, its upstream is let go, and the row says it left."""
    endless = Script([b"data: " + b"x" * 65536 + b"\n\n"] * 4000)
    limits = Limits(client_stall_timeout_s=0.2)
    async with rig(tmp_path, limits=limits) as gateway:
        gateway.upstream.route("POST", PATH, endless)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", int(gateway.address.rpartition(":")[2])))
        await asyncio.get_running_loop().sock_sendall(sock, HEAD + b"Content-Length: 2\r\n\r\n{}")
        row = await gateway.row()
        count = await counted(gateway, "client_stalled")
        sock.close()

    assert row.status == "cancelled"
    assert count == 1


async def test_a_refused_request_leaves_its_connection_usable(tmp_path: Path) -> None:
    """The body of a refused request is read past, so that a client that is still sending gets the answer."""
    body = b"x" * 200_000
    refused = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    last = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with rig(tmp_path, limits=Limits(request_total_bytes=1000)) as gateway:
        answer = await said(gateway, refused, body[:100_000], body[100_000:], last)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b'{"status":"ok"}')


async def test_a_refused_body_that_never_comes(tmp_path: Path) -> None:
    """A client that was refused and then sends its body slowly, or never, does not keep the connection."""
    limits = Limits(request_total_bytes=1000, body_timeout_s=SOON)
    async with rig(tmp_path, limits=limits) as gateway:
        answer = await said(gateway, HEAD + b"Content-Length: 5000\r\n\r\n", b"x")

    assert answer.startswith(b"HTTP/1.1 413 ")


# ---------------------------------------------------------------------- health


async def test_health(tmp_path: Path) -> None:
    """A running gateway is live and ready, and says so to everybody without naming anything secret."""
    async with rig(tmp_path) as gateway:
        live = await ask(gateway.address, "GET", "/healthz")
        ready = await ask(gateway.address, "GET", "/readyz")

    assert (live.status, live.body) == (200, b'{"status":"ok"}')
    told = msgspec.json.decode(ready.body)
    assert (ready.status, told["status"], told["log"], told["plugins"]["logging"]) == (200, "ready", "ok", "ok")


class LosingStore:
    """What readiness looks at, of a log that loses rows."""

    waiting, dropped = 0, 0


def test_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not ready before it listens, after it is told to stop, and a while after rows were lost; waiting is no harm."""
    store = LosingStore()
    health = Health(store, Pipeline([]))  # type: ignore[arg-type]
    seen = [health.readiness()["status"]]
    health.listening = True
    seen.append(health.readiness()["status"])
    store.waiting = 5000
    waiting = health.readiness()
    store.dropped = 1
    seen.append(health.readiness()["status"])
    monkeypatch.setattr("streamfold.gateway.health.RECENTLY", 0.0)
    store.dropped = 2
    seen.append(health.readiness()["status"])
    health.listening = False
    seen.append(health.readiness()["status"])

    assert seen == ["not listening", "ready", "losing rows", "ready", "not listening"]
    assert (waiting["status"], waiting["log"]) == ("ready", "waiting for the database")


async def test_metrics_negotiate(tmp_path: Path) -> None:
    """/metrics is text by default and OpenMetrics for who asks for it."""
    async with rig(tmp_path) as gateway:
        plain = await ask(gateway.address, "GET", "/metrics")
        open_metrics = await ask(
            gateway.address, "GET", "/metrics", [("accept", "application/openmetrics-text; version=1.0.0")]
        )

    assert (plain.header(b"content-type") or b"").startswith(b"text/plain")
    assert (open_metrics.header(b"content-type") or b"").startswith(b"application/openmetrics-text")
    assert open_metrics.body.endswith(b"# EOF\n")


# ---------------------------------------------------------------------- lines


def record(message: str, *arguments: object, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("streamfold.test", logging.INFO, __file__, 1, message, arguments, None)
    setattr(made, FIELDS, fields)
    return made


async def test_each_request_leaves_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A request leaves one line with names and figures, without its query and without what was said."""
    caplog.set_level(logging.INFO)
    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        await ask(gateway.address, "POST", VIA + "?user=somebody", JSON, CHAT)
        row = await gateway.row()
    (line,) = [record for record in caplog.records if record.name == "streamfold.requests"]
    told = json.loads(_Json(Strike(), None).format(line))

    assert (told["id"], told["upstream"], told["path"], told["status"], told["outcome"]) == (
        row.id,
        "openai",
        PATH,
        200,
        "success",
    )
    assert told["chunks"] == row.chunks
    assert told["prompt_tokens"] is not None
    assert "somebody" not in str(told)


def test_the_traffic_does_not_wait_for_the_lines() -> None:
    """Lines that nobody takes in time are dropped, and the next one that fits says how many."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(1)
    handler = _Background(waiting)
    for _ in range(4):
        handler.emit(record("line"))

    assert (waiting.qsize(), handler.dropped) == (1, 3)


def test_lines_of_json() -> None:
    """A line of JSON is one line, whatever the message holds, and carries its worker."""
    line = _Json(Strike(), 3).format(record('two\nlines "quoted" %s', "\u2028", status=200))

    assert line.count("\n") == 0
    assert json.loads(line)["message"] == 'two\nlines "quoted" \u2028'
    assert (json.loads(line)["worker"], json.loads(line)["status"]) == (3, 200)


def test_a_value_cannot_forge_a_line_of_text() -> None:
    """What a client chose (a model's name) can end neither its value nor the line."""
    line = _Text(Strike(), None).format(record("request", model='x" id=1\nINFO forged'))

    assert line.count("\n") == 0
    assert line.endswith('model="x\\" id=1\\nINFO forged"')


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer PLANTED-PLANTED",
        "https://user:PLANTED-PLANTED@host/db",
        "GET /v1?key=PLANTED-PLANTED&x=1",
        "sk-PLANTED-PLANTED-0000",
        "sf-PLANTEDPLANTED_00000",
        "configured PLANTED-PLANTED here",
    ],
)
def test_lines_are_struck(text: str) -> None:
    """Whoever wrote a line, what the configuration names as secret and what looks like a key is struck out of it."""
    struck = _Text(Strike(["PLANTED-PLANTED"] if "configured" in text else []), None).format(record(text))

    assert "PLANTED" not in struck
    assert "[redacted]" in struck


def test_the_secrets_of_a_configuration() -> None:
    """The variables that a configuration names and the database's password are known as secrets."""
    config: Config = load_config(
        db="postgresql://me:db-password@h/d",
        plugins={"otel": {"endpoint": "http://127.0.0.1:1", "headers": {"authorization": "env.COLLECTOR"}}},
    )

    assert secrets_of(config, {"COLLECTOR": "collector-key", "OTHER": "other"}) == ["collector-key", "db-password"]


def test_store_is_what_the_fake_is() -> None:
    """The stand-in for the store has the names that the store has."""
    assert all(hasattr(LogStore, name) for name in ("waiting", "dropped"))
