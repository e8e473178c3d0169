"""G8 with a gateway: the journal's disk is full, or its own limit is reached, and what a dead gateway left is torn and
damaged."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from gateway.journal import segments
from tests.harness.chain import Chain
from tests.harness.chain_fixtures import running_chain
from tests.harness.fake_upstream import FakeUpstream, Play
from tests.harness.load import BODY, assert_truth
from tests.harness.proxy import Proxy
from tests.harness.servers import Database
from tests.harness.small_disk import Disk, mounted
from tests.harness.waiting import until

STREAM: Final[Any] = {**BODY, "stream": True}
DISK_BYTES: Final = 1024 * 1024
CALLS: Final = 4
CALLS_MAX: Final = 20
"""Calls whose records fit into the last page that the journal had got."""
JOURNAL_BYTES_MAX: Final = 4 * 1024 * 1024
SEGMENTS_MAX: Final = 64
CLIENTS: Final = 8
LONG: Final = 2_000
"""Tokens of a stream whose notes fill a small journal, where each look takes one."""
LABELS: Final = {
    f"X-Sundial-{name}": "\\" * 250
    for name in ("User-Email", "User-Name", "User-Role", "Conversation-Id", "Message-Id", "Purpose")
}
"""Make a record some 4 KB: a backslash is two in JSON."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", DISK_BYTES) as small:
        yield small


