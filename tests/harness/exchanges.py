"""One exchange with a scripted upstream, through the gateway's own pool: what came of it, to the last byte."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.upstream import Upstream
from gateway.upstream_connection import Head, UpstreamError
from tests.harness.scripted_server import Peer, Script, ScriptedServer

BODY = b'{"some":"answer"}'
WITH_LENGTH = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n" + BODY
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-empty:\r\n\r\n"
    b'5;ext=1\r\n{"som\r\n0c\r\ne":"answer"}\r\n0\r\nx-trailer: t\r\n\r\n'
)
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + BODY


class Collected:
    """A sink that keeps everything and says when it is over."""

    def __init__(self) -> None:
        self.body = b""
        self.ended = False
        self.broken: UpstreamError | None = None
        self.over = asyncio.Event()

    def on_body(self, data: bytes) -> None:
        assert not self.over.is_set(), "bytes after the end"
        self.body += data

    def cork(self) -> None:
        pass

    def uncork(self) -> None:
        pass

    def on_end(self) -> None:
        assert not self.over.is_set(), "a second end"
        self.ended = True
        self.over.set()

    def on_broken(self, error: UpstreamError) -> None:
        assert not self.over.is_set(), "a break after the end"
        self.broken = error
        self.over.set()


def says(answer: bytes, size: int = 0) -> Script:
    """A server that gives this answer to every request and keeps the connection."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(answer, size)

    return script


def says_and_ends(answer: bytes, *, reset: bool) -> Script:
    """One request, this answer, then the end of the connection."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(answer)
        await (peer.reset() if reset else peer.close())

    return script


@asynccontextmanager
async def serving(*scripts: Script, timeout_s: float = 10.0) -> AsyncIterator[tuple[Upstream, ScriptedServer]]:
    async with ScriptedServer(*scripts).listening() as server:
        upstream = Upstream(server.url, "sk-upstream", timeout_s)
        try:
            yield upstream, server
        finally:
            await upstream.close()


async def ask(upstream: Upstream, body: bytes = b"{}") -> tuple[Head, Collected]:
    """One exchange to its end. Raises UpstreamError where no head comes."""
    async with upstream.send("POST", "/chat/completions", b"x-a: 1\r\n", body) as answer:
        collected = Collected()
        answer.listen(collected)
        await asyncio.wait_for(collected.over.wait(), 10)
        return answer.head, collected


async def failure(upstream: Upstream) -> UpstreamError:
    """How an exchange fails, before its head or after it."""
    try:
        _, collected = await ask(upstream)
    except UpstreamError as error:
        return error
    assert collected.broken is not None, "the answer ended well"
    assert BODY.startswith(collected.body)
    return collected.broken
