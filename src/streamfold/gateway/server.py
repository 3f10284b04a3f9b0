"""Runs the gateway: the sockets, the signals, the order in which things stop.

What must hold at the end, in this order: no new connections; open streams may finish for a short while; those that
have not are cut off, each with its row; the log is flushed and closed. uvicorn does the first two, this file the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import uvicorn

from streamfold.errors import UsageError
from streamfold.gateway.app import Gateway
from streamfold.gateway.assembly import assemble, open_log
from streamfold.gateway.config import Config, is_loopback
from streamfold.gateway.connection import bounded
from streamfold.gateway.door import Door
from streamfold.gateway.health import Health
from streamfold.gateway.logs import set_up_logs
from streamfold.gateway.siblings import Answer, Siblings
from streamfold.gateway.upstream import AiohttpClient
from streamfold.store.log_store import LogStore

__all__ = ["address_of", "banner", "listen", "run", "running", "serve", "settle", "start", "stop_on_signal"]

log = logging.getLogger("streamfold.gateway")

T = TypeVar("T")

KEEP_ALIVE_S: Final = 75
"""Idle connections of clients are kept longer than SDKs reuse theirs, so that no request meets a closing one."""
ON_PURPOSE: Final = ("ASGI callable returned without completing response.", "Unsupported upgrade request.")
"""What uvicorn complains of and the gateway does deliberately."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, and with an event for "it listens"."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class _Deliberate(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg not in ON_PURPOSE


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `UsageError` when the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"cannot listen on {host}:{port}: {reason}; choose others with --host and --port") from None


@asynccontextmanager
async def running(
    config: Config, store: LogStore, sock: socket.socket | None = None, *, siblings: Siblings | None = None
) -> AsyncGenerator[str, None]:
    """The gateway while the block runs; gives its address, such as `http://127.0.0.1:8787`.

    `siblings` are the other workers, when this is one of several.
    """
    parts = await asyncio.to_thread(assemble, config, store, siblings)
    sock = sock or listen(config.host, config.port)
    client = AiohttpClient(connections=config.limits.upstream_connections)
    ask = siblings.ask if siblings is not None else None
    gateway = Gateway(config, client, parts.pipeline, store, catalog=parts.catalog, metrics=parts.metrics, ask=ask)
    health = Health(store, parts.pipeline)
    door = Door(gateway, config, health, parts.refused)
    server = _Server(_uvicorn_config(door, config, parts.refused))
    logging.getLogger("uvicorn.error").addFilter(_DELIBERATE)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    async with _answering(siblings, {**parts.answers, **gateway.page.answers}):
        try:
            await _either(server.listening.wait(), task)
            health.listening = True
            yield address_of(sock)
        finally:
            health.listening = False
            gateway.page.close()  # its event streams have no end of their own, and would be waited for
            server.should_exit = True
            await task
            await gateway.close()
            await client.close()
            await parts.pipeline.close()
            await asyncio.to_thread(store.flush)


def _answering(siblings: Siblings | None, answers: Mapping[str, Answer]) -> AbstractAsyncContextManager[None]:
    return contextlib.nullcontext() if siblings is None else siblings.answering(answers)


def start(config: Config, say: Callable[[str], None]) -> None:
    """Runs the gateway as a program, until a signal comes. Raises `UsageError` when it cannot start."""
    set_up_logs(config)
    _allow_many_files()
    if config.log_format == "json":
        say = log.info
    if not is_loopback(config.host) and config.access.open:
        log.warning("listening on %s: everyone who reaches this machine can use the gateway", config.host)
    if config.workers > 1:
        from streamfold.gateway.workers import supervise

        supervise(config, say)
        return
    with open_log(config) as store:
        run(serve(config, store, say))


async def serve(config: Config, store: LogStore, say: Callable[[str], None]) -> None:
    """Serves until a signal comes."""
    with stop_on_signal() as stop:
        async with running(config, store) as address:
            settle()
            for line in banner(config, address, f"log in {store.name}"):
                say(line)
            await stop.wait()
            say("stopping: open streams have a moment to finish")


def banner(config: Config, address: str, more: str) -> Iterator[str]:
    """What is said when the gateway listens."""
    yield f"streamfold gateway on {address}, {more}"
    for upstream in config.routes().values():
        yield f"  {address}/{upstream.name}  ->  {upstream.url}"
    yield f"  the page: {_reachable(address)}/" + ("" if config.access.open else "  (it asks for an access token)")


def settle() -> None:
    """Keeps the garbage collector away from what stays as long as the program: modules, plugins, price lists.

    They are a hundred thousand objects, and to look through them all takes long enough to be seen in every stream that
    is open then. What comes later is collected as ever. Call it once, when the gateway is put together.
    """
    gc.collect()
    gc.freeze()


def _allow_many_files() -> None:
    """Raises the limit of open files as far as it goes: the usual 1024 are 500 streams."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def stop_on_signal() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    before = {}
    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.signal(each, lambda *_: loop.call_soon_threadsafe(stop.set))
    # Without this a signal would only be seen at the loop's next wake-up; Windows has no better way than to wake up.
    ticking = asyncio.ensure_future(_tick())
    try:
        yield stop
    finally:
        ticking.cancel()
        for each, handler in before.items():
            signal.signal(each, handler)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on uvloop where there is one."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def _tick() -> None:
    while True:
        await asyncio.sleep(0.2)


async def _either(first: Coroutine[Any, Any, Any], second: asyncio.Task[Any]) -> None:
    """Waits for one of two. A failed second raises, so that a server that cannot start is not waited for."""
    waiting = asyncio.ensure_future(first)
    await asyncio.wait((waiting, second), return_when=asyncio.FIRST_COMPLETED)
    if second.done():
        waiting.cancel()
        second.result()


def _uvicorn_config(door: Door, config: Config, refused: Counter[str]) -> uvicorn.Config:
    return uvicorn.Config(
        door,
        http=bounded(config.limits, refused),
        # No access log: it would write the query, and with it a `?key=`.
        access_log=False,
        log_config=None,
        log_level=logging.WARNING,
        lifespan="off",
        ws="none",
        # The answer's own headers pass; nothing of ours is added.
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=config.limits.shutdown_grace_s,  # type: ignore[arg-type]
    )


def address_of(sock: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _reachable(address: str) -> str:
    """An address that a browser of this machine can open: "all addresses" is none."""
    return address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


_DELIBERATE: Final = _Deliberate()
