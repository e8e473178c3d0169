"""`python -m tests.bench.booked`: how long after its last byte a call is booked, at a steady rate of calls.

Booked is when Postgres has committed it, by its own clock (`track_commit_timestamp`), which is the client's here. What
one fsync takes on this disk is measured beside it, for the commit waits for one.
"""

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import aiohttp
import asyncpg
import click

from tests.bench import build
from tests.bench.report import table
from tests.harness.servers import Servers
from tests.harness.stack import Stack
from tests.harness.waiting import until

FSYNCS: Final = 200
WAL_PAGE_BYTES: Final = 8192
BOOKED_S_MAX: Final = 60.0
BODY: Final[dict[str, Any]] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "bench chunks=3 gap_us=1000. Que horas são?"}],
    "stream": True,
}


@click.command()
@click.option("--rate", default=200, show_default=True, help="Calls that begin in a second.")
@click.option("--seconds", default=15, show_default=True)
@click.option("--accounts", default=50, show_default=True)
def main(rate: int, seconds: int, accounts: int) -> None:
    """Print the time from last byte to commit, and what an fsync takes."""
    with tempfile.TemporaryDirectory(prefix="sundial-booked-") as folder, asyncio.Runner() as loop:
        home = Path(folder)
        servers = Servers(home / "servers", postgres_settings={"track_commit_timestamp": "on", "max_connections": "50"})
        servers.start()
        with subprocess.Popen([build.c_program("upstream", home)], stdout=subprocess.PIPE, text=True) as upstream:
            try:
                assert upstream.stdout is not None
                url = f"http://127.0.0.1:{int(upstream.stdout.readline())}/v1"
                waits_ms = loop.run(_measure(servers, home, url, rate, seconds, accounts))
            finally:
                upstream.kill()
                servers.stop()
        fsyncs_ms = _fsyncs_ms(home)
    rows = [
        [f"{rate}", f"{len(waits_ms):,}", *_spread(waits_ms), f"{statistics.median(fsyncs_ms):.1f}"],
    ]
    head = ["calls/s", "calls", "last byte → booked, ms: median", "p90", "p99", "one fsync, ms: median"]
    click.echo(table(head, rows))


async def _measure(servers: Servers, home: Path, url: str, rate: int, seconds: int, accounts: int) -> list[float]:
    database = servers.create_database()
    stack = Stack(
        home / "home",
        database,
        redis_url=servers.redis.url(),
        upstream_url=url,
        upstream_key="sk-upstream",
        settings={"SUNDIAL_DEFAULT_ALLOWANCE": "1000000000"},
        fresh=True,
    )
    await stack.start()
    try:
        secret = (await stack.sundial("key", "create", "--service", "librechat"))["secret"]
        calls = Calls(f"{stack.base_url}/chat/completions", secret)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await until(lambda: calls.make(session, "first"), BOOKED_S_MAX, "the key is known")
            await calls.steadily(session, rate, seconds, accounts)
        return await _waits_ms(database.url, calls.ended)
    finally:
        await stack.stop()


class Calls:
    """Makes calls, and notes when each had its last byte."""

    def __init__(self, url: str, secret: str) -> None:
        self._url = url
        self._secret = secret
        self.ended: dict[UUID, float] = {}
        """Unix time by event."""

    async def make(self, session: aiohttp.ClientSession, user: str) -> bool:
        """Whether it was answered whole."""
        headers = {"Authorization": f"Bearer {self._secret}", "X-Sundial-User-Id": user}
        async with session.post(self._url, json=BODY, headers=headers) as answer:
            received = await answer.read()
            if answer.status != 200:
                return False
            self.ended[UUID(answer.headers["x-sundial-call-id"])] = time.time()
            return received.endswith(b"data: [DONE]\n\n")

    async def steadily(self, session: aiohttp.ClientSession, rate: int, seconds: int, accounts: int) -> None:
        """An open loop: a call begins when its time has come, whatever became of the others."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        running = []
        for number in range(rate * seconds):
            await asyncio.sleep(began_s + number / rate - loop.time())
            running.append(asyncio.create_task(self.make(session, f"user-{number % accounts}")))
        assert all(await asyncio.gather(*running)), "a call was refused or cut"


async def _waits_ms(database_url: str, ended: dict[UUID, float]) -> list[float]:
    connection: Any = await asyncpg.connect(database_url)
    try:

        async def all_booked() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM sundial.usage_events") >= len(ended))

        await until(all_booked, BOOKED_S_MAX, "every call is booked")
        rows = await connection.fetch("SELECT event_id, pg_xact_commit_timestamp(xmin) AS at FROM sundial.usage_events")
    finally:
        await connection.close()
    return [1_000 * (row["at"].timestamp() - ended[row["event_id"]]) for row in rows]


def _fsyncs_ms(home: Path) -> list[float]:
    took = []
    with (home / "fsync").open("wb", buffering=0) as file:
        for _ in range(FSYNCS):
            file.write(bytes(WAL_PAGE_BYTES))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(1_000 * (time.perf_counter() - began))
    return took


def _spread(values: list[float]) -> list[str]:
    cuts = statistics.quantiles(values, n=100)
    return [f"{cuts[at - 1]:.1f}" for at in (50, 90, 99)]


if __name__ == "__main__":
    main()
