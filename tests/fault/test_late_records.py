"""G5: gateways that sleep past the time to live of their holds, and wake up."""

import asyncio
import signal
from typing import Any

import asyncpg

from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play
from tests.harness.waiting import until

HOLD_TTL_S = "5"
CREDIT_MC = 100_000_000
INPUT_MC, OUTPUT_MC = 150, 600
"""Millicredits a token of gpt-4o-mini, under the card cost@1."""
BODY: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Que horas são?"}]}


async def test_g5_a_gateway_that_slept_tells_the_truth_after_all(chain: Chain) -> None:
    """Stopped in the middle of a stream and of an answer in one piece, until both are booked as lost; woken up, it
    holds for both again, both answers reach their clients whole, and each is corrected once to what it truly was."""
    await chain.stack.gateway.stop()
    await chain.stack.gateway.start(SUNDIAL_HOLD_TTL_S=HOLD_TTL_S)
    secret = await chain.personal("ana", credit="100000")
    go_on = asyncio.Event()

    def script(request: Any) -> Play:
        if request.get("stream"):
            return Play(tokens=40, pause=lambda sent: asyncio.ensure_future(go_on.wait()) if sent == 10 else None)
        return Play(tokens=25, before_head=go_on)

    chain.upstream.script = script
    async with asyncio.TaskGroup() as tasks:
        whole = tasks.create_task(chain.post(secret, BODY))
        stream = tasks.create_task(chain.raw(secret, {**BODY, "stream": True}))
        await chain.upstream.arrived(2)
        await until(lambda: max(served.sent_tokens for served in chain.upstream.served) == 10)
        before = (await chain.stack.sundial("account", "show", "ana"))["held"]
        chain.stack.gateway.signal(signal.SIGSTOP)
        try:
            await chain.booked(2)
        finally:
            chain.stack.gateway.signal(signal.SIGCONT)

        async def held_again() -> bool:
            return bool((await chain.stack.sundial("account", "show", "ana"))["held"] == before > 0)

        await until(held_again)
        go_on.set()
    assert whole.result()[0] == 200
    assert stream.result().rstrip().endswith(b"data: [DONE]")

    connection: Any = await asyncpg.connect(chain.stack.database_url)
    try:

        async def corrected() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM sundial.event_corrections") == 2)

        await until(corrected)
        assert await connection.fetchval("SELECT count(*) FROM sundial.usage_events WHERE outcome = 'lost'") == 2
        rows = await connection.fetch("SELECT event_id, outcome, tokens_out, charge_mc FROM sundial.standing_events")
    finally:
        await connection.close()
    truths = {served.event_id: served for served in chain.upstream.served}
    assert {(row["event_id"], row["outcome"], row["tokens_out"]) for row in rows} == {
        (event_id, "complete", served.sent_tokens) for event_id, served in truths.items()
    }
    due_mc = sum(row["charge_mc"] for row in rows)
    assert due_mc == sum(INPUT_MC * served.prompt_tokens + OUTPUT_MC * served.sent_tokens for served in truths.values())
    shown = await chain.settled("ana")
    assert shown["spendable"] == CREDIT_MC - due_mc
    statement = await chain.stack.sundial("statement", "ana")
    assert statement["usage"] - statement["adjustments"] == due_mc
    assert {entry["corrects"] for entry in statement["entries"] if "corrects" in entry} == set(map(str, truths))
