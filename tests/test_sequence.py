"""Each chunk once, in order: what `Sequence` promises."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfold.sequence import MAX_MISSING, Sequence


def run(offers, **options):
    sequence = Sequence(**options)
    out = []
    for index in offers:
        out += sequence.offer(index, index)
    out += sequence.drain()
    return out, sequence


@pytest.mark.parametrize(
    ("offers", "out", "missing", "duplicates", "reordered", "late"),
    [
        ([], [], [], 0, 0, 0),
        ([0, 1, 2], [0, 1, 2], [], 0, 0, 0),
        ([2, 0, 1], [0, 1, 2], [], 0, 1, 0),
        ([0, 0, 1, 1], [0, 1], [], 2, 0, 0),
        ([0, 2], [0, 2], [1], 0, 1, 0),
        ([1, 1, 0], [0, 1], [], 1, 1, 0),
        ([5], [5], [0, 1, 2, 3, 4], 0, 1, 0),
        ([3, 1, 5], [1, 3, 5], [0, 2, 4], 0, 3, 0),
    ],
)
def test_table(offers, out, missing, duplicates, reordered, late):
    """Chunks come out in order, and what was odd is counted."""
    got, sequence = run(offers)
    assert got == out
    assert (sequence.missing, sequence.duplicates, sequence.reordered, sequence.late) == (
        missing,
        duplicates,
        reordered,
        late,
    )


@given(st.integers(0, 40), st.randoms(use_true_random=False), st.integers(0, 20))
def test_any_permutation_with_repeats_comes_out_once_and_in_order(n, rng, repeats):
    """Every order and every repetition of the chunks 0..n-1 gives them once and in order, with nothing missing."""
    offers = list(range(n)) + [rng.randrange(n) for _ in range(repeats if n else 0)]
    rng.shuffle(offers)
    got, sequence = run(offers)
    assert got == list(range(n))
    assert sequence.missing == []
    assert sequence.duplicates == len(offers) - n


@given(st.sets(st.integers(0, 60)), st.randoms(use_true_random=False))
def test_a_missing_index_is_listed(present, rng):
    """What never came is listed, and everything that came comes out in order."""
    offers = list(present)
    rng.shuffle(offers)
    got, sequence = run(offers)
    assert got == sorted(present)
    assert sequence.missing == [index for index in range(max(present, default=-1) + 1) if index not in present]


def test_what_waits_for_a_gap_is_bounded_in_number():
    """A gap that does not close is given up when too many chunks wait for it, and its chunk is late when it comes."""
    sequence = Sequence(max_waiting=3)
    assert [sequence.offer(index, index) for index in (1, 2, 3)] == [[], [], []]
    assert sequence.offer(4, 4) == [1, 2, 3, 4]
    assert sequence.missing == [0]
    assert sequence.offer(0, 0) == []
    assert (sequence.late, sequence.duplicates) == (1, 0)


def test_what_waits_for_a_gap_is_bounded_in_bytes():
    """A gap is given up too when the chunks that wait weigh too much."""
    sequence = Sequence(max_bytes=10)
    assert sequence.offer(1, "a", weight=8) == []
    assert sequence.offer(2, "b", weight=8) == ["a", "b"]


def test_a_hostile_index_costs_no_memory():
    """An index of 2**60 does not make a list of that length."""
    sequence = Sequence()
    sequence.offer(2**60, "x")
    assert sequence.drain() == ["x"]
    assert len(sequence.missing) == MAX_MISSING


def test_a_stream_in_order_keeps_nothing():
    """A stream in good order keeps no index and no chunk."""
    sequence = Sequence()
    for index in range(1000):
        sequence.offer(index, index)
    assert sequence.waiting == []
    assert sequence._missing is None


def test_drain_of_many_gaps_is_quick():
    """A thousand gaps are given up in one pass."""
    rng = random.Random(1)
    offers = list(range(1, 4000, 2))
    rng.shuffle(offers)
    got, sequence = run(offers)
    assert got == sorted(offers)
    assert sequence.missing == list(range(0, 3999, 2))
