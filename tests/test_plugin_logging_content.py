"""What the logging plugin does with content: left out, struck out, digested, cut."""

import base64
import hashlib
import random
import re
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamfold
from streamfold import Outcome, StreamAccumulator
from streamfold.framing import AutoFramer
from streamfold.hooks import RequestContext
from streamfold.plugins.logging import LoggingConfig, LoggingPlugin
from streamfold.plugins.logging import plugin as logging_plugin
from streamfold.plugins.logging.patterns import WITHHELD, Patterns
from streamfold.plugins.logging.plugin import MAX_REDACTED
from streamfold.plugins.logging.rows import without_content
from streamfold.plugins.logging.shorten import fitting, shortened, utf8_size
from streamfold.processed import ProcessedStreamResponse, ResponseType
from streamfold.store.log_store import LogStore
from streamfold.store.row import HEAVY, LogRow
from streamfold.types import AccumulatedData, AudioOutput, ChatMessage, Choice, ErrorDetails, PassthroughOutput

WAIT = 60.0
FIXTURES = sorted(path for path in (Path(__file__).parent / "fixtures").glob("*/*") if path.is_file())
MARKER = "the quokka's secret"
STREAMED = [path for path in FIXTURES if path.suffix != ".json"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with LogStore.open(str(tmp_path_factory.mktemp("log") / "log.db")) as opened:
        yield opened


class Logged:
    """Logs one request after the other, each under an id of its own."""

    def __init__(self, store):
        self.store, self.count = store, 0

    def __call__(self, done, *, config=None, **about):
        self.count += 1
        plugin = LoggingPlugin(config or LoggingConfig(checkpoint_s=0, estimate=False), store=self.store)
        ctx = RequestContext(request_id=f"{id(self)}-{self.count}", **about)
        plugin.pre_llm_hook(ctx, ctx.request)
        plugin.on_response(ctx, done)
        assert plugin.flush(WAIT)
        return self.store.get(ctx.request_id)


@pytest.fixture(scope="module")
def logged(store):
    return Logged(store)


def final(**about):
    return ProcessedStreamResponse(type=ResponseType.FINAL, request_id="r", data=AccumulatedData(**about))


def answer(text, **about):
    return final(status="success", output_message=ChatMessage(role="assistant", content=text), **about)


def config(**about):
    return LoggingConfig(checkpoint_s=0, **about)


def texts_of(row):
    return {name: value for name in LogRow.__struct_fields__ if isinstance(value := getattr(row, name), str)}


# ---------------------------------------------------------------------- content off

VOCABULARY = frozenset(
    (
        "type", "event", "event_type", "object", "id", "index", "role", "model", "modelVersion", "model_version",
        "finish_reason", "finishReason", "stop_reason", "stopReason", "completion_reason", "completionReason",
        "generation_finish_reason", "done_reason", "status", "created_at", "created", "service_tier", "response_id",
        "responseId", "system_fingerprint", "item_id", "call_id", "tool_call_id", "toolUseId", "generation_id",
        "p", "obfuscation", "code", "mimeType", "mime_type", "encoding", "format", "language", "name", "toolName",
        "action", "provider", "native_finish_reason", "__type", "event_name", "background", "size", "quality",
        "output_format", "trafficType", "modality", "category", "probability", "severity", "blockReason",
    )
)  # fmt: skip
"""Keys whose values are words of the API, not of anybody who speaks."""


def planted(value, key=""):
    """A payload in which every text that somebody may have said has the marker in it."""
    if isinstance(value, str):
        return value if key in VOCABULARY else value + MARKER
    if isinstance(value, list):
        return [planted(item, key) for item in value]
    if isinstance(value, dict):
        return {name: planted(item, name) for name, item in value.items()}
    return value


def planted_stream(path, outcome=None):
    """A recorded stream, folded from payloads with the marker in them."""
    framer = AutoFramer()
    payloads, names = framer.feed(path.read_bytes())
    more, more_names = framer.close()
    named = (names or [None] * len(payloads)) + (more_names or [None] * len(more))
    stream = StreamAccumulator(path.parent.name, model="m", tape_bytes=10**7)
    if not payloads and not more:
        stream.feed(path.read_bytes() + MARKER.encode())
    for payload, name in zip(payloads + more, named, strict=True):
        try:
            event = msgspec.json.encode(planted(msgspec.json.decode(payload)))
        except msgspec.DecodeError:
            event = payload + MARKER.encode()
        stream.add(event, name=name)
    return stream.finish(outcome)


ASKED = {
    "model": "m",
    "temperature": 0.5,
    "user": MARKER,
    "stop": [MARKER],
    "metadata": {"x": MARKER},
    "reasoning": {"effort": "low", "hint": MARKER},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"description": MARKER}}},
    "generationConfig": {"temperature": 1, "stopSequences": [MARKER]},
    "messages": [{"role": "user", "content": MARKER}],
    "input": MARKER,
    "prompt": MARKER,
    "contents": [{"parts": [{"text": MARKER}]}],
    "system": MARKER,
    "anything": MARKER,
    "voice": MARKER,
    "text": "quokka",
    "audio": "quokka",
    "size": MARKER,
    MARKER: MARKER,
    "tools": [
        {"type": "function", "function": {"name": "weather", "description": MARKER, "parameters": {"x": MARKER}}}
    ],
}


