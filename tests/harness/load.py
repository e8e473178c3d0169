"""Closed-loop load: clients that call one after the other while a test breaks something, and the truth afterwards."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import asyncpg

from tests.harness.chain import Chain
from tests.harness.fake_upstream import FakeUpstream
from tests.harness.waiting import until

BODY: Final = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Que horas são?"}]}
PAUSE_S: Final = 0.02
"""Between two calls of one client, so that a load leaves the machine room to heal."""


class Load:
    """What the clients have seen so far."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        """Answers that came whole, by status; 0: cut or not reached."""

    @property
    def answered(self) -> int:
        return self.statuses[200]

    async def more(self, calls: int) -> None:
        """Until so many calls more have been answered with 200."""
        goal = self.answered + calls
        await until(lambda: self.answered >= goal, 30, f"{calls} more calls answered; so far {dict(self.statuses)}")


@asynccontextmanager
async def calling(chain: Chain, *secrets: str, seed: int = 1) -> AsyncIterator[Load]:
    """One client for each secret, streaming or not by chance, until the block is left; the last calls are finished."""
    load = Load()
    done = asyncio.Event()
    clients = [asyncio.create_task(_client(chain, one, load, done, seed + n)) for n, one in enumerate(secrets)]
    try:
        yield load
    finally:
        done.set()
        await asyncio.gather(*clients)


async def _client(chain: Chain, secret: str, load: Load, done: asyncio.Event, seed: int) -> None:
    chance = random.Random(seed)
    async with chain.session(secret) as session:
        while not done.is_set():
            body = {**BODY, "stream": chance.random() < 0.5}
            try:
                async with session.post("/v1/chat/completions", json=body) as answer:
                    await answer.read()
                    load.statuses[answer.status] += 1
            except (aiohttp.ClientError, OSError):
                load.statuses[0] += 1
            await asyncio.sleep(PAUSE_S)


async def assert_truth(database_url: str, upstream: FakeUpstream) -> None:
    """Every call that the upstream answered whole is booked, once, with exactly the tokens that it says, and nothing
    else is booked. Waits for what is under way."""
    truth = {one.event_id: one for one in upstream.served if one.ended != "refused"}
    connection: Any = await asyncpg.connect(database_url)
    try:

        async def all_there() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM sundial.usage_events") >= len(truth))

        await until(all_there, 30, "every served call is booked")
        rows = await connection.fetch("SELECT event_id, tokens_in, tokens_out, evidence FROM sundial.usage_events")
    finally:
        await connection.close()
    assert len(rows) == len(truth)
    for row in rows:
        served = truth[row["event_id"]]
        assert row["evidence"] == "provider", row
        assert (row["tokens_in"], row["tokens_out"]) == (served.prompt_tokens, served.sent_tokens), row
