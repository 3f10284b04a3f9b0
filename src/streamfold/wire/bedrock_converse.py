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

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

from streamfold.growth import (
    Base64,
    Cell,
    Extend,
    Fields,
    First,
    Merge,
    Record,
    Rule,
    Text,
    Word,
    index_of,
    is_empty,
    json_text,
    merged,
)
from streamfold.types import (
    JSON,
    AccumulatedData,
    ChatMessage,
    ErrorDetails,
    FunctionCall,
    PromptTokensDetails,
    StreamType,
    TokenUsage,
    ToolCall,
)
from streamfold.wire.anthropic_messages import parsed_input
from streamfold.wire.errors import error_details, error_of, retryable
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.repeat import Repeat
from streamfold.wire.surrogates import without_surrogates
from streamfold.wire.usage import count

__all__ = [
    "INITIAL_RESPONSE",
    "PADDING",
    "BedrockConverse",
    "Block",
    "converse_finish_reason",
    "converse_usage",
    "exception_details",
    "is_exception",
    "is_refusal",
    "refusal_in",
]

PADDING: Final = "p"
"""Random letters that hide the length of the text from who watches the encrypted traffic."""

INITIAL_RESPONSE: Final = "initial-response"
"""The event that AWS's event streams may begin with; Bedrock puts nothing into it."""


# ---------------------------------------------------------------------------------------------- how blocks grow


class Blob(Base64):
    """Binary: base64 on the wire, bytes from an SDK that has decoded it."""

    __slots__ = ()

    def add(self, value: Any) -> None:
        super().add(base64.b64encode(value).decode() if isinstance(value, bytes | bytearray) else value)


class ToolInput(Text):
    """A tool's input as JSON text. A server may send the object itself."""

    __slots__ = ()

    def spelled(self, value: Any) -> str:
        return json_text(value)


class ToolResult:
    """A tool's result: the start has its fields, each delta a list of entries.

    A text that begins a delta goes on with the text that ended the one before.
    """

    __slots__ = ("_entries", "_fields", "_open", "_shut")

    def __init__(self) -> None:
        self._fields: JSON | None = None
        self._entries: list[Any] | None = None
        self._open: Text | None = None  # the last entry, while it is text
        self._shut = False

    def add(self, value: Any) -> None:
        if isinstance(value, dict):
            self._fields = merged(self._fields, value)
        elif isinstance(value, list) and not self._shut:
            self._extend(value)

    def _extend(self, entries: list[Any]) -> None:
        if self._entries is None:
            self._entries = []
        for place, entry in enumerate(entries):
            text = entry.get("text") if isinstance(entry, dict) and len(entry) == 1 else None
            if not isinstance(text, str):
                self._entries.append(entry)
                self._open = None
                continue
            if place or self._open is None:
                self._entries.append(cell := Text())
                self._open = cell
            self._open.add(text)

    def value(self) -> JSON:
        out = dict(self._fields or {})
        if self._entries is not None:
            out["content"] = [{"text": e.value()} if isinstance(e, Text) else e for e in self._entries]
        return out

    def close(self) -> None:
        self._shut = True


class Leaf:
    """A value that nobody told us how to grow: text is appended, of anything else the latest stays."""

    __slots__ = ("_shut", "_value")

    def __init__(self) -> None:
        self._value: Any = None
        self._shut = False

    def add(self, value: Any) -> None:
        if self._shut or value is None:
            return
        if not isinstance(value, str):
            self._value = value
            return
        if not isinstance(self._value, Text):
            self._value = Text()
        self._value.add(value)

    def value(self) -> Any:
        return self._value.value() if isinstance(self._value, Text | Fields) else self._value

    def close(self) -> None:
        self._shut = True


class Loose(Leaf):
    """`Leaf`, or an object of such."""

    __slots__ = ()

    def add(self, value: Any) -> None:
        if not isinstance(value, dict) or self._shut:
            super().add(value)
            return
        if not isinstance(self._value, Fields):
            self._value = LEAVES()
        self._value.add(value)


LEAVES = Record(Leaf)
REASONING = Record(text=Text, signature=Text, redactedContent=Blob)
TOOL_USE = Record(toolUseId=First, name=First, type=Word, input=ToolInput)
IMAGE = Record(format=Word, source=Record(bytes=Blob, s3Location=Merge), error=Merge)


