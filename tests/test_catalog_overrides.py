"""Prices of one's own: which entry holds, and what a mistake in the file says."""

import json

import pytest

from streamfold.catalog import ModelCatalog
from streamfold.errors import UsageError


def flat(dollars):
    return {"input_cost_per_token": dollars, "output_cost_per_token": dollars}


TABLE = {
    "gpt-4o": flat(1e-06),
    "openai/gpt-4o": flat(2e-06),
    "gpt-4o*": flat(3e-06),
    "gpt-*": flat(4e-06),
    "acme/*": flat(5e-06),
    "acme/fast-?": flat(6e-06),
    "claude-sonnet-4-5": flat(7e-06),
    "[odd]*": flat(8e-06),
    "anthropic.claude-*": flat(9e-06),
}

MATCHES = {
    "exact": ("gpt-4o", None, 1e-06),
    "exact under its provider": ("gpt-4o", "openai", 2e-06),
    "exact, other provider": ("gpt-4o", "azure", 1e-06),
    "any case": ("GPT-4o", "OpenAI", 2e-06),
    "a date is no other model": ("gpt-4o-2024-08-06", None, 1e-06),
    "the longer pattern": ("gpt-4o-mini", None, 3e-06),
    "the shorter pattern": ("gpt-3.5-turbo", None, 4e-06),
    "pattern under a provider": ("anything", "acme", 5e-06),
    "pattern over the whole name": ("acme/anything", None, 5e-06),
    "one character": ("fast-1", "acme", 6e-06),
    "not one character": ("fast-10", "acme", 5e-06),
    "Bedrock's name": ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock", 7e-06),
    "pattern over Bedrock's name": ("us.anthropic.claude-opus-4-1-20250805-v1:0", "bedrock", 9e-06),
    "Vertex AI's name": ("publishers/anthropic/models/claude-sonnet-4-5@20250929", "vertex", 7e-06),
    "brackets are letters": ("[odd]one", None, 8e-06),
}


@pytest.mark.parametrize(("model", "provider", "dollars"), MATCHES.values(), ids=MATCHES)
def test_which_entry_holds(model, provider, dollars):
    """Exact beats pattern, longer beats shorter, and a name is known in all the ways it is written."""
    prices = ModelCatalog(TABLE).prices(model, provider)
    assert float(prices.rates["input"].base) == dollars
    assert prices.source == "override"


def test_an_override_beats_the_data_set():
    """An entry replaces that of the data set whole; models it does not name keep the data set's."""
    catalog = ModelCatalog({"gpt-4o": {"input_cost_per_token": 1e-06}})
    assert list(catalog.prices("gpt-4o", "openai").rates) == ["input"]
    assert catalog.prices("gpt-4o-mini", "openai").source.startswith("genai-prices ")


def test_limits_come_from_wherever_they_are_known():
    """An entry without prices only sets limits, and what it leaves out comes from the data set."""
    catalog = ModelCatalog({"gpt-4o": {"max_output_tokens": 16_384}})
    assert catalog.prices("gpt-4o", "openai").source.startswith("genai-prices ")
    limits = catalog.limits("gpt-4o", "openai")
    assert (limits.context_window, limits.max_output_tokens) == (128_000, 16_384)
    assert catalog.limits("nobody-knows-me").max_output_tokens is None


TOML = """\
["gpt-4o*"]
input_cost_per_token = 2.5e-06
output_cost_per_token = 1e-05
input_cost_per_token_above_200k_tokens = 5e-06
supports_vision = true
"""


def test_a_toml_and_a_json_file_say_the_same(tmp_path):
    """The two spellings of a file give the same prices, without a rounding."""
    (tmp_path / "prices.toml").write_text(TOML)
    entry = {
        "input_cost_per_token": 2.5e-06,
        "output_cost_per_token": 1e-05,
        "input_cost_per_token_above_200k_tokens": 5e-06,
        "litellm_provider": "openai",
        "output_cost_per_token_flex": None,
    }
    (tmp_path / "prices.json").write_text(json.dumps({"sample_spec": {"anything": 1}, "gpt-4o*": entry}))
    first = ModelCatalog(tmp_path / "prices.toml").prices("gpt-4o")
    assert first == ModelCatalog(str(tmp_path / "prices.json")).prices("gpt-4o")
    assert str(first.rates["input"].base) == "0.0000025"
    assert first.rates["input"].at(200_000) == first.rates["input"].base
    assert str(first.rates["input"].at(200_001)) == "0.000005"


MISTAKES = {
    "a misspelt field": ({"m": {"input_cost_per_tokn": 1e-06}}, 'did you mean "input_cost_per_token"?'),
    "a field nobody knows": ({"m": {"zzz": 1}}, "known are input_cost_per_token"),
    "a negative price": ({"m": flat(-1)}, "a price is 0 or more"),
    "not a number": ({"m": {"input_cost_per_token": "much"}}, "must be a number of dollars, not 'much'"),
    "a truth value": ({"m": {"input_cost_per_token": True}}, "must be a number of dollars, not bool"),
    "infinite": ({"m": {"input_cost_per_token": "inf"}}, "a price is 0 or more"),
    "a price per million": ({"m": {"input_cost_per_token": 2.5}}, "for 2.5 dollars a million write 2.5e-06"),
    "no table": ({"m": 3}, "must be a table of prices"),
    "a name without quotes": ({"gpt-4": {"1": flat(1e-06)}}, "put quotes around a model's name"),
    "a limit that is none": ({"m": {"max_output_tokens": -3}}, "must be a number of tokens above 0"),
    "a step without a base": ({"m": {"input_cost_per_token_above_200k_tokens": 1e-06}}, "needs the price below it"),
    "an unknown size": ({"m": {"search_context_cost_per_query": {"huge": 1}}}, 'has no size "huge"'),
}


@pytest.mark.parametrize(("table", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_the_key_and_the_fix(table, told):
    """A mistake in the overrides is a `UsageError` at the start, which says where it is and what to write."""
    with pytest.raises(UsageError, match='"') as caught:
        ModelCatalog(table)
    assert told in str(caught.value)
    assert str(caught.value).startswith(f'"{next(iter(table))}"')


FILES = {
    "missing": ("none.toml", None, "cannot read the price file"),
    "not TOML": ("bad.toml", b"{", "not valid TOML (name it .json if it is JSON)"),
    "not JSON": ("bad.json", b"[", "not valid JSON"),
    "not UTF-8": ("bad.toml", b"\xff\xfe", "not UTF-8 text"),
    "no table": ("list.json", b"[1]", "an override file is a table of models"),
}


@pytest.mark.parametrize(("name", "content", "told"), FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_read(tmp_path, name, content, told):
    """A file that is missing or is not what it seems is named, with the reason."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        ModelCatalog(tmp_path / name)
    assert told in str(caught.value)
    assert name in str(caught.value)
