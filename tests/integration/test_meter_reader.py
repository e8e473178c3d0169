"""The readers on real servers: what gateways say is booked once and told to Redis, whatever else is on the stream."""

from collections.abc import AsyncIterator

import pytest

from shared import ids, redis_keys
from tests.harness.books import assert_books
from tests.harness.messages import account_of, seen, used
from tests.harness.metering import Bench, bench
from tests.harness.servers import Database

pytestmark = pytest.mark.integration


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        yield made


async def test_books_what_is_said(meter: Bench, database: Database, redis_url: str) -> None:
    """A user's allowance and usage become a balance in Postgres and the same one in Redis, and the stream empties."""
    await meter.say(seen("ana", 5_000_000), used("ana", 100), used("ana", 7))
    async with meter.reading():
        await assert_books(database.url, redis_url)
    account = account_of("ana")
    balance_mc = await meter.pool.fetchval("SELECT balance_mc FROM sundial.balances WHERE account_id = $1", account)
    assert balance_mc == 5_000_000 - 2 * 107 * 1_000
    told = await meter.client.hget(redis_keys.account(ids.shard_of(account), account), "balance")
    assert int(told) == balance_mc
