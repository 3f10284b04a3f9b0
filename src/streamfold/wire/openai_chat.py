"""OpenAI chat completions, and the many servers that speak its dialects.

Source: the `ChatCompletionChunk` and `ChatCompletion` objects of OpenAI's API reference. A chunk is the response with
`message` spelled `delta` and every field optional; what each field does when chunks are put together is declared in
the records below, and the folded whole is their picture.

The message itself is `openai_message.py`. The dialects of this API need no names of providers: an empty string says
nothing (Azure, Ollama); `choices` may be missing, null or empty (usage chunks); usage may come on any chunk, be
cumulative, and stand at the top, in `x_groq` or inside a choice; a whole `message` beside the deltas is believed only
for what the deltas did not say (Perplexity); an error may stand at the top, inside a choice, in `x_groq`, or be no
more than a finish reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

from streamfold.growth import (
    ByIndex,
    Extend,
    Fields,
    First,
    Identity,
    Indexed,
    Label,
    Latest,
    Merge,
    Model,
    Record,
    Skip,
    Text,
    Word,
    index_of,
    is_empty,
    merged,
)
from streamfold.types import JSON, AccumulatedData, Choice, ErrorDetails, StreamType
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold, decode
from streamfold.wire.openai_message import (
    LOGPROBS,
    MESSAGE,
    OF_A_DELTA,
    Content,
    ToolCalls,
    Whole,
    brings,
    chat_message,
    growing_text,
    is_same_text,
    nameless_calls,
    objects,
    of_one_token,
    resent_arguments,
    snowflake_delta,
)
from streamfold.wire.pings import is_ping
from streamfold.wire.running_usage import RunningUsage
from streamfold.wire.usage import is_consistent, openai_usage, provider_cost

__all__ = ["FAILURES", "OpenAIChat", "chat_choice", "finish_reason"]


class Turns:
    """`messages` of a choice: what Azure's first preview of "on your data" has in the place of one message.

    The first is of a tool and says what was found; the last is the answer.
    """

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        self._cells = TURNS()

    def add(self, value: Any) -> None:
        if isinstance(value, list):
            self._cells.add([_without_mark(turn) for turn in objects(value)])

    def value(self) -> list[JSON] | None:
        turns = self._cells.value()
        return [_whole_turn(turn) for turn in turns] if turns is not None else None

    def close(self) -> None:
        self._cells.close()


TURNS = Indexed(Record(index=First, delta=MESSAGE))


def _whole_turn(turn: JSON) -> JSON:
    """A turn as the unstreamed response has it: what its deltas said stands in the turn itself."""
    said = turn.pop("delta", None)
    return {**turn, **(said or {})}


def _without_mark(turn: JSON) -> JSON:
    """A turn without the words that mark the end of the stream, which stand where its text would."""
    delta = turn.get("delta")
    if turn.get("end_turn") and isinstance(delta, dict) and delta.get("content") == "[DONE]":
        return {**turn, "delta": {**delta, "content": ""}}
    return turn


CHOICE = Record(
    index=Skip,  # the choice's name
    messages=Turns,
    delta=MESSAGE,
    message=Whole,
    text=Text,  # Together repeats there what the delta says
    finish_reason=Label,
    native_finish_reason=Label,
    logprobs=LOGPROBS,
    token_ids=Extend,
    content_filter_results=Merge,
    content_filter_result=Merge,
    usage=Merge,
    error=Latest,
)

CHUNK_RECORD = Record(
    id=Identity,
    object=Word,
    created=First,
    model=Model,
    token=Skip,  # the newest one (Together)
    choices=Skip,  # folded by index, see `_add_choice`
    obfuscation=Skip,  # padding against traffic analysis
    p=Skip,  # the same, of Mistral and of servers that pass it on
    sequence_number=Skip,  # of one chunk: a response has none
    prompt_progress=Skip,  # llama.cpp: how much of the prompt has been read
    stream_options=Skip,  # of the request (LiteLLM)
    tensorzero_raw_chunk=Skip,  # what the provider sent for this one
    tensorzero_original_chunk=Skip,
    system_fingerprint=Label,
    service_tier=Label,
    error=Latest,
    usage=Merge,
    x_groq=Merge,
    prompt_filter_results=Latest,
    timings=Merge,
    moderation=Merge,  # of the input first, of the output last
)


CHUNK_ENDING = ".chunk"
"""How the `object` of a chunk ends: Azure's extensions and text-generation-webui have names of their own before it."""

