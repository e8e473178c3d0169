"""The whole price map, and the recorded calls, against exact decimals and against litellm's own arithmetic."""

from pathlib import Path
from typing import Any

import pytest

from tests.precision import recorded_cost
from tests.precision.__main__ import COST_CALLS
from tests.precision.cost import DECIMAL, LITELLM, measure
from tests.precision.recorded import DATA, OWN
from tests.precision.tables import PAGE, random_costs, recorded_costs

EXPLAINED = {
    "litellm has no arithmetic for it": "images, characters or seconds beside tokens, uplifts or searches",
    "litellm's float has too few digits": "large amounts",
    "rounded twice: to pico-USD first": "a price with more than twelve decimals beside a tie",
    "litellm takes no row of tiered_pricing without input": "it prices such output by the flat entry, mostly at 0",
    "litellm gives text of an image model away in a batch": "it looks for a text price only; ours is that of images",
    "litellm leaves image tokens out beside a count of images": "two embedding models",
}
"""Every way in which the two may differ, and when."""
PRICED_CALLS_MIN = 600


def summed(rows: list[dict[str, Any]], truth: str) -> tuple[int, int]:
    """Calls compared with this truth, and those that are equal to it."""
    chosen = [row for row in rows if row["kind"] == truth]
    return sum(row["calls"] for row in chosen), sum(row["exact"] for row in chosen)


def test_cost_equals_exact_decimals_over_the_whole_map() -> None:
    """Random usages at the edges and between, of every priced model and service tier: equal to the exact decimal in
    every single case, and to litellm but for the differences that are explained. docs/precision.md holds the table."""
    measured = measure(COST_CALLS)
    assert measured["models"] * 2 <= COST_CALLS
    assert summed(measured["rows"], DECIMAL) == (COST_CALLS, COST_CALLS), measured["wrong"]
    assert measured["differences"].keys() <= EXPLAINED.keys(), measured["wrong"]
    compared, equal = summed(measured["rows"], LITELLM)
    assert compared > COST_CALLS * 0.95
    assert equal > compared * 0.98
    assert "\n".join(random_costs(measured)).strip() in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [OWN, DATA], ids=lambda path: str(path.stem))
def test_cost_of_recorded_calls(path: Path) -> None:
    """Each call that has a price costs what exact decimals say, and what litellm makes of the provider's own words, to
    the nano-USD. docs/precision.md holds both tables."""
    if not path.exists():
        pytest.skip(f"{path.name} lies beside the repository where it is there at all; our own calls are priced anyhow")
    measured = recorded_cost.measure(path)
    assert measured["wrong"] == []
    if path == DATA:
        for truth in ("decimal", "litellm"):
            assert sum(row["calls"] for row in measured[truth]) > PRICED_CALLS_MIN
        assert "\n".join(recorded_costs(measured)).strip() in PAGE.read_text(encoding="utf-8")
