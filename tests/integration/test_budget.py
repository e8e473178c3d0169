"""Holds on a real Redis, through the gateway's own link: reserved, extended, and never lost on the way."""

import asyncio
from typing import Any

import pytest

from gateway.budget import Budget, ExhaustedError, Hold, PlanDiffersError
from gateway.redis_link import RedisLink
from shared import events
from shared.events import AccountSeen
from tests.harness.budget_fixtures import ana, booked, budget, closed_as, link, proxy, reserve, server
from tests.harness.calls import BOUNDS, call, draft, rates, refused
from tests.harness.hold_scripts import HoldScripts
from tests.harness.proxy import Proxy
from tests.harness.waiting import until

__all__ = ["ana", "budget", "link", "proxy", "server"]

pytestmark = pytest.mark.integration


def scripts_run(ana: HoldScripts) -> int:
    """By their digests, as the gateway's link does, since Redis began."""
    told: dict[str, Any] = ana.client.info("commandstats")
    return int(told.get("cmdstat_evalsha", {"calls": 0})["calls"])


# Reserve ----------------------------------------------------------------------------------------------------------


async def test_a_hold_is_what_redis_says(budget: Budget, ana: HoldScripts) -> None:
    """Held, running, and in Redis with the draft that would be booked if this process died."""
    hold = await reserve(budget)
    state = ana.state()
    assert (hold.held_mc, hold.mode, state.held) == (100, "enforce", 100)
    assert state.holds[str(hold.call.event_id)][2] == events.encode(hold.draft)
    assert budget.running == {hold.call.event_text: hold}
    assert budget.running
    assert hold.output_tokens == (100 - BOUNDS.input_mc) * BOUNDS.full_tokens // (BOUNDS.full_mc - BOUNDS.input_mc)
    budget.void(hold)


async def test_a_user_seen_for_the_first_time_is_announced_with_names(budget: Budget, ana: HoldScripts) -> None:
    """The allowance of the key's plan, once, and who it is for. It takes a round trip more, of this one call."""
    zoe = HoldScripts(ana.client, "zoe")
    zoe.open()
    holds, run = [], [scripts_run(ana)]
    for _ in range(2):
        holds.append(await reserve(budget, call("zoe")))
        run.append(scripts_run(ana))
    assert (run[1] - run[0], run[2] - run[1]) == (2, 1)
    (seen,) = [message for message in zoe.reported() if isinstance(message, AccountSeen)]
    assert (seen.external_id, seen.plan, seen.allowance_mc) == ("zoe", "default", 500)
    assert zoe.state().spendable == 300
    for hold in holds:
        budget.void(hold)


async def test_a_personal_keys_account_must_exist(budget: Budget, ana: HoldScripts) -> None:
    """It has no user to announce: `unknown_account`."""
    of = call("")
    HoldScripts(ana.client, "own").open()
    with refused("unknown_account"):
        await reserve(budget, of)
    assert budget.running == {}


async def test_what_holds_nothing_looks_at_the_account(budget: Budget, ana: HoldScripts) -> None:
    """A blocked account is refused, one below its floor or never seen is not; without an epoch nobody knows."""
    ana.told(-5)
    of = call("ana").caller
    await budget.refuse_blocked(of)
    HoldScripts(ana.client, "never seen").open()
    await budget.refuse_blocked(call("never seen").caller)
    ana.told(1_000, revision=2, status="blocked")
    with refused("account_blocked"):
        await budget.refuse_blocked(of)
    ana.client.delete(ana.keys["epoch"])
    with refused("not_ready"):
        await budget.refuse_blocked(of)


async def test_every_refusal_of_redis_is_the_right_one(budget: Budget, ana: HoldScripts) -> None:
    """Blocked, exhausted with what is left, closed, and full: and none leaves a hold."""
    ana.told(1_000, revision=2, status="blocked")
    with refused("account_blocked"):
        await reserve(budget)
    ana.told(9, seq=2, revision=3)
    with pytest.raises(ExhaustedError) as short:
        await reserve(budget)
    assert short.value.spendable_mc == 9
    ana.client.delete(ana.keys["epoch"])
    with refused("not_ready"):
        await reserve(budget)
    ana.open()
    for number in range(100):
        ana.settle(number, 0)
    with refused("not_ready"):
        await reserve(budget)
    assert (budget.running, ana.state().held) == ({}, 0)
    assert not budget.running


async def test_an_accounts_own_plan_is_learnt(budget: Budget, ana: HoldScripts) -> None:
    """Told once by an error, known from then on, and forgotten for nobody else."""
    ana.told(1_000, revision=2, plan="gold")
    of = call()
    with pytest.raises(PlanDiffersError) as other:
        await reserve(budget, of)
    assert other.value.plan == "gold"
    assert budget.plan_of(of.caller) == "gold"
    assert budget.plan_of(call("zoe").caller) == "default"
    budget.void(await reserve(budget, of.repriced(rates(plan="gold"), 10)))


