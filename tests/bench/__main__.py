"""`python -m tests.bench`: the gateway beside its peers. Prints the report; `--write` stores it in docs/."""

import asyncio
import os
import platform
import random
import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from tests.bench import build, report
from tests.bench.candidates import Candidate, Direct, GoProxy, LiteLLM, Nginx, Portkey, Sundial
from tests.bench.rounds import Round, memory_kb, run
from tests.bench.scenarios import MEMORY_SCENARIOS, SCENARIOS, Scenario


@click.command()
@click.option("--rounds", default=7, show_default=True, help="Rounds of each scenario on each candidate.")
@click.option("--only", default="", help="Scenarios, by name, separated by commas. Default: all.")
@click.option(
    "--peers",
    default="",
    help="Also measure: nginx-unpooled, go-unpooled, litellm, portkey (from their registries), workers (two of them).",
)
@click.option("--seed", default=1, show_default=True, help="Of the order in which the rounds are made.")
@click.option("--write", is_flag=True, help="Store the result in docs/performance.md, .json and .png.")
def main(rounds: int, only: str, peers: str, seed: int, write: bool) -> None:
    """Measure the gateway beside its peers in one run, interleaved; every answer is checked."""
    chosen = [each for each in SCENARIOS if not only or each.name in only.split(",")]
    opened = [each for each in MEMORY_SCENARIOS if not only or each.name in only.split(",")]
    with tempfile.TemporaryDirectory(prefix="sundial-bench-") as folder:
        home = Path(folder)
        client = build.c_program("client", home)
        with subprocess.Popen([build.c_program("upstream", home)], stdout=subprocess.PIPE, text=True) as upstream:
            try:
                assert upstream.stdout is not None
                port = int(upstream.stdout.readline())
                candidates: list[Candidate] = [Direct(home / "direct", port), Nginx(home / "nginx", port)]
                go_proxy = build.go_proxy(home)
                candidates.append(GoProxy(home / "go", port, go_proxy))
                candidates.append(Sundial(home / "sundial", port))
                more: dict[str, Callable[[Path, int], Candidate]] = {
                    "nginx-unpooled": partial(Nginx, pooled=False),
                    "go-unpooled": partial(GoProxy, program=go_proxy, pooled=False),
                    "litellm": LiteLLM,
                    "portkey": Portkey,
                    "workers": partial(Sundial, workers=2),
                }
                candidates += [more[name](home / name, port) for name in peers.split(",") if name]
                result = measure(client, candidates, chosen, opened, home, rounds, seed)
            finally:
                upstream.kill()
    click.echo(report.text(result))
    if write:
        report.write(result)


def measure(
    client: Path,
    candidates: list[Candidate],
    scenarios: list[Scenario],
    opened: list[Scenario],
    home: Path,
    rounds: int,
    seed: int,
) -> report.Result:
    """All rounds, in an order that nobody chose."""
    order = random.Random(seed)
    for candidate in candidates:
        candidate.launch()
    with asyncio.Runner() as loop:
        memory: dict[str, dict[str, float]] = {}
        found: dict[str, dict[str, list[Round]]] = {}
        try:
            for candidate in candidates:
                loop.run(candidate.start())
                if opened and candidate.compares and not candidate.slow:
                    memory[candidate.name] = loop.run(memory_kb(client, candidate, opened, home))
            for number in range(rounds):
                turns = [
                    (scenario.slower() if candidate.slow else scenario, candidate)
                    for scenario in scenarios
                    for candidate in candidates
                    if scenario.for_slow or not candidate.slow
                ]
                order.shuffle(turns)
                for scenario, candidate in turns:
                    click.echo(f"round {number + 1}/{rounds}  {scenario.name}  {candidate.name}", err=True)
                    made = loop.run(run(client, scenario, candidate, home))
                    found.setdefault(scenario.name, {}).setdefault(candidate.name, []).append(made)
        finally:
            for candidate in reversed(candidates):
                loop.run(candidate.stop())
    return report.Result(
        measured_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}",
        rounds={scenario.name: found[scenario.name] for scenario in scenarios},
        memory_kb=memory,
    )


if __name__ == "__main__":
    main()
