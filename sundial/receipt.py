"""The receipt of one charge: what was counted and how, at which rates, and what paid it."""

from fractions import Fraction
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from rich.console import RenderableType
from rich.text import Text

from shared.pricing import Line, PricedModel, RateCard, charge, decimal_text, explain
from shared.usage import Usage
from sundial import output
from sundial.database import statements
from sundial.problems import NegativeError
from sundial.words import Language

RATE_UNITS = 1_000_000
"""Rates are shown per so many units, as providers publish them."""


async def read(db: Any, event_id: UUID, account_id: UUID | None) -> dict[str, Any]:
    """The receipt; amounts in millicredits, costs in nano-USD, exact ones as decimal texts. Raises NegativeError."""
    sql = statements()
    event = await db.fetchrow(sql["find_event"], event_id, account_id)
    if event is None:
        raise NegativeError(f"no usage event {event_id} is booked. The answer's header X-Sundial-Call-Id has the id.")
    draws = await db.fetch(sql["draws_of_transfer"], event["account_id"], event_id)
    corrections = await db.fetch(sql["corrections_of_event"], event["account_id"], event_id)
    price = next((entry for entry in corrections if entry["price_version"] is not None), event)
    priced = await db.fetchrow(sql["priced_by"], price["price_version"], price["priced_as"], event["card"])
    return receipt(event, draws, corrections, priced)


def receipt(event: Any, draws: Any, corrections: Any, priced: Any) -> dict[str, Any]:
    """`lines` are the kinds that were billed; `recomputed` is what they come to, rounded once, or None where the event
    has no rates (then its charge is the gateway's). Where a price has come since, both are by that price, and `due`,
    the charge with its price correction, is what they must come to."""
    usage = msgspec.json.decode(event["usage"], type=Usage)
    lines: list[Line] = []
    recomputed = None
    if priced is not None and event["evidence"] != "none":
        model = msgspec.json.decode(priced["model"], type=PricedModel)
        card = msgspec.json.decode(priced["card"], type=RateCard)
        lines = explain(usage, model, card, event["service_tier"])
        recomputed = charge(usage, model, card, event["service_tier"]).charge_mc
    plain = (
        "event_id", "account_id", "external_id", "directory", "key_id", "key_hint", "key_name", "family", "model_asked",
        "model_answered", "priced_as", "price_version", "card", "service_tier", "tokens_in", "tokens_out", "evidence",
        "outcome", "stream", "status", "started_at", "settled_at", "recorded_at", "first_byte_us", "upstream_call_id",
        "gateway", "conversation", "message", "purpose", "seq",
    )  # fmt: skip
    return {
        **{name: event[name] for name in plain},
        "flags": list(event["flags"]),
        "usage": msgspec.to_builtins(usage),
        "charge": event["charge_mc"],
        "due": event["charge_mc"] - sum(row["amount_mc"] for row in corrections if row["price_version"] is not None),
        "recomputed": recomputed,
        "gateway_charge": event["gateway_charge_mc"],
        "provider_cost_nano": event["cost_nano"],
        "upstream_cost_nano": event["upstream_cost_nano"],
        "hold": event["hold_mc"],
        "balance_after": event["balance_after_mc"],
        "price_source": priced["source"] if priced else None,
        "lines": [_line(line) for line in lines],
        "draws": [
            {
                "grant_id": draw["grant_id"],
                "kind": draw["kind"],
                "granted_at": draw["recorded_at"],
                "expires_at": draw["expires_at"],
                "amount": draw["amount_mc"],
            }
            for draw in draws
        ],
        "uncovered": event["charge_mc"] - sum(draw["amount_mc"] for draw in draws),
        "corrections": [
            {
                "transfer_id": entry["transfer_id"],
                "seq": entry["seq"],
                "kind": entry["kind"],
                "amount": entry["amount_mc"],
                "memo": entry["memo"],
                "recorded_at": entry["recorded_at"],
                "price_version": entry["price_version"],
                "priced_as": entry["priced_as"],
                "charge": entry["charge_mc"],
                "provider_cost_nano": entry["cost_nano"],
            }
            for entry in corrections
        ],
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "kind": line.kind,
        "units": line.units,
        "rate_mc_per_million": _per_million(line.rate),
        "amount_mc": decimal_text(line.amount),
        "cost_rate_nano_per_million": _per_million(line.cost_rate),
        "cost_nano": decimal_text(line.cost),
    }


