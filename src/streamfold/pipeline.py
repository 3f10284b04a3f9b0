"""Runs the hooks of all plugins, and keeps what they do wrong away from the traffic.

Three dangers, three rules:

* A plugin **raises**, or answers what cannot be sent. It is counted, logged once per kind, and taken for "no opinion".
* A plugin **blocks**. Python cannot stop a running function, so no plugin runs where the traffic runs, unless it asks
  to (`inline`). Each has a worker: a thread with an event loop for its `async` hooks, and a few threads for its plain
  ones. The traffic waits for `pre_llm_hook` and `post_llm_hook` no longer than `hook_timeout`; a plugin that took
  longer is left out for a while, so that it costs one wait and not one per chunk.
* A plugin is **slow**. `on_response` works from a bounded queue of its own; what does not fit is counted in `dropped`.

`post_llm_hook` is only called for plugins that define it, in reverse order of registration, and only for those that
have seen the request: after a short circuit, the plugins behind it are not asked.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import msgspec

from streamfold.hooks import DROP, HOLD, RELEASE, End, Replace, RequestContext, ShortCircuit
from streamfold.processed import ProcessedStreamResponse
from streamfold.types import ErrorDetails

__all__ = ["Pipeline", "PluginStatus"]

log = logging.getLogger("streamfold.hooks")

HOOK_TIMEOUT: Final = 1.0
LEFT_OUT_FOR: Final = 10.0
"""How many timeouts long a plugin is left out after one."""
QUEUE: Final = 10_000
CLOSE_SECONDS: Final = 5.0
THREADS: Final = 4
STATUSES: Final = range(200, 600)
"""What a short circuit may say as its HTTP status."""


class PluginStatus(msgspec.Struct, frozen=True):
    """How a plugin does: its errors by kind, responses that wait for it, and those it never got."""

    name: str
    errors: dict[str, int]
    waiting: int
    dropped: int


class Pipeline:
    """The plugins of one gateway or program, in order of registration.

    `hook_timeout` is how many seconds the traffic waits for a hook, `queue_size` how many responses may wait for a
    plugin. `encode` gives what plugins answer the form that the transport sends; what it raises on is no answer. Its
    methods are for one event loop; `finished` may be called from any thread.
    """

    def __init__(
        self,
        plugins: Sequence[Any] = (),
        *,
        hook_timeout: float = HOOK_TIMEOUT,
        queue_size: int = QUEUE,
        encode: Callable[[Any], Any] | None = None,
    ) -> None:
        self._encode = encode
        self._runners = [_Runner(plugin, hook_timeout, queue_size) for plugin in plugins]
        self._before = [runner for runner in self._runners if runner.has("pre_llm_hook")]
        self._after = [runner for runner in reversed(self._runners) if runner.has("post_llm_hook")]
        self._told = [runner for runner in self._runners if runner.has("on_response")]

    @property
    def plugins(self) -> list[Any]:
        """The plugins, in order of registration."""
        return [runner.plugin for runner in self._runners]

    @property
    def watches_chunks(self) -> bool:
        """Whether any plugin wants to see each chunk."""
        return bool(self._after)

    @property
    def watches_requests(self) -> bool:
        """Whether any plugin wants to see the request before it goes out."""
        return bool(self._before)

    async def before(self, ctx: RequestContext, request: Any) -> ShortCircuit | None:
        """Shows the request to each plugin. Returns the first short circuit, or None: let it go out."""
        for runner in self._before:
            answer = await runner.ask("pre_llm_hook", ctx, request)
            if isinstance(answer, ShortCircuit):
                answer = self._usable(runner, answer)
                if answer is None:
                    continue
                ctx.depth = self._runners.index(runner) + 1
                return answer
            if answer is not None:
                runner.count("pre_llm_hook", f"answered a {type(answer).__name__}, which is no ShortCircuit")
        ctx.depth = len(self._runners)
        return None

    async def chunk(self, ctx: RequestContext, chunk: Any, error: ErrorDetails | None = None) -> Any:
        """Shows a chunk to each plugin, the last one first. Returns what to deliver: a chunk, `DROP`, `Replace`, `End`.

        A chunk that one plugin dropped or replaced is not shown to the next. Whoever holds is in `ctx.held_by`.
        """
        seen = self._runners[: ctx.depth]
        for runner in self._after:
            if runner not in seen:
                continue
            answer = await runner.ask("post_llm_hook", ctx, chunk, error)
            if answer is DROP or isinstance(answer, End):
                return answer
            if answer is HOLD or answer is RELEASE:
                (ctx.held_by.add if answer is HOLD else ctx.held_by.discard)(runner.name)
                continue
            if answer is not None:
                answer = self._encoded(runner, "post_llm_hook", answer)
            if isinstance(answer, Replace):
                ctx.held_by.discard(runner.name)
                return answer
            if answer is not None:
                chunk = answer
        return chunk

    def finished(self, ctx: RequestContext, processed: ProcessedStreamResponse) -> None:
        """Hands the complete response to each plugin. Never waits and never raises; call it once per request."""
        for runner in self._told:
            runner.tell(ctx, processed)

    def status(self) -> list[PluginStatus]:
        """How each plugin does."""
        return [runner.status() for runner in self._runners]

    def _usable(self, runner: _Runner, short: ShortCircuit) -> ShortCircuit | None:
        """The short circuit as it can be sent; None if it cannot be."""
        error, status = short.error, short.status_code
        try:
            if error is not None:
                error = msgspec.json.decode(msgspec.json.encode(error), type=ErrorDetails)
            status = status or (error.status_code if error is not None else None)
            said = error is not None or short.response is not None
            if not said or (status is not None and status not in STATUSES):
                raise ValueError
        except Exception:
            runner.count("pre_llm_hook", "answered a ShortCircuit that cannot be sent")
            return None
        if error is not None:
            return ShortCircuit(error=error, status_code=status)
        response = self._encoded(runner, "pre_llm_hook", short.response)
        return ShortCircuit(response=response, status_code=status) if response is not None else None

    def _encoded(self, runner: _Runner, hook: str, answer: Any) -> Any:
        """What a plugin answered, as the transport sends it; None if it cannot be sent."""
        if self._encode is None:
            return answer
        try:
            if isinstance(answer, Replace):
                return Replace([self._encode(chunk) for chunk in answer.chunks])
            return self._encode(answer)
        except Exception:
            runner.count(hook, f"answered a {type(answer).__name__} that cannot be sent")
            return None

    async def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Lets the plugins finish what waits for them, then closes each; together they have `timeout` seconds."""
        await asyncio.gather(*(asyncio.to_thread(runner.close, timeout) for runner in self._runners))


