"""What the meter tells the gateways through Redis, each part in one function. Postgres has the truth; all of this may
be repeated, and late repeats do no harm."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from meter.accounts import Account
from meter.marks import Marks
from meter.prices import PriceBook
from meter.queries import QUERIES
from meter.redis_link import Scripts
from meter.stale_accounts import StaleAccounts
from meter.tariffs import rate_cards
from shared import ids, redis_keys
from shared.projection import Catalog, KeyRecord, Plan, decode_catalog, encode_catalog, encode_key

PAGE_ROWS: Final = 1_000
"""Accounts or keys that are read and told at once."""
TOLD_AT_ONCE_MAX: Final = 64
"""Accounts or keys of one call of a script: it keeps Redis from the gateways for a third of a millisecond."""
CATALOG_KEPT_S: Final = 24 * 3600
"""How long a catalog stays after the next one has replaced it, for gateways that are just reading it."""

_OLDER_THAN_ANY: Final = -2
"""A seq and a revision by which Redis is told nothing, see shared/lua/apply.lua."""

_ACCOUNTS_OF_SHARD: Final = QUERIES["accounts_of_shard"]
_ACCOUNTS_BY_ID: Final = QUERIES["accounts_by_id"]
_KEYS_AFTER: Final = QUERIES["keys_after"]
_KEYS_BY_HASH: Final = QUERIES["keys_by_hash"]
_PLANS: Final = QUERIES["plans"]
_NEWEST_PRICE_VERSION: Final = QUERIES["newest_price_version"]
_READ_CLOCK: Final = QUERIES["read_clock"]

log = structlog.get_logger()


class Projection:
    """Writes the projection. One for all tasks of a meter."""

    def __init__(self, client: Any, pool: Any, prices: PriceBook) -> None:
        self._client = client
        self._pool = pool
        self._prices = prices
        self._scripts = Scripts(client)
        self._stale = StaleAccounts(client, pool)
        self.marks = Marks(client)

    # Accounts

    async def apply(self, accounts: Iterable[Account], posted: Mapping[UUID, Sequence[str]]) -> int:
        """Tell what was committed; the fields that are `posted` stop counting as unposted, in the same step as their
        account's balance is told, and also where their account is none of `accounts`. Returns how many did.

        Raises redis-py's errors.
        """
        told = list(accounts)
        strangers = posted.keys() - {one.account_id for one in told} if posted else ()
        told += [_stranger(account_id) for account_id in strangers]
        return sum(await self._scripts.run("apply", _apply_calls(told, posted))) if told else 0

    async def apply_by_id(
        self, account_ids: Collection[UUID], posted: Mapping[UUID, Sequence[str]] | None = None
    ) -> None:
        """Tell how these accounts stand in Postgres, and what is `posted`. Raises asyncpg's and redis-py's errors."""
        since = await self.marks.restorations()
        rows = await self._pool.fetch(_ACCOUNTS_BY_ID, list(account_ids))
        await self.apply([_account(row) for row in rows], posted or {})
        await self._overtaken(since, {row["shard"] for row in rows})

    async def recount(self, account_ids: Iterable[UUID]) -> int:
        """Make what is held and unposted of these accounts what the parts come to. Returns how many sums were wrong.

        Raises redis-py's errors.
        """
        named = [(ids.shard_of(account_id), account_id) for account_id in account_ids]
        calls = [(3, (redis_keys.account(*one), redis_keys.holds(*one), redis_keys.unposted(*one))) for one in named]
        return sum(await self._scripts.run("recount", calls)) if calls else 0

    async def epoch(self, shard: int) -> str | None:
        """The mark of the shard's last rebuild, see shared.epochs; None where Redis has forgotten."""
        found = await self._client.get(redis_keys.epoch(shard))
        return None if found is None else str(found.decode())

    async def rebuild(self, shard: int, epoch: str, *, anew: bool) -> int:
        """Tell every account of a shard, then set its epoch, which opens admission. Returns the number of accounts.

        `anew`: it had none. What Redis still has, of whatever origin, is overwritten (see meter.stale_accounts).
        Raises asyncpg's and redis-py's errors.
        """
        since = await self.marks.restorations()
        if anew:
            behind = await self._stale.wipe(shard)
            if behind:
                log.error("accounts are behind", shard=shard, accounts=behind)
            await self.apply((), await self._stale.unposted(shard))
        await self.marks.tell_shard(self._pool, shard)
        told = 0
        after = UUID(int=0)
        while True:
            rows = await self._pool.fetch(_ACCOUNTS_OF_SHARD, shard, after, PAGE_ROWS)
            if not rows:
                break
            after = rows[-1]["account_id"]
            await self.apply([_account(row) for row in rows], {})
            told += len(rows)
        if await self._overtaken(since, (shard,)):
            return told
        # One that has gone meanwhile is missed at the next look: Redis has forgotten then, it was not only restarted.
        await self._client.set(redis_keys.epoch(shard), epoch, xx=not anew)
        return told

    async def _overtaken(self, since: int, shards: Collection[int]) -> bool:
        """Whether an older Postgres has been noticed since there were `since` restorations. What was read of it in
        between may be of the story that is lost, and stands in Redis as newer than all that follows: these shards are
        to be told anew."""
        if await self.marks.restorations() == since:
            return False
        for shard in shards:
            await self._client.delete(redis_keys.epoch(shard))
        return True

    # Keys

    async def publish_keys(self, *, anew: bool = False) -> None:
        """Tell every key, and take away what is none. Raises asyncpg's and redis-py's errors.

        `anew`: what Redis was told before may be of a story that Postgres does not know, and gives way whatever its
        revision.
        """
        if anew:
            await self._client.delete(redis_keys.KEY_REVISIONS)
        told = set(await self._client.hkeys(redis_keys.API_KEYS))
        after = b""
        while True:
            rows = await self._pool.fetch(_KEYS_AFTER, after, PAGE_ROWS)
            if not rows:
                break
            after = bytes.fromhex(rows[-1]["sha256"])
            await self._set_keys(rows)
            told -= {row["sha256"].encode() for row in rows}
        if told:
            await self._client.hdel(redis_keys.API_KEYS, *told)

    async def announce_all(self) -> None:
        """Let every gateway load keys and catalog anew: what it follows is gone. Raises redis-py's errors."""
        await self._client.delete(redis_keys.CHANGES)
        await self._announce("catalog")

    async def publish_key(self, hashes: Collection[str]) -> None:
        """Tell the keys with these SHA-256 (hex), and that they changed."""
        if not hashes:
            return
        rows = await self._pool.fetch(_KEYS_BY_HASH, [bytes.fromhex(one) for one in hashes])
        await self._set_keys(rows)
        for row in rows:
            await self._announce(f"key:{row['sha256']}")

    async def _set_keys(self, rows: Sequence[Any]) -> None:
        calls = []
        for start in range(0, len(rows), TOLD_AT_ONCE_MAX):
            told: list[Any] = [redis_keys.API_KEYS, redis_keys.KEY_REVISIONS]
            for row in rows[start : start + TOLD_AT_ONCE_MAX]:
                told += (row["sha256"], row["revision"], encode_key(key_record(row)))
            calls.append((2, told))
        if calls:
            await self._scripts.run("tell_keys", calls)

    # Catalog

    async def publish_catalog(self) -> int:
        """Tell prices, cards and plans, where they are not what the newest catalog says. Returns its version.

        Raises asyncpg's and redis-py's errors.
        """
        while True:
            before = int(await self._client.get(redis_keys.CATALOG_VERSION) or 0)
            known = await self._client.get(redis_keys.catalog(before)) if before else None
            async with self._pool.acquire() as connection:
                catalog = await read_catalog(connection, self._prices)
                now_ms: int = await connection.fetchval(_READ_CLOCK) // 1000
            catalog = msgspec.structs.replace(catalog, version=before)
            if known is not None and decode_catalog(known) == catalog:
                return before
            version = max(before + 1, now_ms)
            if await self._set_catalog(before, msgspec.structs.replace(catalog, version=version)):
                await self._announce("catalog")
                return version

    async def _set_catalog(self, before: int, catalog: Catalog) -> bool:
        """False where another catalog was told since `before` was read: this one may be older."""
        keys = (redis_keys.CATALOG_VERSION, redis_keys.catalog(catalog.version))
        [told] = await self._scripts.run(
            "tell_catalog", [(2, (*keys, before, catalog.version, encode_catalog(catalog)))]
        )
        if told:
            await self._client.expire(redis_keys.catalog(before), CATALOG_KEPT_S)
        return bool(told)

    async def _announce(self, what: str) -> None:
        await self._client.xadd(redis_keys.CHANGES, {"what": what}, maxlen=redis_keys.CHANGES_KEPT, approximate=True)


