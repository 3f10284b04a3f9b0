"""Anthropic Messages, and the legacy text completions (`/v1/complete`) that the same clients still record.

Source: the `RawMessageStreamEvent` and `Message` objects of Anthropic's API reference. A stream is one message told
in order: `message_start` gives the envelope, `content_block_start` opens the block of an `index`, deltas grow it,
`message_delta` says how it ended and what it cost, `message_stop` ends. The folded whole is the `Message` that the
same request returns unstreamed. What needs care, and what is done about it:

* A block's deltas name a field of the block and append to it (`GROWTH`). The index is an identity: blocks are put
  in its order, and a gateway that never opens a block, or opens two under one index, loses nothing.
* A tool's `input` is an object that travels as JSON text. Only a whole document becomes the object. Text that is cut
  off or broken stays text: `input` is then null and the text stands beside it as `partial_json`; a repaired guess
  would be executed as if the model had meant it.
* Usage is cumulative. A later count replaces an earlier one field by field, also when it is 0; absent and null say
  nothing. The `output_tokens` of `message_start` is a placeholder, so while no `message_delta` has counted, the view
  of a stream calls the completion tokens unknown. The native response keeps what was said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

from streamfold.growth import Fields, First, Record, Text, index_of, is_empty, merged
from streamfold.types import (
    JSON,
    AccumulatedData,
    ChatMessage,
    CompletionTokensDetails,
    FunctionCall,
    PromptTokensDetails,
    StreamType,
    TokenUsage,
    ToolCall,
)
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.openai_chat import finish_reason as openai_finish_reason
from streamfold.wire.packed import Packed, pack, unpack
from streamfold.wire.pings import is_ping
from streamfold.wire.repeat import usual
from streamfold.wire.split import utf8
from streamfold.wire.surrogates import without_surrogates
from streamfold.wire.usage import count

__all__ = ["AnthropicMessages", "anthropic_finish_reason", "anthropic_usage"]

_usual_delta = re.compile(
    rb'\{"type":"content_block_delta","index":(?P<index>[0-9]|[1-9][0-9]{1,3}),'
    rb'"delta":\{"type":"(?P<kind>text_delta|thinking_delta|signature_delta|input_json_delta)",'
    rb'"(?P<field>text|thinking|signature|partial_json)":"'
).match
"""How the delta begins of which nearly all of a stream consists, up to its text."""

FEW_BLOCKS: Final = 16
"""Up to so many blocks it is quicker (and smaller) to look through them than to keep a table."""

IDENTITY: Final = frozenset({"id", "type", "role", "model"})
"""Fields of a message that are said once."""

HINTS: Final = frozenset({"estimated_tokens"})
"""Delta fields for a progress display ("lossy, not billable") that no unstreamed block has."""


class Growth(NamedTuple):
    """What a kind of delta grows."""

    block: str
    """The type of block it belongs to."""
    fields: tuple[str, ...]
    brings: int
    """The flags of a delta that is not empty."""


GROWTH: Final = {
    "text_delta": Growth("text", ("text",), OUTPUT | CONTENT),
    "thinking_delta": Growth("thinking", ("thinking",), OUTPUT),
    "signature_delta": Growth("thinking", ("signature",), OUTPUT),
    "input_json_delta": Growth("tool_use", ("partial_json",), OUTPUT),
    "citations_delta": Growth("text", ("citation",), OUTPUT),
    "compaction_delta": Growth("compaction", ("content", "encrypted_content"), OUTPUT),
    "connector_text_delta": Growth("connector_text", ("connector_text",), OUTPUT),
}
PROSE: Final = frozenset({"text", "thinking"})
"""Fields of which each has a type of block to itself (some servers never open a block for them)."""

UNKNOWN_GROWTH: Final = Growth("", (), OUTPUT)

COMPLETION = Record(id=First, model=First, completion=Text)
"""A legacy text completion: one flat object, of which each event repeats all but its stretch of text."""


class Usual(dict[str, Any]):
    """The fields of a start that says no more than the type of its block: held once for all streams, and not changed.

    Most blocks start so, and a dict of its own would be the largest part of each.
    """

    __slots__ = ()


_usual: Final[dict[tuple[Any, ...], Usual]] = {}
"""By type and fields."""

EMPTY_AT_FIRST: Final = frozenset({"type", "text", "thinking", "signature"})
"""Fields of a usual start; all but the type are empty."""


def _held(fields: JSON) -> JSON:
    """The fields of a block's start, for the block to keep."""
    kind = fields.get("type")
    is_prose = kind == "text" or kind == "thinking"
    if is_prose and fields.keys() <= EMPTY_AT_FIRST and list(fields.values()).count("") == len(fields) - 1:
        return _usual.setdefault((kind, *fields), Usual(fields))
    return dict(fields)


