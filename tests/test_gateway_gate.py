"""A plugin may hold a stream back, look at what was said so far, and let it go, replace it or end it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import anthropic
import h11
import msgspec
import openai
import pytest

from scripted import PATIENCE, ask, conversation, decoded, rig
from streamfold.gateway.config import Gate
from streamfold.gateway.scripted import HANG_UP, Script
from streamfold.hooks import DROP, HOLD, RELEASE, End, Plugin, Replace, RequestContext
from streamfold.types import ErrorDetails

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "guardrail"))

PATH = "/v1/chat/completions"
VIA = "/openai" + PATH
JSON = [("content-type", "application/json")]
BODY = msgspec.json.encode({"model": "m", "stream": True, "messages": []})
NEVER = 3600.0
REFUSED = ErrorDetails(type="content_blocked", code="content_blocked", message="not this")

Answer = Callable[[RequestContext, Any], Any]


class Scripted(Plugin):
    """Answers as the test says: a function of the context and the chunk."""

    name = "scripted"
    inline = True
    answer: ClassVar[Answer]
    snapshots: ClassVar[list[str]]

    def post_llm_hook(self, ctx: RequestContext, chunk: Any, error: Any) -> Any:
        assert ctx.snapshot is not None
        message = ctx.snapshot().output_message
        type(self).snapshots.append(str(message.content if message is not None else None))
        return type(self).answer(ctx, chunk)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Scripted.snapshots = []


def delta(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + msgspec.json.encode({"id": "c", "choices": [choice]}) + b"\n\n"


WORDS = [delta("One "), delta("two "), b": ping\n\n", delta("three.", "stop")]
DONE = b"data: [DONE]\n\n"
PLUGINS = {f"{__name__}:Scripted": {}}


async def through(
    directory: Path, answer: Answer, script: Script | None = None, **flags: Any
) -> tuple[Any, dict[str, Any]]:
    """What the client gets when the plugin answers so, and the record."""
    Scripted.answer = staticmethod(answer)  # type: ignore[assignment]
    async with rig(directory, plugins=PLUGINS, **flags) as gateway:
        gateway.upstream.route("POST", PATH, script or Script([*WORDS, DONE]))
        reply = await ask(gateway.address, "POST", VIA, JSON, BODY)
        row = await gateway.row()
    return reply, decoded(row)


def at(index: int | None, answer: Any, otherwise: Any = None) -> Answer:
    """Answers so for the chunk of an index (None: the end), and otherwise something else."""
    return lambda ctx, chunk: answer if ctx.chunk_index == index and (chunk is None) == (index is None) else otherwise


ALL = b"".join(WORDS) + DONE
ENDS = [
    ("released at the next chunk", lambda ctx, chunk: RELEASE if (ctx.chunk_index or 0) % 2 else HOLD, ALL),
    ("released at the end", lambda ctx, chunk: RELEASE if chunk is None else HOLD, ALL),
    ("held once, released later", lambda ctx, chunk: {0: HOLD, 2: RELEASE}.get(ctx.chunk_index), ALL),
    (
        "dropped while held",
        lambda ctx, chunk: {0: HOLD, 1: DROP, 2: RELEASE}.get(ctx.chunk_index),
        ALL.replace(WORDS[1], b""),
    ),
    (
        "replaced",
        lambda ctx, chunk: {0: HOLD, 1: Replace([{"x": 1}, b'{"x":2}'])}.get(ctx.chunk_index),
        b'data: {"x":1}\n\ndata: {"x":2}\n\n' + b"".join(WORDS[2:]) + DONE,
    ),
    (
        "replaced at the end",
        lambda ctx, chunk: Replace(["gone"]) if chunk is None else HOLD,
        b"data: gone\n\n",
    ),
]


@pytest.mark.parametrize(("answer", "got"), [each[1:] for each in ENDS], ids=[each[0] for each in ENDS])
async def test_held_chunks_go_on_in_order(tmp_path: Path, answer: Answer, got: bytes) -> None:
    """What was held is delivered in order, or something else in its place; the row has what the upstream said."""
    reply, record = await through(tmp_path, answer)

    assert (reply.body, reply.whole) == (got, True)
    assert (record["status"], record["output_message"]["content"]) == ("success", "One two three.")


async def test_nothing_goes_out_while_held(tmp_path: Path) -> None:
    """The client gets nothing of what is held, and all of it when it is released; the plugin sees the text so far."""
    seen, go_on = asyncio.Event(), asyncio.Event()

    def answer(ctx: RequestContext, chunk: Any) -> Any:
        if ctx.chunk_index == 1:
            asyncio.get_running_loop().call_soon(seen.set)
        return HOLD if (ctx.chunk_index or 0) < 2 else RELEASE

    Scripted.answer = staticmethod(answer)  # type: ignore[assignment]
    async with rig(tmp_path, plugins=PLUGINS) as gateway:
        gateway.upstream.route("POST", PATH, Script([WORDS[0], WORDS[1], go_on, WORDS[3], DONE]))
        async with conversation(gateway.address, "POST", VIA, JSON, BODY) as talk:
            await talk.receive()
            await seen.wait()
            arrival = asyncio.ensure_future(talk.receive())
            await asyncio.sleep(0)
            assert not arrival.done()
            go_on.set()
            got = bytes((await arrival).data)
            while isinstance(event := await talk.receive(), h11.Data):
                got += event.data
        await gateway.row()

    assert got == WORDS[0] + WORDS[1] + WORDS[3] + DONE
    assert Scripted.snapshots[1] == "One two "


@pytest.mark.parametrize("index", [1, None])
async def test_stream_ended_by_a_plugin(tmp_path: Path, index: int | None) -> None:
    """What is held is not delivered; the client reads an error, the row says which."""
    reply, record = await through(tmp_path, at(index, End(REFUSED), HOLD))

    event = msgspec.json.decode(reply.body.removeprefix(b"data: "))
    assert (event["error"]["code"], event["error"]["message"], reply.whole) == ("content_blocked", "not this", True)
    assert (record["status"], record["error_details"]["code"]) == ("error", "content_blocked")
    assert record["output_message"]["content"].startswith("One two ")


async def test_end_leaves_the_upstream(tmp_path: Path) -> None:
    """Ending a stream closes the upstream's connection at once, and what was released before has gone out."""
    Scripted.answer = staticmethod(at(1, End(REFUSED)))  # type: ignore[assignment]
    async with rig(tmp_path, plugins=PLUGINS) as gateway:
        gateway.upstream.route("POST", PATH, Script([*WORDS[:2], NEVER]))
        reply = await ask(gateway.address, "POST", VIA, JSON, BODY)
        received = await gateway.upstream.received()
        async with asyncio.timeout(PATIENCE):
            await received.gone.wait()

    assert reply.body.startswith(WORDS[0] + b'data: {"error":')


