"""An account for the scripts that move credit, on every Redis that this machine has."""

from collections.abc import Iterator

import pytest
import redis

from tests.harness.hold_scripts import HoldScripts, State
from tests.harness.redis_versions import RedisProgram, programs, running


@pytest.fixture(scope="module", params=sorted(programs()))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProgram]:
    with running(request.param, tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def ana(server: RedisProgram) -> Iterator[HoldScripts]:
    """An account with 1,000 mc on an empty, open Redis."""
    with redis.Redis.from_url(server.url()) as client:
        client.flushall()
        account = HoldScripts(client)
        account.open()
        account.told(1_000)
        yield account


def settled(account: HoldScripts) -> State:
    """The account's state, its sums checked: they are what their hashes hold, nothing is negative, and every hold has
    a deadline."""
    state = account.state()
    assert state.held == sum(amount for amount, _, _ in state.holds.values())
    assert state.unposted == sum(state.waiting.values())
    assert state.held >= 0
    assert state.unposted >= 0
    assert state.deadlines.keys() == state.holds.keys()
    return state
