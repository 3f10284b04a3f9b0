"""Puts the gateway's parts together: the log, the plugins, the prices, the figures.

All of it happens before the gateway listens, so that a mistake in the configuration stops the start.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from streamfold.catalog import ModelCatalog
from streamfold.gateway.config import Config
from streamfold.pipeline import Pipeline
from streamfold.plugins import load_plugin, load_plugins
from streamfold.plugins.logging import LoggingConfig, LoggingPlugin
from streamfold.settings import read_settings
from streamfold.store.log_store import LogStore

__all__ = ["Parts", "assemble", "open_log"]

LOGGING: Final = "logging"
PROMETHEUS: Final = "prometheus"


class Parts(NamedTuple):
    """What a gateway is put together from, besides its sockets."""

    pipeline: Pipeline
    catalog: ModelCatalog
    metrics: Callable[[str | None], tuple[bytes, str]] | None


def open_log(config: Config) -> LogStore:
    """The log that a configuration names. Raises `UsageError` if it cannot be used."""
    settings = logging_config(config)
    said = {"spill_dir": settings.spill_dir, "spill_bytes": settings.spill_bytes}
    return LogStore.open(config.db, **{name: value for name, value in said.items() if value is not None})  # type: ignore[arg-type]


def logging_config(config: Config) -> LoggingConfig:
    """The settings of the logging plugin, which is always there."""
    return read_settings(config.plugins.get(LOGGING, {}), LoggingConfig, at="plugins.logging.")


def assemble(config: Config, store: LogStore) -> Parts:
    """The plugins in their order, the log first. Raises `UsageError` for a mistake in the configuration."""
    catalog = ModelCatalog(config.prices)
    catalog.warm()
    plugins: list[Any] = [LoggingPlugin(logging_config(config), store=store, catalog=catalog)]
    others = {name: section for name, section in config.plugins.items() if name != LOGGING}
    if PROMETHEUS not in others and find_spec("prometheus_client") is not None:
        plugins.append(load_plugin(PROMETHEUS))
    plugins += load_plugins(others)
    limits = config.limits
    pipeline = Pipeline(plugins, hook_timeout=limits.hook_timeout_s, queue_size=limits.waiting_responses)
    prometheus = next((plugin for plugin in plugins if plugin.name == PROMETHEUS), None)
    if prometheus is None:
        return Parts(pipeline, catalog, None)
    _watch(prometheus, pipeline, store)
    return Parts(pipeline, catalog, prometheus.exposition)


def _watch(prometheus: Any, pipeline: Pipeline, store: LogStore) -> None:
    """What the plugins cannot know of themselves: how much waits, and what was lost."""
    watch = prometheus.watch
    watch("streamfold_log_rows_waiting", "Rows that are not in the log's database yet.", lambda: store.waiting)
    watch("streamfold_log_rows_dropped_total", "Rows of the log that were lost.", lambda: store.dropped)
    watch("streamfold_log_spilled_bytes", "Bytes of the files that rows wait in.", lambda: store.spilled_bytes)
    for place, plugin in enumerate(pipeline.plugins):
        name = plugin.name

        def status(place: int = place) -> Any:
            return pipeline.status()[place]

        watch(
            "streamfold_plugin_responses_waiting",
            "Complete responses that wait for a plugin.",
            lambda status=status: status().waiting,
            plugin=name,
        )
        watch(
            "streamfold_plugin_responses_dropped_total",
            "Complete responses that a plugin never got.",
            lambda status=status: status().dropped,
            plugin=name,
        )
        watch(
            "streamfold_plugin_errors_total",
            "What a plugin did wrong.",
            lambda status=status: sum(status().errors.values()),
            plugin=name,
        )
