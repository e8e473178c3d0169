"""The chain of digests of an account: each covers the one before, its transfer and what that stands for. Pure.

    digest = SHA-256(digest of the account's transfer before, else 32 zero bytes, followed by the record)
    record = [1, transfer, usage event, grant, price correction, late record, [[grant id, amount_mc], …]]

The record is JSON in UTF-8 as RFC 8785 writes arrays, without spaces: 1 is the version of this encoding; each row is
the array of its columns (meter.accounts) in order, or null where the transfer has none; draws are sorted by grant id. A
uuid is its text in lower case, a time its Unix microseconds, `usage` is a text: its JSON with sorted keys. Integers are
written out, whatever their size.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from meter.accounts import Account, Rows

START: Final = bytes(32)
"""What the first transfer of a chain follows."""
ENCODING: Final = 1
GRANT_WIDTH: Final = 9
"""Columns of a grant's row that are covered: the one beyond them is a cache."""

Row = Sequence[Any]
_encode = msgspec.json.Encoder(enc_hook=str).encode
_sha256 = hashlib.sha256


class UnorderedRowsError(Exception):
    """Rows do not stand in the order of the transfers that they belong to: a fault of the program."""


def digest(
    before: bytes,
    transfer: Row,
    usage_event: Row | None,
    grant: Row | None,
    price_correction: Row | None,
    late_record: Row | None,
    draws: Sequence[tuple[UUID, int]],
) -> bytes:
    """The digest of a transfer; `draws` sorted."""
    record = (ENCODING, transfer, usage_event, grant, price_correction, late_record, draws)
    return _sha256(before + _encode(record)).digest()


def seal(rows: Rows, accounts: Iterable[Account]) -> list[tuple[Any, ...]]:
    """The transfers of `rows`, each with its digest behind it; the accounts' digests are moved on.

    Every other row must stand in the order of the transfers. Raises UnorderedRowsError where one does not.
    """
    heads = {account.account_id: account for account in accounts}
    usage_events, grants, draws = _Queue(rows.usage_events, 1), _Queue(rows.grants, 2), _Queue(rows.draws, 1)
    corrections, late_records = _Queue(rows.corrections, 2), _Queue(rows.event_corrections, 2)
    sealed = []
    for row in rows.transfers:
        transfer_id = row[1]
        account = heads[row[0]]
        usage_event = usage_events.take(transfer_id) if row[3] == "usage" else None
        grant = corrected = late = None
        if row[3] != "usage":
            grant = grants.take(transfer_id)
            corrected = corrections.take(transfer_id)
            late = late_records.take(transfer_id)
        drawn: list[tuple[UUID, int]] = []
        while (draw := draws.take(transfer_id)) is not None:
            drawn.append((draw[2], draw[3]))
        if len(drawn) > 1:
            drawn.sort()
        account.digest = digest(
            account.digest, row, usage_event, None if grant is None else grant[:GRANT_WIDTH], corrected, late, drawn
        )
        sealed.append((*row, account.digest))
    for queue in (usage_events, grants, draws, corrections, late_records):
        queue.end()
    return sealed


class _Queue:
    """Rows that are taken from the front, by the transfer that they belong to."""

    __slots__ = ("_column", "_front", "_rows")

    def __init__(self, rows: Sequence[tuple[Any, ...]], column: int) -> None:
        self._rows = rows
        self._column = column
        self._front = 0

    def take(self, transfer_id: UUID) -> tuple[Any, ...] | None:
        """The next row, if it is that transfer's."""
        front = self._front
        if front == len(self._rows):
            return None
        row = self._rows[front]
        if row[self._column] != transfer_id:
            return None
        self._front = front + 1
        return row

    def end(self) -> None:
        if self._front != len(self._rows):
            raise UnorderedRowsError(f"{self._rows[self._front][:3]} belongs to no transfer in its place")