def _per_million(rate: Fraction | None) -> str | None:
    return None if rate is None else decimal_text(rate * RATE_UNITS)


def render(page: dict[str, Any], say: Language, timezone: str) -> list[RenderableType]:
    """The receipt for people."""
    zone = ZoneInfo(timezone)
    elapsed_ms = (page["settled_at"] - page["started_at"]).total_seconds() * 1000
    model = page["model_asked"] + (f" → {page['model_answered']}" if page["model_answered"] else "")
    shown: list[RenderableType] = [
        output.facts(
            f"{say('receipt')} {page['event_id']}",
            [
                (say("account"), f"{page['external_id']} · {page['directory']}"),
                (say("when"), f"{say.moment(page['started_at'].astimezone(zone))} · {say.count(round(elapsed_ms))} ms"),
                (say("model"), f"{model} · {page['family']}"),
                (say("prices"), _prices(page)),
                (say("card"), page["card"]),
                (say("evidence"), say(f"evidence.{page['evidence']}")),
                (say("outcome"), " · ".join((say(f"outcome.{page['outcome']}"), *page["flags"]))),
                (say("hold"), say.credits(page["hold"])),
            ],
        )
    ]
    rows = [
        (
            line["kind"],
            say.count(line["units"]),
            "—" if line["rate_mc_per_million"] is None else say.exact(line["rate_mc_per_million"], 3),
            say.exact(line["amount_mc"], 3),
            "—" if line["cost_rate_nano_per_million"] is None else say.exact(line["cost_rate_nano_per_million"], 9),
            say.exact(line["cost_nano"], 9),
        )
        for line in page["lines"]
    ]
    columns = (say("kind"), say("units"), say("rate"), say("credits"), say("cost_rate"), say("cost"))
    shown.append(output.table("", columns, rows, numbers=columns[1:]))
    total = f"{say('total')}: {say.credits(page['charge'])} {say('credits')} · {say.usd(page['provider_cost_nano'])}"
    shown.append(Text(total, style="bold"))
    if page["recomputed"] not in (None, page["due"]):
        shown.append(Text(say("differs").format(amount=say.credits(page["recomputed"])), style="bold red"))
    paid = [
        (say(f"kind.{draw['kind']}"), say.moment(draw["granted_at"].astimezone(zone)), say.credits(draw["amount"]))
        for draw in page["draws"]
    ]
    if page["uncovered"]:
        paid.append((say("uncovered"), "", say.credits(page["uncovered"])))
    if paid:
        shown.append(output.table("", (say("paid_by"), say("granted"), say("amount")), paid, numbers=[say("amount")]))
    for entry in page["corrections"]:
        kind = say(f"kind.{entry['kind']}")
        shown.append(Text(f"{kind}: {say.credits(entry['amount'], signed=True)} · {entry['memo']}", style="yellow"))
        if entry["price_version"] is not None:
            due = f"{say.credits(page['due'])} {say('credits')} · {say.usd(entry['provider_cost_nano'])}"
            shown.append(Text(f"{say('corrected')}: {due}", style="bold"))
    return shown


def _prices(page: dict[str, Any]) -> str:
    """The price version that the lines are by, and the model whose price it is."""
    price = next((entry for entry in page["corrections"] if entry["price_version"] is not None), page)
    return f"{price['price_version']} · {page['price_source'] or '?'} · {price['priced_as'] or '?'}"