class Block:
    """One content block. What the start said is kept as it came; a field gets a cell when its first delta arrives."""

    __slots__ = ("_citations", "_input", "_shut", "_text", "_texts", "fields", "given", "index", "opened", "stopped")

    def __init__(self, index: float, fields: JSON, *, given: bool = False, opened: bool = True) -> None:
        self.index = index
        self.fields = _held(fields)
        self.given = given
        """It came whole, inside a message."""
        self.opened = opened
        """Its start has come. If not, a delta made it and `fields` is what the delta implies."""
        self.stopped = given
        self._text: tuple[str, Text] | None = None
        self._texts: dict[str, Text] | None = None  # of the second and later fields; nearly every block has one
        self._input: Text | None = None
        self._citations: list[Any] | None = None
        self._shut = False

    @property
    def type(self) -> Any:
        return self.fields.get("type")

    @property
    def grown(self) -> bool:
        """Whether a delta has come for it."""
        return not (self._text is None and self._input is None and self._citations is None)

    def text(self, key: str) -> Text:
        """The cell of a text field; it begins with what the start gave."""
        if key == "partial_json":
            if self._input is None:
                self._input = self._cell(self.fields.get("input"))
            return self._input
        if self._text is None:
            self._text = key, self._cell(self.fields.get(key))
        if self._text[0] == key:
            return self._text[1]
        if self._texts is None:
            self._texts = {}
        cell = self._texts.get(key)
        if cell is None:
            cell = self._texts[key] = self._cell(self.fields.get(key))
        return cell

    def _grown(self) -> Iterator[tuple[str, Text]]:
        """The fields that deltas grew."""
        if self._text is not None:
            yield self._text
        yield from (self._texts or {}).items()

    def _cell(self, begun: Any) -> Text:
        cell = Text()
        if isinstance(begun, str):
            cell.add(begun)
        if self._shut:
            cell.close()
        return cell

    def cite(self, citation: Any) -> None:
        if self._shut:
            return
        if self._citations is None:
            said = self.fields.get("citations")
            self._citations = list(said) if isinstance(said, list) else []
        self._citations.append(citation)

    def keep(self, key: str, value: Any) -> None:
        """A field of a delta of unknown kind: text is appended, of anything else the latest stays."""
        if value is None:
            self._own_fields().setdefault(key, None)
        elif isinstance(value, str):
            self.text(key).add(value)
        elif not self._shut:
            self._own_fields()[key] = value

    def _own_fields(self) -> JSON:
        if type(self.fields) is Usual:
            self.fields = dict(self.fields)
        return self.fields

    def open(self, fields: JSON) -> None:
        """The start of a block that a delta had to make."""
        self.fields = {**fields, **{key: value for key, value in self.fields.items() if key not in fields}}
        self.opened = True

    def close(self) -> None:
        self._shut = True
        for _, cell in self._grown():
            cell.close()
        if self._input is not None:
            self._input.close()

    def raw_input(self) -> str:
        """A tool's input as the text that was sent; empty when none was."""
        return (self._input.value() or "") if self._input is not None else ""

    def fault(self) -> str | None:
        """The code of what is wrong with a tool's input text, if anything is."""
        raw = self.raw_input()
        return parsed_input(raw)[1] if raw else None

    def value(self, *, ended: bool) -> JSON:
        """The block as the unstreamed message has it. `ended`: the message is, so no more can come for the block."""
        block = dict(self.fields)
        for key, cell in self._grown():
            text = cell.value()
            if text is not None:
                block[key] = text
        if self._citations is not None:
            block["citations"] = list(self._citations)
        if self._input is not None or (not self.given and ("input" in block or _is_call(block))):
            self._put_input(block, closed=self.stopped or ended)
        return block

    def _put_input(self, block: JSON, *, closed: bool) -> None:
        raw = self.raw_input()
        if not raw:
            if block.get("input"):
                return  # the start gave all of it
            if not closed:
                block["input"], block["partial_json"] = None, ""
            elif is_empty(block.get("input")):
                block["input"] = {}  # no text of it at all: a tool without parameters
            return
        found, fault = parsed_input(raw)
        if fault is None and (closed or isinstance(found, dict | list)):
            block["input"] = found
        else:
            block["input"], block["partial_json"] = None, raw


