"""Prices of one's own: a TOML or JSON file, or a mapping, that wins over the data set.

    ["gpt-4o"]
    input_cost_per_token = 2e-06
    output_cost_per_token = 8e-06

    ["acme/*"]
    input_cost_per_token = 1e-07

The fields are those of LiteLLM's `model_prices_and_context_window.json`, so that an entry of that file can be pasted.
A field is a name of `FIELDS`, perhaps with a threshold (`_above_200k_tokens`), perhaps with a service tier (`_flex`).

An entry replaces that of the data set whole. Merged, nobody could tell from the file what a model costs, and a rate
that the file leaves out would silently come from another list; so it is missing, and the cost says so (`complete:
false`).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, Final

from streamfold.catalog.rates import Limits, ModelPrices, Rate
from streamfold.errors import UsageError

__all__ = ["FIELDS", "Overrides", "read_overrides"]

FIELDS: Final[dict[str, tuple[str, int]]] = {
    "input_cost_per_token": ("input", 1),
    "output_cost_per_token": ("output", 1),
    "output_cost_per_reasoning_token": ("reasoning", 1),
    "cache_read_input_token_cost": ("cached_read", 1),
    "cache_creation_input_token_cost": ("cached_write", 1),
    "cache_creation_input_token_cost_above_1hr": ("cached_write_1h", 1),
    "cache_read_input_audio_token_cost": ("cached_audio", 1),
    "cache_read_input_image_token_cost": ("cached_image", 1),
    "input_cost_per_audio_token": ("input_audio", 1),
    "output_cost_per_audio_token": ("output_audio", 1),
    "input_cost_per_image_token": ("input_image", 1),
    "output_cost_per_image_token": ("output_image", 1),
    "input_cost_per_character": ("input_characters", 1),
    "output_cost_per_character": ("output_characters", 1),
    "input_cost_per_second": ("input_seconds", 1),
    "input_cost_per_audio_per_second": ("input_seconds", 1),
    "output_cost_per_second": ("output_seconds", 1),
    "input_cost_per_image": ("input_images", 1),
    "output_cost_per_image": ("output_images", 1),
    "input_cost_per_pixel": ("input_pixels", 1),
    "output_cost_per_pixel": ("output_pixels", 1),
    "input_cost_per_request": ("request", 1),
    "input_cost_per_query": ("search_unit", 1),
    "code_interpreter_cost_per_session": ("code_session", 1),
    "file_search_cost_per_1k_calls": ("file_search", 1000),
}
"""The price fields: our component, and the number of units that the price is for."""

SEARCH: Final = "search_context_cost_per_query"
SEARCH_SIZES: Final = {f"search_context_size_{size}": f"web_search_{size}" for size in ("low", "medium", "high")}
CONTEXT: Final = "max_input_tokens"
OUTPUT_LIMITS: Final = ("max_output_tokens", "max_tokens")
"""The second is LiteLLM's older name of the first."""
TIERS: Final = {"flex": "flex", "priority": "priority", "batches": "batch", "batch": "batch", "fast": "fast"}
LONGER: Final = ("priority",)
"""Tiers that a prompt above a threshold leaves: without a step of their own they take those of the standard rate."""

UNUSED: Final = frozenset({
    "litellm_provider", "mode", "source", "metadata", "deprecation_date", "annotation_cost_per_page",
    "ocr_cost_per_page",
    "computer_use_input_cost_per_1k_tokens", "computer_use_output_cost_per_1k_tokens",
    "file_search_cost_per_gb_per_day",
    "vector_store_cost_per_gb_per_day", "input_cost_per_video_per_second", "output_cost_per_video_per_second",
    "input_cost_per_token_cache_hit", "citation_cost_per_token", "max_query_tokens", "max_document_chunks_per_query",
    "max_tokens_per_document_chunk", "output_vector_size", "tool_use_system_prompt_tokens", "input_dbu_cost_per_token",
    "output_dbu_cost_per_token", "output_db_cost_per_token", "provider_specific_entry", "regional_processing_uplift",
    "cache_creation_input_audio_token_cost", "rpm", "tpm", "rpd", "comment", "prompt_caching_min_tokens", "aliases",
    "max_audio_length_hours", "max_audio_per_prompt", "max_images_per_prompt", "max_pdf_size_mb", "max_video_length",
    "max_videos_per_prompt",
})  # fmt: skip
"""Fields of LiteLLM's file that may stand here and say nothing about what is priced here."""
UNUSED_PREFIXES: Final = ("supports_", "supported_")

GRAMMAR: Final = re.compile(
    r"(?P<field>.+?)(?:_above_(?P<thousands>\d+)k_tokens)?(?:_(?P<tier>" + "|".join(TIERS) + "))?"
)
DEAREST_TOKEN: Final = Decimal("0.01")
"""Ten thousand dollars a million. Above it somebody wrote the price of a million tokens."""


class Overrides:
    """The entries of a file, by name and by pattern."""

    def __init__(self, entries: Mapping[str, ModelPrices]) -> None:
        names = {name.lower(): prices for name, prices in entries.items()}
        self._exact = {name: prices for name, prices in names.items() if not _is_pattern(name)}
        patterns = sorted((name for name in names if _is_pattern(name)), key=lambda name: (-len(name), name))
        self._patterns = [(_compiled(name), names[name]) for name in patterns]

    def find(self, names: list[str], provider: str | None) -> ModelPrices | None:
        """The entry for a model of these names, plainest last: exact before pattern, longest pattern first."""
        spelled = [form for name in names for form in ((f"{provider.lower()}/{name}", name) if provider else (name,))]
        for name in spelled:
            if name in self._exact:
                return self._exact[name]
        for pattern, prices in self._patterns:
            if any(pattern.fullmatch(name) for name in spelled):
                return prices
        return None


