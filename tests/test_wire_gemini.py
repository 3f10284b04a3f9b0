"""Gemini: the chunks of `streamGenerateContent` fold into the response of `generateContent`."""

import base64
import json
from pathlib import Path

import msgspec
import pytest
from google.genai.types import GenerateContentResponse
from hypothesis import given
from hypothesis import strategies as st

import streamfold
from streamfold.testing import sse
from streamfold.types import AccumulatedData
from streamfold.wire.gemini import Gemini

FIXTURES = Path(__file__).parent / "fixtures" / "gemini"


def folded(*events):
    fold = Gemini()
    fold.add_all([msgspec.json.encode(event) for event in events], None)
    return fold


def viewed(response):
    data = AccumulatedData()
    Gemini.view(response, data)
    return data


def chunk(*parts, finish=None, usage=None, **candidate):
    content = {"content": {"role": "model", "parts": list(parts)}} if parts else {}
    reason = {"finishReason": finish} if finish else {}
    metadata = {"usageMetadata": usage} if usage else {}
    return {"candidates": [{**content, **reason, **candidate}], **metadata}


def text(value, **more):
    return {"text": value, **more}


def call(**fields):
    return {"functionCall": fields}


def piece(path, value, goes_on=True):
    partial = {"jsonPath": path, "stringValue": value, **({"willContinue": True} if goes_on else {})}
    return call(partialArgs=[partial], willContinue=True)


OPEN = call(name="f", willContinue=True)
END = call()


def image(data):
    return blob("image/png", data)


def blob(mime, data, **more):
    return {"inlineData": {"mimeType": mime, "data": data}, **more}


def speech(data, rate=24000):
    return blob(f"audio/L16;codec=pcm;rate={rate}", data)


def account(prompt=None, answer=None, thoughts=None, total=None, **more):
    names = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")
    said = zip(names, (prompt, answer, thoughts, total), strict=True)
    return {**{name: number for name, number in said if number is not None}, **more}


def parts_of(*events):
    return folded(*events).response()["candidates"][0]["content"]["parts"]


def fixture(name):
    return streamfold.fold((FIXTURES / f"{name}.sse").read_bytes(), format="gemini").data


# ---------------------------------------------------------------------- whole streams


@pytest.mark.parametrize("name", sorted(path.stem for path in FIXTURES.glob("*.sse") if path.stem != "interaction"))
def test_whole_streams_are_the_sdks_response(name):
    """Every folded stream is a `GenerateContentResponse` of Google's SDK, with no field it does not know."""
    data = fixture(name)
    assert data.status == "success"
    assert data.integrity.anomalies == []
    response = GenerateContentResponse.model_validate(data.response)
    assert response.model_version == data.response_model
    assert response.response_id == data.response_id
    visible = [part.text for part in (response.parts or []) if part.text is not None and not part.thought]
    assert (data.output_message.content if data.output_message else None) == ("".join(visible) if visible else None)


def test_thinking_stream():
    """Thoughts and answer are a part each, the signature stays on a part of its own, thoughts count as completion."""
    data = fixture("thinking")
    assert data.response["candidates"] == [
        {
            "content": {
                "parts": [
                    {"text": "**Weighing it up**\n\nTides matter here.\n\n", "thought": True},
                    {"text": "High water is at 06:42 — mind the slíp 🌊."},
                    {"text": "", "thoughtSignature": "Q2lRQmp6MXI="},
                ],
                "role": "model",
            },
            "index": 0,
            "finishReason": "STOP",
        }
    ]
    message = data.output_message
    assert (message.role, message.content) == ("assistant", "High water is at 06:42 — mind the slíp 🌊.")
    assert message.reasoning == "**Weighing it up**\n\nTides matter here.\n\n"
    assert (data.finish_reason, data.raw_finish_reason) == ("stop", "STOP")
    usage = data.token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (12, 90, 102)
    assert usage.completion_tokens_details.reasoning_tokens == 71
    assert usage.source == "provider"


def test_whole_calls_stream():
    """Whole calls stay apart, a signature stays on its call, and Google's STOP is OpenAI's `tool_calls`."""
    data = fixture("whole_calls")
    assert [tool.function.arguments for tool in data.tool_calls] == [
        '{"port":"Brest","day":1}',
        '{"port":"Vigo","day":2}',
    ]
    assert [tool.id for tool in data.tool_calls] == [None, None]
    assert [tool.extra_content for tool in data.tool_calls] == [{"google": {"thought_signature": "U0lHMQ=="}}, None]
    assert (data.finish_reason, data.raw_finish_reason) == ("tool_calls", "STOP")
    assert data.output_message.content is None
    assert data.response["candidates"][0]["finishMessage"] == "Model generated function call(s)."
    assert len(data.response["candidates"][0]["content"]["parts"]) == 2


