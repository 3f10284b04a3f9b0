"""Several worker processes: one supervisor, which serves nobody and therefore does not fall.

The supervisor opens the listening socket and hands it to each worker, so that a connection waits in one queue that
every worker takes from: when one dies, the others take what waits (with a socket for each, SO_REUSEPORT, the
connections in its queue would be lost with it). Workers are started afresh, not forked from a running program, since a
fork copies locks that other threads hold.

A worker that dies is started again, at once if it had lived a while, else after growing pauses. Its streams are lost;
their rows become `abandoned`, which the store does (see `instances` there). A worker whose supervisor is gone stops.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Final

from streamfold.errors import UsageError
from streamfold.gateway.assembly import open_log
from streamfold.gateway.config import Config
from streamfold.gateway.logs import set_up_logs
from streamfold.gateway.server import address_of, banner, listen, run, running, settle, stop_on_signal
from streamfold.gateway.siblings import Siblings

__all__ = ["supervise"]

log = logging.getLogger("streamfold.gateway")

LONG_LIFE_S: Final = 10.0
"""A worker that lived this long is started again at once."""
PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
LONGEST_PATH: Final = 80
"""Bytes: a Unix socket's path has room for about a hundred."""
LAST_CALL_S: Final = 20.0
"""Beyond the grace time: for closing the plugins and the log. Who is not gone then is killed."""


def supervise(config: Config, say: Callable[[str], None]) -> None:
    """Runs the workers until a signal comes. Raises `UsageError` if one of them cannot start at first."""
    if sys.platform == "win32":
        raise UsageError('"workers" must be 1 on Windows: sockets cannot be shared there as this needs it')
    sock = listen(config.host, config.port)
    directory = _private_directory()
    supervisor = _Supervisor(config, sock, directory)
    try:
        with _woken_by_signals() as woken:
            supervisor.run(woken, say)
    finally:
        sock.close()
        supervisor.end()
        shutil.rmtree(directory, ignore_errors=True)


def _private_directory() -> Path:
    """A directory that only this user can enter, with a path that is short enough for sockets in it."""
    found = Path(tempfile.mkdtemp(prefix="streamfold-"))
    if len(os.fsencode(found)) <= LONGEST_PATH:
        return found
    found.rmdir()
    return Path(tempfile.mkdtemp(prefix="streamfold-", dir="/tmp"))


