"""How much the gateway's interpreter does for a call, as counts that cannot drift unnoticed (docs/performance.md)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.chain import Chain
from tests.harness.chain_fixtures import running_chain, upstream
from tests.harness.fake_upstream import FakeUpstream
from tests.harness.servers import Database
from tests.harness.steps import Steps, counted, counting, total

__all__ = ["upstream"]

pytestmark = pytest.mark.integration

CALLS: Final = 20
OPCODES_PER_CALL_MAX: Final = 6_400
OPCODES_PER_STREAM_MAX: Final = 20_700
ASK: Final[dict[str, Any]] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Oi"}]}


@pytest.fixture
async def counting_chain(
    tmp_path: Path, database: Database, redis_url: str, upstream: FakeUpstream
) -> AsyncIterator[Chain]:
    """A chain whose gateway's steps can be counted into tmp_path/steps."""
    settings = counting(tmp_path / "steps")
    async with running_chain(tmp_path / "home", database, redis_url, upstream, **settings) as started:
        yield started


@pytest.mark.parametrize(("stream", "opcodes_max"), [(False, OPCODES_PER_CALL_MAX), (True, OPCODES_PER_STREAM_MAX)])
async def test_a_call_takes_so_many_steps(
    counting_chain: Chain, tmp_path: Path, stream: bool, opcodes_max: int
) -> None:
    """One call after another; what goes by the clock is a small part of it."""
    secret = await counting_chain.personal("ana", credit="1000")

    async def calls() -> None:
        async with counting_chain.session(secret) as session:
            for _ in range(CALLS):
                async with session.post("/v1/chat/completions", json={**ASK, "stream": stream}) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
        await counting_chain.settled("ana")

    await calls()
    steps = await counted(counting_chain.stack.gateway.pid, tmp_path / "steps", calls)
    assert _calls_of(steps, "gateway/pipeline.py", "serve") >= CALLS, "it counted what it was to count"
    assert total(steps).opcodes / CALLS < opcodes_max, steps[:20]


def _calls_of(steps: list[Steps], file: str, name: str) -> int:
    return sum(each.calls for each in steps if each.place.startswith(file) and each.place.endswith(f" {name}"))
