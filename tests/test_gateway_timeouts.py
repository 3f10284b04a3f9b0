"""An upstream that takes too long is ended with a row that says so, and a client that hears of it as well as it can."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import anthropic
import h11
import msgspec
import openai
import pytest

from scripted import PATIENCE, ask, conversation, decoded, rig
from streamfold.gateway.config import Drain, Timeouts
from streamfold.gateway.error_events import error_event
from streamfold.gateway.scripted import Script
from streamfold.gateway.witness import Witness
from streamfold.types import ErrorDetails

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
JSON = [("content-type", "application/json")]
BODY = msgspec.json.encode({"model": "m", "stream": True, "messages": []})
ROLE = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
START = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Half of "}}]}\n\n'
REST = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"it"},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'
    b"data: [DONE]\n\n"
)
ANTHROPIC_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant",'
    b'"model":"c","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
)
SHORT = 0.5
"""A timeout that is to be met: short, but longer than what comes before the stall may take on a busy machine."""
NEVER = 3600.0


async def test_header_timeout(tmp_path: Path) -> None:
    """An upstream that takes the request and says nothing gives 504 and a row of outcome timeout."""
    arrived = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, rig(tmp_path, url=url, timeouts=Timeouts(header_s=SHORT)) as gateway:
        reply = await ask(gateway.address, "POST", "/openai" + CHAT, JSON, BODY)
        row = await gateway.row()

    error = msgspec.json.decode(reply.body)["error"]
    assert arrived.is_set()
    assert (reply.status, error["type"]) == (504, "timeout")
    assert error["message"] == 'streamfold: the upstream "openai" took too long: no answer within 0.5 s'
    assert (row.status, row.http_status, row.model) == ("timeout", None, "m")
    assert decoded(row)["error_details"]["code"] == "header_timeout"


async def test_connect_timeout(tmp_path: Path) -> None:
    """An upstream whose backlog is full is a connect timeout."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with rig(tmp_path, url=url, timeouts=Timeouts(connect_s=SHORT)) as gateway:
            reply = await ask(gateway.address, "POST", "/openai" + CHAT, JSON, BODY)
            row = await gateway.row()
        for filler in fillers:
            filler.close()

    assert reply.status == 504
    assert (row.status, decoded(row)["error_details"]["code"]) == ("timeout", "connect_timeout")


STALLS = [
    ("first_token", Timeouts(first_token_s=SHORT), [ROLE, NEVER], ROLE),
    ("chunk", Timeouts(chunk_s=SHORT), [ROLE, START, NEVER], ROLE + START),
    ("total", Timeouts(total_s=SHORT), [ROLE, START, NEVER], ROLE + START),
]


@pytest.mark.parametrize(("which", "timeouts", "steps", "got"), STALLS, ids=[each[0] for each in STALLS])
async def test_stall_in_a_stream(tmp_path: Path, which: str, timeouts: Timeouts, steps: list[Any], got: bytes) -> None:
    """A stream that stalls ends with an error event of its format, its upstream is left, and the row is a timeout."""
    async with rig(tmp_path, timeouts=timeouts) as gateway:
        gateway.upstream.route("POST", CHAT, Script(steps))
        reply = await ask(gateway.address, "POST", "/openai" + CHAT, JSON, BODY)
        row = await gateway.row()
        received = await gateway.upstream.received()
        async with asyncio.timeout(PATIENCE):
            await received.gone.wait()

    assert reply.body.startswith(got)
    event = msgspec.json.decode(reply.body.removeprefix(got + b"data: "))
    assert (event["error"]["type"], event["error"]["code"], reply.whole) == ("timeout", f"{which}_timeout", True)
    assert (row.status, row.http_status) == ("timeout", 200)
    assert decoded(row)["error_details"]["code"] == f"{which}_timeout"
    text = (decoded(row)["output_message"] or {}).get("content")
    assert (text or "") == ("Half of " if START in got else "")


