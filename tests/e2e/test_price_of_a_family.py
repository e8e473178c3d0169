"""A price that an operator sets for a model, where the upstream answers with the name of its snapshot."""

from typing import Any

from tests.harness.chain import Chain
from tests.harness.waiting import until

BODY: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Oi"}], "max_tokens": 10}
INPUT_MC, OUTPUT_MC = 100_000, 400_000
"""Millicredits a token at the price that is set, under the card cost@1."""


async def test_a_price_that_is_set_is_charged_though_the_snapshot_has_one(chain: Chain) -> None:
    """`price set gpt-4o-mini` says that it covers the dated name; a call is charged at it, by gateway and meter alike,
    and the receipt names it."""
    secret = await chain.personal("ana", credit="100000")
    said = await chain.stack.sundial("price", "set", "gpt-4o-mini", "--input", "100", "--output", "400")
    assert said["covers"] == ["gpt-4o-mini-2024-07-18"]

    async def told() -> bool:
        cost_mc = await chain.cost_of(secret, BODY)
        served = chain.upstream.served[-1]
        return cost_mc == served.prompt_tokens * INPUT_MC + served.sent_tokens * OUTPUT_MC

    await until(told)  # until the gateway has the version
    entry = (await chain.usage_entries("ana", 1))[-1]
    receipt = await chain.stack.sundial("charge", entry["event_id"])
    assert (receipt["model_answered"], receipt["priced_as"]) == ("gpt-4o-mini-2024-07-18", "gpt-4o-mini")
    assert receipt["price_version"] == said["price_version"]
    assert receipt["charge"] == receipt["recomputed"]
    assert not receipt["flags"]
