"""The output items of a Responses stream while they grow.

The theory: `response.output` is a list of items, each item a JSON document, and nearly every event of the stream says
one of three things about one place in one of these documents:

    ….added   what stands at the place so far (an item, or a part of one)
    ….delta   the next stretch of the string at the place
    ….done    all that stands at the place: authoritative over what the deltas built

So an item is a tree that starts as the snapshot of its `added` event. It stays that snapshot, shared and untouched,
but for the nodes on the way to a place where something grows: there an object becomes a `Branch`, a list becomes
`Slots` and a string becomes a `Text`. Reading the item turns the tree back into plain JSON.

Three things make it less simple:

* Indexes are identities, not positions. A gap is not an error, and items may end up elsewhere in the final list.
* What names an item is its `output_index`; the `item_id` only helps where there is none, or where a server gives all
  items the same index. (GitHub Copilot writes a new id on every event of one item.)
* Servers leave things out: of `added` (a resumed stream starts in the middle), of `done`, and of the final response.
  The more authoritative document wins wherever it says anything; where it is silent, nothing that was known is lost
  (`completed`). Where it says something else, that is an anomaly (`contradicts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from sys import intern
from typing import Any, Final, NamedTuple

from streamfold.growth import Base64, ByIndex, Extend, Text, index_of
from streamfold.types import JSON
from streamfold.wire.fold import CONTENT, OUTPUT

__all__ = ["Item", "Items", "Leaf", "PartList", "as_item", "brings", "place_of", "reconciled"]


class Branch(dict[str, Any]):
    """An object in which something grows."""

    __slots__ = ()


class Slots(ByIndex[Any]):
    """A list in which something grows, by index."""

    __slots__ = ()


class Stretch(list[Any]):
    """Several entries of a list that were sent under one index."""

    __slots__ = ()


GROWING: Final = (Branch, Slots, Text, Extend, Base64)
"""Types of the nodes in which something grows."""


def _branch(parent: Branch | Slots, key: Any) -> Branch:
    found = parent.get(key)
    if type(found) is not Branch:
        found = parent[key] = Branch(found) if isinstance(found, dict) else Branch()
    return found


def _slots(parent: Branch | Slots, key: Any) -> Slots:
    found = parent.get(key)
    if type(found) is not Slots:
        found = parent[key] = Slots(enumerate(found)) if isinstance(found, list) else Slots()
    return found


def _plain(node: Any) -> Any:
    """A tree as plain JSON. What never grew is shared with the event it came in."""
    kind = type(node)
    if kind is Branch:
        return {key: _plain(value) for key, value in node.items()}
    if kind is Slots:
        return _listed(node)
    if kind is Text or kind is Extend or kind is Base64:
        return node.value()
    return [] if node == () else node


def _listed(slots: Slots) -> list[Any]:
    out: list[Any] = []
    for value in slots.values():
        if type(value) is Stretch:
            out.extend(value)
        else:
            out.append(_plain(value))
    return out


def place_of(event: Mapping[str, Any], field: str) -> int:
    """An index that the event states; servers that have only one of a thing leave it out."""
    return index_of(event.get(field)) or 0


class Leaf:
    """A place where a string grows, and the family of events that say so."""

    __slots__ = ("flags", "index_field", "item", "part", "steps", "way", "whole")

    def __init__(
        self, item: str, steps: tuple[str, ...], whole: str, flags: int = OUTPUT, part: str | None = None
    ) -> None:
        self.item = item
        """Type of the item, for one that the stream never introduced."""
        self.steps = steps
        """Keys from the item to the string; one that ends in `_index` is the field of the event with an index."""
        self.whole = whole
        """The field of the `.done` event that holds the whole string."""
        self.flags = flags
        """What its deltas put out."""
        self.part = part
        """Type of the part around the string, for one that the stream never introduced."""
        self.index_field = next((step for step in steps if step.endswith("_index")), None)
        self.way = tuple(
            (step, step.endswith("_index"), _slots if follows.endswith("_index") else _branch)
            for step, follows in pairwise(steps)
        )
        """How to walk to what holds the last step: each key, whether it is an index, and what it leads to."""


class PartList(NamedTuple):
    """A list of typed parts, such as the content of a message."""

    item: str
    key: str
    index_field: str


class Item:
    """One output item."""

    __slots__ = ("_closed", "_counted", "brought", "done", "id", "index", "introduced", "tree")

    def __init__(self, index: int | None, identity: str | None, tree: Branch, *, introduced: bool) -> None:
        self.index = index
        self.id = identity
        self.tree = tree
        self.introduced = introduced
        """Whether an `added` or `done` event told of the item; otherwise only a delta did."""
        self.done = False
        self.brought = 0
        """What the item has put out so far, as flags of `add_event`."""
        self._closed: set[tuple[str, int | None, str | None]] | None = None
        self._counted: tuple[int, int] | None = None
        """A part of the content, and the newest number that has stood for it; see `content_index`."""

    @property
    def grows(self) -> bool:
        """Whether nothing of it has ended."""
        return not self.done and self._closed is None

    def value(self) -> JSON:
        """The item so far."""
        return {key: _plain(value) for key, value in self.tree.items()}

    def restart(self, snapshot: JSON) -> None:
        """Begins again: the stream is being replayed from here."""
        self.tree = Branch(snapshot)
        self.done = False
        self._closed = self._counted = None

    def introduce(self, snapshot: JSON) -> None:
        """Takes the snapshot of `added`, under what has grown already."""
        _lay_under(self.tree, snapshot)
        self.introduced = True

    def cell(self, leaf: Leaf, event: Mapping[str, Any]) -> Text | None:
        """Where the string of a leaf grows, or None if all of it has been said already."""
        index = self._index(leaf, event)
        parent, key = self._place(leaf, index)
        found = parent.get(key)
        if type(found) is Text:
            return found
        if self.done or self._is_closed(leaf.steps[0], index, leaf.steps[-1]):
            return None
        cell = Text()
        if isinstance(found, str):
            cell.add(found)
        parent[key] = cell
        return cell

    def settle(self, leaf: Leaf, event: Mapping[str, Any], whole: str) -> tuple[bool, bool]:
        """Takes the whole string of a leaf. Returns whether it is news, and whether it contradicts the deltas."""
        index = self._index(leaf, event)
        parent, key = self._place(leaf, index)
        built = _plain(parent.get(key))
        if not whole and built:
            return False, True
        parent[key] = whole
        self._close(leaf.steps[0], index, leaf.steps[-1])
        return not built, bool(built) and built != whole

    def add_part(self, parts: PartList, index: int, part: JSON, *, replay: bool) -> None:
        """Takes the snapshot of a part."""
        self._counted = None
        slots = _slots(self.tree, parts.key)
        if index not in slots or replay:
            slots[index] = Branch(_slim(part))
        else:
            _lay_under(_branch(slots, index), part)

    def settle_part(self, parts: PartList, index: int, part: JSON) -> bool:
        """Takes a whole part. Returns whether it contradicts what the deltas built."""
        slots = _slots(self.tree, parts.key)
        if parts.key == "content" and self._counted is not None and index not in slots:
            index = self.content_index(index, part.get("type"))
        built = _plain(slots.get(index))
        if not isinstance(built, dict):
            built = {}
        slots[index] = Branch(completed(part, built))
        self._close(parts.key, index, None)
        return contradicts(built, part)

    def settle_all(self, snapshot: JSON) -> bool:
        """Takes the whole item. Returns whether it contradicts what the deltas built."""
        built = self.value()
        became_another = self._grew_nowhere() and snapshot.get("type") not in (None, built.get("type"))
        if _is_husk(snapshot, of=built):
            snapshot = {"status": snapshot["status"]} if "status" in snapshot else {}
            self.tree = Branch({**built, **snapshot})
        else:
            self.tree = Branch(completed(snapshot, built))
        self.introduced = self.done = True
        self._closed = None
        # Perplexity announces the call of a tool of its own, and ends it as what the tool found.
        return not became_another and contradicts(built, snapshot)

    def _grew_nowhere(self) -> bool:
        """Whether all that is known of the item is what announced it."""
        return not any(type(value) in GROWING for value in self.tree.values())

    def add_annotation(self, content_index: int, annotation_index: int | None, annotation: Any) -> None:
        """Puts an annotation of a text in its place; without an index it is the next one."""
        part = self._part("content", content_index, "output_text")
        annotations = _slots(part, "annotations")
        if annotation_index is None or annotations.get(annotation_index, annotation) != annotation:
            # Some servers number every annotation 0. Nearly always those so far leave no gap.
            dense = len(annotations) - 1 in annotations
            annotation_index = len(annotations) if dense else max(annotations, default=-1) + 1
            if annotation_index in annotations:
                annotation_index = max(annotations) + 1
        annotations[annotation_index] = annotation

    def add_logprobs(self, content_index: int, logprobs: list[Any], *, whole: bool) -> None:
        """Takes log probabilities of a text: the next ones, or all of them."""
        part = self._part("content", content_index, "output_text")
        if whole:
            part["logprobs"] = logprobs
            return
        found = part.get("logprobs")
        if type(found) is not Extend:
            part["logprobs"] = cell = Extend()
            cell.add(found if isinstance(found, list) else [])
            found = cell
        found.add(logprobs)

    def add_audio(self, key: str, delta: str) -> None:
        """Takes a piece of spoken output. Its events name no part, so there is one."""
        content = _slots(self.tree, "content")
        for part in content.values():
            if isinstance(part, Branch) and part.get("type") == "output_audio":
                break
        else:
            part = content[max(content, default=-1) + 1] = Branch(type="output_audio")
        cell = part.get(key)
        if cell is None:
            cell = part[key] = Base64() if key == "data" else Text()
        if isinstance(cell, Base64 | Text):
            cell.add(delta)

    def add_shell_output(self, command_index: int, delta: Mapping[str, Any]) -> None:
        """Takes more of what a command wrote: `stdout`, `stderr`, or both."""
        output = _branch(_slots(self.tree, "output"), command_index)
        for key, value in delta.items():
            if not isinstance(value, str):
                output[key] = value
                continue
            cell = output.get(key)
            if type(cell) is not Text:
                output[key] = cell = Text()
            cell.add(value)

    def settle_shell_output(self, command_index: int, output: list[Any]) -> bool:
        """Takes all the output of a command. Returns whether it contradicts the deltas."""
        slots = _slots(self.tree, "output")
        built = _plain(slots.get(command_index))
        slots[command_index] = Stretch(output)
        return isinstance(built, dict) and contradicts(built, output[0] if len(output) == 1 else None)

    def _part(self, key: str, index: int, kind: str) -> Branch:
        part = _branch(_slots(self.tree, key), index)
        if "type" not in part:
            part["type"] = kind
        return part

    def content_index(self, index: int, kind: str | None) -> int:
        """Which part of the content a number stands for. `kind` is the type of the part that an event is about.

        Some servers (vLLM) count on with every delta, and with the ends, of a single part. A part is announced before
        it grows, and the one before it has ended; a number of which neither is true goes on with the part before.
        """
        slots = self.tree.get("content")
        if type(slots) is not Slots or index in slots:
            return index
        place, newest = self._counted or (index - 1, index - 1)
        part = slots.get(place)
        if index not in (newest, newest + 1) or type(part) is not Branch or part.get("type") != kind:
            return index
        if self._counted is None and self._is_closed("content", place, "refusal" if kind == "refusal" else "text"):
            return index
        self._counted = place, index
        return place

    def _index(self, leaf: Leaf, event: Mapping[str, Any]) -> int | None:
        """The number in an event of a leaf, if the way to the leaf has one."""
        if leaf.index_field is None:
            return None
        index = place_of(event, leaf.index_field)
        return self.content_index(index, leaf.part) if leaf.index_field == "content_index" else index

    def _place(self, leaf: Leaf, index: int | None) -> tuple[Branch | Slots, Any]:
        """The object or list that holds the string of a leaf, and the string's key in it."""
        node: Any = self.tree
        for step, is_index, lead in leaf.way:
            node = lead(node, index if is_index else step)
        if leaf.part is not None and "type" not in node:
            node["type"] = leaf.part
        last = leaf.steps[-1]
        return node, index if last.endswith("_index") else last

    def _close(self, key: str, index: int | None, last: str | None) -> None:
        if self._closed is None:
            self._closed = set()
        self._closed.add((key, index, last))

    def _is_closed(self, key: str, index: int | None, last: str) -> bool:
        if self._closed is None:
            return False
        return (key, index, last) in self._closed or (key, index, None) in self._closed


