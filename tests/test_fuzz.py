"""Every framing and every format survives damaged streams; `tests/fuzz.py` runs the same for as long as you like."""

import os

import pytest

import fuzz

pytestmark = pytest.mark.usefixtures("frame_reader")

SECONDS = float(os.environ.get("STREAMFOLD_FUZZ_SECONDS", "1"))


@pytest.mark.parametrize("target", fuzz.targets())
def test_damaged_streams_raise_nothing(target, record_property):
    """Nothing gets out of feed, snapshot or finish, and no record is much larger than what made it."""
    cases = fuzz.run(target, SECONDS, seed=20261121)
    record_property("cases", cases)
    assert cases > 10
