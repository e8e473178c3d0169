"""Charges: each kind at its rate, each way out of the table flagged, everything rounded once."""

from fractions import Fraction

import pytest

from shared.pricing import PPM, Charge, PricedModel, RateCard, Table, Tier, charge, decimal_text, explain
from shared.units import MC_MAX
from shared.usage import Usage

COST = RateCard(card="cost", family="cost")
TOKENS = RateCard(card="tokens", family="tokens")

CHAT = PricedModel(
    model="chat-1",
    provider="openai",
    rates={"input": 2_500_000_000, "cached": 1_250_000_000, "output": 10_000_000_000, "searches": 10_000_000_000_000},
    tiers=(Tier(200_000, {"input": 5_000_000_000, "cached": 2_500_000_000, "output": 15_000_000_000}),),
    service={
        "flex": Table({"input": 1_250_000_000, "output": 5_000_000_000}),
        "priority": Table({"input": 4_000_000_000}, (Tier(200_000, {"input": 8_000_000_000}),)),
    },
    uplifts={"eu": 1_100_000, "fast": 2_000_000},
)
"""Per token: 2,500 nano-USD of input, 1,250 cached, 10,000 of output; a search costs a cent."""

TALK = PricedModel(model="tts-1", mode="audio_speech", rates={"characters": 15_000_000_000})
HEAR = PricedModel(
    model="hear-1",
    mode="audio_transcription",
    rates={"input": 2_500_000_000, "output": 10_000_000_000, "duration_ms": 100_000_000},
)
DRAW = PricedModel(model="draw-1", mode="image_generation", rates={"images": 40_000_000_000_000})


def cost(usage: Usage, model: PricedModel = CHAT, service_tier: str = "") -> int:
    return charge(usage, model, COST, service_tier).cost_nano


def test_each_kind_is_sold_at_its_own_rate() -> None:
    """The cost is the plain sum of disjoint counts times rates."""
    usage = Usage(input=1_000, cached=200, output=30, searches=2)
    assert cost(usage) == 1_000 * 2_500 + 200 * 1_250 + 30 * 10_000 + 2 * 10_000_000


@pytest.mark.parametrize(
    ("kind", "as_kind"),
    [
        ("cached_audio", "cached"),
        ("cache_write", "input"),
        ("cache_write_1h", "input"),
        ("audio_in", "input"),
        ("image_in", "input"),
        ("reasoning", "output"),
        ("audio_out", "output"),
        ("image_out", "output"),
    ],
)
def test_a_kind_without_a_rate_is_sold_as_the_one_it_is_part_of(kind: str, as_kind: str) -> None:
    """Reasoning without a price is output, cached tokens without one are input, and so on; it stays priced."""
    charged = charge(Usage(**{kind: 7}), CHAT, COST)
    assert charged == charge(Usage(**{as_kind: 7}), CHAT, COST)
    assert charged.priced


def test_cached_tokens_without_a_price_are_input_and_an_hour_of_cache_is_a_cache_write() -> None:
    """The fallbacks go step by step: an hour's entry takes the price of an entry before that of input."""
    plain = PricedModel(model="m", rates={"input": 1_000_000, "cache_write": 3_000_000, "output": 2_000_000})
    assert cost(Usage(cached=5, cache_write_1h=7), plain) == 5 * 1 + 7 * 3


@pytest.mark.parametrize(("tokens", "per_token"), [(199_999, 2_500), (200_000, 2_500), (200_001, 5_000)])
def test_a_token_tier_begins_above_its_bound_and_holds_for_the_whole_call(tokens: int, per_token: int) -> None:
    """At 200,000 tokens of input the base rates hold; at 200,001 every token of the call costs more."""
    assert cost(Usage(input=tokens)) == tokens * per_token


def test_all_input_counts_towards_the_token_tier() -> None:
    """Cached, written, audio and image tokens are input of the call like any other."""
    parts = Usage(input=1, cached=100_000, cache_write=50_000, cache_write_1h=25_000, audio_in=20_000, image_in=5_000)
    assert parts.tokens_in == 200_001
    assert cost(parts) == 1 * 5_000 + 100_000 * 2_500 + 100_000 * 5_000


