"""`python -m tests.bench.meter`: what an event costs meter and Postgres, from the stream to the booked ledger.

The streams are filled while the meter is stopped (SIGSTOP), so that it works in full batches; CPU is the scheduler's
own account of both, from its waking to the last trimmed entry. fsync and synchronous_commit are on. What the meter
does by the clock, whether or not there are events (it recomputes digests, measures queues), is measured afterwards at
rest and told apart: it is a part of a core, and the larger a part of an event's cost the slower the machine is.
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
from tests.bench.grown import grow
from tests.bench.report import table
from tests.harness.books import assert_books
from tests.harness.messages import seen, used
from tests.harness.servers import Database, Servers
from tests.harness.stack import Stack
from tests.harness.waiting import until

BOOKED_S_MAX: Final = 600.0
REST_S: Final = 4.0
"""Seconds for which a meter without events is watched."""
FILL: Final = 1_000
"""Entries of one pipeline to Redis."""

_REST: Final = ("Postgres, µs", "Redis, µs", "events/s")


@click.command()
@click.option("--accounts", default="1,10,1000,100000", show_default=True, help="Numbers of accounts, by commas.")
@click.option("--events", "number", default=40_000, show_default=True, help="Events of one round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--grown", default="", help="Measure again with so many events in the ledger, by commas.")
@click.option("--appendfsync", default="everysec", show_default=True, type=click.Choice(["everysec", "always"]))
def main(accounts: str, number: int, rounds: int, grown: str, appendfsync: str) -> None:
    """Print CPU and time per booked event."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="sundial-meter-bench-") as folder, asyncio.Runner() as loop:
        servers = Servers(Path(folder), postgres_settings={"max_connections": "200"})
        servers.start()
        try:
            for count in map(int, accounts.split(",")):
                sizes = [int(size) for size in grown.split(",") if size]
                rows += loop.run(_measure(servers, Path(folder), count, number, rounds, sizes, appendfsync))
        finally:
            servers.stop()
    click.echo(table(["accounts", "events in the ledger", "meter, µs", "of it by the clock", *_REST], rows))


async def _measure(
    servers: Servers, home: Path, accounts: int, number: int, rounds: int, grown: list[int], appendfsync: str
) -> list[list[str]]:
    """`rounds` rounds, and as many at each of the sizes to which the ledger is `grown` then."""
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
        fresh=True,
    )
    await stack.meter.start()
    rows = []
    try:
        users = [f"user-{at}" for at in range(accounts)]
        await _fill(client, [seen(user, 10**12) for user in users])
        await _booked(client)
        before = 0
        for size in (0, *grown):
            if size:
                await grow(database.url, before, size, max(grown))
                before = size
            for _ in range(rounds):
                cells = await _round(servers, stack, client, users, number)
                held = await _events(database)
                rows.append([f"{accounts:,}", f"{held:,}", *cells])
                click.echo(" ".join(rows[-1]), err=True)
        wanted = before + rounds * number * (1 + len(grown))
        booked = await _events(database)
        assert booked == wanted, f"{booked} of {wanted} events are booked"
        if not grown:
            await assert_books(database.url, servers.redis.url())
    finally:
        stack.meter.signal(signal.SIGCONT)
        await stack.meter.stop()
        await client.aclose()
        servers.drop_database(database)
    return rows


async def _round(servers: Servers, stack: Stack, client: Any, users: list[str], number: int) -> list[str]:
    """Cells of one row: what so many events cost, and how fast they were booked."""
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
    spent = {part: (processes.cpu_ns(pids) - before[part]) / 1_000 / number for part, pids in parts.items()}
    resting = processes.cpu_ns(parts["meter"])
    await asyncio.sleep(REST_S)
    by_clock = (processes.cpu_ns(parts["meter"]) - resting) / REST_S * took / 1_000 / number
    costs = (spent["meter"], by_clock, spent["postgres"], spent["redis"])
    return [*(f"{cost:.1f}" for cost in costs), f"{number / took:,.0f}"]


async def _events(database: Database) -> int:
    connection: Any = await asyncpg.connect(database.url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM sundial.usage_events"))
    finally:
        await connection.close()


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
