"""The pool of upstream connections: when one serves again, when a request is sent again, how a call leaves early."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deploy.ports import free_port
from gateway import upstream as upstream_module
from gateway.backlog import READ_BYTES_MAX
from gateway.upstream import Upstream
from gateway.upstream_connection import EARLY_BYTES_MAX
from tests.harness.exchanges import BODY, WITH_LENGTH, Collected, ask, failure, says, says_and_ends, serving
from tests.harness.scripted_server import Peer
from tests.harness.waiting import until

pytestmark = pytest.mark.integration


# The pool ---------------------------------------------------------------------------------------------------------


async def test_parallel_calls_have_connections_of_their_own_and_share_them_later() -> None:
    """Never two requests on one connection at a time; afterwards the idle ones serve again."""
    async with serving(says(WITH_LENGTH)) as (upstream, server):
        answers = await asyncio.gather(*(ask(upstream) for _ in range(20)))
        assert all(collected.body == BODY for _, collected in answers)
        opened = server.connections
        await asyncio.gather(*(ask(upstream) for _ in range(opened)))
        assert server.connections == opened


async def test_no_more_idle_connections_are_kept_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond the limit are closed, as the upstream sees."""
    monkeypatch.setattr(upstream_module, "IDLE_CONNECTIONS_MAX", 1)
    left: list[int] = []
    line = asyncio.Barrier(3)

    async def script(peer: Peer) -> None:
        await peer.request()
        await line.wait()
        await peer.say(WITH_LENGTH)
        await peer.gone()
        left.append(1)

    async with serving(script) as (upstream, _):
        await asyncio.gather(*(ask(upstream) for _ in range(3)))
        await until(lambda: len(left) == 2)


