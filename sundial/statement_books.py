"""A statement read from the books: one snapshot for totals and entries, entries page by page."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from sundial import accounts
from sundial.database import connect, statements
from sundial.statement import (
    Position,
    StatementBrokenError,
    Totals,
    close_totals,
    first_shown,
    follow,
    month_bounds,
    shares_permille,
)

PAGE_ENTRIES: Final = 1_000
"""Entries read at once: what a statement of any length holds in memory."""


class Grade(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted with one grade of evidence in the month; `share_permille` of the charge."""

    evidence: str
    events: int
    charge_mc: int
    cost_nano: int
    tokens_in: int
    tokens_out: int
    share_permille: int


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """One account's month, closed; its entries come from `entries`."""

    account: Any
    month: str
    timezone: str
    start: datetime
    end: datetime
    opening: Position
    closing: Position
    totals: Totals
    grades: Sequence[Grade]
    corrected_cost_nano: int
    """Provider cost, more or less, of the corrections among its entries."""
    shown_after: int
    """Seq after which entries are listed."""

    @property
    def cost_nano(self) -> int:
        """Provider cost of the month: of its usage, and what later prices and records made of earlier usage."""
        return sum(grade.cost_nano for grade in self.grades) + self.corrected_cost_nano

    @property
    def entries_total(self) -> int:
        return self.closing.seq - self.opening.seq

    @property
    def entries_shown(self) -> int:
        return self.closing.seq - self.shown_after


@asynccontextmanager
async def snapshot(url: str) -> AsyncIterator[Any]:
    """A connection on which all reads see the books as of one moment, and nothing can be written."""
    async with connect(url) as db, db.transaction(isolation="repeatable_read", readonly=True):
        yield db


async def read(db: Any, text: str, directory: str | None, month: str, timezone: str, limit: int) -> Statement:
    """The statement without its entries.

    Raises StatementBrokenError where the books contradict themselves, NegativeError and WrongUsageError as
    `accounts.find` does.
    """
    account = await accounts.find(db, text, directory)
    start, end = month_bounds(month, ZoneInfo(timezone))
    sql = statements()
    who = account["account_id"]
    opening = _position(await db.fetchrow(sql["position_at"], who, start))
    closing = _position(await db.fetchrow(sql["position_at"], who, end))
    sums = await db.fetch(sql["sums_by_kind"], who, opening.seq, closing.seq)
    totals = close_totals(opening, closing, {row["kind"]: row["amount_mc"] for row in sums})
    if sum(row["entries"] for row in sums) != closing.seq - opening.seq:
        raise StatementBrokenError(f"between entries {opening.seq} and {closing.seq} some are missing or double")
    return Statement(
        account=account,
        month=month,
        timezone=timezone,
        start=start,
        end=end,
        opening=opening,
        closing=closing,
        totals=totals,
        grades=await _grades(db, who, opening, closing),
        corrected_cost_nano=await db.fetchval(sql["corrected_cost"], who, opening.seq, closing.seq),
        shown_after=first_shown(opening, closing, limit),
    )


async def _grades(db: Any, who: Any, opening: Position, closing: Position) -> list[Grade]:
    rows = await db.fetch(statements()["sums_by_evidence"], who, opening.seq, closing.seq)
    shares = shares_permille({row["evidence"]: row["charge_mc"] for row in rows})
    return [Grade(**dict(row), share_permille=shares[row["evidence"]]) for row in rows]


async def entries(db: Any, statement: Statement) -> AsyncIterator[list[dict[str, Any]]]:
    """The entries to list, oldest first, in pages.

    Raises StatementBrokenError where the history has a gap or does not add up, after the pages that were sound.
    """
    sql = statements()
    who = statement.account["account_id"]
    position = statement.opening
    if statement.shown_after != position.seq:
        position = _position(await db.fetchrow(sql["position_of"], who, statement.shown_after))
    while position.seq < statement.closing.seq:
        rows = await db.fetch(sql["statement_entries"], who, position.seq, statement.closing.seq, PAGE_ENTRIES)
        if not rows:
            raise StatementBrokenError(f"no entry follows entry {position.seq}")
        for row in rows:
            position = follow(position, row["seq"], row["amount_mc"], row["balance_after_mc"])
        yield [_entry(row) for row in rows]


def _position(row: Any) -> Position:
    return Position(row["seq"], row["balance_after_mc"]) if row else Position(0, 0)


def _entry(row: Any) -> dict[str, Any]:
    entry = {
        "seq": row["seq"],
        "transfer_id": row["transfer_id"],
        "recorded_at": row["recorded_at"],
        "occurred_at": row["occurred_at"],
        "kind": row["kind"],
        "amount": row["amount_mc"],
        "balance_after": row["balance_after_mc"],
        "link_id": row["link_id"],
        "memo": row["memo"],
    }
    if row["event_id"] is not None:
        entry |= {
            "event_id": row["event_id"],
            "family": row["family"],
            "model": row["model_asked"],
            "model_answered": row["model_answered"],
            "tokens_in": row["tokens_in"],
            "tokens_out": row["tokens_out"],
            "cached": row["cached"],
            "reasoning": row["reasoning"],
            "evidence": row["evidence"],
            "outcome": row["outcome"],
            "flags": list(row["flags"]),
            "provider_cost_nano": row["cost_nano"],
            "conversation": row["conversation"],
            "purpose": row["purpose"],
        }
    if row["corrects"] is not None:
        entry |= {
            "corrects": row["corrects"],
            "corrected_by": row["corrected_by"],
            "price_version": row["price_version"],
            "priced_as": row["priced_as"],
            "provider_cost_nano": row["cost_difference_nano"],
        }
    if row["true_evidence"] is not None:
        entry |= {
            "evidence": row["true_evidence"],
            "outcome": row["true_outcome"],
            "tokens_in": row["true_tokens_in"],
            "tokens_out": row["true_tokens_out"],
        }
    return entry
