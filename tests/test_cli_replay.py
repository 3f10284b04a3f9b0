"""`streamfold replay`: what a gateway recorded, folded again and played back."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfold
from scripted import PATIENCE, ask, conversation, decoded, rig
from servers import Postgres
from streamfold.gateway.config import Limits
from streamfold.gateway.scripted import HANG_UP, Script
from streamfold.store import LogRow, LogStore
from streamfold.store.replay import as_sse, offsets, paced, recording, replayed
from streamfold.tape import LEAST, Tape

FIXTURES = Path(__file__).parent / "fixtures"
JSON_TYPE = [("content-type", "application/json")]
NDJSON = [("content-type", "application/x-ndjson")]
AWS = [("content-type", "application/vnd.amazon.eventstream")]
SSE = [("content-type", "text/event-stream")]
UPSTREAMS = ("openai", "anthropic", "gemini", "ollama", "bedrock", "cohere")
TAPE_BYTES = 32 * 1024
"""Of the gateway that records: one of its streams is longer."""


def run(*arguments: str | Path, cwd: Path, **more: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "streamfold", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, timeout=120, check=False, **more)


def events(name: str) -> list[bytes]:
    """A recorded SSE stream, event by event."""
    return [event + b"\n\n" for event in (FIXTURES / name).read_bytes().split(b"\n\n") if event.strip()]


def chat(pieces: int) -> list[bytes]:
    """A chat of so many pieces, to its end."""
    head = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    told = [b'{"content":"word %d "},"finish_reason":null' % number for number in range(pieces)]
    return [*(head + each + b"}]}\n\n" for each in [*told, b'{},"finish_reason":"stop"']), b"data: [DONE]\n\n"]


STREAMS = {
    "openai-chat": ("/openai/v1/chat/completions", Script(events("openai-chat/tools.sse"))),
    "anthropic-messages": ("/anthropic/v1/messages", Script(events("anthropic-messages/thinking_tools.sse"))),
    "openai-responses": ("/openai/v1/responses", Script(events("openai-responses/text.sse"))),
    "gemini": ("/gemini/v1beta/models/g:streamGenerateContent", Script(events("gemini/streamed_calls.sse"))),
    "ollama": (
        "/ollama/api/chat",
        Script((FIXTURES / "ollama/tools.jsonl").read_bytes().splitlines(keepends=True), headers=NDJSON),
    ),
    "bedrock-converse": (
        "/bedrock/model/m/converse-stream",
        Script([(FIXTURES / "bedrock-converse/tools.bin").read_bytes()], headers=AWS),
    ),
    "cohere": ("/cohere/v2/chat", Script([(FIXTURES / "cohere/tools.sse").read_bytes()])),
}
"""One stream of a format each, by its route at the gateway."""
ENDINGS = {
    "an error in the stream": ("/openai/err/chat/completions", Script(events("openai-chat/vllm_error.sse"))),
    "broken off": ("/openai/cut/chat/completions", Script([*chat(3)[:2], HANG_UP])),
    "no event at all": ("/openai/none/chat/completions", Script([b": nothing\n\n"])),
    "an event without its end": ("/openai/open/chat/completions", Script([b"".join(chat(2))[:-2]])),
}
OTHERS = {
    "too long": ("/openai/long/chat/completions", Script([b"".join(chat(400))])),
    "unstreamed": (
        "/openai/whole/chat/completions",
        Script([b'{"id":"c","object":"chat.completion","choices":[]}'], headers=JSON_TYPE),
    ),
    "passthrough": ("/openai/v1/unknown", Script([b"data: 1\n\n"])),
    "sound": (
        "/openai/v1/audio/speech",
        Script([b"ID3\x04\x00" + bytes(300)], headers=[("content-type", "audio/mpeg")]),
    ),
}


async def record(directory: Path) -> dict[str, str]:
    """Lets a gateway record all these streams; gives the id of each row."""
    ids: dict[str, str] = {}
    limits = Limits(hook_timeout_s=PATIENCE, tape_bytes=TAPE_BYTES)
    async with rig(directory, upstreams=UPSTREAMS, limits=limits) as gateway:
        for name, (path, script) in {**STREAMS, **ENDINGS, **OTHERS}.items():
            gateway.upstream.route("POST", "/" + path.split("/", 2)[2], script)
            reply = await ask(gateway.address, "POST", path, JSON_TYPE, b'{"model":"m","stream":true}')
            assert reply.body == script.body
            ids[name] = (await gateway.rows(len(ids) + 1))[-1].id
        left = asyncio.Event()
        gateway.upstream.route("POST", "/left/chat/completions", Script([chat(1)[0], left]))
        path = "/openai/left/chat/completions"
        async with conversation(gateway.address, "POST", path, JSON_TYPE, b'{"stream":true}') as talk:
            while b"word" not in bytes(getattr(await talk.receive(), "data", b"")):
                pass
            talk.leave()
        ids["client left"] = (await gateway.rows(len(ids) + 1))[-1].id
    return ids


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A directory with `log.db` as a gateway left it, and the id of each of its rows. Not to be written to."""
    directory = tmp_path_factory.mktemp("recorded")
    return directory, asyncio.run(record(directory))


