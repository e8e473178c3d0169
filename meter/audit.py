"""Proves the invariants: over the books in one snapshot, and of the projection against them.

`audit` may run beside a working meter: what Redis has not been told yet is looked at again before it counts. `quiet`
asks for more, where nothing is under way: nothing held, nothing unposted, every stream empty.
"""

from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from meter.audit_projection import audit_projection
from meter.posting import Tariff, recompute
from meter.prices import PriceBook
from meter.tariffs import rate_cards
from meter.violation import Violation
from shared import sql
from shared.pricing import Charge
from shared.usage import Usage

RULES: Final = sql.parse((Path(__file__).parent / "sql" / "audit.sql").read_text(encoding="utf-8"))
"""Invariants by name; each statement returns its violations."""
QUICK_RULES: Final = ("append_only", "append_only_triggers", "default_partitions", "grant_sums")
"""Those whose cost does not grow with the books' length."""
VIOLATIONS_MAX: Final = 100
"""Violations of one rule that are listed."""

_EVENT_PAGE_ROWS: Final = 2_000
_USAGE: Final = """
    SELECT account_id, event_id, priced_as, price_version, card, service_tier, usage, charge_mc, cost_nano,
           gateway_charge_mc, evidence, flags
      FROM sundial.usage_events
"""
_decode_usage = msgspec.json.Decoder(Usage).decode


async def audit(pg_url: str, redis_url: str, *, quiet: bool = False) -> list[Violation]:
    """Everything that is wrong; empty if nothing is. Raises asyncpg's, redis-py's and OS errors."""
    connection = await asyncpg.connect(pg_url, server_settings={"application_name": "sundial audit", "jit": "off"})
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            found = [one for rule in RULES for one in await _check(connection, rule)]
            found.extend(await _check_charges(connection))
    finally:
        await connection.close()
    return found + await audit_projection(pg_url, redis_url, quiet=quiet)


async def quick_audit(connection: Any) -> dict[str, list[Violation]]:
    """The rules that are cheap enough for every few minutes, by name. Raises asyncpg's errors."""
    return {rule: await _check(connection, rule) for rule in QUICK_RULES}


async def _check(connection: Any, rule: str) -> list[Violation]:
    rows = await connection.fetch(f"{RULES[rule]} LIMIT {VIOLATIONS_MAX}")
    return [Violation(rule, row["subject"], row["detail"]) for row in rows]


async def _check_charges(connection: Any) -> list[Violation]:
    """I4: every charge is what its price version makes of its usage; an unpriced one is the gateway's and says so."""
    prices = PriceBook()
    cards = await rate_cards(connection)
    found: list[Violation] = []
    async for row in connection.cursor(_USAGE, prefetch=_EVENT_PAGE_ROWS):
        models = await prices.load(connection, row["price_version"])
        tariff = Tariff(models={row["price_version"]: models}, cards=cards)
        usage = _decode_usage(row["usage"])
        charged = recompute(
            tariff, usage, row["evidence"], row["priced_as"], row["price_version"], row["card"], row["service_tier"]
        )
        if detail := _wrong_charge(row, charged):
            found.append(Violation("charges", f"event {row['event_id']} of account {row['account_id']}", detail))
            if len(found) == VIOLATIONS_MAX:
                break
    return found


def _wrong_charge(row: Any, charged: Charge | None) -> str:
    if charged is None:
        if "unpriced" not in row["flags"]:
            return "has no price, and is not flagged so"
        if row["charge_mc"] != row["gateway_charge_mc"]:
            return f"is unpriced, but booked at {row['charge_mc']} mc, not the gateway's {row['gateway_charge_mc']} mc"
        return ""
    if (row["charge_mc"], row["cost_nano"]) != (charged.charge_mc, charged.cost_nano):
        return (
            f"is booked at {row['charge_mc']} mc and {row['cost_nano']} nano-USD; its price version makes it "
            f"{charged.charge_mc} mc and {charged.cost_nano} nano-USD"
        )
    if charged.charge_mc != row["gateway_charge_mc"] and "charge_differs" not in row["flags"]:
        return f"the gateway had counted {row['gateway_charge_mc']} mc, and no flag says so"
    return ""
