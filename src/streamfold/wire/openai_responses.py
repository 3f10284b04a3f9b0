"""OpenAI Responses: typed events, of which the last one carries the whole response once more.

Source: the `ResponseStreamEvent` union of OpenAI's API reference. A stream has three kinds of events. *Lifecycle*
events (`response.created` … `response.completed`) carry a `Response` object; merged field by field they are the
envelope. Events of the *output* each name one place in one output item (`responses_items.py`); which places there are
is declared in `LEAVES` and `PARTS`. *Status* events tell what a built-in tool is doing, which is the `status` of its
item.

The last lifecycle event is authoritative, but it cannot be all there is: a cut-off stream has none, some servers send
it with an empty `output`, and some leave out what they streamed. So the output is always rebuilt from the items, and
at the end both are reconciled: nothing is lost, and a contradiction is flagged.

`sequence_number` is only watched, never obeyed: some servers number nothing, or everything 0, and an answer must not
depend on it. Over WebSocket the events are the same; a few servers put the type only in the SSE event name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from sys import intern
from typing import Any, ClassVar, Final

from streamfold.growth import Text, index_of
from streamfold.types import JSON, AccumulatedData, ChatMessage, ErrorDetails, MessageAudio, StreamType, ToolCall
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.openai_message import tool_call
from streamfold.wire.packed import Packed, pack, unpack
from streamfold.wire.pings import is_ping
from streamfold.wire.repeat import cut
from streamfold.wire.responses_items import Item, Items, Leaf, PartList, as_item, brings, place_of, reconciled
from streamfold.wire.usage import openai_usage

__all__ = ["OpenAIResponses"]

VISIBLE: Final = OUTPUT | CONTENT

_TEXT = Leaf("message", ("content", "content_index", "text"), "text", VISIBLE, "output_text")
_REASONING = Leaf("reasoning", ("content", "content_index", "text"), "text", OUTPUT, "reasoning_text")
_SUMMARY = Leaf("reasoning", ("summary", "summary_index", "text"), "text", OUTPUT, "summary_text")
_MCP = Leaf("mcp_call", ("arguments",), "arguments")
_CODE = Leaf("code_interpreter_call", ("code",), "code")

LEAVES: Final[dict[str, Leaf]] = {
    "response.output_text": _TEXT,
    "response.refusal": Leaf("message", ("content", "content_index", "refusal"), "refusal", VISIBLE, "refusal"),
    "response.reasoning_text": _REASONING,
    "response.reasoning": _REASONING,  # as it was called at first, and still is by some servers
    "response.reasoning_summary_text": _SUMMARY,
    "response.reasoning_summary": _SUMMARY,
    "response.function_call_arguments": Leaf("function_call", ("arguments",), "arguments"),
    "response.mcp_call_arguments": _MCP,
    "response.mcp_call.arguments": _MCP,  # as these two were called at first, and still are by Llama Stack
    "response.custom_tool_call_input": Leaf("custom_tool_call", ("input",), "input"),
    "response.code_interpreter_call_code": _CODE,
    "response.code_interpreter_call.code": _CODE,
    "response.shell_call_command": Leaf("shell_call", ("action", "commands", "command_index"), "command"),
    "response.apply_patch_call_operation_diff": Leaf("apply_patch_call", ("operation", "diff"), "diff"),
}
"""Families of `.delta` and `.done` events, and the string that grows by them."""

PARTS: Final[dict[str, PartList]] = {
    "response.content_part": PartList("message", "content", "content_index"),
    "response.reasoning_part": PartList("reasoning", "content", "content_index"),
    "response.reasoning_summary_part": PartList("reasoning", "summary", "summary_index"),
}
"""Families of `.added` and `.done` events, and the list whose parts they bring."""

STATUSES: Final[dict[str, tuple[str, ...]]] = {
    "web_search_call": ("in_progress", "searching", "completed"),
    "file_search_call": ("in_progress", "searching", "completed"),
    "code_interpreter_call": ("in_progress", "interpreting", "completed"),
    "image_generation_call": ("in_progress", "generating", "completed"),
    "mcp_call": ("in_progress", "completed", "failed"),
}
"""Items whose events `response.<type>.<status>` tell their `status`."""

NOT_IN_THE_RESPONSE: Final = (
    "response.mcp_list_tools.in_progress",  # an `mcp_list_tools` or `compaction` item has no status
    "response.mcp_list_tools.completed",
    "response.mcp_list_tools.failed",
    "response.compaction.compacting",
    "response.audio.done",
    "response.audio.transcript.done",
    "response.output_text.annotation.done",
    "response.debug",  # what OpenRouter sent on, if asked for it
    "response.skill.loaded",  # Perplexity
    "response.steer.accepted",  # what became of the client's own events, over WebSocket
    "response.steer.failed",
    "response.steer.pending",
    "response.inject.created",
    "response.inject.failed",
)
"""Events whose whole content stands elsewhere too, or has no place in an unstreamed response."""

_is_progress = re.compile(
    # Perplexity: what its tools search for and find, which the items of these tools have.
    r"response\.reasoning\.(?:started|stopped|\w+_queries|\w+_results)"
    # OpenRouter: what the models of a panel say, of which their item has what came of it.
    r"|response\.fusion_call\..*"
).fullmatch
"""Types of events that tell how a server's own tool goes on, and nothing that stays."""

