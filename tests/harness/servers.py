"""Real servers for a whole test session, and a database of its own for every test.

The databases are copies of one that is migrated and has prices. Whoever connects does so as the programs do in
production: the meter with the rights of `sundial_meter` alone, the console with those of `sundial_console`.
"""

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from deploy.embedded import EmbeddedPostgres, EmbeddedRedis
from meter.migrate import migrate
from meter.prices import ensure_prices

TEMPLATE: Final = "sundial_template"
PASSWORD: Final = "harness"
LOGINS: Final = {"meter": "sundial_meter", "console": "sundial_console", "reader": "sundial_reader"}
"""Users by name, and the role that each has."""
_UNSAFE_AND_FAST: Final = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
"""A killed process loses nothing by these: only a machine that loses power does."""


class Database(msgspec.Struct, frozen=True):
    """One test's database."""

    url: str
    """As its owner."""
    meter_url: str
    console_url: str
    reader_url: str


class Servers:
    """PostgreSQL and Redis, started once."""

    def __init__(self, home: Path, *, postgres_settings: Mapping[str, str] = _UNSAFE_AND_FAST) -> None:
        self.postgres = EmbeddedPostgres(home / "postgres", settings=postgres_settings, die_with_parent=True)
        self.redis = EmbeddedRedis(home / "redis", die_with_parent=True)
        self._numbers = itertools.count(1)

    def start(self) -> None:
        self.postgres.start()
        self.redis.start()
        self.postgres.create_database(TEMPLATE)
        fill(self.postgres.url(database=TEMPLATE))

    def stop(self) -> None:
        self.redis.kill()
        self.postgres.kill()

    def create_database(self) -> Database:
        """A migrated database with prices, and nothing else in it."""
        name = f"sundial_test_{next(self._numbers)}"
        self.postgres.create_database(name, TEMPLATE)
        return Database(
            url=self.postgres.url(database=name),
            **{f"{login}_url": self.postgres.url(login, name, password=PASSWORD) for login in LOGINS},
        )

    def drop_database(self, database: Database) -> None:
        self.postgres.drop_database(database.url.rpartition("/")[2])


def fill(url: str) -> None:
    """Migrate an empty database, load the prices, and create the programs' users."""
    asyncio.run(_fill(url))


async def _fill(url: str) -> None:
    await migrate(url)
    connection: Any = await asyncpg.connect(url)
    try:
        await ensure_prices(connection)
        for login, role in LOGINS.items():
            await connection.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}' IN ROLE {role}")
    finally:
        await connection.close()
