"""Tasks of upkeep live as long as the gateway does."""

import asyncio

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from gateway.upkeep import lasting
from tests.harness.waiting import until


async def test_what_dies_is_said_and_begun_anew() -> None:
    """A task that raises begins anew, each time with a critical line and a count; cancelling ends it."""
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise ValueError("a fault of ours")
        await asyncio.Event().wait()

    with capture_logs() as lines:
        task = asyncio.create_task(lasting("test", work, 0))
        await until(lambda: begun == 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert [(line["event"], line["task"], line["log_level"]) for line in lines] == [
        ("upkeep_failed", "test", "critical")
    ] * 2
    assert REGISTRY.get_sample_value("sundial_gateway_upkeep_failures_total", {"task": "test"}) == 2
