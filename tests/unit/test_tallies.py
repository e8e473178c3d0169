"""Metrics in plain integers say at /metrics what prometheus-client's own would."""

import time
from collections.abc import Sequence
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from gateway import metric_sums, metrics
from gateway.tallies import Spread, Tally

BOUNDS_S = (0.025, 0.1, 0.25, 0.5, 1, 2.5, 64, 640)
LABEL = st.sampled_from(["chat", "images", 'a "quoted" one', "ünïcode\n"])
KINDS = st.lists(st.tuples(LABEL, LABEL, st.integers(0, 2**53)), max_size=30)
NEAR_BOUNDS = st.builds(lambda bound, by: round(bound * 1e6) + by, st.sampled_from(BOUNDS_S), st.integers(-2, 2))
DURATIONS_US = st.lists(st.integers(-5, 2**40) | NEAR_BOUNDS, max_size=30)


def page(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def without_sums(text: str) -> list[str]:
    return [line for line in text.splitlines() if "_sum" not in line]


def sums(text: str) -> list[float]:
    return [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if "_sum" in line]


@given(KINDS)
def test_a_tally_looks_like_a_counter(counted: Sequence[tuple[str, str, int]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    with patch.object(time, "time", lambda: 1_800_000_000.25):
        tally = Tally("calls_total", "Closed calls.", ("family", "outcome"), registry=ours)
        counter = Counter("calls_total", "Closed calls.", ["family", "outcome"], registry=theirs)
        plain, plainly = Tally("cost_total", "Cost.", registry=ours), Counter("cost_total", "Cost.", registry=theirs)
        assert page(ours) == page(theirs)
        for family, outcome, number in counted:
            tally.counts[family, outcome] += number % 1_000
            counter.labels(family, outcome).inc(number % 1_000)
            plain.counts[()] += number // 64
            plainly.inc(number // 64)
    assert page(ours) == page(theirs)


@given(DURATIONS_US, DURATIONS_US)
def test_a_spread_looks_like_a_histogram(some: Sequence[int], others: Sequence[int]) -> None:
    """Up to the last bits of its sum, which is exact here, and there the sum of rounded seconds."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    with patch.object(time, "time", lambda: 1_800_000_000.25):
        spread = Spread("took_seconds", "Time.", BOUNDS_S, "stream", ("true", "false"), registry=ours)
        histogram = Histogram("took_seconds", "Time.", ["stream"], buckets=BOUNDS_S, registry=theirs)
        plain = Spread("first_seconds", "First byte.", BOUNDS_S, registry=ours)
        plainly = Histogram("first_seconds", "First byte.", buckets=BOUNDS_S, registry=theirs)
        for stream in ("true", "false"):
            histogram.labels(stream)
        assert page(ours) == page(theirs)
        for took_us in some:
            spread.by["true"].observe(took_us)
            histogram.labels("true").observe(took_us / 1e6)
        for took_us in others:
            spread.by["false"].observe(took_us)
            histogram.labels("false").observe(took_us / 1e6)
            plain.by[""].observe(took_us)
            plainly.observe(took_us / 1e6)
    assert without_sums(page(ours)) == without_sums(page(theirs))
    for exact, rounded in zip(sums(page(ours)), sums(page(theirs)), strict=True):
        assert abs(exact - rounded) <= 1e-9 * max(1.0, abs(exact))


def test_workers_add_them_up() -> None:
    """The sum of several workers' pages reads them as any other metric, and nothing is lost on the way."""
    registry = CollectorRegistry()
    tally = Tally("calls_total", "Closed calls.", ("family",), registry=registry)
    spread = Spread("took_seconds", "Time.", BOUNDS_S, "stream", ("true", "false"), registry=registry)
    tally.counts["chat",] += 3
    spread.by["true"].observe(1_500_000)
    one = metric_sums.parsed(page(registry))
    both = metric_sums.rendered(metric_sums.added([one, metric_sums.lasting(one)])).decode()
    assert 'calls_total{family="chat"} 6.0' in both
    assert 'took_seconds_bucket{le="2.5",stream="true"} 2.0' in both
    assert 'took_seconds_count{stream="true"} 2.0' in both
    assert 'took_seconds_sum{stream="true"} 3.0' in both


def test_what_there_must_be_before_the_first_call_is_there() -> None:
    """A rate over a counter that appears with its first count misses that one."""
    registry = CollectorRegistry()
    for metric in (metrics.TOKENS, metrics.DURATION, metrics.FIRST_BYTE, metrics.CREDITS, metrics.COST):
        registry.register(metric)
    text = page(registry)
    for shown in (
        'gen_ai_client_token_usage_total{gen_ai_token_type="input"} ',
        'gen_ai_client_token_usage_total{gen_ai_token_type="output"} ',
        'gen_ai_server_request_duration_seconds_count{stream="true"} ',
        'gen_ai_server_request_duration_seconds_count{stream="false"} ',
        "gen_ai_server_time_to_first_token_seconds_count ",
        "sundial_gateway_charged_millicredits_total ",
        "sundial_gateway_provider_cost_nanousd_total ",
    ):
        assert f"\n{shown}" in text
