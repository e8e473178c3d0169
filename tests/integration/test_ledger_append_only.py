"""I15: the books cannot be changed by those who write them, nor by mistake of their owner."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from meter.audit import audit
from tests.harness.messages import account_of, seen, used
from tests.harness.metering import Bench, bench, entries
from tests.harness.servers import Database

pytestmark = pytest.mark.integration

BOOKS = (
    "transfers",
    "usage_events",
    "draws",
    "grants",
    "orders",
    "order_outcomes",
    "prices",
    "price_versions",
    "price_corrections",
    "rate_cards",
    "event_corrections",
    "dead_letters",
    "dead_letter_orders",
    "dead_letter_outcomes",
)
CHANGES = ("UPDATE sundial.{0} SET {1} = {1}", "DELETE FROM sundial.{0}", "TRUNCATE sundial.{0} CASCADE")


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    async with bench(database, redis_url) as made:
        await made.ledger.post(0, entries([seen("ana", 10_000), used("ana", 2)]))
        await made.projection.apply_by_id([account_of("ana")])
        yield made


@pytest.mark.parametrize("login", ["meter_url", "console_url", "reader_url"])
async def test_no_role_may_change_a_book(meter: Bench, database: Database, login: str) -> None:
    """UPDATE, DELETE and TRUNCATE of every book are refused to the meter's, the console's and the reader's role."""
    connection: Any = await asyncpg.connect(getattr(database, login))
    try:
        for book in BOOKS:
            column = await connection.fetchval(
                "SELECT column_name FROM information_schema.columns WHERE table_name = $1 AND table_schema = 'sundial' "
                "ORDER BY ordinal_position LIMIT 1",
                book,
            )
            for change in CHANGES:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(change.format(book, column))
    finally:
        await connection.close()


async def test_the_owner_is_stopped_by_triggers(meter: Bench, database: Database) -> None:
    """Even the owner cannot change a row of the books, through a table or through one of its partitions."""
    owner: Any = await asyncpg.connect(database.url)
    try:
        for statement in (
            "UPDATE sundial.transfers SET memo = 'x'",
            "DELETE FROM sundial.usage_events",
            "TRUNCATE sundial.draws",
            "DELETE FROM sundial.prices",
        ):
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
                await owner.execute(statement)
        partition = await owner.fetchval("SELECT tableoid::regclass::text FROM sundial.transfers LIMIT 1")
        for statement in (f"TRUNCATE {partition}", f"DELETE FROM {partition}"):
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
                await owner.execute(statement)
    finally:
        await owner.close()


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ("UPDATE sundial.balances SET balance_mc = balance_mc + 1", "balance_cache"),
        ("UPDATE sundial.grant_balances SET remaining_mc = remaining_mc - 1", "grant_cache"),
        ("GRANT DELETE ON sundial.transfers TO sundial_meter", "append_only"),
        ("GRANT UPDATE (memo) ON sundial.transfers TO sundial_meter", "append_only"),
        ("ALTER TABLE sundial.transfers DISABLE TRIGGER keep_all", "append_only_triggers"),
        (
            "SET session_replication_role = replica; UPDATE sundial.transfers SET amount_mc = -1 WHERE kind = 'usage'",
            "usage_transfers",
        ),
        (
            "SET session_replication_role = replica; DELETE FROM sundial.transfers WHERE seq = 1",
            "history",
        ),
        ("SET session_replication_role = replica; UPDATE sundial.usage_events SET charge_mc = 1", "charges"),
        ("SET session_replication_role = replica; DELETE FROM sundial.draws", "draw_transfers"),
        ("SET session_replication_role = replica; DELETE FROM sundial.grants", "grant_transfers"),
        ("UPDATE sundial.accounts SET status = 'blocked'", "projection"),
        ("SET session_replication_role = replica; UPDATE sundial.transfers SET amount_mc = 0", "conservation"),
    ],
)
async def test_the_audit_finds_what_was_tampered_with(
    meter: Bench, database: Database, redis_url: str, damage: str, rule: str
) -> None:
    """A clean ledger passes; each kind of damage by somebody with all rights is found by the rule that it breaks."""
    assert await audit(database.url, redis_url) == []
    owner: Any = await asyncpg.connect(database.url)
    await owner.execute(damage)
    await owner.close()
    assert rule in {one.rule for one in await audit(database.url, redis_url)}
