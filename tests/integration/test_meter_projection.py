"""Redis says what Postgres says: accounts, keys and catalog; also after it has forgotten everything."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from meter import audit_projection
from meter.audit import audit
from meter.projection import TOLD_AT_ONCE_MAX, key_record
from meter.queries import QUERIES
from shared import ids, redis_keys
from shared.events import UsageEvent, encode
from shared.projection import decode_catalog, decode_key, encode_key
from tests.harness.books import assert_books
from tests.harness.messages import DIRECTORY, KEY_ID, account_of, seen, used
from tests.harness.metering import ALL_SHARDS, Bench, bench, entries
from tests.harness.servers import Database

pytestmark = pytest.mark.integration

ANA = account_of("ana")
SHARD = ids.shard_of(ANA)
SHA256 = "ab" * 32
STRANGERS = 90
"""Below the number of violations that are listed of one rule."""


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        await made.ledger.post(SHARD, entries([seen("ana", 10_000), seen("bia", 20_000), used("ana", 1)]))
        await made.projection.apply_by_id([ANA, account_of("bia")])
        yield made


@pytest.fixture
async def console(database: Database) -> AsyncIterator[Any]:
    connection: Any = await asyncpg.connect(database.console_url)
    yield connection
    await connection.close()


async def changes(meter: Bench) -> list[str]:
    return [fields[b"what"].decode() for _, fields in await meter.client.xrange(redis_keys.CHANGES)]


async def insert_key(console: Any, sha256: str = SHA256, key_id: UUID = KEY_ID) -> None:
    await console.execute(
        "INSERT INTO sundial.api_keys (key_id, sha256, hint, kind, directory_id, account_id, plan, created_by) "
        "VALUES ($1, $2, 'abcd', 'personal', $3, $4, 'default', 'test')",
        key_id,
        bytes.fromhex(sha256),
        DIRECTORY,
        ANA,
    )


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


async def test_keys_are_told_changed_and_taken_away(meter: Bench, console: Any) -> None:
    """A key is announced by its hash; a revoked one says so; one that Postgres does not have disappears."""
    await insert_key(console)
    await console.execute("INSERT INTO sundial.projection_queue (what) VALUES ($1)", f"key:{SHA256}")
    await meter.watch.pass_on()
    record = decode_key(await meter.client.hget(redis_keys.API_KEYS, SHA256))
    assert (record.kind, record.account_id, record.status) == ("personal", ANA, "active")
    await console.execute("UPDATE sundial.api_keys SET status = 'revoked', revoked_at = now()")
    await console.execute("INSERT INTO sundial.projection_queue (what) VALUES ($1)", f"key:{SHA256}")
    await meter.watch.pass_on()
    assert decode_key(await meter.client.hget(redis_keys.API_KEYS, SHA256)).status == "revoked"
    assert (await changes(meter)).count(f"key:{SHA256}") == 2
    await meter.client.hset(redis_keys.API_KEYS, "cd" * 32, b"{}")
    await meter.projection.publish_keys()
    assert await meter.client.hkeys(redis_keys.API_KEYS) == [SHA256.encode()]


async def revoke(meter: Bench, console: Any) -> None:
    """As the command does it, and passed on."""
    await console.execute("UPDATE sundial.api_keys SET status = 'revoked', revoked_at = now()")
    await console.execute("INSERT INTO sundial.projection_queue (what) VALUES ($1)", f"key:{SHA256}")
    await meter.watch.pass_on()


async def forget_epochs(client: Any) -> None:
    """What docs/reliability.md tells a person to do."""
    await client.delete(*(redis_keys.epoch(shard) for shard in ALL_SHARDS))


async def restart(client: Any) -> None:
    """Redis has another run id than it had: what is seen of it are epochs of another run."""
    await client.set(redis_keys.epoch(SHARD), "another-run/x")


async def fall_back(client: Any) -> None:
    """A server that was left behind is the primary again: its epoch is of its own run."""
    await client.decr(redis_keys.PASSED_ON)


@pytest.mark.parametrize("evidence", [forget_epochs, restart, fall_back])
async def test_older_keys_and_catalog_are_told_again(
    meter: Bench, console: Any, evidence: Callable[[Any], Awaitable[None]]
) -> None:
    """R2, R4: Redis comes back with what it was told before a key was revoked and a plan changed. Whatever shows it,
    both are told again, and gateways notice that what they followed is gone."""
    await insert_key(console)
    await meter.projection.publish_keys()
    keys = await meter.client.hgetall(redis_keys.API_KEYS)
    version = int(await meter.client.get(redis_keys.CATALOG_VERSION))
    await console.execute("UPDATE sundial.plans SET allowance_mc = 77 WHERE plan = 'default'")
    await meter.projection.publish_catalog()
    await revoke(meter, console)
    await meter.watch.look()
    await meter.client.hset(redis_keys.API_KEYS, mapping=keys)
    await meter.client.delete(redis_keys.KEY_REVISIONS)
    await meter.client.set(redis_keys.CATALOG_VERSION, version)
    followed = await meter.client.xrevrange(redis_keys.CHANGES, count=1)

    await evidence(meter.client)
    await meter.watch.look()
    assert decode_key(await meter.client.hget(redis_keys.API_KEYS, SHA256)).status == "revoked"
    told = int(await meter.client.get(redis_keys.CATALOG_VERSION))
    assert decode_catalog(await meter.client.get(redis_keys.catalog(told))).plans["default"].allowance_mc == 77
    assert followed[0] not in await meter.client.xrange(redis_keys.CHANGES)
    assert await changes(meter) == ["catalog"]
    await meter.watch.look()
    assert await changes(meter) == ["catalog"]


async def test_what_was_lost_is_told_again_though_a_round_has_passed_since(meter: Bench, console: Any) -> None:
    """The mark that shows it is raised by the next announcement; it was seen before."""
    await insert_key(console)
    await revoke(meter, console)
    await revoke(meter, console)
    await meter.watch.look()
    await meter.client.hdel(redis_keys.API_KEYS, SHA256)
    await meter.client.set(redis_keys.PASSED_ON, 1)
    await console.execute("INSERT INTO sundial.projection_queue (what) VALUES ('catalog')")
    await meter.watch.pass_on()
    await meter.watch.look()
    assert decode_key(await meter.client.hget(redis_keys.API_KEYS, SHA256)).status == "revoked"


@pytest.mark.parametrize("told", ["announced", "all"])
async def test_a_meter_that_slept_does_not_bring_a_revoked_key_back(
    meter: Bench, console: Any, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """M2: it has read the key while that was active; another meter tells of the revocation; then it wakes up."""
    await insert_key(console)
    tell = meter.projection._set_keys

    async def late(rows: Any) -> None:
        monkeypatch.undo()
        await revoke(meter, console)
        await tell(rows)

    monkeypatch.setattr(meter.projection, "_set_keys", late)
    if told == "announced":
        await meter.projection.publish_key([SHA256])
    else:
        await meter.projection.publish_keys()
    assert decode_key(await meter.client.hget(redis_keys.API_KEYS, SHA256)).status == "revoked"
    await meter.projection.publish_key([SHA256])
    assert decode_key(await meter.client.hget(redis_keys.API_KEYS, SHA256)).status == "revoked"


async def test_a_meter_that_slept_does_not_bring_an_older_catalog_back(
    meter: Bench, console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M2: it finds that another one was told since, and reads again; the version is that of what is true."""
    tell = meter.projection._set_catalog
    await console.execute("UPDATE sundial.plans SET allowance_mc = 76 WHERE plan = 'default'")

    async def late(before: int, catalog: Any) -> bool:
        monkeypatch.undo()
        await console.execute("UPDATE sundial.plans SET allowance_mc = 77 WHERE plan = 'default'")
        await meter.projection.publish_catalog()
        return await tell(before, catalog)

    monkeypatch.setattr(meter.projection, "_set_catalog", late)
    version = await meter.projection.publish_catalog()
    assert int(await meter.client.get(redis_keys.CATALOG_VERSION)) == version
    assert decode_catalog(await meter.client.get(redis_keys.catalog(version))).plans["default"].allowance_mc == 77


