"""The meter's parts in the test's own process, on real servers, with the rights that the meter has in production."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from meter import database as connections
from meter import redis_link
from meter.consumer import Reader
from meter.corrections import Corrections
from meter.dead_letters import DeadLetters
from meter.health import Health
from meter.ledger import Ledger
from meter.orders import Orders
from meter.posting import Entry
from meter.prices import PriceBook
from meter.projection import Projection
from meter.projection_watch import ProjectionWatch
from meter.reaper import Reaper
from meter.seeds import seed_masters
from meter.stream import ShardStream
from meter.tariffs import Tariffs
from shared import ids, redis_keys
from shared.events import StreamMessage, UsageEvent, encode
from tests.harness.servers import Database

ALLOWANCE_MC = 1_000_000
ALL_SHARDS = range(ids.SHARDS)
BLOCK_MS = 40
"""How long a reader of a test waits for an entry, so that a stop is quick."""


class Bench:
    """Parts of one meter, each to be called by hand."""

    def __init__(self, pool: Any, client: Any) -> None:
        self.pool = pool
        self.client = client
        prices = PriceBook()
        tariffs = Tariffs(prices)
        self.ledger = Ledger(pool, tariffs)
        self.projection = Projection(client, pool, prices)
        self.watch = ProjectionWatch(client, pool, self.projection, ALL_SHARDS)
        self.orders = Orders(pool, ALL_SHARDS)
        self.corrections = Corrections(pool, tariffs, ALL_SHARDS)
        self.dead_letters = DeadLetters(pool, self.ledger, self.projection, ALL_SHARDS)
        self.reaper = Reaper(client, ALL_SHARDS)

    async def say(self, *messages: StreamMessage) -> None:
        """Put messages on the streams as a gateway's scripts do: a usage event counts as unposted."""
        for message in messages:
            shard = ids.shard_of(message.account_id)
            if isinstance(message, UsageEvent):
                charge_mc = message.charge_mc
                field = redis_keys.unposted_field(message.event_id, lost=message.lost)
                key = redis_keys.unposted(shard, message.account_id)
                if await self.client.hsetnx(key, field, charge_mc):
                    account = redis_keys.account(shard, message.account_id)
                    await self.client.hincrby(account, "unposted", charge_mc)
            await self.client.xadd(redis_keys.usage_stream(shard), {"d": encode(message)})

    def reader(self, shard: int, stop: asyncio.Event, consumer: str = "bench", health: Health | None = None) -> Reader:
        stream = ShardStream(self.client, shard, consumer, block_ms=BLOCK_MS)
        return Reader(shard, stream, self.ledger, self.projection, health or Health(), stop)

    @asynccontextmanager
    async def reading(self, consumer: str = "bench", shards: Iterable[int] = ALL_SHARDS) -> AsyncIterator[None]:
        """Readers of the shards, working in the background."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for shard in shards:
                tasks.create_task(self.reader(shard, stop, consumer).run())
            try:
                yield
            finally:
                stop.set()

    async def settle_orders(self) -> None:
        """Do all that is ordered, take back all that has expired, and tell Redis."""
        while await self.dead_letters.answer():
            pass
        while await self.orders.post() or await self.orders.expire():
            pass
        while await self.watch.pass_on():
            pass


@asynccontextmanager
async def bench(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    """A bench on a seeded database, whose plan `default` has no allowance but that of the messages."""
    owner: Any = await asyncpg.connect(database.url)
    await seed_masters(owner, ALLOWANCE_MC)
    await owner.close()
    async with connections.pool(database.meter_url) as pool, redis_link.connect(redis_url) as client:
        made = Bench(pool, client)
        await made.watch.look()
        yield made


def entries(messages: Iterable[StreamMessage]) -> list[Entry]:
    """Messages as a batch, with entry ids in order."""
    return [Entry(f"1-{number}", encode(message), message) for number, message in enumerate(messages, 1)]
