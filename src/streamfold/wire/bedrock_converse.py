"""Amazon Bedrock's Converse API: one spelling for the models of all vendors.

Source: the `ConverseStreamOutput` and `ConverseResponse` shapes of the service model that AWS publishes (botocore's
`bedrock-runtime`). A stream is one message told in order: `messageStart` has the role, `contentBlockDelta` grows the
block of a `contentBlockIndex`, `messageStop` has the reason, and `metadata` has the rest. What needs care:

* An event comes in two spellings. On the wire its name is in the frame's header and its payload is the bare object,
  with random padding in `p`; an SDK (and who records it) wraps the object in its name. Exceptions likewise.
* The message ends at `messageStop`, the stream does not: `metadata`, with usage, latency and trace, comes after it.
  Some models never send it, so a stream that stops after `messageStop` is whole, but `ended` waits for both.
* Text and reasoning blocks have no start. A block is what its first delta says; `contentBlockStart` exists only for
  tools and images. A block holds one kind of content, so a delta of another kind begins another block.
* The streamed words are not the unstreamed ones: a `text` with `citation`s becomes `citationsContent`, reasoning
  `text` and `signature` become `reasoningText`, and a tool's `input` is an object that travels as JSON text. As with
  Anthropic only a whole document becomes the object; else `input` is null and the text stands in `partial_json`.
* `inputTokens` leaves out what was read from or written to the cache, says the documentation, and the total is the
  sum of all four. OpenAI's models behind this API count the cache into `inputTokens` too (`converse_usage`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from streamfold.growth import Fields, Text, index_of, is_empty, merged
from streamfold.types import JSON, AccumulatedData, StreamType
from streamfold.wire.bedrock_blocks import KINDS, PADDING, Block
from streamfold.wire.bedrock_view import (
    EXCEPTIONS,
    chat_message,
    converse_finish_reason,
    converse_usage,
    exception_details,
    is_exception,
    is_refusal,
    refusal_in,
)
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.surrogates import without_surrogates

__all__ = ["INITIAL_RESPONSE", "BedrockConverse"]

INITIAL_RESPONSE: Final = "initial-response"
"""The event that AWS's event streams may begin with; Bedrock puts nothing into it."""


