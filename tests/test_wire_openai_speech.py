"""Speech: pieces of base64 and bare audio bodies become the same sound."""

import base64
import json
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfold
from streamfold.testing import cuts, sse, stable
from streamfold.types import AccumulatedData
from streamfold.wire.openai_speech import OpenAISpeech, audio_format, begins_text

FIXTURES = Path(__file__).parent / "fixtures" / "openai-speech"

WAV = bytes.fromhex("524946462400000057415645666d74201000000001000100c05d000080bb0000020010006461746100000000")


def spoken(*pieces, **done):
    """A stream of these base64 pieces with its end."""
    return [{"type": "speech.audio.delta", "audio": piece} for piece in pieces] + [
        {"type": "speech.audio.done", **done}
    ]


def folded(*events):
    fold = OpenAISpeech()
    fold.add_all([msgspec.json.encode(event) for event in events], None)
    return fold


def viewed(fold):
    data = AccumulatedData()
    fold.view(fold.response() or {}, data)
    fold.finish_view(data)
    return data


def body_folded(pieces, headers=None):
    """A body as a stream feeds it: through the format's own framer."""
    fold, framer = OpenAISpeech(), OpenAISpeech.framer()
    if headers is not None:
        fold.note_http(200, headers)
    for piece in pieces:
        fold.add_all(*framer.feed(piece))
    fold.add_all(*framer.close())
    fold.end_of_body()
    return fold


def test_events_become_the_sound():
    """Padded pieces are decoded one by one, and the done event brings the usage and the end."""
    done = streamfold.fold((FIXTURES / "mp3.sse").read_bytes(), format="openai-speech")
    data = done.data
    assert (data.status, data.stream_type, data.chunks) == ("success", "audio.speech", 4)
    assert data.integrity.anomalies == []
    pieces = [json.loads(line[6:]).get("audio", "") for line in (FIXTURES / "mp3.sse").read_text().splitlines() if line]
    assert data.audio_output.data == b"".join(map(base64.b64decode, pieces))
    assert data.audio_output.format == "mp3"
    assert base64.b64decode(data.response["audio"]) == data.audio_output.data
    assert data.response["usage"] == {"input_tokens": 17, "output_tokens": 46, "total_tokens": 63}
    assert (data.token_usage.prompt_tokens, data.token_usage.completion_tokens) == (17, 46)
    assert done.to_response()["audio"] == data.response["audio"]
    assert done.to_response()["extra_fields"]["request_type"] == "speech"


@pytest.mark.parametrize("name", ["mp3.sse", "mistral.sse", "chunks.sse", "failed.sse"])
def test_cuts_do_not_matter(name):
    """The record of an event stream is the same however its bytes were cut."""
    body = (FIXTURES / name).read_bytes()
    records = [stable(streamfold.fold(pieces, format="openai-speech")) for pieces in cuts(body, random.Random(5))]
    assert all(record == records[0] for record in records)


def test_mistral_pieces():
    """Mistral says `audio_data`, and counts usage in its own words."""
    data = streamfold.fold((FIXTURES / "mistral.sse").read_bytes()).data
    assert data.format == "openai-speech"
    assert data.audio_output.data == bytes([0, 1, 0, 2, 0, 3, 0, 4, 0, 5])
    assert data.token_usage.prompt_tokens == 21
    assert data.token_usage.completion_tokens == 0


def test_nested_pieces_with_their_format():
    """sglang-omni nests the piece, says the format beside it, and finishes with a reason and `[DONE]`."""
    data = streamfold.fold((FIXTURES / "chunks.sse").read_bytes(), format="auto").data
    assert (data.format, data.status, data.finish_reason) == ("openai-speech", "success", "stop")
    assert data.audio_output.format == "wav"
    assert (data.response["id"], data.response["sample_rate"]) == ("speech-4c1d", 24000)
    assert data.audio_output.data.count(b"WAVEfmt ") == 2, "what was sent is kept"
    assert data.integrity.anomalies == ["repeated_wav_header"]
    assert data.token_usage.total_tokens == 40


def test_pieces_that_stand_in_data():
    """Some servers call the piece `data`, which counts in an event that says it is sound."""
    events = [{"type": "speech.audio.delta", "data": piece} for piece in ("AAEC", "AwQF")]
    data = streamfold.fold(sse([*events, {"type": "speech.audio.done"}]), format="auto").data
    assert (data.format, data.status, data.audio_output.data) == ("openai-speech", "success", bytes(range(6)))
    assert (data.response, data.integrity.anomalies) == ({"audio": "AAECAwQF"}, [])


def test_error_keeps_the_sound():
    """An error event ends the stream as an error; the sound that came before it stays."""
    data = streamfold.fold((FIXTURES / "failed.sse").read_bytes(), format="openai-speech").data
    assert data.status == "error"
    assert (data.error_details.code, data.error_details.status_code) == ("synthesis_failed", 500)
    assert data.audio_output.data.startswith(b"ID3")
    assert data.token_usage.source == "missing"