BOUNDS = [
    ("bytes", Gate(hold_bytes=150), [*WORDS, DONE]),
    ("seconds", Gate(hold_s=0.1), [*WORDS[:2], 0.5, *WORDS[2:], DONE]),
    ("the end", Gate(), [*WORDS, DONE]),
]


@pytest.mark.parametrize(("bounds", "steps"), [each[1:] for each in BOUNDS], ids=[each[0] for each in BOUNDS])
@pytest.mark.parametrize("policy", ["closed", "open"])
async def test_holding_is_bounded(tmp_path: Path, bounds: Gate, steps: list[Any], policy: Any) -> None:
    """A plugin that holds too much, too long, or beyond the end: a closed gate ends the stream, an open one lets go."""
    gate = msgspec.structs.replace(bounds, when_exceeded=policy)
    reply, record = await through(tmp_path, lambda ctx, chunk: HOLD, Script(steps), gate=gate)

    assert "gate_exceeded" in record["integrity"]["anomalies"]
    if policy == "open":
        assert (reply.body, reply.whole, record["status"]) == (
            b"".join(s for s in steps if isinstance(s, bytes)),
            True,
            "success",
        )
    else:
        event = msgspec.json.decode(reply.body.removeprefix(b"data: "))
        assert (event["error"]["code"], reply.whole) == ("gate_closed", True)
        assert (record["status"], record["error_details"]["code"]) == ("error", "gate_closed")


async def test_break_while_held(tmp_path: Path) -> None:
    """When the upstream breaks off while a plugin holds, nothing of that goes out and the client sees a break."""
    reply, record = await through(tmp_path, lambda ctx, chunk: HOLD, Script([*WORDS[:2], HANG_UP]))

    assert (reply.body, reply.whole) == (b"", False)
    assert (record["status"], record["output_message"]["content"]) == ("truncated", "One two ")


