"""The data set: loaded late, without a network, and not there at all."""

import subprocess
import sys

from streamfold.catalog import ModelCatalog


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
