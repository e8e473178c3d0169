"""Accounts in Postgres: found by what people know of them, created and changed without touching a balance."""

import re
from typing import Any, Final
from uuid import UUID

from shared.ids import EXTERNAL_ID_LENGTH_MAX, account_id, directory_id, shard_of
from sundial.database import statements
from sundial.problems import NegativeError, WrongUsageError

DIRECTORY_DEFAULT: Final = "librechat"
_DIRECTORY: Final = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}\Z")


def as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def choose(found: list[Any], text: str, directory: str | None) -> Any:
    """The one account that `text` means among those that carry it as id or external id.

    An account id wins over an external id. Raises NegativeError where there is none, WrongUsageError where there are
    several.
    """
    if not found:
        where = f" in directory {directory}" if directory else ""
        raise NegativeError(
            f"no account {text!r}{where}. `sundial account list --search TEXT` finds accounts by part of an id, name "
            "or e-mail."
        )
    if len(found) == 1 or found[0]["account_id"] == as_uuid(text):
        return found[0]
    lines = "\n".join(f"  --directory {row['directory']}   account {row['account_id']}" for row in found)
    raise WrongUsageError(f"{text!r} exists in several directories; say which:\n{lines}")


async def find(db: Any, text: str, directory: str | None = None) -> Any:
    """The account's row with its balance. Raises NegativeError and WrongUsageError as `choose` does."""
    found = await db.fetch(statements()["find_accounts"], as_uuid(text), text, directory)
    return choose(found, text, directory)


async def find_plan(db: Any, plan: str) -> Any:
    """The plan's row. Raises NegativeError with the names that exist."""
    row = await db.fetchrow(statements()["find_plan"], plan)
    if row is None:
        names = [row["plan"] for row in await db.fetch(statements()["plan_names"])]
        known = f"there are: {', '.join(names)}" if names else "there is none yet; start the meter once, or set one"
        raise NegativeError(f"no plan {plan!r}; {known}.")
    return row


async def ensure_directory(db: Any, name: str, *, new: bool) -> UUID:
    """The directory's id. One that is not there is made where it is `new`, or the default one.

    Raises NegativeError with the names that exist: a name that was mistyped would give its users a second account and
    allowance each.
    """
    names = [row["name"] for row in await db.fetch(statements()["directory_names"])]
    if name not in (*names, DIRECTORY_DEFAULT) and not new:
        known = ", ".join(sorted({*names, DIRECTORY_DEFAULT}))
        raise NegativeError(f"no directory {name!r}; there are: {known}. --new-directory makes it.")
    if not _DIRECTORY.match(name):
        raise WrongUsageError(f"{name!r} is no name of a directory: a-z, 0-9, `.`, `_`, `-`, at most 63")
    directory = directory_id(name)
    await db.execute(statements()["ensure_directory"], directory, name)
    return directory


async def insert(
    db: Any, owner: UUID, external_id: str, *, kind: str, plan: str, email: str = "", name: str = ""
) -> UUID | None:
    """A new account of the directory `owner` with its zero balance; None where it exists already. Within the caller's
    transaction.

    Raises WrongUsageError for an external id that cannot be one.
    """
    if not external_id.strip() or len(external_id) > EXTERNAL_ID_LENGTH_MAX or not external_id.isprintable():
        raise WrongUsageError(f"an external id has 1 to {EXTERNAL_ID_LENGTH_MAX} printable characters, not only blanks")
    account = account_id(owner, external_id)
    made = await db.fetchval(
        statements()["insert_account"], account, owner, external_id, kind, plan, shard_of(account), email, name
    )
    if made is None:
        return None
    await db.execute(statements()["insert_balance"], account)
    await tell_projection(db, f"account:{account}")
    return account


async def change(
    db: Any,
    account: UUID,
    *,
    plan: str | None = None,
    status: str | None = None,
    mode: str | None = None,
    floor_mc: int | None = None,
) -> Any:
    """Change masters of an account, raise its revision and tell the meter. One transaction of its own."""
    async with db.transaction():
        changed = await db.fetchrow(statements()["change_account"], account, plan, status, mode, floor_mc)
        await tell_projection(db, f"account:{account}")
        if plan is not None:
            # A personal key repeats its account's plan, so that the gateway needs no look-up.
            for row in await db.fetch(statements()["change_plan_of_keys"], account, plan):
                await tell_projection(db, f"key:{row['sha256']}")
    return changed


async def tell_projection(db: Any, what: str) -> None:
    """Ask the meter to bring Redis up to date. The notification goes out when the transaction commits."""
    await db.execute(statements()["queue_projection"], what)
    await db.execute(statements()["tell_projection"])
