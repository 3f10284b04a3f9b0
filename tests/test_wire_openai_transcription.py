"""Transcription: deltas, segments and the done event become the transcription of an unstreamed request."""

import json
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import Transcription, TranscriptionDiarized, TranscriptionVerbose

import streamfold
from streamfold.testing import cuts, fold_pieces, sse, stable
from streamfold.types import AccumulatedData
from streamfold.wire.openai_transcription import OpenAITranscription, transcription_usage

FIXTURES = Path(__file__).parent / "fixtures" / "openai-transcription"


def delta(text, **more):
    return {"type": "transcript.text.delta", "delta": text, **more}


def end(text, **more):
    return {"type": "transcript.text.done", "text": text, **more}


def folded(*events):
    fold = OpenAITranscription()
    fold.add_all([msgspec.json.encode(event) for event in events], None)
    return fold


def viewed(response):
    data = AccumulatedData()
    OpenAITranscription.view(response, data)
    return data


def test_text_logprobs_and_usage():
    """The whole is OpenAI's own `Transcription`: the text, one logprob for each token, the usage."""
    done = streamfold.fold((FIXTURES / "logprobs.sse").read_bytes(), format="openai-transcription")
    data = done.data
    assert (data.status, data.stream_type, data.integrity.anomalies) == ("success", "audio.transcription", [])
    whole = Transcription.model_validate(data.response)
    assert whole.text == "Good evening, Zürich"
    assert [each.token for each in whole.logprobs] == ["Good", " evening", ", Zürich"]
    assert whole.model_dump(exclude_unset=True) == data.response
    assert data.transcription_output == {"text": data.response["text"], "logprobs": data.response["logprobs"]}
    assert data.logprobs == {"content": data.response["logprobs"]}
    usage = data.token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.source) == (44, 7, 51, "provider")
    assert usage.prompt_tokens_details.audio_tokens == 40
    assert Transcription.model_validate(done.to_response()).usage.input_token_details.audio_tokens == 40


def test_diarized_segments():
    """Segments are listed as an unstreamed diarized response lists them."""
    data = streamfold.fold((FIXTURES / "diarized.sse").read_bytes(), format="openai-transcription").data
    shape = {"task": "transcribe", "duration": 2.05}
    assert TranscriptionDiarized.model_validate(data.response | shape).segments[1].speaker == "B"
    assert [segment["id"] for segment in data.transcription_output["segments"]] == ["seg_001", "seg_002"]
    assert data.response["text"] == "Is it you? It is."
    assert data.integrity.anomalies == []


def test_mistral_events():
    """Mistral's events fold to the same; its audio tokens, which it counts beside the prompt, are prompt tokens."""
    done = streamfold.fold((FIXTURES / "mistral.sse").read_bytes())
    data = done.data
    assert (data.format, data.status, data.response_model) == ("openai-transcription", "success", "voxtral-mini-2507")
    assert data.transcription_output["text"] == " Le chat dort."
    assert data.transcription_output["language"] == "fr"
    assert data.transcription_output["segments"] == [
        {"type": "transcription_segment", "text": " Le chat dort.", "start": 0.1, "end": 1.6, "speaker_id": None}
    ]
    usage = data.token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (379, 7, 386)
    assert (usage.seconds, usage.prompt_tokens_details.audio_tokens) == (2.0, 375)
    said = Transcription.model_validate(done.to_response()).usage
    assert (said.type, said.input_tokens, said.output_tokens) == ("tokens", 379, 7)


def test_chat_like_chunks():
    """vLLM's chunks fold into the same response, with their finish reason, and end with `[DONE]`."""
    data = streamfold.fold((FIXTURES / "vllm.sse").read_bytes(), format="openai-transcription").data
    assert (data.status, data.finish_reason, data.integrity.end_marker) == ("success", "stop", True)
    assert data.transcription_output == {"text": " One two three."}
    assert (data.response_id, data.response_model) == ("trsc-91", "openai/whisper-large-v3")
    assert data.token_usage.total_tokens == 110


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.sse")), ids=lambda path: path.stem)
def test_cuts_do_not_matter(path):
    """The record is the same however the bytes were cut."""
    body = path.read_bytes()
    records = [
        stable(fold_pieces(pieces, "openai-transcription")) for pieces in cuts(body, random.Random(5), bytewise=4096)
    ]
    assert all(record == records[0] for record in records)


