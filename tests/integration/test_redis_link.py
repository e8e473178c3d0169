"""The gateway's link to Redis: few writes, no answer to the wrong call, and every way in which Redis goes away."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from gateway import redis_wire
from gateway.redis_link import RedisLink
from gateway.redis_wire import ANSWER_S_MAX, RedisAnswerError, RedisAwayError, packed
from tests.harness.budget_fixtures import proxy, server
from tests.harness.hold_scripts import HoldScripts
from tests.harness.proxy import Proxy
from tests.harness.redis_versions import RedisProgram, programs, running
from tests.harness.waiting import until

__all__ = ["proxy", "server"]

pytestmark = pytest.mark.integration

SETTLE_KEYS = ("account", "holds", "unposted", "deadlines", "stream")
SOME_KEYS = packed("a", "h", "u", "d", "s", "acc")


@pytest.fixture
async def link(server: RedisProgram, proxy: Proxy) -> AsyncIterator[RedisLink]:
    """Connected through the proxy."""
    async with connected(server, proxy.port) as made:
        assert made.ready
        yield made


@asynccontextmanager
async def connected(server: RedisProgram, port: int, password: str = "") -> AsyncIterator[RedisLink]:
    made = RedisLink(f"redis://:{quote(password or server.password, safe='')}@127.0.0.1:{port}/1")
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def echo(link: RedisLink, text: str) -> str:
    answer = await link.send("ECHO", text)
    return str(answer.decode())


async def seconds(awaitable: Any) -> float:
    """How long something takes to fail as Redis being away."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(RedisAwayError):
        await awaitable
    return loop.time() - begun


# Pipelining -------------------------------------------------------------------------------------------------------


class CountedTransport:
    """A transport that counts what is written."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)

    def abort(self) -> None:
        self._transport.abort()


async def test_all_commands_of_one_loop_turn_leave_in_one_write(link: RedisLink) -> None:
    """However many calls want something at the same moment, the socket is written once."""
    wire: Any = link._wire
    counted = wire._transport = CountedTransport(wire._transport)
    answers = await asyncio.gather(*(echo(link, str(number)) for number in range(300)))
    assert answers == [str(number) for number in range(300)]
    assert len(counted.writes) == 1
    await echo(link, "later")
    assert len(counted.writes) == 2


async def test_answers_of_every_kind_are_pythons_own(link: RedisLink) -> None:
    """Bytes, integers, nothing, and lists of them."""
    assert await link.send("SET", "k", b"\x00\xff") in (b"OK", "OK")
    assert await link.send("GET", "k") == b"\x00\xff"
    assert await link.send("GET", "none") is None
    assert await link.send("STRLEN", "k") == 2
    assert await link.send("MGET", "k", "none") == [b"\x00\xff", None]


async def test_an_error_answer_is_that_commands_alone(link: RedisLink) -> None:
    """Its neighbours in the same write are answered, and the connection stays."""
    first, wrong, last = link.send("ECHO", "a"), link.send("NONSENSE"), link.send("ECHO", "b")
    assert await first == b"a"
    with pytest.raises(RedisAnswerError, match="unknown command"):
        await wrong
    assert await last == b"b"
    assert link.ready


async def test_the_database_of_the_url_is_selected(server: RedisProgram, link: RedisLink) -> None:
    """What the link writes is found in that database and in no other."""
    await link.send("SET", "here", "1")
    for database, found in ((0, None), (1, b"1")):
        with redis.Redis.from_url(server.url().removesuffix("0") + str(database)) as client:
            assert client.get("here") == found


# Isolation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_no_answer_reaches_another_call(link: RedisLink, proxy: Proxy, seed: int) -> None:
    """CVE-2023-28859: two hundred calls over a slow line, many of them cancelled at random moments: every answer that
    is received belongs to its own command, and the connection is the same afterwards."""
    dice = random.Random(seed)
    proxy.delay_s_max = 0.002
    wire = link._wire

    async def ask(number: int) -> tuple[str, str]:
        for _ in range(dice.randint(0, 5)):
            await asyncio.sleep(0)
        asked = f"{seed}/{number}" + "x" * dice.randint(0, 200)
        return asked, await echo(link, asked)

    asking = [asyncio.create_task(ask(number)) for number in range(200)]
    doomed = dice.sample(asking, 120)
    while any(not task.done() for task in doomed):
        await asyncio.sleep(0)
        if doomed and dice.random() < 0.5:
            doomed.pop(dice.randrange(len(doomed))).cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)

    cancelled = [answer for answer in answers if isinstance(answer, asyncio.CancelledError)]
    answered = [answer for answer in answers if isinstance(answer, tuple)]
    assert len(cancelled) + len(answered) == 200
    assert cancelled
    assert len(answered) >= 80
    assert all(asked == heard for asked, heard in answered)
    assert await echo(link, "still in step") == "still in step"
    assert link._wire is wire


async def test_a_cancelled_script_takes_effect_and_its_answer_goes_nowhere(
    server: RedisProgram, link: RedisLink, proxy: Proxy
) -> None:
    """The command was sent: it counts, and the next caller gets its own answer."""
    proxy.stall()
    first = asyncio.create_task(link.run("settle", SOME_KEYS, ("event", 7, "{}", "")))
    await asyncio.sleep(0)
    second = asyncio.create_task(link.run("settle", SOME_KEYS, ("event", 7, "{}", "")))
    await asyncio.sleep(0)
    first.cancel()
    proxy.flow()
    assert await second == [b"known"]
    with pytest.raises(asyncio.CancelledError):
        await first
    await link.send("DEL", "a", "u", "s")


# Redis goes away --------------------------------------------------------------------------------------------------


async def test_late_answers_end_the_connection_within_a_second(link: RedisLink, proxy: Proxy) -> None:
    """Everything that waits fails, about a second after it was asked; what comes late is never read."""
    proxy.stall()
    wire = link._wire
    waits = await asyncio.gather(*(seconds(echo(link, str(number))) for number in range(20)))
    assert min(waits) >= ANSWER_S_MAX * 0.95
    assert max(waits) <= 1.5
    assert not link.ready
    assert await seconds(echo(link, "meanwhile")) < 0.1

    proxy.flow()
    await until(lambda: link.ready)
    assert link._wire is not wire
    assert await echo(link, "on the next connection") == "on the next connection"


async def test_a_cancelled_waiter_does_not_hide_that_redis_stalls(
    link: RedisLink, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest command counts for lateness though nobody waits for it any more."""
    monkeypatch.setattr(redis_wire, "ANSWER_S_MAX", 0.05)
    proxy.stall()
    asking = asyncio.create_task(echo(link, "x"))
    await asyncio.sleep(0)
    asking.cancel()
    await until(lambda: not link.ready)
    proxy.flow()
    await until(lambda: link.ready)