def parsed_input(text: str) -> tuple[Any, str | None]:
    """The value of a tool's input text, and the code of what is wrong with it."""
    try:
        return msgspec.json.decode(text), None
    except UnicodeEncodeError:
        fault = "invalid_tool_json"
    except msgspec.DecodeError as error:
        # The decoder tells text that ends too early from text that is wrong somewhere.
        fault = "incomplete_tool_json" if "truncated" in str(error) else "invalid_tool_json"
    except RecursionError:
        return None, "invalid_tool_json"
    try:
        return json.loads(text, parse_constant=_refuse), None  # lone surrogates, which the fast decoder refuses
    except (ValueError, RecursionError):
        return None, fault


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


class AnthropicMessages(Fold):
    """Folds `RawMessageStreamEvent`s into a `Message`, and legacy `completion` events into a completion."""

    __slots__ = ("_blocks", "_completion", "_counted", "_failure", "_last", "_message", "_newest")

    format: ClassVar[str] = "anthropic-messages"
    stream_type: ClassVar[StreamType] = StreamType.CHAT_COMPLETION

    def __init__(self) -> None:
        super().__init__()
        self._message: Packed | None = None
        self._blocks: list[Block] = []
        self._newest: dict[float, Block] | None = None  # by index, the block that deltas go to; once there are many
        self._last: Block | None = None
        self._counted = False
        """The output tokens were counted; until then the stream has only a placeholder for them."""
        self._completion: Fields | None = None
        self._failure: JSON | None = None

    def add(self, payload: bytes, name: str | None = None) -> int:
        begun = _usual_delta(payload) if self.hopeful else None
        flags = self._begin_run(payload, begun) if begun is not None else None
        if flags is None:
            return super().add(payload, name)
        self.named = name
        return flags

    def _begin_run(self, payload: bytes, begun: re.Match[bytes]) -> int | None:
        """Folds a delta spelled as Anthropic spells it, without decoding it: what such bytes say is known.

        The deltas that repeat it need no more look at it than at any other. None if it is not quite what is expected.
        """
        growth = GROWTH[begun["kind"].decode()]
        key = growth.fields[0]
        block = self._block_at(int(begun["index"]))
        open_yet = block is not None and block.type == growth.block and not block.stopped
        body, _, padding = payload[begun.end() :].rpartition(b'"}')
        if block is None or not open_yet or begun["field"] != key.encode() or padding.lstrip(b" ") != b"}":
            return None
        if not utf8(body):
            return None
        self._settle()
        cell, flags = block.text(key), CHUNK | growth.brings
        ending = (b'"}}',) if padding == b"}" else (b'"}', b"}")
        self.repeat = repeat = usual((begun[0], *ending), cell, flags)
        return repeat.payload(payload)

    def add_event(self, event: JSON, name: str | None = None) -> int:
        kind = event.get("type")
        if not isinstance(kind, str):
            kind = _kind_without_type(event, name)
        handler = HANDLERS.get(kind)
        if handler is not None:
            return handler(self, event)
        if is_ping(event, name):
            return 0
        if error_of(event) is not None:
            return self._add_error(event)
        return self.keep_unknown(event)

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        kind = event.get("type")
        if kind == "message":
            return isinstance(event.get("content"), list) and "stop_reason" in event
        if kind == "completion":
            return isinstance(event.get("completion"), str)
        if kind == "error":
            # OpenAI's Responses API numbers its events, and its own error events are flat.
            return isinstance(event.get("error"), dict) and "sequence_number" not in event
        return isinstance(kind, str) and kind in OURS

    # The message

    def _start_message(self, event: JSON) -> int:
        message = event.get("message")
        if isinstance(message, dict):
            flags = self._add_message(message)
        else:
            self.flag("unexpected_shape")
            flags = 0
        counted = self._counted
        self._put_rest(event, "message")
        self._counted = counted  # nothing in this event is more than a placeholder
        self._message = pack(self._top())
        return CHUNK | flags

    def _whole_message(self, event: JSON) -> int:
        """A whole message where a stream was expected."""
        flags = self._add_message(event)
        self._counted = True
        self.ended = True
        return CHUNK | flags

    def _add_message(self, message: JSON) -> int:
        if self._message and "id" in unpack(self._message):
            self.flag("repeated_message_start")
        flags = 0
        for key, value in message.items():
            if key == "content":
                flags |= self._add_content(value)
            elif key == "usage":
                self._add_usage(value)
            else:
                self._put(key, value)
        if not is_empty(message.get("stop_reason")):
            self._counted = True  # the message was finished before its stream began
        return flags

    def _add_content(self, content: Any) -> int:
        """The content of a message that did not begin empty."""
        top = self._top()
        if self._blocks:
            return 0
        if content is None or "content" not in top:
            top["content"] = content
        if not isinstance(content, list):
            if content is not None:
                self.flag("unexpected_shape")
            return OUTPUT | CONTENT if content and isinstance(content, str) else 0
        flags = 0
        for index, fields in enumerate(content):
            if isinstance(fields, dict) and not self.full:
                flags |= self._open(Block(index, fields, given=True))
            elif not isinstance(fields, dict):
                self.flag("unexpected_shape")
        return flags

    def _finish_message(self, event: JSON) -> int:
        delta = event.get("delta")
        if isinstance(delta, dict):
            self._put_rest(delta, "type")
        elif delta is not None:
            self.flag("unexpected_shape")
        self._put_rest(event, "delta")
        return CHUNK

    def _stop_message(self, event: JSON) -> int:
        self.ended = True
        if any(not block.stopped for block in self._blocks):
            self.flag("missing_block_stop")
        self._put_rest(event, "message")  # an SDK's own event has the message so far there
        return CHUNK

    def _count(self, usage: Any) -> None:
        self._add_usage(usage)
        if isinstance(usage, dict) and usage.get("output_tokens") is not None:
            self._counted = True

    def _add_usage(self, usage: Any) -> None:
        top = self._top()
        old = top.get("usage")
        if usage is not None and not isinstance(usage, dict):
            self.flag("unexpected_shape")
            if old is not None:
                return
        top["usage"] = merged(old, usage)

    def _put_rest(self, event: JSON, known: str) -> None:
        """Fields beside the known one of an event are fields of the message (`usage`, `context_management`)."""
        for key, value in event.items():
            if key == "usage":
                self._count(value)
            elif key == "content":
                self.flag("unexpected_shape")
            elif key != "type" and key != known:
                self._put(key, value)

    def _put(self, key: str, value: Any) -> None:
        top = self._top()
        old = top.get(key)
        if old is None or (key not in IDENTITY and not is_empty(value)):
            top[key] = value
        if key == "stop_reason" and not is_empty(value):
            self.finished = True

    def _top(self) -> JSON:
        self._message = top = unpack(self._message) if self._message is not None else {}
        return top

    # Its blocks

    def _start_block(self, event: JSON) -> int:
        fields = event.get("content_block")
        if not isinstance(fields, dict):
            self.flag("unexpected_shape")
            return CHUNK
        index = _index(event)
        if index is None:
            self.flag("missing_index")
            index = int(max((block.index for block in self._blocks), default=-1)) + 1
        if not self._is_repeat(index, fields) and not self.full:
            self._note_fallback(fields)
            return CHUNK | self._open(Block(index, fields))
        return CHUNK

    def _is_repeat(self, index: int, fields: JSON) -> bool:
        """Whether a start is that of a block we have. Otherwise an index in use names a second block."""
        block = self._block_at(index)
        if block is None:
            return False
        if not block.opened:
            block.open(fields)
            return True
        same = block.type == fields.get("type") and block.fields.get("id") == fields.get("id")
        if same and ("id" in fields or block.given or not block.stopped):
            self.flag("repeated_block_start")
            return True
        self.flag("block_index_reused")
        return False

    def _note_fallback(self, fields: JSON) -> None:
        """After a server-side fallback the message is the fallback model's, as the unstreamed one says."""
        to = fields.get("to")
        if fields.get("type") == "fallback" and isinstance(to, dict) and isinstance(to.get("model"), str):
            self._top()["model"] = to["model"]

    def _open(self, block: Block) -> int:
        self._blocks.append(block)
        self._last = block
        if self._newest is not None:
            self._newest[block.index] = block
        elif len(self._blocks) > FEW_BLOCKS:
            self._newest = {each.index: each for each in self._blocks}
        return _brings(block.fields)

    def _block_at(self, index: float) -> Block | None:
        """The block that an index names now."""
        if self._newest is not None:
            return self._newest.get(index)
        return next((block for block in reversed(self._blocks) if block.index == index), None)

    def _add_delta(self, event: JSON) -> int:
        delta = event.get("delta")
        if not isinstance(delta, dict):
            self.flag("unexpected_shape")
            return CHUNK
        kind = delta.get("type")
        if not isinstance(kind, str):
            kind = next((kind for kind, growth in GROWTH.items() if growth.fields[0] in delta), "")
        growth = GROWTH.get(kind, UNKNOWN_GROWTH)
        block = self._block_of(_index(event), growth)
        if block is not None and _misfits(block, growth):
            block = self._beside(block, growth)
        if block is None:
            return CHUNK
        flags = CHUNK
        plain = growth is not UNKNOWN_GROWTH and isinstance(event.get("type"), str)
        for key, value in delta.items():
            if key in growth.fields:
                flags |= self._grow(block, key, value, growth)
            elif key != "type" and key not in HINTS:
                plain = False
                flags |= self._keep(block, key, value)
        field = growth.fields[0] if len(growth.fields) == 1 else None
        if plain and field not in (None, "citation") and isinstance(delta.get(field), str):
            self._plain = (("delta", field), block.text(field))
        return flags

    def _block_of(self, index: int | None, growth: Growth) -> Block | None:
        """The block that a delta grows. One that was never opened begins as what the delta implies, without an id."""
        if index is None:
            self.flag("missing_index")
            block = self._last
        else:
            block = self._block_at(index)
        if block is None:
            self.flag("missing_block_start")
            block = self._just_opened(index, growth)
        if block is None:
            if self.full:
                return None
            fields = {"type": growth.block} if growth.block else {}
            self._open(block := Block(index or 0, fields, opened=False))
        elif block.stopped and not block.given:
            self.flag("delta_after_stop")
        return block

    def _just_opened(self, index: int | None, growth: Growth | None) -> Block | None:
        """The newest block under another number, if it has nothing yet and can be the one that is meant.

        Anthropic has opened the block after a server tool's result under the number of that result, and grown and
        stopped it under its own.
        """
        block = self._last
        if block is None or index is None or not block.opened or block.stopped or block.grown:
            return None
        if growth is not None and not _fits(block, growth):
            return None
        if self._newest is not None:
            self._newest.pop(block.index, None)
            self._newest[index] = block
        block.index = index
        return block

    def _beside(self, block: Block, growth: Growth) -> Block | None:
        """The block for text or thinking that a server sends under the index of a block that has no place for it.

        It stands right after that block, under a number that no event has; there may be one of either kind.
        """
        self.flag("delta_mismatch")
        place = block.index + 0.5
        found = self._block_at(place)
        if found is not None and found.type != growth.block:
            place += 0.25
            found = self._block_at(place)
        if found is None and not self.full:
            newest = self._last
            self._open(found := Block(place, {"type": growth.block}, opened=False))
            found.stopped = True
            self._last = newest
        return found

    def _grow(self, block: Block, key: str, value: Any, growth: Growth) -> int:
        if value is None:
            if growth.block == "compaction":
                block.keep(key, None)  # a compaction that failed has no summary, and says so
            return 0
        if key == "citation":
            block.cite(value)
            return growth.brings
        if key == "partial_json" and isinstance(value, dict | list):
            value = msgspec.json.encode(without_surrogates(value)).decode()
        if not isinstance(value, str):
            self.flag("unexpected_shape")
            return 0
        block.text(key).add(value)
        return growth.brings if value else 0

    def _keep(self, block: Block, key: str, value: Any) -> int:
        self.flag("unknown_delta")
        block.keep(key, value)
        return OUTPUT if value and isinstance(value, str) else 0

    def _stop_block(self, event: JSON) -> int:
        index = _index(event)
        block = self._block_at(index) if index is not None else self._last
        if block is None:
            self.flag("missing_block_start")
            block = self._just_opened(index, None)
        if block is None:
            return CHUNK
        block.stopped = True
        if (fault := block.fault()) is not None:
            self.flag(fault)
        return CHUNK

    # Everything else

    def _add_derived(self, event: JSON) -> int:
        """An event that an SDK derives from the raw one it follows; it says nothing new."""
        whole = "snapshot" in event or event.get("type") in ("signature", "compaction")
        return 0 if whole else self.keep_unknown(event)

    def _add_error(self, event: JSON) -> int:
        self.error = error_details(error_of(event, "error"))
        self._failure = event
        return CHUNK

    def _add_completion(self, event: JSON) -> int:
        if self._completion is None:
            self._completion = COMPLETION()
            if self.full:
                self._completion.close()
        self._completion.add(event)
        text = event.get("completion")
        if not is_empty(event.get("stop_reason")):
            # The last event of this API is the one with the reason.
            self.finished = self.ended = True
        elif isinstance(text, str) and isinstance(event.get("type"), str):
            cell = self._completion.cell("completion")
            assert isinstance(cell, Text)
            self._plain = (("completion",), cell)
        return CHUNK | OUTPUT | CONTENT if text else CHUNK

    def _undecodable(self, payload: bytes, name: str | None, error: Exception) -> int:
        if payload.strip() == b"[DONE]" and not self.ended:
            self.flag("missing_message_stop")
        return super()._undecodable(payload, name, error)

    def close(self) -> None:
        super().close()
        for block in self._blocks:
            block.close()
        if self._completion is not None:
            self._completion.cell("completion").close()

    # The whole

    def response(self) -> JSON | None:
        response = self._response_so_far()
        if self._failure is not None:
            # Alone it is the whole response; after a part of one, it adds what names the request.
            known = () if response is None else ("type", "error", "message")
            response = response or {}
            for key, value in self._failure.items():
                if key not in known:
                    response.setdefault(key, value)
        unknown = self.unknown_events
        return {**(response or {}), **unknown} if unknown else response

    def _response_so_far(self) -> JSON | None:
        if self._message is None and not self._blocks:
            return None if self._completion is None else self._completion.value()
        response = dict(unpack(self._message or {}))
        if self._blocks or isinstance(response.get("content"), list):
            ended = self.finished or self.ended
            response["content"] = [block.value(ended=ended) for block in self._in_order()]
        return response

    def _in_order(self) -> list[Block]:
        return sorted(self._blocks, key=lambda block: block.index)

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        data.response_id = _text(response.get("id"))
        data.response_model = _text(response.get("model"))
        reason = response.get("stop_reason")
        data.finish_reason, data.raw_finish_reason = anthropic_finish_reason(reason)
        data.token_usage = anthropic_usage(response.get("usage"))
        if response.get("type") == "error" and data.error_details is None:
            data.error_details = error_details(response.get("error"))
        if isinstance(response.get("completion"), str):
            data.stream_type = StreamType.TEXT_COMPLETION
            data.output_message = ChatMessage(content=response["completion"])
        elif "content" in response or "role" in response:
            data.output_message = _chat_message(response)
            data.tool_calls = data.output_message.tool_calls
        usage = response.get("usage")
        data.service_tier = _text(usage.get("service_tier")) if isinstance(usage, Mapping) else None

    def finish_view(self, data: AccumulatedData) -> None:
        """Puts in the argument text exactly as sent, and takes out the count that was only a placeholder."""
        calls = iter(data.tool_calls or ())
        for block in self._in_order():
            if not block.stopped and data.status != "processing" and (fault := block.fault()) is not None:
                data.integrity.anomalies.append(fault)
            if block.type != "tool_use":
                continue
            call, raw = next(calls, None), block.raw_input()
            if raw and call is not None and call.function is not None:
                call.function.arguments = without_surrogates(raw)
        usage = data.token_usage
        if usage is not None and not self._counted:
            usage.completion_tokens = usage.total_tokens = usage.completion_tokens_details = None
            if usage.prompt_tokens is None:
                usage.source = "missing"


