"""Prometheus: what is exposed, read by the official client's own parsers."""

import logging
import random
import threading
import urllib.request
from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from streamfold.errors import UsageError
from streamfold.hooks import RequestContext
from streamfold.pipeline import Pipeline
from streamfold.plugins import load_plugin
from streamfold.plugins.prometheus import PrometheusConfig, PrometheusPlugin
from streamfold.plugins.prometheus.series import Spread
from streamfold.processed import ProcessedStreamResponse, ResponseType
from streamfold.types import (
    AccumulatedData,
    CompletionTokensDetails,
    Cost,
    ErrorDetails,
    Integrity,
    Outcome,
    PromptTokensDetails,
    TokenUsage,
)

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
WHO = {"provider": "openai", "model": "gpt-4o", "upstream": "main", "format": "openai-chat", "stream": "true"}


@pytest.fixture
def plugin():
    return PrometheusPlugin(PrometheusConfig())


def context(number=0, **known):
    return RequestContext(**{"request_id": f"r-{number}", "upstream": "main", "stream": True, **known})


def processed(arrivals=None, **said):
    known = {"status": "success", "provider": "openai", "model": "gpt-4o", "format": "openai-chat", **said}
    return ProcessedStreamResponse(
        type=ResponseType.FINAL, request_id="r", data=AccumulatedData(**known), arrivals=arrivals
    )


def told(plugin, done, **known):
    ctx = context(**known)
    plugin.pre_llm_hook(ctx, None)
    plugin.on_response(ctx, done)


def families(plugin, accept=None):
    body, content_type = plugin.exposition(accept)
    read = read_openmetrics if "openmetrics" in content_type else read_text
    return {family.name: family for family in read(body.decode())}


def samples(plugin, accept=None):
    return [sample for family in families(plugin, accept).values() for sample in family.samples]


def value(plugin, sample, **labels):
    """The sum of the samples of that name with those labels."""
    found = [each.value for each in samples(plugin) if each.name == sample and labels.items() <= each.labels.items()]
    assert found, f"no {sample} with {labels}"
    return sum(found)


@pytest.mark.parametrize("outcome", list(Outcome), ids=str)
def test_every_end_is_counted_once(plugin, outcome):
    """A request of each outcome is one request, an error unless it was a success, and no longer under way."""
    told(plugin, processed(status=outcome.value, latency_ms=20.0))
    assert value(plugin, "streamfold_requests_total", outcome=outcome.value, **WHO) == 1
    assert value(plugin, "streamfold_request_duration_seconds_count", outcome=outcome.value, **WHO) == 1
    assert value(plugin, "streamfold_requests_in_flight") == 0
    errors = [each.value for each in samples(plugin) if each.name == "streamfold_errors_total"]
    assert sum(errors) == (outcome is not Outcome.SUCCESS)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ErrorDetails(type="overloaded_error", code="busy", status_code=529), "overloaded_error"),
        (ErrorDetails(code="busy", status_code=503), "busy"),
        (ErrorDetails(status_code=502, message="<html>"), "http_502"),
        (ErrorDetails(message="?"), "error"),
        (None, "error"),
    ],
)
def test_errors_have_a_type(plugin, error, kind):
    """The type is the provider's word, else its code, else the HTTP status, else the outcome."""
    told(plugin, processed(status="error", error_details=error))
    assert value(plugin, "streamfold_errors_total", type=kind, outcome="error", **WHO) == 1


def test_tokens_cost_and_bytes_add_up(plugin):
    """Tokens by kind, dollars, and bytes are the sums of what the responses said."""
    usage = TokenUsage(
        prompt_tokens=100,
        completion_tokens=10,
        total_tokens=110,
        prompt_tokens_details=PromptTokensDetails(cached_read_tokens=40, cached_write_tokens=7),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=4),
        source="provider",
    )
    for number in range(3):
        done = processed(token_usage=usage, cost=Cost(total_cost=0.25, complete=number > 0), latency_ms=500.0)
        told(plugin, done, number=number, request_bytes=1000, response_bytes=20)
    wanted = {"prompt": 300, "completion": 30, "cached_read": 120, "cached_write": 21, "reasoning": 12}
    assert {kind: value(plugin, "streamfold_tokens_total", kind=kind, **WHO) for kind in wanted} == wanted
    assert value(plugin, "streamfold_cost_usd_total", **WHO) == 0.75
    assert value(plugin, "streamfold_responses_partly_priced_total", **WHO) == 1
    assert value(plugin, "streamfold_request_bytes_total", **WHO) == 3000
    assert value(plugin, "streamfold_response_bytes_total", **WHO) == 60
    assert value(plugin, "streamfold_output_tokens_per_second_sum", **WHO) == 60
    assert not families(plugin)["streamfold_responses_without_usage"].samples
    assert not families(plugin)["streamfold_responses_without_cost"].samples


