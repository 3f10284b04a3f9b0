"""Passthrough: any body is kept, and one of a known format is folded as well."""

import gzip
import json
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfold
from streamfold.testing import cuts, sse
from streamfold.types import AccumulatedData, StreamType
from streamfold.wire.passthrough import MAX_BODY, MAX_FRAME, Passthrough

FIXTURES = Path(__file__).parent / "fixtures"
CHAT = (FIXTURES / "passthrough" / "chat.sse").read_bytes()


def body_folded(pieces, status=None, headers=None):
    """A body as a stream feeds it: through the format's own framer, up to its end."""
    fold, framer = Passthrough(), Passthrough.framer()
    if status is not None:
        fold.note_http(status, headers)
    for piece in pieces:
        fold.add_all(*framer.feed(piece))
    fold.add_all(*framer.close())
    fold.end_of_body()
    return fold


def viewed(fold):
    response = fold.response()
    data = AccumulatedData(stream_type=StreamType.PASSTHROUGH, response=response)
    fold.view(response or {}, data)
    fold.finish_view(data)
    return data


def test_a_known_format_in_disguise():
    """The body is kept byte for byte, and what its format says is read: message, finish reason, usage, model."""
    fold = body_folded([CHAT], 200, {"Content-Type": "text/event-stream"})
    response = fold.response()
    assert response["format"] == "openai-chat"
    assert response["response"] == streamfold.fold(CHAT, format="openai-chat").data.response
    data = viewed(fold)
    assert data.passthrough_output.body == CHAT
    assert data.passthrough_output.status_code == 200
    assert data.passthrough_output.headers == {"Content-Type": "text/event-stream"}
    assert not data.passthrough_output.truncated
    assert (data.output_message.content, data.finish_reason) == ("Hidden in here", "stop")
    assert (data.token_usage.total_tokens, data.response_model) == (8, "gpt-4.1-mini")
    assert data.stream_type is StreamType.PASSTHROUGH
    assert (fold.ended, fold.finished, fold.chunks, fold.error) == (True, True, 4, None)


@pytest.mark.parametrize(
    "path",
    sorted(path for path in FIXTURES.rglob("*") if path.is_file() and path.stat().st_size < 20_000),
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_cuts_do_not_matter(path):
    """Whatever the body is, the response, the ends and the codes are the same however the bytes were cut."""
    body = path.read_bytes()
    outcomes = []
    for pieces in cuts(body, random.Random(5), bytewise=2048):
        fold = body_folded(pieces)
        outcomes.append((fold.response(), fold.ended, fold.finished, fold.chunks, fold.malformed, fold.anomalies))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert viewed(fold).passthrough_output.body == body


def test_a_truncated_stream_in_disguise():
    """A stream of a known format that stops before its end has not ended, whatever passes it on."""
    fold = body_folded([CHAT[:400]])
    assert (fold.ended, fold.finished) == (False, False)
    assert viewed(fold).output_message.content.startswith("Hidden")


def test_unstreamed_json_of_a_known_format():
    """A whole JSON response without a newline at its end is recognised when the body is over."""
    body = json.dumps(streamfold.fold(CHAT, format="openai-chat").data.response).encode()
    fold = body_folded([body[:50], body[50:]])
    assert (fold.response()["format"], fold.ended) == ("openai-chat", True)
    assert viewed(fold).token_usage.total_tokens == 8


def test_usage_of_an_unknown_format():
    """A JSON body that no format claims may still say its usage."""
    fold = body_folded([(FIXTURES / "passthrough" / "embeddings.json").read_bytes()])
    assert "format" not in fold.response()
    usage = viewed(fold).token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (8, None, 8)
    assert (fold.finished, fold.ended, fold.has_end_marker) == (True, False, False)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ((FIXTURES / "passthrough" / "page.html").read_bytes(), True),
        (b"plain words", True),
        ("Zürich".encode(), True),
        (gzip.compress(b"packed", mtime=0), False),
        (bytes(range(256)) * 20, False),
        (b"\0" * 100, True),
        (b"{not json", True),
        (b'{"unknown": 1}\n' * 50, True),
        (b"\xff", False),
    ],
)
def test_any_body_is_kept(body, text):
    """A body of no known format is kept as text if it is text, as base64 otherwise, and its end is its end."""
    fold = body_folded([body[:7], body[7:]])
    response = fold.response()
    assert ("encoding" in response) is not text
    assert (response["bytes"], response["truncated"]) == (len(body), False)
    assert viewed(fold).passthrough_output.body == body
    assert (fold.finished, fold.ended, fold.chunks) == (True, False, 1)
    assert (fold.malformed, fold.anomalies) == (0, [])
    assert viewed(fold).token_usage.source == "missing"


