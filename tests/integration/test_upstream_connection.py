"""The upstream's connections, against a server that does everything wrong that can be done."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from deploy.embedded import free_port
from gateway import upstream as upstream_module
from gateway.upstream import Upstream
from gateway.upstream_connection import EARLY_BYTES_MAX, HEAD_BYTES_MAX, Head, UpstreamError
from tests.harness.scripted_server import Peer, Script, ScriptedServer
from tests.harness.waiting import until

pytestmark = pytest.mark.integration

BODY = b'{"some":"answer"}'
WITH_LENGTH = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n" + BODY
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-empty:\r\n\r\n"
    b'5;ext=1\r\n{"som\r\n0c\r\ne":"answer"}\r\n0\r\nx-trailer: t\r\n\r\n'
)
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + BODY
LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


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
    async with upstream.send("POST", "/chat/completions", [(b"x-a", b"1")], body) as answer:
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
    return collected.broken


# What is sent and what comes back ---------------------------------------------------------------------------------


async def test_a_request_is_written_as_it_must_be() -> None:
    """Path below the base URL, host, our credentials, the caller's headers, and the length of the body."""
    seen: list[tuple[bytes, bytes]] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.request())
            await peer.say(WITH_LENGTH)

    async with serving(script) as (upstream, server):
        await ask(upstream, b'{"a":1}')
        async with upstream.send("GET", "/models", [], b"") as answer:
            answer.listen(Collected())
    host = f"host: 127.0.0.1:{server.port}\r\nauthorization: Bearer sk-upstream\r\n".encode()
    assert seen == [
        (b"POST /v1/chat/completions HTTP/1.1\r\n" + host + b"x-a: 1\r\ncontent-length: 7\r\n\r\n", b'{"a":1}'),
        (b"GET /v1/models HTTP/1.1\r\n" + host + b"\r\n", b""),
    ]


@pytest.mark.parametrize("size", [0, 1, 7])
@pytest.mark.parametrize("answer", [WITH_LENGTH, CHUNKED], ids=["length", "chunked"])
async def test_an_answer_is_the_same_however_it_is_cut(answer: bytes, size: int) -> None:
    """Whole, byte by byte, in sevens: status, headers and body are the same, and the connection serves again."""
    async with serving(says(answer, size)) as (upstream, server):
        for _ in range(3):
            head, collected = await ask(upstream)
            assert (head.status, collected.body, collected.ended) == (200, BODY, True)
        assert server.connections == 1
    assert head.get(b"x-empty") == b""
    assert head.get(b"content-length") == (b"17" if answer is WITH_LENGTH else b"")


async def test_an_answer_without_length_ends_with_its_connection() -> None:
    """Read to the end, delivered as complete, and the connection is not used again."""
    async with serving(says_and_ends(UNTIL_CLOSE, reset=False)) as (upstream, server):
        for _ in range(2):
            _, collected = await ask(upstream)
            assert (collected.body, collected.ended) == (BODY, True)
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 17\r\n\r\n" + BODY,
        b"HTTP/1.0 200 OK\r\ncontent-length: 17\r\n\r\n" + BODY,
    ],
)
async def test_a_connection_that_is_to_be_closed_is_not_used_again(answer: bytes) -> None:
    """The upstream said so, or speaks HTTP/1.0."""
    async with serving(says(answer)) as (upstream, server):
        assert [(await ask(upstream))[1].body for _ in range(2)] == [BODY, BODY]
        assert server.connections == 2


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_is_complete_at_once(status: int) -> None:
    """By its status alone."""
    async with serving(says(b"HTTP/1.1 %d X\r\n\r\n" % status)) as (upstream, server):
        for _ in range(2):
            head, collected = await ask(upstream)
            assert (head.status, collected.body, collected.ended) == (status, b"", True)
        assert server.connections == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_returned_as_it_is(status: int) -> None:
    """Nobody follows it: not to another host, not inwards."""
    answer = b"HTTP/1.1 %d X\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n" % status
    async with serving(says(answer)) as (upstream, server):
        head, collected = await ask(upstream)
        assert (head.status, head.get(b"location")) == (status, b"http://169.254.169.254/")
        assert collected.ended
        assert server.connections == 1