async def test_stall_inside_an_event_breaks_the_connection(tmp_path: Path) -> None:
    """After half an event nothing of ours is appended: the client sees a break."""
    async with rig(tmp_path, timeouts=Timeouts(chunk_s=SHORT)) as gateway:
        gateway.upstream.route("POST", CHAT, Script([START, START[:20], NEVER]))
        reply = await ask(gateway.address, "POST", "/openai" + CHAT, JSON, BODY)
        row = await gateway.row()

    assert (reply.body, reply.whole) == (START + START[:20], False)
    assert row.status == "timeout"


async def test_stall_after_the_end_is_no_timeout(tmp_path: Path) -> None:
    """A connection that stays open after `[DONE]` is closed, and the row is a success."""
    async with rig(tmp_path, timeouts=Timeouts(chunk_s=SHORT)) as gateway:
        gateway.upstream.route("POST", CHAT, Script([START, REST, NEVER]))
        reply = await ask(gateway.address, "POST", "/openai" + CHAT, JSON, BODY)
        row = await gateway.row()

    assert (reply.body, reply.whole) == (START + REST, True)
    assert (row.status, row.error_type) == ("success", None)


async def test_an_upstreams_own_timeouts_win(tmp_path: Path) -> None:
    """What one upstream says of timeouts goes before what is said of all."""
    settings = {"timeouts": Timeouts(chunk_s=0)}
    go_on = asyncio.Event()
    async with rig(tmp_path, settings=settings, timeouts=Timeouts(chunk_s=0.05)) as gateway:
        gateway.upstream.route("POST", CHAT, Script([START, go_on, 0.2, REST]))
        async with conversation(gateway.address, "POST", "/openai" + CHAT, JSON, BODY) as talk:
            await talk.receive()
            await talk.receive()
            go_on.set()
            while isinstance(await talk.receive(), h11.Data):
                pass
        row = await gateway.row()

    assert row.status == "success"


async def test_pieces_in_time_are_no_stall(tmp_path: Path) -> None:
    """The timeout counts from the last piece, not from the first."""
    steps: list[Any] = [step for _ in range(6) for step in (START, 0.2)]
    async with rig(tmp_path, timeouts=Timeouts(chunk_s=1)) as gateway:
        gateway.upstream.route("POST", CHAT, Script([*steps, REST]))
        reply = await ask(gateway.address, "POST", "/openai" + CHAT, JSON, BODY)
        row = await gateway.row()

    assert (reply.body, row.status) == (START * 6 + REST, "success")


async def test_sdks_read_the_error(tmp_path: Path) -> None:
    """The OpenAI and the Anthropic SDK raise what the gateway says in their format."""
    async with rig(tmp_path, timeouts=Timeouts(chunk_s=SHORT)) as gateway:
        gateway.upstream.route("POST", CHAT, Script([START, NEVER]))
        gateway.upstream.route("POST", MESSAGES, Script([ANTHROPIC_START, NEVER]))
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=gateway.address + "/openai/v1") as client:
            stream = await client.chat.completions.create(model="m", messages=[], stream=True)
            with pytest.raises(openai.APIError, match="took too long"):
                [chunk async for chunk in stream]
        async with anthropic.AsyncAnthropic(api_key="sk-test", base_url=gateway.address + "/anthropic") as other:
            events = await other.messages.create(model="c", max_tokens=9, messages=[], stream=True)
            with pytest.raises(anthropic.APIError, match="took too long"):
                [event async for event in events]
        rows = await gateway.rows(2)

    assert [row.status for row in rows] == ["timeout", "timeout"]


# ---------------------------------------------------------------------- draining


