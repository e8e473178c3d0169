"""Wakes tasks when Postgres is notified. Only ever a hint: each task also looks by itself every second."""

import asyncio
import contextlib
from typing import Any

import asyncpg

from meter import database


class Bell:
    """Listens to channels on a connection of its own; each channel sets an event."""

    def __init__(self, url: str, *channels: str) -> None:
        self._url = url
        self._connection: Any = None
        self.events = {channel: asyncio.Event() for channel in channels}

    async def listen(self) -> bool:
        """Listen where that is not so; a round of meter.rounds. Raises asyncpg's and OS errors."""
        if self._connection is not None and not self._connection.is_closed():
            return False
        self._connection = await database.connect(self._url)
        for channel, event in self.events.items():
            await self._connection.add_listener(channel, lambda *_, event=event: event.set())
            event.set()
        return False

    async def aclose(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._connection.close(timeout=database.CLOSE_TIMEOUT_S)
