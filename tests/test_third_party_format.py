"""A format of somebody else's, installed as a package and found through its entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "acme_format"
STREAM = b"".join(
    json.dumps(line).encode() + b"\n"
    for line in [
        {"acme": 1, "model": "anvil-2"},
        *({"say": word} for word in ("Hel", "lo ", "wor", "ld")),
        {"stop": "done", "spent": {"in": 7, "out": 4}},
    ]
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example package, installed where a new Python process finds it."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(EXAMPLE)], check=True, capture_output=True)
    return target


def fold(installed, *args):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "streamfold", "fold", *args, "-"]
    return subprocess.run(command, input=STREAM, capture_output=True, env=environment)


@pytest.mark.parametrize("args", [("--format", "acme"), ()], ids=["by name", "auto"])
def test_the_command_line_folds_a_registered_format(installed, args):
    """The format is found by its name, and recognised by its first line."""
    done = fold(installed, *args)
    record = json.loads(done.stdout)
    assert done.returncode == 0
    assert (record["format"], record["status"], record["finish_reason"]) == ("acme", "success", "stop")
    assert record["output_message"]["content"] == "Hello world"
    assert record["token_usage"]["total_tokens"] == 11
    assert record["integrity"]["end_marker"] is True


def test_without_the_package_the_name_is_unknown():
    """A format that is not installed is bad use, and the message lists those that are."""
    command = [sys.executable, "-m", "streamfold", "fold", "--format", "acme", "-"]
    done = subprocess.run(command, input=STREAM, capture_output=True)
    assert done.returncode == 2
    assert b"unknown format 'acme'" in done.stderr
    assert b"openai-chat" in done.stderr
