"""What a call and a chunk may cost, as counts that cannot drift unnoticed: no timing stands here (docs/performance.md).

The fourth count, statements per batch in Postgres, is in test_ledger_posting.py.
"""

import asyncio
import gc
import re
import sys
import time
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.relay import LOOK_BYTES, Relay
from gateway.reply import opening
from gateway.retelling import LOOK_S
from gateway.sse import SseTap
from gateway.upstream import Upstream
from shared import ids
from tests.harness.chain import Chain
from tests.harness.chain_fixtures import chain, upstream

__all__ = ["chain", "upstream"]

pytestmark = pytest.mark.integration

CHUNKS: Final = 40
CALLS: Final = 40
ROUND_TRIPS_PER_CALL: Final = 2
BLOCKS_PER_CHUNK_MAX: Final = 0.5


def chunk(number: int) -> bytes:
    event = (
        '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1764000000,"model":"gpt-4o-mini","choices":'
        '[{"index":0,"delta":{"content":" sol %d"},"finish_reason":null}]}'
    )
    return b"data: " + (event % number).encode() + b"\n\n"


class Scripted:
    """An upstream that sends its next chunk when it is told to."""

    def __init__(self) -> None:
        self.orders: asyncio.Queue[bytes] = asyncio.Queue()
        self.url = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        while data := await self.orders.get():
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()


async def test_no_coroutine_wakes_for_a_chunk() -> None:
    """Chunks that need no look go from socket to socket within the transport's callback: the call sleeps on, and the
    loop schedules nothing for it."""
    assert CHUNKS * len(chunk(0)) < LOOK_BYTES
    scripted = Scripted()
    await scripted.start()
    upstream = Upstream(scripted.url, "", 10.0)
    wakes = [0]

    async def handle(request: web.Request) -> web.StreamResponse:
        async with upstream.send("POST", "/chat/completions", b"", b"{}") as answer:
            opened = opening(request, answer.head, "call", keep_alive=True, grows=True)
            relay = Relay(request, answer, SseTap("chat", strip_usage=False), opened, 60.0)
            answer.listen(relay)
            while not relay.complete:
                await relay.wait(60.0)
                wakes[0] += 1
            await relay.end()
            return opened.reply

    app = web.Application()
    app.router.add_post("/", handle)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as client,
        client.post(server.make_url("/")) as answer,
    ):
        got = b""
        for number in range(CHUNKS):
            scripted.orders.put_nowait(chunk(number))
            while got.count(b"\n\n") <= number:
                got += await answer.content.readany()
        woken = wakes[0]
        scripted.orders.put_nowait(b"data: [DONE]\n\n")
        scripted.orders.put_nowait(b"")
        await asyncio.wait_for(answer.content.read(), 30)
    await upstream.close()
    await scripted.stop()
    assert got == b"".join(map(chunk, range(CHUNKS)))
    assert woken == 0


def test_a_chunk_leaves_nothing_behind() -> None:
    """What a chunk allocates is gone when the call has looked: memory does not grow with the length of a stream."""
    tap = SseTap("chat", strip_usage=True)
    chunks = [chunk(number) for number in range(2_000)]
    for data in chunks[:1_000]:  # what is cached and learnt, is by now
        tap.feed(data)
    tap.take_raw()
    gc.collect()
    before = sys.getallocatedblocks()
    for at, data in enumerate(chunks[1_000:]):
        assert tap.feed(data) is data, "a usual chunk is handed on as it is, not copied"
        if at % 50 == 49:
            tap.take_raw()
    gc.collect()
    assert (sys.getallocatedblocks() - before) / 1_000 < BLOCKS_PER_CHUNK_MAX


async def test_a_call_takes_two_round_trips_to_redis(chain: Chain) -> None:
    """One to hold, one to settle; streamed or not, however many users there are."""
    secret = await chain.personal("ana", credit="1000000")
    body: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Oi"}]}
    for stream in (False, True):
        await chain.raw(secret, {**body, "stream": stream})
    await chain.settled("ana")
    before, began_s = await _commands(chain), time.monotonic()
    await asyncio.gather(*(chain.raw(secret, {**body, "stream": at % 2 == 1}) for at in range(CALLS)))
    await chain.settled("ana")
    spent = await _commands(chain) - before
    looks = (time.monotonic() - began_s) / LOOK_S + 1  # at the epochs, whoever calls
    spent_on_looks = spent - CALLS * ROUND_TRIPS_PER_CALL
    assert spent_on_looks in range(0, int(looks) * ids.SHARDS + 1, ids.SHARDS), spent  # each asks for all at once


async def _commands(chain: Chain) -> int:
    async with aiohttp.ClientSession() as client, client.get(chain.stack.gateway.url("/metrics")) as answer:
        found = re.search(r"^sundial_gateway_redis_commands ([0-9.e+]+)$", await answer.text(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))
