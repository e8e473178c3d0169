"""P6, M6: a month that the books do not have, ids from another century, and a grant that expires while it is drawn."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from meter import metrics
from meter.audit import audit
from meter.gauges import Gauges
from shared import ids
from tests.harness.books import assert_books, until
from tests.harness.messages import account_of, fresh_event_id, seen, used
from tests.harness.metering import ALL_SHARDS, Bench, bench
from tests.harness.servers import Database
from tests.harness.tampering import tamper, write_anew

BOOKS = ("transfers", "usage_events", "draws")
REPAIR = """
    ALTER TABLE sundial.{book} DETACH PARTITION sundial.{book}_default;
    ALTER TABLE sundial.{book}_default RENAME TO {book}_{month};
    ALTER TABLE sundial.{book} ATTACH PARTITION sundial.{book}_{month}
      FOR VALUES FROM (sundial.uuid7_floor('{first} 00:00+00')) TO (sundial.uuid7_floor('{after} 00:00+00'));
    CREATE TABLE sundial.{book}_default PARTITION OF sundial.{book} DEFAULT;
    CREATE TRIGGER keep_all BEFORE TRUNCATE ON sundial.{book}_default EXECUTE FUNCTION sundial.refuse_change();
    GRANT SELECT ON sundial.{book}_default TO sundial_meter, sundial_console, sundial_reader;
"""
"""As docs/postgres.md has it."""
YEAR_2099_MS = 4_071_000_000_000


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        yield made


async def test_p6_a_missing_month(meter: Bench, database: Database, redis_url: str, owner: Any) -> None:
    """Events of a month without a partition are booked in the default one; metric and audit name them, until the
    operator makes that partition the month's, as docs/postgres.md has it: no row is moved."""
    first, after = await owner.fetchrow(
        """
        SELECT first, (first + interval '1 month')::date
          FROM date_trunc('month', now() AT TIME ZONE 'UTC') AS month, cast(month AS date) AS first
        """
    )
    month = f"{first:%Y_%m}"
    for book in BOOKS:
        await owner.execute(f"DROP TABLE sundial.{book}_{month}")
    await meter.say(seen("ana", 10**9), *(used("ana", 1) for _ in range(3)))
    async with meter.reading():
        await until(lambda: owner.fetchval("SELECT count(*) = 3 FROM sundial.usage_events_default"))
    gauges = Gauges(meter.client, meter.pool, ALL_SHARDS)
    await gauges.measure_queues()
    await gauges.keep_house()  # it cannot make the month any more, and says so
    rows = metrics.DEFAULT_PARTITION_ROWS.labels(table="usage_events")._value.get()
    assert rows == 3
    assert metrics.VIOLATIONS.labels(rule="default_partitions")._value.get() > 0
    assert {one.rule for one in await audit(database.url, redis_url)} == {"default_partitions"}

    async with owner.transaction():
        for book in BOOKS:
            await owner.execute(REPAIR.format(book=book, month=month, first=first, after=after))
    await meter.say(used("ana", 1))
    async with meter.reading():
        await assert_books(database.url, redis_url)
    assert await owner.fetchval("SELECT count(*) FROM sundial.usage_events_default") == 0


async def test_p6_ids_of_another_century(meter: Bench, database: Database, redis_url: str, owner: Any) -> None:
    """An event whose id is from 2099 is booked in the default partition, once, flagged, and told by the metric."""
    event_id = ids.uuid7(YEAR_2099_MS, fresh_event_id().bytes[6:])
    event = used("ana", 1, event_id=event_id)
    await meter.say(seen("ana", 10**9), event, event)
    async with meter.reading():
        await assert_books(database.url, redis_url)
    rows = await owner.fetch("SELECT event_id, flags FROM sundial.usage_events_default")
    assert [(row["event_id"], row["flags"]) for row in rows] == [(event_id, ["off_time"])]
    await Gauges(meter.client, meter.pool, ALL_SHARDS).measure_queues()
    assert metrics.DEFAULT_PARTITION_ROWS.labels(table="usage_events")._value.get() == 1


@pytest.mark.parametrize("usage_first", [True, False])
async def test_m6_a_grant_expires_as_it_is_drawn(
    meter: Bench, database: Database, redis_url: str, owner: Any, usage_first: bool
) -> None:
    """Usage and expiry meet at the account's lock, in either order: what one has taken the other does not take too."""
    await meter.say(seen("ana", 10_000))
    async with meter.reading():
        await assert_books(database.url, redis_url)
    account_id = account_of("ana")
    over = "expires_at = (SELECT max(recorded_at) FROM sundial.transfers)"
    await tamper(database, *(f"UPDATE sundial.{table} SET {over}" for table in ("grants", "grant_balances")))
    await write_anew(database, "ana")
    shard = ids.shard_of(account_id)
    waiting = "SELECT count(*) >= $1 FROM pg_locks WHERE NOT granted"
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        async with owner.transaction():
            await owner.execute("SELECT FROM sundial.balances FOR UPDATE")
            await meter.say(used("ana", 2))  # 4,000 mc
            begin = [meter.reader(shard, stop).run, meter.orders.expire]
            for number, one in enumerate(begin if usage_first else reversed(begin), 1):
                tasks.create_task(one())
                await until(partial(owner.fetchval, waiting, number))
        await until(lambda: owner.fetchval("SELECT count(*) = 3 FROM sundial.transfers"))
        stop.set()
    await meter.settle_orders()
    kinds = [row["kind"] for row in await owner.fetch("SELECT kind FROM sundial.transfers ORDER BY seq")]
    assert kinds == (["grant", "usage", "expiry"] if usage_first else ["grant", "expiry", "usage"])
    balance = await owner.fetchval("SELECT balance_mc FROM sundial.balances WHERE account_id = $1", account_id)
    assert balance == (0 if usage_first else -4_000)
    await assert_books(database.url, redis_url)
