"""Prices as laws: whatever the table, the card and the usage."""

from fractions import Fraction

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shared.pricing import (
    KINDS,
    PLAIN_IN,
    PLAIN_OUT,
    PPM,
    TOKENS_IN,
    TOKENS_OUT,
    Line,
    PricedModel,
    RateCard,
    Table,
    Tier,
    charge,
    explain,
    hold_mc,
    plain_of,
)
from shared.units import MC_MAX, round_half_even
from shared.usage import Usage

TOKENS = (*TOKENS_IN, *TOKENS_OUT)
BOUND = 1_000

edges = st.sampled_from([0, 1, 2, BOUND - 1, BOUND, BOUND + 1, 2**31, 2**40])
counts = st.one_of(edges, st.integers(0, 10**6))
rate = st.one_of(st.sampled_from([0, 1, 500_000, 10**9, 10**13]), st.integers(0, 10**12))
rates = st.dictionaries(st.sampled_from(KINDS), rate, max_size=8)
tier = st.builds(Tier, st.just(BOUND), rates)
models = st.builds(
    PricedModel,
    model=st.sampled_from(["a", "b-1"]),
    rates=rates,
    tiers=st.one_of(st.just(()), st.tuples(tier)),
    service=st.dictionaries(
        st.sampled_from(["flex", "default"]), st.builds(Table, rates, st.one_of(st.just(()), st.tuples(tier)))
    ),
    uplifts=st.dictionaries(st.just("eu"), st.integers(PPM, 2 * PPM)),
    rate_digits=st.integers(0, 6),
    unpriced=st.one_of(st.just(()), st.tuples(st.sampled_from(KINDS))),
)
cards = st.one_of(
    st.builds(RateCard, card=st.just("c"), family=st.just("cost"), markup_ppm=st.integers(0, 3 * PPM)),
    st.builds(
        RateCard,
        card=st.just("t"),
        family=st.just("tokens"),
        weights=st.one_of(st.just(()), st.tuples(st.tuples(st.just("b*"), st.integers(0, 3 * PPM)))),
        units=st.dictionaries(st.sampled_from(["images", "characters", "duration_ms", "searches"]), rate, max_size=4),
    ),
)
usages = st.builds(Usage, **dict.fromkeys(KINDS, counts))
token_usages = st.builds(Usage, **dict.fromkeys(TOKENS, counts))
service_tiers = st.sampled_from(["", "flex", "default", "@eu", "flex@eu"])


def amount(lines: list[Line]) -> Fraction:
    return sum((line.amount for line in lines), Fraction())


@given(usages, models, cards, service_tiers)
@settings(max_examples=500, deadline=None)
def test_a_receipt_sums_to_its_charge(usage: Usage, model: PricedModel, card: RateCard, service: str) -> None:
    """The lines, unrounded, add up to what is charged and to what it costs: one rounding each, at the end."""
    charged = charge(usage, model, card, service)
    lines = explain(usage, model, card, service)
    total, cost = amount(lines), sum((line.cost for line in lines), Fraction())
    assert charged.charge_mc == min(round_half_even(total.numerator, total.denominator), MC_MAX)
    assert charged.cost_nano == min(round_half_even(cost.numerator, cost.denominator), MC_MAX)
    for line in lines:
        assert line.amount == line.units * (line.rate or 0) or line.rate is None


@given(usages, models, cards, service_tiers)
@settings(max_examples=300, deadline=None)
def test_no_amount_is_negative_or_out_of_bounds(usage: Usage, model: PricedModel, card: RateCard, service: str) -> None:
    """0 ≤ charge, cost ≤ MC_MAX, and unpriced is always flagged."""
    charged = charge(usage, model, card, service)
    assert 0 <= charged.charge_mc <= MC_MAX
    assert 0 <= charged.cost_nano <= MC_MAX
    assert charged.priced is ("unpriced" not in charged.flags)


@given(token_usages, models, cards, service_tiers, st.sampled_from(TOKENS_OUT), st.integers(1, 10**6))
@settings(max_examples=300, deadline=None)
def test_more_output_never_costs_less(
    usage: Usage, model: PricedModel, card: RateCard, service: str, kind: str, more: int
) -> None:
    """Monotone in every kind of output."""
    grown = Usage(**{name: getattr(usage, name) + (more if name == kind else 0) for name in TOKENS})
    before, after = charge(usage, model, card, service), charge(grown, model, card, service)
    assert after.charge_mc >= before.charge_mc
    assert after.cost_nano >= before.cost_nano


