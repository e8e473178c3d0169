"""A TCP server on loopback that ends with its block: what proxies and scripted servers have in common."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self


class LoopbackServer(ABC):
    """Serves each connection by `_serve`, and closes it when that is over, however it ends."""

    def __init__(self) -> None:
        self.port = 0
        """Where it listens, within `listening`."""
        self.connections = 0
        """Connections accepted so far."""
        self._clients: set[asyncio.StreamWriter] = set()
        self._running: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Self]:
        """Listens as long as the block lasts; afterwards no connection and no task is left."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def cut(self) -> None:
        """Close every connection."""
        for client in self._clients:
            client.transport.abort()

    @abstractmethod
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection. OSError and IncompleteReadError may leave it: one side has gone."""

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._clients.add(writer)
        self._running.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one side has gone, or the test is over; asyncio's streams report a cancelled server task as a fault
        finally:
            self._running.discard(task)
            self._clients.discard(writer)
            writer.transport.abort()