async def read_catalog(connection: Any, prices: PriceBook) -> Catalog:
    """What Postgres says at this moment, without a version of its own. Raises asyncpg's errors."""
    price_version = await connection.fetchval(_NEWEST_PRICE_VERSION) or 0
    return Catalog(
        version=0,
        price_version=price_version,
        models=await prices.load(connection, price_version) if price_version else {},
        cards=await rate_cards(connection),
        plans={row["plan"]: _plan(row) for row in await connection.fetch(_PLANS)},
    )


def _stranger(account_id: UUID) -> Account:
    """An account of which nothing is told."""
    return Account(
        account_id=account_id,
        balance_mc=0,
        seq=_OLDER_THAN_ANY,
        recorded_at_us=0,
        grants=[],
        shard=ids.shard_of(account_id),
        revision=_OLDER_THAN_ANY,
    )


def _apply_calls(
    accounts: Iterable[Account], posted: Mapping[UUID, Sequence[str]]
) -> Iterator[tuple[int, Sequence[Any]]]:
    """The script's calls, each of accounts of one shard: a call for each account costs twice as much at both ends."""
    by_shard: dict[int, list[Account]] = {}
    for account in accounts:
        by_shard.setdefault(account.shard, []).append(account)
    for of_shard in by_shard.values():
        for start in range(0, len(of_shard), TOLD_AT_ONCE_MAX):
            keys: list[str] = []
            arguments: list[Any] = []
            for one in of_shard[start : start + TOLD_AT_ONCE_MAX]:
                name = str(one.account_id)
                fields = posted.get(one.account_id, ())
                keys += (redis_keys.account(one.shard, name), redis_keys.unposted(one.shard, name))
                arguments += (one.balance_mc, one.seq, one.revision, one.floor_mc, one.status, one.plan, one.mode)
                arguments.append(len(fields))
                arguments += fields
            yield len(keys), keys + arguments


def _account(row: Any) -> Account:
    return Account(recorded_at_us=0, grants=[], **row)


def key_record(row: Any) -> KeyRecord:
    return KeyRecord(
        key_id=row["key_id"],
        kind=row["kind"],
        account_id=row["account_id"],
        directory_id=row["directory_id"],
        plan=row["plan"],
        status=row["status"],
        expires_at=row["expires_at"],
        name=row["name"],
    )


def _plan(row: Any) -> Plan:
    return Plan(plan=row["plan"], card=row["card"], allowance_mc=row["allowance_mc"], models=tuple(row["models"]))
