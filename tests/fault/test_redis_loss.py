"""R1 to R4, R7, R9: Redis goes, hangs, or comes back without what it had confirmed. Each call is booked once."""

import asyncio
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from shared import epochs, ids, redis_keys
from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play
from tests.harness.lag import caught_up
from tests.harness.load import BODY, assert_truth, calling
from tests.harness.proxy import Proxy
from tests.harness.redis_versions import RedisProgram, programs, running
from tests.harness.waiting import until

HEAL_S = 30.0
CALLS = 6
USERS = ("ana", "bia")
Loss = Callable[[RedisProgram, Path], None]


def command(server: RedisProgram, *words: str) -> Any:
    with redis.Redis.from_url(server.url()) as client:
        return client.execute_command(*words)


def flushed(server: RedisProgram, _: Path) -> None:
    """Redis forgets everything, and runs on."""
    command(server, "FLUSHALL")


def emptied(server: RedisProgram, _: Path) -> None:
    """Killed, its append-only file removed."""
    server.kill()
    shutil.rmtree(server.data)
    server.start()


def put_back(server: RedisProgram, copy: Path) -> None:
    """Killed, the end of its append-only file lost: the beginning alone is there."""
    server.kill()
    shutil.rmtree(server.data)
    shutil.copytree(copy, server.data)
    server.start()


async def served(chain: Chain, secrets: list[str], calls: int = CALLS) -> None:
    """So many calls, streamed and not, each answered whole and confirmed by Redis."""
    for number in range(calls):
        await chain.raw(secrets[number % len(secrets)], {**BODY, "stream": bool(number % 2)})
    await confirmed(chain)


async def confirmed(chain: Chain) -> None:
    """Wait until the gateway owes Redis nothing."""

    async def nothing_waits() -> bool:
        async with chain.session("") as session, session.get(chain.stack.gateway.url("/metrics")) as answer:
            return "\nsundial_gateway_unsettled 0.0\n" in await answer.text()

    await until(nothing_waits)


async def healed(chain: Chain, secret: str) -> None:
    """Calls are served and all is booked, each call once and truly."""
    await chain.until_status(secret, BODY, 200)
    await caught_up(chain, HEAL_S)
    await assert_truth(chain.stack.database_url, chain.upstream)


async def told_anew(server: RedisProgram) -> None:
    """Wait until the meter has looked at this run of the server: epochs come last."""

    def looked() -> bool:
        run_id = command(server, "INFO", "server")["run_id"]
        told = [command(server, "GET", redis_keys.epoch(shard)) for shard in range(ids.SHARDS)]
        return all(one is not None and epochs.run_id_of(one.decode()) == run_id for one in told)

    await until(looked, HEAL_S)


@pytest.mark.parametrize("loss", [flushed, emptied, put_back])
async def test_r4_what_redis_confirmed_and_lost_is_told_again(
    redis_chain: Chain, own_redis: RedisProgram, tmp_path: Path, loss: Loss
) -> None:
    """Calls are settled while the meter sleeps, so that nothing is booked; then Redis loses them (R4 FLUSHALL, R4 its
    data deleted, R2 the end of its file lost). A running gateway tells them again."""
    secrets = [await redis_chain.personal(user, credit="1000000") for user in USERS]
    await redis_chain.settled(USERS[0])
    shutil.copytree(own_redis.data, tmp_path / "copy")
    redis_chain.stack.meter.signal(signal.SIGSTOP)
    try:
        await served(redis_chain, secrets)
        loss(own_redis, tmp_path / "copy")
    finally:
        redis_chain.stack.meter.signal(signal.SIGCONT)
    await healed(redis_chain, secrets[0])


