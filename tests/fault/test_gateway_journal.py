"""G8 with a gateway: the journal's disk is full, and what a dead gateway left is torn and damaged."""

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
from tests.harness.servers import Database
from tests.harness.small_disk import Disk, mounted
from tests.harness.waiting import until

STREAM: Final[Any] = {**BODY, "stream": True}
DISK_BYTES: Final = 1024 * 1024
CALLS: Final = 4
CALLS_MAX: Final = 20
"""Calls whose records fit into the last page that the journal had got."""


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