class Kind(NamedTuple):
    """A kind of delta."""

    rule: Rule
    brings: int
    starts: bool
    """Whether a block of the kind is announced by a `contentBlockStart`."""


KINDS: Final = {
    "text": Kind(Text, OUTPUT | CONTENT, starts=False),
    "reasoningContent": Kind(REASONING, OUTPUT, starts=False),
    "citation": Kind(Extend, OUTPUT, starts=False),
    "toolUse": Kind(TOOL_USE, OUTPUT, starts=True),
    "toolResult": Kind(ToolResult, OUTPUT, starts=True),
    "image": Kind(IMAGE, OUTPUT | CONTENT, starts=True),
}

CITED: Final = frozenset({"text", "citation"})
"""The two kinds of delta that grow one block."""


class Block:
    """One content block: a cell for its kind (two for a text with citations), or as it came in a whole message."""

    __slots__ = ("_cells", "given", "index", "kind", "opened", "shut", "stopped")

    def __init__(self, index: int, kind: str | None = None) -> None:
        self.index = index
        self.kind = kind
        self.given: Any = None
        self.opened = False
        """Its start has come."""
        self.stopped = False
        self.shut = False
        self._cells: dict[str, Cell] | None = None

    def takes(self, kind: str) -> bool:
        """Whether a delta of this kind belongs here."""
        return self.kind in (None, kind) or (self.kind in CITED and kind in CITED)

    def cell(self, kind: str) -> Cell:
        if self._cells is None:
            self._cells = {}
        cell = self._cells.get(kind)
        if cell is None:
            known = KINDS.get(kind)
            cell = self._cells[kind] = known.rule() if known is not None else Loose()
            if self.shut:
                cell.close()
            if self.kind is None:
                self.kind = kind
        return cell

    def get(self, kind: str) -> Cell | None:
        return self._cells.get(kind) if self._cells is not None else None

    def close(self) -> None:
        self.shut = True
        for cell in (self._cells or {}).values():
            cell.close()

    @property
    def tool_use_id(self) -> Any:
        cell = self.get(self.kind or "")
        fields = cell.value() if isinstance(cell, Fields | ToolResult) else None
        return fields.get("toolUseId") if fields else None

    @property
    def is_call(self) -> bool:
        """Whether it is a call for the client to make."""
        if self._cells is None:
            return _is_call(self.given)
        use = self.get("toolUse")
        return isinstance(use, Fields) and _is_call({"toolUse": use.value()})

    def raw_input(self) -> str:
        """A tool's input as the text that was sent; empty when none was."""
        use = self.get("toolUse")
        cell = use.get("input") if isinstance(use, Fields) else None
        return (cell.value() or "") if cell is not None else ""

    def fault(self) -> str | None:
        """The code of what is wrong with a tool's input text, if anything is."""
        raw = self.raw_input() if self.kind == "toolUse" else ""
        return parsed_input(raw)[1] if raw else None

    def value(self, *, ended: bool) -> Any:
        """The block as the unstreamed message has it. `ended`: the message is, so no more can come for the block."""
        if self._cells is None:
            return self.given
        if self.kind in CITED:
            return self._cited()
        out: JSON = {}
        for kind, cell in self._cells.items():
            value = cell.value()
            if kind == "reasoningContent":
                value = _reasoning(value or {})
            elif kind == "toolUse":
                value = self._tool_use(value or {}, closed=self.stopped or ended)
            out[kind] = value
        return out

    def _cited(self) -> JSON:
        text, citations = (
            cell.value() if (cell := self.get(kind)) is not None else None for kind in ("text", "citation")
        )
        if citations is None:
            return {"text": text}
        return {"citationsContent": {**({} if text is None else {"content": [{"text": text}]}), "citations": citations}}

    def _tool_use(self, use: JSON, *, closed: bool) -> JSON:
        raw = self.raw_input()
        if not raw:
            # No text of it at all is a tool without parameters, once nothing more can come.
            return {**use, "input": {}} if closed else {**use, "input": None, "partial_json": ""}
        found, fault = parsed_input(raw)
        if fault is None and (closed or isinstance(found, dict | list)):
            return {**use, "input": found}
        return {**use, "input": None, "partial_json": raw}


