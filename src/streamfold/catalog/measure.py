"""What a response used, in the units that are billed.

`TokenUsage` counts for the reader: prompt tokens include what came from a cache, completion tokens include reasoning.
A bill needs parts that do not overlap. `measure` makes them, from the record and from what only the native response
says: Cohere's billed units, the sub-requests of Anthropic's server-side loops (each billed as a request of its own,
some on another model), which cached tokens were audio, what tools ran.

Counts that contradict each other are not mended: a usage that cannot be is `InvalidUsageError`, and has no price.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from streamfold.catalog.names import names_of
from streamfold.types import JSON, AccumulatedData, StreamType, TokenUsage

__all__ = ["InvalidUsageError", "Part", "Used", "measure", "usage_in"]


class InvalidUsageError(ValueError):
    """The counts of a usage contradict each other; the message says how."""


class Part(msgspec.Struct, kw_only=True):
    """Tokens of one request to one model. All counts but `prompt` and `completion` are of parts that do not overlap.

    `model` is the model of a sub-request if it was another one. `prompt` and `completion` are None if nobody said.
    """

    label: str = ""
    model: str | None = None
    prompt: int | None = None
    completion: int | None = None
    cached_read: int = 0
    cached_audio: int = 0
    cached_image: int = 0
    cached_write: int = 0
    cached_write_5m: int = 0
    cached_write_1h: int = 0
    input_audio: int = 0
    input_image: int = 0
    reasoning: int = 0
    output_audio: int = 0
    output_image: int = 0

    @property
    def input(self) -> int:
        """Prompt tokens that are none of the special kinds."""
        special = self.cached_read + self.cached_audio + self.cached_image + self.input_audio + self.input_image
        return max(0, (self.prompt or 0) - special - self.cached_write - self.cached_write_5m - self.cached_write_1h)

    @property
    def output(self) -> int:
        """Completion tokens that are none of the special kinds."""
        return max(0, (self.completion or 0) - self.reasoning - self.output_audio - self.output_image)


class Used(msgspec.Struct, kw_only=True):
    """Everything that one response may be billed for."""

    kind: StreamType
    parts: list[Part] = []
    tools: dict[str, float] = {}
    """Server-side tools by component, and what is no component by the name it was said under."""
    search_size: str = "medium"
    seconds: float | None = None
    characters: int | None = None
    pictures: int = 0
    size: str | None = None
    quality: str | None = None
    tier: str | None = None
    doubts: list[str] = []
    """Why the counts may be less than what was used, or the rates others than the listed ones."""


STANDARD_TIERS: Final = frozenset({"default", "standard", "auto", "on_demand", "standard_only"})
TIERS: Final = {"batches": "batch"}

TOOLS: Final = {
    "web_search_requests": "web_search",
    "web_search_calls": "web_search",
    "web_search": "web_search",
    "x_search_calls": "x_search",
    "file_search_calls": "file_search",
    "document_search_calls": "file_search",
    "search_units": "search_unit",
    "code_interpreter_calls": "code_session",
}
"""The component of a tool's count, by the names that providers give it."""

FREE: Final = frozenset({"web_fetch_requests", "mcp_calls", "connector_tokens", "tool_search_requests"})
"""Tool counts for which no provider bills more than the tokens they bring."""


def measure(data: AccumulatedData, request: Mapping[str, Any] | None = None) -> Used:
    """What `data` used. `request` is the body that was sent; speech and pictures are billed by what it says.

    Raises `InvalidUsageError` for counts that contradict each other.
    """
    response: JSON = data.response or {}
    used = Used(kind=data.stream_type)
    used.parts = list(_parts(data, response))
    used.tools = _tools(data, response)
    used.search_size = _search_size(response, request or {})
    used.seconds = _seconds(data)
    used.characters = _characters(data, request or {})
    _measure_pictures(used, data, request or {})
    usage = usage_in(response)
    tier = _tier(usage.get("speed")) or _tier(data.service_tier)
    used.tier = tier
    if usage.get("inference_geo") == "us":
        used.doubts.append("inference_geo us costs more than the listed rates")
    if used.parts and _is_cut_off(data):
        used.doubts.append("the stream ended before its last usage")
    return used


def usage_in(response: Mapping[str, Any]) -> Mapping[str, Any]:
    """The native usage, an empty one if there is none."""
    found = response.get("usage")
    return found if isinstance(found, Mapping) else {}


def _is_cut_off(data: AccumulatedData) -> bool:
    return data.status not in ("success", "processing") and data.raw_finish_reason is None


