"""Changes of an account: `sundial account block`, `unblock`, `plan`, `floor`, `mode`."""

from typing import Any

import click

from shared.units import format_credits
from sundial.options import CREDITS, NEGATIVE_NUMBERS, database_settings, directory_option, output_options, run


def _change(account: str, directory: str | None, as_json: bool, **changes: Any) -> None:
    from sundial import accounts, output
    from sundial.database import connect

    async def work() -> dict[str, Any]:
        async with connect(database_settings().database_url) as db:
            if "plan" in changes:
                await accounts.find_plan(db, changes["plan"])
            row = await accounts.find(db, account, directory)
            changed = await accounts.change(db, row["account_id"], **changes)
            return {
                "account_id": row["account_id"],
                "external_id": row["external_id"],
                "plan": changed["plan"],
                "status": changed["status"],
                "mode": changed["mode"],
                "floor": changed["floor_mc"],
                "revision": changed["revision"],
            }

    done = run(work())
    if as_json:
        output.print_json(done)
        return
    floor = format_credits(done["floor"], database_settings().language)
    click.echo(
        f"{done['external_id']}: status {done['status']}, plan {done['plan']}, mode {done['mode']}, floor {floor} "
        f"credits (revision {done['revision']})."
    )


@click.command()
@click.argument("account", metavar="ACCOUNT")
@directory_option
@output_options
def block(account: str, directory: str | None, as_json: bool) -> None:
    """Refuse all further calls of an account. Running calls end as they would.

    \b
    Example:
      sundial account block 665f1c0a9d2e4b0012ab34cd
    """
    _change(account, directory, as_json, status="blocked")


@click.command()
@click.argument("account", metavar="ACCOUNT")
@directory_option
@output_options
def unblock(account: str, directory: str | None, as_json: bool) -> None:
    """Let a blocked account call again.

    \b
    Example:
      sundial account unblock 665f1c0a9d2e4b0012ab34cd
    """
    _change(account, directory, as_json, status="active")


@click.command()
@click.argument("account", metavar="ACCOUNT")
@click.argument("plan")
@directory_option
@output_options
def plan(account: str, plan: str, directory: str | None, as_json: bool) -> None:
    """Put an account on another plan. Its balance stays; the new plan's allowance is not granted by this.

    \b
    Example:
      sundial account plan 665f1c0a9d2e4b0012ab34cd premium
    """
    _change(account, directory, as_json, plan=plan)


@click.command(context_settings=NEGATIVE_NUMBERS)
@click.argument("account", metavar="ACCOUNT")
@click.argument("amount", type=CREDITS)
@directory_option
@output_options
def floor(account: str, amount: int, directory: str | None, as_json: bool) -> None:
    """Set the balance, in credits, below which calls are refused: 0, or negative for an overdraft.

    \b
    Examples:
      sundial account floor 665f1c0a9d2e4b0012ab34cd -5000
      sundial account floor 665f1c0a9d2e4b0012ab34cd 0
    """
    if amount > 0:
        raise click.BadParameter("a floor is 0, or negative for an overdraft", param_hint="AMOUNT")
    _change(account, directory, as_json, floor_mc=amount)


@click.command()
@click.argument("account", metavar="ACCOUNT")
@click.argument("mode", type=click.Choice(["enforce", "warn", "shadow"]))
@directory_option
@output_options
def mode(account: str, mode: str, directory: str | None, as_json: bool) -> None:
    """Say what happens when the credit is used up: `enforce` refuses; `warn` and `shadow` meter and let pass.

    \b
    Example:
      sundial account mode 665f1c0a9d2e4b0012ab34cd shadow
    """
    _change(account, directory, as_json, mode=mode)