@pytest.fixture
def rows(recorded: tuple[Path, dict[str, str]]) -> Iterator[Callable[[str], LogRow]]:
    """Gives the row of each recorded stream."""
    directory, ids = recorded
    with LogStore.open_existing(str(directory / "log.db")) as store:

        def of(name: str) -> LogRow:
            row = store.get(ids[name])
            assert row is not None
            return row

        yield of


@pytest.fixture
def own(recorded: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    """A directory with a log of the test's own, the same."""
    shutil.copytree(recorded[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def altered(row: LogRow, **fields: Any) -> LogRow:
    """The row with other fields in its record."""
    return msgspec.structs.replace(row, record=msgspec.json.encode({**decoded(row), **fields}).decode())


def without_nulls(value: Any) -> Any:
    """A value of ours, such as a usage, without the fields of which nothing is known."""
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return value


# ---------------------------------------------------------------------- recording


async def test_nobody_gets_a_tape_who_did_not_ask(tmp_path: Path) -> None:
    """By default no frame is kept."""
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", "/v1/chat/completions", Script(chat(3)))
        await ask(gateway.address, "POST", "/openai/v1/chat/completions", JSON_TYPE, b'{"stream":true}')
        row = await gateway.row()

    assert decoded(row)["raw_response"] is None
    assert replayed(row).why == "no tape"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"redact": ["secret"]}, "no tape"),
        ({"content": False}, "content not stored"),
        ({"max_content_bytes": 2000}, "record cut to fit its column"),
        ({"max_content_bytes": 4000}, "tape cut to fit its column"),
    ],
)
async def test_content_options_win(tmp_path: Path, settings: dict[str, Any], why: str) -> None:
    """Where the log keeps no content, or less of it, it keeps no whole tape either; replay says why."""
    limits = Limits(hook_timeout_s=PATIENCE, tape_bytes=TAPE_BYTES)
    async with rig(tmp_path, limits=limits, plugins={"logging": settings}) as gateway:
        gateway.upstream.route("POST", "/v1/chat/completions", Script(chat(30)))
        await ask(gateway.address, "POST", "/openai/v1/chat/completions", JSON_TYPE, b'{"stream":true}')
        row = await gateway.row()

    assert replayed(row).why == why