def _is_husk(snapshot: JSON, of: JSON) -> bool:
    """Whether a finished item is of another type than the one that it finishes, and has nothing in it.

    Gateways that make this stream of another one finish what they cannot convert so (Bifrost, of Claude's thinking).
    """
    if of.get("type") is None or snapshot.get("type") in (None, of["type"]):
        return False
    return all(key in NAMES_OF_AN_ITEM or _says_nothing(value) for key, value in snapshot.items())


NAMES_OF_AN_ITEM: Final = frozenset({"id", "type", "status", "role"})


def _lay_under(tree: dict[Any, Any], snapshot: Mapping[str, Any]) -> None:
    """Takes a snapshot into a tree whose growing nodes stay: they have begun before it came."""
    for key, value in snapshot.items():
        if type(tree.get(key)) not in GROWING:
            tree[key] = value


Name = int | str | tuple[int | str, str]
"""What an item is found by: its index, its id, or both of them where several items have one index.

An item that has neither is found by its type and its call id, if it has one.
"""


FEW_NAMES: Final = 4


class Items:
    """The output items of one stream, found by what names them."""

    __slots__ = ("_few", "_found", "_order")

    def __init__(self) -> None:
        self._order: list[Item] = []
        # Of several with one name the newest. Most streams have one item of two names: a tuple of names and items, one
        # after the other, takes a fifth of the room of a dict.
        self._few: tuple[Any, ...] = ()
        self._found: dict[Name, Item] | None = None

    def __len__(self) -> int:
        return len(self._order)

    def values(self) -> list[JSON]:
        """The items so far in order of their index; those without one last, as they came."""
        last = max((item.index for item in self._order if item.index is not None), default=0) + 1
        ordered = sorted(self._order, key=lambda item: last if item.index is None else item.index)
        return [item.value() for item in ordered]

    def brought(self) -> int:
        """What all items have put out."""
        flags = 0
        for item in self._order:
            flags |= item.brought
        return flags

    def of(self, event: Mapping[str, Any], kind: str, *, ends: bool = False) -> Item:
        """The item that an event speaks of; one of this type is made if the stream never introduced it.

        `ends`: the event tells all of something, as the last ones of an item do.
        """
        index, identity = index_of(event.get("output_index")), _id(event.get("item_id"))
        call = _id(event.get("call_id")) if index is None and identity is None else None
        if call is not None:
            return self._of_call(call, kind)
        item = self._known(index, identity, kind)
        if item is None:
            item = (self._open(index, identity, kind) if ends else None) or self._announced(index, identity, kind)
        if item is not None:
            return item if not _is_apart(item, kind) else self._beside(item, kind)
        tree = Branch(type=kind) if identity is None else Branch(id=identity, type=kind)
        return self._new(Item(index, identity, tree, introduced=False))

    def _of_call(self, call: str, kind: str) -> Item:
        """The item that only the id of a call names, as some gateways have it on the events of a call."""
        for item in reversed(self._order):
            if item.tree.get("type") == kind and item.tree.get("call_id") in (call, None):
                return item
        return self._new(Item(None, None, Branch(type=kind, call_id=call), introduced=False))

    def found(self, event: Mapping[str, Any]) -> Item | None:
        """The item that an event speaks of, if it is known."""
        return self._known(index_of(event.get("output_index")), _id(event.get("item_id")), None)

    def added(self, event: Mapping[str, Any], snapshot: JSON, *, replay: bool) -> tuple[Item, bool]:
        """Takes a new item. Returns it, and whether it had been introduced before."""
        index, identity = index_of(event.get("output_index")), _id(snapshot.get("id"))
        item = self._of_snapshot(index, identity, snapshot)
        if item is not None and item.done and not replay and _is_apart(item, snapshot.get("type")):
            item = None  # a message that takes over the names of its reasoning (vLLM)
        if item is not None and not item.introduced and _is_apart(item, snapshot.get("type")):
            self._name(_aside(item, item.tree["type"]), item)
            item = None
        if item is None or _is_another(item, identity, snapshot) or (item.done and _is_unnamed(item, index, identity)):
            return self._new(Item(index, identity, Branch(_slim(snapshot)), introduced=True)), False
        again = item.introduced
        if again and replay:
            item.restart(snapshot)
        elif not item.done:
            item.introduce(snapshot)
            item.id = identity or item.id
            self._register(item)
        return item, again

    def seed(self, index: int, snapshot: JSON) -> None:
        """Takes an item that a lifecycle event brings, unless it is known already."""
        if self._named(index) is None:
            self._new(Item(index, _id(snapshot.get("id")), Branch(snapshot), introduced=True))

    def finished(self, event: Mapping[str, Any], snapshot: JSON) -> Item:
        """The item that a `done` event tells all of."""
        index, identity = index_of(event.get("output_index")), _id(snapshot.get("id"))
        item = self._of_snapshot(index, identity, snapshot) or self._open(index, identity, snapshot.get("type"))
        is_same = item is not None and identity is not None and identity == item.id
        if item is not None and not item.done and not is_same and _is_apart(item, snapshot.get("type")):
            item = self._beside(item, snapshot["type"])
        if item is None or (item.done and _is_another(item, identity, snapshot)):
            return self._new(Item(index, identity, Branch(), introduced=False))
        if item.done and _is_unnamed(item, index, identity) and item.value() != snapshot:
            return self._new(Item(index, identity, Branch(), introduced=False))
        return item

    def _known(self, index: int | None, identity: str | None, kind: Any) -> Item | None:
        if index is not None:
            item = self._named(index)
            if item is not None:
                return item if identity in (None, item.id) else self._at_index(item, index, identity)
        if identity is not None:
            item = self._named(identity)
            # The same id at another index is an id that names nothing.
            return None if item is not None and index is not None and item.index is not None else item
        if index is not None:
            return None
        return next((item for item in reversed(self._order) if item.tree.get("type") == kind), None)

    def _of_snapshot(self, index: int | None, identity: str | None, snapshot: JSON) -> Item | None:
        """The item that a snapshot is of. A call that has neither index nor id is named by its call id."""
        item = None
        if index is None and identity is None and (name := _name_of_call(snapshot)) is not None:
            item = self._named(name)
        return item or self._known(index, identity, snapshot.get("type"))

    def _open(self, index: int | None, identity: str | None, kind: Any) -> Item | None:
        """The unfinished item of this type that an event ends under the index of the next one (vLLM).

        It is told by its id. Where there are no ids (TensorRT-LLM) it is the one before, if nothing of it has ended.
        """
        if identity is not None:
            item = self._named(identity)
            return item if item is not None and not item.done and item.tree.get("type") == kind else None
        item = self._named(index - 1) if index is not None else None
        if index is None or item is None or item.id is not None or item.tree.get("type") != kind:
            return None
        if not item.introduced or not item.grows:
            return None
        self._name(index, item)
        return item

    def _announced(self, index: int | None, identity: str | None, kind: str) -> Item | None:
        """The newest message, if it was announced under the index before and has nothing: it is what comes now (vLLM).

        From now on it has the names that its events have.
        """
        item = self._order[-1] if self._order else None
        if item is None or kind != "message" or item.tree.get("type") != kind or item.done or not item.introduced:
            return None
        if index is None or item.index != index - 1 or item.tree.get("content"):
            return None
        item.index, item.id = index, identity or item.id
        self._register(item)
        return item

    def _at_index(self, newest: Item, index: int, identity: str | None) -> Item | None:
        """The item at an index whose newest item has another id: an older one, or the newest under a new id."""
        item = self._named((index, identity)) if identity is not None else None
        if item is not None:
            return item
        # A finished item cannot go on, so this is one that was never introduced.
        return None if newest.done and newest.id is not None else newest

    def _beside(self, other: Item, kind: str) -> Item:
        """The item of another kind that the stream numbers as this one; made, and put before it, if need be."""
        name = _aside(other, kind)
        item = self._named(name)
        if item is None:
            item = Item(other.index, None, Branch(type=kind), introduced=False)
            place = next(place for place, each in enumerate(self._order) if each is other)
            self._order.insert(place if kind == "reasoning" else place + 1, item)
            self._name(name, item)
        return item

    def _new(self, item: Item) -> Item:
        self._order.append(item)
        self._register(item)
        return item

    def _register(self, item: Item) -> None:
        if item.id is not None:
            self._name(item.id, item)
        if item.index is None:
            name = _name_of_call(item.tree) if item.id is None else None
            if name is not None:
                self._name(name, item)
                if self._named(name[1]) is None:  # deltas may take it for the item's id (llama.cpp)
                    self._name(name[1], item)
            return
        other = self._named(item.index)
        if other is not None and other is not item:
            for each in (other, item):
                if each.id is not None:
                    self._name((item.index, each.id), each)
        self._name(item.index, item)

    def _named(self, name: Name) -> Item | None:
        if self._found is not None:
            return self._found.get(name)
        few = self._few
        for at in range(0, len(few), 2):
            if few[at] == name:
                item: Item = few[at + 1]
                return item
        return None

    def _name(self, name: Name, item: Item) -> None:
        if self._found is None:
            if self._named(name) is item:
                return
            if len(self._few) < 2 * FEW_NAMES and self._named(name) is None:
                self._few += (name, item)
                return
            self._found = dict(zip(self._few[::2], self._few[1::2], strict=True))
            self._few = ()
        self._found[name] = item


