"""The arithmetic: usage × rates, in integers, rounded once per amount at the very end.

1 millicredit = 1 nano-USD under the `cost` family (1 credit = 1 micro-USD), so that with a markup of 1 the charge is
the provider's cost.
"""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from itertools import compress
from operator import attrgetter
from typing import Final

from shared.pricing.model import (
    EXTRAS,
    KINDS,
    MEASURES,
    PPM,
    SERVICE_ALIASES,
    TOKENS_IN,
    TOKENS_OUT,
    Charge,
    Line,
    PricedModel,
    RateCard,
    Tier,
    rate_of,
)
from shared.units import MC_MAX, MC_PER_CREDIT, round_half_even
from shared.usage import Usage

FLAG_UNPRICED: Final = "unpriced"
FLAG_OVERFLOW: Final = "overflow"

PLAIN_IN: Final = ("input", "cached", "cache_write")
PLAIN_OUT: Final = ("output", "reasoning")
"""Kinds that any text call may use unasked: what a hold covers unless the caller names more."""

DECIMALS_MAX: Final = 60
"""Digits after the point of an exact amount; ten times what a published price has."""

_RATE_UNITS: Final = 1_000_000
"""A rate is per so many units of its kind."""
_CARD_DENOMINATOR: Final = PPM * 1_000
"""Credits of the `tokens` family are counted in this fraction of a millicredit: ppm of weights, ms of seconds."""

_TOKENS: Final = frozenset((*TOKENS_IN, *TOKENS_OUT))
_counts = attrgetter(*KINDS)

_NOTHING: Final = Usage()
_FREE: Final = Charge(0, 0, priced=True)
"""What nothing costs: every call begins with it."""

Used = list[tuple[str, int]]
"""Kind and units of what a usage counts, in the order of KINDS; never none of a kind."""
Sold = list[tuple[str, int, int | None]]
"""Kind, units and rate of what is billed; a rate of None where there is none."""


def charge(usage: Usage, model: PricedModel, card: RateCard, service_tier: str = "") -> Charge:
    """What `usage` costs and what the card makes of it.

    `service_tier` is a tier's name, and after an `@` the uplifts that apply: `flex`, `priority@eu`, `@fast,us`.
    Never negative; beyond MC_MAX an amount is cut to it and flagged.
    """
    if usage == _NOTHING or not (used := _used(usage)):
        return _FREE
    sold_at_cost, cost, cost_denominator = cost_of(used, usage.tokens_in, model, service_tier)
    if card.family == "cost":
        sold_by_card, amount, denominator = sold_at_cost, cost * card.markup_ppm, cost_denominator * PPM
    else:
        sold_by_card, amount, denominator = credits_of(used, model, card)
    charge_mc = round_half_even(amount, denominator)
    cost_nano = round_half_even(cost, cost_denominator)

    priced = _all_priced(sold_at_cost) and _all_priced(sold_by_card)
    flags = () if priced else (FLAG_UNPRICED,)
    if charge_mc > MC_MAX or cost_nano > MC_MAX:
        flags = (*flags, FLAG_OVERFLOW)
    return Charge(min(charge_mc, MC_MAX), min(cost_nano, MC_MAX), priced, flags)


def explain(usage: Usage, model: PricedModel, card: RateCard, service_tier: str = "") -> list[Line]:
    """The receipt: one line per kind that is billed; their sums, rounded half-even, are the charge and its cost."""
    used = _used(usage)
    sold_at_cost, _, cost_denominator = cost_of(used, usage.tokens_in, model, service_tier)
    at_cost = {kind: (units, _fraction(rate, cost_denominator)) for kind, units, rate in sold_at_cost}
    if card.family == "cost":
        sold_by_card, factor, denominator = sold_at_cost, card.markup_ppm, cost_denominator * PPM
    else:
        sold_by_card, _, denominator = credits_of(used, model, card)
        factor = 1
    by_card = {
        kind: (units, _fraction(None if rate is None else rate * factor, denominator))
        for kind, units, rate in sold_by_card
    }
    lines = []
    for kind in at_cost | by_card:
        units, rate = by_card.get(kind, (0, None))
        cost_units, cost_rate = at_cost.get(kind, (0, None))
        lines.append(
            Line(
                kind=kind,
                units=max(units, cost_units),
                rate=rate,
                amount=units * (rate or Fraction()),
                cost_rate=cost_rate,
                cost=cost_units * (cost_rate or Fraction()),
            )
        )
    return lines


