"""An answer that is no stream and is there, all of it, as the call gets to see its head: nearly all small ones are.

Nothing is to be waited for, looked at or kept alive: it is read, booked, and given to the client in one piece.
"""

import asyncio

from aiohttp import web

from gateway.client_side import ClientSide
from gateway.reply import Opening
from gateway.witness import Compared


class Whole(ClientSide):
    """The same face as gateway.relay.Relay, as far as a call needs it whose answer has ended well."""

    __slots__ = ("body", "bytes_in", "first_byte_s", "witness")

    bytes_ignored = 0
    complete = True

    def __init__(self, request: web.BaseRequest, opening: Opening, stall_s: float, body: bytes) -> None:
        """`body`: not empty."""
        super().__init__(request, opening, stall_s)
        self.bytes_in = len(body)
        self.first_byte_s = asyncio.get_running_loop().time()
        self.body = body

    def give(self, left: bytes) -> None:
        """What the observer gave out of the whole."""
        self.witness = Compared(len(self.body) - len(left), left == self.body)
        client = self._client
        if left and client is not None and not client.is_closing():
            self.bytes_out += len(left)
            if self._chunked:
                left = b"%x\r\n%b\r\n" % (len(left), left)
            head, self._head = self._head, b""
            client.write(head + left)

    @property
    def has_ended(self) -> bool:
        """Whether the client has the end of the answer already, by what was written."""
        return self.bytes_in <= self.bytes_out
