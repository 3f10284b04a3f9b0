"""What is skipped is told, and in CI a skip for want of a server is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.fixture(params=["sqlite", "postgresql"])
def database(request):
    if request.param == "postgresql":
        pytest.skip("PostgreSQL is not installed")

def test_rows(database): pass

def test_root():
    pytest.skip("root may write everywhere")
"""


@pytest.mark.parametrize(("required", "code"), [("", 0), ("PostgreSQL chdb", 1), ("chdb", 0)])
def test_a_skip_is_told_or_fails(tmp_path: Path, required: str, code: int) -> None:
    """A skip names its reason at the end of the run; for want of what is required it makes the run fail."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "TESTS_REQUIRE": required}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and they cost more than the run
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "required", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    assert done.returncode == code, done.stdout
    assert "root may write everywhere" in done.stdout
    assert "PostgreSQL is not installed" in done.stdout
    assert ("skipped, but TESTS_REQUIRE asks for it" in done.stdout) == (code == 1)
