"""What the providers' own clients hand out folds as the wire did."""

import base64
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from streamfold import Accumulator, StreamAccumulator, StreamContext
from streamfold.testing import sse

BINARY = base64.b64encode(bytes(range(240, 256)) * 3).decode()  # has both characters that the URL's alphabet has not

GEMINI = [
    {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "Hm", "thought": True}]}, "index": 0}],
        "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
        "modelVersion": "gemini-3-pro",
        "responseId": "r",
    },
    {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {
                            "functionCall": {"name": "paint", "args": {"snake_key": {"camelKey": None}}},
                            "thoughtSignature": BINARY,
                        },
                        {"inlineData": {"mimeType": "image/png", "data": BINARY}},
                    ],
                },
                "index": 0,
            }
        ]
    },
    {
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": "Do"}]},
                "index": 0,
                "groundingMetadata": {"webSearchQueries": ["q"], "groundingChunks": [{"web": {"uri": "u"}}]},
            }
        ]
    },
    {
        "candidates": [
            {"content": {"role": "model", "parts": [{"text": "ne"}]}, "finishReason": "STOP", "index": 0},
        ],
        "usageMetadata": {
            "promptTokenCount": 4,
            "candidatesTokenCount": 5,
            "totalTokenCount": 9,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 4}],
        },
        "modelVersion": "gemini-3-pro",
        "responseId": "r",
    },
]

CHAT = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Low"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": " water"}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
]
CHAT = [{"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **chunk} for chunk in CHAT]


def folded(chunks, format):
    stream = StreamAccumulator(format)
    for chunk in chunks:
        stream.add(chunk)
    return stream.finish().data


@pytest.fixture
def served():
    """Serves one body to whoever asks, and says where."""
    servers = []

    def serve(body):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("set-cookie", "session=secret")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "spell",
    [
        lambda chunk: chunk,
        lambda chunk: chunk.model_dump(),
        lambda chunk: chunk.model_dump(mode="json"),
        lambda chunk: chunk.model_dump(exclude_none=True),
        lambda chunk: chunk.model_dump(mode="json", by_alias=True),
        lambda chunk: chunk.to_json_dict(),
        lambda chunk: chunk.model_dump_json(),
        lambda chunk: chunk.model_dump_json(exclude_unset=True).encode(),
    ],
    ids=["object", "dump", "json-dump", "without-none", "by-alias", "to_json_dict", "text", "bytes"],
)
@pytest.mark.parametrize("format", ["gemini", "auto"])
def test_gemini_chunks_in_every_spelling(spell, format):
    """A chunk of Google's client is the chunk that came, whichever way it is dumped: names, bytes, nulls, arguments."""
    types = pytest.importorskip("google.genai.types")
    chunks = [types.GenerateContentResponse.model_validate(chunk) for chunk in GEMINI]
    data = folded([spell(chunk) for chunk in chunks], format)
    assert data.response == folded(GEMINI, "gemini").response
    assert data.output_message.tool_calls[0].extra_content == {"google": {"thought_signature": BINARY}}


def test_gemini_fields_of_transcripts_and_tokens():
    """A transcript and the token to go on with are known in a dump that has no other name to tell it by."""
    types = pytest.importorskip("google.genai.types")
    heard = types.Part(audio_transcription=types.Transcription(text="Hm", language_code="en"))
    transcript = {"content": {"parts": [{"audioTranscription": {"text": "Hm", "languageCode": "en"}}]}}
    for candidate, said in (
        (types.Candidate(content=types.Content(parts=[heard])), transcript),
        (types.Candidate(continuation_token=b"\xfb\xff"), {"continuationToken": "+/8="}),
    ):
        chunk = types.GenerateContentResponse(candidates=[candidate])
        data = folded([chunk.model_dump(mode="json", exclude_none=True)], "gemini")
        assert data.response["candidates"] == [said]


def test_gemini_client(served):
    """From a real client's stream nothing of the client's own gets into the response, and no HTTP header."""
    genai = pytest.importorskip("google.genai")
    client = genai.Client(api_key="k", http_options={"base_url": served(sse(GEMINI))})
    data = folded(client.models.generate_content_stream(model="gemini-3-pro", contents="Hi"), "gemini")
    assert b"secret" not in msgspec.json.encode(data)
    assert data.response == folded(GEMINI, "gemini").response


@pytest.mark.parametrize("format", ["openai-chat", "auto"])
def test_openai_stream_helper(served, format):
    """The events of `chat.completions.stream()` hold each chunk once, and what the helper makes of it beside it."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(api_key="k", base_url=served(sse(CHAT)))
    with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "Hi"}]) as events:
        data = folded(events, format)
    wire = folded(CHAT, "openai-chat")
    assert (data.chunks, data.response) == (wire.chunks, wire.response)


def test_openai_parsed_objects_are_read_without_noise(served):
    """Objects that pydantic finds unusual are read in silence: a warning may be an error where the caller runs."""
    openai = pytest.importorskip("openai")
    part = {"type": "output_text", "text": "Hi", "annotations": []}
    item = {"id": "m1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    response = {"id": "r", "object": "response", "created_at": 1, "model": "m", "status": "in_progress", "output": []}
    events = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {
            "type": "response.content_part.added",
            "item_id": "m1",
            "output_index": 0,
            "content_index": 0,
            "part": {**part, "text": ""},
        },
        {"type": "response.output_text.delta", "item_id": "m1", "output_index": 0, "content_index": 0, "delta": "Hi"},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {**response, "status": "completed", "output": [item]}},
    ]
    numbered = [{**event, "sequence_number": place} for place, event in enumerate(events)]
    client = openai.OpenAI(api_key="k", base_url=served(sse(numbered)))
    with warnings.catch_warnings(), client.responses.stream(model="m", input="Hi") as stream:
        warnings.simplefilter("error")
        data = folded(stream, "openai-responses")
    assert (data.status, data.output_message.content, data.integrity.anomalies) == ("success", "Hi", [])


def test_client_objects_through_the_accumulator(served):
    """Two observers show the objects of a real client, in any order, and get one whole response."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(api_key="k", base_url=served(sse(CHAT)))
    chunks = list(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True))
    acc = Accumulator()
    acc.create_stream_accumulator("r", format="openai-chat")
    for index in (1, 0, 1, 0):
        acc.process_streaming_response(StreamContext(request_id="r", chunk_index=index), chunks[index])
    final = acc.process_streaming_response(StreamContext(request_id="r", chunk_index=2, stream_end=True), chunks[2])
    assert final.to_response()["choices"][0]["message"]["content"] == "Low water"
    assert (final.data.integrity.duplicates, final.data.integrity.missing) == (2, [])
