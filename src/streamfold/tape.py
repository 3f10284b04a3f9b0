"""The tape: the raw frames of a stream with their arrival times. Optional, bounded, and what replay reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from streamfold.types import (
    JSON,
    AccumulatedData,
    AudioStreamChunk,
    ChatStreamChunk,
    ImageStreamChunk,
    ResponsesStreamChunk,
    StreamChunk,
    StreamType,
    TranscriptionStreamChunk,
)
from streamfold.wire.fold import Fold, decode
from streamfold.wire.surrogates import without_surrogates

__all__ = ["LEAST", "Tape", "TapeEntry"]

LEAST: Final = 128
"""What a frame counts at least: about what keeping one takes beside its payload."""


class TapeEntry(msgspec.Struct, frozen=True, gc=False):
    """One frame: nanoseconds since the request was sent, its event name and index where it had them, its payload."""

    offset_ns: int
    payload: bytes
    name: str | None = None
    index: int | None = None


class Tape:
    """Keeps frames until `max_bytes` are kept; then counts what it could not keep."""

    __slots__ = ("_bytes", "_max_bytes", "dropped", "entries")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self.entries: list[TapeEntry] = []
        self.dropped = 0

    def record(
        self, payloads: Sequence[bytes], names: Sequence[str | None] | None, offset_ns: int, index: int | None = None
    ) -> None:
        """Keeps the frames of one read."""
        for place, payload in enumerate(payloads):
            self._bytes += max(len(payload), LEAST)
            if self._bytes > self._max_bytes:
                self.dropped += 1
                continue
            self.entries.append(TapeEntry(offset_ns, payload, names[place] if names else None, index))

    def as_json(self) -> str:
        """The payloads as one JSON array (what is not JSON, as a string); marked at its end if some are missing."""
        items = [_raw(entry.payload) for entry in self.entries]
        if self.dropped:
            items.append(
                msgspec.Raw(msgspec.json.encode({"streamfold": {"truncated": True, "dropped_frames": self.dropped}}))
            )
        return msgspec.json.encode(items).decode()

    def chunks(self, kind: type[Fold], started_at: float) -> Iterator[StreamChunk]:
        """Each frame read on its own, by the stream type's record."""
        for entry in self.entries:
            yield _chunk(entry, kind, started_at)


def _raw(payload: bytes) -> msgspec.Raw:
    try:
        payload.decode()  # JSON may hold halves of characters as bytes too, which no UTF-8 text can
        decode(payload)
    except (ValueError, RecursionError):
        return msgspec.Raw(msgspec.json.encode(payload.decode("utf-8", "replace")))
    return msgspec.Raw(payload)


def _chunk(entry: TapeEntry, kind: type[Fold], started_at: float) -> StreamChunk:
    alone = kind()
    alone.add(entry.payload, entry.name)
    data = AccumulatedData()
    response = alone.response()
    if response is not None:
        alone.view(without_surrogates(response), data)
    chunk = _typed(kind.stream_type, data, entry.payload)
    at = datetime.fromtimestamp(started_at + entry.offset_ns / 1e9, UTC)
    chunk.timestamp = at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    chunk.finish_reason = data.finish_reason
    if data.token_usage is not None and data.token_usage.source != "missing":
        chunk.token_usage = data.token_usage
    chunk.error_details = alone.error
    chunk.chunk_index = entry.index
    chunk.raw = entry.payload.decode("utf-8", "replace")
    return chunk


def _typed(stream_type: StreamType, data: AccumulatedData, payload: bytes) -> StreamChunk:
    """The record of the stream's type, with what only that type has."""
    if stream_type is StreamType.RESPONSES:
        return ResponsesStreamChunk(stream_event=_event(payload))
    if stream_type is StreamType.AUDIO_SPEECH:
        return AudioStreamChunk(delta=data.audio_output.data if data.audio_output is not None else None)
    if stream_type is StreamType.AUDIO_TRANSCRIPTION:
        return TranscriptionStreamChunk(delta=data.transcription_output)
    if stream_type is StreamType.IMAGE_GENERATION:
        return ImageStreamChunk(delta=data.image_generation_output)
    return ChatStreamChunk(delta=data.output_message, logprobs=data.logprobs, service_tier=data.service_tier)


def _event(payload: bytes) -> JSON | None:
    try:
        event = decode(payload)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None