def _reasoning(said: JSON) -> JSON:
    """Reasoning in the unstreamed words, with what was said beside them."""
    text = {key: said[key] for key in ("text", "signature") if key in said}
    rest = {key: value for key, value in said.items() if key not in text}
    return {**({"reasoningText": text} if text else {}), **rest}


# ---------------------------------------------------------------------------------------------- repeated frames


@cache
def _reader(path: tuple[str | int, ...]) -> tuple[Callable[[bytes], Any], Callable[[Any], Any], Callable[[Any], Any]]:
    """Reads frames that hold a block's index, padding, the string at `path`, and nothing else.

    Returns how to decode one, and where in it the index and the string are.
    """
    names = [str(step) for step in path]
    wrapper, inside = names[: names.index("delta")], names[names.index("delta") + 1 :]
    shape: Any = str
    for name in reversed(inside):
        shape = msgspec.defstruct("Part", [(name, shape)], forbid_unknown_fields=True, gc=False)
    fields: list[tuple[str, Any]] = [("contentBlockIndex", int), ("delta", shape), (PADDING, str)]
    shape = msgspec.defstruct("Delta", fields, forbid_unknown_fields=True, gc=False)
    for name in reversed(wrapper):
        shape = msgspec.defstruct("Event", [(name, shape)], forbid_unknown_fields=True, gc=False)
    index = attrgetter(".".join([*wrapper, "contentBlockIndex"]))
    return msgspec.json.Decoder(shape).decode, index, attrgetter(".".join(names))


RUN: Final = 256
"""Frames looked at in one run: a slice of that size costs nothing."""


class PaddedRun(Repeat):
    """Deltas of one string, one after the other, each with padding of its own.

    To read the few typed fields of such a frame costs less than to cut it around two holes (`wire/repeat.py`).
    """

    __slots__ = ("_index", "_index_in", "_piece_in", "_read")

    def __init__(self, path: tuple[str | int, ...], index: int, target: Text, flags: int) -> None:
        super().__init__(b"", b"", target, flags)
        self._read, self._index_in, self._piece_in = _reader(path)
        self._index = index

    def run(self, payloads: Sequence[bytes], at: int) -> tuple[int, int]:
        read, index_in, piece_in, index = self._read, self._index_in, self._piece_in, self._index
        text = self._target.open()
        begun = at
        flags = 0
        for payload in payloads[at : at + RUN]:
            try:
                delta = read(payload)
            except (msgspec.DecodeError, UnicodeDecodeError):
                break
            if index_in(delta) != index:
                break
            at += 1
            if piece := piece_in(delta):
                text += piece.encode()
                flags = self._flags
        self.hits += at - begun
        return at, flags

    def skim(self, data: bytes, lead: bytes) -> tuple[int, int]:
        """Nothing of an SSE body: Bedrock's frames are binary, and this cannot tell where an event ends."""
        return 0, 0


# ---------------------------------------------------------------------------------------------- the stream


class BedrockConverse(Fold):
    """Folds `ConverseStreamOutput` events into a `ConverseResponse`."""

    __slots__ = ("_blocks", "_failure", "_last", "_message", "_newest", "_output", "_refusal", "_told", "_top")

    format: ClassVar[str] = "bedrock-converse"
    stream_type: ClassVar[StreamType] = StreamType.CHAT_COMPLETION

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

    def _learn(self, payload: bytes, event: JSON, flags: int) -> None:
        assert self._plain is not None
        path, target = self._plain
        inner = event if path[0] == "delta" else event[str(path[0])]
        if isinstance(inner.get(PADDING), str):
            self._credit -= 1
            self._repeat = PaddedRun(path, inner["contentBlockIndex"], target, flags)
        else:
            super()._learn(payload, event, flags)

    # Failures, and the whole

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
            data.output_message = _chat_message(message)
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


# ---------------------------------------------------------------------------------------------- exceptions

