"""Golden prices: what a response costs, with the arithmetic beside each.

Rules are shown on a table of made-up round rates (`RATES`), so that a rule can be read off its row; providers are shown
on the pinned data set (`genai-prices`, see constraints.txt) at a fixed moment.
"""

import json
import math
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfold import StreamAccumulator, fold
from streamfold.catalog import ModelCatalog
from streamfold.types import (
    AccumulatedData,
    CacheDebug,
    CompletionTokensDetails,
    Cost,
    PromptTokensDetails,
    StreamType,
    TokenUsage,
)

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
"""The data set knows when a price began; the rows below hold at this moment."""

RATES = {
    "m": {
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 10e-06,
        "cache_read_input_token_cost": 0.1e-06,
        "cache_creation_input_token_cost": 1.25e-06,
        "cache_creation_input_token_cost_above_1hr": 2e-06,
        "input_cost_per_token_above_200k_tokens": 2e-06,
        "output_cost_per_token_above_200k_tokens": 15e-06,
        "cache_read_input_token_cost_above_200k_tokens": 0.2e-06,
        "input_cost_per_token_flex": 0.5e-06,
        "output_cost_per_token_flex": 5e-06,
        "input_cost_per_token_priority": 4e-06,
        "output_cost_per_token_priority": 40e-06,
        "input_cost_per_token_batches": 0.5e-06,
        "output_cost_per_token_batches": 5e-06,
        "search_context_cost_per_query": {
            "search_context_size_low": 0.01,
            "search_context_size_medium": 0.02,
            "search_context_size_high": 0.03,
        },
        "code_interpreter_cost_per_session": 0.03,
        "file_search_cost_per_1k_calls": 2.5,
    },
    "three-tiers": {
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 1e-06,
        "input_cost_per_token_above_128k_tokens": 2e-06,
        "input_cost_per_token_above_200k_tokens": 3e-06,
        "input_cost_per_token_above_272k_tokens": 4e-06,
    },
    "plain": {"input_cost_per_token": 1e-06, "output_cost_per_token": 10e-06},
    "input-only": {"input_cost_per_token": 1e-06},
    "free": {"input_cost_per_token": 0, "output_cost_per_token": 0},
    "ears": {
        "input_cost_per_token": 2e-06,
        "input_cost_per_audio_token": 30e-06,
        "output_cost_per_token": 10e-06,
        "output_cost_per_audio_token": 60e-06,
    },
    "eyes": {
        "input_cost_per_token": 5e-06,
        "input_cost_per_image_token": 10e-06,
        "output_cost_per_token": 8e-06,
        "output_cost_per_image_token": 40e-06,
    },
    "thinker": {
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
        "output_cost_per_reasoning_token": 3e-06,
    },
    "per-request": {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "input_cost_per_request": 0.005},
    "by-second": {"input_cost_per_second": 1e-04, "output_cost_per_second": 1e-04},
    "by-character": {"input_cost_per_character": 15e-06},
    "dall-e-3": {"input_cost_per_image": 0.04},
    "1024-x-1792/dall-e-3": {"input_cost_per_image": 0.08},
    "hd/1024-x-1792/dall-e-3": {"input_cost_per_image": 0.12},
    "by-pixel": {"input_cost_per_pixel": 2e-08, "output_cost_per_pixel": 0.0},
    "small-embedding": {"input_cost_per_token": 0.02e-06},
    "reranker": {"input_cost_per_query": 0.002},
}

catalog = ModelCatalog(RATES, at=AT)


def tokens(prompt, completion, *, read=None, write=None, m5=None, h1=None, audio=None, image=None, **out):
    """A usage; `out` are details of the completion and fields of the usage."""
    inputs = PromptTokensDetails(
        cached_read_tokens=read,
        cached_write_tokens=write,
        cached_write_5m_tokens=m5,
        cached_write_1h_tokens=h1,
        audio_tokens=audio,
        image_tokens=image,
    )
    rest = {name: out.pop(name) for name in ("server_tool_use", "seconds", "source") if name in out}
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        prompt_tokens_details=inputs,
        completion_tokens_details=CompletionTokensDetails(**out),
        **{"source": "provider", **rest},
    )


def record(model, usage=None, **fields):
    """A finished record of a model."""
    fields.setdefault("finish_reason", "stop")
    fields.setdefault("raw_finish_reason", "stop")
    return AccumulatedData(**{"status": "success", "model": model, "token_usage": usage, **fields})


SPEECH, WRITTEN, PICTURES = StreamType.AUDIO_SPEECH, StreamType.AUDIO_TRANSCRIPTION, StreamType.IMAGE_GENERATION
ITERATIONS = [
    {"type": "compaction", "input_tokens": 1000, "output_tokens": 100},
    {"type": "message", "input_tokens": 200, "output_tokens": 50, "cache_read_input_tokens": 800},
    {"type": "advisor_message", "model": "plain", "input_tokens": 300, "output_tokens": 20},
]

