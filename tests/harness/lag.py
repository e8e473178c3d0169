"""How far the books are behind the gateway: as the meter tells it, and as it is."""

from typing import Any

import aiohttp
from redis import asyncio as aioredis

from shared import ids, redis_keys
from tests.harness.chain import Chain
from tests.harness.waiting import until

HEAL_S_MAX = 10.0
"""I16: seconds from when Postgres and Redis answer again until the meter is ready and has booked what waited."""
FRESH_S = 1.0
"""An entry younger than this does not wait: calls go on while a test looks."""


async def metric(chain: Chain, name: str, **labels: str) -> float:
    """The largest value of a metric of the meter among its series with these labels; 0 where there is none."""
    async with aiohttp.ClientSession() as client, client.get(chain.stack.meter.url("/metrics")) as answer:
        lines = (await answer.text()).splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    values = [
        float(line.split()[-1])
        for line in lines
        if line.partition("{")[0].partition(" ")[0] == name and all(one in line for one in wanted)
    ]
    return max(values, default=0.0)


async def behind_s(redis_url: str) -> float:
    """Age of the oldest entry of any stream, in seconds."""
    async with aioredis.Redis.from_url(redis_url) as client:
        seconds, microseconds = await client.time()
        streams = [redis_keys.usage_stream(shard) for shard in range(ids.SHARDS)]
        oldest: list[Any] = [await client.xrange(stream, count=1) for stream in streams]
    born_ms = [int(entries[0][0].partition(b"-")[0]) for entries in oldest if entries]
    return max((seconds + microseconds / 1e6 - one / 1000 for one in born_ms), default=0.0)


async def lags(chain: Chain, seconds: float) -> None:
    """Wait until the meter's metrics tell a lag of more than this."""

    async def told() -> bool:
        return await metric(chain, "sundial_meter_stream_lag_seconds") > seconds

    await until(told, 30, f"a lag of {seconds} s is told")


async def caught_up(chain: Chain, seconds: float = HEAL_S_MAX) -> None:
    """Wait until the meter is ready and nothing waits to be booked."""

    async def reached() -> bool:
        async with aiohttp.ClientSession() as client, client.get(chain.stack.meter.url("/readyz")) as answer:
            return answer.status == 200 and await behind_s(chain.stack.redis_url) < FRESH_S

    await until(reached, seconds, "the meter is ready and has caught up")
