"""OpenAI transcription (`/v1/audio/transcriptions`): sound in, text out, as events.

Source: `TranscriptionStreamEvent` and `Transcription` (plain, diarized, verbose) of OpenAI's API reference. Deltas
append; a segment (diarized) is appended to the list; `transcript.text.done` says the whole text again, and is believed
where it differs from the deltas, which is noted. A stream may consist of `done` alone.

So the whole is the `done` event without its `type`, completed from what came before it where it says nothing: the
joined deltas, their logprobs, the segments.

Three dialects: Mistral's events (`transcription.text.delta` has its text in `text`, the language an event of its own);
the chat-like chunks of vLLM (`transcription.chunk` with `choices`), which know no `done` but `[DONE]`; and bare objects
with a `text`, of which one is an unstreamed response and several are pieces (faster-whisper-server, one per segment).

Usage is counted in tokens or in seconds of audio. Mistral counts the tokens of the audio beside the prompt tokens,
as its total shows; here they are prompt tokens like any other.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from streamfold.growth import Extend, Fields, First, Identity, Latest, Merge, Model, Record, Text
from streamfold.types import JSON, AccumulatedData, PromptTokensDetails, StreamType, TokenUsage
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.openai_chat import finish_reason
from streamfold.wire.pings import is_ping
from streamfold.wire.usage import openai_usage

__all__ = ["OpenAITranscription", "transcription_usage"]

TEXT_OF_DELTA: Final = {"transcript.text.delta": "delta", "transcription.text.delta": "text"}
"""The delta events, and the field that holds their text."""

SEGMENTS: Final = frozenset({"transcript.text.segment", "transcription.segment"})
ENDS: Final = frozenset({"transcript.text.done", "transcription.done"})
CHUNKS: Final = ("transcription.chunk", "translation.chunk")

NOT_OF_THE_RESPONSE: Final = frozenset(
    {"type", "object", "error", "choices", "segment_id", "sequence_number", "obfuscation", "event_id"}
)
"""Fields of an event that are about the event, or are put into the response by other means."""

OF_A_DELTA: Final = frozenset({"logprobs", "start_time", "end_time"})
"""Fields of a delta that speak of its stretch of the text (StepFun says when it was heard)."""

TRANSCRIPT = Record(id=Identity, created=First, model=Model, language=Latest, usage=Merge)

OUTPUT_FIELDS: Final = ("text", "task", "language", "languages", "duration", "segments", "words", "logprobs")


class OpenAITranscription(Fold):
    """Folds transcription events into a `Transcription`."""

    __slots__ = ("_fields", "_logprobs", "_segments", "_text")

    format: ClassVar[str] = "openai-transcription"
    stream_type: ClassVar[StreamType] = StreamType.AUDIO_TRANSCRIPTION

    def __init__(self) -> None:
        super().__init__()
        self._fields: Fields = TRANSCRIPT()
        self._text = Text()
        self._logprobs = Extend()
        self._segments = Extend()

    # ------------------------------------------------------------------ events

    def add_event(self, event: JSON, name: str | None = None) -> int:
        kind = _word(event.get("type")) or name
        if is_ping(event, name):
            return 0
        error = error_of(event, name)
        if error is not None:
            self.error = error_details(error)
            self._fields.add({key: value for key, value in event.items() if key == "usage"})
            return CHUNK
        if kind in TEXT_OF_DELTA:
            return self._add_delta(event, TEXT_OF_DELTA[kind])
        if kind in SEGMENTS:
            return self._add_segment(event)
        if kind == "transcription.language":
            self._fields.add({"language": event.get("audio_language")})
            return CHUNK
        if isinstance(event.get("choices"), list):
            return self._add_chunk(event, event["choices"])
        if kind in ENDS:
            return self._add_done(event)
        if kind is None and "text" in event:
            return self._add_bare(event)
        self.keep_unknown(event)
        return CHUNK

    def _add_delta(self, event: JSON, key: str) -> int:
        if self.ended:
            self.flag("delta_after_done")
        logprobs = event.get("logprobs")
        if logprobs:
            self._logprobs.add(logprobs)
        self._fields.add(
            {k: v for k, v in event.items() if k != key and k not in NOT_OF_THE_RESPONSE and k not in OF_A_DELTA}
        )
        return self._add_text(event.get(key), None if logprobs else (key,))

    def _add_text(self, text: Any, path: tuple[str | int, ...] | None) -> int:
        """Appends text. `path` is where it stood in the frame, if the frame held nothing else that counts."""
        if text is None or text == "":
            return CHUNK
        if not isinstance(text, str):
            self.flag("unexpected_shape")
            return CHUNK
        self._text.add(text)
        if path is not None and not self.ended:
            self._plain = path, self._text
        return CHUNK | OUTPUT | CONTENT

    def _add_segment(self, event: JSON) -> int:
        segment = {key: value for key, value in event.items() if key not in ("sequence_number", "obfuscation")}
        if event.get("type") == "transcription.segment":
            segment["type"] = "transcription_segment"  # Mistral's name for it where it is no event
        self._segments.add((segment,))
        return CHUNK | OUTPUT | CONTENT if event.get("text") else CHUNK

    def _add_done(self, event: JSON) -> int:
        self.ended = True
        said = {key: value for key, value in event.items() if key not in NOT_OF_THE_RESPONSE}
        text = said.get("text")
        if text is not None and not isinstance(text, str):
            self.flag("unexpected_shape")
            del said["text"]
        elif self.full:
            said.pop("text", None)
        elif text is not None and self._text and self._text.value() != text:
            self.flag("done_differs_from_deltas")
        self._fields.add(said)
        # The text of a stream with deltas has been seen before.
        return CHUNK | OUTPUT | CONTENT if text and not self._text else CHUNK

    def _add_bare(self, event: JSON) -> int:
        # A whole response, until a second one comes.
        self.ended = not self._text
        said = {key: value for key, value in event.items() if key not in NOT_OF_THE_RESPONSE}
        text = said.pop("text")
        if isinstance(said.get("segments"), list):
            self._segments.add(said.pop("segments"))
        self._fields.add(said)
        if text == "":
            self._text.add(text)
        return self._add_text(text, None)

    def _add_chunk(self, event: JSON, choices: list[Any]) -> int:
        """A chat-like chunk, which has at most one choice."""
        self._fields.add({key: value for key, value in event.items() if key not in NOT_OF_THE_RESPONSE})
        choice = choices[0] if choices else {}
        if len(choices) > 1 or not isinstance(choice, dict):
            self.flag("unexpected_shape")
        if not isinstance(choice, dict):
            return CHUNK
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            self._logprobs.add(logprobs.get("content"))
        reason = choice.get("finish_reason")
        if reason:
            self.finished = True
            self._fields.add({"finish_reason": reason})
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return CHUNK
        alone = len(choices) == 1 and not logprobs and not reason
        return self._add_text(delta.get("content"), ("choices", 0, "delta", "content") if alone else None)

    # ------------------------------------------------------------------ reading

    def response(self) -> JSON | None:
        fields = self._fields.value() or {}
        grown = {"text": self._text.value(), "logprobs": self._logprobs.value(), "segments": self._segments.value()}
        for key, value in grown.items():
            if value is not None and not fields.get(key) and (value or key not in fields):
                fields[key] = value
        return {**fields, **self.unknown_events} or None

    def envelope(self) -> Fields:
        return self._fields

    def close(self) -> None:
        super().close()
        for cell in (self._text, self._logprobs, self._segments):
            cell.close()

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        kind = _word(event.get("type")) or name or ""
        if kind in TEXT_OF_DELTA or kind in SEGMENTS or kind in ENDS or kind == "transcription.language":
            return True
        if event.get("object") in CHUNKS:
            return True
        if kind or not isinstance(event.get("text"), str):
            return False
        usage = event.get("usage")
        counted = isinstance(usage, dict) and usage.get("type") in ("tokens", "duration")
        return counted or event.get("task") == "transcribe" or isinstance(event.get("segments"), list)

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        output: JSON = {key: response[key] for key in OUTPUT_FIELDS if key in response}
        data.transcription_output = output or None
        logprobs = response.get("logprobs")
        if isinstance(logprobs, list):
            data.logprobs = {"content": logprobs}
        data.raw_finish_reason = _word(response.get("finish_reason"))
        data.finish_reason = finish_reason(data.raw_finish_reason)
        data.response_model = _word(response.get("model"))
        data.response_id = _word(response.get("id"))
        data.token_usage = transcription_usage(response.get("usage"))


def transcription_usage(usage: Any) -> TokenUsage:
    """Usage in tokens, in seconds of audio, or in both."""
    counted = openai_usage(usage)
    if not isinstance(usage, dict):
        return counted
    counted.seconds = _seconds(usage.get("seconds"))
    if counted.seconds is None:
        counted.seconds = _seconds(usage.get("prompt_audio_seconds"))
    if counted.seconds is not None and counted.source == "missing":
        counted.source = "provider"
    details = counted.prompt_tokens_details or PromptTokensDetails()
    prompt, completion, total, audio = (
        counted.prompt_tokens,
        counted.completion_tokens,
        counted.total_tokens,
        details.audio_tokens,
    )
    if audio and None not in (prompt, completion, total) and prompt + completion + audio == total:  # type: ignore[operator]
        # The total shows that the audio was not counted into the prompt tokens.
        counted.prompt_tokens = total - completion  # type: ignore[operator]
    return counted


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
