"""One model's prices for people."""

from typing import Any

from rich.console import RenderableType

from sundial import output


def render(page: dict[str, Any]) -> list[RenderableType]:
    """A table of kinds by price, one column for each tier and service tier."""
    columns = [("base", page["usd"])]
    columns += [(f"input above {tier['above_input_tokens']:,}", tier["usd"]) for tier in page["tiers"]]
    for name, table in page["service"].items():
        columns.append((name, table["usd"]))
        columns += [(f"{name} above {tier['above_input_tokens']:,}", tier["usd"]) for tier in table["tiers"]]
    rows = [
        (kind.replace("_", " "), f"per {unit}", *(usd.get(kind, "") for _, usd in columns))
        for kind, unit in page["units"].items()
    ]
    facts = [
        ("version", f"{page['price_version']} · {page['source']} · {page['created_at']:%Y-%m-%d}"),
        ("provider", f"{page['provider']} · {page['mode']}"),
        ("set by", "operator" if page["override"] else "import"),
        *((("covers", ", ".join(page["covers"])),) if page["covers"] else ()),
        ("limits", f"{page['input_tokens_max']:,} tokens in, {page['output_tokens_max']:,} out (0: unknown)"),
    ]
    if page["uplifts"]:
        facts.append(("uplifts", ", ".join(f"{name} × {factor}" for name, factor in page["uplifts"].items())))
    if page["unpriced_kinds"]:
        facts.append(("without price", ", ".join(page["unpriced_kinds"])))
    names = [name for name, _ in columns]
    return [
        output.facts(f"USD prices of {page['model']}", facts),
        output.table("", ("Kind", "Unit", *names), rows, numbers=names),
    ]
