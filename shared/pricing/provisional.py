"""What stands for a model without a price: the operator's rates, said by the event that was charged at them.

An event that names no price has two flags: `provisional`, and `provisional_rates:INPUT/OUTPUT` in nano-USD per million
tokens. So everybody who has the event can compute its charge again, whatever the settings are by then.
"""

import re
from collections.abc import Collection
from typing import Final

from shared.pricing.model import PricedModel

FLAG_PROVISIONAL: Final = "provisional"
"""The gateway knew no price and charged the operator's provisional one."""
FLAG_RATES: Final = "provisional_rates:"

_RATES: Final = re.compile(re.escape(FLAG_RATES) + r"([0-9]{1,18})/([0-9]{1,18})")


def provisional(input_rate: int, output_rate: int) -> PricedModel:
    """A model without a name, at rates in nano-USD per million tokens. Nothing but tokens has a rate in it."""
    return PricedModel(model="", rates={"input": input_rate, "output": output_rate})


def provisional_flags(model: PricedModel) -> tuple[str, str]:
    """The flags of an event that is charged at the rates of `model`."""
    return FLAG_PROVISIONAL, f"{FLAG_RATES}{model.rates['input']}/{model.rates['output']}"


def is_provisional(priced_as: str, flags: Collection[str]) -> bool:
    """Whether an event was charged the provisional price. An event that names a price is held to it."""
    return not priced_as and FLAG_PROVISIONAL in flags


def provisional_of(priced_as: str, flags: Collection[str]) -> PricedModel | None:
    """The model at whose rates an event was charged; None where it was charged otherwise, or does not say the rates, as
    gateways before 2026-11-28 did not."""
    if not is_provisional(priced_as, flags):
        return None
    told = next(filter(None, map(_RATES.fullmatch, flags)), None)
    return told and provisional(int(told[1]), int(told[2]))
