"""`streamfold serve` and `demo`, as a user runs them."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from scripted import ask, conversation
from streamfold.gateway.scenes import play_all
from streamfold.gateway.scripted import Script, ScriptedUpstream
from streamfold.store import LogStore

PATH = "/v1/chat/completions"
JSON = [("content-type", "application/json")]
CHAT = msgspec.json.encode({"model": "gpt-4o-mini", "stream": True, "messages": []})
FIRST = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Half"}}]}\n\n'


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamfold", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@asynccontextmanager
async def serving(directory: Path, *arguments: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str], None]:
    """`streamfold serve` on a free port: the process, and its address once it listens."""
    command = ["-m", "streamfold", "serve", "--port", "0", *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=directory, stderr=pipe, stdout=pipe)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            line = (await process.stderr.readline()).decode()
        found = re.search(r"http://\S+:\d+", line)
        assert found is not None, line
        yield process, found[0]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_serve_writes_rows_and_stops_cleanly(tmp_path: Path, stop: signal.Signals) -> None:
    """`serve` passes a stream on; on a signal it ends an open one, writes both rows and exits with 0."""
    never = asyncio.Event()
    (tmp_path / "g.toml").write_text("[limits]\nshutdown_grace_s = 0.1\n")
    async with ScriptedUpstream() as upstream:
        play_all(upstream, 0)
        upstream.route("POST", "/v1/completions", Script([FIRST, never]))
        flags = ["--config", "g.toml", "--upstream", f"openai={upstream.url}", "--db", "here.db"]
        async with serving(tmp_path, *flags) as (process, address):
            reply = await ask(address, "POST", "/openai" + PATH, JSON, CHAT)
            async with conversation(address, "POST", "/openai/v1/completions", JSON, CHAT) as talk:
                await talk.receive()
                await talk.receive()
                process.send_signal(stop)
                async with asyncio.timeout(60):
                    out, errors = await process.communicate()

    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert out == b""
    with LogStore.open_existing(str(tmp_path / "here.db")) as store:
        assert sorted(row.status for row in store.rows()) == ["abandoned", "success"]


def test_serve_stops_with_a_sentence(tmp_path: Path) -> None:
    """A mistake in the configuration, the database or the address ends with exit 2 and one line."""
    (tmp_path / "bad.toml").write_text("prot = 1\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        mistakes = {
            ("--config", "bad.toml"): 'streamfold: bad.toml: unknown key "prot"; did you mean "port"?',
            ("--config", "none.toml"): "streamfold: cannot read the configuration none.toml",
            ("--db", "."): "streamfold: cannot use the log database .: ",
            ("--db", "no/such/place.db"): "the directory no/such does not exist",
            ("--upstream", "openai"): "streamfold: --upstream openai: write it as NAME=URL",
            ("--upstream", "openai=file:///etc"): "must be an http or https URL",
            ("--port", port): "address already in use",
        }
        for arguments, sentence in mistakes.items():
            done = run("serve", *arguments, cwd=tmp_path)

            assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
            assert sentence in done.stderr


def test_demo_once(tmp_path: Path) -> None:
    """`demo --once` shows a row for every kind of end, needs no key, and leaves no file behind."""
    done = run("demo", "--once", "--pace", "0.001", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    _, _, head, *lines = done.stdout.splitlines()
    assert head.split()[:3] == ["what", "format", "stream"]
    assert len(lines) == 12
    told = {line[:24].strip(): line[24:].split()[:3] for line in lines}
    assert told["chat, streamed"] == ["openai-chat", "yes", "success"]
    assert told["chat, unstreamed"] == ["openai-chat", "no", "success"]
    assert told["messages, a tool call"] == ["anthropic-messages", "yes", "success"]
    assert told["gemini, JSON array"] == ["gemini", "yes", "success"]
    assert told["the upstream breaks off"] == ["openai-chat", "yes", "truncated"]
    assert told["the client leaves"] == ["openai-chat", "yes", "cancelled"]
    assert told["an error"] == ["passthrough", "no", "error"]
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


def test_missing_extra_is_named(tmp_path: Path) -> None:
    """Without its packages, a command says what to install."""
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('aiohttp', 'sqlalchemy') else find(name, *a)\n"
        "import streamfold.cli as cli\n"
        "sys.argv = ['streamfold', 'serve']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert done.returncode == 2
    assert done.stderr == 'streamfold: this command needs an extra: pip install "streamfold[gateway,store]"\n'
