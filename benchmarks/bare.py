"""The gateway's own server stack (uvicorn, raw ASGI, aiohttp) passing bytes on and doing nothing else.

    python bare.py PORT UPSTREAM_URL

What `streamfold serve` costs beyond this is the price of knowing what passed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiohttp
import uvicorn
import uvloop

HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"host"}


class Bare:
    """One upstream, every path."""

    def __init__(self, url: str, client: aiohttp.ClientSession) -> None:
        self.url, self.client = url, client

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        url = self.url + scope["raw_path"].decode()
        headers = {name.decode(): value.decode() for name, value in scope["headers"] if name not in HOP_BY_HOP}
        async with self.client.request(scope["method"], url, headers=headers, data=body) as answer:
            kept = [(name.lower(), value) for name, value in answer.raw_headers if name.lower() not in HOP_BY_HOP]
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            async for piece in answer.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def main() -> None:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
    )
    async with session as client:
        config = uvicorn.Config(
            Bare(sys.argv[2], client),
            port=int(sys.argv[1]),
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            date_header=False,
        )
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
