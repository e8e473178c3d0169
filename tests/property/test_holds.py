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
from tests.harness.hold_scripts import HoldScripts, field, name
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
    them in any portions and whose word to Redis may come late, out of order and more than once. A call may be reported
    twice: what was lost of it, by the reaper or a journal, and its true record, which corrects that.
    """

    def __init__(self, client: Any) -> None:
        super().__init__()
        client.flushall()
        self.account = HoldScripts(client)
        self.account.open()
        self.holds: dict[int, int] = {}
        self.notes: dict[int, int] = {}
        self.overdue: set[int] = set()
        self.charged: dict[tuple[int, bool], int] = {}
        """Reported and not booked; True: what was lost."""
        self.booked: dict[int, tuple[bool, int]] = {}
        """What is booked of a call: whether it was lost, and the charge."""
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
            half = least + -(-(before - least) // 2)
            assert facts[0] in (full, slice_, before, before // 4, half)
            assert facts[1] == before - facts[0]
            if self.mode == "enforce":
                assert facts[0] <= max(before, 0)
                assert half < slice_ or facts[0] >= slice_
        else:
            assert (verdict, facts) == ("exhausted", [before, self.account.state().balance])
            assert self.mode == "enforce"
            assert before < max(least, 1) or before < slice_

    @rule(number=NUMBERS, more=AMOUNTS, charge=CHARGES, dies=st.booleans(), again=st.none() | AMOUNTS)
    def extend(self, number: int, more: int, charge: int, dies: bool, again: int | None) -> None:
        before = self.account.state().spendable
        verdict, *facts = self.account.extend(number, more, charge, ttl_s=GONE_S if dies else LIVE_S, again=again)
        if number not in self.holds:
            if again is None or name(number) in self._waiting_before:
                assert verdict == "gone"
                return
            made = min(again, max(before, 0)) if self.mode == "enforce" else again
            self.holds[number] = max(made, charge)
            before -= self.holds[number]
        fits = more == 0 or before >= more or self.mode != "enforce"
        assert verdict == ("ok" if fits else "refused")
        self.holds[number] += more if fits else 0
        self.notes[number] = charge
        (self.overdue.add if dies else self.overdue.discard)(number)
        assert facts == [self.holds[number], before - (more if fits else 0)]

    @rule(number=NUMBERS, charge=CHARGES, lost=st.booleans())
    def settle(self, number: int, charge: int, lost: bool) -> None:
        (verdict, *_) = self.account.settle(number, charge, lost=lost)
        assert verdict == ("known" if self._waits(number, lost) else "ok")
        self._close(number)
        if verdict == "ok":
            self._report(number, charge, lost)

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
            waits = self._waits(number, lost=True)
            charge = self.notes[number]
            self._close(number)
            if not waits:
                self._report(number, charge, lost=True)

    @precondition(lambda self: self.charged)
    @rule(data=st.data())
    def post(self, data: st.DataObject) -> None:
        """One transaction: some of what was reported is booked, once each; Redis is not told yet."""
        records = data.draw(st.lists(st.sampled_from(sorted(self.charged)), unique=True, min_size=1))
        for record in records:
            self._book(record)
        self._say(records)

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
        for record in sorted(self.charged):
            self._book(record)
            self._say([record])
        for back in reversed(range(len(self.words))):
            self.tell(back)
        state = self.account.state()
        assert (state.balance, state.waiting) == (self.balance, {})
        assert state.spendable == self.balance - sum(self.holds.values())

    def _book(self, record: tuple[int, bool]) -> None:
        number, lost = record
        charge = self.charged.pop(record)
        was_lost, was = self.booked.get(number, (True, 0))
        if number not in self.booked or (was_lost and not lost):
            self.booked[number] = (lost, charge)
            self.balance += was - charge
            self.seq += 1

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
        """Spendable is never above the books, less what they will yet take for what is reported, less what is held."""
        if self.told_seq < 0:
            return
        unbooked = 0
        for number in {number for number, _ in self.charged}:
            was_lost, was = self.booked.get(number, (True, 0))
            true = self.charged.get((number, False))
            if was_lost and true is not None:
                unbooked += true - was
            elif number not in self.booked:
                unbooked += self.charged[number, True]
        late_grants_included = self.balance - unbooked - sum(self.holds.values())
        assert self.account.state().spendable <= late_grants_included

    @invariant()
    def everything_reported_is_on_the_stream(self) -> None:
        reported = self.account.reported()
        assert len(reported) == self.reports
        assert {message.event_id for message in reported if isinstance(message, UsageEvent)} == {
            event_of(number) for number in self.booked.keys() | {number for number, _ in self.charged}
        }

    def _say(self, records: list[tuple[int, bool]]) -> None:
        posted = " ".join(f"{number}/lost" if lost else str(number) for number, lost in records)
        self.words.append((self.balance, self.seq, posted))

    def _waits(self, number: int, lost: bool) -> bool:
        """A record like this is unposted: for a lost one the true one will do."""
        waiting = self._waiting_before
        return name(number) in waiting or (lost and field(f"{number}/lost") in waiting)

    def _close(self, number: int) -> None:
        self.holds.pop(number, None)
        self.notes.pop(number, None)

    def _report(self, number: int, charge: int, lost: bool) -> None:
        self.reports += 1
        self.charged.setdefault((number, lost), charge)


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