@pytest.mark.parametrize("loss", [flushed, put_back])
async def test_r4_a_gateway_that_has_ended_in_order_is_told_for(
    redis_chain: Chain, own_redis: RedisProgram, tmp_path: Path, loss: Loss
) -> None:
    """The journal of a gateway that ended with nothing to report is told by the next one, if Redis lost it since."""
    secrets = [await redis_chain.personal(user, credit="1000000") for user in USERS]
    await redis_chain.settled(USERS[0])
    shutil.copytree(own_redis.data, tmp_path / "copy")
    redis_chain.stack.meter.signal(signal.SIGSTOP)
    try:
        await served(redis_chain, secrets)
        assert await redis_chain.stack.gateway.stop() == 0
        loss(own_redis, tmp_path / "copy")
    finally:
        redis_chain.stack.meter.signal(signal.SIGCONT)
    await redis_chain.stack.gateway.start()
    await healed(redis_chain, secrets[0])


@pytest.fixture
def replica(own_redis: RedisProgram, tmp_path: Path) -> Iterator[RedisProgram]:
    """It follows `own_redis`, and has all that is there."""
    home = tmp_path / "replica"
    home.mkdir()
    shutil.copy(own_redis.home / "password", home / "password")
    with running(max(programs()), home, masterauth=f'"{own_redis.password}"') as started:
        command(started, "REPLICAOF", "127.0.0.1", str(own_redis.port))
        yield started


async def test_r7_a_lagging_replica_takes_over(
    replica: RedisProgram, redis_chain: Chain, own_redis: RedisProgram, redis_proxy: Proxy
) -> None:
    """The primary dies with calls that the replica, asleep, has not seen: the replica is promoted, all is booked."""
    secrets = [await redis_chain.personal(user, credit="1000000") for user in USERS]
    await redis_chain.settled(USERS[0])
    await until(lambda: bool(command(own_redis, "WAIT", "1", "1000")))
    redis_chain.stack.meter.signal(signal.SIGSTOP)
    try:
        replica.pause()
        await served(redis_chain, secrets)
        own_redis.kill()
        redis_proxy.target_port = replica.port
        replica.resume()
        command(replica, "REPLICAOF", "NO", "ONE")
    finally:
        redis_chain.stack.meter.signal(signal.SIGCONT)
    await healed(redis_chain, secrets[0])


async def test_r4_keys_plans_and_prices_that_redis_lost_are_told_again(
    redis_chain: Chain, own_redis: RedisProgram, tmp_path: Path
) -> None:
    """Older data comes back: a key that was revoked since stays revoked, one that was made since works, the plan and
    the price that were set since count, though nobody announces them any more."""
    sundial, model = redis_chain.stack.sundial, str(BODY["model"])
    ana = await redis_chain.personal("ana", credit="1000000")
    await redis_chain.settled("ana")
    shutil.copytree(own_redis.data, tmp_path / "copy")
    await sundial("key", "revoke", ana[-4:])
    eva = await redis_chain.personal("eva", credit="1000000")
    await sundial("price", "set", model, "--input", "700", "--output", "900")
    await sundial("plan", "set", "default", "--model", model)
    denied = {**BODY, "model": "gpt-4o"}
    await redis_chain.until_status(ana, BODY, 401)
    await redis_chain.until_status(eva, denied, 403)
    charge_mc = await redis_chain.cost_of(eva, BODY)
    await redis_chain.settled("eva")

    put_back(own_redis, tmp_path / "copy")
    await told_anew(own_redis)
    await redis_chain.until_status(ana, BODY, 401)
    await healed(redis_chain, eva)
    assert (await redis_chain.post(ana, BODY))[0] == 401
    assert (await redis_chain.post(eva, denied))[0] == 403
    assert await redis_chain.cost_of(eva, BODY) == charge_mc


async def test_r2_restarted_and_killed_under_load(redis_chain: Chain, own_redis: RedisProgram) -> None:
    """SIGTERM, then kill -9, while clients call: they are refused for a while, and no call is lost or booked twice."""
    secrets = [await redis_chain.personal(user, credit="1000000") for user in USERS]
    async with calling(redis_chain, *secrets) as load:
        for end in (own_redis.stop, own_redis.kill, own_redis.kill):
            await load.more(15)
            end()
            await redis_chain.stack.gateway.until_ready(ready=False)
            own_redis.start()
        await load.more(15)
    assert set(load.statuses) <= {200, 503}
    await healed(redis_chain, secrets[0])


