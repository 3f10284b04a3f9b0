"""Google Gemini: `streamGenerateContent` of the Gemini API and of Vertex AI.

Source: the `GenerateContentResponse` of Google's API reference. Every chunk is such an object holding the next stretch
of it, and the folded whole is the one that `generateContent` gives. There is no end marker: a finish reason (or a
blocked prompt) is the end. These are protocol buffers spelled as JSON, so a zero is often not written (`index`, token
counts, `startIndex`), and some clients write an enum as its number.

The Interactions API is folded in `gemini_interactions.py`: its events share nothing with these chunks.

Four things need thought.

* **Parts** (`Parts`). A chunk's parts follow those that came, and nothing numbers them. Stretches of text of the same
  kind (answer or thought) are one part in the whole. A signed part stays by itself, because the signature must be
  sent back on the very part it came on. Bare samples of speech come in stretches too, and are one part. Any other part
  is whole and is never joined. A part with an empty text and nothing else only carries a chunk's finish reason or
  metadata, and says nothing itself. A transcript (`audioTranscription`) may have its text beside it or only in it.
* **Function calls** (`Call`, `Arguments`) come whole, or on Vertex argument by argument: `partialArgs` name a place by
  JSON path and bring a value, a string possibly in pieces. `willContinue` says that the call goes on; an empty
  `functionCall` ends it. The whole has `args`, as if unstreamed; a call that was cut off keeps its `willContinue`.
* **Metadata** (`Gathered`, `Grounding`) comes empty, in parts, or whole again and again; lists are united. A grounding
  support points at grounding chunks by position in the list that came with it, so it moves with that list.
* **Usage** (`Usage`) is an account of the response so far. A field it does not name stays as it was, unless its total
  proves that the field is now zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from streamfold.growth import Extend, Fields, First, Identity, Latest, Merge, Record, Skip, Text
from streamfold.types import (
    JSON,
    AccumulatedData,
    StreamType,
)
from streamfold.wire.errors import error_details
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.gemini_dump import CLIENT_ONLY, as_on_wire, is_dump
from streamfold.wire.gemini_interactions import Interaction, is_event, is_interaction, view_interaction
from streamfold.wire.gemini_metadata import Gathered, Grounding, Usage, objects_in
from streamfold.wire.gemini_parts import Parts, is_text
from streamfold.wire.gemini_view import BLOCK_REASONS, FINISH_REASONS, enum_name, text_of, view_response
from streamfold.wire.pings import is_ping

__all__ = ["Gemini"]

CANDIDATE = Record(
    index=First,
    content=Record(role=First, parts=Parts),
    finishReason=Latest,
    finishMessage=Latest,
    safetyRatings=Latest,
    groundingMetadata=Grounding,
    citationMetadata=Gathered,
    urlContextMetadata=Gathered,
    avgLogprobs=Latest,
    logprobsResult=Record(chosenCandidates=Extend, topCandidates=Extend),
    tokenCount=Latest,
)

RESPONSE = Record(
    candidates=Skip,  # folded by index, see `_add_candidate`
    error=Skip,
    usageMetadata=Usage,
    promptFeedback=Merge,
    modelVersion=Identity,
    responseId=Identity,
    createTime=First,
    **dict.fromkeys(CLIENT_ONLY, Skip),
)

KNOWN = frozenset({
    "candidates", "usageMetadata", "promptFeedback", "modelVersion", "responseId", "createTime", "modelStatus", "error",
})  # fmt: skip
"""Fields of which a chunk of this API has at least one."""

TELLTALES: Final = ("candidates", "usageMetadata", "usage_metadata", "promptFeedback", "prompt_feedback")
"""Fields by which a chunk is known, as on the wire and as clients dump it."""

CONTINUATION: Final = "CONTINUATION"
"""The finish reason of an answer that goes on: in another request, which Google's client makes by itself."""

GROWING: Final = ("groundingMetadata", "citationMetadata", "urlContextMetadata", "logprobsResult")
"""Fields of a candidate that a second copy of the same chunk could add to."""


