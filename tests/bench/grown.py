"""Makes the books long: rows of many accounts of their own, written straight to Postgres, in the month that runs.

They have the size, the order and the indexes of what a meter would have booked by then, not its digests: an audit of
such a database finds as many faults.
"""

from typing import Any, Final

import asyncpg

STEP: Final = 500_000
"""Rows of one statement."""
OTHERS: Final = 100_000
"""Accounts that the rows are of."""

_IDS: Final = """
SELECT n, md5('account' || n % {others})::uuid AS account_id, 1 + n / {others} AS seq, at,
       (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || left(md5(n::text), 3)
        || '8' || right(md5(n::text), 15))::uuid AS id
  FROM (SELECT n, date_trunc('month', now()) + (now() - date_trunc('month', now())) * (n::float / {total}) AS at
          FROM generate_series({start}, {end}) AS n) AS made
"""
_ROWS: Final = f"""
WITH r AS MATERIALIZED ({_IDS}), t AS (
    INSERT INTO sundial.transfers (account_id, transfer_id, seq, kind, contra, amount_mc, balance_after_mc, occurred_at,
                                   recorded_at, digest)
    SELECT account_id, id, seq, 'usage', 'usage', -60000, 1000000000, at, at, sha256(id::text::bytea)
      FROM r
), d AS (
    INSERT INTO sundial.draws (account_id, transfer_id, grant_id, amount_mc)
    SELECT account_id, id, account_id, 60000
      FROM r
)
INSERT INTO sundial.usage_events
       (account_id, event_id, key_id, family, model_asked, model_answered, priced_as, price_version, card, tokens_in,
        tokens_out, usage, charge_mc, cost_nano, gateway_charge_mc, evidence, outcome, stream, status, started_at,
        settled_at, gateway, recorded_at)
SELECT account_id, id, account_id, 'chat', 'gpt-4o-mini', 'gpt-4o-mini-2024-07-18', 'gpt-4o-mini', 1, 'tokens@1', 30,
       30, jsonb_build_object('input', 30, 'output', 30), 60000, 22500, 60000, 'provider', 'complete', true, 200, at,
       at, 'gw-1', at
  FROM r
"""


async def grow(database_url: str, start: int, end: int, total: int) -> None:
    """Add the rows from `start` up to and without `end`, of `total` that the month will have. As the tables' owner."""
    connection: Any = await asyncpg.connect(database_url, server_settings={"synchronous_commit": "off", "jit": "off"})
    try:
        for first in range(start, end, STEP):
            last = min(first + STEP, end) - 1
            await connection.execute(_ROWS.format(start=first, end=last, total=total, others=OTHERS))
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