def test_streamed_calls_stream():
    """Streamed arguments are put together by path, as if the call had come whole."""
    data = fixture("streamed_calls")
    first = {
        "legs": [{"from": "Brest", "seats": 2}, {"from": "Vigo", "seats": 0.5}],
        "return trip": False,
        "note": None,
    }
    assert data.response["candidates"][0]["content"]["parts"] == [
        {"functionCall": {"name": "book", "args": first}, "thoughtSignature": "U0lHMg=="},
        {"functionCall": {"name": "book", "args": {"legs": [{"from": "Faro"}]}}},
    ]
    assert json.loads(data.tool_calls[0].function.arguments) == first
    assert data.arguments_complete
    assert data.finish_reason == "tool_calls"
    assert data.response["usageMetadata"]["trafficType"] == "ON_DEMAND"


def test_grounded_stream():
    """Grounding metadata is united over chunks, its pages are annotations, its searches are counted."""
    data = fixture("grounded")
    grounding = data.response["candidates"][0]["groundingMetadata"]
    assert grounding["webSearchQueries"] == ["ferry brest", "ferry times"]
    assert [page["web"]["title"] for page in grounding["groundingChunks"]] == ["page a", "page b", "page c"]
    assert [support["groundingChunkIndices"] for support in grounding["groundingSupports"]] == [[0, 1]]
    assert grounding["searchEntryPoint"] == {"renderedContent": "<div></div>"}
    assert data.output_message.annotations[2] == {
        "type": "url_citation",
        "url_citation": {"url": "https://example.org/c", "title": "page c"},
    }
    assert data.token_usage.server_tool_use == {"web_search_requests": 2}
    assert data.token_usage.prompt_tokens == 95  # the search results are prompt
    assert data.token_usage.prompt_tokens_details.text_tokens == 95


def test_code_stream():
    """Code and its result are parts of their own between the texts, in the order they came."""
    parts = fixture("code").response["candidates"][0]["content"]["parts"]
    assert [next(iter(part)) for part in parts] == ["text", "executableCode", "codeExecutionResult", "text"]


def test_blocked_prompt():
    """A blocked prompt ends well without any candidate; the record says `content_filter` and Google's own word."""
    data = fixture("blocked")
    assert (data.status, data.finish_reason, data.raw_finish_reason) == (
        "success",
        "content_filter",
        "PROHIBITED_CONTENT",
    )
    assert data.output_message is None
    usage = data.token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.source) == (8, 0, 8, "derived")


