"""Proves the invariants: over the books in one snapshot, and of the projection against them.

`audit` may run beside a working meter: what Redis has not been told yet is looked at again before it counts. `quiet`
asks for more, where nothing is under way: nothing held, nothing unposted, every stream empty.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from meter import checkpoints
from meter.audit_chain import audit_chains
from meter.audit_checkpoints import audit_checkpoints
from meter.audit_ids import audit_ids
from meter.audit_prices import audit_prices
from meter.audit_projection import audit_projection
from meter.posting import FLAG_UNPRICED, Tariff, recompute
from meter.prices import PriceBook
from meter.tariffs import rate_cards
from meter.violation import Violation
from shared import sql
from shared.pricing import Charge, is_provisional
from shared.usage import Usage

RULES: Final = sql.parse((Path(__file__).parent / "sql" / "audit.sql").read_text(encoding="utf-8"))
"""Invariants by name; each statement returns its violations."""
QUICK_RULES: Final = ("append_only", "append_only_triggers", "default_partitions", "grant_sums")
"""Those whose cost does not grow with the books' length."""
VIOLATIONS_MAX: Final = 100
"""Violations of one rule that are listed."""

_EVENT_PAGE_ROWS: Final = 2_000
_RECORDS: Final = """
    SELECT r.*, q.event_id IS NOT NULL AS waiting, c.price_version AS corrected_version, c.priced_as AS corrected_as,
           c.charge_mc AS corrected_mc, c.cost_nano AS corrected_nano
      FROM sundial.event_records r
      LEFT JOIN sundial.unpriced_events q
        ON q.account_id = r.account_id AND q.event_id = r.event_id AND q.late = r.late
      LEFT JOIN sundial.price_corrections c
        ON c.account_id = r.account_id AND c.event_id = r.event_id AND c.late = r.late
"""
_decode_usage = msgspec.json.Decoder(Usage).decode


async def audit(
    pg_url: str, redis_url: str, *, quiet: bool = False, checkpoint: checkpoints.Statement | None = None
) -> list[Violation]:
    """Everything that is wrong; empty if nothing is. What a `checkpoint` says must still stand in the books.

    Raises asyncpg's, redis-py's and OS errors.
    """
    connection = await asyncpg.connect(pg_url, server_settings={"application_name": "sundial audit", "jit": "off"})
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            found = [one for rule in RULES for one in await _check(connection, rule)]
            found.extend(await audit_prices(connection, found_max=VIOLATIONS_MAX))
            found.extend(await _check_charges(connection))
            found.extend(await audit_ids(connection, found_max=VIOLATIONS_MAX))
            found.extend(await audit_checkpoints(connection, found_max=VIOLATIONS_MAX))
            if checkpoint is not None:
                found.extend(await checkpoints.wrong_prices(connection, checkpoint))
            heads = None if checkpoint is None else checkpoints.heads(checkpoint)
            found.extend(await audit_chains(connection, heads, found_max=VIOLATIONS_MAX))
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
    """I4: every charge is what its price version makes of its usage. One that has none is the gateway's and says so,
    and waits for a price; or a price has come, and with its correction it is what that makes of it."""
    prices = PriceBook()
    cards = await rate_cards(connection)

    async def computed(row: Any, priced_as: str, version: int) -> Charge | None:
        tariff = Tariff(models={version: await prices.load(connection, version)}, cards=cards)
        usage = _decode_usage(row["usage"])
        evidence, card, service_tier, flags = row["evidence"], row["card"], row["service_tier"], row["flags"]
        return recompute(tariff, usage, evidence, priced_as, version, card, service_tier, flags)

    found: list[Violation] = []
    async for row in connection.cursor(_RECORDS, prefetch=_EVENT_PAGE_ROWS):
        detail = _wrong_charge(row, await computed(row, row["priced_as"], row["price_version"]))
        if not detail and row["corrected_version"] is not None:
            detail = _wrong_correction(row, await computed(row, row["corrected_as"], row["corrected_version"]))
        if detail:
            found.append(Violation("charges", f"event {row['event_id']} of account {row['account_id']}", detail))
            if len(found) == VIOLATIONS_MAX:
                break
    return found


def _wrong_charge(row: Any, charged: Charge | None) -> str:
    if wrong := wrong_booking(row, charged):
        return wrong
    for_now = row["evidence"] != "none" and is_provisional(row["priced_as"], row["flags"])
    if charged is None or for_now:
        if row["superseded"]:
            return "waits for a price that is asked for no more" if row["waiting"] else ""
        if row["waiting"] is (row["corrected_version"] is not None):
            return "is unpriced, and either neither corrected nor waiting for a price, or both"
        return ""
    if row["waiting"] or row["corrected_version"] is not None:
        return "has a price, and yet waits for one or was corrected"
    return ""


def wrong_booking(row: Mapping[str, Any], charged: Charge | None) -> str:
    """What is wrong with what a record was booked at, where `charged` is what its price version makes of it."""
    if charged is None:
        if FLAG_UNPRICED not in row["flags"] and not is_provisional(row["priced_as"], row["flags"]):
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


def _wrong_correction(row: Any, charged: Charge | None) -> str:
    corrected = f"version {row['corrected_version']} of {row['corrected_as']}"
    if charged is None:
        return f"was corrected by {corrected}, which has no price for it"
    if (row["corrected_mc"], row["corrected_nano"]) != (charged.charge_mc, charged.cost_nano):
        return (
            f"was corrected to {row['corrected_mc']} mc and {row['corrected_nano']} nano-USD; {corrected} makes it "
            f"{charged.charge_mc} mc and {charged.cost_nano} nano-USD"
        )
    return ""
