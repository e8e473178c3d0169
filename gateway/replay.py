"""What dead processes left behind: their journals, settled by a process that lives, or by the next one that starts.

Cases of one call, by its records: S: settled again (the meter knows events by their id, so a repeat is harmless).
V: nothing. D, perhaps with C: the process died under it; it is booked as lost, at its last note. E says nothing new.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import structlog

from gateway import metrics
from gateway.journal import DeadJournal, Journal, JournalFullError, dead_journals
from shared import events
from shared.events import UnreadableEntryError, UsageEvent

ADOPT_LOOK_S: Final = 5.0
"""Seconds between two looks for journals whose process is gone."""
COPIED_AT_ONCE: Final = 100
"""Records that are copied before live calls have their turn."""

log = structlog.get_logger()


def last_words(records: Iterable[tuple[bytes, bytes]]) -> Iterator[UsageEvent]:
    """The event to book for each call of a journal. Pure."""
    last: dict[str, tuple[bytes, UsageEvent]] = {}
    for kind, payload in records:
        if kind == b"E":
            continue
        try:
            event = events.decode(payload)
        except UnreadableEntryError as error:
            log.error("journal_record_unreadable", error=str(error))  # noqa: TRY400
            continue
        if isinstance(event, UsageEvent):
            call = str(event.event_id)
            if last.get(call, (b"",))[0] not in (b"S", b"V"):  # a close is final, whatever stands behind it
                last[call] = (kind, event)
    yield from (event for kind, event in last.values() if kind != b"V")


class Adoption:
    """Takes over the journals of processes that die, for as long as this one lives: writes their calls into our own,
    removes theirs, and tells the calls.

    Ours holds them from then on, for its own 24 hours: a process that dies before all are told leaves them to the next
    one. Where ours cannot be written they are told all the same, and the dead one's folder stays, locked, for the next
    start.
    """

    def __init__(self, home: Path, own: Journal, tell: Callable[[list[UsageEvent]], Awaitable[None]]) -> None:
        """`tell` returns when Redis has confirmed them."""
        self._home = home
        self._own = own
        self._tell = tell
        self.owing = False
        """Our journal may hold calls that are not told yet."""

    async def keep(self) -> None:
        """A look at once, for what an earlier run left, and every ADOPT_LOOK_S."""
        while True:
            try:
                await self.look()
            except OSError as error:
                log.error("adoption_failed", error=str(error))  # noqa: TRY400
            await asyncio.sleep(ADOPT_LOOK_S)

    async def look(self) -> None:
        """Take over what there is."""
        left = await asyncio.to_thread(dead_journals, self._home, but=self._own.folder, settled=False)
        try:
            while left:
                self.owing = True
                await self._adopt(left.pop(0))
        finally:
            for dead in left:
                dead.release()
        self.owing = False

    async def _adopt(self, dead: DeadJournal) -> None:
        calls = await asyncio.to_thread(_calls_of, dead)
        if await self._copied(calls, dead):
            await asyncio.to_thread(dead.remove)
        log.info("journal_taken_over", folder=dead.folder.name, calls=len(calls))
        await self._tell(calls)

    async def _copied(self, calls: list[UsageEvent], dead: DeadJournal) -> bool:
        """Whether our journal holds all of them, on the disk."""
        try:
            for number, event in enumerate(calls):
                self._own.write(b"S", events.encode(event))
                if number % COPIED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            await asyncio.to_thread(self._own.sync)
        except (JournalFullError, OSError) as error:
            log.error("journal_not_taken_over", folder=dead.folder.name, error=str(error))  # noqa: TRY400
            return False
        return True


def _calls_of(dead: DeadJournal) -> list[UsageEvent]:
    calls = list(last_words(dead.records()))
    if dead.damaged:
        metrics.JOURNAL_DAMAGED.inc(dead.damaged)
        log.error("journal_damaged", folder=dead.folder.name, records=dead.damaged)
    return calls
