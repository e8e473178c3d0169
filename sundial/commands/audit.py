"""`sundial audit`: prove that the books hold, and that Redis says what they say."""

from collections import Counter
from typing import Any

import click

from sundial.options import command_settings, output_options, run

BESIDE_THE_BOOKS = ("charges", "digest", "epoch", "projection", "held", "unposted", "holds")
"""Rules that are more than one statement on the books: each charge recomputed; Redis against Postgres."""
QUIET_RULES = ("stream",)


@click.command()
@click.option("--quiet", is_flag=True, help="Nothing is under way: nothing may be held, unposted or streamed.")
@output_options
def audit(quiet: bool, as_json: bool) -> None:
    """Prove the invariants of the books and of Redis.

    Conservation, gapless histories, every event once and priced, grants and draws, append-only tables, and a projection
    that equals the ledger. It may run beside working programs. Exits with 1 where a rule is broken.

    \b
    Examples:
      sundial audit
      sundial audit --json
    """
    from meter import audit as auditor
    from sundial import database, output, projection
    from sundial.problems import NegativeError

    settings = command_settings()
    with database.border(settings.database_url), projection.border(settings.redis_url):
        found = run(auditor.audit(settings.database_url, settings.redis_url, quiet=quiet))
    broken = Counter(violation.rule for violation in found)
    rules = dict.fromkeys((*auditor.RULES, *BESIDE_THE_BOOKS, *(QUIET_RULES if quiet else ()), *broken), 0) | broken
    if as_json:
        violations = [{"rule": one.rule, "subject": one.subject, "detail": one.detail} for one in found]
        output.print_json({"ok": not found, "rules": rules, "violations": violations})
    else:
        _tell(rules, found)
    if found:
        raise NegativeError(f"{sum(broken.values())} violations of {len(broken)} rules.")


def _tell(rules: dict[str, int], found: list[Any]) -> None:
    from rich.text import Text

    from sundial import output

    rows = [
        (rule.replace("_", " "), Text(f"{count} violations", style="bold red") if count else Text("ok", style="green"))
        for rule, count in rules.items()
    ]
    output.print_rich(output.table("", ("Rule", "Result"), rows))
    if found:
        details = [(one.rule.replace("_", " "), one.subject, one.detail) for one in found]
        output.print_rich(output.table("Violations", ("Rule", "Subject", "Detail"), details))
