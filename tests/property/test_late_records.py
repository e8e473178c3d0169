"""M3: what was lost and its true record come in any order, any number of times, in any batches: the books agree."""

import random
from collections import Counter
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from meter.accounts import Account
from meter.draws import OpenGrant
from meter.posting import Known, Standing, Tariff, post
from shared import ids, redis_keys
from shared.events import UsageEvent
from shared.pricing import PricedModel, RateCard
from shared.usage import Usage
from tests.harness.messages import MODEL, account_of, used
from tests.harness.metering import entries

NOW_US = 1_800_000_000_000_000
MODELS = {MODEL: PricedModel(model=MODEL, rates={"input": 150_000_000, "output": 600_000_000})}
TARIFF = Tariff(models={1: MODELS}, cards={"tokens@1": RateCard(card="tokens@1", family="tokens")})
START_MC = 40_000
USERS = ("ana", "bia")


class Call(msgspec.Struct, frozen=True):
    """A call, and the records of it that come: how often each."""

    user: str
    lost_tokens: int
    true_tokens: int
    lost_times: int
    true_times: int
    priced: bool
    answered: bool

    @property
    def due_mc(self) -> int:
        """What it must come to, whatever the order: the truth if it came at all, else what was lost."""
        if self.true_times:
            return 2_000 * self.true_tokens if self.answered else 0
        return 2_000 * self.lost_tokens if self.lost_times else 0


calls = st.lists(
    st.builds(
        Call,
        user=st.sampled_from(USERS),
        lost_tokens=st.integers(0, 20),
        true_tokens=st.integers(0, 20),
        lost_times=st.integers(0, 3),
        true_times=st.integers(0, 3),
        priced=st.booleans(),
        answered=st.booleans(),
    ),
    max_size=8,
)


def records(call: Call) -> tuple[UsageEvent, UsageEvent]:
    """What was lost of it, and its true record. Without a price both are charged as the gateway says."""
    more: dict[str, Any] = {"event_id": ids.uuid7(NOW_US // 1000, random.randbytes(10))}
    if not call.priced:
        more |= {"priced_as": "", "flags": ("provisional",)}
    lost = used(call.user, call.lost_tokens, outcome="lost", evidence="checkpoint", **more)
    if call.answered:
        return lost, used(call.user, call.true_tokens, **more)
    return lost, used(call.user, 0, evidence="none", outcome="timeout", usage=Usage(), charge_mc=0, **more)


def account(user: str) -> Account:
    grants = [OpenGrant(grant_id=UUID(int=7), remaining_mc=START_MC, priority=100, seq=0)]
    return Account(account_id=account_of(user), balance_mc=START_MC, seq=0, recorded_at_us=0, grants=grants, revision=1)


class Books:
    """What batches leave behind, as Postgres would keep it."""

    def __init__(self) -> None:
        self.accounts = {account_of(user): account(user) for user in USERS}
        self.events: dict[UUID, Standing] = {}
        self.rows: Counter[UUID] = Counter()
        self.corrections: dict[UUID, int] = {}
        self.waiting: dict[UUID, bool] = {}
        """For a price, and whether it is the late record that waits."""
        self.reported: list[str] = []

    def post(self, batch: list[UsageEvent]) -> None:
        known = Known(events=dict(self.events), newcomers=set())
        posting = post(entries(batch), self.accounts, known, TARIFF, NOW_US)
        assert not posting.dead
        assert posting.booked + posting.repeated == len(batch)
        self.events = known.events
        self.rows.update(row[1] for row in posting.rows.usage_events)
        for row in posting.rows.event_corrections:
            assert row[1] not in self.corrections
            self.corrections[row[1]] = row[11]
            self.waiting.pop(row[1], None)
        for row in posting.rows.unpriced:
            assert row[1] not in self.waiting
            self.waiting[row[1]] = row[3]
        self.reported += [field for fields in posting.reported.values() for field in fields]


@given(calls, st.randoms(use_true_random=False), st.data())
def test_any_order_comes_to_the_same(todo: list[Call], order: random.Random, data: st.DataObject) -> None:
    """Balances are those of the truths; one row an event, a correction exactly where the lost one came first; what
    waits for a price is the record that stands; every record that came stops counting as unposted."""
    by_call = [(call, *records(call)) for call in todo]
    deliveries = [
        record
        for call, lost, true in by_call
        for record, times in ((lost, call.lost_times), (true, call.true_times))
        for _ in range(times)
    ]
    order.shuffle(deliveries)
    books = Books()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(deliveries)), max_size=4)))
    for low, high in zip([0, *cuts], [*cuts, len(deliveries)], strict=True):
        books.post(deliveries[low:high])

    came = [(call, lost, true) for call, lost, true in by_call if call.lost_times or call.true_times]
    for user in USERS:
        owner = books.accounts[account_of(user)]
        assert owner.balance_mc == START_MC - sum(call.due_mc for call in todo if call.user == user)
        assert sum(grant.remaining_mc for grant in owner.grants) == max(owner.balance_mc, 0)
    assert books.rows == Counter({lost.event_id: 1 for _, lost, _ in came})
    first = {one.event_id: one.lost for one in reversed(deliveries)}
    corrected = {lost.event_id: call for call, lost, _ in came if first[lost.event_id] and call.true_times}
    assert books.corrections == {event_id: call.due_mc for event_id, call in corrected.items()}
    assert books.waiting == {
        lost.event_id: lost.event_id in corrected
        for call, lost, _ in came
        if not call.priced and (call.answered or not call.true_times)
    }
    assert Counter(books.reported) == Counter(
        redis_keys.unposted_field(one.event_id, lost=one.lost) for one in deliveries
    )