def as_item(snapshot: JSON) -> JSON:
    """A finished item without what belongs to its event. vLLM wrote both into one object, with the id as `item_id`."""
    if "id" in snapshot or _id(snapshot.get("item_id")) is None:
        return snapshot
    item = {key: value for key, value in snapshot.items() if key not in NAMES_IN_AN_EVENT}
    return {**item, "id": snapshot["item_id"]}


NAMES_IN_AN_EVENT: Final = frozenset({"item_id", "output_index", "sequence_number"})


def _id(identity: Any) -> str | None:
    return identity if isinstance(identity, str) and identity else None


def _name_of_call(snapshot: Mapping[str, Any]) -> tuple[str, str] | None:
    """What names a call, or what a call returned, where nothing else does."""
    kind, call = _id(snapshot.get("type")), _id(snapshot.get("call_id"))
    return (kind, call) if kind is not None and call is not None else None


def _slim(snapshot: JSON) -> JSON:
    """A snapshot that shares with other streams what they have in common: the few words, and empty lists."""
    slim = dict(snapshot)
    for key, value in snapshot.items():
        if value == []:
            slim[key] = ()
        elif key in WORDS and type(value) is str:
            slim[key] = intern(value)
    return slim


def _is_another(item: Item, identity: str | None, snapshot: JSON) -> bool:
    """Whether an item is introduced under the index of one that is known, and is not that one."""
    if not item.introduced:
        return False
    if identity is not None and item.id is not None:
        return identity != item.id
    call, other = _id(item.tree.get("call_id")), _id(snapshot.get("call_id"))
    if call is not None and other is not None and call != other:
        return True
    return item.tree.get("type") != snapshot.get("type")


