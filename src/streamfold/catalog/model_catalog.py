"""What a response costs, and how much a model takes: the one place that is asked.

The order of the rules is the order of `cost_of`: an answer out of a cache was not paid for again; what the provider
says it charged is the cost; everything else is a usage times the rates of the model that answered. Whoever does not
know says so: no cost is ever 0 because something was unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from os import PathLike
from typing import Any, Final

from streamfold.catalog.bill import Line, bill, cost_of_lines
from streamfold.catalog.dataset import REMEMBERED, Dataset, NotInstalledError
from streamfold.catalog.measure import InvalidUsageError, Used, measure, usage_in
from streamfold.catalog.names import names_of, picture_names
from streamfold.catalog.overrides import read_overrides
from streamfold.catalog.rates import Limits, ModelPrices
from streamfold.types import AccumulatedData, CacheDebug, Cost, StreamType
from streamfold.wire.usage import provider_cost

__all__ = ["ModelCatalog"]

LONGEST_NAME: Final = 512
"""Model names come from strangers; a longer one is none."""


class ModelCatalog:
    """Prices and limits of models, from a file of one's own and from the `genai-prices` data set.

    `overrides` is the path of a TOML or JSON file, or a mapping of the same shape; it wins over the data set. `at` is
    the moment whose prices hold, by default when each request was sent. No network is used. Safe to use from any
    thread.
    Raises `UsageError` for a mistake in the overrides.
    """

    def __init__(
        self, overrides: str | PathLike[str] | Mapping[str, Any] | None = None, *, at: datetime | None = None
    ) -> None:
        self._overrides = read_overrides(overrides)
        self._own = lru_cache(REMEMBERED)(self._search_own)
        self._dataset = Dataset()
        self._at = at if at is None or at.tzinfo is not None else at.replace(tzinfo=UTC)

    def warm(self) -> bool:
        """Loads the data set now, which takes about a second, rather than at the first response.

        Returns whether it is installed (`pip install streamfold[prices]`); without it only overrides have prices.
        """
        try:
            self._dataset.load()
        except NotInstalledError:
            return False
        return True

    def prices(
        self, model: str, provider: str | None = None, *, at: datetime | None = None, format: str | None = None
    ) -> ModelPrices | None:
        """The rates of a model, or None if nobody lists it. `format` stands in where the provider is not known."""
        return self._find([model], provider, format, at or self._at or datetime.now(UTC))

    def limits(self, model: str, provider: str | None = None, *, format: str | None = None) -> Limits:
        """How many tokens a model takes and gives, as far as the overrides or the data set say."""
        own = self._own(model, provider)
        listed = self._listed(model, provider, format, self._at or datetime.now(UTC))
        said = [prices.limits for prices in (own, listed) if prices is not None]
        return Limits(
            context_window=next((each.context_window for each in said if each.context_window), None),
            max_output_tokens=next((each.max_output_tokens for each in said if each.max_output_tokens), None),
        )

    def cost_of(
        self, data: AccumulatedData, request: Mapping[str, Any] | None = None
    ) -> tuple[Cost | None, str | None]:
        """The cost of a response, or None with the reason why there is none.

        `request` is the JSON body that was sent. Speech priced by the character and pictures priced by size cannot do
        without it; nothing else needs it.
        """
        cache = data.cache_debug
        if cache is not None and cache.cache_hit:
            return self._cost_of_hit(cache, data)
        stated = data.cost if data.cost is not None and data.cost.source == "provider" else None
        stated = stated or provider_cost(usage_in(data.response or {}))
        if stated is not None:
            return stated, None
        try:
            used = measure(data, request)
        except InvalidUsageError as fault:
            return None, f"invalid usage: {fault}"
        served = [name for name in (data.response_model, data.model) if name]
        if not served:
            return None, "no model"
        nothing_said = not (used.parts or used.tools or used.pictures or used.seconds is not None)
        if nothing_said and data.stream_type is not StreamType.AUDIO_SPEECH:
            return None, "no usage"
        at = self._moment(data)
        prices = self._find(served, data.provider, data.format, at, used)
        if prices is None:
            return None, "no usage" if nothing_said and used.characters is None else self._why_unknown(served, data)
        search = [self._embedding_line(cache, at)] if cache is not None and cache.model_used else []
        return bill(used, prices, lambda model: self._find([model], data.provider, data.format, at), search)

    # ------------------------------------------------------------------ caches

    def _cost_of_hit(self, cache: CacheDebug, data: AccumulatedData) -> tuple[Cost | None, str | None]:
        """What an answer out of a semantic cache cost: nothing, or the embedding that found it."""
        if cache.hit_type == "direct":
            origin = {"model": "semantic cache", "source": "direct hit"}
            return cost_of_lines([Line("cached_answer", "cached_answer", Decimal(1), Decimal(0))], origin, [])
        if cache.input_tokens is None or not cache.model_used:
            return None, "semantic cache hit: what its embedding used was not said"
        line = self._embedding_line(cache, self._moment(data))
        if line.rate is None:
            return None, f"semantic cache hit: no price known for its embedding model {cache.model_used}"
        return cost_of_lines([line], {"model": cache.model_used, "source": "semantic hit"}, [])

    def _embedding_line(self, cache: CacheDebug, at: datetime) -> Line:
        """What looking an answer up in a semantic cache cost, found or not."""
        prices = self._find([cache.model_used or ""], cache.provider_used, None, at)
        tokens = max(0, cache.input_tokens or 0)
        found = prices.find("input", tokens) if prices is not None else None
        rate = found.rate if found is not None and cache.input_tokens is not None else None
        return Line("cache_embedding", "cache_embedding", Decimal(tokens), rate)

    # ------------------------------------------------------------------ finding prices

    def _find(
        self, models: list[str], provider: str | None, format: str | None, at: datetime, used: Used | None = None
    ) -> ModelPrices | None:
        """The prices of the first of some models that has any: in the overrides first, then in the data set."""
        models = [model for model in models if len(model) <= LONGEST_NAME]
        pictures = used is not None and used.kind is StreamType.IMAGE_GENERATION
        for model in models:
            if used is not None and pictures:  # what strangers call a size is not remembered
                own = self._overrides.find(picture_names(model, used.size, used.quality), provider)
            else:
                own = self._own(model, provider)
            if own is not None and own.rates:
                return own
        for model in models:
            listed = self._listed(model, provider, format, at)
            if listed is not None:
                return listed
        return None

    def _search_own(self, model: str, provider: str | None) -> ModelPrices | None:
        return self._overrides.find(names_of(model), provider)

    def _listed(self, model: str, provider: str | None, format: str | None, at: datetime) -> ModelPrices | None:
        try:
            return self._dataset.find(model, provider, format, at)
        except NotInstalledError:
            return None

    def _why_unknown(self, models: list[str], data: AccumulatedData) -> str:
        wanted = f"no price known for {' or '.join(dict.fromkeys(models))}"[:LONGEST_NAME]
        try:
            if data.provider is not None and not self._dataset.knows_provider(data.provider):
                return f"{wanted}: the data set has no provider {data.provider}; give an override"
        except NotInstalledError:
            return f"{wanted}: install streamfold[prices] or give an override"
        return f"{wanted} of {data.provider}" if data.provider is not None else wanted

    def _moment(self, data: AccumulatedData) -> datetime:
        if self._at is not None:
            return self._at
        try:
            sent = datetime.fromisoformat(data.start_timestamp or "")
        except ValueError:
            return datetime.now(UTC)
        return sent if sent.tzinfo is not None else sent.replace(tzinfo=UTC)
