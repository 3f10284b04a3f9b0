"""How the command line speaks: results to standard output, everything else to standard error, and how it gives up."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final, NoReturn

__all__ = ["complain", "fail", "need", "print_line", "say"]

EXTRA_OF: Final = {
    "aiohttp": "gateway",
    "uvicorn": "gateway",
    "sqlalchemy": "store",
    "rich": "cli",
    "pyarrow": "parquet",
    "genai_prices": "prices",
}


def need(*modules: str) -> None:
    """Ends with the command that installs what is missing."""
    missing = sorted({EXTRA_OF[name] for name in modules if find_spec(name) is None})
    if missing:
        fail(f'this command needs an extra: pip install "streamfold[{",".join(missing)}]"', 2)


def print_line(line: bytes) -> None:
    """A line of the result."""
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def say(line: str) -> None:
    """A line for the person at the terminal."""
    print(line, file=sys.stderr, flush=True)


def complain(sentence: str) -> None:
    """A line about what went wrong."""
    say(f"streamfold: {sentence}".encode("utf-8", "replace").decode())


def fail(sentence: str, code: int) -> NoReturn:
    """Ends the command."""
    complain(sentence)
    sys.exit(code)
