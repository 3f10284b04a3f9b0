"""Mistral: chat completions, conversations, and the streams of its audio API.

Source: the `CompletionChunk`, `ConversationEvents`, `TranscriptionStreamEvents` and `SpeechStreamEvents` of Mistral's
API reference, each with its unstreamed counterpart. Which of the four a stream is shows in its first frame, as only
chat chunks have no `type`.

**Chat** is OpenAI's protocol, folded by `OpenAIChat`, with differences that need a name: `content` may be a list of
typed parts, which grow part by part (`Parts`); a whole tool call keeps its `index`, and `"null"` is the spelling of
an id that is not there; a choice may hold several messages told apart by the `index` of their deltas; and `p` is
padding against traffic analysis.

**Conversations** fold in `mistral_conversation.py`. They have no finish reason.

**Transcription** and **speech** are told as OpenAI tells them, in dialects that `OpenAITranscription` and
`OpenAISpeech` know; they do the work here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from streamfold.growth import (
    Fields,
    First,
    Latest,
    Merge,
    Record,
    Skip,
    Text,
    Word,
    index_of,
    is_empty,
)
from streamfold.types import (
    JSON,
    AccumulatedData,
    StreamType,
    TokenUsage,
)
from streamfold.wire.errors import error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.mistral_conversation import ENTRIES, Conversation, Parts, content_brings, view_conversation
from streamfold.wire.openai_chat import OpenAIChat
from streamfold.wire.openai_message import LOGPROBS, ToolCalls, objects
from streamfold.wire.openai_speech import OpenAISpeech
from streamfold.wire.openai_transcription import OpenAITranscription, transcription_usage
from streamfold.wire.pings import is_ping
from streamfold.wire.usage import count

__all__ = ["MistralChat"]

NO_ID: Final = "null"
"""The default of a tool call's id in Mistral's schema, which some servers send."""


class Calls(ToolCalls):
    """The tool calls of a message, which unlike OpenAI's keep the index they came with."""

    __slots__ = ("_numbered",)

    def __init__(self) -> None:
        super().__init__()
        self._numbered = False

    def add(self, value: Any) -> None:
        entries = objects([value] if isinstance(value, dict) else value)
        self._numbered = self._numbered or any(index_of(entry.get("index")) is not None for entry in entries)
        super().add([{**entry, "id": None} if entry.get("id") == NO_ID else entry for entry in entries])

    def value(self) -> list[JSON] | None:
        calls = super().value()
        if calls is not None and self._numbered:
            for (index, _), call in zip(sorted(self._calls or (), key=lambda pair: pair[0]), calls, strict=True):
                call["index"] = index
        return calls


MESSAGE = Record(
    index=Skip,  # names the message in its choice
    role=Word,
    content=Parts,
    tool_calls=Calls,
    tool_call_id=First,
    metadata=Merge,
    # Models of others that Mistral serves may bring their own field.
    reasoning_content=Text,
)


class Messages(Fields):
    """The message of a choice, or its messages: the `index` of a delta says of which it speaks."""

    __slots__ = ("_others",)

    def __init__(self) -> None:
        super().__init__(MESSAGE)
        self._others: dict[int, Fields] | None = None

    @property
    def several(self) -> bool:
        return self._others is not None

    def add(self, value: Any) -> None:
        index = index_of(value.get("index")) if isinstance(value, dict) else None
        if not index:
            super().add(value)
            return
        if self._others is None:
            self._others = {}
        cell = self._others.get(index)
        if cell is None:
            if self._shut:
                return
            cell = self._others[index] = MESSAGE()
        cell.add(value)

    def value(self) -> JSON | None:
        first = super().value()
        if self._others is None:
            return _without_index(first)
        others = [self._others[index].value() for index in sorted(self._others)]
        return {"messages": [_without_index(each) for each in (first, *others) if each is not None]}

    def close(self) -> None:
        super().close()
        for cell in (self._others or {}).values():
            cell.close()


def _without_index(message: JSON | None) -> JSON | None:
    if message is not None:
        message.pop("index", None)
    return message


CHOICE = Record(
    index=Skip,
    delta=Messages,
    message=Latest,
    messages=Latest,
    finish_reason=Latest,
    logprobs=LOGPROBS,
    prompt_logprobs=Latest,
    error=Latest,
)


