"""What a finished stream says: the records that plugins, the command line and the store read.

Every provider's stream ends as one `AccumulatedData`, whose JSON (`msgspec.json.encode(data)`) is the record of
the log. Three rules hold for each field: what the provider said, what we derived and what we estimated are labelled;
absent is not null is not `""` is not 0; nothing is invented. Durations are float milliseconds of a monotonic clock,
timestamps RFC 3339 in UTC, money US dollars. The records are values: nobody changes one after it was handed out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

__all__ = [
    "JSON",
    "AccumulatedData",
    "AudioOutput",
    "AudioStreamChunk",
    "CacheDebug",
    "ChatMessage",
    "ChatStreamChunk",
    "Choice",
    "CompletionTokensDetails",
    "Cost",
    "ErrorDetails",
    "FunctionCall",
    "ImageStreamChunk",
    "Integrity",
    "MessageAudio",
    "Outcome",
    "PassthroughOutput",
    "PromptTokensDetails",
    "ResponsesStreamChunk",
    "Status",
    "StreamChunk",
    "StreamType",
    "TokenUsage",
    "ToolCall",
    "TranscriptionStreamChunk",
]

JSON = dict[str, Any]
"""A decoded JSON object. Provider payloads are open-ended by nature, hence `Any`."""


class StreamType(StrEnum):
    """What a stream makes. The strings are those of the gateway this library re-creates, plus `passthrough`."""

    TEXT_COMPLETION = "text.completion"
    CHAT_COMPLETION = "chat.completion"
    RESPONSES = "responses"
    AUDIO_SPEECH = "audio.speech"
    AUDIO_TRANSCRIPTION = "audio.transcription"
    IMAGE_GENERATION = "image.generation"
    PASSTHROUGH = "passthrough"


class Outcome(StrEnum):
    """How a stream ended. Partial content is kept with every one of them."""

    SUCCESS = "success"
    """The protocol's own end was seen and nothing is missing (also when the model stopped at its length limit)."""
    ERROR = "error"
    """The provider reported a failure, before or inside the stream, or the caller reported one."""
    CANCELLED = "cancelled"
    """Our own caller went away before the end."""
    TRUNCATED = "truncated"
    """The bytes stopped before the end, or a numbered chunk never came."""
    TIMEOUT = "timeout"
    """The caller gave up waiting."""
    ABANDONED = "abandoned"
    """Nobody fed or finished the stream; the idle sweep or a shutdown ended it."""
    EMPTY = "empty"
    """Not a single frame arrived."""


Status = Literal["processing", "success", "error", "cancelled", "truncated", "timeout", "abandoned", "empty"]
"""An `Outcome`, or `processing` in a snapshot of a stream that is still live."""


class FunctionCall(msgspec.Struct):
    """The function part of a tool call. `arguments` is the raw string as sent, even when it is not valid JSON."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """One tool call of a message.

    `arguments_complete` says whether the argument text is a whole JSON document (an empty string counts: a tool
    without parameters). A cut-off call is kept as it came and flagged, never closed for the model.
    """

    index: int
    id: str | None = None
    type: str | None = None
    function: FunctionCall | None = None
    custom: JSON | None = None
    extra_content: JSON | None = None
    arguments_complete: bool = True


class MessageAudio(msgspec.Struct):
    """Spoken output of a chat message; `data` is base64."""

    id: str | None = None
    data: str | None = None
    transcript: str | None = None
    expires_at: int | None = None


class ChatMessage(msgspec.Struct):
    """The message of one choice, in OpenAI's words whatever the provider."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_details: list[JSON] | None = None
    audio: MessageAudio | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    annotations: list[JSON] | None = None
    images: list[JSON] | None = None


class Choice(msgspec.Struct):
    """One of n answers."""

    index: int
    message: ChatMessage
    finish_reason: str | None = None
    logprobs: JSON | None = None


class PromptTokensDetails(msgspec.Struct):
    """Parts of the prompt tokens. Cache reads and writes are included in `TokenUsage.prompt_tokens`."""

    cached_read_tokens: int | None = None
    cached_write_tokens: int | None = None
    cached_write_5m_tokens: int | None = None
    cached_write_1h_tokens: int | None = None
    text_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


