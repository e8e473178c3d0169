"""The price of models that have none, where the operator admits them: flagged, and corrected when a price comes."""

from decimal import Decimal

from shared.pricing import PricedModel, provisional
from shared.settings import GatewaySettings
from shared.units import NANO_PER_USD


def provisional_model(settings: GatewaySettings) -> PricedModel | None:
    """A model without a name, which stands for every model without a price; None where such models are refused.

    Its rates are those of tokens in and out. What else a call used has no rate in it, and is flagged `unpriced`.
    """
    if settings.unpriced != "provisional":
        return None
    assert settings.provisional_input_usd is not None
    assert settings.provisional_output_usd is not None
    return provisional(_rate(settings.provisional_input_usd), _rate(settings.provisional_output_usd))


def _rate(usd_per_million: Decimal) -> int:
    return int(usd_per_million * NANO_PER_USD)
