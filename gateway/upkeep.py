"""What a gateway does for as long as it runs, beside its calls. What dies of a fault of ours is said and begun anew."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gateway import metrics
from gateway.journal import Journal
from gateway.retention import Retention

JOURNAL_SYNC_S: Final = 1.0
"""Seconds between two syncs of the journal."""
RESTART_S: Final = 1.0
"""Seconds after which a task that died begins anew."""

log = structlog.get_logger()


async def lasting(name: str, work: Callable[[], Awaitable[None]], restart_s: float = RESTART_S) -> None:
    """Do `work`, which has no end, until cancelled. An exception would end it unseen: holds that nobody renews expire
    while their calls run, and a journal that nobody syncs is lost with the power."""
    while True:
        try:
            await work()
        except Exception:
            metrics.UPKEEP_FAILURES.labels(name).inc()
            log.critical("upkeep_failed", task=name, exc_info=True)
        await asyncio.sleep(restart_s)


async def keep_journal(journal: Journal, retention: Retention) -> None:
    """Sync each second, and at each segment while room is scarce, off the loop; begin and drop segments by their age,
    or where room is short; see whether a disk that was full has room again."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JOURNAL_SYNC_S):
                await journal.scarce.wait()
        journal.scarce.clear()
        retention.look()
        journal.flush()
        journal.turn_over(time.time())
        try:
            await loop.run_in_executor(None, journal.keep)
        except OSError as error:
            log.error("journal_sync_failed", error=str(error))  # noqa: TRY400
        else:
            journal.spare_below = retention.spare_below  # what was noted again is on the disk
            if journal.failing:
                journal.probe()
