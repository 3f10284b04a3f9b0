"""`streamfold serve` as an operator runs it: checked first, with tokens, with several workers, stopped by signals."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import h11
import msgspec
import pytest

from scripted import Conversation, ask, conversation
from streamfold.gateway.access import hash_of
from streamfold.gateway.options import markdown
from streamfold.gateway.scenes import play_all
from streamfold.gateway.scripted import Received, Script, ScriptedUpstream
from streamfold.store import LogRow, LogStore
from streamfold.ui.answers import Live

PATH = "/v1/chat/completions"
VIA = "/openai" + PATH
JSON = [("content-type", "application/json")]
CHAT = msgspec.json.encode({"model": "gpt-4o-mini", "stream": True, "messages": []})
FIRST = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Half"}}]}\n\n'
PATIENCE = 60.0


def run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamfold", *arguments]
    surroundings = {**os.environ, **environ}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, env=surroundings)


class Serving:
    """A running `streamfold serve`, and what it has written."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, lines: list[str]) -> None:
        self.process, self.address, self.lines = process, address, lines

    def workers(self) -> set[int]:
        """The process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {int(pid) for pid in children if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()}

    async def figures(self, name: str) -> list[str]:
        """The lines of a metric."""
        reply = await ask(self.address, "GET", "/metrics")
        return [line for line in reply.body.decode().splitlines() if line.startswith(name)]


@asynccontextmanager
async def serving(directory: Path, *arguments: str, **environ: str) -> AsyncGenerator[Serving, None]:
    command = ["-m", "streamfold", "serve", "--port", "0", *arguments]
    pipe = asyncio.subprocess.PIPE
    surroundings = {**os.environ, **environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=directory, stderr=pipe, stdout=pipe, env=surroundings
    )
    assert process.stderr is not None
    lines: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while (line := (await process.stderr.readline()).decode()) and " on http://" not in line:
            lines.append(line)
    found = re.search(r"http://[^\s,\"]+:\d+", line)
    assert found is not None, "".join(lines)
    stderr = process.stderr

    async def gather() -> None:
        while more := (await stderr.readline()).decode():
            lines.append(more)

    gathering = asyncio.create_task(gather())
    lines.append(line)
    try:
        yield Serving(process, found[0], lines)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        await gathering


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that another process does."""
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


def rows(directory: Path, status: str) -> list[LogRow]:
    with LogStore.open_existing(str(directory / "log.db")) as store:
        return store.rows(1000, status=status)


# ---------------------------------------------------------------------- before the start


def test_check_says_what_would_be_used(tmp_path: Path) -> None:
    """`--check` reads everything, opens neither port nor database, and tells what would be used; exit 0."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "g.toml").write_text(
            f"port = {taken.getsockname()[1]}\nworkers = 3\n[plugins.otel]\nenabled = false\n"
        )
        done = run(
            "serve", "--check", "--config", "g.toml", cwd=tmp_path, STREAMFOLD_UPSTREAMS__GROQ="https://g.example"
        )

    assert (done.returncode, done.stderr) == (0, "")
    for told in ("3 workers", "/groq/ -> https://g.example", "log      streamfold.db", "plugins  logging", "in order"):
        assert told in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["g.toml"]


def test_check_names_every_mistake(tmp_path: Path) -> None:
    """`--check` names every mistake that it can find, in the file, the environment and the flags; exit 2."""
    (tmp_path / "g.toml").write_text(
        '[upstreams]\na = "ftp://a"\nb = "http://me:secret-word@b"\n[limits]\narrivals = -1\n'
    )
    done = run(
        "serve", "--check", "--config", "g.toml", "--host", "0.0.0.0", cwd=tmp_path,
        STREAMFOLD_PORT="x", STREAMFOLD_LIMITS__STREAMS="-5", STREAMFOLD_NONE="1",
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (2, "")
    told = [
        "STREAMFOLD_NONE is no setting",
        "STREAMFOLD_PORT: must be",
        'g.toml: "upstreams.a"',
        'g.toml: "upstreams.b"',
        'g.toml: "limits.arrivals"',
        'STREAMFOLD_LIMITS__STREAMS: "limits.streams"',
        '--host: "host" is 0.0.0.0',
    ]
    assert [each for each in told if each not in done.stderr] == []
    assert len(done.stderr.splitlines()) == len(told)
    assert "secret-word" not in done.stderr


DEPLOY = Path(__file__).parent.parent / "examples" / "deploy"


def test_the_example_of_a_configuration(tmp_path: Path) -> None:
    """The annotated configuration is in order."""
    keys = {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2"}
    done = run("serve", "--check", "--config", str(DEPLOY / "gateway.toml"), cwd=tmp_path, **keys)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_example_of_a_unit(tmp_path: Path) -> None:
    """systemd finds nothing wrong with the unit, and nothing much exposed."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "streamfold.service"
    program = str(Path(sys.executable).parent / "python")  # what is verified of a program is that it is one
    unit.write_text((DEPLOY / "streamfold.service").read_text().replace("/opt/streamfold/bin/streamfold", program))
    verified = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)

    assert (verified.returncode, verified.stderr) == (0, "")


