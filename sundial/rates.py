"""Prices as providers publish them, and the integer rates that the price versions keep. Pure.

A rate is nano-USD per million units of a kind. People say tokens and characters per million, seconds, images, searches
and requests each; time is kept in milliseconds.
"""

from decimal import Decimal, InvalidOperation
from typing import Final

from meter.prices import RATE_MAX
from shared.pricing import KINDS, PricedModel
from shared.units import NANO_PER_USD

MILLION: Final = 1_000_000
MS_PER_S: Final = 1_000

PRICE_LENGTH_MAX: Final = 28
"""Characters of a price: as many digits as decimals are computed with exactly."""

PER_UNIT: Final = {"images": MILLION, "searches": MILLION, "requests": MILLION, "duration_ms": MS_PER_S}
"""Kind → by how much a price as people say it is multiplied to be per million units. The others are per million."""

SAID: Final = {kind: "seconds" if kind == "duration_ms" else kind for kind in KINDS}
"""Kind → what people call it."""


class PriceTextError(ValueError):
    """A text that is no price; the message says what to write instead."""


def unit(kind: str) -> str:
    """What one price of a kind is for."""
    if kind == "duration_ms":
        return "second"
    if kind in PER_UNIT:
        return {"images": "image", "searches": "search", "requests": "request"}[kind]
    return "million characters" if kind == "characters" else "million tokens"


def parse_price(text: str, kind: str) -> int:
    """The rate of a price in USD: `0.15` for a million tokens of input → 150_000_000.

    Raises PriceTextError for anything but a number of 0 or more, for one finer than a rate can hold, and for one beyond
    RATE_MAX.
    """
    if len(text.strip()) > PRICE_LENGTH_MAX:
        raise PriceTextError(f"a price has at most {PRICE_LENGTH_MAX} characters; write for example 0.15")
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise PriceTextError(f"{text!r} is no price in USD; write for example 0.15") from None
    if not value.is_finite() or value < 0:
        raise PriceTextError(f"{text!r} is no price: it is 0 or more USD")
    # Compared before it is computed with: 1e999999 is a number.
    if value > Decimal(RATE_MAX) / PER_UNIT.get(kind, 1) / NANO_PER_USD:
        most = price_text(RATE_MAX, kind)
        raise PriceTextError(f"{text!r} is more than the largest price, USD {most} per {unit(kind)}")
    rate = value * PER_UNIT.get(kind, 1) * NANO_PER_USD
    if rate != rate.to_integral_value():
        raise PriceTextError(f"{text!r} is finer than a rate can hold, a nano-USD per million units")
    return int(rate)


def price_text(rate: int, kind: str, digits: int = 0) -> str:
    """A rate as people say it, in USD, every digit kept; `digits` is the model's `rate_digits`."""
    value = Decimal(rate) / (Decimal(10) ** digits) / NANO_PER_USD / PER_UNIT.get(kind, 1)
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(2, '0')}"


def prices(rates: dict[str, int], digits: int) -> dict[str, str]:
    """Prices in USD by kind, as people call them."""
    return {SAID[kind]: price_text(rate, kind, digits) for kind, rate in rates.items()}


def page(model: PricedModel) -> dict[str, object]:
    """One model's prices for programs: USD as decimal texts, per unit as `units` says."""
    digits = model.rate_digits
    used = {*model.rates, *(kind for tier in model.tiers for kind in tier.rates)}
    used |= {kind for table in model.service.values() for kind in table.rates}
    return {
        "model": model.model,
        "provider": model.provider,
        "mode": model.mode,
        "override": model.override,
        "usd": prices(model.rates, digits),
        "units": {SAID[kind]: unit(kind) for kind in KINDS if kind in used},
        "tiers": [{"above_input_tokens": tier.above, "usd": prices(tier.rates, digits)} for tier in model.tiers],
        "service": {
            name: {
                "usd": prices(table.rates, digits),
                "tiers": [
                    {"above_input_tokens": tier.above, "usd": prices(tier.rates, digits)} for tier in table.tiers
                ],
            }
            for name, table in model.service.items()
        },
        "uplifts": {name: str(Decimal(ppm) / MILLION) for name, ppm in model.uplifts.items()},
        "unpriced_kinds": [SAID[kind] for kind in model.unpriced],
        "input_tokens_max": model.input_max,
        "output_tokens_max": model.output_max,
        "reasoning": model.reasoning,
    }