NOT_OF_THE_RESPONSE: Final = ("codex.", "responsesapi.")
"""Beginnings of the types of events about the account or the connection (OpenAI's own clients get them)."""

NAMES_OF_AN_EVENT: Final = frozenset({"type", "sequence_number", "event_id", "stream_id", "agent"})
"""Fields that say which event it is, and whose: of which lane of a WebSocket, of which of several agents."""

NAMES_OF_A_STATUS: Final = NAMES_OF_AN_EVENT | {"item_id", "output_index", "response_id"}
"""Fields of an event that says no more than how far a tool has come."""

ENDS: Final[dict[str, str | None]] = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
    "response.done": None,
}
"""Last events, and the status they stand for where their response states none."""

FINISH_REASONS: Final = {
    "max_output_tokens": "length",
    "max_tokens": "length",
    "length": "length",
    "content_filter": "content_filter",
}
"""`incomplete_details.reason` in the words of chat completions."""

TEXTS: Final = ("output_text", "text")
"""Parts of a message that are text; the second is what some servers call it."""

CALLS: Final = ("function_call", "custom_tool_call")
"""Items that are `tool_calls` of a chat message."""

AWAITS_CALLER: Final = "requires_action"
"""Status of a response whose calls the caller is to answer (Perplexity)."""

WHOLE: Final = "response"
"""Stands for the type of a body that is a whole unstreamed response and has none."""

BESIDE_THE_RESPONSE: Final = NAMES_OF_AN_EVENT | {"response", "obfuscation", "error", "prompt_progress"}
"""Fields of a lifecycle event that are no part of the response."""

MAX_MISSING_NUMBERS: Final = 4096


