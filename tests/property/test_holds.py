"""Any sequence of the scripts, on real Redis: sums are what their hashes hold, and nobody ever sees too much credit."""

from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.events import UsageEvent
from tests.harness.calls import event_of
from tests.harness.hold_scripts import HoldScripts, name
from tests.harness.redis_versions import programs, running

pytestmark = pytest.mark.integration

NUMBERS = st.integers(1, 4)
CHARGES = st.sampled_from([0, 1, 40, 100, 999, 5_000])
AMOUNTS = st.sampled_from([0, 1, 50, 99, 100, 300])
LIVE_S, GONE_S = 1_000, -1
"""Times to live: of a hold that does not expire during the test, and of one that is overdue at once."""


class Holds(RuleBasedStateMachine):
    """One account's calls, from their reservation to their booking, with every step repeatable and delayable.

    The model keeps what must be true: the holds, the charges that were reported, and the books of a meter that posts
    them in any portions and whose word to Redis may come late, out of order and more than once.
    """

    def __init__(self, client: Any) -> None:
        super().__init__()
        client.flushall()
        self.account = HoldScripts(client)
        self.account.open()
        self.holds: dict[int, int] = {}
        self.notes: dict[int, int] = {}
        self.overdue: set[int] = set()
        self.charged: dict[int, int] = {}
        """Reported and not booked."""
        self.booked: set[int] = set()
        self.balance = 0
        self.seq = 0
        self.mode = "enforce"
        self.words: list[tuple[int, int, str]] = []
        """Balance, seq and posted events of every word of the meter, told or not."""
        self.told_seq = -1
        self.reports = 0

    @initialize(balance=st.integers(-50, 2_000), mode=st.sampled_from(["enforce", "enforce", "shadow"]))
    def known(self, balance: int, mode: str) -> None:
        self.mode = mode
        self.balance = balance
        self._say([])
        self.tell(0)

    # The gateway ------------------------------------------------------------------------------------------

    @rule(number=NUMBERS, full=AMOUNTS, slice_=AMOUNTS, least=AMOUNTS, dies=st.booleans())
    def reserve(self, number: int, full: int, slice_: int, least: int, dies: bool) -> None:
        full, slice_, least = sorted((full, slice_, least), reverse=True)
        before = self.account.state().spendable
        verdict, *facts = self.account.reserve(number, full, slice_, least, ttl_s=GONE_S if dies else LIVE_S)
        if number in self.holds:
            assert (verdict, facts[0]) == ("ok", self.holds[number])
        elif verdict == "ok":
            self.holds[number], self.notes[number] = facts[0], 0
            self.overdue.discard(number)
            if dies:
                self.overdue.add(number)
            assert facts[0] in (full, slice_, before)
            assert facts[1] == before - facts[0]
            if self.mode == "enforce":
                assert facts[0] <= max(before, 0)
                assert before < slice_ or facts[0] >= slice_
        else:
            assert (verdict, facts) == ("exhausted", [before, self.account.state().balance])
            assert self.mode == "enforce"
            assert before < max(least, 1) or before < slice_

    @rule(number=NUMBERS, more=AMOUNTS, charge=CHARGES, dies=st.booleans())
    def extend(self, number: int, more: int, charge: int, dies: bool) -> None:
        before = self.account.state().spendable
        verdict, *facts = self.account.extend(number, more, charge, ttl_s=GONE_S if dies else LIVE_S)
        if number not in self.holds:
            assert verdict == "gone"
            return
        fits = more == 0 or before >= more or self.mode != "enforce"
        assert verdict == ("ok" if fits else "refused")
        self.holds[number] += more if fits else 0
        self.notes[number] = charge
        (self.overdue.add if dies else self.overdue.discard)(number)
        assert facts == [self.holds[number], before - (more if fits else 0)]

    @rule(number=NUMBERS, charge=CHARGES)
    def settle(self, number: int, charge: int) -> None:
        (verdict, *_) = self.account.settle(number, charge)
        assert verdict == ("known" if name(number) in self._waiting_before else "ok")
        self._close(number)
        if verdict == "ok":
            self._report(number, charge)

    @rule(number=NUMBERS)
    def void(self, number: int) -> None:
        assert self.account.void(number) == ["void"]
        self._close(number)

    # The meter --------------------------------------------------------------------------------------------

    @rule(number=NUMBERS)
    def expire(self, number: int) -> None:
        answer = self.account.expire(number)
        if number not in self.holds:
            assert answer == ["gone"]
        elif number not in self.overdue:
            assert answer == ["alive"]
        else:
            assert answer == ["expired", self.notes[number]]
            waits = name(number) in self._waiting_before
            charge = self.notes[number]
            self._close(number)
            if not waits:
                self._report(number, charge)

    @precondition(lambda self: self.charged)
    @rule(data=st.data())
    def post(self, data: st.DataObject) -> None:
        """One transaction: some of what was reported is booked, once each; Redis is not told yet."""
        numbers = data.draw(st.lists(st.sampled_from(sorted(self.charged)), unique=True, min_size=1))
        for number in numbers:
            charge = self.charged.pop(number)
            if number not in self.booked:
                self.booked.add(number)
                self.balance -= charge
                self.seq += 1
        self._say(numbers)

    @rule(amount=st.sampled_from([1, 500, 10_000]))
    def grant(self, amount: int) -> None:
        self.balance += amount
        self.seq += 1
        self._say([])

    @rule(back=st.integers(0, 5))
    def tell(self, back: int) -> None:
        """Redis hears a word of the meter: the last one or an earlier one, for the first time or again."""
        balance, seq, posted = self.words[max(0, len(self.words) - 1 - back)]
        self.account.told(balance, seq=seq, revision=1, mode=self.mode, posted=posted)
        self.told_seq = max(self.told_seq, seq)

    @rule()
    def tell_all(self) -> None:
        """The meter has caught up: after this Redis says exactly what the books say."""
        for number in sorted(self.charged):
            self.post_one(number)
        for back in reversed(range(len(self.words))):
            self.tell(back)
        state = self.account.state()
        assert (state.balance, state.waiting) == (self.balance, {})
        assert state.spendable == self.balance - sum(self.holds.values())

    def post_one(self, number: int) -> None:
        charge = self.charged.pop(number)
        if number not in self.booked:
            self.booked.add(number)
            self.balance -= charge
            self.seq += 1
        self._say([number])

    # What must hold ---------------------------------------------------------------------------------------

    @invariant()
    def the_sums_are_those_of_their_hashes(self) -> None:
        state = self.account.state()
        assert state.held == sum(amount for amount, _, _ in state.holds.values())
        assert state.unposted == sum(state.waiting.values())
        assert min([state.held, state.unposted, *state.waiting.values()], default=0) >= 0
        assert state.deadlines.keys() == state.holds.keys()
        self._waiting_before = state.waiting

    @invariant()
    def the_holds_are_the_models(self) -> None:
        state = self.account.state()
        assert {number: state.holds[name(number)][:2] for number in self.holds} == {
            number: (amount, self.notes[number]) for number, amount in self.holds.items()
        }
        assert len(state.holds) == len(self.holds)

    @invariant()
    def nobody_sees_more_than_there_is(self) -> None:
        """Spendable is never above the books, less what is reported and not booked, less what is held."""
        if self.told_seq < 0:
            return
        unbooked = sum(charge for number, charge in self.charged.items() if number not in self.booked)
        late_grants_included = self.balance - unbooked - sum(self.holds.values())
        assert self.account.state().spendable <= late_grants_included

    @invariant()
    def everything_reported_is_on_the_stream(self) -> None:
        reported = self.account.reported()
        assert len(reported) == self.reports
        assert {message.event_id for message in reported if isinstance(message, UsageEvent)} == {
            event_of(number) for number in self.booked | self.charged.keys()
        }

    def _say(self, numbers: list[int]) -> None:
        self.words.append((self.balance, self.seq, " ".join(map(str, numbers))))

    def _close(self, number: int) -> None:
        self.holds.pop(number, None)
        self.notes.pop(number, None)

    def _report(self, number: int, charge: int) -> None:
        self.reports += 1
        if number not in self.charged:
            self.charged[number] = charge


@pytest.mark.parametrize("version", sorted(programs()))
def test_any_sequence_of_scripts_keeps_the_sums(version: str, tmp_path: Path) -> None:
    """Random lives of calls with repeats, deaths and late words: held and unposted are the sums of their hashes, the
    spendable credit is never above what the books will say, and equals it once the meter has caught up."""
    with running(version, tmp_path, appendonly="no") as server, redis.Redis.from_url(server.url()) as client:

        class HoldsHere(Holds):
            def __init__(self) -> None:
                super().__init__(client)

        run_state_machine_as_test(
            HoldsHere,
            settings=settings(
                max_examples=40,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
