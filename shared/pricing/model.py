"""The shapes of prices: a model's rate tables, a rate card, a charge and the lines of its receipt.

A rate is an integer of nano-USD per million units of one kind (a field of `Usage`); a millisecond of `duration_ms` is
a unit too. Where a price has more digits than that, `rate_digits` of its model makes the unit finer: no price that was
published is ever rounded, and the only rounding is that of a whole usage event.

Four levels, each overriding single kinds of the one before: the model's rates; those of the service tier; those of the
highest token tier that the call's input exceeds; and, for a kind that none of them names, the kind that FALLBACKS
names in its place.
"""

from collections.abc import Container, Mapping
from fractions import Fraction
from typing import Final, Literal

import msgspec

TOKENS_IN: Final = ("input", "cached", "cached_audio", "cache_write", "cache_write_1h", "audio_in", "image_in")
TOKENS_OUT: Final = ("output", "reasoning", "audio_out", "image_out")
MEASURES: Final = ("images", "characters", "duration_ms")
"""The same work measured otherwise: sold only where the tokens are not (see `charging.sold`)."""
EXTRAS: Final = ("searches", "requests")
"""Sold beside whatever else was used."""
KINDS: Final = (*TOKENS_IN, *TOKENS_OUT, *MEASURES, *EXTRAS)

FALLBACKS: Final[Mapping[str, str]] = {
    "cached": "input",
    "cached_audio": "cached",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_in": "input",
    "image_in": "input",
    "reasoning": "output",
    "audio_out": "output",
    "image_out": "output",
}
"""The kind at whose rate a kind without a rate of its own is sold, as litellm's arithmetic has it: a provider that
publishes no price for cached tokens bills them as input, and so on. The other kinds have none: without a rate they
are unpriced."""

SERVICE_ALIASES: Final[Mapping[str, str]] = {"fast": "priority"}
"""Service tiers that are sold at another tier's rates. A tier that is neither here nor in a model's tables (`default`,
`standard`, `auto`, `scale`) is sold at the model's own rates."""
OWN_TIERS: Final = ("", "default", "standard", "auto", "scale")
"""Tiers that are mostly sold so, and no tier at all."""

PPM: Final = 1_000_000
"""Parts per million: markups, weights and uplifts are integers of it."""


class Tier(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rates that replace those of the table when the call's input exceeds `above` tokens."""

    above: int
    rates: dict[str, int]


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a service tier (flex, priority, batch …) replaces; its token tiers stand in place of the model's."""

    rates: dict[str, int] = {}
    tiers: tuple[Tier, ...] = ()


class PricedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of one price version."""

    model: str
    provider: str = ""
    mode: str = "chat"
    rates: dict[str, int]
    tiers: tuple[Tier, ...] = ()
    """In rising order; the highest one that applies counts, alone."""
    service: dict[str, Table] = {}
    """Tables by service tier."""
    uplifts: dict[str, int] = {}
    """Where or how a call is served → what its cost, but for EXTRAS, is multiplied by, in ppm: `us`, `eu`, `fast` …"""
    rate_digits: int = 0
    """Decimal digits that the rates have beyond nano-USD per million units."""
    unpriced: tuple[str, ...] = ()
    """Kinds whose price depends on more than their count: sold at no rate, not even at that of FALLBACKS."""
    beside: tuple[str, ...] = ()
    """MEASURES that are sold beside tokens, not in their place."""
    searches_once: bool = False
    """Any number of searches in one call costs as much as one."""
    override: bool = False
    """Set by the operator, and kept over later imports."""
    imported: "PricedModel | msgspec.UnsetType | None" = msgspec.UNSET
    """Of an override: what it stands over in the newest import, None where that has no such model. Unset in versions
    made before this was kept."""
    input_max: int = 0
    output_max: int = 0
    """Tokens of one answer at most; 0: unknown."""
    reasoning: bool = False
    """Whether the model may think in hidden tokens."""


class RateCard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Turns a usage into millicredits. Immutable once used; a changed card gets another name."""

    card: str
    family: Literal["tokens", "cost"]
    """`cost`: the provider's price × markup, 1 credit = 1 micro-USD.   `tokens`: 1 token = 1 credit × weight."""
    markup_ppm: int = PPM
    """Family `cost` only."""
    weights: tuple[tuple[str, int], ...] = ()
    """Family `tokens` only: shell pattern of model names → weight in ppm; the first that matches counts, else 1."""
    units: dict[str, int] = {}
    """Family `tokens` only: millicredits per image, character, second (of `duration_ms`), search and request. What is
    missing here is unpriced; but a request is then free."""


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What a usage comes to. `priced` is False where something in it has no rate: then the amounts are those of the
    rest. Flags: `unpriced`, and `overflow` where an amount was cut at MC_MAX."""

    charge_mc: int
    cost_nano: int
    priced: bool
    flags: tuple[str, ...] = ()


class Line(msgspec.Struct, frozen=True):
    """One kind on a receipt, exact and unrounded. A rate of None: there is none, and the amount is 0."""

    kind: str
    units: int
    rate: Fraction | None
    """Millicredits per unit."""
    amount: Fraction
    """Millicredits."""
    cost_rate: Fraction | None
    """Nano-USD per unit."""
    cost: Fraction
    """Nano-USD."""


def rate_of(rates: Mapping[str, int], kind: str, unpriced: Container[str] = ()) -> int | None:
    """The rate of a kind in one table, by FALLBACKS where it has none of its own; None where there is none at all, or
    where the way to it leads over a kind in `unpriced`."""
    while kind not in unpriced:
        rate = rates.get(kind)
        if rate is not None:
            return rate
        if kind not in FALLBACKS:
            return None
        kind = FALLBACKS[kind]
    return None
