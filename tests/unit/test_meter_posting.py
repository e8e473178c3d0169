"""A batch of messages becomes rows: once each, at the meter's own price, with a reason where it cannot."""

import random
from itertools import permutations
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter.accounts import Account
from meter.draws import NEVER_US, OpenGrant
from meter.introductions import introductions
from meter.order_posting import Order, post_expiries, post_orders
from meter.posting import ACCOUNT_UNKNOWN, Entry, Known, Posting, Standing, Tariff, post
from shared import ids
from shared.events import StreamMessage, encode
from shared.pricing import PricedModel, RateCard
from shared.units import MC_MAX
from shared.usage import Usage
from tests.harness.messages import MODEL, account_of, seen, used
from tests.harness.metering import entries

NOW_US = 1_800_000_000_000_000
MODELS = {MODEL: PricedModel(model=MODEL, rates={"input": 150_000_000, "output": 600_000_000})}
CARDS = {"tokens@1": RateCard(card="tokens@1", family="tokens"), "cost@1": RateCard(card="cost@1", family="cost")}
TARIFF = Tariff(models={1: MODELS}, cards=CARDS)


def account(external_id: str, balance_mc: int = 0) -> Account:
    account_id = account_of(external_id)
    grants = [OpenGrant(grant_id=UUID(int=7), remaining_mc=balance_mc, priority=100, seq=0)] if balance_mc > 0 else []
    return Account(account_id=account_id, balance_mc=balance_mc, seq=0, recorded_at_us=0, grants=grants, revision=1)


def booked(*messages: StreamMessage, balance_mc: int = 0, known: Known | None = None) -> Posting:
    accounts = {one.account_id: one for one in (account("ana", balance_mc), account("bia", balance_mc))}
    return post(entries(messages), accounts, known or Known(events={}, newcomers=set()), TARIFF, NOW_US)


