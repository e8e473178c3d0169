"""M4: entries that no meter can book, put on the stream by hand, and what becomes of each and of its neighbours."""

from typing import Any

import asyncpg
from redis import asyncio as aioredis

from meter.consumer import POISON_RUN_MAX
from shared import ids, redis_keys
from shared.events import UsageEvent, encode
from tests.harness.chain import Chain
from tests.harness.messages import account_of, used

ANA = account_of("ana")
SHARD = ids.shard_of(ANA)
STREAM = redis_keys.usage_stream(SHARD)
ELSEWHERE = ids.directory_id("elsewhere")


async def test_m4_poison_is_set_aside_and_its_neighbours_are_booked(chain: Chain) -> None:
    """Undecodable, of a later version, of an unknown account, of 1 MB, beyond every column: dead letters, each with its
    reason. Without a price, or charged otherwise by the gateway: booked, and flagged. A good entry between any two."""
    await chain.personal("ana", credit="1000")
    future = encode(used("ana", 1)).replace(b'"kind":"usage"', b'"kind":"usage","v":99')
    stranger = used("ana", 1, directory_id=ELSEWHERE, account_id=ids.account_id(ELSEWHERE, "ana"))
    large = encode(used("ana", 1, conversation="x" * 2**20))
    unpriced, differing = used("ana", 1, priced_as="gpt-7", charge_mc=77), used("ana", 1, charge_mc=5)
    dead = {
        "cannot be decoded": b"\xff{",
        "has version 99": future,
        "account unknown": encode(stranger),
        "above the limit": large,
        "out of int64 range": encode(used("ana", 1, hold_mc=2**63)),
    }
    good: list[UsageEvent] = []
    async with aioredis.Redis.from_url(chain.stack.redis_url) as client:
        for payload in (*dead.values(), encode(unpriced), encode(differing)):
            good.append(used("ana", 1))
            await client.xadd(STREAM, {"d": encode(good[-1])})
            await client.xadd(STREAM, {"d": payload})
    await chain.booked(len(good) + 2)
    letters = (await chain.stack.sundial("dead-letter", "list"))["dead_letters"]
    assert len(letters) == len(dead)
    found = {reason: [one for one in letters if reason in one["reason"]] for reason in dead}
    assert {reason: len(those) for reason, those in found.items()} == dict.fromkeys(dead, 1), letters
    assert found["has version 99"][0]["account_id"] == str(ANA)
    assert found["above the limit"][0]["event_id"]
    entries = (await chain.stack.sundial("statement", "ana"))["entries"]
    booked = {entry["event_id"]: (entry["amount"], entry["flags"]) for entry in entries if "event_id" in entry}
    assert booked.keys() == {str(one.event_id) for one in (*good, unpriced, differing)}
    assert booked[str(unpriced.event_id)] == (-77, ["unpriced"])
    assert booked[str(differing.event_id)] == (-2_000, ["charge_differs"])


async def test_m4_where_everything_looks_like_poison_that_reader_stops(chain: Chain) -> None:
    """More unreadable entries in a row than may be: the meter is not ready and puts none of them away; the other shards
    are booked all the same."""
    other = (SHARD + 1) % ids.SHARDS
    stream = redis_keys.usage_stream(other)
    await chain.personal("ana", credit="1000")
    async with aioredis.Redis.from_url(chain.stack.redis_url) as client:
        pipeline: Any = client.pipeline(transaction=True)
        for number in range(POISON_RUN_MAX + 1):
            pipeline.xadd(stream, {"d": b"?%d" % number})
        await pipeline.execute()
        await chain.stack.meter.until_ready(ready=False)
        await client.xadd(STREAM, {"d": encode(used("ana", 1))})
        await chain.booked(1)
        connection: Any = await asyncpg.connect(chain.stack.database_url)
        assert await connection.fetchval("SELECT count(*) FROM sundial.dead_letters") == 0
        await connection.close()
        assert await client.xlen(stream) == POISON_RUN_MAX + 1
        await chain.stack.meter.stop()
        await client.delete(stream)
    await chain.stack.meter.start()
