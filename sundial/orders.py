"""Orders: a person asks for money to move, the meter moves it under the same id, the answer is awaited."""

import asyncio
import getpass
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from shared.ids import uuid7
from sundial.database import reason, statements
from sundial.problems import InterruptedCommandError

WAIT_S: Final = 5.0
"""How long a command waits for the meter to post its order."""
LOOK_S_MIN: Final = 1.0
"""Seconds that one look for an answer may take at least, also where nobody waits."""
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


@contextmanager
def waiting(order_ids: Sequence[UUID], see: str) -> Iterator[None]:
    """What is queued stays queued when Ctrl-C ends the wait: raises InterruptedCommandError, which says so and where
    to see it."""
    try:
        yield
    except asyncio.CancelledError:
        which = ", ".join(map(str, order_ids))
        are = f"order {which} is" if len(order_ids) == 1 else f"orders {which} are"
        raise InterruptedCommandError(f"Interrupted: {are} queued, do not order it again; see `{see}`.") from None


async def answer(db: Any, order_id: UUID, wait_s: float) -> Answer:
    """The meter's answer, as soon as it is there; `queued` where it is not within `wait_s` seconds, or where Postgres
    is lost meanwhile: the order is in the books and is posted all the same.

    Raises InterruptedCommandError after Ctrl-C.
    """
    deadline = time.monotonic() + wait_s
    with waiting((order_id,), "sundial account show"):
        while True:
            try:
                row = await outcome(db, statements()["order_outcome"], order_id, deadline)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no reason to order again
                return Answer(outcome="queued", detail=f"{lost(error)}; see `sundial account show`")
            if row is not None:
                return Answer(outcome=row["outcome"], detail=row["detail"], balance_mc=row["balance_mc"])
            if time.monotonic() >= deadline:
                return Answer(outcome="queued", detail="the meter has not posted it yet and will as soon as it runs")
            await asyncio.sleep(_POLL_S)


async def outcome(db: Any, query: str, order_id: UUID, deadline: float) -> Any:
    """One look for an answer, which does not outlast the wait by more than LOOK_S_MIN where Postgres hangs."""
    return await db.fetchrow(query, order_id, timeout=max(LOOK_S_MIN, deadline - time.monotonic()))


def lost(error: Exception) -> str:
    """Why the answer to an order that is queued was not seen."""
    return f"the answer could not be seen ({reason(error)})"