@pytest.mark.parametrize("binary", ["digest", "keep"])
@pytest.mark.parametrize("spelled", [rb"sk-a\"b/c-secret", rb"sk-a\u0022b\/c-secret"])
async def test_credentials_are_not_on_a_tape(tmp_path: Path, binary: str, spelled: bytes) -> None:
    """A key that the provider quotes in a frame is struck out, however the frame spells it."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % spelled
    limits = Limits(hook_timeout_s=PATIENCE, tape_bytes=TAPE_BYTES)
    async with rig(tmp_path, limits=limits, plugins={"logging": {"binary": binary}}) as gateway:
        gateway.upstream.route("POST", "/v1/chat/completions", Script([event, *chat(1)]))
        headers = [*JSON_TYPE, ("authorization", 'Bearer sk-a"b/c-secret')]
        await ask(gateway.address, "POST", "/openai/v1/chat/completions", headers, b'{"stream":true}')
        row = await gateway.row()

    assert "c-secret" not in (row.record or "")
    assert len(recording(row).frames) == 1 + len(chat(1))
    assert replayed(row).result == "same"


@given(
    st.lists(
        st.one_of(
            st.dictionaries(st.text(), st.one_of(st.integers(-(2**53), 2**53), st.text())).map(msgspec.json.encode),
            st.text().filter(lambda text: text not in ("", "NaN")).map(lambda text: f"[{text}".encode()),
        )
    ),
    st.integers(0, 3),
)
def test_a_recording_is_what_was_taped(payloads: list[bytes], dropped: int) -> None:
    """JSON or not, each frame comes back from the log's tape as it went in; how many are missing is known."""
    tape = Tape(sum(max(len(payload), LEAST) for payload in payloads))
    tape.record(payloads, None, 0)
    tape.record([b"{}"] * dropped, None, 0)
    row = LogRow(id="r", created="", record=msgspec.json.encode({"raw_response": tape.as_json()}).decode())
    found = recording(row)

    assert (found.frames, found.dropped) == (payloads, dropped)


# ---------------------------------------------------------------------- folding again


@pytest.mark.parametrize("name", [*STREAMS, *ENDINGS, "client left"])
def test_today_is_the_same(rows: Callable[[str], LogRow], name: str) -> None:
    """Each recorded stream folds to its record again, however it ended."""
    done = replayed(rows(name))

    assert (done.result, done.differs, done.why) == ("same", {}, None)


STATUSES = {
    "an error in the stream": "error",
    "broken off": "truncated",
    "no event at all": "empty",
    "client left": "cancelled",
}


@pytest.mark.parametrize(("name", "status"), STATUSES.items())
def test_the_endings_are_what_they_seem(rows: Callable[[str], LogRow], name: str, status: str) -> None:
    """The streams above end in as many ways as they say."""
    assert rows(name).status == status


ALTERED: list[tuple[dict[str, Any], list[str]]] = [
    ({"response": {}}, ["response"]),
    ({"status": "truncated"}, ["status"]),
    ({"finish_reason": None}, ["finish_reason"]),
    ({"tool_calls": []}, ["tool_calls"]),
    ({"token_usage": None}, ["token_usage"]),
    ({"integrity": {"anomalies": ["id_changed"]}}, ["anomalies"]),
    ({"integrity": {"anomalies": ["unterminated_event", "drained"]}}, []),
    ({"latency_ms": 1e9, "cost": None, "chunks": 0, "end_timestamp": None}, []),
]


@pytest.mark.parametrize(("fields", "differing"), ALTERED, ids=[", ".join(fields) for fields, _ in ALTERED])
def test_what_is_compared(rows: Callable[[str], LogRow], fields: dict[str, Any], differing: list[str]) -> None:
    """Each field that the frames decide is compared, with what was logged and what it is now; no other one is."""
    row = rows("openai-chat")
    done = replayed(altered(row, **fields))

    assert list(done.differs) == differing
    for name in set(differing) & fields.keys():
        logged, now = done.differs[name]
        assert (logged, without_nulls(now)) == (fields[name], without_nulls(decoded(row)[name]))


