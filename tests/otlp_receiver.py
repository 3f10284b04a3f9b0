"""A collector on loopback: takes what the real OTLP/HTTP exporters send and decodes it with the official protobufs."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Receiver:
    """What has arrived, in order: `messages` by path, decompressed `bodies`, and `headers` (lower case)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.messages: dict[str, list[Any]] = {path: [] for path in KINDS}
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200

    @property
    def spans(self) -> list[Any]:
        """All spans, as protobufs."""
        return [
            span
            for message in self.messages["/v1/traces"]
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def logs(self) -> list[Any]:
        """All log records, as protobufs."""
        return [
            record
            for message in self.messages["/v1/logs"]
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the last report, as protobufs by name."""
        if not self.messages["/v1/metrics"]:
            return {}
        return {
            metric.name: metric
            for resource in self.messages["/v1/metrics"][-1].resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def resource(self, path: str = "/v1/traces") -> dict[str, Any]:
        """The attributes of the first resource of a signal."""
        message = self.messages[path][0]
        holder = getattr(message, f"resource_{'spans' if 'traces' in path else path.rpartition('/')[2]}")
        return attributes(holder[0].resource)


def attributes(holder: Any) -> dict[str, Any]:
    """The attributes of a protobuf, as plain values."""
    return {pair.key: plain(pair.value) for pair in holder.attributes}


def plain(value: Any) -> Any:
    """An `AnyValue`, as a plain value."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
    return getattr(value, kind) if kind is not None else None


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A collector on a free port, for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            got.headers.append({key.lower(): value for key, value in self.headers.items()})
            if got.status == 200:
                got.bodies.append(body)
                got.messages[self.path].append(KINDS[self.path].FromString(body))
            self.send_response(got.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    got = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
