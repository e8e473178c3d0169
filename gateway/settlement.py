"""From what a call did to the usage event that is booked: usage and outcome in, money out. Pure, but for what is kept
of a catalog.

A call's event is made before the upstream is called, as the draft, and from that again with what came.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.admission import Call
from gateway.prices import Price, price_of
from shared import pricing
from shared.events import UsageEvent
from shared.pricing import Charge, PricedModel, RateCard
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


def draft_event(call: Call, *, now_us: int, held_mc: int, gateway: str) -> UsageEvent:
    """What is booked should this process die before it notes anything of the answer: lost, and at nothing."""
    caller, labels, drafts, family = call.caller, call.caller.labels, call.rates.drafts, call.family.name
    # A copy of one that is alike: Python 3.11 hands over up to fourteen changes as they are, a whole event as a dict.
    return msgspec.structs.replace(
        drafts.get(family) or drafts.setdefault(family, _blank(call)),
        event_id=call.event_id,
        account_id=caller.account_id,
        key_id=caller.key.key_id,
        model_asked=call.ask.model,
        stream=call.ask.stream,
        started_at_us=call.started_at_us,
        settled_at_us=now_us,
        hold_mc=held_mc,
        gateway=gateway,
        conversation=labels.conversation,
        message=labels.message,
        purpose=labels.purpose,
        directory_id=caller.key.directory_id if caller.external_id else None,
        external_id=caller.external_id,
    )


def _blank(call: Call) -> UsageEvent:
    """What all drafts of one family at the same rates have in common; the rest is that of this call."""
    return UsageEvent(
        event_id=call.event_id,
        account_id=call.caller.account_id,
        key_id=call.caller.key.key_id,
        family=call.family.name,
        model_asked=call.ask.model,
        priced_as=call.rates.model.model,
        price_version=call.catalog.price_version,
        card=call.rates.card.card,
        usage=NOTHING.usage,
        charge_mc=0,
        cost_nano=0,
        evidence="none",
        outcome="lost",
        status=0,
        started_at_us=0,
        settled_at_us=0,
    )


def usage_event(
    draft: UsageEvent, call: Call, counted: Counted, facts: Facts, *, now_us: int, held_mc: int
) -> UsageEvent:
    """The event of `call`, priced by the model that answered. `draft` is its draft, or any later event of it: whatever
    may differ from that is said anew.

    Cases: the answering model has a price; only the model asked for has one (flag `answer_unpriced`); neither has one
    (flags that say so and at which rates, and no name that it is priced as); the rate table cannot express this usage
    (flag `unpriced`: charged for the rest until it is corrected). Prices are those that the call was admitted with, and
    the event names their version.
    """
    flags, rates, told = counted.flags, call.rates, facts.model
    price = _answered(call, counted, facts) if counted.names else price_of(call.catalog, told, rates.card)
    if price is not None:
        model, plain = price.model, price.plain
    else:
        model, plain = rates.model, rates.plain
        if model == call.catalog.provisional:
            flags = flags if counted.evidence == "none" else (*flags, *pricing.provisional_flags(model))
        elif told:
            flags = (*flags, "answer_unpriced")
    tier, asked, charge = facts.service_tier, call.ask.service_tier, None
    if plain is not None and tier in plain.tiers and (tier or asked in plain.tiers):
        charge = plain.charge(counted.usage)
    if charge is None:
        charge, tier = _charge(counted.usage, model, rates.card, tier, asked)
        flags = (*flags, *charge.flags)
    made = msgspec.structs.replace(
        draft,
        model_answered=_tidy(told),
        priced_as=model.model,
        service_tier=_tidy(tier) if tier else "",
        usage=counted.usage,
        charge_mc=charge.charge_mc,
        cost_nano=charge.cost_nano,
        evidence=counted.evidence,
        outcome=facts.outcome,
        status=facts.status,
        first_byte_us=facts.first_byte_us,
        settled_at_us=now_us,
        hold_mc=held_mc,
        upstream_call_id=_tidy(facts.upstream_call_id),
        upstream_cost_nano=facts.upstream_cost_nano,
    )
    return made if made.flags == flags else msgspec.structs.replace(made, flags=flags)


def _charge(usage: Usage, model: PricedModel, card: RateCard, told: str, asked: str) -> tuple[Charge, str]:
    """The charge, and the tier that it is at.

    The tier that the answer names counts. Where it names none, the one asked for may not have been served: it counts
    only where it is dearer, so that nobody can ask for a discount.
    """
    charge = pricing.charge(usage, model, card, told)
    if not told and asked:
        at_asked = pricing.charge(usage, model, card, asked)
        if (at_asked.cost_nano, at_asked.charge_mc) > (charge.cost_nano, charge.charge_mc):
            return at_asked, asked
    return charge, told


def served_tier(told: str, usage_raw: Mapping[str, Any] | None, asked: str) -> str:
    """The tier that a call was served at, with the uplifts that Anthropic puts into its usage: how fast, and where.

    What the usage does not say was served as it was asked for. Empty: the answer says nothing at all.
    """
    raw = usage_raw or {}
    if "speed" not in raw and "inference_geo" not in raw and "@" not in asked:
        return told
    uplifts = asked.partition("@")[2].split(",")
    served = []
    for field, name in (("speed", "fast"), ("inference_geo", "us")):
        value = raw.get(field)
        if value == name or (value is None and name in uplifts):
            served.append(name)
    return f"{told}@{','.join(served)}" if served else told


def is_priced(call: Call, counted: Counted, facts: Facts) -> bool:
    """Whether model and card have a price for all of it."""
    price = _answered(call, counted, facts)
    model = call.rates.model if price is None else price.model
    return pricing.charge(counted.usage, model, call.rates.card, facts.service_tier).priced


def _answered(call: Call, counted: Counted, facts: Facts) -> Price | None:
    """The price of what was made, where that has one of its own, or of the model that answered; None where neither."""
    for name in (*counted.names, facts.model):
        price = price_of(call.catalog, name, call.rates.card)
        if price is not None:
            return price
    return None


def _tidy(text: str) -> str:
    """Text of the upstream's, as a database accepts it."""
    if not text:
        return text
    if text.isascii() and text.isprintable():
        return text[:MODEL_NAME_LENGTH_MAX]
    return "".join(c for c in text if c.isprintable())[:MODEL_NAME_LENGTH_MAX]
