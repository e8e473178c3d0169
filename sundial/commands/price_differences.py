"""`sundial price differences`: calls whose cost the upstream's own arithmetic sees otherwise."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import click

from sundial.options import database_settings, output_options, run


@click.command()
@click.option(
    "--month",
    metavar="YYYY-MM",
    help="Month in which the calls began, in SUNDIAL_TIMEZONE.  [default: the current one]",
)
@output_options
def differences(month: str | None, as_json: bool) -> None:
    """List where the upstream's cost differs from ours.

    LiteLLM tells what a call costs by its own prices (`usage.cost`). Calls that differ by more than 1 %, and by more
    than a nano-USD for each token, which rounding explains, are summed by the model asked for and the one that
    answered: an outdated price on either side, or a rule that one of the two lacks. A price correction counts.

    \b
    Examples:
      sundial price differences
      sundial price differences --month 2026-11 --json
    """
    from meter.cost_check import DIFFERENCE_PPM_MAX, ROUNDING_NANO_MAX
    from shared import ids
    from shared.units import format_usd
    from sundial import output
    from sundial.database import connect, statements
    from sundial.statement import month_bounds, month_of

    settings = database_settings()
    zone = ZoneInfo(settings.timezone)
    chosen = month or month_of(datetime.now(UTC), zone)
    try:
        first, following = map(ids.uuid7_floor, month_bounds(chosen, zone))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--month") from None

    async def work() -> list[Any]:
        async with connect(settings.database_url) as db:
            limits = ROUNDING_NANO_MAX, DIFFERENCE_PPM_MAX
            return list(await db.fetch(statements()["cost_differences"], first, following, *limits))

    compared = run(work())
    found = [{**dict(row), "ratio": round(row["ours"] / row["theirs"], 6)} for row in compared if row["calls"]]
    calls = sum(row["calls_compared"] for row in compared)
    if as_json:
        output.print_json({"month": chosen, "calls_compared": calls, "differences": found})
        return
    rows = [
        (
            one["model_asked"],
            one["model_answered"],
            f"{one['calls']:,}",
            format_usd(one["ours"]),
            format_usd(one["theirs"]),
            f"{one['ratio']:.4f}",
        )
        for one in found
    ]
    columns = ("Asked", "Answered", "Calls", "Ours", "Upstream's", "Ratio")
    if rows:
        output.print_rich(output.table(f"Provider cost in USD · {chosen}", columns, rows, numbers=columns[2:]))
    click.echo(f"{sum(one['calls'] for one in found):,} of {calls:,} calls with a cost of the upstream's differ.")
