"""Holds: what a call may cost at most, before it is known what it costs."""

from shared.pricing import PPM, PricedModel, RateCard, Table, Tier, charge, hold_mc, upper_rate
from shared.units import MC_MAX
from shared.usage import Usage

COST = RateCard(card="cost", family="cost")
TOKENS = RateCard(card="tokens", family="tokens", weights=(("*", 1_500_000),))
MODEL = PricedModel(
    model="m",
    rates={
        "input": 1_000_000,
        "cache_write": 1_250_000,
        "cache_write_1h": 2_000_000,
        "output": 5_000_000,
        "reasoning": 9_000_000,
        "audio_out": 50_000_000,
    },
    tiers=(Tier(100, {"input": 3_000_000, "cache_write": 500_000, "reasoning": 1_000_000}),),
    service={"priority": Table({"output": 20_000_000}), "flex": Table({"output": 1_000_000, "reasoning": 1_000_000})},
    uplifts={"eu": 1_100_000},
)


def test_a_hold_takes_the_dearest_rate_of_any_text_call() -> None:
    """Input may be written to the cache and output may be reasoning; audio is held for only when it is named."""
    assert hold_mc(10, 10, MODEL, COST) == 13 + 90  # 12.5 rounded up
    assert hold_mc(10, 10, MODEL, COST, kinds_in=("input",), kinds_out=("output", "audio_out")) == 10 + 500
    assert hold_mc(10, 0, MODEL, COST, kinds_in=("input", "cache_write_1h")) == 20


def test_a_tier_counts_from_where_the_input_may_reach_it() -> None:
    """Above the bound the tier's dearer input counts, and the base's dearer reasoning: the call may stay below."""
    assert hold_mc(100, 1, MODEL, COST) == 125 + 9
    assert hold_mc(101, 1, MODEL, COST) == 303 + 9


def test_service_tier_uplift_and_markup_are_in_the_hold() -> None:
    """What will be charged is held for: a tenth more in the EU, three times with that markup."""
    assert hold_mc(0, 1, MODEL, COST, service_tier="priority@eu") == 22
    assert hold_mc(0, 1, MODEL, RateCard(card="c", family="cost", markup_ppm=3 * PPM)) == 27


def test_a_cheaper_tier_that_was_asked_for_does_not_lower_the_hold() -> None:
    """What is asked as flex may be served, and billed, as standard."""
    assert hold_mc(0, 1, MODEL, COST, service_tier="flex") == hold_mc(0, 1, MODEL, COST) == 9


def test_under_the_tokens_family_the_weight_is_held() -> None:
    """A token of weight 1.5 holds 1,500 mc."""
    assert hold_mc(2, 3, MODEL, TOKENS) == 7_500
    assert charge(Usage(input=2, output=3), MODEL, TOKENS).charge_mc == 7_500


def test_a_hold_is_bounded() -> None:
    """The largest hold is the largest amount."""
    assert hold_mc(2**60, 2**60, MODEL, COST) == MC_MAX
    assert hold_mc(2**60, 2**60, MODEL, TOKENS) == MC_MAX


def test_a_kind_that_has_no_rate_holds_nothing() -> None:
    """A model priced by the image has no rate for tokens."""
    assert upper_rate(PricedModel(model="m", rates={"images": 5}), ("input", "cached"), 1_000) == 0
