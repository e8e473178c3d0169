"""P3, P4: Postgres is slow, locked, read-only, out of connections, or ends a transaction for reasons of its own.

Readers of the test's own process on a real Postgres: each kind of error is caused, and then goes away.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from meter import database as connections
from meter.health import Health
from shared import ids
from tests.harness.books import assert_books, until
from tests.harness.messages import account_of, seen, used
from tests.harness.metering import Bench, bench
from tests.harness.servers import Database

USERS: Final = [f"user-{number}" for number in range(6)]
PASSING: Final = ("40001", "40P01", "57P01", "57014", "55P03", "53100", "53200", "53300", "25006", "42P01", "58030")
"""Serialisation, deadlock, shutdown, cancelled, lock not available, disk full, out of memory, too many connections,
read-only, table missing, I/O error: all of them may pass."""


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        await made.say(*(seen(user, 10**9) for user in USERS))
        yield made


async def booked(owner: Any, events: int) -> None:
    """Exactly so many usage events are in the books, and no entry was set aside."""
    assert await owner.fetchval("SELECT count(*) FROM sundial.usage_events") == events
    assert await owner.fetchval("SELECT count(*) FROM sundial.dead_letters") == 0


async def test_p4_errors_that_pass(meter: Bench, database: Database, redis_url: str, owner: Any) -> None:
    """Raised twice in the middle of a batch, an error of each class delays it: each event once, none set aside."""
    await owner.execute(
        """
        CREATE SEQUENCE public.failures; GRANT USAGE ON public.failures TO PUBLIC;
        CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('public.failures') <= 2 THEN RAISE EXCEPTION 'on purpose' USING ERRCODE = TG_ARGV[0]; END IF;
            RETURN NEW;
        END $$;
        """
    )
    for number, code in enumerate(PASSING, 1):
        await owner.execute(
            f"""
            ALTER SEQUENCE public.failures RESTART;
            CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON sundial.transfers
               FOR EACH ROW EXECUTE FUNCTION public.fail('{code}');
            """
        )
        await meter.say(*(used(user, 1) for user in USERS))
        async with meter.reading():
            await assert_books(database.url, redis_url)
        assert await owner.fetchval("SELECT last_value FROM public.failures") > 2, code
        await booked(owner, number * len(USERS))


async def test_p4_deadlock(meter: Bench, database: Database, redis_url: str, owner: Any) -> None:
    """A second session that locks accounts in the opposite order makes the meter a deadlock's victim; it repeats."""
    one, two = _same_shard()
    await meter.say(seen(one, 10**9), seen(two, 10**9))
    first, second = sorted((account_of(one), account_of(two)))
    lock = "SELECT FROM sundial.balances WHERE account_id = $1 FOR UPDATE"
    before = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    async with meter.reading():
        await assert_books(database.url, redis_url)
    deadlocks = await owner.fetchval(before)
    await owner.execute("SET deadlock_timeout = '20s'")  # so that the meter finds it first
    await meter.say(used(one, 1), used(two, 1))
    async with contextlib.AsyncExitStack() as readers:
        async with owner.transaction():
            await owner.execute(lock, second)
            await readers.enter_async_context(meter.reading())
            await until(lambda: owner.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"))
            await owner.execute(lock, first)
        await assert_books(database.url, redis_url)
    await owner.execute("SELECT pg_stat_clear_snapshot()")
    await until(lambda: owner.fetchval(f"SELECT ({before}) > {deadlocks}"))
    await booked(owner, 2)


async def test_p4_read_only_and_out_of_connections(
    meter: Bench, database: Database, redis_url: str, owner: Any
) -> None:
    """A database that has become a standby, and one that takes no more connections: the batches wait for the end of
    it, and then each event is booked once."""
    name = database.url.rpartition("/")[2]
    end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'meter' AND datname = $1"
    health = Health()
    stop = asyncio.Event()
    shard = ids.shard_of(account_of(USERS[0]))
    reader = asyncio.create_task(meter.reader(shard, stop, health=health).run())
    for fault, healing in (
        (f"ALTER DATABASE {name} SET default_transaction_read_only = on", f"ALTER DATABASE {name} RESET ALL"),
        ("ALTER ROLE meter CONNECTION LIMIT 0", "ALTER ROLE meter CONNECTION LIMIT -1"),
    ):
        try:
            await owner.execute(fault)
            await owner.fetchval(end, name)
            await meter.say(used(USERS[0], 1))
            await until(_is_ill(health))
        finally:
            await owner.execute("SET default_transaction_read_only = off")
            await owner.execute(healing)
        await until(_is_well(health))
    stop.set()
    await reader
    async with meter.reading():
        await assert_books(database.url, redis_url)
    await booked(owner, 2)


async def test_p3_an_account_is_locked_for_long(meter: Bench, database: Database, redis_url: str, owner: Any) -> None:
    """Longer than LOCK_TIMEOUT_S: the batch is given up and tried again; other shards go on; nothing is twice."""
    health = Health()
    stop = asyncio.Event()
    shard = ids.shard_of(account_of(USERS[0]))
    other = next(user for user in USERS if ids.shard_of(account_of(user)) != shard)
    async with meter.reading():
        await assert_books(database.url, redis_url)
    reader = asyncio.create_task(meter.reader(shard, stop, health=health).run())
    async with owner.transaction():
        await owner.execute("SELECT FROM sundial.balances WHERE account_id = $1 FOR UPDATE", account_of(USERS[0]))
        await meter.say(used(USERS[0], 1), used(other, 1))
        async with meter.reading("others", [ids.shard_of(account_of(other))]):
            await until(lambda: owner.fetchval("SELECT count(*) = 1 FROM sundial.usage_events"))
        await until(_is_ill(health))
        assert "lock timeout" in health.report[f"reader {shard}"]
    await until(_is_well(health))
    stop.set()
    await reader
    await assert_books(database.url, redis_url)
    await booked(owner, 2)


async def test_p3_a_batch_that_is_too_slow_is_made_smaller(
    meter: Bench, database: Database, redis_url: str, owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Postgres cannot do a batch within the statement's time, it is booked in ever smaller parts, each once."""
    async with meter.reading():
        await assert_books(database.url, redis_url)
    await owner.execute(
        """
        CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON sundial.transfers FOR EACH ROW EXECUTE FUNCTION public.slow();
        """
    )
    events = 240  # 1.2 s of sleep
    await meter.say(*(used(USERS[0], 1) for _ in range(events)))
    monkeypatch.setitem(connections._SETTINGS, "statement_timeout", "500")
    async with bench(database, redis_url) as slow, slow.reading():
        await assert_books(database.url, redis_url)
    await owner.execute("DROP TRIGGER slow ON sundial.transfers")
    await booked(owner, events)


def _same_shard() -> tuple[str, str]:
    """Two users of one shard."""
    chance = random.Random(4)
    found: dict[int, str] = {}
    while True:
        user = f"pair-{chance.randrange(10**6)}"
        shard = ids.shard_of(account_of(user))
        if shard in found and found[shard] != user:
            return found[shard], user
        found[shard] = user


def _is_ill(health: Health) -> Any:
    async def ill() -> bool:
        return bool(set(health.report) - {"meter"})

    return ill


def _is_well(health: Health) -> Any:
    async def well() -> bool:
        return not set(health.report) - {"meter"}

    return well