async def test_interim_answers_are_passed_over() -> None:
    """100 and 103 come before the head: their headers are not its."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    async with serving(says(interim + WITH_LENGTH)) as (upstream, server):
        for _ in range(2):
            head, collected = await ask(upstream)
            assert (head.status, head.get(b"link"), collected.body) == (200, b"", BODY)
        assert server.connections == 1


async def test_a_large_request_arrives_whole() -> None:
    """Five megabytes, more than any socket takes at once."""
    body = bytes(range(256)) * 20_000
    got: list[bytes] = []

    async def script(peer: Peer) -> None:
        got.append((await peer.request())[1])
        await peer.say(WITH_LENGTH)

    async with serving(script) as (upstream, _):
        await ask(upstream, body)
    assert got == [body]


async def test_an_answer_that_comes_before_the_request_was_read_is_an_answer() -> None:
    """413 while five megabytes are still on their way: the answer counts, the connection does not."""
    refusal = b"HTTP/1.1 413 X\r\nconnection: close\r\ncontent-length: 17\r\n\r\n" + BODY

    async def script(peer: Peer) -> None:
        await peer.say(refusal)
        await peer.gone()

    async with serving(script) as (upstream, server):
        for _ in range(2):
            head, collected = await ask(upstream, b"x" * 5_000_000)
            assert (head.status, collected.body) == (413, BODY)
        assert server.connections == 2


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


# Broken answers ---------------------------------------------------------------------------------------------------


@LOOPS
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("answer", [WITH_LENGTH, CHUNKED], ids=["length", "chunked"])
def test_an_answer_cut_at_any_byte_is_never_a_clean_end(answer: bytes, reset: bool, new_loop: NewLoop) -> None:
    """Closed or reset after every prefix: an error before the head or a break after it, a body that is a prefix, and
    the next call on a connection of its own."""

    async def scenario() -> None:
        scripts = [says_and_ends(answer[:end], reset=reset) for end in range(len(answer))]
        async with serving(*scripts, says(answer)) as (upstream, server):
            for number in range(len(answer)):
                try:
                    _, collected = await ask(upstream)
                except UpstreamError as error:
                    assert error.code == "upstream_reset"
                    assert error.sent
                else:
                    assert not collected.ended, number
                    assert BODY.startswith(collected.body)
                assert server.connections == number + 1
            assert (await ask(upstream))[1].ended
        assert upstream.resent == 0

    run(scenario, new_loop)


@LOOPS
def test_a_reset_is_no_end_of_an_answer_without_length(new_loop: NewLoop) -> None:
    """Only an orderly close ends it."""

    async def scenario() -> None:
        async with serving(says_and_ends(UNTIL_CLOSE, reset=True)) as (upstream, _):
            assert (await failure(upstream)).code == "upstream_reset"

    run(scenario, new_loop)


@LOOPS
def test_bytes_after_the_end_cost_the_connection_and_not_the_answer(new_loop: NewLoop) -> None:
    """A longer body than declared, a second answer, in the same segment or later: the answer stands, its neighbour
    never sees a byte of it."""
    evil = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"

    async def later(peer: Peer) -> None:
        await peer.request()
        await peer.say(WITH_LENGTH)
        await peer.say(evil)

    async def scenario() -> None:
        for script in (says(WITH_LENGTH + b"more"), says(WITH_LENGTH + evil), says(CHUNKED + evil), later):
            async with serving(script, script, says(WITH_LENGTH)) as (upstream, server):
                for _ in range(2):
                    _, collected = await ask(upstream)
                    assert (collected.body, collected.ended) == (BODY, True)
                    await until(lambda upstream=upstream: all(one.closed for one in upstream._idle))
                assert (await ask(upstream))[1].body == BODY
                assert server.connections == 3
                assert upstream.resent == 0

    run(scenario, new_loop)


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\nok",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nx: a\r\n folded\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nraw bytes",
        b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(50_000)) + b"\r\n",
        b"HTTP/1.1 200 " + b"x" * 1_000_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
        b"HTTP/1.1 103 Early\r\nx: y\r\n\r\n" * 20_000,
    ],
    ids=lambda answer: repr(answer[-24:]),
)
async def test_what_is_not_http_is_an_error_and_never_used_again(answer: bytes) -> None:
    """Garbage, ambiguous framing, endless heads: told apart from a reset, closed at once, while the upstream would
    still have more to say."""
    async with serving(says(answer), says(WITH_LENGTH)) as (upstream, server):
        error = await failure(upstream)
        assert (error.code, error.sent) == ("upstream_protocol", True)
        assert len(str(error)) < 200
        assert (await ask(upstream))[1].body == BODY
        assert server.connections == 2


@pytest.mark.parametrize("part", [b"x" * 1_000, b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["header", "interim"])
async def test_an_endless_head_is_bounded(part: bytes) -> None:
    """An upstream that never comes to the end of its head is cut off soon after the limit, whatever it sends."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        if part.startswith(b"x"):
            await peer.say(b"HTTP/1.1 200 OK\r\nx-endless: ")
        while sent < 100_000_000:
            await peer.say(part)
            sent += len(part)

    async with serving(script) as (upstream, _):
        assert (await failure(upstream)).code == "upstream_protocol"
        assert HEAD_BYTES_MAX <= sent < 20_000_000


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"hello"])
async def test_bytes_on_an_idle_connection_are_nobodys_answer(greeting: bytes) -> None:
    """An upstream that speaks unasked has lost its connection: the next call gets its own answer, on another."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(WITH_LENGTH)
        await asked.wait()
        await peer.say(greeting)

    asked = asyncio.Event()
    async with serving(script, says(WITH_LENGTH)) as (upstream, server):
        await ask(upstream)
        asked.set()
        await until(lambda: upstream._idle[0].closed)
        assert (await ask(upstream))[1].body == BODY
        assert server.connections == 2


# Leaving early ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def watched(said: bytes) -> AsyncIterator[tuple[Upstream, asyncio.Event]]:
    """An upstream that says so much of an answer and then waits; the event: it has seen its client leave."""
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(said)
        await peer.gone()
        left.set()

    async with serving(script, timeout_s=0.2) as (upstream, _):
        yield upstream, left


async def test_an_upstream_that_does_not_answer_is_left() -> None:
    """After the time for the first byte: `upstream_timeout`, and the connection is closed."""
    async with watched(b"") as (upstream, left):
        error = await failure(upstream)
        assert (error.code, error.sent) == ("upstream_timeout", True)
        await asyncio.wait_for(left.wait(), 5)


async def test_a_call_that_is_cancelled_leaves_its_upstream() -> None:
    """Before the head and in the middle of the body: the upstream sees its client gone."""
    for said in (b"", WITH_LENGTH[:-3]):
        async with watched(said) as (upstream, left):
            asking = asyncio.create_task(ask(upstream))
            await until(lambda upstream=upstream: True)
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await upstream.close()
            await asyncio.wait_for(left.wait(), 5)


async def test_an_answer_that_is_not_read_to_its_end_costs_the_connection() -> None:
    """Leaving the block closes what is unfinished."""
    async with watched(WITH_LENGTH[:-1]) as (upstream, left):
        async with upstream.send("POST", "/x", [], b"{}") as answer:
            answer.listen(Collected())
        await asyncio.wait_for(left.wait(), 5)
        assert upstream._idle == []


async def test_stopping_is_seen_by_the_upstream_at_once() -> None:
    """`stop` closes the socket while the block is still open, and no break is reported of our own doing."""
    async with watched(WITH_LENGTH[:-1]) as (upstream, left):
        async with upstream.send("POST", "/x", [], b"{}") as answer:
            collected = Collected()
            answer.listen(collected)
            answer.stop()
            await asyncio.wait_for(left.wait(), 5)
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
        async with upstream.send("POST", "/x", [], b"{}") as answer:
            connection = answer._connection
            await until(lambda: connection._reading_paused)
            assert EARLY_BYTES_MAX < connection._early_bytes < 2 * EARLY_BYTES_MAX
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

    async with serving(says(head + body)) as (upstream, _), upstream.send("POST", "/x", [], b"{}") as answer:
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


async def test_an_answer_that_ended_before_anybody_listened_is_told_whole() -> None:
    """Complete or broken meanwhile: the listener hears all of it, then the end as it was."""
    for script, ended in ((says(WITH_LENGTH), True), (says_and_ends(WITH_LENGTH[:-2], reset=False), False)):
        async with serving(script) as (upstream, _), upstream.send("POST", "/x", [], b"{}") as answer:
            connection: Any = answer._connection
            await until(lambda connection=connection: connection._complete or connection.closed)
            collected = Collected()
            answer.listen(collected)
            assert collected.over.is_set()
            assert collected.ended is ended
            assert collected.body == (BODY if ended else BODY[:-2])


def run(scenario: Callable[[], Coroutine[Any, Any, None]], new_loop: NewLoop) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())
