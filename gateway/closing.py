"""How a call is closed: written to the journal, settled in Redis, said in one log line."""

from typing import TYPE_CHECKING

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

log = structlog.get_logger()


def event(gate: Gate, hold: "Hold", counted: Counted, facts: Facts) -> UsageEvent:
    """The call's usage event as of now."""
    return usage_event(
        hold.call, gate.book.catalog, counted, facts, now_us=gate.now_us(), held_mc=hold.held_mc, gateway=gate.name
    )


def book(gate: Gate, hold: "Hold", counted: Counted, facts: Facts) -> None:
    """The commit point of usage: after this the S record is on disk and Redis is told as soon as it can be."""
    closed = event(gate, hold, counted, facts)
    payload = events.encode(closed)
    hold.recorded, hold.charge_mc = _write(gate, b"S", hold, payload), closed.charge_mc
    gate.budget.settle(hold, closed, payload)
    _say(closed, hold)


def book_draft(gate: Gate, hold: "Hold") -> None:
    """What was last noted of a call, as lost: where the call cannot be counted."""
    hold.recorded, hold.charge_mc = _write(gate, b"S", hold, hold.noted), hold.draft.charge_mc
    gate.budget.settle(hold, hold.draft, hold.noted)
    _say(hold.draft, hold)


def void(gate: Gate, hold: "Hold") -> None:
    """The call came to nothing: give the hold back, book nothing."""
    hold.closing = True
    hold.recorded = _write(gate, b"V", hold, hold.noted)
    gate.budget.void(hold)


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


def _say(closed: UsageEvent, hold: "Hold") -> None:
    """The canonical line of a call, and its metrics."""
    metrics.calls(closed.family, closed.outcome, closed.evidence).inc()
    for flag in closed.flags:
        metrics.FLAGS.labels(flag).inc()
    tokens_in, tokens_out = closed.usage.tokens_in, closed.usage.tokens_out
    metrics.TOKENS_IN.inc(tokens_in)
    metrics.TOKENS_OUT.inc(tokens_out)
    metrics.CREDITS.inc(closed.charge_mc)
    metrics.COST.inc(closed.cost_nano)
    took_us = closed.settled_at_us - closed.started_at_us
    (metrics.DURATION_STREAM if closed.stream else metrics.DURATION_WHOLE).observe(took_us / 1e6)
    if closed.first_byte_us:
        metrics.FIRST_BYTE.observe(closed.first_byte_us / 1e6)
    log.info(
        "call",
        event_id=hold.call.event_text,
        account=hold.call.caller.account_text,
        model=closed.model_asked,
        outcome=closed.outcome,
        evidence=closed.evidence,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        charge_mc=closed.charge_mc,
        status=closed.status,
        stream=closed.stream,
        first_byte_ms=closed.first_byte_us // 1000,
        took_ms=took_us // 1000,
        held_mc=hold.held_mc,
        flags=list(closed.flags) or None,
    )
