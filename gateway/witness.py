"""Looks on as an answer passes: what leaves is what came, less the usage event that only the gateway asked for (I8).

It does not know how the observers (gateway.sse, gateway.plain_tap) decide. It sees what goes into one and what comes
out of it, and follows every way in which the one may be made of the other: bytes that come out may be those of a usage
event or of the one after it, where both begin alike, and which they are shows only as more comes.
"""

from collections.abc import Iterable
from functools import cache
from typing import Final, TypeAlias

import msgspec

from gateway.answer import parse
from gateway.sse import HOLD_BYTES_MAX
from gateway.sse_events import carries_only_usage, comments, event_end, payload

REMEMBERED_BYTES_MAX: Final = 256 * 1024
"""Bytes that are kept because they may have left or not. Of more, all that may have been taken out was."""
LOOKS_MAX: Final = 1_024
"""Places at which what left at once is compared. Where usage events are so many that more would have to be (a provider
sends one), it is believed, and all that waits counts as taken out."""
_USAGE: Final = b'"usage"'

Way: TypeAlias = tuple[int, bool]
"""How much of what is remembered has left or was taken out, and whether a CR was the last of it that was taken out: an
LF that comes next belongs to it."""
_START: Final = frozenset({(0, False)})
"""The ways where nothing has left of what is remembered."""


class Compared(msgspec.Struct, frozen=True, gc=False):
    """What a witness has to say of an answer that came whole and left whole, of which nothing may be taken out."""

    stayed_bytes: int
    same: bool


class Witness:
    """Of one answer. `may_take`: a usage event may be taken out of it."""

    __slots__ = ("_may_take", "_remembered", "_ways", "idle", "same", "stayed_bytes")

    def __init__(self, *, may_take: bool) -> None:
        self._may_take = may_take
        self._remembered = bytearray()
        """What came, from the first byte on that may not have left."""
        self._ways: frozenset[Way] = _START
        self.idle = True
        """Nothing waits: a piece that leaves as the very object that it came as needs no look."""
        self.stayed_bytes = 0
        """Bytes that came and have not left: those that wait, and those that were taken out."""
        self.same = True
        """Nothing but usage events was missing, nothing added, changed or moved."""

    def see(self, came: bytes, left: bytes, *, ended: bool = False) -> None:
        """`came` went in, and then `left` came out. `ended`: nothing more will come, so the last event is whole."""
        if not self.same or (self.idle and not came and not left):
            return
        self.stayed_bytes += len(came) - len(left)
        self._remembered += came
        self._follow(left, ended=ended)

    def end(self) -> None:
        """The answer has ended well: what still waits must be what is taken out."""
        if self.same and not self.idle:
            self._follow(b"", ended=True)
            self.same = any(at == len(self._remembered) for at, _ in self._ways)

    def _follow(self, left: bytes, *, ended: bool) -> None:
        if self._ways is _START and left == self._remembered:  # the usual case: all leaves, or nothing was there
            self._remembered.clear()
            self.idle = True
            return
        if not left and not ended and self._ways is _START and len(self._remembered) <= REMEMBERED_BYTES_MAX:
            self.idle = False  # what this is made of shows when something leaves
            return
        remembered = bytes(self._remembered)
        if self._may_take and (_USAGE in remembered or self._ways is not _START):
            ways = _onward(remembered, self._ways, left, ended=ended)
            if len(remembered) > REMEMBERED_BYTES_MAX and ways:
                ways = {max(ways)}
        else:
            ways = {(at + len(left), False) for at, _ in self._ways if remembered.startswith(left, at)}
        self.same = bool(ways)
        gone = min((at for at, _ in ways), default=len(remembered))
        del self._remembered[:gone]
        self._ways = frozenset((at - gone, after_cr) for at, after_cr in ways)
        if self._ways == _START:
            self._ways = _START
        self.idle = not self._remembered and self._ways is _START


def _onward(came: bytes, starts: Iterable[Way], left: bytes, *, ended: bool) -> set[Way]:
    """Where in `came` each way ends in which `left` is what follows a start, less usage events but their comments."""
    has_cr = b"\r" in came

    @cache
    def event_at(at: int) -> tuple[bytes, bytes | None]:
        """The event that begins here, empty where it is not complete; what stays of it where it may be taken out."""
        end = event_end(came, at, at, has_cr)
        event = came[at:] if ended and end < 0 else came[at : max(at, end)]
        return event, comments(event) if _is_usage(event) else None

    found: set[Way] = set()
    todo = [(at, 0, after_cr) for at, after_cr in starts]
    todo += [(at + 1, 0, False) for at, after_cr in starts if after_cr and came.startswith(b"\n", at)]
    seen = set(todo)
    while todo:
        if len(seen) > LOOKS_MAX:
            return {(len(came), False)}
        at, out, after_cr = todo.pop()
        rest = left[out:]
        if came.startswith(rest, at):
            found.add((at + len(rest), after_cr and not rest))
        while (event := event_at(at))[0]:
            whole, kept = event
            if kept is not None and left.startswith(kept, out):
                end = at + len(whole)
                taken = end, out + len(kept), end == len(came) and whole.endswith(b"\r")
                if taken not in seen:
                    seen.add(taken)
                    todo.append(taken)
            if not left.startswith(whole, out):
                break
            at, out = at + len(whole), out + len(whole)
    return found


def _is_usage(event: bytes) -> bool:
    """Whether it has a usage and nothing else to say."""
    if _USAGE not in event or len(event) > HOLD_BYTES_MAX:
        return False
    data = payload(event)
    parsed = parse(data) if data else None
    return parsed is not None and carries_only_usage(parsed, is_first=False)
