"""Calls that are closed, on a real Redis through the gateway's own link: each once, and told until Redis has it."""

import asyncio

import pytest
import structlog

from gateway import settling
from gateway.budget import Budget
from gateway.redis_link import RedisLink
from tests.harness.budget_fixtures import ana, booked, budget, closed_as, link, proxy, reserve, server
from tests.harness.calls import call, draft, refused
from tests.harness.hold_scripts import HoldScripts
from tests.harness.proxy import Proxy
from tests.harness.waiting import until

__all__ = ["ana", "budget", "link", "proxy", "server"]

pytestmark = pytest.mark.integration


async def test_a_call_is_closed_once(budget: Budget, ana: HoldScripts) -> None:
    """Settled: released, counted, reported, nothing runs; closing it again is a fault of ours."""
    hold = await reserve(budget)
    budget.settle(hold, closed_as(hold, 70))
    assert budget.running == {}
    assert not budget.running
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
    """Told to everybody who waits, with the last one; at once where none is open."""
    await budget.idle()
    holds = [await reserve(budget) for _ in range(3)]
    waiting = [asyncio.create_task(budget.idle()) for _ in range(2)]
    for hold in holds:
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        budget.void(hold)
    await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_scripts_that_redis_forgot_are_no_reason_to_fail(budget: Budget, ana: HoldScripts) -> None:
    """Neither to reserve nor to settle, and nobody says that anything went wrong."""
    ana.client.script_flush()
    hold = await reserve(budget)
    ana.client.script_flush()
    with structlog.testing.capture_logs() as logs:
        budget.settle(hold, closed_as(hold, 70))
        await until(lambda: len(budget.closed) == 0)
    assert booked(ana) == [(hold.call.event_id, 70)]
    assert logs == []


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
    assert not budget.running

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
