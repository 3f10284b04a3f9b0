"""The other side of the in-loop measurement, in a process of its own: a paced provider, and the clients that wait.

Told the port of the pass-through on standard input, after it has told the port of its provider on standard output.
Its last word is how many answers did not arrive as they were sent.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import aiohttp
from aiohttp import web

from streamfold.bench.workloads import Workload, anthropic, chat_text, events_of, responses

__all__ = ["AT_ONCE", "TICK", "loads", "main", "serve"]

AT_ONCE: Final = 100
"""Streams open at once."""
TICK: Final = 0.02
"""Seconds between two events of one stream."""
HOST: Final = "127.0.0.1"


def loads(seconds: float) -> dict[str, Workload]:
    """The streams, each about `seconds` long."""
    events = max(20, int(seconds / TICK))
    kinds = (chat_text(events, padded=True), responses(events), anthropic(events // 4, events // 2, events // 4))
    return {load.name: load for load in kinds}


async def serve(handler: object) -> tuple[web.AppRunner, int]:
    """Serves `/NAME` at a free port of this machine."""
    app = web.Application()
    app.router.add_get("/{name}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    return runner, int(runner.addresses[0][1])


async def _provide(request: web.Request, events: dict[str, list[bytes]]) -> web.StreamResponse:
    out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await out.prepare(request)
    clock = asyncio.get_running_loop().time
    due = clock()
    for event in events[request.match_info["name"]]:
        await out.write(event)
        due += TICK
        await asyncio.sleep(max(0.0, due - clock()))
    return out


async def _ask(session: aiohttp.ClientSession, number: int, port: int, load: Workload) -> bool:
    """Whether the answer is what was sent."""
    await asyncio.sleep(number * TICK / AT_ONCE)
    async with session.get(f"http://{HOST}:{port}/{load.name}") as answer:
        return await answer.read() == load.body


async def _run(seconds: float) -> int:
    kinds = loads(seconds)
    events = {name: events_of(load.body) for name, load in kinds.items()}
    runner, port = await serve(lambda request: _provide(request, events))
    print(port, flush=True)
    through = int(await asyncio.to_thread(sys.stdin.readline))
    turns = list(kinds.values())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        asked = (_ask(session, number, through, turns[number % len(turns)]) for number in range(AT_ONCE))
        answers = await asyncio.gather(*asked)
    await runner.cleanup()
    return answers.count(False)


def main(seconds: float) -> None:
    """Runs the load once."""
    print(asyncio.run(_run(seconds)), flush=True)
