"""The command beside real servers, with and without somebody who meters."""

from collections.abc import AsyncIterator

import pytest

from tests.harness.books import assert_books
from tests.harness.command import Office, office
from tests.harness.servers import Database


@pytest.fixture
async def idle(database: Database, redis_url: str) -> AsyncIterator[Office]:
    """An office where nobody meters."""
    async with office(database, redis_url) as opened:
        yield opened


@pytest.fixture
async def busy(idle: Office, database: Database, redis_url: str) -> AsyncIterator[Office]:
    """An office with a meter at work; afterwards the books close."""
    async with idle.metering():
        yield idle
        await assert_books(database.url, redis_url)
