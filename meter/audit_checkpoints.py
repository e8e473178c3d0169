"""Proves what the checkpoints in the database say of one another and of the streams: each names the one before it by
its SHA-256, so that one that was removed or altered leaves its successor alone; and no stream is booked less far than
the newest says. What stands in the files outside is for whoever keeps them (meter.checkpoints).

Two that were made at once may name the same one. Of each only the beginning is read: the accounts come last.
"""

import re
from typing import Any, Final

from meter.violation import Violation

RULE: Final = "checkpoint_chain"
HEAD_BYTES_MAX: Final = 1 << 20
"""Bytes of a statement in which all but its accounts stand."""

_CHECKPOINTS: Final = """
    SELECT checkpoint_id, encode(sha256(statement), 'hex') AS sha256, substring(statement FROM 1 FOR $1) AS head
      FROM sundial.checkpoints ORDER BY checkpoint_id
"""
_POSITIONS: Final = "SELECT shard, entry_id FROM sundial.stream_positions"
_SAID: Final = re.compile(rb'"positions":(\{[^{}]*\}),"before":"([0-9a-f]*)"')
_POSITION: Final = re.compile(r'"(\d{1,2})":"([^"]*)"')
_ENTRY_ID: Final = re.compile(r"(\d+)-(\d+)")


async def audit_checkpoints(connection: Any, *, found_max: int) -> list[Violation]:
    """What is wrong among them. Raises asyncpg's errors."""
    found: list[Violation] = []
    known = {""}
    named: dict[Any, str] = {}
    positions: dict[str, str] = {}
    async for row in connection.cursor(_CHECKPOINTS, HEAD_BYTES_MAX, prefetch=1):
        known.add(row["sha256"])
        said = _SAID.search(row["head"])
        if said is None:
            found.append(Violation(RULE, f"checkpoint {row['checkpoint_id']}", "cannot be read"))
            continue
        positions = dict(_POSITION.findall(said[1].decode()))
        named[row["checkpoint_id"]] = said[2].decode()
    for checkpoint_id, before in named.items():
        if before not in known:
            detail = "the one before it is gone, or not what it was"
            found.append(Violation(RULE, f"checkpoint {checkpoint_id}", detail))
    booked = {str(row["shard"]): row["entry_id"] for row in await connection.fetch(_POSITIONS)}
    for shard, entry_id in positions.items():
        now = booked.get(shard, "0-0")
        if _order(now) < _order(entry_id):
            detail = f"is booked to entry {now}; the newest checkpoint says {entry_id}"
            found.append(Violation(RULE, f"stream of shard {shard}", detail))
    return found[:found_max]


def _order(entry_id: str) -> tuple[int, int]:
    """As meter.ledger.stream_order; what is no entry id comes before all."""
    numbers = _ENTRY_ID.fullmatch(entry_id)
    return (int(numbers[1]), int(numbers[2])) if numbers else (-1, -1)
