"""The page in a real browser: what it shows, that it is alive, that it can be used, and that nothing in it is run."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import queue
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
import pytest

from browser import Browser, browser, session_browser
from scripted import Rig, rig
from streamfold.gateway.access import hash_of, new_token
from streamfold.gateway.config import Access, ClientSettings
from streamfold.gateway.scripted import Script
from streamfold.store import LogRow, LogStore

__all__ = ["browser", "session_browser"]

ARROW_DOWN, ENTER, ESCAPE, TAB = "\ue015", "\ue007", "\ue00c", "\ue004"


class Served(NamedTuple):
    """A running gateway whose event loop is in another thread."""

    rig: Rig
    loop: asyncio.AbstractEventLoop

    @property
    def address(self) -> str:
        return self.rig.address

    @property
    def store(self) -> LogStore:
        return self.rig.store

    def set(self, event: asyncio.Event) -> None:
        self.loop.call_soon_threadsafe(event.set)

    def request(self, body: dict[str, Any]) -> http.client.HTTPConnection:
        """Sends a streaming request, and does not read its answer."""
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=60)
        headers = {"content-type": "application/json"}
        connection.request("POST", "/openai/v1/chat/completions", json.dumps({"stream": True, **body}), headers)
        return connection


@contextlib.contextmanager
def in_a_thread(main: Any) -> Iterator[Any]:
    """Runs `main(ready, stop)` on an event loop of its own until the block is left; gives what it told `ready`."""
    told: queue.Queue[Any] = queue.Queue()
    stops: list[Any] = []

    async def run() -> None:
        stop = asyncio.Event()
        stops.extend((asyncio.get_running_loop(), stop))
        try:
            await main(told.put, stop)
        except BaseException as error:
            told.put(error)
            raise

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    found = told.get(timeout=60)
    if isinstance(found, BaseException):
        raise found
    try:
        yield found
    finally:
        loop, stop = stops
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A gateway with an empty log."""

    async def main(ready: Any, stop: asyncio.Event) -> None:
        async with rig(tmp_path) as running:
            ready(Served(running, asyncio.get_running_loop()))
            await stop.wait()

    with in_a_thread(main) as found:
        yield found


def ago(seconds: float) -> str:
    moment = datetime.now(UTC) - timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def made(number: int, **about: Any) -> LogRow:
    """A row that began `number` minutes ago."""
    usual: dict[str, Any] = {
        "id": f"row{number:04d}",
        "created": ago(60 * number),
        "ended": ago(60 * number - 1),
        "stream": True,
        "upstream": "openai",
        "provider": "openai",
        "model": "gpt-5",
        "status": "success",
        "latency_ms": 100.0 + number,
        "time_to_first_token_ms": 10.0 + number,
        "prompt_tokens": 10,
        "completion_tokens": number,
        "total_tokens": 10 + number,
        "cost": 0.001 * number,
        "chunks": 5,
    }
    return LogRow(**{**usual, **about})


def ids(browser: Browser) -> list[str]:
    found: list[str] = browser.run("return [...document.querySelectorAll('.rows tbody tr')].map((e) => e.dataset.key)")
    return found