def _is_apart(item: Item, kind: Any) -> bool:
    """Whether an event cannot be about the item that its names lead to: the one is reasoning, the other is not.

    LiteLLM gives reasoning the index, and at times the id, of the message that it comes before.
    """
    known = item.tree.get("type")
    return known != kind and (known == "reasoning" or kind == "reasoning") and type(known) is type(kind) is str


def _aside(item: Item, kind: str) -> tuple[int, str]:
    """The name of what is numbered as another item and is of another kind."""
    return (-1 if item.index is None else item.index, f"{kind} beside")


def _is_unnamed(item: Item, index: int | None, identity: str | None) -> bool:
    """Whether nothing but its type tells an item from the one known (Databricks' outputs of calls have no id)."""
    return index is None and identity is None and item.index is None and item.id is None


WORDS: Final = frozenset({"type", "status", "role", "phase"})

FINAL_STATUS: Final = ("completed", "incomplete", "failed")

OPAQUE: Final = frozenset({"id", "status", "encrypted_content", "fingerprint", "logprobs", "sources"})
"""Fields that differ from copy to copy of one item.

They are encrypted anew, rounded, still under way in the earlier copy, or put together anew: the last event of xAI gives
each of its searches the sources of all of them, in another order.
"""


def _says_nothing(value: Any) -> bool:
    return value is None or value == "" or value == [] or value == {}


