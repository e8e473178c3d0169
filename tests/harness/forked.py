"""The command `sundial` as a process of its own, forked from one that has imported it before.

The imports take half a second of processor time, and a test of the chain runs the command five times. The real start is
tested where the command itself is (tests/harness/command.py, and every command of the README).
"""

import asyncio
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from sundial.__main__ import main

_FORKED: Final = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    [
        __name__,
        *("asyncpg", "redis.asyncio", "shared.settings"),  # what commands import when they need it
        *(f"sundial.{name}" for name in ("account_page", "accounts", "database", "orders", "projection", "statement")),
    ]
)


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
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.argv = ["sundial", *arguments]
    main()
