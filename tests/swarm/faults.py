"""The faults of the swarm: each method breaks one part, holds it so for a while, and heals it again."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

import asyncpg
from redis import asyncio as aioredis

from deploy.embedded import EmbeddedRedis, EmbeddedServerError
from tests.harness.own_postgres import DATABASE, OwnPostgres
from tests.harness.postgres_proxy import Fate, PostgresProxy
from tests.harness.proxy import Proxy
from tests.harness.stack import Program, ProgramError
from tests.harness.waiting import until
from tests.swarm.plan import Step

HEAL_S_MAX: Final = 60.0
"""Until a server that was started again answers."""
UP_S_MAX: Final = 20.0
"""Until a program that was started again is ready, where what it needs is there."""
DELAY_S_MAX: Final = 0.05
CUT_CHANCE: Final = 0.2
"""Of a turn of the meter's with Postgres, while that way is bad."""
SLOW_TURN_S: Final = 0.05
ROOM_BYTES: Final = 4096
"""What Redis may still take before it says that it is full."""


class Parts(NamedTuple):
    """What may break."""

    gateway: Program
    meter: Program
    redis: EmbeddedRedis
    postgres: OwnPostgres
    to_upstream: Proxy
    to_redis: Proxy
    to_postgres: PostgresProxy


class Faults:
    """Faults upon these parts. `log` is what was done, with times in seconds since the begin."""

    def __init__(self, parts: Parts, seed: int) -> None:
        self._parts = parts
        self._random = random.Random(f"{seed}/turns")
        self._began = time.monotonic()
        # The servers die with the thread that started them: one that lives as long as the swarm.
        self._starter = ThreadPoolExecutor(1)
        self.log: list[str] = []
        self.done = 0
        self.bad_ways: list[tuple[float, float]] = []
        """When the way to the upstream was broken, in time.monotonic()'s seconds."""

    async def play(self, steps: Iterable[Step], seconds: float) -> None:
        """The plan, each part's faults one after the other, as far as `seconds` go. Every part is whole again
        afterwards.

        What is planned between two faults of a part is kept where healing took longer than the plan has it, as on a
        slow machine: else that part would hardly ever work.
        """
        self._began = time.monotonic()
        by_part = groupby(sorted(steps, key=attrgetter("part", "at_s")), attrgetter("part"))
        async with asyncio.TaskGroup() as tasks:
            for _, own in by_part:
                tasks.create_task(self._play_part(list(own), self._began + seconds))

    def close(self) -> None:
        """After the servers have ended."""
        self._starter.shutdown()

    async def _play_part(self, steps: list[Step], end_s: float) -> None:
        whole_since_s = 0.0
        for step in steps:
            await asyncio.sleep(step.at_s - whole_since_s)
            if time.monotonic() > end_s:
                return
            self.done += 1
            self.note(f"begins: {step}")
            fault: Callable[[float], Awaitable[None]] = getattr(self, f"{step.part}_{step.fault}")
            await fault(step.hold_s)
            self.note(f"healed: {step}")
            whole_since_s = step.at_s + step.hold_s

    def note(self, what: str) -> None:
        self.log.append(f"{time.monotonic() - self._began:7.2f} s  {what}")

    # Gateway and meter --------------------------------------------------------------------------------------

    async def gateway_kill(self, hold_s: float) -> None:
        await self._kill(self._parts.gateway, hold_s)

    async def gateway_restart(self, hold_s: float) -> None:
        await self._restart(self._parts.gateway, hold_s)

    async def gateway_pause(self, hold_s: float) -> None:
        await self._pause(self._parts.gateway, hold_s)

    async def meter_kill(self, hold_s: float) -> None:
        await self._kill(self._parts.meter, hold_s)

    async def meter_restart(self, hold_s: float) -> None:
        await self._restart(self._parts.meter, hold_s)

    async def meter_pause(self, hold_s: float) -> None:
        await self._pause(self._parts.meter, hold_s)

    async def _kill(self, program: Program, hold_s: float) -> None:
        program.kill()
        await asyncio.sleep(hold_s)
        await self._launch(program)

    async def _restart(self, program: Program, hold_s: float) -> None:
        code = await program.stop()
        # A program that is just starting has no ear for signals yet, and simply ends.
        assert code in (0, -signal.SIGTERM), f"{program.name} ended with {code}:\n{program.output[-2000:]}"
        await asyncio.sleep(hold_s)
        await self._launch(program)

    async def _launch(self, program: Program) -> None:
        """Up again, and working if the rest of the swarm lets it: else nothing would ever run long enough to break."""
        program.launch()
        try:
            async with asyncio.timeout(UP_S_MAX):
                await program.until_ready()
        except (TimeoutError, ProgramError):  # whichever limit ran out first
            assert program.alive, f"{program.name} did not start:\n{program.output[-2000:]}"

    async def _pause(self, program: Program, hold_s: float) -> None:
        program.signal(signal.SIGSTOP)
        await asyncio.sleep(hold_s)
        program.signal(signal.SIGCONT)

    # Redis --------------------------------------------------------------------------------------------------

    async def redis_restart(self, hold_s: float) -> None:
        await self._again(self._parts.redis, self._parts.redis.stop, hold_s)

    async def redis_kill(self, hold_s: float) -> None:
        await self._again(self._parts.redis, self._parts.redis.kill, hold_s)

    async def redis_pause(self, hold_s: float) -> None:
        self._parts.redis.pause()
        await asyncio.sleep(hold_s)
        self._parts.redis.resume()

    async def redis_forget(self, _: float) -> None:
        await self._redis(lambda client: client.flushall())

    async def redis_forget_scripts(self, _: float) -> None:
        await self._redis(lambda client: client.script_flush())

    async def redis_full(self, hold_s: float) -> None:
        async def fill(client: Any) -> None:
            used = (await client.info("memory"))["used_memory"]
            await client.config_set("maxmemory", used + ROOM_BYTES)

        await self._redis(fill)
        await asyncio.sleep(hold_s)
        await self._redis(lambda client: client.config_set("maxmemory", 0))

    async def _redis(self, act: Callable[[Any], Awaitable[Any]]) -> None:
        async with aioredis.Redis.from_url(self._parts.redis.url()) as client:
            await act(client)

    # Postgres -----------------------------------------------------------------------------------------------

    async def postgres_backend(self, _: float) -> None:
        await self._aside(self._parts.postgres.kill_backend)
        await until(self._postgres_answers, HEAL_S_MAX)

    async def postgres_immediate(self, hold_s: float) -> None:
        await self._again(self._parts.postgres, lambda: self._parts.postgres.stop("immediate"), hold_s)

    async def postgres_postmaster(self, hold_s: float) -> None:
        await self._again(self._parts.postgres, self._parts.postgres.kill_postmaster, hold_s)

    async def postgres_pause(self, hold_s: float) -> None:
        self._parts.postgres.pause()
        await asyncio.sleep(hold_s)
        self._parts.postgres.resume()

    async def postgres_lock(self, hold_s: float) -> None:
        connection: Any = await asyncpg.connect(self._parts.postgres.url(database=DATABASE))
        try:
            async with connection.transaction():
                await connection.execute("SELECT FROM sundial.balances FOR UPDATE")
                await asyncio.sleep(hold_s)
        finally:
            await connection.close()

    async def _postgres_answers(self) -> bool:
        try:
            return bool(await self._aside(lambda: self._parts.postgres.execute("SELECT 1")) == "1")
        except EmbeddedServerError:
            return False

    async def _again(self, server: EmbeddedRedis | OwnPostgres, end: Callable[[], None], hold_s: float) -> None:
        await self._aside(end)
        await asyncio.sleep(hold_s)
        await self._aside(server.start)

    async def _aside(self, act: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._starter, act)

    # The ways between ---------------------------------------------------------------------------------------

    async def to_upstream_cut(self, _: float) -> None:
        self._parts.to_upstream.cut()
        self.bad_ways.append((time.monotonic(), time.monotonic()))

    async def to_upstream_stall(self, hold_s: float) -> None:
        await self._bad(self._stall(self._parts.to_upstream, hold_s))

    async def to_upstream_delay(self, hold_s: float) -> None:
        await self._bad(self._delay(self._parts.to_upstream, hold_s))

    async def to_redis_cut(self, _: float) -> None:
        self._parts.to_redis.cut()

    async def to_redis_stall(self, hold_s: float) -> None:
        await self._stall(self._parts.to_redis, hold_s)

    async def to_redis_delay(self, hold_s: float) -> None:
        await self._delay(self._parts.to_redis, hold_s)

    async def to_postgres_cut(self, hold_s: float) -> None:
        way = self._parts.to_postgres
        way.decide = lambda _: (
            self._random.choice((Fate.CUT_BEFORE, Fate.CUT_AFTER)) if self._random.random() < CUT_CHANCE else Fate.PASS
        )
        await asyncio.sleep(hold_s)
        way.decide = lambda _: Fate.PASS

    async def to_postgres_slow(self, hold_s: float) -> None:
        self._parts.to_postgres.delay_s = SLOW_TURN_S
        await asyncio.sleep(hold_s)
        self._parts.to_postgres.delay_s = 0.0

    async def _bad(self, act: Awaitable[None]) -> None:
        began = time.monotonic()
        await act
        self.bad_ways.append((began, time.monotonic()))

    async def _stall(self, way: Proxy, hold_s: float) -> None:
        way.stall()
        await asyncio.sleep(hold_s)
        way.flow()

    async def _delay(self, way: Proxy, hold_s: float) -> None:
        way.delay_s_max = DELAY_S_MAX
        await asyncio.sleep(hold_s)
        way.delay_s_max = 0.0
