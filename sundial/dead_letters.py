"""Dead letters as people see them and order about them: the meter does what they order, and its answer is awaited."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sundial.database import confirmed, statements
from sundial.orders import fresh_id, lost, orderer, outcome, waiting
from sundial.problems import NegativeError

PAYLOAD_SHOWN: Final = 4_096
"""Bytes of an entry that are shown."""
_POLL_S: Final = 0.03


async def listed(db: Any, *, closed: bool, limit: int) -> list[dict[str, Any]]:
    """The newest letters first: those that nobody has dealt with, and with `closed` the others too."""
    return [dict(row) for row in await db.fetch(statements()["list_dead_letters"], closed, limit)]


async def find(db: Any, letter_id: UUID) -> dict[str, Any]:
    """One letter, whole, with what was ordered about it. Raises NegativeError where there is none."""
    row = await db.fetchrow(statements()["find_dead_letter"], letter_id)
    if row is None:
        raise NegativeError(f"no dead letter {letter_id}. `sundial dead-letter list --all` lists them.")
    payload = bytes(row["payload"])
    history = await db.fetch(statements()["history_of_dead_letter"], letter_id)
    return {
        **{name: value for name, value in row.items() if name != "payload"},
        "bytes": len(payload),
        "payload": payload[:PAYLOAD_SHOWN].decode("utf-8", "replace"),
        "orders": [dict(one) for one in history],
    }


async def order(db: Any, letter_ids: Sequence[UUID], action: str, memo: str, wait_s: float) -> list[dict[str, Any]]:
    """Order `action` (requeue or discard) for all the letters, or for none where one does not exist; the meter's
    answers, `queued` where they have not come within `wait_s` seconds or were not seen. Raises NegativeError, and after
    Ctrl-C InterruptedCommandError."""
    letters = [await find(db, letter_id) for letter_id in dict.fromkeys(letter_ids)]
    asked = {fresh_id(): letter for letter in letters}
    sql = statements()
    which = ", ".join(map(str, asked))
    async with confirmed(db, f"whether order {which} is queued is not known; see `sundial dead-letter show`"):
        for order_id, letter in asked.items():
            who = letter["letter_id"]
            await db.execute(sql["insert_dead_letter_order"], order_id, who, action, memo, orderer())
            await db.execute(sql["queue_dead_letter_order"], order_id, who, letter["shard"])
        await db.execute(sql["tell_dead_letters"])
    deadline = time.monotonic() + wait_s
    with waiting(tuple(asked), "sundial dead-letter show"):
        return [await _answer(db, order_id, letter, deadline) for order_id, letter in asked.items()]


async def _answer(db: Any, order_id: UUID, letter: dict[str, Any], deadline: float) -> dict[str, Any]:
    answer = {"order_id": order_id, "letter_id": letter["letter_id"], "event_id": letter["event_id"]}
    while True:
        try:
            row = await outcome(db, statements()["dead_letter_outcome"], order_id, deadline)
        except Exception as error:  # noqa: BLE001 - the order is queued, whatever it is
            return {**answer, "outcome": "queued", "detail": f"{lost(error)}; see `sundial dead-letter show`"}
        if row is not None:
            return {**answer, "outcome": row["outcome"], "detail": row["detail"]}
        if time.monotonic() >= deadline:
            return {**answer, "outcome": "queued", "detail": "the meter will do it as soon as it runs"}
        await asyncio.sleep(_POLL_S)
