"""What is said of each closed call: its canonical log line, and its part in the metrics.

It is said behind the turn of the event loop in which the call was closed, of all its calls at once: the clients have
their last bytes by then.
"""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from gateway import metrics
from shared.events import UsageEvent

if TYPE_CHECKING:
    from gateway.budget import Hold

log = structlog.get_logger()


class Saying:
    """The calls that were closed in this turn."""

    def __init__(self) -> None:
        self._closed: list[tuple[UsageEvent, Hold]] = []

    def closed(self, event: UsageEvent, hold: "Hold") -> None:
        if not self._closed:
            asyncio.get_running_loop().call_soon(self._say)
        self._closed.append((event, hold))

    def _say(self) -> None:
        calls, self._closed = self._closed, []
        _count([event for event, _ in calls])
        for event, hold in calls:
            _log(event, hold)


def _count(calls: list[UsageEvent]) -> None:
    for kind, number in Counter((call.family, call.outcome, call.evidence) for call in calls).items():
        metrics.calls(*kind).inc(number)
    for flag, number in Counter(flag for call in calls for flag in call.flags).items():
        metrics.FLAGS.labels(flag).inc(number)
    metrics.TOKENS_IN.inc(sum(call.usage.tokens_in for call in calls))
    metrics.TOKENS_OUT.inc(sum(call.usage.tokens_out for call in calls))
    metrics.CREDITS.inc(sum(call.charge_mc for call in calls))
    metrics.COST.inc(sum(call.cost_nano for call in calls))
    for call in calls:
        duration = metrics.DURATION_STREAM if call.stream else metrics.DURATION_WHOLE
        duration.observe((call.settled_at_us - call.started_at_us) / 1e6)
        if call.first_byte_us:
            metrics.FIRST_BYTE.observe(call.first_byte_us / 1e6)


def _log(call: UsageEvent, hold: "Hold") -> None:
    log.info(
        "call",
        event_id=hold.call.event_text,
        account=hold.call.caller.account_text,
        model=call.model_asked,
        outcome=call.outcome,
        evidence=call.evidence,
        tokens_in=call.usage.tokens_in,
        tokens_out=call.usage.tokens_out,
        charge_mc=call.charge_mc,
        status=call.status,
        stream=call.stream,
        first_byte_ms=call.first_byte_us // 1000,
        took_ms=(call.settled_at_us - call.started_at_us) // 1000,
        held_mc=hold.held_mc,
        flags=list(call.flags) or None,
    )