def overflow(browser: Browser) -> int:
    """By how many pixels the page is wider than the window."""
    return int(browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


# ---------------------------------------------------------------------- the list


def test_an_empty_log_says_how_to_begin(browser: Browser, served: Served) -> None:
    """Without requests the page says so and how to make one, and the console has nothing to say."""
    browser.open(served.address)
    browser.wait(lambda: browser.shows(".empty"), "the empty list")
    assert f"{served.address}/openai/v1" in browser.text(".empty")
    assert "Nothing is under way" in browser.text("#flight-none")
    browser.wait(lambda: browser.text("#live-state") == "live", "the live connection")
    assert browser.console() == []


def test_rows_are_filtered_sorted_and_searched(browser: Browser, served: Served) -> None:
    """Filters, search and sort narrow and order the list, and the address keeps them."""
    served.store.write(
        [
            made(1),
            made(2, status="error", error_type="overloaded", model="claude", upstream="anthropic"),
            made(3, search_text="Where is my refund?\nOn its way."),
        ]
    )
    browser.open(served.address)
    browser.wait(lambda: ids(browser) == ["row0001", "row0002", "row0003"], "all rows, the newest first")

    browser.run(
        "const choice = document.querySelector('[name=status]'); choice.value = 'error';"
        "choice.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    browser.wait(lambda: ids(browser) == ["row0002"], "the errors")
    assert "status=error" in browser.driver.current_url
    browser.click(".chip")
    browser.wait(lambda: len(ids(browser)) == 3, "all rows again")

    browser.click("#search")
    browser.keys("REFUND")
    browser.wait(lambda: ids(browser) == ["row0003"], "what mentions a refund")
    browser.driver.back()
    browser.open(f"{served.address}/?model=gpt*&sort=-latency_ms")
    browser.wait(lambda: ids(browser) == ["row0003", "row0001"], "the slowest first")
    assert browser.run("return document.querySelector('th.c-latency').ariaSort") == "descending"
    browser.click("th.c-latency button")
    browser.wait(lambda: ids(browser) == ["row0001", "row0003"], "the quickest first")
    assert browser.console() == []


def test_a_long_list_is_paged_by_cursor(browser: Browser, served: Served) -> None:
    """Pages follow one another without a gap, and back."""
    served.store.write([made(number) for number in range(1, 121)])
    browser.open(served.address)
    browser.wait(lambda: len(ids(browser)) == 50, "the first page")
    browser.click(".pages button:last-child")
    browser.wait(lambda: ids(browser)[0] == "row0051", "the second page")
    browser.click(".pages button:last-child")
    browser.wait(lambda: ids(browser)[0] == "row0101" and len(ids(browser)) == 20, "the last page")
    assert browser.run("return document.querySelector('.pages button:last-child').disabled")
    browser.click(".pages button:first-child")
    browser.wait(lambda: ids(browser)[0] == "row0051", "back")


def test_a_mistake_in_a_filter_is_explained(browser: Browser, served: Served) -> None:
    """What the log says about a wrong filter is shown, and goes away with the mistake."""
    browser.open(f"{served.address}/?sort=colour")
    browser.wait(lambda: 'unknown "colour"' in browser.text("#trouble"), "the mistake")
    browser.click('[data-view="overview"]')
    browser.open(served.address)
    browser.wait(lambda: browser.shows(".empty") and not browser.shows("#trouble"), "no trouble")


def test_a_broken_log_is_said_and_its_return_seen(browser: Browser, served: Served) -> None:
    """When the log database cannot be read the page says so in words; when it can again, the rows are back."""
    served.store.write([made(1)])
    browser.open(served.address)
    browser.wait(lambda: len(ids(browser)) == 1)
    database = sqlite3.connect(str(served.store.path))
    database.execute("ALTER TABLE request_log RENAME TO gone")
    database.commit()
    browser.wait(lambda: "cannot be read now" in browser.text("#trouble"), "the trouble")
    database.execute("ALTER TABLE gone RENAME TO request_log")
    database.commit()
    database.close()
    served.store.write([made(2)])
    browser.wait(lambda: not browser.shows("#trouble") and len(ids(browser)) == 2, "the rows")


# ---------------------------------------------------------------------- live


def test_a_stream_grows_before_the_eyes_and_becomes_a_row(browser: Browser, served: Served) -> None:
    """The text of a stream under way grows on the page; when it has ended it is a row, without a reload."""
    gates = [asyncio.Event() for _ in range(3)]
    script = Script(
        [
            event({"role": "assistant", "reasoning_content": "Thinking."}),
            gates[0],
            event({"content": "One "}),
            gates[1],
            event({"content": "two "}),
            gates[2],
            event({"content": "three."}),
            event({}, "stop"),
            b"data: [DONE]\n\n",
        ]
    )
    served.rig.upstream.route("POST", "/v1/chat/completions", script)
    browser.open(served.address)
    browser.wait(lambda: browser.text("#live-state") == "live")
    connection = served.request({"model": "gpt-5", "messages": [{"role": "user", "content": "Count"}]})
    browser.wait(lambda: browser.text(".part-reasoning") == "Thinking.", "the reasoning")
    served.set(gates[0])
    browser.wait(lambda: browser.text(".part-content") == "One ", "the first word")
    browser.run("document.querySelector('.part-content').firstChild.mark = true")
    served.set(gates[1])
    browser.wait(lambda: browser.text(".part-content") == "One two ", "the second word")
    assert browser.run("return document.querySelector('.part-content').firstChild.mark"), "text was put in anew"

    browser.click(".card")
    browser.wait(lambda: "One two" in browser.text("#detail .section-answer"), "the detail")
    served.set(gates[2])
    browser.wait(lambda: "One two three." in browser.text("#detail .section-answer"), "the whole in the detail")
    assert connection.getresponse().read().endswith(b"[DONE]\n\n")
    browser.wait(lambda: browser.count(".card") == 0, "the card to go")
    browser.wait(lambda: "success" in browser.text(".rows tbody .c-status"), "the row")
    browser.wait(lambda: "success" in browser.text("#detail .badge"), "the detail's end")
    connection.close()
    assert browser.console() == []


def test_the_plot_of_a_stream_grows_with_it(browser: Browser, served: Served) -> None:
    """When the reads of a stream came is drawn while it is under way, on one plot that grows; the end is on it too."""
    gates = [asyncio.Event() for _ in range(6)]
    steps: list[Any] = [step for gate in gates for step in (event({"content": "word "}), gate)]
    served.rig.upstream.route("POST", "/v1/chat/completions", Script([*steps, event({}, "stop"), b"data: [DONE]\n\n"]))
    browser.open(served.address)
    connection = served.request({"model": "gpt-5", "messages": [{"role": "user", "content": "Count"}]})
    browser.click(".card")
    drawn = "return document.querySelector('#detail .arrivals .plot.js-plotly-plot')?.data[0].x.length ?? 0"
    summary = "#detail .arrivals .summary"

    browser.wait(lambda: browser.run(drawn) == 2, "a point at the start and one for the first read")
    assert browser.text(summary).startswith("1 read within ")
    assert " so far, first token after " in browser.text(summary)
    browser.run("document.querySelector('#detail .arrivals .plot').mark = true")
    for number, gate in enumerate(gates[:-1], start=2):
        served.set(gate)
        browser.wait(lambda number=number: browser.run(drawn) == number + 1, f"read {number}")
    assert "longest gap" in browser.text(summary)
    assert browser.run("return document.querySelector('#detail .arrivals .plot').mark"), "the plot was put in anew"

    served.set(gates[-1])
    connection.getresponse().read()
    connection.close()
    browser.wait(lambda: "success" in browser.text("#detail .badge"), "the end")
    browser.wait(lambda: "so far" not in browser.text(summary), "the whole plot")
    assert browser.run("return document.querySelector('#detail .arrivals .plot').mark")
    browser.keys(ESCAPE)
    browser.wait(lambda: not browser.shows("#detail"), "the detail to close")
    assert browser.console() == []


def test_streams_of_other_processes_are_shown_too(browser: Browser, served: Served) -> None:
    """What another process that shares the log has under way is shown with the text of its last checkpoint."""
    with LogStore.open(str(served.store.path)) as other:
        assert other.instance != served.store.instance
        row = made(0, id="elsewhere", status="processing", ended=None, instance=other.instance, revision=1)
        row.record = msgspec.json.encode({"output_message": {"content": "Told elsewhere"}}).decode()
        other.write([row])
        browser.open(served.address)
        browser.wait(lambda: browser.text(".part-content") == "Told elsewhere", "the other's text")
        row.revision, row.record = 2, row.record.replace("elsewhere", "elsewhere, and more")
        other.write([row])
        browser.wait(lambda: browser.text(".part-content") == "Told elsewhere, and more", "its next checkpoint")


def test_live_updates_can_be_paused(browser: Browser, served: Served) -> None:
    """While paused the list stands still; going on, it catches up."""
    browser.open(served.address)
    browser.wait(lambda: browser.text("#live-state") == "live")
    browser.click("#live-switch")
    assert browser.text("#live-state") == "paused"
    served.store.write([made(1)])
    browser.click("#live-switch")
    browser.wait(lambda: ids(browser) == ["row0001"], "the row")


# ---------------------------------------------------------------------- one request

RECORD: dict[str, Any] = {
    "output_message": {
        "role": "assistant",
        "content": "It rains in Zürich.",
        "reasoning": "I should look.",
        "tool_calls": [
            {"index": 0, "id": "call_1", "function": {"name": "get_weather", "arguments": '{"city":"Zürich"}'}},
            {"index": 1, "function": {"name": "cut", "arguments": '{"a'}, "arguments_complete": False},
        ],
    },
    "token_usage": {
        "prompt_tokens": 1200,
        "completion_tokens": 300,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_read_tokens": 1000},
        "source": "provider",
    },
    "cost": {
        "total_cost": 0.0035,
        "source": "catalog",
        "complete": False,
        "details": {
            "priced_as": {"model": "gpt-5"},
            "components": {
                "input": {"units": 200, "rate": 2.5e-06, "cost": 0.0005},
                "output": {"units": 300, "rate": 1e-05, "cost": 0.003},
            },
            "incomplete": ["cached_read has no rate"],
        },
    },
    "response": {"id": "native-1", "big": 12345678901234567890},
    "raw_response": '["first raw line","second raw line"]',
    "integrity": {"anomalies": ["late_usage"], "end_marker": True, "missing": [3]},
}


def test_a_request_is_shown_whole(browser: Browser, served: Served) -> None:
    """The detail has message, reasoning, tool calls, usage, the cost's arithmetic, timing, request, tape, integrity."""
    arrivals = [100.0 + 10 * each for each in range(40)] + [900.0]
    row = made(
        1,
        record=json.dumps(RECORD),
        arrivals=json.dumps(arrivals),
        request=json.dumps({"messages": [{"role": "user", "content": "How is the weather?"}]}),
        metadata='{"team":"red"}',
        time_to_first_token_ms=100.0,
        anomalies=1,
        session_id="session-9",
    )
    served.store.write([row])
    browser.open(f"{served.address}/?id=row0001")
    browser.wait(lambda: browser.count("#detail .js-plotly-plot .main-svg") > 0, "the plot of arrivals")
    answer = browser.text(".section-answer")
    for part in ("It rains in Zürich.", "I should look.", "get_weather", '"city": "Zürich"', "arguments cut off"):
        assert part in answer
    cost = browser.text(".section-usage")
    for part in ("1,200", "read from cache", "1,000", "$2.5 per million", "$0.0005", "$0.0035", "has no rate"):
        assert part in cost
    assert "How is the weather?" in browser.text(".section-request")
    assert "native-1" in browser.text(".section-native")
    assert "12345678901234567890" in browser.text(".section-native")
    assert browser.text(".section-tape pre") == "first raw line\nsecond raw line"
    assert "late_usage" in browser.text(".section-integrity")
    assert "longest gap 410 ms" in browser.text(".section-arrivals")
    assert "red" in browser.text(".section-about")
    assert browser.console() == []


def test_a_row_that_is_gone_is_said_to_be(browser: Browser, served: Served) -> None:
    """An id that the log does not have gives a sentence, not an empty panel."""
    browser.open(f"{served.address}/?id=nosuch")
    browser.wait(lambda: "there is no row of that id" in browser.text("#detail"))


# ---------------------------------------------------------------------- hostile content

HOSTILE = [
    "<script>window.pwned = 1</script>",
    '<img src=x onerror="window.pwned = 1">',
    '<a href="javascript:window.pwned = 1">x</a>',
    "javascript:window.pwned=1",
    "\u202egnp.exe\u202c \u2066 \u0000\u001b[31m",
    "{{constructor.constructor('window.pwned=1')()}}",
    "']);window.pwned=1;//",
    "</pre></script><svg/onload=window.pwned=1>",
    "x" * 5000,
]


FOREIGN = """
    return [...document.querySelectorAll(':is(main, #detail) *')].filter((each) => !each.closest('.plot')
        && /^(script|img|svg|iframe|object|embed|form|link|style|base|meta)$/i.test(each.tagName)).length
"""
"""How many elements there are among the content that the page does not make."""


def hostile_row(number: int, text: str) -> LogRow:
    """A row that says `text` wherever it can say anything."""
    row = made(number)
    for field in msgspec.structs.fields(LogRow):
        if "str" in str(field.type) and field.name not in ("id", "created", "ended", "status", "instance"):
            setattr(row, field.name, text.replace("\0", ""))
    row.id = f"hostile{number}"
    said = {"role": text, "content": text, "reasoning": text, "refusal": text, "audio": {"transcript": text}}
    calls = [{"index": 0, "id": text, "function": {"name": text, "arguments": text}, "arguments_complete": False}]
    record = {
        "output_message": {**said, "tool_calls": calls, "annotations": [{text: text}], "images": [{text: text}]},
        "choices": [{"index": text, "message": {**said, "tool_calls": calls}, "finish_reason": text} for _ in "ab"],
        "token_usage": {"prompt_tokens": text, "prompt_tokens_details": {text: 5}, "source": text},
        "estimated_usage": {"total_tokens": 5, "source": text},
        "cost": {
            "total_cost": 1,
            "source": text,
            "details": {
                "priced_as": {text: text},
                "components": {text: {"units": text, "rate": text, "cost": text}},
                "incomplete": [text],
            },
        },
        "error_details": {"message": text, "param": text, "type": text},
        "transcription_output": {"text": text},
        "image_generation_output": {"data": [text]},
        "audio_output": {text: text},
        "passthrough_output": {"body": text, "headers": {text: text}},
        "response": {text: text},
        "raw_response": json.dumps([text, {"raw": text}]),
        "integrity": {"anomalies": [text], text: text, "missing": [text]},
    }
    row.record = json.dumps(record)
    row.request = json.dumps({"system": text, "messages": [{"role": text, "content": [{"type": text, "text": text}]}]})
    row.metadata = row.headers = json.dumps({text: text})
    row.params = row.tools = json.dumps([{text: text}])
    row.arrivals = json.dumps([1, 2, 3, text])
    row.error_code = "code " + text
    row.cost, row.total_tokens = 0.5, 10
    return row


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_content_is_shown_and_never_run(browser: Browser, served: Served, number: int) -> None:
    """Hostile text in every field is text: nothing runs, nothing is loaded, nothing is an element or a link of its."""
    text = HOSTILE[number]
    served.store.write([hostile_row(number, text)])
    for view in ("?view=overview&", "?"):
        browser.open(f"{served.address}/{view}id=hostile{number}")
        browser.wait(lambda: browser.count("#detail .section-answer") > 0, "the detail")
        browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
        if view != "?":
            browser.wait(lambda: browser.count("#view-overview .js-plotly-plot .main-svg") >= 5, "the plots")
        else:
            browser.wait(lambda: len(ids(browser)) == 1)
        assert browser.run("return window.pwned") is None
        assert browser.run(FOREIGN) == 0
        links = browser.run("return [...document.querySelectorAll('a')].map((e) => e.protocol)")
        assert set(links) <= {"http:"}
        assert overflow(browser) <= 0
        assert text[:40].replace("\0", "").strip() in browser.text("#detail").replace("\0", "")
        assert browser.console() == []


def test_a_number_beyond_all_measure_is_a_number(browser: Browser, served: Served) -> None:
    """Integers that a browser cannot count with break neither detail nor overview, and the JSON shows every digit."""
    huge = 2**70 + 1
    record = {"token_usage": {"prompt_tokens": huge, "completion_tokens": 3, "source": "provider"}, "response": [huge]}
    served.store.write([made(1, record=json.dumps(record), prompt_tokens=2**62, cached_tokens=5, arrivals="[1,2]")])
    browser.open(f"{served.address}/?id=row0001")
    browser.wait(lambda: "1,180,591,620" in browser.text(".section-usage"), "the tokens")
    assert str(huge) in browser.text(".section-native")
    browser.open(f"{served.address}/?view=overview")
    browser.wait(lambda: browser.count("#view-overview .main-svg") >= 5, "the plots")
    assert not browser.shows("#trouble")


def test_hostile_text_in_a_stream_under_way_is_text(browser: Browser, served: Served) -> None:
    """What a model streams is shown letter by letter and not read as markup."""
    gate = asyncio.Event()
    script = Script(
        [event({"role": "assistant", "content": "".join(HOSTILE[:4])}), gate, event({}, "stop"), b"data: [DONE]\n\n"]
    )
    served.rig.upstream.route("POST", "/v1/chat/completions", script)
    browser.open(served.address)
    browser.wait(lambda: browser.text("#live-state") == "live")
    connection = served.request({"model": "<b>m</b>", "messages": []})
    browser.wait(lambda: browser.text(".part-content") == "".join(HOSTILE[:4]), "the text")
    assert browser.text(".card strong") == "<b>m</b>"
    assert browser.run("return window.pwned") is None
    assert browser.count(".cards :is(script, img, a, b)") == 0
    served.set(gate)
    connection.getresponse().read()
    connection.close()
    assert browser.console() == []


def test_a_megabyte_is_shown_in_two_steps(browser: Browser, served: Served) -> None:
    """Of a very long answer in one line the beginning is shown at once, the rest when it is asked for."""
    text = "word" * 262_144
    served.store.write([made(1, record=json.dumps({"output_message": {"content": text}}))])
    browser.window(360, 740, phone=True)
    browser.open(f"{served.address}/?id=row0001")
    browser.wait(lambda: browser.count(".section-answer .rest") == 1, "the offer of the rest")
    assert len(browser.text(".section-answer pre")) == 65_536
    assert overflow(browser) <= 0
    browser.click(".section-answer .rest")
    browser.wait(lambda: len(browser.text(".section-answer pre")) == len(text), "the rest")
    assert overflow(browser) <= 0


# ---------------------------------------------------------------------- overview


def test_the_overview_draws_what_the_log_says(browser: Browser, served: Served) -> None:
    """Figures and plots of the time that was chosen, and only of what fits the filters."""
    served.store.write([made(number, model="gpt-5" if number % 2 else "claude") for number in range(1, 41)])
    served.store.write([made(50, status="error", cost=None)])
    browser.open(f"{served.address}/?view=overview&since=6h")
    browser.wait(lambda: browser.count("#view-overview .js-plotly-plot .main-svg") >= 6, "six plots")
    assert browser.texts(".tile .big")[:2] == ["41", "97.6 %"]
    assert "40 success, 1 error" in browser.text("#view-overview")
    assert browser.count("#view-overview .bars .point") > 0
    browser.open(f"{served.address}/?view=overview&since=6h&model=claude")
    browser.wait(lambda: browser.texts(".tile .big")[:1] == ["20"], "the filtered figures")
    assert browser.console() == []


# ---------------------------------------------------------------------- who uses it, and on what


LIGHT = """
    const l = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map((each) => {
            const value = each / 255;
            return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
"""
"""The relative luminance of a colour, as WCAG counts it."""


def focused(browser: Browser) -> str:
    return str(browser.run("const e = document.activeElement; return e.closest('tr')?.dataset.key ?? e.id ?? ''"))


def test_it_can_be_used_by_keyboard_alone(browser: Browser, served: Served) -> None:
    """Search, list, detail and views are reached and left by keys, with the focus in sight and brought back."""
    served.store.write([made(1), made(2), made(3)])
    browser.open(served.address)
    browser.wait(lambda: len(ids(browser)) == 3)
    browser.keys("j")
    assert focused(browser) == "row0001"
    browser.keys("j", ARROW_DOWN, "k")
    assert focused(browser) == "row0002"
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.keys(ENTER)
    browser.wait(lambda: browser.shows("#detail .section-about"), "the detail")
    assert browser.run("return document.activeElement.className") == "close"
    browser.keys("j")
    browser.wait(lambda: "row0003" in browser.text("#detail .ids"), "the next row")
    browser.keys(ESCAPE)
    browser.wait(lambda: not browser.shows("#detail"), "the detail to close")
    assert focused(browser) == "row0003"
    browser.keys("/")
    assert focused(browser) == "search"
    browser.keys("j")  # a letter here, and no move
    assert browser.run("return document.activeElement.value") == "j"
    browser.run("document.activeElement.value = ''")
    browser.keys(ESCAPE, "o")
    browser.wait(lambda: browser.shows("#view-overview .tile"), "the overview")


def test_every_control_is_reached_by_tab_and_has_a_name(browser: Browser, served: Served) -> None:
    """Tab goes through all controls, each of which says what it is; the parts of the page are landmarks."""
    served.store.write([made(1)])
    browser.open(f"{served.address}/?status=success")
    browser.wait(lambda: len(ids(browser)) == 1)
    wanted = browser.run(
        "return [...document.querySelectorAll('a, button, input, select, summary')]"
        ".filter((e) => e.checkVisibility() && !e.disabled).length"
    )
    names = set()
    for _ in range(wanted + 5):
        browser.keys(TAB)
        names.add(
            browser.run(
                "const e = document.activeElement; return `${e.tagName} ${e.getAttribute('aria-label') ?? ''}"
                "${e.labels?.[0]?.textContent.trim() ?? ''}${e.tagName === 'SELECT' ? '' : e.textContent.trim()}`"
            )
        )
    names -= {name for name in names if name.startswith("BODY")}
    assert len(names) >= wanted
    assert all(len(name.split(" ", 1)[1].strip()) > 0 for name in names), names
    for landmark in ("header", "nav[aria-label]", "search[aria-label]", "main", "footer"):
        assert browser.count(landmark) >= 1


@pytest.mark.parametrize("width", [320, 360, 400])
def test_it_fits_a_phone(browser: Browser, served: Served, width: int) -> None:
    """On a phone nothing is wider than the screen: list, filters, detail, overview."""
    served.store.write([made(number, model=f"a-model-with-a-{'very-' * 12}long-name") for number in range(1, 30)])
    served.store.write([made(31, record=json.dumps(RECORD), arrivals="[1,2,3,50]", request='{"prompt":"Hi"}')])
    browser.window(width, 740, phone=True)
    for path in ("/", "/?id=row0031", "/?view=overview", "/?tool=x"):
        browser.open(served.address + path)
        browser.wait(lambda: any(map(browser.shows, (".rows tbody tr", ".empty", ".tile"))), path)
        if "id=" in path:
            browser.wait(lambda: browser.count("#detail .main-svg") > 0)
        if "overview" in path:
            browser.wait(lambda: browser.count("#view-overview .main-svg") >= 5)
        assert overflow(browser) <= 0, path


@pytest.mark.parametrize("dark", [False, True])
def test_it_follows_the_readers_colours(browser: Browser, served: Served, dark: bool) -> None:
    """Page and plots are light or dark as the reader prefers, with text that stands out from its ground."""
    served.store.write([made(1)])
    browser.window(1280, dark=dark)
    browser.open(f"{served.address}/?view=overview")
    browser.wait(lambda: browser.count("#view-overview .main-svg") >= 5)
    ground, text = browser.run(
        LIGHT + "const s = getComputedStyle(document.body); return [l(s.backgroundColor), l(s.color)]"
    )
    assert (ground < 0.1) is dark
    assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) > 7
    tick = browser.run(LIGHT + "return l(getComputedStyle(document.querySelector('#view-overview .xtick text')).fill)")
    assert (max(ground, tick) + 0.05) / (min(ground, tick) + 0.05) > 4.5


def test_a_token_is_asked_for_once(browser: Browser, tmp_path: Path) -> None:
    """Where a token is needed a form asks for it; then the page works, live too, and no script can read the token."""
    token = new_token()
    access = Access(clients={"alice": ClientSettings(hash_of(token))})

    async def main(ready: Any, stop: asyncio.Event) -> None:
        async with rig(tmp_path, access=access) as running:
            ready(Served(running, asyncio.get_running_loop()))
            await stop.wait()

    with in_a_thread(main) as served:
        served.store.write([made(1)])
        browser.open(served.address)
        browser.wait(lambda: browser.shows("[name=token]"), "the question for the token")
        browser.click("[name=token]")
        browser.keys(token, ENTER)
        browser.wait(lambda: len(ids(browser)) == 1 and browser.text("#live-state") == "live", "the rows")
        assert token not in browser.driver.current_url
        assert token not in str(browser.run("return document.cookie + JSON.stringify({...sessionStorage})"))
        browser.driver.delete_all_cookies()
        browser.run("document.querySelector('[data-view=overview]')?.click()")
        browser.wait(lambda: browser.shows("[name=token]"), "the question again")
        browser.driver.get("about:blank")


def test_a_filter_in_the_address_needs_no_escaping(browser: Browser, served: Served) -> None:
    """An address that somebody made up is a filter and no more: its text is shown in a chip, as text."""
    browser.open(f"{served.address}/?text={quote(HOSTILE[1])}&metadata.a={quote(HOSTILE[0])}")
    browser.wait(lambda: browser.count(".chip") >= 2)
    assert HOSTILE[1] in "".join(browser.texts(".chip"))
    assert browser.run("return window.pwned") is None
    assert browser.console() == []
