"""Errors in every spelling: objects, texts, and what providers' clients raise."""

import httpx
import pytest

from streamfold import StreamAccumulator, fold
from streamfold.testing import sse
from streamfold.wire.errors import error_details

REQUEST = httpx.Request("POST", "http://localhost/")


def raised_by_openai():
    openai = pytest.importorskip("openai")
    body = {"message": "Slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    return openai.RateLimitError("Error code: 429", response=httpx.Response(429, request=REQUEST), body=body)


def raised_inside_a_stream_by_openai():
    openai = pytest.importorskip("openai")
    return openai.APIError("Gone", request=REQUEST, body={"message": "Gone", "type": "server_error", "code": None})


def raised_by_anthropic():
    anthropic = pytest.importorskip("anthropic")
    body = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    return anthropic.APIStatusError("x", response=httpx.Response(529, request=REQUEST), body=body)


def raised_by_google():
    errors = pytest.importorskip("google.genai.errors")
    return errors.ServerError(503, {"error": {"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}})


def raised_by_botocore():
    exceptions = pytest.importorskip("botocore.exceptions")
    told = {
        "Error": {"Code": "ValidationException", "Message": "Bad"},
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }
    return exceptions.ClientError(told, "ConverseStream")


@pytest.mark.parametrize(
    ("make", "kind", "code", "message", "status", "again"),
    [
        (raised_by_openai, "requests", "rate_limit_exceeded", "Slow down", 429, True),
        (raised_inside_a_stream_by_openai, "server_error", None, "Gone", 500, True),
        (raised_by_anthropic, "overloaded_error", None, "Overloaded", 529, True),
        (raised_by_google, "UNAVAILABLE", "503", "Overloaded", 503, True),
        (raised_by_botocore, "ClientError", "ValidationException", "Bad", 400, False),
        (lambda: ConnectionResetError("reset"), "ConnectionResetError", None, "reset", None, None),
        (lambda: TimeoutError(), "TimeoutError", None, None, None, None),
    ],
)
def test_what_a_client_raises(make, kind, code, message, status, again):
    """The exception of a provider's client says what the provider said: its type, code, words and status."""
    stream = StreamAccumulator("openai-chat")
    said = stream.finish(error=make()).data.error_details
    assert (said.type, said.code, said.message) == (kind, code, message)
    assert (said.status_code, said.retryable) == (status, again)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"code": 429, "message": "Slow down", "status": "RESOURCE_EXHAUSTED"}}',
        b'[{"error": {"code": 429, "message": "Slow down", "status": "RESOURCE_EXHAUSTED"}}]',
        b'data: {"error": {"code": 429, "message": "Slow down", "status": "RESOURCE_EXHAUSTED"}}\n\n',
    ],
)
@pytest.mark.parametrize("told", [None, "cancelled"])
def test_an_error_of_a_format_that_nobody_named(body, told):
    """A stream that was nothing but an error is an error, though nobody can say of which format."""
    stream = StreamAccumulator()
    stream.feed(body)
    data = stream.finish(told).data
    assert (data.status, data.format) == ("error", None)
    assert (data.error_details.message, data.error_details.status_code) == ("Slow down", 429)


def test_mistrals_status():
    """Mistral names the HTTP status in a field of its own."""
    said = error_details({"object": "error", "message": "No", "type": "invalid_request_error", "raw_status_code": 422})
    assert (said.status_code, said.retryable) == (422, False)


@pytest.mark.parametrize("format", ["openai-chat", "openai-completions"])
@pytest.mark.parametrize(
    ("error", "kind", "status", "again"),
    [
        ({"error": "Full house", "error_type": "overloaded"}, "overloaded", 429, True),
        ({"error": "Full house", "error_type": "validation"}, "validation", 422, False),
        ({"error": "Full house", "error_type": "something_new"}, "something_new", None, None),
        ({"error": "Full house"}, None, None, None),
        ({"error": {"message": "Full house", "http_status_code": 422}}, None, 422, False),
    ],
)
def test_what_tgi_says(format, error, kind, status, again):
    """TGI puts the type of an error beside its text, or names the HTTP status in a field of its own."""
    stream = StreamAccumulator(format)
    stream.add(error)
    said = stream.finish().data.error_details
    assert (said.type, said.message, said.status_code, said.retryable) == (kind, "Full house", status, again)


@pytest.mark.parametrize(
    ("said", "code", "status"),
    [
        ({"errors": [{"code": "quota", "message": "Slow down"}], "trace": "t1", "status_code": 429}, "quota", 429),
        (
            {"success": False, "errors": [{"code": 5006, "message": "Slow down"}], "messages": [], "result": {}},
            "5006",
            None,
        ),
        ({"error_code": "BUSY", "message": "Slow down", "details": []}, "BUSY", None),
        ({"error_code": 17, "error_msg": "Slow down", "id": "a1"}, "17", None),
        ({"error_code": 50001, "text": "Slow down"}, "50001", None),
        ({"code": 429, "reason": "RATE_LIMIT", "message": "Slow down", "metadata": {}}, "429", 429),
        ({"statusCode": 429, "message": "Slow down"}, None, 429),
        ({"__type": "ThrottlingException", "message": "Slow down"}, "ThrottlingException", None),
        ({"title": "Too many", "status": 429, "detail": "Slow down"}, None, 429),
        ({"error": True, "message": "Slow down"}, None, None),
        ({"error": "Slow down", "code": 429}, None, 429),
        ({"error": {"message": "Slow down"}, "status_code": 429}, None, 429),
        ({"error": "Slow down", "code": "Out of credits"}, "Out of credits", None),
    ],
    ids=[
        "watsonx",
        "Cloudflare",
        "Databricks",
        "ERNIE",
        "FastChat",
        "Novita",
        "Azure's gateway",
        "AWS",
        "RFC 9457",
        "a flag",
        "a text with a status",
        "a status beside",
        "xAI",
    ],
)
def test_an_error_without_the_word(said, code, status):
    """Servers that name an error otherwise end a stream as an error all the same, and its text stays."""
    text = {"choices": [{"index": 0, "delta": {"content": "High"}}]}
    data = fold(sse([text, said]), "openai-chat").data
    assert (data.status, data.output_message.content) == ("error", "High")
    assert (data.error_details.code, data.error_details.message) == (code, "Slow down")
    assert data.error_details.status_code == status


def test_a_null_that_was_written_as_a_word():
    """LiteLLM writes the nulls of its errors as `None`, which is no type and no parameter."""
    said = error_details({"message": "Slow down", "type": "None", "param": "None", "code": "429"})
    assert (said.type, said.param, said.code, said.status_code) == (None, None, "429", 429)


def test_what_failed_beside_an_answer_is_no_error_of_it():
    """A list of errors beside an answer, or an empty one, ends nothing."""
    text = {"choices": [{"index": 0, "delta": {"content": "High"}, "finish_reason": "stop"}]}
    chunks = [text, {"errors": [], "success": True}, {"errors": [{"message": "one tool"}], "citations": []}]
    data = fold(sse(chunks, done=True), "openai-chat").data
    assert (data.status, data.error_details) == ("success", None)
