"""The command `sundial` as people run it: a process of its own, with the rights of the role sundial_console."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.harness.metering import Bench, bench
from tests.harness.servers import Database

ROOT: Final = Path(__file__).parents[2]
RUN_S_MAX: Final = 60.0
_ROUND_S: Final = 0.02


class Ran(msgspec.Struct, frozen=True):
    """What a run of the command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Office:
    """Somebody with a shell, and a meter that works in the background unless told otherwise."""

    def __init__(self, database: Database, redis_url: str, bench: Bench) -> None:
        self.bench = bench
        self.database = database
        self.redis_url = redis_url
        self._environment = {
            "SUNDIAL_DATABASE_URL": database.console_url,
            "SUNDIAL_REDIS_URL": redis_url,
            "SUNDIAL_UPSTREAM_URL": "http://127.0.0.1:1/v1",
            "SUNDIAL_GATEWAY_METRICS_URL": "http://127.0.0.1:1",
            "SUNDIAL_METER_METRICS_URL": "http://127.0.0.1:1",
        }

    async def start(
        self, *arguments: str, settings: Mapping[str, str] | None = None, stdout: int = asyncio.subprocess.PIPE
    ) -> Process:
        """`sundial ARGUMENTS`, running."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SUNDIAL_")}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "sundial", *arguments),
            env={**inherited, **self._environment, **(settings or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )

    async def run(self, *arguments: str, **settings: str) -> Ran:
        """`sundial ARGUMENTS`, whatever it answers."""
        return await self.ended(await self.start(*arguments, settings=settings))

    async def ended(self, process: Process) -> Ran:
        """What a started command left behind, once it has ended."""
        try:
            out, err = await asyncio.wait_for(process.communicate(), RUN_S_MAX)
        except TimeoutError:
            process.kill()
            raise
        assert process.returncode is not None
        ran = Ran(process.returncode, (out or b"").decode(), err.decode())
        assert "Traceback" not in ran.err, ran.err
        return ran

    async def ask(self, *arguments: str, code: int = 0, **settings: str) -> Any:
        """The JSON that `sundial ARGUMENTS --json` prints, ending with `code`."""
        ran = await self.run(*arguments, "--json", **settings)
        assert ran.code == code, f"exit {ran.code}\n{ran.out}{ran.err}"
        return ran.json

    async def refused(self, *arguments: str, code: int) -> str:
        """What a command says that ends with `code` and prints no answer."""
        ran = await self.run(*arguments)
        assert (ran.code, ran.out) == (code, ""), f"exit {ran.code}\n{ran.out}{ran.err}"
        return ran.err

    @asynccontextmanager
    async def metering(self) -> AsyncIterator[None]:
        """The meter's work goes on in the background: streams, orders, projection."""

        async def work() -> None:
            while True:
                await self.bench.settle_orders()
                await asyncio.sleep(_ROUND_S)

        async with self.bench.reading():
            working = asyncio.create_task(work())
            try:
                yield
            finally:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)


@asynccontextmanager
async def office(database: Database, redis_url: str) -> AsyncIterator[Office]:
    """An office on a seeded database; nobody meters until `metering`."""
    async with bench(database, redis_url) as made:
        yield Office(database, redis_url, made)
