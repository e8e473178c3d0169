"""The readers on real servers: what gateways say is booked once and told to Redis, whatever else is on the stream."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from meter import stream as stream_module
from meter.consumer import POISON_RUN_MAX
from meter.health import Health
from meter.stream import ShardStream
from shared import ids, redis_keys
from shared.events import ENTRY_BYTES_MAX, encode
from tests.harness.books import assert_books, until, until_quiet
from tests.harness.messages import account_of, seen, used
from tests.harness.metering import BLOCK_MS, Bench, bench
from tests.harness.servers import Database

pytestmark = pytest.mark.integration

ANA = account_of("ana")
SHARD = ids.shard_of(ANA)
STREAM = redis_keys.usage_stream(SHARD)


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        yield made


async def balance(meter: Bench, external_id: str = "ana") -> int | None:
    statement = "SELECT balance_mc FROM sundial.balances WHERE account_id = $1"
    found: int | None = await meter.pool.fetchval(statement, account_of(external_id))
    return found


async def test_books_what_is_said(meter: Bench, database: Database, redis_url: str) -> None:
    """A user's allowance and usage become a balance in Postgres and the same one in Redis, and the stream empties."""
    await meter.say(seen("ana", 5_000_000), used("ana", 100), used("ana", 7))
    async with meter.reading():
        await assert_books(database.url, redis_url)
    assert await balance(meter) == 5_000_000 - 2 * 107 * 1_000
    told = await meter.client.hmget(redis_keys.account(SHARD, ANA), "balance", "unposted", "plan", "revision")
    assert told == [b"4786000", b"0", b"default", b"1"]


async def test_dead_letters_do_not_stop_their_neighbours(meter: Bench, database: Database, redis_url: str) -> None:
    """Whatever lies between two good entries, they are booked, and it is put away whole with a reason."""
    await meter.say(seen("ana", 10**9))
    future = encode(used("ana", 1)).replace(b'"kind":"usage"', b'"kind":"usage","v":99')
    poison = encode(used("ana", 1, status=70_000))
    stranger = encode(
        used(
            "ana",
            1,
            directory_id=ids.directory_id("elsewhere"),
            account_id=ids.account_id(ids.directory_id("elsewhere"), "ana"),
        )
    )
    nul = b'{"kind":"a\\u0000b"}'
    bad = [nul, b"", b"\xff", b'{"kind":"usage"}', b"x" * (ENTRY_BYTES_MAX + 1), b"x" * 2**20, future, poison, stranger]
    for payload in bad:
        await meter.say(used("ana", 1))
        await meter.client.xadd(STREAM, {"d": payload})
    await meter.client.xadd(STREAM, {"other": "field"})
    await meter.say(used("ana", 1))
    async with meter.reading():
        await assert_books(database.url, redis_url)
    assert await balance(meter) == 10**9 - (len(bad) + 1) * 2_000
    letters = await meter.pool.fetch("SELECT payload, reason FROM sundial.dead_letters ORDER BY entry_id")
    assert {row["payload"] for row in letters} >= set(bad)
    assert len(letters) == len(bad) + 1
    assert all(row["reason"] for row in letters)


async def test_an_entry_whose_reason_postgres_would_refuse(meter: Bench, database: Database, redis_url: str) -> None:
    """Alone on its stream, an entry whose kind bears U+0000 is put away: no reader dies of what the decoder says."""
    await meter.client.xadd(STREAM, {"d": b'{"kind":"a\\u0000b"}'})
    async with meter.reading():
        await assert_books(database.url, redis_url)
    [reason] = [row["reason"] for row in await meter.pool.fetch("SELECT reason FROM sundial.dead_letters")]
    assert "cannot be decoded" in reason


async def test_stops_if_everything_looks_like_poison(meter: Bench) -> None:
    """More unreadable entries in a row than POISON_RUN_MAX stop the reader: it is not ready, and nothing is lost."""
    total = 3 * POISON_RUN_MAX
    for _ in range(total):
        await meter.client.xadd(STREAM, {"d": b"?"})
    health = Health()
    health.started = True
    reader = meter.reader(SHARD, asyncio.Event(), health=health)
    await asyncio.wait_for(reader.run(), 10)
    assert not health.ready
    assert await meter.client.xlen(STREAM) == total
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.dead_letters") == 0


async def test_each_entry_up_to_three_times_in_any_order(meter: Bench, database: Database, redis_url: str) -> None:
    """M2, M3: shuffled repeats read by two meters on every shard book each event once, and the balances are exact."""
    shuffle = random.Random(7)
    names = [f"user-{number}" for number in range(12)]
    messages: list[Any] = [seen(name, 10**9) for name in names]
    messages += [used(shuffle.choice(names), shuffle.randrange(40)) for _ in range(300)]
    deliveries = [one for one in messages for _ in range(shuffle.randint(1, 3))]
    shuffle.shuffle(deliveries)
    await meter.say(*deliveries)
    async with meter.reading("one"), meter.reading("two"):
        await assert_books(database.url, redis_url)
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.usage_events") == 300
    spent = dict.fromkeys(names, 0)
    for message in messages[len(names) :]:
        spent[message.external_id] += 2_000 * message.usage.input
    assert {name: await balance(meter, name) for name in names} == {name: 10**9 - spent[name] for name in names}


