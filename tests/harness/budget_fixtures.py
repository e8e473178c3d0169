"""The gateway's holds on a real Redis, by way of its own link and a proxy that can break it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from gateway import redis_wire, settling
from gateway.admission import Call
from gateway.budget import Budget, Hold
from gateway.redis_link import RedisLink
from shared.events import UsageEvent
from tests.harness.calls import BOUNDS, call, draft
from tests.harness.hold_fixtures import ana
from tests.harness.hold_scripts import HoldScripts
from tests.harness.proxy import Proxy
from tests.harness.redis_versions import RedisProgram, programs, running

__all__ = ["ana"]

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
    monkeypatch.setattr(redis_wire, "ANSWER_S_MAX", 0.2)
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
