"""`python -m tests.bench.profile`: where gateway or meter spend their time under one scenario's load, by py-spy."""

import asyncio
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

import click

from tests.bench import build
from tests.bench.candidates import Sundial
from tests.bench.rounds import run
from tests.bench.scenarios import SCENARIOS
from tests.harness.stack import ROOT

RATE: Final = 500
"""Samples a second."""
LINES: Final = 45


@click.command()
@click.argument("scenario", type=click.Choice([scenario.name for scenario in SCENARIOS]))
@click.option("--part", type=click.Choice(["gateway", "meter"]), default="gateway", show_default=True)
@click.option("--rounds", default=4, show_default=True)
@click.option("--svg", type=click.Path(path_type=Path), help="Write a flame graph too.")
def main(scenario: str, part: str, rounds: int, svg: Path | None) -> None:
    """Print the functions by own time and by time with what they call, in percent of the part's CPU."""
    chosen = next(each for each in SCENARIOS if each.name == scenario)
    with tempfile.TemporaryDirectory(prefix="sundial-profile-") as folder, asyncio.Runner() as loop:
        home = Path(folder)
        client = build.c_program("client", home)
        with subprocess.Popen([build.c_program("upstream", home)], stdout=subprocess.PIPE, text=True) as upstream:
            assert upstream.stdout is not None
            sundial = Sundial(home / "sundial", int(upstream.stdout.readline()))
            sundial.launch()
            try:
                loop.run(sundial.start())
                loop.run(run(client, chosen, sundial, home))
                pid = sundial.parts()[part][0]
                spies = [_spy(pid, home / "raw", "raw")] + ([_spy(pid, svg, "flamegraph")] if svg else [])
                made = [loop.run(run(client, chosen, sundial, home)) for _ in range(rounds)]
                for spy in spies:
                    spy.send_signal(signal.SIGINT)  # it writes what it has
                    spy.wait()
            finally:
                loop.run(sundial.stop())
                upstream.kill()
        click.echo(f"{part}: {sum(each.cpu_us[part] for each in made) / rounds:.1f} µs per {chosen.unit}, sampled\n")
        click.echo(table((home / "raw").read_text(encoding="utf-8", errors="replace")))


def table(raw: str) -> str:
    """From py-spy's folded stacks: own and cumulative percent of each function."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if not count.isdigit():
            continue
        frames = [frame.rpartition(":")[0].replace(f"{ROOT}/", "") for frame in stack.split(";")]
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            within[frame] += int(count)
    lines = ["own %  with callees %  function"]
    for name, samples in own.most_common(LINES):
        lines.append(f"{100 * samples / total:5.1f}  {100 * within[name] / total:14.1f}  {name}")
    lines.append("\nwith callees %  own %  function")
    for name, samples in within.most_common(LINES):
        lines.append(f"{100 * samples / total:14.1f}  {100 * own[name] / total:5.1f}  {name}")
    return "\n".join(lines)


def _spy(pid: int, into: Path, kind: str) -> "subprocess.Popen[bytes]":
    command = [str(ROOT / ".venv" / "bin" / "py-spy"), "record", "--nonblocking", "--function", "--gil"]
    options = ["--rate", str(RATE), "--duration", "600", "--format", kind, "--output", str(into), "--pid", str(pid)]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
