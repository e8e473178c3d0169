"""The whole price map against exact decimals and against litellm's own arithmetic, a sample of `make precision`."""

from tests.precision.cost import measure

CALLS = 8_000
"""Two for each priced model."""

EXPLAINED = {
    "litellm has no arithmetic for it": "images, characters or seconds beside tokens, uplifts or searches",
    "litellm's float has too few digits": "large amounts",
    "rounded twice: to pico-USD first": "a price with more than twelve decimals beside a tie",
    "litellm takes no row of tiered_pricing without input": "it prices such output by the flat entry, mostly at 0",
    "litellm gives text of an image model away in a batch": "it looks for a text price only; ours is that of images",
    "litellm leaves image tokens out beside a count of images": "two embedding models",
}
"""Every way in which the two may differ, and when."""


def test_cost_equals_exact_decimals_over_the_whole_map() -> None:
    """Random usages at the edges and between, of every priced model and service tier: equal to the exact decimal in
    every single case, and to litellm but for the differences that are explained."""
    counts = measure(CALLS)
    assert counts["calls"] == CALLS
    assert counts["models"] * 2 <= CALLS
    assert counts["equal_to_decimal"] == CALLS, counts["wrong"]
    assert counts["differences"].keys() <= EXPLAINED.keys(), counts["wrong"]
    assert counts["compared_with_litellm"] > CALLS * 0.95
    assert counts["equal_to_litellm"] > counts["compared_with_litellm"] * 0.98