class _Runner:
    """One plugin and what protects the traffic from it."""

    def __init__(self, plugin: Any, hook_timeout: float, queue_size: int) -> None:
        self.plugin = plugin
        self.name: str = getattr(plugin, "name", None) or type(plugin).__name__
        self._inline: bool = getattr(plugin, "inline", False)
        self._inline_response: bool = getattr(plugin, "inline_response", False)
        self._timeout = hook_timeout
        self._left_out_until = 0.0
        self._errors: dict[str, int] = {}
        self._lock = threading.Lock()
        self._worker = _Worker(self.name, self._deliver, queue_size)

    def has(self, hook: str) -> bool:
        """Whether the plugin defines a hook."""
        return callable(getattr(self.plugin, hook, None))

    async def ask(self, hook: str, ctx: RequestContext, *what: Any) -> Any:
        """Calls a hook that the traffic waits for. None if it has no opinion, or failed, or took too long."""
        if time.monotonic() < self._left_out_until:
            self.count(hook, "left out", quietly=True)
            return None
        function = getattr(self.plugin, hook)
        try:
            if self._inline:
                answer = function(ctx, *what)
                return await asyncio.wait_for(_contained(answer), self._timeout) if _waits(answer) else answer
            if hook == "post_llm_hook":
                ctx = copy.copy(ctx)  # a hook that is left behind may still look at it while the stream goes on
            work = self._worker.submit(function, ctx, *what)
            return await asyncio.wait_for(asyncio.wrap_future(work), self._timeout)
        except TimeoutError:
            self._left_out_until = time.monotonic() + LEFT_OUT_FOR * self._timeout
            self.count(hook, f"took longer than {self._timeout:g} s")
        except (Exception, asyncio.CancelledError, SystemExit) as error:
            if _is_ours(error):
                raise
            self.count(hook, _name(error), error)
        return None

    def tell(self, ctx: RequestContext, processed: ProcessedStreamResponse) -> None:
        """Hands over a complete response."""
        if self._inline_response:
            rest = self._deliver(ctx, processed)
            if rest is not None:
                self._worker.spawn(rest)
        elif not self._worker.put((ctx, processed)):
            self.count("on_response", "dropped: too many wait", quietly=self._worker.dropped > 1)

    def count(self, hook: str, kind: str, error: BaseException | None = None, *, quietly: bool = False) -> None:
        """Counts a failure, and logs the first of its kind."""
        key = f"{hook}: {kind}"
        with self._lock:
            first = key not in self._errors
            self._errors[key] = self._errors.get(key, 0) + 1
        if first and not quietly:
            # The text of an exception may quote what passed by; the traceback's code lines do not.
            where = f" ({_place(error)})" if error is not None else ""
            log.error("plugin %s, %s: %s%s; counted from now on, the traffic goes on", self.name, hook, kind, where)

    def status(self) -> PluginStatus:
        with self._lock:
            return PluginStatus(self.name, dict(self._errors), self._worker.waiting, self._worker.dropped)

    def close(self, timeout: float) -> None:
        """Blocks until what waits is delivered and the plugin has closed, or `timeout` is over."""
        until = time.monotonic() + timeout
        if not self._worker.drain(timeout):
            self.count("on_response", f"{self._worker.waiting} responses were not delivered in time")
        close = getattr(self.plugin, "close", None)
        if callable(close):
            try:
                self._worker.submit(close).result(max(0.0, until - time.monotonic()))
            except TimeoutError:
                self.count("close", "took too long")
            except BaseException as error:  # whichever: the other plugins want to be closed too
                self.count("close", _name(error), error)
        self._worker.stop()

    def _deliver(self, ctx: RequestContext, processed: ProcessedStreamResponse) -> Coroutine[Any, Any, Any] | None:
        """Calls `on_response`; a coroutine that is left to run, if the hook is one."""
        try:
            answer = self.plugin.on_response(ctx, processed)
        except BaseException as error:  # even SystemExit: a plugin must not end the program
            self.count("on_response", type(error).__name__, error)
            return None
        return self._guard(answer) if _waits(answer) else None

    async def _guard(self, answer: Any) -> None:
        try:
            await answer
        except BaseException as error:
            self.count("on_response", type(error).__name__, error)