class OpenAIResponses(Fold):
    """Folds the events of the Responses API into a `Response`."""

    __slots__ = (
        "_envelope",
        "_final",
        "_high",
        "_items",
        "_missing",
        "_number",
        "_open",
        "_over",
        "_replay",
        "_zeros",
    )

    format: ClassVar[str] = "openai-responses"
    stream_type: ClassVar[StreamType] = StreamType.RESPONSES

    def __init__(self) -> None:
        super().__init__()
        self._envelope: Packed | None = None
        """The response without its output: packed, until the stream is over."""
        self._items = Items()
        self._final: list[Any] | None = None
        """The `output` of the last event, unless it was empty."""
        self._over = False
        self._high: int | None = None
        self._number: int | None = None
        """The highest and the newest `sequence_number`."""
        self._missing: set[int] | None = None
        self._replay = False
        """Whether the number of this event has been seen before."""
        self._zeros = False
        """Whether the server calls every event number 0."""
        self._open: tuple[Leaf, tuple[Any, ...], Item, Text] | None = None
        """Where the last delta went, and the names by which it was found."""

    def add_event(self, event: JSON, name: str | None = None) -> int:
        kind = event.get("type")
        if not isinstance(kind, str):
            kind = _type_of(event, name)
        self._note_number(event.get("sequence_number"))
        leaf = _DELTAS.get(kind)
        if leaf is not None:
            return self._add_delta(leaf, event)
        self._open = None
        handler = _HANDLERS.get(kind)
        if handler is not None:
            return CHUNK | handler(self, event, kind)
        if is_ping(event, kind) or kind.startswith(NOT_OF_THE_RESPONSE):
            return 0
        if _is_progress(kind) is None and not self._is_status(event, kind):
            self.keep_unknown(event)
        return CHUNK

    # ------------------------------------------------------------------ output

    def _add_delta(self, leaf: Leaf, event: JSON) -> int:
        delta = event.get("delta")
        if not isinstance(delta, str):
            if delta is not None:
                self.flag("unexpected_shape")
            return CHUNK
        if self.full:
            return CHUNK | leaf.flags if delta else CHUNK
        get = event.get
        item_id = get("item_id") or get("call_id")
        names = (item_id, get("output_index"), get(leaf.index_field) if leaf.index_field else None)
        found = self._open
        if found is not None and found[0] is leaf and found[1] == names:
            item, cell = found[2], found[3]
        else:
            item = self._items.of(event, leaf.item)
            growing = item.cell(leaf, event)
            if growing is None:
                self.flag("delta_after_done")
                return CHUNK
            cell = growing
            self._open = (leaf, names, item, cell)
        cell.add(delta)
        logprobs = event.get("logprobs")
        if logprobs:
            self._add_logprobs(item, event, logprobs, whole=False)
        if not delta:
            return CHUNK
        item.brought |= leaf.flags
        # A type that stands only in the event name is not in the bytes that a run reads.
        if self._seeking and not logprobs and "type" in event:
            self._plain = (("delta",), cell)
        return CHUNK | leaf.flags

    def _end_leaf(self, event: JSON, kind: str) -> int:
        leaf = LEAVES[kind.removesuffix(".done")]
        whole = event.get(leaf.whole)
        if not isinstance(whole, str):
            if whole is not None:
                self.flag("unexpected_shape")
            return 0
        item = self._open_item(event, leaf.item, ends=True)
        if item is None:
            return 0
        if leaf.item == "function_call" and "name" not in item.tree and _text(event.get("name")) is not None:
            item.tree["name"] = event["name"]  # of an item that a resumed stream never introduced
        news, differs = item.settle(leaf, event, whole)
        if differs:
            self.flag("done_differs_from_deltas")
        if event.get("logprobs"):
            self._add_logprobs(item, event, event["logprobs"], whole=True)
        if not news or not whole:
            return 0
        item.brought |= leaf.flags
        return leaf.flags

    def _begin_command(self, event: JSON, kind: str) -> int:
        """`response.shell_call_command.added`: unlike other families, this one introduces a bare string."""
        leaf = LEAVES["response.shell_call_command"]
        command = event.get("command")
        item = self._open_item(event, leaf.item)
        if item is None or not isinstance(command, str):
            return 0
        cell = item.cell(leaf, event)
        if cell is not None and not cell:
            cell.add(command)
        return leaf.flags if command else 0

    def _add_logprobs(self, item: Item, event: JSON, logprobs: Any, *, whole: bool) -> None:
        if isinstance(logprobs, list):
            index = item.content_index(place_of(event, "content_index"), _TEXT.part)
            item.add_logprobs(index, logprobs, whole=whole)
        else:
            self.flag("unexpected_shape")

    def _add_item(self, event: JSON, kind: str) -> int:
        snapshot = event.get("item")
        if not isinstance(snapshot, dict):
            if snapshot is not None:  # null is how some servers announce an item that never comes
                self.flag("unexpected_shape")
            return 0
        if self.full:
            return 0
        item, again = self._items.added(event, snapshot, replay=self._replay)
        if again:
            self.flag("item_added_again")
        return self._news(item, snapshot)

    def _end_item(self, event: JSON, kind: str) -> int:
        snapshot = event.get("item")
        if not isinstance(snapshot, dict):
            if snapshot is not None:
                self.flag("unexpected_shape")
            return 0
        if self.full:
            return 0
        snapshot = as_item(snapshot)
        item = self._items.finished(event, snapshot)
        if item.settle_all(snapshot):
            self.flag("done_differs_from_deltas")
        return self._news(item, snapshot)

    def _news(self, item: Item, snapshot: JSON) -> int:
        """What a whole item puts out that its deltas had not."""
        brought = brings(snapshot)
        if not brought & ~item.brought:
            return 0
        item.brought |= brought
        return brought

    def _add_part(self, event: JSON, kind: str) -> int:
        parts, part = self._part_in(event, kind.removesuffix(".added"))
        if parts.item == "message" and part is not None and not part.get("text") and self._is_of("reasoning", event):
            return 0  # vLLM announces the text of reasoning as if it were that of a message
        item = self._open_item(event, parts.item) if part is not None else None
        if item is not None and part is not None:
            item.add_part(parts, place_of(event, parts.index_field), part, replay=self._replay)
        return 0

    def _end_part(self, event: JSON, kind: str) -> int:
        parts, part = self._part_in(event, kind.removesuffix(".done"))
        if parts.item == "reasoning" and part is not None and "text" not in part and self._is_of("message", event):
            return 0  # LiteLLM ends the text of a message with its reasoning, which an item of its own has told
        item = self._open_item(event, parts.item, ends=True) if part is not None else None
        if item is None or part is None:
            return 0
        if item.settle_part(parts, place_of(event, parts.index_field), part):
            self.flag("done_differs_from_deltas")
        return 0

    def _is_of(self, kind: str, event: JSON) -> bool:
        """Whether the id in an event is that of an item of this type."""
        item = self._items.found(event)
        return item is not None and item.tree.get("type") == kind and item.id == event.get("item_id")

    def _part_in(self, event: JSON, family: str) -> tuple[PartList, JSON | None]:
        parts, part = PARTS[family], event.get("part")
        if not isinstance(part, dict):
            if part is not None:
                self.flag("unexpected_shape")
            return parts, None
        if part.get("type") == "reasoning_text":
            parts = PARTS["response.reasoning_part"]
        return parts, part

    def _add_annotation(self, event: JSON, kind: str) -> int:
        annotation = event.get("annotation")
        item = self._open_item(event, "message") if annotation is not None else None
        if item is not None:
            item.add_annotation(place_of(event, "content_index"), index_of(event.get("annotation_index")), annotation)
        return 0

    def _add_status(self, event: JSON, kind: str) -> int:
        _, item_type, status = kind.rsplit(".", 2)
        if self.full:
            return 0
        item = self._items.of(event, item_type)
        if not item.done:  # the finished item has the last word, even if it is still "searching"
            item.tree["status"] = status
        return 0

    def _is_status(self, event: JSON, kind: str) -> bool:
        """Takes the status of a tool that is not known here. Returns whether the event was that and no more."""
        words = kind.split(".")
        named = event.get("item_id") is not None or event.get("output_index") is not None
        if len(words) != 3 or not named or not event.keys() <= NAMES_OF_A_STATUS:
            return False
        item = self._items.found(event)
        if item is not None and not item.done and item.tree.get("type") == words[1]:
            item.tree["status"] = words[2]
        return True

    def _add_preview(self, event: JSON, kind: str) -> int:
        """A preview of an image. The unstreamed response has none, but for the settings that come with it."""
        item = self._open_item(event, "image_generation_call")
        if item is None:
            return 0
        for key in ("background", "output_format", "quality", "size"):
            if event.get(key) is not None and item.tree.get(key) is None:
                item.tree[key] = event[key]
        return VISIBLE if event.get("partial_image_b64") else 0

    def _add_shell_output(self, event: JSON, kind: str) -> int:
        delta = event.get("delta")
        if isinstance(delta, str):
            delta = {"stdout": delta}
        item = self._open_item(event, "shell_call_output")
        if item is None or not isinstance(delta, dict):
            return 0
        item.add_shell_output(place_of(event, "command_index"), delta)
        return 0  # what a tool wrote is not the model's output

    def _end_shell_output(self, event: JSON, kind: str) -> int:
        output = event.get("output")
        item = self._open_item(event, "shell_call_output")
        if item is None or not isinstance(output, list):
            return 0
        if item.settle_shell_output(place_of(event, "command_index"), output):
            self.flag("done_differs_from_deltas")
        return 0

    def _add_audio(self, event: JSON, kind: str) -> int:
        delta = event.get("delta")
        item = self._open_item(event, "message")
        if item is None or not isinstance(delta, str) or not delta:
            return 0
        item.add_audio("transcript" if ".transcript." in kind else "data", delta)
        item.brought |= VISIBLE
        return VISIBLE

    def _open_item(self, event: JSON, kind: str, *, ends: bool = False) -> Item | None:
        """The item that an event adds to, or None if nothing may be added to it."""
        if self.full:
            return None
        item = self._items.of(event, kind, ends=ends)
        return None if item.done else item

    def _pass(self, event: JSON, kind: str) -> int:
        return 0

    # ------------------------------------------------------------------ envelope and ends

    def _add_lifecycle(self, event: JSON, kind: str) -> int:
        response = self._response_in(event)
        if response is None:
            return 0
        self._envelope = pack(self._merged(event, response))
        output = response.get("output")
        if isinstance(output, list) and not self.full:
            for index, snapshot in enumerate(output):
                if isinstance(snapshot, dict):
                    self._items.seed(index, snapshot)
        return 0

    def _end(self, event: JSON, kind: str) -> int:
        response = self._response_in(event) or {}
        self._over = False  # of two last events the later one is right
        envelope = self._envelope = self._merged(event, response)
        stands_for = ENDS.get(kind)
        if stands_for is not None and not isinstance(response.get("status"), str):
            envelope["status"] = stands_for
        self.ended = self._over = True
        self._take_status(envelope.get("status"), envelope.get("error") or event.get("error"))
        return self._take_output(response.get("output"), streamed=kind != WHOLE)

    def _take_status(self, status: Any, error: Any) -> None:
        if status in ("completed", "incomplete", AWAITS_CALLER):
            self.finished = True
        elif error:
            self._fail(error_details(error))
        elif status in ("failed", "cancelled"):
            self._fail(ErrorDetails(code=status))

    def _take_output(self, output: Any, *, streamed: bool) -> int:
        """Takes the final output. Returns what it puts out that nothing before it had."""
        if not isinstance(output, list) or not output or self.full:
            return 0
        self._final = output
        if not streamed:
            return 0
        _, same = reconciled(output, self._items.values())
        if not same:
            self.flag("terminal_differs_from_items")
        if self._items.brought():
            return 0
        flags = 0
        for item in output:
            if isinstance(item, dict):
                flags |= brings(item)
        return flags

    def _end_in_error(self, event: JSON, kind: str) -> int:
        error = error_of(event)
        if error is event or error is None:
            # Here `type` is that of the event and says nothing of the error.
            error = {key: value for key, value in event.items() if key not in ("type", "sequence_number")}
        self._fail(error_details(error))
        return 0

    def _fail(self, details: ErrorDetails) -> None:
        """Notes an error. Of two that tell of one failure the second completes the first."""
        if self.error is not None:
            details = ErrorDetails(
                *(
                    getattr(details, field) if (said := getattr(self.error, field)) is None else said
                    for field in ErrorDetails.__struct_fields__
                )
            )
        self.error = details

    def _response_in(self, event: JSON) -> JSON | None:
        response = event.get("response")
        if isinstance(response, dict):
            return response
        if event.get("object") == "response" or isinstance(event.get("output"), list):
            if "type" not in event:
                return event
            # The response's fields may stand in the event itself (LiteLLM, of some models).
            return {key: value for key, value in event.items() if key not in BESIDE_THE_RESPONSE or key == "error"}
        self.flag("unexpected_shape")
        return None

    def _merged(self, event: JSON, response: JSON) -> JSON:
        """The envelope with the fields of a `Response`; the last event of the stream wins over what comes late."""
        old = self._unpacked()
        new = dict(response)
        if isinstance(new.get("output"), list):
            new["output"] = []  # the place of the field among the others
        if event is not response:
            for key, value in event.items():  # Copilot states its accounting beside the response
                if key not in BESIDE_THE_RESPONSE and key not in response:
                    new[key] = value
        merged = {**new, **old} if self._over else {**old, **new}
        if merged.get("usage") is None and "usage" in merged:
            merged["usage"] = old.get("usage") or new.get("usage")
        return merged

    def _unpacked(self) -> JSON:
        return dict(unpack(self._envelope or {}))

    # ------------------------------------------------------------------ sequence numbers

    def _note_number(self, number: Any) -> None:
        self._replay = False
        if type(number) is not int:
            self._number = None
            return
        self._number = number
        high = self._high
        if high is None or number == high + 1:
            self._high = number
            self._zeros = False
        elif number > high:
            self._note_gap(high + 1, number)
            self._high = number
        elif self._missing and number in self._missing:
            self._missing.discard(number)
            self.flag("sequence_reordered")
        elif not number and not high:
            self._zeros = True
        else:
            self._replay = True
            self.flag("sequence_repeated")

    def _note_gap(self, start: int, stop: int) -> None:
        if self._missing is None:
            self._missing = set()
        if stop - start + len(self._missing) > MAX_MISSING_NUMBERS:
            self.flag("sequence_gap")
        else:
            self._missing.update(range(start, stop))

    def _learn(self, payload: bytes, event: JSON, flags: int) -> None:
        if self._plain is None or self._number != self._high:
            return  # numbers that go on from here have been seen before, and each of them is to be noted
        path, target = self._plain
        self._open = self._plain = None  # the pattern knows both
        self._credit -= 1
        numbered = self._number is not None and not self._zeros
        self.repeat = cut(payload, event, path, target, flags, numbered=numbered)

    def _settle(self) -> None:
        if self.repeat is not None and self.repeat.number is not None:
            self._number = self._high = self.repeat.number
        super()._settle()

    @property
    def anomalies(self) -> list[str]:
        found = super().anomalies
        return [*found, "sequence_gap"] if self._missing and "sequence_gap" not in found else found

    # ------------------------------------------------------------------ reading

    def response(self) -> JSON | None:
        if self._envelope is None and not len(self._items) and self._unknown is None:
            return None
        out = self._unpacked()
        built = self._items.values()
        if self._final is not None:
            out["output"] = reconciled(self._final, built)[0]
        elif built:
            out["output"] = built
        elif isinstance(out.get("output"), list):
            out["output"] = [] if self.full else list(out["output"])
        out.update(self.unknown_events)
        return out

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        kind = event.get("type")
        if not isinstance(kind, str):
            if name == "error":
                return "sequence_number" in event  # everybody names an error so
            return event.get("object") == "response" or name in _HANDLERS or name in _DELTAS
        return kind.startswith("response.") or (kind == "error" and "sequence_number" in event)

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        output = response.get("output")
        if isinstance(output, list):
            items = data.output_messages = [item for item in output if isinstance(item, dict)]
            if items:
                message = data.output_message = _message(items)
                data.tool_calls = message.tool_calls
            data.logprobs = _logprobs(items)
        data.finish_reason, data.raw_finish_reason = _finish(response)
        data.response_id = _text(response.get("id"))
        data.response_model = _text(response.get("model"))
        data.service_tier = _text(response.get("service_tier"))
        data.system_fingerprint = _text(response.get("system_fingerprint"))
        data.token_usage = usage = openai_usage(response.get("usage"))
        usage.server_tool_use = _tool_usage(response)


