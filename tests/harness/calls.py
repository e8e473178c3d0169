"""Calls as the gateway admits them, and what they are made of: a key, a user, a plan, prices."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import msgspec
import pytest

from gateway.admission import Call
from gateway.asks import Ask
from gateway.bounds import Bounds, Rates
from gateway.families import FAMILIES
from gateway.identity import Caller, Labels
from gateway.refusals import Refusal
from gateway.settlement import Counted, Facts, draft_event, usage_event
from shared import ids
from shared.events import UsageEvent
from shared.pricing import PricedModel, RateCard
from shared.projection import Catalog, KeyRecord, Plan
from tests.harness.messages import DIRECTORY, KEY_ID, fresh_event_id

CHAT: Final = FAMILIES[0]
MINI: Final = PricedModel(
    model="gpt-mini",
    provider="openai",
    rates={"input": 150_000_000, "cached": 75_000_000, "output": 600_000_000},
    service={},
    output_max=16_384,
)
"""0.15 and 0.60 US dollars per million tokens."""
THINKER: Final = PricedModel(
    model="o-thinker",
    provider="openai",
    rates={"input": 1_100_000_000, "output": 4_400_000_000},
    output_max=100_000,
    reasoning=True,
)
COST: Final = RateCard(card="cost@1", family="cost")
TOKENS: Final = RateCard(card="tokens@1", family="tokens")
PLAN: Final = Plan(plan="default", card="tokens@1", allowance_mc=1_000_000)
CATALOG: Final = Catalog(
    version=1,
    price_version=7,
    models={model.model: model for model in (MINI, THINKER)},
    cards={card.card: card for card in (COST, TOKENS)},
    plans={"default": PLAN},
)
BOUNDS: Final = Bounds(full_mc=400, slice_mc=100, least_mc=10, input_mc=5, full_tokens=400, stoppable=True)


def key(**more: Any) -> KeyRecord:
    """A service key; `more` are fields of its record."""
    fields: dict[str, Any] = {"key_id": KEY_ID, "kind": "service", "directory_id": DIRECTORY, "plan": "default"}
    return KeyRecord(**(fields | more))


def caller(user: str = "ana", labels: Labels | None = None) -> Caller:
    """A user of the directory; with `user` empty the account of a personal key."""
    account_id = ids.account_id(DIRECTORY, user or "own")
    record = key() if user else key(kind="personal", account_id=account_id)
    return Caller(record, account_id, ids.shard_of(account_id), user, labels or Labels(), str(account_id))


def ask(**more: Any) -> Ask:
    """A chat that streams; `more` are fields of Ask."""
    fields: dict[str, Any] = {
        "model": MINI.model,
        "stream": True,
        "usage_asked": False,
        "output_limit": 0,
        "choices": 1,
        "service_tier": "",
        "user": None,
    }
    return Ask(**(fields | more))


def rates(model: PricedModel = MINI, card: RateCard = TOKENS, plan: str = "default") -> Rates:
    return Rates(CATALOG.price_version, model, plan, card)


def call(user: str = "ana", **more: Any) -> Call:
    """An admitted call; `more` are fields of Call."""
    fields: dict[str, Any] = {
        "event_id": fresh_event_id(),
        "caller": caller(user),
        "family": CHAT,
        "ask": ask(),
        "rates": rates(),
        "catalog": CATALOG,
        "request": b"{}",
        "body": b"{}",
        "input_tokens": 10,
        "strip_usage": True,
        "started_at_us": time.time_ns() // 1_000,
        "started_s": 0.0,
    }
    fields |= more
    return Call(event_text=str(fields["event_id"]), **fields)


def draft(of: Call, **more: Any) -> UsageEvent:
    """The event that stands in a call's hold; `more` are fields of it."""
    event = draft_event(of, now_us=of.started_at_us, held_mc=0, gateway="test")
    return msgspec.structs.replace(event, **more)


def closed(of: Call, counted: Counted, facts: Facts, noted: UsageEvent | None = None) -> UsageEvent:
    """The event of a call that was closed, with 77 mc held. `noted`: what was noted of it while it ran."""
    return usage_event(noted or draft(of), of, counted, facts, now_us=9, held_mc=77)


def event_of(number: int) -> UUID:
    """An event id that a test can name."""
    return ids.uuid7(1_800_000_000_000 + number, number.to_bytes(10, "big"))


@contextmanager
def refused(code: str) -> Iterator[None]:
    """The block raises Refusal with this code, and no other."""
    with pytest.raises(Refusal) as caught:
        yield
    assert caught.value.code == code