class _Worker:
    """A thread with an event loop for one plugin, made when it is first needed."""

    def __init__(self, name: str, deliver: Callable[..., Coroutine[Any, Any, Any] | None], queue_size: int) -> None:
        self._name = name
        self._deliver = deliver
        self._queue_size = queue_size
        self._queue: deque[tuple[RequestContext, ProcessedStreamResponse]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None
        self.dropped = 0

    @property
    def waiting(self) -> int:
        return len(self._queue) + self._busy

    def put(self, job: tuple[RequestContext, ProcessedStreamResponse]) -> bool:
        """Queues a response; False if there is no room."""
        with self._changed:
            if self._stopped or len(self._queue) >= self._queue_size:
                self.dropped += 1
                return False
            self._queue.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"streamfold-{self._name}", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def submit(self, function: Callable[..., Any], *what: Any) -> Future[Any]:
        """Runs a hook away from the traffic."""
        if inspect.iscoroutinefunction(function):
            return self.spawn(_contained(function(*what)))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"streamfold-{self._name}")
        return self._pool.submit(_call, function, *what)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Runs a coroutine on the plugin's own event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._running_loop())

    def drain(self, timeout: float) -> bool:
        """Waits until all responses are delivered."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopped)
                if not self._queue:
                    return
                job = self._queue.popleft()
                self._busy = True
            rest = self._deliver(*job)
            if rest is not None:
                self.spawn(rest).exception()
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name=f"streamfold-{self._name}-loop", daemon=True).start()
        return self._loop


class _DiedError(Exception):
    """A hook that wanted to end more than itself. The event loop or the request would have ended with it."""


def _call(function: Callable[..., Any], *what: Any) -> Any:
    try:
        return function(*what)
    except (SystemExit, KeyboardInterrupt) as error:
        raise _DiedError from error


async def _contained(work: Any) -> Any:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise _DiedError from error


def _waits(answer: Any) -> bool:
    return answer is not None and inspect.isawaitable(answer)


def _name(error: BaseException) -> str:
    return type(error.__cause__ if isinstance(error, _DiedError) else error).__name__


def _is_ours(error: BaseException) -> bool:
    """Whether the request itself is being cancelled, rather than something in the plugin."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _place(error: BaseException) -> str:
    trace = (error.__cause__ if isinstance(error, _DiedError) and error.__cause__ else error).__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
