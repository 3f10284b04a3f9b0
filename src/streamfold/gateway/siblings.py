"""What the worker processes of one gateway tell each other.

A request reaches any worker, but figures and live streams are in all of them. So each worker answers questions on a
Unix socket, in a directory that only this user can enter, and whoever is asked from outside asks the others first. A
question is one line, the answer what follows until the end. A worker that does not answer in time is left out: the
rest is better than nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

__all__ = ["Answer", "Siblings"]

PATIENCE_S: Final = 2.0
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
                    question, _, argument = (await reader.readline()).decode().rstrip("\n").partition(" ")
                    if question in answers:
                        writer.write(await asyncio.to_thread(answers[question], argument))
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
        answers = []
        for path in sorted(self._directory.glob("*.sock")):
            if path != self._own:
                with contextlib.suppress(OSError):
                    answers.append(_asked(path, f"{question} {argument}\n".encode()))
        return answers


def _asked(path: Path, question: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(path))
        connection.sendall(question)
        answer = bytearray()
        while piece := connection.recv(256 * 1024):
            answer += piece
            if len(answer) > MOST_BYTES:
                raise OSError("the answer is too long")
        return bytes(answer)