def test_an_error_that_is_not_seen_any_more(rows: Callable[[str], LogRow]) -> None:
    """An error that a frame told must be found in it again; one that no frame has a word of is taken from the row."""
    row = rows("an error in the stream")
    told = {**decoded(row)["error_details"], "type": "other"}
    beside = {"type": "gate_closed", "code": "gate_closed", "message": "held for too long"}

    assert list(replayed(altered(row, error_details=told)).differs) == ["error_type"]
    whole = rows("anthropic-messages")
    assert list(replayed(altered(whole, status="error", error_details=beside)).differs) == []
    word = {"type": "x", "message": "message_start"}
    assert list(replayed(altered(whole, status="error", error_details=word)).differs) == ["status", "error_type"]


def test_a_row_of_an_older_version(rows: Callable[[str], LogRow]) -> None:
    """A field of ours that an older record does not have yet is no difference."""
    usage = {name: each for name, each in decoded(rows("openai-chat"))["token_usage"].items() if each is not None}

    assert replayed(altered(rows("openai-chat"), token_usage=usage)).result == "same"


DIGEST = {"size": 3, "sha256": "0" * 64}
NOT_REPLAYED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("still under way", {"status": "processing"}, {}),
    ("content not stored", {"record": None}, {}),
    ("unreadable record", {"record": "{"}, {}),
    ("unreadable record", {"record": "[]"}, {}),
    ("unreadable tape", {}, {"raw_response": "[1,"}),
    ("unreadable tape", {}, {"raw_response": "{}"}),
    ("no tape", {}, {"raw_response": None}),
    ("unknown format", {}, {"format": "nobody's"}),
    ("unknown format", {}, {"format": None}),
    ("chunks were missing", {}, {"integrity": {"missing": [3]}}),
    ("folded only up to the size limit", {}, {"integrity": {"anomalies": ["size_limit"]}}),
    ("binary stored as digests", {}, {"raw_response": msgspec.json.encode([{"data": DIGEST}]).decode()}),
    ("binary stored as digests", {}, {"output_message": {"audio": DIGEST}}),
    (
        "record cut to fit its column",
        {},
        {"output_message": {"content": "so […  12 bytes left out]".replace("  ", " ")}},
    ),
]


@pytest.mark.parametrize(("why", "columns", "fields"), NOT_REPLAYED)
def test_why_a_row_cannot_be_replayed(
    rows: Callable[[str], LogRow], why: str, columns: dict[str, Any], fields: dict[str, Any]
) -> None:
    """What cannot be said for certain is not said, and the reason is."""
    done = replayed(msgspec.structs.replace(altered(rows("openai-chat"), **fields), **columns))

    assert (done.result, done.why) == ("not replayed", why)


# ---------------------------------------------------------------------- the command


def test_replay_of_a_log(own: Path, recorded: tuple[Path, dict[str, str]]) -> None:
    """All rows get a line, the newest first; what could not be replayed is told and is no failure."""
    done = run("replay", "--db", "log.db", cwd=own)
    lines = done.stdout.decode().splitlines()
    verdicts = {line.split("  ")[1]: line.split("  ")[-1] for line in lines}

    assert done.returncode == 0
    assert [line.split("  ")[0] for line in lines] == sorted((line.split("  ")[0] for line in lines), reverse=True)
    told = {name: verdicts[id[:8]] for name, id in recorded[1].items()}
    long, whole, *bare = (told.pop(name) for name in OTHERS)
    assert set(told.values()) == {"same"}
    assert long.startswith("not replayed: truncated tape, ")
    assert whole == "not replayed: not a stream"
    assert bare == ["not replayed: no tape"] * 2
    said = done.stderr.decode()
    assert said.startswith(f"{len(told)} same, 0 different, {len(OTHERS)} not replayed (")
    assert "1 truncated tape" in said


