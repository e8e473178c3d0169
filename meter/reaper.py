"""Closes the holds of gateways that are not heard of any more: charged at their last note, by script, in Redis.

The event that the script reports comes back through the stream and is booked like any other.
"""

from collections.abc import Sequence
from typing import Any, Final

import structlog

from meter import metrics
from meter.redis_link import Scripts
from shared import redis_keys

HOLDS_MAX: Final = 200
"""Holds of one shard that are closed in one round."""

log = structlog.get_logger()


class Reaper:
    def __init__(self, client: Any, shards: Sequence[int]) -> None:
        self._client = client
        self._shards = shards
        self._scripts = Scripts(client)

    async def reap(self) -> bool:
        """Close what is past its deadline; True where there may be more. Raises redis-py's errors."""
        now_s, _ = await self._client.time()
        overdue = 0
        full = False
        for shard in self._shards:
            due = await self._client.zrangebyscore(redis_keys.deadlines(shard), "-inf", now_s, start=0, num=HOLDS_MAX)
            overdue += len(due)
            full = full or len(due) == HOLDS_MAX
            await self._close(shard, [member.decode().split("/", 1) for member in due])
        metrics.HOLDS_OVERDUE.set(overdue)
        return full

    async def _close(self, shard: int, holds: Sequence[Sequence[str]]) -> None:
        if not holds:
            return
        calls = [
            (
                5,
                (
                    redis_keys.account(shard, account_id),
                    redis_keys.holds(shard, account_id),
                    redis_keys.unposted(shard, account_id),
                    redis_keys.deadlines(shard),
                    redis_keys.usage_stream(shard),
                    account_id,
                    event_id,
                ),
            )
            for account_id, event_id in holds
        ]
        answers = await self._scripts.run("expire", calls)
        expired = sum(answer[0] == b"expired" for answer in answers)
        if expired:
            metrics.HOLDS_EXPIRED.inc(expired)
            log.warning("holds expired", shard=shard, holds=expired)
