"""Holds on a real Redis, through the gateway's own link: reserved, extended, closed once, and never lost on the way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from gateway import redis_link, settling
from gateway.admission import Call
from gateway.budget import Budget, ExhaustedError, Hold, PlanDiffersError
from gateway.redis_link import RedisLink
from shared import events
from shared.events import AccountSeen, UsageEvent
from tests.harness.calls import BOUNDS, call, draft, rates, refused
from tests.harness.hold_fixtures import ana
from tests.harness.hold_scripts import HoldScripts
from tests.harness.proxy import Proxy
from tests.harness.redis_versions import RedisProgram, programs, running
from tests.harness.waiting import until

__all__ = ["ana"]

pytestmark = pytest.mark.integration

TTL_S = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProgram]:
    with running(min(programs()), tmp_path_factory.mktemp("redis"), appendonly="no") as started:
        yield started


@pytest.fixture
async def proxy(server: RedisProgram) -> AsyncIterator[Proxy]:
    async with Proxy(server.port).listening() as started:
        yield started


@pytest.fixture
async def link(server: RedisProgram, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisLink]:
    monkeypatch.setattr(redis_link, "ANSWER_S_MAX", 0.2)
    monkeypatch.setattr(settling, "SETTLE_RETRY_S", 0.02)
    made = RedisLink(f"redis://:{quote(server.password, safe='')}@127.0.0.1:{proxy.port}/0")
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def budget(link: RedisLink, ana: HoldScripts) -> AsyncIterator[Budget]:
    """At the end nothing is left unsettled, whatever the test did."""
    tasks: set[asyncio.Task[Any]] = set()

    def spawn(work: Awaitable[Any]) -> None:
        tasks.add(asyncio.ensure_future(work))

    made = Budget(link, ttl_s=TTL_S, stream_entries_max=100, spawn=spawn)
    yield made
    await asyncio.wait_for(made.closed.confirmed(), 10)
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert len(made.closed) == 0


async def reserve(budget: Budget, of: Call | None = None) -> Hold:
    of = of or call()
    return await budget.reserve(of, BOUNDS, draft(of), allowance_mc=500)


def closed_as(hold: Hold, charge_mc: int) -> UsageEvent:
    return draft(hold.call, charge_mc=charge_mc)


def booked(account: HoldScripts) -> list[tuple[Any, int]]:
    """Event id and charge of every usage event on the stream."""
    return [(one.event_id, one.charge_mc) for one in account.reported() if isinstance(one, UsageEvent)]


# Reserve ----------------------------------------------------------------------------------------------------------


async def test_a_hold_is_what_redis_says(budget: Budget, ana: HoldScripts) -> None:
    """Held, running, and in Redis with the draft that would be booked if this process died."""
    hold = await reserve(budget)
    state = ana.state()
    assert (hold.held_mc, hold.mode, state.held) == (100, "enforce", 100)
    assert state.holds[str(hold.call.event_id)][2] == events.encode(hold.draft)
    assert budget.running == {hold.call.event_id: hold}
    assert not budget.idle.is_set()
    assert hold.output_tokens == (100 - BOUNDS.input_mc) * BOUNDS.full_tokens // (BOUNDS.full_mc - BOUNDS.input_mc)
    budget.void(hold)


async def test_a_user_seen_for_the_first_time_is_announced_with_names(budget: Budget, ana: HoldScripts) -> None:
    """The allowance of the key's plan, once, and who it is for."""
    zoe = HoldScripts(ana.client, "zoe")
    zoe.open()
    holds = [await reserve(budget, call("zoe")) for _ in range(2)]
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
    assert budget.idle.is_set()


async def test_an_accounts_own_plan_is_learnt(budget: Budget, ana: HoldScripts) -> None:
    """Told once by an error, known from then on, and forgotten for nobody else."""
    ana.told(1_000, revision=2, plan="gold")
    of = call()
    with pytest.raises(PlanDiffersError) as other:
        await reserve(budget, of)
    assert other.value.plan == "gold"
    assert budget.plan_of("default", of.caller.account_id) == "gold"
    assert budget.plan_of("default", call("zoe").caller.account_id) == "default"
    budget.void(await reserve(budget, of.repriced(rates(plan="gold"), 10)))


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
    assert budget.idle.is_set()


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


# Close ------------------------------------------------------------------------------------------------------------


async def test_a_call_is_closed_once(budget: Budget, ana: HoldScripts) -> None:
    """Settled: released, counted, reported, nothing runs; closing it again is a fault of ours."""
    hold = await reserve(budget)
    budget.settle(hold, closed_as(hold, 70))
    assert budget.running == {}
    assert budget.idle.is_set()
    await until(lambda: len(budget.closed) == 0)
    state = ana.state()
    assert (state.held, state.unposted) == (0, 70)
    assert booked(ana) == [(hold.call.event_id, 70)]
    with pytest.raises(AssertionError, match="closed once"):
        budget.void(hold)
    with pytest.raises(AssertionError, match="closed once"):
        budget.settle(hold, closed_as(hold, 70))