def read_overrides(source: str | PathLike[str] | Mapping[str, Any] | None) -> Overrides:
    """The overrides of a `.toml` or `.json` file, or of a mapping. Raises `UsageError` for any mistake in them."""
    if source is None:
        return Overrides({})
    where, models = ("", source) if isinstance(source, Mapping) else (f"{source}: ", _load(Path(source)))
    if not isinstance(models, Mapping):
        raise UsageError(f"{where}an override file is a table of models; this is a {type(models).__name__}")
    return Overrides({name: _entry(name, said, where) for name, said in models.items() if name != "sample_spec"})


def _load(path: Path) -> Any:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"cannot read the price file {path}: {reason.lower()}; check its name") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    try:
        if path.suffix == ".json":
            return json.loads(text, parse_float=Decimal)
        return tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML (name it .json if it is JSON)"
        raise UsageError(f"{path}: not valid {kind}: {error}") from None


def _entry(name: str, said: Any, where: str) -> ModelPrices:
    if not isinstance(said, Mapping):
        raise UsageError(f'{where}"{name}" must be a table of prices, such as input_cost_per_token = 2.5e-06')
    rates: dict[tuple[str | None, str], Decimal] = {}
    steps: dict[tuple[str | None, str], dict[int, Decimal]] = {}
    limits: dict[str, int] = {}
    for field, value in said.items():
        at = f'{where}"{name}": "{field}"'
        if field in (CONTEXT, *OUTPUT_LIMITS):
            limits[field] = _limit(value, at)
        elif field == SEARCH:
            rates.update({(None, part): rate for part, rate in _search_rates(value, at).items()})
        elif (place := _place(field, value, at)) is not None and value is not None:
            tier, component, threshold, units = place
            rate = _rate(field, value, at) / units
            if threshold is None:
                rates[tier, component] = rate
            else:
                steps.setdefault((tier, component), {})[threshold] = rate
    return _prices(name, rates, steps, limits, where)


def _place(field: str, value: Any, at: str) -> tuple[str | None, str, int | None, int] | None:
    """Tier, component, threshold and units that a field is about; None for one that says nothing here."""
    match = GRAMMAR.fullmatch(field)
    if match is not None and match["field"] in FIELDS:
        component, units = FIELDS[match["field"]]
        threshold = int(match["thousands"]) * 1000 if match["thousands"] else None
        return TIERS.get(match["tier"] or ""), component, threshold, units
    if field in UNUSED or field.startswith(UNUSED_PREFIXES):
        return None
    if isinstance(value, Mapping):
        raise UsageError(f'{at} is a table, not a price; put quotes around a model\'s name: ["gpt-4.1"]')
    alike = get_close_matches(field, [*FIELDS, SEARCH, CONTEXT, *OUTPUT_LIMITS], n=1)
    meant = f'did you mean "{alike[0]}"?' if alike else f"known are {', '.join(FIELDS)}"
    raise UsageError(f"{at} is no field of a price; {meant}")


def _prices(
    name: str,
    rates: dict[tuple[str | None, str], Decimal],
    steps: dict[tuple[str | None, str], dict[int, Decimal]],
    limits: dict[str, int],
    where: str,
) -> ModelPrices:
    for tier, component in steps:
        if (tier, component) not in rates and (None, component) not in rates:
            raise UsageError(f'{where}"{name}": a price above a threshold needs the price below it ({component})')
    standard: dict[str, Rate] = {}
    variants: dict[str, dict[str, Rate]] = {}
    for tier, component in sorted({*rates, *steps}, key=lambda place: (place[0] or "", place[1])):
        base = rates.get((tier, component), rates.get((None, component)))
        assert base is not None
        above = steps.get((tier, component)) or (steps.get((None, component)) if tier in LONGER else None) or {}
        rate = Rate(base, tuple(sorted(above.items())))
        (standard if tier is None else variants.setdefault(tier, {}))[component] = rate
    output = next((limits[field] for field in OUTPUT_LIMITS if field in limits), None)
    return ModelPrices(
        model=name,
        rates=standard,
        variants=variants,
        limits=Limits(context_window=limits.get(CONTEXT), max_output_tokens=output),
    )


def _search_rates(value: Any, at: str) -> dict[str, Decimal]:
    if not isinstance(value, Mapping):
        return {"web_search": _rate(SEARCH, value, at)}
    unknown = [size for size in value if size not in SEARCH_SIZES]
    if unknown:
        raise UsageError(f'{at} has no size "{unknown[0]}"; known are {", ".join(SEARCH_SIZES)}')
    found = {SEARCH_SIZES[size]: _rate(SEARCH, rate, at) for size, rate in value.items()}
    if found:
        found["web_search"] = found.get("web_search_medium", max(found.values()))
    return found


def _rate(field: str, value: Any, at: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise UsageError(f"{at} must be a number of dollars, not {type(value).__name__}")
    try:
        rate = Decimal(str(value))
    except InvalidOperation:
        raise UsageError(f"{at} must be a number of dollars, not {value!r}") from None
    if not rate.is_finite() or rate < 0:
        raise UsageError(f"{at} is {value}; a price is 0 or more")
    if "token" in field and rate > DEAREST_TOKEN:
        raise UsageError(f"{at} is {value} dollars for one token; for {value} dollars a million write {value}e-06")
    return rate


def _limit(value: Any, at: str) -> int:
    try:
        limit = int(value)
    except (TypeError, ValueError):
        limit = -1
    if isinstance(value, bool) or limit <= 0:
        raise UsageError(f"{at} must be a number of tokens above 0, not {value!r}")
    return limit


def _is_pattern(name: str) -> bool:
    return "*" in name or "?" in name


def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern where `*` is any text and `?` any character; all else is itself, also brackets."""
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
