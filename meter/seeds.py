"""What a fresh database is given, so that the first user can be served: a directory, two rate cards, a plan, prices."""

from typing import Any, Final

import msgspec

from meter.introductions import PLAN_GUESSED
from meter.prices import ensure_prices
from meter.queries import QUERIES
from shared.ids import directory_id
from shared.pricing import RateCard

DIRECTORY: Final = "librechat"
RATE_CARDS: Final = (RateCard(card="tokens@1", family="tokens"), RateCard(card="cost@1", family="cost"))
PLAN: Final = PLAN_GUESSED
PLAN_CARD: Final = "cost@1"


async def seed(connection: Any, allowance_mc: int) -> None:
    """Give what is missing; prices where the bundled map is newer than what was imported last. What people have made
    stays.

    `allowance_mc` is that of the first plan. Raises asyncpg's errors, and meter.prices.PriceSourceError.
    """
    await seed_masters(connection, allowance_mc)
    await ensure_prices(connection)


async def seed_masters(connection: Any, allowance_mc: int) -> None:
    """Directory, cards and plan alone. Raises asyncpg's errors."""
    async with connection.transaction():
        await connection.execute(QUERIES["seed_directory"], directory_id(DIRECTORY), DIRECTORY)
        for card in RATE_CARDS:
            await connection.execute(QUERIES["seed_rate_card"], card.card, msgspec.json.encode(card).decode())
        await connection.execute(QUERIES["seed_plan"], PLAN, PLAN_CARD, allowance_mc)
