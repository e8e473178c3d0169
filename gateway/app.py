"""The gateway program: everything is wired here, started, and stopped in order."""

import asyncio
import contextlib
import os
import random
import signal
import socket
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop
from aiohttp import web

from gateway import health
from gateway.book import KeyBook
from gateway.budget import Budget
from gateway.door import Door
from gateway.draining import drain
from gateway.gate import Gate
from gateway.journal import Journal
from gateway.lists import lists
from gateway.models import ModelList
from gateway.overload import Overload, raise_files_max
from gateway.provisional import provisional_model
from gateway.recount import vocabulary
from gateway.redis_link import RedisLink
from gateway.refusals import Refusal
from gateway.replay import Adoption
from gateway.retelling import Retelling
from gateway.retention import Retention
from gateway.server import Server
from gateway.shadow import Shadow
from gateway.upkeep import keep_journal, lasting
from gateway.upstream import Upstream
from shared import logs
from shared.settings import GatewaySettings

COUNTERS: Final = 2
"""Threads for the tokenizer, which lets go of the interpreter lock while it counts."""
VOCABULARIES: Final = ("o200k_base", "cl100k_base")
LOADED_S_MAX: Final = 10.0
"""Seconds that the start waits for keys and prices; without them it goes on, not ready."""
SETTLED_S_MAX: Final = 5.0
"""Seconds that the end waits for what is being counted, and for Redis to confirm what was closed."""
HEADER_BYTES_MAX: Final = 32 * 1024
KEEP_ALIVE_S: Final = 75.0
"""Seconds that a connection may be without a whole request."""
SAME_SIGNAL_S: Final = 0.1
"""Seconds within which signals are one: a terminal and a parent tell it both, a dying parent once for each thread."""

log = structlog.get_logger()


def run(settings: GatewaySettings, *, health_socket: Path | None = None) -> int:
    """Run until SIGTERM or SIGINT, then drain; a second signal cuts the drain short. Returns the exit code.

    `health_socket`: where a worker serves its health, in place of the metrics port, which is its parent's.
    """
    logs.configure(settings.log, settings.log_level, "gateway")
    raise_files_max()
    uvloop.run(_run(settings, health_socket))
    return 0


async def _run(settings: GatewaySettings, health_socket: Path | None) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    told_at_s = 0.0

    def told() -> None:
        nonlocal told_at_s
        if not stop.is_set():
            stop.set()
            told_at_s = loop.time()
        elif loop.time() - told_at_s > SAME_SIGNAL_S:
            hurry.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    async with opened(settings) as gate, health.served(gate, health_socket):
        server = Server(
            Door(gate).answer,
            gate.overload,
            head_s=settings.head_timeout_s,
            head_bytes=HEADER_BYTES_MAX,
            body_bytes_max=settings.body_bytes_max,
            keep_alive_s=KEEP_ALIVE_S,
            language=settings.language,
        )
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        try:
            shared = settings.gateway_workers > 1
            host, port = settings.gateway_host, settings.gateway_port
            await web.TCPSite(runner, host, port, backlog=1024, reuse_port=shared).start()
            gate.listening = True
            log.info("gateway_ready" if not gate.unfit else "gateway_waiting", reason=gate.unfit or None)
            await stop.wait()
            await drain(gate, runner, hurry)
        finally:
            await runner.cleanup()
    for number in (signal.SIGTERM, signal.SIGINT):  # what comes late makes no failure of an end in order
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


@contextlib.asynccontextmanager
async def opened(settings: GatewaySettings) -> Any:
    """All parts, started in the order of their needs and closed in reverse; every closed call is settled before.

    Raises SettingsError for a setting that only shows to be wrong here.
    """
    name = settings.gateway_name or f"{socket.gethostname()}-{os.getpid()}"
    listed, trusted = lists(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    tasks: set[asyncio.Task[Any]] = set()

    def spawn(work: Awaitable[Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(ended)
        return task

    def ended(task: "asyncio.Task[Any]") -> None:
        tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Refusal | ConnectionError):  # those are said, or a client's
            log.error("task_failed", exc_info=error)

    link = RedisLink(settings.redis_url)
    book = KeyBook(settings.redis_url, provisional_model(settings))
    journal = Journal(settings.home, name, settings.journal_bytes_max)
    upstream = Upstream(settings.upstream_url, settings.upstream_key, settings.first_byte_timeout_s)
    budget = Budget(link, ttl_s=settings.hold_ttl_s, stream_entries_max=settings.stream_entries_max, spawn=spawn)
    counters = ThreadPoolExecutor(COUNTERS, thread_name_prefix="count")
    shadow = Shadow(settings.recount_sample, random.random)
    gate = Gate(
        settings=settings,
        name=name,
        book=book,
        link=link,
        budget=budget,
        journal=journal,
        upstream=upstream,
        models=ModelList(upstream),
        counters=counters,
        shadow=shadow,
        spawn=spawn,
        forwarded=listed,
        trusted_proxies=trusted,
        overload=Overload(settings.memory_bytes_max),
    )
    # A vocabulary's first load holds the interpreter for a moment: better before the port is open.
    for name in VOCABULARIES:
        await asyncio.get_running_loop().run_in_executor(counters, vocabulary.load, name)
    await link.start()
    await book.start(LOADED_S_MAX)
    retelling = Retelling(link, budget, journal, settings.home)
    await retelling.start()
    adoption = Adoption(settings.home, journal, budget.closed.resettle_all)
    retention = Retention(journal, budget, retelling, adoption)
    upkeep = [
        asyncio.create_task(lasting("holds", budget.keep_alive)),
        asyncio.create_task(lasting("refusals", link.keep_asking)),
        asyncio.create_task(lasting("journal", lambda: keep_journal(journal, retention))),
        asyncio.create_task(lasting("epochs", retelling.keep)),
        asyncio.create_task(lasting("adoption", adoption.keep)),
        asyncio.create_task(lasting("overload", lambda: gate.overload.keep(lambda: len(budget.running)))),
    ]
    try:
        yield gate
    finally:
        for task in upkeep:
            task.cancel()
        # What is being counted or settled ends here; what Redis does not take is in the journal.
        spawn(budget.closed.confirmed())
        await asyncio.wait(tasks, timeout=SETTLED_S_MAX)
        await upstream.close()
        await book.close()
        await link.close()
        counters.shutdown(wait=False, cancel_futures=True)
        shadow.close()
        journal.close(told=None if budget.owing or adoption.owing else retelling.told)
        log.info("gateway_stopped", unsettled=len(budget.closed))
