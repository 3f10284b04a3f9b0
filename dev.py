#!/usr/bin/env python3
"""Sets up and runs everything, with nothing but Python.

    python3 dev.py run ARGS...     streamfold ARGS... (for example: fold examples/weather.sse, or demo)
    python3 dev.py test [ARGS...]  the tests, several at a time (with ARGS: those that pytest makes of them, one by one)
    python3 dev.py lint            ruff and mypy
    python3 dev.py all             lint, then the tests

The first call makes a virtual environment in `.venv` and installs the versions of `constraints.txt`; later calls do
so again only when one of the files that it is made from has changed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENV = ROOT / ".venv"
PYTHON = ENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = ENV / "installed"
MADE_FROM = ("pyproject.toml", "constraints.txt", "hatch_build.py", "src/streamfold/wire/_scan.c")


def fingerprint() -> str:
    """What the environment was made from."""
    parts = [(ROOT / name).read_bytes() for name in MADE_FROM]
    return hashlib.sha256(b"\0".join([sys.version.encode(), *parts])).hexdigest()


def set_up() -> None:
    """Makes the environment, or leaves it if it is as it should be."""
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    print("setting up .venv (once) ...", file=sys.stderr)
    if not PYTHON.exists():
        try:
            venv.create(ENV, with_pip=True)
        except (subprocess.CalledProcessError, ImportError):
            sys.exit("cannot make a virtual environment: install your system's package python3-venv and try again")
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    environment = {**os.environ, "STREAMFOLD_NO_EXTENSIONS": ""}  # it is for this run, and what is built stays
    subprocess.run([*pip, "-c", "constraints.txt", "-e", ".[dev]"], cwd=ROOT, env=environment, check=True)
    STAMP.write_text(wanted)


def run(*command: str) -> int:
    """Runs a module of the environment."""
    return subprocess.run([str(PYTHON), "-m", *command]).returncode


def lint() -> int:
    """Formatting, lint and types; all of them, even if one fails."""
    os.chdir(ROOT)
    return max(run("ruff", "format", "--check", "."), run("ruff", "check", "."), run("mypy"))


def test(*args: str) -> int:
    """The test suite, with a list of what was skipped and why."""
    os.chdir(ROOT)
    # Many tests wait more than they compute, hence a worker more than there are processors. A file stays in one of
    # them, so that its servers are started once.
    several = [] if args else ["-n", str((os.cpu_count() or 1) + 1), "--dist", "loadfile"]
    return run("pytest", "-rs", *several, *args)


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 (this file runs on what is there, before anything is installed)
        sys.exit(f"streamfold needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    command, *args = sys.argv[1:] or ["help"]
    if command not in ("run", "test", "lint", "all"):
        print(__doc__)
        return 2
    try:
        set_up()
    except subprocess.CalledProcessError as error:
        sys.exit(f"the set-up failed: {' '.join(map(str, error.cmd))} ended with status {error.returncode}")
    if command == "run":
        return run("streamfold", *args)
    if command == "test":
        return test(*args)
    if command == "lint":
        return lint()
    return lint() or test()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
