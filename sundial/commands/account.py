"""`sundial account`: see accounts, create and block them, and say what they may do."""

from typing import Any

import click

from shared.units import format_credits
from sundial.accounts import DIRECTORY_DEFAULT
from sundial.commands import account_change
from sundial.options import (
    command_settings,
    database_settings,
    directory_option,
    new_directory_option,
    output_options,
    run,
)
from sundial.words import LANGUAGES

OFFSET_MAX = 1_000_000_000
"""More accounts than that have no number in a list."""
FACTS = ("account_id", "external_id", "directory", "kind", "plan", "status", "mode")


@click.group()
def account() -> None:
    """See accounts, create, block and change them.

    \b
    Examples:
      sundial account list --search maria
      sundial account show 665f1c0a9d2e4b0012ab34cd
      sundial account create 665f1c0a9d2e4b0012ab34cd --name "Maria Silva"
      sundial account block 665f1c0a9d2e4b0012ab34cd
    """


@account.command("list")
@click.option("--search", metavar="TEXT", help="Part of an id, name or e-mail, in any case.")
@click.option("--directory", metavar="NAME", help="Only accounts of this directory.")
@click.option("--plan", metavar="PLAN", help="Only accounts on this plan.")
@click.option("--status", type=click.Choice(["active", "blocked"]), help="Only accounts in this state.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), metavar="N", default=50, show_default=True, help="List at most N."
)
@click.option("--offset", type=click.IntRange(0, OFFSET_MAX), metavar="N", default=0, help="Leave out the newest N.")
@output_options
def list_accounts(
    search: str | None,
    directory: str | None,
    plan: str | None,
    status: str | None,
    limit: int,
    offset: int,
    as_json: bool,
) -> None:
    """List accounts with their ledger balances, the newest first.

    \b
    Examples:
      sundial account list
      sundial account list --search @example.org --status blocked --json
    """
    from sundial import output
    from sundial.database import connect, statements

    async def work() -> list[dict[str, Any]]:
        async with connect(database_settings().database_url) as db:
            rows = await db.fetch(statements()["list_accounts"], directory, plan, status, search, limit, offset)
            return [
                {name: row[name] for name in FACTS}
                | {"email": row["email"], "name": row["name"], "floor": row["floor_mc"]}
                | {"ledger_balance": row["balance_mc"] or 0, "created_at": row["created_at"]}
                for row in rows
            ]

    found = run(work())
    if as_json:
        output.print_json({"accounts": found})
        return
    language = database_settings().language
    rows = [
        (
            *(one[name] for name in ("external_id", "person", "directory", "plan", "status", "mode")),
            format_credits(one["ledger_balance"], language),
            one["account_id"],
        )
        for one in ({**page, "person": page["name"] or page["email"]} for page in found)
    ]
    columns = ("External id", "Name", "Directory", "Plan", "Status", "Mode", "Balance", "Account id")
    output.print_rich(output.table("Accounts", columns, rows, numbers=["Balance"]))


@account.command()
@click.argument("account", metavar="ACCOUNT")
@directory_option
@click.option("--lang", type=click.Choice(LANGUAGES), help="Language of the page; default SUNDIAL_LANGUAGE.")
@output_options
def show(account: str, directory: str | None, lang: str | None, as_json: bool) -> None:
    """Show one account: what it may spend at this moment, its grants and what waits for the meter.

    `spendable` is balance − floor − held − unposted, by which the gateway decides; `ledger_balance` is the balance in
    Postgres. Without Redis only the ledger's part is shown, and the exit code is 3.

    \b
    Examples:
      sundial account show 665f1c0a9d2e4b0012ab34cd
      sundial account show 665f1c0a9d2e4b0012ab34cd --json
    """
    from sundial import output
    from sundial.account_page import read, render
    from sundial.words import Language

    settings = command_settings()
    page, trouble = run(read(settings.database_url, settings.redis_url, account, directory))
    if as_json:
        output.print_json(page)
    else:
        output.print_rich(*render(page, Language(lang or settings.language), settings.timezone))
    if trouble is not None:
        raise trouble


@account.command()
@click.argument("external_id")
@click.option(
    "--directory", metavar="NAME", default=DIRECTORY_DEFAULT, show_default=True, help="Where the external id lives."
)
@new_directory_option
@click.option("--plan", metavar="PLAN", default="default", show_default=True, help="What it may do and gets first.")
@click.option(
    "--kind",
    type=click.Choice(["person", "service"]),
    default="person",
    show_default=True,
    help="A service account pays for calls that name no user.",
)
@click.option("--email", default="", help="Shown, never trusted.")
@click.option("--name", default="", help="Shown, never trusted.")
@click.option("--allowance/--no-allowance", default=True, help="Order the plan's allowance for it.  [default: yes]")
@click.option("--wait/--no-wait", default=True, help="Wait until the meter has posted the allowance.  [default: wait]")
@output_options
def create(
    external_id: str,
    directory: str,
    new_directory: bool,
    plan: str,
    kind: str,
    email: str,
    name: str,
    allowance: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Create an account by hand. Users that LibreChat names get theirs by themselves, at their first call.

    \b
    Examples:
      sundial account create 665f1c0a9d2e4b0012ab34cd --name "Maria Silva" --plan default
      sundial account create images --kind service --no-allowance
    """
    from sundial import output
    from sundial.database import confirmed, connect
    from sundial.opening import open_account
    from sundial.orders import WAIT_S

    async def work() -> dict[str, Any]:
        async with connect(database_settings().database_url) as db:
            doubt = f"whether the account {external_id!r} was created is not known; see `sundial account show`"
            async with confirmed(db, doubt):
                opened = await open_account(
                    db,
                    directory,
                    external_id,
                    new_directory=new_directory,
                    kind=kind,
                    plan=plan,
                    email=email,
                    name=name,
                    allowance=allowance,
                )
            return await opened.answer(db, WAIT_S if wait else 0)

    made = run(work())
    if as_json:
        output.print_json(made)
        return
    click.echo(f"Created account {made['account_id']} on plan {made['plan']}.")
    click.echo(_allowance_line(made, database_settings().language))


def _allowance_line(made: dict[str, Any], language: str) -> str:
    amount = format_credits(made["allowance"], language)
    match made["outcome"]:
        case "none":
            return "No allowance."
        case "posted":
            return f"Its allowance of {amount} credits is posted."
        case "queued":
            return (
                f"Its allowance of {amount} credits is queued, order {made['order_id']}: {made['detail']}. "
                "Do not order it again."
            )
        case outcome:
            return f"Its allowance of {amount} credits was {outcome}: {made['detail']}"


for change in (
    account_change.block,
    account_change.unblock,
    account_change.plan,
    account_change.floor,
    account_change.mode,
):
    account.add_command(change)
