"""Fixtures of several modules. Session-wide ones must be known here, or each module would start its own."""

import compileall
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import streamfold
from required import pytest_runtest_makereport
from servers import chdb_directory, database_url, postgres

# How long an example takes is the machine's affair: no test asserts a time, and CI shares its cores.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the package once: where Python may not write bytecode, each of the programs that tests start would."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(streamfold.__file__).parent, quiet=2)


__all__ = ["chdb_directory", "database_url", "postgres", "pytest_runtest_makereport"]
