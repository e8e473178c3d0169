"""The client's side of an answer while it leaves: what was written, how it ends well, and how it is cut off.

How the bytes get here is told in relay.py, of answers that come piece by piece, and in whole_answer.py.
"""

import asyncio

from aiohttp import web

from gateway.reply import LAST_CHUNK, Opening


class ClientSide:
    """Of one answer to one client."""

    __slots__ = ("_chunked", "_client", "_head", "_protocol", "_stall_s", "_writer", "bytes_added", "bytes_out")

    def __init__(self, request: web.BaseRequest, opening: Opening, stall_s: float) -> None:
        """`stall_s`: for which a client may read nothing. The head leaves with the first bytes of the body."""
        self._client = request.transport
        self._protocol = request.protocol
        self._writer = request.writer
        self._chunked = opening.chunked
        self._stall_s = stall_s
        self._head = opening.head
        # From here on aiohttp must not answer this request, not even that something went wrong.
        self._writer.output_size = len(opening.head)
        self.bytes_out = 0
        """Bytes given to the client's transport, less the framing."""
        self.bytes_added = 0
        """Those of them that are ours."""

    @property
    def client_gone(self) -> bool:
        return self._client is None or self._client.is_closing()

    async def end(self) -> bool:
        """The clean end of an answer: whether the client was given it. One that does not take it is cut off."""
        client = self._client
        if client is None or client.is_closing():
            return False
        if self._chunked or self._head:
            last, self._head = self._head + (LAST_CHUNK if self._chunked else b""), b""
            client.write(last)
        return not self._protocol.writing_paused or await self._drained()

    async def _drained(self) -> bool:
        """Whether the client has read again by the time that it has for that; else it is cut off."""
        if not self._protocol.writing_paused:
            return True
        try:
            async with asyncio.timeout(self._stall_s):
                await self._writer.drain()
        except TimeoutError:
            self._abort()
            return False
        except ConnectionResetError:
            pass  # the client left: nobody is to be waited for
        return True

    def _abort(self) -> None:
        """At once, with all that was not sent yet: closing would wait for the client to read it."""
        if self._client is not None:
            self._client.abort()

    def cut(self) -> None:
        """End the client's connection so that it cannot be taken for a clean end.

        In chunked framing or below Content-Length a close is a visible cut, and what was sent before still arrives;
        an HTTP/1.0 answer of unknown length ends by closing, so only a reset shows.
        """
        if self._client is None:
            return
        if self._head and not self.client_gone:
            self._client.write(self._head)
        if self._chunked:
            self._client.close()
        else:
            self._client.abort()
