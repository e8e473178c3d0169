"""The strace harness itself: what it says that it does to a process happens, at exactly that call."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import strace

pytestmark = [pytest.mark.integration, strace.needed]

LINES = 20
WRITER = f"""
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.close(1)
sys.stdin.readline()
refused = 0
for number in range({LINES}):
    try:
        os.write(file, b"x")
    except OSError:
        refused += 1
    os.fsync(file)
sys.exit(refused)
"""


class Writer:
    """A process that writes LINES bytes when told to, one by one; its exit code is how many writes failed."""

    def __init__(self, process: asyncio.subprocess.Process, file: Path) -> None:
        self.process = process
        self._file = file

    async def write(self) -> int:
        """Let it write; the exit code, negative where a signal ended it."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        return await self.process.wait()

    @property
    def written(self) -> int:
        return self._file.stat().st_size


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Writer]:
    file = tmp_path / "written"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(file), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.read()  # it has opened its file
    yield Writer(process, file)
    if process.returncode is None:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("nth", [1, 7])
async def test_kills_before_the_nth_call(writer: Writer, nth: int) -> None:
    """The process is dead, n - 1 calls have been made, and the trace shows the one that was not."""
    async with strace.killing(writer.process.pid, "write", nth) as trace:
        assert await writer.write() == -9
    assert writer.written == nth - 1
    assert trace.fired
    assert "write(" in trace.last
    assert len(trace.calls) == nth


async def test_a_call_that_never_comes_kills_nobody(writer: Writer) -> None:
    """Fewer calls than n: the process ends by itself, and the trace says that the fault has not come about."""
    async with strace.killing(writer.process.pid, "write", LINES + 1) as trace:
        assert await writer.write() == 0
    assert writer.written == LINES
    assert not trace.fired


async def test_fails_calls(writer: Writer) -> None:
    """From the nth call on every write answers the error and writes nothing."""
    async with strace.failing(writer.process.pid, "write", "ENOSPC", nth=6, ever_after=True) as trace:
        assert await writer.write() == LINES - 5
    assert writer.written == 5
    assert trace.fired


async def test_counts_calls(writer: Writer) -> None:
    """Without a fault the calls are counted, each kind that was asked for, and the process is left alone."""
    async with strace.counting(writer.process.pid, "write,fsync") as trace:
        assert await writer.write() == 0
    assert sum("fsync(" in call for call in trace.calls) == LINES
    assert len(trace.calls) == 2 * LINES
    assert not trace.fired
