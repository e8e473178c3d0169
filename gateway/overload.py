"""What a gateway does as its machine's limits come near: it lets connections go, then calls, never what runs already.

Two steps, each left as it was entered, when there is room again:
  easing   each answer ends its connection, and connections without a request are closed, the oldest first
  full     no call begins (503, not ready); what runs goes on to its end

File descriptors are counted: half of what the process may open is for clients, half for the upstream, so that a call
which is admitted finds one. Memory is looked at: what the process has of its own limit, and of its address space.
A gateway in which nothing runs refuses nobody for its memory: it could wait for ever for what does not come back.
"""

import asyncio
import contextlib
import ctypes
import os
import resource
from collections.abc import Callable
from enum import IntEnum
from operator import itemgetter
from pathlib import Path
from typing import Final, Protocol

import structlog

FILES_RESERVED: Final = 64
"""Descriptors for all but calls: Redis, journal, metrics port, threads' pipes, programs' files."""
FILES_MAX: Final = 1 << 20
"""Descriptors that are asked of a system that would give any number."""
EASING_SHARE: Final = 0.90
"""Share of a limit at which connections are let go."""
FULL_SHARE: Final = 0.95
"""Share of a memory limit at which no call begins."""
LOOK_S: Final = 0.25
"""Seconds between two looks."""
IDLE_LOOK_S: Final = 1.0
"""Seconds more between them while there is no connection: to wake is dear for a process that has slept."""
EASED_AT_ONCE: Final = 256
"""Connections that are closed at one look, at most."""
IDLE_S_MIN: Final = 1.0
"""Seconds that a connection must have been without a request to be closed: the first one may be on its way."""
TRIM_S: Final = 10.0
"""Seconds between two requests to the allocator to give back what it keeps for later."""
ASIDE_MAX: Final = 16
"""Connections beyond the limit that are told so; further ones are cut off without a word."""

log = structlog.get_logger()


class Step(IntEnum):
    """How near the limits are."""

    NONE = 0
    EASING = 1
    FULL = 2


class Entry(IntEnum):
    """What becomes of a connection that has come."""

    IN = 0
    ASIDE = 1
    """Its request is answered 503."""
    CUT = 2


class Client(Protocol):
    """A client's connection."""

    @property
    def idle_since_s(self) -> float | None:
        """The loop's time since which it has no request; None while it has one."""

    def force_close(self) -> None: ...


class Overload:
    """Counts connections, and knows the step of its last look."""

    def __init__(self, memory_bytes_max: int = 0) -> None:
        """`memory_bytes_max`: what this process may have; 0: what its control group may."""
        self._memory_bytes_max = memory_bytes_max or control_group_bytes_max()
        self._trimmed_at_s = 0.0
        self.half = half_of_files()
        """Connections of clients, and calls, that there may be."""
        self.connections: dict[Client, None] = {}
        """Of clients, the oldest first."""
        self.step = Step.NONE
        self.easing = False
        """The step is one at which connections are let go."""
        self.memory_short = self.memory_full = False
        self._somebody = asyncio.Event()
        """Set while there are connections."""

    def full(self, running: int) -> str:
        """Why no call can begin beside so many that run; empty where one can."""
        if running >= self.half:
            return "as many calls run as there are file descriptors"
        return "memory is short" if self.memory_full and running else ""

    def enter(self, connection: Client) -> Entry:
        """A connection has come; it has left when `leave` is called, whatever became of it."""
        self.connections[connection] = None
        self._somebody.set()
        if len(self.connections) <= self.half:
            return Entry.IN
        return Entry.ASIDE if len(self.connections) <= self.half + ASIDE_MAX else Entry.CUT

    def leave(self, connection: Client) -> None:
        self.connections.pop(connection, None)
        if not self.connections:
            self._somebody.clear()

    async def keep(self, running: Callable[[], int]) -> None:
        """A look every LOOK_S, or IDLE_LOOK_S, for as long as the gateway runs. `running`: calls that run."""
        while True:
            self._look(running())
            if self.easing:
                self._let_go()
                await self._trim()
            await asyncio.sleep(LOOK_S)
            if not self.step and not running():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_LOOK_S):
                        await self._somebody.wait()

    def _look(self, running: int) -> None:
        self.half = half_of_files()
        memory = self._memory_share()
        self.memory_short, self.memory_full = memory >= EASING_SHARE, memory >= FULL_SHARE
        if self.full(running):
            step = Step.FULL
        elif self.memory_short or len(self.connections) > self.half * EASING_SHARE:
            step = Step.EASING
        else:
            step = Step.NONE
        if step != self.step:
            said = log.warning if step else log.info
            said("overload", step=step.name.lower(), connections=len(self.connections), memory=round(memory, 3))
        self.step, self.easing = step, step >= Step.EASING

    def _memory_share(self) -> float:
        """Of the limit that is nearest."""
        size, resident = (int(pages) * resource.getpagesize() for pages in _pages())
        space = resource.getrlimit(resource.RLIMIT_AS)[0]
        of_space = size / space if space > 0 else 0.0
        return max(of_space, resident / self._memory_bytes_max if self._memory_bytes_max else 0.0)

    def _let_go(self) -> None:
        """Close what has been idle for longest: what is above the share, or, for memory, as many as there are."""
        oldest_s = asyncio.get_running_loop().time() - IDLE_S_MIN
        since = ((connection.idle_since_s, connection) for connection in self.connections)
        idle = sorted(((at, one) for at, one in since if at is not None and at < oldest_s), key=itemgetter(0))
        number = EASED_AT_ONCE if self.memory_short else len(self.connections) - int(self.half * EASING_SHARE)
        for _, connection in idle[: min(EASED_AT_ONCE, number)]:
            connection.force_close()

    async def _trim(self) -> None:
        loop = asyncio.get_running_loop()
        if _malloc_trim is not None and loop.time() - self._trimmed_at_s > TRIM_S:
            self._trimmed_at_s = loop.time()
            with contextlib.suppress(RuntimeError):  # no memory for a thread
                await loop.run_in_executor(None, _malloc_trim, 0)


def raise_files_max() -> None:
    """Ask for all descriptors that the system gives: defaults of 1,024 are for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def half_of_files() -> int:
    """Half of the descriptors that this process may have open, but for those that calls do not need."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(1, ((FILES_MAX if soft == resource.RLIM_INFINITY else soft) - FILES_RESERVED) // 2)


def control_group_bytes_max(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """The memory limit of the control group in which this process runs (version 2, or 1); 0 where there is none."""
    limits = []
    groups = own.read_text(encoding="ascii").splitlines() if own.exists() else []
    paths = ["", *(group.rpartition(":")[2].lstrip("/") for group in groups)]
    for folder in (root / version / path for version in ("", "memory") for path in paths):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # `max` is no limit
                limits.append(int((folder / name).read_text(encoding="ascii")))
    return min((limit for limit in limits if 0 < limit < 1 << 60), default=0)


def _pages() -> list[str]:
    """Address space and resident memory of this process; nothing where the system does not tell."""
    try:
        return Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
    except OSError:
        return ["0", "0"]


def _trimmer() -> Callable[[int], int] | None:
    """glibc's malloc_trim, which other libraries lack."""
    found = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    return found if callable(found) else None


_malloc_trim: Final = _trimmer()
