"""One chain per test: real gateway and meter on real servers, a fake upstream behind them, clients in front."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.harness.books import assert_books
from tests.harness.chain import Chain
from tests.harness.fake_upstream import FakeUpstream
from tests.harness.scripted_chain import Scripted, scripted_chain
from tests.harness.servers import Database
from tests.harness.stack import Stack


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    """A fake upstream; the test fails where it was surprised."""
    fake = FakeUpstream()
    async with fake.listening():
        yield fake
    assert fake.surprises == []


@asynccontextmanager
async def running_chain(
    home: Path, database: Database, redis_url: str, upstream: FakeUpstream, **settings: str
) -> AsyncIterator[Chain]:
    """Gateway and meter, ready, with these settings over the harness's. Afterwards the books must close."""
    stack = Stack(
        home,
        database,
        redis_url=redis_url,
        upstream_url=upstream.url,
        upstream_key=upstream.key,
        settings=settings,
    )
    try:
        await stack.start()
        yield Chain(stack, upstream)
        await assert_books(database.url, redis_url, home=home)
    finally:
        await stack.stop()


@pytest.fixture
async def chain(tmp_path: Path, database: Database, redis_url: str, upstream: FakeUpstream) -> AsyncIterator[Chain]:
    """Gateway and meter on the session's servers."""
    async with running_chain(tmp_path / "home", database, redis_url, upstream) as started:
        yield started


@pytest.fixture
async def scripted(
    tmp_path: Path, database: Database, redis_url: str, upstream: FakeUpstream
) -> AsyncIterator[Scripted]:
    """A chain whose upstream does what the test says. Afterwards the books must close."""
    async with scripted_chain(tmp_path / "home", database, redis_url, upstream) as chain:
        yield chain
