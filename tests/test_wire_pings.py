"""Signs of life between the frames of a stream: whatever the API, they say nothing of the response."""

import pytest

import streamfold
from streamfold.testing import sse

CHOICE = {"index": 0, "finish_reason": "stop"}
STREAMS = {
    "openai-chat": [{"object": "chat.completion.chunk", "choices": [{**CHOICE, "delta": {"content": "High"}}]}],
    "openai-completions": [{"object": "text_completion", "choices": [{**CHOICE, "text": "High"}]}],
    "openai-responses": [
        {"type": "response.output_text.delta", "item_id": "m1", "output_index": 0, "content_index": 0, "delta": "High"},
        {"type": "response.completed", "response": {"id": "r1", "status": "completed"}},
    ],
    "openai-images": [{"type": "image_generation.completed", "b64_json": "AAAB"}],
    "openai-speech": [{"type": "speech.audio.delta", "audio": "AAE="}, {"type": "speech.audio.done"}],
    "openai-transcription": [
        {"type": "transcript.text.delta", "delta": "High"},
        {"type": "transcript.text.done", "text": "High"},
    ],
    "anthropic-messages": [
        {"type": "message_start", "message": {"id": "m1", "type": "message", "role": "assistant", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "High"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_stop"},
    ],
    "cohere": [
        {"type": "message-start", "id": "m1", "delta": {"message": {"role": "assistant"}}},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
    ],
    "gemini": [{"candidates": [{"content": {"role": "model", "parts": [{"text": "High"}]}, "finishReason": "STOP"}]}],
    "mistral": [{"object": "chat.completion.chunk", "choices": [{**CHOICE, "delta": {"content": "High"}}]}],
}


@pytest.mark.parametrize(
    ("name", "ping"),
    [
        (None, {"type": "ping"}),
        ("ping", {"type": "ping"}),
        ("ping", {"time": 12}),
        ("keepalive", {}),
        ("keepalive", {"type": "keepalive"}),
        (None, {"type": "heartbeat"}),
        (None, {"event": "ping"}),
    ],
)
@pytest.mark.parametrize("format", STREAMS)
def test_a_sign_of_life_leaves_no_trace(format, name, ping):
    """A ping before, between and after the frames of a stream changes neither its response nor its anomalies."""
    frames = [sse([each]) for each in STREAMS[format]]
    head = f"event: {name}\n".encode() if name else b""
    alive = head + sse([ping])
    quiet = streamfold.fold(b"".join(frames), format).data
    for named in (format, "auto" if format != "mistral" else format):
        data = streamfold.fold(alive + alive.join(frames) + alive, named).data
        assert (data.format, data.status, data.chunks) == (format, quiet.status, quiet.chunks)
        assert data.response == quiet.response
        assert data.integrity.anomalies == quiet.integrity.anomalies