HANDLERS: Final[dict[str, Callable[[AnthropicMessages, JSON], int]]] = {
    "message_start": AnthropicMessages._start_message,
    "content_block_start": AnthropicMessages._start_block,
    "content_block_delta": AnthropicMessages._add_delta,
    "content_block_stop": AnthropicMessages._stop_block,
    "message_delta": AnthropicMessages._finish_message,
    "message_stop": AnthropicMessages._stop_message,
    "error": AnthropicMessages._add_error,
    "message": AnthropicMessages._whole_message,
    "completion": AnthropicMessages._add_completion,
    **dict.fromkeys(
        ("text", "thinking", "signature", "citation", "input_json", "compaction"), AnthropicMessages._add_derived
    ),
}

OURS: Final = frozenset(kind for kind in HANDLERS if kind.startswith(("message_", "content_block_")))
"""Event types that no other wire format has."""


def _kind_without_type(event: JSON, name: str | None) -> str:
    """What an event without a `type` is: its own type is authoritative, else the SSE event name is taken."""
    if name in HANDLERS and name != "message":  # "message" is also what SSE calls an event without a name
        return name or ""
    return "completion" if "completion" in event else ""


def _misfits(block: Block, growth: Growth) -> bool:
    """Whether a block has no place for what a delta of text or thinking grows."""
    if block.type == growth.block or not growth.fields or growth.fields[0] not in PROSE:
        return False
    return isinstance(block.type, str) and growth.fields[0] not in block.fields


