"""Before the client has got anything, a failed request is tried again, here or elsewhere; each try has its row."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from scripted import ask, dead_address, decoded, rig
from streamfold.gateway.config import Retry, Timeouts, UpstreamSettings
from streamfold.gateway.retry import Plan, retry_after
from streamfold.gateway.scripted import HANG_UP, Received, Script, ScriptedUpstream
from streamfold.gateway.upstreams import Upstream

PATH = "/v1/chat/completions"
VIA = "/openai" + PATH
JSON = [("content-type", "application/json")]
BODY = msgspec.json.encode({"model": "m", "stream": True, "messages": []})
ROLE = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
GOOD = Script(
    [
        ROLE,
        b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
    ]
)
QUICK = Retry(pause_s=0.01)
SOON = Timeouts(first_token_s=1)
NEVER = 3600.0


def failed(status: int = 429, **headers: str) -> Script:
    """A refusal."""
    body = b'{"error":{"message":"not now","type":"busy"}}'
    told = [*JSON, *((name.replace("_", "-"), value) for name, value in headers.items())]
    return Script([body], status=status, headers=told, framing="length")


def in_turn(*scripts: Script) -> Any:
    """Answers by one script after the other; the last one again and again."""
    rest: Iterator[Script] = iter(scripts)
    last = scripts[-1]
    return lambda request: next(rest, last)


FAILURES: list[tuple[str, Script, str]] = [
    ("429", failed(429), "error"),
    ("503", failed(503), "error"),
    ("529", failed(529), "error"),
    ("hangs up without a word", Script([], answers=False), "error"),
    ("breaks off before a token", Script([ROLE, HANG_UP]), "truncated"),
    ("stalls before a token", Script([ROLE, NEVER]), "timeout"),
    ("opens with an error", Script([b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n']), "error"),
]


@pytest.mark.parametrize(("failure", "outcome"), [each[1:] for each in FAILURES], ids=[each[0] for each in FAILURES])
async def test_tried_again_at_the_same_upstream(tmp_path: Path, failure: Script, outcome: str) -> None:
    """The client gets the good answer and nothing else; the failed try has a row of its own, which the other names."""
    more: dict[str, Any] = {"settings": {"retries": 1}, "retry": QUICK, "timeouts": SOON}
    async with rig(tmp_path, **more) as gateway:
        gateway.upstream.route("POST", PATH, in_turn(failure, GOOD))
        reply = await ask(gateway.address, "POST", VIA, JSON, BODY)
        first, second = await gateway.rows(2)

    assert (reply.status, reply.body, reply.whole) == (200, GOOD.body, True)
    assert (first.status, first.attempt, first.parent_id) == (outcome, 0, None)
    assert (second.status, second.attempt, second.parent_id) == ("success", 1, first.id)
    assert (first.model, second.model, second.request) == ("m", "m", BODY.decode())
    assert [request.body for request in gateway.upstream.requests] == [BODY, BODY]


async def test_what_is_never_tried_again(tmp_path: Path) -> None:
    """A bad request, and a stream that broke after its first token, are passed on as they are."""
    broken = Script([*GOOD.steps[:1], b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"H"}}]}\n\n', HANG_UP])
    async with rig(tmp_path, settings={"retries": 3}, retry=QUICK) as gateway:
        gateway.upstream.route("POST", PATH, in_turn(failed(400), broken))
        refused = await ask(gateway.address, "POST", VIA, JSON, BODY)
        half = await ask(gateway.address, "POST", VIA, JSON, BODY)
        rows = await gateway.rows(2)

    assert (refused.status, refused.body) == (400, failed().body)
    assert (half.body, half.whole) == (broken.body, False)
    assert [(row.status, row.attempt) for row in rows] == [("error", 0), ("truncated", 0)]


async def test_nothing_is_tried_again_by_default(tmp_path: Path) -> None:
    """Retries are the client's affair unless the configuration says otherwise."""
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", PATH, in_turn(failed(503), GOOD))
        reply = await ask(gateway.address, "POST", VIA, JSON, BODY)

    assert (reply.status, len(gateway.upstream.requests)) == (503, 1)


