"""The scenes that the demo's upstream plays: what the four APIs send, at the pace of a small model.

Each function gives a `Script`, made of the events as the provider spells them. They are invented, but every field and
every order of events is the real one, so an SDK reads them without a complaint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from streamfold.gateway.scripted import HANG_UP, Received, Script, ScriptedUpstream, Step

__all__ = ["ANSWER", "play_all"]

JSON_TYPE: Final = [("content-type", "application/json")]
CREATED: Final = 1_760_000_000
ANSWER: Final = "A stream is a letter that arrives word by word. Keep every word, and you hold the letter."
ARGUMENTS: Final = '{"city": "Reykjavík", "unit": "celsius", "days": 3}'


def play_all(upstream: ScriptedUpstream, pace: float) -> None:
    """Gives an upstream all routes. `pace` is the seconds between two events."""
    upstream.route("POST", "/v1/chat/completions", lambda request: chat(request, pace))
    upstream.route("POST", "/v1/completions", lambda request: completion(request, pace))
    upstream.route("POST", "/v1/responses", lambda request: response(request, pace))
    upstream.route("POST", "/v1/messages", lambda request: message(request, pace))
    for method in ("streamGenerateContent", "generateContent"):
        path = f"/v1beta/models/gemini-2.5-flash:{method}"
        upstream.route("POST", path, lambda request: gemini(request, pace))


def chat(request: Received, pace: float) -> Script:
    """OpenAI chat completions: text or a tool call, streamed or not; cut off when the prompt asks for that."""
    asked = _asked(request)
    if not asked.get("stream"):
        return _whole(
            {
                **_chat_envelope("chat.completion"),
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": ANSWER, "refusal": None, "annotations": []},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": _openai_usage(),
                "service_tier": "default",
            }
        )
    if asked.get("tools"):
        return _sse(_chat_tool_call(), pace)
    script = _sse(_chat_text(), pace)
    if "cut off" in str(asked.get("messages")):
        script.steps = [*script.steps[: len(script.steps) // 2], HANG_UP]
    return script


def completion(request: Received, pace: float) -> Script:
    """OpenAI text completions."""
    head = {"id": "cmpl-demo", "object": "text_completion", "created": CREATED, "model": "gpt-3.5-turbo-instruct"}
    choice = {"index": 0, "logprobs": None}
    if not _asked(request).get("stream"):
        usage = {"prompt_tokens": 7, "completion_tokens": 19, "total_tokens": 26}
        return _whole({**head, "choices": [{**choice, "text": ANSWER, "finish_reason": "stop"}], "usage": usage})
    events = [{**head, "choices": [{**choice, "text": word, "finish_reason": None}]} for word in _words(ANSWER)]
    events.append({**head, "choices": [{**choice, "text": "", "finish_reason": "stop"}]})
    return _sse([_data(event) for event in events] + [DONE], pace)


def response(request: Received, pace: float) -> Script:
    """OpenAI Responses."""
    if not _asked(request).get("stream"):
        return _whole(_response("completed"))
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    where = {"item_id": "msg_demo", "output_index": 0, "content_index": 0}
    item = _response_item("in_progress", [])
    full = {**part, "text": ANSWER}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response("in_progress")},
        {"type": "response.in_progress", "response": _response("in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **where, "part": part},
        *({"type": "response.output_text.delta", **where, "delta": word, "logprobs": []} for word in _words(ANSWER)),
        {"type": "response.output_text.done", **where, "text": ANSWER, "logprobs": []},
        {"type": "response.content_part.done", **where, "part": full},
        {"type": "response.output_item.done", "output_index": 0, "item": _response_item("completed", [full])},
        {"type": "response.completed", "response": _response("completed")},
    ]
    return _sse([_named({**event, "sequence_number": place}) for place, event in enumerate(events)], pace)


def message(request: Received, pace: float) -> Script:
    """Anthropic messages: a text and a tool call."""
    asked = _asked(request)
    head = {"id": "msg_demo", "type": "message", "role": "assistant", "model": "claude-sonnet-5"}
    usage = {"input_tokens": 21, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 12, "output_tokens": 1}
    if not asked.get("stream"):
        content = [{"type": "text", "text": ANSWER}]
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        return _whole({**head, "content": content, **end, "usage": {**usage, "output_tokens": 24}})
    start: dict[str, Any] = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    tools = bool(asked.get("tools"))
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *_block_deltas(0, [{"type": "text_delta", "text": word} for word in _words(ANSWER)]),
        {"type": "content_block_stop", "index": 0},
    ]
    if tools:
        call = {"type": "tool_use", "id": "toolu_demo", "name": "get_weather", "input": {}}
        events += [
            {"type": "content_block_start", "index": 1, "content_block": call},
            *_block_deltas(1, [{"type": "input_json_delta", "partial_json": part} for part in _parts(ARGUMENTS)]),
            {"type": "content_block_stop", "index": 1},
        ]
    stop = {"stop_reason": "tool_use" if tools else "end_turn", "stop_sequence": None}
    events += [
        {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 42 if tools else 24}},
        {"type": "message_stop"},
    ]
    return _sse([_named(event) for event in events], pace)


def gemini(request: Received, pace: float) -> Script:
    """Gemini: streamed as SSE with `alt=sse`, as a JSON array without, or whole."""
    words = _words(ANSWER, 4)
    events = [_gemini([word], place == len(words) - 1) for place, word in enumerate(words)]
    if ":generateContent" in request.target:
        return _whole(_gemini([ANSWER], True))
    if "alt=sse" in request.target:
        return _sse([_data(event, b"\r\n\r\n") for event in events], pace)
    pieces = [(b"[" if place == 0 else b",\r\n") + _json(event) for place, event in enumerate(events)]
    return Script(_paced([*pieces, b"]"], pace), headers=JSON_TYPE)


# ---------------------------------------------------------------------- the events of one format


def _chat_envelope(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-demo", "object": kind, "created": CREATED, "model": "gpt-4o-mini-2024-07-18"}


def _chat_chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _data({**_chat_envelope("chat.completion.chunk"), "choices": [choice], "usage": None})


def _chat_text() -> list[bytes]:
    deltas = [_chat_chunk({"content": word}) for word in _words(ANSWER)]
    return [_chat_chunk({"role": "assistant", "content": ""}), *deltas, _chat_chunk({}, "stop"), _chat_usage(), DONE]


def _chat_tool_call() -> list[bytes]:
    start = {"index": 0, "id": "call_demo", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    parts = [_chat_chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]}) for part in _parts(ARGUMENTS)]
    first = _chat_chunk({"role": "assistant", "content": None, "tool_calls": [start]})
    return [first, *parts, _chat_chunk({}, "tool_calls"), _chat_usage(), DONE]


def _chat_usage() -> bytes:
    return _data({**_chat_envelope("chat.completion.chunk"), "choices": [], "usage": _openai_usage()})


def _openai_usage() -> dict[str, Any]:
    return {
        "prompt_tokens": 18,
        "completion_tokens": 21,
        "total_tokens": 39,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _response(status: str) -> dict[str, Any]:
    done = status == "completed"
    part = {"type": "output_text", "text": ANSWER, "annotations": [], "logprobs": []}
    usage = {
        "input_tokens": 18,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 21,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 39,
    }
    return {
        "id": "resp_demo",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": "gpt-4o-mini-2024-07-18",
        "output": [_response_item("completed", [part])] if done else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage if done else None,
    }


def _response_item(status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "msg_demo", "type": "message", "status": status, "role": "assistant", "content": content}


def _block_deltas(index: int, deltas: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]


def _gemini(texts: Sequence[str], last: bool) -> dict[str, Any]:
    content = {"parts": [{"text": text} for text in texts], "role": "model"}
    candidate: dict[str, Any] = {"content": content, "index": 0}
    usage = {"promptTokenCount": 9, "totalTokenCount": 9}
    if last:
        candidate["finishReason"] = "STOP"
        usage = {"promptTokenCount": 9, "candidatesTokenCount": 21, "totalTokenCount": 30}
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": "gemini-2.5-flash",
        "responseId": "demo",
    }


# ---------------------------------------------------------------------- the spelling


DONE: Final = b"data: [DONE]\n\n"


def _asked(request: Received) -> dict[str, Any]:
    try:
        asked = msgspec.json.decode(request.body)
    except msgspec.DecodeError:
        return {}
    return asked if isinstance(asked, dict) else {}


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _data(event: Any, end: bytes = b"\n\n") -> bytes:
    return b"data: " + _json(event) + end


def _named(event: dict[str, Any]) -> bytes:
    name: str = event["type"]
    return b"event: " + name.encode() + b"\n" + _data(event)


def _sse(events: Sequence[bytes], pace: float) -> Script:
    return Script(_paced(events, pace))


def _whole(body: dict[str, Any]) -> Script:
    return Script([_json(body)], headers=JSON_TYPE, framing="length")


def _paced(pieces: Sequence[bytes], pace: float) -> list[Step]:
    return [step for piece in pieces for step in (pace, piece)]


def _words(text: str, size: int = 1) -> list[str]:
    words = re.findall(r"\s*\S+", text)
    return ["".join(words[at : at + size]) for at in range(0, len(words), size)]


def _parts(text: str) -> list[str]:
    return [text[at : at + 6] for at in range(0, len(text), 6)]
