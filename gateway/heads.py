"""The head of a request has a time limit: who begins one must finish it, or is answered 408 and cut off.

aiohttp bounds how long a connection may be without a request, and ends it without a word. Here the clock starts with
the first byte of a head, the connection's first or a later one, and ends with its last. A head that comes at once, as
they do, never starts it.
"""

import asyncio
from typing import Any

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway import metrics, refusals
from gateway.refusals import Refusal

log = structlog.get_logger()


class Connection(RequestHandler):
    """A client's connection."""

    __slots__ = ("_head_s", "_head_timer", "_late")

    def __init__(self, manager: web.Server, head_s: float, late: bytes, **options: Any) -> None:
        """`head_s`: seconds from a head's first byte to its last. `late`: the answer to one that took longer."""
        super().__init__(manager, **options)
        self._head_s = head_s
        self._late = late
        self._head_timer: asyncio.TimerHandle | None = None

    @property
    def _receiving(self) -> bool:
        """Whether what comes belongs to a request whose head is there: to the body of one that is being answered, or
        that waits its turn."""
        return bool(self._messages) or (
            self._current_request is not None and not self._current_request.content.is_eof()
        )

    def data_received(self, data: bytes) -> None:
        receiving, heads = self._receiving, self._request_count
        super().data_received(data)
        if receiving or self._request_count != heads:
            self._stop_clock()
        elif self._head_timer is None and data.strip(b"\r\n"):  # empty lines may follow a request
            self._start_clock()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def _start_clock(self) -> None:
        self._head_timer = self._loop.call_later(self._head_s, self._too_late)

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
        self.transport.write(self._late)
        self.force_close()


class _Server(web.Server):
    """Makes a Connection of each connection that is accepted."""

    def __init__(self, head_s: float, late: bytes, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_s = head_s
        self._late = late

    def __call__(self) -> RequestHandler:
        return Connection(self, self._head_s, self._late, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Serves an application to connections whose heads have a limit."""

    __slots__ = ("_head_s", "_language")

    def __init__(self, app: web.Application, head_s: float, language: str, **options: Any) -> None:
        super().__init__(app, **options)
        self._head_s = head_s
        self._language = language

    async def _make_server(self) -> web.Server:
        # aiohttp has no setting for the class of its connections: its server is made, and made once more as ours.
        made = await super()._make_server()
        return _Server(
            self._head_s,
            _late(self._head_s, self._language),
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )


def _late(limit_s: float, language: str) -> bytes:
    """The whole answer to a head that took too long."""
    refusal = Refusal("head_timeout", limit_s=f"{limit_s:g}")
    answer = refusals.response(refusal, language)
    assert isinstance(answer.body, bytes)
    return (
        b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json; charset=utf-8\r\nx-should-retry: false\r\n"
        b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(answer.body), answer.body)
    )
