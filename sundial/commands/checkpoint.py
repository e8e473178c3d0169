"""`sundial checkpoint`: sign what the books say, so that it can be held against them later."""

from pathlib import Path
from typing import Any

import click

from shared.units import format_credits
from sundial.options import database_settings, output_options, run, settings


@click.group()
def checkpoint() -> None:
    """Sign what the books say at one moment, to be kept outside of the database.

    `sundial audit --checkpoint FILE` then proves that it is still what they say of that moment.

    \b
    Examples:
      sundial checkpoint create /media/notary
      sundial checkpoint list
    """


@checkpoint.command()
@click.argument("name", metavar="FILE")
@output_options
def create(name: str, as_json: bool) -> None:
    """Write a signed checkpoint to FILE, or into a folder under a name of its own. No file is written over.

    It holds each account's seq, balance and digest, their sums, and the digests of the price versions; the database
    keeps a copy. SUNDIAL_CHECKPOINT_KEY, or the file that SUNDIAL_CHECKPOINT_KEY_FILE names, is the key that signs: 32
    random bytes in base64, as `openssl rand -base64 32` makes them. Give verifiers the public key that is printed.

    \b
    Examples:
      sundial checkpoint create /media/notary
      sundial checkpoint create books.json --json
    """
    from meter import checkpoints
    from sundial import output
    from sundial.database import connect
    from sundial.problems import NegativeError, WrongUsageError

    if not name.strip():  # a variable that is not set, not the folder where one happens to be
        raise click.BadParameter("name a file or a folder", param_hint="FILE")
    file = Path(name)
    chosen = settings("CheckpointSettings")
    key = checkpoints.private_key(chosen.checkpoint_key)
    if file.exists() and not file.is_dir():
        raise WrongUsageError(f"{file} exists: a checkpoint is never written over another file.")
    if not file.is_dir() and not file.absolute().parent.is_dir():
        raise WrongUsageError(f"there is no folder {file.absolute().parent}")

    async def work() -> checkpoints.Checkpoint:
        async with connect(chosen.database_url) as db:
            return await checkpoints.create(db, key)

    made = run(work())
    said = checkpoints.read(made)
    path = file / checkpoints.file_name(said.checkpoint_id) if file.is_dir() else file
    try:
        checkpoints.save(made, path)
    except OSError as error:
        raise NegativeError(f"the checkpoint is in the database, but not in {path}: {error.strerror}") from error
    told: dict[str, Any] = {
        "checkpoint_id": said.checkpoint_id,
        "file": str(path),
        "accounts": len(said.heads),
        "transfers": said.transfers,
        "sum": int(said.sum_mc),
        "public_key": checkpoints.key_text(made.public_key),
    }
    if as_json:
        output.print_json(told)
    else:
        shown = {**told, "sum": f"{format_credits(told['sum'], chosen.language)} credits"}
        output.print_rich(output.facts("Checkpoint", [(what.replace("_", " "), shown[what]) for what in shown]))


@checkpoint.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), metavar="N", default=100, show_default=True, help="List at most N."
)
@output_options
def list_(limit: int, as_json: bool) -> None:
    """List the checkpoints that the database keeps, the newest first.

    \b
    Examples:
      sundial checkpoint list
      sundial checkpoint list --json
    """
    from meter import checkpoints
    from sundial import output
    from sundial.database import connect, statements

    chosen = database_settings()

    async def work() -> list[Any]:
        async with connect(chosen.database_url) as db:
            return list(await db.fetch(statements()["checkpoints"], limit))

    found = [{**dict(row), "public_key": checkpoints.key_text(row["public_key"])} for row in run(work())]
    if as_json:
        output.print_json(found)
        return
    rows = [(one["created_at"].isoformat(" ", "seconds"), one["checkpoint_id"], one["public_key"]) for one in found]
    output.print_rich(output.table("Checkpoints", ("When", "Id", "Public key"), rows))
