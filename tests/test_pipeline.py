"""The hooks: who is called when, and that nothing a plugin does wrong reaches the traffic."""

import asyncio
import logging
import threading

import msgspec
import pytest

from streamfold import Accumulator, UsageError, fold
from streamfold.hooks import DROP, Plugin, RequestContext, ShortCircuit
from streamfold.pipeline import Pipeline
from streamfold.plugins import load_plugin, load_plugins
from streamfold.types import ErrorDetails

CHUNKS = [
    b'{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"}}]}',
    b'{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"b"}}]}',
    b'{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    b"[DONE]",
]
FINAL = fold(b"".join(b"data: " + chunk + b"\n\n" for chunk in CHUNKS), "openai-chat")


class Recorder:
    """Notes what it is called with."""

    def __init__(self, name, log, asynchronous=False, inline=False):
        self.name, self.log, self.inline = name, log, inline
        if asynchronous:
            self.pre_llm_hook, self.post_llm_hook, self.on_response = self.apre, self.apost, self.aresponse
        else:
            self.pre_llm_hook, self.post_llm_hook, self.on_response = self.pre, self.post, self.response

    def pre(self, ctx, request):
        self.log.append((self.name, "pre", request))

    def post(self, ctx, chunk, error):
        self.log.append((self.name, "post", chunk))

    def response(self, ctx, processed):
        self.log.append((self.name, "response", processed))

    async def apre(self, ctx, request):
        self.pre(ctx, request)

    async def apost(self, ctx, chunk, error):
        self.post(ctx, chunk, error)

    async def aresponse(self, ctx, processed):
        self.response(ctx, processed)


def context(**about):
    return RequestContext(request_id="r1", **about)


async def run(pipeline, chunks=("one",)):
    """One request through a pipeline; what the client would get."""
    ctx = context()
    short = await pipeline.before(ctx, {"model": "m"})
    out = []
    for index, chunk in enumerate(chunks if short is None else ()):
        ctx.chunk_index = index
        out.append(await pipeline.chunk(ctx, chunk))
    pipeline.finished(ctx, FINAL)
    return short, out


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_order_of_hooks(asynchronous, inline):
    """Requests pass the plugins in order, chunks in reverse order, and each plugin gets the response once."""
    log = []
    pipeline = Pipeline([Recorder(name, log, asynchronous, inline) for name in "abc"])
    await run(pipeline)
    await pipeline.close()
    assert [entry[:2] for entry in log[:6]] == [(n, "pre") for n in "abc"] + [(n, "post") for n in "cba"]
    assert sorted(entry[0] for entry in log[6:]) == ["a", "b", "c"]
    assert all(entry[2] is FINAL for entry in log[6:])


async def test_a_plugin_without_a_chunk_hook_is_not_in_the_way_of_chunks():
    """Only plugins that define `post_llm_hook` make the pipeline look at chunks."""

    class Last:
        name = "last"

        def on_response(self, ctx, processed): ...

    assert not Pipeline([Last()]).watches_chunks
    assert Pipeline([Last(), Recorder("r", [])]).watches_chunks


@pytest.mark.parametrize("answer", [ShortCircuit(response={"x": 1}), ShortCircuit(error=ErrorDetails(message="no"))])
async def test_short_circuit(answer):
    """A short circuit stops the request, and plugins behind it see nothing of it but the final response."""
    log = []

    class Stop:
        name = "stop"

        def pre_llm_hook(self, ctx, request):
            return answer

    pipeline = Pipeline([Recorder("a", log), Stop(), Recorder("b", log)])
    ctx = context()
    assert await pipeline.before(ctx, None) == answer
    await pipeline.chunk(ctx, "reply")
    await pipeline.close()
    assert [entry[:2] for entry in log] == [("a", "pre"), ("a", "post")]


