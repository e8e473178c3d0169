"""What is held for a call: bounds in order, never less than what they afford."""

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.asks import Ask
from gateway.asks.ask import CHOICES_MAX
from gateway.bounds import (
    LEAST_TOKENS,
    PLAIN_SLICE_TOKENS,
    UNKNOWN_OUTPUT_TOKENS,
    affordable_tokens,
    bound,
)
from shared import pricing
from shared.pricing import PricedModel, RateCard, Table
from tests.harness.calls import (
    COST,
    MINI,
    THINKER,
    TOKENS,
    ask,
    rates,
)


def test_a_stream_holds_a_slice_and_is_extended() -> None:
    """Input and one slice of output; it is never capped upstream, because it can be ended on the way."""
    found = bound(ask(), rates(), input_tokens=100, slice_tokens=1_000)
    assert found.stoppable
    assert (found.full_tokens, found.full_mc, found.slice_mc) == (16_384, 16_484_000, 1_100_000)
    assert (found.input_mc, found.least_mc) == (100_000, 164_000)


@pytest.mark.parametrize(
    ("model", "stream", "limit", "full", "first"),
    [
        (MINI, False, 0, 16_384, PLAIN_SLICE_TOKENS),
        (MINI, False, 50, 50, 50),
        (MINI, False, 10**9, 16_384, PLAIN_SLICE_TOKENS),
        (THINKER, True, 0, 100_000, PLAIN_SLICE_TOKENS),
        (THINKER, True, 3_000, 3_000, 3_000),
        (msgspec.structs.replace(MINI, output_max=0), False, 0, UNKNOWN_OUTPUT_TOKENS, PLAIN_SLICE_TOKENS),
    ],
)
def test_an_answer_that_cannot_be_stopped_is_held_for_whole_or_capped(
    model: PricedModel, stream: bool, limit: int, full: int, first: int
) -> None:
    """Plain answers and hidden reasoning: the largest answer where it is affordable, else a slice of it."""
    found = bound(ask(stream=stream, output_limit=limit), rates(model), input_tokens=0, slice_tokens=1_000)
    assert not found.stoppable
    assert (found.full_tokens, found.full_mc, found.slice_mc) == (full, full * 1_000, first * 1_000)
    assert found.least_mc == min(LEAST_TOKENS, full) * 1_000


def test_choices_are_held_for_each() -> None:
    """`n` answers are n outputs, of one input."""
    one = bound(ask(), rates(), 100, 1_000)
    five = bound(ask(choices=5), rates(), 100, 1_000)
    assert five.input_mc == one.input_mc
    assert five.full_tokens == 5 * one.full_tokens
    assert five.least_mc - five.input_mc == 5 * (one.least_mc - one.input_mc)


def test_a_dearer_service_tier_is_held_for() -> None:
    """The client chooses the tier: the hold is at that tier's rates."""
    dear = Table(rates={kind: 2 * rate for kind, rate in MINI.rates.items()})
    model = msgspec.structs.replace(MINI, service={"priority": dear})
    plain = bound(ask(), rates(model, COST), 1_000, 1_000)
    priority = bound(ask(service_tier="priority"), rates(model, COST), 1_000, 1_000)
    assert priority.full_mc == 2 * plain.full_mc


_CARDS = st.sampled_from([COST, TOKENS, RateCard(card="dear", family="cost", markup_ppm=1_300_007)])
_MODELS = st.builds(
    lambda rate_in, rate_out, most, thinks: PricedModel(
        model="m", rates={"input": rate_in, "output": rate_out}, output_max=most, reasoning=thinks
    ),
    st.integers(0, 10**11),
    st.integers(0, 10**12),
    st.integers(0, 200_000),
    st.booleans(),
)
_ASKS = st.builds(
    lambda stream, limit, choices: ask(stream=stream, output_limit=limit, choices=choices),
    st.booleans(),
    st.integers(0, 300_000),
    st.integers(1, CHOICES_MAX),
)


@given(_MODELS, _CARDS, _ASKS, st.integers(0, 2_000_000), st.integers(64, 65_536), st.data())
def test_what_a_hold_affords_is_never_dearer_than_the_hold(
    model: PricedModel, card: RateCard, asked: Ask, tokens_in: int, slice_tokens: int, data: st.DataObject
) -> None:
    """Bounds are in order; the tokens that a hold covers cost no more than it, grow with it, and never exceed all."""
    call_rates = rates(model, card)
    bounds = bound(asked, call_rates, tokens_in, slice_tokens)
    assert 0 <= bounds.input_mc <= bounds.least_mc <= bounds.slice_mc <= bounds.full_mc

    held = data.draw(st.integers(bounds.least_mc, bounds.full_mc + 10))
    affordable = affordable_tokens(bounds, held)
    assert 1 <= affordable <= max(1, bounds.full_tokens)
    assume(affordable > 1)
    assert pricing.hold_mc(tokens_in, affordable, model, card) <= held
    more = data.draw(st.integers(held, bounds.full_mc + 10))
    assert affordable_tokens(bounds, more) >= affordable


@given(_MODELS, _CARDS, _ASKS, st.integers(0, 100_000), st.integers(1, 1_000))
def test_more_input_is_never_held_for_less(
    model: PricedModel, card: RateCard, asked: Ask, tokens_in: int, more: int
) -> None:
    """Every bound grows with the estimate of the input."""
    smaller = bound(asked, rates(model, card), tokens_in, 1_024)
    larger = bound(asked, rates(model, card), tokens_in + more, 1_024)
    for name in ("full_mc", "slice_mc", "least_mc", "input_mc"):
        assert getattr(larger, name) >= getattr(smaller, name)


@pytest.mark.parametrize("stream", [True, False])
def test_searches_are_held_with_the_input(stream: bool) -> None:
    """All that may be made, whatever else is held, and nothing of it is taken for output that could be afforded."""
    searching = msgspec.structs.replace(MINI, rates=MINI.rates | {"searches": 10_000_000_000_000})
    plain = bound(ask(stream=stream), rates(searching, COST), 1_000, 1_024)
    found = bound(ask(stream=stream, searches=3), rates(searching, COST), 1_000, 1_024)
    for name in ("full_mc", "slice_mc", "least_mc", "input_mc"):
        assert getattr(found, name) == getattr(plain, name) + 30_000_000
    assert affordable_tokens(found, found.slice_mc) == affordable_tokens(plain, plain.slice_mc)


def test_searches_without_a_price_hold_nothing() -> None:
    """They are booked unpriced, and corrected when a price comes."""
    assert bound(ask(searches=3), rates(MINI, COST), 9, 1_024) == bound(ask(), rates(MINI, COST), 9, 1_024)


def test_a_free_model_needs_no_credit() -> None:
    """Rates of zero: nothing is held, and all of the answer is covered."""
    free = PricedModel(model="m", rates={"input": 0, "output": 0}, output_max=100)
    bounds = bound(ask(), rates(free, COST), 1_000, 1_024)
    assert (bounds.full_mc, bounds.least_mc) == (0, 0)
    assert affordable_tokens(bounds, 0) == bounds.full_tokens
