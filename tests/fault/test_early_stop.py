"""Programs that are told to stop before they have begun: a stop is no failure, however early it comes."""

import signal
from pathlib import Path
from typing import Final

import pytest

from tests.harness.chain import Chain
from tests.harness.stack import Program
from tests.harness.waiting import until

SIGTERM_BIT: Final = 1 << (signal.SIGTERM - 1)


def caught(program: Program) -> bool:
    """Whether a signal to stop finds somebody who answers it."""
    status = Path(f"/proc/{program.pid}/status").read_text(encoding="ascii")
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask.split()[1], 16) & SIGTERM_BIT)


def imported(program: Program, name: str) -> bool:
    return f"/{name}/" in Path(f"/proc/{program.pid}/maps").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["gateway", "meter"])
async def test_g4_told_to_stop_while_it_starts(chain: Chain, name: str) -> None:
    """SIGTERM as soon as there is a program, before it has imported its parts: exit code 0; the next start works."""
    program: Program = getattr(chain.stack, name)
    assert await program.stop() == 0
    program.fresh = True
    program.launch()
    await until(lambda: caught(program))
    assert not imported(program, "uvloop")
    program.signal(signal.SIGTERM)
    assert await program.ended() == 0
    await program.start()