STREAMED_OBJECTS = ("chat.reasoning", "chat.reasoning.done", "chat.completion.done")
"""What else chunks call themselves: Perplexity, in its concise mode."""

LAST_OBJECTS = ("chat.completion", "chat.completion.done")
"""What the last chunk may call itself: a whole response where a stream was expected, or the end of Perplexity's."""

OF_A_CHUNK = (
    "obfuscation",
    "p",
    "prompt_progress",
    "sequence_number",
    "stream_options",
    "token",
    "tensorzero_raw_chunk",
    "tensorzero_original_chunk",
)
"""Fields of a chunk that no response has."""

MESSAGES = ("delta", "message", "messages")
"""Where a choice may have what it says."""

NUMBERS = (float, int)

GOES_ON = "null"
"""A finish reason that is none: DashScope's own API says it on every chunk, and servers before it pass it on."""

FAILURES = ("error", "network_error", "insufficient_system_resource", "abort")
"""Finish reasons of an answer that the server could not finish: OpenRouter, Zhipu, DeepSeek, vLLM."""


HELPER_EVENTS = frozenset({
    "chunk", "content.delta", "content.done", "refusal.delta", "refusal.done",
    "tool_calls.function.arguments.delta", "tool_calls.function.arguments.done",
    "logprobs.content.delta", "logprobs.content.done", "logprobs.refusal.delta", "logprobs.refusal.done",
})  # fmt: skip
"""Types of what the `stream()` helper of OpenAI's SDK yields: each chunk, and beside it what it has made of it."""