@pytest.fixture
def noticed(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when the gateway has noticed that its client left."""
    event, client_left = asyncio.Event(), Witness.client_left

    def notice(self: Witness) -> None:
        client_left(self)
        event.set()

    monkeypatch.setattr(Witness, "client_left", notice)
    return event


async def test_drained_answer_tells_its_usage(tmp_path: Path, noticed: asyncio.Event) -> None:
    """With draining, an answer whose client left is read to its end: the row is cancelled and has the usage."""
    async with rig(tmp_path, drain=Drain(seconds=PATIENCE)) as gateway:
        gateway.upstream.route("POST", CHAT, Script([START, noticed, REST]))
        async with conversation(gateway.address, "POST", "/openai" + CHAT, JSON, BODY) as talk:
            await talk.receive()
            await talk.receive()
            talk.leave()
        row = await gateway.row()

    assert (row.status, row.total_tokens, row.finish_reason) == ("cancelled", 3, "stop")
    assert decoded(row)["output_message"]["content"] == "Half of it"
    assert "drained" in decoded(row)["integrity"]["anomalies"]


@pytest.mark.parametrize(
    ("drain", "rest"),
    [(Drain(seconds=SHORT), b""), (Drain(seconds=NEVER, bytes=1000), START * 30)],
    ids=["seconds", "bytes"],
)
async def test_draining_is_bounded(tmp_path: Path, noticed: asyncio.Event, drain: Drain, rest: bytes) -> None:
    """An answer that goes on and on is drained no longer, and no further, than the configuration says."""
    async with rig(tmp_path, drain=drain) as gateway:
        gateway.upstream.route("POST", CHAT, Script([START, noticed, rest, NEVER] if rest else [START, NEVER]))
        async with conversation(gateway.address, "POST", "/openai" + CHAT, JSON, BODY) as talk:
            await talk.receive()
            await talk.receive()
            talk.leave()
        received = await gateway.upstream.received()
        async with asyncio.timeout(PATIENCE):
            await received.gone.wait()
        row = await gateway.row()

    assert row.status == "cancelled"
    assert rest or "drained" not in decoded(row)["integrity"]["anomalies"]
    assert decoded(row)["output_message"]["content"].startswith("Half of ")


# ---------------------------------------------------------------------- the errors of each format

ERROR = ErrorDetails(type="timeout", code="chunk_timeout", message="it stalled")
EVENTS = [
    ("openai-chat", "text/event-stream", b"", ("error", "message")),
    ("openai-responses", "text/event-stream; charset=utf-8", b'data: {"sequence_number":4}\n\n', ("message",)),
    ("anthropic-messages", "text/event-stream", b"", ("error", "message")),
    ("gemini", "text/event-stream", b"", ("error", "message")),
    ("cohere", "text/event-stream", b"", ("delta", "error")),
    ("mistral", "text/event-stream", b'data: {"type":"conversation.response.started"}\n\n', ("message",)),
    ("ollama", "application/x-ndjson", b'{"a":1}\n', ("error",)),
]


@pytest.mark.parametrize(("format", "kind", "last", "where"), EVENTS, ids=[each[0] for each in EVENTS])
def test_error_in_the_streams_own_format(format: str, kind: str, last: bytes, where: tuple[str, ...]) -> None:
    """Every format says the message where its clients look, and our own fold reads it as an error."""
    import streamfold

    event = error_event(format, kind, ERROR, last)
    assert event is not None
    told: Any = msgspec.json.decode(event.partition(b"data: ")[2] if kind.startswith("text") else event)
    for key in where:
        told = told[key]
    assert told == "it stalled"
    done = streamfold.fold(event, format=format)
    assert done.data is not None
    assert (done.data.status, (done.data.error_details or ErrorDetails()).message) == ("error", "it stalled")


def test_bedrock_error_is_an_exception_frame() -> None:
    """Bedrock's streams are binary: the error is a frame with its check sums, after whole frames only."""
    import streamfold

    kind = "application/vnd.amazon.eventstream"
    frame = error_event("bedrock-converse", kind, ERROR)
    assert frame is not None
    assert error_event("bedrock-converse", kind, ERROR, frame) == frame
    assert error_event("bedrock-converse", kind, ERROR, frame[:-1]) is None
    done = streamfold.fold(frame, format="bedrock-converse")
    assert done.data is not None
    assert (done.data.status, (done.data.error_details or ErrorDetails()).message) == ("error", "it stalled")


@pytest.mark.parametrize(
    ("format", "kind"), [("gemini", "application/json"), ("openai-speech", "audio/mpeg"), ("passthrough", "text/plain")]
)
def test_formats_that_cannot_tell(format: str, kind: str) -> None:
    """Where a format has no way to tell an error, there is none."""
    assert error_event(format, kind, ERROR) is None
