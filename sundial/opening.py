"""Opening an account by hand: master row, zero balance and the order of its plan's allowance, in one transaction.

The allowance of a user is given once, to whom creates the account's row: the meter, when the gateway announces a user
whom nobody knows, or this. The row is unique by construction, so whoever comes second finds it and gives nothing.
"""

from typing import Any
from uuid import UUID

import msgspec

from shared.ids import shard_of
from sundial import accounts, orders
from sundial.problems import NegativeError


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """An account that was just created, and its allowance's order where there is one."""

    account_id: UUID
    external_id: str
    directory: str
    plan: str
    allowance_mc: int
    order_id: UUID | None

    async def answer(self, db: Any, wait_s: float) -> dict[str, Any]:
        """What was done, with the outcome of the allowance: posted, refused, queued, or `none` without one. Raises
        InterruptedCommandError after Ctrl-C."""
        if self.order_id is None:
            return self.page(orders.Answer(outcome="none"))
        return self.page(await orders.answer(db, self.order_id, wait_s))

    def page(self, told: orders.Answer) -> dict[str, Any]:
        return {
            "account_id": self.account_id,
            "external_id": self.external_id,
            "directory": self.directory,
            "plan": self.plan,
            "allowance": self.allowance_mc,
            "order_id": self.order_id,
            "outcome": told.outcome,
            "detail": told.detail,
        }


async def open_account(
    db: Any,
    directory: str,
    external_id: str,
    *,
    new_directory: bool = False,
    kind: str,
    plan: str,
    email: str = "",
    name: str = "",
    allowance: bool = True,
) -> Opened:
    """One transaction of its own, or a part of the caller's.

    Raises NegativeError where the account exists, or the plan or, without `new_directory`, the directory does not;
    WrongUsageError for an impossible external id.
    """
    async with db.transaction():
        chosen = await accounts.find_plan(db, plan)
        owner = await accounts.ensure_directory(db, directory, new=new_directory)
        account = await accounts.insert(db, owner, external_id, kind=kind, plan=plan, email=email, name=name)
        if account is None:
            raise NegativeError(
                f"the account {external_id!r} exists already in directory {directory}; nothing was changed. "
                "`sundial grant` gives it more."
            )
        order_id = None
        if allowance and chosen["allowance_mc"]:
            order_id = orders.fresh_id()
            await orders.place(
                db,
                orders.Order(
                    order_id=order_id,
                    account_id=account,
                    shard=shard_of(account),
                    kind="grant",
                    amount_mc=chosen["allowance_mc"],
                    memo=f"allowance of plan {plan}",
                ),
            )
    return Opened(
        account_id=account,
        external_id=external_id,
        directory=directory,
        plan=plan,
        allowance_mc=chosen["allowance_mc"] if order_id else 0,
        order_id=order_id,
    )
