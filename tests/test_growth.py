"""How fields grow: every rule on its own, in what order and spelling its values may come."""

import base64
import copy
import importlib
import itertools
import json
import pkgutil
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfold.wire
from streamfold.growth import (
    MOST_LAYOUTS,
    MOST_SHARED,
    Base64,
    ByIndex,
    Extend,
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
    Union,
    Word,
    index_of,
    is_empty,
    json_text,
    merged,
)


def grown(rule, *values):
    """What a cell of this rule holds after these values."""
    cell = rule()
    for value in values:
        cell.add(value)
    return cell.value()


RULES = [
    (First, ["", None, "a", "b"], "a"),
    (First, [0, 17, 18], 17),
    (First, [None], None),
    (First, [None, ""], ""),
    (Word, [None, "assistant", "assistant", "user"], "assistant"),
    (Identity, ["", "x", "y"], "x"),
    (Model, [None, "m", "n"], "m"),
    (Latest, ["a", "b", None, "", [], {}], "b"),
    (Latest, [5, 0], 0),
    (Latest, [True, False], False),
    (Latest, [None, ""], ""),
    (Latest, [{"a": 1}, {"b": 2}], {"b": 2}),
    (Label, ["stop", "", None], "stop"),
    (Label, ["stop", "length"], "length"),
    (Text, [None], None),
    (Text, ["", None], ""),
    (Text, ["a", None, "é", "", "🚢"], "aé🚢"),
    (Text, ["\ud83d", "\udea2"], "\ud83d\udea2"),
    (Text, [1.5, True, False, [], {}], "1.5true"),
    (Text, [{"a": [1]}], '{"a":[1]}'),
    (Base64, [None], None),
    (Base64, [""], ""),
    (Base64, ["QUJ", "DRE", "U="], "QUJDREU="),
    (Base64, ["QQ==", "Qg=="], "QUI="),
    (Base64, ["QUJD", "QQ=", "=", "Qg=="], base64.b64encode(b"ABCAB").decode()),
    (Base64, ["QQ==", "not base64!"], "QQ==not base64!"),
    (Base64, ["QQ==", 7, None], "QQ=="),
    (Extend, [None], None),
    (Extend, [[1], None, [1, 2], 3], [1, 1, 2, 3]),
    (Union, [None], None),
    (Union, [[{"u": 1}], [{"u": 1}, {"u": 2}], {"u": 2}], [{"u": 1}, {"u": 2}]),
    (
        Merge,
        [None, {"a": 1, "d": {"x": 1}}, {"a": None, "b": 0, "d": {"y": 2}}],
        {"a": 1, "b": 0, "d": {"x": 1, "y": 2}},
    ),
    (Merge, [{"a": [1]}, {"a": [2]}], {"a": [2]}),
    (Skip, ["x"], None),
    (Record(a=Text), [None], None),
    (Record(a=Text), [{}], {}),
    (Record(a=Text), ["text", [1]], None),
    (Record(a=Text), [{"a": "x", "n": 1}, {"a": "y", "n": None}], {"a": "xy", "n": 1}),
    (Record(Text, n=Latest), [{"z": "x"}, {"z": "y", "n": 2}], {"z": "xy", "n": 2}),
    (Indexed(Record(t=Text)), [None], None),
    (Indexed(Record(t=Text)), [[]], []),
    (
        Indexed(Record(t=Text)),
        [[{"index": 3, "t": "d"}], [{"index": 1, "t": "b"}, {"index": 3, "t": "D"}]],
        [{"index": 1, "t": "b"}, {"index": 3, "t": "dD"}],
    ),
    (
        Indexed(Record(t=Text)),
        [[{"t": "a"}, {"t": "b"}], [{"t": "A"}, None, 7], {"t": "!"}],
        [{"t": "aA!"}, {"t": "b"}],
    ),
    (Indexed(Record()), [[{"index": "1", "v": 1}], [{"index": 1.0, "w": 2}]], [{"index": 1.0, "v": 1, "w": 2}]),
]


