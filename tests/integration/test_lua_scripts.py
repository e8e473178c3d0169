"""The scripts that extend, settle and expire holds, on every Redis that is here: each answer, and what it leaves."""

import pytest
import redis

from shared import scripts
from shared.events import UsageEvent
from shared.units import MC_MAX
from tests.harness.calls import event_of
from tests.harness.hold_fixtures import ana, server, settled
from tests.harness.hold_scripts import HoldScripts, name
from tests.harness.redis_versions import RedisProgram

pytestmark = pytest.mark.integration

__all__ = ["ana", "server"]

GONE = -1
"""A time to live that is over at once."""


# Extend -----------------------------------------------------------------------------------------------------------


def test_a_hold_grows_as_long_as_the_credit_lasts(ana: HoldScripts) -> None:
    """All or nothing: an extension that does not fit changes no amount, but its note is taken."""
    ana.reserve(1)
    assert ana.extend(1, 800, charge=90) == ["ok", 900, 100]
    assert ana.extend(1, 101, charge=800) == ["refused", 900, 100]
    assert settled(ana).holds[name(1)] == (900, 800, ana.event(1, 800))
    assert ana.extend(1, 100, charge=850) == ["ok", 1_000, 0]
    assert settled(ana).spendable == 0


def test_keeping_alive_moves_the_deadline_and_no_credit(ana: HoldScripts) -> None:
    """More of 0: the deadline is that of now, even where nothing is left to spend."""
    ana.reserve(1, 1_000, 1_000, 1_000, ttl_s=GONE)
    before = settled(ana).deadlines[name(1)]
    assert ana.extend(1, 0) == ["ok", 1_000, 0]
    state = settled(ana)
    assert state.deadlines[name(1)] >= before + 60
    assert state.held == 1_000


def test_a_hold_that_is_gone_is_not_made_again(ana: HoldScripts) -> None:
    """Expired, settled, or forgotten by Redis: told, and nothing is written."""
    before = ana.state()
    assert ana.extend(1, 100, charge=5) == ["gone"]
    assert ana.state() == before


# Settle and void --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("charge", [0, 1, 99, 100, 5_000, MC_MAX - 1_000])
def test_settling_releases_counts_and_reports_in_one_step(ana: HoldScripts, charge: int) -> None:
    """The hold is gone, its charge counts as unposted, the event is on the stream: whatever was held, and for nothing
    too."""
    ana.reserve(1)
    answer = ana.settle(1, charge)
    assert answer[0] == "ok"
    state = settled(ana)
    assert (state.held, state.unposted, state.holds, state.waiting) == (0, charge, {}, {name(1): charge})
    (event,) = ana.reported()
    assert isinstance(event, UsageEvent)
    assert (event.event_id, event.charge_mc) == (event_of(1), charge)


def test_while_unposted_a_repeat_is_known(ana: HoldScripts) -> None:
    """Settled again before the meter has booked it: nothing changes."""
    ana.reserve(1)
    ana.settle(1, 50)
    before = ana.state()
    assert ana.settle(1, 50) == ["known"]
    assert ana.state() == before
    assert len(ana.reported()) == 1


def test_after_the_meter_has_booked_it_a_repeat_is_reported_again(ana: HoldScripts) -> None:
    """The meter knows events by their id; until it has said so again, the customer sees less, never more."""
    ana.reserve(1)
    ana.settle(1, 50)
    assert ana.told(950, seq=2, posted="1") == 1
    assert settled(ana).spendable == 950
    assert ana.settle(1, 50)[0] == "ok"
    assert settled(ana).spendable == 900
    assert len(ana.reported()) == 2
    assert ana.told(950, seq=2, posted="1") == 1
    assert settled(ana).spendable == 950


def test_an_event_without_a_hold_is_counted_all_the_same(ana: HoldScripts) -> None:
    """A journal's record after Redis has forgotten: facts are never refused, even below the floor."""
    assert ana.settle(1, 3_000)[0] == "ok"
    assert settled(ana).spendable == -2_000
    assert ana.reserve(2) == ["exhausted", -2_000, 1_000]


