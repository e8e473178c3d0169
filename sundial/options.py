"""What all commands share: --json and --debug, amounts, settings, and running a coroutine to its end."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shared.units import AmountError, parse_credits

if TYPE_CHECKING:
    from shared.settings import CommandSettings, DatabaseSettings

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

NEGATIVE_NUMBERS = {"ignore_unknown_options": True}
"""Context settings of commands that take an amount such as -12.5, which would otherwise be read as an option."""


class Invocation:
    """One run of the command: whether a fault may show its traceback."""

    def __init__(self) -> None:
        self.debug = False


def _note_debug(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Invocation).debug = True


def debug_option(function: F) -> F:
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_note_debug,
        help="Show the traceback of a fault.",
    )(function)


def output_options(function: F) -> F:
    """--json, as the argument `as_json`, and --debug."""
    json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    return debug_option(json_option(function))


def directory_option(function: F) -> F:
    return click.option(
        "--directory", metavar="NAME", help="Where the external id lives, if it exists in several directories."
    )(function)


def new_directory_option(function: F) -> F:
    return click.option("--new-directory", is_flag=True, help="Make the directory, if there is none of this name.")(
        function
    )


class Credits(click.ParamType[int]):
    """An amount of credits as people write it, in millicredits for the program."""

    name = "credits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_credits(str(value))
        except AmountError as error:
            self.fail(str(error), param, ctx)


CREDITS = Credits()


def settings(kind: str) -> Any:
    """The settings of one program: `kind` names a class of shared.settings.

    Raises WrongUsageError with every mistake and the way out.
    """
    import shared.settings
    from sundial.problems import WrongUsageError

    try:
        return shared.settings.load(getattr(shared.settings, kind))
    except shared.settings.SettingsError as error:
        raise WrongUsageError(
            f"{error}\nWhere `make up` runs, its settings are loaded with: set -a; . .sundial/env; set +a"
        ) from None


def database_settings() -> "DatabaseSettings":
    """The settings of commands that need Postgres alone. Raises WrongUsageError."""
    found: DatabaseSettings = settings("DatabaseSettings")
    return found


def command_settings() -> "CommandSettings":
    """The settings of commands that look at every server. Raises WrongUsageError."""
    found: CommandSettings = settings("CommandSettings")
    return found


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)
