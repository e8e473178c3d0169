"""Orders and expiry on real servers: posted once by whichever meter, told to Redis, and the statement closes."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from meter.orders import Orders
from shared import ids, redis_keys
from tests.harness.books import assert_books, until
from tests.harness.messages import account_of, fresh_event_id, seen, used
from tests.harness.metering import ALL_SHARDS, Bench, bench, entries
from tests.harness.projection_fixtures import console
from tests.harness.servers import Database

__all__ = ["console"]

pytestmark = pytest.mark.integration

ANA = account_of("ana")
SHARD = ids.shard_of(ANA)


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        await made.ledger.post(SHARD, entries([seen("ana", 10_000)]))
        await made.projection.apply_by_id([ANA])
        yield made


async def order(console: Any, amount_mc: int, kind: str = "adjustment", **more: Any) -> UUID:
    """An order as the command line places it."""
    order_id = fresh_event_id()
    expires_at = more.get("expires_at")
    async with console.transaction():
        await console.execute(
            "INSERT INTO sundial.orders (order_id, account_id, kind, amount_mc, priority, expires_at, created_by) "
            "VALUES ($1, $2, $3, $4, $5, $6, 'test')",
            order_id,
            ANA,
            kind,
            amount_mc,
            more.get("priority", 100),
            expires_at,
        )
        await console.execute("INSERT INTO sundial.order_queue VALUES ($1, $2, $3)", order_id, ANA, SHARD)
        await console.execute("SELECT pg_notify('sundial_orders', '')")
    return order_id


async def outcome(meter: Bench, order_id: UUID) -> tuple[str, str]:
    row = await meter.pool.fetchrow("SELECT outcome, detail FROM sundial.order_outcomes WHERE order_id = $1", order_id)
    return row["outcome"], row["detail"]


async def told_balance(meter: Bench) -> int:
    return int(await meter.client.hget(redis_keys.account(SHARD, ANA), "balance"))


async def test_the_statement_closes(meter: Bench, console: Any, database: Database, redis_url: str) -> None:
    """Opening + grants − usage ± adjustments − expiry = closing, with every kind of transfer on one account."""
    soon = datetime.now(UTC) + timedelta(milliseconds=300)
    await order(console, 50_000, "grant")
    await order(console, 7_000, "grant", expires_at=soon, priority=200)
    await order(console, -3_000)
    await order(console, 1_500)
    await meter.settle_orders()
    await meter.ledger.post(SHARD, entries([used("ana", 10), used("ana", 4)]))
    await until(lambda: _later_than(soon))
    await meter.settle_orders()
    await meter.projection.apply_by_id([ANA])
    rows = await meter.pool.fetch("SELECT kind, sum(amount_mc)::bigint AS total FROM sundial.transfers GROUP BY kind")
    sums = {row["kind"]: row["total"] for row in rows}
    assert sums == {"grant": 67_000, "usage": -28_000, "adjustment": -1_500, "expiry": -7_000}
    assert await told_balance(meter) == sum(sums.values()) == 30_500
    await assert_books(database.url, redis_url)


async def _later_than(moment: datetime) -> bool:
    return datetime.now(UTC) > moment


async def test_an_order_is_posted_once_by_many_meters(
    meter: Bench, console: Any, database: Database, redis_url: str
) -> None:
    """Several meters on one queue close each order once, under its own id."""
    order_ids = [await order(console, 100) for _ in range(25)]
    await asyncio.gather(*(Orders(meter.pool, ALL_SHARDS).post() for _ in range(4)))
    await meter.settle_orders()
    found = await meter.pool.fetch("SELECT transfer_id FROM sundial.transfers WHERE kind = 'adjustment'")
    assert {row["transfer_id"] for row in found} == set(order_ids)
    assert await told_balance(meter) == 10_000 + 2_500
    await assert_books(database.url, redis_url)


async def test_a_meter_that_died_after_its_commit_is_followed_by_one_that_tells(
    meter: Bench, console: Any, database: Database, redis_url: str
) -> None:
    """Between the commit of an order and telling Redis nothing is kept in memory: the next meter tells."""
    await order(console, 777)
    await meter.orders.post()
    assert await told_balance(meter) == 10_000
    while await meter.watch.pass_on():
        pass
    assert await told_balance(meter) == 10_777
    await assert_books(database.url, redis_url)


@pytest.mark.parametrize("amount_mc", [9_007_199_254_740_991])
async def test_an_order_that_no_balance_can_hold_is_refused(
    meter: Bench, console: Any, database: Database, redis_url: str, amount_mc: int
) -> None:
    """It gets an outcome with the reason, moves nothing, and its neighbours are posted."""
    too_much, fine = await order(console, amount_mc), await order(console, 5)
    await meter.settle_orders()
    assert (await outcome(meter, too_much))[0] == "refused"
    assert "beyond its bounds" in (await outcome(meter, too_much))[1]
    assert await outcome(meter, fine) == ("posted", "")
    assert await told_balance(meter) == 10_005
    await assert_books(database.url, redis_url)


async def test_an_order_that_the_tables_refuse_does_not_block_the_queue(
    meter: Bench, console: Any, database: Database, redis_url: str
) -> None:
    """An order whose id is taken on the account is found among its neighbours, and refused."""
    taken = used("ana", 0)
    await meter.ledger.post(SHARD, entries([taken]))
    await meter.projection.apply_by_id([ANA])
    await order(console, 1)
    insert = (
        "INSERT INTO sundial.orders (order_id, account_id, kind, amount_mc, created_by) VALUES ($1, $2, $3, 5, 'x')"
    )
    await console.execute(insert, taken.event_id, ANA, "adjustment")
    await console.execute("INSERT INTO sundial.order_queue VALUES ($1, $2, $3)", taken.event_id, ANA, SHARD)
    await meter.settle_orders()
    assert (await outcome(meter, taken.event_id))[0] == "refused"
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.order_queue") == 0
    assert await told_balance(meter) == 10_001


async def test_only_the_orders_of_its_shards_are_posted(meter: Bench, console: Any) -> None:
    """A meter of other shards leaves the order in the queue."""
    await order(console, 5)
    await Orders(meter.pool, [shard for shard in ALL_SHARDS if shard != SHARD]).post()
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.order_queue") == 1


async def test_expiry_and_usage_at_the_same_instant(
    meter: Bench, console: Any, database: Database, redis_url: str
) -> None:
    """M6: the row lock decides which comes first; either way the books close and nothing is counted twice."""
    soon = datetime.now(UTC) + timedelta(seconds=3)
    for _ in range(6):
        await order(console, 4_000, "grant", expires_at=soon)
    await meter.settle_orders()
    await until(lambda: _later_than(soon))
    batches = [entries([used("ana", 1)]) for _ in range(6)]
    await asyncio.gather(*(meter.ledger.post(SHARD, batch) for batch in batches), meter.orders.expire())
    await meter.settle_orders()
    await meter.projection.apply_by_id([ANA])
    await assert_books(database.url, redis_url)
    left = await meter.pool.fetchval(
        "SELECT sum(remaining_mc)::bigint FROM sundial.grant_balances WHERE expires_at IS NOT NULL"
    )
    assert left == 0


async def test_an_order_is_posted_while_usage_runs(
    meter: Bench, console: Any, database: Database, redis_url: str
) -> None:
    """Orders and batches on one account wait for one another and lose nothing."""
    started = time.monotonic()
    await meter.say(*(used("ana", 1) for _ in range(60)))
    async with meter.reading(shards=[SHARD]):
        for _ in range(10):
            await order(console, 1_000)
            await meter.settle_orders()
        await assert_books(database.url, redis_url)
    assert await told_balance(meter) == 10_000 + 10_000 - 120_000
    assert time.monotonic() - started < 30
