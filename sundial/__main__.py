"""The command `sundial`: the tree of commands, and the border where every fault becomes one line and an exit code."""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

import click

from sundial.commands import (
    account,
    audit,
    charge,
    checkpoint,
    dead_letter,
    doctor,
    key,
    money,
    plan,
    price,
    programs,
    statement,
)
from sundial.options import Invocation, debug_option
from sundial.output import clean
from sundial.problems import EXIT_CODES, INTERRUPTED, CommandError

CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

PROGRAMS: Final = (
    programs.up,
    programs.gateway,
    programs.meter,
    programs.migrate,
    doctor.doctor,
    audit.audit,
    checkpoint.checkpoint,
)
FOR_PEOPLE: Final = (
    account.account,
    key.key,
    plan.plan,
    price.price,
    money.grant,
    money.adjust,
    statement.statement,
    charge.charge,
    dead_letter.dead_letter,
)


class Sections(click.Group):
    """A group whose help lists programs and people's commands apart, each in the order in which one needs them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, parts in (("Run and watch it", PROGRAMS), ("Work with it", FOR_PEOPLE)):
            with formatter.section(title):
                formatter.write_dl([(part.name or "", part.get_short_help_str(80)) for part in parts])


@click.group(cls=Sections, context_settings=CONTEXT, epilog=EXIT_CODES)
@click.version_option(package_name="sundial", message="%(prog)s %(version)s")
@debug_option
def command() -> None:
    """Token and credit control between LibreChat and LiteLLM.

    Programs read their settings from SUNDIAL_… variables; where `make up` runs, load them with
    `set -a; . .sundial/env; set +a`. ACCOUNT is an account id or the user's id in LibreChat. Amounts are in credits on
    the command line and in tables, in millicredits (1 credit = 1,000) in JSON.

    \b
    Examples:
      sundial account list
      sundial grant 665f1c0a9d2e4b0012ab34cd 50000 --memo "welcome"
      sundial statement 665f1c0a9d2e4b0012ab34cd --month 2026-11
      sundial audit
    """


for part in (*PROGRAMS, *FOR_PEOPLE):
    command.add_command(part)


def _say(text: str) -> None:
    for line in text.splitlines():
        click.echo(f"sundial: {clean(line)}", err=True)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Never lets an exception through."""
    invocation = Invocation()
    try:
        with command.make_context("sundial", list(arguments), obj=invocation) as context:
            code = command.invoke(context)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        _close_output()
        return 0
    except Exception as error:  # noqa: BLE001 - the border: what gets here is told in one line
        if invocation.debug:
            traceback.print_exc()
        if isinstance(error, CommandError):
            _say(str(error))
            return error.exit_code
        _say(f"unexpected fault, {type(error).__name__}: {error}. --debug shows where.")
        return CommandError.exit_code
    return code if isinstance(code, int) else 0


def _close_output() -> None:
    """The reader, `head` for example, has seen enough: what is still buffered goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):  # an encoding that lacks a letter ends no page in its middle
        sys.stdout.reconfigure(errors="replace")
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _close_output()
    except OSError:  # a full disk, which whoever wrote has told
        _close_output()
        code = code or CommandError.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
