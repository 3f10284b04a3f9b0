"""Growth is linear: twice the stream costs twice the work, in every format, whatever grows and however it comes.

Nothing here looks at a clock; `work.py` says what is counted instead.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import msgspec
import pytest

import streamfold
from streamfold import ProcessedStreamResponse, StreamAccumulator
from streamfold.framing.aws_eventstream import encode
from streamfold.testing import fold_pieces, sse
from work import memory, work

pytestmark = pytest.mark.usefixtures("frame_reader")

JSON = dict[str, Any]
Place = tuple[str | int, ...]
Whole = Callable[[int], Any]
Events = Callable[[int], list[Any]]

DELTAS = 2000
CRUMB = 1024
KIBS = 300
MANY = 100_000

LINEAR = 2.2
"""What twice the stream may cost."""

DECODED = 0
SSE = 3
LINES = 8
ARRAY = 24
FRAMES = 16
PACKED = 20
"""Fewer calls than these is what a frame that repeats costs when it is not decoded. What remains is the framing: of an
SSE body not even the frames are cut, a binary frame has its checksums and headers, Bedrock Invoke has base64 within."""

WORD = 'wörd "\n'
SOUND = "AAEC" * 8
PROSE = "so much text " * 16


class Kind(NamedTuple):
    """One thing that grows in one format."""

    format: str
    name: str
    wire: Callable[[Any], bytes]
    """Writes an event as the provider does."""
    events: Events
    """Makes a stream of so many deltas."""
    place: Place
    """Where in the native response it grows."""
    whole: Whole
    """What so many deltas make there."""
    calls: int = DECODED
    """Fewer calls than this is what a frame costs, if frames that repeat are not decoded."""

    def reads(self, count: int) -> list[bytes]:
        """A stream of so many deltas, one event a read."""
        return [self.wire(event) for event in self.events(count)]


def stream(*begin: Any, of: Any, end: Iterable[Any] = ()) -> Events:
    """Streams of `begin`, any number of deltas, and `end`. `of` is the delta, or makes the delta of a number."""
    return lambda count: [*begin, *(of(at) if callable(of) else of for at in range(count)), *end]


def times(unit: Any) -> Whole:
    return lambda count: unit * count


def half(unit: str) -> Whole:
    return lambda count: unit * (count // 2)


def each(make: Callable[[int], Any]) -> Whole:
    return lambda count: [make(at) for at in range(count)]


def padding(at: int) -> str:
    return "abcdefgh"[: at % 8 + 1]


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


def bare(payload: bytes) -> bytes:
    return payload


def frame(event: JSON) -> bytes:
    """Bedrock's binary frame of an event inside its name."""
    ((name, payload),) = event.items()
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return encode(msgspec.json.encode(payload), headers)


def packed(payload: JSON) -> bytes:
    """Bedrock's binary frame around a payload of the model's own API."""
    return frame({"chunk": {"bytes": base64.b64encode(msgspec.json.encode(payload)).decode(), "p": "abcd"}})


# ---------------------------------------------------------------------------------------------- chat completions

MESSAGE = ("choices", 0, "message")
CONTENT = (*MESSAGE, "content")
ARGUMENTS = (*MESSAGE, "tool_calls", 0, "function", "arguments")
LOGPROB = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}


def chunk(fields: JSON, finish: str | None = None, index: int = 0, **more: Any) -> JSON:
    choice = {"index": index, "delta": fields, "finish_reason": finish, **more}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def call(arguments: str, index: int = 0) -> JSON:
    return chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})


def opened(index: int, arguments: str = "") -> JSON:
    return {"id": f"t{index}", "type": "function", "function": {"name": "f", "arguments": arguments}}


def opening(index: int, arguments: str = "") -> JSON:
    return chunk({"tool_calls": [{"index": index, **opened(index, arguments)}]})


CHAT_BEGIN = chunk({"role": "assistant"})
CHAT_END = chunk({}, "stop")


def chat(name: str, of: Any, place: Place, whole: Whole, *, calls: int = DECODED, begin: Iterable[JSON] = ()) -> Kind:
    return Kind("openai-chat", name, data, stream(CHAT_BEGIN, *begin, of=of, end=[CHAT_END]), place, whole, calls)


def picture(url: str) -> JSON:
    return {"type": "image_url", "index": 0, "image_url": {"url": url}}