def completed(said: JSON, known: JSON) -> JSON:
    """The document that is right, completed by what is known where it says nothing.

    A status that was under way is not carried into a document that has none: it is over.
    """
    if "status" in known and known["status"] not in FINAL_STATUS:
        known = {key: value for key, value in known.items() if key != "status"}
    try:
        filled: JSON = _filled(said, known)
    except RecursionError:  # nested too deeply to be compared
        return said
    return filled


def _filled(said: Any, known: Any) -> Any:
    if said == known:
        return said
    if _says_nothing(said):
        return said if _says_nothing(known) else known
    if isinstance(said, dict) and isinstance(known, dict):
        if said.get("type", known.get("type")) != known.get("type"):
            return said
        out = {key: _filled(value, known[key]) if key in known else value for key, value in said.items()}
        for key, value in known.items():
            if key not in out:
                out[key] = value
        return out
    if isinstance(said, list) and isinstance(known, list) and len(said) == len(known):
        return [_filled(one, other) for one, other in zip(said, known, strict=True)]
    return said


def contradicts(known: JSON, said: Any) -> bool:
    """Whether something that was known is said differently, or is gone. Saying more is no contradiction."""
    try:
        return _contradicts(known, said)
    except RecursionError:  # nested too deeply to be compared
        return False


