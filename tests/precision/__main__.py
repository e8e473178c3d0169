"""`make precision`: everything that is counted or priced, against the recorded calls and exact arithmetic.

Prints Markdown, which docs/precision.md holds. Where the recorded calls are absent it measures calls of our own, and
says so.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.precision import cost, extraction, recorded_cost, recount, tables
from tests.precision.recorded import DATA, OWN

COST_CALLS = 10_000


def main(arguments: Sequence[str]) -> int:
    """Measures and prints. 0, also where a bar is missed: the bars are tests (docs/precision.md names them)."""
    parser = argparse.ArgumentParser(prog="python -m tests.precision", description="Print what the counting is worth.")
    parser.add_argument("--data", type=Path, default=DATA if DATA.exists() else OWN, help="recorded calls, JSON lines")
    parser.add_argument("--cost-calls", type=int, default=COST_CALLS, help="random usages to price")
    chosen = parser.parse_args(arguments)
    if chosen.data == OWN:
        show(f"The recorded calls are not here ({DATA.name}): measured on {OWN.name}, calls of our own writing.\n")
    for line in report(chosen.data, chosen.cost_calls):
        show(line)
    return 0


def report(data: Path, cost_calls: int) -> Iterable[str]:
    """The tables, line by line; each as soon as it is measured."""
    yield from tables.extracted(extraction.measure(data))
    yield from tables.recounted(recount.measure(data))
    yield from tables.recorded_costs(recorded_cost.measure(data))
    yield from tables.random_costs(cost.measure(cost_calls))


def show(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("LITELLM_LOG", "ERROR")
    sys.exit(main(sys.argv[1:]))
