"""The program that tries patterns on texts, for `patterns.py`. It imports nothing of streamfold, to start fast.

It reads the expressions and what stands for a match, then again and again the seconds that it may take and a list of
texts; it answers with the texts that became others, by their place in the list. `marshal` is the encoding, because
both ends are the same Python, and a text may hold half of a surrogate pair.
"""

from __future__ import annotations

import marshal
import re
import signal
import sys


def main() -> None:
    """Answers until there is nothing more to read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the gateway, which still has rows to write
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    expressions, instead = marshal.load(source)
    patterns = [re.compile(expression) for expression in expressions]
    while True:
        try:
            seconds, texts = marshal.load(source)
        except EOFError:
            return
        _give(seconds)
        changed = {}
        for place, text in enumerate(texts):
            struck = text
            for pattern in patterns:
                struck = pattern.sub(instead, struck)
            if struck != text:
                changed[place] = struck
        _give(0.0)
        marshal.dump(changed, answers)
        answers.flush()


def _give(seconds: float) -> None:
    """So much processor time; then the kernel ends the process. No Python runs while a pattern is tried."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
