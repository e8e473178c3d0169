"""Marks in Redis of how far the books were when it was told of them. By them the meter notices an older Postgres: one
that was put back to a backup, or whose successor lacks the last commits.

  booked, per shard   entries of its stream that were dealt with (stream_positions.entries)
  passed on           rounds of announcements: grants, keys, plans, prices (projection_position.rounds)

Each is told after its commit, and with all that Redis is told anew, and read before the next transaction. So Postgres
is never behind a mark, unless it is older than it was. A transaction that finds it so undoes itself, as its end would
hide it; the next look at the marks makes Redis forget (meter.projection_watch); gateways tell their journals again.
"""

from typing import Any, Final

import msgspec

from meter.queries import QUERIES
from meter.redis_link import Scripts
from shared import ids, redis_keys

_STREAM_ENTRIES: Final = QUERIES["stream_entries"]
_ENTRIES_OF_SHARD: Final = QUERIES["entries_of_shard"]
_PROJECTION_ROUNDS: Final = QUERIES["projection_rounds"]


class LedgerBehindError(Exception):
    """Postgres is older than what Redis was told. Nothing is done until Redis has been told anew."""


class Behind(msgspec.Struct, frozen=True):
    """A count of Postgres that is smaller than it was when Redis was told."""

    what: str
    mark: str
    """The key in Redis."""
    told: int
    found: int


class Marks:
    """Reads and writes the marks. Raises redis-py's errors."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._scripts = Scripts(client)

    async def booked(self, shard: int) -> int:
        """Entries of a shard's stream that Postgres had dealt with; 0 where Redis has forgotten."""
        return int(await self._client.get(redis_keys.booked(shard)) or 0)

    async def passed_on(self) -> int:
        return int(await self._client.get(redis_keys.PASSED_ON) or 0)

    async def tell_booked(self, shard: int, entries: int) -> None:
        """Before Redis is told of what was booked: whoever sleeps in between has told what heals it."""
        await self._scripts.run("mark", [(1, (redis_keys.booked(shard), entries))])

    async def tell_passed_on(self, rounds: int) -> None:
        await self._scripts.run("mark", [(1, (redis_keys.PASSED_ON, rounds))])

    async def tell_shard(self, pool: Any, shard: int) -> None:
        """Before a shard is told anew what Postgres says: a Redis that has forgotten has lost its mark too. Raises
        asyncpg's errors too."""
        await self.tell_booked(shard, await pool.fetchval(_ENTRIES_OF_SHARD, shard) or 0)

    async def tell_announcements(self, pool: Any) -> None:
        """The same for keys and catalog."""
        await self.tell_passed_on(await pool.fetchval(_PROJECTION_ROUNDS))

    async def restorations(self) -> int:
        """How often an older Postgres was noticed, since Redis began."""
        return int(await self._client.get(redis_keys.RESTORATIONS) or 0)

    async def behind(self, pool: Any) -> list[Behind]:
        """Where Postgres is behind what Redis was told. Raises asyncpg's errors too."""
        marks = {redis_keys.booked(shard): f"shard {shard}" for shard in range(ids.SHARDS)}
        marks[redis_keys.PASSED_ON] = "announcements"
        pipeline = self._client.pipeline(transaction=False)
        for key in marks:
            pipeline.get(key)
        told = dict(zip(marks, await pipeline.execute(), strict=True))
        found = {redis_keys.booked(row["shard"]): row["entries"] for row in await pool.fetch(_STREAM_ENTRIES)}
        found[redis_keys.PASSED_ON] = await pool.fetchval(_PROJECTION_ROUNDS)
        return [
            Behind(what, key, int(told[key]), found.get(key, 0))
            for key, what in marks.items()
            if told[key] is not None and int(told[key]) > found.get(key, 0)
        ]

    async def forget(self, behind: list[Behind]) -> None:
        """Close admission until each shard has been told anew by the meter that reads it.

        The marks that tell of it go last: should this meter die before, the next one sees the same.
        """
        # By the script, which a Redis without memory runs too: INCR it refuses, and nobody would read on.
        await self._scripts.run("mark", [(1, (redis_keys.RESTORATIONS, await self.restorations() + 1))])
        told = {one.mark for one in behind}
        for shard in sorted(range(ids.SHARDS), key=lambda shard: redis_keys.booked(shard) in told):
            await self._client.delete(redis_keys.epoch(shard), redis_keys.booked(shard))
        await self._client.delete(redis_keys.PASSED_ON)


def check(what: str, found: int, told: int) -> None:
    """Raises LedgerBehindError where Postgres has less than Redis was told."""
    if found < told:
        raise LedgerBehindError(f"{what}: Postgres says {found}, but Redis was told {told}")