RULES = {
    # 1000 x 1e-6 + 100 x 10e-6
    "tokens": (record("m", tokens(1000, 100)), 0.002),
    # exactly at the threshold is below it: 200000 x 1e-6 + 1000 x 10e-6
    "at 200,000": (record("m", tokens(200_000, 1000)), 0.21),
    # one more, and all tokens cost more, the output too: 200001 x 2e-6 + 1000 x 15e-6
    "at 200,001": (record("m", tokens(200_001, 1000)), 0.415002),
    # the prompt counts, not the total: 199000 x 1e-6 + 5000 x 10e-6
    "a long answer is no long prompt": (record("m", tokens(199_000, 5000)), 0.249),
    # what came from the cache makes the prompt long as well: 1001 x 2e-6 + 200000 x 0.2e-6 + 10 x 15e-6
    "a long cached prompt": (record("m", tokens(201_001, 10, read=200_000)), 0.042152),
    # 128000 x 1e-6
    "first of three tiers": (record("three-tiers", tokens(128_000, 0)), 0.128),
    # 128001 x 2e-6
    "second of three tiers": (record("three-tiers", tokens(128_001, 0)), 0.256002),
    # 200001 x 3e-6
    "third of three tiers": (record("three-tiers", tokens(200_001, 0)), 0.600003),
    # 272001 x 4e-6
    "above all tiers": (record("three-tiers", tokens(272_001, 0)), 1.088004),
    # 600 x 1e-6 + 400 x 0.1e-6 + 100 x 10e-6
    "cached reads": (record("m", tokens(1000, 100, read=400)), 0.00164),
    # no rate for cached tokens: 1000 x 1e-6 + 100 x 10e-6
    "cached reads without a rate": (record("plain", tokens(1000, 100, read=400)), 0.002),
    # 500 x 1e-6 + 500 x 1.25e-6
    "cache writes": (record("m", tokens(1000, 0, write=500)), 0.001125),
    # 100 x 1e-6 + 200 x 0.1e-6 + 300 x 1.25e-6 + 400 x 2e-6
    "writes for 5 minutes and 1 hour": (
        record("m", tokens(1000, 0, read=200, write=700, m5=300, h1=400)),
        0.001295,
    ),
    # the split names only 400 of 700: 300 x 1e-6 + 300 x 1.25e-6 + 400 x 2e-6
    "writes split in part": (record("m", tokens(1000, 0, write=700, h1=400)), 0.001475),
    # 1000 x 0.5e-6 + 100 x 5e-6
    "flex": (record("m", tokens(1000, 100), service_tier="flex"), 0.001),
    # a discount is kept above the threshold: 300000 x 0.5e-6 + 100 x 5e-6
    "flex of a long prompt": (record("m", tokens(300_000, 100), service_tier="flex"), 0.1505),
    # 1000 x 4e-6 + 100 x 40e-6
    "priority": (record("m", tokens(1000, 100), service_tier="priority"), 0.008),
    # long prompts are not served with priority: 300000 x 2e-6 + 100 x 15e-6
    "priority of a long prompt": (record("m", tokens(300_000, 100), service_tier="priority"), 0.6015),
    # 1000 x 0.5e-6 + 100 x 5e-6
    "batch": (record("m", tokens(1000, 100), service_tier="batch"), 0.001),
    "the standard tier by another name": (record("m", tokens(1000, 100), service_tier="on_demand"), 0.002),
    # 700 x 2e-6 + 300 x 30e-6 + 50 x 10e-6 + 150 x 60e-6
    "audio on both sides": (record("ears", tokens(1000, 200, audio=300, audio_tokens=150)), 0.0199),
    # 50 text x 5e-6 + 950 image x 10e-6 + 1056 image x 40e-6
    "pictures by token": (
        record("eyes", tokens(1000, 1056, image=950, image_tokens=1056), stream_type=PICTURES),
        0.05199,
    ),
    # no details: an image API makes nothing but pictures: 50 x 5e-6 + 1056 x 40e-6
    "picture tokens without details": (record("eyes", tokens(50, 1056), stream_type=PICTURES), 0.04249),
    # 100 x 1e-6 + 60 x 2e-6 + 40 x 3e-6
    "reasoning with a rate": (record("thinker", tokens(100, 100, reasoning_tokens=40)), 0.00034),
    # reasoning is among the completion tokens and billed once: 100 x 1e-6 + 100 x 10e-6
    "reasoning without a rate": (record("plain", tokens(100, 100, reasoning_tokens=40)), 0.0011),
    # 100 x 1e-6 + 100 x 1e-6 + 0.005
    "a fee for each request": (record("per-request", tokens(100, 100)), 0.0052),
    # 3 x 0.02 (medium unless said) + 1000 x 1e-6
    "web searches": (record("m", tokens(1000, 0, server_tool_use={"web_search_requests": 3})), 0.061),
    # 1 x 0.03
    "web searches with much context": (
        record(
            "m",
            tokens(0, 0, server_tool_use={"web_search": {"num_requests": 1}}),
            response={"tools": [{"type": "web_search", "search_context_size": "high"}]},
        ),
        0.03,
    ),
    # fetching costs its tokens only: 1000 x 1e-6
    "web fetches": (record("m", tokens(1000, 0, server_tool_use={"web_fetch_requests": 4})), 0.001),
    # 2 searches x 0.02 (opening a page is none) + 1 file search x 0.0025 + 1 container x 0.03
    "tools of a Responses answer": (
        record(
            "m",
            tokens(0, 0),
            stream_type=StreamType.RESPONSES,
            output_messages=[
                {"type": "web_search_call", "action": {"type": "search"}},
                {"type": "web_search_call", "action": {"type": "open_page"}},
                {"type": "web_search_call"},
                {"type": "file_search_call"},
                {"type": "code_interpreter_call", "container_id": "c1"},
                {"type": "code_interpreter_call", "container_id": "c1"},
            ],
        ),
        0.0725,
    ),
    # on m: 1000 x 1e-6 + 100 x 10e-6, and 200 x 1e-6 + 800 x 0.1e-6 + 50 x 10e-6; on plain: 300 x 1e-6 + 20 x 10e-6
    "iterations, one on another model": (
        record("m", tokens(200, 50), response={"usage": {"iterations": ITERATIONS}}),
        0.00328,
    ),
    # 5 x 1e-6 + 7 x 10e-6, not the 69 and 9 that were read and written
    "Cohere's billed units": (
        record("plain", tokens(69, 9), response={"usage": {"billed_units": {"input_tokens": 5, "output_tokens": 7}}}),
        0.000075,
    ),
    # 2 x 0.002
    "search units": (
        record("reranker", TokenUsage(source="provider", server_tool_use={"search_units": 2})),
        0.004,
    ),
    # 30.5 x 1e-4; LiteLLM's file has the same price on both sides, which is one price
    "seconds": (record("by-second", TokenUsage(seconds=30.5, source="provider"), stream_type=WRITTEN), 0.00305),
    # 12 x 1e-4, as long as the transcription says
    "seconds of a verbose transcription": (
        record("by-second", stream_type=WRITTEN, transcription_output={"text": "x", "duration": 12.0}),
        0.0012,
    ),
    # 2 x 0.04
    "pictures by count": (
        record("dall-e-3", stream_type=PICTURES, image_generation_output={"images": [{"url": "a"}, {"url": "b"}]}),
        0.08,
    ),
    # 1 x 0.08
    "a picture by its size": (
        record(
            "dall-e-3", stream_type=PICTURES, image_generation_output={"images": [{"url": "a"}], "size": "1024x1792"}
        ),
        0.08,
    ),
    # 1 x 0.12
    "a picture by size and quality": (
        record(
            "dall-e-3",
            stream_type=PICTURES,
            image_generation_output={"images": [{"url": "a"}], "size": "1024x1792", "quality": "hd"},
        ),
        0.12,
    ),
    # a picture that failed is not paid for: 1 x 0.04
    "a failed picture": (
        record("dall-e-3", stream_type=PICTURES, image_generation_output={"images": [{"url": "a"}, {"error": {}}]}),
        0.04,
    ),
    # 512 x 512 x 2e-8
    "a picture by its pixels": (
        record("by-pixel", stream_type=PICTURES, image_generation_output={"images": [{"url": "a"}], "size": "512x512"}),
        0.00524288,
    ),
    # said to be nothing is not unknown
    "a free model": (record("free", tokens(1000, 100)), 0.0),
    "no tokens": (record("m", tokens(0, 0)), 0.0),
    # an answer out of the cache was not paid for again
    "direct hit of a semantic cache": (
        record("m", tokens(1000, 100), cache_debug=CacheDebug(cache_hit=True, hit_type="direct")),
        0.0,
    ),
    # 50 x 0.02e-6
    "semantic hit": (
        record(
            "m",
            tokens(1000, 100),
            cache_debug=CacheDebug(
                cache_hit=True, hit_type="semantic", model_used="small-embedding", provider_used="x", input_tokens=50
            ),
        ),
        0.000001,
    ),
    # 0.002 and 50 x 0.02e-6
    "a miss was looked up as well": (
        record(
            "m",
            tokens(1000, 100),
            cache_debug=CacheDebug(cache_hit=False, model_used="small-embedding", input_tokens=50),
        ),
        0.002001,
    ),
    # negative parts count as nothing: 1000 x 1e-6
    "a negative part": (record("m", tokens(1000, 0, read=-5)), 0.001),
    # the parts are no more than the whole: 100 x 30e-6
    "more audio than prompt": (record("ears", tokens(100, 0, audio=150)), 0.003),
    # cached audio is counted among the audio: 100 x 2e-6 (cached, no rate) + 0 text + 100 audio x 30e-6
    "cached audio": (record("ears", tokens(200, 0, read=100, audio=150)), 0.0032),
}


