"""How a command ends when it cannot do what was asked: one clear line for people, one exit code for scripts."""

from typing import ClassVar, Final

EXIT_CODES: Final = """\b
Exit codes:
  0  done
  1  the answer is no: a broken invariant, a refused order, no such account
  2  wrong usage or settings
  3  a server that the command needs is not reachable
  4  an unexpected fault; --debug shows where
  130  interrupted by Ctrl-C"""

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it."""


class CommandError(Exception):
    """The text says what is wrong and what to do about it; `exit_code` is what a script sees."""

    exit_code: ClassVar[int] = 4


class NegativeError(CommandError):
    """The command worked and the answer is no."""

    exit_code = 1


class WrongUsageError(CommandError):
    """The command line, or a setting, asks for something that cannot be meant."""

    exit_code = 2


class UnreachableError(CommandError):
    """Postgres, Redis or a part of Sundial that the command needs does not answer, or is not set up."""

    exit_code = 3


class InterruptedCommandError(CommandError):
    """Ctrl-C came after something was asked that goes on without the command; the text says what."""

    exit_code = INTERRUPTED
