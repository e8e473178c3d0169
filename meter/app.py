"""The meter, wired: one process that books the usage streams of its shards and keeps Redis true.

Start: Postgres migrated and seeded, the projection complete (but where Redis is full), then the readers. Stop (SIGTERM,
SIGINT): not ready at once, each task finishes what it has begun, exit 0. What cannot be finished in DRAIN_S, because
Postgres hangs or a row is locked, is left to whoever reads the stream next: nothing of it is acknowledged.
"""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final

import asyncpg
import structlog
import uvloop
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import OutOfMemoryError

from meter import database, dead_letters, orders, projection_watch, redis_link
from meter.auditor import Auditor
from meter.bell import Bell
from meter.consumer import Reader
from meter.corrections import Corrections
from meter.daily_checkpoint import DailyCheckpoint
from meter.dead_letters import DeadLetters
from meter.gauges import Gauges
from meter.health import Health
from meter.ledger import Ledger
from meter.migrate import MigrationError, outstanding
from meter.orders import Orders
from meter.prices import PriceBook, PriceSourceError
from meter.projection import Projection
from meter.projection_auditor import ProjectionAuditor
from meter.projection_watch import ProjectionWatch
from meter.queries import QUERIES
from meter.reaper import Reaper
from meter.rounds import once, rounds
from meter.seeds import seed
from meter.stream import ShardStream
from meter.tariffs import Tariffs
from shared import logs
from shared.settings import MeterSettings
from shared.units import parse_credits

POLL_S: Final = 1.0
"""How often queues and epochs are looked at where no notification came, in seconds."""
MEASURE_S: Final = 5.0
HOUSE_S: Final = 300.0
DRAIN_S: Final = 8.0
"""Seconds that tasks have to finish what they have begun: less than the 10 that a container is given to stop."""
GC_OBJECTS: Final = 50_000
"""Objects that are made before the garbage collector looks at the youngest."""

log = structlog.get_logger()


def run(settings: MeterSettings) -> int:
    """Run until told to stop. Returns the exit code: 0, 1 where a fault needs a person, 2 where a setting does."""
    logs.configure(settings.log, settings.log_level, "meter")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings))


async def serve(settings: MeterSettings) -> int:
    """The meter's whole life, on a running loop."""
    health = Health()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _begin_stop, health, stop)
    page = await _serve_health(health, settings.meter_metrics_host, settings.meter_metrics_port)
    meter = Meter(settings, health, stop)
    try:
        await meter.live()
    except (MigrationError, PriceSourceError) as error:
        log.critical("cannot start", reason=str(error))
        return 1
    except RightsError as error:
        log.critical("cannot start", reason=str(error))
        return 2
    except Exception:  # a fault of the program: what was begun is repeated after a restart
        log.critical("stopped by a fault", exc_info=True)
        return 1
    finally:
        await page.cleanup()
    log.info("stopped")
    return 0


class RightsError(Exception):
    """The login user may not do what the meter does: no waiting helps. The text says what to set."""


