"""What was used times what it costs, line by line.

`bill` decides by which unit a response is paid for: a model has either a price per second of audio or one for audio
tokens, per picture or for image tokens. Then each component that was used becomes a line `{units, rate, cost}`, and
the cost is the sum of the lines. What has no rate is a line without one, and makes the cost incomplete; so does what
was billed at the rate of something that is known to be cheaper.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from streamfold.catalog.measure import Part, Used
from streamfold.catalog.rates import ModelPrices, is_input, is_output
from streamfold.types import JSON, Cost, StreamType

__all__ = ["Line", "bill", "cost_of_lines", "lines_of"]

INPUT_PARTS: Final = (
    "input", "cached_read", "cached_write", "cached_write_5m", "cached_write_1h",
    "input_audio", "input_image", "cached_audio", "cached_image",
)  # fmt: skip
OUTPUT_PARTS: Final = ("output", "reasoning", "output_audio", "output_image")

DEARER: Final = frozenset({"cached_write_1h", "input_audio", "cached_audio", "output_audio", "output_image"})
"""Components that cost more than their parent wherever they have a price of their own."""


class Line(NamedTuple):
    """One component of a bill. `rate` is None if nobody says what it costs."""

    name: str
    component: str
    units: Decimal
    rate: Decimal | None
    doubt: str | None = None

    @property
    def cost(self) -> Decimal:
        return self.units * self.rate if self.rate is not None else Decimal(0)


def bill(
    used: Used, prices: ModelPrices, prices_of: Callable[[str], ModelPrices | None], beside: Sequence[Line] = ()
) -> tuple[Cost | None, str | None]:
    """The cost of what was used, or None with the reason.

    `prices_of` finds the prices of another model; `beside` is what was paid for elsewhere on behalf of the request.
    """
    lines = list(lines_of(used, prices, prices_of))
    if not lines:
        return None, _why_no_lines(used, prices)
    lines += beside
    doubts = list(used.doubts)
    if used.tier is not None and used.tier not in prices.variants:
        doubts.append(f"service tier {used.tier} has no rates of its own; these are the standard ones")
    return cost_of_lines(lines, _origin(prices, used), doubts)


def lines_of(used: Used, prices: ModelPrices, prices_of: Callable[[str], ModelPrices | None]) -> Iterator[Line]:
    """The lines of a bill. Components of which nothing was used have none, but a prompt and an answer always do."""
    paid_otherwise: set[str] = set()
    for line, instead_of in _other_units(used, prices):
        paid_otherwise |= instead_of
        yield line
    for part in used.parts:
        own = prices if part.model is None else prices_of(part.model)
        yield from _token_lines(part, own, used, paid_otherwise)
    for component, units in used.tools.items():
        name = f"web_search_{used.search_size}" if component == "web_search" else component
        found = prices.find(name)
        yield Line(component, component, _decimal(units), found.rate if found else None)
    if prices.prices("request") and (used.parts or paid_otherwise):
        yield _line("request", 1, prices)


def _other_units(used: Used, prices: ModelPrices) -> Iterator[tuple[Line, set[str]]]:
    """Lines in units other than tokens, each with the token components that it is paid instead of."""
    tokens = {name for part in used.parts for name in (*INPUT_PARTS, *OUTPUT_PARTS) if getattr(part, name) > 0}
    if used.characters is not None and prices.prices("input_characters"):
        yield _line("input_characters", used.characters, prices, used.tier), set(INPUT_PARTS)
    counted_as_audio = "input_audio" in tokens and prices.prices("input_audio")
    by_second = _dearest(("input_seconds", "output_seconds"), prices)
    if used.seconds is not None and by_second is not None and not counted_as_audio:
        seconds = max(used.seconds, prices.minimum_seconds) if used.seconds > 0 else 0
        text_costs = prices.prices("input") or prices.prices("output")
        instead = {"input_audio", "cached_audio"} if text_costs else {*INPUT_PARTS, *OUTPUT_PARTS}
        yield _line(by_second, seconds, prices, used.tier), instead
    if used.pictures and not ({"output_image"} & tokens and prices.find("output_image")):
        yield from _picture_lines(used, prices)


def _picture_lines(used: Used, prices: ModelPrices) -> Iterator[tuple[Line, set[str]]]:
    pictures_only = used.kind is StreamType.IMAGE_GENERATION
    instead = set(OUTPUT_PARTS) if pictures_only else {"output_image"}
    by_count = _dearest(("output_images", "input_images") if pictures_only else ("output_images",), prices)
    by_pixel = _dearest(("output_pixels", "input_pixels"), prices) if pictures_only else None
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", used.size or "")
    if by_count is not None:
        line = _line(by_count, used.pictures, prices, used.tier)
        yield line._replace(name="output_images", component="output_images"), instead
    elif by_pixel is not None and size is not None:
        line = _line(by_pixel, used.pictures * int(size[1]) * int(size[2]), prices, used.tier)
        yield line._replace(name="output_pixels", component="output_pixels"), instead


def _dearest(names: tuple[str, ...], prices: ModelPrices) -> str | None:
    """Which of two sides carries the price. LiteLLM's file has it on either, with nothing or the same on the other."""
    listed = [name for name in names if prices.prices(name)]
    return max(listed, key=lambda name: prices.rates[name].base, default=None)