def test_nothing_at_all():
    """A body without a byte is no chunk and no response; HTTP alone may still be told."""
    fold = body_folded([b""])
    assert (fold.chunks, fold.finished, fold.response()) == (0, False, None)
    fold = body_folded([], 204, {})
    assert fold.response() == {"status_code": 204, "headers": {}}
    assert viewed(fold).passthrough_output.body is None


def test_a_long_body_is_bounded():
    """No more than `MAX_BODY` bytes are kept, exactly so many, and the record says that there were more."""
    body = b"\x00\x01\x02\x03" * (MAX_BODY // 4 + 10)
    output = viewed(body_folded([body[:1000], body[1000:]])).passthrough_output
    assert (output.body, output.truncated) == (body[:MAX_BODY], True)


def test_reading_goes_on_beyond_the_bound():
    """The usage of a known format is read also when the body is longer than what is kept of it."""
    delta = {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": "x" * 1000}, "finish_reason": None}],
    }
    last = {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    body = sse([delta] * 1200 + [last], done=True)
    data = viewed(body_folded([body[at : at + 4096] for at in range(0, len(body), 4096)]))
    assert (data.passthrough_output.truncated, data.token_usage.total_tokens) == (True, 3)
    assert len(data.output_message.content) == 1_200_000


def test_an_endless_unknown_body_is_not_held():
    """A body that never completes a frame, or none that is known, fills no memory."""
    endless, unknown = Passthrough(), Passthrough()
    for _ in range(MAX_FRAME // (1 << 20) + 3):
        endless.add(b"data: " + b"x" * (1 << 20))
        unknown.add(b'data: {"a":"' + b"x" * (1 << 20) + b'"}\n\n')
    assert endless._framer is None or endless._framer.pending <= MAX_FRAME
    assert (unknown._framer, unknown._pending) == (None, [])
    assert endless.finished
    assert unknown.finished


def test_formats_are_looked_for_in_the_first_frames_only():
    """A format that shows itself late is not taken, wherever the reads were cut."""
    late = b'data: {"a": 1}\n\n' * 32 + CHAT
    early = b'data: {"a": 1}\n\n' * 31 + CHAT
    for cut in (0, 200, 480, 520):
        assert "format" not in body_folded([late[:cut], late[cut:]]).response()
        assert body_folded([early[:cut], early[cut:]]).response()["format"] == "openai-chat"


def test_size_limit():
    """A stream over its limit keeps what it has of the body, and says so."""
    fold = Passthrough()
    fold.add(CHAT[:300])
    fold.close()
    fold.add(CHAT[300:])
    fold.end_of_body()
    data = viewed(fold)
    assert (data.passthrough_output.body, data.passthrough_output.truncated) == (CHAT[:300], True)
    assert data.token_usage.total_tokens == 8


@pytest.mark.parametrize(
    ("status", "body", "message", "code"),
    [
        (
            429,
            b'{"error": {"message": "Slow down", "code": "rate_limit_exceeded"}}',
            "Slow down",
            "rate_limit_exceeded",
        ),
        (502, b"<html>Bad gateway</html>", None, None),
        (500, b"", None, None),
        (422, b'{"detail": "No such voice"}', "No such voice", None),
    ],
)
def test_errors_of_http(status, body, message, code):
    """A status of 400 and above is an error when the body is over, with what the body says of it."""
    fold = Passthrough()
    fold.note_http(status, {})
    fold.add(body)
    assert fold.error is None
    fold.end_of_body()
    assert (fold.error.status_code, fold.error.message, fold.error.code) == (status, message, code)


def test_an_error_inside_a_known_format():
    """An error event of a recognised stream is the error of the body."""
    body = CHAT[:400] + b'\n\ndata: {"error": {"message": "overloaded", "type": "server_error"}}\n\n'
    fold = body_folded([body], 200, {})
    assert (fold.error.message, fold.error.status_code) == ("overloaded", 500)


def test_frames_that_somebody_else_cut():
    """Decoded chunks are lines of the body."""
    stream = streamfold.StreamAccumulator("passthrough")
    for line in CHAT.decode().split("\n\n"):
        if line.startswith("data: {"):
            stream.add(json.loads(line[6:]))
    data = stream.finish().data
    assert (data.stream_type, data.status) == ("passthrough", "success")
    assert data.output_message.content == "Hidden in here"
    assert data.passthrough_output.body.count(b"\n") == 4


def test_the_response_that_passed_through():
    """`to_response` hands the body on as it is known: status, headers, text or base64, usage."""
    stream = streamfold.StreamAccumulator("passthrough", request_id="r1")
    stream.add({"object": "list", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}})
    response = stream.finish().to_response()
    assert response["usage"]["prompt_tokens"] == 8
    assert json.loads(response["body"])["object"] == "list"
    assert response["extra_fields"]["request_type"] == "passthrough"


def test_the_view_of_a_stored_response():
    """The view reads a stored native response of passthrough again, also one of a format that is not installed."""
    response = json.loads(json.dumps(body_folded([CHAT], 200, {}).response()))
    data = AccumulatedData()
    Passthrough.view(response, data)
    assert (data.output_message.content, data.passthrough_output.body) == ("Hidden in here", CHAT)
    Passthrough.view({**response, "format": "no-such-format"}, AccumulatedData())
    odd = AccumulatedData()
    Passthrough.view({"body": "!", "encoding": "base64", "headers": 3, "status_code": "x", "response": 1}, odd)
    assert odd.passthrough_output.body is None


def test_snapshots_disturb_nothing():
    """The response may be asked for after every piece."""
    fold = Passthrough()
    for at in range(0, len(CHAT), 50):
        fold.response()
        viewed(fold)
        fold.add(CHAT[at : at + 50])
    fold.end_of_body()
    assert fold.response() == body_folded([CHAT]).response()


def test_repeating_frames_take_the_short_way():
    """Of a format in disguise, too, frames that repeat are folded without decoding each."""
    count = 20_000
    event = {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
    }
    body = sse([event]) * count
    fold = body_folded([body[at : at + 8192] for at in range(0, len(body), 8192)])
    assert fold.chunks == count
    assert fold._inner.repeat.hits >= count - 2


WORDS = "type object choices delta content usage error data created id model text candidates"
KEYS = st.sampled_from(WORDS.split())
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["chat.completion", "error"])
ANY = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@given(st.lists(st.dictionaries(KEYS, ANY, max_size=5), max_size=5), st.sampled_from([None, 200, 500]))
def test_any_object_folds(events, status):
    """No JSON object makes the fold or the view raise or changes under it, alone or after any other."""
    before = json.dumps(events)
    fold = Passthrough()
    fold.note_http(status, None)
    for event in events:
        fold.add(msgspec.json.encode(event) + b"\n")
        fold.add_decoded(event)
    fold.end_of_body()
    response = fold.response()
    assert json.dumps(events) == before
    assert fold.response() == response
    assert "accumulator_error" not in fold.anomalies
    viewed(fold)
    for event in events:
        Passthrough.view(event, AccumulatedData())


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_any_bytes_fold(body, marks):
    """No body makes the fold raise, and the answer does not depend on its cuts."""
    marks = sorted(min(mark, len(body)) for mark in marks)
    pieces = [body[start:end] for start, end in zip([0, *marks], [*marks, len(body)], strict=True)]
    cut, whole = body_folded(pieces), body_folded([body])
    assert (cut.response(), cut.anomalies) == (whole.response(), whole.anomalies)
    assert (viewed(cut).passthrough_output.body or b"") == body


def test_a_format_is_found_in_frames_that_run_together():
    """A known format is recognised where its events end with one newline, or stand in a list inside an event."""
    one = b'{"candidates":[{"content":{"role":"model","parts":[{"text":"a"}]}}]}'
    two = b'{"candidates":[{"content":{"role":"model","parts":[{"text":"b"}]},"finishReason":"STOP"}]}'
    for body in (b"data: " + one + b"\ndata: " + two + b"\n\n", b"data: [" + one + b"," + two + b"]\n\n"):
        data = streamfold.fold(body, format="passthrough").data
        assert (data.status, data.output_message.content, data.response["format"]) == ("success", "ab", "gemini")
        assert data.passthrough_output.body == body
