"""The upstream and the clients of a gateway benchmark, in one process of its own: as little Python as will do.

    python load.py upstream                            prints its port, serves until its standard input closes
    python load.py clients URL '{"streams": 100, ...}'  prints one JSON line of figures

The upstream speaks just enough HTTP to stream an OpenAI chat answer. Each chunk is a write of its own; the path says
how many there are and how many milliseconds lie between them: `/N/PACE/v1/chat/completions`. Where there is a pace, a
chunk's word is the time at which it was written (nanoseconds of the machine's monotonic clock, which both processes
read), so that the clients can tell how long it was under way, whatever a gateway makes of the rest of it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

import uvloop

CHUNK = {
    "id": "chatcmpl-bench0000000000000000000000",
    "object": "chat.completion.chunk",
    "created": 1766265196,
    "model": "gpt-4o-2024-08-06",
    "service_tier": "default",
    "system_fingerprint": "fp_0000000000",
    "choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}],
}
LAST = {**CHUNK, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]}
USAGE = {**CHUNK, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 200, "total_tokens": 209}}
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
ASKED = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [{"role": "user", "content": "Say a word two hundred times."}],
}


def framed(event: dict[str, Any] | None) -> bytes:
    """An SSE event as one HTTP chunk."""
    data = b"data: " + (json.dumps(event, separators=(",", ":")).encode() if event else b"[DONE]") + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


OTHER = {**CHUNK, "choices": [{**CHUNK["choices"][0], "delta": {"content": " other"}}]}
EVENTS = (framed(CHUNK), framed(OTHER))  # by turns: LiteLLM ends a stream that says the same a hundred times
END = framed(LAST) + framed(USAGE) + framed(None) + b"0\r\n\r\n"
TIME = b"@" * 20
STAMPED = framed({**CHUNK, "choices": [{**CHUNK["choices"][0], "delta": {"content": f" {TIME.decode()}"}}]})
STAMP = re.compile(rb'"content": ?" (\d{20})"')


class Upstream(asyncio.Protocol):
    """Answers each request of a connection, one after the other."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.held, self.task = transport, b"", None

    def connection_lost(self, _: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.held += data
        head, found, body = self.held.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            (line.split(b":")[1] for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), b"0"
        )
        if b"transfer-encoding: chunked" in head.lower():
            if not body.endswith(b"0\r\n\r\n"):
                return
        elif len(body) < int(length):
            return
        self.held = b""
        _, count, pace, *_ = head.split(b" ", 2)[1].split(b"/")
        self.task = asyncio.ensure_future(self.stream(int(count), float(pace) / 1000))

    async def stream(self, count: int, pace: float) -> None:
        self.transport.write(HEAD)
        due = time.monotonic()
        for number in range(count):
            event = STAMPED.replace(TIME, b"%020d" % time.monotonic_ns()) if pace else EVENTS[number % 2]
            self.transport.write(event)
            due += pace
            await asyncio.sleep(max(0.0, due - time.monotonic()) if pace else 0)
        self.transport.write(END)


class Client(asyncio.Protocol):
    """One connection, one request at a time; counts events without keeping them, and notes how long each took."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.done, self.lags = transport, None, []

    def ask(self, request: bytes) -> asyncio.Future[None]:
        self.tail, self.events, self.first, self.status = b"", 0, 0.0, 0
        self.done = asyncio.get_running_loop().create_future()
        self.begun = time.perf_counter()
        self.transport.write(request)
        return self.done

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.status = int(data[9:12])
        now = time.monotonic_ns()
        self.lags += [now - int(stamp) for stamp in STAMP.findall(data)]
        data = self.tail + data
        self.events += data.count(b"data: ")
        if self.events and not self.first:
            self.first = time.perf_counter() - self.begun
        self.tail = data[-5:]
        if b"data: " in self.tail:
            self.tail = b""
        if data.endswith(b"0\r\n\r\n"):
            self.finish()

    def finish(self) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        self.status = self.status or -1
        self.finish()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


async def clients(url: str, plan: dict[str, Any]) -> None:
    """`streams` requests, `at_once` of them together; an `idle` plan opens all and waits for a line on stdin."""
    parts = urlsplit(url)
    headers = {
        "host": parts.netloc,
        "content-type": "application/json",
        "authorization": "Bearer sk-bench",
        **plan["headers"],
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    body = json.dumps({"model": plan["model"], **ASKED}).encode()
    request = f"POST {parts.path} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body
    loop = asyncio.get_running_loop()
    left, events, firsts, bad = plan["streams"], 0, [], 0
    lags: list[int] = []

    async def worker() -> None:
        nonlocal left, events, bad
        client = None
        while left > 0:
            left -= 1
            if client is None or client.transport.is_closing():
                _, client = await loop.create_connection(Client, parts.hostname, parts.port)
            await client.ask(request)
            events += client.events
            firsts.append(client.first * 1000)
            bad += client.status != 200 or client.events < plan["least"]
            lags.extend(client.lags)
            client.lags.clear()

    begun = time.perf_counter()
    running = [asyncio.ensure_future(worker()) for _ in range(plan["at_once"])]
    if plan.get("idle"):
        await asyncio.sleep(plan["idle"])
        print("open", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        return
    await asyncio.gather(*running)
    took = time.perf_counter() - begun
    cuts = [cut / 1e6 for cut in quantiles(lags, n=100)] if len(lags) > 1 else []
    told = {"events": events, "seconds": took, "firsts": firsts, "lags": cuts, "bad": bad}
    print(json.dumps(told), flush=True)


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if sys.argv[1] == "upstream":
            runner.run(serve())
        else:
            runner.run(clients(sys.argv[2], json.loads(sys.argv[3])))


if __name__ == "__main__":
    main()