class MistralChat(OpenAIChat):
    """Folds a stream of Mistral's into the `ChatCompletionResponse`, `ConversationResponse`, … of the same request."""

    __slots__ = ("_audio", "_conversation", "_whole")

    format: ClassVar[str] = "mistral"
    noise: ClassVar[tuple[str, ...]] = ("p", "created_at")

    def __init__(self) -> None:
        super().__init__()
        self._conversation: Conversation | None = None
        self._audio: Fold | None = None
        """The fold of a transcription, or of speech."""
        self._whole: JSON | None = None

    def add_event(self, event: JSON, name: str | None = None) -> int:
        if event.keys() <= {"data", "event"} and isinstance(event.get("data"), dict):
            # An event object of Mistral's SDK, which keeps the frame around the payload.
            event, name = event["data"], event.get("event") or name
            self._seeking = False
        kind = event.get("type")
        if not isinstance(kind, str) and "choices" not in event:
            kind = name
        if not isinstance(kind, str):
            return self._add_nameless(event, name)
        handler = HANDLERS.get(kind)
        if handler is not None:
            return handler(self, event, kind)
        audio = _audio_of(kind)
        if audio is not None:
            return self._add_audio(event, name, audio)
        if "choices" not in event and error_of(event, name) is None:
            return 0 if is_ping(event, kind) else self.keep_unknown(event)
        return super().add_event(event, name)

    def _add_nameless(self, event: JSON, name: str | None) -> int:
        """A chunk of a chat, or a whole response where a stream was expected."""
        if "choices" not in event and error_of(event, name) is None:
            if isinstance(event.get("outputs"), list):
                self.ended = True
                self._whole = event
                return CHUNK | OUTPUT
            for field, audio in WHOLE_AUDIO.items():
                if isinstance(event.get(field), str):
                    return self._add_audio(event, name, audio)
        return super().add_event(event, name)

    # ------------------------------------------------------------------ chat

    def _add_choice(self, choice: Mapping[str, Any], place: int) -> int:
        index = index_of(choice.get("index"))
        index = place if index is None else index
        if self._choices is not None and index not in self._choices and not self.full:
            self._choices[index] = CHOICE()
        flags = super()._add_choice(choice, place)
        delta = choice.get("delta")
        if isinstance(delta, dict) and isinstance(delta.get("content"), list):
            flags = flags & ~CONTENT | content_brings(delta["content"])  # thoughts are not seen
        return flags

    def _look_for_plain(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta")
        index = index_of(choice.get("index")) or 0
        cell = self._choices.get(index) if self._choices is not None else None
        message = cell.get("delta") if cell is not None else None
        if not isinstance(delta, dict) or not isinstance(message, Messages) or message.several:
            return
        content, parts = delta.get("content"), message.get("content")
        if not content:
            super()._look_for_plain(choice)
            return
        if choice.get("logprobs") or choice.get("message") or not isinstance(parts, Parts):
            return
        if any(key not in QUIET and not is_empty(value) and value != [] for key, value in delta.items()):
            return
        found = parts.place(content)
        if found is not None:
            self._plain = (("choices", 0, "delta", "content", *found[0]), found[1])

    # ------------------------------------------------------------------ conversations

    def _start_conversation(self, event: JSON, kind: str) -> int:
        self._talk().top.add(event)
        return CHUNK

    def _end_conversation(self, event: JSON, kind: str) -> int:
        self.ended = True
        self._talk().top.add(event)
        return CHUNK

    def _fail_conversation(self, event: JSON, kind: str) -> int:
        self._fail(event)
        self._talk().top.add({"error": event})
        return CHUNK

    def _grow_entry(self, event: JSON, kind: str) -> int:
        entry = self._talk().entry(ENTRIES[kind], event)
        content = event.get("content")
        flags = content_brings(content) if "content" in event else OUTPUT
        if entry is None:
            return CHUNK | flags
        entry.fields.add(event)
        if "content" in event:
            parts = entry.content(index_of(event.get("content_index")) or 0)
            if self.full:
                parts.close()
            parts.add(content)
            alone = self._seeking and content and not event.get("arguments")
            found = parts.place(content) if alone else None
            if found is not None:
                self._plain = (("content", *found[0]), found[1])
        elif self._seeking and isinstance(event.get("arguments"), str):
            arguments = entry.fields.get("arguments")
            self._plain = (("arguments",), arguments) if isinstance(arguments, Text) else None
        return CHUNK | flags

    def _talk(self) -> Conversation:
        if self._conversation is None:
            self._conversation = Conversation()
            self._conversation.shut = self.full
        return self._conversation

    # ------------------------------------------------------------------ audio

    def _add_audio(self, event: JSON, name: str | None, kind: type[Fold]) -> int:
        """Hands an event of the audio API to the fold that knows it, and takes over what became of it."""
        audio = self._audio
        if audio is None:
            audio = self._audio = kind()
            if self.full:
                audio.close()
        audio._seeking = self._seeking
        audio._plain = None
        flags = audio.add_event(event, name)
        self._plain = audio._plain
        self.ended, self.finished = audio.ended, audio.finished
        self.error = audio.error or self.error
        for code in audio.anomalies:
            self.flag(code)
        return flags

    # ------------------------------------------------------------------ all

    def response(self) -> JSON | None:
        found = self._response()
        return {**found, **self.unknown_events} if found is not None else self.unknown_events or None

    def _response(self) -> JSON | None:
        if self._whole is not None:
            return dict(self._whole)
        if self._conversation is not None:
            return self._conversation.value()
        if self._audio is not None:
            heard = self._audio.response()
            if heard is not None and isinstance(self._audio, OpenAISpeech) and "audio" in heard:
                # Unstreamed speech is an object here; OpenAI's is the bare sound.
                return {"audio_data": heard.pop("audio"), **heard}
            return heard
        chat = super().response()
        if chat is None:
            return None
        if isinstance(chat.get("p"), str):
            del chat["p"]
        for choice in objects(chat.get("choices")):
            message = choice.get("message")
            if isinstance(message, dict) and message.keys() == {"messages"}:
                choice.update(choice.pop("message"))
        return chat

    def close(self) -> None:
        super().close()
        for part in (self._conversation, self._audio):
            if part is not None:
                part.close()

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        kind = event.get("type")
        if event.get("object") == "conversation.response":
            return isinstance(event.get("outputs"), list)
        return isinstance(kind, str) and kind in HANDLERS

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        if isinstance(response.get("outputs"), list):
            view_conversation(response, data)
        elif "audio_data" in response:
            data.stream_type = StreamType.AUDIO_SPEECH
            OpenAISpeech.view(response, data)
        elif "choices" not in response and "text" in response:
            data.stream_type = StreamType.AUDIO_TRANSCRIPTION
            OpenAITranscription.view(response, data)
        else:
            _view_chat(response, data)
        usage = response.get("usage")
        data.token_usage = _usage(usage)
        if isinstance(usage, dict) and isinstance(usage.get("service_tier"), str):
            data.service_tier = usage["service_tier"]


QUIET: Final = frozenset({"content", "role", "index", "tool_call_id", "metadata"})
"""The content of a delta, and the fields that are as they were when they are said again."""

HANDLERS: Final[dict[str, Callable[[MistralChat, JSON, str], int]]] = {
    "conversation.response.started": MistralChat._start_conversation,
    "conversation.response.done": MistralChat._end_conversation,
    "conversation.response.error": MistralChat._fail_conversation,
    **dict.fromkeys(ENTRIES, MistralChat._grow_entry),
}


WHOLE_AUDIO: Final[dict[str, type[Fold]]] = {"text": OpenAITranscription, "audio_data": OpenAISpeech}
"""The field that tells an unstreamed response of the audio API."""


def _audio_of(kind: str) -> type[Fold] | None:
    """The fold for an event of the audio API."""
    if kind.startswith("transcription."):
        return OpenAITranscription
    return OpenAISpeech if kind.startswith("speech.") else None


def _view_chat(response: JSON, data: AccumulatedData) -> None:
    several: list[JSON] = []
    choices: list[JSON] = []
    for choice in objects(response.get("choices")):
        messages = objects(choice.get("messages"))
        if messages and "message" not in choice:
            # Between the first and the last stand the results of tools that Mistral ran.
            choice = {**choice, "message": messages[-1]}
            several += messages
        choices.append(choice)
    OpenAIChat.view({**response, "choices": choices} if choices else response, data)
    data.output_messages = several or None
    for call in data.tool_calls or ():
        if call.id == NO_ID:
            call.id = None


def _usage(usage: Any) -> TokenUsage:
    found = transcription_usage(usage)
    if not isinstance(usage, dict):
        return found
    connectors = {key: usage[key] for key in ("connectors", "connector_tokens") if usage.get(key)}
    if connectors and count(usage.get("connector_tokens")) is not None:
        found.server_tool_use = connectors
    return found