@pytest.mark.parametrize("path", STREAMED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_without_content_nothing_said_is_kept(logged, path):
    """A marker in every text of every format is in the row with content, and nowhere in the row without."""
    done = planted_stream(path)
    request = {"request": ASKED, "request_body": msgspec.json.encode(ASKED)}
    spoken = path.name != "blocked.sse" and path.parent.name != "openai-speech"  # the others have no text at all
    for about in ({"config": config(content=False)}, {"config": config(), "log_content": False}):
        row = logged(done, **request, **about)
        for name, text in texts_of(row).items():
            assert MARKER not in text, name
            assert "quokka" not in text, name
        assert (row.request, row.search_text, row.error_message) == (None, None, None)
        assert row.status == done.data.status
        assert msgspec.json.decode(row.params) == {
            "temperature": 0.5,
            "reasoning": {"effort": "low"},
            "response_format": {"type": "json_schema"},
            "generationConfig": {"temperature": 1},
        }
        assert msgspec.json.decode(row.tools) == [{"name": "weather"}]
    row = logged(done, **request)
    assert MARKER in row.request
    assert MARKER in row.search_text
    assert not spoken or MARKER in row.record


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_without_content_the_figures_stay(path):
    """What is left of a record without content has every figure that it had: usage, cost, times, ends."""
    data = streamfold.fold(path.read_bytes(), path.parent.name, model="m").data
    left = without_content(data)
    kept = (
        "request_id", "stream_type", "format", "provider", "model", "response_model", "stream", "status",
        "finish_reason", "raw_finish_reason", "token_usage", "cost", "cost_reason", "latency_ms", "chunks",
        "time_to_first_chunk_ms", "time_to_first_token_ms", "max_gap_ms", "response_id", "service_tier", "integrity",
        "arguments_complete", "start_timestamp", "end_timestamp",
    )  # fmt: skip
    assert {name: getattr(left, name) for name in kept} == {name: getattr(data, name) for name in kept}
    names = [call.function.name for call in data.tool_calls or () if call.function]
    assert [call.function.name for call in left.tool_calls or () if call.function] == names


def test_without_content_an_error_keeps_its_kind(logged):
    """The error's type, code and status stay; its message, and a type that is a sentence, do not."""
    error = ErrorDetails(type="invalid_request_error", code="context_length", message=MARKER, status_code=400)
    row = logged(final(status="error", error_details=error), config=config(content=False))
    assert (row.error_type, row.error_code, row.error_message) == ("invalid_request_error", "context_length", None)
    error = ErrorDetails(type=MARKER, code=MARKER, message=MARKER, status_code=400)
    row = logged(final(status="error", error_details=error), config=config(content=False))
    assert (row.error_type, row.error_code) == (None, None)
    assert msgspec.json.decode(row.record)["error_details"]["status_code"] == 400


# ---------------------------------------------------------------------- redaction

MAIL = "jane.doe@example.com"
MAILS = r"[\w.+-]+@[\w-]+\.[\w.]+"


def test_patterns_are_struck_out_everywhere(logged):
    """A match is `[redacted]` in request, record, search text, error message, metadata and headers; JSON stays JSON."""
    request = {
        "messages": [{"role": "user", "content": f"I am {MAIL}"}],
        "user": MAIL,
        "x": {MAIL: 1, "n": 41111111111},
    }
    done = answer(
        f"Hello {MAIL}!",
        response={"note": MAIL, "card": 41111111111},
        error_details=ErrorDetails(message=f"no {MAIL}"),
        choices=[Choice(0, ChatMessage(content=MAIL), logprobs={"content": [{"token": "jane"}, {"token": ".doe@"}]})],
        raw_response='[{"delta":"jane.doe@"},{"delta":"example.com"}]',
        logprobs={"content": [{"token": "jane"}, {"token": ".doe@"}]},
    )
    row = logged(
        done,
        config=config(redact=[MAILS, r"\b4\d{10}\b"], headers=["x-user"]),
        request=request,
        request_body=msgspec.json.encode(request),
        metadata={"who": MAIL},
        request_headers={"x-user": MAIL, "user-agent": f"agent {MAIL}"},
        session_id=MAIL,
    )
    for name, text in texts_of(row).items():
        assert "doe@" not in text, name
        assert "41111111111" not in text, name
    for name in ("request", "record", "metadata", "headers", "params"):
        assert "[redacted]" in getattr(row, name)
        msgspec.json.decode(getattr(row, name))
    assert row.search_text == "I am [redacted]\nHello [redacted]!"
    assert row.error_message == "no [redacted]"
    assert msgspec.json.decode(row.request)["x"] == {"[redacted]": 1, "n": "[redacted]"}


def test_keys_that_become_alike_are_both_kept(logged):
    """Two keys of an object that are struck out are both still there."""
    request = {"input": "x", "by": {"a@b.cd": 1, "c@d.ef": 2}}
    row = logged(answer("y"), config=config(redact=[MAILS]), request=request)
    assert msgspec.json.decode(row.request)["by"] == {"[redacted]": 1, "[redacted] 1": 2}


def test_a_match_at_the_place_of_the_cut_leaves_nothing(logged):
    """What a pattern matches is struck out before a text is cut, so that no half of it stays."""
    text = "x " * 400 + "4111-1111-1111-1111" + " y" * 4000
    for extra in range(0, 120, 3):
        row = logged(
            answer("z" * extra + text),
            config=config(redact=[r"\d{4}-\d{4}-\d{4}-\d{4}"], max_content_bytes=2400),
            request={"input": "z" * extra + text},
        )
        assert all("4111" not in value for value in texts_of(row).values())


ENDLESS = r"(x+x+)+y"
"""Tries every way to cut a row of x into pieces before it says no."""


@pytest.mark.parametrize("before", [True, False], ids=["with the pre hook", "without"])
def test_an_expression_without_end_costs_that_content_and_nothing_else(store, before):
    """What an expression cannot get through is not stored, of no text is it said that it is clean, and the next request
    is redacted as ever."""
    plugin = LoggingPlugin(config(redact=[ENDLESS, MAILS], estimate=False), store=store)
    for name, said in (("bad", "x" * 5000), ("good", f"I am {MAIL}")):
        ctx = RequestContext(request_id=f"endless-{name}-{before}", request={"input": said})
        if before:
            plugin.pre_llm_hook(ctx, ctx.request)
        plugin.on_response(ctx, answer(said))
    assert plugin.flush(60.0)
    bad, good = (store.get(f"endless-{name}-{before}") for name in ("bad", "good"))
    assert (bad.status, good.status) == ("success", "success")
    assert all("xxxxx" not in text for text in texts_of(bad).values())
    assert WITHHELD in bad.request
    assert plugin.withheld > 0
    assert good.search_text == "I am [redacted]\nI am [redacted]"
    plugin.close()


def test_rows_that_wait_for_expressions_are_bounded(store):
    """Of more requests than may wait for the expressions, the rest is stored without content: each has one row."""
    plugin = LoggingPlugin(config(redact=[MAILS], estimate=False), store=store)
    free = threading.Event()
    plugin._upkeep.later(lambda: free.wait(WAIT))
    for place in range(MAX_REDACTED):
        ctx = RequestContext(request_id=f"bounded-{place}", request={"input": f"I am {MAIL}"})
        plugin.pre_llm_hook(ctx, ctx.request)
        plugin.on_response(ctx, answer(f"Hi {MAIL}"))
    free.set()
    assert plugin.flush(60.0)
    rows = [store.get(f"bounded-{place}") for place in range(MAX_REDACTED)]
    assert {row.status for row in rows} == {"success"}
    assert all(MAIL not in text for row in rows for text in texts_of(row).values())
    bare = sum(row.request is None for row in rows)
    assert 0 < bare < MAX_REDACTED
    assert len(plugin._flights) == 0
    plugin.close()


def test_rows_that_wait_at_the_end_are_stored_without_content(tmp_path, monkeypatch):
    """A plugin that is closed while rows wait for the expressions loses none of them."""
    monkeypatch.setattr(logging_plugin, "CLOSE_SECONDS", 0.05)
    with LogStore.open(str(tmp_path / "log.db")) as own:
        plugin = LoggingPlugin(config(redact=[MAILS]), store=own)
        free = threading.Event()
        plugin._upkeep.later(lambda: free.wait(WAIT))
        ctx = RequestContext(request_id="late", request={"input": MAIL})
        plugin.pre_llm_hook(ctx, ctx.request)
        plugin.on_response(ctx, answer("x"))
        plugin.close()
        free.set()
        assert own.flush(WAIT)
        row = own.get("late")
        assert (row.status, row.request, row.record is None) == ("success", None, True)


@given(texts=st.lists(st.text(alphabet=st.characters(), max_size=40), max_size=5))
@settings(max_examples=60, deadline=None)
def test_the_other_process_strikes_as_this_one_would(texts):
    """The process that tries the expressions gives what `re` gives here, halves of surrogate pairs among it."""
    expressions = [r"[a-e]+", r"\d{2}", "\ud800"]
    wanted = list(texts)
    for expression in expressions:
        wanted = [re.sub(expression, "[redacted]", text) for text in wanted]
    assert PATTERNS.strike(texts) == wanted


PATTERNS = Patterns([r"[a-e]+", r"\d{2}", "\ud800"])


def test_a_child_that_is_gone_is_made_anew():
    """Whoever ends the process that tries the expressions does no harm, and `close` leaves none behind."""
    patterns = Patterns(["b"])
    assert patterns.strike(["abc"]) == ["a[redacted]c"]
    first = patterns._child
    first.kill()
    first.wait()
    assert patterns.strike(["abc"]) == ["a[redacted]c"]
    second = patterns._child
    patterns.close()
    assert (patterns.withheld, second.returncode is None) == (0, False)


@pytest.mark.parametrize("key", ["sk-proj-1234567890", 'quote"d\\key/1234', "schlüssel-é-12345", '":{"'])
def test_the_credentials_of_the_request_are_struck_out(logged, key):
    """`ctx.redact` is applied to every text that is stored, however JSON spells it, and JSON stays JSON."""
    spelled = msgspec.json.encode(key).decode()[1:-1]
    request = {"messages": [{"role": "user", "content": f"my key is {key}"}], "x": {"deep": {"y": 1}}}
    row = logged(
        answer(f"your key is {key}", error_details=ErrorDetails(message=f"bad key {key}", type=key)),
        redact=lambda text: text.replace(spelled, "[redacted]").replace(key, "[redacted]"),
        request=request,
        request_body=msgspec.json.encode(request),
        metadata={"k": key},
        request_headers={"user-agent": key, "x-h": key},
        config=config(headers=["x-h"]),
    )
    for name in ("request", "record", "metadata", "headers"):
        decoded = msgspec.json.decode(getattr(row, name))
        assert key not in str(decoded) or key == '":{"'
    assert row.error_message == "bad key [redacted]"
    assert row.search_text == "my key is [redacted]\nyour key is [redacted]"
    assert row.user_agent == "[redacted]"


# ---------------------------------------------------------------------- binary

SOUND = random.Random(7).randbytes(3000)
B64 = base64.b64encode(SOUND).decode()
DIGEST = {"size": 3000, "sha256": hashlib.sha256(SOUND).hexdigest()}
PNG = {**DIGEST, "media_type": "image/png"}
URL = f"data:image/png;base64,{B64}"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"image_url": {"url": URL}}, {"image_url": {"url": PNG}}),
        ({"input_audio": {"data": B64, "format": "wav"}}, {"input_audio": {"data": DIGEST, "format": "wav"}}),
        (
            {"inlineData": {"mimeType": "image/png", "data": B64}},
            {"inlineData": {"mimeType": "image/png", "data": PNG}},
        ),
        ({"source": {"media_type": "image/png", "data": B64}}, {"source": {"media_type": "image/png", "data": PNG}}),
        ({"b64_json": B64}, {"b64_json": DIGEST}),
        ({"b64_json": base64.urlsafe_b64encode(SOUND).decode().rstrip("=")}, {"b64_json": DIGEST}),
        ({"result": B64}, {"result": DIGEST}),
        ({"data": base64.encodebytes(SOUND).decode()}, {"data": DIGEST}),
        ({"images": [B64]}, {"images": [DIGEST]}),
        ({"image": {"source": {"bytes": B64}}}, {"image": {"source": {"bytes": DIGEST}}}),
        ({"data": "A" * 400}, {"data": {"size": 300, "sha256": hashlib.sha256(bytes(300)).hexdigest()}}),
        ({"text": "A" * 4000}, {"text": "A" * 4000}),
        ({"text": "word " * 1000}, {"text": "word " * 1000}),
        ({"text": "1234567890" * 100}, {"text": "1234567890" * 100}),
        ({"signature": B64}, {"signature": B64}),
        ({"data": "short"}, {"data": "short"}),
        ({"url": "data:text/plain,hello"}, {"url": "data:text/plain,hello"}),
    ],
)
def test_binary_becomes_a_digest(logged, value, wanted):
    """Base64 in request and answer is stored as size and digest of the bytes it spells; text is left alone."""
    request = {"input": [{"role": "user", "content": [value]}]}
    done = answer("x", response=value)
    row = logged(done, request=request, request_body=msgspec.json.encode(request))
    assert msgspec.json.decode(row.request)["input"][0]["content"] == [wanted]
    assert msgspec.json.decode(row.record)["response"] == wanted
    row = logged(done, request=request, config=config(binary="keep"))
    assert msgspec.json.decode(row.request) == request
    assert msgspec.json.decode(row.record)["response"] == value
    assert done.data.response == value


