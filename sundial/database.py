"""The way to Postgres for people's commands: as the role sundial_console, which may order but never move money."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from shared.sql import load
from sundial.problems import InterruptedCommandError, UnreachableError

CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 120.0
ROLE: Final = "sundial_console"


def statements() -> dict[str, str]:
    """Every SQL statement of the command, by name."""
    return load(Path(__file__).parent / "sql")


def place(url: str) -> str:
    """Host, port and database of a URL, without user and password."""
    parts = urlsplit(url)
    host = parts.hostname or dict(pair.partition("=")[::2] for pair in parts.query.split("&")).get("host", "localhost")
    port = f":{parts.port}" if parts.port else ""
    return f"{host}{port}{parts.path}"


def translated(error: BaseException, url: str) -> UnreachableError | None:
    """What an error of asyncpg, or of the socket below it, means for people; None where it is none of these."""
    import asyncpg

    where = f"Postgres at {place(url)}"
    match error:
        case asyncpg.InvalidAuthorizationSpecificationError() | asyncpg.InvalidCatalogNameError():
            text = f"{where} refuses the login: {error}. Correct SUNDIAL_DATABASE_URL."
        case asyncpg.InvalidSchemaNameError() | asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            text = f"The database {place(url)} lacks what this version needs ({error}). Run: sundial migrate"
        case asyncpg.InsufficientPrivilegeError():
            text = f"The login user may not do this ({error}). Grant it the role {ROLE}."
        case asyncpg.PostgresConnectionError() | asyncpg.OperatorInterventionError() | asyncpg.InterfaceError():
            text = f"{where} is not there or went away ({reason(error)}). Try again, or see its log."
        case BrokenPipeError():
            return None  # of our own output: the reader has seen enough
        case ConnectionError() | TimeoutError() | socket.gaierror():
            text = f"{where} is not reachable ({reason(error)}). Start it, or correct SUNDIAL_DATABASE_URL."
        case _:
            return None
    return UnreachableError(text)


@contextmanager
def border(url: str) -> Iterator[None]:
    """Raises UnreachableError for what `translated` knows; everything else passes."""
    try:
        yield
    except Exception as error:
        if (problem := translated(error, url)) is not None:
            raise problem from error
        raise


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Any]:
    """A connection of asyncpg with the search path `sundial`, acting as sundial_console where the login user may.

    Raises UnreachableError where there is no server, no access, no schema or no right, each with what to do; the
    errors of statements in the body are translated too. Parting raises nothing: when the body has ended, what was
    asked is done, or has its own error.
    """
    import asyncpg

    with border(url):
        connection = await asyncpg.connect(
            url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            server_settings={"search_path": "sundial", "application_name": "sundial command"},
        )
        try:
            await _take_role(connection)
            yield connection
        finally:
            await _part(connection)


@asynccontextmanager
async def confirmed(connection: Any, doubt: str) -> AsyncIterator[None]:
    """A transaction that must not be repeated blindly. Where its commit is not confirmed, nobody knows whether it was
    done: raises UnreachableError, or after Ctrl-C InterruptedCommandError, with `doubt`, which says what to do."""
    asked = False
    try:
        async with connection.transaction():
            yield
            asked = True
    except asyncio.CancelledError:
        if asked:
            raise InterruptedCommandError(f"Interrupted: {doubt}.") from None
        raise
    except Exception as error:
        if asked:
            raise UnreachableError(f"Postgres did not confirm it ({reason(error)}): {doubt}.") from error
        raise


async def _part(connection: Any) -> None:
    """Close in order; after Ctrl-C, or where that fails, at once."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        connection.terminate()
        return
    try:
        await connection.close(timeout=CONNECT_TIMEOUT_S)
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - nothing depends on a good parting
        connection.terminate()


async def _take_role(connection: Any) -> None:
    """SET ROLE where the login user is another one and a member; else its own rights decide."""
    if await connection.fetchval(statements()["may_take_role"], ROLE):
        await connection.execute(f"SET ROLE {ROLE}")


def reason(error: BaseException) -> str:
    """An error in a few words of one line."""
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]
