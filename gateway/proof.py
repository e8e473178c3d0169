"""What must hold of each answer that ends well, looked at as it ends, and noted in the journal for `sundial audit`.

The books have no trace of it: that the S record was on disk before the end left (I7), that the client's bytes are the
upstream's (I8), that the call costs no more than its hold and one slice (I10), that the answer was this call's (I13).
"""

from typing import Final

import structlog

from gateway import metrics
from gateway.admission import Call
from gateway.budget import Hold
from gateway.journal import Journal
from gateway.relay import Relay
from gateway.upstream_connection import Head
from gateway.whole_answer import Whole
from shared import ends
from shared.ends import End

CLIENT_LAST: Final = "client_last"
BYTES: Final = "bytes"
FLOOR: Final = "floor"
ISOLATION: Final = "isolation"

_VERSION_AT: Final = 14
"""Where a UUID says its version; ours are version 7, LiteLLM's own version 4."""

log = structlog.get_logger()

for _rule in (CLIENT_LAST, BYTES, FLOOR, ISOLATION):
    metrics.VIOLATIONS.labels(_rule)  # 0 is said, too: an alarm needs something to compare with


def ended(journal: Journal, hold: Hold, relay: Relay | Whole, *, early: bool | None) -> None:
    """The client has been given a clean end. `early`: before the record of the call was written. None: nothing was
    booked of it, so it leaves no record: an end whose close is in a segment that was dropped must be in the books."""
    witness = relay.witness
    end = End(
        event_id=hold.call.event_id,
        came=relay.bytes_in - relay.bytes_ignored,
        sent=relay.bytes_out,
        stayed=witness.stayed_bytes,
        added=relay.bytes_added,
        same=witness.same,
        early=bool(early),
        slice_mc=_slice_mc(hold),
    )
    if early is not None:
        journal.later(b"E", ends.encode(end))
    if early or not hold.recorded:
        _broken(CLIENT_LAST, hold.call)
    if not end.adds_up:
        _broken(BYTES, hold.call, came=end.came, sent=end.sent, stayed=end.stayed, added=end.added, same=end.same)
    if 0 <= end.slice_mc < hold.charge_mc - hold.held_mc:
        _broken(FLOOR, hold.call, charge_mc=hold.charge_mc, held_mc=hold.held_mc, slice_mc=end.slice_mc)


def is_anothers(call: Call, head: Head) -> bool:
    """Whether the answer says that it is another call's: LiteLLM echoes the `x-litellm-call-id` that each call has."""
    told = head.get(b"x-litellm-call-id")
    if not told or told == call.event_text.encode() or told[_VERSION_AT : _VERSION_AT + 1] != b"7":
        return False
    _broken(ISOLATION, call, told=told.decode("ascii", "replace"))
    return True


def _slice_mc(hold: Hold) -> int:
    """Of sound nobody knows how long it is before it has passed; nothing bounds a call where nothing is enforced, or
    where Redis was away while it ran."""
    if hold.mode != "enforce" or hold.unheld or hold.call.family.sold == "sound":
        return -1
    return hold.bounds.slice_mc - hold.bounds.input_mc


def _broken(rule: str, call: Call, **facts: object) -> None:
    metrics.VIOLATIONS.labels(rule).inc()
    log.critical("an invariant is broken", rule=rule, event_id=call.event_text, **facts)
