"""The scripts that move credit, on every Redis that this machine has: each answer, and what it leaves behind."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from shared import scripts
from shared.events import AccountSeen, UsageEvent
from shared.units import MC_MAX
from tests.harness.calls import event_of
from tests.harness.hold_fixtures import ana, server, settled
from tests.harness.hold_scripts import ALLOWANCE_MC, HoldScripts, name
from tests.harness.redis_versions import RedisProgram

pytestmark = pytest.mark.integration

__all__ = ["ana", "server"]

GONE = -1
"""A time to live that is over at once."""


# Reserve: refusals ------------------------------------------------------------------------------------------------


def test_without_an_epoch_admission_is_closed(ana: HoldScripts) -> None:
    """Redis may have forgotten: nobody is admitted, nobody is created."""
    ana.client.delete(ana.keys["epoch"])
    before = ana.state()
    assert ana.reserve(1) == ["closed"]
    assert ana.reserve(2, newcomer=True) == ["closed"]
    assert ana.state() == before


def test_at_the_streams_cap_admission_is_closed(ana: HoldScripts) -> None:
    """What the meter does not read may not grow without bound."""
    ana.reserve(1)
    ana.settle(1, 5)
    assert ana.reserve(2, cap=1) == ["stream_full"]
    assert ana.reserve(2, cap=2)[0] == "ok"


def test_an_unknown_account_is_refused_unless_it_is_announced(server: RedisProgram, ana: HoldScripts) -> None:
    """A personal key's account must exist already."""
    stranger = HoldScripts(ana.client, "stranger")
    stranger.open()
    assert stranger.reserve(1) == ["unknown"]
    assert stranger.state().fields == {}


@pytest.mark.parametrize("status", ["blocked", "closed"])
def test_an_account_that_is_not_active_is_refused(ana: HoldScripts, status: str) -> None:
    """The status is told; nothing is held."""
    ana.told(1_000, revision=2, status=status)
    assert ana.reserve(1) == ["blocked", status]
    assert settled(ana).holds == {}


def test_an_account_on_another_plan_is_priced_again(ana: HoldScripts) -> None:
    """The plan's name is told, and the repeat with it succeeds."""
    ana.told(1_000, revision=2, plan="gold")
    assert ana.reserve(1) == ["plan", "gold"]
    assert settled(ana).holds == {}
    assert ana.reserve(1, plan="gold")[0] == "ok"


def test_what_the_credit_does_not_cover_is_refused_with_the_balance(ana: HoldScripts) -> None:
    """Spendable and balance are told; nothing is held."""
    assert ana.reserve(1, full=5_000, slice_=5_000, least=1_001) == ["exhausted", 1_000, 1_000]
    assert ana.reserve(2, full=900, slice_=900, least=900)[0] == "ok"
    assert ana.reserve(3, full=200, slice_=200, least=101) == ["exhausted", 100, 1_000]
    assert settled(ana).held == 900


# Reserve: amounts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("balance", "full", "slice_", "least", "held"),
    [
        (1_000, 250, 100, 10, 250),
        (999, 250, 100, 10, 100),
        (1_000, 100, 100, 10, 100),
        (100, 250, 100, 10, 100),
        (99, 250, 100, 10, 99),
        (10, 250, 100, 10, 10),
        (9, 250, 100, 10, None),
        (0, 250, 100, 10, None),
        (0, 0, 0, 0, 0),
        (-5, 0, 0, 0, 0),
        (-5, 250, 100, 0, None),
        (1, 250, 100, 0, 1),
        (MC_MAX, MC_MAX // 4, 100, 10, MC_MAX // 4),
    ],
)
def test_full_else_a_slice_else_what_is_left(
    ana: HoldScripts, balance: int, full: int, slice_: int, least: int, held: int | None
) -> None:
    """Full where it is covered four times, a slice where that is covered, the rest down to the least, else nothing."""
    ana.told(balance, seq=2)
    answer = ana.reserve(1, full, slice_, least)
    if held is None:
        assert answer == ["exhausted", balance, balance]
        assert settled(ana).held == 0
    else:
        assert answer == ["ok", held, balance - held, "enforce"]
        assert settled(ana).held == held


def test_the_floor_is_not_spendable(ana: HoldScripts) -> None:
    """A negative floor lends, a positive one is kept back."""
    ana.told(1_000, revision=2, floor=950)
    assert ana.reserve(1) == ["ok", 50, 0, "enforce"]
    ana.told(1_000, revision=3, floor=-40)
    assert ana.reserve(2, 990, 990, 990) == ["ok", 990, 0, "enforce"]
    assert ana.reserve(3) == ["exhausted", 0, 1_000]