class OpenAIChat(Fold):
    """Folds `chat.completion.chunk` objects into a `chat.completion`."""

    __slots__ = ("_choices", "_running", "_top")

    format: ClassVar[str] = "openai-chat"
    stream_type: ClassVar[StreamType] = StreamType.CHAT_COMPLETION
    noise: ClassVar[tuple[str, ...]] = ("p",)

    def __init__(self) -> None:
        super().__init__()
        self._top = CHUNK_RECORD()
        self._choices: ByIndex[Fields] | None = None
        self._running: RunningUsage | None = None

    def add_event(self, event: JSON, name: str | None = None) -> int:
        choices = event.get("choices")
        if not choices or name is not None or "error" in event or "x_groq" in event:
            if choices is None and isinstance(kind := event.get("type"), str) and kind in HELPER_EVENTS:
                return self._add_helper_event(event)
            if choices is None and is_ping(event, name):
                return 0
            error = error_of(event, name)
            if error is not None:
                self._fail(error, event)
                if error is event:  # a frame that is nothing but an error
                    self._top.add({"error": event})
                    return CHUNK
            elif isinstance(groq := event.get("x_groq"), dict) and groq.get("error"):
                self._fail(groq["error"])
        self._top.add(event)
        if isinstance(choices, dict):
            choices = (choices,)
        if not choices and event.get("usage"):
            self._running = None  # usage without a choice is that of all
        if not isinstance(choices, list | tuple):
            return CHUNK
        if self._choices is None:
            self._choices = ByIndex()
        flags = CHUNK
        for place, choice in enumerate(choices):
            if isinstance(choice, dict):
                flags |= self._add_choice(choice, place)
        usage = event.get("usage")
        if usage and isinstance(usage, dict) and len(choices) == 1:
            self._note_usage(choices[0], usage, flags)
        if event.get("object") in LAST_OBJECTS and _is_whole(choices, event["object"]):
            self.ended = True
        if self._seeking and flags & OUTPUT and len(choices) == 1 and not self.finished and type(choices) is list:
            self._look_for_plain(choices[0])
        return flags

    def _add_choice(self, choice: Mapping[str, Any], place: int) -> int:
        index = choice.get("index")
        if type(index) is not int:
            named = index_of(index)
            index = place if named is None else named
        assert self._choices is not None
        cell = self._choices.get(index)
        if cell is None:
            if self.full:
                return 0
            cell = self._choices[index] = CHOICE()
        delta = choice.get("delta")
        if isinstance(delta, dict) and delta.get("type") and ("content_list" in delta or delta["type"] == "tool_use"):
            delta = snowflake_delta(delta)
            choice = {**choice, "delta": delta}
        flags = brings(delta) if isinstance(delta, dict) else 0
        if self.finished and flags & CONTENT and cell.said("finish_reason"):
            self.flag("content_after_finish")
        reason = choice.get("finish_reason")
        if reason == GOES_ON:
            choice, reason = {**choice, "finish_reason": None}, None
        if reason:
            if isinstance(delta, dict) and not cell.said("finish_reason") and _is_replay(cell, delta):
                # The protocol says to append it all the same.
                self.flag("terminal_delta_equals_accumulated")
            self.finished = True
        if not flags and cell.get("delta") is None:
            flags = _whole_brings(choice)
            if any(turn.get("end_turn") for turn in objects(choice.get("messages"))):
                self.ended = True
        logprobs = choice.get("logprobs")
        if logprobs is not None and type(logprobs) in NUMBERS:
            choice = {**choice, "logprobs": of_one_token(logprobs, delta)}
        cell.add(choice)
        if choice.get("error"):
            self._fail(choice["error"])
        elif reason and reason in FAILURES and self.error is None:
            # OpenRouter and others may say no more than that.
            native = choice.get("native_finish_reason") or (reason if reason != "error" else None)
            self.error = ErrorDetails(type="error", code=native if isinstance(native, str) else None)
        return flags

    def _note_usage(self, choice: Any, usage: JSON, flags: int) -> None:
        if not isinstance(choice, dict):
            return
        if self._running is None:
            self._running = RunningUsage()
        self._running.add(index_of(choice.get("index")) or 0, usage, output=bool(flags & OUTPUT))

    def finish_view(self, data: AccumulatedData) -> None:
        if self._running is not None and data.token_usage is not None:
            self._running.complete(data.token_usage)

    def add_value(self, value: Any, name: str | None) -> int:
        if isinstance(value, str):  # from a proxy that encodes every payload
            if value == "[DONE]":
                self.ended = True
                return 0
            with suppress(ValueError, RecursionError):
                event = decode(value.encode())
                if isinstance(event, dict):
                    return self.add_decoded(event, name)
        return super().add_value(value, name)

    def _add_helper_event(self, event: JSON) -> int:
        """An event of the SDK's `stream()` helper: the chunk inside it counts, what it has made of it does not."""
        self._seeking = False
        chunk = event.get("chunk")
        return self.add_event(chunk) if isinstance(chunk, dict) else 0

    def _fail(self, error: Any, beside: JSON | None = None) -> None:
        """Takes an error. The first one that says anything stays: what follows it is its consequence."""
        if self.error is None or not self.error.message:
            self.error = error_details(error, beside=beside)

    def _look_for_plain(self, choice: Mapping[str, Any]) -> None:
        """Marks the frame as one whose whole effect is one string appended, if it is. See `repeat.py`."""
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        if choice.get("logprobs") or choice.get("token_ids") or choice.get("message") or choice.get("text"):
            return
        if choice.get("logprobs") == 0:  # a certain token
            return
        index = index_of(choice.get("index")) or 0
        cell = self._choices.get(index) if self._choices is not None else None
        message = cell.get("delta") if cell is not None else None
        found = growing_text(delta, message) if isinstance(message, Fields) else None
        if found is not None:
            path, target = found
            self._plain = (("choices", 0, "delta", *path), target)

    def is_complete(self) -> bool:
        return self.finished and all(cell.said("finish_reason") for cell in self._cells())

    def response(self) -> JSON | None:
        top = self._top.value()
        if top is None:
            return None
        for key in OF_A_CHUNK:
            top.pop(key, None)
        if self._choices is not None:
            top["choices"] = [_choice_value(index, cell) for index, cell in self._choices.items()]
        _move_usage(top)
        kind = top.get("object")
        if kind in STREAMED_OBJECTS:
            top["object"] = "chat.completion"
        elif isinstance(kind, str):
            top["object"] = kind.removesuffix(CHUNK_ENDING)
        return top

    def envelope(self) -> Fields:
        return self._top

    @property
    def anomalies(self) -> list[str]:
        found = super().anomalies
        if any(nameless_calls(choice.get("delta")) for choice in self._cells()):
            found.append("nameless_tool_call")
        if any(resent_arguments(choice.get("delta")) for choice in self._cells()):
            found.append("resent_arguments")
        if not is_consistent(self._top.said("usage")):
            found.append("usage_inconsistent")
        return found

    def close(self) -> None:
        super().close()
        for choice in self._cells():
            choice.close()

    def _cells(self) -> list[Fields]:
        """The choices so far."""
        return self._choices.values() if self._choices is not None else []

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        kind = str(event.get("object", ""))
        if "choices" not in event and isinstance(event.get("result"), str):
            return False  # ERNIE's own API calls its answers chat completions too
        if kind.startswith(("chat.completion", "chat.reasoning")):
            return True
        if kind.startswith(("transcription.", "translation.")):
            return False  # an older vLLM streams these as if they were chats
        if event.get("type") == "chunk" and isinstance(event.get("chunk"), dict):
            return cls.recognises(event["chunk"], None)
        choices = event.get("choices")
        if not isinstance(choices, list):
            return False
        if not choices:
            # Azure's verdict on the prompt opens text completions too.
            return event.get("object") not in ("", "text_completion")
        first = choices[0]
        return isinstance(first, dict) and not first.keys().isdisjoint(MESSAGES)

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        choices = [chat_choice(choice, place) for place, choice in enumerate(objects(response.get("choices")))]
        if choices:
            first = min(choices, key=lambda choice: choice.index)
            data.output_message = first.message
            data.tool_calls = first.message.tool_calls
            data.raw_finish_reason = first.finish_reason
            data.logprobs = first.logprobs
            for choice in choices:
                choice.finish_reason = finish_reason(choice.finish_reason)
            data.finish_reason = first.finish_reason
            if len(choices) > 1:
                data.choices = choices
        data.response_model = response.get("model") or None
        data.response_id = response.get("id") or None
        data.system_fingerprint = response.get("system_fingerprint") or None
        usage = _usage_of(response)
        tier = response.get("service_tier")
        if not tier and isinstance(usage, dict):
            tier = usage.get("service_tier")  # Mistral says it there
        data.service_tier = tier if isinstance(tier, str) and tier else None
        data.token_usage = openai_usage(usage)
        if isinstance(cost := response.get("cost"), dict):  # Venice; a bare number would have no currency
            data.cost = provider_cost({"cost": cost})