def test_what_is_unknown_is_counted_as_unknown(plugin):
    """No usage and no cost are counted as such, not as zero; guesses have kinds of their own."""
    guess = TokenUsage(prompt_tokens=9, completion_tokens=3, source="estimated")
    told(plugin, processed(status="cancelled", token_usage=TokenUsage(), estimated_usage=guess))
    assert value(plugin, "streamfold_responses_without_usage_total", outcome="cancelled", **WHO) == 1
    assert value(plugin, "streamfold_responses_without_cost_total", outcome="cancelled", **WHO) == 1
    kinds = {each.labels["kind"] for each in samples(plugin) if each.name == "streamfold_tokens_total"}
    assert kinds == {"estimated_prompt", "estimated_completion"}
    assert not families(plugin)["streamfold_cost_usd"].samples


def test_times_of_a_stream(plugin):
    """Durations are in seconds, in their histograms; those of an unstreamed response are not times of a stream."""
    times = {
        "latency_ms": 2000.0,
        "time_to_first_chunk_ms": 100.0,
        "time_to_first_token_ms": 250.0,
        "time_per_output_token_ms": 20.0,
    }
    told(plugin, processed(**times))
    told(plugin, processed(stream=False, **times), number=1, stream=False)
    sums = {
        "request_duration_seconds": 4.0,
        "time_to_first_chunk_seconds": 0.1,
        "time_to_first_token_seconds": 0.25,
        "time_per_output_token_seconds": 0.02,
    }
    assert {name: value(plugin, f"streamfold_{name}_sum") for name in sums} == pytest.approx(sums)
    assert value(plugin, "streamfold_time_to_first_token_seconds_bucket", le="0.2") == 0
    assert value(plugin, "streamfold_time_to_first_token_seconds_bucket", le="0.3") == 1


def test_gaps_come_from_the_arrivals(plugin):
    """Three arrivals are two gaps; one arrival, or none kept, is no gap."""
    told(plugin, processed(arrivals=array("q", [5_000_000, 15_000_000, 1_015_000_000])))
    told(plugin, processed(arrivals=array("q", [5_000_000])), number=1)
    told(plugin, processed(), number=2)
    assert value(plugin, "streamfold_inter_chunk_gap_seconds_count") == 2
    assert value(plugin, "streamfold_inter_chunk_gap_seconds_sum") == pytest.approx(1.01)
    assert value(plugin, "streamfold_inter_chunk_gap_seconds_bucket", le="0.01") == 1
    assert value(plugin, "streamfold_inter_chunk_gap_seconds_bucket", le="1.28") == 2


@given(st.lists(st.integers(0, 30_000_000_000)))
def test_many_at_once_are_counted_like_one_by_one(values):
    """A sorted batch gives the buckets and the sum that its values give one after the other."""
    bounds = (0.001, 0.5, 1, 2.5, 15)
    batch, single = (Spread("x", "", ("a",), 10, bounds) for _ in range(2))
    for each in values:
        single.add(("1",), each / 1e9)
    batch.add_sorted_nanoseconds(("1",), sorted(values), sum(values))
    (ours, theirs) = ({s.labels["le"]: s.value for s in each.snapshot({})().samples if "le" in s.labels}
                      for each in (batch, single))  # fmt: skip
    assert ours == (theirs or dict.fromkeys(ours, 0))


def test_anomalies_are_counted_by_code(plugin):
    """Each code of a response counts once."""
    told(plugin, processed(integrity=Integrity(anomalies=["missing_done", "id_changed"])))
    told(plugin, processed(integrity=Integrity(anomalies=["missing_done"])), number=1)
    assert value(plugin, "streamfold_anomalies_total", code="missing_done", **WHO) == 2
    assert value(plugin, "streamfold_anomalies_total", code="id_changed", **WHO) == 1


def test_hooks_that_are_repeated_count_once(plugin):
    """Both hooks may be called again, in any order, without counting again; also without the first one."""
    ctx = context()
    for _ in range(2):
        plugin.pre_llm_hook(ctx, None)
    assert value(plugin, "streamfold_requests_in_flight", provider="unknown", upstream="main", stream="true") == 1
    for _ in range(2):
        plugin.on_response(ctx, processed())
        plugin.pre_llm_hook(ctx, None)
    plugin.on_response(context(1), processed())
    assert value(plugin, "streamfold_requests_in_flight") == 0
    assert value(plugin, "streamfold_requests_total") == 2


