"""Fixtures of several modules. Session-wide ones must be known here, or each module would start its own."""

from required import pytest_runtest_makereport
from servers import chdb_directory, database_url, postgres

__all__ = ["chdb_directory", "database_url", "postgres", "pytest_runtest_makereport"]