def test_help_config(tmp_path: Path) -> None:
    """`--help-config` prints every option."""
    assert run("serve", "--help-config", cwd=tmp_path).stdout == markdown()


async def test_a_token_that_was_made_opens_the_gateway(tmp_path: Path) -> None:
    """`streamfold token` prints a token and the lines that let it in; with these lines it opens the gateway."""
    made = run("token", "alice", cwd=tmp_path)
    token, section = made.stdout.split("\n", 1)
    (tmp_path / "g.toml").write_text(section)
    async with ScriptedUpstream() as upstream:
        play_all(upstream, 0)
        flags = ["--config", "g.toml", "--db", "log.db", "--upstream", f"openai={upstream.url}"]
        async with serving(tmp_path, *flags) as gateway:
            shut = await ask(gateway.address, "POST", VIA, JSON, CHAT)
            opened = await ask(gateway.address, "POST", VIA, [*JSON, ("authorization", f"Bearer {token}")], CHAT)

    assert made.returncode == 0
    assert hash_of(token) in section
    assert token not in section
    assert (shut.status, opened.status) == (401, 200)
    assert [row.client for row in rows(tmp_path, "success")] == ["alice"]


def test_a_token_needs_a_name(tmp_path: Path) -> None:
    """A name that no section can have is refused."""
    done = run("token", "a b", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert "use letters" in done.stderr


async def test_lines_of_json(tmp_path: Path) -> None:
    """With `log_format = "json"` every line on standard error is a JSON object, the greeting too."""
    async with ScriptedUpstream() as upstream:
        play_all(upstream, 0)
        flags = ["--db", "log.db", "--upstream", f"openai={upstream.url}"]
        async with serving(tmp_path, *flags, STREAMFOLD_LOG_FORMAT="json") as gateway:
            await ask(gateway.address, "POST", VIA + "?key=PLANTED-PLANTED", JSON, CHAT)
    lines = [json.loads(line) for line in gateway.lines]

    assert gateway.process.returncode == 0
    (told,) = [line for line in lines if line["logger"] == "streamfold.requests"]
    assert (told["path"], told["outcome"], told["upstream"]) == (PATH, "success", "openai")
    assert "PLANTED" not in "".join(gateway.lines)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_address_of_the_page_is_told(tmp_path: Path, workers: str) -> None:
    """The lines of the start name the page's address, and no token; on all addresses, one that a browser can open."""
    made = run("token", "alice", cwd=tmp_path).stdout
    (tmp_path / "g.toml").write_text(made.split("\n", 1)[1])
    flags = ["--config", "g.toml", "--host", "0.0.0.0", "--db", "log.db", "--workers", workers]
    async with serving(tmp_path, *flags) as gateway:
        port = gateway.address.rpartition(":")[2]
        await until(lambda: any("the page:" in line for line in gateway.lines))
        shown = await ask(f"http://127.0.0.1:{port}", "GET", "/")

    (line,) = [line for line in gateway.lines if "the page:" in line]
    assert line == f"  the page: http://127.0.0.1:{port}/  (it asks for an access token)\n"
    assert "sf-" not in "".join(gateway.lines)
    assert shown.status == 401


# ---------------------------------------------------------------------- several workers

linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")


@linux
async def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """When a worker is killed, requests go on, its streams' rows become `abandoned`, and another takes its place."""
    go = asyncio.Event()

    def answer(request: Received) -> Script:
        return (
            Script([FIRST, go, b"data: [DONE]\n\n"])
            if b"wait" in request.body
            else Script([FIRST, b"data: [DONE]\n\n"])
        )

    body = CHAT.replace(b"gpt-4o-mini", b"wait")
    async with ScriptedUpstream() as upstream, AsyncExitStack() as open_streams:
        upstream.route("POST", PATH, answer)
        flags = ["--workers", "2", "--db", "log.db", "--upstream", f"openai={upstream.url}"]
        async with serving(tmp_path, *flags) as gateway:
            before = gateway.workers()
            talks = []
            while True:  # until both workers have a stream
                talk = await open_streams.enter_async_context(conversation(gateway.address, "POST", VIA, JSON, body))
                await talk.receive()
                await talk.receive()
                talks.append(talk)
                busy = await gateway.figures("streamfold_requests_in_flight{")
                if sum(not line.endswith(" 0.0") for line in busy) == 2:
                    break
                assert len(talks) < 200
            await until(lambda: len(rows(tmp_path, "processing")) == len(talks))
            os.kill(min(before), signal.SIGKILL)
            await until(lambda: len(gateway.workers() - before) == 1)
            replies = [await ask(gateway.address, "POST", VIA, JSON, CHAT) for _ in range(20)]
            await until(lambda: bool(rows(tmp_path, "abandoned")))
            lost = len(rows(tmp_path, "abandoned"))
            go.set()
            ends = [await end_of(talk) for talk in talks]
            async with asyncio.timeout(PATIENCE):
                while (workers := await gateway.figures("streamfold_workers ")) != ["streamfold_workers 2.0"]:
                    await asyncio.sleep(0.05)

    assert all(reply.whole and reply.status == 200 for reply in replies)
    assert 0 < lost < len(talks)
    assert ends.count("broken") == lost
    assert workers == ["streamfold_workers 2.0"]
    assert gateway.process.returncode == 0
    assert (len(rows(tmp_path, "abandoned")), len(rows(tmp_path, "processing"))) == (lost, 0)
    assert any("SIGKILL" in line and "started again" in line for line in gateway.lines)


async def end_of(talk: object) -> str:
    """Reads an answer to its end, or to where it breaks off."""
    try:
        while not isinstance(await talk.receive(), h11.EndOfMessage):  # type: ignore[attr-defined]
            pass
    except (h11.RemoteProtocolError, ConnectionResetError):
        return "broken"
    return "whole"


@linux
async def test_figures_of_all_workers(tmp_path: Path) -> None:
    """Whichever worker is asked, /metrics counts every request of all of them, each under its worker."""
    async with ScriptedUpstream() as upstream:
        play_all(upstream, 0)
        flags = ["--workers", "2", "--db", "log.db", "--upstream", f"openai={upstream.url}"]
        async with serving(tmp_path, *flags) as gateway:
            await asyncio.gather(*(ask(gateway.address, "POST", VIA, JSON, CHAT) for _ in range(40)))
            seen = [await gateway.figures("streamfold_requests_total{") for _ in range(5)]
            ready = await ask(gateway.address, "GET", "/readyz")

    assert {sum(float(line.rpartition(" ")[2]) for line in lines) for lines in seen} == {40.0}
    assert all('worker="' in line for lines in seen for line in lines)
    assert ready.status == 200


@linux
async def test_the_page_shows_the_streams_of_all_workers(tmp_path: Path) -> None:
    """Whichever worker serves the page, streams of the others grow on it as its own do, without any checkpoint."""
    (tmp_path / "g.toml").write_text("[plugins.logging]\ncheckpoint_s = 3600\n")
    go, stop = asyncio.Event(), asyncio.Event()
    more = FIRST.replace(b"Half", b" and half")
    async with ScriptedUpstream() as upstream, AsyncExitStack() as open_streams:
        upstream.route("POST", PATH, Script([FIRST, go, more, stop, b"data: [DONE]\n\n"]))
        flags = ["--config", "g.toml", "--workers", "2", "--db", "log.db", "--upstream", f"openai={upstream.url}"]
        async with serving(tmp_path, *flags) as gateway, asyncio.timeout(PATIENCE):
            while True:  # until both workers have a stream
                talk = await open_streams.enter_async_context(conversation(gateway.address, "POST", VIA, JSON, CHAT))
                await talk.receive()
                await talk.receive()
                busy = await gateway.figures("streamfold_requests_in_flight{")
                if sum(not line.endswith(" 0.0") for line in busy) == 2:
                    break
            watching = await open_streams.enter_async_context(conversation(gateway.address, "GET", "/api/live"))
            feed = live_streams(watching)
            texts, instances = await told_by(feed, "Half")
            go.set()
            grown, _ = await told_by(feed, "Half and half", texts)
            whole = [(await ask(gateway.address, "GET", f"/api/rows/{id}")) for id in grown for _ in range(4)]
            none = await ask(gateway.address, "GET", "/api/rows/no%0Asuch")
            stop.set()

    assert len(instances) == 2
    assert set(grown) == set(texts)
    answers = [msgspec.json.decode(reply.body) for reply in whole]
    assert {(row["live"], row["record"]["output_message"]["content"]) for row in answers} == {(True, "Half and half")}
    assert none.status == 404


async def live_streams(watching: Conversation) -> AsyncGenerator[Live, None]:
    """What the page is told, one by one."""
    waiting = b""
    while not isinstance(part := await watching.receive(), h11.EndOfMessage):
        waiting += part.data if isinstance(part, h11.Data) else b""
        *events, waiting = waiting.split(b"\n\n")
        for event in events:
            if event.startswith(b"event: live\ndata: "):
                yield msgspec.json.decode(event.split(b"data: ", 1)[1], type=Live)


async def told_by(
    feed: AsyncGenerator[Live, None], wanted: str, texts: dict[str, str] | None = None
) -> tuple[dict[str, str], set[str]]:
    """Reads until all streams of two processes have the wanted text; gives the texts and the processes."""
    texts, instances = dict(texts or {}), set[str]()
    async for news in feed:
        for sight in news.streams:
            instances.add(sight.row.instance)
            for part in sight.parts.values():
                texts[sight.id] = (texts.get(sight.id, "") if part.more else "") + part.text
        if set(texts.values()) == {wanted} and len(instances) == 2:
            break
    return texts, instances


@linux
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_workers_stop_gracefully(tmp_path: Path, stop: signal.Signals) -> None:
    """On a signal to the supervisor the workers let their streams finish, write the rows and leave nothing behind."""
    go = asyncio.Event()
    async with ScriptedUpstream() as upstream:
        upstream.route("POST", PATH, Script([FIRST, go, b"data: [DONE]\n\n"]))
        flags = ["--workers", "2", "--db", "log.db", "--upstream", f"openai={upstream.url}"]
        async with serving(tmp_path, *flags, TMPDIR=str(tmp_path)) as gateway:
            workers = gateway.workers()
            async with conversation(gateway.address, "POST", VIA, JSON, CHAT) as talk:
                await talk.receive()
                await talk.receive()
                gateway.process.send_signal(stop)
                await until(lambda: any("stopping" in line for line in gateway.lines))
                go.set()
                end = await end_of(talk)
            async with asyncio.timeout(PATIENCE):
                await gateway.process.wait()

    assert (end, gateway.process.returncode) == ("whole", 0)
    assert [row.ended is not None for row in rows(tmp_path, "success") + rows(tmp_path, "truncated")] == [True]
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not list(tmp_path.glob("streamfold-*"))
    assert not any("Traceback" in line for line in gateway.lines)


@linux
async def test_workers_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    """A supervisor that is killed takes its workers with it."""
    async with serving(tmp_path, "--workers", "2", "--db", "log.db") as gateway:
        workers = gateway.workers()
        gateway.process.kill()
        await gateway.process.wait()
        await until(lambda: not any(_is_alive(pid) for pid in workers))

    assert len(workers) == 2


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_that_cannot_start(tmp_path: Path) -> None:
    """A database that cannot be used stops the start of several workers as it does that of one."""
    done = run("serve", "--port", "0", "--workers", "2", "--db", "no/such/place.db", cwd=tmp_path)

    assert done.returncode == 2
    assert "the directory no/such does not exist" in done.stderr
    assert "Traceback" not in done.stderr