def _tier(said: Any) -> str | None:
    """A service tier that is not the standard one."""
    tier = said.lower() if isinstance(said, str) else ""
    return None if not tier or tier in STANDARD_TIERS else TIERS.get(tier, tier)


# ---------------------------------------------------------------------- tokens


def _parts(data: AccumulatedData, response: JSON) -> Iterator[Part]:
    usage = data.token_usage
    if usage is None or usage.source in ("missing", "estimated"):
        return
    native = usage_in(response)
    iterations = native.get("iterations")
    if isinstance(iterations, list) and iterations and all(isinstance(each, Mapping) for each in iterations):
        from streamfold.wire.anthropic_messages import anthropic_usage

        # The totals leave out compactions and advisors, and their sum says nothing of each request's length.
        for place, each in enumerate(iterations):
            part = _part(anthropic_usage(each), each, data.stream_type)
            part.label = f"iterations[{place}]."
            part.model = each["model"] if isinstance(each.get("model"), str) else None
            yield part
        return
    billed = _billed_units(response)
    if billed is not None:
        yield billed
    elif usage.prompt_tokens is not None or usage.completion_tokens is not None:
        yield _part(usage, native or response.get("usageMetadata") or {}, data.stream_type)
    elif usage.total_tokens is not None:
        raise InvalidUsageError("only a total of tokens was said, which has no price")


def _billed_units(response: JSON) -> Part | None:
    """The tokens that Cohere bills, which leave out those of its own preamble."""
    for place in ("usage", "meta"):
        found = response.get(place)
        billed = found.get("billed_units") if isinstance(found, Mapping) else None
        if isinstance(billed, Mapping):
            prompt, completion = _whole(billed.get("input_tokens")), _whole(billed.get("output_tokens"))
            if prompt is not None or completion is not None:
                return Part(prompt=prompt, completion=completion)
    return None


def _part(usage: TokenUsage, native: Any, kind: StreamType) -> Part:
    _check(usage)
    inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
    part = Part(prompt=usage.prompt_tokens, completion=usage.completion_tokens)
    room = part.prompt or 0
    if inputs is not None:
        written = _count(inputs.cached_write_tokens)
        part.cached_write_1h = min(room, _count(inputs.cached_write_1h_tokens))
        part.cached_write_5m = min(room - part.cached_write_1h, _count(inputs.cached_write_5m_tokens))
        part.cached_write = max(0, written - part.cached_write_1h - part.cached_write_5m)
        read = _count(inputs.cached_read_tokens)
        kinds = _cached_kinds(native)
        part.cached_audio = min(read, kinds.get("audio", 0))
        part.cached_image = min(read - part.cached_audio, kinds.get("image", 0))
        part.cached_read = read - part.cached_audio - part.cached_image
        room -= read + part.cached_write_1h + part.cached_write_5m + part.cached_write
        # What was cached is counted by its kind as well. Without a word on which, text is taken to be cached first.
        part.input_audio = min(room, max(0, _count(inputs.audio_tokens) - part.cached_audio))
        part.input_image = min(room - part.input_audio, max(0, _count(inputs.image_tokens) - part.cached_image))
    room = part.completion or 0
    if outputs is not None:
        part.output_audio = min(room, _count(outputs.audio_tokens))
        part.output_image = min(room - part.output_audio, _count(outputs.image_tokens))
        part.reasoning = min(room - part.output_audio - part.output_image, _count(outputs.reasoning_tokens))
    if kind is StreamType.IMAGE_GENERATION and (outputs is None or outputs.image_tokens is None):
        part.output_image = part.output  # the API makes pictures and nothing else
    return part


def _check(usage: TokenUsage) -> None:
    inputs = usage.prompt_tokens_details
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        if (getattr(usage, name) or 0) < 0:
            raise InvalidUsageError(f"{name} is {getattr(usage, name)}")
    if inputs is None or usage.prompt_tokens is None:
        return
    cached = _count(inputs.cached_read_tokens) + max(
        _count(inputs.cached_write_tokens),
        _count(inputs.cached_write_5m_tokens) + _count(inputs.cached_write_1h_tokens),
    )
    if cached > usage.prompt_tokens:
        raise InvalidUsageError(f"{cached} cached tokens in a prompt of {usage.prompt_tokens}")