@pytest.mark.parametrize("amount", [0, 1, 100])
def test_a_void_gives_all_back_and_reports_nothing(ana: HoldScripts, amount: int) -> None:
    """The call came to nothing; a repeat, and a void of what never was, change nothing."""
    before = ana.state()
    assert ana.reserve(1, amount, amount, amount)[0] == "ok"
    assert [ana.void(1), ana.void(1), ana.void(2)] == [["void"]] * 3
    after = settled(ana)
    assert (after.held, after.spendable, after.holds) == (0, before.spendable, {})
    assert ana.reported() == []


def test_holds_of_one_account_are_released_each_by_itself(ana: HoldScripts) -> None:
    """Three calls, closed in another order than opened."""
    for number in (1, 2, 3):
        ana.reserve(number)
    ana.extend(2, 50)
    ana.settle(2, 7)
    assert settled(ana).held == 200
    ana.void(3)
    ana.settle(1, 8)
    state = settled(ana)
    assert (state.held, state.unposted) == (0, 15)


# Expire -----------------------------------------------------------------------------------------------------------


def test_a_hold_past_its_deadline_is_charged_at_its_last_note(ana: HoldScripts) -> None:
    """What had streamed by then is booked by the event that was noted, once."""
    ana.reserve(1)
    ana.extend(1, 50, charge=30, ttl_s=GONE)
    assert ana.expire(1) == ["expired", 30]
    state = settled(ana)
    assert (state.held, state.unposted) == (0, 30)
    (event,) = ana.reported()
    assert isinstance(event, UsageEvent)
    assert (event.event_id, event.charge_mc) == (event_of(1), 30)
    assert ana.expire(1) == ["gone"]
    assert len(ana.reported()) == 1


@pytest.mark.parametrize("amount", [0, 100])
def test_a_hold_without_a_note_is_closed_at_nothing(ana: HoldScripts, amount: int) -> None:
    """The gateway died before a byte came: released, listed, charged nothing; a hold of nothing too."""
    ana.reserve(1, amount, amount, amount, ttl_s=GONE)
    assert ana.expire(1) == ["expired", 0]
    assert settled(ana).spendable == 1_000
    assert len(ana.reported()) == 1
    assert ana.told(1_000, seq=1, posted="1/lost") == 1
    assert settled(ana).waiting == {}


def test_what_is_unposted_already_is_not_reported_by_its_expiry(ana: HoldScripts) -> None:
    """A hold made again for an event that was settled: released, and nothing is counted or reported twice."""
    ana.reserve(1)
    ana.settle(1, 40)
    ana.reserve(1, ttl_s=GONE)
    ana.extend(1, 0, charge=70, ttl_s=GONE)
    assert ana.expire(1)[0] == "expired"
    state = settled(ana)
    assert (state.held, state.unposted) == (0, 40)
    assert len(ana.reported()) == 1


def test_a_hold_that_was_heard_of_is_alive(ana: HoldScripts) -> None:
    """The reaper may have seen an old deadline: what counts is the present one."""
    ana.reserve(1, ttl_s=GONE)
    ana.extend(1, 0)
    before = ana.state()
    assert ana.expire(1) == ["alive"]
    assert ana.state() == before


def test_a_hold_that_was_settled_cannot_expire(ana: HoldScripts) -> None:
    """Settled while the reaper was on its way."""
    ana.reserve(1, ttl_s=GONE)
    ana.settle(1, 40)
    assert ana.expire(1) == ["gone"]
    assert settled(ana).unposted == 40


def test_a_deadline_without_a_hold_is_swept_away(ana: HoldScripts) -> None:
    """What only the set of deadlines remembers is dropped, and nothing is booked."""
    ana.client.zadd(ana.keys["deadlines"], {f"{ana.account_id}/{name(9)}": 1})
    assert ana.expire(9) == ["gone"]
    assert settled(ana).deadlines == {}
    assert ana.reported() == []


# Apply ------------------------------------------------------------------------------------------------------------


def test_an_older_balance_never_replaces_a_newer_one(ana: HoldScripts) -> None:
    """The meter's word may come late and out of order: the higher seq counts, and equal ones are the same."""
    ana.told(700, seq=5)
    ana.told(900, seq=4)
    assert ana.state().balance == 700
    ana.told(700, seq=5)
    ana.told(600, seq=6)
    assert ana.state().balance == 600


