"""The relay: an answer's bytes go from the upstream's transport to the client's within one callback.

No coroutine wakes per chunk. The call's coroutine sleeps in `wait` and is woken for what is rare: the end, a terminal
event (whose bytes wait for the S record), a break, a client that does not read, enough new text to look at the hold,
and the clock (keep-alive comments, silence).
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import web

from gateway.client_side import ClientSide
from gateway.reply import Opening
from gateway.upstream import Answer
from gateway.upstream_connection import UpstreamError
from gateway.witness import Witness

KEEPALIVE: Final = b": keep-alive\n\n"
LOOK_BYTES: Final = 16 * 1024
"""New bytes of a stream after which the hold is compared with what has streamed."""
UNLOOKED_BYTES_MAX: Final = 4 * LOOK_BYTES
"""New bytes that may pass before that look is over; then the upstream waits, however fast it is."""
LATE_BYTES_MAX: Final = 64 * 1024
"""Bytes after the terminal event that are waited for: a usage, and the end of the answer."""
_LAST_EVENT: Final = re.compile(
    rb"[\r\n](?:data: ?\[DONE\]|event: ?(?:message_stop|response\.(?:completed|incomplete|failed))\b)"
)
"""How a line begins of an event that ends a stream, of whatever family. No text of a model's has it: in JSON there are
no line ends."""


class Tap(Protocol):
    """Observer of the answer: gateway.sse.SseTap or gateway.plain_tap.PlainTap."""

    @property
    def done(self) -> bool:
        """The terminal event has come and is held."""

    @property
    def events(self) -> int:
        """Whole events with data so far, of a stream."""

    @property
    def raw_bytes(self) -> int:
        """Bytes of the whole events that nobody has looked at yet."""

    @property
    def open_bytes(self) -> int:
        """Bytes of the event that is not complete."""

    @property
    def at_boundary(self) -> bool:
        """What was handed out does not end within an event."""

    @property
    def compressed(self) -> bool:
        """Fewer bytes come than `raw_bytes` counts."""

    @property
    def usual(self) -> Callable[[bytes], bool] | None:
        """To be asked of the next piece: whether all of it goes on as it is, and need not be fed. None: it is fed."""

    def feed(self, data: bytes) -> bytes: ...
    def release(self) -> bytes: ...


class Relay(ClientSide):
    """One answer on its way to one client. The sink of the upstream's connection."""

    __slots__ = (
        *("_answer", "_before_last", "_corked", "_last_out", "_loop", "_looked_events", "_looked_in", "_overhead"),
        *("_passes", "_room", "_see_at", "_send", "_started_s", "_streams", "_tap", "_waiter", "_woken", "broken"),
        *("bytes_ignored", "bytes_in", "complete", "ending", "first_byte_s", "last_byte_s", "stalled", "to_end"),
        "witness",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        answer: Answer,
        tap: Tap,
        opening: Opening,
        stall_s: float,
        *,
        begun: bool = False,
        may_take: bool = False,
        at_once: bool = True,
    ) -> None:
        """`stall_s`: for which a client may read nothing. `begun`: the client has the head. `may_take`: the tap takes a
        usage event out. `at_once`: the answer's head leaves now, not before the first bytes of its body."""
        super().__init__(request, opening, stall_s)
        client = self._client
        self._send: Callable[[bytes], object] = client.write if client is not None else len
        """Where bytes go to, while the client is there."""
        self._last_out = self._before_last = b"\n"
        self._loop = asyncio.get_running_loop()
        self._answer = answer
        self._tap = tap
        self._streams = at_once
        if begun:
            self._head = b""
        elif at_once and not self.client_gone:
            assert self._client is not None
            self._client.write(self._head)
            self._head = b""
        self._corked: list[bytes] = []
        """What waits to be sent, while several pieces come at once."""
        self._passes: Callable[[bytes], bool] | None = None
        """Asks the tap whether the next piece passes as it is; None: it may not."""
        self._waiter: asyncio.Future[None] | None = None
        self._woken = False
        # What has come when the call last looked, how much text may follow before it looks again (twice as much before
        # the upstream waits), how many bytes of an event are not text, and when to see whether so much has come.
        self._looked_in = 0
        self._looked_events = 0
        self._room: int | None = None
        self._overhead = 0
        self._see_at = 0
        self.witness = Witness(may_take=may_take)
        self.bytes_in = 0
        self.bytes_ignored = 0
        """Those of them that came after the end that we had set."""
        self.first_byte_s = 0.0
        self.last_byte_s = self._started_s = self._loop.time()
        self.complete = False
        """The upstream's answer has ended as HTTP says it must."""
        self.broken: UpstreamError | None = None
        self.stalled = False
        """The client does not read; the upstream is paused."""
        self.ending = False
        """Nothing more of the upstream's is forwarded."""
        self.to_end = False
        """The next end of an event is to be the last thing that is forwarded."""

    # The upstream's side: within the transport's callback -------------------------------------------------

    def on_body(self, data: bytes) -> None:
        self.last_byte_s = self._loop.time()
        self.bytes_in = came = self.bytes_in + len(data)
        passes = self._passes
        if passes is None or not passes(data):
            self._take(data)
            return
        client = self._client
        if client is not None and not client.is_closing():
            # As `write` does it, which would be one step more for each piece.
            self.bytes_out += len(data)
            self._before_last, self._last_out = self._last_out, data
            self._send(b"%x\r\n%b\r\n" % (len(data), data))
            if self._protocol.writing_paused:
                self._stall()
        if came >= self._see_at:
            self._see()

    def _take(self, data: bytes) -> None:
        """A piece that may be anything."""
        if not self.first_byte_s:
            self.first_byte_s = self.last_byte_s
        if self.ending:
            self.bytes_ignored += len(data)
            return
        if self.to_end:
            self._feed_to_boundary(data)
            self._wake()
            return
        tap = self._tap
        out = tap.feed(data)
        if out is not data or not self.witness.idle:
            self.witness.see(data, out)
        self.write(out)
        if self._protocol.writing_paused:
            self._stall()
        self._passes = tap.usual if self.witness.idle and self._chunked and not self._head else None
        if tap.done:
            self._wake()
        elif self.bytes_in >= self._see_at:
            self._see()

    def cork(self) -> None:
        self._send = self._corked.append

    def uncork(self) -> None:
        """One write for all pieces."""
        client, data = self._client, b"".join(self._corked)
        self._corked.clear()
        if client is not None:
            self._send = client.write
            if data and not client.is_closing():
                client.write(data)
                if self._protocol.writing_paused:
                    self._stall()

    def _stall(self) -> None:
        """The client reads more slowly than the upstream writes: let that wait."""
        if not self.stalled and not self.client_gone:
            self.stalled = True
            self._answer.pause()
            self._wake()

    def _see(self) -> None:
        """Wake the call where enough has come for a look; let the upstream wait where the look is overdue."""
        tap, fresh = self._tap, self.bytes_in - self._looked_in
        look, text = LOOK_BYTES, 0
        if self._room is not None:
            text = (tap.raw_bytes if tap.compressed else fresh) - (tap.events - self._looked_events) * self._overhead
            look = min(look, fresh + self._room - text)
        if fresh < look:
            self._see_at = self.bytes_in + (1 if tap.compressed else look - fresh)
            return
        self._wake()
        if fresh >= UNLOOKED_BYTES_MAX or (self._room is not None and text >= 2 * self._room):
            self._answer.pause()

    def _feed_to_boundary(self, data: bytes) -> None:
        """Line by line up to the end of the event that the client has the beginning of."""
        at = 0
        for line in data.splitlines(keepends=True):
            at += len(line)
            self.pass_on(line, self._tap.feed(line))
            if self._tap.at_boundary or self._tap.done:
                self.ending = True
                self.bytes_ignored += len(data) - at
                return

    def on_end(self) -> None:
        self.complete = True
        self._wake()

    def on_broken(self, error: UpstreamError) -> None:
        self.broken = error
        self._wake()

    # The call's side --------------------------------------------------------------------------------------

    def forward_no_more(self) -> None:
        """Whatever comes is ignored."""
        self.ending, self._passes = True, None

    def end_soon(self) -> bool:
        """Forward no more from the end of the event on that the client has the beginning of: whether that is now."""
        if not self.ending:
            self.ending = self._tap.at_boundary or self._tap.compressed
            self.to_end, self._passes = not self.ending, None
        return self.ending

    def pass_on(self, came: bytes, out: bytes, *, ended: bool = False) -> None:
        """`out` is what the tap gave out of all that came, `came` the last of it. `ended`: nothing more will come."""
        self.witness.see(came, out, ended=ended)
        self.write(out)

    def add(self, data: bytes) -> None:
        """Bytes of our own to the client."""
        self.bytes_added += len(data)
        self.write(data)

    def write(self, data: bytes) -> None:
        """Bytes to the client, framed. Nothing happens where the client is gone: its call is being cancelled, or is one
        that outlives it."""
        client = self._client
        if not data or client is None or client.is_closing():
            return
        self.bytes_out += len(data)
        self._before_last, self._last_out = self._last_out, data
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
        self._send(data)

    async def wait(self, seconds: float) -> None:
        """Until something is to be looked at, at most `seconds`."""
        woken, self._woken = self._woken, False
        if woken or self.complete or self.broken or self.stalled:
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    async def wait_complete(self, seconds: float) -> None:
        """Until the answer has ended, at most `seconds` and LATE_BYTES_MAX."""
        until, bytes_max = self._loop.time() + seconds, self.bytes_in + LATE_BYTES_MAX
        while not self.complete and not self.broken and (left := until - self._loop.time()) > 0:
            if self.bytes_in > bytes_max:
                self.forward_no_more()
                return
            self.stalled = False
            self._answer.resume()
            await self.wait(left)

    @property
    def has_ended(self) -> bool:
        """Whether the client has the end of the answer already, by what was written: the last event of a stream, where
        the piece that was written last has the beginning of it; or the whole of anything else."""
        if self._streams:
            return _LAST_EVENT.search(self._before_last[-1:] + self._last_out) is not None
        return 0 < self.bytes_in <= self.bytes_out

    @property
    def now_s(self) -> float:
        """Of the event loop's clock."""
        return self._loop.time()

    @property
    def took_s(self) -> float:
        """Seconds since the answer's head."""
        return self.now_s - self._started_s

    @property
    def silence_s(self) -> float:
        """Seconds since the upstream's last byte."""
        return self.now_s - self.last_byte_s

    async def drain(self) -> bool:
        """Wait until the client reads again, then let the upstream go on. False: it did not, and is cut off."""
        if not await self._drained():
            return False
        self.stalled = False
        self.last_byte_s = self._loop.time()
        self._answer.resume()
        return True

    def look(self) -> None:
        """The call begins to look at what has come: all that comes from here on belongs to the next look."""
        self._looked_in, self._looked_events = self.bytes_in - self._tap.open_bytes, self._tap.events

    def looked(self, room_bytes: int | None = None, overhead_bytes: int = 0) -> None:
        """The hold covers what has come: the upstream may go on.

        `room_bytes`: text that may follow before the next look; twice as much, and the upstream waits for it. None: no
        text is looked for. `overhead_bytes`: what an event has beside its text.
        """
        self._room, self._overhead = room_bytes, overhead_bytes
        self._see_at = 0
        if not self.stalled:
            self._answer.resume()

    def _wake(self) -> None:
        if self._waiter is None:
            self._woken = True  # whoever waits next need not
        elif not self._waiter.done():
            self._waiter.set_result(None)
