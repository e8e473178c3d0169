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

from gateway.backlog import READ_BYTES_MAX
from gateway.budget import Hold
from gateway.relay import LOOK_BYTES, Relay
from gateway.reply import opening
from gateway.sse import SseTap
from gateway.streaming import EVENT_END, Streaming
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


async def ends(
    play: Callable[[Peer, Relay], Awaitable[None]],
    *,
    exhausted: bool = False,
    piece_bytes: int = READ_BYTES_MAX,
    strip_usage: bool = False,
    version: aiohttp.HttpVersion = aiohttp.HttpVersion11,
) -> tuple[str, bytes, SseTap]:
    """The outcome of a stream that `play` gives after its head; what the client got by then, and who watched."""
    opened_relay: asyncio.Future[Relay] = asyncio.get_running_loop().create_future()
    outcome, tap = "", SseTap("chat", strip_usage)

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(HEAD)
        await play(peer, await opened_relay)

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal outcome
        async with upstream.send("POST", "/chat/completions", b"", b"{}") as answer:
            opened = opening(request, answer.head, "call", keep_alive=True, grows=True)
            relay = Relay(request, answer, tap, opened, 60.0, may_take=strip_usage)
            settings = load(GatewaySettings, redis_url="redis://127.0.0.1", upstream_url=server.url)
            of = call()
            hold = Hold(of, BOUNDS, 100, "enforce", draft(of), b"")
            hold.exhausted = exhausted
            running = Streaming(SimpleNamespace(settings=settings), hold, answer, tap, relay)  # type: ignore[arg-type]
            answer.listen(relay, piece_bytes, EVENT_END)
            opened_relay.set_result(relay)
            outcome = await running._until_end()
            await relay.end()
            return opened.reply

    server = ScriptedServer(serve)
    app = web.Application()
    app.router.add_post("/", handle)
    async with server.listening():
        upstream = Upstream(server.url, "", 10.0)
        async with (
            TestServer(app) as front,
            aiohttp.ClientSession(version=version) as client,
            client.post(front.make_url("/")) as got,
        ):
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


async def test_events_of_one_segment_leave_in_one_write() -> None:
    """An upstream that is faster than this process gives several chunks at once: they are seen in pieces that end where
    an event does, and all of them are sent at once."""
    events = [event(f"sol {number} ") for number in range(40)]
    written: list[bytes] = []

    async def play(peer: Peer, relay: Relay) -> None:
        await peer.say(framed(events[0]))
        await until(lambda: relay._passes is not None)
        client: Any = relay._client
        write = client.write

        def spied(data: bytes) -> None:
            written.append(data)
            write(data)

        client.write = spied
        await peer.say(b"".join(map(framed, events[1:])) + framed(DONE) + END)

    outcome, body, tap = await ends(play, piece_bytes=1_024)
    assert outcome == "complete"
    assert body == b"".join(events)
    assert tap.events == len(events) + 1
    sent = [data for data in written if b"sol " in data]
    assert len(sent) == 1, "one write for what came at once"
    pieces = [piece for piece in sent[0].split(b"\r\n") if piece.startswith(b"data: ")]
    assert b"".join(pieces) == b"".join(events[1:])
    assert len(pieces) > 1
    assert all(len(piece) <= 1_024 and piece.endswith(b"\n\n") for piece in pieces)


@pytest.mark.parametrize("end", ["forward_no_more", "end_soon"])
async def test_nothing_usual_passes_after_the_end_that_we_set(end: str) -> None:
    """However alike it is to all that has passed before."""

    async def play(peer: Peer, relay: Relay) -> None:
        await peer.say(framed(event("one")))
        await until(lambda: relay._passes is not None)
        await peer.say(framed(event("two")))
        await until(lambda: relay._tap.events == 2)
        getattr(relay, end)()
        await peer.say(framed(event("never seen")))
        await until(lambda: relay.bytes_ignored > 0)
        await peer.say(END)

    outcome, body, _ = await ends(play)
    assert outcome == "exhausted"
    assert body == event("one") + event("two")


async def test_the_witness_sees_what_passes_while_something_waits() -> None:
    """A usage event was taken out: which of the bytes were, shows when the next ones leave."""
    usage = event("", usage={"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}, choices=[])

    async def play(peer: Peer, relay: Relay) -> None:
        await peer.say(framed(event("one")))
        await peer.say(framed(usage))
        await until(lambda: not relay.witness.idle)
        await peer.say(framed(event("two")))
        await until(lambda: relay.witness.idle)
        assert relay.witness.same
        assert relay.witness.stayed_bytes == len(usage)
        await peer.say(framed(DONE) + END)

    outcome, body, _ = await ends(play, strip_usage=True)
    assert outcome == "complete"
    assert body == event("one") + event("two")


async def test_a_client_of_http_1_0_gets_no_framing() -> None:
    """Usual events reach it as the bytes that they are, and the close is their end."""
    events = [event(f"sol {number} ") for number in range(5)]

    async def play(peer: Peer, relay: Relay) -> None:
        for number, data in enumerate(events):
            await peer.say(framed(data))
            await until(lambda number=number: relay._tap.events == number + 1)
        await peer.say(framed(DONE) + END)

    outcome, body, _ = await ends(play, version=aiohttp.HttpVersion10)
    assert outcome == "complete"
    assert body == b"".join(events)