def _fits(block: Block, growth: Growth) -> bool:
    """Whether a block is of the type whose deltas these are; every kind of call has the same."""
    return block.type == growth.block or (growth.block == "tool_use" and _is_call(block.fields))


def _is_call(fields: JSON) -> bool:
    """Whether a block is a call, whoever runs it: each has an `input`."""
    kind = fields.get("type")
    return isinstance(kind, str) and kind.endswith("tool_use")


def _index(event: JSON) -> int | None:
    return index_of(event.get("index"))


def _brings(fields: JSON) -> int:
    """What the model put out in a block that has just come."""
    if fields.get("type") == "text":
        return OUTPUT | CONTENT if fields.get("text") else 0
    if fields.get("type") == "thinking":
        return OUTPUT if fields.get("thinking") or fields.get("signature") else 0
    return OUTPUT if len(fields) > 1 else 0


FINISH_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "compaction": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def anthropic_finish_reason(raw: Any) -> tuple[str | None, str | None]:
    """OpenAI's word for a stop reason, and the provider's own. Gateways may have put OpenAI's there already."""
    if not isinstance(raw, str) or not raw:
        return None, None
    return FINISH_REASONS.get(raw) or openai_finish_reason(raw), raw


def anthropic_usage(usage: Any) -> TokenUsage:
    """Anthropic's `usage` in the neutral convention.

    Anthropic counts cache reads and writes apart from `input_tokens` and says no totals, but its reference defines
    them as plain sums, so they count as the provider's.
    """
    if not isinstance(usage, Mapping):
        return TokenUsage(source="missing")
    written = _mapping(usage.get("cache_creation"))
    short, long = count(written.get("ephemeral_5m_input_tokens")), count(written.get("ephemeral_1h_input_tokens"))
    read, write = count(usage.get("cache_read_input_tokens")), count(usage.get("cache_creation_input_tokens"))
    if write is None and (short is not None or long is not None):
        write = (short or 0) + (long or 0)
    prompt, completion = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    if prompt is not None:
        prompt += (read or 0) + (write or 0)
    inputs = PromptTokensDetails(
        cached_read_tokens=read,
        cached_write_tokens=write,
        cached_write_5m_tokens=short,
        cached_write_1h_tokens=long,
    )
    outputs = CompletionTokensDetails(
        reasoning_tokens=count(_mapping(usage.get("output_tokens_details")).get("thinking_tokens"))
    )
    tools = usage.get("server_tool_use")
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion if prompt is not None and completion is not None else None,
        prompt_tokens_details=inputs if inputs != PromptTokensDetails() else None,
        completion_tokens_details=outputs if outputs != CompletionTokensDetails() else None,
        server_tool_use=dict(tools) if isinstance(tools, Mapping) else None,
        source="missing" if prompt is None and completion is None else "provider",
    )


