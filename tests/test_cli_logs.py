"""`streamfold logs`, as a user runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from servers import Postgres
from streamfold.store import LogRow, LogStore
from test_store_query import moment
from test_store_retention import priced


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamfold", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def logs(cwd: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`streamfold logs …` that must succeed."""
    done = run("logs", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def objects(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in done.stdout.splitlines()]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory whose log has ten requests and one that is under way."""
    rows = [
        LogRow(
            id=f"r{index}",
            created=moment(index),
            model="gpt-5" if index % 2 else "[red]claude\x1b[2J",
            status="error" if index == 3 else "success",
            session_id="s" if index < 4 else None,
            latency_ms=index * 10.0,
            total_tokens=index,
            cost=None if index == 5 else 0.25,
            search_text="Where is Zürich?" if index == 7 else None,
            metadata='{"team":"red"}' if index < 2 else None,
            record='{"output_message":{"content":"Here\\nit is"}}' if index == 7 else None,
        )
        for index in range(10)
    ]
    with LogStore.open(str(tmp_path / "streamfold.db")) as store:
        store.write([*rows, LogRow(id="live", created=moment(20), status="processing", revision=0)])
    return tmp_path


def test_logs_of_the_demo(tmp_path: Path) -> None:
    """`logs list` and `logs show` read what a gateway wrote."""
    assert run("demo", "--once", "--pace", "0", "--db", "d.db", cwd=tmp_path).returncode == 0
    table = run("logs", "list", "--db", "d.db", cwd=tmp_path)
    listed = run("logs", "list", "--db", "d.db", "--json", "--status", "truncated", cwd=tmp_path)
    row = msgspec.json.decode(listed.stdout)
    shown = run("logs", "show", row["id"][:12], "--db", "d.db", cwd=tmp_path)

    assert table.stdout.count("success") == 9
    assert "record" not in row
    record = msgspec.json.decode(shown.stdout)["record"]
    assert (record["request_id"], record["status"]) == (row["id"], "truncated")


FILTERS = [
    (["--status", "error"], "3"),
    (["--model", "gpt-*", "--min", "latency_ms=50", "--max", "latency_ms=70"], "75"),
    (["--text", "ZÜRICH"], "7"),
    (["--meta", "team=red", "--sort", "created"], "01"),
    (["--missing-cost"], "5"),
    (["--session", "s", "--sort", "-latency_ms", "--limit", "2"], "32"),
    (["--since", moment(2), "--until", moment(4), "--no-stream"], "32"),
    (["--stream"], ""),
]


@pytest.mark.parametrize(("flags", "wanted"), FILTERS, ids=[" ".join(flags) for flags, _ in FILTERS])
def test_filters(directory: Path, flags: list[str], wanted: str) -> None:
    """Flags filter, sort and limit the list."""
    assert [row["id"] for row in objects(logs(directory, "list", "--json", *flags))] == [f"r{each}" for each in wanted]


def test_list_goes_on_at_a_cursor(directory: Path) -> None:
    """A list that is cut says how to go on; its last page says nothing."""
    first = logs(directory, "list", "--json", "--limit", "6")
    cursor = first.stderr.split()[-1]
    second = logs(directory, "list", "--json", "--limit", "6", "--cursor", cursor)

    assert [row["id"] for row in objects(first) + objects(second)] == ["live", *(f"r{i}" for i in range(9, -1, -1))]
    assert second.stderr == ""


def test_what_strangers_said_is_text(directory: Path) -> None:
    """Neither markup nor terminal sequences out of the log do anything in a table."""
    for command in (["list"], ["stats", "--by", "model"]):
        done = logs(directory, *command)
        assert "[red]claude" in done.stdout
        assert "\x1b" not in done.stdout


def test_show(directory: Path) -> None:
    """`show` prints the row with its JSON columns as values, or only the text of the answer."""
    assert msgspec.json.decode(logs(directory, "show", "r7").stdout)["metadata"] is None
    assert msgspec.json.decode(logs(directory, "show", "r1").stdout)["metadata"] == {"team": "red"}
    assert logs(directory, "show", "r7", "--text").stdout == "Here\nit is\n"
    none = run("logs", "show", "r1", "--text", cwd=directory)
    assert (none.returncode, none.stderr) == (1, "streamfold: the content of r1 is not stored\n")


def test_figures(directory: Path) -> None:
    """`stats`, `sessions` and `histogram` print the figures as tables and as JSON."""
    (whole,) = objects(logs(directory, "stats", "--json"))
    groups = objects(logs(directory, "stats", "--json", "--by", "model,status"))
    (session,) = objects(logs(directory, "sessions", "--json"))
    (cut,) = objects(logs(directory, "histogram", "--json", "--bins", "3"))
    tables = {name: logs(directory, name) for name in ("stats", "sessions", "histogram")}

    assert (whole["requests"], whole["success_rate"], whole["cost"], whole["without_cost"]) == (11, 0.9, 2.25, 1)
    assert whole["latency_ms"]["p50"] == 45.0
    assert groups[0]["group"] == {"model": "[red]claude\x1b[2J", "status": "success"}
    assert (session["group"], session["requests"], session["cost"]) == ({"session_id": "s"}, 4, 1.0)
    assert [each["count"] for each in cut["bins"]] == [3, 3, 4]
    assert "45 ms" in tables["stats"].stdout
    assert "$2.25 (1 requests have none)" in tables["stats"].stdout
    assert "│ s " in tables["sessions"].stdout
    assert "█" in tables["histogram"].stdout
    assert tables["histogram"].stderr == "1 requests have no latency_ms\n"


def test_export(directory: Path) -> None:
    """`export` writes lines to a file or to standard output, and Parquet; how many is said on standard error."""
    to_file = logs(directory, "export", "x.jsonl", "--status", "success")
    to_pipe = logs(directory, "export", "-", "--status", "success")

    assert (to_file.stdout, to_file.stderr) == ("", "9 rows exported\n")
    assert (directory / "x.jsonl").read_text() == to_pipe.stdout
    assert [row["id"] for row in objects(to_pipe)] == [f"r{index}" for index in range(10) if index != 3]
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    logs(directory, "export", "--format", "parquet", "x.parquet", "--limit", "4")
    assert parquet.read_table(directory / "x.parquet").column("id").to_pylist() == ["r0", "r1", "r2", "r3"]


def test_retain(directory: Path) -> None:
    """`retain` removes by age; a dry run only says what it would remove."""
    dry = logs(directory, "retain", "--content-max-age", "7d", "--dry-run")
    assert objects(dry) == objects(logs(directory, "retain", "--content-max-age", "7d"))
    assert objects(dry) == [{"rows": 0, "contents": 1}]
    assert msgspec.json.decode(logs(directory, "show", "r7").stdout)["record"] is None
    assert objects(logs(directory, "retain", "--max-age", "7d")) == [{"rows": 10, "contents": 0}]
    assert [row["id"] for row in objects(logs(directory, "list", "--json"))] == ["live"]


def test_reprice(tmp_path: Path) -> None:
    """`reprice` takes prices from a file, writes nothing when dry, and else the new costs."""
    with LogStore.open(str(tmp_path / "streamfold.db")) as store:
        store.write([priced("a"), priced("b", cost=None, record=None)])
    (tmp_path / "p.toml").write_text('["known"]\ninput_cost_per_token = 0.001\noutput_cost_per_token = 0.002\n')
    flags = ["reprice", "--prices", "p.toml", "--missing-only"]
    dry, done = (msgspec.json.decode(logs(tmp_path, *flags, *more).stdout) for more in (["--dry-run"], []))

    assert dry == done
    assert (done["changed"], done["without_record"], done["after"]) == (1, 1, 0.02)
    assert [row["cost"] for row in objects(logs(tmp_path, "list", "--json", "--sort", "cost"))] == [0.02, None]


@pytest.mark.parametrize("as_json", [False, True])
async def test_tail(directory: Path, as_json: bool) -> None:
    """`tail` prints what begins and what ends from now on, and Ctrl-C ends it with 0."""
    command = ["-m", "streamfold", "logs", "tail", "--interval", "0.05", *(["--json"] if as_json else [])]
    pipe = asyncio.subprocess.PIPE
    # A shell's background jobs ignore the signal, and would hand that down.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=directory,
        stdout=pipe,
        stderr=pipe,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    now = datetime.now(UTC)

    def at(seconds: float) -> str:
        return (now + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    try:
        async with asyncio.timeout(60):
            assert b"following streamfold.db" in await process.stderr.readline()
            with LogStore.open(str(directory / "streamfold.db")) as store:
                store.write([LogRow(id="new", created=at(60), status="processing", revision=0)])
                began = await process.stdout.readline()
                store.write([LogRow(id="new", created=at(60), ended=at(61), status="timeout")])
                ended = await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            rest, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, rest, errors) == (0, b"", b"")
    if as_json:
        assert [msgspec.json.decode(line)["status"] for line in (began, ended)] == ["processing", "timeout"]
    else:
        assert b"processing" in began
        assert b"timeout" in ended


def test_logs_without_a_log(tmp_path: Path) -> None:
    """A log or a row that is not there is told in a sentence, and no log is made."""
    LogStore.open(str(tmp_path / "e.db")).close()
    unknown = run("logs", "show", "abc", "--db", "e.db", cwd=tmp_path)
    for command in (["list"], ["stats"], ["tail"], ["export", "-"], ["retain", "--max-age", "1d"], ["reprice"]):
        none = run("logs", *command, cwd=tmp_path)
        assert none.returncode == 2
        assert "start `streamfold serve` first" in none.stderr
        assert len(none.stderr.splitlines()) == 1

    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "streamfold: e.db has no row whose id is, or alone begins with, abc\n"
    assert not (tmp_path / "streamfold.db").exists()


MISTAKES = [
    (["list", "--status", "erorr"], 'status: unknown "erorr"; did you mean "error"?'),
    (["list", "--min", "latency_ms"], "--min latency_ms: write it as NAME=VALUE"),
    (["list", "--http-status", "bad"], "http_status[0]: expected `int`, got `str`"),
    (["stats", "--by", "modl"], 'cannot group by "modl"; did you mean "model"?'),
    (["histogram", "--of", "size"], 'of: unknown "size"; known here are'),
    (["export", "-", "--format", "parquet"], "a Parquet file cannot go to standard output; name a file"),
    (["retain"], "say what is to go: --max-age"),
    (["retain", "--max-age", "old"], "max_age: 'old' is no duration"),
    (["reprice", "--prices", "none.toml"], "none.toml"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_mistakes(directory: Path, arguments: list[str], sentence: str) -> None:
    """A mistake ends with exit 2 and one line that says what to write instead."""
    done = run("logs", *arguments, cwd=directory)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("streamfold: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_cannot_be_read_or_written(directory: Path) -> None:
    """A damaged database or an impossible file ends with a line, not with a traceback."""
    nowhere = run("logs", "export", "no/such/x.jsonl", cwd=directory)
    assert (nowhere.returncode, nowhere.stderr) == (
        1,
        "streamfold: cannot write no/such/x.jsonl: no such file or directory\n",
    )
    with LogStore.open(str(directory / "d.db")) as store, store.connect() as connection:
        connection.exec_driver_sql("DROP TABLE request_log")
        connection.commit()
    damaged = run("logs", "list", "--db", "d.db", cwd=directory)
    assert (damaged.returncode, damaged.stderr) == (
        1,
        "streamfold: the log database failed: no such table: request_log\n",
    )


def test_a_password_is_not_shown(directory: Path, postgres: Postgres) -> None:
    """What the commands say of a database, failing or not, is without the password of its URL."""
    url = postgres.database()
    with LogStore.open(url) as store, store.connect() as connection:
        connection.exec_driver_sql("DROP TABLE request_log")
        connection.commit()
    for arguments in (["list"], ["tail"], ["retain", "--max-age", "1d"]):
        done = run("logs", *arguments, "--db", url, cwd=directory)
        assert done.returncode == 1
        assert "secret" not in done.stderr
        assert "streamfold: the log database failed: relation" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise there")
def test_a_reader_that_leaves(directory: Path) -> None:
    """Output that nobody reads any more ends the command without a word."""
    with LogStore.open(str(directory / "streamfold.db")) as store:
        store.write(
            [LogRow(id=f"x{index}", created=moment(index), request='"' + "x" * 5000 + '"') for index in range(200)]
        )
    for arguments in ("export -", "list --json --limit 1000"):
        command = f"{sys.executable} -m streamfold logs {arguments} | head -n 1"
        done = subprocess.run(command, shell=True, cwd=directory, capture_output=True, text=True, timeout=120)
        assert len(done.stdout.splitlines()) == 1
        assert done.stderr == ""


def test_small_costs_are_written_out(tmp_path: Path) -> None:
    """Costs of thousandths of a cent are told without an exponent, and a failed request with what failed."""
    with LogStore.open(str(tmp_path / "streamfold.db")) as store:
        store.write([LogRow(id="a", created=moment(0), status="success", cost=6.5e-06)])
        store.write(
            [LogRow(id="b", created=moment(1), status="error", error_type="api_error", error_code="overloaded")]
        )
    told = logs(tmp_path, "list").stdout

    assert "$0.0000065" in told
    assert "overloaded" in told


def test_the_log_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`STREAMFOLD_DB` names the log for `logs` as it does for `serve`; a flag wins over it."""
    with LogStore.open(str(tmp_path / "mine.db")) as store:
        store.write([LogRow(id="a", created=moment(0), status="success")])
    monkeypatch.setenv("STREAMFOLD_DB", "mine.db")

    assert [row["id"] for row in objects(logs(tmp_path, "list", "--json"))] == ["a"]
    assert "no log database other.db" in run("logs", "list", "--db", "other.db", cwd=tmp_path).stderr


def test_a_bound_that_is_no_number(tmp_path: Path) -> None:
    """A bound that is no number is told with its name."""
    told = run("logs", "list", "--min", "latency_ms=five", cwd=tmp_path)

    assert (told.returncode, "min_latency_ms: 'five' is no number" in told.stderr) == (2, True)
