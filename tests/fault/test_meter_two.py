"""M2: two meters on the same shards. One is paused past the claim time and goes on later: what it does late is nothing.

It is paused at chosen moments by the proxy on its way to Postgres, which stops it as a statement comes by.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.ports import free_port
from tests.harness.books import until_quiet
from tests.harness.chain import Chain
from tests.harness.chain_fixtures import running_chain
from tests.harness.fake_upstream import FakeUpstream
from tests.harness.lag import caught_up
from tests.harness.load import BODY, assert_truth, calling
from tests.harness.own_postgres import OwnPostgres
from tests.harness.postgres_proxy import Fate, PostgresProxy, Turn
from tests.harness.stack import Program
from tests.harness.waiting import until

CLAIM_IDLE_S = "0.5"


@pytest.fixture
async def pair(
    tmp_path: Path, own_postgres: OwnPostgres, postgres_proxy: PostgresProxy, redis_url: str, upstream: FakeUpstream
) -> AsyncIterator[Chain]:
    """A chain whose meter goes by way of the proxy and whose entries are soon taken over."""
    addresses = own_postgres.addresses(postgres_proxy.port)
    settings = {"SUNDIAL_CLAIM_IDLE_S": CLAIM_IDLE_S, "SUNDIAL_METER_NAME": "one"}
    async with running_chain(tmp_path / "home", addresses, redis_url, upstream, **settings) as started:
        yield started


@asynccontextmanager
async def second_meter(chain: Chain, home: Path, meter_url: str, **settings: str) -> AsyncIterator[Program]:
    """Another meter, straight on Postgres, for as long as the block lasts."""
    port = free_port()
    environment = {
        **chain.stack.environment,
        "SUNDIAL_DATABASE_URL": meter_url,
        "SUNDIAL_METER_METRICS_PORT": str(port),
        "SUNDIAL_METER_NAME": "two",
        **settings,
    }
    program = Program("meter", environment, port, home / "second-meter.log")
    await program.start()
    try:
        yield program
    finally:
        assert await program.stop() == 0


def pausing_at(chain: Chain, sql: str, fate: Fate, paused: list[int]) -> Callable[[Turn], Fate]:
    """Stop the first meter as such a statement of a posting comes by, once."""

    def decide(turn: Turn) -> Fate:
        if paused or not turn.after_lock or sql not in turn.sql:
            return Fate.PASS
        paused.append(chain.stack.meter.pid)
        os.kill(chain.stack.meter.pid, signal.SIGSTOP)
        return fate

    return decide


@pytest.mark.parametrize(
    ("sql", "fate"), [("FOR UPDATE OF b", Fate.CUT_BEFORE), ("COMMIT", Fate.PASS)], ids=["before", "after"]
)
async def test_m2_paused_around_its_commit(
    pair: Chain, own_postgres: OwnPostgres, postgres_proxy: PostgresProxy, tmp_path: Path, sql: str, fate: Fate
) -> None:
    """Paused before or after its commit, and back when the other meter has booked the batch: every event once."""
    await _pause_and_resume(pair, own_postgres, postgres_proxy, tmp_path, sql, fate)


@pytest.mark.sweep
async def test_m2_paused_with_accounts_locked(
    pair: Chain, own_postgres: OwnPostgres, postgres_proxy: PostgresProxy, tmp_path: Path
) -> None:
    """Paused inside of its transaction, with the accounts locked: Postgres ends it, and the other meter books them."""
    await _pause_and_resume(pair, own_postgres, postgres_proxy, tmp_path, "FOR UPDATE OF b", Fate.PASS)


async def _pause_and_resume(
    chain: Chain, postgres: OwnPostgres, proxy: PostgresProxy, home: Path, sql: str, fate: Fate
) -> None:
    secret = await chain.personal("ana", credit="1000000")
    paused: list[int] = []
    proxy.decide = pausing_at(chain, sql, fate, paused)
    for _ in range(5):
        await chain.raw(secret, BODY)
    await until(lambda: bool(paused), what="the first meter is paused")
    async with second_meter(chain, home, postgres.addresses().meter_url):
        await until_quiet(chain.stack.redis_url, 30)
        await assert_truth(chain.stack.database_url, chain.upstream)
        chain.stack.meter.signal(signal.SIGCONT)
        await caught_up(chain)
        for _ in range(5):
            await chain.raw(secret, BODY)
        await assert_truth(chain.stack.database_url, chain.upstream)


async def test_two_meters_share_the_shards(
    tmp_path: Path, own_postgres: OwnPostgres, redis_url: str, upstream: FakeUpstream
) -> None:
    """One has the shards 0 to 7, the other 8 to 15; the first is killed and started again: all is booked once."""
    addresses = own_postgres.addresses()
    settings = {"SUNDIAL_SHARDS": "0-7", "SUNDIAL_METER_NAME": "one"}
    async with _both(tmp_path, addresses.meter_url, own_postgres, redis_url, upstream, settings) as chain:
        secrets = [await chain.personal(f"user-{number}", credit="1000000") for number in range(4)]
        async with calling(chain, *secrets) as load:
            await load.more(20)
            chain.stack.meter.kill()
            await load.more(20)
            await chain.stack.meter.start()
        await caught_up(chain)
        await assert_truth(chain.stack.database_url, chain.upstream)


@asynccontextmanager
async def _both(
    home: Path, meter_url: str, postgres: OwnPostgres, redis_url: str, upstream: FakeUpstream, settings: dict[str, str]
) -> AsyncIterator[Chain]:
    port = free_port()
    addresses = postgres.addresses()
    environment = {
        "SUNDIAL_DATABASE_URL": meter_url,
        "SUNDIAL_REDIS_URL": redis_url,
        "SUNDIAL_METER_METRICS_PORT": str(port),
        "SUNDIAL_SHARDS": "8-15",
        "SUNDIAL_METER_NAME": "two",
        "SUNDIAL_DEFAULT_ALLOWANCE": "0",
    }
    other = Program("meter", environment, port, home / "second-meter.log")
    await other.start()
    try:
        async with running_chain(home / "home", addresses, redis_url, upstream, **settings) as chain:
            yield chain
    finally:
        assert await other.stop() == 0