class BedrockConverse(Fold):
    """Folds `ConverseStreamOutput` events into a `ConverseResponse`."""

    __slots__ = ("_blocks", "_failure", "_last", "_message", "_newest", "_output", "_refusal", "_told", "_top")

    format: ClassVar[str] = "bedrock-converse"
    stream_type: ClassVar[StreamType] = StreamType.CHAT_COMPLETION
    noise: ClassVar[tuple[str, ...]] = (PADDING,)

    def __init__(self) -> None:
        super().__init__()
        self._top: JSON = {}
        self._output: JSON | None = None
        """What a whole response has beside the message in `output`."""
        self._message: JSON | None = None
        self._blocks: list[Block] = []
        self._newest: dict[int, Block] = {}  # by index, the block that deltas go to
        self._last: Block | None = None
        self._told = False
        """The metadata has come."""
        self._failure: JSON | None = None
        self._refusal: str | None = None
        """The kind of failure that HTTP told."""

    def note_http(self, status_code: int | None, headers: Mapping[str, str] | None) -> None:
        self._refusal = refusal_in(headers)

    def add_event(self, event: JSON, name: str | None = None) -> int:
        if name is not None and name not in event:
            if name == "contentBlockDelta":
                flags = self._add_delta(event)
                if self._seeking:
                    self._look_for_plain(event, ())
                return flags
            handler = HANDLERS.get(name)
            if handler is not None:
                return handler(self, event)
        return self._add_wrapped(event, name)

    def _add_wrapped(self, event: JSON, name: str | None) -> int:
        """An event inside its name, or several of them."""
        if _is_whole(event):
            return self._add_whole(event)
        rest: JSON = {}
        known = False
        flags = CHUNK
        for key, value in event.items():
            handler = HANDLERS.get(key)
            if handler is not None:
                known = True
                if isinstance(value, dict):
                    flags |= handler(self, value)
                else:
                    self.flag("unexpected_shape")
            elif is_exception(key):
                known = True
                self._fail(key, value)
            elif key != PADDING:
                rest[key] = value
        if not known:
            return self._add_bare(event, rest, name)
        if rest:
            self.keep_unknown(rest)
        delta = event.get("contentBlockDelta")
        if self._seeking and len(event) == 1 and isinstance(delta, dict):
            self._look_for_plain(delta, ("contentBlockDelta",))
        return flags

    def _add_bare(self, event: JSON, rest: JSON, name: str | None) -> int:
        """An event without a name that is known, and `rest`: the same without padding."""
        if name is not None:
            if is_exception(name) or is_refusal(rest):
                return self._fail(name, rest)
            return 0 if name == INITIAL_RESPONSE else self.keep_unknown(event)
        if is_refusal(rest):
            return self._fail(None, rest)
        if (error := error_of(rest)) is not None:
            self.error = error_details(error)
            self._failure = rest
            return CHUNK
        for key, handler in TELLTALES.items():
            if key in event:
                return handler(self, event)
        return self.keep_unknown(event)

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        if name == "messageStart" and "role" in event:
            return True
        if name in EXCEPTIONS or any(isinstance(event[key], dict) for key in event if key in EXCEPTIONS):
            return True  # `bedrock-invoke` has the same, and nothing comes after it
        if any(isinstance(event.get(key), dict) for key in OURS):
            return True
        return _is_whole(event) and "stopReason" in event

    # The message

    def _start_message(self, event: JSON) -> int:
        if self._message and "role" in self._message:
            self.flag("repeated_message_start")
        self._put_message(event)
        return CHUNK

    def _put_message(self, event: JSON) -> None:
        if self._message is None:
            self._message = {}
        for key, value in event.items():
            if key != PADDING and is_empty(self._message.get(key)):
                self._message[key] = value

    def _stop_message(self, event: JSON) -> int:
        self._put(event)
        if not is_empty(event.get("stopReason")):
            self.finished = True
            self.ended = self._told
        if any(not block.stopped for block in self._blocks):
            self.flag("missing_block_stop")
        return CHUNK

    def _add_metadata(self, event: JSON) -> int:
        self._told = True
        self.ended = self.finished
        self._put(event)
        return CHUNK

    def _put(self, event: JSON) -> None:
        """Fields of the response itself. A later copy completes an earlier one."""
        for key, value in event.items():
            if key in ("output", "unknown_events"):
                self.flag("unexpected_shape")
            elif key != PADDING:
                self._top[key] = merged(self._top.get(key), value)

    def _add_whole(self, response: JSON) -> int:
        """A whole response where a stream was expected."""
        flags = 0
        for key, value in response.items():
            if key == "output":
                flags |= self._add_output(value)
            elif is_exception(key):
                self._fail(key, value)
            else:
                self._top[key] = merged(self._top.get(key), value)
        self.finished = self.finished or not is_empty(response.get("stopReason"))
        self.ended = True
        return CHUNK | flags

    def _add_output(self, output: JSON) -> int:
        self._output = {key: value for key, value in output.items() if key != "message"}
        message = output["message"]
        content = message.get("content")
        if self._blocks:
            return 0
        self._put_message(message)
        if not isinstance(content, list):
            if content is not None:
                self.flag("unexpected_shape")
            return 0
        flags = 0
        for index, given in enumerate(content):
            block = Block(index)
            block.given, block.stopped = given, True
            self._blocks.append(block)
            for kind in given if isinstance(given, dict) else ():
                known = KINDS.get(kind)
                flags |= known.brings if known is not None and given[kind] else 0
        return flags

    # Its blocks

    def _start_block(self, event: JSON) -> int:
        start = event.get("start")
        if not isinstance(start, dict):
            self.flag("unexpected_shape")
            return CHUNK
        index = self._index(event)
        if index is None:
            index = max(self._newest, default=-1) + 1
        flags = CHUNK
        for kind, fields in start.items():
            known = KINDS.get(kind)
            if known is None:
                self.flag("unknown_delta")
            elif not isinstance(fields, str if kind == "text" else dict):
                self.flag("unexpected_shape")
                continue
            block = self._opened(index, kind, fields)
            if block is None:
                continue
            block.opened = True
            block.cell(kind).add(_without_empty_input(fields) if kind == "toolUse" else fields)
            flags |= known.brings & ~CONTENT if known is not None else OUTPUT
        return flags

    def _opened(self, index: int, kind: str, fields: Any) -> Block | None:
        """The block that a start opens; None when it has been opened before, or nothing more may grow."""
        block = self._newest.get(index)
        if block is not None:
            if not block.opened and not block.stopped and block.takes(kind):
                return block
            said = fields.get("toolUseId") if isinstance(fields, dict) else None
            if block.opened and block.kind == kind and said == block.tool_use_id and (said or not block.stopped):
                self.flag("repeated_block_start")
                return None
            self.flag("block_index_reused")
        return self._open(index, kind)

    def _open(self, index: int, kind: str) -> Block | None:
        if self.full:
            return None
        block = Block(index, kind)
        self._blocks.append(block)
        self._newest[index] = self._last = block
        return block

    def _add_delta(self, event: JSON) -> int:
        delta = event.get("delta")
        if not isinstance(delta, dict):
            self.flag("unexpected_shape")
            return CHUNK
        index = self._index(event)
        flags = CHUNK
        for kind, value in delta.items():
            if kind != PADDING:
                flags |= self._grow(index, kind, value)
        return flags

    def _index(self, event: JSON) -> int | None:
        index = index_of(event.get("contentBlockIndex"))
        if index is None:
            self.flag("missing_index")
        return index

    def _grow(self, index: int | None, kind: str, value: Any) -> int:
        if value is None:
            return 0
        known = KINDS.get(kind)
        if known is None:
            self.flag("unknown_delta")
        elif not _fits(kind, value):
            self.flag("unexpected_shape")
            return 0
        block = self._block_of(index, kind)
        if block is None:
            return 0
        block.cell(kind).add(value)
        says = any(value.values()) if isinstance(value, dict) else value
        return (OUTPUT if known is None else known.brings) if says else 0

    def _block_of(self, index: int | None, kind: str) -> Block | None:
        """The block that a delta grows."""
        block = self._last if index is None else self._newest.get(index)
        if block is not None:
            if block.takes(kind):
                if block.stopped:
                    self.flag("delta_after_stop")
                return block
            self.flag("block_index_reused" if block.stopped else "delta_mismatch")
        known = KINDS.get(kind)
        if known is not None and known.starts:
            self.flag("missing_block_start")
        if index is None:
            index = max(self._newest, default=-1) + 1
        return self._open(index, kind)

    def _stop_block(self, event: JSON) -> int:
        index = self._index(event)
        block = self._last if index is None else self._newest.get(index)
        if block is None:
            return CHUNK  # a text block without any text
        block.stopped = True
        if (fault := block.fault()) is not None:
            self.flag(fault)
        return CHUNK

    def _look_for_plain(self, event: JSON, wrapper: tuple[str, ...]) -> None:
        """Marks the frame as one whose whole effect is one string appended, if it is. See `wire/repeat.py`."""
        delta, index = event.get("delta"), event.get("contentBlockIndex")
        if type(index) is not int or not isinstance(delta, dict) or len(delta) != 1 or not event.keys() <= DELTA_FIELDS:
            return
        ((kind, value),) = delta.items()
        block = self._newest.get(index)
        cell: Any = block.get(kind) if block is not None else None
        path = (*wrapper, "delta", kind)
        if isinstance(cell, Fields) and isinstance(value, dict) and len(value) == 1:
            ((key, value),) = value.items()
            cell = cell.get(key)
            path = (*path, key)
        if isinstance(cell, Text) and isinstance(value, str):
            self._plain = (path, cell)

    # Failures, and the whole

    def _undecodable(self, payload: bytes, name: str | None, error: Exception) -> int:
        if name is not None and is_exception(name):  # in plain words, or without any
            return self._fail(name, {"message": text} if (text := payload.decode("utf-8", "replace").strip()) else {})
        return super()._undecodable(payload, name, error)

    def _fail(self, name: str | None, said: Any) -> int:
        """An exception. The response keeps it under its name, as an SDK does."""
        if isinstance(said, dict):
            said = {key: value for key, value in said.items() if key != PADDING}
        self.error = exception_details(name or self._refusal, said)
        self._failure = {name: said} if name is not None else said
        return CHUNK

    def close(self) -> None:
        super().close()
        for block in self._blocks:
            block.close()

    def response(self) -> JSON | None:
        out: JSON = {}
        if self._message is not None or self._blocks:
            out["output"] = {**(self._output or {}), "message": self._message_so_far()}
        out.update(self._top)
        out.update(self._failure or {})
        out.update(self.unknown_events)
        return out or None

    def _message_so_far(self) -> JSON:
        message = dict(self._message or {})
        if self._blocks or "content" not in message:
            ended = self.finished or self.ended
            message["content"] = [block.value(ended=ended) for block in self._in_order()]
        return message

    def _in_order(self) -> list[Block]:
        return sorted(self._blocks, key=lambda block: block.index)

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        data.finish_reason, data.raw_finish_reason = converse_finish_reason(response.get("stopReason"))
        router = _mapping(_mapping(response.get("trace")).get("promptRouter"))
        data.response_model = _text(router.get("invokedModelId"))
        data.service_tier = _text(_mapping(response.get("serviceTier")).get("type"))
        data.token_usage = converse_usage(response.get("usage"), data.response_model or data.model)[0]
        message = _mapping(response.get("output")).get("message")
        if isinstance(message, dict):
            data.output_message = chat_message(message)
            data.tool_calls = data.output_message.tool_calls
        for key, value in response.items():
            if data.error_details is None and is_exception(key):
                data.error_details = exception_details(key, value)

    def finish_view(self, data: AccumulatedData) -> None:
        """Puts in the argument text exactly as sent, and notes what is wrong with input that never stopped."""
        calls = iter(data.tool_calls or ())
        for block in self._in_order():
            if not block.stopped and data.status != "processing" and (fault := block.fault()) is not None:
                data.integrity.anomalies.append(fault)
            if not block.is_call:
                continue
            call, raw = next(calls, None), block.raw_input()
            if raw and call is not None and call.function is not None:
                call.function.arguments = without_surrogates(raw)
        code = converse_usage(self._top.get("usage"), data.response_model or data.model)[1]
        if code is not None:
            self.flag(code)