EXCEPTIONS: Final = {
    "accessDeniedException": (403, False),
    "internalServerException": (500, True),
    "modelErrorException": (424, False),
    "modelNotReadyException": (429, True),
    "modelStreamErrorException": (424, True),  # "An error occurred while streaming the response. Retry your request."
    "modelTimeoutException": (408, True),
    "resourceNotFoundException": (404, False),
    "serviceQuotaExceededException": (400, False),
    "serviceUnavailableException": (503, True),
    "throttlingException": (429, True),
    "validationException": (400, False),
}
"""HTTP status of an exception by the service model, and whether to try again."""

EXCEPTION_FIELDS: Final = frozenset(
    {"message", "Message", "__type", "originalStatusCode", "originalMessage", "resourceName"}
)


def is_refusal(event: Mapping[str, Any]) -> bool:
    """Whether an object is the body of an exception."""
    return ("message" in event or "Message" in event) and event.keys() <= EXCEPTION_FIELDS


def refusal_in(headers: Mapping[str, str] | None) -> str | None:
    """The name of the exception in the headers of a refused request (`ThrottlingException:http://...`)."""
    for name, value in (headers or {}).items():
        if name.lower() == "x-amzn-errortype":
            return value.partition(":")[0].strip() or None
    return None


def is_exception(name: str) -> bool:
    """Whether an event's name is that of an exception."""
    return name.endswith("Exception")


def exception_details(name: str | None, said: Any) -> ErrorDetails:
    """An exception of Bedrock, from an event or from the body of a refused request, which is named by a header."""
    fields = said if isinstance(said, Mapping) else {"message": said}
    kind = name or (_text(fields.get("__type")) or "").rpartition("#")[2] or None
    status, again = EXCEPTIONS.get(kind[0].lower() + kind[1:], (None, None)) if kind else (None, None)
    original = fields.get("originalStatusCode")
    if status is None and isinstance(original, int) and 100 <= original <= 599:
        status = original
    message = fields.get("message") or fields.get("Message") or fields.get("originalMessage")
    return ErrorDetails(
        type=kind,
        code=kind,
        message=message if message is None or isinstance(message, str) else json_text(message),
        status_code=status,
        retryable=retryable(status) if again is None else again,
    )


# ---------------------------------------------------------------------------------------------- the view

FINISH_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


def converse_finish_reason(raw: Any) -> tuple[str | None, str | None]:
    """OpenAI's word for a stop reason, and the provider's own. Output that is malformed has no word there."""
    if not isinstance(raw, str) or not raw:
        return None, None
    return FINISH_REASONS.get(raw), raw


def converse_usage(usage: Any, model: str | None = None) -> tuple[TokenUsage, str | None]:
    """Bedrock's `usage` in the neutral convention, and the code of what is odd about it.

    By the documentation the prompt is `inputTokens` and what was read from and written to the cache, and the total is
    that and the output. OpenAI's models count the cache into `inputTokens` as well, and their total counts it twice:
    the sums agree, so only the name of the model tells; where it is unknown and this may be so, the code says it.
    """
    if not isinstance(usage, Mapping):
        return TokenUsage(source="missing"), None
    read = _count(usage, "cacheReadInputTokens", "cacheReadInputTokenCount")
    write = _count(usage, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
    given, completion, total = (_count(usage, key) for key in ("inputTokens", "outputTokens", "totalTokens"))
    by_ttl = _written_by_ttl(usage.get("cacheDetails"))
    cached = (read or 0) + (write or 0)
    prompt = given + cached if given is not None else None
    found = TokenUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total, source="provider")
    inputs = PromptTokensDetails(
        cached_read_tokens=read,
        cached_write_tokens=write,
        cached_write_5m_tokens=by_ttl.get("5m"),
        cached_write_1h_tokens=by_ttl.get("1h"),
    )
    found.prompt_tokens_details = inputs if inputs != PromptTokensDetails() else None
    tools = usage.get("serverToolUsage")
    found.server_tool_use = dict(tools) if isinstance(tools, Mapping) and tools else None
    if given is None or completion is None:
        if given is None and completion is None and total is None:
            found.source = "missing"
        return found, None
    return found, _settle_total(found, given, cached, completion, model or "")


