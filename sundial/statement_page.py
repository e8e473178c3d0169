"""A statement as people and programs read it."""

from collections.abc import AsyncIterator
from typing import Any
from zoneinfo import ZoneInfo

import click
from rich.console import RenderableType
from rich.text import Text

from sundial import output
from sundial.statement_books import Statement
from sundial.words import Language

LINES = ("opening", "grants", "purchases", "usage", "adjustments", "expiry", "closing")
Pages = AsyncIterator[list[dict[str, Any]]]


def head(statement: Statement) -> dict[str, Any]:
    """The statement without its entries; amounts in millicredits, provider cost in nano-USD."""
    account = statement.account
    return {
        "account_id": account["account_id"],
        "external_id": account["external_id"],
        "directory": account["directory"],
        "month": statement.month,
        "timezone": statement.timezone,
        "from": statement.start,
        "to": statement.end,
        **{line: getattr(statement.totals, line) for line in LINES},
        "provider_cost_nano": statement.cost_nano,
        "evidence": {
            grade.evidence: {
                "events": grade.events,
                "charge": grade.charge_mc,
                "share": grade.share_permille / 1000,
                "tokens_in": grade.tokens_in,
                "tokens_out": grade.tokens_out,
            }
            for grade in statement.grades
        },
        "first_seq": statement.shown_after + 1 if statement.entries_shown else None,
        "last_seq": statement.closing.seq if statement.entries_shown else None,
        "entries_total": statement.entries_total,
        "entries_shown": statement.entries_shown,
    }


async def print_json(statement: Statement, pages: Pages) -> None:
    """One JSON object, written while it is read: a month of any length needs the memory of one page."""
    text = output.json_text(head(statement), indent=2)
    click.echo(text.removesuffix("\n}") + ',\n  "entries": [', nl=False)
    separator = "\n"
    async for page in pages:
        for entry in page:
            click.echo(f"{separator}    {output.json_text(entry)}", nl=False)
            separator = ",\n"
    click.echo("\n  ]\n}")


async def print_page(statement: Statement, pages: Pages, say: Language) -> None:
    zone = ZoneInfo(statement.timezone)
    rows = [_row(entry, say, zone) async for page in pages for entry in page]
    output.print_rich(*_summary(statement, say))
    if rows:
        columns = (say("when"), say("what"), say("details"), say("tokens"), say("amount"), say("balance"))
        numbers = [say("tokens"), say("amount"), say("balance")]
        output.print_rich(output.table("", columns, rows, numbers=numbers))
    else:
        output.print_rich(Text(say("no_entries"), style="dim"))
    if statement.entries_shown < statement.entries_total:
        cut = say("cut").format(shown=say.count(statement.entries_shown), total=say.count(statement.entries_total))
        output.print_rich(Text(cut, style="yellow"))
    output.print_rich(*_foot(statement, say))


def _summary(statement: Statement, say: Language) -> list[RenderableType]:
    account = statement.account
    owner = " · ".join(part for part in (account["name"], account["external_id"], account["directory"]) if part)
    totals = statement.totals
    signed = {"grants": totals.grants, "purchases": totals.purchases, "usage": -totals.usage}
    signed |= {"adjustments": totals.adjustments, "expiry": -totals.expiry}
    lines: list[tuple[str, Any]] = [(say("opening"), Text(say.credits(totals.opening)))]
    lines += [(say(name), Text(say.credits(mc, signed=True), style=_style(mc))) for name, mc in signed.items()]
    lines.append((say("closing"), Text(say.credits(totals.closing), style="bold")))
    return [
        Text(f"{say('statement')} {statement.month}", style="bold"),
        Text(f"{owner} · {statement.timezone}", style="dim"),
        output.sums(lines, say("credits")),
        Text(say("closes"), style="dim"),
    ]


def _row(entry: dict[str, Any], say: Language, zone: ZoneInfo) -> list[Any]:
    what = say(f"kind.{entry['kind']}")
    details, tokens = entry["memo"], ""
    if entry.get("corrected_by") == "record":
        details = " · ".join((say("late_record"), say(f"outcome.{entry['outcome']}")))
    if "corrects" in entry:
        details += " · " + say("corrects").format(event_id=entry["corrects"])
    if "event_id" in entry:
        details = entry["model"]
        if entry["outcome"] != "complete":
            details += " · " + say(f"outcome.{entry['outcome']}")
        if flags := output.flags(entry["flags"]):
            details += f" · {', '.join(flags)}"
    if "evidence" in entry:
        if entry["evidence"] != "provider":
            what += f" ({say('estimated')})"
        tokens = f"{say.count(entry['tokens_in'])} → {say.count(entry['tokens_out'])}"
    return [
        say.moment(entry["recorded_at"].astimezone(zone)),
        Text(what, style="yellow" if entry.get("evidence", "provider") != "provider" else ""),
        details,
        tokens,
        Text(say.credits(entry["amount"], signed=True), style=_style(entry["amount"])),
        say.credits(entry["balance_after"]),
    ]


def _foot(statement: Statement, say: Language) -> list[RenderableType]:
    if not statement.grades:
        return []
    rows = [
        (
            say(f"evidence.{grade.evidence}"),
            say.count(grade.events),
            say.credits(grade.charge_mc),
            say.permille(grade.share_permille),
        )
        for grade in statement.grades
    ]
    columns = (say("evidence"), say("calls"), say("credits"), "%")
    cost = say.usd(statement.cost_nano)
    return [
        output.table("", columns, rows, numbers=columns[1:]),
        Text(f"{say('cost')}: {cost}", style="dim"),
    ]


def _style(mc: int) -> str:
    return "green" if mc > 0 else ""
