"""Who may come in, what a browser may be led to do, and where requests may be led to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import openai
import pytest

from scripted import PATIENCE, Reply, Rig, ask, rig
from streamfold.gateway.access import COOKIE, hash_of, new_token
from streamfold.gateway.config import Access, ClientSettings, UpstreamSettings, load_config
from streamfold.gateway.scenes import ANSWER, play_all
from streamfold.gateway.scripted import Script, ScriptedUpstream
from streamfold.gateway.server import listen, running
from streamfold.store import LogStore

PATH = "/v1/chat/completions"
VIA = "/openai" + PATH
JSON = [("content-type", "application/json")]
CHAT = msgspec.json.encode({"model": "gpt-4o-mini", "messages": [], "stream": True})
ALICE, BOB = new_token(), new_token()
CLIENTS = {"alice": ClientSettings(hash_of(ALICE)), "bob": ClientSettings(hash_of(BOB), page=False)}
CLOSED = Access(clients=CLIENTS)
OWN_PAGES = ["/", "/logs", "/metrics"]


async def raw(address: str, request: bytes) -> bytes:
    """Sends bytes as they are, and reads until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
    writer.write(request)
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    writer.close()
    return answer


async def refused(gateway: Rig, reason: str) -> float:
    """The count of a reason in /metrics."""
    reply = await ask(gateway.address, "GET", "/metrics", [("x-streamfold-token", ALICE)])
    line = next(line for line in reply.body.decode().splitlines() if f'refused_total{{reason="{reason}"}}' in line)
    return float(line.rpartition(" ")[2])


@asynccontextmanager
async def rig_with_key(directory: Path, access: Access = CLOSED) -> AsyncGenerator[Rig, None]:
    """A gateway that puts in the key of its upstream."""
    async with ScriptedUpstream() as upstream:
        settings = UpstreamSettings(upstream.url, key_env="OPS_TEST_KEY")
        config = load_config(upstreams={"openai": settings}, access=access)
        with LogStore.open(str(directory / "log.db")) as store:
            async with running(config, store, listen("127.0.0.1", 0)) as address:
                yield Rig(address, upstream, store)


# ---------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    "header",
    [
        ("x-streamfold-token", ALICE),
        ("authorization", f"Bearer {ALICE}"),
        ("x-api-key", ALICE),
        ("api-key", ALICE),
        ("x-goog-api-key", ALICE),
    ],
)
async def test_a_token_opens_the_door_and_stays_there(tmp_path: Path, header: tuple[str, str]) -> None:
    """A token is taken wherever an SDK puts its key; the row names the client, and the upstream never sees it."""
    async with rig(tmp_path, access=CLOSED) as gateway:
        play_all(gateway.upstream, 0)
        reply = await ask(gateway.address, "POST", VIA, [*JSON, header, ("x-other", "kept")], CHAT)
        row = await gateway.row()
        received = await gateway.upstream.received()

    assert (reply.status, row.client) == (200, "alice")
    assert received.header("x-other") == "kept"
    assert ALICE not in str(received.headers)


async def test_a_token_in_the_query_is_taken_out(tmp_path: Path) -> None:
    """Gemini's way of giving a key works too, and the rest of the query goes on as it was."""
    async with rig(tmp_path, access=CLOSED) as gateway:
        play_all(gateway.upstream, 0)
        reply = await ask(gateway.address, "POST", f"{VIA}?a=1&key={ALICE}&b=%20", JSON, CHAT)
        received = await gateway.upstream.received()

    assert (reply.status, received.target) == (200, f"{PATH}?a=1&b=%20")


async def test_own_credentials_go_on_beside_a_token(tmp_path: Path) -> None:
    """With the token in its own header, the client's key for the upstream passes through."""
    async with rig(tmp_path, access=CLOSED) as gateway:
        play_all(gateway.upstream, 0)
        headers = [*JSON, ("x-streamfold-token", BOB), ("authorization", "Bearer sk-own-key")]
        await ask(gateway.address, "POST", VIA, headers, CHAT)
        received = await gateway.upstream.received()

    assert received.header("authorization") == "Bearer sk-own-key"