CHAT = [
    chat("text", chunk({"content": WORD}), CONTENT, times(WORD), calls=SSE),
    chat(
        "padded text",
        lambda at: {**chunk({"content": WORD}), "obfuscation": padding(at)},
        CONTENT,
        times(WORD),
        calls=SSE,
    ),
    chat("two texts by turns", lambda at: chunk({"content": "x"}, index=at % 2), CONTENT, half("x")),
    chat("reasoning", chunk({"reasoning_content": WORD}), (*MESSAGE, "reasoning_content"), times(WORD), calls=SSE),
    chat("refusal", chunk({"refusal": WORD}), (*MESSAGE, "refusal"), times(WORD), calls=SSE),
    chat("arguments", call("x"), ARGUMENTS, times("x"), calls=SSE, begin=[opening(0)]),
    chat("two calls by turns", lambda at: call("x", at % 2), ARGUMENTS, half("x"), begin=[opening(0), opening(1)]),
    chat("calls", lambda at: opening(at, "{}"), (*MESSAGE, "tool_calls"), each(lambda at: opened(at, "{}"))),
    chat("audio", chunk({"audio": {"data": SOUND}}), (*MESSAGE, "audio", "data"), times(SOUND)),
    chat("transcript", chunk({"audio": {"transcript": WORD}}), (*MESSAGE, "audio", "transcript"), times(WORD)),
    chat(
        "logprobs",
        chunk({"content": "a"}, logprobs={"content": [LOGPROB]}),
        ("choices", 0, "logprobs", "content"),
        times([LOGPROB]),
    ),
    Kind(
        "openai-chat",
        "image",
        data,
        lambda count: [CHAT_BEGIN, chunk({"images": [picture("A" * CRUMB * count)]}), CHAT_END],
        (*MESSAGE, "images", 0, "image_url", "url"),
        times("A" * CRUMB),
    ),
]

# ---------------------------------------------------------------------------------------------- other OpenAI formats


def completion(text: str, **more: Any) -> JSON:
    choice = {"text": text, "index": 0, "finish_reason": None, **more}
    return {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}


LOGPROBS = {"tokens": ["a"], "token_logprobs": [-0.1], "top_logprobs": [{"a": -0.1}], "text_offset": [0]}
COMPLETION_END = completion("", finish_reason="stop")

COMPLETIONS = [
    Kind(
        "openai-completions",
        "text",
        data,
        stream(of=completion(WORD), end=[COMPLETION_END]),
        ("choices", 0, "text"),
        times(WORD),
        SSE,
    ),
    Kind(
        "openai-completions",
        "logprobs",
        data,
        stream(of=completion("a", logprobs=LOGPROBS), end=[COMPLETION_END]),
        ("choices", 0, "logprobs", "tokens"),
        times(["a"]),
    ),
]

RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "status": "in_progress", "model": "m", "output": []}
AT_ITEM = {"item_id": "i", "output_index": 0}
AT_PART = {**AT_ITEM, "content_index": 0}