def test_end_without_its_marker():
    """Events that stop before the done event are a truncated stream, whatever they brought."""
    data = streamfold.fold(sse(spoken("AAEC")[:1]), format="openai-speech").data
    assert (data.status, data.audio_output.data) == ("truncated", b"\x00\x01\x02")


@pytest.mark.parametrize(
    ("pieces", "sound"),
    [
        (["AAE=", "AgM="], b"\0\1\2\3"),  # each a document of its own
        (["AAECAw=="], b"\0\1\2\3"),
        (["AAECAwQF", "BgcICQ=="], bytes(range(10))),  # stretches of one document, cut at quads
        (["AAECA", "wQFBgcICQ", "=="], bytes(range(10))),  # and cut anywhere
        (["A", "A", "E", "C"], b"\0\1\2"),
        (["AAE=AgM="], b"\0\1\2\3"),  # two documents in one piece
        (["AAE", "AgM="], b"\0\1\2\3"),  # a document whose padding was forgotten
        (["AAECAwQ"], b"\0\1\2\3\4"),
        (["-_-_"], b"\xfb\xff\xbf"),  # the other alphabet
        (["AAEC\r\nAwQF\n"], bytes(range(6))),  # MIME lines
        (["data:audio/mp3;base64,AAEC"], b"\0\1\2"),
        (["", "AAEC"], b"\0\1\2"),
    ],
)
def test_base64_in_all_its_spellings(pieces, sound):
    """Pieces are documents or stretches of one, padded or not, in either alphabet; they always give the bytes."""
    fold = folded(*spoken(*pieces))
    assert viewed(fold).audio_output.data == sound
    assert fold.anomalies == []


@pytest.mark.parametrize("piece", ["A", "!!!!", "AAE=A", "=", "ÄÄÄÄ", "\ud800AAA"])
def test_what_is_no_base64(piece):
    """A piece that spells no bytes is flagged, and the sound around it stays."""
    fold = OpenAISpeech()
    for event in spoken("AAEC", piece):
        fold.add_decoded(event)
    assert viewed(fold).audio_output.data[:3] == b"\0\1\2"
    assert "undecodable_audio" in fold.anomalies


@pytest.mark.parametrize(
    ("sound", "format"),
    [
        (b"ID3\x04\x00\x00\x00\x00\x00\x23TSSE" + bytes(40), "mp3"),
        (b"\xff\xf3\x64\xc4" + bytes(60), "mp3"),
        (WAV + bytes(40), "wav"),
        (b"fLaC\x00\x00\x00\x22" + bytes(60), "flac"),
        (b"OggS\x00\x02" + bytes(22) + b"\x01\x13OpusHead\x01" + bytes(40), "opus"),
        (b"\xff\xf1\x50\x80" + bytes(60), "aac"),
        (b"\x01\x00\xfe\xff\x02\x00" * 20, None),
        (bytes(100), None),
        (b"\xff\xff\x00\x00\xff\xff" * 10, None),
        (b"{\x01}\x02" * 30, None),
        (b"\xff", None),
    ],
)
def test_a_bare_body_is_sound(sound, format):
    """A body of audio, cut anywhere, is kept byte for byte, is named by its first bytes, and ends with its end."""
    for pieces in cuts(sound, random.Random(3)):
        fold = body_folded(pieces)
        data = viewed(fold)
        assert data.audio_output.data == sound
        assert data.audio_output.format == format
        assert (fold.finished, fold.ended, fold.has_end_marker, fold.chunks) == (True, False, False, 1)
        assert fold.anomalies == []


def test_http_names_the_format():
    """The content type of a bare body names its format, which raw PCM cannot do itself."""
    fold = body_folded([bytes(64)], {"Content-Type": "audio/pcm; rate=24000"})
    assert fold.response()["mime_type"] == "audio/pcm; rate=24000"
    assert viewed(fold).audio_output.format == "pcm"


def test_events_behind_the_framer_of_sound():
    """The framer that knows sound leaves text to its own framing, even when it comes byte by byte."""
    for pieces in cuts((FIXTURES / "mp3.sse").read_bytes(), random.Random(4)):
        fold = body_folded(pieces)
        assert fold.ended
        assert viewed(fold).audio_output.format == "mp3"
    short = body_folded([b"data: [DONE]\n\n"])
    assert (short.ended, short.chunks) == (True, 0)
    assert not body_folded([]).finished


@pytest.mark.parametrize(
    ("first", "text"),
    [
        (b"data: {}", True),
        (b': ping\n\ndata: {"a', True),
        (b'{"error": {"message": "\xc3\xa9\xe4\xb8', True),  # cut inside a character
        (b"RIFF", True),  # four bytes alone tell nothing; the framer waits for more
        (WAV[:32], False),
        (b"\xff\xfb\x90\x64", False),
        (b"\x7f", False),
    ],
)
def test_text_or_sound(first, text):
    """Text is UTF-8 without control characters, as far as the probe looks."""
    assert begins_text(first) is text