@pytest.mark.parametrize("inline", [False, True])
async def test_chunks_are_replaced_and_dropped(inline):
    """What a chunk hook answers goes to the next plugin and to the client; a dropped chunk goes nowhere."""
    log = []

    class Change:
        name = "change"

        def post_llm_hook(self, ctx, chunk, error):
            return {"one": "1", "two": DROP}.get(chunk)

    Change.inline = inline
    pipeline = Pipeline([Recorder("first", log), Change()])
    _, out = await run(pipeline, ["one", "two", "three"])
    await pipeline.close()
    assert out == ["1", DROP, "three"]
    assert [entry[2] for entry in log if entry[1] == "post"] == ["1", "three"]


class BrokenError(Exception):
    pass


def raising(error):
    def hook(self, *_):
        raise error

    async def ahook(self, *_):
        raise error

    return hook, ahook


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("error", [BrokenError("secret"), SystemExit(1), asyncio.CancelledError(), MemoryError()])
@pytest.mark.parametrize("kind", [0, 1], ids=["plain", "async"])
async def test_what_a_plugin_raises_stays_with_it(kind, error, inline, caplog):
    """Whatever a hook raises is counted, logged once without its text, and the traffic goes on unchanged."""
    hook = raising(error)[kind]
    bad = type("Bad", (), {"name": "bad", "pre_llm_hook": hook, "post_llm_hook": hook, "on_response": hook})()
    bad.inline = bad.inline_response = inline
    log = []
    pipeline = Pipeline([Recorder("before", log), bad, Recorder("after", log)])
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            short, out = await run(pipeline)
            assert short is None
            assert out == ["one"]
        await pipeline.close()
    status = next(each for each in pipeline.status() if each.name == "bad")
    name = type(error).__name__
    assert {
        hook: status.errors.get(f"{hook}: {name}") for hook in ("pre_llm_hook", "post_llm_hook", "on_response")
    } == {
        "pre_llm_hook": 3,
        "post_llm_hook": 3,
        "on_response": 3,
    }
    assert [record.name for record in caplog.records].count("streamfold.hooks") == 3
    assert "secret" not in caplog.text
    assert sum(entry[1] == "response" for entry in log) == 6


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_hook_that_blocks_is_left_behind(asynchronous):
    """A hook that never returns costs the traffic one timeout; afterwards its plugin is left out, others are not."""
    release = threading.Event()
    log = []

    class Stuck:
        name = "stuck"
        calls = 0

        def pre_llm_hook(self, ctx, request):
            Stuck.calls += 1
            release.wait(60)

    class AsyncStuck(Stuck):
        async def pre_llm_hook(self, ctx, request):
            Stuck.pre_llm_hook(self, ctx, request)

    Stuck.calls = 0
    pipeline = Pipeline([AsyncStuck() if asynchronous else Stuck(), Recorder("other", log)], hook_timeout=0.5)
    for _ in range(5):
        await run(pipeline)
    release.set()
    await pipeline.close()
    assert Stuck.calls == 1
    errors = pipeline.status()[0].errors
    assert errors == {"pre_llm_hook: took longer than 0.5 s": 1, "pre_llm_hook: left out": 4}
    assert sum(entry[1] == "response" for entry in log) == 5


async def test_cancelling_the_request_cancels_the_wait_for_a_hook():
    """A client that leaves while a hook runs ends the request; it is not taken for a failure of the plugin."""
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Slow:
        name = "slow"

        async def pre_llm_hook(self, ctx, request):
            loop.call_soon_threadsafe(started.set)
            await asyncio.sleep(60)

    pipeline = Pipeline([Slow()])
    task = asyncio.create_task(pipeline.before(context(), None))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pipeline.status()[0].errors == {}
    await pipeline.close()


async def test_a_slow_consumer_has_a_bounded_queue():
    """Responses that a slow plugin cannot take are counted as dropped; nobody waits for it."""
    release, taken = threading.Event(), []

    class Slow:
        name = "slow"

        def on_response(self, ctx, processed):
            release.wait(60)
            taken.append(processed)

    pipeline = Pipeline([Slow()], queue_size=3)
    for _ in range(10):
        pipeline.finished(context(), FINAL)
    waiting = pipeline.status()[0]
    release.set()
    await pipeline.close()
    assert waiting.waiting <= 4
    assert len(taken) + waiting.dropped == 10
    assert waiting.dropped >= 6


