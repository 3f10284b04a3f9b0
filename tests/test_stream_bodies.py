"""Bodies that are no frames, through the stream: bare audio, and what is only passed through."""

import random

import pytest

import streamfold
from streamfold.testing import cuts, fold_pieces, stable

HEADER = "524946462400000057415645666d74201000000001000100c05d000080bb0000020010006461746100000000"
WAV = bytes.fromhex(HEADER) + bytes(90)


@pytest.mark.parametrize("format", ["openai-speech", "passthrough"])
@pytest.mark.parametrize("body", [WAV, bytes(300), b"ID3\x04\x00\x00" + bytes(range(256)), b"RIFF"], ids=len)
def test_a_bare_body_is_kept_however_it_is_cut(format, body):
    """The record of a binary body does not depend on its cuts, and holds every byte."""
    if format == "openai-speech" and body == b"RIFF":
        return  # four letters are text
    records = [stable(fold_pieces(pieces, format)) for pieces in cuts(body, random.Random(1))]
    assert all(record == records[0] for record in records)
    assert (records[0]["status"], records[0]["chunks"]) == ("success", 1)
    data = streamfold.fold(body, format=format).data
    assert (data.audio_output or data.passthrough_output) is not None
    assert (data.audio_output.data if format == "openai-speech" else data.passthrough_output.body) == body
    assert (data.integrity.anomalies, data.integrity.dropped_bytes) == ([], 0)


def test_what_the_transport_saw_of_a_bare_body_counts():
    """A bare body has no end of its own, so a hang-up is a hang-up; its sound so far stays."""
    stream = streamfold.StreamAccumulator("openai-speech")
    stream.feed(WAV)
    data = stream.finish("cancelled").data
    assert (data.status, data.audio_output.data) == ("cancelled", WAV)
    assert data.time_to_first_content_ms is not None


def test_http_before_the_body():
    """The content type names the format of raw PCM; a status makes an error of a body that says nothing."""
    stream = streamfold.StreamAccumulator("openai-speech")
    stream.note_http(200, {"Content-Type": "audio/pcm"})
    stream.feed(bytes(64))
    assert stream.finish().data.audio_output.format == "pcm"
    stream = streamfold.StreamAccumulator("passthrough")
    stream.note_http(503, {"retry-after": "3"})
    stream.feed(b"busy")
    data = stream.finish().data
    assert (data.status, data.error_details.status_code, data.error_details.retryable) == ("error", 503, True)
    assert (data.passthrough_output.headers, data.passthrough_output.body) == ({"retry-after": "3"}, b"busy")


def test_http_before_the_format_is_known():
    """What HTTP said is not lost on a stream that has to recognise its format first."""
    stream = streamfold.StreamAccumulator("auto")
    stream.note_http(200, {"content-type": "text/event-stream"})
    stream.take_format("passthrough")
    stream.feed(b"data: hello\n\n")
    assert stream.finish().data.passthrough_output.status_code == 200


def test_a_whole_json_body_without_a_newline():
    """The end of the body shows that its one line was whole."""
    choices = b'[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]'
    body = b'{"id":"c","object":"chat.completion","choices":' + choices + b"}"
    data = streamfold.fold([body[:40], body[40:]], format="passthrough").data
    assert (data.status, data.output_message.content, data.chunks) == ("success", "Hi", 1)
