"""What dead processes left behind: their journals, settled by a process that lives, or by the next one that starts.

Cases of one call, by its records: S: settled again (the meter knows events by their id, so a repeat is harmless).
V: nothing. D, perhaps with C: the process died under it; it is booked as lost, at its last note. E says nothing new.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

from gateway import metrics
from gateway.journal import NO_SEGMENT, SEGMENT_AGE_S_MAX, DeadJournal, Journal, JournalFullError, dead_journals
from shared import events
from shared.events import UnreadableEntryError, UsageEvent

ADOPT_LOOK_S: Final = 5.0
"""Seconds between two looks for journals whose process is gone."""
COPIED_AT_ONCE: Final = 100
"""Records that are copied before live calls have their turn."""
TOLD_AT_ONCE: Final = 1_000
"""Calls of a dead journal that are in memory at once."""
CLOSES_KEPT: Final = 50_000
"""Closes behind which a note of the same call is passed over: it follows within moments, if at all."""

log = structlog.get_logger()


def last_words(records: Iterable[tuple[bytes, bytes]]) -> Iterator[UsageEvent]:
    """The event to book for each call of a journal: closed ones as they come, then those that have no close. Pure.

    A call that was copied from another journal may come twice.
    """
    begun: dict[UUID, UsageEvent] = {}
    closes: dict[UUID, None] = {}
    for kind, payload in records:
        if kind == b"E":
            continue
        try:
            event = events.decode(payload)
        except UnreadableEntryError as error:
            log.error("journal_record_unreadable", error=str(error))  # noqa: TRY400
            continue
        if not isinstance(event, UsageEvent) or event.event_id in closes:
            continue  # a close is final, whatever stands behind it
        if kind not in (b"S", b"V"):
            begun[event.event_id] = event
            continue
        begun.pop(event.event_id, None)
        closes[event.event_id] = None
        if len(closes) > CLOSES_KEPT:
            del closes[next(iter(closes))]
        if kind == b"S":
            yield event
    yield from begun.values()


class Adoption:
    """Takes over the journals of processes that die, for as long as this one lives: writes their calls into our own,
    tells them, and removes theirs.

    Ours holds them from then on: a process that dies before all are told leaves them to the next one, which finds the
    dead one's marked and copies nothing twice. What is older than a journal's day is told, but not copied, else history
    would be handed on for ever. Where ours cannot be written they are told all the same, and the dead one's folder
    stays, locked, for the next start.
    """

    def __init__(self, home: Path, own: Journal, tell: Callable[[list[UsageEvent]], Awaitable[None]]) -> None:
        """`tell` returns when Redis has confirmed them."""
        self._home = home
        self._own = own
        self._tell = tell
        self._doomed: list[DeadJournal] = []
        """Told, and could not be removed yet."""
        self._kept: list[DeadJournal] = []
        """Told, but not in our journal."""
        self.owing = False
        """Our journal may hold calls that are not told yet."""
        self.needs_from = NO_SEGMENT
        """Segments of our journal from this one on must stay: they hold what is not told yet."""

    async def keep(self) -> None:
        """A look at once, for what an earlier run left, and every ADOPT_LOOK_S."""
        while True:
            try:
                await self.look()
            except OSError as error:
                log.error("adoption_failed", error=str(error))  # noqa: TRY400
            await asyncio.sleep(ADOPT_LOOK_S)

    async def look(self) -> None:
        """Take over what there is. What cannot be read now is left for a later look."""
        self._doomed = [dead for dead in self._doomed if not await self._removed(dead)]
        left = await asyncio.to_thread(dead_journals, self._home, but=self._own.folder, settled=False)
        unread = False
        try:
            for dead in left:
                self.owing = True
                self.needs_from = self._own.number
                try:
                    await self._adopt(dead)
                except OSError as error:
                    unread = True
                    log.error("journal_not_read", folder=dead.folder.name, error=str(error))  # noqa: TRY400
        finally:
            for dead in left:
                if dead not in self._doomed and dead not in self._kept:
                    dead.release()
            self.needs_from = NO_SEGMENT  # all is told, or still where it was
        self.owing = unread

    async def _adopt(self, dead: DeadJournal) -> None:
        """Raises OSError."""
        copied = dead.copied or await self._copied(dead)
        calls = 0
        async for some in _pieces(dead, TOLD_AT_ONCE):
            await self._tell(some)
            calls += len(some)
        log.info("journal_taken_over", folder=dead.folder.name, calls=calls)
        if not copied:
            self._kept.append(dead)
        elif not await self._removed(dead):
            self._doomed.append(dead)

    async def _removed(self, dead: DeadJournal) -> bool:
        try:
            await asyncio.to_thread(dead.remove)
        except OSError as error:
            log.error("journal_not_removed", folder=dead.folder.name, error=str(error))  # noqa: TRY400
            return False
        return True

    async def _copied(self, dead: DeadJournal) -> bool:
        """Whether our journal holds all of them that are of its day, on the disk."""
        oldest_us = (time.time() - SEGMENT_AGE_S_MAX) * 1e6
        try:
            async for some in _pieces(dead, COPIED_AT_ONCE):
                for event in some:
                    if event.settled_at_us >= oldest_us:
                        self._own.write(b"S", events.encode(event))
            await asyncio.to_thread(self._own.sync)
            await asyncio.to_thread(dead.mark_copied)
        except (JournalFullError, OSError) as error:
            log.error("journal_not_taken_over", folder=dead.folder.name, error=str(error))  # noqa: TRY400
            return False
        finally:
            if dead.damaged:
                metrics.JOURNAL_DAMAGED.inc(dead.damaged)
                log.error("journal_damaged", folder=dead.folder.name, records=dead.damaged)
        return True


async def _pieces(dead: DeadJournal, size: int) -> AsyncIterator[list[UsageEvent]]:
    """The calls of a dead journal, a few at a time, read by a thread."""
    calls = last_words(dead.records())
    while some := await asyncio.to_thread(lambda: list(islice(calls, size))):
        yield some
