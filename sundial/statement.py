"""The arithmetic of a statement: months, categories that close, an unbroken history, shares of evidence. Pure.

    opening + grants + purchases − usage + adjustments − expiry = closing

`usage` and `expiry` are what went away, as positive numbers; `adjustments` carries its sign and holds refunds and moves
too, which are corrections to a reader of a statement.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, tzinfo
from typing import Final

import msgspec

_MONTH: Final = re.compile(r"^(\d{4})-(0[1-9]|1[0-2])$")

ADJUSTING: Final = ("adjustment", "refund", "move")
"""Kinds of transfers that a statement calls adjustments."""
KINDS: Final = ("grant", "purchase", "usage", "expiry", *ADJUSTING)


class StatementBrokenError(Exception):
    """The books contradict themselves: never shown as a statement, always an alarm."""


class Position(msgspec.Struct, frozen=True):
    """A point in an account's history: after transfer `seq` the balance was `balance_mc`."""

    seq: int
    balance_mc: int


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of a statement, in millicredits."""

    opening: int
    grants: int
    purchases: int
    usage: int
    adjustments: int
    expiry: int
    closing: int


def month_bounds(month: str, zone: tzinfo) -> tuple[datetime, datetime]:
    """First moment of `month` (`2026-11`) and of the next one, in `zone`. Raises ValueError for no month."""
    match = _MONTH.match(month)
    if match is None or not 1 <= int(match[1]) <= 9998:
        raise ValueError(f"{month!r} is no month; write for example 2026-11")
    year, number = int(match[1]), int(match[2])
    following = (year + 1, 1) if number == 12 else (year, number + 1)
    return datetime(year, number, 1, tzinfo=zone), datetime(*following, 1, tzinfo=zone)


def month_of(moment: datetime, zone: tzinfo) -> str:
    """The month that `moment` falls into, as people of `zone` see it."""
    return f"{moment.astimezone(zone):%Y-%m}"


def close_totals(opening: Position, closing: Position, sums: Mapping[str, int]) -> Totals:
    """The statement between two positions; `sums` has the signed sum of amounts per kind of transfer.

    Raises StatementBrokenError where it does not close or a kind is unknown.
    """
    unknown = set(sums) - set(KINDS)
    if unknown:
        raise StatementBrokenError(f"transfers of unknown kind: {', '.join(sorted(unknown))}")
    totals = Totals(
        opening=opening.balance_mc,
        grants=sums.get("grant", 0),
        purchases=sums.get("purchase", 0),
        usage=-sums.get("usage", 0),
        adjustments=sum(sums.get(kind, 0) for kind in ADJUSTING),
        expiry=-sums.get("expiry", 0),
        closing=closing.balance_mc,
    )
    reached = totals.opening + totals.grants + totals.purchases - totals.usage + totals.adjustments - totals.expiry
    if reached != totals.closing:
        raise StatementBrokenError(
            f"the lines lead to {reached} mc, the balance after entry {closing.seq} is {totals.closing}"
        )
    return totals


def follow(position: Position, seq: int, amount_mc: int, balance_after_mc: int) -> Position:
    """The position after one more entry.

    Raises StatementBrokenError for a gap in seq or a balance that does not add up.
    """
    if seq != position.seq + 1:
        raise StatementBrokenError(f"entry {seq} follows entry {position.seq}")
    if balance_after_mc != position.balance_mc + amount_mc:
        raise StatementBrokenError(
            f"entry {seq} moves {amount_mc} mc from {position.balance_mc} mc and says {balance_after_mc} mc"
        )
    return Position(seq, balance_after_mc)


def first_shown(opening: Position, closing: Position, limit: int) -> int:
    """Seq after which entries are listed, so that at most `limit` of them are, the newest; 0: all."""
    return max(opening.seq, closing.seq - limit) if limit else opening.seq


def shares_permille(parts: Mapping[str, int]) -> dict[str, int]:
    """Each part's share in tenths of a percent; they sum to 1,000, or are all 0 where the whole is 0.

    Remainders go to the largest fractions, so that a part is off by less than one tenth.
    """
    whole = sum(parts.values())
    if whole <= 0:
        return dict.fromkeys(parts, 0)
    shares = {name: part * 1000 // whole for name, part in parts.items()}
    by_remainder: Iterable[str] = sorted(parts, key=lambda name: (-(parts[name] * 1000 % whole), name))
    for name, _ in zip(by_remainder, range(1000 - sum(shares.values())), strict=False):
        shares[name] += 1
    return shares
