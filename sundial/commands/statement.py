"""`sundial statement`: one account's month, from opening to closing balance."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click

from sundial.options import database_settings, directory_option, output_options, run
from sundial.words import LANGUAGES

ENTRIES_FOR_PEOPLE = 200


@click.command()
@click.argument("account", metavar="ACCOUNT")
@click.option("--month", metavar="YYYY-MM", help="Month in SUNDIAL_TIMEZONE.  [default: the current one]")
@click.option("--lang", type=click.Choice(LANGUAGES), help="Language of the page.  [default: SUNDIAL_LANGUAGE]")
@click.option(
    "--limit",
    type=click.IntRange(0),
    metavar="N",
    help=f"List the newest N entries only, 0: all.  [default: {ENTRIES_FOR_PEOPLE}; with --json all]",
)
@directory_option
@output_options
def statement(
    account: str, month: str | None, lang: str | None, limit: int | None, directory: str | None, as_json: bool
) -> None:
    """The statement (extrato) of ACCOUNT for one month.

    opening + grants + purchases − usage ± adjustments − expiry = closing, to the millicredit, or the command fails:
    a month belongs to the time at which Postgres recorded an entry. Entries that no provider counted are marked as
    estimated, and the foot tells how much of the usage was counted in which way.

    \b
    Examples:
      sundial statement 665f1c0a9d2e4b0012ab34cd
      sundial statement 665f1c0a9d2e4b0012ab34cd --month 2026-11 --lang en
      sundial statement 665f1c0a9d2e4b0012ab34cd --month 2026-11 --json
    """
    from sundial import statement_books, statement_page
    from sundial.problems import NegativeError
    from sundial.statement import StatementBrokenError, month_bounds, month_of
    from sundial.words import Language

    settings = database_settings()
    zone = ZoneInfo(settings.timezone)
    chosen = month or month_of(datetime.now(UTC), zone)
    try:
        month_bounds(chosen, zone)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--month") from None
    shown = limit if limit is not None else (0 if as_json else ENTRIES_FOR_PEOPLE)

    async def work() -> None:
        async with statement_books.snapshot(settings.database_url) as db:
            found = await statement_books.read(db, account, directory, chosen, settings.timezone, shown)
            pages = statement_books.entries(db, found)
            if as_json:
                await statement_page.print_json(found, pages)
            else:
                await statement_page.print_page(found, pages, Language(lang or settings.language))

    try:
        run(work())
    except StatementBrokenError as error:
        raise NegativeError(f"this statement does not close: {error}. Run `sundial audit`.") from error
