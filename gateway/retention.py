"""Which segments of our journal may go before their day, so that a busy gateway runs short of history and not of room.

A segment may go when nobody needs its records any more:
  running calls     their last note stands in a later one; where theirs are old they are noted again
  closed calls      Redis has confirmed them
  Redis forgets     what it may have lost is told again from the journal first (gateway.retelling)
  journals of dead  what was copied from them is told first (gateway.replay)
No segment is read for that, nor is anything counted at each call: a generation is all calls that are open at one
moment. When each of them is over and confirmed, or noted again, every segment before the one that was written then may
go.
"""

from typing import Final

import structlog

from gateway.budget import Budget
from gateway.journal import Journal, JournalFullError
from gateway.replay import Adoption
from gateway.retelling import Retelling

LOOK_SHARE: Final = 4
"""One in so many of its segments the journal has before anything is looked at."""
NOTED_AGAIN_SHARE: Final = 8
"""One in so many of its segments has been written since a generation began before its calls are noted again."""
NOTED_AT_ONCE_MAX: Final = 1_000
"""Calls that are noted again at one look, some megabyte."""

log = structlog.get_logger()


class Retention:
    """Looks each second, on the event loop."""

    def __init__(self, journal: Journal, budget: Budget, retelling: Retelling, adoption: Adoption) -> None:
        self._journal = journal
        self._budget = budget
        self._retelling = retelling
        self._adoption = adoption
        self._waiting: set[str] = set()
        """Calls of the present generation that are not over and confirmed."""
        self._began = 0
        """The segment that was written when it began; 0: there is none."""
        self._settled_below = 0

    def look(self) -> None:
        """See what is settled by now. What is noted here must be synced before `spare_below` is told the journal."""
        journal, budget = self._journal, self._budget
        if journal.kept <= journal.segments_max // LOOK_SHARE:
            self._began = 0  # there is room: what is written until it is scarce belongs to a later generation
            return
        if budget.closed.dropped:
            return  # the journal alone knows who they are
        if self._began:
            self._waiting = {one for one in self._waiting if one in budget.running or one in budget.closed}
            if journal.number - self._began >= journal.segments_max // NOTED_AGAIN_SHARE:
                self._note_again()
            if self._waiting:
                return
            self._settled_below = self._began
        self._began = journal.number
        self._waiting = {*budget.running, *budget.closed}

    @property
    def spare_below(self) -> int:
        """Segments with a smaller number may go."""
        if self._budget.closed.dropped:
            return 0
        return min(self._settled_below, self._retelling.needs_from, self._adoption.needs_from)

    def _note_again(self) -> None:
        """Long calls must not keep what was written beside their first records."""
        old = [one for one in self._waiting if one in self._budget.running]
        try:
            for event_id in old[:NOTED_AT_ONCE_MAX]:
                self._journal.write(b"C", self._budget.running[event_id].noted)
                self._waiting.discard(event_id)
        except JournalFullError as error:
            log.warning("journal_not_noted_again", error=str(error))
