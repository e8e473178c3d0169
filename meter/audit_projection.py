"""Proves that Redis says what Postgres says (I11), that holds are closed (I9), and that nothing is lost between them.

Of keys, plans and prices what still waits to be passed on is not wrong yet.

Redis and Postgres cannot be read in one moment. So what looks wrong is looked at again: only what stays wrong counts.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from meter import redis_link
from meter.prices import PriceBook
from meter.projection import key_record, read_catalog
from meter.queries import QUERIES
from meter.stream import fields_under_way
from meter.violation import Violation
from shared import ids, redis_keys
from shared.projection import Catalog, KeyRecord, decode_catalog, decode_key

LOOKS_MAX: Final = 20
"""How often an account, a key or a catalog that looks wrong is looked at."""
LOOK_AGAIN_S: Final = 0.25
OVERDUE_S_MAX: Final = 60
"""Seconds past its deadline after which a hold counts as forgotten by the meter."""

_PAGE_ROWS: Final = 500
_SHA256: Final = re.compile(rb"[0-9a-f]{64}")
_SHOWN_BYTES_MAX: Final = 64
"""Bytes that are shown of what is no key."""
_NAMED_MAX: Final = 5
"""Parts of a catalog that are named because they differ."""
_ACCOUNTS: Final = """
    SELECT a.account_id, a.shard, coalesce(b.balance_mc, 0) AS balance, coalesce(b.seq, 0) AS seq, a.revision,
           a.floor_mc AS floor, a.status, a.plan, a.mode
      FROM sundial.accounts a
      LEFT JOIN sundial.balances b ON b.account_id = a.account_id
     WHERE a.account_id > $1
     ORDER BY a.account_id
     LIMIT $2
"""
ACCOUNTS_OF_SHARD: Final = _ACCOUNTS.replace("a.account_id > $1", "a.account_id > $1 AND a.shard = $3")
"""After an account, so many, of a shard: what `audit_page` takes."""
_ACCOUNTS_BY_ID: Final = _ACCOUNTS.replace("a.account_id > $1", "a.account_id = ANY ($1::uuid[])")
_BOOKED: Final = """
    SELECT u.event_id, u.outcome = 'lost' AND e.event_id IS NULL AS lost
      FROM unnest($1::uuid[], $2::uuid[]) AS i (account_id, event_id)
      JOIN sundial.usage_events u ON u.account_id = i.account_id AND u.event_id = i.event_id
      LEFT JOIN sundial.event_corrections e ON e.account_id = u.account_id AND e.event_id = u.event_id
"""
_DEAD: Final = "SELECT event_id, lost FROM sundial.open_dead_letters WHERE event_id = ANY ($1::uuid[])"
_STRANGERS: Final = """
    SELECT i.account_id
      FROM unnest($1::uuid[]) AS i (account_id)
     WHERE NOT EXISTS (SELECT FROM sundial.accounts a WHERE a.account_id = i.account_id)
"""
_QUEUED: Final = "SELECT what FROM sundial.projection_queue WHERE what = ANY ($1::text[])"
_UNKNOWN_KEYS: Final = """
    SELECT encode(i.sha256, 'hex') AS sha256
      FROM unnest($1::bytea[]) AS i (sha256)
     WHERE NOT EXISTS (SELECT FROM sundial.api_keys k WHERE k.sha256 = i.sha256)
