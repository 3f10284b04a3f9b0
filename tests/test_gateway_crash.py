"""Kill -9: no row is lost, none is doubled, and what was in flight is told as far as it had come."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crash import HELD, crash

STREAMS = 200


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9 there")
async def test_kill_in_the_middle_of_200_streams(tmp_path: Path) -> None:
    """After a kill and a start, each stream has one row: whole if its client saw the end, else whole or abandoned."""
    result = await crash(tmp_path, STREAMS)

    assert (result.lost, result.doubled, result.wrong) == ([], 0, [])
    assert result.finished + result.abandoned == STREAMS
    assert result.finished >= result.ended >= STREAMS // 2
    assert result.abandoned >= result.with_text >= STREAMS // HELD
    assert result.journal_at_kill > 0
    assert result.journal_after == 0