def test_only_the_highest_tier_that_is_reached_counts() -> None:
    """Tiers do not pile up: each says all that differs from the base."""
    model = PricedModel(
        model="m",
        rates={"input": 1_000_000, "output": 1_000_000},
        tiers=(Tier(10, {"input": 2_000_000, "output": 9_000_000}), Tier(20, {"input": 3_000_000})),
    )
    assert cost(Usage(input=21, output=1), model) == 21 * 3 + 1


def test_a_service_tier_replaces_what_it_names_and_has_token_tiers_of_its_own() -> None:
    """Flex has a price for input and output and none above 200,000; what it does not name stays standard."""
    assert cost(Usage(input=2, cached=2, output=1), CHAT, "flex") == 2 * 1_250 + 2 * 1_250 + 5_000
    assert cost(Usage(input=300_000), CHAT, "flex") == 300_000 * 1_250
    assert cost(Usage(input=300_000, cached=1), CHAT, "priority") == 300_000 * 8_000 + 1_250


@pytest.mark.parametrize("name", ["fast", "Priority", "priority"])
def test_fast_is_another_name_of_priority(name: str) -> None:
    """Providers call the same tier by two names, in any case."""
    assert cost(Usage(input=1), CHAT, name) == 4_000


@pytest.mark.parametrize("name", ["", "default", "standard", "auto", "scale", "ultrafast"])
def test_a_service_tier_that_the_model_does_not_sell_is_standard(name: str) -> None:
    """As litellm has it: a tier without prices is sold at the model's own."""
    assert cost(Usage(input=1), CHAT, name) == 2_500


def test_uplifts_multiply_the_work_but_not_the_searches() -> None:
    """What was served in the EU costs a tenth more, fast twice as much; both multiply; a search costs what it costs."""
    usage = Usage(input=10, searches=1)
    assert cost(usage, CHAT, "@eu") == 27_500 + 10_000_000
    assert cost(usage, CHAT, "@eu,fast") == 55_000 + 10_000_000
    assert cost(usage, CHAT, "flex@eu,nowhere") == 13_750 + 10_000_000


def test_searches_may_cost_the_same_however_many_there_are() -> None:
    """Gemini's older models bill a grounded prompt, not its queries."""
    once = PricedModel(model="m", rates={"input": 0, "output": 0, "searches": 35_000_000_000_000}, searches_once=True)
    assert cost(Usage(input=1, searches=5), once) == cost(Usage(input=1, searches=1), once) == 35_000_000


def test_more_digits_than_nano_usd_per_million_are_kept() -> None:
    """A price of 0.00007500003000000001 USD counts down to its last digit."""
    fine = PricedModel(model="m", rates={"input": 0, "output": 75_000_030_000_000_010}, rate_digits=6)
    assert cost(Usage(output=10**11), fine) == 7_500_003_000_000_001


def test_half_a_nano_usd_goes_to_the_even_neighbour_and_only_once() -> None:
    """Two kinds of 0.75 nano-USD are 1.5 and round to 2; each for itself would have been 1."""
    model = PricedModel(model="m", rates={"input": 250_000, "output": 250_000})
    assert [cost(Usage(input=units), model) for units in (1, 2, 3, 6, 10)] == [0, 0, 1, 2, 2]
    assert cost(Usage(input=3, output=3), model) == 2


def test_a_credit_is_a_micro_usd_times_the_markup() -> None:
    """Under the family `cost` a nano-USD is a millicredit; a markup is applied before the one rounding."""
    model = PricedModel(model="m", rates={"input": 250_000, "output": 0})
    assert charge(Usage(input=10), model, COST) == Charge(2, 2, True)
    marked = RateCard(card="cost-30", family="cost", markup_ppm=1_300_000)
    assert charge(Usage(input=10), model, marked) == Charge(3, 2, True)