# ---------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([text("a"), text("b")], [text("ab")]),
        ([text("a"), text(""), text("b")], [text("ab")]),
        ([text("a", thought=False), text("b")], [text("ab", thought=False)]),
        ([text("t", thought=True), text("a"), text("b")], [text("t", thought=True), text("ab")]),
        (
            [text("t", thought=True), text("a"), text("u", thought=True)],
            [text("t", thought=True), text("a"), text("u", thought=True)],
        ),
        ([text("a"), text("", thoughtSignature="S")], [text("a"), text("", thoughtSignature="S")]),
        ([text("a", thoughtSignature="S"), text("b")], [text("a", thoughtSignature="S"), text("b")]),
        ([text(""), text("", thought=True)], [text("")]),
        ([call(name="f", args={}), text("")], [call(name="f", args={})]),
        ([text("a"), text("b", videoMetadata={"fps": 1})], [text("a"), text("b", videoMetadata={"fps": 1})]),
        ([image("AA=="), image("AQ==")], [image("AA=="), image("AQ==")]),
        ([speech("AAE="), speech("AgM="), speech("BAUG")], [speech("AAECAwQFBg==")]),
        ([speech("AAE="), text("a"), speech("AgM=")], [speech("AAE="), text("a"), speech("AgM=")]),
        ([speech("AAE="), speech("AgM=", rate=8000)], [speech("AAE="), speech("AgM=", rate=8000)]),
        (
            [speech("AAE="), {**speech("AgM="), "thoughtSignature": "S"}],
            [speech("AAE="), {**speech("AgM="), "thoughtSignature": "S"}],
        ),
        ([blob("audio/wav", "AA==")] * 2, [blob("audio/wav", "AA==")] * 2),
        ([{"newKind": {"x": 1}}, text("a")], [{"newKind": {"x": 1}}, text("a")]),
    ],
)  # fmt: skip
def test_parts_join(parts, expected):
    """Text of one kind, and bare samples of one, are one part, however they were cut; no others are ever joined."""
    assert parts_of(*(chunk(part) for part in parts)) == expected
    assert parts_of(chunk(*parts)) == expected


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([OPEN, END], {"name": "f"}),
        ([call(name="f", args={"a": 1})], {"name": "f", "args": {"a": 1}}),
        ([OPEN, piece("$.a", "x")], {"name": "f", "args": {"a": "x"}, "willContinue": True}),
        ([OPEN, piece("$['a.b'][\"c'd\"]", "x"), END], {"name": "f", "args": {"a.b": {"c'd": "x"}}}),
        ([OPEN, piece(r"$['it\'s\u0041']", "x"), END], {"name": "f", "args": {"it'sA": "x"}}),
        ([OPEN, piece("$.a[0][1]", "y"), piece("$.a[0][0]", "x"), END], {"name": "f", "args": {"a": [["x", "y"]]}}),
        (
            [OPEN, piece("$.a", "x"), piece("$.b", "y"), piece("$.a", "z"), END],
            {"name": "f", "args": {"a": "xz", "b": "y"}},
        ),
        (
            [call(name="f", partialArgs=[{"jsonPath": "$.a", "stringValue": None, "numberValue": 0}])],
            {"name": "f", "args": {"a": 0}},
        ),
        (
            [OPEN, call(name="f", partialArgs=[{"jsonPath": "$.a", "boolValue": True}], willContinue=True), END],
            {"name": "f", "args": {"a": True}},
        ),
        (
            [call(name="f", id="1", willContinue=True), call(id="1", args={"a": 1})],
            {"name": "f", "id": "1", "args": {"a": 1}},
        ),
    ],
)
def test_one_streamed_call(pieces, expected):
    """The pieces of a call are one call with `args`; one that was cut off keeps saying that it goes on."""
    fold = folded(*(chunk(part) for part in pieces))
    assert fold.response()["candidates"][0]["content"]["parts"] == [{"functionCall": expected}]
    assert fold.anomalies == []
    seen = viewed(fold.response()).tool_calls[0]
    assert seen.arguments_complete is ("willContinue" not in expected)
    assert json.loads(seen.function.arguments) == expected.get("args", {})


def test_cut_off_call_without_arguments():
    """Of a call that was cut off before its arguments, none are made up."""
    seen = viewed(folded(chunk(OPEN)).response()).tool_calls[0]
    assert (seen.function.arguments, seen.arguments_complete) == (None, False)


def test_calls_open_at_once():
    """Calls that go on side by side are told apart by their ids."""
    opened = [chunk(call(name="f", id=i, willContinue=True)) for i in "12"]
    pieces = [
        chunk(call(id=i, partialArgs=[{"jsonPath": "$.a", "stringValue": value}], willContinue=True))
        for i, value in (("1", "x"), ("2", "y"), ("1", "z"))
    ]
    first, second = parts_of(*opened, *pieces, chunk(call(id="1")), chunk(call(id="2")))
    assert first["functionCall"] == {"name": "f", "id": "1", "args": {"a": "xz"}}
    assert second["functionCall"] == {"name": "f", "id": "2", "args": {"a": "y"}}


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ([OPEN, piece("nowhere", "x"), END], "unexpected_shape"),
        ([OPEN, piece("$" + ".a" * 1000, "x"), END], "unexpected_shape"),
        (
            [OPEN, call(partialArgs=[{"jsonPath": "$.a", "structValue": {}}])],
            "unexpected_shape",
        ),
        ([piece("$.a", "x"), END], "unexpected_shape"),
        ([OPEN, END, piece("$.a", "x")], "function_call_after_end"),
    ],
)
def test_odd_calls(pieces, code):
    """An argument that cannot be placed is kept as it came; the oddity is flagged."""
    fold = folded(*(chunk(part) for part in pieces))
    assert fold.anomalies == [code]
    kept = json.dumps(fold.response())
    assert '"x"' in kept or "structValue" in kept


def test_sparse_positions_cost_nothing():
    """A huge array position neither allocates an array nor makes entries up."""
    parts = parts_of(chunk(OPEN), chunk(piece("$.a[999999999]", "x")), chunk(END))
    assert parts[0]["functionCall"]["args"] == {"a": ["x"]}


