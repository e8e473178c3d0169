"""Takes out of Redis what it was told of another Postgres: one that was put back, or another one altogether.

For one shard, while its admission is closed and before its accounts are told anew:
  an account that Postgres has        its marks of age go, so that whatever is told next stands
  one that Postgres does not know     what was told of it goes: its user is announced again, with the plan's allowance
  a record that counts as unposted    it goes where no stream has it and no dead letter: a gateway tells it again from
                                      its journal, which it could not while Redis takes it for reported
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import structlog

from meter.queries import QUERIES
from meter.redis_link import Scripts
from meter.stream import fields_under_way
from shared import redis_keys

PAGE_KEYS: Final = 1_000
"""Keys that Redis looks at in one step."""
LOGGED_MAX: Final = 1_000
"""Accounts of one shard that are named in the log because Postgres is behind what Redis was told of them."""

_ACCOUNTS_BY_ID: Final = QUERIES["accounts_by_id"]
_OPEN_LETTERS: Final = QUERIES["open_letters"]

log = structlog.get_logger()


class StaleAccounts:
    """Raises asyncpg's and redis-py's errors; may be repeated from its beginning."""

    def __init__(self, client: Any, pool: Any) -> None:
        self._client = client
        self._pool = pool
        self._scripts = Scripts(client)

    async def wipe(self, shard: int) -> int:
        """Wipe the marks of every account of a shard. Returns of how many Postgres is behind what Redis was told."""
        behind = 0
        async for account_ids in self._pages(redis_keys.account(shard, "*")):
            known = {row["account_id"]: row for row in await self._pool.fetch(_ACCOUNTS_BY_ID, account_ids)}
            told = await self._told(shard, account_ids)
            for account_id, (seq, balance_mc) in told.items():
                row = known.get(account_id)
                if seq > (row["seq"] if row else 0):
                    behind += 1
                    if behind <= LOGGED_MAX:
                        _name(account_id, seq, balance_mc, row)
            pipeline = self._client.pipeline(transaction=False)
            for account_id in known:
                pipeline.hdel(redis_keys.account(shard, account_id), "seq", "revision", "announced")
            await pipeline.execute()
            strangers = [one for one in account_ids if one not in known]
            await self._scripts.run("disown", [(1, (redis_keys.account(shard, one),)) for one in strangers])
        return behind

    async def unposted(self, shard: int) -> Mapping[UUID, Sequence[str]]:
        """By account, the fields of unposted that nobody will book any more. What is unposted is read before the
        stream: an entry that is booked in between is told by its reader."""
        found: dict[UUID, list[str]] = {}
        async for account_ids in self._pages(redis_keys.unposted(shard, "*")):
            pipeline = self._client.pipeline(transaction=False)
            for account_id in account_ids:
                pipeline.hkeys(redis_keys.unposted(shard, account_id))
            for account_id, fields in zip(account_ids, await pipeline.execute(), strict=True):
                found[account_id] = [field.decode() for field in fields]
        if not found:
            return {}
        kept = await fields_under_way(self._client, shard)
        for row in await self._pool.fetch(_OPEN_LETTERS, list(found)):
            kept.add(redis_keys.unposted_field(row["event_id"], lost=row["lost"]))
        return {
            account_id: gone
            for account_id, fields in found.items()
            if (gone := [field for field in fields if field not in kept])
        }

    async def _pages(self, pattern: str) -> Any:
        """The accounts that have a key of this form, so many at a time."""
        cursor = 0
        while True:
            cursor, keys = await self._client.scan(cursor, match=pattern, count=PAGE_KEYS)
            if keys:
                yield [UUID(key.rpartition(b":")[2].decode()) for key in keys]
            if not cursor:
                return

    async def _told(self, shard: int, account_ids: Sequence[UUID]) -> dict[UUID, tuple[int, int]]:
        """Seq and balance (mc) of each account, as Redis has them."""
        pipeline = self._client.pipeline(transaction=False)
        for account_id in account_ids:
            pipeline.hmget(redis_keys.account(shard, account_id), "seq", "balance")
        answers = await pipeline.execute()
        return {one: (int(seq or 0), int(mc or 0)) for one, (seq, mc) in zip(account_ids, answers, strict=True)}


def _name(account_id: UUID, seq: int, balance_mc: int, row: Any) -> None:
    """The only trace of what the account was given, where that is lost."""
    log.error(
        "account is behind",
        account=str(account_id),
        seq_told=seq,
        balance_told_mc=balance_mc,
        seq=row["seq"] if row else None,
        balance_mc=row["balance_mc"] if row else None,
    )