def test_a_row_that_was_altered(own: Path, recorded: tuple[Path, dict[str, str]]) -> None:
    """A record that says something else than the frames shows as different, by its field, and fails the command."""
    id = recorded[1]["ollama"]
    with closing(sqlite3.connect(own / "log.db")) as database, database:
        change = "update request_log set model = ?, response_model = ?, record = json_set(record, ?, ?) where id = ?"
        database.execute(change, ("[b]\x1b[2Jm", None, "$.finish_reason", "length", id))
    table = run("replay", "--db", "log.db", "--wire-format", "ollama", cwd=own)
    lines = run("replay", "--db", "log.db", id[:10], "--json", cwd=own)
    others = run("replay", "--db", "log.db", "--wire-format", "cohere", "--limit", "1", cwd=own)

    assert (table.returncode, lines.returncode, others.returncode) == (1, 1, 0)
    assert table.stdout.decode().endswith("  [b]\N{REPLACEMENT CHARACTER}[2Jm  differs: finish_reason\n")
    assert table.stderr == b"0 same, 1 different, 0 not replayed\n"
    told = msgspec.json.decode(lines.stdout)
    assert (told["id"], told["result"]) == (id, "differs")
    assert told["differs"] == {"finish_reason": ["length", "tool_calls"]}


def test_nothing_to_replay(own: Path) -> None:
    """A log of which nothing can be replayed says nothing for the code, and so the command fails."""
    none = run("replay", "--db", "log.db", "--status", "timeout", cwd=own)
    no_tape = run("replay", "--db", "log.db", "--no-stream", cwd=own)

    assert (none.returncode, none.stdout, none.stderr) == (1, b"", b"0 same, 0 different, 0 not replayed\n")
    assert (no_tape.returncode, no_tape.stderr[-50:]) == (
        1,
        b" same, 0 different, 1 not replayed (1 not a stream)\n"[-50:],
    )


async def test_replay_of_a_log_on_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    """It is the same on a database server."""
    url = postgres.database()
    limits = Limits(hook_timeout_s=PATIENCE, tape_bytes=TAPE_BYTES)
    async with rig(tmp_path, log=url, limits=limits) as gateway:
        gateway.upstream.route("POST", "/v1/chat/completions", Script(chat(3)))
        await ask(gateway.address, "POST", "/openai/v1/chat/completions", JSON_TYPE, b'{"stream":true}')
        row = await gateway.row()
    done = await asyncio.to_thread(run, "replay", "--db", url, "--json", cwd=tmp_path)

    told = msgspec.json.decode(done.stdout)
    assert (done.returncode, told["id"], told["result"]) == (0, row.id, "same")


MISTAKES = [
    (["zzz"], 1, "log.db has no row whose id is, or alone begins with, zzz"),
    ([""], 1, "log.db has no row whose id is, or alone begins with, "),  # all ids begin with it
    (["zzz", "--play"], 1, "log.db has no row whose id is"),
    (["zzz", "--status", "error"], 2, "take out the ID, or the filters"),
    (["zzz", "--limit", "1"], 2, "take out the ID, or the filters"),
    (["--play"], 2, "--play needs the ID of one request"),
    (["zzz", "--play", "--json"], 2, "--play writes frames; take out --json"),
    (["zzz", "--speed", "2"], 2, "--speed belongs to --play"),
    (["zzz", "--play", "--speed", "-1"], 2, "--speed -1.0: give 0 or more"),
    (["zzz", "--play", "--speed", "nan"], 2, "--speed nan: give 0 or more"),
    (["zzz", "--play", "--speed", "inf"], 2, "--speed inf: give 0 or more"),
    (["--status", "erorr"], 2, 'did you mean "error"?'),
    (["--db", "none.db"], 2, "there is no log database none.db"),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), MISTAKES, ids=[" ".join(each) for each, *_ in MISTAKES])
def test_mistakes(own: Path, arguments: list[str], code: int, sentence: str) -> None:
    """What cannot be done is told in one sentence, and nothing is written."""
    done = run("replay", *arguments, cwd=own, env={**os.environ, "STREAMFOLD_DB": "log.db"})

    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, b"", 1)
    assert sentence in done.stderr.decode()


# ---------------------------------------------------------------------- playing back


