"""Many live streams: owners, one FINAL for all, lifetimes that end exactly once."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

import streamfold
from streamfold import Accumulator, StreamContext, UsageError
from streamfold.testing import shuffled


def chunk(text=None, finish=None, **extra):
    delta = {} if text is None else {"content": text}
    return {"id": "c1", "model": "m1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **extra}


CHUNKS = [chunk("Hel"), chunk("lo"), chunk(finish="stop")]


class Clock:
    def __init__(self):
        self.now = 1_000_000_000

    def __call__(self):
        return self.now

    def go(self, seconds):
        self.now += int(seconds * 1e9)


def open_stream(acc, request_id="r1", owner="logging", **options):
    return acc.create_stream_accumulator(request_id, format="openai-chat", owner=owner, **options)


def test_the_pattern_of_the_original_works_as_written():
    """Create before the request, process in the post hook, clean up at the end: deltas, then one final."""
    acc = Accumulator()
    open_stream(acc)
    ctx = StreamContext(request_id="r1", provider="openai", model="m")
    deltas = [acc.process_streaming_response(ctx, each) for each in CHUNKS[:2]]
    assert [(each.type, each.data, each.delta.output_message.content) for each in deltas] == [
        ("delta", None, "Hel"),
        ("delta", None, "lo"),
    ]
    final = acc.process_streaming_response({"request_id": "r1", "stream_end": True}, CHUNKS[2])
    assert final.is_final
    assert final.data.output_message.content == "Hello"
    assert (final.provider, final.requested_model, final.resolved_model) == ("openai", "m", "m1")
    assert final.to_response()["choices"][0]["message"]["content"] == "Hello"
    assert final.to_response()["extra_fields"]["request_type"] == "chat_completion"
    assert acc.cleanup_stream_accumulator("r1", owner="logging") is True
    assert len(acc) == 0


def test_the_protocols_own_end_is_a_final_too():
    """Nobody has to set a flag where the stream says itself that it has ended."""
    acc = Accumulator()
    open_stream(acc)
    ctx = {"request_id": "r1"}
    results = [acc.process_streaming_response(ctx, each) for each in [*CHUNKS, "[DONE]"]]
    assert [result.is_final for result in results] == [False, False, False, True]
    assert results[-1].data.status == "success"


def test_every_owner_gets_the_same_final():
    """Three plugins show the same numbered chunks; the text counts once and all get one object."""
    acc = Accumulator()
    for owner in ("logging", "otel", "maxim"):
        open_stream(acc, owner=owner)
    finals = {}
    for owner in ("logging", "otel", "maxim"):
        for index, each in enumerate([*CHUNKS, "[DONE]"]):
            result = acc.process_streaming_response({"request_id": "r1", "chunk_index": index}, each)
            if result.is_final:
                finals.setdefault(owner, []).append(result)
    assert {owner: len(got) for owner, got in finals.items()} == {"logging": 1, "otel": 1, "maxim": 1}
    assert len({id(got[0]) for got in finals.values()}) == 1
    assert finals["otel"][0].data.output_message.content == "Hello"
    assert acc.owners() == {"r1": ["logging", "maxim", "otel"]}
    assert [acc.cleanup_stream_accumulator("r1", owner=owner) for owner in finals] == [False, False, True]


def test_cleaning_up_twice_is_harmless():
    """An owner that cleans up twice does not take the stream from another one."""
    acc = Accumulator()
    open_stream(acc, owner="a")
    open_stream(acc, owner="b")
    assert acc.cleanup_stream_accumulator("r1", owner="a") is False
    assert acc.cleanup_stream_accumulator("r1", owner="a") is False
    assert acc.cleanup_stream_accumulator("r1", owner="nobody") is False
    assert acc.cleanup_stream_accumulator("unknown", owner="a") is False
    assert len(acc) == 1


def test_a_late_chunk_is_refused_and_never_brings_a_stream_back():
    """After the last clean-up a chunk is counted, and no ghost with a false start time appears."""
    acc = Accumulator()
    open_stream(acc)
    acc.process_streaming_response({"request_id": "r1", "stream_end": True}, CHUNKS[0])
    acc.cleanup_stream_accumulator("r1", owner="logging")
    assert acc.process_streaming_response({"request_id": "r1"}, CHUNKS[1]) is None
    assert acc.refused == 1
    assert len(acc) == 0
    with pytest.raises(UsageError, match="has ended"):
        open_stream(acc)


@pytest.mark.parametrize(
    ("ctx", "chunk_", "message"),
    [
        ({"request_id": "r9"}, CHUNKS[0], "no stream 'r9'; call create_stream_accumulator first"),
        ({"request_id": "r1", "chunk_idx": 3}, CHUNKS[0], "unknown field `chunk_idx`"),
        ({}, CHUNKS[0], "missing required field `request_id`"),
        ({"request_id": "r1"}, None, "needs a chunk or an error"),
    ],
)
def test_misuse_is_told(ctx, chunk_, message):
    """A mistake of the caller is a UsageError that names it."""
    acc = Accumulator()
    open_stream(acc)
    with pytest.raises(UsageError, match=message):
        acc.process_streaming_response(ctx, chunk_)


def test_an_error_ends_the_stream_and_keeps_the_text():
    """An error without an index of its own is the end, whatever had been seen; the partial text stays."""
    acc = Accumulator()
    open_stream(acc)
    acc.process_streaming_response({"request_id": "r1", "chunk_index": 0}, CHUNKS[0])
    final = acc.process_streaming_response({"request_id": "r1"}, None, {"error": {"message": "boom", "code": 502}})
    assert final.data.status == "error"
    assert (final.data.error_details.message, final.data.error_details.status_code) == ("boom", 502)
    assert final.data.output_message.content == "Hel"


def test_a_caller_that_hung_up_is_cancelled():
    """The context may say how the stream ended."""
    acc = Accumulator()
    open_stream(acc)
    acc.process_streaming_response({"request_id": "r1"}, CHUNKS[0])
    final = acc.process_streaming_response({"request_id": "r1", "stream_end": True, "outcome": "cancelled"}, None)
    assert final.data.status == "cancelled"


def test_a_stream_whose_last_owner_leaves_early_is_abandoned_once():
    """The stream that nobody finished is emitted, once."""
    gone = []
    acc = Accumulator(on_abandoned=gone.append)
    open_stream(acc)
    acc.process_streaming_response({"request_id": "r1"}, CHUNKS[0])
    acc.cleanup_stream_accumulator("r1", owner="logging")
    acc.cleanup()
    assert [(final.request_id, final.data.status, final.data.output_message.content) for final in gone] == [
        ("r1", "abandoned", "Hel")
    ]


def test_the_idle_sweep_emits_what_it_removes_and_spares_the_living():
    """Idleness counts from the last chunk, not from creation."""
    clock, gone = Clock(), []
    acc = Accumulator(idle_ttl=60, on_abandoned=gone.append, clock=clock)
    open_stream(acc, "idle")
    open_stream(acc, "busy")
    for _ in range(5):
        clock.go(50)
        acc.process_streaming_response({"request_id": "busy"}, CHUNKS[0])
    assert [final.request_id for final in gone] == ["idle"]
    assert gone[0].data.status == "abandoned"
    assert list(acc.owners()) == ["busy"]
    assert acc.sweep() == []


def test_a_finished_stream_is_not_abandoned():
    """A stream that was finished goes without a second FINAL."""
    gone = []
    acc = Accumulator(on_abandoned=gone.append)
    open_stream(acc)
    acc.process_streaming_response({"request_id": "r1", "stream_end": True}, CHUNKS[2])
    assert acc.cleanup() == 1
    assert gone == []


def test_the_limit_on_streams_ends_the_one_idle_longest():
    """A new stream is never refused; the oldest gives way and is emitted."""
    gone = []
    acc = Accumulator(max_streams=2, on_abandoned=gone.append)
    for request_id in ("a", "b"):
        open_stream(acc, request_id)
    acc.process_streaming_response({"request_id": "a"}, CHUNKS[0])
    open_stream(acc, "c")
    assert [final.request_id for final in gone] == ["b"]
    assert set(acc.owners()) == {"a", "c"}


def test_a_callback_that_raises_is_counted_and_goes_no_further():
    """A broken on_abandoned breaks nothing."""

    def broken(final):
        raise RuntimeError

    acc = Accumulator(on_abandoned=broken)
    open_stream(acc, "a")
    open_stream(acc, "b")
    assert acc.cleanup() == 2
    assert acc.callback_errors == 2


def test_the_gateways_own_envelope_is_taken_off_a_chunk():
    """`extra_fields` number the chunk, name model and provider and tell of the cache; they are not the response."""
    acc = Accumulator()
    acc.create_stream_accumulator("r1", owner="logging")
    extra = {"request_type": "chat_completion_stream", "provider": "openai", "original_model_requested": "gpt"}
    cache = {"cache_hit": True, "hit_type": "semantic", "similarity": 0.93, "requested_provider": "x"}
    for index in (1, 0, 1):
        acc.process_streaming_response(
            {"request_id": "r1"}, {**CHUNKS[index], "extra_fields": {**extra, "chunk_index": index}}
        )
    final = acc.process_streaming_response(
        {"request_id": "r1", "stream_end": True},
        {**CHUNKS[2], "extra_fields": {**extra, "chunk_index": 2, "cache_debug": cache}},
    )
    assert final.data.output_message.content == "Hello"
    assert "extra_fields" not in final.data.response
    assert (final.provider, final.requested_model) == ("openai", "gpt")
    assert (final.data.integrity.duplicates, final.data.integrity.reordered) == (1, 1)
    assert (final.data.cache_debug.cache_hit, final.data.cache_debug.similarity) == (True, 0.93)


def test_two_streams_never_see_each_other():
    """Ten thousand interleaved chunks of two requests leave no field of one in the other."""
    acc = Accumulator()
    for name in "ab":
        open_stream(acc, name, raw_request={"for": name})
    for _ in range(5000):
        for name in "ab":
            acc.process_streaming_response({"request_id": name}, chunk(name, user=name))
    for name in "ab":
        final = acc.process_streaming_response({"request_id": name, "stream_end": True}, None)
        assert final.data.output_message.content == name * 5000
        assert final.data.response["user"] == name
        assert final.raw_request == {"for": name}


def test_many_threads_share_one_registry():
    """Forty streams, each shown by three owners from a pool of threads in disorder, each end once and whole."""
    finals, lock = {}, threading.Lock()
    acc = Accumulator()
    words = [f"w{number} " for number in range(60)]
    payloads = [msgspec.json.encode(chunk(word)) for word in words] + [
        msgspec.json.encode(CHUNKS[2]),
        b"[DONE]",
    ]
    owners = ("logging", "otel", "maxim")
    for number in range(40):
        for owner in owners:
            open_stream(acc, f"r{number}", owner)

    def show(task):
        request_id, owner = task
        rng = random.Random(request_id + owner)
        final = None
        for index, payload in shuffled(payloads, rng, repeats=5):
            got = acc.process_streaming_response({"request_id": request_id, "chunk_index": index}, payload)
            final = got if got.is_final else final
        if final is None:  # every chunk was shown, but the last of them was not the last to be shown
            final = acc.process_streaming_response({"request_id": request_id, "stream_end": True}, None)
        with lock:
            finals.setdefault(request_id, []).append(final)
        acc.cleanup_stream_accumulator(request_id, owner=owner)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(show, [(f"r{number}", owner) for number in range(40) for owner in owners]))
    assert len(acc) == 0
    assert all(len({id(final) for final in got}) == 1 for got in finals.values())
    assert {got[0].data.output_message.content for got in finals.values()} == {"".join(words)}
    assert {got[0].data.status for got in finals.values()} == {"success"}


def test_to_response_of_a_delta_is_a_usage_error():
    """Only the final is whole."""
    acc = Accumulator()
    open_stream(acc)
    delta = acc.process_streaming_response({"request_id": "r1"}, CHUNKS[0])
    with pytest.raises(UsageError, match="this is a delta"):
        delta.to_response()


def test_the_sdks_own_objects_are_taken():
    """The chunks that the OpenAI SDK yields go in as they are."""
    from openai.types.chat import ChatCompletionChunk

    acc = Accumulator()
    open_stream(acc)
    whole = {"created": 1, "object": "chat.completion.chunk"}
    for each in CHUNKS:
        acc.process_streaming_response({"request_id": "r1"}, ChatCompletionChunk.model_validate({**each, **whole}))
    final = acc.process_streaming_response({"request_id": "r1", "stream_end": True}, None)
    assert final.data.output_message.content == "Hello"
    assert final.data.status == "success"


def test_the_stream_itself_can_be_had():
    """A snapshot of a live stream is one call away."""
    acc = Accumulator()
    stream = open_stream(acc)
    acc.process_streaming_response({"request_id": "r1"}, CHUNKS[0])
    assert acc.get("r1") is stream
    assert stream.snapshot().output_message.content == "Hel"
    assert acc.get("r2") is None


def test_bad_limits_are_told():
    """A limit that cannot be is refused at once."""
    with pytest.raises(UsageError, match="idle_ttl"):
        streamfold.Accumulator(idle_ttl=0)


USAGE = {**chunk(), "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}


@pytest.mark.parametrize(
    ("before", "last"),
    [([0, 1, 2], 0), ([0, 1, 2], 1), ([0, 2, 1], 0), ([0, 0, 1, 1, 2], 0)],
)
def test_a_last_chunk_with_a_number_in_use_counts(before, last):
    """The chunk flagged as the last is folded even if the gateway numbers it anew; it is not lost as a repeat."""
    acc = Accumulator()
    open_stream(acc)
    for index in before:
        acc.process_streaming_response(StreamContext(request_id="r1", chunk_index=index), CHUNKS[index])
    final = acc.process_streaming_response(StreamContext(request_id="r1", chunk_index=last, stream_end=True), USAGE)
    assert (final.data.status, final.data.output_message.content) == ("success", "Hello")
    assert final.data.token_usage.total_tokens == 3
    assert final.data.integrity.missing == []


def test_times_are_those_of_arrival():
    """A chunk that had to wait for an earlier one counts from when it came, in every figure."""
    clock = Clock()
    acc = Accumulator(clock=clock)
    open_stream(acc)
    times = {}
    for seconds, index in ((0.1, 1), (0.4, 0), (1.0, 2)):
        clock.go(seconds)
        times[index] = clock.now
        ctx = StreamContext(request_id="r1", chunk_index=index, stream_end=index == 2)
        final = acc.process_streaming_response(
            ctx, {**CHUNKS[index], **({"usage": USAGE["usage"]} if index == 2 else {})}
        )
    data = final.data
    assert data.output_message.content == "Hello"
    assert (data.latency_ms, data.time_to_first_chunk_ms) == pytest.approx((1500, 100))
    assert (data.time_to_first_token_ms, data.time_to_first_content_ms) == pytest.approx((100, 100))
    assert (data.max_gap_ms, data.time_per_output_token_ms) == pytest.approx((1000, 400))