def _type_of(event: JSON, name: str | None) -> str:
    """What an event is that has no `type`."""
    if name is not None and (name in _HANDLERS or name in _DELTAS) and name != "error":
        return name
    if event.get("object") == "response":
        return WHOLE
    if error_of(event, name) is not None:
        return "error"
    return name or ""


# ---------------------------------------------------------------------- view


def _message(items: list[JSON]) -> ChatMessage:
    parts = [part for item in items if item.get("type") == "message" for part in _parts(item.get("content"))]
    role = next((item["role"] for item in items if item.get("type") == "message" and item.get("role")), "assistant")
    return ChatMessage(
        role=role if isinstance(role, str) else None,
        content=_joined(part.get("text") for part in parts if part.get("type") in TEXTS),
        refusal=_joined(part.get("refusal") for part in parts if part.get("type") == "refusal"),
        reasoning=_joined((_thought(item) for item in items if item.get("type") == "reasoning"), "\n\n"),
        audio=_audio(parts),
        tool_calls=_tool_calls(items) or None,
        annotations=[note for part in parts for note in _objects(part.get("annotations"))] or None,
        images=[image for item in items if (image := _image(item)) is not None] or None,
    )


def _parts(content: Any) -> list[JSON]:
    """The parts of a message. Some servers put bare text in their place."""
    return [{"type": "output_text", "text": content}] if isinstance(content, str) else _objects(content)