# ---------------------------------------------------------------------- candidates, metadata, usage


def test_candidates_by_index():
    """Candidates grow by index; a missing index is the zero that is not written."""
    fold = folded(
        {"candidates": [{"content": {"parts": [text("a")]}}, {"content": {"parts": [text("x")]}, "index": 1}]},
        {"candidates": [{"content": {"parts": [text("y")]}, "index": 1, "finishReason": "MAX_TOKENS"}]},
    )
    assert not fold.finished
    fold.add_decoded(chunk(text("b"), finish="STOP"))
    assert fold.finished
    data = viewed(fold.response())
    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in data.choices] == [
        (0, "ab", "stop"),
        (1, "xy", "length"),
    ]


def test_grounding_supports_follow_their_chunks():
    """When a later chunk brings pages of its own, its supports point at where those pages now stand."""

    def grounding(pages, *indices):
        return {
            "groundingChunks": [{"web": {"uri": page}} for page in pages],
            "groundingSupports": [{"groundingChunkIndices": list(indices)}],
        }

    first, second = grounding("ab", 1), grounding("cb", 0, 1)
    fold = folded(chunk(text("x"), groundingMetadata=first), chunk(text("y"), groundingMetadata=second))
    found = fold.response()["candidates"][0]["groundingMetadata"]
    assert [page["web"]["uri"] for page in found["groundingChunks"]] == ["a", "b", "c"]
    assert [support["groundingChunkIndices"] for support in found["groundingSupports"]] == [[1], [2, 1]]
    again = folded(chunk(groundingMetadata=first), chunk(groundingMetadata=first)).response()
    assert again["candidates"][0]["groundingMetadata"] == first


def test_citations_and_logprobs():
    """Citations are united and become annotations; log probabilities are appended and read in OpenAI's shape."""
    source = {"startIndex": 2, "endIndex": 9, "uri": "https://example.org", "license": "mit"}
    token = {"token": "a", "tokenId": 5, "logProbability": -0.5}
    extra = {
        "citationMetadata": {"citationSources": [source]},
        "logprobsResult": {"chosenCandidates": [token], "topCandidates": [{"candidates": [token]}]},
    }
    response = folded(chunk(text("a"), **extra), chunk(text("a"), finish="STOP", **extra)).response()
    candidate = response["candidates"][0]
    assert candidate["citationMetadata"] == {"citationSources": [source]}
    assert candidate["logprobsResult"]["chosenCandidates"] == [token, token]
    GenerateContentResponse.model_validate(folded(chunk(text("a"), **extra)).response())
    data = viewed(response)
    assert data.output_message.annotations[0]["url_citation"] == {
        "url": "https://example.org", "start_index": 2, "end_index": 9,
    }  # fmt: skip
    entry = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}
    assert data.logprobs == {"content": [entry, entry]}


@pytest.mark.parametrize(
    ("accounts", "expected"),
    [
        # Said once, early: stays.
        (
            [account(5, total=5, cachedContentTokenCount=4), account(5, 1, total=6)],
            account(5, 1, total=6, cachedContentTokenCount=4),
        ),
        # Cumulative: the last word holds, nothing is summed.
        ([account(answer=3), account(answer=7)], account(answer=7)),
        # The total leaves no room for the candidates of the turn before.
        ([account(9, 21, total=30), account(87, thoughts=78, total=165)], account(87, thoughts=78, total=165)),
        # Nor does one that does not add up prove anything.
        ([account(9, 21, total=30), account(9, total=33)], account(9, 21, total=33)),
        # A chunk that says nothing of tokens erases none.
        ([account(9, total=9), account(trafficType="ON_DEMAND")], account(9, total=9, trafficType="ON_DEMAND")),
    ],
)
def test_usage_accounts(accounts, expected):
    """Each account of the usage completes the one before, field by field."""
    response = folded(*({"usageMetadata": account} for account in accounts)).response()
    assert response == {"usageMetadata": expected}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (account(41, 5, 343, 389), (41, 348, 389, "provider")),
        (account(10, 1, total=15, toolUsePromptTokenCount=4), (14, 1, 15, "provider")),
        (account(30, thoughts=7, total=37), (30, 7, 37, "provider")),
        (account(3, 4), (3, 4, 7, "derived")),
        (account(3, total=3), (3, 0, 3, "derived")),
        (account(3), (3, None, None, "provider")),
        (account(0, 0, total=0), (0, 0, 0, "provider")),
        (account(trafficType="ON_DEMAND"), (None, None, None, "missing")),
        (None, (None, None, None, "missing")),
    ],
)
def test_token_usage(usage, expected):
    """Thoughts are completion, tool results are prompt, what is not said is derived only where the total proves it."""
    seen = viewed({"usageMetadata": usage} if usage else {}).token_usage
    assert (seen.prompt_tokens, seen.completion_tokens, seen.total_tokens, seen.source) == expected


