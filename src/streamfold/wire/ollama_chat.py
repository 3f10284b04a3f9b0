"""Ollama's own API: `/api/chat` and `/api/generate`, one JSON object a line.

Source: the `ChatResponse` and `GenerateResponse` of Ollama's API reference. Each line is the whole response with a
stretch of its text; the line with `done: true` is the last and brings the reason, the counts and the durations.
The same request unstreamed answers with that last object, in which the texts (`content`, `thinking`, `response`) are
all stretches joined, and `tool_calls` and `logprobs` are all lists joined. So the fold is:

* texts and lists grow, of every other field the latest value stays;
* what each line has anew but only the last one's counts (`created_at`, the progress of an image) is taken from the
  line with `done: true`. Until that has come, `created_at` is that of the first line.

Two things are odd. A tool call is whole when it comes, its `arguments` an object and not text, so several calls are
simply a longer list. And a failure after the first byte is a line `{"error": "text"}`, with the HTTP status that it
would have had beside it (`status`) or with none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from streamfold.growth import Extend, Fields, Latest, Model, Record, Skip, Text, Union, Word
from streamfold.types import JSON, AccumulatedData, ChatMessage, PromptTokensDetails, StreamType, TokenUsage
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.openai_message import objects, tool_call
from streamfold.wire.usage import count

__all__ = ["OllamaChat"]

MESSAGE = Record(role=Word, content=Text, thinking=Text, tool_calls=Extend, images=Union, tool_name=Latest)

RESPONSE = Record(
    model=Model,
    created_at=Skip,  # see `LAST_SAYS`
    message=MESSAGE,
    response=Text,
    thinking=Text,
    tool_calls=Extend,
    logprobs=Extend,
    image=Latest,
    completed=Skip,
    total=Skip,
    done=Latest,
    done_reason=Latest,
    context=Latest,
    total_duration=Latest,
    load_duration=Latest,
    prompt_eval_count=Latest,
    prompt_eval_cached_count=Latest,
    prompt_eval_duration=Latest,
    eval_count=Latest,
    eval_duration=Latest,
    status=Latest,
    error=Latest,
)

LAST_SAYS: Final = ("created_at", "completed", "total")
"""Fields that every line has anew; the unstreamed response has those of the last line."""

BRINGS: Final = {
    "content": OUTPUT | CONTENT,
    "response": OUTPUT | CONTENT,
    "image": OUTPUT | CONTENT,
    "images": OUTPUT | CONTENT,
    "thinking": OUTPUT,
    "tool_calls": OUTPUT,
}

FINISH_REASONS: Final = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}
"""`load` and `unload` (the request only moved a model) have no counterpart. The last is a word of copies of the API."""


class OllamaChat(Fold):
    """Folds the lines of `/api/chat` or `/api/generate` into the one object of `stream: false`."""

    __slots__ = ("_newest", "_top")

    format: ClassVar[str] = "ollama"
    stream_type: ClassVar[StreamType] = StreamType.CHAT_COMPLETION
    noise: ClassVar[tuple[str, ...]] = ("created_at",)

    def __init__(self) -> None:
        super().__init__()
        self._top: Fields = RESPONSE()
        self._newest: JSON = {}
        """What `LAST_SAYS`, of the first line until the last has come."""

    def add_event(self, event: JSON, name: str | None = None) -> int:
        error = error_of(event, name)
        if error is not None:
            return self._fail(event, error)
        flags = _brings(event)
        if self.ended and flags & CONTENT:
            self.flag("content_after_finish")
        self._check_shape(event)
        self._top.add(event)
        if event.get("done") is True:
            self._newest = {key: event[key] for key in LAST_SAYS if key in event}
            self.ended = True
            self.finished = self.finished or bool(event.get("done_reason"))
        elif not self.ended:
            for key in LAST_SAYS:
                if key in event and key not in self._newest:
                    self._newest[key] = event[key]
            if self._seeking and flags & OUTPUT:
                self._look_for_plain(event)
        return CHUNK | flags

    def _fail(self, event: JSON, error: Any) -> int:
        status = count(event.get("status"))
        if self.error is None:
            self.error = error_details(error, status=status if status is not None and 400 <= status <= 599 else None)
        self._top.add({"error": error} if error is event else {k: v for k, v in event.items() if k != "status"})
        return CHUNK

    def _check_shape(self, event: JSON) -> None:
        message, done = event.get("message"), event.get("done")
        if not isinstance(message, dict | None) or not isinstance(done, bool | None):
            self.flag("unexpected_shape")

    def _look_for_plain(self, event: JSON) -> None:
        """Marks a line of which one string is appended and all else is known. See `repeat.py`."""
        if event.get("logprobs") or event.get("tool_calls") or event.get("image"):
            return
        message = event.get("message")
        places: list[tuple[tuple[str | int, ...], Any, Any]] = [
            ((key,), event.get(key), self._top.get(key)) for key in ("response", "thinking")
        ]
        if isinstance(message, dict):
            if message.get("tool_calls"):
                return
            cell = self._top.get("message")
            if not isinstance(cell, Fields):
                return
            places += [(("message", key), message.get(key), cell.get(key)) for key in ("content", "thinking")]
        said = [place for place in places if place[1] is not None and place[1] != ""]
        if len(said) != 1:
            return
        path, value, target = said[0]
        if isinstance(value, str) and isinstance(target, Text):
            self._plain = (path, target)

    def response(self) -> JSON | None:
        top = self._top.value()
        if top is None:
            return None
        out: JSON = {}
        for key, value in top.items():
            if key not in LAST_SAYS:
                out[key] = value
            elif key in self._newest:
                out[key] = self._newest[key]
        return out

    def close(self) -> None:
        super().close()
        self._top.close()

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        if not isinstance(event.get("done"), bool):
            return False
        if isinstance(event.get("message"), dict) or isinstance(event.get("response"), str):
            return True  # servers that copy the API may leave out the rest
        return isinstance(event.get("created_at"), str) and any(key in event for key in ("image", "total"))

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        if "message" not in response and ("response" in response or "image" in response):
            data.stream_type = StreamType.TEXT_COMPLETION
        message = _message(response)
        data.output_message = message
        if message is not None:
            data.tool_calls = message.tool_calls
        data.raw_finish_reason = _text(response.get("done_reason"))
        data.finish_reason = FINISH_REASONS.get(data.raw_finish_reason or "")
        if data.finish_reason == "stop" and data.tool_calls:
            data.finish_reason = "tool_calls"  # Ollama says stop there too
        logprobs = objects(response.get("logprobs"))
        if logprobs:
            data.logprobs = {"content": logprobs}
        data.response_model = _text(response.get("model"))
        data.token_usage = _usage(response)


def _brings(event: Mapping[str, Any]) -> int:
    """What the model put out in a line."""
    flags = 0
    message = event.get("message")
    for part in (event, message) if isinstance(message, dict) else (event,):
        for key, brings in BRINGS.items():
            if part.get(key):
                flags |= brings
    return flags


def _message(response: Mapping[str, Any]) -> ChatMessage | None:
    native = response.get("message")
    if isinstance(native, dict):
        return _said(native, "content", native.get("images"))
    if any(key in response for key in ("response", "thinking", "tool_calls", "image")):
        return _said(response, "response", [response.get("image")])
    return None


def _said(native: Mapping[str, Any], text: str, images: Any) -> ChatMessage:
    """A message of the chat API, or a response of the generate API, which has the same fields at its top."""
    content, thinking = native.get(text), native.get("thinking")
    calls = [tool_call(call, place) for place, call in enumerate(objects(native.get("tool_calls")))]
    return ChatMessage(
        role=_text(native.get("role")),
        content=content if isinstance(content, str) else None,
        reasoning=thinking if isinstance(thinking, str) and thinking else None,
        tool_calls=calls or None,
        images=_images(images) or None,
    )


def _images(images: Any) -> list[JSON]:
    """Images are bare base64; nobody says of which kind."""
    found = images if isinstance(images, list) else []
    return [{"type": "image", "data": image} for image in found if isinstance(image, str) and image]


def _usage(response: Mapping[str, Any]) -> TokenUsage:
    """Ollama leaves a count of 0 out, and says no total. What it had in its cache is part of the prompt's count."""
    prompt, completion = count(response.get("prompt_eval_count")), count(response.get("eval_count"))
    cached = count(response.get("prompt_eval_cached_count"))
    details = None if cached is None else PromptTokensDetails(cached_read_tokens=cached)
    if prompt is None and completion is None:
        return TokenUsage(source="missing")
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=None if prompt is None or completion is None else prompt + completion,
        prompt_tokens_details=details,
        source="provider" if prompt is None or completion is None else "derived",
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
