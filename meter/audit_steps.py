"""What must hold of each transfer and what stands for it, seen from the one before it: the invariants that need no more
than that. Pure. By induction they are those of whole accounts, and of all accounts together (conservation).
"""

from collections.abc import Iterator
from typing import Any, Final

from meter.accounts import CORRECTION_COLUMNS
from meter.audit_chain import Head, Parts, parts
from meter.usage_rows import EVENT_CORRECTION_COLUMNS, USAGE_EVENT_COLUMNS

STEP_RULES: Final = ("history", "usage_transfers", "grant_transfers", "draw_transfers", "corrections", "balance_cache")
"""Those of sundial audit that are proved here, step by step; of `corrections` only that each has its transfer."""

_CHARGE_AT: Final = USAGE_EVENT_COLUMNS.index("charge_mc")
_CORRECTED_EVENT_AT: Final = CORRECTION_COLUMNS.index("event_id")
_LATE_EVENT_AT: Final = EVENT_CORRECTION_COLUMNS.index("event_id")


def wrong_step(before: Head, row: Any) -> Iterator[tuple[str, str]]:
    """Rule and detail of all that is wrong with a row of OF_ACCOUNT, which follows `before`."""
    of = parts(row)
    seq = row[2]
    for rule, detail in (
        ("history", _history(before, of.transfer)),
        ("usage_transfers", _usage(of)),
        ("grant_transfers", _grant(of)),
        ("draw_transfers", _draws(of)),
        ("corrections", _correction(of)),
        ("balance_cache", _balance(of.transfer, row)),
    ):
        if detail:
            yield rule, f"seq {seq}: {detail}"


def usage_record(row: Any) -> dict[str, Any] | None:
    """The usage event of a row of OF_ACCOUNT by its columns; None where the transfer is none of usage."""
    usage_event = parts(row).usage_event if row[3] == "usage" else None
    return None if usage_event is None else dict(zip(USAGE_EVENT_COLUMNS, usage_event, strict=True))


def _history(before: Head, transfer: tuple[Any, ...]) -> str:
    amount_mc, after_mc, recorded_at_us = transfer[5], transfer[6], transfer[10]
    if after_mc != before.balance_mc + amount_mc:
        return f"{amount_mc} mc on a balance of {before.balance_mc} mc make {after_mc} mc"
    return "recorded before the transfer that it follows" if recorded_at_us < before.recorded_at_us else ""


def _usage(of: Parts) -> str:
    if of.transfer[3] != "usage":
        return "a usage event has its id, but it is none of usage" if of.usage_event else ""
    if of.usage_event is None:
        return "it is of usage, and has no usage event"
    charge_mc, amount_mc = of.usage_event[_CHARGE_AT], of.transfer[5]
    return f"a charge of {charge_mc} mc moves {amount_mc} mc" if charge_mc != -amount_mc else ""


def _grant(of: Parts) -> str:
    amount_mc = of.transfer[5]
    if (amount_mc > 0) is not (of.grant is not None):
        return f"it moves {amount_mc} mc, and {'has no grant' if of.grant is None else 'has a grant'}"
    if of.grant is not None and (of.grant[4], of.grant[7]) != (amount_mc, of.transfer[2]):
        return f"it moves {amount_mc} mc, its grant is of {of.grant[4]} mc and seq {of.grant[7]}"
    return ""


def _draws(of: Parts) -> str:
    """A charge draws what there was, and a credit pays what was owed."""
    amount_mc, after_mc = of.transfer[5], of.transfer[6]
    owed_or_had_mc = amount_mc - after_mc if amount_mc > 0 else after_mc - amount_mc
    due_mc = min(max(owed_or_had_mc, 0), abs(amount_mc))
    drawn_mc = sum(part for _, part in of.draws)
    return f"it draws {drawn_mc} mc instead of {due_mc} mc" if drawn_mc != due_mc else ""


def _correction(of: Parts) -> str:
    corrects = of.transfer[3:5] == ("adjustment", "usage")
    corrected = [
        row[at] for row, at in ((of.correction, _CORRECTED_EVENT_AT), (of.late, _LATE_EVENT_AT)) if row is not None
    ]
    if (corrects and corrected == [of.transfer[7]]) or (not corrects and not corrected):
        return ""
    return f"it is linked to event {of.transfer[7]}, and {len(corrected)} corrections are of it"


def _balance(transfer: tuple[Any, ...], row: Any) -> str:
    """The last transfer's balance is the account's."""
    cached_mc, cached_seq = row[-3], row[-2]
    if cached_seq != transfer[2] or cached_mc == transfer[6]:
        return ""
    return f"the account's balance is {cached_mc} mc, its last transfer says {transfer[6]} mc"
