"""What a transaction does to one account: a charge, a credit, an expiry, as rows for the books. Pure.

An `Account` is the locked row of `balances` with its open grants; each function moves it on by one transfer and adds
the rows that record it. Times are Unix microseconds, amounts millicredits.
"""

from typing import Any, Final
from uuid import UUID

import msgspec

from meter.draws import NEVER_US, OpenGrant, debt_paid, draw, drawing_order
from shared.units import MC_MAX

PRIORITY_DEFAULT: Final = 100


TRANSFER_COLUMNS: Final = (
    "account_id",
    "transfer_id",
    "seq",
    "kind",
    "contra",
    "amount_mc",
    "balance_after_mc",
    "link_id",
    "memo",
    "occurred_at",
    "recorded_at",
)
DRAW_COLUMNS: Final = ("account_id", "transfer_id", "grant_id", "amount_mc")
UNPRICED_COLUMNS: Final = ("account_id", "event_id", "shard", "late")
CORRECTION_COLUMNS: Final = (
    "account_id",
    "event_id",
    "transfer_id",
    "price_version",
    "priced_as",
    "charge_mc",
    "cost_nano",
    "recorded_at",
    "late",
)


class UnbookableError(Exception):
    """A message or order that no row can hold; the text says why and stands in the dead letter or the outcome."""


class Account(msgspec.Struct, kw_only=True, gc=False):
    """An account whose balance row is locked."""

    account_id: UUID
    balance_mc: int
    seq: int
    recorded_at_us: int
    """When its last transfer was recorded: the next is never earlier."""
    grants: list[OpenGrant]
    """Open grants in drawing order."""
    digest: bytes = bytes(32)
    """Of its last transfer: see meter.digests."""
    # Not money, but what Redis is told beside it.
    shard: int = 0
    revision: int = 0
    floor_mc: int = 0
    status: str = "active"
    plan: str = ""
    mode: str = "enforce"


class Rows(msgspec.Struct):
    """Rows to insert, each tuple in the order of its table's columns: above and in meter.usage_rows; those of grants in
    that of the statement insert_grants."""

    usage_events: list[tuple[Any, ...]] = []
    transfers: list[tuple[Any, ...]] = []
    draws: list[tuple[UUID, UUID, UUID, int]] = []
    grants: list[tuple[Any, ...]] = []
    unpriced: list[tuple[UUID, UUID, int, bool]] = []
    """Booked events that wait for a price."""
    corrections: list[tuple[Any, ...]] = []
    """Price corrections; their transfers stand above."""
    event_corrections: list[tuple[Any, ...]] = []
    """True records of what had been booked as lost; their transfers stand above. What was lost waits for no price any
    more."""
    drawn: dict[UUID, tuple[UUID, OpenGrant]] = {}
    """Grants that have less left than their row says, this transaction's own among them: id → account and grant."""


class Transfer(msgspec.Struct, kw_only=True, gc=False):
    """What a transfer says beside its amount."""

    transfer_id: UUID
    kind: str
    contra: str
    occurred_at_us: int
    link_id: UUID | None = None
    memo: str = ""


def record(account: Account, rows: Rows, transfer: Transfer, amount_mc: int, now_us: int) -> None:
    """Move the balance by `amount_mc`. Raises UnbookableError, before anything has changed, if it left its bounds."""
    balance_mc = account.balance_mc + amount_mc
    if not -MC_MAX <= balance_mc <= MC_MAX:
        raise UnbookableError(f"the balance would be {balance_mc} mc, beyond its bounds")
    account.balance_mc = balance_mc
    account.seq += 1
    account.recorded_at_us = max(account.recorded_at_us, now_us)
    rows.transfers.append(
        (
            account.account_id,
            transfer.transfer_id,
            account.seq,
            transfer.kind,
            transfer.contra,
            amount_mc,
            balance_mc,
            transfer.link_id,
            transfer.memo,
            transfer.occurred_at_us,
            account.recorded_at_us,
        )
    )


def charge(account: Account, rows: Rows, transfer: Transfer, amount_mc: int, now_us: int) -> None:
    """Take `amount_mc` (>= 0) from the account: facts are booked below the floor too."""
    record(account, rows, transfer, -amount_mc, now_us)
    if account.grants:
        for grant, part in draw(account.grants, amount_mc):
            rows.draws.append((account.account_id, transfer.transfer_id, grant.grant_id, part))
            rows.drawn[grant.grant_id] = (account.account_id, grant)


class Credit(msgspec.Struct, kw_only=True):
    """What is given: it becomes a grant."""

    grant_id: UUID
    kind: str
    """Of the grant: allowance, grant, purchase, adjustment, refund."""
    amount_mc: int
    priority: int = PRIORITY_DEFAULT
    expires_at_us: int = NEVER_US


def credit(account: Account, rows: Rows, transfer: Transfer, given: Credit, now_us: int) -> None:
    """Give the account a grant; what the account owes is paid from it at once, as draws of its own transfer."""
    debt_mc = debt_paid(account.balance_mc, given.amount_mc)
    record(account, rows, transfer, given.amount_mc, now_us)
    grant = OpenGrant(
        grant_id=given.grant_id,
        remaining_mc=given.amount_mc - debt_mc,
        priority=given.priority,
        expires_at_us=given.expires_at_us,
        seq=account.seq,
    )
    rows.grants.append(
        (
            account.account_id,
            given.grant_id,
            transfer.transfer_id,
            given.kind,
            given.amount_mc,
            given.priority,
            None if given.expires_at_us == NEVER_US else given.expires_at_us,
            account.seq,
            account.recorded_at_us,
            grant.remaining_mc,
        )
    )
    if debt_mc:
        rows.draws.append((account.account_id, transfer.transfer_id, given.grant_id, debt_mc))
    if grant.remaining_mc:
        account.grants.append(grant)
        account.grants.sort(key=drawing_order)


def expire(account: Account, rows: Rows, transfer: Transfer, grant: OpenGrant, now_us: int) -> None:
    """Take back what an expired grant, one of the account's open ones, has left."""
    left_mc = grant.remaining_mc
    record(account, rows, transfer, -left_mc, now_us)
    rows.draws.append((account.account_id, transfer.transfer_id, grant.grant_id, left_mc))
    grant.remaining_mc = 0
    account.grants.remove(grant)
    rows.drawn[grant.grant_id] = (account.account_id, grant)