def item_kind(name: str, entry: JSON, kind: str, delta: Any, place: Place, whole: Whole, **options: Any) -> Kind:
    """Something that grows in an output item; `delta` is what a delta says besides, or makes that of a number."""
    calls = options.pop("calls", SSE)
    at_place = AT_PART if "content" in place else AT_ITEM
    begin = [
        {"type": "response.created", "sequence_number": 0, "response": RESPONSE},
        {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": {"id": "i", **entry}},
    ]

    def events(count: int) -> list[Any]:
        deltas = (delta(at) if callable(delta) else delta for at in range(count))
        grown = [{"type": kind, "sequence_number": 2 + at, **at_place, **each} for at, each in enumerate(deltas)]
        last = {**RESPONSE, "status": "completed"}
        return [*begin, *grown, {"type": "response.completed", "sequence_number": 2 + count, "response": last}]

    return Kind("openai-responses", name, named, events, ("output", 0, *place), whole, calls)


SAID = {"type": "message", "status": "in_progress", "role": "assistant", "content": []}
CALLED = {"type": "function_call", "status": "in_progress", "call_id": "t", "name": "f", "arguments": ""}
RUN = {"type": "code_interpreter_call", "status": "in_progress", "container_id": "c", "code": "", "outputs": []}
THOUGHT = {"type": "reasoning", "summary": []}
TEXT_OF_ITEM = ("content", 0, "text")
OUTPUT_TEXT = "response.output_text.delta"

RESPONSES = [
    item_kind("text", SAID, OUTPUT_TEXT, {"delta": WORD}, TEXT_OF_ITEM, times(WORD)),
    item_kind(
        "padded text",
        SAID,
        OUTPUT_TEXT,
        lambda at: {"delta": WORD, "logprobs": [], "obfuscation": padding(at)},
        TEXT_OF_ITEM,
        times(WORD),
    ),
    item_kind(
        "text under new ids",
        SAID,
        OUTPUT_TEXT,
        lambda at: {"delta": WORD, "item_id": f"i{at}"},
        TEXT_OF_ITEM,
        times(WORD),
        calls=DECODED,
    ),
    item_kind(
        "logprobs",
        SAID,
        OUTPUT_TEXT,
        {"delta": "a", "logprobs": [LOGPROB]},
        ("content", 0, "logprobs"),
        times([LOGPROB]),
        calls=DECODED,
    ),
    item_kind(
        "summary",
        THOUGHT,
        "response.reasoning_summary_text.delta",
        {"delta": WORD, "summary_index": 0},
        ("summary", 0, "text"),
        times(WORD),
    ),
    item_kind("reasoning", THOUGHT, "response.reasoning_text.delta", {"delta": WORD}, TEXT_OF_ITEM, times(WORD)),
    item_kind(
        "arguments", CALLED, "response.function_call_arguments.delta", {"delta": "x"}, ("arguments",), times("x")
    ),
    item_kind("code", RUN, "response.code_interpreter_call_code.delta", {"delta": WORD}, ("code",), times(WORD)),
    item_kind(
        "annotations",
        SAID,
        "response.output_text.annotation.added",
        lambda at: {"annotation_index": at, "annotation": {"type": "url_citation", "url": f"u{at}"}},
        ("content", 0, "annotations"),
        each(lambda at: {"type": "url_citation", "url": f"u{at}"}),
        calls=DECODED,
    ),
    Kind(
        "openai-responses",
        "image",
        named,
        lambda count: [
            {"type": "response.created", "response": RESPONSE},
            {
                "type": "response.output_item.done",
                "output_index": 0,
                "item": {"id": "i", "type": "image_generation_call", "result": "A" * CRUMB * count},
            },
            {"type": "response.completed", "response": {**RESPONSE, "status": "completed"}},
        ],
        ("output", 0, "result"),
        times("A" * CRUMB),
    ),
]

SPEECH_END = [{"type": "speech.audio.done"}]
SCRIPT = {"object": "transcription.chunk", "choices": [{"delta": {"content": WORD}, "finish_reason": None}]}
SEGMENT = {"id": "s", "speaker": "A", "start": 0, "end": 1, "text": "x"}

AUDIO_AND_IMAGES = [
    Kind(
        "openai-speech",
        "pieces",
        data,
        stream(of={"type": "speech.audio.delta", "audio": SOUND}, end=SPEECH_END),
        ("audio",),
        times(SOUND),
    ),
    Kind(
        "openai-speech",
        "pieces with an end each",
        data,
        stream(of={"type": "speech.audio.delta", "audio": "AAECAw=="}, end=SPEECH_END),
        ("audio",),
        lambda count: base64.b64encode(bytes(range(4)) * count).decode(),
    ),
    Kind(
        "openai-speech",
        "cut pieces",
        data,
        stream(of={"type": "speech.audio.delta", "audio": "AAECAAECAA"}, end=SPEECH_END),
        ("audio",),
        lambda count: base64.b64encode(base64.b64decode("AAECAAECAA" * count)).decode(),
    ),
    Kind(
        "openai-speech",
        "bare sound",
        bare,
        stream(of=b"\xff\xf3" + bytes(748)),
        ("audio",),
        lambda count: base64.b64encode((b"\xff\xf3" + bytes(748)) * count).decode(),
    ),
    Kind(
        "openai-transcription",
        "text",
        data,
        lambda count: [
            *[{"type": "transcript.text.delta", "delta": WORD}] * count,
            {"type": "transcript.text.done", "text": WORD * count},
        ],
        ("text",),
        times(WORD),
        SSE,
    ),
    Kind("openai-transcription", "text in chunks", data, stream(of=SCRIPT), ("text",), times(WORD), SSE),
    Kind(
        "openai-transcription",
        "text of Mistral",
        data,
        stream(of={"type": "transcription.text.delta", "text": WORD}),
        ("text",),
        times(WORD),
        SSE,
    ),
    Kind(
        "openai-transcription",
        "logprobs",
        data,
        stream(of={"type": "transcript.text.delta", "delta": "a", "logprobs": [LOGPROB]}),
        ("logprobs",),
        times([LOGPROB]),
    ),
    Kind(
        "openai-transcription",
        "segments",
        data,
        stream(of=lambda at: {"type": "transcript.text.segment", **SEGMENT, "id": f"s{at}"}),
        ("segments",),
        each(lambda at: {"type": "transcript.text.segment", **SEGMENT, "id": f"s{at}"}),
    ),
    Kind(
        "openai-images",
        "picture",
        data,
        lambda count: [
            {"type": "image_generation.partial_image", "partial_image_index": 0, "b64_json": "B" * CRUMB * count},
            {"type": "image_generation.completed", "b64_json": "A" * CRUMB * count},
        ],
        ("data", 0, "b64_json"),
        times("A" * CRUMB),
    ),
    Kind(
        "openai-images",
        "previews",
        data,
        stream(
            of=lambda at: {"type": "image_generation.partial_image", "partial_image_index": at, "b64_json": SOUND},
            end=[{"type": "image_generation.completed", "b64_json": "AAAA"}],
        ),
        ("data",),
        lambda count: [{"b64_json": "AAAA"}],
    ),
]

# ---------------------------------------------------------------------------------------------- Anthropic


def of_block(delta: JSON) -> JSON:
    return {"type": "content_block_delta", "index": 0, "delta": delta}


def fragment(text: str) -> JSON:
    return of_block({"type": "input_json_delta", "partial_json": text})


def block(given: JSON, *begin: JSON, of: Any, end: Iterable[JSON] = ()) -> Events:
    """Streams in which one content block grows."""
    message = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": [], "stop_reason": None}
    return stream(
        {"type": "message_start", "message": {**message, "usage": {"input_tokens": 1, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": given},
        *begin,
        of=of,
        end=[
            *end,
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
            {"type": "message_stop"},
        ],
    )


def anthropic(name: str, events: Events, place: Place, whole: Whole, calls: int = SSE) -> Kind:
    return Kind("anthropic-messages", name, named, events, place, whole, calls)


TOOL = {"type": "tool_use", "id": "t", "name": "f", "input": {}}

TEXT = {"type": "text", "text": ""}
THINKING = {"type": "thinking", "thinking": "", "signature": ""}

ANTHROPIC = [
    anthropic(
        "text", block(TEXT, of=of_block({"type": "text_delta", "text": WORD})), ("content", 0, "text"), times(WORD)
    ),
    anthropic(
        "thinking",
        block(THINKING, of=of_block({"type": "thinking_delta", "thinking": WORD})),
        ("content", 0, "thinking"),
        times(WORD),
    ),
    anthropic(
        "input",
        block(TOOL, fragment('{"a": "'), of=fragment("x"), end=[fragment('"}')]),
        ("content", 0, "input", "a"),
        times("x"),
    ),
    anthropic(
        "citations",
        block(TEXT, of=lambda at: of_block({"type": "citations_delta", "citation": {"number": at}})),
        ("content", 0, "citations"),
        each(lambda at: {"number": at}),
        DECODED,
    ),
    anthropic(
        "completion",
        stream(of={"type": "completion", "completion": WORD, "stop_reason": None}),
        ("completion",),
        times(WORD),
    ),
]

# ---------------------------------------------------------------------------------------------- Gemini


def candidate(*parts: JSON, **more: Any) -> JSON:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, **more}], "modelVersion": "g"}


PART = ("candidates", 0, "content", "parts", 0)
GEMINI_END = candidate({"text": ""}, finishReason="STOP")
FUNCTION = candidate({"functionCall": {"name": "f", "willContinue": True}})


def piece(value: str, path: str = "$.a[0].b") -> JSON:
    partial = {"jsonPath": path, "stringValue": value, "willContinue": True}
    return candidate({"functionCall": {"partialArgs": [partial], "willContinue": True}})


def gemini(name: str, of: Any, place: Place, whole: Whole, *, begin: Iterable[JSON] = (), **options: Any) -> Kind:
    wire, calls = options.get("wire", data), options.get("calls", SSE)
    return Kind("gemini", name, wire, stream(*begin, of=of, end=[GEMINI_END]), place, whole, calls)


GEMINI = [
    gemini("text", candidate({"text": WORD}), (*PART, "text"), times(WORD)),
    gemini("text in an array", candidate({"text": WORD}), (*PART, "text"), times(WORD), wire=item, calls=ARRAY),
    gemini("wrapped text", {"response": candidate({"text": WORD}), "traceId": "t"}, (*PART, "text"), times(WORD)),
    gemini("thoughts", candidate({"text": WORD, "thought": True}), (*PART, "text"), times(WORD)),
    gemini(
        "arguments",
        piece("x"),
        (*PART, "functionCall", "args", "a", 0, "b"),
        times("x"),
        begin=[FUNCTION],
    ),
    gemini(
        "two arguments by turns",
        lambda at: piece("x", "$.a" if at % 2 else "$.b"),
        (*PART, "functionCall", "args", "a"),
        half("x"),
        begin=[FUNCTION],
        calls=DECODED,
    ),
    gemini(
        "arguments of many names",
        lambda at: piece("x", f"$.a{at}"),
        (*PART, "functionCall", "args"),
        lambda count: {f"a{at}": "x" for at in range(count)},
        begin=[FUNCTION],
        calls=DECODED,
    ),
    gemini(
        "calls",
        lambda at: candidate({"functionCall": {"name": "f", "args": {"a": at}}}),
        ("candidates", 0, "content", "parts"),
        each(lambda at: {"functionCall": {"name": "f", "args": {"a": at}}}),
        calls=DECODED,
    ),
    Kind(
        "gemini",
        "a step of an interaction",
        data,
        stream(
            {"event_type": "interaction.created", "interaction": {"id": "i", "object": "interaction"}},
            {"event_type": "step.start", "index": 0, "step": {"type": "model_output"}},
            of={"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": WORD}},
            end=[{"event_type": "interaction.completed", "interaction": {"id": "i", "status": "completed"}}],
        ),
        ("steps", 0, "content", 0, "text"),
        times(WORD),
        SSE,
    ),
    Kind(
        "gemini",
        "image",
        data,
        lambda count: [candidate({"inlineData": {"mimeType": "image/png", "data": "A" * CRUMB * count}}), GEMINI_END],
        (*PART, "inlineData", "data"),
        times("A" * CRUMB),
    ),
]

