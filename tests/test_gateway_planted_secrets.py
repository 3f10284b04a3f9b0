"""Secrets are planted wherever a client or a configuration can put one, and looked for wherever anything is kept,
sent or shown: the files of the log, the lines of the log, OTLP, `/metrics`, the page and its API.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest

from otlp_receiver import receiver
from scripted import PATIENCE, Rig, ask, said
from streamfold.errors import UsageError
from streamfold.gateway.access import hash_of, new_token
from streamfold.gateway.config import Access, ClientSettings, UpstreamSettings, load_config
from streamfold.gateway.scripted import HANG_UP, Received, Script, ScriptedUpstream
from streamfold.gateway.server import listen, running
from streamfold.store import LogStore

TOKEN = new_token()
CONFIGURED = {
    "OPS_UPSTREAM_KEY": "sk-CONFIGURED-upstream-1",
    "OPS_COLLECTOR_KEY": "CONFIGURED-collector-2",
}
SENT = {
    "authorization": "Bearer sk-PLANTED-authorization",
    "x-api-key": "sk-ant-PLANTED-x-api-key",
    "api-key": "PLANTED-api-key",
    "x-goog-api-key": "AIza-PLANTED-goog",
    "cookie": "session=PLANTED-cookie; streamfold_token=" + TOKEN,
    "x-my-secret": "PLANTED-my-secret",
    "proxy-authorization": "Basic PLANTED-proxy",
    "x-streamfold-token": TOKEN,
}
QUERY = f"key=PLANTED-query-key&api_key=PLANTED%2Dquery%2Dtwo&access_token=ya29.PLANTED-query-three&sig={TOKEN}"
SECRETS = [*CONFIGURED.values(), "PLANTED-", TOKEN, TOKEN[3:]]
PAGES = ["/", "/logs", "/metrics", "/healthz", "/readyz", "/api/rows", "/api/statistics", "/api/schema"]
CHAT = "/v1/chat/completions"
BODY = msgspec.json.encode({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]})


def echo(ending: str) -> object:
    """An upstream that quotes whatever it was sent: the target and all headers."""

    def answer(request: Received) -> Script:
        quoted = msgspec.json.encode(f"{request.target} {dict(request.headers)}").decode()
        if ending == "refused":
            body = '{"error":{"type":"bad_key","code":"bad","message":' + quoted + "}}"
            return Script([body.encode()], status=401, headers=[("content-type", "application/json")], framing="length")
        chunk = 'data: {"id":"c","choices":[{"index":0,"delta":{"content":' + quoted + "}}]}\n\n"
        return Script([chunk.encode(), HANG_UP if ending == "broken" else b"data: [DONE]\n\n"])

    return answer


@pytest.mark.parametrize("put_in", [False, True], ids=["the client's key", "the gateway's key"])
@pytest.mark.parametrize("ending", ["whole", "refused", "broken"])
async def test_no_secret_stays_anywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, ending: str, put_in: bool
) -> None:
    """None of the planted secrets is in a file, a line, an OTLP payload, `/metrics`, the page or its API."""
    caplog.set_level(logging.DEBUG)
    for name, value in CONFIGURED.items():
        monkeypatch.setenv(name, value)
    shown = b""
    with receiver() as collector:
        async with ScriptedUpstream() as upstream:
            upstream.route("POST", CHAT, echo(ending))  # type: ignore[arg-type]
            config = load_config(
                upstreams={"openai": UpstreamSettings(upstream.url, key_env="OPS_UPSTREAM_KEY" if put_in else None)},
                access=Access(clients={"alice": ClientSettings(hash_of(TOKEN))}),
                plugins={
                    "otel": {
                        "endpoint": collector.url,
                        "headers": {"authorization": "env.OPS_COLLECTOR_KEY"},
                        "capture_content": "both",
                        "export_interval_s": 0.05,
                    }
                },
            )
            with LogStore.open(str(tmp_path / "log.db")) as store:
                async with running(config, store, listen("127.0.0.1", 0)) as address:
                    reply = await ask(address, "POST", f"/openai{CHAT}?{QUERY}", list(SENT.items()), BODY)
                    row = await Rig(address, upstream, store).row()
                    for page in (*PAGES, f"/logs/{row.id}", f"/api/rows/{row.id}"):
                        answer = await ask(address, "GET", page, [("x-streamfold-token", TOKEN)])
                        assert answer.status == 200, page
                        shown += answer.body
                    wrong = await ask(address, "GET", "/logs", [("x-streamfold-token", "PLANTED-wrong-token")])
                    shown += wrong.body
        async with asyncio.timeout(PATIENCE):
            while not collector.spans:
                await asyncio.sleep(0.01)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    places = {
        "files": stored,
        "lines": said(caplog.records).encode(),
        "OTLP": b"".join(collector.bodies),
        "pages": shown,
    }

    assert row.client == "alice"
    quoted = CONFIGURED["OPS_UPSTREAM_KEY"] if put_in else "PLANTED-authorization"
    assert quoted.encode() in reply.body, "the upstream should have quoted what it was sent"
    found = [(place, secret) for place, held in places.items() for secret in SECRETS if secret.encode() in held]
    assert found == []
    assert TOKEN not in upstream.requests[0].target + str(upstream.requests[0].headers)


@pytest.mark.parametrize(
    "environ",
    [
        {"STREAMFOLD_UPSTREAMS__OPENAI": "https://user:PLANTED-password@host"},
        {"STREAMFOLD_PORT": "PLANTED-port"},
        {"STREAMFOLD_ACCESS__CLIENTS__ME__TOKEN_HASH": "PLANTED-hash"},
        {"STREAMFOLD_ACCESS__CLIENTS": "PLANTED-table"},
        {"STREAMFOLD_PLUGINS__OTEL__ENDPOINT": "http://user:PLANTED-password@host"},
        {"STREAMFOLD_LIMITS__STREAMS": "PLANTED-limit"},
    ],
    ids=lambda environ: next(iter(environ)),
)
def test_complaints_do_not_quote_values(environ: dict[str, str]) -> None:
    """What is said of a mistake names the variable and not its value, which may have been a key in the wrong place."""
    with pytest.raises(UsageError) as caught:
        load_config(environ=environ)

    assert next(iter(environ)) in str(caught.value)
    assert "PLANTED" not in str(caught.value)
