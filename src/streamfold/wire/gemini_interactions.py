"""Google's Interactions API: a model's turn, or an agent's run, told step by step.

Source: the `InteractionSSEEvent` and `Interaction` of Google's API reference. `interaction.created` names the
interaction; `step.start` opens the step of an `index`, a `step.delta` grows it, `step.stop` says that it is whole, and
`interaction.completed` brings the status and the usage, seldom the steps. The unstreamed interaction has them as a
list, and so has the folded one. The first version of the API had no steps: an `interaction.start` was followed by the
contents themselves (`content.start`, `content.delta`, `content.stop`), which the whole has as `outputs`.

How a delta grows its step depends on its type only. Text, and sound, continue the last content of a model's output if
that is of their kind; a picture is one of its own. A stretch of a thought's summary continues the summary. Arguments
of a function call come as text, of which only a whole document becomes the object that the unstreamed step has. Calls
of Google's own tools, and their results, are said as fields of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from streamfold.growth import Base64, Cell, Extend, Fields, First, Identity, Latest, Merge, Record, Skip, Text, Word
from streamfold.growth import index_of as number
from streamfold.types import JSON, AccumulatedData, ChatMessage, FunctionCall, MessageAudio, ToolCall
from streamfold.wire.fold import CONTENT, OUTPUT
from streamfold.wire.gemini_metadata import object_in, objects_in
from streamfold.wire.gemini_view import token_usage
from streamfold.wire.openai_message import is_complete_json

__all__ = ["Interaction", "is_event", "is_interaction", "view_interaction"]

INTERACTION = Record(
    id=Identity, model=Identity, object=Word, status=Latest, created=First, updated=Latest, usage=Merge,
    steps=Skip, outputs=Skip, continuation_token=Skip,
)  # fmt: skip
PART = Record(type=Word, text=Text, data=Base64, annotations=Extend)

ENDS: Final = frozenset({
    "completed", "failed", "cancelled", "incomplete", "requires_action", "budget_exceeded", "requires_continuation",
})  # fmt: skip
"""Statuses after which nothing more comes."""

ALIVE: Final = frozenset({"queued", "in_progress"})
STATUSES: Final = ENDS | ALIVE

LAST: Final = frozenset({"interaction.completed", "interaction.complete"})
"""The event after which nothing more comes, now and in the first version."""

FINISHES: Final = {
    "completed": "stop",
    "requires_action": "tool_calls",
    "incomplete": "length",
    "budget_exceeded": "length",
}
"""OpenAI's word for a status. One that is to be continued, or failed, has none there."""

PARTS: Final = frozenset({"text", "image", "audio", "video", "document"})
"""Types of deltas that are content of an answer."""

BEGINNINGS: Final = ("interaction.", "step.", "content.")


def is_event(event: Mapping[str, Any]) -> bool:
    """Whether a frame is an event of this API."""
    kind = event.get("event_type")
    return isinstance(kind, str) and (kind.startswith(BEGINNINGS) or (kind == "error" and "error" in event))


def is_interaction(response: Mapping[str, Any]) -> bool:
    """Whether this is a whole interaction, unstreamed or folded."""
    if "object" in response:
        return bool(response["object"] == "interaction")
    listed = response.get("steps", response.get("outputs"))
    return response.get("status") in STATUSES and (isinstance(listed, list) or "id" in response)


class Contents:
    """The contents of an answer, or of a thought's summary. A stretch continues the last one if it is of its kind."""

    __slots__ = ("_null", "_parts", "_shut")

    def __init__(self) -> None:
        self._null = True  # nothing but null so far
        self._parts: list[Cell] = []
        self._shut = False

    def add(self, value: Any) -> None:
        self._null = self._null and value is None
        for part in value if isinstance(value, list) else (value,):
            if isinstance(part, dict) and not self._shut:
                self._add_part(part)

    def _add_part(self, part: JSON) -> None:
        last = self._parts[-1] if self._parts else None
        kind = part.get("type")
        continues = kind in ("text", "audio") or "mime_type" not in part
        if continues and isinstance(last, Fields) and last.said("type") == kind:
            last.add(part)
            return
        cell = PART()
        cell.add(part)
        self._parts.append(cell)

    @property
    def last(self) -> Fields | None:
        last = self._parts[-1] if self._parts else None
        return last if isinstance(last, Fields) else None

    def value(self) -> list[Any] | None:
        return [part.value() for part in self._parts] if not self._null else None

    def close(self) -> None:
        self._shut = True
        for part in self._parts:
            part.close()


