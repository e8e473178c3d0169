"""P2: the connection is cut at one exchange of the transaction that moves money, before or after Postgres has done it.

Whatever the meter cannot know, it repeats; what was booked is known by its id.
"""

import pytest

from tests.harness.books import until_quiet
from tests.harness.chain import Chain
from tests.harness.lag import caught_up, metric
from tests.harness.load import BODY, assert_truth
from tests.harness.postgres_proxy import Fate, PostgresProxy, Turn

CALLS = 3
"""At each place."""
PLACES_MIN = 8
"""Exchanges that a posting has at least, from the locking of its accounts to COMMIT."""


class Knife:
    """Cuts once, at the first turn that it was made for."""

    def __init__(self, fate: Fate, *, place: int = 0, sql: str = "") -> None:
        self.cut = False
        self._fate = fate
        self._place = place
        self._sql = sql

    def decide(self, turn: Turn) -> Fate:
        wanted = turn.after_lock == self._place if self._place else turn.after_lock and turn.sql.startswith(self._sql)
        if self.cut or not wanted:
            return Fate.PASS
        self.cut = True
        return self._fate


async def cut_once(chain: Chain, proxy: PostgresProxy, secret: str, knife: Knife) -> None:
    """Make calls, of which one's booking is cut where it comes by that place, and wait until they are booked."""
    proxy.decide = knife.decide
    for _ in range(CALLS):
        await chain.raw(secret, BODY)
    await until_quiet(chain.stack.redis_url)
    await caught_up(chain)


async def test_p2_cut_at_commit(own_chain: Chain, postgres_proxy: PostgresProxy) -> None:
    """Cut before Postgres gets the COMMIT the batch is booked at the second try; cut before the answer the second try
    finds it booked: every event once, either way."""
    secret = await own_chain.personal("ana", credit="1000000")
    for fate in (Fate.CUT_BEFORE, Fate.CUT_AFTER) * 3:
        repeated = await metric(own_chain, "sundial_meter_entries_total", result="repeated")
        knife = Knife(fate, sql="COMMIT")
        await cut_once(own_chain, postgres_proxy, secret, knife)
        assert knife.cut
        again = await metric(own_chain, "sundial_meter_entries_total", result="repeated") - repeated
        assert again > 0 if fate is Fate.CUT_AFTER else again == 0
    await assert_truth(own_chain.stack.database_url, own_chain.upstream)


@pytest.mark.sweep
async def test_p2_cut_at_every_exchange(own_chain: Chain, postgres_proxy: PostgresProxy) -> None:
    """Every exchange of a posting transaction, before and after Postgres has done it: every event is booked once, and
    none is taken for poison."""
    secret = await own_chain.personal("ana", credit="1000000")
    place, reached = 0, True
    while reached:
        place += 1
        knives = [Knife(fate, place=place) for fate in (Fate.CUT_BEFORE, Fate.CUT_AFTER)]
        for knife in knives:
            await cut_once(own_chain, postgres_proxy, secret, knife)
        reached = any(knife.cut for knife in knives)
    assert place > PLACES_MIN
    assert await metric(own_chain, "sundial_meter_entries_total", result="dead") == 0
    await assert_truth(own_chain.stack.database_url, own_chain.upstream)
