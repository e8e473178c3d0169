"""A Redis of a test's own, that it may break, and a chain on it with a proxy between it and everybody."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.harness.chain import Chain
from tests.harness.chain_fixtures import running_chain
from tests.harness.fake_upstream import FakeUpstream
from tests.harness.proxy import Proxy
from tests.harness.redis_versions import RedisProgram, programs, running
from tests.harness.servers import Database


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisProgram]:
    """The newest that this machine has, as production runs it: its append-only file flushed each second."""
    with running(max(programs()), tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def redis_proxy(own_redis: RedisProgram) -> AsyncIterator[Proxy]:
    """The address at which gateway and meter know Redis, whichever server answers there."""
    async with Proxy(own_redis.port).listening() as proxy:
        yield proxy


@pytest.fixture
async def redis_chain(
    tmp_path: Path, database: Database, own_redis: RedisProgram, redis_proxy: Proxy, upstream: FakeUpstream
) -> AsyncIterator[Chain]:
    """Gateway and meter on that server."""
    url = f"redis://:{quote(own_redis.password, safe='')}@127.0.0.1:{redis_proxy.port}/0"
    async with running_chain(tmp_path / "home", database, url, upstream) as started:
        yield started