def test_token_details():
    """Modality lists become the details, also with their enum as a number; cache reads are part of the prompt."""
    usage = {
        "promptTokenCount": 100, "cachedContentTokenCount": 60, "candidatesTokenCount": 9, "totalTokenCount": 109,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 70}, {"modality": 2, "tokenCount": 30}],
        "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 9}],
        "serviceTier": "standard",
    }  # fmt: skip
    data = viewed({"usageMetadata": usage})
    prompt = data.token_usage.prompt_tokens_details
    assert (prompt.cached_read_tokens, prompt.text_tokens, prompt.image_tokens) == (60, 70, 30)
    assert data.token_usage.completion_tokens_details.audio_tokens == 9
    assert data.service_tier == "standard"
    assert viewed({"usageMetadata": {"trafficType": "ON_DEMAND_FLEX"}}).service_tier == "flex"


# ---------------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("raw", "reason", "word"),
    [
        ("STOP", "stop", "STOP"),
        (1, "stop", "STOP"),
        ("MAX_TOKENS", "length", "MAX_TOKENS"),
        (2, "length", "MAX_TOKENS"),
        ("SAFETY", "content_filter", "SAFETY"),
        ("IMAGE_SAFETY", "content_filter", "IMAGE_SAFETY"),
        ("ESCALATION", "content_filter", "ESCALATION"),
        ("MALFORMED_FUNCTION_CALL", None, "MALFORMED_FUNCTION_CALL"),
        ("OTHER", None, "OTHER"),
        ("SOMETHING_NEW", None, "SOMETHING_NEW"),
        (99, None, "99"),
    ],
)
def test_finish_reasons(raw, reason, word):
    """A finish reason ends the stream, is kept as it was said, and is translated where OpenAI has a word for it."""
    fold = folded(chunk(text("a")), chunk(finish=raw, finishMessage="why"))
    assert fold.finished
    assert not fold.has_end_marker
    candidate = fold.response()["candidates"][0]
    assert (candidate["finishReason"], candidate["finishMessage"]) == (raw, "why")
    data = viewed(fold.response())
    assert (data.finish_reason, data.raw_finish_reason) == (reason, word)


@pytest.mark.parametrize("raw", [None, "", 0, "FINISH_REASON_UNSPECIFIED"])
def test_no_finish_reason(raw):
    """An unspecified finish reason is none: without a real one the stream was cut off."""
    event = chunk(text("a"), finishReason=raw)
    assert not folded(event).finished
    assert viewed(folded(event).response()).raw_finish_reason is None
    body = sse([event])
    assert streamfold.fold(body, format="gemini").data.status == "truncated"


def test_finish_reason_on_every_chunk():
    """Early models said STOP on every chunk, which is no anomaly; text after the last one is."""
    assert folded(chunk(text("a"), finish="STOP"), chunk(text("b"), finish="STOP")).anomalies == []
    assert folded(chunk(text("a"), finish="STOP"), chunk(text("b"))).anomalies == ["content_after_finish"]


def test_a_finish_reason_between_two_rounds_of_code():
    """STOP beside code that has still to run ends a round: what follows is no anomaly, and the last reason counts."""
    code = {"executableCode": {"language": "PYTHON", "code": "print(6)"}}
    result = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "6"}}
    rounds = [
        chunk(code),
        chunk(result),
        chunk(code, finish="STOP"),
        chunk(result),
        chunk(text("It is ")),
        chunk(text("6")),
    ]
    assert folded(*rounds).anomalies == []
    assert not folded(*rounds[:3]).ends_with_finish
    assert streamfold.fold(sse(rounds), format="gemini").data.status == "truncated"
    data = streamfold.fold(sse([*rounds, chunk(text("."), finish="STOP")]), format="gemini").data
    assert (data.status, data.output_message.content, data.integrity.anomalies) == ("success", "It is 6.", [])


