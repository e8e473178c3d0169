"""`sundial plan`: what accounts may do, and in which currency they pay."""

from typing import Any

import click

from shared.units import format_credits
from sundial.options import CREDITS, database_settings, output_options, run


@click.group()
def plan() -> None:
    """See and set plans: card, allowance, models.

    \b
    Examples:
      sundial plan list
      sundial plan set default --allowance 1000000
      sundial plan set small --card tokens@1 --allowance 50000 --model "gpt-4o-mini*"
    """


def _page(row: Any) -> dict[str, Any]:
    return {
        "plan": row["plan"],
        "card": row["card"],
        "allowance": row["allowance_mc"],
        "models": list(row["models"]),
        "accounts": row["accounts"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


@plan.command("list")
@output_options
def list_plans(as_json: bool) -> None:
    """List plans, with the number of accounts on each.

    \b
    Example:
      sundial plan list
    """
    from sundial import output
    from sundial.database import connect, statements

    async def work() -> list[dict[str, Any]]:
        async with connect(database_settings().database_url) as db:
            return [_page(row) for row in await db.fetch(statements()["list_plans"])]

    found = run(work())
    if as_json:
        output.print_json({"plans": found})
        return
    language = database_settings().language
    rows = [
        (
            *(one["plan"], one["card"], format_credits(one["allowance"], language)),
            *(", ".join(one["models"]) or "all", one["accounts"]),
        )
        for one in found
    ]
    columns = ("Plan", "Rate card", "Allowance", "Models", "Accounts")
    output.print_rich(output.table("Plans", columns, rows, numbers=["Allowance", "Accounts"]))


@plan.command()
@click.argument("name", metavar="PLAN")
@output_options
def show(name: str, as_json: bool) -> None:
    """Show one plan.

    \b
    Example:
      sundial plan show default --json
    """
    from sundial.accounts import find_plan
    from sundial.database import connect

    async def work() -> dict[str, Any]:
        async with connect(database_settings().database_url) as db:
            return _page(await find_plan(db, name))

    _tell(run(work()), as_json)


@plan.command("set")
@click.argument("name", metavar="PLAN")
@click.option("--card", metavar="CARD", help="Rate card, `tokens@1` or `cost@1` for example; needed for a new plan.")
@click.option("--allowance", type=CREDITS, metavar="CREDITS", help="Granted once, when an account is first seen.")
@click.option("--model", "models", multiple=True, metavar="PATTERN", help="A model that may be asked for; repeatable.")
@click.option("--all-models", is_flag=True, help="Allow all models.")
@output_options
def set_plan(
    name: str, card: str | None, allowance: int | None, models: tuple[str, ...], all_models: bool, as_json: bool
) -> None:
    """Change a plan, or create one. What is not said stays as it is; accounts keep what they were granted.

    \b
    Examples:
      sundial plan set default --allowance 2000000
      sundial plan set premium --card cost@1 --allowance 5000000 --all-models
    """
    from sundial.accounts import find_plan
    from sundial.database import connect
    from sundial.plans import change

    if models and all_models:
        raise click.UsageError("--model and --all-models exclude one another")
    if allowance is not None and allowance < 0:
        raise click.BadParameter("an allowance is not negative", param_hint="--allowance")
    if not all(pattern.strip() for pattern in models):
        raise click.BadParameter("a blank pattern allows no model; --all-models allows all", param_hint="--model")
    patterns = [] if all_models else list(dict.fromkeys(pattern.strip() for pattern in models)) or None

    async def work() -> dict[str, Any]:
        async with connect(database_settings().database_url) as db:
            await change(db, name, card=card, allowance_mc=allowance, models=patterns)
            return _page(await find_plan(db, name))

    _tell(run(work()), as_json)


def _tell(page: dict[str, Any], as_json: bool) -> None:
    from sundial import output

    if as_json:
        output.print_json(page)
        return
    output.print_rich(
        output.facts(
            f"Plan {page['plan']}",
            [
                ("rate card", page["card"]),
                ("allowance", f"{format_credits(page['allowance'], database_settings().language)} credits"),
                ("models", ", ".join(page["models"]) or "all"),
                ("accounts", page["accounts"]),
                ("changed", f"{page['updated_at']:%Y-%m-%d %H:%M} UTC"),
            ],
        )
    )