def _chat_message(message: JSON) -> ChatMessage:
    content = message.get("content")
    blocks = list(_blocks_in(content))
    texts = [text for block in blocks if block.get("type") == "text" and (text := _text(block.get("text"))) is not None]
    # Each thinking block is a train of thought of its own, as each summary part of a Responses item is.
    thoughts = [thought for block in blocks if (thought := _text(block.get("thinking")))]
    calls = [_tool_call(block, place) for place, block in enumerate(b for b in blocks if b.get("type") == "tool_use")]
    return ChatMessage(
        role=_text(message.get("role")),
        content="".join(texts) if texts else _text(content),
        reasoning="\n\n".join(thoughts) if thoughts else None,
        reasoning_details=[dict(b) for b in blocks if b.get("type") in ("thinking", "redacted_thinking")] or None,
        tool_calls=calls or None,
        annotations=[citation for block in blocks for citation in _blocks_in(block.get("citations"))] or None,
    )


def _tool_call(block: JSON, place: int) -> ToolCall:
    arguments = block.get("input")
    partial = _text(block.get("partial_json"))
    if partial is not None:
        arguments = partial
    elif arguments is not None and not isinstance(arguments, str):
        try:
            arguments = msgspec.json.encode(arguments).decode()
        except UnicodeEncodeError:
            arguments = msgspec.json.encode(without_surrogates(arguments)).decode()
    return ToolCall(
        index=place,
        id=_text(block.get("id")),
        type="function",
        function=FunctionCall(_text(block.get("name")), arguments),
        arguments_complete=partial is None and (not isinstance(block.get("input"), str) or _is_whole(arguments)),
    )


def _is_whole(text: Any) -> bool:
    return not text or parsed_input(text)[1] is None


def _blocks_in(items: Any) -> Iterator[JSON]:
    return (item for item in items if isinstance(item, dict)) if isinstance(items, list) else iter(())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
