"""`sundial dead-letter`: entries of the usage stream that could not be booked, and what becomes of them."""

from typing import Any
from uuid import UUID

import click

from sundial.commands.money import wait_option
from sundial.options import database_settings, output_options, run

MEMO_LENGTH_MAX = 500


@click.group("dead-letter")
def dead_letter() -> None:
    """See and deal with what could not be booked.

    What the meter cannot read or book is set aside whole, with the reason; its charge stays unposted, so that the
    customer is shown less, until a person decides: to try it again, or to let it go.
    """


@dead_letter.command("list")
@click.option("--all", "closed", is_flag=True, help="Show also those that were booked or discarded since.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), metavar="N", default=100, show_default=True, help="List at most N."
)
@output_options
def list_letters(closed: bool, limit: int, as_json: bool) -> None:
    """List dead letters, the newest first.

    \b
    Examples:
      sundial dead-letter list
      sundial dead-letter list --all --json
    """
    from sundial import dead_letters, output
    from sundial.database import connect

    async def work() -> list[dict[str, Any]]:
        async with connect(database_settings().database_url) as db:
            return await dead_letters.listed(db, closed=closed, limit=limit)

    found = run(work())
    if as_json:
        output.print_json({"dead_letters": found})
        return
    rows = [
        (
            one["letter_id"],
            one["state"],
            f"{one['recorded_at']:%Y-%m-%d %H:%M:%S}",
            one["external_id"] or one["account_id"] or "",
            one["reason"],
        )
        for one in found
    ]
    output.print_rich(output.table("Dead letters", ("Id", "State", "Since", "Account", "Reason"), rows))


@dead_letter.command()
@click.argument("letter_id", type=click.UUID)
@output_options
def show(letter_id: UUID, as_json: bool) -> None:
    """Show one dead letter: the entry, why it could not be booked, and what was ordered about it.

    \b
    Examples:
      sundial dead-letter show 5f0c2f6e-7c1b-8f55-9e0b-3f5a3c1d2e4f
      sundial dead-letter show 5f0c2f6e-7c1b-8f55-9e0b-3f5a3c1d2e4f --json
    """
    from sundial import dead_letters, output
    from sundial.database import connect

    async def work() -> dict[str, Any]:
        async with connect(database_settings().database_url) as db:
            return await dead_letters.find(db, letter_id)

    letter = run(work())
    if as_json:
        output.print_json(letter)
        return
    names = ("state", "reason", "account_id", "external_id", "event_id", "shard", "entry_id", "recorded_at", "bytes")
    pairs = [(name.replace("_", " "), "" if letter[name] is None else letter[name]) for name in names]
    output.print_rich(output.facts(f"Dead letter {letter_id}", [*pairs, ("entry", letter["payload"])]))
    rows = [
        (f"{one['created_at']:%Y-%m-%d %H:%M:%S}", one["action"], one["created_by"], one["memo"], one["outcome"],
         one["detail"] or "")
        for one in letter["orders"]
    ]  # fmt: skip
    if rows:
        columns = ("When", "Order", "By", "Memo", "Outcome", "Detail")
        output.print_rich(output.table("Orders", columns, rows))


@dead_letter.command()
@click.argument("letter_ids", type=click.UUID, metavar="LETTER_ID...", nargs=-1, required=True)
@wait_option
@output_options
def requeue(letter_ids: tuple[UUID, ...], wait: bool, as_json: bool) -> None:
    """Try dead letters again, after an upgrade or when what they lacked has come. Exits with 1 where one is kept.

    \b
    Examples:
      sundial dead-letter requeue 5f0c2f6e-7c1b-8f55-9e0b-3f5a3c1d2e4f
    """
    _order(letter_ids, "requeue", "", wait, as_json)


@dead_letter.command()
@click.argument("letter_id", type=click.UUID)
@click.option("--memo", required=True, help="Why: stands in the letter's history.")
@wait_option
@output_options
def discard(letter_id: UUID, memo: str, wait: bool, as_json: bool) -> None:
    """Let a dead letter go: it is never booked, and its charge stops counting as unposted. It cannot be undone.

    Where its call has been booked meanwhile (a journal told it again) the charge stands: the letter is closed as
    booked, and the exit code is 1.

    \b
    Examples:
      sundial dead-letter discard 5f0c2f6e-7c1b-8f55-9e0b-3f5a3c1d2e4f --memo "test of 3 November"
    """
    if not memo.strip() or len(memo) > MEMO_LENGTH_MAX or "\0" in memo:
        raise click.BadParameter(f"say why, in at most {MEMO_LENGTH_MAX} characters", param_hint="--memo")
    _order((letter_id,), "discard", memo, wait, as_json)


def _order(letter_ids: tuple[UUID, ...], action: str, memo: str, wait: bool, as_json: bool) -> None:
    from sundial import dead_letters, orders, output
    from sundial.database import connect
    from sundial.problems import NegativeError

    async def work() -> list[dict[str, Any]]:
        async with connect(database_settings().database_url) as db:
            return await dead_letters.order(db, letter_ids, action, memo, orders.WAIT_S if wait else 0)

    answers = run(work())
    if as_json:
        output.print_json({"letters": answers})
    else:
        for one in answers:
            order = [f"order {one['order_id']}"] if one["outcome"] == "queued" else []
            click.echo(f"{one['outcome']}: " + ", ".join(filter(None, (str(one["letter_id"]), *order, one["detail"]))))
    if action == "discard" and (booked := [one for one in answers if one["outcome"] == "booked"]):
        raise NegativeError(f"Not discarded: {booked[0]['detail']}.")
    undone = [one for one in answers if one["outcome"] in ("kept", "refused")]
    if undone:
        raise NegativeError(f"{len(undone)} of {len(answers)} dead letters stay as they are: {undone[0]['detail']}")