# ---------------------------------------------------------------------------------------------- Bedrock

CONVERSE = ("output", "message", "content")


def grown(delta: JSON, **more: Any) -> JSON:
    return {"contentBlockDelta": {"contentBlockIndex": 0, "delta": delta, **more}}


def converse(name: str, delta: JSON, place: Place, whole: Whole, *begin: JSON, end: Iterable[JSON] = ()) -> list[Kind]:
    """Something that grows in a block, in frames without Bedrock's padding and with it."""
    begins = [{"messageStart": {"role": "assistant"}}, *begin]
    ends = [*end, {"contentBlockStop": {"contentBlockIndex": 0}}, {"messageStop": {"stopReason": "end_turn"}}]
    plain = stream(*begins, of=grown(delta), end=ends)
    padded = stream(*begins, of=lambda at: grown(delta, p=padding(at)), end=ends)
    kind = Kind("bedrock-converse", name, frame, plain, (*CONVERSE, 0, *place), whole, FRAMES)
    return [kind, kind._replace(name=f"padded {name}", events=padded)]


def invoke(name: str, events: Events, place: Place, whole: Whole, calls: int = PACKED) -> Kind:
    return Kind("bedrock-invoke", name, packed, events, place, whole, calls)


def nova(count: int) -> list[JSON]:
    """Nova names a new block with each stretch of text."""
    events: list[JSON] = [{"messageStart": {"role": "assistant"}}]
    for at in range(count):
        events.append({"contentBlockDelta": {"delta": {"text": WORD}, "contentBlockIndex": at}})
        events.append({"contentBlockStop": {"contentBlockIndex": at}})
    return events


