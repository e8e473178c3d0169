"""Keeps the projection true: watches for a Redis that has forgotten and for a Postgres that is older than it was, and
passes on what changed among the masters."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import structlog

from meter import metrics
from meter.database import transaction
from meter.marks import check
from meter.projection import Projection
from meter.queries import QUERIES
from meter.redis_link import server
from shared import epochs, redis_keys

CHANNEL: Final = "sundial_projection"
"""Notified by whoever adds to the projection queue."""
ANNOUNCEMENTS_MAX: Final = 500
"""Announcements that are passed on in one transaction."""

_TAKE_ANNOUNCEMENTS: Final = QUERIES["take_announcements"]
_COUNT_ROUND: Final = QUERIES["count_round"]

log = structlog.get_logger()


class ProjectionWatch:
    def __init__(self, client: Any, pool: Any, projection: Projection, shards: Sequence[int]) -> None:
        self._client = client
        self._pool = pool
        self._projection = projection
        self._marks = projection.marks
        self._shards = shards
        self._published = False
        self._passed_on = 0
        """Rounds that Redis said were passed on: where it says less, it has lost what they told."""
        self._lost = False
        """Redis may lack what it was told of keys, prices and plans, and the gateways with it."""
        self._restorations = 0
        self._restored = False
        """Gateways still have keys and prices of the story that was lost."""
        self.on_restoration: list[Callable[[], None]] = []
        """Called once Postgres was found older than it was: what is kept in memory of it may be of another story."""

    async def look(self) -> bool:
        """Tell Redis what it lacks: keys and catalog first, then shard by shard the accounts and the epoch.

        A missing epoch means that Redis has forgotten, another run id that it has restarted and may have forgotten the
        last seconds, or came back with older data: all is told again, as nobody announces any more what it has lost.
        Where Postgres is behind what Redis was told, Redis is made to forget. Raises asyncpg's and redis-py's errors.
        """
        await self._look_for_restoration()
        run_id = (await server(self._client)).run_id
        found = [(shard, await self._projection.epoch(shard)) for shard in self._shards]
        lacking = [(shard, epoch) for shard, epoch in found if epoch is None or epochs.run_id_of(epoch) != run_id]
        await self._publish(lost=bool(lacking), anew=any(epoch is None for _, epoch in lacking))
        accounts: Counter[str] = Counter()
        for shard, epoch in lacking:
            reason = "epoch" if epoch is None else "restart"
            after = epochs.following(epoch, run_id)
            accounts[reason] += await self._projection.rebuild(shard, after, anew=epoch is None)
            metrics.REBUILDS.labels(reason=reason).inc()
        for reason, told in accounts.items():
            log.info("projection rebuilt", reason=reason, accounts=told)
        return False

    async def _publish(self, *, lost: bool, anew: bool) -> None:
        """Tell keys and catalog, where this meter has not yet, or Redis may lack some of it.

        Epochs come after it: who dies in between leaves the evidence.
        """
        self._compare(await self._marks.passed_on())
        self._lost |= lost or self._restored or not await self._client.exists(redis_keys.CATALOG_VERSION)
        if self._published and not self._lost:
            return
        await self._marks.tell_announcements(self._pool)
        await self._projection.publish_keys(anew=anew or self._restored)
        metrics.CATALOG_VERSION.set(await self._projection.publish_catalog())
        if self._lost:
            await self._projection.announce_all()
        self._passed_on = await self._marks.passed_on()
        self._lost, self._restored, self._published = False, False, True

    def _compare(self, passed_on: int) -> None:
        """With a failover back to a server that was left behind, the run id may say nothing: this mark does."""
        self._lost |= passed_on < self._passed_on
        self._passed_on = max(self._passed_on, passed_on)

    async def _look_for_restoration(self) -> None:
        """Whether Postgres is older than it was, as this meter sees or another one has said: forget all of it then."""
        for one in (behind := await self._marks.behind(self._pool)):
            log.critical("Postgres is older than it was", what=one.what, told=one.told, found=one.found)
        if behind:
            await self._marks.forget(behind)
        known, self._restorations = self._restorations, await self._marks.restorations()
        metrics.RESTORATIONS.set(self._restorations)
        if self._restorations > known:
            self._restored, self._published = True, False
            for forget in self.on_restoration:
                forget()

    async def pass_on(self) -> bool:
        """Tell Redis what is announced in the queue; True where there may be more.

        The announcements are gone once Redis has been told. Raises asyncpg's and redis-py's errors, and
        LedgerBehindError.
        """
        rounds = 0
        async with transaction(self._pool) as connection:
            taken = {row["what"] for row in await connection.fetch(_TAKE_ANNOUNCEMENTS, ANNOUNCEMENTS_MAX)}
            if taken:
                self._compare(told := await self._marks.passed_on())
                rounds = await connection.fetchval(_COUNT_ROUND)
                check("rounds of announcements", rounds - 1, told)
                await self._tell(taken)
        if rounds:
            await self._marks.tell_passed_on(rounds)
        return len(taken) == ANNOUNCEMENTS_MAX

    async def _tell(self, taken: set[str]) -> None:
        named = {kind: [what.partition(":")[2] for what in taken if what.startswith(f"{kind}:")] for kind in _KINDS}
        await self._projection.apply_by_id([UUID(one) for one in named["account"]])
        await self._projection.publish_key(named["key"])
        if "catalog" in taken:
            metrics.CATALOG_VERSION.set(await self._projection.publish_catalog())


_KINDS: Final = ("account", "key")
