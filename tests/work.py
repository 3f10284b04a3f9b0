"""What work costs, without a clock: machines are noisy, and what a call does is the same on all of them.

`work` counts calls. It cannot see what happens inside one call of C: joining two long strings is one call, like joining
two short ones. `memory` sees the part of that which asks for memory: a text that is copied whole with every piece is
asked for whole with every piece. A copy within memory that is already held (a `memmove`) only the benchmark sees.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from types import FrameType

__all__ = ["memory", "work"]


def work(function: Callable[[], object]) -> int:
    """How many calls, of Python and of C, the call of `function` makes in this thread, itself among them."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls - 1  # the call that ended the counting


def memory(steps: Iterable[Callable[[], object]]) -> int:
    """How many bytes these calls, one after the other, ask for: each at its most, beyond what was held before it."""
    asked = 0
    collecting = gc.isenabled()
    gc.disable()  # garbage that is freed within a step would hide what the step asks for
    tracemalloc.start()
    try:
        for step in steps:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            step()
            asked += tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        if collecting:
            gc.enable()
    return asked