@pytest.mark.parametrize("mode", ["shadow", "warn"])
def test_where_nothing_is_enforced_nobody_is_refused(ana: HoldScripts, mode: str) -> None:
    """A slice is held, far below the floor if need be, and the mode is told."""
    ana.told(5, seq=2, revision=2, mode=mode)
    assert ana.reserve(1) == ["ok", 100, -95, mode]
    assert ana.extend(1, 500) == ["ok", 600, -595]
    assert settled(ana).held == 600


def test_a_repeat_of_a_reservation_holds_nothing_more(ana: HoldScripts) -> None:
    """The same event id: the same answer, one hold."""
    first = ana.reserve(1)
    assert ana.reserve(1) == first
    assert ana.reserve(1, full=500, slice_=400) == first
    assert settled(ana).held == 100


@pytest.mark.parametrize("calls", [50])
def test_parallel_calls_never_go_below_the_floor(server: RedisProgram, ana: HoldScripts, calls: int) -> None:
    """Credit for three slices, fifty calls at once on connections of their own: three run, the others are refused."""
    ana.told(300, seq=2)

    def reserve(number: int) -> Any:
        with redis.Redis.from_url(server.url()) as client:
            return HoldScripts(client).reserve(number, full=100, slice_=100, least=100)[0]

    with ThreadPoolExecutor(calls) as pool:
        verdicts = list(pool.map(reserve, range(calls)))
    assert (verdicts.count("ok"), verdicts.count("exhausted")) == (3, calls - 3)
    assert settled(ana).spendable == 0


# The first sight of a user ----------------------------------------------------------------------------------------


def test_a_user_seen_for_the_first_time_is_created_once(ana: HoldScripts) -> None:
    """The plan's allowance is lent, one AccountSeen is reported, and the call holds from it."""
    zoe = HoldScripts(ana.client, "zoe")
    zoe.open()
    assert zoe.reserve(1, newcomer=True) == ["ok", 100, ALLOWANCE_MC - 100, "enforce"]
    assert zoe.reserve(2, newcomer=True) == ["ok", 100, ALLOWANCE_MC - 200, "enforce"]
    announced = [message for message in zoe.reported() if isinstance(message, AccountSeen)]
    assert [(message.external_id, message.allowance_mc) for message in announced] == [("zoe", ALLOWANCE_MC)]
    assert zoe.state().fields == {
        "balance": str(ALLOWANCE_MC),
        "seq": "0",
        "revision": "0",
        "announced": "1",
        "floor": "0",
        "status": "active",
        "plan": "default",
        "mode": "enforce",
        "held": "200",
    }


def test_the_meters_word_replaces_what_was_lent(ana: HoldScripts) -> None:
    """The booked balance is not added to the provisional one; the hold stays."""
    zoe = HoldScripts(ana.client, "zoe")
    zoe.open()
    zoe.reserve(1, newcomer=True)
    zoe.told(777, seq=1, plan="gold")
    state = settled(zoe)
    assert (state.balance, state.held, state.fields["plan"]) == (777, 100, "gold")


def test_an_account_that_exists_is_not_announced(ana: HoldScripts) -> None:
    """A known user's allowance is not lent again."""
    ana.reserve(1, newcomer=True)
    assert ana.reported() == []
    assert settled(ana).balance == 1_000


def test_a_newcomer_without_an_allowance_is_created_and_refused(ana: HoldScripts) -> None:
    """The account exists from then on, so that a grant can be given to it."""
    zoe = HoldScripts(ana.client, "zoe")
    zoe.open()
    assert zoe.reserve(1, newcomer=True, allowance=0) == ["exhausted", 0, 0]
    assert len(zoe.reported()) == 1
    assert zoe.state().balance == 0


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
    assert ana.reserve(1, MC_MAX, MC_MAX - 1, 1) == ["ok", MC_MAX - 1, 1, "enforce"]
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


def test_a_user_known_by_usage_alone_is_announced(ana: HoldScripts) -> None:
    """Redis forgot the announcement, and a journal brought the usage: the next call announces and lends, once."""
    zoe = HoldScripts(ana.client, "zoe")
    zoe.open()
    zoe.told(-30, seq=1, revision=0)
    for number in (1, 2):
        assert zoe.reserve(number, newcomer=True)[0] == "ok"
    assert [type(message) for message in zoe.reported()] == [AccountSeen]
    assert zoe.state().balance == ALLOWANCE_MC - 30
