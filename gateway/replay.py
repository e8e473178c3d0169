"""What dead processes left behind: their journals, settled by the next process that starts.

Cases of one call, by its records: S: settled again (the meter knows events by their id, so a repeat is harmless).
V: nothing. D, perhaps with C: the process died under it; it is booked as lost, at its last note.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from gateway import metrics
from gateway.journal import DeadJournal, Journal, JournalFullError, dead_journals
from shared import events
from shared.events import UnreadableEntryError, UsageEvent

log = structlog.get_logger()


def last_words(records: Iterable[tuple[bytes, bytes]]) -> Iterator[UsageEvent]:
    """The event to book for each call of a journal. Pure."""
    last: dict[str, tuple[bytes, UsageEvent]] = {}
    for kind, payload in records:
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


def replay(home: Path, own: Journal) -> list[UsageEvent]:
    """Take over the journals of dead processes: write their calls into our own, remove theirs.

    Returns the calls, to be reported. Ours holds them from then on, for its own 24 hours: a process that dies before
    all are reported leaves them to the next start. Where ours cannot be written they are returned all the same, and the
    dead one's folder stays, locked, for the next start.
    """
    taken: list[UsageEvent] = []
    for dead in dead_journals(home, but=own.folder):
        if dead.settled:
            if dead.outdated:
                dead.remove()
            else:
                dead.release()
            continue
        calls = list(last_words(dead.records()))
        copied = _copied(calls, own, dead)
        taken += calls
        if dead.damaged:
            metrics.JOURNAL_DAMAGED.inc(dead.damaged)
            log.error("journal_damaged", folder=dead.folder.name, records=dead.damaged)
        if copied:
            dead.remove()
    if taken:
        log.info("journals_taken_over", calls=len(taken))
    return taken


def _copied(calls: Iterable[UsageEvent], own: Journal, dead: DeadJournal) -> bool:
    """Whether our journal holds all of them, on the disk."""
    try:
        for event in calls:
            own.write(b"S", events.encode(event))
        own.sync()
    except (JournalFullError, OSError) as error:
        log.error("journal_not_taken_over", folder=dead.folder.name, error=str(error))  # noqa: TRY400
        return False
    return True
