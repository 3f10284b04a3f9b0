"""The configuration: what it takes, and how it says what is wrong."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from streamfold.errors import UsageError
from streamfold.gateway.access import hash_of, new_token
from streamfold.gateway.config import Config, examine, is_loopback, load_config, upstream_flag
from streamfold.gateway.options import markdown, options
from streamfold.gateway.server import listen


def load(directory: Path, text: str, **flags: object) -> Config:
    path = directory / "gateway.toml"
    path.write_text(text)
    return load_config(path, **flags)


def test_defaults() -> None:
    """Without a file it listens on loopback and knows the three usual upstreams."""
    config = load_config()

    assert (config.host, config.port, config.db) == ("127.0.0.1", 8787, "streamfold.db")
    openai = config.routes()["openai"]
    assert (openai.name, openai.url, openai.provider, openai.key) == (
        "openai",
        "https://api.openai.com",
        "openai",
        None,
    )
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
    groq = config.routes()["groq"]
    assert (groq.name, groq.url, groq.provider) == ("groq", "https://api.groq.com/openai", "groq-cloud")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prot = 1", 'unknown key "prot"; did you mean "port"?'),
        ("zzz = 1", 'unknown key "zzz"; known here are host, port, workers, db,'),
        ("[limits]\nconnect_timeout = 1", 'unknown key "limits.connect_timeout"; did you mean "connect_timeout_s"?'),
        ('[upstreams.a]\nurl = "http://a.b"\nkey = "k"', 'unknown key "upstreams.a.key"; did you mean "key_env"?'),
        ('port = "8787"', '"port" must be a whole number, not text; write it without the quotes'),
        ("port = 99999", '"port" is 99999; choose one from 0 to 65535'),
        ("[upstreams]\nopenai = 5", '"upstreams.openai" must be text or a table, not a whole number'),
        ("[upstreams.a]\nprovider = 'x'", '"upstreams.a.url" is missing'),
        ('[upstreams]\na = "ftp://a.b"', '"upstreams.a" must be an http or https URL'),
        ('[upstreams]\na = "api.example.com"', '"upstreams.a" must be an http or https URL'),
        ('[upstreams]\na = "http://[::1"', '"upstreams.a" is not a URL'),
        ('[upstreams]\na = "https://me:pw@a.b"', '"upstreams.a" carries a user name or password'),
        ('[upstreams]\na = "https://a.b?key=1"', '"upstreams.a" must end with its path'),
        ('[upstreams]\nlogs = "https://a.b"', '"upstreams.logs": an upstream cannot be called that'),
        ('[upstreams]\n"a/b" = "https://a.b"', '"upstreams.a/b": an upstream cannot be called that'),
        ("[limits]\nwaiting_responses = -1", '"limits.waiting_responses" is negative'),
        ("[limits]\ntape_bytes = -1", '"limits.tape_bytes" is negative; it must be 0 or more'),
        ("port = ", "not valid TOML"),
        ('[plugins]\n"a:B" = 3', "\"plugins.'a:B'\" must be a table, not a whole number"),
        ('[plugins."no_such:B"]', "\"plugins.'no_such:B'\" cannot be imported"),
        ('[plugins."no_such:B"]', "is it installed, or its directory in PYTHONPATH?"),
        ("[plugins.otle]", 'there is no plugin "otle"; did you mean "otel"? (or give the import path'),
        ("[plugins.otel]", 'the plugin "otel" has nowhere to send to: set "plugins.otel.endpoint"'),
        ('log_level = "verbose"', '"log_level" cannot be "verbose"; choose one of debug, info, warning, error'),
        ('[gate]\nwhen_exceeded = "shut"', '"gate.when_exceeded" cannot be "shut"; choose one of closed, open'),
        ('db = "mysql://me:pw@a.b/c"', '"db" names a mysql database; known are sqlite:///path'),
        ('prices = "nowhere.toml"', '"prices": cannot read the price file nowhere.toml'),
        ('[upstreams.a]\nurl = "http://a.b"\napi_key = "k"', 'did you mean "key_env" or "key_header"?'),
        ('[upstreams."my.one"]\nbas_url = "x"', "unknown key \"upstreams.'my.one'.bas_url\""),
        ('"pört" = 1', 'unknown key "\'pört\'"; did you mean "port"?'),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    """Each mistake stops the start with a sentence that names the file, the key and the fix."""
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)

    assert sentence.lower() in str(caught.value).lower()
    assert "gateway.toml" in str(caught.value)


def test_a_key_where_its_variable_belongs_is_not_told(tmp_path: Path) -> None:
    """Whoever writes the key itself into `key_env` is told what belongs there, and the key is shown nowhere."""
    with pytest.raises(UsageError) as caught:
        load(tmp_path, '[upstreams.my-groq]\nurl = "http://a.b"\nkey_env = "sk-proj-secret"')

    assert 'not the key itself; write key_env = "MY_GROQ_API_KEY"' in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_key_that_could_be_a_name_is_not_told(tmp_path: Path) -> None:
    """A key of letters and digits looks like the name of a variable that is not set; it is shown nowhere either."""
    with pytest.raises(UsageError) as caught:
        load(tmp_path, '[upstreams.google]\nurl = "http://a.b"\nkey_env = "AIzaSecret7"').routes()

    assert 'key_env": the environment variable of that name is not set' in str(caught.value)
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "noted"),
    [
        ('[upstreams]\nopenai = "https://api.openai.com/v1"', ["openai"]),
        ('[upstreams.gemini]\nurl = "https://a.b/v1beta/"', ["gemini"]),
        ('[upstreams]\nopenrouter = "https://openrouter.ai/api/v1"\nopenai = "https://a.b/v1/x"', []),
    ],
)
def test_a_version_that_sdks_send_as_well_is_noted(tmp_path: Path, text: str, noted: list[str]) -> None:
    """A usual upstream whose URL ends in its version is no mistake, but noted: requests would name it twice."""
    path = tmp_path / "gateway.toml"
    path.write_text(text, "utf-8")
    examined = examine(path)

    assert examined.config is not None
    assert [note.split('"')[1] for note in examined.notes] == [f"upstreams.{name}" for name in noted]


@pytest.mark.parametrize(
    ("text", "noted"),
    [
        ("", 0),
        ("[limits]\ntape_bytes = 1000", 0),
        ("[limits]\ntape_bytes = 1000\n[plugins.logging]\nredact = ['x']", 1),
        ("[limits]\ntape_bytes = 1000\n[plugins.logging]\ncontent = false", 1),
        ("[plugins.logging]\ncontent = false", 0),
    ],
)
def test_tapes_that_the_log_does_not_keep_are_noted(tmp_path: Path, text: str, noted: int) -> None:
    """Tapes that would be kept in memory and never stored are no mistake, but noted."""
    path = tmp_path / "gateway.toml"
    path.write_text(text, "utf-8")
    examined = examine(path)

    assert examined.config is not None
    assert len([note for note in examined.notes if '"limits.tape_bytes": the log keeps no tapes' in note]) == noted


def test_tape_by_environment() -> None:
    """No tape is kept unless the file or the variable asks for one."""
    assert load_config().limits.tape_bytes == 0
    assert load_config(environ={"STREAMFOLD_LIMITS__TAPE_BYTES": "4096"}).limits.tape_bytes == 4096


def test_missing_file(tmp_path: Path) -> None:
    """A configuration that does not exist is named."""
    with pytest.raises(UsageError, match=r"cannot read the configuration .*none\.toml: no such file or directory"):
        load_config(tmp_path / "none.toml")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """One start tells every mistake, each with where it came from."""
    text = """
    prot = 1
    port = "x"
    [limits]
    streams = "many"
    stream = 1
    [upstreams.a]
    provider = 5
    [upstreams.b]
    url = "http://b.example"
    retries = "x"
    """
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)

    told = str(caught.value).splitlines()
    keys = [
        '"prot"',
        '"port"',
        '"limits.streams"',
        '"limits.stream"',
        '"upstreams.a.provider"',
        '"upstreams.b.retries"',
    ]
    assert [key for key in keys if not any(key in line for line in told)] == []
    assert len(told) == len(keys)


def test_the_order_of_the_sources(tmp_path: Path) -> None:
    """Flags win over the environment, the environment over the file, the file over the defaults."""
    text = 'port = 1\nhost = "127.0.0.2"\ndb = "file.db"\n[limits]\nstreams = 1\nconnections = 1'
    environ = {"STREAMFOLD_PORT": "2", "STREAMFOLD_DB": "env.db", "STREAMFOLD_LIMITS__STREAMS": "2"}
    config = load(tmp_path, text, environ=environ, port=3)

    assert (config.port, config.db, config.host) == (3, "env.db", "127.0.0.2")
    assert (config.limits.streams, config.limits.connections, config.limits.arrivals) == (2, 1, 2000)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PORT", "9000", "config.port == 9000"),
        ("LOG_FORMAT", "json", "config.log_format == 'json'"),
        ("LOG_REQUESTS", "false", "config.log_requests is False"),
        ("LIMITS__CONNECT_TIMEOUT_S", "2.5", "config.limits.connect_timeout_s == 2.5"),
        ("UPSTREAMS__GROQ", "https://g.example", "config.routes()['groq'].url == 'https://g.example'"),
        ("UPSTREAMS__GROQ__URL", "https://g.example", "config.routes()['groq'].url == 'https://g.example'"),
        ("UPSTREAMS__OPENAI__PROVIDER", "mine", "config.routes()['openai'].provider == 'mine'"),
        ("UPSTREAMS__MY_OLLAMA__PROVIDER", "o", "config.routes()['my-ollama'].provider == 'o'"),
        ("UPSTREAMS__PLAIN__PROVIDER", "o", "config.routes()['plain'].url == 'http://plain.example'"),
        ("UPSTREAMS", '{ x = "https://x.example" }', "config.routes()['x'].url == 'https://x.example'"),
        ("UPSTREAMS__OPENAI__FALLBACK", "plain", "config.routes()['openai'].fallback == ('plain',)"),
        ("ACCESS__HOSTS", "a.example, b.example", "config.access.hosts == ['a.example', 'b.example']"),
        ("ACCESS__HOSTS", '["a.example"]', "config.access.hosts == ['a.example']"),
        ("RETRY__STATUSES", "500,502", "config.retry.statuses == (500, 502)"),
        ("PLUGINS__OTEL__ENDPOINT", "http://c:1", "config.plugins['otel']['endpoint'] == 'http://c:1'"),
        ("PLUGINS__OTEL__TIMEOUT_S", "3", "config.plugins['otel']['timeout_s'] == 3.0"),
        ("PLUGINS__OTEL__HEADERS__X", "env.A", "config.plugins['otel']['headers'] == {'x': 'env.A'}"),
        ("PLUGINS__LOGGING__RETENTION__MAX_AGE", "7d", "config.plugins['logging']['retention'] == {'max_age': '7d'}"),
        ("PLUGINS__MAXIM__ENABLED", "false", "config.plugins['maxim'] == {'enabled': False}"),
        ("PORT", "", "config.port == 8787"),
    ],
)
def test_variables(tmp_path: Path, variable: str, value: str, expected: str) -> None:
    """Each variable is read by the type of its key, and names of the file are found again."""
    text = '[upstreams]\nplain = "http://plain.example"\nmy-ollama = { url = "http://o.example" }\n'
    if variable.startswith("PLUGINS__OTEL"):
        text += '[plugins.otel]\nendpoint = "http://collector:4318"'
    config = load(tmp_path, text, environ={f"STREAMFOLD_{variable}": value, "OTHER": "x", "STREAMFOLD_DEBUG": "1"})

    assert eval(expected, {"config": config})


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("PORT", "x", "STREAMFOLD_PORT: must be a whole number"),
        ("PORT", "tcp://10.0.0.1:8787", "enableServiceLinks: false"),
        ("PORT", "99999", 'STREAMFOLD_PORT: "port" is 99999; choose one from 0 to 65535'),
        ("LOG_LEVEL", "loud", "STREAMFOLD_LOG_LEVEL: must be one of debug, info, warning, error"),
        ("LOG_REQUESTS", "maybe", "STREAMFOLD_LOG_REQUESTS: must be true or false"),
        ("LIMITS__STREAMS", "-1", 'STREAMFOLD_LIMITS__STREAMS: "limits.streams" is negative'),
        ("UPSTREAMS__X", "ftp://a.b", 'STREAMFOLD_UPSTREAMS__X: "upstreams.x" must be an http or https URL'),
        ("UPSTREAMS", "{ x", "STREAMFOLD_UPSTREAMS: not valid TOML"),
        ("PLUGINS__NONE__X", "1", 'STREAMFOLD_PLUGINS__NONE__X: there is no plugin "none"'),
        (
            "PLUGINS__OTEL__TIMEOUT_S",
            "-1",
            'STREAMFOLD_PLUGINS__OTEL__TIMEOUT_S: "plugins.otel.timeout_s" must be more',
        ),
        ("HOST", "0.0.0.0", 'STREAMFOLD_HOST: "host" is 0.0.0.0, which other machines may reach'),
    ],
)
def test_mistakes_in_variables_are_named(variable: str, value: str, sentence: str) -> None:
    """A mistake in a variable names the variable and the fix."""
    with pytest.raises(UsageError) as caught:
        load_config(environ={f"STREAMFOLD_{variable}": value})

    assert sentence in str(caught.value)


def test_unknown_variables_are_told() -> None:
    """A variable that is no key is no mistake (others set them too), but it is told, with what it may have meant."""
    ours = {"STREAMFOLD_DEBUG": "1", "STREAMFOLD_NO_EXTENSIONS": "1"}
    examined = examine(environ={"STREAMFOLD_LIMITS__STREAMZ": "1", "STREAMFOLD_SERVICE_HOST": "10.0.0.1", **ours})

    assert examined.config is not None
    assert [note.partition(" ")[0] for note in examined.notes] == [
        "STREAMFOLD_LIMITS__STREAMZ",
        "STREAMFOLD_SERVICE_HOST",
    ]
    assert 'did you mean "STREAMFOLD_LIMITS__STREAMS"?' in examined.notes[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('host = "0.0.0.0"', '"host" is 0.0.0.0, which other machines may reach, and nobody is asked for a token'),
        ('[access.clients.a]\ntoken_hash = "sf-abc"', "is no hash; make a token and its hash with: streamfold token a"),
        ("[access.clients.a]", '"access.clients.a.token_hash" is missing'),
        ("workers = 0", '"workers" is 0; it must be 1 or more'),
        ("workers = 2\n[plugins.prometheus]\nport = 1", '"plugins.prometheus.port" cannot be shared by workers'),
    ],
)
def test_what_must_not_start(tmp_path: Path, text: str, sentence: str) -> None:
    """A gateway that others reach needs tokens, tokens need real hashes, and workers need what can be shared."""
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)

    assert sentence in str(caught.value)


def test_exposed_with_a_token_or_by_intent(tmp_path: Path) -> None:
    """Other machines may be served with tokens, or by saying that everybody may."""
    hashed = f'host = "0.0.0.0"\n[access.clients.a]\ntoken_hash = "{hash_of(new_token())}"'

    assert not load(tmp_path, hashed).access.open
    assert load(tmp_path, 'host = "0.0.0.0"\n[access]\nallow_anonymous = true').access.open


def test_every_option_is_documented() -> None:
    """Each option says what it means."""
    assert [f"{option.section}.{option.key}" for option in options() if not option.meaning] == []


def test_the_page_lists_every_option() -> None:
    """The tables of docs/configuration.md are those that the code makes (`streamfold serve --help-config`)."""
    page = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text()
    _, _, rest = page.partition("<!-- options -->\n")
    tables, _, _ = rest.partition("<!-- end of options -->")

    assert tables.strip() == markdown().strip(), "write the output of `streamfold serve --help-config` there"


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
