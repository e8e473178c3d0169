"""M1: kill -9 of the meter at each write that it makes while it books: before its commit, after it, before it has told
Redis, before it has acknowledged. The next start finds what it owed, and every event is booked once."""

import asyncio

import pytest

from tests.harness import strace
from tests.harness.books import until_quiet
from tests.harness.chain import Chain
from tests.harness.lag import caught_up
from tests.harness.load import BODY, assert_truth
from tests.harness.waiting import until

pytestmark = strace.needed

WRITE = "write"
"""What the meter's event loop (uvloop) sends by, to Postgres and Redis alike."""
PLACES = (9, 17, 19, 21)
"""Writes at which `make test` tries it."""
PLACES_MAX = 45
"""Two batches of a few events are booked, told and acknowledged within so many writes: 21 each, and what other tasks
write in their rounds."""
CALLS = 3
WARM_CALLS = 2
"""Booked before the counting begins, so that statements are prepared and a batch is as short as it usually is."""


async def kill_at(chain: Chain, secret: str, nth: int) -> str:
    """Let the meter die at its nth write from before some calls on; the write that was never made."""
    meter = chain.stack.meter
    for _ in range(WARM_CALLS):
        await chain.raw(secret, BODY)
    await until_quiet(chain.stack.redis_url)
    async with strace.killing(meter.pid, WRITE, nth) as trace:
        await asyncio.gather(*(chain.raw(secret, BODY) for _ in range(CALLS)))
        await until(lambda: trace.fired, 30, f"write {nth} of the meter")
    meter.kill()  # only the corpse is left
    await meter.start()
    await caught_up(chain)
    return trace.last


async def test_m1_killed_at_some_writes(chain: Chain) -> None:
    """A handful of places between reading a batch and trimming it."""
    secret = await chain.personal("ana", credit="1000000")
    for nth in PLACES:
        assert await kill_at(chain, secret, nth)
    await assert_truth(chain.stack.database_url, chain.upstream)


@pytest.mark.sweep
async def test_m1_killed_at_every_write(chain: Chain) -> None:
    """Every place: the commit, the telling of Redis and the acknowledgement are among the writes that were not made."""
    secret = await chain.personal("ana", credit="1000000")
    last = [await kill_at(chain, secret, nth) for nth in range(1, PLACES_MAX + 1)]
    for what in ("COMMIT", "EVALSHA", "XACK"):
        assert any(what in one for one in last), f"no kill was at {what}"
    await assert_truth(chain.stack.database_url, chain.upstream)
