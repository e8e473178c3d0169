"""Orders: a person asks for money to move, the meter moves it under the same id, the answer is awaited."""

import asyncio
import getpass
import os
import time
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from shared.ids import uuid7
from sundial.database import statements

WAIT_S: Final = 5.0
"""How long a command waits for the meter to post its order."""
_POLL_S: Final = 0.03


class Order(msgspec.Struct, frozen=True, kw_only=True):
    order_id: UUID
    account_id: UUID
    shard: int
    kind: str
    amount_mc: int
    memo: str = ""
    priority: int = 100
    expires_at: datetime | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an order: `posted`, `refused` with the reason in `detail`, or `queued` until a meter runs."""

    outcome: str
    detail: str = ""
    balance_mc: int | None = None


def fresh_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def orderer() -> str:
    """Who orders, as the books keep it: the login name on this machine."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"cli:uid-{os.getuid()}"


async def place(db: Any, order: Order) -> None:
    """Write the order and queue it, within the caller's transaction; the meter is told when that commits."""
    await db.execute(
        statements()["insert_order"],
        order.order_id,
        order.account_id,
        order.kind,
        order.amount_mc,
        order.priority,
        order.expires_at,
        order.memo,
        orderer(),
    )
    await db.execute(statements()["queue_order"], order.order_id, order.account_id, order.shard)
    await db.execute(statements()["tell_orders"])


async def answer(db: Any, order_id: UUID, wait_s: float) -> Answer:
    """The meter's answer, as soon as it is there; `queued` where it is not within `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    while True:
        row = await db.fetchrow(statements()["order_outcome"], order_id)
        if row is not None:
            return Answer(outcome=row["outcome"], detail=row["detail"], balance_mc=row["balance_mc"])
        if time.monotonic() >= deadline:
            return Answer(outcome="queued", detail="the meter has not posted it yet and will as soon as it runs")
        await asyncio.sleep(_POLL_S)
