"""One figure is one row; rows make the table, or the JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal

import msgspec

from streamfold.types import JSON

__all__ = ["Row", "Verdict", "as_json", "as_table", "skipped"]

Verdict = Literal["ok", "over", "", "skipped", "WRONG"]

HEADS = ("", "measured", "budget", "", "")


class Row(msgspec.Struct, kw_only=True, frozen=True):
    """One line: what was measured, what it may be, and what else is worth knowing."""

    section: str
    name: str
    figure: float | None = None
    unit: str = ""
    budget: float | None = None
    detail: str = ""
    correct: bool = True
    extra: JSON = {}

    @property
    def verdict(self) -> Verdict:
        """Wrong answers first; without a budget there is nothing to say."""
        if not self.correct:
            return "WRONG"
        if self.figure is None:
            return "skipped"
        if self.budget is None:
            return ""
        return "ok" if self.figure <= self.budget else "over"


def skipped(section: str, name: str, why: str) -> Row:
    """A row for what could not be measured here."""
    return Row(section=section, name=name, detail=why)


def as_json(rows: Iterable[Row], machine: JSON) -> str:
    """The rows for programs."""
    told = [{**msgspec.to_builtins(row), "verdict": row.verdict} for row in rows]
    return msgspec.json.format(msgspec.json.encode({"machine": machine, "rows": told}), indent=2).decode()


def as_table(rows: Iterable[Row], machine: JSON) -> str:
    """The rows for people: one aligned table per section."""
    lines = ["  ".join(f"{key} {value}" for key, value in machine.items())]
    for section, of in groupby(rows, key=lambda row: row.section):
        lines += ["", section, *_aligned([HEADS, *map(_cells, of)])]
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    measured = "-" if row.figure is None else f"{_number(row.figure)} {row.unit}".rstrip()
    budget = "-" if row.budget is None else f"{_number(row.budget)} {row.unit}".rstrip()
    return row.name, measured, budget, row.verdict, row.detail


def _number(value: float) -> str:
    if value == int(value) and abs(value) >= 100:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _aligned(table: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        name, measured, budget, verdict, detail = (
            cell.ljust(width) if place in (0, 3, 4) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        yield f"  {name}  {measured}  {budget}  {verdict}  {detail}".rstrip()
