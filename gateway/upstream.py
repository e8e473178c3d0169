"""The upstream: a pool of connections to one base URL, and the life of one exchange on it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeVar
from urllib.parse import urlsplit

from gateway.backlog import READ_BYTES_MAX
from gateway.deadlines import Deadlines
from gateway.upstream_connection import Head, Sink, UpstreamConnection, UpstreamError

T = TypeVar("T")

CONNECT_S_MAX: Final = 5.0
IDLE_CONNECTIONS_MAX: Final = 256
"""Idle connections kept for the next calls."""
IDLE_S_MAX: Final = 30.0
"""Seconds that an idle connection is trusted: below the keep-alive limits of common servers."""
REDIRECTS: Final = (301, 302, 303, 307, 308)

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Headers of one connection (RFC 9110, 7.6.1): never passed on in either direction."""


class Source(Protocol):
    """A body that is still on its way from the client."""

    @property
    def length(self) -> int | None:
        """Bytes of the whole body; None where nobody knows."""

    def rest(self) -> AsyncIterator[bytes]:
        """What has not been read of it yet, as it comes."""


class Answer:
    """An answer whose head has come."""

    __slots__ = ("_connection", "head", "status")

    def __init__(self, connection: UpstreamConnection, head: Head) -> None:
        self._connection = connection
        self.status = head.status
        self.head = head

    @property
    def whole(self) -> bytes | None:
        """The body, where all of it has come before anybody listens. It stays for whoever listens then."""
        return self._connection.whole

    def listen(self, sink: Sink, piece_bytes: int = READ_BYTES_MAX, piece_end: bytes = b"") -> None:
        """Give the body to `sink`, in pieces of `piece_bytes` at most, after each of which it may pause; they end with
        a `piece_end`, where one is in them."""
        self._connection.listen(sink, piece_bytes, piece_end)

    def pause(self) -> None:
        self._connection.pause_reading()

    def resume(self) -> None:
        self._connection.resume_reading()

    def stop(self) -> None:
        """Close the connection at once, so that the upstream stops generating."""
        self._connection.abort()

    def finish(self) -> None:
        """Done with it: its connection goes back to the pool, or is closed where the answer has not come whole."""
        self._connection.finish()


