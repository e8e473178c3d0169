"""G1, G2, G3, G9: gateways that are killed at any moment, and two gateways on one account."""

import asyncio
import re
from typing import Any, Final
from uuid import UUID

import aiohttp
import pytest

from deploy.ports import free_port
from tests.harness import strace
from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play
from tests.harness.stack import Program
from tests.harness.waiting import until

STREAM: Final[dict[str, Any]] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Conte até mil."}],
    "stream": True,
}
TOKENS: Final = 24
NOTED_TOKENS: Final = 1_000
"""300 kB of events: several notes, the last one not long ago."""
END: Final = b"data: [DONE]\n\n"
HOLD_TTL_S: Final = "5"
BOOKED_S_MAX: Final = 60.0
WRITES: Final = ("write", "writev", "sendto", "sendmsg")
"""What a process may write by, to files and sockets; which of them it does is its event loop's affair."""
WRITES_MAX: Final = 400
"""Writes of one kind after which the sweep must have seen a call pass unharmed."""
SWEEPS_MORE: Final = 3
"""Times that the sweep goes over its places again, for those that it has not hit."""
HIT: Final = {
    "hold": r"EVALSHA",
    "D": r'journal/.*".{9}D \{',
    "request": r"POST /v1/chat/completions",
    "head": r"HTTP/1\.1 200 OK",
    "S": r'journal/.*".{9}S \{',
    "last bytes": r"data: \[DONE\]|0\\r\\n\\r\\n",
}
"""Writes in the life of a call that the sweep must have hit, as strace shows them. Holding and settling look alike."""


def missed(hit: list[str]) -> list[str]:
    """Places in the life of a call that none of these writes was at."""
    found = [what for what, shown in HIT.items() if not any(re.search(shown, last) for last in hit)]
    return found if sum("EVALSHA" in last for last in hit) > 1 else [*found, "settling"]


async def received_until_cut(chain: Chain, secret: str) -> bytes:
    """What a client has of an answer when its connection ends, however it ends."""
    received = b""
    try:
        async with chain.session(secret) as session, session.post("/v1/chat/completions", json=STREAM) as answer:
            while data := await answer.content.readany():
                received += data
    except aiohttp.ClientError:
        pass
    return received


async def restarted(chain: Chain) -> None:
    """The gateway anew, its holds short-lived: one without a D line is only found by the reaper."""
    await chain.stack.gateway.start(SUNDIAL_HOLD_TTL_S=HOLD_TTL_S)


async def booked(chain: Chain) -> dict[UUID, Any]:
    """All events as they stand, once every request that the upstream saw is among them, and nothing is held."""
    found: dict[UUID, Any] = {}

    async def all_of_it() -> bool:
        await chain.settled("ana")
        found.update(await chain.standing())
        return {served.event_id for served in chain.upstream.served} <= found.keys()

    await until(all_of_it, BOOKED_S_MAX, "each request that the upstream saw is booked")
    return found


async def killed_at(chain: Chain, secret: str, call: str, nth: int) -> str:
    """One call whose gateway dies as it enters its nth `write` or the like, and a new start. The write that was not
    made; empty where it did not die.

    A request that the upstream saw is booked once, any other at nothing; a client with the last event finds its charge.
    """
    known = len(await booked(chain))
    seen = len(chain.upstream.served)
    gateway = chain.stack.gateway
    async with strace.killing(gateway.pid, call, nth) as trace:
        received = await received_until_cut(chain, secret)

        async def over() -> bool:
            return trace.fired or len(await chain.standing()) > known

        await until(over, BOOKED_S_MAX)  # what follows the client's last byte is to be hit too
    if trace.fired:
        gateway.kill()
        await restarted(chain)
    where = f"{call} {nth}: {trace.last}"
    served = {each.event_id for each in chain.upstream.served}
    for event_id, event in (await booked(chain)).items():
        if event_id not in served:
            assert (event["outcome"], event["charge_mc"]) == ("lost", 0), where
        elif event["outcome"] != "complete":
            assert (event["outcome"], event["evidence"]) in (("lost", "checkpoint"), ("lost", "none")), where
    if END in received:

        async def charged() -> bool:  # after all, where the hold expired before the gateway had come back
            event = (await chain.standing())[chain.upstream.served[seen].event_id]
            return (event["outcome"], event["tokens_out"]) == ("complete", TOKENS)

        await until(charged, BOOKED_S_MAX, f"{where}: who has the end of an answer is charged")
    return trace.last if trace.fired else ""


