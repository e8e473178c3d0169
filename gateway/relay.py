"""The relay: an answer's bytes go from the upstream's transport to the client's within one callback.

No coroutine wakes per chunk. The call's coroutine sleeps in `wait` and is woken for what is rare: the end, a terminal
event (whose bytes wait for the S record), a break, a client that does not read, enough new text to look at the hold,
and the clock (keep-alive comments, silence).
"""

import asyncio
from typing import Final, Protocol

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from gateway.headers import to_client
from gateway.upstream import Answer
from gateway.upstream_connection import Head, UpstreamError

KEEPALIVE: Final = b": keep-alive\n\n"
LOOK_BYTES: Final = 16 * 1024
"""New bytes of a stream after which the hold is compared with what has streamed."""
UNLOOKED_BYTES_MAX: Final = 4 * LOOK_BYTES
"""New bytes that may pass before that look is over; then the upstream waits, however fast it is."""
CLIENT_STALL_S_MAX: Final = 60.0
"""Seconds that a client may leave a full buffer unread before it is cut off."""


class Tap(Protocol):
    """Observer of the answer: gateway.sse.SseTap or gateway.plain_tap.PlainTap."""

    @property
    def done(self) -> bool:
        """The terminal event has come and is held."""

    def feed(self, data: bytes) -> bytes: ...
    def release(self) -> bytes: ...


async def open_answer(
    request: web.Request, head: Head, call_id: str, *, grows: bool = False, bodiless: bool = False
) -> tuple[web.StreamResponse, AbstractStreamWriter, bool]:
    """Send the head of an answer on. Returns the answer, its writer, and whether its body is framed in chunks.

    The upstream's length is told where it gives one, unless the body `grows` on the way.
    """
    response = web.StreamResponse(status=head.status, headers=to_client(head, call_id))
    length = b"" if grows else head.get(b"content-length")
    chunked = not length.isdigit() and request.version >= (1, 1) and not bodiless
    if length.isdigit():
        response.content_length = int(length)
    elif chunked:
        response.enable_chunked_encoding()
    elif not bodiless:
        response.force_close()
    writer = await response.prepare(request)
    assert writer is not None
    return response, writer, chunked


class Relay:
    """One answer on its way to one client. The sink of the upstream's connection."""

    def __init__(self, request: web.Request, answer: Answer, tap: Tap, *, chunked: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = request.transport
        self._protocol = request.protocol
        self._answer = answer
        self._tap = tap
        self._chunked = chunked
        self._waiter: asyncio.Future[None] | None = None
        self._look_at = LOOK_BYTES
        self._pause_at = UNLOOKED_BYTES_MAX
        self.bytes_in = 0
        self.bytes_out = 0
        self.first_byte_s = 0.0
        self.last_byte_s = self._loop.time()
        self.complete = False
        """The upstream's answer has ended as HTTP says it must."""
        self.broken: UpstreamError | None = None
        self.stalled = False
        """The client does not read; the upstream is paused."""
        self.ending = False
        """Nothing more of the upstream's is forwarded."""

    # The upstream's side: within the transport's callback -------------------------------------------------

    def on_body(self, data: bytes) -> None:
        self.last_byte_s = self._loop.time()
        if not self.bytes_in:
            self.first_byte_s = self.last_byte_s
        self.bytes_in += len(data)
        if self.ending:
            return
        if out := self._tap.feed(data):
            self.write(out)
            if self._protocol.writing_paused and not self.stalled and not self.client_gone:
                self.stalled = True
                self._answer.pause()
                self._wake()
        if self._tap.done or self.bytes_in >= self._look_at:
            self._look_at = self.bytes_in + LOOK_BYTES
            self._wake()
            if self.bytes_in >= self._pause_at:
                self._answer.pause()

    def on_end(self) -> None:
        self.complete = True
        self._wake()

    def on_broken(self, error: UpstreamError) -> None:
        self.broken = error
        self._wake()

    # The call's side --------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Bytes to the client, framed. Nothing happens where the client is gone: its call is being cancelled, or is one
        that outlives it."""
        if not data or self._client is None or self._client.is_closing():
            return
        self.bytes_out += len(data)
        self._client.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    @property
    def client_gone(self) -> bool:
        return self._client is None or self._client.is_closing()

    async def wait(self, seconds: float) -> None:
        """Until something is to be looked at, at most `seconds`."""
        if self.complete or self.broken or self.stalled:
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    async def wait_complete(self, seconds: float) -> None:
        """Until the answer has ended, at most `seconds`."""
        until = self._loop.time() + seconds
        while not self.complete and not self.broken and (left := until - self._loop.time()) > 0:
            self.stalled = False
            await self.wait(left)

    @property
    def silence_s(self) -> float:
        """Seconds since the upstream's last byte."""
        return self._loop.time() - self.last_byte_s

    async def drain(self, writer: AbstractStreamWriter) -> bool:
        """Wait until the client reads again, then let the upstream go on. False: it did not."""
        try:
            async with asyncio.timeout(CLIENT_STALL_S_MAX):
                await writer.drain()
        except TimeoutError:
            return False
        except ConnectionResetError:
            pass  # the client left: nobody is to be waited for
        self.stalled = False
        self.last_byte_s = self._loop.time()
        self._answer.resume()
        return True

    def cut(self) -> None:
        """End the client's connection so that it cannot be taken for a clean end.

        In chunked framing or below Content-Length a close is a visible cut, and what was sent before still arrives;
        an HTTP/1.0 answer of unknown length ends by closing, so only a reset shows.
        """
        if self._client is None:
            return
        if self._chunked:
            self._client.close()
        else:
            self._client.abort()

    def looked(self, *, again_soon: bool = False) -> None:
        """The hold covers what has come: the upstream may go on. `again_soon`: wake the call at the next bytes."""
        self._look_at = self.bytes_in + (1 if again_soon else LOOK_BYTES)
        self._pause_at = self.bytes_in + UNLOOKED_BYTES_MAX
        if not self.stalled:
            self._answer.resume()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