@pytest.mark.parametrize(("data", "dollars"), RULES.values(), ids=RULES)
def test_the_rules(data, dollars):
    """Each rule of pricing gives the sum that one does by hand, complete, with lines that add up to it."""
    cost, reason = catalog.cost_of(data)
    assert reason is None
    assert cost.total_cost == pytest.approx(dollars, rel=1e-12, abs=1e-15)
    assert cost.complete, cost.details
    assert cost.source == "catalog"
    assert_adds_up(cost)


def assert_adds_up(cost):
    lines = [line for line in cost.details["components"].values() if line["cost"] is not None]
    for line in lines:
        assert line["units"] * line["rate"] == pytest.approx(line["cost"], rel=1e-9, abs=1e-18)
        assert line["cost"] >= 0
    assert math.fsum(line["cost"] for line in lines) == pytest.approx(cost.total_cost, rel=1e-9, abs=1e-18)
    sides = (cost.input_cost, cost.output_cost, cost.additional_cost)
    assert math.fsum(sides) == pytest.approx(cost.total_cost, rel=1e-9, abs=1e-18)


PARTLY = {
    # 1000 x 1e-6; the answer has no rate
    "no output rate": (record("input-only", tokens(1000, 100)), 0.001, "no rate for output"),
    # 1000 x 1e-6; what the model wrote was not said
    "no word on the output": (record("m", tokens(1000, None)), 0.001, "output tokens were not said"),
    # 1000 x 1e-6; nobody knows what a tool called so costs
    "a tool without a rate": (
        record("plain", tokens(1000, 0, server_tool_use={"weather_calls": 2})),
        0.001,
        "no rate for weather_calls",
    ),
    # 1000 x 1e-6 + 100 x 10e-6 at the standard rate
    "a tier without rates": (record("plain", tokens(1000, 100), service_tier="priority"), 0.002, "service tier"),
    # 500 x 1e-6 + 500 x 1e-6: writes for an hour cost more wherever they have a price
    "hour-long writes without a rate": (record("plain", tokens(1000, 0, write=500, h1=500)), 0.001, "cached_write_1h"),
    # 1000 x 1e-6 + 100 x 10e-6
    "spoken output without a rate": (record("plain", tokens(1000, 100, audio_tokens=100)), 0.002, "output_audio"),
    # 1000 x 1e-6 + 5 x 10e-6
    "cut off before its last usage": (
        record("m", tokens(1000, 5), status="cancelled", finish_reason=None, raw_finish_reason=None),
        0.00105,
        "ended before its last usage",
    ),
    # on m: 1000 x 1e-6; the advisor's model is unknown
    "an iteration on an unknown model": (
        record(
            "m",
            tokens(1000, 0),
            response={
                "usage": {
                    "iterations": [
                        {"type": "message", "input_tokens": 1000, "output_tokens": 0},
                        {"type": "advisor_message", "model": "nobody", "input_tokens": 5, "output_tokens": 5},
                    ]
                }
            },
        ),
        0.001,
        "no rate for iterations[1].input",
    ),
    # 1000 x 1e-6 + 100 x 10e-6
    "inference kept in one country": (
        record("m", tokens(1000, 100), response={"usage": {"inference_geo": "us"}}),
        0.002,
        "inference_geo",
    ),
}


