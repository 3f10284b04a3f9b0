"""The benchmark: what a fold costs beside reading the same bytes at all, beside its peers, and as streams grow.

`streamfold bench`, or `python -m streamfold.bench`. It reports and does not judge: budgets stand beside the figures,
and the exit code is 1 only when some answer was wrong. Figures that can be compared are ratios from one run.
"""

from __future__ import annotations

from streamfold.bench.command import main

__all__ = ["main"]
