"""OpenAI speech (`/v1/audio/speech`): text in, sound out, as events or as the sound itself.

Source: `speech.audio.delta` and `speech.audio.done` of OpenAI's API reference (`stream_format: sse`), and the bare
audio body that `stream_format: audio` and every unstreamed request answer with.

Events carry the sound in base64. Each piece is decoded when it arrives, and the bytes are joined: pieces may be
documents of their own, each with its padding, so joining their text would be wrong. A piece without padding whose
length is no multiple of four is a stretch of a longer document; what is left over of it waits for the next piece.

A bare body has no frames. `AudioOrText` looks at its first bytes: text is taken for events, anything else is sound and
never looked at again. Every audio file begins with a header that no text has (a length, a sync word), and raw PCM
breaks UTF-8, or holds control characters, within the bytes looked at. Where the reads of a bare body were cut says
nothing about it, so it counts as one chunk.

The unstreamed API answers with bytes and no JSON, so the native response is ours: `{"audio": base64, "usage": ...}`,
with whatever else the events said. The dialects need no names: the piece stands in `audio`, in `audio.data`
(sglang-omni, with the format beside it), in `audio_data` (Mistral), in `delta` (the Realtime API, older vLLM) or in
`data` (VoxCPM).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from streamfold.framing import AutoFramer, Framer, Frames, Raw
from streamfold.growth import Fields, First, Identity, Merge, Record
from streamfold.types import JSON, AccumulatedData, AudioOutput, StreamType
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.openai_chat import finish_reason
from streamfold.wire.pings import is_ping
from streamfold.wire.usage import openai_usage

__all__ = ["AudioOrText", "OpenAISpeech", "audio_format", "begins_text"]

PROBE: Final = 32
"""Bytes that tell sound from text: the shortest that hold a control character of every audio header (WAV: 20)."""

ENDS: Final = frozenset({"speech.audio.done", "response.audio.done", "response.output_audio.done"})

NOT_OF_THE_RESPONSE: Final = frozenset(
    {"type", "object", "audio", "audio_data", "data", "delta", "error", "index"}
    | {"sequence_number", "event_id", "obfuscation"}
)
"""Fields of an event that are about the event, or are put into the response by other means."""

SPEECH = Record(id=Identity, created=First, model=Identity, usage=Merge)

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_DOCUMENT = re.compile("[^=]*=+|[^=]+")
_DATA_URL = re.compile(r"\Adata:[^,]*,")
_CLEAN = str.maketrans({"-": "+", "_": "/", "\n": None, "\r": None, " ": None, "\t": None})
"""The other base64 alphabet, and the white space that MIME allows."""


class OpenAISpeech(Fold):
    """Folds speech events, or a bare audio body, into the whole sound."""

    __slots__ = ("_audio", "_content_type", "_fields", "_left_over", "_raw")

    format: ClassVar[str] = "openai-speech"
    stream_type: ClassVar[StreamType] = StreamType.AUDIO_SPEECH

    def __init__(self) -> None:
        super().__init__()
        self._fields: Fields = SPEECH()
        self._audio: bytearray | None = None
        self._left_over = ""
        self._raw: bool | None = None
        self._content_type: str | None = None

    @classmethod
    def framer(cls) -> Framer:
        return AudioOrText()

    @property
    def has_end_marker(self) -> bool:  # type: ignore[override]  # told by the stream, not by the format
        return not self._raw

    def note_http(self, status_code: int | None, headers: Mapping[str, str] | None) -> None:
        for name, value in (headers or {}).items():
            if name.lower() == "content-type":
                self._content_type = value

    # ------------------------------------------------------------------ bare audio

    def add(self, payload: bytes, name: str | None = None) -> int:
        if self._raw is None and payload:
            self._raw = not begins_text(payload)
        if not self._raw:
            return super().add(payload, name)
        if not payload:
            return 0
        self.finished = True  # such a body has no end but its end
        self._chunks = 1
        if not self.full:
            self._grow(payload)
        return CHUNK | OUTPUT | CONTENT

    def _grow(self, sound: bytes) -> None:
        if self._audio is None:
            self._audio = bytearray()
        elif not self._raw and sound[:4] == b"RIFF" and sound[8:12] == b"WAVE":
            self.flag("repeated_wav_header")  # each piece is a file of its own; what was sent is kept
        self._audio += sound

    # ------------------------------------------------------------------ events

    def add_event(self, event: JSON, name: str | None = None) -> int:
        kind = _text(event.get("type")) or name
        if is_ping(event, name):
            return 0
        error = error_of(event, "error" if kind == "speech.audio.error" else name)
        if error is not None:
            self.error = error_details(error)
            self._fields.add({key: value for key, value in event.items() if key == "usage"})
            return CHUNK
        audio = _audio_of(event, kind)
        if kind in ENDS:
            self.ended = True
        elif audio is None and event.keys().isdisjoint(("usage", "finish_reason", "audio")):
            self.keep_unknown(event)
            return CHUNK
        if event.get("finish_reason"):
            self.finished = True
        self._fields.add({key: value for key, value in event.items() if key not in NOT_OF_THE_RESPONSE})
        if isinstance(event.get("audio"), dict):
            self._fields.add({key: value for key, value in event["audio"].items() if key != "data"})
        if audio is None:
            return CHUNK
        if kind is None and "object" not in event and isinstance(event.get("audio", event.get("audio_data")), str):
            # No event at all but a whole response, until a second one comes.
            self.ended = self._audio is None
        return self._add_piece(audio, event)

    def _add_piece(self, audio: Any, event: JSON) -> int:
        if not isinstance(audio, str):
            self.flag("unexpected_shape")
            self.keep_unknown(event)
            return CHUNK
        if not audio:
            return CHUNK
        if not self.full and not self._add_base64(audio):
            self.flag("undecodable_audio")
            self.keep_unknown(event)
            return CHUNK
        return CHUNK | OUTPUT | CONTENT

    def _add_base64(self, text: str) -> bool:
        """Appends the bytes that a piece spells. False, and nothing appended, if it spells none."""
        if not self._left_over:
            sound = _sound(text)
            if sound is not None:
                self._grow(sound)
                return True
        documents = _DOCUMENT.findall(_DATA_URL.sub("", text, count=1).translate(_CLEAN))
        left_over = self._left_over
        out = bytearray()
        for document in documents:
            read = _read_piece(left_over, document)
            if read is None:
                return False
            sound, left_over = read
            out += sound
        self._left_over = left_over
        self._grow(bytes(out))
        return bool(documents)

    # ------------------------------------------------------------------ reading

    def response(self) -> JSON | None:
        fields = self._fields.value()
        unknown = self.unknown_events
        if fields is None and self._audio is None and not unknown:
            return None
        out: JSON = {}
        if self._audio is not None:
            sound = self._audio + self._end_of_audio()
            out["audio"] = binascii.b2a_base64(sound, newline=False).decode("ascii")
        if self._raw and self._content_type is not None:
            out["mime_type"] = self._content_type
        return {**out, **(fields or {}), **unknown}

    def _end_of_audio(self) -> bytes:
        """What the last stretch left over, as if its padding had been forgotten."""
        if not self._left_over:
            return b""
        try:
            return _unpadded(self._left_over)
        except ValueError:
            self.flag("undecodable_audio")
            return b""

    def envelope(self) -> Fields:
        return self._fields

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        kind = _text(event.get("type")) or name or ""
        return kind.startswith("speech.audio.") or str(event.get("object")).startswith("audio.speech")

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        audio = response.get("audio", response.get("audio_data"))
        if isinstance(audio, str):
            sound = _sound(audio)
            data.audio_output = AudioOutput(data=sound, format=_format_said(response) or audio_format(sound or b""))
        data.raw_finish_reason = _text(response.get("finish_reason"))
        data.finish_reason = finish_reason(data.raw_finish_reason)
        data.response_model = _text(response.get("model"))
        data.response_id = _text(response.get("id"))
        data.token_usage = openai_usage(response.get("usage"))


def _audio_of(event: JSON, kind: str | None) -> Any:
    """The piece of sound in an event, wherever its dialect puts it; None if it has none."""
    for key in ("audio", "audio_data"):
        value = event.get(key)
        if isinstance(value, dict):
            value = value.get("data")
        if value is not None:
            return value
    # `delta` and `data` mean many things; here they count only where the event says what it is.
    return event.get("delta", event.get("data")) if kind is not None and kind.endswith("audio.delta") else None


def _read_piece(left_over: str, document: str) -> tuple[bytes, str] | None:
    """The bytes of one document, or stretch of one, after what an earlier stretch left over; and what it leaves."""
    whole = left_over + document
    end = len(whole) - len(whole) % 4
    padded = document.endswith("=")
    sound = _sound(whole[:end])
    if sound is not None and (end == len(whole) or not padded):
        return sound, whole[end:]
    try:
        if left_over:
            # Then the earlier one was a whole document without padding.
            alone = _read_piece("", document)
            return (_unpadded(left_over) + alone[0], alone[1]) if alone is not None else None
        return (_unpadded(document.rstrip("=")), "") if padded and len(document) > 1 else None
    except ValueError:
        return None


def _unpadded(text: str) -> bytes:
    """The bytes of a base64 document without its padding. Raises `ValueError` for what is none."""
    return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)


def _sound(audio: str) -> bytes | None:
    """The bytes of one base64 document, or None. The quickest decoder at hand, and a strict one."""
    try:
        return msgspec.convert(audio, bytes)
    except ValueError:
        return None


MIME_FORMATS: Final = {
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
    "audio/aac": "aac",
    "audio/opus": "opus",
    "audio/ogg": "opus",
    "audio/pcm": "pcm",
    "audio/l16": "pcm",
}


def _format_said(response: JSON) -> str | None:
    """The audio format that the provider named, in the words of the request parameter."""
    for key in ("format", "response_format"):
        if said := _text(response.get(key)):
            return said
    mime = _text(response.get("mime_type")) or ""
    return MIME_FORMATS.get(mime.partition(";")[0].strip().lower())


def audio_format(sound: bytes) -> str | None:
    """The format of audio that begins so, as its first bytes tell; None for raw PCM and what is not known here."""
    if sound.startswith(b"RIFF") and sound[8:12] == b"WAVE":
        return "wav"
    if sound.startswith(b"fLaC"):
        return "flac"
    if sound.startswith(b"OggS"):
        return "opus" if b"OpusHead" in sound[:64] else "ogg"
    if sound.startswith(b"ID3"):
        return "mp3"
    if len(sound) < 3 or sound[0] != 0xFF:
        return None
    if sound[1] in (0xF0, 0xF1, 0xF8, 0xF9):
        return "aac"
    # An MPEG layer III frame: its bit rate and sample rate must be possible ones, for PCM may begin with FF too.
    layer_three = sound[1] in (0xE2, 0xE3, 0xF2, 0xF3, 0xFA, 0xFB)
    return "mp3" if layer_three and 0x10 <= sound[2] < 0xF0 and sound[2] & 0x0C != 0x0C else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def begins_text(first: bytes) -> bool:
    """Whether a body that begins with these bytes is text: UTF-8 without control characters, as far as one looks."""
    head = first[:PROBE]
    if _CONTROL.search(head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"  # the probe cut a character
    return True


class AudioOrText:
    """The framer of a speech body: bytes as they come if it is sound, the framing of its text otherwise.

    Holds back no more than the first `PROBE` bytes. Errors: those of the framer it finds.
    """

    __slots__ = ("_held", "_inner")

    def __init__(self) -> None:
        self._held = b""
        self._inner: Framer | None = None

    def feed(self, data: bytes, /) -> Frames:
        """Takes bytes as read."""
        if self._inner is not None:
            return self._inner.feed(data)
        self._held += data
        return self._begin() if len(self._held) >= PROBE else ([], None)

    def close(self) -> Frames:
        """The body is over, perhaps before it had `PROBE` bytes."""
        payloads, names = self._begin() if self._inner is None else ([], None)
        assert self._inner is not None
        more, more_names = self._inner.close()
        if names is None and more_names is None:
            return payloads + more, None
        return payloads + more, (names or [None] * len(payloads)) + (more_names or [None] * len(more))

    def _begin(self) -> Frames:
        held, self._held = self._held, b""
        self._inner = AutoFramer() if begins_text(held) else Raw()
        return self._inner.feed(held)

    @property
    def pending(self) -> int:
        return len(self._held) if self._inner is None else self._inner.pending

    @property
    def malformed(self) -> int:
        return 0 if self._inner is None else self._inner.malformed

    @property
    def dropped_bytes(self) -> int:
        return 0 if self._inner is None else self._inner.dropped_bytes

    @property
    def anomalies(self) -> set[str]:
        return set() if self._inner is None else self._inner.anomalies
