"""Real SDK clients see through the gateway what they see without it, and the rows say what they saw."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anthropic
import msgspec
import openai
import pytest

from scripted import decoded, rig
from streamfold.gateway.scenes import ANSWER, play_all
from streamfold.gateway.scripted import Script, ScriptedUpstream
from streamfold.store import LogRow

JSON = [("content-type", "application/json")]
SOUND = b"ID3\x04\x00\x00" + bytes(range(256)) * 40
PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(200))).decode()
WORDS = ["One ", "word ", "after ", "another."]
ASK: Any = [{"role": "user", "content": "Hi"}]


def events(*told: dict[str, Any], done: bool = False) -> list[bytes]:
    pieces = [b"data: " + msgspec.json.encode(each) + b"\n\n" for each in told]
    return [*pieces, b"data: [DONE]\n\n"] if done else pieces


def named(*told: dict[str, Any]) -> list[bytes]:
    return [b"event: " + each["type"].encode() + b"\n" + events(each)[0] for each in told]


SPEECH_USAGE = {"input_tokens": 4, "output_tokens": 30, "total_tokens": 34}
SPEECH = events(
    *(
        {"type": "speech.audio.delta", "audio": base64.b64encode(SOUND[at : at + 1000]).decode()}
        for at in range(0, len(SOUND), 1000)
    ),
    {"type": "speech.audio.done", "usage": SPEECH_USAGE},
)
TRANSCRIPT_USAGE = {"type": "tokens", "input_tokens": 14, "output_tokens": 5, "total_tokens": 19}
TRANSCRIPT = events(
    *({"type": "transcript.text.delta", "delta": word} for word in WORDS),
    {"type": "transcript.text.done", "text": "".join(WORDS), "usage": TRANSCRIPT_USAGE},
    done=True,
)
IMAGE: dict[str, Any] = {
    "created_at": 1,
    "size": "1024x1024",
    "quality": "low",
    "background": "opaque",
    "output_format": "png",
}
IMAGE_USAGE = {
    "input_tokens": 5,
    "output_tokens": 200,
    "total_tokens": 205,
    "input_tokens_details": {"text_tokens": 5, "image_tokens": 0},
}
IMAGES = named(
    {"type": "image_generation.partial_image", "b64_json": PICTURE[:40], "partial_image_index": 0, **IMAGE},
    {"type": "image_generation.completed", "b64_json": PICTURE, "usage": IMAGE_USAGE, **IMAGE},
)
EDITS = [piece.replace(b"image_generation", b"image_edit") for piece in IMAGES]
RESPONSE_ERROR = named(
    {
        "type": "response.created",
        "sequence_number": 0,
        "response": {"id": "r", "object": "response", "status": "in_progress", "output": []},
    },
    {"type": "error", "sequence_number": 1, "code": "server_error", "message": "it broke", "param": None},
)


def play_more(upstream: ScriptedUpstream) -> None:
    """The APIs that the demo does not play."""
    upstream.route(
        "POST",
        "/v1/audio/speech",
        lambda request: (
            Script(SPEECH)
            if b'"sse"' in request.body
            else Script([SOUND[:999], SOUND[999:]], headers=[("content-type", "audio/mpeg")])
        ),
    )
    whole = {"text": "".join(WORDS), "usage": TRANSCRIPT_USAGE}
    upstream.route(
        "POST",
        "/v1/audio/transcriptions",
        lambda request: (
            Script(TRANSCRIPT)
            if b'name="stream"' in request.body
            else Script([msgspec.json.encode(whole)], headers=JSON, framing="length")
        ),
    )
    picture = {"created": 1, "data": [{"b64_json": PICTURE}], "usage": IMAGE_USAGE}
    upstream.route(
        "POST",
        "/v1/images/generations",
        lambda request: (
            Script(IMAGES)
            if b'"stream":true' in request.body.replace(b" ", b"")
            else Script([msgspec.json.encode(picture)], headers=JSON, framing="length")
        ),
    )
    upstream.route("POST", "/v1/images/edits", Script(EDITS))
    retrieved = msgspec.json.encode(
        {
            "id": "resp_1",
            "object": "response",
            "status": "completed",
            "model": "gpt-5",
            "created_at": 1,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }
    )
    upstream.route("GET", "/v1/responses/resp_1", Script([retrieved], headers=JSON, framing="length"))


Use = Callable[[Any], Awaitable[Any]]


async def _collected(stream: Any) -> list[Any]:
    return [event.model_dump() async for event in await stream]


async def chat(client: Any) -> Any:
    return await _collected(client.chat.completions.create(model="gpt-4o-mini", messages=ASK, stream=True))


async def chat_raw(client: Any) -> Any:
    streaming = client.chat.completions.with_streaming_response
    async with streaming.create(model="gpt-4o-mini", messages=ASK, stream=True) as response:
        return b"".join([piece async for piece in response.iter_bytes()])


async def chat_whole(client: Any) -> Any:
    return (await client.chat.completions.create(model="gpt-4o-mini", messages=ASK)).model_dump()


async def completions(client: Any) -> Any:
    return await _collected(client.completions.create(model="gpt-3.5-turbo-instruct", prompt="A", stream=True))


async def responses(client: Any) -> Any:
    return await _collected(client.responses.create(model="gpt-4o-mini", input="A", stream=True))


async def responses_manager(client: Any) -> Any:
    async with client.responses.stream(model="gpt-4o-mini", input="A") as stream:
        return (await stream.get_final_response()).model_dump()


async def retrieve(client: Any) -> Any:
    return (await client.responses.retrieve("resp_1")).model_dump()


async def speech(client: Any) -> Any:
    streaming = client.audio.speech.with_streaming_response
    async with streaming.create(model="tts-1", voice="alloy", input="Hi") as response:
        return b"".join([piece async for piece in response.iter_bytes()])


async def speech_events(client: Any) -> Any:
    streaming = client.audio.speech.with_streaming_response
    async with streaming.create(model="gpt-4o-mini-tts", voice="alloy", input="Hi", stream_format="sse") as response:
        return b"".join([piece async for piece in response.iter_bytes()])


def _file() -> io.BytesIO:
    file = io.BytesIO(b"RIFF" + bytes(300_000))
    file.name = "a.wav"
    return file


async def transcription(client: Any) -> Any:
    return await _collected(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=_file(), stream=True))


async def transcription_whole(client: Any) -> Any:
    return (await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=_file())).model_dump()


async def images(client: Any) -> Any:
    return await _collected(client.images.generate(model="gpt-image-1", prompt="A hat", stream=True, partial_images=1))


async def images_whole(client: Any) -> Any:
    return (await client.images.generate(model="gpt-image-1", prompt="A hat")).model_dump()


async def edits(client: Any) -> Any:
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.name = "a.png"
    return await _collected(client.images.edit(model="gpt-image-1", image=file, prompt="A hat", stream=True))


def _content(row: LogRow) -> Any:
    return decoded(row)["output_message"]["content"]


def _sound(row: LogRow) -> Any:
    output = decoded(row)["audio_output"]
    return output["format"], bool(output)


OPENAI: list[tuple[Use, str, bool, str, Callable[[LogRow], Any], Any]] = [
    (chat, "openai-chat", True, "gpt-4o-mini", _content, ANSWER),
    (chat_raw, "openai-chat", True, "gpt-4o-mini", lambda row: row.total_tokens, 39),
    (chat_whole, "openai-chat", False, "gpt-4o-mini", _content, ANSWER),
    (completions, "openai-completions", True, "gpt-3.5-turbo-instruct", _content, ANSWER),
    (responses, "openai-responses", True, "gpt-4o-mini", _content, ANSWER),
    (responses_manager, "openai-responses", True, "gpt-4o-mini", lambda row: row.total_tokens, 39),
    (retrieve, "openai-responses", False, "None", lambda row: decoded(row)["response"]["id"], "resp_1"),
    (speech, "openai-speech", True, "tts-1", _sound, ("mp3", True)),
    (speech_events, "openai-speech", True, "gpt-4o-mini-tts", lambda row: row.total_tokens, 34),
    (
        transcription,
        "openai-transcription",
        True,
        "gpt-4o-transcribe",
        lambda row: decoded(row)["transcription_output"]["text"],
        "".join(WORDS),
    ),
    (transcription_whole, "openai-transcription", False, "gpt-4o-transcribe", lambda row: row.total_tokens, 19),
    (images, "openai-images", True, "gpt-image-1", lambda row: row.total_tokens, 205),
    (images_whole, "openai-images", False, "gpt-image-1", lambda row: row.total_tokens, 205),
    (edits, "openai-images", True, "gpt-image-1", lambda row: row.total_tokens, 205),
]


@pytest.mark.parametrize(
    ("use", "format", "stream", "model", "read", "wanted"), OPENAI, ids=[each[0].__name__ for each in OPENAI]
)
async def test_openai_sdk(
    tmp_path: Path, use: Use, format: str, stream: bool, model: str, read: Callable[[LogRow], Any], wanted: Any
) -> None:
    """The OpenAI SDK returns the same through the gateway as without it; the row has format, model and content."""

    async def with_client(base_url: str) -> Any:
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=base_url, max_retries=0) as client:
            return await use(client)

    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        play_more(gateway.upstream)
        direct = await with_client(gateway.upstream.url + "/v1")
        through = await with_client(gateway.address + "/openai/v1")
        row = await gateway.row()

    assert through == direct
    assert through
    assert (row.format, row.stream, str(row.model), row.status) == (format, stream, model, "success")
    assert read(row) == wanted


async def test_anthropic_sdk(tmp_path: Path) -> None:
    """The Anthropic SDK gets the same bytes, and the same message, streamed and not."""

    async def use(base_url: str) -> list[Any]:
        async with anthropic.AsyncAnthropic(api_key="sk-test", base_url=base_url, max_retries=0) as client:
            asked: Any = {"model": "claude-sonnet-5", "max_tokens": 9, "messages": ASK}
            async with client.messages.with_streaming_response.create(**asked, stream=True) as response:
                raw = b"".join([piece async for piece in response.iter_bytes()])
            async with client.messages.stream(**asked) as stream:
                message = (await stream.get_final_message()).model_dump()
            return [raw, message, (await client.messages.create(**asked)).model_dump()]

    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        direct = await use(gateway.upstream.url)
        through = await use(gateway.address + "/anthropic")
        rows = await gateway.rows(3)

    assert through == direct
    assert [(row.format, row.stream, row.status) for row in rows] == [
        ("anthropic-messages", stream, "success") for stream in (True, True, False)
    ]
    assert {_content(row) for row in rows} == {ANSWER}


async def test_google_genai_sdk(tmp_path: Path) -> None:
    """google-genai gets the same chunks and the same whole answer, in its own loop and in a thread."""
    genai = pytest.importorskip("google.genai")

    async def use(base_url: str) -> list[Any]:
        client = genai.Client(api_key="AIza-test", http_options={"base_url": base_url, "api_version": "v1beta"})
        stream = await client.aio.models.generate_content_stream(model="gemini-2.5-flash", contents="Hi")
        chunks = [chunk.candidates[0].model_dump() async for chunk in stream]
        whole = await client.aio.models.generate_content(model="gemini-2.5-flash", contents="Hi")
        await client.aio.aclose()
        texts = await asyncio.to_thread(
            lambda: [c.text for c in client.models.generate_content_stream(model="gemini-2.5-flash", contents="Hi")]
        )
        return [chunks, whole.text, texts]

    async with rig(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        direct = await use(gateway.upstream.url)
        through = await use(gateway.address + "/gemini")
        rows = await gateway.rows(3)

    assert through == direct
    assert [(row.format, row.model, row.status) for row in rows] == [("gemini", "gemini-2.5-flash", "success")] * 3
    assert {_content(row) for row in rows} == {ANSWER}


async def test_error_events_of_responses(tmp_path: Path) -> None:
    """An error inside a Responses stream reaches the SDK as it was sent, and the row is an error."""

    async def use(base_url: str) -> Any:
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=base_url, max_retries=0) as client:
            try:
                return await responses(client)
            except openai.APIError as error:
                return str(error)

    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", "/v1/responses", Script(RESPONSE_ERROR))
        direct = await use(gateway.upstream.url + "/v1")
        through = await use(gateway.address + "/openai/v1")
        row = await gateway.row()

    assert through == direct
    assert (row.status, row.error_message) == ("error", "it broke")