async def test_r4_r9_forgetting_while_streams_run(redis_chain: Chain, own_redis: RedisProgram) -> None:
    """R9 SCRIPT FLUSH, then R4 FLUSHALL, in the middle of streams: each reaches its end, and is booked."""
    secrets = [await redis_chain.personal(user, credit="1000000") for user in USERS]
    go_on = asyncio.Event()
    redis_chain.upstream.script = lambda _: Play(
        tokens=40, pause=lambda sent: asyncio.ensure_future(go_on.wait()) if sent == 10 else None
    )
    async with asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(redis_chain.raw(one, {**BODY, "stream": True})) for one in secrets]
        await redis_chain.upstream.arrived(len(secrets))
        command(own_redis, "SCRIPT", "FLUSH")
        streams.append(tasks.create_task(redis_chain.raw(secrets[0], {**BODY, "stream": True})))
        await redis_chain.upstream.arrived(len(secrets) + 1)
        command(own_redis, "FLUSHALL")
        go_on.set()
    assert all(one.result().rstrip().endswith(b"data: [DONE]") for one in streams)
    await healed(redis_chain, secrets[0])


@pytest.mark.parametrize("loss", [flushed, emptied])
async def test_r4_a_hold_that_redis_forgot_is_made_again(
    redis_chain: Chain, own_redis: RedisProgram, tmp_path: Path, loss: Loss
) -> None:
    """Of a running stream: as soon as Redis knows the accounts again, others of the account see as much held as
    before, and when it has ended nothing."""
    secret = await redis_chain.personal("ana", credit="1000000")
    go_on = asyncio.Event()
    redis_chain.upstream.script = lambda _: Play(
        tokens=40, pause=lambda sent: asyncio.ensure_future(go_on.wait()) if sent == 10 else None
    )

    async def held() -> int:
        return int((await redis_chain.stack.sundial("account", "show", "ana"))["held"])

    stream = asyncio.create_task(redis_chain.raw(secret, {**BODY, "stream": True}))
    await redis_chain.upstream.arrived(1)
    before = await held()
    assert before > 0
    loss(own_redis, tmp_path)

    async def again() -> bool:
        return await held() == before

    await until(again, HEAL_S)
    go_on.set()
    assert (await stream).rstrip().endswith(b"data: [DONE]")
    await healed(redis_chain, secret)
    assert await held() == 0


@pytest.mark.parametrize("away", ["paused", "killed"])
async def test_r1_r3_redis_is_away(redis_chain: Chain, own_redis: RedisProgram, away: str) -> None:
    """R3 it hangs, R1 it is down: new calls are refused with 503 and nothing is sent upstream; a running stream does
    not notice. When it is back all goes on."""
    secret = await redis_chain.personal("ana", credit="1000000")
    go_on = asyncio.Event()
    redis_chain.upstream.script = lambda request: Play(
        tokens=40, pause=lambda sent: asyncio.ensure_future(go_on.wait()) if sent == 10 else None
    )
    stream = asyncio.create_task(redis_chain.raw(secret, {**BODY, "stream": True}))
    await redis_chain.upstream.arrived(1)
    if away == "paused":
        own_redis.pause()
    else:
        own_redis.kill()
    for _ in range(3):
        status, headers, answer = await redis_chain.post(secret, BODY)
        assert (status, answer["error"]["code"]) == (503, "not_ready"), headers
    assert len(redis_chain.upstream.served) == 1
    go_on.set()
    assert (await stream).rstrip().endswith(b"data: [DONE]")
    if away == "paused":
        own_redis.resume()
    else:
        own_redis.start()
    await healed(redis_chain, secret)
