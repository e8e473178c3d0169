"""Bodies that stream through: pumped as the upstream takes them, never sent twice, never taken for whole."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.upstream import Upstream
from gateway.upstream_connection import UpstreamError
from tests.harness.exchanges import BODY, WITH_LENGTH, Collected, ask, says, serving
from tests.harness.scripted_server import Peer
from tests.harness.waiting import until

pytestmark = pytest.mark.integration

PIECE = bytes(range(256)) * 256


class Pieces:
    """A source of `number` pieces; `stop` ends it before one of them, `fails` raises in its place."""

    def __init__(self, number: int, length: int | None, *, fails: int = -1, waits: asyncio.Event | None = None) -> None:
        self.length = length
        self.read = 0
        self._number = number
        self._fails = fails
        self._waits = waits

    async def rest(self) -> AsyncIterator[bytes]:
        for number in range(self._number):
            if number == self._fails:
                raise LookupError("the client's side failed")
            if self._waits is not None:
                await self._waits.wait()
            self.read += 1
            yield PIECE


async def send(upstream: Upstream, begun: bytes, source: Any) -> bytes:
    """The answer's body."""
    async with upstream.send("POST", "/x", b"", begun, source) as answer:
        collected = Collected()
        answer.listen(collected)
        await asyncio.wait_for(collected.over.wait(), 10)
        return collected.body


@pytest.mark.parametrize("begun", [b"", b"begun"])
async def test_a_body_of_known_length_arrives_as_it_is(begun: bytes) -> None:
    """What was read before and what comes after, under the length of both; the connection serves again."""
    seen: list[tuple[bytes, bytes]] = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            seen.append(await peer.request())
            await peer.say(WITH_LENGTH)

    async with serving(script) as (upstream, server):
        length = len(begun) + 3 * len(PIECE)
        assert await send(upstream, begun, Pieces(3, length)) == BODY
        _, collected = await ask(upstream)
        assert collected.body == BODY
        assert server.connections == 1
    head, body = seen[0]
    assert body == begun + PIECE * 3
    assert b"content-length: %d\r\n" % length in head
    assert b"transfer-encoding" not in head


@pytest.mark.parametrize("begun", [b"", b"begun"])
async def test_a_body_of_unknown_length_arrives_in_chunks(begun: bytes) -> None:
    """Each piece a chunk, and an end; no piece is none."""
    received: list[bytes] = []

    async def script(peer: Peer) -> None:
        head, _ = await peer.request()
        assert b"transfer-encoding: chunked" in head
        assert b"content-length" not in head
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += await peer.read()
        received.append(data)
        await peer.say(WITH_LENGTH)

    async with serving(script) as (upstream, _):
        assert await send(upstream, begun, Pieces(2, None)) == BODY
    chunks = [piece for piece in (begun, PIECE, PIECE) if piece]
    assert received[0] == b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in chunks) + b"0\r\n\r\n"


async def test_an_upload_takes_a_connection_that_cannot_have_died() -> None:
    """A kept one may be dead, and what streams cannot be sent a second time."""
    async with serving(says(WITH_LENGTH)) as (upstream, server):
        await ask(upstream)
        assert await send(upstream, b"", Pieces(1, len(PIECE))) == BODY
        assert server.connections == 2
        assert upstream.resent == 0


async def test_an_upload_waits_for_a_slow_upstream() -> None:
    """Back-pressure: the source is read no further than the sockets take, however much there is."""
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await go_on.wait()
        await peer.request()
        await peer.say(WITH_LENGTH)

    number = 2_000
    source = Pieces(number, number * len(PIECE))
    async with serving(script) as (upstream, _):
        sending = asyncio.ensure_future(send(upstream, b"", source))
        reads: list[int] = []

        def still() -> bool:
            reads.append(source.read)
            return len(reads) > 20 and reads[-20] == reads[-1] > 0

        await until(still)
        assert source.read < number / 4
        go_on.set()
        assert await sending == BODY
    assert source.read == number


async def test_an_early_answer_ends_an_upload() -> None:
    """A refusal before the body is through: it is passed on, the rest is not sent, the connection is not kept."""

    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.say(WITH_LENGTH.replace(b"200 OK", b"413 Too Large"))
        await peer.gone()

    async with serving(script, says(WITH_LENGTH)) as (upstream, server):
        waits = asyncio.Event()
        assert await send(upstream, b"begun", Pieces(9, 9_000_000, waits=waits)) == BODY
        await ask(upstream)
        assert server.connections == 2


async def test_a_source_that_fails_leaves_no_whole_request() -> None:
    """The client left, or sent what cannot be meant: the connection ends before the body does, with or without a
    length."""
    for length in (3 * len(PIECE), None):
        received: list[bytes] = []

        async def script(peer: Peer, received: list[bytes] = received) -> None:
            received.append(await peer.gone())

        async with serving(script) as (upstream, _):
            with pytest.raises(LookupError):
                await send(upstream, b"", Pieces(3, length, fails=2))
            await until(lambda received=received: bool(received))
        assert not received[0].endswith(b"0\r\n\r\n")
        assert received[0].count(PIECE[:64]) < 3 * 256


async def test_an_upstream_that_breaks_under_an_upload_is_not_asked_again() -> None:
    """It may have seen the request: the error is the caller's."""

    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.reset()

    async with serving(script, says(WITH_LENGTH)) as (upstream, server):
        with pytest.raises(UpstreamError) as caught:
            await send(upstream, b"", Pieces(200, 200 * len(PIECE)))
        assert caught.value.code == "upstream_reset"
        assert server.connections == 1


async def test_an_upstream_that_never_takes_a_body_is_left() -> None:
    """The time for an answer's first byte is the time for each piece too."""

    async def script(peer: Peer) -> None:
        await asyncio.Event().wait()

    async with serving(script, timeout_s=0.2) as (upstream, _):
        with pytest.raises(UpstreamError) as caught:
            await send(upstream, b"", Pieces(2_000, 2_000 * len(PIECE)))
        assert caught.value.code == "upstream_timeout"
