"""What was measured as Markdown, section by section: `make precision` prints it, docs/precision.md holds it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.precision.rows import columns

PAGE = Path(__file__).parents[2] / "docs" / "precision.md"

Row = Mapping[str, Any]


def extracted(measured: Row) -> Iterable[str]:
    yield "### Usage read from answers and streams\n"
    yield from table(columns("tokens"), measured["rows"])
    yield ""
    for wrong in measured["wrong"]:
        yield f"- not exact: {wrong}"


def recounted(measured: Row) -> Iterable[str]:
    for key, title in (("prompts", "Prompts recounted"), ("completions", "Whole answers recounted")):
        yield f"### {title}\n"
        yield from table(columns("tokens"), measured[key])
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


def recorded_costs(measured: Row) -> Iterable[str]:
    for key, title in (("decimal", "exact decimals"), ("litellm", "litellm's own arithmetic")):
        yield f"\n### Cost of the recorded calls, against {title}\n"
        yield from table(columns("nano_usd"), measured[key])
    yield ""
    if unpriced := measured["unpriced"]:
        yield f"- without a price in the pinned map: {sum(unpriced.values()):,} calls of {len(unpriced):,} models"
    for wrong in measured["wrong"]:
        yield f"- wrong: {wrong}"


def random_costs(measured: Row) -> Iterable[str]:
    """Of these the kind says what they are compared with."""
    yield "\n### Cost of random usages over the whole price map\n"
    yield from table(columns("nano_usd"), measured["rows"])
    yield f"\n- {measured['models']:,} models with a price, {measured['unpriceable']:,} in the map without a usable one"
    for reason, calls in measured["differences"].items():
        yield f"- {calls:,} × {reason}"
    for wrong in measured["wrong"]:
        yield f"- wrong: {wrong}"


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
