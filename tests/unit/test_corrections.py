"""Charges that waited for a price: what is booked at first, and the one correction when it comes."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter.accounts import Account
from meter.correction_posting import Correction, CorrectionPosting, Unpriced, correction, post_corrections
from meter.draws import OpenGrant
from meter.posting import Known, Posting, Tariff, post
from shared import ids
from shared.events import UsageEvent
from shared.pricing import Charge, PricedModel, RateCard
from shared.units import MC_MAX
from shared.usage import Usage
from tests.harness.messages import account_of, fresh_event_id, used
from tests.harness.metering import entries

NOW_US = 1_800_000_000_000_000
ANA = account_of("ana")
CARDS = {"tokens@1": RateCard(card="tokens@1", family="tokens"), "cost@1": RateCard(card="cost@1", family="cost")}
NEW = PricedModel(model="new-model", rates={"input": 1_000_000_000, "output": 2_000_000_000})
OTHER = PricedModel(model="other-model", rates={"input": 5_000_000_000, "output": 5_000_000_000})
MODELS = {NEW.model: NEW, OTHER.model: OTHER}


def account(balance_mc: int, *grants_mc: int) -> Account:
    """With open grants of these amounts, or one of the whole balance."""
    left = grants_mc or ((balance_mc,) if balance_mc > 0 else ())
    grants = [OpenGrant(grant_id=UUID(int=i), remaining_mc=mc, priority=100, seq=i) for i, mc in enumerate(left, 1)]
    return Account(account_id=ANA, balance_mc=balance_mc, seq=9, recorded_at_us=0, grants=grants, revision=1, shard=3)


def waiting(**more: Any) -> Unpriced:
    fields: dict[str, Any] = {
        "account_id": ANA,
        "event_id": fresh_event_id(),
        "model_asked": "new-model",
        "model_answered": "",
        "card": "cost@1",
        "service_tier": "",
        "usage": Usage(input=10, output=10),
        "charge_mc": 500,
    }
    return Unpriced(**fields | more)


def priced(true_mc: int, charge_mc: int = 500) -> Correction:
    """An event booked at `charge_mc` whose price makes it `true_mc`."""
    event = waiting(charge_mc=charge_mc)
    return Correction(event=event, price_version=7, priced_as="new-model", charge=Charge(true_mc, true_mc, True))


def booked(event: UsageEvent) -> Posting:
    known = Known(events={}, newcomers=set())
    return post(entries([event]), {ANA: account(10**9)}, known, Tariff(models={1: MODELS}, cards=CARDS), NOW_US)


def corrected(of: Account, *corrections: Correction, done: set[UUID] | None = None) -> CorrectionPosting:
    return post_corrections(corrections, {ANA: of}, {(one, False) for one in done or ()}, NOW_US)


def test_a_provisional_charge_is_booked_as_it_is_and_waits() -> None:
    """The gateway's charge, its flags and no other, and a place in the queue of its account's shard."""
    event = used("ana", 10, charge_mc=777, cost_nano=5, priced_as="", flags=("provisional",))
    posting = booked(msgspec.structs.replace(event, event_id=ids.uuid7(NOW_US // 1000, bytes(10))))
    row = posting.rows.usage_events[0]
    assert (row[13], row[14], row[20]) == (777, 5, ("provisional",))
    assert [one[2] for one in posting.rows.unpriced] == [3]
    assert (posting.provisional, posting.unpriced) == (1, 0)


def test_a_provisional_charge_that_says_its_rates_is_held_to_them() -> None:
    """Computed again by the meter like any other, and flagged where the gateway counted otherwise; it waits as well."""
    flags = ("provisional", "provisional_rates:3000000000/5000000000")
    for told_mc, more in ((80_000, ()), (1, ("charge_differs",))):
        posting = booked(used("ana", 10, card="cost@1", charge_mc=told_mc, priced_as="", flags=flags))
        row = posting.rows.usage_events[0]
        assert (row[13], row[14], row[20]) == (80_000, 80_000, (*flags, *more, "off_time"))
        assert len(posting.rows.unpriced) == 1
        assert (posting.provisional, posting.unpriced) == (1, 0)


def test_the_flag_alone_excuses_no_charge() -> None:
    """An event that names a price is held to it, whatever its flags say, and waits for none."""
    posting = booked(used("ana", 10, charge_mc=1, priced_as="new-model", flags=("provisional",)))
    assert posting.rows.usage_events[0][13] == 20_000
    assert posting.rows.unpriced == []
    unknown = booked(used("ana", 10, charge_mc=1, priced_as="gpt-7", flags=("provisional",)))
    assert "unpriced" in unknown.rows.usage_events[0][20]
    assert len(unknown.rows.unpriced) == 1


def test_a_call_without_an_answer_waits_for_no_price() -> None:
    """Its charge is nothing at any price."""
    assert booked(used("ana", 0, evidence="none", priced_as="", flags=("provisional",))).rows.unpriced == []


def test_the_price_is_that_of_the_model_that_answered() -> None:
    """Asked and answered are both priced: the answer's counts; without one, the asked one's."""
    found = [correction(waiting(model_answered=name), 7, MODELS, CARDS) for name in ("other-model", "", "secret")]
    assert [one and one.priced_as for one in found] == ["other-model", "new-model", "new-model"]
    assert [one and one.charge.charge_mc for one in found] == [100_000, 30_000, 30_000]
    assert found[0]
    assert found[0].amount_mc == 500 - 100_000


@pytest.mark.parametrize(
    "more", [{"model_asked": "gpt-7"}, {"card": "none@1"}, {"usage": Usage(input=1, searches=1)}], ids=str
)
def test_it_waits_on_where_no_price_can_express_it(more: dict[str, Any]) -> None:
    """No model, no card, or a kind that has no rate: there is no correction yet."""
    assert correction(waiting(**more), 7, MODELS, CARDS) is None


def test_dearer_is_drawn_like_a_charge() -> None:
    """One transfer of the difference, linked to its event, from the open grants in their order."""
    one = priced(800)
    posting = corrected(account(1_000, 100, 900), one)
    [row] = posting.rows.transfers
    assert row[3:6] == ("adjustment", "usage", -300)
    assert (row[7], row[8]) == (one.event.event_id, "price of new-model, version 7")
    assert [draw[3] for draw in posting.rows.draws] == [100, 200]
    assert posting.rows.corrections == [(ANA, one.event.event_id, row[1], 7, "new-model", 800, 800, NOW_US, False)]


def test_cheaper_is_given_back_as_a_grant() -> None:
    """A grant of kind adjustment, under the transfer's id; it pays what the account owes first."""
    posting = corrected(account(-50), priced(400))
    [row] = posting.rows.transfers
    assert (row[5], row[6]) == (100, 50)
    assert [(grant[1], grant[3], grant[4], grant[9]) for grant in posting.rows.grants] == [
        (row[1], "adjustment", 100, 50)
    ]
    assert [draw[3] for draw in posting.rows.draws] == [50]


