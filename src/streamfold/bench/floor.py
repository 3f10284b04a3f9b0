"""The floor: what reading every field costs the fastest way that Python has.

Each payload is decoded by a ready-made msgspec decoder into Structs that declare every field, without garbage
collection and with tuples for lists. Nothing that reads all of a stream can be quicker; what we cost is told as a
multiple of it. `fold` then puts the Structs together by hand, the least that any accumulator has to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from streamfold.bench.workloads import Answer

__all__ = ["FLOORS", "Floor"]


class Plain(msgspec.Struct, gc=False):
    """A record that the garbage collector need not know of."""


# OpenAI chat completions


class Function(Plain):
    name: str | None = None
    arguments: str | None = None


class Call(Plain):
    index: int
    id: str | None = None
    type: str | None = None
    function: Function | None = None


class Delta(Plain):
    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[Call, ...] | None = None


class Logprob(Plain):
    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None


class Logprobs(Plain):
    content: tuple[Logprob, ...] | None = None
    refusal: tuple[Logprob, ...] | None = None


class ChatChoice(Plain):
    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class TokenDetails(Plain):
    cached_tokens: int = 0
    audio_tokens: int = 0
    reasoning_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class ChatUsage(Plain):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None


class ChatChunk(Plain):
    id: str
    object: str
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    service_tier: str | None = None
    system_fingerprint: str | None = None
    usage: ChatUsage | None = None
    obfuscation: str | None = None


# OpenAI Responses


class OutputText(Plain, tag="output_text"):
    text: str
    annotations: tuple[dict[str, Any], ...] = ()
    logprobs: tuple[Logprob, ...] = ()


class OutputItem(Plain, tag="message"):
    id: str
    status: str
    role: str
    content: tuple[OutputText, ...]


class ResponseUsage(Plain):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: TokenDetails | None = None
    output_tokens_details: TokenDetails | None = None


class Response(Plain):
    id: str
    object: str
    created_at: int
    status: str
    model: str
    output: tuple[OutputItem, ...]
    background: bool = False
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, Any] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    reasoning: dict[str, str | None] | None = None
    service_tier: str | None = None
    store: bool = True
    temperature: float | None = None
    text: dict[str, Any] | None = None
    tool_choice: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    top_p: float | None = None
    truncation: str | None = None
    usage: ResponseUsage | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None


class ResponseCreated(Plain, tag="response.created"):
    response: Response
    sequence_number: int


class ResponseInProgress(Plain, tag="response.in_progress"):
    response: Response
    sequence_number: int


class ResponseCompleted(Plain, tag="response.completed"):
    response: Response
    sequence_number: int


class ItemAdded(Plain, tag="response.output_item.added"):
    output_index: int
    item: OutputItem
    sequence_number: int


class ItemDone(Plain, tag="response.output_item.done"):
    output_index: int
    item: OutputItem
    sequence_number: int


class PartAdded(Plain, tag="response.content_part.added"):
    item_id: str
    output_index: int
    content_index: int
    part: OutputText
    sequence_number: int


class PartDone(Plain, tag="response.content_part.done"):
    item_id: str
    output_index: int
    content_index: int
    part: OutputText
    sequence_number: int


class TextDelta(Plain, tag="response.output_text.delta"):
    item_id: str
    output_index: int
    content_index: int
    delta: str
    sequence_number: int
    logprobs: tuple[Logprob, ...] = ()
    obfuscation: str | None = None


class TextDone(Plain, tag="response.output_text.done"):
    item_id: str
    output_index: int
    content_index: int
    text: str
    sequence_number: int
    logprobs: tuple[Logprob, ...] = ()


ResponseEvent = (
    ResponseCreated
    | ResponseInProgress
    | ResponseCompleted
    | ItemAdded
    | ItemDone
    | PartAdded
    | PartDone
    | TextDelta
    | TextDone
)

# Anthropic messages


class MessageUsage(Plain):
    output_tokens: int
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class Message(Plain, tag="message"):
    id: str
    role: str
    model: str
    content: tuple[dict[str, Any], ...]
    usage: MessageUsage
    stop_reason: str | None = None
    stop_sequence: str | None = None


class ThinkingBlock(Plain, tag="thinking"):
    thinking: str
    signature: str


class TextBlock(Plain, tag="text"):
    text: str


class ToolBlock(Plain, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class ThinkingPiece(Plain, tag="thinking_delta"):
    thinking: str


class SignaturePiece(Plain, tag="signature_delta"):
    signature: str


class TextPiece(Plain, tag="text_delta"):
    text: str


class InputPiece(Plain, tag="input_json_delta"):
    partial_json: str


class MessageStart(Plain, tag="message_start"):
    message: Message


class BlockStart(Plain, tag="content_block_start"):
    index: int
    content_block: ThinkingBlock | TextBlock | ToolBlock


class BlockDelta(Plain, tag="content_block_delta"):
    index: int
    delta: ThinkingPiece | SignaturePiece | TextPiece | InputPiece


class BlockStop(Plain, tag="content_block_stop"):
    index: int


class Ending(Plain):
    stop_reason: str | None = None
    stop_sequence: str | None = None


class MessageDelta(Plain, tag="message_delta"):
    delta: Ending
    usage: MessageUsage


class MessageStop(Plain, tag="message_stop"):
    pass


class Ping(Plain, tag="ping"):
    pass


MessageEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping


# The least that a fold has to do


def _read_arguments(parts: Iterable[list[str]]) -> tuple[Any, ...]:
    return tuple(msgspec.json.decode("".join(part)) for part in parts)


def fold_chat(chunks: Iterable[ChatChunk]) -> Answer:
    text: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            delta = choice.delta
            if delta.content:
                text.append(delta.content)
            if delta.reasoning:
                reasoning.append(delta.reasoning)
            for call in delta.tool_calls or ():
                if call.function is not None and call.function.arguments:
                    calls.setdefault(call.index, []).append(call.function.arguments)
    return Answer("".join(text), "".join(reasoning), _read_arguments(calls.values()))


def fold_responses(events: Iterable[Any]) -> Answer:
    text = [event.delta for event in events if type(event) is TextDelta]
    return Answer("".join(text), "", ())


def fold_messages(events: Iterable[Any]) -> Answer:
    text: list[str] = []
    thoughts: list[str] = []
    calls: dict[int, list[str]] = {}
    for event in events:
        if type(event) is not BlockDelta:
            continue
        delta = event.delta
        if type(delta) is TextPiece:
            text.append(delta.text)
        elif type(delta) is ThinkingPiece:
            thoughts.append(delta.thinking)
        elif type(delta) is InputPiece:
            calls.setdefault(event.index, []).append(delta.partial_json)
    return Answer("".join(text), "".join(thoughts), _read_arguments(calls.values()))


class Floor(NamedTuple):
    """How one format is read at the floor."""

    decode: Callable[[bytes], Any]
    fold: Callable[[Iterable[Any]], Answer]

    def read(self, payloads: list[bytes]) -> None:
        """Decodes every payload. Each result is let go at once, which is the cheapest a reader can be."""
        decode = self.decode
        for payload in payloads:
            decode(payload)

    def answer(self, payloads: list[bytes]) -> Answer:
        """Decodes and folds."""
        return self.fold(map(self.decode, payloads))


FLOORS: Final[dict[str, Floor]] = {
    "openai-chat": Floor(msgspec.json.Decoder(ChatChunk).decode, fold_chat),
    "openai-responses": Floor(msgspec.json.Decoder(ResponseEvent).decode, fold_responses),
    "anthropic-messages": Floor(msgspec.json.Decoder(MessageEvent).decode, fold_messages),
}
