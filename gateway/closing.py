"""How a call is closed: counted, written to the journal, settled in Redis, said in one log line."""

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from gateway import metrics
from gateway.admission import Call, parse
from gateway.gate import Gate
from gateway.journal import JournalFullError, Kind
from gateway.plain_tap import PlainTap
from gateway.recount.completion import Transcript, count_completion
from gateway.recount.prompt import count_prompt
from gateway.settlement import NOTHING, Counted, Facts, usage_event
from gateway.sse import SseTap
from shared import events
from shared.events import UsageEvent
from shared.usage import Outcome, Usage
from shared.usage_rules import credible, normalise, upstream_cost_nano

if TYPE_CHECKING:
    from gateway.budget import Hold

__all__ = ["book", "count_output", "count_prompt_exactly", "event", "note", "recount", "reported", "unanswered"]
__all__ += ["upstream_cost_nano", "void"]

log = structlog.get_logger()

# Closing --------------------------------------------------------------------------------------------------


def event(gate: Gate, hold: "Hold", counted: Counted, facts: Facts) -> UsageEvent:
    """The call's usage event as of now."""
    return usage_event(
        hold.call, gate.book.catalog, counted, facts, now_us=gate.now_us(), held_mc=hold.held_mc, gateway=gate.name
    )


def book(gate: Gate, hold: "Hold", counted: Counted, facts: Facts) -> None:
    """The commit point of usage: after this the S record is on disk and Redis is told as soon as it can be."""
    closed = event(gate, hold, counted, facts)
    _write(gate, b"S", closed)
    gate.budget.settle(hold, closed)
    _say(closed, hold)


def void(gate: Gate, hold: "Hold") -> None:
    """The call came to nothing: give the hold back, book nothing."""
    hold.closing = True
    _write(gate, b"V", hold.draft)
    gate.budget.void(hold)


def unanswered(gate: Gate, hold: "Hold", outcome: Outcome) -> None:
    """Sent and never answered: booked at nothing, to be compared with the provider's bill."""
    hold.closing = True
    book(gate, hold, NOTHING, Facts(outcome=outcome))


def note(gate: Gate, hold: "Hold") -> None:
    """What has streamed so far, should this process die."""
    _write(gate, b"C", hold.draft)


def _write(gate: Gate, kind: Kind, record: UsageEvent) -> None:
    try:
        gate.journal.write(kind, events.encode(record))
    except JournalFullError as error:
        # Running calls still close: Redis and the meter have the event, only this disk does not.
        metrics.JOURNAL_FAILURES.inc()
        log.error("journal_write_failed", kind=kind.decode(), event_id=str(record.event_id), error=str(error))  # noqa: TRY400


def _say(closed: UsageEvent, hold: "Hold") -> None:
    """The canonical line of a call, and its metrics."""
    metrics.CALLS.labels(closed.family, closed.outcome, closed.evidence).inc()
    metrics.TOKENS.labels("input").inc(closed.usage.tokens_in)
    metrics.TOKENS.labels("output").inc(closed.usage.tokens_out)
    metrics.CREDITS.inc(closed.charge_mc)
    metrics.COST.inc(closed.cost_nano)
    metrics.DURATION.labels("true" if closed.stream else "false").observe(
        (closed.settled_at_us - closed.started_at_us) / 1e6
    )
    if closed.first_byte_us:
        metrics.FIRST_BYTE.observe(closed.first_byte_us / 1e6)
    log.info(
        "call",
        event_id=str(closed.event_id),
        account=str(closed.account_id),
        model=closed.model_asked,
        outcome=closed.outcome,
        evidence=closed.evidence,
        tokens_in=closed.usage.tokens_in,
        tokens_out=closed.usage.tokens_out,
        charge_mc=closed.charge_mc,
        status=closed.status,
        stream=closed.stream,
        first_byte_ms=closed.first_byte_us // 1000,
        took_ms=(closed.settled_at_us - closed.started_at_us) // 1000,
        held_mc=hold.held_mc,
        flags=list(closed.flags) or None,
    )


# Counting -------------------------------------------------------------------------------------------------


def reported(call: Call, tap: SseTap | PlainTap) -> Counted | None:
    """What the upstream reported. None: nothing, nothing credible, or, of a stream cut short, only its input."""
    raw = tap.usage_raw
    if raw is None or tap.usage_partial or not credible(raw, family=call.family.name):
        return None
    normalised = normalise(raw, family=call.family.name)
    if normalised.usage.is_zero:
        return None
    return Counted(normalised.usage, "provider", normalised.flags)


async def recount(gate: Gate, call: Call, tap: SseTap | PlainTap, transcript: Transcript | None) -> Counted:
    """Count what was sent and what came, by tokenizer, off the loop. Where even that fails, the estimate and a flag."""
    if isinstance(tap, SseTap):
        assert transcript is not None
        transcript.add(tap.take_raw())
    loop = asyncio.get_running_loop()
    try:
        counted = await loop.run_in_executor(gate.counters, _recount, call, tap, transcript)
    except Exception:
        # A text that no rule can read must not lose the call.
        log.exception("recount_failed", event_id=str(call.event_id))
        output = transcript.estimate() if transcript is not None else 0
        return Counted(Usage(input=call.input_tokens, output=output), "recounted", ("estimated",))
    if isinstance(tap, SseTap) and tap.raw_full:
        counted = msgspec.structs.replace(counted, flags=(*counted.flags, "text_missing"))
    return counted


async def count_prompt_exactly(gate: Gate, call: Call) -> int:
    """Tokens of the call's input, by tokenizer, off the loop."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(gate.counters, _count_prompt, call)


async def count_output(gate: Gate, call: Call, transcript: Transcript) -> int:
    """Tokens that have streamed so far, by tokenizer, off the loop."""
    loop = asyncio.get_running_loop()
    return (await loop.run_in_executor(gate.counters, transcript.count, call.ask.model)).tokens


def _count_prompt(call: Call) -> int:
    return count_prompt(call.family.name, call.ask.model, parse(call.request)).tokens


def _recount(call: Call, tap: SseTap | PlainTap, transcript: Transcript | None) -> Counted:
    family, model = call.family.name, tap.model or call.ask.model
    prompt = count_prompt(family, model, parse(call.request))
    if transcript is not None:
        completion = transcript.count(model)
    else:
        assert isinstance(tap, PlainTap)
        completion = count_completion(family, model, tap.body)
    flags = dict.fromkeys((*prompt.flags, *completion.flags))
    return Counted(Usage(input=prompt.tokens, output=completion.tokens), "recounted", tuple(flags))