def at_now(**more: Any) -> dict[str, Any]:
    return {"event_id": ids.uuid7(NOW_US // 1000, random.randbytes(10)), **more}


def test_books_its_own_charge_where_the_gateway_counted_another() -> None:
    """The recomputed charge is booked, the gateway's is kept beside it, and a flag says that they differ."""
    event = used("ana", 10, charge_mc=1, **at_now())
    posting = booked(event)
    row = posting.rows.usage_events[0]
    assert row[13] == 20_000
    assert row[15] == 1
    assert row[20] == ("charge_differs",)
    assert posting.rows.transfers[0][5] == -20_000


def test_books_cost_beside_the_charge_whatever_the_card() -> None:
    """The provider's cost in nano-USD is booked also where the card charges tokens."""
    posting = booked(used("ana", 1_000, **at_now()))
    assert posting.rows.usage_events[0][14] == 1_000 * 150 + 1_000 * 600


@pytest.mark.parametrize("more", [{"priced_as": "gpt-7"}, {"price_version": 9}, {"card": "none@1"}, {"priced_as": ""}])
def test_books_unpriced_usage_at_the_gateways_charge(more: dict[str, Any]) -> None:
    """Where model, version or card are unknown the gateway's amounts are booked, and a flag says so: never free."""
    posting = booked(used("ana", 10, charge_mc=777, cost_nano=5, **at_now(**more)))
    row = posting.rows.usage_events[0]
    assert (row[13], row[14], row[20]) == (777, 5, ("unpriced",))
    assert posting.unpriced == 1


def test_books_a_call_without_an_answer_at_nothing() -> None:
    """Evidence `none` gives a row and a transfer of zero, whatever the gateway said of it."""
    posting = booked(used("ana", 10, evidence="none", outcome="timeout", usage=Usage(), charge_mc=9, **at_now()))
    assert posting.rows.usage_events[0][13:15] == (0, 0)
    assert posting.rows.transfers[0][5] == 0
    assert posting.rows.transfers[0][2] == 1


def test_flags_an_event_whose_time_is_far_from_its_booking() -> None:
    """A clock that is three days off is accepted and flagged; recorded_at is Postgres's."""
    three_days_ms = 3 * 24 * 3600 * 1000
    for distance in (-three_days_ms, three_days_ms):
        event = used("ana", 1, event_id=ids.uuid7(NOW_US // 1000 + distance, bytes(10)))
        row = booked(event).rows.usage_events[0]
        assert row[20] == ("off_time",)
        assert row[31] == NOW_US
    assert booked(used("ana", 1, **at_now())).rows.usage_events[0][20] == ()


@pytest.mark.parametrize("said", [-5, 0, 2**62])
def test_an_impossible_time_is_replaced_and_flagged(said: int) -> None:
    """A gateway without a clock loses no charge: the event occurred when it was booked, as far as anybody knows."""
    posting = booked(used("ana", 1, settled_at_us=said, **at_now()))
    row = posting.rows.usage_events[0]
    assert (row[25], row[20]) == (NOW_US, ("off_time",))
    assert posting.rows.transfers[0][9] == NOW_US


def test_knows_a_repeated_event_and_still_reports_it() -> None:
    """An event that is booked changes nothing, but Redis is told of it again: it may have forgotten."""
    event = used("ana", 5, **at_now())
    posting = booked(event, known=Known(events={event.event_id: Standing(False, 10_000)}, newcomers=set()))
    assert posting.rows.transfers == []
    assert posting.reported == {event.account_id: [str(event.event_id)]}
    assert posting.repeated == 1


def test_gives_the_allowance_to_newcomers_alone() -> None:
    """The announcement that opens an account grants its allowance once, under the id that anyone can derive."""
    message = seen("ana", 500)
    posting = booked(message, message, known=Known(events={}, newcomers={message.account_id}))
    assert [row[1] for row in posting.rows.grants] == [ids.allowance_id(message.account_id, "default", "first")]
    assert posting.accounts[message.account_id].balance_mc == 500
    assert booked(message).rows.grants == []


def test_an_allowance_of_nothing_is_no_grant() -> None:
    """A plan without an allowance opens the account and grants nothing."""
    message = seen("ana", 0)
    posting = booked(message, known=Known(events={}, newcomers={message.account_id}))
    assert posting.rows.transfers == []
    assert message.account_id in posting.accounts


def test_sets_unknown_accounts_aside() -> None:
    """An event of an account that nobody knows is a dead letter with its ids; its neighbours are booked."""
    stranger = used("stranger", 1, **at_now())
    posting = booked(stranger, used("ana", 1, **at_now()))
    assert [(one.reason, one.account_id, one.event_id) for one in posting.dead] == [
        (ACCOUNT_UNKNOWN, stranger.account_id, stranger.event_id)
    ]
    assert posting.booked == 1


@pytest.mark.parametrize("charge_mc", [-1, MC_MAX + 1])
def test_sets_impossible_charges_aside(charge_mc: int) -> None:
    """A charge that is negative or beyond what can be counted is never booked."""
    posting = booked(used("ana", 1, charge_mc=charge_mc, priced_as="", **at_now()))
    assert "out of bounds" in posting.dead[0].reason
    assert posting.rows.transfers == []


def test_sets_aside_what_would_leave_the_bounds_of_a_balance() -> None:
    """Two charges that together exceed the largest debt: the first is booked, the second is not."""
    first, second = (used("ana", 1, charge_mc=MC_MAX, priced_as="", **at_now()) for _ in range(2))
    posting = booked(first, second)
    assert posting.booked == 1
    assert [one.event_id for one in posting.dead] == [second.event_id]


def test_usage_is_booked_below_the_floor() -> None:
    """Facts are never refused: a charge beyond the balance becomes debt."""
    posting = booked(used("ana", 10, **at_now()), balance_mc=5_000)
    assert posting.accounts[account_of("ana")].balance_mc == -15_000
    assert posting.rows.draws[0][3] == 5_000


def test_time_of_an_account_never_goes_back() -> None:
    """If Postgres's clock went back, the next transfer is recorded at the time of the last one."""
    ahead = account("ana")
    ahead.recorded_at_us = NOW_US + 5
    event = used("ana", 1, **at_now())
    known = Known(events={}, newcomers=set())
    posting = post(entries([event]), {ahead.account_id: ahead}, known, TARIFF, NOW_US)
    assert posting.rows.transfers[0][10] == NOW_US + 5


def test_an_event_that_names_its_user_introduces_the_account() -> None:
    """An unknown account is opened from an event alone, on a guessed plan, unless its announcement is there too."""
    event, announcement = used("ana"), seen("ana", plan="gold")
    assert [(one.plan, one.announced) for one in introductions([event], {})] == [("default", False)]
    messages: list[StreamMessage] = [event, announcement]
    for both in permutations(messages):
        assert [(one.plan, one.announced) for one in introductions(both, {})] == [("gold", True)]
    assert introductions([event, announcement], {event.account_id: account("ana")}) == []


def test_an_announcement_completes_a_guessed_account() -> None:
    """An account that is known from an event alone (revision 0) is introduced again by its announcement."""
    guessed = account("ana")
    guessed.revision = 0
    accounts = {guessed.account_id: guessed}
    assert introductions([used("ana")], accounts) == []
    assert [one.announced for one in introductions([seen("ana")], accounts)] == [True]


@pytest.mark.parametrize(
    "more", [{"external_id": "bia"}, {"external_id": ""}, {"external_id": "x" * 129}, {"directory_id": None}]
)
def test_nobody_is_introduced_under_a_wrong_id(more: dict[str, Any]) -> None:
    """An account id that does not follow from directory and external id opens nothing."""
    assert introductions([msgspec.structs.replace(used("ana"), **more)], {}) == []


choices = st.lists(st.tuples(st.sampled_from(["ana", "bia"]), st.integers(0, 30)), max_size=12)


@given(choices, st.data())
@settings(max_examples=150)
def test_any_delivery_gives_the_same_balances(calls: list[tuple[str, int]], data: st.DataObject) -> None:
    """I3: each entry delivered one to three times, in any order and in any batches, books each event exactly once and
    gives the same balances."""
    messages = [used(who, tokens, **at_now()) for who, tokens in calls]
    deliveries = [one for one in messages for _ in range(data.draw(st.integers(1, 3)))]
    deliveries = data.draw(st.permutations(deliveries))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(deliveries)), max_size=3)))
    accounts = {one.account_id: one for one in (account("ana", 40_000), account("bia", 40_000))}
    events: set[UUID] = set()
    rows = []
    for low, high in zip([0, *cuts], [*cuts, len(deliveries)], strict=True):
        known = Known(events={one: Standing(False, 0) for one in events}, newcomers=set())
        posting = post(entries(deliveries[low:high]), accounts, known, TARIFF, NOW_US)
        rows.extend(posting.rows.usage_events)
        events |= {row[1] for row in posting.rows.usage_events}
    assert sorted(str(row[1]) for row in rows) == sorted(str(one.event_id) for one in messages)
    for who in ("ana", "bia"):
        spent = sum(2_000 * tokens for name, tokens in calls if name == who)
        assert accounts[account_of(who)].balance_mc == 40_000 - spent


