"""The logging plugin: one row of the log store for each request, however it ended."""

from streamfold.plugins.logging.config import LoggingConfig
from streamfold.plugins.logging.plugin import LoggingPlugin

__all__ = ["LoggingConfig", "LoggingPlugin"]
