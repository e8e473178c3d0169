"""One round: one scenario on one candidate, with everything that it cost. Every answer is checked by the client."""

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.bench import processes
from tests.bench.candidates import Candidate
from tests.bench.scenarios import Scenario
from tests.harness.waiting import until

WARM_UP_PART: Final = 10
"""A tenth of the calls is made before the round, and not counted."""
WRONG_PART_MAX: Final = 0.02
"""Share of wrong answers that is reported of a peer and does not end the run. (Go's proxy cuts a few streams when
hundreds begin at once: `ReverseProxy read error during body copy`, without a fault of either side.)"""
OPEN_S_MAX: Final = 60.0


class WrongAnswerError(Exception):
    """A candidate gave an answer that is not the upstream's."""


class Round(msgspec.Struct, frozen=True):
    cpu_us: dict[str, float]
    """Microseconds per unit, by part."""
    seconds: float
    chunk_p50_us: float
    chunk_p99_us: float
    first_p50_us: float
    first_p99_us: float
    total_p50_us: float
    wrong: int
    """Answers that were cut or not the upstream's."""


async def run(client: Path, scenario: Scenario, candidate: Candidate, home: Path) -> Round:
    """Raises WrongAnswerError."""
    body = _body(scenario, home)
    await _load(client, scenario, candidate, body, max(1, scenario.calls // WARM_UP_PART))
    await candidate.settle()
    pids = candidate.parts()
    before = {part: processes.cpu_ns(found) for part, found in pids.items()}
    told = await _load(client, scenario, candidate, body, scenario.calls)
    await candidate.settle()
    spent = {part: (processes.cpu_ns(found) - before[part]) / 1_000 / scenario.units for part, found in pids.items()}
    names = ("chunk_p50", "chunk_p99", "first_p50", "first_p99", "total_p50")
    return Round(
        cpu_us=spent,
        seconds=told["seconds"],
        wrong=told["wrong"],
        **{f"{name}_us": told[name] / 1_000 for name in names},
    )


async def load(client: Path, scenario: Scenario, candidate: Candidate, home: Path) -> None:
    """The calls of one scenario, nothing measured. Raises WrongAnswerError."""
    await _load(client, scenario, candidate, _body(scenario, home), scenario.calls)


async def memory_kb(client: Path, candidate: Candidate, scenarios: Iterable[Scenario], home: Path) -> dict[str, float]:
    """Kilobytes per open stream, by scenario: of the part that is compared, beyond what it took before the first.

    To be asked of a candidate that has just started: what a process has freed it may keep, so that a later look would
    find too little.
    """
    pids = candidate.parts()[candidate.compares]
    before = processes.resident_bytes(pids)
    found = {}
    for scenario in scenarios:
        body = _body(scenario, home)
        opened = body.with_suffix(".open")
        opened.unlink(missing_ok=True)
        load = asyncio.create_task(_load(client, scenario, candidate, body, scenario.calls, opened))
        await until(lambda: opened.exists() or load.done(), OPEN_S_MAX, "all streams are open")  # noqa: B023
        taken = processes.resident_bytes(pids) - before
        await load
        await candidate.settle()
        found[scenario.name] = taken / 1_000 / scenario.connections
    return found


def _body(scenario: Scenario, home: Path) -> Path:
    body = home / f"{scenario.name}.json"
    body.write_bytes(scenario.body())
    return body


async def _load(
    client: Path, scenario: Scenario, candidate: Candidate, body: Path, calls: int, opened: Path | None = None
) -> dict[str, Any]:
    arguments = [
        *(str(candidate.port), candidate.path, candidate.key, str(body)),
        *(str(min(scenario.connections, calls)), str(calls), str(scenario.chunks)),
    ]
    process = await asyncio.create_subprocess_exec(
        client,
        *arguments,
        *([str(opened)] if opened else []),
        env={**os.environ, "BENCH_HEADERS": candidate.headers},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    told: dict[str, Any] = json.loads(out) if out else {}
    most = 0 if candidate.faultless else max(1, calls * WRONG_PART_MAX)
    if not told or told["wrong"] > most:
        raise WrongAnswerError(f"{candidate.name}, {scenario.name}: {out.decode()}{err.decode()}")
    return told
