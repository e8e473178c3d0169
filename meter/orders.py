"""Posts what people order, and takes back what has expired. Only the meter moves money.

Both tell Redis through the projection queue, in the transaction that moves the money: if the meter dies right after
its commit, the next one tells.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import structlog

from meter import books, metrics
from meter.database import is_data_fault, transaction
from meter.draws import NEVER_US
from meter.order_posting import Order, Outcome, post_expiries, post_orders
from meter.queries import QUERIES

CHANNEL: Final = "sundial_orders"
"""Notified by whoever queues an order."""
ORDERS_MAX: Final = 200
"""Orders, or expiries, in one transaction."""

_QUEUED_ORDERS: Final = QUERIES["queued_orders"]
_CLOSED_ORDERS: Final = QUERIES["closed_orders"]
_ENSURE_BALANCES: Final = QUERIES["ensure_balances"]
_INSERT_ORDER_OUTCOMES: Final = QUERIES["insert_order_outcomes"]
_DEQUEUE_ORDERS: Final = QUERIES["dequeue_orders"]
_EXPIRED_GRANTS: Final = QUERIES["expired_grants"]
_ANNOUNCE_ACCOUNTS: Final = QUERIES["announce_accounts"]
_NOTIFY_PROJECTION: Final = QUERIES["notify_projection"]

log = structlog.get_logger()


class Orders:
    """Posts the orders of some shards. Two meters on one shard do no harm: an order is closed once."""

    def __init__(self, pool: Any, shards: Sequence[int]) -> None:
        self._pool = pool
        self._shards = list(shards)

    async def post(self) -> bool:
        """Post what is queued; True where there may be more. Raises asyncpg's errors."""
        rows = await self._pool.fetch(_QUEUED_ORDERS, self._shards, ORDERS_MAX)
        orders = [_order(row) for row in rows]
        if orders:
            try:
                await self._post(orders)
            except Exception as error:
                if not is_data_fault(error):
                    raise
                await self._post_singly(orders)
        return len(orders) == ORDERS_MAX

    async def _post(self, orders: Sequence[Order]) -> None:
        async with transaction(self._pool) as connection:
            account_ids = {order.account_id for order in orders}
            await connection.execute(_ENSURE_BALANCES, list(account_ids))
            accounts, now_us = await books.lock(connection, account_ids)
            order_ids = [order.order_id for order in orders]
            closed = {row["order_id"] for row in await connection.fetch(_CLOSED_ORDERS, order_ids)}
            posting = post_orders(orders, accounts, closed, now_us)
            await books.write(connection, posting.rows, accounts.values())
            await self._close(connection, posting.outcomes, order_ids)
            await _announce(connection, account_ids)
        for one in posting.outcomes:
            metrics.ORDERS.labels(outcome=one.outcome).inc()

    async def _post_singly(self, orders: Iterable[Order]) -> None:
        """Find the order that the books cannot take, and refuse it."""
        for order in orders:
            try:
                await self._post([order])
            except Exception as error:
                if not is_data_fault(error):
                    raise
                log.exception("order refused", order=str(order.order_id))
                refusal = Outcome(order.order_id, "refused", f"the books cannot take it: {error}")
                async with transaction(self._pool) as connection:
                    await self._close(connection, [refusal], [order.order_id])
                metrics.ORDERS.labels(outcome="refused").inc()

    async def _close(self, connection: Any, outcomes: Sequence[Outcome], order_ids: Sequence[UUID]) -> None:
        if outcomes:
            rows = ((one.order_id, one.outcome, one.detail) for one in outcomes)
            await connection.execute(_INSERT_ORDER_OUTCOMES, *books.columns(rows))
        await connection.execute(_DEQUEUE_ORDERS, order_ids)

    async def expire(self) -> bool:
        """Take back what expired grants have left; True where there may be more. Raises asyncpg's errors."""
        due = await self._pool.fetch(_EXPIRED_GRANTS, self._shards, ORDERS_MAX)
        if due:
            async with transaction(self._pool) as connection:
                accounts, now_us = await books.lock(connection, {row["account_id"] for row in due})
                rows = post_expiries(accounts.values(), now_us)
                await books.write(connection, rows, accounts.values())
                await _announce(connection, accounts.keys())
            metrics.EXPIRIES.inc(len(rows.transfers))
        return len(due) == ORDERS_MAX


async def _announce(connection: Any, account_ids: Iterable[UUID]) -> None:
    await connection.execute(_ANNOUNCE_ACCOUNTS, list(account_ids))
    await connection.execute(_NOTIFY_PROJECTION)


def _order(row: Any) -> Order:
    fields = dict(row)
    if fields["expires_at_us"] is None:
        fields["expires_at_us"] = NEVER_US
    return Order(**fields)
