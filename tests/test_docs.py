"""The README and the pages of docs/: their examples run, their links lead somewhere, their tables are complete."""

import re
from pathlib import Path

import pytest

import streamfold

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""Blocks marked `python no-run` need a provider; all others are run."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page, monkeypatch):
    """The Python blocks of a page run from top to bottom, in the root of the project."""
    monkeypatch.chdir(ROOT)
    scope = {}
    for block in EXAMPLE.findall(page.read_text()):
        exec(compile(block, str(page), "exec"), scope)


def test_the_readme_shows_what_it_says(monkeypatch):
    """The figures that the README's first example prints are those of the example stream."""
    monkeypatch.chdir(ROOT)
    done = streamfold.fold((ROOT / "examples" / "weather.sse").read_bytes(), format="openai-chat")
    assert done.data.output_message.content == "Let me look at the sky over Zürich."
    assert [call.function.arguments for call in done.data.tool_calls] == [
        '{"city":"Zürich"}',
        '{"zone":"Europe/Zurich"}',
    ]
    assert (done.data.status, done.data.finish_reason) == ("success", "tool_calls")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Every relative link of a page names a file that exists."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_anomaly_code_is_documented():
    """Each code that the library can flag has its line in docs/anomalies.md, and the page names no other."""
    source = "\n".join(path.read_text() for path in (ROOT / "src" / "streamfold").rglob("*.py"))
    flagged = set(re.findall(r'flag\(\s*"([a-z0-9_]+)"', source)) | set(
        re.findall(r'anomalies\.append\("([a-z0-9_]+)"\)', source)
    )
    documented = set(re.findall(r"^\| `([a-z0-9_]+)`", (ROOT / "docs" / "anomalies.md").read_text(), re.MULTILINE))
    assert flagged - documented == set()
