"""Redis says what Postgres says; also after it has forgotten everything."""

import time
from typing import Any

import pytest

from meter.audit import audit
from meter.projection import TOLD_AT_ONCE_MAX
from shared import ids, redis_keys
from shared.events import UsageEvent, encode
from tests.harness.books import assert_books
from tests.harness.messages import account_of, seen, used
from tests.harness.metering import ALL_SHARDS, Bench, entries
from tests.harness.projection_fixtures import ANA, SHARD, console, meter
from tests.harness.servers import Database

__all__ = ["console", "meter"]

pytestmark = pytest.mark.integration


async def test_a_forgetful_redis_is_rebuilt_from_postgres(meter: Bench, database: Database, redis_url: str) -> None:
    """R4: after FLUSHALL every account, key and price is there again, and each shard has an epoch."""
    await meter.client.flushall()
    assert {one.rule for one in await audit(database.url, redis_url)} >= {"epoch", "projection"}
    await meter.watch.look()
    await assert_books(database.url, redis_url)
    assert await meter.client.exists(redis_keys.CATALOG_VERSION)


async def test_a_missing_epoch_overwrites_what_redis_still_has(
    meter: Bench, database: Database, redis_url: str
) -> None:
    """Deleting an epoch makes Postgres win, even over a Redis that claims to be newer (a restored database)."""
    account = redis_keys.account(SHARD, ANA)
    await meter.client.hset(account, mapping={"balance": 5, "seq": 999, "revision": 99, "status": "blocked"})
    await meter.watch.look()
    assert await meter.client.hget(account, "balance") == b"5"
    await meter.client.delete(redis_keys.epoch(SHARD))
    await meter.watch.look()
    await assert_books(database.url, redis_url)


async def test_a_restarted_redis_is_told_again(meter: Bench, database: Database, redis_url: str) -> None:
    """R2: another run id than the one in the epoch: what the last seconds lost is told again, admission stays open."""
    account = redis_keys.account(SHARD, ANA)
    await meter.client.hset(account, mapping={"balance": 10_000, "seq": 1})
    await meter.client.set(redis_keys.epoch(SHARD), "another-run/x")
    await meter.watch.look()
    await assert_books(database.url, redis_url)
    assert not (await meter.client.get(redis_keys.epoch(SHARD))).startswith(b"another-run")


async def test_epochs_come_last(meter: Bench) -> None:
    """A shard opens only when keys and catalog are there and its accounts are told."""
    await meter.client.flushall()
    seen_commands: list[str] = []
    async with meter.client.monitor() as monitor:
        await meter.watch.look()
        await meter.client.echo("end")
        async for command in monitor.listen():
            if command["command"].startswith("ECHO"):
                break
            seen_commands.append(command["command"])
    epochs = [n for n, one in enumerate(seen_commands) if one.startswith("SET {s") and ":epoch" in one]
    catalog = next(n for n, one in enumerate(seen_commands) if one.startswith(f"SET {redis_keys.CATALOG_VERSION}"))
    told = [n for n, one in enumerate(seen_commands) if one.startswith("EVALSHA") and str(ANA) in one]
    own_epoch = next(n for n in epochs if redis_keys.epoch(SHARD) in seen_commands[n])
    assert len(epochs) == len(ALL_SHARDS)
    assert catalog < min(epochs)
    assert max(told) < own_epoch


async def test_a_changed_account_is_told(meter: Bench, console: Any, database: Database, redis_url: str) -> None:
    """A blocked account is blocked in Redis as soon as its announcement is passed on."""
    await console.execute(
        "UPDATE sundial.accounts SET status = 'blocked', revision = revision + 1 WHERE account_id = $1", ANA
    )
    await console.execute("INSERT INTO sundial.projection_queue (what) VALUES ($1)", f"account:{ANA}")
    await meter.watch.pass_on()
    assert await meter.client.hget(redis_keys.account(SHARD, ANA), "status") == b"blocked"
    await assert_books(database.url, redis_url)
    assert await meter.pool.fetchval("SELECT count(*) FROM sundial.projection_queue") == 0


async def test_many_accounts_are_told_at_once(meter: Bench) -> None:
    """More than one call of the script takes, of two shards, each with its own balance and its own events dropped; in
    three calls, and no more."""
    drawn = [f"user-{number}" for number in range(2_000)]
    users = [user for user in drawn if ids.shard_of(account_of(user)) == SHARD][: TOLD_AT_ONCE_MAX + 10]
    users += [user for user in drawn if ids.shard_of(account_of(user)) == (SHARD + 1) % ids.SHARDS][:10]
    calls = [used(user, 1 + number) for number, user in enumerate(users) if number % 3]
    await meter.say(*calls)
    posting = await meter.ledger.post(SHARD, entries([*(seen(user, 10_000) for user in users), *calls]))
    assert len(posting.accounts) == len(users) == TOLD_AT_ONCE_MAX + 20
    await meter.client.config_resetstat()
    assert await meter.projection.apply(posting.accounts.values(), posting.reported) == len(calls)
    assert (await meter.client.info("commandstats"))["cmdstat_evalsha"]["calls"] <= 3 + 1  # one, should it be forgotten
    for account in posting.accounts.values():
        key = redis_keys.account(account.shard, account.account_id)
        balance, seq, unposted = await meter.client.hmget(key, "balance", "seq", "unposted")
        assert (int(balance), int(seq), int(unposted or 0)) == (account.balance_mc, account.seq, 0)
        assert not await meter.client.exists(redis_keys.unposted(account.shard, account.account_id))
    assert await meter.projection.apply(posting.accounts.values(), posting.reported) == 0


async def test_a_forgotten_hold_is_charged_at_its_last_note(meter: Bench, database: Database, redis_url: str) -> None:
    """G1, G2: a hold past its deadline is closed once, what had streamed is booked, and an open one is left alone."""
    draft = used("ana", 2, evidence="checkpoint", outcome="lost", charge_mc=4_000)
    open_call = used("ana", 1)
    await hold(meter, draft, 9_000, deadline_s=int(time.time()) - 5)
    await hold(meter, open_call, 500, deadline_s=int(time.time()) + 600)
    await meter.reaper.reap()
    await meter.reaper.reap()
    assert int(await meter.client.hget(redis_keys.account(SHARD, ANA), "held")) == 500
    await release(meter, open_call, 500)
    async with meter.reading(shards=[SHARD]):
        await assert_books(database.url, redis_url)
    row = await meter.pool.fetchrow(
        "SELECT evidence, charge_mc FROM sundial.usage_events WHERE event_id = $1", draft.event_id
    )
    assert tuple(row) == ("checkpoint", 4_000)


async def hold(meter: Bench, draft: UsageEvent, amount_mc: int, *, deadline_s: int) -> None:
    """A hold as the gateway's scripts make it."""
    event_id = str(draft.event_id)
    text = f"{amount_mc} {draft.charge_mc} ".encode() + encode(draft)
    await meter.client.hset(redis_keys.holds(SHARD, ANA), event_id, text)
    await meter.client.hincrby(redis_keys.account(SHARD, ANA), "held", amount_mc)
    await meter.client.zadd(redis_keys.deadlines(SHARD), {f"{ANA}/{event_id}": deadline_s})


async def release(meter: Bench, draft: UsageEvent, amount_mc: int) -> None:
    await meter.client.hdel(redis_keys.holds(SHARD, ANA), str(draft.event_id))
    await meter.client.hincrby(redis_keys.account(SHARD, ANA), "held", -amount_mc)
    await meter.client.zrem(redis_keys.deadlines(SHARD), f"{ANA}/{draft.event_id}")
