"""The plugin of `examples/`, as a user would write, configure and load it."""

from __future__ import annotations

import ast
import csv
import re
import shutil
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from crash import serving
from scripted import ask
from streamfold.gateway.scenes import ANSWER, play_all
from streamfold.gateway.scripted import ScriptedUpstream
from streamfold.store import LogStore

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "cost_sheet.py"
PATH = "/v1/chat/completions"
JSON = [("content-type", "application/json"), ("x-streamfold-meta-team", "ads")]
ENTRY_POINTS = "[streamfold.plugins]\ncost-sheet = cost_sheet:CostSheet\n"
SECTION = '[plugins.{name}]\npath = "costs.csv"\nteam = "search"\n'


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the path of new processes, with the example in it, registered as an installed package is."""
    site = tmp_path / "site"
    about = site / "cost_sheet-1.0.dist-info"
    about.mkdir(parents=True)
    shutil.copy(EXAMPLE, site)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: cost-sheet\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.setenv("PYTHONPATH", str(site))
    return site


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", ['"cost_sheet:CostSheet"', "cost-sheet"], ids=["import path", "entry point"])
async def test_served(tmp_path: Path, name: str) -> None:
    """Named in the configuration of `streamfold serve`, it writes a line per response, streamed or not, good or bad."""
    (tmp_path / "g.toml").write_text(SECTION.format(name=name))
    async with ScriptedUpstream() as upstream:
        play_all(upstream, 0)
        flags = ["--config", "g.toml", "--upstream", f"openai={upstream.url}", "--db", "log.db"]
        async with serving(tmp_path, *flags) as (process, address):
            bodies = []
            for more in ({"stream": True}, {"stream": False}):
                asked = msgspec.json.encode({"model": "gpt-4o-mini", "messages": [], **more})
                bodies.append((await ask(address, "POST", "/openai" + PATH, JSON, asked)).body.decode())
            missing = await ask(address, "POST", "/openai/v1/nothing/completions", JSON[:1], b"{}")
            process.send_signal(signal.SIGTERM)
            await process.communicate()

    with (tmp_path / "costs.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    with LogStore.open_existing(str(tmp_path / "log.db")) as store:
        rows = store.rows()[::-1]
    assert [ANSWER in body for body in bodies] == [False, True]  # one is in pieces
    assert missing.status == 404
    assert [line[1:5] for line in lines] == [
        ["ads", "gpt-4o-mini", "success", "39"],
        ["ads", "gpt-4o-mini", "success", "39"],
        ["search", "", "error", ""],
    ]
    assert [line[5] for line in lines] == ["" if row.cost is None else str(row.cost) for row in rows]
    assert float(lines[0][5]) > 0


@pytest.mark.usefixtures("site")
async def test_mistakes_stop_the_start(tmp_path: Path) -> None:
    """A wrong key of its section is told by its name, with the one that was meant."""
    (tmp_path / "g.toml").write_text(SECTION.format(name="cost-sheet").replace("path", "pth"))
    with pytest.raises(AssertionError, match=r'plugins\.cost-sheet\.pth"; did you mean "path"'):
        async with serving(tmp_path, "--config", "g.toml", "--db", "log.db"):
            pass


def test_it_is_as_short_as_it_is_said_to_be() -> None:
    """`docs/plugins.md` shows the class of the file, word for word; the whole of it is some twenty lines."""
    source = EXAMPLE.read_text()
    shown = re.search(
        r"```python no-run\n(class CostSheet.*?)```", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL
    )
    assert shown is not None
    assert source.endswith("\n\n\n" + shown[1])
    code = [line for line in source.splitlines() if line.strip()]
    assert len(code) <= 20
    imported = {
        name.name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in getattr(node, "names", ())
        if isinstance(node, ast.Import)
    }
    assert imported - sys.stdlib_module_names == {"msgspec"}
