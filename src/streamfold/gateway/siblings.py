"""What the worker processes of one gateway tell each other.

A request reaches any worker, but figures and live streams are in all of them. So each worker answers questions on a
Unix socket, in a directory that only this user can enter, and whoever is asked from outside asks the others first. A
question is one line (its name, and what it is about as a JSON string), the answer what follows until the end. A worker
that does not answer in time is left out: the rest is better than nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Answer", "Siblings"]

PATIENCE_S: Final = 2.0
LEAST_S: Final = 0.05
"""For one whose answer lay ready while another one was waited for."""
LONGEST_QUESTION: Final = 4096
MOST_BYTES: Final = 64 * 1024 * 1024
"""The longest answer that is taken."""

Answer = Callable[[str], bytes]
"""What answers a question: its argument in, the answer out. Called in a thread."""


class Siblings:
    """The workers of one gateway, as one of them (`number`) sees them."""

    def __init__(self, directory: Path, number: int) -> None:
        self.number = number
        self._directory = directory
        self._own = directory / f"{number}.sock"

    @asynccontextmanager
    async def answering(self, answers: Mapping[str, Answer]) -> AsyncGenerator[None, None]:
        """Answers questions while the block runs."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, ValueError, TimeoutError):
                async with asyncio.timeout(PATIENCE_S * 2):
                    question, _, argument = (await reader.readline()).decode().partition(" ")
                    if question in answers:
                        about = msgspec.json.decode(argument, type=str)
                        writer.write(await asyncio.to_thread(answers[question], about))
                        await writer.drain()
            writer.close()

        self._own.unlink(missing_ok=True)  # of the one before us, who died
        server = await asyncio.start_unix_server(answer, self._own, limit=LONGEST_QUESTION)
        try:
            yield
        finally:
            server.close()
            self._own.unlink(missing_ok=True)

    def ask(self, question: str, argument: str = "") -> list[bytes]:
        """What the others say, those that answer. Waits for them, so call it in a thread."""
        line = b"%b %b\n" % (question.encode(), msgspec.json.encode(argument))
        until = time.monotonic() + PATIENCE_S
        answers = []
        with contextlib.ExitStack() as open_ones:
            # All are asked before any is heard, so that they work at the same time and one that hangs costs one wait.
            asked = [
                _asked(path, line, open_ones) for path in sorted(self._directory.glob("*.sock")) if path != self._own
            ]
            for connection in filter(None, asked):
                with contextlib.suppress(OSError):
                    answers.append(_heard(connection, until))
        return answers


def _asked(path: Path, question: bytes, open_ones: contextlib.ExitStack) -> socket.socket | None:
    connection = open_ones.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    connection.settimeout(PATIENCE_S)
    try:
        connection.connect(str(path))
        connection.sendall(question)
    except OSError:
        return None
    return connection


def _heard(connection: socket.socket, until: float) -> bytes:
    answer = bytearray()
    while True:
        connection.settimeout(max(until - time.monotonic(), LEAST_S))
        piece = connection.recv(256 * 1024)
        if not piece:
            return bytes(answer)
        answer += piece
        if len(answer) > MOST_BYTES or time.monotonic() > until + PATIENCE_S:
            raise OSError("the answer is too long")
