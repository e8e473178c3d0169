"""C6: ten thousand clients that are connected and ask nothing: what they cost, and that others do not notice."""

import asyncio
import resource
import socket
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import pytest

from gateway.overload import FILES_RESERVED
from tests.fault.test_clients_slow import resident_bytes
from tests.harness.chain import Chain
from tests.harness.load import BODY, assert_truth
from tests.harness.waiting import until

IDLE_MAX: Final = 10_000
FILES: Final = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
"""Descriptors that this machine gives a process."""
IDLE: Final = min(IDLE_MAX, int(0.88 * (FILES - FILES_RESERVED) / 2))
"""Half of the gateway's descriptors are for clients, and at nine tenths of them idle ones are let go: 10,000 where a
process may open 23,000 files."""
BYTES_MAX: Final = 32 * 1024
"""Memory that an idle connection may cost the gateway."""
OPENED_S_MAX: Final = 60.0


@pytest.fixture
def many_files() -> Iterator[None]:
    """Descriptors for this process, which holds the clients' ends."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def opened(address: tuple[str, int], number: int) -> list[socket.socket]:
    return [socket.create_connection(address, OPENED_S_MAX) for _ in range(number)]


async def test_c6_idle_connections(many_files: None, chain: Chain) -> None:
    """So many connections without a request stay open, each for less than 32 KiB; a call beside them is served at once,
    and when they leave nothing of them is left."""
    gateway = chain.stack.gateway
    secret = await chain.personal("ana", credit="1000000")
    before = resident_bytes(gateway.pid)
    target = urlsplit(chain.stack.base_url)
    assert target.hostname is not None
    assert target.port is not None
    clients = await asyncio.to_thread(opened, (target.hostname, target.port), IDLE)
    try:
        await until(lambda: _connected(chain, IDLE), OPENED_S_MAX)
        assert (await chain.post(secret, BODY))[0] == 200
        cost = (resident_bytes(gateway.pid) - before) / IDLE
        assert cost < BYTES_MAX, cost
        print(f"an idle connection costs {cost:,.0f} bytes")  # noqa: T201 (shown by pytest -s)
    finally:
        for client in clients:
            client.close()
    await until(lambda: _left(chain), OPENED_S_MAX)
    await assert_truth(chain.stack.database_url, chain.upstream)


async def _metric(chain: Chain, name: str) -> float:
    async with chain.session("") as session, session.get(chain.stack.gateway.url("/metrics")) as answer:
        lines = (await answer.text()).splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name)


async def _connected(chain: Chain, number: int) -> bool:
    return await _metric(chain, "sundial_gateway_connections") >= number


async def _left(chain: Chain) -> bool:
    return await _metric(chain, "sundial_gateway_connections") < IDLE / 100