def test_a_token_is_a_credit() -> None:
    """Under the family `tokens` every token of any kind is 1,000 mc; what it costs is booked beside it."""
    usage = Usage(input=1, cached=2, cache_write=3, audio_in=4, output=5, reasoning=6, image_out=7)
    charged = charge(usage, CHAT, TOKENS)
    assert charged.charge_mc == 28_000
    assert charged.cost_nano == cost(usage)
    assert charged.priced


def test_the_first_weight_whose_pattern_matches_counts() -> None:
    """A plan may sell an expensive model's tokens at two credits, and a cheap one's at half a credit."""
    card = RateCard(card="t", family="tokens", weights=(("chat-*", 2 * PPM), ("chat-1", 5 * PPM), ("*", 500_000)))
    assert charge(Usage(input=3), CHAT, card).charge_mc == 6_000
    assert charge(Usage(input=3), HEAR, card).charge_mc == 1_500


def test_units_under_the_tokens_family_need_a_rate_on_the_card() -> None:
    """An image, a character, a second or a search is no token: without a rate the usage is unpriced, not free."""
    card = RateCard(card="t", family="tokens", units={"images": 5_000_000, "duration_ms": 60_000, "searches": 10_000})
    assert charge(Usage(images=2), DRAW, card) == Charge(10_000_000, 80_000_000, True)
    assert charge(Usage(duration_ms=1_500), HEAR, card) == Charge(90_000, 150_000, True)
    assert charge(Usage(input=1, searches=1), CHAT, card).charge_mc == 11_000
    for usage, model in ((Usage(images=1), DRAW), (Usage(characters=9), TALK), (Usage(input=1, searches=1), CHAT)):
        assert not charge(usage, model, TOKENS).priced


@pytest.mark.parametrize("usage", [Usage(images=1), Usage(characters=1), Usage(duration_ms=1), Usage(requests=1)])
def test_what_has_no_rate_is_unpriced(usage: Usage) -> None:
    """A usage of a kind without a rate is flagged, and its amount is that of the rest."""
    assert charge(usage, CHAT, COST) == Charge(0, 0, False, ("unpriced",))


def test_what_is_priced_counts_beside_what_is_not() -> None:
    """An embedding model that claims output: its input is charged, the event is unpriced."""
    embed = PricedModel(model="e", mode="embedding", rates={"input": 20_000_000})
    assert charge(Usage(input=100, output=5), embed, COST) == Charge(2_000, 2_000, False, ("unpriced",))


def test_a_kind_that_is_taken_out_borrows_no_rate() -> None:
    """Where cached images cost more than cached text and no usage tells them apart, cached tokens have no price."""
    model = PricedModel(model="m", rates={"input": 1_000_000, "output": 1}, unpriced=("cached",))
    assert charge(Usage(input=3, cached=5), model, COST) == Charge(3, 3, False, ("unpriced",))
    assert not charge(Usage(cached_audio=1), model, COST).priced
    assert charge(Usage(input=3), model, COST).priced


def test_a_price_of_zero_is_a_price() -> None:
    """A model that the map gives away is free and priced; a model without rates is not."""
    free = PricedModel(model="m", rates={"input": 0, "output": 0})
    assert charge(Usage(input=10**6, output=10**6), free, COST) == Charge(0, 0, True)
    assert not charge(Usage(input=1), PricedModel(model="m", rates={}), COST).priced


def test_nothing_used_is_priced_at_nothing() -> None:
    """Zero usage costs zero, even of a model without rates."""
    for model in (CHAT, PricedModel(model="m", rates={})):
        for card in (COST, TOKENS):
            assert charge(Usage(), model, card) == Charge(0, 0, True)


def test_the_same_work_is_not_billed_twice() -> None:
    """A transcription is billed by its tokens where they are known, else by its length; an image model likewise."""
    assert cost(Usage(input=100, output=10, duration_ms=60_000), HEAR) == 100 * 2_500 + 10 * 10_000
    assert cost(Usage(duration_ms=60_000), HEAR) == 60_000 * 100
    assert charge(Usage(input=50, images=2), DRAW, COST) == Charge(80_000_000, 80_000_000, True)