async def test_an_sdk_with_a_token_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An SDK gets by with nothing but its token, when the gateway puts in the upstream's key."""
    monkeypatch.setenv("OPS_TEST_KEY", "sk-configured-1234567890")
    async with rig_with_key(tmp_path) as gateway:
        play_all(gateway.upstream, 0)
        async with openai.AsyncOpenAI(api_key=ALICE, base_url=gateway.address + "/openai/v1") as client:
            done = await client.chat.completions.create(model="gpt-4o-mini", messages=[])
        received = await gateway.upstream.received()

    assert done.choices[0].message.content == ANSWER
    assert received.header("authorization") == "Bearer sk-configured-1234567890"
    assert ALICE not in str(received.headers)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer sk-of-the-client")],
        [("x-streamfold-token", new_token())],
        [("x-streamfold-token", "")],
        [("authorization", f"Bearer {new_token()}")],
        [("authorization", f"Basic {ALICE}")],
        [("x-api-key", ALICE[:-1])],
        [("cookie", f"{COOKIE}={ALICE}")],
    ],
)
async def test_without_a_known_token_nothing_goes_up(tmp_path: Path, headers: list[tuple[str, str]]) -> None:
    """No token, a wrong one or one in the wrong place: 401, no request goes out and no row is written."""
    async with rig(tmp_path, access=CLOSED) as gateway:
        play_all(gateway.upstream, 0)
        reply = await ask(gateway.address, "POST", VIA, [*JSON, *headers], CHAT)
        counted = await refused(gateway, "token_required") + await refused(gateway, "token_unknown")
        rows = gateway.store.rows()

    assert (reply.status, reply.header(b"www-authenticate")) == (401, b'Bearer realm="streamfold"')
    assert (gateway.upstream.requests, rows, counted) == ([], [], 1)


async def test_anonymous_beside_named_clients(tmp_path: Path) -> None:
    """With `allow_anonymous` no token is needed, one that is sent is recognised, a wrong one is still refused."""
    access = Access(allow_anonymous=True, clients=CLIENTS)
    async with rig(tmp_path, access=access) as gateway:
        play_all(gateway.upstream, 0)
        replies = [
            await ask(gateway.address, "POST", VIA, [*JSON, *headers], CHAT)
            for headers in ([], [("x-streamfold-token", ALICE)], [("x-streamfold-token", new_token())])
        ]
        rows = await gateway.rows(2)

    assert [reply.status for reply in replies] == [200, 200, 401]
    assert [row.client for row in rows] == [None, "alice"]


# ---------------------------------------------------------------------- the page


@pytest.mark.parametrize("path", OWN_PAGES)
async def test_own_pages_need_a_token_that_may_see_them(tmp_path: Path, path: str) -> None:
    """The page, the log and the figures are for clients with `page`; a token may come in a header or the cookie."""
    async with rig(tmp_path, access=CLOSED) as gateway:
        statuses = [
            (await ask(gateway.address, "GET", path, headers)).status
            for headers in (
                [],
                [("x-streamfold-token", BOB)],
                [("x-streamfold-token", ALICE)],
                [("authorization", f"Bearer {ALICE}")],
                [("cookie", f"a=b; {COOKIE}={ALICE}; c=d")],
            )
        ]

    assert statuses == [401, 403, 200, 200, 200]


async def test_login(tmp_path: Path) -> None:
    """A browser is shown a form; the right token becomes a cookie that no script and no other site can use."""
    accept = [("accept", "text/html,*/*")]
    form = [("content-type", "application/x-www-form-urlencoded")]
    async with rig(tmp_path, access=CLOSED) as gateway:
        page = await ask(gateway.address, "GET", "/", accept)
        wrong = await ask(gateway.address, "POST", "/login", form, f"token={new_token()}".encode())
        right = await ask(gateway.address, "POST", "/login", form, f"token={ALICE}".encode())
        cookie = (right.header(b"set-cookie") or b"").decode()
        shown = await ask(gateway.address, "GET", "/logs", [("cookie", cookie.partition(";")[0])])

    assert (page.status, b'action="/login"' in page.body) == (401, True)
    assert (wrong.status, wrong.header(b"set-cookie")) == (401, None)
    assert (right.status, right.header(b"location"), shown.status) == (303, b"/", 200)
    assert cookie == f"{COOKIE}={ALICE}; Path=/; HttpOnly; SameSite=Strict"


