"""M3: the entries of real calls reach the meter in any order, each up to three times."""

import random
from typing import Any

import asyncpg
from redis import asyncio as aioredis

from shared import events, ids, redis_keys
from shared.events import AccountSeen, UsageEvent
from tests.harness.chain import Chain
from tests.harness.lag import caught_up
from tests.harness.load import BODY, assert_truth

USERS = ("ana", "bia", "caio", "davi")
CALLS = 12
ROUNDS = 3
ALLOWANCE = "1000"


async def test_m3_entries_of_real_calls_in_any_order(chain: Chain) -> None:
    """Users who are announced by the stream itself, and calls that other gateways' retries could repeat: what each has
    is the allowance once, less each of its calls once."""
    await chain.stack.sundial("plan", "set", "default", "--allowance", ALLOWANCE)
    service = await chain.service()
    shuffle = random.Random(5)
    kinds: set[type] = set()
    for _ in range(ROUNDS):
        assert await chain.stack.meter.stop() == 0
        for number in range(CALLS):
            body = {**BODY, "stream": bool(number % 2)}
            status, _, _ = await chain.post(service, body, {"X-Sundial-User-Id": shuffle.choice(USERS)})
            assert status == 200
        kinds |= await shuffled(chain.stack.redis_url, shuffle)
        await chain.stack.meter.start()
        await caught_up(chain)
    assert kinds == {AccountSeen, UsageEvent}
    await assert_truth(chain.stack.database_url, chain.upstream)
    for user, spent_mc, given_mc in await accounts(chain):
        shown = await chain.settled(user)
        assert (given_mc, shown["balance"]) == (1000 * int(ALLOWANCE), given_mc - spent_mc)


async def shuffled(redis_url: str, shuffle: random.Random) -> set[type]:
    """Take every entry out and put it back, each up to three times, in another order. Returns what kinds there were."""
    kinds: set[type] = set()
    client: Any = aioredis.Redis.from_url(redis_url)
    async with client:
        for shard in range(ids.SHARDS):
            key = redis_keys.usage_stream(shard)
            entries = await client.xrange(key)
            payloads = [fields[b"d"] for _, fields in entries for _ in range(shuffle.randint(1, 3))]
            shuffle.shuffle(payloads)
            kinds |= {type(events.decode(payload)) for payload in payloads}
            if entries:
                await client.xdel(key, *(entry_id for entry_id, _ in entries))
            for payload in payloads:
                await client.xadd(key, {"d": payload})
    return kinds


async def accounts(chain: Chain) -> list[Any]:
    """External id, what it was charged and what it was given, in mc, of every account."""
    connection: Any = await asyncpg.connect(chain.stack.database_url)
    try:
        return list(
            await connection.fetch(
                """
                SELECT a.external_id,
                       (SELECT sum(charge_mc)::bigint FROM sundial.usage_events u WHERE u.account_id = a.account_id),
                       (SELECT sum(amount_mc)::bigint FROM sundial.grants g WHERE g.account_id = a.account_id)
                  FROM sundial.accounts a
                """
            )
        )
    finally:
        await connection.close()
