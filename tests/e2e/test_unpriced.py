"""A model without a price, from its first call to the correction on the statement, through the real programs."""

from typing import Any

import aiohttp
import pytest

from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play
from tests.harness.waiting import until

MESSAGES: Any = [{"role": "user", "content": "Quanto custa o sol?"}]
BODY: Any = {"model": "no-such-price", "messages": MESSAGES}
PROVISIONAL = {
    "SUNDIAL_UNPRICED": "provisional",
    "SUNDIAL_PROVISIONAL_INPUT_USD": "2.50",
    "SUNDIAL_PROVISIONAL_OUTPUT_USD": "10",
    "SUNDIAL_RECOUNT_SAMPLE": "1",
}
RATES = "provisional_rates:2500000000/10000000000"
INPUT_MC, OUTPUT_MC = 2_500, 10_000
"""Millicredits a token at the provisional price, under the card cost@1."""


@pytest.fixture
async def admitting(chain: Chain) -> Chain:
    """The chain, its gateway admitting models without a price."""
    await chain.stack.gateway.stop()
    await chain.stack.gateway.start(**PROVISIONAL)
    return chain


async def corrections(chain: Chain, user: str, number: int) -> list[dict[str, Any]]:
    """The price corrections on this month's statement, once there are so many."""
    found: list[dict[str, Any]] = []

    async def enough() -> bool:
        statement = await chain.stack.sundial("statement", user)
        found[:] = [entry for entry in statement["entries"] if "corrects" in entry]
        return len(found) >= number

    await until(enough)
    assert len(found) == number
    return found


async def test_a_provisional_charge_is_corrected_when_the_price_comes(admitting: Chain) -> None:
    """Booked and flagged at once; `sundial price set` brings one linked entry each, dearer or cheaper, and no more."""
    chain = admitting
    chain.upstream.script = lambda request: Play(tokens=request["max_tokens"])
    secret = await chain.personal("ana", credit="100000")
    for tokens in (10, 300):
        status, _, _ = await chain.post(secret, {**BODY, "max_tokens": tokens})
        assert status == 200
    await chain.raw(secret, {**BODY, "max_tokens": 5, "stream": True})
    entries = await chain.usage_entries("ana", 3)
    asked = [(served.prompt_tokens, served.sent_tokens) for served in chain.upstream.served]
    booked = [read * INPUT_MC + written * OUTPUT_MC for read, written in asked]
    assert [entry["amount"] for entry in entries] == [-mc for mc in booked]
    assert all(entry["flags"] == ["provisional", RATES] for entry in entries)
    receipt = await chain.stack.sundial("charge", entries[0]["event_id"])
    assert (receipt["charge"], receipt["recomputed"], receipt["price_source"]) == (booked[0], booked[0], "provisional")
    assert {line["kind"]: float(line["amount_mc"]) for line in receipt["lines"]} == {
        "input": asked[0][0] * INPUT_MC, "output": asked[0][1] * OUTPUT_MC
    }  # fmt: skip

    version = (await chain.stack.sundial("price", "set", "no-such-price", "--input", "100", "--output", "1"))[
        "price_version"
    ]
    true = [read * 100_000 + written * 1_000 for read, written in asked]
    found = await corrections(chain, "ana", 3)
    assert {one["corrects"]: one["amount"] for one in found} == {
        entry["event_id"]: was - now for entry, was, now in zip(entries, booked, true, strict=True)
    }
    assert {one["amount"] > 0 for one in found} == {True, False}
    assert all(one["link_id"] == one["corrects"] and one["price_version"] == version for one in found)
    statement = await chain.stack.sundial("statement", "ana")
    assert statement["closing"] == 100_000_000 - sum(true)
    assert statement["provider_cost_nano"] == sum(true)

    receipt = await chain.stack.sundial("charge", entries[0]["event_id"])
    [correction] = receipt["corrections"]
    assert (receipt["charge"], receipt["due"], receipt["recomputed"]) == (booked[0], true[0], true[0])
    assert (correction["price_version"], correction["priced_as"]) == (version, "no-such-price")
    assert sum(float(line["amount_mc"]) for line in receipt["lines"]) == true[0]

    await chain.stack.sundial("price", "set", "no-such-price", "--input", "7", "--output", "7")
    await chain.post(secret, {**BODY, "max_tokens": 5})
    entries = await chain.usage_entries("ana", 4)
    await corrections(chain, "ana", 3)
    assert await recounted(chain) == {"prompt": 4.0, "completion": 4.0}


async def recounted(chain: Chain) -> dict[str, float]:
    """How many calls the gateway has counted beside the upstream's usage, all of them exactly."""
    found: dict[str, float] = {}

    async def all_of_them() -> bool:
        async with aiohttp.ClientSession() as session, session.get(chain.stack.gateway.url("/metrics")) as answer:
            lines = (await answer.text()).splitlines()
        for direction in ("prompt", "completion"):
            name = f'sundial_gateway_recount_error_ratio_bucket{{direction="{direction}",le='
            values = {line.split('le="')[1].split('"')[0]: line for line in lines if line.startswith(name)}
            if values:
                at = {bound: float(line.split()[-1]) for bound, line in values.items()}
                found[direction] = at["0.001"] - at["-0.001"]
        return found == {"prompt": 4.0, "completion": 4.0}

    await until(all_of_them)
    return found


async def test_a_gateway_without_the_provisional_prices_does_not_start(chain: Chain) -> None:
    """Each price that is missing is named, and nothing is served."""
    await chain.stack.gateway.stop()
    chain.stack.gateway.launch(SUNDIAL_UNPRICED="provisional")
    assert await chain.stack.gateway.ended() == 2
    for name in ("SUNDIAL_PROVISIONAL_INPUT_USD", "SUNDIAL_PROVISIONAL_OUTPUT_USD"):
        assert name in chain.stack.gateway.output
    await chain.stack.gateway.start()