BEDROCK = [
    *converse("text", {"text": WORD}, ("text",), times(WORD)),
    *converse(
        "reasoning", {"reasoningContent": {"text": WORD}}, ("reasoningContent", "reasoningText", "text"), times(WORD)
    ),
    *converse(
        "input",
        {"toolUse": {"input": "x"}},
        ("toolUse", "input", "a"),
        times("x"),
        {"contentBlockStart": {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t", "name": "f"}}}},
        grown({"toolUse": {"input": '{"a": "'}}),
        end=[grown({"toolUse": {"input": '"}'}})],
    ),
    *(
        kind._replace(
            format="bedrock-invoke", name=f"Anthropic's {kind.name}", wire=packed, calls=kind.calls and PACKED
        )
        for kind in ANTHROPIC
    ),
    invoke("Nova's text", nova, (*CONVERSE, 0, "text"), times(WORD), DECODED),
    invoke(
        "Titan's text",
        stream(of={"outputText": WORD, "index": 0, "inputTextTokenCount": None}),
        ("results", 0, "outputText"),
        times(WORD),
    ),
    invoke(
        "Llama's text",
        stream(of=lambda at: {"generation": WORD, "generation_token_count": at, "stop_reason": None}),
        ("generation",),
        times(WORD),
        DECODED,
    ),
    invoke(
        "Mistral's text",
        stream(of={"outputs": [{"text": WORD, "stop_reason": None}]}),
        ("outputs", 0, "text"),
        times(WORD),
    ),
    invoke("chat text", stream(of=chunk({"content": WORD})), CONTENT, times(WORD)),
    invoke(
        "Cohere's text",
        stream(of={"index": 0, "is_finished": False, "text": WORD}),
        ("generations", 0, "text"),
        times(WORD),
    ),
]

# ---------------------------------------------------------------------------------------------- Cohere


def cohere(name: str, of: JSON, place: Place, whole: Whole, *begin: JSON) -> Kind:
    """Something that grows in a message of version 2."""
    start = {"type": "message-start", "id": "m", "delta": {"message": {"role": "assistant"}}}
    end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}
    return Kind("cohere", name, named, stream(start, *begin, of=of, end=[end]), ("message", *place), whole, SSE)


def told(kind: str, message: JSON, **more: Any) -> JSON:
    return {"type": kind, **more, "delta": {"message": message}}


def v1(name: str, of: JSON, place: Place, whole: Whole, *begin: JSON, end: Iterable[JSON] = ()) -> Kind:
    """Something that grows in lines of version 1."""
    start = {"event_type": "stream-start", "is_finished": False, "generation_id": "g"}
    return Kind("cohere", name, line, stream(start, *begin, of=of, end=end), place, whole, LINES)


def called(**delta: Any) -> JSON:
    return {"is_finished": False, "event_type": "tool-calls-chunk", "tool_call_delta": {"index": 0, **delta}}


def cited(at: int) -> JSON:
    return {"start": at, "end": at + 1, "text": "x"}


COHERE = [
    cohere(
        "text",
        told("content-delta", {"content": {"text": WORD}}, index=0),
        ("content", 0, "text"),
        times(WORD),
        told("content-start", {"content": {"type": "text", "text": ""}}, index=0),
    ),
    cohere(
        "thinking",
        told("content-delta", {"content": {"thinking": WORD}}, index=0),
        ("content", 0, "thinking"),
        times(WORD),
        told("content-start", {"content": {"type": "thinking", "thinking": ""}}, index=0),
    ),
    cohere(
        "arguments",
        told("tool-call-delta", {"tool_calls": {"function": {"arguments": "x"}}}, index=0),
        ("tool_calls", 0, "function", "arguments"),
        times("x"),
        told("tool-call-start", {"tool_calls": {**opened(0)}}, index=0),
    ),
    cohere("plan", told("tool-plan-delta", {"tool_plan": WORD}), ("tool_plan",), times(WORD)),
    Kind(
        "cohere",
        "citations",
        named,
        stream(of=lambda at: told("citation-start", {"citations": cited(at)}, index=at)),
        ("message", "citations"),
        each(cited),
    ),
    v1(
        "text of version 1",
        {"is_finished": False, "event_type": "text-generation", "text": WORD},
        ("text",),
        times(WORD),
    ),
    v1(
        "arguments of version 1",
        called(parameters="x"),
        ("tool_calls", 0, "parameters", "a"),
        times("x"),
        called(name="f"),
        called(parameters='{"a": "'),
        end=[called(parameters='"}')],
    ),
]

# ---------------------------------------------------------------------------------------------- Mistral


def mistral(name: str, of: Any, place: Place, whole: Whole, *, begin: Iterable[JSON] = (), calls: int = SSE) -> Kind:
    return Kind("mistral", name, data, stream(*begin, of=of), place, whole, calls)


def thinking(text: str) -> list[JSON]:
    return [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]


TALK = {"type": "conversation.response.started", "conversation_id": "c"}
OUTPUT = {"type": "message.output.delta", "id": "m", "output_index": 0, "content_index": 0}
WANTED = {"type": "function.call.delta", "id": "f", "output_index": 0, "name": "f", "tool_call_id": "t"}

MISTRAL = [
    mistral("text", chunk({"content": WORD}), CONTENT, times(WORD), begin=[CHAT_BEGIN]),
    mistral(
        "padded text",
        lambda at: {**chunk({"content": WORD}), "p": padding(at)},
        CONTENT,
        times(WORD),
        begin=[CHAT_BEGIN],
    ),
    mistral(
        "thinking",
        chunk({"content": thinking(WORD)}),
        (*CONTENT, 0, "thinking", 0, "text"),
        times(WORD),
        begin=[CHAT_BEGIN],
    ),
    mistral("arguments", call("x"), ARGUMENTS, times("x"), begin=[CHAT_BEGIN, opening(0)]),
    mistral(
        "text of a conversation",
        lambda at: {**OUTPUT, "content": WORD, "created_at": f"2026-07-01T10:00:{at:06}Z"},
        ("outputs", 0, "content"),
        times(WORD),
        begin=[TALK],
    ),
    mistral(
        "arguments of a conversation",
        lambda at: {**WANTED, "arguments": "x", "created_at": f"2026-07-01T10:00:{at:06}Z"},
        ("outputs", 0, "arguments"),
        times("x"),
        begin=[TALK],
    ),
    mistral(
        "references",
        lambda at: chunk({"content": [{"type": "reference", "reference_ids": [at]}]}),
        CONTENT,
        each(lambda at: {"type": "reference", "reference_ids": [at]}),
        begin=[CHAT_BEGIN],
        calls=DECODED,
    ),
    mistral("transcript", {"type": "transcription.text.delta", "text": WORD}, ("text",), times(WORD)),
    mistral("sound", {"type": "speech.audio.delta", "audio_data": SOUND}, ("audio_data",), times(SOUND), calls=DECODED),
]

# ---------------------------------------------------------------------------------------------- Ollama, passthrough


def ollama(name: str, fields: Any, place: Place, whole: Whole, calls: int = LINES) -> Kind:
    """Something that grows in lines that all have another time."""

    def said(at: int) -> JSON:
        return {
            "model": "m",
            "created_at": f"2026-07-01T10:00:{at:06}Z",
            **(fields(at) if callable(fields) else fields),
            "done": False,
        }

    last = {"model": "m", "created_at": "t", "done": True, "done_reason": "stop", "eval_count": 1}
    return Kind("ollama", name, line, stream(of=said, end=[last]), place, whole, calls)


def spoken(**fields: Any) -> JSON:
    return {"message": {"role": "assistant", "content": "", **fields}}


def invoked(at: int) -> JSON:
    return {"id": f"t{at}", "function": {"index": at, "name": "f", "arguments": {"a": 1}}}


OLLAMA = [
    ollama("text", spoken(content=WORD), ("message", "content"), times(WORD)),
    ollama("thinking", spoken(thinking=WORD), ("message", "thinking"), times(WORD)),
    ollama("completion", {"response": WORD}, ("response",), times(WORD)),
    ollama(
        "calls",
        lambda at: spoken(tool_calls=[invoked(at)]),
        ("message", "tool_calls"),
        each(invoked),
        DECODED,
    ),
]

PASSTHROUGH = [
    *(
        kind._replace(format="passthrough", name=f"chat {kind.name}", place=("response", *kind.place))
        for kind in CHAT
        if kind.name in ("text", "padded text", "two texts by turns", "arguments", "audio", "image")
    ),
    Kind("passthrough", "lines", bare, stream(of=f"{PROSE}\n".encode()), ("body",), times(f"{PROSE}\n")),
    Kind("passthrough", "one line", bare, stream(of=PROSE.encode()), ("body",), times(PROSE)),
]

# ---------------------------------------------------------------------------------------------- the claims

KINDS = [
    *(*CHAT, *COMPLETIONS, *RESPONSES, *AUDIO_AND_IMAGES, *ANTHROPIC, *GEMINI, *BEDROCK, *COHERE, *MISTRAL),
    *(*OLLAMA, *PASSTHROUGH),
]


def title(kind: Kind) -> str:
    return f"{kind.format}: {kind.name}"


every_kind = pytest.mark.parametrize("kind", KINDS, ids=title)


def found(kind: Kind, done: ProcessedStreamResponse) -> Any:
    """What has grown."""
    assert done.data is not None
    value: Any = done.data.response
    for step in kind.place:
        value = value[step]
    return value


def crumbs(reads: list[bytes]) -> list[bytes]:
    body = b"".join(reads)
    return [body[at : at + CRUMB] for at in range(0, len(body), CRUMB)]


def decoded(kind: Kind, events: list[JSON]) -> ProcessedStreamResponse:
    """What is folded of chunks that somebody else decoded."""
    stream = StreamAccumulator(kind.format)
    for event in events:
        stream.add(event)
    return stream.finish()


def ways(kind: Kind, count: int) -> Iterator[tuple[str, Callable[[], ProcessedStreamResponse]]]:
    """The ways to fold a stream of so many deltas. Decoded by somebody else, each takes the complete way."""
    events = kind.events(count)
    reads = [kind.wire(event) for event in events]
    for way, pieces in {"whole": [b"".join(reads)], "small reads": crumbs(reads), "an event a read": reads}.items():
        yield way, partial(fold_pieces, pieces, kind.format)
    if kind.wire is not bare:
        yield "decoded", partial(decoded, kind, events)


def counted(fold: Callable[[], ProcessedStreamResponse]) -> tuple[int, ProcessedStreamResponse]:
    """The work of a fold, and what came of it."""
    results: list[ProcessedStreamResponse] = []
    return work(lambda: results.append(fold())), results[0]


@pytest.fixture(autouse=True, scope="module")
def _imported() -> None:
    """What a format imports when it is first used is not counted as work of a stream."""
    for kind in KINDS:
        fold_pieces(kind.reads(2), kind.format)


def test_every_format_is_here() -> None:
    """No format is left out of what follows."""
    assert {kind.format for kind in KINDS} == set(streamfold.format_names())


@every_kind
def test_work_is_linear(kind: Kind) -> None:
    """Twice the deltas are twice the work and fold right: whole, in small reads, one event a read, and decoded."""
    for (way, once), (_, twice) in zip(ways(kind, DELTAS), ways(kind, 2 * DELTAS), strict=True):
        few, short = counted(once)
        many, long = counted(twice)
        assert many <= LINEAR * few, way
        assert (found(kind, short), found(kind, long)) == (kind.whole(DELTAS), kind.whole(2 * DELTAS)), way


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.calls], ids=title)
def test_frames_that_repeat_are_not_decoded(kind: Kind) -> None:
    """In a run of deltas, fed whole, a frame costs a few calls, where to decode and fold it costs dozens."""
    body = b"".join(kind.reads(DELTAS))
    assert work(lambda: fold_pieces([body], kind.format)) < kind.calls * DELTAS


