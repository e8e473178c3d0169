"""Who the accounts of a batch belong to, as its messages say. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

import msgspec

from meter.accounts import Account
from shared import ids
from shared.events import AccountSeen, StreamMessage
from shared.ids import EXTERNAL_ID_LENGTH_MAX

PLAN_GUESSED: Final = "default"
"""Plan of an account that is known from a usage event alone, and where the announced one does not exist."""


class Introduction(msgspec.Struct, frozen=True, kw_only=True):
    """What a message says of its account, to create the account from."""

    account_id: UUID
    directory_id: UUID
    external_id: str
    plan: str
    announced: bool
    """By an AccountSeen; else the plan is a guess, corrected when the announcement comes."""
    email: str = ""
    name: str = ""
    role: str = ""


def introductions(messages: Iterable[StreamMessage], accounts: Mapping[UUID, Account]) -> list[Introduction]:
    """What must be created, or completed where its plan is a guess: one for each account, ordered by account.

    Who is introduced wrongly (an id that does not follow from directory and external id, or an external id of
    impossible length) is left out: the account stays unknown and the message becomes a dead letter.
    """
    found: dict[UUID, Introduction] = {}
    for message in messages:
        account = accounts.get(message.account_id)
        announced = isinstance(message, AccountSeen)
        if account is not None and not (announced and account.revision == 0):
            continue
        if message.account_id in found and (not announced or found[message.account_id].announced):
            continue
        if message.directory_id is None or not 0 < len(message.external_id) <= EXTERNAL_ID_LENGTH_MAX:
            continue
        if ids.account_id(message.directory_id, message.external_id) != message.account_id:
            continue
        found[message.account_id] = Introduction(
            account_id=message.account_id,
            directory_id=message.directory_id,
            external_id=message.external_id,
            plan=message.plan if isinstance(message, AccountSeen) else PLAN_GUESSED,
            announced=announced,
            email=message.email if isinstance(message, AccountSeen) else "",
            name=message.name if isinstance(message, AccountSeen) else "",
            role=message.role if isinstance(message, AccountSeen) else "",
        )
    return sorted(found.values(), key=lambda one: one.account_id)