def _thought(item: JSON) -> str | None:
    """The reasoning of an item: the text itself where the model shows it, else its summary."""
    for key in ("content", "summary"):
        thought = _joined((part.get("text") or None for part in _objects(item.get(key))), "\n\n")
        if thought:
            return thought
    return None


def _tool_calls(items: list[JSON]) -> list[ToolCall]:
    calls: list[ToolCall] = []
    for item in items:
        if item.get("type") not in CALLS:
            continue
        call = tool_call(_chat_call(item), len(calls))
        if item.get("status") in ("in_progress", "incomplete") and not _body(item):
            call.arguments_complete = False  # nothing yet is not the same as no parameters
        calls.append(call)
    return calls


def _body(item: JSON) -> Any:
    return item.get("input") if item.get("type") == "custom_tool_call" else item.get("arguments")


def _chat_call(item: JSON) -> JSON:
    """A call as the chat API spells it."""
    call: JSON = {"id": _text(item.get("call_id")) or _text(item.get("id"))}
    if item.get("type") == "custom_tool_call":
        return {**call, "type": "custom", "custom": {"name": item.get("name"), "input": item.get("input")}}
    arguments = item.get("arguments")
    if arguments is not None and not isinstance(arguments, str | dict | list):
        arguments = str(arguments)
    return {**call, "type": "function", "function": {"name": _text(item.get("name")), "arguments": arguments}}