def _token_lines(part: Part, prices: ModelPrices | None, used: Used, paid_otherwise: set[str]) -> Iterator[Line]:
    sides = ((part.prompt, "input", INPUT_PARTS), (part.completion, "output", OUTPUT_PARTS))
    for total, main, names in sides:
        wanted = [name for name in names if name not in paid_otherwise]
        if total is None and main in wanted and used.kind is not StreamType.AUDIO_TRANSCRIPTION:
            yield Line(part.label + main, main, Decimal(0), None, f"{main} tokens were not said")
            continue
        for name in wanted:
            units = getattr(part, name)
            if units == 0 and (name != main or total != 0):
                continue
            found = prices.find(name, part.prompt or 0, used.tier) if prices is not None else None
            if found is None:
                # Nothing at no price is nothing.
                yield Line(part.label + name, name, Decimal(units), None if units else Decimal(0))
                continue
            doubt = None
            if not found.own and name in DEARER and not _is_the_only_kind(name, used.kind):
                doubt = f"{name} has no rate of its own; this is that of a cheaper kind"
            yield Line(part.label + name, name, Decimal(units), found.rate, doubt)


def _is_the_only_kind(component: str, kind: StreamType) -> bool:
    """Whether a model of this kind makes nothing else, so that its only rate is for this."""
    return (component, kind) in (
        ("output_image", StreamType.IMAGE_GENERATION),
        ("output_audio", StreamType.AUDIO_SPEECH),
        ("input_audio", StreamType.AUDIO_TRANSCRIPTION),
    )


def cost_of_lines(lines: list[Line], origin: JSON, doubts: list[str]) -> tuple[Cost | None, str | None]:
    """The sum of the lines, or None with the reason if not one of them has a rate."""
    if all(line.rate is None for line in lines):
        missing = ", ".join(dict.fromkeys(line.doubt or f"no rate for {line.name}" for line in lines))
        return None, f"{missing} ({origin['model']}, {origin['source']})"
    unpriced = [line.doubt or f"no rate for {line.name}" for line in lines if line.rate is None]
    doubts = [*unpriced, *(line.doubt for line in lines if line.rate is not None and line.doubt), *doubts]
    details: JSON = {"priced_as": origin, "components": {line.name: _as_detail(line) for line in lines}}
    if doubts:
        details["incomplete"] = list(dict.fromkeys(doubts))
    sent = made = beside = Decimal(0)
    for line in lines:
        if is_input(line.component):
            sent += line.cost
        elif is_output(line.component):
            made += line.cost
        else:
            beside += line.cost
    return Cost(
        total_cost=float(sent + made + beside),
        input_cost=float(sent),
        output_cost=float(made),
        additional_cost=float(beside),
        details=details,
        source="catalog",
        complete=not doubts,
    ), None


def _as_detail(line: Line) -> JSON:
    units = int(line.units) if line.units == line.units.to_integral_value() else float(line.units)
    if line.rate is None:
        return {"units": units, "rate": None, "cost": None}
    return {"units": units, "rate": float(line.rate), "cost": float(line.cost)}


def _origin(prices: ModelPrices, used: Used) -> JSON:
    origin: JSON = {"model": prices.model, "source": prices.source}
    if prices.provider is not None:
        origin["provider"] = prices.provider
    if used.tier is not None:
        origin["service_tier"] = used.tier
    return origin


def _line(component: str, units: float, prices: ModelPrices, tier: str | None = None) -> Line:
    found = prices.find(component, 0, tier)
    return Line(component, component, _decimal(units), found.rate if found is not None else None)


def _decimal(value: float) -> Decimal:
    return Decimal(str(value))


def _why_no_lines(used: Used, prices: ModelPrices) -> str:
    if prices.prices("input_characters") and used.kind is StreamType.AUDIO_SPEECH:
        return "no usage: this model is priced by the characters of the request, which were not given"
    return "no usage"