def _is_whole(choices: Any, said: str) -> bool:
    """Whether these are the choices of an unstreamed response. Some servers give their chunks its `object`."""
    if said == "chat.completion.done":
        return True
    return bool(choices) and all(
        isinstance(choice, dict) and isinstance(choice.get("message"), dict) and not choice.get("delta")
        for choice in choices
    )


def _is_replay(choice: Fields, delta: Mapping[str, Any]) -> bool:
    """Whether a last delta holds the whole answer again."""
    message = choice.get("delta")
    if not isinstance(message, Fields):
        return False
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, Content) and content.is_text and is_same_text(content.text, delta.get("content")):
        return True
    return isinstance(calls, ToolCalls) and calls.has_said(delta.get("tool_calls"))


def _whole_brings(choice: Mapping[str, Any]) -> int:
    """What a choice without deltas brings: a whole message, or a bare text."""
    message = choice.get("message")
    if isinstance(message, dict):
        return brings(message)
    for turn in objects(choice.get("messages")):
        said = _without_mark(turn).get("delta", turn)
        if isinstance(said, dict) and said.get("role") != "tool" and (flags := brings(said)):
            return flags
    return OUTPUT | CONTENT if choice.get("text") else 0


def _choice_value(index: int, cell: Fields) -> JSON:
    """A choice as the unstreamed response has it: `delta` becomes `message`."""
    out: JSON = {"index": index}
    for key, value in (cell.value() or {}).items():
        if key == "delta":
            out["message"] = value if value is not None else {}
        elif key not in ("message", "index"):
            out[key] = value
    if "message" in out:
        out.pop("text", None)
        for key in OF_A_DELTA:
            out["message"].pop(key, None)
    whole = cell.get("message")
    if whole is not None and isinstance(said := whole.value(), dict):
        streamed = out.get("message") or {}
        out["message"] = {**said, **{key: item for key, item in streamed.items() if not is_empty(item) and item != []}}
    return out


