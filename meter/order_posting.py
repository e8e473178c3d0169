"""Orders and expiries to rows of the books. Pure.

An order is one of
  a grant, or a positive adjustment   → a grant of its kind and the transfer
  a negative adjustment               → a transfer, drawn from grants like a charge
  closed already                      → nothing: whoever closed it has told everybody
  one that no row can hold            → refused, with the reason
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from uuid import UUID

import msgspec

from meter.accounts import Account, Credit, Rows, Transfer, UnbookableError, charge, credit, expire
from shared import ids


class Order(msgspec.Struct, frozen=True, kw_only=True):
    order_id: UUID
    account_id: UUID
    kind: str
    amount_mc: int
    priority: int
    memo: str
    expires_at_us: int
    created_at_us: int


class Outcome(msgspec.Struct, frozen=True):
    order_id: UUID
    outcome: str
    """posted or refused"""
    detail: str = ""


class OrderPosting(msgspec.Struct):
    rows: Rows
    outcomes: list[Outcome]


def post_orders(
    orders: Sequence[Order], accounts: Mapping[UUID, Account], closed: Container[UUID], now_us: int
) -> OrderPosting:
    """Book `orders` on `accounts` (moved on in place), of which those in `closed` have an outcome already."""
    posting = OrderPosting(rows=Rows(), outcomes=[])
    for order in orders:
        if order.order_id in closed:
            continue
        try:
            _book(posting.rows, accounts[order.account_id], order, now_us)
            posting.outcomes.append(Outcome(order.order_id, "posted"))
        except UnbookableError as reason:
            posting.outcomes.append(Outcome(order.order_id, "refused", str(reason)))
    return posting


def _book(rows: Rows, account: Account, order: Order, now_us: int) -> None:
    transfer = Transfer(
        transfer_id=order.order_id,
        kind=order.kind,
        contra=order.kind,
        occurred_at_us=order.created_at_us,
        memo=order.memo,
    )
    if order.amount_mc < 0:
        charge(account, rows, transfer, -order.amount_mc, now_us)
        return
    if order.expires_at_us <= now_us:
        raise UnbookableError("the grant would have expired before it was booked")
    given = Credit(
        grant_id=order.order_id,
        kind=order.kind,
        amount_mc=order.amount_mc,
        priority=order.priority,
        expires_at_us=order.expires_at_us,
    )
    credit(account, rows, transfer, given, now_us)


def post_expiries(accounts: Iterable[Account], now_us: int) -> Rows:
    """Take back what the grants that have expired by now have left, on accounts whose lock is held."""
    rows = Rows()
    for account in accounts:
        for grant in [one for one in account.grants if one.expires_at_us <= now_us]:
            transfer = Transfer(
                transfer_id=ids.uuid7(now_us // 1000, grant.grant_id.bytes[-10:]),
                kind="expiry",
                contra="expiry",
                occurred_at_us=grant.expires_at_us,
                link_id=grant.grant_id,
            )
            expire(account, rows, transfer, grant, now_us)
    return rows