class Arguments:
    """The arguments of a call: an object that is said at once, or the text of one in pieces."""

    __slots__ = ("_said", "text")

    def __init__(self) -> None:
        self.text = Text()
        self._said: Any = None

    def add(self, value: Any) -> None:
        if isinstance(value, str):
            self.text.add(value)
        elif value is not None:
            self._said = value

    def value(self) -> Any:
        text = self.text.value()
        if not text:
            return self._said
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return text  # cut off: it stays what was sent

    def close(self) -> None:
        self.text.close()


STEP = Record(
    type=Word, content=Contents, summary=Contents, signature=Latest, arguments=Arguments, text=Text, data=Base64,
    annotations=Extend,
)  # fmt: skip


class Interaction:
    """A growing `Interaction`."""

    __slots__ = ("_by_index", "_counted", "_shut", "_steps", "_token", "_whole", "ended", "error", "top")

    def __init__(self) -> None:
        self.top: Fields = INTERACTION()
        self.error: Any = None
        self.ended = False
        self._token: JSON = {}
        """With it a client can go on. It comes while the stream goes on, lest it be cut; the last event settles it."""
        self._steps: bool | None = None  # whether the list is called `steps`; None while there is none
        self._by_index: dict[int, Fields] = {}
        self._counted: JSON = {}
        """The usage so far, which any event may have beside it. The interaction's own comes with the last event."""
        self._whole: JSON = {}
        """Lists that the last event brought whole, which are believed over what was streamed."""
        self._shut = False

    def add(self, event: JSON) -> int:
        """Folds an event. Returns what it brought, as flags of `fold`."""
        kind = event["event_type"]
        counted = event.get("usage") or object_in(event.get("metadata")).get("total_usage")
        if counted:
            self._counted = dict(object_in(counted)) or self._counted
        if kind == "error":
            self.error = event["error"]
            return 0
        if kind.startswith("interaction."):
            return self._add_interaction(event)
        steps = self._steps = kind.startswith("step.")
        index = number(event.get("index")) or 0
        if kind.endswith(".start"):
            return self._start(index, object_in(event.get("step" if steps else "content")))
        if kind.endswith(".delta"):
            return self._grow(index, object_in(event.get("delta")), steps)
        return 0

    def take(self, interaction: JSON, *, last: bool = False) -> int:
        """Takes a whole interaction, and says what is in it. `last`: nothing comes after it."""
        self.top.add({key: value for key, value in interaction.items() if key not in ("steps", "outputs")})
        if not last and interaction.get("status") not in ENDS:
            self._token = _token(interaction) or self._token
            return 0
        self.ended, self._token = True, _token(interaction)
        self._whole = {key: interaction[key] for key in ("steps", "outputs") if interaction.get(key)}
        if interaction.get("status") == "failed" and self.error is None:
            self.error = self._failure(interaction)
        message = _message(self._whole)
        return (OUTPUT | CONTENT if message.content else 0) | (OUTPUT if message != ChatMessage() else 0)

    def place(self, event: Mapping[str, Any]) -> Text | None:
        """Where the one string went that an event appended; None if it did more than that."""
        delta = event.get("delta")
        if event.keys() != {"event_type", "index", "delta"} or not isinstance(delta, dict):
            return None
        if delta.keys() != {"type", "text"} or delta["type"] != "text" or not isinstance(delta["text"], str):
            return None
        step = self._by_index.get(number(event.get("index")) or 0)
        content = step.get("content") if step is not None and self._steps else step
        last = content.last if isinstance(content, Contents) else content
        text = last.get("text") if isinstance(last, Fields) else None
        return text if isinstance(text, Text) else None

    def value(self) -> JSON:
        out = self.top.value() or {}
        out.pop("steps", None)
        out.pop("outputs", None)
        if self._steps is not None:
            key = "steps" if self._steps else "outputs"
            out[key] = [self._by_index[index].value() or {} for index in sorted(self._by_index)]
        if self._counted and not out.get("usage"):
            out["usage"] = self._counted
        if out.get("id") == "":  # an interaction that is not stored has none, but for its events
            del out["id"]
        out.pop("continuation_token", None)
        return {**out, **self._token, **self._whole}

    def texts_of_arguments(self) -> list[str | None]:
        """The arguments of each function call as they were sent, in order; None where they were an object."""
        calls = (self._by_index[index] for index in sorted(self._by_index))
        return [_sent(call) for call in calls if call.said("type") == "function_call"]

    def close(self) -> None:
        self._shut = True
        for step in (self.top, *self._by_index.values()):
            step.close()

    def _add_interaction(self, event: JSON) -> int:
        said = event.get("interaction")
        last = event["event_type"] in LAST and object_in(said).get("status") not in ALIVE
        if isinstance(said, dict):
            return self.take(said, last=last)
        status = {"id": event.get("interaction_id"), "status": event.get("status")}
        self.top.add({key: value for key, value in status.items() if value})
        self._token = _token(event) or self._token
        self.ended = self.ended or last
        return 0

    def _failure(self, interaction: Mapping[str, Any]) -> Any:
        """Why the interaction failed: what it says itself, else what the newest step says that failed."""
        steps = [step.value() for step in self._by_index.values()]
        failed = [error for step in reversed(steps) if isinstance(error := object_in(step).get("error"), dict)]
        return next(iter([*objects_in(interaction.get("errors")), *failed]), {"type": "failed"})

    def _start(self, index: int, said: Mapping[str, Any]) -> int:
        step = self._step(index)
        if step is None:
            return 0
        step.add(_said(said))
        return _brings(said.get("type"), said)

    def _grow(self, index: int, delta: Mapping[str, Any], steps: bool) -> int:
        step = self._step(index)
        kind = delta.get("type")
        if step is None:
            return 0
        delta = _said(delta)
        fields = {key: value for key, value in delta.items() if key != "type"}
        if kind in ("text_annotation_delta", "text_annotation"):
            content = step.get("content")
            last = content.last if isinstance(content, Contents) else None
            (last or step).add(fields)
            return 0
        if kind == "thought_summary":
            step.add({"type": "thought", "summary": [delta.get("content")]})
            return OUTPUT
        if kind == "thought_signature":
            step.add({"type": "thought", **fields} if step.get("type") is None else fields)
            return 0
        if kind == "arguments_delta":
            said = delta.get("arguments", delta.get("partial_arguments"))
            step.add({"arguments": said})
            return OUTPUT if said else 0
        if steps and kind in PARTS:
            step.add({"type": "model_output", "content": [dict(delta)]})
            return _brings("model_output", {"content": [delta]})
        step.add(dict(delta))
        return _brings(kind, delta)

    def _step(self, index: int) -> Fields | None:
        """The step of an index, made if need be; None when the response has stopped growing."""
        step = self._by_index.get(index)
        if step is None and not self._shut:
            step = self._by_index[index] = STEP()
        return step