def _move_usage(response: JSON) -> None:
    """Moves usage to the top, where the unstreamed response of the same server has it.

    What differs from the top stays where it was said.
    """
    usage = _usage_of(response)
    if not usage:
        return
    response["usage"] = usage
    groq = response.get("x_groq")
    if isinstance(groq, dict) and (groq.get("usage") == usage or "usage_breakdown" in groq):
        response["x_groq"] = groq = dict(groq)
        if groq.get("usage") == usage:
            del groq["usage"]
        if response.get("usage_breakdown") is None and "usage_breakdown" in groq:
            response["usage_breakdown"] = groq.pop("usage_breakdown")
    for choice in objects(response.get("choices")):
        if choice.get("usage") == usage:
            del choice["usage"]


def _usage_of(response: JSON) -> Any:
    """The usage, wherever it stands: at the top, in Groq's envelope, or inside a choice (Moonshot)."""
    usage = response.get("usage")
    if not usage and isinstance(response.get("x_groq"), dict):
        usage = response["x_groq"].get("usage")
    if not usage:
        for choice in objects(response.get("choices")):
            usage = merged(usage, choice.get("usage"))
    return usage


FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "function_call",
    # Words of other servers behind this API.
    "normal": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "complete": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "sensitive": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "prohibited_content": "content_filter",
    "blocklist": "content_filter",
    "spii": "content_filter",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "refusal": "content_filter",
}


def finish_reason(raw: str | None) -> str | None:
    """OpenAI's word for a finish reason, or None for a word that has no counterpart there."""
    return FINISH_REASONS.get(raw.lower().replace("-", "_")) if raw else None


def chat_choice(choice: Mapping[str, Any], place: int) -> Choice:
    """A native choice (streamed and folded, or as it came) as a neutral one."""
    index = index_of(choice.get("index"))
    logprobs, reason = choice.get("logprobs"), choice.get("finish_reason")
    turns = objects(choice.get("messages"))
    message = chat_message(choice.get("message") or choice.get("delta") or (turns[-1] if turns else {}))
    if message.content is None and isinstance(choice.get("text"), str):
        message.content = choice["text"]
    return Choice(
        index=place if index is None else index,
        message=message,
        finish_reason=str(reason) if reason else None,
        logprobs=logprobs if isinstance(logprobs, dict) else None,
    )
