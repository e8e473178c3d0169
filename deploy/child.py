"""One program of the chain as a child process: its lines, its readiness, its end.

Children get a session of their own, so that Ctrl-C reaches the supervisor alone and it can end them in order, and the
kernel's promise to end with the supervisor even where that is killed.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp

TAIL_LINES: Final = 20
"""Lines that are kept to explain a child's end."""
LINE_BYTES_MAX: Final = 16 * 1024
"""Longer lines are broken."""
POLL_S: Final = 0.1
PROBE_TIMEOUT_S: Final = 2.0

_LAUNCH: Final = Path(__file__).with_name("launch.py")

Relay = Callable[[str, str], None]
"""Told the part's name and one line of its output."""


class PartFailedError(RuntimeError):
    """A part of the chain did not start or ended unasked; the text says which, and how its output ends."""


class Child:
    """One child. Start it from the main thread: the kernel ends it with the thread that started it."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], relay: Relay) -> None:
        self.name = name
        self.ready_url = ""
        self.start_timeout_s = 60.0
        self.stop_timeout_s = 10.0
        self.lasting = False
        """Whether the chain goes on when it ends: it is started again."""
        self._command = command
        self._environment = environment
        self._relay = relay
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        wrapped = [sys.executable, "-I", "-S", str(_LAUNCH)]
        wrapped += ["--die-with", str(os.getpid()), str(int(signal.SIGTERM)), "--", *self._command]
        self._tail.clear()
        self._process = await asyncio.create_subprocess_exec(
            *wrapped,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(self._environment),
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = asyncio.create_task(self._read(self._process.stdout))

    async def ready(self) -> None:
        """Wait until its health page says 200. Raises PartFailedError where it ends or takes too long."""
        deadline = asyncio.get_running_loop().time() + self.start_timeout_s
        said = "nothing"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as session:
            while self.alive:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with session.get(self.ready_url) as answer:
                        if answer.status == 200:
                            return
                        said = f"{answer.status} {(await answer.text())[:300].strip()}"
                if asyncio.get_running_loop().time() > deadline:
                    raise PartFailedError(
                        f"{self.name} was not ready after {self.start_timeout_s:.0f} s; {self.ready_url} says {said}. "
                        f"{self.last_lines()}"
                    )
                await asyncio.sleep(POLL_S)
        raise PartFailedError(await self.explain_end())

    async def ended(self) -> None:
        assert self._process is not None
        await self._process.wait()

    async def explain_end(self) -> str:
        """What to tell a person about a child that has ended."""
        assert self._process is not None
        code = await self._process.wait()
        if self._reader:
            await self._reader
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"{self.name} ended {how}. {self.last_lines()}"

    async def run(self) -> None:
        """Run it to its end. Raises PartFailedError unless it ends with 0."""
        await self.start()
        assert self._process is not None
        if await self._process.wait() != 0:
            raise PartFailedError(await self.explain_end())

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL where it has not ended after `stop_timeout_s`."""
        if self._process is None or not self.alive:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(self.stop_timeout_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None and self.alive:
                self._process.kill()

    def last_lines(self) -> str:
        return (
            "Its last lines:\n" + "\n".join(f"    {line}" for line in self._tail) if self._tail else "It said nothing."
        )

    async def _read(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while data := await stream.read(LINE_BYTES_MAX):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._say(line)
        if rest:
            self._say(rest)

    def _say(self, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace").rstrip()
        if text:
            self._tail.append(text)
            self._relay(self.name, text)
