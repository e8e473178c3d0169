"""API keys in Postgres: created, found, revoked, and the meter told of it in the same transaction."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from shared.ids import directory_id
from sundial import accounts, orders
from sundial.database import confirmed, statements
from sundial.key_secret import HINT_LENGTH, digest, hint, secret_of
from sundial.opening import Opened, open_account
from sundial.problems import InterruptedCommandError, NegativeError, WrongUsageError

__all__ = ["Made", "create_personal", "create_service", "revoke"]

PLAN_DEFAULT = "default"


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was just created, the only holder of its secret, and the account that was opened for it."""

    key_id: UUID
    secret: str
    kind: str
    name: str
    account_id: UUID | None
    directory: str
    plan: str
    expires_at: datetime | None
    opened: Opened | None = None

    async def answer(self, db: Any, wait_s: float) -> tuple[dict[str, Any], InterruptedCommandError | None]:
        """What was made, and what became of the allowance. Ctrl-C ends the wait only: the secret is still to be shown,
        and the allowance is queued."""
        if self.opened is None:
            return self._page(None), None
        try:
            return self._page(await self.opened.answer(db, wait_s)), None
        except InterruptedCommandError as interrupted:
            return self._page(self.opened.page(orders.Answer(outcome="queued", detail="interrupted"))), interrupted

    def _page(self, opened: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "key_id": self.key_id,
            "secret": self.secret,
            "hint": hint(self.secret),
            "kind": self.kind,
            "name": self.name,
            "account_id": self.account_id,
            "directory": self.directory,
            "plan": self.plan,
            "expires_at": self.expires_at,
            "opened": opened,
        }


async def create_personal(
    db: Any,
    account: str,
    *,
    directory: str | None,
    new_directory: bool = False,
    plan: str | None,
    name: str,
    expires_at: datetime | None,
    random: bytes,
) -> Made:
    """A key that is its account; the account is opened where it does not exist.

    Raises WrongUsageError where `plan` differs from the plan of an account that exists, else as `open_account` does.
    """
    secret = secret_of(random)
    async with confirmed(db, _doubt(secret)):
        opened = None
        found = await db.fetch(statements()["find_accounts"], accounts.as_uuid(account), account, directory)
        if not found:
            opened = await open_account(
                db,
                directory or accounts.DIRECTORY_DEFAULT,
                account,
                new_directory=new_directory,
                kind="person",
                plan=plan or PLAN_DEFAULT,
            )
            found = await db.fetch(statements()["find_accounts"], opened.account_id, account, directory)
        owner = accounts.choose(found, account, directory)
        if plan is not None and plan != owner["plan"]:
            raise WrongUsageError(
                f"the account {account!r} is on plan {owner['plan']!r}; change it with: "
                f"sundial account plan {account} {plan}"
            )
        made = Made(
            key_id=orders.fresh_id(),
            secret=secret,
            kind="personal",
            name=name,
            account_id=owner["account_id"],
            directory=owner["directory"],
            plan=owner["plan"],
            expires_at=expires_at,
            opened=opened,
        )
        await _insert(db, made)
    return made


async def create_service(
    db: Any,
    name: str,
    *,
    directory: str | None,
    new_directory: bool = False,
    account: str | None,
    plan: str | None,
    expires_at: datetime | None,
    random: bytes,
) -> Made:
    """A key that may name the users of `directory`. Raises NegativeError for an account, a plan or, without
    `new_directory`, a directory that does not exist, WrongUsageError for a name of blanks."""
    if not name.strip():
        raise WrongUsageError("a service key has a name, by which people know the program")
    where = directory or accounts.DIRECTORY_DEFAULT
    secret = secret_of(random)
    async with confirmed(db, _doubt(secret)):
        chosen = await accounts.find_plan(db, plan or PLAN_DEFAULT)
        owner = await accounts.find(db, account, directory) if account else None
        await accounts.ensure_directory(db, where, new=new_directory)
        made = Made(
            key_id=orders.fresh_id(),
            secret=secret,
            kind="service",
            name=name,
            account_id=owner["account_id"] if owner else None,
            directory=where,
            plan=chosen["plan"],
            expires_at=expires_at,
        )
        await _insert(db, made)
    return made


def _doubt(secret: str) -> str:
    return (
        f"whether the key …{hint(secret)} exists is not known, and nobody has its secret; where `sundial key list` "
        f"shows it: sundial key revoke {hint(secret)}"
    )


async def _insert(db: Any, made: Made) -> None:
    secret_digest = digest(made.secret)
    await db.execute(
        statements()["insert_key"],
        made.key_id,
        secret_digest,
        hint(made.secret),
        made.kind,
        directory_id(made.directory),
        made.account_id,
        made.plan,
        made.name,
        made.expires_at,
        orders.orderer(),
    )
    await accounts.tell_projection(db, f"key:{secret_digest.hex()}")


async def revoke(db: Any, text: str) -> dict[str, Any]:
    """Revoke the key of this id or secret, or the one active key with this hint; `changed` is false where it was
    revoked already.

    Raises NegativeError where there is none, WrongUsageError where several share the hint. No text repeats a secret.
    """
    async with db.transaction():
        found = await db.fetch(statements()["find_keys"], accounts.as_uuid(text), text, digest(text))
        active = [row for row in found if row["status"] == "active"]
        if not found:
            named = repr(text) if accounts.as_uuid(text) or len(text) <= HINT_LENGTH else f"…{hint(text)}"
            raise NegativeError(f"no key {named}. `sundial key list` shows ids and the last characters of secrets.")
        if len(active) > 1:
            lines = "\n".join(f"  {row['key_id']}   {row['kind']} {row['name']}" for row in active)
            raise WrongUsageError(f"several keys end in {text!r}; name one by its id:\n{lines}")
        chosen = (active or found)[0]
        changed = await db.fetchval(statements()["revoke_key"], chosen["key_id"]) is not None
        if changed:
            await accounts.tell_projection(db, f"key:{chosen['sha256']}")
    return {
        "key_id": chosen["key_id"],
        "hint": chosen["hint"],
        "kind": chosen["kind"],
        "name": chosen["name"],
        "status": "revoked",
        "changed": changed,
    }
