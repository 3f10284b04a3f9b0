"""The gateway's own server stack (uvicorn, raw ASGI, aiohttp) passing bytes on and doing nothing else.

    python bare.py PORT UPSTREAM_URL

What `streamfold serve` costs beyond this is the price of knowing what passed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvicorn
import uvloop

from streamfold.gateway.headers import end_to_end, request_headers
from streamfold.gateway.upstream import AiohttpClient


class Bare:
    """One upstream, every path."""

    def __init__(self, url: str, client: AiohttpClient) -> None:
        self.url, self.client = url, client

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        url = self.url + scope["raw_path"].decode()
        async with self.client.stream(scope["method"], url, request_headers(scope["headers"]), body) as answer:
            await send({"type": "http.response.start", "status": answer.status, "headers": end_to_end(answer.headers)})
            async for piece in answer.pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def main() -> None:
    client = AiohttpClient()
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