@strace.needed
async def test_g1_kill_before_send(chain: Chain) -> None:
    """kill -9 as the gateway connects to its upstream, the hold standing: the next start books the call as lost, at
    nothing, and the hold is gone."""
    secret = await chain.personal("ana", credit="100000")
    await chain.stack.gateway.stop()
    await chain.stack.gateway.start()  # without a kept connection
    async with strace.killing(chain.stack.gateway.pid, "connect", 1) as trace:
        assert await received_until_cut(chain, secret) == b""
    assert trace.fired
    assert chain.upstream.served == []
    assert (await chain.stack.sundial("account", "show", "ana"))["held"] > 0
    chain.stack.gateway.kill()
    await chain.stack.gateway.start()
    [entry] = await chain.usage_entries("ana", 1)
    assert (entry["outcome"], entry["amount"]) == ("lost", 0)
    assert (await chain.settled("ana"))["held"] == 0


async def killed_after(chain: Chain, secret: str, tokens: int) -> int:
    """One stream whose gateway dies when its client has so many pieces of text: cut, then booked once as lost, at no
    more than was sent. The tokens that were booked."""
    never = asyncio.Event()
    chain.upstream.script = lambda _: Play(
        tokens=tokens + 1, pause=lambda sent: asyncio.ensure_future(never.wait()) if sent == tokens else None
    )
    number = len(chain.upstream.served) + 1
    async with chain.session(secret) as session, session.post("/v1/chat/completions", json=STREAM) as answer:
        received = b""
        while received.count(b'"content":"') < tokens + 1:
            received += await answer.content.readany()
        chain.stack.gateway.kill()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    assert END not in received
    await chain.stack.gateway.start()
    entries = await chain.usage_entries("ana", number)
    entry = next(entry for entry in entries if entry["event_id"] == str(chain.upstream.served[-1].event_id))
    assert len(entries) == number
    assert entry["outcome"] == "lost"
    assert entry["tokens_out"] <= tokens
    assert (await chain.settled("ana"))["held"] == 0
    return int(entry["tokens_out"])


async def test_g2_kill_mid_stream(chain: Chain) -> None:
    """kill -9 after k pieces: the client sees a cut, and the restart books one lost call, at its last note."""
    secret = await chain.personal("ana", credit="100000")
    assert await killed_after(chain, secret, 0) == 0
    assert await killed_after(chain, secret, NOTED_TOKENS) > NOTED_TOKENS // 2


@pytest.mark.sweep
async def test_g2_kill_after_every_chunk(chain: Chain) -> None:
    """The same for each number of pieces."""
    secret = await chain.personal("ana", credit="1000000")
    for tokens in range(TOKENS):
        await killed_after(chain, secret, tokens)


async def closing_writes(chain: Chain, secret: str) -> tuple[int, int]:
    """One call unharmed: which of its writes was the S record, and which told Redis of it."""
    async with strace.counting(chain.stack.gateway.pid, "write") as trace:
        await received_until_cut(chain, secret)
        await booked(chain)
    recorded = next(nth for nth, call in enumerate(trace.calls, 1) if re.search(HIT["S"], call))
    told = next(nth for nth, call in enumerate(trace.calls, 1) if nth > recorded and "EVALSHA" in call)
    return recorded, told


@strace.needed
@pytest.mark.parametrize("place", [0, 1], ids=["record", "settling"])
async def test_g3_kill_at_some_writes(chain: Chain, place: int) -> None:
    """kill -9 as the S record is written, and as Redis is told of it: the books are exact, and a client that has the
    terminal event finds its charge (I7)."""
    secret = await chain.personal("ana", credit="100000")
    chain.upstream.script = lambda _: Play(tokens=TOKENS, tokens_per_event=6)
    await chain.stack.gateway.stop()
    await restarted(chain)
    for _ in range(SWEEPS_MORE + 1):  # what the gateway writes by the clock, and by pieces that come together, moves it
        nth = (await closing_writes(chain, secret))[place]
        seen = len(chain.upstream.served)
        hit = await killed_at(chain, secret, "write", nth)
        answered = len(chain.upstream.served) > seen  # holding looks like settling, but comes before
        if re.search((HIT["S"], "EVALSHA")[place], hit) and answered:
            return
    raise AssertionError(f"never hit; the last one was {hit!r}")


