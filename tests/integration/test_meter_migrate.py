"""Migrations on a real server: once each, one program at a time, all or nothing, with a memory of their text."""

import asyncio
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meter.migrate import MigrationError, migrate, outstanding, read
from shared import ids
from tests.harness.servers import Database, Servers

pytestmark = pytest.mark.integration


@pytest.fixture
def empty_url(servers: Servers, database: Database) -> str:
    name = database.url.rpartition("/")[2] + "_empty"
    servers.postgres.create_database(name)
    return servers.postgres.url(database=name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the product's migrations, to add to and to spoil."""
    copied = tmp_path / "migrations"
    shutil.copytree(Path(__file__).parents[2] / "meter" / "sql" / "migrations", copied)
    return copied


async def test_starting_programs_migrate_once(empty_url: str) -> None:
    """Of several programs that start at once one migrates, the others find it done."""
    ran = await asyncio.gather(*(migrate(empty_url) for _ in range(3)))
    assert sorted(map(len, ran)) == [0, 0, len(read())]
    connection: Any = await asyncpg.connect(empty_url)
    assert await outstanding(connection) == []
    await connection.close()


async def test_a_failed_migration_leaves_nothing(empty_url: str, folder: Path) -> None:
    """The one that fails is undone whole; those before it stay, and the next try goes on from there."""
    later = folder / "0999_later.sql"
    later.write_text("CREATE TABLE sundial.half (a int); SELECT 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_url, folder)
    connection: Any = await asyncpg.connect(empty_url)
    assert await connection.fetchval("SELECT to_regclass('sundial.half')") is None
    await connection.close()
    later.write_text("CREATE TABLE sundial.half (a int)")
    assert await migrate(empty_url, folder) == ["0999_later.sql"]


async def test_an_edited_migration_is_refused(empty_url: str, folder: Path) -> None:
    """What has run may not change: not even a comment."""
    await migrate(empty_url, folder)
    ledger = folder / "0001_ledger.sql"
    ledger.write_text(ledger.read_text() + "-- afterthought\n")
    with pytest.raises(MigrationError, match="edited"):
        await migrate(empty_url, folder)


async def test_months_are_opened_ahead(database: Database) -> None:
    """The meter's role opens months that do not exist, twice without harm, and gets no other right by it."""
    connection: Any = await asyncpg.connect(database.meter_url)
    for _ in range(2):
        await connection.execute("SELECT sundial.ensure_month('2031-05-17')")
    parts = await connection.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relname LIKE '%2031_05'"
    )
    assert {row["relname"] for row in parts} == {"transfers_2031_05", "usage_events_2031_05", "draws_2031_05"}
    for statement in ("DELETE FROM sundial.transfers_2031_05", "TRUNCATE sundial.transfers_2031_05"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_a_month_that_came_too_late_is_left_out(database: Database) -> None:
    """Rows that fell into the default partition stay booked there; opening their month warns and breaks nothing."""
    owner: Any = await asyncpg.connect(database.url)
    row_id = ids.uuid7_floor(datetime(2031, 7, 4, tzinfo=UTC))
    await owner.execute(
        "INSERT INTO sundial.draws (account_id, transfer_id, grant_id, amount_mc) VALUES ($1, $1, $1, 1)", row_id
    )
    for month, exists in (("2031-07-01", False), ("2031-08-01", True)):
        await owner.execute("SELECT sundial.ensure_month($1)", date.fromisoformat(month))
        part = f"sundial.draws_{month[:7].replace('-', '_')}"
        assert await owner.fetchval("SELECT to_regclass($1) IS NOT NULL", part) is exists
    await owner.close()