@pytest.mark.parametrize("format", STREAMS)
def test_what_is_played_folds_to_the_same(own: Path, rows: Callable[[str], LogRow], format: str) -> None:
    """The frames of any format, played as an SSE body into `fold -`, give the native response of the record."""
    row = rows(format)
    played = run("replay", row.id, "--play", "--speed", "0", "--db", "log.db", cwd=own)
    folded = run("fold", "--format", format, "--output", "response", "-", cwd=own, input=played.stdout)

    assert (played.returncode, folded.returncode) == (0, 0)
    assert played.stdout.endswith(b"\n\n")
    assert played.stderr.decode().endswith(f" frames; to fold them: streamfold fold --format {format} -\n")
    assert msgspec.json.decode(folded.stdout) == decoded(row)["response"]


def test_a_truncated_tape_is_played_as_far_as_it_goes(own: Path, rows: Callable[[str], LogRow]) -> None:
    """How much is missing is said; what is there is played."""
    row = rows("too long")
    played = run("replay", row.id, "--play", "--speed", "0", "--db", "log.db", cwd=own)
    missing = len(chat(400)) - played.stdout.count(b"data: ")

    assert played.returncode == 0
    assert 0 < missing < 400
    assert f"the tape was full: the last {missing} frames are missing" in played.stderr.decode()
    assert b'"truncated"' not in played.stdout


def test_what_has_no_tape_is_not_played(own: Path, rows: Callable[[str], LogRow]) -> None:
    """It is told why."""
    row = rows("unstreamed")
    played = run("replay", row.id, "--play", "--db", "log.db", cwd=own)

    assert (played.returncode, played.stdout) == (1, b"")
    assert played.stderr.decode() == f"streamfold: {row.id} cannot be played: not a stream\n"


class Clock:
    """A clock that only stands still between waits, each of which it notes, with the frames that had come by then."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[Any] = []

    def wait(self, seconds: float) -> None:
        self.told.append(round(seconds, 6))
        self.now += seconds

    def of(self, frames: list[bytes], offsets: list[float], speed: float) -> list[Any]:
        """Waits and frames in the order of what happened."""
        for frame in paced(frames, offsets, speed, clock=lambda: self.now, wait=self.wait):
            self.told.append(frame)
        return self.told


A, B, C = b"a", b"b", b"c"


@pytest.mark.parametrize(
    ("times", "speed", "happened"),
    [
        ([100, 100, 350], 1.0, [0.1, A, B, 0.25, C]),
        ([100, 100, 350], 2.0, [0.05, A, B, 0.125, C]),
        ([100, 100, 350], 0.0, [A, B, C]),
        ([], 1.0, [A, B, C]),
        ([0, 50, 20], 1.0, [A, 0.05, B, C]),  # no time goes back
        ([0, 1e300, 1e300], 1.0, [A, 86400.0, B, 86400.0, C]),
    ],
)
def test_the_pace(times: list[float], speed: float, happened: list[Any]) -> None:
    """Before each frame it is waited until that frame's time has come, and no longer."""
    assert Clock().of([A, B, C], times, speed) == happened


def test_the_pace_does_not_drift() -> None:
    """A reader that takes its time is not waited for twice."""
    clock = Clock()
    frames = paced([A, B, C], [0, 100, 200], 1.0, clock=lambda: clock.now, wait=clock.wait)
    next(frames)
    clock.now += 0.15
    next(frames)
    next(frames)

    assert clock.told == [0.05]


@pytest.mark.parametrize(
    ("arrivals", "count", "wanted"),
    [
        ("[1,2,3]", 3, [1, 2, 3]),
        ("[1,2.5]", 6, [1, 1, 1, 2.5, 2.5, 2.5]),
        ("[1,2,3,4,5]", 3, [1, 3, 5]),
        ("[7]", 3, [7, 7, 7]),
        ("[7,8]", 1, [7]),
        ("[7]", 0, []),
        ("[]", 3, []),
        (None, 3, []),
        ('["x"]', 3, []),
        ("[", 3, []),
    ],
)
def test_times_are_spread_over_frames(arrivals: str | None, count: int, wanted: list[float]) -> None:
    """One time for each frame if there are as many, else in proportion, from the first to the last."""
    assert offsets(LogRow(id="r", created="", arrivals=arrivals), count) == wanted


