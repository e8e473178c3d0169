"""`python -m tests.bench.steps`: the opcodes that the gateway's interpreter executes for each call or chunk.

No figure of time varies less than twofold on a shared machine; this one varies by a hundredth.
"""

import asyncio
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import click
import msgspec

from tests.bench import build, rounds
from tests.bench.candidates import Sundial
from tests.bench.scenarios import SCENARIOS, Scenario
from tests.harness.steps import Steps, counted, counting, total

CALLS_MAX: Final = 1_000
"""A counted call takes some fifty times as long as another one."""
LINES: Final = 80


@click.command()
@click.argument("scenario", type=click.Choice([scenario.name for scenario in SCENARIOS]))
@click.option("--lines", default=LINES, show_default=True, help="Functions that are shown.")
def main(scenario: str, lines: int) -> None:
    """Print opcodes and Python calls per unit: of all, by file, and by function."""
    chosen = next(each for each in SCENARIOS if each.name == scenario)
    chosen = msgspec.structs.replace(chosen, calls=min(chosen.calls, max(CALLS_MAX, chosen.connections)))
    with tempfile.TemporaryDirectory(prefix="sundial-steps-") as folder:
        click.echo(table(_count(chosen, Path(folder)), chosen, lines))


def _count(scenario: Scenario, home: Path) -> list[Steps]:
    client, into = build.c_program("client", home), home / "steps"
    upstream = subprocess.Popen([build.c_program("upstream", home)], stdout=subprocess.PIPE, text=True)
    with upstream, asyncio.Runner() as loop:
        assert upstream.stdout is not None
        sundial = Sundial(home / "sundial", int(upstream.stdout.readline()), settings=counting(into))
        sundial.launch()
        try:
            loop.run(sundial.start())
            loop.run(rounds.run(client, scenario, sundial, home))
            [pid] = sundial.parts()["gateway"]
            return loop.run(counted(pid, into, lambda: rounds.load(client, scenario, sundial, home)))
        finally:
            loop.run(sundial.stop())
            upstream.kill()


def table(steps: list[Steps], scenario: Scenario, lines: int) -> str:
    """By unit of the scenario."""
    units, all_of_it = scenario.units, total(steps)
    files: dict[str, int] = {}
    for each in steps:
        file = each.place.partition(":")[0]
        files[file] = files.get(file, 0) + each.opcodes
    told = [
        f"per {scenario.unit}: {all_of_it.opcodes / units:,.0f} opcodes in {all_of_it.calls / units:,.0f} calls",
        "",
    ]
    told += [
        f"{opcodes / units:8.1f}  {file}" for file, opcodes in sorted(files.items(), key=lambda each: -each[1])[:lines]
    ]
    told += ["", " opcodes   calls"]
    told += [f"{each.opcodes / units:8.1f} {each.calls / units:7.2f}  {each.place}" for each in steps[:lines]]
    return "\n".join(told)


if __name__ == "__main__":
    main()
