"""`sundial …` as a process of its own, forked from one that has imported it before.

Its imports take a second of processor time, the vocabularies of a gateway another; a test of the chain starts two
programs and runs five commands. The real start is tested where it is the matter (tests/harness/command.py, up.py, every
command of the README, and workers, which start by themselves).
"""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.launch import die_with

_FORKED: Final = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["tests.harness.preloaded"])


class ForkedProgram:
    """`sundial ARGUMENTS` in a session of its own, in a folder, its output in a file; it dies with this process.

    What is used of subprocess.Popen.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path) -> None:
        given = (tuple(arguments), dict(environment), str(folder), str(output))
        self._process = _FORKED.Process(target=_program, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.args = ("sundial", *arguments)

    def poll(self) -> int | None:
        """The exit code, a signal's number below zero; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired. `timeout`: seconds."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _program(arguments: Sequence[str], environment: Mapping[str, str], folder: str, output: str) -> None:
    die_with(os.getppid(), signal.SIGKILL)
    os.setsid()
    os.chdir(folder)
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _become(arguments, environment, log, log)


async def sundial(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `sundial ARGUMENTS`."""
    with tempfile.TemporaryDirectory(prefix="sundial-command-") as folder:
        process = _FORKED.Process(target=_command, args=(tuple(arguments), dict(environment), folder))
        process.start()
        try:
            await _readable(process.sentinel)
        except asyncio.CancelledError:
            process.kill()
            raise
        finally:
            process.join()
        code = process.exitcode
        process.close()
        assert code is not None
        return code, *_written(folder)


def _written(folder: str) -> tuple[str, str]:
    return Path(folder, "out").read_text(encoding="utf-8"), Path(folder, "err").read_text(encoding="utf-8")


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    reached = asyncio.Event()
    loop.add_reader(descriptor, reached.set)
    try:
        await reached.wait()
    finally:
        loop.remove_reader(descriptor)


def _command(arguments: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
    out, err = (os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT, 0o600) for name in ("out", "err"))
    _become(arguments, environment, out, err)


def _become(arguments: Sequence[str], environment: Mapping[str, str], out: int, err: int) -> None:
    """What exec would do. Never returns."""
    from sundial.__main__ import main  # imported already, in the process that this one was forked from

    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.argv = sys.orig_argv[:] = ["sundial", *arguments]
    main()