async def test_unstreamed_answer_ended_by_a_plugin(tmp_path: Path) -> None:
    """Of an unstreamed answer the client gets an error with a status instead."""
    whole = Script([b'{"choices":[{"index":0,"message":{"content":"Hi"}}]}'], headers=JSON, framing="length")
    reply, record = await through(tmp_path, at(0, End(REFUSED)), whole)

    assert (reply.status, msgspec.json.decode(reply.body)["error"]["code"]) == (403, "content_blocked")
    assert (record["status"], record["error_details"]["message"]) == ("error", "not this")


@pytest.mark.parametrize("in_one_read", [True, False])
async def test_a_snapshot_has_at_least_what_was_shown(tmp_path: Path, in_one_read: bool) -> None:
    """However many events come in one read, a hook's snapshot has the text of all the chunks that it was shown."""
    texts = ["One ", "two ", "three ", "four"]
    Scripted.answer = staticmethod(lambda ctx, chunk: None)  # type: ignore[assignment]
    events = [*map(delta, texts), DONE]
    async with rig(tmp_path, plugins=PLUGINS) as gateway:
        gateway.upstream.route("POST", PATH, Script([b"".join(events)] if in_one_read else events))
        await ask(gateway.address, "POST", VIA, JSON, BODY)
        await gateway.row()

    for place, snapshot in enumerate(Scripted.snapshots):
        assert snapshot.startswith("".join(texts[: place + 1]))


# ---------------------------------------------------------------------- the example guardrail

GUARD = {"guardrail:Guardrail": {"forbidden": [r"(?i)project\s+bluebird"], "message": "stopped by the house"}}
GOOD = ["The weather ", "is fine. ", "Take a ", "hat."]
BAD = ["The weather is fine. ", "Project Blue", "bird starts", " on Monday."]


def anthropic_stream(texts: list[str]) -> list[bytes]:
    message = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": [], "stop_reason": None}
    usage = {"input_tokens": 1, "output_tokens": 1}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "stop_sequence": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    return [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event)) for event in events]


@pytest.mark.parametrize(("texts", "passes"), [(GOOD, True), (BAD, False)], ids=["good", "bad"])
async def test_guardrail_with_the_openai_sdk(tmp_path: Path, texts: list[str], passes: bool) -> None:
    """Good sentences arrive whole; a forbidden one does not, and the SDK raises what the guardrail says."""
    got = []
    async with rig(tmp_path, plugins=GUARD) as gateway:
        gateway.upstream.route("POST", PATH, Script([*map(delta, texts), delta("", "stop"), DONE]))
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=gateway.address + "/openai/v1") as client:
            stream = await client.chat.completions.create(model="m", messages=[], stream=True)
            if passes:
                got = [chunk.choices[0].delta.content async for chunk in stream]
            else:
                with pytest.raises(openai.APIError, match="stopped by the house"):  # noqa: PT012
                    async for chunk in stream:
                        got.append(chunk.choices[0].delta.content)
        row = await gateway.row()

    said = "".join(text or "" for text in got)
    assert said == "".join(texts) if passes else texts[0].startswith(said)
    assert row.status == ("success" if passes else "error")


@pytest.mark.parametrize(("texts", "passes"), [(GOOD, True), (BAD, False)], ids=["good", "bad"])
async def test_guardrail_with_the_anthropic_sdk(tmp_path: Path, texts: list[str], passes: bool) -> None:
    """The same for Anthropic's events, with their names."""
    got = []
    async with rig(tmp_path, plugins=GUARD) as gateway:
        gateway.upstream.route("POST", "/v1/messages", Script(anthropic_stream(texts)))
        async with anthropic.AsyncAnthropic(api_key="sk-test", base_url=gateway.address + "/anthropic") as client:
            asked: Any = {"model": "c", "max_tokens": 9, "messages": []}
            async with client.messages.stream(**asked) as stream:
                if passes:
                    got = [text async for text in stream.text_stream]
                else:
                    with pytest.raises(anthropic.APIError, match="stopped by the house"):  # noqa: PT012
                        async for text in stream.text_stream:
                            got.append(text)
        row = await gateway.row()

    said = "".join(got)
    assert said == "".join(texts) if passes else texts[0].startswith(said)
    assert row.status == ("success" if passes else "error")