def test_usage_after_the_finish_reason():
    """A chunk that only has usage may follow, and changes nothing but the usage."""
    data = viewed(folded(chunk(text("a"), finish="STOP"), {"usageMetadata": {"promptTokenCount": 1}}).response())
    assert data.output_message.content == "a"
    assert data.token_usage.prompt_tokens == 1


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: [error]])
def test_error_inside_the_stream(wrap):
    """An error after some text, also in an array of its own, is an error with its HTTP status, and the text stays."""
    error = {"error": {"code": 503, "message": "The model is overloaded", "status": "UNAVAILABLE"}}
    fold = folded(chunk(text("half")), wrap(error))
    assert (fold.error.status_code, fold.error.type, fold.error.retryable) == (503, "UNAVAILABLE", True)
    assert fold.response() == {"candidates": [{"content": {"role": "model", "parts": [text("half")]}}]}


# ---------------------------------------------------------------------- shapes


def test_envelope_is_unwrapped():
    """A chunk inside `response` folds like a bare one; what stood beside it is kept at the top."""
    events = [
        {"response": chunk(text("a")), "traceId": "t"},
        {"response": chunk(text("b"), finish="STOP"), "traceId": "t"},
    ]
    fold = folded(*events)
    bare = folded(*(event["response"] for event in events)).response()
    assert fold.response() == {**bare, "traceId": "t"}
    assert fold.finished
    assert viewed(events[1]).output_message.content == "b"


def test_identity_is_said_once():
    """Version, id and time are those of the first chunk; a change is flagged."""
    first = {**chunk(text("a")), "modelVersion": "m", "responseId": "r", "createTime": "2026-01-01T00:00:00Z"}
    fold = folded(first, first)
    assert (fold.response()["modelVersion"], fold.response()["responseId"]) == ("m", "r")
    assert fold.anomalies == []
    fold.add_decoded({**first, "modelVersion": "n", "responseId": "s"})
    assert fold.response()["modelVersion"] == "m"
    assert fold.anomalies == ["id_changed", "model_changed"]


@pytest.mark.parametrize(
    ("events", "told", "status"),
    [
        ([chunk(text("a")), chunk(text("b"), finish="STOP")], "cancelled", "success"),
        ([chunk(text("a")), chunk(text("b"), finish="STOP")], "truncated", "success"),
        ([chunk(text("a")), chunk(text("b"), finish="STOP")], "error", "error"),
        ([chunk(text("a")), chunk(text("b"))], "cancelled", "cancelled"),
        ([chunk(text("a"), finish="STOP"), chunk(text("b"), finish="STOP")], "cancelled", "cancelled"),
        ([chunk(finish="STOP"), chunk(text("a")), chunk(text("b"))], "cancelled", "cancelled"),
        ([chunk(text("a"), finish="STOP"), {"candidates": [{"index": 1}]}], "timeout", "timeout"),
        ([{"promptFeedback": {"blockReason": "SAFETY"}}], "cancelled", "success"),
    ],
)
def test_what_the_transport_saw_counts_before_the_finish_reason_only(events, told, status):
    """The finish reason is this protocol's end, unless content went on after it, as with the first models."""
    stream = streamfold.StreamAccumulator("gemini")
    for event in events:
        stream.add(event)
    assert stream.finish(told).data.status == status


def test_whole_call_said_again_under_its_id():
    """A call that a later chunk repeats under its id is one call, with all that was said; without ids they are two."""
    first = {**call(id="1", name="f", args={"a": 1}), "thoughtSignature": "UzE="}
    again = call(id="1", name="f", args={"a": 1})
    for events in ([first, again], [again, first]):
        fold = folded(*(chunk(part) for part in events), chunk(finish="STOP"))
        assert fold.response()["candidates"][0]["content"]["parts"] == [first]
        assert fold.anomalies == ["function_call_after_end"]
    other = call(id="1", name="f", args={"a": 2})
    assert len(folded(chunk(again), chunk(other)).response()["candidates"][0]["content"]["parts"]) == 2
    nameless = call(name="f", args={"a": 1})
    assert len(folded(chunk(nameless), chunk(nameless)).response()["candidates"][0]["content"]["parts"]) == 2


def test_unknown_fields_and_events_are_kept():
    """Fields nobody knows stay where they stood; bodies of another API are kept beside the response and flagged."""
    fold = folded({**chunk(text("a"), novel=1), "modelStatus": {"stage": "X"}}, *({"event_type": i} for i in range(70)))
    response = fold.response()
    assert response["candidates"][0]["novel"] == 1
    assert response["modelStatus"] == {"stage": "X"}
    assert response["unknown_events"] == [{"event_type": i} for i in range(64)]
    assert fold.anomalies == ["unknown_event"]


