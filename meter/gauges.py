"""Measures how far the meter is behind, and whether the books have a month to be written to."""

from collections.abc import Sequence
from typing import Any

import structlog

from meter import metrics
from meter.audit import QUICK_RULES, quick_audit
from meter.queries import QUERIES
from shared import redis_keys

log = structlog.get_logger()


class Gauges:
    def __init__(self, client: Any, pool: Any, shards: Sequence[int]) -> None:
        self._client = client
        self._pool = pool
        self._shards = shards
        for rule in QUICK_RULES:
            metrics.VIOLATIONS.labels(rule=rule).set(0)

    async def measure_streams(self) -> bool:
        """Set the gauges of the streams, for which Postgres is not asked: while it is away they tell how far the books
        are behind. Raises redis-py's errors."""
        now_s, _ = await self._client.time()
        for shard in self._shards:
            key = redis_keys.usage_stream(shard)
            oldest = await self._client.xrange(key, count=1)
            age_s = max(0.0, now_s - int(oldest[0][0].partition(b"-")[0]) / 1000) if oldest else 0.0
            metrics.STREAM_LAG.labels(shard=shard).set(age_s)
            metrics.STREAM_ENTRIES.labels(shard=shard).set(await self._client.xlen(key))
            pending = await self._client.xpending(key, redis_keys.METER_GROUP) if oldest else {"pending": 0}
            metrics.STREAM_PENDING.labels(shard=shard).set(pending["pending"])
        return False

    async def measure_queues(self) -> bool:
        """Set the gauges of the queues and of what lies outside of every month. Raises asyncpg's errors."""
        row = await self._pool.fetchrow(QUERIES["queue_lengths"])
        metrics.ORDERS_QUEUED.set(row["orders"])
        metrics.ANNOUNCEMENTS_QUEUED.set(row["announcements"])
        metrics.DEAD_LETTERS.set(row["dead_letters"])
        metrics.UNPRICED_EVENTS.set(row["unpriced_events"])
        for table in ("transfers", "usage_events", "draws"):
            metrics.DEFAULT_PARTITION_ROWS.labels(table=table).set(row[table])
        return False

    async def keep_house(self) -> bool:
        """Open the coming months, and check the invariants that cost little. Raises asyncpg's errors."""
        await self._pool.execute(QUERIES["ensure_months"])
        async with self._pool.acquire() as connection:
            for rule, found in (await quick_audit(connection)).items():
                metrics.VIOLATIONS.labels(rule=rule).set(len(found))
                for one in found:
                    log.critical("an invariant is broken", rule=rule, subject=one.subject, detail=one.detail)
        return False
