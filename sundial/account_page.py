"""One account as `sundial account show` has it: Redis's view, by which the gateway decides, beside the ledger's."""

from typing import Any, Final
from zoneinfo import ZoneInfo

from rich.console import RenderableType
from rich.text import Text

from sundial import accounts, database, output, projection
from sundial.problems import UnreachableError
from sundial.words import Language

GRANTS_SHOWN: Final = 50


async def read(
    database_url: str, redis_url: str, text: str, directory: str | None
) -> tuple[dict[str, Any], UnreachableError | None]:
    """The page, amounts in millicredits, and what kept Redis's part out of it (then those numbers are None)."""
    async with database.connect(database_url) as db:
        row = await accounts.find(db, text, directory)
        sql = database.statements()
        grants = await db.fetch(sql["account_grants"], row["account_id"], GRANTS_SHOWN)
        queued = await db.fetch(sql["queued_orders"], row["account_id"])
    trouble = None
    live = None
    try:
        async with projection.connect(redis_url) as redis:
            live = await projection.read(redis, row["shard"], row["account_id"])
    except UnreachableError as error:
        trouble = error
    return page(row, grants, queued, live, reachable=trouble is None), trouble


def page(row: Any, grants: Any, queued: Any, live: projection.Projected | None, *, reachable: bool) -> dict[str, Any]:
    """An account that Redis does not know is shown with the ledger's balance and nothing held."""
    ledger_mc = row["balance_mc"] or 0
    now: dict[str, Any]
    if live is not None:
        now = {
            "balance": live.balance_mc,
            "held": live.held_mc,
            "unposted": live.unposted_mc,
            "spendable": live.spendable_mc,
        }
    elif reachable:
        now = {"balance": ledger_mc, "held": 0, "unposted": 0, "spendable": ledger_mc - row["floor_mc"]}
    else:
        now = {"balance": None, "held": None, "unposted": None, "spendable": None}
    return {
        "account_id": row["account_id"],
        "external_id": row["external_id"],
        "directory": row["directory"],
        "kind": row["kind"],
        "name": row["name"],
        "email": row["email"],
        "role": row["role"],
        "status": row["status"],
        "plan": row["plan"],
        "mode": row["mode"],
        "floor": row["floor_mc"],
        "shard": row["shard"],
        "revision": row["revision"],
        "created_at": row["created_at"],
        **now,
        "ledger_balance": ledger_mc,
        "ledger_seq": row["seq"] or 0,
        "projected": live is not None,
        "projected_seq": live.seq if live else None,
        "grants": [
            {
                "grant_id": grant["grant_id"],
                "kind": grant["kind"],
                "amount": grant["amount_mc"],
                "remaining": grant["remaining_mc"],
                "priority": grant["priority"],
                "expires_at": grant["expires_at"],
                "recorded_at": grant["recorded_at"],
            }
            for grant in grants
        ],
        "queued_orders": [
            {"order_id": order["order_id"], "kind": order["kind"], "amount": order["amount_mc"], "memo": order["memo"]}
            for order in queued
        ],
    }


def render(page: dict[str, Any], say: Language, timezone: str) -> list[RenderableType]:
    """The page for people."""
    zone = ZoneInfo(timezone)

    def amount(mc: int | None, style: str = "") -> Text:
        return Text("?" if mc is None else say.credits(mc), style=style)

    spendable = page["spendable"]
    shown: list[RenderableType] = [
        output.facts(
            f"{say('account')} {page['external_id']}",
            [
                ("id", page["account_id"]),
                ("", " · ".join(part for part in (page["name"], page["email"], page["directory"]) if part)),
                (say("status"), say(f"status.{page['status']}")),
                (say("plan"), page["plan"]),
                (say("mode"), page["mode"]),
                (say("spendable"), amount(spendable, "bold green" if spendable and spendable > 0 else "bold red")),
                (say("held"), amount(page["held"])),
                (say("unposted"), amount(page["unposted"])),
                (say("floor"), amount(page["floor"])),
                (say("ledger_balance"), amount(page["ledger_balance"])),
            ],
        )
    ]
    if not page["projected"] and page["balance"] is not None:
        shown.append(Text(say("not_projected"), style="yellow"))
    if page["grants"]:
        rows = [
            (
                say(f"kind.{grant['kind']}"),
                say.credits(grant["amount"]),
                say.credits(grant["remaining"]),
                say.moment(grant["expires_at"].astimezone(zone)) if grant["expires_at"] else say("never"),
                say.moment(grant["recorded_at"].astimezone(zone)),
            )
            for grant in page["grants"]
        ]
        columns = (say("kind"), say("granted"), say("remaining"), say("expires"), say("when"))
        shown.append(output.table(say("grants_open"), columns, rows, numbers=[say("granted"), say("remaining")]))
    if page["queued_orders"]:
        rows_queued = [
            (say(f"kind.{order['kind']}"), say.credits(order["amount"], signed=True), order["memo"])
            for order in page["queued_orders"]
        ]
        shown.append(
            output.table(
                say("orders_queued"),
                (say("kind"), say("amount"), say("details")),
                rows_queued,
                numbers=[say("amount")],
            )
        )
    return shown