class CompletionTokensDetails(msgspec.Struct):
    """Parts of the completion tokens. Reasoning is included in `TokenUsage.completion_tokens`."""

    reasoning_tokens: int | None = None
    text_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class TokenUsage(msgspec.Struct):
    """Token counts in one convention for every provider.

    `source` is `provider` when all three totals are the provider's own words (or plain sums of them that its format
    defines, such as Anthropic's separate cache counters), `derived` when a total had to be computed from parts the
    provider gave, `estimated` for a guess made from text, `missing` when nothing was said.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None
    server_tool_use: JSON | None = None
    seconds: float | None = None
    source: Literal["provider", "derived", "estimated", "missing"] = "missing"


class Cost(msgspec.Struct):
    """US dollars. `complete` is false when some priced part of the usage had no known rate."""

    total_cost: float
    input_cost: float | None = None
    output_cost: float | None = None
    additional_cost: float | None = None
    details: JSON | None = None
    source: Literal["provider", "catalog"] = "catalog"
    complete: bool = True


class ErrorDetails(msgspec.Struct):
    """The failure as the provider (or our caller) told it. `status_code` is an HTTP status where one is known."""

    type: str | None = None
    code: str | None = None
    message: str | None = None
    status_code: int | None = None
    param: str | None = None
    retryable: bool | None = None


class CacheDebug(msgspec.Struct):
    """What a semantic cache in front of the provider said about this answer."""

    cache_hit: bool | None = None
    cache_id: str | None = None
    hit_type: str | None = None
    provider_used: str | None = None
    model_used: str | None = None
    input_tokens: int | None = None
    threshold: float | None = None
    similarity: float | None = None


class AudioOutput(msgspec.Struct):
    """Speech as bytes (base64 in JSON)."""

    data: bytes | None = None
    format: str | None = None


class PassthroughOutput(msgspec.Struct):
    """A body of a format nobody told us, bounded; `truncated` says that more came than was kept."""

    status_code: int | None = None
    headers: dict[str, str] | None = None
    body: bytes | None = None
    truncated: bool = False


class Integrity(msgspec.Struct):
    """How far the stream kept to its format: nothing here is hidden by a good-looking answer.

    `missing` lists the chunk indexes that never came, `late` counts chunks that came after their gap was given up or
    after the end, `anomalies` are the codes of `docs/anomalies.md`, `dropped_bytes` counts bytes that no frame kept.
    """

    missing: list[int] = []
    duplicates: int = 0
    reordered: int = 0
    malformed: int = 0
    late: int = 0
    anomalies: list[str] = []
    dropped_bytes: int = 0
    end_marker: bool = False


class AccumulatedData(msgspec.Struct):
    """Everything known about one response, streamed or not."""

    request_id: str | None = None
    stream_type: StreamType = StreamType.CHAT_COMPLETION
    format: str | None = None
    provider: str | None = None
    model: str | None = None
    response_model: str | None = None
    stream: bool = True
    status: Status = "processing"

    output_message: ChatMessage | None = None
    choices: list[Choice] | None = None
    output_messages: list[JSON] | None = None
    tool_calls: list[ToolCall] | None = None
    arguments_complete: bool | None = None
    """False when some tool call's arguments are not a whole JSON document; null when there are no tool calls."""
    finish_reason: str | None = None
    raw_finish_reason: str | None = None

    token_usage: TokenUsage | None = None
    cost: Cost | None = None
    cost_reason: str | None = None
    estimated_usage: TokenUsage | None = None
    """A bounded guess for a stream that ended before its usage came (`source` is `estimated`); never priced as said."""

    latency_ms: float | None = None
    time_to_first_chunk_ms: float | None = None
    time_to_first_token_ms: float | None = None
    time_to_first_content_ms: float | None = None
    time_per_output_token_ms: float | None = None
    max_gap_ms: float | None = None
    chunks: int = 0
    start_timestamp: str | None = None
    end_timestamp: str | None = None

    error_details: ErrorDetails | None = None
    cache_debug: CacheDebug | None = None
    audio_output: AudioOutput | None = None
    transcription_output: JSON | None = None
    image_generation_output: JSON | None = None
    passthrough_output: PassthroughOutput | None = None
    logprobs: JSON | None = None
    service_tier: str | None = None
    response_id: str | None = None
    system_fingerprint: str | None = None

    response: JSON | None = None
    raw_response: str | None = None
    integrity: Integrity = msgspec.field(default_factory=Integrity)


class StreamChunk(msgspec.Struct):
    """One entry of a tape: what a single chunk brought, read on its own.

    `timestamp` is RFC 3339 UTC; `chunk_index` is null where the transport numbered nothing; `raw` is the payload.
    """

    timestamp: str | None = None
    finish_reason: str | None = None
    token_usage: TokenUsage | None = None
    cache_debug: CacheDebug | None = None
    cost: Cost | None = None
    error_details: ErrorDetails | None = None
    chunk_index: int | None = None
    raw: str | None = None


class ChatStreamChunk(StreamChunk):
    """A chunk of a chat or text completion, whatever the provider."""

    delta: ChatMessage | None = None
    logprobs: JSON | None = None
    service_tier: str | None = None


class ResponsesStreamChunk(StreamChunk):
    """A Responses API event."""

    stream_event: JSON | None = None


class AudioStreamChunk(StreamChunk):
    """A piece of speech."""

    delta: bytes | None = None


class TranscriptionStreamChunk(StreamChunk):
    """A transcription event."""

    delta: JSON | None = None


class ImageStreamChunk(StreamChunk):
    """A partial or completed image."""

    delta: JSON | None = None
    image_index: int | None = None
