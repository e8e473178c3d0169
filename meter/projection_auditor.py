"""Looks without end whether Redis says what Postgres says (I9, I11), a few accounts at a time.

What is under way arrives in a moment, so what looks wrong is looked at again before it counts (meter.audit_projection).
It is told until a later look finds it right. What the next look finds wrong again is set right: the books are the truth
of what they say, the parts that of their sums.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import structlog

from meter import metrics
from meter.audit_projection import ACCOUNTS_OF_SHARD, audit_page
from meter.projection import Projection
from meter.violation import Violation
from shared import redis_keys

PROJECTION_RULES: Final = ("projection", "held", "unposted")
_SUMS: Final = {"held", "unposted"}
LOOK_ACCOUNTS_MAX: Final = 100
"""Accounts of one look."""
STREAM_ENTRIES_MAX: Final = 2_000
"""Entries of a shard's stream above which its accounts are passed over: each look would read all of them."""

log = structlog.get_logger()


class ProjectionAuditor:
    """Of a meter's own shards."""

    def __init__(self, client: Any, pool: Any, projection: Projection, shards: Sequence[int]) -> None:
        self._client = client
        self._pool = pool
        self._projection = projection
        self._shards = list(shards)
        self._turn = 0
        self._after = UUID(int=0)
        self._wrong: dict[UUID, list[Violation]] = {}
        self._count()

    @property
    def found(self) -> list[Violation]:
        return [one for found in self._wrong.values() for one in found]

    async def look(self) -> bool:
        """Look at the next accounts of a shard; a round of meter.rounds. Raises asyncpg's and redis-py's errors."""
        shard = self._shards[self._turn]
        rows = []
        if await self._client.xlen(redis_keys.usage_stream(shard)) <= STREAM_ENTRIES_MAX:
            rows = await self._pool.fetch(ACCOUNTS_OF_SHARD, self._after, LOOK_ACCOUNTS_MAX, shard)
        if rows:
            await self._look_at(rows)
        if len(rows) < LOOK_ACCOUNTS_MAX:
            self._turn, self._after = (self._turn + 1) % len(self._shards), UUID(int=0)
        else:
            self._after = rows[-1]["account_id"]
        return False

    async def _look_at(self, rows: list[Any]) -> None:
        async with self._pool.acquire() as connection:
            wrong = await audit_page(connection, self._client, rows, quiet=False)
        await self._correct({account_id: self._lasting(account_id, found) for account_id, found in wrong.items()})
        for row in rows:
            account_id = row["account_id"]
            found = wrong.get(account_id, [])
            for one in found:
                if one not in self._wrong.get(account_id, ()):
                    log.critical("an invariant is broken", rule=one.rule, subject=one.subject, detail=one.detail)
            if found:
                self._wrong[account_id] = found
            else:
                self._wrong.pop(account_id, None)
        self._count()

    def _lasting(self, account_id: UUID, found: list[Violation]) -> set[str]:
        """Rules that an account breaks as it did a look ago: in the very same way, as a user who was just seen has lent
        credit; but sums move with each call, and are never what their parts are not."""
        before = self._wrong.get(account_id, [])
        again = {one.rule for one in found} & {one.rule for one in before}
        return (again & _SUMS) | {one.rule for one in found if one in before}

    async def _correct(self, lasting: Mapping[UUID, set[str]]) -> None:
        """What can be set right without knowing how it came to be wrong. The next look says whether it is."""
        untrue = [account_id for account_id, rules in lasting.items() if "projection" in rules]
        if untrue:
            await self._projection.apply_by_id(untrue)
            metrics.CORRECTED.labels(rule="projection").inc(len(untrue))
        sums = await self._projection.recount(one for one, rules in lasting.items() if rules & _SUMS)
        metrics.CORRECTED.labels(rule="sums").inc(sums)
        if untrue or sums:
            log.error("numbers in Redis were set right", accounts=len(untrue), sums=sums)

    def _count(self) -> None:
        for rule in PROJECTION_RULES:
            metrics.VIOLATIONS.labels(rule=rule).set(sum(one.rule == rule for one in self.found))
