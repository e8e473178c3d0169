"""Keeps the projection true: watches for a Redis that has forgotten, and passes on what changed among the masters."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import structlog

from meter import metrics
from meter.database import transaction
from meter.projection import Projection
from meter.queries import QUERIES
from meter.redis_link import server
from shared import epochs, redis_keys

CHANNEL: Final = "sundial_projection"
"""Notified by whoever adds to the projection queue."""
ANNOUNCEMENTS_MAX: Final = 500
"""Announcements that are passed on in one transaction."""

_TAKE_ANNOUNCEMENTS: Final = QUERIES["take_announcements"]

log = structlog.get_logger()


class ProjectionWatch:
    def __init__(self, client: Any, pool: Any, projection: Projection, shards: Sequence[int]) -> None:
        self._client = client
        self._pool = pool
        self._projection = projection
        self._shards = shards
        self._published = False

    async def look(self) -> bool:
        """Tell Redis what it lacks: keys and catalog first, then shard by shard the accounts and the epoch.

        A missing epoch means that Redis has forgotten, another run id that it has restarted and may have forgotten the
        last seconds: the balances are told again. Raises asyncpg's and redis-py's errors.
        """
        run_id = (await server(self._client)).run_id
        if not self._published or not await self._client.exists(redis_keys.CATALOG_VERSION):
            await self._projection.publish_keys()
            metrics.CATALOG_VERSION.set(await self._projection.publish_catalog())
            self._published = True
        accounts: Counter[str] = Counter()
        for shard in self._shards:
            epoch = await self._projection.epoch(shard)
            if epoch is None or epochs.run_id_of(epoch) != run_id:
                reason = "epoch" if epoch is None else "restart"
                accounts[reason] += await self._projection.rebuild(shard, run_id, before=epoch)
                metrics.REBUILDS.labels(reason=reason).inc()
        for reason, told in accounts.items():
            log.info("projection rebuilt", reason=reason, accounts=told)
        return False

    async def pass_on(self) -> bool:
        """Tell Redis what is announced in the queue; True where there may be more.

        The announcements are gone once Redis has been told. Raises asyncpg's and redis-py's errors.
        """
        async with transaction(self._pool) as connection:
            taken = {row["what"] for row in await connection.fetch(_TAKE_ANNOUNCEMENTS, ANNOUNCEMENTS_MAX)}
            named = {kind: [what.partition(":")[2] for what in taken if what.startswith(f"{kind}:")] for kind in _KINDS}
            await self._projection.apply_by_id([UUID(one) for one in named["account"]])
            await self._projection.publish_key(named["key"])
            if "catalog" in taken:
                metrics.CATALOG_VERSION.set(await self._projection.publish_catalog())
        return len(taken) == ANNOUNCEMENTS_MAX


_KINDS: Final = ("account", "key")
