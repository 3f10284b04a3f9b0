"""What holds for every format alike, shown on every stream of tests/fixtures."""

import json
import random
from pathlib import Path

import msgspec
import pytest
from openai.types import Completion, ImagesResponse
from openai.types.audio import Transcription
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

import streamfold
from streamfold import StreamAccumulator, UsageError
from streamfold.framing import AutoFramer
from streamfold.testing import cuts, fold_pieces, shuffled, stable
from streamfold.wire import fold_class

pytestmark = pytest.mark.usefixtures("frame_reader")

FIXTURES = sorted(path for path in (Path(__file__).parent / "fixtures").glob("*/*") if path.is_file())
STREAMS = [path for path in FIXTURES if path.suffix != ".json"]


def name_of(path):
    return f"{path.parent.name}/{path.name}"


def fold_fixture(path):
    return streamfold.fold(path.read_bytes(), path.parent.name, model="as-asked")


def each_stream(*, without=(), complete=False, unfit=()):
    """Runs a test on every stream but those of some formats; only on complete ones if asked."""
    paths = [path for path in STREAMS if path.parent.name not in without and name_of(path) not in unfit]
    if complete:
        paths = [
            path for path in paths if streamfold.fold(path.read_bytes(), path.parent.name).data.status == "success"
        ]
    return pytest.mark.parametrize("path", paths, ids=name_of)


@each_stream()
def test_every_cut_gives_the_same_record(path):
    """Whole, byte by byte and cut at random, a stream has one record."""
    rng = random.Random(path.name)
    records = [stable(fold_pieces(pieces, path.parent.name)) for pieces in cuts(path.read_bytes(), rng)]
    assert all(record == records[0] for record in records)


def frames(body):
    """The frames of a body with their names."""
    framer = AutoFramer()
    payloads, names = framer.feed(body)
    more, more_names = framer.close()
    return list(
        zip(payloads + more, (names or [None] * len(payloads)) + (more_names or [None] * len(more)), strict=True)
    )


@each_stream(without=("passthrough", "openai-speech"))  # whose bodies may be no frames
def test_every_order_of_numbered_chunks_gives_the_same_response(path):
    """Frames that are handed over with their numbers may come in any order and more than once."""
    numbered = frames(path.read_bytes())
    in_order = StreamAccumulator(path.parent.name)
    for payload, name in numbered:
        in_order.add(payload, name=name)
    disordered = StreamAccumulator(path.parent.name)
    for index, (payload, name) in shuffled(numbered, random.Random(path.name), repeats=7):
        disordered.add(payload, chunk_index=index, name=name)
    data = disordered.finish().data
    assert data.response == in_order.finish().data.response
    assert (data.integrity.missing, data.integrity.duplicates) == ([], 7)


NOT_TOLD_APART = {"mistral": "openai-chat"}
"""Mistral's chat chunks are chunks of the chat API; nothing in them says whose they are."""


@each_stream(without=("bedrock-invoke", "passthrough"))  # which hold streams of other formats
def test_auto_names_the_format(path):
    """The first frames are enough to name the format, and nothing of them is lost."""
    format = path.parent.name
    done = streamfold.fold(path.read_bytes())
    assert done.format in (format, NOT_TOLD_APART.get(format))
    if done.format == format:
        assert stable(done) == stable(streamfold.fold(path.read_bytes(), format))


@pytest.mark.parametrize(
    ("event", "api"),
    [
        ({"type": "session.created", "session": {}}, "OpenAI's Realtime API"),
        ({"setupComplete": {}}, "Google's Live API"),
        ({"object": "thread.run", "id": "run_1"}, "OpenAI's Assistants API"),
    ],
)
def test_known_apis_that_are_no_formats_are_refused_by_name(event, api):
    """A stream of an API that is not folded here is not taken for one that is."""
    later = {"type": "response.created", "response": {"id": "r", "object": "realtime.response"}}
    body = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in (event, later))
    with pytest.raises(UsageError, match=f"this is a stream of {api}"):
        streamfold.fold(body)
    stream = StreamAccumulator()
    stream.feed(body)
    assert stream.finish().data.integrity.anomalies == ["foreign_api"]


@each_stream(without=("bedrock-invoke", "passthrough", "openai-speech"), complete=True)  # no one kind of JSON object
def test_the_native_response_reads_like_the_stream(path):
    """Read as an unstreamed body, the folded response gives the same answer: one code path for both."""
    format = path.parent.name
    done = streamfold.fold(path.read_bytes(), format)
    again = streamfold.read(msgspec.json.encode(done.data.response), format).data
    for field in (
        "output_message",
        "choices",
        "tool_calls",
        "finish_reason",
        "token_usage",
        "response_model",
        "status",
    ):
        assert getattr(again, field) == getattr(done.data, field) or field in ("tool_calls", "output_message"), field
    assert again.response == done.data.response
    assert again.stream is False


MODELS = {
    "chat.completion": ChatCompletion,
    "text.completion": Completion,
    "audio.transcription": Transcription,
    "responses": Response,
    "image.generation": ImagesResponse,
}
UNFIT = {
    "mistral/conversation.sse": "no event says a finish reason",
    "openai-completions/logprobs.sse": "an echoed first token has no logprob, which the model does not allow",
    "openai-images/several.sse": "the server's usage has no input tokens",
    "openai-responses/hosted_tools.sse": "an MCP call's error is text; the model wants an object",
}
"""Complete streams whose providers say less (or other things) than OpenAI's models ask for."""


@each_stream(without=("openai-speech", "passthrough"), complete=True, unfit=UNFIT)  # which have no JSON of OpenAI's
def test_the_whole_response_is_openais(path):
    """What to_response() makes of a complete stream is valid for the OpenAI SDK's own model of that kind."""
    done = fold_fixture(path)
    body = done.to_response()
    assert body.pop("extra_fields")["latency"] is not None
    if done.data.finish_reason is None and done.data.raw_finish_reason is not None:
        body["choices"][0]["finish_reason"] = "stop"  # the provider's word has no counterpart in the model
    MODELS[done.data.stream_type].model_validate(body)


def test_every_format_has_streams_and_a_fold():
    """No format is registered without a fold, a name of its own and streams to show it on."""
    for name in streamfold.format_names():
        assert fold_class(name).format == name
        assert any(path.parent.name == name for path in STREAMS), name