def _token(fields: Mapping[str, Any]) -> JSON:
    """The field with which a client can go on, if it is there."""
    return {key: fields[key] for key in ("continuation_token",) if key in fields}


def _said(fields: Mapping[str, Any]) -> JSON:
    """The fields of a step but for an empty signature: a step that is not signed has none unstreamed."""
    return {key: value for key, value in fields.items() if key != "signature" or value != ""}


def _sent(call: Fields) -> str | None:
    arguments = call.get("arguments")
    return arguments.text.value() if isinstance(arguments, Arguments) else None


def _brings(kind: Any, said: Mapping[str, Any]) -> int:
    """What a step or content of this type shows."""
    if kind == "thought":
        return OUTPUT if said.get("summary") else 0
    if kind == "model_output":
        shown = any(part.get("text") or part.get("data") or part.get("uri") for part in objects_in(said.get("content")))
        return OUTPUT | CONTENT if shown else 0
    if kind in PARTS:
        return OUTPUT | CONTENT if said.get("text") or said.get("data") or said.get("uri") else 0
    return OUTPUT if len(said) > 1 else 0


# ---------------------------------------------------------------------- reading


def view_interaction(response: JSON, data: AccumulatedData) -> None:
    """Reads an interaction into the record."""
    listed = objects_in(response.get("steps")) or objects_in(response.get("outputs"))
    if listed:
        data.output_message = _message(response)
        data.tool_calls = data.output_message.tool_calls
        data.output_messages = [dict(step) for step in listed]
    status = response.get("status")
    data.raw_finish_reason = status if isinstance(status, str) and status in ENDS else None
    data.finish_reason = FINISHES.get(data.raw_finish_reason or "")
    if data.finish_reason == "stop" and data.tool_calls:
        data.finish_reason = "tool_calls"
    data.response_id = response.get("id") or None
    data.response_model = response.get("model") or response.get("agent") or None
    tier = response.get("service_tier")
    data.service_tier = tier if isinstance(tier, str) and tier else None
    usage = response.get("usage")
    data.token_usage = token_usage(_as_metadata(usage) if isinstance(usage, Mapping) else None)
    data.token_usage.server_tool_use = _searches(object_in(usage))