async def test_last_failure_is_passed_on(tmp_path: Path) -> None:
    """When every try fails the client gets the last refusal, untouched."""
    async with rig(tmp_path, settings={"retries": 2}, retry=QUICK) as gateway:
        gateway.upstream.route("POST", PATH, in_turn(failed(500), failed(502), failed(503, x_served_by="third")))
        reply = await ask(gateway.address, "POST", VIA, JSON, BODY)
        rows = await gateway.rows(3)

    assert (reply.status, reply.body, reply.header(b"x-served-by")) == (503, failed().body, b"third")
    assert [(row.http_status, row.attempt, row.status) for row in rows] == [
        (500, 0, "error"),
        (502, 1, "error"),
        (503, 2, "error"),
    ]
    assert {row.parent_id for row in rows[1:]} == {rows[0].id}


async def test_long_retry_after_is_passed_on(tmp_path: Path) -> None:
    """An upstream that wants to be left alone for long is not asked again; the client is told so."""
    async with rig(tmp_path, settings={"retries": 2}, retry=QUICK) as gateway:
        gateway.upstream.route("POST", PATH, failed(429, retry_after="3600"))
        reply = await ask(gateway.address, "POST", VIA, JSON, BODY)

    assert (reply.status, reply.header(b"retry-after"), len(gateway.upstream.requests)) == (429, b"3600", 1)


@pytest.mark.parametrize(
    "first", [failed(429, retry_after="3600"), Script([ROLE, NEVER]), None], ids=["429", "stall", "down"]
)
async def test_fallback(tmp_path: Path, first: Script | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another upstream answers, under its own name, model and key, and never sees the client's credentials."""
    monkeypatch.setenv("OTHER_KEY", "sk-of-the-other-one")
    mine = [*JSON, ("authorization", "Bearer sk-mine-777777"), ("x-api-key", "sk-mine-777777")]
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(ScriptedUpstream())
        other.route("POST", "/api" + PATH, GOOD)
        more: dict[str, Any] = {
            "settings": {"fallback": ["spare"]},
            "others": {"spare": UpstreamSettings(other.url + "/api", key_env="OTHER_KEY", models={"m": "their-m"})},
            "timeouts": SOON,
            "upstreams": ["openai"],
        }
        if first is None:
            more["url"] = stack.enter_context(dead_address())
        async with rig(tmp_path, **more) as gateway:
            gateway.upstream.route("POST", PATH, first or GOOD)
            reply = await ask(gateway.address, "POST", VIA, mine, BODY)
            rows = await gateway.rows(2)
        (received,) = other.requests

    assert (reply.status, reply.body, reply.whole) == (200, GOOD.body, True)
    assert [(row.upstream, row.model, row.attempt) for row in rows] == [("openai", "m", 0), ("spare", "their-m", 1)]
    assert (rows[1].status, rows[1].parent_id) == ("success", rows[0].id)
    assert msgspec.json.decode(received.body) == {"model": "their-m", "stream": True, "messages": []}
    assert received.header("authorization") == "Bearer sk-of-the-other-one"
    assert "sk-mine-777777" not in str(received)
    assert received.header("content-length") == str(len(received.body))


async def test_body_too_long_to_keep_is_tried_once(tmp_path: Path) -> None:
    """A body beyond the bound streams through, and its failure is the client's."""
    async with rig(tmp_path, settings={"retries": 2}, retry=Retry(pause_s=0.01, body_bytes=1000)) as gateway:
        gateway.upstream.route("POST", PATH, failed(503))
        body = msgspec.json.encode({"model": "m", "messages": ["x" * 200_000]})
        reply = await ask(gateway.address, "POST", VIA, JSON, body)

    assert (reply.status, len(gateway.upstream.requests)) == (503, 1)
    assert gateway.upstream.requests[0].body == body


async def test_unstreamed_answers_are_tried_again_too(tmp_path: Path) -> None:
    """A JSON answer after a 500 reaches the client whole, also when its body came in chunks."""
    good = Script(
        [b'{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"}}]}'],
        headers=JSON,
        framing="length",
    )
    body = b'{"model":"m"}'
    async with rig(tmp_path, settings={"retries": 1}, retry=QUICK) as gateway:
        gateway.upstream.route("POST", PATH, in_turn(failed(500), good))
        reply = await ask(gateway.address, "POST", VIA, [*JSON, ("transfer-encoding", "chunked")], body)
        rows = await gateway.rows(2)

    assert (reply.body, reply.header(b"content-length")) == (good.body, str(len(good.body)).encode())
    assert [request.body for request in gateway.upstream.requests] == [body, body]
    assert decoded(rows[1])["output_message"]["content"] == "Hi"


async def test_client_that_leaves_ends_the_trying(tmp_path: Path) -> None:
    """Nobody is asked again for a client that has left."""
    arrived = asyncio.Event()

    def hold(request: Received) -> Script:
        arrived.set()
        return Script([NEVER])

    async with rig(tmp_path, settings={"retries": 5}, retry=QUICK) as gateway:
        gateway.upstream.route("POST", PATH, hold)
        _, writer = await asyncio.open_connection("127.0.0.1", int(gateway.address.rpartition(":")[2]))
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (VIA.encode(), len(BODY), BODY)
        )
        await arrived.wait()
        writer.transport.abort()
        row = await gateway.row()

    assert (row.status, len(gateway.upstream.requests)) == ("cancelled", 1)


