"""Steps: the opcodes that the interpreter executes in a gateway. The one measure of its work that no load disturbs.

stack = Stack(..., settings=counting(into))
...
steps = await counted(stack.gateway.pid, into, calls)
"""

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from tests.harness.stack import ROOT
from tests.harness.waiting import until

COUNTED_S_MAX: Final = 60.0
_FOLDERS: Final = (f"{ROOT}/", "/site-packages/", "/lib/")
"""What comes before the interesting part of a file's path: the first that is found."""


class Steps(msgspec.Struct, frozen=True):
    """Of one function, or of all."""

    opcodes: int
    calls: int
    place: str = ""
    """File, first line and name of the function."""


def counting(into: Path) -> dict[str, str]:
    """What the environment of a gateway needs, so that its steps can be counted. It works as always until then."""
    return {"PYTHONPATH": str(ROOT / "tests" / "harness" / "counted"), "STEPS_INTO": str(into)}


async def counted(pid: int, into: Path, calls: Callable[[], Awaitable[object]]) -> list[Steps]:
    """What the gateway's event loop did while `calls` ran, dearest function first. It is slow meanwhile."""
    os.kill(pid, signal.SIGUSR2)
    await until(into.exists, COUNTED_S_MAX, "the count has begun")
    await calls()
    os.kill(pid, signal.SIGUSR2)
    await until(lambda: into.stat().st_size > 0, COUNTED_S_MAX, "the count has ended")
    return _taken(into)


def total(steps: list[Steps]) -> Steps:
    """All of them together."""
    return Steps(sum(each.opcodes for each in steps), sum(each.calls for each in steps))


def _taken(into: Path) -> list[Steps]:
    lines = into.read_text(encoding="utf-8").splitlines()
    into.unlink()
    return [_read(line) for line in lines]


def _read(line: str) -> Steps:
    opcodes, calls, file, first_line, name = line.split("\t")
    for folder in _FOLDERS:
        _, found, rest = file.rpartition(folder)
        if found:
            file = rest
            break
    return Steps(int(opcodes), int(calls), f"{file}:{first_line} {name}")
