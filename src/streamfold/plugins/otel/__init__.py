"""OpenTelemetry: one span per request and the GenAI metrics, by the official SDK and exporters.

Needs the SDK: `pip install "streamfold[otel]"`. What it sends is in docs/otel.md.
"""

from streamfold.plugins.otel.config import OtelConfig
from streamfold.plugins.otel.plugin import OtelPlugin

__all__ = ["OtelConfig", "OtelPlugin"]
