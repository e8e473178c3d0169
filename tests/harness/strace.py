"""Faults at the nth system call of a running process: killed there, or answered with an error, by strace's `inject`.

    async with strace.killing(program.pid, "write", nth=7) as trace:
        ...                                     # the process dies as it enters its 7th write from here on
    trace.fired, trace.last                     # whether it came to that, and the call that was never made

Calls are counted from the moment of attaching, each kind of call and each thread for itself; only the main thread is
looked at unless `threads` is set. What kinds of calls a program makes depends on its event loop: uvloop writes to
sockets by `write` and `writev`, asyncio by `sendto`. A trace without a fault counts them (`counting`).
"""

import asyncio
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

ATTACH_S_MAX: Final = 20.0
END_S_MAX: Final = 20.0
SHOWN_BYTES: Final = 160
"""Bytes of a call's data that the trace keeps."""

_SCOPE: Final = Path("/proc/sys/kernel/yama/ptrace_scope")


def _lacking() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed (Debian: apt install strace)"
    if os.geteuid() != 0 and _SCOPE.exists() and _SCOPE.read_text(encoding="ascii").strip() != "0":
        return "only root may attach strace to a running process here (kernel.yama.ptrace_scope)"
    return ""


needed: Final = pytest.mark.skipif(bool(_lacking()), reason=_lacking() or "strace is there")
"""Marks tests that cannot be without it."""


class Trace:
    """What strace wrote about one process."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._kept: str | None = None

    @property
    def lines(self) -> list[str]:
        """One line a call, in the order of their beginning, descriptors decoded: `write(9<TCP:[…]>, "…", 40) = 40`.

        All there will ever be once the block is left; before that strace may be about to write more.
        """
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._kept is None else self._kept
        return text.splitlines()

    def keep(self) -> None:
        """Read it to the end: the file goes."""
        self._kept = "\n".join(self.lines)

    @property
    def calls(self) -> list[str]:
        """Those that are system calls, not signals or ends."""
        return [line for line in self.lines if re.match(r"(\d+ +)?\w+\(", line)]

    @property
    def fired(self) -> bool:
        """Whether the fault has come about."""
        return any("(INJECTED)" in line or "+++ killed by" in line or line.endswith("= ?") for line in self.lines)

    @property
    def last(self) -> str:
        """The last call that was begun; empty where there was none."""
        return self.calls[-1] if self.calls else ""


def killing(pid: int, call: str, nth: int, *, threads: bool = False) -> AbstractAsyncContextManager[Trace]:
    """SIGKILL as the process enters its `nth` (from 1) call of this kind, which is never made."""
    return _tracing(pid, call, f"{call}:signal=SIGKILL:when={nth}", threads=threads)


def failing(
    pid: int, call: str, error: str, nth: int = 1, *, ever_after: bool = False, threads: bool = False
) -> AbstractAsyncContextManager[Trace]:
    """The `nth` call of this kind (with `ever_after` all later ones too) is not made, and answers `error`: `EIO`."""
    when = f"{nth}+" if ever_after else str(nth)
    return _tracing(pid, call, f"{call}:error={error}:when={when}", threads=threads)


def counting(pid: int, calls: str, *, threads: bool = False) -> AbstractAsyncContextManager[Trace]:
    """No fault: only what is called, of these kinds (`write,writev`)."""
    return _tracing(pid, calls, "", threads=threads)


@asynccontextmanager
async def _tracing(pid: int, calls: str, inject: str, *, threads: bool) -> AsyncIterator[Trace]:
    """Attached for as long as the block lasts, or the process lives. Raises AssertionError where it cannot attach."""
    with tempfile.TemporaryDirectory(prefix="strace-") as folder:
        log = Path(folder) / "trace"
        options = ["-o", str(log), "-yy", "-s", str(SHOWN_BYTES), "-e", f"trace={calls}", "-e", "signal=none"]
        options += ["-f"] if threads else []
        options += ["-e", f"inject={inject}"] if inject else []
        process = await asyncio.create_subprocess_exec(
            *("strace", *options, "-p", str(pid)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stderr is not None
        trace = Trace(log)
        try:
            said = (await asyncio.wait_for(process.stderr.readline(), ATTACH_S_MAX)).decode()
            assert "attached" in said, f"strace could not attach: {said}"
            yield trace
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)  # it detaches, and the process goes on
            await asyncio.wait_for(process.wait(), END_S_MAX)
            trace.keep()
