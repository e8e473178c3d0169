"""From usage to money, exactly: what a model costs, what a rate card makes of it, and under which name a price stands.

Pure integers: no float, no clock, no I/O. Gateway and meter run the same code, so that what the gateway counts as
unposted is what the meter books. `model` has the shapes, `charging` the arithmetic, `plain` its short way,
`names` the look-up, `provisional` what stands for a price that is missing.
"""

from shared.pricing.charging import PLAIN_IN, PLAIN_OUT, charge, decimal_text, explain, hold_mc, hold_rates, upper_rate
from shared.pricing.model import (
    EXTRAS,
    FALLBACKS,
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
    Table,
    Tier,
    rate_of,
)
from shared.pricing.names import covered, resolve
from shared.pricing.plain import Plain, plain_of
from shared.pricing.provisional import FLAG_RATES, is_provisional, provisional, provisional_flags, provisional_of

__all__ = [
    "EXTRAS",
    "FALLBACKS",
    "FLAG_RATES",
    "KINDS",
    "MEASURES",
    "PLAIN_IN",
    "PLAIN_OUT",
    "PPM",
    "SERVICE_ALIASES",
    "TOKENS_IN",
    "TOKENS_OUT",
    "Charge",
    "Line",
    "Plain",
    "PricedModel",
    "RateCard",
    "Table",
    "Tier",
    "charge",
    "covered",
    "decimal_text",
    "explain",
    "hold_mc",
    "hold_rates",
    "is_provisional",
    "plain_of",
    "provisional",
    "provisional_flags",
    "provisional_of",
    "rate_of",
    "resolve",
    "upper_rate",
]
