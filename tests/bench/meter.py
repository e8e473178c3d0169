"""`python -m tests.bench.meter`: what an event costs meter and Postgres, from the stream to the booked ledger.

The streams are filled while the meter is stopped (SIGSTOP), so that it works in full batches; CPU is the scheduler's
own account of both, from its waking to the last trimmed entry. fsync and synchronous_commit are on.
"""

import asyncio
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import asyncpg
import click
from redis import asyncio as aioredis

from shared import events, ids, redis_keys
from tests.bench import processes
from tests.bench.report import table
from tests.harness.books import assert_books
from tests.harness.messages import seen, used
from tests.harness.servers import Servers
from tests.harness.stack import Stack
from tests.harness.waiting import until

BOOKED_S_MAX: Final = 600.0
FILL: Final = 1_000
"""Entries of one pipeline to Redis."""


@click.command()
@click.option("--accounts", default="1,10,1000,100000", show_default=True, help="Numbers of accounts, by commas.")
@click.option("--events", "number", default=40_000, show_default=True, help="Events of one round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--appendfsync", default="everysec", show_default=True, type=click.Choice(["everysec", "always"]))
def main(accounts: str, number: int, rounds: int, appendfsync: str) -> None:
    """Print CPU and time per booked event."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="sundial-meter-bench-") as folder, asyncio.Runner() as loop:
        servers = Servers(Path(folder), postgres_settings={"max_connections": "200"})
        servers.start()
        try:
            for count in map(int, accounts.split(",")):
                rows += loop.run(_measure(servers, Path(folder), count, number, rounds, appendfsync))
        finally:
            servers.stop()
    click.echo(table(["accounts", "events in the ledger", "meter, µs", "Postgres, µs", "Redis, µs", "events/s"], rows))


async def _measure(
    servers: Servers, home: Path, accounts: int, number: int, rounds: int, appendfsync: str
) -> list[list[str]]:
    database = servers.create_database()
    client = aioredis.from_url(servers.redis.url())
    await client.flushall()
    await client.config_set("appendfsync", appendfsync)
    stack = Stack(
        home / f"meter-{accounts}",
        database,
        redis_url=servers.redis.url(),
        upstream_url="http://127.0.0.1:9/v1",
        upstream_key="",
    )
    await stack.meter.start()
    rows = []
    try:
        users = [f"user-{at}" for at in range(accounts)]
        await _fill(client, [seen(user, 10**12) for user in users])
        await _booked(client)
        for at in range(rounds):
            made = [used(random.choice(users), 30) for _ in range(number)]
            stack.meter.signal(signal.SIGSTOP)
            await _fill(client, made)
            parts = {
                "meter": processes.tree(stack.meter.pid),
                "postgres": processes.tree(servers.postgres.pid),
                "redis": processes.tree(servers.redis.pid),
            }
            before = {part: processes.cpu_ns(pids) for part, pids in parts.items()}
            began = time.monotonic()
            stack.meter.signal(signal.SIGCONT)
            await _booked(client)
            took = time.monotonic() - began
            spent = [(processes.cpu_ns(pids) - before[part]) / 1_000 / number for part, pids in parts.items()]
            rows.append(
                [f"{accounts:,}", f"{(at + 1) * number:,}", *(f"{cost:.1f}" for cost in spent), f"{number / took:,.0f}"]
            )
            click.echo(" ".join(rows[-1]), err=True)
        connection: Any = await asyncpg.connect(database.url)
        booked = await connection.fetchval("SELECT count(*) FROM sundial.usage_events")
        await connection.close()
        assert booked == rounds * number, f"{booked} of {rounds * number} events are booked"
        await assert_books(database.url, servers.redis.url())
    finally:
        stack.meter.signal(signal.SIGCONT)
        await stack.meter.stop()
        await client.aclose()
        servers.drop_database(database)
    return rows


async def _fill(client: Any, messages: list[Any]) -> None:
    for start in range(0, len(messages), FILL):
        pipeline = client.pipeline(transaction=False)
        for message in messages[start : start + FILL]:
            stream = redis_keys.usage_stream(ids.shard_of(message.account_id))
            pipeline.xadd(stream, {"d": events.encode(message)})
        await pipeline.execute()


async def _booked(client: Any) -> None:
    async def empty() -> bool:
        pipeline = client.pipeline(transaction=False)
        for shard in range(ids.SHARDS):
            pipeline.xlen(redis_keys.usage_stream(shard))
        return not any(await pipeline.execute())

    await until(empty, BOOKED_S_MAX, "all events are booked")


if __name__ == "__main__":
    main()
