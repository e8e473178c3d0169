"""Looks on as an answer passes: what leaves is what came, less the usage event that only the gateway asked for (I8).

It does not know how the observers (gateway.sse, gateway.plain_tap) decide. It sees what goes into one and what comes
out of it: what stays inside is remembered, and compared when it comes out.
"""

from gateway.answer import parse
from gateway.sse import HOLD_BYTES_MAX
from gateway.sse_events import carries_only_usage, comments, event_end, payload


class Witness:
    """Of one answer. `may_take`: a usage event may be taken out of it."""

    __slots__ = ("_after_cr", "_may_take", "_waiting", "idle", "same", "taken_bytes")

    def __init__(self, *, may_take: bool) -> None:
        self._may_take = may_take
        self._waiting = bytearray()
        """What came and has not left."""
        self._after_cr = False
        """The last event that was taken out ended in a CR: an LF that comes next belongs to it."""
        self.idle = True
        """Nothing waits: a piece that leaves as the very object that it came as needs no look."""
        self.taken_bytes = 0
        """Bytes of the usage events that stay here for good."""
        self.same = True
        """Nothing else was missing, added, changed or moved."""

    @property
    def waiting_bytes(self) -> int:
        return len(self._waiting)

    def see(self, came: bytes, left: bytes) -> None:
        """`came` went in, and then `left` came out."""
        if not self.same:
            return
        waiting = self._waiting
        waiting += came
        if waiting.startswith(left) and not self._after_cr:
            del waiting[: len(left)]
        elif self._may_take:
            self._see_taken(left)
        else:
            self._differs()
        self.idle = self.same and not self._waiting and not self._after_cr

    def end(self) -> None:
        """The answer has ended well: what still waits must be what is taken out."""
        if not self._waiting or not self.same:
            return
        if self._may_take:
            self._see_taken(b"")
        if self._may_take and _is_usage(bytes(self._waiting)):  # the last event, without its blank line
            self.taken_bytes += len(self._waiting)
            self._waiting.clear()
        if self._waiting:
            self._differs()

    def _see_taken(self, left: bytes) -> None:
        """Walk both, event by event; what is missing in `left` must be a usage event."""
        waiting, at, out = bytes(self._waiting), 0, 0
        if self._after_cr and waiting:
            self._after_cr = False
            if waiting.startswith(b"\n") and not left.startswith(b"\n"):
                at, self.taken_bytes = 1, self.taken_bytes + 1
        has_cr = b"\r" in waiting
        while (end := event_end(waiting, at, at, has_cr)) >= 0:
            event = waiting[at:end]
            if left.startswith(event, out):
                out += len(event)
            elif _is_usage(event):
                kept = comments(event)
                kept = kept if left.startswith(kept, out) else b""
                out += len(kept)
                self.taken_bytes += len(event) - len(kept)
                self._after_cr = event.endswith(b"\r") and end == len(waiting)
            else:
                break
            at = end
        rest = left[out:]
        if waiting.startswith(rest, at):
            self._waiting = bytearray(waiting[at + len(rest) :])
        else:
            self._differs()

    def _differs(self) -> None:
        self.same = False
        self._waiting.clear()


def _is_usage(event: bytes) -> bool:
    """Whether it has a usage and nothing else to say."""
    data = payload(event) if len(event) <= HOLD_BYTES_MAX else None
    parsed = parse(data) if data else None
    return parsed is not None and carries_only_usage(parsed, is_first=False)