def test_pictures_in_the_middle_of_a_text(logged):
    """A data URL inside a text, as in Markdown, is named in words, and the text around it stays."""
    row = logged(answer(f"Here: ![cat]({URL}) nice?"))
    wanted = f"Here: ![cat]([image/png, 3000 bytes, sha256 {DIGEST['sha256']}]) nice?"
    assert msgspec.json.decode(row.record)["output_message"]["content"] == wanted
    assert row.search_text == wanted


def test_bytes_of_the_record_are_digested(logged):
    """Speech and passthrough bodies, which are bytes, are digests too, however short; `keep` stores base64."""
    body = PassthroughOutput(status_code=200, headers={"content-type": "image/png"}, body=SOUND)
    done = final(audio_output=AudioOutput(b"abc", "wav"), passthrough_output=body)
    record = msgspec.json.decode(logged(done).record)
    assert record["audio_output"] == {
        "data": {"size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()},
        "format": "wav",
    }
    assert record["passthrough_output"]["body"] == PNG
    record = msgspec.json.decode(logged(done, config=config(binary="keep")).record)
    assert record["passthrough_output"]["body"] == B64


def test_a_tape_is_digested_in_crumbs(logged):
    """Binary that came in small pieces is not in the stored tape either."""
    crumbs = [B64[at : at + 100] for at in range(0, 2000, 100)]
    tape = msgspec.json.encode([{"type": "speech.audio.delta", "audio": crumb} for crumb in crumbs]).decode()
    record = msgspec.json.decode(logged(final(raw_response=tape)).record)
    assert not any(crumb in record["raw_response"] for crumb in crumbs)
    assert len(msgspec.json.decode(record["raw_response"])) == 20


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_records_of_text_stay_as_they_are(logged, path):
    """The stored record of every recorded stream is the record itself, wherever it holds no binary."""
    done = streamfold.fold(path.read_bytes(), path.parent.name)
    if done.data.audio_output is not None or done.data.passthrough_output is not None:
        return  # the tests above are about it
    stored, said = msgspec.json.decode(logged(done).record), msgspec.json.decode(msgspec.json.encode(done.data))
    assert stored == said or "sha256" in str(stored)


# ---------------------------------------------------------------------- caps and texts


def test_content_is_capped_and_stays_json(logged):
    """No column of content is longer than allowed, each is JSON, and short things in it stay whole."""
    messages = [{"role": "user", "content": "word " * 3000}, {"role": "user", "content": "And now, ünder 9?"}]
    request = {"model": "m", "messages": messages, "tools": [{"name": "t", "description": "d " * 9000}] * 3}
    done = answer("länger " * 9000, response={"n": list(range(50_000)), "id": "the-id"})
    row = logged(done, request=request, config=config(max_content_bytes=5000))
    for name in HEAVY:
        text = getattr(row, name) or "null"
        assert utf8_size(text) <= 5000, name
        if name != "search_text":
            msgspec.json.decode(text)
    stored = msgspec.json.decode(row.request)
    assert stored["messages"][1]["content"] == "And now, ünder 9?"
    assert re.fullmatch(r"(word )+\w*\[… \d+ bytes left out\]", stored["messages"][0]["content"])
    record = msgspec.json.decode(row.record)
    assert record["response"]["id"] == "the-id"
    assert any("items left out" in str(item) for item in record["response"]["n"])
    assert record["status"] == "success"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=8), inner, max_size=8),
    max_leaves=40,
)


