"""The prices of the `genai-prices` package, read into `ModelPrices`.

The package is a snapshot of public price lists: no network is used here, and `UpdatePrices`, its fetcher, is never
started (a program that starts it itself gets the newer prices here too). Importing it takes the better part of a
second, so it is imported when the first price is asked for, or when `warm` says so.

Its own calculator is not used. It answers one sum; a bill that can be audited needs each component with its rate, the
same rules must hold for override files, and it holds every model name it was ever asked about, which here come from
strangers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from threading import Lock
from typing import Any, Final

from streamfold.catalog.names import names_of
from streamfold.catalog.rates import Limits, ModelPrices, Rate

__all__ = ["Dataset", "NotInstalledError"]

KEYS: Final[dict[str, tuple[str, int]]] = {
    "input_mtok": ("input", 1_000_000),
    "output_mtok": ("output", 1_000_000),
    "cache_read_mtok": ("cached_read", 1_000_000),
    "cache_write_mtok": ("cached_write", 1_000_000),
    "cache_write_5m_mtok": ("cached_write_5m", 1_000_000),
    "cache_write_1h_mtok": ("cached_write_1h", 1_000_000),
    "input_audio_mtok": ("input_audio", 1_000_000),
    "input_image_mtok": ("input_image", 1_000_000),
    "cache_audio_read_mtok": ("cached_audio", 1_000_000),
    "cache_image_read_mtok": ("cached_image", 1_000_000),
    "output_audio_mtok": ("output_audio", 1_000_000),
    "output_image_mtok": ("output_image", 1_000_000),
    "output_reasoning_mtok": ("reasoning", 1_000_000),
    "input_mchars": ("input_characters", 1_000_000),
    "audio_hours": ("input_seconds", 3600),
    "input_audio_hours": ("input_seconds", 3600),
    "output_audio_hours": ("output_seconds", 3600),
    "web_searches_kcount": ("web_search", 1000),
    "social_searches_kcount": ("x_search", 1000),
    "storage_searches_kcount": ("file_search", 1000),
    "code_executions_kcount": ("code_session", 1000),
    "rerank_searches_kcount": ("search_unit", 1000),
    "requests_kcount": ("request", 1000),
}
"""The data set's price keys: our component, and the number of units that its price is for."""

TIERS: Final = ("service_tier", "processing", "speed")
"""What a variant of the data set may depend on and a response tells: the tier by one name or another."""

ALIASES: Final = {
    "fireworks-ai": "fireworks",
    "fireworks_ai": "fireworks",
    "vertex": "google",
    "moonshot": "moonshotai",
}
FORMATS: Final = {
    "anthropic-messages": "anthropic",
    "bedrock-converse": "aws",
    "bedrock-invoke": "aws",
    "cohere": "cohere",
    "gemini": "google",
    "mistral": "mistral",
}
"""Whose prices hold for a format if nobody names the provider."""

MINIMUM_SECONDS: Final = {("groq", "whisper-large-v3"): 10.0, ("groq", "whisper-large-v3-turbo"): 10.0}
"""Groq bills no transcription shorter than ten seconds; the package keeps this in its code as well."""


REMEMBERED: Final = 1024
"""Models whose entries are remembered: a search goes through hundreds of patterns."""


class NotInstalledError(Exception):
    """The package is not there."""


class _Listed:
    """An entry of the data set in somebody's list, and the rates that were last read from it.

    They hold as long as the same of its prices and variants are in force; most have only one of them for ever.
    """

    def __init__(self, owner: Any, entry: Any, source: str) -> None:
        self._owner, self._entry, self._source = owner, entry, source
        # A tier of the provider whose model this is need not be one of the provider who serves it.
        self._variants = (entry.price_variants or ()) if any(entry is model for model in owner.models) else ()
        self._last: tuple[Any, list[Any], ModelPrices] | None = None

    def prices(self, at: datetime) -> ModelPrices:
        """The prices that held at a moment."""
        standard = self._entry.get_prices(at)
        variants = [each for each in self._variants if each.constraint is None or each.constraint.active(at)]
        last = self._last
        if last is None or last[0] is not standard or last[1] != variants:
            self._last = last = (standard, variants, self._read(standard, variants))
        return last[2]

    def _read(self, standard: Any, variants: list[Any]) -> ModelPrices:
        owner, entry = self._owner, self._entry
        rates = dict(_rates(standard))
        if owner.id == "google" and "input" in rates:
            # Google's list has one rate for text, image, video and audio wherever it does not name audio apart.
            rates.setdefault("input_audio", rates["input"])
        return ModelPrices(
            model=entry.id,
            provider=owner.id,
            source=self._source,
            rates=rates,
            variants=_tiers(variants),
            limits=Limits(context_window=entry.context_window),
            minimum_seconds=MINIMUM_SECONDS.get((owner.id, entry.id), 0),
        )


