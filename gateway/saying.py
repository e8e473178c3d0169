"""What is said of each closed call: its canonical log line, and its part in the metrics.

It is said behind the turn of the event loop in which the call was closed, of all its calls at once: the clients have
their last bytes by then.
"""

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from gateway import metrics
from shared import logs
from shared.events import UsageEvent

if TYPE_CHECKING:
    from gateway.budget import Hold

_WHOLE: Final = metrics.DURATION.by["false"]
_STREAM: Final = metrics.DURATION.by["true"]
_FIRST_BYTE: Final = metrics.FIRST_BYTE.by[""]

log = structlog.get_logger()


class Line(msgspec.Struct, gc=False):
    """The log line of a closed call, field by field as it is written."""

    event_id: str
    account: str
    model: str
    outcome: str
    evidence: str
    tokens_in: int
    tokens_out: int
    charge_mc: int
    status: int
    stream: bool
    first_byte_ms: int
    took_ms: int
    held_mc: int
    flags: tuple[str, ...] | None
    event: str
    program: str
    level: str
    timestamp: str


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
        program, timestamp = (logs.usual.program, logs.usual.timestamp()) if logs.usual is not None else ("", "")
        kinds, lines = metrics.CALLS.counts, []
        all_in = all_out = all_mc = all_nano = 0
        for call, hold in calls:
            of, usage, charge_mc = hold.call, call.usage, call.charge_mc
            tokens_in, tokens_out = usage.tokens_in, usage.tokens_out
            took_us, first_byte_us = call.settled_at_us - call.started_at_us, call.first_byte_us
            kinds[call.family, call.outcome, call.evidence] += 1
            all_in += tokens_in
            all_out += tokens_out
            all_mc += charge_mc
            all_nano += call.cost_nano
            (_STREAM if call.stream else _WHOLE).observe(took_us)
            if first_byte_us:
                _FIRST_BYTE.observe(first_byte_us)
            for flag in call.flags:
                metrics.FLAGS.labels(flag).inc()
            lines.append(
                Line(
                    of.event_text,
                    of.caller.account_text,
                    call.model_asked,
                    call.outcome,
                    call.evidence,
                    tokens_in,
                    tokens_out,
                    charge_mc,
                    call.status,
                    call.stream,
                    first_byte_us // 1000,
                    took_us // 1000,
                    hold.held_mc,
                    call.flags or None,
                    "call",
                    program,
                    "info",
                    timestamp,
                )
            )
        metrics.TOKENS.counts[metrics.TOKENS_IN] += all_in
        metrics.TOKENS.counts[metrics.TOKENS_OUT] += all_out
        metrics.CREDITS.counts[()] += all_mc
        metrics.COST.counts[()] += all_nano
        _log(lines)


def _log(lines: list[Line]) -> None:
    if logs.usual is not None:
        logs.usual.say(lines)
        return
    for line in lines:
        facts = msgspec.structs.asdict(line)
        for added in ("event", "program", "level", "timestamp"):
            del facts[added]
        log.info("call", **{**facts, "flags": list(line.flags) if line.flags else None})
