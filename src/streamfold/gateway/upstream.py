"""The client side of the gateway: one method, so that another HTTP client can take aiohttp's place.

It must not be clever. No redirect is followed, no cookie kept, nothing decompressed, no header added; each piece of
the body is handed over as the socket gave it. What fails is told in words of ours: the texts of foreign exceptions
may quote a URL, and a URL may carry a key.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NamedTuple, Protocol, Self

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from streamfold.errors import WireError
from streamfold.gateway.headers import Headers

__all__ = [
    "AiohttpClient",
    "Answer",
    "Body",
    "UpstreamBrokeError",
    "UpstreamClient",
    "UpstreamUnreachableError",
]

Body = bytes | AsyncIterator[bytes] | None

MAX_HEADER: Final = 64 * 1024
OURS_TO_LEAVE: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""Headers that aiohttp would add on its own."""


class UpstreamUnreachableError(WireError):
    """No answer came: no connection, or it closed before the status line. The message is fit for the client.

    `timed_out`: it was waited for too long.
    """

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class UpstreamBrokeError(WireError):
    """The answer broke off before its end."""


class Answer(NamedTuple):
    """What came back. `pieces` is the body as it arrives, and raises `UpstreamBrokeError` when it breaks off."""

    status: int
    headers: Headers
    pieces: AsyncIterator[bytes]


class UpstreamClient(Protocol):
    """How the gateway asks an upstream."""

    def stream(
        self, method: str, url: str, headers: Headers, body: Body, *, connect_timeout: float = 0.0
    ) -> AbstractAsyncContextManager[Answer]:
        """Sends a request; leaving the context closes the connection at once if the body was not read to its end.

        `connect_timeout` is in seconds, 0 for none; it includes the wait for a free connection. Raises
        `UpstreamUnreachableError` when no answer comes.
        """

    async def close(self) -> None:
        """Closes the idle connections."""


class AiohttpClient:
    """`UpstreamClient` on aiohttp, which costs the least CPU per piece of the pure-Python-facing clients."""

    def __init__(self, *, connections: int = 0) -> None:
        """`connections` is how many there may be to one upstream, 0 for no bound."""
        self._session = aiohttp.ClientSession(
            # Pools are per upstream: one that is slow must not take the connections of the others.
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=connections),
            # A shared jar would hand one client's cookies to another.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=OURS_TO_LEAVE,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
        )

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: Headers, body: Body, *, connect_timeout: float = 0.0
    ) -> AsyncGenerator[Answer, None]:
        """See `UpstreamClient.stream`."""
        try:
            response = await self._session.request(
                method,
                URL(url, encoded=True),
                headers=CIMultiDict((_text(name), _text(value)) for name, value in headers),
                data=body,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout or None),
            )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            timed_out = isinstance(error, TimeoutError)
            raise UpstreamUnreachableError(_why(error), timed_out=timed_out) from error
        try:
            lowered = [(name.lower(), value) for name, value in response.raw_headers]
            yield Answer(response.status, lowered, _Pieces(response))
        finally:
            response.close()

    async def close(self) -> None:
        """See `UpstreamClient.close`."""
        await self._session.close()


class _Pieces:
    """The body as it arrives. No generator: as little as may be stands between the socket and the reader."""

    __slots__ = ("_read",)

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._read = response.content.readany

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._read()
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamBrokeError(_why_broken(error)) from error
        if not piece:
            raise StopAsyncIteration
        return piece


def _text(value: bytes) -> str:
    """A header as aiohttp wants it. It encodes as UTF-8, so what is UTF-8 already comes out as it went in."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


_WHY: Final[Mapping[type[BaseException], str]] = {
    aiohttp.ConnectionTimeoutError: "the connection timed out",
    aiohttp.ClientConnectorDNSError: "its host name cannot be resolved",
    aiohttp.ClientConnectorCertificateError: "its TLS certificate was refused",
    aiohttp.ClientSSLError: "the TLS handshake failed",
    aiohttp.ServerDisconnectedError: "it closed the connection without an answer",
    aiohttp.ClientPayloadError: "the connection closed before the body was complete",
    aiohttp.ClientResponseError: "its answer is not valid HTTP",
    aiohttp.InvalidURL: "the path or query is not valid in a URL",
    TimeoutError: "the connection timed out",
    ConnectionRefusedError: "the connection was refused",
    ConnectionResetError: "the connection was reset",
    socket.gaierror: "its host name cannot be resolved",
    asyncio.IncompleteReadError: "the connection closed early",
}
"""Kind of failure -> words. An exception is looked up by its own class first, then by its parents."""


def _why(error: BaseException) -> str:
    inner = getattr(error, "os_error", None) or error
    for each in (error, inner):
        for kind in type(each).__mro__:
            if kind in _WHY:
                return _WHY[kind]
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror.lower()
    return type(error).__name__


def _why_broken(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, OSError):
        return _why(cause)
    return _why(error)
