"""PostgreSQL servers of a test's own, and a chain on one of them with a proxy between it and the meter."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.harness.chain import Chain
from tests.harness.chain_fixtures import running_chain
from tests.harness.fake_upstream import FakeUpstream
from tests.harness.own_postgres import OwnPostgres, make_template, running
from tests.harness.postgres_proxy import PostgresProxy


@pytest.fixture(scope="session")
def postgres_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped cluster, migrated and with prices, to copy."""
    return make_template(tmp_path_factory.mktemp("postgres_template") / "home")


@pytest.fixture
def own_postgres(postgres_template: Path, tmp_path: Path) -> Iterator[OwnPostgres]:
    """A server that the test may break."""
    with running(postgres_template, tmp_path / "postgres") as postgres:
        yield postgres


@pytest.fixture
async def postgres_proxy(own_postgres: OwnPostgres) -> AsyncIterator[PostgresProxy]:
    """The meter's way to it."""
    async with PostgresProxy(own_postgres.port).listening() as proxy:
        yield proxy


@pytest.fixture
async def own_chain(
    tmp_path: Path, own_postgres: OwnPostgres, postgres_proxy: PostgresProxy, redis_url: str, upstream: FakeUpstream
) -> AsyncIterator[Chain]:
    """Gateway and meter on that server, the meter by way of the proxy."""
    addresses = own_postgres.addresses(postgres_proxy.port)
    async with running_chain(tmp_path / "home", addresses, redis_url, upstream) as started:
        yield started
