"""P7: the meter notices by the marks in Redis that Postgres is older than it was, and makes Redis forget, once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import structlog

from meter.health import Health
from meter.marks import LedgerBehindError
from meter.prices import set_price
from shared import ids, redis_keys
from tests.harness.books import assert_books, until
from tests.harness.messages import MODEL, account_of, seen, used
from tests.harness.metering import Bench, bench, entries
from tests.harness.servers import Database
from tests.harness.tampering import tamper

pytestmark = pytest.mark.integration

ANA = account_of("ana")
SHARD = ids.shard_of(ANA)


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    """Ana's first three entries are booked, and Redis knows it."""
    async with bench(database, redis_url) as made:
        await made.say(seen("ana", 10**6), used("ana", 1), used("ana", 1))
        async with made.reading():
            await assert_books(database.url, redis_url)
        yield made


async def one_behind(database: Database) -> None:
    """As if the last entry had not been dealt with."""
    await tamper(database, f"UPDATE sundial.stream_positions SET entries = entries - 1 WHERE shard = {SHARD}")


async def test_p7_marks_are_what_is_committed(meter: Bench) -> None:
    """They rise with each batch, of whichever reader, and never go back."""
    marks = meter.projection.marks
    assert await marks.booked(SHARD) == 3
    assert await marks.behind(meter.pool) == []
    await marks.tell_booked(SHARD, 2)
    assert await marks.booked(SHARD) == 3


async def test_p7_a_redis_that_forgot_is_told_its_marks(meter: Bench, database: Database) -> None:
    """Else a Postgres that is put back before the next batch would not be noticed."""
    await meter.pool.execute("INSERT INTO sundial.projection_queue (what) VALUES ('catalog')")
    await meter.watch.pass_on()
    passed_on = await meter.projection.marks.passed_on()
    await meter.client.flushall()
    await meter.watch.look()
    assert await meter.projection.marks.passed_on() == passed_on > 0
    await one_behind(database)
    await meter.watch.look()
    assert await meter.projection.marks.restorations() == 1


async def test_p7_nothing_is_booked_that_would_hide_it(meter: Bench, database: Database, redis_url: str) -> None:
    """A batch larger than what was lost waits until Redis has been told anew; then it is booked."""
    await one_behind(database)
    await meter.say(*(used("ana", 1) for _ in range(5)))
    health, stop = Health(), asyncio.Event()
    reading = asyncio.create_task(meter.reader(SHARD, stop, health=health).run())

    async def refused() -> bool:
        return any("LedgerBehindError" in reason for reason in health.report.values())

    await until(refused)
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.usage_events") == 2
    await meter.watch.look()
    await assert_books(database.url, redis_url)
    stop.set()
    await reading
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.usage_events") == 7


async def test_p7_it_is_noticed_once(meter: Bench, database: Database, redis_url: str) -> None:
    """Each shard gets another origin, admission is closed meanwhile; a second look finds nothing. Whoever else works
    hears of it."""
    before = [await meter.projection.epoch(shard) for shard in range(ids.SHARDS)]
    await one_behind(database)
    heard: list[str] = []
    meter.watch.on_restoration.append(lambda: heard.append("noticed"))
    with structlog.testing.capture_logs() as logs:
        await meter.watch.look()
        await meter.watch.look()
    assert [one["event"] for one in logs if one["log_level"] == "critical"] == ["Postgres is older than it was"]
    assert heard == ["noticed"]
    after = [await meter.projection.epoch(shard) for shard in range(ids.SHARDS)]
    assert not set(before) & set(after)
    assert len({(one or "").rpartition("/")[2] for one in (*before, *after)}) == 2 * ids.SHARDS
    await assert_books(database.url, redis_url)


