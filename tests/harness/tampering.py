"""What somebody does to the books who has all rights in Postgres."""

from typing import Any, Final

import asyncpg

from meter import checkpoints
from meter.audit_chain import OF_ACCOUNT, recomputed
from meter.database import speak_microseconds
from meter.digests import START
from tests.harness.messages import account_of
from tests.harness.servers import Database

KEY: Final = checkpoints.key_text(bytes(range(32)))
"""Signs checkpoints."""
PUBLIC_KEY: Final = checkpoints.key_text(checkpoints.public_half(checkpoints.private_key(KEY)))
ALL_RIGHTS: Final = "SET session_replication_role = replica; "
"""No trigger runs, no reference is checked."""


async def tamper(database: Database, *statements: str) -> None:
    owner: Any = await asyncpg.connect(database.url)
    for statement in statements:
        await owner.execute(ALL_RIGHTS + statement)
    await owner.close()


async def write_anew(database: Database, user: str) -> None:
    """Give an account's transfers, as they are, a chain that holds: what a careful forger does."""
    owner: Any = await asyncpg.connect(database.url)
    await speak_microseconds(owner)
    await owner.execute(ALL_RIGHTS)
    digest = START
    for row in await owner.fetch(OF_ACCOUNT, account_of(user), 0, 1_000):
        digest = recomputed(digest, row)
        await owner.execute("UPDATE sundial.transfers SET digest = $1 WHERE transfer_id = $2", digest, row[1])
    await owner.execute("UPDATE sundial.balances SET digest = $1 WHERE account_id = $2", digest, account_of(user))
    await owner.close()