async def test_a_plan_is_asked_for_and_forgotten_where_it_is_the_keys_again(budget: Budget, ana: HoldScripts) -> None:
    """An account that nobody has seen has none; while Redis is away nobody knows."""
    of = call().caller
    stranger = call("zoe").caller
    HoldScripts(ana.client, "zoe").open()
    assert not await budget.learn_plan(stranger)
    ana.told(1_000, revision=2, plan="gold")
    assert await budget.learn_plan(of)
    assert budget.plan_of(of) == "gold"
    assert not await budget.learn_plan(of)
    ana.told(1_000, revision=3, plan="default")
    assert await budget.learn_plan(of)
    assert budget.plan_of(of) == "default"
    ana.told(1_000, revision=4, plan="gold")
    with pytest.raises(PlanDiffersError):
        await reserve(budget)
    ana.told(1_000, revision=5, plan="default")
    with pytest.raises(PlanDiffersError):
        await reserve(budget, call().repriced(rates(plan="gold"), 10))
    assert budget.plan_of(of) == "default"


async def test_fifty_parallel_calls_with_credit_for_three(budget: Budget, ana: HoldScripts) -> None:
    """On one connection, in one write: three run."""
    ana.told(300, seq=2)
    answers = await asyncio.gather(*(reserve(budget) for _ in range(50)), return_exceptions=True)
    holds = [answer for answer in answers if isinstance(answer, Hold)]
    assert len(holds) == 3
    assert sum(isinstance(answer, ExhaustedError) for answer in answers) == 47
    for hold in holds:
        budget.void(hold)


async def test_a_call_that_is_cancelled_while_it_reserves_gives_back(
    budget: Budget, ana: HoldScripts, proxy: Proxy
) -> None:
    """The client left before the answer came: the hold is voided, nothing runs, nothing is booked."""
    proxy.stall()
    reserving = asyncio.create_task(reserve(budget))
    await until(lambda: ana.state().held == 100)
    reserving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reserving
    proxy.flow()
    await until(lambda: len(budget.closed) == 0)
    assert ana.state().holds == {}
    assert booked(ana) == []
    assert not budget.running


async def test_a_hold_whose_answer_was_lost_is_given_back(budget: Budget, ana: HoldScripts, proxy: Proxy) -> None:
    """Redis made it and the connection broke: the caller is refused, and the credit is free again afterwards."""
    proxy.stall()
    with refused("not_ready"):
        await reserve(budget)
    assert ana.state().held == 100
    proxy.flow()
    await until(lambda: len(budget.closed) == 0)
    assert ana.state().holds == {}
    assert booked(ana) == []


# Extend -----------------------------------------------------------------------------------------------------------


async def test_a_hold_grows_and_notes_its_draft(budget: Budget, ana: HoldScripts) -> None:
    """More while there is credit; refused when there is none, and the note is taken either way."""
    hold = await reserve(budget)
    for more, granted, held in ((800, True, 900), (101, False, 900), (100, True, 1_000)):
        hold.draft = draft(hold.call, charge_mc=held)
        assert await budget.extend(hold, more) is granted
        assert hold.held_mc == held
        assert ana.state().holds[str(hold.call.event_id)][:2] == (held, held)
    budget.void(hold)


async def test_a_running_stream_is_not_stopped_because_redis_is_away(
    budget: Budget, link: RedisLink, proxy: Proxy
) -> None:
    """Late, lost or not connected: the answer is yes, and the stream goes on."""
    hold = await reserve(budget)
    proxy.stall()
    assert await budget.extend(hold, 100)
    assert not link.ready
    assert await budget.extend(hold, 100)
    proxy.flow()
    await until(lambda: link.ready)
    budget.void(hold)


async def test_a_hold_that_redis_has_forgotten_is_made_again(budget: Budget, ana: HoldScripts) -> None:
    """Expired or flushed: the call runs on, others see its hold, and its usage is booked; not where it is closing."""
    hold = await reserve(budget)
    ana.forget(str(hold.call.event_id))
    assert await budget.extend(hold, 100)
    assert (hold.held_mc, ana.state().held) == (200, 200)
    ana.forget(str(hold.call.event_id))
    hold.closing = True
    assert await budget.extend(hold, 100)
    assert ana.state().held == 0
    budget.settle(hold, closed_as(hold, 70))
    await until(lambda: len(budget.closed) == 0)
    assert booked(ana) == [(hold.call.event_id, 70)]


async def test_open_holds_are_kept_alive(link: RedisLink, ana: HoldScripts) -> None:
    """Renewed three times within their time to live, through a break of the connection too; closed ones are not."""
    tasks: list[Any] = []
    budget = Budget(link, ttl_s=1, stream_entries_max=100, spawn=lambda work: tasks.append(asyncio.ensure_future(work)))
    open_one, closed_one = await reserve(budget), await reserve(budget)
    budget.void(closed_one)
    await until(lambda: len(budget.closed) == 0)
    keeping = asyncio.create_task(budget.keep_alive())
    event_id = str(open_one.call.event_id)

    def renewed() -> bool:
        return ana.state().deadlines[event_id] > 1

    for _ in range(2):
        ana.client.zadd(ana.keys["deadlines"], {f"{ana.account_id}/{event_id}": 1})
        await until(renewed)
        wire: Any = link._wire
        wire.drop("by the test")
    await until(lambda: link.ready)
    assert ana.state().deadlines.keys() == {event_id}
    keeping.cancel()
    budget.void(open_one)
    await until(lambda: len(budget.closed) == 0)