async def test_a_connection_that_was_idle_for_long_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit it is closed, not used."""
    async with serving(says(WITH_LENGTH)) as (upstream, server):
        await ask(upstream)
        monkeypatch.setattr(upstream_module, "IDLE_S_MAX", -1.0)
        await ask(upstream)
        assert server.connections == 2
    assert upstream.resent == 0


async def test_a_kept_connection_that_died_is_replaced_once() -> None:
    """The upstream closes it as the request arrives, without a byte: sent again on a fresh one, and counted."""

    async def dies(peer: Peer) -> None:
        await peer.request()
        await peer.say(WITH_LENGTH)
        await peer.request()
        await peer.reset()

    async with serving(dies, says(WITH_LENGTH)) as (upstream, server):
        await ask(upstream)
        _, collected = await ask(upstream)
        assert collected.body == BODY
        assert (upstream.resent, server.connections) == (1, 2)


async def test_a_connection_closed_while_idle_is_simply_not_used() -> None:
    """The close is seen before the next request: nothing is sent twice."""

    async def leaves(peer: Peer) -> None:
        await peer.request()
        await peer.say(WITH_LENGTH)
        await peer.reset()

    async with serving(leaves, says(WITH_LENGTH)) as (upstream, server):
        await ask(upstream)
        await until(lambda: all(connection.closed for connection in upstream._idle))
        assert (await ask(upstream))[1].body == BODY
        assert (upstream.resent, server.connections) == (0, 2)


@pytest.mark.parametrize("byte", [b"H", b"HTTP/1.1 200 OK\r\n"])
async def test_nothing_is_sent_again_once_a_byte_has_come(byte: bytes) -> None:
    """The upstream had begun to answer: it may have done the work."""

    async def dies(peer: Peer) -> None:
        await peer.request()
        await peer.say(WITH_LENGTH)
        await peer.request()
        await peer.say(byte)
        await peer.reset()

    async with serving(dies, says(WITH_LENGTH)) as (upstream, server):
        await ask(upstream)
        error = await failure(upstream)
        assert (error.code, error.sent) == ("upstream_reset", True)
        assert (upstream.resent, server.connections) == (0, 1)


async def test_a_fresh_connection_that_dies_is_not_replaced() -> None:
    """Only a kept connection can have died silently before."""
    async with serving(says_and_ends(b"", reset=True)) as (upstream, server):
        assert (await failure(upstream)).code == "upstream_reset"
        assert (upstream.resent, server.connections) == (0, 1)


async def test_the_replacement_is_the_last_attempt() -> None:
    """Resent once, and it died too: an error, not a storm."""

    async def dies(peer: Peer) -> None:
        await peer.request()
        await peer.say(WITH_LENGTH)
        await peer.request()
        await peer.reset()

    async with serving(dies, says_and_ends(b"", reset=True)) as (upstream, server):
        await ask(upstream)
        assert (await failure(upstream)).code == "upstream_reset"
        assert (upstream.resent, server.connections) == (1, 2)


# Leaving early ----------------------------------------------------------------------------------------------------


class Watched:
    """An upstream that says so much of an answer and then waits for its client to leave."""

    def __init__(self, said: bytes) -> None:
        self._said = said
        self.reached = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        await peer.say(self._said)
        self.reached.set()
        await peer.gone()
        self.left.set()


@asynccontextmanager
async def watched(said: bytes, timeout_s: float = 10.0) -> AsyncIterator[tuple[Upstream, Watched]]:
    script = Watched(said)
    async with serving(script, timeout_s=timeout_s) as (upstream, _):
        yield upstream, script


async def test_an_upstream_that_does_not_answer_is_left() -> None:
    """After the time for the first byte: `upstream_timeout`, and the connection is closed."""
    async with watched(b"", timeout_s=0.3) as (upstream, script):
        error = await failure(upstream)
        assert (error.code, error.sent) == ("upstream_timeout", True)
        await asyncio.wait_for(script.left.wait(), 5)


async def test_a_call_that_is_cancelled_leaves_its_upstream() -> None:
    """Before the head and in the middle of the body: the upstream sees its client gone."""
    for said in (b"", WITH_LENGTH[:-3]):
        async with watched(said) as (upstream, script):
            asking = asyncio.create_task(ask(upstream))
            await script.reached.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.wait_for(script.left.wait(), 5)


async def test_an_answer_that_is_not_read_to_its_end_costs_the_connection() -> None:
    """Leaving the block closes what is unfinished."""
    async with watched(WITH_LENGTH[:-1]) as (upstream, script):
        async with upstream.send("POST", "/x", b"", b"{}") as answer:
            answer.listen(Collected())
        await asyncio.wait_for(script.left.wait(), 5)
        assert upstream._idle == []


async def test_stopping_is_seen_by_the_upstream_at_once() -> None:
    """`stop` closes the socket while the block is still open, and no break is reported of our own doing."""
    async with watched(WITH_LENGTH[:-1]) as (upstream, script):
        async with upstream.send("POST", "/x", b"", b"{}") as answer:
            collected = Collected()
            answer.listen(collected)
            answer.stop()
            await asyncio.wait_for(script.left.wait(), 5)
        assert not collected.over.is_set()


async def test_where_nothing_listens_nothing_was_sent() -> None:
    """Refused and unreachable are told apart, and neither can have been seen by an upstream."""
    for host, code in ((f"127.0.0.1:{free_port()}", "upstream_refused"), ("255.255.255.255:9", "upstream_unreachable")):
        error = await failure(Upstream(f"http://{host}/v1", "", 1.0))
        assert (error.code, error.sent) == (code, False)


# Flow -------------------------------------------------------------------------------------------------------------


async def test_bytes_before_anybody_listens_are_kept_up_to_a_limit() -> None:
    """A fast upstream and a slow caller: reading pauses, nothing is lost, order is kept."""
    body = b"".join(b"%07d\n" % number for number in range(1_000_000))
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with serving(says(head + body)) as (upstream, server):
        async with upstream.send("POST", "/x", b"", b"{}") as answer:
            connection = answer._connection
            await until(lambda: connection._reading_paused)
            assert EARLY_BYTES_MAX < connection._backlog.size <= EARLY_BYTES_MAX + READ_BYTES_MAX
            collected = Collected()
            answer.listen(collected)
            await asyncio.wait_for(collected.over.wait(), 10)
        assert collected.body == body
        await upstream.close()
        assert server.connections == 1


async def test_a_paused_answer_waits_and_goes_on() -> None:
    """While paused nothing more arrives than was on its way; after it all of the rest, in order."""
    body = bytes(range(256)) * 40_000
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)

    class Pausing(Collected):
        def on_body(self, data: bytes) -> None:
            super().on_body(data)
            if self.pause_at and len(self.body) >= self.pause_at:
                self.pause_at = 0
                answer.pause()

        pause_at = 1_000_000

    async with serving(says(head + body)) as (upstream, _), upstream.send("POST", "/x", b"", b"{}") as answer:
        collected = Pausing()
        answer.listen(collected)
        await until(lambda: collected.pause_at == 0)
        paused_at = len(collected.body)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(collected.body) == paused_at < len(body)
        answer.resume()
        await asyncio.wait_for(collected.over.wait(), 10)
        assert collected.body == body


@pytest.mark.parametrize("piece_end", [b"", b"\n\n"], ids=["anywhere", "where a line is empty"])
async def test_chunks_that_come_together_are_given_in_pieces(piece_end: bytes) -> None:
    """Whatever the chunks are: no piece is above the size, each is as large as it may be, and ends where it is to, if
    it can. One that pauses is the last, until it goes on."""
    lines = [b"data: %d\n\n" % number for number in range(300)]
    lines[100] = lines[-1] = b"x" * 2_500 + b"\n\n"
    body = b"".join(lines)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in lines)
    last = chunks.rindex(b"9c6\r\n")
    corks: list[str] = []

    class Pieces(Collected):
        def on_body(self, data: bytes) -> None:
            super().on_body(data)
            pieces.append(data)
            if len(pieces) == 2:
                answer.pause()

        def cork(self) -> None:
            corks.append("on")

        def uncork(self) -> None:
            corks.append("off")

    pieces: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks[:last])
        await until(lambda: sum(map(len, pieces)) == len(body) - len(lines[-1]))
        await peer.say(chunks[last:])  # one chunk, by itself, and too long
        await until(lambda: sum(map(len, pieces)) == len(body))
        await peer.say(b"0\r\n\r\n")

    async with serving(script) as (upstream, _), upstream.send("POST", "/x", b"", b"{}") as answer:
        collected = Pieces()
        answer.listen(collected, 1_000, piece_end)
        await until(lambda: len(pieces) == 2)
        answer.resume()
        await asyncio.wait_for(collected.over.wait(), 10)
    assert collected.body == body
    assert max(map(len, pieces)) <= 1_000
    assert len(pieces) <= 2 * len(body) // 1_000
    assert corks
    assert corks == ["on", "off"] * (len(corks) // 2)
    if piece_end:
        inside = [piece for piece in pieces if not piece.endswith(piece_end)]
        assert {piece.strip(b"x") for piece in inside} == {b""}, "only the long line is cut"


async def test_an_answer_that_ended_before_anybody_listened_is_told_whole() -> None:
    """Complete or broken meanwhile: the listener hears all of it, then the end as it was."""
    for script, ended in ((says(WITH_LENGTH), True), (says_and_ends(WITH_LENGTH[:-2], reset=False), False)):
        async with serving(script) as (upstream, _), upstream.send("POST", "/x", b"", b"{}") as answer:
            connection: Any = answer._connection
            await until(lambda connection=connection: connection._complete or connection.closed)
            collected = Collected()
            answer.listen(collected)
            assert collected.over.is_set()
            assert collected.ended is ended
            assert collected.body == (BODY if ended else BODY[:-2])