def _contradicts(known: Any, said: Any) -> bool:
    if _says_nothing(known) or known == said:
        return False
    if isinstance(known, dict):
        if not isinstance(said, dict):
            return True
        return any(_contradicts(value, said.get(key)) for key, value in known.items() if key not in OPAQUE)
    if isinstance(known, list):
        if not isinstance(said, list) or len(known) > len(said):
            return True
        return any(_contradicts(one, other) for one, other in zip(known, said, strict=False))
    return True


def reconciled(final: list[Any], built: list[JSON]) -> tuple[list[Any], bool]:
    """The output of the final response, completed by the items that the stream told of.

    The final list decides what the items are and how they are ordered. An item that it leaves out is put after the
    one it followed in the stream, unless there is nothing in it. Returns the output, and whether both told the same.
    """
    if final == built:  # as nearly all are
        return list(final), True
    partners = _partners(final, built)
    same = len(final) == len(partners)
    places = {partner: place for place, partner in partners.items()}
    left_out: dict[int, list[JSON]] = {}  # by place in the final list that they follow
    follows = -1
    for partner, item in enumerate(built):
        if partner in places:
            follows = max(follows, places[partner])
        elif not _is_blank(item):
            same = False
            left_out.setdefault(follows, []).append(item)
    out: list[Any] = [*left_out.get(-1, ())]
    for place, item in enumerate(final):
        if place in partners:
            known = built[partners[place]]
            same = same and not contradicts(known, item)
            item = completed(item, known)
        out.append(item)
        out.extend(left_out.get(place, ()))
    return out, same


