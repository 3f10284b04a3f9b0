"""Strikes out what the configured expressions match, in a process of its own.

An expression may take for ever on some text: an innocent one such as `[\\w.+-]+@` does so on a long word without an @.
Python's `re` lets nothing else run until it has ended, on no thread either, so it must not be tried in the process that
the traffic runs in. It is tried in a child, which has so much processor time for each list of texts and is ended by
the kernel when it takes more. A list that cost a child its life is not stored: nobody has looked through it.

The child starts with the first need of it and ends with this process, however that ends.
"""

from __future__ import annotations

import logging
import marshal
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Timer
from typing import Final

__all__ = ["STRUCK_OUT", "WITHHELD", "Patterns"]

log = logging.getLogger("streamfold.plugins.logging")

STRUCK_OUT: Final = "[redacted]"
WITHHELD: Final = "[not stored: redaction failed]"
SECONDS: Final = 1.0
"""Processor time for a list of texts."""
SECONDS_PER_CHARACTER: Final = 1e-6
"""And this much more: an expression that reads a text once takes a fiftieth of it."""
PROGRAM: Final = Path(__file__).with_name("pattern_process.py")

_Child = subprocess.Popen[bytes]


class Patterns:
    """The expressions and the child that tries them. Safe to use from any thread; its methods wait for the child."""

    def __init__(self, expressions: Sequence[str]) -> None:
        self._expressions = list(expressions)
        self._guard = Lock()
        self._child: _Child | None = None
        self._end: weakref.finalize[..., Patterns] | None = None
        self.withheld = 0
        """Texts that could not be looked through, and are not stored."""

    def __bool__(self) -> bool:
        return bool(self._expressions)

    def strike(self, texts: Sequence[str]) -> list[str]:
        """The texts without what the expressions match. All of them are `WITHHELD` if one took too long."""
        if not self._expressions or not texts:
            return list(texts)
        with self._guard:
            try:
                changed = self._ask(texts)
            except (OSError, EOFError, ValueError, TypeError) as error:
                self._stop()
                self._count(len(texts), error)
                return [WITHHELD] * len(texts)
        return [changed.get(place, text) for place, text in enumerate(texts)]

    def close(self) -> None:
        """Ends the child."""
        with self._guard:
            self._stop()

    def _ask(self, texts: Sequence[str]) -> dict[int, str]:
        child = self._child if self._child is not None and self._child.poll() is None else self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        seconds = SECONDS + SECONDS_PER_CHARACTER * sum(map(len, texts))
        alarm = None if hasattr(signal, "setitimer") else Timer(seconds, child.kill)
        try:
            if alarm is not None:  # where the kernel does not look at the time, we do
                alarm.start()
            child.stdin.write(marshal.dumps((seconds, list(texts))))
            child.stdin.flush()
            changed: dict[int, str] = marshal.load(child.stdout)
        finally:
            if alarm is not None:
                alarm.cancel()
        return changed

    def _start(self) -> _Child:
        # -I and -S: nothing but the standard library, whatever the environment and the directory say.
        command = [sys.executable, "-I", "-S", str(PROGRAM)]
        self._stop()
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._child, self._end = child, weakref.finalize(self, _ended, child)
        assert child.stdin is not None
        child.stdin.write(marshal.dumps((self._expressions, STRUCK_OUT)))
        return child

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._child = self._end = None

    def _count(self, texts: int, error: Exception) -> None:
        if not self.withheld:
            log.error(
                'an expression of "plugins.logging.redact" took too long, or could not be tried (%s): %d texts are not '
                "stored; make the expressions simpler; said once, the others are counted",
                type(error).__name__,
                texts,
            )
        self.withheld += texts


def _ended(child: _Child) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was not written yet has no reader any more
                pipe.close()
    child.wait()
