"""Credits to draws: which grants pay a charge, and how a grant pays a debt. Pure.

The rule (invariant I12): what grants have left sums to the balance while the balance is not negative, and is nothing
while it is. So a charge takes from the open grants in a fixed order and what they lack becomes debt; and a credit pays
the debt first and opens a grant with the rest. Whether a grant has expired plays no part here: until its expiry is
posted it is the first of its priority to be drawn, and the row lock of the balance decides which came first.
"""

from typing import Final
from uuid import UUID

import msgspec

NEVER_US: Final = 2**63 - 1
"""Expiry of a grant that does not expire, in Unix microseconds: after all others."""


class OpenGrant(msgspec.Struct, kw_only=True, gc=False):
    """A grant with something left, while a transaction draws on it."""

    grant_id: UUID
    remaining_mc: int
    priority: int
    """Lower is drawn first; then the earliest expiry, then the oldest."""
    expires_at_us: int = NEVER_US
    seq: int
    """Of the transfer that credited it: the order of creation."""


def drawing_order(grant: OpenGrant) -> tuple[int, int, int]:
    return grant.priority, grant.expires_at_us, grant.seq


def draw(grants: list[OpenGrant], amount_mc: int) -> list[tuple[OpenGrant, int]]:
    """Take `amount_mc` from `grants`, which stand in drawing order; returns what each paid, in that order.

    Lowers `remaining_mc` of the grants and takes the exhausted ones off the list. The sum of the parts is less than
    `amount_mc` where the grants do not suffice: the rest is debt.
    """
    assert amount_mc >= 0
    parts: list[tuple[OpenGrant, int]] = []
    while amount_mc and grants:
        grant = grants[0]
        part = min(grant.remaining_mc, amount_mc)
        assert part > 0, "an open grant has something left"
        grant.remaining_mc -= part
        amount_mc -= part
        parts.append((grant, part))
        if not grant.remaining_mc:
            del grants[0]
    return parts


def debt_paid(balance_mc: int, credit_mc: int) -> int:
    """How much of a credit pays what the account owes before it, in millicredits."""
    assert credit_mc > 0
    return min(max(0, -balance_mc), credit_mc)
