"""Growth is linear: twice the stream costs twice the work, in every format, whatever grows and however it comes.

Nothing here looks at a clock; `work.py` says what is counted instead.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import msgspec
import pytest
from work import memory, work

import streamfold
from streamfold import ProcessedStreamResponse, StreamAccumulator
from streamfold.framing.aws_eventstream import encode
from streamfold.testing import sse

JSON = dict[str, Any]

DELTAS = 2000
CRUMB = 1024

LINEAR = 2.2
"""What twice the stream may cost."""

SHORT = 3
"""Calls that a frame costs less than if it is not decoded."""

WORD = 'wörd "\n'
SOUND = "AAEC" * 8


class Kind(NamedTuple):
    """One thing that grows in one format."""

    format: str
    name: str
    wire: Callable[[Any], bytes]
    """An event as the provider writes it."""
    events: Callable[[int], list[Any]]
    """A stream of so many deltas."""
    place: tuple[str | int, ...]
    """Where in the native response it grows."""
    whole: Callable[[int], Any]
    """What so many deltas make there."""
    short: bool = False
    """Whether frames that repeat are folded without decoding each."""

    def reads(self, count: int) -> list[bytes]:
        """A stream of so many deltas, one event a read."""
        return [self.wire(event) for event in self.events(count)]

    def body(self, count: int) -> bytes:
        return b"".join(self.reads(count))

    def grown(self, done: ProcessedStreamResponse) -> Any:
        assert done.data is not None
        value: Any = done.data.response
        for step in self.place:
            value = value[step]
        return value


def stream(*begin: Any, of: Any, end: Iterable[Any] = ()) -> Callable[[int], list[Any]]:
    """Streams with `begin`, any number of deltas, and `end`. `of` is the delta, or makes the delta of a number."""
    return lambda count: [*begin, *(of(at) if callable(of) else of for at in range(count)), *end]


def times(unit: Any) -> Callable[[int], Any]:
    return lambda count: unit * count


def numbered(make: Callable[[int], Any]) -> Callable[[int], list[Any]]:
    return lambda count: [make(at) for at in range(count)]


# ---------------------------------------------------------------------------------------------- on the wire


def data(event: JSON) -> bytes:
    return sse([event])


def named(event: JSON) -> bytes:
    return sse([event], named=True)


def line(event: JSON) -> bytes:
    return msgspec.json.encode(event) + b"\n"


def item(event: JSON) -> bytes:
    """An element of the array that Gemini streams without `alt=sse`."""
    return msgspec.json.format(msgspec.json.encode(event), indent=2) + b"\n,\r\n"


def frame(event: JSON) -> bytes:
    """Bedrock's binary frame of an event inside its name."""
    ((name, payload),) = event.items()
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return encode(msgspec.json.encode(payload), headers)


def packed(payload: JSON) -> bytes:
    """Bedrock's binary frame around a payload of the model's own API."""
    return frame({"chunk": {"bytes": base64.b64encode(msgspec.json.encode(payload)).decode(), "p": "abcd"}})


def padded(at: int) -> str:
    return "abcdefgh"[: at % 8 + 1]


# ---------------------------------------------------------------------------------------------- OpenAI chat

MESSAGE = ("choices", 0, "message")
ARGUMENTS = (*MESSAGE, "tool_calls", 0, "function", "arguments")
LOGPROB = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}


def chunk(fields: JSON, finish: str | None = None, index: int = 0, **more: Any) -> JSON:
    choice = {"index": index, "delta": fields, "finish_reason": finish, **more}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def call(arguments: str, index: int = 0, **function: Any) -> JSON:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments, **function}}]}


def whole_call(at: int) -> JSON:
    return {"index": at, "id": f"t{at}", "type": "function", "function": {"name": "f", "arguments": "{}"}}


CHAT_BEGIN = chunk({"role": "assistant"})
CHAT_END = chunk({}, "stop")


def chat(name: str, of: Any, place: tuple[str | int, ...], whole: Any, short: bool = False, format: str = "") -> Kind:
    """Something that grows in chat chunks."""
    return Kind(
        format or "openai-chat", name, data, stream(CHAT_BEGIN, of=of, end=[CHAT_END]), place, whole, short
    )


CHAT = [
    chat("text", chunk({"content": WORD}), (*MESSAGE, "content"), times(WORD), True),
    chat(
        "text with padding",
        lambda at: {**chunk({"content": WORD}), "obfuscation": padded(at)},
        (*MESSAGE, "content"),
        times(WORD),
        True,
    ),
    chat("text of two choices", lambda at: chunk({"content": WORD}, index=at % 2), (*MESSAGE, "content"), lambda count: WORD * (count // 2)),
    chat("reasoning", chunk({"reasoning_content": WORD}), (*MESSAGE, "reasoning_content"), times(WORD), True),
    chat("refusal", chunk({"refusal": WORD}), (*MESSAGE, "refusal"), times(WORD), True),
    chat("tool arguments", chunk(call("x")), ARGUMENTS, times("x"), True),
    chat("tool arguments of two calls", lambda at: chunk(call("x", at % 2, name=f"f{at % 2}")), ARGUMENTS, lambda count: "x" * (count // 2)),
    chat("tool calls", lambda at: chunk({"tool_calls": [whole_call(at)]}), (*MESSAGE, "tool_calls"), lambda count: [{k: v for k, v in whole_call(at).items() if k != "index"} for at in range(count)]),
    chat("audio", chunk({"audio": {"data": SOUND}}), (*MESSAGE, "audio", "data"), times(SOUND)),
    chat("transcript of audio", chunk({"audio": {"transcript": WORD}}), (*MESSAGE, "audio", "transcript"), times(WORD)),
    chat("logprobs", chunk({"content": "a"}, logprobs={"content": [LOGPROB]}), ("choices", 0, "logprobs", "content"), times([LOGPROB])),
    chat("image", lambda at: chunk({"content": "a"}), (*MESSAGE, "content"), times("a"), True),
]