@pytest.mark.parametrize(("data", "dollars", "why"), PARTLY.values(), ids=PARTLY)
def test_partly_priced(data, dollars, why):
    """What has no rate is left out of the sum, named, and makes the cost incomplete."""
    cost, _ = catalog.cost_of(data)
    assert cost.total_cost == pytest.approx(dollars, rel=1e-12)
    assert not cost.complete
    assert any(why in each for each in cost.details["incomplete"])
    assert_adds_up(cost)


UNPRICED = {
    "unknown model": (record("nobody-knows-me", tokens(10, 10)), "no price known for nobody-knows-me"),
    "unknown provider": (record("x", tokens(10, 10), provider="my-cluster"), "has no provider my-cluster"),
    "no usage": (record("m"), "no usage"),
    "usage missing": (record("m", TokenUsage(source="missing")), "no usage"),
    "estimated usage is not priced": (record("m", tokens(10, 10, source="estimated")), "no usage"),
    "no model": (record(None, tokens(10, 10)), "no model"),
    "negative tokens": (record("m", tokens(-1, 10)), "invalid usage: prompt_tokens is -1"),
    "more cached than sent": (record("m", tokens(10, 1, read=8, write=8)), "invalid usage: 16 cached tokens"),
    "only a total": (record("m", TokenUsage(total_tokens=9, source="provider")), "invalid usage: only a total"),
    "no rate for any part": (record("by-second", tokens(10, 10)), "no rate for input"),
    "speech without the request": (record("by-character", stream_type=SPEECH), "priced by the characters"),
    "semantic hit of an unknown embedding": (
        record(
            "m",
            tokens(1, 1),
            cache_debug=CacheDebug(cache_hit=True, hit_type="semantic", model_used="unheard-of", input_tokens=5),
        ),
        "no price known for its embedding model unheard-of",
    ),
    "semantic hit without a word on it": (
        record("m", tokens(1, 1), cache_debug=CacheDebug(cache_hit=True, hit_type="semantic")),
        "semantic cache hit",
    ),
    "a name that is no name": (record("m" * 10_000, tokens(1, 1)), "no price known for mmm"),
}