@pytest.mark.parametrize("told", ["anew", "by id"])
async def test_p7_what_was_read_before_and_is_told_after_is_told_anew(
    meter: Bench, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """A meter sleeps between reading an account and telling Redis, and another one finds Postgres older meanwhile and
    tells all anew: the page from the lost story, newer by its seq, does not stay."""
    apply = meter.projection.apply
    await meter.pool.execute("INSERT INTO sundial.projection_queue (what) VALUES ($1)", f"account:{ANA}")

    async def late(accounts: Any, posted: Any) -> int:
        monkeypatch.undo()
        page = list(accounts)
        for one in page:
            one.seq, one.balance_mc = one.seq + 10, 7
        await one_behind(database)
        await meter.watch.look()
        return int(await apply(page, posted))

    monkeypatch.setattr(meter.projection, "apply", late)
    if told == "anew":
        await meter.projection.rebuild(SHARD, "another/1", anew=False)
    else:
        await meter.watch.pass_on()
    assert await meter.client.hget(redis_keys.account(SHARD, str(ANA)), "balance") == b"7"
    assert await meter.projection.epoch(SHARD) is None
    await meter.watch.look()
    await assert_books(database.url, redis_url)


async def test_p7_announcements_are_marked_too(meter: Bench, database: Database) -> None:
    """What was announced and is lost (a grant, a key) is noticed without any entry of a stream; a round that would hide
    it is undone."""
    owner: Any = await asyncpg.connect(database.url)
    announce = "INSERT INTO sundial.projection_queue (what) VALUES ('catalog')"
    try:
        await owner.execute(announce)
        await meter.watch.pass_on()
        assert await meter.projection.marks.passed_on() == 1
        await owner.execute("UPDATE sundial.projection_position SET rounds = 0")
        await owner.execute(announce)
        with pytest.raises(LedgerBehindError):
            await meter.watch.pass_on()
        await meter.watch.look()
        assert await meter.projection.marks.restorations() == 1
        await meter.watch.pass_on()
        assert await meter.projection.marks.passed_on() == 1
    finally:
        await owner.close()


async def test_p7_who_dies_while_forgetting_leaves_the_evidence(meter: Bench, database: Database) -> None:
    """The mark that tells goes after every other shard's epoch."""
    await one_behind(database)
    behind = await meter.projection.marks.behind(meter.pool)
    deleted: list[str] = []
    async with meter.client.monitor() as monitor:
        await meter.projection.marks.forget(behind)
        await meter.client.echo("end")
        async for command in monitor.listen():
            if command["command"].startswith("ECHO"):
                break
            if command["command"].startswith("DEL"):
                deleted.append(command["command"])
    assert len(deleted) == ids.SHARDS + 1
    assert redis_keys.booked(SHARD) in deleted[ids.SHARDS - 1]


async def test_p7_a_record_that_is_nowhere_may_be_told_again(meter: Bench, database: Database, redis_url: str) -> None:
    """What counts as unposted stays where a stream or a dead letter has it; else it goes, to be reported again."""
    waiting, dead, gone = used("ana", 1), used("ana", 1, status=70_000), used("ana", 1)
    await meter.say(dead)
    async with meter.reading(shards=[SHARD]):
        await until(lambda: meter.pool.fetchval("SELECT count(*) = 1 FROM sundial.open_dead_letters"))
    await meter.say(waiting, gone)
    stream = redis_keys.usage_stream(SHARD)
    [last] = await meter.client.xrevrange(stream, count=1)
    await meter.client.xdel(stream, last[0])
    await one_behind(database)
    await meter.watch.look()
    fields = await meter.client.hkeys(redis_keys.unposted(SHARD, ANA))
    assert sorted(fields) == sorted(str(one.event_id).encode() for one in (waiting, dead))
    async with meter.reading(shards=[SHARD]):
        await until(lambda: meter.pool.fetchval("SELECT count(*) = 3 FROM sundial.usage_events"))
        await assert_books(database.url, redis_url, quiet=False)


async def test_p7_an_account_that_is_gone_is_taken_back(meter: Bench, database: Database, redis_url: str) -> None:
    """What Redis was told of it goes, what is held and unposted stays; who was further is named in the log."""
    eva, bob = account_of("eva"), account_of("bob")
    for name in (eva, bob):
        told = {"balance": 7, "seq": 3, "revision": 1, "status": "active", "announced": 1}
        await meter.client.hset(redis_keys.account(ids.shard_of(name), name), mapping=told)
    call = used("bob", 1)
    await meter.say(call)
    await one_behind(database)
    with structlog.testing.capture_logs() as logs:
        await meter.watch.look()
    assert {one["account"] for one in logs if one["event"] == "account is behind"} == {str(eva), str(bob)}
    assert not await meter.client.exists(redis_keys.account(ids.shard_of(eva), eva))
    left = await meter.client.hgetall(redis_keys.account(ids.shard_of(bob), bob))
    assert left == {b"unposted": str(call.charge_mc).encode()}
    async with meter.reading():
        await assert_books(database.url, redis_url)


async def test_p7_prices_are_read_anew(meter: Bench, database: Database) -> None:
    """A number of a price version may be another version's after Postgres was put back."""
    tariffs = meter.ledger._tariffs
    before = (await tariffs.holding(meter.pool, {1}, {"cost@1"})).models[1]
    await tamper(database, "DELETE FROM sundial.prices WHERE model = 'gpt-4o-mini'")
    assert "gpt-4o-mini" in before
    tariffs.forget()
    assert "gpt-4o-mini" not in (await tariffs.holding(meter.pool, {1}, {"cost@1"})).models[1]


async def test_p7_a_batch_is_told_what_redis_knew(meter: Bench) -> None:
    """The ledger refuses a batch on top of fewer entries than were dealt with, and takes one on as many."""
    with pytest.raises(LedgerBehindError):
        await meter.ledger.post(SHARD, entries([used("ana", 1)]), told=4)
    assert (await meter.ledger.post(SHARD, entries([used("ana", 1)]), told=3)).position == 4


async def test_p7_the_number_of_a_lost_price_version_is_not_given_again(
    meter: Bench, database: Database, redis_url: str
) -> None:
    """A call names version 4, which Postgres does not have any more: it waits, and the next version is the fifth. Not
    every number is believed."""
    call = used("ana", 10, price_version=4, charge_mc=1_000)
    await meter.say(call, used("ana", 10, price_version=2_000_000_000))
    async with meter.reading():
        await assert_books(database.url, redis_url)
    console: Any = await asyncpg.connect(database.console_url)
    assert await set_price(console, MODEL, {"input": 1, "output": 1}, "test") == 5
    await console.close()
    while await meter.corrections.correct():
        pass
    await meter.settle_orders()
    assert await meter.pool.fetchval("SELECT price_version FROM sundial.price_corrections LIMIT 1") == 5
    await assert_books(database.url, redis_url)
