"""Bodies of frames whose holes stand at one level, read many at a time: as strict as one by one."""

import msgspec
import pytest

from streamfold.wire.flat import Holes, flat, shared_flat

HOLES = Holes("delta", "sequence_number", ("obfuscation",))


def body(text='"Hi"', number=7, *, logprobs="[]", pad="aZ0", rest=""):
    """From the inside of the first hole to the end of the last."""
    return f'{text[1:]},"logprobs":{logprobs},"obfuscation":"{pad}","sequence_number":{number}{rest}'.encode()


EVENT = {"type": "t", "delta": "Hi", "logprobs": [], "obfuscation": "aZ0", "sequence_number": 7}


def test_bodies_of_a_run_are_read_at_once():
    """The texts are joined, escapes and all, if the numbers go up by one."""
    reader = flat(body(), EVENT, HOLES)
    run = [body(), body('" \\"so\\"\\n"', 8, pad=""), body('"é"', 9), body('""', 10)]
    assert reader.read(run, 7) == 'Hi "so"\né'.encode()


@pytest.mark.parametrize(
    "odd",
    [
        body(number=9),
        body(number="8.0"),
        body(number='"8"'),
        body(number=8, logprobs='[{"token":"x"}]'),
        body(number=8, logprobs="null"),
        body(number=8, rest=',"more":1'),
        body(number=8, rest='},{"delta":"x","logprobs":[],"obfuscation":"","sequence_number":9'),
        body('"a\nb"', 8),
        body('"a\\"', 8),
        b'x","sequence_number":8',
        b"",
    ],
)
def test_a_body_of_another_frame_is_refused(odd):
    """Another field, another value, a number out of turn or broken JSON among the bodies: the run is not read."""
    reader = flat(body(), EVENT, HOLES)
    assert reader.read([body(), odd], 7) is None


@pytest.mark.parametrize(
    ("event", "holes"),
    [
        ({**EVENT, "delta": "other"}, HOLES),
        ({key: value for key, value in EVENT.items() if key != "logprobs"}, HOLES),
        (EVENT, Holes("delta", "sequence_number", ("obfuscation", "p"))),
    ],
)
def test_a_body_that_is_not_the_events_own_is_not_flat(event, holes):
    """Only what is provably a stretch of the event's own fields is read this way."""
    assert flat(body(), event, holes) is None


def test_values_that_no_type_is_narrow_enough_for_are_left_alone():
    """A body with a constant that a struct could not hold to one value is read the other way."""
    wide = body(logprobs="1.5")
    assert flat(wide, {**EVENT, "logprobs": 1.5}, HOLES) is None
    huge = body(logprobs=str(2**70))
    assert flat(huge, {**EVENT, "logprobs": msgspec.json.decode(str(2**70))}, HOLES) is None


@pytest.mark.parametrize("key", ["text", "number", "field1", "class", "a b"])
def test_a_field_of_any_name_is_held_to_its_value(key):
    """Constant fields may have the names that the reader uses itself, or such as no struct can have."""
    between = b'","%s":3,"sequence_number":' % key.encode()
    event = {"delta": "a", key: 3, "sequence_number": 1}
    reader = flat(b"a" + between + b"1", event, Holes("delta", "sequence_number", ()))
    assert reader.read([b"b" + between + b"2", b"c" + between + b"3"], 2) == b"bc"
    assert reader.read([b"b" + between.replace(b":3", b":4") + b"2"], 2) is None


def test_frames_that_differ_only_outside_their_bodies_share_a_reader():
    """One reader serves all streams whose holes have the same bytes between them, and no others."""
    kinds, between = (0, 1, 2), (b'","logprobs":[],"obfuscation":"', b'","sequence_number":')
    reader = shared_flat(kinds, between, body(), EVENT, HOLES)
    assert reader is shared_flat(
        kinds, between, body('"you"', 9), {**EVENT, "delta": "you", "sequence_number": 9}, HOLES
    )
    null = body(logprobs="null"), {**EVENT, "logprobs": None}
    other = shared_flat(kinds, (b'","logprobs":null,"obfuscation":"', between[1]), *null, HOLES)
    assert other is not reader
    assert other.read([body(logprobs="null")], 7) == b"Hi"


def test_a_reader_that_is_displaced_at_once_is_handed_out(monkeypatch):
    """Streams of other threads may displace a reader as soon as it is shared; who asked for it has it all the same."""

    class Forgetful(dict):
        def __setitem__(self, key, value):
            pass

    monkeypatch.setattr("streamfold.wire.flat.SHARED", Forgetful())
    between = b'","logprobs":[],"obfuscation":"', b'","sequence_number":'
    assert shared_flat((0, 1, 2), between, body(), EVENT, HOLES).read([body()], 7) == b"Hi"
