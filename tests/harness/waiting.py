"""Waiting on conditions: nothing in the tests sleeps for a fixed time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final

WAIT_S_MAX: Final = 15.0
_POLL_S: Final = 0.02


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: float = WAIT_S_MAX, what: str = ""
) -> None:
    """Until `condition` holds; AssertionError, naming it, where it does not within `seconds`."""
    end = time.monotonic() + seconds
    while True:
        held = condition()
        if inspect.isawaitable(held):
            held = await held
        if held:
            return
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what or condition.__qualname__}")
        await asyncio.sleep(_POLL_S)