async def test_a_voided_call_leaves_nothing(budget: Budget, ana: HoldScripts) -> None:
    """All is given back, nothing is reported."""
    hold = await reserve(budget)
    budget.void(hold)
    await until(lambda: len(budget.closed) == 0)
    assert ana.state().spendable == 1_000
    assert booked(ana) == []


async def test_idle_means_that_no_hold_is_open(budget: Budget) -> None:
    """Set again only with the last one."""
    holds = [await reserve(budget) for _ in range(3)]
    for hold in holds:
        assert not budget.idle.is_set()
        budget.void(hold)
    assert budget.idle.is_set()


@pytest.mark.parametrize("heard", [True, False], ids=["answer lost", "command lost"])
async def test_what_could_not_be_settled_is_settled_once_redis_is_back(
    budget: Budget, ana: HoldScripts, link: RedisLink, proxy: Proxy, heard: bool
) -> None:
    """Redis heard the command and its answer was lost, or never heard it: one entry each, released and counted once."""
    holds = [await reserve(budget) for _ in range(4)]
    real = proxy.target_port
    if heard:
        proxy.stall()
    else:
        proxy.target_port = 1
        proxy.cut()
        await until(lambda: not link.ready)
    for charge, hold in enumerate(holds[:3], start=10):
        budget.settle(hold, closed_as(hold, charge))
    budget.void(holds[3])
    await until(lambda: not link.ready)
    assert len(budget.closed) == 4
    assert budget.idle.is_set()

    proxy.target_port = real
    proxy.flow()
    await until(lambda: len(budget.closed) == 0)
    state = ana.state()
    assert (state.held, state.unposted) == (0, 33)
    assert sorted(booked(ana)) == sorted(
        (hold.call.event_id, charge) for charge, hold in enumerate(holds[:3], start=10)
    )


async def test_a_redis_that_is_full_gets_its_reports_later(budget: Budget, ana: HoldScripts) -> None:
    """An error for an answer (Redis 6 without memory) is retried as silence is."""
    if int(ana.client.info("server")["redis_version"].split(".")[0]) >= 7:
        pytest.skip("from Redis 7 on settling needs no memory to be left")
    hold = await reserve(budget)
    ana.client.config_set("maxmemory", 1)
    try:
        with refused("not_ready"):
            await reserve(budget)
        budget.settle(hold, closed_as(hold, 70))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(budget.closed) == 1
    finally:
        ana.client.config_set("maxmemory", 0)
    await until(lambda: len(budget.closed) == 0)
    assert booked(ana) == [(hold.call.event_id, 70)]


async def test_what_waits_for_redis_is_bounded(
    budget: Budget, ana: HoldScripts, link: RedisLink, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit the oldest is left to the journal; the newest are settled."""
    monkeypatch.setattr(settling, "UNSETTLED_MAX", 2)
    holds = [await reserve(budget) for _ in range(4)]
    real, proxy.target_port = proxy.target_port, 1
    proxy.cut()
    await until(lambda: not link.ready)
    for hold in holds:
        budget.settle(hold, closed_as(hold, 5))
    assert len(budget.closed) == 2
    await until(lambda: budget.closed._retrying)
    proxy.target_port = real
    await until(lambda: len(budget.closed) == 0)
    assert [event_id for event_id, _ in booked(ana)] == [hold.call.event_id for hold in holds[2:]]


async def test_what_a_journal_holds_may_be_reported_again(budget: Budget, ana: HoldScripts) -> None:
    """Harmless where it was reported before, and counted where it was not."""
    hold = await reserve(budget)
    event = closed_as(hold, 70)
    budget.settle(hold, event)
    await until(lambda: len(budget.closed) == 0)
    budget.closed.resettle(event)
    budget.closed.resettle(draft(call(), charge_mc=8))
    await until(lambda: len(budget.closed) == 0)
    assert sorted(charge for _, charge in booked(ana)) == [8, 70]
    assert ana.state().unposted == 78


async def test_a_whole_day_is_retold_and_nothing_dropped(
    budget: Budget, ana: HoldScripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead journal larger than what may wait in memory reaches Redis whole, and is owed until it has."""
    monkeypatch.setattr(settling, "UNSETTLED_MAX", 5)
    monkeypatch.setattr(settling, "RETOLD_WAITING_MAX", 4)
    calls = [draft(call(), charge_mc=number) for number in range(40)]
    telling = asyncio.ensure_future(budget.closed.resettle_all(calls))
    await asyncio.sleep(0)
    owed = [budget.owing]
    await telling
    await until(lambda: not len(budget.closed))
    assert [*owed, budget.owing] == [True, False]
    assert sorted(booked(ana)) == sorted((one.event_id, one.charge_mc) for one in calls)