def _settle_total(usage: TokenUsage, given: int, cached: int, completion: int, model: str) -> str | None:
    """Decides what the total says about the parts. Returns the code of what is odd."""
    summed = given + cached + completion
    may_include = 0 < cached <= given
    if usage.total_tokens is None:
        usage.total_tokens, usage.source = summed, "derived"
        return None
    if may_include and usage.total_tokens == given + completion:
        usage.prompt_tokens = given
        return "usage_total_mismatch"
    if usage.total_tokens != summed:
        if usage.total_tokens == given + completion:  # the total leaves the cache out
            usage.total_tokens, usage.source = summed, "derived"
        return "usage_total_mismatch"
    if not may_include or "anthropic." in model:
        return None
    if "openai." not in model:
        return "usage_cache_ambiguous"
    usage.prompt_tokens, usage.total_tokens, usage.source = given, given + completion, "derived"
    return "usage_cache_counted_twice"


def _count(usage: Mapping[str, Any], *keys: str) -> int | None:
    return next((found for key in keys if (found := count(usage.get(key))) is not None), None)


def _written_by_ttl(details: Any) -> dict[str, int]:
    """Tokens written to the cache by how long they live there."""
    out: dict[str, int] = {}
    for detail in _objects(details):
        ttl, tokens = detail.get("ttl"), count(detail.get("inputTokens"))
        if isinstance(ttl, str) and tokens is not None:
            out[ttl] = out.get(ttl, 0) + tokens
    return out


def _chat_message(message: JSON) -> ChatMessage:
    content = message.get("content")
    blocks = list(_objects(content))
    texts = [text for block in blocks for text in _texts_of(block)]
    reasoning = [dict(said) for block in blocks if isinstance(said := block.get("reasoningContent"), dict)]
    # Each block is a train of thought of its own, as each summary part of a Responses item is.
    thoughts = [thought for said in reasoning if (thought := _text(_mapping(said.get("reasoningText")).get("text")))]
    citations = [_mapping(block.get("citationsContent")).get("citations") for block in blocks]
    calls = [_tool_call(block["toolUse"], place) for place, block in enumerate(b for b in blocks if _is_call(b))]
    return ChatMessage(
        role=_text(message.get("role")),
        content="".join(texts) if texts else _text(content),
        reasoning="\n\n".join(thoughts) if thoughts else None,
        reasoning_details=reasoning or None,
        tool_calls=calls or None,
        annotations=[citation for each in citations for citation in _objects(each)] or None,
        images=[image for block in blocks if (image := _image(block.get("image"))) is not None] or None,
    )


def _texts_of(block: JSON) -> Iterator[str]:
    for part in (block, *_objects(_mapping(block.get("citationsContent")).get("content"))):
        if isinstance(part.get("text"), str):
            yield part["text"]


def _is_call(block: Any) -> bool:
    """Whether a block is a call for the client to make. Bedrock makes those of its own tools itself."""
    use = block.get("toolUse") if isinstance(block, dict) else None
    return isinstance(use, dict) and use.get("type") != "server_tool_use"


def _tool_call(use: JSON, place: int) -> ToolCall:
    arguments, partial = use.get("input"), _text(use.get("partial_json"))
    complete = partial is None
    if partial is not None:
        arguments = partial
    elif isinstance(arguments, str):
        complete = not arguments or parsed_input(arguments)[1] is None
    elif arguments is not None:
        arguments = json_text(without_surrogates(arguments))
    return ToolCall(
        index=place,
        id=_text(use.get("toolUseId")),
        type="function",
        function=FunctionCall(_text(use.get("name")), arguments),
        arguments_complete=complete,
    )


def _image(image: Any) -> JSON | None:
    source = _mapping(_mapping(image).get("source"))
    data, uri = source.get("bytes"), _mapping(source.get("s3Location")).get("uri")
    if isinstance(data, bytes):
        data = base64.b64encode(data).decode()
    if isinstance(data, str) and data:
        kind = image.get("format")
        uri = f"data:image/{kind};base64,{data}" if kind else f"data:application/octet-stream;base64,{data}"
    return {"type": "image_url", "image_url": {"url": uri}} if isinstance(uri, str) else None


def _objects(items: Any) -> Iterator[JSON]:
    return (item for item in items if isinstance(item, dict)) if isinstance(items, list) else iter(())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
