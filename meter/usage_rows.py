"""The row of a usage event, and that of the late record that corrects one: columns and values, in one place. Pure.

The order of columns is part of the digests (meter.digests): it never changes.
"""

from operator import itemgetter
from typing import Any, Final
from uuid import UUID

import msgspec

from shared.events import UsageEvent

USAGE_EVENT_COLUMNS: Final = (
    "account_id",
    "event_id",
    "key_id",
    "family",
    "model_asked",
    "model_answered",
    "priced_as",
    "price_version",
    "card",
    "service_tier",
    "tokens_in",
    "tokens_out",
    "usage",
    "charge_mc",
    "cost_nano",
    "gateway_charge_mc",
    "upstream_cost_nano",
    "hold_mc",
    "evidence",
    "outcome",
    "flags",
    "stream",
    "status",
    "started_at",
    "first_byte_us",
    "settled_at",
    "upstream_call_id",
    "gateway",
    "conversation",
    "message",
    "purpose",
    "recorded_at",
)
_OF_THE_FIRST_ALONE: Final = (
    "key_id",
    "family",
    "model_asked",
    "stream",
    "started_at",
    "conversation",
    "message",
    "purpose",
)
"""What a late record does not say again."""
_SAID_AGAIN: Final = tuple(name for name in USAGE_EVENT_COLUMNS[2:] if name not in _OF_THE_FIRST_ALONE)
EVENT_CORRECTION_COLUMNS: Final = ("account_id", "event_id", "transfer_id", *_SAID_AGAIN)

_said_again = itemgetter(*(USAGE_EVENT_COLUMNS.index(name) for name in _SAID_AGAIN))
_encode_usage = msgspec.json.Encoder(order="sorted").encode  # as meter.digests has it


class Judged(msgspec.Struct, gc=False):
    """An event as the books will have it."""

    charge_mc: int
    cost_nano: int
    flags: tuple[str, ...]
    started_at_us: int
    settled_at_us: int
    waiting: bool
    """For a price."""


def usage_row(event: UsageEvent, judged: Judged, recorded_at_us: int) -> tuple[Any, ...]:
    """In the order of USAGE_EVENT_COLUMNS."""
    usage = event.usage
    return (
        event.account_id,
        event.event_id,
        event.key_id,
        event.family,
        event.model_asked,
        event.model_answered,
        event.priced_as,
        event.price_version,
        event.card,
        event.service_tier,
        usage.tokens_in,
        usage.tokens_out,
        _encode_usage(usage).decode(),
        judged.charge_mc,
        judged.cost_nano,
        event.charge_mc,
        event.upstream_cost_nano,
        event.hold_mc,
        event.evidence,
        event.outcome,
        judged.flags,
        event.stream,
        event.status,
        judged.started_at_us,
        event.first_byte_us,
        judged.settled_at_us,
        event.upstream_call_id,
        event.gateway,
        event.conversation,
        event.message,
        event.purpose,
        recorded_at_us,
    )


def late_row(row: tuple[Any, ...], transfer_id: UUID) -> tuple[Any, ...]:
    """What a usage event's row says of it, as the row of a late record: in the order of EVENT_CORRECTION_COLUMNS."""
    return (*row[:2], transfer_id, *_said_again(row))
