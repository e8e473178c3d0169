"""A price that changes while a call runs is for the calls after it."""

import asyncio
import json

from tests.harness.scripted_chain import DONE, END, SSE, STOP, STREAM, Scripted, chunked, event, text_event, usage_of
from tests.harness.scripted_server import Peer
from tests.harness.waiting import until

MODEL = "gpt-4o-mini"
SNAPSHOT = "gpt-4o-mini-2024-07-18"
"""Answers."""


async def test_a_running_call_is_charged_what_it_was_held_for(scripted: Scripted) -> None:
    """Its hold was made for the old price: at the new one, a thousand times as high, it would cost far more than that.
    The next call is priced anew."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    answer = STOP + event([], usage_of(10, 40)) + DONE

    async def pauses(peer: Peer) -> None:
        await peer.say(SSE + chunked(text_event("Bom ")))
        begun.set()
        await go_on.wait()
        await peer.say(chunked(text_event("dia") + answer) + END)

    scripted.plays(pauses)
    first = asyncio.create_task(scripted.call(STREAM))
    await begun.wait()
    for name in (MODEL, SNAPSHOT):
        await scripted.chain.stack.sundial("price", "set", name, "--input", "150", "--output", "600")

    async def told() -> bool:
        async with (
            scripted.chain.session(scripted.secret) as session,
            session.get(f"/v1/models/{MODEL}") as found,
        ):
            return bool(json.loads(await found.read())["pricing"]["prompt"] == "0.00015")

    await until(told)
    go_on.set()
    assert (await first).clean
    [old] = await scripted.events(1)
    scripted.says(SSE + chunked(text_event("Bom dia") + answer) + END)
    await scripted.call(STREAM)
    [new] = await scripted.events(1)
    assert (old["outcome"], new["outcome"]) == ("complete", "complete")
    assert old["usage"] == new["usage"]
    assert new["charge_mc"] == 1_000 * old["charge_mc"] > 0
    assert old["price_version"] < new["price_version"]
    assert await scripted.metric('sundial_gateway_invariant_violations_total{rule="floor"}') == 0
