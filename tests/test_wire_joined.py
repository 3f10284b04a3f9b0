"""Several JSON documents in one frame: each is folded, nothing is guessed."""

import json

import pytest

import streamfold
from streamfold import StreamAccumulator, WireError
from streamfold.wire.joined import DONE, documents


def chunk(text=None, finish=None):
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}).encode()


A, B, C = chunk("a } data: {"), chunk("b"), chunk(finish="stop")


@pytest.mark.parametrize(
    "body",
    [
        b"data: " + A + b"\ndata: " + B + b"\ndata: " + C + b"\ndata: [DONE]\n",
        b"data: " + A + b"\ndata: " + B + b"\n\ndata: " + C + b"\ndata: [DONE]\n\n",
        b"event: x\ndata: " + A + b"\nevent: x\ndata: " + B + b"\n\ndata: " + C + b"\n\ndata: [DONE]\n\n",
        b"data: " + A + b"data: " + B + b"data: " + C + b"\n\ndata: [DONE]\n\n",
        b"data: data: " + A + b"\n\ndata: data: " + B + b"\n\ndata: data: " + C + b"\n\ndata: data: [DONE]\n\n",
        A + B + C + b"\n[DONE]",
        A + B + C + b"[DONE]",
        b"[" + A + b"," + B + b"," + C + b"][DONE]",
        b"data: " + A + b"\n\ndata: " + B + b"\n\ndata: " + C + b"[DONE]\n\n",
        b"data: " + A + b"\n\ndata: " + B + b"\n\ndata: " + C + b"[DONE]",
        A + b"," + B + b"\n" + C + b"\n[DONE]",
        A + b"\n,\n" + B + b"\n,\n" + C + b"\n[DONE]\n",
    ],
)
@pytest.mark.parametrize("format", ["openai-chat", "auto"])
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_each_document_is_folded(body, format, step):
    """Events that end with one newline, or with none, are told apart by their JSON, however the bytes were cut."""
    data = streamfold.fold([body[at : at + step] for at in range(0, len(body), step)], format=format).data
    assert (data.status, data.output_message.content, data.finish_reason) == ("success", "a } data: {b", "stop")
    assert (data.chunks, data.integrity.malformed, data.integrity.end_marker) == (3, 0, True)


def test_it_is_flagged():
    """A frame that had to be taken apart leaves its code; one that had not leaves none."""
    assert "joined_events" in streamfold.fold(A + B, format="openai-chat").data.integrity.anomalies
    assert "joined_events" not in streamfold.fold(A + b"\n" + B, format="openai-chat").data.integrity.anomalies


@pytest.mark.parametrize("rest", [B[:-10], b"oops", b"5", b"[1]", b'"x"', b"\xff"])
def test_what_is_no_document_is_malformed(rest):
    """What comes before the broken place is kept, and the broken place is counted."""
    data = streamfold.fold(b"data: " + A + b"\ndata: " + rest + b"\n\n", format="openai-chat").data
    assert data.integrity.malformed == 1
    assert "malformed_json" in data.integrity.anomalies
    if rest != b"\xff":  # which makes the frame no text at all
        assert data.output_message.content == "a } data: {"


def test_strict_says_so():
    """A strict stream is strict about this too."""
    stream = StreamAccumulator("openai-chat", strict=True)
    with pytest.raises(WireError):
        stream.feed(b"data: " + A + b"\ndata: " + B + b"\n\n")


def test_auto_counts_what_it_could_not_read_before_the_format_was_known():
    """A broken first frame does not vanish because nobody knew yet whose it was."""
    data = streamfold.fold(b"data: {broken\n\ndata: " + B + b"\n\ndata: [DONE]\n\n").data
    assert (data.format, data.output_message.content, data.integrity.malformed) == ("openai-chat", "b", 1)


@pytest.mark.parametrize(
    ("payload", "found", "rest"),
    [
        (b"", [], b""),
        (b" , \n", [], b""),
        (b"data:", [], b""),
        (b'{"a":1}{"b":2}', [{"a": 1}, {"b": 2}], b""),
        (b'{"a":1}\n[DONE]', [{"a": 1}, DONE], b""),
        (b"[DONE][DONE]", [DONE, DONE], b""),
        (b'{"a":1} tail {"b":2}', [{"a": 1}], b'tail {"b":2}'),
        (b"[" * 100_000, [], b"[" * 100_000),
    ],
)
def test_documents(payload, found, rest):
    """Objects in a row are found, up to the first thing that is none."""
    assert documents(payload) == (found, rest)