class Dataset:
    """Finds prices in the package's snapshot. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._package: Any = None
        self._name = "genai-prices"
        self._snapshot: Any = None
        self._entries: OrderedDict[tuple[str, str | None, str | None], _Listed | None] = OrderedDict()
        self._providers: dict[str, bool] = {}

    def load(self) -> Any:
        """The snapshot, imported on the first call. Raises `NotInstalledError`."""
        with self._lock:
            if self._package is None:
                try:
                    import genai_prices
                    from genai_prices import data_snapshot
                except ImportError:
                    raise NotInstalledError from None
                self._name = f"genai-prices {genai_prices.__version__}"
                self._package = data_snapshot
            snapshot = self._package.get_snapshot()
            if snapshot is not self._snapshot:
                self._snapshot = snapshot
                self._entries.clear()
                self._providers.clear()
            return snapshot

    def find(self, model: str, provider: str | None, format: str | None, at: datetime) -> ModelPrices | None:
        """The prices that held `at` a moment for a model of a provider. Raises `NotInstalledError`."""
        snapshot = self.load()
        key = (model, provider, format)
        with self._lock:
            known = key in self._entries
            found = self._entries.get(key)
        if not known:
            entry = _search(snapshot, model, provider, format)
            found = _Listed(*entry, self._name) if entry is not None else None
            with self._lock:
                self._entries[key] = found
                while len(self._entries) > REMEMBERED:
                    self._entries.popitem(last=False)
        return found.prices(at) if found is not None else None

    def knows_provider(self, provider: str) -> bool:
        """Whether the data set has prices of a provider. Raises `NotInstalledError`."""
        snapshot = self.load()
        known = self._providers.get(provider)
        if known is None:
            known = _provider(snapshot, provider) is not None
            if len(self._providers) < REMEMBERED:
                self._providers[provider] = known
        return known


def _search(snapshot: Any, model: str, provider: str | None, format: str | None) -> tuple[Any, Any] | None:
    """The provider and the entry of a model."""
    for owner, known_as in _owners(snapshot, model, provider, format):
        for name in names_of(known_as):
            entry = owner.find_model(name, all_providers=snapshot.providers)
            if entry is not None:
                return owner, entry
    return None


def _owners(snapshot: Any, model: str, provider: str | None, format: str | None) -> Iterator[tuple[Any, str]]:
    """The providers in whose lists a model is looked for, each with the name it goes by there."""
    if provider is None and format in FORMATS:
        provider = FORMATS[format]
    if provider is not None:
        if (named := _provider(snapshot, provider)) is not None:
            yield named, model
        return
    prefix, slash, rest = model.partition("/")
    if slash and (named := _provider(snapshot, prefix)) is not None:
        yield named, rest
    for each in snapshot.providers:
        if each.model_match is not None and each.model_match.is_match(model.lower()):
            yield each, model


def _provider(snapshot: Any, provider: str) -> Any:
    name = provider.strip().lower()
    name = "azure" if name.startswith("azure") else ALIASES.get(name, name)
    for each in snapshot.providers:
        if each.id == name:
            return each
    for each in snapshot.providers:
        if each.provider_match is not None and each.provider_match.is_match(name):
            return each
    return None


def _rates(prices: Any) -> Iterator[tuple[str, Rate]]:
    for key, price in vars(prices).items():
        if price is None or key not in KEYS:
            continue
        component, units = KEYS[key]
        if isinstance(price, Decimal):
            yield component, Rate(price / units)
        else:
            steps = tuple((tier.start, tier.price / units) for tier in price.tiers)
            yield component, Rate(price.base / units, steps)


def _tiers(variants: list[Any]) -> dict[str, dict[str, Rate]]:
    found: dict[str, dict[str, Rate]] = {}
    for variant in variants:
        if len(variant.when) != 1 or next(iter(variant.when)) not in TIERS:
            continue
        rates = found.setdefault(next(iter(variant.when.values())), {})
        for component, rate in _rates(variant.prices):
            rates.setdefault(component, rate)  # the first that speaks of a component holds
    return {tier: rates for tier, rates in found.items() if rates}