@pytest.mark.parametrize(("data", "why"), UNPRICED.values(), ids=UNPRICED)
def test_no_price(data, why):
    """Where the cost is not known there is none, and never a zero; the reason says why."""
    cost, reason = catalog.cost_of(data)
    assert cost is None
    assert why in reason
    assert len(reason) < 1000


def test_speech_by_the_character():
    """The characters of a speech request are counted in the request: 23 x 15e-6."""
    cost, _ = catalog.cost_of(record("by-character", stream_type=SPEECH), {"input": "Grüße aus der Schweiz.\n"})
    assert cost.total_cost == pytest.approx(0.000345, rel=1e-12)
    assert cost.details["components"] == {"input_characters": {"units": 23, "rate": 15e-06, "cost": 0.000345}}


def test_a_picture_by_what_was_asked():
    """Size and quality are those of the answer, else those of the request: 1 x 0.12."""
    data = record("dall-e-3", stream_type=PICTURES, image_generation_output={"images": [{"url": "a"}]})
    cost, _ = catalog.cost_of(data, {"size": "1024x1792", "quality": "hd"})
    assert cost.total_cost == pytest.approx(0.12)


REAL = {
    # gpt-4o: 600 x 2.5/M + 400 cached x 1.25/M + 100 x 10/M
    "openai": (record("gpt-4o", tokens(1000, 100, read=400), provider="openai"), 0.003),
    # dated names are the same model
    "openai, served under a date": (
        record("gpt-4o", tokens(1000, 100, read=400), provider="openai", response_model="gpt-4o-2024-08-06"),
        0.003,
    ),
    # o3 flex: 1000000 x 1/M + 1000000 x 4/M
    "openai, flex": (record("o3", tokens(1_000_000, 1_000_000), provider="openai", service_tier="flex"), 5.0),
    # gpt-5.4: 272000 x 2.5/M + 1000 x 15/M
    "openai at 272,000": (record("gpt-5.4", tokens(272_000, 1000), provider="openai"), 0.695),
    # gpt-5.4: 272001 x 5/M + 1000 x 22.5/M
    "openai at 272,001": (record("gpt-5.4", tokens(272_001, 1000), provider="openai"), 1.382505),
    # gpt-audio: 100 x 2.5/M + 200 audio x 32/M + 10 x 10/M + 100 audio x 64/M
    "openai, audio": (record("gpt-audio", tokens(300, 110, audio=200, audio_tokens=100), provider="openai"), 0.01315),
    # gpt-image-1: 50 x 5/M + 1056 x 40/M
    "openai, a picture": (record("gpt-image-1", tokens(50, 1056), provider="openai", stream_type=PICTURES), 0.04249),
    # whisper-1: 60 s x 0.36/3600
    "openai, seconds": (
        record("whisper-1", TokenUsage(seconds=60, source="provider"), provider="openai", stream_type=WRITTEN),
        0.006,
    ),
    # gpt-4o-transcribe: 4 x 2.5/M + 100 audio x 6/M + 20 x 10/M
    "openai, transcription by token": (
        record("gpt-4o-transcribe", tokens(104, 20, audio=100), provider="openai", stream_type=WRITTEN),
        0.00081,
    ),
    # whisper-large-v3 on Groq: at least 10 s x 0.111/3600
    "groq, the shortest bill": (
        record("whisper-large-v3", TokenUsage(seconds=3, source="provider"), provider="groq", stream_type=WRITTEN),
        0.111 / 360,
    ),
    # claude-sonnet-4-5: 3000 x 3/M + 4000 x 0.3/M + 1000 x 3.75/M + 2000 x 6/M + 100 x 15/M
    "anthropic, writes of both kinds": (
        record(
            "claude-sonnet-4-5-20250929",
            tokens(10_000, 100, read=4000, write=3000, m5=1000, h1=2000),
            provider="anthropic",
        ),
        0.02745,
    ),
    # claude-sonnet-4-5: 200000 x 3/M + 1000 x 15/M
    "anthropic at 200,000": (record("claude-sonnet-4-5", tokens(200_000, 1000), provider="anthropic"), 0.615),
    # claude-sonnet-4-5: 200001 x 6/M + 1000 x 22.5/M
    "anthropic at 200,001": (record("claude-sonnet-4-5", tokens(200_001, 1000), provider="anthropic"), 1.222506),
    # claude-haiku-4-5: 1000 x 1/M + 100 x 5/M + 2 searches x 10/1000
    "anthropic, searches": (
        record("claude-haiku-4-5", tokens(1000, 100, server_tool_use={"web_search_requests": 2}), provider="anthropic"),
        0.0215,
    ),
    # claude-opus-4-8, fast: 1000 x 10/M + 100 x 50/M
    "anthropic, fast": (
        record("claude-opus-4-8", tokens(1000, 100), provider="anthropic", response={"usage": {"speed": "fast"}}),
        0.015,
    ),
    # gemini-2.5-pro: 100000 x 1.25/M + 100 x 10/M
    "gemini, short": (record("gemini-2.5-pro", tokens(100_000, 100), provider="gemini"), 0.126),
    # gemini-2.5-pro: 300000 x 2.5/M + 100 x 15/M; the path is Vertex AI's
    "gemini, long": (
        record("publishers/google/models/gemini-2.5-pro", tokens(300_000, 100), provider="vertex_ai"),
        0.7515,
    ),
    # gemini-2.5-flash: 200 x 0.3/M + 800 audio x 1/M + 10 x 2.5/M
    "gemini, audio": (record("gemini-2.5-flash", tokens(1000, 10, audio=800), provider="google"), 0.000885),
    # gemini-2.5-pro is billed by the grounded prompt: 35/1000, whatever it searched; 1000 x 1.25/M
    "gemini 2, searches": (
        record("gemini-2.5-pro", tokens(1000, 0, server_tool_use={"web_search_requests": 3}), provider="google"),
        0.03625,
    ),
    # gemini-3-pro-preview by the query: 3 x 14/1000 + 1000 x 2/M
    "gemini 3, searches": (
        record("gemini-3-pro-preview", tokens(1000, 0, server_tool_use={"web_search_requests": 3}), provider="google"),
        0.044,
    ),
    # regional sonnet 4.5 on Bedrock: 1000 x 3.3/M + 100 x 16.5/M
    "bedrock, an inference profile": (
        record("us.anthropic.claude-sonnet-4-5-20250929-v1:0", tokens(1000, 100), format="bedrock-converse"),
        0.00495,
    ),
    # the same by its ARN
    "bedrock, an ARN": (
        record(
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            tokens(1000, 100),
            provider="bedrock",
        ),
        0.00495,
    ),
    # Azure sells OpenAI's models at OpenAI's prices: 1000 x 2.5/M + 100 x 10/M
    "azure": (
        record("my-deployment", tokens(1000, 100), provider="azure-openai", response_model="gpt-4o-2024-08-06"),
        0.0035,
    ),
    # llama-3.3-70b-versatile: 1000 x 0.59/M + 100 x 0.79/M
    "groq": (record("llama-3.3-70b-versatile", tokens(1000, 100), provider="groq"), 0.000669),
    # mistral-large: 1000 x 2/M + 100 x 6/M
    "mistral": (record("mistral-large-latest", tokens(1000, 100), format="mistral"), 0.0026),
    # command-a: 5 x 2.5/M + 7 x 10/M
    "cohere": (
        record(
            "command-a-03-2025",
            tokens(69, 9),
            format="cohere",
            response={"usage": {"billed_units": {"input_tokens": 5, "output_tokens": 7}}},
        ),
        0.0000825,
    ),
    # deepseek-chat at noon UTC: 600 x 0.27/M + 400 x 0.07/M + 100 x 1.1/M
    "deepseek by the hour": (record("deepseek-chat", tokens(1000, 100, read=400), provider="deepseek"), 0.0003),
    # priced as the model that answered: 1000 x 0.15/M + 100 x 0.6/M
    "the model that answered": (
        record("gpt-4o", tokens(1000, 100), provider="openai", response_model="gpt-4o-mini-2024-07-18"),
        0.00021,
    ),
    # the provider's name for it says nothing, so what was asked for is priced: 1000 x 2.5/M + 100 x 10/M
    "the model that was asked for": (
        record("gpt-4o", tokens(1000, 100), provider="openai", response_model="snapshot-17"),
        0.0035,
    ),
    # the provider in front of the name, as LiteLLM writes it
    "a provider in the name": (record("openai/gpt-4o", tokens(1000, 100)), 0.0035),
}


