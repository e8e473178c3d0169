"""What is kept of a catalog: the same answers as without, as long as it stands, and never more than so much."""

from functools import partial
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission import permit
from gateway.asks import Ask
from gateway.bounds import bound
from gateway.families import FAMILIES
from gateway.identity import Labels
from gateway.prices import KNOWN_MAX, keep, price_of
from gateway.settlement import Counted, Facts, draft_event
from shared.events import UsageEvent
from shared.pricing import PLAIN_IN, PLAIN_OUT, Plain, PricedModel, Table, Tier, charge, hold_mc
from shared.projection import Catalog, encode_catalog
from shared.usage import Usage
from tests.harness.calls import (
    CATALOG,
    COST,
    MINI,
    PLAN,
    THINKER,
    TOKENS,
    ask,
    call,
    caller,
    closed,
    draft,
    rates,
    refused,
)


def fresh(**more: Any) -> Catalog:
    """A catalog of which nothing is kept."""
    return msgspec.structs.replace(CATALOG, **more)


def test_a_name_is_looked_up_once() -> None:
    """Under each card of its own: asked for again it is the same object; a name without a price is not kept."""
    catalog = fresh()
    price = price_of(catalog, "openai/gpt-mini", COST)
    assert price is not None
    assert price.model is MINI
    assert price_of(catalog, "openai/gpt-mini", COST) is price
    assert price_of(catalog, "openai/gpt-mini", TOKENS) is not price
    assert price_of(catalog, "gpt-secret-9", COST) is None
    assert price_of(catalog, "", COST) is None
    assert set(catalog.known) == {("openai/gpt-mini", "cost@1"), ("openai/gpt-mini", "tokens@1")}


def test_what_is_permitted_once_is_permitted_as_long_as_the_catalog_stands() -> None:
    """By plan, model and way of selling. Another plan, even of that name, is looked at anew; so is what was refused."""
    catalog = fresh()
    once = permit(ask(), PLAN, catalog)
    assert permit(ask(user="ana", stream=False), PLAN, catalog) is once
    assert permit(ask(sold="input"), PLAN, catalog) is not once
    dearer = msgspec.structs.replace(PLAN, card="cost@1")
    assert permit(ask(), dearer, catalog).card is COST
    narrow = msgspec.structs.replace(PLAN, models=("o-*",))
    for _ in range(2):
        with refused("model_not_allowed"):
            permit(ask(), narrow, catalog)


def test_a_newer_catalog_has_its_own_prices() -> None:
    """Nothing of the one before is in it, and what an old call has goes on."""
    before = fresh()
    assert permit(ask(), PLAN, before).model is MINI
    twice = msgspec.structs.replace(MINI, rates={kind: 2 * rate for kind, rate in MINI.rates.items()})
    after = msgspec.structs.replace(before, models={"gpt-mini": twice})
    assert not after.known
    assert permit(ask(), PLAN, after).model is twice
    assert permit(ask(), PLAN, before).model is MINI


def test_images_are_looked_up_each_time() -> None:
    """Their price depends on more than the model's name."""
    small = PricedModel(model="low/1024-x-1024/dall-e-9", mode="image_generation", rates={"images": 5})
    large = PricedModel(model="hd/1024-x-1024/dall-e-9", mode="image_generation", rates={"images": 9})
    catalog = fresh(models={model.model: model for model in (small, large)})
    plan = msgspec.structs.replace(PLAN, card="cost@1")
    for quality, model in (("low", small), ("hd", large)):
        asked = ask(model="dall-e-9", sold="images", quality=quality, size="1024x1024")
        assert permit(asked, plan, catalog).image is model
    assert not catalog.known


def test_no_more_is_kept_than_so_much() -> None:
    """Whoever names many models makes the catalog forget, not grow."""
    catalog = fresh(provisional=PricedModel(model="", rates={"input": 1, "output": 2}))
    for number in range(2 * KNOWN_MAX):
        permit(ask(model=f"nobody-knows-{number}"), PLAN, catalog)
        assert len(catalog.known) <= KNOWN_MAX
    assert permit(ask(), PLAN, catalog).model is MINI


def test_what_is_kept_is_no_part_of_the_catalog() -> None:
    """It is never told, and makes no difference between two."""
    catalog = fresh()
    keep(catalog, "key", "value")
    assert catalog == fresh()
    assert encode_catalog(catalog) == encode_catalog(fresh())


# The short way (shared/pricing/plain.py) and the long one ----------------------------------------------------------

TIERED = msgspec.structs.replace(
    MINI,
    model="gpt-tiered",
    rates={
        "input": 150_000_001,
        "cached": 37_500_000,
        "image_in": 500_000_000,
        "output": 600_000_000,
        "reasoning": 700_000_000,
        "audio_out": 9_000_000_000,
        "searches": 25_000_000_000_000,
    },
    tiers=(Tier(2_000, {"input": 300_000_000}), Tier(3_000, {"input": 400_000_000})),
    service={
        "flex": Table(rates={"input": 75_000_000, "output": 300_000_000}),
        "priority": Table(rates={"input": 900_000_000, "output": 900_000_000}),
    },
    uplifts={"us": 1_100_000},
)
MODELS = st.sampled_from([TIERED, MINI, THINKER])
CARDS = st.sampled_from([COST, TOKENS, msgspec.structs.replace(COST, card="dear", markup_ppm=1_300_007)])
SERVICE_TIERS = ("", "default", "auto", "flex", "priority", "fast", "@us", "Default")
COUNTS = st.one_of(st.integers(0, 5), st.integers(0, 4_000), st.sampled_from([2_000, 2_001, 3_001]))


