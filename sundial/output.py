"""What a command prints: JSON for programs, tables for people."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

WIDTH_WITHOUT_TERMINAL: Final = 160
"""Columns of a table that is not printed to a terminal: wide enough that nothing is cut."""


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def json_text(value: Any, *, indent: int | None = None) -> str:
    return json.dumps(value, default=_plain, ensure_ascii=False, indent=indent)


def print_json(value: Any) -> None:
    click.echo(json_text(value, indent=2))


def console() -> "Console":
    from rich.console import Console

    class Paper(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # ended in one place, quietly; rich's own way out is exit code 1

    return Paper(highlight=False, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)


def clean(text: Any) -> str:
    """A text without characters that a terminal would obey: names come from users."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in str(text))


def flags(names: Iterable[str]) -> list[str]:
    """The flags of an event that a person reads: without the rates, which a receipt shows line by line."""
    from shared.pricing import FLAG_RATES

    return [name for name in names if not name.startswith(FLAG_RATES)]


def print_rich(*things: "RenderableType") -> None:
    out = console()
    for thing in things:
        out.print(thing)


def _title(title: str) -> "Text | None":
    from rich.text import Text

    return Text(clean(title), style="bold") if title else None


def table(
    title: str, columns: Iterable[str], rows: Iterable[Sequence[Any]], *, numbers: Iterable[str] = ()
) -> "RenderableType":
    """A table of texts; a word in its place where there are no rows.

    Columns named in `numbers` stand to the right and never wrap; no text is read as markup.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    if not rows:
        return Text(clean(f"{title}: –"), style="dim")
    right = set(numbers)
    made = Table(
        title=Text(clean(title), style="bold") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in columns:
        if column in right:
            made.add_column(Text(clean(column)), justify="right", no_wrap=True)
        else:
            made.add_column(Text(clean(column)), overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row))
    return made


def facts(title: str, pairs: Iterable[tuple[str, Any]]) -> "Table":
    """A table of two columns: what, and its value."""
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=Text(clean(title), style="bold") if title else None,
        title_justify="left",
        box=None,
        show_header=False,
        pad_edge=False,
    )
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(name, value if isinstance(value, Text) else Text(clean(value)))
    return made


def sums(lines: Iterable[tuple[str, "Text"]], unit: str) -> "Table":
    """A column of amounts under one another, each with what it is."""
    from rich.table import Table

    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(justify="right", no_wrap=True)
    made.add_column(style="dim")
    for name, amount in lines:
        made.add_row(name, amount, unit)
    return made