HANDLERS: Final[dict[str, Callable[[BedrockConverse, JSON], int]]] = {
    "messageStart": BedrockConverse._start_message,
    "contentBlockStart": BedrockConverse._start_block,
    "contentBlockDelta": BedrockConverse._add_delta,
    "contentBlockStop": BedrockConverse._stop_block,
    "messageStop": BedrockConverse._stop_message,
    "metadata": BedrockConverse._add_metadata,
}

OURS: Final = tuple(key for key in HANDLERS if key != "metadata")
"""Names of events that no other wire format has."""

TELLTALES: Final[dict[str, Callable[[BedrockConverse, JSON], int]]] = {
    "start": BedrockConverse._start_block,
    "delta": BedrockConverse._add_delta,
    "stopReason": BedrockConverse._stop_message,
    "usage": BedrockConverse._add_metadata,
    "metrics": BedrockConverse._add_metadata,
    "contentBlockIndex": BedrockConverse._stop_block,
    "role": BedrockConverse._start_message,
}
"""The field that names an event whose name was lost."""


def _fits(kind: str, value: Any) -> bool:
    """Whether a delta of a known kind has its type, and what is joined as text is text."""
    if kind == "text":
        return isinstance(value, str)
    if kind == "toolResult":
        return isinstance(value, list)
    if not isinstance(value, dict):
        return False
    if kind == "reasoningContent":
        return all(isinstance(value.get(key), str | None) for key in ("text", "signature"))
    return kind != "image" or isinstance(value.get("source"), dict | None)


def _without_empty_input(start: JSON) -> JSON:
    """Servers that come from Anthropic's format may open a tool with an empty input, which is no text of it."""
    return start if start.get("input", True) else {key: value for key, value in start.items() if key != "input"}


DELTA_FIELDS: Final = frozenset({"delta", "contentBlockIndex", PADDING})


def _is_whole(event: JSON) -> bool:
    output = event.get("output")
    return isinstance(output, dict) and isinstance(output.get("message"), dict)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
