"""The public port: aiohttp's low-level server, with connections of our own.

They are bounded: how many there may be, and how long the head of a request may take. Who begins a head must finish it,
or is answered 408 and cut off. Who comes beyond the number of connections that this process can serve is answered 503
(`overload.py`).

aiohttp bounds how long a connection may be without a request, and ends it without a word. Here the clock starts with
the first byte of a head, the connection's first or a later one, and ends with its last. A head that comes at once, as
they do, never starts it.

And a call may outlive its client: then nobody cancels it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway import metrics, refusals
from gateway.overload import Entry, Overload
from gateway.refusals import Refusal
from gateway.reply import Reply

ASIDE_S_MAX: Final = 1.0
"""Seconds that a connection which is not served has to ask for something, so that it can be told."""

log = structlog.get_logger()

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Bounds(NamedTuple):
    """What holds for every connection."""

    head_s: float
    """Seconds from a head's first byte to its last."""
    late: bytes
    """The answer to one that took longer."""
    unserved: bytes
    """The answer to a connection too many."""
    overload: Overload


class Connection(RequestHandler):
    """A client's connection."""

    __slots__ = ("_aside", "_bounds", "_head_timer", "outlived")

    def __init__(self, manager: web.Server, bounds: Bounds, **options: Any) -> None:
        super().__init__(manager, **options)
        self._bounds = bounds
        self._head_timer: asyncio.TimerHandle | None = None
        self._aside = False
        """It is one too many: told so, not served."""
        self.outlived = False
        """The present request is answered to its end, should its client leave; else it is cancelled then."""

    @property
    def idle_since_s(self) -> float | None:
        """The loop's time since which nothing of a request has come; None while one is there."""
        waiting = self._waiter is not None and not self._waiter.done() and self._head_timer is None
        return self._next_keepalive_close_time - self._keepalive_timeout if waiting else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        entry = self._bounds.overload.enter(self)
        if entry is Entry.IN:
            return
        metrics.REFUSALS.labels("overloaded").inc()
        if entry is Entry.CUT:
            self.force_close()
        else:
            self._aside = True
            self._head_timer = self._loop.call_later(ASIDE_S_MAX, self.force_close)

    def data_received(self, data: bytes) -> None:
        if self._aside:
            if self.transport is not None:
                self.transport.write(self._bounds.unserved)
                self.force_close()
            return
        # What comes may belong to a request whose head is there: to the body of one that is being answered, or that
        # waits its turn.
        answered, heads = self._current_request, self._request_count
        receiving = self._messages or (answered is not None and not answered.content.is_eof())
        super().data_received(data)
        if receiving or self._request_count != heads:
            if self._head_timer is not None:
                self._stop_clock()
        elif self._head_timer is None and data.strip(b"\r\n"):  # empty lines may follow a request
            self._start_clock()

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp calls this for each body that is read, and parses nothing once more, though it had not paused.
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if type(resp) is Reply and not self._upgraded:  # it has been written, and there is no access log
            request._finish()
            return resp, False
        return await super().finish_response(request, resp, start_time)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_clock()
        self._bounds.overload.leave(self)
        answering = self._task_handler
        super().connection_lost(exc)
        if answering is not None and not self.outlived:
            answering.cancel()

    def _start_clock(self) -> None:
        self._head_timer = self._loop.call_later(self._bounds.head_s, self._too_late)

    def _stop_clock(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_late(self) -> None:
        self._head_timer = None
        if self.transport is None:
            return
        if self._waiter is None or self._waiter.done():
            self._start_clock()  # the answer to the request before it goes on; nobody waits for this one yet
            return
        metrics.REFUSALS.labels("head_timeout").inc()
        log.info("refused", code="head_timeout")
        self.transport.write(self._bounds.late)
        self.force_close()


class Server(web.Server):
    """Makes a Connection of each connection that is accepted, and gives each request to one handler."""

    def __init__(
        self,
        handler: Handler,
        overload: Overload,
        *,
        head_s: float,
        head_bytes: int,
        body_bytes_max: int,
        keep_alive_s: float,
        language: str,
    ) -> None:
        """`head_s`: seconds that the head of a request may take. `head_bytes`: of its first line, and of each header.
        `body_bytes_max`: of a body that is read whole. `keep_alive_s`: that a connection may be without a whole
        request."""
        super().__init__(
            handler,
            request_factory=self._request,
            access_log=None,
            max_line_size=head_bytes,
            max_field_size=head_bytes,
            keepalive_timeout=keep_alive_s,
        )
        late = _answer(Refusal("head_timeout", limit_s=f"{head_s:g}"), language)
        self._bounds = Bounds(head_s, late, _answer(Refusal("overloaded"), language), overload)
        self._body_bytes_max = body_bytes_max

    def __call__(self) -> RequestHandler:
        return Connection(self, self._bounds, loop=self._loop, **self._kwargs)

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(
            message, payload, protocol, writer, task, self._loop, client_max_size=self._body_bytes_max
        )


def _answer(refusal: Refusal, language: str) -> bytes:
    """The whole answer of a refusal to who is no request yet."""
    answer = refusals.response(refusal, language)
    assert isinstance(answer.body, bytes)
    head = [
        f"HTTP/1.1 {answer.status} {answer.reason}",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
        "Connection: close",
        f"Content-Length: {len(answer.body)}",
    ]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + answer.body