@pytest.mark.parametrize(("data", "dollars"), REAL.values(), ids=REAL)
def test_real_models(data, dollars):
    """Models of the pinned data set, whose rates are spelled out above each row."""
    cost, reason = catalog.cost_of(data)
    assert reason is None
    assert cost.total_cost == pytest.approx(dollars, rel=1e-9)
    assert cost.complete, cost.details
    assert cost.details["priced_as"]["source"].startswith("genai-prices ")
    assert_adds_up(cost)


def test_speech_of_a_real_model():
    """tts-1: 1000 characters x 15/M."""
    data = record("tts-1", stream_type=SPEECH, provider="openai")
    assert catalog.cost_of(data, {"input": "x" * 1000})[0].total_cost == pytest.approx(0.015)


def test_prices_are_those_of_the_day():
    """A price holds from its date on: o3 cost 10/M and 40/M before 10 June 2025, 2/M and 8/M after."""
    later = ModelCatalog()
    for day, dollars in (("2025-06-09", 0.05), ("2025-06-10", 0.01)):
        data = record("o3", tokens(1000, 1000), provider="openai", start_timestamp=f"{day}T08:00:00.000Z")
        assert later.cost_of(data)[0].total_cost == pytest.approx(dollars)


STATED = {
    "a number (OpenRouter)": ({"cost": 0.0123}, 0.0123),
    "an object (Perplexity)": ({"cost": {"total_cost": 0.006, "request_cost": 0.005}}, 0.006),
    # 37756000 / 10^10
    "ticks (xAI)": ({"cost_in_usd_ticks": 37_756_000}, 0.0037756),
    "nothing": ({"cost": 0}, 0.0),
}


