"""The meter as a process of its own: killed at random moments, stopped in order, started on what is not ready."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from deploy.ports import free_port
from meter.app import POLL_S
from shared import ids, redis_keys
from tests.harness.books import assert_books, until
from tests.harness.messages import account_of, fresh_event_id, seen, used
from tests.harness.metering import Bench, bench
from tests.harness.servers import Database
from tests.harness.stack import Program

pytestmark = pytest.mark.integration

USERS = [f"user-{number}" for number in range(10)]
KILLS = 6
EVENTS = 1_500
ORDERS = 8


@pytest.fixture
async def talk(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    """What the test says to the streams; the bench's own readers stay still."""
    async with bench(database, redis_url) as made:
        yield made


@pytest.fixture
def program(database: Database, redis_url: str, tmp_path: Path) -> Iterator[Program]:
    """A meter with the rights of its role alone."""
    port = free_port()
    environment = {
        "SUNDIAL_DATABASE_URL": database.meter_url,
        "SUNDIAL_REDIS_URL": redis_url,
        "SUNDIAL_METER_METRICS_PORT": str(port),
        "SUNDIAL_LOG": "json",
    }
    meter = Program("meter", environment, port, tmp_path / "meter.log")
    yield meter
    with contextlib.suppress(AssertionError):  # it has ended already
        meter.kill()


async def test_killed_at_random_under_load_it_books_everything_once(
    program: Program, talk: Bench, database: Database, redis_url: str
) -> None:
    """M1: kill -9 at any moment and a start again: the audit is clean, and every event is booked exactly once."""
    chance = random.Random(20261101)
    owner: Any = await asyncpg.connect(database.url)
    events = [used(chance.choice(USERS), chance.randrange(30)) for _ in range(EVENTS)]

    async def speak() -> None:
        await talk.say(*(seen(user, 10**9) for user in USERS))
        for event in events:
            await talk.say(event)

    speaking = asyncio.create_task(speak())
    booked = "SELECT count(*) FROM sundial.usage_events"
    for _ in range(KILLS):
        await program.start()
        before = await owner.fetchval(booked)
        more = chance.randrange(1, 60)
        await until(partial(_exceeds, owner, booked, min(before + more, EVENTS - 1)))
        program.kill()
    await program.start()
    await speaking
    await assert_books(database.url, redis_url)
    assert await owner.fetchval(booked) == EVENTS
    spent = {user: 2_000 * sum(one.usage.input for one in events if one.external_id == user) for user in USERS}
    for user in USERS:
        balance = "SELECT balance_mc FROM sundial.balances WHERE account_id = $1"
        assert await owner.fetchval(balance, account_of(user)) == 10**9 - spent[user]
    assert await program.stop() == 0
    await owner.close()


async def _exceeds(owner: Any, statement: str, bound: int) -> bool:
    count: int = await owner.fetchval(statement)
    return count >= bound


async def test_it_ends_in_order_and_says_how_it_is(program: Program, talk: Bench, database: Database) -> None:
    """/readyz and /metrics answer while it works, SIGTERM ends it with exit code 0 and nothing half done."""
    await program.start()
    async with aiohttp.ClientSession() as client:
        async with client.get(program.url("/livez")) as answer:
            assert answer.status == 200
        async with client.get(program.url("/metrics")) as answer:
            text = await answer.text()
    assert "sundial_meter_stream_lag_seconds" in text
    await talk.say(seen("ana", 10**6), used("ana", 1))
    program.signal(signal.SIGTERM)
    assert await program.ended() == 0
    stream = redis_keys.usage_stream(ids.shard_of(account_of("ana")))
    assert (await talk.client.xpending(stream, redis_keys.METER_GROUP))["pending"] == 0


async def test_orders_are_posted_within_a_moment(program: Program, talk: Bench, database: Database) -> None:
    """A notification wakes the meter: orders are closed long before the next look at the queue."""
    await program.start()
    await talk.say(seen("ana", 10**6))
    owner: Any = await asyncpg.connect(database.console_url)
    await until(lambda: owner.fetchval("SELECT count(*) = 1 FROM sundial.accounts"))
    shard = ids.shard_of(account_of("ana"))
    columns = "order_id, account_id, kind, amount_mc, created_by"
    insert = f"INSERT INTO sundial.orders ({columns}) VALUES ($1, $2, 'grant', 5, 'test')"
    queue = "INSERT INTO sundial.order_queue VALUES ($1, $2, $3)"
    placed_at_s = time.monotonic()
    for number in range(ORDERS):
        order_id = fresh_event_id()
        async with owner.transaction():
            await owner.execute(insert, order_id, account_of("ana"))
            await owner.execute(queue, order_id, account_of("ana"), shard)
            await owner.execute("SELECT pg_notify('sundial_orders', '')")
        await until(partial(_exceeds, owner, "SELECT count(*) FROM sundial.order_outcomes", number + 1))
    assert time.monotonic() - placed_at_s < ORDERS * POLL_S / 4
    await owner.close()
    assert await program.stop() == 0


async def test_a_database_without_tables_is_refused(
    database: Database, redis_url: str, program: Program, tmp_path: Path
) -> None:
    """A meter does not wait for a migration that nobody runs: it says what to do, and ends."""
    owner: Any = await asyncpg.connect(database.url)
    await owner.execute("DROP SCHEMA sundial CASCADE")
    await owner.close()
    program.launch()
    await program.ended()
    assert "sundial migrate" in program.output


async def test_a_login_without_the_meters_rights_is_refused(database: Database, program: Program) -> None:
    """As with `.sundial/env` loaded, which names the console's: no waiting helps, so that it ends with 2 and says what
    to set."""
    program.launch(SUNDIAL_DATABASE_URL=database.console_url)
    assert await program.ended() == 2
    assert "SUNDIAL_DATABASE_URL: permission denied" in program.output
    assert "log in as a member of sundial_meter" in program.output


async def test_waits_for_redis(database: Database, redis_url: str, program: Program) -> None:
    """Started before Redis answers, it is alive and not ready, and says what it waits for."""
    port = free_port()
    program.launch(SUNDIAL_REDIS_URL=f"redis://127.0.0.1:{port}/0")
    async with aiohttp.ClientSession() as client:
        report: dict[str, Any] = {}

        async def waits() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                async with client.get(program.url("/readyz")) as answer:
                    report.update(await answer.json())
                    return answer.status == 503 and "start" in report["waiting_for"]
            return False

        await until(waits)
    assert "ConnectionError" in report["waiting_for"]["start"]
    assert await program.stop() == 0
