"""The script that holds credit, on every Redis that this machine has: each answer, and what it leaves behind."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from shared.events import AccountSeen
from shared.units import MC_MAX
from tests.harness.hold_fixtures import ana, server, settled
from tests.harness.hold_scripts import ALLOWANCE_MC, HoldScripts
from tests.harness.redis_versions import RedisProgram

pytestmark = pytest.mark.integration

__all__ = ["ana", "server"]


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
        (999, 250, 100, 10, 249),
        (404, 250, 100, 10, 101),
        (403, 250, 100, 10, 100),
        (1_000, 100, 100, 10, 100),
        (190, 250, 100, 10, 100),
        (189, 250, 100, 10, 100),
        (188, 250, 100, 10, 99),
        (100, 250, 100, 10, 55),
        (99, 250, 100, 90, 95),
        (100, 100, 100, 10, 100),
        (99, 100, 100, 10, 99),
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
def test_full_else_a_quarter_else_a_slice_else_what_is_left(
    ana: HoldScripts, balance: int, full: int, slice_: int, least: int, held: int | None
) -> None:
    """Full where it is covered four times, else a quarter of the credit, but at least a slice where half of the credit
    covers that, else half of the rest beyond the least (all of it, of an answer that can be extended), else nothing."""
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


def test_a_user_known_by_usage_alone_is_announced(ana: HoldScripts) -> None:
    """Redis forgot the announcement, and a journal brought the usage: the next call announces and lends, once."""
    zoe = HoldScripts(ana.client, "zoe")
    zoe.open()
    zoe.told(-30, seq=1, revision=0)
    for number in (1, 2):
        assert zoe.reserve(number, newcomer=True)[0] == "ok"
    assert [type(message) for message in zoe.reported()] == [AccountSeen]
    assert zoe.state().balance == ALLOWANCE_MC - 30


@pytest.mark.parametrize("known", ["never seen", "by usage alone"])
def test_an_announcement_is_asked_for_where_it_is_needed(ana: HoldScripts, known: str) -> None:
    """Nothing changes until it comes; who has been announced, or whom the meter knows, needs none."""
    zoe = HoldScripts(ana.client, "zoe")
    zoe.open()
    if known == "by usage alone":
        zoe.told(-30, seq=1, revision=0)
    before = zoe.state().fields
    assert zoe.reserve(1, may_announce=True) == ["announce"]
    assert (zoe.state().fields, zoe.reported()) == (before, [])
    assert zoe.reserve(1, newcomer=True)[0] == "ok"
    assert zoe.reserve(2, may_announce=True)[0] == "ok"
    assert ana.reserve(1, may_announce=True)[0] == "ok"
    assert [type(message) for message in zoe.reported()] == [AccountSeen]
    assert ana.reported() == []