def _image(item: JSON) -> JSON | None:
    result = item.get("result")
    if item.get("type") != "image_generation_call" or not isinstance(result, str) or not result:
        return None
    url = result
    if not result.startswith(("http:", "https:", "data:")):
        url = f"data:image/{_image_format(item, result)};base64,{result}"
    return {"type": "image_url", "image_url": {"url": url}}


def _image_format(item: JSON, result: str) -> str:
    """The format of an image: what its first bytes say, then what the item says, then the API's default."""
    for magic, found in (("iVBOR", "png"), ("/9j/", "jpeg"), ("UklGR", "webp")):
        if result.startswith(magic):
            return found
    return _text(item.get("output_format")) or "png"


def _audio(parts: list[JSON]) -> MessageAudio | None:
    for part in parts:
        if part.get("type") in ("output_audio", "audio"):
            return MessageAudio(
                id=_text(part.get("id")), data=_text(part.get("data")), transcript=_text(part.get("transcript"))
            )
    return None


def _logprobs(items: list[JSON]) -> JSON | None:
    found: list[Any] = []
    for item in items:
        for part in _objects(item.get("content")):
            if isinstance(part.get("logprobs"), list):
                found.extend(part["logprobs"])
    return {"content": found} if found else None


def _tool_usage(response: JSON) -> JSON | None:
    """How often built-in tools were used: OpenAI says it beside the usage, xAI inside."""
    usage = response.get("usage")
    found = response.get("tool_usage")
    if found is None and isinstance(usage, dict):
        found = usage.get("server_side_tool_usage_details")
    return found if isinstance(found, dict) else None