@given(value=json_values.map(lambda value: msgspec.json.decode(clean(value))), size=st.integers(64, 600))
@settings(max_examples=200, deadline=None)
def test_shortened_fits_and_is_json(value, size):
    """Whatever the value and the room, what comes out fits and is JSON; what fits already is not touched."""
    short = shortened(value, size)
    text = msgspec.json.encode(short)
    assert len(text) <= size
    if len(msgspec.json.encode(value)) <= size:
        assert short is value


def clean(value):
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return b'"halves"'


@given(text=st.text(), size=st.integers(48, 400))
def test_a_text_that_is_cut_fits(text, size):
    """A text is no longer in bytes than allowed, and begins as it did."""
    short = fitting(text * 20, size)
    assert utf8_size(short) <= size
    assert short == text * 20 or short.split("[…")[0] == (text * 20)[: len(short.split("[…")[0])]


HALF = "\ud83d"


def test_texts_are_fit_for_every_database(logged):
    """NUL and halves of characters are in no text that is stored; in JSON a NUL stays as its escape."""
    request = {"messages": [{"role": "user", "content": f"a\0b{HALF}c"}], "k\0": 1}
    row = logged(
        answer(f"d\0e{HALF}", error_details=ErrorDetails(message=f"m\0{HALF}")),
        request=request,
        session_id=f"s\0{HALF}",
        client="c\0",
        metadata={"k\0": f"v\0{HALF}"},
        path="/p\0",
    )
    for name, text in texts_of(row).items():
        assert "\0" not in text, name
        text.encode()
    assert msgspec.json.decode(row.request)["messages"][0]["content"] == "a\0b\N{REPLACEMENT CHARACTER}c"
    assert msgspec.json.decode(row.record)["output_message"]["content"] == "d\0e\N{REPLACEMENT CHARACTER}"
    assert "\0" not in str(msgspec.json.decode(row.metadata))


