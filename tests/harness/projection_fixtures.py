"""A meter's projection as tests drive it: two accounts booked and told, the keys and rows of one of them."""

from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from shared import ids, redis_keys
from tests.harness.messages import DIRECTORY, KEY_ID, account_of, seen, used
from tests.harness.metering import Bench, bench, entries
from tests.harness.servers import Database

ANA: Final = account_of("ana")
SHARD: Final = ids.shard_of(ANA)
SHA256: Final = "ab" * 32
"""Of a key of hers, where a test inserts one."""


@pytest.fixture
async def meter(database: Database, redis_url: str) -> AsyncIterator[Bench]:
    """The parts of a meter on the session's servers."""
    async with bench(database, redis_url) as made:
        await made.ledger.post(SHARD, entries([seen("ana", 10_000), seen("bia", 20_000), used("ana", 1)]))
        await made.projection.apply_by_id([ANA, account_of("bia")])
        yield made


@pytest.fixture
async def console(database: Database) -> AsyncIterator[Any]:
    """A connection with the rights of the command line: of those who order."""
    connection: Any = await asyncpg.connect(database.console_url)
    yield connection
    await connection.close()


async def changes(meter: Bench) -> list[str]:
    """What Redis' stream of changes has announced."""
    return [fields[b"what"].decode() for _, fields in await meter.client.xrange(redis_keys.CHANGES)]


async def insert_key(console: Any, sha256: str = SHA256, key_id: UUID = KEY_ID) -> None:
    await console.execute(
        "INSERT INTO sundial.api_keys (key_id, sha256, hint, kind, directory_id, account_id, plan, created_by) "
        "VALUES ($1, $2, 'abcd', 'personal', $3, $4, 'default', 'test')",
        key_id,
        bytes.fromhex(sha256),
        DIRECTORY,
        ANA,
    )