def test_the_sound_of_a_chunk_that_was_handed_over():
    """Bare audio may also come in chunks from a gateway that numbers them."""
    stream = streamfold.StreamAccumulator("openai-speech")
    pieces = [WAV[:40], WAV[40:] + b"\x01", b"{}", b"\x00[DONE]"]
    for index in (0, 2, 1, 3):
        stream.add(pieces[index], chunk_index=index)
    data = stream.finish().data
    assert data.audio_output.data == b"".join(pieces)
    assert (data.status, data.integrity.reordered) == ("success", 1)


def test_unstreamed_json():
    """A whole response in JSON (Mistral's unstreamed answer, or our own) reads as the stream does."""
    done = streamfold.read({"audio_data": "AAECAw=="}, format="openai-speech")
    assert (done.data.status, done.data.audio_output.data) == ("success", b"\0\1\2\3")
    again = streamfold.read(streamfold.fold((FIXTURES / "mp3.sse").read_bytes()).data.response, format="openai-speech")
    assert again.data.status == "success"
    assert again.data.token_usage.total_tokens == 63


@pytest.mark.parametrize(
    "event",
    [{"type": "speech.audio.marks", "at": 3}, {"hello": "world"}, {"type": "chat", "delta": "AAEC"}],
)
def test_unknown_events_are_kept(event):
    """What is no speech event is kept and flagged, and never taken for sound."""
    fold = folded(event, *spoken("AAEC"))
    assert fold.response()["unknown_events"] == [event]
    assert fold.anomalies == ["unknown_event"]
    assert viewed(fold).audio_output.data == b"\0\1\2"


def test_unknown_fields_are_kept():
    """Fields that nobody told us of are kept in the native response."""
    response = folded(*spoken("AAEC", model="tts-9", voice="coral")).response()
    assert (response["model"], response["voice"]) == ("tts-9", "coral")


def test_a_snapshot_disturbs_nothing():
    """The response may be asked for at any time, also while a stretch waits for its rest."""
    fold = OpenAISpeech()
    for event in spoken("AAECA", "wQF"):
        fold.response()
        fold.add_decoded(event)
    assert viewed(fold).audio_output.data == bytes(range(6))


def test_size_limit():
    """A stream over its limit keeps what it has, and still takes its end and usage."""
    body = sse(spoken(*["AAEC"] * 2000, usage={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}))
    data = streamfold.fold([body[:70], body[70:]], format="openai-speech", max_bytes=60).data
    assert data.status == "success"
    assert data.token_usage.total_tokens == 3
    assert "size_limit" in data.integrity.anomalies
    assert len(data.audio_output.data) < 6000


@pytest.mark.parametrize("shape", ["pieces", "bare"])
def test_long_sound(shape):
    """Long sound is whole, in pieces and as a bare body."""
    count = 10_000
    piece = base64.b64encode(bytes(range(250)) * 3).decode()
    payloads = [msgspec.json.encode({"type": "speech.audio.delta", "audio": piece})] * count
    if shape == "bare":
        payloads = [b"\xff\xf3" + bytes(748)] * count
    fold = OpenAISpeech()
    fold.add_all(payloads, None)
    assert len(viewed(fold).audio_output.data) == 750 * count


WORDS = "type object audio audio_data data delta usage error format mime_type finish_reason id model"
KEYS = st.sampled_from(WORDS.split())
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.sampled_from(["speech.audio.delta", "speech.audio.done", "AAE=", "AA", "A"])
)
ANY = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@given(st.lists(st.dictionaries(KEYS, ANY, max_size=5), max_size=5))
def test_any_object_folds(events):
    """No JSON object makes the fold or the view raise or changes under it, alone or after any other."""
    before = json.dumps(events)
    fold = OpenAISpeech()
    for event in events:
        OpenAISpeech.recognises(event, None)
        fold.add(json.dumps(event).encode())
        fold.add_decoded(event)
    response = fold.response()
    assert json.dumps(events) == before
    assert fold.response() == response
    assert "accumulator_error" not in fold.anomalies
    viewed(fold)
    for event in events:
        OpenAISpeech.view(event, AccumulatedData())


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_any_bytes_fold(body, marks):
    """No body makes the framer or the fold raise, and the answer does not depend on its cuts."""
    marks = sorted(min(mark, len(body)) for mark in marks)
    pieces = [body[start:end] for start, end in zip([0, *marks], [*marks, len(body)], strict=True)]
    cut, whole = body_folded(pieces), body_folded([body])
    assert cut.response() == whole.response()
    assert (cut.chunks, cut.ended, cut.malformed) == (whole.chunks, whole.ended, whole.malformed)
    audio_format(body)
