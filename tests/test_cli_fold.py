"""`streamfold fold`: what it prints, and with which exit code it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-x",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":"%b"},"finish_reason":%b}]}\n\n'
)
STREAM = CHUNK % ("Grüße".encode(), b"null") + CHUNK % (b", world", b'"stop"') + b"data: [DONE]\n\n"
TIMES = ("latency_ms", "time_to_first_chunk_ms", "time_to_first_token_ms", "start_timestamp", "end_timestamp")


def fold(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "streamfold", "fold", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


def json_of(done: subprocess.CompletedProcess[bytes]) -> Any:
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout)


def lines_of(done: subprocess.CompletedProcess[bytes]) -> list[Any]:
    return [msgspec.json.decode(line) for line in done.stdout.splitlines()]


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    path = tmp_path / "whole.sse"
    path.write_bytes(STREAM)
    return path


def test_one_file_is_a_pretty_record(stream: Path) -> None:
    """One file gives its record, pretty, without times that the file cannot know."""
    done = fold(stream)
    record = json_of(done)

    assert done.stdout.startswith(b'{\n  "request_id"')
    assert (record["format"], record["status"], record["finish_reason"]) == ("openai-chat", "success", "stop")
    assert record["output_message"]["content"] == "Grüße, world"
    assert {record[name] for name in TIMES} == {None}


def test_response_and_text(stream: Path) -> None:
    """`response` is the native response, `text` the content alone."""
    response = json_of(fold("--output", "response", stream))
    text = fold("--output", "text", "--format", "openai-chat", stream)

    assert response["object"] == "chat.completion"
    assert response["choices"][0]["message"]["content"] == "Grüße, world"
    assert text.stdout.decode() == "Grüße, world\n"


def test_standard_input() -> None:
    """`-` reads standard input."""
    assert json_of(fold("-", stdin=STREAM))["status"] == "success"


@pytest.mark.parametrize(
    ("output", "key", "value"),
    [("record", "response_model", "gpt-x"), ("text", "text", "Grüße, world"), ("response", "response", None)],
)
def test_several_files_are_lines_in_order(
    stream: Path, tmp_path: Path, output: str, key: str, value: str | None
) -> None:
    """Several files give one compact line each, in the order given, with the file first."""
    other = tmp_path / "cut.sse"
    other.write_bytes(STREAM[: len(STREAM) // 2 + 20])
    done = fold("--output", output, stream, other, stream)
    lines = lines_of(done)

    assert done.returncode == 0
    assert [line["file"] for line in lines] == [str(stream), str(other), str(stream)]
    assert all(line.startswith(b'{"file":') for line in done.stdout.splitlines())
    if value is not None:
        assert lines[0][key] == value
    else:
        assert lines[0][key]["model"] == "gpt-x"


def test_jsonl_for_one_file(stream: Path) -> None:
    """`--jsonl` gives a line for a single file too."""
    (line,) = lines_of(fold("--jsonl", stream))

    assert (line["file"], line["status"]) == (str(stream), "success")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (STREAM[:150], "truncated"),
        (STREAM[:-14], "success"),
        (CHUNK % (b"a", b"null") + b"data: {oh no\n\n", "truncated"),
        (CHUNK % (b"a", b"null") + b'data: {"error":{"message":"broken"}}\n\n', "error"),
        (b"", "empty"),
    ],
)
def test_bad_end_is_a_result(tmp_path: Path, body: bytes, status: str) -> None:
    """Truncated, malformed, failed and empty streams give a record and exit 0."""
    path = tmp_path / "bad.sse"
    path.write_bytes(body)

    assert json_of(fold("--format", "openai-chat", path))["status"] == status


def test_unreadable_files_are_named_and_the_rest_printed(stream: Path, tmp_path: Path) -> None:
    """What cannot be read is named on standard error, one line each; the others are printed; exit 1."""
    prose = tmp_path / "prose.txt"
    prose.write_text("This is no stream of anybody's.\n")
    done = fold(tmp_path / "none.sse", stream, tmp_path, prose)

    assert done.returncode == 1
    assert [line["file"] for line in lines_of(done)] == [str(stream)]
    first, second, third = done.stderr.decode().splitlines()
    assert first == f"streamfold: {tmp_path / 'none.sse'}: no such file or directory"
    assert second == f"streamfold: {tmp_path}: is a directory"
    assert third.startswith(f"streamfold: {prose}: could not recognise the format")
    assert "--format" in third


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "PATH"),
        (("--format", "openai-chatt", "x"), "unknown format 'openai-chatt'; known are auto, openai-chat"),
        (("--output", "yaml", "x"), "yaml"),
        (("--nonsense", "x"), "--nonsense"),
    ],
)
def test_bad_use(arguments: tuple[str, ...], words: str) -> None:
    """Bad use ends with exit 2 and a sentence, never a traceback."""
    done = fold(*arguments)

    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    """A reader that stops early (`| head`) gives no noise."""
    path = tmp_path / "long.sse"
    path.write_bytes(CHUNK % (b"x" * 500_000, b'"stop"'))
    command = [sys.executable, "-m", "streamfold", "fold", *[str(path)] * 20]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        noise = process.stderr.read()
        process.wait(60)

    assert noise == b""


def test_fold_imports_nothing_heavy() -> None:
    """Folding needs neither the gateway's nor the store's packages."""
    code = (
        "import sys; from streamfold import cli\n"
        "heavy = {'aiohttp', 'sqlalchemy', 'starlette', 'uvicorn', 'openai', 'anthropic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=True)

    assert done.stdout.strip() == b"[]"