async def test_keys_of_a_story_that_is_lost_give_way(meter: Bench, console: Any) -> None:
    """P7: Postgres was put back to where the key had been changed less often; as soon as that is noticed it counts."""
    await insert_key(console)
    await meter.projection.publish_keys()
    of_the_story = encode_key(key_record(dict(await key_row(console), status="revoked")))
    await meter.client.hset(redis_keys.API_KEYS, SHA256, of_the_story)
    await meter.client.hset(redis_keys.KEY_REVISIONS, SHA256, 5)
    await meter.projection.publish_keys()
    assert await meter.client.hget(redis_keys.API_KEYS, SHA256) == of_the_story
    await meter.projection.publish_keys(anew=True)
    assert decode_key(await meter.client.hget(redis_keys.API_KEYS, SHA256)).status == "active"


async def key_row(console: Any) -> Any:
    return await console.fetchrow(QUERIES["keys_by_hash"], [bytes.fromhex(SHA256)])


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


async def test_a_catalog_is_told_only_where_it_says_something_new(meter: Bench, console: Any) -> None:
    """The version rises when a plan changes and stays when nothing does; the one before remains for a while."""
    first = int(await meter.client.get(redis_keys.CATALOG_VERSION))
    assert await meter.projection.publish_catalog() == first
    assert await changes(meter) == ["catalog"]
    await console.execute("UPDATE sundial.plans SET allowance_mc = 77, updated_at = now() WHERE plan = 'default'")
    await console.execute("INSERT INTO sundial.projection_queue (what) VALUES ('catalog')")
    await meter.watch.pass_on()
    second = int(await meter.client.get(redis_keys.CATALOG_VERSION))
    assert second > first
    catalog = decode_catalog(await meter.client.get(redis_keys.catalog(second)))
    assert (catalog.version, catalog.price_version, catalog.plans["default"].allowance_mc) == (second, 1, 77)
    assert set(catalog.cards) == {"cost@1", "tokens@1"}
    assert "gpt-4o-mini" in catalog.models
    assert await meter.client.ttl(redis_keys.catalog(first)) > 0
    assert await meter.client.ttl(redis_keys.catalog(second)) == -1


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