class Upstream:
    """One OpenAI-compatible base URL. Retries nothing but a request on a kept connection that had silently died."""

    def __init__(self, base_url: str, key: str, first_byte_timeout_s: float) -> None:
        parts = urlsplit(base_url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/")
        self._first_byte_timeout_s = first_byte_timeout_s
        default_port = parts.port is None or parts.port == (443 if self._tls else 80)
        host = f"[{self._host}]" if ":" in self._host else self._host
        authority = host if default_port else f"{host}:{self._port}"
        authorization = f"authorization: Bearer {key}\r\n" if key else ""
        self._first_lines = f" HTTP/1.1\r\nhost: {authority}\r\n{authorization}".encode()
        """Of each request, behind its target."""
        self._idle: list[UpstreamConnection] = []
        self._heads = Deadlines(first_byte_timeout_s, UpstreamConnection.time_out)
        """Who waits for the head of an answer."""
        self.resent = 0
        """Requests sent a second time because a kept connection had died before it answered."""

    async def open(
        self,
        method: str,
        path: str,
        headers: bytes,
        body: bytes,
        source: Source | None = None,
    ) -> Answer:
        """Send one request below the base URL and wait for the answer's head. `headers`: lines, each with its end.
        `source` has the body's rest, if any. Whoever has the answer must `finish` it.

        Raises UpstreamError: `upstream_refused` and `upstream_unreachable` (nothing was sent), `upstream_reset`,
        `upstream_protocol`, `upstream_redirect`, `upstream_timeout` (it may have been seen); and whatever `source`
        raises.
        """
        request = self._head(method, path, headers, len(body) if source is None else source.length)
        # What streams cannot be sent a second time: it goes on a connection that cannot have died unnoticed.
        connection = (self._take_idle() if source is None else None) or await self._connect()
        try:
            if source is not None:
                head = await self._exchange_stream(connection, request, body, source)
            else:
                try:
                    head = await connection.request(request, body, self._heads)
                except UpstreamError as error:
                    # Two cases of `upstream_reset`: a kept connection that the upstream had closed in the meantime (no
                    # byte came back: once more, on a new connection), and one that broke under this request.
                    if error.code != "upstream_reset" or connection.calls == 1 or connection.answered:
                        raise
                    self.resent += 1
                    connection.finish()
                    connection = await self._connect()
                    head = await connection.request(request, body, self._heads)
        except BaseException:
            connection.finish()
            raise
        if head.status in REDIRECTS:
            # Followed by nobody: not by us, and not by a client that trusts us, perhaps inwards.
            connection.finish()
            raise UpstreamError("upstream_redirect", f"it answers {head.status}, a redirect", sent=True)
        return Answer(connection, head)

    @asynccontextmanager
    async def send(
        self,
        method: str,
        path: str,
        headers: bytes,
        body: bytes,
        source: Source | None = None,
    ) -> AsyncIterator[Answer]:
        """As `open`, and finishes the answer when it is left."""
        answer = await self.open(method, path, headers, body, source)
        try:
            yield answer
        finally:
            answer.finish()

    async def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        self._heads.close()

    async def _in_time(self, connection: UpstreamConnection, waiting: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._first_byte_timeout_s):
                return await waiting
        except TimeoutError:
            connection.abort()
            raise UpstreamError(
                "upstream_timeout", f"no answer within {self._first_byte_timeout_s:g} s", sent=True
            ) from None

    async def _exchange_stream(
        self, connection: UpstreamConnection, request: bytes, begun: bytes, source: Source
    ) -> Head:
        """Two ends of an upload: the body is through and the head awaited, or an answer comes before (a refusal, as a
        rule), and the rest is not sent."""
        chunked = source.length is None
        head = connection.request(request, _framed(begun) if chunked else begun)
        connection.body_sent = False
        pump = asyncio.ensure_future(self._pump(connection, source, chunked=chunked))
        try:
            await asyncio.wait((head, pump), return_when=asyncio.FIRST_COMPLETED)
            if head.done():
                return head.result()
            pump.result()  # raises what became of the client or of the upstream
            return await self._in_time(connection, head)
        except BaseException:
            connection.abort()
            raise
        finally:
            if not pump.done():
                pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self, connection: UpstreamConnection, source: Source, *, chunked: bool) -> None:
        async for data in source.rest():
            await self._in_time(connection, connection.write(_framed(data) if chunked else data))
        if chunked:
            await connection.write(b"0\r\n\r\n")
        connection.body_sent = True

    def _head(self, method: str, path: str, headers: bytes, length: int | None) -> bytes:
        if length is None:
            framing = b"transfer-encoding: chunked\r\n\r\n"
        elif length or method != "GET":
            framing = b"content-length: %d\r\n\r\n" % length
        else:
            framing = b"\r\n"
        return b"".join((f"{method} {self._path}{path}".encode(), self._first_lines, headers, framing))

    def _take_idle(self) -> UpstreamConnection | None:
        oldest = asyncio.get_running_loop().time() - IDLE_S_MAX
        while self._idle:
            connection = self._idle.pop()
            if connection.closed:
                continue
            if connection.idle_since >= oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self._keep), self._host, self._port, ssl=self._tls
                )
        except ConnectionRefusedError:
            raise UpstreamError("upstream_refused", "nothing listens there", sent=False) from None
        except (OSError, TimeoutError) as error:
            raise UpstreamError("upstream_unreachable", f"cannot connect: {error}", sent=False) from error
        return connection

    def _keep(self, connection: UpstreamConnection) -> None:
        if len(self._idle) < IDLE_CONNECTIONS_MAX:
            self._idle.append(connection)
        else:
            connection.abort()


def _framed(data: bytes) -> bytes:
    """One chunk of a body without a length; none is none, for an empty one would be the last."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