async def test_the_cookie_reaches_no_upstream(tmp_path: Path) -> None:
    """The cookie opens no upstream, and is taken out of the cookies that go there."""
    access = Access(allow_anonymous=True, clients=CLIENTS)
    async with rig(tmp_path, access=access) as gateway:
        play_all(gateway.upstream, 0)
        await ask(gateway.address, "POST", VIA, [*JSON, ("cookie", f"a=b; {COOKIE}={ALICE}; c=d")], CHAT)
        row = await gateway.row()
        received = await gateway.upstream.received()

    assert (row.client, received.header("cookie")) == (None, "a=b; c=d")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("localhost:8787", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("192.168.1.7:8787", 200),
        ("gate.example:8787", 200),
        ("GATE.example", 200),
    ],
)
async def test_dns_rebinding(tmp_path: Path, host: str, status: int) -> None:
    """Without tokens, the log is shown only under names that no foreign page can make its own."""
    async with rig(tmp_path, access=Access(hosts=["gate.example"])) as gateway:
        request = f"GET /logs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        answer = await raw(gateway.address, request.encode())

    assert answer.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 200),
        ([("sec-fetch-site", "same-origin")], 200),
        ([("sec-fetch-site", "cross-site")], 403),
        ([("sec-fetch-site", "same-site")], 403),
        ([("origin", "https://evil.example")], 403),
        ([("origin", "null")], 403),
        ([("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")], 403),
        ([("origin", "http://HOST"), ("sec-fetch-site", "same-origin")], 200),
    ],
)
async def test_foreign_pages_cannot_spend_the_gateways_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: list[tuple[str, str]], status: int
) -> None:
    """An upstream whose key the gateway puts in answers to no request of another site's page."""
    monkeypatch.setenv("OPS_TEST_KEY", "sk-configured-1234567890")
    async with rig_with_key(tmp_path, Access()) as gateway:
        play_all(gateway.upstream, 0)
        own = gateway.address.removeprefix("http://")
        told = [(name, value.replace("HOST", own)) for name, value in headers]
        reply = await ask(gateway.address, "POST", VIA, [("content-type", "text/plain"), *told], CHAT)

    assert reply.status == status
    assert len(gateway.upstream.requests) == (status == 200)


# ---------------------------------------------------------------------- where requests go


class Decoy:
    """A server that must not be asked."""

    def __init__(self) -> None:
        self.visits = 0

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._visit, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def _visit(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        writer.close()


@pytest.mark.parametrize(
    "line",
    [
        "GET //{evil}/v1/models HTTP/1.1",
        "GET /{evil}/v1/models HTTP/1.1",
        "GET /openai@{evil}/v1/models HTTP/1.1",
        "GET /openai/@{evil}/v1/models HTTP/1.1",
        "GET /openai:80@{evil}/ HTTP/1.1",
        "GET /openai//{evil}/v1/models HTTP/1.1",
        "GET /openai/http://{evil}/ HTTP/1.1",
        "GET /openai%40{evil}/ HTTP/1.1",
        "GET /openai%2f@{evil}/ HTTP/1.1",
        "GET /openai/..%2f..%2f@{evil}/ HTTP/1.1",
        "GET /openai\\@{evil}/ HTTP/1.1",
        "GET /openai?@{evil}/ HTTP/1.1",
        "GET /openai#@{evil}/ HTTP/1.1",
        "GET http://{evil}/openai/v1/models HTTP/1.1",
        "GET http://{evil}/v1/models HTTP/1.1",
        "CONNECT {evil} HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ],
)
async def test_no_path_leads_elsewhere(tmp_path: Path, line: str) -> None:
    """However a path is spelled, and whatever Host says, only the configured upstream is ever asked."""
    decoy = Decoy()
    async with decoy as evil, rig(tmp_path) as gateway:
        head = f"{line.format(evil=evil)}\r\nHost: {evil}\r\nConnection: close\r\n\r\n"
        answer = await raw(gateway.address, head.encode())
        asked = [request.header("host") for request in gateway.upstream.requests]

    assert answer.startswith(b"HTTP/1.1 ")
    assert decoy.visits == 0
    assert set(asked) <= {gateway.upstream.url.removeprefix("http://")}


async def test_redirects_are_not_followed(tmp_path: Path) -> None:
    """A redirect is the client's to follow: the gateway passes it on and asks nobody."""
    decoy = Decoy()
    async with decoy as evil, rig(tmp_path) as gateway:
        moved = Script([b"moved"], status=307, headers=[("location", f"http://{evil}/")], framing="length")
        gateway.upstream.route("POST", PATH, moved)
        reply: Reply = await ask(gateway.address, "POST", VIA, JSON, CHAT)

    assert (reply.status, decoy.visits) == (307, 0)


def test_tokens_and_hashes() -> None:
    """Tokens are never alike, and what is kept of one does not hold it."""
    tokens = {new_token() for _ in range(100)}

    assert len(tokens) == 100
    assert all(len(token) == 46 and token[3:] not in hash_of(token) for token in tokens)
