"""What the meter tells the gateways through Redis: keys, prices, plans. Read-only for the gateway.

The gateway holds all of it in memory, so that a call needs no look-up but its reservation, and a guessed key costs no
look-up at all.
"""

from functools import cached_property
from typing import Any, Literal
from uuid import UUID

import msgspec

from shared.pricing import PricedModel, RateCard


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One API key, found by the SHA-256 of its secret.

    A `personal` key is its own account: identity headers on it are ignored. A `service` key may name users of its
    directory; calls without a user go to `account_id` where it has one (image, speech and embedding keys), else they
    are refused.
    """

    key_id: UUID
    kind: Literal["personal", "service"]
    account_id: UUID | None = None
    directory_id: UUID
    plan: str
    """Plan of accounts that this key's users get when they are first seen; for a personal key its account's plan."""
    status: Literal["active", "revoked"] = "active"
    expires_at: int = 0
    """Unix seconds; 0: never."""
    name: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an account may do, and in which currency it pays."""

    plan: str
    card: str
    allowance_mc: int
    """Granted once, when the account is first seen."""
    models: tuple[str, ...] = ()
    """Shell patterns of the models that may be asked for; empty: all."""


class Catalog(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything that prices and permits a call, as of one moment."""

    version: int
    price_version: int
    models: dict[str, PricedModel]
    cards: dict[str, RateCard]
    plans: dict[str, Plan]
    provisional: PricedModel | None = None
    """What stands for models without a price. Never told: a gateway that admits them adds it (gateway.provisional)."""

    @cached_property
    def known(self) -> dict[Any, Any]:
        """What a gateway has worked out from it and needs again (gateway.prices). It goes when the catalog goes."""
        return {}


def encode_key(record: KeyRecord) -> bytes:
    return msgspec.json.encode(record)


def decode_key(data: bytes) -> KeyRecord:
    return msgspec.json.decode(data, type=KeyRecord)


def encode_catalog(catalog: Catalog) -> bytes:
    return msgspec.json.encode(catalog)


def decode_catalog(data: bytes) -> Catalog:
    return msgspec.json.decode(data, type=Catalog)