def test_no_difference_is_a_transfer_of_nothing() -> None:
    """The entry says which price confirmed the charge."""
    posting = corrected(account(10), priced(500))
    assert [row[5] for row in posting.rows.transfers] == [0]
    assert (posting.rows.draws, posting.rows.grants) == ([], [])
    assert len(posting.rows.corrections) == 1


def test_what_is_corrected_is_not_corrected_again() -> None:
    """An event that the books know as corrected changes nothing."""
    one = priced(800)
    posting = corrected(account(10), one, done={one.event.event_id})
    assert (posting.rows.transfers, posting.posted, posting.refused) == ([], [], [])


def test_a_correction_that_no_balance_can_hold_is_left() -> None:
    """It changes nothing, says why, and its neighbour is booked."""
    of = account(-MC_MAX + 10)
    posting = corrected(of, priced(800), priced(505))
    assert [one.charge.charge_mc for one in posting.posted] == [505]
    assert "beyond its bounds" in posting.refused[0].reason
    assert of.balance_mc == -MC_MAX + 5


def test_the_transfers_id_is_its_own() -> None:
    """It has the time of the correction, for the month that it lies in, and is not the event's, even in its instant."""
    event_id = ids.uuid7(NOW_US // 1000, b"0123456789")
    one = msgspec.structs.replace(priced(1), event=waiting(event_id=event_id))
    transfer_id = corrected(account(10), one).rows.transfers[0][1]
    assert ids.uuid7_ms(transfer_id) == NOW_US // 1000
    assert transfer_id != event_id


@given(
    st.lists(st.integers(1, 1_000), max_size=4),
    st.integers(0, 2_000),
    st.lists(st.tuples(st.integers(0, 1_500), st.integers(0, 1_500)), max_size=5),
)
def test_grants_and_balance_agree_after_any_corrections(
    grants_mc: list[int], debt_mc: int, charges: list[tuple[int, int]]
) -> None:
    """Whatever is owed or left: the balance moves by the differences, and grants sum to it, or to nothing below 0."""
    start_mc = sum(grants_mc) or -debt_mc
    of = account(start_mc, *grants_mc)
    posting = corrected(of, *(priced(true_mc, booked_mc) for booked_mc, true_mc in charges))
    assert of.balance_mc == start_mc + sum(booked_mc - true_mc for booked_mc, true_mc in charges)
    assert sum(grant.remaining_mc for grant in of.grants) == max(of.balance_mc, 0)
    assert sum(row[5] for row in posting.rows.transfers) == of.balance_mc - start_mc
    assert len({row[1] for row in posting.rows.transfers}) == len(charges)
