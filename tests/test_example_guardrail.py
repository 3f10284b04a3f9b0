"""The example guardrail by itself: what it finds, and how much it reads for it."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "guardrail"))

from guardrail import Guardrail, GuardrailConfig

from streamfold.hooks import HOLD, RELEASE, End, RequestContext
from streamfold.types import AccumulatedData, ChatMessage, Choice, FunctionCall, ToolCall

SECRET = r"\bproject\s+bluebird\b"


def answers(guard: Guardrail, texts: list[str], *, as_call: bool = False) -> list[Any]:
    """What it answers to a text that comes in pieces, and to the end."""
    so_far = ""
    ctx = RequestContext(request_id="r")
    found = []

    def snapshot() -> AccumulatedData:
        call = ToolCall(index=0, function=FunctionCall(arguments=so_far))
        message = ChatMessage(tool_calls=[call]) if as_call else ChatMessage(content=so_far)
        return AccumulatedData(choices=[Choice(0, message)])

    ctx.snapshot = snapshot
    for text in texts:
        so_far += text
        found.append(guard.post_llm_hook(ctx, text.encode(), None))
        if isinstance(found[-1], End):
            return found
    return [*found, guard.post_llm_hook(ctx, None, None)]


@given(
    words=st.lists(st.sampled_from(["project", "bluebird", "a", "subproject", "bluebirds", "."]), max_size=12),
    cuts=st.lists(st.integers(0, 100), max_size=20),
    as_call=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_pieces_are_found_as_the_whole_is(words: list[str], cuts: list[int], as_call: bool) -> None:
    """However a text is cut, a forbidden pattern in it ends the stream, and only then."""
    text = " ".join(words)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[begin:end] for begin, end in itertools.pairwise(places)]
    guard = Guardrail(GuardrailConfig(forbidden=[r"\bproject\s+bluebird\b "], look_back=20))
    whole = Guardrail(GuardrailConfig(forbidden=[r"\bproject\s+bluebird\b "]))
    assert isinstance(answers(guard, pieces, as_call=as_call)[-1], End) == isinstance(answers(whole, [text])[-1], End)


def test_each_look_reads_only_what_is_new() -> None:
    """A thousand chunks cost what their text costs, and a look back for each; not the whole text each time."""
    read = []

    class Counting:
        def search(self, text: str, begin: int) -> None:
            read.append(len(text) - begin)

    guard = Guardrail(GuardrailConfig(forbidden=[SECRET], look_back=50))
    guard._forbidden = [Counting()]  # type: ignore[list-item]
    answers(guard, ["ten chars "] * 1000)
    assert max(read) <= 60
    assert len(read) == 1001


def test_sentences_pass_when_they_are_whole() -> None:
    """It holds until a sentence is complete, and lets go at the end in any case."""
    guard = Guardrail(GuardrailConfig(forbidden=[SECRET]))
    assert answers(guard, ["One ", "two. ", "Three"]) == [HOLD, RELEASE, HOLD, RELEASE]
