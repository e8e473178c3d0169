"""Connections to Postgres, and what an error of theirs means for a batch."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

CONNECT_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 2.0
"""Longest wait for open connections to be closed in order."""
STATEMENT_TIMEOUT_S: Final = 30.0
IDLE_TIMEOUT_S: Final = 15.0
"""Silence inside of a transaction after which Postgres ends it, so that a meter that is paused or cut off with accounts
locked does not keep them from the others. Longer than a batch computes, and than Redis takes to answer or to fail."""
LOCK_TIMEOUT_S: Final = 4.0
"""Wait for a row lock, in seconds, after which the batch is tried again."""
CONNECTIONS_MAX: Final = 6
"""Connections of one meter for posting; a reader without one waits its turn."""

_SETTINGS: Final = {
    "application_name": "sundial meter",
    "timezone": "UTC",
    "statement_timeout": str(int(STATEMENT_TIMEOUT_S * 1000)),
    "lock_timeout": str(int(LOCK_TIMEOUT_S * 1000)),
    "idle_in_transaction_session_timeout": str(int(IDLE_TIMEOUT_S * 1000)),
    # Each statement finds its rows by key, and each plan is made once. Left to its estimates the planner would read
    # whole tables while they are small, and keep that plan when they have grown.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

_POSTGRES_EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01, from which Postgres counts microseconds."""

_SLOW: Final = ("57014", "55P03")
"""SQLSTATE codes: a statement took longer than STATEMENT_TIMEOUT_S, a lock than LOCK_TIMEOUT_S."""

_DATA_CLASSES: Final = ("21", "22", "23")
"""SQLSTATE classes that say something about the rows: cardinality, data (also where asyncpg itself could not encode a
value), integrity."""


def pool(url: str) -> Any:
    """A pool for the meter's statements; `await` it to open it. Raises asyncpg's and OS errors then."""
    return asyncpg.create_pool(
        url,
        min_size=0,
        max_size=CONNECTIONS_MAX,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=2 * STATEMENT_TIMEOUT_S,
        server_settings=_SETTINGS,
        init=speak_microseconds,
        reset=_keep,
    )


class ConnectionLostError(ConnectionError):
    """The connection ended inside of a transaction, and the driver met that as an error of another kind."""


@asynccontextmanager
async def opened(connections: Any) -> AsyncIterator[None]:
    """The pool, for as long as the block lasts; where its connections do not end in order they are cut off."""
    await connections
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await connections.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connections.terminate()


@asynccontextmanager
async def transaction(connections: Any) -> AsyncIterator[Any]:
    """A connection of the pool inside a READ COMMITTED transaction.

    After an error that is not the rows' own the connection is closed: it may be in the middle of an answer. Whatever
    the driver raises once the connection has ended says nothing about the rows: it becomes a ConnectionLostError.
    """
    async with connections.acquire() as connection:
        try:
            async with connection.transaction(isolation="read_committed"):
                yield connection
        except BaseException as error:
            if not is_data_fault(error):
                with suppress(asyncpg.InterfaceError):  # the pool may have taken it back: not what is wrong
                    connection.terminate()
                raise
            if connection.is_closed() and not isinstance(error, asyncpg.PostgresError):
                raise ConnectionLostError(f"{type(error).__name__}: {error}") from error
            raise


async def connect(url: str) -> Any:
    """A connection of one's own, for LISTEN."""
    return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=_SETTINGS)


async def speak_microseconds(connection: Any) -> None:
    """Times come and go as Unix microseconds: exact, and several times cheaper than a datetime for each."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        format="tuple",
        encoder=lambda unix_us: (unix_us - _POSTGRES_EPOCH_US,),
        decoder=lambda value: value[0] + _POSTGRES_EPOCH_US,
    )


async def _keep(_connection: Any) -> None:
    """Nothing to reset between two users of a connection: the meter sets nothing for a session."""


def is_data_fault(error: BaseException) -> bool:
    """Whether the rows themselves are at fault, so that the same batch can never be booked.

    Everything else may pass: the connection is lost (08) or was never there, the transaction was a victim (40), the
    server is short of something (53), is stopping or was told to cancel (57), has lost its disk (58), waits for a
    lock too long (55), is read-only (25), lacks a table or a privilege that an operator will add (42).
    """
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate)[:2] in _DATA_CLASSES
    if isinstance(error, asyncpg.InterfaceError):
        return False
    return isinstance(error, ValueError | TypeError | OverflowError | LookupError | AssertionError)


def is_too_slow(error: BaseException) -> bool:
    """Whether Postgres, or the wait for its answer, ran out of time: less work at once may be possible."""
    if isinstance(error, asyncpg.PostgresError):
        return error.sqlstate in _SLOW
    return isinstance(error, TimeoutError)


def is_passing_fault(error: BaseException) -> bool:
    """Whether the same batch may be booked later. What is neither is a fault of the program.

    InternalClientError is what asyncpg says if the server ends a connection at the moment when it is taken up again.
    """
    if is_data_fault(error):
        return False
    return isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError | OSError)
