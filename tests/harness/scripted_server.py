"""A raw TCP server that misbehaves by script: each connection runs the next script, byte by byte as it says."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self

from tests.harness.loopback import LoopbackServer

PATIENCE_S = 10.0


class Peer:
    """One accepted connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request. Raises IncompleteReadError where the client closes instead."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return head, await self._reader.readexactly(length)

    async def read(self) -> bytes:
        """Whatever comes next; empty at the end."""
        return await self._reader.read(1 << 16)

    async def say(self, data: bytes, size: int = 0) -> None:
        """Send, where `size` is given in parts of so many bytes, each in a segment of its own."""
        for start in range(0, len(data), size or len(data) or 1):
            self._writer.write(data[start : start + size] if size else data)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def close(self) -> None:
        """End our side in order (FIN) after all that was said."""
        self._writer.write_eof()

    async def reset(self) -> None:
        """End the connection by a reset (RST), after what was said has left."""
        await self._writer.drain()
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def gone(self) -> bytes:
        """Wait until the client has closed; what it still sent."""
        with suppress(ConnectionError):
            return await self._reader.read()
        return b""


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer(LoopbackServer):
    """`scripts` are used up one by one; the last one serves all further connections."""

    def __init__(self, *scripts: Script, patience_s: float = PATIENCE_S) -> None:
        super().__init__()
        self._patience_s = patience_s
        self._scripts = list(scripts)
        self.failures: list[BaseException] = []
        """What went wrong within scripts: a test that ends with some has seen a surprise."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Self]:
        """As every server; AssertionError afterwards where there are `failures`."""
        async with super().listening():
            yield self
        assert not self.failures, self.failures

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self._scripts[min(self.connections, len(self._scripts)) - 1]
        peer = Peer(reader, writer)
        try:
            async with asyncio.timeout(self._patience_s):
                await script(peer)
                await peer.gone()
        except (TimeoutError, AssertionError) as error:
            self.failures.append(error)