def test_a_request_is_stored_as_it_came(logged):
    """Without anything to take out, the body is kept byte for byte: its spaces, its order, its large numbers."""
    body = b'{ "messages" : [ {"role":"user", "content":"\\u0041 \\ud83d\\ude00"} ],  "seed": 12345678901234567890123 }'
    row = logged(answer("x"), request_body=body)
    assert row.request.encode() == body


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"input":"a \\ud83d b"}', {"input": "a \N{REPLACEMENT CHARACTER} b"}),
        (b'{"input":"a","temperature":NaN}', {"input": "a", "temperature": None}),
    ],
)
def test_json_that_only_python_reads_is_stored_as_json(logged, body, wanted):
    """Halves of characters and NaN, which are no JSON to most readers, are replaced."""
    assert msgspec.json.decode(logged(answer("x"), request_body=body).request) == wanted


# ---------------------------------------------------------------------- broken input

anything = json_values | st.binary(max_size=20) | st.builds(object)
fields = {
    "model": anything,
    "provider": anything,
    "output_message": st.builds(ChatMessage, content=anything, reasoning=anything) | anything,
    "choices": anything,
    "tool_calls": anything,
    "finish_reason": anything,
    "token_usage": anything,
    "error_details": st.builds(ErrorDetails, message=anything, type=anything, code=anything) | anything,
    "response": anything,
    "raw_response": anything,
    "start_timestamp": anything,
    "integrity": anything,
}
contexts = {
    "request": anything,
    "request_body": st.none() | st.binary(max_size=40) | json_values.map(clean),
    "metadata": anything,
    "request_headers": anything,
    "session_id": anything,
    "attempt": anything,
    "traceparent": anything,
    "started_at": st.floats() | anything,
    "http_status": anything,
}