@pytest.mark.parametrize(("rule", "values", "whole"), RULES)
def test_rules(rule, values, whole):
    """Each rule makes this of these values, leaves the values alone, and may be read at any time."""
    before = copy.deepcopy(values)
    cell = rule()
    for value in values:
        cell.add(value)
        cell.value()
    assert cell.value() == whole
    assert type(cell.value()) is type(whole)
    assert values == before


@pytest.mark.parametrize(("rule", "values", "whole"), RULES)
def test_what_was_read_stays(rule, values, whole):
    """A value that was read does not change when the cell grows on."""
    cell = rule()
    read = []
    for value in [*values, *values]:
        cell.add(value)
        now = cell.value()
        read.append((now, copy.deepcopy(now)))
    assert all(now == then for now, then in read)


@pytest.mark.parametrize(("rule", "values", "whole"), RULES)
def test_a_closed_cell_holds_what_it_has(rule, values, whole):
    """After `close` no text and no list grows any more."""
    cell = rule()
    for value in values:
        cell.add(value)
    cell.close()
    for value in ("more", ["more"], [{"index": 9, "t": "more"}]):
        cell.add(value)
    if rule not in (First, Latest, Word, Label, Identity, Model, Merge):
        assert cell.value() == whole


def test_a_closed_record_still_takes_its_ends():
    """After `close` a declared scalar is still taken, even when it comes for the first time; unknown fields are not."""
    cell = Record(text=Text, finish=Latest)()
    cell.add({"text": "a"})
    cell.close()
    cell.add({"text": "b", "finish": "length", "junk": "c"})
    assert cell.value() == {"text": "a", "finish": "length"}


def test_cells_of_a_record():
    """A record's cells can be looked up, and are made when asked for."""
    cell = Record(text=Text)()
    assert cell.get("text") is None
    cell.cell("text").add("a")
    assert cell.get("text").value() == "a"
    assert cell.value() == {"text": "a"}


def test_identity_notices_change():
    """An identity that changes keeps the first value and says so; empty values and repeats are no change."""
    cell = Identity()
    for value in ("", "x", None, "x", ""):
        cell.add(value)
    assert not cell.changed
    cell.add("y")
    assert cell.changed


@pytest.mark.parametrize("rule", [Identity, Model])
def test_a_record_notices_that_an_identity_changed(rule):
    """In a record an identity keeps its first value, and its cell says that another one came."""
    cell = Record(id=rule)()
    for value in (None, "", "x", None, "x", ""):
        cell.add({"id": value})
    assert not isinstance(cell.get("id"), Identity)
    for value in ("y", "", "x"):
        cell.add({"id": value})
    assert cell.get("id").changed
    assert cell.said("id") == cell.get("id").value() == "x"
    assert cell.value() == {"id": "x"}


def test_null_needs_no_cell():
    """A field that only ever was null has no cell, but its place among the fields; what comes later is taken."""
    cell = Record(text=Text, list=Extend)()
    cell.add({"text": None, "list": None, "id": "x"})
    assert cell.get("text") is None
    assert list(cell.value().items()) == [("text", None), ("list", None), ("id", "x")]
    cell.add({"list": [1], "text": "a"})
    assert list(cell.value().items()) == [("text", "a"), ("list", [1]), ("id", "x")]


def rules_of_all_formats():
    """The rules of all records that the wire formats declare, by format and field."""
    for found in pkgutil.iter_modules(streamfold.wire.__path__):
        module = importlib.import_module(f"streamfold.wire.{found.name}")
        classes = [value for value in vars(module).values() if isinstance(value, type)]
        for holder in (module, *classes):
            for record in vars(holder).values():
                if isinstance(record, Record):
                    yield from ((found.name, key, rule) for key, rule in record._rules.items())


def test_null_is_null_by_every_rule():
    """Whatever rule a format gives a field, null alone is null: that is why null needs no cell."""
    rules = list(rules_of_all_formats())
    assert len(rules) > 100
    assert [(name, key) for name, key, rule in rules if grown(rule, None) is not None] == []