def order(amount_mc: int, **more: Any) -> Order:
    fields: dict[str, Any] = {
        "order_id": ids.uuid7(NOW_US // 1000, random.randbytes(10)),
        "account_id": account_of("ana"),
        "kind": "adjustment",
        "amount_mc": amount_mc,
        "priority": 100,
        "memo": "",
        "expires_at_us": NEVER_US,
        "created_at_us": NOW_US,
    }
    return Order(**fields | more)


def test_a_positive_adjustment_is_a_grant_and_a_negative_one_draws() -> None:
    """Both close as posted under the order's own id."""
    accounts = {account_of("ana"): account("ana")}
    up, down = order(500), order(-200)
    posting = post_orders([up, down], accounts, set(), NOW_US)
    assert [one.outcome for one in posting.outcomes] == ["posted", "posted"]
    assert [row[1] for row in posting.rows.transfers] == [up.order_id, down.order_id]
    assert posting.rows.grants[0][3] == "adjustment"
    assert posting.rows.draws == [(account_of("ana"), down.order_id, up.order_id, 200)]


def test_a_closed_order_changes_nothing() -> None:
    """An order that has an outcome is passed over."""
    once = order(500)
    posting = post_orders([once], {account_of("ana"): account("ana")}, {once.order_id}, NOW_US)
    assert (posting.outcomes, posting.rows.transfers) == ([], [])


@pytest.mark.parametrize("more", [{"amount_mc": MC_MAX}, {"amount_mc": 1, "expires_at_us": NOW_US}])
def test_refuses_what_no_row_can_hold(more: dict[str, int]) -> None:
    """A balance beyond its bounds and a grant that has expired are refused, with a reason."""
    accounts = {account_of("ana"): account("ana", 5)}
    posting = post_orders([order(**more)], accounts, set(), NOW_US)
    assert posting.outcomes[0].outcome == "refused"
    assert posting.outcomes[0].detail
    assert accounts[account_of("ana")].balance_mc == 5


def test_takes_back_what_expired_grants_have_left() -> None:
    """Only the rest of what has expired goes, each in a transfer that names its grant."""
    owner = account("ana")
    accounts = {owner.account_id: owner}
    soon, late = order(300, expires_at_us=NOW_US + 1), order(50, expires_at_us=NOW_US + 1_000)
    post_orders([soon, late, order(-100)], accounts, set(), NOW_US)
    rows = post_expiries(accounts.values(), NOW_US + 1)
    assert [(row[3], row[5], row[7]) for row in rows.transfers] == [("expiry", -200, soon.order_id)]
    assert owner.balance_mc == 50
    assert post_expiries(accounts.values(), NOW_US + 1).transfers == []


def test_entries_carry_their_payload() -> None:
    """What goes to the dead letters is the entry itself, byte for byte."""
    message = used("stranger")
    entry = Entry("5-1", encode(message), message)
    known = Known(events={}, newcomers=set())
    assert post([entry], {}, known, TARIFF, NOW_US).dead[0].payload == encode(message)
