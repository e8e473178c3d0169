"""From usage to money: one rate table per model, two families of rate cards, one rounding. Pure."""

from typing import Literal

import msgspec

from shared.usage import Usage


class Tier(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rates that replace the base rates when the call's input exceeds `above` tokens."""

    above: int
    rates: dict[str, int]


class PricedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of one price version. Rates: nano-USD per million units of a kind (a field of Usage)."""

    model: str
    provider: str = ""
    mode: str = "chat"
    rates: dict[str, int]
    tiers: tuple[Tier, ...] = ()
    input_max: int = 0
    output_max: int = 0
    """Tokens of one answer at most; 0: unknown."""
    reasoning: bool = False
    """Whether the model may think in hidden tokens."""


class RateCard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Turns a usage into millicredits. Immutable once used; a changed card gets another name."""

    card: str
    family: Literal["tokens", "cost"]


class Charge(msgspec.Struct, frozen=True):
    charge_mc: int
    cost_nano: int
    priced: bool


def charge(usage: Usage, model: PricedModel, card: RateCard, service_tier: str = "") -> Charge:
    raise NotImplementedError
