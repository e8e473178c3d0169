"""What comes back from the upstream, against a server that does everything wrong that can be done."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from gateway.upstream_connection import HEAD_BYTES_MAX
from tests.harness.exchanges import (
    BODY,
    CHUNKED,
    UNTIL_CLOSE,
    WITH_LENGTH,
    Collected,
    ask,
    failure,
    says,
    says_and_ends,
    serving,
)
from tests.harness.scripted_server import Peer
from tests.harness.waiting import until

pytestmark = pytest.mark.integration

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


def run(scenario: Callable[[], Coroutine[Any, Any, None]], new_loop: NewLoop) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


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
        async with upstream.send("GET", "/models", b"", b"") as answer:
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
async def test_a_redirect_is_an_error(status: int) -> None:
    """Nobody follows it: not to another host, not inwards; and nobody is sent there."""
    answer = b"HTTP/1.1 %d X\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n" % status
    async with serving(says(answer)) as (upstream, server):
        error = await failure(upstream)
        assert (error.code, error.sent) == ("upstream_redirect", True)
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
                error = await failure(upstream)
                assert (error.code, error.sent) == ("upstream_reset", True), number
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
        b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{"so\r\n0\r\n\r\n',
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


@pytest.mark.parametrize("times", [20_000, 10_000], ids=["endless", "at once"])
async def test_trailers_are_bounded_as_a_head_is(times: int) -> None:
    """They are read and passed on to nobody: more of them than a head may have break the answer, whether it would have
    ended behind them or not; and the next answer's head has none of them."""
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n11\r\n" + BODY + b"\r\n0\r\n"
    endless = chunked + b"x-trailer: t\r\n" * times + (b"\r\n" if times == 10_000 else b"")
    async with serving(says(endless), says(chunked + b"x-trailer: t\r\n" * 3 + b"\r\n")) as (upstream, server):
        assert (await failure(upstream)).code == "upstream_protocol"
        for _ in range(2):
            head, collected = await ask(upstream)
            assert (head.headers, collected.body) == ([(b"transfer-encoding", b"chunked")], BODY)
        assert server.connections == 2


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
