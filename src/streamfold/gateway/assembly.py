"""Puts the gateway's parts together: the log, the plugins, the prices, the figures.

All of it happens before the gateway listens, so that a mistake in the configuration stops the start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from streamfold.catalog import ModelCatalog
from streamfold.gateway.config import Config
from streamfold.gateway.delivery import encoded
from streamfold.gateway.figures import FIGURES, exposition_of_all, figures_of
from streamfold.gateway.logs import RequestLog
from streamfold.gateway.siblings import Answer, Siblings
from streamfold.pipeline import Pipeline
from streamfold.plugins import load_plugins
from streamfold.plugins.logging import LoggingConfig, LoggingPlugin
from streamfold.settings import read_settings
from streamfold.store.log_store import LogStore

__all__ = ["Parts", "assemble", "open_log"]

LOGGING: Final = "logging"
PROMETHEUS: Final = "prometheus"
REASONS: Final = (
    "token_required",
    "token_unknown",
    "forbidden",
    "cross_site",
    "unknown_host",
    "headers_too_large",
    "request_too_large",
    "too_many_streams",
    "too_many_connections",
    "header_timeout",
    "body_timeout",
    "client_stalled",
)
"""Why the door and the connections refuse, as `/metrics` names it."""


class Parts(NamedTuple):
    """What a gateway is put together from, besides its sockets."""

    pipeline: Pipeline
    catalog: ModelCatalog
    metrics: Callable[[str | None], tuple[bytes, str]] | None
    refused: Counter[str]
    """What the door turned away, by reason."""
    answers: Mapping[str, Answer] = {}
    """What other workers can ask this one."""


def open_log(config: Config) -> LogStore:
    """The log that a configuration names. Raises `UsageError` if it cannot be used."""
    return LogStore.open(config.db, **logging_config(config).queue())


def logging_config(config: Config) -> LoggingConfig:
    """The settings of the logging plugin, which is always there."""
    return read_settings(config.plugins.get(LOGGING, {}), LoggingConfig, at="plugins.logging.")


def assemble(config: Config, store: LogStore, siblings: Siblings | None = None) -> Parts:
    """The plugins in their order, the log first. Raises `UsageError` for a mistake in the configuration.

    `siblings` are the other workers, when this is one of several.
    """
    catalog = ModelCatalog(config.prices)
    catalog.warm()
    plugins: list[Any] = [LoggingPlugin(logging_config(config), store=store, catalog=catalog)]
    others = {name: section for name, section in config.plugins.items() if name != LOGGING}
    if PROMETHEUS not in others and find_spec("prometheus_client") is not None:
        others = {PROMETHEUS: {}, **others}
    if siblings is not None and PROMETHEUS in others:
        section = others[PROMETHEUS]
        others[PROMETHEUS] = {**section, "labels": {**section.get("labels", {}), "worker": str(siblings.number)}}
    plugins += load_plugins(others)
    if config.log_requests:
        plugins.append(RequestLog())
    refused = Counter(dict.fromkeys(REASONS, 0))
    limits = config.limits
    pipeline = Pipeline(
        plugins, hook_timeout=limits.hook_timeout_s, queue_size=limits.waiting_responses, encode=encoded
    )
    prometheus = next((plugin for plugin in plugins if plugin.name == PROMETHEUS), None)
    if prometheus is None:
        return Parts(pipeline, catalog, None, refused)
    _watch(prometheus, pipeline, store, refused)
    if siblings is None:
        return Parts(pipeline, catalog, prometheus.exposition, refused)
    answers = {FIGURES: lambda _: figures_of(prometheus)}
    return Parts(pipeline, catalog, exposition_of_all(prometheus, siblings), refused, answers)


def _watch(prometheus: Any, pipeline: Pipeline, store: LogStore, refused: Counter[str]) -> None:
    """What the plugins cannot know of themselves: how much waits, and what was lost."""
    watch = prometheus.watch
    watch("streamfold_log_rows_waiting", "Rows that are not in the log's database yet.", lambda: store.waiting)
    watch("streamfold_log_rows_dropped_total", "Rows of the log that were lost.", lambda: store.dropped)
    watch("streamfold_log_spilled_bytes", "Bytes of the files that rows wait in.", lambda: store.spilled_bytes)
    for reason in REASONS:
        told = "Requests and connections that were turned away or cut."
        watch("streamfold_refused_total", told, lambda reason=reason: refused[reason], reason=reason)
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
