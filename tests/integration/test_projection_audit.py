"""The audit names what Redis has wrong: accounts, holds, keys and catalog."""

from typing import Any
from uuid import UUID

import pytest

from meter import audit_projection
from meter.audit import audit
from shared import ids, redis_keys
from tests.harness.messages import account_of, used
from tests.harness.metering import Bench
from tests.harness.projection_fixtures import ANA, SHA256, SHARD, console, insert_key, meter
from tests.harness.servers import Database

__all__ = ["console", "meter"]

pytestmark = pytest.mark.integration

STRANGERS = 90
"""Below the number of violations that are listed of one rule."""


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
