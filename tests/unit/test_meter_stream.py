"""What is read from a stream, how faults are told apart, and how long the meter waits after one."""

import re

import asyncpg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from meter.database import is_data_fault
from meter.ledger import stream_order
from meter.posting import REASON_LENGTH_MAX
from meter.queries import QUERIES
from meter.rounds import DELAY_FIRST_S, DELAY_MAX_S, delay_s, passing
from meter.stream import unpack
from shared.events import ENTRY_BYTES_MAX, UsageEvent, encode
from tests.harness.messages import seen, used


def test_reads_what_can_be_read_and_sets_the_rest_aside() -> None:
    """Each entry is a message, a dead letter with its reason, or one that was trimmed while pending; all are named."""
    message = seen("ana")
    future = encode(message).replace(b'"kind":"account"', b'"kind":"account","v":2')
    batch = unpack(
        [
            (b"1-0", {b"d": encode(message)}),
            (b"2-0", {b"d": b"{"}),
            (b"3-0", {b"x": b"y"}),
            (b"4-0", None),
            (b"5-0", {b"d": future}),
            (b"6-0", {b"d": b" " * (ENTRY_BYTES_MAX + 1)}),
        ]
    )
    assert [one.message for one in batch.entries] == [message]
    assert batch.entry_ids == [b"1-0", b"2-0", b"3-0", b"4-0", b"5-0", b"6-0"]
    reasons = {one.entry_id: one.reason for one in batch.unreadable}
    assert list(reasons) == ["2-0", "3-0", "5-0", "6-0"]
    assert "no field d" in reasons["3-0"]
    assert "version 2" in reasons["5-0"]
    assert "above the limit" in reasons["6-0"]


def test_cuts_out_the_character_that_postgres_refuses() -> None:
    """A conversation with U+0000 in its name does not make its call free: the character goes, the rest stays."""
    batch = unpack([(b"1-0", {b"d": encode(used("ana", conversation="a\0b", message="ok"))})])
    message = batch.entries[0].message
    assert isinstance(message, UsageEvent)
    assert (message.conversation, message.message) == ("ab", "ok")


def test_a_reason_holds_what_a_row_can() -> None:
    """What an entry says of its kind comes back in the decoder's words: without U+0000 and the like, and not whole."""
    long = b'{"kind":"%s"}' % (b"x" * 10_000)
    batch = unpack([(b"1-0", {b"d": b'{"kind":"a\\u0000b\\u001b[2J"}'}), (b"2-0", {b"d": long})])
    odd, cut = (one.reason for one in batch.unreadable)
    assert "a\N{REPLACEMENT CHARACTER}b" in odd
    assert odd.isprintable()
    assert len(cut) == REASON_LENGTH_MAX


def test_entry_ids_are_ordered_as_numbers() -> None:
    """`9-0` comes before `10-0`, and `1-9` before `1-10`."""
    assert max(["9-0", "10-0"], key=stream_order) == "10-0"
    assert max(["1-10", "1-9"], key=stream_order) == "1-10"


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DeadlockDetectedError(),
        asyncpg.SerializationError(),
        asyncpg.ReadOnlySQLTransactionError(),
        asyncpg.AdminShutdownError(),
        asyncpg.TooManyConnectionsError(),
        asyncpg.LockNotAvailableError(),
        asyncpg.QueryCanceledError(),
        asyncpg.DiskFullError(),
        asyncpg.InsufficientPrivilegeError(),
        asyncpg.ConnectionDoesNotExistError(),
        asyncpg.InterfaceError("connection is closed"),
        ConnectionRefusedError(),
        TimeoutError(),
        RedisConnectionError(),
        ResponseError("OOM command not allowed when used memory > 'maxmemory'."),
    ],
)
def test_faults_of_the_servers_pass(error: Exception) -> None:
    """What the servers lack is waited for: no entry is set aside for it."""
    assert passing(error)
    assert not is_data_fault(error)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.NumericValueOutOfRangeError(),
        asyncpg.CharacterNotInRepertoireError(),
        asyncpg.CheckViolationError(),
        asyncpg.UniqueViolationError(),
        asyncpg.ForeignKeyViolationError(),
        OverflowError(),
        ValueError(),
        AssertionError(),
    ],
)
def test_faults_of_the_rows_do_not_pass(error: Exception) -> None:
    """What lies in the rows is the same at the next try: the batch is taken apart."""
    assert is_data_fault(error)
    assert not passing(error)


def test_faults_of_the_program_are_neither() -> None:
    """A fault that nobody thought of ends the meter instead of being waited for, or blamed on an entry."""
    assert not passing(AttributeError())
    assert not is_data_fault(AttributeError())


def test_waits_double_up_to_a_limit_with_full_jitter() -> None:
    """The wait is any part of a limit that doubles with each failure and ends at DELAY_MAX_S."""
    assert delay_s(0, 1.0) == DELAY_FIRST_S
    assert delay_s(1, 1.0) == 2 * DELAY_FIRST_S
    assert delay_s(1_000, 1.0) == DELAY_MAX_S
    assert delay_s(5, 0.0) == 0


def test_statements_have_a_parameter_for_every_place() -> None:
    """No statement skips a number: a parameter that was taken out cannot shift the others."""
    for name, statement in QUERIES.items():
        numbers = {int(number) for number in re.findall(r"\$(\d+)", statement)}
        assert numbers == set(range(1, len(numbers) + 1)), name
