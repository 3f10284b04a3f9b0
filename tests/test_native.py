"""The native reader of frames that repeat takes what the decoder would read so, and nothing else; how it is built."""

import gc
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfold
from streamfold.growth import Text
from streamfold.wire.repeat import NATIVE, cut
from streamfold.wire.split import NUMBER, PADDING, SPACES, TEXT

ROOT = Path(__file__).resolve().parent.parent
LEAD = b"event: e\ndata: "

needs_native = pytest.mark.skipif(NATIVE is None, reason="compiler: the native part was not built here")


def scanned(literals=(b'{"a":"', b'"}'), kinds=(TEXT,), number=0):
    """A pattern, and the buffer that its text goes to."""
    sink = bytearray(b">")
    return NATIVE(tuple(literals), bytes(kinds), sink, 6, number), sink


def wire(*payloads):
    """These payloads as an SSE body."""
    return b"".join(LEAD + payload + b"\n\n" for payload in payloads)


def decoded(body):
    """The text that a JSON string body spells, as UTF-8; None if the strictest decoder takes it for none."""
    try:
        return json.loads(b'"' + body + b'"').encode()
    except ValueError:  # no JSON, no UTF-8, half of a surrogate pair
        return None


@needs_native
@pytest.mark.parametrize("lead", [b"", b"x", b"\xc3\xa9"], ids=["first", "after ASCII", "after a wide character"])
def test_utf_8_is_what_python_says_it_is(lead):
    """Of all beginnings of a character of up to three bytes, and all sorts of four, those are taken that decode."""
    edges = [
        0x00,
        0x1F,
        0x20,
        0x7F,
        0x80,
        0x8F,
        0x90,
        0x9F,
        0xA0,
        0xBF,
        0xC0,
        0xC2,
        0xDF,
        0xE0,
        0xED,
        0xEF,
        0xF0,
        0xF4,
        0xF5,
    ]
    bodies = [bytes([first, second]) for first in range(256) for second in range(256)]
    bodies += [bytes([first, second, third]) for first in range(0xC0, 256) for second in edges for third in edges]
    bodies += [
        bytes([first, *rest, 0x80])
        for first in range(0xF0, 256)
        for rest in zip(edges * 19, sorted(edges * 19), strict=True)
    ]
    for body in bodies:
        pattern, sink = scanned()
        said = decoded(lead + body)
        assert (pattern.payload(b'{"a":"' + lead + body + b'"}') is not None) == (said is not None), body
        assert sink == b">" + (said or b"")


@needs_native
def test_every_escape_is_what_the_decoder_says_it_is():
    """All escapes of one letter, all of four digits, and pairs of them around the surrogates."""
    halves = [0x0041, 0xD7FF, 0xD800, 0xD83D, 0xDBFF, 0xDC00, 0xDEA2, 0xDFFF, 0xE000]
    bodies = [b"\\" + bytes([letter]) for letter in range(256)]
    bodies += [b"\\u%04x" % code for code in range(0x10000)]
    bodies += [b"\\u%04X\\u%04x" % (first, second) for first in halves for second in halves]
    bodies += [b"\\ud83d\\x", b"\\ud83d\\", b"\\ud83dude", b"\\u12", b"\\u12g4", b"\\", b"\\\\\\", b"\\ud83d\\ude"]
    for body in bodies:
        for around in (b"%b", b"ab%bcd"):
            pattern, sink = scanned()
            said = decoded(around % body)
            assert (pattern.payload(b'{"a":"' + around % body + b'"}') is not None) == (said is not None), body
            assert sink == b">" + (said or b"")


@needs_native
@given(st.binary(max_size=12) | st.text(max_size=8).map(lambda text: json.dumps(text)[1:-1].encode()))
def test_any_body_is_read_as_the_decoder_reads_it(body):
    """Whatever stands in a hole: it is the decoder's text, or it leaves no trace."""
    pattern, sink = scanned()
    taken = pattern.payload(b'{"a":"' + body + b'"}') is not None
    assert taken == (decoded(body) is not None)
    assert sink == b">" + (decoded(body) or b"")