@pytest.fixture
async def crowded(
    tmp_path: Path, database: Database, redis_url: str, upstream: FakeUpstream, disk: Disk
) -> AsyncIterator[Chain]:
    """A chain whose journals alone lie on the small disk."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "journal").symlink_to(disk.folder)
    async with running_chain(home, database, redis_url, upstream) as started:
        yield started


async def test_g8_the_disk_is_full(crowded: Chain, disk: Disk) -> None:
    """No call begins, the gateway is not ready, a stream that runs ends whole and is booked; a second after there is
    room all is as before."""
    secret = await crowded.personal("ana", credit="1000000")
    more = asyncio.Event()
    crowded.upstream.script = lambda _: Play(
        tokens=40, pause=lambda sent: asyncio.ensure_future(more.wait()) if sent == 10 else None
    )
    stream = asyncio.create_task(crowded.raw(secret, STREAM))
    await crowded.upstream.arrived(1)
    crowded.upstream.script = lambda _: Play()
    disk.fill()
    statuses: list[int] = []
    while not statuses or statuses[-1] == 200:
        assert len(statuses) < CALLS_MAX
        statuses.append((await crowded.post(secret, BODY))[0])
    assert statuses[-1] == 503
    await crowded.stack.gateway.until_ready(ready=False)
    served = len(crowded.upstream.served)
    more.set()
    assert (await stream).endswith(b"data: [DONE]\n\n")
    assert (await crowded.post(secret, BODY))[0] == 503
    assert len(crowded.upstream.served) == served
    await crowded.booked(served)
    disk.clear()
    await crowded.stack.gateway.until_ready()
    assert (await crowded.post(secret, BODY))[0] == 200
    await assert_truth(crowded.stack.database_url, crowded.upstream)


def written(home: Path) -> list[int]:
    """The numbers of the segments that the newest journal has; an earlier gateway's may lie beside it."""
    newest = max((home / "journal").glob("[!.]*-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    return [int(path.stem) for path in segments(newest)]


def labelled(user: str) -> dict[str, str]:
    return {"X-Sundial-User-Id": user, **LABELS}


async def gauge(chain: Chain, name: str) -> float:
    async with aiohttp.ClientSession() as client, client.get(chain.stack.gateway.url("/metrics")) as answer:
        [line] = [line for line in (await answer.text()).splitlines() if line.startswith(f"sundial_gateway_{name} ")]
    return float(line.split()[1])


async def filled(chain: Chain, secret: str, home: Path, number: int) -> None:
    """Calls until the journal has come to that segment, none of them refused for want of room: on a machine that is
    busy Redis may be late."""

    async def client(user: str) -> None:
        async with chain.session(secret) as session:
            while max(written(home)) < number:
                async with session.post("/v1/chat/completions", json=BODY, headers=labelled(user)) as answer:
                    await answer.read()
                if answer.status != 200:
                    await chain.stack.gateway.until_ready()

    await asyncio.gather(*(client(f"user{number}") for number in range(CLIENTS)))
    assert "bytes are full" not in chain.stack.gateway.output


async def test_g8_history_goes_before_service(
    tmp_path: Path, database: Database, redis_url: str, upstream: FakeUpstream
) -> None:
    """The journal's own limit is reached twice over: no call is refused, a call that runs all the time is booked when
    its gateway is killed, and so is everything else, once."""
    home = tmp_path / "home"
    settings = {"SUNDIAL_JOURNAL_BYTES_MAX": str(JOURNAL_BYTES_MAX), "SUNDIAL_DEFAULT_ALLOWANCE": "1000000"}
    async with running_chain(home, database, redis_url, upstream, **settings) as chain:
        secret = await chain.service()
        never = asyncio.Event()
        upstream.script = lambda _: Play(
            tokens=40, pause=lambda sent: asyncio.ensure_future(never.wait()) if sent == 10 else None
        )
        long = asyncio.create_task(chain.raw(await chain.personal("bia", credit="1000"), STREAM))
        await upstream.arrived(1)
        upstream.script = lambda _: Play()
        await filled(chain, secret, home, 2 * SEGMENTS_MAX)
        assert min(written(home)) > SEGMENTS_MAX // 2
        assert 0 < await gauge(chain, "journal_bytes") <= JOURNAL_BYTES_MAX == await gauge(chain, "journal_bytes_max")
        assert 0 < await gauge(chain, "journal_reach_seconds") < 600
        chain.stack.gateway.kill()
        await asyncio.gather(long, return_exceptions=True)
        await chain.stack.gateway.start()
        await chain.booked(len(upstream.served))
        booked = await chain.standing()
        assert booked.keys() == {one.event_id for one in upstream.served}
        assert [row["outcome"] for row in booked.values() if row["outcome"] != "complete"] == ["lost"]


async def test_g8_full_while_redis_is_away(redis_chain: Chain, redis_proxy: Proxy) -> None:
    """Nothing can go then: the notes of a stream that runs on fill the journal, and no call begins. When Redis is back
    and has confirmed what was closed, calls begin, and all is booked."""
    gateway, home = redis_chain.stack.gateway, Path(redis_chain.stack.environment["SUNDIAL_HOME"])
    assert await gateway.stop() == 0
    await gateway.start(SUNDIAL_JOURNAL_BYTES_MAX=str(JOURNAL_BYTES_MAX), SUNDIAL_SLICE_TOKENS="64")
    await redis_chain.stack.sundial("plan", "set", "default", "--allowance", "1000000")
    secret = await redis_chain.service()
    await filled(redis_chain, secret, home, 3 * SEGMENTS_MAX // 4)
    arrived = len(redis_chain.upstream.served)
    more = asyncio.Event()
    redis_chain.upstream.script = lambda _: Play(
        tokens=LONG, pause=lambda sent: asyncio.ensure_future(more.wait()) if sent == 10 else None
    )

    async def stream() -> bytes:
        async with (
            redis_chain.session(secret) as session,
            session.post("/v1/chat/completions", json=STREAM, headers=labelled("ana")) as answer,
        ):
            return await answer.read()

    streams = [asyncio.create_task(stream()) for _ in range(3)]
    await redis_chain.upstream.arrived(arrived + 3)
    redis_chain.upstream.script = lambda _: Play()
    real, redis_proxy.target_port = redis_proxy.target_port, 1
    redis_proxy.cut()
    await gateway.until_ready(ready=False)
    more.set()
    await until(lambda: len(written(home)) == SEGMENTS_MAX, 60)
    for answer in await asyncio.gather(*streams):
        assert answer.endswith(b"data: [DONE]\n\n")
    assert (await redis_chain.post(secret, BODY, labelled("ana")))[0] == 503
    redis_proxy.target_port = real

    async def served() -> bool:
        return (await redis_chain.post(secret, BODY, labelled("ana")))[0] == 200

    await until(served, 30)
    await assert_truth(redis_chain.stack.database_url, redis_chain.upstream)


def damage(home: Path) -> None:
    """One bit of a record in the middle is turned, and half a line stands at the end."""
    [folder] = [path for path in (home / "journal").iterdir() if segments(path)]
    segment = segments(folder)[-1]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0x04
    segment.write_bytes(data + b'0123abcd S {"half')


async def damaged(chain: Chain) -> bool:
    """Whether the gateway tells of one damaged record."""
    async with aiohttp.ClientSession() as client, client.get(chain.stack.gateway.url("/metrics")) as answer:
        return "\nsundial_gateway_journal_damaged_total 1.0\n" in await answer.text()


async def test_g8_torn_and_damaged(chain: Chain) -> None:
    """A gateway dies, and what it leaves has a flipped bit and a torn end: the next one starts, tells of the one record
    that it skipped, and books nothing twice and nothing else."""
    secret = await chain.personal("ana", credit="1000000")
    for number in range(CALLS):
        await chain.raw(secret, {**BODY, "stream": bool(number % 2)})
    await chain.booked(CALLS)
    chain.stack.gateway.kill()
    await asyncio.to_thread(damage, Path(chain.stack.environment["SUNDIAL_HOME"]))
    await chain.stack.gateway.start()
    await until(lambda: damaged(chain))
    assert (await chain.post(secret, BODY))[0] == 200
    await chain.settled("ana")
    await assert_truth(chain.stack.database_url, chain.upstream)
