"""`sundial key`: API keys, personal ones and those of services that name their users."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import click

from sundial.accounts import DIRECTORY_DEFAULT
from sundial.key_secret import draw, hint
from sundial.options import database_settings, directory_option, new_directory_option, output_options, run
from sundial.problems import CommandError, NegativeError


@click.group()
def key() -> None:
    """Create, list and revoke API keys.

    A personal key is its own account. A service key, as LibreChat has one, names the user of each call in headers.

    \b
    Examples:
      sundial key create --personal maria
      sundial key create --service librechat
      sundial key list
      sundial key revoke 3xQz
    """


@key.command()
@click.option("--personal", metavar="ACCOUNT", help="A key for this account; a new account is created.")
@click.option("--service", metavar="NAME", help="A key for a program that names its users in headers.")
@click.option("--directory", metavar="NAME", help=f"Where the users' ids live.  [default: {DIRECTORY_DEFAULT}]")
@new_directory_option
@click.option("--account", metavar="ACCOUNT", help="With --service: account that pays for calls without a user.")
@click.option("--plan", metavar="PLAN", help="Plan of accounts that this key brings in.  [default: default]")
@click.option("--name", default="", help="With --personal: what the key is for.")
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="Last day of the key, in SUNDIAL_TIMEZONE.",
)
@click.option("--wait/--no-wait", default=True, help="Wait for a new account's allowance.  [default: wait]")
@output_options
def create(
    personal: str | None,
    service: str | None,
    directory: str | None,
    new_directory: bool,
    account: str | None,
    plan: str | None,
    name: str,
    expires: datetime | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Create a key. Its secret is shown once and kept nowhere.

    \b
    Examples:
      sundial key create --personal 665f1c0a9d2e4b0012ab34cd
      sundial key create --service librechat --directory librechat --plan default
      sundial key create --service images --account images
    """
    from sundial import keys, output
    from sundial.commands.money import end_of_day
    from sundial.database import connect
    from sundial.orders import WAIT_S

    if (personal is None) == (service is None):
        raise click.UsageError("say either --personal ACCOUNT or --service NAME")
    if personal is not None and account is not None:
        raise click.UsageError("--account goes with --service; --personal names its account itself")
    settings = database_settings()
    until = end_of_day(expires, ZoneInfo(settings.timezone)) if expires else None
    if until is not None and until <= datetime.now(UTC):
        raise click.BadParameter("that day is over", param_hint="--expires")

    async def work() -> tuple[dict[str, Any], CommandError | None]:
        async with connect(settings.database_url) as db:
            random = draw(os.urandom)
            if personal is not None:
                made = await keys.create_personal(
                    db,
                    personal,
                    directory=directory,
                    new_directory=new_directory,
                    plan=plan,
                    name=name,
                    expires_at=until,
                    random=random,
                )
            else:
                made = await keys.create_service(
                    db,
                    service or "",
                    directory=directory,
                    new_directory=new_directory,
                    account=account,
                    plan=plan,
                    expires_at=until,
                    random=random,
                )
            if not as_json:  # whatever becomes of the wait, the secret is seen
                said = f"Created {made.kind} key {made.key_id}. Its secret, shown only now:"
                _show_secret(made.secret, f"{said}\n\n{made.secret}")
            return await made.answer(db, WAIT_S if wait else 0)

    done, interrupted = run(work())
    opened = done["opened"]
    if as_json:
        _show_secret(done["secret"], output.json_text(done, indent=2))
    elif opened is not None and interrupted is None:
        click.echo(
            f"\nCreated account {opened['external_id']} ({opened['account_id']}), allowance: {opened['outcome']}."
        )
    if interrupted is not None:
        raise interrupted


def _show_secret(secret: str, text: str) -> None:
    """Raises NegativeError where the output takes nothing: nobody will ever know the secret."""
    try:
        click.echo(text)
    except OSError as error:
        last = hint(secret)
        raise NegativeError(
            f"the secret of the key …{last} could not be shown ({error.strerror}), and nobody has it. Revoke it: "
            f"sundial key revoke {last}"
        ) from error


@key.command("list")
@click.option("--account", metavar="ACCOUNT", help="Only keys of this account.")
@directory_option
@click.option("--kind", type=click.Choice(["personal", "service"]), help="Only keys of this kind.")
@click.option("--revoked", is_flag=True, help="Show revoked keys too.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), metavar="N", default=100, show_default=True, help="List at most N."
)
@output_options
def list_keys(
    account: str | None, directory: str | None, kind: str | None, revoked: bool, limit: int, as_json: bool
) -> None:
    """List keys, the newest first, by the last characters of their secrets.

    \b
    Examples:
      sundial key list --kind service
      sundial key list --account 665f1c0a9d2e4b0012ab34cd --revoked --json
    """
    from sundial import accounts, output
    from sundial.database import connect, statements

    async def work() -> list[dict[str, Any]]:
        async with connect(database_settings().database_url) as db:
            owner = (await accounts.find(db, account, directory))["account_id"] if account else None
            return [dict(row) for row in await db.fetch(statements()["list_keys"], owner, kind, revoked, limit)]

    found = run(work())
    if as_json:
        output.print_json({"keys": found})
        return
    zone = ZoneInfo(database_settings().timezone)
    rows = [
        (
            f"…{one['hint']}",
            *(one[name] or "" for name in ("kind", "name", "external_id", "directory", "plan", "status")),
            _last_day(one["expires_at"], zone) if one["expires_at"] else "never",
            one["key_id"],
        )
        for one in found
    ]
    columns = ("Secret", "Kind", "Name", "Account", "Directory", "Plan", "Status", "Expires", "Key id")
    output.print_rich(output.table("Keys", columns, rows))


def _last_day(end: datetime, zone: ZoneInfo) -> str:
    """The day that --expires named: a key ends with the midnight after it."""
    return f"{end.astimezone(zone) - timedelta(microseconds=1):%Y-%m-%d}"


@key.command()
@click.argument("key", metavar="KEY_ID|HINT|SECRET")
@output_options
def revoke(key: str, as_json: bool) -> None:
    """Revoke a key, named by its id, its secret or the secret's last four characters. It cannot be undone.

    An older secret's last characters may begin with a dash: `sundial key revoke -- -3xQ`.

    \b
    Examples:
      sundial key revoke 3xQz
      sundial key revoke 0b7c7c5e-5a58-4c5e-9a0e-6f1c1f7f5a11
    """
    from sundial import keys, output
    from sundial.database import connect

    async def work() -> dict[str, Any]:
        async with connect(database_settings().database_url) as db:
            return await keys.revoke(db, key)

    done = run(work())
    if as_json:
        output.print_json(done)
    elif done["changed"]:
        click.echo(f"Revoked {done['kind']} key {done['key_id']} (…{done['hint']}). Gateways refuse it from now on.")
    else:
        click.echo(f"Key {done['key_id']} (…{done['hint']}) was revoked already.")