@needs_native
@given(st.data())
def test_a_frame_cut_short_is_not_taken(data):
    """What ends before its end, wherever that is, is left where it stands, and what came before it is taken."""
    literals, kinds = (b'{"a":"', b'","n":', b',"p":"', b'"', b"}"), (TEXT, NUMBER, PADDING, SPACES)
    texts = data.draw(st.lists(st.sampled_from(["", "plain", 'q"\\', "é🚢"]), min_size=1, max_size=5))
    payloads = [
        b'{"a":%b,"n":%d,"p":"p%d"%b}' % (json.dumps(text).encode(), number, number, b" " * number)
        for number, text in enumerate(texts, 8)
    ]
    body = wire(*payloads)
    end = data.draw(st.integers(0, len(body)))
    whole = body[:end].count(b"\n\n")
    pattern, sink = scanned(literals, kinds, 7)
    used, flags = pattern.skim(body[:end], 0, LEAD)
    assert used == len(wire(*payloads[:whole]))
    assert flags == (6 if any(texts[:whole]) else 0)
    assert sink == b">" + "".join(texts[:whole]).encode()
    assert (pattern.hits, pattern.number) == (whole, 7 + whole)


@needs_native
def test_each_way_in_takes_the_same():
    """A read of many events, a read of one, a payload alone and payloads in a list go on from each other."""
    pattern, sink = scanned((b'{"n":', b',"a":"', b'"}'), (NUMBER, TEXT))

    def payload(number):
        return b'{"n":%d,"a":"%d "}' % (number, number)

    assert pattern.skim(b"????" + wire(payload(1), payload(2), b"{}"), 4, LEAD) == (
        len(wire(payload(1), payload(2))),
        6,
    )
    assert pattern.one(wire(payload(3))) == 6
    assert pattern.one(wire(payload(4), payload(5))) is None
    assert pattern.one(payload(4)) is None
    assert pattern.payload(payload(4)) == 6
    assert pattern.run([b"", payload(5), payload(6), payload(8)], 1) == (3, 6)
    assert pattern.run([payload(7), bytearray(payload(8))], 0) == (1, 6)
    assert pattern.skim(wire(payload(9)), 0, LEAD) == (0, 0)
    assert sink == b">1 2 3 4 5 6 7 "
    assert (pattern.hits, pattern.number) == (7, 7)


@needs_native
@pytest.mark.parametrize("digits", [b"", b"9", b"11", b"010", b"+10", b"10.0", b"1e1", b"-10", b"10 ", b"9" * 40])
def test_only_the_number_that_is_due(digits):
    """A number hole holds the next number, spelled as JSON spells an integer."""
    pattern, _ = scanned((b'{"n":', b',"a":"', b'"}'), (NUMBER, TEXT), 9)
    assert pattern.payload(b'{"n":%b,"a":"x"}' % digits) is None
    assert pattern.payload(b'{"n":10,"a":"x"}') == 6


@needs_native
@pytest.mark.parametrize(
    ("numbered", "number", "native"), [(True, 10**18, False), (False, 10**18, True), (True, 7, True)]
)
def test_numbers_that_fit_no_machine_word_are_for_the_other_way(numbered, number, native):
    """Where the number counts and is too high for native code, the frame is read in Python; else it does not matter."""
    event = {"delta": "a", "sequence_number": number}
    pattern = cut(json.dumps(event).encode(), event, ("delta",), Text(), 6, numbered=numbered)
    assert isinstance(pattern, NATIVE) == native
    following = {"delta": "b", "sequence_number": number + numbered}
    assert pattern.payload(json.dumps(following).encode()) == 6
    assert pattern.number == (number + 1 if numbered else None)


@needs_native
def test_wrong_calls_are_told():
    """A call that makes no sense raises, and changes nothing."""
    pattern, sink = scanned()
    for error, call in (
        (TypeError, lambda: pattern.one("text")),
        (TypeError, lambda: pattern.payload(None)),
        (TypeError, lambda: pattern.skim(b"", 0)),
        (TypeError, lambda: pattern.skim(bytearray(), 0, LEAD)),
        (TypeError, lambda: pattern.skim(b"", "0", LEAD)),
        (IndexError, lambda: pattern.skim(b"", 1, LEAD)),
        (IndexError, lambda: pattern.skim(b"", -1, LEAD)),
        (TypeError, lambda: pattern.run((b"",), 0)),
        (IndexError, lambda: pattern.run([], 1)),
        (TypeError, lambda: NATIVE([], b"", sink, 6)),
        (TypeError, lambda: NATIVE((b"", "text"), b"\0", sink, 6)),
        (ValueError, lambda: NATIVE((b"",), b"\0", sink, 6)),
        (ValueError, lambda: NATIVE((b"",) * 20, b"\0" * 19, sink, 6)),
        (ValueError, lambda: NATIVE((b"", b""), bytes([SPACES + 1]), sink, 6)),
        (ValueError, lambda: NATIVE((b"", b"", b""), bytes([TEXT, TEXT]), sink, 6)),
    ):
        with pytest.raises(error):
            call()
    with memoryview(sink), pytest.raises(BufferError):
        pattern.payload(b'{"a":"x"}')
    assert (sink, pattern.hits) == (b">", 0)