@pytest.mark.parametrize(("said", "dollars"), STATED.values(), ids=STATED)
@pytest.mark.parametrize("format", ["openai-chat", "openai-responses"])
def test_the_providers_word_comes_first(format, said, dollars):
    """A cost that the provider states is the cost, whatever the rates, and is labelled as its word."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100, **said}
    if format == "openai-chat":
        body = {"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
    else:
        usage = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100, **said}
        response = {"object": "response", "model": "m", "status": "completed", "output": [], "usage": usage}
        body = {"type": "response.completed", "response": response}
    data = fold(f"data: {json.dumps(body)}\n\n".encode(), format=format, catalog=catalog).data
    assert (data.cost.total_cost, data.cost.source) == (pytest.approx(dollars), "provider")
    assert data.cost_reason is None


def test_an_answer_out_of_a_cache_is_not_paid_twice():
    """A cached answer repeats the cost its provider once stated; it cost nothing this time."""
    data = record("m", tokens(10, 10), cost=Cost(total_cost=0.5, source="provider"))
    assert catalog.cost_of(data)[0].total_cost == 0.5
    data.cache_debug = CacheDebug(cache_hit=True, hit_type="direct")
    assert catalog.cost_of(data)[0].total_cost == 0


def test_a_new_price_replaces_an_old_one_of_ours():
    """Asked again (a stored row), a cost of the catalog is computed anew."""
    data = record("m", tokens(1000, 100), cost=Cost(total_cost=9.9, source="catalog"))
    assert catalog.cost_of(data)[0].total_cost == pytest.approx(0.002)


# ---------------------------------------------------------------------- whole streams


def sse(*events, named=False):
    return b"".join(
        (f"event: {event['type']}\n" if named else "").encode() + b"data: " + json.dumps(event).encode() + b"\n\n"
        for event in events
    )


CHAT = sse(
    {"model": "gpt-4o-2024-08-06", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}}]},
    {"model": "gpt-4o-2024-08-06", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {
        "model": "gpt-4o-2024-08-06",
        "choices": [],
        "usage": {
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "total_tokens": 1100,
            "prompt_tokens_details": {"cached_tokens": 400},
        },
    },
)
MESSAGES = sse(
    {
        "type": "message_start",
        "message": {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5-20250929",
            "content": [],
            "usage": {
                "input_tokens": 3000,
                "cache_read_input_tokens": 4000,
                "cache_creation_input_tokens": 3000,
                "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
                "output_tokens": 1,
                "service_tier": "standard",
            },
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 100}},
    {"type": "message_stop"},
    named=True,
)
GEMINI = sse(
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "H"}]}}], "modelVersion": "gemini-2.5-flash"},
    {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "i"}]}, "finishReason": "STOP"}],
        "modelVersion": "gemini-2.5-flash",
        "usageMetadata": {
            "promptTokenCount": 1000,
            "cachedContentTokenCount": 100,
            "candidatesTokenCount": 10,
            "thoughtsTokenCount": 90,
            "totalTokenCount": 1100,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 200},
                {"modality": "AUDIO", "tokenCount": 800},
            ],
            "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 100}],
        },
    },
)
RESPONSES = sse(
    {
        "type": "response.completed",
        "response": {
            "object": "response",
            "model": "o3-2025-04-16",
            "status": "completed",
            "service_tier": "flex",
            "output": [{"type": "web_search_call", "status": "completed", "action": {"type": "search"}}],
            "usage": {
                "input_tokens": 1000,
                "input_tokens_details": {"cached_tokens": 200},
                "output_tokens": 100,
                "output_tokens_details": {"reasoning_tokens": 60},
                "total_tokens": 1100,
            },
        },
    },
    named=True,
)
STREAMS = {
    # 600 x 2.5/M + 400 x 1.25/M + 100 x 10/M
    "openai-chat": (CHAT, "openai", 0.003),
    # 3000 x 3/M + 4000 x 0.3/M + 1000 x 3.75/M + 2000 x 6/M + 100 x 15/M
    "anthropic-messages": (MESSAGES, "anthropic", 0.02745),
    # 200 x 0.3/M + 700 audio x 1/M + 100 cached audio x 0.1/M + (10 + 90) x 2.5/M
    "gemini": (GEMINI, "gemini", 0.00102),
    # 800 x 1/M + 200 x 0.25/M + 100 x 4/M + 1 search x 10/1000
    "openai-responses": (RESPONSES, "openai", 0.01125),
}


@pytest.mark.parametrize(("format", "stream"), STREAMS.items(), ids=STREAMS)
def test_a_stream_ends_with_its_cost(format, stream):
    """A folded stream has its cost in the record: usage, cache, tier and tools as the provider told them."""
    body, provider, dollars = stream
    accumulator = StreamAccumulator(format, provider=provider, model="asked", catalog=ModelCatalog(at=AT))
    accumulator.feed(body)
    data = accumulator.finish().data
    assert data.status == "success"
    assert data.cost.total_cost == pytest.approx(dollars, rel=1e-9)
    assert (data.cost.complete, data.cost.source, data.cost_reason) == (True, "catalog", None)
    assert_adds_up(data.cost)


def test_a_cancelled_stream_costs_what_was_said():
    """Anthropic says the prompt at the start: cut off there, the prompt is priced, the answer named as missing."""
    accumulator = StreamAccumulator("anthropic-messages", provider="anthropic", catalog=ModelCatalog(at=AT))
    accumulator.feed(MESSAGES[: MESSAGES.index(b"event: content_block_stop")])
    data = accumulator.finish("cancelled").data
    # 3000 x 3/M + 4000 x 0.3/M + 1000 x 3.75/M + 2000 x 6/M
    assert data.cost.total_cost == pytest.approx(0.02595)
    assert not data.cost.complete
    assert "output tokens were not said" in data.cost.details["incomplete"]


# ---------------------------------------------------------------------- properties

counts = st.integers(0, 150_000)


@st.composite
def usages(draw):
    """Any sound usage within one tier of length."""
    prompt, completion = draw(counts), draw(counts)
    read = draw(st.integers(0, prompt))
    write = draw(st.integers(0, prompt - read))
    hour = draw(st.integers(0, write))
    return tokens(
        prompt,
        completion,
        read=read,
        write=write,
        h1=hour,
        m5=draw(st.integers(0, write - hour)),
        audio=draw(st.none() | st.integers(0, prompt)),
        image=draw(st.none() | st.integers(0, prompt)),
        reasoning_tokens=draw(st.none() | st.integers(0, completion)),
        audio_tokens=draw(st.none() | st.integers(0, completion)),
    )


models = st.sampled_from(["m", "plain", "ears", "thinker", "per-request", "gpt-audio", "claude-sonnet-4-5"])


@given(models, usages())
def test_costs_add_up_and_are_never_negative(model, usage):
    """Whatever the usage: no line is negative, the lines add up to the total, and each token is billed once."""
    cost, reason = catalog.cost_of(record(model, usage))
    assert reason is None
    assert cost.total_cost >= 0
    assert_adds_up(cost)
    lines = cost.details["components"]
    billed = [line["units"] for name, line in lines.items() if name.startswith(("input", "cached"))]
    assert sum(billed) == usage.prompt_tokens
    made = [line["units"] for name, line in lines.items() if name.startswith(("output", "reasoning"))]
    assert sum(made) == usage.completion_tokens


@given(models, counts, counts, counts, counts)
def test_more_tokens_never_cost_less(model, prompt, more, completion, more_output):
    """Within a tier of length the cost grows with the tokens."""
    prompt, more = min(prompt, 100_000), min(more, 100_000)
    less, _ = catalog.cost_of(record(model, tokens(prompt, completion)))
    grown, _ = catalog.cost_of(record(model, tokens(prompt + more, completion + more_output)))
    assert grown.total_cost >= less.total_cost


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=8,
)
WORDS = (
    "usage meta usageMetadata tools web_search_options iterations billed_units speed model cost cost_in_usd_ticks "
    "input_tokens prompt_tokens_details cached_tokens_details cacheTokensDetails"
)
places = st.sampled_from(WORDS.split())
responses = st.recursive(
    anything, lambda below: st.dictionaries(places, below, max_size=4) | st.lists(below, max_size=2), max_leaves=10
)


@given(st.dictionaries(places, responses, max_size=4), st.sampled_from(StreamType), st.dictionaries(places, responses))
def test_no_answer_makes_pricing_fail(response, kind, request):
    """Whatever stands in a native response or a request, there is a cost of 0 or more, or a reason."""
    data = record("m", tokens(10, 10, server_tool_use=response), response=response, stream_type=kind)
    cost, reason = catalog.cost_of(data, request)
    assert (cost is None) != (reason is None)
    assert cost is None or cost.total_cost >= 0


def test_the_same_sums_as_the_data_sets_own_calculator():
    """For all models of the data set that are priced by the token, our sum is that of the package itself."""
    from genai_prices import Usage, data_snapshot

    snapshot, compared = data_snapshot.get_snapshot(), 0
    for provider in snapshot.providers:
        for model in provider.models:
            prices = catalog.prices(model.id, provider.id)
            if prices is None or prices.model != model.id or not {"input", "output"} <= prices.rates.keys():
                continue
            usage = Usage(input_tokens=250_001, cache_read_tokens=50_000, output_tokens=2000)
            theirs = model.calc_price(usage, provider, genai_request_timestamp=AT)
            ours, _ = catalog.cost_of(record(model.id, tokens(250_001, 2000, read=50_000), provider=provider.id))
            assert Decimal(str(ours.total_cost)) == pytest.approx(theirs.total_price, rel=Decimal("1e-9")), model.id
            compared += 1
    assert compared > 1000
