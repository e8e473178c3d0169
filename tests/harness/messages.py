"""Messages of the usage stream as a gateway would write them."""

import os
import time
from typing import Any, Final
from uuid import UUID

from shared import ids
from shared.events import AccountSeen, UsageEvent
from shared.usage import Usage

DIRECTORY: Final = ids.directory_id("librechat")
KEY_ID: Final = UUID("0192f0c1-0000-7000-8000-000000000001")
MODEL: Final = "gpt-4o-mini"
"""A model that every price version has."""


def account_of(external_id: str) -> UUID:
    return ids.account_id(DIRECTORY, external_id)


def fresh_event_id() -> UUID:
    return ids.uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def seen(external_id: str, allowance_mc: int = 1_000_000, **more: Any) -> AccountSeen:
    fields: dict[str, Any] = {
        "account_id": account_of(external_id),
        "directory_id": DIRECTORY,
        "external_id": external_id,
        "plan": "default",
        "allowance_mc": allowance_mc,
        "seen_at_us": time.time_ns() // 1_000,
    }
    return AccountSeen(**fields | more)


def used(external_id: str, tokens: int = 100, *, charge_mc: int = 0, **more: Any) -> UsageEvent:
    """A call of MODEL that read and wrote `tokens` tokens each; with `charge_mc` 0 the meter's own charge differs."""
    now_us = time.time_ns() // 1_000
    fields: dict[str, Any] = {
        "event_id": fresh_event_id(),
        "account_id": account_of(external_id),
        "key_id": KEY_ID,
        "family": "chat",
        "model_asked": MODEL,
        "model_answered": MODEL,
        "priced_as": MODEL,
        "price_version": 1,
        "card": "tokens@1",
        "usage": Usage(input=tokens, output=tokens),
        "charge_mc": charge_mc or 2_000 * tokens,
        "cost_nano": 0,
        "evidence": "provider",
        "outcome": "complete",
        "started_at_us": now_us - 1_500_000,
        "settled_at_us": now_us,
        "directory_id": DIRECTORY,
        "external_id": external_id,
    }
    return UsageEvent(**fields | more)
