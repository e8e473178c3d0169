"""The prices and rate cards that batches need, kept in memory: both are immutable once they exist."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from meter.posting import Tariff
from meter.prices import PriceBook
from meter.queries import QUERIES
from shared.events import StreamMessage, UsageEvent
from shared.pricing import RateCard

_RATE_CARDS: Final = QUERIES["rate_cards"]


async def rate_cards(connection: Any) -> dict[str, RateCard]:
    """Every rate card by name. Raises asyncpg's errors."""
    rows = await connection.fetch(_RATE_CARDS)
    return {row["card"]: msgspec.json.decode(row["definition"], type=RateCard) for row in rows}


class Tariffs:
    """Gives each batch what it names. What Postgres does not have is asked for again by the next batch."""

    def __init__(self, prices: PriceBook) -> None:
        self._prices = prices
        self._cards: dict[str, RateCard] = {}

    def at_hand(self) -> Tariff:
        """What was read before and is kept."""
        return Tariff(models=self._prices.at_hand, cards=self._cards)

    def forget(self) -> None:
        """Read all anew, the prices too: Postgres may have been put back."""
        self._cards = {}
        self._prices.forget()

    async def covering(self, connection: Any, messages: Iterable[StreamMessage]) -> Tariff:
        """The tariff of all that `messages` name, as far as it exists. Raises asyncpg's errors."""
        named = {(one.price_version, one.card) for one in messages if type(one) is UsageEvent}
        return await self.holding(connection, {version for version, _ in named}, {card for _, card in named})

    async def holding(self, connection: Any, versions: set[int], cards: set[str]) -> Tariff:
        """The same for price versions and cards by name."""
        if not cards <= self._cards.keys():
            self._cards = await rate_cards(connection)
        models = {version: await self._prices.load(connection, version) for version in versions}
        return Tariff(models=models, cards=self._cards)