class Gemini(Fold):
    """Folds the chunks of `streamGenerateContent` into a `GenerateContentResponse`, events into an `Interaction`."""

    __slots__ = ("_candidates", "_finishes", "_interaction", "_rounds", "_top", "ends_with_finish")

    format: ClassVar[str] = "gemini"
    stream_type: ClassVar[StreamType] = StreamType.CHAT_COMPLETION
    has_end_marker: ClassVar[bool] = False
    identity_keys: ClassVar[tuple[str, str]] = ("responseId", "modelVersion")

    def __init__(self) -> None:
        super().__init__()
        self._top = RESPONSE()
        self._candidates: dict[int, Fields] | None = None
        self._finishes: set[int] = set()
        self._rounds: set[int] = set()
        """Candidates that were said to have finished while a tool had still to run, or that may go on."""
        self._interaction: Interaction | None = None
        self.ends_with_finish = True

    def add_event(self, event: JSON, name: str | None = None) -> int:
        if "event_type" in event and is_event(event):
            return self._add_interaction(event)
        if (len(event) < 2 or not event.keys() <= KNOWN) and is_dump(event):
            self._seeking = False  # the frame spells the places of its strings otherwise
            event = as_on_wire(event)
        inner = event.get("response")
        if isinstance(inner, dict) and _is_envelope(event, inner):
            return self._add_chunk({**event, **inner}, inner, ("response",))
        if event.keys().isdisjoint(KNOWN):
            if is_ping(event, name):
                return 0
            if event:
                return self._add_interaction(event) if is_interaction(event) else self.keep_unknown(event)
        return self._add_chunk(event, event, ())

    def _add_interaction(self, event: JSON) -> int:
        """Folds an event of the Interactions API, or a whole interaction."""
        interaction = self._interaction
        if interaction is None:
            interaction = self._interaction = Interaction()
            if self.full:
                interaction.close()
        # A bare interaction is the whole answer, also if Google is still at work on it (`background`).
        flags = CHUNK | (interaction.add(event) if is_event(event) else interaction.take(event, last=True))
        self.ended = self.ended or interaction.ended
        self.finished = self.finished or interaction.ended
        if interaction.error is not None and self.error is None:
            self.error = error_details(interaction.error)
        if self._seeking and flags & CONTENT and (text := interaction.place(event)) is not None:
            self._plain = (("delta", "text"), text)
        return flags

    def _add_chunk(self, fields: JSON, chunk: JSON, path: tuple[str, ...]) -> int:
        """Folds a chunk; `fields` are its fields with those of its envelope, `path` the way to it in the frame."""
        if chunk is not fields:
            fields.pop("response", None)
        if fields.get("error"):
            self.error = error_details(fields["error"])
        self._top.add(fields)
        flags = CHUNK
        candidates = chunk.get("candidates")
        if isinstance(candidates, list | tuple):
            flags |= self._add_candidates(candidates)
            if flags & OUTPUT and self._credit > 0 and len(candidates) == 1 and not self._finishes:
                self._look_for_plain(candidates[0], (*path, "candidates", 0))
        elif candidates is not None:
            self.flag("unexpected_shape")
        feedback = chunk.get("promptFeedback")
        if isinstance(feedback, Mapping) and enum_name(feedback.get("blockReason"), BLOCK_REASONS):
            self.finished = True
        return flags

    def _add_candidates(self, candidates: Sequence[Any]) -> int:
        if self._candidates is None:
            self._candidates = {}
        flags = 0
        taken: set[int] = set()
        for place, candidate in enumerate(candidates):
            if not isinstance(candidate, Mapping):
                self.flag("unexpected_shape")
                continue
            index = candidate.get("index")
            if not isinstance(index, int):
                # A zero is not written; only where that is taken can the place tell.
                index = place if 0 in taken else 0
            taken.add(index)
            flags |= self._add_candidate(candidate, index)
        return flags

    def _add_candidate(self, candidate: Mapping[str, Any], index: int) -> int:
        assert self._candidates is not None
        cell = self._candidates.get(index)
        if cell is None:
            if self.full:
                return 0
            cell = self._candidates[index] = CANDIDATE()
        content = candidate.get("content")
        flags = 0
        if isinstance(content, Mapping):
            flags = _brings(content.get("parts"))
        elif content is not None:
            self.flag("unexpected_shape")
        if self.full:
            for key, value in candidate.items():  # full: no new fields by `add`, but the end is still taken
                cell.cell(key).add(value)
        else:
            cell.add(candidate)
        self._note_parts(cell)
        if flags and index in self._rounds:
            self._rounds.discard(index)
            self._finishes.discard(index)
        if flags & CONTENT and index in self._finishes:
            self.ends_with_finish = False  # early models said the reason on every chunk, some proxies say it first
            if not enum_name(candidate.get("finishReason"), FINISH_REASONS):
                self.flag("content_after_finish")
        if enum_name(candidate.get("finishReason"), FINISH_REASONS):
            self._finishes.add(index)
            if _awaits_a_result(content):
                self._rounds.add(index)
                self.ends_with_finish = False
            elif candidate["finishReason"] == CONTINUATION:
                self._rounds.add(index)
        self.finished = self._finishes.issuperset(self._candidates)
        return flags

    def _note_parts(self, candidate: Fields) -> None:
        parts = _parts_cell(candidate)
        if parts is None:
            return
        if parts.odd:
            self.flag("unexpected_shape")
        if parts.late_call:
            self.flag("function_call_after_end")

    def _look_for_plain(self, candidate: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
        """Marks the frame as one whose whole effect is one string appended, if it is. See `repeat.py`."""
        if any(candidate.get(key) for key in GROWING) or self.error is not None:
            return
        index = candidate.get("index")
        assert self._candidates is not None
        cell = self._candidates.get(index if isinstance(index, int) else 0)
        parts = candidate["content"]["parts"]
        held = _parts_cell(cell) if cell is not None else None
        if held is None or len(parts) != 1 or not isinstance(parts[0], dict):
            return
        path = (*path, "content", "parts", 0)
        if is_text(parts[0]):
            last = held.last_text()
            if last is not None:
                self._plain = ((*path, "text"), last.text)
            return
        text = _plain_argument(parts[0], held)
        if text is not None:
            self._plain = ((*path, "functionCall", "partialArgs", 0, "stringValue"), text)

    def response(self) -> JSON | None:
        unknown = self.unknown_events
        if self._interaction is not None:
            return {**self._interaction.value(), **unknown}
        out = self._top.value()
        if out is None and not unknown:
            return None
        out = out or {}
        out.pop("error", None)
        if self._candidates is not None:
            out["candidates"] = [_settled(self._candidates[index].value() or {}) for index in sorted(self._candidates)]
        return {**out, **unknown}

    def envelope(self) -> Fields:
        return self._top

    def close(self) -> None:
        super().close()
        if self._interaction is not None:
            self._interaction.close()
        for candidate in (self._candidates or {}).values():
            candidate.close()

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        inner = event.get("response")
        if isinstance(inner, dict) and _is_envelope(event, inner):
            event = inner
        if any(key in event for key in TELLTALES) or event.get("object") == "interaction":
            return True
        return "event_type" in event and is_event(event)

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        inner = response.get("response")
        if isinstance(inner, dict) and _is_envelope(response, inner):
            response = inner
        if is_interaction(response):
            view_interaction(response, data)
        else:
            view_response(response, data)

    def finish_view(self, data: AccumulatedData) -> None:
        """Arguments of an interaction's calls are the text that was sent."""
        texts = self._interaction.texts_of_arguments() if self._interaction is not None else []
        calls = data.tool_calls or []
        if len(texts) != len(calls):
            return
        for call, text in zip(calls, texts, strict=True):
            if text is not None and call.function is not None:
                call.function.arguments = text


def _is_envelope(event: JSON, inner: JSON) -> bool:
    """Whether a chunk is wrapped, as Gemini Code Assist and batch results do."""
    return event.keys().isdisjoint(KNOWN - {"error"}) and not inner.keys().isdisjoint(KNOWN)


def _settled(candidate: JSON) -> JSON:
    """Without the token to go on with from an earlier chunk, if the answer has ended for good."""
    if enum_name(candidate.get("finishReason"), FINISH_REASONS) not in (None, CONTINUATION):
        candidate.pop("continuationToken", None)
    return candidate


def _awaits_a_result(content: Any) -> bool:
    """Whether the last part asks a tool that runs at Google's for its result, which comes in the same stream."""
    parts = content.get("parts") if isinstance(content, Mapping) else None
    last = parts[-1] if isinstance(parts, list | tuple) and parts else None
    return isinstance(last, Mapping) and ("executableCode" in last or "toolCall" in last)


def _parts_cell(candidate: Fields) -> Parts | None:
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, Fields) else None
    return parts if isinstance(parts, Parts) else None


def _plain_argument(part: Mapping[str, Any], parts: Parts) -> Text | None:
    """Where the one string of a part goes that is only the next piece of an argument; None for any other part."""
    call, current = part.get("functionCall"), parts.last_call
    if len(part) != 1 or not isinstance(call, dict) or current is None or not current.open:
        return None
    partials = call.get("partialArgs")
    if call.keys() - {"id", "partialArgs", "willContinue"} or not isinstance(partials, list) or len(partials) != 1:
        return None
    partial = partials[0]
    if not isinstance(partial, dict) or not isinstance(partial.get("stringValue"), str):
        return None
    return current.args.text_at(partial.get("jsonPath"))


def _brings(parts: Any) -> int:
    """What the model put out in these parts."""
    flags = 0
    for part in objects_in(parts):
        if text_of(part):
            flags |= OUTPUT if part.get("thought") else OUTPUT | CONTENT
        elif isinstance(part.get("text"), str) and "audioTranscription" not in part:
            continue
        elif part.get("inlineData") or part.get("fileData"):
            flags |= OUTPUT if part.get("thought") else OUTPUT | CONTENT
        elif any(value for key, value in part.items() if key not in ("thought", "thoughtSignature")):
            flags |= OUTPUT
    return flags
