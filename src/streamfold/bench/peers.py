"""Other programs that do the same work, each the way its users run it: payload bytes in, the whole answer out.

Those that are not installed are left out by name. Nothing here is timed; a `Way` is what the speed section times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any, Final, NamedTuple

from streamfold.bench.workloads import Answer, Workload

__all__ = ["PEERS", "MissingError", "Peer", "Way", "walk"]


class MissingError(Exception):
    """The peer is not installed, or is of a version that works otherwise."""


class Way(NamedTuple):
    """One way from a stream to its answer. Only `run` is timed; `answer` reads what it returned."""

    run: Callable[[], Any]
    answer: Callable[[Any], Answer]


class Peer(NamedTuple):
    """A peer, for the formats that it knows."""

    name: str
    formats: frozenset[str]
    way: Callable[[Workload], Way]


def _need(module: str) -> Any:
    try:
        return import_module(module)
    except Exception as problem:  # an import may fail in any way; the table says how
        raise MissingError(f"{type(problem).__name__}: {problem}".splitlines()[0]) from None


def _itself(answer: Any) -> Answer:
    assert isinstance(answer, Answer)
    return answer


# A careful walk over decoded dicts: what one writes by hand


def walk(format: str, events: Iterable[dict[str, Any]]) -> Answer:
    """Folds decoded events by hand, looking before it reads."""
    return WALKS[format](events)


def _answer(text: list[str], thoughts: list[str], calls: dict[int, list[str]]) -> Answer:
    arguments = (json.loads("".join(parts)) for parts in calls.values())
    return Answer("".join(text), "".join(thoughts), tuple(arguments))


def _walk_chat(events: Iterable[dict[str, Any]]) -> Answer:
    text: list[str] = []
    thoughts: list[str] = []
    calls: dict[int, list[str]] = {}
    top: dict[str, Any] = {}
    for event in events:
        for key, value in event.items():
            if value is not None and key != "choices":
                top[key] = value
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            if delta.get("content"):
                text.append(delta["content"])
            if delta.get("reasoning"):
                thoughts.append(delta["reasoning"])
            for call in delta.get("tool_calls") or ():
                piece = (call.get("function") or {}).get("arguments")
                if piece:
                    calls.setdefault(call.get("index", 0), []).append(piece)
    return _answer(text, thoughts, calls)


def _walk_responses(events: Iterable[dict[str, Any]]) -> Answer:
    text: list[str] = []
    last = -1
    for event in events:
        number = event.get("sequence_number")
        if isinstance(number, int):
            last = max(last, number)
        if event.get("type") == "response.output_text.delta" and event.get("delta"):
            text.append(event["delta"])
    return _answer(text, [], {})


def _walk_messages(events: Iterable[dict[str, Any]]) -> Answer:
    text: list[str] = []
    thoughts: list[str] = []
    calls: dict[int, list[str]] = {}
    for event in events:
        if event.get("type") != "content_block_delta":
            continue
        delta = event.get("delta") or {}
        kind = delta.get("type")
        if kind == "text_delta":
            text.append(delta.get("text") or "")
        elif kind == "thinking_delta":
            thoughts.append(delta.get("thinking") or "")
        elif kind == "input_json_delta":
            calls.setdefault(event.get("index", 0), []).append(delta.get("partial_json") or "")
    return _answer(text, thoughts, calls)


WALKS: Final = {
    "openai-chat": _walk_chat,
    "openai-responses": _walk_responses,
    "anthropic-messages": _walk_messages,
}


def _walked(loads: Callable[[bytes], Any], load: Workload) -> Way:
    return Way(lambda: walk(load.format, map(loads, load.payloads)), _itself)


def _with_orjson(load: Workload) -> Way:
    return _walked(_need("orjson").loads, load)


# The providers' own SDKs


def _openai_chat(load: Workload) -> Way:
    streaming = _need("openai.lib.streaming.chat")
    construct = _need("openai._models").construct_type
    chunk_type = _need("openai.types.chat").ChatCompletionChunk

    def run() -> Any:
        state = streaming.ChatCompletionStreamState()
        for payload in load.payloads:
            for _ in state.handle_chunk(construct(type_=chunk_type, value=json.loads(payload))):
                pass
        return state.get_final_completion()

    return Way(run, _answer_of_completion)


def _answer_of_completion(completion: Any) -> Answer:
    message = completion.choices[0].message
    calls = message.tool_calls or ()
    return Answer(message.content or "", "", tuple(json.loads(call.function.arguments) for call in calls))


def _openai_responses(load: Workload) -> Way:
    try:
        state_type = _need("openai.lib.streaming.responses._responses").ResponseStreamState
        omit = _need("openai._types").omit
    except AttributeError as problem:
        raise MissingError(str(problem)) from None
    construct = _need("openai._models").construct_type
    event_type = _need("openai.types.responses").ResponseStreamEvent

    def run() -> Any:
        state = state_type(input_tools=omit, text_format=omit)
        for payload in load.payloads:
            state.handle_event(construct(type_=event_type, value=json.loads(payload)))
        return state._completed_response

    return Way(run, lambda response: Answer(response.output_text, "", ()))


def _anthropic(load: Workload) -> Way:
    accumulate = _need("anthropic.lib.streaming._messages").accumulate_event
    construct = _need("anthropic._models").construct_type
    event_type = _need("anthropic.types").RawMessageStreamEvent

    def run() -> Any:
        message = None
        buffers: dict[int, bytes] = {}
        for payload in load.payloads:
            value = json.loads(payload)
            if value["type"] != "ping":  # which the SDK's own stream leaves out
                event = construct(type_=event_type, value=value)
                message = accumulate(event=event, current_snapshot=message, json_bufs=buffers)
        return message

    return Way(run, _answer_of_message)


def _answer_of_message(message: Any) -> Answer:
    by_type: dict[str, list[Any]] = {"text": [], "thinking": [], "tool_use": []}
    for block in message.content:
        by_type[block.type].append(block)
    text = "".join(block.text for block in by_type["text"])
    thoughts = "".join(block.thinking for block in by_type["thinking"])
    return Answer(text, thoughts, tuple(block.input for block in by_type["tool_use"]))


# Libraries above the SDKs


def _litellm(load: Workload) -> Way:
    litellm = _need("litellm")
    chunk_type = _need("litellm.types.utils").ModelResponseStream

    def run() -> Any:
        return litellm.stream_chunk_builder([chunk_type(**json.loads(payload)) for payload in load.payloads])

    return Way(run, _answer_of_completion)


def _langchain(load: Workload) -> Way:
    messages = _need("langchain_core.messages")
    add = _need("langchain_core.messages.ai").add_ai_message_chunks
    convert = _need("langchain_openai.chat_models.base")._convert_delta_to_message_chunk

    def run() -> Any:
        chunks = []
        for payload in load.payloads:
            for choice in json.loads(payload)["choices"]:
                chunks.append(convert(choice["delta"], messages.AIMessageChunk))
        return add(*chunks)

    return Way(run, _answer_of_langchain)


def _answer_of_langchain(message: Any) -> Answer:
    return Answer(message.content, "", tuple(call["args"] for call in message.tool_calls))


EVERY: Final = frozenset(WALKS)
CHAT: Final = frozenset({"openai-chat"})

PEERS: Final = (
    Peer("orjson and a walk over dicts", EVERY, _with_orjson),
    Peer("json and a walk over dicts", EVERY, partial(_walked, json.loads)),
    Peer("openai ChatCompletionStreamState", CHAT, _openai_chat),
    Peer("openai ResponseStreamState", frozenset({"openai-responses"}), _openai_responses),
    Peer("anthropic accumulate_event", frozenset({"anthropic-messages"}), _anthropic),
    Peer("litellm stream_chunk_builder", CHAT, _litellm),
    Peer("langchain add_ai_message_chunks", CHAT, _langchain),
)
"""All peers, quickest first."""