async def test_a_paused_redis_is_away_and_comes_back(
    server: RedisProgram, link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: connections stay open and nothing is answered; SIGCONT: the link is back by itself."""
    monkeypatch.setattr(redis_wire, "ANSWER_S_MAX", 0.1)
    server.pause()
    try:
        assert await seconds(echo(link, "x")) < 1
    finally:
        server.resume()
    await until(lambda: link.ready)
    assert await echo(link, "back") == "back"


@pytest.mark.parametrize(
    "rubbish",
    [b"garbage\r\n", b"\x00\x01\x02", b"+OK\r\n", b"$5\r\nhello\r\n", b"$-5\r\n", b"*2\r\n+a\r\n!\r\n"],
    ids=repr,
)
async def test_bytes_that_nobody_asked_for_end_the_connection(link: RedisLink, proxy: Proxy, rubbish: bytes) -> None:
    """No answer can be matched any more: the connection is dropped and made anew."""
    wire = link._wire
    proxy.say(rubbish)
    await until(lambda: link._wire is not wire and link.ready)
    assert await echo(link, "in step") == "in step"


async def test_rubbish_fails_those_who_wait(link: RedisLink, proxy: Proxy) -> None:
    """A call in flight when the bytes stop making sense fails; it does not get the rubbish."""
    proxy.stall()
    asking = asyncio.create_task(echo(link, "x"))
    await asyncio.sleep(0)
    proxy.say(b"?????\r\n")
    with pytest.raises(RedisAwayError, match="unreadable"):
        await asking
    proxy.flow()


async def test_a_cut_connection_fails_those_who_wait_and_is_made_anew(link: RedisLink, proxy: Proxy) -> None:
    """At once, not after the time for answers."""
    proxy.stall()
    asking = asyncio.create_task(seconds(echo(link, "x")))
    await asyncio.sleep(0)
    proxy.cut()
    assert await asking < ANSWER_S_MAX / 2
    proxy.flow()
    await until(lambda: link.ready)
    assert proxy.connections == 2


async def test_too_many_commands_in_flight_are_refused(
    link: RedisLink, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays bounded while Redis stalls; those in flight are answered when it goes on."""
    monkeypatch.setattr(redis_wire, "WAITING_MAX", 5)
    proxy.stall()
    asking = [asyncio.create_task(echo(link, str(number))) for number in range(8)]
    await asyncio.sleep(0)
    proxy.flow()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert answers[:5] == [str(number) for number in range(5)]
    assert all(isinstance(answer, RedisAwayError) for answer in answers[5:])


async def test_closing_fails_those_who_wait(server: RedisProgram, proxy: Proxy) -> None:
    """Nobody waits for ever on a link that is closed."""
    async with connected(server, proxy.port) as link:
        proxy.stall()
        asking = asyncio.create_task(echo(link, "x"))
        await asyncio.sleep(0)
    with pytest.raises(RedisAwayError):
        await asking
    proxy.flow()


# Scripts and restarts ---------------------------------------------------------------------------------------------


async def run_settle(link: RedisLink, account: HoldScripts, number: int) -> Any:
    keys = packed(*(account.keys[key] for key in SETTLE_KEYS), str(account.account_id))
    return await link.run("settle", keys, (f"event-{number}", 1, account.event(number, 1), ""))


async def test_forgotten_scripts_are_sent_again(server: RedisProgram, link: RedisLink) -> None:
    """SCRIPT FLUSH: the call goes through all the same, and from then on by its SHA-1 again."""
    with redis.Redis.from_url(server.url()) as client:
        account = HoldScripts(client)
        assert (await run_settle(link, account, 1))[0] == b"ok"
        before = link.round_trips
        client.script_flush()
        assert (await run_settle(link, account, 2))[0] == b"ok"
        assert link.round_trips == before + 2
        assert (await run_settle(link, account, 3))[0] == b"ok"
        assert link.round_trips == before + 3


async def test_a_script_that_fails_says_why(link: RedisLink) -> None:
    """Redis's own words, e.g. for a key of a wrong type; nothing is repeated."""
    await link.send("SET", "h", "no hash")
    before = link.round_trips
    with pytest.raises(RedisAnswerError, match="WRONGTYPE"):
        await link.run("settle", SOME_KEYS, ("event", 7, "{}", ""))
    assert link.round_trips == before + 1
    await link.send("DEL", "h")


async def test_after_a_restart_the_scripts_are_there_again(tmp_path: Path) -> None:
    """Killed and started on the same port: another run_id is noticed, callbacks run, scripts work in one round trip."""
    with running(min(programs()), tmp_path) as own:
        async with connected(own, own.port) as link:
            connects = []
            link.on_connect.append(lambda: connects.append(link.run_id))
            first = link.run_id
            own.kill()
            await until(lambda: not link.ready)
            assert await seconds(link.run("settle", SOME_KEYS, ("event", 7, "{}", ""))) < 0.1
            own.start()
            await until(lambda: link.ready)
            assert connects == [link.run_id]
            assert link.run_id not in ("", first)
            with redis.Redis.from_url(own.url()) as client:
                before = link.round_trips
                assert (await run_settle(link, HoldScripts(client), 1))[0] == b"ok"
                assert link.round_trips == before + 1


async def test_a_start_without_redis_waits_for_none(tmp_path: Path) -> None:
    """The first attempt fails at once; the link is made as soon as Redis is there."""
    with running(min(programs()), tmp_path) as own:
        own.kill()
        async with connected(own, own.port) as link:
            assert not link.ready
            assert await seconds(link.run("settle", SOME_KEYS, ("event", 7, "{}", ""))) < 0.1
            own.start()
            await until(lambda: link.ready)


async def test_a_wrong_password_is_tried_until_it_is_right(server: RedisProgram, tmp_path: Path) -> None:
    """Refused by Redis, not ready, not given up: the operator may mend either side."""
    with running(min(programs()), tmp_path) as own:
        async with connected(own, own.port, password="later") as link:
            assert not link.ready
            with redis.Redis.from_url(own.url()) as client:
                client.config_set("requirepass", "later")
            await until(lambda: link.ready)


@pytest.mark.parametrize(
    "answer", [b":5\r\n", b"+OK\r\n", b"$0\r\n\r\n", b"*0\r\n", b"$-1\r\n", b"HTTP/1.1 400 Bad\r\n\r\n"]
)
async def test_a_peer_that_is_no_redis_is_not_believed(server: RedisProgram, proxy: Proxy, answer: bytes) -> None:
    """Whatever it answers: not ready, and still trying, so that the right server is found when it is there."""

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(64 * 1024):
            commands = data.count(b"\r\n*") + data.startswith(b"*")
            writer.write(answer * commands)
        writer.transport.abort()

    pretender = await asyncio.start_server(pretend, "127.0.0.1", 0)
    real, proxy.target_port = proxy.target_port, pretender.sockets[0].getsockname()[1]
    async with connected(server, proxy.port) as link:
        assert not link.ready
        await until(lambda: proxy.connections > 2)
        assert not link.ready
        proxy.target_port = real
        proxy.cut()
        await until(lambda: link.ready)
    pretender.close()
