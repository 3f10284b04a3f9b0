"""The streams that are measured, made here in their providers' formats and sizes.

Nothing is random: the same name and size give the same bytes on every machine. The words hold what real answers hold
and what a fast path likes to forget: escapes, quotes, letters beyond ASCII. A stream comes three ways: the payloads,
the frames (payloads and the end marker, as a gateway hands them over), and the body (the bytes of the socket).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from streamfold.types import JSON

__all__ = ["STREAMS", "Answer", "Workload", "anthropic", "chat_text", "chat_tools", "events_of", "responses"]

SEED: Final = 7
CHAT_ID: Final = "chatcmpl-CoyYGeZzJazlbqwMyj97GdwzSH9qX"
RESPONSE_ID: Final = "resp_076213237ecac11c00697053e9dd1481908230fcf46b67ca8f"
MESSAGE_ID: Final = "msg_01XFDUDYJgAACzvnptvVoYEL"
ITEM_ID: Final = "msg_076213237ecac11c00697053eae0b48190afc77b3b3e4204d3"
WORDS: Final = (" the", " stream", " of", " tokens", " folds", " into", " one", " answer", ",", " and", ".", " it")
RARE: Final = ("\n\n", "\n", ' "quoted"', " naïve", " 東京", " 🌍", "\t- ", " C:\\dir")
PADDING: Final = "aZ09bY18cX27dW36"


class Answer(NamedTuple):
    """What a stream says, by whichever program reads it."""

    text: str
    reasoning: str
    arguments: tuple[Any, ...]
    """The tool calls' arguments, read as JSON."""


class Workload(NamedTuple):
    """One stream, and what it must fold to."""

    name: str
    format: str
    payloads: list[bytes]
    frames: list[bytes]
    body: bytes
    answer: Answer
    identity: bytes
    """The id in its frames, for whoever wants many streams that differ."""


def words(count: int) -> list[str]:
    """Text in fragments as a model sends them: most of them plain, one in sixteen awkward."""
    rng = random.Random(SEED)
    return [rng.choice(RARE if rng.random() < 1 / 16 else WORDS) for _ in range(count)]