def test_an_older_revision_never_replaces_a_newer_one(ana: HoldScripts) -> None:
    """Status, plan, mode and floor have an order of their own, apart from the balance's."""
    ana.told(1_000, seq=1, revision=7, floor=-50, status="blocked", plan="gold", mode="warn")
    ana.told(500, seq=9, revision=6)
    state = ana.state()
    assert (state.balance, state.floor) == (500, -50)
    assert (state.fields["status"], state.fields["plan"], state.fields["mode"]) == ("blocked", "gold", "warn")


def test_posted_events_are_dropped_once(ana: HoldScripts) -> None:
    """Each event leaves `unposted` with its own charge; a repeat, and events that were never there, drop nothing."""
    for number, charge in ((1, 50), (2, 0), (3, 70)):
        ana.reserve(number)
        ana.settle(number, charge)
    assert ana.told(950, seq=2, posted="1 2 8") == 2
    state = settled(ana)
    assert (state.balance, state.waiting) == (950, {name(3): 70})
    assert ana.told(950, seq=2, posted="1 2 8") == 0
    assert settled(ana) == state


def test_a_late_apply_still_drops_what_is_posted(ana: HoldScripts) -> None:
    """Its balance is old, but what it says is posted, is."""
    ana.reserve(1)
    ana.settle(1, 50)
    ana.told(400, seq=9)
    assert ana.told(950, seq=2, posted="1") == 1
    state = settled(ana)
    assert (state.balance, state.unposted) == (400, 0)


def test_many_events_are_dropped_by_one_apply(ana: HoldScripts) -> None:
    """A whole batch of one account, more than Lua could unpack at once."""
    for number in range(1_500):
        ana.settle(number, number)
    assert ana.told(0, seq=2, posted=" ".join(map(str, range(1_500)))) == 1_500
    assert settled(ana).unposted == 0


# All together -----------------------------------------------------------------------------------------------------


def test_amounts_are_exact_up_to_the_largest(ana: HoldScripts) -> None:
    """2^53 − 1 millicredits are held, extended, settled and dropped to the last one."""
    ana.told(MC_MAX, seq=2)
    assert ana.reserve(1, MC_MAX - 1, MC_MAX - 1, 1) == ["ok", MC_MAX - 1, 1, "enforce"]
    assert ana.extend(1, 1) == ["ok", MC_MAX, 0]
    assert settled(ana).held == MC_MAX
    ana.settle(1, MC_MAX)
    assert settled(ana).spendable == 0
    ana.told(0, seq=3, posted="1")
    assert settled(ana).unposted == 0


@pytest.mark.parametrize("script", ["reserve", "extend", "settle", "expire", "apply"])
def test_every_script_is_what_its_server_takes(server: RedisProgram, ana: HoldScripts, script: str) -> None:
    """Script flags from Redis 7 on, none before; the SHA-1 is the one that the server computes."""
    major = int(ana.client.info("server")["redis_version"].split(".")[0])
    loaded = scripts.load(script, major)
    assert ana.client.execute_command("SCRIPT LOAD", loaded.text) in (loaded.sha1, loaded.sha1.encode())
    declares = script in ("settle", "expire", "apply")
    assert loaded.text.startswith("#!lua flags=allow-oom\n") is (declares and major >= 7)


def test_when_memory_is_full_only_what_was_used_is_taken(server: RedisProgram, ana: HoldScripts) -> None:
    """Reserving is refused by Redis; from version 7 on settling, expiring and applying still work."""
    if int(ana.client.info("server")["redis_version"].split(".")[0]) < 7:
        pytest.skip("script flags came with Redis 7")
    ana.reserve(1)
    ana.reserve(2, ttl_s=GONE)
    ana.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            ana.reserve(3)
        assert ana.settle(1, 5)[0] == "ok"
        assert ana.expire(2)[0] == "expired"
        assert ana.told(995, seq=2, posted="1 2/lost") == 2
    finally:
        ana.client.config_set("maxmemory", 0)
    assert settled(ana).spendable == 995