@strace.needed
@pytest.mark.sweep
async def test_g3_kill_at_every_write(chain: Chain) -> None:
    """The same at each write in turn, of every kind, until a call passes unharmed: from its hold to its settling."""
    secret = await chain.personal("ana", credit="10000000")
    chain.upstream.script = lambda _: Play(tokens=TOKENS, tokens_per_event=6)
    await chain.stack.gateway.stop()
    await restarted(chain)
    hit: list[str] = []
    for call in WRITES:
        for nth in range(1, WRITES_MAX):
            last = await killed_at(chain, secret, call, nth)
            if not last:
                break
            hit.append(last)
        else:
            raise AssertionError(f"{WRITES_MAX} times {call} and no end")
    for nth in [*range(1, len(hit) + 1)] * SWEEPS_MORE:  # what the gateway writes by the clock moves the places
        if not missed(hit):
            break
        hit.append(await killed_at(chain, secret, "write", nth))
    assert not missed(hit)


async def second_gateway(chain: Chain) -> tuple[Program, str]:
    """One more gateway on the same home, started, and its base URL."""
    port, metrics = free_port(), free_port()
    environment = {
        **chain.stack.environment,
        "SUNDIAL_GATEWAY_PORT": str(port),
        "SUNDIAL_GATEWAY_METRICS_PORT": str(metrics),
    }
    second = Program("gateway", environment, metrics, chain.stack.gateway._log.with_name("second.log"))
    await second.start()
    return second, f"http://127.0.0.1:{port}/v1"


async def test_g2_a_sibling_takes_over(chain: Chain) -> None:
    """A gateway is killed in mid-stream and not started again: the one that runs beside it on the same disk books the
    call at its last note, long before its hold expires."""
    secret = await chain.personal("ana", credit="1000000")
    second, base_url = await second_gateway(chain)
    never = asyncio.Event()
    chain.upstream.script = lambda _: Play(
        tokens=TOKENS, pause=lambda sent: asyncio.ensure_future(never.wait()) if sent == 10 else None
    )
    headers = {"Authorization": f"Bearer {secret}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{base_url}/chat/completions", json=STREAM) as answer,
    ):
        await answer.content.readany()
        second.kill()
        [entry] = await chain.usage_entries("ana", 1)
    never.set()
    assert entry["event_id"] == str(chain.upstream.served[0].event_id)
    assert entry["outcome"] == "lost"
    assert chain.stack.gateway.alive
    assert '"journal_taken_over"' in chain.stack.gateway.output


async def test_g9_two_gateways_one_account(chain: Chain) -> None:
    """500 parallel calls through two gateways, with credit for three: at most three reach the upstream, and the balance
    does not fall below nothing."""
    secret = await chain.personal("ana", credit="100000")
    body = {**STREAM, "stream": False, "max_tokens": 12}
    price = await chain.cost_of(secret, body)
    await chain.set_balance("ana", 4 * price - 1)
    second, base_url = await second_gateway(chain)
    served = len(chain.upstream.served)
    go_on = asyncio.Event()
    chain.upstream.script = lambda _: Play(before_head=go_on)
    try:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=60)
        headers = {"Authorization": f"Bearer {secret}"}
        async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
            bases = (chain.stack.base_url, base_url)

            async def call(number: int) -> int:
                async with session.post(f"{bases[number % 2]}/chat/completions", json=body) as answer:
                    await answer.read()
                    return answer.status

            calls = [asyncio.create_task(call(number)) for number in range(500)]
            while sum(done.done() for done in calls) < 497:
                await asyncio.wait([done for done in calls if not done.done()], return_when=asyncio.FIRST_COMPLETED)
            go_on.set()
            statuses = await asyncio.gather(*calls)
    finally:
        go_on.set()
        assert await second.stop() == 0
    admitted = len(chain.upstream.served) - served
    assert 1 <= admitted <= 3
    assert (statuses.count(200), statuses.count(402)) == (admitted, 500 - admitted)
    assert (await chain.settled("ana"))["balance"] >= 0
