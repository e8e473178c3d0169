"""What follows from a catalog and is needed call after call: worked out once for each name, and kept with the catalog.

Few models are asked for and answered with, again and again. When a newer catalog comes, all of this goes with the old
one; calls that run on keep theirs.
"""

from collections.abc import Hashable
from typing import Final

import msgspec

from shared import pricing
from shared.pricing import Plain, PricedModel, RateCard
from shared.projection import Catalog

KNOWN_MAX: Final = 1_000
"""Things that are kept of one catalog, some 500 bytes each; at the next one all are worked out anew. Names are what
clients and upstreams say: nobody can make this grow by naming many."""


class Price(msgspec.Struct, frozen=True):
    """What a model costs under a rate card."""

    model: PricedModel
    plain: Plain | None
    """The short way to it, for most calls of text."""


def price_of(catalog: Catalog, name: str, card: RateCard) -> Price | None:
    """The price that a name has under a card of this catalog, of which no two have one name; None where it has none."""
    key = (name, card.card)
    price: Price | None = catalog.known.get(key)
    if price is None:
        model = pricing.resolve(catalog.models, name) if name else None
        if model is None:
            return None
        price = Price(model, pricing.plain_of(model, card))
        keep(catalog, key, price)
    return price


def keep(catalog: Catalog, key: Hashable, worked_out: object) -> None:
    """Keep what follows from `catalog` and `key` alone."""
    known = catalog.known
    if len(known) >= KNOWN_MAX:
        known.clear()
    known[key] = worked_out
