"""P1: Postgres stops, or a process of it is killed, under load. The gateway does not notice; all is booked once."""

import asyncio
import os
import signal
from collections.abc import Callable

from deploy.embedded import EmbeddedServerError
from tests.harness.chain import Chain
from tests.harness.lag import caught_up, lags
from tests.harness.load import assert_truth, calling
from tests.harness.own_postgres import OwnPostgres
from tests.harness.waiting import until

LAG_S = 1.0


async def test_p1_postgres_goes_and_comes_back(own_chain: Chain, own_postgres: OwnPostgres) -> None:
    """Stopped fast, stopped at once, its postmaster killed: calls go on, the lag is told, then all is booked once."""
    secrets = [await own_chain.personal(user, credit="1000000") for user in ("ana", "bia")]
    ends: list[Callable[[], None]] = [
        lambda: own_postgres.stop("fast"),
        lambda: own_postgres.stop("immediate"),
        own_postgres.kill_postmaster,
    ]
    async with calling(own_chain, *secrets) as load:
        await load.more(10)
        for end in ends:
            await asyncio.to_thread(end)
            await own_chain.stack.meter.until_ready(ready=False)
            await load.more(20)
            await lags(own_chain, LAG_S)
            own_postgres.start()
            await caught_up(own_chain)
            await load.more(5)
    assert set(load.statuses) == {200}
    await assert_truth(own_chain.stack.database_url, own_chain.upstream)


async def test_p1_backends_are_killed(own_chain: Chain, own_postgres: OwnPostgres) -> None:
    """kill -9 of a process of the server makes Postgres end every connection and recover: again and again."""
    secrets = [await own_chain.personal(user, credit="1000000") for user in ("ana", "bia")]
    async with calling(own_chain, *secrets) as load:
        for number in range(4):
            await load.more(5)
            if number % 2:
                os.kill(own_postgres.processes[1], signal.SIGKILL)  # one that is the server's own, and serves nobody
            else:
                await until(lambda: own_postgres.kill_backend() > 0)  # the meter may not be back yet
            await until(lambda: _answers(own_postgres))
        await caught_up(own_chain)
    assert set(load.statuses) == {200}
    await assert_truth(own_chain.stack.database_url, own_chain.upstream)


async def test_p1_postgres_hangs(own_chain: Chain, own_postgres: OwnPostgres) -> None:
    """SIGSTOP of all of Postgres: connections stay open and nothing is answered; when it goes on nothing is twice."""
    secret = await own_chain.personal("ana", credit="1000000")
    async with calling(own_chain, secret) as load:
        await load.more(5)
        own_postgres.pause()
        await load.more(20)
        await lags(own_chain, LAG_S)
        own_postgres.resume()
        await caught_up(own_chain)
    assert set(load.statuses) == {200}
    await assert_truth(own_chain.stack.database_url, own_chain.upstream)


def _answers(postgres: OwnPostgres) -> bool:
    try:
        return postgres.execute("SELECT 1") == "1"
    except EmbeddedServerError:
        return False
