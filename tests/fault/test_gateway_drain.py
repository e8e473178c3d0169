"""G4: a gateway that is told to stop. What runs is let finish, what does not is cut and booked, nothing is lost."""

import asyncio
import contextlib
import json
import signal
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from deploy.ports import free_port
from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play
from tests.harness.proxy import Proxy
from tests.harness.waiting import until

STREAM: Final[dict[str, Any]] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Conte até mil."}],
    "stream": True,
}
WHOLE: Final = {**STREAM, "stream": False}
STREAMS: Final = 50


async def begun(answer: aiohttp.ClientResponse, tokens: int) -> bytes:
    """The bytes of a stream up to its nth piece of text."""
    received = b""
    while received.count(b'"content":"') < tokens + 1:
        received += await answer.content.readany()
    return received


async def restarted(chain: Chain, **settings: str) -> None:
    """The gateway anew, with other settings."""
    await chain.stack.gateway.stop()
    await chain.stack.gateway.start(**settings)


async def test_g4_streams_finish_or_are_cut(chain: Chain) -> None:
    """SIGTERM with 50 streams: not ready at once; half of them end whole, the rest is cut after drain_s, never with a
    clean end; what came is booked as `drained`; exit code 0."""
    await restarted(chain, SUNDIAL_DRAIN_S="4")
    secret = await chain.personal("ana", credit="1000000")
    more, never, calls = asyncio.Event(), asyncio.Event(), iter(range(STREAMS))

    def script(_: dict[str, Any]) -> Play:
        gate = more if next(calls) % 2 else never
        return Play(tokens=30, pause=lambda sent: asyncio.ensure_future(gate.wait()) if sent == 20 else None)

    chain.upstream.script = script
    ends: list[bool] = []

    async def call(session: aiohttp.ClientSession, reached: asyncio.Semaphore) -> None:
        async with session.post("/v1/chat/completions", json=STREAM) as answer:
            received = await begun(answer, 20)
            reached.release()
            try:
                received += await answer.read()
            except aiohttp.ClientPayloadError:
                ends.append(False)
                assert b"[DONE]" not in received
            else:
                ends.append(True)
                assert received.endswith(b"data: [DONE]\n\n")

    async with chain.session(secret) as session:
        reached = asyncio.Semaphore(0)
        running = [asyncio.create_task(call(session, reached)) for _ in range(STREAMS)]
        for _ in range(STREAMS):
            await asyncio.wait_for(reached.acquire(), 30)
        chain.stack.gateway.signal(signal.SIGTERM)
        await chain.stack.gateway.until_ready(ready=False)
        more.set()
        await asyncio.gather(*running)
    assert await chain.stack.gateway.ended() == 0
    assert sorted(ends) == [False] * (STREAMS // 2) + [True] * (STREAMS // 2)
    entries = await chain.usage_entries("ana", STREAMS)
    assert len(entries) == STREAMS
    booked = {entry["event_id"]: entry for entry in entries}
    for served in chain.upstream.served:
        entry = booked[str(served.event_id)]
        assert entry["outcome"] == ("complete" if served.ended == "complete" else "drained")
        assert entry["tokens_out"] == served.sent_tokens
    assert sum(entry["outcome"] == "drained" for entry in entries) == STREAMS // 2
    await chain.stack.gateway.start()


def told_again(chain: Chain) -> bool:
    """SIGTERM once more; whether it has ended. Signals that come at once are one."""
    chain.stack.gateway.signal(signal.SIGTERM)
    return not chain.stack.gateway.alive


async def test_g4_grace_then_a_second_signal(chain: Chain) -> None:
    """While the grace lasts calls are served, each answer ending its connection; a second SIGTERM cuts at once, a call
    that is not streamed too, which is booked though nothing of it came."""
    await restarted(chain, SUNDIAL_DRAIN_GRACE_S="300", SUNDIAL_DRAIN_S="3600")
    secret = await chain.personal("ana", credit="1000000")
    async with chain.session(secret) as session:
        async with session.post("/v1/chat/completions", json=WHOLE) as answer:
            assert "close" not in answer.headers.get("connection", "").lower()
        chain.stack.gateway.signal(signal.SIGTERM)
        await chain.stack.gateway.until_ready(ready=False)
        for body, status in ((WHOLE, 200), (STREAM, 200), ({}, 400)):
            async with session.post("/v1/chat/completions", json=body) as answer:
                await answer.read()
                assert (answer.status, answer.headers["connection"].lower()) == (status, "close")
        never = asyncio.Event()
        chain.upstream.script = lambda _: Play(before_head=never)
        waiting = asyncio.ensure_future(session.post("/v1/chat/completions", json=WHOLE))
        await chain.upstream.arrived(4)
        await until(lambda: told_again(chain))
        assert await chain.stack.gateway.ended() == 0
        with contextlib.suppress(aiohttp.ClientError):
            assert (await waiting).status >= 500
    entries = await chain.usage_entries("ana", 4)
    assert sorted(entry["outcome"] for entry in entries) == ["complete"] * 3 + ["drained"]
    assert len(chain.upstream.served) == 4
    await chain.stack.gateway.start()


async def test_g4_redis_away_meanwhile(chain: Chain) -> None:
    """A drain while Redis is away: the stream ends whole, exit code 0, and the next start settles it."""
    more = asyncio.Event()
    chain.upstream.script = lambda _: Play(pause=lambda sent: asyncio.ensure_future(more.wait()) if sent == 5 else None)
    secret = await chain.personal("ana", credit="1000000")
    redis = urlsplit(chain.stack.redis_url)
    assert redis.port is not None
    async with Proxy(redis.port).listening() as proxy:
        there = chain.stack.redis_url.replace(str(redis.port), str(proxy.port))
        await restarted(chain, SUNDIAL_DRAIN_S="5", SUNDIAL_REDIS_URL=there)
        async with chain.session(secret) as session, session.post("/v1/chat/completions", json=STREAM) as answer:
            received = await begun(answer, 5)
            proxy.target_port = free_port()
            proxy.cut()
            chain.stack.gateway.signal(signal.SIGTERM)
            more.set()
            received += await answer.read()
            assert received.endswith(b"data: [DONE]\n\n")
            assert await chain.stack.gateway.ended() == 0
    stopped = next(line for line in reversed(chain.stack.gateway.output.splitlines()) if "gateway_stopped" in line)
    assert json.loads(stopped)["unsettled"] == 1
    await chain.stack.gateway.start()
    [entry] = await chain.usage_entries("ana", 1)
    assert (entry["outcome"], entry["evidence"]) == ("complete", "provider")
