"""`sundial price`: what models cost at their providers, as dated versions that never change."""

from typing import Any

import click

from sundial.commands import price_change, price_differences
from sundial.options import database_settings, output_options, run

PRICES_FOR_PEOPLE = 40


@click.group()
def price() -> None:
    """See, import and set what models cost.

    Prices come from litellm's price map; an operator's own stand over them. Every change is a further version: a
    charge names the version that priced it and can be recomputed for ever.

    \b
    Examples:
      sundial price list --search gpt-4o
      sundial price show openai/gpt-4o-mini
      sundial price import
      sundial price set my-model --input 0.15 --output 0.60
      sundial price differences
    """


async def _version(db: Any, number: int | None) -> Any:
    """The row of a price version, the newest where `number` is None. Raises NegativeError."""
    from sundial.database import statements
    from sundial.problems import NegativeError

    row = await db.fetchrow(statements()["price_version"], number)
    if row is None:
        which = "there are no prices yet" if number is None else f"there is no price version {number}"
        raise NegativeError(f"{which}; import them with: sundial price import")
    return row


@price.command("list")
@click.option("--search", metavar="TEXT", default="", help="Part of a model's name, in any case.")
@click.option(
    "--version", "number", type=click.IntRange(1), metavar="N", help="A price version.  [default: the newest]"
)
@click.option("--override", is_flag=True, help="Only prices that an operator set.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    metavar="N",
    help=f"List at most N, 0: all.  [default: {PRICES_FOR_PEOPLE}; with --json all]",
)
@output_options
def list_prices(search: str, number: int | None, override: bool, limit: int | None, as_json: bool) -> None:
    """List prices in USD per million tokens.

    \b
    Examples:
      sundial price list --search claude
      sundial price list --override
      sundial price list --json
    """
    from meter.prices import PriceBook
    from shared.pricing import resolve
    from sundial import output, rates
    from sundial.database import connect

    async def work() -> tuple[Any, list[dict[str, Any]]]:
        async with connect(database_settings().database_url) as db:
            version = await _version(db, number)
            models = await PriceBook().load(db, version["price_version"])
        names = sorted(name for name in models if search.lower() in name.lower())
        listed = [name for name in names if models[name].override or not override]
        return version, [
            {**rates.page(models[name]), "priced_as": (resolve(models, name) or models[name]).model} for name in listed
        ]

    version, found = run(work())
    most = limit if limit is not None else (0 if as_json else PRICES_FOR_PEOPLE)
    shown = found[:most] if most else found
    if as_json:
        output.print_json({**dict(version), "models_total": len(found), "models": shown})
        return
    rows = [
        (
            one["model"],
            one["provider"],
            one["mode"],
            *(one["usd"].get(kind, "") for kind in ("input", "cached", "cache_write", "output")),
            " ".join(
                word
                for word, said in (("tiers", one["tiers"]), ("service", one["service"]), ("own", one["override"]))
                if said
            )
            + ("" if one["priced_as"] == one["model"] else f" as {one['priced_as']}"),
        )
        for one in shown
    ]
    columns = ("Model", "Provider", "Mode", "Input", "Cached", "Cache write", "Output", "")
    title = f"USD per million tokens · version {version['price_version']} · {version['source']}"
    output.print_rich(output.table(title, columns, rows, numbers=columns[3:7]))
    if len(shown) < len(found):
        click.echo(f"{len(shown)} of {len(found)} models; --limit 0 shows all, --search finds some.")


@price.command()
@click.argument("model")
@click.option(
    "--version", "number", type=click.IntRange(1), metavar="N", help="A price version.  [default: the newest]"
)
@output_options
def show(model: str, number: int | None, as_json: bool) -> None:
    """Show all prices of one model, found as a call's model is.

    \b
    Examples:
      sundial price show gpt-4o-mini
      sundial price show azure/gpt-4o --json
    """
    from meter.prices import PriceBook
    from shared.pricing import covered, resolve
    from sundial import output, price_page, rates
    from sundial.database import connect
    from sundial.problems import NegativeError

    async def work() -> tuple[Any, dict[str, Any]]:
        async with connect(database_settings().database_url) as db:
            version = await _version(db, number)
            models = await PriceBook().load(db, version["price_version"])
        found = resolve(models, model)
        if found is None:
            near = [name for name in sorted(models) if model.lower() in name.lower()][:5]
            hint = f"near: {', '.join(near)}" if near else "`sundial price set` gives it one"
            raise NegativeError(f"no price for {model!r} in version {version['price_version']}; {hint}.")
        covers = covered(models, found.model) if found.override else ()
        return version, {**rates.page(found), "covers": covers}

    version, page = run(work())
    page = {"asked": model, **dict(version), **page}
    if as_json:
        output.print_json(page)
    else:
        output.print_rich(*price_page.render(page))


for part in (
    price_change.import_prices,
    price_change.set_price,
    price_change.unset,
    price_differences.differences,
):
    price.add_command(part)