def _cached_kinds(native: Any) -> dict[str, int]:
    """Cached tokens by kind, where the provider tells: OpenAI by name, Google in a list."""
    if not isinstance(native, Mapping):
        return {}
    for key in ("prompt_tokens_details", "input_tokens_details", "input_token_details"):
        details = native.get(key)
        kinds = details.get("cached_tokens_details") if isinstance(details, Mapping) else None
        if isinstance(kinds, Mapping):
            return {kind: _whole(kinds.get(f"{kind}_tokens")) or 0 for kind in ("audio", "image")}
    found: dict[str, int] = {}
    listed = native.get("cacheTokensDetails")
    for entry in listed if isinstance(listed, list) else ():
        kind = entry.get("modality") if isinstance(entry, Mapping) else None
        if isinstance(kind, str):
            found[kind.lower()] = found.get(kind.lower(), 0) + (_whole(entry.get("tokenCount")) or 0)
    return found


def _count(value: int | None) -> int:
    """A count of a part; a negative one is clamped."""
    return max(0, value or 0)


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**15:
        return None
    return int(value)


# ---------------------------------------------------------------------- tools


def _tools(data: AccumulatedData, response: JSON) -> dict[str, float]:
    found: dict[str, float] = {}
    said = data.token_usage.server_tool_use if data.token_usage is not None else None
    for name, value in (said or {}).items():
        if (units := _units(value)) > 0 and name not in FREE:
            component = TOOLS.get(name, name)
            found[component] = found.get(component, 0) + units
    if data.stream_type is StreamType.RESPONSES:
        for component, units in _tools_in_items(data.output_messages or []).items():
            found.setdefault(component, units)
    # Google bills Gemini 2 by the grounded prompt, later models by the query.
    if "web_search" in found and _is_early_gemini(data.response_model or data.model or ""):
        found["web_search"] = 1
    return found


def _is_early_gemini(model: str) -> bool:
    return any(name.startswith(("gemini-1", "gemini-2")) for name in names_of(model))


def _units(value: Any) -> float:
    """A count, however it is wrapped: a number, an object with one, an object of counts."""
    if isinstance(value, Mapping):
        for key in ("num_requests", "requests", "count", "total_tokens"):
            if key in value:
                return _units(value[key])
        return sum(_units(each) for each in value.values())
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**15:
        return 0
    return value


def _tools_in_items(items: list[JSON]) -> dict[str, float]:
    """Tool runs that a Responses answer shows as items. Only searches are billed, not opening a page that was found."""
    searches = files = 0
    containers = set()
    for item in items:
        kind, action = item.get("type"), item.get("action")
        searches += kind == "web_search_call" and (
            not isinstance(action, Mapping) or action.get("type") in (None, "search")
        )
        files += kind == "file_search_call"
        if kind == "code_interpreter_call":
            containers.add(str(item.get("container_id")))
    found: dict[str, float] = {"web_search": searches, "file_search": files, "code_session": len(containers)}
    return {component: units for component, units in found.items() if units}


def _search_size(response: JSON, request: Mapping[str, Any]) -> str:
    """How much context a web search brings, which some lists price: as the answer repeats it, then as was asked."""
    for body in (response, request):
        options = body.get("web_search_options")
        tools = body.get("tools")
        for place in (options, *(tools if isinstance(tools, list) else ())):
            size = place.get("search_context_size") if isinstance(place, Mapping) else None
            if size in ("low", "medium", "high"):
                return str(size)
    return "medium"


# ---------------------------------------------------------------------- sound and pictures


def _seconds(data: AccumulatedData) -> float | None:
    """Seconds of audio: as billed, else as long as the transcription says the audio was."""
    said = data.token_usage.seconds if data.token_usage is not None else None
    if said is None and data.transcription_output is not None:
        said = data.transcription_output.get("duration")
        if isinstance(said, str):
            try:
                said = float(said)
            except ValueError:
                return None
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said < 10**9:
        return None
    return float(said)


def _characters(data: AccumulatedData, request: Mapping[str, Any]) -> int | None:
    """Characters that were to be spoken. Only the request knows them."""
    text = request.get("input")
    return len(text) if data.stream_type is StreamType.AUDIO_SPEECH and isinstance(text, str) else None


def _measure_pictures(used: Used, data: AccumulatedData, request: Mapping[str, Any]) -> None:
    if data.stream_type is not StreamType.IMAGE_GENERATION:
        images = data.output_message.images if data.output_message is not None else None
        used.pictures = len(images or ())
        return
    output = data.image_generation_output or {}
    pictures = [each for each in output.get("images", ()) if "error" not in each]
    used.pictures = len(pictures)
    first = pictures[0] if pictures else {}
    used.size, used.quality = (
        next((said for body in (output, first, request) if isinstance(said := body.get(key), str) and said), None)
        for key in ("size", "quality")
    )