class Meter:
    """Every part of one meter, and the tasks that it consists of."""

    def __init__(self, settings: MeterSettings, health: Health, stop: asyncio.Event) -> None:
        self._settings = settings
        self._health = health
        self._stop = stop
        self._pool: Any = database.pool(settings.database_url)
        self._client = redis_link.connect(settings.redis_url)
        self._bell = Bell(settings.database_url, orders.CHANNEL, projection_watch.CHANNEL, dead_letters.CHANNEL)
        prices = PriceBook()
        tariffs = Tariffs(prices)
        self._ledger = Ledger(self._pool, tariffs)
        self._projection = Projection(self._client, self._pool, prices)
        self._watch = ProjectionWatch(self._client, self._pool, self._projection, settings.shards)
        self._orders = Orders(self._pool, settings.shards)
        self._corrections = Corrections(self._pool, tariffs, settings.shards)
        self._dead_letters = DeadLetters(self._pool, self._ledger, self._projection, settings.shards)
        self._reaper = Reaper(self._client, settings.shards)
        self._gauges = Gauges(self._client, self._pool, settings.shards)
        self._auditor = Auditor(settings.database_url, tariffs)
        self._projection_auditor = ProjectionAuditor(self._client, self._pool, self._projection, settings.shards)
        self._watch.on_restoration += [tariffs.forget, self._auditor.begin_anew]

    async def live(self) -> None:
        """Until told to stop. Raises MigrationError, PriceSourceError, RightsError where a person must help first."""
        work = asyncio.ensure_future(self._work())
        told = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        await asyncio.wait({work}, timeout=DRAIN_S)
        if not work.done():
            log.warning("some tasks could not finish: their connections are cut off", seconds=DRAIN_S)
            self._pool.terminate()  # what waits for an answer fails now; what waits for a connection is cancelled
            self._auditor.cut_off()
            await asyncio.wait({work}, timeout=database.CLOSE_TIMEOUT_S)
            work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work

    async def _work(self) -> None:
        async with (
            database.opened(self._pool),
            self._client,
            contextlib.aclosing(self._bell),
            contextlib.aclosing(self._auditor),
        ):
            if not await once("start", self._start, health=self._health, stop=self._stop):
                return
            _spare_the_collector()
            self._health.started = True
            log.info("ready", shards=len(self._settings.shards), metrics_port=self._settings.meter_metrics_port)
            async with asyncio.TaskGroup() as tasks:
                for task in self._tasks():
                    tasks.create_task(task)

    async def _start(self) -> None:
        try:
            async with self._pool.acquire() as connection:
                if missing := await outstanding(connection):
                    raise MigrationError(f"migrations have not run: {', '.join(missing)}; run `sundial migrate`")
                await connection.execute(QUERIES["ensure_months"])
                await seed(connection, parse_credits(self._settings.default_allowance))
        except asyncpg.InsufficientPrivilegeError as error:
            raise RightsError(
                f"SUNDIAL_DATABASE_URL: {error}; log in as a member of sundial_meter (GRANT sundial_meter TO …)"
            ) from error
        try:
            await self._watch.look()
        except OutOfMemoryError as error:
            # Readers must not wait for memory that only they can free. It is told in the rounds, once there is some.
            log.warning("Redis is full: reading first", error=str(error))

    def _tasks(self) -> Iterator[Coroutine[Any, Any, None]]:
        consumer = self._settings.meter_name or socket.gethostname()
        for shard in self._settings.shards:
            claim_idle_ms = round(1000 * self._settings.claim_idle_s)
            stream = ShardStream(self._client, shard, consumer, claim_idle_ms=claim_idle_ms)
            yield Reader(shard, stream, self._ledger, self._projection, self._health, self._stop).run()
        rung = self._bell.events
        yield self._rounds("bell", self._bell.listen, MEASURE_S)
        yield self._rounds("orders", self._orders.post, POLL_S, rung[orders.CHANNEL])
        yield self._rounds("expiry", self._orders.expire, POLL_S)
        yield self._rounds("corrections", self._corrections.correct, POLL_S)
        yield self._rounds("dead letters", self._dead_letters.answer, POLL_S, rung[dead_letters.CHANNEL])
        yield self._rounds("projection", self._watch.pass_on, POLL_S, rung[projection_watch.CHANNEL])
        yield self._rounds("epochs", self._watch.look, POLL_S)
        yield self._rounds("reaper", self._reaper.reap, POLL_S)
        yield self._rounds("lag", self._gauges.measure_streams, MEASURE_S)
        yield self._rounds("gauges", self._gauges.measure_queues, MEASURE_S)
        yield self._rounds("house", self._gauges.keep_house, HOUSE_S)
        yield self._rounds("auditor", self._auditor.look, POLL_S)
        yield self._rounds("projection auditor", self._projection_auditor.look, POLL_S)
        if folder := self._settings.checkpoint_dir:
            daily = DailyCheckpoint(self._pool, self._settings.checkpoint_key, folder)
            yield self._rounds("checkpoint", daily.write, HOUSE_S)

    async def _rounds(
        self, task: str, step: Callable[[], Awaitable[bool]], every_s: float, wake: asyncio.Event | None = None
    ) -> None:
        await rounds(task, step, every_s=every_s, wake=wake, health=self._health, stop=self._stop)


def _spare_the_collector() -> None:
    """Prices and programs stay: the garbage collector need not look through them, nor run for every few hundred of a
    batch's rows, which form no cycles. It took a tenth of the meter's time. What a batch makes by the thousand is
    declared `gc=False`, and it does not see it at all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 50)


def _begin_stop(health: Health, stop: asyncio.Event) -> None:
    health.draining = True
    stop.set()


async def _serve_health(health: Health, host: str, port: int) -> web.AppRunner:
    """`/livez`, `/readyz` (503 with the reasons while unfit or draining) and `/metrics`."""

    async def livez(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        report = {"ready": health.ready, "waiting_for": health.report}
        return web.json_response(report, status=200 if health.ready else 503)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    page = web.Application()
    page.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(page, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