def test_images_of_an_embedding_are_billed_beside_its_text() -> None:
    """An embedding of a text and an image costs both."""
    rates = {"input": 100_000_000, "images": 60_000_000_000}
    both = PricedModel(model="e", mode="embedding", rates=rates, beside=("images",))
    assert cost(Usage(input=10, images=1), both) == 1_000 + 60_000


def test_requests_without_a_rate_are_part_of_the_rest() -> None:
    """Every call is a request: only where there is nothing else is one that has no rate unpriced."""
    assert charge(Usage(input=2, requests=1), CHAT, COST) == Charge(5_000, 5_000, True)
    flat = PricedModel(model="f", mode="moderation", rates={"requests": 1_000_000_000_000})
    assert charge(Usage(requests=2), flat, COST) == Charge(2_000_000, 2_000_000, True)


def test_beyond_the_largest_amount_it_is_cut_and_flagged() -> None:
    """Nothing wraps: 2^40 tokens of everything at a high rate end at MC_MAX, and say so."""
    dear = PricedModel(model="m", rates={"input": 10**14, "output": 10**14})
    assert charge(Usage(input=2**40, output=2**40), dear, COST) == Charge(MC_MAX, MC_MAX, True, ("overflow",))
    assert charge(Usage(input=2**40), CHAT, TOKENS) == Charge(2**40 * 1_000, 2**40 * 5_000, True)


def test_a_negative_count_is_never_a_credit() -> None:
    """A usage that was not clamped cannot give money back."""
    assert charge(Usage(input=-5, output=1), CHAT, COST).cost_nano == 10_000
    assert charge(Usage(input=-5), CHAT, TOKENS).charge_mc == 0


def test_a_receipt_has_a_line_for_each_kind_that_is_billed() -> None:
    """Kind, units, rate and amount, exact: 1.5 mc per token of input with a markup of 50 %."""
    model = PricedModel(model="m", rates={"input": 1_000_000, "output": 3_333_333})
    card = RateCard(card="c", family="cost", markup_ppm=1_500_000)
    receipt = explain(Usage(input=3, output=1), model, card)
    assert [(line.kind, line.units, line.rate, line.amount) for line in receipt] == [
        ("input", 3, Fraction(3, 2), Fraction(9, 2)),
        ("output", 1, Fraction(49999995, 10**7), Fraction(49999995, 10**7)),
    ]
    assert [line.cost for line in receipt] == [3, Fraction(3333333, 10**6)]


def test_a_receipt_shows_what_has_no_rate() -> None:
    """An unpriced kind stands on the receipt without a rate and with nothing to pay."""
    line = explain(Usage(images=2), CHAT, COST)[0]
    assert (line.kind, line.units) == ("images", 2)
    assert line.amount == line.cost == 0
    assert line.rate is None
    assert line.cost_rate is None


def test_a_receipt_of_the_tokens_family_shows_credits_and_cost() -> None:
    """Credits by the card, cost by the provider's rates, on the same line."""
    (line,) = explain(Usage(input=2), CHAT, TOKENS)
    assert [line.rate, line.amount, line.cost_rate, line.cost] == [1_000, 2_000, 2_500, 5_000]


@pytest.mark.parametrize(
    ("value", "text"),
    [(Fraction(0), "0"), (Fraction(5, 2), "2.5"), (Fraction(-1, 8), "-0.125"), (Fraction(1, 10**9), "0.000000001")],
)
def test_exact_amounts_are_written_with_all_their_digits(value: Fraction, text: str) -> None:
    """No digit is lost or invented on paper."""
    assert decimal_text(value) == text


def test_an_amount_without_an_end_is_refused() -> None:
    """A third has no exact decimal form; no price leads to one."""
    with pytest.raises(ValueError, match="no exact decimal form"):
        decimal_text(Fraction(1, 3))
