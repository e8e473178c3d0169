"""P8: the books cannot be changed by those who use them; and whoever has all rights changes them visibly."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from meter.audit import audit
from meter.audit_prices import audit_prices
from shared.events import StreamMessage
from tests.harness.messages import account_of, seen, used
from tests.harness.metering import Bench, bench, entries
from tests.harness.servers import Database
from tests.harness.tampering import tamper

pytestmark = pytest.mark.integration

BOOKS = (
    "SELECT format('sundial.%I', c.relname) FROM pg_class c JOIN pg_trigger t ON t.tgrelid = c.oid"
    " WHERE t.tgname IN ('keep', 'keep_all') AND c.relnamespace = 'sundial'::regnamespace GROUP BY c.oid"
)

GPT_4O = "WHERE model = 'gpt-4o'"


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        batches: list[list[StreamMessage]] = [
            [seen("ana", 10_000), used("ana", 2), used("ana", 0)],
            [used("ana", 3), seen("bob", 9_000)],
        ]
        for batch in batches:
            await made.ledger.post(0, entries(batch))
        await made.projection.apply_by_id([account_of("ana"), account_of("bob")])
        yield made


async def test_p8_no_role_changes_a_book_or_a_partition(meter: Bench, database: Database) -> None:
    """Every book and every partition refuses UPDATE, DELETE and TRUNCATE: the roles have no right, the owner meets a
    trigger."""
    owner: Any = await asyncpg.connect(database.url)
    tables = [row[0] for row in await owner.fetch(BOOKS)]
    assert len(tables) > 20  # the months and default partitions of three books, and the others
    refused = {
        database.meter_url: asyncpg.InsufficientPrivilegeError,
        database.console_url: asyncpg.InsufficientPrivilegeError,
        database.reader_url: asyncpg.InsufficientPrivilegeError,
        database.url: asyncpg.IntegrityConstraintViolationError,
    }
    for url, error in refused.items():
        connection: Any = await asyncpg.connect(url)
        for table in tables:
            column = await owner.fetchval(
                "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum = 1", table
            )
            filled = await owner.fetchval(f"SELECT EXISTS (SELECT FROM {table})")
            changes = [f"TRUNCATE {table} CASCADE"]
            if filled or url != database.url:  # the owner is stopped row by row
                changes += [f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"]
            for change in changes:
                with pytest.raises(error):
                    await connection.execute(change)
        await connection.close()
    await owner.close()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE sundial.transfers SET memo = 'x' WHERE seq = 2", "seq 2 "),
        ("UPDATE sundial.transfers SET occurred_at = now() WHERE seq = 3", "seq 3 "),
        ("UPDATE sundial.usage_events SET model_answered = 'another' WHERE charge_mc = 4000", "seq 2 "),
        ("UPDATE sundial.usage_events SET usage = '{\"input\": 1}' WHERE charge_mc = 0", "seq 3 "),
        ("UPDATE sundial.grants SET kind = 'purchase' WHERE amount_mc = 10000", "seq 1 "),
        ("UPDATE sundial.draws SET amount_mc = amount_mc - 1 WHERE amount_mc = 6000", "seq 4 "),
        ("DELETE FROM sundial.transfers WHERE seq = 3", "seq 4 follows seq 2"),
        ("UPDATE sundial.transfers SET digest = NULL WHERE seq = 2", "seq 2 has no digest"),
        ("UPDATE sundial.balances SET digest = sha256('x') WHERE seq = 4", "another digest"),
    ],
)
async def test_p8_the_chain_tells_what_was_altered(
    meter: Bench, database: Database, redis_url: str, damage: str, told: str
) -> None:
    """A row that is altered or removed by somebody with all rights breaks its account's chain, at its seq."""
    assert await audit(database.url, redis_url) == []
    await tamper(database, damage)
    [broken] = [one for one in await audit(database.url, redis_url) if one.rule == "digest"]
    assert told in broken.detail
    assert str(account_of("ana")) in broken.subject


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            f"UPDATE sundial.prices SET definition = jsonb_set(definition, '{{rates,input}}', '0') {GPT_4O}",
            "its digest",
        ),
        (f"UPDATE sundial.prices SET model = 'x' {GPT_4O}", "x says that it is that of gpt-4o"),
        (
            f"INSERT INTO sundial.prices SELECT 1, 'x', definition FROM sundial.prices {GPT_4O}",
            "x says that it is that of gpt-4o",
        ),
        (f"DELETE FROM sundial.prices {GPT_4O}", "its digest"),
        ("DELETE FROM sundial.prices", "its digest"),
        ("DELETE FROM sundial.price_versions", "is gone, and its prices are not"),
        ("UPDATE sundial.price_versions SET digest = sha256('x')", "its digest"),
    ],
)
async def test_p8_a_price_that_was_altered_is_told(
    meter: Bench, database: Database, redis_url: str, damage: str, told: str
) -> None:
    """A price that is changed, renamed, added or removed by somebody with all rights, before any call is booked at it:
    the version is no more what its digest was made of."""
    await tamper(database, damage)
    [broken] = [one for one in await audit(database.url, redis_url) if one.rule == "prices"]
    assert told in broken.detail
    assert broken.subject == "price version 1"


async def test_p8_a_price_that_cannot_be_read_is_told(database: Database) -> None:
    """What was written over a price is named, not met as a fault of the program."""
    await tamper(database, f"UPDATE sundial.prices SET definition = '{{}}' {GPT_4O}")
    owner = await asyncpg.connect(database.url)
    [broken] = await audit_prices(owner, found_max=10)
    await owner.close()
    assert "the price of gpt-4o cannot be read" in broken.detail