class _Worker:
    """One place among the workers, and the process that fills it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: SpawnProcess | None = None
        self.news: Connection | None = None
        self.begun = 0.0
        self.failures = 0
        self.due = 0.0
        """When to start it again."""


class _Supervisor:
    def __init__(self, config: Config, sock: socket.socket, directory: Path) -> None:
        self._config, self._sock, self._directory = config, sock, directory
        self._workers = [_Worker(number) for number in range(config.workers)]
        self._context = multiprocessing.get_context("spawn")
        self._stopping = False

    def run(self, woken: socket.socket, say: Callable[[str], None]) -> None:
        first, *others = self._workers
        self._start(first)
        # Alone, because it may have to make or migrate the database; and if it cannot start, none can.
        if not self._is_ready(first, woken):
            return
        for worker in others:
            self._start(worker)
        if not all(self._is_ready(worker, woken) for worker in others):
            return
        for line in banner(self._config, address_of(self._sock), f"{len(self._workers)} workers"):
            say(line)
        while not self._stopping:
            self._wait(woken)
            self._start_again()
        say("stopping: open streams have a moment to finish")

    def end(self) -> None:
        """Stops all workers, and waits for them."""
        running = [worker.process for worker in self._workers if worker.process is not None]
        for process in running:
            process.terminate()
        until = time.monotonic() + self._config.limits.shutdown_grace_s + LAST_CALL_S
        for process in running:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                log.error("the worker process %s does not stop and is killed", process.pid)
                process.kill()
                process.join()

    def _start(self, worker: _Worker) -> None:
        news, told = self._context.Pipe(duplex=False)
        arguments = (self._config, self._sock, worker.number, self._directory, told)
        worker.process = self._context.Process(target=_work, args=arguments, name=f"streamfold-{worker.number}")
        worker.news, worker.begun = news, time.monotonic()
        worker.process.start()
        told.close()

    def _is_ready(self, worker: _Worker, woken: socket.socket) -> bool:
        """Waits until a worker serves; false if a signal comes first. Raises what it could not start for."""
        assert worker.process is not None
        assert worker.news is not None
        while True:
            ready = wait([worker.process.sentinel, worker.news, woken])
            if woken in ready and self._told_to_stop(woken):
                return False
            if worker.news in ready or worker.process.sentinel in ready:
                try:
                    failure = worker.news.recv()
                except EOFError:
                    worker.process.join()
                    failure = f"a worker ended before it served ({_how(worker.process.exitcode)})"
                if failure is not None:
                    raise UsageError(failure)
                return True

    def _wait(self, woken: socket.socket) -> None:
        """Until a signal comes, a worker dies, or one is to be started again."""
        alive = {worker.process.sentinel: worker for worker in self._workers if worker.process is not None}
        due = [worker.due for worker in self._workers if worker.process is None]
        ready = wait([*alive, woken], max(0.0, min(due) - time.monotonic()) if due else None)
        if woken in ready:
            self._told_to_stop(woken)
        for sentinel, worker in alive.items():
            if sentinel in ready and not self._stopping:
                self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        assert worker.process is not None
        worker.process.join()
        lived = time.monotonic() - worker.begun
        worker.failures = 0 if lived >= LONG_LIFE_S else worker.failures + 1
        pause = PAUSES_S[min(worker.failures, len(PAUSES_S)) - 1] if worker.failures > 1 else 0.0
        how = _how(worker.process.exitcode)
        log.error("worker %d ended (%s) and is started again in %g seconds", worker.number, how, pause)
        worker.process, worker.due = None, time.monotonic() + pause

    def _start_again(self) -> None:
        for worker in self._workers:
            if worker.process is None and worker.due <= time.monotonic() and not self._stopping:
                self._start(worker)

    def _told_to_stop(self, woken: socket.socket) -> bool:
        numbers = woken.recv(64)
        self._stopping = self._stopping or bool({signal.SIGINT, signal.SIGTERM} & set(numbers))
        return self._stopping


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


@contextmanager
def _woken_by_signals() -> Iterator[socket.socket]:
    """A socket that gets a byte for each signal, so that waiting for processes and for signals is one wait."""
    receiving, sending = socket.socketpair()
    receiving.setblocking(False)
    sending.setblocking(False)
    before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGINT, signal.SIGTERM)}
    descriptor = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    try:
        yield receiving
    finally:
        signal.set_wakeup_fd(descriptor)
        for each, handler in before.items():
            signal.signal(each, handler)
        receiving.close()
        sending.close()


# ---------------------------------------------------------------------- in the worker


def _work(config: Config, sock: socket.socket, number: int, directory: Path, told: Connection) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too, but the supervisor tells when to stop
    set_up_logs(config, worker=number)
    try:
        with open_log(config) as store:
            run(_serve(config, store, sock, Siblings(directory, number), told))
    except UsageError as error:
        log.error("worker %d cannot start: %s", number, error)
        _tell(told, str(error))
        sys.exit(2)


async def _serve(config: Config, store: Any, sock: socket.socket, siblings: Siblings, told: Connection) -> None:
    with stop_on_signal() as stop:
        parent = multiprocessing.parent_process()
        assert parent is not None
        asyncio.get_running_loop().add_reader(parent.sentinel, stop.set)
        async with running(config, store, sock, siblings=siblings):
            settle()
            _tell(told, None)
            await stop.wait()


def _tell(told: Connection, failure: str | None) -> None:
    try:
        told.send(failure)
        told.close()
    except OSError:
        log.debug("the supervisor does not listen (process %d)", os.getpid())