async def test_trims_nothing_that_anybody_owes(meter: Bench) -> None:
    """Entries are trimmed below the oldest that is not acknowledged, even if later ones are done."""
    await meter.say(*(used("ana", 1) for _ in range(6)))
    one, two = (ShardStream(meter.client, SHARD, name, block_ms=BLOCK_MS) for name in ("one", "two"))
    await one.join()
    await meter.client.xreadgroup(redis_keys.METER_GROUP, "one", {STREAM: ">"}, count=2)
    batch = await two.following()
    assert len(batch.entry_ids) == 4
    await two.finish(batch.entry_ids)
    assert await meter.client.xlen(STREAM) == 6
    owed = await one.own_pending()
    await one.finish(owed.entry_ids)
    assert await meter.client.xlen(STREAM) == 0


async def test_a_reader_trims_what_a_killed_one_left(meter: Bench, redis_url: str) -> None:
    """Killed between acknowledging and trimming, a reader leaves entries that its successor removes at its start."""
    await meter.say(used("ana", 1))
    killed = ShardStream(meter.client, SHARD, "one", block_ms=BLOCK_MS)
    await killed.join()
    batch = await killed.following()
    await meter.client.xack(STREAM, redis_keys.METER_GROUP, *batch.entry_ids)
    async with meter.reading("one", shards=[SHARD]):
        await until_quiet(redis_url)
    assert await meter.client.xlen(STREAM) == 0


async def test_trims_nothing_that_nobody_has_read(meter: Bench) -> None:
    """What came in after a batch was read stays in the stream when that batch is finished."""
    await meter.say(used("ana", 1))
    reader = ShardStream(meter.client, SHARD, "one", block_ms=BLOCK_MS)
    await reader.join()
    batch = await reader.following()
    await meter.say(used("ana", 2))
    await reader.finish(batch.entry_ids)
    assert len((await reader.following()).entries) == 1


async def test_what_a_dead_consumer_owed_is_taken_over(
    meter: Bench, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: entries that were read by a meter that never came back are claimed by another and booked."""
    monkeypatch.setattr(stream_module, "CLAIM_IDLE_MS", 1)
    await meter.say(seen("ana", 10**6), used("ana", 1))
    dead = ShardStream(meter.client, SHARD, "dead", block_ms=BLOCK_MS)
    await dead.join()
    assert len((await dead.following()).entries) == 2
    async with meter.reading("alive"):
        await assert_books(database.url, redis_url)
    assert await balance(meter) == 10**6 - 2_000


async def test_what_it_owes_itself_comes_first(meter: Bench, database: Database, redis_url: str) -> None:
    """M1: killed after its commit and before it told Redis, a meter tells when it is back; nothing is booked twice."""
    await meter.say(seen("ana", 10**6), used("ana", 1))
    before = ShardStream(meter.client, SHARD, "bench", block_ms=BLOCK_MS)
    await before.join()
    batch = await before.following()
    await meter.ledger.post(SHARD, batch.entries)
    assert await meter.client.hget(redis_keys.account(SHARD, ANA), "balance") is None
    async with meter.reading("bench"):
        await assert_books(database.url, redis_url)
    assert await meter.pool.fetchval("SELECT seq FROM sundial.balances") == 2


async def test_a_redis_that_forgot_everything_is_served_again(meter: Bench, database: Database, redis_url: str) -> None:
    """R4: FLUSHALL under a working reader: groups are made again, the projection is rebuilt, repeats are known."""
    events = [used("ana", 1), used("ana", 2)]
    async with meter.reading():
        await meter.say(seen("ana", 10**6), *events)
        await until_quiet(redis_url)
        await meter.client.flushall()
        await meter.watch.look()
        await meter.say(*events, used("ana", 3))
        await assert_books(database.url, redis_url)
    assert await balance(meter) == 10**6 - 12_000


async def test_batches_survive_the_loss_of_their_connections(meter: Bench, database: Database, redis_url: str) -> None:
    """P1, P4: while every connection of the meter is ended again and again, each event is booked exactly once."""
    owner: Any = await asyncpg.connect(database.url)
    kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'meter'"
    await meter.say(*(seen(f"user-{n}", 10**9) for n in range(8)))
    async with meter.reading():
        for _ in range(15):
            await meter.say(*(used(f"user-{n}", 1) for n in range(8)))
            await owner.execute(kill)
        await assert_books(database.url, redis_url)
    await owner.close()
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.usage_events") == 120


async def test_waits_for_a_locked_account_and_books_it(meter: Bench, database: Database, redis_url: str) -> None:
    """P3: a row lock that somebody else holds delays the batch and doubles nothing."""
    await meter.say(seen("ana", 10**6))
    owner: Any = await asyncpg.connect(database.url)
    async with meter.reading():
        await until_quiet(redis_url)
        async with owner.transaction():
            await owner.execute("SELECT FROM sundial.balances FOR UPDATE")
            await meter.say(used("ana", 1))
            await until(lambda: owner.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"))
        await assert_books(database.url, redis_url)
    await owner.close()
    assert await balance(meter) == 10**6 - 2_000


async def test_a_stop_finishes_the_batch(meter: Bench, redis_url: str) -> None:
    """A reader that is told to stop finishes what it has read: nothing stays pending."""
    await meter.say(seen("ana", 10**6), *(used("ana", 1) for _ in range(50)))
    async with meter.reading(shards=[SHARD]):
        await until(lambda: meter.pool.fetchval("SELECT count(*) > 0 FROM sundial.usage_events"))
    pending = await meter.client.xpending(STREAM, redis_keys.METER_GROUP)
    assert pending["pending"] == 0
