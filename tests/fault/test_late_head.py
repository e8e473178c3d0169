"""Row U12: an upstream that is long in sending its head. The client of a stream gets ours meanwhile, and comments."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import openai
import pytest

from tests.harness.fake_upstream import FakeUpstream
from tests.harness.scripted_chain import (
    ASK,
    DONE,
    END,
    SSE,
    STOP,
    STREAM,
    Scripted,
    chunked,
    event,
    scripted_chain,
    text_event,
    usage_of,
    with_length,
)
from tests.harness.scripted_server import Peer
from tests.harness.servers import Database
from tests.harness.waiting import until

KEEPALIVE: Final = b": keep-alive\n\n"
ANSWER: Final = text_event("Bom dia") + STOP + event([], usage_of(10, 2)) + DONE


@pytest.fixture
async def thinking(
    tmp_path: Path, database: Database, redis_url: str, upstream: FakeUpstream
) -> AsyncIterator[Scripted]:
    """A chain whose clients are comforted soon."""
    limits = {"SUNDIAL_KEEPALIVE_S": "0.05", "SUNDIAL_FIRST_BYTE_TIMEOUT_S": "30"}
    async with scripted_chain(tmp_path / "home", database, redis_url, upstream, **limits) as chain:
        yield chain


class Late:
    """An upstream that says nothing until it is let go, and then `answer`; or breaks off, where that is empty."""

    def __init__(self, scripted: Scripted, answer: bytes) -> None:
        self._answer = answer
        self.go = asyncio.Event()
        scripted.plays(self._play)

    async def _play(self, peer: Peer) -> None:
        await self.go.wait()
        if not self._answer:
            await peer.reset()
        await peer.say(self._answer)


async def comforted(
    scripted: Scripted, late: Late, body: Any, path: str = "/chat/completions"
) -> tuple[aiohttp.ClientResponse, bytes]:
    """The answer, and all of it; the upstream is let go at the second comment."""
    received = b""
    async with scripted.chain.session(scripted.secret) as session, session.post(f"/v1{path}", json=body) as answer:
        assert not late.go.is_set()
        async for data in answer.content.iter_any():
            received += data
            if received.count(KEEPALIVE) >= 2:
                late.go.set()
    return answer, received


async def test_u12_a_stream_begins_before_its_upstream_does(thinking: Scripted) -> None:
    """Once, with comments until the first event; then the upstream's bytes, and the call is booked as any other."""
    late = Late(thinking, SSE + chunked(ANSWER) + END)
    answer, received = await comforted(thinking, late, STREAM)
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    comments = received.count(KEEPALIVE)
    assert received.startswith(KEEPALIVE * comments + text_event("Bom dia"))
    assert received.endswith(STOP + DONE)
    assert len(thinking.asked) == 1
    [booked] = await thinking.events(1)
    assert (str(booked["event_id"]), booked["outcome"], booked["evidence"]) == (
        answer.headers["x-sundial-call-id"],
        "complete",
        "provider",
    )


async def test_u12_what_fails_behind_it_is_told_by_an_event(thinking: Scripted) -> None:
    """An error of the upstream's with its own words, a refusal of ours with our sentence; nothing is booked, and a call
    that was given up at nothing."""
    slow = {"error": {"message": "devagar", "type": "rate_limit_error", "code": "rate_limit"}}
    for answer, message, code in (
        (with_length(json.dumps(slow).encode(), status=429), "devagar", "rate_limit"),
        (with_length(b"<h1>oops</h1>", "text/html", status=500), "the model provider answered 500", "500"),
        (b"", "O provedor do modelo não pôde ser alcançado. Nada foi cobrado.", "upstream_unavailable"),
    ):
        got, received = await comforted(thinking, Late(thinking, answer), STREAM)
        assert got.status == 200
        error = json.loads(received.rpartition(b"data: ")[2])["error"]
        assert (error["message"], error["code"]) == (message, code)
    await thinking.nothing_booked()
    await comforted(thinking, Late(thinking, with_length(b"{}", status=504)), STREAM)
    [booked] = await thinking.events(1)
    assert (booked["charge_mc"], booked["evidence"], booked["outcome"]) == (0, "none", "timeout")
    await thinking.works()


async def test_u12_clients_read_it(thinking: Scripted) -> None:
    """OpenAI's raises what stands there; for Anthropic's the event has a name, and its own shape."""
    slow = with_length(b'{"type":"error","error":{"type":"overloaded_error","message":"devagar"}}', status=529)
    late = Late(thinking, slow)
    client = thinking.chain.client(thinking.secret)
    stream = await client.chat.completions.create(**STREAM)
    late.go.set()
    with pytest.raises(openai.APIError, match="devagar"):
        [chunk async for chunk in stream]
    said: Any = {"model": "gpt-4o-mini", "max_tokens": 9, "messages": ASK["messages"], "stream": True}
    _, received = await comforted(thinking, Late(thinking, slow), said, "/messages")
    kind, _, data = received.strip().rpartition(b"\n")
    assert kind.endswith(b"\nevent: error")
    told = json.loads(data.removeprefix(b"data: "))
    assert (told["type"], told["error"]["type"], told["error"]["message"]) == ("error", "overloaded_error", "devagar")
    await thinking.nothing_booked()


async def test_u12_a_whole_answer_waits_for_its_status(thinking: Scripted) -> None:
    """It gets nothing before it, while a stream beside it has long begun."""
    late = Late(thinking, with_length(b'{"error":{"message":"devagar"}}', status=429))
    call = asyncio.create_task(thinking.call(ASK))

    async def asked() -> bool:
        return len(thinking.asked) == 1

    await until(asked)
    streams = Late(thinking, SSE + chunked(ANSWER) + END)
    await comforted(thinking, streams, STREAM)
    assert not call.done()
    late.go.set()
    got = await call
    assert (got.status, got.clean) == (429, True)
    await thinking.events(1)


async def test_u12_a_client_that_leaves_meanwhile_stops_the_upstream(thinking: Scripted) -> None:
    """The call is booked at nothing, to be compared with the bill."""
    stopped = asyncio.Event()

    async def waits(peer: Peer) -> None:
        await peer.gone()
        stopped.set()

    thinking.plays(waits)
    async with (
        thinking.chain.session(thinking.secret) as session,
        session.post("/v1/chat/completions", json=STREAM) as answer,
    ):
        assert await answer.content.readexactly(len(KEEPALIVE)) == KEEPALIVE
        answer.close()
    await stopped.wait()
    [booked] = await thinking.events(1)
    assert (booked["charge_mc"], booked["evidence"], booked["outcome"]) == (0, "none", "client_gone")
