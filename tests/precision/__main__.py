"""`make precision`: everything that is counted or priced, against the recorded calls and exact arithmetic.

Prints Markdown, which docs/precision.md holds. Where the recorded calls are absent it measures calls of our own, and
says so.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.precision import cost, extraction, recount
from tests.precision.recorded import DATA, OWN

COST_CALLS = 10_000

Row = Mapping[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Measures and prints. 0, also where a bar is missed: the bars are tests (tests/unit/test_recount_recorded.py)."""
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
    yield from extracted(extraction.measure(data))
    yield from recounted(recount.measure(data))
    yield from priced(cost.measure(cost_calls))


def extracted(measured: Row) -> Iterable[str]:
    yield "### Usage read from answers and streams\n"
    yield from table(("family", "kind", "calls", "exact"), summed(measured["rows"], ("family", "kind")))
    yield ""
    for wrong in measured["wrong"]:
        yield f"- not exact: {wrong}"


def recounted(measured: Row) -> Iterable[str]:
    for key, title in (("prompts", "Prompts recounted"), ("completions", "Whole answers recounted")):
        yield f"### {title}\n"
        columns = ("calls", "exact", "within_1_percent", "tokens", "total_error_percent", "absolute_error_percent")
        yield from table(("family", "kind", *columns), measured[key])
        yield ""
    yield "### Prompts of projects held out of the fit\n"
    if measured["held_out"]:
        yield from table(tuple(measured["held_out"][0]), measured["held_out"])
    yield ""
    cut = measured["cut"]
    yield f"### Answers cut at random bytes\n\n{cut['exact']:,} of {cut['cut']:,} cuts of OpenAI's answers are exact.\n"
    for wrong in cut["wrong"]:
        yield f"- {wrong}"
    yield "### The books, with aborted calls\n"
    yield from table(tuple(measured["traffic"][0]), measured["traffic"])
    yield "\n### Cheap estimates for holds\n"
    rows = [{"of": kind, **spread, "below": len(spread["below"])} for kind, spread in measured["holds"].items()]
    yield from table(("of", "calls", "below", "times_median", "times_p90"), rows)
    yield ""
    for spread in measured["holds"].values():
        for below in spread["below"]:
            yield f"- below: {below}"


def priced(measured: Row) -> Iterable[str]:
    yield "\n### Cost\n"
    plain = [{"measure": name.replace("_", " "), "number": value} for name, value in measured.items() if _plain(value)]
    yield from table(("measure", "number"), plain)
    yield ""
    for reason, calls in measured["differences"].items():
        yield f"- {calls:,} × {reason}"
    for wrong in measured["wrong"]:
        yield f"- wrong: {wrong}"


def summed(rows: Iterable[Row], by: tuple[str, ...]) -> list[Row]:
    """Rows with the same values of `by` taken together."""
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in by)
        total = sums.setdefault(key, {**dict(zip(by, key, strict=True)), "calls": 0, "exact": 0})
        total["calls"] += row["calls"]
        total["exact"] += row["exact"]
    return [sums[key] for key in sorted(sums)]


def table(columns: Sequence[str], rows: Iterable[Row]) -> Iterable[str]:
    """A Markdown table; errors in percent with sign and two decimals, numbers right-aligned."""
    shown = [[_cell(column, row[column]) for column in columns] for row in rows]
    heads = [column.replace("_percent", " %").replace("_", " ") for column in columns]
    numeric = [all(row[at][:1] in "+-0123456789" for row in shown) for at in range(len(columns))]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "|".join("---:" if right else "---" for right in numeric) + "|"
    for row in shown:
        yield "| " + " | ".join(row) + " |"


def _cell(column: str, value: object) -> str:
    if column.endswith("error_percent") and isinstance(value, float):
        sign = "" if "absolute" in column else "+"
        return f"{value:{sign}.3f}" if abs(value) < 1 else f"{value:{sign}.1f}"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _plain(value: object) -> bool:
    return isinstance(value, int)


def show(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("LITELLM_LOG", "ERROR")
    sys.exit(main(sys.argv[1:]))
