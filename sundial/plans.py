"""Plans in Postgres: created and changed, and the meter told to publish a new catalog."""

import re
from typing import Any, Final

from sundial.accounts import tell_projection
from sundial.database import statements
from sundial.problems import NegativeError, WrongUsageError

_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")


async def change(db: Any, plan: str, *, card: str | None, allowance_mc: int | None, models: list[str] | None) -> None:
    """Set what is not None; a plan that does not exist is created and needs a card.

    Raises WrongUsageError for an impossible name or a new plan without a card, NegativeError for a card that does not
    exist.
    """
    if not _NAME.match(plan):
        raise WrongUsageError(f"{plan!r} is no name of a plan: lower case letters, digits, `.`, `_`, `-`, at most 63")
    async with db.transaction():
        cards = [row["card"] for row in await db.fetch(statements()["card_names"])]
        if card is not None and card not in cards:
            known = f"there are: {', '.join(cards)}" if cards else "there is none yet; start the meter once"
            raise NegativeError(f"no rate card {card!r}; {known}.")
        if await db.fetchval(statements()["change_plan"], plan, card, allowance_mc, models) is None:
            if card is None:
                raise WrongUsageError(
                    f"the plan {plan!r} does not exist yet: a new one needs --card ({', '.join(cards)})"
                )
            await db.execute(statements()["insert_plan"], plan, card, allowance_mc or 0, models or [])
        await tell_projection(db, "catalog")
