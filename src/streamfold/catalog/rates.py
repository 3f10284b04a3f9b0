"""What a model costs, whoever said so: the rates of an override file and of the data set in one shape.

A usage is billed in *components*: text tokens, tokens read from a cache, seconds of audio, web searches. Each has a
`Rate` in dollars per single unit, because that is what can be multiplied without thinking; lists write per million,
per thousand or per hour. Money is `Decimal` up to the last step: a sum of floats is not the sum on the bill.

Two things make a rate depend on more than the component. The *length of the prompt*: above a threshold all tokens of
the request, output included, cost another rate (`Rate.steps`). And the *service tier* that was served: `variants`
holds the rates that differ there, and what it does not name costs the standard rate.

Not every list prices every component. A component without a rate of its own is billed as its parent (`PARENTS`): a
cached token as an input token, reasoning as output.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

__all__ = ["PARENTS", "Found", "Limits", "ModelPrices", "Rate", "is_input", "is_output"]

PARENTS: Final[dict[str, tuple[str, ...]]] = {
    "cached_read": ("input",),
    "cached_write": ("input",),
    "cached_write_5m": ("cached_write", "input"),
    "cached_write_1h": ("cached_write", "input"),
    "input_audio": ("input",),
    "input_image": ("input",),
    "cached_audio": ("cached_read", "input_audio", "input"),
    "cached_image": ("cached_read", "input_image", "input"),
    "reasoning": ("output",),
    "output_audio": ("output",),
    "output_image": ("output",),
    "web_search_low": ("web_search",),
    "web_search_medium": ("web_search",),
    "web_search_high": ("web_search",),
}
"""Whose rate stands in, nearest first."""


def is_input(component: str) -> bool:
    """Whether a component is part of what was sent."""
    return component.startswith(("input", "cached"))


def is_output(component: str) -> bool:
    """Whether a component is part of what was made."""
    return component.startswith("output") or component == "reasoning"


class Rate(msgspec.Struct, frozen=True):
    """Dollars per unit. `steps` are (threshold, rate), lowest first; each holds for prompts *longer* than it."""

    base: Decimal
    steps: tuple[tuple[int, Decimal], ...] = ()

    def at(self, prompt_tokens: int) -> Decimal:
        """The rate for a request with a prompt of this length."""
        rate = self.base
        for threshold, above in self.steps:
            if prompt_tokens > threshold:
                rate = above
        return rate


class Limits(msgspec.Struct, frozen=True):
    """How much a model takes and gives, in tokens; None where nobody says."""

    context_window: int | None = None
    max_output_tokens: int | None = None


class Found(NamedTuple):
    """A rate, and whether it is the component's own or its parent's."""

    rate: Decimal
    own: bool


class ModelPrices(msgspec.Struct, frozen=True):
    """The rates of one model, by component.

    `model` is the name of the entry they stand under, `provider` whose list it is, `source` where it was read:
    `override`, or the name and version of the data set. `variants` are the rates that differ in a service tier.
    """

    model: str
    provider: str | None = None
    source: str = "override"
    rates: dict[str, Rate] = {}
    variants: dict[str, dict[str, Rate]] = {}
    limits: Limits = Limits()
    minimum_seconds: float = 0
    """Audio shorter than this is billed as if it were this long."""

    def prices(self, component: str) -> bool:
        """Whether a component has a rate of its own."""
        return component in self.rates

    def find(self, component: str, prompt_tokens: int = 0, tier: str | None = None) -> Found | None:
        """The rate of a component in a service tier, its own or that of its nearest parent that has one."""
        variant = self.variants.get(tier, {}) if tier else {}
        for name in (component, *PARENTS.get(component, ())):
            rate = variant.get(name) or self.rates.get(name)
            if rate is not None:
                return Found(rate.at(prompt_tokens), own=name == component)
        return None
