"""How a stream ends where the upstream's next bytes bring more than one reason at once, in an order that is forced."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.budget import Hold
from gateway.relay import LOOK_BYTES, Relay
from gateway.reply import opening
from gateway.sse import SseTap
from gateway.streaming import Streaming
from gateway.upstream import Upstream
from shared.settings import GatewaySettings, load
from tests.harness.calls import BOUNDS, call, draft
from tests.harness.scripted_server import Peer, ScriptedServer
from tests.harness.waiting import until

pytestmark = pytest.mark.integration

HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END: Final = b"0\r\n\r\n"
DONE: Final = b"data: [DONE]\n\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str = " sol", **more: Any) -> bytes:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return b"data: " + json.dumps({"model": "gpt-mini", "choices": choices} | more).encode() + b"\n\n"


async def ends(play: Callable[[Peer, Relay], Awaitable[None]], *, exhausted: bool = False) -> tuple[str, bytes, SseTap]:
    """The outcome of a stream that `play` gives after its head; what the client got by then, and who watched."""
    opened_relay: asyncio.Future[Relay] = asyncio.get_running_loop().create_future()
    outcome, tap = "", SseTap("chat", strip_usage=False)

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(HEAD)
        await play(peer, await opened_relay)

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal outcome
        async with upstream.send("POST", "/chat/completions", b"", b"{}") as answer:
            opened = opening(request, answer.head, "call", keep_alive=True, grows=True)
            relay = Relay(request, answer, tap, opened, 60.0)
            settings = load(GatewaySettings, redis_url="redis://127.0.0.1", upstream_url=server.url)
            of = call()
            hold = Hold(of, BOUNDS, 100, "enforce", draft(of), b"")
            hold.exhausted = exhausted
            running = Streaming(SimpleNamespace(settings=settings), hold, answer, tap, relay)  # type: ignore[arg-type]
            answer.listen(relay)
            opened_relay.set_result(relay)
            outcome = await running._until_end()
            await relay.end()
            return opened.reply

    server = ScriptedServer(serve)
    app = web.Application()
    app.router.add_post("/", handle)
    async with server.listening():
        upstream = Upstream(server.url, "", 10.0)
        async with TestServer(app) as front, aiohttp.ClientSession() as client, client.post(front.make_url("/")) as got:
            body = await asyncio.wait_for(got.content.read(), 30)
        await upstream.close()
    return outcome, body, tap


@pytest.mark.parametrize("end", [END, b"garbage\r\n"], ids=["the upstream ends", "the upstream breaks"])
async def test_credit_that_ended_first_is_the_reason(end: bytes) -> None:
    """The credit is used up within an event. What ends that event ends the upstream's answer too, well or badly, in one
    segment: the client has whole events alone, and the reason is the credit."""
    large = event("sol " * LOOK_BYTES)

    async def play(peer: Peer, relay: Relay) -> None:
        await peer.say(framed(large[:-100]))
        await until(lambda: relay.to_end)
        await peer.say(framed(large[-100:] + event("never seen")) + end)

    outcome, body, _ = await ends(play, exhausted=True)
    assert outcome == "exhausted"
    assert body == large


async def test_a_usage_that_comes_after_the_end_is_waited_for() -> None:
    """Some providers send it in a segment of its own, behind `[DONE]`."""
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}

    async def play(peer: Peer, relay: Relay) -> None:
        await peer.say(framed(event() + DONE))
        await until(lambda: relay._tap.done)
        await peer.say(framed(event("", usage=usage, choices=[])) + END)

    outcome, body, tap = await ends(play)
    assert outcome == "complete"
    assert tap.usage_raw == usage
    assert body == event()