@needs_native
def test_nothing_is_left_behind():
    """Patterns that come and go, and leads that change, hold no memory and no references."""

    def work():
        for number in range(300):
            pattern, _ = scanned((b'{"a":"', b'"}' + b"x" * 100 + b"%d" % number))
            pattern.skim(b"", 0, LEAD + b"%d" % number)
            pattern.skim(b"", 0, LEAD)
            with pytest.raises(TypeError):
                pattern.run(None, 0)
            with pytest.raises(TypeError):
                NATIVE((b"", 1), b"\0", bytearray(), 6)

    work()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()


def build(tmp_path, **environment):
    """The wheel that the project builds with this environment, and what was said."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=True, timeout=300
    )
    (wheel,) = tmp_path.glob("*.whl")
    return wheel, done.stdout + done.stderr


@needs_native
def test_a_wheel_has_the_native_part(tmp_path):
    """Where there is a compiler, the wheel holds the compiled module and is for all Pythons that can run it."""
    wheel, said = build(tmp_path, STREAMFOLD_NO_EXTENSIONS="")
    assert "slower" not in said
    (module,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".so", ".pyd")))
    assert module.startswith("streamfold/wire/_scan.")
    assert not wheel.name.endswith("none-any.whl")
    assert ("-cp311-abi3-" in wheel.name) == (".abi3." in module)


@pytest.mark.parametrize(
    "environment",
    [{"STREAMFOLD_NO_EXTENSIONS": "1"}, {"CC": "false", "STREAMFOLD_NO_EXTENSIONS": ""}],
    ids=["not wanted", "no compiler"],
)
def test_a_wheel_without_the_native_part(tmp_path, environment):
    """Where there is no compiler, or none is wanted, the wheel is pure Python, and only the former is remarked on."""
    wheel, said = build(tmp_path, **environment)
    assert wheel.name.endswith("py3-none-any.whl")
    assert ("_scan.c is not built, folding will be slower" in said) == ("CC" in environment)
    assert not any(name.endswith((".so", ".pyd")) for name in zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize(
    "environment", [{"STREAMFOLD_NO_EXTENSIONS": "1"}, {"CC": "false", "STREAMFOLD_NO_EXTENSIONS": ""}]
)
def test_an_editable_install_keeps_no_native_part_of_before(tmp_path, environment):
    """What was built from another source goes when it is not built anew."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    shutil.copy(ROOT / "hatch_build.py", tmp_path)
    wire = tmp_path / "src/streamfold/wire"
    wire.mkdir(parents=True)
    for name in ("_scan.c", "_scan.abi3.so", "_scan.cp311-win_amd64.pyd", "_scan.pyd"):
        (wire / name).touch()
    code = (
        "from hatchling.bridge.app import Application; from hatch_build import NativeBuildHook; build_data = {};"
        "NativeBuildHook('.', {}, None, None, '', 'wheel', Application()).initialize('editable', build_data);"
        "assert not build_data"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **environment}, check=True)
    assert [path.name for path in wire.iterdir()] == ["_scan.c"]


@pytest.mark.parametrize("off", ["", "1"])
def test_the_native_part_can_be_left_alone(off):
    """`STREAMFOLD_NO_EXTENSIONS` chooses the reader in Python, and the fold is the same."""
    code = (
        "import streamfold; from streamfold.wire import repeat; print(repeat.NATIVE is None);"
        "print(streamfold.fold(open('examples/weather.sse', 'rb').read()).data.token_usage.total_tokens)"
    )
    environment = {**os.environ, "STREAMFOLD_NO_EXTENSIONS": off}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    without, total = done.stdout.split()
    assert without == str(bool(off) or find_spec("streamfold.wire._scan") is None)
    assert int(total) > 0
    command = [sys.executable, "-m", "streamfold", "--version"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"streamfold {streamfold.__version__} (")
    assert ("without native code" in said) == (without == "True")