def _awaits_output(items: list[JSON]) -> bool:
    """Whether the caller has to answer a call. xAI runs tools of its own as custom calls and goes on to its message."""
    for item in reversed(items):
        kind = item.get("type")
        if kind in CALLS:
            return True
        if kind == "message":
            break
    return any(item.get("type") == "function_call" for item in items)


def _finish(response: JSON) -> tuple[str | None, str | None]:
    """OpenAI's word for why the response ended, and the word that was said: why it is incomplete, or its status."""
    status = _text(response.get("status"))
    if status in (None, "queued", "in_progress"):
        return None, None
    if status == AWAITS_CALLER:
        return "tool_calls", status
    if status == "completed":
        return "tool_calls" if _awaits_output(_objects(response.get("output"))) else "stop", status
    if status != "incomplete":
        return None, status
    details = response.get("incomplete_details")
    reason = _text(details.get("reason")) if isinstance(details, dict) else None
    return FINISH_REASONS.get(reason or ""), reason or status


def _objects(value: Any) -> list[JSON]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _joined(texts: Iterable[Any], between: str = "") -> str | None:
    """The texts as one, or None if there were none (which is not an empty text)."""
    found = [text for text in texts if isinstance(text, str)]
    return between.join(found) if found else None


# ---------------------------------------------------------------------- which event goes where

