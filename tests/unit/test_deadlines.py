"""Many waits on one timer: who is late is told in time, who is not, never."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from gateway.deadlines import EARLY_S, Deadlines

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


@LOOPS
def test_each_is_told_at_its_own_time(new_loop: NewLoop) -> None:
    """Waits that begin one after the other are late one after the other: none before its time, none told twice, and
    those that have ended not at all, be they the first, the last or one between."""

    async def scenario() -> None:
        loop, begun, told = asyncio.get_running_loop(), dict[int, float](), dict[int, float]()

        def late(who: int) -> None:
            assert who not in told
            told[who] = loop.time()
            if len(told) == 4:
                over.set()

        over = asyncio.Event()
        deadlines = Deadlines(0.2, late)
        for who in range(8):
            deadlines.begin(who)
            begun[who] = loop.time()
            await asyncio.sleep(0.01)
        for who in (0, 3, 4, 7, 7):
            deadlines.end(who)
        await asyncio.wait_for(over.wait(), 10)
        assert list(told) == [1, 2, 5, 6]
        assert all(told[who] >= begun[who] + 0.2 - EARLY_S for who in told)
        over.clear()
        told.clear()
        for who in (0, 1, 2, 3):  # and again, when all is over
            deadlines.begin(who)
        await asyncio.wait_for(over.wait(), 10)
        assert list(told) == [0, 1, 2, 3]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


async def test_nobody_is_told_when_it_is_closed() -> None:
    """Neither those that waited, nor by a timer that is left behind."""
    told: list[int] = []
    deadlines = Deadlines(0.01, told.append)
    deadlines.begin(1)
    deadlines.close()
    await asyncio.sleep(0.05)
    assert told == []