async def test_openai_sdk_sees_no_failure(tmp_path: Path) -> None:
    """An SDK without retries of its own gets its stream through a failing upstream."""
    async with rig(tmp_path, settings={"retries": 2}, retry=QUICK) as gateway:
        gateway.upstream.route("POST", PATH, in_turn(failed(500), Script([ROLE, HANG_UP]), GOOD))
        async with openai.AsyncOpenAI(
            api_key="sk-test", base_url=gateway.address + "/openai/v1", max_retries=0
        ) as client:
            stream = await client.chat.completions.create(model="m", messages=[], stream=True)
            texts = [chunk.choices[0].delta.content async for chunk in stream]

    assert texts == ["", "Hi"]


# ---------------------------------------------------------------------- the plan


HERE = Upstream("a", "http://a", "a", retries=2, fallback=("b",))
THERE = Upstream("b", "http://b", "b", retries=1)


def _steps(asked: float | None, settings: Retry) -> list[tuple[str, bool]]:
    plan, steps = Plan(HERE, {"a": HERE, "b": THERE}, settings), []
    while (step := plan.advance(asked)) is not None:
        steps.append((step.upstream.name, step.pause > 0))
    return steps


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        (None, [("a", True), ("a", True), ("b", False), ("b", True)]),
        (3.0, [("a", True), ("a", True), ("b", False), ("b", True)]),
        (1000.0, [("b", False)]),
    ],
)
def test_plan(asked: float | None, steps: list[tuple[str, bool]]) -> None:
    """First here with pauses, then there at once; who asks for too long a pause is given up."""
    assert _steps(asked, Retry()) == steps


def test_pauses_grow_and_are_bounded() -> None:
    """Each pause is twice the one before, less a random half, and none is beyond the cap."""
    upstream = Upstream("a", "http://a", "a", retries=8)
    plan = Plan(upstream, {}, Retry(pause_s=1, pause_cap_s=8))
    pauses = [step.pause for step in iter(plan.advance, None)]
    for pause, most in zip(pauses, [1, 2, 4, 8, 8, 8, 8, 8], strict=True):
        assert most / 2 <= pause <= most


def test_retry_after() -> None:
    """Seconds, a date, milliseconds; nonsense is nothing."""
    assert retry_after([(b"retry-after", b"7")]) == 7
    assert retry_after([(b"Retry-After-Ms", b"250"), (b"retry-after", b"7")]) == 0.25
    assert retry_after([(b"retry-after", formatdate(0, usegmt=True).encode())]) == 0
    assert retry_after([(b"retry-after", b"soon")]) is None
    assert retry_after([]) is None
