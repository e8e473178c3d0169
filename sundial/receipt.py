"""The receipt of one charge: what was counted and how, at which rates, and what paid it."""

from fractions import Fraction
from typing import Any, Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from rich.console import RenderableType
from rich.text import Text

from shared.pricing import Line, PricedModel, RateCard, charge, decimal_text, explain, provisional_of
from shared.usage import Usage
from sundial import output
from sundial.database import statements
from sundial.problems import NegativeError
from sundial.words import Language

RATE_UNITS: Final = 1_000_000
"""Rates are shown per so many units, as providers publish them."""
PROVISIONAL: Final = "provisional"
"""The source of a price that the operator set for models that have none."""


class Priced(NamedTuple):
    """What a charge is explained by."""

    model: PricedModel
    card: RateCard
    source: str


async def read(db: Any, event_id: UUID, account_id: UUID | None) -> dict[str, Any]:
    """The receipt; amounts in millicredits, costs in nano-USD, exact ones as decimal texts. Raises NegativeError."""
    sql = statements()
    event = await db.fetchrow(sql["find_event"], event_id, account_id)
    if event is None:
        raise NegativeError(f"no usage event {event_id} is booked. The answer's header X-Sundial-Call-Id has the id.")
    draws = await db.fetch(sql["draws_of_transfer"], event["account_id"], event_id)
    late = await db.fetchrow(sql["late_record"], event["account_id"], event_id)
    corrections = await db.fetch(sql["corrections_of_event"], event["account_id"], event_id)
    return receipt(event, late, draws, corrections, await _priced(db, late or event, _priced_last(corrections)))


async def _priced(db: Any, record: Any, correction: Any) -> Priced | None:
    """By the price that came last, or the operator's provisional rates; None where there are no rates."""
    sql = statements()
    price = correction or record
    found = await db.fetchrow(sql["priced_by"], price["price_version"], price["priced_as"], record["card"])
    if found is not None:
        model = msgspec.json.decode(found["model"], type=PricedModel)
        return Priced(model, msgspec.json.decode(found["card"], type=RateCard), found["source"])
    stand_in = provisional_of(price["priced_as"], record["flags"])
    card = await db.fetchval(sql["rate_card"], record["card"])
    if stand_in is None or card is None:
        return None
    return Priced(stand_in, msgspec.json.decode(card, type=RateCard), PROVISIONAL)


def receipt(event: Any, late: Any, draws: Any, corrections: Any, priced: Priced | None) -> dict[str, Any]:
    """`lines` are the kinds that were billed; `recomputed` is what they come to, rounded once, or None where the event
    has no rates (then its charge is the gateway's). They are by the price of the model, before it has come by the
    operator's provisional rates. Where a price has come since, both are by that price, and `due`, the charge with its
    corrections, is what they must come to.

    What is told of the call is what `late` says, the record that its gateway wrote after it had been booked as lost, if
    there is one; then `booked_first` has what had been booked. `charge` is always that of the first booking."""
    record = late or event
    usage = msgspec.json.decode(record["usage"], type=Usage)
    lines: list[Line] = []
    recomputed = None
    if priced is not None and record["evidence"] != "none":
        lines = explain(usage, priced.model, priced.card, record["service_tier"])
        recomputed = charge(usage, priced.model, priced.card, record["service_tier"]).charge_mc
    plain = (
        "event_id", "account_id", "external_id", "directory", "key_id", "key_hint", "key_name", "family", "model_asked",
        "stream", "started_at", "recorded_at", "conversation", "message", "purpose", "seq",
    )  # fmt: skip
    recorded = (
        "model_answered", "priced_as", "price_version", "card", "service_tier", "tokens_in", "tokens_out", "evidence",
        "outcome", "status", "settled_at", "first_byte_us", "upstream_call_id", "gateway",
    )  # fmt: skip
    return {
        **{name: event[name] for name in plain},
        **{name: record[name] for name in recorded},
        "flags": list(record["flags"]),
        "usage": msgspec.to_builtins(usage),
        "booked_first": _booked_first(event) if late else None,
        "charge": event["charge_mc"],
        "due": event["charge_mc"] - sum(row["amount_mc"] for row in corrections if row["corrected_by"] is not None),
        "recomputed": recomputed,
        "gateway_charge": record["gateway_charge_mc"],
        "provider_cost_nano": event["cost_nano"],
        "upstream_cost_nano": record["upstream_cost_nano"],
        "hold": record["hold_mc"],
        "balance_after": event["balance_after_mc"],
        "price_source": priced.source if priced else None,
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
                "corrected_by": entry["corrected_by"],
                "price_version": entry["price_version"],
                "priced_as": entry["priced_as"],
                "charge": entry["charge_mc"],
                "provider_cost_nano": entry["cost_nano"],
            }
            for entry in corrections
        ],
    }


def _priced_last(corrections: Any) -> Any:
    """The last correction by a price or a record; None where there is none."""
    return next((entry for entry in reversed(corrections) if entry["corrected_by"] is not None), None)


def _booked_first(event: Any) -> dict[str, Any]:
    """What was booked of a call before its true record came."""
    plain = ("evidence", "outcome", "tokens_in", "tokens_out", "settled_at", "recorded_at")
    return {
        **{name: event[name] for name in plain},
        "flags": list(event["flags"]),
        "usage": msgspec.json.decode(event["usage"]),
        "charge": event["charge_mc"],
        "provider_cost_nano": event["cost_nano"],
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
                (say("prices"), _prices(page, say)),
                (say("card"), page["card"]),
                (say("evidence"), say(f"evidence.{page['evidence']}")),
                (say("outcome"), " · ".join((say(f"outcome.{page['outcome']}"), *output.flags(page["flags"])))),
                (say("hold"), say.credits(page["hold"])),
                *([(say("booked_first"), _first(page["booked_first"], say))] if page["booked_first"] else ()),
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
    corrected = _priced_last(page["corrections"])
    first = f"{say.credits(page['charge'])} {say('credits')} · {say.usd(page['provider_cost_nano'])}"
    if corrected is None:
        shown.append(Text(f"{say('total')}: {first}", style="bold"))
    else:  # the lines are by the last correction, and so is the sum below them
        due = f"{say.credits(page['due'])} {say('credits')} · {say.usd(corrected['provider_cost_nano'])}"
        shown.append(Text(f"{say('corrected')}: {due}", style="bold"))
        shown.append(Text(f"{say('total_first')}: {first}"))
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
        why = say("late_record") if entry["corrected_by"] == "record" else entry["memo"]
        shown.append(Text(f"{kind}: {say.credits(entry['amount'], signed=True)} · {why}", style="yellow"))
    return shown


def _prices(page: dict[str, Any], say: Language) -> str:
    """The price version that the lines are by, and the model whose price it is."""
    if page["price_source"] == PROVISIONAL:
        return say("provisional")
    price = _priced_last(page["corrections"]) or page
    return f"{price['price_version']} · {page['price_source'] or '?'} · {price['priced_as'] or '?'}"


def _first(first: dict[str, Any], say: Language) -> str:
    """What was booked before the true record came, in one line."""
    counted = f"{say.count(first['tokens_in'])} → {say.count(first['tokens_out'])}"
    parts = (say(f"outcome.{first['outcome']}"), say(f"evidence.{first['evidence']}"), counted)
    return " · ".join((*parts, f"{say.credits(first['charge'])} {say('credits')}"))
