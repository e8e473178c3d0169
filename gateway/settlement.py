"""From what a call did to the usage event that is booked. Pure: usage and outcome in, money out."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.admission import Call
from shared import pricing
from shared.events import UsageEvent
from shared.ids import EXTERNAL_ID_LENGTH_MAX
from shared.pricing import PricedModel
from shared.projection import Catalog
from shared.usage import Evidence, Outcome, Usage

MODEL_NAME_LENGTH_MAX: Final = 256
"""Characters kept of the model that the upstream names."""


class Counted(msgspec.Struct, frozen=True):
    """How much a call used, and how sure we are."""

    usage: Usage
    evidence: Evidence
    flags: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Under which the price is looked up before the answering model's: of an image of one quality and size."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the upstream said of a call besides its usage."""

    outcome: Outcome
    status: int = 0
    model: str = ""
    service_tier: str = ""
    upstream_call_id: str = ""
    upstream_cost_nano: int = 0
    first_byte_us: int = 0


NOTHING: Final = Counted(Usage(), "none")
LOST: Final = Facts(outcome="lost")


def usage_event(call: Call, counted: Counted, facts: Facts, *, now_us: int, held_mc: int, gateway: str) -> UsageEvent:
    """The event of `call`, priced by the model that answered.

    Cases: the answering model has a price; only the model asked for has one (flag `answer_unpriced`); neither has one
    (flags that say so and at which rates, and no name that it is priced as); the rate table cannot express this usage
    (flag `unpriced`: charged for the rest until it is corrected). Prices are those that the call was admitted with, and
    the event names their version.
    """
    flags = counted.flags
    rates, catalog = call.rates, call.catalog
    answered = _answered(catalog, counted, facts)
    if answered is None:
        answered = rates.model
        if answered == catalog.provisional:
            flags = flags if counted.evidence == "none" else (*flags, *pricing.provisional_flags(answered))
        elif facts.model:
            flags = (*flags, "answer_unpriced")
    # The tier that the answer names counts. Where it names none, the one asked for may not have been served: it counts
    # only where it is dearer, so that nobody can ask for a discount.
    tier = facts.service_tier
    charge = pricing.charge(counted.usage, answered, rates.card, tier)
    if not tier and call.ask.service_tier:
        asked = pricing.charge(counted.usage, answered, rates.card, call.ask.service_tier)
        if (asked.cost_nano, asked.charge_mc) > (charge.cost_nano, charge.charge_mc):
            tier, charge = call.ask.service_tier, asked
    caller = call.caller
    return UsageEvent(
        event_id=call.event_id,
        account_id=caller.account_id,
        key_id=caller.key.key_id,
        family=call.family.name,
        model_asked=call.ask.model,
        model_answered=_tidy(facts.model),
        priced_as=answered.model,
        price_version=catalog.price_version,
        card=rates.card.card,
        service_tier=_tidy(tier),
        usage=counted.usage,
        charge_mc=charge.charge_mc,
        cost_nano=charge.cost_nano,
        evidence=counted.evidence,
        outcome=facts.outcome,
        flags=(*flags, *charge.flags),
        stream=call.ask.stream,
        status=facts.status,
        started_at_us=call.started_at_us,
        first_byte_us=facts.first_byte_us,
        settled_at_us=now_us,
        hold_mc=held_mc,
        upstream_call_id=_tidy(facts.upstream_call_id),
        upstream_cost_nano=facts.upstream_cost_nano,
        gateway=gateway,
        conversation=caller.labels.conversation,
        message=caller.labels.message,
        purpose=caller.labels.purpose,
        directory_id=caller.key.directory_id if caller.external_id else None,
        external_id=caller.external_id[:EXTERNAL_ID_LENGTH_MAX],
    )


def served_tier(told: str, usage_raw: Mapping[str, Any] | None, asked: str) -> str:
    """The tier that a call was served at, with the uplifts that Anthropic puts into its usage: how fast, and where.

    What the usage does not say was served as it was asked for. Empty: the answer says nothing at all.
    """
    if usage_raw is None and "@" not in asked:
        return told
    raw = usage_raw or {}
    uplifts = asked.partition("@")[2].split(",")
    served = []
    for field, name in (("speed", "fast"), ("inference_geo", "us")):
        value = raw.get(field)
        if value == name or (value is None and name in uplifts):
            served.append(name)
    return f"{told}@{','.join(served)}" if served else told


def is_priced(call: Call, counted: Counted, facts: Facts) -> bool:
    """Whether model and card have a price for all of it."""
    model = _answered(call.catalog, counted, facts) or call.rates.model
    return pricing.charge(counted.usage, model, call.rates.card, facts.service_tier).priced


def _answered(catalog: Catalog, counted: Counted, facts: Facts) -> PricedModel | None:
    """The model whose price counts, where it has one."""
    for name in (*counted.names, facts.model):
        found = pricing.resolve(catalog.models, name) if name else None
        if found is not None:
            return found
    return None


def _tidy(text: str) -> str:
    """Text of the upstream's, as a database accepts it."""
    if not text:
        return text
    if text.isascii() and text.isprintable():
        return text[:MODEL_NAME_LENGTH_MAX]
    return "".join(c for c in text if c.isprintable())[:MODEL_NAME_LENGTH_MAX]
