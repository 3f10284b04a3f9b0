"""Makes a failure of a skip for want of something that must be there: in CI, the servers that CI installs.

`TESTS_REQUIRE` names them, such as "PostgreSQL chdb"; a test that is skipped with a reason that begins with one of
them fails. On a developer's machine it is not set, and `pytest -rs` lists what was skipped and why.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

REQUIRED = tuple(os.environ.get("TESTS_REQUIRE", "").split())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns the report of such a skip into that of a failure."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if REQUIRED and reason.startswith(REQUIRED):
            report.outcome = "failed"
            report.longrepr = f"skipped, but TESTS_REQUIRE asks for it: {reason}"
    return report