@settings(max_examples=300, deadline=None)
@given(
    MODELS,
    CARDS,
    st.builds(
        ask,
        stream=st.booleans(),
        output_limit=st.sampled_from([0, 1, 100, 10**6]),
        choices=st.sampled_from([1, 1, 3]),
        least_output=st.sampled_from([0, 0, 90, 30_000]),
        searches=st.sampled_from([0, 0, 2]),
        service_tier=st.sampled_from(SERVICE_TIERS),
        kinds_in=st.sampled_from([PLAIN_IN, (*PLAIN_IN, "image_in")]),
        kinds_out=st.sampled_from([PLAIN_OUT, (*PLAIN_OUT, "audio_out")]),
    ),
    st.one_of(COUNTS, st.just(10**15)),
    st.integers(64, 4_096),
)
def test_the_same_is_held(model: PricedModel, card: Any, asked: Ask, tokens: int, slice_tokens: int) -> None:
    """By either way, whatever is asked for: what hold_mc says, and what the searches cost."""
    short, long = rates(model, card), rates(model, card)
    assert short.plain is not None
    vars(long)["plain"] = None
    bounds = bound(asked, short, tokens, slice_tokens)
    assert bounds == bound(asked, long, tokens, slice_tokens)

    hold = partial(hold_mc, service_tier=asked.service_tier, kinds_in=asked.kinds_in, kinds_out=asked.kinds_out)
    searches = charge(Usage(searches=asked.searches), model, card).charge_mc
    assert bounds.full_mc == hold(tokens, bounds.full_tokens, model, card) + searches
    assert bounds.input_mc == hold(tokens, 0, model, card) + searches


@pytest.mark.parametrize("tokens", [1_999, 2_000, 2_001, 2_999, 3_000, 3_001, 4_000])
def test_the_short_way_ends_at_the_first_token_tier(tokens: int) -> None:
    """There and beyond, what is held and charged is as the long way says."""
    of = rates(TIERED, COST)
    assert of.plain is not None
    for usage in (Usage(input=tokens), Usage(input=1_000, cached=tokens - 1_500, cache_write=500, output=9)):
        charged = of.plain.charge(usage)
        assert charged == (charge(usage, TIERED, COST) if tokens <= 2_000 else None)
    assert bound(ask(), of, tokens, 1_024).input_mc == hold_mc(tokens, 0, TIERED, COST)


@settings(deadline=None)
@given(
    MODELS,
    CARDS,
    st.builds(
        Usage,
        input=COUNTS,
        cached=st.one_of(st.just(0), COUNTS),
        cache_write=st.one_of(st.just(0), COUNTS),
        output=COUNTS,
        reasoning=st.one_of(st.just(0), COUNTS),
        searches=st.sampled_from([0, 0, 0, 1]),
    ),
    st.sampled_from(["", "gpt-mini", "openai/o-thinker", "gpt-tiered", "gpt-secret-9"]),
)
def test_the_same_is_booked(model: PricedModel, card: Any, usage: Usage, answered: str) -> None:
    """By either way: whichever model answered, whatever tier was asked for and told."""
    catalog = fresh(models={one.model: one for one in (MINI, THINKER, TIERED)})

    def booked(asked: str, told: str) -> UsageEvent:
        of = call(rates=rates(model, card), catalog=fresh(models=catalog.models), ask=ask(service_tier=asked))
        return closed(of, Counted(usage, "provider"), Facts(outcome="complete", model=answered, service_tier=told))

    for asked, told in product(SERVICE_TIERS, SERVICE_TIERS):
        short = booked(asked, told)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Plain, "charge", lambda *_: None)
            long = booked(asked, told)
        ids = {"event_id": long.event_id, "account_id": long.account_id, "started_at_us": long.started_at_us}
        assert msgspec.structs.replace(short, **ids) == long


def test_a_draft_is_what_nothing_comes_to() -> None:
    """The same as if the call were closed as lost, with nothing counted; a later draft leaves no trace in the event."""
    of = call(catalog=fresh(), ask=ask(service_tier="flex"))
    assert draft(of).price_version == CATALOG.price_version
    nothing, lost = Counted(Usage(), "none"), Facts(outcome="lost")
    same = {"settled_at_us": 9, "hold_mc": 77}
    assert closed(of, nothing, lost) == draft(of, **same)
    noted = draft(of, flags=("estimated",), model_answered="x", usage=Usage(input=7), charge_mc=7, service_tier="flex")
    assert closed(of, nothing, lost, noted=noted) == draft(of, **same)


def test_a_draft_has_nothing_of_another_call() -> None:
    """Drafts are copies of an earlier one at the same rates: all that differs between calls is said of each."""
    labelled = caller("bia", Labels(conversation="c", message="m", purpose="title"))
    calls = [
        call(caller=labelled, started_at_us=5, ask=ask(model="a", stream=True)),
        call(caller=caller(""), started_at_us=6, ask=ask(model="b", stream=False)),
        call(caller=caller("ana"), started_at_us=7, family=FAMILIES[1]),
    ]
    for before, after in product(calls, calls):
        same = rates(card=COST)
        draft_event(msgspec.structs.replace(before, rates=same), now_us=1, held_mc=2, gateway="g-1")
        made, alone = (
            draft_event(msgspec.structs.replace(after, rates=of), now_us=3, held_mc=4, gateway="g-2")
            for of in (same, rates(card=COST))
        )
        assert made == alone
        assert (made.event_id, made.account_id, made.external_id, made.conversation, made.started_at_us) == (
            *(after.event_id, after.caller.account_id, after.caller.external_id),
            *(after.caller.labels.conversation, after.started_at_us),
        )
        assert (made.family, made.model_asked, made.stream) == (after.family.name, after.ask.model, after.ask.stream)
        assert (made.settled_at_us, made.hold_mc, made.gateway) == (3, 4, "g-2")