def subset(table):
    return st.fixed_dictionaries({}, optional=table)


@pytest.fixture(scope="module")
def plugins(store):
    """Plugins of different configurations on one store."""
    made = [
        LoggingPlugin(config(content=content, redact=redact, max_content_bytes=cap), store=store)
        for content in (True, False)
        for redact in ([], ["[a-c]+"])
        for cap in (1024, 10**6)
    ]
    yield made
    for plugin in made:
        plugin.close()


def test_nothing_raises_and_every_request_has_a_row(store, plugins):
    """Whatever the request, the context and the response hold, the hooks return, and a row is stored that is fit."""
    seen = []

    @given(about=subset(contexts), data=subset(fields), which=st.integers(0, 7))
    @settings(max_examples=200, deadline=None)
    def log(about, data, which):
        ctx = RequestContext(request_id=f"fuzz-{len(seen)}", **about)
        seen.append(ctx.request_id)
        plugins[which].pre_llm_hook(ctx, ctx.request)
        plugins[which].on_response(ctx, final(status="error", **data))

    log()
    assert all(plugin.flush(WAIT) for plugin in plugins)
    assert (store.dropped, sum(plugin.lost for plugin in plugins)) == (0, 0)
    for id in seen:
        row = store.get(id)
        assert (row.id, row.status) == (id, "error")
        for name in ("request", "params", "tools", "headers", "metadata", "record"):
            msgspec.json.decode(getattr(row, name) or "null")


def test_deep_and_endless_requests(logged):
    """A request nested a thousand levels deep, or within itself, is logged somehow."""
    deep = "x"
    for _ in range(900):
        deep = [deep]
    endless = {"messages": []}
    endless["messages"].append(endless)
    for request in ({"input": deep}, {"input": deep, "image": B64}, endless):
        for about in ({}, {"config": config(redact=["x"])}, {"config": config(max_content_bytes=1024)}):
            assert logged(answer("y"), request=request, **about).status == "success"


def test_a_partial_stream_is_logged_with_what_came(logged):
    """Every recorded stream, broken off in its middle, has a row with its outcome."""
    for path in STREAMED:
        stream = StreamAccumulator(path.parent.name)
        body = path.read_bytes()
        stream.feed(body[: len(body) // 2])
        done = stream.finish(Outcome.CANCELLED)
        assert logged(done).status == done.data.status