def test_binary_parts_in_the_view():
    """Images are data URLs, raw sample pieces are one recording, and a thought's picture is not the answer."""

    def spelled(data):
        return base64.b64encode(data).decode()

    response = chunk(
        blob("image/png", spelled(b"x")), blob("image/png", spelled(b"thought"), thought=True),
        speech(spelled(b"ab")), speech(spelled(b"cd")),
    )  # fmt: skip
    message = viewed(response).output_message
    assert message.images == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}]
    assert base64.b64decode(message.audio.data) == b"abcd"


def test_transcripts():
    """The text of a transcript is the answer, whether it stands beside the transcript too or only in it."""

    def heard(words, **more):
        return {"audioTranscription": {"text": words, "languageCode": "en"}, **more}

    stream = streamfold.StreamAccumulator("gemini")
    chunks = [
        chunk(text("")), chunk(heard("Low water")), chunk(heard(" at six.", text=" at six.")),
        chunk(heard("hm", thought=True)), chunk({"audioTranscription": {"words": [{"word": "six"}]}}),
        chunk(finish="STOP"),
    ]  # fmt: skip
    for each in chunks:
        stream.feed(sse([each]))
    data = stream.finish().data
    parts = data.response["candidates"][0]["content"]["parts"]
    assert parts == [part for each in chunks[1:5] for part in each["candidates"][0]["content"]["parts"]]
    assert (data.output_message.content, data.output_message.reasoning) == ("Low water at six.", "hm")
    assert data.time_to_first_content_ms is not None
    assert viewed(chunk({"audioTranscription": {"words": []}})).output_message.content is None


def test_an_answer_that_may_go_on():
    """The token to go on with is there while the answer may; what follows a `CONTINUATION` is no anomaly."""
    cut = [chunk(text("Low")), chunk(finish="CONTINUATION", continuationToken="dG9r")]
    data = streamfold.fold(sse(cut), format="gemini").data
    assert data.response["candidates"][0]["continuationToken"] == "dG9r"
    assert (data.status, data.finish_reason, data.raw_finish_reason) == ("success", None, "CONTINUATION")
    data = streamfold.fold(sse([*cut, chunk(text(" water")), chunk(finish="STOP")]), format="gemini").data
    assert data.response["candidates"] == [
        {"content": {"role": "model", "parts": [text("Low water")]}, "finishReason": "STOP"}
    ]
    assert (data.status, data.integrity.anomalies) == ("success", [])


def test_pictures_as_sources():
    """A picture that an answer is grounded on is cited by the page it is from."""
    source = {"sourceUri": "https://boats.example/1", "imageUri": "https://boats.example/1.png", "title": "Boats"}
    response = chunk(text("a"), groundingMetadata={"groundingChunks": [{"image": source}]})
    assert viewed(response).output_message.annotations == [
        {"type": "url_citation", "url_citation": {"url": "https://boats.example/1", "title": "Boats"}}
    ]


def test_snapshot_and_unstreamed_read_the_same():
    """A snapshot stays as it was while the stream goes on, and a whole response folds to itself."""
    fold = folded(chunk(text("a")), chunk(OPEN), chunk(piece("$.a", "x")))
    snapshot = fold.response()
    before = json.dumps(snapshot)
    fold.add_decoded(chunk(piece("$.a", "y")))
    assert json.dumps(snapshot) == before
    whole = fixture("thinking").response
    assert folded(whole).response() == whole


