"""Which format an answer is folded in is told by its route and its content type; what nobody knows is kept as it is."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scripted import ask, decoded, rig
from streamfold.gateway.coding import DamagedError, decompressor
from streamfold.gateway.form import form_field
from streamfold.gateway.routes import format_of, is_readable_as, model_in
from streamfold.gateway.scripted import Script

JSON = [("content-type", "application/json")]

PATHS = [
    ("POST", "/v1/chat/completions", "openai-chat", None),
    ("POST", "/openai/deployments/my-gpt/chat/completions", "openai-chat", "my-gpt"),
    ("POST", "/openai/v1/chat/completions", "openai-chat", None),
    ("POST", "/v1/projects/p/locations/l/endpoints/openapi/chat/completions", "openai-chat", None),
    ("POST", "/v1/completions", "openai-completions", None),
    ("POST", "/v1/responses", "openai-responses", None),
    ("GET", "/v1/responses/resp_123", "openai-responses", None),
    ("POST", "/v1/responses/resp_123/cancel", "openai-responses", None),
    ("GET", "/v1/responses/resp_123/input_items", "passthrough", None),
    ("DELETE", "/v1/responses/resp_123", "passthrough", None),
    ("POST", "/v1/audio/speech", "openai-speech", None),
    ("POST", "/v1/audio/transcriptions", "openai-transcription", None),
    ("POST", "/v1/audio/translations", "openai-transcription", None),
    ("POST", "/v1/images/generations", "openai-images", None),
    ("POST", "/v1/images/edits", "openai-images", None),
    ("POST", "/openai/deployments/dalle/images/generations", "openai-images", "dalle"),
    ("POST", "/v1/messages", "anthropic-messages", None),
    ("POST", "/anthropic/v1/messages", "anthropic-messages", None),
    ("POST", "/v1/messages/count_tokens", "passthrough", None),
    (
        "POST",
        "/v1/projects/p/locations/l/publishers/anthropic/models/claude-sonnet-5:streamRawPredict",
        "anthropic-messages",
        "claude-sonnet-5",
    ),
    ("POST", "/v1beta/models/gemini-2.5-flash:streamGenerateContent", "gemini", "gemini-2.5-flash"),
    (
        "POST",
        "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:generateContent",
        "gemini",
        "gemini-2.5-pro",
    ),
    ("POST", "/v1beta/interactions", "gemini", None),
    ("POST", "/v1beta/models/text-embedding-004:embedContent", "passthrough", "text-embedding-004"),
    ("POST", "/model/amazon.nova-lite-v1%3A0/converse", "bedrock-converse", "amazon.nova-lite-v1:0"),
    ("POST", "/model/amazon.nova-lite-v1:0/converse-stream", "bedrock-converse", "amazon.nova-lite-v1:0"),
    ("POST", "/model/anthropic.claude/invoke", "bedrock-invoke", "anthropic.claude"),
    ("POST", "/model/anthropic.claude/invoke-with-response-stream", "bedrock-invoke", "anthropic.claude"),
    ("POST", "/v2/chat", "cohere", None),
    ("POST", "/v1/conversations", "mistral", None),
    ("POST", "/v1/conversations/conv_1", "mistral", None),
    ("POST", "/v1/fim/completions", "mistral", None),
    ("POST", "/api/chat", "ollama", None),
    ("POST", "/api/generate", "ollama", None),
    ("POST", "/v1/embeddings", "passthrough", None),
    ("GET", "/v1/models/gpt-4o", "passthrough", "gpt-4o"),
]


@pytest.mark.parametrize(("method", "path", "format", "model"), PATHS)
def test_path_tells_format_and_model(method: str, path: str, format: str, model: str | None) -> None:
    """Every spelling of an API that we can fold is known by its path."""
    assert (format_of(method, path), model_in(path)) == (format, model)


def test_provider_tells_the_dialect() -> None:
    """Mistral's chat is spelled as OpenAI's, with differences that need its name."""
    assert format_of("POST", "/v1/chat/completions", "mistral") == "mistral"


def test_content_type_may_break_the_promise() -> None:
    """A web page with status 200 is no chat; an error may come in any dress."""
    assert not is_readable_as("openai-chat", 200, "text/html; charset=utf-8")
    assert is_readable_as("openai-chat", 503, "text/html")
    assert is_readable_as("openai-speech", 200, "audio/mpeg")


def _event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _frame(name: str, payload: Any) -> bytes:
    """An AWS event-stream message."""
    headers = b""
    for key, value in ((":message-type", "event"), (":event-type", name), (":content-type", "application/json")):
        headers += bytes([len(key)]) + key.encode() + b"\x07" + len(value).to_bytes(2, "big") + value.encode()
    body = msgspec.json.encode(payload)
    prelude = (len(headers) + len(body) + 16).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    message = prelude + zlib.crc32(prelude).to_bytes(4, "big") + headers + body
    return message + zlib.crc32(message).to_bytes(4, "big")


SSE = [("content-type", "text/event-stream")]
AWS = [("content-type", "application/vnd.amazon.eventstream")]
SOUND = b"ID3\x04\x00\x00" + bytes(range(256)) * 4
BEDROCK = [
    _frame("messageStart", {"role": "assistant"}),
    _frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hi"}}),
    _frame("messageStop", {"stopReason": "end_turn"}),
    _frame("metadata", {"usage": {"inputTokens": 3, "outputTokens": 1, "totalTokens": 4}}),
]
INVOKED = [
    _frame("chunk", {"bytes": base64.b64encode(msgspec.json.encode(event)).decode()})
    for event in (
        {"type": "message_start", "message": {"role": "assistant", "content": [], "usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    )
]
COHERE = [
    _event({"type": "message-start", "id": "m", "delta": {"message": {"role": "assistant"}}}),
    _event({"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}}),
    _event({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hi"}}}}),
    _event({"type": "content-end", "index": 0}),
    _event({"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}),
]
MISTRAL = [
    _event({"type": "conversation.response.started", "conversation_id": "conv_1"}),
    _event({"type": "message.output.delta", "id": "m", "output_index": 0, "content_index": 0, "content": "Hi"}),
    _event({"type": "conversation.response.done", "usage": {"prompt_tokens": 3, "completion_tokens": 1}}),
]
OLLAMA = [
    b'{"model":"llama3","message":{"role":"assistant","content":"Hi"},"done":false}\n',
    b'{"model":"llama3","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}\n',
]

ANSWERS = [
    ("/model/m/converse-stream", Script(BEDROCK, headers=AWS), "bedrock-converse", "Hi"),
    ("/model/m/invoke-with-response-stream", Script(INVOKED, headers=AWS), "bedrock-invoke", "Hi"),
    ("/v2/chat", Script(COHERE, headers=SSE), "cohere", "Hi"),
    ("/v1/conversations", Script(MISTRAL, headers=SSE), "mistral", "Hi"),
    ("/api/chat", Script(OLLAMA, headers=[("content-type", "application/x-ndjson")]), "ollama", "Hi"),
]


@pytest.mark.parametrize(("path", "script", "format", "text"), ANSWERS, ids=[each[2] for each in ANSWERS])
async def test_stream_of_every_route(tmp_path: Path, path: str, script: Script, format: str, text: str) -> None:
    """Streams of the further APIs pass byte for byte, and their rows have the text."""
    async with rig(tmp_path, upstreams=["any"]) as gateway:
        gateway.upstream.route("POST", path, script)
        reply = await ask(gateway.address, "POST", "/any" + path, JSON, b'{"model":"m"}')
        row = await gateway.row()

    assert (reply.body, reply.whole) == (script.body, True)
    assert (row.format, row.status, row.stream, row.model) == (format, "success", True, "m")
    assert decoded(row)["output_message"]["content"] == text


async def test_bare_sound(tmp_path: Path) -> None:
    """Speech that comes as bare sound passes, and the row knows its type and size."""
    script = Script([SOUND[:100], SOUND[100:]], headers=[("content-type", "audio/mpeg")])
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", "/v1/audio/speech", script)
        body = b'{"model":"tts-1","voice":"alloy","input":"Hi"}'
        reply = await ask(gateway.address, "POST", "/openai/v1/audio/speech", JSON, body)
        row = await gateway.row()

    assert (reply.body, reply.whole) == (SOUND, True)
    assert (row.format, row.status, row.model) == ("openai-speech", "success", "tts-1")
    assert row.time_to_first_token_ms is not None
    assert decoded(row)["audio_output"]["format"] == "mp3"


UNKNOWN: list[tuple[str, bytes, str, str]] = [
    (
        "json",
        b'{"object":"list","data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":3,"total_tokens":3}}',
        JSON[0][1],
        "3",
    ),
    ("text", b"just words", "text/plain", "None"),
    ("binary", bytes(range(256)) * 8, "application/octet-stream", "None"),
]


@pytest.mark.parametrize(("body", "kind", "tokens"), [each[1:] for each in UNKNOWN], ids=[each[0] for each in UNKNOWN])
async def test_unknown_route_is_kept(tmp_path: Path, body: bytes, kind: str, tokens: str) -> None:
    """An answer of no known format is a passthrough: status, headers, body (bounded) and the usage it may say."""
    headers = [("content-type", kind), ("set-cookie", "session=very-secret-cookie")]
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", "/v1/embeddings", Script([body], headers=headers, framing="length"))
        reply = await ask(gateway.address, "POST", "/openai/v1/embeddings", JSON, b'{"model":"e"}')
        row = await gateway.row()

    assert (reply.body, reply.whole) == (body, True)
    assert (row.format, row.stream_type, row.status, row.model) == ("passthrough", "passthrough", "success", "e")
    record = decoded(row)
    said = record["response"]
    assert (said["status_code"], said["bytes"], said["headers"]["content-type"]) == (200, len(body), kind)
    assert "set-cookie" not in said["headers"]
    assert str((record["token_usage"] or {}).get("total_tokens")) == tokens


async def test_known_format_behind_an_unknown_route(tmp_path: Path) -> None:
    """A chat stream on a path that nobody knows is recognised by its frames."""
    script = Script(
        [_event({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Hi"}}]})]
    )
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", "/v9/talk", script)
        await ask(gateway.address, "POST", "/openai/v9/talk", JSON, b"{}")
        row = await gateway.row()

    assert (row.format, decoded(row)["output_message"]["content"]) == ("passthrough", "Hi")
    assert decoded(row)["response"]["format"] == "openai-chat"


async def test_web_page_instead_of_a_chat(tmp_path: Path) -> None:
    """A login page with status 200 on a chat route is kept as what it is."""
    page = Script([b"<html>log in</html>"], headers=[("content-type", "text/html")], framing="length")
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", "/v1/chat/completions", page)
        await ask(gateway.address, "POST", "/openai/v1/chat/completions", JSON, b'{"model":"m"}')
        row = await gateway.row()

    assert (row.format, row.status) == ("passthrough", "success")
    assert decoded(row)["response"]["body"] == "<html>log in</html>"


async def test_long_unknown_body_is_bounded_in_the_row(tmp_path: Path) -> None:
    """Of a download of 20 MB all goes to the client and 1 MiB at most into the record."""
    body = b"\x00\x01\x02\x03" * 5_000_000
    pieces = [body[at : at + 1_000_000] for at in range(0, len(body), 1_000_000)]
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("GET", "/v1/files/f/content", Script(pieces, headers=[("content-type", "a/b")]))
        reply = await ask(gateway.address, "GET", "/openai/v1/files/f/content")
        row = await gateway.row()

    assert zlib.crc32(reply.body) == zlib.crc32(body)
    assert row.response_bytes == len(body)
    assert len(row.record or "") < 4_000_000


async def test_multipart_upload_streams_through(tmp_path: Path) -> None:
    """A form with a large file goes up byte for byte, and the row knows its model."""
    head = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b\r\n'
    file = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    body = head + file + bytes(range(256)) * 20_000 + b"\r\n--b--\r\n"
    form = [("content-type", "multipart/form-data; boundary=b")]
    path = "/v1/audio/transcriptions"
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", path, Script([b'{"text":"Hello."}'], headers=JSON, framing="length"))
        await ask(gateway.address, "POST", "/openai" + path, form, body)
        row = await gateway.row()
        received = await gateway.upstream.received()

    assert received.body == body
    assert (row.format, row.model, row.request_bytes, row.status) == (
        "openai-transcription",
        "whisper-1",
        len(body),
        "success",
    )
    assert decoded(row)["transcription_output"]["text"] == "Hello."


@pytest.mark.parametrize(
    ("form", "found"),
    [
        (b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nw-1\r\n--b', "w-1"),
        (b'--b\r\nContent-Disposition: form-data; name="model"\r\nContent-Type: text/plain\r\n\r\nw-1\r\n--b', "w-1"),
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n\r\nx\r\n--b', None),
        (b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nw-1', None),
        (b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + b"w" * 500 + b"\r\n--b", None),
        (b"", None),
    ],
)
def test_form_field(form: bytes, found: str | None) -> None:
    """A short field is found if it is whole, and nothing else is taken for it."""
    assert form_field(form, "model") == found


def _brotli() -> Callable[[bytes], bytes]:
    compress: Callable[[bytes], bytes] = pytest.importorskip("brotli", reason="brotli is not installed").compress
    return compress


def _zstd() -> Callable[[bytes], bytes]:
    module = pytest.importorskip("zstandard", reason="zstandard is not installed")
    compress: Callable[[bytes], bytes] = module.ZstdCompressor().compress
    return compress


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize(("coding", "compressor"), [("br", _brotli), ("zstd", _zstd)])
def test_further_codings(coding: str, compressor: Callable[[], Callable[[bytes], bytes]], size: int) -> None:
    """br and zstd are read where their libraries are installed, cut anywhere, and a bomb comes in bounded pieces."""
    plain = b"data: hello\n\n" * 1000 + bytes(5_000_000)
    squeezed = compressor()(plain)
    read = decompressor(coding)
    assert read is not None
    pieces = [piece for at in range(0, len(squeezed), size) for piece in read(squeezed[at : at + size])]
    assert b"".join(pieces) == plain
    assert max(map(len, pieces)) < 3_000_000
    with pytest.raises(DamagedError):
        list(decompressor(coding)(b"this is no such thing" * 10))  # type: ignore[misc]
