"""How the meter's tasks repeat: in rounds until told to stop, and ever slower while something they need is away."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from redis.exceptions import RedisError

from meter.database import is_passing_fault
from meter.health import Health
from meter.marks import LedgerBehindError
from meter.metrics import FAULTS

DELAY_FIRST_S: Final = 0.05
DELAY_MAX_S: Final = 5.0
"""Longest wait between two tries, in seconds: half of the time in which all must work again after a fault."""

log = structlog.get_logger()


def passing(error: BaseException) -> bool:
    """Whether waiting may help: Postgres or Redis is away, busy, full, does not have what an operator will add, or is
    older than it was, which the next look at the epochs heals."""
    return isinstance(error, RedisError | LedgerBehindError) or is_passing_fault(error)


def delay_s(failures: int, fraction: float) -> float:
    """Full jitter: a random part (0 ≤ `fraction` < 1) of a limit that doubles with each failure in a row."""
    return fraction * min(DELAY_MAX_S, DELAY_FIRST_S * float(1 << min(failures, 16)))


async def wait(seconds: float, *events: asyncio.Event) -> None:
    """Until one of the events is set, or `seconds` have passed."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


class Retries:
    """Tells health and metrics of the faults of one task, and waits after each."""

    def __init__(self, task: str, health: Health, stop: asyncio.Event) -> None:
        self._task = task
        self._health = health
        self._stop = stop
        self._failures = 0

    def succeeded(self) -> None:
        if self._failures:
            log.info("recovered", task=self._task, failures=self._failures)
            self._failures = 0
            self._health.well(self._task)

    async def failed(self, error: BaseException) -> None:
        """Wait before the next try; a stop ends the wait."""
        FAULTS.labels(task=self._task.partition(" ")[0], error=type(error).__name__).inc()
        self._health.ill(self._task, f"{type(error).__name__}: {error}")
        if not self._failures:
            log.warning("failed, trying again", task=self._task, error=f"{type(error).__name__}: {error}")
        await wait(delay_s(self._failures, random.random()), self._stop)  # noqa: S311 - jitter, no secret
        self._failures += 1


async def once(task: str, step: Callable[[], Awaitable[None]], *, health: Health, stop: asyncio.Event) -> bool:
    """Take `step` until it succeeds. False where a stop came first."""
    retries = Retries(task, health, stop)
    while not stop.is_set():
        try:
            await step()
        except Exception as error:
            if not passing(error):
                raise
            await retries.failed(error)
        else:
            retries.succeeded()
            return True
    return False


async def rounds(
    task: str,
    step: Callable[[], Awaitable[bool]],
    *,
    every_s: float,
    wake: asyncio.Event | None = None,
    health: Health,
    stop: asyncio.Event,
) -> None:
    """Take `step` again and again: at once where it says that there is more to do, else when `wake` is set or after
    `every_s` seconds. A step may be repeated from its beginning, so a passing fault only delays it."""
    retries = Retries(task, health, stop)
    while not stop.is_set():
        if wake is not None:
            wake.clear()
        try:
            more = await step()
        except Exception as error:
            if not passing(error):
                raise
            await retries.failed(error)
            continue
        retries.succeeded()
        if not more:
            await wait(every_s, stop, *([wake] if wake else []))
