"""A Maxim on loopback: takes what the SDK posts, and reads its lines as the real one must.

A line is `entity{id=…,action=…,data={json}}`. What came is kept in order. The answers can be told to fail.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

LINE = re.compile(r"(\w+)\{id=([a-zA-Z0-9_-]+),action=([a-z-]+),data=(.*)\}")
MOST = 900 * 1024
"""Bytes of a line that Maxim takes."""


class Said(NamedTuple):
    """One line."""

    entity: str
    id: str
    action: str
    data: dict[str, Any]


class MaximEndpoint:
    """What arrived, and how the next requests are answered."""

    def __init__(self) -> None:
        self.lines: list[Said] = []
        self.bodies: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.repositories: set[str] = set()
        self.paths: list[str] = []
        self.answers: list[tuple[int, bytes]] = []
        """Answers to give before all goes well, in order."""
        self.refuse: str | None = None
        """A text whose presence in a body makes it a bad request."""
        self.location: str | None = None
        self.hold: threading.Event | None = None
        """Requests are not answered until it is set."""
        self.arrived = threading.Event()
        self.url = ""

    def of(self, entity: str, action: str | None = None, id: str | None = None) -> list[Said]:
        """The lines about an entity."""
        return [
            line
            for line in self.lines
            if line.entity == entity and action in (None, line.action) and id in (None, line.id)
        ]

    def only(self, entity: str, action: str) -> Said:
        """The one line of its kind."""
        (line,) = self.of(entity, action)
        return line

    @property
    def generation(self) -> dict[str, Any]:
        """What the one generation was begun with."""
        return self.only("trace", "add-generation").data

    @property
    def result(self) -> dict[str, Any]:
        """The result of the one generation."""
        result: dict[str, Any] = self.only("generation", "result").data["result"]
        return result

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the one generation."""
        return {
            name: value
            for line in self.of("generation", "update")
            for name, value in line.data.get("metrics", {}).items()
        }

    def take(self, path: str, headers: dict[str, str], body: str) -> tuple[int, bytes]:
        """Answers a request."""
        self.paths.append(path)
        self.headers.append(headers)
        self.arrived.set()
        if self.hold is not None:
            self.hold.wait(60)
        if self.answers:
            return self.answers.pop(0)
        if self.refuse is not None and self.refuse in body:
            return 400, b'{"error": {"message": "bad line"}}'
        parts = urlsplit(path)
        if parts.path != "/api/sdk/v3/log":
            return 404, b'{"error": {"message": "no such path"}}'
        lines = [_read(line) for line in body.split("\n")]
        self.repositories.update(parse_qs(parts.query)["id"])
        self.bodies.append(body)
        self.lines += lines
        return 200, b'{"success": true}'


def _read(line: str) -> Said:
    match = LINE.fullmatch(line)
    assert match is not None, f"not a line: {line[:200]}"
    assert len(line.encode()) <= MOST, "a line that Maxim would drop"
    return Said(match[1], match[2], match[3], json.loads(match[4]))


@contextmanager
def maxim_endpoint() -> Iterator[MaximEndpoint]:
    """A running endpoint, at its `url`."""
    endpoint = MaximEndpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            status, answer = endpoint.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            try:
                self.send_response(status)
                if endpoint.location is not None and 300 <= status < 400:
                    self.send_header("location", endpoint.location)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            except OSError:
                self.close_connection = True  # the client has given up

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        if endpoint.hold is not None:
            endpoint.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
