"""A TCP proxy on the way to a server, that delays, stalls, cuts and corrupts what the server says."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards both ways. What is set here holds for the bytes that come next."""

    def __init__(self, target_port: int, seed: int = 0) -> None:
        self.target_port = target_port
        self.port = 0
        self.delay_s_max = 0.0
        """Answers are delayed by random times up to this, and sliced at random places where it is not 0."""
        self.connections = 0
        """Connections accepted so far."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._random = random.Random(seed)
        self._clients: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()

    def stall(self) -> None:
        """Answers are kept back from here on."""
        self._flowing.clear()

    def flow(self) -> None:
        """What was kept back goes on, late."""
        self._flowing.set()

    def say(self, data: bytes) -> None:
        """Bytes of our own to every client."""
        for writer in self._clients:
            writer.write(data)

    def cut(self) -> None:
        """Close every connection."""
        for writer in self._clients:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._clients.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            self._clients.discard(writer)
            writer.transport.abort()
            return
        there = asyncio.create_task(self._forward(reader, far_writer))
        try:
            await self._answer(far_reader, writer)
        except asyncio.CancelledError:
            pass  # the test is over; asyncio's streams report a cancelled server task as a fault
        finally:
            there.cancel()
            self._clients.discard(writer)
            far_writer.transport.abort()
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                while data:
                    size = self._random.randint(1, len(data)) if self.delay_s_max else len(data)
                    if self.delay_s_max:
                        await asyncio.sleep(self._random.uniform(0, self.delay_s_max))
                    await self._flowing.wait()
                    writer.write(data[:size])
                    await writer.drain()
                    data = data[size:]