def test_under_way_follows_what_changes_in_between(plugin):
    """The gauge falls where it rose, though the provider and the kind became known only later."""
    ctx = context(stream=None)
    plugin.pre_llm_hook(ctx, None)
    ctx.stream, ctx.provider = True, "openai"
    plugin.on_response(ctx, processed())
    gauge = families(plugin)["streamfold_requests_in_flight"].samples
    assert [(each.labels["stream"], each.value) for each in gauge] == [("unknown", 0)]


def test_from_many_threads_nothing_is_lost(plugin):
    """Two thousand requests from twenty threads are two thousand, and a scrape in between is consistent."""

    def one(number):
        told(plugin, processed(latency_ms=1.0), number=number)
        if number % 100 == 0:
            requests = value(plugin, "streamfold_requests_total")
            assert value(plugin, "streamfold_request_duration_seconds_count") >= requests

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(2000)))
    assert value(plugin, "streamfold_requests_total") == 2000
    assert value(plugin, "streamfold_requests_in_flight") == 0


# ------------------------------------------------------------------------------------------------ bounded labels


ODD = ("", "\0", "\n", '"', "\\", "\u202e", "\ud800")


def test_a_hundred_thousand_names_are_a_bounded_number_of_series():
    """Made-up models, providers, codes and types end as `other`, and the exposition can still be read."""
    plugin = PrometheusPlugin(PrometheusConfig(max_label_values=20, max_series=50, duration_buckets=(1, 10)))
    randomly = random.Random(7)
    for number in range(100_000):
        name = f"{randomly.getrandbits(80):x}{ODD[number % len(ODD)]}"
        ctx = RequestContext(request_id="r", upstream=name, provider=name)
        plugin.pre_llm_hook(ctx, None)
        plugin.on_response(
            ctx,
            processed(
                status="error" if number % 2 else "success",
                model=name * (1000 if number < 100 else 1),
                provider=name,
                format=name,
                latency_ms=1.0,
                error_details=ErrorDetails(type=name),
                integrity=Integrity(anomalies=[name]),
            ),
        )
    found = samples(plugin)
    assert len(found) < 1000
    for label in ("model", "provider", "upstream", "format", "type"):
        assert len({each.labels[label] for each in found if label in each.labels}) <= 21
    assert max(len(text) for each in found for text in each.labels.values()) <= 120
    assert value(plugin, "streamfold_requests_total") == 100_000
    assert value(plugin, "streamfold_requests_in_flight") == 0


def test_names_that_nobody_answers_to_leave_room():
    """Made-up models that only failed take half of the places; a real one still gets its own."""
    plugin = PrometheusPlugin(PrometheusConfig(max_label_values=10))
    for number in range(50):
        told(plugin, processed(status="error", model=f"made-up-{number}"), number=number)
    told(plugin, processed(model="real"))
    models = {each.labels["model"] for each in samples(plugin) if each.name == "streamfold_requests_total"}
    assert models == {"real", "other", *(f"made-up-{number}" for number in range(5))}


# ------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("accept", [None, "", "*/*", OPENMETRICS, "text/plain;version=0.0.4;q=0.5, */*;q=0.1"])
def test_the_official_parsers_read_it(plugin, accept):
    """The text format and OpenMetrics both parse, and say the same."""
    told(plugin, processed(latency_ms=3.0, arrivals=array("q", [1, 2])))
    plugin.watch("queue_depth", "Rows that wait", lambda: 7)
    said = {(each.name, tuple(sorted(each.labels.items()))): each.value for each in samples(plugin, accept)}
    plain = {(each.name, tuple(sorted(each.labels.items()))): each.value for each in samples(plugin)}
    assert said == plain
    assert {family.type for family in families(plugin, accept).values()} == {"counter", "gauge", "histogram"}


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=x", "text/plain; version=\x00;;=", ",;="])
def test_any_accept_header_gets_an_answer(plugin, accept):
    """A header that names no version there is gets the plain text format."""
    body, content_type = plugin.exposition(accept)
    assert content_type.startswith("text/plain")
    assert list(read_text(body.decode()))


