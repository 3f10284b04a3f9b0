"""The benchmark must be right before it is quick. Nothing here looks at a time."""

from __future__ import annotations

import json

import pytest

from streamfold.bench import main
from streamfold.bench.command import SECTIONS
from streamfold.bench.floor import FLOORS
from streamfold.bench.growth import LINEAR, SERIES
from streamfold.bench.measure import race
from streamfold.bench.memory import KINDS
from streamfold.bench.peers import PEERS, walk
from streamfold.bench.report import Row, as_table
from streamfold.bench.workloads import STREAMS, Answer, chat_text, events_of

OURS = (
    "SSE bytes, whole body",
    "SSE bytes, 64 KiB a read",
    "SSE bytes, 4 KiB a read",
    "SSE bytes, one event a read",
    "payloads, all at once",
    "payloads, one by one",
    "decoded dicts, one by one",
)


def report(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, list[dict[str, object]]]:
    code = main(["--quick", "--json", "--rounds", "1", *flags])
    return code, json.loads(capsys.readouterr().out)["rows"]


@pytest.mark.parametrize("name", STREAMS)
def test_every_way_in_and_every_peer_answers_right(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each stream has a row for the floor, for each way in and for each peer of its format, and no answer is wrong."""
    code, rows = report(capsys, "--only", name)
    format = STREAMS[name]().format
    names = [row["name"] for row in rows]
    assert code == 0
    assert not [row for row in rows if row["verdict"] == "WRONG"]
    assert set(OURS) <= set(names)
    assert {peer.name for peer in PEERS if format in peer.formats} <= set(names)
    assert [row["name"] for row in rows if row["figure"] == 1.0][:1] == names[:1]
    assert all(row["figure"] is not None or row["detail"] for row in rows)


@pytest.mark.parametrize("name", STREAMS)
def test_streams_hold_what_they_say(name: str) -> None:
    """The floor and a plain walk over dicts read from the payloads what is claimed, and the body holds all of them."""
    load = STREAMS[name]()
    assert FLOORS[load.format].answer(load.payloads) == load.answer
    assert walk(load.format, map(json.loads, load.payloads)) == load.answer
    assert len(events_of(load.body)) == len(load.frames)
    assert b"".join(events_of(load.body)) == load.body
    assert STREAMS[name]().body == load.body


def test_long_and_large_streams_fold_right(capsys: pytest.CaptureFixture[str]) -> None:
    """Growth has a row per series, the large values one per shape, and all of them answer right."""
    code, rows = report(capsys, "--only", "growth", "--only", "large", "--only", "ends")
    assert code == 0
    assert [row["section"] for row in rows].count("growth") == len(SERIES)
    assert [row["section"] for row in rows].count("large") == 2
    assert [row["section"] for row in rows].count("ends") == 4
    assert all(row["budget"] == LINEAR for row in rows if row["section"] != "ends")


def test_memory_and_collections_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind of stream is weighed and watched, and so is a process full of them."""
    code, rows = report(capsys, "--only", "memory", "--only", "gc")
    assert code == 0
    assert len(rows) == 2 * len(KINDS) + 1
    assert all(isinstance(row["figure"], float) for row in rows)


def test_in_loop_passes_on_what_was_sent() -> None:
    """In a live loop the clients get the provider's bytes, and every fold the whole answer."""
    pytest.importorskip("aiohttp")
    from streamfold.bench.in_loop import in_loop

    rows = in_loop(0.3)
    assert len(rows) == 4
    assert all(row.correct for row in rows)


def test_plugins_get_every_stream(capsys: pytest.CaptureFixture[str]) -> None:
    """With `--plugins` the gateway is measured with and without them, each chunk and each request by itself."""
    pytest.importorskip("aiohttp")
    code, rows = report(capsys, "--plugins")
    names = [row["name"] for row in rows]
    assert code == 0
    assert names[0] == "a chunk, all plugins over none"
    assert {row["section"] for row in rows} == {"plugins"}
    assert all(isinstance(row["figure"], float) for row in rows)


def test_a_wrong_answer_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An answer that differs is told as wrong, is not timed, and is the one thing that makes the exit code 1."""
    monkeypatch.setitem(STREAMS, "chat-text", lambda: chat_text(5)._replace(answer=Answer("other", "", ())))
    code, rows = report(capsys, "--only", "chat-text")
    whole = next(row for row in rows if row["name"] == OURS[0])
    assert code == 1
    assert whole["verdict"] == "WRONG"
    assert whole["detail"] == "wrong text"
    assert whole["figure"] is None


def test_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """The table sets budgets beside figures, in columns, and the exit code does not judge them."""
    rows = [
        Row(section="s", name="quick", figure=1.0, unit="x", budget=2.0),
        Row(section="s", name="slow one", figure=123.4, unit="x", budget=2.0),
    ]
    lines = as_table(rows, {"python": "3"}).splitlines()
    quick, slow = lines[-2:]
    assert quick.split() == ["quick", "1.00", "x", "2.00", "x", "ok"]
    assert slow.split() == ["slow", "one", "123", "x", "2.00", "x", "over"]
    assert quick.index("2.00") == slow.index("2.00")
    assert main(["--quick", "--rounds", "1", "--only", "ends"]) == 0
    assert "finish of 100 chunks" in capsys.readouterr().out


def test_slow_programs_take_part_in_fewer_rounds() -> None:
    """A program beyond its patience is timed once, the others in every round."""
    timings = race(lambda: None, {"a": lambda: None, "b": lambda: sum(range(10_000))}, rounds=4, patience=0.0)
    assert timings["b"].taken == 1
    assert race(lambda: None, {"a": lambda: None}, rounds=4, patience=9.0)["a"].taken == 4


def test_sections_can_be_named() -> None:
    """A section nobody has is bad use."""
    with pytest.raises(SystemExit):
        main(["--only", "nothing"])
    assert {*STREAMS, "growth", "large", "ends", "memory", "gc", "in-loop", "plugins"} == set(SECTIONS)
