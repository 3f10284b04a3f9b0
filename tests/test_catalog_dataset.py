"""The data set: loaded late, without a network, and not there at all."""

import random
import subprocess
import sys
from datetime import UTC, datetime

from streamfold.catalog import ModelCatalog
from streamfold.catalog.dataset import Dataset


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


PRICE = """
from streamfold.catalog import ModelCatalog
from streamfold.types import AccumulatedData, TokenUsage
data = AccumulatedData(status="success", model="gpt-4o", provider="openai", raw_finish_reason="stop",
                       token_usage=TokenUsage(prompt_tokens=1000, completion_tokens=100, source="provider"))
"""


def test_importing_the_catalog_loads_no_data():
    """The data set, and pydantic and HTTP clients with it, is loaded by the first price or by `warm`."""
    code = "import sys; import streamfold.catalog; streamfold.catalog.ModelCatalog(); print('\\n'.join(sys.modules))"
    assert not {"genai_prices", "pydantic", "httpx2"} & set(run(code))
    assert "genai_prices" in run(code.replace("print(", "streamfold.catalog.ModelCatalog().warm(); print("))


def test_no_network_is_used():
    """Prices come from the installed package alone: not a socket is opened, not a name looked up."""
    code = f"""
import socket
def refuse(*args, **kwargs):
    raise SystemExit("a socket was used")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
{PRICE}
print(ModelCatalog().cost_of(data)[0].total_cost)
import threading
print(threading.active_count())
"""
    assert run(code) == ["0.0035", "1"]


def test_without_the_package_only_overrides_have_prices():
    """Without the extra a missing price says what to install, and overrides work."""
    code = f"""
import sys
sys.modules["genai_prices"] = None
{PRICE}
print(ModelCatalog().warm(), ModelCatalog().prices("gpt-4o"))
print(ModelCatalog().cost_of(data)[1])
prices = {{"gpt-4o": {{"input_cost_per_token": 1e-06, "output_cost_per_token": 0}}}}
print(ModelCatalog(prices).cost_of(data)[0].total_cost)
"""
    said = " ".join(run(code))
    assert said == ("False None no price known for gpt-4o: install streamfold[prices] or give an override 0.001")


def test_names_from_strangers_are_not_kept_for_ever():
    """However many models are asked for, only so many look-ups are remembered."""
    from streamfold.catalog.dataset import REMEMBERED

    catalog = ModelCatalog()
    for number in range(REMEMBERED + 50):
        assert catalog.prices(f"made-up-{number}", "mistral") is None
    assert len(catalog._dataset._entries) == REMEMBERED
    assert catalog._own.cache_info().currsize <= REMEMBERED


def test_a_remembered_model_is_read_once():
    """The second request of a model gets the very prices that the first got; another provider's are others."""
    catalog = ModelCatalog({"mine": {"input_cost_per_token": 1e-06}})
    assert catalog.prices("gpt-4o", "openai") is catalog.prices("gpt-4o", "openai")
    assert catalog.prices("mine", "openai") is catalog.prices("mine", "openai")
    assert catalog.prices("gpt-4o", "azure") is not catalog.prices("gpt-4o", "openai")


def test_remembered_prices_change_with_time():
    """A price that depends on the day or the hour is that of each moment, whatever was asked before."""
    remembers = ModelCatalog()
    snapshot = remembers._dataset.load()
    by_time = [
        (model.id, provider.id)
        for provider in snapshot.providers
        for model in provider.models
        if isinstance(model.prices, list) or any(each.constraint is not None for each in model.price_variants or ())
    ]
    moments = [
        datetime(year, month, 3, hour, 45, tzinfo=UTC)
        for year in (2024, 2025, 2026)
        for month in (1, 6, 11)
        for hour in (1, 12, 17)
    ]
    random.Random(5).shuffle(moments)
    changes = 0
    for model, provider in by_time:
        found = [remembers.prices(model, provider, at=at) for at in (*moments, *reversed(moments))]
        assert found == [_afresh(model, provider, at) for at in (*moments, *reversed(moments))]
        changes += any(one != found[0] for one in found)
    assert changes > 0


def _afresh(model, provider, at):
    dataset = Dataset()
    dataset.load()
    return dataset.find(model, provider, None, at)
