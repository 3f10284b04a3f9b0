"""The command line.

Results go to standard output, everything else to standard error. Exit 0: done; 1: something could not be read;
2: used wrongly. A user never sees a traceback (unless `STREAMFOLD_DEBUG` asks for it).

Each command imports what it needs when it runs: `fold` must start quickly and work where no extra but `cli` is
installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import msgspec

import streamfold
from streamfold.errors import UsageError
from streamfold.wire.repeat import NATIVE

try:
    import typer
except ModuleNotFoundError:
    sys.exit('streamfold: the command line needs an extra: pip install "streamfold[cli]"')

from streamfold.cli_logs import logs
from streamfold.cli_output import complain, fail, need, print_line, say
from streamfold.cli_replay import replay

__all__ = ["main"]

READ_SIZE: Final = 64 * 1024

app = typer.Typer(
    name="streamfold",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(logs, name="logs")
app.command()(replay)


class Output(StrEnum):
    """What `fold` prints of a stream."""

    RESPONSE = "response"
    RECORD = "record"
    TEXT = "text"


def _say_version(asked: bool) -> None:
    if asked:
        reader = "native scan" if NATIVE is not None else "without native code, folding is slower"
        print_line(f"streamfold {streamfold.__version__} ({reader})".encode())
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Say the version, and how frames are read."
        ),
    ] = False,
) -> None:
    """Fold LLM streams into the response they would have been unstreamed."""


def main() -> None:
    """The entry point: runs a command and turns what goes wrong into a sentence and an exit code."""
    try:
        app()
    except UsageError as error:
        fail(str(error), 2)
    except Exception as error:
        if os.environ.get("STREAMFOLD_DEBUG"):
            raise
        fail(f"internal error, please report it: {type(error).__name__}: {error} (STREAMFOLD_DEBUG=1 shows more)", 1)


# ---------------------------------------------------------------------- fold


@app.command()
def fold(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Recorded streams; - is standard input.")],
    format: Annotated[str, typer.Option(help="Wire format, or auto.")] = "auto",
    output: Annotated[Output, typer.Option(help="The whole record, the native response, or its text.")] = Output.RECORD,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One compact JSON object per line, with its file.")] = False,
) -> None:
    """Fold recorded streams. A stream that ended badly is a result, not a failure."""
    if format not in (known := ["auto", *streamfold.format_names()]):
        raise UsageError(f"unknown format {format!r}; known are {', '.join(known)}")
    lines = jsonl or len(paths) > 1
    unread = 0
    for path in paths:
        data = _folded(path, format)
        if data is None:
            unread += 1
        else:
            print_line(_as_line(path, data, output) if lines else _as_page(data, output))
    if unread:
        raise typer.Exit(1)


def _folded(path: str, format: str) -> streamfold.AccumulatedData | None:
    """The record of a file, or None after saying why there is none."""
    try:
        data = streamfold.fold(_pieces(path), format).data
    except OSError as error:
        complain(f"{path}: {(error.strerror or type(error).__name__).lower()}")
        return None
    except UsageError as error:
        complain(f"{path}: {str(error).replace('format=', '--format')}")
        return None
    assert data is not None
    return _without_clock(data)


def _pieces(path: str) -> Iterator[bytes]:
    """The file in pieces, so that a large one is never in memory whole."""
    if path == "-":
        while piece := sys.stdin.buffer.read(READ_SIZE):
            yield piece
        return
    with open(path, "rb") as file:
        while piece := file.read(READ_SIZE):
            yield piece


def _without_clock(data: streamfold.AccumulatedData) -> streamfold.AccumulatedData:
    """Takes out the times: they would tell how fast the file was read, not how the stream was."""
    return msgspec.structs.replace(
        data,
        latency_ms=None,
        time_to_first_chunk_ms=None,
        time_to_first_token_ms=None,
        time_to_first_content_ms=None,
        time_per_output_token_ms=None,
        max_gap_ms=None,
        start_timestamp=None,
        end_timestamp=None,
    )


def _as_page(data: streamfold.AccumulatedData, output: Output) -> bytes:
    if output is Output.TEXT:
        return _text(data).encode("utf-8", "replace")
    shown = data if output is Output.RECORD else data.response
    return msgspec.json.format(msgspec.json.encode(shown), indent=2)


def _as_line(path: str, data: streamfold.AccumulatedData, output: Output) -> bytes:
    name = os.fsencode(path).decode("utf-8", "replace")
    if output is Output.RECORD:
        # The record's own JSON with one key more in front, so that it is written by one encoder only.
        return b'{"file":' + msgspec.json.encode(name) + b"," + msgspec.json.encode(data)[1:]
    value = data.response if output is Output.RESPONSE else _text(data)
    return msgspec.json.encode({"file": name, output.value: value})


def _text(data: streamfold.AccumulatedData) -> str:
    return (data.output_message.content if data.output_message is not None else None) or ""


# ---------------------------------------------------------------------- the gateway


@app.command()
def serve(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", envvar="STREAMFOLD_CONFIG", help="TOML file; the others win over it."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8787")] = None,
    db: Annotated[str | None, typer.Option(metavar="URL", help="Log database.", show_default="streamfold.db")] = None,
    upstream: Annotated[list[str] | None, typer.Option(metavar="NAME=URL", help="An upstream, by path prefix.")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes that serve.", show_default="1")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say what would be used, and all mistakes; start nothing.")
    ] = False,
    help_config: Annotated[bool, typer.Option("--help-config", help="Show every option of the configuration.")] = False,
) -> None:
    """Run the gateway: bytes pass through untouched, every request leaves a row.

    Each option of the file can also be an environment variable, such as STREAMFOLD_LIMITS__STREAMS=500.
    """
    need("aiohttp", "uvicorn", "sqlalchemy")
    from streamfold.gateway.config import examine, upstream_flag

    if help_config:
        from streamfold.gateway.options import markdown

        print_line(markdown().rstrip("\n").encode())
        return
    flags = {"host": host, "port": port, "db": db, "workers": workers, "upstreams": upstream_flag(upstream or [])}
    examined = examine(config, environ=os.environ, **flags)
    for note in examined.notes:
        complain(f"note: {note}")
    for mistake in examined.mistakes:
        complain(mistake)
    if examined.config is None:
        raise typer.Exit(2)
    if check:
        from streamfold.gateway.check import report

        for line in report(examined.config):
            _show(line)
        return
    from streamfold.gateway.server import start

    start(examined.config, say)


@app.command()
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The client's name, as rows will have it.")],
) -> None:
    """Make an access token for a client, and the lines of the configuration that let it in."""
    need("aiohttp", "uvicorn", "sqlalchemy")
    from streamfold.gateway.access import hash_of, new_token
    from streamfold.gateway.config import NAME

    if not NAME.fullmatch(name):
        raise UsageError(f"a client cannot be called {name!r}; use letters, digits, - and _")
    made = new_token()
    say("The token, which is shown this once and stored nowhere. Give it to the client:")
    print_line(made.encode())
    say("What the gateway keeps of it. Put it into the configuration:")
    key = name if "." not in name else f'"{name}"'
    print_line(f'\n[access.clients.{key}]\ntoken_hash = "{hash_of(made)}"'.encode())


@app.command()
def demo(
    port: Annotated[int | None, typer.Option(help="Port of the gateway.", show_default="8787, or a free one")] = None,
    db: Annotated[
        str | None, typer.Option(metavar="URL", help="Keep the log.", show_default="a temporary file")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop after the client's round.")] = False,
    pace: Annotated[float | None, typer.Option(hidden=True)] = None,
) -> None:
    """Show the gateway at work with a scripted upstream: no keys, no network."""
    need("aiohttp", "uvicorn", "sqlalchemy")
    from streamfold.gateway.demo import demo
    from streamfold.gateway.server import run

    run(demo(port=port, db=db, once=once, pace=pace, say=_show))


# ---------------------------------------------------------------------- the benchmark


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
    help="Measure this library against its floor and its peers, on this machine.",
)
def bench(context: typer.Context) -> None:
    """Hands its arguments to the benchmark's own parser."""
    if find_spec("streamfold.bench") is None:
        fail("this installation has no benchmark", 1)
    raise typer.Exit(import_module("streamfold.bench").main(context.args) or 0)


# ---------------------------------------------------------------------- speaking


def _show(line: str) -> None:
    print_line(line.encode("utf-8", "replace"))