def test_watched_figures_are_read_at_each_scrape(plugin, caplog):
    """Gauges and counters are read when asked; one that raises is left out, said once, and harms nothing."""
    depth = iter([3, 4, 5])
    plugin.watch("queue_depth", "Rows that wait", lambda: next(depth))
    plugin.watch("rows_dropped_total", "Rows lost", lambda: 2.0, plugin="logging")
    plugin.watch("rows_dropped_total", "Rows lost", lambda: 9, plugin="otel")
    plugin.watch("broken", "Raises", lambda: 1 / 0)
    with caplog.at_level(logging.ERROR):
        assert [families(plugin)["queue_depth"].samples[0].value for _ in range(3)] == [3, 4, 5]
    assert families(plugin)["rows_dropped"].type == "counter"
    told_apart = {each.labels["plugin"]: each.value for each in families(plugin)["rows_dropped"].samples}
    assert told_apart == {"logging": 2, "otel": 9}
    assert not families(plugin)["broken"].samples
    assert caplog.text.count("broken cannot be read (ZeroDivisionError)") == 1


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("streamfold_requests_total", {}),
        ("streamfold_requests_in_flight", {}),
        ("a b", {}),
        ("taken", {"plugin": "a"}),
        ("taken", {"other": "b"}),
        ("free", {"__x": "a"}),
        ("free", {"worker": "a"}),
    ],
)
def test_what_cannot_be_watched_is_refused(name, labels):
    """A name or label that cannot be, or is taken, is refused with the name."""
    plugin = PrometheusPlugin(PrometheusConfig(labels={"worker": "1"}))
    plugin.watch("taken", "", lambda: 1, plugin="a")
    with pytest.raises(UsageError, match=name):
        plugin.watch(name, "", lambda: 1, **labels)


def test_own_labels_are_on_every_series():
    """Labels of the configuration tell processes apart."""
    plugin = PrometheusPlugin(PrometheusConfig(labels={"worker": "3"}))
    told(plugin, processed(latency_ms=1.0))
    plugin.watch("queue_depth", "", lambda: 1)
    assert {each.labels["worker"] for each in samples(plugin, OPENMETRICS)} == {"3"}


def test_plugins_do_not_share_figures():
    """Each plugin has a registry of its own."""
    first, second = PrometheusPlugin(), PrometheusPlugin()
    told(first, processed())
    assert not families(second)["streamfold_requests"].samples


async def test_the_pipeline_runs_it():
    """Loaded by name, run inline: the figures are there as soon as the response is handed over."""
    plugin = load_plugin("prometheus", {"gap_buckets": [0.1, 1]})
    pipeline = Pipeline([plugin])
    ctx = context()
    await pipeline.before(ctx, None)
    assert value(plugin, "streamfold_requests_in_flight") == 1
    pipeline.finished(ctx, processed())
    assert value(plugin, "streamfold_requests_in_flight") == 0
    await pipeline.close()
    assert pipeline.status()[0].errors == {}


def test_a_program_without_the_gateway_can_serve_them():
    """With a port, the figures are served on loopback, and no longer after closing."""
    before = set(threading.enumerate())
    plugin = PrometheusPlugin(PrometheusConfig(port=0))
    told(plugin, processed())
    address = f"http://127.0.0.1:{plugin.port}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert {family.name for family in read_text(answer.read().decode())} == families(plugin).keys()
    with pytest.raises(UsageError, match=r"plugins\.prometheus\.port"):
        PrometheusPlugin(PrometheusConfig(port=plugin.port))
    plugin.close()
    plugin.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=10)
    assert plugin.port is None
    assert not [thread for thread in set(threading.enumerate()) - before if "serve_forever" in thread.name]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"gap_buckets": []}, "gap_buckets"),
        ({"gap_buckets": [1, 1]}, "gap_buckets"),
        ({"speed_buckets": [0, 1]}, "speed_buckets"),
        ({"duration_buckets": [1, float("inf")]}, "duration_buckets"),
        ({"duration_buckets": [float("nan")]}, "duration_buckets"),
        ({"first_token_buckets": ["x"]}, "first_token_buckets"),
        ({"max_label_values": 0}, "max_label_values"),
        ({"max_series": -1}, "max_series"),
        ({"labels": {"model": "x"}}, "labels.model"),
        ({"labels": {"a-b": "x"}}, "labels.a-b"),
        ({"port": 70000}, "port"),
        ({"bucket": []}, "bucket"),
    ],
)
def test_mistakes_name_the_key(settings, key):
    """Every mistake stops the start with the key."""
    with pytest.raises(UsageError, match=f"plugins.prometheus.{key}"):
        load_plugin("prometheus", settings)
