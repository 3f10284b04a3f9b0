"""What the page's API answers, to whom, and what it costs at most."""

from __future__ import annotations

import asyncio
import gzip
import re
import sqlite3
import threading
import zipfile
from pathlib import Path
from typing import Any

import h11
import msgspec
import pytest

from scripted import Reply, ask, conversation, rig
from streamfold.gateway.config import Limits
from streamfold.gateway.scripted import Script
from streamfold.store import LogRow, LogStore
from streamfold.store.row import HEAVY
from streamfold.ui import Page
from streamfold.ui import app as page_app
from streamfold.ui.answers import Live, Rows, WholeRow
from streamfold.ui.api import PATHS

ROOT = Path(__file__).parent.parent

ROW = LogRow(
    id="r1",
    created="2026-01-01T00:00:00.000Z",
    model="gpt-5",
    status="success",
    latency_ms=100.0,
    metadata='{"team":"red"}',
    arrivals="[1.5,2]",
    request='{"messages":[]}',
    record='{"output_message":{"content":"Hi"}}',
    search_text="Hi",
    params="no JSON {",
)


def body(reply: Reply) -> Any:
    return msgspec.json.decode(reply.body)


async def asked(page: Page, path: str, query: str = "", method: str = "GET", **headers: str) -> Reply:
    """Asks a page without a server."""
    told: list[Any] = []

    async def send(message: Any) -> None:
        told.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    await page(scope, receive, send)
    start = told[0]
    return Reply(start["status"], start["headers"], b"".join(each["body"] for each in told[1:]), True)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """A log with one row."""
    with LogStore.open(str(tmp_path / "log.db")) as opened:
        opened.write([ROW])
        yield opened


@pytest.fixture
def page(store: LogStore) -> Any:
    """The page of that log."""
    made = Page(store)
    yield made
    made.close()


@pytest.mark.parametrize("path", ["/", "/ui/main.js", "/ui/none.js", "/api/rows", "/api/rows/none", "/api/none"])
async def test_every_answer_carries_the_policy(page: Page, path: str) -> None:
    """Whatever is answered tells the browser to run nothing inline, frame nothing, guess no type, tell no referrer."""
    reply = await asked(page, path)
    policy = (reply.header(b"content-security-policy") or b"").decode()
    assert "default-src 'none'; script-src 'self'; style-src 'self' 'sha256-" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert reply.header(b"x-content-type-options") == b"nosniff"
    assert reply.header(b"referrer-policy") == b"no-referrer"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_it_only_reads(page: Page, method: str) -> None:
    """Other methods than GET and HEAD are refused, and told which are not."""
    reply = await asked(page, "/api/rows", method=method)
    assert (reply.status, reply.header(b"allow")) == (405, b"GET, HEAD")


async def test_a_page_of_rows_has_no_content(page: Page) -> None:
    """Lists leave the columns out that hold what was said; JSON columns are JSON."""
    (row,) = body(await asked(page, "/api/rows", "model=gpt*&limit=10"))["rows"]
    assert not set(HEAVY) & set(row)
    assert (row["id"], row["metadata"]) == ("r1", {"team": "red"})


async def test_one_row_has_everything(page: Page) -> None:
    """A row has its columns of JSON as JSON, and as text where they are none."""
    row = body(await asked(page, "/api/rows/r1"))
    assert row["record"] == {"output_message": {"content": "Hi"}}
    assert (row["arrivals"], row["params"], row["live"]) == ([1.5, 2], "no JSON {", False)


@pytest.mark.parametrize(
    ("path", "query", "told"),
    [
        ("/api/rows", "colour=red", 'unknown filter "colour"'),
        ("/api/rows", "limit=501", "limit must be at most 500"),
        ("/api/rows", "cursor=xyz", "cursor is none that a page gave"),
        ("/api/statistics", "by=colour", 'cannot group by "colour"'),
        ("/api/statistics", "by=model&top=1000", "top must be 1 to 100"),
        ("/api/statistics", "limit=3", "limit belongs to /api/rows"),
        ("/api/series", "buckets=0", "buckets must be 1 to 500"),
        ("/api/series", "since=2020-01-01&interval=1s", "interval"),
        ("/api/histogram", "of=colour", 'of: unknown "colour"'),
        ("/api/histogram", "bins=9999999999999", "bins must be 1 to 200"),
    ],
)
async def test_mistakes_are_told_with_the_key(page: Page, path: str, query: str, told: str) -> None:
    """A wrong or too expensive question is answered with 400 and a sentence that names the key."""
    reply = await asked(page, path, query)
    assert reply.status == 400
    assert told in body(reply)["error"]["message"]