"""
_FIELDS: Final = ("balance", "seq", "revision", "floor", "status", "plan", "mode", "held", "unposted")


class _Projected(msgspec.Struct):
    """What Redis has of an account."""

    fields: dict[str, str | None]
    unposted: dict[str, int]
    """By field: see shared.redis_keys.unposted_field."""
    held: dict[UUID, int]


async def audit_projection(pg_url: str, redis_url: str, *, quiet: bool) -> list[Violation]:
    """What is wrong between Redis and Postgres. Raises asyncpg's, redis-py's and OS errors."""
    connection = await asyncpg.connect(pg_url, server_settings={"application_name": "sundial audit"})
    client = redis_link.connect(redis_url)
    try:
        found = await _audit_shards(client, quiet=quiet)
        found += await _audit_keys(connection, client)
        found += await _audit_catalog(connection, client)
        after = UUID(int=0)
        while rows := await connection.fetch(_ACCOUNTS, after, _PAGE_ROWS):
            after = rows[-1]["account_id"]
            wrong = await audit_page(connection, client, rows, quiet=quiet)
            found.extend(one for violations in wrong.values() for one in violations)
        found.extend(await _audit_strangers(connection, client, quiet=quiet))
        return found
    finally:
        await client.aclose()
        await connection.close()


async def _audit_shards(client: Any, *, quiet: bool) -> list[Violation]:
    found = []
    now_s, _ = await client.time()
    for shard in range(ids.SHARDS):
        subject = f"shard {shard}"
        if await client.get(redis_keys.epoch(shard)) is None:
            found.append(Violation("epoch", subject, "Redis has no epoch: admission is closed until a meter rebuilds"))
        overdue = await client.zcount(redis_keys.deadlines(shard), "-inf", now_s - OVERDUE_S_MAX)
        if overdue:
            found.append(Violation("holds", subject, f"{overdue} holds are more than {OVERDUE_S_MAX} s overdue"))
        if quiet:
            if left := await client.xlen(redis_keys.usage_stream(shard)):
                found.append(Violation("stream", subject, f"{left} entries are left in the stream"))
            if left := await client.zcard(redis_keys.deadlines(shard)):
                found.append(Violation("holds", subject, f"{left} deadlines are left"))
    return found


async def _audit_keys(connection: Any, client: Any) -> list[Violation]:
    """Whom the gateways let in: the keys that Postgres has, as it has them, and no other."""
    found: list[Violation] = []
    after = b""
    while rows := await connection.fetch(QUERIES["keys_after"], after, _PAGE_ROWS):
        after = bytes.fromhex(rows[-1]["sha256"])
        found += await _audit_key_page(connection, client, rows)
    page: list[bytes] = []
    async for field, _ in client.hscan_iter(redis_keys.API_KEYS, count=_PAGE_ROWS):
        if not _SHA256.fullmatch(field):
            found.append(
                Violation("keys", f"key {field[:_SHOWN_BYTES_MAX]!r}", "is no SHA-256: no gateway can load keys")
            )
            continue
        page.append(bytes.fromhex(field.decode()))
        if len(page) >= _PAGE_ROWS:
            found += await _unknown_keys(connection, page)
            page.clear()
    return found + await _unknown_keys(connection, page)


async def _audit_key_page(connection: Any, client: Any, rows: list[Any]) -> list[Violation]:
    wrong: dict[str, Violation] = {}
    for look in range(LOOKS_MAX):
        if look:
            await asyncio.sleep(LOOK_AGAIN_S)
            rows = await connection.fetch(QUERIES["keys_by_hash"], [bytes.fromhex(sha256) for sha256 in wrong])
        told = await client.hmget(redis_keys.API_KEYS, [row["sha256"] for row in rows])
        wrong = {
            row["sha256"]: Violation("keys", f"key {row['key_id']}", detail)
            for row, record in zip(rows, told, strict=True)
            if (detail := _wrong_key(record, key_record(row)))
        }
        for row in await connection.fetch(_QUEUED, [f"key:{sha256}" for sha256 in wrong]) if wrong else ():
            wrong.pop(row["what"].removeprefix("key:"), None)  # one may be announced twice
        if not wrong:
            break
    return list(wrong.values())


def _wrong_key(record: bytes | None, true: KeyRecord) -> str:
    if record is None:
        return "is in Postgres and not in Redis"
    try:
        told = decode_key(record)
    except ValueError as error:
        return f"cannot be read in Redis: {error}"
    differing = [name for name in KeyRecord.__struct_fields__ if getattr(told, name) != getattr(true, name)]
    return "; ".join(f"{one} is {getattr(told, one)} in Redis, {getattr(true, one)} in Postgres" for one in differing)


async def _unknown_keys(connection: Any, page: list[bytes]) -> list[Violation]:
    rows = await connection.fetch(_UNKNOWN_KEYS, page)
    return [Violation("keys", f"key of SHA-256 {row['sha256'][:8]}", "is in Redis and not in Postgres") for row in rows]


async def _audit_catalog(connection: Any, client: Any) -> list[Violation]:
    """What the gateways permit and price by: the plans, rate cards and newest prices that Postgres has."""
    prices = PriceBook()
    subject = detail = ""
    for look in range(LOOKS_MAX):
        if look:
            await asyncio.sleep(LOOK_AGAIN_S)
        version = int(await client.get(redis_keys.CATALOG_VERSION) or 0)
        record = await client.get(redis_keys.catalog(version))
        subject, detail = f"catalog {version}", _wrong_catalog(record, await read_catalog(connection, prices))
        if not detail or await connection.fetchval(_QUEUED, ["catalog"]):
            return []
    return [Violation("catalog", subject, detail)]


def _wrong_catalog(record: bytes | None, true: Catalog) -> str:
    if record is None:
        return "is not in Redis"
    try:
        told = decode_catalog(record)
    except ValueError as error:
        return f"cannot be read in Redis: {error}"
    if told.price_version != true.price_version:
        return f"has price version {told.price_version}, Postgres has {true.price_version}"
    differing = [
        *_differing("plan", told.plans, true.plans),
        *_differing("card", told.cards, true.cards),
        *_differing("price of", told.models, true.models),
    ]
    return f"differs from Postgres in {', '.join(differing[:_NAMED_MAX])}" if differing else ""


def _differing(what: str, told: Mapping[str, object], true: Mapping[str, object]) -> list[str]:
    return [f"{what} {name}" for name in sorted(told.keys() | true.keys()) if told.get(name) != true.get(name)]


async def audit_page(connection: Any, client: Any, rows: list[Any], *, quiet: bool) -> dict[UUID, list[Violation]]:
    """Look at a page of accounts, and again at those that look wrong, until they look right or stay wrong. Returns what
    is wrong, by account. Raises asyncpg's and redis-py's errors."""
    wrong: dict[UUID, list[Violation]] = {}
    for look in range(LOOKS_MAX):
        if look:
            await asyncio.sleep(LOOK_AGAIN_S)
            rows = await connection.fetch(_ACCOUNTS_BY_ID, [row["account_id"] for row in rows], _PAGE_ROWS)
        projected = await _read(client, rows)
        explained = await _explain(connection, client, projected, rows)
        wrong = {
            row["account_id"]: violations
            for row in rows
            if (violations := list(_differences(row, projected[row["account_id"]], explained, quiet=quiet)))
        }
        if not wrong:
            break
        rows = [row for row in rows if row["account_id"] in wrong]
    return wrong


async def _read(client: Any, rows: Iterable[Any]) -> dict[UUID, _Projected]:
    # No transaction, which a Redis without memory refuses: what changed between two answers is looked at again.
    pipeline = client.pipeline(transaction=False)
    keys = [(row["shard"], row["account_id"]) for row in rows]
    for shard, account_id in keys:
        pipeline.hmget(redis_keys.account(shard, account_id), _FIELDS)
        pipeline.hgetall(redis_keys.unposted(shard, account_id))
        pipeline.hgetall(redis_keys.holds(shard, account_id))
    answers = await pipeline.execute()
    read: dict[UUID, _Projected] = {}
    for (_, account_id), fields, unposted, holds in zip(keys, answers[::3], answers[1::3], answers[2::3], strict=True):
        texts = [None if value is None else value.decode() for value in fields]
        read[account_id] = _Projected(
            fields=dict(zip(_FIELDS, texts, strict=True)),
            unposted={field.decode(): int(charge) for field, charge in unposted.items()},
            held={UUID(event.decode()): int(hold.split(b" ", 1)[0]) for event, hold in holds.items()},
        )
    return read


class _Explained(msgspec.Struct):
    """Where the records are that Redis counts as unposted, by field."""

    booked: set[str]
    dead: set[str]
    """Letters that nobody has dealt with: their charge stays unposted."""
    under_way: set[str]


async def _explain(connection: Any, client: Any, projected: dict[UUID, _Projected], rows: Iterable[Any]) -> _Explained:
    keys = {
        (account_id, UUID(field.removesuffix(redis_keys.LOST)))
        for account_id, one in projected.items()
        for field in one.unposted
    }
    if not keys:
        return _Explained(set(), set(), set())
    under_way = {field for shard in {row["shard"] for row in rows} for field in await fields_under_way(client, shard)}
    booked: set[str] = set()
    for row in await connection.fetch(_BOOKED, *zip(*keys, strict=True)):
        booked.add(redis_keys.unposted_field(row["event_id"], lost=True))
        booked.add(redis_keys.unposted_field(row["event_id"], lost=row["lost"]))
    letters = await connection.fetch(_DEAD, [event_id for _, event_id in keys])
    dead = {redis_keys.unposted_field(row["event_id"], lost=row["lost"]) for row in letters}
    return _Explained(booked, dead, under_way)


def _differences(row: Any, projected: _Projected, explained: _Explained, *, quiet: bool) -> Iterable[Violation]:
    subject = f"account {row['account_id']}"
    for field in ("balance", "seq", "revision", "floor", "status", "plan", "mode"):
        told, true = projected.fields[field], str(row[field])
        if told != true:
            yield Violation("projection", subject, f"{field} is {told} in Redis, {true} in Postgres")
    for field, parts in (("held", projected.held), ("unposted", projected.unposted)):
        total = int(projected.fields[field] or 0)
        if total != sum(parts.values()):
            yield Violation(field, subject, f"{field} is {total} mc, its parts sum to {sum(parts.values())} mc")
    for field, charge_mc in projected.unposted.items():
        if field in explained.booked:
            yield Violation("unposted", subject, f"event {field} is booked and still counts {charge_mc} mc unposted")
        elif field in explained.dead:
            continue
        elif field not in explained.under_way:
            yield Violation("unposted", subject, f"event {field} of {charge_mc} mc is neither booked nor under way")
        elif quiet:
            yield Violation("unposted", subject, f"event {field} of {charge_mc} mc is not booked yet")
    if quiet and projected.held:
        yield Violation("holds", subject, f"{sum(projected.held.values())} mc are still held")


async def _audit_strangers(connection: Any, client: Any, *, quiet: bool) -> list[Violation]:
    """Accounts that Redis has and Postgres has not. While calls are under way only those of which transfers were told:
    of the others the announcement may be under way."""
    found: list[Any] = []
    page: list[UUID] = []

    async def judge() -> None:
        found.extend(row["account_id"] for row in await connection.fetch(_STRANGERS, page))
        page.clear()

    async for key in client.scan_iter(match="{s??}:a:*", count=_PAGE_ROWS):
        page.append(UUID(key.decode().rpartition(":")[2]))
        if len(page) == _PAGE_ROWS:
            await judge()
    await judge()
    for _ in range(0 if quiet else LOOKS_MAX):
        if found := await _with_transfers(client, found):
            await asyncio.sleep(LOOK_AGAIN_S)
            found = [row["account_id"] for row in await connection.fetch(_STRANGERS, found)]
    what = "is in Redis and not in Postgres"
    return [Violation("projection", f"account {account_id}", what) for account_id in found]


async def _with_transfers(client: Any, account_ids: Sequence[UUID]) -> list[UUID]:
    """Those of which Redis was told a transfer."""
    pipeline = client.pipeline(transaction=False)
    for account_id in account_ids:
        pipeline.hget(redis_keys.account(ids.shard_of(account_id), account_id), "seq")
    seqs = await pipeline.execute()
    return [account_id for account_id, seq in zip(account_ids, seqs, strict=True) if int(seq or 0)]
