"""Fixtures of several modules. Session-wide ones must be known here, or each module would start its own."""

import compileall
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import streamfold
from required import pytest_runtest_makereport
from servers import chdb_directory, database_url, postgres
from streamfold.wire import repeat

# How long an example takes is the machine's affair: no test asserts a time, and CI shares its cores.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the package once: where Python may not write bytecode, each of the programs that tests start would."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(streamfold.__file__).parent, quiet=2)


@pytest.fixture(scope="module", params=["native", "python"])
def frame_reader(request: pytest.FixtureRequest) -> Iterator[str]:
    """What reads frames that repeat, with native code and without: tests of what either may get wrong run twice."""
    if request.param == "native" and repeat.NATIVE is None:
        pytest.skip("compiler: the native part was not built here")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setattr(repeat, "NATIVE", None)
        yield request.param


__all__ = ["chdb_directory", "database_url", "frame_reader", "postgres", "pytest_runtest_makereport"]