@pytest.mark.parametrize(
    ("events", "text", "anomalies"),
    [
        ([delta("Hel"), delta("lo"), end("Hello")], "Hello", []),
        ([end("Hello")], "Hello", []),
        ([delta("Helo"), end("Hello")], "Hello", ["done_differs_from_deltas"]),
        ([delta("Hello"), end("")], "Hello", ["done_differs_from_deltas"]),
        ([delta("Hello"), end(None)], "Hello", []),
        ([delta("Hello"), {"type": "transcript.text.done"}], "Hello", []),
        ([end("")], "", []),
        ([end("Hello"), delta("!")], "Hello", ["delta_after_done"]),
        ([delta("a"), delta(7), delta(None), delta("b")], "ab", ["unexpected_shape"]),
        ([delta("a"), end({"no": "text"})], "a", ["unexpected_shape"]),
    ],
)
def test_done_is_believed(events, text, anomalies):
    """The done event's text is the transcript, unless it says none; where it differs from the deltas it is noted."""
    fold = folded(*events)
    assert fold.response()["text"] == text
    assert fold.anomalies == anomalies


def test_what_was_not_said_is_absent():
    """A stream without logprobs, segments or usage gets none, and null stays null."""
    assert folded(delta("a"), end("a")).response() == {"text": "a"}
    assert folded(end("a", logprobs=None)).response() == {"text": "a", "logprobs": None}
    assert folded(end("a", languages=[])).response() == {"text": "a", "languages": []}
    assert folded().response() is None
    usage = viewed({"text": "a"}).token_usage
    assert (usage.source, usage.prompt_tokens, usage.seconds) == ("missing", None, None)


def test_logprobs_without_those_of_done():
    """A stream that stops before its end has the logprobs of its deltas."""
    fold = folded(delta("a", logprobs=[{"token": "a"}]), delta("b", logprobs=[{"token": "b"}, {"token": "c"}]))
    assert [each["token"] for each in fold.response()["logprobs"]] == ["a", "b", "c"]
    assert not fold.ended


def test_words_and_languages():
    """Fields of the done event that the deltas know nothing of are part of the response and of the record."""
    done = end("Hi", languages=[{"code": "en"}], words=[{"word": "Hi", "start": 0, "end": 0.2}], duration=0.3)
    data = viewed(folded(delta("Hi"), done).response())
    assert data.transcription_output["languages"] == [{"code": "en"}]
    assert data.transcription_output["words"][0]["word"] == "Hi"
    assert data.transcription_output["duration"] == 0.3


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"type": "duration", "seconds": 3}, (None, None, None, 3.0, "provider")),
        ({"type": "duration", "seconds": 2.5}, (None, None, None, 2.5, "provider")),
        ({"type": "tokens", "input_tokens": 3, "output_tokens": 1, "total_tokens": 4}, (3, 1, 4, None, "provider")),
        ({"prompt_tokens": 3, "completion_tokens": 1}, (3, 1, 4, None, "derived")),
        (
            {
                "prompt_tokens": 3,
                "completion_tokens": 1,
                "total_tokens": 379,
                "prompt_audio_seconds": 1,
                "prompt_tokens_details": {"audio_tokens": 375},
            },
            (378, 1, 379, 1.0, "provider"),
        ),
        ({"type": "duration", "seconds": "3"}, (None, None, None, None, "missing")),
        (None, (None, None, None, None, "missing")),
        ([1], (None, None, None, None, "missing")),
    ],
)
def test_usage_of_tokens_or_seconds(usage, expected):
    """Usage is of tokens, of seconds, or of both; what was not said stays null."""
    found = transcription_usage(usage)
    counted = (found.prompt_tokens, found.completion_tokens, found.total_tokens)
    assert (*counted, found.seconds, found.source) == expected


def test_duration_in_openai_shape():
    """Usage in seconds stays usage in seconds."""
    done = streamfold.fold(sse([end("Hi", usage={"type": "duration", "seconds": 3})]), format="openai-transcription")
    assert Transcription.model_validate(done.to_response()).usage.seconds == 3


def test_error_keeps_the_text():
    """An error inside the stream keeps the text that came before it."""
    body = sse([delta("Half a"), {"type": "error", "error": {"message": "overloaded", "type": "server_error"}}])
    data = streamfold.fold(body, format="openai-transcription").data
    assert (data.status, data.error_details.status_code) == ("error", 500)
    assert data.transcription_output == {"text": "Half a"}