async def test_the_audit_names_what_redis_has_wrong(meter: Bench, database: Database, redis_url: str) -> None:
    """I9, I11: a wrong sum of holds, a lost event, an event that is booked and still counts, an overdue hold."""
    account = redis_keys.account(SHARD, ANA)
    await meter.client.hset(account, "held", 5)
    await meter.client.hset(redis_keys.unposted(SHARD, ANA), str(used("ana").event_id), 3)
    await meter.client.hset(account, "unposted", 3)
    await meter.client.zadd(redis_keys.deadlines(SHARD), {f"{ANA}/x": 1})
    found = {one.rule for one in await audit(database.url, redis_url)}
    assert found == {"held", "unposted", "holds"}


async def test_the_audit_names_accounts_that_only_redis_has(
    meter: Bench, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I11: each of them, once, in whatever page of them it stands."""
    monkeypatch.setattr(audit_projection, "_PAGE_ROWS", STRANGERS // 2 - 1)
    strangers = {account_of(f"nobody-{number}") for number in range(STRANGERS)}
    pipeline = meter.client.pipeline(transaction=False)
    for one in strangers:
        pipeline.hset(redis_keys.account(ids.shard_of(one), one), "balance", 1)
    await pipeline.execute()
    found = [one.subject for one in await audit(database.url, redis_url, quiet=True)]
    assert sorted(found) == sorted(f"account {one}" for one in strangers)


async def test_the_audit_compares_keys(
    meter: Bench, console: Any, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I11: one that is told otherwise, one that is not told, one that cannot be read, one that Postgres does not have;
    not what is still announced."""
    monkeypatch.setattr(audit_projection, "LOOKS_MAX", 2)
    ids_of = {sha256: UUID(int=number) for number, sha256 in enumerate((SHA256, "01" * 32, "02" * 32))}
    for sha256, key_id in ids_of.items():
        await insert_key(console, sha256, key_id)
    await console.execute(
        "INSERT INTO sundial.projection_queue (what) SELECT 'key:' || unnest($1::text[])", [*ids_of] * 2
    )
    assert await audit(database.url, redis_url) == []
    await meter.watch.pass_on()
    assert await audit(database.url, redis_url) == []
    await console.execute("UPDATE sundial.api_keys SET status = 'revoked' WHERE key_id = $1", ids_of[SHA256])
    await meter.client.hset(redis_keys.API_KEYS, "01" * 32, b"{")
    await meter.client.hdel(redis_keys.API_KEYS, "02" * 32)
    await meter.client.hset(redis_keys.API_KEYS, mapping={"03" * 32: b"{}", "rubbish": b"{}"})
    found = await audit(database.url, redis_url)
    assert {one.rule for one in found} == {"keys"}
    assert {one.subject: one.detail.partition(":")[0] for one in found} == {
        f"key {ids_of[SHA256]}": "status is active in Redis, revoked in Postgres",
        f"key {ids_of['01' * 32]}": "cannot be read in Redis",
        f"key {ids_of['02' * 32]}": "is in Postgres and not in Redis",
        "key of SHA-256 03030303": "is in Redis and not in Postgres",
        "key b'rubbish'": "is no SHA-256",
    }


async def test_the_audit_compares_the_catalog(
    meter: Bench, console: Any, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I11: what differs is named, but for what is still announced; a catalog that is missing is told too."""
    monkeypatch.setattr(audit_projection, "LOOKS_MAX", 2)
    await meter.watch.pass_on()
    await console.execute("UPDATE sundial.plans SET allowance_mc = 77 WHERE plan = 'default'")
    [found] = await audit(database.url, redis_url)
    assert (found.rule, found.detail) == ("catalog", "differs from Postgres in plan default")
    await console.execute("INSERT INTO sundial.projection_queue (what) VALUES ('catalog')")
    assert await audit(database.url, redis_url) == []
    await meter.watch.pass_on()
    assert await audit(database.url, redis_url) == []
    await meter.client.delete(redis_keys.CATALOG_VERSION)
    [found] = await audit(database.url, redis_url)
    assert (found.rule, found.detail) == ("catalog", "is not in Redis")


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
