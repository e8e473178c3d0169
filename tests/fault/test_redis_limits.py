"""R5, R6, R10: Redis without memory, without disk, and with a stream that nobody reads. No call begins, what runs ends
well and is kept, and all is booked once there is room."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import redis

from shared import ids, redis_keys
from tests.harness.chain import Chain
from tests.harness.chain_fixtures import running_chain
from tests.harness.fake_upstream import FakeUpstream, Play
from tests.harness.lag import caught_up
from tests.harness.load import BODY, assert_truth
from tests.harness.redis_versions import RedisProgram, programs, running
from tests.harness.servers import Database
from tests.harness.small_disk import Disk, mounted
from tests.harness.waiting import until

STREAM: Final[Any] = {**BODY, "stream": True}
DONE: Final = b"data: [DONE]\n\n"
ROOM_BYTES: Final = 3 * 1024 * 1024
"""What Redis may grow by until its memory is full: far more than the buffers of its clients come and go with."""
LABELS: Final = {f"X-Sundial-{name}": "x" * 250 for name in ("Conversation-Id", "Message-Id", "Purpose")}
"""Make an entry of the stream large: memory is full after some thousand calls."""
CLIENTS: Final = 16
DISK_BYTES: Final = 8 * 1024 * 1024
ENTRIES_MAX: Final = 20
CALLS_MAX: Final = 2_000
HEAL_S: Final = 30.0


def asked(server: RedisProgram, *words: Any) -> Any:
    with redis.Redis.from_url(server.url()) as client:
        return client.execute_command(*words)


def entries(server: RedisProgram) -> int:
    """What the streams hold."""
    return sum(int(asked(server, "XLEN", redis_keys.usage_stream(shard))) for shard in range(ids.SHARDS))


async def stream_begun(chain: Chain, secret: str) -> tuple[asyncio.Event, asyncio.Task[bytes]]:
    """A stream in mid-answer, and what lets it go on."""
    more = asyncio.Event()
    chain.upstream.script = lambda _: Play(
        tokens=40, pause=lambda sent: asyncio.ensure_future(more.wait()) if sent == 10 else None
    )
    stream = asyncio.create_task(chain.raw(secret, STREAM))
    await chain.upstream.arrived(1)
    chain.upstream.script = lambda _: Play()
    return more, stream


async def calls_until_unready(chain: Chain, secret: str) -> None:
    """Calls, until the gateway says that Redis takes no writes. What is refused meanwhile is so as it should be."""
    for _ in range(CALLS_MAX):
        status, _, answer = await chain.post(secret, BODY, LABELS)
        if status != 200:
            assert (status, answer["error"]["code"]) == (503, "not_ready")
            if "takes no writes" in await readiness(chain):
                return
    raise AssertionError(f"{CALLS_MAX} calls and no refusal")


async def readiness(chain: Chain) -> str:
    async with aiohttp.ClientSession() as client, client.get(chain.stack.gateway.url("/readyz")) as answer:
        return await answer.text()


async def calls_until_refused(chain: Chain, secret: str) -> int:
    """Calls that were served before one was refused, with 503 and our own word for it."""
    for number in range(CALLS_MAX):
        status, _, answer = await chain.post(secret, BODY)
        if status != 200:
            assert (status, answer["error"]["code"]) == (503, "not_ready")
            return number
    raise AssertionError(f"{CALLS_MAX} calls and no refusal")


async def all_booked(chain: Chain, secret: str) -> None:
    """Calls are served again, by themselves, and each one is booked once."""
    await chain.until_status(secret, BODY, 200)
    await caught_up(chain, HEAL_S)
    await assert_truth(chain.stack.database_url, chain.upstream)


@pytest.mark.skipif(
    max(programs(), default="") < "redis7", reason="scripts that may exceed the memory came with Redis 7"
)
@pytest.mark.parametrize("meter_is", ["asleep", "dead"])
async def test_r5_no_memory(redis_chain: Chain, own_redis: RedisProgram, meter_is: str) -> None:
    """The meter does not read and the stream grows until Redis refuses: no call begins, one that runs ends and is
    settled above the limit. When the meter reads on, or another one is started, memory is free again, by itself."""
    meter = redis_chain.stack.meter
    secret = await redis_chain.personal("ana", credit="1000000")
    await redis_chain.settled("ana")
    more, stream = await stream_begun(redis_chain, secret)
    if meter_is == "dead":
        meter.kill()
    else:
        meter.signal(signal.SIGSTOP)
    try:
        asked(own_redis, "CONFIG", "SET", "maxmemory", asked(own_redis, "INFO", "memory")["used_memory"] + ROOM_BYTES)
        await asyncio.gather(*(calls_until_unready(redis_chain, secret) for _ in range(CLIENTS)))
        kept = len(redis_chain.upstream.served) - 1
        assert kept > CLIENTS
        await until(lambda: entries(own_redis) == kept)
        more.set()
        assert (await stream).endswith(DONE)
        await until(lambda: entries(own_redis) == kept + 1)
        assert len(redis_chain.upstream.served) == kept + 1
        assert (await redis_chain.stack.sundial("audit"))["ok"]  # it only reads
    finally:
        if meter_is == "dead":
            meter.launch()
        else:
            meter.signal(signal.SIGCONT)
    await meter.until_ready()
    await redis_chain.stack.gateway.until_ready()
    await all_booked(redis_chain, secret)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", DISK_BYTES) as small:
        yield small


@pytest.fixture
def crowded_redis(disk: Disk) -> Iterator[RedisProgram]:
    """A Redis whose files lie on the small disk."""
    with running(max(programs()), disk.folder / "redis") as server:
        yield server


@pytest.fixture
async def crowded(
    tmp_path: Path, database: Database, crowded_redis: RedisProgram, upstream: FakeUpstream
) -> AsyncIterator[Chain]:
    async with running_chain(tmp_path / "home", database, crowded_redis.url(), upstream) as started:
        yield started


async def test_r6_no_space_for_its_file(crowded: Chain, crowded_redis: RedisProgram, disk: Disk) -> None:
    """Redis cannot append and refuses every write: no call begins, one that runs ends whole; with space again its
    record is taken, and all goes on."""
    secret = await crowded.personal("ana", credit="1000000")
    await crowded.settled("ana")
    more, stream = await stream_begun(crowded, secret)
    disk.fill()
    await calls_until_refused(crowded, secret)
    more.set()
    assert (await stream).endswith(DONE)
    assert (await crowded.post(secret, BODY))[0] == 503
    assert "MISCONF" in crowded.stack.gateway.output
    assert "takes no writes" in await readiness(crowded)
    served = len(crowded.upstream.served)
    disk.clear()
    await crowded.stack.gateway.until_ready()
    await all_booked(crowded, secret)
    assert len(crowded.upstream.served) > served
    assert crowded_redis.alive


async def test_r10_nobody_reads_the_stream(redis_chain: Chain, own_redis: RedisProgram) -> None:
    """The meter is dead: at the stream's cap no call begins, one that runs is settled above it, and nothing of what is
    not booked is trimmed; a new meter books all of it, and calls begin again."""
    gateway, meter = redis_chain.stack.gateway, redis_chain.stack.meter
    await gateway.stop()
    await gateway.start(SUNDIAL_STREAM_ENTRIES_MAX=str(ENTRIES_MAX))
    secret = await redis_chain.personal("ana", credit="1000000")
    await redis_chain.settled("ana")
    more, stream = await stream_begun(redis_chain, secret)
    meter.kill()
    assert await calls_until_refused(redis_chain, secret) == ENTRIES_MAX
    assert '"stream_full"' in gateway.output
    more.set()
    assert (await stream).endswith(DONE)
    await until(lambda: entries(own_redis) == ENTRIES_MAX + 1)
    assert (await redis_chain.post(secret, BODY))[0] == 503
    await meter.start()
    await all_booked(redis_chain, secret)
