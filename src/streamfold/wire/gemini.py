"""Google Gemini: `streamGenerateContent` of the Gemini API and of Vertex AI.

Source: the `GenerateContentResponse` of Google's API reference. Every chunk is such an object holding the next stretch
of it, and the folded whole is the one that `generateContent` gives. There is no end marker: a finish reason (or a
blocked prompt) is the end. These are protocol buffers spelled as JSON, so a zero is often not written (`index`, token
counts, `startIndex`), and some clients write an enum as its number.

Four things need thought.

* **Parts** (`Parts`). A chunk's parts follow those that came, and nothing numbers them. Stretches of text of the same
  kind (answer or thought) are one part in the whole. A signed part stays by itself, because the signature must be
  sent back on the very part it came on. Any other part is whole and is never joined. A part with an empty text and
  nothing else only carries a chunk's finish reason or metadata, and says nothing itself.
* **Function calls** (`Call`, `Arguments`) come whole, or on Vertex argument by argument: `partialArgs` name a place by
  JSON path and bring a value, a string possibly in pieces. `willContinue` says that the call goes on; an empty
  `functionCall` ends it. The whole has `args`, as if unstreamed; a call that was cut off keeps its `willContinue`.
* **Metadata** (`Gathered`, `Grounding`) comes empty, in parts, or whole again and again; lists are united. A grounding
  support points at grounding chunks by position in the list that came with it, so it moves with that list.
* **Usage** (`Usage`) is an account of the response so far. A field it does not name stays as it was, unless its total
  proves that the field is now zero.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec

from streamfold.growth import Base64, Extend, Fields, First, Identity, Latest, Merge, Record, Skip, Text, merged
from streamfold.types import (
    JSON,
    AccumulatedData,
    ChatMessage,
    Choice,
    CompletionTokensDetails,
    FunctionCall,
    MessageAudio,
    PromptTokensDetails,
    StreamType,
    TokenUsage,
    ToolCall,
)
from streamfold.wire.errors import error_details
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.usage import count

__all__ = ["Gemini"]

UNKNOWN_EVENTS: Final = 64
"""Unknown events that a response keeps."""

MAX_DEPTH: Final = 64
"""Steps of a JSON path that are followed; arguments of a real tool are not nested deeper."""

# ---------------------------------------------------------------------- streamed arguments

_STEP = re.compile(
    r"""\.(?P<name>[^.\[\]'"]+)            # .city
      | \[(?P<index>\d{1,9})\]             # [0]
      | \[(?P<quote>['"])(?P<quoted>(?:\\.|(?!(?P=quote)).)*)(?P=quote)\]   # ['a key']
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _steps(path: str) -> list[str | int] | None:
    """The steps of a JSON path that names one place (RFC 9535), or None if it does not."""
    if not path.startswith("$"):
        return None
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None or len(steps) == MAX_DEPTH:
            return None
        at = step.end()
        if step["index"] is not None:
            steps.append(int(step["index"]))
        elif step["name"] is not None:
            steps.append(step["name"])
        else:
            steps.append(_ESCAPED.sub(_unescape, step["quoted"]))
    return steps or None


def _unescape(match: re.Match[str]) -> str:
    escape = match[1]
    return chr(int(escape[1:], 16)) if len(escape) == 5 else _ESCAPES.get(escape, escape)


class Leaf:
    """One argument value: text that may come in pieces, or anything else, said once."""

    __slots__ = ("text", "value")

    def __init__(self) -> None:
        self.text: Text | None = None
        self.value: Any = None


Branch = dict[str | int, Any]
"""Values (`Leaf` or `Branch`) by name, or by position. Sparse, so that a position costs nothing before it is named."""


class Arguments:
    """The arguments of one streamed call, built place by place."""

    __slots__ = ("_leaves", "_root", "_shut")

    def __init__(self) -> None:
        self._root: Branch = {}
        self._leaves: dict[str, Leaf] = {}  # by path as spelled: a string in 100,000 pieces is looked up, not walked to
        self._shut = False

    def add(self, partial: Any) -> bool:
        """Takes one entry of `partialArgs`. False when it cannot be placed or brings a value of no known kind."""
        if not isinstance(partial, Mapping) or not isinstance(path := partial.get("jsonPath"), str):
            return False
        kind, value = _partial_value(partial)
        if kind is None:
            return False
        if self._shut or not kind:
            return True
        leaf = self.leaf(path)
        if leaf is None:
            return False
        if kind != "stringValue":
            leaf.text, leaf.value = None, value
            return True
        if leaf.text is None:
            leaf.text = Text()
        leaf.text.add(value)
        return True

    def put_all(self, args: Mapping[str, Any]) -> None:
        """Takes arguments that came whole."""
        for name, value in args.items():
            if not self._shut:
                leaf = self._root[name] = Leaf()
                leaf.value = value
        self._leaves.clear()

    def leaf(self, path: str) -> Leaf | None:
        """The leaf at a path, made if need be; None for a path that names no place."""
        leaf = self._leaves.get(path)
        if leaf is not None:
            return leaf
        steps = _steps(path)
        if steps is None:
            return None
        node = self._root
        for step in steps[:-1]:
            child = node.get(step)
            if not isinstance(child, dict):
                if child is not None:
                    self._leaves.clear()  # a value turns out to have parts; its leaf is no longer in the tree
                child = node[step] = {}
            node = child
        leaf = node.get(steps[-1])
        if not isinstance(leaf, Leaf):
            self._leaves.clear()
            leaf = node[steps[-1]] = Leaf()
        self._leaves[path] = leaf
        return leaf

    def value(self) -> JSON | None:
        """The arguments so far; None when none have come (which is not `{}`)."""
        if not self._root:
            return None
        return {str(step): _tree_value(child) for step, child in self._root.items()}

    def close(self) -> None:
        self._shut = True
        _close_tree(self._root)


def _partial_value(partial: Mapping[str, Any]) -> tuple[str | None, Any]:
    """The kind and the value of a partial argument; kind `""` when it brings none, None when nobody knows it."""
    if "stringValue" in partial:
        return ("stringValue", partial["stringValue"]) if isinstance(partial["stringValue"], str) else (None, None)
    for kind in ("numberValue", "boolValue"):
        if kind in partial:
            return kind, partial[kind]
    if "nullValue" in partial:
        return "nullValue", None
    return (None, None) if partial.keys() - {"jsonPath", "willContinue"} else ("", None)


def _tree_value(node: Leaf | Branch) -> Any:
    if isinstance(node, Leaf):
        return node.text.value() if node.text is not None else node.value
    if all(isinstance(step, int) for step in node):
        # Positions that never came are not filled up: what stood there is not known, not even that it was null.
        return [_tree_value(node[step]) for step in sorted(node)]
    return {str(step): _tree_value(child) for step, child in node.items()}


def _close_tree(node: Leaf | Branch) -> None:
    if isinstance(node, Leaf):
        if node.text is not None:
            node.text.close()
        return
    for child in node.values():
        _close_tree(child)


# ---------------------------------------------------------------------- parts


class TextPart:
    """Consecutive text of one kind, the answer's or a thought's."""

    __slots__ = ("_head", "text", "thought")

    def __init__(self, part: Mapping[str, Any]) -> None:
        self._head = dict(part)
        self.thought = bool(part.get("thought"))
        self.text = Text()

    def value(self) -> JSON:
        return {**self._head, "text": self.text.value() or ""}

    def close(self) -> None:
        self.text.close()


class Call:
    """A function call that comes in pieces."""

    __slots__ = ("_fields", "_part", "_unplaced", "args", "open")

    def __init__(self) -> None:
        self._part = Record(functionCall=Skip, thoughtSignature=First)()
        self._fields = Record(name=First, id=First, partialArgs=Skip, args=Skip, willContinue=Skip)()
        self._unplaced = Extend()
        self.args = Arguments()
        self.open = True

    def add(self, part: Mapping[str, Any], call: Mapping[str, Any]) -> bool:
        """Takes a piece. False when something in it could not be placed, and is kept as it came."""
        self.open = bool(call.get("willContinue"))
        self._part.add(part)
        self._fields.add(call)
        placed = True
        if isinstance(args := call.get("args"), Mapping):
            self.args.put_all(args)
        partials = call.get("partialArgs")
        for partial in partials if isinstance(partials, list | tuple) else ():
            if not self.args.add(partial):
                self._unplaced.add([partial])
                placed = False
        return placed

    def said(self, key: str) -> Any:
        cell = self._fields.get(key)
        return cell.value() if cell is not None else None

    def value(self) -> JSON:
        call = {key: value for key, value in (self._fields.value() or {}).items() if key not in _STREAMING}
        args = self.args.value()
        if args is not None:
            call["args"] = args
        unplaced = self._unplaced.value()
        if unplaced is not None:
            call["partialArgs"] = unplaced
        if self.open:
            call["willContinue"] = True
        return {**(self._part.value() or {}), "functionCall": call}

    def close(self) -> None:
        self.args.close()
        self._unplaced.close()


_STREAMING = frozenset({"args", "partialArgs", "willContinue"})


class Parts:
    """`content.parts`: the stretches of a chunk follow what came before."""

    __slots__ = ("_blank", "_calls", "_items", "_null", "_shut", "late_call", "odd")

    def __init__(self) -> None:
        self._items: list[TextPart | Call | Any] = []
        self._blank: JSON | None = None
        self._calls: list[Call] = []
        self._null = True
        self._shut = False
        self.odd = False
        """Something had a shape that the format does not know; it is kept as it came."""
        self.late_call = False
        """A piece came for a call that had said it was whole."""

    def add(self, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, list | tuple):
            self.odd = True
            return
        self._null = False
        for part in value:
            if not isinstance(part, Mapping):
                self.odd = True
                self._append(part)
            elif _is_text(part):
                self._add_text(part)
            elif isinstance(call := part.get("functionCall"), Mapping):
                self._add_call(part, call)
            else:
                self._append(dict(part))

    def _append(self, item: Any) -> None:
        if not self._shut:
            self._items.append(item)

    def _add_text(self, part: Mapping[str, Any]) -> None:
        if not part["text"]:
            if self._blank is None:
                self._blank = dict(part)
            return
        last = self.last_text()
        if last is None or last.thought != bool(part.get("thought")):
            last = TextPart(part)
            self._append(last)
        if not self._shut:
            last.text.add(part["text"])

    def last_text(self) -> TextPart | None:
        """The part that more text of its kind would be added to."""
        last = self._items[-1] if self._items else None
        return last if isinstance(last, TextPart) else None

    def last_call(self) -> Call | None:
        """The streamed call that was spoken of last."""
        return self._calls[-1] if self._calls else None

    def _add_call(self, part: Mapping[str, Any], call: Mapping[str, Any]) -> None:
        current = self._call_of(call)
        if current is None:
            if call.get("name") and not call.get("willContinue") and not call.get("partialArgs"):
                self._append(dict(part))  # a whole call
                return
            if not call:
                return  # the end of a call that nobody saw the beginning of
            if self._shut:
                return
            current = Call()
            self._append(current)
            if not call.get("name"):
                self.odd = True
        elif not current.open and call:
            self.late_call = True
        if self._calls and self._calls[-1] is not current and current in self._calls:
            self._calls.remove(current)
        if not self._calls or self._calls[-1] is not current:
            self._calls.append(current)
        if not current.add(part, call):
            self.odd = True

    def _call_of(self, call: Mapping[str, Any]) -> Call | None:
        """The call that a piece continues, or None if it opens one.

        A piece without a name continues: the call of its id, else the open one, else the last one. One with a name
        opens a call, unless it repeats the id of a call that is still open, or brings arguments and repeats the name
        of one that is.
        """
        name, identity = call.get("name"), call.get("id")
        for known in reversed(self._calls):
            if identity and known.said("id") == identity and (known.open or not name):
                return known
        if not name:
            if identity and self._calls and self._calls[-1].said("id"):
                return None
            return next((known for known in reversed(self._calls) if known.open), self.last_call())
        current = self.last_call()
        if current is None or not current.open or not call.get("partialArgs"):
            return None
        if identity and current.said("id"):
            return None
        return current if current.said("name") == name else None

    def value(self) -> list[Any] | None:
        if self._null:
            return None
        if not self._items and self._blank is not None:
            return [dict(self._blank)]
        return [item.value() if isinstance(item, TextPart | Call) else item for item in self._items]

    def close(self) -> None:
        self._shut = True
        for item in self._items:
            if isinstance(item, TextPart | Call):
                item.close()


def _is_text(part: Mapping[str, Any]) -> bool:
    """Whether a part is text and nothing else, so that it may be joined with its neighbour."""
    if not isinstance(part.get("text"), str):
        return False
    return len(part) == 1 or (len(part) == 2 and "thought" in part)


# ---------------------------------------------------------------------- metadata and usage


class Entries:
    """A list that comes in parts, or again and again with more at its end."""

    __slots__ = ("_items", "_places")

    def __init__(self) -> None:
        self._items: list[Any] | None = None
        self._places: dict[str, int] = {}  # by what the entry says

    def add(self, items: Sequence[Any]) -> Sequence[int]:
        """Adds the entries that are not there yet. Answers where each of `items` stands in the whole list."""
        if self._items is None:
            self._items = []
        size = len(self._items)
        if size <= len(items) and list(items[:size]) == self._items:
            for item in items[size:]:
                self._append(item)
            return range(len(items))
        places = []
        for item in items:
            place = self._places.get(repr(item))
            places.append(self._append(item) if place is None else place)
        return places

    def _append(self, item: Any) -> int:
        assert self._items is not None
        self._items.append(item)
        return self._places.setdefault(repr(item), len(self._items) - 1)

    def value(self) -> list[Any]:
        return list(self._items or ())


class Gathered:
    """Metadata about an answer: lists are united, objects completed, and of other values the newest stays."""

    __slots__ = ("_fields", "_null", "_shut")

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._null = True
        self._shut = False

    def add(self, value: Any) -> None:
        if not isinstance(value, Mapping):
            return
        self._null = False
        if self._shut:
            return
        for key, item in value.items():
            if isinstance(item, list | tuple):
                self.entries(key).add(item)
            elif not isinstance(self._fields.get(key), Entries):
                self._fields[key] = merged(self._fields.get(key), item)

    def entries(self, key: str) -> Entries:
        """The list of that name; a value of another kind gives way to it."""
        known = self._fields.get(key)
        if isinstance(known, Entries):
            return known
        made = self._fields[key] = Entries()
        return made

    def value(self) -> JSON | None:
        if self._null:
            return None
        return {key: item.value() if isinstance(item, Entries) else item for key, item in self._fields.items()}

    def close(self) -> None:
        self._shut = True


class Grounding(Gathered):
    """`groundingMetadata`, whose supports point at its chunks by position."""

    __slots__ = ()

    def add(self, value: Any) -> None:
        if isinstance(value, Mapping) and not self._shut:
            chunks, supports = value.get("groundingChunks"), value.get("groundingSupports")
            if isinstance(chunks, list | tuple) and isinstance(supports, list | tuple):
                places = self.entries("groundingChunks").add(chunks)
                if not isinstance(places, range):
                    value = {**value, "groundingSupports": [_moved(support, places) for support in supports]}
        super().add(value)


def _moved(support: Any, places: Sequence[int]) -> Any:
    """A grounding support whose chunks now stand at `places`. A position beyond them is one of the whole list."""
    indices = support.get("groundingChunkIndices") if isinstance(support, Mapping) else None
    if not isinstance(indices, list | tuple):
        return support
    moved = [places[i] if isinstance(i, int) and 0 <= i < len(places) else i for i in indices]
    return {**support, "groundingChunkIndices": moved}


ADDENDS: Final = {
    "promptTokenCount": "promptTokensDetails",
    "candidatesTokenCount": "candidatesTokensDetails",
    "thoughtsTokenCount": "thoughtsTokensDetails",
    "toolUsePromptTokenCount": "toolUsePromptTokensDetails",
}
"""The counts that `totalTokenCount` is the sum of, with the lists of what each is made of."""


class Usage:
    """`usageMetadata`: each chunk's account completes the one before.

    An account whose own counts add up to its own total leaves no room for the others: they are zero now, and what
    an earlier account said of them (between two turns of a server-side tool, say) no longer holds.
    """

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: Any = None

    def add(self, value: Any) -> None:
        old = self._value
        if isinstance(old, dict) and isinstance(value, Mapping) and _adds_up(value):
            gone = {name for pair in ADDENDS.items() if pair[0] not in value for name in pair}
            old = {key: item for key, item in old.items() if key not in gone}
        self._value = merged(old, value)

    def value(self) -> Any:
        return self._value

    def close(self) -> None:
        pass


def _adds_up(usage: Mapping[str, Any]) -> bool:
    total = count(usage.get("totalTokenCount"))
    return bool(total) and total == sum(count(usage.get(key)) or 0 for key in ADDENDS)


# ---------------------------------------------------------------------- the fold

CANDIDATE = Record(
    index=First,
    content=Record(role=First, parts=Parts),
    finishReason=Latest,
    finishMessage=Latest,
    safetyRatings=Latest,
    groundingMetadata=Grounding,
    citationMetadata=Gathered,
    urlContextMetadata=Gathered,
    avgLogprobs=Latest,
    logprobsResult=Record(chosenCandidates=Extend, topCandidates=Extend),
    tokenCount=Latest,
)

RESPONSE = Record(
    candidates=Skip,  # folded by index, see `_add_candidate`
    error=Skip,
    usageMetadata=Usage,
    promptFeedback=Merge,
    modelVersion=Identity,
    responseId=Identity,
    createTime=First,
)

KNOWN = frozenset({
    "candidates", "usageMetadata", "promptFeedback", "modelVersion", "responseId", "createTime", "modelStatus", "error",
})  # fmt: skip
"""Fields of which a chunk of this API has at least one."""

GROWING: Final = ("groundingMetadata", "citationMetadata", "urlContextMetadata", "logprobsResult")
"""Fields of a candidate that a second copy of the same chunk could add to."""


class Gemini(Fold):
    """Folds the chunks of `streamGenerateContent` into a `GenerateContentResponse`."""

    __slots__ = ("_candidates", "_finishes", "_said", "_top", "_unknown")

    format: ClassVar[str] = "gemini"
    stream_type: ClassVar[StreamType] = StreamType.CHAT_COMPLETION
    has_end_marker: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._top = RESPONSE()
        self._candidates: dict[int, Fields] | None = None
        self._finishes: set[int] = set()
        self._unknown: list[JSON] | None = None

    def add_event(self, event: JSON, name: str | None = None) -> int:
        inner = event.get("response")
        if isinstance(inner, dict) and _is_envelope(event, inner):
            return self._add_chunk({**event, **inner}, inner, ("response",))
        if event and event.keys().isdisjoint(KNOWN):
            return self._add_unknown(event)
        return self._add_chunk(event, event, ())

    def _add_chunk(self, fields: JSON, chunk: JSON, path: tuple[str, ...]) -> int:
        """Folds a chunk; `fields` are its fields with those of its envelope, `path` the way to it in the frame."""
        if chunk is not fields:
            fields.pop("response", None)
        if fields.get("error"):
            self.error = error_details(fields["error"])
        self._top.add(fields)
        flags = CHUNK
        candidates = chunk.get("candidates")
        if isinstance(candidates, Mapping):
            candidates = [candidates]
        if isinstance(candidates, list | tuple):
            flags |= self._add_candidates(candidates, path)
        elif candidates is not None:
            self.flag("unexpected_shape")
        feedback = chunk.get("promptFeedback")
        if isinstance(feedback, Mapping) and _enum(feedback.get("blockReason"), BLOCK_REASONS):
            self.finished = True
        return flags

    def _add_candidates(self, candidates: Sequence[Any], path: tuple[str, ...]) -> int:
        if self._candidates is None:
            self._candidates = {}
        flags = 0
        taken: set[int] = set()
        for place, candidate in enumerate(candidates):
            if not isinstance(candidate, Mapping):
                self.flag("unexpected_shape")
                continue
            index = candidate.get("index")
            if not isinstance(index, int):
                # A zero is not written; only where that is taken can the place tell.
                index = place if 0 in taken else 0
            taken.add(index)
            flags |= self._add_candidate(candidate, index)
        if flags & OUTPUT and len(candidates) == 1 and not self._finishes:
            self._look_for_plain(candidates[0], (*path, "candidates", 0))
        return flags

    def _add_candidate(self, candidate: Mapping[str, Any], index: int) -> int:
        assert self._candidates is not None
        cell = self._candidates.get(index)
        if cell is None:
            if self.full:
                return 0
            cell = self._candidates[index] = CANDIDATE()
        content = candidate.get("content")
        flags = 0
        if isinstance(content, Mapping):
            flags = _brings(content.get("parts"))
        elif content is not None:
            self.flag("unexpected_shape")
        for key, value in candidate.items():
            cell.cell(key).add(value)
        self._note_parts(cell)
        if _enum(candidate.get("finishReason"), FINISH_REASONS):
            # Early models said it on every chunk.
            self._finishes.add(index)
        elif flags & CONTENT and index in self._finishes:
            self.flag("content_after_finish")
        self.finished = self.finished or self._finishes.issuperset(self._candidates)
        return flags

    def _note_parts(self, candidate: Fields) -> None:
        parts = _parts_cell(candidate)
        if parts is None:
            return
        if parts.odd:
            self.flag("unexpected_shape")
        if parts.late_call:
            self.flag("function_call_after_end")

    def _look_for_plain(self, candidate: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
        """Marks the frame as one whose whole effect is one string appended, if it is. See `repeat.py`."""
        if any(candidate.get(key) for key in GROWING) or self.error is not None:
            return
        index = candidate.get("index")
        assert self._candidates is not None
        cell = self._candidates.get(index if isinstance(index, int) else 0)
        parts = candidate["content"]["parts"]
        held = _parts_cell(cell) if cell is not None else None
        if held is None or len(parts) != 1 or not isinstance(parts[0], dict):
            return
        path = (*path, "content", "parts", 0)
        if _is_text(parts[0]):
            last = held.last_text()
            if last is not None:
                self._plain = ((*path, "text"), last.text)
            return
        text = _plain_argument(parts[0], held)
        if text is not None:
            self._plain = ((*path, "functionCall", "partialArgs", 0, "stringValue"), text)

    def _add_unknown(self, event: JSON) -> int:
        self.flag("unknown_event")
        if self._unknown is None:
            self._unknown = []
        if len(self._unknown) < UNKNOWN_EVENTS:
            self._unknown.append(event)
        return CHUNK

    def response(self) -> JSON | None:
        out = self._top.value()
        if out is None and self._unknown is None:
            return None
        out = out or {}
        out.pop("error", None)
        if self._candidates is not None:
            out["candidates"] = [self._candidates[index].value() or {} for index in sorted(self._candidates)]
        if self._unknown is not None:
            out["unknown_events"] = list(self._unknown)
        return out

    @property
    def anomalies(self) -> list[str]:
        for key, code in (("responseId", "id_changed"), ("modelVersion", "model_changed")):
            cell = self._top.get(key)
            if isinstance(cell, Identity) and cell.changed:
                self.flag(code)
        return super().anomalies

    def close(self) -> None:
        super().close()
        for candidate in (self._candidates or {}).values():
            candidate.close()

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        inner = event.get("response")
        if isinstance(inner, dict) and _is_envelope(event, inner):
            event = inner
        return any(key in event for key in ("candidates", "usageMetadata", "promptFeedback"))

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        inner = response.get("response")
        if isinstance(inner, dict) and _is_envelope(response, inner):
            response = inner
        candidates = _objects(response.get("candidates"))
        choices = [_choice(candidate, place) for place, candidate in enumerate(candidates)]
        if choices:
            place = min(range(len(choices)), key=lambda i: choices[i].index)
            first = choices[place]
            data.output_message = first.message
            data.tool_calls = first.message.tool_calls
            data.finish_reason = first.finish_reason
            data.raw_finish_reason = _enum(candidates[place].get("finishReason"), FINISH_REASONS)
            data.logprobs = first.logprobs
            if len(choices) > 1:
                data.choices = choices
        blocked = _enum(_object(response.get("promptFeedback")).get("blockReason"), BLOCK_REASONS)
        if blocked and data.raw_finish_reason is None:
            data.finish_reason, data.raw_finish_reason = "content_filter", blocked
        data.response_model = response.get("modelVersion") or None
        data.response_id = response.get("responseId") or None
        usage = response.get("usageMetadata")
        data.service_tier = _service_tier(_object(usage))
        data.token_usage = _token_usage(usage)
        data.token_usage.server_tool_use = _searches(candidates)


def _is_envelope(event: JSON, inner: JSON) -> bool:
    """Whether a chunk is wrapped, as Gemini Code Assist and batch results do."""
    return event.keys().isdisjoint(KNOWN - {"error"}) and not inner.keys().isdisjoint(KNOWN)


def _parts_cell(candidate: Fields) -> Parts | None:
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, Fields) else None
    return parts if isinstance(parts, Parts) else None


def _plain_argument(part: Mapping[str, Any], parts: Parts) -> Text | None:
    """Where the one string of a part goes that is only the next piece of an argument; None for any other part."""
    call, current = part.get("functionCall"), parts.last_call()
    if len(part) != 1 or not isinstance(call, dict) or current is None or not current.open:
        return None
    partials = call.get("partialArgs")
    if call.keys() - {"partialArgs", "willContinue"} or not isinstance(partials, list) or len(partials) != 1:
        return None
    partial = partials[0]
    if not isinstance(partial, dict) or not isinstance(partial.get("stringValue"), str):
        return None
    leaf = current.args.leaf(path) if isinstance(path := partial.get("jsonPath"), str) else None
    return leaf.text if leaf is not None else None


def _brings(parts: Any) -> int:
    """What the model put out in these parts."""
    flags = 0
    for part in _objects(parts):
        if isinstance(part.get("text"), str):
            if part["text"]:
                flags |= OUTPUT if part.get("thought") else OUTPUT | CONTENT
        elif part.get("inlineData") or part.get("fileData"):
            flags |= OUTPUT if part.get("thought") else OUTPUT | CONTENT
        elif any(value for key, value in part.items() if key not in ("thought", "thoughtSignature")):
            flags |= OUTPUT
    return flags


# ---------------------------------------------------------------------- the view

FINISH_REASONS: Final = (
    "", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII",
    "MALFORMED_FUNCTION_CALL",
)  # fmt: skip
"""Vertex AI's finish reasons by number. Later numbers differ between its API and the Gemini API, so they stay numbers."""

BLOCK_REASONS: Final = ("", "SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT")
"""Vertex AI's block reasons by number."""

MODALITIES: Final = ("", "TEXT", "IMAGE", "VIDEO", "AUDIO", "DOCUMENT")
"""Modalities by number."""

FINISHES: Final = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        (
            "SAFETY",
            "RECITATION",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "IMAGE_SAFETY",
            "IMAGE_RECITATION",
            "IMAGE_PROHIBITED_CONTENT",
            "MODEL_ARMOR",
            "JAILBREAK",
        ),  # fmt: skip
        "content_filter",
    ),
}
"""OpenAI's word for a finish reason. Failures (a malformed call, `OTHER`) have none there."""


def _enum(value: Any, names: Sequence[str]) -> str | None:
    """The name of an enum value that is spelled as its name or as its number; None for the one that says nothing."""
    if isinstance(value, bool) or not value or not isinstance(value, int | str):
        return None
    if isinstance(value, int):
        return names[value] if 0 < value < len(names) else str(value)
    return None if value.endswith("_UNSPECIFIED") else value


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def _choice(candidate: Mapping[str, Any], place: int) -> Choice:
    index = candidate.get("index")
    message = _message(candidate)
    reason = FINISHES.get(_enum(candidate.get("finishReason"), FINISH_REASONS) or "")
    if reason == "stop" and message.tool_calls:
        reason = "tool_calls"  # Google says STOP there too
    return Choice(
        index=index if isinstance(index, int) else place,
        message=message,
        finish_reason=reason,
        logprobs=_logprobs(candidate.get("logprobsResult")),
    )


def _message(candidate: Mapping[str, Any]) -> ChatMessage:
    content = _object(candidate.get("content"))
    parts = _objects(content.get("parts"))
    role = content.get("role")
    calls = [(part, call) for part in parts if isinstance(call := part.get("functionCall"), Mapping)]
    return ChatMessage(
        role="assistant" if role == "model" else role if isinstance(role, str) else None,
        content=_joined(part["text"] for part in parts if _speaks(part) and not part.get("thought")),
        reasoning=_joined(part["text"] for part in parts if _speaks(part) and part.get("thought")),
        audio=_audio(parts),
        tool_calls=[_tool_call(part, call, place) for place, (part, call) in enumerate(calls)] or None,
        annotations=_annotations(candidate) or None,
        images=_images(parts) or None,
    )


def _speaks(part: Mapping[str, Any]) -> bool:
    return isinstance(part.get("text"), str)


def _joined(texts: Iterable[str]) -> str | None:
    """The texts as one, or None if there were none (which is not an empty text)."""
    found = list(texts)
    return "".join(found) if found else None


def _tool_call(part: Mapping[str, Any], call: Mapping[str, Any], place: int) -> ToolCall:
    args, signature = call.get("args"), part.get("thoughtSignature")
    complete = not call.get("willContinue")
    return ToolCall(
        index=place,
        id=call.get("id") or None,
        type="function",
        # A whole call without `args` has no parameters: an empty object is not written.
        function=FunctionCall(call.get("name"), _json_text({} if args is None and complete else args)),
        extra_content={"google": {"thought_signature": signature}} if signature else None,
        arguments_complete=complete,
    )


def _json_text(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError):
        # Half a character or a number that only the standard library writes.
        return json.dumps(value, separators=(",", ":"), default=str)


def _images(parts: list[Mapping[str, Any]]) -> list[JSON]:
    found = []
    for mime, data in _inline(parts):
        if mime.startswith("image/"):
            found.append({"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}})
    return found


def _audio(parts: list[Mapping[str, Any]]) -> MessageAudio | None:
    """Spoken output. Pieces of raw samples are one recording; of two files with a header the first is kept."""
    found = [(mime, data) for mime, data in _inline(parts) if mime.startswith("audio/")]
    if not found:
        return None
    mime = found[0][0]
    if not mime.lower().startswith(("audio/l16", "audio/pcm")):
        return MessageAudio(data=found[0][1])
    whole = Base64()
    for other, data in found:
        if other == mime:
            whole.add(data)
    return MessageAudio(data=whole.value())


def _inline(parts: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Type and base64 of the binary parts of the answer."""
    found = []
    for part in parts:
        blob = _object(part.get("inlineData"))
        mime, data = blob.get("mimeType"), blob.get("data")
        if isinstance(mime, str) and isinstance(data, str) and not part.get("thought"):
            found.append((mime, data))
    return found


def _annotations(candidate: Mapping[str, Any]) -> list[JSON]:
    """Sources as OpenAI's URL citations: the pages an answer is grounded on, then the texts it recites."""
    found: list[JSON] = []
    for chunk in _objects(_object(candidate.get("groundingMetadata")).get("groundingChunks")):
        for kind in ("web", "retrievedContext", "maps"):
            source = _object(chunk.get(kind))
            if source.get("uri"):
                found.append(_citation(source, ()))
    metadata = _object(candidate.get("citationMetadata"))
    for source in _objects(metadata.get("citationSources")) + _objects(metadata.get("citations")):
        found.append(_citation(source, (("startIndex", "start_index"), ("endIndex", "end_index"))))
    return found


def _citation(source: Mapping[str, Any], positions: tuple[tuple[str, str], ...]) -> JSON:
    names = (("uri", "url"), ("title", "title"), *positions)
    return {"type": "url_citation", "url_citation": {new: source[old] for old, new in names if old in source}}


def _logprobs(result: Any) -> JSON | None:
    """Log probabilities as OpenAI has them: an entry for each token, with its alternatives."""
    chosen = _object(result).get("chosenCandidates")
    if not isinstance(chosen, list):
        return None
    tops = _object(result).get("topCandidates")
    content = []
    for place, token in enumerate(_objects(chosen)):
        top = tops[place] if isinstance(tops, list) and place < len(tops) else None
        alternatives = [_token(other) for other in _objects(_object(top).get("candidates"))]
        content.append({**_token(token), "top_logprobs": alternatives})
    return {"content": content}


def _token(token: Mapping[str, Any]) -> JSON:
    return {"token": token.get("token"), "logprob": token.get("logProbability")}


def _service_tier(usage: Mapping[str, Any]) -> str | None:
    """The tier that was served: in words on the Gemini API, on Vertex AI as part of the kind of traffic."""
    tier, traffic = usage.get("serviceTier"), usage.get("trafficType")
    if isinstance(tier, str) and tier:
        return tier
    if isinstance(traffic, str) and traffic.startswith("ON_DEMAND_"):
        return traffic.removeprefix("ON_DEMAND_").lower()
    return None


def _searches(candidates: list[Mapping[str, Any]]) -> JSON | None:
    """Web searches that were made for the answer; they are billed beside the tokens."""
    queries = 0
    for candidate in candidates:
        listed = _object(candidate.get("groundingMetadata")).get("webSearchQueries")
        queries += sum(1 for query in listed if query) if isinstance(listed, list) else 0
    return {"web_search_requests": queries} if queries else None


def _token_usage(usage: Any) -> TokenUsage:
    """Google counts thoughts beside the answer and a tool's results beside the prompt, and its total is their sum.

    A count that is not written is zero if the total proves it, and unknown otherwise.
    """
    if not isinstance(usage, Mapping):
        return TokenUsage(source="missing")
    prompt = _sum(usage, "promptTokenCount", "toolUsePromptTokenCount")
    completion = _sum(usage, "candidatesTokenCount", "thoughtsTokenCount")
    total = count(usage.get("totalTokenCount"))
    if prompt is None and completion is None and total is None:
        return TokenUsage(source="missing")
    derived = False
    if total is None and prompt is not None and completion is not None:
        total, derived = prompt + completion, True
    elif total is not None and prompt is not None and completion is None and total >= prompt:
        completion, derived = total - prompt, True
    elif total is not None and completion is not None and prompt is None and total >= completion:
        prompt, derived = total - completion, True
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total,
        prompt_tokens_details=_prompt_details(usage),
        completion_tokens_details=_completion_details(usage),
        source="derived" if derived else "provider",
    )


def _sum(usage: Mapping[str, Any], *keys: str) -> int | None:
    said = [number for key in keys if (number := count(usage.get(key))) is not None]
    return sum(said) if said else None


def _prompt_details(usage: Mapping[str, Any]) -> PromptTokensDetails | None:
    kinds = _by_modality(usage, "promptTokensDetails", "toolUsePromptTokensDetails")
    found = PromptTokensDetails(
        cached_read_tokens=count(usage.get("cachedContentTokenCount")),
        text_tokens=kinds.get("TEXT"),
        audio_tokens=kinds.get("AUDIO"),
        image_tokens=kinds.get("IMAGE"),
    )
    return found if found != PromptTokensDetails() else None


def _completion_details(usage: Mapping[str, Any]) -> CompletionTokensDetails | None:
    kinds = _by_modality(usage, "candidatesTokensDetails")
    found = CompletionTokensDetails(
        reasoning_tokens=count(usage.get("thoughtsTokenCount")),
        text_tokens=kinds.get("TEXT"),
        audio_tokens=kinds.get("AUDIO"),
        image_tokens=kinds.get("IMAGE"),
    )
    return found if found != CompletionTokensDetails() else None


def _by_modality(usage: Mapping[str, Any], *keys: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for key in keys:
        for entry in _objects(usage.get(key)):
            kind, tokens = _enum(entry.get("modality"), MODALITIES), count(entry.get("tokenCount"))
            if kind and tokens is not None:
                found[kind] = found.get(kind, 0) + tokens
    return found