def test_a_stream_that_stops_is_truncated():
    """Without its end the stream is truncated, and has its text."""
    data = streamfold.fold(sse([delta("Half a")]), format="openai-transcription").data
    assert (data.status, data.transcription_output) == ("truncated", {"text": "Half a"})


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"text": "Hi", "usage": {"type": "duration", "seconds": 1}}, Transcription),
        (
            {
                "task": "transcribe",
                "language": "english",
                "duration": 0.5,
                "text": "Hi",
                "segments": [],
                "words": [{"word": "Hi", "start": 0.0, "end": 0.4}],
            },
            TranscriptionVerbose,
        ),
    ],
)
def test_unstreamed_responses(body, kind):
    """An unstreamed response reads as it is, through the same view."""
    data = streamfold.read(json.dumps(body).encode()).data
    assert (data.format, data.status, data.chunks) == ("openai-transcription", "success", 1)
    assert data.response == body
    assert kind.model_validate(data.response)
    assert data.transcription_output["text"] == "Hi"


def test_bare_objects_are_pieces():
    """Several bare objects are pieces of one transcript (faster-whisper-server), with their segments."""
    pieces = [{"text": " One", "segments": [{"id": 0}]}, {"text": " two", "segments": [{"id": 1}]}]
    fold = folded(*pieces)
    assert fold.response() == {"text": " One two", "segments": [{"id": 0}, {"id": 1}]}
    assert not fold.ended
    assert folded(pieces[0]).ended


def test_when_a_stretch_was_heard():
    """The times of a delta are of its stretch of the text, and no part of the response."""
    events = [delta("ni", start_time=0, end_time=320), delta("hao", start_time=320, end_time=760)]
    assert folded(*events, end("nihao")).response() == {"text": "nihao"}
    assert folded(*events).response() == {"text": "nihao"}


def test_unknown_events_are_kept():
    """What is no transcription event is kept and flagged."""
    fold = folded(delta("a"), {"type": "transcript.mood", "mood": "calm"}, {"type": "ping"}, end("a"))
    assert fold.response() == {"text": "a", "unknown_events": [{"type": "transcript.mood", "mood": "calm"}]}
    assert fold.anomalies == ["unknown_event"]
    assert fold.chunks == 3


def test_size_limit():
    """A stream over its limit keeps the text it has, and still takes its end and usage."""
    body = sse([delta("word ")] * 3000 + [end("word " * 3000, usage={"type": "duration", "seconds": 9})])
    data = streamfold.fold([body[:200], body[200:]], format="openai-transcription", max_bytes=150).data
    assert data.status == "success"
    assert data.token_usage.seconds == 9
    assert "size_limit" in data.integrity.anomalies
    assert len(data.transcription_output["text"]) < 15_000


CHUNK = {"object": "transcription.chunk", "choices": [{"delta": {"content": "x"}, "finish_reason": None}]}


@pytest.mark.parametrize(
    "event",
    [delta("x"), {"type": "transcription.text.delta", "text": "x"}, CHUNK, delta("x", segment_id="seg_1")],
    ids=["openai", "mistral", "vllm", "diarized"],
)
def test_repeating_frames_take_the_short_way(event):
    """A hundred thousand deltas of one character are folded without decoding each."""
    count = 100_000
    payloads = [msgspec.json.encode(event)] * count
    fold = OpenAITranscription()
    fold.add_all(payloads, None)
    assert fold.repeat.hits >= count - 2
    assert fold.chunks == count
    assert fold.response()["text"] == "x" * count


WORDS = (
    "type object text delta logprobs segments segment_id usage seconds language audio_language choices content error"
)
KEYS = st.sampled_from([*WORDS.split(), "finish_reason", "id", "model", "total_tokens", "prompt_tokens_details"])
KINDS = st.sampled_from(
    [
        "transcript.text.delta",
        "transcript.text.done",
        "transcript.text.segment",
        "transcription.text.delta",
        "transcription.language",
        "transcription.done",
        "transcription.segment",
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | KINDS
)
ANY = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@given(st.lists(st.dictionaries(KEYS, ANY, max_size=5), max_size=5))
def test_any_object_folds(events):
    """No JSON object makes the fold or the view raise or changes under it, alone or after any other."""
    before = json.dumps(events)
    fold = OpenAITranscription()
    for event in events:
        OpenAITranscription.recognises(event, None)
        fold.add(json.dumps(event).encode())
        fold.add_decoded(event)
    response = fold.response()
    assert json.dumps(events) == before
    assert fold.response() == response
    assert "accumulator_error" not in fold.anomalies
    viewed(response or {})
    for event in events:
        viewed(event)
