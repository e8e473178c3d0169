"""Servers for the tests that need them; nothing is started for those that do not."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import redis

from tests.harness.servers import Database, Servers


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and Redis for the whole session. A test that breaks them starts servers of its own instead."""
    started = Servers(tmp_path_factory.mktemp("servers"))
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture
def database(servers: Servers) -> Iterator[Database]:
    """A database of the test's own: migrated, with prices, without a user."""
    created = servers.create_database()
    yield created
    servers.drop_database(created)


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[Any]:
    """A connection to the test's database as its owner."""
    connection = await asyncpg.connect(database.url)
    yield connection
    await connection.close()


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """The session's Redis, emptied."""
    url = servers.redis.url()
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url