_Handler = Callable[[OpenAIResponses, JSON, str], int]

_DELTAS: Final[Mapping[str, Leaf]] = {intern(f"{family}.delta"): leaf for family, leaf in LEAVES.items()}

_HANDLERS: Final[Mapping[str, _Handler]] = {
    "response.created": OpenAIResponses._add_lifecycle,
    "response.queued": OpenAIResponses._add_lifecycle,
    "response.in_progress": OpenAIResponses._add_lifecycle,
    **dict.fromkeys(ENDS, OpenAIResponses._end),
    WHOLE: OpenAIResponses._end,
    "error": OpenAIResponses._end_in_error,
    "response.error": OpenAIResponses._end_in_error,
    "response.output_item.added": OpenAIResponses._add_item,
    "response.output_item.done": OpenAIResponses._end_item,
    **{f"{family}.done": OpenAIResponses._end_leaf for family in LEAVES},
    **{f"{family}.added": OpenAIResponses._add_part for family in PARTS},
    **{f"{family}.done": OpenAIResponses._end_part for family in PARTS},
    **{
        f"response.{item_type}.{status}": OpenAIResponses._add_status
        for item_type, statuses in STATUSES.items()
        for status in (*statuses, "failed", "incomplete")
    },
    "response.output_text.annotation.added": OpenAIResponses._add_annotation,
    "response.output_text_annotation.added": OpenAIResponses._add_annotation,  # an older name
    "response.image_generation_call.partial_image": OpenAIResponses._add_preview,
    "response.shell_call_command.added": OpenAIResponses._begin_command,
    "response.shell_call_output_content.delta": OpenAIResponses._add_shell_output,
    "response.shell_call_output_content.done": OpenAIResponses._end_shell_output,
    "response.audio.delta": OpenAIResponses._add_audio,
    "response.audio.transcript.delta": OpenAIResponses._add_audio,
    **dict.fromkeys(NOT_IN_THE_RESPONSE, OpenAIResponses._pass),
}
