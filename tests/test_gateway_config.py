"""The configuration: what it takes, and how it says what is wrong."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from streamfold.errors import UsageError
from streamfold.gateway.config import Config, is_loopback, load_config, upstream_flag
from streamfold.gateway.routes import Upstream
from streamfold.gateway.server import listen


def load(directory: Path, text: str, **flags: object) -> Config:
    path = directory / "gateway.toml"
    path.write_text(text)
    return load_config(path, **flags)


def test_defaults() -> None:
    """Without a file it listens on loopback and knows the three usual upstreams."""
    config = load_config()

    assert (config.host, config.port, config.db) == ("127.0.0.1", 8787, "streamfold.db")
    assert config.routes()["openai"] == Upstream("openai", "https://api.openai.com", "openai")
    assert sorted(config.routes()) == ["anthropic", "gemini", "openai"]


def test_file_and_flags(tmp_path: Path) -> None:
    """The file wins over the defaults, and flags win over the file."""
    text = """
    port = 9000
    db = "here.db"
    [upstreams]
    openai = "http://one.example/"
    groq = { url = "https://api.groq.com/openai", provider = "groq-cloud" }
    [limits]
    connect_timeout_s = 3
    """
    config = load(tmp_path, text, port=9001, host=None, upstreams={"openai": "http://two.example"})

    assert (config.port, config.db, config.limits.connect_timeout_s) == (9001, "here.db", 3)
    assert config.routes()["openai"].url == "http://two.example"
    assert config.routes()["groq"] == Upstream("groq", "https://api.groq.com/openai", "groq-cloud")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prot = 1", 'unknown key "prot"; did you mean "port"?'),
        ("zzz = 1", 'unknown key "zzz"; known here are host, port, db, prices, upstreams, limits, plugins'),
        ("[limits]\nconnect_timeout = 1", 'unknown key "limits.connect_timeout"; did you mean "connect_timeout_s"?'),
        ('[upstreams.a]\nurl = "http://a.b"\nkey = "k"', 'unknown key "upstreams.a.key"; known here are url, provider'),
        ('port = "8787"', '"port" must be int, not str'),
        ("port = 99999", '"port" is 99999; choose one from 0 to 65535'),
        ("[upstreams]\nopenai = 5", '"upstreams.*" must be str | object, not int'),
        ("[upstreams.a]\nprovider = 'x'", '"upstreams.*.url" is missing'),
        ('[upstreams]\na = "ftp://a.b"', '"upstreams.a" must be an http or https URL'),
        ('[upstreams]\na = "api.example.com"', '"upstreams.a" must be an http or https URL'),
        ('[upstreams]\na = "http://[::1"', '"upstreams.a" is not a URL'),
        ('[upstreams]\na = "https://me:pw@a.b"', '"upstreams.a" carries a user name or password'),
        ('[upstreams]\na = "https://a.b?key=1"', '"upstreams.a" must end with its path'),
        ('[upstreams]\nlogs = "https://a.b"', '"upstreams.logs": an upstream cannot be called that'),
        ('[upstreams]\n"a/b" = "https://a.b"', '"upstreams.a/b": an upstream cannot be called that'),
        ("[limits]\nwaiting_responses = -1", '"limits.waiting_responses" is negative'),
        ("port = ", "not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    """Each mistake stops the start with a sentence that names the file, the key and the fix."""
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)

    assert sentence.lower() in str(caught.value).lower()
    assert "gateway.toml" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    """A configuration that does not exist is named."""
    with pytest.raises(UsageError, match=r"cannot read the configuration .*none\.toml: no such file or directory"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize("flag", ["openai", "openai=", "=http://a.b"])
def test_upstream_flag_needs_both_halves(flag: str) -> None:
    """`--upstream` wants NAME=URL and says so."""
    with pytest.raises(UsageError, match="NAME=URL"):
        upstream_flag([flag])


def test_password_is_not_repeated(tmp_path: Path) -> None:
    """The complaint about credentials in a URL does not print them."""
    with pytest.raises(UsageError) as caught:
        load(tmp_path, '[upstreams]\na = "https://me:hunter2hunter2@a.b"')

    assert "hunter2" not in str(caught.value)


def test_taken_port() -> None:
    """A port that is taken is told in a sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="address already in use"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("[::1]", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("a.example", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    """Only addresses of this machine are loopback."""
    assert is_loopback(host) is expected