def _message(response: Mapping[str, Any]) -> ChatMessage:
    """What the model said in all steps, as one message."""
    steps = objects_in(response.get("steps"))
    outputs = objects_in(response.get("outputs"))
    thoughts = [step for step in (*steps, *outputs) if step.get("type") == "thought"]
    parts = [part for step in steps if step.get("type") == "model_output" for part in objects_in(step.get("content"))]
    parts += [part for part in outputs if part.get("type") in PARTS]
    calls = [step for step in (*steps, *outputs) if step.get("type") == "function_call"]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    reasons = [part["text"] for step in thoughts for part in objects_in(step.get("summary")) if part.get("text")]
    notes = [note for part in parts for note in objects_in(part.get("annotations"))]
    pictures = [part for part in parts if part.get("type") == "image"]
    return ChatMessage(
        role="assistant" if parts or calls else None,
        audio=next((MessageAudio(data=part.get("data")) for part in parts if part.get("type") == "audio"), None),
        content="".join(texts) if texts else None,
        reasoning="".join(map(str, reasons)) if reasons else None,
        tool_calls=[_tool_call(call, place) for place, call in enumerate(calls)] or None,
        annotations=[dict(note) for note in notes] or None,
        images=[{"type": "image_url", "image_url": {"url": _url(picture)}} for picture in pictures] or None,
    )


def _tool_call(call: Mapping[str, Any], place: int) -> ToolCall:
    arguments = call.get("arguments")
    text = arguments if isinstance(arguments, str) or arguments is None else msgspec.json.encode(arguments).decode()
    return ToolCall(
        index=place,
        id=call.get("id") or call.get("call_id"),
        type="function",
        function=FunctionCall(call.get("name"), text),
        arguments_complete=is_complete_json(text),
    )


def _url(picture: Mapping[str, Any]) -> str:
    if picture.get("data"):
        return f"data:{picture.get('mime_type') or 'image/png'};base64,{picture['data']}"
    return str(picture.get("uri") or "")


COUNTS: Final = {
    "total_input_tokens": "promptTokenCount",
    "total_tool_use_tokens": "toolUsePromptTokenCount",
    "total_output_tokens": "candidatesTokenCount",
    "total_thought_tokens": "thoughtsTokenCount",
    "total_cached_tokens": "cachedContentTokenCount",
    "total_tokens": "totalTokenCount",
}
BY_MODALITY: Final = {
    "input_tokens_by_modality": "promptTokensDetails",
    "tool_use_tokens_by_modality": "toolUsePromptTokensDetails",
    "output_tokens_by_modality": "candidatesTokensDetails",
}


def _as_metadata(usage: Mapping[str, Any]) -> JSON:
    """The usage by the names of `generateContent`, which counts alike."""
    out: JSON = {name: usage[key] for key, name in COUNTS.items() if key in usage}
    for key, name in BY_MODALITY.items():
        kinds = objects_in(usage.get(key))
        out[name] = [
            {"modality": str(each.get("modality")).upper(), "tokenCount": each.get("tokens")} for each in kinds
        ]
    return out


def _searches(usage: Mapping[str, Any]) -> JSON | None:
    """Web searches that were made for the answer; they are billed beside the tokens."""
    listed = objects_in(usage.get("grounding_tool_count"))
    counts = [each.get("count") for each in listed if each.get("type") == "google_search"]
    queries = sum(count for count in counts if isinstance(count, int))
    return {"web_search_requests": queries} if queries else None