def _is_blank(item: JSON) -> bool:
    """Whether an item is a message without a word. LiteLLM ends one in every stream, and leaves it out of the end."""
    content = item.get("content")
    if item.get("type") != "message" or not (_says_nothing(content) or isinstance(content, list)):
        return False
    return all(isinstance(part, dict) and all(map(_is_silent, part.items())) for part in content or ())


def _is_silent(field: tuple[str, Any]) -> bool:
    return field[0] == "type" or _says_nothing(field[1])


def _partners(final: list[Any], built: list[JSON]) -> dict[int, int]:
    """Which item of the final list is which of the built ones: by id, by call id, and then the next of its type."""
    partners: dict[int, int] = {}
    free = dict(enumerate(built))
    for key in ("id", "call_id", None):
        waiting: dict[Any, list[int]] = {}
        for index, item in free.items():
            waiting.setdefault(_partner_key(item, key), []).append(index)
        for place, item in enumerate(final):
            if place in partners or not isinstance(item, dict):
                continue
            indexes = waiting.get(_partner_key(item, key))
            if indexes and (key is None or _id(item.get(key))):
                partners[place] = indexes.pop(0)
                del free[partners[place]]
    return partners


def _partner_key(item: JSON, key: str | None) -> tuple[str, str]:
    kind, name = item.get("type"), item.get(key) if key is not None else None
    return kind if isinstance(kind, str) else "", name if isinstance(name, str) else ""


def brings(item: JSON) -> int:
    """What an item that came whole puts out. A call is output as soon as it is named; only some of it is visible."""
    kind = item.get("type")
    if kind == "message":
        parts = item.get("content")
        said = isinstance(parts, list) and any(
            isinstance(part, dict) and (part.get("text") or part.get("refusal") or part.get("transcript"))
            for part in parts
        )
        return OUTPUT | CONTENT if said else 0
    if kind == "reasoning":
        return OUTPUT if item.get("summary") or item.get("content") else 0
    if kind == "image_generation_call" and item.get("result"):
        return OUTPUT | CONTENT
    return OUTPUT if kind else 0