def test_null_at_first_and_then_closed():
    """What only was null when the record was closed does not begin to grow."""
    cell = Record(text=Text)()
    cell.add({"text": None})
    cell.close()
    cell.add({"text": "a"})
    assert cell.value() == {"text": None}


OBJECTS = st.lists(
    st.dictionaries(st.sampled_from("abcdefgh"), st.none() | st.sampled_from(["", "x", "y"]) | st.integers(0, 2)),
    max_size=8,
)


@given(st.lists(OBJECTS, min_size=1, max_size=4))
def test_objects_that_share_their_layouts(streams):
    """Objects that grow by turns have each what it would have alone, with its fields in the order of their coming."""
    record = Record(a=Text, b=First, c=Identity)
    cells = [record() for _ in streams]
    for turn in range(max(map(len, streams))):
        for cell, stream in zip(cells, streams, strict=True):
            if turn < len(stream):
                cell.add(stream[turn])
    for cell, stream in zip(cells, streams, strict=True):
        alone = Record(a=Text, b=First, c=Identity)()
        for value in stream:
            alone.add(value)
        order = dict.fromkeys(key for value in stream for key in value)
        assert list((cell.value() or {}).items()) == list((alone.value() or {}).items())
        assert list(cell.value() or {}) == list(order)


def layouts_below(layout):
    """How many layouts lead on from this one."""
    return sum(1 + layouts_below(longer) for longer in (layout._longer or {}).values())


def test_few_layouts_are_shared():
    """However many objects have fields that no other has, what they leave behind is bounded, and none loses any."""
    record = Record(text=Text)
    for number in range(2 * MOST_LAYOUTS):
        said = {"text": "a", f"field {number}": number, "z": 1}
        cell = record()
        cell.add(said)
        assert cell.value() == said
    assert layouts_below(record.layout) <= MOST_LAYOUTS


def test_objects_of_many_threads_share_their_layouts():
    """Objects that grow in several threads at once lead to the same layouts, and each has its own values."""
    records = [Record(text=Text) for _ in range(50)]
    barrier = Barrier(4)

    def grow(place):
        grown = []
        for record in records:
            cell = record()
            barrier.wait()
            for number in range(MOST_SHARED - 1):
                cell.add({f"field {number}": place * number, "text": str(place)})
            grown.append(cell)
        return grown

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            threads = list(pool.map(grow, range(4)))
    finally:
        sys.setswitchinterval(interval)
    for cells in zip(*threads, strict=True):
        assert len({id(cell._layout) for cell in cells}) == 1
        for place, cell in enumerate(cells):
            said = {f"field {number}": place * number for number in range(MOST_SHARED - 1)}
            assert cell.value() == {**said, "text": str(place) * (MOST_SHARED - 1)}


def test_a_layout_of_many_fields_is_not_shared():
    """An object of very many fields, or with a very long name of one, gets a layout of its own, which grows with it."""
    record = Record()
    for said in ({str(number): number for number in range(4 * MOST_SHARED)}, {"x" * 1000: 1, "y": 2}):
        first, second = record(), record()
        first.add(said)
        second.add({**said, "more": 1})
        assert first.value() == said
        assert second.value() == {**said, "more": 1}
    assert layouts_below(record.layout) <= MOST_SHARED


@given(st.lists(st.tuples(st.integers(-2, 5), st.none() | st.integers())))
def test_by_index_is_a_dict(entries):
    """`ByIndex` answers as a dict does, also where an entry is None; its entries come in order of the index."""
    found, meant = ByIndex(entries), dict(entries)
    assert len(found) == len(meant)
    assert found.items() == sorted(meant.items())
    assert found.values() == [meant[index] for index in sorted(meant)]
    assert set(found) == set(meant)
    for index in range(-3, 7):
        assert (index in found) == (index in meant)
        assert found.get(index, "none") == meant.get(index, "none")


def test_text_is_falsy_until_it_has_characters():
    """A text cell is true once it holds a character, and its length is that of its UTF-8."""
    cell = Text()
    cell.add("")
    assert not cell
    cell.add("é")
    assert cell
    assert len(cell) == 2


