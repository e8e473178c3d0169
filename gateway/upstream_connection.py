"""One HTTP/1.1 connection to the upstream: a request out, an answer in, pushed to whoever listens.

Head and framing of the answer are parsed by llhttp (httptools). Its body goes to a sink as it arrives, within the
transport's own callback: no coroutine wakes per chunk. Errors of the socket and the parser are translated here.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Final, Protocol, cast

import httptools

from gateway.backlog import READ_BYTES_MAX, Backlog
from gateway.deadlines import Deadlines

HEAD_BYTES_MAX: Final = 64 * 1024
"""Head of an answer, in bytes, with all interim ones (1xx) before it; and names and values of its headers and trailers
together."""
EARLY_BYTES_MAX: Final = 64 * 1024
"""Body that arrives before somebody listens; beyond it reading pauses."""


class UpstreamError(Exception):
    """The upstream could not be reached or broke. `sent`: whether it may have seen the request."""

    def __init__(self, code: str, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.code = code
        self.sent = sent


class Sink(Protocol):
    """Where an answer's body goes. Called from the transport's callback: must not block and not raise."""

    def on_body(self, data: bytes) -> None: ...

    def cork(self) -> None:
        """Several pieces follow at once."""

    def uncork(self) -> None:
        """They have been given, or as many of them as the sink has let pass."""

    def on_end(self) -> None:
        """The answer is complete."""

    def on_broken(self, error: UpstreamError) -> None:
        """The answer will never be complete."""


class Head:
    """Status and headers of an answer; names in lower case, values as the bytes that came."""

    __slots__ = ("get", "headers", "keep_alive", "status")

    def __init__(
        self, headers: Sequence[tuple[bytes, bytes]] = (), status: int = 0, *, keep_alive: bool = False
    ) -> None:
        self.status = status
        self.headers = headers
        self.keep_alive = keep_alive
        self.get: Callable[[bytes], bytes] = defaultdict(bytes, reversed(headers)).__getitem__
        """The first header of that name; empty where there is none. No function of ours: each call asks for nine."""


class UpstreamConnection(asyncio.Protocol):
    """States: idle → waiting (request written, head awaited) → streaming → idle, or closed from any of them."""

    def __init__(self, on_free: Callable[["UpstreamConnection"], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_free = on_free
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser
        self._head: Head | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        """Of a head, or of trailers, that are not complete."""
        self._head_bytes = self._trailer_bytes = 0
        """Names and values of interim heads, and of the head where there are trailers; of trailers."""
        self._waited_bytes = 0
        """All that came up to the head's end, or with it."""
        self._head_done: asyncio.Future[Head] | None = None
        """Of the present request; None between two."""
        self._limit: Deadlines[UpstreamConnection] | None = None
        self._sink: Sink | None = None
        self._to: Callable[[bytes], None] | None = None
        """The sink's, while it takes what comes at once: nothing waits before it."""
        self._parsed: list[bytes] = []
        """Pieces of the body, as the upstream framed them, out of what the socket gave last."""
        self.on_body = self._parsed.append  # for the parser: no function of ours for each of them
        self._backlog = Backlog()
        self._complete = False
        self._failure: UpstreamError | None = None
        self._paused = False
        """The listener wants nothing more for the moment."""
        self._reading_paused = False
        """The transport was told so."""
        self._end_told = False
        self._writing_paused = False
        self._drained: asyncio.Future[None] | None = None
        self.body_sent = True
        """Whether the request's body has been written whole: else the connection cannot be used again."""
        self.closed = False
        self.calls = 0
        self.idle_since = 0.0

    # The caller's side ------------------------------------------------------------------------------------

    def request(
        self, head: bytes, body: bytes, limit: "Deadlines[UpstreamConnection] | None" = None
    ) -> asyncio.Future[Head]:
        """Write one request. The future gives the answer's head, or raises UpstreamError. `limit`: told that this
        connection waits for the head; where that is late, `time_out` is to be called."""
        transport = self._transport
        assert transport is not None
        assert self._head_done is None, "one request at a time"
        # All else is as `finish` has left it, or as it was at first.
        self.calls += 1
        self._complete = self._end_told = False
        self._head = None
        self._head_bytes = self._trailer_bytes = self._waited_bytes = 0
        self._parser = httptools.HttpResponseParser(self)
        self._head_done = head_done = self._loop.create_future()
        self._limit = limit
        if limit is not None:
            limit.begin(self)
        if self.closed:
            self._failure = None
            self._fail(UpstreamError("upstream_reset", "the connection was closed before it was used", sent=False))
        elif len(body) <= 64 * 1024:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        return head_done

    async def write(self, data: bytes) -> None:
        """Further bytes of the present request's body. Waits while the upstream does not take them.

        Raises UpstreamError once the connection is broken.
        """
        if self.closed or self._transport is None:
            raise self._failure or UpstreamError("upstream_reset", "the connection was closed", sent=True)
        self._transport.write(data)
        if self._writing_paused:
            self._drained = self._loop.create_future()
            await self._drained

    def listen(self, sink: Sink, piece_bytes: int = READ_BYTES_MAX, piece_end: bytes = b"") -> None:
        """Give the answer's body to `sink`, beginning with what has come already, in pieces of `piece_bytes` at most:
        it may pause after each of them, however much the socket gave at once. They end with a `piece_end`, where one
        is in them."""
        self._sink = sink
        self._backlog.cut(piece_bytes, piece_end)
        self._paused = False
        self._hand_over()

    def pause_reading(self) -> None:
        """Nothing more is handed over from here on, and nothing more is read."""
        self._paused, self._to = True, None
        if not self._reading_paused and self._transport is not None and not self.closed:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on, from the next turn of the loop, with what has come already; then with the socket."""
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._hand_over)

    @property
    def answered(self) -> bool:
        """Whether any byte of the present answer has come."""
        return self._waited_bytes > 0

    @property
    def whole(self) -> bytes | None:
        """The body, where all of it has come before anybody listens; None: it is still on its way, or broken."""
        if not self._complete or self._sink is not None:
            return None
        return self._backlog.whole

    def finish(self) -> None:
        """Done with this answer: an intact connection is used again, any other is closed."""
        head = self._head
        if head is None and self._limit is not None:
            self._limit.end(self)
        self._sink = self._to = self._head_done = None
        self._backlog.reset()
        if self._complete and head is not None and head.keep_alive and self.body_sent and not self.closed:
            self._paused = False
            if self._reading_paused:
                self._read_on()
            self.idle_since = self._loop.time()
            self._on_free(self)
        else:
            self.abort()

    def time_out(self) -> None:
        """The answer's head has not come in time."""
        assert self._limit is not None
        self._fail(UpstreamError("upstream_timeout", f"no answer within {self._limit.seconds:g} s", sent=True))

    def abort(self) -> None:
        """Close at once: the upstream sees its client gone and stops generating."""
        if not self.closed:
            self.closed = True
            if self._transport is not None:
                self._transport.abort()

    # The transport's side ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by shape only

    def data_received(self, data: bytes) -> None:
        if self._head_done is None:
            self.abort()  # bytes that nobody asked for: this connection cannot be trusted any more
            return
        if self._head is None:
            self._waited_bytes += len(data)
        try:
            self._parser.feed_data(data)
            parsed = self._parsed
            if parsed:
                to = self._to
                if to is not None and len(parsed) == 1 and len(data) <= self._backlog.piece_bytes:
                    to(parsed.pop())
                else:
                    self._give()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._give()  # what came before
            if self._complete:
                self.abort()  # bytes after the end: the answer stands, the connection is not used again
                return
            self._fail(UpstreamError("upstream_protocol", f"the answer is not HTTP: {error!r}", sent=True))
            return
        if self._head is None:
            # The parser gathers a header until its end, and any number of 1xx answers may come before the head.
            too_long = self._waited_bytes > HEAD_BYTES_MAX
        else:  # trailers may follow for ever
            too_long = bool(self._headers) and self._is_too_long()
        if too_long:
            self._fail(UpstreamError("upstream_protocol", f"head above {HEAD_BYTES_MAX} bytes", sent=True))

    def eof_received(self) -> bool:
        # An answer without Content-Length or chunks ends with the connection; llhttp knows whether it may.
        if not self._complete and self._ends_with_connection():
            self.on_message_complete()
        return False

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()
        was_closed, self.closed = self.closed, True
        if not was_closed and not self._complete:
            self._fail(
                UpstreamError("upstream_reset", f"the connection broke: {exc or 'closed by the upstream'}", sent=True)
            )

    def _ends_with_connection(self) -> bool:
        head = self._head
        return (
            head is not None
            and not head.get(b"content-length")
            and b"chunked" not in head.get(b"transfer-encoding").lower()
        )

    def _fail(self, error: UpstreamError) -> None:
        if self._failure is not None or self._complete:
            return
        self._failure = error
        self.abort()
        if self._head_done is not None and not self._head_done.done():
            self._head_done.set_exception(error)
        else:
            self._tell_end()

    # What has come, to whoever listens ----------------------------------------------------------------------

    def _give(self) -> None:
        """To the sink, or to the backlog, what the parser has found."""
        parsed = self._parsed
        if not parsed:
            return
        self._backlog.put(parsed)
        parsed.clear()
        if self._sink is not None:
            self._hand_over()
        elif self._backlog.size > EARLY_BYTES_MAX:
            self.pause_reading()

    def _hand_over(self) -> None:
        """The backlog, piece by piece, for as long as the sink does not pause; at its end the socket goes on."""
        sink, backlog = self._sink, self._backlog
        if sink is None or self._paused:
            return
        together = len(backlog) > 1
        if together:
            sink.cork()
        while backlog and not self._paused:
            sink.on_body(backlog.take())
        if together:
            sink.uncork()
        if not self._paused:
            self._to = sink.on_body
            self._tell_end()
            self._read_on()

    def _read_on(self) -> None:
        self._paused = False
        if self._reading_paused and self._transport is not None and not self.closed:
            self._reading_paused = False
            self._transport.resume_reading()

    def _tell_end(self) -> None:
        """How the answer ended, if it did, once all of it was handed over."""
        if self._sink is None or self._backlog or self._end_told:
            return
        if self._complete:
            self._end_told = True
            self._sink.on_end()
        elif self._failure is not None:
            self._end_told = True
            self._sink.on_broken(self._failure)

    # The parser's side: exceptions raised here would surface as parser errors -----------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        # Names and values are no more than what came: they are added up only where that is much.
        if self._waited_bytes > HEAD_BYTES_MAX and self._is_too_long():
            raise ValueError(f"head above {HEAD_BYTES_MAX} bytes")
        if parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError("another version of HTTP")
        headers, self._headers = self._headers, []
        status = parser.get_status_code()
        if status < 200:  # 1xx: the real answer follows
            self._head_bytes += _size(headers)
            return
        self._head = head = Head(headers, status, keep_alive=parser.should_keep_alive())
        if self._limit is not None:
            self._limit.end(self)
        done = self._head_done
        if done is not None and not done.done():
            done.set_result(head)

    def on_message_complete(self) -> None:
        if self._head is None:
            return  # 1xx
        if self._headers and self._is_too_long():
            raise ValueError(f"head above {HEAD_BYTES_MAX} bytes")
        self._give()
        self._complete = True
        if self._sink is not None:
            self._tell_end()

    def _is_too_long(self) -> bool:
        """Whether the names and values of all headers so far are more than is taken. Trailers are only counted."""
        if self._head is not None:
            if not self._trailer_bytes:  # the first ones
                self._head_bytes += _size(self._head.headers)
            self._trailer_bytes += _size(self._headers)
            self._headers.clear()
        return self._head_bytes + self._trailer_bytes + _size(self._headers) > HEAD_BYTES_MAX


def _size(headers: Iterable[tuple[bytes, bytes]]) -> int:
    return sum(map(len, chain.from_iterable(headers)))
