"""`sundial charge`: the receipt of one call."""

from typing import Any
from uuid import UUID

import click

from sundial.options import database_settings, directory_option, output_options, run
from sundial.words import LANGUAGES


@click.command()
@click.argument("event_id", type=click.UUID)
@click.option("--account", metavar="ACCOUNT", help="Whose call it was: found faster in a large ledger.")
@click.option("--lang", type=click.Choice(LANGUAGES), help="Language of the page.  [default: SUNDIAL_LANGUAGE]")
@directory_option
@output_options
def charge(event_id: UUID, account: str | None, lang: str | None, directory: str | None, as_json: bool) -> None:
    """Explain one charge to the last token.

    Tokens by kind × rate, price version, evidence, hold, and which grants paid it.

    EVENT_ID is the X-Sundial-Call-Id of the answer, and `event_id` of a statement's entry.

    \b
    Examples:
      sundial charge 019aac5e-7b1c-7e4a-9c55-2f6d0e6a7b10
      sundial charge 019aac5e-7b1c-7e4a-9c55-2f6d0e6a7b10 --json
    """
    from sundial import accounts, output, receipt
    from sundial.database import connect
    from sundial.words import Language

    settings = database_settings()

    async def work() -> dict[str, Any]:
        async with connect(settings.database_url) as db:
            owner = (await accounts.find(db, account, directory))["account_id"] if account else None
            return await receipt.read(db, event_id, owner)

    page = run(work())
    if as_json:
        output.print_json(page)
    else:
        output.print_rich(*receipt.render(page, Language(lang or settings.language), settings.timezone))