def test_text_in_a_hot_loop():
    """The open buffer of a text is the text itself."""
    cell = Text()
    cell.add("a")
    buffer = cell.open()
    buffer += b"b"
    cell.add("c")
    assert cell.value() == "abc"
    assert cell.open() is buffer


def test_words_are_shared():
    """Two streams hold the same model name once."""
    words = ["".join(["gpt-", "4o"]) for _ in range(2)]
    assert words[0] is not words[1]
    for rule in (Word, Model, Label):
        assert grown(rule, words[0]) is grown(rule, words[1])


@given(st.lists(st.text(alphabet=st.characters(codec=None), max_size=5), max_size=20))
def test_text_is_a_join(fragments):
    """Text is the join of its fragments, halves of characters included."""
    assert (grown(Text, *fragments) or "") == "".join(fragments)


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=5), st.booleans())
def test_base64_joins_bytes(data, marks, apart):
    """Pieces of one base64 text, and pieces encoded each on its own, both give the base64 of the whole."""
    whole = base64.b64encode(data).decode()
    source = data if apart else whole
    ends = [0, *sorted(min(mark, len(source)) for mark in marks), len(source)]
    pieces = [source[a:b] for a, b in itertools.pairwise(ends)]
    if apart:
        pieces = [base64.b64encode(piece).decode() for piece in pieces]
    assert grown(Base64, *pieces) == whole


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=12,
)


@given(JSON_VALUES, JSON_VALUES)
def test_merged(old, new):
    """Merging changes neither side, keeps what the new one leaves out, and merging the same again changes nothing."""
    before = copy.deepcopy((old, new))
    whole = merged(old, new)
    assert (old, new) == before
    assert merged(whole, new) == whole
    assert merged(old, None) == old
    if isinstance(old, dict) and isinstance(new, dict):
        assert whole.keys() == old.keys() | new.keys()


@pytest.mark.parametrize(
    ("value", "index"),
    [
        (0, 0),
        (7, 7),
        (-1, -1),
        (2.0, 2),
        ("3", 3),
        (True, None),
        (None, None),
        ("", None),
        (1.5, None),
        ("x", None),
        ("²", None),
        (float("nan"), None),
        ([0], None),
        ("9" * 5000, None),
    ],
)
def test_index_of(value, index):
    """An index is a whole number, in whichever of JSON's spellings it comes."""
    assert index_of(value) == index


@pytest.mark.parametrize("value", [{"a": [1, None, "é"]}, "\ud83d", 10**400, float("nan"), {"b": "\ud83d"}])
def test_json_text(value):
    """Any decoded JSON value has a text, also where the fast encoder gives up."""
    assert isinstance(json.loads(json_text(value)), type(value) | type(None))


def test_json_text_of_something_bottomless():
    """A value that is nested too deeply to be written is null."""
    value = []
    value.append(value)
    assert json_text(value) == "null"


@pytest.mark.parametrize(("value", "empty"), [(None, True), ("", True), (0, False), ([], False), (" ", False)])
def test_is_empty(value, empty):
    """Null and the empty string say nothing; zero does."""
    assert is_empty(value) is empty


def calls_made(work):
    """How many calls, of Python and of C, some work makes: a measure of its cost that no clock disturbs."""
    count = 0

    def profile(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_new_fields_are_linear():
    """Twice as many fields in one object cost twice the calls."""

    def feed(count):
        cell = Record()()
        for number in range(count):
            cell.add({str(number): number})
        cell.value()

    assert calls_made(lambda: feed(4000)) <= 2.2 * calls_made(lambda: feed(2000))


@pytest.mark.parametrize("rule", [Text, Base64, Extend, Union, Indexed(Record(t=Text))])
def test_growth_is_linear(rule):
    """Twice the values cost twice the calls."""

    def feed(count):
        cell = rule()
        for number in range(count):
            cell.add([{"index": number % 7, "t": str(number)}] if rule is not Text and rule is not Base64 else "x")
        cell.value()

    assert calls_made(lambda: feed(4000)) <= 2.2 * calls_made(lambda: feed(2000))
