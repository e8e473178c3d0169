"""The meter's end on SIGTERM: it finishes its batch, leaves the rest to others, and exits 0, whatever is away."""

import asyncio
import signal
import time

from redis import asyncio as aioredis

from meter.app import DRAIN_S
from shared import ids, redis_keys
from tests.harness.chain import Chain
from tests.harness.lag import caught_up
from tests.harness.load import assert_truth, calling
from tests.harness.own_postgres import OwnPostgres
from tests.harness.waiting import until

SLACK_S = 10.0
"""Over DRAIN_S: closing connections, on a slow machine."""


async def pending(redis_url: str) -> int:
    """Entries that some meter has read and not acknowledged."""
    async with aioredis.Redis.from_url(redis_url) as client:
        streams = [redis_keys.usage_stream(shard) for shard in range(ids.SHARDS)]
        return sum([(await client.xpending(one, redis_keys.METER_GROUP))["pending"] for one in streams])


async def test_sigterm_under_load(chain: Chain) -> None:
    """SIGTERM again and again while calls come in: exit 0, nothing half done, and the next meter, of another name,
    books what was left."""
    secrets = [await chain.personal(user, credit="1000000") for user in ("ana", "bia")]
    async with calling(chain, *secrets) as load:
        for number in range(2):
            await load.more(10)
            chain.stack.meter.signal(signal.SIGTERM)
            assert await chain.stack.meter.ended() == 0
            assert await pending(chain.stack.redis_url) == 0
            await load.more(10)
            await chain.stack.meter.start(SUNDIAL_METER_NAME=f"meter-{number}")
    await assert_truth(chain.stack.database_url, chain.upstream)


async def test_sigterm_while_postgres_hangs(own_chain: Chain, own_postgres: OwnPostgres) -> None:
    """A batch that cannot be finished is given up in time, exit 0; it is booked, once, by the meter that comes next."""
    secret = await own_chain.personal("ana", credit="1000000")
    async with calling(own_chain, secret) as load:
        await load.more(5)
        own_postgres.pause()
        await load.more(5)
        await until(lambda: _owes(own_chain))
        told_s = time.monotonic()
        own_chain.stack.meter.signal(signal.SIGTERM)
        assert await own_chain.stack.meter.ended() == 0
        assert time.monotonic() - told_s < DRAIN_S + SLACK_S
        await load.more(5)
        own_postgres.resume()
        await own_chain.stack.meter.start()
        await caught_up(own_chain)
    await assert_truth(own_chain.stack.database_url, own_chain.upstream)


async def test_sigterm_while_postgres_is_away(own_chain: Chain, own_postgres: OwnPostgres) -> None:
    """A meter that waits for Postgres does not go on waiting: exit 0 at once."""
    secret = await own_chain.personal("ana", credit="1000000")
    await asyncio.to_thread(own_postgres.stop, "immediate")
    for _ in range(3):
        await own_chain.raw(secret, {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "oi"}]})
    await own_chain.stack.meter.until_ready(ready=False)
    assert await own_chain.stack.meter.stop() == 0
    own_postgres.start()
    await own_chain.stack.meter.start()
    await assert_truth(own_chain.stack.database_url, own_chain.upstream)


async def _owes(chain: Chain) -> bool:
    return await pending(chain.stack.redis_url) > 0
