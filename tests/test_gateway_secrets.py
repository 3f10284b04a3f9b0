"""Credentials go to the upstream and nowhere else."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from scripted import ask, rig, said
from streamfold.gateway.headers import Redactor
from streamfold.gateway.scripted import HANG_UP, Script

SECRETS = {
    "authorization": "Bearer sk-proj-AUTHORIZATION1",
    "x-api-key": "sk-ant-XAPIKEY2",
    "api-key": "azure-APIKEY3",
    "x-goog-api-key": "AIza-GOOG4",
    "cookie": "session=COOKIE5555",
    "openai-organization-token": "org-TOKEN6",
}
QUERY = "key=AIza-QUERY7&alt=sse&access_token=ya29%2EQUERY8"
PLANTED = ["AUTHORIZATION1", "XAPIKEY2", "APIKEY3", "GOOG4", "COOKIE5555", "TOKEN6", "QUERY7", "QUERY8"]
GEMINI = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
ECHO = b'data: {"candidates":[{"content":{"parts":[{"text":"you said %b"}]},"finishReason":"STOP"}]}\n\n'


@pytest.mark.parametrize("ending", ["whole", "refused", "broken", "unreachable"])
async def test_secrets_stay_out_of_rows_and_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str) -> None:
    """No planted secret is in the database file or the log, even if the upstream quotes all of them."""
    caplog.set_level(logging.DEBUG)
    everything = " ".join([*SECRETS.values(), "AIza-QUERY7", "ya29.QUERY8", "COOKIE5555"]).encode()
    quoted = msgspec.json.encode({"error": {"message": "bad key " + everything.decode()}})
    scripts = {
        "whole": Script([ECHO % everything]),
        "refused": Script([quoted], status=401, headers=[("content-type", "application/json")], framing="length"),
        "broken": Script([ECHO % everything, HANG_UP]),
        "unreachable": Script([], answers=False),
    }
    async with rig(tmp_path) as gateway:
        gateway.upstream.route("POST", GEMINI, scripts[ending])
        reply = await ask(
            gateway.address, "POST", f"/gemini{GEMINI}?{QUERY}", list(SECRETS.items()), b'{"contents":[]}'
        )
        row = await gateway.row()
        received = await gateway.upstream.received()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    assert row.path == GEMINI
    assert received.target == f"{GEMINI}?{QUERY}"
    assert {name: received.header(name) for name in SECRETS} == SECRETS
    logged = said(caplog.records)
    for secret in PLANTED:
        assert secret.encode() not in stored
        assert secret not in logged
        assert (secret.encode() in reply.body) == (ending != "unreachable")
    if row.record is not None and ending != "unreachable":
        assert "[redacted]" in row.record
        msgspec.json.decode(row.record)


def test_redactor_leaves_ordinary_text_alone() -> None:
    """Short and numeric values are no secrets: striking them out would damage the record."""
    redact = Redactor(
        [(b"x-api-key", b"test"), (b"x-token-count", b"1234567890"), (b"accept", b"everything")], b"q=everything"
    )

    assert redact('{"test":1234567890,"everything":1}') == '{"test":1234567890,"everything":1}'


def test_redactor_finds_escaped_secrets() -> None:
    """A secret is also found as JSON spells it."""
    redact = Redactor([(b"authorization", b'Bearer qu"ote\\d-secret')], b"")

    assert redact(msgspec.json.encode({"said": 'qu"ote\\d-secret'}).decode()) == '{"said":"[redacted]"}'
