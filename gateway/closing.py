"""How a call is closed: written to the journal, settled in Redis, said in one log line (saying.py)."""

from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from gateway import metrics
from gateway.gate import Gate
from gateway.journal import JournalFullError, Kind
from gateway.settlement import NOTHING, Counted, Facts, usage_event
from shared import events
from shared.events import UsageEvent
from shared.usage import Outcome

if TYPE_CHECKING:
    from gateway.budget import Hold

GIVEN_UP: Final = (408, 504)
"""Statuses of an upstream that did not wait for its own upstream."""

log = structlog.get_logger()


def event(gate: Gate, hold: "Hold", counted: Counted, facts: Facts) -> UsageEvent:
    """The call's usage event as of now."""
    return usage_event(hold.draft, hold.call, counted, facts, now_us=gate.now_us(), held_mc=hold.held_mc)


def book(gate: Gate, hold: "Hold", counted: Counted, facts: Facts) -> None:
    """The commit point of usage: after this the S record is on disk and Redis is told as soon as it can be."""
    closed = event(gate, hold, counted, facts)
    payload = events.encode(closed)
    hold.recorded, hold.charge_mc = _write(gate, b"S", hold, payload), closed.charge_mc
    gate.budget.settle(hold, closed, payload)
    gate.saying.closed(closed, hold)


def book_draft(gate: Gate, hold: "Hold") -> None:
    """What was last noted of a call, as lost: where the call cannot be counted."""
    hold.recorded, hold.charge_mc = _write(gate, b"S", hold, hold.noted), hold.draft.charge_mc
    gate.budget.settle(hold, hold.draft, hold.noted)
    gate.saying.closed(hold.draft, hold)


def void(gate: Gate, hold: "Hold") -> None:
    """The call came to nothing: give the hold back, book nothing."""
    hold.closing = True
    hold.recorded = _write(gate, b"V", hold, hold.noted)
    gate.budget.void(hold)


def refused(gate: Gate, hold: "Hold", facts: Facts) -> None:
    """The upstream's status says that nothing was made, and it costs nothing. A call that it gave up may still be at
    work: that is booked at nothing, to be compared with the provider's bill."""
    if facts.status not in GIVEN_UP:
        void(gate, hold)
        return
    hold.closing = True
    book(gate, hold, NOTHING, msgspec.structs.replace(facts, outcome="timeout"))


def unanswered(gate: Gate, hold: "Hold", outcome: Outcome) -> None:
    """Sent and never answered: booked at nothing, to be compared with the provider's bill."""
    hold.closing = True
    book(gate, hold, NOTHING, Facts(outcome=outcome))


def note(gate: Gate, hold: "Hold", counted: Counted, facts: Facts) -> None:
    """What has streamed so far, should this process die."""
    hold.draft = event(gate, hold, counted, facts)
    hold.noted = events.encode(hold.draft)
    _write(gate, b"C", hold, hold.noted)


def _write(gate: Gate, kind: Kind, hold: "Hold", record: bytes) -> bool:
    """Whether the journal has it now."""
    try:
        gate.journal.write(kind, record)
    except JournalFullError as error:
        # Running calls still close: Redis and the meter have the event, only this disk does not.
        metrics.JOURNAL_FAILURES.inc()
        log.error("journal_write_failed", kind=kind.decode(), event_id=hold.call.event_text, error=str(error))  # noqa: TRY400
        return False
    return True
