"""Clients that leave, programs that are killed: the books stay exact."""

import asyncio
import random
import signal
import time
from typing import Any

import aiohttp
import pytest

from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play

MESSAGES: Any = [{"role": "user", "content": "Conte até mil."}]
STREAM: Any = {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True}


async def test_a_client_that_leaves_is_charged_for_what_came(chain: Chain) -> None:
    """Stop in mid-stream: the upstream sees it within a second, and what was produced is charged, recounted."""
    secret = await chain.personal("ana", credit="100000")
    more = asyncio.Event()
    chain.upstream.script = lambda _: Play(
        tokens=500, pause=lambda sent: asyncio.ensure_future(more.wait()) if sent == 40 else None
    )
    async with chain.session(secret) as session, session.post("/v1/chat/completions", json=STREAM) as answer:
        received = b""
        while received.count(b'"content":"') < 41:
            received += await answer.content.readany()
        answer.close()
    left = time.monotonic()
    [served] = chain.upstream.served
    await asyncio.wait_for(served.closed.wait(), 1.0)
    assert time.monotonic() - left < 1.0
    assert served.ended == "gone"
    [entry] = await chain.usage_entries("ana", 1)
    assert entry["outcome"] == "client_gone"
    assert entry["evidence"] == "recounted"
    assert (entry["tokens_in"], entry["tokens_out"]) == (served.prompt_tokens, 40)
    assert (await chain.settled("ana"))["held"] == 0


async def test_a_client_that_leaves_before_the_answer(chain: Chain) -> None:
    """Gone before the upstream answered: booked at nothing, so that it can be compared with the bill."""
    secret = await chain.personal("ana", credit="100000")
    never = asyncio.Event()
    chain.upstream.script = lambda _: Play(before_head=never)
    async with chain.session(secret) as session:
        call = asyncio.ensure_future(session.post("/v1/chat/completions", json=STREAM))
        await chain.upstream.arrived(1)
        call.cancel()
    await asyncio.wait_for(chain.upstream.served[0].closed.wait(), 1.0)
    [entry] = await chain.usage_entries("ana", 1)
    assert (entry["outcome"], entry["evidence"], entry["amount"]) == ("client_gone", "none", 0)
    assert (await chain.settled("ana"))["held"] == 0


@pytest.mark.parametrize("when", ["before the head", "in the body"])
async def test_a_whole_answer_outlives_its_client(chain: Chain, when: str) -> None:
    """An answer that is not streamed is generated to its end, whoever leaves: it is read, and booked as reported."""
    secret = await chain.personal("ana", credit="100000")
    go_on = asyncio.Event()
    chain.upstream.script = lambda _: Play(tokens=40, before_head=go_on)
    async with chain.session(secret) as session:
        call = asyncio.ensure_future(session.post("/v1/chat/completions", json={**STREAM, "stream": False}))
        await chain.upstream.arrived(1)
        if when == "before the head":
            call.cancel()
            await asyncio.wait((call,))
        else:
            go_on.set()
            (await call).close()
    go_on.set()
    [served] = chain.upstream.served
    [entry] = await chain.usage_entries("ana", 1)
    assert served.ended == "complete"
    assert entry["evidence"] == "provider"
    if when == "before the head":
        assert entry["outcome"] == "client_gone"
    assert (entry["tokens_in"], entry["tokens_out"]) == (served.prompt_tokens, 40)
    assert (await chain.settled("ana"))["held"] == 0


@pytest.mark.parametrize("seed", range(3))
async def test_meter_killed_at_any_moment(chain: Chain, seed: int) -> None:
    """kill -9 of the meter under load, again and again: the audit is clean and every event is booked once."""
    chance = random.Random(seed)
    secret = await chain.personal("ana", credit="1000000")
    chain.upstream.script = lambda _: Play(tokens=chance.randrange(1, 30))
    calls = 120
    async with chain.session(secret) as session:

        async def call() -> None:
            body = {**STREAM, "stream": chance.random() < 0.5}
            async with session.post("/v1/chat/completions", json=body) as answer:
                await answer.read()

        for _ in range(4):
            burst = [asyncio.ensure_future(call()) for _ in range(calls // 4)]
            done = chance.randrange(calls // 4)
            for finished, _ in enumerate(asyncio.as_completed(burst)):
                await _
                if finished == done:
                    chain.stack.meter.kill()
            await chain.stack.meter.start()
    await chain.booked(calls)
    entries = await chain.usage_entries("ana", calls)
    assert {entry["event_id"] for entry in entries} == {str(served.event_id) for served in chain.upstream.served}
    assert len(entries) == calls
    assert sum(entry["tokens_out"] for entry in entries) == sum(served.sent_tokens for served in chain.upstream.served)


async def test_gateway_killed_in_mid_stream(chain: Chain) -> None:
    """kill -9 of the gateway: its client sees a cut, and the next start books the call as lost, at its last note."""
    secret = await chain.personal("ana", credit="100000")
    never = asyncio.Event()
    chain.upstream.script = lambda _: Play(
        tokens=400, pause=lambda sent: asyncio.ensure_future(never.wait()) if sent == 300 else None
    )
    async with chain.session(secret) as session, session.post("/v1/chat/completions", json=STREAM) as answer:
        received = b""
        while received.count(b'"content":"') < 301:
            received += await answer.content.readany()
        chain.stack.gateway.kill()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    await chain.stack.gateway.start()
    [entry] = await chain.usage_entries("ana", 1)
    assert (entry["outcome"], entry["evidence"]) == ("lost", "checkpoint")
    assert 0 < entry["tokens_out"] <= 2 * 300
    assert (await chain.settled("ana"))["held"] == 0


async def test_second_start_finds_the_balances(chain: Chain) -> None:
    """All programs stopped and started again: balances, keys and prices are there."""
    secret = await chain.personal("ana", credit="100000")
    await chain.raw(secret, STREAM)
    before = await chain.settled("ana")
    assert await chain.stack.gateway.stop() == 0
    assert await chain.stack.meter.stop() == 0
    await chain.stack.start()
    assert await chain.settled("ana") == before
    await chain.raw(secret, STREAM)
    assert (await chain.settled("ana"))["balance"] < before["balance"]


async def test_sigterm_lets_streams_finish(chain: Chain) -> None:
    """SIGTERM: not ready at once, the running stream ends whole and is booked, exit code 0."""
    secret = await chain.personal("ana", credit="100000")
    more = asyncio.Event()
    chain.upstream.script = lambda _: Play(pause=lambda sent: asyncio.ensure_future(more.wait()) if sent == 5 else None)
    async with chain.session(secret) as session, session.post("/v1/chat/completions", json=STREAM) as answer:
        chain.stack.gateway.signal(signal.SIGTERM)
        await chain.stack.gateway.until_ready(ready=False)
        more.set()
        received = await answer.read()
    assert received.endswith(b"data: [DONE]\n\n")
    assert await chain.stack.gateway.ended() == 0
    [entry] = await chain.usage_entries("ana", 1)
    assert entry["outcome"] == "complete"
    await chain.stack.gateway.start()
