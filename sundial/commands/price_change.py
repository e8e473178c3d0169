"""Changes of prices: `sundial price import`, `set`, `unset`. Each is a further version."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sundial.options import database_settings, output_options, run

F = TypeVar("F", bound=Callable[..., Any])

TOKEN_KINDS = (
    *("input", "cached", "cached_audio", "cache_write", "cache_write_1h", "audio_in", "image_in"),
    *("output", "reasoning", "audio_out", "image_out"),
)
OTHER_KINDS = ("characters", "duration_ms", "images", "searches", "requests")
PER = {
    "characters": "million characters",
    "duration_ms": "second",
    "images": "image",
    "searches": "search",
    "requests": "request",
}


@click.command("import")
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A price map in litellm's form.  [default: the one inside the installed litellm]",
)
@output_options
def import_prices(path: Path | None, as_json: bool) -> None:
    """Import litellm's price map as a further version, if it says something else than the newest.

    \b
    Examples:
      sundial price import
      sundial price import --file model_prices.json --json
    """
    import msgspec

    from meter import prices
    from sundial import output
    from sundial.database import connect
    from sundial.orders import orderer
    from sundial.problems import NegativeError

    async def work() -> prices.ImportReport:
        async with connect(database_settings().database_url) as db:
            try:
                return await prices.import_prices(db, path, created_by=orderer())
            except prices.PriceSourceError as error:
                raise NegativeError(str(error)) from error

    report = run(work())
    if as_json:
        output.print_json(msgspec.to_builtins(report))
        return
    if not report.created:
        click.echo(f"Version {report.version} says the same already ({report.source}).")
    else:
        changes = f"{len(report.added)} added, {len(report.changed)} changed, {len(report.removed)} removed"
        click.echo(f"Created version {report.version} from {report.source}: {changes}.")
    if report.overridden:
        click.echo(f"{len(report.overridden)} prices of your own stand over it: {', '.join(report.overridden)}")
    if report.unpriceable:
        click.echo(f"{len(report.unpriceable)} models of the map have no price that can be used; --json lists them.")


def price_options(function: F) -> F:
    """One option for each kind of usage, a price in USD, passed as kind=text."""
    for kind in reversed(TOKEN_KINDS + OTHER_KINDS):
        said = "seconds" if kind == "duration_ms" else kind
        flag = "--" + said.replace("_", "-")
        help_text = f"USD per {PER.get(kind, 'million tokens')}."
        function = click.option(flag, kind, metavar="USD", help=help_text)(function)
    return function


@click.command("set")
@click.argument("model")
@price_options
@output_options
def set_price(model: str, as_json: bool, **said: str | None) -> None:
    """Set the price of a model, over the imported one, from the next calls on.

    It is also the price of the model's dated names (gpt-4o-mini-2024-07-18, …) that are only imported: upstreams answer
    with these.

    What is said stands alone: tiers of the imported price do not apply. A kind that is free is said to be: a model that
    sells tokens needs --input and --output, each 0 if need be. Cached tokens without a price cost as input, reasoning
    as output.

    \b
    Examples:
      sundial price set gpt-4o-mini --input 0.15 --cached 0.075 --output 0.60
      sundial price set my-local-model --input 0 --output 0
      sundial price set my-embeddings --input 0.02 --output 0
      sundial price set my-images --images 0.04
    """
    from meter import prices
    from shared.pricing import covered
    from sundial import output, rates
    from sundial.database import connect
    from sundial.orders import orderer
    from sundial.problems import NegativeError

    chosen: dict[str, int] = {}
    for kind, text in said.items():
        if text is not None:
            try:
                chosen[kind] = rates.parse_price(text, kind)
            except rates.PriceTextError as error:
                raise click.BadParameter(str(error), param_hint=f"--{rates.SAID[kind].replace('_', '-')}") from None
    if not chosen:
        raise click.UsageError("say at least one price, for example --input 0.15 --output 0.60")
    for kind in ("input", "output"):
        if kind not in chosen and any(token in chosen for token in TOKEN_KINDS):
            raise click.UsageError(f"--{kind} is not said; nothing is free by accident: say --{kind} 0 if it is")

    async def work() -> tuple[int, tuple[str, ...]]:
        async with connect(database_settings().database_url) as db:
            try:
                version = await prices.set_price(db, model, chosen, created_by=orderer())
            except prices.PriceError as error:
                raise NegativeError(str(error)) from error
            return version, covered(await prices.PriceBook().load(db, version), model)

    version, covers = run(work())
    usd = rates.prices(chosen, 0)
    if as_json:
        output.print_json({"model": model, "price_version": version, "usd": usd, "covers": covers})
    else:
        said_prices = ", ".join(f"{kind} {text}" for kind, text in usd.items())
        click.echo(f"Created version {version}: {model} costs USD {said_prices}.")
        if covers:
            click.echo(f"So do its dated names: {', '.join(covers)}.")


@click.command()
@click.argument("model")
@output_options
def unset(model: str, as_json: bool) -> None:
    """Take a price of your own back: the one imported last stands again, and no other price changes.

    \b
    Example:
      sundial price unset gpt-4o-mini
    """
    from meter import prices
    from shared.pricing import PricedModel
    from sundial import output
    from sundial.database import connect
    from sundial.orders import orderer
    from sundial.problems import NegativeError

    async def work() -> tuple[int, PricedModel | None]:
        async with connect(database_settings().database_url) as db:
            try:
                return await prices.remove_price(db, model, created_by=orderer())
            except prices.PriceError as error:
                raise NegativeError(str(error)) from error

    version, imported = run(work())
    if as_json:
        output.print_json({"model": model, "price_version": version})
    elif imported is None:
        click.echo(f"Version {version}: {model} has no price of its own any more; none was imported.")
    else:
        click.echo(f"Version {version}: the imported price of {model} stands again.")