def test_the_times_of_a_recorded_stream(rows: Callable[[str], LogRow]) -> None:
    """The times that a gateway logged give each frame one, none before the one before."""
    row = rows("openai-chat")
    times = offsets(row, len(recording(row).frames))

    assert len(times) == len(recording(row).frames) > 3
    assert all(before <= after for before, after in pairwise(times))


@pytest.mark.parametrize(
    ("frame", "format", "event"),
    [
        (b'{"type":"ping"}', None, b'data: {"type":"ping"}\n\n'),
        (b'{"type":"ping"}', "anthropic-messages", b'event: ping\ndata: {"type":"ping"}\n\n'),
        (b'{"type":"a\\nb"}', "anthropic-messages", b'data: {"type":"a\\nb"}\n\n'),
        (b'{"type":3}', "openai-responses", b'data: {"type":3}\n\n'),
        (b"[DONE]", "openai-responses", b"data: [DONE]\n\n"),
        (b'{\r\n"a": 1\n}', "ollama", b'data: {\ndata: "a": 1\ndata: }\n\n'),
    ],
)
def test_a_frame_as_an_event(frame: bytes, format: str | None, event: bytes) -> None:
    """A frame is one event, whatever is in it, with the name that it says itself where clients need one."""
    assert as_sse(frame, format) == event


def test_names_are_those_that_came(rows: Callable[[str], LogRow]) -> None:
    """What is played of an Anthropic stream has the names that the provider sent."""
    played = b"".join(as_sse(frame, "anthropic-messages") for frame in recording(rows("anthropic-messages")).frames)
    sent = STREAMS["anthropic-messages"][1].body

    def names(body: bytes) -> list[bytes]:
        return [line for line in body.splitlines() if line.startswith(b"event:")]

    assert names(played) == names(sent) != []


async def _playing(cwd: Path, id: str) -> asyncio.subprocess.Process:
    """`replay --play` of a row so slowly that it never ends, with its first line read."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamfold", "replay", id, "--db", "log.db", "--play"),
        cwd=cwd,
        stdout=pipe,
        stderr=pipe,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == chat(1)[0][:-1]
    return process


async def test_ctrl_c_ends_it(own: Path, recorded: tuple[Path, dict[str, str]]) -> None:
    """Each frame is written when it comes, and Ctrl-C ends the waiting for the next one without a word."""
    id = recorded[1]["an event without its end"]
    with closing(sqlite3.connect(own / "log.db")) as database, database:
        database.execute("update request_log set arrivals = '[0,1e9,1e9,1e9]' where id = ?", (id,))
    async with asyncio.timeout(PATIENCE):
        process = await _playing(own, id)
        process.send_signal(signal.SIGINT)
        rest, errors = await process.communicate()

    assert (process.returncode, rest) == (0, b"\n")
    assert len(errors.splitlines()) == 1


def test_a_reader_that_has_enough(own: Path, rows: Callable[[str], LogRow]) -> None:
    """A pipe that breaks ends it without a word."""
    command = [sys.executable, "-m", "streamfold", "replay", rows("too long").id, "--db", "log.db", "--play"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [*command, "--speed", "0"], cwd=own, stdout=pipe, stderr=subprocess.PIPE, timeout=120, check=False
        )

    assert done.returncode == 0
    assert b"Broken" not in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_library_folds_what_replay_reads(rows: Callable[[str], LogRow]) -> None:
    """`recording` gives frames that anybody can fold."""
    row = rows("gemini")
    stream = streamfold.StreamAccumulator("gemini")
    stream.add_many(recording(row).frames)
    data = stream.finish().data

    assert data is not None
    assert data.response == decoded(row)["response"]
