"""A TCP proxy on the way to a server, that delays, stalls, cuts and corrupts what the server says."""

import asyncio
import random
from contextlib import suppress

from tests.harness.loopback import LoopbackServer

CHUNK_BYTES = 64 * 1024


class Proxy(LoopbackServer):
    """Forwards both ways. What is set here holds for the bytes that come next."""

    def __init__(self, target_port: int, seed: int = 0) -> None:
        super().__init__()
        self.target_port = target_port
        self.delay_s_max = 0.0
        """Answers are delayed by random times up to this, and sliced at random places where it is not 0."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._random = random.Random(seed)

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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        there = asyncio.create_task(self._forward(reader, far_writer))
        try:
            await self._answer(far_reader, writer)
        finally:
            there.cancel()
            far_writer.transport.abort()

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
