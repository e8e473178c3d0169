"""How a gateway goes: what runs is let finish, what does not is cut, and everything is settled.

Five steps from the first SIGTERM on; a second one leads at once to the cut:
  grace    /readyz says 503, calls that still come are served, each answer ends its connection: load balancers notice
  close    the port closes, and so does each connection that has no request
  finish   running calls go on to their end
  cut      what still runs ends as `drained`: counted as far as it came and booked, and its client sees a cut
  flush    what clients have not read yet leaves
"""

import asyncio
from collections.abc import Awaitable
from typing import Final

import structlog
from aiohttp import web

from gateway.gate import Gate

CLOSE_S_MAX: Final = 10.0
"""Seconds that calls which were cut have to be counted and booked; later the next start books them as lost."""
FLUSH_S_MAX: Final = 2.0
"""Seconds that clients have to take the rest of what they were sent."""
_POLL_S: Final = 0.02

log = structlog.get_logger()


async def drain(gate: Gate, runner: web.BaseRunner, hurry: asyncio.Event) -> None:
    """All five steps. `hurry`: do not wait for anybody any more."""
    settings = gate.settings
    gate.draining = True
    log.info("draining", running=len(gate.requests), grace_s=settings.drain_grace_s, drain_s=settings.drain_s)
    await _within(settings.drain_grace_s, hurry.wait())
    await _close(gate, runner)
    await _either(settings.drain_s, hurry.wait(), _ended(gate))
    gate.cutting = True
    if cut := len(gate.requests):
        log.warning("cutting", running=cut)
    for task in list(gate.requests):
        task.cancel()
    await _within(CLOSE_S_MAX, _booked(gate))
    await _within(FLUSH_S_MAX, _flushed(runner))


async def _close(gate: Gate, runner: web.BaseRunner) -> None:
    for site in list(runner.sites):
        await site.stop()
    await asyncio.sleep(0)  # a request that has just come has its task
    busy = set(gate.requests.values())
    for connection in runner.server.connections if runner.server is not None else ():
        connection.close()  # after the present answer
        if connection not in busy:
            connection.force_close()


async def _ended(gate: Gate) -> None:
    while gate.requests:
        await asyncio.wait(list(gate.requests))


async def _booked(gate: Gate) -> None:
    await _ended(gate)
    await gate.budget.idle()


async def _flushed(runner: web.BaseRunner) -> None:
    while runner.server is not None and runner.server.connections:  # noqa: ASYNC110 (aiohttp tells nobody)
        await asyncio.sleep(_POLL_S)


async def _within(seconds: float, waiting: Awaitable[object]) -> None:
    await _either(seconds, waiting)


async def _either(seconds: float, *waiting: Awaitable[object]) -> None:
    """Until one of them is there, at most `seconds`."""
    tasks = [asyncio.ensure_future(each) for each in waiting]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
