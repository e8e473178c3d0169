"""Forward-only migrations: numbered SQL files, each run once in a transaction of its own, for ever unchanged.

What has run stands in sundial.schema_migrations with the SHA-256 of its file. An advisory lock lets one of several
starting programs migrate while the others wait.
"""

import asyncio
import hashlib
import re
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

_FOLDER: Final = Path(__file__).parent / "sql" / "migrations"
_FILE_NAME: Final = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
_LOCK: Final = 0x53554E4449414C  # "SUNDIAL"
_LEDGER: Final = """
    CREATE SCHEMA IF NOT EXISTS sundial;
    CREATE TABLE IF NOT EXISTS sundial.schema_migrations (
        name       text PRIMARY KEY,
        sha256     bytea NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
"""


class MigrationError(Exception):
    """The database and the migration files contradict each other; the text says how and what to do."""


class Migration(msgspec.Struct, frozen=True):
    name: str
    text: str

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.text.encode()).digest()


def read(folder: Path = _FOLDER) -> list[Migration]:
    """The migrations in order. Raises MigrationError for a misnamed file or a number that occurs twice."""
    found = [Migration(path.name, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.sql"))]
    for migration in found:
        if not _FILE_NAME.fullmatch(migration.name):
            raise MigrationError(f"{migration.name} is not named like 0001_name.sql")
    numbers = [migration.name[:4] for migration in found]
    for number in numbers:
        if numbers.count(number) > 1:
            raise MigrationError(f"two migrations have the number {number}")
    return found


def pending(applied: dict[str, bytes], migrations: list[Migration]) -> list[Migration]:
    """What is still to run. Raises MigrationError where history and files differ:

    an applied file is missing (an older release against a newer database), an applied file was edited, or a file
    comes before one that has been applied.
    """
    known = {migration.name for migration in migrations}
    for name in sorted(applied):
        if name not in known:
            raise MigrationError(
                f"the database has migration {name}, which this release does not know: start a release that has it"
            )
    last = max(applied, default="")
    for migration in migrations:
        if migration.name in applied:
            if applied[migration.name] != migration.sha256:
                raise MigrationError(
                    f"{migration.name} was edited after it had run here: restore it and write a further migration"
                )
        elif migration.name < last:
            raise MigrationError(f"{migration.name} is older than {last}, which has run: give it a higher number")
    return [migration for migration in migrations if migration.name not in applied]


async def migrate(url: str, folder: Path = _FOLDER) -> list[str]:
    """Bring the database at `url` up to date; returns the names of the migrations that ran.

    Raises MigrationError, and asyncpg's or OS errors where the database refuses or is away. A failed migration leaves
    nothing behind; those before it stay.
    """
    migrations = read(folder)
    connection = await asyncpg.connect(url, server_settings={"application_name": "sundial migrate"})
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await _create_ledger(connection)
        rows = await connection.fetch("SELECT name, sha256 FROM sundial.schema_migrations")
        todo = pending({row["name"]: row["sha256"] for row in rows}, migrations)
        for migration in todo:
            async with connection.transaction():
                await connection.execute(migration.text)
                await connection.execute(
                    "INSERT INTO sundial.schema_migrations (name, sha256) VALUES ($1, $2)",
                    migration.name,
                    migration.sha256,
                )
        return [migration.name for migration in todo]
    finally:
        await connection.close()


async def outstanding(connection: Any) -> list[str]:
    """Names of the migrations that have not run on this connection's database; changes nothing.

    Raises MigrationError as `pending` does.
    """
    if not await connection.fetchval("SELECT to_regclass('sundial.schema_migrations') IS NOT NULL"):
        return [migration.name for migration in read()]
    rows = await connection.fetch("SELECT name, sha256 FROM sundial.schema_migrations")
    return [migration.name for migration in pending({row["name"]: row["sha256"] for row in rows}, read())]


def run(url: str) -> list[str]:
    """`migrate`, for programs without an event loop."""
    return asyncio.run(migrate(url))


async def _create_ledger(connection: Any) -> None:
    """A role that may only read can still learn that all is up to date, so nothing is created that exists."""
    if not await connection.fetchval("SELECT to_regclass('sundial.schema_migrations') IS NOT NULL"):
        await connection.execute(_LEDGER)
