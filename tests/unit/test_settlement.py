"""From what a call did to the event that is booked: which price, which flags, which text."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import Labels
from gateway.settlement import MODEL_NAME_LENGTH_MAX, Counted, Facts, draft_event
from shared import events
from shared.events import UsageEvent
from shared.pricing import Table, charge
from shared.usage import Usage
from tests.harness.calls import CATALOG, COST, MINI, THINKER, TOKENS, ask, call, caller, closed, rates

USED = Counted(Usage(input=1_000, output=500), "provider")


def event(
    counted: Counted = USED, catalog: Any = CATALOG, call_of: Any = None, *, outcome: Any = "complete", **facts: Any
) -> UsageEvent:
    """The event of a call at the cost card; `facts` are fields of Facts."""
    of = msgspec.structs.replace(call_of or call(rates=rates(card=COST)), catalog=catalog)
    return closed(of, counted, Facts(outcome=outcome, **facts))


def test_an_event_says_all_of_its_call() -> None:
    """Ids, names, times and the hold, as they were."""
    of = call(
        caller=caller("ana", Labels(email="a@b", name="Ana", conversation="c-1", message="m-1", purpose="title")),
        rates=rates(card=COST),
        started_at_us=5,
    )
    made = event(
        call_of=of,
        status=200,
        upstream_call_id="chatcmpl-1",
        upstream_cost_nano=3,
        first_byte_us=2,
        service_tier="flex",
    )
    assert made == UsageEvent(
        event_id=of.event_id,
        account_id=of.caller.account_id,
        key_id=of.caller.key.key_id,
        family="chat",
        model_asked="gpt-mini",
        priced_as="gpt-mini",
        price_version=7,
        card="cost@1",
        service_tier="flex",
        usage=USED.usage,
        charge_mc=450_000,
        cost_nano=450_000,
        evidence="provider",
        outcome="complete",
        stream=True,
        status=200,
        started_at_us=5,
        first_byte_us=2,
        settled_at_us=9,
        hold_mc=77,
        upstream_call_id="chatcmpl-1",
        upstream_cost_nano=3,
        gateway="test",
        conversation="c-1",
        message="m-1",
        purpose="title",
        directory_id=of.caller.key.directory_id,
        external_id="ana",
    )


def test_the_charge_is_that_of_the_one_arithmetic() -> None:
    """Charge and cost are exactly shared.pricing's, for either card."""
    for card in (COST, TOKENS):
        expected = charge(USED.usage, MINI, card)
        made = event(call_of=call(rates=rates(card=card)))
        assert (made.charge_mc, made.cost_nano) == (expected.charge_mc, expected.cost_nano)


def test_the_price_is_that_of_the_model_that_answered() -> None:
    """Asked for one, answered by another: priced as the other, and both names are told."""
    made = event(model="openai/o-thinker")
    assert (made.model_asked, made.model_answered, made.priced_as) == ("gpt-mini", "openai/o-thinker", "o-thinker")
    assert made.charge_mc == charge(USED.usage, THINKER, COST).charge_mc
    assert made.flags == ()


def test_an_answering_model_without_a_price_is_priced_as_the_one_asked_for() -> None:
    """Never free: the price that was agreed to counts, and the event is flagged."""
    made = event(model="gpt-secret-9")
    assert (made.model_answered, made.priced_as) == ("gpt-secret-9", "gpt-mini")
    assert made.flags == ("answer_unpriced",)
    assert made.charge_mc == 450_000


def test_the_version_named_is_the_one_that_priced_the_event() -> None:
    """That of the catalog which the call was admitted with. Anyone can compute the charge again from it."""
    dearer = msgspec.structs.replace(MINI, rates={kind: 2 * rate for kind, rate in MINI.rates.items()})
    later = msgspec.structs.replace(CATALOG, price_version=8, models={"gpt-mini": dearer})
    answered = event(catalog=later, model="gpt-mini")
    assert (answered.price_version, answered.charge_mc) == (8, 900_000)
    answered = event(catalog=CATALOG, model="gpt-mini")
    assert (answered.price_version, answered.charge_mc) == (7, 450_000)


def test_what_no_rate_covers_is_flagged_and_the_rest_charged() -> None:
    """A search that this model has no price for: `unpriced`, to be corrected when the price comes."""
    made = event(Counted(Usage(input=1_000, output=500, searches=2), "provider", ("odd",)))
    assert made.flags == ("odd", "unpriced")
    assert made.charge_mc == 450_000


def test_asking_for_a_tier_buys_no_discount() -> None:
    """The tier that the answer names counts; where it names none, the one asked for counts only if it is dearer."""
    half = {kind: rate // 2 for kind, rate in MINI.rates.items()}
    twice = {kind: rate * 2 for kind, rate in MINI.rates.items()}
    tiers = msgspec.structs.replace(MINI, service={"flex": Table(rates=half), "priority": Table(rates=twice)})
    catalog = msgspec.structs.replace(CATALOG, models={})

    def charge(asked: str, answered: str) -> tuple[int, str]:
        of = call(rates=rates(tiers, COST), ask=ask(service_tier=asked))
        made = event(catalog=catalog, call_of=of, service_tier=answered)
        return made.charge_mc, made.service_tier

    assert charge("flex", "flex") == (225_000, "flex")
    assert charge("flex", "default") == (450_000, "default")
    assert charge("flex", "") == (450_000, "")
    assert charge("priority", "") == (900_000, "priority")


def test_a_call_that_came_to_nothing_costs_nothing() -> None:
    """The draft of a hold, should this process die: no usage, no charge, lost."""
    made = draft_event(call(), now_us=9, held_mc=1, gateway="g")
    assert (made.charge_mc, made.cost_nano, made.evidence, made.outcome, made.status) == (0, 0, "none", "lost", 0)


def test_a_keys_own_account_names_no_user() -> None:
    """Only an event on a user's account says which user: that account may have to be created from it."""
    assert event(call_of=call("")).directory_id is None
    assert event(call_of=call("")).external_id == ""
    assert event(call_of=call("ana")).directory_id is not None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt\x00-4o\r\n", "gpt-4o"),
        ("mod\u202eèle 🌻", "modèle 🌻"),
        ("\udce9x\ud800", "x"),
        ("x" * 1_000, "x" * MODEL_NAME_LENGTH_MAX),
    ],
)
def test_text_of_the_upstreams_is_made_fit_for_a_database(text: str, kept: str) -> None:
    """NUL, control characters, surrogates and endless names do not reach the books."""
    made = event(model=text, service_tier=text, upstream_call_id=text)
    assert (made.model_answered, made.service_tier, made.upstream_call_id) == (kept, kept, kept)


_ANY = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=400)
_COUNTS = st.integers(0, 2**40)


@given(
    _ANY, _ANY, _ANY, st.builds(Usage, _COUNTS, _COUNTS, _COUNTS, output=_COUNTS, reasoning=_COUNTS, searches=_COUNTS)
)
def test_every_event_can_be_told_and_read_again(model: str, tier: str, call_id: str, usage: Usage) -> None:
    """Whatever the upstream says: the event fits into an entry, comes back equal, is never negative nor too large."""
    made = event(Counted(usage, "provider"), model=model, service_tier=tier, upstream_call_id=call_id)
    assert events.decode(events.encode(made)) == made
    assert 0 <= made.charge_mc <= 2**53 - 1
    assert 0 <= made.cost_nano <= 2**53 - 1