async def test_figures_are_those_of_the_store(page: Page) -> None:
    """Statistics, groups, series and histogram are answered as `store.query` computes them."""
    assert body(await asked(page, "/api/statistics", "status=success"))["requests"] == 1
    assert body(await asked(page, "/api/statistics", "by=model,status"))[0]["group"]["model"] == "gpt-5"
    range_ = "since=2026-01-01&until=2026-01-01T00:10:00Z&interval=5m"
    assert [each["statistics"]["requests"] for each in body(await asked(page, "/api/series", range_))] == [1, 0]
    assert body(await asked(page, "/api/histogram", "of=latency_ms"))["count"] == 1


async def test_the_schema_describes_what_is_answered(page: Page) -> None:
    """The schema names every address and every struct, and answers decode as the structs say."""
    told = body(await asked(page, "/api/schema"))
    assert told["paths"] == PATHS
    assert {"Rows", "WholeRow", "Statistics", "Bucket", "Histogram", "Live", "Row"} <= told["schemas"].keys()
    assert "latency_ms" in told["schemas"]["Row"]["properties"]
    msgspec.json.decode((await asked(page, "/api/rows")).body, type=Rows)
    msgspec.json.decode((await asked(page, "/api/rows/r1")).body, type=WholeRow)


def test_the_documentation_names_every_address() -> None:
    """docs/page.md lists the addresses that the schema does."""
    told = (ROOT / "docs" / "page.md").read_text()
    assert all(f"`{path}`" in told for path in PATHS)


async def test_a_log_that_cannot_be_read_is_said(page: Page, store: LogStore) -> None:
    """A broken database gives 503 and a sentence, without the database's own words."""
    database = sqlite3.connect(str(store.path))
    database.execute("DROP TABLE request_log")
    database.commit()
    database.close()
    reply = await asked(page, "/api/rows")
    assert reply.status == 503
    assert "cannot be read now (OperationalError)" in body(reply)["error"]["message"]
    assert "request_log" not in body(reply)["error"]["message"]


async def test_only_so_many_questions_wait(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions beyond the bound are told to come again; slow ones are given up; both leave the event loop free."""
    release = threading.Event()

    def slow(store: LogStore, pairs: Any) -> list[int]:
        release.wait(60)
        return [1]

    monkeypatch.setitem(page_app.QUESTIONS, "rows", slow)
    monkeypatch.setattr(page_app, "PATIENCE", 0.05)
    room = page_app.THREADS + page_app.MOST_WAITING
    replies = await asyncio.gather(*(asked(page, "/api/rows") for _ in range(room + 3)))
    kinds = [body(reply)["error"]["type"] for reply in replies]
    assert (kinds.count("log_slow"), kinds.count("busy")) == (room, 3)
    release.set()
    monkeypatch.setattr(page_app, "PATIENCE", 60)
    while (reply := await asked(page, "/api/rows")).status != 200:
        assert body(reply)["error"]["type"] == "busy"
        await asyncio.sleep(0)  # lets the threads' answers in
    assert body(reply) == [1]


async def test_files_are_sent_once(page: Page) -> None:
    """A file comes compressed to those who can read that, and not again to those who have it."""
    plain = await asked(page, "/ui/main.js")
    zipped = await asked(page, "/ui/main.js", accept_encoding="gzip, br")
    assert gzip.decompress(zipped.body) == plain.body
    etag = (plain.header(b"etag") or b"").decode()
    again = await asked(page, "/ui/main.js", if_none_match=etag)
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "/etc/passwd", "__init__.py", "", "static/main.js"])
async def test_only_the_pages_own_files_are_sent(page: Page, name: str) -> None:
    """No name leads to another file of this machine."""
    assert (await asked(page, "/ui/" + name)).status == 404


async def test_without_plotly_the_page_says_what_to_install(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is missing its file is not found, with the command that mends it."""
    monkeypatch.setattr("streamfold.ui.assets.plotly", lambda: None)
    reply = await asked(page, "/ui/plotly.min.js")
    assert reply.status == 404
    assert 'pip install "streamfold[ui]"' in body(reply)["error"]["message"]


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    """No file of ours has inline script or style, makes markup of text, evaluates text, or names another host."""
    for path in (ROOT / "src" / "streamfold" / "ui" / "static").iterdir():
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=\"", text), path
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path