def hold_mc(
    input_tokens: int,
    output_tokens: int,
    model: PricedModel,
    card: RateCard,
    *,
    service_tier: str = "",
    kinds_in: Iterable[str] = PLAIN_IN,
    kinds_out: Iterable[str] = PLAIN_OUT,
) -> int:
    """Millicredits that no call of up to so many tokens, of these kinds, exceeds: the dearest rates that can apply.

    A caller whose request carries audio or images, or asks for cache entries of an hour, names those kinds too.
    """
    each_in, each_out, denominator = hold_rates(
        input_tokens, model, card, service_tier=service_tier, kinds_in=kinds_in, kinds_out=kinds_out
    )
    return min(_ceiling(input_tokens * each_in + output_tokens * each_out, denominator), MC_MAX)


def hold_rates(
    input_tokens: int,
    model: PricedModel,
    card: RateCard,
    *,
    service_tier: str = "",
    kinds_in: Iterable[str] = PLAIN_IN,
    kinds_out: Iterable[str] = PLAIN_OUT,
) -> tuple[int, int, int]:
    """What `hold_mc` takes for a token of input and for one of output, in millicredits over a denominator, the third:
    looked up once for all amounts that are asked for. A hold is their sum, rounded up, and MC_MAX at most."""
    if card.family == "tokens":
        weight = MC_PER_CREDIT * _weight(model, card) * (_CARD_DENOMINATOR // PPM)
        return weight, weight, _CARD_DENOMINATOR
    uplift, uplift_denominator = _uplift(model, service_tier)
    factor = uplift * card.markup_ppm
    each_in = upper_rate(model, kinds_in, input_tokens, service_tier) * factor
    each_out = upper_rate(model, kinds_out, input_tokens, service_tier) * factor
    return each_in, each_out, _RATE_UNITS * 10**model.rate_digits * uplift_denominator * PPM


def upper_rate(model: PricedModel, kinds: Iterable[str], tokens_in: int, service_tier: str = "") -> int:
    """The dearest rate, in the unit of the model's rates and before uplifts, that any of `kinds` has in a call of up to
    `tokens_in` tokens of input; 0 where none has one. What was asked at one tier may be served as standard: both count.
    """
    tables = []
    for name in ("", service_tier) if service_tier else ("",):
        rates, tiers = _tables(model, name)
        tables += [rates, *(rates | tier.rates for tier in tiers if tokens_in > tier.above)] if tiers else [rates]
    dearest = 0
    for kind in kinds:
        for table in tables:
            rate = rate_of(table, kind, model.unpriced)
            if rate is not None and rate > dearest:
                dearest = rate
    return dearest


def sold(used: Used, model: PricedModel, rate: Callable[[str], int | None]) -> Sold:
    """What of a usage is billed, given the rate of each kind. No work is billed twice:

    1. there are tokens, and a rate for some      → the tokens, and measures that the model sells beside them
    2. else there is a rate for a measure         → that measure
    3. else there is a rate for nothing           → whatever there is, unpriced
    Searches are billed in every case; so are requests, but where they have no rate they are part of the rest.
    """
    lines: Sold = [(kind, units, rate(kind)) for kind, units in used]
    if not used or used[-1][0] in _TOKENS:
        return lines  # nothing but tokens, as most calls: whatever has a rate
    tokens = [line for line in lines if line[0] in _TOKENS]
    measures = [line for line in lines if line[0] in MEASURES]
    extras: Sold = [
        (kind, 1 if kind == "searches" and model.searches_once else units, each)
        for kind, units, each in lines
        if kind in EXTRAS
    ]
    if (tokens or measures) and extras and extras[-1][0] == "requests" and extras[-1][2] is None:
        extras.pop()
    if any(line[2] is not None for line in tokens):
        return [*tokens, *(line for line in measures if line[0] in model.beside), *extras]
    if first := next((line for line in measures if line[2] is not None), None):
        return [first, *extras]
    return [*tokens, *measures, *extras]


def decimal_text(value: Fraction) -> str:
    """An exact amount as decimal digits, none lost: `2.125`. Raises ValueError for what has no end, such as 1/3."""
    for decimals in range(DECIMALS_MAX + 1):
        scaled = value * 10**decimals
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(decimals + 1, "0")
            text = f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
            return f"-{text}" if value < 0 else text
    raise ValueError(f"{value} has no exact decimal form")


def _used(usage: Usage) -> Used:
    counts = _counts(usage)
    return [line for line in compress(zip(KINDS, counts, strict=True), counts) if line[1] > 0]


def cost_of(used: Used, tokens_in: int, model: PricedModel, service_tier: str) -> tuple[Sold, int, int]:
    """What is sold at the provider's rates, and its cost in nano-USD as numerator and denominator; the denominator is
    that of the rates too."""
    rates, tiers = _tables(model, service_tier)
    if tiers:
        reached = next((tier for tier in reversed(tiers) if tokens_in > tier.above), None)
        if reached is not None:
            rates = rates | reached.rates
    uplift, uplift_denominator = _uplift(model, service_tier)

    def rate(kind: str) -> int | None:
        found = rate_of(rates, kind, model.unpriced)
        return None if found is None else found * (uplift_denominator if kind in EXTRAS else uplift)

    lines = sold(used, model, rate)
    return lines, _sum(lines), _RATE_UNITS * 10**model.rate_digits * uplift_denominator


def credits_of(used: Used, model: PricedModel, card: RateCard) -> tuple[Sold, int, int]:
    """What is sold under a card of the family `tokens`, and its sum in millicredits, likewise."""
    per_token = MC_PER_CREDIT * _weight(model, card) * (_CARD_DENOMINATOR // PPM)

    def rate(kind: str) -> int | None:
        if kind in _TOKENS:
            return per_token
        unit_mc = card.units.get(kind, 0 if kind == "requests" else None)
        if unit_mc is None:
            return None
        return unit_mc * (_CARD_DENOMINATOR // 1_000 if kind == "duration_ms" else _CARD_DENOMINATOR)

    lines = sold(used, model, rate)
    return lines, _sum(lines), _CARD_DENOMINATOR


def _sum(lines: Sold) -> int:
    total = 0
    for _, units, rate in lines:
        if rate is not None:
            total += units * rate
    return total


def _tables(model: PricedModel, service_tier: str) -> tuple[dict[str, int], Sequence[Tier]]:
    """The rates of a service tier below its first token tier, and its token tiers."""
    if not service_tier:
        return model.rates, model.tiers
    name = service_tier.partition("@")[0].lower()
    table = model.service.get(SERVICE_ALIASES.get(name, name)) if name else None
    return (model.rates, model.tiers) if table is None else (model.rates | table.rates, table.tiers)


def _uplift(model: PricedModel, service_tier: str) -> tuple[int, int]:
    """The product of the uplifts that apply, as numerator and denominator. One that the model does not know is 1."""
    if not service_tier:
        return 1, 1
    numerator, denominator = 1, 1
    _, _, served = service_tier.partition("@")
    if served:
        for name in served.lower().split(","):
            if name in model.uplifts:
                numerator *= model.uplifts[name]
                denominator *= PPM
    return numerator, denominator


def _weight(model: PricedModel, card: RateCard) -> int:
    for pattern, weight in card.weights:
        if fnmatchcase(model.model, pattern):
            return weight
    return PPM


def _all_priced(lines: Sold) -> bool:
    for _, _, rate in lines:  # noqa: SIM110 (every call comes here: a generator costs as much again)
        if rate is None:
            return False
    return True


def _fraction(rate: int | None, denominator: int) -> Fraction | None:
    return None if rate is None else Fraction(rate, denominator)


def _ceiling(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
