"""`sundial audit`: prove that the books hold, and that Redis says what they say."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sundial.options import command_settings, output_options, run

if TYPE_CHECKING:
    from meter.checkpoints import Statement
    from shared.settings import CommandSettings

BESIDE_THE_BOOKS = (
    *("prices", "charges", "account_ids", "allowances", "digest", "checkpoint_chain"),
    *("epoch", "projection", "keys", "catalog", "held", "unposted", "holds"),
)
"""Rules that are more than one statement on the books: prices, charges, ids and digests are computed again; Redis
against Postgres."""
QUIET_RULES = ("stream",)
CHECKPOINT_RULES = ("checkpoint",)
JOURNAL_RULES = ("journal", "client_last", "bytes", "floor")
LABELS = {"answers": "answers that ended well"}
"""What is counted of journals, for people, where the name alone does not say it."""


@click.command()
@click.option("--quiet", is_flag=True, help="Nothing is under way: nothing may be held, unposted or streamed.")
@click.option(
    "--checkpoint",
    "file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What this signed checkpoint says must still stand in the books.",
)
@click.option(
    "--journal",
    "home",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="What the gateways with this SUNDIAL_HOME wrote to their journals must be in the books.",
)
@output_options
def audit(quiet: bool, file: Path | None, home: Path | None, as_json: bool) -> None:
    """Prove the invariants of the books and of Redis.

    Conservation, gapless histories, every event once and priced, every other transfer ordered, grants and draws, ids
    that follow from names, append-only tables, prices as they were written, and a projection that equals the ledger. It
    may run beside working programs. Exits with 1 where a rule is broken.

    With --checkpoint also: the signature is that of SUNDIAL_CHECKPOINT_PUBLIC_KEY (or of the key that signs, where that
    is set), each account still has the balance and the digest that it had then, and prices and rate cards are what they
    were. An altered or removed row, a tail that was cut off, a chain that was written anew, another database: each is
    told with account and seq.

    With --journal also: each call that a gateway wrote as settled has one usage row that says the same, or is a dead
    letter; each that it began is open, or has one too; none that came to nothing has any. And of each answer
    that ended well: its client had the end after its record, and the upstream's bytes; it costs no more than was held
    and one slice. Journals hold 24 hours.

    \b
    Examples:
      sundial audit
      sundial audit --json
      sundial audit --checkpoint /media/notary/checkpoint-2026-11-25T030000Z-5d2c8f01.json
      sundial audit --journal .sundial
    """
    from meter import audit as auditor
    from sundial import database, output, projection
    from sundial.journals import Journals
    from sundial.problems import NegativeError, WrongUsageError

    settings = command_settings()
    said = _signed(file, settings) if file else None
    if home is not None and not len(Journals(home)):
        raise WrongUsageError(f"no journals under {home}; name the gateways' SUNDIAL_HOME")
    # A closed port of Postgres is an error of the socket, which only its own border, the inner one, tells from Redis's.
    with projection.border(settings.redis_url), database.border(settings.database_url):
        found = run(auditor.audit(settings.database_url, settings.redis_url, quiet=quiet, checkpoint=said))
        calls = _journals(home, settings, found, quiet=quiet) if home else None
    broken = Counter(violation.rule for violation in found)
    asked = (*(QUIET_RULES if quiet else ()), *(CHECKPOINT_RULES if file else ()), *(JOURNAL_RULES if home else ()))
    rules = dict.fromkeys((*auditor.RULES, *BESIDE_THE_BOOKS, *asked, *broken), 0) | broken
    if as_json:
        violations = [{"rule": one.rule, "subject": one.subject, "detail": one.detail} for one in found]
        journal = {} if calls is None else {"journal": calls}
        output.print_json({"ok": not found, "rules": rules, "violations": violations, **journal})
    else:
        _tell(rules, found, calls)
    if found:
        raise NegativeError(f"{sum(broken.values())} violations of {len(broken)} rules.")


def _signed(file: Path, settings: "CommandSettings") -> "Statement":
    """What a checkpoint says. Raises NegativeError where its signature is not the trusted one."""
    from meter import checkpoints
    from sundial.problems import NegativeError, WrongUsageError

    if settings.checkpoint_public_key:
        trusted = checkpoints.public_key(settings.checkpoint_public_key)
    elif settings.checkpoint_key:
        trusted = checkpoints.public_half(checkpoints.private_key(settings.checkpoint_key))
    else:
        raise WrongUsageError(
            "SUNDIAL_CHECKPOINT_PUBLIC_KEY is not set (or SUNDIAL_CHECKPOINT_PUBLIC_KEY_FILE): whose signature is "
            "believed? `sundial checkpoint create` printed it."
        )
    try:
        found = checkpoints.load(file)
    except checkpoints.CheckpointError as error:
        raise NegativeError(str(error)) from None
    try:
        return checkpoints.verify(found, trusted)
    except checkpoints.CheckpointError as error:
        raise NegativeError(f"{file}: {error}") from None


def _journals(home: Path, settings: "CommandSettings", found: list[Any], *, quiet: bool) -> dict[str, int]:
    """How many calls of the journals are in which state. Adds to `found` what is wrong."""
    from meter import audit_journal
    from meter.violation import Violation
    from sundial.journals import Journals

    journals = Journals(home)
    look_up = audit_journal.audit_journals(settings.database_url, settings.redis_url, journals.pages(), quiet=quiet)
    looked_up = run(look_up)
    found.extend(looked_up.violations)
    for path, lines in journals.damaged.items():
        found.append(Violation(audit_journal.RULE, str(path), f"{lines} damaged records, which cannot be looked up"))
    states = {state: looked_up.states[state] for state in audit_journal.STATES}
    return {"journals": len(journals), **states, "answers": looked_up.ends}


def _tell(rules: dict[str, int], found: list[Any], calls: dict[str, int] | None) -> None:
    from rich.text import Text

    from sundial import output

    rows = [
        (rule.replace("_", " "), Text(f"{count} violations", style="bold red") if count else Text("ok", style="green"))
        for rule, count in rules.items()
    ]
    output.print_rich(output.table("", ("Rule", "Result"), rows))
    if calls is not None:
        counted = [(LABELS.get(state, state), str(count)) for state, count in calls.items()]
        output.print_rich(output.table("Calls in the journals", ("State", "Calls"), counted))
    if found:
        details = [(one.rule.replace("_", " "), one.subject, one.detail) for one in found]
        output.print_rich(output.table("Violations", ("Rule", "Subject", "Detail"), details))