@given(token_usages, models, cards, service_tiers, st.sampled_from(TOKENS_IN), st.integers(1, 10**6))
@settings(max_examples=300, deadline=None)
def test_more_input_never_costs_less_within_a_tier(
    usage: Usage, model: PricedModel, card: RateCard, service: str, kind: str, more: int
) -> None:
    """Monotone in every kind of input, as long as the call stays in its token tier."""
    grown = Usage(**{name: getattr(usage, name) + (more if name == kind else 0) for name in TOKENS})
    assume((usage.tokens_in > BOUND) == (grown.tokens_in > BOUND))
    assert charge(grown, model, card, service).cost_nano >= charge(usage, model, card, service).cost_nano
    assert charge(grown, model, card, service).charge_mc >= charge(usage, model, card, service).charge_mc


@given(token_usages, token_usages, models, cards, service_tiers)
@settings(max_examples=300, deadline=None)
def test_a_usage_costs_what_its_parts_cost_within_a_tier(
    one: Usage, other: Usage, model: PricedModel, card: RateCard, service: str
) -> None:
    """Additive before rounding: splitting a call neither earns nor costs anything, where its tier is the same."""
    both = Usage(**{name: getattr(one, name) + getattr(other, name) for name in TOKENS})
    assume(len({part.tokens_in > BOUND for part in (one, other, both)}) == 1)
    receipts = [explain(part, model, card, service) for part in (one, other, both)]
    assert amount(receipts[0]) + amount(receipts[1]) == amount(receipts[2])


@given(usages, models, cards, service_tiers)
@settings(max_examples=200, deadline=None)
def test_a_cost_card_without_markup_charges_the_cost(
    usage: Usage, model: PricedModel, card: RateCard, service: str
) -> None:
    """One millicredit is one nano-USD; and the cost is the same whichever card charges."""
    plain = charge(usage, model, RateCard(card="p", family="cost"), service)
    assert plain.charge_mc == plain.cost_nano == charge(usage, model, card, service).cost_nano


@given(
    st.builds(Usage, **dict.fromkeys((*PLAIN_IN, *PLAIN_OUT), counts)),
    counts,
    counts,
    models,
    cards,
    service_tiers,
)
@settings(max_examples=500, deadline=None)
def test_a_hold_covers_any_call_of_its_size(
    usage: Usage, more_in: int, more_out: int, model: PricedModel, card: RateCard, service: str
) -> None:
    """Whatever a text call of up to so many tokens turns out to use, its charge is not above its hold."""
    held = hold_mc(usage.tokens_in + more_in, usage.tokens_out + more_out, model, card, service_tier=service)
    assert charge(usage, model, card, service).charge_mc <= held


priced_models = st.builds(
    lambda model, read, made: msgspec.structs.replace(model, rates={"input": read, "output": made} | model.rates),
    models,
    rate,
    rate,
)
plain_usages = st.builds(Usage, **dict.fromkeys((*PLAIN_IN, *PLAIN_OUT), counts))
odd_usages = st.builds(
    lambda usage, kind, units: msgspec.structs.replace(usage, **{kind: units}),
    plain_usages,
    st.sampled_from(KINDS),
    st.sampled_from([0, 1, -1, -(10**6)]),
)


@given(st.one_of(plain_usages, odd_usages), st.one_of(models, priced_models), cards)
@settings(max_examples=500, deadline=None)
def test_the_short_way_charges_what_the_long_one_does(usage: Usage, model: PricedModel, card: RateCard) -> None:
    """Whatever it is asked: the same charge at each of its tiers, or none at all."""
    plain = plain_of(model, card)
    charged = None if plain is None else plain.charge(usage)
    if plain is not None and charged is not None:
        for service in plain.tiers:
            assert charged == charge(usage, model, card, service)


@given(plain_usages, priced_models, cards)
@settings(max_examples=300, deadline=None)
def test_plain_calls_go_the_short_way(usage: Usage, model: PricedModel, card: RateCard) -> None:
    """All text of a model that has prices for it, below its first token tier, unless it comes to more than MC_MAX."""
    assume(not model.unpriced and not (model.tiers and usage.tokens_in > BOUND))
    plain = plain_of(model, card)
    assert plain is not None
    assert "" in plain.tiers
    charged = charge(usage, model, card)
    assert plain.charge(usage) == (None if "overflow" in charged.flags else charged)


@given(counts, counts, priced_models, cards)
@settings(max_examples=500, deadline=None)
def test_the_short_way_holds_what_the_long_one_does(
    tokens_in: int, tokens_out: int, model: PricedModel, card: RateCard
) -> None:
    """Its rates are those of hold_rates, up to its first token tier, at each of its tiers."""
    plain = plain_of(model, card)
    assume(plain is not None)
    assert plain is not None
    assume(tokens_in <= plain.tokens_in_max)
    each_in, each_out, over = plain.hold
    held = min(-(-(tokens_in * each_in + tokens_out * each_out) // over), MC_MAX)
    for service in plain.tiers:
        assert held == hold_mc(tokens_in, tokens_out, model, card, service_tier=service)
