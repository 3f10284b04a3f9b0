"""What the gateway puts off: folding, and writing its log. Whoever looks must not be able to tell."""

from __future__ import annotations

import logging
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfold.gateway.config import Config, Limits
from streamfold.gateway.logs import _Listener
from streamfold.gateway.routes import find_route
from streamfold.gateway.witness import LARGE, MOST_WAITING, Witness
from streamfold.types import Outcome

HEADERS = [(b"content-type", b"text/event-stream")]
DONE = b"data: [DONE]\n\n"


def _chunk(text: str) -> bytes:
    event = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _witness() -> Witness:
    route = find_route(Config().routes(), "/openai/v1/chat/completions")
    assert route is not None
    witness = Witness(route, "POST", [(b"content-type", b"application/json")], b"", limits=Limits())
    witness.request_piece(b'{"model":"m","stream":true}')
    witness.asked()
    witness.answered(200, HEADERS)
    return witness


def _soon() -> int:
    """A moment after any witness that there is began."""
    return time.monotonic_ns() + 1_000_000_000


def _text(data: Any) -> str:
    message = data.output_message
    return message.content if message is not None else ""


@pytest.mark.parametrize("count", [1, MOST_WAITING - 1, MOST_WAITING, 3 * MOST_WAITING + 1])
def test_who_looks_sees_all_that_has_come(count: int) -> None:
    """A snapshot has the last piece in it, however many wait."""
    witness, at = _witness(), _soon()
    for number in range(count):
        witness.piece(_chunk(f"{number} "), at + number)
        assert witness.ctx.snapshot is not None
    assert _text(witness.ctx.snapshot()) == "".join(f"{number} " for number in range(count))
    assert witness.has_output
    assert not witness.has_ended
    witness.piece(DONE, at + count)
    assert witness.has_ended


@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 2 * LARGE), st.booleans()), min_size=1, max_size=60))
def test_times_are_those_of_arrival(steps: list[tuple[int, int, bool]]) -> None:
    """Each chunk has the time at which it came, whenever it was folded and whoever looked meanwhile."""
    witness, at = _witness(), _soon()
    came = []
    for gap, size, looks in steps:
        at += gap
        came.append(at - witness.ctx.started_ns)
        witness.piece(_chunk("x" * (size + 1)), at)
        if looks:
            assert witness.has_output
    witness.piece(DONE, at)
    done = witness.ended()
    assert done.data is not None
    assert done.arrivals is not None
    assert list(done.arrivals) == came
    assert _text(done.data) == "x" * sum(size + 1 for _, size, _ in steps)
    assert done.data.status == Outcome.SUCCESS.value


def test_looking_from_other_threads_changes_no_order() -> None:
    """Threads that look while pieces come see a growing text, and the end has all of it in order."""
    witness, at = _witness(), _soon()
    snapshot = witness.ctx.snapshot
    assert snapshot is not None
    whole = "".join(f"{number} " for number in range(400))

    def look() -> bool:
        seen = [_text(snapshot()) for _ in range(50)]
        return all(whole.startswith(text) for text in seen) and seen == sorted(seen, key=len)

    with ThreadPoolExecutor(3) as pool:
        looking = [pool.submit(look) for _ in range(3)]
        for number in range(400):
            witness.piece(_chunk(f"{number} "), at + number)
        assert all(each.result() for each in looking)
    witness.piece(DONE, at + 400)
    done = witness.ended()
    assert done.data is not None
    assert _text(done.data) == whole


def test_large_pieces_do_not_wait() -> None:
    """Nothing large is kept for later: what waits is bounded in bytes, too."""
    witness, at = _witness(), _soon()
    witness.piece(_chunk("x" * LARGE), at)
    assert not witness._waiting
    for number in range(MOST_WAITING - 1):
        witness.piece(_chunk("x"), at + number)
    assert len(witness._waiting) == MOST_WAITING - 1
    witness.piece(_chunk("x"), at + MOST_WAITING)
    assert not witness._waiting


# ---------------------------------------------------------------------- lines of the log


def test_lines_that_wait_are_written_at_the_end() -> None:
    """Whoever stops the writing thread gets every line, in order."""
    written: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(record.getMessage())

    waiting: queue.Queue[logging.LogRecord] = queue.Queue()
    listener = _Listener(waiting, Keep())
    listener.start()
    for number in range(1000):
        waiting.put(logging.LogRecord("x", logging.INFO, "x", 1, "%d", (number,), None))
    listener.stop()
    assert written == [str(number) for number in range(1000)]