def test_the_wheel_holds_the_page(tmp_path: Path) -> None:
    """A built wheel has every file of the page."""
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    (wheel,) = builders.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {path.name for path in (ROOT / "src" / "streamfold" / "ui" / "static").iterdir()}
    assert {"index.html", "main.js", "style.css"} <= files
    assert {f"streamfold/ui/static/{name}" for name in files} <= held


# ---------------------------------------------------------------------- through the gateway


async def test_the_gateway_shows_the_page_to_its_own_machine(tmp_path: Path) -> None:
    """`/` is the page; to a name that is not this machine's neither page nor questions are answered."""
    async with rig(tmp_path) as running:
        reply = await ask(running.address, "GET", "/")
        assert (reply.status, reply.header(b"content-type")) == (200, b"text/html; charset=utf-8")
        assert body(await ask(running.address, "GET", "/api/rows")) == {"rows": [], "next_cursor": None}
        for path in ("/", "/ui/main.js", "/api/rows", "/api/live"):
            assert await status_for_host(running.address, path, "evil.example") in (400, 401, 403, 421), path


def event(text: str) -> bytes:
    return b"data: " + msgspec.json.encode({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]}) + b"\n\n"


async def test_a_stream_under_way_tells_when_its_reads_came(tmp_path: Path) -> None:
    """The row of a stream under way has the times of the reads so far, and those of the log begin with the same."""
    gates = [asyncio.Event() for _ in range(3)]
    steps: list[Any] = [step for gate in gates for step in (event("word "), gate)]
    async with rig(tmp_path) as running:
        running.upstream.route("POST", "/v1/chat/completions", Script(steps))
        talk_to = conversation(running.address, "POST", "/openai/v1/chat/completions", [], b'{"stream":true}')
        async with talk_to as talk:
            await talk.receive()
            id = await under_way(running.address)
            seen: list[list[float]] = []
            for gate in gates:
                await talk.receive()
                whole = await body_of(running.address, f"/api/rows/{id}")
                assert (whole["live"], whole["status"]) == (True, "processing")
                seen.append(whole["arrivals"])
                gate.set()
            while not isinstance(await talk.receive(), h11.EndOfMessage):
                pass
        row = await running.row()

    assert [len(each) for each in seen] == [1, 2, 3]
    assert seen[-1] == sorted(seen[-1])
    assert seen[0] == seen[-1][:1]
    assert msgspec.json.decode(row.arrivals or "") == seen[-1]


async def test_the_times_of_a_long_stream_under_way_are_few(tmp_path: Path) -> None:
    """However many reads there were, of a stream under way the times of 500 are told at most, the last among them."""
    never, texts = asyncio.Event(), [event(f"{number} ") for number in range(1200)]
    paced = [step for text in texts for step in (text, 0.0)]
    async with rig(tmp_path) as running:
        running.upstream.route("POST", "/v1/chat/completions", Script([*paced, event("last"), never]))
        talk_to = conversation(running.address, "POST", "/openai/v1/chat/completions", [], b'{"stream":true}')
        async with talk_to as talk:
            received = b""
            await talk.receive()
            while not received.endswith(event("last")):
                received += (await talk.receive()).data
            id = await under_way(running.address)
            whole = await body_of(running.address, f"/api/rows/{id}")

    assert whole["chunks"] == 1201
    assert len(whole["arrivals"]) <= 500
    assert whole["arrivals"] == sorted(whole["arrivals"])


async def under_way(address: str) -> str:
    """The id of the one request under way."""
    async with conversation(address, "GET", "/api/live") as talk:
        await talk.receive()
        while True:
            news = bytes((await talk.receive()).data).partition(b"data: ")[2]
            if news and (streams := msgspec.json.decode(news, type=Live).streams):
                return streams[0].id


async def body_of(address: str, path: str) -> Any:
    return body(await ask(address, "GET", path))


async def status_for_host(address: str, path: str, host: str) -> int:
    """The status that a request with another Host header is answered with."""
    reader, writer = await asyncio.open_connection(*address.removeprefix("http://").split(":"))
    writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


async def test_a_watching_page_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """A stream of events ends when the gateway stops, well before the grace that other streams have."""
    async with asyncio.timeout(60):
        async with rig(tmp_path, limits=Limits(shutdown_grace_s=3600)) as running:
            talk_to = conversation(running.address, "GET", "/api/live")
            talk = await talk_to.__aenter__()
            assert (await talk.receive()).status_code == 200
            assert (await talk.receive()).data.startswith(b"event: live\n")
        await talk_to.__aexit__(None, None, None)