def test_close_keeps_ends():
    """A closed fold grows no text, argument or part, but still takes the end of a call, the finish reason and usage."""
    fold = folded(chunk(text("a")), chunk(speech("AAE=")), chunk(OPEN), chunk(piece("$.a", "x")))
    fold.close()
    for event in (
        chunk(speech("AgM=")), chunk(piece("$.a", "y")), chunk(piece("$.b", "y")), chunk(text("b")), chunk(END),
        chunk(finish="MAX_TOKENS", usage={"promptTokenCount": 1}),
    ):  # fmt: skip
        fold.add_decoded(event)
    response = fold.response()
    parts = response["candidates"][0]["content"]["parts"]
    assert parts == [text("a"), speech("AAE="), call(name="f", args={"a": "x"})]
    assert response["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert response["usageMetadata"] == {"promptTokenCount": 1}


# ---------------------------------------------------------------------- the short way


def run(*events, short=True):
    """The fold of these events, each decoded alone when `short` is false."""
    fold = Gemini()
    payloads = [msgspec.json.encode(event) for event in events]
    if short:
        fold.add_all(payloads, None)
    else:
        for payload in payloads:
            fold.add_decoded(json.loads(payload))
    return fold


@pytest.mark.parametrize("wrap", [lambda event: event, lambda event: {"response": event, "traceId": "t"}])
@pytest.mark.parametrize("make", [lambda s: text(s), lambda s: text(s, thought=True), lambda s: piece("$.a[0].b", s)])
def test_repeating_frames_take_the_short_way(make, wrap):
    """Frames that differ in one string alone are folded without decoding, to the same response."""
    opening = wrap(chunk(OPEN))

    count = 1000
    payloads = [msgspec.json.encode(wrap(chunk(make(f"é{i}\n")))) for i in range(count)]
    fold = run(opening)
    fold.add_all(payloads, None)
    assert fold.repeat.hits >= count - 3
    assert fold.chunks == count + 1
    events = [opening, *(wrap(chunk(make(f"é{i}\n"))) for i in range(50))]
    assert run(*events).response() == run(*events, short=False).response()


def test_long_arguments_the_long_way_too():
    """A string argument in many pieces is whole also when frames are handed over decoded."""
    count = 1000
    fold = run(chunk(OPEN))
    for _ in range(count):
        fold.add_decoded(chunk(piece("$.a.b[3].c", "x")))
    args = fold.response()["candidates"][0]["content"]["parts"][0]["functionCall"]["args"]
    assert args == {"a": {"b": [{"c": "x" * count}]}}


PARTS = st.sampled_from([
    text("a"), text("b"), text(""), text("t", thought=True), text("u", thought=True), text("", thoughtSignature="S"),
    OPEN, call(name="g", args={"x": 1}), END, piece("$.a", "x"), piece("$.a", "y"),
    piece("$.b[0]", "z", goes_on=False), image("AA=="), speech("AAE="), speech("AgME"),
    {"audioTranscription": {"text": "a"}},
])  # fmt: skip
CHUNKS = st.builds(
    lambda parts, extra: {**chunk(*parts), **extra},
    st.lists(PARTS, min_size=1, max_size=2),
    st.sampled_from([{}, {"usageMetadata": {"promptTokenCount": 1}}, {"modelVersion": "m"}]),
)


@given(st.lists(CHUNKS, max_size=12))
def test_the_short_way_is_the_long_way(events):
    """Whatever the order of chunks, folding payloads gives what folding each decoded chunk gives."""
    short, long = run(*events), run(*events, short=False)
    assert short.response() == long.response()
    assert (short.anomalies, short.finished, short.chunks) == (long.anomalies, long.finished, long.chunks)


WORDS = """
    candidates content parts text thought thoughtSignature functionCall name id args partialArgs jsonPath stringValue
    numberValue nullValue willContinue index finishReason groundingMetadata groundingChunks groundingSupports
    groundingChunkIndices citationMetadata citations web uri logprobsResult chosenCandidates topCandidates inlineData
    mimeType data usageMetadata totalTokenCount promptTokenCount promptTokensDetails modality tokenCount promptFeedback
    blockReason modelVersion responseId response error role webSearchQueries
"""
KEYS = st.sampled_from(WORDS.split())
LEAVES = (
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "STOP", "model", "$.a", "$.a[0]", "$['b']", "$", "image/png", "audio/pcm", "AA=", "\ud800"])
)  # fmt: skip
ANY = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5))
CANDIDATES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "index": LEAVES,
            "content": ANY | st.fixed_dictionaries({"parts": st.lists(ANY | st.dictionaries(KEYS, ANY, max_size=4))}),
            "finishReason": LEAVES,
            "groundingMetadata": ANY,
            "citationMetadata": ANY,
            "logprobsResult": ANY,
        },
    ),
    max_size=3,
)
EVENTS = st.dictionaries(KEYS, ANY, max_size=5) | st.fixed_dictionaries(
    {"candidates": CANDIDATES}, optional={"usageMetadata": ANY, "promptFeedback": ANY, "error": ANY}
)


@given(st.lists(EVENTS, max_size=5))
def test_any_object_folds(events):
    """No JSON object makes the fold or the view raise, or changes under it, alone or after any other."""
    before = json.dumps(events)
    fold = Gemini()
    for event in events:
        fold.add(json.dumps(event).encode())
        fold.add_decoded(event)
    response = fold.response()
    assert json.dumps(events) == before
    assert json.dumps(fold.response()) == json.dumps(response)
    viewed(response or {})
    for event in events:
        viewed(event)
