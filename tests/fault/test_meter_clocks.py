"""M5: the gateway's clock is days wrong, or goes back while it runs: calls are served, booked, and flagged as such."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.harness.chain import Chain
from tests.harness.load import BODY, assert_truth

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))

pytestmark = pytest.mark.skipif(not _LIBRARIES, reason="libfaketime is not installed (Debian: apt install faketime)")

CALLS = 3


async def test_m5_a_clock_that_is_days_wrong_and_goes_back(chain: Chain, tmp_path: Path) -> None:
    """Three days ahead, then in mid-run three days behind: every call is booked once at Postgres's time, with the flag
    off_time, and the account's history has no gap."""
    offset = tmp_path / "offset"
    await asyncio.to_thread(offset.write_text, "+3d\n")
    secret = await chain.personal("ana", credit="1000000")
    assert await chain.stack.gateway.stop() == 0
    await chain.stack.gateway.start(
        LD_PRELOAD=str(_LIBRARIES[0]),
        FAKETIME_TIMESTAMP_FILE=str(offset),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    for _ in range(CALLS):
        await chain.raw(secret, BODY)
    await asyncio.to_thread(offset.write_text, "-3d\n")
    for _ in range(CALLS):
        await chain.raw(secret, {**BODY, "stream": True})
    await assert_truth(chain.stack.database_url, chain.upstream)
    rows = await _events(chain)
    assert [row["days"] for row in rows] == [3] * CALLS + [-3] * CALLS
    assert all("off_time" in row["flags"] for row in rows)
    assert all(row["age_s"] < 120 for row in rows)


async def _events(chain: Chain) -> Any:
    connection = await asyncpg.connect(chain.stack.database_url)
    try:
        return await connection.fetch(
            """
            SELECT flags, round(extract(epoch FROM u.settled_at - u.recorded_at) / 86400)::int AS days,
                   extract(epoch FROM clock_timestamp() - u.recorded_at) AS age_s
              FROM sundial.usage_events u JOIN sundial.transfers t
                ON t.transfer_id = u.event_id AND t.account_id = u.account_id
             ORDER BY t.seq
            """
        )
    finally:
        await connection.close()
