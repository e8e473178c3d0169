"""`assert_books`: after whatever a test did, the books close and Redis says what they say."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from redis import asyncio as aioredis

from meter.audit import audit
from meter.audit_journal import audit_journals
from shared import ids, redis_keys
from sundial.journals import Journals

QUIET_S_MAX: Final = 15.0
LOOKS_MAX: Final = 3
"""Times that the books are looked at: a gateway may tell again what Redis forgot, and end the quiet, at any moment.
What is wrong with the books themselves is wrong each time."""
_POLL_S: Final = 0.02


async def assert_books(database_url: str, redis_url: str, *, quiet: bool = True, home: Path | None = None) -> None:
    """Fail with every broken invariant. With `quiet` wait first until every stream is booked and every hold closed.

    `home`: SUNDIAL_HOME of gateways, whose journals are looked up too, and what they say of how answers ended.
    """
    for _ in range(LOOKS_MAX):
        if quiet:
            await until_quiet(redis_url)
        violations = await audit(database_url, redis_url, quiet=quiet)
        if home is not None:
            pages = Journals(home).pages()
            violations += (await audit_journals(database_url, redis_url, pages, quiet=quiet)).violations
        if not violations:
            return
    assert not violations, "\n".join(["the books do not close:", *map(str, violations)])


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = QUIET_S_MAX) -> None:
    """Until `condition` holds; fails if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(_POLL_S)


async def until_quiet(redis_url: str, timeout_s: float = QUIET_S_MAX) -> None:
    """Until no stream has an entry and nothing is held, or the time is over: then the audit tells what is left."""
    until = time.monotonic() + timeout_s
    async with aioredis.Redis.from_url(redis_url) as client:
        while time.monotonic() < until:
            pipeline = client.pipeline(transaction=False)
            for shard in range(ids.SHARDS):
                pipeline.xlen(redis_keys.usage_stream(shard))
                pipeline.zcard(redis_keys.deadlines(shard))
            if not any(await pipeline.execute()):
                return
            await asyncio.sleep(_POLL_S)
