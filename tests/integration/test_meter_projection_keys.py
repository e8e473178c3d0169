"""Keys, plans and prices in Redis: told, told again after a loss, and never older than they were."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meter.projection import key_record
from meter.queries import QUERIES
from shared import redis_keys
from shared.projection import decode_catalog, decode_key, encode_key
from tests.harness.metering import ALL_SHARDS, Bench
from tests.harness.projection_fixtures import ANA, SHA256, SHARD, changes, console, insert_key, meter

__all__ = ["console", "meter"]

pytestmark = pytest.mark.integration


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