async def test_close_is_called_once_after_all_responses():
    """A plugin is closed when it has got everything, and a close that raises harms nobody."""
    log = []

    class Closing(Recorder):
        def close(self):
            self.log.append((self.name, "close", None))
            raise BrokenError

    pipeline = Pipeline([Closing("a", log), Closing("b", log)])
    for _ in range(20):
        pipeline.finished(context(), FINAL)
    await pipeline.close()
    for name in "ab":
        assert [entry[1] for entry in log if entry[0] == name] == ["response"] * 20 + ["close"]


# ---------------------------------------------------------------------- the pattern of the original


class Ported:
    """As plugins of the original are written: open in the pre hook, process in the post hook, clean up at the end."""

    def __init__(self, name, accumulator, finals):
        self.name, self.accumulator, self.finals = name, accumulator, finals

    def pre_llm_hook(self, ctx, request):
        self.accumulator.create_stream_accumulator(ctx.request_id, ctx.started_at, owner=self.name, format=ctx.format)

    def post_llm_hook(self, ctx, chunk, error):
        processed = self.accumulator.process_streaming_response(ctx, chunk, error)
        if processed is not None and processed.is_final:
            self.finals.setdefault(self.name, []).append(processed)
            self.accumulator.cleanup_stream_accumulator(ctx.request_id, owner=self.name)


@pytest.mark.parametrize("inline", [False, True])
async def test_plugins_ported_from_the_original_share_one_accumulator(inline):
    """Several plugins that each hand every chunk to one accumulator all get the same complete response, once."""
    accumulator, finals = Accumulator(), {}
    plugins = [Ported(name, accumulator, finals) for name in ("logging", "otel", "maxim")]
    for plugin in plugins:
        plugin.inline = inline
    pipeline = Pipeline(plugins)
    ctx = context(format="openai-chat", provider="openai", model="m")
    await pipeline.before(ctx, {})
    for index, chunk in enumerate(CHUNKS):
        ctx.chunk_index = index
        assert await pipeline.chunk(ctx, chunk) is chunk
    await pipeline.close()
    assert [len(found) for found in finals.values()] == [1, 1, 1]
    (first,), *others = finals.values()
    assert all(other[0] is first for other in others)
    assert first.data.output_message.content == "ab"
    assert first.data.status == "success"
    assert len(accumulator) == 0
    assert {status.name: status.errors for status in pipeline.status()} == {"logging": {}, "otel": {}, "maxim": {}}


# ---------------------------------------------------------------------- loading


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    colour: str = "red"
    size: int = 1


class Configured(Plugin):
    name = "configured"
    Config = Settings

    def __init__(self, config):
        self.config = config


class Bare:
    name = "bare"


HERE = "test_pipeline"


def test_plugins_load_by_import_path_in_their_order():
    """Sections become plugins, in their order, with their settings; a disabled one is left out."""
    sections = {
        f"{HERE}:Configured": {"colour": "blue"},
        f"{HERE}:Bare": {},
        "otel": {"enabled": False},
    }
    first, second = load_plugins(sections)
    assert type(first).__name__ == "Configured"
    assert first.config == Settings(colour="blue")
    assert type(second).__name__ == "Bare"


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        (
            f"{HERE}:Configured",
            {"color": "x"},
            'unknown key "plugins.\'test_pipeline:Configured\'.color"; did you mean "colour"?',
        ),
        (f"{HERE}:Configured", {"size": "x"}, "must be a whole number, not text"),
        (f"{HERE}:Bare", {"size": 1}, "takes no settings; take out size"),
        (f"{HERE}:Missing", {}, "has no Missing"),
        ("no_such_module:X", {}, "cannot be imported"),
        ("promethius", {}, 'there is no plugin "promethius"; did you mean "prometheus"?'),
    ],
)
def test_mistakes_in_a_plugin_section_name_the_key(name, settings, told):
    """A plugin that cannot be loaded stops the start with a sentence that says which and why."""
    with pytest.raises(UsageError) as caught:
        load_plugin(name, settings, where="gateway.toml: ")
    assert told in str(caught.value)
    assert str(caught.value).startswith("gateway.toml: ")