def fragments(count: int, number: int = 0) -> tuple[list[str], Any]:
    """A tool call's arguments in `count` pieces, with an escape in every second piece, and what they mean."""
    line = f'assert say("it \\"works\\"", {number}) == \'C:\\\\tmp\'\n'
    value = {"path": "src/app.py", "script": line * (1 + count // 12)}
    text = msgspec.json.encode(value).decode()
    return [text[len(text) * at // count : len(text) * (at + 1) // count] for at in range(count)], value


def _padding() -> Iterator[str]:
    rng = random.Random(SEED)
    while True:
        yield PADDING[: rng.randrange(4, 17)]


def _sse(events: Iterable[JSON], *, named: bool, done: bool) -> tuple[list[bytes], list[bytes], bytes]:
    payloads = []
    blocks = []
    for event in events:
        payload = msgspec.json.encode(event)
        payloads.append(payload)
        blocks.append((b"event: " + event["type"].encode() + b"\n" if named else b"") + b"data: " + payload + b"\n\n")
    frames = [*payloads, b"[DONE]"] if done else payloads
    if done:
        blocks.append(b"data: [DONE]\n\n")
    return payloads, frames, b"".join(blocks)


def events_of(body: bytes) -> list[bytes]:
    """A body as the reads of a paced stream: one event each."""
    return [block + b"\n\n" for block in body.split(b"\n\n")[:-1]]


# OpenAI chat completions


def _chat_chunk(delta: JSON, finish_reason: str | None = None) -> JSON:
    return {
        "id": CHAT_ID,
        "object": "chat.completion.chunk",
        "created": 1766265196,
        "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_ee69c2ef48",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
        "usage": None,
    }


def _chat_usage() -> JSON:
    usage = {
        "prompt_tokens": 48,
        "completion_tokens": 1000,
        "total_tokens": 1048,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    return {**_chat_chunk({}), "choices": [], "usage": usage}


def _chat(name: str, deltas: list[JSON], reason: str, answer: Answer, *, padded: bool = False) -> Workload:
    first = {"role": "assistant", "content": None if answer.arguments else "", "refusal": None}
    chunks = [*map(_chat_chunk, (first, *deltas)), _chat_chunk({}, reason), _chat_usage()]
    if padded:
        chunks = [{**chunk, "obfuscation": pad} for chunk, pad in zip(chunks, _padding(), strict=False)]
    payloads, frames, body = _sse(chunks, named=False, done=True)
    return Workload(name, "openai-chat", payloads, frames, body, answer, CHAT_ID.encode())


def chat_text(deltas: int = 1000, *, padded: bool = False) -> Workload:
    """Chat text; `padded` with the `obfuscation` that OpenAI adds by default."""
    said = words(deltas)
    name = "chat-text-padded" if padded else "chat-text"
    answer = Answer("".join(said), "", ())
    return _chat(name, [{"content": word} for word in said], "stop", answer, padded=padded)


def chat_tools(calls: int = 5, pieces: int = 200) -> Workload:
    """Tool calls, one after the other, their arguments in pieces full of escaped quotes."""
    deltas: list[JSON] = []
    meant = []
    for index in range(calls):
        sent, value = fragments(pieces, index)
        meant.append(value)
        opened = {"index": index, "id": f"call_7ZUc5lPSOSWDRsBJ9lmhZwP{index}", "type": "function"}
        deltas.append({"tool_calls": [{**opened, "function": {"name": "run_script", "arguments": ""}}]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in sent]
    return _chat("chat-tools", deltas, "tool_calls", Answer("", "", tuple(meant)))


# OpenAI Responses


def _response(status: str, output: list[JSON], usage: JSON | None) -> JSON:
    return {
        "id": RESPONSE_ID,
        "object": "response",
        "created_at": 1768969193,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": "gpt-4o-mini-2024-07-18",
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "metadata": {},
    }


def _response_events(said: list[str]) -> Iterator[JSON]:
    text = "".join(said)
    place = {"item_id": ITEM_ID, "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
    whole = {**empty, "text": text}
    item = {"id": ITEM_ID, "type": "message", "status": "in_progress", "content": [], "role": "assistant"}
    ended = {**item, "status": "completed", "content": [whole]}
    usage = {
        "input_tokens": 48,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": len(said),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 48 + len(said),
    }
    yield {"type": "response.created", "response": _response("in_progress", [], None)}
    yield {"type": "response.in_progress", "response": _response("in_progress", [], None)}
    yield {"type": "response.output_item.added", "output_index": 0, "item": item}
    yield {"type": "response.content_part.added", **place, "part": empty}
    for word, pad in zip(said, _padding(), strict=False):
        yield {"type": "response.output_text.delta", **place, "delta": word, "logprobs": [], "obfuscation": pad}
    yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": whole}
    yield {"type": "response.output_item.done", "output_index": 0, "item": ended}
    yield {"type": "response.completed", "response": _response("completed", [ended], usage)}


def responses(deltas: int = 1000) -> Workload:
    """A Responses text answer, numbered and padded as OpenAI sends it."""
    said = words(deltas)
    events = ({**event, "sequence_number": number} for number, event in enumerate(_response_events(said)))
    payloads, frames, body = _sse(events, named=True, done=False)
    answer = Answer("".join(said), "", ())
    return Workload("responses", "openai-responses", payloads, frames, body, answer, RESPONSE_ID.encode())


# Anthropic messages


def _block(index: int, start: JSON, deltas: Iterable[JSON]) -> Iterator[JSON]:
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _message_events(thoughts: list[str], said: list[str], sent: list[str]) -> Iterator[JSON]:
    usage = {"input_tokens": 48, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    message: JSON = {
        "id": MESSAGE_ID,
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-20250514",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    yield {"type": "message_start", "message": message}
    yield {"type": "ping"}
    thinking = [{"type": "thinking_delta", "thinking": word} for word in thoughts]
    signature = {"type": "signature_delta", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h" * 8}
    yield from _block(0, {"type": "thinking", "thinking": "", "signature": ""}, [*thinking, signature])
    yield from _block(1, {"type": "text", "text": ""}, ({"type": "text_delta", "text": word} for word in said))
    tool = {"type": "tool_use", "id": "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "name": "run_script", "input": {}}
    yield from _block(2, tool, ({"type": "input_json_delta", "partial_json": piece} for piece in sent))
    ended = {"stop_reason": "tool_use", "stop_sequence": None}
    yield {"type": "message_delta", "delta": ended, "usage": {**usage, "output_tokens": 1400}}
    yield {"type": "message_stop"}


def anthropic(thoughts: int = 200, deltas: int = 1000, pieces: int = 200, *, padded: bool = False) -> Workload:
    """Thinking, then text, then a tool call; `padded` with the spaces that Anthropic puts behind most deltas."""
    thought, said = words(thoughts), words(deltas)
    sent, value = fragments(pieces)
    payloads, frames, body = _sse(_message_events(thought, said, sent), named=True, done=False)
    if padded:
        payloads = frames = [_spaced(payload, pad) for payload, pad in zip(payloads, _padding(), strict=False)]
        named = zip(events_of(body), payloads, strict=True)
        body = b"".join(event[: event.index(b"data: ")] + b"data: " + payload + b"\n\n" for event, payload in named)
    answer = Answer("".join(said), "".join(thought), (value,))
    name = "anthropic-padded" if padded else "anthropic"
    return Workload(name, "anthropic-messages", payloads, frames, body, answer, MESSAGE_ID.encode())


def _spaced(payload: bytes, pad: str) -> bytes:
    return payload[:-1] + b" " * len(pad) + b"}" if b'"content_block_delta"' in payload else payload


STREAMS: Final[dict[str, Callable[[], Workload]]] = {
    "chat-text": chat_text,
    "chat-text-padded": lambda: chat_text(padded=True),
    "chat-tools": chat_tools,
    "responses": responses,
    "anthropic": anthropic,
    "anthropic-padded": lambda: anthropic(padded=True),
}
"""The streams whose speed is measured, by the name of their section."""