@pytest.mark.parametrize(
    "kind", [kind for kind in (*CHAT, *ANTHROPIC) if kind.name in ("arguments", "input")], ids=title
)
def test_arguments_of_a_hundred_thousand_fragments(kind: Kind) -> None:
    """A hundred thousand fragments of one character are the right text, for no more work each than fewer cost."""
    for cut in (lambda reads: [b"".join(reads)], list):
        few, _ = counted(partial(fold_pieces, cut(kind.reads(MANY // 2)), kind.format))
        many, done = counted(partial(fold_pieces, cut(kind.reads(MANY)), kind.format))
        assert many <= LINEAR * few
        assert found(kind, done) == kind.whole(MANY)


LONG = {WORD: "w" * CRUMB, "x": "x" * CRUMB, SOUND: "AAEC" * (CRUMB // 4)}


def enlarged(value: Any) -> Any:
    """The event with a KiB in the place of what a delta adds."""
    if isinstance(value, dict):
        return {key: enlarged(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [enlarged(entry) for entry in value]
    return LONG.get(value, value) if isinstance(value, str) else value


def asked(format: str, reads: list[bytes]) -> int:
    """Bytes of memory that a stream asks for."""
    stream = StreamAccumulator(format)
    return memory([*(partial(stream.feed, read) for read in reads), stream.finish])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if isinstance(kind.whole(2), str)], ids=title)
def test_memory_is_linear(kind: Kind) -> None:
    """What grows is not copied whole with every read: twice the KiBs ask for twice the memory in all."""
    few, many = ([kind.wire(enlarged(event)) for event in kind.events(count)] for count in (KIBS, 2 * KIBS))
    assert asked(kind.format, many) <= LINEAR * asked(kind.format, few)
    assert asked(kind.format, crumbs(many)) <= LINEAR * asked(kind.format, crumbs(few))
