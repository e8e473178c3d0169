"""Many waits that may all last equally long, watched by one timer."""

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

EARLY_S: Final = 0.001
"""Seconds by which a timer may come too early: uvloop counts in whole milliseconds."""


class Deadlines(Generic[T]):
    """As all last equally long, the first that began is the first that is late: it alone needs the timer.

    A timer of its own for each wait costs more than all else of a wait that ends in time, as nearly all do.
    """

    def __init__(self, seconds: float, late: Callable[[T], None]) -> None:
        """`late` is told of each wait that has not ended within `seconds`, once, as exactly as a timer of its own."""
        self.seconds = seconds
        self._late = late
        self._until: dict[T, float] = {}
        """By who waits: the loop's time at which that is late, the next one first."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, who: T) -> None:
        """`who` waits from here on; one wait at a time."""
        loop = asyncio.get_running_loop()
        self._until[who] = until = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_at(until, self._look)

    def end(self, who: T) -> None:
        """Its wait is over, if there is one."""
        self._until.pop(who, None)

    def close(self) -> None:
        """Nobody is told any more."""
        self._until.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time() + EARLY_S
        while self._until:
            who, until = next(iter(self._until.items()))
            if until > now:
                self._timer = loop.call_at(until, self._look)
                return
            del self._until[who]
            self._late(who)
